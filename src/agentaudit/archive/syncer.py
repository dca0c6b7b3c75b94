"""Syncs a recorder's journal: on the event loop where the disk is quick, else on a thread.

Format and promise are the recorder's; here is only when a sync begins, and who hears of it.

The surprising decision: the event loop itself waits for a disk that is quick, because to wake a
thread and be woken by it costs more. Whatever comes meanwhile stays with the kernel and shares the
next sync. A disk that is slow, or has become slow, is the thread's to wait for.

What the thread is asked and what it answers goes through a pair of sockets: where it is compiled it
never takes the interpreter's lock, for which it would have to wait just when there is most to do.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from agentaudit._native.system import SYNC, receive, sync_loop

QUICK_S = 0.001
"""The event loop waits for a disk that takes less for a sync, in the mean of the last few."""

STALL_S = 0.05
"""No sync takes so long because the process had to wait for a processor: one is enough to tell."""

SLOW_DISK_S = 1.0
"""A disk that takes longer is left to the thread for so long, and then tried again."""

_MEAN_OF = 8


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
        self._next: tuple[int, int, bool] | None = None
        self._retired: list[int] = []
        self._mean_s = QUICK_S
        self._slow_until_s = 0.0
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

    def request(self, fd: int, event_no: int, *, is_awaited: bool) -> None:
        """Ask that the events below `event_no`, all written to `fd`, be synced.

        Where somebody waits for that, and the disk is quick, it has been done on return.
        """
        if self._has_failed or self._ours is None or self._is_stopped:
            return
        if self._is_busy:
            if event_no > self._asked_no:
                was_awaited = self._next is not None and self._next[2]
                self._next = (fd, event_no, is_awaited or was_awaited)
            return
        if is_awaited and self._is_quick():
            self._sync(fd, event_no)
            return
        self._is_busy = True
        self._asked_no = event_no
        self._ours.send(SYNC.pack(fd, event_no))

    def _is_quick(self) -> bool:
        if self._mean_s >= QUICK_S and time.monotonic() >= self._slow_until_s:
            # Just quick enough: where the next one is slow, it is the thread's again.
            self._mean_s = QUICK_S * (1 - 1 / _MEAN_OF)
        return self._mean_s < QUICK_S

    def _sync(self, fd: int, event_no: int) -> None:
        """Sync on the event loop, which waits."""
        began_s = time.monotonic()
        try:
            os.fdatasync(fd)
        except OSError as error:
            self._fail(error)
            return
        now_s = time.monotonic()
        took_s = now_s - began_s
        # One that took a little longer may have waited for a processor, which says nothing.
        counted_s = took_s if took_s >= STALL_S else min(took_s, 2 * QUICK_S)
        self._mean_s += (counted_s - self._mean_s) / _MEAN_OF
        if self._mean_s >= QUICK_S:
            self._slow_until_s = now_s + SLOW_DISK_S
        self._synced(event_no)

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

    def settle(self) -> OSError | None:
        """Wait for the sync that is under way and return why it failed, if it did; this blocks.

        Nobody is told, and what was to follow is forgotten: whoever calls this syncs everything
        next. A kernel tells of a failed write once, so without this that sync would succeed.
        """
        if not self._is_busy or self._ours is None:
            return None
        answer = select.poll()
        answer.register(self._ours, select.POLLIN)
        answer.poll()
        told = receive(self._ours.fileno(), SYNC.size)
        _, number = SYNC.unpack(told) if told else (-1, errno.EIO)
        self._is_busy = False
        self._next = None
        if not number:
            return None
        self._has_failed = True
        return OSError(number, os.strerror(number))

    def stop(self) -> None:
        """Ask nothing any more; `join` waits for the sync that is under way."""
        if self._ours is not None and not self._is_stopped:
            self._is_stopped = True
            self._loop.remove_reader(self._ours.fileno())
            self._ours.shutdown(socket.SHUT_WR)

    def join(self) -> OSError | None:
        """Return when the thread has ended, after `stop`, and what `settle` does; this blocks."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error = self.settle()
        if self._ours is not None:
            self._ours.close()
            self._ours = None
        self._close_retired()
        return error

    def _hear(self, event_no: int, number: int) -> None:
        self._is_busy = False
        self._close_retired()
        if number:
            self._fail(OSError(number, os.strerror(number)))
            return
        following, self._next = self._next, None
        if following is not None:
            fd, following_no, is_awaited = following
            self.request(fd, following_no, is_awaited=is_awaited)
        self._synced(event_no)

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        self._failed(error)

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()


def _serve(theirs: socket.socket) -> None:
    with theirs:
        sync_loop(theirs.fileno(), theirs.fileno())
