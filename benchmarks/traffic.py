"""Made-up traffic for an archive of any size: the journals that a gateway would have written.

Sessions are interleaved as they would be on the wire, and frames, headers and rows are encoded by
the archive's own code, so what is sealed from them verifies. Only what repeats is made once: a
statement's shape gives the template of its command's row, and payloads are cut out of one long
text. The same seed gives the same bytes, but for the keyed hash of a user's name.

Lengths of what passes on the wire follow `LENGTHS`, scaled to the mean that is asked for; the rows
of commands come on top of that.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import exp, log
from pathlib import Path
from random import Random
from uuid import UUID

from agentaudit.archive import canonical
from agentaudit.archive.journal import FIXED, NO_STATUS, Header, OpenSession, encode_frame
from agentaudit.archive.rows import command_row, encode, session_close_row, session_facts
from agentaudit.model import Command, Flag, Kind, SessionFacts

LENGTHS = (
    (0.0, 12),
    (0.5, 151),
    (0.75, 300),
    (0.9, 844),
    (0.95, 1_320),
    (0.99, 2_600),
    (0.999, 7_000),
    (1.0, 40_000),
)
"""Quantiles of the bytes of a request or response, log-linear between them: `MEAN` in the mean."""

MEAN = 349
WIRE_MEAN = 229
"""The mean of requests and responses with which, rows of commands counted too, all have `MEAN`.

They come out at 250, for a statement is never shorter than what makes it one.
"""

EVENTS_A_SESSION = 200
MEAN_GAP_US = 28_500
"""35 events a second: 20 million are seven days, and an hour is about one row group."""

RARE_TEXT = "DROP TABLE"
"""One request in `_RARE` has it, to be looked for."""

BEGAN_US = 1_767_571_200_000_000  # 5 January 2026, UTC

_RARE = 10_000
_OPEN_SESSIONS = 240
_CORPUS_BYTES = 32 << 20
_FLUSH_FRAMES = 4096

_SESSION_OPEN, _SESSION_CLOSE = int(Kind.SESSION_OPEN), int(Kind.SESSION_CLOSE)
_REQUEST, _RESPONSE = int(Kind.REQUEST), int(Kind.RESPONSE)
_COMMAND_END, _NOTICE = int(Kind.COMMAND_END), int(Kind.NOTICE)
_FROM_TARGET = int(Flag.FROM_TARGET)

# What a session may do next, and how many events it then needs to come to its close.
_NEW, _IDLE, _ASKED, _ANSWERED = range(4)

# What a row's template has in the place of what differs. None is part of another.
_NUMBERS = {
    "bytes_in": 1_900_000_001,
    "bytes_out": 1_900_000_002,
    "command_no": 1_900_000_003,
    "duration_us": 1_900_000_004,
    "ended_at": 1_900_000_005,
    "first_event_no": 1_900_000_006,
    "last_event_no": 1_900_000_007,
    "started_at": 1_900_000_008,
    "txn_no": 1_900_000_009,
}
_TEXT = "(text)"


@dataclass(slots=True)
class _Shape:
    """A statement but for its values, and the rows that its executions make."""

    text: bytes
    done: bytes
    failed: bytes


@dataclass(slots=True)
class _Open:
    """One session under way, and the command that it is at."""

    state: OpenSession
    left: int
    step: int = _NEW
    shape: _Shape | None = None
    text: bytes = b""
    bytes_in: int = 0
    bytes_out: int = 0
    started_us: int = 0
    first_event_no: int = 0


@dataclass(slots=True)
class Totals:
    """What was made so far; `wire_*` are of requests and responses alone."""

    events: int = 0
    sessions: int = 0
    commands: int = 0
    payload_bytes: int = 0
    wire_events: int = 0
    wire_bytes: int = 0
    requests: int = 0
    rare: int = 0


class Traffic:
    """A gateway's traffic of `events` events, a journal at a time."""

    def __init__(
        self, events: int, *, gateway: str, seed: int, wire_mean: int, people: Callable[[str], str]
    ) -> None:
        """Make what repeats; `people` gives the keyed hash of a user's name."""
        self.totals = Totals()
        self.next_event_no = 0
        self.now_us = BEGAN_US
        self._events = events
        self._gateway = gateway
        self._people = people
        self._rng = rng = Random(seed)  # no secret, and the same again next time
        self._corpus = _corpus(rng, min(_CORPUS_BYTES, max(1 << 20, events * 64)))
        self._shapes = _shapes(rng)
        self._sizes = [len(shape.text) for shape in self._shapes]
        self._drop = _shape("DROP", "schema", f"{RARE_TEXT} scratch_", ["scratch"], [])
        self._request_lengths, self._response_lengths = _lengths(wire_mean)
        self._users = [f"{a}.{b}" for a in _NAMES for b in _SURNAMES]
        self._control = self._begin(control=True)
        slots = max(2, min(_OPEN_SESSIONS, events // (2 * EVENTS_A_SESSION)))
        self._active = [self._begin() for _ in range(slots)]
        self._owed = 1
        self._frames: list[bytes] = []

    def write_journal(self, path: Path, events: int) -> UUID:
        """Write the next segment's journal, of `events` events, to `path`; return its segment.

        Where it reaches the number of events that there are to be, all sessions close.
        """
        sessions = [self._control, *self._active]
        header = Header(
            segment=self._uuid(),
            first_event_no=self.next_event_no,
            marker=self._rng.randbytes(16),
            sessions=tuple(one.state for one in sessions if one.step != _NEW),
        )
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(header.encode())
            end = self.next_event_no + events
            self._marker, self._file = header.marker, file
            self._frames.clear()
            if self.next_event_no == 0:
                self._open(self._control)
            is_last = end >= self._events
            self._run(min(end, self._events), is_last=is_last)
            if is_last:
                self._close_all()
            file.write(b"".join(self._frames))
            # A gateway has synced what it hands over: that is no work of the sealer's.
            file.flush()
            os.fsync(file.fileno())
            self.totals.events = self.next_event_no
        return header.segment

    def empty_header(self) -> Header:
        """Return the header of the journal that follows the last one, and holds nothing."""
        return Header(self._uuid(), self.next_event_no, self._rng.randbytes(16))

    # --- what happens

    def _run(self, end: int, *, is_last: bool) -> None:
        active, random = self._active, self._rng.random
        count = len(active)
        steps = {
            _NEW: self._open,
            _IDLE: self._ask,
            _ASKED: self._answer,
            _ANSWERED: self._end,
        }
        while self.next_event_no < end - (self._owed + 2 if is_last else 0):
            slot = int(random() * count)
            one = active[slot]
            if one.step == _IDLE and one.left == 0:
                self._close(one, "client")
                active[slot] = self._begin()
            else:
                steps[one.step](one)
            if len(self._frames) >= _FLUSH_FRAMES:
                self._file.write(b"".join(self._frames))
                self._frames.clear()

    def _close_all(self) -> None:
        """End all sessions; the notices before that make the number of events what was asked."""
        for _ in range(self._events - self.next_event_no - self._owed):
            self._append(self._control.state, _NOTICE, text=b"shutdown", flags=_FROM_TARGET)
        for one in self._active:
            if one.step == _ASKED:
                self._answer(one)
            if one.step == _ANSWERED:
                self._end(one)
            if one.step == _IDLE:
                self._close(one, "shutdown")
        self._close(self._control, "shutdown")

    def _append(
        self,
        state: OpenSession,
        kind: int,
        *,
        command_no: int = -1,
        text: bytes | None = None,
        payload: bytes | None = None,
        orig_len: int = 0,
        flags: int = 0,
        extra: bytes = b"",
    ) -> int:
        event_no = self.next_event_no
        size = 0 if payload is None else len(payload)
        self.totals.payload_bytes += size
        chance = self._rng.random()
        self.now_us += int(chance * 2 * MEAN_GAP_US)
        fixed = FIXED.pack(
            event_no,
            self.now_us,
            # As a monotonic clock that began an hour before, to the nanosecond.
            (self.now_us - BEGAN_US + 3_600_000_000) * 1000 + int(chance * 1e9) % 1000,
            state.session_id.bytes,
            state.events,
            command_no,
            kind,
            flags,
            NO_STATUS,
            orig_len,
            size,
        )
        self._frames.append(encode_frame(self._marker, fixed, text, payload, extra))
        self.next_event_no = event_no + 1
        state.events += 1
        return event_no

    def _open(self, one: _Open) -> None:
        state = one.state
        state.session_id = self._uuid()
        state.opened_us = self.now_us
        state.open_event_no = self.next_event_no
        keys = {"key_m": state.key_m.hex(), "key_t": state.key_t.hex(), "key_p": state.key_p.hex()}
        self._append(
            state, _SESSION_OPEN, payload=encode(state.facts), extra=canonical.encode(keys)
        )
        state.opened_us = self.now_us
        one.step = _IDLE
        self._owed += one is not self._control
        self.totals.sessions += 1

    def _ask(self, one: _Open) -> None:
        random = self._rng.random
        length = self._request_lengths[int(random() * len(self._request_lengths))] - 6
        if random() * _RARE < 1:
            one.shape = shape = self._drop
            self.totals.rare += 1
        else:
            last = bisect_right(self._sizes, max(length - 8, self._sizes[0]))
            # One of the longest that fit: half of what is asked is a shape, the rest its values.
            one.shape = shape = self._shapes[int(last * (0.5 + random() / 2))]
        text = b"%s%d" % (shape.text, int(random() ** 3 * 1_000_000))
        if (room := length - len(text) - 13) > 0:
            start = int(random() * (len(self._corpus) - room))
            text = b"%s AND note = '%s'" % (text, self._corpus[start : start + room])
        one.text = text
        payload = b"Q%s%s\0" % ((len(text) + 5).to_bytes(4), text)
        one.bytes_in = len(payload)
        one.started_us = self.now_us
        one.first_event_no = self._append(
            one.state,
            _REQUEST,
            command_no=one.state.commands,
            text=text,
            payload=payload,
            orig_len=len(payload),
        )
        self._passed(len(payload))
        one.state.bytes_in += len(payload)
        one.step = _ASKED
        self._owed += 2
        self.totals.requests += 1

    def _answer(self, one: _Open) -> None:
        random = self._rng.random
        length = self._response_lengths[int(random() * len(self._response_lengths))]
        room = max(0, length - 31)
        start = int(random() * (len(self._corpus) - room))
        payload = b"D%s\0\1%s%sC\0\0\0\rSELECT 1\0Z\0\0\0\5I" % (
            (room + 10).to_bytes(4),
            room.to_bytes(4),
            self._corpus[start : start + room],
        )
        one.bytes_out = len(payload)
        self._append(
            one.state,
            _RESPONSE,
            command_no=one.state.commands,
            payload=payload,
            orig_len=len(payload),
            flags=_FROM_TARGET,
        )
        self._passed(len(payload))
        one.state.bytes_out += len(payload)
        one.step = _ANSWERED
        self._owed -= 1

    def _end(self, one: _Open) -> None:
        state, shape = one.state, one.shape
        assert shape is not None
        template = shape.failed if self.next_event_no % 37 == 0 else shape.done
        payload = template % (
            one.bytes_in,
            one.bytes_out,
            state.commands,
            self.now_us - one.started_us,
            self.now_us,
            one.first_event_no,
            self.next_event_no - 1,
            one.started_us,
            one.text[:65_536],
            state.commands + 1,
        )
        self._append(state, _COMMAND_END, command_no=state.commands, payload=payload)
        state.commands += 1
        one.left -= 1
        one.step = _IDLE
        self._owed -= 1
        self.totals.commands += 1

    def _close(self, one: _Open, reason: str) -> None:
        state = one.state
        row = session_close_row(
            reason=reason,
            closed_us=self.now_us,
            last_seq=state.events,
            commands=state.commands,
            bytes_in=state.bytes_in,
            bytes_out=state.bytes_out,
            masked=state.masked,
        )
        self._append(state, _SESSION_CLOSE, payload=canonical.encode(row))
        self._owed -= 1

    def _passed(self, size: int) -> None:
        totals = self.totals
        totals.wire_events += 1
        totals.wire_bytes += size

    # --- who

    def _begin(self, *, control: bool = False) -> _Open:
        """Return a session that has not opened yet, so that its id is of about then."""
        rng = self._rng
        if control:
            facts = SessionFacts(protocol="agentaudit")
        else:
            # A few do most of the work, as everywhere.
            number = int(rng.random() ** 2 * len(self._users))
            agent = _AGENTS[number % len(_AGENTS)]
            target = _TARGETS[int(rng.random() ** 2 * len(_TARGETS))]
            facts = SessionFacts(
                protocol="postgres",
                target=target,
                user=self._users[number],
                issuer="https://id.bench.invalid",
                groups=("data-agents",),
                agent=agent,
                actor_chain=(self._users[number],),
                run_id=f"run-{rng.getrandbits(32):08x}",
                labels={"application_name": f"{agent}/nightly"},
                client_addr=f"192.0.2.{rng.randrange(1, 255)}:{rng.randrange(32768, 61000)}",
                client_app=f"{agent}/nightly",
                gateway_port=6432,
                target_addr=f"198.51.100.{1 + _TARGETS.index(target)}:5432",
                target_pid=rng.randrange(1000, 4_000_000),
            )
        members = session_facts(facts, self._gateway)
        if facts.user:
            members["user_hmac"] = self._people(facts.user)
        state = OpenSession(
            session_id=self._uuid(),
            facts=members,
            key_m=rng.randbytes(32),
            key_t=rng.randbytes(32),
            key_p=rng.randbytes(32),
            opened_us=self.now_us,
            open_event_no=0,
        )
        return _Open(state, left=1 + int(rng.expovariate(3 / EVENTS_A_SESSION)))

    def _uuid(self) -> UUID:
        """Return a UUIDv7 of this traffic's own time and chance."""
        value = (self.now_us // 1000) << 80 | 0x7 << 76 | self._rng.getrandbits(12) << 64
        return UUID(int=value | 0b10 << 62 | self._rng.getrandbits(62))


def wire_payloads(seed: int, count: int) -> list[bytes]:
    """Return what passed in this many requests and responses, by their lengths alone."""
    rng = Random(seed)
    corpus = _corpus(rng, 1 << 20)
    lengths = [length for half in _lengths(MEAN) for length in half]
    payloads = []
    for length in rng.choices(lengths, k=count):
        start = rng.randrange(len(corpus) - length)
        payloads.append(corpus[start : start + length])
    return payloads


# --- what is made once

_NAMES = ("ana", "bo", "chidi", "dara", "emil", "fatou", "goran", "hana")
_SURNAMES = ("ito", "keller", "lund", "moreau", "novak")
_AGENTS = ("report-bot", "copilot", "etl-agent", "triage", "planner", "support-agent")
_TARGETS = ("orders", "billing", "warehouse", "crm", "ledger", "events", "hr", "search")
_TABLES = (
    "orders", "order_lines", "customers", "payments", "invoices", "tickets", "shipments",
    "products", "prices", "stock", "sessions", "audit_trail",
)  # fmt: skip
_COLUMNS = (
    "id", "customer_id", "status", "placed_at", "total", "note", "email", "city", "country",
    "created_at", "updated_at", "quantity", "price", "sku", "weight", "carrier", "due_at",
)  # fmt: skip


def _corpus(rng: Random, size: int) -> bytes:
    """Return text like that of rows of a database; zstd makes about a quarter of it."""
    heads = ("b", "br", "c", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v")
    tails = ("an", "ar", "e", "el", "en", "er", "i", "il", "in", "o", "on", "or", "ta", "u", "um")
    words = [
        "".join(rng.choice(heads) + rng.choice(tails) for _ in range(rng.randint(1, 4)))
        for _ in range(3_000)
    ]
    words += [str(rng.randrange(10 ** rng.randint(1, 6))) for _ in range(600)]
    words += ["", "|", "|", "active", "pending", "2026-01-05", "2026-01-06", "EUR", "t", "f"] * 4
    rng.shuffle(words)
    weights = [1 / (rank + 3) ** 1.18 for rank in range(len(words))]
    text = " ".join(rng.choices(words, weights, k=size // 3)).encode()
    return text[:size]


def _shapes(rng: Random) -> list[_Shape]:
    """Return statements of many lengths, shortest first; each ends where a number belongs."""
    shapes = [
        _shape("SELECT", "read", "SELECT ", [], ["?column?"]),
        _shape("SHOW", "session", "SHOW w", [], ["work_mem"]),
    ]
    while len(shapes) < 600:
        table = rng.choice(_TABLES)
        columns = rng.sample(_COLUMNS, rng.randint(1, len(_COLUMNS)))
        joined = rng.sample(_TABLES, rng.randint(0, 3))
        if rng.random() < 0.8:
            joins = "".join(f" JOIN {one} USING (order_id)" for one in joined)
            text = f"SELECT {', '.join(columns)} FROM {table}{joins} WHERE {columns[0]} = "
            made = _shape("SELECT", "read", text, [table, *joined], columns)
        else:
            values = " = $1, ".join(columns)
            text = f"UPDATE {table} SET {values} = $1 WHERE {columns[0]} = "
            made = _shape("UPDATE", "write", text, [table], [])
        shapes.append(made)
    return sorted(shapes, key=lambda shape: len(shape.text))


def _shape(operation: str, cls: str, text: str, tables: list[str], columns: list[str]) -> _Shape:
    command = Command(
        command_no=_NUMBERS["command_no"],
        text=_TEXT,
        operation=operation,
        cls=cls,
        fingerprint=sha256(text.encode()).hexdigest()[:16],
        resources=tuple(f"public.{table}" for table in tables),
        columns=tuple(columns),
        confidence="certain",
        parser="pglast 8.8",
        status="ok",
        rows_returned=1 if columns else None,
        rows_affected=None if columns else 1,
        txn_no=_NUMBERS["txn_no"],
        txn_status="I",
        bytes_in=_NUMBERS["bytes_in"],
        bytes_out=_NUMBERS["bytes_out"],
        started_at_us=_NUMBERS["started_at"],
        first_event_no=_NUMBERS["first_event_no"],
        last_event_no=_NUMBERS["last_event_no"],
    )
    done = _template(command)
    command.status, command.error_code = "error", "57014"
    command.error_text = "canceling statement due to statement timeout"
    command.columns, command.rows_returned, command.rows_affected = (), None, None
    return _Shape(text.encode(), done, _template(command))


def _template(command: Command) -> bytes:
    """Return the row of `command` with a place for each value that differs, in canonical order."""
    row = command_row(
        command,
        ended_us=_NUMBERS["ended_at"],
        duration_us=_NUMBERS["duration_us"],
    ).replace(b"%", b"%%")
    for number in _NUMBERS.values():
        row = row.replace(str(number).encode(), b"%d")
    return row.replace(_TEXT.encode(), b"%s")


def _lengths(mean: int) -> tuple[list[int], list[int]]:
    """Return lengths to draw requests' and responses' from: `LENGTHS`, scaled to their `mean`.

    The shorter of them are rather requests: a statement is shorter than what it returns.
    """
    steps = 40_000
    requests: list[int] = []
    responses: list[int] = []
    share = 0.0
    for number in range(steps):
        length = max(LENGTHS[0][1], _quantile((number + 0.5) / steps) * mean / MEAN)
        share += 1 / (1 + length / 128)
        if share >= 1:
            share -= 1
            requests.append(round(length))
        else:
            responses.append(round(length))
    return requests, responses


def _quantile(share: float) -> float:
    for (low, shorter), (high, longer) in pairwise(LENGTHS):
        if share <= high:
            return exp(log(shorter) + (share - low) / (high - low) * log(longer / shorter))
    return LENGTHS[-1][1]
