"""One sealed segment, row by row: every leaf, root and table made again from its events.

What is found goes to the caller; nothing here reads the log or believes more than the seal.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit.archive import canonical
from agentaudit.archive.batch import Batch
from agentaudit.archive.columns import EventColumns
from agentaudit.archive.gaps import (
    KEPT_KINDS,
    Gaps,
    Keys,
    give,
    in_order,
    read_gaps,
    read_keys,
)
from agentaudit.archive.layout import Layout
from agentaudit.archive.merkle import Frontier, GappedFrontier
from agentaudit.archive.retention import Remains
from agentaudit.archive.segment import (
    open_file,
    read_batches,
    read_rows,
    table_of,
    with_later_columns,
)
from agentaudit.archive.tracker import Hashes, Tracked, Tracker
from agentaudit.archive.verification import Found
from agentaudit.archive.verify_purges import Purged
from agentaudit.errors import TamperedError


class RowsCheck:
    """Checks the segments of one gateway's log, which must come in their order."""

    def __init__(self, root: Path, tracker: Tracker, found: Found) -> None:
        self._root = root
        self._tracker = tracker
        self._found = found

    def check(
        self,
        seal: dict[str, Any],
        place: str,
        ticks: dict[int, bytes],
        purged: Purged | None = None,
    ) -> None:
        """Recompute leaves, roots, rows and columns of one segment from its events.

        `purged` is what purges have taken of it; what they left of that stands in for it.
        """
        root, tracker = self._root, self._tracker
        purged = purged or Purged(Remains(seal["files"]))
        told = purged.remains.files
        files = {table: root / file["path"] for table, file in told.items()}
        if not self._are_as_many(files, seal, place, purged.remains):
            return
        gaps = read_gaps(Layout(root), UUID(seal["segment"]), purged.remains)
        keys = read_keys(files["sessions"])
        tracker.begin_segment()
        tracker.closed_sessions = GappedFrontier(sorted(purged.sessions.items()))
        tree = Frontier()
        columns = EventColumns(tracker.gateway)
        stored = {table: _Rows(files.get(table)) for table in ("blobs", "commands")}
        first = seal["first_event"]
        first_us: int | None = None

        def closing(batch: Batch, row: int, tracked: Tracked) -> None:
            where = f"{place} row {batch.event_no(row) - first}"
            self._check_close(batch.payloads[row] or b"{}", tracked, where)

        def grow(pieces: Generator[memoryview, None, int]) -> int:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    return int(end.value)
                for size in tree.stops(piece, tuple(ticks)):
                    if ticks.pop(size) != tree.root():
                        where = f"{place} row {size - 1}"
                        self._found("tick", where, "does not hash to the root that was ticked here")

        for batch in read_batches(files["events"], files.get("blobs")):
            first_us = batch.observed_us(0) if first_us is None else first_us
            if purged.remains.purges:
                self._check_payloads(batch, keys, purged, place)
                give(batch, keys, gaps, first)
            hashes = tracker.add_sealed(batch, lambda _, run: _held(keys[run.session_id]), closing)
            columns.add(batch, hashes)
            row = grow(in_order(batch, hashes.leaves, tree, first, gaps))
            if row < batch.rows:
                seen = f"event {batch.event_no(row)}"
                self._found("rows", f"{place} row {tree.size}", seen, f"event {first + tree.size}")
                return
            self._compare_rows(columns, batch, hashes, stored, place)
        grow(_rest(gaps, tree.size, seal["n"]))
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
        times_us = (first_us, columns.last_us)
        if purged.remains.rows_gone and first_us is not None:
            # Of rows that are gone no time is left; those that are there lie between.
            times_us = (min(first_us, seal["first_at"]), max(columns.last_us, seal["last_at"]))
        if times_us != (seal["first_at"], seal["last_at"]):
            self._found("tables", place, "its seal says other times than its events")
        self._check_tables(files, seal, place, purged)

    def _are_as_many(
        self, files: Mapping[str, Path], seal: Mapping[str, Any], place: str, remains: Remains
    ) -> bool:
        """Say whether the files have as many rows as the log says, before any row is read.

        A file of a few KB may say that it has millions, and decode to them.
        """
        right = True
        for table, path in files.items():
            rows, told = pq.read_metadata(path).num_rows, remains.files[table]["rows"]
            if rows != told:
                seen = f"{table} has {rows} rows"
                self._found("tables", place, seen, f"{told} as the log says")
                right = False
        events = remains.files.get("events", {"rows": 0})["rows"]
        if not remains.purges and events != seal["n"]:
            self._found("tables", place, "its seal says two numbers of events")
            right = False
        return right

    def _check_payloads(self, batch: Batch, keys: Keys, purged: Purged, place: str) -> None:
        """Check that payloads and their keys are gone where a purge says so, and only there."""
        assert batch.stored is not None
        is_there = batch.stored.column("payload").is_valid().to_pylist()
        is_committed = batch.stored.column("payload_commit").is_valid().to_pylist()
        kinds = batch.stored.column("kind").to_pylist()
        for row, slot in enumerate(batch.slot_of):
            session_id = batch.runs[slot].session_id
            has_key = keys[session_id]["key_p"] is not None
            seen = ""
            if session_id not in purged.payloads:
                if not has_key or (is_committed[row] and not is_there[row]):
                    seen = "its payload or the key of it is gone, and no purge took it"
            elif has_key:
                seen = "the key of its payload is there, and a purge says it is gone"
            elif is_there[row] and kinds[row] not in KEPT_KINDS:
                seen = "its payload is there, and a purge says it is gone"
            elif not is_there[row] and kinds[row] in KEPT_KINDS:
                seen = "its row is gone, which no purge of payloads takes"
            if seen:
                self._found("purge", f"{place} event {batch.event_no(row)}", seen)

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
            if table != "events":
                found = with_later_columns(table, found)
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

    def _check_tables(
        self, files: dict[str, Path], seal: dict[str, Any], place: str, purged: Purged
    ) -> None:
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
            "sessions_opened": tracker.opened + purged.opened,
            "sessions_closed": tracker.closed + len(purged.sessions),
            "sessions_open": len(tracker.sessions) + purged.open,
        }
        left = {"commands": tracker.ended, "decisions": len(tracker.decisions)}
        if not purged.remains.rows_gone:
            counts |= left
        elif any(seal[name] < count for name, count in left.items()):
            self._found("tables", place, "its seal counts fewer commands or decisions")
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
    with open_file(path) as file:
        yield from read_rows(file)


def _held(keys: Mapping[str, bytes | None]) -> Mapping[str, bytes]:
    """Return the keys of a session, without that of payloads where a purge has destroyed it."""
    return cast("Mapping[str, bytes]", keys)


def _rest(gaps: Gaps, start: int, end: int) -> Generator[memoryview, None, int]:
    """Yield the leaf hashes of what is gone behind the last row."""
    known = gaps.between(start, end)
    if known is not None:
        yield known
    return 0


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
