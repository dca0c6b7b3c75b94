"""Durable file operations: each returns only when a power cut can no longer undo it.

A sync that fails is fatal to the caller (RecordingError above): the kernel may have dropped the
dirty pages, so a second sync that succeeds would prove nothing.

What is only read may be hostile: it is opened by `open_regular`, which waits for nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path

from agentaudit._native.system import write_all
from agentaudit.errors import ArchiveError

FILE_MODE = 0o640
FOLDER_MODE = 0o750
PRIVATE_MODE = 0o600
_COPY_BYTES = 1 << 20


def make_folder(path: Path) -> None:
    """Create `path` and its parents, each synced into its own parent."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in `path` durable: after a power cut a rename itself may be lost."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file; not through a link, and not waiting for what a pipe may say.

    Raises:
        ArchiveError: it is no regular file.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise ArchiveError(f"{path.name}: not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveError(f"{path.name}: not a regular file")
    return os.fdopen(fd, "rb")


def measure(path: Path, size: int) -> tuple[int, str]:
    """Return the size of a file that should have `size` bytes, and its SHA-256 if it has.

    One of another size is not read: it may have more bytes than anybody has time for.

    Raises:
        ArchiveError, OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        return found, file_digest(file, "sha256").hexdigest() if found == size else ""


def read_limited(path: Path, limit: int) -> bytes:
    """Return what is in `path`, of which a hostile archive may hold more than fits into memory.

    Raises:
        ArchiveError: more than `limit` bytes, or no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ArchiveError(f"{path.name}: more than the {limit} bytes that it may have")
    return data


def replace(path: Path, data: bytes, *, mode: int = FILE_MODE, writer: str = "") -> None:
    """Put `data` at `path` whole or not at all, durably.

    `writer` tells those apart that may do so at once.
    """
    write_new(path, data, mode=mode, writer=writer)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let nobody else who asks so change the file `path` meanwhile; others of the user wait."""
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_new(path: Path, data: bytes, *, mode: int = FILE_MODE, writer: str = "") -> None:
    """As `replace`, but the name is durable only after the caller's `sync_folder`."""
    write_temporary(path, data, mode=mode, writer=writer).replace(path)


def write_temporary(path: Path, data: bytes, *, mode: int = FILE_MODE, writer: str = "") -> Path:
    """Write and sync what `path` is to hold; return under which name it waits."""
    # A writer's own name, and not a process's: what a crash leaves is overwritten the next time.
    temporary = path.with_name(f"{path.name}.{writer}.tmp" if writer else f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    return temporary


def copy(source: Path, path: Path, *, mode: int = FILE_MODE) -> None:
    """Put a copy of the file `source` at `path` whole or not at all, durably."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with source.open("rb") as file:
            while data := file.read(_COPY_BYTES):
                write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)
