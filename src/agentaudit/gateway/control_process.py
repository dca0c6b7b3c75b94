"""The control API as a process: how a gateway runs it, and `python -m` of this is the process.

The gateway binds the address and keeps it, so that nobody is refused while the process is started
again. That is how it takes new settings, too: once they are good, it ends, and the next one reads
them. It ends with the gateway, however that ended: its standard input is a pipe that closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import structlog

from agentaudit.archive.clocks import Clock, ScriptedClock, SystemClock
from agentaudit.errors import AgentauditError, SettingsError
from agentaudit.gateway.operational_log import configure_log
from agentaudit.gateway.serving import WATCH_S, signatures, verifier_by
from agentaudit.gateway.wire import reason
from agentaudit.settings.file import load
from agentaudit.settings.values import Address
from agentaudit.settings.whole import Settings

BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 1000
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STOP_S: Final = 5.0
SILENT_MS: Final = 60_000
"""How long a connection may take nothing of what it is sent."""

log = structlog.get_logger()


class ControlProcess:
    """The control API of the gateway whose settings lie at `path`; belongs to its event loop."""

    def __init__(self, address: Address, path: Path, clock: Clock | None = None) -> None:
        """Bind `address`; a `clock` that a script moves is that of the process too.

        Raises:
            SettingsError: that cannot be done.
        """
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it: one that reads no more of a stream does not stay for ever.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
            self._socket.bind((address.host, address.port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise SettingsError(f"listen.control {address}: {reason(error)}") from None
        self._path = path
        self._clock_file = [str(clock.path)] if isinstance(clock, ScriptedClock) else []
        self._process: asyncio.subprocess.Process | None = None
        self._is_ending = False
        self._lives: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run it, in a task of `tasks`, until `stop`."""
        self._lives = tasks.create_task(self._live_on())
        host, port = self._socket.getsockname()[:2]
        log.info("listening", protocol="control", address=host, port=port)

    def reload(self) -> None:
        """Let it look for new settings, which it does now and then by itself."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End it."""
        self._is_ending = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._lives is not None:
            self._lives.cancel()
        if self._process is not None:
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._socket.close()

    async def _live_on(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_ending:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "agentaudit.gateway.control_process",
                    str(self._path),
                    str(self._socket.fileno()),
                    *self._clock_file,
                    stdin=asyncio.subprocess.PIPE,
                    pass_fds=[self._socket.fileno()],
                    start_new_session=True,
                )
                status = await self._process.wait()
            except OSError as error:
                status = -1
                log.error("the control API cannot be started", error=reason(error))
            if status == 0:
                pause_s = FIRST_PAUSE_S
                continue  # there are new settings
            log.error("the control API has ended, it starts again", status=status, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def main() -> int:
    """Serve until standard input ends; 0 then, and 2 if it could not start."""
    path, listening = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    clock = ScriptedClock(Path(sys.argv[3])) if len(sys.argv) > 3 else SystemClock()
    configure_log(process="control")
    try:
        settings = load(path)
        asyncio.run(_serve(settings, listening, clock))
    except AgentauditError as error:
        log.error("the control API cannot start", error=str(error), hint=error.hint)
        return 2
    return 0


async def _serve(settings: Settings, listening: socket.socket, clock: Clock) -> None:
    import uvicorn

    from agentaudit.gateway import archive_files, stream
    from agentaudit.gateway.changes import Changes
    from agentaudit.gateway.control import Control, application
    from agentaudit.gateway.control_listener import PatientProtocol
    from agentaudit.gateway.state_thread import StateThread
    from agentaudit.gateway.webhooks import Webhooks

    path = settings.path
    assert path is not None
    own = settings.gateway
    state = await StateThread.open(own.state, base=path.parent)
    control = Control(settings, state, verifier_by(clock, settings), clock)
    changes = Changes(state.do)
    webhooks = Webhooks(settings, state.do, changes, control.now_us)
    watched = stream.Stream(control, changes)
    app = application(control)
    app.state.stream = watched
    app.include_router(stream.router)
    app.include_router(archive_files.router)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            http=PatientProtocol,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(STOP_S) - 1,
            ssl_certfile=own.tls_cert_file,
            ssl_keyfile=None if own.tls_key_file is None else str(own.tls_key_file),
        )
    )

    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(0)
        server.should_exit = True
        watched.end()

    seen = signatures(settings)
    watch = loop.call_later(WATCH_S, lambda: look())

    def look() -> None:
        nonlocal seen, watch
        watch.cancel()
        watch = loop.call_later(WATCH_S, look)
        now = signatures(settings)
        if now != seen:
            seen = now
            with contextlib.suppress(SettingsError):  # of which the gateway tells
                load(path)
                end()

    loop.add_reader(0, end)
    loop.add_signal_handler(signal.SIGHUP, look)
    try:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(each.run()) for each in (changes, webhooks, watched)]
            await server.serve(sockets=[listening])
            for task in beside:
                task.cancel()
    finally:
        watch.cancel()
        await state.close()


if __name__ == "__main__":
    sys.exit(main())
