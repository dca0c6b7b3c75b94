"""The screen of a terminal as frames: rows of styled text and their times, for whoever draws them.

A frame has what changed, and the first of each page is whole, so that any time is a page away. The
names are those of `extension/components/src/replay/film.ts`. Colours become one of eight, for the
reader's theme decides what can be read; what a program hid is shown, and said to have been hidden.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from agentaudit.analysis.terminal import Display, Moment, Terminal, whose, words_of
from agentaudit.protocols.ssh_screen import PLAIN, Row, Style

PAGE_FRAMES: Final = 64
STEP_US: Final = 33_000
"""What changes within this time is one frame: thirty a second."""
MAX_FRAMES: Final = 50_000
"""Of one terminal; where there would be more, they are further apart."""
MAX_OUTPUT_BYTES: Final = 16 << 20
"""Of a terminal's output as much is shown as frames: what is asked for must be answered in time."""
MAX_PAGE_BYTES: Final = 1 << 20
"""About: what is beyond in a page is shown by its last frame alone."""

_KEPT: Final = 4
"""Screens that are remembered, so that going back need not begin at the beginning."""
_RUN_BYTES: Final = 12

_BOLD, _FAINT, _ITALIC, _UNDERLINE, _REVERSE, _STRIKE, _MASKED, _OURS, WIDE, HIDDEN = (
    1 << bit for bit in range(10, 20)
)
_TAIL: Final = "\0"

Stretch = str | tuple[str, int]
Frame = dict[str, Any]


class Film:
    """One terminal as frames, from any thread; `refresh` lets in what was recorded meanwhile."""

    def __init__(self, terminal: Terminal, most: int = MAX_FRAMES) -> None:
        self.terminal = terminal
        self._most = most
        self._asking = threading.Lock()
        self._kept: dict[int, tuple[Display, int | None]] = {}
        self._read_steps()
        self._begin(0, Display(terminal.size), None)

    def refresh(self) -> None:
        """Let what was recorded meanwhile be in it."""
        with self._asking:
            self.terminal.refresh()
            self._read_steps()
            self._begin(self._page, self._display, self._after)

    def _read_steps(self) -> None:
        steps = list(self.terminal.steps(STEP_US))
        if len(steps) > self._most:
            steps = list(self.terminal.steps(self.terminal.duration_us // self._most + 1))
        shown = [step for step in steps if step.size <= MAX_OUTPUT_BYTES] or steps[:1]
        self.left_out = ""
        if len(shown) < len(steps):
            self.left_out = (
                f"the screen is shown up to {shown[-1].at_us / 1e6:,.1f} s: of a terminal's output "
                f"{MAX_OUTPUT_BYTES >> 20} MiB are; the archive has the rest"
            )
        self.times_ms = [step.at_us // 1_000 for step in shown]
        self._events = [step.last_event_no for step in shown]

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return -(-len(self.times_ms) // PAGE_FRAMES)

    def page(self, number: int) -> list[Frame]:
        """Return the frames of a page, from 0; none of one that there is not."""
        if not 0 <= number < self.pages:
            return []
        with self._asking:
            self._go_to(number)
            return self._frames(number)

    def _begin(self, page: int, display: Display, after: int | None) -> None:
        self._page, self._display, self._after = page, display, after
        self._moments = self.terminal.moments(after)
        self._next: Moment | None = next(self._moments, None)

    def _go_to(self, number: int) -> None:
        if number < self._page:
            before = max((page for page in self._kept if page <= number), default=0)
            if before:
                display, after = self._kept[before]
                self._begin(before, copy.deepcopy(display), after)
            else:
                self._begin(0, Display(self.terminal.size), None)
        while self._page < number:
            last = min((self._page + 1) * PAGE_FRAMES, len(self._events)) - 1
            self._feed(self._events[last])
            self._page += 1
            self._keep()

    def _keep(self) -> None:
        is_last = self._page == self.pages - 1  # which is asked for again while a session is live
        if self._page in self._kept or (self._page % -(-self.pages // _KEPT) and not is_last):
            return
        self._kept[self._page] = (copy.deepcopy(self._display), self._after)
        while len(self._kept) > _KEPT:
            del self._kept[min(self._kept)]

    def _feed(self, last_event_no: int) -> None:
        """Follow what happened up to an event."""
        while self._next is not None and self._next.event_no <= last_event_no:
            self._display.take(self._next)
            self._after = self._next.event_no
            self._next = next(self._moments, None)

    def _frames(self, number: int) -> list[Frame]:
        self._keep()
        first = number * PAGE_FRAMES
        events = self._events[first : first + PAGE_FRAMES]
        changes = Changes()
        frames: list[Frame] = []
        size = 0
        for place, event_no in enumerate(events, 1):
            self._feed(event_no)
            is_told = size < MAX_PAGE_BYTES or place == len(events)
            frame = changes.frame(self._display) if is_told else {"rows": [], "cursor": None}
            size += sum(_weight(row) for _, row in frame["rows"])
            frames.append(frame)
        self._page = number + 1
        return frames


class Changes:
    """Says what of a screen is another than it was before."""

    def __init__(self) -> None:
        self._rows: list[tuple[list[str], list[Style] | None]] = []
        self._size = (0, 0)

    def frame(self, display: Display) -> Frame:
        """Return what changed since the last frame; all, of the first."""
        screen = display.screen
        told: list[tuple[int, list[Stretch]]] = []
        rows = display.rows()
        size = (screen.columns, screen.height)
        frame: Frame = {"rows": told, "cursor": None}
        if size != self._size:
            # Rows that are there anew are empty for who draws them, and those that stay stay.
            frame["size"] = size
            del self._rows[screen.height :]
            self._rows += [([], None)] * (screen.height - len(self._rows))
            self._size = size
        for at, row in enumerate(rows):
            cells, styles = self._rows[at]
            if row.cells != cells or row.styles != styles:
                self._rows[at] = (row.cells[:], None if row.styles is None else row.styles[:])
                told.append((at, stretches(row)))
        if screen.is_cursor_shown:
            column, line = screen.cursor
            frame["cursor"] = (line, column)
        return frame


def stretches(row: Row) -> list[Stretch]:
    """Return a row as stretches of text that look the same; a plain one is its text alone."""
    found: list[Stretch] = []
    text: list[str] = []
    before = 0
    styles = row.styles
    for at, cell in enumerate(row.cells):
        if cell == _TAIL:
            continue
        look = 0 if styles is None else look_of(styles[at])
        if not cell.isascii():
            look |= _LOOK_OF_WHOSE[whose(cell)]
        if row.cells[at + 1 : at + 2] == [_TAIL]:
            look |= WIDE
        if look != before and text:
            found.append(_stretch(text, before))
            text = []
        before = look
        text.append(cell or " ")
    if text:
        found.append(_stretch(text, before))
    if found and isinstance(found[-1], str):
        found[-1] = found[-1].rstrip(" ")
        if not found[-1]:
            found.pop()
    return found


def _stretch(text: list[str], look: int) -> Stretch:
    joined = words_of("".join(text))
    return (joined, look) if look else joined


_LOOK_OF_WHOSE: Final = {"": 0, "masked": _MASKED, "ours": _OURS}


@lru_cache(maxsize=4096)
def look_of(style: Style) -> int:
    """Return how a style looks, as bits: five for ink, five for paper, and one for each else.

    >>> look_of(PLAIN), look_of(Style(foreground=9, is_bold=True)) == 2 | _BOLD
    (0, True)
    """
    if style is PLAIN:
        return 0
    look = _hue(style.foreground) | _hue(style.background) << 5
    flags = (
        (style.is_bold, _BOLD),
        (style.is_faint, _FAINT),
        (style.is_italic, _ITALIC),
        (style.is_underlined, _UNDERLINE),
        (style.is_inverse, _REVERSE),
        (style.is_struck, _STRIKE),
        (style.is_hidden, HIDDEN),
    )
    return look | sum(bit for is_on, bit in flags if is_on)


def _hue(colour: int | str | None) -> int:
    """Return the one of eight colours that is nearest, from 1; 0 for the terminal's own.

    >>> [_hue(each) for each in (None, 1, 9, 196, 21, 232, 255, "#10c010")]
    [0, 2, 2, 2, 5, 1, 8, 3]
    """
    if colour is None:
        return 0
    if isinstance(colour, str):
        red, green, blue = bytes.fromhex(colour[1:])
    elif colour < 16:
        return colour % 8 + 1
    elif colour < 232:
        red, green, blue = ((colour - 16) // part % 6 * 51 for part in (36, 6, 1))
    else:
        red = green = blue = (colour - 232) * 255 // 23
    most, least = max(red, green, blue), min(red, green, blue)
    if most - least < 48:
        return 8 if most > 127 else 1
    middle = (most + least) / 2
    return 1 + (red > middle) + 2 * (green > middle) + 4 * (blue > middle)


def sgr(look: int) -> str:
    """Return the parameters by which a terminal shows a look (ECMA-48, SGR); nothing else is safe.

    >>> sgr(0), sgr(2 | 5 << 5 | _BOLD)
    ('0', '0;1;31;44')
    """
    codes = ["0"]
    codes += [code for bit, code in _CODES if look & bit]
    if ink := look & 31:
        codes.append(str(29 + ink))
    if paper := look >> 5 & 31:
        codes.append(str(39 + paper))
    return ";".join(codes)


_CODES: Final = (
    (_BOLD, "1"),
    (_FAINT, "2"),
    (_ITALIC, "3"),
    (_UNDERLINE, "4"),
    (_REVERSE | _MASKED | _OURS, "7"),
    (_STRIKE, "9"),
)


def _weight(row: list[Stretch]) -> int:
    return sum(len(each if isinstance(each, str) else each[0]) + _RUN_BYTES for each in row)


def facts(film: Film) -> dict[str, Any]:
    """Return what a page must know before it asks for frames."""
    columns, rows = film.terminal.shown_size
    return {
        "kind": film.terminal.kind,
        "columns": columns,
        "rows": rows,
        "duration_ms": max(film.terminal.duration_us // 1_000, *film.times_ms[-1:], 0),
        "page_frames": PAGE_FRAMES,
        "left_out": film.left_out or None,
    }


def frames(terminal: Terminal) -> Iterator[tuple[int, Frame]]:
    """Yield all frames with their times in microseconds, as they come: for who plays it once."""
    display, changes = Display(terminal.size), Changes()
    begun_us = -1
    last_us = 0
    for moment in terminal.moments():
        if moment.kind not in ("output", "size"):
            continue
        if begun_us >= 0 and moment.at_us - begun_us >= STEP_US:
            yield last_us, changes.frame(display)
            begun_us = -1
        if begun_us < 0:
            begun_us = moment.at_us
        last_us = moment.at_us
        display.take(moment)
    if begun_us >= 0:
        yield last_us, changes.frame(display)
