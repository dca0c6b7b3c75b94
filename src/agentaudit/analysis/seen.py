"""Where a text stood on a terminal, as a person saw it: whatever painted it, in whatever pieces.

A screen is looked at whenever something was said, and before anything is erased. What was painted
over in one go, within a packet, was seen by nobody and is not found; it is in what was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from agentaudit.analysis.terminal import Terminal, logical
from agentaudit.protocols.ssh_screen import Row

if TYPE_CHECKING:
    from agentaudit.analysis.session import Session

_TIME: Final = pa.timestamp("us", "UTC")
_SCHEMA: Final = pa.schema(
    [
        ("first_seen", _TIME),
        ("last_seen", _TIME),
        ("session_id", pa.string()),
        ("command_no", pa.int32()),
        ("user", pa.string()),
        ("target", pa.string()),
        ("text", pa.string()),
    ]
)

MAX_HITS: Final = 1_000
"""Different lines of one terminal that are told."""
_MAX_GROWING: Final = 64
"""Where more lines stand, none of them is taken for one that grew: it would be all against all."""
MAX_CHARACTERS: Final = 1_000
"""Of a line that is told, around what was looked for."""


@dataclass(slots=True)
class Seen:
    """A line in which the text stood, and from when until when, in microseconds from the start."""

    text: str
    first_us: int
    last_us: int


def seen(terminal: Terminal, text: str, most: int = MAX_HITS) -> tuple[list[Seen], bool]:
    """Return the lines in which `text` stood, in any case, in order; and whether there are more."""
    found = _Found(text.casefold(), most)
    screen = _Read()
    for look in terminal.looks():
        for line in logical(look.gone):
            found.passes(line, look.at_us)
        rows = look.display.rows()
        if screen.is_other(rows):
            found.stand(logical(rows, screen.text), look.at_us)
    found.stand((), terminal.duration_us)
    return found.hits, found.is_cut


class _Found:
    """The lines in which a text stood so far, and which of them stand now.

    A line that is typed or erased letter by letter is one line, told as long as it became.
    """

    def __init__(self, wanted: str, most: int) -> None:
        self.hits: list[Seen] = []
        self.is_cut = False
        self._wanted = wanted
        self._most = most
        self._by_text: dict[str, Seen] = {}
        self._standing: dict[str, Seen] = {}

    def stand(self, lines: Iterable[str], at_us: int) -> None:
        """Note the lines of a screen; what stood there until now was seen until then."""
        before = self._standing
        for stood in before.values():
            stood.last_us = max(stood.last_us, at_us)
        self._standing = {}
        for line in lines:
            if (hit := self._hit(line, at_us, before)) is not None:
                self._standing[hit.text] = hit

    def passes(self, line: str, at_us: int) -> None:
        """Note a line that scrolled by."""
        if (hit := self._hit(line, at_us, self._standing)) is not None:
            hit.last_us = max(hit.last_us, at_us)

    def _hit(self, line: str, at_us: int, standing: dict[str, Seen]) -> Seen | None:
        if self._wanted not in line.casefold():
            return None
        line = _around(line, self._wanted)
        hit = standing.get(line)
        if hit is None and len(standing) <= _MAX_GROWING:
            for each in standing.values():
                if line.startswith(each.text):
                    self._by_text.pop(each.text, None)
                    self._by_text[line] = each
                    each.text = line
                    return each
                if each.text.startswith(line):
                    return each
        hit = hit or self._by_text.get(line)
        if hit is None:
            if len(self.hits) == self._most:
                self.is_cut = True
                return None
            hit = self._by_text[line] = Seen(line, at_us, at_us)
            self.hits.append(hit)
        return hit


def search(
    terminals: Iterable[tuple[Session, int, str | None, str | None]],
    text: str,
    bounds: tuple[datetime | None, datetime | None],
    limit: int,
) -> pa.Table:
    """Return the lines of terminals (session, command, user, target) in which a text stood."""
    since, until = bounds
    rows: list[dict[str, Any]] = []
    for session, command_no, user, target in terminals:
        if len(rows) >= limit:
            break
        terminal = session.terminal(command_no)
        for hit in seen(terminal, text)[0]:
            first = terminal.began_at + timedelta(microseconds=hit.first_us)
            last = terminal.began_at + timedelta(microseconds=hit.last_us)
            if (since is None or last >= since) and (until is None or first < until):
                rows.append(
                    {
                        "first_seen": first,
                        "last_seen": last,
                        "session_id": str(session.id),
                        "command_no": command_no,
                        "user": user,
                        "target": target,
                        "text": hit.text,
                    }
                )
    return pa.Table.from_pylist(rows[:limit], schema=_SCHEMA)


class _Read:
    """What was read of a screen last: most of its rows are the same the next time."""

    def __init__(self) -> None:
        self._known: dict[Row, tuple[list[str], str]] = {}
        self._rows: Sequence[Row] = ()

    def is_other(self, rows: Sequence[Row]) -> bool:
        """Read rows, and say whether anything is another now."""
        known = self._known
        found: dict[Row, tuple[list[str], str]] = {}
        is_same = len(rows) == len(self._rows)
        for row, before in zip(rows, self._rows or rows, strict=False):
            told = known.get(row)
            if told is None or told[0] != row.cells:
                told = (row.cells[:], row.text())
                is_same = False
            found[row] = told
            is_same = is_same and row is before
        for row in rows[len(found) :]:
            found[row] = (row.cells[:], row.text())
        self._known, self._rows = found, rows
        return not is_same

    def text(self, row: Row) -> str:
        """Return what was read of a row."""
        return self._known[row][1]


def _around(line: str, wanted: str) -> str:
    """Return a line, of a long one what stands around the text."""
    if len(line) <= MAX_CHARACTERS:
        return line
    start = max(0, line.casefold().find(wanted) - MAX_CHARACTERS // 2)
    return ("…" if start else "") + line[start : start + MAX_CHARACTERS] + "…"
