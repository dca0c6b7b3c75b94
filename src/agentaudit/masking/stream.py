"""Masks a stream of bytes that is read in pieces, wherever the pieces are cut.

What is said of a piece is said only up to where nothing that is still to come could change it: the
rest waits. No detector's match crosses a separator but a private key's, so little waits where text
has lines, and never more than `MAX_PENDING_BYTES`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agentaudit.masking.marks import mark
from agentaudit.masking.masks import CREDENTIALS, UNDECIDED, Masks
from agentaudit.masking.scan import Found, united

MAX_PENDING_BYTES: Final = 64 * 1024
"""What may wait. A match that is longer is masked to its end, whatever comes."""

_SEPARATOR: Final = re.compile(rb"[\0\r\n]")
_WORD: Final = re.compile(rb"[0-9A-Za-z_+/=.@:%~\x80-\xff-]*\Z")
_NO_WORD: Final = re.compile(rb"[^0-9A-Za-z_+/=.@:%~\x80-\xff-]")
_KEY_BEGINS: Final = re.compile(rb"-----BEGIN[ A-Z0-9]*PRIVATE KEY")
_HALF_HEADER: Final = re.compile(rb"-----BEGIN[ A-Z0-9]{0,40}\Z")
_KEY_ENDS: Final = re.compile(rb"-----END[^\0]{0,40}?-----")
_NO_KEY: Final = re.compile(rb"[^0-9A-Za-z+/=\\\r\n:, .-]")
"""What no PEM has. A run ends there at the latest: nobody hides a stream behind a header."""
_LOOKBACK: Final = 4096
_CONTEXT_BYTES: Final = 128
"""How far before a secret what tells of it may begin."""

_LAST_LENGTH: Final = re.compile(rb"\0+[^\0]*\Z")
_LENGTHS: Final = (
    re.compile(rb"\0{3,}[^\0]?|\0\0[^\0]{2}", re.DOTALL),
    re.compile(rb"\0{2,}[^\0]{1,2}", re.DOTALL),
)
"""Lengths of values of up to 64 KiB, in four bytes before them: as zeros may stand before a length
too, where it begins can be told in two ways."""


def without_lengths(data: bytes) -> tuple[bytes, ...]:
    """Return `data` with NULs for what may be the lengths of its values, in each way."""
    return tuple(lengths.sub(lambda found: bytes(len(found[0])), data) for lengths in _LENGTHS)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What was hidden in the bytes that `feed` returned: the rule, where its mark is, how much."""

    rule: str
    offset: int
    length: int


class Stream:
    """One direction of a connection, or one long value, on its way to the archive.

    With `keeps_length` what is hidden becomes as many bytes as it was, for frames whose length has
    been said already. Where it `has_lengths`, values have theirs before them, in four bytes, and
    those are no text.
    """

    def __init__(
        self, masks: Masks, *, keeps_length: bool = False, has_lengths: bool = False
    ) -> None:
        self._masks = masks
        self._keeps_length = keeps_length or has_lengths
        self.has_lengths = has_lengths
        self._tail = b""
        self._run: tuple[str, re.Pattern[bytes]] | None = None

    @property
    def pending(self) -> int:
        """How many bytes of what was fed wait."""
        return len(self._tail)

    @property
    def is_in_run(self) -> bool:
        """Whether what comes next belongs to something that is hidden."""
        return self._run is not None

    def feed(self, data: bytes) -> tuple[bytes, list[Hidden]]:
        """Return what can be said now, masked, and what was hidden in it."""
        if self._only_waits(data):
            self._tail += data
            return b"", []
        out = bytearray()
        hidden: list[Hidden] = []
        data = self._swallow(self._tail + data, out, hidden)
        cut = self._decided(data)
        self._tail = data[cut:]
        self._mask(data[:cut], out, hidden)
        if len(self._tail) > MAX_PENDING_BYTES:
            self._force(out, hidden)
        return bytes(out), hidden

    def finish(self, *, is_cut_off: bool = False) -> tuple[bytes, list[Hidden]]:
        """Return the rest: nothing comes any more.

        Where the stream is cut off in the middle, its last word may be half a secret: it is hidden.
        """
        out = bytearray()
        hidden: list[Hidden] = []
        tail, self._tail = self._swallow(self._tail, out, hidden), b""
        word = _WORD.search(tail) if is_cut_off else None
        cut = len(tail) if word is None else word.start()
        self._mask(tail[:cut], out, hidden)
        if cut < len(tail):
            self._put(tail[cut:], Found(cut, len(tail), CREDENTIALS, UNDECIDED), out, hidden)
        self._run = None
        return bytes(out), hidden

    def flush(self) -> tuple[bytes, list[Hidden]]:
        """Return what waits but for its end, because it has waited for long enough.

        The last word may be half a secret, what stands before it may be what tells so, and a key
        that has begun may go on: these wait for what follows.
        """
        out = bytearray()
        hidden: list[Hidden] = []
        tail = self._swallow(self._tail, out, hidden)
        cut = self._key_begun(tail, len(tail))
        if cut < 0:
            word = _WORD.search(tail)
            assert word is not None
            found = self._find(tail)
            begun = min([word.start(), *(f.start for f in found if f.stop > word.start())])
            cut = max(0, min(begun, len(tail) - _CONTEXT_BYTES))
            cut = next((f.start for f in found if f.start < cut < f.stop), cut)
        self._tail = tail[cut:]
        self._mask(tail[:cut], out, hidden)
        return bytes(out), hidden

    # --- what can be said

    def _only_waits(self, data: bytes) -> bool:
        """Say whether `data` decides nothing of what waits, so that nobody need look at it again.

        Somebody may send a line byte by byte.
        """
        if self._run is not None or len(self._tail) + len(data) > MAX_PENDING_BYTES:
            return False
        return (b"\0" not in data) if self.has_lengths else _SEPARATOR.search(data) is None

    def _decided(self, data: bytes) -> int:
        """Return up to where nothing that comes can change what is found in `data`."""
        if self.has_lengths:
            # A length stays with its value: it begins with NULs.
            found = _LAST_LENGTH.search(data)
            last = 0 if found is None else found.start()
        else:
            last = max(data.rfind(b"\n"), data.rfind(b"\r"), data.rfind(b"\0")) + 1
        begun = self._key_begun(data, last)
        return last if begun < 0 else min(begun, last)

    def _key_begun(self, data: bytes, until: int) -> int:
        """Return where a private key begins that has no end before `until`, -1 if none does."""
        for found in reversed(list(_KEY_BEGINS.finditer(data))):
            end = _KEY_ENDS.search(data, found.end())
            if end is not None:
                return found.start() if found.start() < until < end.end() else -1
            if _NO_KEY.search(data, found.end()) is None:
                return found.start()
        half = _HALF_HEADER.search(data)
        return -1 if half is None else half.start()

    def _mask(self, data: bytes, out: bytearray, hidden: list[Hidden]) -> None:
        found = self._find(data) if data and self._masks.scanner.may_hold(data) else []
        at = 0
        for each in found:
            out += data[at : each.start]
            self._put(data[each.start : each.stop], each, out, hidden)
            at = each.stop
        out += data[at:]

    def _find(self, data: bytes) -> list[Found]:
        if not self.has_lengths:
            return self._masks.scanner.find(data)
        found = [f for each in without_lengths(data) for f in self._masks.scanner.find(each)]
        return united(found)

    def _put(self, value: bytes, found: Found, out: bytearray, hidden: list[Hidden]) -> None:
        hidden.append(Hidden(found.rule, len(out), len(value)))
        made = self._masks.rules[found.rule].inline(value, found.what)
        out += fitted(made, len(value)) if self._keeps_length else made

    # --- what is longer than may wait

    def _force(self, out: bytearray, hidden: list[Hidden]) -> None:
        """Say of a line without end what can be said, and let the rest be masked to its end."""
        tail, self._tail = self._tail, b""
        begun = self._key_begun(tail, len(tail))
        found = self._find(tail)
        last = found[-1] if found else None
        if begun >= 0:
            self._mask(tail[:begun], out, hidden)
            self._begin_run(tail[begun:], self._rule_of_keys(), _NO_KEY, out, hidden)
        elif last is not None and last.stop == len(tail):
            self._mask(tail[: last.start], out, hidden)
            self._begin_run(tail[last.start :], last.rule, _NO_WORD, out, hidden)
        else:
            at = len(tail) - _LOOKBACK
            breaks = list(_NO_WORD.finditer(tail, at))
            cut = breaks[0].end() if breaks else at
            cut = next((f.stop for f in found if f.start < cut < f.stop), cut)
            self._tail = tail[cut:]
            self._mask(tail[:cut], out, hidden)

    def _rule_of_keys(self) -> str:
        return next(
            (f.rule for f in self._masks.scanner.find(_SAMPLE_KEY)),
            UNDECIDED,
        )

    def _begin_run(
        self,
        data: bytes,
        rule: str,
        ends: re.Pattern[bytes],
        out: bytearray,
        hidden: list[Hidden],
    ) -> None:
        hidden.append(Hidden(rule, len(out), len(data)))
        made = mark(rule)
        out += fitted(made, len(data)) if self._keeps_length else made
        self._run = rule, ends

    def _swallow(self, data: bytes, out: bytearray, hidden: list[Hidden]) -> bytes:
        """Hide what goes on with a run; return what is behind it."""
        if self._run is None or not data:
            return data
        rule, ends = self._run
        stop = len(data)
        if (found := ends.search(data)) is not None:
            stop = found.start()
            self._run = None
        if ends is _NO_KEY and (end := _KEY_ENDS.search(data, 0, stop)) is not None:
            stop = end.end()
            self._run = None
        if stop:
            hidden.append(Hidden(rule, len(out), stop))
            if self._keeps_length:
                out += b"*" * stop
        return data[stop:]


_SAMPLE_KEY: Final = b"-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----"


def fitted(made: bytes, length: int) -> bytes:
    """Return `made` with stars behind it, or cut, so that it has `length` bytes.

    >>> fitted(b"[masked]", 10), fitted(b"[masked]", 3)
    (b'[masked]**', b'[ma')
    """
    return made[:length].ljust(length, b"*")
