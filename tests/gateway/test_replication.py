"""Replication through the gateway: the tools, a standby and a subscriber of real servers."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import pq

from agentaudit.archive.verify import verify
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until, without_libpq_variables
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error, startup
from tests.gateway.recorded import read
from tests.gateway.test_clients import is_conserved
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer
from tests.peers.pump import Pump, PumpFactory

BINARIES = {"15": DEBIAN_BINARIES, "18": embedded_postgres()}


@pytest.fixture(scope="module", params=BINARIES)
def source(request: pytest.FixtureRequest) -> Iterator[PostgresPeer]:
    """A server that others may copy: `scram` may replicate, and all changes are decodable."""
    with PostgresPeer(
        binaries=BINARIES[request.param], authority=None, settings={"wal_level": "logical"}
    ) as server:
        server.create_users()
        server.execute("ALTER ROLE scram REPLICATION")
        server.execute(
            "CREATE TABLE stock (id int PRIMARY KEY, name text)",
            "INSERT INTO stock SELECT g, 'item ' || g FROM generate_series(1, 100) g",
            "GRANT SELECT ON stock TO scram",
            "CREATE PUBLICATION everything FOR ALL TABLES",
            database="orders",
        )
        yield server


def passing(server: PostgresPeer, **keys: Any) -> dict[str, Any]:
    return server.target(replication="pass", **keys)


def run(program: Path, *arguments: object, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)],
        env=without_libpq_variables() | {"PGPASSWORD": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# --- who may


@pytest.mark.parametrize("replication", ["database", "true", "1", "on", "tr"])
def test_replication_is_refused_where_a_target_does_not_pass_it(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, replication: str
) -> None:
    targets = [postgres18.target(), passing(postgres18, name="open")]
    with hosted(tmp_path, *targets, issuer=signing_issuer) as gateway:
        token = signing_issuer.token("ana")
        error = login_error(gateway, token, replication=replication)
        gateway.close()

    assert error["C"] == "0A000"
    assert 'target "orders"' in error["M"]
    session = read(gateway.archive).session(user="ana")
    assert session["close_reason"] == "refused"
    assert str(session["session_id"]) in error["D"]


@pytest.mark.parametrize("replication", ["false", "off", "no", "0", "of", "F"])
def test_a_start_up_that_says_no_to_replication_is_an_ordinary_one(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, replication: str
) -> None:
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        dsn = gateway.dsn("orders", signing_issuer.token(), replication=replication)
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("replication", ["", "o", "maybe", "database "])
def test_what_is_no_truth_value_is_refused_as_by_a_server(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, replication: str
) -> None:
    def error(server: Any, **parameters: str) -> dict[str, str]:
        with Raw(server) as client:
            return error_fields(client.say(startup(**parameters)).hear_until_closed())

    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        ours = error(gateway, replication=replication)
    assert ours["C"] == error(postgres18, replication=replication)["C"] == "22023"
    assert '"replication"' in ours["M"]


# --- the protocol, said by libpq


def logical(gateway: Hosted, token: str) -> psycopg.Connection[Any]:
    dsn = gateway.dsn("orders", token, replication="database")
    return psycopg.connect(dsn, autocommit=True)


def next_copied(pgconn: pq.abc.PGconn) -> bytes:
    """Return what the server copies next, empty once it copies no more."""
    while True:
        size, data = pgconn.get_copy_data(1)
        if size:
            return bytes(data)
        take_more(pgconn)


def next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Return what `get_result` does, which alone would keep the threads of our peers waiting."""
    while pgconn.is_busy():
        take_more(pgconn)
    return pgconn.get_result()


def take_more(pgconn: pq.abc.PGconn) -> None:
    readable, _, _ = select.select([pgconn.socket], [], [], 30)
    assert readable, "the stream stands still"
    pgconn.consume_input()


def test_a_stream_of_changes_passes_both_ways_and_is_recorded_as_unknown(
    tmp_path: Path, source: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(tmp_path, passing(source), issuer=signing_issuer) as gateway:
        with logical(gateway, signing_issuer.token("ana")) as connection:
            identified = connection.execute("IDENTIFY_SYSTEM").fetchone()
            assert identified is not None
            assert identified[3] == "orders"
            with pytest.raises(psycopg.errors.SyntaxError):
                connection.execute("START_REPLICATION SLOT")
            connection.execute("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL test_decoding")
            # Ordinary SQL is understood there too, and what a parser makes of it is not asked.
            assert connection.execute("SELECT 1").fetchone() == (1,)

            pgconn = connection.pgconn
            result = pgconn.exec_(b"START_REPLICATION SLOT s LOGICAL 0/0")
            assert result.status == pq.ExecStatus.COPY_BOTH
            source.execute("INSERT INTO stock VALUES (-1, 'streamed')", database="orders")
            changes = b""
            while b"streamed" not in changes:
                changes += next_copied(pgconn)
                pgconn.put_copy_data(b"r" + bytes(8 * 4) + b"\0")
            pgconn.put_copy_end()
            while next_copied(pgconn):
                pass
            last = next_result(pgconn)
            while last is not None:
                assert last.status == pq.ExecStatus.COMMAND_OK, last.error_message
                last = next_result(pgconn)
            # The session goes on where the stream has ended.
            connection.execute("DROP_REPLICATION_SLOT s")
        source.execute("DELETE FROM stock WHERE id = -1", database="orders")
        gateway.close()

    recorded = read(gateway.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] == "client"
    assert dict(session["labels"])["replication"] == "database"
    rows = recorded.commands_of(session)
    assert [row["operation"] for row in rows] == [
        "IDENTIFY_SYSTEM",
        "START_REPLICATION",
        "CREATE_REPLICATION_SLOT",
        "SELECT",
        "START_REPLICATION",
        "DROP_REPLICATION_SLOT",
    ]
    assert {row["class"] for row in rows} == {"unknown"}
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "ok", "ok", "ok"]
    assert b"streamed" in recorded.wire(session, "target")
    stream = rows[4]
    assert stream["bytes_in"] > 0
    assert stream["bytes_out"] > 0


def test_a_server_that_stops_ends_the_stream_in_order(
    tmp_path: Path, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    server = own_postgres18
    server.execute("ALTER ROLE scram REPLICATION")
    wal = tmp_path / "wal"
    wal.mkdir()
    with hosted(tmp_path, passing(server), issuer=signing_issuer) as gateway:
        receiver = subprocess.Popen(
            [
                *(embedded_postgres() / "pg_receivewal", "-D", wal, "-n", "-w"),
                *("-h", gateway.host, "-p", str(gateway.port), "-U", "orders"),
            ],
            env=without_libpq_variables() | {"PGPASSWORD": signing_issuer.token("ana")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: any(path.stat().st_size for path in wal.iterdir()), "WAL is received")
            # It waits until its receivers have all that was written.
            server.stop()
            _, said = receiver.communicate(timeout=60)
        finally:
            receiver.kill()
        gateway.close()
    assert receiver.returncode == 1, said
    assert "server closed the connection unexpectedly" not in said
    recorded = read(gateway.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] in ("target", "client")
    stream = recorded.commands_of(session)[-1]
    assert (stream["operation"], stream["status"]) == ("START_REPLICATION", "ok")


# --- the tools


def test_the_tools_copy_a_server_and_its_changes(
    tmp_path: Path,
    source: PostgresPeer,
    gateway: GatewayFactory,
    pump: PumpFactory,
    signing_issuer: SigningIssuer,
) -> None:
    gw, front, _ = between_pumps_of(source, gateway, pump, signing_issuer)
    # They take no server that is newer than they are.
    usable = [DEBIAN_BINARIES] if source.binaries == DEBIAN_BINARIES else []
    for number, binaries in enumerate([*usable, embedded_postgres()]):
        folder = tmp_path / f"tools-{number}"
        folder.mkdir()
        use_the_tools(binaries, folder, source, front, signing_issuer.token("ana"))

    front.wait_until_closed()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    sessions = [row for row in recorded.sessions if row["protocol"] == "postgres"]
    assert {row["target"] for row in sessions} == {"orders"}
    rows = [row for session in sessions for row in recorded.commands_of(session)]
    assert {row["class"] for row in rows} == {"unknown"}
    assert {"START_REPLICATION", "CREATE_REPLICATION_SLOT"} <= {row["operation"] for row in rows}
    for row in rows:
        assert row["status"] in ("ok", "incomplete"), (row["text"], row["error_text"])
    verified = verify(gw.archive, key=gw.verifier_key, deep=True)
    assert (verified.ok, verified.findings) == (True, [])


def use_the_tools(
    binaries: Path, folder: Path, source: PostgresPeer, front: Pump, token: str
) -> None:
    """Copy `source`, receive its log, and decode its changes, all of it through `front`."""
    # Physical tools say "replication" for a database, so their user names the target.
    here = ("-h", front.host, "-p", front.port, "-U", "orders", "-w")

    copy = folder / "copy"
    done = run(
        binaries / "pg_basebackup", *here, "-D", copy, "-X", "stream", "-c", "fast", token=token
    )
    assert done.returncode == 0, done.stderr
    checked = run(binaries / "pg_verifybackup", "-n", copy, token=token)
    assert checked.returncode == 0, checked.stderr

    wal = folder / "wal"
    wal.mkdir()
    slot = "received"
    receive = (binaries / "pg_receivewal", *here, "-D", wal, "-S", slot)
    made = run(*receive, "--create-slot", token=token)
    assert made.returncode == 0, made.stderr
    source.execute(
        "SELECT pg_switch_wal()",
        "INSERT INTO stock SELECT generate_series(1000, 1100)",
        database="orders",
    )
    (end,) = source.execute("SELECT pg_current_wal_lsn()")[0]
    done = run(*receive, "--endpos", end, "-n", token=token)
    assert done.returncode == 0, done.stderr
    assert [path for path in wal.iterdir() if path.stat().st_size]
    dropped = run(*receive, "--drop-slot", token=token)
    assert dropped.returncode == 0, dropped.stderr

    changes = folder / "changes"
    decode = (
        *(binaries / "pg_recvlogical", "-h", front.host, "-p", front.port, "-U", "agent", "-w"),
        *("-d", "orders", "-S", "decoded"),
    )
    made = run(*decode, "--create-slot", "-P", "test_decoding", token=token)
    assert made.returncode == 0, made.stderr
    source.execute("DELETE FROM stock WHERE id >= 1000", database="orders")
    (end,) = source.execute("SELECT pg_current_wal_lsn()")[0]
    done = run(*decode, "--start", "-f", changes, "--endpos", end, "-n", token=token)
    assert done.returncode == 0, done.stderr
    assert changes.read_text().count("DELETE") == 101
    dropped = run(*decode, "--drop-slot", token=token)
    assert dropped.returncode == 0, dropped.stderr


def between_pumps_of(
    server: PostgresPeer, gateway: GatewayFactory, pump: PumpFactory, issuer: SigningIssuer
) -> tuple[Gateway, Pump, Pump]:
    back = pump(server.host, server.port)
    target = passing(server, address=f"{back.host}:{back.port}")
    gw = gateway(target, issuer=issuer, durability="relaxed")
    return gw, pump(gw.host, gw.port), back


def test_every_byte_of_a_stream_is_recorded(
    source: PostgresPeer,
    gateway: GatewayFactory,
    pump: PumpFactory,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
) -> None:
    gw, front, back = between_pumps_of(source, gateway, pump, signing_issuer)
    (end,) = source.execute("SELECT pg_current_wal_lsn()")[0]
    source.execute(
        "INSERT INTO stock SELECT g, repeat('w', 1000) FROM generate_series(5000, 9000) g",
        "DELETE FROM stock WHERE id >= 5000",
        database="orders",
    )
    (last,) = source.execute("SELECT pg_current_wal_lsn()")[0]
    dsn = gw.dsn(
        "orders", signing_issuer.token("ana"), port=front.port, replication="1", sslmode="disable"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        pgconn = connection.pgconn
        pgconn.exec_(f"START_REPLICATION PHYSICAL {end}".encode())
        received = 0
        while received < int(last.partition("/")[2], 16) - int(end.partition("/")[2], 16):
            data = next_copied(pgconn)
            assert data
            received += len(data) - 25 if data.startswith(b"w") else 0
        pgconn.put_copy_end()
        while next_copied(pgconn):
            pass
        while next_result(pgconn) is not None:
            pass
    front.wait_until_closed()
    back.wait_until_closed()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    is_conserved(recorded, recorded.session(user="ana"), front.wires[0], back.wires[0])


# --- servers as clients


@pytest.fixture
def standby(
    tmp_path: Path, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[tuple[Hosted, PostgresPeer, PostgresPeer]]:
    """A primary, and a standby that was copied and is fed through the gateway."""
    primary = own_postgres18
    primary.execute("ALTER ROLE scram REPLICATION")
    with hosted(tmp_path, passing(primary), issuer=signing_issuer) as gateway:
        follower = PostgresPeer(binaries=embedded_postgres(), authority=None)
        try:
            follow(gateway, follower, signing_issuer.token("standby"))
            follower.passwords = primary.passwords
            yield gateway, primary, follower
        finally:
            follower.remove()


def follow(gateway: Hosted, follower: PostgresPeer, token: str) -> None:
    """Make `follower` a standby of the gateway's target and start it."""
    shutil.rmtree(follower.data)
    done = run(
        embedded_postgres() / "pg_basebackup",
        # The standby will say "replication" for a database, so the user names the target.
        *("-d", gateway.dsn("replication", token, user="orders")),
        *("-D", follower.data, "-R", "-c", "fast"),
        token=token,
    )
    assert done.returncode == 0, done.stderr
    with (follower.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write(f"unix_socket_directories = '{follower.directory}'\n")
    for folder, _, names in os.walk(follower.data):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            follower.give(path)
    follower.start()


def test_a_standby_follows_its_primary_through_the_gateway(
    standby: tuple[Hosted, PostgresPeer, PostgresPeer],
) -> None:
    gateway, primary, follower = standby
    assert follower.execute("SELECT pg_is_in_recovery()") == [(True,)]

    primary.execute("CREATE TABLE fed (n int)", "INSERT INTO fed VALUES (42)")

    def is_fed() -> bool:
        tables = follower.execute("SELECT count(*) FROM pg_class WHERE relname = 'fed'")
        return tables == [(1,)] and follower.execute("SELECT n FROM fed") == [(42,)]

    until(is_fed, "the standby has what its primary has")
    follower.stop()
    gateway.close()
    recorded = read(gateway.archive)
    streams = [row for row in recorded.commands if row["operation"] == "START_REPLICATION"]
    assert len(streams) >= 2  # of the base backup, and of the standby
    assert {row["class"] for row in streams} == {"unknown"}


def test_a_subscriber_of_another_version_is_fed_through_the_gateway(
    tmp_path: Path,
    source: PostgresPeer,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
) -> None:
    with hosted(tmp_path, passing(source), issuer=signing_issuer) as gateway:
        conninfo = gateway.dsn("orders", signing_issuer.token("subscriber")).replace("'", "''")
        database = f"subscriber_{source.port}"
        postgres18.execute(f"CREATE DATABASE {database}")
        postgres18.execute(
            "CREATE TABLE stock (id int PRIMARY KEY, name text)",
            f"CREATE SUBSCRIPTION mirror CONNECTION '{conninfo}' PUBLICATION everything",
            database=database,
        )
        try:

            def has(count: int) -> bool:
                query = "SELECT count(*) FROM stock"
                return postgres18.execute(query, database=database) == [(count,)]

            until(lambda: has(100), "the table is copied")
            source.execute("INSERT INTO stock VALUES (500, 'new')", database="orders")
            until(lambda: has(101), "the change arrives")
            source.execute("DELETE FROM stock WHERE id = 500", database="orders")
            until(lambda: has(100), "the deletion arrives")
        finally:
            postgres18.execute("DROP SUBSCRIPTION mirror", database=database)
    recorded = read(gateway.archive)
    assert any((row["text"] or "").startswith("COPY") for row in recorded.commands)
    assert {row["class"] for row in recorded.commands} == {"unknown"}


def test_target_session_attrs_find_the_primary_and_the_standby(
    tmp_path: Path,
    standby: tuple[Hosted, PostgresPeer, PostgresPeer],
    signing_issuer: SigningIssuer,
) -> None:
    """Each server has a gateway of its own, and one more host of the list is dead."""
    primary_side, primary, follower = standby
    token = signing_issuer.token("ana")
    folder = tmp_path / "standby-side"
    folder.mkdir()
    with (
        hosted(folder, follower.target(), issuer=signing_issuer) as standby_side,
        socket.socket() as dead,
    ):
        dead.bind(("127.0.0.1", 0))
        ports = [dead.getsockname()[1], standby_side.port, primary_side.port]
        servers = {primary.port: "primary", follower.port: "standby"}

        def with_psql(binaries: Path, wanted: str, order: list[int]) -> str:
            hosts = ",".join(["127.0.0.1"] * len(order))
            done = run(
                binaries / "psql",
                *("-X", "-w", "-Atc", "SELECT inet_server_port()"),
                f"host={hosts} port={','.join(map(str, order))} user=agent dbname=orders"
                f" target_session_attrs={wanted}",
                token=token,
            )
            assert done.returncode == 0, done.stderr
            return servers[int(done.stdout)]

        async def with_asyncpg(wanted: str, order: list[int]) -> str:
            connection = await asyncpg.connect(
                host=["127.0.0.1"] * len(order),
                port=order,
                database="orders",
                user="agent",
                password=token,
                target_session_attrs=wanted,
            )
            port: int = await connection.fetchval("SELECT inet_server_port()")
            await connection.close()
            return servers[port]

        for wanted, found in (
            ("read-write", "primary"),
            ("primary", "primary"),
            ("read-only", "standby"),
            ("standby", "standby"),
            ("prefer-standby", "standby"),
        ):
            for order in (ports, ports[::-1]):
                for binaries in BINARIES.values():
                    assert with_psql(binaries, wanted, order) == found
                assert asyncio.run(with_asyncpg(wanted, order)) == found
