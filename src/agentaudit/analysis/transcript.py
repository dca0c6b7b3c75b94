"""A session as text to read, for terminals and for printing.

Everything that was recorded passes through `printable`: what an agent typed, and what a database
answered, may hold escape sequences meant for whoever looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentaudit.analysis import cells
from agentaudit.analysis.printable import printable, width

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STATEMENT_CHARACTERS = 4_000
MAX_CELL_CHARACTERS = 48
IDLE_LIMIT_S = 2.0
"""Longer silences are cut to this when a session is played."""

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Cut:
    """A response of which only the first `kept` of `whole` bytes are in the archive.

    `sha256` is that of all of it, as hex, where a `payload_limit` cut it and its command is over.
    What `is_purged` was recorded as far as `payload_limit` says, and went under retention.
    """

    kept: int
    whole: int
    sha256: str | None
    is_purged: bool = False

    def words(self) -> str:
        """Return what a reader must know of it, in one line.

        >>> Cut(1024, 5000, "ab" * 32).words()[:66]
        'first 1,024 of 5,000 bytes kept, the rest was not; SHA-256 of all '
        """
        if self.is_purged:
            purged = f"purged under retention: {self.whole:,} bytes"
            return f"{purged}; SHA-256 of all {self.sha256}" if self.sha256 else purged
        kept = f"first {self.kept:,} of {self.whole:,} bytes kept, the rest was not"
        return f"{kept}; SHA-256 of all {self.sha256}" if self.sha256 else f"{kept}; still running"


def heading(session: dict[str, Any]) -> str:
    """Return who did this, where, when and how much, from a row of `sessions`."""
    who = printable(session["user"] or "nobody")
    if session["agent"]:
        who += f" (agent {printable(session['agent'])})"
    closed = (
        f"closed {moment(session['closed_at'])} ({printable(session['close_reason'] or '')})"
        if session["closed_at"]
        else "still open"
    )
    return "\n".join(
        (
            f"session {session['session_id']}",
            f"{who} on {printable(session['target'] or '')} ({printable(session['protocol'])})",
            f"opened {moment(session['opened_at'])}, {closed}",
            f"{session['commands'] or 0} commands, {size(session['bytes_in'] or 0)} in, "
            f"{size(session['bytes_out'] or 0)} out",
            "",
        )
    )


def command(
    row: dict[str, Any],
    result: pa.Table | None = None,
    fate: str | None = None,
    cut: Cut | None = None,
) -> str:
    """Return one command and its outcome, from a row of `commands` and its first result rows.

    `fate` is what became of its transaction, said of changes that did not last; `cut` says what
    was kept of its response where that is not all.
    """
    lines = [
        f"#{row['command_no']}  {row['started_at']:%H:%M:%S.%f}  "
        f"{printable(row['operation'] or '?')}  {printable(row['class'] or '?')}  {outcome(row)}"
        + (f", {fate}" if is_undone(row, fate) else "")
    ]
    statement = row["text"] or ""
    shown = printable(statement[:MAX_STATEMENT_CHARACTERS], block=True)
    lines += [_INDENT + line for line in shown.split("\n")]
    if len(statement) > MAX_STATEMENT_CHARACTERS:
        lines.append(f"{_INDENT}… {len(statement) - MAX_STATEMENT_CHARACTERS} characters more")
    for number, value in enumerate(row["params"] or (), 1):
        text = "NULL" if value is None else _cut(printable(value), 200)
        lines.append(f"{_INDENT}${number} = {text}")
    if row["decision"] != "allow":
        lines.append(
            f"{_INDENT}{printable(row['decision'])} by rule {printable(row['rule'] or '')}"
        )
    if row["error_text"] or row["error_code"]:
        said = (printable(row[part] or "") for part in ("error_code", "error_text"))
        lines.append(f"{_INDENT}error {': '.join(filter(None, said))}")
    if result is not None and result.num_columns:
        lines += [_INDENT + line for line in grid(result)]
        missing = (row["rows_returned"] or 0) - result.num_rows
        if missing > 0:
            lines.append(f"{_INDENT}… {rows(missing)} more")
    if cut is not None:
        lines.append(_INDENT + cut.words())
    lines.append("")
    return "\n".join(lines)


def is_undone(row: dict[str, Any], fate: str | None) -> bool:
    """Say whether a command changed something that did not last."""
    changed = row["status"] == "ok" and row["class"] in ("write", "schema", "admin")
    return changed and fate in ("rolled back", "not committed")


def outcome(row: dict[str, Any]) -> str:
    """Return how a command ended: status, rows, time, transaction."""
    parts = [printable(row["status"])]
    if row["rows_returned"] is not None:
        parts.append(rows(row["rows_returned"]))
    if row["rows_affected"] is not None:
        parts.append(f"{rows(row['rows_affected'])} changed")
    if row["duration_us"] is not None:
        parts.append(f"{row['duration_us'] / 1000:.1f} ms")
    if row["txn_status"] in ("T", "E"):
        parts.append("in transaction" if row["txn_status"] == "T" else "in failed transaction")
    return ", ".join(parts)


def grid(table: pa.Table) -> list[str]:
    """Return a few rows as aligned lines under their column names."""
    shown = [[printable(name) for name in table.column_names]]
    shown += [
        ["NULL" if cell is None else printable(cell) for cell in row] for row in cells.texts(table)
    ]
    shown = [[_cut(cell, MAX_CELL_CHARACTERS) for cell in row] for row in shown]
    widths = [max(width(cell) for cell in column) for column in zip(*shown, strict=True)]
    lines = [
        " | ".join(
            cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)
        )
        for row in shown
    ]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]


def moment(time: datetime) -> str:
    """Return a time in UTC as people compare them."""
    return f"{time:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def rows(count: int) -> str:
    """Return a number of rows, readable.

    >>> rows(1), rows(12_345)
    ('1 row', '12,345 rows')
    """
    return f"{count:,} row" + ("" if count == 1 else "s")


def size(count: int) -> str:
    """Return a number of bytes, readable.

    >>> size(999), size(12_345)
    ('999 B', '12.1 KiB')
    """
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{amount:.1f} {unit}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
