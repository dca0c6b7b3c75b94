"""The questions of an investigation, each a method that answers with a relation: `case.ask`.

They stand on a name of their own, so that a notebook that completes `case.ask.` lists questions and
nothing else. Each is one file in `queries/investigate`, whose header says what its columns mean; a
method checks what it was asked with, and passes it on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentaudit.analysis import asked, interruptions
from agentaudit.analysis.store import Store, named
from agentaudit.archive.files import read_limited
from agentaudit.archive.layout import Layout
from agentaudit.archive.purge import MAX_POLICY_BYTES
from agentaudit.errors import ArchiveError, QuestionError
from agentaudit.masking.detectors import GROUPS
from agentaudit.masking.masks import CREDENTIALS

if TYPE_CHECKING:
    import duckdb

ACTORS: Final = ("agent", "user")
ROWS: Final = ("session", "agent", "user")
MAX_WITHIN: Final = 1_000
"""Commands after a failure that can be looked at: further away nothing answers it any more."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SECRETS: Final = {"secrets", "all", *GROUPS["secrets"]}
"""What a mask has among its `detect` that looks for secrets."""

When = str | date | None
Id = UUID | str


class Investigation:
    """Questions to a case; `case.ask` has it.

    What all of them take: `session` (an id, or its beginning), `user`, `agent` and `target` narrow
    down whose commands count, `since` and `until` when they began; times are as in `Case.sessions`.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        *,
        refresh: Callable[[], None],
        session_id: Callable[[Id], UUID],
        troubles: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]],
    ) -> None:
        """Ask `store`, once `refresh` has looked whether the archive has grown.

        `session_id` finds the id that a text means; `troubles` says how logs contradict what is
        remembered of them, and what could not be read.
        """
        self._store = store
        self._layout = layout
        self._refresh = refresh
        self._session_id = session_id
        self._troubles = troubles

    def __repr__(self) -> str:
        questions = ", ".join(name for name in vars(type(self)) if not name.startswith("_"))
        return f"<questions: {questions}>"

    def __call__(self, question: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Return the answer to a query file of `queries/`, by its name."""
        self._refresh()
        return self._store.ask(named(question), parameters)

    def timeline(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return all that happened, in order: sessions, refusals, commands, decisions, readers."""
        return self._ask("timeline", self._scope(session, user, agent, target, since, until))

    def blast_radius(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return which objects were touched, by whom, in which way, and how many rows of them.

        `rows_undone` are those of transactions that were rolled back. A command that names several
        objects counts in each.
        """
        return self._ask("blast_radius", self._scope(session, user, agent, target, since, until))

    def data_left(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return what was answered to whom: objects, columns, rows, bytes, address and application.

        `way` is `client`, or where a command wrote to instead: `program`, `server file`,
        `other server`.
        """
        return self._ask("data_left", self._scope(session, user, agent, target, since, until))

    def rows_changed(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return which statements changed what, how many rows, and what became of that.

        `fate` is `committed`, `rolled back`, `not committed`, `open` or, of the command, `failed`.
        """
        return self._ask("rows_changed", self._scope(session, user, agent, target, since, until))

    def credentials(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return where credentials were: hidden by a mask, in a statement, or in what was read.

        Whether a mask looks for credentials is read from the policies that were in force.
        """
        scope = self._scope(session, user, agent, target, since, until)
        return self._ask("credentials", scope, rules=self._credential_rules())

    def approvals(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return who decided what, when, on which text, and how long it had waited."""
        return self._ask("approvals", self._scope(session, user, agent, target, since, until))

    def escalations(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
        within: int = 10,
    ) -> duckdb.DuckDBPyRelation:
        """Return errors and refusals that something graver, or another way, came after.

        Looked at are the `within` commands of the session after what failed. Those behind a refusal
        (`is_refusal`) weigh most: a mistyped column is an error too.
        """
        within = asked.count("within", within)
        if not 1 <= within <= MAX_WITHIN:
            raise QuestionError(f"within: 1 to {MAX_WITHIN:,} commands expected, found {within}")
        scope = self._scope(session, user, agent, target, since, until)
        return self._ask("escalations", scope, within=within)

    def deviating_steps(
        self, session: Id, *, by: str = "agent", hardly: int = 0
    ) -> duckdb.DuckDBPyRelation:
        """Return the steps of a session that its agent had not taken in any session before.

        The first row is where it first left its way. `by="user"` compares with the sessions of the
        same user; `hardly` lets so many of the earlier sessions have taken the step.
        """
        return self._ask(
            "deviating_steps",
            {"session": self._session_id(session)},
            by=asked.one_of("by", by, ACTORS),
            hardly=asked.count("hardly", hardly),
        )

    def who_else(self, session: Id, command: int) -> duckdb.DuckDBPyRelation:
        """Return the other sessions with the same statement as a command, or with its objects.

        Raises:
            QuestionError: the session has no such command.
        """
        command = asked.whole("command", command)
        identity = self._session_id(session)
        parameters = {"session": identity, "command_no": command}
        if not self._store.rows(named("command"), parameters):
            raise QuestionError(
                f"session {identity}: no command {command}",
                hint="case.commands(session=…) lists them",
            )
        return self._ask("who_else", parameters)

    def deviation(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
        by: str = "agent",
    ) -> duckdb.DuckDBPyRelation:
        """Return how unlike the other sessions of its agent (or user) each session is.

        `since` and `until` are about when sessions opened. Compared with are all others, whenever
        they were; `unlike` (0 to 1) orders, and the columns after it say why.
        """
        scope = self._scope(session, user, agent, target, since, until)
        return self._ask("deviation", scope, by=asked.one_of("by", by, ACTORS))

    def gaps(self) -> duckdb.DuckDBPyRelation:
        """Return when nothing was recorded, and of what is recorded, what is not there.

        Stops, crashes, silence, incidents and purges by the logs; cut, masked and purged sessions
        by their rows. What no gateway saw is in no archive.
        """
        self._refresh()
        log = interruptions.of_archive(self._layout)
        contradictions, unread = self._troubles()
        nothing = {"since": None, "until": None, "gateway": None, "amount": None}
        log += [{**nothing, "what": "contradiction", "detail": text} for text in contradictions]
        log += [{**nothing, "what": "unread", "detail": text} for text in unread]
        return self._ask("gaps", {"log": log})

    def decision_points(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return where people decided, or were asked and did not, and what the agent did next."""
        return self._ask("decision_points", self._scope(session, user, agent, target, since, until))

    def retry_loops(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
        times: int = 3,
        within: float = 30.0,
    ) -> duckdb.DuckDBPyRelation:
        """Return runs of the same statement in a session, at least `times` of it.

        From one to the next at most `within` seconds pass. `kind` is `retries` (two or more
        failed), `repeats` (the very same each time) or `iterates` (over other values).
        """
        times = asked.count("times", times)
        if times < 2:
            raise QuestionError(f"times: 2 or more expected, found {times}")
        scope = self._scope(session, user, agent, target, since, until)
        within_us = asked.seconds_us("within", within)
        return self._ask("retry_loops", scope, times=times, within_us=within_us)

    def explore_to_change(
        self,
        *,
        session: Id | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: When = None,
        until: When = None,
        by: str = "session",
    ) -> duckdb.DuckDBPyRelation:
        """Return how much was looked at (catalogue and reads) for what was changed.

        A row is a session, an agent or a user, as `by` says.
        """
        scope = self._scope(session, user, agent, target, since, until)
        return self._ask("explore_to_change", scope, by=asked.one_of("by", by, ROWS))

    def _scope(
        self,
        session: Id | None,
        user: str | None,
        agent: str | None,
        target: str | None,
        since: When,
        until: When,
    ) -> dict[str, Any]:
        asked.texts(user=user, agent=agent, target=target)
        return {
            "session": None if session is None else self._session_id(session),
            "user": user,
            "agent": agent,
            "target": target,
            "since": asked.instant("since", since),
            "until": asked.instant("until", until),
        }

    def _ask(
        self, question: str, parameters: dict[str, Any], /, **more: Any
    ) -> duckdb.DuckDBPyRelation:
        self._refresh()
        return self._store.ask(named(f"investigate/{question}"), {**parameters, **more})

    def _credential_rules(self) -> list[str]:
        """Return the names of masks that look for credentials, under whichever policy."""
        self._refresh()
        digests = (row["policy_digest"] for row in self._store.rows(named("policies")))
        # What a row says is no path: a digest is one of 64 letters.
        documents = (self._layout.policy(digest) for digest in digests if _DIGEST.fullmatch(digest))
        return sorted({CREDENTIALS}.union(*map(_looks_for_secrets, documents)))


def _looks_for_secrets(policy: Path) -> set[str]:
    """Return the names of the masks of a policy document that look for secrets."""
    try:
        masks = json.loads(read_limited(policy, MAX_POLICY_BYTES)).get("masks", [])
        return {
            str(mask["name"])
            for mask in masks
            if not _SECRETS.isdisjoint(map(str, mask.get("detect", ())))
        }
    except (OSError, ArchiveError, ValueError, AttributeError, KeyError, TypeError):
        return set()  # verification says what is wrong with it
