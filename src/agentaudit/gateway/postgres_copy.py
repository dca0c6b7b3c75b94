"""What a COPY moves, masked: columns where its statement says which they are, and patterns.

A server sends a row in a message; a client cuts its rows wherever it likes. So what is recorded of
a COPY is cut anew, at the ends of rows, and a row that is not whole yet is withheld.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from agentaudit._native import sift
from agentaudit._native.raw import int32_at
from agentaudit.gateway.postgres_frames import framed, note
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import Masks
from agentaudit.masking.stream import Hidden, Stream
from agentaudit.model import Event, Flag, Kind, Side, Span, Step
from agentaudit.risk.lineage import CopyFormat, Lineage

_COPY_DATA: Final = ord("d")
_ENDS: Final = frozenset(b"cfCEZS")
"""What no CopyData of the same COPY comes behind; a client's Sync ends one that has failed."""
_ROW_END: Final = re.compile(rb"[\r\n]")
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
"""What COPY's binary format begins with."""
_INT16: Final = struct.Struct("!h")
_INT32: Final = struct.Struct("!i")

MAX_ROW_BYTES: Final = 1024 * 1024
"""A longer row is hidden as a whole where a rule is about its columns."""


class CopyMask:
    """One COPY, one way. `everything` is the rule that hides all of it where its columns are not known."""

    def __init__(self, masks: Masks, lineage: Lineage | None, everything: str) -> None:
        self._masks = masks
        self._rows = _rows_of(masks, lineage, everything)
        self._for_client: CopyMask | None = None
        client = masks.for_client
        if client is not None and client is not masks:
            rule = everything if everything in client.rules else ""
            self._for_client = CopyMask(client, lineage, rule)
        self._is_for_client = client is not None
        self._command_no = -1
        self.is_over = False
        """Whether the end of the COPY has been seen."""

    @property
    def pending(self) -> int:
        """How many bytes wait for what comes behind them."""
        return self._rows.pending

    def is_clean(self, payload: bytes) -> bool:
        """Say whether CopyData alone, in whole rows, passes as it is."""
        if self._rows.pending:
            return False
        body, end = sift.copied(payload)
        return end == len(payload) and self._rows.is_clean(body)

    def mask(
        self, step: Step, event: Event, others: Callable[[bytes, Masks], tuple[bytes, list[Span]]]
    ) -> None:
        """Mask the CopyData of `step`; what stands between and behind it is masked by `others`."""
        payload = event.payload
        assert payload is not None
        self._command_no = event.command_no
        before, frame, spans = self._masked(payload, event.command_no, event.side, others)
        if self._is_for_client and event.side is Side.TARGET:
            client = self._for_client
            if client is None:
                step.frame = b"".join([*(each.payload or b"" for each in before), frame])
            else:
                first, second, _ = client._masked(payload, event.command_no, event.side, others)
                step.frame = b"".join([*(each.payload or b"" for each in first), second])
        event.payload = frame
        event.spans += tuple(spans)
        if self._rows.pending:
            event.flags |= Flag.WITHHELD
        if before:
            step.events = (*before, *step.events)

    def _masked(
        self,
        payload: bytes,
        command_no: int,
        side: Side | None,
        others: Callable[[bytes, Masks], tuple[bytes, list[Span]]],
    ) -> tuple[list[Event], bytes, list[Span]]:
        """Return what was withheld before, the frame, and what is hidden in it."""
        before: list[Event] = []
        out = bytearray()
        spans: list[Span] = []
        at = 0
        if self._rows.pending and payload[0] == _COPY_DATA:
            # What a step before withheld ends with the first row of this one.
            body, at = sift.copied(payload)
            first = _ROW_END.search(body)
            cut = len(body) if first is None else first.end()
            made, hidden = self._rows.feed(body[:cut])
            before = self._events(side, made, hidden)
            self._feed(body[cut:], out, spans)
        while at < len(payload):
            body, copied = sift.copied(payload[at:])
            if copied:
                self._feed(body, out, spans)
                at += copied
                continue
            stop = at
            while stop < len(payload) and payload[stop] != _COPY_DATA:
                if payload[stop] in _ENDS:
                    self.is_over = True
                    made, hidden = self._rows.finish()
                    self._put(made, hidden, out, spans)
                stop += 1 + int32_at(payload, stop + 1)
            made, hidden = others(payload[at:stop], self._masks)
            spans += [_moved(span, len(out)) for span in hidden]
            out += made
            at = stop
        return before, bytes(out), spans

    def _feed(self, body: bytes, out: bytearray, spans: list[Span]) -> None:
        made, hidden = self._rows.feed(body)
        self._put(made, hidden, out, spans)

    def _put(self, made: bytes, hidden: list[Span], out: bytearray, spans: list[Span]) -> None:
        spans += [_moved(span, len(out) + 5) for span in hidden]
        if made:
            out += framed(_COPY_DATA, made)

    def flush(self, side: Side) -> list[Event]:
        """Return what was withheld, because it was for long enough."""
        return self._events(side, *self._rows.flush())

    def finish(self, side: Side) -> list[Event]:
        """Return what was withheld: no more comes."""
        return self._events(side, *self._rows.finish())

    def _events(self, side: Side, made: bytes, spans: list[Span]) -> list[Event]:
        return [self._content(side, framed(_COPY_DATA, made), spans)] if made else []

    def _content(self, side: Side | None, payload: bytes, spans: Sequence[Span]) -> Event:
        flags = Flag.FROM_TARGET if side is Side.TARGET else Flag.NONE
        return Event(
            kind=Kind.CONTENT,
            side=side,
            command_no=self._command_no,
            payload=payload,
            flags=flags,
            spans=tuple(_moved(span, 5) for span in spans),
        )


def _moved(span: Span, by: int) -> Span:
    """Return a span of what stands `by` bytes further on."""
    if span.place != "payload":
        return span
    return Span(span.rule, span.place, span.offset + by, span.length)


class _Rows:
    """Rows of one format: fed in pieces, returned masked, whole."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    @property
    def pending(self) -> int:
        raise NotImplementedError

    def is_clean(self, body: bytes) -> bool:
        return False

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        raise NotImplementedError

    def flush(self) -> tuple[bytes, list[Span]]:
        raise NotImplementedError

    def finish(self) -> tuple[bytes, list[Span]]:
        raise NotImplementedError


class _Lines(_Rows):
    """What no rule about columns is about: patterns are looked for line by line."""

    def __init__(self, masks: Masks) -> None:
        super().__init__(masks)
        self._stream = Stream(masks)
        self._is_begun = False

    @property
    def pending(self) -> int:
        return self._stream.pending

    def is_clean(self, body: bytes) -> bool:
        if self._stream.is_in_run or not body.endswith((b"\n", b"\0")):
            return False
        if not self._is_begun:
            if body.startswith(_SIGNATURE):
                return False
            self._is_begun = bool(body)
        return not self._masks.scanner.may_hold(body) or not self._masks.scanner.find(body)

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        if not self._is_begun and data:
            self._is_begun = True
            if data.startswith(_SIGNATURE):
                self._stream = Stream(self._masks, has_lengths=True)
        return _spans(self._stream.feed(data))

    def flush(self) -> tuple[bytes, list[Span]]:
        return _spans(self._stream.flush())

    def finish(self) -> tuple[bytes, list[Span]]:
        return _spans(self._stream.finish())


def _spans(made: tuple[bytes, list[Hidden]]) -> tuple[bytes, list[Span]]:
    return made[0], [Span(h.rule, "payload", h.offset, h.length) for h in made[1]]


class _Nothing(_Rows):
    """All of it is hidden."""

    def __init__(self, masks: Masks, rule: str) -> None:
        super().__init__(masks)
        self._rule = rule
        self._has_said = False

    @property
    def pending(self) -> int:
        return 0

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        if not data:
            return b"", []
        span = [Span(self._rule, "payload", 0, len(data))]
        if self._has_said:
            return b"", span
        self._has_said = True
        return mark(self._rule) + b"\n", span

    flush = finish = lambda self: (b"", [])  # noqa: E731


Change = Callable[[bytes], bytes | None]


class _Columns(_Rows):
    """Rows whose columns are known; a row that has others is hidden as a whole."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks)
        assert lineage.outputs is not None
        self._rules = tuple(rule if rule in masks.rules else "" for rule in lineage.outputs)
        self._whole = lineage.whole if lineage.whole in masks.rules else next(filter(None, self._rules))
        self._form = form
        self._tail = b""
        self._is_first = True
        self._is_swallowing = False

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        data = self._tail + data
        out = bytearray()
        spans: list[Span] = []
        hidden = [0] * (len(self._rules) + 1)
        at = 0
        while at < len(data):
            stop = self._row_end(data, at)
            if stop < 0:
                break
            out += self._row(data[at:stop], hidden)
            at = stop
        self._tail = data[at:]
        if len(self._tail) > MAX_ROW_BYTES:
            hidden[-1] += len(self._tail)
            if not self._is_swallowing:
                out += self._hidden_row()
            self._tail = self._unended()
            self._is_swallowing = True
        spans += [
            Span(self._rules[n] if n < len(self._rules) else self._whole, "column", n, length)
            for n, length in enumerate(hidden)
            if length
        ]
        made, found = self._by_pattern(bytes(out))
        return made, spans + found

    def _by_pattern(self, rows: bytes) -> tuple[bytes, list[Span]]:
        scanner = self._masks.scanner
        if not rows or not scanner.may_hold(rows):
            return rows, []
        found = scanner.find(rows)
        spans: list[Span] = []
        note(spans, self._masks, 0, rows, found)
        return self._masks.replaced(rows, found), spans

    def flush(self) -> tuple[bytes, list[Span]]:
        # Which columns half a row has is not known: it is kept until the rest is there.
        return b"", []

    def finish(self) -> tuple[bytes, list[Span]]:
        tail, self._tail = self._tail, b""
        if not tail or tail == self._unended():
            return b"", []
        hidden = [0] * (len(self._rules) + 1)
        made = self._row(tail, hidden) if self._ends_alone(tail) else self._hidden_row()
        masked, found = self._by_pattern(made)
        return masked, [Span(self._whole, "column", len(self._rules), len(tail)), *found]

    def _change(self, number: int, value: bytes) -> bytes | None:
        return self._masks.rules[self._rules[number]].whole(value)

    # What a format says.

    def _row_end(self, data: bytes, at: int) -> int:
        raise NotImplementedError

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        raise NotImplementedError

    def _hidden_row(self) -> bytes:
        return mark(self._whole) + b"\n"

    def _unended(self) -> bytes:
        return b""

    def _ends_alone(self, tail: bytes) -> bool:
        return False


_ESCAPES: Final = {
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


class _TextRows(_Columns):
    """COPY's own format: a line a row, a backslash before what would be misread."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks, lineage, form)
        self._delimiter = form.delimiter.encode()
        escaped = re.escape(self._delimiter)
        self._field = re.compile(rb"((?:[^\\" + escaped + rb"]|\\.)*)(?:" + escaped + rb"|\Z)", re.DOTALL)

    def _row_end(self, data: bytes, at: int) -> int:
        while True:
            stop = data.find(b"\n", at) + 1
            if not stop:
                return -1
            backslashes = 0
            while stop - 2 - backslashes >= at and data[stop - 2 - backslashes] == 0x5C:
                backslashes += 1
            if backslashes % 2 == 0 or self._is_swallowing:
                return stop
            rest = self._row_end(data, stop)
            return rest

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        if self._is_swallowing:
            self._is_swallowing = False
            hidden[-1] += len(row)
            return b""
        end = len(row) - len(row.rstrip(b"\r\n"))
        line, ending = row[: len(row) - end], row[len(row) - end :]
        if self._is_first:
            self._is_first = False
            if self._form.header:
                return row
        if line == b"\\.":
            return row
        fields = self._fields(line)
        if len(fields) != len(self._rules):
            hidden[-1] += len(row)
            return self._hidden_row()
        null = self._form.null.encode()
        for number, rule in enumerate(self._rules):
            value = fields[number]
            if not rule or value == null:
                continue
            hidden[number] += len(value)
            made = self._change(number, _unescaped(value))
            fields[number] = null if made is None else made
        return self._delimiter.join(fields) + ending

    def _fields(self, line: bytes) -> list[bytes]:
        if b"\\" not in line:
            return line.split(self._delimiter)
        fields = []
        at = 0
        while at <= len(line):
            found = self._field.match(line, at)
            if found is None:
                return []
            fields.append(found[1])
            at = found.end()
            if not line[found.end(1) :].startswith(self._delimiter):
                break
        return fields if at >= len(line) else []

    def _ends_alone(self, tail: bytes) -> bool:
        return True  # the last row needs no end of line


def _unescaped(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), value)


class _CsvRows(_Columns):
    """CSV: what is quoted may have line ends in it."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks, lineage, form)
        self._delimiter = form.delimiter.encode()
        self._quote = form.quote.encode()
        quote, escape = re.escape(self._quote), re.escape(form.escape.encode())
        inside = rb"(?:[^" + quote + escape + rb"]|" + escape + rb"[" + quote + escape + rb"]"
        if form.escape != form.quote:
            inside += rb"|" + escape
        inside += rb")*"
        self._token = re.compile(quote + inside + quote + rb"|\n|[^" + quote + rb"\n]+", re.DOTALL)
        self._part = re.compile(
            rb"(" + quote + inside + quote + rb"|[^" + quote + re.escape(self._delimiter) + rb"]*)(?:"
            + re.escape(self._delimiter) + rb"|\Z)",
            re.DOTALL,
        )
        self._escaped = re.compile(escape + rb"([" + quote + escape + rb"])")

    def _row_end(self, data: bytes, at: int) -> int:
        if self._is_swallowing:
            return data.find(b"\n", at) + 1 or -1
        while at < len(data):
            found = self._token.match(data, at)
            if found is None:
                return -1  # a quoted value that does not end yet
            if found[0] == b"\n":
                return found.end()
            at = found.end()
        return -1

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        if self._is_swallowing:
            self._is_swallowing = False
            hidden[-1] += len(row)
            return b""
        end = len(row) - len(row.rstrip(b"\r\n"))
        line, ending = row[: len(row) - end], row[len(row) - end :]
        if self._is_first:
            self._is_first = False
            if self._form.header:
                return row
        if line == b"\\.":
            return row
        fields = []
        at = 0
        while at <= len(line):
            found = self._part.match(line, at)
            if found is None:
                fields = []
                break
            fields.append(found[1])
            if found.end(1) == len(line):
                break
            at = found.end()
        if len(fields) != len(self._rules):
            hidden[-1] += len(row)
            return self._hidden_row()
        for number, rule in enumerate(self._rules):
            value = fields[number]
            if not rule or value == self._form.null.encode():
                continue
            hidden[number] += len(value)
            bare = value
            if value.startswith(self._quote):
                bare = self._escaped.sub(rb"\1", value[1:-1])
            made = self._change(number, bare)
            fields[number] = self._form.null.encode() if made is None else made
        return self._delimiter.join(fields) + ending

    def _ends_alone(self, tail: bytes) -> bool:
        return tail.count(self._quote) % 2 == 0


class _BinaryRows(_Columns):
    """COPY's binary format: a header, and rows of values with their lengths."""

    def _row_end(self, data: bytes, at: int) -> int:
        if self._is_first:
            if len(data) - at < 19:
                return -1
            return _within(at + 19 + _INT32.unpack_from(data, at + 15)[0], data)
        if len(data) - at < 2:
            return -1
        (count,) = _INT16.unpack_from(data, at)
        at += 2
        for _ in range(max(0, count)):
            if len(data) - at < 4:
                return -1
            at += 4 + max(0, _INT32.unpack_from(data, at)[0])
        return _within(at, data)

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        if self._is_first:
            self._is_first = False
            return row
        (count,) = _INT16.unpack_from(row)
        if count < 0:
            return row
        fits = count == len(self._rules)
        out = bytearray(row[:2])
        at = 2
        for number in range(count):
            (length,) = _INT32.unpack_from(row, at)
            at += 4
            value = row[at : at + max(0, length)]
            at += max(0, length)
            if length >= 0 and (not fits or self._rules[number]):
                # What a value of its type would be is not known here.
                hidden[number if fits else -1] += length
                out += _INT32.pack(-1)
            else:
                out += _INT32.pack(length) + value
        return bytes(out)

    def _by_pattern(self, rows: bytes) -> tuple[bytes, list[Span]]:
        stream = Stream(self._masks, has_lengths=True)
        made, hidden = stream.feed(rows)
        rest, more = stream.finish()
        return made + rest, [
            Span(h.rule, "payload", h.offset + at, h.length)
            for at, those in ((0, hidden), (len(made), more))
            for h in those
        ]

    def _hidden_row(self) -> bytes:
        return b""


def _within(stop: int, data: bytes) -> int:
    return stop if stop <= len(data) else -1


_FORMATS: Final = {"text": _TextRows, "csv": _CsvRows, "binary": _BinaryRows}


def _rows_of(masks: Masks, lineage: Lineage | None, everything: str) -> _Rows:
    """Return how the rows of a COPY are masked."""
    if not everything:
        return _Lines(masks)
    if lineage is not None and lineage.is_clear:
        return _Lines(masks)
    if lineage is None or lineage.copy is None or lineage.outputs is None:
        rule = everything if lineage is None else lineage.whole
        return _Nothing(masks, rule) if rule in masks.rules else _Lines(masks)
    if not any(rule in masks.rules for rule in lineage.outputs if rule):
        return _Lines(masks)
    form = lineage.copy
    kind = _FORMATS.get(form.format)
    if kind is None or len(form.delimiter) != 1 or (form.format == "csv" and len(form.quote) != 1):
        return _Nothing(masks, lineage.whole)
    return kind(masks, lineage, form)
