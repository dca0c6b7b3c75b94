"""A PostgreSQL client that does what no driver would: it stalls, resets, and hangs up half.

Its encoder and its reader are made from the specification alone (`tests.protocols.wire`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import Self

from tests.protocols import wire

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time at all: closing resets the connection."""

PROTOCOL_3_0 = 3 << 16
CANCEL = 80877102


class Ended(Exception):
    """The connection is over; `code` is the SQLSTATE of the last words, if there were any."""

    def __init__(self, code: str = "") -> None:
        super().__init__(code)
        self.code = code


class Client:
    """One connection, logged in."""

    def __init__(
        self, address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = address
        self.reader = reader
        self.writer = writer
        self.key = b""
        self._last_code = ""

    @classmethod
    async def connect(
        cls, address: tuple[str, int], token: str, application: str, *, receives: int = 0
    ) -> Self:
        """Open a connection and log in; `receives` is about how many bytes are read ahead.

        Raises:
            Ended: it was refused.
        """
        connection = socket.socket()
        connection.setblocking(False)
        if receives:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        try:
            await asyncio.get_running_loop().sock_connect(connection, address)
        except OSError:
            connection.close()
            raise Ended from None
        limit = receives or 1 << 16
        reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
        client = cls(address, reader, writer)
        try:
            parameters = {"user": "agent", "database": "orders", "application_name": application}
            body = b"".join(wire.string(text) for item in parameters.items() for text in item)
            client.say(struct.pack("!II", len(body) + 9, PROTOCOL_3_0) + body + b"\0")
            client.say(wire.message("p", wire.string(token)))
            await client.replies(1)
        except BaseException:
            writer.transport.abort()
            raise
        return client

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> tuple[str, bytes]:
        """Return the kind and body of the next message.

        Raises:
            Ended: there is none.
        """
        try:
            kind, length = struct.unpack("!ci", await self.reader.readexactly(5))
            body = await self.reader.readexactly(length - 4)
        except (OSError, asyncio.IncompleteReadError):
            raise Ended(self._last_code) from None
        if kind == b"K":
            self.key = body
        if kind == b"E":
            self._last_code = fields(body)["C"]
        return kind.decode(), body

    async def replies(self, turns: int) -> list[tuple[str, bytes]]:
        """Return all messages up to the last of so many ReadyForQuery."""
        found = []
        while turns:
            found.append(await self.reply())
            turns -= found[-1][0] == "Z"
        return found

    async def ask(self, data: bytes, turns: int = 1) -> list[tuple[str, bytes]]:
        """Say `data` and return what answers it."""
        self.say(data)
        await self._drain()
        return await self.replies(turns)

    async def _drain(self) -> None:
        try:
            await self.writer.drain()
        except OSError:
            pass  # What was said last is still to be read.

    async def cancel(self) -> None:
        """Ask the other end to stop what this connection does."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(struct.pack("!II", 8 + len(self.key), CANCEL) + self.key)
        await reader.read()
        writer.close()

    async def leave(self) -> None:
        """Say goodbye and close."""
        self.say(wire.TERMINATE)
        await self._drain()
        self.writer.close()

    def reset(self) -> None:
        """End it as a machine that has crashed does."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()

    async def hang_up_half(self) -> None:
        """Say no more, and read to the end."""
        try:
            self.writer.write_eof()
            while await self.reader.read(65536):
                pass
        except OSError:
            pass
        self.writer.close()


def fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def first_value(row: bytes) -> bytes:
    """Return the first value of a DataRow."""
    (length,) = struct.unpack_from("!i", row, 2)
    return row[6 : 6 + length]


def outcomes(replies: Sequence[tuple[str, bytes]]) -> list[str]:
    """Return `ok` or the SQLSTATE of each command that `replies` answer, in order."""
    found = []
    for kind, body in replies:
        if kind in "CIs":
            found.append("ok")
        elif kind == "E":
            found.append(fields(body)["C"])
    return found
