"""Plays the screen of a recorded terminal in a terminal: drawn by us, never by what was recorded.

What is written is text in which nothing is to be obeyed, how it looked as one of eight colours
(`film.sgr`), and where it goes. Not one byte of a recorded sequence is among it.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from agentaudit.analysis.film import Frame, Stretch
    from agentaudit.analysis.terminal import Terminal

# The alternate screen, so that what the reader had is there again; and no cursor of theirs.
_BEGIN = "\x1b[?1049h\x1b[?25l\x1b[2J"
_END = "\x1b[0m\x1b[?25h\x1b[?1049l"


def play(terminal: Terminal, speed: float, out: TextIO = sys.stdout) -> None:
    """Show what stood on a screen in its own time, `speed` times as fast, idle time cut.

    `out` is a terminal, which is as it was again when this ends, by Ctrl+C too.
    """
    from agentaudit.analysis.film import frames
    from agentaudit.analysis.transcript import IDLE_LIMIT_S

    stage = _Stage(out, f"command {terminal.command_no}")
    before_us = 0
    out.write(_BEGIN)
    try:
        for at_us, frame in frames(terminal):
            time.sleep(min((at_us - before_us) / 1e6, IDLE_LIMIT_S) / speed)
            before_us = at_us
            stage.show(frame, at_us)
        time.sleep(IDLE_LIMIT_S / speed)
    finally:
        out.write(_END)
        out.flush()


class _Stage:
    """What is drawn so far; of a screen larger than the reader's, the part with the cursor."""

    def __init__(self, out: TextIO, name: str) -> None:
        self._out = out
        self._name = name
        self._rows: list[list[Stretch]] = []
        self._columns = 0
        self._drawn: tuple[int, int, int] = (0, 0, 0)

    def show(self, frame: Frame, at_us: int) -> None:
        room = shutil.get_terminal_size()
        lines = max(1, room.lines - 1)
        if "size" in frame:
            self._columns, count = frame["size"]
            del self._rows[count:]
            self._rows += [[] for _ in range(count - len(self._rows))]
        changed = set()
        for at, row in frame["rows"]:
            self._rows[at] = row
            changed.add(at)
        cursor = frame["cursor"]
        top = max(0, (cursor[0] if cursor else 0) - lines + 1)
        drawn = (top, lines, room.columns)
        told = []
        if drawn != self._drawn or "size" in frame:
            self._drawn = drawn
            told.append("\x1b[2J")
            changed = set(range(len(self._rows)))
        told += [
            f"\x1b[{at - top + 1};1H\x1b[K{painted(self._rows[at], room.columns)}"
            for at in sorted(changed)
            if top <= at < top + lines
        ]
        size = f"{self._columns}×{len(self._rows)}"
        words = f"{self._name}  +{at_us / 1e6:,.1f} s  {size}  Ctrl+C ends"
        told.append(f"\x1b[{lines + 1};1H\x1b[K\x1b[7m{words[: room.columns - 1]}\x1b[0m")
        self._out.write("".join(told))
        self._out.flush()


def painted(row: list[Stretch], columns: int) -> str:
    """Return a row with what says how it looks, in at most so many columns."""
    from agentaudit.analysis.film import sgr
    from agentaudit.analysis.printable import printable, width

    told = []
    for stretch in row:
        text, look = (stretch, 0) if isinstance(stretch, str) else stretch
        shown = ""
        for each in printable(text):
            if (wide := width(each)) > columns:
                columns = 0
                break
            columns -= wide
            shown += each
        told.append(f"\x1b[{sgr(look)}m{shown}" if look else shown)
        if look:
            told.append("\x1b[0m")
        if columns <= 0:
            break
    return "".join(told)
