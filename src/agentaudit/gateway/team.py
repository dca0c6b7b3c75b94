"""A worker's side of its gateway: what comes from the supervisor, and through it from the others.

Connections come from the supervisor, already accepted. Cancel requests that another worker got
come the same way, and so does the word that this one should let an anonymous connection go. That
the supervisor is gone, by whatever end, is the order to drain and seal.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agentaudit.errors import AgentauditError
from agentaudit.gateway.cancelling import CancelKeys
from agentaudit.gateway.channel import Channel, Message, close_file
from agentaudit.gateway.places import Shared, SharedPlaces

ANSWER_S: Final = 20.0
"""What another worker may take for a cancel request: as long as a target may take."""


class Team:
    """What worker `own`, from 0, has of the others."""

    def __init__(
        self,
        end: socket.socket,
        own: int,
        shared: Shared,
        *,
        ended: Callable[[], None],
        host_key: bytes = b"",
    ) -> None:
        """Take part by `end`; `host_key` is the one by which SSH clients know all workers."""
        workers = len(shared.workers)
        self.host_key = host_key
        self.places = SharedPlaces(shared, own, self._ask_for_room)
        self.keys = CancelKeys(own, workers, self._pass_on)
        self._own = own
        self._channel = Channel(end, self._received, ended)
        self._tasks: asyncio.TaskGroup | None = None
        self._connected: Mapping[str, Callable[[socket.socket], None]]
        self._cancel: Callable[[int, bytes, str], Awaitable[bool]]
        self._make_room: Callable[[], None]
        self._reload: Callable[[], None]
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._next_answer = 0
        self._is_reload_owed = False

    def start(
        self,
        tasks: asyncio.TaskGroup,
        *,
        connected: Mapping[str, Callable[[socket.socket], None]],
        cancel: Callable[[int, bytes, str], Awaitable[bool]],
        make_room: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        """Take part, in `tasks`.

        `connected` has who gets each connection, by protocol, and `places.end` is to be called when
        its login is over; `cancel` gets a key and who asks, and says whether it knew the key;
        `make_room` is called when an anonymous connection should go, `reload` when the settings
        should be read again.
        """
        self._tasks = tasks
        self._connected = connected
        self._cancel = cancel
        self._make_room = make_room
        self._reload = reload
        if self._is_reload_owed:
            reload()

    def stop(self) -> None:
        """Take part no more: connections are closed, requests not answered."""
        self._tasks = None

    def close(self) -> None:
        """Leave; the supervisor finds this end closed."""
        self._channel.close()

    # --- telling the supervisor

    def say_ready(self) -> None:
        """Say that connections can come."""
        self._channel.send({"ready": True})

    def say_closed(self) -> None:
        """Say that connections had better go to others: this one drains, or cannot record."""
        self._channel.send({"closed": True})

    def say_failed(self, error: AgentauditError) -> None:
        """Say why there was no start."""
        kind = type(error).__name__
        self._channel.send({"failed": kind, "error": str(error), "hint": error.hint})

    def _ask_for_room(self, worker: int) -> None:
        self._channel.send({"to": worker, "make_room": True})

    async def _pass_on(self, worker: int, pid: int, secret: bytes, peer: str) -> bool:
        number = self._next_answer
        self._next_answer += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        message = {"to": worker, "from": self._own, "number": number}
        try:
            if not self._channel.send({**message, "cancel": [pid, secret.hex(), peer]}):
                return False
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            return False
        finally:
            del self._answers[number]

    # --- hearing it

    def _received(self, message: Message, fd: int) -> None:
        if "connection" in message:
            self._take(message["connection"], fd)
            return
        close_file(fd)
        if "cancel" in message:
            if self._tasks is not None:
                self._tasks.create_task(self._carry_out(message))
        elif "cancelled" in message:
            answer = self._answers.get(message["number"])
            if answer is not None and not answer.done():
                answer.set_result(bool(message["cancelled"]))
        elif "reload" in message:
            if self._tasks is not None:
                self._reload()
            self._is_reload_owed = self._tasks is None
        elif "make_room" in message and self._tasks is not None:
            self._make_room()

    def _take(self, protocol: str, fd: int) -> None:
        if fd < 0 or self._tasks is None:
            # The kernel has no room for one more open file of ours, or this worker drains.
            close_file(fd)
            self.places.end()
            return
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        try:
            self._connected[protocol](sock)
        except OSError:  # it is gone already
            sock.close()
            self.places.end()

    async def _carry_out(self, message: dict[str, Any]) -> None:
        pid, secret, peer = message["cancel"]
        known = False
        try:
            known = await self._cancel(pid, bytes.fromhex(secret), peer)
        finally:
            self._channel.send(
                {"to": message["from"], "number": message["number"], "cancelled": known}
            )
