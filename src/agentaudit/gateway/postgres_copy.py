"""What a COPY moves, masked: columns where its statement says which they are, and patterns.

A server sends a row in a message; a client cuts its rows wherever it likes. So what is recorded of
a COPY is cut anew, at the ends of rows, and a row that is not whole yet is withheld.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from agentaudit._native import sift
from agentaudit._native.raw import int32_at
from agentaudit.gateway.postgres_frames import framed, note
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import Masks
from agentaudit.masking.stream import MAX_PENDING_BYTES, Hidden, Stream
from agentaudit.model import Event, Flag, Kind, Side, Span, Step
from agentaudit.risk.copy_format import CopyFormat
from agentaudit.risk.lineage import Lineage

_COPY_DATA: Final = ord("d")
_ENDS: Final = frozenset(b"cfCEZS")
"""What no CopyData of the same COPY comes behind; a client's Sync ends one that has failed."""
SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
"""What COPY's binary format begins with."""
_NO_ROWS: Final = SIGNATURE + bytes(8) + b"\xff\xff"
_INT16: Final = struct.Struct("!h")
_INT32: Final = struct.Struct("!i")

_MAX_FRAMES_BYTES: Final = 4 * MAX_PENDING_BYTES
"""Messages that wait for what comes behind them: there may be many with nothing in them."""

MAX_ROW_BYTES: Final = 1024 * 1024
"""A longer row is hidden as a whole where a rule is about its columns."""


Others = Callable[[bytes, Masks], tuple[bytes, list[Span]]]
"""Masks the messages that stand between CopyData and behind it."""


class CopyMask:
    """One COPY, one way: what `side` sends.

    `lineage_for` returns, for masks, what they hide of its rows, and the rule that hides rows of
    which nobody can tell the columns. `is_binary` is None where the server has not said which
    format it is in; `codec` is the encoding of the session.
    """

    def __init__(
        self,
        masks: Masks,
        side: Side,
        lineage_for: Callable[[Masks], tuple[Lineage | None, str]],
        *,
        is_binary: bool | None = False,
        codec: str = "utf-8",
    ) -> None:
        self._masks = masks
        lineage, everything = lineage_for(masks)
        rows = _rows_of(masks, lineage, everything, is_binary=is_binary, codec=codec)
        # A server's message is a whole row.
        self._way: _Way = (
            _Lines(masks, side is Side.TARGET, is_binary=is_binary) if rows is None else _Cut(rows)
        )
        self._for_client: CopyMask | None = None
        client = masks.for_client
        if client is not None and client is not masks:
            self._for_client = CopyMask(client, side, lineage_for, is_binary=is_binary, codec=codec)
        self._is_for_client = client is not None
        self._command_no = -1
        self._left = 0
        self.is_over = False
        """Whether the end of the COPY has been seen."""
        self.has_hidden = False
        """Whether anything of it was hidden."""

    @property
    def pending(self) -> int:
        """How many bytes wait for what comes behind them."""
        return self._way.pending

    def is_clean(self, payload: bytes) -> bool:
        """Say whether CopyData alone, in whole rows, passes as it is."""
        if self._way.pending or self._left or 1 + int32_at(payload, 1) > len(payload):
            return False
        body, end = sift.copied(payload)
        return end == len(payload) and self._way.is_clean(body)

    @property
    def is_in_message(self) -> bool:
        """Whether a message has begun that passes in pieces, and has not ended."""
        return self._left > 0

    def mask(self, step: Step, event: Event, others: Others) -> None:
        """Mask the CopyData of `step`; what stands between and behind it is masked by `others`."""
        payload = event.payload
        assert payload is not None
        self._command_no = event.command_no
        before, frame, first, spans = self._masked(payload, others)
        if self._is_for_client and event.side is Side.TARGET:
            if self._for_client is None:
                step.frame = before + frame
            else:
                step.frame = b"".join(self._for_client._masked(payload, others)[:2])
        event.payload = frame
        event.spans += tuple(spans)
        self.has_hidden = self.has_hidden or bool(spans or first)
        if self._way.pending:
            event.flags |= Flag.WITHHELD
        if before:
            step.events = (self._content(event.side, before, first), *step.events)

    def _masked(
        self, payload: bytes, others: Others
    ) -> tuple[bytes, bytes, list[Span], list[Span]]:
        """Return what was withheld before, the rest, and what is hidden in either."""
        way = self._way
        way.begin()
        at = 0
        if self._left:
            self._left -= len(payload)
            way.feed(payload, payload, is_whole=False)
            if not self._left:
                way.end_message()
            return way.made()
        if payload[0] == _COPY_DATA and (size := 1 + int32_at(payload, 1)) > len(payload):
            self._left = size - len(payload)
            way.feed(payload[5:], payload, is_whole=False)
            return way.made()
        while at < len(payload):
            body, copied = sift.copied(payload[at:])
            if copied:
                way.feed(body, payload[at : at + copied], is_whole=True)
                at += copied
                continue
            stop = at
            while stop < len(payload) and payload[stop] != _COPY_DATA:
                self.is_over = self.is_over or payload[stop] in _ENDS
                stop += 1 + int32_at(payload, stop + 1)
            way.let_pass(*others(payload[at:stop], self._masks), is_over=self.is_over)
            at = stop
        return way.made()

    def flush(self, side: Side) -> list[Event]:
        """Return what was withheld, because it was for long enough.

        What the client is to get masked waits: it goes with the next message.
        """
        if self._is_for_client and side is Side.TARGET:
            return []
        self._way.begin()
        self._way.flush()
        return self._events(side)

    def finish(self, side: Side, *, is_cut_off: bool = False) -> list[Event]:
        """Return what was withheld: no more comes."""
        self._way.begin()
        self._way.finish(is_cut_off=is_cut_off)
        return self._events(side)

    def _events(self, side: Side) -> list[Event]:
        before, rest, first, spans = self._way.made()
        self.has_hidden = self.has_hidden or bool(spans or first)
        moved = [_moved(span, len(before)) for span in spans]
        whole = before + rest
        return [self._content(side, whole, [*first, *moved])] if whole else []

    def _content(self, side: Side | None, payload: bytes, spans: Sequence[Span]) -> Event:
        return Event(
            kind=Kind.CONTENT,
            side=side,
            command_no=self._command_no,
            payload=payload,
            flags=Flag.FROM_TARGET if side is Side.TARGET else Flag.NONE,
            spans=tuple(spans),
        )


def _moved(span: Span, by: int) -> Span:
    """Return a span of what stands `by` bytes further on."""
    if span.place != "payload":
        return span
    return Span(span.rule, span.place, span.offset + by, span.length)


class _Way:
    """How CopyData becomes what is recorded: what was withheld before, and the rest."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._spans: list[Span] = []

    @property
    def pending(self) -> int:
        raise NotImplementedError

    def is_clean(self, body: bytes) -> bool:
        """Say whether whole rows pass as they are."""
        return False

    def begin(self) -> None:
        """Begin with what a step has."""
        self._out = bytearray()
        self._spans = []

    def feed(self, body: bytes, frames: bytes, *, is_whole: bool) -> None:
        """Take in the bodies of CopyData, and the messages themselves, or a piece of a long one."""
        raise NotImplementedError

    def end_message(self) -> None:
        """Note that a long message is over."""

    def flush(self) -> None:
        """Let go of what waits, where it can be."""
        raise NotImplementedError

    def finish(self, *, is_cut_off: bool = False) -> None:
        """Let go of what waits: no more comes."""
        raise NotImplementedError

    def let_pass(self, frames: bytes, spans: Sequence[Span], *, is_over: bool) -> None:
        """Put other messages behind what there is."""
        if is_over:
            self.finish()
        else:
            self.flush()  # what comes behind it must not be recorded before it
        self._spans += [_moved(span, len(self._out)) for span in spans]
        self._out += frames

    def made(self) -> tuple[bytes, bytes, list[Span], list[Span]]:
        """Return what was withheld before, the rest, and what is hidden in either."""
        raise NotImplementedError


class _Lines(_Way):
    """What no rule about columns is about: patterns are looked for, line by line.

    Where nothing is found, what is recorded is what passed, to the byte. What is found in whole
    rows is replaced, and they are one message then; where a row is cut, what is found in it becomes
    as many bytes as it was.
    """

    def __init__(self, masks: Masks, has_whole_rows: bool, *, is_binary: bool | None) -> None:
        super().__init__()
        self._masks = masks
        self._has_whole_rows = has_whole_rows
        self._framing = None if is_binary is False else BinaryFraming()
        shown = None if self._framing is None else self._framing.blanked
        self._stream = Stream(masks, keeps_length=True, shown=shown)
        self._frames = bytearray()
        self._left = 0  # of the message at the beginning of those, what of its body is not told yet
        self._withheld = 0

    @property
    def pending(self) -> int:
        return self._stream.pending or len(self._frames)

    def is_clean(self, body: bytes) -> bool:
        is_whole = self._has_whole_rows or body.endswith((b"\n", b"\0"))
        if self._stream.is_in_run or not is_whole:
            return False
        framing = self._framing
        if framing is None or (not self._has_whole_rows and framing.is_text(body)):
            return self._masks.scanner.is_clean(body)
        # A client may end a message anywhere, so of its rows each byte has to be followed.
        return self._has_whole_rows and not self._masks.scanner.may_hold(body)

    def begin(self) -> None:
        super().begin()
        self._withheld = len(self._frames)

    def feed(self, body: bytes, frames: bytes, *, is_whole: bool) -> None:
        if (
            self._framing is not None
            and self._has_whole_rows
            and not self._left
            and not self._frames
        ):
            self._framing.begin(has_header=body.startswith(SIGNATURE))
        if is_whole and self._are_whole_rows(body):
            found = [] if self._masks.scanner.is_clean(body) else self._masks.scanner.find(body)
            if found:
                note(self._spans, self._masks, len(self._out) + 5, body, found)
                self._out += framed(_COPY_DATA, self._masks.replaced(body, found))
            else:
                self._out += frames
            return
        self._frames += frames
        self._tell(*self._stream.feed(body))
        if is_whole:
            self.end_message()
        if len(self._frames) > _MAX_FRAMES_BYTES:
            self._tell(*self._stream.give_up())

    def end_message(self) -> None:
        if self._has_whole_rows:
            self.finish()

    def let_pass(self, frames: bytes, spans: Sequence[Span], *, is_over: bool) -> None:
        if is_over or spans or not self._frames:
            super().let_pass(frames, spans, is_over=is_over)
        else:
            # It stands behind a CopyData of which not all can be told yet.
            self._frames += frames
            self._tell(*self._stream.flush())

    def _are_whole_rows(self, body: bytes) -> bool:
        stream = self._stream
        if self._frames or self._left or stream.is_in_run or self._framing is not None:
            return False
        if self._has_whole_rows:
            return True
        # A private key may go on behind the end of a row.
        return body.endswith(b"\n") and b"-----BEGIN" not in body

    def flush(self) -> None:
        self._tell(*self._stream.flush())

    def finish(self, *, is_cut_off: bool = False) -> None:
        self._tell(*self._stream.finish(is_cut_off=is_cut_off))

    def _tell(self, made: bytes, hidden: Sequence[Hidden]) -> None:
        """Put `made` in the place of as many bytes of the messages that wait."""
        at = 0
        frames = self._frames
        place = 0
        while place < len(frames):
            if not self._left:
                if frames[place] != _COPY_DATA:
                    stop = place + 1 + _length_at(frames, place)
                    self._out += frames[place:stop]
                    place = stop
                    continue
                if at == len(made) and _length_at(frames, place) > 4:
                    break
                self._out += frames[place : place + 5]
                self._left = _length_at(frames, place) - 4
                place += 5
            step = min(self._left, len(made) - at)
            shift = len(self._out) - at
            self._spans += [
                Span(each.rule, "payload", each.offset + shift, each.length)
                for each in hidden
                if at <= each.offset < at + step
            ]
            self._out += made[at : at + step]
            self._left -= step
            at += step
            place += step
            if self._left:
                break
        del frames[:place]

    def made(self) -> tuple[bytes, bytes, list[Span], list[Span]]:
        out = bytes(self._out)
        cut = min(self._withheld, len(out))
        first = [span for span in self._spans if span.offset < cut]
        rest = [_moved(span, -cut) for span in self._spans if span.offset >= cut]
        return out[:cut], out[cut:], first, rest


def _length_at(frames: bytearray, message: int) -> int:
    return int.from_bytes(frames[message + 1 : message + 5])


class _Cut(_Way):
    """What a rule about columns is about: cut anew at the ends of rows."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self._rows = rows
        self._first = bytearray()
        self._first_spans: list[Span] = []
        self._had_pending = False

    @property
    def pending(self) -> int:
        return self._rows.pending

    def begin(self) -> None:
        super().begin()
        self._first = bytearray()
        self._first_spans = []
        self._had_pending = self._rows.pending > 0

    def feed(self, body: bytes, frames: bytes, *, is_whole: bool) -> None:
        if self._had_pending:
            # What a step before withheld ends with the first row of this one.
            self._had_pending = False
            end = body.find(b"\n") + 1 or len(body)
            made, spans = self._rows.feed(body[:end])
            if made:
                self._first_spans += [_moved(span, 5) for span in spans]
                self._first += framed(_COPY_DATA, made)
            else:
                self._spans += spans
            body = body[end:]
        self._put(*self._rows.feed(body))

    def flush(self) -> None:
        pass  # which columns half a row has is not known: it is kept until the rest is there

    def finish(self, *, is_cut_off: bool = False) -> None:
        self._put(*self._rows.finish())

    def _put(self, made: bytes, spans: Sequence[Span]) -> None:
        self._spans += [_moved(span, len(self._out) + (5 if made else 0)) for span in spans]
        if made:
            self._out += framed(_COPY_DATA, made)

    def made(self) -> tuple[bytes, bytes, list[Span], list[Span]]:
        return bytes(self._first), bytes(self._out), self._first_spans, self._spans


class _Rows:
    """Rows of one format: fed in pieces, returned masked, whole."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    @property
    def pending(self) -> int:
        raise NotImplementedError

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        raise NotImplementedError

    def finish(self) -> tuple[bytes, list[Span]]:
        raise NotImplementedError


class _Nothing(_Rows):
    """All of it is hidden."""

    def __init__(self, masks: Masks, rule: str, *, is_binary: bool) -> None:
        super().__init__(masks)
        self._rule = rule
        self._is_binary = is_binary
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
        if self._is_binary:
            return _NO_ROWS, span
        return mark(self._rule) + b"\n", span

    def finish(self) -> tuple[bytes, list[Span]]:
        return b"", []


Change = Callable[[bytes], bytes | None]


class _Columns(_Rows):
    """Rows whose columns are known; a row that has others is hidden as a whole."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks)
        assert lineage.outputs is not None
        self._rules = tuple(rule if rule in masks.rules else "" for rule in lineage.outputs)
        self._whole = (
            lineage.whole if lineage.whole in masks.rules else next(filter(None, self._rules))
        )
        self._form = form
        self._tail = bytearray()
        self._looked = 0
        """How much of the row at the beginning of that has been looked at for its end."""
        self._is_first = True
        self._is_swallowing = False

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: bytes) -> tuple[bytes, list[Span]]:
        tail = self._tail
        tail += data
        out = bytearray()
        hidden = [0] * (len(self._rules) + 1)
        at = 0
        while at < len(tail):
            stop = self._row_end(tail, at)
            if stop < 0:
                break
            if self._is_swallowing:
                hidden[-1] += stop - at
            else:
                out += self._row(bytes(tail[at:stop]), hidden)
            self._is_first = False
            at = stop
            self._begin_row()
        del tail[:at]
        if len(tail) > MAX_ROW_BYTES or self._is_swallowing:
            if not self._is_swallowing:
                out += self._hidden_row()
            self._is_swallowing = True
            known = min(self._looked, len(tail))
            hidden[-1] += known
            self._looked -= known
            del tail[:known]
        made, found = self._by_pattern(bytes(out))
        return made, [*self._told(hidden), *found]

    def _by_pattern(self, rows: bytes) -> tuple[bytes, list[Span]]:
        scanner = self._masks.scanner
        if not rows or not scanner.may_hold(rows):
            return rows, []
        found = scanner.find(rows)
        spans: list[Span] = []
        note(spans, self._masks, 0, rows, found)
        return self._masks.replaced(rows, found), spans

    def finish(self) -> tuple[bytes, list[Span]]:
        tail = bytes(self._tail)
        self._tail.clear()
        was_swallowing = self._is_swallowing
        self._begin_row()
        if not tail:
            return b"", []
        hidden = [0] * (len(self._rules) + 1)
        made = b""
        if not was_swallowing and self._ends_alone(tail):
            made = self._row(tail, hidden)
        else:
            hidden[-1] += len(tail)
            made = b"" if was_swallowing else self._hidden_row()
        masked, found = self._by_pattern(made)
        return masked, [*self._told(hidden), *found]

    def _told(self, hidden: Sequence[int]) -> list[Span]:
        return [
            Span(self._rules[n] if n < len(self._rules) else self._whole, "column", n, length)
            for n, length in enumerate(hidden)
            if length
        ]

    def _change(self, number: int, value: bytes) -> bytes | None:
        return self._masks.rules[self._rules[number]].whole(value)

    # What a format says.

    def _begin_row(self) -> None:
        self._looked = 0
        self._is_swallowing = False

    def _row_end(self, data: bytearray, at: int) -> int:
        """Return where the row ends that begins at `at`, -1 where that is not there yet.

        It goes on where it stood still before: a client may send its row byte by byte.
        """
        raise NotImplementedError

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        raise NotImplementedError

    def _hidden_row(self) -> bytes:
        return mark(self._whole) + b"\n"

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


class _Delimited(_Columns):
    """Rows that are lines of fields, with a delimiter between."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks, lineage, form)
        self._delimiter = form.delimiter.encode()
        self._null = form.null.encode()

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        line = row.rstrip(b"\r\n")
        if (self._is_first and self._form.header) or line == b"\\.":
            return row
        fields = self._fields(line)
        if len(fields) != len(self._rules):
            hidden[-1] += len(row)
            return self._hidden_row()
        for number, rule in enumerate(self._rules):
            value = fields[number]
            if not rule or value == self._null:
                continue
            hidden[number] += len(value)
            made = self._change(number, self._bare(value))
            fields[number] = self._null if made is None else self._written(made)
        return self._delimiter.join(fields) + row[len(line) :]

    def _fields(self, line: bytes) -> list[bytes]:
        """Return the fields of a line as they are written, none where it is not understood."""
        raise NotImplementedError

    def _bare(self, value: bytes) -> bytes:
        """Return what a field says, however it is written."""
        raise NotImplementedError

    def _written(self, value: bytes) -> bytes:
        """Return a field that says `value`."""
        raise NotImplementedError


class _TextRows(_Delimited):
    """COPY's own format: a line a row, a backslash before what would be misread."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks, lineage, form)
        escaped = re.escape(self._delimiter)
        self._field = re.compile(
            rb"((?:[^\\" + escaped + rb"]|\\.)*+)(?:" + escaped + rb"|\Z)", re.DOTALL
        )

    def _row_end(self, data: bytearray, at: int) -> int:
        looked = at + self._looked
        while stop := data.find(b"\n", looked) + 1:
            backslashes = 0
            while stop - 2 - backslashes >= looked and data[stop - 2 - backslashes] == 0x5C:
                backslashes += 1
            if backslashes % 2 == 0:
                return stop
            looked = stop
        end = len(data)
        while end > looked and data[end - 1] == 0x5C:
            end -= 1
        # The last of an odd number of them is about what comes.
        self._looked = len(data) - (len(data) - end) % 2 - at
        return -1

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

    def _bare(self, value: bytes) -> bytes:
        return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), value)

    def _written(self, value: bytes) -> bytes:
        for sign in (b"\\", self._delimiter, b"\n", b"\r"):
            value = value.replace(sign, b"\\" + sign)
        return value

    def _ends_alone(self, tail: bytes) -> bool:
        return True  # the last row needs no end of line


class _CsvRows(_Delimited):
    """CSV: what is quoted may have line ends in it."""

    def __init__(self, masks: Masks, lineage: Lineage, form: CopyFormat) -> None:
        super().__init__(masks, lineage, form)
        self._quote = form.quote.encode()
        self._escape = form.escape.encode()
        quote, escape = re.escape(self._quote), re.escape(form.escape.encode())
        # No character has two readings, so that nothing is tried twice.
        inside = rb"(?:[^" + quote + escape + rb"]|" + escape + rb"[" + quote + escape + rb"]"
        if form.escape != form.quote:
            inside += rb"|" + escape + rb"(?![" + quote + escape + rb"])"
        inside += rb")*+"
        signs = [quote, rb"\n", *([escape] if form.escape != form.quote else [])]
        self._sign = re.compile(b"|".join(signs))
        self._is_quoted = False
        self._part = re.compile(
            rb"("
            + quote
            + inside
            + quote
            + rb"|[^"
            + quote
            + re.escape(self._delimiter)
            + rb"]*)(?:"
            + re.escape(self._delimiter)
            + rb"|\Z)",
            re.DOTALL,
        )
        self._escaped = re.compile(escape + rb"([" + quote + escape + rb"])")

    def _begin_row(self) -> None:
        super()._begin_row()
        self._is_quoted = False

    def _row_end(self, data: bytearray, at: int) -> int:
        looked = at + self._looked
        while (found := self._sign.search(data, looked)) is not None:
            sign = found[0]
            looked = found.end()
            if sign == self._quote:
                self._is_quoted = not self._is_quoted
            elif sign == b"\n":
                if not self._is_quoted:
                    return looked
            elif self._is_quoted:
                # An escape, and of what: that may not be there yet.
                if looked == len(data):
                    self._looked = looked - 1 - at
                    return -1
                if bytes(data[looked : looked + 1]) in (sign, self._quote):
                    looked += 1
        self._looked = len(data) - at
        return -1

    def _fields(self, line: bytes) -> list[bytes]:
        fields: list[bytes] = []
        at = 0
        while (found := self._part.match(line, at)) is not None:
            fields.append(found[1])
            if found.end(1) == len(line):
                return fields
            at = found.end()
        return []

    def _bare(self, value: bytes) -> bytes:
        if not value.startswith(self._quote):
            return value
        return self._escaped.sub(rb"\1", value[1:-1])

    def _written(self, value: bytes) -> bytes:
        if not any(sign in value for sign in (self._delimiter, self._quote, b"\n", b"\r")):
            return value
        for sign in dict.fromkeys((self._escape, self._quote)):
            value = value.replace(sign, self._escape + sign)
        return self._quote + value + self._quote

    def _ends_alone(self, tail: bytes) -> bool:
        return tail.count(self._quote) % 2 == 0


class _BinaryRows(_Columns):
    """COPY's binary format: a header, and rows of values with their lengths."""

    _left = -1
    """How many values of the row have not begun; before their number is known, -1."""
    _has_begun = False
    """Whether anything was returned: that begins with the header."""

    def _begin_row(self) -> None:
        super()._begin_row()
        self._left = -1

    def _row_end(self, data: bytearray, at: int) -> int:
        if self._is_first:
            if len(data) - at < 19:
                return -1
            return _within(at + 19 + _INT32.unpack_from(data, at + 15)[0], data)
        looked = at + self._looked
        if self._left < 0:
            if len(data) - looked < 2:
                return -1
            self._left = max(0, _INT16.unpack_from(data, looked)[0])
            looked += 2
        while self._left and len(data) - looked >= 4:
            looked += 4 + max(0, _INT32.unpack_from(data, looked)[0])
            self._left -= 1
        self._looked = looked - at
        return -1 if self._left else _within(looked, data)

    def _row(self, row: bytes, hidden: list[int]) -> bytes:
        if self._is_first:
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
        if not rows:
            return b"", []
        framing = BinaryFraming()
        framing.begin(has_header=not self._has_begun)
        self._has_begun = True
        stream = Stream(self._masks, keeps_length=True, shown=framing.blanked)
        made, hidden = stream.feed(rows)
        rest, more = stream.finish()
        return made + rest, [
            Span(h.rule, "payload", h.offset + at, h.length)
            for at, those in ((0, hidden), (len(made), more))
            for h in those
        ]

    def _hidden_row(self) -> bytes:
        return b""


class BinaryFraming:
    """Tells values from what frames them in COPY's binary format, wherever pieces are cut."""

    def __init__(self) -> None:
        self._part = b""
        self._value = 0
        self._fields = 0
        self._is_header = True
        self._begun: int | None = 0
        """How much of the signature has been seen, None where something else has: it is text."""

    def is_text(self, data: bytes) -> bool:
        """Say whether the next piece shows that it is text, as all that comes then is."""
        if self._begun is not None and self._begun < len(SIGNATURE):
            rest = SIGNATURE[self._begun :]
            if data[: len(rest)] != rest[: len(data)]:
                self._begun = None
        return self._begun is None

    def begin(self, *, has_header: bool) -> None:
        """Begin with a row, or with the header before the first."""
        self._part = b""
        self._value = self._fields = 0
        self._is_header = has_header
        self._begun = 0 if has_header else len(SIGNATURE)

    def blanked(self, data: bytes) -> bytes:
        """Return the next piece with NULs for what is no value; the signature stays."""
        if self.is_text(data):
            return data
        assert self._begun is not None
        out = bytearray(data)
        at = min(len(data), len(SIGNATURE) - self._begun)
        self._begun += at
        while at < len(data):
            if self._value:
                step = min(self._value, len(data) - at)
                self._value -= step
                at += step
                continue
            needed = 8 if self._is_header else 4 if self._fields else 2
            step = min(needed - len(self._part), len(data) - at)
            self._part += data[at : at + step]
            out[at : at + step] = bytes(step)
            at += step
            if len(self._part) == needed:
                self._read(self._part)
                self._part = b""
        return bytes(out)

    def _read(self, part: bytes) -> None:
        if self._is_header:
            self._is_header = False
            self._value = max(0, int32_at(part, 4))
        elif self._fields:
            self._fields -= 1
            self._value = max(0, int32_at(part, 0))
        else:
            self._fields = max(0, _INT16.unpack(part)[0])


def _within(stop: int, data: bytearray) -> int:
    return stop if stop <= len(data) else -1


_FORMATS: Final = {"text": _TextRows, "csv": _CsvRows, "binary": _BinaryRows}


def _has_plain_signs(codec: str) -> bool:
    """Return whether a byte of ASCII is never a part of another character."""
    name = codecs.lookup(codec).name
    return name.startswith(("ascii", "utf-8", "iso8859", "cp125", "cp866", "cp874", "koi8", "euc"))


def _rows_of(
    masks: Masks, lineage: Lineage | None, everything: str, *, is_binary: bool | None, codec: str
) -> _Rows | None:
    """Return how the rows of a COPY are masked, None where no rule is about its columns."""
    if not everything or (lineage is not None and lineage.is_clear):
        return None
    if lineage is None or lineage.copy is None or lineage.outputs is None:
        rule = everything if lineage is None else lineage.whole
        return _Nothing(masks, rule, is_binary=bool(is_binary)) if rule in masks.rules else None
    if not any(rule in masks.rules for rule in lineage.outputs if rule):
        return None
    form = lineage.copy
    if is_binary is None:
        is_binary = form.format == "binary"
    kind = _FORMATS.get(form.format)
    if (
        kind is None
        or not form.is_understood
        or is_binary != (form.format == "binary")
        or len(form.delimiter) != 1
        or len(form.quote) != 1
        or (not is_binary and (form.encoding or not _has_plain_signs(codec)))
    ):
        return _Nothing(masks, lineage.whole, is_binary=is_binary)
    return kind(masks, lineage, form)
