"""The named questions of Explorer and Timeline, each over one index at one moment.

Every answer is a few facts, for JSON, and at most one Arrow stream (IPC) of what is drawn. A page
or marks stay below 256 KiB; bins have 18 bytes a cell that is not empty, so whoever draws many
lanes asks for fewer bins. Codes of classes, status and decisions are places in `meaning.GRAVITY`,
`STATUS` and `DECISION`; times are microseconds since 1970, UTC.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.built import HOUR_US, NUMBER_BITS, WORDS, Base, Built, quoted
from agentaudit.analysis.explore.filters import FACETS, MAX_US, Filter
from agentaudit.analysis.explore.source import Condition, condition, level_of, rows_of
from agentaudit.errors import QuestionError

LANES: Final = ("none", "session", "user", "agent", "target", "class")
SESSION_ORDERS: Final = ("newest", "oldest", "gravest", "most")
OPEN_FACETS: Final = tuple(facet for facet in FACETS if facet not in ("cls", "status", "decision"))
"""Facets of words that were recorded: of these there may be any number."""
MAX_LANES = 64
MAX_WIDTH = 4_096
MAX_MARKS = 5_000
MAX_ROWS = 500
MAX_SESSIONS = 500
TOP_VALUES = 50
MAX_FOUND = 200
TEXT_CHARACTERS = 300
_KEPT_HOURS = 64
_LISTS: Final = frozenset(("risk", "table"))
"""Facets of which a command may have several values."""

_COLUMNS: Final = {"class": "cls", "risk": "risks", "table": "tables"}
_STEPS: Final = (HOUR_US, 600_000_000, 60_000_000, 1_000_000, 1_000, 1)
_VOCABULARY: Final = {
    "cls": meaning.GRAVITY,
    "status": meaning.STATUS,
    "decision": meaning.DECISION,
}


DROPPED: Final = "question: a newer one came on its channel"


class Superseded(QuestionError):
    """A newer question on the same channel has taken this one's place; nobody waits for it."""


class Rebuilt(QuestionError):
    """What was asked about was an id of an index that another has replaced: there it is another."""


class Turn:
    """A question's place on its channel."""

    def __init__(self, channel: str = "") -> None:
        self.channel = channel
        self.is_over = False

    def check(self) -> None:
        """Go on only while somebody waits.

        Raises:
            Superseded: nobody does.
        """
        if self.is_over:
            raise Superseded(DROPPED)


@dataclass(frozen=True, slots=True)
class Bins:
    """Where bins lie: from `origin` on, `count` of `step` microseconds each."""

    origin: int
    step: int
    count: int

    @classmethod
    def of(cls, since: int, until: int, width: int) -> Bins:
        """Return about `width` bins, at most, that cover the time from `since` to `until`.

        Their step is a multiple of an hour, ten minutes, a minute, a second, a millisecond, the
        largest that is at most twice as long as needed; and they begin at multiples of it. So a bin
        does not change when the screen moves, and never cuts in two what a level has added up.
        """
        least = max(1, -(-(until - since) // width))
        unit = next(unit for unit in _STEPS if unit <= 2 * least or unit == 1)
        step = -(-least // unit) * unit
        origin = since // step * step
        return cls(origin, step, max(1, -(-(until - origin) // step)))

    @property
    def until(self) -> int:
        return self.origin + self.step * self.count


class Answers:
    """Answers over `built`, asked by `cursor`; `base` is what the filter's text leaves."""

    def __init__(
        self,
        built: Built,
        cursor: duckdb.DuckDBPyConnection,
        asked: Filter,
        base: Base,
        turn: Turn,
    ) -> None:
        self._built = built
        self._cursor = cursor
        self._asked = asked
        self._base = base
        self._turn = turn
        # Of before it reads: what it finds may be older than that, and is never taken for newer.
        self._generation = built.generation

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

        Stream, in order: `lane` and `bin` (from 0), `n`, `severity`, `cls` and `id` of the gravest
        command, `flags` of all together.
        Facts: `origin`, `step` and `count` of the bins, `n` in all, and
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
        if column == "session":
            named, cells = self._binned_sessions(meant, bins, rows)
        else:
            lane = "0" if column is None else quoted(column)
            found = self._arrow(
                f"SELECT {lane}::UINTEGER AS lane, {_binned(bins)} FROM {rows} GROUP BY ALL"
            )
            named, cells = self._lanes(lanes, found)
        drawn = pa.table(
            {
                "lane": cells["lane"],
                "bin": cells["bin"],
                "n": pc.cast(cells["n"], pa.uint32()),
                **_graveness(cells["g"]),
                "flags": cells["flags"],
                "id": pc.bit_wise_and(cells["g"], meaning.IDENTITY_MASK),
            }
        )
        facts = {
            "origin": bins.origin,
            "step": bins.step,
            "count": bins.count,
            "n": sum(one["n"] for one in named),
            "lanes": named,
        }
        return facts, [stream(drawn.sort_by([("lane", "ascending"), ("bin", "ascending")]))]

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
        named, found = self._lanes(lanes, found)
        drawn = pa.table(
            {
                **{name: found[name] for name in ("id", "t", "duration", "lane", "cls")},
                "status": found["status"],
                "flags": found["flags"],
                "severity": _graveness(found["g"])["severity"],
            }
        )
        return {"n": found.num_rows, "complete": True, "lanes": named}, [stream(drawn)]

    def facets(self) -> tuple[dict[str, Any], list[bytes]]:
        """How many commands each value of each facet would leave, all other clauses in force.

        Facts: by facet, `values` (name and count, the 50 most frequent) and how many `more` there
        are. A command that names two tables counts for both; a table counts by its whole name.
        """
        parts = [
            self._counted(meant, facets) for (meant, _), facets in self._facets_by_source().items()
        ]
        # All in one statement: what each costs beside its work is more than its work.
        ranked: dict[str, list[tuple[int, str | None, int, int]]] = {}
        for facet, code, word, n, of in self._many(" UNION ALL ".join(parts)):
            ranked.setdefault(facet, []).append((code, word, n, of))
        found: dict[str, Any] = {}
        for facet in (*FACETS, "flags"):
            counts = ranked.get(facet, [])
            if facet in _VOCABULARY or facet == "flags":
                values = _vocabulary(facet, [(code, n) for code, _, n, _ in counts])
                found[facet] = {"values": values, "more": 0}
                continue
            words = [word for _, word, _, _ in counts if word is not None]
            if facet not in ("risk", "table"):
                words = self._words(facet, [code for code, _, _, _ in counts])
            values = [[word, n] for word, (_, _, n, _) in zip(words, counts, strict=True)]
            values.sort(key=lambda value: (-value[1], value[0]))
            more = counts[0][3] - len(counts) if counts else 0
            found[facet] = {"values": values, "more": more}
        return {"facets": found}, []

    def _facets_by_source(self) -> dict[tuple[Condition, str], list[str]]:
        """Return the facets, those together that are counted of the same rows.

        Each is counted without its own clause. Most of the others then read the same level: to
        plan a statement with one scan of it for all of them costs a third of one with a scan each.
        """
        every = self._condition()
        found: dict[tuple[Condition, str], list[str]] = {}
        for facet in (*FACETS, "flags"):
            meant = self._condition(facet) if getattr(self._asked, facet) else every
            level = level_of(self._built, meant, (_COLUMNS.get(facet, facet),), 0, MAX_US)
            source = "" if level is None else level.name
            if facet in _LISTS:
                # Of lists it is counted what is in them, which is another statement.
                source = f"lists {source}"
            elif facet == "session":
                source = facet  # too many to share
            found.setdefault((meant, source), []).append(facet)
        return found

    def _counted(self, meant: Condition, facets: list[str]) -> str:
        """Return the SQL of the most frequent values of facets, all counted of the same rows.

        Columns: `facet`, `code` or else `word`, `n`, and `of` how many values that facet has.
        """
        columns = [_COLUMNS.get(facet, facet) for facet in facets]
        rows = rows_of(self._built, meant, columns, 0, MAX_US)
        if len(facets) == 1:
            (facet,), (column,) = facets, columns
            code, word = "code", "NULL::VARCHAR"
            counted = (
                f"SELECT {quoted(column)}::UINTEGER AS code, sum(n)::BIGINT AS n "
                f"FROM {rows} GROUP BY 1"
            )
            if facet in _LISTS:
                code, word = "NULL::UINTEGER", "word"
                counted = (
                    "SELECT word, sum(n)::BIGINT AS n "
                    f"FROM ({counted}) JOIN items_{column} USING (code) GROUP BY word"
                )
            return (
                f"(SELECT '{facet}' AS facet, {code} AS code, {word} AS word, n, "
                f"count(*) OVER () AS of FROM ({counted}) "
                f"ORDER BY n DESC, code, word LIMIT {TOP_VALUES})"
            )
        which = " ".join(
            f"WHEN {quoted(column)} IS NOT NULL THEN '{facet}'"
            for facet, column in zip(facets, columns, strict=True)
        )
        codes = ", ".join(f"{quoted(column)}::UINTEGER" for column in columns)
        sets = ", ".join(f"({quoted(column)})" for column in columns)
        code, word = "code", "NULL::VARCHAR"
        counted = (
            f"SELECT CASE {which} END AS facet, coalesce({codes}) AS code, "
            f"sum(n)::BIGINT AS n FROM {rows} GROUP BY GROUPING SETS ({sets})"
        )
        if facets[0] in _LISTS:
            code, word = "NULL::UINTEGER", "word"
            items = " UNION ALL ".join(
                f"SELECT '{facet}' AS facet, code, word FROM items_{column}"
                for facet, column in zip(facets, columns, strict=True)
            )
            counted = (
                "SELECT facet, NULL::UINTEGER AS code, word, sum(n)::BIGINT AS n "
                f"FROM ({counted}) JOIN ({items}) USING (facet, code) GROUP BY ALL"
            )
        return (
            f"(SELECT facet, {code} AS code, {word} AS word, n, "
            f"count(*) OVER (PARTITION BY facet) AS of FROM ({counted}) "
            f"QUALIFY row_number() OVER (PARTITION BY facet ORDER BY n DESC, {word}, code) "
            f"<= {TOP_VALUES})"
        )

    def values(
        self, *, facet: str, text: str, offset: int, limit: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The values of one facet that contain `text`, in any case, counted as `facets` counts.

        Facts: `values` (name and count, the most frequent first, behind `offset` of them) and how
        many there are in all, `n`.
        """
        column = _COLUMNS.get(facet, facet)
        table, word = f"words_{facet}", "word"
        if facet == "session":
            table, word = "session_numbers", "session_id::VARCHAR"
        elif facet in ("risk", "table"):
            table = f"items_{column}"
        rows = rows_of(self._built, self._condition(facet), (column,), 0, MAX_US)
        found = self._many(
            f"WITH counted AS (SELECT {quoted(column)}::UINTEGER AS code, sum(n)::BIGINT AS n "
            f"FROM {rows} GROUP BY 1), "
            f"named AS (SELECT {word} AS word, sum(n)::BIGINT AS n "
            f"FROM counted JOIN {table} USING (code) GROUP BY 1) "
            "SELECT word, n, count(*) OVER () AS of FROM named "
            "WHERE contains(lower(word), lower($text)) "
            f"ORDER BY n DESC, word LIMIT {limit} OFFSET {offset}",
            {"text": text},
        )
        n = found[0][2] if found else 0
        return {"values": [[name, count] for name, count, _ in found], "n": n}, []

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
            low, high = _reach(hours, t, limit, is_newest)
            first, end = max(first, low), min(end, high)
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
        said = self._worded(page)
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
        rows = rows_of(self._built, self._condition(), ("session", "flags"), 0, MAX_US)
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
        codes = self._many(
            "SELECT code FROM session_numbers WHERE session_id = $session::UUID",
            {"session": session},
        )
        found: list[tuple[int, int]] = []
        if codes:
            code = codes[0][0]
            found = self._many(
                " UNION ALL ".join(
                    f"SELECT id, t FROM {table} WHERE session = {code} "
                    f"AND id = {code << NUMBER_BITS | command_no}"
                    for table in ("base", "tail")
                )
            )
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
        found = [(meant.base.table, meant.base_where(since, until))]
        if self._built.tail_rows:
            found.append(("tail", meant.tail_where(since, until)))
        return found

    def _hours(self, meant: Condition) -> list[tuple[int, int]]:
        """Return how many commands there are in each hour that has any, in order."""
        rows = rows_of(self._built, meant, (), 0, MAX_US, HOUR_US)
        sql = f"SELECT t // {HOUR_US} AS hour, sum(n)::BIGINT FROM {rows} GROUP BY 1 ORDER BY 1"
        key = (self._generation, sql)
        found = self._built.hours.get(key)
        if found is None:
            found = self._many(sql)
            if len(self._built.hours) >= _KEPT_HOURS:
                self._built.hours.clear()
            self._built.hours[key] = found
        return found

    def _lanes(self, lanes: str, cells: pa.Table) -> tuple[list[dict[str, Any]], pa.Table]:
        """Return the lanes of `cells` in order, and `cells` with their number as `lane`."""
        counted = [("n", "sum")] if "n" in cells.column_names else [("lane", "count")]
        totals = cells.group_by("lane").aggregate([*counted, ("g", "min")]).to_pylist()
        for one in totals:
            one["n"] = one.pop("n_sum", None) or one.pop("lane_count", 0)
            one["mild"] = one["g_min"] >> meaning.SEVERITY_BITS
        totals.sort(key=lambda one: (one["mild"], -one["n"], one["lane"]))
        shown = len(totals) if len(totals) <= MAX_LANES else MAX_LANES - 1
        names = self._names(lanes, [one["lane"] for one in totals[:shown]])
        named = [
            {"name": name, "n": one["n"], "severity": 3 - one["mild"]}
            for name, one in zip(names, totals[:shown], strict=True)
        ]
        rest = totals[shown:]
        if rest:
            named.append(
                {
                    "name": None,
                    "n": sum(one["n"] for one in rest),
                    "severity": 3 - min(one["mild"] for one in rest),
                    "others": len(rest),
                }
            )
        order = pa.array([one["lane"] for one in totals[:shown]], pa.uint32())
        number = pc.fill_null(pc.index_in(cells["lane"], order), MAX_LANES - 1)
        cells = cells.set_column(
            cells.column_names.index("lane"), "lane", pc.cast(number, pa.uint8())
        )
        if rest and "bin" in cells.column_names:
            cells = self._over(
                cells,
                "SELECT lane, bin, sum(n)::BIGINT AS n, min(g) AS g, bit_or(flags) AS flags "
                "FROM cells GROUP BY ALL ORDER BY lane, bin",
            )
        return named, cells

    def _binned_sessions(
        self, meant: Condition, bins: Bins, rows: str
    ) -> tuple[list[dict[str, Any]], pa.Table]:
        """Return the lanes of sessions and their cells, as `_lanes` would.

        There may be more cells of sessions than a screen has pixels: which of them are shown is
        asked first, and the others are added up where they are.
        """
        whole = rows_of(self._built, meant, ("session",), bins.origin, min(bins.until, MAX_US))
        mild = f"g >> {meaning.SEVERITY_BITS}"
        totals = self._many(
            "WITH totals AS (SELECT session, sum(n)::BIGINT AS n, min(g) AS g "
            f"FROM {whole} GROUP BY session), "
            f"ranked AS (SELECT *, {mild} AS mild, count(*) OVER () AS of, "
            f"row_number() OVER (ORDER BY {mild}, n DESC, session) AS place FROM totals) "
            f"SELECT if(place < {MAX_LANES} OR of = {MAX_LANES}, session, NULL) AS session, "
            "sum(n)::BIGINT, min(mild), count(*) FROM ranked GROUP BY 1 ORDER BY min(place)"
        )
        shown = [each for each in totals if each[0] is not None]
        names = self._words("session", [code for code, _, _, _ in shown])
        named: list[dict[str, Any]] = [
            {"name": name, "n": n, "severity": 3 - mild}
            for name, (_, n, mild, _) in zip(names, shown, strict=True)
        ]
        named += [
            {"name": None, "n": n, "severity": 3 - mild, "others": others}
            for code, n, mild, others in totals
            if code is None
        ]
        codes = _listed([code for code, _, _, _ in shown])
        numbered = (
            f"(SELECT unnest([{codes}])::UINTEGER AS session, "
            f"unnest(range({len(shown)}))::UTINYINT AS number)"
        )
        cells = self._arrow(
            f"SELECT coalesce(number, {MAX_LANES - 1})::UTINYINT AS lane, {_binned(bins)} "
            f"FROM {rows} LEFT JOIN {numbered} USING (session) GROUP BY ALL"
        )
        return named, cells

    def _names(self, lanes: str, codes: list[int]) -> list[str]:
        if lanes == "none":
            return ["" for _ in codes]
        if lanes == "class":
            return [meaning.GRAVITY[code] for code in codes]
        return self._words(lanes, codes)

    def _words(self, kind: str, codes: list[int]) -> list[str]:
        """Return the words of `codes`; what a code stands for never changes, so it is kept."""
        known = self._built.words[kind]
        missing = [code for code in set(codes) if code not in known]
        if missing:
            table, column = f"words_{kind}", "word"
            if kind == "session":
                table, column = "session_numbers", "session_id::VARCHAR"
            known.update(
                self._many(f"SELECT code, {column} FROM {table} WHERE code IN ({_listed(missing)})")
            )
        return [known[code] for code in codes]

    def _worded(self, page: pa.Table) -> pa.Table:
        """Return rows of commands with words in the place of codes."""
        columns = {name: page[name].to_pylist() for name in ("session", *WORDS, "text", "part")}
        said = {
            kind: pa.array(self._words(kind, columns[kind]), pa.string())
            for kind in ("session", *WORDS)
        }
        wanted = list(zip(columns["part"], columns["text"], strict=True))
        texts = {
            (part, code): self._built.texts.shown(code, TEXT_CHARACTERS)
            for part, code in set(wanted)
            if part == 0
        }
        in_tail = sorted({code for part, code in wanted if part})
        if in_tail:
            found = self._many(
                f"SELECT code, left(text, {TEXT_CHARACTERS}), length(text) "
                f"FROM texts_tail WHERE code IN ({_listed(in_tail)})"
            )
            texts |= {(1, code): (text, length) for code, text, length in found}
        shown = [texts[one] for one in wanted]
        columns_in_order: dict[str, Any] = {
            "id": page["id"],
            "t": page["t"],
            "session_id": said["session"],
            "command_no": page["command_no"],
            **{name: said[name] for name in ("user", "agent", "target", "protocol")},
            "cls": page["cls"],
            "operation": said["operation"],
            "status": page["status"],
            "decision": page["decision"],
            "rule": said["rule"],
            **{name: page[name] for name in ("duration", "rows_returned", "rows_affected")},
            **{name: page[name] for name in ("bytes_in", "bytes_out", "flags")},
            "severity": _graveness(page["g"])["severity"],
            "text": pa.array([text for text, _ in shown], pa.string()),
            "text_length": pa.array([length for _, length in shown], pa.int32()),
        }
        return pa.table(columns_in_order)

    def _one(self, sql: str) -> tuple[Any, ...]:
        (row,) = self._many(sql)
        found: tuple[Any, ...] = row
        return found

    def _many(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        # An interrupt that comes between two statements is lost, so each asks first.
        self._turn.check()
        cursor = self._cursor
        return (cursor.execute(sql, parameters) if parameters else cursor.execute(sql)).fetchall()

    def _arrow(self, sql: str) -> pa.Table:
        self._turn.check()
        found: pa.Table = self._cursor.sql(sql).to_arrow_table()
        return found

    def _over(self, cells: pa.Table, sql: str) -> pa.Table:
        self._cursor.register("cells", cells)
        try:
            return self._arrow(sql)
        finally:
            # One that was interrupted is of a transaction that is void, and is closed with it: what
            # it says to this must not take the place of that it was interrupted.
            with suppress(duckdb.Error):
                self._cursor.unregister("cells")


def _binned(bins: Bins) -> str:
    """Return the SQL of a cell: its bin, and what it adds up."""
    return (
        f"((t - {bins.origin}) // {bins.step})::USMALLINT AS bin, sum(n)::BIGINT AS n, "
        "min(g) AS g, bit_or(flags) AS flags"
    )


def _graveness(g: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Return `severity` and `cls` of numbers that `meaning.gravest` made."""
    mild = pc.shift_right(g, meaning.SEVERITY_BITS)
    cls = pc.bit_wise_and(pc.shift_right(g, meaning.CLASS_BITS), 7)
    return {
        "severity": pc.cast(pc.subtract(3, mild), pa.uint8()),
        "cls": pc.cast(cls, pa.uint8()),
    }


def _listed(codes: list[int]) -> str:
    return ", ".join(map(str, codes))


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


def _reach(hours: list[tuple[int, int]], t: int, limit: int, is_newest: bool) -> tuple[int, int]:
    """Return from when to when the `limit` commands lie that come behind the time `t`."""
    here = t // HOUR_US
    seen = 0
    for hour, n in reversed(hours) if is_newest else hours:
        # Of the hour itself, part may come before.
        if (hour < here) if is_newest else (hour > here):
            seen += n
            if seen >= limit:
                return (hour * HOUR_US, MAX_US) if is_newest else (0, (hour + 1) * HOUR_US)
    return 0, MAX_US


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
