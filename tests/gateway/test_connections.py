"""Connections on an epoll of our own: what asyncio promises of a transport, plain and in TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentaudit.gateway import connections
from agentaudit.gateway.connections import Connection, Listener, Poller
from tests.archive.recording import until
from tests.peers.certificates import Authority

MIB = 1 << 20


class Peer:
    """A protocol that keeps what it is called with."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.heard = bytearray()
        self.calls: list[str] = []
        self.keeps_open = keeps_open
        self.lost: BaseException | None = None
        self.connection: Connection

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("lost")
        self.lost = exc

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


class Turns:
    """Counts turns, and notes what was heard in the open one."""

    def __init__(self) -> None:
        self.is_open = False
        self.ended = 0

    def begin_turn(self) -> None:
        assert not self.is_open
        self.is_open = True

    def end_turn(self, more: bool) -> None:
        assert self.is_open
        self.is_open = False
        self.ended += 1


Pair = tuple[Peer, Peer]


@asynccontextmanager
async def pair(turns: Turns | None = None, made: Callable[[], Peer] = Peer) -> AsyncIterator[Pair]:
    """Yield the two ends of a connection: who was called, and who called."""
    poller = Poller(turns)
    called: list[Peer] = []

    def answer() -> Peer:
        called.append(made())
        return called[-1]

    listener = Listener(poller, connections.listen("127.0.0.1", 0, 10), answer)
    caller = made()
    try:
        await connections.connect(poller, *listener.address, caller)
        await until(lambda: bool(called), "the connection is accepted")
        yield called[0], caller
    finally:
        listener.close()
        poller.close()
        await asyncio.sleep(0)


async def in_tls(one: Peer, other: Peer, authority: Authority) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.server()
    server.load_cert_chain(certificate.certificate_file, certificate.key_file)
    client = ssl.create_default_context(cafile=str(authority.file))
    await asyncio.gather(
        one.connection.start_tls(server),
        other.connection.start_tls(client, server_hostname="localhost"),
    )


@pytest.fixture(params=["plain", "TLS"])
def secured(request: pytest.FixtureRequest) -> Any:
    """Return what puts a pair into TLS, or leaves it as it is."""
    if request.param == "plain":

        async def leave(*_: Peer) -> None:
            pass

        return leave
    authority = request.getfixturevalue("authority")

    async def secure(one: Peer, other: Peer) -> None:
        await in_tls(one, other, authority)

    return secure


async def test_what_one_writes_the_other_hears_whatever_its_size(secured: Any) -> None:
    async with pair() as (one, other):
        await secured(one, other)
        sent = bytes(range(256)) * (4 * MIB // 256)
        one.connection.write(b"hello")
        one.connection.write(sent)
        other.connection.write(b"back")
        await until(lambda: len(other.heard) == len(sent) + 5, "all is heard")
        assert bytes(other.heard) == b"hello" + sent
        await until(lambda: one.heard == b"back", "the answer is heard")


async def test_who_pauses_hears_nothing_and_stops_who_writes(secured: Any) -> None:
    async with pair() as (one, other):
        await secured(one, other)
        other.connection.pause_reading()
        one.connection.set_write_buffer_limits(high=64 * 1024, low=1024)
        chunk, written = bytes(64 * 1024), 0
        while "pause" not in one.calls:
            one.connection.write(chunk)
            written += len(chunk)
            assert written < 64 * MIB
        assert one.connection.get_write_buffer_size() > 64 * 1024
        for _ in range(20):
            await asyncio.sleep(0)
        heard = len(other.heard)
        assert heard <= connections.MAX_READ_BYTES
        assert one.calls == ["pause"]

        other.connection.resume_reading()
        await until(lambda: len(other.heard) == written, "all is heard")
        assert one.calls == ["pause", "resume"]


async def test_close_sends_what_waits_first(secured: Any) -> None:
    async with pair() as (one, other):
        await secured(one, other)
        sent = bytes(4 * MIB)
        one.connection.write(sent)
        one.connection.close()
        assert one.connection.is_closing()
        one.connection.write(b"late")
        await until(lambda: other.calls[-1:] == ["lost"], "both ends are closed")
        await until(lambda: one.calls[-1:] == ["lost"], "both ends are closed")
        assert bytes(other.heard[: len(sent)]) == sent
        assert other.calls == ["eof", "lost"]
        assert (one.lost, other.lost) == (None, None)


async def test_one_direction_can_end_before_the_other() -> None:
    async with pair(made=lambda: Peer(keeps_open=True)) as (one, other):
        other.connection.write(b"question")
        other.connection.write_eof()
        await until(lambda: one.calls == ["eof"], "the end is heard")
        one.connection.write(b"answer")
        one.connection.close()
        await until(lambda: other.heard == b"answer", "the answer is heard")
        assert one.heard == b"question"


async def test_a_reset_is_told_as_an_error_and_once() -> None:
    async with pair() as (one, other):
        sock: socket.socket = other.connection.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.connection.abort()
        await until(lambda: one.calls == ["lost"], "the loss is told")
        assert isinstance(one.lost, ConnectionResetError)
        one.connection.write(b"into the void")
        one.connection.close()
        assert one.calls == ["lost"]


async def test_a_peer_that_is_gone_while_nobody_reads_costs_no_turns() -> None:
    turns = Turns()
    async with pair(turns) as (one, other):
        one.connection.pause_reading()
        other.connection.abort()
        await until(lambda: other.calls == ["lost"], "the other is closed")
        for _ in range(20):
            await asyncio.sleep(0)
        before = turns.ended
        for _ in range(50):
            await asyncio.sleep(0)
        assert turns.ended == before
        one.connection.resume_reading()
        await until(lambda: "lost" in one.calls, "the loss is told when it is read")


async def test_what_is_read_is_handed_on_within_a_turn() -> None:
    turns = Turns()

    class Heard(Peer):
        def data_received(self, data: bytes) -> None:
            assert turns.is_open
            super().data_received(data)

    async with pair(turns, Heard) as (one, other):
        one.connection.write(b"x")
        await until(lambda: other.heard == b"x", "it is heard")
        assert not turns.is_open


async def test_a_fault_in_one_protocol_ends_its_connection_and_no_turn() -> None:
    class Faulty(Peer):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    turns = Turns()
    async with pair(turns, Faulty) as (one, other):
        one.connection.write(b"x")
        await until(lambda: other.calls == ["lost"], "the faulty one is closed")
        assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
        await until(lambda: "lost" in one.calls, "and so is its peer")


async def test_a_handshake_that_fails_is_an_error_on_both_sides(authority: Authority) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.server()
    server.load_cert_chain(certificate.certificate_file, certificate.key_file)
    async with pair() as (one, other):
        answers = await asyncio.gather(
            one.connection.start_tls(server),
            other.connection.start_tls(
                ssl.create_default_context(), server_hostname="elsewhere.test"
            ),
            return_exceptions=True,
        )
        assert isinstance(answers[1], ssl.SSLCertVerificationError)
        assert isinstance(answers[0], OSError | None)
        await until(lambda: one.connection.is_closing(), "the server's side is closed")


async def test_a_name_that_leads_nowhere_is_an_error() -> None:
    poller = Poller()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await connections.connect(poller, *nobody.getsockname(), Peer())
    poller.close()
