"""What purges have left of what is gone: leaf hashes of rows, salts of payloads.

A segment is still hashed as a whole. Where rows are gone their leaf hashes stand in, from the
residue; where a payload is gone its commitment does, from its row; and a payload that outlived its
session's key, because it is a row of ours, is hashed with the salt that was kept of it.

Format: docs/formats/archive.md, "Purges"
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit import _native
from agentaudit.archive import leaves
from agentaudit.archive.batch import Batch
from agentaudit.archive.layout import Layout
from agentaudit.archive.merkle import HASH_BYTES, Frontier
from agentaudit.archive.retention import Remains
from agentaudit.archive.segment import SCHEMAS
from agentaudit.errors import TamperedError

KEPT_KINDS = frozenset(
    {"session_open", "session_close", "command_end", "decision", "access", "purge", "legal_hold"}
)
"""What these have as payload is a row of ours, not bytes that passed: it outlives payloads."""

KEY_COLUMNS = ("key_m", "key_t", "key_p")
_ABSENT_KEY = bytes(32)
_BATCH_ROWS = 16_384
_COMMITMENT, _SALT = 1, 2

Keys = Mapping[bytes, Mapping[str, bytes | None]]


@dataclass(slots=True)
class Gaps:
    """Leaf hashes, 32 bytes each, of rows that are gone, by ascending leaf index; and salts."""

    indices: array[int] = field(default_factory=lambda: array("q"))
    hashes: bytearray = field(default_factory=bytearray)
    salts: dict[int, bytes] = field(default_factory=dict)

    def between(self, start: int, end: int) -> memoryview | None:
        """Return the hashes of leaves `start` to `end` - 1, None where one of them is not known."""
        at = bisect_left(self.indices, start)
        count = end - start
        if count == 0:
            return memoryview(b"")
        # They ascend and differ, so the ends of a stretch say whether it is whole.
        is_whole = (
            0 < count <= len(self.indices) - at
            and self.indices[at] == start
            and self.indices[at + count - 1] == end - 1
        )
        if not is_whole:
            return None
        return memoryview(self.hashes)[HASH_BYTES * at : HASH_BYTES * (at + count)]

    def add_residue(self, path: Path, rows: int | None = None) -> None:
        """Take in a residue file, which has `rows` rows.

        Raises:
            OSError, pyarrow.ArrowException: it is not there, or not Parquet.
            ValueError: it does not hold what the format says, or a leaf that is known.
        """
        known = len(self.indices)
        for batch in _batches(path, "residue", rows):
            indices, hashes = (column.to_pylist() for column in batch.columns)
            self.indices.extend(indices)
            self.hashes += b"".join(hashes)
        if known and known < len(self.indices):
            self._sort()

    def _sort(self) -> None:
        order = sorted(range(len(self.indices)), key=self.indices.__getitem__)
        hashes = memoryview(bytes(self.hashes))
        self.indices = array("q", (self.indices[at] for at in order))
        self.hashes = bytearray().join(
            hashes[HASH_BYTES * at : HASH_BYTES * (at + 1)] for at in order
        )
        if any(a == b for a, b in zip(self.indices, self.indices[1:], strict=False)):
            raise ValueError("residue: a leaf twice")

    def add_salts(self, path: Path, rows: int | None = None) -> None:
        """Take in a salts file; raises as `add_residue`."""
        for batch in _batches(path, "salts", rows):
            indices, salts = (column.to_pylist() for column in batch.columns)
            self.salts.update(zip(indices, salts, strict=True))


def read_gaps(layout: Layout, segment: UUID, remains: Remains) -> Gaps:
    """Return what a segment's purges have left; raises as `Gaps.add_residue`."""
    gaps = Gaps()
    for number, file in remains.residues:
        gaps.add_residue(layout.residue(segment, number), file["rows"])
    for number, file in remains.salts:
        gaps.add_salts(layout.salts(segment, number), file["rows"])
    return gaps


def _batches(path: Path, name: str, rows: int | None) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows; `rows` is how many there must be, known before any is read."""
    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(SCHEMAS[name]):
            raise ValueError(f"{name}: other columns")
        if rows is not None and file.metadata.num_rows != rows:
            raise ValueError(f"{name}: {file.metadata.num_rows} rows")
        last = -1
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            if batch.column(0).null_count or batch.column(1).null_count:
                raise ValueError(f"{name}: nulls")
            for index in batch.column(0).to_pylist():
                if index <= last:
                    raise ValueError(f"{name}: not in order")
                last = index
            yield batch


def read_keys(sessions: Path) -> dict[bytes, dict[str, bytes | None]]:
    """Return the three keys of each session in a segment's `sessions` file, None where purged."""
    table = pq.read_table(sessions, columns=["session_id", *KEY_COLUMNS])
    ids = [value for chunk in table.column("session_id").chunks for value in chunk.storage]
    keys = zip(*(table.column(name).to_pylist() for name in KEY_COLUMNS), strict=True)
    return {
        session_id.as_py(): dict(zip(KEY_COLUMNS, row, strict=True))
        for session_id, row in zip(ids, keys, strict=True)
    }


def give(batch: Batch, keys: Keys, gaps: Gaps, first_event: int) -> None:
    """Tell a batch of a sealed segment what its leaves need of payloads that are gone.

    Raises:
        TamperedError: a payload is there, and neither its key nor its salt.
    """
    assert batch.stored is not None
    commits = batch.stored.column("payload_commit")
    is_stripped = pc.and_(batch.stored.column("payload").is_null(), commits.is_valid())
    stripped = pc.indices_nonzero(is_stripped).to_pylist()
    keyless = {slot for slot, run in enumerate(batch.runs) if keys[run.session_id]["key_p"] is None}
    if not stripped and not keyless:
        return
    batch.given = bytearray(batch.rows)
    batch.given_data = bytearray(HASH_BYTES * batch.rows)
    for row in stripped:
        batch.given[row] = _COMMITMENT
        batch.given_data[HASH_BYTES * row : HASH_BYTES * (row + 1)] = commits[row].as_py()
    if not keyless:
        return
    is_there = batch.stored.column("payload").is_valid().to_pylist()
    for row, slot in enumerate(batch.slot_of):
        if slot in keyless and is_there[row]:
            event_no = batch.event_no(row)
            salt = gaps.salts.get(event_no - first_event)
            if salt is None:
                raise TamperedError(f"event {event_no}: a payload without key and salt")
            batch.given[row] = _SALT
            batch.given_data[HASH_BYTES * row : HASH_BYTES * row + len(salt)] = salt


def hash_batch(batch: Batch, keys: Keys) -> tuple[bytearray, bytearray]:
    """Return leaf hash and payload commitment, 32 bytes each, of a batch that `give` has seen.

    Raises:
        TamperedError: a session without keys.
    """
    digests = {row: leaves.spans_digest(spans) for row, spans in batch.spans().items()}
    return _native.hash_rows(
        batch.fixed,
        batch.texts.raw,
        batch.payloads.raw,
        batch.slots,
        b"".join(_packed(keys, run.session_id) for run in batch.runs),
        digests,
        batch.given,
        batch.given_data,
    )


def _packed(keys: Keys, session_id: bytes) -> bytes:
    parts = [keys.get(session_id, {}).get(name) for name in KEY_COLUMNS]
    if parts[0] is None or parts[1] is None:
        raise TamperedError(f"session {UUID(bytes=session_id)}: rows without its keys")
    return parts[0] + parts[1] + (parts[2] or _ABSENT_KEY)


def in_order(
    batch: Batch, hashes: bytearray, tree: Frontier, first_event: int, gaps: Gaps
) -> Generator[memoryview, None, int]:
    """Yield the leaf hashes of a batch, and of what is gone before its rows, piece by piece.

    Each piece follows on what the tree, which the caller extends by it, has by then. Returns how
    many rows did: fewer than there are where an event is missing and nothing accounts for it.
    """
    pieces = memoryview(hashes)
    numbers = memoryview(_native.unpack(batch.fixed)[0]).cast("q")
    row = 0
    while row < batch.rows:
        index = numbers[row] - first_event
        if index != tree.size:
            known = gaps.between(tree.size, index) if index > tree.size else None
            if known is None:
                return row
            yield known
        end = _run_end(numbers, row)
        yield pieces[HASH_BYTES * row : HASH_BYTES * end]
        row = end
    return row


def _run_end(numbers: memoryview, row: int) -> int:
    """Return where the consecutive numbers that begin at `row` end."""
    rest = len(numbers) - row
    begin, last = numbers[row], numbers[-1]
    if last - begin == rest - 1:
        dense = array("q", range(begin, last + 1))
        if numbers[row:] == memoryview(dense):
            return len(numbers)
    end = row + 1
    while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return end
