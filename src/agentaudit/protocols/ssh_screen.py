"""What a terminal shows after the bytes that a program said to it.

It is xterm's subset that programs use.

The bytes are hostile: whatever they are, nothing is raised, memory stays below a bound, and a byte
costs at most about one row of the screen. What is not understood is swallowed, not shown.

A row knows whether it goes on with the one above it, because text that is longer than a row has no
newline in it. Rows are numbered from the first that was ever shown, so that a place survives
scrolling.

Source: ECMA-48, and xterm's "XTerm Control Sequences" (ctlseqs)
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

MAX_SIDE: Final = 1_000
# Columns times rows, for the screen, its twin and what has scrolled off each: 20 MB at the worst.
MAX_CELLS: Final = 60_000
MAX_PARAMETERS: Final = 32
# Of one control sequence, in characters; xterm has no limit, and what programs send is below 80.
MAX_SEQUENCE: Final = 256
MAX_TITLE: Final = 256
# Of marks that share a cell with the letter below them.
MAX_MARKS: Final = 4

_BLANK: Final = ""  # never written, or erased; a space that was written is " "
_TAIL: Final = "\0"  # the right half of a wide character: no NUL is ever shown

_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_CSI: Final = re.compile(r"\x1b\[([0-?]{0,80})([ -/]{0,2})([@-~])")
_NO_STRING: Final = re.compile(r"[^\x07\x18\x1a\x1b\x9c]+")
_GRAPHICS: Final = str.maketrans(
    "`abcdefghijklmnopqrstuvwxyz{|}~", "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·"
)


class Style(NamedTuple):
    """How a cell looks.

    A colour is 0 to 255 of xterm's palette, `#rrggbb`, or None: the default.
    """

    foreground: int | str | None = None
    background: int | str | None = None
    is_bold: bool = False
    is_faint: bool = False
    is_italic: bool = False
    is_underlined: bool = False
    is_inverse: bool = False
    is_hidden: bool = False
    is_struck: bool = False


PLAIN: Final = Style()

_SGR: Final[dict[int, dict[str, bool]]] = {
    1: {"is_bold": True},
    2: {"is_faint": True},
    3: {"is_italic": True},
    4: {"is_underlined": True},
    7: {"is_inverse": True},
    8: {"is_hidden": True},
    9: {"is_struck": True},
    21: {"is_underlined": True},
    22: {"is_bold": False, "is_faint": False},
    23: {"is_italic": False},
    24: {"is_underlined": False},
    27: {"is_inverse": False},
    28: {"is_hidden": False},
    29: {"is_struck": False},
}


class Row:
    """One row: a cell is a character with its marks; blanks behind the last are not kept."""

    __slots__ = ("cells", "goes_on", "rest", "styles")

    def __init__(self, rest: Style) -> None:
        self.cells: list[str] = []
        self.styles: list[Style] | None = None
        """Of each cell; None while all are plain."""
        self.rest = rest
        """Of the blanks behind the last cell: erasing leaves the background that is set."""
        self.goes_on = False
        """Whether it goes on with the row above: a text was longer than that."""

    def text(self, start: int = 0, end: int | None = None) -> str:
        """Return what the columns show; blanks behind the last written cell are not there."""
        return "".join([cell or " " for cell in self.cells[start:end] if cell != _TAIL])


@lru_cache(maxsize=4096)
def width_of(character: str) -> int:
    """Return how many columns a character takes: 0, 1 or 2.

    >>> width_of("a"), width_of("漢"), width_of("\\u0301")
    (1, 2, 0)
    """
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":
        return 0
    if unicodedata.category(character) == "Cf" and character != "\u00ad":
        return 0
    return 1


def clamped(columns: int, rows: int) -> tuple[int, int]:
    """Return the size that a screen takes for the one that it was asked for."""
    columns = min(max(columns, 1), MAX_SIDE)
    return columns, min(max(rows, 1), MAX_SIDE, max(MAX_CELLS // columns, 1))


class _Saved(NamedTuple):
    x: int = 0
    y: int = 0
    style: Style = PLAIN
    graphics: tuple[bool, bool] = (False, False)
    shift: int = 0
    is_relative: bool = False


class Screen:
    """A terminal's screen, fed with what the programs on it say.

    It answers nothing: who asks for the cursor's place is answered by the client's terminal.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.height = clamped(columns, rows)
        self._pieces = codecs.getincrementaldecoder("utf-8")("replace")
        self._reset()

    def _reset(self) -> None:
        self._main = [Row(PLAIN) for _ in range(self.height)]
        self._twin = [Row(PLAIN) for _ in range(self.height)]
        self._lines = self._main
        self._above: deque[Row] = deque()
        self._scrolled = 0
        self._x = self._y = 0
        self._wraps_next = False
        self._top, self._bottom = 0, self.height - 1
        self._style = PLAIN
        self._graphics = (False, False)
        self._shift = 0
        self._is_relative = False
        self._wraps = True
        self._inserts = False
        self._saved = [_Saved(), _Saved()]
        self._tabs = bytearray(1 if x and x % 8 == 0 else 0 for x in range(MAX_SIDE + 1))
        self._last = ""
        self._state: Callable[[str, int], int] = self._ground
        self._sequence: list[str] = []
        self._string: list[str] | None = None
        self.title = ""
        self.is_cursor_shown = True
        self.is_bracketing = False
        """Whether the program has asked for bracketed paste (mode 2004)."""
        self.brackets = 0
        """How many times it has."""
        self.alternations = 0
        """How many times the alternate screen was taken."""
        self.marks = 0
        """How many characters without a width were shown."""
        self.oddities = 0
        """How many sequences came that no line editor sends to show a line again."""

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row of the screen, from 0; the column is at most the last one."""
        return self._x, self._y

    @property
    def place(self) -> tuple[int, int]:
        """Where the next character goes: the row's number, and a column, at most one too far."""
        return self._first + self._y, self._x + self._wraps_next

    @property
    def is_alternate(self) -> bool:
        """Whether the alternate screen is shown, which full-screen programs take."""
        return self._lines is self._twin

    @property
    def _first(self) -> int:
        return 0 if self.is_alternate else self._scrolled

    def row(self, number: int) -> Row | None:
        """Return a row by its number; None where it is not kept, or not there yet."""
        at = number - self._first
        if 0 <= at < self.height:
            return self._lines[at]
        if not self.is_alternate and -len(self._above) <= at < 0:
            return self._above[at]
        return None

    def text(self) -> list[str]:
        """Return the rows as they are read, without the blanks at their ends."""
        return [row.text().rstrip(" ") for row in self._lines]

    def rows(self) -> list[list[tuple[str, Style]]]:
        """Return the rows as runs of text that looks the same."""
        return [_runs(row, self.columns) for row in self._lines]

    # --- what it is told -------------------------------------------------------------------------

    def resize(self, columns: int, rows: int) -> None:
        """Take another size, as xterm does: no text moves to another row."""
        columns, rows = clamped(columns, rows)
        for lines in (self._main, self._twin):
            lost = len(lines) - rows
            below = len(lines) - 1 - (self._y if lines is self._lines else 0)
            if lost > 0:
                del lines[len(lines) - min(lost, below) :]
                if lines is self._lines:
                    self._y -= len(lines) - rows
                self._lift(lines, len(lines) - rows)
            lines.extend(Row(PLAIN) for _ in range(rows - len(lines)))
            for row in lines if columns < self.columns else ():
                del row.cells[columns:]
                if row.styles is not None:
                    del row.styles[columns:]
        self.columns, self.height = columns, rows
        self._top, self._bottom = 0, rows - 1
        self._wraps_next = self._wraps_next and self._x == columns - 1
        self._x = min(self._x, columns - 1)
        self._y = min(max(self._y, 0), rows - 1)
        self._trim()

    def feed(self, data: bytes) -> None:
        """Follow what a program says; a character or a sequence may be cut anywhere."""
        text = self._pieces.decode(data)
        at, end = 0, len(text)
        while at < end:
            at = self._state(text, at)

    # --- sequences -------------------------------------------------------------------------------

    def _ground(self, text: str, at: int) -> int:
        if run := _TEXT.match(text, at):
            self._show(run.group())
            return run.end()
        if text[at] == "\x1b" and (whole := _CSI.match(text, at)):
            self._control(*whole.groups())
            return whole.end()
        self._single(text[at])
        return at + 1

    def _single(self, character: str) -> None:
        """Follow one control character, C0 or C1."""
        match character:
            case "\n" | "\v" | "\f":
                self._down()
            case "\r":
                self._x, self._wraps_next = 0, False
            case "\b":
                self._x, self._wraps_next = max(self._x - 1, 0), False
            case "\t":
                self._tab(1)
            case "\x0e" | "\x0f":
                self._shift = int(character == "\x0e")
                self.oddities += 1
            case "\x1b":
                self._sequence, self._state = [], self._escape
            case "\x9b":
                self._sequence, self._state = [], self._in_control
            case "\x90" | "\x98" | "\x9d" | "\x9e" | "\x9f":
                self._begin_string(character == "\x9d")
            case "\x84" | "\x85" | "\x88" | "\x8d":
                self._escaped("", chr(ord(character) - 0x40))
            case _:
                pass

    def _escape(self, text: str, at: int) -> int:
        character = text[at]
        if character == "[" and not self._sequence:
            self._state = self._in_control
        elif character in "]PX^_" and not self._sequence:
            self._begin_string(character == "]")
        elif " " <= character <= "/" and len(self._sequence) < 4:
            self._sequence.append(character)
        elif self._interrupts(character):
            pass
        else:
            self._state = self._ground
            self._escaped("".join(self._sequence), character)
        return at + 1

    def _in_control(self, text: str, at: int) -> int:
        character = text[at]
        if self._interrupts(character):
            pass
        elif "@" <= character <= "~":
            self._state = self._ground
            if len(self._sequence) < MAX_SEQUENCE:
                whole = "".join(self._sequence)
                parameters = whole.rstrip(" !\"#$%&'()*+,-./")
                self._control(parameters, whole[len(parameters) :], character)
        elif len(self._sequence) < MAX_SEQUENCE:
            self._sequence.append(character)
        return at + 1

    def _interrupts(self, character: str) -> bool:
        """Whether it is a control character, obeyed amid a sequence: CAN ends that, ESC too."""
        if character >= " " and not "\x7f" <= character <= "\x9f":
            return False
        if character in "\x18\x1a":
            self._state = self._ground
        elif character != "\x7f":
            self._single(character)
        return True

    def _begin_string(self, is_command: bool) -> None:
        # A prompt may set the title, each time that it is shown.
        self.oddities += not is_command
        self._string = [] if is_command else None
        self._state = self._in_string

    def _in_string(self, text: str, at: int) -> int:
        if run := _NO_STRING.match(text, at):
            if self._string is not None and len(self._string) < MAX_TITLE:
                self._string += run.group()[:MAX_TITLE]
            return run.end()
        if self._string is not None and text[at] in "\x07\x1b\x9c":
            kind, _, title = "".join(self._string).partition(";")
            if kind in ("0", "2"):
                self.title = title[:MAX_TITLE]
        self._string = None
        self._state = self._ground
        if text[at] == "\x1b":
            # ST is ESC and a backslash; behind the ESC another sequence may begin as well.
            self._sequence, self._state = [], self._escape
        return at + 1

    def _escaped(self, between: str, final: str) -> None:
        match between, final:
            case "", "\\":
                return
            case "", "D":
                self._down()
            case "", "E":
                self._x = 0
                self._down()
            case "", "M":
                self._up()
            case "", "H":
                self._tabs[self._x] = 1
            case "", "7":
                self._save()
            case "", "8":
                self._restore()
            case "", "c":
                scrolled, height = self._scrolled, self.height
                counts = self.brackets, self.alternations, self.oddities
                self._reset()
                # Numbers of rows are never used again, so that no old place is a new one.
                self._scrolled = scrolled + height
                self.brackets, self.alternations, self.oddities = counts
            case "(", _:
                self._graphics = (final == "0", self._graphics[1])
            case ")", _:
                self._graphics = (self._graphics[0], final == "0")
            case _:
                pass
        self.oddities += 1

    def _control(self, parameters: str, between: str, final: str) -> None:
        private = ""
        if parameters and parameters[0] in "<=>?":
            private, parameters = parameters[0], parameters[1:]
        if not private and not between:
            if final == "m":
                self._paint(parameters)
                return
            numbers = [_number(each) for each in parameters.split(";", MAX_PARAMETERS)]
            self._move(final, numbers[0], numbers[1] if len(numbers) > 1 else 0, numbers)
        elif private == "?" and not between and final in "hl":
            for each in parameters.split(";", MAX_PARAMETERS):
                self._mode(_number(each), final == "h")
        elif private == "?" and not between and final in "JK":
            self._erase_by(final, _number(parameters))
            self.oddities += 1
        elif between == "!" and final == "p":
            self._soften()
            self.oddities += 1
        else:
            self.oddities += 1

    def _move(self, final: str, first: int, second: int, numbers: list[int]) -> None:
        count = max(first, 1)
        match final:
            case "A":
                self._go(self._x, max(self._y - count, self._top if self._y >= self._top else 0))
            case "B":
                self._lower(count)
            case "C":
                self._go(self._x + count, self._y)
            case "D":
                self._go(self._x - count, self._y)
            case "H":
                self._go_to(second, first)
            case "J" | "K":
                self._erase_by(final, first)
            case "P":
                self._delete(count)
            case "@":
                self._insert(count)
            case _:
                self.oddities += 1
                self._move_oddly(final, first, second, numbers)

    def _move_oddly(self, final: str, first: int, second: int, numbers: list[int]) -> None:
        """Follow what programs that fill a screen send."""
        count = max(first, 1)
        match final:
            case "a":
                self._go(self._x + count, self._y)
            case "e":
                self._lower(count)
            case "E":
                self._x = 0
                self._lower(count)
            case "F":
                self._go(0, max(self._y - count, self._top if self._y >= self._top else 0))
            case "G" | "`":
                self._go(count - 1, self._y)
            case "d":
                top = self._top if self._is_relative else 0
                self._go(self._x, min(top + count - 1, self._floor))
            case "f":
                self._go_to(second, first)
            case "I":
                self._tab(count)
            case "Z":
                self._tab(-count)
            case "L" | "M":
                if self._top <= self._y <= self._bottom:
                    self._x, self._wraps_next = 0, False
                    self._roll(self._y, min(count, MAX_SIDE) * (-1 if final == "L" else 1))
            case "X":
                self._erase(self._y, self._x, self._x + count)
                self._wraps_next = False
            case "S":
                self._roll(self._top, min(count, MAX_SIDE))
            case "T" if len(numbers) < 2:
                self._roll(self._top, -min(count, MAX_SIDE))
            case "b":
                # As often as fills a row: more is no program's wish, and would make a byte dear.
                self._show(self._last * min(count, self.columns))
            case "g":
                if first == 3:
                    self._tabs = bytearray(MAX_SIDE + 1)
                elif first == 0:
                    self._tabs[self._x] = 0
            case "h" | "l":
                if 4 in numbers:
                    self._inserts = final == "h"
            case "r":
                top, bottom = count - 1, min(second or self.height, self.height) - 1
                if top < bottom:
                    self._top, self._bottom = top, bottom
                    self._go_to(1, 1)
            case "s":
                self._save()
            case "u":
                self._restore()
            case _:
                pass

    def _mode(self, number: int, is_on: bool) -> None:
        if number == 2004:
            self.is_bracketing = is_on
            self.brackets += is_on
            return
        self.oddities += 1
        match number:
            case 6:
                self._is_relative = is_on
                self._go_to(1, 1)
            case 7:
                self._wraps = is_on
                self._wraps_next = False
            case 25:
                self.is_cursor_shown = is_on
            case 47 | 1047:
                self._alternate(is_on)
            case 1048:
                self._save() if is_on else self._restore()
            case 1049:
                if is_on:
                    self._save()
                self._alternate(is_on)
                if is_on:
                    self._blank(0, self.height)
                else:
                    self._restore()
            case _:
                pass

    def _alternate(self, is_on: bool) -> None:
        if is_on != self.is_alternate:
            self.alternations += is_on
            self._lines = self._twin if is_on else self._main
            if not is_on:
                self._twin[:] = [Row(PLAIN) for _ in range(self.height)]
            self._wraps_next = False

    def _soften(self) -> None:
        """Reset what may stand in the way of a program, and clear nothing (DECSTR)."""
        self._top, self._bottom = 0, self.height - 1
        self._style, self._graphics, self._shift = PLAIN, (False, False), 0
        self._is_relative = self._inserts = False
        self._wraps = self.is_cursor_shown = True
        self._saved[self.is_alternate] = _Saved()

    def _save(self) -> None:
        self._saved[self.is_alternate] = _Saved(
            self._x, self._y, self._style, self._graphics, self._shift, self._is_relative
        )

    def _restore(self) -> None:
        x, y, self._style, self._graphics, self._shift, self._is_relative = self._saved[
            self.is_alternate
        ]
        self._go(x, min(y, self.height - 1))

    def _paint(self, parameters: str) -> None:
        style = self._style
        codes = iter(parameters.split(";", MAX_PARAMETERS)[:MAX_PARAMETERS])
        for each in codes:
            code, *parts = each.split(":")
            number = _number(code)
            if number in (38, 48):
                colour = _colour([_number(part) for part in parts] if parts else codes)
                if colour is not None and number == 38:
                    style = style._replace(foreground=colour)
                elif colour is not None:
                    style = style._replace(background=colour)
            elif number == 0:
                style = PLAIN
            elif number == 4 and parts and _number(parts[0]) == 0:
                style = style._replace(is_underlined=False)
            elif number in _SGR:
                style = style._replace(**_SGR[number])
            elif 30 <= number <= 37 or number == 39:
                style = style._replace(foreground=None if number == 39 else number - 30)
            elif 40 <= number <= 47 or number == 49:
                style = style._replace(background=None if number == 49 else number - 40)
            elif 90 <= number <= 97:
                style = style._replace(foreground=number - 82)
            elif 100 <= number <= 107:
                style = style._replace(background=number - 92)
        self._style = style

    # --- moving ----------------------------------------------------------------------------------

    @property
    def _floor(self) -> int:
        return self._bottom if self._is_relative else self.height - 1

    def _go(self, x: int, y: int) -> None:
        self._x, self._y = min(max(x, 0), self.columns - 1), min(max(y, 0), self.height - 1)
        self._wraps_next = False

    def _go_to(self, column: int, row: int) -> None:
        """Go to a place that is counted from 1 (CUP); from the region's top where that is on."""
        top = self._top if self._is_relative else 0
        self._go(max(column, 1) - 1, min(top + max(row, 1) - 1, self._floor))

    def _lower(self, count: int) -> None:
        self._go(
            self._x,
            min(self._y + count, self._bottom if self._y <= self._bottom else self.height - 1),
        )

    def _down(self) -> None:
        self._wraps_next = False
        if self._y == self._bottom:
            self._roll(self._top, 1)
        elif self._y < self.height - 1:
            self._y += 1

    def _up(self) -> None:
        self._wraps_next = False
        if self._y == self._top:
            self._roll(self._top, -1)
        elif self._y:
            self._y -= 1

    def _tab(self, count: int) -> None:
        x = self._x
        for _ in range(min(abs(count), self.columns)):
            found = (
                self._tabs.find(1, x + 1, self.columns) if count > 0 else self._tabs.rfind(1, 0, x)
            )
            if found < 0:
                x = self.columns - 1 if count > 0 else 0
                break
            x = found
        # A tab at the edge leaves the wrap that is pending as it is.
        self._x, self._wraps_next = x, self._wraps_next and x == self._x

    def _roll(self, top: int, count: int) -> None:
        """Move rows from `top` to the region's end up by `count`, or down where it is below 0."""
        lines, end = self._lines, self._bottom + 1
        size = min(abs(count), end - top)
        blank = self._rest
        new = [Row(blank) for _ in range(size)]
        if count < 0:
            del lines[end - size : end]
            lines[top:top] = new
        elif top == 0 and lines is self._main:
            self._lift(lines, size)
            lines[end - size : end - size] = new
        else:
            del lines[top : top + size]
            lines[end - size : end - size] = new

    def _lift(self, lines: list[Row], count: int) -> None:
        """Take the first rows off; of the main screen some are kept, for places that were noted."""
        if lines is self._main:
            self._above += lines[:count]
            self._scrolled += count
            self._trim()
        del lines[:count]

    def _trim(self) -> None:
        while len(self._above) * self.columns > MAX_CELLS or len(self._above) > MAX_SIDE:
            self._above.popleft()

    # --- writing ---------------------------------------------------------------------------------

    def _show(self, run: str) -> None:
        if self._graphics[self._shift]:
            run = run.translate(_GRAPHICS)
        self._last = run[-1:]
        if run.isascii():
            self._show_narrow(run)
            return
        start = 0
        for at, character in enumerate(run):
            if (width := width_of(character)) != 1:
                self._show_narrow(run[start:at])
                start = at + 1
                if width:
                    self._show_wide(character)
                else:
                    self._mark(character)
        self._show_narrow(run[start:])

    def _show_narrow(self, run: str) -> None:
        at, end = 0, len(run)
        while at < end:
            self._wrap_if_due()
            room = self.columns - self._x
            piece = run[at : at + room]
            at += room
            if not self._wraps and at < end:
                # Without wrapping all that is too much is written over the last column.
                piece = piece[:-1] + run[-1]
                at = end
            self._put(list(piece))

    def _show_wide(self, character: str) -> None:
        if self.columns < 2:
            return
        self._wrap_if_due()
        if self._x == self.columns - 1:
            if not self._wraps:
                self._x -= 1
            else:
                self._erase(self._y, self._x, self._x + 1)
                self._wraps_next = True
                self._wrap_if_due()
        self._put([character, _TAIL])

    def _wrap_if_due(self) -> None:
        if self._wraps_next:
            self._down()
            self._x = 0
            self._lines[self._y].goes_on = True

    def _put(self, cells: list[str]) -> None:
        row, x, style = self._lines[self._y], self._x, self._style
        size = len(cells)
        end = x + size
        if self._inserts:
            self._insert(size)
        self._pad(row, x)
        self._part(row, x)
        self._part(row, end)
        row.cells[x:end] = cells
        if style is not PLAIN or row.styles is not None:
            self._styles(row)[x:end] = [style] * size
        self._x = min(end, self.columns - 1)
        self._wraps_next = self._wraps and end == self.columns

    def _mark(self, mark: str) -> None:
        self.marks += 1
        cells = self._lines[self._y].cells
        at = self._x if self._wraps_next or self._x >= self.columns else self._x - 1
        if 0 <= at < len(cells):
            if cells[at] == _TAIL:
                at -= 1
            if cells[at] and len(cells[at]) <= MAX_MARKS:
                cells[at] += mark

    @staticmethod
    def _styles(row: Row) -> list[Style]:
        """Return the styles of a row's cells, of which there are as many as cells, or not yet."""
        if row.styles is None:
            row.styles = [PLAIN] * len(row.cells)
        return row.styles

    def _pad(self, row: Row, size: int) -> None:
        if (missing := size - len(row.cells)) > 0:
            if row.rest is not PLAIN:
                self._styles(row)
            row.cells += [_BLANK] * missing
            if row.styles is not None:
                row.styles += [row.rest] * missing

    @staticmethod
    def _part(row: Row, x: int) -> None:
        """Blank both halves of a wide character that a change at column `x` cuts in two."""
        cells = row.cells
        if 0 < x < len(cells) and cells[x] == _TAIL:
            cells[x - 1] = cells[x] = _BLANK

    @property
    def _rest(self) -> Style:
        """What erased cells look like."""
        background = self._style.background
        return PLAIN if background is None else Style(background=background)

    def _fill(self, row: Row, start: int, end: int) -> None:
        """Erase cells as a terminal does: in the colour of the background that is set."""
        blank = self._rest
        self._part(row, start)
        self._part(row, end)
        if end >= self.columns:
            if blank != row.rest:
                self._pad(row, start)
                row.rest = blank
            del row.cells[start:]
            if row.styles is not None:
                del row.styles[start:]
            return
        if blank == row.rest:
            end = min(end, len(row.cells))
        if start < end:
            self._pad(row, end)
            row.cells[start:end] = [_BLANK] * (end - start)
            if blank is not PLAIN or row.styles is not None:
                self._styles(row)[start:end] = [blank] * (end - start)

    def _erase(self, y: int, start: int, end: int) -> None:
        row = self._lines[y]
        if start == 0 and end >= self.columns:
            row.goes_on = False
        if row.cells or row.rest is not PLAIN or self._style.background is not None:
            self._fill(row, start, end)

    def _blank(self, first: int, last: int) -> None:
        for y in range(first, last):
            self._erase(y, 0, self.columns)

    def _erase_by(self, final: str, how: int) -> None:
        """Erase a part of the row (EL) or of the screen (ED)."""
        x, y = self._x, self._y
        self._wraps_next = False
        if how == 0:
            self._erase(y, x, self.columns)
        elif how == 1:
            self._erase(y, 0, x + 1)
        elif how == 2:
            self._erase(y, 0, self.columns)
        if final == "J":
            if how == 0:
                self._blank(y + 1, self.height)
            elif how == 1:
                self._blank(0, y)
            elif how == 2:
                self._blank(0, self.height)
            elif how == 3 and not self.is_alternate:
                self._above.clear()

    def _insert(self, count: int) -> None:
        row, x = self._lines[self._y], self._x
        self._wraps_next = False
        if x < len(row.cells):
            count = min(count, self.columns - x)
            self._part(row, x)
            row.cells[x:x] = [_BLANK] * count
            if row.styles is not None:
                row.styles[x:x] = [self._style] * count
                del row.styles[self.columns :]
            if row.cells[self.columns : self.columns + 1] == [_TAIL]:
                row.cells[self.columns - 1] = _BLANK
            del row.cells[self.columns :]

    def _delete(self, count: int) -> None:
        row, x = self._lines[self._y], self._x
        self._wraps_next = False
        self._part(row, x)
        self._part(row, x + count)
        del row.cells[x : x + count]
        if row.styles is not None:
            del row.styles[x : x + count]


def _number(text: str) -> int:
    """Return a parameter: 0 where it is none or left out, and a million at most."""
    return min(int(text), 1_000_000) if text.isascii() and text.isdigit() else 0


def _colour(codes: object) -> int | str | None:
    """Return the colour that is named behind 38 or 48; an iterator loses the codes that name it."""
    # Direct colours with colons may have an empty colour space before them: 2::r:g:b.
    if isinstance(codes, list):
        kind, *rest = codes or [0]
        rest = rest[-3:] if kind == 2 else rest[:1]
    else:
        kind = _number(next(codes, ""))  # type: ignore[call-overload]
        rest = [_number(next(codes, "")) for _ in range({2: 3, 5: 1}.get(kind, 0))]  # type: ignore[call-overload]
    if kind == 5 and len(rest) == 1 and rest[0] < 256:
        return int(rest[0])
    if kind == 2 and len(rest) == 3 and max(rest) < 256:
        return "#{:02x}{:02x}{:02x}".format(*rest)
    return None


def _runs(row: Row, columns: int) -> list[tuple[str, Style]]:
    runs: list[tuple[str, Style]] = []
    styles = row.styles or [PLAIN] * len(row.cells)
    start = 0
    for at in range(1, len(row.cells) + 1):
        if at == len(row.cells) or styles[at] != styles[start]:
            runs.append((row.text(start, at), styles[start]))
            start = at
    if row.rest != PLAIN and len(row.cells) < columns:
        runs.append((" " * (columns - len(row.cells)), row.rest))
    return runs
