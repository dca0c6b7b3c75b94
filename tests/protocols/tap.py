"""A loopback port in front of a real server that holds a `Conversation` over what passes.

It is no gateway: logins pass through as they are, nothing is recorded on disk. What the
conversation says may be forwarded is forwarded, and nothing else.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from select import select

from agentaudit.model import Refusal, Side, Step
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.risk.sql import split
from tests.protocols.wire import Talk

Refuses = Callable[[Step], Refusal | None]


@dataclass
class Tapped:
    """One connection: what was said on the client's wire, and the conversation made of it."""

    talk: Talk
    said: dict[Side, bytearray] = field(
        default_factory=lambda: {side: bytearray() for side in Side}
    )
    error: BaseException | None = None


class Tap:
    """Relays `host:port` from a port of its own, in pieces of `size` bytes if that is given."""

    def __init__(
        self, host: str, port: int, *, size: int | None = None, refuses: Refuses = lambda _: None
    ) -> None:
        self.connections: list[Tapped] = []
        self._upstream = (host, port)
        self._size = size
        self._refuses = refuses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening, wait for the connections to end, and raise what went wrong in one."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=60)
        for tapped in self.connections:
            if tapped.error is not None:
                raise tapped.error

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(client)
            target = stack.enter_context(socket.create_connection(self._upstream))
            for wire in (client, target):
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            parameters, rest = self._log_in(client, target)
            if parameters is None:
                return  # A cancel request, or a login that failed.
            talk = Talk(Conversation(split=split, parameters=parameters))
            tapped = Tapped(talk)
            self.connections.append(tapped)
            try:
                self._take(tapped, Side.TARGET, rest, client, target)
                while True:
                    for wire in select([client, target], [], [])[0]:
                        data = wire.recv(65536)
                        if not data:
                            return
                        side = Side.CLIENT if wire is client else Side.TARGET
                        self._take(tapped, side, data, client, target)
            except OSError:
                return
            except BaseException as error:
                tapped.error = error

    def _log_in(
        self, client: socket.socket, target: socket.socket
    ) -> tuple[dict[str, str] | None, bytes]:
        """Pass everything until ReadyForQuery; return the settings, and what came behind it."""
        reader = messages.MessageReader()
        parameters: dict[str, str] = {}
        while True:
            for wire in select([client, target], [], [])[0]:
                data = wire.recv(65536)
                if not data:
                    return None, b""
                if wire is client:
                    target.sendall(data)
                    continue
                for kind, body in reader.feed(data):
                    client.sendall(messages.frame(kind, body))
                    if kind == b"S":
                        parameters.update([messages.decode_parameter_status(body)])
                    if kind == b"Z":
                        return parameters, reader.rest()

    def _take(
        self, tapped: Tapped, side: Side, data: bytes, client: socket.socket, target: socket.socket
    ) -> None:
        tapped.said[side] += data
        talk = tapped.talk
        size = self._size or len(data) or 1
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            for step in (talk.client if side is Side.CLIENT else talk.target)(piece):
                refusal = self._refuses(step) if step.starts else None
                stand_ins = [step]
                if refusal is not None:
                    stand_ins = talk.refuse(step, refusal)
                for passed in stand_ins:
                    (target if side is Side.CLIENT else client).sendall(passed.frame)
            if talk.conversation.broken is not None:
                raise talk.conversation.broken
