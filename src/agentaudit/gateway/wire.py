"""A connection before its session is open: bytes on request, TLS on request, and a byte count.

A login is a dialogue and reads best as a coroutine, so here, and only here, reading is awaited.
Once the session is open, `relay` takes the transport over and this object is done with.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from agentaudit.errors import AgentauditError
from agentaudit.settings import Address

MAX_WAITING_BYTES: Final = 128 * 1024
"""More than any login has to say; beyond it the peer waits until what it sent was looked at."""


class ConnectionEnded(AgentauditError):
    """The peer hung up, or never finished what it began; there is nobody to answer."""


class Wire(asyncio.Protocol):
    """One connection while it logs in.

    `sent` counts the bytes written, as the peer sees them inside TLS; `peer_host` is its address
    without, `peer` with the port.
    """

    def __init__(self, made: Callable[[Wire], None] | None = None) -> None:
        self.sent = 0
        self.is_encrypted = False
        self.is_ended = False
        self.peer_host = ""
        self.peer = ""
        self.transport: asyncio.Transport
        self._made = made
        self._waiting = bytearray()
        self._arrival: asyncio.Future[None] | None = None

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connection: socket.socket = transport.get_extra_info("socket")
        # A peer that vanished without a word must not keep its session for ever.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        self.peer_host = str(host)
        self.peer = str(Address(self.peer_host, port))
        if self._made is not None:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > MAX_WAITING_BYTES:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.is_ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # --- what a login calls

    async def more(self) -> bytes:
        """Return the bytes that have arrived and were not returned yet, at least one.

        Raises:
            ConnectionEnded: there will be none.
        """
        while not self._waiting:
            if self.is_ended:
                raise ConnectionEnded("the connection ended")
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return self.rest()

    def rest(self) -> bytes:
        """Return and forget what has arrived."""
        data = bytes(self._waiting)
        self._waiting.clear()
        if not self.is_ended:
            self.transport.resume_reading()
        return data

    def send(self, data: bytes) -> None:
        """Write `data`; to a peer that is gone it does nothing."""
        if not self.transport.is_closing():
            self.sent += len(data)
            self.transport.write(data)

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        first_bytes: bytes = b"",
    ) -> None:
        """Go on in TLS: as the server, or as the client of `server_hostname`.

        `first_bytes` are what was read already of the peer's first TLS message.

        Raises:
            ssl.SSLError, OSError: the handshake failed, and the connection is closed.
        """
        loop = asyncio.get_running_loop()
        plain = self.transport
        if first_bytes:
            # start_tls takes no bytes that were read before it. They are handed to the protocol
            # that it installs, after its connection_made, which it schedules before it waits.
            loop.call_soon(loop.call_soon, _feed, plain, first_bytes)
        encrypted = await loop.start_tls(
            plain,
            self,
            context,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        if encrypted is None:
            raise ConnectionEnded("the connection ended in the TLS handshake")
        self.transport = encrypted
        self.is_encrypted = True

    def close(self) -> None:
        """Close once what was written has gone."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()


def reason(error: OSError) -> str:
    """Return why a connection or an address failed, in the system's words.

    Event loops word it differently, and a name that does not resolve has no errno of the system.
    """
    number = error.errno or 0
    return (os.strerror(number) if number > 0 else error.strerror or "failed").lower()


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    protocol = cast("asyncio.BufferedProtocol", transport.get_protocol())
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        taken = min(len(buffer), len(data))
        buffer[:taken] = data[:taken]
        protocol.buffer_updated(taken)
        data = data[taken:]
