"""Recorded text as a report shows it: controls written out, and no longer than a reader reads."""

from __future__ import annotations

from typing import Any, Final

from agentaudit.analysis import cells
from agentaudit.analysis.printable import printable
from agentaudit.analysis.report.facts import Grid

MAX_LINE: Final = 300
MAX_STATEMENT: Final = 4_000
MAX_CELL: Final = 200
MAX_COLUMNS: Final = 24


def line(text: Any, limit: int = MAX_LINE) -> str:
    """Return recorded text as one line, empty for None.

    >>> line("a\\x1b[2J" + "b" * 9, 6)
    'a\\\\x1b[2Jb…'
    """
    whole = "" if text is None else str(text)
    return printable(whole[:limit]) + ("…" if len(whole) > limit else "")


def lines(texts: Any, limit: int = 50) -> tuple[str, ...]:
    """Return recorded texts, the first `limit` of them."""
    every = list(texts or ())
    more = (f"… {len(every) - limit:,} more",) if len(every) > limit else ()
    return (*(line(text) for text in every[:limit]), *more)


def block(text: str | None, limit: int = MAX_STATEMENT) -> tuple[str, int]:
    """Return recorded text of several lines, and how many characters of it are left out.

    >>> block("one\\ntwo\\x07", 100)
    ('one\\ntwo\\\\x07', 0)
    """
    whole = text or ""
    return printable(whole[:limit], block=True), max(0, len(whole) - limit)


def grid(table: Any, returned: int | None) -> Grid:
    """Return the rows of an Arrow table; `returned` is how many rows there were."""
    shown = table.select(range(min(table.num_columns, MAX_COLUMNS)))
    return Grid(
        columns=tuple(line(name, 100) for name in shown.column_names),
        types=tuple(line(name, 60) for name in cells.type_names(shown.schema)),
        rows=tuple(
            tuple(None if cell is None else line(cell, MAX_CELL) for cell in row)
            for row in cells.texts(shown)
        ),
        more_rows=max(0, (returned or 0) - table.num_rows),
        more_columns=table.num_columns - shown.num_columns,
    )
