"""The gateway as a process: it listens, reloads, drains, and says what it does in JSON lines.

One event loop holds everything. A connection is a task only while it logs in; an open session is
callbacks (`relay`). When recording fails the process stays and tells every client why, because a
gateway that is gone looks like a network that is down.

Where there are workers, each is a process with a gateway of this kind in it, which gets its
connections from the supervisor (`supervisor`, `team`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
import uvloop

from agentaudit.archive.clocks import Clock, SystemClock
from agentaudit.archive.layout import Layout
from agentaudit.archive.recorder import Recorder
from agentaudit.errors import RecordingError, SettingsError
from agentaudit.gateway.connections import Connection, Listener, listen
from agentaudit.gateway.control_process import ControlProcess
from agentaudit.gateway.local import Local
from agentaudit.gateway.operational_log import configure_log, without_content
from agentaudit.gateway.orders import Orders, recover_others
from agentaudit.gateway.postgres import Deadlines, Door
from agentaudit.gateway.serving import WATCH_S, Serving, outside, prepare, signatures
from agentaudit.gateway.sessions import Sessions
from agentaudit.gateway.team import Team
from agentaudit.gateway.wire import Wire, reason
from agentaudit.identity import Verifier
from agentaudit.settings.file import load
from agentaudit.settings.tables import Roles
from agentaudit.settings.values import Address
from agentaudit.settings.whole import Settings

BACKLOG: Final = 1024

# What a running gateway cannot take over from a changed file: recorder and sockets exist already.
_NEEDS_RESTART: Final = (
    "name",
    "workers",
    "ssh_host_key_file",
    "origin",
    "archive",
    "keys",
    "state",
    "durability",
    "segment_events",
    "segment_bytes",
    "segment_age",
)
_LIMITS_THAT_NEED_RESTART: Final = ("disk_stop", "journal_max")

_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

if TYPE_CHECKING:
    from agentaudit.gateway.access import Access
    from agentaudit.gateway.ssh import SshDoor

log = structlog.get_logger()


class Gateway:
    """A running gateway. Use it as an async context manager: leaving it drains and seals.

    A worker of one records as `name` and listens nowhere: `team` is what it has of the others.
    `clock` is another than the machine's, for who makes archives by a script.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        deadlines: Deadlines | None = None,
        name: str = "",
        team: Team | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._deadlines = deadlines
        self._name = name or settings.gateway.name
        self._team = team
        self._serving: Serving
        self._listener: Listener | None = None
        self._ssh: SshDoor | None = None
        self._access: Access | None = None
        self._control: ControlProcess | None = None
        self._logins: asyncio.TaskGroup
        self._watch: asyncio.TimerHandle | None = None
        self._seen: Mapping[Path, tuple[int, int]] = {}
        self._is_short_of_space = False
        self._is_reloading = False
        self.recorder: Recorder
        self.sessions: Sessions

    async def __aenter__(self) -> Self:
        """Recover the archive and listen.

        Raises:
            SettingsError: a file, a secret or an address of the settings cannot be used.
            RecordingError, TamperedError: the archive cannot be written, or was tampered with.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        self._serving = await loop.run_in_executor(None, prepare, settings, None, self._clock)
        self._seen = signatures(settings)
        gateway = settings.gateway
        self.recorder = await Recorder.start(
            archive=gateway.archive,
            gateway=self._name,
            origin=gateway.origin,
            keys=gateway.keys,
            durability=gateway.durability,
            segment_events=gateway.segment_events,
            segment_bytes=gateway.segment_bytes,
            segment_age_s=gateway.segment_age.total_seconds(),
            disk_stop=settings.limits.disk_stop,
            journal_max=settings.limits.journal_max,
            policy=settings.policy_document(),
            outside=outside(settings),
            on_failure=self._recording_failed,
            on_notice=self._notice,
            on_behind=lambda is_behind: self.sessions.hold_up(is_behind),
            clock=self._clock,
        )
        try:
            await self._open_state()
            places = None if self._team is None else self._team.places
            self.sessions = Sessions(self._serving, self.recorder, places, self._access)
            self._local = Local(
                Layout(gateway.archive).control(self._name),
                Orders(self.recorder, self._authority),
            )
            await self._local.start()
        except BaseException:
            await self._close_state()
            await self.recorder.stop()
            raise
        try:
            self._logins = self.sessions.tasks = await asyncio.TaskGroup().__aenter__()
            if self._team is not None:
                self._join(self._team)
            else:
                if settings.listen.control is not None and settings.path is not None:
                    address = settings.listen.control
                    self._control = ControlProcess(address, settings.path, self._clock)
                    self._control.start(self._logins)
                if settings.listen.postgres is not None:
                    await self._listen(settings.listen.postgres)
                if settings.listen.ssh is not None:
                    await self._listen_ssh(settings.listen.ssh)
        except BaseException:
            if self._control is not None:
                await self._control.stop()
            await self._local.stop()
            await self._close_state()
            await self.recorder.stop()
            raise
        self._watch = loop.call_later(WATCH_S, self.look)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more, let sessions end within `drain_timeout`, and seal.

        Raises:
            RecordingError: recording failed, now or before.
        """
        if self._watch is not None:
            self._watch.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._ssh is not None:
            self._ssh.close()
        if self._team is not None:
            self._team.say_closed()
        await self.sessions.drain(self._settings.gateway.drain_timeout.total_seconds())
        if self._team is not None:
            self._team.stop()
        if self._control is not None:
            await self._control.stop()
        # Whoever still logs in gets its answer, or is cut by the deadline of its step.
        await self._logins.__aexit__(None, None, None)
        self.sessions.tasks = None
        await self.sessions.drain(0)
        await self._local.stop()
        await self._close_state()
        self.sessions.serving.verifier.close()
        await self.recorder.stop()
        self.sessions.poller.close()

    async def _open_state(self) -> None:
        settings = self._settings
        if not settings.needs_state:
            return
        from agentaudit.gateway.access import Access  # with a database's library: a quarter second

        base = Path() if settings.path is None else settings.path.parent
        first = settings.gateway.names[0]
        access = Access(self.recorder, self._name, first, url=settings.gateway.state, base=base)
        await access.start()
        self._access = access

    async def _close_state(self) -> None:
        if self._access is not None:
            await self._access.stop()

    @property
    def address(self) -> Address:
        """Where the PostgreSQL listener is; its port is the real one."""
        if self._listener is None:
            raise SettingsError("listen.postgres is not set")
        return Address(*self._listener.address)

    async def _listen(self, address: Address) -> None:
        door = Door(self.sessions, deadlines=self._deadlines)

        def made(wire: Wire) -> None:
            self._logins.create_task(self._serve(door, wire))

        try:
            sock = listen(address.host, address.port, BACKLOG)
        except OSError as error:
            raise SettingsError(f"listen.postgres {address}: {reason(error)}") from None
        self._listener = Listener(self.sessions.poller, sock, lambda: Wire(made))
        log.info(
            "listening", protocol="postgres", address=self.address.host, port=self.address.port
        )

    async def _listen_ssh(self, address: Address) -> None:
        from agentaudit.gateway.ssh import SshDoor  # with its library: a fifth of a second

        self._ssh = SshDoor(self.sessions)
        await self._ssh.listen(address)

    @property
    def ssh_port(self) -> int:
        """Where the SSH listener is; the real port."""
        if self._ssh is None:
            raise SettingsError("listen.ssh is not set")
        return self._ssh.port

    def _join(self, team: Team) -> None:
        """Take the connections that come from the supervisor, and what other workers ask."""
        door = Door(self.sessions, deadlines=self._deadlines, keys=team.keys)

        def made(wire: Wire) -> None:
            self._logins.create_task(self._serve(door, wire))

        def connected(sock: socket.socket) -> None:
            Connection(self.sessions.poller, sock, Wire(made))

        doors: dict[str, Callable[[socket.socket], None]] = {"postgres": connected}
        if self._settings.listen.ssh is not None:
            from agentaudit.gateway.ssh import SshDoor

            self._ssh = SshDoor(self.sessions)
            self._ssh.join(team.host_key)
            doors["ssh"] = self._ssh.take

        async def cancel(pid: int, secret: bytes, peer: str) -> bool:
            try:
                return await door.cancel(pid, secret, peer)
            except Exception as error:
                log.error("cancel request failed unexpectedly", **without_content(error))
                return False

        team.start(
            self._logins,
            connected=doors,
            cancel=cancel,
            make_room=self.sessions.make_room,
            reload=self.reload,
        )

    async def _serve(self, door: Door, wire: Wire) -> None:
        try:
            await door.serve(wire)
        except Exception as error:
            # One client's login must not end the task group, and with it everybody's.
            log.error("login failed unexpectedly", **without_content(error))
            wire.abort()
        finally:
            self.sessions.places.end()

    def _authority(self) -> tuple[Roles, Verifier]:
        serving = self.sessions.serving
        return serving.settings.roles, serving.verifier

    def _recording_failed(self, failure: RecordingError) -> None:
        self.sessions.recording_failed(failure)
        if self._team is not None:
            self._team.say_closed()

    def _notice(self, message: dict[str, Any]) -> None:
        members = dict(message)
        log.log(_LEVELS[members.pop("level")], members.pop("notice"), **members)

    # --- reloading

    def reload(self) -> None:
        """Read the settings and all files that they name again; take them if all are good."""
        if not self._is_reloading and not self.sessions.is_draining:
            self._is_reloading = True
            self._logins.create_task(self._reload())

    async def _reload(self) -> None:
        path = self._settings.path
        loop = asyncio.get_running_loop()
        try:
            settings = self._settings
            if path is not None:
                settings = await loop.run_in_executor(None, load, path)
            serving = await loop.run_in_executor(
                None, prepare, settings, self._serving, self._clock
            )
        except SettingsError as error:
            log.error("reload failed, the old settings stay", error=str(error), hint=error.hint)
            return
        finally:
            self._seen = signatures(self._settings)
            self._is_reloading = False
        for key in _NEEDS_RESTART:
            if getattr(settings.gateway, key) != getattr(self._settings.gateway, key):
                log.warning("a changed key needs a restart", key=f"gateway.{key}")
        for key in ("postgres", "ssh", "control"):
            if getattr(settings.listen, key) != getattr(self._settings.listen, key):
                log.warning("a changed key needs a restart", key=f"listen.{key}")
        for table in ("witness", "anchor"):
            if getattr(settings, table) != getattr(self._settings, table):
                log.warning("a changed key needs a restart", key=table)
        for key in _LIMITS_THAT_NEED_RESTART:
            if getattr(settings.limits, key) != getattr(self._settings.limits, key):
                log.warning("a changed key needs a restart", key=f"limits.{key}")
        if settings.needs_state and self._access is None:
            log.warning("a changed key needs a restart", key="gateway.state")
        has_other_issuers = serving.verifier is not self._serving.verifier
        try:
            # Sessions name what was in force when they began, so the archive must have it first.
            self.recorder.set_policy(settings.policy_document())
        except OSError as error:
            if has_other_issuers:
                serving.verifier.close()
            log.error("reload failed, the old settings stay", error=error.strerror or "")
            return
        if has_other_issuers:
            self._serving.verifier.close()
        self._settings = settings
        self._serving = self.sessions.serving = serving
        self._seen = signatures(settings)
        if self._control is not None:
            self._control.reload()
        log.info("reloaded", policy_digest=serving.policy_digest)

    def look(self) -> None:
        """See whether a file has changed or the disk is filling up, now and then again."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self.look)
        if signatures(self._settings) != self._seen:
            self.reload()
        try:
            free = shutil.disk_usage(self._settings.gateway.archive).free
        except OSError:
            return  # the recorder is about to find out, and its word counts
        is_short = free < self._settings.limits.disk_warn
        if is_short and not self._is_short_of_space:
            log.warning("the disk is filling up", free_bytes=free)
        self._is_short_of_space = is_short


def _report_to_log(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    details = without_content(error) if error is not None else {}
    log.error("unexpected error in the event loop", **details)


def as_begun(settings: Settings, begun: Settings) -> Settings:
    """Return `settings`, but as `begun` in what a running gateway cannot take over."""
    gateway = settings.gateway.model_copy(
        update={key: getattr(begun.gateway, key) for key in _NEEDS_RESTART}
    )
    limits = settings.limits.model_copy(
        update={key: getattr(begun.limits, key) for key in _LIMITS_THAT_NEED_RESTART}
    )
    tables = {key: getattr(begun, key) for key in ("listen", "witness", "anchor")}
    return settings.model_copy(update={"gateway": gateway, "limits": limits, **tables})


def run(settings: Settings, *, clock: Clock | None = None) -> int:
    """Run a gateway until SIGTERM or SIGINT; return 0, or 1 if recording failed meanwhile.

    `clock` is None but for who makes archives by a script.

    Raises:
        SettingsError, RecordingError, TamperedError: it could not start.
    """
    configure_log()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, clock))


async def _run(settings: Settings, clock: Clock | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await recover_others(settings)
    gateway = Gateway(settings, clock=clock)
    return await serve(
        gateway, stop, lambda: loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    )


async def serve(gateway: Gateway, stop: asyncio.Event, ready: Callable[[], object]) -> int:
    """Run a gateway until `stop` is set, and call `ready` once it has started; return as `run`.

    Raises:
        SettingsError, RecordingError, TamperedError: it could not start.
    """
    asyncio.get_running_loop().set_exception_handler(_report_to_log)
    await gateway.__aenter__()
    ready()
    # What the start has made lives as long as the process: a collection need not look at it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    await stop.wait()
    log.info("stopping", pid=os.getpid())
    try:
        await gateway.__aexit__(None, None, None)
    except RecordingError:
        return 1
    log.info("stopped")
    return 0
