"""The state as an event loop asks it: on one thread, because a database may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from agentaudit.gateway.state import State

_Got = TypeVar("_Got")


class StateThread:
    """A state and its thread; what is asked is answered in the order asked."""

    def __init__(self, thread: ThreadPoolExecutor, state: State) -> None:
        self._thread = thread
        self._state = state

    @classmethod
    async def open(cls, url: str, *, base: Path) -> Self:
        """Open the state, as `State.open` does.

        Raises:
            SettingsError, StateError: as there.
        """
        thread = ThreadPoolExecutor(1, "state")
        loop = asyncio.get_running_loop()
        try:
            return cls(
                thread, await loop.run_in_executor(thread, lambda: State.open(url, base=base))
            )
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def do(self, call: Callable[[State], _Got]) -> _Got:
        """Return what `call` returns when it is called with the state, on its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, call, self._state)

    def last_write(self) -> tuple[int, int] | None:
        """Return what `State.last_write` does; it waits for nothing."""
        return self._state.last_write()

    async def close(self) -> None:
        """Close the state, behind what was asked before."""
        await self.do(State.close)
        self._thread.shutdown(wait=False)
