"""What is kept until when, what goes next, what is held and why, and what purges took, in a
notebook.

Nothing recorded is told but ids and names: no statement, no value. What purges took is told with
its proof, and with the commands that check it.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from os import PathLike
from typing import Any, Final

from agentaudit.analysis.case import Case
from agentaudit.analysis.kept import DAYS, After, Due, Held, Kept, KeptLog, Purged, Target, kept
from agentaudit.analysis.transcript import size
from agentaudit.archive.retention import DAY_US, Keep, Sealed
from agentaudit.errors import QuestionError
from agentaudit.settings.whole import Settings
from agentaudit.widgets.pictures import beginning, escaped, grid
from agentaudit.widgets.questions import Data, Questions, question
from agentaudit.widgets.view import View, bundle

HORIZONS: Final = (7, 30, DAYS)
_MAX_CHARACTERS: Final = 500
_STILL_ROWS: Final = 30


class RetentionReport(View):
    """Shows what `case` keeps until when, what goes next, what is held, and what was purged.

    In a notebook::

        report = RetentionReport(case)                        # as it is
        report = RetentionReport(case, "agentaudit.toml")     # and what these settings would change
        report.kept                                           # the same as data
    """

    _esm = bundle("retention-report.js")
    _css = bundle("retention-report.css")

    def __init__(
        self,
        case: Case,
        settings: str | PathLike[str] | Settings | None = None,
        *,
        at: str | datetime | None = None,
    ) -> None:
        """Report on `case` as of `at` (a time; now where it is None).

        With `settings` (an `agentaudit.toml`, or what `agentaudit.settings` made of one) also what
        would change if they came into force.

        Raises:
            SettingsError: the settings cannot be read, or a key of them is wrong.
            QuestionError: `at` is no time.
        """
        self._asked = RetentionQuestions(case, settings, at)
        super().__init__(self._asked)

    @property
    def kept(self) -> Kept:
        """What is shown, as data."""
        return self._asked.kept

    def still(self) -> str:
        """Return the report as HTML: what is kept, what goes next, holds and purges."""
        return still(self._asked.kept, self._asked.name)


class RetentionQuestions(Questions):
    """What a page asks about retention; all of it is read at once, and anew when it is asked to."""

    def __init__(
        self,
        case: Case,
        settings: str | PathLike[str] | Settings | None = None,
        at: str | datetime | None = None,
    ) -> None:
        self._case = case
        self._settings = settings
        self._at = at
        self._reading = threading.Lock()
        self.name = case.path.name
        self.kept = kept(case, settings=settings, at=at)

    @question
    def open(self, again: bool = False) -> Data:
        if again:
            with self._reading:
                self.kept = kept(self._case, settings=self._settings, at=self._at)
        found = self.kept
        return {
            "archive": self.name,
            "at_us": found.at_us,
            "settings": found.settings,
            "has_settings": self._settings is not None,
            "changes": found.changes,
            "days": DAYS,
            "logs": [_log(each) for each in found.logs],
        }

    @question
    def purge(self, gateway: str, purge: str) -> Data:
        """Return one purge with its segments, and how to check what it says."""
        for log in self.kept.logs:
            for each in log.purges:
                if log.gateway == gateway and each.purge == purge:
                    return _purge(each) | {
                        "parts": [_part(part) for part in each.parts],
                        "more": max(0, each.done - len(each.parts)),
                        "script": check_purge(str(self._case.path), each),
                    }
        raise QuestionError("no such purge is shown; reload the view")


def check_purge(archive: str, purge: Purged) -> str:
    """Return a shell script that holds a purge's list against the log, and proves the rest anew.

    The list's digest stands in the signed log, so its file cannot be another.
    """
    where = shlex.quote(archive)
    lines = [f"cd {where}"]
    digest, name = purge.list_sha256, f"purges/{purge.purge}.json"
    lines.append(f"echo '{digest}  {name}' | sha256sum -c -")
    lines.append(f"agentaudit verify {where} --key VKEY --deep  # every row: there, or on a list")
    return "\n".join(lines) + "\n"


def _log(log: KeptLog) -> Data:
    return {
        "gateway": log.gateway,
        "problem": log.problem,
        "sealed": log.sealed,
        "unsealed": log.unsealed,
        "people": log.people,
        "targets": [_target(each) for each in log.targets],
        "policies": [
            {
                "digest": each.digest,
                "entry": each.entry,
                "since_us": each.since_us,
                "ended_us": each.ended_us,
                "classes": [
                    {"name": name, **_keep(keep)} for name, keep in sorted(each.classes.items())
                ],
            }
            for each in log.policies
        ],
        "holds": [_hold(each) for each in log.holds],
        "held": [_held(*each) for each in log.held],
        "held_count": log.held_count,
        "purges": [_purge(each) for each in reversed(log.purges)],
        "purge_count": log.purge_count,
    }


def _keep(keep: Keep) -> dict[str, int | None]:
    return {
        "keep_us": keep.keep_us,
        "payload_us": keep.payload_end_us,
        "notice_us": keep.notice_us,
    }


def _target(told: Target) -> Data:
    return {
        "target": told.target,
        "class": told.kept_as,
        **_keep(told.keep),
        "promised_until_us": told.promised_until_us,
        "sessions": told.sessions,
        "bytes": told.bytes,
        "without_payloads": told.without_payloads,
        "held": told.held,
        "waiting": told.waiting,
        "first_us": told.first_us,
        "due": _due(told.due),
        "after": None if told.after is None else _after(told.after),
    }


def _after(told: After) -> dict[str, Any]:
    return {
        "class": told.kept_as,
        **_keep(told.keep),
        "says": _keep(told.says),
        "promised_until_us": told.promised_until_us,
        "first_us": told.first_us,
        "due": _due(told.due),
    }


def _due(due: Due) -> dict[str, list[int]]:
    return {"sessions": due.sessions, "payloads": due.payloads, "bytes": due.bytes}


def _hold(told: Held) -> Data:
    hold = told.hold
    return {
        "hold": hold.hold,
        "set_us": hold.set_at_us,
        "selector": {name: hold.selector[name] for name in sorted(hold.selector)},
        "actor": hold.actor[:_MAX_CHARACTERS],
        "authority": hold.authority[:_MAX_CHARACTERS],
        "reason": hold.reason[:_MAX_CHARACTERS],
        "sessions": told.sessions,
        "due": told.due,
    }


def _held(session: Sealed, holds: tuple[str, ...]) -> Data:
    return {
        "session": str(session.session_id),
        "target": session.target,
        "closed_us": session.end_us,
        "holds": list(holds),
    }


def _purge(told: Purged) -> dict[str, Any]:
    return {
        "purge": told.purge,
        "entry": told.entry,
        "at_us": told.at_us,
        "what": told.what,
        "basis": told.basis,
        "policy": told.policy,
        "decision": told.decision,
        "sessions": told.sessions,
        "segments": told.segments,
        "list_sha256": told.list_sha256,
        "done": told.done,
        "rows": told.rows,
        "bytes": told.bytes,
        "is_done": told.is_done,
    }


def _part(part: Any) -> dict[str, Any]:
    tables = sorted({*part.before, *part.after})
    return {
        "segment": part.segment,
        "entry": part.entry,
        "at_us": part.at_us,
        "rows": part.rows,
        "root": part.root,
        "residue": part.residue,
        "files": [
            {
                "table": table,
                "before": _file(part.before.get(table)),
                "after": _file(part.after.get(table)),
            }
            for table in tables
        ],
    }


def _file(file: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if file is None else {name: file[name] for name in ("sha256", "bytes", "rows")}


# --- the still picture


def still(found: Kept, archive: str) -> str:
    """Return the report as HTML without scripts."""
    parts = [
        f"<style>{_style()}</style>",
        beginning("Retention", "aa-retention-still"),
        f"<h4>Retention of {escaped(archive)}</h4>",
        f"<p>as of {_moment(found.at_us)}</p>",
    ]
    for log in found.logs:
        parts.append(f"<p><b>{escaped(log.gateway)}</b></p>")
        if log.problem:
            parts.append(
                f'<p class="aa-is-bad">not all of it can be told: {escaped(log.problem)}</p>'
            )
        headings = ["target", "kept", "payloads", "notice", "sessions", "size", "held", "due now"]
        headings += [f"in {days} days" for days in HORIZONS]
        parts.append(grid(headings, map(_row, log.targets)))
        if log.holds:
            parts.append(
                grid(
                    ("hold since", "by", "authority", "why", "holds"),
                    (
                        (
                            _moment(each.hold.set_at_us),
                            each.hold.actor,
                            each.hold.authority,
                            each.hold.reason,
                            selected(each.hold.selector)
                            + ("" if each.sessions is None else f": {each.sessions:,} sessions"),
                        )
                        for each in log.holds[:_STILL_ROWS]
                    ),
                )
            )
        if log.purges:
            last = log.purges[: -_STILL_ROWS - 1 : -1]
            parts.append(
                grid(
                    ("purged", "what", "by", "rows", "log entry", "SHA-256 of its list"),
                    (
                        (
                            _moment(each.at_us),
                            f"{each.what} of {each.sessions:,} sessions"
                            + ("" if each.is_done else ", not finished"),
                            each.basis,
                            f"{each.rows:,}",
                            str(each.entry),
                            each.list_sha256,
                        )
                        for each in last
                    ),
                )
            )
            if log.purge_count > len(last):
                parts.append(f"<p>and {log.purge_count - len(last):,} purges before</p>")
    parts.append("<p>A still picture. With a kernel, more of it can be seen here.</p></section>")
    return "".join(parts)


def _row(told: Target) -> Sequence[str]:
    now = told.due.within(0)
    return (
        told.target or "(no target)",
        span(told.keep.keep_us),
        span(told.keep.payload_end_us),
        span(told.keep.notice_us),
        f"{told.sessions:,}",
        f"about {size(told.bytes)}",
        f"{told.held:,}",
        _counts(*now),
        *(_counts(*told.due.within(days)) for days in HORIZONS),
    )


def _counts(sessions: int, payloads: int) -> str:
    return f"{sessions:,}" + (f" and {payloads:,} payloads" if payloads else "")


def span(time_us: int | None) -> str:
    """Return a time to keep in words.

    >>> span(None), span(30 * DAY_US), span(3_600_000_000)
    ('for ever', '30 days', '1 h')
    """
    if time_us is None:
        return "for ever"
    if time_us >= DAY_US and time_us % DAY_US == 0:
        days = time_us // DAY_US
        return "1 day" if days == 1 else f"{days:,} days"
    return f"{time_us / 3_600_000_000:,.4g} h"


def selected(selector: Mapping[str, Any]) -> str:
    """Return in words what a legal hold selects; a user by the HMAC that the log has."""
    words = []
    for name in sorted(selector):
        value = selector[name]
        if name in ("since", "until"):
            words.append(f"{name} {_moment(value)}")
        elif name == "user":
            words.append(f"user HMAC {str(value)[:16]}…")
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)


def _moment(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M}Z"


@cache
def _style() -> str:
    return bundle("retention-report.css")
