"""What an open session's relay asks about PostgreSQL: what a command does, and how to say no."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.gateway.holds import Asked, Outcome
from agentaudit.gateway.postgres_inspect import Inspector, Question
from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.model import Command, Hold, Refusal, Step
from agentaudit.policy import NO_RULE, Decision, SessionPolicy
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_ledger import Execution
from agentaudit.protocols.postgres_prepared import Prepared
from agentaudit.risk import sql

SQLSTATE: Final = {
    "protocol_error": "08P01",
    "session_bytes": "53400",
    "rows_over": "42501",
    "max_session": "57P01",
    "window_end": "57P01",
    "revoked": "57P01",
    "ended": "57P01",
    "shutdown": "57P01",
    "disk_full": "53100",
    "recording_failed": "58030",
    "masking_failed": "58000",
}
"""What a client is told, by the reason for which a session ends."""


MAX_REMEMBERED: Final = 20
"""Statements before one that is held, which its reviewer is shown."""

MAX_SHOWN_CHARACTERS: Final = 1000
"""Of each of those: of the held one itself, a reviewer sees all."""

_STRICTEST: Final = ("allow", "hold", "deny")


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

    What people are shown is masked by `masks`, as what is recorded is. Where `is_walsender` the
    session is one of replication, whose grammar is another one.
    `inspector` asks the planner about what waits, where the target has one.
    """

    def __init__(
        self,
        conversation: Conversation,
        session: SessionRecorder,
        masks: PostgresMasks,
        policy: SessionPolicy,
        *,
        is_walsender: bool = False,
        inspector: Inspector | None = None,
    ) -> None:
        self._conversation = conversation
        self._session = session
        self._masks = masks
        self._policy = policy
        self._is_walsender = is_walsender
        self._inspector = inspector
        # Who decides on a statement wants to know what was run before it.
        may_hold = policy.may_hold
        self._before: deque[Command] | None = deque(maxlen=MAX_REMEMBERED) if may_hold else None
        self._settings: dict[str, str] = {}
        self._uncounted: dict[int, Decision] = {}
        self._limits: list[tuple[Command, int, str]] = []
        if not policy.is_open:
            conversation.ask_before_binding(self._may_bind)

    def judge(self, command: Command) -> Refusal | Hold | None:
        verdict = self._judge(command)
        self._masks.judged(command)
        return verdict

    def _judge(self, command: Command) -> Refusal | Hold | None:
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
            text = _text(command)
            decision = known.decision = self._policy.decide(command, text)
        if self._before is not None:
            self._remember(command)
        if decision is NO_RULE:
            return None  # as every command begins
        command.decision = decision.action
        command.rule = decision.rule
        if decision.action == "allow":
            return None
        waits = decision.hold
        if decision.otherwise is not None:
            waits = Hold(rule=decision.rule, approvers=(), counts=True)
        if waits is None:
            return self._denial(command)
        if isinstance(command, Execution) and command.is_only_bound:
            command.decision = "deny"
            return self._denial(command, ": what must wait is to be bound and executed in one go")
        if self._is_approved(command):
            return None
        if waits.counts:
            command.decision = "hold"
            self._uncounted[command.command_no] = decision
        return waits

    def _denial(self, command: Command, why: str = "", detail: str = "") -> Refusal:
        return Refusal(
            code="42501",
            message=f'agentaudit: denied by rule "{command.rule}"{why}',
            detail=f"session {self._session.session_id}, command {command.command_no}{detail}",
            hint="ask the gateway's operator what this rule allows",
        )

    def _may_bind(self, statement: Prepared, is_ambiguous: bool) -> bool:
        known = _Known(sql.UNKNOWN) if is_ambiguous else _known(statement)
        if known.cursor is not None:
            return True  # it has no plan, and is asked about when it is executed
        if known.decision is None:
            known.decision = self._policy.decide(known, statement.sql)
        return known.decision.action == "allow"

    # --- what waits until it is counted

    def count(self, step: Step, told: Callable[[], None]) -> None:
        if self._inspector is None or self._is_walsender or self._why_uncounted() is not None:
            asyncio.get_running_loop().call_soon(told)
        else:
            self._inspector.count(self._questions(step), self._search_path(), told)

    def recount(self, step: Step) -> Refusal | list[Hold]:
        holds: list[Hold] = []
        refusal: Refusal | None = None
        for command in step.starts:
            decision = self._uncounted.pop(command.command_no, None)
            if decision is None:
                if command.decision == "hold":
                    holds += [hold for hold in self._holds(command) if hold not in holds]
                continue
            rows = command.estimated_rows
            found = decision.about(rows)
            command.decision, command.rule = found.action, found.rule
            if found.action == "deny":
                told = "not known" if rows is None else f"about {rows:,}"
                refusal = refusal or self._denial(command, detail=f"; its rows: {told}")
            elif found.hold is not None:
                if found.hold not in holds:
                    holds.append(found.hold)
            elif (limit := decision.limit()) is not None:
                self._limits.append((command, *limit))
        if refusal is None:
            return holds
        rule = next(c.rule for c in step.starts if c.decision == "deny")
        for command in step.starts:
            command.decision, command.rule = "deny", rule
        return refusal

    def _holds(self, command: Command) -> list[Hold]:
        known = self._classify(command).decision
        return [] if known is None or known.hold is None else [known.hold]

    def exceeded_rule(self) -> str:
        if not self._limits:
            return ""
        number, rows = self._conversation.returned()
        for command, limit, rule in self._limits:
            # One read may have brought the end of one answer and the beginning of another.
            seen = rows if command.command_no == number else command.rows_returned or 0
            if seen > limit:
                return rule
        if number != -1:
            # Answers come in order: what is before this one is over.
            self._limits = [each for each in self._limits if each[0].command_no >= number]
        return ""

    # --- what waits for people

    def _remember(self, command: Command) -> None:
        before = self._before
        assert before is not None
        before.append(command)
        for risk in command.risk:
            if risk.startswith(_CHANGES):
                # Names of some families can be invented without end: of these the last counts.
                self._settings[_FAMILIES.sub(r"\1…", risk)] = _cut(command.text)

    def _is_approved(self, command: Command) -> bool:
        """Say whether it only goes on with a portal that people have let run."""
        if not isinstance(command, Execution) or command.portal is None:
            return False
        command.request_id = command.portal.approved
        return command.request_id is not None

    def approve(self, step: Step) -> None:
        for command in step.starts:
            if isinstance(command, Execution) and command.portal is not None:
                command.portal.approved = command.request_id

    def describe(self, step: Step) -> dict[str, Any]:
        conversation = self._conversation
        before = self._before or ()
        shown: dict[str, Any] = {
            "statements": [_shown(command) for command in step.starts],
            "transaction": {
                "status": conversation.txn_status,
                "number": conversation.txn_no,
                "before": [
                    {"text": _cut(command.text), "status": command.status}
                    for command in before
                    if command not in step.starts
                    and conversation.in_transaction
                    and command.txn_no in (None, conversation.txn_no)
                ],
            },
            "reported": dict(conversation.parameters),
            "settings": [f"{risk}: {text}" for risk, text in self._settings.items()],
        }
        for command, statement in zip(step.starts, shown["statements"], strict=True):
            statement["text"] = self._masks.text(command)
        masked: dict[str, Any] = self._masks.deep(shown)
        return masked

    def completes(self, step: Step, shown: dict[str, Any]) -> Callable[[], Awaitable[None]] | None:
        if self._inspector is None or self._is_walsender:
            return None
        if (why := self._why_uncounted()) is not None:
            for statement in shown["statements"]:
                statement["estimate"] = {"why": why}
            return None
        return partial(self._estimate, self._inspector, step, shown["statements"])

    async def _estimate(
        self, inspector: Inspector, step: Step, statements: list[dict[str, Any]]
    ) -> None:
        await inspector.estimate(statements, self._questions(step), self._search_path())
        for statement in statements:
            statement["estimate"] = self._masks.deep(statement["estimate"])

    def _questions(self, step: Step) -> list[Question]:
        return [Question(command, _text(command), _params(command)) for command in step.starts]

    def _why_uncounted(self) -> str | None:
        """Return why another session's planner would take it for something else."""
        changed = [
            risk
            for risk in self._settings
            if risk not in _UNRELATED and not risk.startswith(_MOVES_PATH)
        ]
        if not changed:
            return None
        return f"the session has changed what it may mean ({changed[0]})"

    def _search_path(self) -> str | None:
        """Return where names are looked for, or None where it is as the session began.

        A server older than 18 reports no changes of it; after one, only names with a schema count.
        """
        reported = self._conversation.parameters.get("search_path")
        if reported is not None:
            return str(reported)
        return "" if any(risk.startswith(_MOVES_PATH) for risk in self._settings) else None

    def notice(self, asked: Asked) -> bytes:
        who = ", ".join(asked.hold.approvers)
        return messages.notice_response(
            message=f'agentaudit: waits for a decision, by rule "{asked.hold.rule}"',
            detail=f"session {self._session.session_id}, command {asked.command_no}, "
            f"request {asked.request_id}",
            hint=f"somebody in {who} may run: agentaudit approve {asked.request_id}",
        )

    def refusal(self, command: Command, outcome: Outcome) -> Refusal:
        detail = f"session {self._session.session_id}, command {command.command_no}"
        if command.request_id is not None:
            detail += f", request {command.request_id}"
        if outcome.state == "cancelled":
            return Refusal(code="57014", message=f"agentaudit: {outcome.why}", detail=detail)
        why = f": {outcome.why}" if outcome.why else ""
        if outcome.reasons:
            detail += f"; reason: {outcome.reasons[-1]}"
        return Refusal(
            code="42501",
            message=f'agentaudit: denied by rule "{command.rule}"{why}',
            detail=detail,
            hint="what it is about, and who may decide, is in the notice before this"
            if outcome.state == "expired"
            else "ask who decided, or the gateway's operator",
        )

    def has_turn(self, step: Step) -> bool:
        return self._conversation.has_turn(step)

    def nudge(self) -> bytes:
        return _FLUSH

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
                known.decision = _stricter(known.decision, decision)
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


def _shown(command: Command) -> dict[str, Any]:
    """Return what a reviewer sees of a statement: what it does, and then all of its text."""
    text = _text(command)
    told = sql.classify(text)
    return {
        "operation": command.operation,
        "class": command.cls,
        "resources": list(command.resources),
        "reads": list(told.reads),
        "writes": list(told.writes),
        "columns": list(told.columns),
        "risk": list(command.risk),
        "confidence": command.confidence,
        "decision": command.decision,
        "rule": command.rule,
        "text": text,
        # None: too long to be decoded, or none; the hashes of long messages name what is there.
        "params": None if command.params is None else list(command.params),
        "sha256": list(command.sha256),
    }


def _text(command: Command) -> str:
    """Return all of its text, where its row has a part."""
    return command.sql if isinstance(command, Execution) else command.text


def _params(command: Command) -> tuple[str | None, ...] | None:
    """Return its parameters as they were sent: the command's own are masked."""
    if isinstance(command, Execution) and command.portal is not None:
        return command.portal.params
    return command.params


def _stricter(one: Decision | None, other: Decision) -> Decision:
    if one is None or _STRICTEST.index(other.action) > _STRICTEST.index(one.action):
        return other
    return one


def _known(prepared: Prepared) -> _Known:
    known: _Known | None = prepared.judged
    if known is None:
        known = prepared.judged = _Known(sql.classify(prepared.sql))
    return known


_TERMINATE: Final = messages.terminate()
_FLUSH: Final = messages.flush()
_CHANGES: Final = ("changes setting", "switches role", "row security", "calls set_config")
"""Findings of what changes the meaning of what follows."""
_MOVES_PATH: Final = "changes setting search_path"
_UNRELATED: Final = frozenset(
    f"changes setting {name}"
    for name in ["bytea_output", "client_encoding", "lc_messages", "synchronous_commit"]
    + ["default_transaction_isolation", "default_transaction_read_only", "transaction_isolation"]
    + ["default_transaction_deferrable", "transaction_read_only"]
)
"""Of these, what changes nothing about which rows a statement is about."""
_FAMILIES: Final = re.compile(r"(setting (?:log_|pgaudit\.)).*")


def _cut(text: str) -> str:
    """Return what is shown of a text that is not the one to decide on, and say what is not."""
    left = len(text) - MAX_SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:MAX_SHOWN_CHARACTERS]}… ({left:,} characters more)"


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
