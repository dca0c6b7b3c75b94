"""Connections of the control API: who says nothing makes room for who does.

uvicorn refuses all when it has as many connections as it may, and waits for ever for a first
request. Here a request must be whole within a time, and of too many connections that have said
nothing, the oldest one of the address that has most of them goes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 15.0
"""From the connection, or its last answer, until a request has come."""

MAX_SILENT: Final = 64
"""Connections without a request, of all addresses."""

_silent: OrderedDict[PatientProtocol, str] = OrderedDict()


class PatientProtocol(H11Protocol):
    """HTTP/1.1 by h11, as uvicorn has it, for as long as somebody asks something."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request, and let another one go if too many wait."""
        super().connection_made(transport)
        _silent[self] = self.client[0] if self.client is not None else ""
        self._deadline = self.loop.call_later(REQUEST_S, self._give_up)
        if len(_silent) > MAX_SILENT:
            hosts = list(_silent.values())
            most = max(set(hosts), key=hosts.count)
            next(each for each, host in _silent.items() if host == most)._give_up()

    def data_received(self, data: bytes) -> None:
        """Take in what comes; with a whole head of a request it is not silent any more."""
        super().data_received(data)
        if self.cycle is not None:
            self._speaks()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._speaks()
        super().connection_lost(exc)

    def _speaks(self) -> None:
        _silent.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._speaks()
        self.transport.abort()
