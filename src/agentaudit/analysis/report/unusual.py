"""What was not as usual, and what was not recorded at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentaudit.analysis.report.facts import ExceptionFacts, LeftOut
from agentaudit.analysis.report.reading import Reading
from agentaudit.analysis.report.sessions import Told
from agentaudit.analysis.report.story import moment_of
from agentaudit.analysis.report.texts import line
from agentaudit.archive.verification import Verification

_SECOND: Final = "%Y-%m-%d %H:%M:%SZ"

_NOTABLE_ENDS: Final = {
    "gateway_crash": "the gateway crashed while it was open",
    "masking_failed": "ended because something could not be masked, and so did not pass",
    "protocol_error": "ended because one side broke the protocol",
    "rows_over": "ended because a result had more rows than a rule lets pass",
    "revoked": "ended because the access was revoked",
    "ended": "ended by somebody's order",
    "refused": "refused before anything could be asked",
}


def log_exceptions(reading: Reading) -> None:
    """Take down what the logs tell of mishaps, and of clocks."""
    for gateway, told in reading.stories.items():
        if told.is_scripted:
            reading.note(
                "serious",
                "scripted clock",
                gateway,
                "this gateway recorded with a scripted clock: its times are made up",
            )
        for at_us, before, after in told.clock_changes:
            reading.note("serious", "clock", gateway, f"changed from {before} to {after}", at_us)
        for before_us, after_us in told.set_back:
            reading.note(
                "note",
                "clock",
                gateway,
                f"the log's time went back by {(before_us - after_us) / 1e6:,.3f} s",
                after_us,
            )
        for entry in told.kept.get("incident", []):
            reading.note("serious", "incident", gateway, str(entry["what"]), entry["at"])
        for entry in told.kept.get("recovery", []):
            cut = f", {entry['cut_bytes']:,} torn bytes cut" if entry.get("cut_bytes") else ""
            closed = entry["sessions_closed"]
            count = closed if isinstance(closed, int) else len(closed)
            reading.note(
                "note",
                "recovery",
                gateway,
                f"after a crash {count} sessions were closed{cut}",
                entry["at"],
            )
        for kind in ("incident", "recovery"):
            if (more := told.counts[kind] - len(told.kept.get(kind, []))) > 0:
                reading.note("note", kind, gateway, f"{more:,} more, not listed")
    for each in reading.case.contradictions:
        reading.note("serious", "contradiction", "archive", each)


def session_exceptions(
    reading: Reading, rows: Sequence[Mapping[str, Any]], told: Sequence[Told]
) -> None:
    """Take down how sessions ended, what was refused, and what checks found."""
    for row in rows:
        words = _NOTABLE_ENDS.get(row["close_reason"] or "")
        if words is not None:
            reading.exceptions.append(
                ExceptionFacts(
                    severity="note",
                    kind="session",
                    where=str(row["session_id"]),
                    at=row["closed_at"],
                    words=words,
                )
            )
    for each in told:
        refused = [c for c in each.session.commands if c.decision != "allow"]
        for command in refused:
            reading.exceptions.append(
                ExceptionFacts(
                    severity="note",
                    kind="decision",
                    where=f"session {each.session.number}, #{command.number}",
                    at=command.at,
                    words=f"{command.decision} by rule {command.rule}; it ended {command.status}",
                )
            )
        check = each.session.check
        for finding in () if check is None else check.findings:
            reading.note("serious", "finding", f"session {each.session.number}", finding)


def not_recorded(
    reading: Reading, verification: Verification, told: Sequence[Told], purged: int | None
) -> Iterator[LeftOut]:
    """Yield what no file of the archive has, and why."""
    if cut := sum(each.cut for each in told):
        size = sum(each.cut_bytes for each in told)
        yield LeftOut(
            what="responses of which only the beginning was kept",
            count=cut,
            why=f"the target's payload_limit; {size:,} bytes passed and are not in the archive, "
            "their SHA-256 is where the command is over",
        )
    if gone := sum(each.purged for each in told):
        yield LeftOut(
            what="responses that were purged", count=gone, why="retention; see the purges above"
        )
    if purged is None:
        yield LeftOut(
            what="sessions that were purged",
            count=None,
            why="whose they were is not on the lists of purges, so nobody can tell how many "
            "of them the question is about",
        )
    elif purged:
        yield LeftOut(
            what="sessions that were purged",
            count=purged,
            why="they are of what was asked for, and are gone; the purges above name them",
        )
    if incomplete := sum(each.incomplete for each in told):
        yield LeftOut(
            what="commands whose end was never seen",
            count=incomplete,
            why="the session ended first, or the gateway did; what they did is not known",
        )
    masked: dict[str, int] = {}
    for each in told:
        for rule, _, count in each.masked_by:
            masked[rule] = masked.get(rule, 0) + count
    for rule, count in sorted(masked.items()):
        yield LeftOut(
            what=f'places hidden by the mask "{rule}"',
            count=count,
            why="hidden before it was recorded: no file has it, and nobody can show it again",
        )
    for gateway, story_ in reading.stories.items():
        for gap in story_.gaps:
            if reading.is_asked(gap.begin_us, gap.end_us):
                how = "it had stopped in order" if gap.is_orderly else "it had not stopped in order"
                yield LeftOut(
                    what=f"{gateway} was not recording from {moment_of(gap.begin_us):{_SECOND}} "
                    f"to {moment_of(gap.end_us):{_SECOND}}",
                    count=None,
                    why=f"{how}; while a gateway does not run nothing passes through it",
                )
    if verification.live_events:
        yield LeftOut(
            what="events that are not sealed yet",
            count=verification.live_events,
            why="they are in a journal, which ticks of the log cover; no proof of them is made",
        )
    for name in reading.case.unread:
        yield LeftOut(
            what=f"the journal {line(name)}",
            count=None,
            why="it may not be read, so what is live is missing",
        )
    yield LeftOut(
        what="logins",
        count=None,
        why="a login is one event without content: no password or token is ever recorded",
    )
    yield LeftOut(
        what="what did not pass the gateway",
        count=None,
        why="whoever reaches a target by another way leaves no trace here",
    )
