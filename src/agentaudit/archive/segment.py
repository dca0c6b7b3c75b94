"""Sealed segments: Parquet that any engine reads, in log order, never sorted again.

Parquet carries no trust; what binds a file is its digest in the log and the leaves that anybody
can recompute from its rows. So row order is leaf order, and the writer streams: it holds one row
group, never a segment.

Format: docs/formats/archive.md, "Tables"
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive.files import FILE_MODE, make_folder, sync_folder
from agentaudit.archive.journal import NO_STATUS, Entry
from agentaudit.archive.leaves import ABSENT
from agentaudit.archive.rows import cut_text
from agentaudit.archive.tracker import Hashed, Tracked
from agentaudit.errors import TamperedError
from agentaudit.model import Kind

INLINE_PAYLOAD_BYTES = 8 * 1024
INLINE_TEXT_BYTES = 64 * 1024
BLOB_BYTES = 1 << 20
ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 64 << 20

_KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}
_KINDS = {name: number for number, name in _KIND_NAMES.items()}
_NAME = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("us", tz="UTC")
_STRINGS = pa.list_(pa.string())
_KEY = pa.binary(32)

SCHEMAS: dict[str, pa.Schema] = {
    "events": pa.schema(
        [
            ("event_no", pa.int64()),
            ("observed_at", _TIME),
            ("mono_ns", pa.int64()),
            ("session_id", pa.uuid()),
            ("seq", pa.int32()),
            ("command_no", pa.int32()),
            ("kind", _NAME),
            ("side", _NAME),
            ("protocol", _NAME),
            ("gateway", _NAME),
            ("user", _NAME),
            ("agent", _NAME),
            ("target", _NAME),
            ("status", pa.int32()),
            ("flags", pa.int32()),
            ("text", pa.string()),
            ("text_len", pa.int64()),
            ("payload", pa.binary()),
            ("orig_len", pa.int64()),
            ("stored_len", pa.int64()),
            ("payload_commit", pa.binary(32)),
            ("masked", pa.int32()),
            (
                "mask_spans",
                pa.list_(
                    pa.struct(
                        [
                            ("rule", pa.string()),
                            ("place", pa.string()),
                            ("offset", pa.int64()),
                            ("length", pa.int64()),
                        ]
                    )
                ),
            ),
        ]
    ),
    "blobs": pa.schema(
        [
            ("event_no", pa.int64()),
            ("offset", pa.int64()),
            ("data", pa.binary()),
            ("same_as", pa.int64()),
        ]
    ),
    "commands": pa.schema(
        [
            ("session_id", pa.uuid()),
            ("command_no", pa.int32()),
            ("gateway", pa.string()),
            ("issuer", pa.string()),
            ("user", pa.string()),
            ("agent", pa.string()),
            ("target", pa.string()),
            ("protocol", pa.string()),
            ("started_at", _TIME),
            ("ended_at", _TIME),
            ("duration_us", pa.int64()),
            ("operation", pa.string()),
            ("class", pa.string()),
            ("text", pa.string()),
            ("fingerprint", pa.string()),
            ("resources", _STRINGS),
            ("columns", _STRINGS),
            ("params", _STRINGS),
            ("status", pa.string()),
            ("error_code", pa.string()),
            ("error_text", pa.string()),
            ("rows_returned", pa.int64()),
            ("rows_affected", pa.int64()),
            ("bytes_in", pa.int64()),
            ("bytes_out", pa.int64()),
            ("estimated_rows", pa.int64()),
            ("txn_no", pa.int32()),
            ("txn_status", pa.string()),
            ("target_ref", pa.string()),
            ("masked", pa.int32()),
            ("risk", _STRINGS),
            ("confidence", pa.string()),
            ("decision", pa.string()),
            ("rule", pa.string()),
            ("request_id", pa.uuid()),
            ("paths", _STRINGS),
            ("sha256", _STRINGS),
            ("traceparent", pa.string()),
            ("parser", pa.string()),
            ("first_event_no", pa.int64()),
            ("last_event_no", pa.int64()),
        ]
    ),
    "sessions": pa.schema(
        [
            ("session_id", pa.uuid()),
            ("gateway", pa.string()),
            ("user", pa.string()),
            ("issuer", pa.string()),
            ("email", pa.string()),
            ("groups", _STRINGS),
            ("agent", pa.string()),
            ("actor_chain", _STRINGS),
            ("run_id", pa.string()),
            ("labels", pa.map_(pa.string(), pa.string())),
            ("target", pa.string()),
            ("protocol", pa.string()),
            ("client_addr", pa.string()),
            ("client_app", pa.string()),
            ("gateway_port", pa.int32()),
            ("target_addr", pa.string()),
            ("target_pid", pa.int32()),
            ("window_id", pa.uuid()),
            ("opened_at", _TIME),
            ("closed_at", _TIME),
            ("close_reason", pa.string()),
            ("commands", pa.int64()),
            ("events", pa.int64()),
            ("bytes_in", pa.int64()),
            ("bytes_out", pa.int64()),
            ("masked", pa.int64()),
            ("policy_digest", pa.string()),
            ("mask_digest", pa.string()),
            ("open_event_no", pa.int64()),
            ("close_event_no", pa.int64()),
            ("key_m", _KEY),
            ("key_t", _KEY),
            ("key_p", _KEY),
            ("is_final", pa.bool_()),
        ]
    ),
    "decisions": pa.schema(
        [
            ("request_id", pa.uuid()),
            ("kind", pa.string()),
            ("session_id", pa.uuid()),
            ("command_no", pa.int32()),
            ("requester", pa.string()),
            ("target", pa.string()),
            ("rule", pa.string()),
            ("text_commit", pa.binary(32)),
            ("requested_at", _TIME),
            ("decided_at", _TIME),
            ("state", pa.string()),
            ("approvers", _STRINGS),
            ("reasons", _STRINGS),
            ("grant_until", _TIME),
        ]
    ),
    "access": pa.schema(
        [
            ("recorded_at", _TIME),
            ("actor", pa.string()),
            ("action", pa.string()),
            ("object", pa.string()),
            ("detail", pa.string()),
        ]
    ),
    # What a purge leaves of rows that it took, and of payloads whose key it destroyed.
    "residue": pa.schema([("leaf_index", pa.int64()), ("leaf_hash", pa.binary(32))]),
    "salts": pa.schema([("leaf_index", pa.int64()), ("salt", pa.binary(16))]),
}

# Lists are empty rather than null, but for the parameters, where the two differ in meaning.
_EMPTY_LISTS = frozenset(
    {"resources", "columns", "risk", "paths", "sha256", "groups", "actor_chain", "approvers"}
    | {"reasons"}
)
_EMPTY_TEXTS = frozenset({"user", "agent", "target", "issuer", "client_addr", "client_app"})


def table_of(name: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return `rows` as a table with the schema of table `name`; missing members become null."""
    schema = SCHEMAS[name]
    arrays = []
    for column in schema:
        missing: Any = None
        if column.name in _EMPTY_LISTS:
            missing = []
        elif column.name in _EMPTY_TEXTS:
            missing = ""
        elif column.name == "labels":
            missing = {}
        values = [row.get(column.name, missing) for row in rows]
        if column.name == "labels":
            values = [sorted(value.items()) for value in values]
        arrays.append(_array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if type_ == pa.uuid():
        ids = [UUID(value).bytes if isinstance(value, str) else value for value in values]
        storage = pa.array(ids, pa.binary(16))
        return pa.ExtensionArray.from_storage(type_, storage)
    return pa.array(values, type_)


class EventColumns:
    """Rows of `events` and `blobs`, gathered column by column until they are taken."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._same: dict[bytes, int] = {}
        self._blob_rows = 0
        self._clear()

    def _clear(self) -> None:
        self._events: list[tuple[Any, ...]] = []
        self._blobs: list[tuple[Any, ...]] = []
        self.bytes = 0

    @property
    def rows(self) -> int:
        """How many events were added since the last `take`."""
        return len(self._events)

    def add(self, entry: Entry, tracked: Tracked, hashed: Hashed) -> None:
        """Add the rows of one event."""
        text, payload = entry.text, entry.payload
        inline_text, inline_payload = text, payload
        if text is not None and len(text) > INLINE_TEXT_BYTES:
            inline_text = cut_text(text, INLINE_TEXT_BYTES)
            self._add_blobs(entry.event_no, text, len(inline_text), sign=-1)
        is_whole = payload is None or len(payload) <= INLINE_PAYLOAD_BYTES
        is_purged = payload is None and hashed.payload_commit != ABSENT
        if payload is not None and not is_whole:
            inline_payload = payload[:INLINE_PAYLOAD_BYTES]
            self._add_blobs(entry.event_no, payload, INLINE_PAYLOAD_BYTES, sign=1)
        side = entry.side
        spans = entry.extra.get("spans", [])
        self._events.append(
            (
                entry.event_no,
                entry.observed_us,
                entry.mono_ns,
                entry.session_id,
                entry.seq,
                entry.command_no,
                _KIND_NAMES[entry.kind],
                None if side is None else side.value,
                tracked.protocol,
                self._gateway,
                tracked.user,
                tracked.agent,
                tracked.target,
                None if entry.status == NO_STATUS else entry.status,
                entry.flags,
                None if inline_text is None else inline_text.decode(),
                None if text is None else len(text),
                inline_payload,
                entry.orig_len,
                entry.stored_len,
                None if is_whole and not is_purged else hashed.payload_commit,
                len(spans),
                spans,
            )
        )
        self.bytes += 200 + len(text or b"") + len(payload or b"")

    def _add_blobs(self, event_no: int, data: bytes, start: int, *, sign: int) -> None:
        """Add what lies behind `start`; an equal chunk of the segment is named instead."""
        for offset in range(start, len(data), BLOB_BYTES):
            chunk = data[offset : offset + BLOB_BYTES]
            digest = sha256(chunk).digest()
            same_as = self._same.setdefault(digest, self._blob_rows)
            is_new = same_as == self._blob_rows
            content = (chunk, None) if is_new else (None, same_as)
            self._blobs.append((event_no, sign * offset, *content))
            self._blob_rows += 1

    def take(self) -> dict[str, pa.Table]:
        """Return the rows gathered since the last call, as tables `events` and `blobs`."""
        tables = {}
        for name, rows in (("events", self._events), ("blobs", self._blobs)):
            schema = SCHEMAS[name]
            columns = list(zip(*rows, strict=True)) or [()] * len(schema)
            arrays = [_array(v, f.type) for v, f in zip(columns, schema, strict=True)]
            tables[name] = pa.Table.from_arrays(arrays, schema=schema)
        self._clear()
        return tables


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A Parquet file as its seal names it."""

    path: str
    sha256: str
    bytes: int
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return the member of the `seal` entry."""
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


class TableWriter:
    """Writes one Parquet file under its `.tmp` name; nothing is made for a table without rows."""

    def __init__(self, root: Path, relative: str, name: str) -> None:
        self._relative = relative
        self._schema = SCHEMAS[name]
        self._path = root / relative
        self.temporary = self._path.with_name(self._path.name + ".tmp")
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """Add `table` as one row group (or several, of `ROW_GROUP_ROWS`)."""
        if table.num_rows == 0:
            return
        if self._writer is None:
            make_folder(self._path.parent)
            self._writer = pq.ParquetWriter(
                self.temporary,
                self._schema,
                compression="zstd",
                compression_level=3,
                write_page_index=True,
                write_page_checksum=True,
            )
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._rows += table.num_rows

    def finish(self) -> SealedFile | None:
        """Make the file durable under its name; return what the seal says of it."""
        sealed = self.prepare()
        if sealed is not None:
            self.publish()
        return sealed

    def prepare(self) -> SealedFile | None:
        """Make the file durable, still as `temporary`; return what is to be said of it."""
        if self._writer is None:
            return None
        self._writer.close()
        self.temporary.chmod(FILE_MODE)
        with self.temporary.open("rb") as file:
            os.fsync(file.fileno())
            digest = file_digest(file, "sha256").hexdigest()
            size = file.tell()
        return SealedFile(self._relative, digest, size, self._rows)

    def publish(self) -> None:
        """Give the file that was prepared its name, durably."""
        self.temporary.replace(self._path)
        sync_folder(self._path.parent)


def read_entries(events: Path, blobs: Path | None) -> Iterator[tuple[Entry, bytes | None]]:
    """Yield the events of a sealed segment in order, each with its stored payload commitment.

    One row group is in memory at a time; blobs are read along, as they lie in event order.

    Raises:
        TamperedError: an event's text or payload is not all there.
    """
    with contextlib.ExitStack() as files:
        file = files.enter_context(pq.ParquetFile(events))
        blob_file = None if blobs is None else files.enter_context(pq.ParquetFile(blobs))
        rest = _BlobReader(blob_file)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            columns = [_values(rows, name) for name in SCHEMAS["events"].names]
            for row in zip(*columns, strict=True):
                yield _entry_of(row, rest)


def _values(rows: pa.Table, name: str) -> list[Any]:
    column = rows.column(name)
    if name == "session_id":
        column = (
            column.cast(pa.binary(16))
            if column.type != pa.uuid()
            else pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16))
        )
    elif name == "observed_at":
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _entry_of(row: tuple[Any, ...], rest: _BlobReader) -> tuple[Entry, bytes | None]:
    (event_no, observed_us, mono_ns, session_id, seq, command_no, kind, _side) = row[:8]
    (status, flags, text, text_len, payload, orig_len, stored_len, commit, _, spans) = row[13:]
    text_bytes = None if text is None else text.encode()
    if text_len is not None and text_bytes is not None and text_len > len(text_bytes):
        text_bytes = rest.complete(event_no, text_bytes, text_len, sign=-1)
    if payload is not None and stored_len > len(payload):
        payload = rest.complete(event_no, payload, stored_len, sign=1)
    entry = Entry(
        event_no=event_no,
        observed_us=observed_us,
        mono_ns=mono_ns,
        session_id=session_id,
        seq=seq,
        command_no=command_no,
        kind=_KINDS[kind],
        flags=flags,
        status=NO_STATUS if status is None else status,
        orig_len=orig_len,
        stored_len=stored_len,
        text=text_bytes,
        payload=payload,
        extra={"spans": spans} if spans else {},
    )
    return entry, commit


class _BlobReader:
    """Gives the rest of large texts and payloads; called in event order, it reads along."""

    def __init__(self, file: pq.ParquetFile | None) -> None:
        self._file = file
        self._rows = self._read()

    def _read(self) -> Iterator[tuple[int, int, bytes | None, int | None]]:
        if self._file is None:
            return
        for batch in self._file.iter_batches(batch_size=64):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def complete(self, event_no: int, head: bytes, size: int, *, sign: int) -> bytes:
        """Return all `size` bytes of a text (`sign` -1) or payload (+1) that begins with `head`."""
        parts, length = [head], len(head)
        while length < size:
            row = next(self._rows, None)
            if row is None or row[:2] != (event_no, sign * length):
                raise TamperedError(
                    f"event {event_no}: {length} bytes of its {size} are there, "
                    "the rest is not in blobs"
                )
            data = row[2] if row[3] is None else self._at(row[3])
            if not data:
                raise TamperedError(f"event {event_no}: an empty blob")
            parts.append(data)
            length += len(data)
        if length != size:
            raise TamperedError(f"event {event_no}: {length} bytes in blobs, {size} expected")
        return b"".join(parts)

    def _at(self, row: int) -> bytes | None:
        """Return the data of blob number `row`, which an equal one names."""
        assert self._file is not None
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if row < rows:
                data = self._file.read_row_group(group, columns=["data"]).column("data")
                value: bytes | None = data[row].as_py()
                return value
            row -= rows
        return None
