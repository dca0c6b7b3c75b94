"""One statement recorded and another one run: what an agent may try with names, really tried."""

from __future__ import annotations

from typing import Any

import pytest

from agentaudit.protocols import postgres_messages as wire
from tests.gateway.raw import Raw
from tests.gateway.recorded import read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SYNC = wire.sync()


def parse(name: bytes, sql: str) -> bytes:
    return wire.frame(b"P", name + b"\0" + sql.encode() + b"\0\0\0")


def bind(statement: bytes, portal: bytes = b"") -> bytes:
    return wire.frame(b"B", portal + b"\0" + statement + b"\0" + bytes(6))


def execute(portal: bytes) -> bytes:
    return wire.frame(b"E", portal + b"\0" + bytes(4))


def close(kind: bytes, name: bytes) -> bytes:
    return wire.frame(b"C", kind + name + b"\0")


def query(sql: str) -> bytes:
    return wire.frame(b"Q", sql.encode() + b"\0")


EXECUTE = execute(b"")


def tried(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    attempt: tuple[bytes, bytes],
) -> list[dict[str, Any]]:
    """Say both halves of an attempt, and require that it works; return the commands recorded."""
    postgres18.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        "CREATE OR REPLACE FUNCTION wipe_victim() RETURNS bigint LANGUAGE sql"
        " AS 'DELETE FROM victim; SELECT 1::bigint'",
        database="orders",
    )
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    with Raw(gw) as client:
        client.log_in(signing_issuer.token())
        client.say(attempt[0]).hear_ready()
        client.say(attempt[1] + wire.terminate()).hear_until_closed()
    gw.wait_until_idle()
    gw.terminate()
    with postgres18.connect() as direct:
        left = direct.execute("SELECT count(*) FROM victim").fetchone()
    assert left == (0,)
    return read(gw.archive).commands


@pytest.mark.parametrize(
    "attempt",
    [
        (
            parse(b"x", "DELETE FROM victim") + SYNC,
            parse(b"x", "SELECT 1") + SYNC + bind(b"x") + EXECUTE + SYNC,
        ),
        (
            parse(b"", "DELETE FROM victim") + SYNC,
            bind(b"nope") + parse(b"", "SELECT 1") + SYNC + bind(b"") + EXECUTE + SYNC,
        ),
        (
            parse(b"x", "SELECT 1") + SYNC,
            query(
                "DO $$ BEGIN EXECUTE 'DEALLOCATE x'; "
                "EXECUTE 'PREPARE x AS DELETE FROM victim'; END $$"
            )
            + bind(b"x")
            + EXECUTE
            + SYNC,
        ),
    ],
    ids=["parsed again", "skipped", "in a DO block"],
)
def test_a_delete_that_ran_is_never_recorded_as_a_certain_read(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    attempt: tuple[bytes, bytes],
) -> None:
    commands = tried(gateway, postgres18, signing_issuer, attempt)
    changed = [row for row in commands if row["rows_affected"]]
    assert [row["rows_affected"] for row in changed] == [5]
    assert changed[0]["class"] in ("write", "unknown")
    assert changed[0]["text"] == "DELETE FROM victim" or changed[0]["confidence"] == "uncertain"


CALL = "SELECT wipe_victim()"
"""Answered as the SELECT that it is: the server's tag does not give it away."""

LONG = b"n" * 63
"""As much of a name as PostgreSQL looks at (NAMEDATALEN)."""


@pytest.mark.parametrize(
    "attempt",
    [
        (
            parse(LONG + b"a", "SELECT 1") + SYNC,
            close(b"S", LONG + b"b")
            + parse(LONG + b"b", CALL)
            + bind(LONG + b"a")
            + EXECUTE
            + SYNC,
        ),
        (
            parse(b"", "SELECT 1") + bind(b"", LONG + b"a") + SYNC,
            parse(b"", "SELECT 1")
            + bind(b"", LONG + b"a")
            + close(b"P", LONG + b"b")
            + parse(b"", CALL)
            + bind(b"", LONG + b"b")
            + execute(LONG + b"a")
            + SYNC,
        ),
        (
            query("BEGIN"),
            parse(b"", CALL)
            + bind(b"", b"c")
            + SYNC
            + query("SAVEPOINT s")
            + (parse(b"", "no statement") + close(b"P", b"c") + SYNC)
            + query("ROLLBACK TO s")
            + (execute(b"c") + SYNC)
            + query("COMMIT"),
        ),
        (
            query("BEGIN"),
            parse(b"", "SELECT 1")
            + bind(b"", b"c")
            + SYNC
            + query("CLOSE c")
            + query("DECLARE c CURSOR FOR SELECT 2")
            + query("CLOSE ALL")
            + (parse(b"", CALL) + bind(b"", b"c") + execute(b"c") + SYNC)
            + query("COMMIT"),
        ),
        (
            parse(b"x", "SELECT 1") + SYNC,
            query("DEALLOCATE x") + query(f"PREPARE x AS {CALL}") + bind(b"x") + EXECUTE + SYNC,
        ),
        (
            parse(b"x", "SELECT 1") + SYNC,
            query("DISCARD ALL") + query(f"PREPARE x AS {CALL}") + bind(b"x") + EXECUTE + SYNC,
        ),
        (
            parse(b"x", "SELECT 1") + SYNC,
            (parse(b"", "/**/DeAllocate x") + bind(b"") + EXECUTE)
            + (parse(b"", f"PREPARE x AS {CALL}") + bind(b"") + EXECUTE)
            + (bind(b"x") + EXECUTE + SYNC),
        ),
        (
            parse(b"x", "SELECT 1") + SYNC,
            (parse(b"", "DEALLOCATE ALL") + bind(b"") + EXECUTE)
            + (parse(b"", f"PREPARE x AS {CALL}") + bind(b"") + EXECUTE)
            + (bind(b"x") + EXECUTE + SYNC),
        ),
        (
            parse(LONG[1:], "SELECT 1") + SYNC + query(f"DEALLOCATE {LONG[1:].decode()}\u00e9"),
            query(f"PREPARE {LONG[1:].decode()} AS {CALL}") + bind(LONG[1:]) + EXECUTE + SYNC,
        ),
        (
            query("BEGIN") + query("SAVEPOINT s"),
            (parse(b"", "SELECT 1") + bind(b"", b"c") + SYNC)
            + query("ROLLBACK TO s")
            + query(f"DECLARE c CURSOR FOR {CALL}")
            + (execute(b"c") + SYNC)
            + query("COMMIT"),
        ),
        (
            query("BEGIN"),
            (parse(b"", "SELECT 1") + bind(b"", LONG[1:]) + SYNC)
            + query(f"CLOSE {LONG[1:].decode()}\u00e9")
            + query(f"DECLARE {LONG[1:].decode()} CURSOR FOR {CALL}")
            + (execute(LONG[1:]) + SYNC)
            + query("COMMIT"),
        ),
    ],
    ids=[
        "one name for the server",
        "one portal for the server",
        "a Close that was skipped",
        "closed by SQL",
        "deallocated ahead",
        "discarded ahead",
        "deallocated ahead, before one Sync",
        "all deallocated ahead, before one Sync",
        "deallocated, a name that is cut at a character",
        "a portal whose savepoint is gone",
        "closed, a name that is cut at a character",
    ],
)
def test_a_call_under_a_name_that_stood_for_a_read_is_never_recorded_as_one(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    attempt: tuple[bytes, bytes],
) -> None:
    commands = tried(gateway, postgres18, signing_issuer, attempt)
    answered = [row for row in commands if row["status"] == "ok"]
    assert "unknown" in {row["class"] for row in answered}
    assert {row["class"] for row in answered if row["text"] == "SELECT 1"} <= {"unknown"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (b"c", query("FETCH ALL FROM c")),
        (b"C", query('MOVE FORWARD 9 IN "C"')),
        (b"c", parse(b"f", "FETCH ALL C") + bind(b"f") + EXECUTE + SYNC),
        (LONG + b"a", query(f"FETCH ALL FROM {LONG.decode()}b")),
        ("\u00e7".encode(), query("FETCH ALL FROM \u00e7")),
    ],
    ids=["fetched", "moved", "fetched by a portal", "a long name", "a name in UTF-8"],
)
def test_a_fetch_from_what_a_client_bound_is_what_that_does(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    name: bytes,
    how: bytes,
) -> None:
    bound = parse(b"", "DELETE FROM victim RETURNING n") + bind(b"", name) + SYNC
    attempt = (query("BEGIN"), bound + how + query("COMMIT"))
    commands = tried(gateway, postgres18, signing_issuer, attempt)
    (row,) = [row for row in commands if row["operation"] in ("FETCH", "MOVE")]
    assert (row["class"], row["resources"]) in [("write", ["victim"]), ("unknown", [])]


def test_a_backslash_that_an_encoding_swallows_is_one_where_that_may_be_another_by_then(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    # In SJIS the second byte of this letter's UTF-8 and the backslash are one character.
    hiding = "SELECT E'\u00c1\\' AS \"'; DELETE FROM victim; --\""
    attempt = (
        query("SET client_encoding = 'SJIS'"),
        query("SET client_encoding = 'UTF8'") + query(hiding),
    )
    commands = tried(gateway, postgres18, signing_issuer, attempt)
    assert [row["class"] for row in commands if "victim" in row["text"]] == ["unknown"]


TWO_WAYS = r"SELECT '\'', wipe_victim() --'"
"""A constant, or a call: whether a backslash escapes in plain strings is a setting."""


ESCAPING, STANDARD = (query(f"SET standard_conforming_strings = {way}") for way in ("off", "on"))


@pytest.mark.parametrize(
    "attempt",
    [
        (ESCAPING, query(TWO_WAYS)),
        (query("SELECT 1"), ESCAPING + query(TWO_WAYS)),
        (ESCAPING, parse(b"x", TWO_WAYS) + SYNC + STANDARD + bind(b"x") + EXECUTE + SYNC),
        (
            parse(b"", ESCAPING[5:-1].decode()) + bind(b"") + EXECUTE + SYNC,
            query("BEGIN") + parse(b"", TWO_WAYS) + bind(b"") + EXECUTE + SYNC + query("COMMIT"),
        ),
    ],
    ids=["reported", "sent along", "parsed before", "behind a BEGIN"],
)
def test_a_call_is_never_recorded_as_the_text_of_a_string(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    attempt: tuple[bytes, bytes],
) -> None:
    commands = tried(gateway, postgres18, signing_issuer, attempt)
    rows = [row for row in commands if row["text"] == TWO_WAYS]
    assert [(row["class"], row["status"]) for row in rows] == [("unknown", "ok")]
