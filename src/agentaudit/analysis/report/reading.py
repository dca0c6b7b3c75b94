"""What all parts of a report are made from: the archive, the question, and what the logs tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentaudit.analysis.report.facts import ExceptionFacts, LeftOut
from agentaudit.analysis.report.story import Story, moment_of, story
from agentaudit.analysis.report.texts import line
from agentaudit.archive.layout import Layout
from agentaudit.archive.verification import MALFORMED, Verification, words

if TYPE_CHECKING:
    import duckdb

    from agentaudit.analysis.case import Case

MAX_SESSIONS: Final = 50
"""Sessions that are told with their commands."""
MAX_LISTED: Final = 1_000
MAX_COMMANDS: Final = 1_000
"""Commands that are told in full, over all sessions, unless the caller wants another number."""
MAX_CHECKED: Final = 20
"""Sessions that are verified one by one: each of them needs a look at its whole log."""
MAX_HASHED: Final = 300_000
"""Events of segments that are hashed to check sessions one by one, and as many to prove them: for
either, a session needs all of its segments. The first session is checked and proven in any case."""
MAX_ROWS: Final = 5
MAX_LINES: Final = 500
"""Lines of any other table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a report is about, and how much of it is told.

    `key` are verifier keys, the text of a file of them; `names` are those of the files that are
    named in what the reader is to type: `report`, `archive` and `keys`.
    """

    sessions: tuple[str, ...] = ()
    request: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    agent: str | None = None
    target: str | None = None
    key: str | None = None
    policy: str | bytes | None = None
    tsa: str | bytes | None = None
    checkpoint: str | None = None
    deep: bool = False
    commands: int = MAX_COMMANDS
    rows: int = MAX_ROWS
    disclose: str = "text"
    replay: bool = True
    names: Mapping[str, str] | None = None

    @property
    def is_by_time(self) -> bool:
        return not self.sessions and self.request is None


class Reading:
    """One report in the making: what is asked of which archive, and what was met so far.

    `count` is how many sessions the question matches, of which the first are listed.
    """

    def __init__(self, case: Case, asked: Question) -> None:
        self.case = case
        self.asked = asked
        self.layout = Layout(case.path)
        self.exceptions: list[ExceptionFacts] = []
        self.left_out: list[LeftOut] = []
        self.stories: dict[str, Story] = {}
        self.count = 0

    def read_logs(self, verification: Verification) -> None:
        """Read what each log tells; one that cannot be read is an exception, and has no story."""
        for gateway in self.layout.gateways():
            sizes = {each.size for each in verification.anchors if each.gateway == gateway}
            try:
                self.stories[gateway] = story(self.layout, gateway, sizes)
            except MALFORMED as error:
                self.note("serious", "log", f"log/{gateway}", words(error))

    def note(
        self, severity: str, kind: str, where: str, said: str, at_us: int | None = None
    ) -> None:
        """Take down something that is not as usual; `severity` is `serious` or `note`."""
        self.exceptions.append(
            ExceptionFacts(
                severity=severity,
                kind=kind,
                where=line(where),
                at=None if at_us is None else moment_of(at_us),
                words=line(said, 1_000),
            )
        )

    def is_asked(self, begin_us: int, end_us: int) -> bool:
        """Say whether any of a time lies in the time that the question is about."""
        asked = self.asked
        return (asked.until is None or moment_of(begin_us) < asked.until) and (
            asked.since is None or moment_of(end_us) >= asked.since
        )

    def bounded(self, relation: duckdb.DuckDBPyRelation) -> tuple[list[dict[str, Any]], int]:
        """Return the first rows, and how many more there are."""
        found = [
            dict(zip(relation.columns, row, strict=True))
            for row in relation.limit(MAX_LINES + 1).fetchall()
        ]
        more = 0
        if len(found) > MAX_LINES:
            more = int(relation.aggregate("count(*)").fetchall()[0][0]) - MAX_LINES
        return found[:MAX_LINES], more

    def within(self, rows: Sequence[Mapping[str, Any]], most: int) -> set[UUID]:
        """Return the first sessions, `most` of them, whose segments may all be hashed."""
        room = MAX_HASHED
        chosen: set[UUID] = set()
        for row in rows[:most]:
            weight = self._weight(row)
            if chosen and weight > room:
                break
            room -= weight
            chosen.add(row["session_id"])
        return chosen

    def _weight(self, row: Mapping[str, Any]) -> int:
        """Return how many events the segments have that a session may lie in."""
        told = self.stories.get(row["gateway"])
        first, last = row["open_event_no"] or 0, row["close_event_no"]
        return sum(
            count
            for begin, count in (() if told is None else told.seals)
            if begin + count > first and (last is None or begin <= last)
        )
