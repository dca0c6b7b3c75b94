"""Checks one session of an archive as deeply as all of it would be, reading only its segments.

That no event of it lies in a segment that was not read needs no search: `seq` is dense from
`session_open` on, and `session_close` commits to every leaf before it.

Format: docs/formats/archive.md, "Leaf" and "Rows"
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit.archive import canonical
from agentaudit.archive.layout import Layout
from agentaudit.archive.merkle import WholeTree
from agentaudit.archive.sealed import Sealed, SegmentLeaves, SessionEvent
from agentaudit.archive.segment import open_file, read_rows, table_of, with_later_columns
from agentaudit.archive.verification import MALFORMED, Found, is_as_sealed, words
from agentaudit.model import Kind, Side

_IN_EVERY_EVENT = ("protocol", "user", "agent", "target")
_IN_EVERY_COMMAND = ("gateway", "issuer", "user", "agent", "target", "protocol")


class SessionCheck:
    """Follows one session through its segments, which must come in their order."""

    def __init__(self, layout: Layout, gateway: str, session_id: UUID, found: Found) -> None:
        self._root = layout.root
        self._gateway = gateway
        self._session_id = session_id
        self._found = found
        self._leaves = sha256()
        self._facts: dict[str, Any] = {}
        self._row: dict[str, Any] = {}
        self._counts = dict.fromkeys(("events", "commands", "bytes_in", "bytes_out", "masked"), 0)
        self.events = 0
        self.commands = 0
        self.is_closed = False

    def segments_with_it(self, segments: Sequence[Sealed]) -> tuple[list[Sealed], list[Sealed]]:
        """Return those of `segments` that list the session, and those whose list is unreadable."""
        with_it, unreadable = [], []
        for sealed in segments:
            try:
                if self._session_id.bytes in sealed.session_ids(self._root):
                    with_it.append(sealed)
            except MemoryError:
                raise
            except MALFORMED:
                unreadable.append(sealed)
        return with_it, unreadable

    def check(self, sealed: Sealed) -> None:
        """Recompute every leaf and the root of a segment, and the session's rows in it."""
        place = str(sealed)
        try:
            if self._files_are_right(sealed):
                self._check_segment(sealed, place)
        except MemoryError:
            raise
        except MALFORMED as error:
            self._found("rows", place, words(error))

    def _files_are_right(self, sealed: Sealed) -> bool:
        right = True
        for path, told in sealed.told.items():
            if not is_as_sealed(self._root / path, path, told, self._found):
                right = False
            elif (rows := pq.read_metadata(self._root / path).num_rows) != told["rows"]:
                # Before any is read: a file of a few KB can claim and decode to millions.
                self._found("tables", path, f"{rows} rows", f"{told['rows']} as sealed")
                right = False
        return right

    def _check_segment(self, sealed: Sealed, place: str) -> None:
        leaves = SegmentLeaves(self._root, sealed)
        commands: list[dict[str, Any]] = []
        for event in leaves.read(self._session_id.bytes):
            self._check_event(event, f"{place} leaf {event.leaf_index}", commands)
        root = WholeTree(leaves.hashes).root()
        if root.hex() != sealed.seal["root"]:
            self._found(
                "leaf",
                place,
                f"its events hash to {root.hex()[:8]}…",
                f"{sealed.seal['root'][:8]}… as sealed",
            )
        self._compare(sealed, "commands", commands)
        self._compare(sealed, "sessions", [{**self._row, **self._counts}] if self._row else [])

    def _check_event(self, event: SessionEvent, where: str, commands: list[dict[str, Any]]) -> None:
        entry, counts = event.entry, self._counts
        if entry.seq != counts["events"]:
            self._found("session", where, f"seq {entry.seq}", f"seq {counts['events']}")
            counts["events"] = entry.seq
        if (entry.kind == Kind.SESSION_OPEN) != (entry.seq == 0):
            self._found("session", where, "session_open is a session's first event, no other")
        if self.is_closed:
            self._found("session", where, "an event after session_close")
        if not event.payload_matches:
            self._found("leaf", where, "payload_commit is not that of its payload")
        if entry.kind == Kind.SESSION_OPEN:
            self._open(event)
        elif entry.kind == Kind.SESSION_CLOSE:
            self._close(event, where)
        elif entry.kind == Kind.COMMAND_END:
            counts["commands"] += 1
            row = canonical.decode(entry.payload or b"{}")
            of_session = {name: self._facts.get(name, "") for name in _IN_EVERY_COMMAND}
            commands.append({**row, **of_session, "session_id": self._session_id.bytes})
        self._check_columns(event, where)
        counts["events"] += 1
        if entry.side is Side.TARGET:
            counts["bytes_out"] += entry.orig_len
        elif entry.side is Side.CLIENT:
            counts["bytes_in"] += entry.orig_len
        counts["masked"] += len(entry.extra.get("spans", ()))
        self._leaves.update(event.leaf)
        self.events += 1
        self.commands = counts["commands"]

    def _open(self, event: SessionEvent) -> None:
        self._facts = canonical.decode(event.entry.payload or b"{}")
        self._row = {
            **self._facts,
            "session_id": self._session_id.bytes,
            "opened_at": event.entry.observed_us,
            "open_event_no": event.entry.event_no,
            "is_final": False,
        }

    def _close(self, event: SessionEvent, where: str) -> None:
        close = canonical.decode(event.entry.payload or b"{}")
        counts = self._counts
        expected = {
            **counts,
            "events": counts["events"] + 1,
            "last_seq": counts["events"],
            "leaves_sha256": self._leaves.hexdigest(),
        }
        for name, value in expected.items():
            if close.get(name) != value:
                self._found("session", where, f"session_close has another {name}", str(value))
        self.is_closed = True
        self._row |= {
            "closed_at": close["closed_at"],
            "close_reason": close["close_reason"],
            "close_event_no": event.entry.event_no,
            "is_final": True,
        }

    def _check_columns(self, event: SessionEvent, where: str) -> None:
        """Hold the columns that no leaf has against what they were taken from."""
        entry = event.entry
        side = entry.side
        expected = {
            "gateway": self._gateway,
            "side": None if side is None else side.value,
            "masked": len(entry.extra.get("spans", ())),
            **{name: str(self._facts.get(name, "")) for name in _IN_EVERY_EVENT},
        }
        for name, value in expected.items():
            if event.columns[name] != value:
                self._found("columns", where, f"events.{name} is not what its session says")

    def _compare(self, sealed: Sealed, table: str, rows: list[dict[str, Any]]) -> None:
        stored = _rows_of(self._session_id, self._root, sealed.files.get(table))
        if stored is None:
            if rows:
                self._found("tables", str(sealed), f"no {table} file", f"{len(rows)} rows")
            return
        expected, stored = table_of(table, rows), with_later_columns(table, stored)
        if table == "sessions":
            # Their keys are what the leaves were made with, where they are still there.
            keys = ["key_m", "key_t", "key_p"]
            expected, stored = expected.drop_columns(keys), stored.drop_columns(keys)
        if stored.column_names != expected.column_names:
            self._found("columns", str(sealed), f"{table} has other columns than the format")
            return
        for name in expected.column_names:
            if not _equal(expected.column(name), stored.column(name)):
                self._found("columns", str(sealed), f"{table}.{name} is not what its events say")

    def finish(self) -> None:
        """Find what is missing of the session at its end, but for its close."""
        if not self._row:
            self._found("session", f"session {self._session_id}", "no session_open")


def _rows_of(session_id: UUID, root: Path, path: str | None) -> pa.Table | None:
    if path is None:
        return None
    wanted = pa.scalar(session_id.bytes, pa.binary(16))
    with open_file(root / path) as file:
        parts = [file.schema_arrow.empty_table()]
        for batch in read_rows(file):
            ids = batch.column("session_id")
            storage = ids.storage if ids.type == pa.uuid() else ids
            parts.append(pa.Table.from_batches([batch.filter(pc.equal(storage, wanted))]))
    return pa.concat_tables(parts)


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    return bool(left.combine_chunks().equals(right.combine_chunks()))
