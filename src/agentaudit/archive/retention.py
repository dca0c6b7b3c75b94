"""What may go, and when: policies over time, legal holds, and what purges have left.

The sealer asks before it purges and the verifier asks afterwards, and both ask here, so a purge
that was lawful when it was made is lawful for ever, and only that. Nothing here reads a file or a
clock: the log's entries, the policies that they name and the time come from the caller.

The surprising rule: a policy does not end when another takes its place. What it promised to keep
is kept until its own notice is over, so nobody shortens a policy and purges in one go, and the
time of an entry is never earlier than that of an entry before it, so nobody backdates either.

Format: docs/formats/archive.md, "Retention"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from agentaudit.archive import canonical
from agentaudit.errors import ArchiveError

DAY_US: Final = 86_400_000_000
NOTICE_US: Final = 7 * DAY_US
"""The notice of a policy that says none, and the shortest that verification passes in silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long the sessions of a target are kept from their close, in µs; None is for ever.

    `payload_us` is for payloads alone; None means as long as the session.
    """

    keep_us: int | None = None
    payload_us: int | None = None
    notice_us: int = NOTICE_US

    @property
    def payload_end_us(self) -> int | None:
        """How long payloads are kept, whichever way they go."""
        return self.keep_us if self.payload_us is None else self.payload_us


FOR_EVER: Final = Keep()


def parse_policy(document: bytes) -> dict[str, Keep]:
    """Return how long each target is kept that a policy document has a class for.

    A document of an earlier release names no class: everything is kept for ever.

    Raises:
        ArchiveError: it is not what the format says.
    """
    try:
        retention = canonical.decode(document).get("retention", [])
        if retention == []:
            return {}
        classes = {name: _class(value) for name, value in retention["classes"].items()}
        return {target: classes[name] for target, name in retention["targets"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ArchiveError("policy: its retention is malformed") from None


def _class(value: Mapping[str, Any]) -> Keep:
    numbers = (value["keep_us"], value["payload_keep_us"], value["notice_us"])
    keep_us, payload_us, notice_us = numbers
    if any(n is not None and (type(n) is not int or n < 0) for n in numbers):
        raise ValueError("not a number of microseconds")
    if keep_us is None or notice_us is None:
        raise ValueError("no time to keep, or no notice")
    return Keep(keep_us=keep_us, payload_us=payload_us, notice_us=notice_us)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy since it came into force, at the log's time `since_us`."""

    digest: str | None
    since_us: int
    keeps: Mapping[str, Keep]

    def keep(self, target: str) -> Keep:
        """Return how long `target` is kept; what has no target is kept for ever."""
        return self.keeps.get(target, FOR_EVER) if target else FOR_EVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What a seal's `sessions_root` says of a session that has closed; `user` is an HMAC."""

    session_id: UUID
    user: str
    target: str
    opened_us: int
    closed_us: int

    @property
    def begin_us(self) -> int:
        """The earlier of its two times: a clock that was set back may have closed it first."""
        return min(self.opened_us, self.closed_us)

    @property
    def end_us(self) -> int:
        """The later of its two times, from which its age counts."""
        return max(self.opened_us, self.closed_us)

    @property
    def is_of_nobody(self) -> bool:
        """Whether it has neither user nor target, as the gateway's own sessions.

        They hold who decided what, and so what makes purges lawful: none of them ever goes.
        """
        return not (self.user or self.target)

    def leaf(self) -> bytes:
        """Return what the leaf commits to: canonical JSON."""
        return canonical.encode(
            {
                "closed_at": self.closed_us,
                "opened_at": self.opened_us,
                "session_id": str(self.session_id),
                "target": self.target,
                "user": self.user,
            }
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: sessions that match all members of `selector` stay, whatever a policy says."""

    hold: str
    selector: Mapping[str, Any]
    event: int

    @property
    def names_a_user(self) -> bool:
        return "user" in self.selector

    def matches(self, session: Closed) -> bool:
        """Say whether `session` is held; a time range holds what any part of lies in it."""
        return selects(self.selector, session)


def selects(selector: Mapping[str, Any], session: Closed) -> bool:
    """Say whether `session` matches all that `selector` names; nothing named matches nothing."""
    if not selector:
        return False
    for name, value in selector.items():
        if name == "session":
            right = value == str(session.session_id)
        elif name == "user":
            right = value == session.user
        elif name == "target":
            right = value == session.target
        elif name == "since":
            right = session.end_us >= value
        elif name == "until":
            right = session.begin_us <= value
        else:
            right = False
        if not right:
            return False
    return True


@dataclass(slots=True)
class Remains:
    """What purges have left of a segment: its files by table, and which of its rows are gone."""

    files: Mapping[str, Any]
    rows_gone: int = 0
    is_gone: bool = False
    residues: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    salts: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    purges: int = 0
    retained_us: int = 0
    """When retention last rewrote it, by the log's time; 0 for never."""


@dataclass(slots=True)
class Purge:
    """A purge as the log tells it: its intent, and the segments that are done."""

    intent: Mapping[str, Any]
    number: int
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def purge(self) -> str:
        return str(self.intent["purge"])

    @property
    def is_done(self) -> bool:
        return len(self.done) >= int(self.intent["segments"])


class Standing:
    """What stands at a point of a log: policies, holds, purges, and what these have left.

    Feed it the log's entries in order.
    """

    def __init__(self) -> None:
        self.policies: list[Policy] = []
        self.holds: dict[str, Hold] = {}
        self.purges: dict[str, Purge] = {}
        self.segments: dict[str, Remains] = {}
        self.now_us = 0
        """The log's time: the latest that an entry so far has had."""
        self._entries = 0

    def take(self, entry: Mapping[str, Any], keeps: Mapping[str, Keep] | None = None) -> None:
        """Take in the next entry; for a `policy`, `keeps` is what its document says.

        Without that a policy keeps everything for ever.
        """
        self.now_us = max(self.now_us, entry["at"])
        kind = entry["type"]
        if kind == "policy":
            if not self.policies and self.segments:
                # Recorded before there was a policy: that was kept for ever, and nobody said so.
                self.policies.append(Policy(None, 0, {}))
            self.policies.append(Policy(entry["sha256"], self.now_us, keeps or {}))
        elif kind == "seal":
            self.segments[entry["segment"]] = Remains(entry["files"])
        elif kind == "legal_hold_set":
            hold = Hold(entry["hold"], entry["selector"], entry["event"])
            self.holds[hold.hold] = hold
        elif kind == "legal_hold_release":
            self.holds.pop(entry["hold"], None)
        elif kind == "purge_intent":
            self.purges[entry["purge"]] = Purge(entry, self._entries)
        elif kind == "purge_done":
            self._purged(entry)
        self._entries += 1

    def _purged(self, entry: Mapping[str, Any]) -> None:
        purge = self.purges.get(entry["purge"])
        if purge is None:
            return
        remains = self.segments.setdefault(entry["segment"], Remains({}))
        purge.done[entry["segment"]] = entry
        if purge.intent["what"] == "sessions":
            remains.rows_gone += entry["rows"]
        if purge.intent["basis"] == "policy":
            remains.retained_us = self.now_us
        remains.files = entry["files"]
        if not entry["files"]:
            remains.is_gone = True
            remains.residues, remains.salts = [], []
        if entry["residue"] is not None:
            remains.residues.append((remains.purges, entry["residue"]))
        if entry["salts"] is not None:
            remains.salts.append((remains.purges, entry["salts"]))
        remains.purges += 1

    @property
    def policy(self) -> str | None:
        """The SHA-256 of the policy in force, or None."""
        return self.policies[-1].digest if self.policies else None

    def keep(self, target: str, now_us: int) -> Keep:
        """Return how long `target` is kept at `now_us`: the longest that any policy still says.

        These are the one in force, and each that was replaced less than its notice ago.
        """
        if not self.policies:
            return FOR_EVER
        said = [self.policies[-1].keep(target)]
        for policy, successor in zip(self.policies, self.policies[1:], strict=False):
            keep = policy.keep(target)
            if successor.since_us + keep.notice_us > now_us:
                said.append(keep)
        return Keep(
            keep_us=_longest(keep.keep_us for keep in said),
            payload_us=_longest(keep.payload_end_us for keep in said),
        )

    def due(self, target: str, end_us: int, now_us: int) -> str | None:
        """Return what of a session is due: `sessions` (all of it), `payloads`, or None."""
        keep = self.keep(target, now_us)
        age_us = now_us - end_us
        if keep.keep_us is not None and age_us >= keep.keep_us:
            return "sessions"
        if keep.payload_us is not None and age_us >= keep.payload_us:
            return "payloads"
        return None

    def holding(self, session: Closed) -> list[str]:
        """Return the legal holds that `session` is under."""
        return [hold.hold for hold in self.holds.values() if hold.matches(session)]

    def unfinished(self) -> list[Purge]:
        """Return the purges with an intent and not all of their dones, oldest first."""
        return [purge for purge in self.purges.values() if not purge.is_done]


def _longest(times_us: Iterable[int | None]) -> int | None:
    longest = 0
    for time_us in times_us:
        if time_us is None:
            return None
        longest = max(longest, time_us)
    return longest


def standing(entries: Iterable[Mapping[str, Any]]) -> Standing:
    """Return what stands after `entries`; policies are not read, so everything is kept for ever."""
    found = Standing()
    for entry in entries:
        found.take(entry)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Closed):
    """A closed session in the archive: the segments with rows of it, in order of the log.

    The last one's seal commits to it, as the `index`th that closed there.
    """

    segments: tuple[str, ...]
    index: int = -1
    has_payloads: bool = True


@dataclass(slots=True)
class Plan:
    """What would go now, and what would be due but stays."""

    sessions: list[Sealed] = field(default_factory=list)
    payloads: list[Sealed] = field(default_factory=list)
    held: list[tuple[Sealed, list[str]]] = field(default_factory=list)
    waiting: list[Sealed] = field(default_factory=list)

    def add(self, session: Sealed, what: str, standing: Standing, now_us: int) -> None:
        """Sort in a session of which `what` is due by policy."""
        if what == "payloads" and not session.has_payloads:
            return
        if holds := standing.holding(session):
            self.held.append((session, holds))
        elif any(is_fresh(standing.segments[name], now_us) for name in session.segments):
            self.waiting.append(session)
        else:
            (self.sessions if what == "sessions" else self.payloads).append(session)

    def spread(self) -> None:
        """Let payloads wait where sessions go now: a segment is rewritten for one of them a day."""
        touched = {name for session in self.sessions for name in session.segments}
        payloads, self.payloads = self.payloads, []
        for session in payloads:
            is_free = touched.isdisjoint(session.segments)
            (self.payloads if is_free else self.waiting).append(session)


def is_fresh(remains: Remains, now_us: int) -> bool:
    """Say whether retention rewrote a segment within the last day: then it waits."""
    return remains.retained_us > 0 and now_us - remains.retained_us < DAY_US


def batches(sessions: Sequence[Sealed], limit: int) -> list[list[Sealed]]:
    """Return `sessions` in parts of at most `limit`, those of one segment together."""
    ordered = sorted(sessions, key=lambda session: (session.segments[-1], session.index))
    return [ordered[start : start + limit] for start in range(0, len(ordered), limit)]
