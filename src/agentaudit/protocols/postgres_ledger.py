"""What a PostgreSQL server still owes its client, and to which command each answer belongs.

Answers carry no name of what they answer, so requests wait here in the order sent, and an answer
goes to the first of them. After an error in the extended protocol the server skips to the next
Sync; what it skips is taken off the ledger with the error, or never gets on it.

Flow: postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from agentaudit.errors import TargetProtocolError
from agentaudit.model import Command, begin
from agentaudit.protocols.postgres_messages import Column, Report, RowShape
from agentaudit.protocols.postgres_prepared import (
    NO_SHAPE,
    Names,
    Portal,
    Prepared,
    cut_text,
    may_rename,
    renamed,
)

# The type bytes of requests; what a client sends besides owes nothing.
QUERY, PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, SYNC = b"QPBDECS"
REFUSED: Final = 0
"""Not a message: the place of one that was refused, where the server was made to fail."""

MAX_HASHES: Final = 1_000
"""Long messages of one command that its row names hashes of; each event has its leaf anyway."""

MAX_SKIPPED: Final = 1_000
"""Statements and portals that are remembered of what the server skips, up to the next Sync."""

MAX_OWED: Final = 10_000
"""Messages without an answer, of one connection, beyond which no more are taken in."""

_QUERY_CANCELED: Final = "57014"
_FAILURES: Final = frozenset({"denied", "error", "cancelled"})
_SETS_NOTHING: Final = frozenset(
    {word + end for word in ("BEGIN", "START TRANSACTION") for end in ("", ";", " READ ONLY")}
)
"""What drivers send ahead of a statement and changes no setting. COMMIT undoes a `SET LOCAL`."""

_SKIPPED: Final = "not run: a command before it failed"


class Execution(Command):
    """A command with what only PostgreSQL's conversation knows of it.

    `sql` is the whole text where `text` is cut to 64 KiB: what judges a statement must read this.
    `portal` is None for a statement of a simple query; `closing` is the Sync or Flush that came
    with it. `is_ambiguous` says that what ran may not be what its text seems to say,
    `is_only_bound` that its portal was bound without being executed.
    """

    __slots__ = (
        "closing",
        "described",
        "is_ambiguous",
        "is_ended",
        "is_only_bound",
        "plan",
        "planned_in",
        "planned_shape",
        "portal",
        "shape",
        "sql",
    )

    described: tuple[str, ...]
    plan: Any
    planned_in: int
    planned_shape: RowShape | None
    sql: str
    portal: Portal | None
    shape: RowShape
    closing: bytes
    is_ambiguous: bool
    is_ended: bool
    is_only_bound: bool

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def result_columns(self) -> tuple[Column, ...]:
        """The columns of its rows, in the formats that they have; empty where nobody asked.

        Known as soon as its first row is.
        """
        portal = self.portal
        if portal is None:
            return self.shape.columns
        if portal.shape is not NO_SHAPE:
            return portal.shape.columns
        # A statement is described before the Bind says which formats it wants.
        columns = portal.statement.shape.columns
        formats = portal.result_formats
        if len(formats) == 1:
            formats *= len(columns)
        if len(formats) != len(columns):
            return columns
        return tuple(replace(c, format=f) for c, f in zip(columns, formats, strict=True))

    def runs(self, statement: Prepared) -> bool:
        """Say whether it is an execution of this very statement."""
        return self.portal is not None and self.portal.statement is statement

    def name_columns(self) -> None:
        """Set `columns` and `origins` from what was described."""
        portal = self.portal
        if portal is not None:
            self.shape = portal.shape if portal.shape is not NO_SHAPE else portal.statement.shape
            self.columns = self.shape.names
            self.origins = self.shape.origins

    def deny(self, code: str, message: str) -> None:
        """Note that it was refused; without a rule, by the protocol itself."""
        if self.decision == "allow":
            self.decision = "deny"
            self.rule = "protocol"
        # Its client asked for that, while people were asked about it.
        self.status = "cancelled" if code == _QUERY_CANCELED else "denied"
        self.error_code = code
        self.error_text = message

    def add_hash(self, digest: str) -> None:
        """Note the SHA-256 of a long message."""
        if len(self.sha256) < MAX_HASHES:
            self.sha256 += (digest,)


class Batch:
    """The statements of a simple query; the server answers them one after the other."""

    __slots__ = ("at", "commands", "cycle")

    def __init__(self, commands: tuple[Execution, ...], cycle: int) -> None:
        self.commands = commands
        self.cycle = cycle
        self.at = 0

    def is_last(self) -> bool:
        """Whether the statement under way is the last one that we know of."""
        return self.at + 1 >= len(self.commands)

    def is_over(self) -> bool:
        """Whether one has failed: then the server looks at none behind it."""
        return self.at == len(self.commands)


class Refused:
    """What stood in one place until it was refused, and the ErrorResponse that its client gets."""

    __slots__ = ("commands", "report", "statement")

    def __init__(
        self,
        commands: tuple[Execution, ...],
        report: bytes,
        statement: Prepared | None = None,
    ) -> None:
        self.commands = commands
        self.report = report
        self.statement = statement


class Act:
    """A message that the server owes an answer.

    `thing` is what it is about: a statement, a portal, the number of a Sync. `ends_copy` says
    that the client ended a COPY behind it, before it knew whether there would be one. `is_ahead`
    says that it passed before the Execute that it belongs to, which may be refused without it.
    """

    __slots__ = ("command", "ends_copy", "is_ahead", "kind", "next", "thing")

    def __init__(
        self,
        kind: int,
        command: Execution | None,
        thing: Prepared | Portal | Refused | Batch | int | None = None,
    ) -> None:
        self.kind = kind
        self.command = command
        self.thing = thing
        self.ends_copy = False
        self.is_ahead = False
        self.next: Act | None = None

    def commands_ended(self) -> tuple[Execution, ...]:
        """Return the commands that have no outcome if this gets none."""
        if self.kind == EXECUTE and self.command is not None:
            return (self.command,)
        return self.thing.commands if isinstance(self.thing, Batch | Refused) else ()


class Owed:
    """The messages that are owed an answer, in the order sent, and how many they are."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.count = 0
        self.first: Act | None = None
        self.last: Act | None = None

    def __del__(self) -> None:
        # Each holds on to the next: a million that are freed at once would recurse a million times,
        # and the process die of it.
        while self.first is not None:
            self.first = self.first.next

    def __bool__(self) -> bool:
        return self.first is not None

    def __iter__(self) -> Iterator[Act]:
        act = self.first
        while act is not None:
            yield act
            act = act.next

    def append(self, act: Act) -> None:
        """Put `act` behind all others."""
        act.next = None
        self.count += 1
        if self.last is None:
            self.first = act
        else:
            self.last.next = act
        self.last = act

    def drop(self) -> None:
        """Take off the first one; there is one."""
        assert self.first is not None
        self.count -= 1
        self.first = self.first.next
        if self.first is None:
            self.last = None

    def keep(self, kept: Sequence[Act]) -> None:
        """Let these be all that is owed."""
        self.count = 0
        self.first = self.last = None
        for act in kept:
            self.append(act)


class Ledger:
    """The state that both directions of a connection share."""

    __slots__ = (
        "codec",
        "copy",
        "copy_is_binary",
        "cycle",
        "ending",
        "ends",
        "is_converted",
        "is_copy_ended",
        "is_reported",
        "is_skipping",
        "is_standard_strings",
        "is_txn_used",
        "is_watched",
        "last",
        "names",
        "next_command_no",
        "owed",
        "renaming",
        "skipped",
        "skipped_portals",
        "status",
        "swallowed_syncs",
        "txn_no",
    )

    def __init__(self) -> None:
        self.codec = "utf-8"
        self.is_standard_strings = True
        self.is_reported = True
        self.is_converted = True
        """Whether the server reads texts in the client's encoding, and not byte by byte."""
        self.names = Names()
        self.renaming: list[tuple[Execution, int, bytes | None]] = []
        """Commands that may change what names stand for, until answered.

        Each with its cycle and the name, None where it may be any.
        """
        self.next_command_no = 0
        self.owed = Owed()
        self.last: Execution | None = None
        """The command that the client began last."""
        self.ending: Execution | None = None
        """The command that has its outcome, and waits for the ReadyForQuery that is next."""
        self.ends: list[Execution] = []
        """What has ended since the last step."""
        self.is_skipping = False
        """Whether the server will skip what the client sends, up to a Sync not sent yet."""
        # What the server skips has a text too; none of it is there behind the next Sync.
        self.skipped: dict[bytes, Prepared] = {}
        self.skipped_portals: dict[bytes, Portal] = {}
        self.copy = ""
        self.copy_is_binary = False
        """`in`, `out` or `both` while a COPY is under way."""
        self.is_copy_ended = False
        self.swallowed_syncs = 0
        self.cycle = 0
        """How many ReadyForQuery the client has asked for."""
        self.status = "I"
        self.txn_no = 1
        self.is_txn_used = False
        self.is_watched = False
        """Whether steps tell what their messages are about."""

    # Commands.

    def begin(self, sql: str, text: str, portal: Portal | None = None) -> Execution:
        """Return a new command."""
        command = Execution.__new__(Execution)
        begin(command, self.next_command_no, text)
        self.next_command_no += 1
        if portal is not None:
            command.params = portal.params
            command.sha256 = portal.sha256
        command.sql = sql
        command.portal = portal
        command.shape = NO_SHAPE
        command.closing = b""
        command.described = ()
        command.plan = command.planned_shape = None
        command.planned_in = -1
        command.is_ambiguous = False
        command.is_ended = False
        command.is_only_bound = False
        if self.is_reported and sql not in _SETS_NOTHING:
            self.is_reported = False
        if may_rename(sql):
            self.is_renaming(b"")  # lets go of what has been answered
            self.renaming.append((command, self.cycle, renamed(sql)))
        return command

    def is_ambiguous(self, data: bytes, sql: str) -> bool:
        """Say whether the strings in a text may end elsewhere for the server than for our parser.

        Which of them a backslash escapes in is a setting, and so is whether that byte is one at
        all: it is the second half of a character in some encodings. The server reports a change of
        them no sooner than it is ready: what is sent ahead of that may be read by it already.
        """
        if b"\\" not in data:
            return False
        if not (self.is_standard_strings and self.is_reported):
            return True
        return not self.is_converted and data.count(b"\\") != sql.count("\\")

    def is_renaming(self, name: bytes) -> bool:
        """Say whether a command is under way that may change what `name` stands for."""
        if not self.renaming:
            return False
        self.renaming = [each for each in self.renaming if not each[0].is_ended]
        names = [each[2] for each in self.renaming]
        return None in names or name in names

    def can_wait(self) -> bool:
        """Say whether the server will answer those commands before it gets anything more."""
        return all(each[1] < self.cycle for each in self.renaming)

    def end(self, command: Execution, txn_status: str | None) -> None:
        """Let a command end with the next step, unless it has already."""
        if not command.is_ended:
            command.is_ended = True
            command.txn_status = txn_status
            self.ends.append(command)

    def skip(self, command: Execution) -> None:
        """End a command that the server will not look at."""
        if command.status == "incomplete":
            command.error_text = _SKIPPED
        self.end(command, None)

    def blame(self, command: Execution, report: Report) -> None:
        """Let a command have failed, of the first error where more than one is told."""
        if command.status not in _FAILURES:
            command.status = "cancelled" if report.code == _QUERY_CANCELED else "error"
            command.error_code = report.code
            command.error_text = cut_text(report.message)
        # A deferred constraint fails after its CommandComplete: nothing was affected after all.
        command.rows_affected = None
        command.name_columns()
        self.use_transaction(command)

    def use_transaction(self, command: Execution) -> None:
        """Number the transaction in which a command has run."""
        command.txn_no = self.txn_no
        self.is_txn_used = True

    def end_transaction(self) -> None:
        """Begin a new number, if the last one was used."""
        if self.is_txn_used:
            self.txn_no += 1
            self.is_txn_used = False

    # What is owed.

    def owe(self, act: Act) -> None:
        """Wait for the answer to a message that the client has sent, if it will get one."""
        if self.is_skipping:
            self.void(act)
        else:
            self.owed.append(act)

    def owe_ready(self) -> None:
        """Wait for a ReadyForQuery, which ends skipping."""
        self.is_skipping = False
        self.skipped.clear()
        self.skipped_portals.clear()
        self.cycle += 1
        self.owed.append(Act(SYNC, None, self.cycle))

    def expect(self, kind: int, other: int = -1) -> Act:
        """Return the message that is answered next, which is of `kind`, or the `other` one.

        Raises:
            TargetProtocolError: it is not.
        """
        act = self.owed.first
        if act is not None and (act.kind == kind or act.kind == other):
            if kind != SYNC and isinstance(act.thing, Batch) and act.thing.is_over():
                raise TargetProtocolError("an answer to a query that has failed already")
            return act
        expected = chr(kind) if other < 0 else f"{chr(kind)} or {chr(other)}"
        seen = "nothing" if act is None else chr(act.kind) if act.kind else "a refusal"
        raise TargetProtocolError(
            f"an answer out of its place: it answers {expected}, owed is an answer to {seen}"
        )

    def owner(self) -> Execution | None:
        """Return the command that the target's next message belongs to."""
        if self.ending is not None:
            return self.ending
        first = self.owed.first
        return None if first is None else first.command

    def void(self, act: Act) -> None:
        """Undo what a message meant for names: the server has refused or skipped it."""
        thing = act.thing
        if isinstance(thing, Portal):
            thing.is_void = act.kind == BIND or act.kind == CLOSE or thing.is_void
            return
        statement = thing.statement if isinstance(thing, Refused) else thing
        if act.kind != DESCRIBE and isinstance(statement, Prepared):
            self.names.void(statement)

    def remember_skipped(self, thing: object) -> None:
        """Keep what a name would stand for, did the server not skip the Parse or Bind of it."""
        if isinstance(thing, Portal) and len(self.skipped_portals) < MAX_SKIPPED:
            self.skipped_portals[thing.name] = thing
        elif isinstance(thing, Prepared) and len(self.skipped) < MAX_SKIPPED:
            self.skipped[thing.name] = thing

    def fail(self, culprit: Execution | None) -> None:
        """Take off what the server skips after an error in the extended protocol."""
        owed = self.owed
        skipped: list[Act] = []
        while owed.first is not None and owed.first.kind != SYNC:
            act = owed.first
            owed.drop()
            self.void(act)
            skipped.append(act)
            for command in act.commands_ended():
                if command is not culprit:
                    self.skip(command)
        if owed:
            self.ending = culprit
            return
        self.is_skipping = True
        for act in skipped:
            if act.kind == PARSE or act.kind == BIND:
                self.remember_skipped(act.thing)
        self.ending = None
        if culprit is not None:
            self.end(culprit, None)

    def replace(self, commands: tuple[Execution, ...], place: Act) -> int | None:
        """Put `place` where the messages of `commands` are owed; return the last one's kind.

        None where nothing is owed for them, for the server skips them anyway. What has passed
        already stays owed.
        """
        replaced: int | None = None
        kept: list[Act] = []
        for act in self.owed:
            if act.is_ahead or not any(act.command is command for command in commands):
                kept.append(act)
                continue
            self.void(act)
            if replaced is None:
                kept.append(place)
            replaced = act.kind
            if isinstance(act.thing, Batch):
                kept.append(Act(SYNC, None, act.thing.cycle))
        self.owed.keep(kept)
        return replaced

    def begin_copy(self, direction: str, *, is_binary: bool) -> None:
        """The server has said that a COPY begins."""
        self.copy = direction
        self.copy_is_binary = is_binary
        self.is_copy_ended = False
        if direction != "in":
            return
        # A Sync that the client sent ahead, not knowing what its statement was, is read as part
        # of the COPY and ignored (CopyGetData), up to the end of the COPY if that was sent too.
        kept: list[Act] = []
        for act in self.owed:
            if self.is_copy_ended or act.kind != SYNC:
                kept.append(act)
            else:
                self.swallowed_syncs += 1
            self.is_copy_ended = self.is_copy_ended or act.ends_copy
        self.owed.keep(kept)
