"""Made-up rows of about 100 bytes, as the messages that carry them.

Format: postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import md5

BLOCK_ROWS = 200_000
"""Rows that are made once and then sent again and again: 20 MB, more than a compressor sees."""

_COPY_BYTES = 8192
"""How much a CopyData message of a client holds, as psql's do (src/bin/psql/copy.c)."""


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of the protocol."""
    return b"%s%s%s" % (kind, struct.pack(">I", len(body) + 4), body)


def copy_block(rows: int = BLOCK_ROWS) -> bytes:
    """Return rows as CopyData messages, text format, each as full as psql makes them."""
    data = b"".join(b"%s\t%s\n" % columns for columns in _values(rows))
    parts = range(0, len(data), _COPY_BYTES)
    return b"".join(message(b"d", data[at : at + _COPY_BYTES]) for at in parts)


def row_block(rows: int = BLOCK_ROWS) -> bytes:
    """Return rows as DataRow messages, text format."""
    length = struct.Struct(">I").pack
    return b"".join(
        message(b"D", b"\0\2%s%s%s%s" % (length(len(one)), one, length(len(other)), other))
        for one, other in _values(rows)
    )


def _values(rows: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield a number, and 80 characters of hexadecimal, which compress by half."""
    for number in range(rows):
        digest = md5(b"%d" % number, usedforsecurity=False).hexdigest().encode()
        yield b"%d" % number, digest + digest[:16] + digest[::-1]
