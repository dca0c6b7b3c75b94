"""One sealed segment, row by row: every leaf, root and table made again from its events.

What is found goes to the caller; nothing here reads the log or believes more than the seal.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit import _native
from agentaudit.archive import canonical
from agentaudit.archive.batch import BATCH_ROWS, Batch
from agentaudit.archive.columns import EventColumns
from agentaudit.archive.merkle import Frontier
from agentaudit.archive.segment import read_batches, table_of
from agentaudit.archive.tracker import Hashes, Tracked, Tracker
from agentaudit.archive.verification import Found
from agentaudit.errors import TamperedError

_KEY_COLUMNS = ("key_m", "key_t", "key_p")


class RowsCheck:
    """Checks the segments of one gateway's log, which must come in their order."""

    def __init__(self, root: Path, tracker: Tracker, found: Found) -> None:
        self._root = root
        self._tracker = tracker
        self._found = found

    def check(self, seal: dict[str, Any], place: str, ticks: dict[int, bytes]) -> None:
        """Recompute leaves, roots, rows and columns of one segment from its events."""
        root, tracker = self._root, self._tracker
        files = {table: root / file["path"] for table, file in seal["files"].items()}
        keys = _session_keys(files["sessions"])
        tracker.begin_segment()
        tree = Frontier()
        columns = EventColumns(tracker.gateway)
        stored = {table: _Rows(files.get(table)) for table in ("blobs", "commands")}
        first = seal["first_event"]
        first_us: int | None = None

        def closing(batch: Batch, row: int, tracked: Tracked) -> None:
            where = f"{place} row {batch.event_no(row) - first}"
            self._check_close(batch.payloads[row] or b"{}", tracked, where)

        for batch in read_batches(files["events"], files.get("blobs")):
            first_us = batch.observed_us(0) if first_us is None else first_us
            hashes = tracker.add_sealed(batch, lambda _, run: keys[run.session_id], closing)
            columns.add(batch, hashes)
            for leaves in self._in_order(batch, hashes, tree, first, place):
                for size in tree.stops(leaves, tuple(ticks)):
                    if ticks.pop(size) != tree.root():
                        where = f"{place} row {size - 1}"
                        self._found("tick", where, "does not hash to the root that was ticked here")
            if tree.size != batch.event_no(batch.rows - 1) + 1 - first:
                return
            self._compare_rows(columns, batch, hashes, stored, place)
        for table, rows in stored.items():
            if rows.has_more:
                self._found("columns", place, f"{table} has rows that no event accounts for")
        if tree.size != seal["n"] or tree.root().hex() != seal["root"]:
            self._found(
                "leaf",
                place,
                f"{tree.size} events hash to {tree.root().hex()[:8]}…",
                f"{seal['n']} and {seal['root'][:8]}… as sealed",
            )
        if (first_us, columns.last_us) != (seal["first_at"], seal["last_at"]):
            self._found("tables", place, "its seal says other times than its events")
        for table, path in files.items():
            rows = pq.read_metadata(path).num_rows
            if rows != seal["files"][table]["rows"]:
                self._found(
                    "tables", place, f"{table} has {rows} rows, its seal says another number"
                )
        self._check_tables(files, seal, place)

    def _in_order(
        self, batch: Batch, hashes: Hashes, tree: Frontier, first: int, place: str
    ) -> Iterator[memoryview]:
        """Yield the leaf hashes of a batch, in pieces that follow on what the tree has by then.

        Ends where an event is missing and nothing accounts for it, which is a finding.
        """
        leaves = memoryview(hashes.leaves)
        numbers = _event_numbers(batch)
        row = 0
        while row < batch.rows:
            expected = first + tree.size
            if numbers[row] != expected:
                # Here what is known of purged events comes in: their leaf hashes, from a residue.
                where = f"{place} row {tree.size}"
                self._found("rows", where, f"event {numbers[row]}", f"event {expected}")
                return
            end = _run_end(numbers, row)
            yield leaves[32 * row : 32 * end]
            row = end

    def _compare_rows(
        self,
        columns: EventColumns,
        batch: Batch,
        hashes: Hashes,
        stored: dict[str, _Rows],
        place: str,
    ) -> None:
        """Hold what the events of a batch say against what is stored of them."""
        found: pa.RecordBatch | pa.Table | None
        for table, expected in columns.take().items():
            found = batch.stored if table == "events" else stored[table].take(expected.num_rows)
            if found is None:
                continue
            if found.schema.names != expected.column_names:
                self._found("columns", place, f"{table} has other columns than the format")
                continue
            for name in expected.column_names:
                if name == "payload_commit":
                    self._check_commits(batch, hashes, place)
                if not _equal(expected.column(name), found.column(name)):
                    self._found("columns", place, f"{table}.{name} is not what its events say")

    def _check_commits(self, batch: Batch, hashes: Hashes, place: str) -> None:
        """Hold each stored commitment against the payload that it is of."""
        assert batch.stored is not None
        commits = batch.stored.column("payload_commit")
        for row in pc.indices_nonzero(commits.is_valid()).to_pylist():
            if commits[row].as_py() != hashes.payload_commits[32 * row : 32 * row + 32]:
                where = f"{place} event {batch.event_no(row)}"
                self._found("leaf", where, "payload_commit is not that of its payload")

    def _check_close(self, payload: bytes, tracked: Tracked, where: str) -> None:
        close, state = canonical.decode(payload), tracked.state
        if close.get("leaves_sha256") != tracked.leaves_digest.hexdigest():
            self._found("session", where, "session_close does not cover its session's leaves")
        counts = {
            "events": state.events + 1,
            "last_seq": state.events,
            "commands": state.commands,
            "bytes_in": state.bytes_in,
            "bytes_out": state.bytes_out,
            "masked": state.masked,
        }
        for name, count in counts.items():
            if close.get(name) != count:
                seen = f"session_close counts {close.get(name)} {name}"
                self._found("session", where, seen, str(count))

    def _check_tables(self, files: dict[str, Path], seal: dict[str, Any], place: str) -> None:
        tracker = self._tracker
        rebuilt = {
            "sessions": tracker.session_rows(),
            "decisions": tracker.decisions,
            "access": tracker.access,
        }
        for name, values in rebuilt.items():
            if name not in files:
                if values:
                    self._found("tables", place, f"no {name} file", f"{len(values)} rows")
                continue
            if not _equal_tables(table_of(name, values), pq.read_table(files[name])):
                self._found("tables", place, f"{name} is not what its events say")
        counts = {
            "sessions_opened": tracker.opened,
            "sessions_closed": tracker.closed,
            "sessions_open": len(tracker.sessions),
            "commands": tracker.ended,
            "decisions": len(tracker.decisions),
        }
        if seal["sessions_root"] != tracker.closed_sessions.root().hex():
            self._found("tables", place, "its seal's sessions_root is not of its sessions")
        for name, count in counts.items():
            if seal[name] != count:
                self._found("tables", place, f"its seal counts {seal[name]} {name}", str(count))


class _Rows:
    """The stored rows of a table, from the first on."""

    def __init__(self, path: Path | None) -> None:
        self._batches = iter(()) if path is None else _batches(path)
        self._ahead: pa.Table | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is a row that was not taken yet."""
        while self._ahead is None or not self._ahead.num_rows:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._ahead = pa.Table.from_batches([batch])
        return True

    def take(self, count: int) -> pa.Table | None:
        """Return the next `count` rows, None for none.

        Raises:
            TamperedError: there are not as many.
        """
        parts: list[pa.Table] = []
        while count > 0:
            if not self.has_more or self._ahead is None:
                raise TamperedError(f"{count} rows fewer than its events make")
            part = self._ahead.slice(0, count)
            self._ahead = self._ahead.slice(part.num_rows)
            parts.append(part)
            count -= part.num_rows
        return pa.concat_tables(parts) if parts else None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def _session_keys(path: Path) -> dict[bytes, dict[str, bytes]]:
    table = pq.read_table(path, columns=["session_id", *_KEY_COLUMNS])
    ids = [chunk.storage for chunk in table.column("session_id").chunks]
    session_ids = [value for chunk in ids for value in chunk.to_pylist()]
    keys = [table.column(name).to_pylist() for name in _KEY_COLUMNS]
    return {
        session_id: dict(zip(_KEY_COLUMNS, row, strict=True))
        for session_id, row in zip(session_ids, zip(*keys, strict=True), strict=True)
    }


def _event_numbers(batch: Batch) -> memoryview:
    return memoryview(_native.unpack(batch.fixed)[0]).cast("q")


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


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray | pa.Array) -> bool:
    if isinstance(right, pa.Array):
        right = pa.chunked_array([right])
    if pa.types.is_dictionary(left.type):
        left, right = left.cast(pa.string()), right.cast(pa.string())
    return bool(left.equals(right))


def _equal_tables(left: pa.Table, right: pa.Table) -> bool:
    return left.column_names == right.column_names and all(
        _equal(left.column(name), right.column(name)) for name in left.column_names
    )
