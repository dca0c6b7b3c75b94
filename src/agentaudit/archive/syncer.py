"""The one thread of a recorder: it waits for the disk, so that the event loop need not.

Format and promise are the recorder's; here is only when a sync begins, and who hears of it. What
the thread is asked and what it answers goes through a pair of sockets: where it is compiled it
never takes the interpreter's lock, for which it would have to wait just when there is most to do.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable

from agentaudit._native.system import SYNC, receive, sync_loop


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
        self._is_stopped = False
        self._asked_no = -1
        self._has_failed = False
        self._next: tuple[int, int] | None = None
        self._retired: list[int] = []
        self._ours: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._loop.add_reader(self._ours.fileno(), self.look)
        self._thread = threading.Thread(
            target=_serve, args=(theirs,), name="journal-sync", daemon=True
        )
        self._thread.start()

    def request(self, fd: int, event_no: int) -> None:
        """Ask that the events below `event_no`, all written to `fd`, be synced."""
        if self._has_failed or self._ours is None or self._is_stopped:
            return
        if self._is_busy:
            if event_no > self._asked_no:
                self._next = (fd, event_no)
            return
        self._is_busy = True
        self._asked_no = event_no
        self._ours.send(SYNC.pack(fd, event_no))

    def look(self) -> None:
        """Hear of the sync that is under way, if it is done."""
        if not self._is_busy or self._ours is None or self._is_stopped:
            return
        answer = receive(self._ours.fileno(), SYNC.size)
        if answer is not None:
            # Nothing at all: the thread is gone, and with it whatever it was to sync.
            self._hear(*(SYNC.unpack(answer) if answer else (-1, errno.EIO)))

    def retire(self, fd: int) -> None:
        """Close `fd` once no sync of it is under way."""
        if self._next is not None and self._next[0] == fd:
            self._next = None
        self._retired.append(fd)
        if not self._is_busy:
            self._close_retired()

    def stop(self) -> None:
        """Ask nothing any more; `join` waits for the sync that is under way."""
        if self._ours is not None and not self._is_stopped:
            self._is_stopped = True
            self._loop.remove_reader(self._ours.fileno())
            self._ours.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        """Return when the thread has ended, after `stop`; this blocks."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._ours is not None:
            self._ours.close()
            self._ours = None
        self._close_retired()

    def _hear(self, event_no: int, number: int) -> None:
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


def _serve(theirs: socket.socket) -> None:
    with theirs:
        sync_loop(theirs.fileno(), theirs.fileno())
