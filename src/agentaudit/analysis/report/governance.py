"""Who decided and who read, which policies were in force, what is kept, held and gone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from agentaudit.analysis.report import steps
from agentaudit.analysis.report.facts import (
    AccessFacts,
    Blob,
    DecisionFacts,
    LegalHoldFacts,
    MaskFacts,
    PolicyFacts,
    PurgeFacts,
    RetentionFacts,
)
from agentaudit.analysis.report.reading import MAX_LINES, Reading
from agentaudit.analysis.report.story import days, moment_of
from agentaudit.analysis.report.texts import line, lines
from agentaudit.archive import holds
from agentaudit.archive.files import read_limited
from agentaudit.archive.purge import MAX_POLICY_BYTES, read_list
from agentaudit.archive.verification import MALFORMED, words
from agentaudit.errors import ArchiveError


def decisions(
    reading: Reading, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[DecisionFacts, ...], int]:
    """Return who decided what about these sessions or in this time, and how many more did."""
    asked = reading.asked
    requests = {row["window_id"] for row in rows} - {None}
    requests |= {asked.request} - {None}
    relation = reading.case.ask(
        "report_decisions",
        sessions=[row["session_id"] for row in rows],
        requests=list(requests),
        since=asked.since,
        until=asked.until,
        by_time=asked.is_by_time,
    )
    found, more = reading.bounded(relation)
    return tuple(
        DecisionFacts(
            request=str(row["request_id"] or ""),
            kind=line(row["kind"]),
            session=str(row["session_id"] or ""),
            command_no=row["command_no"],
            requester=line(row["requester"]),
            target=line(row["target"]),
            rule=line(row["rule"]),
            digest=bytes(row["text_commit"]).hex() if row["text_commit"] else "",
            requested_at=row["requested_at"],
            decided_at=row["decided_at"],
            state=line(row["state"]),
            approvers=lines(row["approvers"]),
            reasons=lines(row["reasons"]),
            until=row["grant_until"],
        )
        for row in found
    ), more


def accesses(
    reading: Reading, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[AccessFacts, ...], int]:
    """Return who read, searched or exported what, and how many more did."""
    asked = reading.asked
    objects = None
    if not asked.is_by_time:
        objects = [f"session {row['session_id']}" for row in rows]
    relation = reading.case.ask(
        "report_access", objects=objects, since=asked.since, until=asked.until
    )
    found, more = reading.bounded(relation)
    return tuple(
        AccessFacts(
            at=row["recorded_at"],
            actor=line(row["actor"]),
            action=line(row["action"]),
            object=line(row["object"]),
            detail=line(row["detail"]),
        )
        for row in found
    ), more


def policies(
    reading: Reading, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[PolicyFacts, ...], int]:
    """Return the policies that the sessions ran under, and those in force in the time asked."""
    asked = reading.asked
    used: dict[str, int] = {}
    for row in rows:
        if row["policy_digest"]:
            used[row["policy_digest"]] = used.get(row["policy_digest"], 0) + 1
    found: list[tuple[str, str, datetime | None, datetime | None]] = []
    for gateway, told in reading.stories.items():
        for reign in told.reigns:
            since = moment_of(reign.since_us)
            until = None if reign.until_us is None else moment_of(reign.until_us)
            is_in_time = asked.is_by_time and (
                (asked.until is None or since < asked.until)
                and (asked.since is None or until is None or until > asked.since)
            )
            if reign.digest in used or is_in_time:
                found.append((gateway, reign.digest, since, until))
        if told.more_reigns:
            reading.note(
                "note",
                "policy",
                gateway,
                f"{told.more_reigns:,} changes of policy were not looked at: more than are read",
            )
    seen = {digest for _, digest, _, _ in found}
    found += [("", digest, None, None) for digest in used if digest not in seen]
    # Where there are too many: what is in force now, and of the others the last.
    places = sorted(range(len(found)), key=lambda place: (found[place][3] is not None, -place))
    return tuple(
        _policy(reading, *found[place], used.get(found[place][1], 0))
        for place in sorted(places[:MAX_LINES])
    ), max(0, len(found) - MAX_LINES)


def _policy(
    reading: Reading,
    gateway: str,
    digest: str,
    since: datetime | None,
    until: datetime | None,
    sessions: int,
) -> PolicyFacts:
    document: Mapping[str, Any] = {}
    data = _policy_bytes(reading, digest)
    if data is not None:
        try:
            document = json.loads(data)
            masks = tuple(_mask(each) for each in document.get("masks") or ())
            rules = tuple(_rule(each) for each in document.get("rules") or ())
            default = line(document.get("default") or "")
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            data = None
    if data is None:
        masks, rules, default = (), (), ""
    return PolicyFacts(
        digest=line(digest),
        gateway=gateway,
        since=since,
        until=until,
        is_intact=data is not None,
        masks=masks[:MAX_LINES],
        rules=rules[:MAX_LINES],
        default=default,
        sessions=sessions,
    )


def _policy_bytes(reading: Reading, digest: str) -> bytes | None:
    """Return a policy document if it is the one of that digest."""
    if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
        return None
    try:
        data = read_limited(reading.layout.policy(digest), MAX_POLICY_BYTES)
    except (OSError, ArchiveError):
        return None
    return data if sha256(data).hexdigest() == digest else None


def policy_blobs(reading: Reading, policies: Sequence[PolicyFacts]) -> Iterator[Blob]:
    """Yield the policy documents themselves, as far as they are not long."""
    for digest in dict.fromkeys(each.digest for each in policies if each.is_intact):
        data = _policy_bytes(reading, digest)
        if data is not None and len(data) <= steps.MAX_POLICY_BYTES:
            yield steps.blob(f"policy-{digest}.json", "policy document", data)


def retention(reading: Reading) -> Iterator[RetentionFacts]:
    """Yield how long each target with a policy is kept, as of the log's last entry."""
    for gateway, told in reading.stories.items():
        policies = told.standing.policies
        targets = sorted({target for policy in policies for target in policy.keeps})
        for target in targets[:MAX_LINES]:
            keep = told.standing.keep(target, told.last_at_us)
            yield RetentionFacts(
                gateway=gateway,
                target=line(target),
                keep=days(keep.keep_us),
                payloads=days(keep.payload_end_us),
            )


def legal_holds(reading: Reading) -> tuple[tuple[LegalHoldFacts, ...], int]:
    """Return the legal holds in force, and how many more there are."""
    try:
        standing = holds.legal_holds(reading.layout)
    except MALFORMED as error:
        reading.note("serious", "legal holds", "log", words(error))
        return (), 0
    return tuple(
        LegalHoldFacts(
            gateway=each.gateway,
            hold=line(each.hold),
            set_at=moment_of(each.set_at_us),
            selector=line(
                ", ".join(f"{name} {_selected(name, v)}" for name, v in each.selector.items())
            ),
            actor=line(each.actor),
            authority=line(each.authority),
            reason=line(each.reason),
        )
        for each in standing[:MAX_LINES]
    ), max(0, len(standing) - MAX_LINES)


def purges(reading: Reading) -> tuple[tuple[PurgeFacts, ...], int, int | None]:
    """Return the purges, how many more there are, and how many sessions asked for are gone."""
    found, more = [], 0
    gone: set[UUID] = set()
    is_known = True
    for gateway, told in reading.stories.items():
        intents = told.kept.get("purge_intent", [])
        more += told.counts["purge_intent"] - len(intents)
        for intent in intents:
            here = _purged_here(reading, intent)
            is_known &= here is not None
            if intent["what"] == "sessions":
                gone |= here or set()
            purge = told.standing.purges[intent["purge"]]
            found.append(
                PurgeFacts(
                    gateway=gateway,
                    purge=line(intent["purge"]),
                    at=moment_of(intent["at"]),
                    what=line(intent["what"]),
                    basis=line(intent["basis"]),
                    sessions=intent["sessions"],
                    here=None if here is None else len(here),
                    is_done=purge.is_done,
                )
            )
            if not purge.is_done:
                reading.note(
                    "note",
                    "purge",
                    line(intent["purge"]),
                    "begun and not finished",
                    intent["at"],
                )
    return tuple(found), more, len(gone) if is_known and not more else None


def _purged_here(reading: Reading, intent: Mapping[str, Any]) -> set[UUID] | None:
    """Return the sessions that a purge took and that the question is about, None if unknown.

    Neither who they were of nor what they were granted by is on its list, so with a user, an agent
    or a request in the question nobody can tell.
    """
    asked = reading.asked
    if asked.user is not None or asked.agent is not None or asked.request is not None:
        return None
    try:
        listed = read_list(reading.layout, intent).sessions
    except (OSError, ArchiveError) as error:
        reading.note("serious", "purge", line(intent["purge"]), words(error), intent["at"])
        return None
    if not asked.is_by_time:
        return {
            each.session.session_id
            for each in listed
            if any(str(each.session.session_id).startswith(one) for one in asked.sessions)
        }
    return {
        each.session.session_id
        for each in listed
        if (asked.target is None or each.session.target == asked.target)
        and (asked.since is None or moment_of(each.session.end_us) >= asked.since)
        and (asked.until is None or moment_of(each.session.begin_us) < asked.until)
    }


def _mask(mask: Mapping[str, Any]) -> MaskFacts:
    hides = [
        f"{word}: {line(value)}"
        for key, word in (
            ("columns", "column"),
            ("detect", "detector"),
            ("patterns", "pattern"),
            ("json_paths", "JSON path"),
        )
        for value in mask.get(key) or ()
    ]
    return MaskFacts(
        name=line(mask.get("name")),
        action=line(mask.get("action")),
        hides=tuple(hides[:50]),
        targets=line(", ".join(map(str, mask.get("targets") or ()))) or "all",
        applies=line(" and ".join(map(str, mask.get("apply") or ()))),
    )


def _rule(rule: Mapping[str, Any]) -> tuple[str, str, str]:
    when = json.dumps(rule.get("when") or {}, ensure_ascii=False, sort_keys=True)
    return line(rule.get("name")), line(rule.get("action")), line(when)


def _selected(name: str, value: Any) -> str:
    if name in ("since", "until") and isinstance(value, int):
        return f"{moment_of(value):%Y-%m-%d %H:%M:%S}Z"
    return str(value)
