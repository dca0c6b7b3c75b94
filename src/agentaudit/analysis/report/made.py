"""A report that was made: its facts, its two forms, and where they were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from agentaudit.analysis import asked
from agentaudit.analysis.report.facts import Facts
from agentaudit.analysis.written import require_new, write_new
from agentaudit.archive.prove import DISCLOSE
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case
    from agentaudit.archive.verification import Progress

MAX_LIMIT = 20_000
MAX_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An evidence report: `html` is the whole of it, and `pdf` the same on paper, where asked for.

    `ok` is the verdict: True verified, False not, None could not tell.
    """

    facts: Facts
    html: bytes
    pdf: bytes | None
    out: Path | None
    pdf_out: Path | None

    @property
    def ok(self) -> bool | None:
        return self.facts.ok

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each form, as hex: what to hand over by another way than the files."""
        forms = {"html": self.html, "pdf": self.pdf}
        return {name: sha256(data).hexdigest() for name, data in forms.items() if data is not None}

    def __repr__(self) -> str:
        return f"Report({self.facts.subtitle!r}, {self.facts.verdict!r})"


def make(
    case: Case,
    *,
    session: UUID | str | Sequence[UUID | str] | None,
    request: UUID | str | None,
    since: datetime | None,
    until: datetime | None,
    texts: Mapping[str, str | None],
    out: Path | None,
    pdf: Path | bool,
    key: str | Sequence[str] | None,
    checkpoint: str | None,
    policy: str | bytes | None,
    tsa: str | bytes | None,
    deep: bool,
    limit: int | None,
    rows: int | None,
    disclose: str,
    replay: bool,
    names: Mapping[str, str],
    progress: Progress | None,
    on_export: Callable[[str, str], None],
) -> Report:
    """Make a report and write it; the arguments are those of `Case.report`.

    `on_export` leaves a record of what is handed out, before anything is written.

    Raises:
        QuestionError, ArchiveError: as `Case.report` says.
    """
    from agentaudit.analysis.report import gather, page, reading

    asked.texts(**texts)
    if disclose not in DISCLOSE:
        raise QuestionError(f"disclose {disclose!r}: one of {', '.join(DISCLOSE)} expected")
    if limit is not None and not 1 <= asked.count("limit", limit) <= MAX_LIMIT:
        raise QuestionError(f"limit: 1 to {MAX_LIMIT:,} commands expected, found {limit}")
    if rows is not None and asked.count("rows", rows) > MAX_ROWS:
        raise QuestionError(f"rows: at most {MAX_ROWS} of each result, found {rows}")
    pdf_out = None if isinstance(pdf, bool) else pdf
    for path in (out, pdf_out):
        if path is not None:
            require_new(path)
    if pdf:
        # Before the work: what draws it may not be installed.
        from agentaudit.analysis.report import paper
    given = [session] if isinstance(session, (str, UUID)) else list(session or ())
    question = reading.Question(
        sessions=tuple(str(each).strip().lower() for each in given),
        request=_request(request),
        since=since,
        until=until,
        user=texts["user"],
        agent=texts["agent"],
        target=texts["target"],
        key=key if key is None or isinstance(key, str) else "\n".join(key),
        policy=policy,
        tsa=tsa,
        checkpoint=checkpoint,
        deep=deep,
        commands=reading.MAX_COMMANDS if limit is None else limit,
        rows=reading.MAX_ROWS if rows is None else rows,
        disclose=disclose,
        replay=replay,
        names={**({} if out is None else {"report": out.name}), **names},
    )
    # Before the work, too: the front end may not be built.
    player = page.player() if replay else None
    says = progress or (lambda *_: None)
    facts = gather.gather(case, question, says)
    single = facts.sessions[0].session_id if len(facts.listed) == 1 else None
    on_export("export", "archive" if single is None else f"session {single}")
    says("pages", 0, 2 if pdf else 1)
    html = page.render(facts, player=player)
    says("pages", 1, 2 if pdf else 1)
    paged = paper.render(facts, sha256(html).hexdigest()) if pdf else None
    if out is not None:
        write_new(out, [html])
    if pdf_out is not None and paged is not None:
        write_new(pdf_out, [paged])
    return Report(facts=facts, html=html, pdf=paged, out=out, pdf_out=pdf_out)


def _request(request: UUID | str | None) -> UUID | None:
    if request is None or isinstance(request, UUID):
        return request
    try:
        return UUID(request)
    except ValueError:
        raise QuestionError(
            "request: the id of a request expected, 32 hexadecimal digits with dashes",
            hint="agentaudit commands --json shows it as request_id",
        ) from None
