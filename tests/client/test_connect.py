"""`connect`: real clients, through a listener and a real gateway, to a real database."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from agentaudit.cli import main
from agentaudit.client import connect, login
from agentaudit.client.connect import Deadlines, Listener, gateway_at, parse_listen
from agentaudit.client.control import Control
from agentaudit.client.credentials import Credentials, FetchedTokens, FoundTokens, Tokens
from agentaudit.client.login import Token
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import temporary_folder, until, without_libpq_variables
from agentaudit.errors import IssuerError, QuestionError, SettingsError
from agentaudit.protocols import postgres_messages as messages
from agentaudit.settings.values import Address
from tests.client.served import Asked, Says, Served, served
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SECRET = "s3cret"


class Provider:
    """An issuer that gives tokens by client credentials, and counts them."""

    audience = "agentaudit"

    def __init__(self, server: Served, signer: SigningIssuer) -> None:
        self.issuer = server.url
        self._server = server
        self._signer = signer
        endpoints = {"jwks_uri": f"{server.url}/keys", "token_endpoint": f"{server.url}/token"}
        discovered = dict(signer.document("/.well-known/openid-configuration") or {})
        discovered |= endpoints | {"issuer": server.url}
        server.at("GET /.well-known/openid-configuration", Says(discovered))
        server.at("GET /keys", Says(signer.document("/keys")))
        server.at("POST /token", self._give)

    def token(self, user: str = "ana", **claims: Any) -> str:
        return self._signer.token(user, claims={"iss": self.issuer} | claims)

    @property
    def given(self) -> int:
        return sum(asked.path == "/token" for asked in self._server.asked)

    def _give(self, asked: Asked) -> Says:
        token = {"access_token": self.token("night-job"), "token_type": "Bearer"}
        return Says(token | {"expires_in": 3600})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    signer = SigningIssuer()
    with served() as server:
        yield Provider(server, signer)
    signer.close()


@pytest.fixture(scope="module")
def gw(
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    provider: Provider,
    postgres18: PostgresPeer,
) -> Iterator[Gateway]:
    """A gateway with TLS and a control API, shared by the tests of this module."""
    with gateways(tmp_path_factory.mktemp("connect"), authority, lambda: provider) as make:
        yield make(postgres18.target(), tls=True, listen={"control": "127.0.0.1:0"})


def control_of(gw: Gateway) -> str:
    """Return where the control API is, which has the gateway's TLS."""
    return gw.control_url.replace("http:", "https:")


class Connect:
    """`agentaudit connect` as a process; `url` is the line that it prints."""

    def __init__(self, folder: Path, *words: object, **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder / "connect.log"
        environment = without_libpq_variables() | {"XDG_STATE_HOME": str(folder)} | variables
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agentaudit.cli", "connect", *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, self.log.read_text()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process.stdout is not None
        self._process.send_signal(number)
        with self._process:
            assert self._process.stdout.read() == ""
        return self._process.returncode


@contextmanager
def connected(folder: Path, *words: object, **variables: str) -> Iterator[Connect]:
    one = Connect(folder, *words, **variables)
    try:
        yield one
    finally:
        if one._process.returncode is None:
            assert one.end() == 0


@pytest.fixture(scope="module")
def by_tickets(
    gw: Gateway, authority: Authority, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connect]:
    """A listener on loopback with a password of its own, which buys tickets and speaks TLS."""
    folder = tmp_path_factory.mktemp("tickets")
    with connected(
        folder,
        *("orders", "--listen", "127.0.0.1:0", "--gateway", f"localhost:{gw.port}"),
        *("--control", control_of(gw), "--ca-file", authority.file),
        AGENTAUDIT_TOKEN=provider.token(),
    ) as one:
        yield one


def psql(url: str, sql: str) -> tuple[str, str]:
    """Return what psql prints on standard output and standard error."""
    done = subprocess.run(
        [embedded_postgres() / "psql", "-XAt", "-w", url, "-c", sql],
        capture_output=True,
        text=True,
        check=False,
        env=without_libpq_variables(),
        timeout=60,
    )
    return done.stdout, done.stderr


# --- on loopback, by tickets, in TLS --------------------------------------------------------------


def test_psql_gets_through_by_the_printed_line_whatever_database_it_names(
    by_tickets: Connect, provider: Provider, gw: Gateway
) -> None:
    def users() -> list[str]:
        lines = gw.log_lines()
        return [line["user"] for line in lines if line.get("event") == "session opened"]

    before = len(users())
    assert re.fullmatch(r"postgresql://anybody:[\w-]{32}@127\.0\.0\.1:\d+/orders", by_tickets.url)
    assert psql(by_tickets.url, "SELECT 40 + 2") == ("42\n", "")
    assert psql(by_tickets.url.replace("/orders", "/elsewhere"), "SELECT 'ä'")[0] == "ä\n"
    # Whatever user the client names, it is the token's.
    until(lambda: len(users()) == before + 2, "both are logged")
    assert users()[before:] == ["ana", "ana"]
    password = urlsplit(by_tickets.url).password
    assert password
    log = by_tickets.log.read_text()
    assert password not in log
    assert "eyJ" not in log
    assert "elsewhere" not in log


def test_twenty_megabytes_pass_and_many_clients_at_once(by_tickets: Connect) -> None:
    sql = "SELECT repeat('x', 100000) FROM generate_series(1, 200)"
    with psycopg.connect(by_tickets.url) as client:
        assert sum(len(row[0]) for row in client.execute(sql)) == 20_000_000
        with client.cursor().copy("COPY (SELECT repeat('y', 1000000)) TO STDOUT") as copy:
            assert sum(len(part) for part in copy) == 1_000_001
        others = [psycopg.connect(by_tickets.url) for _ in range(5)]
        for other in others:
            with other:
                assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_cancel_request_reaches_the_statement(by_tickets: Connect) -> None:
    with psycopg.connect(by_tickets.url) as client:
        client.execute("SELECT 1")
        threading.Timer(0.2, client.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(30)")


def test_a_wrong_local_password_is_refused_and_nobody_is_asked_for_a_ticket(
    by_tickets: Connect, gw: Gateway
) -> None:
    before = len(gw.log_lines())
    wrong = re.sub(r":[\w-]{32}@", ":wrong-wrong-wrong@", by_tickets.url)
    out, err = psql(wrong, "SELECT 1")
    assert out == ""
    assert "FATAL:  agentaudit connect: wrong password for this listener" in err
    assert "fe_sendauth: no password" in psql(re.sub(r":[\w-]{32}@", "@", by_tickets.url), "")[1]
    assert len(gw.log_lines()) == before
    assert "28P01" in [event.get("sqlstate") for event in by_tickets.events()]


def test_without_a_ticket_the_client_is_told_what_the_control_api_said(
    gw: Gateway, authority: Authority, provider: Provider, tmp_path: Path
) -> None:
    words = ("--listen", "127.0.0.1:0", "--gateway", f"127.0.0.1:{gw.port}")
    with connected(
        tmp_path,
        *("nowhere", "--no-password", "--control", control_of(gw), *words),
        *("--ca-file", authority.file),
        AGENTAUDIT_TOKEN=provider.token(),
    ) as one:
        assert urlsplit(one.url).password is None
        err = psql(one.url, "SELECT 1")[1]
        assert "FATAL:  agentaudit connect: " in err
        assert "there is no such target" in err
        until(lambda: bool(one.events()), "it says so")
        assert one.events()[-1]["sqlstate"] == "28000"


# --- on a socket, by the token itself -------------------------------------------------------------


def test_on_a_socket_the_token_file_is_read_for_each_connection_and_sigterm_ends_it(
    gw: Gateway, provider: Provider, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(provider.token())
    folder = tmp_path / "s"
    with connected(
        tmp_path,
        *("orders", "--listen", f"{folder}/", "--gateway", f"127.0.0.1:{gw.port}"),
        *("--token-file", token),
    ) as one:
        assert one.url == f"postgresql:///orders?host={str(folder).replace('/', '%2F')}&port=5432"
        path = folder / ".s.PGSQL.5432"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert psql(one.url, "SELECT 1") == ("1\n", "")

        token.write_text("")
        err = psql(one.url, "SELECT 1")[1]
        assert f"FATAL:  agentaudit connect: {token}: no token that is good now" in err
        assert "HINT:  agentaudit login gets one" in err
        token.write_text(provider.token(exp=int(time.time()) - 3600))
        assert "FATAL:  agentaudit: " in psql(one.url, "SELECT 1")[1]
        token.write_text(provider.token("ben"))

        with psycopg.connect(one.url) as client:
            assert client.execute("SELECT 1").fetchone() == (1,)
            assert one.end(signal.SIGINT) == 0
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        assert not path.exists()
        assert one.events()[-1]["event"] == "stopped"


def test_a_socket_that_was_left_behind_gives_way_and_one_that_is_used_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s" / ".s.PGSQL.5433"
    connect._listen(path).close()  # and the file stays
    used = connect._listen(parse_listen(str(path)))
    with closing(used), pytest.raises(SettingsError, match="something listens there"):
        connect._listen(path)
    path.unlink()
    path.touch()
    with pytest.raises(SettingsError, match="is no socket"):
        connect._listen(path)
    path.parent.chmod(0o777)
    with pytest.raises(SettingsError, match="others may write there"):
        connect._listen(path)
    with pytest.raises(SettingsError, match="107 bytes"):
        connect._listen(path.parent / ("x" * 100) / path.name)


# --- tokens by client credentials -----------------------------------------------------------------


def test_a_machine_fetches_one_token_for_many_connections_with_a_fixed_password(
    gw: Gateway, provider: Provider, tmp_path: Path
) -> None:
    password, secret = tmp_path / "password", tmp_path / "secret"
    for file, text in ((password, "p/a:s s@w%ord-of-a-tool"), (secret, SECRET)):
        file.touch(mode=0o600)
        file.write_text(text + "\n")
    before = provider.given
    with connected(
        tmp_path,
        *("orders", "--listen", "localhost:0", "--gateway", f"127.0.0.1:{gw.port}", "--json"),
        *("--issuer", provider.issuer, "--client-id", "night-job"),
        *("--client-secret-file", secret, "--password-file", password),
    ) as one:
        told = json.loads(one.url)
        assert told["password"] is None
        assert re.fullmatch(r"postgresql://anybody@127\.0\.0\.1:\d+/orders", told["url"])
        for _ in range(3):
            with psycopg.connect(told["url"], password=password.read_text().strip()) as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
        assert provider.given == before + 1
        assert [event["event"] for event in one.events()].count("token fetched") == 1
        assert SECRET not in one.log.read_text()


async def test_a_session_begins_with_a_renewed_token_when_most_of_the_life_of_one_is_over(
    gw: Gateway, provider: Provider
) -> None:
    client = login.Client(provider.issuer, "night-job", SECRET)
    now = time.time()
    tokens = FetchedTokens(lambda: login.by_credentials(client), lambda _: None, clock=lambda: now)
    before = provider.given
    async with listening("127.0.0.1:0", Address("127.0.0.1", gw.port), tokens) as at:
        for fetched, passed_s in ((1, 0), (1, 2000), (2, 1000)):
            now += passed_s
            async with await psycopg.AsyncConnection.connect(f"postgresql://x@{at}/y") as session:
                assert await (await session.execute("SELECT 1")).fetchone() == (1,)
            assert provider.given == before + fetched


class Clock:
    """Time that a test moves, and tokens of 100 seconds, one after the other."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.given = 0
        self.is_failing = False
        self.said: list[dict[str, Any]] = []
        self.tokens = FetchedTokens(self._fetch, self.said.append, clock=lambda: self.now)

    def _fetch(self) -> Token:
        self.given += 1
        if self.is_failing:
            raise IssuerError("issuer: no answer")
        return Token(f"token-{self.given}", int(self.now) + 100, "job", 0)

    async def at(self, age_s: float) -> str:
        self.now = 1_000_000.0 + age_s
        return await self.tokens.token()


async def test_a_token_is_renewed_once_when_four_fifths_of_its_life_are_over() -> None:
    clock = Clock()
    assert set(await asyncio.gather(*(clock.at(0) for _ in range(8)))) == {"token-1"}
    assert await clock.at(79) == "token-1"
    assert set(await asyncio.gather(*(clock.at(80) for _ in range(8)))) == {"token-2"}
    assert clock.given == 2
    assert "token-" not in json.dumps(clock.said)


async def test_where_no_new_token_can_be_had_the_old_one_serves_while_it_is_valid() -> None:
    clock = Clock()
    await clock.at(0)
    clock.is_failing = True
    assert await clock.at(80) == await clock.at(85) == await clock.at(99) == "token-1"
    assert clock.given == 3  # not in a loop
    assert clock.said[-1]["event"] == "token not renewed"
    assert clock.said[-1]["old_one"]
    with pytest.raises(IssuerError):
        await clock.at(101)
    clock.is_failing = False
    assert await clock.at(120) == "token-4"


async def test_a_token_whose_window_is_over_is_given_up_and_a_new_one_is_not_for_each_refusal() -> (
    None
):
    clock = Clock()
    first = await clock.at(0)
    clock.tokens.refused(first)
    assert await clock.at(29) == first
    clock.now += 1
    clock.tokens.refused("another")
    assert await clock.at(30) == first
    clock.tokens.refused(first)
    assert await clock.at(30) == "token-2"


# --- a listener in this process -------------------------------------------------------------------


def no_token() -> str:
    raise QuestionError("there is no token", hint="agentaudit login gets one")


@asynccontextmanager
async def listening(
    where: str,
    gateway: Address,
    tokens: Tokens | None = None,
    ticket: Callable[[str], str] | None = None,
    *,
    ca_file: Path | None = None,
    deadlines: Deadlines | None = None,
    said: list[dict[str, Any]] | None = None,
) -> AsyncIterator[Address | Path]:
    listener = Listener(
        "orders",
        gateway_at(gateway, ca_file),
        Credentials(tokens or FoundTokens(no_token), ticket),
        ([] if said is None else said).append,
        deadlines=deadlines or Deadlines(),
    )
    at = await listener.start(parse_listen(where))
    try:
        yield at
    finally:
        await listener.stop()


async def ask(at: Address | Path, *parts: bytes) -> bytes:
    """Send each of `parts` and return all that comes back, to the end."""
    if isinstance(at, Path):
        reader, writer = await asyncio.open_unix_connection(str(at))
    else:
        reader, writer = await asyncio.open_connection(at.host, at.port)
    try:
        answered = b""
        for part in parts:
            writer.write(part)
            await writer.drain()
            if part in (messages.ssl_request(), GSSENC):
                answered += await reader.readexactly(1)
        async with asyncio.timeout(20):
            return answered + await reader.read()
    finally:
        writer.close()


GSSENC = messages.ssl_request()[:-1] + b"\x30"
STARTUP = messages.startup_message({"user": "ana", "database": "x"})
GONE = Address("127.0.0.1", 1)


async def test_what_is_no_start_up_packet_ends_at_once_and_what_never_comes_in_time() -> None:
    said: list[dict[str, Any]] = []
    impatient = Deadlines(client_s=0.1)
    async with listening("[::1]:0", GONE, deadlines=impatient, said=said) as at:
        assert await ask(at) == b""
        assert await ask(at, messages.ssl_request(), GSSENC, STARTUP[:9]) == b"NN"
        assert [line["why"] for line in said] == ["no start-up packet in time"] * 2
        assert await ask(at, b"GET / HTTP/1.1\r\n\r\n") == b""
        assert await ask(at, b"\x16\x03\x01\x02\x00") == b""
        assert said[-1]["why"] == "start-up: TLS, which this listener does not have"
        assert await ask(at, messages.ssl_request() + STARTUP) == b"N"[:0]
        assert b"C08P01\0" in await ask(at, STARTUP[:-1] + b"x")
        long = messages.startup_message({"user": "x" * 9_960, "database": "x"})
        assert len(long) < messages.MAX_STARTUP_BYTES
        assert b"no room for the target" in await ask(at, long)
        assert b"C08006\0" in await ask(at, messages.ssl_request(), STARTUP)
        assert said[-1]["error"] == "gateway 127.0.0.1:1: connection refused"


async def test_a_gateway_that_is_no_gateway_gets_no_token(
    postgres18: PostgresPeer, gw: Gateway, authority: Authority, foreign_authority: Authority
) -> None:
    database = Address(postgres18.host, postgres18.port)
    real = Address("127.0.0.1", gw.port)
    for gateway, ca_file, said in (
        (database, None, "it asks for no token"),
        (database, authority.file, "TLS failed"),
        (real, foreign_authority.file, "TLS: unable to get local issuer certificate"),
    ):
        async with listening("127.0.0.1:0", gateway, ca_file=ca_file) as at:
            for user in ("scram", "trusted"):
                told = await ask(at, messages.startup_message({"user": user}))
                assert b"C08006\0" in told
                assert said.encode() in told


async def test_a_ticket_that_is_not_to_be_had_is_told_as_what_it_is(
    gw: Gateway, authority: Authority, provider: Provider
) -> None:
    gateway = Address("127.0.0.1", gw.port)
    over = provider.token(exp=int(time.time()) - 3600)
    for api, code, hint in (
        ("http://127.0.0.1:1", b"C57P03\0", b"try again"),
        (control_of(gw), b"C28000\0", b"agentaudit login"),
    ):

        def ticket(token: str, api: str = api) -> str:
            return Control(api, token, ca_file=authority.file).ticket("orders").ticket

        async with listening("127.0.0.1:0", gateway, FoundTokens(lambda: over), ticket) as at:
            told = await ask(at, STARTUP)
            assert code in told
            assert hint in told
            assert over.encode() not in told


async def test_one_that_hangs_up_or_says_nothing_is_told_as_that(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for peer, said in ((hang_up, b"it hung up"), (say_nothing, b"no answer")):
        server = await asyncio.start_server(peer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            gateway = Address("127.0.0.1", port)
            async with listening(f"{tmp_path}/s/", gateway, deadlines=Deadlines(5, 0.2, 1)) as at:
                told = await ask(at, STARTUP)
                assert b"C08006\0" in told
                assert said in told


async def test_what_the_gateway_says_last_arrives_and_a_half_closed_client_is_heard() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = messages.parse_startup(await reader.read(1000))
        assert isinstance(packet, messages.StartupMessage)
        assert packet.parameters["database"] == "orders"
        assert packet.parameters["user"] == "ana"
        writer.write(messages.authentication_cleartext())
        assert await reader.read(1000) == messages.password_message("t0ken")
        writer.write(messages.authentication_ok() + messages.ready_for_query())
        heard = await reader.read()
        writer.write(messages.notice_response(message=f"heard {len(heard)}"))
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        gateway = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        async with listening("127.0.0.1:0", gateway, FoundTokens(lambda: "t0ken")) as at:
            assert isinstance(at, Address)
            reader, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(STARTUP)
            greeting = messages.authentication_ok() + messages.ready_for_query()
            assert await reader.readexactly(len(greeting)) == greeting
            writer.write(b"Q" * 300_000)
            writer.write_eof()
            assert b"heard 300000" in await reader.read()
            writer.close()


async def test_another_user_is_refused_even_if_the_socket_lets_it_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert connect.may_use(os.geteuid())
    assert not connect.may_use(os.geteuid() + 4711)
    with temporary_folder("connect-") as folder:
        async with listening(f"{folder}/", GONE) as at:
            assert isinstance(at, Path)
            folder.chmod(0o755)
            at.chmod(0o666)
            if os.geteuid() == 0:
                told = await asyncio.to_thread(as_user, 65534, at)
            else:
                monkeypatch.setattr(os, "geteuid", lambda: 4711)
                told = await ask(at, STARTUP)
    assert b"C28000\0" in told
    assert b"this socket is another user's" in told


def as_user(uid: int, path: Path) -> bytes:
    """Return what another user is told; without an exec, whose files it may not see."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(STARTUP)
                while part := client.recv(4096):
                    os.write(theirs, part)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told


async def test_no_more_logins_at_once_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect, "MAX_LOGINS", 2)
    async with listening("127.0.0.1:0", GONE) as at:
        assert isinstance(at, Address)
        waiting = [await asyncio.open_connection(at.host, at.port) for _ in range(2)]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(at, messages.ssl_request())
        for _, writer in waiting:
            writer.close()
    monkeypatch.setattr(connect, "MAX_CONNECTIONS", 0)
    async with listening("127.0.0.1:0", GONE) as at:
        assert b"C53300\0" in await ask(at, STARTUP)


# --- what is refused before anything listens ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "0.0.0.0:5433"], "only loopback is listened on"),
        (["--listen", "db.example.com:5433"], "only loopback is listened on"),
        (["--listen", "5433"], 'expected "host:port"'),
        (["--gateway", "gw.example.com"], 'expected "host:port"'),
        (["--ca-file", "no.pem"], "No such file"),
        (["--credential", "ticket"], "none is named"),
        (["--control", "http://gw.example.com"], "plain http is for loopback only"),
        (["--issuer", "https://idp.example.com"], "needs --client-id"),
        (["--client-id", "x"], "are for an --issuer"),
        (["--issuer", "https://x.org", "--client-id", "x"], "there is no client secret"),
        (["--issuer", "https://x.org", "--token-file", "x"], "which token is meant"),
        (["--password-file", "no"], "No such file"),
        (["--listen", "s/", "--password-file", "no"], "a Unix socket asks for no password"),
    ],
)
def test_what_cannot_be_is_said_with_2(
    words: Sequence[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("AGENTAUDIT_CONTROL", "AGENTAUDIT_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    usual = ["connect", "orders", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:6432"]
    assert main([*usual, *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err


def test_a_port_that_is_taken_and_a_password_that_others_know_are_refused_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    usual = ["connect", "orders", "--gateway", "127.0.0.1:6432", "--listen"]
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        assert main([*usual, f"127.0.0.1:{taken.getsockname()[1]}"]) == 2
    assert "Address already in use" in capsys.readouterr().err
    password = tmp_path / "password"
    password.write_text("long enough, and known\n")
    password.chmod(0o644)
    words = [*usual, "127.0.0.1:0", "--password-file", str(password)]
    assert main(words) == 2
    assert "mode 0644, 0600 expected" in capsys.readouterr().err
    password.chmod(0o600)
    password.write_text("short\n")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "16 characters or more" in told
    assert "short" not in told


def test_a_gateway_that_is_gone_is_told_in_psql_and_in_the_log(
    provider: Provider, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("orders", "--listen", f"{tmp_path}/s/", "--gateway", f"127.0.0.1:{port}")
    with connected(tmp_path, *words, AGENTAUDIT_TOKEN=provider.token()) as one:
        err = psql(one.url, "SELECT 1")[1]
        assert f"FATAL:  agentaudit connect: gateway 127.0.0.1:{port}" in err
        until(lambda: bool(one.events()), "it says so")
        assert one.events()[-1]["sqlstate"] == "08006"
