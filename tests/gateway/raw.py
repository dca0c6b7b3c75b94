"""A PostgreSQL client that says exactly what a test tells it to, byte by byte."""

from __future__ import annotations

import socket
from typing import Any, Self

from agentaudit.protocols import postgres_messages as wire


def error_fields(data: bytes) -> dict[str, str]:
    """Return the fields of the ErrorResponse that `data` ends with."""
    reader = wire.MessageReader()
    kinds = list(reader.feed(data))
    assert kinds[-1][0] == b"E", kinds
    return {part[:1].decode(): part[1:].decode() for part in kinds[-1][1].split(b"\0") if part}


class Raw:
    """A client that says exactly what a test tells it to."""

    def __init__(self, gateway: Any, *, source: str = "") -> None:
        """Connect, from the loopback address `source` where what is counted by address matters."""
        self.socket: socket.socket = socket.create_connection(
            (gateway.host, gateway.port), source_address=(source, 0) if source else None
        )
        self.socket.settimeout(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def log_in(self, token: str) -> Raw:
        """Log in to the target `orders`, up to the first ReadyForQuery."""
        self.say(startup()).hear_one()
        return self.say(wire.password_message(token)).hear_ready()

    def hear_ready(self) -> Raw:
        """Hear up to the next ReadyForQuery."""
        while self.hear_one()[0] != b"Z":
            pass
        return self

    def hear_until_closed(self) -> bytes:
        heard = b""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return heard
            if not data:
                return heard
            heard += data

    def hear_byte(self) -> bytes:
        return self.socket.recv(1)

    def has_been_closed(self) -> bool:
        """Say whether the other end has hung up already, without waiting for it."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.socket.settimeout(30)

    def hear_one(self) -> tuple[bytes, bytes]:
        reader = wire.MessageReader()
        while True:
            for message in reader.feed(self.socket.recv(1)):
                return message


def startup(**parameters: str) -> bytes:
    """Return a start-up packet for target `orders`, or what `parameters` say."""
    return wire.startup_message({"user": "agent", "database": "orders"} | parameters)


def login_error(gateway: Any, token: str, **parameters: str) -> dict[str, str]:
    """Return the error that a login ends in: libpq hides its SQLSTATE."""
    with Raw(gateway) as client:
        client.say(startup(**parameters)).hear_one()
        client.say(wire.password_message(token))
        return error_fields(client.hear_until_closed())
