"""One statement recorded and another one run: what an agent may try with names, really tried."""

from __future__ import annotations

from typing import Any

import pytest

from agentaudit.protocols import postgres_messages as wire
from tests.gateway.raw import Raw, startup
from tests.gateway.recorded import read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SYNC = wire.sync()


def parse(name: bytes, sql: str) -> bytes:
    return wire.frame(b"P", name + b"\0" + sql.encode() + b"\0\0\0")


def bind(statement: bytes) -> bytes:
    return wire.frame(b"B", b"\0" + statement + b"\0" + bytes(6))


EXECUTE = wire.frame(b"E", b"\0" + bytes(4))


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
        client.say(startup()).hear_one()
        client.say(wire.password_message(signing_issuer.token()))
        while client.hear_one()[0] != b"Z":
            pass
        client.say(attempt[0])
        while client.hear_one()[0] != b"Z":
            pass
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
            wire.frame(
                b"Q",
                b"DO $$ BEGIN EXECUTE 'DEALLOCATE x'; "
                b"EXECUTE 'PREPARE x AS DELETE FROM victim'; END $$\0",
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


TWO_WAYS = r"SELECT '\'', wipe_victim() --'"
"""A constant, or a call: whether a backslash escapes in plain strings is a setting."""


def query(sql: str) -> bytes:
    return wire.frame(b"Q", sql.encode() + b"\0")


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
