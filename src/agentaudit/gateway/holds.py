"""What a session and the people who decide say to each other about a statement that waits.

The session (`relay`) keeps the bytes; whoever asks (`access`) keeps the question and brings the
answer. Neither knows how the other works: an answer may come after the session has ended, and a
session may end while it is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.model import Command, Hold

State = Literal["approved", "denied", "expired", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended: what people said, in the order they said it, and `why` in a client's words."""

    state: State
    approvers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    why: str = ""

    def refusal(self, rule: str) -> str:
        """Return what a client is told in a line of what was held by `rule` and may not pass.

        >>> Outcome(state="denied", reasons=("not on a Friday",)).refusal("no removals")
        'denied by rule "no removals": not on a Friday'
        """
        said = "; ".join(reason for reason in self.reasons if reason)
        return f'{self.state} by rule "{rule}": {self.why or said or self.state}'


@dataclass(slots=True, kw_only=True, eq=False)
class Asked:
    """A statement that waits, and what is asked about it.

    `shown` is what a reviewer sees of it; `commit` is the commitment of the archive to its text.
    `complete` adds to that what takes time to find out, and is awaited before anybody sees it.
    `filed` is called once people can see it, `answered` with what they said: both on the loop, at
    most once, and neither after `Asks.withdraw`.
    """

    hold: Hold
    session: SessionRecorder = field(repr=False)
    command_no: int
    cls: str
    shown: dict[str, Any] = field(repr=False)
    commit: str
    in_transaction: bool
    filed: Callable[[], None] = field(repr=False)
    answered: Callable[[Outcome], None] = field(repr=False)
    request_id: UUID
    requested_us: int = 0
    complete: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)


def shown(command: Command) -> dict[str, Any]:
    """Return what a reviewer sees of a command: what it does, and then all of its text."""
    return {
        "operation": command.operation,
        "class": command.cls,
        "resources": list(command.resources),
        "risk": list(command.risk),
        "confidence": command.confidence,
        "decision": command.decision,
        "rule": command.rule,
        "text": command.text,
    }


class Asks(Protocol):
    """Who asks, for one session."""

    def new_id(self) -> UUID:
        """Return the id of a question to come."""
        ...

    def ask(self, asked: Asked) -> None:
        """Ask; what becomes of it is told to `asked`."""
        ...

    def withdraw(self, asked: Asked) -> None:
        """Ask no more: nobody waits for the answer."""
        ...

    def record(self, asked: Asked, outcome: Outcome) -> None:
        """Record what was decided, in the session.

        Raises:
            RecordingError: recording has failed.
        """
        ...


class NobodyAsks:
    """Stands in where the gateway was started without a state: what waits is denied."""

    def new_id(self) -> UUID:
        return uuid4()

    def ask(self, asked: Asked) -> None:
        outcome = Outcome(state="denied", why="nobody can be asked: this gateway has no state")
        asyncio.get_running_loop().call_soon(asked.answered, outcome)

    def withdraw(self, asked: Asked) -> None:
        pass

    def record(self, asked: Asked, outcome: Outcome) -> None:
        pass
