"""Open sessions: back-pressure, cancelling, quotas, draining, and files that change."""

from __future__ import annotations

import secrets
import signal
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, startup
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import PumpFactory


def logged_in(gateway: Any, token: str) -> Raw:
    client = Raw(gateway)
    client.say(startup()).hear_one()
    client.say(wire.password_message(token))
    while client.hear_one()[0] != b"Z":
        pass
    return client


def query(text: str) -> bytes:
    return wire.frame(b"Q", text.encode() + b"\0")


def resident(gateway: Gateway) -> int:
    size: int = psutil.Process(gateway.pid).memory_info().rss
    return size


# --- flow


def test_a_client_that_does_not_read_stops_the_server_and_not_the_gateway(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, durability="relaxed")
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as other:
        with logged_in(gw, signing_issuer.token()) as slow:
            before = resident(gw)
            slow.say(query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)"))

            def is_blocked() -> bool:
                with postgres18.connect() as direct:
                    row = direct.execute(
                        "SELECT wait_event FROM pg_stat_activity WHERE query LIKE 'SELECT repeat%'"
                    ).fetchone()
                return row == ("ClientWrite",)

            until(is_blocked, "the server waits for its client")
            assert other.execute("SELECT 1").fetchone() == (1,)
            # 200 MB want to come; only what buffers hold has, beside what Python keeps of it.
            assert resident(gw) - before < 40_000_000

            received = 0
            while received < 200_000_000:
                received += len(slow.socket.recv(1 << 20))
            assert other.execute("SELECT 1").fetchone() == (1,)
        assert resident(gw) - before < 60_000_000


def test_both_sides_may_be_full_without_a_deadlock(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    """Much is asked before anything is read, while the answers are as large as the questions."""
    gw = gateway(postgres18.target(), issuer=signing_issuer, durability="relaxed")
    with logged_in(gw, signing_issuer.token()) as client:
        count, size = 40, 200_000
        text = "SELECT '" + "q" * size + "'"
        heard = bytearray()

        def read_all() -> None:
            while heard.count(b"SELECT 1\0Z\0\0\0\5") < count:
                heard.extend(client.socket.recv(1 << 20))

        reader = threading.Thread(target=read_all, daemon=True)
        client.say(query(text) * (count // 2))
        reader.start()
        client.say(query(text) * (count // 2))
        reader.join(60)

        assert not reader.is_alive()
        assert len(heard) > count * size


def test_copy_in_with_a_notice_for_each_row_does_not_deadlock(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, durability="relaxed")
    with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as connection:
        connection.execute(
            """
            CREATE TEMPORARY TABLE noisy (body text);
            CREATE FUNCTION pg_temp.shout() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE NOTICE 'row %', repeat('n', 500); RETURN NEW; END $$;
            CREATE TRIGGER shout BEFORE INSERT ON noisy
                FOR EACH ROW EXECUTE FUNCTION pg_temp.shout()
            """
        )
        with connection.cursor() as cursor, cursor.copy("COPY noisy FROM STDIN") as copy:
            for _ in range(20_000):
                copy.write_row(("b" * 200,))
        assert connection.execute("SELECT count(*) FROM noisy").fetchone() == (20_000,)


def test_a_client_that_sends_its_last_and_still_reads_gets_its_answers(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    with logged_in(gw, signing_issuer.token("ana")) as client:
        client.say(query("SELECT pg_sleep(0.1), 'late'"))
        client.socket.shutdown(socket.SHUT_WR)

        assert b"late" in client.hear_until_closed()

    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] == "client_gone"
    assert [row["status"] for row in recorded.commands_of(session)] == ["ok"]


def test_bytes_cut_anywhere_make_the_same_commands(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, durability="relaxed")
    script = query("SELECT 1") + query("SELECT 'two'; SELECT 3") + wire.terminate()
    for chunk in (1, 7, len(script)):
        with logged_in(gw, signing_issuer.token(f"by-{chunk}")) as client:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(script), chunk):
                client.say(script[at : at + chunk])
            client.hear_until_closed()
    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    for chunk in (1, 7, len(script)):
        session = recorded.session(user=f"by-{chunk}")
        commands = recorded.commands_of(session)
        assert [row["text"].strip() for row in commands] == ["SELECT 1", "SELECT 'two'", "SELECT 3"]
        assert {row["status"] for row in commands} == {"ok"}
        assert recorded.wire(session, "client") == script


def test_what_the_protocol_refuses_is_answered_and_the_session_goes_on(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    function_call = wire.frame(b"F", struct.pack("!Ihhh", 1, 0, 0, 0))
    with logged_in(gw, signing_issuer.token("ana")) as client:
        client.say(function_call + query("SELECT 'next'") + wire.terminate())

        heard = client.hear_until_closed()

    assert heard.index(b"0A000") < heard.index(b"next")
    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    session = recorded.session(user="ana")
    call, select = recorded.commands_of(session)
    assert (call["status"], call["decision"], call["rule"]) == ("denied", "deny", "protocol")
    assert select["status"] == "ok"
    assert session["close_reason"] == "client"


# --- cancelling


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_cancel_request_stops_the_one_statement_that_it_is_for(
    tls: bool,
    gateway: GatewayFactory,
    postgres15: PostgresPeer,
    authority: Authority,
    signing_issuer: SigningIssuer,
) -> None:
    keys = {"tls": "verify-full", "tls_ca_file": str(authority.file)} if tls else {}
    gw = gateway(postgres15.target(**keys), issuer=signing_issuer, tls=tls)
    marker = secrets.token_hex(4)
    mode = "require" if tls else "disable"
    ana, ben = (
        psycopg.connect(gw.dsn("orders", signing_issuer.token(user), sslmode=mode), autocommit=True)
        for user in ("ana", "ben")
    )
    outcomes: dict[str, str | None] = {}

    def sleep(user: str, connection: psycopg.Connection[Any]) -> None:
        try:
            connection.execute(f"SELECT pg_sleep(60), '{marker} {user}'")
        except psycopg.Error as error:
            outcomes[user] = error.sqlstate

    def running() -> int:
        with postgres15.connect() as direct:
            row = direct.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE %s",
                (f"%{marker}%",),
            ).fetchone()
        assert row is not None
        return int(row[0])

    threads = [
        threading.Thread(target=sleep, args=pair, daemon=True)
        for pair in (("ana", ana), ("ben", ben))
    ]
    for thread in threads:
        thread.start()
    until(lambda: running() == 2, "both statements run")

    ana.cancel_safe(timeout=30)

    threads[0].join()
    assert outcomes == {"ana": "57014"}
    assert running() == 1
    ben.cancel_safe(timeout=30)
    threads[1].join()
    ana.close()
    ben.close()
    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    session = recorded.session(user="ana")
    assert recorded.commands_of(session)[0]["status"] == "cancelled"
    assert [e for e in recorded.of(session) if (e["text"] or "").startswith("cancel request")]


def test_the_servers_own_cancel_secret_never_reaches_the_client(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    pump: PumpFactory,
) -> None:
    back = pump(postgres18.host, postgres18.port)
    gw = gateway(postgres18.target(address=f"{back.host}:{back.port}"), issuer=signing_issuer)
    with Raw(gw) as client:
        client.say(startup()).hear_one()
        client.say(wire.password_message(signing_issuer.token()))
        keys = {}
        while (message := client.hear_one())[0] != b"Z":
            keys[message[0]] = message[1]
        ours = wire.decode_backend_key_data(keys[b"K"])
        reader = wire.MessageReader()
        theirs = next(
            wire.decode_backend_key_data(body)
            for kind, body in reader.feed(bytes(back.wires[0].down))
            if kind == b"K"
        )

        assert ours[0] == theirs[0]
        assert ours[1] != theirs[1]
        with Raw(gw) as stranger:
            # The server's own key is not ours to answer: nothing is passed on.
            assert stranger.say(wire.cancel_request(*theirs)).hear_until_closed() == b""
        assert len(back.wires) == 1


# --- quotas


def test_a_session_that_moved_too_many_bytes_is_ended_and_says_so(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        limits={"session_bytes": 100_000},
    ) as gateway:
        with logged_in(gateway, signing_issuer.token("ana")) as client:
            client.say(query("SELECT repeat('x', 1000)") * 200)
            heard = client.hear_until_closed()
        gateway.close()
    error = error_fields(heard)
    assert error["C"] == "53400"
    recorded = read(gateway.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] == "session_bytes"
    assert str(session["session_id"]) in error["D"]
    assert recorded.wire(session, "target") == heard


def test_a_session_ends_after_its_longest_time_and_says_so(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        limits={"max_session": "300ms"},
    ) as gateway:
        connection = psycopg.connect(gateway.dsn("orders", signing_issuer.token("ana")))

        with pytest.raises(psycopg.errors.AdminShutdown, match="lasted as long as it may"):
            connection.execute("SELECT pg_sleep(60)")
        gateway.close()
    recorded = read(gateway.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] == "max_session"
    assert recorded.commands_of(session)[-1]["status"] == "incomplete"
    farewell = recorded.of(session)[-3:]
    assert any(e["flags"] & 2 and b"57P01" in (e["payload"] or b"") for e in farewell)


# --- draining


def test_sigterm_ends_idle_sessions_at_once_and_lets_transactions_finish(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    token = signing_issuer.token
    idle = logged_in(gw, token("idle"))
    busy = psycopg.connect(gw.dsn("orders", token("busy")))
    busy.execute("CREATE TEMPORARY TABLE t (a int)")

    gw.send(signal.SIGTERM)

    error = error_fields(idle.hear_until_closed())
    assert (error["C"], "shutting down" in error["M"]) == ("57P01", True)
    idle.socket.close()
    busy.execute("INSERT INTO t VALUES (1)")
    busy.commit()
    with pytest.raises(psycopg.OperationalError):
        busy.execute("SELECT 1")
    assert gw.wait() == 0
    recorded = read(gw.archive)
    assert recorded.session(user="idle")["close_reason"] == "shutdown"
    session = recorded.session(user="busy")
    assert session["close_reason"] == "shutdown"
    assert [row["operation"] for row in recorded.commands_of(session)][-1] == "COMMIT"
    assert {row["status"] for row in recorded.commands_of(session)} == {"ok"}


def test_the_drain_does_not_wait_longer_than_it_may(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, drain_timeout="200ms")
    busy = psycopg.connect(gw.dsn("orders", signing_issuer.token("busy")))
    busy.execute("SELECT 1")
    nobody = Raw(gw)

    gw.send(signal.SIGTERM)

    assert gw.wait() == 0
    assert nobody.hear_until_closed() == b""
    with pytest.raises(psycopg.errors.AdminShutdown):
        busy.execute("SELECT 1")
    assert read(gw.archive).session(user="busy")["close_reason"] == "shutdown"


# --- files that change


def served_certificate(gateway: Gateway, authority: Authority) -> bytes:
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["postgresql"])
    with (
        socket.create_connection((gateway.host, gateway.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        found = encrypted.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_sighup_takes_new_certificates_secrets_and_groups_and_keeps_sessions(
    gateway: GatewayFactory,
    own_postgres18: PostgresPeer,
    authority: Authority,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
) -> None:
    own = authority.server()
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(own.certificate)
    key.write_bytes(own.key)
    gw = gateway(
        own_postgres18.target(),
        issuer=signing_issuer,
        tls_cert_file=str(certificate),
        tls_key_file=str(key),
    )
    token = signing_issuer.token("ana")
    dsn = gw.dsn("orders", token, sslmode="require")
    standing = psycopg.connect(dsn, autocommit=True)
    first = served_certificate(gw, authority)

    other = authority.server()
    certificate.write_bytes(other.certificate)
    key.write_bytes(other.key)
    own_postgres18.execute("ALTER ROLE scram PASSWORD 'rotated'")
    (gw.directory / "orders.password").write_text("rotated")
    gw.send(signal.SIGHUP)
    until(lambda: events(gw, "reloaded") == 1, "the gateway reloads")

    assert served_certificate(gw, authority) != first
    with psycopg.connect(dsn) as renewed:
        assert renewed.execute("SELECT 1").fetchone() == (1,)

    gw.config.write_text(gw.config.read_text().replace("data-agents", "others"))
    gw.send(signal.SIGHUP)
    until(lambda: events(gw, "reloaded") == 2, "the gateway reloads again")
    with pytest.raises(psycopg.OperationalError, match="you are in no group"):
        psycopg.connect(dsn)
    assert standing.execute("SELECT 1").fetchone() == (1,)
    standing.close()
    gw.wait_until_idle()
    gw.terminate()
    digests = {row["policy_digest"] for row in read(gw.archive).sessions if row["user"] == "ana"}
    assert len(digests) == 2
    assert {path.stem for path in (gw.archive / "policies").glob("*.json")} >= digests


def events(gateway: Gateway, name: str) -> int:
    return len([line for line in gateway.log_lines() if line["event"] == name])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda gw: gw.config.write_text("[gateway"),
        lambda gw: gw.config.write_text(gw.config.read_text() + "\n[rules]\nx = 1\n"),
        lambda gw: (gw.directory / "orders.password").unlink(),
    ],
    ids=["no TOML", "an unknown key", "a secret that is gone"],
)
def test_a_bad_file_keeps_the_old_settings_and_says_so(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    spoil: Any,
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    spoil(gw)

    gw.send(signal.SIGHUP)

    until(lambda: events(gw, "reload failed, the old settings stay") == 1, "the reload fails")
    with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_reload_names_the_keys_that_need_a_restart(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, durability="strict")
    gw.config.write_text(gw.config.read_text().replace('"strict"', '"relaxed"'))

    gw.send(signal.SIGHUP)

    until(lambda: events(gw, "reloaded") == 1, "the gateway reloads")
    named = [line["key"] for line in gw.log_lines() if "needs a restart" in line["event"]]
    assert named == ["gateway.durability"]


def test_a_changed_file_is_noticed_without_a_signal(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
) -> None:
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        secret = tmp_path / "orders.password"
        secret.write_text("wrong")
        gateway.call(lambda inside: inside.look())
        until(lambda: password_of(gateway) == "wrong", "the gateway reads the secret again")


def password_of(gateway: Hosted) -> str | None:
    password: str | None = gateway.call(
        lambda inside: inside.sessions.serving.targets["orders"].password
    )
    return password


def test_the_log_holds_no_content(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    marker = secrets.token_hex(8)
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as connection:
        connection.execute(f"SELECT '{marker}'")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute(f'SELECT "{marker}"')
    with logged_in(gw, signing_issuer.token()) as client:
        client.say(f"0{marker} is no message".encode()).hear_until_closed()
    gw.wait_until_idle()
    gw.terminate()

    assert marker not in gw.log_text()
    lines = gw.log_text().splitlines()
    assert len(gw.log_lines()) == len(lines), "every line is a JSON object"
