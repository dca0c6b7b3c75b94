"""How much of an SSH session waits: in each direction of a channel, and for each connection.

A side is not read while too much of what it said waits, for the journal or for the other side; and
a peer that is not read fills its window and stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import asyncssh

from agentaudit.archive.recorder import Waiter
from agentaudit.gateway.relay import HIGH_WATER_BYTES, LOW_WATER_BYTES
from agentaudit.gateway.ssh_transport import (
    Channel,
    Connection,
    hasten,
    while_keys_change,
    write,
)

_WIRE_BYTES: Final = 256 * 1024
"""What may wait for a peer's connection before its channels' other ends wait too."""
_UNHEARD_BYTES: Final = 8 * 1024 * 1024
"""What may wait for it before it is heard no more."""
_LOOK_S: Final = 0.1


class BytesWaiter(Waiter):
    """Bytes that wait until they count."""

    __slots__ = ("data", "flow", "kind")

    def __init__(self, flow: Flow, data: bytes, kind: int | None) -> None:
        self.flow = flow
        self.data = data
        self.kind = kind

    def go(self) -> None:
        self.flow.send(self.data, self.kind)


class ActWaiter(Waiter):
    """Something else that has its place among the bytes."""

    __slots__ = ("_act",)

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def go(self) -> None:
        # Its channel may be gone by then, and with it whoever would have heard.
        with suppress(OSError, asyncssh.Error):
            self._act()


class Flow:
    """One direction of a channel: how much of it waits, and whether its source is read."""

    __slots__ = (
        *("_held_bytes", "is_asking", "is_held_up", "is_paused", "is_sink_full", "is_wire_full"),
        *("sink", "source"),
    )

    def __init__(self) -> None:
        self.source: Channel | None = None
        self.sink: Channel | None = None
        self.is_sink_full = self.is_wire_full = False
        self.is_held_up = False
        self.is_asking = False
        self.is_paused = False
        self._held_bytes = 0

    def hold(self, size: int) -> None:
        """Count bytes that wait until they count."""
        self._held_bytes += size
        self.throttle()

    def send(self, data: bytes, kind: int | None) -> None:
        """Let bytes go that were held."""
        self._held_bytes -= len(data)
        if self.sink is not None:
            with suppress(OSError):  # a sink that is closed takes nothing more
                write(self.sink, data, kind)
        if self.is_paused:
            self.throttle()

    def throttle(self) -> None:
        """Read the source if, and only if, there is room for what it says."""
        if self.source is None:
            return
        room = LOW_WATER_BYTES if self.is_paused else HIGH_WATER_BYTES
        must_wait = (
            self.is_sink_full
            or self.is_wire_full
            or self.is_held_up
            or self.is_asking
            or self._held_bytes > room
        )
        if must_wait and not self.is_paused:
            self.is_paused = True
            self.source.pause_reading()
        elif self.is_paused and not must_wait:
            self.is_paused = False
            self.source.resume_reading()


class Wire:
    """What one connection has not taken yet.

    The library heeds the windows of channels alone, and a peer may open one of four gigabytes and
    read nothing; or ask for any number of answers, and not read those; or begin to change keys, for
    which all waits, and never end.
    """

    def __init__(
        self,
        connection: Connection,
        tell: Callable[[bool], None],
    ) -> None:
        self._tell = tell
        self._transport: Any = connection._transport
        self.is_full = False
        self._reasons = set[str]()
        # Of the library's, these do nothing.
        connection.pause_writing = partial(self._wait, "room")  # type: ignore[method-assign]
        connection.resume_writing = partial(self._go_on, "room")  # type: ignore[method-assign]
        hasten(connection)
        while_keys_change(connection, partial(self._wait, "keys"), partial(self._go_on, "keys"))
        if self._transport is not None:
            self._transport.set_write_buffer_limits(_WIRE_BYTES, _WIRE_BYTES // 4)

    def _wait(self, reason: str) -> None:
        self._reasons.add(reason)
        if not self.is_full:
            self._turn(True)

    def _go_on(self, reason: str) -> None:
        self._reasons.discard(reason)
        if self.is_full and not self._reasons:
            self._turn(False)

    def _turn(self, is_full: bool) -> None:
        self.is_full = is_full
        if is_full:
            self._look()
        else:
            with suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()
        self._tell(is_full)

    def _look(self) -> None:
        """Hear the peer no more if what it asks for grows, and it takes no answer."""
        if not self.is_full or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > _UNHEARD_BYTES:
            with suppress(RuntimeError):
                self._transport.pause_reading()
        else:
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)
