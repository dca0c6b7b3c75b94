"""What the data path asks of the system for every read and write: sockets, clocks, a sync.

As with `raw`, this runs where `system.pyx` was not compiled, and says what each means for both.
"""

from __future__ import annotations

import os
import select
import struct
import time

SYNC = struct.Struct("=qq")
"""What `sync_loop` is asked (file, number of the event) and what it answers (number, errno)."""


# --- clocks


def now_us() -> int:
    """Return the machine's time, microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def mono_ns() -> int:
    """Return nanoseconds that never go back."""
    return time.monotonic_ns()


# --- files


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: one write(2) may take less.

    Raises:
        OSError: it cannot be, and a part of it may have been.
    """
    written = os.write(fd, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(fd, view[written:])


def write_all_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`.

    Raises:
        OSError: it cannot be, and a part of it may have been.
    """
    view = memoryview(data)
    written = 0
    while written < len(data):
        written += os.pwrite(fd, view[written:], offset + written)


# --- syncing


def sync_loop(asked: int, telling: int) -> None:
    """Sync files on demand, until `asked` ends; see `SYNC`."""
    while len(question := os.read(asked, SYNC.size)) == SYNC.size:
        fd, number = SYNC.unpack(question)
        error = 0
        try:
            os.fdatasync(fd)
        except OSError as failed:
            error = failed.errno or 1
        os.write(telling, SYNC.pack(number, error))


# --- sockets, which do not block


def poll(epoll: select.epoll, most: int) -> list[int]:
    """Return at most `most` files that are ready now, each with the mask of what for behind it.

    Raises:
        OSError, ValueError: `epoll` is closed.
    """
    return [number for pair in epoll.poll(0, most) for number in pair]


def receive(fd: int, size: int) -> bytes | None:
    """Return at most `size` bytes of what has come to a socket, None where nothing has.

    Raises:
        OSError: it is broken.
    """
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None


def send(fd: int, data: bytes) -> int:
    """Return how many of the bytes a socket has taken.

    Raises:
        OSError: it is broken.
    """
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
