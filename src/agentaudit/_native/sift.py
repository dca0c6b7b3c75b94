"""What masking does to every byte: tell that nothing can be there, blank framing, rewrite rows.

This runs where `sift.pyx`, of the same name, was not compiled; see `raw.py`. Messages are those of
PostgreSQL's protocol 3, whole ones, one behind the other.

Framing is blanked because it would lie to a pattern: a length's last byte may be a letter, and a
word that begins behind it begins nowhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from agentaudit._native.raw import int32_at, uint16_at

_INT32: Final = struct.Struct("!i")
_NUMBER: Final = re.compile(rb"[0-9](?:[ ./()+-]{0,2}[0-9])*")
_DATE: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?=[ T][0-9]{2}:)")
_SECONDS: Final = re.compile(rb"[0-9]{2}\.[0-9]{1,6}(?:[+-][0-9]{2})?")
_BEFORE: Final = re.compile(rb"(?:[A-Z+]|[A-Z]-)\Z")
_FAR_BEFORE: Final = re.compile(rb"[A-Z] \Z")
_BEHIND: Final = re.compile(rb"[A-Z+]|[ -][A-Z]")
_WORD_BEFORE: Final = re.compile(rb"(?!\\u.{4}).{0,2}[^\0-\x1f].[^\\][a-z_]", re.DOTALL)
_WORD_BEHIND: Final = re.compile(rb"[a-z_][^\0-\x1f]")
_COLONS: Final = re.compile(rb"[0-9A-Fa-f:]+")
_TWO_COLONS: Final = re.compile(rb"[0-9A-Fa-f]::|::[0-9A-Fa-f]")
_LETTERS: Final = re.compile(rb"[0-9A-Z]+")
_THREE_LETTERS: Final = re.compile(rb"[A-Z]{3}")
_NEAR: Final = 256
"""Bytes up to which two values are near to each other: one search costs less than two."""

Change = bytes | Callable[[bytes], bytes | None] | None
"""What a column's values become: as they are (None), always the same, or what a call returns, and
there None is NULL."""

AS_NULL: Final = b"\0NULL"
"""Stands among changes for NULL, which no value is spelt as."""


class Sieve:
    """Tells which bytes cannot hold what is looked for, so that they are looked at no closer.

    What is looked for has one of these in it, where 0 is none:

    - one of `anchors`, of two bytes at least, a letter in lower case being found in either case;
    - a number, with at most two of ` ./()+-` between two digits: of `bare` digits, and where it has
      nothing but these, it is no part of a word in lower case; of `beside`, and beside it stands an
      upper-case letter, with a `-` or a space between or none, or `+`; of `spaced` digits with such
      a sign among them that is not one dot alone; or with so many `dots`;
    - a run of hex digits and colons with so many of these, or with two side by side;
    - a run of so many upper-case `letters` and digits, with three letters side by side.

    How the end of a line is written in JSON is no part of a word. A date before a time, and the
    seconds of a time, are no such numbers. Bytes that frame a value, such as its length, only ever
    let more through.

    Raises:
        ValueError: an anchor, or a least number of digits or dots, is too short to be found.
    """

    def __init__(
        self,
        anchors: Sequence[bytes],
        bare: int = 0,
        beside: int = 0,
        spaced: int = 0,
        dots: int = 0,
        colons: int = 0,
        letters: int = 0,
    ) -> None:
        if any(len(anchor) < 2 for anchor in anchors):
            raise ValueError("an anchor has two bytes at least")
        if any(0 < least < 6 for least in (bare, beside, spaced)) or 0 < dots < 3:
            raise ValueError("a number has six digits or three dots at least")
        self._anchors = re.compile(b"|".join(map(_any_case, anchors)) if anchors else rb"(?!)")
        self._bare = bare
        self._beside = beside
        self._spaced = spaced
        self._dots = dots
        self._colons = colons
        self._letters = letters

    def may_hold(self, data: bytes) -> bool:
        """Return whether what is looked for may be in `data`."""
        return (
            self._anchors.search(data) is not None
            or self._has_number(data)
            or any(map(self._is_address, _COLONS.findall(data)))
            or any(map(self._is_code, _LETTERS.findall(data)))
        )

    def suspects(self, data: bytes) -> list[tuple[int, int]]:
        """Return where in `data`, which has NULs between values, those are that may hold it.

        Those that are near to each other are told as one stretch.
        """
        told: list[tuple[int, int]] = []
        start = 0
        for value in data.split(b"\0"):
            stop = start + len(value)
            if self.may_hold(value):
                near = told and start - told[-1][1] <= _NEAR
                told.append((told.pop()[0] if near else start, stop))
            start = stop + 1
        return told

    def _has_number(self, data: bytes) -> bool:
        at = 0
        while (found := _NUMBER.search(data, at)) is not None:
            start, at = found.span()
            is_beside = _BEFORE.search(data, max(0, start - 2), start) is not None
            if not is_beside and (date := _DATE.match(data, start)) is not None:
                at = date.end()
                continue
            if data[start - 1 : start] == b":" and _SECONDS.fullmatch(found[0]) is not None:
                continue
            is_beside = (
                is_beside
                or _FAR_BEFORE.search(data, max(0, start - 2), start) is not None
                or _BEHIND.match(data, at) is not None
            )
            is_word = found[0].isdigit() and (
                _WORD_BEFORE.fullmatch(data[max(0, start - 6) : start]) is not None
                or _WORD_BEHIND.match(data, at) is not None
            )
            if self._is_number(found[0], is_beside=is_beside, is_word=is_word):
                return True
        return False

    def _is_number(self, run: bytes, *, is_beside: bool, is_word: bool) -> bool:
        digits = sum(48 <= byte <= 57 for byte in run)
        dots = run.count(b".")
        is_spaced = len(run) > digits + dots or dots > 1
        return (
            (0 < self._bare <= digits and not is_word)
            or (is_beside and 0 < self._beside <= digits)
            or (is_spaced and 0 < self._spaced <= digits)
            or 0 < self._dots <= dots
        )

    def _is_address(self, run: bytes) -> bool:
        return self._colons > 0 and (
            run.count(b":") >= self._colons or _TWO_COLONS.search(run) is not None
        )

    def _is_code(self, run: bytes) -> bool:
        return 0 < self._letters <= len(run) and _THREE_LETTERS.search(run) is not None


def _any_case(anchor: bytes) -> bytes:
    return b"".join(
        b"[%c%c]" % (byte, byte - 32) if 97 <= byte <= 122 else re.escape(b"%c" % byte)
        for byte in anchor
    )


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
    begin = _after_names(data, at, stop)
    at, count = _bind_values(data, at, stop)
    made[begin:at] = bytes(at - begin)
    at = _blank_values(data, made, at, count, stop)
    made[at:stop] = bytes(stop - at)


def _after_names(data: bytes, at: int, stop: int) -> int:
    for _ in range(2):
        at = data.find(b"\0", at, stop) + 1
        if not at:
            raise ValueError("Bind")
    return at


def _bind_values(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return where a Bind's first value is, and how many there are."""
    at = _after_names(data, at, stop)
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
                made = None if change == AS_NULL else change
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
    """Return the bodies of the CopyData messages at the beginning of `data`, and where they end.

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
