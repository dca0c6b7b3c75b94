"""The gateway's door for its own machine: a Unix socket that lies in the archive.

`journal/<gateway>/control` takes one request a connection, one line of JSON, and answers with one.
The kernel says who asks (SO_PEERCRED). Whoever may reach the socket may leave a record of access;
everything else is for the gateway's own user and root. It lies in the archive because that is what
its callers have in hand, and because who may not enter there has nothing to ask.

A socket's path holds 107 bytes, an archive's may be longer: it is bound by way of its folder's
descriptor in /proc. Source: unix(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from agentaudit.errors import AgentauditError, QuestionError, RecordingError
from agentaudit.gateway.orders import Asker, Orders, user_name

MAX_REQUEST_BYTES: Final = 64 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 32
MAX_A_MINUTE: Final = 600
"""Requests of one user that are heard: a record of access is small, and must not fill the disk."""

MODE: Final = 0o660
_PEER = struct.Struct("3i")

log = structlog.get_logger()


class Local:
    """The local socket of a running gateway. `start` it, and `stop` it before its recorder."""

    def __init__(self, path: Path, orders: Orders) -> None:
        self._path = path
        self._orders = orders
        self._server: asyncio.Server | None = None
        self._tasks: asyncio.TaskGroup
        self._serving: set[asyncio.Task[None]] = set()
        self._heard: Counter[int] = Counter()
        self._minute: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. A socket that a gateway before this one left behind gives way.

        Raises:
            RecordingError: there can be no socket in that folder.
        """
        self._tasks = await asyncio.TaskGroup().__aenter__()
        try:
            listening = _bind(self._path)
            self._server = await asyncio.start_unix_server(
                self._connected, sock=listening, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise RecordingError(
                f"{self._path}: {error.strerror}",
                hint="the archive must lie on a local file system that can hold a socket",
            ) from error

    async def stop(self) -> None:
        """Listen no more, remove the socket, and let go of whoever still waits for an answer."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        if self._minute is not None:
            self._minute.cancel()
        for task in list(self._serving):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = self._tasks.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader, writer)
            if answer is not None:
                writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await writer.drain()
            writer.close()
        except (OSError, TimeoutError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        except Exception as error:
            # A request must not take the gateway with it; what it held may be in the text.
            log.error("local request failed unexpectedly", error=type(error).__name__)
            writer.transport.abort()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any] | None:
        """Return what to say to the one request of a connection; None to one that says nothing."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readline()
        except ValueError:
            return _no(QuestionError(f"a request of more than {MAX_REQUEST_BYTES} bytes"))
        if not line.endswith(b"\n"):
            return None
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _no(QuestionError("a request that is no line of JSON"))
        if not isinstance(request, Mapping):
            return _no(QuestionError("a request that is no JSON object"))
        connection = writer.get_extra_info("socket")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(credentials)
        try:
            self._count(uid)
            # A directory service may be asked for the name, so not on the loop.
            name = await asyncio.get_running_loop().run_in_executor(None, user_name, uid)
            asker = Asker(name, uid in (0, os.getuid()))
            return {"ok": True, "result": await self._orders.carry_out(asker, request)}
        except AgentauditError as error:
            return _no(error)

    def _count(self, uid: int) -> None:
        if self._minute is None:
            self._minute = asyncio.get_running_loop().call_later(60.0, self._forget)
        self._heard[uid] += 1
        if self._heard[uid] > MAX_A_MINUTE:
            raise QuestionError(f"more than {MAX_A_MINUTE} requests in a minute", hint="wait")

    def _forget(self) -> None:
        self._minute = None
        self._heard.clear()


def _bind(path: Path) -> socket.socket:
    """Return a socket bound at `path` that only owner and group may connect to."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            # The sealer holds the lock of this folder: whoever left it listens no more.
            os.unlink(path.name, dir_fd=folder)
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        # Before it listens: until then nobody can connect, whatever the umask let through.
        os.chmod(path.name, MODE, dir_fd=folder)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(folder)
    return listening


def _no(error: AgentauditError) -> dict[str, Any]:
    return {"ok": False, "error": str(error), "hint": error.hint, "kind": type(error).__name__}
