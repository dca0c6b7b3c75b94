"""Masks packets of SFTP before they are recorded: each stays one, and as long as it was.

What passes through a handle in one direction is masked as one stream, whatever the packets: what
cannot be told yet is withheld, and comes with the next packet, or after a moment. Where a piece of
a file does not follow on the one before, the end of that one and the beginning of this may be parts
of a secret, so they are hidden.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from agentaudit.masking.marks import mark
from agentaudit.masking.masks import CREDENTIALS, UNDECIDED, Masks
from agentaudit.masking.scan import Found
from agentaudit.masking.stream import Hidden, Stream, fitted, without_lengths
from agentaudit.model import MAX_EVENT_BYTES, Event, Flag, Kind, Side, Span
from agentaudit.protocols.sftp import Packet, content_start

MAX_LED_BYTES: Final = 64 * 1024
"""How much of a piece that nothing came before may be the rest of one secret."""

_MAX_WAITING: Final = 1024
"""Packets of which something waits: each has a head, which waits with it."""

_SEPARATORS: Final = (b"\n", b"\r", b"\0")
_SEPARATOR: Final = re.compile(rb"[\0\r\n]")
_NO_RUN: Final = re.compile(rb"[^0-9A-Za-z_+/=.@:%~\x80-\xff\r\n-]")
"""What is in no word and no body of a private key."""
_WORD: Final = bytes(byte for byte in range(256) if not _NO_RUN.match(bytes([byte]))).translate(
    None, b"\r\n"
)


def masked_packet(masks: Masks, frame: bytes, packet: Packet) -> tuple[bytes, list[Span]]:
    """Return a packet with what is found in its strings hidden, and what that was."""
    if not masks.scanner.may_hold(frame):
        return frame, []
    found: list[tuple[int, int, Found]] = []
    for start, stop in packet.texts:
        here = masks.scanner.find(frame[start:stop])
        found += [(start + each.start, start + each.stop, each) for each in here]
    begins = packet.rest if packet.content is None else len(frame)
    if begins < len(frame):
        found += _in_unknown(masks, frame, begins)
    return _hidden(masks, frame, found)


def not_passed(
    masks: Masks, side: Side, command_no: int, data: bytes, *, begins: bool
) -> list[Event]:
    """Return what is to be recorded of bytes that go no further.

    They begin with a packet where they `begins`; else they may be anything, from anywhere.
    """
    event = Event(
        kind=Kind.REQUEST if side is Side.CLIENT else Kind.RESPONSE,
        side=side,
        command_no=command_no,
        text="not passed on",
        payload=data,
        orig_len=len(data),
    )
    start = content_start(data) if begins else 0
    if start is None:
        found = _in_unknown(masks, data, 0)
        word = len(data) - len(data.rstrip(_WORD))
        last = Found(0, 0, CREDENTIALS, UNDECIDED)
        if word and (not found or found[-1][1] <= len(data) - word):
            found.append((len(data) - word, len(data), last))
        event.payload, spans = _hidden(masks, data, found)
        event.spans = tuple(spans)
        return [event]
    piece = Packet((), start, content=(start, len(data)), offset=1)
    mask = FileMask(masks, side, command_no)
    return [*mask.take(event, piece), *mask.finish(is_cut_off=True)]


def _in_unknown(masks: Masks, data: bytes, begins: int) -> list[tuple[int, int, Found]]:
    found = [
        (begins + each.start, begins + each.stop, each)
        for view in without_lengths(data[begins:])
        for each in masks.scanner.find(view)
    ]
    apart: list[tuple[int, int, Found]] = []
    for one in sorted(found, key=lambda one: (one[0], -one[1])):
        if not apart or one[0] >= apart[-1][1]:
            apart.append(one)
        elif one[1] > apart[-1][1]:
            apart[-1] = (apart[-1][0], one[1], apart[-1][2])
    return apart


def _hidden(
    masks: Masks, data: bytes, found: list[tuple[int, int, Found]]
) -> tuple[bytes, list[Span]]:
    out = bytearray(data)
    spans = []
    for start, stop, each in found:
        made = masks.rules[each.rule].inline(data[start:stop], each.what)
        out[start:stop] = fitted(made, stop - start)
        spans.append(Span(each.rule, "payload", start, stop - start))
    return bytes(out), spans


@dataclass(slots=True)
class _Waiting:
    """A packet that is not all recorded: what stands before its content, and how much is left."""

    head: bytes
    spans: list[Span]
    left: int


class FileMask:
    """What passes through one handle in one direction, masked as one stream.

    `digest` is the SHA-256 of what is kept of it, in the order in which it passed.
    """

    def __init__(self, masks: Masks, side: Side, command_no: int) -> None:
        self._masks = masks
        self.side = side
        self._command_no = command_no
        self._stream = Stream(masks, keeps_length=True)
        self._waiting: deque[_Waiting] = deque()
        self._led = 0
        self._is_in_run = False
        self.digest: Any = hashlib.sha256()
        self.has_hidden = False

    @property
    def pending(self) -> int:
        """How many bytes of content wait for what comes behind them."""
        return self._stream.pending

    def take(self, event: Event, packet: Packet) -> list[Event]:
        """Return what is to be recorded of a packet, `event`, and of what waited for it.

        One without content keeps its place behind those that wait.
        """
        frame = event.payload
        assert frame is not None
        start, stop = packet.content or (len(frame), len(frame))
        data = frame[start:stop]
        events: list[Event] = []
        if packet.content is not None and not packet.follows:
            events += self.finish(is_cut_off=True)
            self._led = MAX_LED_BYTES if packet.offset else 0
            self._is_in_run = True
        whole, spans = masked_packet(self._masks, frame[:start], packet)
        if self._passes_as_it_is(data):
            self.digest.update(data)
            event.payload = whole + data
            event.spans += tuple(spans)
            return [*events, event]
        own = _Waiting(whole, spans, len(data))
        self._waiting.append(own)
        made, hidden = self._made(data)
        out, spans, before = self._drained(made, hidden, own)
        events += self._contents(out[:before], [span for span in spans if span.offset < before])
        event.payload = out[before:] or None
        event.spans += tuple(_moved(span, -before) for span in spans if span.offset >= before)
        if self._waiting:
            event.flags |= Flag.WITHHELD
        events.append(event)
        if len(self._waiting) > _MAX_WAITING:
            events += self.give_up()
        return events

    def _passes_as_it_is(self, data: bytes) -> bool:
        if self._led or self._waiting or self._stream.pending or self._stream.is_in_run:
            return False
        return not data or (data.endswith(_SEPARATORS) and self._masks.scanner.is_clean(data))

    def flush(self) -> list[Event]:
        """Return what was withheld for long enough, but for what may be half a secret."""
        return self._events(*self._stream.flush())

    def give_up(self) -> list[Event]:
        """Return all that was withheld, because it is too much; its last word is hidden."""
        return self._events(*self._stream.give_up())

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        """Return all that was withheld: nothing follows on it.

        Of what was cut off the last word may be half a secret, so that is hidden.
        """
        return self._events(*self._stream.finish(is_cut_off=is_cut_off))

    def _events(self, made: bytes, hidden: list[Hidden]) -> list[Event]:
        out, spans, _ = self._drained(made, hidden, None)
        return list(self._contents(out, spans))

    # --- what is made of it

    def _made(self, data: bytes) -> tuple[bytes, list[Hidden]]:
        """Return what can be said now, and hide what may be the rest of a secret."""
        led = self._rest_of_secret(data)
        made, hidden = self._stream.feed(data[led:])
        if not led:
            return made, hidden
        moved = [Hidden(each.rule, each.offset + led, each.length) for each in hidden]
        return fitted(mark(UNDECIDED), led) + made, [Hidden(CREDENTIALS, 0, led), *moved]

    def _rest_of_secret(self, data: bytes) -> int:
        """Return how many bytes at its beginning may belong to something that began before.

        These are words, on whatever lines, as a private key has them; and then what comes up to the
        end of a line, because the first word may be what tells of a secret behind it.
        """
        if not self._led:
            return 0
        at = 0
        if self._is_in_run:
            found = _NO_RUN.search(data)
            at = len(data) if found is None else found.start()
            self._is_in_run = found is None
        if not self._is_in_run:
            found = _SEPARATOR.search(data, at)
            at = len(data) if found is None else found.start()
            if found is not None:
                self._led = 0
                return at
        at = min(at, self._led)
        self._led -= at
        return at

    def _drained(
        self, made: bytes, hidden: list[Hidden], own: _Waiting | None
    ) -> tuple[bytes, list[Span], int]:
        """Put content into its packets; return what is whole, and how much is before `own`."""
        self.digest.update(made)
        self.has_hidden = self.has_hidden or bool(hidden)
        out = bytearray()
        spans: list[Span] = []
        places: list[tuple[int, int, int]] = []
        at = 0
        before = None
        while self._waiting:
            one = self._waiting[0]
            if one is own:
                before = len(out)
            spans += [_moved(span, len(out)) for span in one.spans]
            out += one.head
            one.head, one.spans = b"", []
            size = min(one.left, len(made) - at)
            places.append((at, at + size, len(out) - at))
            out += made[at : at + size]
            at += size
            one.left -= size
            if one.left:
                break
            self._waiting.popleft()
        assert at == len(made)
        for each in hidden:
            for start, stop, by in places:
                begins, ends = max(start, each.offset), min(stop, each.offset + each.length)
                if begins < ends:
                    spans.append(Span(each.rule, "payload", begins + by, ends - begins))
        spans.sort(key=lambda span: span.offset)
        return bytes(out), spans, len(out) if before is None else before

    def _contents(self, payload: bytes, spans: list[Span]) -> Iterator[Event]:
        """Yield what was withheld, an event's worth each."""
        for start in range(0, len(payload), MAX_EVENT_BYTES):
            stop = start + MAX_EVENT_BYTES
            yield Event(
                kind=Kind.CONTENT,
                side=self.side,
                command_no=self._command_no,
                payload=payload[start:stop],
                spans=tuple(_moved(span, -start) for span in spans if start <= span.offset < stop),
            )


def _moved(span: Span, by: int) -> Span:
    return Span(span.rule, span.place, span.offset + by, span.length)
