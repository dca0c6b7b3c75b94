"""Events by the thousand: the form in which they are sealed, verified and read live.

The surprising decision: on the way from a journal to Parquet, and back in a verification, there
is no object for an event. A `Batch` is a run of events as buffers: 72 bytes of fixed fields each,
in one piece; texts and payloads as places in the buffer that they were read into; and what is
rare (spans, a session's keys, a value that lies elsewhere) by row, in dictionaries.
`agentaudit._native` does what must be done for each event. `Batch.entry` makes the object of one,
for the few that something in Python looks at; `Batch.entries` those of all, slowly.

Batches come from `JournalReader.batches` and `segment.read_batches`; `Tracker.add_journaled` and
`add_sealed` hash them, `EventColumns.add` makes rows of them. For what an archive no longer holds:

- a payload that was purged: `given` and `given_data` say what its leaf needs, see there.
- events that are gone: a batch does not have them, its event numbers have a gap there, and
  `RowsCheck` asks `missing` for their leaf hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from agentaudit import _native
from agentaudit.model import Flag, Kind, Side

BATCH_ROWS = 16_384
BATCH_BYTES = 16 << 20
INLINE_PAYLOAD_BYTES = 8 * 1024
NO_STATUS = -(2**31)

FIXED = struct.Struct(">QqQ16sIiHHiQQ")
"""The leaf's fixed fields: event_no, observed_at_us, mono_ns, session_id, seq, command_no, kind,
flags, status, orig_len, stored_len."""

_PLACE = struct.Struct("=qq")
_ELSEWHERE = -2
_STORED_LEN_AT = FIXED.size - 8


@dataclass(slots=True)
class Entry:
    """One event as the journal holds it."""

    event_no: int
    observed_us: int
    mono_ns: int
    session_id: bytes
    seq: int
    command_no: int
    kind: int
    flags: int
    status: int
    orig_len: int
    stored_len: int
    text: bytes | None
    payload: bytes | None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> bytes:
        """The leaf's fixed fields, 72 bytes."""
        return FIXED.pack(
            self.event_no,
            self.observed_us,
            self.mono_ns,
            self.session_id,
            self.seq,
            self.command_no,
            self.kind,
            self.flags,
            self.status,
            self.orig_len,
            self.stored_len,
        )

    @property
    def side(self) -> Side | None:
        """Who sent it, or None for what belongs to no side."""
        if self.kind not in _SIDED:
            return None
        return Side.TARGET if self.flags & Flag.FROM_TARGET else Side.CLIENT


_SIDED = frozenset(
    int(kind) for kind in (Kind.REQUEST, Kind.RESPONSE, Kind.CONTENT, Kind.NOTICE, Kind.REFUSED)
)


class Run(NamedTuple):
    """What a batch has of one session; `first` and `last` are rows."""

    session_id: bytes
    first: int
    last: int
    rows: int
    first_seq: int
    opens: bool
    closes: bool
    commands: int
    bytes_in: int
    bytes_out: int


@dataclass(slots=True)
class Values:
    """The texts or the payloads of a batch.

    `places` has two int64 a row: offset and length in `data`. Length -1 is null; -2 says that
    `elsewhere[row]` has the bytes.
    """

    places: bytearray
    data: bytes | memoryview
    elsewhere: dict[int, bytes] = field(default_factory=dict)

    @property
    def raw(self) -> tuple[bytearray, bytes | memoryview, dict[int, bytes]]:
        """As `agentaudit._native` takes them."""
        return self.places, self.data, self.elsewhere

    def __getitem__(self, row: int) -> bytes | None:
        at, length = _PLACE.unpack_from(self.places, row * _PLACE.size)
        if length == _ELSEWHERE:
            return self.elsewhere[row]
        return None if length < 0 else bytes(self.data[at : at + length])

    def __setitem__(self, row: int, value: bytes) -> None:
        _PLACE.pack_into(self.places, row * _PLACE.size, 0, _ELSEWHERE)
        self.elsewhere[row] = value


class Batch:
    """A run of events, in the order of their numbers.

    `slots` has an int32 a row, which of `runs` it is of; `ends` are the rows of kind command_end,
    `others` those of decision and access. `stored` is the rows of the Parquet file that it was
    read from. `extras` has, by row, what a frame says beside its fields: `spans`, or keys.

    `given` has a byte a row, `given_data` 32 bytes: 1, they are the commitment of a payload that
    is gone; 2, the first 16 of them are the salt of one that outlived its key; 0, nothing is.
    """

    __slots__ = (
        "broken",
        "ends",
        "extras",
        "fixed",
        "given",
        "given_data",
        "others",
        "payloads",
        "rows",
        "runs",
        "slots",
        "stored",
        "texts",
    )

    def __init__(
        self,
        fixed: bytearray,
        texts: Values,
        payloads: Values,
        extras: dict[int, dict[str, Any]],
        stored: pa.RecordBatch | None = None,
    ) -> None:
        self.rows = len(fixed) // FIXED.size
        self.fixed = fixed
        self.texts = texts
        self.payloads = payloads
        self.extras = extras
        self.stored = stored
        self.given: bytes | bytearray | None = None
        self.given_data: bytes | bytearray | None = None
        slots, runs, ends, others, broken = _native.assign(fixed)
        self.slots: bytearray = slots
        self.runs = [Run(*run) for run in runs]
        self.ends: list[int] = ends
        self.others: list[int] = others
        self.broken: int = broken

    @property
    def slot_of(self) -> memoryview:
        """The slot of each row, as integers."""
        return memoryview(self.slots).cast("i")

    def entry(self, row: int) -> Entry:
        """Return the event in `row`."""
        fields: tuple[Any, ...] = FIXED.unpack_from(self.fixed, row * FIXED.size)
        values: tuple[Any, ...] = (self.texts[row], self.payloads[row], self.extras.get(row, {}))
        return Entry(*fields, *values)

    def entries(self) -> Iterator[Entry]:
        """Yield every event."""
        return map(self.entry, range(self.rows))

    def event_no(self, row: int) -> int:
        """Return the number of the event in `row`."""
        return int.from_bytes(self.fixed[row * FIXED.size : row * FIXED.size + 8])

    def observed_us(self, row: int) -> int:
        """Return when the event in `row` was observed."""
        at = row * FIXED.size + 8
        return int.from_bytes(self.fixed[at : at + 8], signed=True)

    def put_payload(self, row: int, payload: bytes) -> None:
        """Give the event in `row` another payload, and its `stored_len` with it."""
        self.payloads[row] = payload
        at = row * FIXED.size + _STORED_LEN_AT
        self.fixed[at : at + 8] = len(payload).to_bytes(8)

    def spans(self) -> Mapping[int, list[dict[str, Any]]]:
        """Return the masked spans of the rows that have any."""
        return {row: extra["spans"] for row, extra in self.extras.items() if extra.get("spans")}
