"""The sealer's process as its gateway sees it: lines of JSON either way.

What the sealer does with them is `agentaudit.archive.sealer`'s business. Callbacks rather than
tasks: what it says, and that it has ended, must reach a recorder that nobody awaits.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from agentaudit.archive import canonical
from agentaudit.archive.clocks import Clock, ScriptedClock
from agentaudit.archive.keys import Place
from agentaudit.archive.outside import Outside
from agentaudit.errors import (
    AgentauditError,
    ArchiveError,
    QuestionError,
    RecordingError,
    TamperedError,
)

EXIT_S = 120.0
"""How long a sealer may take to seal what is left; then the next start does it."""

_KEEPS_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Bytes, to glibc (malloc's tunables): freed memory is used again. A batch takes megabytes and
frees them; what the system gets back it clears page by page before it gives it out, a sixth of all
that sealing cost. Arrow takes its memory there too: beside it, its own allocator went up and down
by 20 MiB, and took 30 more."""


class SealerProcess(asyncio.SubprocessProtocol):
    """One sealer. `said(message)` gets what it tells once it is ready, `ended(error)` its end."""

    def __init__(
        self,
        said: Callable[[dict[str, Any]], None],
        ended: Callable[[AgentauditError], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._said = said
        self._ended = ended
        self._loop = loop
        self._ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._partial = b""
        self._orders: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_order = 1
        self._error: AgentauditError | None = None

    async def start(self, place: Place, clock: Clock, outside: Outside) -> dict[str, Any]:
        """Start the process; return what it says once it has recovered the archive.

        Raises:
            RecordingError, TamperedError, ArchiveError: it cannot, and says why.
        """
        await self._loop.subprocess_exec(
            lambda: self,
            sys.executable,
            "-m",
            "agentaudit.archive.sealer",
            stderr=None,
            env=_KEEPS_MEMORY | os.environ,
            # A terminal's Ctrl-C goes to the whole group; the sealer must outlive the gateway's
            # drain to seal it.
            start_new_session=True,
        )
        self.send(
            {
                "archive": str(place.archive.absolute()),
                "gateway": place.gateway,
                "origin": place.origin,
                "keys": str(place.keys.absolute()),
                "clock": clock.kind,
                "clock_file": str(clock.path) if isinstance(clock, ScriptedClock) else "",
                "outside": outside.to_json(),
            }
        )
        return await self._ready

    async def stop(self, *, failed: bool) -> None:
        """Let it seal what is journaled (unless recording `failed` uncleanly), and end.

        Raises:
            RecordingError: it ended before it had sealed everything.
        """
        if self._transport is None:
            return
        if not self._exited.done():
            self.send({"stop": not failed})
            try:
                await asyncio.wait_for(asyncio.shield(self._exited), EXIT_S)
            except TimeoutError:
                self.kill()
                await self._exited
        status = self._exited.result()
        if self._error is not None:
            raise RecordingError(str(self._error), hint=self._error.hint)
        if status != 0:
            raise RecordingError(
                f"the sealer ended with status {status} before it had sealed everything",
                hint="what is journaled is recovered at the next start",
            )

    async def order(self, do: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """Give the sealer an order and return its result; a purge may take minutes.

        Raises:
            QuestionError: the sealer will not, and says why; it goes on as before.
            RecordingError: it has ended.
        """
        if self._transport is None or self._exited.done():
            raise RecordingError("the sealer has ended, so nobody can carry this out")
        number = self._next_order
        self._next_order += 1
        answer = self._orders[number] = self._loop.create_future()
        try:
            self.send({**members, "order": number, "do": do})
            result: dict[str, Any] = await answer
        finally:
            self._orders.pop(number, None)
        return result

    def starved_s(self) -> float:
        """Return how long it has waited for a processor so far, seconds; 0 where nobody counts.

        Source: proc_pid_schedstat, the second number, in nanoseconds (Linux,
        Documentation/scheduler/sched-stats).
        """
        if self._transport is None:
            return 0.0
        try:
            told = Path(f"/proc/{self._transport.get_pid()}/schedstat").read_text(encoding="ascii")
            return int(told.split()[1]) / 1e9
        except OSError:
            return 0.0

    def kill(self) -> None:
        """End it at once; what it leaves half done, the next start undoes or completes."""
        if self._transport is not None and not self._exited.done():
            self._transport.kill()

    def send(self, message: dict[str, Any]) -> None:
        """Tell the sealer something; a sealer that has ended hears nothing."""
        assert self._transport is not None
        stdin = cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))
        if stdin is not None and not stdin.is_closing():
            stdin.write(canonical.encode(message) + b"\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            message = canonical.decode(line)
            if "ready" in message:
                self._ready.set_result(message["ready"])
            elif "order" in message:
                self._answer(message)
            elif "error" in message:
                errors = {"TamperedError": TamperedError, "ArchiveError": ArchiveError}
                self._error = errors.get(message["kind"], RecordingError)(
                    message["error"], hint=message["hint"]
                )
            else:
                self._said(message)

    def _answer(self, message: dict[str, Any]) -> None:
        answer = self._orders.get(message["order"])
        if answer is None or answer.done():
            return  # whoever asked has gone
        if "error" in message:
            answer.set_exception(QuestionError(message["error"], hint=message.get("hint", "")))
        else:
            answer.set_result(message["result"])

    def connection_lost(self, exc: Exception | None) -> None:
        # Not process_exited: that may come before the last line of what it said.
        assert self._transport is not None
        status = self._transport.get_returncode()
        self._exited.set_result(-1 if status is None else status)
        error = self._error or RecordingError(
            f"the sealer ended with status {status}",
            hint="its standard error says why; recording goes on after a restart",
        )
        for answer in self._orders.values():
            if not answer.done():
                answer.set_exception(
                    RecordingError(
                        "the sealer ended before it had carried this out",
                        hint="a purge that was begun is finished at the next start",
                    )
                )
        if not self._ready.done():
            self._ready.set_exception(error)
        else:
            self._ended(error)
