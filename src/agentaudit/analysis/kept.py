"""What an archive keeps until when, what goes next, what is held, and what purges took.

Where `agentaudit retention plan` says what would go now, this looks ahead: a session's day is the
first on which every policy that still has a say lets it go, so the notice of a policy that was
replaced counts until it is over. What new settings would change is told in the same way, as if
they came into force at the time that is asked about.

Nothing recorded is told but ids and names. Bytes are a share: files of a segment by events.

Format: docs/formats/archive.md, "Retention", "Purges"
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Any, Final

from agentaudit.analysis.case import Case
from agentaudit.archive import canonical
from agentaudit.archive.files import read_limited
from agentaudit.archive.holds import StandingHold, legal_holds
from agentaudit.archive.keys import People, Place
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log
from agentaudit.archive.purge import MAX_POLICY_BYTES, Sessions, take
from agentaudit.archive.retention import (
    DAY_US,
    Hold,
    Keep,
    Policy,
    Sealed,
    Standing,
    is_fresh,
    parse_policy,
)
from agentaudit.errors import AgentauditError, ArchiveError, QuestionError, RecordingError
from agentaudit.settings.file import load
from agentaudit.settings.whole import Settings

DAYS: Final = 90
"""How far is looked ahead."""

MAX_PURGES: Final = 200
MAX_SEGMENTS: Final = 50
"""Of a purge, so many are told one by one."""

MAX_HELD: Final = 200

_FOR_EVER_US: Final = 1 << 62


@dataclass(slots=True, kw_only=True)
class Due:
    """What becomes due: [0] is due by now, [n] in the nth day from now; the rest is later.

    `sessions` go whole, of `payloads` only what passed; `bytes` is about how much the former are.
    """

    sessions: list[int] = field(default_factory=lambda: [0] * (DAYS + 1))
    payloads: list[int] = field(default_factory=lambda: [0] * (DAYS + 1))
    bytes: list[int] = field(default_factory=lambda: [0] * (DAYS + 1))

    def within(self, days: int) -> tuple[int, int]:
        """Return how many sessions, and how many payloads, are due by the end of so many days."""
        return sum(self.sessions[: days + 1]), sum(self.payloads[: days + 1])


@dataclass(slots=True, kw_only=True)
class Target:
    """What one log keeps of one target.

    `keep` is in force now, all policies considered that still have a say; `promised_until_us` is
    when the last of those that were replaced has its say no more, None where none has one.
    `first_us` is when the next of it is due, None where nothing ever is.
    """

    target: str
    kept_as: str
    keep: Keep
    promised_until_us: int | None
    sessions: int = 0
    bytes: int = 0
    without_payloads: int = 0
    held: int = 0
    waiting: int = 0
    first_us: int | None = None
    last_us: int | None = None
    due: Due = field(default_factory=Due)
    after: After | None = None


@dataclass(slots=True, kw_only=True)
class After:
    """The same target, had the settings that were given come into force now."""

    kept_as: str
    keep: Keep
    says: Keep
    promised_until_us: int | None
    first_us: int | None = None
    due: Due = field(default_factory=Due)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enacted:
    """A policy of a log; `ended_us` is None for the one in force, `entry` where it came."""

    digest: str
    entry: int
    since_us: int
    ended_us: int | None
    classes: Mapping[str, Keep]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A legal hold in force, with how many sealed sessions it keeps.

    `sessions` is None where the hold names a user and the gateway's people key is not there, so
    nobody can tell whom it means. `due` are those that a policy would let go by now.
    """

    hold: StandingHold
    sessions: int | None
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgedSegment:
    """What a purge did to one segment: which files it replaced, by table, and the proof's parts.

    `root` is the root that the segment's seal has signed. It is the same before and after: what is
    left, and the hashes that stand in for what went, still make it.
    """

    segment: str
    entry: int
    at_us: int
    rows: int
    before: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]
    root: str
    residue: str


@dataclass(slots=True, kw_only=True)
class Purged:
    """A purge as the log tells it; `list_sha256` is the digest of its list, which is kept."""

    purge: str
    entry: int
    at_us: int
    what: str
    basis: str
    policy: str
    decision: int | None
    sessions: int
    segments: int
    list_sha256: str
    done: int = 0
    rows: int = 0
    bytes: int = 0
    parts: list[PurgedSegment] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether every segment of its list was rewritten."""
        return self.done >= self.segments


@dataclass(slots=True, kw_only=True)
class KeptLog:
    """What one gateway's log keeps. `problem` says why there is no more to tell."""

    gateway: str
    targets: list[Target] = field(default_factory=list)
    policies: list[Enacted] = field(default_factory=list)
    holds: list[Held] = field(default_factory=list)
    held: list[tuple[Sealed, tuple[str, ...]]] = field(default_factory=list)
    held_count: int = 0
    purges: list[Purged] = field(default_factory=list)
    purge_count: int = 0
    sealed: int = 0
    unsealed: int | None = None
    people: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an archive keeps, as of `at_us`; `settings` names the file that `after` is about."""

    at_us: int
    logs: tuple[KeptLog, ...]
    settings: str = ""
    changes: bool = False


def kept(
    case: Case,
    *,
    settings: str | PathLike[str] | Settings | None = None,
    at: str | datetime | None = None,
) -> Kept:
    """Return what `case` keeps until when, as of `at` (a time; now where it is None).

    With `settings` (an `agentaudit.toml`, or its path) each target also says what would be due had
    these come into force at `at`. The people key that they name, where it can be read, tells whom
    legal holds on users mean.

    Raises:
        SettingsError: the settings cannot be read, or a key of them is wrong.
        QuestionError: `at` is no time.
    """
    at_us = time.time_ns() // 1000 if at is None else _microseconds(at)
    whole = settings if isinstance(settings, Settings) else None
    if settings is not None and whole is None:
        whole = load(Path(settings))  # type: ignore[arg-type]
    layout = Layout(case.path)
    policy, classes = None, {}
    if whole is not None:
        document = whole.policy_document()
        policy = Policy(sha256(document).hexdigest(), at_us, parse_policy(document))
        classes = {each.name: each.retention or "" for each in whole.target}
    counts = _counted(case)
    holds = _holds(layout)
    logs = []
    for gateway in layout.gateways():
        log = KeptLog(gateway=gateway)
        try:
            reading = _Reading(case, layout, log, at_us, _people(whole, layout, gateway))
            reading.run(counts.get(gateway, {}), holds, policy, classes)
        except (AgentauditError, OSError) as error:
            log.problem = str(error)
        logs.append(log)
    path = "" if whole is None or whole.path is None else whole.path.name
    changes = any(_changes(target) for log in logs for target in log.targets)
    return Kept(at_us=at_us, logs=tuple(logs), settings=path, changes=changes)


def _changes(target: Target) -> bool:
    if target.after is None:
        return False
    return target.after.keep != target.keep or target.after.due != target.due


def _microseconds(at: str | date) -> int:
    try:
        moment = datetime.fromisoformat(at.strip()) if isinstance(at, str) else at
    except ValueError:
        raise QuestionError(f"at {at!r}: an ISO 8601 time expected, as 2026-11-01") from None
    if not isinstance(moment, datetime):
        raise QuestionError(f"at: a time expected, found {type(at).__name__}")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6)


def _people(settings: Settings | None, layout: Layout, gateway: str) -> People | None:
    if settings is None:
        return None
    own = settings.gateway
    try:
        return People(Place(archive=layout.root, gateway=gateway, origin=own.origin, keys=own.keys))
    except RecordingError:
        return None


def _counted(case: Case) -> dict[str, dict[bytes, int]]:
    """Return how many events each session has, by gateway; and so which there are at all."""
    found: dict[str, dict[bytes, int]] = {}
    rows = case.sql(
        "SELECT gateway, session_id, events FROM sessions WHERE protocol <> 'agentaudit'"
    )
    for gateway, session, events in rows.fetchall():
        found.setdefault(gateway, {})[session.bytes] = events or 0
    return found


def _holds(layout: Layout) -> list[StandingHold] | AgentauditError:
    try:
        return legal_holds(layout)
    except AgentauditError as error:
        return error


class _Reading:
    """One pass over one log, and then over the sessions that it has sealed."""

    def __init__(
        self, case: Case, layout: Layout, log: KeptLog, at_us: int, people: People | None
    ) -> None:
        self._case = case
        self._layout = layout
        self._log = log
        self._at_us = at_us
        self._people = people
        self._standing = Standing()
        self._seals: dict[str, Mapping[str, Any]] = {}
        self._purges: dict[str, Purged] = {}
        self._policies: list[tuple[str, int]] = []
        self._names: dict[str, dict[str, str]] = {}

    def run(
        self,
        counts: Mapping[bytes, int],
        holds: list[StandingHold] | AgentauditError,
        policy: Policy | None,
        classes: Mapping[str, str],
    ) -> None:
        log = self._log
        log.people = self._people is not None
        for number, entry in enumerate(read_log(self._layout.log(log.gateway), []).entries()):
            self._take(number, entry)
        log.purge_count = len(self._purges)
        log.purges = list(self._purges.values())[-MAX_PURGES:]
        self._tell_policies()
        self._tell_sessions(counts, policy)
        for told in log.targets:
            if told.after is not None:
                told.after.kept_as = classes.get(told.target, "")
        if isinstance(holds, AgentauditError):
            raise holds
        self._tell_holds([hold for hold in holds if hold.gateway == log.gateway])

    # --- the log

    def _take(self, number: int, entry: Mapping[str, Any]) -> None:
        kind = entry["type"]
        if kind == "seal":
            self._seals[entry["segment"]] = entry
        elif kind == "policy":
            self._policies.append((entry["sha256"], number))
        elif kind == "purge_intent":
            self._purges[entry["purge"]] = Purged(
                purge=entry["purge"],
                entry=number,
                at_us=entry["at"],
                what=entry["what"],
                basis=entry["basis"],
                policy=entry["policy"] or "",
                decision=entry["decision"],
                sessions=entry["sessions"],
                segments=entry["segments"],
                list_sha256=entry["list"],
            )
        elif kind == "purge_done" and entry["purge"] in self._purges:
            self._take_done(number, entry, self._purges[entry["purge"]])
        take(self._layout, self._standing, entry)

    def _take_done(self, number: int, entry: Mapping[str, Any], purge: Purged) -> None:
        remains = self._standing.segments.get(entry["segment"])
        before = {} if remains is None else remains.files
        purge.done += 1
        purge.rows += entry["rows"]
        purge.bytes += max(0, _bytes(before) - _bytes(entry["files"]))
        if len(purge.parts) < MAX_SEGMENTS:
            purge.parts.append(
                PurgedSegment(
                    segment=entry["segment"],
                    entry=number,
                    at_us=entry["at"],
                    rows=entry["rows"],
                    before=before,
                    after=entry["files"],
                    root=self._seals.get(entry["segment"], {}).get("root", ""),
                    residue=(entry["residue"] or {}).get("sha256", ""),
                )
            )

    def _tell_policies(self) -> None:
        entries = dict(self._policies)  # a policy that came twice: its last entry
        policies = self._standing.policies
        for policy, successor in zip_longest(policies, policies[1:]):
            digest = policy.digest or ""
            names = self._names[digest] = _class_names(self._layout, digest)
            self._log.policies.append(
                Enacted(
                    digest=digest,
                    entry=entries.get(digest, -1),
                    since_us=policy.since_us,
                    ended_us=None if successor is None else successor.since_us,
                    classes={names.get(each, each): keep for each, keep in policy.keeps.items()},
                )
            )

    # --- sessions

    def _tell_sessions(self, counts: Mapping[bytes, int], policy: Policy | None) -> None:
        log, standing, at_us = self._log, self._standing, self._at_us
        sessions = Sessions(self._layout, log.gateway, self._seals, standing, self._people)
        densities = {name: self._density(sessions, name) for name in sessions.segments()}
        targets: dict[str, Target] = {}
        rules: dict[str, tuple[_Rule, _Rule | None]] = {}
        then = None if policy is None else _with(standing, policy)
        for session in sessions.closed(lambda target, end_us: True):
            if session is None:
                continue
            name = session.target
            if name not in targets:
                rule = _Rule(standing, name, at_us)
                after = None if then is None else _Rule(then, name, at_us)
                rules[name] = rule, after
                targets[name] = self._target(name, rule, after, policy)
            told, (rule, after) = targets[name], rules[name]
            events = counts.get(session.session_id.bytes, 1)
            density = max((densities.get(each, 0.0) for each in session.segments), default=0.0)
            share = round(events * density)
            log.sealed += 1
            told.sessions += 1
            told.bytes += share
            told.last_us = max(told.last_us or 0, session.end_us)
            told.without_payloads += not session.has_payloads
            holding = tuple(standing.holding(session))
            if holding:
                told.held += 1
                log.held_count += 1
                if len(log.held) < MAX_HELD:
                    log.held.append((session, holding))
                continue
            first_us = _count(told.due, rule, session, share)
            told.first_us = _earlier(told.first_us, first_us)
            if first_us is not None and first_us <= at_us:
                told.waiting += any(
                    is_fresh(standing.segments[each], at_us) for each in session.segments
                )
            if told.after is not None and after is not None:
                first_us = _count(told.after.due, after, session, share)
                told.after.first_us = _earlier(told.after.first_us, first_us)
        log.targets = sorted(targets.values(), key=lambda each: each.target)
        log.unsealed = max(0, len(counts) - log.sealed)

    def _density(self, sessions: Sessions, segment: str) -> float:
        return sessions.bytes_left(segment) / max(1, sessions.rows_left(segment))

    def _target(self, name: str, rule: _Rule, after: _Rule | None, policy: Policy | None) -> Target:
        digest = self._standing.policy or ""
        told = Target(
            target=name,
            kept_as=self._names.get(digest, {}).get(name, ""),
            keep=rule.now,
            promised_until_us=rule.promised_until_us,
        )
        if after is not None and policy is not None:
            told.after = After(
                kept_as="",
                keep=after.now,
                says=policy.keep(name),
                promised_until_us=after.promised_until_us,
            )
        return told

    # --- holds

    def _tell_holds(self, holds: list[StandingHold]) -> None:
        matching = {hold.hold: [0, 0] for hold in holds}
        unknown = {hold.hold for hold in holds if "user" in hold.selector and not self._people}
        wanted = [Hold(each.hold, each.selector, 0) for each in holds if each.hold not in unknown]
        if wanted:
            for session in self._closed():
                due = self._standing.due(session.target, session.end_us, self._at_us)
                for hold in wanted:
                    if hold.matches(session):
                        matching[hold.hold][0] += 1
                        matching[hold.hold][1] += due is not None
        self._log.holds = [
            Held(
                hold=each,
                sessions=None if each.hold in unknown else matching[each.hold][0],
                due=matching[each.hold][1],
            )
            for each in holds
        ]

    def _closed(self) -> Iterator[Sealed]:
        sessions = Sessions(
            self._layout, self._log.gateway, self._seals, self._standing, self._people
        )
        for session in sessions.closed(lambda target, end_us: True):
            if session is not None:
                yield session


class _Rule:
    """How long a target is kept from a time on: shorter, whenever a notice is over."""

    def __init__(self, standing: Standing, target: str, now_us: int) -> None:
        self.now = standing.keep(target, now_us)
        ends = {
            successor.since_us + policy.keep(target).notice_us
            for policy, successor in zip(standing.policies, standing.policies[1:], strict=False)
        }
        later = sorted(end_us for end_us in ends if end_us > now_us)
        self._steps = [(at_us, standing.keep(target, at_us)) for at_us in (now_us, *later)]
        self.promised_until_us = later[-1] if later else None

    def due_us(self, session: Sealed) -> tuple[int | None, int | None]:
        """Return when a session is due, and when its payloads are; not before now.

        None for never. Payloads that go no earlier than their session are due with it.
        """
        whole = self._first(session, lambda keep: keep.keep_us)
        payloads = None
        if session.has_payloads:
            payloads = self._first(session, lambda keep: keep.payload_end_us)
        if payloads is not None and whole is not None and payloads >= whole:
            payloads = None
        return whole, payloads

    def _first(self, session: Sealed, kept_us: Any) -> int | None:
        for step, (from_us, keep) in enumerate(self._steps):
            time_us = kept_us(keep)
            if time_us is None:
                continue
            due_us: int = max(from_us, session.end_us + time_us)
            is_last = step + 1 == len(self._steps)
            if is_last or due_us < self._steps[step + 1][0]:
                return due_us
        return None

    @property
    def from_us(self) -> int:
        return self._steps[0][0]


def _count(due: Due, rule: _Rule, session: Sealed, share: int) -> int | None:
    """Count a session where it becomes due; return when the first of it does."""
    whole_us, payloads_us = rule.due_us(session)
    for at_us, days in ((whole_us, due.sessions), (payloads_us, due.payloads)):
        if at_us is not None:
            day = -(-(at_us - rule.from_us) // DAY_US)
            if day <= DAYS:
                days[day] += 1
                if days is due.sessions:
                    due.bytes[day] += share
    return _earlier(whole_us, payloads_us)


def _earlier(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _with(standing: Standing, policy: Policy) -> Standing:
    """Return what would stand had `policy` come into force."""
    changed = Standing()
    changed.policies = list(standing.policies)
    if not changed.policies and standing.segments:
        changed.policies.append(Policy(None, 0, {}))
    changed.policies.append(policy)
    changed.holds, changed.segments = standing.holds, standing.segments
    changed.now_us = max(standing.now_us, policy.since_us)
    return changed


def _bytes(files: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(file["bytes"] for file in files.values())


def _class_names(layout: Layout, digest: str) -> dict[str, str]:
    """Return the class of each target that a policy document names; nothing where it is not it."""
    if not digest:
        return {}
    try:
        document = read_limited(layout.policy(digest), MAX_POLICY_BYTES)
        targets = canonical.decode(document)["retention"]["targets"]
        return {str(target): str(name) for target, name in targets.items()}
    except (OSError, ArchiveError, ValueError, LookupError, TypeError, AttributeError):
        return {}
