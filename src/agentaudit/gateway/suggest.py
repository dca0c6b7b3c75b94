"""Asks a target what `mask suggest` judges: its columns' names, and some of their values.

It logs in as the gateway does, by the login for inspection where there is one. Each question is a
READ ONLY transaction that is taken back, bounded in time and in rows; what is sampled is cut to the
first characters, stays in memory, and is never written anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import orjson

from agentaudit.errors import QuestionError, SettingsError, TargetError
from agentaudit.gateway import backend
from agentaudit.gateway.connections import Poller
from agentaudit.gateway.postgres_talk import Refused, Talk
from agentaudit.gateway.serving import TargetAccess, target_access
from agentaudit.masking.suggest import Covered, Proposal, Sample, judge, toml
from agentaudit.protocols import postgres_messages as messages
from agentaudit.settings.whole import Settings

SAMPLE_ROWS: Final = 500
MAX_SAMPLE_ROWS: Final = 10_000
MAX_TABLES: Final = 2_000
MAX_CHARACTERS: Final = 300
"""Of one value: what is hidden stands near its beginning, and a document would fill the memory."""

TIMEOUT_S: Final = 300.0
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_LARGE_ROWS: Final = 50_000
"""From here on a part of the pages is read instead of the first rows, which are the oldest."""

# A policy of rows may be a function of whoever owns the table, and would run as this login: where
# there is one, the table is left out, as pg_dump does it.
_PREPARE: Final = messages.query(
    "SET default_transaction_read_only = on; SET row_security = off;"
    " SET statement_timeout = '10s'; SET lock_timeout = '1s'; SET search_path = '';"
    " SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET datestyle = 'ISO'"
)

# Tables and materialized views: what a view shows is in one of them. A partition's rows are its
# parent's. Values are asked for of types that can hold something: strings, addresses and arrays by
# their category, long numbers and documents by their name; nobody's own casts are among these.
_COLUMNS: Final = """
    SELECT json_agg(t) FROM (
        SELECT n.nspname AS schema, c.relname AS table, c.reltuples::int8 AS rows,
            (SELECT json_agg(json_build_array(
                    a.attname,
                    has_column_privilege(c.oid, a.attnum, 'SELECT'),
                    y.typcategory IN ('S', 'I', 'A') OR y.typnamespace = 'pg_catalog'::regnamespace
                        AND y.typname IN ('numeric', 'int8', 'json', 'jsonb', 'xml'))
                ORDER BY a.attnum)
                FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
            AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
            AND has_schema_privilege(n.oid, 'USAGE')
        ORDER BY n.nspname, c.relname
        LIMIT $1::int8) AS t
"""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What is proposed for a target, and how that came: by which `login`, from how many tables.

    `skipped` says of which tables or columns no value was seen, and why.
    """

    target: str
    login: str
    is_inspector: bool
    tables: int
    columns: int
    sampled_rows: int
    proposals: tuple[Proposal, ...]
    skipped: tuple[str, ...]
    toml: str


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    rows: int
    columns: tuple[tuple[str, bool, bool], ...]
    """Name, whether it may be read, whether its values can hold anything."""

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


def suggest(settings: Settings, target: str, *, sample: int = SAMPLE_ROWS) -> Suggestions:
    """Return masks that are proposed for a target; blocks, for minutes where it is large.

    Raises:
        QuestionError: the settings have no such target.
        SettingsError: a file or a secret that the settings name cannot be used.
        TargetError: it cannot be reached, or does not let us in, or is not there any more.
    """
    found = next((each for each in settings.target if each.name == target), None)
    if found is None:
        names = ", ".join(each.name for each in settings.target)
        there = f"one of {names} expected" if names else "the settings name none"
        raise QuestionError(f'target "{target}": {there}')
    if found.protocol != "postgres":
        raise SettingsError(f'target "{target}": columns can be proposed for postgres alone')
    documents = [mask.document() for mask in settings.mask]
    covered = Covered.by(documents, target)
    access = target_access(found)
    login = access.inspector or access
    try:
        asked = asyncio.run(_ask(login, sample, covered))
    except TimeoutError:
        raise TargetError(
            f'target "{target}": not all tables were sampled within {TIMEOUT_S:.0f} s',
            hint="a smaller --sample is quicker",
        ) from None
    tables, rows, proposals, skipped = asked
    return Suggestions(
        target=target,
        login=login.settings.user,
        is_inspector=access.inspector is not None,
        tables=len(tables),
        columns=sum(len(table.columns) for table in tables),
        sampled_rows=rows,
        proposals=tuple(proposals),
        skipped=tuple(skipped),
        toml=toml(proposals, target=target, taken=[mask.name for mask in settings.mask]),
    )


async def _ask(
    login: TargetAccess, sample: int, covered: Covered
) -> tuple[list[_Table], int, list[Proposal], list[str]]:
    proposals: list[Proposal] = []
    skipped: list[str] = []
    sampled = 0
    with closing(Poller()) as poller:
        async with asyncio.timeout(TIMEOUT_S):
            server = await backend.log_in(
                poller, login, {"application_name": "agentaudit mask suggest"}
            )
            try:
                talk = Talk(server.wire, server.rest, max_bytes=_MAX_ANSWER_BYTES)
                await talk.run(_PREPARE)
                tables = await _tables(talk, login)
                if len(tables) == MAX_TABLES:
                    skipped.append(f"tables after the first {MAX_TABLES:,}")
                for table in tables:
                    rows = await _rows(talk, table, sample, skipped)
                    sampled += len(rows)
                    # Patterns over thousands of values take a while, and a server may hang up.
                    proposals += await asyncio.to_thread(_judge, table, rows, covered)
            finally:
                server.wire.send(messages.terminate())
                server.wire.close()
    return tables, sampled, proposals, skipped


async def _tables(talk: Talk, login: TargetAccess) -> list[_Table]:
    try:
        answer = await talk.ask(_COLUMNS, [str(MAX_TABLES)])
    except Refused as error:
        raise TargetError(
            f'target "{login.settings.name}": its catalogue cannot be read: {error}'
        ) from None
    return [
        _Table(
            each["schema"], each["table"], each["rows"], tuple(map(tuple, each["columns"] or ()))
        )
        for each in orjson.loads(answer or b"null") or ()
    ]


async def _rows(talk: Talk, table: _Table, sample: int, skipped: list[str]) -> list[dict[str, Any]]:
    """Return values of some rows by the place of their column; none where they may not be read."""
    unread = [name for name, may_read, _ in table.columns if not may_read]
    if unread:
        what = (
            table.label if len(unread) == len(table.columns) else f"{table.label}: {_few(unread)}"
        )
        skipped.append(f"{what}: the login may not read it, so its name alone was looked at")
    wanted = [
        place for place, (_, may_read, holds) in enumerate(table.columns) if may_read and holds
    ]
    if not wanted or not sample:
        return []
    parts = _percentage(table.rows, sample)
    try:
        rows = await _sampled(talk, table, wanted, parts, sample)
        # A few pages of many may all be empty.
        return rows or (await _sampled(talk, table, wanted, "", sample) if parts else [])
    except Refused as error:
        why = str(error).replace("the planner", "the server")
        skipped.append(f"{table.label}: {why}, so its columns' names alone were looked at")
        return []


async def _sampled(
    talk: Talk, table: _Table, wanted: Sequence[int], part: str, sample: int
) -> list[dict[str, Any]]:
    values = ", ".join(
        f'"left"(t.{_quoted(table.columns[place][0])}::text, {MAX_CHARACTERS}) AS "{place}"'
        for place in wanted
    )
    source = f"{_quoted(table.schema)}.{_quoted(table.name)} AS t{part}"
    sql = f"SELECT json_agg(s) FROM (SELECT {values} FROM {source} LIMIT {sample:d}) AS s"  # noqa: S608
    return orjson.loads(await talk.ask(sql, []) or b"null") or []


def _percentage(rows: int, sample: int) -> str:
    """Return the clause that reads pages here and there, where a table is large."""
    if rows < _LARGE_ROWS or rows < 10 * sample:
        return ""
    # Four times as much as is wanted, as pages differ in how many rows they have.
    return f" TABLESAMPLE SYSTEM ({min(100.0, 400.0 * sample / rows):.6f})"


def _judge(table: _Table, rows: Sequence[dict[str, Any]], covered: Covered) -> list[Proposal]:
    found = []
    for place, (name, _, _) in enumerate(table.columns):
        sample = Sample()
        key = str(place)
        sample.add(row[key] for row in rows if row.get(key) is not None)
        found += judge((table.schema, table.name, name), sample, covered)
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
