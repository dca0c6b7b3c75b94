"""The index as it is built: every command as numbers, sorted by time, in a private DuckDB file.

What is recorded lies in it as dictionaries and codes; `base` has the sealed commands, sorted, and
`tail` what came since. Levels add up what many commands share (an hour, a session, a class …), and
are exact: an hour is read from a level only if all of it is meant, its parts from the commands
themselves. Levels of all times together answer what no clause about time narrows. A level that is
not ten times smaller than `base` is not kept: it would save nothing.

Measured with ten million commands: docs/benchmarks.md, "The workbench".
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.filters import MAX_US, literal
from agentaudit.analysis.explore.texts import Texts
from agentaudit.archive.snapshot import Snapshot
from agentaudit.errors import ArchiveError

HOUR_US: Final = 3_600_000_000
MEMORY_LIMIT: Final = "1GB"
SHRINK: Final = 10
NUMBER_BITS: Final = 31
"""A command's id is its session's number, shifted by so many bits, and its own number."""

WORDS: Final = ("user", "agent", "target", "protocol", "operation", "rule")
LISTS: Final = ("risks", "tables")
KEYS: Final = (
    *("session", "user", "agent", "target", "protocol", "operation"),
    *("cls", "status", "decision", "flags", "risks", "tables"),
)
"""Columns that a filter or a lane may be about, and that levels may have."""
_CODES: Final = (
    *('"user"', "agent", "target", "protocol", "operation", "rule", "risks", "tables", "session"),
)

_PEOPLE: Final = frozenset(("session", "user", "agent", "target", "protocol"))
EVER: Final = 0
"""The stretch of a level that does not tell times apart."""

_CANDIDATES: Final = (
    ("hour_full", HOUR_US, frozenset(KEYS)),
    ("hour_sessions", HOUR_US, frozenset(KEYS) - {"risks", "tables"}),
    ("hour_tables", HOUR_US, _PEOPLE | {"tables", "cls"}),
    ("hour_risks", HOUR_US, _PEOPLE | {"risks", "cls"}),
    ("minutes", 600_000_000, frozenset(("cls", "status", "decision", "flags"))),
    ("ever_full", EVER, frozenset(KEYS) - {"session"}),
    ("ever_risks", EVER, frozenset(KEYS) - {"session", "tables"}),
    ("ever_sessions", EVER, frozenset(KEYS) - {"risks", "tables"}),
    ("ever_tables", EVER, _PEOPLE - {"session"} | {"tables", "cls"}),
    ("ever_people", EVER, _PEOPLE),
)
"""What to try to add up: all that a screen may ask about, and less where that is too much."""

_SEARCH_KEYS: Final = frozenset(KEYS) - {"risks", "tables"}
_SEARCHES: Final = 6
_PICKED_ROWS: Final = 1_000_000
"""Commands that a search finds are picked out up to so many; more are added up instead."""
_KEPT_ROWS: Final = 2_000_000
"""What the last searches have picked, all together."""

_FOLDER: Final = re.compile(r"agentaudit-explore-(\d{1,9})-[A-Za-z0-9_]{1,20}\Z")

Progress = Callable[[str, float], None]
Taking = Callable[[duckdb.DuckDBPyConnection], AbstractContextManager[object]]
Files = Mapping[Path, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Level:
    """Commands added up by `keys` and stretches of `bucket_us`; `rows` is how many that are."""

    name: str
    bucket_us: int
    keys: frozenset[str]
    rows: int

    def divides(self, stretch_us: int) -> bool:
        """Say whether stretches of that length are whole ones of these."""
        if self.bucket_us == EVER or stretch_us == EVER:
            return stretch_us == EVER
        return stretch_us % self.bucket_us == 0


@dataclass(frozen=True, slots=True)
class Base:
    """Sealed commands to ask: a table, sorted by time, what must hold there, and its levels.

    Where they were picked out, `rows` has them, and whoever asks lends the table that name.
    """

    table: str
    clauses: tuple[str, ...]
    levels: tuple[Level, ...]
    rows: pa.Table | None = field(default=None, compare=False, repr=False)


class Stopped(Exception):
    """Building was interrupted, because nobody waits for it any more."""


class Built:
    """One index over one look at an archive; `take_tail` adds what came since.

    Ids of commands stay what they are until another takes its place, with another `number`.
    Several threads may read at once, each by `reading`; one at a time may build.
    """

    def __init__(self, archive: Path, folder: Path, number: int = 1) -> None:
        self.folder = folder
        self.number = number
        self._connection = duckdb.connect(str(folder / "index.duckdb"))
        setup = self._connection.cursor()
        setup.execute("SET TimeZone = 'UTC'")
        setup.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        setup.execute(f"SET temp_directory = {_path(str(folder / 'spill'))}")
        # The order matters, as in `analysis.store`.
        allowed = ", ".join(_path(f"{place}/") for place in (archive, folder))
        setup.execute(f"SET allowed_directories = [{allowed}]")
        setup.execute("SET enable_external_access = false")
        setup.execute("SET lock_configuration = true")
        self.files: Files = {}
        self.levels: tuple[Level, ...] = ()
        self.base_rows = 0
        self.base_since = 0
        self.tail_rows = 0
        self.sealed_tail_rows = 0
        self.base_until = 0
        self.generation = 0
        self.words: dict[str, dict[int, str]] = {kind: {} for kind in (*WORDS, "session")}
        """Words by code, as far as anybody wanted them: what a code stands for never changes."""
        self.hours: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self.texts: Texts
        """Of the sealed commands, once it is built."""
        self._searches: dict[str, Base] = {}
        self._searched = 0
        self._searching = threading.Lock()
        self._builder: duckdb.DuckDBPyConnection | None = None
        self._readers = 0
        self._is_closing = False
        self._changing = threading.Lock()
        self._finish = weakref.finalize(self, _remove, folder)

    def close(self) -> None:
        """Remove the file as soon as nobody reads it; a build under way is interrupted."""
        with self._changing:
            is_idle = self._readers == 0 and not self._is_closing
            self._is_closing = True
            if self._builder is not None:
                self._builder.interrupt()
        if is_idle:
            self._connection.close()
            self._finish()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a cursor in a transaction of its own: all that it reads is of one moment.

        Raises:
            Stopped: it was closed.
        """
        self._enter()
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN TRANSACTION")
                yield cursor
            finally:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                cursor.close()
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._changing:
            if self._is_closing:
                raise Stopped
            self._readers += 1

    def _leave(self) -> None:
        with self._changing:
            self._readers -= 1
            is_last = self._is_closing and self._readers == 0
        if is_last:
            self._connection.close()
            self._finish()

    def sketch(
        self, snap: Snapshot
    ) -> tuple[list[tuple[int, int, int, int, int]], int | None, int | None]:
        """Return commands by hour, class and flags, how many and how grave; and the times' ends.

        Raises:
            Stopped: it was closed meanwhile.
            ArchiveError: a file cannot be read.
        """
        columns = (
            "started_at, class, status, decision, masked, rows_returned, rows_affected, bytes_out"
        )
        with self._building() as cursor:
            cursor.register("live_commands", snap.live["commands"])
            try:
                rows = cursor.execute(f"""
                    SELECT {TIME_SQL} // {HOUR_US} * {HOUR_US} AS hour,
                        {meaning.code("class", meaning.GRAVITY)} AS cls,
                        {meaning.FLAGS_SQL} AS flags, count(*), max({meaning.SEVERITY_SQL}),
                        min({TIME_SQL}) AS first, max({TIME_SQL}) AS last
                    FROM (
                        SELECT {columns} FROM {_parquet(snap.files["commands"])}
                        UNION ALL SELECT {columns} FROM live_commands
                    )
                    GROUP BY hour, cls, flags ORDER BY hour""").fetchall()
            finally:
                cursor.unregister("live_commands")
        first = min((row[5] for row in rows), default=None)
        last = max((row[6] for row in rows), default=None)
        return [row[:5] for row in rows], first, last

    def build(self, snap: Snapshot, stamps: Files, progress: Progress) -> None:
        """Read the sealed commands of `snap`, make the levels, and take its live rows as tail.

        Raises:
            Stopped: it was closed meanwhile.
            ArchiveError: a file cannot be read.
        """
        self.files = stamps
        with self._building() as cursor:
            _create(cursor)
            cursor.execute(_sessions_table("sessions_sealed", _parquet(snap.files["sessions"])))
            source = _parquet(snap.files["commands"])
            for step, share in _encode(cursor, source, "base"):
                progress(step, share * 0.75)
            rows, since, until = _one(
                cursor, "SELECT count(*), coalesce(min(t), 0), coalesce(max(t), 0) + 1 FROM base"
            )
            self.base_rows, self.base_since, self.base_until = int(rows), int(since), int(until)
            self.levels = tuple(self._levels(cursor, progress))
            progress("what is looked through", 0.95)
            self.texts = Texts.write(cursor, self.folder, _CODES)
            cursor.execute("DROP TABLE texts_base")
            progress("live sessions", 0.97)
            cursor.execute("CHECKPOINT")
            self._tail(cursor, [], snap.live)
        progress("ready", 1.0)

    def take_tail(self, snap: Snapshot, stamps: Files) -> bool:
        """Take what is new in `snap`; return whether that can be, or all must be built again.

        Raises:
            Stopped: it was closed meanwhile.
            ArchiveError: a file cannot be read.
        """
        if any(stamps.get(path) != stamp for path, stamp in self.files.items()):
            return False  # purged, or replaced: what was read of it must go
        fresh = [path for path in snap.files["commands"] if path not in self.files]
        with self._building() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            try:
                cursor.execute(_sessions_table("sessions_sealed", _parquet(snap.files["sessions"])))
                self._tail(cursor, fresh, snap.live)
                cursor.execute("COMMIT")
                # Not earlier: whoever reads until then reads what was there before.
                self.generation += 1
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise
        return True

    def base(self, text: str, taking: Taking = nullcontext) -> Base:
        """Return what to ask about sealed commands whose statement contains `text`, if any.

        The first time it looks through all distinct texts, and picks out the commands that have
        them; the last few are remembered. What takes long of it is done within `taking`.
        """
        if not text:
            return Base("base", (), self.levels)
        with self._searching:
            known = self._searches.get(text)
            if known is None:
                known = self._search(text, taking)
            self._searches[text] = self._searches.pop(text, known)
            while len(self._searches) > 1 and (
                len(self._searches) > _SEARCHES
                or sum(each.rows.num_rows for each in self._searches.values() if each.rows)
                > _KEPT_ROWS
            ):
                gone = self._searches.pop(next(iter(self._searches)))
                self._forget(gone)
        return known

    def _search(self, text: str, taking: Taking) -> Base:
        self._searched += 1
        name = f"search_{self._searched}"
        with self.reading() as cursor, taking(cursor):
            cursor.execute("COMMIT")
            (low,) = _one(cursor, f"SELECT lower({literal(text)})")
            found = self.texts.search(low, _PICKED_ROWS)
            if found.commands is not None:
                return Base(name, (), (), found.commands)
            cursor.register("found", pa.table({"code": found.codes}))
            cursor.execute(f"CREATE TABLE {name}_texts AS SELECT code::UINTEGER AS code FROM found")
            meets = f"text IN (SELECT code FROM {name}_texts)"
            level = Level(f"{name}_level", HOUR_US, _SEARCH_KEYS, found.n)
            _add_up(cursor, level.name, HOUR_US, _SEARCH_KEYS, f"base WHERE {meets}", "count(*)")
            return Base("base", (meets,), (level,))

    def _forget(self, base: Base) -> None:
        """Drop what a search has noted; who still reads it keeps it."""
        with self.reading() as cursor:
            cursor.execute("COMMIT")
            for level in base.levels:
                cursor.execute(f"DROP TABLE IF EXISTS {level.name}")
                cursor.execute(f"DROP TABLE IF EXISTS {level.name.removesuffix('_level')}_texts")

    def _tail(
        self,
        cursor: duckdb.DuckDBPyConnection,
        files: Sequence[Path],
        live: Mapping[str, pa.Table],
    ) -> None:
        cursor.register("live_sessions", live["sessions"])
        cursor.register("live_commands", live["commands"])
        try:
            cursor.execute(_sessions_table("sessions_live", "live_sessions"))
            cursor.execute(_SESSIONS)
            (self.sealed_tail_rows,) = _one(cursor, f"SELECT count(*) FROM {_parquet(files)}")
            columns = ", ".join(_COLUMNS)
            source = (
                f"(SELECT {columns} FROM {_parquet(files)} "
                f"UNION ALL SELECT {columns} FROM live_commands)"
            )
            for _ in _encode(cursor, source, "tail"):
                pass
            (self.tail_rows,) = _one(cursor, "SELECT count(*) FROM tail")
        finally:
            cursor.unregister("live_sessions")
            cursor.unregister("live_commands")

    def _levels(self, cursor: duckdb.DuckDBPyConnection, progress: Progress) -> Iterator[Level]:
        made: list[Level] = []
        for number, (name, bucket, keys) in enumerate(_CANDIDATES):
            progress("adding up", 0.75 + 0.2 * number / len(_CANDIDATES))
            finer = [one for one in made if keys <= one.keys and one.divides(bucket)]
            source, n = "base", "count(*)"
            if finer:
                source, n = min(finer, key=lambda one: one.rows).name, "sum(n)"
            _add_up(cursor, name, bucket, keys, source, n)
            (rows,) = _one(cursor, f"SELECT count(*) FROM {name}")
            most = self.base_rows // SHRINK
            if bucket != EVER:
                most = min([most, *(one.rows // 2 for one in finer)])
            if rows > most:
                cursor.execute(f"DROP TABLE {name}")
                continue
            level = Level(name, bucket, keys, int(rows))
            made.append(level)
            yield level

    @contextmanager
    def _building(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self._enter()
        cursor = self._builder = self._connection.cursor()
        try:
            yield cursor
        except duckdb.InterruptException:
            raise Stopped from None
        except duckdb.Error as error:
            raise ArchiveError(
                f"archive: a file cannot be read: {str(error).partition(chr(10))[0]}",
                hint="`agentaudit verify` says which files are not what was sealed",
            ) from error
        finally:
            with self._changing:
                self._builder = None
            cursor.close()
            self._leave()


def private_folder(parent: Path | None = None) -> Path:
    """Return a new folder that only this user may enter; those of processes that died are removed.

    A process that was killed cannot clean up, and what it left holds what was recorded.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for found in place.glob("agentaudit-explore-*"):
        match = _FOLDER.match(found.name)
        if match and not _is_alive(int(match[1])):
            with suppress(OSError):
                status = found.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                    _remove(found)
    return Path(tempfile.mkdtemp(prefix=f"agentaudit-explore-{os.getpid()}-", dir=place)).resolve()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


# --- how it is made -------------------------------------------------------------------------------

_COLUMNS: Final[Mapping[str, str]] = {
    "session_id": "UUID",
    "command_no": "INTEGER",
    '"user"': "VARCHAR",
    "agent": "VARCHAR",
    "target": "VARCHAR",
    "protocol": "VARCHAR",
    "started_at": "TIMESTAMPTZ",
    "duration_us": "BIGINT",
    "operation": "VARCHAR",
    "class": "VARCHAR",
    "text": "VARCHAR",
    "resources": "VARCHAR[]",
    "status": "VARCHAR",
    "rows_returned": "BIGINT",
    "rows_affected": "BIGINT",
    "bytes_in": "BIGINT",
    "bytes_out": "BIGINT",
    "masked": "INTEGER",
    "risk": "VARCHAR[]",
    "decision": "VARCHAR",
    "rule": "VARCHAR",
}
"""What is read of `commands`."""

_SESSION_COLUMNS: Final[Mapping[str, str]] = {
    "session_id": "UUID",
    '"user"': "VARCHAR",
    "agent": "VARCHAR",
    "target": "VARCHAR",
    "protocol": "VARCHAR",
    "gateway": "VARCHAR",
    "client_app": "VARCHAR",
    "client_addr": "VARCHAR",
    "opened_at": "TIMESTAMPTZ",
    "closed_at": "TIMESTAMPTZ",
    "close_reason": "VARCHAR",
    "commands": "BIGINT",
    "events": "BIGINT",
    "is_final": "BOOLEAN",
}

TIME_SQL: Final = f"greatest(0, least({MAX_US - 1}, coalesce(epoch_us(started_at), 0)))"
"""What nobody's clock says is put at the nearest time that has a name, to be seen at all."""

# A row of a segment's end is told from later ones as by the view `sessions`; live rows come last.
_SESSIONS: Final = """
CREATE OR REPLACE TABLE sessions AS
SELECT * EXCLUDE (is_live) FROM (
    SELECT *, FALSE AS is_live FROM sessions_sealed
    UNION ALL SELECT *, TRUE AS is_live FROM sessions_live
)
QUALIFY row_number() OVER (
    PARTITION BY session_id ORDER BY is_final DESC, is_live DESC, events DESC NULLS LAST
) = 1
"""


def _sessions_table(name: str, source: str) -> str:
    if source.startswith("(SELECT NULL"):
        source = source.replace(", ".join(_COLUMNS), "")
    columns = ", ".join(_SESSION_COLUMNS)
    return f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM {source}"


def _parquet(files: Sequence[Path]) -> str:
    if not files:
        every = {**_COLUMNS, **_SESSION_COLUMNS}
        nothing = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in every.items())
        return f"(SELECT {nothing} WHERE FALSE)"
    names = ", ".join(_path(str(path)) for path in files)
    return f"read_parquet([{names}], hive_partitioning = false)"


def _create(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("CREATE TABLE session_numbers (code UINTEGER, session_id UUID)")
    for kind in WORDS:
        cursor.execute(f"CREATE TABLE words_{kind} (code UINTEGER, word VARCHAR)")
    for kind in LISTS:
        cursor.execute(f"CREATE TABLE lists_{kind} (code UINTEGER, list VARCHAR[])")
        cursor.execute(f"CREATE TABLE items_{kind} (code UINTEGER, word VARCHAR)")


def _encode(
    cursor: duckdb.DuckDBPyConnection, source: str, into: str
) -> Iterator[tuple[str, float]]:
    """Make table `into` of the rows of `source`, and yield what is done next, and how far it is."""
    yield "who and what", 0.0
    # Words repeat, and so do their combinations: each is looked up once, not once a command.
    cursor.execute(f"""
        CREATE OR REPLACE TEMP TABLE who AS SELECT DISTINCT
            session_id, coalesce("user", '') AS "user", coalesce(agent, '') AS agent,
            coalesce(target, '') AS target, coalesce(protocol, '') AS protocol
        FROM {source}""")
    cursor.execute(f"""
        CREATE OR REPLACE TEMP TABLE what AS SELECT DISTINCT
            coalesce(operation, '') AS operation, coalesce(rule, '') AS rule,
            coalesce(risk, []) AS risk, coalesce(resources, []) AS resources
        FROM {source}""")
    yield "words", 0.2
    _add(cursor, "session_numbers", "session_id", "SELECT DISTINCT session_id FROM who")
    for kind in WORDS:
        table = "what" if kind in ("operation", "rule") else "who"
        _add(cursor, f"words_{kind}", "word", f"SELECT DISTINCT {quoted(kind)} FROM {table}")
    for kind, column in (("risks", "risk"), ("tables", "resources")):
        _add(cursor, f"lists_{kind}", "list", f"SELECT DISTINCT {column} FROM what")
        cursor.execute(
            f"CREATE OR REPLACE TABLE items_{kind} AS SELECT DISTINCT code, word "
            f"FROM (SELECT code, unnest(list) AS word FROM lists_{kind}) WHERE word IS NOT NULL"
        )
    yield "texts", 0.25
    # In the order in which they first came: then what a page shows lies together.
    cursor.execute(f"""
        CREATE OR REPLACE TABLE texts_{into} AS
        SELECT (row_number() OVER (ORDER BY first) - 1)::UINTEGER AS code, text
        FROM (
            SELECT coalesce(text, '') AS text, min({TIME_SQL}) AS first
            FROM {source} GROUP BY ALL
        )
        ORDER BY code""")
    cursor.execute("""
        CREATE OR REPLACE TEMP TABLE who AS
        SELECT w.*, s.code AS s_code, u.code AS u_code, a.code AS a_code, t.code AS t_code,
            p.code AS p_code
        FROM who AS w JOIN session_numbers AS s ON s.session_id IS NOT DISTINCT FROM w.session_id
        JOIN words_user AS u ON u.word = w."user" JOIN words_agent AS a ON a.word = w.agent
        JOIN words_target AS t ON t.word = w.target JOIN words_protocol AS p ON p.word = w.protocol
        """)
    cursor.execute("""
        CREATE OR REPLACE TEMP TABLE what AS
        SELECT w.*, o.code AS o_code, r.code AS r_code, k.code AS k_code, t.code AS t_code
        FROM what AS w JOIN words_operation AS o ON o.word = w.operation
        JOIN words_rule AS r ON r.word = w.rule
        JOIN lists_risks AS k ON k.list = w.risk JOIN lists_tables AS t ON t.list = w.resources
        """)
    yield "commands", 0.5
    identity = f"((w.s_code::BIGINT << {NUMBER_BITS}) | (c.command_no & 2147483647))"
    cursor.execute(f"""
        CREATE OR REPLACE TABLE {into} AS SELECT
            {TIME_SQL} AS t, {identity} AS id, {meaning.gravest("id")} AS g,
            w.s_code AS session, c.command_no, c.duration_us AS duration,
            w.u_code AS "user", w.a_code AS agent, w.t_code AS target, w.p_code AS protocol,
            h.o_code AS operation, h.r_code AS rule, h.k_code AS risks, h.t_code AS tables,
            {meaning.code("class", meaning.GRAVITY)} AS cls,
            {meaning.code("status", meaning.STATUS)} AS status,
            {meaning.code("decision", meaning.DECISION)} AS decision,
            {meaning.FLAGS_SQL} AS flags,
            c.rows_returned, c.rows_affected, c.bytes_in, c.bytes_out, x.code AS text
        FROM {source} AS c
        JOIN who AS w ON w.session_id IS NOT DISTINCT FROM c.session_id
            AND w."user" = coalesce(c."user", '') AND w.agent = coalesce(c.agent, '')
            AND w.target = coalesce(c.target, '') AND w.protocol = coalesce(c.protocol, '')
        JOIN what AS h ON h.operation = coalesce(c.operation, '') AND h.rule = coalesce(c.rule, '')
            AND h.risk = coalesce(c.risk, []) AND h.resources = coalesce(c.resources, [])
        JOIN texts_{into} AS x ON x.text = coalesce(c.text, '')
        ORDER BY t, id""")
    cursor.execute("DROP TABLE who")
    cursor.execute("DROP TABLE what")


def _add_up(
    cursor: duckdb.DuckDBPyConnection,
    name: str,
    bucket_us: int,
    keys: frozenset[str],
    source: str,
    n: str,
) -> None:
    columns = ", ".join(quoted(key) for key in KEYS if key in keys)
    flags = "" if "flags" in keys else ", bit_or(flags) AS flags"
    t, order = (f"t // {bucket_us} * {bucket_us}", "t") if bucket_us else ("0::BIGINT", "ALL")
    cursor.execute(
        f"CREATE TABLE {name} AS SELECT {t} AS t, {columns}, "
        f"{n}::BIGINT AS n, min(g) AS g{flags} FROM {source} GROUP BY ALL ORDER BY {order}"
    )


def _add(cursor: duckdb.DuckDBPyConnection, table: str, column: str, found: str) -> None:
    """Number what `found` has and `table` has not, behind what is there."""
    cursor.execute(f"""
        INSERT INTO {table}
        SELECT ((SELECT coalesce(max(code) + 1, 0) FROM {table})
            + row_number() OVER (ORDER BY value) - 1)::UINTEGER, value
        FROM ({found}) AS found(value)
        WHERE NOT EXISTS (
            SELECT 1 FROM {table} AS known WHERE known.{column} IS NOT DISTINCT FROM value)
        ORDER BY value""")


def _one(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    (row,) = cursor.execute(sql).fetchall()
    found: tuple[Any, ...] = row
    return found


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"user"' if name == "user" else name


def _path(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
