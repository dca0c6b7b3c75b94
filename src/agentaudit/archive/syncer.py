"""The one thread of a recorder: it waits for the disk, so that the event loop need not.

Format and promise are the recorder's; here is only when a sync begins, and who hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any


class Syncer:
    """Syncs a journal on demand. While one sync is under way, the next group gathers.

    `synced(event_no)` and `failed(error)` are called on the loop; after a failure, which is final,
    nothing is synced any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        synced: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._synced = synced
        self._failed = failed
        self._wanted = threading.Condition()
        self._request: tuple[int, int] | None = None
        self._retired: list[int] = []
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request(self, fd: int, event_no: int) -> None:
        """Ask that the events below `event_no`, all written to `fd`, be synced."""
        with self._wanted:
            self._request = (fd, event_no)
            self._wanted.notify()

    def retire(self, fd: int) -> None:
        """Close `fd` once no sync of it is under way."""
        with self._wanted:
            if self._request is not None and self._request[0] == fd:
                self._request = None
            self._retired.append(fd)
            self._wanted.notify()

    def stop(self) -> None:
        """End the thread after the sync under way."""
        with self._wanted:
            self._ended = True
            self._wanted.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while self._request is None and not self._retired and not self._ended:
                    self._wanted.wait()
                request, self._request = self._request, None
                retired, self._retired = self._retired, []
                ended = self._ended
            for fd in retired:
                os.close(fd)
            if request is not None:
                fd, event_no = request
                try:
                    os.fdatasync(fd)
                except OSError as error:
                    self._call(self._failed, error)
                    return
                self._call(self._synced, event_no)
            elif ended:
                return

    def _call(self, function: Callable[[Any], None], argument: object) -> None:
        # A closed loop: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, argument)
