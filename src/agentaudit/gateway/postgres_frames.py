"""PostgreSQL's messages with some of their texts and values replaced; lengths are set right.

What is to be replaced is said by the caller; here is what a message has in it. Frames are whole
messages one behind the other, as a conversation has let them through.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from agentaudit._native import sift
from agentaudit._native.raw import int32_at
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import Masks
from agentaudit.masking.scan import Found
from agentaudit.model import Span
from agentaudit.protocols import postgres_messages as messages

TEXT: Final = 25
"""The type `text`, as which a masked column is told."""

INLINE: Final = frozenset([18, 19, 25, 114, 142, 705, 1042, 1043, 3802, 4072])
"""char, name, text, json, xml, unknown, bpchar, varchar, jsonb, jsonpath: what is left of a value
when a part of it is another text is one still, in either format."""

_ARRAYS: Final = frozenset([143, 199, 1002, 1003, 1009, 1014, 1015, 3807])
_INLINE_AS_TEXT: Final = INLINE | _ARRAYS | {17}
"""bytea and arrays of those: so too, as text."""

_FIRST_OWN_TYPE: Final = 16384
_JSON: Final = frozenset({114, 3802})
_INT32: Final = struct.Struct("!i")
_COLUMN: Final = struct.Struct("!IhIhih")


@dataclass(slots=True)
class Masked:
    """A frame after masking, and what of it is hidden; `shifts` is what `moved` takes."""

    frame: bytes
    spans: list[Span]
    shifts: list[tuple[int, int]]


def moved(spans: Sequence[Span], shifts: Sequence[tuple[int, int]]) -> list[Span]:
    """Return spans where they are after more was replaced.

    `shifts` has, in order, where each of those stretches ended before and by how many bytes it has
    grown.
    """
    ends = [end for end, _ in shifts]
    grown = [0, *accumulate(by for _, by in shifts)]
    return [
        replace(span, offset=span.offset + grown[bisect_right(ends, span.offset)])
        if span.place == "payload"
        else span
        for span in spans
    ]


def parts(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the type of each message, and where it begins and ends."""
    at = 0
    while at < len(frame):
        stop = at + 1 + int32_at(frame, at + 1)
        yield frame[at], at, stop
        at = stop


def framed(kind: int, body: bytes) -> bytes:
    """Return a message."""
    return bytes([kind]) + _INT32.pack(len(body) + 4) + body


def may_be_text(value: bytes, oid: int, is_binary: bool) -> bool:
    """Return whether a part of a value can be replaced and it is one of its type still."""
    if not is_binary:
        return oid in _INLINE_AS_TEXT or oid >= _FIRST_OWN_TYPE or oid == 0
    if oid in INLINE:
        return True
    if oid and oid < _FIRST_OWN_TYPE:
        return False
    # A type that nobody here knows: what it has can be read, or it has not.
    return (value.isascii() and b"\0" not in value) or _is_utf8(value)


def _is_utf8(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def inline(masks: Masks, value: bytes, oid: int, found: Sequence[Found]) -> bytes:
    """Return a value with what was `found` in it replaced, and JSON that is JSON still."""
    made = masks.replaced(value, found)
    if oid in _JSON:
        head = 1 if value[:1] == b"\1" else 0  # of jsonb in binary, its version
        if not masks.is_json(made[head:]) and masks.is_json(value[head:]):
            quoted = masks.replaced(value, found, quote=b'"')
            if masks.is_json(quoted[head:]):
                return quoted
            return value[:head] + b'"[masked]"'
    if oid in _ARRAYS and value.startswith(b"{"):
        hidden = b"".join(value[each.start : each.stop] for each in found)
        if any(sign in hidden for sign in b'"\\{},'):
            # A part of how the array is written went with it.
            return b"{" + mark(found[0].what) + b"}"
    return made


class Splicer:
    """A frame in the making: pieces of the old one, and what is new between them."""

    __slots__ = ("_at", "_frame", "_header", "_message", "_out", "shifts", "spans")

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._out = bytearray()
        self._at = 0
        self._message = -1
        self._header = 0
        self.spans: list[Span] = []
        self.shifts: list[tuple[int, int]] = []

    def enter(self, message: int) -> None:
        """Go on with the message that begins at `message`."""
        if message == self._message:
            return
        self._settle()
        self._out += self._frame[self._at : message]
        self._at = message
        self._message = message
        self._header = len(self._out)

    def put(self, start: int, stop: int, new: bytes) -> int:
        """Let `new` stand for what is from `start` to `stop`; return where it stands."""
        self._out += self._frame[self._at : start]
        at = len(self._out)
        self._out += new
        self._at = stop
        self.shifts.append((stop, len(new) - (stop - start)))
        return at

    def put_value(self, start: int, stop: int, new: bytes | None) -> int:
        """Let `new` stand for a value, its length before it; return where it stands."""
        length = -1 if new is None else len(new)
        self._out += self._frame[self._at : start - 4] + _INT32.pack(length)
        at = len(self._out)
        self._out += new or b""
        self._at = stop
        self.shifts.append((stop, len(new or b"") - (stop - start)))
        return at

    def _settle(self) -> None:
        """Set the length of the message right that is being left."""
        if self._message < 0:
            return
        stop = self._message + 1 + int32_at(self._frame, self._message + 1)
        self._out += self._frame[self._at : stop]
        self._at = stop
        _INT32.pack_into(self._out, self._header + 1, len(self._out) - self._header - 1)

    def frame(self) -> bytes:
        """Return the whole."""
        self._settle()
        self._message = -1
        return bytes(self._out + self._frame[self._at :])


def hide_found(
    frame: bytes,
    masks: Masks,
    *,
    from_target: bool,
    type_of: Callable[[int, int], tuple[int, bool]],
) -> Masked | None:
    """Return `frame` without what patterns find anywhere in it, None where that is nothing.

    `type_of` says, of the message that begins at a place and a value's number in it, which type it
    is of, and whether in binary.
    """
    segments = masks.scanner.segments(sift.blank(frame, from_target))
    if not segments:
        return None
    splicer = Splicer(frame)
    message = 0
    done = -1
    for segment in segments:
        if segment.start < done:
            continue  # of a value that was replaced as a whole
        message, number, start, stop = sift.place(frame, from_target, message, segment.start)
        splicer.enter(message)
        if number < 0:
            _hide_inline(splicer, frame, masks, segment.start, segment.stop, segment.found)
            continue
        oid, is_binary = type_of(message, number)
        value = frame[start:stop]
        found = [
            Found(f.start + segment.start - start, f.stop + segment.start - start, f.rule, f.what)
            for f in segment.found
        ]
        if not may_be_text(value, oid, is_binary):
            first = segment.found[0]
            splicer.put_value(start, stop, None)
            splicer.spans.append(Span(first.rule, "column", number, stop - start))
            done = stop
            continue
        if segment.stop < stop:
            # NULs in it, or more than one segment: looked at once more, as a whole.
            found = masks.scanner.find(value) or found
            done = stop
        made = inline(masks, value, oid, found)
        at = splicer.put_value(start, stop, made)
        note(splicer.spans, masks, at, value, found)
        done = stop
    return Masked(splicer.frame(), splicer.spans, splicer.shifts)


def _hide_inline(
    splicer: Splicer, frame: bytes, masks: Masks, start: int, stop: int, found: Sequence[Found]
) -> None:
    at = splicer.put(start, stop, masks.replaced(frame[start:stop], found))
    note(splicer.spans, masks, at, frame[start:stop], found)


def note(spans: list[Span], masks: Masks, at: int, value: bytes, found: Sequence[Found]) -> None:
    """Note the spans of what was `found` in `value`, which begins at `at` now."""
    shift = 0
    for each in found:
        hidden = value[each.start : each.stop]
        spans.append(Span(each.rule, "payload", at + each.start + shift, len(hidden)))
        shift += len(masks.rules[each.rule].inline(hidden, each.what)) - len(hidden)


def row_description(body: bytes, rules: Sequence[str]) -> bytes:
    """Return a RowDescription's body with the columns that a rule hides told as text."""
    out = bytearray(body[:2])
    at = 2
    for rule in rules:
        end = body.index(0, at) + 1
        out += body[at:end]
        if rule:
            table, number, _, _, _, form = _COLUMN.unpack_from(body, end)
            out += _COLUMN.pack(table, number, TEXT, -1, -1, form)
        else:
            out += body[end : end + _COLUMN.size]
        at = end + _COLUMN.size
    return bytes(out) + body[at:]


def bind(
    body: bytes,
    change: Callable[[int, bytes, int], tuple[bytes | None, bool]],
    names: Callable[[bytes], bytes],
) -> bytes:
    """Return a Bind's body with its values as `change` makes them of number, value and format.

    It returns a value, and whether that is told as text whatever it was.
    """
    old = messages.decode_bind(body)
    formats = list(old.formats)
    if len(formats) <= 1:
        formats = (formats or [0]) * len(old.values)
    values = list(old.values)
    for number, value in enumerate(old.values):
        if value is None:
            continue
        values[number], is_text = change(number, value, formats[number])
        if is_text:
            formats[number] = 0
    if not any(formats):
        formats = []
    out = bytearray()
    out += names(old.portal) + b"\0" + names(old.statement) + b"\0"
    out += struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    out += struct.pack("!H", len(values))
    for value in values:
        out += _INT32.pack(-1) if value is None else _INT32.pack(len(value)) + value
    results = old.result_formats
    return bytes(out) + struct.pack(f"!H{len(results)}h", len(results), *results)


_SAID: Final = frozenset(b"MDHWqstcdn")
"""What an error says in words, and the names of what it is about: a function may say anything."""


def report(body: bytes, hidden: bytes, kept: bytes) -> bytes:
    """Return the body of an ErrorResponse or NoticeResponse without what may quote values.

    Fields of the types `kept` stay.
    """
    fields = []
    for each in body.split(b"\0"):
        if each:
            stays = each[0] not in _SAID or each[0] in kept
            fields.append(each if stays else each[:1] + hidden)
    return b"".join(each + b"\0" for each in fields) + b"\0"
