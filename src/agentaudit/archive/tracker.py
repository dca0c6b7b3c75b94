"""Follows the sessions of a log, event by event, and rebuilds what is derived from them.

The sealer and the verifier run the same events through a `Tracker`: the one to write rows, keys
and leaves, the other to see whether what was written is what the events say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from agentaudit.archive import canonical, leaves
from agentaudit.archive.journal import Entry, OpenSession
from agentaudit.archive.merkle import Frontier, leaf_hash
from agentaudit.archive.rows import closed_session
from agentaudit.errors import TamperedError
from agentaudit.model import Kind, Side

# What a `commands` row has from its session rather than from its `command_end`.
_SESSION_COLUMNS = ("gateway", "issuer", "user", "agent", "target", "protocol")

# Plain integers, because comparing enum members is slow where every event passes.
_REQUEST = int(Kind.REQUEST)
_COMMAND_END = int(Kind.COMMAND_END)
_SESSION_CLOSE = int(Kind.SESSION_CLOSE)
_DECISION = int(Kind.DECISION)
_ACCESS = int(Kind.ACCESS)


@dataclass(slots=True)
class Tracked:
    """One session as far as its events have been seen."""

    state: OpenSession
    leaves_digest: Any = field(default_factory=sha256)
    close: dict[str, Any] | None = None
    close_event_no: int | None = None
    in_flight: dict[int, Entry] = field(default_factory=dict)
    last_ended: int = -1
    protocol: str = ""
    user: str = ""
    agent: str = ""
    target: str = ""
    in_every_row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.protocol = self.fact("protocol")
        self.user = self.fact("user")
        self.agent = self.fact("agent")
        self.target = self.fact("target")
        self.in_every_row = {name: self.fact(name) for name in _SESSION_COLUMNS}
        self.in_every_row["session_id"] = self.state.session_id.bytes

    def fact(self, name: str) -> str:
        """Return a constant of the session, or the empty string."""
        return str(self.state.facts.get(name, ""))

    def follow(self, entry: Entry) -> None:
        """Keep in mind which commands have begun and not ended."""
        if entry.kind == _REQUEST and entry.command_no > self.last_ended:
            self.in_flight.setdefault(entry.command_no, entry)
        elif entry.kind == _COMMAND_END:
            self.in_flight.pop(entry.command_no, None)
            # What still comes for a command that has ended does not begin it again.
            self.last_ended = max(self.last_ended, entry.command_no)

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
    """What an event commits to."""

    leaf: bytes
    payload_commit: bytes


class Tracker:
    """All open sessions of one gateway's log, and the rows of the segment under way."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.sessions: dict[bytes, Tracked] = {}
        self.seen: dict[bytes, Tracked] = {}
        self.commands: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.access: list[dict[str, Any]] = []
        self.opened = self.closed = self.ended = 0
        self.closed_sessions = Frontier()

    def begin_segment(self) -> None:
        """Forget the rows of the segment before."""
        self.seen = {}
        self.commands, self.decisions, self.access = [], [], []
        self.opened = self.closed = self.ended = 0
        self.closed_sessions = Frontier()

    def take_commands(self) -> list[dict[str, Any]]:
        """Return the rows of the commands that ended since the last call; `ended` counts all."""
        rows, self.commands = self.commands, []
        return rows

    def resume(self, session: OpenSession) -> None:
        """Take up a session of earlier segments; `replay` brings back what it had there."""
        self.sessions[session.session_id.bytes] = Tracked(session)

    def replay(self, entry: Entry) -> None:
        """Take in an event of an earlier segment, if it is of a session that was resumed."""
        tracked = self.sessions.get(entry.session_id)
        if tracked is not None:
            tracked.leaves_digest.update(_hash(entry, tracked.state).leaf)
            tracked.follow(entry)

    def open(self, entry: Entry, keys: Mapping[str, bytes]) -> Tracked:
        """Begin to follow the session that `entry`, a `session_open`, opens under its `keys`.

        Raises:
            TamperedError: it says that it is another gateway's.
        """
        facts = canonical.decode(entry.payload or b"{}")
        if facts.get("gateway") != self.gateway:
            raise TamperedError(
                f"event {entry.event_no}: its session_open does not name gateway {self.gateway}",
                hint="no gateway records for another; keep a copy of the archive",
            )
        tracked = Tracked(
            OpenSession(
                session_id=UUID(bytes=entry.session_id),
                facts=facts,
                key_m=keys["key_m"],
                key_t=keys["key_t"],
                key_p=keys["key_p"],
                opened_us=entry.observed_us,
                open_event_no=entry.event_no,
            )
        )
        self.sessions[entry.session_id] = tracked
        self.opened += 1
        return tracked

    def of_journal(self, entry: Entry) -> Tracked:
        """Return the session of an event read from a journal, which holds the keys of new ones.

        Raises:
            TamperedError: see `session_of`.
        """
        if entry.kind != Kind.SESSION_OPEN:
            return self.session_of(entry)
        keys = {name: bytes.fromhex(key) for name, key in entry.extra.items()}
        entry.extra = {}
        return self.open(entry, keys)

    def session_of(self, entry: Entry) -> Tracked:
        """Return the open session that `entry` belongs to.

        Raises:
            TamperedError: there is none, or the event is not its next one.
        """
        tracked = self.sessions.get(entry.session_id)
        if tracked is None:
            raise TamperedError(f"event {entry.event_no}: its session is not open")
        if entry.seq != tracked.state.events:
            raise TamperedError(
                f"event {entry.event_no}: seq {entry.seq}, {tracked.state.events} expected"
            )
        return tracked

    def complete_close(self, tracked: Tracked, entry: Entry) -> None:
        """Add to a `session_close` the digest of all its session's leaves before it."""
        close = canonical.decode(entry.payload or b"{}")
        close["leaves_sha256"] = tracked.leaves_digest.hexdigest()
        entry.payload = canonical.encode(close)
        entry.stored_len = len(entry.payload)

    def add(self, entry: Entry, tracked: Tracked) -> Hashed:
        """Count `entry`, keep the row that it makes, and return what it commits to."""
        state = tracked.state
        hashed = _hash(entry, state)
        self.seen.setdefault(entry.session_id, tracked)
        tracked.leaves_digest.update(hashed.leaf)
        tracked.follow(entry)
        state.events += 1
        kind = entry.kind
        if kind == _COMMAND_END:
            state.commands += 1
            row = canonical.decode(entry.payload or b"{}")
            self.commands.append(self.command_row(row, tracked))
            self.ended += 1
        elif kind == _SESSION_CLOSE:
            tracked.close = canonical.decode(entry.payload or b"{}")
            tracked.close_event_no = entry.event_no
            del self.sessions[entry.session_id]
            self.closed += 1
            told = closed_session(state, tracked.close["closed_at"])
            self.closed_sessions.append(leaf_hash(told))
        elif kind == _DECISION:
            self.decisions.append(canonical.decode(entry.payload or b"{}"))
        elif kind == _ACCESS:
            self.access.append(canonical.decode(entry.payload or b"{}"))
        side = entry.side
        if side is Side.TARGET:
            state.bytes_out += entry.orig_len
        elif side is Side.CLIENT:
            state.bytes_in += entry.orig_len
        if entry.extra:
            state.masked += len(entry.extra.get("spans", ()))
        return hashed

    def command_row(self, row: dict[str, Any], tracked: Tracked) -> dict[str, Any]:
        """Return a command's row with what it has from its session."""
        return {**row, **tracked.in_every_row}

    def session_rows(self) -> list[dict[str, Any]]:
        """Return a row for each session with events in this segment, in order of appearance."""
        return [tracked.row() for tracked in self.seen.values()]


def _hash(entry: Entry, session: OpenSession) -> Hashed:
    payload = leaves.payload_commit(session.key_p, entry.seq, entry.payload)
    text = leaves.text_commit(session.key_t, entry.seq, entry.text)
    return Hashed(leaves.event_leaf(entry, session.key_m, text, payload), payload)
