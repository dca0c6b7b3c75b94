"""Masks a stream of bytes that is read in pieces, wherever the pieces are cut.

What is said of a piece is said only up to where nothing that is still to come could change it: the
rest waits. No detector's match crosses a separator but a private key's, so little waits where text
has lines, and never more than `MAX_PENDING_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentaudit.masking.detectors import GROUPS
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import CREDENTIALS, UNDECIDED, Masks
from agentaudit.masking.scan import Found

MAX_PENDING_BYTES: Final = 64 * 1024
"""What may wait. A match that is longer is masked to its end, whatever comes."""

_SEPARATOR: Final = re.compile(rb"[\0\r\n]")
_WORD_BYTES: Final = bytes(byte for byte in range(256) if chr(byte).isalnum() or byte >= 0x80) + (
    b"_+/=.@:%~-"
)
_NO_WORD: Final = re.compile(rb"[^0-9A-Za-z_+/=.@:%~\x80-\xff-]")
_SPACE: Final = re.compile(rb"[\0-\x20]")
_KEY_BEGINS: Final = re.compile(rb"-----BEGIN[ A-Z0-9]*PRIVATE KEY")
_HALF_HEADER: Final = re.compile(rb"-----BEGIN[ A-Z0-9]{0,40}\Z")
_KEY_ENDS: Final = re.compile(rb"-----END[^\0]{0,40}?-----")
_NO_KEY: Final = re.compile(rb"[^0-9A-Za-z+/=\\\r\n:, .-]")
"""What no PEM has. A run ends there at the latest: nobody hides a stream behind a header."""
_KEY_OVER: Final = re.compile(
    rb"(?P<end>-----END[^\0]{0,40}?-----)|[^0-9A-Za-z+/=\\\r\n:, .-]", re.DOTALL
)
_MOST_FOOTER: Final = 64
"""Bytes that a key's header or footer has at most."""
_LOOKBACK: Final = 4096
_CONTEXT_BYTES: Final = 128
"""How far before a secret what tells of it may begin."""

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
    been said already. `shown` returns a piece with NULs for what is no text in it, where there is
    such: it is called once for each piece, in order.
    """

    def __init__(
        self,
        masks: Masks,
        *,
        keeps_length: bool = False,
        shown: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._masks = masks
        self._keeps_length = keeps_length
        self._show = shown
        self._tail = b""
        self._shown = b""
        """What waits, and how much of it is text."""
        self._key = (-1, 0)
        """Where in that a private key has begun, and up to where its end was looked for."""
        self._run: tuple[str, re.Pattern[bytes]] | None = None
        self._swallowed = b""
        """The end of what was hidden of that: a private key may begin in it."""

    def learn(self, masks: Masks) -> None:
        """Hide from now on, and in what waits, what `masks` do."""
        self._masks = masks

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
        shown = data if self._show is None else self._show(data)
        if self._only_waits(shown):
            self._tail += data
            self._shown += shown
            return b"", []
        out = bytearray()
        hidden: list[Hidden] = []
        data, shown = self._tail + data, self._shown + shown
        swallowed = self._swallow(shown, out, hidden)
        data, shown = data[swallowed:], shown[swallowed:]
        cut = self._decided(shown)
        self._wait(data, shown, cut)
        self._mask(data[:cut], shown[:cut], out, hidden)
        if len(self._tail) > MAX_PENDING_BYTES:
            self._force(out, hidden)
        return bytes(out), hidden

    def finish(self, *, is_cut_off: bool = False) -> tuple[bytes, list[Hidden]]:
        """Return the rest: nothing comes any more.

        Where the stream is cut off in the middle, its last word may be half a secret: it is hidden.
        """
        out = bytearray()
        hidden: list[Hidden] = []
        swallowed = self._swallow(self._shown, out, hidden)
        tail, shown = self._tail[swallowed:], self._shown[swallowed:]
        cut = len(shown.rstrip(_WORD_BYTES)) if is_cut_off else len(shown)
        self._mask(tail[:cut], shown[:cut], out, hidden)
        if cut < len(tail):
            self._put(tail[cut:], Found(cut, len(tail), CREDENTIALS, UNDECIDED), out, hidden)
        self._wait(b"", b"", 0)
        self._run = None
        return bytes(out), hidden

    def give_up(self) -> tuple[bytes, list[Hidden]]:
        """Return all that waits, because it has become too much.

        Its last word may be half a secret: it is hidden, with what comes up to the end of its line.
        """
        out = bytearray()
        hidden: list[Hidden] = []
        swallowed = self._swallow(self._shown, out, hidden)
        tail, shown = self._tail[swallowed:], self._shown[swallowed:]
        cut = self._key_begun(shown, len(shown))
        ends, rule = _NO_KEY, self._rule_of_keys() if cut >= 0 else CREDENTIALS
        if cut < 0:
            cut = _last_begins(shown, self._masks.scanner.find(shown))
            ends = _SEPARATOR
        self._mask(tail[:cut], shown[:cut], out, hidden)
        if cut < len(tail):
            self._begin_run(tail[cut:], rule, ends, out, hidden)
        self._wait(b"", b"", 0)
        return bytes(out), hidden

    def flush(self) -> tuple[bytes, list[Hidden]]:
        """Return what waits but for its end, because it has waited for long enough.

        The last word may be half a secret, what stands before it may be what tells so, and a key
        that has begun may go on: these wait for what follows.
        """
        out = bytearray()
        hidden: list[Hidden] = []
        swallowed = self._swallow(self._shown, out, hidden)
        tail, shown = self._tail[swallowed:], self._shown[swallowed:]
        if swallowed:
            self._key = (-1, 0)
        cut = self._key_begun(shown, len(shown))
        if cut < 0:
            found = self._masks.scanner.find(shown)
            cut = max(0, min(_last_begins(shown, found), len(shown) - _CONTEXT_BYTES))
            cut = next((f.start for f in found if f.start < cut < f.stop), cut)
        self._wait(tail, shown, cut)
        self._mask(tail[:cut], shown[:cut], out, hidden)
        return bytes(out), hidden

    def _wait(self, data: bytes, shown: bytes, cut: int) -> None:
        """Keep what is behind `cut`."""
        self._tail, self._shown = data[cut:], shown[cut:]
        begun, looked = self._key
        self._key = (begun - cut, looked - cut) if begun >= cut else (-1, 0)

    # --- what can be said

    def _only_waits(self, shown: bytes) -> bool:
        """Say whether a piece decides nothing of what waits, so that nobody need look at it again.

        Somebody may send a line byte by byte.
        """
        if self._run is not None or len(self._tail) + len(shown) > MAX_PENDING_BYTES:
            return False
        return _SEPARATOR.search(shown) is None

    def _decided(self, shown: bytes) -> int:
        """Return up to where nothing that comes can change what is found."""
        last = max(shown.rfind(b"\n"), shown.rfind(b"\r"), shown.rfind(b"\0")) + 1
        begun = self._key_begun(shown, last)
        return last if begun < 0 else min(begun, last)

    def _key_begun(self, shown: bytes, until: int) -> int:
        """Return where a private key begins that has no end before `until`, -1 if none does."""
        begun, looked = self._key
        at = max(0, begun)
        while (found := _KEY_BEGINS.search(shown, at)) is not None:
            begun = found.start()
            over = _KEY_OVER.search(shown, max(found.end(), looked))
            if over is None:
                # It goes on; a footer may have begun.
                self._key = begun, len(shown) - _MOST_FOOTER
                return begun
            if over["end"] is not None and begun < until < over.end():
                self._key = begun, over.start()
                return begun
            at, looked = over.end(), 0
        self._key = (-1, 0)
        half = _HALF_HEADER.search(shown, max(0, len(shown) - _MOST_FOOTER))
        return -1 if half is None else half.start()

    def _mask(self, data: bytes, shown: bytes, out: bytearray, hidden: list[Hidden]) -> None:
        scanner = self._masks.scanner
        at = 0
        for each in scanner.found_in(shown) if shown and scanner.may_hold(shown) else []:
            out += data[at : each.start]
            self._put(data[each.start : each.stop], each, out, hidden)
            at = each.stop
        out += data[at:]

    def _put(self, value: bytes, found: Found, out: bytearray, hidden: list[Hidden]) -> None:
        hidden.append(Hidden(found.rule, len(out), len(value)))
        made = self._masks.rules[found.rule].inline(value, found.what)
        out += fitted(made, len(value)) if self._keeps_length else made

    # --- what is longer than may wait

    def _force(self, out: bytearray, hidden: list[Hidden]) -> None:
        """Say of a line without end what can be said, and let the rest be masked to its end."""
        tail, shown = self._tail, self._shown
        begun = self._key_begun(shown, len(shown))
        found = self._masks.scanner.find(shown)
        last = found[-1] if found else None
        if begun >= 0:
            self._mask(tail[:begun], shown[:begun], out, hidden)
            self._begin_run(tail[begun:], self._rule_of_keys(), _NO_KEY, out, hidden)
            cut = len(tail)
        elif last is not None and last.stop == len(tail):
            self._mask(tail[: last.start], shown[: last.start], out, hidden)
            self._begin_run(tail[last.start :], last.rule, _end_of(last), out, hidden)
            cut = len(tail)
        else:
            at = len(tail) - _LOOKBACK
            broken = _NO_WORD.search(shown, at)
            cut = at if broken is None else broken.end()
            cut = next((f.stop for f in found if f.start < cut < f.stop), cut)
            self._mask(tail[:cut], shown[:cut], out, hidden)
        self._wait(tail, shown, cut)

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
        self._swallowed = data[-_MOST_FOOTER:]

    def _swallow(self, shown: bytes, out: bytearray, hidden: list[Hidden]) -> int:
        """Hide what goes on with a run; return where that ends."""
        if self._run is None or not shown:
            return 0
        rule, ends = self._run
        stop = 0
        if ends is not _NO_KEY:
            found = ends.search(shown)
            stop = len(shown) if found is None else found.start()
            seen = self._swallowed + shown[:stop]
            self._swallowed = seen[-_MOST_FOOTER:]
            if found is not None:
                at = seen.rfind(b"-----BEGIN")
                has_key = at >= 0 and _KEY_BEGINS.match(seen, at) is not None
                # A line that ends with the header of a key does not end what is hidden.
                if has_key and _KEY_ENDS.search(seen, at) is None:
                    self._run = rule, (ends := _NO_KEY)
                else:
                    self._run = None
        if ends is _NO_KEY and (over := _KEY_OVER.search(shown, stop)) is not None:
            stop = over.start() if over["end"] is None else over.end()
            self._run = None
        elif ends is _NO_KEY:
            stop = len(shown)
        if stop:
            hidden.append(Hidden(rule, len(out), stop))
            if self._keeps_length:
                out += b"*" * stop
        return stop


def _last_begins(shown: bytes, found: Sequence[Found]) -> int:
    """Return where the last word begins, or what was `found` and reaches into it."""
    word = len(shown.rstrip(_WORD_BYTES))
    return min([word, *(each.start for each in found if each.stop > word)])


_OF_LINES: Final = frozenset(
    ["password_literal", "password_field", "password_nested", "password_dollar"]
    + ["authorization_parameters", "cookie"]
)
"""Detectors whose matches may have more than one word."""


def _end_of(found: Found) -> re.Pattern[bytes]:
    """Return what ends something that is longer than may wait: its word, or its line."""
    is_word = found.what in GROUPS["all"] and found.what not in _OF_LINES
    return _SPACE if is_word else _SEPARATOR


_SAMPLE_KEY: Final = b"-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----"


def fitted(made: bytes, length: int) -> bytes:
    """Return `made` with stars behind it, or cut, so that it has `length` bytes.

    >>> fitted(b"[masked]", 10), fitted(b"[masked]", 3)
    (b'[masked]**', b'[ma')
    """
    return made[:length].ljust(length, b"*")
