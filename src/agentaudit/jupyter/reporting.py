"""Evidence reports that a browser asked for, written below the server's root folder.

A page names what a report is about: sessions or a request by their ids, a time, or the whole
archive. It names a folder below the root, and no file: the server names that, never over one that
is there, readable by the server's user alone, and never inside an archive. Keys that the report is
held against are those of the server's configuration, as for a verification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentaudit.analysis import asked
from agentaudit.analysis.case import Case
from agentaudit.archive.prove import DISCLOSE
from agentaudit.errors import QuestionError
from agentaudit.jupyter.archives import Archives, Found
from agentaudit.jupyter.jobs import Job, Jobs
from agentaudit.jupyter.verifying import texts

if TYPE_CHECKING:
    from agentaudit.analysis.report import Report

SCOPES: Final = ("sessions", "request", "time", "archive")
MAX_SESSIONS: Final = 50
MAX_TEXT: Final = 1_000
MAX_FILES: Final = 100
"""Reports of one name in a folder."""

_OF_A_TIME: Final = ("since", "until", "user", "agent", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a page wants a report about; ids are whole, texts not empty, times ISO 8601.

    `folder` is as the file browser names it. Only what belongs to `scope` is set.
    """

    scope: str
    folder: str = ""
    sessions: tuple[str, ...] = ()
    request: str | None = None
    since: str | None = None
    until: str | None = None
    user: str | None = None
    agent: str | None = None
    target: str | None = None
    deep: bool = False
    pdf: bool = False
    disclose: str = "text"

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Wanted:
        """Return what a page told, checked.

        Raises:
            QuestionError: something in it is no such thing.
        """
        scope = asked.one_of("scope", told.get("scope"), SCOPES)
        given: dict[str, Any] = {"scope": scope, "folder": _text("folder", told) or ""}
        if scope == "sessions":
            given["sessions"] = _sessions(told.get("sessions"))
        elif scope == "request":
            given["request"] = str(_id("request", told.get("request")))
        elif scope == "time":
            given |= {name: _text(name, told) for name in _OF_A_TIME}
            since, until = (asked.instant(name, given[name]) for name in ("since", "until"))
            if all(given[name] is None for name in _OF_A_TIME):
                raise QuestionError("a time, a user, an agent or a target expected")
            if since is not None and until is not None and since >= until:
                raise QuestionError("since is not before until")
        disclose = asked.one_of("disclose", told.get("disclose", "text"), DISCLOSE)
        given |= {name: told.get(name) is True for name in ("deep", "pdf")}
        return cls(**given, disclose=disclose)

    @property
    def name(self) -> str:
        """What the file is called after, without its ending; nothing recorded is in it."""
        if self.scope == "sessions":
            more = f"-and-{len(self.sessions) - 1}" if len(self.sessions) > 1 else ""
            return f"report-{self.sessions[0][:13]}{more}"
        if self.request is not None:
            return f"report-request-{self.request[:13]}"
        day = self.since or self.until
        return "report" if day is None else f"report-{asked.instant('since', day):%Y-%m-%d}"


class Reports(Jobs):
    """Makes them, one at a time, of archives in `archives`; `keys` as for `Verifications`."""

    def __init__(self, archives: Archives, keys: Sequence[Path] = ()) -> None:
        super().__init__("report")
        self._archives = archives
        self._keys = tuple(keys)

    def start(self, one: Found, wanted: Wanted) -> Job | None:
        """Make a report, or return the job that makes the same; None if too many wait.

        Raises:
            QuestionError: the folder is none that may be written into.
        """
        self._archives.place(wanted.folder)
        return self.begin(one.id, asdict(wanted), partial(self._make, one, wanted))

    def _make(self, one: Found, wanted: Wanted, job: Job) -> dict[str, Any]:
        # A case of its own: one that pages ask too would look at a growing archive again meanwhile.
        case = Case(one.folder, record=one.record)
        folder = self._archives.place(wanted.folder)
        out, paper = _free(folder, wanted)
        chosen = {name: getattr(wanted, name) for name in _OF_A_TIME}
        if wanted.scope == "archive":
            chosen["since"] = _beginning(case)
        made = case.report(
            session=wanted.sessions or None,
            request=wanted.request,
            **chosen,
            out=out,
            pdf=paper or False,
            key=texts(self._keys) or None,
            deep=wanted.deep,
            disclose=wanted.disclose,
            names={"keys": self._keys[0].name} if len(self._keys) == 1 else None,
            progress=job.follow,
        )
        return _told(made, self._archives.root) | {
            "keys": [file.name for file in self._keys],
            "access": case.access,
        }


def _told(made: Report, root: Path) -> dict[str, Any]:
    """Return a report for JSON; paths are as the file browser has them."""
    facts, count = made.facts, made.facts.population
    paths = {"html": made.out, "pdf": made.pdf_out}
    return {
        "ok": made.ok,
        "verdict": facts.verdict,
        "reasons": list(facts.integrity.reasons),
        "subject": facts.subtitle,
        "files": [
            {"path": path.relative_to(root).as_posix(), "kind": kind, "sha256": made.digests[kind]}
            for kind, path in paths.items()
            if path is not None
        ],
        "sessions": count.sessions_full,
        "sessions_asked": count.sessions_asked,
        "commands": count.commands_full,
        "commands_asked": count.commands_asked,
        "exceptions": len(facts.exceptions) + facts.more_exceptions,
    }


def _free(folder: Path, wanted: Wanted) -> tuple[Path, Path | None]:
    """Return names for the files of a report that nothing has yet."""
    for number in range(1, MAX_FILES + 1):
        suffix = "" if number == 1 else f"-{number}"
        out = folder / f"{wanted.name}{suffix}.html"
        paper = out.with_suffix(".pdf")
        if not any(path.exists() or path.is_symlink() for path in (out, paper)):
            return out, paper if wanted.pdf else None
    raise QuestionError(f"there are {MAX_FILES} reports of this name already")


def _beginning(case: Case) -> datetime:
    """Return the day on which the oldest session of an archive was opened: all there is, since.

    Raises:
        QuestionError: there is none.
    """
    first: datetime | None = case.totals()["first"]
    if first is None:
        raise QuestionError("no session is recorded here yet")
    return first.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _text(name: str, told: Mapping[str, Any]) -> str | None:
    value = told.get(name)
    asked.texts(**{name: value})
    if value is not None and len(value) > MAX_TEXT:
        raise QuestionError(f"{name}: at most {MAX_TEXT:,} characters expected")
    return None if value is None else value.strip() or None


def _sessions(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SESSIONS:
        raise QuestionError(f"sessions: one id expected, or up to {MAX_SESSIONS}")
    return tuple(dict.fromkeys(str(_id("sessions", each)) for each in value))


def _id(name: str, value: object) -> UUID:
    try:
        return UUID(value) if isinstance(value, str) else UUID("")
    except ValueError:
        raise QuestionError(
            f"{name}: a whole id expected, 32 hexadecimal digits with dashes"
        ) from None
