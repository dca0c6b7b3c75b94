"""What is typed into a shell at a terminal: recorded as lines, and each decided about at its Enter.

What comes before a key that ends a line goes on at once, so that the host shows it. The key, and
all that is behind it, waits until the screen shows the line, and then for the rules, and for people
where they say so. A line that may not run is taken back: the shell is typed what makes it forget
it, and lives on.

What cannot be told from the screen is uncertain, and then of class `unknown`. Where no rule can be
about a line, nothing waits for long: it is read as well as it can be.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agentaudit.errors import MaskingError, RecordingError
from agentaudit.gateway.holds import Asked, Outcome
from agentaudit.gateway.ssh_commands import classify, hide
from agentaudit.gateway.ssh_masks import ChannelMask
from agentaudit.model import Command, Event, Flag, Hold, Kind, Side
from agentaudit.policy import NO_RULE
from agentaudit.protocols.ssh import said
from agentaudit.protocols.ssh_lines import Line, TypedLines
from agentaudit.protocols.ssh_screen import MAX_CELLS, MAX_SIDE
from agentaudit.risk import shell

if TYPE_CHECKING:
    from agentaudit.gateway.ssh_session import Channel, SshSession

LINE_BYTES: Final = 256
"""What a line counts for in a session's bytes, beside its own."""

PASSWORD: Final = "password-prompt"  # noqa: S105
"""The rule by which what is typed at a prompt for a password is hidden."""

NOT_RECOGNISED: Final = "not recognised"
"""What the risk of a line says of which the text is not certain."""

_QUIET_S: Final = 0.15
"""For so long, and for twice as long as it takes to answer a key, a host may say nothing before it
is taken to have shown all that it will show."""
_MOST_S: Final = 3.0
"""A line waits no longer for its host; one that is not shown by then is uncertain."""
_START_S: Final = 3.0
"""What is typed before the first prompt waits for it no longer."""
_INTERRUPTS: Final = 2
_AGAIN_S: Final = 0.4
_MAX_WAITING: Final = 64 * 1024
"""What may be typed behind a line that waits, before the client is read no more."""

_BURST_BYTES: Final = 64 * 1024
_BYTES_A_SECOND: Final = 64 * 1024
"""How much output is followed: a screen is worth more processor time than all else of a byte."""
_TAIL_BYTES: Final = 8 * 1024
"""What is shown of output that was passed over, once something is typed."""

_MIN_SECRET: Final = 6
"""A shorter password is not looked for in what the host says: it would be found everywhere."""
_MAX_SECRET: Final = 1024
_MAX_SECRETS: Final = 8

_OTHERS: Final = "another channel may write to the screen"
_INTERRUPT: Final = b"\x03"
_END: Final = b"\x04"
_SHELL: Final = re.compile(
    r"\s*(?:exec\s+)?(?:/(?:usr/)?bin/)?(?:bash|sh|dash|ash|ksh|zsh)(?:\s+-[il]+|\s+--login)*\s*"
)


def is_shell(text: str) -> bool:
    """Return whether an exec request is for nothing but a shell that is typed into.

    >>> is_shell("exec bash -il"), is_shell("bash -c x"), is_shell("sh script")
    (True, False, False)
    """
    return _SHELL.fullmatch(text) is not None


class Credit:
    """How much output of a session's terminals is followed, whatever the number of its channels."""

    def __init__(self) -> None:
        self._left = float(_BURST_BYTES)
        self._at_s = 0.0

    def take(self, size: int, now_s: float) -> bool:
        """Return whether so many bytes are to be followed."""
        earned = (now_s - self._at_s) * _BYTES_A_SECOND
        self._left, self._at_s = min(self._left + earned, _BURST_BYTES), now_s
        if size > self._left:
            return False
        self._left -= size
        return True


@dataclass(slots=True, eq=False)
class _Waits:
    """A line that waits for people; `is_approved` where it only waits for the host to be quiet."""

    command: Command
    line: Line
    after: shell.State
    asked: Asked | None = None
    is_approved: bool = False


class TypedFlow:
    """What is typed on one channel. It ends with its channel."""

    def __init__(
        self, channel: Channel, relay: SshSession, mask: ChannelMask, columns: int, rows: int
    ) -> None:
        self._channel = channel
        self._relay = relay
        self._mask = mask
        self._loop = asyncio.get_running_loop()
        self._judges = not relay.policy.is_open
        self._lines = TypedLines(columns, rows)
        self.resize(columns, rows)
        self._input = b""
        self._is_taking = False
        self._state = shell.INTERACTIVE
        self._is_behind_line = self._is_new = True
        self._is_behind_refusal = False
        self._said_s = self._sent_s = self._loop.time()
        self._unsent = self._sends = 0
        self._is_echoed = True
        self._lag_s = 0.0
        self._channels = relay.login.begun
        if relay.login.open > 1:
            self._lines.distrust(_OTHERS)
        self._tail: bytearray | None = None
        self._secret = bytearray()
        self._secrets: list[bytes] = []
        self._ready: Callable[[], bool] | None = None
        self._then: Callable[[], None] | None = None
        self._late: Callable[[], None] | None = None
        self._heeds_quiet = True
        self._quiet: asyncio.TimerHandle | None = None
        self._most: asyncio.TimerHandle | None = None
        self._is_patient = True
        self._waits: _Waits | None = None
        self._is_over = False

    @property
    def is_asking(self) -> bool:
        """Whether something that was typed waits."""
        return bool(self._input)

    # --- the screen

    def resize(self, columns: int, rows: int) -> None:
        """Note that the terminal has another size from here on."""
        if max(columns, rows) > MAX_SIDE or columns * rows > MAX_CELLS:
            self._lines.distrust("the terminal is larger than what is followed")
        self._lines.resize(columns, rows)

    def unfollowed(self, what: str) -> bool:
        """Note that something else would reach the shell; return whether it may.

        It would change a line that waits, behind the back of who decides about that.
        """
        self._lines.doubt(what)
        return not self.is_asking

    def said(self, data: bytes) -> None:
        """Follow what the host says, before it goes on."""
        if self._is_over:
            return
        self._said_s = self._loop.time()
        if not self._is_echoed and not self._unsent:
            self._is_echoed = True
            lag_s = self._said_s - self._sent_s
            self._lag_s = min(max(lag_s, 0.9 * self._lag_s + 0.1 * lag_s), _MOST_S / 2)
        self._follow(data)
        if self._ready is None and self._waits is not None:
            self._wait(lambda: False, self._compare)
        if self._ready is None:
            return
        if self._ready():
            self._go(self._then)
        else:
            self._arm_quiet()

    def _follow(self, data: bytes) -> None:
        """Show output to the screen, or keep its end where there is too much of it."""
        if self._tail is None and self._relay.credit.take(len(data), self._said_s):
            self._lines.said(data)
            return
        tail = bytearray() if self._tail is None else self._tail
        tail += data[-_TAIL_BYTES:]
        del tail[:-_TAIL_BYTES]
        self._tail = tail

    def _catch_up(self) -> None:
        """Follow the end of what was passed over."""
        tail, self._tail = self._tail, None
        if tail is not None:
            self._lines.skipped()
            self._lines.said(bytes(tail[tail.find(b"\n") + 1 :]))

    # --- what the client types

    def receive(self, data: bytes) -> None:
        """Record what is typed, and let it go on where it may."""
        if self._is_over:
            self._relay.recorded(lambda: self._not_passed(data))
            return
        self._input += data
        if self._waits is not None and _INTERRUPT in data:
            self._interrupted()
        self._take()
        self._relay.count(len(data))

    def _take(self) -> None:
        """Pass on what was typed up to what has to wait."""
        if self._is_taking:
            return
        self._is_taking = True
        try:
            while self._input and self._ready is None and self._waits is None and self._is_open:
                self._step()
        except MaskingError as error:
            self._relay.masking_failed(error)
        except RecordingError as error:
            self._relay.recording_failed(error)
        finally:
            self._is_taking = False
        if self._is_open:
            self._channel.ask_people(len(self._input) > _MAX_WAITING)

    @property
    def _is_open(self) -> bool:
        relay = self._relay
        return not (self._is_over or relay.is_closing or relay.session.closed)

    def _step(self) -> None:
        self._catch_up()
        if self._is_strict and not self._may_type():
            return
        is_hidden = self._lines.is_hiding
        size = self._lines.typed(self._input)
        if size:
            self._pass(size, is_hidden=is_hidden)
        if not self._input:
            return
        if self._lines.is_hiding:
            self._wait_for_no_echo()
        elif self._is_shown():
            self._is_patient = True
            self._settle()
        elif self._is_strict:
            self._wait(self._is_shown, self._settle, late=self._settle_late)
        elif self._is_patient:
            most = self._quiet_s
            self._wait(self._is_shown, self._settle, late=self._settle_late, most=most)
        else:
            self._settle_late()

    def _wait_for_no_echo(self) -> None:
        """Decide about what is typed at a prompt for a password, unless it is shown after all."""
        self._wait(
            lambda: not self._lines.is_hiding,
            lambda: None,
            late=self._settle,
            most=self._quiet_s,
            heeds_quiet=False,
        )

    @property
    def _is_strict(self) -> bool:
        """Whether it is worth while to wait for the screen."""
        return self._judges or not self._lines.is_doubted

    def _may_type(self) -> bool:
        """Return whether the host waits for what comes next, as far as can be waited for."""
        if not self._is_behind_line:
            return True
        is_patient = self._is_new or self._is_behind_refusal
        self._is_behind_line = self._is_new = self._is_behind_refusal = False
        if self._lines.is_ready or (not is_patient and self._has_answered()):
            return True
        if is_patient:
            # The shell reads its start-up files, and says nothing for as long as that takes; or it
            # has not heard yet that it is to forget a line.
            self._wait(lambda: self._lines.is_ready, lambda: None, most=_START_S, heeds_quiet=False)
        else:
            self._wait(self._has_answered, lambda: None)
        return False

    def _has_answered(self) -> bool:
        """Whether something is seen to wait for keys, or the host has been quiet."""
        if self._lines.is_ready:
            return True
        last_s = max(self._said_s, self._sent_s)
        return not self._unsent and self._loop.time() - last_s > self._quiet_s

    def _is_shown(self) -> bool:
        """Whether the screen shows the line that the key ends, and it would show no more later."""
        if self._tail is not None or not self._lines.is_settled:
            return False
        if not self._is_strict:
            return True
        line = self._lines.line()
        return line is None or line.is_certain

    def _pass(self, size: int, *, is_hidden: bool = False) -> None:
        """Record so many bytes that were typed, and let them go on."""
        data, self._input = self._input[:size], self._input[size:]
        if _END in data:
            self._state = _after_another(self._state)
        if is_hidden:
            self._keep_secret(data)
            events = self._mask.hide(data, PASSWORD)
        else:
            events = self._mask.events(data)
        if self._record(events):
            self._send(data)

    def _record(self, events: list[Event]) -> bool:
        """Record what the mask has made of something that was typed; return whether it may pass."""
        is_recorded = self._relay.record(*events)
        if self._mask.is_withholding:
            self._relay.withhold()
        return is_recorded

    def _send(self, data: bytes) -> None:
        self._channel.send(Side.CLIENT, data)
        self._unsent += 1
        self._sends += 1
        self._is_echoed = False
        self._channel.once_recorded(self._has_sent)

    def _has_sent(self) -> None:
        self._unsent -= 1
        self._sent_s = self._loop.time()

    def _drop(self, size: int) -> None:
        data, self._input = self._input[:size], self._input[size:]
        self._record(self._not_passed(data))

    def _not_passed(self, data: bytes) -> list[Event]:
        events = self._mask.events(data)
        events[0].text = "not passed on"
        return events

    def _type(self, data: bytes) -> None:
        """Type something ourselves."""
        events = self._mask.events(data)
        events[0].flags |= Flag.SYNTHETIC
        if self._record(events):
            self._send(data)

    # --- waiting for the host

    @property
    def _quiet_s(self) -> float:
        return max(_QUIET_S, 2 * self._lag_s)

    def _wait(
        self,
        ready: Callable[[], bool],
        then: Callable[[], None],
        *,
        late: Callable[[], None] | None = None,
        most: float = _MOST_S,
        heeds_quiet: bool = True,
    ) -> None:
        """Do `then` once it is `ready` or the host is quiet, and `late` when it took too long."""
        self._ready, self._then, self._late = ready, then, late or then
        self._heeds_quiet = heeds_quiet

        def arm() -> None:
            if self._ready is ready and self._most is None and not self._is_over:
                self._most = self._loop.call_later(most, self._too_long)

        # What was typed may not have gone on yet.
        self._channel.once_recorded(arm)
        self._arm_quiet()

    def _arm_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        if self._heeds_quiet and not self._unsent and self._is_echoed:
            at = self._said_s + self._quiet_s
            self._quiet = self._loop.call_at(at, lambda: self._go(self._then))

    def _too_long(self) -> None:
        self._go(self._late)

    def _go(self, then: Callable[[], None] | None) -> None:
        self._stop_waiting()
        if then is not None and self._is_open:
            self._catch_up()
            self._guarded(then)
            self._take()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except MaskingError as error:
            self._relay.masking_failed(error)
        except RecordingError as error:
            self._relay.recording_failed(error)

    def _stop_waiting(self) -> None:
        self._ready = self._then = self._late = None
        for timer in (self._quiet, self._most):
            if timer is not None:
                timer.cancel()
        self._quiet = self._most = None

    # --- a line

    def _settle_late(self) -> None:
        """Decide about the line that the key ends, and that the host has not shown by now."""
        self._is_patient = False
        line = self._lines.line() or Line("", False, False, "")
        self._decide(replace(line, is_certain=False, why=line.why or "not shown in time"))

    def _settle(self) -> None:
        """Decide about the line that the key ends."""
        if self._relay.login.begun != self._channels:
            self._lines.distrust(_OTHERS)
        self._decide(self._lines.line())

    def _decide(self, line: Line | None) -> None:
        if line is not None and line.is_secret:
            self._take_secret()
        if line is None or (line.is_secret and (line.is_certain or not self._judges)):
            self._leave_key()
        else:
            self._judge(line)

    def _leave_key(self) -> None:
        """Let the key go on."""
        self._secret.clear()
        self._pass(self._lines.passed(self._input))

    def _judge(self, line: Line) -> None:
        command = Command(command_no=self._relay.next_number(), operation="line")
        after = classify(command, line.text, self._state)
        self._relay.scripts.link(command, line.text, self._state)
        if not line.is_certain:
            command.cls, command.confidence = "unknown", "uncertain"
            command.risk = (*command.risk, NOT_RECOGNISED)
        decision = self._relay.policy.decide(command, line.text).about(None)
        if decision is not NO_RULE:
            command.decision, command.rule = decision.action, decision.rule
        self._relay.scripts.hide(command)
        commit = self._begin(command, line)
        if command.decision == "deny":
            self._refuse(command, f'denied by rule "{command.rule}"')
        elif decision.hold is not None:
            self._ask(_Waits(command, line, after), decision.hold, commit)
        else:
            self._go_on(line, command, after)

    def _begin(self, command: Command, line: Line) -> str:
        """Record a line; return the commitment to its text."""
        relay, number, text = self._relay, command.command_no, line.text
        _, spans = hide(command, relay.masks, text)
        how = ("recognised",) if line.is_certain else ("uncertain", line.why)
        relay.note(self._channel.command.command_no, Side.CLIENT, said("line", number, *how))
        shown = f"line {relay.masks.mask_text(text)}"
        event = Event(
            kind=Kind.REQUEST,
            side=Side.CLIENT,
            command_no=number,
            text=shown,
            spans=tuple(replace(span, place="text", offset=span.offset + 5) for span in spans),
            flags=Flag.SYNTHETIC,
        )
        relay.session.begin(command)
        commit = relay.session.commit_next(event.text)
        relay.record(event)
        relay.count(LINE_BYTES + len(text))
        return commit

    def _go_on(self, line: Line, command: Command, after: shell.State) -> None:
        """Let the key go on, and with it the line."""
        self._is_behind_line = True
        if not line.is_certain:
            after = replace(self._state, is_in_doubt=True)
        if command.cls == "unknown" or not _LEAVES.isdisjoint(command.risk):
            after = _after_another(after)
        self._state = after
        command.status = "ok"
        self._relay.session.end(command)
        self._leave_key()

    # --- what may not run

    def _refuse(self, command: Command, why: str, *, status: str = "denied") -> None:
        """Take the line back, and say why."""
        relay = self._relay
        dropped = self._lines.dropped()
        self._drop(1)
        self._secret.clear()
        self._is_behind_line = self._is_behind_refusal = True
        command.status, command.error_text = status, why
        relay.session.end(command)
        where = f" (session {relay.session.session_id}, command {command.command_no})"
        self._channel.say_on_terminal(why + where)
        self._type(dropped)
        self._interrupt_again(_INTERRUPTS)

    def _interrupt_again(self, times: int) -> None:
        """Interrupt a shell again that shows no prompt for it.

        bash misses an interrupt that comes as it begins to wait for a key, up to the next one.
        """
        sent = self._sends

        def again() -> None:
            if self._is_open and self._sends == sent and not self._lines.is_ready:
                self._guarded(lambda: self._type(self._lines.dropped()))
                if times > 1:
                    self._interrupt_again(times - 1)

        self._loop.call_later(_AGAIN_S, again)

    def _ask(self, waits: _Waits, hold: Hold, commit: str) -> None:
        self._waits = waits
        waits.asked = self._relay.question(
            waits.command, hold, commit, filed=self._filed, answered=self._answered
        )
        self._relay.asks.ask(waits.asked)
        if _INTERRUPT in self._input:
            self._interrupted()

    def _filed(self, asked: Asked) -> None:
        waits = self._waits
        if waits is not None and waits.asked is asked:
            rule, request = asked.hold.rule, asked.request_id
            words = f'waits for a decision, by rule "{rule}" (request {request}); ^C takes it back'
            self._guarded(lambda: self._channel.say_on_terminal(words))

    def _answered(self, asked: Asked, outcome: Outcome) -> None:
        self._guarded(lambda: self._take_answer(asked, outcome))
        self._take()

    def _take_answer(self, asked: Asked, outcome: Outcome) -> None:
        waits = self._waits
        if waits is None or waits.asked is not asked:
            return
        self._relay.asks.record(asked, outcome)
        if outcome.state != "approved":
            self._waits = None
            self._stop_waiting()
            self._refuse(waits.command, outcome.refusal(asked.hold.rule))
            return
        waits.is_approved = True
        if self._ready is None:
            self._compare()

    def _compare(self) -> None:
        """See whether the line is what people are asked about still; let it run if they said so."""
        waits = self._waits
        if waits is None:
            return
        line = self._lines.line()
        if (
            line is None
            or line.text != waits.line.text
            or (waits.line.is_certain and not line.is_certain)
        ):
            self._take_back("the host has changed the line meanwhile")
        elif waits.is_approved:
            self._waits = None
            self._go_on(waits.line, waits.command, waits.after)

    def _take_back(self, why: str) -> None:
        waits, self._waits = self._waits, None
        self._stop_waiting()
        if waits is not None:
            self._stop_asking(waits, why)
            self._refuse(waits.command, why, status="cancelled")

    def _stop_asking(self, waits: _Waits, why: str) -> None:
        if waits.asked is not None and not waits.is_approved:
            self._relay.asks.withdraw(waits.asked)
            self._relay.asks.record(waits.asked, Outcome(state="cancelled", why=why))

    def _interrupted(self) -> None:
        """Take back the line that waits, and drop all that was typed behind it."""
        self._guarded(lambda: self._take_back("taken back"))
        size = self._input.rfind(_INTERRUPT) + 1
        if self._is_open and size:
            self._guarded(lambda: self._drop(size))

    # --- passwords

    def _keep_secret(self, data: bytes) -> None:
        for byte in data:
            if byte in b"\x7f\x08":
                del self._secret[-1:]
            elif byte == 0x15:
                self._secret.clear()
            elif len(self._secret) < _MAX_SECRET:
                self._secret.append(byte)

    def _take_secret(self) -> None:
        """Hide a password in what the host says from now on."""
        secret = bytes(self._secret)
        self._secret.clear()
        if len(secret) >= _MIN_SECRET and secret not in self._secrets:
            self._secrets = [*self._secrets, secret][-_MAX_SECRETS:]
            self._channel.hide_output(self._relay.masks.hiding(PASSWORD, self._secrets))

    # --- ends

    def withdraw(self, why: str) -> None:
        """Ask no more: nobody waits for the answer."""
        waits, self._waits = self._waits, None
        self._stop_waiting()
        if waits is None:
            return
        waits.command.status = "cancelled"
        waits.command.error_text = why
        with suppress(RecordingError):  # all else that is to be recorded fails as well
            self._stop_asking(waits, why)
            self._relay.session.end(waits.command)

    def finish(self) -> list[Event]:
        """Return what was typed and has not gone on: no more comes."""
        self._is_over = True
        self.withdraw("the channel is over")
        data, self._input = self._input, b""
        return self._not_passed(data) if data else []


_LEAVES: Final = frozenset(["contains exit", "contains logout"])


def _after_another(state: shell.State) -> shell.State:
    """Return what a line finds where another shell may have begun or ended since.

    What is in no shell's memory for sure is in none: where it is, and what a function does.
    """
    return replace(
        state,
        functions={},
        aliases=state.aliases | frozenset(state.functions),
        folder=None,
    )
