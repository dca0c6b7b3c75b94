"""A TCP byte pump that keeps every byte, per connection and direction.

It stands on either side of the gateway, so a test compares what was sent with what was recorded
and with what came out. It looks into TLS only where it is one end of it: towards a side that it
has a context for it speaks TLS, asked for as PostgreSQL's clients ask for it.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from agentaudit.demo.processes import until


@dataclass(slots=True)
class Wire:
    """One connection: the bytes that went `up` (client to server) and `down` (server to client)."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    is_open: bool = True


_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class Pump:
    """Relays a loopback port to `host:port` and records both directions of each connection.

    With `certified` it speaks TLS as the server that it stands for, with `trusting` as the client.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        certified: ssl.SSLContext | None = None,
        trusting: ssl.SSLContext | None = None,
    ) -> None:
        self._certified = certified
        self._trusting = trusting
        self.wires: list[Wire] = []
        self.host = "127.0.0.1"
        self._upstream = (host, port)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        self.port = started.result()

    def close(self) -> None:
        """Cut every connection and stop listening."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()

    def cut(self) -> None:
        """Reset every connection at once, as a failing network does."""
        self._loop.call_soon_threadsafe(self._abort)
        self.wait_until_closed()

    def hold(self) -> None:
        """Relay nothing more until `release`; bytes already read still pass."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._flowing.set)

    def wait_until_closed(self) -> None:
        """Return once every connection has ended, so that its record is whole."""
        until(lambda: not any(wire.is_open for wire in self.wires), "pump: connections end")

    def _run(self, started: Future[int]) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> asyncio.Server:
            self._flowing.set()
            return await asyncio.start_server(self._accept, self.host, 0)

        try:
            server = self._loop.run_until_complete(listen())
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(server.sockets[0].getsockname()[1])
        self._loop.run_forever()
        server.close()
        self._abort()
        self._flowing.set()
        pending = asyncio.gather(*self._relays, return_exceptions=True)
        self._loop.run_until_complete(pending)
        self._loop.close()

    def _stop(self) -> None:
        self._loop.stop()

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        wire = Wire()
        self.wires.append(wire)
        self._writers.add(client_writer)
        try:
            if self._certified is not None:
                await client_reader.readexactly(len(_SSL_REQUEST))
                client_writer.write(b"S")
                await client_writer.start_tls(self._certified)
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
            if self._trusting is not None:
                server_writer.write(_SSL_REQUEST)
                wire.up += _SSL_REQUEST
                wire.down += await server_reader.readexactly(1)
                await server_writer.start_tls(self._trusting, server_hostname="localhost")
        except (OSError, asyncio.IncompleteReadError):
            client_writer.transport.abort()
        else:
            self._writers.add(server_writer)
            await asyncio.gather(
                self._relay(client_reader, server_writer, wire.up),
                self._relay(server_reader, client_writer, wire.down),
            )
            self._writers.discard(server_writer)
        finally:
            self._writers.discard(client_writer)
            self._relays.discard(task)
            wire.is_open = False

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                record += data
                writer.write(data)
                await writer.drain()
        except OSError:
            writer.transport.abort()
        finally:
            writer.close()


class PumpFactory(Protocol):
    """Makes pumps: `pump(host, port)` listens on `.port` and records into `.wires`."""

    def __call__(
        self,
        host: str,
        port: int,
        *,
        certified: ssl.SSLContext | None = None,
        trusting: ssl.SSLContext | None = None,
    ) -> Pump: ...


@pytest.fixture
def pump() -> Iterator[PumpFactory]:
    """Make pumps; all of them end with the test."""
    made: list[Pump] = []

    def make(
        host: str,
        port: int,
        *,
        certified: ssl.SSLContext | None = None,
        trusting: ssl.SSLContext | None = None,
    ) -> Pump:
        made.append(Pump(host, port, certified=certified, trusting=trusting))
        return made[-1]

    yield make
    for one in made:
        one.close()
