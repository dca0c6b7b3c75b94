"""A gateway with several workers: one process listens, and hands each connection to one of them.

The supervisor accepts, and gives the open connection to the worker that has fewest; it never reads
a byte of it. So all clients share one port and one queue, load is even where there are few
connections that live long, and what waits to be accepted is lost with no worker. docs/decisions
says what was decided against.

A worker that dies is started again, which recovers its log, while the others go on. Workers end
when their channel closes, so they drain and seal however the supervisor ended, kill -9 included.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Final

import structlog
import uvloop

from agentaudit import errors
from agentaudit.errors import AgentauditError, ArchiveError, RecordingError, SettingsError
from agentaudit.gateway import places
from agentaudit.gateway.channel import Channel, Message, close_file
from agentaudit.gateway.control_process import ControlProcess
from agentaudit.gateway.operational_log import configure_log
from agentaudit.gateway.orders import recover_others
from agentaudit.gateway.server import BACKLOG
from agentaudit.gateway.serving import read_host_key
from agentaudit.gateway.wire import reason
from agentaudit.gateway.worker import CANNOT_START
from agentaudit.settings.file import parse
from agentaudit.settings.values import Address
from agentaudit.settings.whole import Settings

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Between two starts of a worker: twice as long after each one that did not live for a minute."""

GOOD_LIFE_S: Final = 60.0
_ACCEPT_A_TURN: Final = 64
_ACCEPT_PAUSE_S: Final = 1.0

log = structlog.get_logger()


class _Worker:
    """One worker, through all its lives."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.channel: Channel | None = None
        self.is_ready = False
        """It has started, in this life."""
        self.is_open = False
        """It takes connections: it is ready, does not drain, and can record."""
        self.handed = 0
        self.failure: AgentauditError | None = None
        self.status: int | None = None


class _Listening:
    """An address that clients of one protocol connect to."""

    def __init__(self, protocol: str, sock: socket.socket) -> None:
        self.protocol = protocol
        self.socket = sock
        self.is_accepting = False


class Supervisor:
    """Runs the workers of `settings`, whose file held `text` when it was read."""

    def __init__(self, settings: Settings, text: bytes) -> None:
        own = settings.gateway
        self._settings = settings
        self._text = text
        self._workers = [_Worker(number, name) for number, name in enumerate(own.names)]
        self._memory = places.create(own.workers)
        self._shared = places.Shared(self._memory, own.workers)
        self._listening: list[_Listening] = []
        self._control: ControlProcess | None = None
        self._host_key = b""
        self._has_listened = False
        self._stop = asyncio.Event()
        self._failure: AgentauditError | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """Run until `stop`; return 0, or 1 if recording failed in a worker meanwhile.

        Raises:
            SettingsError, RecordingError, TamperedError: a worker could not start, or the address
                cannot be listened on; none runs any more.
        """
        listen = self._settings.listen
        try:
            if listen.ssh is not None:
                # Read once: a worker that starts again later has the key that clients know.
                self._host_key = read_host_key(self._settings)
            for protocol, address in (("postgres", listen.postgres), ("ssh", listen.ssh)):
                if address is not None:
                    bound = await self._bind(protocol, address)
                    self._listening.append(_Listening(protocol, bound))
            if self._settings.listen.control is not None:
                assert self._settings.path is not None
                self._control = ControlProcess(self._settings.listen.control, self._settings.path)
            await recover_others(self._settings)
            async with asyncio.TaskGroup() as lives:
                for worker in self._workers:
                    lives.create_task(self._keep(worker))
                lives.create_task(self._end())
                if self._control is not None:
                    self._control.start(lives)
        finally:
            self._close_listening()
        if self._failure is not None:
            raise self._failure
        # None: it was not running any more; what it had not sealed, the next start recovers.
        return int(any(worker.status != 0 for worker in self._workers))

    def stop(self) -> None:
        """Let all workers drain and seal."""
        self._stop.set()

    def reload(self) -> None:
        """Let all workers read the settings again."""
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.send({"reload": True})
        if self._control is not None:
            self._control.reload()

    async def _end(self) -> None:
        await self._stop.wait()
        log.info("stopping", pid=os.getpid())
        self._refuse()
        self._close_listening()
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.close()
        if self._control is not None:
            await self._control.stop()

    # --- workers

    async def _keep(self, worker: _Worker) -> None:
        """Start a worker, again and again, until the gateway ends."""
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            began_s = self._loop.time()
            worker.status = await self._live(worker)
            self._shared.clear(worker.number)
            if self._stop.is_set():
                return
            failure = worker.failure
            if not self._has_listened or isinstance(failure, ArchiveError):
                # At the start all must be there. Later what was lacking may come back, a lock or
                # a file: only what a person has to look at ends all.
                self._failure = failure or RecordingError(
                    f"worker {worker.name} ended with status {worker.status} before it was ready",
                    hint="its lines in this log say why",
                )
                worker.status = None
                self._stop.set()
                return
            if self._loop.time() - began_s >= GOOD_LIFE_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "worker ended, another one starts",
                gateway=worker.name,
                status=worker.status,
                pause_s=pause_s,
                error=str(failure or ""),
                hint=failure.hint if failure is not None else "",
            )
            await self._wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            worker.status = None

    async def _wait(self, seconds: float) -> None:
        """Return after so long, or when the gateway ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    async def _live(self, worker: _Worker) -> int:
        """Start a worker, and return its exit status once it has ended."""
        worker.failure = None
        worker.handed = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        documents: list[int] = []
        try:
            for data in (self._text, self._host_key):
                documents.append(os.memfd_create("agentaudit settings", os.MFD_CLOEXEC))
                os.write(documents[-1], data)
                os.lseek(documents[-1], 0, os.SEEK_SET)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agentaudit.gateway.worker",
                stdin=theirs.fileno(),
                # A terminal's Ctrl-C goes to the whole group; we end the workers.
                start_new_session=True,
            )
            theirs.close()
            channel = worker.channel = Channel(
                ours,
                lambda message, fd: self._received(worker, message, fd),
                lambda: self._close(worker),
            )
            who = {"number": worker.number, "path": str(self._settings.path)}
            channel.hand_over(who, self._memory)
            for what, document in zip(("settings", "host_key"), documents, strict=True):
                channel.hand_over({what: True}, document)
        except OSError as error:
            ours.close()
            worker.failure = RecordingError(f"worker {worker.name}: {reason(error)}")
            return CANNOT_START
        finally:
            theirs.close()
            for document in documents:
                os.close(document)
        if self._stop.is_set():
            channel.close()
        try:
            return await process.wait()
        finally:
            channel.close()
            self._close(worker)
            worker.channel = None

    def _close(self, worker: _Worker) -> None:
        worker.is_open = worker.is_ready = False
        self._look()

    def _received(self, worker: _Worker, message: Message, fd: int) -> None:
        close_file(fd)
        if "to" in message:
            self._pass_on(message)
        elif "ready" in message:
            worker.is_ready = worker.is_open = True
            log.info("worker is ready", gateway=worker.name)
            self._look()
        elif "closed" in message:
            worker.is_open = False
        elif "failed" in message:
            kind = getattr(errors, message["failed"], RecordingError)
            worker.failure = kind(message["error"], hint=message["hint"])

    def _pass_on(self, message: Message) -> None:
        """Give a worker what another one has for it."""
        channel = self._workers[message["to"]].channel
        if (channel is None or not channel.send(message)) and "cancel" in message:
            # Its keys died with it.
            asker = self._workers[message["from"]].channel
            if asker is not None:
                asker.send({"number": message["number"], "cancelled": False})

    # --- connections

    async def _bind(self, protocol: str, address: Address) -> socket.socket:
        """Return a socket that has the address, and refuses until it listens."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            ((*_, place), *_) = await self._loop.getaddrinfo(
                address.host, address.port, family=family, type=socket.SOCK_STREAM
            )
            listening.bind(place)
        except OSError as error:
            listening.close()
            raise SettingsError(f"listen.{protocol} {address}: {reason(error)}") from None
        return listening

    def _look(self) -> None:
        """Accept while there is a worker to take connections; else they wait in the queue."""
        if self._stop.is_set() or not self._listening:
            return
        if not self._has_listened and all(worker.is_ready for worker in self._workers):
            self._has_listened = True
            for one in self._listening:
                one.socket.listen(BACKLOG)
                host, port, *_ = one.socket.getsockname()
                log.info("listening", protocol=one.protocol, address=host, port=port)
        if self._has_listened and any(worker.is_ready for worker in self._workers):
            self._accept_again()
        else:
            self._refuse()

    def _accept_again(self) -> None:
        for one in self._listening:
            if not one.is_accepting and not self._stop.is_set():
                one.is_accepting = True
                self._loop.add_reader(one.socket, self._accept, one)

    def _refuse(self) -> None:
        for one in self._listening:
            if one.is_accepting:
                one.is_accepting = False
                self._loop.remove_reader(one.socket)

    def _close_listening(self) -> None:
        for one in self._listening:
            one.socket.close()

    def _accept(self, listening: _Listening) -> None:
        for _ in range(_ACCEPT_A_TURN):
            try:
                connection, _ = listening.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No more open files, most likely.
                self._pause("cannot accept a connection", error=reason(error))
                return
            with connection:
                if not self._hand_over(listening.protocol, connection):
                    self._pause("no worker takes a connection")
                    return

    def _pause(self, event: str, **details: str) -> None:
        """Say what is wrong, and let what waits in the queue wait a moment."""
        log.error(event, **details)
        self._refuse()
        self._loop.call_later(_ACCEPT_PAUSE_S, self._look)

    def _hand_over(self, protocol: str, connection: socket.socket) -> bool:
        """Give a connection to the worker that has fewest, of those that can take it; say whether.

        The others are tried after it: one that hangs reads nothing, and then has no room.
        """
        # Those that cannot record refuse in words, and that is better than silence.
        open_ = [w for w in self._workers if w.is_open] or [w for w in self._workers if w.is_ready]
        for worker in sorted(open_, key=self._load):
            if worker.channel is not None and worker.channel.hand_over(
                {"connection": protocol}, connection.fileno()
            ):
                worker.handed += 1
                return True
        return False

    def _load(self, worker: _Worker) -> int:
        return worker.handed - self._shared.ended(worker.number)


def run(settings: Settings) -> int:
    """Run a gateway's workers until SIGTERM or SIGINT; return as `server.run`.

    Raises:
        SettingsError, RecordingError, TamperedError: it could not start.
    """
    configure_log(gateway=settings.gateway.name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    path = settings.path
    assert path is not None
    text = path.read_bytes()
    supervisor = Supervisor(parse(text, path), text)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    status = await supervisor.run()
    log.info("stopped")
    return status
