"""A server of ours that answers with rows as fast as its socket takes them.

What stands between it and a client, and not the server, is then the slowest. It lets anybody in,
answers `SELECT blocks N` with N times the same 200,000 rows, and everything else with an empty
success: that is all that a client, a pooler or a gateway needs from it here.

Format: postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from agentaudit.demo.processes import Child
from benchmarks.rows import BLOCK_ROWS, message, row_block

STATEMENT = "SELECT blocks "
_SEND_BYTES = 256 * 1024
_READY = message(b"Z", b"I")
_PARAMETERS = {
    "server_version": "18.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}
_SSL_REQUEST = 80877103
_GSSENC_REQUEST = 80877104


def answer_of(blocks: int) -> str:
    """Return the tag with which the answer to `SELECT blocks N` ends."""
    return f"SELECT {blocks * BLOCK_ROWS}"


@contextmanager
def running(directory: Path) -> Iterator[tuple[int, int]]:
    """Run the server as a process, with its files in `directory`; yield its port and its pid."""
    address = directory / "synthetic"
    child = Child(
        [sys.executable, "-m", "benchmarks.synthetic", address],
        log=directory / "synthetic.log",
        directory=Path(__file__).parents[1],
    )
    try:
        child.wait_for(address.exists, "synthetic server: start")
        yield int(address.read_text()), child.pid
    finally:
        child.stop()


def serve(address: Path) -> None:
    """Serve until the process is ended; the port is in the file `address` once it listens."""
    rows = memoryview(row_block())
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        # Renamed into place: who finds the file finds all of it.
        pending = address.with_suffix(".tmp")
        pending.write_text(str(listener.getsockname()[1]))
        pending.rename(address)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, rows), daemon=True).start()


def _converse(connection: socket.socket, rows: memoryview) -> None:
    with connection, connection.makefile("rb") as reader:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            _login(connection, reader)
            while head := reader.read(5):
                body = reader.read(struct.unpack(">I", head[1:])[0] - 4)
                if head[:1] == b"X":
                    return
                _answer(connection, head[:1], body, rows)
        except (ConnectionError, struct.error):
            return  # the client has gone, or speaks another protocol


def _login(connection: socket.socket, reader: BufferedReader) -> None:
    while True:
        size, code = struct.unpack(">II", reader.read(8))
        reader.read(size - 8)
        if code not in (_SSL_REQUEST, _GSSENC_REQUEST):
            break
        connection.sendall(b"N")
    greeting = [message(b"R", struct.pack(">I", 0))]
    for name, value in _PARAMETERS.items():
        greeting.append(message(b"S", f"{name}\0{value}\0".encode()))
    greeting.append(message(b"K", struct.pack(">II", threading.get_native_id(), 1)))
    connection.sendall(b"".join(greeting) + _READY)


def _answer(connection: socket.socket, kind: bytes, body: bytes, rows: memoryview) -> None:
    text = body.rstrip(b"\0").decode()
    if kind != b"Q" or not text.startswith(STATEMENT):
        connection.sendall(message(b"C", b"SET\0") + _READY)
        return
    blocks = int(text.removeprefix(STATEMENT))
    columns = b"".join(
        name + b"\0" + struct.pack(">IHIhiH", 0, 0, oid, size, -1, 0)
        for name, oid, size in ((b"id", 23, 4), (b"note", 25, -1))
    )
    connection.sendall(message(b"T", b"\0\2" + columns))
    for _ in range(blocks):
        for at in range(0, len(rows), _SEND_BYTES):
            connection.sendall(rows[at : at + _SEND_BYTES])
    connection.sendall(message(b"C", answer_of(blocks).encode() + b"\0") + _READY)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
