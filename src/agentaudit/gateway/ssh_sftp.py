"""An sftp subsystem on a channel: decided about, masked, recorded and passed on packet by packet.

Each request that names something waits for the rules, and for people where they say so; meanwhile
nothing that the client says behind it passes, while answers of the target do. A request that is
refused is answered here, at once, and the target never hears of it. All else passes as it came.

Of what is read or written through a handle, the row says how much passed, and has its SHA-256 where
it came whole and in order: of what is kept, where something in it was masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.errors import (
    ClientProtocolError,
    MaskingError,
    RecordingError,
    TargetProtocolError,
)
from agentaudit.gateway.holds import Asked, Outcome
from agentaudit.gateway.ssh_scripts import add
from agentaudit.gateway.ssh_sftp_masks import FileMask, masked_packet, not_passed
from agentaudit.model import Command, Event, Hold, Refusal, Side, Step
from agentaudit.paths import normal_path
from agentaudit.policy import NO_RULE
from agentaudit.protocols.sftp import Packet, Passing, Sftp
from agentaudit.risk import shell_findings

if TYPE_CHECKING:
    from agentaudit.gateway.ssh_session import Channel, SshSession

COMMAND_BYTES: Final = 256
"""What a request that names something counts for in a session's bytes, beside its own."""

_MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
"""Content that may wait in one channel: a client may write to a thousand files at once."""

_MAX_SAID: Final = 16
"""How many refusals a client is told of in words: its program may show the codes alone, or read
nothing but answers."""

_PERMISSION_DENIED: Final = "3"
_WRITES: Final = frozenset({"write", "admin", "unknown"})
_FINDINGS: Final = {
    "sftp.remove": "deletes",
    "sftp.rmdir": "deletes",
    "sftp.rename": "overwrites",
    "sftp.copy-data": "overwrites",
    "sftp.setstat": "changes rights",
}


@dataclass(slots=True, eq=False)
class _Waits:
    """A request that waits for people; `commit` is the archive's commitment to its text."""

    step: Step
    command: Command
    hold: Hold
    commit: str
    asked: Asked | None = None


class SftpFlow:
    """Both directions of one subsystem. It ends with its channel."""

    def __init__(self, channel: Channel, relay: SshSession) -> None:
        self._channel = channel
        self._relay = relay
        self._owner = channel.command.command_no
        self._conversation = Sftp(self._owner, relay.next_number)
        self._open: dict[int, Command] = {}
        self._files: dict[int, tuple[Passing, FileMask]] = {}
        self._scripts: dict[int, bytearray | None] = {}
        self._waits: _Waits | None = None
        self._begun = 0
        self._said = 0
        self._is_over = False

    @property
    def is_asking(self) -> bool:
        """Whether a request of the client's waits for people."""
        return self._waits is not None

    @property
    def _session(self) -> SessionRecorder:
        return self._relay.session

    def receive(self, side: Side, data: bytes) -> None:
        """Record what one side says, and let it pass where it may, once that counts."""
        relay = self._relay
        begun = self._begun
        if self._is_over:
            relay.record(*not_passed(relay.masks, side, self._owner, data, begins=False))
        elif not relay.is_closing and not relay.session.closed:
            self._take(side, data)
        relay.count(len(data) + COMMAND_BYTES * (self._begun - begun))

    def _take(self, side: Side, data: bytes) -> None:
        """Take what was received and may be looked at: of a client's, what nothing waits before."""
        relay = self._relay
        steps = self._conversation.receive(side, data)
        if side is Side.CLIENT and self._waits is not None:
            return
        passes = bytearray()
        failure: Exception | None = None
        try:
            for step in steps:
                if self._passes(step):
                    passes += step.frame
                if relay.is_closing or (self._waits is not None and side is Side.CLIENT):
                    break
        except (ClientProtocolError, TargetProtocolError, MaskingError, RecordingError) as error:
            failure = error
        finally:
            steps.close()
        if passes:
            self._channel.send(side, bytes(passes))
        if isinstance(failure, MaskingError):
            relay.masking_failed(failure)
        elif isinstance(failure, RecordingError):
            relay.recording_failed(failure)
        elif failure is not None:
            self._broke(side, str(failure))
        elif self._waits is not None and self._waits.asked is None:
            self._ask(self._waits)

    def _passes(self, step: Step) -> bool:
        """Record a packet; return whether it goes on now.

        Raises:
            MaskingError, RecordingError: it cannot be recorded, so it does not.
        """
        packet: Packet = step.about[0]
        passing = packet.passing
        refusal = packet.refused
        if not refusal and passing is not None and step.side is Side.CLIENT:
            refusal = passing.refused
        hold: Hold | None = None
        for command in step.starts:
            hold = self._decide(command, passing)
            if command.decision == "deny":
                refusal = f'denied by rule "{command.rule}"'
            self._begin(command, passing)
        (event,) = step.events
        if event.text is not None:
            event.text = self._relay.masks.mask_text(event.text)
        commit = self._session.commit_next(event.text) if hold is not None else ""
        for each in self._masked(event, packet):
            self._session.record(each)
        for command in step.ends:
            self._end(command)
        if refusal:
            self._refuse(step, refusal)
        elif hold is not None:
            self._waits = _Waits(step, step.starts[0], hold, commit)
        return not refusal and hold is None

    # --- commands

    def _decide(self, command: Command, passing: Passing | None) -> Hold | None:
        """Say what a command does, and decide about it; return who else must, if anybody."""
        policy = self._relay.policy
        _find(command)
        decision = policy.decide(command, command.text).about(None)
        if decision is NO_RULE:
            return None
        command.decision, command.rule = decision.action, decision.rule
        opened = None if passing is None else passing.opened
        if opened is not None and (opened.decision, opened.rule) == ("hold", command.rule):
            command.request_id = opened.request_id
            return None  # by the same rule people have let the file be opened for it
        return decision.hold

    def _begin(self, command: Command, passing: Passing | None) -> None:
        masked = self._relay.masks.mask_text
        command.text = masked(command.text)
        command.operation = masked(command.operation)
        command.resources = tuple(map(masked, command.resources))
        command.paths = tuple(map(masked, command.paths))
        self._session.begin(command)
        self._begun += 1
        self._open[command.command_no] = command
        if passing is not None:
            side = Side.CLIENT if command.operation == "sftp.write" else Side.TARGET
            mask = FileMask(self._relay.masks, side, command.command_no)
            if side is Side.CLIENT:
                self._scripts[command.command_no] = self._relay.scripts.begin()
            self._files[command.command_no] = passing, mask

    def _end(self, command: Command, *, is_cut_off: bool = False) -> None:
        number = command.command_no
        if self._open.pop(number, None) is None:
            return
        passing, mask = self._files.pop(number, (None, None))
        if mask is not None and passing is not None:
            for event in mask.finish(is_cut_off=is_cut_off or not passing.is_whole):
                self._session.record(event)
            if not passing.refused:
                order = "" if passing.is_whole else ", not from the beginning on, or not in order"
                command.text += f" ({passing.size} bytes{order})"
            is_whole = passing.is_whole and not is_cut_off and not passing.refused
            if is_whole:
                command.sha256 = (mask.digest.hexdigest(),)
            self._relay.scripts.keep(
                [n for r in passing.opened.resources for n in self._conversation.names(r)],
                self._scripts.pop(number, None),
                number,
                is_whole=is_whole,
                sha256=command.sha256[0] if command.sha256 else "",
            )
        self._session.end(command)

    def _masked(self, event: Event, packet: Packet) -> list[Event]:
        """Return what is to be recorded of a packet."""
        masks = self._relay.masks
        frame = event.payload
        assert frame is not None
        assert event.side is not None
        known = self._files.get(event.command_no)
        if known is not None and known[1].side is not event.side:
            known = None
        if known is None and packet.content is None:
            event.payload, spans = masked_packet(masks, frame, packet)
            event.spans = tuple(spans)
            return [event]
        if known is None:
            # Of nothing that is open: nothing comes before it, and nothing behind.
            alone = FileMask(masks, event.side, event.command_no)
            return [*alone.take(event, packet), *alone.finish(is_cut_off=True)]
        mask = known[1]
        if packet.content is not None:
            add(self._scripts.get(event.command_no), frame[slice(*packet.content)])
        events = mask.take(event, packet)
        if mask.pending:
            self._relay.withhold()
            if sum(each.pending for _, each in self._files.values()) > _MAX_PENDING_BYTES:
                events += mask.give_up()
        return events

    def _refuse(self, step: Step, why: str) -> None:
        """Answer a request that does not go on."""
        refusal = Refusal(code=_PERMISSION_DENIED, message=f"agentaudit: {why}")
        passing: Passing | None = step.about[0].passing
        answer = self._conversation.refuse(step, refusal)
        for event in answer.events:
            self._session.record(event)
        for command in answer.ends:
            command.error_text = why
            self._end(command)
        if passing is not None and not passing.refused:
            passing.refused, passing.is_over = why, True
            command = passing.command
            command.status, command.error_code = "denied", _PERMISSION_DENIED
            command.error_text = why
            self._end(command)
        self._channel.send(Side.TARGET, answer.frame)
        if step.starts and self._said < _MAX_SAID:
            self._said += 1
            number = step.starts[0].command_no
            self._channel.say(f"{why} (session {self._session.session_id}, command {number})")

    # --- what waits for people

    def _ask(self, waits: _Waits) -> None:
        relay = self._relay
        self._conversation.wait(waits.step, True)
        self._channel.ask_people(True)
        waits.asked = relay.question(
            waits.command, waits.hold, waits.commit, filed=self._filed, answered=self._answered
        )
        relay.asks.ask(waits.asked)

    def _filed(self, asked: Asked) -> None:
        waits = self._waits
        if waits is not None and waits.asked is asked:
            rule, what = asked.hold.rule, waits.command.text
            self._channel.say(
                f'{what!r} waits for a decision, by rule "{rule}" (request {asked.request_id})'
            )

    def _answered(self, asked: Asked, outcome: Outcome) -> None:
        waits = self._waits
        if waits is None or waits.asked is not asked:
            return
        self._waits = None
        self._conversation.wait(waits.step, False)
        try:
            self._relay.asks.record(asked, outcome)
            if outcome.state == "approved":
                self._channel.send(Side.CLIENT, waits.step.frame)
            else:
                self._refuse(waits.step, outcome.refusal(asked.hold.rule))
        except RecordingError as error:
            self._relay.recording_failed(error)
            return
        except MaskingError as error:
            self._relay.masking_failed(error)
            return
        self._take(Side.CLIENT, b"")
        if self._waits is None:
            self._channel.ask_people(False)

    def withdraw(self, why: str) -> None:
        """Ask no more: nobody waits for the answer."""
        waits, self._waits = self._waits, None
        if waits is None:
            return
        waits.command.status = "cancelled"
        if waits.asked is not None:
            self._relay.asks.withdraw(waits.asked)
            try:
                self._relay.asks.record(waits.asked, Outcome(state="cancelled", why=why))
            except RecordingError:
                pass  # all else that is to be recorded fails as well

    # --- ends

    def flush(self) -> list[Event]:
        """Return what was withheld for long enough."""
        return [event for _, mask in self._files.values() for event in mask.flush()]

    def finish(self) -> list[Event]:
        """Return all that was withheld, and what came and was never a packet: no more comes."""
        self._is_over = True
        self.withdraw("the channel is over")
        events = [e for _, mask in self._files.values() for e in mask.finish(is_cut_off=True)]
        for side in Side:
            events += self._left(side)
        return events

    def end(self) -> None:
        """Record the end of what is still open.

        Raises:
            RecordingError: recording has failed.
        """
        for command in list(self._open.values()):
            self._end(command, is_cut_off=True)

    def _broke(self, side: Side, why: str) -> None:
        """End the channel: what one side says is not SFTP."""
        self._is_over = True
        if self._relay.record(*self._left(side)):
            self._channel.broke(why)

    def _left(self, side: Side) -> list[Event]:
        left = self._conversation.left(side)
        return not_passed(self._relay.masks, side, self._owner, left, begins=True) if left else []


def _find(command: Command) -> None:
    """Say what a request does beside its class, by its paths."""
    found: dict[str, None] = {}
    is_write = command.cls in _WRITES
    if command.operation in _FINDINGS:
        found[_FINDINGS[command.operation]] = None
    for resource in command.resources:
        path = normal_path(resource)
        of = shell_findings.of_written(path) if is_write else shell_findings.of_read(path)
        found |= dict.fromkeys(of)
        if command.cls == "write" and any(map(shell_findings.is_of_the_system, (path, resource))):
            command.cls = "admin"  # the root of another process may be another one
    command.risk = tuple(found)
