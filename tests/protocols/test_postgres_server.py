"""The conversation between real clients and a real server, byte for byte and command for command.

`Tap` relays and listens. What clients see, what the server logs and what the conversation says
must be the same story.
"""

from __future__ import annotations

import io
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors

from agentaudit.model import Refusal, Side, Step
from tests.peers.postgres import PostgresPeer
from tests.protocols.tap import Tap, Tapped

SIZES = [None, 1, 7]


def connect(server: PostgresPeer, tap: Tap, **keys: Any) -> psycopg.Connection[Any]:
    return server.connect(host="127.0.0.1", port=tap.port, sslmode="disable", **keys)


async def connect_async(server: PostgresPeer, tap: Tap) -> Any:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=tap.port,
        user="scram",
        password=server.passwords["scram"],
        database=server.database,
        ssl=False,
    )


def assert_whole(tapped: Tapped) -> None:
    """Every byte passed, and every command that began has ended, once."""
    talk = tapped.talk
    for side in Side:
        assert talk.frames(side) == bytes(tapped.said[side])
    assert sorted(talk.ended_nos()) == list(talk.commands)


def story(tapped: Tapped) -> list[tuple[Any, ...]]:
    return [
        (c.text, c.params, c.status, c.error_code, c.rows_returned, c.rows_affected, c.txn_status)
        for c in tapped.talk.commands.values()
    ]


@pytest.mark.parametrize("size", SIZES)
def test_psycopg_is_told_by_its_commands(postgres15: PostgresPeer, size: int | None) -> None:
    with (
        Tap(postgres15.host, postgres15.port, size=size) as tap,
        connect(postgres15, tap, autocommit=False) as c,
    ):
        c.execute("CREATE TEMP TABLE t (a int, b text)")
        c.execute("INSERT INTO t VALUES (1, 'x'), (2, %s)", ("y",))
        c.execute("SELECT * FROM t WHERE a > %s", (0,)).fetchall()
        with pytest.raises(errors.UndefinedTable):
            c.execute("SELECT * FROM nowhere")
        with pytest.raises(errors.InFailedSqlTransaction):
            c.execute("SELECT 1")
        c.rollback()
        c.execute("SELECT 1; SELECT 2; SELECT 3")
        c.commit()

    (tapped,) = tap.connections
    assert_whole(tapped)
    assert story(tapped) == [
        ("BEGIN", None, "ok", None, None, None, "T"),
        ("CREATE TEMP TABLE t (a int, b text)", None, "ok", None, None, None, "T"),
        ("INSERT INTO t VALUES (1, 'x'), (2, $1)", ("y",), "ok", None, None, 2, "T"),
        ("SELECT * FROM t WHERE a > $1", ("0",), "ok", None, 2, None, "T"),
        ("SELECT * FROM nowhere", None, "error", "42P01", None, None, "E"),
        ("SELECT 1", None, "error", "25P02", None, None, "E"),
        ("ROLLBACK", None, "ok", None, None, None, "I"),
        ("BEGIN", None, "ok", None, None, None, "T"),
        ("SELECT 1", None, "ok", None, 1, None, None),
        ("SELECT 2", None, "ok", None, 1, None, None),
        ("SELECT 3", None, "ok", None, 1, None, "T"),
        ("COMMIT", None, "ok", None, None, None, "I"),
    ]
    assert [c.txn_no for c in tapped.talk.commands.values()] == [1] * 7 + [2] * 5


def copy_in(cursor: psycopg.Cursor[Any], lines: str, error: Exception | None = None) -> None:
    """Copy `lines` into t, and fail in the middle of it with `error`."""
    with cursor.copy("COPY t FROM STDIN") as copy:
        copy.write(lines)
        if error is not None:
            raise error


def in_pipeline(c: psycopg.Connection[Any], *many: tuple[str, tuple[Any, ...]]) -> None:
    """Send `many` statements before any answer is read."""
    with c.pipeline():
        for sql, values in many:
            c.execute(sql, values)


@pytest.mark.parametrize("size", SIZES)
def test_copy_both_ways_and_its_failure_are_one_command_each(
    postgres15: PostgresPeer, size: int | None
) -> None:
    with Tap(postgres15.host, postgres15.port, size=size) as tap, connect(postgres15, tap) as c:
        c.execute("CREATE TEMP TABLE t (a int, b text)")
        cursor = c.cursor()
        with cursor.copy("COPY t FROM STDIN") as copy:
            for n in range(500):
                copy.write_row((n, "v" * n))
        with cursor.copy("COPY t TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 500
        with pytest.raises(errors.InvalidTextRepresentation):
            copy_in(cursor, "zzz\tx\n")
        with pytest.raises(KeyError):
            copy_in(cursor, "1\tx\n", KeyError("the client gives up"))
        c.execute("SELECT 1")

    (tapped,) = tap.connections
    assert_whole(tapped)
    told = [(row[2], row[3], row[4], row[5]) for row in story(tapped)]
    assert told[1:] == [
        ("ok", None, None, 500),
        ("ok", None, 500, None),
        ("error", "22P02", None, None),
        ("cancelled", "57014", None, None),
        ("ok", None, 1, None),
    ]


def test_a_pipeline_pairs_with_what_the_server_logged(postgres15: PostgresPeer) -> None:
    with (
        Tap(postgres15.host, postgres15.port) as tap,
        connect(postgres15, tap, application_name="pipeline-pairs") as c,
    ):
        good = [("SELECT %s::int, 'pairs'", (n,)) for n in range(50)]
        never = [("SELECT %s::int, 'never'", (n,)) for n in range(50)]
        for _ in range(3):
            with pytest.raises(errors.DivisionByZero):
                in_pipeline(c, *good, ("SELECT 1/%s::int, 'pairs'", (0,)), *never)
        in_pipeline(c, *good)

    (tapped,) = tap.connections
    assert_whole(tapped)
    commands = list(tapped.talk.commands.values())
    logged = [e for e in postgres15.logged("'pairs'") if e.application == "pipeline-pairs"]
    ran = [c for c in commands if "'pairs'" in c.text]
    # A division of constants fails when it is planned, in Bind, and is not logged as executed.
    assert [e.text for e in logged] == [c.text for c in ran if c.status == "ok"]
    never = [c for c in commands if "'never'" in c.text]
    assert {c.status for c in never} == {"incomplete"}
    assert [c.status for c in ran].count("error") == 3
    assert postgres15.logged("'never'") == []


@pytest.mark.parametrize("size", [None, 1])
async def test_asyncpg_is_told_by_its_commands(postgres15: PostgresPeer, size: int | None) -> None:
    with Tap(postgres15.host, postgres15.port, size=size) as tap:
        c = await connect_async(postgres15, tap)
        await c.execute("CREATE TEMP TABLE t (a int, b text)")
        await c.executemany("INSERT INTO t VALUES ($1, $2)", [(n, "x") for n in range(20)])
        async with c.transaction():
            seen = [row["a"] async for row in c.cursor("SELECT a FROM t ORDER BY a", prefetch=6)]
        assert seen == list(range(20))
        await c.copy_records_to_table("t", records=[(n, "y") for n in range(10)])
        out = io.BytesIO()
        await c.copy_from_query("SELECT * FROM t", output=out)
        with pytest.raises(TimeoutError):
            await c.fetch("SELECT pg_sleep(60)", timeout=0.2)
        with pytest.raises(asyncpg.UndefinedTableError):
            await c.fetch("SELECT * FROM nowhere")  # asyncpg prepares before it executes
        assert await c.fetchval("SELECT $1::int8", 7) == 7
        await c.close()

    (tapped,) = tap.connections
    assert_whole(tapped)
    commands = list(tapped.talk.commands.values())
    inserted = [c.params for c in commands if c.text.startswith("INSERT")]
    assert inserted == [(str(n), "x") for n in range(20)]
    fetched = [c.rows_returned for c in commands if c.text.startswith("SELECT a")]
    assert fetched == [6, 6, 6, 2]
    assert [c.status for c in commands if "pg_sleep" in c.text] == ["cancelled"]
    (failed,) = [c for c in commands if "nowhere" in c.text]
    # It asked with Flush, so the state was reported only after the command had ended.
    assert (failed.status, failed.error_code, failed.txn_status) == ("error", "42P01", None)
    (last,) = [c for c in commands if "int8" in c.text]
    assert (last.params, last.rows_returned) == (("7",), 1)
    assert [(x.name, x.format) for x in last.result_columns] == [("int8", 1)]


def test_a_large_value_a_notification_and_a_deferred_constraint(postgres18: PostgresPeer) -> None:
    with Tap(postgres18.host, postgres18.port) as tap, connect(postgres18, tap) as c:
        c.execute("SELECT repeat('x', 3000000)").fetchall()
        c.execute("SELECT length(%s)", ("y" * 3_000_000,)).fetchall()
        c.execute("LISTEN jobs")
        c.execute("NOTIFY jobs, 'one'")
        c.execute("CREATE TEMP TABLE d (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(errors.UniqueViolation):
            c.execute("INSERT INTO d VALUES (%s), (1)", (1,))
        c.execute("")
        c.execute("DO $$BEGIN RAISE NOTICE 'hi'; END$$")

    (tapped,) = tap.connections
    assert_whole(tapped)
    commands = list(tapped.talk.commands.values())
    assert [len(c.sha256) for c in commands[:2]] == [1, 1]
    assert commands[1].params is None
    assert (commands[5].status, commands[5].error_code) == ("error", "23505")
    assert commands[5].rows_affected is None
    texts = [event.text for event in tapped.talk.events() if event.side is Side.TARGET]
    assert "NOTICE 00000 hi" in texts


def test_a_backend_that_is_killed_ends_its_command_as_an_error(postgres15: PostgresPeer) -> None:
    with Tap(postgres15.host, postgres15.port) as tap:
        c = connect(postgres15, tap)
        with pytest.raises(psycopg.OperationalError):
            c.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        c.close()

    (tapped,) = tap.connections
    assert story(tapped)[0][2:4] == ("error", "57P01")
    assert tapped.talk.frames(Side.TARGET) == bytes(tapped.said[Side.TARGET])


def deny_deletes(step: Step) -> Refusal | None:
    if any("DELETE" in command.text for command in step.starts):
        return Refusal(code="42501", message="agentaudit: denied", hint="ask")
    return None


def in_transaction(c: psycopg.Connection[Any], *many: str) -> None:
    with c.transaction():
        for sql in many:
            c.execute(sql)


def test_a_refused_statement_fails_like_any_other_and_never_reaches_the_server(
    postgres15: PostgresPeer,
) -> None:
    with (
        Tap(postgres15.host, postgres15.port, refuses=deny_deletes) as tap,
        connect(postgres15, tap, application_name="refused") as c,
    ):
        c.execute("CREATE TEMP TABLE t AS SELECT generate_series(1, 3) a")
        with pytest.raises(errors.InsufficientPrivilege, match="agentaudit: denied"):
            c.execute("DELETE FROM t")
        with pytest.raises(errors.InsufficientPrivilege):
            c.execute("SELECT 1; DELETE FROM t")
        with pytest.raises(errors.InsufficientPrivilege):
            in_transaction(c, "INSERT INTO t VALUES (4)", "DELETE FROM t WHERE a = 1")
        with pytest.raises(errors.InsufficientPrivilege):
            in_pipeline(
                c,
                ("INSERT INTO t VALUES (%s)", (5,)),
                ("DELETE FROM t", ()),
                ("INSERT INTO t VALUES (%s)", (6,)),
            )
        # Refusals abort their transaction, so nothing was inserted, and nothing deleted.
        assert c.execute("SELECT count(*) FROM t").fetchone() == (3,)

    (tapped,) = tap.connections
    talk = tapped.talk
    assert sorted(talk.ended_nos()) == list(talk.commands)
    denied = [command for command in talk.commands.values() if "DELETE" in command.text]
    assert [command.status for command in denied] == ["denied"] * 4
    log = [entry for entry in postgres15.logged() if entry.application == "refused"]
    assert not any("DELETE" in entry.text for entry in log)
