"""The sessions of a report: who they are, their commands with what came of them, their replays.

Results are read out of the recorded bytes of a whole session, so of one with very much traffic
none are shown; what cannot be decoded is said, and hides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import duckdb

from agentaudit.analysis import film, transcript
from agentaudit.analysis.report import replays
from agentaudit.analysis.report.facts import Check, CommandFacts, SessionFacts
from agentaudit.analysis.report.story import Story, days, moment_of
from agentaudit.analysis.report.texts import MAX_CELL, block, grid, line, lines
from agentaudit.archive import canonical
from agentaudit.archive.retention import Closed
from agentaudit.archive.verification import MALFORMED
from agentaudit.protocols import ssh_screen

if TYPE_CHECKING:
    import pyarrow as pa

    from agentaudit.analysis.session import Session
    from agentaudit.analysis.terminal import Terminal

MAX_TRAFFIC_BYTES: Final = 32 << 20
MAX_PARAMS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which commands of a session to tell, and how much of them.

    `replay` is how many bytes a replay may have, None where none is wanted.
    """

    since: datetime | None
    until: datetime | None
    request: UUID | None
    commands: int
    rows: int
    replay: int | None


@dataclass(slots=True, kw_only=True)
class Told:
    """What telling a session has found, for the parts of the report that sum it up."""

    session: SessionFacts
    replay: bytes
    asked: int
    cut: int
    cut_bytes: int
    purged: int
    incomplete: int
    masked_by: tuple[tuple[str, str, int], ...]


def tell(
    session: Session,
    number: int,
    wanted: Wanted,
    story: Story | None,
    check: Check | None,
) -> Told:
    """Return one session as facts; `number` is its place in the report, from 1."""
    facts = session.facts
    notes: list[str] = []
    relation = session.ask(
        "report_commands",
        since=wanted.since,
        until=wanted.until,
        request=wanted.request,
        limit=wanted.commands,
    )
    rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    asked = rows[0]["asked"] if rows else 0
    results = _results(session, facts, {row["command_no"] for row in rows}, wanted.rows, notes)
    fates = dict(session.ask("session_fates").fetchall())
    cuts = session.cuts()
    screens = _screens(session, facts, rows, wanted.rows)
    texts = {row[0]: row[1:] for row in session.ask("report_statements").fetchall()}
    played, why = b"", ""
    if wanted.replay is not None and rows:
        terminals = {number: each.terminal or each.words for number, each in screens.items()}
        played, why = replays.packed(session, facts, rows, results, cuts, terminals, wanted.replay)
    commands = tuple(
        _command(
            row,
            results.get(row["command_no"]),
            fates.get(row["command_no"]),
            screens.get(row["command_no"]),
            cuts.get(row["command_no"]),
            texts.get(row["command_no"]),
            wanted,
        )
        for row in rows
    )
    is_purged = session.is_purged
    if is_purged:
        notes.append(
            "its payloads were purged under retention: statements are left, results are not"
        )
    if facts["closed_at"] is None:
        notes.append("it was still open: what it did later is not in this report")
    kept, holds = _kept(session, facts, story)
    chain = lines(facts["actor_chain"])
    told = SessionFacts(
        number=number,
        session_id=str(session.id),
        gateway=line(facts["gateway"]),
        user=line(facts["user"]),
        issuer=line(facts["issuer"]),
        email=line(facts["email"]),
        groups=lines(facts["groups"]),
        agent=line(facts["agent"]),
        chain=chain,
        run=line(facts["run_id"]),
        target=line(facts["target"]),
        protocol=line(facts["protocol"]),
        client=line(facts["client_addr"]),
        application=line(facts["client_app"]),
        window=str(facts["window_id"] or ""),
        opened_at=facts["opened_at"],
        closed_at=facts["closed_at"],
        close_reason=line(facts["close_reason"]),
        commands_total=session.count,
        events=facts["events"] or 0,
        traffic=f"{transcript.size(facts['bytes_in'] or 0)} from the client, "
        f"{transcript.size(facts['bytes_out'] or 0)} from the target",
        masked=facts["masked"] or 0,
        policy=line(facts["policy_digest"]),
        masks=line(facts["mask_digest"]),
        kept=kept,
        holds=holds,
        is_purged=is_purged,
        commands=commands,
        more_commands=asked - len(rows),
        outside=session.count - asked,
        check=check,
        proof="",
        proof_words="",
        replay=replays.name_of(str(session.id)) if played else "",
        replay_words=why,
        notes=tuple(notes),
    )
    whole = [cut for cut in cuts.values() if not cut.is_purged]
    return Told(
        session=told,
        replay=played,
        asked=asked,
        cut=len(whole),
        cut_bytes=sum(cut.whole - cut.kept for cut in whole),
        purged=len(cuts) - len(whole),
        incomplete=sum(row["status"] == "incomplete" for row in rows),
        masked_by=tuple(
            (line(rule), line(place), count)
            for rule, place, count in session.ask("report_masked").fetchall()
        ),
    )


def _results(
    session: Session, facts: Mapping[str, Any], shown: set[int], rows: int, notes: list[str]
) -> dict[int, pa.Table]:
    """Return the first rows of the results of the commands in `shown`; note why there are none."""
    traffic = (facts["bytes_in"] or 0) + (facts["bytes_out"] or 0)
    if not rows:
        notes.append("results are left out, as was asked for")
        return {}
    if traffic > MAX_TRAFFIC_BYTES:
        notes.append(
            f"results are left out: the session has {transcript.size(traffic)} of traffic, and "
            f"more than {transcript.size(MAX_TRAFFIC_BYTES)} is not read for a report"
        )
        return {}
    found: dict[int, pa.Table] = {}
    try:
        found |= (each for each in session.results(rows) if each[0] in shown)
    except (*MALFORMED, duckdb.Error) as error:
        notes.append(f"results cannot be read from #{max(found, default=-1) + 1} on: {line(error)}")
    return found


@dataclass(frozen=True, slots=True)
class _Shown:
    """A terminal with the rows of its last screen; none where the words say why it is left out."""

    terminal: Terminal | None
    rows: tuple[str, ...]
    words: str


_NO_TERMINAL: Final = _Shown(None, (), "")


def _screens(
    session: Session, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], limit: int
) -> dict[int, _Shown]:
    """Return the terminals of the commands that had one."""
    if facts["protocol"] != "ssh":
        return {}
    terminals = session.terminals
    had = (row for row in rows if row["command_no"] in terminals)
    return {row["command_no"]: _shown(session, row, limit) for row in had}


def _shown(session: Session, row: Mapping[str, Any], limit: int) -> _Shown:
    if not limit:
        return _Shown(None, (), "its terminal is left out, as was asked for")
    if session.is_purged:
        return _Shown(None, (), "what was said on its terminal was purged under retention")
    size = row["bytes_out"] or 0
    if size > film.MAX_OUTPUT_BYTES:
        most = transcript.size(film.MAX_OUTPUT_BYTES)
        return _Shown(
            None,
            (),
            f"its terminal is left out: it was sent {transcript.size(size)}, and more than {most} "
            "is not read for a report",
        )
    terminal = session.terminal(row["command_no"])
    try:
        display = terminal.last()
    except (*MALFORMED, duckdb.Error) as error:
        return _Shown(None, (), f"its terminal cannot be read: {line(error)}")
    screen = display.screen
    words = f"Its terminal at the end, {screen.columns} columns and {screen.height} rows"
    return _Shown(terminal, lines(display.text(), ssh_screen.MAX_SIDE), words)


def _command(
    row: Mapping[str, Any],
    result: pa.Table | None,
    fate: str | None,
    screen: _Shown | None,
    cut: transcript.Cut | None,
    statement: tuple[int, str | None] | None,
    wanted: Wanted,
) -> CommandFacts:
    text, more = block(row["text"])
    params = list(row["params"] or ())
    error = " ".join(filter(None, (line(row["error_code"]), line(row["error_text"], 1_000))))
    digest = "" if statement is None else statement[1] or ""
    shown = screen or _NO_TERMINAL
    return CommandFacts(
        number=row["command_no"],
        at=row["started_at"],
        operation=line(row["operation"] or "?", 60),
        cls=line(row["class"], 20),
        text=text,
        more_characters=more,
        params=tuple(
            None if value is None else line(value, MAX_CELL) for value in params[:MAX_PARAMS]
        ),
        more_params=max(0, len(params) - MAX_PARAMS),
        status=line(row["status"], 20),
        outcome=line(transcript.outcome(dict(row))),
        error=error,
        decision=line(row["decision"], 20),
        rule=line(row["rule"]),
        request=str(row["request_id"] or ""),
        masked=row["masked"] or 0,
        fate=fate or "",
        is_undone=transcript.is_undone(dict(row), fate),
        risk=lines(row["risk"]),
        tables=lines(row["resources"]),
        screen=shown.rows,
        screen_words=shown.words,
        result=None
        if screen is not None or result is None or not result.num_columns
        else grid(result, row["rows_returned"]),
        cut="" if cut is None else cut.words(),
        seq=statement[0] if statement is not None and digest else None,
        sha256=digest,
        is_asked=wanted.request is not None and row["request_id"] == wanted.request,
    )


def _kept(
    session: Session, facts: Mapping[str, Any], story: Story | None
) -> tuple[str, tuple[str, ...]]:
    """Return until when the session is kept, and the legal holds that it is under."""
    if facts["closed_at"] is None or story is None:
        return "until it has closed, at least", ()
    keep = story.standing.keep(facts["target"] or "", story.last_at_us)
    opened_us, closed_us = _us(facts["opened_at"]), _us(facts["closed_at"])
    words = days(keep.keep_us)
    if keep.keep_us is not None:
        until = moment_of(max(opened_us, closed_us) + keep.keep_us)
        words = f"{words} from its close, until {until:%Y-%m-%d}"
    closed = Closed(
        session_id=session.id,
        user=_hmac(session),
        target=facts["target"] or "",
        opened_us=opened_us,
        closed_us=closed_us,
    )
    return words, tuple(story.standing.holding(closed))


def _hmac(session: Session) -> str:
    """Return what stands for the session's user in logs, or an empty text."""
    for (payload,) in session.ask("report_opening").fetchall():
        try:
            return str(canonical.decode(bytes(payload)).get("user_hmac", ""))
        except (ValueError, TypeError, AttributeError):
            break
    return ""


def _us(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000 + time.microsecond
