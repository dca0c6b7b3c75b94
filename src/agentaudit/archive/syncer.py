"""The one thread of a recorder: it waits for the disk, so that the event loop need not.

Format and promise are the recorder's; here is only when a sync begins, and who hears of it. What
the thread is asked and what it answers goes through two pipes: where it is compiled it never takes
the interpreter's lock, for which it would have to wait just when there is most to do.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

from agentaudit._native.system import SYNC, sync_loop


class Syncer:
    """Syncs a journal on demand. While one sync is under way, the next group gathers.

    `synced(event_no)` and `failed(error)` are called on the loop; after a failure, which is final,
    nothing is synced any more. All but `join` belongs to the loop's thread.
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
        self._is_busy = False
        self._has_failed = False
        self._next: tuple[int, int] | None = None
        self._retired: list[int] = []
        self._asked, self._asking = -1, -1
        self._told, self._telling = -1, -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._asked, self._asking = os.pipe()
        self._told, self._telling = os.pipe()
        self._loop.add_reader(self._told, self._answered)
        self._thread = threading.Thread(
            target=sync_loop, args=(self._asked, self._telling), name="journal-sync", daemon=True
        )
        self._thread.start()

    def request(self, fd: int, event_no: int) -> None:
        """Ask that the events below `event_no`, all written to `fd`, be synced."""
        if self._has_failed or self._asking < 0:
            return
        if self._is_busy:
            self._next = (fd, event_no)
            return
        self._is_busy = True
        os.write(self._asking, SYNC.pack(fd, event_no))

    def retire(self, fd: int) -> None:
        """Close `fd` once no sync of it is under way."""
        if self._next is not None and self._next[0] == fd:
            self._next = None
        self._retired.append(fd)
        if not self._is_busy:
            self._close_retired()

    def stop(self) -> None:
        """Ask nothing any more; `join` waits for the sync that is under way."""
        if self._asking >= 0:
            self._loop.remove_reader(self._told)
            os.close(self._asking)
            self._asking = -1

    def join(self) -> None:
        """Return when the thread has ended, after `stop`; this blocks."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            for fd in (self._asked, self._told, self._telling):
                os.close(fd)
        self._close_retired()

    def _answered(self) -> None:
        event_no, number = SYNC.unpack(os.read(self._told, SYNC.size))
        self._is_busy = False
        self._close_retired()
        if number:
            self._has_failed = True
            self._failed(OSError(number, os.strerror(number)))
            return
        following, self._next = self._next, None
        if following is not None:
            self.request(*following)
        self._synced(event_no)

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()
