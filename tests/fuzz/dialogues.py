"""A dialogue as bytes, and bytes as a dialogue: what a fuzzer changes and what is recorded.

A turn is one byte for who speaks, two for how much (little end first), and so many bytes of it.
Whatever stands there reads as some dialogue: what is missing at the end is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from agentaudit.model import Side

CORPUS = Path(__file__).parent / "corpus"
MAX_TURN_BYTES = 0xFFFF

Turn = tuple[Side, bytes]


def encode(turns: Iterable[Turn]) -> bytes:
    """Return `turns` as bytes; long ones become several."""
    out = b""
    for side, said in turns:
        for at in range(0, len(said), MAX_TURN_BYTES):
            piece = said[at : at + MAX_TURN_BYTES]
            out += struct.pack("<BH", side is Side.TARGET, len(piece)) + piece
    return out


def decode(data: bytes) -> list[Turn]:
    """Return the turns in `data`; the lowest bit of its first byte says who speaks."""
    turns: list[Turn] = []
    at = 0
    while at + 3 <= len(data):
        who, size = struct.unpack_from("<BH", data, at)
        turns.append((Side.TARGET if who & 1 else Side.CLIENT, data[at + 3 : at + 3 + size]))
        at += 3 + size
    return turns


def corpus() -> list[bytes]:
    """Return the recorded dialogues."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.dialogue"))]
