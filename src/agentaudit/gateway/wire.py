"""A connection before its session is open: bytes on request, TLS on request, and a byte count.

A login is a dialogue and reads best as a coroutine, so here, and only here, reading is awaited.
Once the session is open, `relay` takes the transport over and this object is done with.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import Final

from agentaudit.errors import AgentauditError
from agentaudit.gateway.connections import Connection
from agentaudit.settings.values import Address

MAX_WAITING_BYTES: Final = 128 * 1024
"""More than any login has to say; beyond it the peer waits until what it sent was looked at."""


class ConnectionEnded(AgentauditError):
    """The peer hung up, or never finished what it began; there is nobody to answer."""


class Wire:
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
        self.transport: Connection
        self._made = made
        self._waiting = bytearray()
        self._arrival: asyncio.Future[None] | None = None

    # --- what the transport calls

    def connection_made(self, transport: Connection) -> None:
        self.transport = transport
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

    def pause_writing(self) -> None:
        """A login says less than what would have to wait."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

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
        await self.transport.start_tls(
            context, server_hostname=server_hostname, first_bytes=first_bytes
        )
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
