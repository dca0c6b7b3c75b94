"""The terminal of an SSH command over time: what was said on it, and what stood on its screen.

What a person saw is told by `protocols.ssh_screen`, the one emulator: no escape sequence that an
agent or a host chose goes on from here, only text and how it looked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from agentaudit.model import Flag
from agentaudit.protocols import ssh, ssh_screen
from agentaudit.protocols.ssh_screen import Row, Screen

if TYPE_CHECKING:
    from agentaudit.analysis.session import Session

USUAL_SIZE: Final = (80, 24)
"""Columns and rows of a terminal that says none, or zero (RFC 4254, section 6.2)."""

MAX_SIDE: Final = 65_535
"""Columns or rows of which a window may be said to be; a screen takes fewer."""

# Whose words a cell has goes with its characters, through whatever moves them on a screen: those of
# masks and of the gateway are told to it as characters that nobody else can say.
_MARKED: Final = 0x10F000
_OURS: Final = 0x10F100
_TAKEN: Final = re.compile(rb"\xf4\x8f[\x80-\x87][\x80-\xbf]")
_TAKEN_YET: Final = re.compile(rb"\xf4(?:\x8f[\x80-\x87]?)?\Z")
_UNKNOWN: Final = "\ufffd".encode()
_MARK: Final = re.compile(rb"\[masked:[a-z0-9_-]{1,40}\]|\*{4}[\w-]{4}|pn_[a-z2-7]{4}_[a-z2-7]+")
_WHOSE: Final = re.compile("[\U0010f000-\U0010f1ff]+")

# Before these, all that scrolls off or is erased is looked at once more.
_ERASES: Final = re.compile(
    rb"\x1b(?:\[[0-9;]{0,16}[JLMST]|\[\?(?:[0-9]{0,2}47|1049|[0-9;]{0,8}J)|c)"
)
_SLICE_BYTES: Final = 64
"""Between two of those at least, but for the first few of an event: a look is dear."""
_FREE_SLICES: Final = 16
_MANY: Final = 8
"""Times the rows that a screen still knows, in bytes: a piece of output that has few lines."""

MAX_JOINED: Final = 100
"""Rows that are read as one line, at most."""

Whose = Literal["", "masked", "ours"]


def words_of(cells: str) -> str:
    """Return text of a screen as it is read, whoever said it."""
    return _WHOSE.sub(lambda run: "".join(chr(ord(each) & 0xFF) for each in run[0]), cells)


def whose(cell: str) -> Whose:
    """Return who said what stands in a cell, "" for the target."""
    code = ord(cell[0]) if cell else 0
    return "ours" if _OURS <= code < _OURS + 0x100 else "masked" if _MARKED <= code < _OURS else ""


def _said_as(data: bytes, base: int) -> bytes:
    """Return words as characters of their own; what is not printable ASCII stays as it is."""
    words = data.decode("utf-8", "replace")
    return "".join(chr(base + ord(each)) if " " <= each <= "~" else each for each in words).encode()


class Display:
    """A screen that also knows whose words stand on it: the target's, a mask's or the gateway's."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.screen = Screen(*size)
        self._kept = b""

    def take(self, moment: Moment) -> None:
        """Follow what happened."""
        if moment.kind == "size":
            self.screen.resize(*moment.size)
        elif moment.kind == "output":
            for part in moment.parts():
                self.feed(part)

    def feed(self, part: Part) -> None:
        if part.whose:
            self._flush()
            base = _OURS if part.whose == "ours" else _MARKED
            self.screen.feed(_said_as(part.data, base))
            return
        data = self._kept + part.data
        self._kept = b""
        if b"\xf4" in data:
            if yet := _TAKEN_YET.search(data):
                data, self._kept = data[: yet.start()], yet[0]
            data = _TAKEN.sub(_UNKNOWN, data)
        self.screen.feed(data)

    def _flush(self) -> None:
        if self._kept:
            self.screen.feed(self._kept)
            self._kept = b""

    @property
    def first(self) -> int:
        """The number of the row on top."""
        return self.screen.place[0] - self.screen.cursor[1]

    def rows(self) -> list[Row]:
        """Return the rows that are shown, from the top."""
        first = self.first
        found = (self.screen.row(first + at) for at in range(self.screen.height))
        return [row for row in found if row is not None]

    def text(self) -> list[str]:
        """Return what is shown as text, without the empty rows at the end."""
        rows = [words_of(row).rstrip() for row in self.screen.text()]
        while rows and not rows[-1]:
            rows.pop()
        return rows


class Part(NamedTuple):
    """A piece of output that one has said."""

    data: bytes
    whose: Whose = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened on a terminal, `at_us` behind the beginning of its command.

    `hidden` is where in the output masks left marks: the place of each and its rule.
    """

    at_us: int
    event_no: int
    kind: Literal["output", "input", "size", "exit"]
    data: bytes = b""
    hidden: tuple[tuple[int, str], ...] = ()
    is_ours: bool = False
    text: str = ""
    size: tuple[int, int] = USUAL_SIZE
    status: int = 0

    def parts(self) -> Iterator[Part]:
        """Yield the output by whose words they are."""
        if self.is_ours:
            yield Part(self.data, "ours")
            return
        end = 0
        for start, _ in self.hidden:
            if start >= end and (mark := _MARK.match(self.data, start)):
                yield Part(self.data[end:start])
                yield Part(mark[0], "masked")
                end = mark.end()
        yield Part(self.data[end:])


class Terminal:
    """One command's terminal; get it with `Session.terminal`."""

    def __init__(self, session: Session, command_no: int, request: str) -> None:
        self.session = session
        self.command_no = command_no
        _, self.kind, *numbers = (*ssh.words(request), "")
        self.size = _size(numbers, USUAL_SIZE)
        self.refresh()

    def refresh(self) -> None:
        """Look how long it is by now."""
        span = self.session.ask("terminal_span", command_no=self.command_no)
        ((first, began_at, began_ns, ended_ns),) = span.fetchall()
        self.began_at: datetime = began_at
        self._before, self._began_ns = first - 1, began_ns
        self.duration_us: int = (ended_ns - began_ns) // 1_000

    def moments(self, after: int | None = None) -> Iterator[Moment]:
        """Yield what was said on it, in order; behind the event of a number where that is given."""
        if self.session.is_purged:
            return
        size = self.size
        rows = self.session.pieces(
            "terminal_sizes",
            "terminal_events",
            of={"after": self._before if after is None else after},
            command_no=self.command_no,
        )
        for row in rows:
            at = (row["mono_ns"] - self._began_ns) // 1_000, row["event_no"]
            if row["kind"] == "notice":
                name, *values = ssh.words(row["text"] or "")
                if name == "window-change":
                    before, size = size, _size(values, size)
                    if size != before:
                        yield Moment(*at, "size", size=size)
                elif name == "exit-status":
                    yield Moment(*at, "exit", status=row["status"] or 0)
                elif name == "exit-signal":
                    yield Moment(*at, "exit", status=_status_of(values[0] if values else ""))
            elif row["side"] == "client":
                if row["text"] is None:  # else it is what the channel is for
                    yield Moment(*at, "input", row["payload"])
            else:
                yield Moment(
                    *at,
                    "output",
                    row["payload"],
                    hidden=tuple(
                        (span["offset"], span["rule"])
                        for span in row["mask_spans"]
                        if span["place"] == "payload"
                    ),
                    is_ours=bool(row["flags"] & Flag.SYNTHETIC),
                    text=row["text"] or "",
                )

    @property
    def shown_size(self) -> tuple[int, int]:
        """Columns and rows at first, as far as a screen takes them."""
        return ssh_screen.clamped(*self.size)

    def steps(self, step_us: int) -> Iterator[Step]:
        """Yield when something changed, in steps of so many microseconds from the beginning."""
        if self.session.is_purged:
            return
        rows = self.session.ask(
            "terminal_steps",
            command_no=self.command_no,
            began_ns=self._began_ns,
            step_ns=step_us * 1_000,
        ).fetchall()
        for at_ns, last_event_no, size in rows:
            yield Step(at_ns // 1_000, last_event_no, size)

    def looks(self) -> Iterator[Look]:
        """Yield what is to be seen whenever something may have changed, and before it is erased.

        Rows that scroll by between two looks are told by the second.
        """
        display = Display(self.size)
        first = 0
        for moment in self.moments():
            for happen in _each(display, moment):
                happen()
                gone: list[Row] = []
                if not display.screen.is_alternate:  # below it the main screen stands still
                    gone = _gone(display, first)
                    first = display.first
                yield Look(moment.at_us, display, gone)

    def lines(self) -> Iterator[str]:
        """Yield the lines that scrolled by, and then those on the last screen, as they were read.

        What was erased is in none of them.
        """
        empty = 0
        for line in logical(self._passed()):
            if not line:
                empty += 1
                continue
            yield from [""] * empty
            empty = 0
            yield line

    def _passed(self) -> Iterator[Row]:
        look = None
        for look in self.looks():
            yield from look.gone
        if look is not None:
            yield from look.display.rows()

    def last(self) -> Display:
        """Return the screen at the end, or as it is by now."""
        display = Display(self.size)
        for moment in self.moments():
            display.take(moment)
        return display


class Step(NamedTuple):
    """A time at which something changed, the last event up to then, and the bytes of output."""

    at_us: int
    last_event_no: int
    size: int


class Look(NamedTuple):
    """What is to be seen at a time, and the rows that scrolled off since the look before."""

    at_us: int
    display: Display
    gone: Sequence[Row]


def logical(rows: Iterable[Row], text: Callable[[Row], str] = Row.text) -> Iterator[str]:
    """Yield rows as lines of text: one that was too long for a row is one line again.

    `text` says what is in a row, for whoever has read it before.
    """
    line: list[str] = []
    for row in rows:
        if line and (not row.goes_on or len(line) == MAX_JOINED):
            yield words_of("".join(line)).rstrip()
            line = []
        line.append(text(row))
    if line:
        yield words_of("".join(line)).rstrip()


def _slices(data: bytes, screen: Screen) -> Iterator[bytes]:
    """Yield output in pieces that scroll no more rows off than a screen still knows."""
    most = max(_SLICE_BYTES, min(ssh_screen.MAX_SIDE, ssh_screen.MAX_CELLS // screen.columns))
    start = cuts = 0
    for cut in (*(match.start() for match in _ERASES.finditer(data)), len(data)):
        if cut != len(data) and cut - start < _SLICE_BYTES and cuts >= _FREE_SLICES:
            continue
        cuts += 1
        while start < cut:
            end = min(cut, start + _MANY * most)
            if _may_scroll(data[start:end], screen) > most:
                end = min(cut, start + most)
            yield data[start:end]
            start = end


def _may_scroll(data: bytes, screen: Screen) -> int:
    """Return how many rows output may scroll off at most, but for what `_ERASES` finds."""
    feeds = sum(map(data.count, (b"\n", b"\v", b"\f", b"\x84", b"\x85", b"\x1b")))
    return feeds - data.count(b"\x1b[") + len(data) // screen.columns + 1


def _each(display: Display, moment: Moment) -> Iterator[Callable[[], None]]:
    """Yield what a moment does to a screen, in pieces after each of which it is looked at."""
    if moment.kind == "size":
        yield partial(display.take, moment)
    elif moment.kind == "output":
        for part in moment.parts():
            for data in _slices(part.data, display.screen):
                yield partial(display.feed, part._replace(data=data))


def _gone(display: Display, first: int) -> list[Row]:
    """Return the rows from the number `first` on that have scrolled off, if they are known."""
    now = display.first
    numbers = range(max(first, now - ssh_screen.MAX_SIDE), now)
    return [row for row in map(display.screen.row, numbers) if row is not None]


def _size(values: Sequence[str], otherwise: tuple[int, int]) -> tuple[int, int]:
    """Return columns and rows as a client says them; a zero says nothing."""
    try:
        columns, rows = (max(0, int(value)) for value in values[:2])
    except ValueError:
        return otherwise
    return min(columns or otherwise[0], MAX_SIDE), min(rows or otherwise[1], MAX_SIDE)


def _status_of(signal: str) -> int:
    """Return the exit status by which shells tell that a program was ended by a signal.

    >>> _status_of("TERM"), _status_of("nonsense@example.com")
    (143, 128)
    """
    try:
        return 128 + Signals[f"SIG{signal}"]
    except KeyError:
        return 128
