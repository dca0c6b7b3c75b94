"""What the data path does a few times for every message: read a number, cut, frame, spell a row.

This runs where `raw.pyx`, of the same name, was not compiled; else Python finds that one first, and
compiled modules call it without a detour. A function here says what it means for both.
"""

from __future__ import annotations

import struct
from zlib import crc32

_FIXED = struct.Struct(">QqQ16sIiHHiQQ")
_HEAD = struct.Struct(">16sII")
_U32 = struct.Struct(">I")
_NULL_LENGTH = 0xFFFFFFFF
_MAX_FRAME_BYTES = 64 << 20


# --- numbers and slices


def uint16_at(data: bytes, at: int) -> int:
    """Return the unsigned number of two bytes at `at`.

    Raises:
        IndexError: `data` ends before.
    """
    if at < 0:
        raise IndexError
    return data[at] << 8 | data[at + 1]


def int32_at(data: bytes, at: int) -> int:
    """Return the signed number of four bytes at `at`.

    Raises:
        IndexError: `data` ends before.
    """
    if at < 0:
        raise IndexError
    value = data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]
    return value if value < 0x8000_0000 else value - 0x1_0000_0000


def nul_at(data: bytes, start: int) -> int:
    """Return where the first NUL from `start` on is, -1 if there is none."""
    return data.find(b"\0", start) if start >= 0 else -1


def cut(data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes from `start` up to `stop`.

    Raises:
        IndexError: `data` does not have them.
    """
    if not 0 <= start <= stop <= len(data):
        raise IndexError
    return data[start:stop]


# --- the journal


def frame(
    marker: bytes,
    event_no: int,
    observed_us: int,
    mono_ns: int,
    session_id: bytes,
    seq: int,
    command_no: int,
    kind: int,
    flags: int,
    status: int,
    orig_len: int,
    text: bytes | None,
    payload: bytes | None,
    extra: bytes,
) -> bytes:
    """Return a journal's frame of one event.

    Raises:
        ValueError, OverflowError: a value that its field does not hold, or over 64 MiB.
    """
    stored_len = 0 if payload is None else len(payload)
    if len(marker) != 16 or len(session_id) != 16:
        raise ValueError("frame")
    try:
        fixed = _FIXED.pack(
            event_no,
            observed_us,
            mono_ns,
            session_id,
            seq,
            command_no,
            kind,
            flags,
            status,
            orig_len,
            stored_len,
        )
    except struct.error:
        raise ValueError("frame") from None
    parts = (fixed, *_part(text), *_part(payload), *_part(extra))
    body = b"".join(parts)
    if len(body) > _MAX_FRAME_BYTES:
        raise ValueError("frame")
    return _HEAD.pack(marker, len(body), crc32(body)) + body


def _part(part: bytes | None) -> tuple[bytes, bytes]:
    return _U32.pack(_NULL_LENGTH if part is None else len(part)), part or b""


# --- canonical JSON


class Members:
    """An object as canonical JSON, member by member, sorted.

    `name` is all that stands before the value: `{"a":` for the first, `,"b":` for the next. This
    one leaves the whole of it to a whole encoder.
    """

    def begin(self) -> None:
        """Begin a new object."""

    def number(self, name: bytes, value: int) -> None:
        """Add an integer."""

    def integer(self, name: bytes, value: int) -> None:
        """Add an integer of 64 bits."""

    def text(self, name: bytes, value: str) -> None:
        """Add a string."""

    def texts(self, name: bytes, values: tuple[str | None, ...]) -> None:
        """Add a list of strings and nulls."""

    def end(self) -> bytes | None:
        """Return the object, None where a value takes a whole encoder to say what becomes of it."""
        return None
