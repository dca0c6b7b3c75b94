"""Tells who waits that the state has changed: one small question, however many wait.

It belongs to the control API's process. What has changed is not said: whoever is told looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from agentaudit.errors import StateError
from agentaudit.gateway.state import State

LOOK_S: Final = 0.25

Do = Callable[[Callable[[State], Any]], Awaitable[Any]]
"""`StateThread.do`."""

log = structlog.get_logger()


class Changes:
    """Sets the events of all who listen, whenever the state has changed."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self._listening: set[asyncio.Event] = set()

    def listen(self) -> asyncio.Event:
        """Return an event that is set at every change, and now."""
        changed = asyncio.Event()
        changed.set()
        self._listening.add(changed)
        return changed

    def leave(self, changed: asyncio.Event) -> None:
        """Set it no more."""
        self._listening.discard(changed)

    async def run(self) -> None:
        """Look on, until cancelled; nobody is asked while nobody listens."""
        seen, is_out_of_reach = None, False
        while True:
            if self._listening:
                try:
                    now = await self._do(State.revision)
                except StateError as error:
                    if not is_out_of_reach:
                        log.error("the state is out of reach", error=str(error), hint=error.hint)
                    is_out_of_reach = True
                else:
                    is_out_of_reach = False
                    if now != seen:
                        seen = now
                        for changed in self._listening:
                            changed.set()
            await asyncio.sleep(LOOK_S)
