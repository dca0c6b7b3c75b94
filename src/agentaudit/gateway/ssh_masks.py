"""Masks what an SSH channel says in one direction, before it is recorded.

A terminal's bytes go on at once, whatever they may turn out to be part of: of what cannot be told
yet, the length is recorded first and the content when it can be, at the latest after a moment.
"""

from __future__ import annotations

from agentaudit.masking.marks import mark
from agentaudit.masking.masks import Masks
from agentaudit.masking.stream import Hidden, Stream
from agentaudit.model import Event, Flag, Kind, Side, Span


class ChannelMask:
    """One of a channel's streams; `status` is what its events have (`protocols.ssh.STDERR`)."""

    def __init__(self, masks: Masks, side: Side, command_no: int, status: int | None) -> None:
        self._masks = masks
        self._stream = Stream(masks)
        self._side = side
        self._kind = Kind.REQUEST if side is Side.CLIENT else Kind.RESPONSE
        self._command_no = command_no
        self._status = status
        self._is_hiding = False

    @property
    def is_withholding(self) -> bool:
        """Whether content of something that was recorded is still to come."""
        return self._stream.pending > 0

    def events(self, data: bytes) -> list[Event]:
        """Return what is to be recorded of `data` before it goes on."""
        stream = self._stream
        self._is_hiding = False
        made, hidden = b"", list[Hidden]()
        if self._waits_for_nothing():
            if data.endswith((b"\n", b"\r", b"\0")) and self._masks.scanner.is_clean(data):
                return [self._event(data, len(data))]
            made, hidden = stream.feed(data)
            if self._waits_for_nothing():
                return [self._event(made, len(data), hidden)]
        else:
            made, hidden = stream.feed(data)
        withheld = self._event(None, len(data))
        withheld.flags |= Flag.WITHHELD
        return [withheld, *self._content(made, hidden)]

    def hide(self, data: bytes, rule: str) -> list[Event]:
        """Return what is to be recorded of `data` that `rule` hides whatever it is: its length.

        One mark stands for all that is hidden in a row.
        """
        before = self._content(*self._stream.finish(is_cut_off=True))
        event = self._event(b"" if self._is_hiding else mark(rule), len(data))
        event.spans = (Span(rule, "payload", 0, len(data)),)
        self._is_hiding = True
        return [*before, event]

    def learn(self, masks: Masks) -> None:
        """Hide from now on what `masks` do."""
        self._masks = masks
        self._stream.learn(masks)

    def _waits_for_nothing(self) -> bool:
        return not self._stream.pending and not self._stream.is_in_run

    def flush(self) -> list[Event]:
        """Return what was withheld for long enough, but for what may be half a secret."""
        return self._content(*self._stream.flush())

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        """Return all that was withheld: nothing more comes.

        Of a stream that was cut off the last word may be half a secret, so that is hidden.
        """
        return self._content(*self._stream.finish(is_cut_off=is_cut_off))

    def _event(self, payload: bytes | None, size: int, hidden: list[Hidden] | None = None) -> Event:
        return Event(
            kind=self._kind,
            side=self._side,
            command_no=self._command_no,
            payload=payload,
            orig_len=size,
            status=self._status,
            spans=_spans(hidden or []),
        )

    def _content(self, made: bytes, hidden: list[Hidden]) -> list[Event]:
        if not made:
            return []
        return [
            Event(
                kind=Kind.CONTENT,
                side=self._side,
                command_no=self._command_no,
                payload=made,
                status=self._status,
                spans=_spans(hidden),
            )
        ]


def _spans(hidden: list[Hidden]) -> tuple[Span, ...]:
    return tuple(Span(each.rule, "payload", each.offset, each.length) for each in hidden)
