"""An open SSH session: the channels of one client at one host, recorded before they go on.

A channel of the client's becomes one at the host, but not before what it is for has been recorded
and may pass. From then on each byte is an event first, and goes on when the recorder says that this
counts; requests, ends of streams and exit codes take their place in the same queue, so the host
sees what the client did in the order in which it did it.

Every channel is a command: an exec request's is its text, a shell's and a subsystem's is named so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, TypeVar

import asyncssh
import structlog

from agentaudit.archive.recorder import Recorder, SessionRecorder, Waiter
from agentaudit.errors import MaskingError, RecordingError
from agentaudit.gateway.holds import Asked, Asks, Outcome, shown
from agentaudit.gateway.relay import LINGER_S, WITHHELD_S, recording_words
from agentaudit.gateway.ssh_commands import classify, hide
from agentaudit.gateway.ssh_flow import ActWaiter, BytesWaiter, Flow, Wire
from agentaudit.gateway.ssh_masks import ChannelMask
from agentaudit.gateway.ssh_scripts import Given, SessionScripts
from agentaudit.gateway.ssh_sftp import SftpFlow
from agentaudit.gateway.ssh_typed import Credit, TypedFlow, is_shell
from agentaudit.masking.masks import Masks
from agentaudit.model import (
    Command,
    Durability,
    Event,
    Flag,
    Hold,
    Kind,
    Side,
)
from agentaudit.policy import NO_RULE, Decision, SessionPolicy
from agentaudit.protocols.ssh import STDERR, said
from agentaudit.settings.tables import SshTarget

log = structlog.get_logger()

MAX_CHANNELS: Final = 64
"""Open at once in one session."""

_MAX_UNCLOSED: Final = 2 * MAX_CHANNELS
"""Of a channel that is over the library forgets nothing until its client has closed it."""

REFUSED_STATUS: Final = 254
"""What a client's command exits with that was not run."""

_LOST_STATUS: Final = 255
_DENIED: Final = Decision("deny", "protocol")
_REQUEST_BYTES: Final = 256
"""What a request counts for in a session's bytes: a client may send any number of them."""
_TOLD_S: Final = 0.5
"""What a client has to show what it is told before its connection ends."""
_FORWARDS: Final = {
    "x11-req": "_process_x11_req_request",
    "auth-agent-req@openssh.com": "_process_auth_agent_req_at_openssh_dot_com_request",
}
_PLAIN_MODES: Final = frozenset((42, 128, 129))
"""IUTF8 and speeds (RFC 4254, section 8): what else a client may ask of a shell's terminal would
let it say one line and show another."""
_ERASES: Final = frozenset(((3, 8), (3, 127)))
"""VERASE, as ^H or as DEL."""
_MIN_PACKET: Final = 512
_PIECE: Final = 16 * 1024
_MAX_ENVIRONMENT: Final = 64
_MAX_VALUE: Final = 4096
_MAX_NAME: Final = 256


_Made = TypeVar("_Made", bound="Channel")


class _Environment(dict[bytes, bytes]):
    """The variables that a client may set: it may ask for any number, of any size."""

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__()
        self._allowed = allowed

    def __setitem__(self, name: bytes, value: bytes) -> None:
        text = name.decode("utf-8", "replace")
        if any(fnmatchcase(text, allowed) for allowed in self._allowed) and (
            len(name) <= _MAX_NAME and (name in self or len(self) < _MAX_ENVIRONMENT)
        ):
            super().__setitem__(name, value[: 4 * _MAX_VALUE])


@dataclass(slots=True)
class Login:
    """What all sessions at a host as one of its users have in common: so many channels."""

    begun: int = 0
    open: int = 0


class SshSession:
    """One open session. It ends with its client's connection, or by `end`.

    `ended(session, reason)` is called once, when all that can be recorded of it is; `gone` follows
    when both connections are closed.
    """

    def __init__(
        self,
        *,
        settings: SshTarget,
        login: Login,
        client: asyncssh.SSHServerConnection,
        target: asyncssh.SSHClientConnection,
        recorder: Recorder,
        session: SessionRecorder,
        durability: Durability,
        session_bytes: int,
        policy: SessionPolicy,
        masks: Masks,
        asks: Asks,
        scripts: SessionScripts,
        spawn: Callable[[Any], None],
        ended: Callable[[SshSession, str], None],
        gone: Callable[[SshSession], None],
    ) -> None:
        self.session = session
        self.settings = settings
        self.login = login
        self.credit = Credit()
        self.masks = masks
        self.policy = policy
        self.asks = asks
        self.scripts = scripts
        self.spawn = spawn
        self.target = target
        self.is_closing = False
        self.was_busy = False
        self._client = client
        self._recorder = recorder
        self._is_synced = durability is not Durability.RELAXED
        self._bytes_left = session_bytes
        self._ended = ended
        self._gone = gone
        self._reason = ""
        self._has_ended = False
        self._lost = set[Side]()
        self._channels: dict[Channel, None] = {}
        self._unclosed = 0
        self._next_command = 0
        self._withheld: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._is_held_up = False
        self._drain_words: tuple[str, str] | None = None
        self._wires = {
            Side.CLIENT: Wire(client, lambda _: self._wire_turned()),
            Side.TARGET: Wire(target, lambda _: self._wire_turned()),
        }

    def channel(self, make: Callable[[SshSession, int], _Made]) -> _Made:
        """Return what answers for a channel that the client opens, as `make` makes it.

        Raises:
            asyncssh.ChannelOpenError: it may not have another one.
        """
        if self.is_closing:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the session ends")
        if len(self._channels) >= MAX_CHANNELS or self._unclosed >= _MAX_UNCLOSED:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"{MAX_CHANNELS} channels are open"
            )
        self._unclosed += 1
        self.login.begun += 1
        self.login.open += 1
        channel = make(self, self.next_number())
        self._channels[channel] = None
        if self._is_held_up:
            channel.hold_up(True)
        self._wire_turned()
        return channel

    def question(
        self,
        command: Command,
        hold: Hold,
        commit: str,
        *,
        filed: Callable[[Asked], None],
        answered: Callable[[Asked, Outcome], None],
    ) -> Asked:
        """Return what `asks.ask` asks about a command; `commit` is the archive's to its text."""
        asked = Asked(
            hold=hold,
            session=self.session,
            command_no=command.command_no,
            cls=command.cls,
            shown={"statements": [shown(command)]},
            commit=commit,
            in_transaction=False,
            filed=lambda: filed(asked),
            answered=lambda outcome: answered(asked, outcome),
            request_id=self.asks.new_id(),
        )
        command.request_id = asked.request_id
        return asked

    def _wire_turned(self) -> None:
        up, down = self._wires[Side.TARGET].is_full, self._wires[Side.CLIENT].is_full
        for channel in self._channels:
            channel.wires_are_full(up, down)

    def closed(self) -> None:
        """Note that the client has closed a channel, which may have been over for long."""
        self._unclosed -= 1

    def next_number(self) -> int:
        """Return the number of the next command."""
        self._next_command += 1
        return self._next_command - 1

    def left(self, channel: Channel) -> None:
        """Note that a channel is over."""
        if self._channels.pop(channel, channel) is None:
            self.login.open -= 1
        self._drain_if_idle()

    # --- recording

    def record(self, *events: Event) -> bool:
        """Record what passes next; return whether it may."""
        if self.is_closing or self._has_ended:
            return False
        try:
            for event in events:
                self.session.record(event)
        except RecordingError as error:
            self.recording_failed(error)
            return False
        return True

    def note(self, command_no: int, side: Side, line: str, status: int | None = None) -> bool:
        """Record a request of a channel; return whether it may pass."""
        self.count(max(_REQUEST_BYTES, len(line)))
        text = self.masks.mask_text(line)
        return self.record(
            Event(kind=Kind.NOTICE, side=side, command_no=command_no, text=text, status=status)
        )

    def wait(self, waiter: Waiter) -> None:
        """Let `waiter` go once all that was recorded counts."""
        try:
            self._recorder.hold(waiter, self._is_synced)
        except RecordingError as error:
            self.recording_failed(error)

    def later(self, act: Callable[[], object]) -> None:
        """Do something once all that was recorded counts; its end may be gone by then."""
        self.wait(ActWaiter(act))

    def count(self, size: int) -> None:
        """Count bytes, and end a session that has moved as many as it may."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            self.end(
                "session_bytes",
                "this session has moved as many bytes as it may",
                "connect again; the operator sets [limits] session_bytes",
            )

    def withhold(self) -> None:
        """See to it that what a mask withholds is recorded in time."""
        if self._withheld is None:
            loop = asyncio.get_running_loop()
            self._withheld = loop.call_later(WITHHELD_S, self._release_withheld)

    def _release_withheld(self) -> None:
        self._withheld = None
        if not self.is_closing and not self._has_ended:
            for channel in list(self._channels):
                self.recorded(channel.flush)

    def recorded(self, events: Callable[[], list[Event]]) -> None:
        """Record what `events` returns."""
        try:
            self.record(*events())
        except MaskingError as error:
            self.masking_failed(error)

    def masking_failed(self, error: MaskingError) -> None:
        """End the session: what cannot be masked does not pass."""
        log.error("masking failed", session=str(self.session.session_id), error=str(error))
        self.end("masking_failed", str(error), error.hint)

    # --- what may have to end it

    def end(self, reason: str, message: str, hint: str = "") -> None:
        """End the session for `reason`, and tell the client on each channel."""
        if self.is_closing:
            return
        self.was_busy = self.session.is_busy
        words = _words(message, hint)
        try:
            for channel in list(self._channels):
                channel.cut(message, words)
            self._reason = reason
            self._end_recording(reason)
        except RecordingError as error:
            self.recording_failed(error)
            return
        self.is_closing = True
        # What the client is to hear waits until it counts, and its close behind it.
        self.wait(ActWaiter(self._close))
        self._arm_linger()

    def drain(self, message: str, hint: str = "") -> None:
        """End the session as `shutdown` once no channel is open."""
        self._drain_words = (message, hint)
        self._drain_if_idle()

    def _drain_if_idle(self) -> None:
        if self._drain_words is not None and not self._channels:
            self.end("shutdown", *self._drain_words)

    def recording_failed(self, failure: RecordingError) -> None:
        """Stop at once: what waits is never released, because nothing more can be recorded."""
        if self.is_closing:
            return
        self.is_closing = True
        reason, message, hint = recording_words(failure)
        self._reason = reason
        for channel in list(self._channels):
            channel.tell(_words(message, hint))
        self._close()
        self._arm_linger()

    def hold_up(self, is_held_up: bool) -> None:
        """Read nothing more from either side, or go on."""
        self._is_held_up = is_held_up
        for channel in self._channels:
            channel.hold_up(is_held_up)

    @property
    def owes_bytes(self) -> bool:
        """Whether the client has not taken all yet that is recorded as sent to it."""
        return Side.CLIENT not in self._lost

    def abort(self) -> None:
        """Cut both connections without another word."""
        self._client.abort()
        self.target.abort()

    def _close(self) -> None:
        self.target.close()
        # One that hears of the end at once shows nothing of what it was told just before.
        asyncio.get_running_loop().call_later(_TOLD_S, self._close_client)

    def _close_client(self) -> None:
        if Side.CLIENT not in self._lost:
            self._client.close()

    def _arm_linger(self) -> None:
        if self._linger is None and len(self._lost) < 2:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def lost(self, side: Side) -> None:
        """Note that the connection to `side` is gone."""
        if side in self._lost:
            return
        self._lost.add(side)
        if side is Side.TARGET and not self.is_closing and Side.CLIENT not in self._lost:
            self.end("target", "the target hung up", "connect again")
        if side is Side.CLIENT:
            for channel in list(self._channels):
                channel.client_gone()
            with suppress(RecordingError):
                self._end_recording(self._reason or "client")
            self.target.close()
            self._arm_linger()
        if len(self._lost) == 2:
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            self.login.open -= len(self._channels)  # whose ends could not be recorded
            self._channels.clear()
            self._gone(self)

    def _end_recording(self, reason: str) -> None:
        """Record what is withheld and the session's close, once.

        Raises:
            RecordingError: recording has failed.
        """
        if self._has_ended:
            return
        self._has_ended = True
        if self._withheld is not None:
            self._withheld.cancel()
            self._withheld = None
        try:
            if not self.session.closed and self._recorder.is_recording:
                for channel in list(self._channels):
                    for event in channel.finish():
                        self.session.record(event)
        except MaskingError as error:
            log.error("masking failed", session=str(self.session.session_id), error=str(error))
        finally:
            self.session.close(reason)
            self._ended(self, reason)


class Channel(asyncssh.SSHServerSession[bytes]):
    """A session channel of the client's, and what it becomes at the target.

    Until that is open, what the client says waits: its requests in `_said`, its bytes in `_early`,
    of which there is never more than the window that it was given.
    """

    def __init__(self, relay: SshSession, number: int) -> None:
        self._relay = relay
        self.command = Command(command_no=number)
        self._said: list[str] = []
        self._early: list[bytes] = []
        self._has_early_end = self._has_ended_input = self._is_started = False
        self._pty: tuple[str, tuple[int, int, int, int], Mapping[int, int]] | None = None
        self._asked_size = (0, 0, 0, 0)
        self._up = Flow()
        self._down = Flow()
        self._client: asyncssh.SSHServerChannel[bytes]
        self._target: asyncssh.SSHClientChannel[bytes] | None = None
        self._asked: Asked | None = None
        self._holds: list[Hold] = []
        self._commit = ""
        self._denied = ""
        self._subsystem: str | None = None
        self._status: int | None = None
        self._signal: tuple[str, bool, str] | None = None
        self._is_over = False
        self._sftp: SftpFlow | None = None
        self._typed: TypedFlow | None = None
        self._given: Given | None = None
        masks = relay.masks
        self._masks = {
            (Side.CLIENT, None): ChannelMask(masks, Side.CLIENT, number, None),
            (Side.TARGET, None): ChannelMask(masks, Side.TARGET, number, None),
            (Side.TARGET, STDERR): ChannelMask(masks, Side.TARGET, number, STDERR),
        }

    # --- what the client asks for

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._take(chan)
        chan._env = _Environment(self._relay.settings.env)
        for name, handler in _FORWARDS.items():
            # The library would refuse them too, and tell nobody.
            setattr(chan, handler, partial(self._refuse_forward, name))

    def _take(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._client = self._up.source = self._down.sink = chan
        _join_pieces(chan)

    def _refuse_forward(self, name: str, packet: object) -> bool:
        self._relay.note(-1, Side.CLIENT, f"{name} refused")
        return False

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: Mapping[int, int],
    ) -> bool:
        if self.command.operation:
            return False  # it has been decided about, and recorded, without one
        modes = "".join(f"{mode:02x}{value:08x}" for mode, value in term_modes.items())
        line = said("pty-req", self._masked(term_type[:_MAX_NAME]), *term_size, modes or "-")
        self._said = [line]  # a client may ask for it again, where it is refused
        if self._relay.settings.exec_only or len(term_type) > _MAX_NAME:
            return False
        self._pty = (term_type, term_size, term_modes)
        return True

    def shell_requested(self) -> bool:
        if self._relay.settings.exec_only:
            self._denied = "no shell on this target: run commands"
        return self._begin("shell", "")

    def exec_requested(self, command: str) -> bool:
        if not command:
            # The library would ask the target for a shell.
            self._denied = "no command: ask for a shell"
        return self._begin("exec", command)

    def subsystem_requested(self, subsystem: str) -> bool:
        self._subsystem = subsystem
        if self._pty is not None:
            # The terminal would edit what is said: the target would read other packets than we.
            self._denied = "no terminal for a subsystem"
        elif subsystem == "sftp":
            self._sftp = SftpFlow(self, self._relay)
        else:
            self._denied = "no subsystem but sftp"
        return self._begin("subsystem", subsystem)

    def _begin(self, operation: str, text: str) -> bool:
        """Record what the channel is for, and decide about it."""
        relay, command = self._relay, self.command
        if self._client._send_pktsize < _MIN_PACKET:
            # Each write would become thousands of them, and everybody would wait for that.
            self._denied = f"this client takes packets of less than {_MIN_PACKET} bytes alone"
        command.operation = operation
        if operation == "exec":
            classify(command, text)
            relay.scripts.link(command, text)
        elif operation == "subsystem" or (operation == "shell" and self._pty is not None):
            command.cls = "session"  # what is said there is decided about by itself
        hold = self._decide(text)
        relay.scripts.hide(command)
        is_denied = command.decision == "deny"
        shown, spans = hide(command, relay.masks, text)
        event = Event(
            kind=Kind.REQUEST,
            side=Side.CLIENT,
            command_no=command.command_no,
            text=self._line(command.text),
            payload=shown or None,
            orig_len=(size := len(text.encode("utf-8", "replace"))),
            spans=spans,
        )
        try:
            relay.session.begin(command)
            self._commit = relay.session.commit_next(event.text)
        except RecordingError as error:
            relay.recording_failed(error)
            return False
        if not relay.record(event):
            return False
        environment = self._environment()
        for line in [*self._said, *map(self._variable, environment.items())]:
            relay.note(command.command_no, Side.CLIENT, line)
        relay.count(_REQUEST_BYTES + size)
        if operation == "exec" and not is_denied:
            self._given = relay.scripts.given(command, text)
        if is_denied:
            self._deny(self._denied or f'denied by rule "{command.rule}"')
        elif hold is not None:
            self._holds = [hold]
            self._ask()
        else:
            relay.wait(ActWaiter(self._open_soon))
        return True

    def _line(self, text: str) -> str:
        """Return what the channel's first event says, where `text` is what was asked for."""
        return f"{self.command.operation} {text}".rstrip()

    def _decide(self, text: str) -> Hold | None:
        """Decide about what the channel is for; return who decides where people do."""
        command, policy = self.command, self._relay.policy
        decision = _DENIED if self._denied else policy.decide(command, text).about(None)
        has_lines = self._pty is not None
        if command.operation == "shell" and decision is NO_RULE and policy.rules and not has_lines:
            self._denied = (
                "no shell without a terminal on a target with rules: what it reads would be held "
                'to none; ask for a terminal, or let a rule allow operation "shell" of class '
                '"unknown"'
            )
            decision = _DENIED
        if decision is not NO_RULE:
            command.decision, command.rule = decision.action, decision.rule
        return decision.hold

    def _masked(self, text: str) -> str:
        return self._relay.masks.mask_text(text)

    def _variable(self, pair: tuple[str, str]) -> str:
        """Return a variable as a line, masked as `name=value`: what hides a value may need both."""
        name, _, value = self._masked("=".join(pair)).partition("=")
        return said("env", name, value)

    def _environment(self) -> dict[str, str]:
        """Return the variables that the client may set, and has set, at the target."""
        asked = list(self._client.get_environment().items())[:_MAX_ENVIRONMENT]
        return {
            name: value[:_MAX_VALUE]
            for name, value in asked
            if any(fnmatchcase(name, allowed) for allowed in self._relay.settings.env)
        }

    # --- at the target

    def _open_soon(self) -> None:
        if not self._is_over:  # else nobody waits for it any more, and its row says so
            self._relay.spawn(self._open())

    @property
    def _is_for_lines(self) -> bool:
        """Whether what is typed at the terminal is lines of a shell."""
        operation = self.command.operation
        return operation == "shell" or (operation == "exec" and is_shell(self._raw_text()))

    async def _open(self) -> None:
        """Open at the target what the client has asked for."""
        term: dict[str, Any] = {}
        if self._pty is not None:
            term_type, term_size, term_modes = self._pty
            if self._is_for_lines:
                term_modes = {
                    mode: value
                    for mode, value in term_modes.items()
                    if mode in _PLAIN_MODES or (mode, value) in _ERASES
                }
            self._asked_size = term_size
            term = {"term_type": term_type, "term_size": term_size, "term_modes": term_modes}
        operation, text = self.command.operation, self._raw_text()
        try:
            chan, _ = await self._relay.target.create_session(
                self._at_target,
                command=text if operation == "exec" else None,
                subsystem=self._subsystem,
                env=[
                    (name.encode(), value.encode()) for name, value in self._environment().items()
                ],
                request_pty="force" if self._pty is not None else False,
                encoding=None,
                **term,
            )
        except (asyncssh.Error, OSError) as error:
            why = getattr(error, "reason", "")[:_MAX_VALUE] or "the connection is gone"
            self._deny(f"the target refuses it: {self._masked(why)}", status="error")
            return
        if self._is_over:
            chan.close()

    def _at_target(self) -> _AtTarget:
        return _AtTarget(self)

    def _raw_text(self) -> str:
        return self._client.get_command() or ""

    def opened(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Take the channel at the target, and pass on what the client has said meanwhile."""
        self._target = self._up.sink = self._down.source = chan

    def started(self) -> None:
        """Let both sides say what they have to say."""
        self._is_started = True
        if self._pty is not None and self._is_for_lines:
            mask = self._masks[Side.CLIENT, None]
            self._typed = TypedFlow(self, self._relay, mask, *self._pty[1][:2])
        early, self._early = self._early, []
        for data in early:
            self.data_received(data, None)
        pty, target = self._pty, self._target
        if pty is not None and target is not None and pty[1] != self._asked_size:
            self._relay.wait(ActWaiter(lambda: target.change_terminal_size(*pty[1])))
        if self._has_early_end:
            self._end_of_input()
        self._up.throttle()
        if not self._up.is_paused:
            self._client.resume_reading()

    # --- bytes

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Record what the client says, and let it wait until that counts."""
        if not self._is_started:
            self._early.append(data)
            self._client.pause_reading()
            return
        if self._given is not None:
            self._given.add(data)
        if self._typed is not None:
            self._typed.receive(data)
        else:
            self._pass(self._up, Side.CLIENT, data, None)

    def from_target(self, data: bytes, datatype: int | None) -> None:
        """Record what the target says, and let it wait until that counts."""
        self._pass(self._down, Side.TARGET, data, datatype)

    def _pass(self, flow: Flow, side: Side, data: bytes, datatype: int | None) -> None:
        relay = self._relay
        if self._sftp is not None and datatype != STDERR:
            self._sftp.receive(side, data)
            return
        mask = self._masks[side, STDERR if datatype == STDERR else None]
        try:
            events = mask.events(data)
        except MaskingError as error:
            relay.masking_failed(error)
            return
        if not relay.record(*events):
            return
        self._send(flow, data, datatype)
        if mask.is_withholding:
            relay.withhold()
        if self._typed is not None and datatype is None:
            self._typed.said(data)
        relay.count(len(data))

    def _send(self, flow: Flow, data: bytes, datatype: int | None) -> None:
        flow.hold(len(data))
        self._relay.wait(BytesWaiter(flow, data, datatype))

    def send(self, side: Side, data: bytes) -> None:
        """Pass on what `side` says, once all that is recorded counts."""
        self._send(self._up if side is Side.CLIENT else self._down, data, None)

    def once_recorded(self, act: Callable[[], object]) -> None:
        """Do something when all that is recorded so far counts, and what waits for that is gone."""
        self._relay.wait(ActWaiter(act))

    def hide_output(self, masks: Masks) -> None:
        """Hide from now on in what the target says what `masks` do."""
        for (side, _), mask in self._masks.items():
            if side is Side.TARGET:
                mask.learn(masks)

    def flush(self) -> list[Event]:
        """Return what was withheld for long enough."""
        events = [event for mask in self._masks.values() for event in mask.flush()]
        return events if self._sftp is None else [*events, *self._sftp.flush()]

    def finish(self, *, is_cut_off: bool = True, side: Side | None = None) -> list[Event]:
        """Return all that was withheld, of one side or of both."""
        events = self._typed.finish() if self._typed is not None and side is None else []
        events += [
            event
            for (of, _), mask in self._masks.items()
            if side in (None, of)
            for event in mask.finish(is_cut_off=is_cut_off)
        ]
        return events if self._sftp is None or side is not None else [*events, *self._sftp.finish()]

    def pause_writing(self) -> None:
        self._down.is_sink_full = True
        self._down.throttle()

    def resume_writing(self) -> None:
        self._down.is_sink_full = False
        self._down.throttle()

    def target_pauses(self, is_full: bool) -> None:
        """Note whether the target takes no more for now."""
        self._up.is_sink_full = is_full
        self._up.throttle()

    def wires_are_full(self, up: bool, down: bool) -> None:
        """Note which connections take no more for now: the target's, and the client's."""
        for flow, is_full in ((self._up, up), (self._down, down)):
            flow.is_wire_full = is_full
            flow.throttle()

    def hold_up(self, is_held_up: bool) -> None:
        """Read nothing more from either side, or go on."""
        for flow in (self._up, self._down):
            flow.is_held_up = is_held_up
            flow.throttle()

    # --- requests, and ends of streams

    def eof_received(self) -> bool:
        if not self._is_started:
            self._has_early_end = True
        else:
            self._end_of_input()
        return True  # the other direction goes on

    def _end_of_input(self) -> None:
        flow = self._sftp or self._typed
        self._has_early_end = flow is not None and flow.is_asking
        if self._has_early_end:
            return  # it comes behind what waits
        self._has_ended_input = True
        if self._given is not None:
            self._given.has_ended = True
        self._relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.CLIENT))
        self._request("eof", lambda target: target.write_eof())

    def signal_received(self, signal: str) -> None:
        line = said("signal", self._masked(signal[:_MAX_NAME]))
        # Longer than any that a target knows, or it would change a line that waits.
        if len(signal) > _MAX_NAME or not self._may_interrupt("a signal was sent"):
            self._relay.note(self.command.command_no, Side.CLIENT, line)
            return
        self._request(line, lambda target: target.send_signal(signal))

    def break_received(self, msec: int) -> bool:
        line = said("break", msec)
        if not self._may_interrupt("a break was sent"):
            self._relay.note(self.command.command_no, Side.CLIENT, line)
            return False
        self._request(line, lambda target: target.send_break(msec))
        return True

    def _may_interrupt(self, what: str) -> bool:
        return self._typed is None or self._typed.unfollowed(what)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        size = (width, height, pixwidth, pixheight)
        if self._pty is not None:
            self._pty = (self._pty[0], size, self._pty[2])
        if self._typed is not None:
            self._typed.resize(width, height)
        self._request(said("window-change", *size), lambda at: at.change_terminal_size(*size))

    def _request(
        self, line: str, act: Callable[[asyncssh.SSHClientChannel[bytes]], object]
    ) -> None:
        if not self._relay.note(self.command.command_no, Side.CLIENT, line):
            return
        target = self._target
        if target is not None and self._is_started:
            self._relay.wait(ActWaiter(lambda: act(target)))

    def target_eof(self) -> None:
        """Note that the target says no more on this channel.

        A client that has said all may close when it hears of that, and after its close the library
        sends nothing more: it hears of it together with the exit status.
        """
        self._relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.TARGET))
        is_recorded = self._relay.note(self.command.command_no, Side.TARGET, "eof")
        if is_recorded and not self._has_ended_input:
            self._relay.wait(ActWaiter(self._client.write_eof))

    def exited(self, status: int) -> None:
        """Note with what the command has exited."""
        self._status = status
        self._relay.note(self.command.command_no, Side.TARGET, said("exit-status", status), status)

    def killed(self, signal: str, core: bool, message: str) -> None:
        """Note by which signal the command has ended."""
        self._signal = signal, core, message = signal[:_MAX_NAME], core, message[:_MAX_VALUE]
        line = said("exit-signal", self._masked(signal), int(core), self._masked(message))
        self._relay.note(self.command.command_no, Side.TARGET, line)

    # --- what waits for people

    def _ask(self) -> None:
        relay = self._relay
        self._asked = relay.question(
            self.command, self._holds[0], self._commit, filed=self._filed, answered=self._answered
        )
        relay.asks.ask(self._asked)

    def _filed(self, asked: Asked) -> None:
        if self._asked is asked:
            rule = asked.hold.rule
            self.say(f'waits for a decision, by rule "{rule}" (request {asked.request_id})')

    def _answered(self, asked: Asked, outcome: Outcome) -> None:
        if self._asked is not asked:
            return
        relay = self._relay
        self._asked = None
        try:
            relay.asks.record(asked, outcome)
        except RecordingError as error:
            relay.recording_failed(error)
            return
        if outcome.state == "approved":
            self._holds.pop(0)
            if self._holds:
                self._ask()
            else:
                relay.wait(ActWaiter(self._open_soon))
            return
        self._deny(outcome.refusal(asked.hold.rule))

    def ask_people(self, is_asking: bool) -> None:
        """Read nothing more of the client's, because something of it waits for people, or go on."""
        self._up.is_asking = is_asking
        self._up.throttle()
        if not is_asking and self._has_early_end:
            self._end_of_input()

    def _withdraw(self, why: str) -> None:
        for flow in (self._sftp, self._typed):
            if flow is not None:
                flow.withdraw(why)
        asked, self._asked = self._asked, None
        if asked is not None:
            self._relay.asks.withdraw(asked)
            with suppress(RecordingError):  # all else that is to be recorded fails as well
                self._relay.asks.record(asked, Outcome(state="cancelled", why=why))

    # --- ends

    def say(self, message: str) -> bool:
        """Tell the client something on its standard error, recorded as ours."""
        words = f"agentaudit: {message}\r\n".encode()
        event = Event(
            kind=Kind.RESPONSE,
            side=Side.TARGET,
            command_no=self.command.command_no,
            payload=words,
            orig_len=len(words),
            status=STDERR,
        )
        return self._say(message, words, [event], STDERR)

    def say_on_terminal(self, message: str) -> None:
        """Tell the client something on its terminal, in a line of its own, recorded as ours.

        Raises:
            MaskingError: it cannot be recorded among what the target says there.
        """
        words = f"\r\nagentaudit: {message}\r\n".encode()
        mask = self._masks[Side.TARGET, None]
        self._say(message, words, mask.events(words), None)
        if mask.is_withholding:
            self._relay.withhold()

    def _say(self, message: str, words: bytes, events: list[Event], status: int | None) -> bool:
        events[0].text = self._masked(message)
        for event in events:
            event.flags |= Flag.SYNTHETIC
        is_recorded = self._relay.record(*events)
        if is_recorded:
            self._send(self._down, words, status)
        return is_recorded

    def tell(self, words: str) -> None:
        """Tell the client why all ends, where nothing can be recorded any more."""
        with suppress(OSError):
            self._client.write(words.encode(), STDERR)
            self._client.exit(REFUSED_STATUS)

    def _deny(self, why: str, status: str = "denied") -> None:
        """Tell the client why nothing is run, and end the channel."""
        command = self.command
        session = self._relay.session.session_id
        where = f" (session {session}, command {command.command_no})"
        if self.say(why + where):
            command.status = status
            command.error_text = why
            command.error_code = str(REFUSED_STATUS)
            self._finish(lambda: self._client.exit(REFUSED_STATUS))

    def broke(self, why: str) -> None:
        """End the channel: one side has broken the protocol that is spoken on it."""
        self._withdraw(why)
        self._deny(why, status="error")
        if self._target is not None:
            self._relay.wait(ActWaiter(self._target.close))

    def target_closed(self) -> None:
        """Note that the channel at the target is over, and with it this one.

        The library tells no end of a stream that was still to be read when the channel's came.
        """
        self._relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.TARGET))
        self._take_outcome("incomplete")
        if self._signal is not None:
            name, core, message = self._signal
            self._finish(lambda: self._client.exit_with_signal(name, core, message))
        elif self._status is not None:
            status = self._status
            self._finish(lambda: self._client.exit(status))
        else:
            self._finish(self._client.close)

    def target_lost(self) -> None:
        """Note that the channel at the target broke off."""
        self._take_outcome("incomplete")
        self._finish(self._client.close)

    def _take_outcome(self, otherwise: str) -> None:
        """Let the command's row say how it has ended; `otherwise` where nobody has said so."""
        command = self.command
        if self._signal is not None:
            name, _, message = self._signal
            command.status, command.error_code = "error", self._masked(name)
            command.error_text = self._masked(message) or None
        elif self._status is not None:
            command.status = "ok" if self._status == 0 else "error"
            command.error_code = None if self._status == 0 else str(self._status)
        else:
            command.status = otherwise

    def cut(self, message: str, words: str) -> None:
        """End the channel, because the session ends."""
        self._withdraw(message)
        if self.say(words.removeprefix("agentaudit: ").strip()):
            self.command.status = "cancelled"
            self.command.error_text = message
            self._finish(lambda: self._client.exit(_LOST_STATUS))
        if self._target is not None:
            self._target.close()

    def client_gone(self) -> None:
        """End the channel: nobody hears of it any more."""
        self._withdraw("the client hung up")
        if not self._is_over:
            self._take_outcome("cancelled")
            self._finish(lambda: None)
        if self._target is not None:
            self._target.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.closed()
        self.client_gone()

    def _finish(self, act: Callable[[], None]) -> None:
        """Record the end of the command, and then do what tells the client."""
        if self._is_over:
            return
        self._is_over = True
        relay = self._relay
        if self._given is not None:
            self._given.end(self._status)
        try:
            if not relay.session.closed and self.command.started_at_us:
                relay.record(*self.finish())
                if self._sftp is not None:
                    self._sftp.end()
                relay.session.end(self.command)
        except MaskingError as error:
            relay.masking_failed(error)
        except RecordingError as error:
            relay.recording_failed(error)
            return
        relay.wait(ActWaiter(act))
        relay.left(self)


def _join_pieces(chan: asyncssh.SSHServerChannel[bytes]) -> None:
    """Let what waits in a channel's window take no more memory than its bytes.

    The library keeps each packet by itself, a hundred bytes for one of one byte.
    """
    accept = chan._accept_data

    def accept_data(data: bytes, datatype: int | None = None) -> None:
        waiting = chan._recv_buf
        if data and waiting and len(waiting[-1][0]) < _PIECE and waiting[-1][1] == datatype:
            size = len(waiting)
            accept(data, datatype)
            if len(waiting) == size + 1 and waiting is chan._recv_buf:
                last, _ = waiting.pop()
                waiting[-1] = (waiting[-1][0] + last, datatype)
            return
        accept(data, datatype)

    chan._accept_data = accept_data  # type: ignore[method-assign]


class _AtTarget(asyncssh.SSHClientSession[bytes]):
    """The other end of a channel, at the target."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel.opened(chan)

    def session_started(self) -> None:
        self._channel.started()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._channel.from_target(data, datatype)

    def eof_received(self) -> bool:
        self._channel.target_eof()
        return True

    def exit_status_received(self, status: int) -> None:
        self._channel.exited(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._channel.killed(signal, core_dumped, msg)

    def pause_writing(self) -> None:
        self._channel.target_pauses(True)

    def resume_writing(self) -> None:
        self._channel.target_pauses(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._channel.target_closed()
        else:
            self._channel.target_lost()


def _words(message: str, hint: str) -> str:
    return f"agentaudit: {message}" + (f" ({hint})" if hint else "") + "\r\n"
