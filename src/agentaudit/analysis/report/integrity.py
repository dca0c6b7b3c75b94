"""What was checked, with what from outside the archive, and what nothing outside covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from agentaudit.analysis.printable import printable
from agentaudit.analysis.report import steps
from agentaudit.analysis.report.facts import (
    AnchorFacts,
    Blob,
    Check,
    ExposureFacts,
    GatewayFacts,
    Integrity,
)
from agentaudit.analysis.report.reading import Reading
from agentaudit.analysis.report.sessions import Told
from agentaudit.analysis.report.story import MAX_KEPT, moment_of
from agentaudit.analysis.report.texts import line, lines
from agentaudit.archive.note import Verifier
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.errors import AgentauditError


def session_check(reading: Reading, session: UUID) -> Check:
    """Return the check of one session: deep, and that it is complete."""
    try:
        # Not by the case, which would leave a record of each: the report's own says enough.
        answer = verify(reading.case.path, key=reading.asked.key, session=session)
    except AgentauditError as error:
        return Check(
            subject=f"session {session}",
            ok=None,
            words=f"could not be checked: {line(error)}",
            findings=(),
            more_findings=0,
        )
    return _check(answer, f"session {session}")


def integrity(reading: Reading, verification: Verification, told: Sequence[Told]) -> Integrity:
    """Return what was checked, and the verdict over all of it."""
    asked = reading.asked
    archive = _check(verification, "the whole archive")
    checks = [archive, *(each.session.check for each in told if each.session.check)]
    oks = [check.ok for check in checks]
    contradictions = tuple(line(each) for each in reading.case.contradictions)
    ok = None if None in oks else True
    if False in oks or contradictions:
        ok = False
    anchors, exposure = _anchors(reading, verification)
    unchecked = len(told) - (len(checks) - 1)
    notes = [line(each) for each in verification.notes]
    if unchecked:
        notes.append(
            f"{unchecked} of the sessions told were not checked one by one, but by the check of "
            "the whole archive alone" + ("" if asked.deep else ": the digests of their files")
        )
    given = [
        name
        for name, value in (
            ("a checkpoint that was kept outside", asked.checkpoint),
            ("a trust policy with witnesses", asked.policy),
            ("certificates of time-stamping authorities", asked.tsa),
        )
        if value is not None
    ]
    return Integrity(
        ok=ok,
        reasons=tuple(_reasons(checks, verification, contradictions, bool(asked.key))),
        keys=tuple(str(Verifier.parse(key)) for key in (asked.key or "").split()),
        given=tuple(given),
        archive=archive,
        counts=tuple(
            (name.replace("_", " "), getattr(verification, name))
            for name in (
                "gateways",
                "segments",
                "sessions",
                "commands",
                "events",
                "live_events",
            )
        ),
        anchors=anchors,
        exposure=exposure,
        notes=tuple(notes),
        unread=tuple(line(each) for each in (*verification.unread, *reading.case.unread)),
    )


def _anchors(
    reading: Reading, verification: Verification
) -> tuple[tuple[AnchorFacts, ...], tuple[ExposureFacts, ...]]:
    """Return what fixes each log, and what nothing does.

    What the machine that makes the report remembers is left out: to whom it is handed, that is
    no more than our word. Where it contradicts the archive, that is a finding all the same.
    """
    anchors: list[AnchorFacts] = []
    exposure: list[ExposureFacts] = []
    for gateway, told in reading.stories.items():
        newest: dict[str, AnchorFacts] = {}
        for each in verification.anchors:
            if each.gateway == gateway and not each.kind.startswith("remembered"):
                if each.kind in newest and newest[each.kind].size > each.size:
                    continue
                newest[each.kind] = AnchorFacts(
                    gateway=gateway,
                    kind=line(each.kind),
                    size=each.size,
                    at=None if each.at_s is None else moment_of(each.at_s * 1_000_000),
                    by=lines(each.by),
                )
        anchors += newest.values()
        best = max(newest.values(), key=lambda each: each.size, default=None)
        size = 0 if best is None else best.size
        entries = told.log.checkpoint.size - size
        exposure.append(
            ExposureFacts(
                gateway=gateway,
                entries=entries,
                events=max(0, told.events - told.covered.get(size, 0)) if best else told.events,
                since="nothing outside the archive was given that fixes it"
                if best is None
                else f"since the {best.kind} at {size:,} entries",
            )
        )
    return tuple(anchors), tuple(exposure)


def gateways(reading: Reading) -> Iterator[GatewayFacts]:
    """Yield each log at the checkpoint that it was read at."""
    for gateway, told in reading.stories.items():
        checkpoint = told.log.checkpoint
        yield GatewayFacts(
            gateway=gateway,
            origin=line(checkpoint.origin),
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            last_at=moment_of(told.last_at_us),
            clock=", ".join(line(clock) for clock in told.clocks),
            versions=tuple(line(version) for version in told.versions[:20]),
            segments=told.counts["seal"],
            checkpoint=line_of_note(told.log.note),
        )


def checkpoint_blobs(reading: Reading) -> Iterator[Blob]:
    """Yield the checkpoints as they were signed."""
    for gateway, told in reading.stories.items():
        yield steps.blob(
            f"checkpoint-{gateway}",
            f"checkpoint of the log of {gateway}, as it was signed",
            told.log.note,
        )


def line_of_note(note: bytes) -> str:
    """Return a signed note as text to read, its lines kept."""

    return printable(note[:8_192].decode("utf-8", "replace"), block=True)


def _check(answer: Verification, subject: str) -> Check:
    what = "every leaf, root and table" if answer.deep else "signatures, the log and all files"
    return Check(
        subject=subject,
        ok=answer.ok,
        words=f"{what}; {answer.events:,} events, segments: {answer.segments:,}"
        + "".join(f"; not read: {line(each)}" for each in answer.unread),
        findings=tuple(line(each, 600) for each in answer.findings[:MAX_KEPT]),
        more_findings=max(0, len(answer.findings) - MAX_KEPT),
    )


def _reasons(
    checks: Sequence[Check],
    verification: Verification,
    contradictions: Sequence[str],
    has_key: bool,
) -> Iterator[str]:
    """Yield why the answer is not yes."""
    for check in checks:
        if check.ok is False:
            count = len(check.findings) + check.more_findings
            yield f"{check.subject}: {count} check{'s' if count != 1 else ''} failed"
    yield from contradictions
    if not has_key:
        yield "no verifier key from outside the archive was given, so nobody can tell who signed it"
    elif verification.unknown_signers:
        names = ", ".join(line(each) for each in verification.unknown_signers)
        yield f"none of the given keys has signed the log of {names}"
    for name in verification.without_quorum:
        yield f"{line(name)}: no checkpoint that the policy's witnesses cosigned"
    for name in verification.unread:
        yield f"not read: {line(name)}"
    for check in checks[1:]:
        if check.ok is None and (has_key and not verification.unknown_signers):
            yield f"{check.subject}: could not tell"


def verdict(integrity: Integrity) -> tuple[str, str]:
    """Return the verdict as a word, and what it means."""
    if integrity.ok:
        return (
            "Verified",
            "What is reported here is consistent with the archive's log, and the log is signed by "
            "the key that was given from outside.",
        )
    if integrity.ok is False:
        return (
            "Not verified",
            "Checks failed: do not rely on this archive. Keep a copy of it before anything else.",
        )
    return (
        "Could not tell",
        "What was read is consistent, but that is not enough to say who recorded it or that it is "
        "whole.",
    )
