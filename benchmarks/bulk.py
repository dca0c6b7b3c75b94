"""A client that moves many rows and looks at none: bytes a second, at the speed of a socket.

libpq logs in, as for anybody; then this takes its socket over and speaks the protocol's few
messages itself. What it costs the machine to drain a result is little, and the same for every
target. Of what arrives it looks at the last bytes alone: that the answer is complete, and has as
many rows as it should.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentaudit.demo.database import Postgres
from benchmarks.connections import connect
from benchmarks.slices import Slice, spending
from benchmarks.targets import DATABASE, Target

SELECT = "SELECT id, note FROM bulk"
COPY_OUT = "COPY bulk TO STDOUT"
COPY_IN = "COPY bulk_in FROM STDIN"

_BUFFER_BYTES = 256 * 1024
_READY = b"Z\0\0\0\5I"


def fill(server: Postgres, rows: int) -> None:
    """Make the table that is read, of `rows` rows, and an empty one to copy into."""
    server.execute(
        "CREATE UNLOGGED TABLE bulk AS SELECT id, d || left(d, 16) || reverse(d) AS note "
        f"FROM (SELECT n AS id, md5(n::text) AS d FROM generate_series(0, {rows - 1}) n) made",
        "VACUUM (FREEZE, ANALYZE) bulk",
        "CREATE UNLOGGED TABLE bulk_in (id int, note text)",
        "GRANT ALL ON bulk, bulk_in TO bench",
        database=DATABASE,
    )


def empty(server: Postgres) -> None:
    """Empty the table that is copied into."""
    server.execute("TRUNCATE bulk_in", database=DATABASE)


def moved(
    target: Target,
    application: str,
    ask: Callable[[socket.socket], int],
    *,
    cell: str,
    rows: int,
) -> Slice:
    """Let `ask` move rows in a session of its own; it returns how many bytes these were.

    Connecting is not part of the rate, and is of the CPU time.
    """
    with spending(target) as spent, _session(target, application) as connection:
        began = time.perf_counter()
        size = ask(connection)
        taken = time.perf_counter() - began
    return Slice(
        cell=cell,
        target=target.name,
        application=application,
        executions=1,
        rate=size / taken,
        cpu_s=spent.cpu_s,
        sealing_s=spent.sealing_s,
        waited_s=spent.waited_s,
        load=os.getloadavg()[0],
        rows=rows,
        moved=size,
    )


@contextmanager
def _session(target: Target, application: str) -> Iterator[socket.socket]:
    """Yield the socket of a session that has logged in."""
    libpq = connect(target, application)
    try:
        with socket.socket(fileno=os.dup(libpq.socket)) as connection:
            connection.setblocking(True)
            yield connection
    finally:
        libpq.finish()


def read(connection: socket.socket, statement: str, answer: str) -> int:
    """Execute a statement and drain the answer, which must end with the tag `answer`.

    Returns:
        The bytes of the whole answer.

    Raises:
        ValueError: it ended otherwise.
    """
    _ask(connection, statement)
    return _drain(connection, answer)


def write(
    connection: socket.socket, statement: str, block: memoryview, times: int, answer: str
) -> int:
    """Execute a `COPY … FROM STDIN` and feed it `block`, whole CopyData messages, `times`.

    Returns:
        The bytes of these messages.

    Raises:
        ValueError: the answer was another than the tag `answer`.
    """
    _ask(connection, statement)
    found = connection.recv(_BUFFER_BYTES)
    if not found.startswith(b"G"):
        raise ValueError(f"{statement}: the answer is {found[:200]!r}")
    for _ in range(times):
        for at in range(0, len(block), _BUFFER_BYTES):
            connection.sendall(block[at : at + _BUFFER_BYTES])
    connection.sendall(b"c\0\0\0\4")
    _drain(connection, answer)
    return len(block) * times


def _ask(connection: socket.socket, statement: str) -> None:
    text = statement.encode()
    connection.sendall(b"Q%s%s\0" % (struct.pack(">I", len(text) + 5), text))


def _drain(connection: socket.socket, answer: str) -> int:
    expected = answer.encode() + b"\0" + _READY
    size, end = 0, b""
    buffer = bytearray(_BUFFER_BYTES)
    while not end.endswith(expected):
        if end.endswith(_READY):
            # No value in these rows has such bytes: it is the end, and not the right one.
            raise ValueError(f"the answer ends with {end!r}, {expected!r} expected")
        count = connection.recv_into(buffer)
        if not count:
            raise ValueError(f"the answer ends after {size} bytes, {expected!r} expected")
        size += count
        end = (end + buffer[max(0, count - 64) : count])[-64:]
    return size
