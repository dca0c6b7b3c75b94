"""Computes all that an evidence report says, once, from one archive at one moment.

Everything is bounded: so many sessions and commands in full, the others counted, and what is left
out is part of what is said. Memory does not grow with the archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentaudit.analysis.report import governance, integrity, replays, steps, unusual
from agentaudit.analysis.report.facts import (
    Annotation,
    Facts,
    LeftOut,
    ListedSession,
    Population,
    to_json,
)
from agentaudit.analysis.report.reading import (
    MAX_CHECKED,
    MAX_LINES,
    MAX_LISTED,
    MAX_SESSIONS,
    Question,
    Reading,
)
from agentaudit.analysis.report.sessions import Told, Wanted, tell
from agentaudit.analysis.report.story import moment_of
from agentaudit.analysis.report.texts import line
from agentaudit.archive.find import find_session
from agentaudit.errors import AgentauditError, QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case
    from agentaudit.archive.verification import Progress


def gather(case: Case, asked: Question, progress: Progress = lambda *_: None) -> Facts:
    """Return the facts of a report about what is `asked`; `progress` is called as by `verify`.

    Raises:
        QuestionError: nothing is asked, or what is asked for is not in this archive.
        ArchiveError: the archive cannot be read.
    """
    reading = Reading(case, asked)
    named = _named(reading)
    verification = case.verify(
        asked.key.split() if asked.key else None,
        since=asked.checkpoint,
        policy=asked.policy,
        tsa=asked.tsa,
        deep=asked.deep,
        progress=progress,
    )
    reading.read_logs(verification)
    rows = _sessions(reading, named)
    checked_ids = reading.within(rows, MAX_CHECKED)
    told: list[Told] = []
    room = replays.MAX_BYTES
    for number, row in enumerate(rows[:MAX_SESSIONS], 1):
        progress("sessions", number - 1, len(rows[:MAX_SESSIONS]))
        is_checked = row["session_id"] in checked_ids
        told.append(_told(reading, number, row, len(rows), room, is_checked=is_checked))
        room -= len(told[-1].replay)
    population = _population(reading, rows, told)
    checked = integrity.integrity(reading, verification, told)
    proven = {str(each) for each in reading.within(rows, MAX_SESSIONS)}
    progress("proofs", 0, 1)
    blobs, sessions = steps.proofs(
        reading.layout, [each.session for each in told], asked.disclose, proven
    )
    unusual.log_exceptions(reading)
    unusual.session_exceptions(reading, rows, told)
    decisions, more_decisions = governance.decisions(reading, rows)
    accesses, more_accesses = governance.accesses(reading, rows)
    policies, more_policies = governance.policies(reading, rows)
    holds, more_holds = governance.legal_holds(reading)
    purges, more_purges, purged = governance.purges(reading)
    annotations, has_annotations, more_annotations = _annotations(reading, rows)
    names = {"report": "report.html", "archive": case.path.name, "keys": "keys.vkey"}
    names |= asked.names or {}
    verdict, verdict_words = integrity.verdict(checked)
    exceptions = sorted(reading.exceptions, key=lambda each: each.severity != "serious")
    facts = Facts(
        title="Evidence report",
        subtitle=_subtitle(reading, rows),
        ok=checked.ok,
        verdict=verdict,
        verdict_words=verdict_words,
        as_of=moment_of(max((each.last_at_us for each in reading.stories.values()), default=0)),
        archive=line(case.path.name),
        version=_version(),
        asked=tuple(_question(reading)),
        is_scripted=any(each.is_scripted for each in reading.stories.values()),
        gateways=tuple(integrity.gateways(reading)),
        population=replace(population, sessions_purged=purged),
        left_out=tuple(reading.left_out),
        listed=tuple(_listed(reading, rows)),
        sessions=tuple(sessions),
        decisions=decisions,
        more_decisions=more_decisions,
        accesses=accesses,
        more_accesses=more_accesses,
        policies=policies,
        more_policies=more_policies,
        retention=tuple(governance.retention(reading)),
        legal_holds=holds,
        more_legal_holds=more_holds,
        purges=purges,
        more_purges=more_purges,
        integrity=checked,
        exceptions=tuple(exceptions[:MAX_LINES]),
        more_exceptions=max(0, len(exceptions) - MAX_LINES),
        not_recorded=tuple(unusual.not_recorded(reading, verification, told, purged)),
        annotations=annotations,
        has_annotations=has_annotations,
        more_annotations=more_annotations,
        checks=(),
        blobs=(),
    )
    blobs = [
        *integrity.checkpoint_blobs(reading),
        *governance.policy_blobs(reading, policies),
        *blobs,
        *(
            steps.blob(each.session.replay, f"replay of session {each.session.number}", each.replay)
            for each in told
            if each.replay
        ),
        steps.program(),
    ]
    facts = replace(
        facts,
        checks=tuple(steps.checks(facts, blobs, names, asked)),
        blobs=tuple(blobs),
    )
    whole = steps.blob("facts.json", "this report, for programs to read", to_json(facts))
    facts = replace(facts, blobs=(whole, *facts.blobs))
    return replace(facts, blobs=(steps.sums(facts.blobs), *facts.blobs))


def _named(reading: Reading) -> list[UUID] | None:
    """Return the sessions that are asked for by name, or None where a time chooses them."""
    asked, case = reading.asked, reading.case
    if asked.sessions and asked.request is not None:
        raise QuestionError("a report is about sessions or about a request, not both")
    if asked.sessions:
        return [_named_session(reading, session) for session in dict.fromkeys(asked.sessions)]
    if asked.request is not None:
        found = case.ask("report_request", request=asked.request).fetchall()
        known = case.ask(
            "report_decisions",
            sessions=[],
            requests=[asked.request],
            since=None,
            until=None,
            by_time=False,
        ).fetchall()
        if not found and not known:
            raise QuestionError(
                f"request {asked.request}: not in this archive",
                hint="agentaudit commands --json says which command was held by which request",
            )
        return [row[0] for row in found]
    if all(
        each is None for each in (asked.since, asked.until, asked.user, asked.agent, asked.target)
    ):
        raise QuestionError(
            "report: nothing is asked",
            hint="give a session, a request, or since and until",
        )
    if asked.since and asked.until and asked.since >= asked.until:
        raise QuestionError("report: since is not before until")
    return None


def _named_session(reading: Reading, session: str) -> UUID:
    try:
        return reading.case.session(session).id
    except QuestionError as error:
        # The log may know more of it: that it was purged, and on whose word.
        try:
            find_session(reading.layout, session)
        except QuestionError as better:
            raise better from None
        except AgentauditError:
            pass
        raise error


def _question(reading: Reading) -> Iterator[tuple[str, str]]:
    asked = reading.asked
    for session in asked.sessions:
        yield "session", line(session)
    if asked.request is not None:
        yield "request", str(asked.request)
    for name, time in (("since", asked.since), ("until", asked.until)):
        if time is not None:
            yield name, f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    for name, text in (
        ("user", asked.user),
        ("agent", asked.agent),
        ("target", asked.target),
    ):
        if text is not None:
            yield name, line(text)


def _subtitle(reading: Reading, rows: Sequence[Mapping[str, Any]]) -> str:
    asked = reading.asked
    if asked.request is not None:
        return f"Request {asked.request}"
    if len(rows) == 1 and asked.sessions:
        who = line(rows[0]["user"], 60) or "nobody"
        if rows[0]["agent"]:
            who += f" through {line(rows[0]['agent'], 60)}"
        return f"{who} on {line(rows[0]['target'], 60)}, {rows[0]['opened_at']:%Y-%m-%d}"
    if asked.sessions:
        return f"{len(rows)} sessions"
    words = "Recorded"
    for name, time in (("from", asked.since), ("to", asked.until)):
        if time is not None:
            words += f" {name} {_time(time)}"
    for name, text in (("by", asked.user), ("through", asked.agent), ("on", asked.target)):
        if text is not None:
            words += f" {name} {line(text, 60)}"
    return words


def _time(time: datetime) -> str:
    """Return a time as people write it: a day where it is the begin of one."""
    utc = time.astimezone(UTC)
    is_day = (utc.hour, utc.minute, utc.second, utc.microsecond) == (0, 0, 0, 0)
    return f"{utc:%Y-%m-%d}" if is_day else f"{utc:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def _sessions(reading: Reading, named: list[UUID] | None) -> list[Mapping[str, Any]]:
    """Return the rows of the sessions that the report lists, oldest first."""
    asked = reading.asked
    if named is not None:
        relation = reading.case.ask("report_sessions", sessions=named)
    else:
        relation = reading.case.sessions(
            user=asked.user,
            agent=asked.agent,
            target=asked.target,
            since=asked.since,
            until=asked.until,
        ).order("opened_at, session_id")
    rows = relation.limit(MAX_LISTED + 1).fetchall()
    found: list[Mapping[str, Any]] = [dict(zip(relation.columns, row, strict=True)) for row in rows]
    reading.count = len(found)
    if len(found) > MAX_LISTED:
        reading.count = int(relation.aggregate("count(*)").fetchall()[0][0])
        reading.left_out.append(
            LeftOut(
                what="sessions that are not listed",
                count=reading.count - MAX_LISTED,
                why=f"the first {MAX_LISTED:,} by time of opening are listed; ask for less time",
            )
        )
    return found[:MAX_LISTED]


def _told(
    reading: Reading,
    number: int,
    row: Mapping[str, Any],
    total: int,
    room: int,
    *,
    is_checked: bool,
) -> Told:
    asked = reading.asked
    wanted = Wanted(
        since=asked.since,
        until=asked.until,
        request=asked.request,
        commands=max(1, asked.commands // min(total, MAX_SESSIONS)),
        rows=asked.rows,
        replay=room if asked.replay else None,
    )
    session = reading.case.session(row["session_id"])
    check = integrity.session_check(reading, session.id) if is_checked else None
    return tell(session, number, wanted, reading.stories.get(row["gateway"]), check)


def _listed(reading: Reading, rows: Sequence[Mapping[str, Any]]) -> Iterator[ListedSession]:
    for number, row in enumerate(rows, 1):
        yield ListedSession(
            session_id=str(row["session_id"]),
            user=line(row["user"], 80),
            agent=line(row["agent"], 80),
            target=line(row["target"], 80),
            opened_at=row["opened_at"],
            closed_at=row["closed_at"],
            close_reason=line(row["close_reason"]),
            commands=row["commands"] or 0,
            number=number if number <= MAX_SESSIONS else None,
        )


def _population(
    reading: Reading, rows: Sequence[Mapping[str, Any]], told: Sequence[Told]
) -> Population:
    asked = reading.asked
    ((sessions, commands, _spans, _),) = reading.case.ask("report_population").fetchall()
    in_full = sum(len(each.session.commands) for each in told)
    if asked.is_by_time:
        # Not the sum of the sessions that are listed: there may be more of them.
        matching = reading.case.commands(
            user=asked.user,
            agent=asked.agent,
            target=asked.target,
            since=asked.since,
            until=asked.until,
        )
        ((wanted,),) = matching.aggregate("count(*)").fetchall()
    else:
        wanted = sum(each.asked for each in told)
    if len(rows) > MAX_SESSIONS:
        reading.left_out.append(
            LeftOut(
                what="sessions without their commands",
                count=len(rows) - MAX_SESSIONS,
                why=f"the first {MAX_SESSIONS} sessions are told in full, the others are listed",
            )
        )
    if wanted > in_full:
        reading.left_out.append(
            LeftOut(
                what="commands that are not shown",
                count=wanted - in_full,
                why=f"at most {asked.commands:,} commands are shown, shared between the "
                "sessions; in each, what was refused or held, what failed and what changed "
                "something comes first",
            )
        )
    outside = sum(each.session.outside for each in told)
    if outside:
        reading.left_out.append(
            LeftOut(
                what="commands of these sessions outside the time that was asked for",
                count=outside,
                why="a session is in the report if any part of it lies in that time",
            )
        )
    long = sum(command.more_characters > 0 for each in told for command in each.session.commands)
    if long:
        reading.left_out.append(
            LeftOut(
                what="statements that are cut for reading",
                count=long,
                why="the rest is in the session's proof, where the digest beside it is of all",
            )
        )
    reading.left_out.append(
        LeftOut(
            what="rows of results beyond the first of each",
            count=None,
            why=f"at most {asked.rows} rows of a result are shown, each value cut at 200 "
            "characters"
            + (f", and at {replays.MAX_VALUE:,} where it is replayed" if asked.replay else ""),
        )
    )
    unplayed = sum(
        bool(asked.replay and each.session.commands and not each.replay) for each in told
    )
    if unplayed:
        reading.left_out.append(
            LeftOut(
                what="replays of sessions that are told",
                count=unplayed,
                why=f"at most {replays.MAX_BYTES >> 20} MiB are carried, and "
                f"{replays.MAX_UNPACKED_BYTES >> 20} MiB of one session; the tables have the same "
                "commands",
            )
        )
    if asked.disclose != "all":
        reading.left_out.append(
            LeftOut(
                what="bytes of results in the proofs",
                count=None,
                why="the proofs inside this report disclose "
                + ("texts" if asked.disclose == "text" else "nothing but the close of a session")
                + "; the rest is proven by its commitment, and `agentaudit prove` can disclose it",
            )
        )
    return Population(
        sessions_all=sessions,
        commands_all=commands,
        sessions_asked=reading.count,
        commands_asked=int(wanted),
        sessions_listed=len(rows),
        sessions_full=len(told),
        commands_full=in_full,
        sessions_open=sum(row["closed_at"] is None for row in rows),
        sessions_purged=None,
    )


def _annotations(
    reading: Reading, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Annotation, ...], bool, int]:
    """Return what people noted about these sessions, where this version keeps such notes."""
    annotations = getattr(reading.case, "annotations", None)
    if annotations is None:
        return (), False, 0
    relation = annotations()
    for finding in reading.case.annotation_findings:
        reading.note("serious", "notes", "beside the archive", line(finding))
    names = relation.columns
    wanted = {str(row["session_id"]) for row in rows}
    found: list[Annotation] = []
    more = 0
    for values in relation.fetchall():
        row = dict(zip(names, values, strict=True))
        if str(row.get("session_id")) not in wanted:
            continue
        if len(found) == MAX_LINES:
            more += 1
            continue
        at = row.get("written_at")
        found.append(
            Annotation(
                at=at if isinstance(at, datetime) else None,
                author=line(row.get("author")),
                session=str(row.get("session_id")),
                command_no=row.get("command_no"),
                kind=line(row.get("kind")),
                text=line(row.get("text"), 2_000),
            )
        )
    return tuple(found), True, more


def _version() -> str:
    try:
        return metadata.version("agentaudit")
    except metadata.PackageNotFoundError:
        return "unknown"
