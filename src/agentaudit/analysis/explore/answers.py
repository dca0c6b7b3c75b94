"""The named questions of Explorer and Timeline, each over one index at one moment.

Every answer is a few facts, for JSON, and at most one Arrow stream (IPC) of what is drawn. Limits
are small enough for an answer to stay below 256 KiB. Codes of classes, status and decisions are
places in `meaning.GRAVITY`, `STATUS` and `DECISION`; times are microseconds since 1970, UTC.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.built import HOUR_US, NUMBER_BITS, WORDS, Base, Built, quoted
from agentaudit.analysis.explore.filters import FACETS, MAX_US, Filter
from agentaudit.analysis.explore.source import Condition, condition, rows_of

LANES: Final = ("none", "session", "user", "agent", "target", "class")
SESSION_ORDERS: Final = ("newest", "oldest", "gravest", "most")
MAX_LANES = 64
MAX_WIDTH = 4_096
MAX_MARKS = 5_000
MAX_ROWS = 500
MAX_SESSIONS = 500
TOP_VALUES = 50
TEXT_CHARACTERS = 300

_COLUMNS: Final = {"class": "cls", "risk": "risks", "table": "tables"}
_STEPS: Final = (HOUR_US, 600_000_000, 60_000_000, 1_000_000, 1_000, 1)
_VOCABULARY: Final = {
    "cls": meaning.GRAVITY,
    "status": meaning.STATUS,
    "decision": meaning.DECISION,
}


@dataclass(frozen=True, slots=True)
class Bins:
    """Where bins lie: from `origin` on, `count` of `step` microseconds each."""

    origin: int
    step: int
    count: int

    @classmethod
    def of(cls, since: int, until: int, width: int) -> Bins:
        """Return about `width` bins, at most, that cover the time from `since` to `until`.

        Their step is a multiple of the largest of an hour, ten minutes, a minute, a second, a
        millisecond that is no longer; and they begin at multiples of it. So a bin does not change
        when the screen moves, and never cuts in two what a level has added up.
        """
        least = max(1, -(-(until - since) // width))
        unit = next(unit for unit in _STEPS if unit <= least or unit == 1)
        step = -(-least // unit) * unit
        origin = since // step * step
        return cls(origin, step, max(1, -(-(until - origin) // step)))

    @property
    def until(self) -> int:
        return self.origin + self.step * self.count


class Answers:
    """Answers over `built`, asked by `cursor`; `base` is what the filter's text leaves."""

    def __init__(
        self, built: Built, cursor: duckdb.DuckDBPyConnection, asked: Filter, base: Base
    ) -> None:
        self._built = built
        self._cursor = cursor
        self._asked = asked
        self._base = base

    def overview(self) -> tuple[dict[str, Any], list[bytes]]:
        """How many commands there are, from when to when, and how many values each facet has."""
        n, first, last = self._one(
            "SELECT count(*), min(t), max(t) FROM (SELECT t FROM base UNION ALL SELECT t FROM tail)"
        )
        (sessions,) = self._one("SELECT count(*) FROM session_numbers")
        values = {"session": sessions}
        for word in ("user", "agent", "target", "protocol", "operation"):
            (values[word],) = self._one(f"SELECT count(*) FROM words_{word}")
        for facet, items in (("risk", "risks"), ("table", "tables")):
            (values[facet],) = self._one(f"SELECT count(DISTINCT word) FROM items_{items}")
        return {"n": n, "first": first, "last": last, "values": values}, []

    def bins(
        self, *, since: int, until: int, width: int, lanes: str
    ) -> tuple[dict[str, Any], list[bytes]]:
        """How many commands there are in each lane and bin, and how grave it gets.

        Stream: `lane` and `bin` (from 0), `n`, `severity`, `cls` and `id` of the gravest command,
        `flags` of all together. Facts: `origin`, `step` and `count` of the bins, `n` in all, and
        `lanes`, the gravest first and of those the most populous: `name` and `n`, and `severity`.
        Beyond 64 the rest is one lane, whose `others` says how many it stands for.
        """
        bins = Bins.of(since, until, width)
        column = None if lanes == "none" else _COLUMNS.get(lanes, lanes)
        meant = self._condition()
        rows = rows_of(
            self._built,
            meant,
            () if column is None else (column,),
            bins.origin,
            min(bins.until, MAX_US),
            bins.step,
        )
        lane = "0" if column is None else quoted(column)
        cells = self._arrow(
            f"SELECT {lane}::UINTEGER AS lane, ((t - {bins.origin}) // {bins.step})::USMALLINT "
            f"AS bin, sum(n)::BIGINT AS n, min(g) AS g, bit_or(flags) AS flags "
            f"FROM {rows} GROUP BY ALL"
        )
        named, numbers = self._lanes(lanes, cells)
        drawn = self._over(
            cells,
            numbers,
            f"SELECT l.lane, c.bin, sum(c.n)::UINTEGER AS n, "
            f"{meaning.severity_of('min(c.g)')} AS severity, "
            f"{meaning.class_of('min(c.g)')} AS cls, bit_or(c.flags) AS flags, "
            f"{meaning.identity_of('min(c.g)')} AS id "
            "FROM cells AS c JOIN numbers AS l ON l.code = c.lane "
            "GROUP BY l.lane, c.bin ORDER BY l.lane, c.bin",
        )
        facts = {
            "origin": bins.origin,
            "step": bins.step,
            "count": bins.count,
            "n": sum(one["n"] for one in named),
            "lanes": named,
        }
        return facts, [stream(drawn)]

    def marks(
        self, *, since: int, until: int, lanes: str, limit: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The commands themselves, where they are at most `limit`; else only how many: `n`.

        Stream: `id`, `t`, `duration` (µs, or null), `lane`, `cls`, `status`, `flags`, `severity`.
        Facts: `n`, whether they are `complete`, and `lanes` as for `bins`.
        """
        meant = self._condition()
        first, end = max(since, meant.since), min(until, meant.until)
        column = None if lanes == "none" else _COLUMNS.get(lanes, lanes)
        lane = "0" if column is None else quoted(column)
        parts = [
            f"(SELECT id, t, duration, {lane}::UINTEGER AS lane, cls, status, flags, g "
            f"FROM {table} WHERE {where} ORDER BY t, id LIMIT {limit + 1})"
            for table, where in self._tables(meant, first, end)
        ]
        found = self._arrow(f"FROM ({' UNION ALL '.join(parts)}) ORDER BY t, id")
        if found.num_rows > limit:
            rows = rows_of(self._built, meant, (), first, end, HOUR_US)
            (n,) = self._one(f"SELECT coalesce(sum(n), 0)::BIGINT FROM {rows}")
            return {"n": n, "complete": False, "lanes": []}, []
        named, numbers = self._lanes(lanes, found)
        drawn = self._over(
            found,
            numbers,
            "SELECT c.id, c.t, c.duration, l.lane, c.cls, c.status, c.flags, "
            f"{meaning.severity_of('c.g')} AS severity "
            "FROM cells AS c JOIN numbers AS l ON l.code = c.lane ORDER BY c.t, c.id",
        )
        return {"n": found.num_rows, "complete": True, "lanes": named}, [stream(drawn)]

    def facets(self) -> tuple[dict[str, Any], list[bytes]]:
        """How many commands each value of each facet would leave, all other clauses in force.

        Facts: by facet, `values` (name and count, the 50 most frequent) and how many `more` there
        are. A command that names two tables counts for both; a table counts by its whole name.
        """
        found = {}
        every = self._condition()
        for facet in (*FACETS, "flags"):
            meant = self._condition(facet) if getattr(self._asked, facet) else every
            column = _COLUMNS.get(facet, facet)
            wanted = () if facet == "flags" else (column,)
            rows = rows_of(self._built, meant, wanted, 0, MAX_US)
            if facet in _VOCABULARY or facet == "flags":
                counts = self._cursor.execute(
                    f"SELECT {column}, sum(n)::BIGINT FROM {rows} GROUP BY 1"
                ).fetchall()
                found[facet] = {"values": _vocabulary(facet, counts), "more": 0}
                continue
            if facet == "session":
                named = "SELECT code, session_id::VARCHAR AS word FROM session_numbers"
            elif facet in ("risk", "table"):
                named = f"FROM items_{column}"
            else:
                named = f"FROM words_{column}"
            ranked = self._cursor.execute(
                f"WITH counted AS (SELECT {quoted(column)} AS code, sum(n)::BIGINT AS n "
                f"FROM {rows} GROUP BY 1), "
                f"worded AS (SELECT word, sum(n)::BIGINT AS n FROM counted JOIN ({named}) "
                "USING (code) GROUP BY 1) "
                "SELECT word, n, count(*) OVER () FROM worded ORDER BY n DESC, word "
                f"LIMIT {TOP_VALUES}"
            ).fetchall()
            found[facet] = {
                "values": [[word, n] for word, n, _ in ranked],
                "more": ranked[0][2] - len(ranked) if ranked else 0,
            }
        return {"facets": found}, []

    def rows(
        self,
        *,
        order: str,
        limit: int,
        offset: int = 0,
        after: tuple[int, int] | None = None,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """A page of commands, behind `offset` of them or behind the one that `after` names.

        Stream: `id`, `t`, `session_id`, `command_no`, `user`, `agent`, `target`, `protocol`, `cls`,
        `operation`, `status`, `decision`, `rule`, `duration`, `rows_returned`, `rows_affected`,
        `bytes_in`, `bytes_out`, `flags`, `severity`, `text` (its first 300 characters, as they
        were recorded) and `text_length`. Facts: `n` in all, and `offset`, null where `after` is
        given.
        """
        meant = self._condition()
        is_newest = order == "newest"
        hours = self._hours(meant)
        total = sum(n for _, n in hours)
        first, end, skip = meant.since, meant.until, 0
        if after is None:
            first, end, skip = _window(hours, offset, limit, is_newest)
            first, end = max(first, meant.since), min(end, meant.until)
        direction = "DESC" if is_newest else "ASC"
        behind = ""
        if after is not None:
            t, identity = after
            first, end = (first, min(end, t + 1)) if is_newest else (max(first, t), end)
            sign = "<" if is_newest else ">"
            behind = f" AND (t {sign} {t} OR id {sign} {identity})"
        parts = [
            f"(SELECT {_ROW_COLUMNS}, {number} AS part FROM {table} WHERE {where}{behind} "
            f"ORDER BY t {direction}, id {direction} LIMIT {skip + limit})"
            for number, (table, where) in enumerate(self._tables(meant, first, end))
        ]
        page = self._arrow(
            f"FROM ({' UNION ALL '.join(parts)}) ORDER BY t {direction}, id {direction} "
            f"LIMIT {limit} OFFSET {skip}"
        )
        said = self._worded(page, direction)
        return {"n": total, "offset": None if after else offset}, [stream(said)]

    def position(self, *, order: str, t: int, id: int | None) -> tuple[dict[str, Any], list[bytes]]:
        """How many matching commands come before a time, or before the command `id` at that time.

        Facts: `position`, `n` in all, and `matches`: whether that command is one of them.
        """
        meant = self._condition()
        total = sum(n for _, n in self._hours(meant))
        first, end = (t + 1, meant.until) if order == "newest" else (meant.since, t)
        rows = rows_of(self._built, meant, (), first, end, 1 if end - first < HOUR_US else HOUR_US)
        (before,) = self._one(f"SELECT coalesce(sum(n), 0)::BIGINT FROM {rows}")
        matches = None
        if id is not None:
            sign = ">" if order == "newest" else "<"
            first, end = max(t, meant.since), min(t + 1, meant.until)
            parts = [
                f"SELECT id FROM {table} WHERE {where}"
                for table, where in self._tables(meant, first, end)
            ]
            same, matches = self._one(
                f"SELECT count(*) FILTER (id {sign} {id}), "
                f"coalesce(bool_or(id = {id}), FALSE) FROM ({' UNION ALL '.join(parts)})"
            )
            before += same
        return {"position": before, "n": total, "matches": matches}, []

    def sessions(
        self, *, order: str, offset: int, limit: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Sessions that have matching commands, and what is to be said of those commands.

        Stream: `session_id`, `opened` and `closed` (µs, or null), `user`, `agent`, `target`,
        `protocol`, `client`, `close_reason`, `commands` (all of the session), `matching`, and of
        these `errors`, `denied`, `held`, `masked` and `large`, and `severity` of the gravest.
        Facts: `n` sessions in all.
        """
        rows = rows_of(self._built, self._condition(), ("session",), 0, MAX_US, HOUR_US)
        counts = ", ".join(
            f"coalesce(sum(n) FILTER (flags & {flag.bit} <> 0), 0)::BIGINT AS {name}"
            for name, flag in _COUNTED.items()
        )
        ranked = {
            "newest": "opened DESC",
            "oldest": "opened",
            "gravest": "severity DESC, matching DESC, opened DESC",
            "most": "matching DESC, opened DESC",
        }[order]
        page = self._arrow(
            f"WITH found AS (SELECT session, sum(n)::BIGINT AS matching, {counts}, "
            f"{meaning.severity_of('min(g)')} AS severity FROM {rows} GROUP BY session) "
            "SELECT n.session_id::VARCHAR AS session_id, "
            "coalesce(epoch_us(s.opened_at), 0) AS opened, epoch_us(s.closed_at) AS closed, "
            's."user", s.agent, s.target, s.protocol, s.client_app AS client, s.close_reason, '
            f"s.commands, f.* EXCLUDE (session), count(*) OVER () AS of "
            "FROM found AS f JOIN session_numbers AS n ON n.code = f.session "
            "LEFT JOIN sessions AS s ON s.session_id = n.session_id "
            f"ORDER BY {ranked}, session_id LIMIT {limit} OFFSET {offset}"
        )
        total = page.column("of")[0].as_py() if page.num_rows else 0
        if not total and offset:
            (total,) = self._one(f"SELECT count(DISTINCT session) FROM {rows}")
        return {"n": total, "offset": offset}, [stream(page.drop_columns(["of"]))]

    def locate(self, *, session: str, command_no: int) -> tuple[dict[str, Any], list[bytes]]:
        """Where a command is: its `id` and `t`; both null where it is not there."""
        codes = self._cursor.execute(
            "SELECT code FROM session_numbers WHERE session_id = $session::UUID",
            {"session": session},
        ).fetchall()
        found: list[tuple[int, int]] = []
        if codes:
            code = codes[0][0]
            found = self._cursor.execute(
                " UNION ALL ".join(
                    f"SELECT id, t FROM {table} WHERE session = {code} "
                    f"AND id = {code << NUMBER_BITS | command_no}"
                    for table in ("base", "tail")
                )
            ).fetchall()
        identity, t = found[-1] if found else (None, None)
        return {"id": identity, "t": t}, []

    def which(self, *, id: int) -> tuple[dict[str, Any], list[bytes]]:
        """Which command an `id` is: its `session` (null: there is none) and its `command_no`."""
        found = self._cursor.execute(
            "SELECT session_id::VARCHAR FROM session_numbers WHERE code = $code",
            {"code": id >> NUMBER_BITS},
        ).fetchall()
        session = found[0][0] if found else None
        return {"session": session, "command_no": id & ((1 << NUMBER_BITS) - 1)}, []

    # --- what several of them need

    def _condition(self, but: str = "") -> Condition:
        return condition(self._cursor, self._base, self._asked, but=but)

    def _tables(self, meant: Condition, since: int, until: int) -> list[tuple[str, str]]:
        return [
            (meant.base.table, meant.base_where(since, until)),
            ("tail", meant.tail_where(since, until)),
        ]

    def _hours(self, meant: Condition) -> list[tuple[int, int]]:
        rows = rows_of(self._built, meant, (), 0, MAX_US, HOUR_US)
        return self._cursor.execute(
            f"SELECT t // {HOUR_US} AS hour, sum(n)::BIGINT FROM {rows} GROUP BY 1 ORDER BY 1"
        ).fetchall()

    def _lanes(self, lanes: str, cells: pa.Table) -> tuple[list[dict[str, Any]], pa.Table]:
        """Return the lanes of `cells` in order, and which lane each code of theirs is in."""
        n = "sum(n)" if "n" in cells.column_names else "count(*)"
        ranked = self._over(
            cells,
            None,
            f"SELECT lane AS code, {n}::BIGINT AS n, min(g) >> {meaning.SEVERITY_BITS} AS mild "
            "FROM cells GROUP BY lane ORDER BY mild, n DESC, code",
        ).to_pylist()
        shown = len(ranked) if len(ranked) <= MAX_LANES else MAX_LANES - 1
        names = self._names(lanes, [one["code"] for one in ranked[:shown]])
        named = [
            {"name": name, "n": one["n"], "severity": 3 - one["mild"]}
            for name, one in zip(names, ranked[:shown], strict=True)
        ]
        rest = ranked[shown:]
        if rest:
            named.append(
                {
                    "name": None,
                    "n": sum(one["n"] for one in rest),
                    "severity": 3 - min(one["mild"] for one in rest),
                    "others": len(rest),
                }
            )
        numbers = pa.table(
            {
                "code": pa.array([one["code"] for one in ranked], pa.uint32()),
                "lane": pa.array([min(i, shown) for i in range(len(ranked))], pa.uint8()),
            }
        )
        return named, numbers

    def _names(self, lanes: str, codes: list[int]) -> list[str]:
        if lanes == "none":
            return ["" for _ in codes]
        if lanes == "class":
            return [meaning.GRAVITY[code] for code in codes]
        table, column = f"words_{lanes}", "word"
        if lanes == "session":
            table, column = "session_numbers", "session_id::VARCHAR"
        found = dict(
            self._cursor.execute(
                f"SELECT code, {column} FROM {table} WHERE code IN $codes", {"codes": codes}
            ).fetchall()
        )
        return [str(found[code]) for code in codes]

    def _worded(self, page: pa.Table, direction: str) -> pa.Table:
        """Return rows of commands with words in the place of codes."""
        texts = []
        for part, table in enumerate(("base", "tail")):
            picked = [
                code
                for code, of in zip(
                    page.column("text").to_pylist(), page.column("part").to_pylist(), strict=True
                )
                if of == part
            ]
            among = f"code IN ({', '.join(map(str, sorted(set(picked))))})" if picked else "FALSE"
            texts.append(
                f"SELECT {part} AS part, code, left(text, {TEXT_CHARACTERS}) AS text, "
                f"length(text) AS text_length FROM texts_{table} WHERE {among}"
            )
        said = " ".join(
            f"LEFT JOIN words_{word} AS w_{word} ON w_{word}.code = c.{quoted(word)}"
            for word in WORDS
        )
        return self._over(
            page,
            None,
            "SELECT c.id, c.t, s.session_id::VARCHAR AS session_id, c.command_no, "
            'w_user.word AS "user", w_agent.word AS agent, w_target.word AS target, '
            "w_protocol.word AS protocol, c.cls, w_operation.word AS operation, c.status, "
            "c.decision, w_rule.word AS rule, c.duration, c.rows_returned, c.rows_affected, "
            f"c.bytes_in, c.bytes_out, c.flags, {meaning.severity_of('c.g')} AS severity, "
            "x.text, x.text_length::INTEGER AS text_length "
            f"FROM cells AS c JOIN session_numbers AS s ON s.code = c.session {said} "
            f"LEFT JOIN ({' UNION ALL '.join(texts)}) AS x ON x.part = c.part AND x.code = c.text "
            f"ORDER BY c.t {direction}, c.id {direction}",
        )

    def _one(self, sql: str) -> tuple[Any, ...]:
        (row,) = self._cursor.execute(sql).fetchall()
        found: tuple[Any, ...] = row
        return found

    def _arrow(self, sql: str) -> pa.Table:
        found: pa.Table = self._cursor.sql(sql).to_arrow_table()
        return found

    def _over(self, cells: pa.Table, numbers: pa.Table | None, sql: str) -> pa.Table:
        given: Mapping[str, pa.Table] = (
            {"cells": cells} if numbers is None else {"cells": cells, "numbers": numbers}
        )
        for name, table in given.items():
            self._cursor.register(name, table)
        try:
            return self._arrow(sql)
        finally:
            for name in given:
                self._cursor.unregister(name)


_COUNTED: Final = {
    "errors": meaning.FLAGS["error"],
    "denied": meaning.FLAGS["denied"],
    "held": meaning.FLAGS["held"],
    "masked": meaning.FLAGS["masked"],
    "large": meaning.FLAGS["large"],
}
_ROW_COLUMNS: Final = (
    'id, t, g, session, command_no, "user", agent, target, protocol, operation, rule, cls, status, '
    "decision, flags, duration, rows_returned, rows_affected, bytes_in, bytes_out, text"
)


def _window(
    hours: list[tuple[int, int]], offset: int, limit: int, is_newest: bool
) -> tuple[int, int, int]:
    """Return the hours in which a page lies, from and to, and how many of them come before it."""
    seen = 0
    skip = 0
    first: int | None = None
    last = 0
    for hour, n in reversed(hours) if is_newest else hours:
        if first is None and seen + n > offset:
            first, skip = hour, offset - seen
        seen += n
        last = hour
        if first is not None and seen >= offset + limit:
            break
    if first is None:
        return 0, 0, 0
    low, high = (last, first) if is_newest else (first, last)
    return low * HOUR_US, (high + 1) * HOUR_US, skip


def _vocabulary(facet: str, counts: list[tuple[int, int]]) -> list[list[Any]]:
    if facet == "flags":
        totals = {
            name: sum(n for bits, n in counts if bits & flag.bit)
            for name, flag in meaning.FLAGS.items()
        }
    else:
        words = _VOCABULARY[facet]
        totals = {words[code]: n for code, n in counts}
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [[name, n] for name, n in ranked if n]


def stream(table: pa.Table) -> bytes:
    """Return `table` as one Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
