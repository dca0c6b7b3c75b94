"""What a command's row holds, of whatever ran, on real servers: held against what clients saw."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.errors import DivisionByZero, InFailedSqlTransaction

import agentaudit as aa
from agentaudit.demo.provider import IdentityProvider
from tests.peers.gateway import GatewayFactory
from tests.peers.postgres import PostgresPeer

Ask = Callable[[psycopg.Connection[Any]], Any]


@pytest.fixture(params=["postgres15", "postgres18"])
def server(request: pytest.FixtureRequest) -> PostgresPeer:
    """The oldest and the newest server that there are tests with, one after the other."""
    peer = request.getfixturevalue(request.param)
    assert isinstance(peer, PostgresPeer)
    return peer


class Rows:
    """Records what is asked in one session, and gives the rows of `commands`."""

    def __init__(
        self, server: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
    ) -> None:
        self._gateway = gateway(server.target())
        self._token = issuer.token("ana", ["data-agents"])
        self.case: aa.Case | None = None

    def of(self, ask: Ask, *, autocommit: bool = True) -> list[dict[str, Any]]:
        with psycopg.connect(
            self._gateway.dsn("orders", self._token), autocommit=autocommit
        ) as connection:
            ask(connection)
        return self._read()

    def of_asyncpg(self, ask: Callable[[Any], Any]) -> list[dict[str, Any]]:
        async def run() -> None:
            connection = await asyncpg.connect(
                host=self._gateway.host,
                port=self._gateway.port,
                user="agent",
                password=self._token,
                database="orders",
            )
            await ask(connection)
            await connection.close()

        asyncio.run(run())
        return self._read()

    def _read(self) -> list[dict[str, Any]]:
        self._gateway.wait_until_idle()
        self._gateway.terminate()
        self.case = aa.load(self._gateway.archive)
        query = """
            FROM commands LEFT JOIN fates USING (session_id, command_no)
            JOIN (SELECT session_id, target_pid FROM sessions) USING (session_id)
            ORDER BY command_no
        """
        rows: list[dict[str, Any]] = self.case.sql(query).to_arrow_table().to_pylist()
        assert [row["command_no"] for row in rows] == list(range(len(rows)))
        return rows


@pytest.fixture
def recorded(server: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider) -> Rows:
    return Rows(server, gateway, issuer)


@pytest.mark.parametrize("binary", [False, True])
def test_ten_thousand_executions_of_one_statement_are_as_many_rows_with_their_parameters(
    postgres18: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider, binary: bool
) -> None:
    recorded = Rows(postgres18, gateway, issuer)
    mark = "%b" if binary else "%t"
    given = [(n, f"name {n}", None if n % 7 == 0 else n * 1.5) for n in range(10_000)]

    def ask(connection: psycopg.Connection[Any]) -> None:
        connection.execute("CREATE TEMP TABLE many (id int8, name text, value float8)")
        connection.cursor().executemany(f"INSERT INTO many VALUES ({mark}, {mark}, {mark})", given)
        assert connection.execute("SELECT count(*) FROM many").fetchone() == (10_000,)

    rows = [row for row in recorded.of(ask) if row["operation"] == "INSERT"]

    assert len(rows) == 10_000
    for row, (number, name, value) in zip(rows, given, strict=True):
        seen_number, seen_name, seen_value = row["params"]
        assert (int(seen_number), seen_name) == (number, name)
        assert (seen_value is None) == (value is None)
        assert value is None or float(seen_value) == value
    assert {(row["status"], row["rows_affected"]) for row in rows} == {("ok", 1)}
    assert len({row["text"] for row in rows}) == 1
    assert len({row["fingerprint"] for row in rows}) == 1


def test_asyncpg_sends_parameters_in_binary_and_they_read_as_the_server_writes_them(
    recorded: Rows,
) -> None:
    """asyncpg sends each value in binary; what it means is the server's word."""
    types = [
        ("int2", "-7"), ("int8", "9007199254740993"), ("numeric", "-12.3450"), ("numeric", "1e20"),
        ("float4", "0.1"), ("float8", "-1e-7"), ("bool", "t"), ("text", "é, \"x\""),
        ("date", "2026-11-03"), ("date", "infinity"), ("time", "10:11:12.5"),
        ("timetz", "10:11:12.5+05:30"), ("timestamp", "2026-11-03 10:11:12.123456"),
        ("timestamptz", "2026-11-03 10:11:12.5+00"), ("interval", "3 days 04:05:06.7"),
        ("uuid", "12345678-1234-1234-1234-123456789012"), ("bytea", "\\x00ff"),
        ("jsonb", '{"a": [1, null]}'), ("json", '{"a":1}'), ("inet", "10.1.2.3/8"),
        ("cidr", "10.0.0.0/8"), ("int4[]", "{1,NULL,3}"), ("text[]", '{"a b",NULL,""}'),
        ("numeric[]", "{1.50,2}"), ("timestamptz[]", '{"2026-11-03 10:00:00+00"}'),
        ("int4range", "[1,5)"), ("daterange", "empty"), ("varbit", "10110"),
        ("point", "(1.5,-2)"), ("box", "(1,1),(0,0)"), ("macaddr", "08:00:2b:01:02:03"),
        ("oid", "4294967295"), ("int4[]", "{{1,2},{3,4}}"), ("colour", "dark red"),
    ]  # fmt: skip
    query = "SELECT " + ", ".join(f"${n + 1}::{kind}" for n, (kind, _) in enumerate(types))
    written = "SELECT " + ", ".join(
        f"format('%s', ${n + 1}::text::{kind})" for n, (kind, _) in enumerate(types)
    )
    told: list[Any] = []

    async def ask(connection: Any) -> None:
        await connection.execute("SET timezone = 'UTC'")
        await connection.execute("CREATE TYPE colour AS ENUM ('dark red', 'blue')")
        values = [value for _, value in types]
        # The server turns texts into values, asyncpg into what it sends.
        got = await connection.fetchrow(
            "SELECT " + ", ".join(f"${n + 1}::text::{k}" for n, (k, _) in enumerate(types)), *values
        )
        told.extend(await connection.fetchrow(written, *values))
        await connection.fetchrow(query, *got)
        await connection.execute("DROP TYPE colour")

    (row,) = [row for row in recorded.of_asyncpg(ask) if row["text"] == query]

    wrong = {
        kind: (seen, expected)
        for (kind, _), seen, expected in zip(types, row["params"], told, strict=True)
        # For people, `true` is clearer than the server's `t`.
        if seen != {"t": "true"}.get(expected, expected)
    }
    assert wrong == {}


COUNTS: list[tuple[str, int | None, int | None]] = [
    ("CREATE TABLE t (id int, v text)", None, None),
    ("INSERT INTO t SELECT g, 'v' FROM generate_series(1, 10) g", None, 10),
    ("INSERT INTO t VALUES (11, 'a'), (12, 'b') RETURNING id", 2, 2),
    ("INSERT INTO t SELECT 1, 'x' WHERE false", None, 0),
    ("INSERT INTO t SELECT 1, 'x' WHERE false RETURNING id", 0, 0),
    ("UPDATE t SET v = 'w' WHERE id <= 3", None, 3),
    ("UPDATE t SET v = 'w' WHERE id <= 2 RETURNING *", 2, 2),
    ("UPDATE t SET v = 'w' WHERE false", None, 0),
    ("DELETE FROM t WHERE id = 12", None, 1),
    ("DELETE FROM t WHERE id = 11 RETURNING id, v", 1, 1),
    ("MERGE INTO t USING (VALUES (1), (99)) s (k) ON t.id = s.k "
     "WHEN MATCHED THEN UPDATE SET v = 'm' WHEN NOT MATCHED THEN INSERT VALUES (k)", None, 2),
    ("WITH gone AS (DELETE FROM t WHERE id = 99 RETURNING id) SELECT * FROM gone", 1, None),
    ("SELECT * FROM t", 10, None),
    ("SELECT FROM t", 10, None),
    ("SELECT * FROM t WHERE false", 0, None),
    ("VALUES (1), (2)", 2, None),
    ("TABLE t", 10, None),
    ("CREATE TABLE u AS SELECT * FROM t WHERE id <= 4", None, 4),
    ("SELECT * INTO w FROM t WHERE id <= 5", None, 5),
    ("CREATE MATERIALIZED VIEW m AS SELECT * FROM t", None, 10),
    ("REFRESH MATERIALIZED VIEW m", None, None),
    ("EXPLAIN (COSTS off) SELECT 1", 1, None),
    ("SHOW work_mem", 1, None),
    ("PREPARE p AS SELECT * FROM t WHERE id <= $1", None, None),
    ("EXECUTE p (3)", 3, None),
    ("PREPARE q AS DELETE FROM u WHERE id = $1", None, None),
    ("EXECUTE q (3)", None, 1),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t ORDER BY id", None, None),
    ("FETCH 3 FROM c", 3, None),
    ("MOVE 2 FROM c", None, None),
    ("FETCH ALL FROM c", 5, None),
    ("FETCH NEXT FROM c", 0, None),
    ("CLOSE c", None, None),
    ("TRUNCATE u", None, None),
    ("DO $$ BEGIN PERFORM 1; END $$", None, None),
    ("CREATE PROCEDURE double(n int, OUT m int) LANGUAGE sql AS 'SELECT 2 * n'", None, None),
    ("CALL double(4, NULL)", 1, None),
    ("DROP PROCEDURE double", None, None),
    ("DROP MATERIALIZED VIEW m", None, None),
    ("DROP TABLE t, u, w", None, None),
]  # fmt: skip


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "extended"])
def test_rows_are_counted_for_every_verb(recorded: Rows, simple: bool) -> None:
    def ask(connection: psycopg.Connection[Any]) -> None:
        kind = psycopg.ClientCursor if simple else psycopg.RawCursor
        cursor = kind(connection)
        for sql, returned, affected in COUNTS:
            # psycopg asks for a result's rows by a parameterless simple query, unless in binary.
            cursor.execute(sql, binary=not simple)
            if returned is not None:
                assert len(cursor.fetchall()) == returned, sql
            elif affected is not None:
                assert cursor.rowcount == affected, sql

    rows = recorded.of(ask)

    told = [(row["text"], row["rows_returned"], row["rows_affected"]) for row in rows]
    assert told == COUNTS
    assert {row["status"] for row in rows} == {"ok"}


def test_a_merge_that_returns_counts_both_ways(
    postgres18: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    merge = """
        MERGE INTO goods t USING (VALUES (1), (2), (3)) s (k) ON t.id = s.k
        WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (k)
        RETURNING merge_action(), t.id
    """

    def ask(connection: psycopg.Connection[Any]) -> None:
        connection.execute("CREATE TABLE goods (id int)")
        connection.execute("INSERT INTO goods VALUES (1)")
        assert len(connection.execute(merge).fetchall()) == 3
        connection.execute("DROP TABLE goods")

    row = Rows(postgres18, gateway, issuer).of(ask)[2]

    assert (row["operation"], row["rows_returned"], row["rows_affected"]) == ("MERGE", 3, 3)
    assert row["columns"] == ["merge_action", "id"]


def test_copy_is_counted_in_rows_and_in_bytes(recorded: Rows) -> None:
    lines = "".join(f"{n}\tline {n}\n" for n in range(1000))
    got: list[int] = []

    def ask(connection: psycopg.Connection[Any]) -> None:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE lines (n int, line text)")
        with cursor.copy("COPY lines FROM STDIN") as copy:
            copy.write(lines)
        with cursor.copy("COPY lines FROM STDIN WHERE n < 10") as copy:
            copy.write(lines)
        for form in ("text", "csv, HEADER", "binary"):
            with cursor.copy(f"COPY lines TO STDOUT (FORMAT {form})") as copy:
                got.append(sum(len(part) for part in copy))
        cursor.execute("COPY lines TO PROGRAM 'cat > /dev/null'")

    # Only a superuser runs programs: it fails, and says so.
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        recorded.of(ask)
    rows = [row for row in recorded._read() if row["operation"] == "COPY"]

    counted = [(row["rows_returned"], row["rows_affected"], row["status"]) for row in rows]
    assert counted == [
        (None, 1000, "ok"),
        (None, 10, "ok"),
        (1010, None, "ok"),
        (1010, None, "ok"),
        (1010, None, "ok"),
        (None, None, "error"),
    ]
    assert rows[-1]["error_code"] == "42501"
    for row in rows[:2]:
        assert row["bytes_in"] > len(lines)
    for row, size in zip(rows[2:5], got, strict=True):
        assert row["bytes_out"] > size


def test_a_portal_that_is_executed_in_parts_is_a_row_a_part(recorded: Rows) -> None:
    query = "SELECT g FROM generate_series(1, $1::int) g"
    got: list[int] = []

    async def ask(connection: Any) -> None:
        async with connection.transaction():
            async for row in connection.cursor(query, 10, prefetch=4):
                got.append(row["g"])  # noqa: PERF401 - rows are fetched as they are asked for

    rows = [row for row in recorded.of_asyncpg(ask) if row["operation"] == "SELECT"]

    assert [row["rows_returned"] for row in rows] == [4, 4, 2]
    assert {(row["text"], tuple(row["params"]), row["status"]) for row in rows} == {
        (query, ("10",), "ok")
    }
    assert recorded.case is not None
    session = recorded.case.session(rows[0]["session_id"])
    parts = [session.result(row["command_no"]).column("g").to_pylist() for row in rows]
    assert parts == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [g for part in parts for g in part] == got


def test_a_session_names_the_backend_that_served_it(recorded: Rows) -> None:
    got: list[Any] = []

    def ask(connection: psycopg.Connection[Any]) -> None:
        got.append(connection.execute("SELECT pg_backend_pid()").fetchone())

    (row,) = recorded.of(ask)

    assert [(row["target_pid"],)] == got


# Transactions. What shares the server's own, virtual number is one.

BEGUN = "SELECT virtualtransaction FROM pg_locks WHERE pid = pg_backend_pid() LIMIT 1"


def test_commands_share_a_number_exactly_where_they_share_a_transaction(recorded: Rows) -> None:
    """Blocks, savepoints, chains, failures, and several statements in one message."""
    begun: list[str | None] = []

    def ask(connection: psycopg.Connection[Any]) -> None:
        cursor = psycopg.ClientCursor(connection)

        def run(sql: str) -> None:
            """Run the statements of one message, and keep what each of them answered."""
            cursor.execute(sql.encode())
            while True:
                rows = cursor.fetchall() if cursor.description else []
                begun.append(rows[0][0] if rows else None)
                if not cursor.nextset():
                    return

        for sql in (
            BEGUN,
            BEGUN,
            "BEGIN",
            BEGUN,
            "SAVEPOINT a",
            BEGUN,
            "ROLLBACK TO SAVEPOINT a",
            BEGUN,
            "/* and chain */ ROLLBACK /* /* */ AND CHAIN */ TO a",
            BEGUN,
            "COMMIT AND CHAIN",
            BEGUN,
            "ROLLBACK AND CHAIN",
            BEGUN,
            "abort work and -- now\n chain",
            BEGUN,
            "COMMIT",
            BEGUN,
            f"{BEGUN}; {BEGUN}",
            f"BEGIN; {BEGUN}; COMMIT; {BEGUN}",
            f"BEGIN; {BEGUN}; ROLLBACK; {BEGUN}",
            f"BEGIN; {BEGUN}; SAVEPOINT s; ROLLBACK TO s; {BEGUN}; COMMIT AND CHAIN; {BEGUN}",
            BEGUN,
            "COMMIT",
            f"{BEGUN}; ROLLBACK; {BEGUN}",
            BEGUN,
        ):
            run(sql)

    rows = recorded.of(ask)

    assert len(rows) == len(begun)
    told = [(row["txn_no"], its) for row, its in zip(rows, begun, strict=True) if its]
    by_number: dict[int | None, set[str | None]] = {}
    for number, its in told:
        by_number.setdefault(number, set()).add(its)
    assert all(len(each) == 1 for each in by_number.values()), told
    assert len({its for _, its in told}) == len(by_number), told
    assert [number for number, _ in told] == sorted(number or 0 for number, _ in told)


FATES: list[tuple[str, list[tuple[str | None, str | None]]]] = [
    # Statements of one message, and of each: the state reported behind it, and what became of it.
    ("INSERT INTO kept VALUES (1)", [("I", "committed")]),
    ("BEGIN", [("T", "committed")]),
    ("INSERT INTO kept VALUES (2)", [("T", "committed")]),
    ("COMMIT AND CHAIN", [("T", "committed")]),
    ("INSERT INTO kept VALUES (-1)", [("T", "rolled back")]),
    ("ROLLBACK AND CHAIN", [("T", "rolled back")]),
    ("INSERT INTO kept VALUES (3)", [("T", "committed")]),
    ("COMMIT", [("I", "committed")]),
    ("BEGIN", [("T", "rolled back")]),
    ("INSERT INTO kept VALUES (-2)", [("T", "rolled back")]),
    ("SELECT 1 / 0", [("E", "rolled back")]),
    ("INSERT INTO kept VALUES (-3)", [("E", "rolled back")]),
    ("COMMIT AND CHAIN", [("T", "rolled back")]),
    ("INSERT INTO kept VALUES (4)", [("T", "committed")]),
    ("COMMIT", [("I", "committed")]),
    ("BEGIN", [("T", "committed")]),
    ("SAVEPOINT a", [("T", "committed")]),
    ("SELECT 1 / 0", [("E", "committed")]),
    ("ROLLBACK TO a", [("T", "committed")]),
    ("INSERT INTO kept VALUES (5)", [("T", "committed")]),
    ("END", [("I", "committed")]),
    ("BEGIN; INSERT INTO kept VALUES (6); COMMIT; SELECT 1",
     [(None, "committed"), (None, "committed"), (None, "committed"), ("I", "committed")]),
    ("BEGIN; INSERT INTO kept VALUES (-4); ROLLBACK; INSERT INTO kept VALUES (7)",
     [(None, "rolled back"), (None, "rolled back"), (None, "rolled back"), ("I", "committed")]),
    ("INSERT INTO kept VALUES (-5); SELECT 1 / 0", [(None, "rolled back"), ("I", "rolled back")]),
    ("BEGIN; INSERT INTO kept VALUES (8); COMMIT; SELECT 1 / 0",
     [(None, "committed"), (None, "committed"), (None, "committed"), ("I", "rolled back")]),
    ("BEGIN", [("T", "not committed")]),
    ("INSERT INTO kept VALUES (-6)", [("T", "not committed")]),
]  # fmt: skip


def test_what_became_of_each_command_is_what_the_table_holds_in_the_end(
    server: PostgresPeer, recorded: Rows
) -> None:
    server.execute("CREATE TABLE kept (n int)", database=server.database)
    server.execute("GRANT ALL ON kept TO PUBLIC", database=server.database)

    def ask(connection: psycopg.Connection[Any]) -> None:
        cursor = psycopg.ClientCursor(connection)
        for sql, _ in FATES:
            with suppress(DivisionByZero, InFailedSqlTransaction):
                cursor.execute(sql.encode())
        connection.close()

    rows = recorded.of(ask)

    with server.connect() as connection:
        kept = connection.execute("SELECT array_agg(n ORDER BY n) FROM kept").fetchone()
    server.execute("DROP TABLE kept", database=server.database)
    assert kept == ([1, 2, 3, 4, 5, 6, 7, 8],)
    told = [(row["text"], row["txn_status"], row["fate"]) for row in rows]
    expected = [
        (text.strip(), *each)
        for sql, outcomes in FATES
        for text, each in zip(sql.split(";"), outcomes, strict=True)
    ]
    assert told == expected
    for row in rows:
        if row["text"].startswith("INSERT") and row["status"] == "ok":
            assert (row["fate"] == "committed") == ("-" not in row["text"]), row["text"]
    codes = [row["error_code"] for row in rows if row["status"] == "error"]
    assert codes == ["22012", "25P02", "22012", "22012", "22012"]
