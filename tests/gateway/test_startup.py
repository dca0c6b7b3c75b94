"""What a client may say before its first query, held against what the server itself says to it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.processes import until, without_libpq_variables
from agentaudit.gateway.postgres import Deadlines
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error, startup
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer

# --- parameters


@pytest.fixture
def trusting(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[Hosted]:
    """A gateway whose server asks for no proof, so that a test can say the same to both."""
    target = postgres18.target(user="trusted", require_auth=["none"])
    with hosted(tmp_path, target, issuer=signing_issuer) as gateway:
        yield gateway


def answer(client: Raw) -> list[tuple[bytes, bytes]]:
    """Return what a server says after the proof, up to ReadyForQuery or an error."""
    heard = [client.hear_one()]
    while heard[-1][0] not in b"ZE":
        heard.append(client.hear_one())
    return [message for message in heard if message[0] != b"K"]


PARAMETERS: dict[str, dict[str, str]] = {
    "options": {"options": "-c work_mem=7MB --search-path=pg_catalog -c DateStyle=German"},
    "escaped options": {"options": r"-c search_path=a\ b,public -cwork_mem=1MB"},
    "settings": {"search_path": "pg_catalog", "DateStyle": "German", "TimeZone": "Asia/Tokyo"},
    "a setting of the client's own": {"my.own": "1"},
    "an application": {"application_name": "grün"},
    "client_encoding": {"client_encoding": "LATIN1"},
    "an unknown setting": {"no_such_setting": "1"},
    "an unknown setting in options": {"options": "-c no_such_setting=1"},
    "a wrong value": {"options": "-c work_mem=much"},
    "a setting that cannot change": {"options": "-c shared_buffers=1GB"},
    "no option": {"options": "garbage"},
    "an unknown switch": {"options": "--"},
    "an unknown encoding": {"client_encoding": "KLINGON"},
    "an empty name of a setting": {"options": "-c =1"},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_answer_to_a_start_up_parameter_is_the_servers_own(
    trusting: Hosted, postgres18: PostgresPeer, signing_issuer: SigningIssuer, name: str
) -> None:
    parameters = PARAMETERS[name]
    with Raw(postgres18) as direct:
        own = wire.startup_message({"user": "trusted", "database": "orders"} | parameters)
        direct.say(own)
        expected = answer(direct)
    with Raw(trusting) as client:
        client.say(startup(**parameters)).hear_one()
        client.say(wire.password_message(signing_issuer.token()))
        seen = answer(client)

    if expected[-1][0] == b"E":
        # Whoever is not let in hears why from the gateway, and nothing that came before.
        assert seen == expected[-1:]
    else:
        assert seen == expected


def test_a_token_in_the_application_name_does_not_reach_the_target(
    trusting: Hosted, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    token, other = signing_issuer.token("ana"), signing_issuer.token("ben")
    for name, seen in ((token, "(the token)"), (f"job {other} 7", "job (a token) 7")):
        dsn = trusting.dsn("orders", token, application_name=name)
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SHOW application_name").fetchone() == (seen,)
    for part in (token, other, other.partition(".")[0]):
        assert part not in postgres18.log_text()


@pytest.mark.parametrize("name", ["options", "my.own", "search_path"])
def test_the_token_in_another_parameter_is_refused_and_goes_nowhere(
    trusting: Hosted, postgres18: PostgresPeer, signing_issuer: SigningIssuer, name: str
) -> None:
    token = signing_issuer.token("ana")

    error = login_error(trusting, token, **{name: f"-c my.own={token}"})
    named = login_error(trusting, token, **{token: "x"})

    assert error["C"] == named["C"] == "22023"
    assert f'"{name}" holds the token' in error["M"]
    assert '"(the token)" holds the token' in named["M"]
    trusting.close()
    sessions = [row for row in read(trusting.archive).sessions if row["user"] == "ana"]
    assert [row["close_reason"] for row in sessions] == ["refused", "refused"]
    assert token not in str(sessions)
    assert token not in postgres18.log_text()


# --- encryption


@pytest.fixture
def encrypting(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, authority: Authority
) -> Iterator[Hosted]:
    certificate = authority.server()
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        deadlines=Deadlines(client_s=3.0),
        tls_cert_file=str(certificate.certificate_file),
        tls_key_file=str(certificate.key_file),
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("binaries", [DEBIAN_BINARIES, embedded_postgres()], ids=["15", "18"])
def test_psql_takes_no_for_an_answer_where_it_only_prefers_tls(
    trusting: Hosted, signing_issuer: SigningIssuer, binaries: Path
) -> None:
    for mode, is_asked in (("prefer", True), ("require", False)):
        done = subprocess.run(
            [binaries / "psql", "-X", "-Atc", "SELECT 42", trusting.dsn("orders", "x")],
            env=without_libpq_variables() | {"PGSSLMODE": mode, "PGPASSWORD": "unused"},
            capture_output=True,
            check=False,
            timeout=60,
        )
        # The password is wrong on purpose: with `prefer` it is asked for, with `require` never.
        assert done.returncode == 2, done.stderr
        assert (b"is not a token" in done.stderr) == is_asked, done.stderr


def test_encryption_may_be_asked_for_in_each_order_once(
    encrypting: Hosted, signing_issuer: SigningIssuer, authority: Authority
) -> None:
    gssenc = struct.pack("!II", 8, wire.GSSENC_REQUEST_CODE)
    context = ssl.create_default_context(cafile=str(authority.file))
    with Raw(encrypting) as client:
        assert client.say(gssenc).socket.recv(1) == b"N"
        assert client.say(wire.ssl_request()).socket.recv(1) == b"S"
        with context.wrap_socket(client.socket, server_hostname="localhost") as encrypted:
            encrypted.sendall(wire.ssl_request())
            # The second one comes in TLS, where words can be understood.
            assert error_fields(encrypted.recv(65536))["C"] == "08P01"
    with Raw(encrypting) as client:
        assert client.say(gssenc).socket.recv(1) == b"N"
        assert client.say(gssenc).hear_until_closed() == b""
    with Raw(encrypting) as client:
        # Direct TLS is for a connection of its own, as at a server.
        assert client.say(gssenc).socket.recv(1) == b"N"
        assert client.say(b"\x16\3\1\2\0\1").hear_until_closed() == b""
    dsn = encrypting.dsn("orders", signing_issuer.token(), sslmode="require")
    with psycopg.connect(dsn, sslnegotiation="direct") as connection:
        assert connection.pgconn.ssl_in_use


# --- a server that asks for no proof


def test_a_server_that_asks_for_nothing_is_believed_only_where_that_is_allowed(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    trusted = {"user": "trusted"}
    with hosted(
        tmp_path,
        postgres18.target("open", require_auth=["none"], **trusted),
        postgres18.target("both", require_auth=["scram-sha-256", "none"], **trusted),
        postgres18.target("closed", **trusted),
        issuer=signing_issuer,
    ) as gateway:
        token = signing_issuer.token()
        for target in ("open", "both"):
            with psycopg.connect(gateway.dsn(target, token)) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("trusted",)
        with pytest.raises(psycopg.OperationalError, match="require_auth allows scram-sha-256"):
            psycopg.connect(gateway.dsn("closed", token))


def test_a_client_certificate_is_shown_to_the_server_that_wants_one(
    tmp_path: Path,
    postgres15: PostgresPeer,
    authority: Authority,
    foreign_authority: Authority,
    signing_issuer: SigningIssuer,
) -> None:
    def target(name: str, **files: Path) -> dict[str, Any]:
        return postgres15.target(
            name,
            user="cert",
            tls="verify-full",
            tls_ca_file=str(authority.file),
            require_auth=["none"],
            **{key: str(path) for key, path in files.items()},
        )

    def pair(issuer: Authority, name: str) -> dict[str, Path]:
        made = issuer.client(name)
        return {"tls_cert_file": made.certificate_file, "tls_key_file": made.key_file}

    with hosted(
        tmp_path,
        target("shown", **pair(authority, "cert")),
        target("none"),
        target("another-name", **pair(authority, "somebody")),
        target("another-authority", **pair(foreign_authority, "cert")),
        issuer=signing_issuer,
    ) as gateway:
        token = signing_issuer.token()
        with psycopg.connect(gateway.dsn("shown", token)) as connection:
            row = connection.execute(
                "SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ).fetchone()
            assert row == ("cert", "/CN=cert")
        for name in ("none", "another-name", "another-authority"):
            error = login_error(gateway, token, database=name)
            assert error["C"] in ("08004", "08006"), (name, error)
            assert '"cert"' not in error["M"]


# --- hosts and restarts


def dead_port() -> Iterator[int]:
    """Yield a port that refuses: bound, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


dead = pytest.fixture(dead_port)


def test_a_list_of_hosts_may_hold_a_dead_gateway(
    trusting: Hosted, signing_issuer: SigningIssuer, dead: int
) -> None:
    token = signing_issuer.token()
    ports = f"{dead},{trusting.port}"
    for binaries in (DEBIAN_BINARIES, embedded_postgres()):
        done = psql(binaries, f"host=127.0.0.1,127.0.0.1 port={ports} dbname=orders", token)
        assert done.stdout.strip() == b"42", done.stderr

    async def work() -> int:
        connection = await asyncpg.connect(
            host=["127.0.0.1", "127.0.0.1"],
            port=[dead, trusting.port],
            database="orders",
            user="agent",
            password=token,
            target_session_attrs="read-write",
        )
        value: int = await connection.fetchval("SELECT 42")
        await connection.close()
        return value

    assert asyncio.run(work()) == 42


@pytest.mark.parametrize("binaries", [DEBIAN_BINARIES, embedded_postgres()], ids=["15", "18"])
def test_a_list_of_hosts_goes_on_behind_a_gateway_whose_server_is_dead(
    tmp_path: Path,
    trusting: Hosted,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    dead: int,
    binaries: Path,
) -> None:
    """libpq goes on to the next host for one SQLSTATE alone: cannot connect now."""
    folder = tmp_path / "other"
    folder.mkdir()
    target = postgres18.target(address=f"127.0.0.1:{dead}")
    with hosted(folder, target, issuer=signing_issuer) as other:
        ports = f"{other.port},{trusting.port}"
        dsn = f"host=127.0.0.1,127.0.0.1 port={ports} dbname=orders"

        done = psql(binaries, dsn, signing_issuer.token())

    assert done.stdout.strip() == b"42", done.stderr


def psql(binaries: Path, dsn: str, token: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [binaries / "psql", "-X", "-w", "-Atc", "SELECT 42", f"{dsn} user=agent"],
        env=without_libpq_variables() | {"PGPASSWORD": token},
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_a_restart_of_the_server_ends_its_sessions_and_new_ones_work(
    tmp_path: Path, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    server = own_postgres18
    with hosted(tmp_path, server.target(), issuer=signing_issuer) as gateway:
        token = signing_issuer.token("ana")
        idle = psycopg.connect(gateway.dsn("orders", token), autocommit=True)
        busy = psycopg.connect(gateway.dsn("orders", token), autocommit=True)
        busy.pgconn.send_query(b"SELECT pg_sleep(60)")
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        until(lambda: server.execute(query) == [(1,)], "the statement is under way")

        server.stop()
        while busy.pgconn.is_busy():
            busy.pgconn.consume_input()
        result = busy.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57P01"
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("SELECT 1")
        assert idle.closed
        busy.close()
        server.start()

        with psycopg.connect(gateway.dsn("orders", token)) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)
        gateway.close()
    recorded = read(gateway.archive)
    reasons = sorted(row["close_reason"] for row in recorded.sessions if row["user"] == "ana")
    assert reasons == ["client", "target", "target"]


def test_a_server_that_is_about_to_stop_says_so_in_its_own_code(
    tmp_path: Path, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    server = own_postgres18
    with hosted(tmp_path, server.target(), issuer=signing_issuer) as gateway:
        token = signing_issuer.token("ana")
        with psycopg.connect(gateway.dsn("orders", token), autocommit=True) as connection:
            os.kill(server.pid, signal.SIGTERM)  # waits for the session, and takes no new one

            def is_refusing() -> bool:
                return login_error_or_none(gateway, token) == "57P03"

            until(is_refusing, "the server takes nobody any more")
            assert connection.execute("SELECT 1").fetchone() == (1,)


def login_error_or_none(gateway: Hosted, token: str) -> str | None:
    with Raw(gateway) as client:
        client.say(startup()).hear_one()
        kind, _ = client.say(wire.password_message(token)).hear_one()
        if kind != b"E":
            client.say(wire.terminate()).hear_until_closed()
            return None
    return login_error(gateway, token)["C"]


# --- hostile start-ups


def hostile_packets() -> list[bytes]:
    """Return packets that are wrong in each way that a length, a code and a body can be."""
    tokens = random.Random(4)
    lengths = [0, 1, 4, 7, 8, 9, 15, 16, 268, 269, 9_999, 10_000, 10_001, 65_536, 0x7FFFFFFF]
    lengths += [0x80000000, 0xFFFFFFFF]
    codes = [wire.CANCEL_REQUEST_CODE, wire.SSL_REQUEST_CODE, wire.GSSENC_REQUEST_CODE]
    codes += [0, 1, 2 << 16, 3 << 16, 3 << 16 | 2, 3 << 16 | 0xFFFF, 4 << 16, 0xFFFFFFFF]
    packets = []
    for length in lengths:
        for code in codes:
            body = tokens.randbytes(min(max(length - 8, 0), 10_100))
            packets.append(struct.pack("!II", length, code) + body)
            packets.append(struct.pack("!II", length, code) + bytes(min(max(length - 8, 0), 64)))
    cancel = struct.pack("!II", 16, wire.CANCEL_REQUEST_CODE)
    packets += [
        wire.ssl_request() * 2,
        wire.ssl_request() + struct.pack("!II", 8, wire.GSSENC_REQUEST_CODE),
        cancel,
        cancel + tokens.randbytes(300),
        wire.cancel_request(0xFFFFFFFF, bytes(256)) + tokens.randbytes(1_000),
        startup() + wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x"),
        startup() + wire.password_message(tokens.randbytes(3_000).replace(b"\0", b"")),
        startup() + b"p" + struct.pack("!I", 0x7FFFFFFF),
        startup() + startup(),
        startup(**{"x" * 4_000: "y" * 4_000}) + tokens.randbytes(70_000),
        startup(replication="\x01", **{"agentaudit.login": "\x02"}),
        startup(**{f"_pq_.{n}": "" for n in range(700)}) + wire.terminate(),
    ]
    packets += [tokens.randbytes(tokens.randrange(1, 400)) for _ in range(100)]
    return packets


@pytest.mark.parametrize("encrypted", [False, True], ids=["in clear", "with TLS"])
def test_hostile_start_ups_end_by_the_deadline_and_hurt_nobody(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    authority: Authority,
    encrypted: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    certificate = authority.server()
    tls = {
        "tls_cert_file": str(certificate.certificate_file),
        "tls_key_file": str(certificate.key_file),
    }
    packets = hostile_packets()
    with (
        hosted(
            tmp_path,
            postgres18.target(),
            issuer=signing_issuer,
            deadlines=Deadlines(client_s=3.0),
            limits={"preauth_connections": len(packets)},
            **(tls if encrypted else {}),
        ) as gateway,
        psycopg.connect(gateway.dsn("orders", signing_issuer.token("ana"))) as honest,
    ):
        clients = [Raw(gateway) for _ in packets]
        for number, (client, packet) in enumerate(zip(clients, packets, strict=True)):
            try:
                client.say(packet)
                if number % 3 == 0:
                    client.socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was turned away before it had said all
        assert honest.execute("SELECT 1").fetchone() == (1,)
        for client in clients:
            with client:
                heard = client.hear_until_closed()
            assert heard[:1] in (b"", b"E", b"R", b"N", b"S", b"v", b"\x15"), heard[:40]
        assert honest.execute("SELECT 1").fetchone() == (1,)
        honest.close()
        gateway.close()
    said = "".join(capfd.readouterr())
    assert "unexpectedly" not in said
    assert "Traceback" not in said
    recorded = read(gateway.archive)
    sessions = [row for row in recorded.sessions if row["protocol"] == "postgres"]
    # One of them has a password that is no token, which is recorded, and the others are counted.
    assert {(row["user"], row["close_reason"]) for row in sessions} == {
        ("ana", "client"),
        ("", "refused"),
    }
