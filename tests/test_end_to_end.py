"""The main job on real parts: a client with a token, the gateway, PostgreSQL, verify, load.

Everything here is as a user has it: an unmodified client, a provider that signs the token, TLS on
both sides. What each client and each refusal does is in tests/gateway.
"""

from __future__ import annotations

import secrets
import subprocess
from collections import Counter
from decimal import Decimal
from pathlib import Path

import duckdb
import polars
import psycopg
import pytest

import agentaudit
from agentaudit.demo.processes import without_libpq_variables
from agentaudit.demo.provider import IdentityProvider
from tests.peers.gateway import GatewayFactory
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer
from tests.peers.pump import PumpFactory, Wire

READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"

SCRIPT = """\
CREATE TABLE {table} (id integer, amount numeric(10, 2), note text);
INSERT INTO {table} VALUES (1, 19.90, 'first'), (2, 0.01, NULL);
SELECT id, amount, note FROM {table} ORDER BY id;
SELECT no_such_column FROM {table};
BEGIN;
DELETE FROM {table};
ROLLBACK;
"""


def psql(binaries: Path, dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", dsn],
        input=script,
        capture_output=True,
        text=True,
        env=without_libpq_variables(),
        timeout=60,
        check=False,
    )


@pytest.fixture
def table(postgres15: PostgresPeer) -> str:
    """The name of a table that no other test uses."""
    return f"t_{secrets.token_hex(6)}"


def test_a_psql_session_with_a_token_is_recorded_proven_and_given_back(
    gateway: GatewayFactory, postgres15: PostgresPeer, issuer: IdentityProvider, table: str
) -> None:
    assert postgres15.authority is not None
    ca_file = str(postgres15.authority.file)
    gw = gateway(postgres15.target("orders", tls="verify-full", tls_ca_file=ca_file), tls=True)
    token = issuer.token("ana", ["data-agents"], agent="copilot-7", at_least_bytes=2000)

    dsn = gw.dsn("orders", token, sslmode="verify-full", sslrootcert=ca_file)
    result = psql(DEBIAN_BINARIES, dsn, SCRIPT.format(table=table))
    assert result.stdout == "1|19.90|first\n2|0.01|\n"
    assert 'column "no_such_column" does not exist' in result.stderr
    gw.wait_until_idle()
    assert gw.terminate() == 0

    verification = agentaudit.verify(gw.archive, key=gw.verifier_key, deep=True)
    assert verification.ok, verification.findings
    case = agentaudit.load(gw.archive)
    ((session_id, user, agent, groups, target, reason),) = case.sql(
        "SELECT session_id, user, agent, groups, target, close_reason FROM sessions "
        "WHERE protocol = 'postgres'"
    ).fetchall()
    assert (user, agent, groups, target, reason) == (
        "ana",
        "copilot-7",
        ["data-agents"],
        "orders",
        "client",
    )
    commands = case.sql(
        "SELECT operation, class, status, error_code, rows_returned, rows_affected, txn_status, "
        "decision, rule FROM commands ORDER BY command_no"
    ).fetchall()
    assert commands == [
        ("CREATE TABLE", "schema", "ok", None, None, None, "I", "allow", "none"),
        ("INSERT", "write", "ok", None, None, 2, "I", "allow", "none"),
        ("SELECT", "read", "ok", None, 2, None, "I", "allow", "none"),
        ("SELECT", "read", "error", "42703", None, None, "I", "allow", "none"),
        ("BEGIN", "session", "ok", None, None, None, "T", "allow", "none"),
        ("DELETE", "write", "ok", None, None, 2, "T", "allow", "none"),
        ("ROLLBACK", "session", "ok", None, None, None, "I", "allow", "none"),
    ]
    ((select,),) = case.sql("SELECT command_no FROM commands WHERE rows_returned = 2").fetchall()
    rows = case.session(session_id).result(select)
    assert rows.to_pylist() == [
        {"id": 1, "amount": Decimal("19.90"), "note": "first"},
        {"id": 2, "amount": Decimal("0.01"), "note": None},
    ]


def test_what_a_case_gives_back_is_what_passed_on_both_sides(
    gateway: GatewayFactory, pump: PumpFactory, postgres18: PostgresPeer, issuer: IdentityProvider
) -> None:
    behind = pump(postgres18.host, postgres18.port)
    address = f"{behind.host}:{behind.port}"
    gw = gateway(postgres18.target("orders", address=address))
    before = pump(gw.host, gw.port)
    token = issuer.token("ana", ["data-agents"])

    with psycopg.connect(gw.dsn("orders", token, port=before.port), autocommit=True) as connection:
        connection.execute("SELECT generate_series(1, 20000), repeat('x', 100)").fetchall()
        connection.execute("SELECT repeat('y', 700000)").fetchall()
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / %s", [0])
        with connection.cursor().copy("COPY (SELECT generate_series(1, 5000)) TO STDOUT") as copy:
            for _ in copy:
                pass
    before.wait_until_closed()
    behind.wait_until_closed()
    gw.wait_until_idle()
    gw.terminate()

    client_side, target_side = before.wires[0], behind.wires[0]
    up, down = conversation(client_side)
    assert (up, down) == conversation(target_side)
    case = agentaudit.load(gw.archive)
    ((session_id,),) = case.sql(
        "SELECT session_id FROM sessions WHERE protocol = 'postgres'"
    ).fetchall()
    session = case.session(session_id)
    assert b"".join(session.stream("client")) == up
    assert b"".join(session.stream("target")) == down
    counted = case.sql(
        "SELECT side, sum(orig_len) FROM events WHERE kind IN ('request', 'response') GROUP BY side"
    ).fetchall()
    assert dict(counted) == {"client": len(up), "target": len(down)}


def conversation(wire: Wire) -> tuple[bytes, bytes]:
    """Return what passed after the first ReadyForQuery: what the client sent, and what it got."""
    down = bytes(wire.down)
    login_end = down.index(READY_FOR_QUERY) + len(READY_FOR_QUERY)
    up = bytes(wire.up)
    return up[login_length(up) :], down[login_end:]


def login_length(up: bytes) -> int:
    """Return the length of all that a client sends before its session is open.

    Requests for encryption and the start-up packet have no type byte, and the former are 8 bytes
    long; password and SASL messages are of type `p`.
    """
    offset = 0
    while up[offset : offset + 4] == b"\x00\x00\x00\x08":
        offset += 8
    offset += int.from_bytes(up[offset : offset + 4])
    while up[offset : offset + 1] == b"p":
        offset += 1 + int.from_bytes(up[offset + 1 : offset + 5])
    return offset


def test_the_servers_log_and_the_archive_name_the_same_executions(
    gateway: GatewayFactory, postgres18: PostgresPeer, issuer: IdentityProvider
) -> None:
    gw = gateway(postgres18.target("orders"))
    token = issuer.token("ana", ["data-agents"])
    marker = secrets.token_hex(8)

    with psycopg.connect(gw.dsn("orders", token), autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.executemany(f"SELECT %s, '{marker}'", [(n,) for n in range(50)])
        connection.execute(f"SELECT '{marker}', 'simple'")
    gw.terminate()

    recorded = agentaudit.load(gw.archive).sql("SELECT text FROM commands").fetchall()
    executed = Counter(one.text for one in postgres18.logged(marker))
    assert sum(executed.values()) == 51
    assert Counter(text for (text,) in recorded) == executed


def test_the_archive_is_plain_parquet_to_duckdb_and_polars(
    gateway: GatewayFactory, postgres18: PostgresPeer, issuer: IdentityProvider
) -> None:
    gw = gateway(postgres18.target("orders"))
    with psycopg.connect(gw.dsn("orders", issuer.token("ana", ["data-agents"]))) as connection:
        connection.execute("SELECT 1")
    gw.terminate()

    for table, columns in {
        "events": ["kind", "text", "orig_len"],
        "commands": ["text", "status", "rows_returned"],
        "sessions": ["user", "target", "close_reason"],
    }.items():
        files = str(gw.archive / table / "**" / "*.parquet")
        names = ", ".join(columns)
        in_duckdb = duckdb.sql(f"SELECT {names} FROM read_parquet('{files}')").fetchall()
        in_polars = polars.scan_parquet(files).select(columns).collect().rows()
        assert Counter(in_duckdb) == Counter(in_polars)
        assert in_duckdb
