"""PostgreSQL's protocol 3 from the first ReadyForQuery on, both directions, without I/O.

The gateway needs the messages, to record them, and the exact bytes, to pass them on; so every
step keeps its raw frames. Replies carry no name of what they answer: they are paired with
requests by position alone, and a reply that does not fit its place is a protocol error rather
than a guess, because a record that pairs wrongly is worse than a connection that ends.

A refusal is the surprising part. Instead of answering in the server's stead, which would mean to
guess its transaction state, the refused frames are replaced by a Parse that cannot succeed. The
server fails at the right place, skips what is pipelined behind it, aborts the transaction as any
error does and reports its true state; only the text of its error is replaced by the refusal.

The parts: `postgres_messages` (one message), `postgres_prepared` (names), `postgres_ledger` (what
is owed), `postgres_requests` and `postgres_replies` (the two directions).

Specification: postgresql.org/docs/current/protocol-flow.html; where it is silent,
`src/backend/tcop/postgres.c` and `src/backend/commands/copyfromparse.c` decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agentaudit import model
from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import Refusal, Side, Step
from agentaudit.protocols.postgres_ledger import MAX_OWED, Execution, Ledger
from agentaudit.protocols.postgres_prepared import Prepared
from agentaudit.protocols.postgres_replies import Replies
from agentaudit.protocols.postgres_requests import Requests

__all__ = ["Conversation", "Execution"]

_CLIENT: Final = Side.CLIENT


class Conversation(model.Conversation):
    """Both directions of one connection, understood without I/O (`model.Conversation`).

    How the bytes were cut changes at most where an event ends, never what is in it: a Sync that
    came too late for its Execute is an event of its own, of the same command.

    A command ends, on a step of either side (`Step.ends`), when its outcome is known: with the
    ReadyForQuery where that is the next reply owed, so that `txn_status` says what the server
    reported; else with its own last reply, `txn_status` None. What was pipelined behind a failure
    ends as `incomplete`. After FATAL, or when the connection just ends, the rest is the recorder's
    to end.

    A statement that cannot even be prepared begins, as a command that failed, with the server's
    error: only there a step of the target's side starts a command, and nothing is left to decide.

    `txn_no` counts transactions from 1: commands between two idle states share a number, unless one
    of them ends a transaction where another follows at once.
    """

    def __init__(
        self,
        *,
        split: Callable[[str], Sequence[str]] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """Begin after the login; `parameters` is what the server reported in it.

        `split` divides a simple query into its statements; without it a query is one command.
        """
        super().__init__()
        self._ledger = Ledger()
        self._requests = Requests(self._ledger, split)
        self._replies = Replies(self._ledger)
        for name, value in (parameters or {}).items():
            self._replies.set_parameter(name, value)

    def watch(self) -> None:
        """Let steps tell what they are about: portals that are bound, results that are described.

        A client's step lists the portals of its Binds. A target's lists, for each RowDescription,
        whose it is and its shape; and `copy`, `notification` or `setting`, with no shape, where one
        begins or comes.
        """
        self._ledger.is_watched = True

    @property
    def txn_status(self) -> str:
        """What the server last reported: `I` idle, `T` in a transaction, `E` in a failed one."""
        return self._ledger.status

    @property
    def codec(self) -> str:
        """Python's name of the encoding in which client and server exchange texts now."""
        return self._ledger.codec

    @property
    def copy_is_binary(self) -> bool:
        """Whether the last COPY that the server has begun is in its binary format."""
        return self._ledger.copy_is_binary

    @property
    def is_copying_in(self) -> bool:
        """Whether the server has begun a COPY in: a client may send its data before."""
        return self._ledger.copy == "in"

    @property
    def in_transaction(self) -> bool:
        """Whether the server last reported an open transaction, failed or not."""
        return self._ledger.status != "I"

    @property
    def is_uncommitted(self) -> bool:
        """Whether what has been run may be taken back, so that nobody else sees it yet.

        Of a pipeline that is so until its Sync is answered, though no transaction is reported.
        """
        return self._ledger.status != "I" or self._ledger.is_txn_used

    def ask_before_binding(self, may_bind: Callable[[Prepared, bool], bool]) -> None:
        """Have what is bound and not executed begin a command, unless `may_bind` lets it pass.

        It gets the statement, and whether that is ambiguous. Such a command (`is_only_bound`) must
        be refused: there is no answer that would end it.
        """
        self._requests.may_bind = may_bind

    @property
    def txn_no(self) -> int:
        """The number of the transaction that the next command is in."""
        return self._ledger.txn_no

    @property
    def parameters(self) -> Mapping[str, str]:
        """Reported settings that change what a statement means, as the server said them last."""
        return self._replies.parameters

    def has_turn(self, step: Step) -> bool:
        """Return whether the server owes no answer to anything before `step`."""
        first = self._ledger.owed.first
        return first is not None and first.command in step.starts

    def returned(self) -> tuple[int, int]:
        """Return the command that is being answered, and of how many rows the server has told.

        The number is -1 where there is none. What COPY brings is not counted.
        """
        first = self._ledger.owed.first
        if first is None or first.command is None:
            return -1, 0
        return first.command.command_no, self._replies._rows

    def fetched(self, cursor: str) -> tuple[Prepared, ...] | None:
        """Return the statements that an SQL FETCH from `cursor` may run, if a client bound it.

        An Execute is not the only message that runs a portal: `FETCH` and `MOVE` do too. Empty for
        a cursor that DECLARE made; None where what it stands for is not known.
        """
        return self._ledger.names.fetched(cursor)

    def receive(self, side: Side, data: bytes) -> list[Step]:
        """Return the steps that `data` completes; it may be cut anywhere.

        Raises:
            ClientProtocolError, TargetProtocolError: bytes that the protocol does not allow at
                this place. Good messages before them are returned first; `broken` tells.
        """
        if self.broken is not None:
            raise self.broken
        steps: list[Step] = []
        try:
            if side is _CLIENT:
                self._requests.receive(data, steps)
            else:
                self._replies.receive(data, steps)
                if self._requests.is_waiting:
                    self._requests.receive(b"", steps)
        except (ClientProtocolError, TargetProtocolError) as error:
            self.broken = error
            if not steps:
                raise
        # Each takes memory until it is answered. No server waits for more of them before it
        # answers: it says what it has to say as soon as that fills 8 KiB.
        self.is_behind = self._ledger.owed.count > MAX_OWED
        return steps

    def end_unread(
        self, *, status: str, error_code: str | None, tag: str, txn_status: str | None
    ) -> list[Step]:
        """Go on behind a command of whose answer only a beginning was received.

        For who reads a recording that kept no more; the arguments are what its row says of its
        end, `tag` the `operation`. Return what `receive` would have at the end of that answer.

        Raises:
            TargetProtocolError: it ended otherwise than what it began with allows.
        """
        steps: list[Step] = []
        self._replies.end_unread(status, error_code, tag, txn_status, steps)
        return steps

    def refuse(self, step: Step, refusal: Refusal) -> list[Step]:
        """Refuse a step that `receive` returned and that was not forwarded.

        Return what goes to the server in its place. The client's answer comes with a later step
        of the target's side, at its turn. All commands of the step are `denied`; a Sync at its
        end still reaches the server.

        Raises:
            ValueError: the step starts no command, or is the gateway's own.
        """
        commands = tuple(c for c in step.starts if isinstance(c, Execution))
        if not commands or step.synthetic or step.side is not Side.CLIENT:
            raise ValueError("only a client's step that starts commands can be refused")
        return self._requests.refuse(commands, refusal)
