"""Three accounts of one run, held against each other: clients, server, archive.

- What a client was told of an execution is what its row says.
- What the server says it ran, and how that ended, is what its row says.
- What a row says has succeeded, the server says too.
- pgbench was never told of more transactions than there are rows that succeeded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentaudit import load
from tests.peers.serverlog import Line
from tests.soak.traffic import Bench

_MARK = re.compile(r"soak:[a-z]+\d+-\d+")
_SHOWN = 5

_LAST_STATEMENT = {"tpcb-like": "END", "select-only": "SELECT abalance FROM pgbench_accounts"}
"""How the last statement of each script of pgbench's begins (src/bin/pgbench/pgbench.c)."""

ADMIN_SHUTDOWN = "57P01"


@dataclass(frozen=True, slots=True)
class Row:
    """What the archive says of one execution: `ok`, a SQLSTATE, or `incomplete`."""

    outcome: str
    text: str


class Archived:
    """The rows of all marked executions, and how many statements of each pgbench succeeded."""

    def __init__(self, archive: Path) -> None:
        case = load(archive)
        self.rows: dict[str, list[Row]] = {}
        self.commands = case.sql("SELECT count(*) FROM commands").fetchall()[0][0]
        self.sessions = case.sql("SELECT count(*) FROM sessions").fetchall()[0][0]
        self.events = case.sql("SELECT count(*) FROM events").fetchall()[0][0]
        found = case.sql(
            "SELECT c.text, c.params, c.status, c.error_code"
            " FROM commands c JOIN sessions s USING (session_id)"
            " WHERE NOT starts_with(s.client_app, 'pgbench')"
        )
        for text, params, status, code in found.fetchall():
            outcome = code if status in ("error", "cancelled") else status
            for mark in _marks(text, params):
                self.rows.setdefault(mark, []).append(Row(outcome, text[:80]))
        self.benches: dict[tuple[str, str], int] = {}
        for script, beginning in _LAST_STATEMENT.items():
            counted = case.sql(
                "SELECT s.client_app, count(*) FROM commands c JOIN sessions s USING (session_id)"
                " WHERE c.status = 'ok' AND starts_with(c.text, $beginning)"
                " AND starts_with(s.client_app, 'pgbench') GROUP BY 1",
                {"beginning": beginning},
            )
            self.benches |= {(app, script): count for app, count in counted.fetchall()}


def _marks(text: str, params: Iterable[str | None] | None) -> list[str]:
    return _MARK.findall(" ".join([text, *(value or "" for value in params or ())]))


def against_clients(archived: Archived, told: Mapping[str, str]) -> Iterator[str]:
    """Yield what a client was told and the archive does not say."""
    for mark, outcome in told.items():
        rows = archived.rows.get(mark, [])
        # What is skipped in a pipeline was never answered: its row says that it did not run.
        expected = "incomplete" if outcome == "skipped" else outcome
        if [row.outcome for row in rows] != [expected]:
            yield f"{mark}: its client was told {outcome}, recorded is {rows}"


def against_server(archived: Archived, lines: Iterable[Line]) -> Iterator[str]:
    """Yield what the server ran and the archive says otherwise, and the other way round."""
    ran: dict[str, str] = {}
    for line in lines:
        if line.ran is not None:
            ran |= dict.fromkeys(_marks(line.ran, line.params), "ok")
        elif line.has_failed:
            marks = _marks(line.query, line.params)
            if len(marks) == 1:  # of several in one query nobody knows which has failed
                ran.setdefault(marks[0], line.sqlstate)
    for mark, outcome in ran.items():
        rows = [row.outcome for row in archived.rows.get(mark, [])]
        # Of a connection that was cut, the last answer may not have been given.
        may_be = {outcome, "incomplete", ADMIN_SHUTDOWN}
        if len(rows) != 1 or rows[0] not in may_be:
            yield f"{mark}: the server says {outcome}, recorded is {rows}"
    for mark, found in archived.rows.items():
        if mark not in ran and any(row.outcome == "ok" for row in found):
            yield f"{mark}: recorded is {found}, the server did not run it"


def against_pgbench(archived: Archived, benches: Iterable[Bench]) -> Iterator[str]:
    """Yield the bursts of pgbench of which transactions are missing."""
    for bench in benches:
        rows = archived.benches.get((bench.application, bench.script), 0)
        if rows < bench.processed:
            yield f"{bench.application}: {bench.processed} were processed, recorded are {rows}"


def outcomes_of(archived: Archived) -> Counter[str]:
    """Return how many marked executions ended in which way."""
    return Counter(row.outcome for rows in archived.rows.values() for row in rows)


def some(problems: Iterable[str]) -> list[str]:
    """Return the first few problems, and how many more there are."""
    found = list(problems)
    more = len(found) - _SHOWN
    return found[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
