"""Follows the sessions of a log, batch by batch, and rebuilds what is derived from them.

The sealer and the verifier run the same events through a `Tracker`: the one to write rows, keys
and leaves, the other to see whether what was written is what the events say. What each event
costs is paid in `agentaudit._native`; here is what a session costs, and the rare events.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any
from uuid import UUID

from agentaudit import _native
from agentaudit.archive import canonical, leaves
from agentaudit.archive.batch import FIXED, Batch, Entry, Run
from agentaudit.archive.journal import OpenSession
from agentaudit.archive.merkle import Frontier, leaf_hash
from agentaudit.archive.rows import closed_session, incomplete_row
from agentaudit.errors import TamperedError
from agentaudit.model import Flag, Kind

SESSION_COLUMNS = ("gateway", "issuer", "user", "agent", "target", "protocol")
"""What a `commands` row has from its session rather than from its `command_end`."""

# Plain integers, because comparing enum members is slow where every event passes.
_REQUEST = int(Kind.REQUEST)
_COMMAND_END = int(Kind.COMMAND_END)
_DECISION = int(Kind.DECISION)
_FROM_TARGET = int(Flag.FROM_TARGET)
_COMMAND_NO_AT = 44
_KIND_AT = 49  # its low byte: no kind needs the other
_FLAGS_AT = 51  # so too
_ORIG_LEN_AT = 56


@dataclass(slots=True)
class InFlight:
    """A command whose end has not been seen: its request, and its bytes so far either way."""

    request: Entry
    bytes_in: int
    bytes_out: int = 0

    def row(self, last_event_no: int) -> dict[str, Any]:
        """Return its row in the `commands` table, without what the session gives it."""
        return incomplete_row(
            self.request,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            last_event_no=last_event_no,
        )


@dataclass(slots=True)
class Tracked:
    """One session as far as its events have been seen."""

    state: OpenSession
    leaves_digest: Any = field(default_factory=sha256)
    close: dict[str, Any] | None = None
    close_event_no: int | None = None
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    last_ended: int = -1
    keys: bytes = b""
    in_every_row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        state = self.state
        self.keys = state.key_m + state.key_t + (state.key_p or bytes(32))
        if len(self.keys) != 96:
            raise TamperedError(f"session {state.session_id}: its keys are not of 32 bytes each")
        self.in_every_row = {name: self.fact(name) for name in SESSION_COLUMNS}
        self.in_every_row["session_id"] = state.session_id.bytes

    def count(self, run: Run) -> None:
        """Count the events of a run, but for what is masked in them."""
        state = self.state
        state.events += run.rows
        state.commands += run.commands
        state.bytes_in += run.bytes_in
        state.bytes_out += run.bytes_out

    def fact(self, name: str) -> str:
        """Return a constant of the session, or the empty string."""
        return str(self.state.facts.get(name, ""))

    def row(self) -> dict[str, Any]:
        """Return the session's row for the `sessions` table, as of now."""
        state = self.state
        row: dict[str, Any] = {
            **state.facts,
            "session_id": state.session_id.bytes,
            "opened_at": state.opened_us,
            "open_event_no": state.open_event_no,
            "key_m": state.key_m,
            "key_t": state.key_t,
            "key_p": state.key_p,
            "events": state.events,
            "commands": state.commands,
            "bytes_in": state.bytes_in,
            "bytes_out": state.bytes_out,
            "masked": state.masked,
            "is_final": self.close is not None,
        }
        if self.close is not None:
            row["closed_at"] = self.close["closed_at"]
            row["close_reason"] = self.close["close_reason"]
            row["close_event_no"] = self.close_event_no
        return row


@dataclass(frozen=True, slots=True)
class Hashed:
    """What one event commits to."""

    leaf: bytes
    payload_commit: bytes


@dataclass(frozen=True, slots=True)
class Hashes:
    """What the events of a batch commit to, 32 bytes each, and the session of each of its runs."""

    leaves: bytearray
    payload_commits: bytearray
    tracked: list[Tracked]


KeysOf = Callable[[Batch, Run], Mapping[str, bytes]]
"""Returns the keys of the session that a run opens."""

Closing = Callable[[Batch, int, Tracked], None]
"""Looks at a `session_close` in a row, its session being as it was just before."""


class Tracker:
    """All open sessions of one gateway's log, and the rows of the segment under way."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.sessions: dict[bytes, Tracked] = {}
        self.seen: dict[bytes, Tracked] = {}
        self.decisions: list[dict[str, Any]] = []
        self.access: list[dict[str, Any]] = []
        self.opened = self.closed = self.ended = 0
        self.closed_sessions = Frontier()

    def begin_segment(self) -> None:
        """Forget the rows of the segment before."""
        self.seen = {}
        self.decisions, self.access = [], []
        self.opened = self.closed = self.ended = 0
        self.closed_sessions = Frontier()

    def resume(self, session: OpenSession) -> None:
        """Take up a session of earlier segments as a journal's header has it."""
        self.sessions[session.session_id.bytes] = Tracked(session)

    def replay(
        self,
        batch: Batch,
        wanted: Container[bytes],
        keys: Mapping[bytes, Mapping[str, bytes]],
    ) -> None:
        """Take in events of an earlier, sealed segment, as far as they are of `wanted` sessions.

        What is in flight afterwards includes what was in flight then.
        """
        tracked = []
        for run in batch.runs:
            is_wanted = run.session_id in wanted
            if is_wanted and run.opens:
                self._open(batch, run, lambda _, run: keys[run.session_id])
            tracked.append(self.sessions.get(run.session_id, _NOBODY) if is_wanted else _NOBODY)
        leaves, _ = _hash(batch, tracked)
        for run, one, part in zip(batch.runs, tracked, _parts(batch, leaves), strict=True):
            if one is not _NOBODY:
                one.count(run)
                one.leaves_digest.update(part)
        for row, spans in batch.spans().items():
            tracked[batch.slot_of[row]].state.masked += len(spans)
        self.follow(batch)
        for run, one in zip(batch.runs, tracked, strict=True):
            if run.closes and one is not _NOBODY:
                del self.sessions[run.session_id]

    def contradictions(self, header: Sequence[OpenSession]) -> Iterator[str]:
        """Yield in what a journal's header differs from the sessions that are open before it."""
        for session in header:
            known = self.sessions.get(session.session_id.bytes)
            if known is None:
                yield f"its header lists session {session.session_id}, which is not open"
                continue
            for name in (one.name for one in fields(OpenSession)):
                if getattr(session, name) != getattr(known.state, name):
                    yield (
                        f"its header has another {name} of session {session.session_id} than the "
                        "events before it"
                    )
        listed = {session.session_id.bytes for session in header}
        for session_id, tracked in self.sessions.items():
            if session_id not in listed:
                yield f"its header does not list session {tracked.state.session_id}, which is open"

    def follow(self, batch: Batch) -> None:
        """Keep in mind which commands of the open sessions have begun and not ended.

        Only recovery and a look at a live journal ask, so nobody does this while recording.
        """
        tracked = [self.sessions.get(run.session_id) for run in batch.runs]
        fixed = batch.fixed
        for row, slot in enumerate(batch.slot_of):
            session = tracked[slot]
            if session is None:
                continue
            at = row * FIXED.size
            kind = fixed[at + _KIND_AT]
            place = at + _COMMAND_NO_AT
            command_no = int.from_bytes(fixed[place : place + 4], signed=True)
            if kind == _COMMAND_END:
                session.in_flight.pop(command_no, None)
                # What still comes for a command that has ended does not begin it again.
                session.last_ended = max(session.last_ended, command_no)
            elif (command := session.in_flight.get(command_no)) is not None:
                place = at + _ORIG_LEN_AT
                orig_len = int.from_bytes(fixed[place : place + 8])
                if fixed[at + _FLAGS_AT] & _FROM_TARGET:
                    command.bytes_out += orig_len
                else:
                    command.bytes_in += orig_len
            elif kind == _REQUEST and command_no > session.last_ended:
                request = batch.entry(row)
                session.in_flight[command_no] = InFlight(request, request.orig_len)

    def add_journaled(self, batch: Batch, *, complete: bool = True) -> Hashes:
        """Count events that were read from a journal, and return what they commit to.

        `complete` adds to each `session_close` the digest of its session's leaves, as its leaf
        has it: it takes a tracker that has seen all of them.

        Raises:
            TamperedError: an event of a session that is not open, or not its next one.
        """
        closing = self._complete_close if complete else _leave
        hashes = self._add(batch, _journaled_keys, closing)
        for run in batch.runs:
            if run.opens:
                del batch.extras[run.first]
        return hashes

    def add_sealed(self, batch: Batch, keys_of: KeysOf, closing: Closing) -> Hashes:
        """As `add_journaled`, for events of a sealed segment.

        `closing` is called for each `session_close`, before it counts.
        """
        return self._add(batch, keys_of, closing)

    def _add(self, batch: Batch, keys_of: KeysOf, closing: Closing) -> Hashes:
        tracked = self._sessions_of(batch, keys_of)
        self._require_order(batch)
        leaves, commits = _hash(batch, tracked)
        hashes = Hashes(leaves, commits, tracked)
        closes = []
        for run, session, part in zip(batch.runs, tracked, _parts(batch, leaves), strict=True):
            session.count(run)
            self.ended += run.commands
            if run.closes:
                session.leaves_digest.update(part[:-32])
                closes.append((run.last, session))
            else:
                session.leaves_digest.update(part)
        slot_of = batch.slot_of
        for row, spans in batch.spans().items():
            tracked[slot_of[row]].state.masked += len(spans)
        for row, session in sorted(closes, key=_row):
            session.state.events -= 1
            closing(batch, row, session)
            self._close(batch, row, session, hashes)
            session.state.events += 1
        for row in batch.others:
            entry = batch.entry(row)
            rows = self.decisions if entry.kind == _DECISION else self.access
            rows.append(canonical.decode(entry.payload or b"{}"))
        return hashes

    def _sessions_of(self, batch: Batch, keys_of: KeysOf) -> list[Tracked]:
        """Return the session of each run, opened if need be.

        Raises:
            TamperedError: one is not open, or is opened again.
        """
        found = []
        closed = set()
        for run in batch.runs:
            tracked = self.sessions.get(run.session_id)
            if run.opens:
                if tracked is not None or run.session_id in self.seen:
                    raise TamperedError(f"event {batch.event_no(run.first)}: opens a session again")
                tracked = self._open(batch, run, keys_of)
            elif tracked is None or run.session_id in closed:
                raise TamperedError(f"event {batch.event_no(run.first)}: its session is not open")
            if run.closes:
                closed.add(run.session_id)
            self.seen.setdefault(run.session_id, tracked)
            found.append(tracked)
        return found

    def _open(self, batch: Batch, run: Run, keys_of: KeysOf) -> Tracked:
        entry = batch.entry(run.first)
        facts = canonical.decode(entry.payload or b"{}")
        if facts.get("gateway") != self.gateway:
            raise TamperedError(
                f"event {entry.event_no}: its session_open does not name gateway {self.gateway}",
                hint="no gateway records for another; keep a copy of the archive",
            )
        keys = keys_of(batch, run)
        tracked = Tracked(
            OpenSession(
                session_id=UUID(bytes=run.session_id),
                facts=facts,
                key_m=keys["key_m"],
                key_t=keys["key_t"],
                key_p=keys["key_p"],
                opened_us=entry.observed_us,
                open_event_no=entry.event_no,
            )
        )
        self.sessions[run.session_id] = tracked
        self.opened += 1
        return tracked

    def _require_order(self, batch: Batch) -> None:
        """Return if each event is the next one of its session.

        Raises:
            TamperedError: it is not.
        """
        begun = [
            0 if run.opens else self.sessions[run.session_id].state.events for run in batch.runs
        ]
        expected = dict(enumerate(begun))
        if batch.broken < 0 and all(
            run.first_seq == seq for run, seq in zip(batch.runs, begun, strict=True)
        ):
            return
        for row, slot in enumerate(batch.slot_of):
            entry = batch.entry(row)
            if entry.seq != expected[slot]:
                raise TamperedError(
                    f"event {entry.event_no}: seq {entry.seq}, {expected[slot]} expected"
                )
            expected[slot] += 1

    def _complete_close(self, batch: Batch, row: int, tracked: Tracked) -> None:
        close = canonical.decode(batch.payloads[row] or b"{}")
        close["leaves_sha256"] = tracked.leaves_digest.hexdigest()
        batch.put_payload(row, canonical.encode(close))

    def _close(self, batch: Batch, row: int, tracked: Tracked, hashes: Hashes) -> None:
        entry, state = batch.entry(row), tracked.state
        if row in batch.payloads.elsewhere:
            # What `closing` has put there was not there yet when the batch was hashed.
            payload = leaves.payload_commit(state.key_p, entry.seq, entry.payload)
            text = leaves.text_commit(state.key_t, entry.seq, entry.text)
            place = slice(32 * row, 32 * row + 32)
            hashes.payload_commits[place] = payload
            hashes.leaves[place] = leaves.event_leaf(entry, state.key_m, text, payload)
        tracked.close = close = canonical.decode(entry.payload or b"{}")
        tracked.close_event_no = entry.event_no
        del self.sessions[entry.session_id]
        self.closed += 1
        told = closed_session(state, close["closed_at"])
        self.closed_sessions.append(leaf_hash(told))

    def command_row(self, row: dict[str, Any], tracked: Tracked) -> dict[str, Any]:
        """Return a command's row with what it has from its session."""
        return {**row, **tracked.in_every_row}

    def session_rows(self) -> list[dict[str, Any]]:
        """Return a row for each session with events in this segment, in order of appearance."""
        return [tracked.row() for tracked in self.seen.values()]


def _row(close: tuple[int, Tracked]) -> int:
    return close[0]


def _leave(batch: Batch, row: int, tracked: Tracked) -> None:
    """Take a `session_close` as it is."""


def _journaled_keys(batch: Batch, run: Run) -> Mapping[str, bytes]:
    keys = batch.extras.get(run.first, {})
    try:
        return {name: bytes.fromhex(keys[name]) for name in ("key_m", "key_t", "key_p")}
    except (LookupError, TypeError, ValueError):
        raise TamperedError(
            f"event {batch.event_no(run.first)}: opens a session without its keys"
        ) from None


def _hash(batch: Batch, tracked: Sequence[Tracked]) -> tuple[bytearray, bytearray]:
    """Return leaf hash and payload commitment of each event."""
    digests = {row: leaves.spans_digest(spans) for row, spans in batch.spans().items()}
    return _native.hash_rows(
        batch.fixed,
        batch.texts.raw,
        batch.payloads.raw,
        batch.slots,
        b"".join(one.keys for one in tracked),
        digests,
        batch.given,
        batch.given_data,
    )


def _parts(batch: Batch, leaf_hashes: bytearray) -> Iterator[memoryview]:
    """Yield the leaf hashes of each run."""
    counts = [run.rows for run in batch.runs]
    grouped = memoryview(_native.by_slot(leaf_hashes, batch.slots, counts))
    at = 0
    for count in counts:
        yield grouped[32 * at : 32 * (at + count)]
        at += count


_NOBODY = Tracked(OpenSession(UUID(int=0), {}, bytes(32), bytes(32), bytes(32), 0, 0))
