"""The leaf of an event: fixed width, salted, nothing ambiguous.

Text and payload enter as commitments under keys of their session, so either can be disclosed
alone, or purged alone, and what remains cannot be guessed back.

Format: docs/formats/archive.md, "Leaf"
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from agentaudit.archive import canonical
from agentaudit.archive.batch import Entry

LEAF_TAG = b"AA1\0"
ABSENT = bytes(32)


def salt(key: bytes, seq: int) -> bytes:
    """Return the 16-byte salt of event `seq` under a session's 32-byte key."""
    return sha256(b"AA1salt" + key + seq.to_bytes(8)).digest()[:16]


def text_commit(key_t: bytes, seq: int, text: bytes | None) -> bytes:
    """Return the 32-byte commitment to an event's text; zero bytes where there is none."""
    return ABSENT if text is None else sha256(b"AA1t" + salt(key_t, seq) + text).digest()


def payload_commit(key_p: bytes, seq: int, payload: bytes | None) -> bytes:
    """Return the 32-byte commitment to an event's whole payload; zero bytes where there is none."""
    return ABSENT if payload is None else salted_payload_commit(salt(key_p, seq), payload)


def salted_payload_commit(salt_p: bytes, payload: bytes) -> bytes:
    """Return the 32-byte commitment to a payload whose salt is kept and whose key is not."""
    return sha256(b"AA1p" + salt_p + payload).digest()


def spans_digest(spans: Sequence[dict[str, Any]]) -> bytes:
    """Return SHA-256 of the masked spans' canonical JSON; zero bytes where there are none."""
    return sha256(canonical.encode(spans)).digest() if spans else ABSENT


def event_leaf(entry: Entry, key_m: bytes, text: bytes, payload: bytes) -> bytes:
    """Return the 32-byte leaf hash of `entry`; `text` and `payload` are their commitments."""
    spans = entry.extra.get("spans") if entry.extra else None
    return sha256(
        b"\x00"
        + LEAF_TAG
        + entry.fixed
        + salt(key_m, entry.seq)
        + text
        + payload
        + (spans_digest(spans) if spans else ABSENT)
    ).digest()
