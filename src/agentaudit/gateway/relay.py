"""Bytes of an open session on their way between two connections, recorded before they go on.

The surprising decision: nothing here awaits. A session is callbacks on two transports and a queue
per direction; the recorder says when the head of a queue may leave. Streams, and a task per
direction, were measured at a third of the rate. What bytes mean is the `Conversation`'s business,
what they may do and how to say no the `Judge`'s: this module knows no protocol.

A statement that a rule holds waits here, and what its client sends behind it, up to a limit: it is
read on, because a client that has gone is known by nothing else. The other direction goes on, so
what the server still owes, its notices and its end reach the client. People are asked once nothing
before the statement is owed an answer: only then it is known what it would run in.

Back-pressure goes by direction: a source is not read while more than `HIGH_WATER_BYTES` wait for
the journal (`SYNCED_HIGH_WATER_BYTES` where all waits for syncs) or for the sink, nor a client
while its conversation `is_behind`. The two directions never wait for each other otherwise, so a
peer that writes without reading stops itself and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog

from agentaudit.archive.recorder import Recorder, SessionRecorder, Waiter
from agentaudit.errors import (
    ClientProtocolError,
    MaskingError,
    RecordingError,
    TargetProtocolError,
)
from agentaudit.gateway.connections import Connection
from agentaudit.gateway.holds import Asked, Asks, Outcome
from agentaudit.model import (
    Command,
    Conversation,
    Durability,
    Event,
    Flag,
    Hold,
    Kind,
    Refusal,
    Side,
    Step,
)

log = structlog.get_logger()

HIGH_WATER_BYTES: Final = 256 * 1024
LOW_WATER_BYTES: Final = 64 * 1024

SYNCED_HIGH_WATER_BYTES: Final = 1024 * 1024
"""Where all waits for syncs: the next one's bytes are read while one is under way."""

_LOW_SHARE = 4
"""A source that is paused is read again once no more than this part of what stopped it waits."""

_CLIENT: Final = Side.CLIENT
_CONTINUED: Final = int(Flag.CONTINUED)

MAX_BACKLOG_BYTES: Final = 1024 * 1024
"""What a client may send behind a statement that waits; with more, it is denied."""

WITHHELD_S: Final = 0.02
"""How long content may wait for what comes behind it."""

LINGER_S: Final = 5.0
"""What a side has to take the last bytes of a session in, and to close, before it is cut."""


class Judge(Protocol):
    """What the relay asks of the protocol that it serves, beside the conversation itself."""

    def judge(self, command: Command) -> Refusal | Hold | None:
        """Fill in what `command` does and what was decided.

        Return why it may not pass, who must decide whether it may, or None.
        """
        ...

    def approve(self, step: Step) -> None:
        """Note that people let pass what `step` starts."""
        ...

    def describe(self, step: Step) -> dict[str, Any]:
        """Return what a reviewer is to see of what `step` starts, as JSON has it."""
        ...

    def count(self, step: Step, told: Callable[[], None]) -> None:
        """Find out how many rows what `step` starts is about; call `told` then, or at the end."""
        ...

    def recount(self, step: Step) -> Refusal | list[Hold]:
        """Decide again about what `step` starts, now that it is counted.

        Return why it may not pass, or who must decide whether it may: nobody, where it may.
        """
        ...

    def exceeded_rule(self) -> str:
        """Return the rule that lets fewer rows pass than the target has sent; mostly none."""
        ...

    def completes(self, step: Step, shown: dict[str, Any]) -> Callable[[], Awaitable[None]] | None:
        """Return what adds to `shown` what takes time to find out, if anything does."""
        ...

    def nudge(self) -> bytes:
        """Return what makes a target answer what it was sent, and does nothing else."""
        ...

    def notice(self, asked: Asked) -> bytes:
        """Return the protocol's words to a client whose command waits."""
        ...

    def refusal(self, command: Command, outcome: Outcome) -> Refusal:
        """Return why `command`, which waited, may not pass after all."""
        ...

    def has_turn(self, step: Step) -> bool:
        """Return whether the target owes no answer to anything before `step`."""
        ...

    def is_goodbye(self, frame: bytes) -> bool:
        """Return whether `frame`, the client's last, says that it leaves on purpose."""
        ...

    def is_in_transaction(self) -> bool:
        """Return whether ending the session now would break what the client has begun."""
        ...

    def farewell(self, reason: str, message: str, hint: str) -> bytes:
        """Return the protocol's last words to a client whose session ends for `reason`."""
        ...


class Masker(Protocol):
    """What the relay asks of what masks a session before it is recorded."""

    is_withholding: bool
    """Whether content of something that was recorded is still to come."""

    def mask(self, step: Step) -> None:
        """Mask what `step` has recorded, and what of it the client is not to see.

        Raises:
            MaskingError: it cannot be.
        """
        ...

    def flush(self) -> list[Event]:
        """Return what was withheld for long enough."""
        ...

    def finish(self) -> list[Event]:
        """Return all that was withheld: nothing more comes."""
        ...

    def leave(self) -> None:
        """Note that the session is over."""
        ...


class _Held(Waiter):
    """Frames that wait, in their direction's order, until what recorded them counts."""

    __slots__ = ("behind", "data", "direction", "is_ready", "is_whole", "relay")

    relay: Relay
    direction: _Direction
    data: bytes
    is_ready: bool
    is_whole: bool
    behind: _Held | None

    def go(self) -> None:
        self.is_ready = True
        direction = self.direction
        direction.release()
        relay = self.relay
        if direction.held is None and (direction.source_ended or relay.is_closing):
            relay.finish(direction)


class _Paused:
    """A step that waits for people, what `asked` is about it, and what its client sent behind it.

    `rest` are the steps of that, `backlog` the bytes that came later. `holds` are the rules that
    must be satisfied still; `notice` is what the client is to be told as soon as nothing is half
    said. `is_moot` says that the target has skipped it, `skipped` which commands of `rest`.
    """

    __slots__ = (
        "asked",
        "backlog",
        "backlog_bytes",
        "commit",
        "holds",
        "is_counting",
        "is_moot",
        "is_nudged",
        "notice",
        "rest",
        "skipped",
        "step",
    )

    def __init__(self, step: Step, holds: list[Hold], commit: str) -> None:
        self.step = step
        self.holds = holds
        self.commit = commit
        self.rest: list[Step] = []
        self.skipped: list[Command] = []
        self.backlog: list[bytes] = []
        self.backlog_bytes = 0
        self.asked: Asked | None = None
        self.notice = b""
        self.is_counting = False
        self.is_moot = False
        self.is_nudged = False


class _Direction:
    """One direction: where bytes come from, those that wait, and where they go.

    `held` is the first that waits, `last_held` the last; each knows the one behind it.
    """

    __slots__ = (
        "held",
        "held_bytes",
        "high_water_bytes",
        "is_behind",
        "is_held_up",
        "is_sink_full",
        "is_source_paused",
        "is_whole",
        "last_held",
        "sink",
        "sink_lost",
        "source",
        "source_ended",
    )

    def __init__(self, source: Connection, sink: Connection, high_water_bytes: int) -> None:
        self.high_water_bytes = high_water_bytes
        self.source = source
        self.sink = sink
        self.held: _Held | None = None
        self.last_held: _Held | None = None
        self.held_bytes = 0
        self.is_behind = False
        self.is_sink_full = False
        self.is_held_up = False
        self.is_source_paused = False
        self.source_ended = False
        self.sink_lost = False
        self.is_whole = True  # what left last was not the first part of a longer message

    def hold(self, held: _Held) -> None:
        held.behind = None
        if self.last_held is None:
            self.held = held
        else:
            self.last_held.behind = held
        self.last_held = held
        self.held_bytes += len(held.data)
        if self.held_bytes > self.high_water_bytes:
            self.throttle()

    def release(self) -> None:
        """Let go whatever has its turn."""
        while (held := self.held) is not None and held.is_ready:
            self._take_off(held)
            if not self.sink_lost:
                self.sink.write(held.data)
                self.is_whole = held.is_whole
        if self.is_source_paused:
            self.throttle()

    def drop(self) -> None:
        """Let nothing go that waits."""
        # One by one: a chain that is freed at once would recurse as deep as it is long.
        while self.held is not None:
            self._take_off(self.held)

    def _take_off(self, held: _Held) -> None:
        self.held = held.behind
        held.behind = None
        if self.held is None:
            self.last_held = None
        self.held_bytes -= len(held.data)

    def throttle(self) -> None:
        """Read the source if, and only if, there is room for what it says."""
        must_wait = self.is_sink_full or self.is_behind or self.is_held_up
        if self.is_source_paused:
            if not must_wait and self.held_bytes * _LOW_SHARE <= self.high_water_bytes:
                self.is_source_paused = False
                if not self.source.is_closing():
                    self.source.resume_reading()
        elif must_wait or self.held_bytes > self.high_water_bytes:
            self.is_source_paused = True
            if not self.source.is_closing():
                self.source.pause_reading()


class _Leg:
    """What one of the two connections calls."""

    __slots__ = ("_from_it", "_half_closes", "_relay", "_side", "_to_it")

    def __init__(self, relay: Relay, side: Side, *, from_it: _Direction, to_it: _Direction) -> None:
        self._relay = relay
        self._side = side
        self._from_it = from_it
        self._to_it = to_it
        # A client may send its last and still read (`printf … | nc`); TLS cannot, and a target
        # that says no more is gone.
        self._half_closes = side is Side.CLIENT and from_it.source.can_write_eof()

    def data_received(self, data: bytes) -> None:
        self._relay.receive(self._side, data)

    def eof_received(self) -> bool:
        self._relay.source_ended(self._side)
        return self._half_closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.side_lost(self._side)

    def pause_writing(self) -> None:
        self._to_it.is_sink_full = True
        self._to_it.throttle()

    def resume_writing(self) -> None:
        self._to_it.is_sink_full = False
        self._to_it.throttle()


class Relay:
    """One open session. It begins with `start` and ends by itself, or by `end`.

    `ended(relay, reason)` is called once, when all that can be recorded of it is; its last bytes
    may still be on their way to the client then. `gone(relay)` follows when both connections are
    closed. `was_busy` says whether a command was under way when `end` came.
    """

    def __init__(
        self,
        *,
        conversation: Conversation,
        judge: Judge,
        masker: Masker,
        recorder: Recorder,
        session: SessionRecorder,
        durability: Durability,
        session_bytes: int,
        client: Connection,
        target: Connection,
        asks: Asks,
        ended: Callable[[Relay, str], None],
        gone: Callable[[Relay], None],
    ) -> None:
        self.session = session
        self._conversation = conversation
        self._judge = judge
        self._masker = masker
        self._withheld: asyncio.TimerHandle | None = None
        self._recorder = recorder
        self._all_synced = durability is Durability.STRICT
        self._reads_unsynced = durability is Durability.WRITES
        self._bytes_left = session_bytes
        self._client = client
        self._target = target
        high = SYNCED_HIGH_WATER_BYTES if self._all_synced else HIGH_WATER_BYTES
        self._asks = asks
        self._paused: _Paused | None = None
        self._skipped: list[Command] = []
        self._up = _Direction(client, target, high)
        self._down = _Direction(target, client, high)
        self._ended = ended
        self._gone = gone
        self._reads: set[int] = set()
        self._last_client_frame = b""
        self._reason = ""
        self.is_closing = False
        self.was_busy = False
        self._has_ended = False
        self._is_gone = False
        self._drain_words: tuple[str, str] | None = None
        self._linger: asyncio.TimerHandle | None = None

    def start(self, client_rest: bytes, target_rest: bytes) -> None:
        """Take both transports over, with what the login read beyond its own messages."""
        for transport, leg in (
            (self._client, _Leg(self, Side.CLIENT, from_it=self._up, to_it=self._down)),
            (self._target, _Leg(self, Side.TARGET, from_it=self._down, to_it=self._up)),
        ):
            transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
            transport.set_protocol(leg)
        if target_rest:
            self.receive(Side.TARGET, target_rest)
        if client_rest:
            self.receive(Side.CLIENT, client_rest)
        for direction in (self._up, self._down):
            if direction.source.is_closing():
                continue
            if direction.is_source_paused:
                direction.source.pause_reading()  # the login has left it reading
            else:
                direction.source.resume_reading()

    # --- bytes

    def receive(self, side: Side, data: bytes) -> None:
        """Record what `data` completes, and hold it until that counts."""
        direction = self._up if side is _CLIENT else self._down
        if self.is_closing or self._has_ended or direction.sink_lost:
            return
        if self._paused is not None and direction is self._up:
            self._keep(self._paused, data)
            return
        self._recorder.look()
        conversation = self._conversation
        try:
            self._take(conversation.receive(side, data))
            if conversation.broken is not None:
                raise conversation.broken
        except RecordingError as error:
            self.recording_failed(error)
        except ClientProtocolError as error:
            self.end("protocol_error", str(error), error.hint)
        except TargetProtocolError as error:
            self.end("protocol_error", f"the target: {error}", error.hint)
        else:
            up = self._up
            if conversation.is_behind != up.is_behind:
                up.is_behind = not up.is_behind
                up.throttle()
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                self.end(
                    "session_bytes",
                    "this session has moved as many bytes as it may",
                    "connect again; the operator sets [limits] session_bytes",
                )
            elif self._drain_words is not None:
                self._drain_if_idle()
            if direction is self._down and (rule := self._judge.exceeded_rule()):
                self.end(
                    "rows_over",
                    f'by rule "{rule}" fewer rows may pass than this has',
                    "ask for fewer rows, or the gateway's operator what this rule allows",
                )

    def _take(self, steps: list[Step]) -> None:
        up: list[bytes] = []
        down: list[bytes] = []
        up_synced = down_synced = self._all_synced
        session = self.session
        last_down: Step | None = None
        unmasked: MaskingError | None = None
        for step in steps:
            goes_up = step.side is _CLIENT
            if goes_up and self._paused is not None:
                self._paused.rest.append(step)
                continue
            try:
                self._masker.mask(step)
            except MaskingError as error:
                unmasked = error  # what was recorded before it goes on
                break
            verdict = self._begin(step) if step.starts else None
            if isinstance(verdict, list):
                if self._is_skipped(step):
                    verdict = None  # the target skips it: nobody need decide
                else:
                    self._paused = self._pause(step, verdict)
            for event in step.events:
                session.record(event)
            if self._skipped and step.starts:
                self._end_skipped(step)
            if self._reads_unsynced and not self._is_of_reads(step):
                up_synced = up_synced or goes_up
                down_synced = down_synced or not goes_up
            for command in step.ends:
                if self._paused is not None and self._puts_off_end(command):
                    continue  # it has not begun
                session.end(command)
                if self._reads_unsynced:
                    self._reads.discard(command.command_no)
                if self._paused is not None and command in self._paused.step.starts:
                    self._paused.is_moot = True
            if verdict is not None:
                # Recorded, and it goes no further.
                if isinstance(verdict, Refusal):
                    self._refuse(step, verdict, up)
            elif not step.frame:
                pass  # recorded and refused by the protocol: nothing of it goes on
            elif goes_up:
                up.append(step.frame)
                self._last_client_frame = step.frame
            else:
                down.append(step.frame)
                last_down = step
        if up:
            self._hold(self._up, up, up_synced, True)
        if down:
            self._hold(self._down, down, down_synced, _is_whole(last_down))
        if unmasked is not None:
            self._masking_failed(unmasked)
            return
        if self._paused is not None:
            self._look_at_paused()
        if self._masker.is_withholding and self._withheld is None:
            loop = asyncio.get_running_loop()
            self._withheld = loop.call_later(WITHHELD_S, self._release_withheld)

    def _release_withheld(self) -> None:
        """Record what has waited for bytes that did not come in time."""
        self._withheld = None
        if self.is_closing or self._has_ended:
            return
        try:
            for event in self._masker.flush():
                self.session.record(event)
        except MaskingError as error:
            self._masking_failed(error)
        except RecordingError as error:
            self.recording_failed(error)

    def _masking_failed(self, error: MaskingError) -> None:
        log.error("masking failed", session=str(self.session.session_id), error=str(error))
        self.end("masking_failed", str(error), error.hint)

    def _finish_masks(self) -> None:
        """Record what waits still: no byte comes any more."""
        if self._withheld is not None:
            self._withheld.cancel()
            self._withheld = None
        if not self.session.closed and self._recorder.is_recording:
            try:
                events = self._masker.finish()
            except MaskingError as error:
                log.error("masking failed", session=str(self.session.session_id), error=str(error))
                return
            for event in events:
                self.session.record(event)

    def _refuse(self, step: Step, refusal: Refusal, up: list[bytes]) -> None:
        """Let `up` have what must stand in the place of a step that was refused."""
        for stand_in in self._conversation.refuse(step, refusal):
            for event in stand_in.events:
                self.session.record(event)
            if stand_in.frame:
                up.append(stand_in.frame)

    def _begin(self, step: Step) -> Refusal | list[Hold] | None:
        """Judge and begin what `step` starts.

        Return why it may not pass, who must decide whether it may, or None.
        """
        refusal = None
        holds: list[Hold] = []
        for command in step.starts:
            if step.synthetic:
                # The conversation has refused it already, and made the answer too.
                command.decision, command.rule = "deny", "protocol"
            else:
                verdict = self._judge.judge(command)
                if step.side is _CLIENT:
                    if verdict is None:
                        pass
                    elif isinstance(verdict, Refusal):
                        refusal = refusal or verdict
                    elif verdict not in holds:
                        holds.append(verdict)
                else:
                    # Known by its answer alone, it was only prepared: nobody was asked.
                    command.decision, command.rule = "allow", "none"
            self.session.begin(command)
            if self._reads_unsynced and command.cls == "read":
                self._reads.add(command.command_no)
        if refusal is not None:
            # They go together or not at all: what denies one of them denies the others.
            rule = next(c.rule for c in step.starts if c.decision == "deny")
            for command in step.starts:
                command.decision, command.rule = "deny", rule
            return refusal
        return holds or None

    def _is_of_reads(self, step: Step) -> bool:
        """Return whether all that `step` recorded belongs to plain reads that are under way."""
        reads = self._reads
        return all(event.command_no in reads for event in step.events)

    def _hold(
        self, direction: _Direction, frames: list[bytes], synced: bool, is_whole: bool
    ) -> None:
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        # Two are made for each command: a call with arguments would cost as much again.
        held = _Held.__new__(_Held)
        held.relay = self
        held.direction = direction
        held.data = data
        held.is_ready = False
        held.is_whole = is_whole
        direction.hold(held)
        self._recorder.hold(held, synced)

    # --- what waits for people

    @property
    def is_paused(self) -> bool:
        """Whether a step of the client's waits for people."""
        return self._paused is not None

    def _pause(self, step: Step, holds: list[Hold]) -> _Paused:
        """Let `step`, whose events are recorded next, wait, and its client with it."""
        text = step.events[0].text if step.events else None
        # Counted first: whom to ask may depend on it.
        holds.sort(key=lambda hold: not hold.counts)
        return _Paused(step, holds, self.session.commit_next(text))

    def _keep(self, paused: _Paused, data: bytes) -> None:
        """Keep what the client sends behind what waits; too much of it is no good."""
        paused.backlog.append(data)
        paused.backlog_bytes += len(data)
        if paused.backlog_bytes <= MAX_BACKLOG_BYTES:
            return
        outcome = Outcome(
            state="denied", why=f"more than {MAX_BACKLOG_BYTES:,} bytes were sent behind it"
        )
        try:
            self._withdraw(outcome)
            self._go_on(paused, outcome)
        except RecordingError as error:
            self.recording_failed(error)

    def _puts_off_end(self, command: Command) -> bool:
        """Put the end of `command` off if it waits to begin; say whether it does."""
        paused = self._paused
        assert paused is not None
        if not any(command in step.starts for step in paused.rest):
            return False
        paused.skipped.append(command)
        return True

    def _is_skipped(self, step: Step) -> bool:
        """Say whether the target has skipped all that `step` starts, and will skip its frame."""
        return all(command in self._skipped for command in step.starts)

    def _end_skipped(self, step: Step) -> None:
        """End what `step` has begun and the target had skipped before."""
        for command in step.starts:
            if command in self._skipped:
                self._skipped.remove(command)
                self.session.end(command)

    def _look_at_paused(self) -> None:
        """Ask about what waits if nobody has been, and see whether it has to wait still."""
        paused = self._paused
        assert paused is not None
        if paused.is_moot:
            # What was sent before it has failed: the target looks at nothing up to the next Sync.
            outcome = Outcome(state="cancelled", why="not run: a command before it failed")
            self._withdraw(outcome)
            self._go_on(paused, outcome)
        elif paused.asked is None:
            if self._judge.has_turn(paused.step):
                self._ask(paused)
            elif not paused.is_nudged:
                # What waits may have taken the Sync with it that would make the target answer.
                paused.is_nudged = True
                self._nudge()
        elif paused.notice:
            self._give_notice(paused)

    def _ask(self, paused: _Paused) -> None:
        starts = paused.step.starts
        hold = paused.holds[0]
        if hold.counts:
            if not paused.is_counting:
                paused.is_counting = True
                self._judge.count(paused.step, lambda: self._counted(paused))
            return
        held = [c for c in starts if c.decision == "hold" and c.rule == hold.rule]
        shown = self._judge.describe(paused.step)
        asked = Asked(
            hold=hold,
            session=self.session,
            command_no=held[0].command_no,
            cls=held[0].cls if len(starts) == 1 else "",
            shown=shown,
            complete=self._judge.completes(paused.step, shown),
            commit=paused.commit,
            in_transaction=self._judge.is_in_transaction(),
            filed=lambda: self._filed(asked),
            answered=lambda outcome: self._answered(asked, outcome),
            request_id=self._asks.new_id(),
        )
        paused.asked = asked
        for command in held:
            command.request_id = asked.request_id
        self._asks.ask(asked)

    def _counted(self, paused: _Paused) -> None:
        """Go on with what waited until its rows were counted, refuse it, or ask people."""
        if self._paused is not paused:
            return
        paused.is_counting = False
        verdict = self._judge.recount(paused.step)
        try:
            if isinstance(verdict, Refusal):
                self._go_on(paused, verdict)
            elif verdict:
                paused.holds = verdict
                self._ask(paused)
            else:
                self._go_on(paused, Outcome(state="approved"))
        except RecordingError as error:
            self.recording_failed(error)

    def _filed(self, asked: Asked) -> None:
        paused = self._paused
        if paused is not None and paused.asked is asked:
            paused.notice = self._judge.notice(asked)
            try:
                self._give_notice(paused)
            except RecordingError as error:
                self.recording_failed(error)

    def _nudge(self) -> None:
        frame = self._judge.nudge()
        self.session.record(
            Event(
                kind=Kind.REQUEST,
                side=Side.CLIENT,
                payload=frame,
                orig_len=len(frame),
                flags=Flag.SYNTHETIC,
            )
        )
        self._hold(self._up, [frame], self._all_synced, True)

    def _give_notice(self, paused: _Paused) -> None:
        down = self._down
        if down.sink_lost or not (
            down.is_whole if down.last_held is None else down.last_held.is_whole
        ):
            return  # after what is being said
        assert paused.asked is not None
        words, paused.notice = paused.notice, b""
        self.session.record(
            Event(
                kind=Kind.RESPONSE,
                side=Side.TARGET,
                command_no=paused.asked.command_no,
                text=f'waits for a decision, by rule "{paused.asked.hold.rule}"',
                payload=words,
                orig_len=len(words),
                flags=Flag.SYNTHETIC,
            )
        )
        self._hold(down, [words], self._all_synced, True)

    def _answered(self, asked: Asked, outcome: Outcome) -> None:
        """Go on with what waited, or refuse it, as people have said."""
        paused = self._paused
        if paused is None or paused.asked is not asked:
            return
        try:
            self._asks.record(asked, outcome)
            if outcome.state == "approved" and len(paused.holds) > 1:
                # Each rule that holds it is satisfied by itself.
                paused.holds.pop(0)
                self._ask(paused)
                return
            self._go_on(paused, outcome)
        except RecordingError as error:
            self.recording_failed(error)

    def _go_on(self, paused: _Paused, outcome: Outcome | Refusal) -> None:
        self._paused = None
        step, up = paused.step, list[bytes]()
        if isinstance(outcome, Refusal):
            self._refuse(step, outcome, up)
        elif outcome.state == "approved":
            self._judge.approve(step)
            up.append(step.frame)
            self._last_client_frame = step.frame
        else:
            rule = paused.holds[0].rule
            held = [c for c in step.starts if c.decision == "hold" and c.rule == rule]
            self._refuse(step, self._judge.refusal(held[0], outcome), up)
        if up:
            self._hold(self._up, up, self._all_synced or self._reads_unsynced, True)
        self._skipped = paused.skipped
        self._take(paused.rest)
        self._skipped = []
        if paused.backlog:
            self.receive(_CLIENT, b"".join(paused.backlog))

    def cancel_paused(self) -> bool:
        """Refuse what waits, because its client asks for that; False where it has no turn yet."""
        paused = self._paused
        if paused is None or not self._judge.has_turn(paused.step):
            return False
        outcome = Outcome(state="cancelled", why="canceling statement due to user request")
        try:
            self._withdraw(outcome)
            self._go_on(paused, outcome)
        except RecordingError as error:
            self.recording_failed(error)
        return True

    def _withdraw(self, outcome: Outcome) -> None:
        """Ask no more about what waits, and record that."""
        assert self._paused is not None
        asked = self._paused.asked
        if asked is not None:
            self._asks.withdraw(asked)
            self._asks.record(asked, outcome)

    def _give_up(self, why: str) -> None:
        """Let what waits never pass: its session ends."""
        paused = self._paused
        if paused is None:
            return
        try:
            self._withdraw(Outcome(state="cancelled", why=why))
        except RecordingError:
            pass  # all else that is to be recorded fails as well, and says so
        self._paused = None
        for command in paused.step.starts:
            command.status = "cancelled"
            command.error_text = why

    def hold_up(self, is_held_up: bool) -> None:
        """Read nothing more from either side, or go on."""
        if not self.is_closing:
            for direction in (self._up, self._down):
                direction.is_held_up = is_held_up
                direction.throttle()

    # --- the end

    def source_ended(self, side: Side) -> None:
        """Note that `side` says no more; what it said still reaches the other."""
        direction = self._up if side is Side.CLIENT else self._down
        if not self._reason:
            self._reason = self._reason_of(side)
        self._give_up("the client hung up" if side is Side.CLIENT else "the target hung up")
        direction.source_ended = True
        if direction.held is None:
            self.finish(direction)
        if side is Side.CLIENT and self._has_ended and not self._client.is_closing():
            self._client.close()

    def side_lost(self, side: Side) -> None:
        """Note that the connection to `side` is gone, both ways."""
        (self._down if side is Side.CLIENT else self._up).sink_lost = True
        self.source_ended(side)
        if self._up.sink_lost and self._down.sink_lost and not self._is_gone:
            self._is_gone = self.is_closing = True
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            self._end_session()
            self._gone(self)
            # Both belong to who holds on to this one: without them it is freed at once.
            self._ended = self._gone = _nobody

    def _reason_of(self, side: Side) -> str:
        if self._judge.is_goodbye(self._last_client_frame):
            return "client"  # even if it waits for the target to hang up first
        return "target" if side is Side.TARGET else "client_gone"

    def finish(self, direction: _Direction) -> None:
        """Pass the end of `direction` on, now that all that came before it has gone."""
        if direction.sink_lost or direction.sink.is_closing():
            return
        if direction is self._down:
            self._close_client()
        elif self.is_closing or self._down.sink_lost or not direction.sink.can_write_eof():
            direction.sink.close()
            self._arm_linger()
        else:
            direction.sink.write_eof()

    def _close_client(self) -> None:
        """Close the client's side without a reset.

        A socket that is closed with bytes unread, or gets some afterwards, answers with a reset,
        and a client may lose the last words over it. So what it still sends is read and dropped.
        """
        self._end_session()
        if self._client.can_write_eof() and not self._up.source_ended:
            self._client.write_eof()
            self._client.resume_reading()
        else:
            self._client.close()
        self._arm_linger()

    def end(self, reason: str, message: str, hint: str = "") -> None:
        """End the session for `reason`, and tell the client where its protocol has words for it.

        What was recorded before still goes; nothing is read any more.
        """
        if self.is_closing:
            return
        self.is_closing = True
        self.was_busy = self.session.is_busy
        self._reason = reason
        self._give_up(message)
        down = self._down
        if not self._target.is_closing():
            self._target.pause_reading()
        may_speak = down.is_whole if down.last_held is None else down.last_held.is_whole
        try:
            if may_speak and not down.sink_lost and not self._client.is_closing():
                words = self._judge.farewell(reason, message, hint)
                self.session.record(
                    Event(
                        kind=Kind.RESPONSE,
                        side=Side.TARGET,
                        text=message,
                        payload=words,
                        orig_len=len(words),
                        flags=Flag.SYNTHETIC,
                    )
                )
                self._hold(down, [words], self._all_synced, True)
            self._finish_masks()
            self.session.close(reason)
        except RecordingError as error:
            self._stop_unrecorded(error)
            return
        down.source_ended = True
        if down.held is None:
            self.finish(down)
        if self._up.held is None:
            self.finish(self._up)
        self._arm_linger()

    def drain(self, message: str, hint: str = "") -> None:
        """End the session as `shutdown` once no command and no transaction is open."""
        if self._judge.is_goodbye(self._last_client_frame):
            return  # it is ending by itself
        self._drain_words = (message, hint)
        self._drain_if_idle()

    def _drain_if_idle(self) -> None:
        if (
            self._drain_words is not None
            and not self.session.is_busy
            and not self._judge.is_in_transaction()
        ):
            self.end("shutdown", *self._drain_words)

    def recording_failed(self, failure: RecordingError) -> None:
        """Stop at once: what waits is never released, because nothing more can be recorded."""
        if not self.is_closing:
            self.is_closing = True
            self._reason = "recording_failed"
            self._give_up("recording failed")
            self._stop_unrecorded(failure)

    def _stop_unrecorded(self, failure: RecordingError) -> None:
        for direction in (self._up, self._down):
            direction.drop()
        self._target.abort()
        if not self._client.is_closing():
            if self._down.is_whole:
                self._client.write(self._judge.farewell(*recording_words(failure)))
            self._close_client()

    @property
    def owes_bytes(self) -> bool:
        """Whether the client has not taken all yet that is recorded as sent to it."""
        return self._down.held is not None or self._client.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Cut both connections without another word."""
        self._client.abort()
        self._target.abort()

    def _arm_linger(self) -> None:
        if self._linger is None and not self._is_gone:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._cut)

    def _cut(self) -> None:
        for transport in (self._client, self._target):
            if transport.is_closing() or transport.get_write_buffer_size():
                transport.abort()
            else:
                transport.close()
        self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def _end_session(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            try:
                self._finish_masks()
            except RecordingError:
                pass  # its close says so
            self._masker.leave()
            self.session.close(self._reason)
            self._ended(self, self._reason)


def _nobody(*_: object) -> None:
    """Stands where somebody was told who is to be told no more."""


def recording_words(failure: RecordingError) -> tuple[str, str, str]:
    """Return reason, message and hint for a client when nothing can be recorded any more.

    The reason is `disk_full` or `recording_failed`; paths of the archive are not the client's.
    """
    seen = str(failure)
    is_full = any(os.strerror(number) in seen for number in (errno.ENOSPC, errno.EDQUOT))
    if is_full or "disk_stop" in seen:
        message = "recording is not possible, so nothing may pass: the disk is full"
        return "disk_full", message, "the operator must free space and restart the gateway"
    message = "recording is not possible, so nothing may pass"
    return "recording_failed", message, "the gateway's own log tells the operator why"


def _is_whole(step: Step | None) -> bool:
    if step is None or not step.events:
        return True
    last = step.events[-1]
    return not last.flags & _CONTINUED
