"""The words that every layer shares: events, commands, sessions, and what a protocol yields.

Nothing here knows a protocol, a file or a clock. An `Event` is what the archive keeps; a `Step`
is what may be forwarded; a `Command` is what a person asks about.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agentaudit.errors import ClientProtocolError, TargetProtocolError

MAX_EVENT_BYTES = 256 * 1024
"""A longer message is recorded as several events with `Flag.CONTINUED`."""


class Side(enum.Enum):
    """Who sent the bytes."""

    CLIENT = "client"
    TARGET = "target"


class Kind(enum.IntEnum):
    """What an event is. Numbers are hashed into leaves, so they are never reused."""

    SESSION_OPEN = 1
    SESSION_CLOSE = 2
    REQUEST = 3
    RESPONSE = 4
    COMMAND_END = 5
    DECISION = 6
    CONTENT = 7
    NOTICE = 8
    ACCESS = 9
    PURGE = 10
    LEGAL_HOLD = 11
    REFUSED = 12


class Flag(enum.IntFlag):
    """Bits of an event's `flags`; bits 5 and 6 hold the durability mode."""

    NONE = 0
    FROM_TARGET = 1 << 0
    SYNTHETIC = 1 << 1
    MASKED = 1 << 2
    TRUNCATED = 1 << 3
    CONTINUED = 1 << 4
    WITHHELD = 1 << 7


class Durability(enum.IntEnum):
    """When a journal write counts; the value is what bits 5 and 6 of `flags` hold."""

    STRICT = 0
    WRITES = 1
    RELAXED = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A masked stretch of an event: which rule, where (`text` or `payload`), offset and length."""

    rule: str
    place: str
    offset: int
    length: int


# Events and steps are never changed after they are made. They are not declared frozen, because
# making a frozen one costs four times as much, and one of each is made for all that passes.
@dataclass(slots=True, kw_only=True)
class Event:
    """One thing that passed, as the archive keeps it.

    `text` is what a person reads; `payload` is the bytes, masked, or None where there are none
    to keep; `orig_len` counts bytes on the wire. `command_no` is -1 outside any command.
    """

    kind: Kind
    side: Side | None = None
    command_no: int = -1
    text: str | None = None
    payload: bytes | None = None
    orig_len: int = 0
    status: int | None = None
    flags: Flag = Flag.NONE
    spans: tuple[Span, ...] = ()


@dataclass(slots=True, kw_only=True)
class Command:
    """One execution: a statement, an API call, an exec request.

    The protocol numbers it and fills in what the wire says; risk and policy fill in what it
    does and whether it may; the recorder stamps times, event numbers and bytes. Field names are
    those of the archive's `commands` table, but for `cls`, its column `class`.
    """

    command_no: int
    text: str = ""
    params: tuple[str | None, ...] | None = None
    operation: str = ""
    cls: str = "unknown"
    fingerprint: str = ""
    resources: tuple[str, ...] = ()
    risk: tuple[str, ...] = ()
    confidence: str = "uncertain"
    parser: str = ""
    decision: str = "allow"
    rule: str = "none"
    request_id: UUID | None = None
    status: str = "incomplete"
    error_code: str | None = None
    error_text: str | None = None
    columns: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rows_returned: int | None = None
    rows_affected: int | None = None
    estimated_rows: int | None = None
    txn_no: int | None = None
    txn_status: str | None = None
    target_ref: str | None = None
    traceparent: str | None = None
    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    masked: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    started_at_us: int = 0
    started_mono_ns: int = 0
    first_event_no: int = -1
    last_event_no: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who is at the other end of a connection, as the identity provider says.

    `chain` lists the subjects from the token's own to the first delegator (RFC 8693, `act`).
    """

    user: str
    subject: str
    issuer: str
    agent: str = ""
    email: str | None = None
    groups: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """All that is constant in a session; its `session_open` event carries it as canonical JSON.

    Field names are those of the archive's `sessions` table. `labels` is what the client says of
    itself; nothing in it is trusted.
    """

    protocol: str
    target: str = ""
    user: str = ""
    issuer: str = ""
    email: str | None = None
    groups: tuple[str, ...] = ()
    agent: str = ""
    actor_chain: tuple[str, ...] = ()
    run_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    client_addr: str = ""
    client_app: str = ""
    gateway_port: int = 0
    target_addr: str = ""
    target_pid: int | None = None
    window_id: UUID | None = None
    policy_digest: str = ""
    mask_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why something may not pass, in words for the client; `code` is the protocol's own."""

    code: str
    message: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """That a command waits until people have decided, and who may decide.

    Members of the groups `approvers`, so many of them as `approvals` says; `timeout_s` is None
    where the rule leaves it to what the session is in. Where it `counts`, nobody is asked: it waits
    until it is known how many rows it is about.
    """

    rule: str
    approvers: tuple[str, ...]
    approvals: int = 1
    timeout_s: float | None = None
    counts: bool = False


@dataclass(slots=True, kw_only=True)
class Step:
    """Bytes that may be forwarded alone, and what they mean.

    `frame` goes to the other side of `side`; where `synthetic`, the gateway made it. `starts` lists
    the commands that begin with this frame: they need a decision before it is forwarded. `ends`
    lists those that it completes. What one side says may let the other side's step go. `about` has
    what its messages are about, as its protocol knows it, where somebody asked to be told.
    """

    side: Side
    frame: bytes
    events: tuple[Event, ...] = ()
    starts: tuple[Command, ...] = ()
    ends: tuple[Command, ...] = ()
    synthetic: bool = False
    about: tuple[Any, ...] = ()


def begin(command: Command, command_no: int, text: str) -> None:
    """Set a new command's fields, as `Command` does it; see `passed`."""
    command.command_no = command_no
    command.text = text
    command.params = None
    command.operation = command.fingerprint = command.parser = ""
    command.cls = "unknown"
    command.confidence = "uncertain"
    command.decision = "allow"
    command.rule = "none"
    command.status = "incomplete"
    command.resources = command.risk = command.columns = command.origins = ()
    command.paths = command.sha256 = ()
    command.request_id = None
    command.error_code = command.error_text = None
    command.rows_returned = command.rows_affected = command.estimated_rows = None
    command.txn_no = command.txn_status = None
    command.target_ref = command.traceparent = None
    command.masked = command.bytes_in = command.bytes_out = 0
    command.started_at_us = command.started_mono_ns = 0
    command.first_event_no = command.last_event_no = -1


def passed(
    kind: Kind, side: Side, command_no: int, text: str | None, payload: bytes, flags: Flag
) -> Event:
    """Return the event of bytes that passed, as `Event` does it; this is the data path's way.

    Two of these are made for each command, and to parse keywords would cost more than the rest.
    """
    event = Event.__new__(Event)
    event.kind = kind
    event.side = side
    event.command_no = command_no
    event.text = text
    event.payload = payload
    event.orig_len = len(payload)
    event.status = None
    event.flags = flags
    event.spans = ()
    return event


def step_of(
    side: Side,
    frame: bytes,
    event: Event,
    starts: tuple[Command, ...],
    ends: tuple[Command, ...],
    synthetic: bool,
) -> Step:
    """Return the step of one event, as `Step` does it; see `passed`."""
    step = Step.__new__(Step)
    step.side = side
    step.frame = frame
    step.events = (event,)
    step.starts = starts
    step.ends = ends
    step.synthetic = synthetic
    step.about = ()
    return step


class Conversation:
    """Both directions of one connection, understood without I/O. Each protocol has its own.

    `broken` is what the next `receive` raises, if bytes that are not allowed came behind good ones;
    `is_behind` says that so many answers are owed that the client had better wait for some.
    """

    def __init__(self) -> None:
        self.broken: ClientProtocolError | TargetProtocolError | None = None
        self.is_behind = False

    def receive(self, side: Side, data: bytes) -> list[Step]:
        """Return the steps that `data` completes; it may be cut anywhere.

        Raises:
            ClientProtocolError, TargetProtocolError: bytes that the protocol does not allow.
        """
        raise NotImplementedError

    def refuse(self, step: Step, refusal: Refusal) -> list[Step]:
        """Answer `step` in protocol, at its turn; later steps may carry the answer."""
        raise NotImplementedError
