"""Identifiers: UUIDv7, so that ids sort by time and Parquet statistics prune by them."""

from __future__ import annotations

import os
from uuid import UUID


def uuid7(unix_us: int) -> UUID:
    """Return a UUIDv7 of `unix_us`, microseconds since 1970; 74 bits of it are random.

    Source: RFC 9562, section 5.7.
    """
    milliseconds = unix_us // 1000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= (random >> 68) << 64
    value |= 0b10 << 62
    value |= random & ((1 << 62) - 1)
    return UUID(int=value)
