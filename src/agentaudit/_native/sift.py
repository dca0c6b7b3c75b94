"""What masking does to every byte: tell that nothing can be there, blank framing, rewrite rows.

This runs where `sift.pyx`, of the same name, was not compiled; see `raw.py`. Messages are those of
PostgreSQL's protocol 3, whole ones, one behind the other.

Framing is blanked because it would lie to a pattern: a length's last byte may be a letter, and a
word that begins behind it begins nowhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from agentaudit._native.raw import int32_at, uint16_at

_INT32: Final = struct.Struct("!i")
_SEPARATORS: Final = b" -./"
_HEX: Final = frozenset(b"0123456789abcdefABCDEF.")

Change = bytes | Callable[[bytes], bytes | None] | None
"""What a column's values become: as they are (None), always the same, or what a call returns, and
there None is NULL."""

AS_NULL: Final = b"\0NULL"
"""Stands among changes for NULL, which no value is spelt as."""


class Sieve:
    """Tells which bytes cannot hold what is looked for, so that they are looked at no closer.

    What is looked for has one of the `anchors` in it, in lower case ASCII and of two bytes at
    least, in any case; or so many `digits` with at most one of ` -./` between two; or a run of hex
    digits and dots with so many `colons`. 0 is none.
    """

    def __init__(self, anchors: Sequence[bytes], digits: int, colons: int) -> None:
        if any(len(anchor) < 2 for anchor in anchors):
            raise ValueError("an anchor has two bytes at least")
        self._anchors = tuple(anchors)
        self._digits = digits
        self._colons = colons

    def may_hold(self, data: bytes) -> bool:
        """Return whether what is looked for may be in `data`."""
        lower = data.lower()
        if any(anchor in lower for anchor in self._anchors):
            return True
        return bool(self._digits or self._colons) and self._has_numbers(data)

    def _has_numbers(self, data: bytes) -> bool:
        digits = colons = 0
        before = 0
        for byte in data:
            if 48 <= byte <= 57:
                digits += 1
                if digits == self._digits:
                    return True
            elif byte not in _SEPARATORS or before in _SEPARATORS:
                digits = 0
            if byte == 58:
                colons += 1
                if colons == self._colons:
                    return True
            elif byte not in _HEX:
                colons = 0
            before = byte
        return False


def blank(data: bytes, from_target: bool) -> bytes:
    """Return whole messages with NULs where they have no text or value.

    Raises:
        ValueError: they are not whole, or not what they say.
    """
    made = bytearray(data)
    at = 0
    while at < len(data):
        stop = _stop(data, at)
        kind = data[at]
        made[at : at + 5] = bytes(5)
        begin = at + 5
        if kind == 0x44 and from_target:  # DataRow
            _blank_values(data, made, begin + 2, uint16_at(data, begin), stop)
            made[begin : begin + 2] = bytes(2)
        elif kind == 0x42 and not from_target:  # Bind
            _blank_bind(data, made, begin, stop)
        elif kind == 0x41 and from_target:  # NotificationResponse
            made[begin : begin + 4] = bytes(min(4, stop - begin))
        elif kind in b"EN" and from_target:  # ErrorResponse, NoticeResponse
            while begin < stop and data[begin]:
                made[begin] = 0
                begin = data.find(b"\0", begin, stop) + 1 or stop
        elif kind in b"DC" and not from_target:  # Describe, Close
            made[begin : begin + 1] = bytes(min(1, stop - begin))
        at = stop
    return bytes(made)


def _stop(data: bytes, at: int) -> int:
    if len(data) - at < 5:
        raise ValueError("message")
    length = int32_at(data, at + 1)
    if length < 4 or length > len(data) - at - 1:
        raise ValueError("message")
    return at + 1 + length


def _blank_values(data: bytes, made: bytearray, at: int, count: int, stop: int) -> int:
    for _ in range(count):
        if stop - at < 4:
            raise ValueError("values")
        length = int32_at(data, at)
        made[at : at + 4] = bytes(4)
        at += 4
        if length > stop - at:
            raise ValueError("values")
        at += max(0, length)
    return at


def _blank_bind(data: bytes, made: bytearray, at: int, stop: int) -> None:
    at, count = _bind_values(data, at, stop)
    made[at - 2 : at] = bytes(2)
    at = _blank_values(data, made, at, count, stop)
    made[at:stop] = bytes(stop - at)


def _bind_values(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return where a Bind's first value is, and how many there are."""
    for _ in range(2):
        at = data.find(b"\0", at, stop) + 1
        if not at:
            raise ValueError("Bind")
    if stop - at < 2:
        raise ValueError("Bind")
    at += 2 + 2 * uint16_at(data, at)
    if stop - at < 2:
        raise ValueError("Bind")
    return at + 2, uint16_at(data, at)


def place(data: bytes, from_target: bool, message: int, where: int) -> tuple[int, int, int, int]:
    """Return what is at `where`, in the message that begins at `message` or in one behind it.

    Where that message begins, the number of its value, -1 outside of values, and where that begins
    and ends, or the message does.

    Raises:
        ValueError: there is no such place.
    """
    while where >= (stop := _stop(data, message)):
        message = stop
    begin = message + 5
    kind = data[message]
    if kind == 0x44 and from_target:
        at, count = begin + 2, uint16_at(data, begin)
    elif kind == 0x42 and not from_target:
        at, count = _bind_values(data, begin, stop)
    else:
        return message, -1, begin, stop
    for number in range(count):
        length = max(0, int32_at(data, at))
        at += 4
        if at <= where < at + length:
            return message, number, at, at + length
        at += length
    return message, -1, begin, stop


def change_rows(
    data: bytes, changes: Sequence[Change], otherwise: Change
) -> tuple[bytes, list[int]]:
    """Return a run of whole messages with the values of its DataRows changed, column by column.

    A row with another number of values than there are `changes` becomes `otherwise` in all of
    them. NULL stays NULL. Also returned: how many bytes of each column were changed, and at the end
    of how many of no column in particular.

    Raises:
        ValueError: the messages are not whole, or not what they say.
    """
    parts: list[bytes] = []
    hidden = [0] * (len(changes) + 1)
    at = 0
    while at < len(data):
        stop = _stop(data, at)
        if data[at] != 0x44:
            parts.append(data[at:stop])
            at = stop
            continue
        count = uint16_at(data, at + 5)
        values = []
        place = at + 7
        for number in range(count):
            if stop - place < 4:
                raise ValueError("values")
            length = int32_at(data, place)
            place += 4
            if length < 0:
                values.append(_INT32.pack(-1))
                continue
            if length > stop - place:
                raise ValueError("values")
            value = data[place : place + length]
            place += length
            fits = count == len(changes)
            change = changes[number] if fits else otherwise
            made: bytes | None = value
            if isinstance(change, bytes):
                made = None if change is AS_NULL else change
            elif change is not None:
                made = change(value)
            if made is not value:
                hidden[number if fits else -1] += length
            values.append(_INT32.pack(-1) if made is None else _INT32.pack(len(made)) + made)
        if place != stop:
            raise ValueError("values")
        body = data[at + 5 : at + 7] + b"".join(values)
        parts.append(b"D" + _INT32.pack(len(body) + 4) + body)
        at = stop
    return b"".join(parts), hidden


def copied(data: bytes) -> tuple[bytes, int]:
    """Return the bodies of the CopyData messages that whole messages begin with, and where they end.

    Raises:
        ValueError: they are not whole.
    """
    bodies = []
    at = 0
    while at < len(data) and data[at] == 0x64:
        stop = _stop(data, at)
        bodies.append(data[at + 5 : stop])
        at = stop
    return b"".join(bodies), at
