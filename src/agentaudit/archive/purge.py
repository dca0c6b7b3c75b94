"""Purges of one gateway's log: what would go, the list that says so, and taking it.

The surprising decision: a purge proves its claims. Its list, kept for ever, says of each session
whose it was, on which target and when it closed, each with the proof that the seal of its last
segment said so long before anybody thought of purging it.

Only the sealer purges, as it alone appends to the log; a plan can be made by whoever can read.

Crash story: the list is durable under `.tmp`, then the intent is in the log, then the list has its
name, then segment after segment is rewritten and its `purge_done` appended. A list without an
intent means nothing; an intent without all of its dones is finished at the next start.

Format: docs/formats/archive.md, "Purges"
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pyarrow.parquet as pq

from agentaudit.archive import canonical, files
from agentaudit.archive.entries import check_entry
from agentaudit.archive.ids import uuid7
from agentaudit.archive.keys import People
from agentaudit.archive.layout import Layout, segment_path
from agentaudit.archive.log import read_log
from agentaudit.archive.merkle import WholeTree, leaf_hash
from agentaudit.archive.retention import (
    Closed,
    Plan,
    Purge,
    Sealed,
    Standing,
    batches,
    parse_policy,
    selects,
)
from agentaudit.archive.rewrite import Cut, count_rows, naming, remove_segment, rewrite
from agentaudit.errors import ArchiveError, RecordingError, TamperedError

MAX_SESSIONS = 10_000
"""More than these go in several purges: the list of one is read as a whole."""

MAX_LIST_BYTES = 64 << 20
MAX_POLICY_BYTES = 16 << 20

_COLUMNS = (
    "session_id",
    "user",
    "target",
    "opened_at",
    "closed_at",
    "close_event_no",
    "is_final",
    "key_p",
)


def take(layout: Layout, standing: Standing, entry: Mapping[str, Any]) -> None:
    """Let `standing` take in `entry`, with the document that a `policy` names."""
    keeps = None
    if entry["type"] == "policy":
        try:
            document = files.read_limited(layout.policy(entry["sha256"]), MAX_POLICY_BYTES)
            if sha256(document).hexdigest() == entry["sha256"]:
                keeps = parse_policy(document)
        except (OSError, ArchiveError):
            pass  # what cannot be read lets nothing go
    standing.take(entry, keeps)


@dataclass(frozen=True, slots=True)
class _Found:
    """A closed session as the tables say it, with the user's name."""

    session: Sealed
    name: str
    close_event_no: int


class Sessions:
    """The closed sessions of one gateway's log that are still in its tables."""

    def __init__(
        self,
        layout: Layout,
        gateway: str,
        seals: Mapping[str, Mapping[str, Any]],
        standing: Standing,
        people: People | None,
    ) -> None:
        self._layout = layout
        self._gateway = gateway
        self._seals = seals
        self._standing = standing
        self._people = people
        self._hmacs: dict[str, str] = {"": ""}

    def segments(self) -> Iterator[str]:
        """Yield the segments that have not gone whole, in order of the log."""
        # A copy: the sealer goes on sealing between the steps of whoever asks.
        for segment in list(self._seals):
            if not self._standing.segments[segment].is_gone:
                yield segment

    def path(self, segment: str, table: str) -> Path:
        """Return where a segment's file of `table` lies."""
        first_us = self._seals[segment]["first_at"]
        return self._layout.root / segment_path(table, self._gateway, first_us, UUID(segment))

    @contextmanager
    def _reading(self, segment: str, table: str) -> Iterator[Path]:
        """Give where a segment's file of `table` lies, and name it in what goes wrong with it."""
        path = self.path(segment, table)
        with naming(path.relative_to(self._layout.root).as_posix()):
            yield path

    def closed(self, wanted: Callable[[str, int], object]) -> Iterator[Sealed | None]:
        """Yield the closed sessions for whose target and end `wanted` is true.

        Those of nobody are left out: no purge may take them. A None follows on each segment, for
        who has other things to do meanwhile.
        """
        spread: dict[bytes, list[str]] = {}
        for segment in self.segments():
            for found in self._rows(segment, spread):
                session = found.session
                if not (session.target or found.name):
                    continue
                if wanted(session.target, session.end_us):
                    yield replace(session, user=self._hmac(found.name))
            yield None

    def _rows(self, segment: str, spread: dict[bytes, list[str]]) -> Iterator[_Found]:
        """Yield the sessions that closed in `segment`; keep in `spread` where others have rows."""
        with self._reading(segment, "sessions") as path:
            table = pq.read_table(path, columns=list(_COLUMNS))
        columns = [_plain(table, name) for name in _COLUMNS]
        for row in zip(*columns, strict=True):
            session_id, name, target, opened_us, closed_us, close_event_no, is_final, key_p = row
            if not is_final:
                spread.setdefault(session_id, []).append(segment)
                continue
            session = Sealed(
                session_id=UUID(bytes=session_id),
                user="",
                target=target or "",
                opened_us=opened_us,
                closed_us=closed_us,
                segments=(*spread.pop(session_id, ()), segment),
                has_payloads=key_p is not None,
            )
            yield _Found(session, name or "", close_event_no)

    def _hmac(self, name: str) -> str:
        if self._people is None:
            return ""
        if name not in self._hmacs:
            self._hmacs[name] = self._people.hmac(name)
        return self._hmacs[name]

    def count(self, segment: str) -> int:
        """Return how many sessions have rows in `segment`."""
        with self._reading(segment, "sessions") as path:
            return int(pq.read_metadata(path).num_rows)

    def count_rows(self, segment: str, cut: Cut) -> int:
        """Return how many rows of a segment's `events` a cut takes, or strips of their payload."""
        with self._reading(segment, "events") as path:
            return count_rows(path, cut)

    def rows_left(self, segment: str) -> int:
        """Return how many rows of `segment` have not gone."""
        return int(self._seals[segment]["n"]) - self._standing.segments[segment].rows_gone

    def bytes_left(self, segment: str) -> int:
        """Return how large the files of `segment` are."""
        return sum(file["bytes"] for file in self._standing.segments[segment].files.values())

    def require_as_sealed(self, segment: str) -> None:
        """Return if each file of `segment` is what the log says.

        Raises:
            TamperedError: one is not; what was changed must not be purged away.
        """
        for table, file in self._standing.segments[segment].files.items():
            with self._reading(segment, table) as path:
                if files.measure(path, file["bytes"]) != (file["bytes"], file["sha256"]):
                    raise TamperedError(
                        f"{path.relative_to(self._layout.root)}: not the file that was sealed",
                        hint="nothing was purged; `agentaudit verify` says more",
                    )

    def proven(self, sessions: Sequence[Sealed]) -> list[tuple[Sealed, list[bytes]]]:
        """Return `sessions` with their place in their seal's `sessions_root`, and the proof.

        Raises:
            TamperedError: the sessions that are there do not hash to that root.
        """
        by_segment: dict[str, list[Sealed]] = {}
        for session in sessions:
            by_segment.setdefault(session.segments[-1], []).append(session)
        proven = []
        for segment, ours in by_segment.items():
            tree, places = self._tree(segment)
            for session in ours:
                index = places[session.session_id]
                proven.append((replace(session, index=index), tree.inclusion_proof(index)))
        return proven

    def _tree(self, segment: str) -> tuple[WholeTree, dict[UUID, int]]:
        """Return the tree of the sessions that closed in `segment`, those gone by now included."""
        found = sorted(self._rows(segment, {}), key=lambda found: found.close_event_no)
        gone = self._gone(segment)
        leaves: list[bytes] = []
        places: dict[UUID, int] = {}
        for each in found:
            while len(leaves) in gone:
                leaves.append(gone.pop(len(leaves)))
            session = replace(each.session, user=self._hmac(each.name))
            places[session.session_id] = len(leaves)
            leaves.append(leaf_hash(session.leaf()))
        leaves += [gone[index] for index in sorted(gone)]
        tree = WholeTree(b"".join(leaves))
        if tree.root().hex() != self._seals[segment]["sessions_root"]:
            raise TamperedError(
                f"segment {segment}: its sessions do not hash to the sessions_root of its seal",
                hint="the people key is not the one that it was recorded with, or the table was "
                "changed; nothing was purged",
            )
        return tree, places

    def _gone(self, segment: str) -> dict[int, bytes]:
        """Return the leaves, by index, of sessions that closed in `segment` and were purged."""
        gone = {}
        for purge in self._standing.purges.values():
            if purge.intent["what"] == "sessions" and segment in purge.done:
                for listed in read_list(self._layout, purge.intent).sessions:
                    if listed.sealed_in == segment:
                        gone[listed.index] = leaf_hash(listed.session.leaf())
        return gone


def _plain(table: Any, name: str) -> list[Any]:
    column = table.column(name)
    if name == "session_id":
        return [value for chunk in column.chunks for value in chunk.storage.to_pylist()]
    if name in ("opened_at", "closed_at"):
        column = column.cast("int64")
    values: list[Any] = column.to_pylist()
    return values


def plan(layout: Layout, gateway: str, now_us: int, people: People | None = None) -> dict[str, Any]:
    """Return what retention would purge at `now_us`, what it would not and why; nothing is touched.

    Members as docs/formats/archive.md, "Plan", has them.

    Raises:
        ArchiveError: the log or a table cannot be read.
        RecordingError: a legal hold names a user, and `people` is None: nobody can tell whom.
    """
    standing = Standing()
    seals = {}
    for entry in read_log(layout.log(gateway), []).entries():
        take(layout, standing, entry)
        if entry["type"] == "seal":
            seals[entry["segment"]] = entry
    sessions = Sessions(layout, gateway, seals, standing, people)
    made = finished(make_plan(sessions, standing, now_us, people))
    return finished(told(sessions, standing, made))


def finished(steps: Generator[None, None, _Made]) -> _Made:
    """Return what `steps` return, for who has nothing else to do meanwhile."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: _Made = end.value
            return made


def make_plan(
    sessions: Sessions, standing: Standing, now_us: int, people: People | None
) -> Generator[None, None, Plan]:
    """Return what is due at `now_us`, and what of it stays; yields once a segment."""
    if people is None and any(hold.names_a_user for hold in standing.holds.values()):
        raise RecordingError(
            "a legal hold names a user, and the gateway's people key is not there",
            hint="nothing can be purged without it: put keys/<gateway>.people back",
        )
    made = Plan()
    for session in sessions.closed(lambda target, at_us: standing.due(target, at_us, now_us)):
        if session is None:
            yield
        elif what := standing.due(session.target, session.end_us, now_us):
            made.add(session, what, standing, now_us)
    made.spread()
    return made


def told(
    sessions: Sessions, standing: Standing, made: Plan
) -> Generator[None, None, dict[str, Any]]:
    """Return a plan as JSON; yields once a segment."""
    parts = {"sessions": made.sessions, "payloads": made.payloads}
    segments: dict[str, list[dict[str, Any]]] = {}
    for what, part in parts.items():
        segments[what] = yield from _by_segment(sessions, what, part)
    names = ("rows", "bytes")
    return {
        **segments,
        "totals": {
            what: {
                "sessions": len(part),
                "segments": len(segments[what]),
                **{name: sum(each[name] for each in segments[what]) for name in names},
            }
            for what, part in parts.items()
        },
        **_left(made),
        "policy": standing.policy,
    }


def _left(made: Plan) -> dict[str, Any]:
    """Return what stays of what would be due, and why."""
    return {
        "held": [
            {"session": str(session.session_id), "holds": holds} for session, holds in made.held
        ],
        "waiting": [
            {"session": str(session.session_id), "why": "rewritten"} for session in made.waiting
        ],
    }


def _by_segment(
    sessions: Sessions, what: str, part: Sequence[Sealed]
) -> Generator[None, None, list[dict[str, Any]]]:
    """Return what goes of each segment: rows, about how many bytes, and whether all of it."""
    found = []
    for segment, ours in _cuts(sessions, what, part).items():
        cut = Cut(what, frozenset(ours))
        whole = cut.takes_rows and len(ours) == sessions.count(segment)
        left = sessions.rows_left(segment)
        rows = left if whole else sessions.count_rows(segment, cut)
        found.append(
            {
                "segment": segment,
                "rows": rows,
                # A share of the files by rows: what compression makes of it shows afterwards.
                "bytes": sessions.bytes_left(segment) * rows // max(1, left),
                "whole": whole,
                "sessions": len(ours),
            }
        )
        yield
    return found


def _cuts(sessions: Sessions, what: str, part: Sequence[Sealed]) -> dict[str, set[bytes]]:
    """Return the sessions that go of each segment, in order of the log."""
    cuts: dict[str, set[bytes]] = {}
    for session in part:
        for segment in session.segments:
            cuts.setdefault(segment, set()).add(session.session_id.bytes)
    return {segment: cuts[segment] for segment in sessions.segments() if segment in cuts}


# --- lists


@dataclass(frozen=True, slots=True)
class Listed:
    """A session on a purge's list, with the proof of what is claimed of it."""

    session: Closed
    segments: tuple[str, ...]
    sealed_in: str
    index: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PurgeList:
    """What a purge takes: sessions, and of each segment how many rows and whether all of it."""

    sessions: tuple[Listed, ...]
    segments: dict[str, tuple[int, bool]]

    def cut(self, what: str, segment: str) -> Cut:
        """Return what goes of `segment`."""
        ours = (s.session.session_id.bytes for s in self.sessions if segment in s.segments)
        return Cut(what, frozenset(ours))


def read_list(layout: Layout, intent: Mapping[str, Any]) -> PurgeList:
    """Return the list that a `purge_intent` names.

    Raises:
        OSError: it is not there.
        ArchiveError: it is not the one that the intent names, or malformed.
    """
    path = layout.purge(intent["purge"])
    data = files.read_limited(path, MAX_LIST_BYTES)
    place = f"purges/{path.name}"
    if sha256(data).hexdigest() != intent["list"]:
        raise ArchiveError(f"{place}: not the list that the log names")
    return parse_list(data, intent, place)


def parse_list(data: bytes, intent: Mapping[str, Any], place: str) -> PurgeList:
    """Return the list in `data`.

    Raises:
        ArchiveError: it is malformed, or of another purge than `intent`.
    """
    try:
        document = canonical.decode(data)
        if canonical.encode(document) != data:
            raise ValueError("not canonical")
        if (document["purge"], document["what"]) != (intent["purge"], intent["what"]):
            raise ArchiveError(f"{place}: of another purge than its intent")
        sessions = tuple(map(_listed, document["sessions"]))
        segments = {
            str(UUID(each["segment"])): (_count(each["rows"]), each["whole"] is True)
            for each in document["segments"]
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ArchiveError(f"{place}: malformed") from None
    if (len(sessions), len(segments)) != (intent["sessions"], intent["segments"]):
        raise ArchiveError(
            f"{place}: {len(sessions)} sessions in {len(segments)} segments, its intent says "
            f"{intent['sessions']} in {intent['segments']}"
        )
    return PurgeList(sessions, segments)


def _listed(value: Mapping[str, Any]) -> Listed:
    user, target = value["user"], value["target"]
    if not isinstance(user, str) or not isinstance(target, str):
        raise TypeError("no text")
    return Listed(
        Closed(
            session_id=UUID(value["session_id"]),
            user=user,
            target=target,
            opened_us=_count(value["opened_at"]),
            closed_us=_count(value["closed_at"]),
        ),
        tuple(str(UUID(segment)) for segment in value["segments"]),
        str(UUID(value["sealed_in"])),
        _count(value["index"]),
        tuple(bytes.fromhex(each) for each in value["proof"]),
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("no count")
    return value


def list_document(
    purge: str,
    what: str,
    proven: Sequence[tuple[Sealed, list[bytes]]],
    segments: Sequence[Mapping[str, Any]],
) -> bytes:
    """Return the list of a purge: canonical JSON."""
    return canonical.encode(
        {
            "purge": purge,
            "what": what,
            "sessions": [
                {
                    "session_id": str(session.session_id),
                    "user": session.user,
                    "target": session.target,
                    "opened_at": session.opened_us,
                    "closed_at": session.closed_us,
                    "segments": list(session.segments),
                    "sealed_in": session.segments[-1],
                    "index": session.index,
                    "proof": [each.hex() for each in proof],
                }
                for session, proof in proven
            ],
            "segments": [
                {name: each[name] for name in ("segment", "rows", "whole")} for each in segments
            ],
        }
    )


# --- purging

Steps = Generator[None, None, Any]
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A session that is open, or has closed in the segment under way; `user` is an HMAC."""

    session: str
    user: str
    is_open: bool


@dataclass(slots=True)
class _Resumed:
    """What became of purges that were begun earlier.

    `held` are the holds, by session, that were set since then, and `kept` by segment: none of
    these is touched while they stand, for whomever, as what is to go from it is decided already.
    """

    purges: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, set[str]] = field(default_factory=dict)

    def spare(self, made: Plan) -> None:
        """Let a plan take nothing from the segments that were kept."""
        for part in (made.sessions, made.payloads):
            free = []
            for session in part:
                holds = {hold for name in session.segments for hold in self.kept.get(name, ())}
                if holds:
                    made.held.append((session, sorted(holds)))
                else:
                    free.append(session)
            part[:] = free

    def left(self, made: Plan) -> dict[str, Any]:
        """Return what stays, of a plan and of the purges that were begun earlier."""
        left = _left(made)
        named = {each["session"] for each in left["held"]}
        left["held"] += [
            {"session": session, "holds": holds}
            for session, holds in self.held.items()
            if session not in named
        ]
        return left


class Purger:
    """Purges for the one writer of a log: each method is a generator of small steps.

    `append` appends entries to the log and lets `standing` take them in.
    """

    def __init__(
        self,
        layout: Layout,
        gateway: str,
        standing: Standing,
        seals: Mapping[str, Mapping[str, Any]],
        append: Callable[[dict[str, Any]], None],
        people: Callable[[], People],
    ) -> None:
        self._layout = layout
        self._gateway = gateway
        self._standing = standing
        self._seals = seals
        self._append = append
        self._people = people

    def plan(self, now_us: int) -> Steps:
        """Return what `apply` would do now; nothing is touched."""
        people = self._people()
        sessions = self._sessions(people)
        made = yield from make_plan(sessions, self._standing, now_us, people)
        return (yield from told(sessions, self._standing, made))

    def apply(self, now_us: int, event: int) -> Steps:
        """Purge what is due by policy; return what went, what was held and what waits.

        `event` is the number of the control session's event that says who ordered it.

        Raises:
            ArchiveError, OSError: a file cannot be read or written; what was begun goes on the
                next time.
            RecordingError: the people key is not there: nobody can tell whom a hold holds.
            TamperedError: the archive is not what was sealed; from there on nothing is touched.
        """
        resumed: _Resumed = yield from self._resume()
        people = self._people()
        sessions = self._sessions(people)
        made = yield from make_plan(sessions, self._standing, now_us, people)
        resumed.spare(made)
        basis = {"basis": "policy", "policy": self._standing.policy, "decision": None}
        purges = resumed.purges
        for what, part in (("sessions", made.sessions), ("payloads", made.payloads)):
            for batch in batches(part, MAX_SESSIONS):
                purges += yield from self._purge(what, batch, basis | {"event": event})
        return resumed.left(made) | {"purges": purges}

    def erase(
        self,
        selector: Mapping[str, str],
        decision: int,
        decided_us: int,
        unsealed: Sequence[Unsealed],
        *,
        dry_run: bool = False,
    ) -> Steps:
        """Purge the closed sessions that `selector` names, whatever a policy says.

        `decision` is the number of the control session's event with the approval, which was given
        at `decided_us`; sessions that closed later are not what was approved. The segment with
        the decision is sealed, so what of `unsealed` has closed has closed later; a dry run, which
        seals nothing, returns it as what would go once it is sealed.

        Raises:
            RecordingError: nothing that it names can go; the message says why.
        """
        resumed = _Resumed() if dry_run else (yield from self._resume())
        sessions = self._sessions(self._people())
        made = Plan()
        later = 0
        for session in sessions.closed(lambda target, end_us: True):
            if session is None:
                yield
                continue
            if not selects(selector, session):
                continue
            if holds := self._standing.holding(session):
                made.held.append((session, holds))
            elif session.closed_us > decided_us:
                later += 1
            else:
                made.sessions.append(session)
        named = [
            each
            for each in unsealed
            if selector.get("session", each.session) == each.session
            and selector.get("user", each.user) == each.user
        ]
        still_open = [each.session for each in named if each.is_open]
        closed = [each.session for each in named if not each.is_open]
        if not dry_run:
            later += len(closed)
        left: dict[str, Any] = {
            "open": still_open,
            "later": later,
            # A session is in one log, a person may be in all.
            "others": self._others() if "user" in selector else [],
        }
        resumed.spare(made)
        if dry_run:
            left["unsealed"] = closed
            return (yield from told(sessions, self._standing, made)) | left
        if not (made.sessions or resumed.purges):
            others = ", ".join(left["others"])
            raise RecordingError(
                *_why_nothing(made, still_open, later),
                hint=f"not asked, each with a log of its own: {others}" if others else "",
            )
        basis = {"basis": "decision", "policy": self._standing.policy, "decision": decision}
        purges = resumed.purges
        for batch in batches(made.sessions, MAX_SESSIONS):
            purges += yield from self._purge("sessions", batch, basis)
        return resumed.left(made) | left | {"purges": purges}

    def hold(
        self, selector: Mapping[str, Any], event: int, now_us: int, hold: str = ""
    ) -> dict[str, Any]:
        """Set a legal hold; `event` is the control session's event that says who and why.

        `hold` is its id, where other logs are to have the same.

        Raises:
            RecordingError: `selector` names nothing, or something of another form, or there is
                such a hold.
        """
        if hold in self._standing.holds:
            raise RecordingError(f"legal hold {hold}: set already")
        hold = hold or str(uuid7(now_us))
        entry = {"type": "legal_hold_set", "hold": hold, "selector": selector, "event": event}
        try:
            check_entry(0, entry | {"at": now_us})
        except ArchiveError:
            raise RecordingError(
                "legal hold: its selector is malformed",
                hint="session, user, target, since, until: at least one of them",
            ) from None
        self._append(entry)
        return {"hold": hold, "others": self._others()}

    def release(self, hold: str, event: int) -> dict[str, Any]:
        """Release a legal hold.

        Raises:
            RecordingError: there is no such hold.
        """
        if hold not in self._standing.holds:
            raise RecordingError(
                f"legal hold {hold}: not in force", hint="`agentaudit legal-hold list` names them"
            )
        self._append({"type": "legal_hold_release", "hold": hold, "event": event})
        return {"hold": hold, "others": self._others()}

    def _others(self) -> list[str]:
        """Return the gateways with a log of their own here, in which nothing was done."""
        return [name for name in self._layout.gateways() if name != self._gateway]

    def finish(self) -> Steps:
        """Finish what an earlier run began, and remove lists that nothing came of.

        Returns the legal holds that kept some of it from being finished.

        Raises:
            ArchiveError, OSError: a file cannot be read or written.
            TamperedError: a segment or list is not what was sealed or logged.
        """
        resumed: _Resumed = yield from self._resume()
        for path in self._layout.purge("x").parent.glob("*.json.tmp"):
            if self._is_ours(path):
                path.unlink()
        return sorted({hold for holds in resumed.kept.values() for hold in holds})

    def _resume(self) -> Steps:
        resumed = _Resumed()
        for purge in self._standing.unfinished():
            self._name_list(purge.intent)
            resumed.purges += [(yield from self._take(purge, resumed)) | {"resumed": True}]
        return resumed

    def _sessions(self, people: People | None) -> Sessions:
        return Sessions(self._layout, self._gateway, self._seals, self._standing, people)

    def _purge(self, what: str, batch: Sequence[Sealed], basis: Mapping[str, Any]) -> Steps:
        """Purge a batch, in parts if its list would be too long; return what each came to."""
        sessions = self._sessions(self._people())
        segments = yield from _by_segment(sessions, what, batch)
        self._require_room(sessions, segments)
        for each in segments:
            sessions.require_as_sealed(each["segment"])
            yield
        proven = sessions.proven(batch)
        yield
        if basis["policy"] != self._standing.policy:
            raise RecordingError(
                "retention: the policy has changed meanwhile",
                hint="apply it again: what is due is another question now",
            )
        purge = str(uuid7(self._standing.now_us))
        document = list_document(purge, what, proven, segments)
        if len(document) > MAX_LIST_BYTES:
            # Nobody would read it, and an intent without a list is never finished.
            if len(batch) == 1:
                raise RecordingError(
                    f"session {batch[0].session_id}: rows in {len(segments)} segments, which a "
                    "purge's list cannot name"
                )
            middle = len(batch) // 2
            first = yield from self._purge(what, batch[:middle], basis)
            return first + (yield from self._purge(what, batch[middle:], basis))
        path = self._layout.purge(purge)
        files.make_folder(path.parent)
        files.write_temporary(path, document)
        files.sync_folder(path.parent)
        intent = {
            "type": "purge_intent",
            "purge": purge,
            "what": what,
            **basis,
            "list": sha256(document).hexdigest(),
            "sessions": len(batch),
            "segments": len(segments),
        }
        self._append(intent)
        self._name_list(intent)
        return [(yield from self._take(self._standing.purges[purge], _Resumed()))]

    def _require_room(self, sessions: Sessions, segments: Sequence[Mapping[str, Any]]) -> None:
        """Return if a second copy of the largest segment to rewrite fits on the disk."""
        sizes = [sessions.bytes_left(each["segment"]) for each in segments if not each["whole"]]
        free = shutil.disk_usage(self._layout.root).free
        if (needed := 2 * max(sizes, default=0)) > free:
            raise RecordingError(
                f"archive {self._layout.root}: {free} bytes free, {needed} needed to rewrite a "
                "segment",
                hint="make room first: a purge writes what stays before it removes anything",
            )

    def _name_list(self, intent: Mapping[str, Any]) -> None:
        """Give the list its name, now that the log has the intent."""
        path = self._layout.purge(intent["purge"])
        temporary = path.with_name(path.name + ".tmp")
        if not path.exists() and temporary.exists():
            temporary.replace(path)
            files.sync_folder(path.parent)

    def _take(self, purge: Purge, resumed: _Resumed) -> Steps:
        """Take what an intent says, segment by segment; what is done already is passed over.

        So is, and `resumed` gets to know it, what has come under legal hold since the intent.
        """
        intent = purge.intent
        try:
            listed = read_list(self._layout, intent)
        except OSError as error:
            raise TamperedError(
                f"purges/{purge.purge}.json: {error.strerror}",
                hint="an intent names it: put it back, so that the purge can be finished",
            ) from error
        rows = sum(done["rows"] for done in purge.done.values())
        held = [
            (each, holds)
            for each in listed.sessions
            if (holds := self._standing.holding(each.session))
        ]
        for segment, (count, whole) in listed.segments.items():
            if segment in purge.done:
                continue
            if of_this := [(each, holds) for each, holds in held if segment in each.segments]:
                for each, holds in of_this:
                    resumed.held[str(each.session.session_id)] = holds
                    resumed.kept.setdefault(segment, set()).update(holds)
                continue
            seal, remains = self._seals[segment], self._standing.segments[segment]
            if whole:
                done = yield from remove_segment(self._layout, self._gateway, seal, remains, count)
            else:
                cut = listed.cut(intent["what"], segment)
                done = yield from rewrite(self._layout, self._gateway, seal, remains, cut)
            self._append({"type": "purge_done", "purge": purge.purge, "segment": segment, **done})
            rows += done["rows"]
            yield
        return {
            "purge": purge.purge,
            "what": intent["what"],
            "sessions": intent["sessions"],
            "segments": intent["segments"],
            "rows": rows,
        }

    def _is_ours(self, path: Path) -> bool:
        """Say whether a list without a name is of this log and of no intent."""
        purge = path.name.split(".")[0]
        if purge in self._standing.purges:
            return False
        try:
            segments = canonical.decode(path.read_bytes())["segments"]
            return any(each["segment"] in self._seals for each in segments)
        except (ValueError, LookupError, TypeError):
            # Cut off by a crash: whoever wrote it was not done, and holds this lock no more.
            return len(self._layout.gateways()) == 1


def _why_nothing(made: Plan, still_open: Sequence[str], later: int) -> tuple[str]:
    if made.held:
        holds = sorted({hold for _, holds in made.held for hold in holds})
        return (f"erasure: under legal hold {', '.join(holds)}",)
    if still_open:
        return (f"erasure: {len(still_open)} sessions that are still open, nothing else",)
    if later:
        return (f"erasure: {later} sessions that closed after it was decided, nothing else",)
    return ("erasure: no closed session in a sealed segment is what it names",)
