"""Rules, in force: what they deny does not reach the server, and the client learns why."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import psycopg
import pytest

from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until, without_libpq_variables
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.raw import Raw
from tests.gateway.recorded import Row, read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

NO_DELETE = {"name": "nobody deletes", "when": {"operation": ["DELETE"]}, "action": "deny"}
INSERTS = {"name": "logs grow", "when": {"resource": ["log"]}, "action": "allow"}

Governed = Callable[..., Gateway]


@pytest.fixture
def governed(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Governed:
    """Start gateways whose target denies by default, behind the rules that they are given."""
    postgres18.execute(
        "DROP TABLE IF EXISTS victim, log",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "CREATE TABLE log (said text)",
        "GRANT ALL ON victim, log TO PUBLIC",
        database="orders",
    )

    def start(*rules: Mapping[str, Any]) -> Gateway:
        target = postgres18.target() | {"default": "deny"}
        return gateway(target, issuer=signing_issuer, tables={"rule": list(rules)})

    return start


def left(server: PostgresPeer) -> int:
    with server.connect() as direct:
        (count,) = direct.execute("SELECT count(*) FROM victim").fetchone() or (None,)
    return int(count)


def decisions(gw: Gateway) -> list[tuple[str, str, str, str, str | None]]:
    """Return (text, decision, rule, status, error code) of all commands, in their order."""
    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    rows: list[Row] = [row for s in recorded.sessions for row in recorded.commands_of(s)]
    names = ("text", "decision", "rule", "status", "error_code")
    for row in rows:
        row["text"] = row["text"].rstrip(";")
    return [tuple(row[name] for name in names) for row in rows]  # type: ignore[misc]


def test_psql_is_told_which_rule_and_the_transaction_is_as_the_server_says(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = governed(NO_DELETE, INSERTS)
    script = """
        \\set VERBOSITY verbose
        BEGIN;
        INSERT INTO log VALUES ('before');
        DELETE FROM victim;
        SELECT 1;
        ROLLBACK;
        SELECT 'still here';
        TRUNCATE victim;
    """
    done = subprocess.run(
        [embedded_postgres() / "psql", "-X", "-q", "-t", gw.dsn("orders", signing_issuer.token())],
        input=script.encode(),
        env=without_libpq_variables(),
        capture_output=True,
        check=False,
        timeout=60,
    )

    said = done.stderr.decode()
    assert 'ERROR:  42501: agentaudit: denied by rule "nobody deletes"' in said
    assert "DETAIL:  session " in said
    assert "HINT:  " in said
    assert "25P02" in said
    assert "still here" in done.stdout.decode()
    assert left(postgres18) == 5
    assert decisions(gw) == [
        ("BEGIN", "allow", "none", "ok", None),
        ("INSERT INTO log VALUES ('before')", "allow", "logs grow", "ok", None),
        ("DELETE FROM victim", "deny", "nobody deletes", "denied", "42501"),
        ("SELECT 1", "allow", "none", "error", "25P02"),
        ("ROLLBACK", "allow", "none", "ok", None),
        ("SELECT 'still here'", "allow", "none", "ok", None),
        ("TRUNCATE victim", "deny", "default", "denied", "42501"),
    ]


def test_of_several_statements_in_one_query_none_runs_if_one_is_denied(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = governed(NO_DELETE, INSERTS)
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody deletes"):
            client.execute("INSERT INTO log VALUES ('x'); SELECT 1; DELETE FROM victim")
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert client.execute("SELECT count(*) FROM log").fetchone() == (0,)

    assert left(postgres18) == 5
    denied = [row for row in decisions(gw) if row[3] == "denied"]
    assert [row[0] for row in denied] == [
        "INSERT INTO log VALUES ('x')",
        "SELECT 1",
        "DELETE FROM victim",
    ]
    assert {row[1:3] for row in denied} == {("deny", "nobody deletes")}


def test_in_a_pipeline_what_is_behind_a_denied_statement_is_skipped_up_to_the_sync(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = governed(NO_DELETE, INSERTS)
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        denied = pytest.raises(psycopg.errors.InsufficientPrivilege)
        with denied, client.pipeline():
            before = client.execute("SELECT 1 WHERE 1 = %s", [1])
            client.execute("DELETE FROM victim WHERE n < %s", [4])
            client.execute("INSERT INTO log VALUES (%s)", ["behind"])
        assert before.fetchone() == (1,)
        with client.pipeline():
            after = client.execute("SELECT count(*) FROM log WHERE said <> %s", [""])
        assert after.fetchone() == (0,)

    assert left(postgres18) == 5
    assert ("deny", "nobody deletes", "denied") in [row[1:4] for row in decisions(gw)]


def test_a_prepared_statement_is_denied_at_each_execution_and_the_connection_goes_on(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    async def work(gw: Gateway) -> None:
        client = await asyncpg.connect(
            host=gw.host,
            port=gw.port,
            user="agent",
            password=signing_issuer.token(),
            database="orders",
            ssl=False,
        )
        try:
            statement = await client.prepare("DELETE FROM victim WHERE n < $1")
            for most in range(3):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="nobody deletes"):
                    await statement.fetch(most)
            assert await client.fetchval("SELECT $1::int + 1", 1) == 2
        finally:
            await client.close()

    gw = governed(NO_DELETE)
    asyncio.run(work(gw))

    assert left(postgres18) == 5
    assert [row[1:3] for row in decisions(gw) if row[0].startswith("DELETE")] == [
        ("deny", "nobody deletes")
    ] * 3


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_fetch_may_do_what_the_statement_of_its_portal_may(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    governed: Any,
    size: int,
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, tables={"rule": [NO_DELETE]})
    value = b"x" * size
    bound = b"c\0\0" + bytes(2) + b"\0\1" + len(value).to_bytes(4) + value + bytes(2)
    deletes = "DELETE FROM victim WHERE n::text <> $1 RETURNING n"
    with Raw(gw) as client:
        client.log_in(signing_issuer.token())
        client.say(wire.frame(b"Q", b"BEGIN\0"))
        client.say(wire.parse("", deletes) + wire.frame(b"B", bound) + wire.sync())
        client.say(wire.frame(b"Q", b"FETCH ALL FROM c\0") + wire.frame(b"Q", b"COMMIT\0"))
        client.say(wire.terminate()).hear_until_closed()

    assert left(postgres18) == 5
    # What is too long to wait goes ahead of the decision: its portal is there to be fetched from.
    expected = [deletes] if size < 1024 * 1024 else [deletes, "FETCH ALL FROM c"]
    rows = decisions(gw)
    assert [row[:4] for row in rows if row[3] == "denied"] == [
        (text, "deny", "nobody deletes", "denied") for text in expected
    ]
    assert [row[0] for row in rows if row[3] == "ok"] == ["BEGIN", "COMMIT"]


@pytest.mark.parametrize("size", [100, 2_000_000, 17_000_000])
def test_what_went_ahead_of_a_denied_execution_is_answered_and_the_connection_goes_on(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer, size: int
) -> None:
    gw = governed(NO_DELETE)
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody deletes")
        for _ in range(2):
            with denied:
                client.execute("DELETE FROM victim WHERE n::text <> %s", ["x" * size])
        with denied, client.pipeline():
            before = client.execute("SELECT length(%s)", ["y" * size])
            client.execute("DELETE FROM victim WHERE n::text <> %s", ["x" * size])
            client.execute("SELECT %s", ["z" * size])
        assert before.fetchone() == (size,)
        assert client.execute("SELECT length(%s)", ["y" * size]).fetchone() == (size,)

    assert left(postgres18) == 5
    assert [row[1:4] for row in decisions(gw) if row[0].startswith("DELETE")] == [
        ("deny", "nobody deletes", "denied")
    ] * 3


@pytest.mark.parametrize(
    "text",
    [
        "DELETE/**/FROM victim",
        "WITH gone AS (DELETE FROM victim RETURNING n) SELECT * FROM gone",
        "DO $$ BEGIN DELETE FROM victim; END $$",
        "EXPLAIN ANALYZE DELETE FROM victim",
        "MERGE INTO victim v USING (SELECT 1) s ON v.n > 0 WHEN MATCHED THEN DELETE",
        "EXECUTE gone",
        "SELECT query_to_xml('DELETE FROM victim RETURNING n', true, true, '')",
    ],
)
def test_a_write_that_hides_is_not_a_plain_read(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer, text: str
) -> None:
    gw = governed()
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        client.execute("PREPARE gone AS DELETE FROM victim")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match='denied by rule "default"'):
            client.execute(text)

    assert left(postgres18) == 5


def test_a_session_keeps_the_rules_with_which_it_opened(
    governed: Governed, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = governed(INSERTS)
    dsn = gw.dsn("orders", signing_issuer.token("ana"))
    standing = psycopg.connect(dsn, autocommit=True)
    bad = gw.config.read_text().replace('["log"]', '["a.b.c.d"]')
    good = gw.config.read_text().replace('"allow"', '"deny"')

    gw.config.write_text(bad)
    gw.send(signal.SIGHUP)
    until(lambda: "rule[1].when.resource" in gw.log_text(), "the gateway keeps its rules")
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("INSERT INTO log VALUES ('as before')")
    gw.config.write_text(good)
    gw.send(signal.SIGHUP)
    until(lambda: '"reloaded"' in gw.log_text(), "the gateway reloads")
    denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="logs grow")
    with psycopg.connect(dsn, autocommit=True) as client, denied:
        client.execute("INSERT INTO log VALUES ('too late')")
    standing.execute("INSERT INTO log VALUES ('as it began')")
    standing.close()

    gw.wait_until_idle()
    gw.terminate()
    sessions = [row for row in read(gw.archive).sessions if row["user"] == "ana"]
    said = {}
    for row in sessions:
        document = (gw.archive / "policies" / f"{row['policy_digest']}.json").read_bytes()
        assert hashlib.sha256(document).hexdigest() == row["policy_digest"]
        said[row["policy_digest"]] = json.loads(document)["rules"][0]["action"]
    assert sorted(said.values()) == ["allow", "deny"]
