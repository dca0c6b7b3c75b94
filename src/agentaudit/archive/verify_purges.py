"""Whether what is missing from an archive was purged lawfully: each row by exactly one purge.

The log is read twice. Once ahead, because a segment is checked where its seal stands and which of
its files are left is said later; and once in order, because whether a purge was lawful is a
question of what stood in the log just before it: which policy, since when, and which legal holds.
What was taken is kept by 40 bytes a session and, once that is checked, by a bit: an archive may
have purged more sessions than it still has.

A purge's claims about a session are believed only with the proof that they were made when the
session closed (`sessions_root`). That nobody but the sessions on the lists is missing shows when
that root is made again from those that are there and those that went.

What is promised: docs/limits.md. Format: docs/formats/archive.md, "Purges"
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from agentaudit.archive import canonical, journal
from agentaudit.archive.files import measure, open_regular
from agentaudit.archive.layout import Layout, segment_path
from agentaudit.archive.merkle import leaf_hash, tree_root, verifies_inclusion
from agentaudit.archive.purge import Listed, PurgeList, read_list, take
from agentaudit.archive.retention import (
    NOTICE_US,
    Closed,
    Remains,
    Standing,
    selects,
)
from agentaudit.archive.verification import MALFORMED, Found, words
from agentaudit.errors import ArchiveError
from agentaudit.model import Kind

_MAX_TOLD = 10
"""So many findings a purge are enough; a count of the others follows."""

_CLOCK_STEP_US = 3_600_000_000
"""A clock may be set right by an hour; who dates a purge ahead needs more."""

_MAX_ROW_BYTES = 8 * 1024

_MAX_PLACE = 100_000_000
"""No segment has more events, and so no more sessions that closed in it."""


@dataclass(slots=True)
class Purged:
    """What purges have taken of a segment, for those who count and hash what is left.

    `sessions` has the leaves, by index, of sessions that closed there and went; `opened` counts
    those that went and had opened there; `open` those that were open at its end; `payloads` are
    the ids of sessions that have lost their payloads. `is_readable` says that what purges left
    beside its files is what the log names.
    """

    remains: Remains
    sessions: dict[int, bytes] = field(default_factory=dict)
    opened: int = 0
    open: int = 0
    payloads: set[bytes] = field(default_factory=set)
    is_readable: bool = True


@dataclass(slots=True)
class _Gathered:
    """What the lists say of one segment, until its seal comes: small, and without an order."""

    indices: array[int] = field(default_factory=lambda: array("q"))
    leaves: bytearray = field(default_factory=bytearray)
    payloads: bytearray = field(default_factory=bytearray)

    def fill(self, purged: Purged) -> None:
        for at, index in enumerate(self.indices):
            purged.sessions[index] = bytes(self.leaves[32 * at : 32 * at + 32])
        starts = range(0, len(self.payloads), 16)
        purged.payloads = {bytes(self.payloads[start : start + 16]) for start in starts}


class _Taken:
    """Which sessions were taken so far: a bit for the place of each in the segment it closed in."""

    def __init__(self) -> None:
        self._bits: dict[str, bytearray] = {}
        self.count = 0

    def __contains__(self, place: tuple[str, int]) -> bool:
        bits, index = self._bits.get(place[0], b""), place[1]
        return index >> 3 < len(bits) and bool(bits[index >> 3] >> (index & 7) & 1)

    def add(self, segment: str, index: int) -> None:
        if (segment, index) in self or index >= _MAX_PLACE:
            return
        bits = self._bits.setdefault(segment, bytearray())
        bits.extend(bytes(max(0, (index >> 3) + 1 - len(bits))))
        bits[index >> 3] |= 1 << (index & 7)
        self.count += 1


@dataclass(frozen=True, slots=True)
class _Seal:
    """What of a seal is asked for long after it."""

    first_event: int
    n: int
    first_at: int
    sessions_closed: int
    sessions_root: bytes


class PurgesCheck:
    """The purges, policies and legal holds of one gateway's log."""

    def __init__(
        self,
        layout: Layout,
        gateway: str,
        found: Found,
        notes: list[str],
        expected: set[str],
    ) -> None:
        self._layout = layout
        self._gateway = gateway
        self._found = found
        self._notes = notes
        self._expected = expected
        self._place = f"log/{gateway}"
        self._ahead = Standing()
        self._seen_ahead: set[int] = set()
        self._purged: dict[str, Purged] = {}
        self._gathered: dict[str, _Gathered] = {}
        self._current: Purged | None = None
        self._open = 0
        self._standing = Standing()
        self._seals: dict[str, _Seal] = {}
        self._taken = {"sessions": _Taken(), "payloads": _Taken()}
        # Lists without their proofs, and without their sessions once the last segment is done.
        self._lists: dict[str, PurgeList] = {}
        self._known_holds: dict[str, set[str]] = {}
        self._latest: tuple[int, str] | None = None
        # Events of the control session that legal holds point to: event_no, place, what it orders.
        self._orders: list[tuple[int, str, dict[str, Any]]] = []
        # Intents by the event that decided them; their lists are read again at the end.
        self._decisions: dict[int, list[tuple[str, dict[str, Any]]]] = {}

    # --- ahead

    def look_ahead(self, number: int, raw: bytes) -> None:
        """Take in an entry before any is checked; only those about purges matter."""
        if b"purge_" not in raw:
            return
        entry = canonical.decode(raw)
        if entry.get("type") in ("purge_intent", "purge_done") and canonical.encode(entry) == raw:
            self._seen_ahead.add(number)
            self._ahead.take(entry)

    def begin(self) -> None:
        """Gather, segment by segment, what all purges have taken."""
        for segment, remains in self._ahead.segments.items():
            purged = self._purged[segment] = Purged(remains)
            if not remains.is_gone:
                layout, name = self._layout, UUID(segment)
                left = [(layout.residue(name, n), file) for n, file in remains.residues]
                left += [(layout.salts(name, n), file) for n, file in remains.salts]
                for path, file in left:
                    purged.is_readable &= self._is_as_named(path, file)
        for purge in self._ahead.purges.values():
            self._expected.add(self._relative(self._layout.purge(purge.purge)))
            try:
                listed = read_list(self._layout, purge.intent)
            except MemoryError:
                raise
            except MALFORMED as error:
                self._found("purge", self._relative(self._layout.purge(purge.purge)), words(error))
                continue
            for session in listed.sessions:
                self._gather(session, purge.intent["what"])
            del listed

    def _gather(self, listed: Listed, what: str) -> None:
        if what == "payloads":
            for segment in listed.segments:
                if segment in self._purged:
                    self._of(segment).payloads.extend(listed.session.session_id.bytes)
            return
        first, last = listed.segments[:1], listed.sealed_in
        if last in self._purged:
            if listed.index >= _MAX_PLACE:
                raise ArchiveError(f"session {listed.session.session_id}: no segment is as large")
            self._of(last).indices.append(listed.index)
            self._of(last).leaves.extend(leaf_hash(listed.session.leaf()))
        if first and first[0] in self._purged:
            self._purged[first[0]].opened += 1

    def _of(self, segment: str) -> _Gathered:
        return self._gathered.setdefault(segment, _Gathered())

    def _is_as_named(self, path: Path, file: Mapping[str, Any]) -> bool:
        relative = self._relative(path)
        self._expected.add(relative)
        if file["path"] != relative:
            self._found("purge", relative, f"the log names {file['path']!r} in its place")
        try:
            found = measure(path, file["bytes"])
        except (OSError, ArchiveError) as error:
            self._found("purge", relative, words(error), "a file")
            return False
        if found != (file["bytes"], file["sha256"]):
            self._found("purge", relative, "not the file that the log names")
            return False
        return True

    # --- a segment

    def of(self, segment: str) -> Purged | None:
        """Return what purges have taken of a segment, None for nothing."""
        return self._purged.get(segment)

    def seal(self, seal: dict[str, Any], place: str, still_open: int | None) -> None:
        """Take in a seal, before the segment is checked; check one that has gone whole.

        `still_open` counts the sessions of segments before that were not purged and not closed
        yet; None where nobody has followed them.
        """
        if self._current is not None:
            self._current.sessions, self._current.payloads = {}, set()
        purged = self._current = self._purged.get(seal["segment"])
        if purged is not None and (gathered := self._gathered.pop(seal["segment"], None)):
            gathered.fill(purged)
        gone = purged or Purged(Remains({}))
        # Also a segment in which they had no events was one at whose end they were open.
        self._open += gone.opened - len(gone.sessions)
        if purged is None:
            if self._open:
                self._purged[seal["segment"]] = Purged(Remains(seal["files"]), open=self._open)
            return
        purged.open = self._open
        remains = purged.remains
        if not remains.is_gone:
            rows = (remains.files.get("events") or {}).get("rows")
            if rows != seal["n"] - remains.rows_gone:
                self._found(
                    "purge",
                    place,
                    f"{rows} rows of events are left",
                    str(seal["n"] - remains.rows_gone),
                )
            return
        leaves = [purged.sessions.get(index, b"") for index in range(len(purged.sessions))]
        right = {
            "sessions_opened": purged.opened,
            "sessions_closed": len(leaves),
            "n": remains.rows_gone,
            "sessions_root": tree_root(leaves).hex(),
        }
        if still_open is not None:
            right["sessions_open"] = still_open + purged.open
        for name, value in right.items():
            if seal[name] != value:
                self._found(
                    "purge",
                    place,
                    f"gone, and by the lists of purges its {name} is {value}",
                    str(seal[name]),
                )

    # --- in order

    def take(self, number: int, entry: dict[str, Any]) -> None:
        """Check an entry against all before it, and take it in."""
        place, kind = f"{self._place} entry {number}", entry["type"]
        if kind == "purge_intent":
            self._require_ahead(number, place)
            self._check_intent(entry, place)
        elif kind == "purge_done":
            self._require_ahead(number, place)
            self._check_done(entry, place)
        elif kind == "legal_hold_set":
            if entry["hold"] in self._standing.holds:
                self._found("hold", place, "a legal hold that is set already")
            ordered = {"action": "set", "selector": entry["selector"]}
            self._orders.append((entry["event"], place, ordered))
        elif kind == "legal_hold_release":
            if entry["hold"] not in self._standing.holds:
                self._found("hold", place, "releases a legal hold that is not in force")
            ordered = {"action": "release", "hold": entry["hold"]}
            self._orders.append((entry["event"], place, ordered))
        elif kind == "seal":
            self._seals[entry["segment"]] = _Seal(
                entry["first_event"],
                entry["n"],
                entry["first_at"],
                entry["sessions_closed"],
                bytes.fromhex(entry["sessions_root"]),
            )
        if self._latest is not None and entry["at"] < self._latest[0] - _CLOCK_STEP_US:
            # Behind a purge that somebody dated ahead, to have its sessions due.
            self._found("purge", self._latest[1], "dated later than an entry behind it")
            self._latest = None
        take(self._layout, self._standing, entry)
        if kind == "policy":
            self._check_notice(place)

    def _require_ahead(self, number: int, place: str) -> None:
        if number not in self._seen_ahead:
            self._found("purge", place, "not canonical JSON")

    def _check_notice(self, place: str) -> None:
        policy = self._standing.policies[-1]
        for target, keep in policy.keeps.items():
            if keep.notice_us < NOTICE_US:
                self._notes.append(
                    f"{place}: policy {str(policy.digest)[:8]}…: the notice of target {target} is "
                    f"{keep.notice_us // 3_600_000_000} h, less than 7 days"
                )

    def _check_intent(self, entry: dict[str, Any], place: str) -> None:
        what, standing = entry["what"], self._standing
        told = _Told(self._found, f"{place} (purge {entry['purge']})")
        if entry["purge"] in standing.purges:
            told("purge", "an intent for a purge that was begun before")
            return
        if self._latest is None or entry["at"] > self._latest[0]:
            self._latest = entry["at"], place
        if entry["at"] > time.time_ns() // 1000 + _CLOCK_STEP_US:
            told("purge", "its time has not come yet")
        decision = entry.get("decision")
        if entry["basis"] == "policy" and entry["policy"] != standing.policy:
            told("policy", "by a policy that was not in force", str(standing.policy))
        if entry["basis"] == "decision" and decision is None:
            told("decision", "an erasure without a decision")
        try:
            listed = read_list(self._layout, entry)
        except MemoryError:
            raise
        except MALFORMED:
            return  # found when it was read ahead
        self._known_holds[entry["purge"]] = set(standing.holds)
        touched: dict[str, int] = {}
        for session in listed.sessions:
            for segment in session.segments:
                touched[segment] = touched.get(segment, 0) + 1
            if self._check_claims(session, what, told):
                self._taken[what].add(session.sealed_in, session.index)
            self._check_right(session.session, entry, told)
        if decision is not None:
            self._decisions.setdefault(decision, []).append((place, entry))
        if touched.keys() != listed.segments.keys():
            told("purge", "its list names other segments than those of its sessions")
        for segment, (rows, whole) in listed.segments.items():
            if whole and what == "payloads":
                told("purge", f"segment {segment} would go whole with payloads")
            if what == "sessions" and rows == 0:
                told("purge", f"segment {segment}: no rows")
        told.end()
        without_proofs = tuple(replace(session, proof=()) for session in listed.sessions)
        self._lists[entry["purge"]] = PurgeList(without_proofs, listed.segments)

    def _check_claims(self, listed: Listed, what: str, told: _Told) -> bool:
        """Hold what a list claims of a session against the seal of the segment it closed in.

        Returns:
            Whether the place that it claims there is proven to be its own.
        """
        session = listed.session
        name = f"session {session.session_id}"
        seal = self._seals.get(listed.sealed_in)
        if seal is None or listed.segments[-1:] != (listed.sealed_in,):
            told("purge", f"{name}: not sealed where its list says")
            return False
        if len(set(listed.segments)) != len(listed.segments) or any(
            segment not in self._seals for segment in listed.segments
        ):
            told("purge", f"{name}: rows in segments that are not there")
        is_proven = verifies_inclusion(
            listed.proof,
            leaf=leaf_hash(session.leaf()),
            index=listed.index,
            size=seal.sessions_closed,
            root=seal.sessions_root,
        )
        if not is_proven:
            told("purge", f"{name}: its seal does not say of it what the list claims")
        place = (listed.sealed_in, listed.index)
        if place in self._taken["sessions"] or place in self._taken[what]:
            told("purge", f"{name}: purged before")
        return is_proven

    def _check_right(self, session: Closed, entry: Mapping[str, Any], told: _Told) -> None:
        """Check that a session was due, and not held, when it was purged."""
        name = f"session {session.session_id}"
        for hold in self._standing.holding(session):
            told("hold", f"{name}: purged under legal hold {hold}")
        if session.is_of_nobody:
            told("purge", f"{name}: the gateway's own, which never goes")
        if entry["basis"] != "policy":
            return
        due = self._standing.due(session.target, session.end_us, entry["at"])
        if due is None or (due, entry["what"]) == ("payloads", "sessions"):
            told("policy", f"{name}: purged before it was due")

    def _check_done(self, entry: dict[str, Any], place: str) -> None:
        told = _Told(self._found, f"{place} (purge {entry['purge']})")
        purge = self._standing.purges.get(entry["purge"])
        if purge is None:
            told("purge", "done without an intent before it")
            return
        segment = entry["segment"]
        remains = self._standing.segments.get(segment)
        listed = self._lists.get(entry["purge"])
        if remains is None or listed is None or segment not in listed.segments:
            told("purge", f"segment {segment} is not on its list")
            return
        if segment in purge.done:
            told("purge", f"segment {segment} is done twice")
        if remains.is_gone:
            told("purge", f"segment {segment} had gone whole before")
        self._check_holds_since(entry["purge"], listed, segment, told)
        rows, whole = listed.segments[segment]
        if entry["rows"] != rows:
            told("purge", f"{entry['rows']} rows of segment {segment}", f"{rows} as listed")
        takes_rows = purge.intent["what"] == "sessions"
        residue, salts = entry["residue"], entry["salts"]
        has_right_files = (
            not entry["files"] if whole else {"events", "sessions"} <= entry["files"].keys()
        )
        if not has_right_files or not entry["files"].keys() <= remains.files.keys():
            told("purge", f"segment {segment}: other tables are left than can be")
        if (residue is not None) is not (takes_rows and not whole):
            told("purge", f"segment {segment}: a residue where none belongs, or none")
        elif residue is not None and residue["rows"] != entry["rows"]:
            told("purge", f"segment {segment}: a residue of {residue['rows']} rows", str(rows))
        if salts is not None and takes_rows:
            told("purge", f"segment {segment}: salts where none belong")
        if len(purge.done.keys() | {segment}) >= len(listed.segments):
            # Its segments stay, for who signs another end of it.
            self._lists[entry["purge"]] = PurgeList((), listed.segments)

    def _check_holds_since(self, purge: str, listed: PurgeList, segment: str, told: _Told) -> None:
        """Check that no hold was set since the intent that keeps what was taken of a segment."""
        known = self._known_holds[purge]
        for hold in self._standing.holds.values():
            if hold.hold in known:
                continue
            for session in listed.sessions:
                if segment in session.segments and hold.matches(session.session):
                    name = session.session.session_id
                    told("hold", f"session {name}: purged under legal hold {hold.hold}")

    # --- the end

    def end(self, *, deep: bool) -> None:
        """Say which purges were not finished; `deep`: look at what entries point to."""
        for purge in self._standing.unfinished():
            done, segments = len(purge.done), purge.intent["segments"]
            self._found(
                "purge",
                f"{self._place} entry {purge.number}",
                f"purge {purge.purge}: {done} of {segments} segments done",
                "all: it is under way, or a fault, a legal hold or a crash has stopped it",
            )
        sessions, payloads = self._taken["sessions"].count, self._taken["payloads"].count
        if sessions or payloads:
            self._notes.append(
                f"{self._place}: {sessions} sessions purged, and the payloads of {payloads}"
            )
        if deep:
            self._check_evidence()

    def _check_evidence(self) -> None:
        used: set[int] = set()
        for event_no, place, ordered in self._orders:
            row = self._event(event_no)
            if row is None or row[0] != "legal_hold":
                seen = f"event {event_no} is no legal_hold of the control session"
                self._found("hold", place, seen)
            elif event_no in used:
                self._found("hold", place, f"event {event_no} has ordered another entry")
            elif not _orders(row[1], ordered):
                self._found("hold", place, f"event {event_no} does not order this")
            used.add(event_no)
        for event_no, intents in self._decisions.items():
            row = self._event(event_no)
            told = _Told(self._found, intents[0][0])
            if row is None or row[0] != "decision":
                told("decision", f"event {event_no} is no decision of the control session")
                continue
            try:
                decision = canonical.decode(row[1] or b"{}")
                self._check_decision(decision, told)
                for _, intent in intents:
                    listed = read_list(self._layout, intent)
                    self._check_decided(decision, listed, told)
            except MemoryError:
                raise
            except MALFORMED as error:
                told("decision", f"event {event_no}: {words(error)}")
            told.end()

    @staticmethod
    def _check_decision(decision: Mapping[str, Any], told: _Told) -> None:
        """Check that somebody else approved an erasure."""
        requester, approvers = decision["requester"], decision["approvers"]
        if (decision["kind"], decision["state"]) != ("purge", "approved"):
            told("decision", "not an approval of a purge")
        if not requester or not approvers or requester in approvers:
            told("decision", "not approved by somebody else than who asked")

    @staticmethod
    def _check_decided(decision: Mapping[str, Any], listed: PurgeList, told: _Told) -> None:
        """Check that just these sessions were approved to go."""
        selector, decided_us = decision["selector"], decision["decided_at"]
        for session in (each.session for each in listed.sessions):
            if not selects(selector, session):
                told("decision", f"session {session.session_id}: not what was approved")
            elif session.closed_us > decided_us:
                told("decision", f"session {session.session_id}: closed after the approval")

    def _event(self, event_no: int) -> tuple[str, bytes | None] | None:
        """Return kind and payload of an event of the control session, None where there is none."""
        try:
            for segment, seal in self._seals.items():
                if seal.first_event <= event_no < seal.first_event + seal.n:
                    path = segment_path("events", self._gateway, seal.first_at, UUID(segment))
                    return _sealed_event(self._layout.root / path, event_no)
            return self._live_event(event_no)
        except MemoryError:
            raise
        except MALFORMED:
            return None

    def _live_event(self, event_no: int) -> tuple[str, bytes | None] | None:
        for segment in journal.in_order(self._layout, self._gateway):
            if str(segment) in self._seals:
                continue
            reader = journal.JournalReader(self._layout.journal(self._gateway, segment))
            protocols = {
                session.session_id.bytes: session.facts.get("protocol")
                for session in reader.header.sessions
            }
            for entry in reader.read():
                if entry.kind == Kind.SESSION_OPEN:
                    facts = canonical.decode(entry.payload or b"{}")
                    protocols[entry.session_id] = facts.get("protocol")
                if entry.event_no == event_no:
                    if protocols.get(entry.session_id) != "agentaudit":
                        return None
                    return Kind(entry.kind).name.lower(), entry.payload
        return None

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._layout.root).as_posix()


def _orders(payload: bytes | None, ordered: Mapping[str, Any]) -> bool:
    """Say whether an event's row has all these members."""
    try:
        members = canonical.decode(payload or b"{}")
        return all(members.get(name) == value for name, value in ordered.items())
    except MALFORMED:
        return False


class _Told:
    """Passes on the first findings of one entry, and counts the others."""

    def __init__(self, found: Found, place: str) -> None:
        self._found = found
        self._place = place
        self._count = 0

    def __call__(self, check: str, seen: str, expected: str = "") -> None:
        self._count += 1
        if self._count <= _MAX_TOLD:
            self._found(check, self._place, seen, expected)

    def end(self) -> None:
        if self._count > _MAX_TOLD:
            self._found("purge", self._place, f"{self._count - _MAX_TOLD} findings more")


def _sealed_event(path: Path, event_no: int) -> tuple[str, bytes | None] | None:
    columns = ["event_no", "kind", "protocol", "payload", "stored_len"]
    with open_regular(path) as opened, pq.ParquetFile(opened) as file:
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(0).statistics
            if statistics is not None and not statistics.min <= event_no <= statistics.max:
                continue
            rows = file.read_row_group(group, columns=columns)
            for place, number in enumerate(rows.column("event_no").to_pylist()):
                if number == event_no:
                    row = {name: rows.column(name)[place].as_py() for name in columns}
                    is_ours = row["protocol"] == "agentaudit"
                    is_whole = row["stored_len"] <= _MAX_ROW_BYTES
                    return (row["kind"], row["payload"]) if is_ours and is_whole else None
    return None
