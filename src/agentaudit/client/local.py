"""Asks a running gateway on the same machine: which are there, and one request to one of them.

An archive may come from anywhere, so what lies at a socket's place in it is looked at before it is
spoken to: it must be a socket, in folders that are no links. And nothing here is needed to read: a
record of access that cannot be left is told to the reader, and stops nobody.

The other end: `gateway.local`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agentaudit import errors
from agentaudit.archive.layout import Layout
from agentaudit.errors import AgentauditError, QuestionError, RecordingError

ACCESS_TIMEOUT_S: Final = 2.0
"""What a reader waits at most for a record of access: a few syncs of a slow disk."""

CONNECT_TIMEOUT_S: Final = 2.0
MAX_ANSWER_BYTES: Final = 16 << 20


def running(archive: Path) -> list[str]:
    """Return the gateways that record into `archive` on this machine now, sorted."""
    found = []
    for gateway in Layout(archive).gateways():
        with contextlib.suppress(OSError), _connected(archive, gateway):
            found.append(gateway)
    return found


def is_running(archive: Path, gateway: str) -> bool:
    """Say whether `gateway` records into `archive` on this machine now.

    Raises:
        QuestionError: there is a socket of it, and this user may not use it.
    """
    try:
        with _connected(archive, gateway):
            return True
    except PermissionError as error:
        raise QuestionError(
            f"gateway {gateway}: {error.strerror}", hint="ask it as its own user, or as root"
        ) from None
    except OSError:
        return False


def ask(
    archive: Path, gateway: str, request: dict[str, Any], *, timeout_s: float | None = None
) -> dict[str, Any]:
    """Send one request to a running gateway and return its result.

    Without `timeout_s` it waits for as long as the gateway works on it.

    Raises:
        AgentauditError: as the gateway says; a `RecordingError` where none answers.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        with _connected(archive, gateway) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(connection, deadline))
        if answer["ok"]:
            result: dict[str, Any] = answer["result"]
            return result
        kind = getattr(errors, answer["kind"], AgentauditError)
        text, hint = str(answer["error"]), str(answer["hint"])
    except OSError as error:
        raise RecordingError(
            f"gateway {gateway}: {error.strerror or 'no answer in time'}",
            hint="its own log says what it does",
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RecordingError(f"gateway {gateway}: its answer makes no sense") from None
    if not (isinstance(kind, type) and issubclass(kind, AgentauditError)):
        kind = AgentauditError
    raise kind(text, hint=hint)


def record_access(archive: Path, action: str, object_: str, detail: str = "") -> bool:
    """Let a running gateway record that this user does `action` to the archive; say whether it did.

    Never an error: a copy of an archive has no gateway.
    """
    request = {"do": "access", "action": action, "object": object_, "detail": detail}
    give_up_at = time.monotonic() + ACCESS_TIMEOUT_S
    try:
        for gateway in Layout(archive).gateways():
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                return False
            with contextlib.suppress(AgentauditError):
                ask(archive, gateway, request, timeout_s=left_s)
                return True
    except OSError:
        pass  # the archive cannot be read: whoever opens it will be told
    return False


@contextmanager
def _connected(archive: Path, gateway: str) -> Iterator[socket.socket]:
    """Connect to a gateway's socket.

    Raises:
        OSError: there is none, or nobody listens.
    """
    path = Layout(archive).control(gateway)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as opened:
        folder = os.open(archive, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        for name in path.relative_to(archive).parts[:-1]:
            folder = os.open(name, flags, dir_fd=folder)
            opened.callback(os.close, folder)
        if not stat.S_ISSOCK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise FileNotFoundError(2, "not a socket", str(path))
        connection = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        yield connection


def _line(connection: socket.socket, deadline: float | None) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError(104, "it hung up")
        received += data
        if len(received) > MAX_ANSWER_BYTES:
            raise ValueError("too long an answer")
    return bytes(received)
