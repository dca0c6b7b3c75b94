"""Messages too long to be held, masked piece by piece.

Their length has been said, and passed, before their content is there; so what is hidden of them
becomes as many bytes as it was. A word that a piece cuts is withheld until the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from agentaudit._native.raw import int32_at, uint16_at
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import CREDENTIALS, Masks
from agentaudit.masking.stream import Stream, fitted
from agentaudit.model import Event, Flag, Kind, Side, Span, Step
from agentaudit.protocols.postgres_prepared import Portal

_ROW, _BIND, _CALL = b"DBF"


class LongMask:
    """One message of more than 256 KiB.

    `hidden_for` returns, for masks, the rules by which its values are hidden, and that of them all.
    """

    def __init__(
        self,
        masks: Masks,
        side: Side,
        hidden_for: Callable[[Masks], tuple[Sequence[str], str]],
    ) -> None:
        self._masks = masks
        self._rules, self._everything = hidden_for(masks)
        self._side = side
        self._stream = Stream(masks, keeps_length=True)
        self._left = 0
        self._values: _Values | None = None
        self._is_begun = False
        self._command_no = -1
        self._hash = hashlib.sha256()
        self._raw_hash = hashlib.sha256()
        self.hashes = ("", "")
        """The SHA-256 of the message as it was and as it is kept, once it is over."""
        self.portal: Portal | None = None
        """The portal that a long Bind makes."""
        client = masks.for_client if side is Side.TARGET else None
        self._for_client: LongMask | None = None
        self._is_for_client = client is not None
        if client is not None and client is not masks:
            self._for_client = LongMask(client, side, hidden_for)

    @property
    def pending(self) -> int:
        """How many bytes wait for what comes behind them."""
        return self._stream.pending

    def mask(self, step: Step, event: Event) -> bool:
        """Mask the next piece; return whether it was the last."""
        piece = event.payload
        assert piece is not None
        before = self._stream.pending
        self._command_no = event.command_no
        made, spans = self._take(piece)
        if self._is_for_client and step.frame:
            client = self._for_client
            step.frame = made if client is None else client._take(piece)[0]
        if before:
            content = self._content(made[:before], [s for s in spans if s.offset < before])
            made = made[before:]
            spans = [
                Span(s.rule, s.place, s.offset - before, s.length)
                for s in spans
                if s.offset >= before
            ]
            step.events = (content, *step.events)
        event.payload = made
        event.spans += tuple(spans)
        if self._stream.pending:
            event.flags |= Flag.WITHHELD
        if self._left == 0:
            self.hashes = self._raw_hash.hexdigest(), self._hash.hexdigest()
        return self._left == 0

    def flush(self, side: Side) -> list[Event]:
        """Return what was withheld, because it was for long enough.

        What the client is to get masked waits: it goes with the next piece.
        """
        if self._is_for_client:
            return []
        made, hidden = self._stream.flush()
        self._hash.update(made)
        if not made:
            return []
        return [self._content(made, [Span(h.rule, "payload", h.offset, h.length) for h in hidden])]

    def finish(self, side: Side, *, is_cut_off: bool = False) -> list[Event]:
        """Return what was withheld: no more comes."""
        made, hidden = self._stream.finish(is_cut_off=is_cut_off)
        if not made:
            return []
        return [self._content(made, [Span(h.rule, "payload", h.offset, h.length) for h in hidden])]

    def _content(self, payload: bytes, spans: list[Span]) -> Event:
        flags = Flag.FROM_TARGET if self._side is Side.TARGET else Flag.NONE
        return Event(
            kind=Kind.CONTENT,
            side=self._side,
            command_no=self._command_no,
            payload=payload,
            flags=flags | Flag.CONTINUED,
            spans=tuple(spans),
        )

    def _take(self, piece: bytes) -> tuple[bytes, list[Span]]:
        out = bytearray()
        spans: list[Span] = []
        self._raw_hash.update(piece)
        at = 0
        if not self._is_begun:
            self._is_begun = True
            self._left = 1 + int32_at(piece, 1)
            if piece[0] == _CALL and self._side is Side.CLIENT:
                # Arguments without names or types, of a call that is refused: nothing to read.
                self._everything = self._everything or CREDENTIALS
            at = self._begin(piece)
            out += piece[:at]
        self._left -= len(piece)
        while at < len(piece):
            values = self._values
            if values is None:
                self._put(piece[at:], self._everything, out, spans)
                break
            step, is_value, rule = values.next(piece, at)
            part = piece[at : at + step]
            at += step
            if not is_value:
                self._end_value(out, spans)
                out += part
            else:
                self._put(part, rule or self._everything, out, spans)
        if self._left == 0:
            self._end_value(out, spans)
        self._hash.update(out)
        return bytes(out), spans

    def _begin(self, piece: bytes) -> int:
        """Read what a message has before its values; return where they begin."""
        at = 5
        if piece[0] == _ROW and self._side is Side.TARGET:
            self._values = _Values(uint16_at(piece, at), self._rules)
            return at + 2
        if piece[0] == _BIND and self._side is Side.CLIENT:
            for _ in range(2):
                at = piece.find(b"\0", at) + 1
                if not at:
                    return 5
            if len(piece) - at < 2:
                return 5
            formats = at + 2 + 2 * uint16_at(piece, at)
            if len(piece) - formats < 2:
                return 5
            names = piece[5:at]
            if self._masks.scanner.may_hold(names) and self._masks.scanner.find(names):
                return 5
            self._values = _Values(uint16_at(piece, formats), self._rules)
            return formats + 2
        return at

    def _put(self, part: bytes, rule: str, out: bytearray, spans: list[Span]) -> None:
        if rule:
            spans.append(Span(rule, "payload", len(out), len(part)))
            out += fitted(mark(rule), len(part))
            return
        at = len(out)
        made, hidden = self._stream.feed(part)
        spans += [Span(h.rule, "payload", at + h.offset, h.length) for h in hidden]
        out += made

    def _end_value(self, out: bytearray, spans: list[Span]) -> None:
        at = len(out)
        made, hidden = self._stream.finish()
        spans += [Span(h.rule, "payload", at + h.offset, h.length) for h in hidden]
        out += made


class _Values:
    """Where values begin and end in what comes in pieces."""

    def __init__(self, count: int, rules: Sequence[str]) -> None:
        self._count = count
        self._rules = rules
        self._number = -1
        self._left = 0
        self._length = b""

    def next(self, piece: bytes, at: int) -> tuple[int, bool, str]:
        """Return how many bytes come next of one kind, whether they are a value's, and its rule."""
        if self._left:
            step = min(self._left, len(piece) - at)
            self._left -= step
            number = self._number
            return step, True, self._rules[number] if number < len(self._rules) else ""
        if self._number + 1 >= self._count:
            return len(piece) - at, False, ""
        step = min(4 - len(self._length), len(piece) - at)
        self._length += piece[at : at + step]
        if len(self._length) == 4:
            self._left = max(0, int32_at(self._length, 0))
            self._length = b""
            self._number += 1
        return step, False, ""
