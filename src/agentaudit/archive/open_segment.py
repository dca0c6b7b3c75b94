"""The segment that a sealer has under way: its tree, and its rows on their way into Parquet.

Rows are written a row group at a time, so what it holds is one row group and the hashes along the
right edge of the tree, however large the segment.

Format: docs/formats/archive.md, "Tables"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from agentaudit.archive.batch import Batch
from agentaudit.archive.columns import EventColumns
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.layout import TABLES, Layout, segment_path
from agentaudit.archive.merkle import Frontier
from agentaudit.archive.segment import ROW_GROUP_BYTES, ROW_GROUP_ROWS, TableWriter, table_of
from agentaudit.archive.tracker import Tracker
from agentaudit.errors import TamperedError


class OpenSegment:
    """The segment under way: its tree, and its rows on their way into Parquet."""

    def __init__(self, reader: JournalReader, tracker: Tracker, layout: Layout) -> None:
        """Begin with what `reader` has; `ticks` are to be the roots that were signed."""
        self.reader = reader
        self.tracker = tracker
        self.tree = Frontier()
        self.first_us = self.last_us = 0
        self._layout = layout
        self._columns = EventColumns(tracker.gateway)
        self._writers: dict[str, TableWriter] = {}
        self.ticks: dict[int, bytes] = {}

    @property
    def segment(self) -> UUID:
        return self.reader.header.segment

    def batches(self) -> Iterator[Batch]:
        """Yield what was journaled since the last call, no batch beyond a row group."""
        return self.reader.batches(lambda: ROW_GROUP_ROWS - self._columns.rows)

    def add(self, batch: Batch) -> None:
        """Take in the next events.

        Raises:
            TamperedError: they do not follow from what came before, or from a tick.
        """
        hashes = self.tracker.add_journaled(batch)
        if self.tree.size == 0:
            self.first_us = batch.observed_us(0)
        columns = self._columns
        columns.add(batch, hashes)
        self.last_us = max(self.last_us, columns.last_us)
        self._grow(memoryview(hashes.leaves))
        if columns.rows >= ROW_GROUP_ROWS or columns.bytes >= ROW_GROUP_BYTES:
            self._write_rows()

    def _grow(self, leaves: memoryview) -> None:
        """Add leaf hashes to the tree, and hold it against each tick on the way."""
        tree = self.tree
        for size in tree.stops(leaves, tuple(self.ticks)):
            expected = self.ticks.pop(size)
            if tree.root() != expected:
                raise TamperedError(
                    f"journal {self.segment}: its first {size} events hash to "
                    f"{tree.root().hex()[:8]}…, a signed tick says {expected.hex()[:8]}…",
                    hint="the journal was changed after it was signed; keep a copy of everything",
                )

    def _write_rows(self) -> None:
        for name, table in self._columns.take().items():
            if table.num_rows:
                self._writer(name).write(table)

    def _writer(self, name: str) -> TableWriter:
        if name not in self._writers:
            path = segment_path(name, self.tracker.gateway, self.first_us, self.segment)
            self._writers[name] = TableWriter(self._layout.root, path, name)
        return self._writers[name]

    def finish(self) -> dict[str, Any]:
        """Make every file durable under its name; return the `files` of the seal."""
        self._write_rows()
        tracker = self.tracker
        rows = {
            "sessions": tracker.session_rows(),
            "decisions": tracker.decisions,
            "access": tracker.access,
        }
        for name, values in rows.items():
            if values:
                self._writer(name).write(table_of(name, values))
        files = {}
        for name in TABLES:
            sealed = self._writers[name].finish() if name in self._writers else None
            if sealed is not None:
                files[name] = sealed.to_json()
        return files
