"""What takes long runs on a few threads, so that the server goes on; what is too much is refused.

DuckDB and Arrow release Python's lock while they work, so a few threads are all that serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from tornado.web import HTTPError

THREADS: Final = 4
MAX_AT_ONCE: Final = 64
"""Of requests that run or wait for a thread: more of them are told to come back."""

_Given = ParamSpec("_Given")
_Got = TypeVar("_Got")


class Work:
    """A pool of `threads` with room for `at_once` calls; of the server's event loop alone."""

    def __init__(self, threads: int = THREADS, at_once: int = MAX_AT_ONCE) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="agentaudit")
        self._at_once = at_once
        self._there = 0

    async def run(
        self, call: Callable[_Given, _Got], *args: _Given.args, **named: _Given.kwargs
    ) -> _Got:
        """Return what `call` returns on a thread.

        Raises:
            HTTPError: 503, there is too much to do already.
        """
        if self._there >= self._at_once:
            raise HTTPError(503, "too many questions at once; ask again")
        self._there += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: call(*args, **named))
        finally:
            self._there -= 1

    def close(self) -> None:
        """Begin nothing any more; what runs comes to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
