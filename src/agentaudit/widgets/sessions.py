"""The sessions of an archive as lists: the newest, those that go on now, those that match a text.

What a list shows of a session are facts and counts; its statements are the replay's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from agentaudit.analysis.case import Case
from agentaudit.widgets.questions import Data, Questions, question

MAX_ROWS: Final = 500
MAX_TEXT: Final = 1_000


class SessionsQuestions(Questions):
    """What a page asks about the sessions of one archive."""

    def __init__(self, case: Case) -> None:
        self._case = case

    @question
    def open(self) -> Data:
        """Answer what the archive is, and how much is in it; times are µs since 1970."""
        totals = self._case.totals()
        for name in ("first", "last"):
            totals[name] = _microseconds(totals[name])
        return totals | {
            "name": self._case.path.name,
            "access": self._case.access,
            "contradictions": list(self._case.contradictions),
            "unread": list(self._case.unread),
        }

    @question
    def list(
        self, text: str = "", live: bool = False, before: str | None = None, limit: int = 100
    ) -> Data:
        """Answer at most 500 sessions, newest first, those after `before` where it is given."""
        relation = self._case.listed(
            str(text)[:MAX_TEXT].strip(),
            live=bool(live),
            before=before,
            limit=max(1, min(int(limit), MAX_ROWS)),
        )
        rows = []
        for row in relation.fetchall():
            shown: dict[str, Any] = dict(zip(relation.columns, row, strict=True))
            shown["session_id"] = str(shown["session_id"])
            for name in ("opened_at", "closed_at"):
                shown[name] = _microseconds(shown[name])
            rows.append(shown)
        return {"rows": rows}


def _microseconds(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1_000_000)
