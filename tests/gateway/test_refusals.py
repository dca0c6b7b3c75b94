"""Bad input, one kind at a time: a clear answer, a record without the secret, nobody else hurt."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from agentaudit.demo.processes import until
from agentaudit.gateway.postgres import Deadlines
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error, startup
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SHORT_FOR_CLIENTS = Deadlines(client_s=1.5)
"""Long enough for an honest login on a busy machine."""


def refused(dsn: str) -> psycopg.OperationalError:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(dsn)
    return caught.value


# --- tokens

TOKENS: dict[str, tuple[Callable[[SigningIssuer], str], str]] = {
    "not a token": (lambda i: "hunter2", "is not a token"),
    "expired": (lambda i: i.token(claims={"exp": 1_000_000_000}), "has expired"),
    "another audience": (lambda i: i.token(claims={"aud": "other"}), "another audience"),
    "another issuer": (lambda i: i.token(claims={"iss": "https://x.example"}), "not configured"),
    "another key": (lambda i: i.token(headers={"kid": "x"}), "does not publish"),
    "no algorithm": (lambda i: ".".join(["eyJhbGciOiJub25lIn0", *body(i), "AA"]), "algorithm"),
}


def body(issuer: SigningIssuer) -> list[str]:
    return issuer.token().split(".")[1:2]


def test_a_token_that_proves_nothing_is_refused_and_recorded_without_it(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    tokens = {name: make(signing_issuer) for name, (make, _) in TOKENS.items()}
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        errors = {name: str(refused(gateway.dsn("orders", t))) for name, t in tokens.items()}
        gateway.close()

    recorded = read(gateway.archive)
    sessions = {str(row["session_id"]): row for row in recorded.sessions}
    (counts,) = [text for text in recorded.refusals() if "attempts" in text]
    assert f"127.0.0.1: {len(TOKENS)} attempts" in counts
    for name, (_, said) in TOKENS.items():
        assert said in errors[name]
        assert tokens[name] not in errors[name]
        assert tokens[name].encode() not in everything(gateway.archive)
        (session,) = [row for number, row in sessions.items() if number in errors[name]]
        assert (session["close_reason"], session["user"]) == ("refused", "")
        (text,) = [e["text"] for e in recorded.of(session) if e["kind"] == "refused"]
        assert said in text


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_refused_tokens_of_one_address_are_soon_only_counted(
    postgres18: PostgresPeer, gateway: GatewayFactory, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)

    for _ in range(15):
        refused(gw.dsn("orders", "hunter2"))

    gw.terminate()
    recorded = read(gw.archive)
    assert len([row for row in recorded.sessions if row["protocol"] == "postgres"]) == 10
    assert [t for t in recorded.refusals() if "15 attempts" in t and "token refused: 15" in t]


def test_an_issuer_out_of_reach_is_named_as_the_reason_and_nobody_else_is_hurt(
    postgres18: PostgresPeer, gateway: GatewayFactory, signing_issuer: SigningIssuer
) -> None:
    other = SigningIssuer()
    gw = gateway(postgres18.target(), issuer=[signing_issuer, other])
    with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as connection:
        token = other.token()
        other.close()

        error = refused(gw.dsn("orders", token))

        assert error.sqlstate is None or error.sqlstate == "57P03"
        assert "issuer cannot be asked" in str(error)
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("cut", [None, -20], ids=["whole", "cut"])
def test_a_token_that_is_not_the_password_is_not_recorded_either(
    short: Hosted, signing_issuer: SigningIssuer, cut: int | None
) -> None:
    other = signing_issuer.token("ben")[:cut]
    token = signing_issuer.token("ana")
    names = {"application_name": f"job {other} 7", "database": other, other: "x"}

    error = login_error(short, token, **names)

    short.close()
    assert error["C"] == "3D000"
    session = read(short.archive).session(user="ana")
    assert session["target"] == "(a token)"
    assert session["client_app"] == "job (a token) 7"
    assert dict(session["labels"])["(a token)"] == "x"
    header = other.partition(".")[0]
    assert header.encode() not in everything(short.archive)


# --- targets


def test_an_unknown_target_and_a_missing_group_are_told_apart(
    postgres18: PostgresPeer, gateway: GatewayFactory, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), postgres18.target("closed", groups=[]), issuer=signing_issuer)

    unknown = login_error(gw, signing_issuer.token("ana"), database="nowhere")
    stranger = login_error(gw, signing_issuer.token("eve", ["other"]))
    nobody = login_error(gw, signing_issuer.token("ana"), database="closed")
    default = login_error(gw, signing_issuer.token("ana"), user="nobody-s-target", database="")

    assert unknown["C"] == default["C"] == "3D000"
    assert stranger["C"] == nobody["C"] == "28000"
    assert "agentaudit: " in unknown["M"]
    gw.terminate()
    recorded = read(gw.archive)
    eve = recorded.session(user="eve")
    assert eve["close_reason"] == "refused"
    assert eve["groups"] == ["other"]
    assert str(eve["session_id"]) in stranger["D"]
    assert recorded.session(target="nowhere")["user"] == "ana"


def test_a_backend_that_is_down_is_told_as_connection_refused(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        gw = gateway(postgres18.target(address=address), issuer=signing_issuer)

        error = login_error(gw, signing_issuer.token("ana"))

    assert error["C"] == "57P03"
    assert "connection refused" in error["M"]
    gw.terminate()
    assert read(gw.archive).session(user="ana")["close_reason"] == "refused"


@pytest.mark.parametrize("user", ["scram", "md5", "cleartext"])
def test_a_backend_that_refuses_the_password_does_not_make_it_known(
    user: str, gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    wrong = secrets.token_urlsafe(18)
    gw = gateway(postgres18.target(user=user, password=wrong), issuer=signing_issuer)

    error = login_error(gw, signing_issuer.token("ana"))

    assert error["C"] == "08004"
    said = " ".join(error.values())
    assert wrong not in said
    assert f'"{user}"' not in said
    gw.terminate()
    assert wrong.encode() not in everything(gw.archive)
    assert wrong not in gw.log_text()
    assert read(gw.archive).session(user="ana")["close_reason"] == "refused"


def test_an_error_of_the_servers_own_after_it_let_us_in_is_passed_on(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)

    error = login_error(gw, signing_issuer.token("ana"), options="-c no.such_setting=1 -c x=2")

    assert error["C"] == "42704"
    assert 'unrecognized configuration parameter "x"' in error["M"]


def test_a_replication_start_up_is_refused(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    with Raw(gw) as client:
        client.say(startup(replication="database"))

        assert error_fields(client.hear_until_closed())["C"] == "0A000"


def test_an_actor_has_a_limited_number_of_sessions_and_gets_them_back(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, limits={"actor_connections": 2})
    token = signing_issuer.token("ana")
    with psycopg.connect(gw.dsn("orders", token)), psycopg.connect(gw.dsn("orders", token)):
        assert login_error(gw, token)["C"] == "53300"
        with psycopg.connect(gw.dsn("orders", signing_issuer.token("ben"))) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
    gw.wait_until_idle()

    with psycopg.connect(gw.dsn("orders", token)) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


# --- clients that break off, or speak something else

SSL_REQUEST = wire.ssl_request()

NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\0",
    "half a packet": startup()[:20],
    "a web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length of zero": b"\0\0\0\0",
    "a huge packet": b"\x7f\xff\xff\xff\0\3\0\0",
    "protocol 2": b"\0\0\0\x10\0\2\0\0" + b"user\0a\0\0",
    "a parameter that is not UTF-8": b"\0\0\0\x10\0\3\0\0user\0\xff\0\0",
    "no parameters' end": b"\0\0\0\x0d\0\3\0\0user\0",
    "direct TLS where there is none": b"\x16\3\1\2\0\1",
    "plaintext behind an SSLRequest": SSL_REQUEST + startup(),
    "SSLRequest twice": SSL_REQUEST * 2,
    "a cancel request for nobody": wire.cancel_request(1, b"abcd"),
    "a query instead of a password": startup() + b"Q\0\0\0\rselect 1\0",
    "a huge password": startup() + b"p\x7f\xff\xff\xff",
    "half a password": startup() + b"p\0\0\0\x20abc",
    "a password without its end": startup() + b"p\0\0\0\x07abc",
    "an empty password": startup() + wire.password_message(""),
    "Terminate instead of a password": startup() + wire.terminate(),
}
SILENT = ("nothing", "one byte", "half a packet", "half a password")


@pytest.fixture
def short(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[Hosted]:
    with hosted(
        tmp_path, postgres18.target(), issuer=signing_issuer, deadlines=SHORT_FOR_CLIENTS
    ) as gateway:
        yield gateway


def test_nonsense_ends_in_an_error_or_a_close_and_hurts_nobody(
    short: Hosted, signing_issuer: SigningIssuer
) -> None:
    with psycopg.connect(short.dsn("orders", signing_issuer.token())) as connection:
        clients = {name: Raw(short).say(data) for name, data in NONSENSE.items()}
        assert connection.execute("SELECT 1").fetchone() == (1,)
        for name, client in clients.items():
            with client:
                heard = client.hear_until_closed()
            if NONSENSE[name].startswith(startup()):
                assert heard.startswith(wire.authentication_cleartext()), name
        assert connection.execute("SELECT 1").fetchone() == (1,)
    short.close()
    recorded = read(short.archive)
    (counts,) = recorded.refusals()
    assert f"127.0.0.1: {len(NONSENSE)} attempts" in counts
    assert f"too slow: {len(SILENT)}" in counts
    assert "unknown cancel key: 1" in counts
    assert "no password: 1" in counts
    assert len([row for row in recorded.sessions if row["protocol"] == "postgres"]) == 1


def test_requests_for_encryption_that_there_is_not_are_answered_with_no(
    short: Hosted, signing_issuer: SigningIssuer
) -> None:
    gssenc = struct.pack("!II", 8, wire.GSSENC_REQUEST_CODE)
    with Raw(short) as client:
        for request in (gssenc, SSL_REQUEST):
            assert client.say(request).socket.recv(2) == b"N"
        client.say(startup()).hear_one()
        client.say(wire.password_message(signing_issuer.token("ana")))
        while client.hear_one()[0] != b"Z":
            pass
        client.say(wire.terminate()).hear_until_closed()
    short.close()
    recorded = read(short.archive)
    (login,) = [event for event in recorded.events if event["text"] == "login"]
    assert login["orig_len"] == recorded.session(user="ana")["bytes_out"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a parameter that is not UTF-8", "08P01"),
        ("no parameters' end", "08P01"),
        ("a huge packet", "08P01"),
        ("half a packet", "57014"),
        ("a query instead of a password", "08P01"),
        ("a huge password", "08P01"),
        ("a password without its end", "08P01"),
        ("an empty password", "28P01"),
        ("half a password", "57014"),
    ],
)
def test_who_has_begun_a_start_up_of_protocol_3_is_told_what_is_wrong(
    short: Hosted, name: str, code: str
) -> None:
    with Raw(short) as client:
        heard = client.say(NONSENSE[name]).hear_until_closed()

    assert error_fields(heard)["C"] == code


@pytest.mark.parametrize("name", ["one byte", "a web browser", "protocol 2"])
def test_who_speaks_something_else_hears_nothing(short: Hosted, name: str) -> None:
    with Raw(short) as client:
        assert client.say(NONSENSE[name]).hear_until_closed() == b""


def test_a_client_that_hangs_up_at_any_byte_of_its_login_hurts_nobody(
    short: Hosted, signing_issuer: SigningIssuer
) -> None:
    whole = startup() + wire.password_message(signing_issuer.token())
    for length in range(0, len(whole), 41):
        with Raw(short) as client:
            client.say(whole[:length])

    with psycopg.connect(short.dsn("orders", signing_issuer.token())) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_half_a_tls_handshake_ends_by_the_deadline(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    authority: Authority,
) -> None:
    certificate = authority.server()
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        deadlines=SHORT_FOR_CLIENTS,
        tls_cert_file=str(certificate.certificate_file),
        tls_key_file=str(certificate.key_file),
    ) as gateway:
        with Raw(gateway) as client:
            assert client.say(SSL_REQUEST).socket.recv(1) == b"S"
            assert client.say(b"\x16\3\1\2\0\1\0").hear_until_closed() == b""
        with Raw(gateway) as client:
            assert client.say(b"\x16\3\1\2\0\1\0").hear_until_closed() == b""
        with Raw(gateway) as client:
            # Plaintext that an attacker put between the request and the handshake.
            assert client.say(SSL_REQUEST + startup()).hear_until_closed() == b""
        context = ssl.create_default_context(cafile=authority.file)
        # A browser that was led here by DNS offers another protocol, or none.
        with (
            Raw(gateway) as client,
            context.wrap_socket(client.socket, server_hostname="localhost") as encrypted,
        ):
            encrypted.sendall(startup())
            assert error_fields(encrypted.recv(65536))["C"] == "08P01"
        with psycopg.connect(
            gateway.dsn("orders", signing_issuer.token(), sslmode="require")
        ) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_anonymous_connections_make_room_for_others(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        limits={"preauth_connections": 3},
    ) as gateway:
        idlers = [Raw(gateway) for _ in range(6)]
        try:
            for idler in idlers[:3]:
                assert idler.hear_until_closed() == b""
            with psycopg.connect(gateway.dsn("orders", signing_issuer.token())) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            for idler in idlers:
                idler.socket.close()
        gateway.close()
        assert [t for t in read(gateway.archive).refusals() if "made room for others" in t]


def test_without_a_valid_token_nothing_says_which_targets_exist(
    short: Hosted,
) -> None:
    known = login_error(short, "hunter2")
    unknown = login_error(short, "hunter2", database="nowhere")

    assert (known["C"], known["M"]) == (unknown["C"], unknown["M"])


# --- targets that misbehave


@contextmanager
def fake_target(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen, and let `answer` do what it likes to each connection; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(30)
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def says(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        silent(connection)

    return answer


def hangs_up(connection: socket.socket) -> None:
    connection.recv(65536)


SASL_OFFER = wire.authentication_sasl(["SCRAM-SHA-256"])


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (silent, "57P03", "no answer in time"),
        (hangs_up, "08006", "hung up during the login"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "08006", "login: message"),
        (says(b"R\x7f\xff\xff\xff"), "08006", "login: message"),
        (says(wire.authentication_ok()), "08004", "require_auth allows scram-sha-256"),
        (says(wire.authentication_cleartext()), "08004", "asks for password"),
        (says(wire.authentication_md5(b"salt")), "08004", "asks for md5"),
        (says(wire.frame(b"R", struct.pack("!i", 7))), "08004", "authentication method 7"),
        (says(wire.authentication_sasl(["SCRAM-SHA-1"])), "08004", "none of which will do"),
        (says(SASL_OFFER + wire.authentication_ok()), "08006", "authentication 0, expected 11"),
        (
            says(SASL_OFFER + wire.authentication_sasl_continue(b"r=x,s=AAAA,i=1")),
            "08004",
            "SCRAM exchange with the server failed",
        ),
        (says(wire.ready_for_query()), "08006", "login: message"),
        (
            says(wire.error_response(code="57P03", message="the database system is starting up")),
            "57P03",
            "SQLSTATE 57P03",
        ),
        (
            says(wire.error_response(code="28P01", message='failed for user "secret_user"')),
            "08004",
            "refuses the gateway's login",
        ),
    ],
)
def test_a_target_that_misbehaves_ends_the_login_with_the_reason(
    tmp_path: Path,
    signing_issuer: SigningIssuer,
    answer: Callable[[socket.socket], None],
    code: str,
    said: str,
) -> None:
    with fake_target(answer) as address:
        target = {
            "name": "orders",
            "address": address,
            "database": "orders",
            "user": "secret_user",
            "password": "s3cret-password",
            "tls": "disable",
            "groups": ["data-agents"],
        }
        deadlines = Deadlines(target_s=1.0) if answer is silent else None
        with hosted(tmp_path, target, issuer=signing_issuer, deadlines=deadlines) as gateway:
            error = login_error(gateway, signing_issuer.token("ana"))
            gateway.close()

    assert error["C"] == code
    assert said in error["M"]
    assert "secret" not in " ".join(error.values())
    assert read(gateway.archive).session(user="ana")["close_reason"] == "refused"


def test_a_server_that_proves_nothing_never_completes_a_scram_login(
    tmp_path: Path, signing_issuer: SigningIssuer
) -> None:
    """A server that was replaced can say yes to any proof; its own is what it cannot make."""

    def impostor(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(SASL_OFFER)
        first = connection.recv(65536)
        nonce = first.rpartition(b"r=")[2].decode()
        salt = "c2FsdHNhbHRzYWx0c2FsdA=="
        connection.sendall(
            wire.authentication_sasl_continue(f"r={nonce}more,s={salt},i=4096".encode())
        )
        connection.recv(65536)
        connection.sendall(
            wire.authentication_sasl_final(b"v=" + b"A" * 43 + b"=")
            + wire.authentication_ok()
            + wire.backend_key_data(1, b"abcd")
            + wire.ready_for_query()
        )
        silent(connection)

    with fake_target(impostor) as address:
        target = {
            "name": "orders",
            "address": address,
            "database": "orders",
            "user": "u",
            "password": "s3cret-password",
            "tls": "disable",
            "groups": ["data-agents"],
        }
        with hosted(tmp_path, target, issuer=signing_issuer) as gateway:
            error = login_error(gateway, signing_issuer.token("ana"))

    assert error["C"] == "08004"
    assert "SCRAM exchange" in error["M"]


# --- in the middle of a session


def test_a_fatal_of_the_server_reaches_the_client_with_the_close(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    connection = psycopg.connect(gw.dsn("orders", signing_issuer.token("ana")), autocommit=True)
    idle = psycopg.connect(gw.dsn("orders", signing_issuer.token("ben")), autocommit=True)
    for one in (connection, idle):
        postgres18.execute(f"SELECT pg_terminate_backend({one.info.backend_pid})")

    for one in (connection, idle):
        with pytest.raises(psycopg.errors.AdminShutdown):
            one.execute("SELECT 1")
        assert one.closed

    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    for user in ("ana", "ben"):
        session = recorded.session(user=user)
        assert session["close_reason"] == "target"
        assert any("57P01" in (e["text"] or "") for e in recorded.of(session))


def test_garbage_in_a_session_is_a_protocol_violation_and_ends_it_alone(
    short: Hosted, signing_issuer: SigningIssuer
) -> None:
    with psycopg.connect(short.dsn("orders", signing_issuer.token("ben"))) as other:
        with Raw(short) as client:
            client.say(startup()).hear_one()
            client.say(wire.password_message(signing_issuer.token("ana")))
            while client.hear_one()[0] != b"Z":
                pass
            client.say(b"Q\0\0\0\rselect 7\0" + b"\xffgarbage")

            heard = client.hear_until_closed()

        assert error_fields(heard)["C"] == "08P01"
        assert other.execute("SELECT 1").fetchone() == (1,)
    short.close()
    recorded = read(short.archive)
    session = recorded.session(user="ana")
    assert session["close_reason"] == "protocol_error"
    assert recorded.commands_of(session)[0]["text"] == "select 7"
    assert recorded.wire(session, "target").endswith(heard[-40:])


def test_a_client_that_vanishes_is_closed_as_gone_and_its_backend_ends(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer)
    connection = psycopg.connect(gw.dsn("orders", signing_issuer.token("ana")))
    pid = connection.info.backend_pid
    with socket.socket(fileno=os.dup(connection.fileno())) as behind_its_back:
        behind_its_back.shutdown(socket.SHUT_RDWR)

    gw.wait_until_idle()

    def is_gone() -> bool:
        with postgres18.connect() as direct:
            query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            return direct.execute(query, (pid,)).fetchone() == (0,)

    until(is_gone, "the backend ends")
    gw.terminate()
    assert read(gw.archive).session(user="ana")["close_reason"] == "client_gone"
