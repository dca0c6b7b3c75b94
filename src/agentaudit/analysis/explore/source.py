"""Where an answer's rows come from: a filter as conditions on numbers, and the cheapest tables.

Every source is a subquery with the columns `t`, `n` (how many commands a row stands for), `g` (the
gravest of them, see `meaning`), `flags`, and what else was wanted. A level stands for its whole
stretches of time alone; what a question's ends cut off comes from the commands themselves, so
sums are exact however they are put together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.built import EVER, WORDS, Base, Built, Level, quoted
from agentaudit.analysis.explore.filters import MAX_US, Filter, literal

_CODES: Final = {"cls": meaning.GRAVITY, "status": meaning.STATUS, "decision": meaning.DECISION}
_NEVER: Final = "FALSE"
_WORTH_BUCKETS: Final = 4
"""Fewer stretches of a level than that are no cheaper than their commands."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter over one index: what must hold in `base` and levels, and in `tail`; and of when."""

    base: Base
    clauses: tuple[str, ...]
    tail_clauses: tuple[str, ...]
    needs: frozenset[str]
    since: int
    until: int

    def base_where(self, since: int, until: int) -> str:
        """Return what commands of the base from `since` to before `until` have to meet."""
        return _where(since, until, (*self.base.clauses, *self.clauses))

    def tail_where(self, since: int, until: int) -> str:
        """Return the same for those of the tail."""
        return _where(since, until, self.tail_clauses)


def condition(
    cursor: duckdb.DuckDBPyConnection, base: Base, asked: Filter, *, but: str = ""
) -> Condition:
    """Return `asked`, without the clause about the facet `but`, for one index."""
    clauses: list[str] = []
    needs: set[str] = set()

    def add(column: str, clause: str) -> None:
        clauses.append(clause)
        needs.add(column)

    for facet in WORDS:
        values = getattr(asked, facet, ())
        if values and facet != but:
            found = _codes(cursor, f"SELECT code FROM words_{facet} WHERE word IN $words", values)
            add(facet, among(quoted(facet), found))
    if asked.session and but != "session":
        found = _codes(
            cursor,
            "SELECT code FROM session_numbers WHERE session_id IN $words::UUID[]",
            asked.session,
        )
        add("session", among("session", found))
    for facet, words in _CODES.items():
        values = getattr(asked, facet)
        if values and facet != but:
            add(facet, among(facet, [words.index(value) for value in values]))
    if asked.flags and but != "flags":
        add("flags", f"flags & {sum(meaning.FLAGS[flag].bit for flag in asked.flags)} <> 0")
    if asked.risk and but != "risk":
        found = _codes(cursor, "SELECT code FROM items_risks WHERE word IN $words", asked.risk)
        add("risks", among("risks", found))
    if asked.table and but != "table":
        found = _codes(cursor, _TABLES, asked.table)
        add("tables", among("tables", found))
    tail = list(clauses)
    if asked.text:
        # Few texts are there yet, so they are looked through each time.
        tail.append(
            "text IN (SELECT code FROM texts_tail WHERE contains(lower(text), lower("
            f"{literal(asked.text)})))"
        )
    return Condition(
        base,
        tuple(clauses),
        tuple(tail),
        frozenset(needs),
        0 if asked.since is None else asked.since,
        MAX_US if asked.until is None else asked.until,
    )


_TABLES: Final = """
SELECT code FROM items_tables
WHERE len(list_filter($words, lambda name:
    lower(word) = lower(name) OR ends_with(lower(word), lower('.' || name)))) > 0
"""


def rows_of(
    built: Built,
    meant: Condition,
    wanted: Collection[str],
    since: int,
    until: int,
    step: int | None = None,
) -> str:
    """Return the subquery of what `meant` selects from `since` to before `until`.

    With a `step`, times are looked at in stretches of so many microseconds from 1970, at whose
    beginning the time of a level's rows may stand; without one, they are not looked at at all.
    """
    since, until = max(since, meant.since), min(until, meant.until)
    # A level that has no `flags` to tell by has those of all that it adds up.
    columns = sorted(frozenset(wanted) - {"flags"})
    shown = "".join(f", {quoted(column)}" for column in columns)
    parts = []

    def commands(first: int, end: int) -> None:
        if first < end:
            parts.append(
                f"SELECT t, 1::BIGINT AS n, g, flags{shown} FROM {meant.base.table} "
                f"WHERE {meant.base_where(first, end)}"
            )

    def added_up(level: Level, first: int, end: int) -> None:
        parts.append(
            f"SELECT t, n, g, flags{shown} FROM {level.name} "
            f"WHERE {_where(first, end, meant.clauses)}"
        )

    level = level_of(built, meant, wanted, since, until, step)
    if level is None:
        commands(since, until)
    elif level.bucket_us == EVER:
        added_up(level, 0, MAX_US)
    else:
        size = level.bucket_us
        first, end = -(-since // size) * size, until // size * size
        if end - first < _WORTH_BUCKETS * size:
            commands(since, until)
        else:
            added_up(level, first, end)
            commands(since, first)
            # What lies behind the last command of the base is not there to be read.
            commands(end, min(until, max(end, built.base_until)))
    if built.tail_rows or not parts:
        parts.append(
            f"SELECT t, 1::BIGINT AS n, g, flags{shown} FROM tail "
            f"WHERE {meant.tail_where(since, until)}"
        )
    return "(" + " UNION ALL ".join(parts) + ")"


def level_of(
    built: Built,
    meant: Condition,
    wanted: Collection[str],
    since: int,
    until: int,
    step: int | None = None,
) -> Level | None:
    """Return the level that `rows_of` reads, None where it reads commands alone.

    What several questions read the same level for, it has for all of their columns together.
    """
    since, until = max(since, meant.since), min(until, meant.until)
    is_all = step is None and since <= built.base_since and until >= built.base_until
    needed = meant.needs | frozenset(wanted)
    able = [
        level
        for level in meant.base.levels
        if needed <= level.keys
        and (step is None or level.divides(step))
        and (is_all or level.bucket_us != EVER)
    ]
    return min(able, key=lambda level: level.rows, default=None)


def _where(since: int, until: int, clauses: Iterable[str]) -> str:
    return " AND ".join([f"t >= {since} AND t < {until}", *clauses])


def _codes(cursor: duckdb.DuckDBPyConnection, sql: str, values: tuple[str, ...]) -> list[int]:
    found: list[tuple[Any, ...]] = cursor.execute(sql, {"words": list(values)}).fetchall()
    return [int(code) for (code,) in found]


def among(column: str, codes: Iterable[int]) -> str:
    """Return the condition that `column` is one of `codes`."""
    codes = sorted(set(codes))
    if not codes:
        return _NEVER
    if len(codes) == 1:
        return f"{column} = {codes[0]}"
    if codes[-1] - codes[0] + 1 == len(codes):
        return f"{column} BETWEEN {codes[0]} AND {codes[-1]}"
    return f"{column} IN ({', '.join(map(str, codes))})"
