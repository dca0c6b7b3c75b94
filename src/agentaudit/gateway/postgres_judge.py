"""What an open session's relay asks about PostgreSQL: what a command does, and how to say no."""

from __future__ import annotations

import re
from typing import Final

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.model import Command, Refusal
from agentaudit.policy import NO_RULE, Decision, SessionPolicy
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_ledger import Execution
from agentaudit.protocols.postgres_prepared import Prepared
from agentaudit.risk import sql

SQLSTATE: Final = {
    "protocol_error": "08P01",
    "session_bytes": "53400",
    "max_session": "57P01",
    "shutdown": "57P01",
    "disk_full": "53100",
    "recording_failed": "58030",
}
"""What a client is told, by the reason for which a session ends."""


class _Known:
    """What a text does, and may do in its session, for its every execution."""

    __slots__ = (
        "cls",
        "confidence",
        "cursor",
        "decision",
        "fingerprint",
        "operation",
        "parser",
        "resources",
        "risk",
    )

    def __init__(self, statement: sql.Statement) -> None:
        self.operation = statement.operation
        self.cls = statement.cls
        self.resources = statement.resources
        self.fingerprint = statement.fingerprint
        self.confidence = statement.confidence
        self.parser = statement.parser
        self.cursor = statement.cursor
        self.risk = statement.risk
        self.decision: Decision | None = None


class Judge:
    """What the relay asks about one session's PostgreSQL.

    Where `is_walsender` the session is one of replication, whose grammar is another one.
    """

    def __init__(
        self,
        conversation: Conversation,
        session: SessionRecorder,
        policy: SessionPolicy,
        *,
        is_walsender: bool = False,
    ) -> None:
        self._conversation = conversation
        self._session = session
        self._policy = policy
        self._is_walsender = is_walsender

    def judge(self, command: Command) -> Refusal | None:
        known = self._classify(command)
        command.operation = known.operation
        command.cls = known.cls
        command.resources = known.resources
        command.fingerprint = known.fingerprint
        command.confidence = known.confidence
        command.parser = known.parser
        command.risk = known.risk
        if self._is_walsender:
            _judge_replication(command)
        decision = known.decision
        if decision is None:
            text = command.sql if isinstance(command, Execution) else command.text
            decision = known.decision = self._policy.decide(command, text)
        if decision is NO_RULE:
            return None  # as every command begins
        command.decision = decision.action
        command.rule = decision.rule
        if decision.action == "allow":
            return None
        return Refusal(
            code="42501",
            message=f'agentaudit: denied by rule "{decision.rule}"',
            detail=f"session {self._session.session_id}, command {command.command_no}",
            hint="ask the gateway's operator what this rule allows",
        )

    def _classify(self, command: Command) -> _Known:
        if not isinstance(command, Execution):
            return _Known(sql.classify(command.text))
        if command.is_ambiguous:
            return _Known(sql.UNKNOWN)
        portal = command.portal
        if portal is None:
            known = _Known(sql.classify(command.sql))
        else:
            known = _known(portal.statement)
        return known if known.cursor is None else self._fetch(command.sql, known.cursor)

    def _fetch(self, text: str, cursor: str) -> _Known:
        """Judge a FETCH, which runs what its cursor stands for where a client bound that."""
        run = self._conversation.fetched(cursor)
        if run is None or any(statement.is_ambiguous for statement in run):
            return _Known(sql.fetch(text, None))
        known = _Known(sql.fetch(text, [statement.sql for statement in run]))
        for statement in run:
            decision = self._policy.decide(_known(statement), statement.sql)
            if decision.action != "allow":
                known.decision = decision
        return known

    def is_goodbye(self, frame: bytes) -> bool:
        return frame == _TERMINATE

    def is_in_transaction(self) -> bool:
        return self._conversation.in_transaction

    def farewell(self, reason: str, message: str, hint: str) -> bytes:
        return messages.error_response(
            code=SQLSTATE[reason],
            message=f"agentaudit: {message}",
            detail=f"session {self._session.session_id}",
            hint=hint,
        )


def _known(prepared: Prepared) -> _Known:
    known: _Known | None = prepared.judged
    if known is None:
        known = prepared.judged = _Known(sql.classify(prepared.sql))
    return known


_TERMINATE: Final = messages.terminate()

_FIRST_WORD: Final = re.compile(r"[A-Za-z_]+")
_REPLICATION_COMMANDS: Final = frozenset(
    ["ALTER_REPLICATION_SLOT", "BASE_BACKUP", "CREATE_REPLICATION_SLOT", "DROP_REPLICATION_SLOT"]
    + ["IDENTIFY_SYSTEM", "READ_REPLICATION_SLOT", "START_REPLICATION", "TIMELINE_HISTORY"]
    + ["UPLOAD_MANIFEST"]
)
"""postgresql.org/docs/current/protocol-replication.html"""


def _judge_replication(command: Command) -> None:
    # What our parser makes of a text that a server reads by other rules says nothing.
    command.cls = "unknown"
    command.confidence = "uncertain"
    word = _FIRST_WORD.match(command.text)
    if word is not None and word[0].upper() in _REPLICATION_COMMANDS:
        command.operation = word[0].upper()
