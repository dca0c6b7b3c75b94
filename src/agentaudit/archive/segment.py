"""Sealed segments: Parquet that any engine reads, in log order, never sorted again.

Parquet carries no trust; what binds a file is its digest in the log and the leaves that anybody
can recompute from its rows. So row order is leaf order, and the writer streams: it holds one row
group, never a segment.

Format: docs/formats/archive.md, "Tables"
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit import _native
from agentaudit.archive.batch import BATCH_BYTES, BATCH_ROWS, NO_STATUS, Batch, Entry, Values
from agentaudit.archive.files import FILE_MODE, make_folder, sync_folder
from agentaudit.errors import TamperedError
from agentaudit.model import Kind

INLINE_TEXT_BYTES = 64 * 1024
BLOB_BYTES = 1 << 20
MAX_VALUE_BYTES = 64 << 20
"""No text or payload is longer: a frame of the journal is not."""

ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 64 << 20
# Large pages, because texts and payloads are compressed a page at a time: 4 % smaller than 1 MiB.
_PAGE_BYTES = 4 << 20
_BLOB_ROWS = 16
_UNTRUSTED_ROWS = 1024
_WRITTEN_ROWS = 1024
_STREAM_BYTES = 1 << 20
# A dictionary of what hardly ever comes twice makes a column larger and costs time; what mostly
# rises is stored as differences.
_DELTA = "DELTA_BINARY_PACKED"
_RISING = frozenset(
    {"event_no", "observed_at", "mono_ns", "started_at", "ended_at", "duration_us"}
    | {"first_event_no", "last_event_no", "opened_at", "closed_at", "open_event_no"}
    | {"close_event_no", "recorded_at", "offset"}
)
_UNIQUE = frozenset({"text", "payload", "payload_commit", "data", "key_m", "key_t", "key_p"})
_KEPT_BYTES = 32 << 20

_KINDS = {kind.name.lower(): int(kind) for kind in Kind}
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
            ("origins", _STRINGS),
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

# What files that were sealed before it existed do not have.
_LATER: dict[str, tuple[str, ...]] = {"commands": ("origins",)}

# Lists are empty rather than null, but for the parameters, where the two differ in meaning, and for
# what older files lack.
EMPTY_LISTS = frozenset(
    {"resources", "columns", "risk", "paths", "sha256", "groups", "actor_chain", "approvers"}
    | {"reasons"}
)
EMPTY_TEXTS = frozenset({"user", "agent", "target", "issuer", "client_addr", "client_app"})


def table_of(name: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return `rows` as a table with the schema of table `name`; missing members become null."""
    schema = SCHEMAS[name]
    arrays = []
    for column in schema:
        missing: Any = None
        if column.name in EMPTY_LISTS:
            missing = []
        elif column.name in EMPTY_TEXTS:
            missing = ""
        elif column.name == "labels":
            missing = {}
        values = [row.get(column.name, missing) for row in rows]
        if column.name == "labels":
            values = [sorted(value.items()) for value in values]
        arrays.append(_array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def with_later_columns(name: str, rows: pa.Table) -> pa.Table:
    """Return `rows` of table `name` with nulls in the columns that its file is too old to have."""
    for column in _LATER.get(name, ()):
        if column not in rows.column_names:
            place = min(SCHEMAS[name].get_field_index(column), rows.num_columns)
            field = SCHEMAS[name].field(column)
            rows = rows.add_column(place, field, pa.nulls(rows.num_rows, field.type))
    return rows


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if type_ == pa.uuid():
        ids = [UUID(value).bytes if isinstance(value, str) else value for value in values]
        storage = pa.array(ids, pa.binary(16))
        return pa.ExtensionArray.from_storage(type_, storage)
    if type_ == _KEY:
        # JSON has no bytes.
        values = [bytes.fromhex(value) if isinstance(value, str) else value for value in values]
    return pa.array(values, type_)


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
            names = self._schema.names
            plain = _RISING | _UNIQUE
            paths = [path for field in self._schema for path in _leaf_paths(field)]
            self._writer = pq.ParquetWriter(
                self.temporary,
                self._schema,
                compression="zstd",
                compression_level=3,
                data_page_size=_PAGE_BYTES,
                use_dictionary=[path for path in paths if path not in plain],
                # How many rows there are between two looks at a page's size.
                write_batch_size=_BLOB_ROWS if "data" in names else _WRITTEN_ROWS,
                column_encoding={name: _DELTA for name in names if name in _RISING},
                # A footer with the least and the greatest text would hold content of its own.
                write_statistics=[path for path in paths if path not in _UNIQUE],
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

    This is the slow way, an object for each; see `read_batches`.

    Raises:
        TamperedError: an event's text or payload is not all there.
    """
    for batch in read_batches(events, blobs):
        assert batch.stored is not None
        commits = batch.stored.column("payload_commit").to_pylist()
        yield from zip(batch.entries(), commits, strict=True)


def read_batches(events: Path, blobs: Path | None) -> Iterator[Batch]:
    """Yield the events of a sealed segment in order, with their stored rows as `Batch.stored`.

    What is in memory at a time is bounded, whatever the files say: blobs are read along, as they
    lie in event order.

    Raises:
        TamperedError: an event's text or payload is not all there, or a column is missing.
        ValueError, LookupError: a value that no column of this format holds.
    """
    with contextlib.ExitStack() as files:
        file = files.enter_context(open_file(events))
        blob_file = None if blobs is None else files.enter_context(open_file(blobs))
        rest = _BlobReader(blob_file)
        missing = set(SCHEMAS["events"].names) - set(file.schema_arrow.names)
        if missing:
            raise TamperedError(f"events has no column {min(missing)}")
        for stored in read_rows(file):
            for part in _portions(stored):
                yield _batch_of(part, rest)


def _leaf_paths(field: pa.Field) -> Iterator[str]:
    """Yield the names that Parquet has for what a column holds."""
    type_ = field.type
    if pa.types.is_map(type_):
        yield from (f"{field.name}.key_value.{name}" for name in ("key", "value"))
    elif pa.types.is_list(type_):
        # Parquet's name for an item is its own, whatever Arrow calls it.
        item = type_.value_field.with_name("element")
        yield from (f"{field.name}.list.{path}" for path in _leaf_paths(item))
    elif pa.types.is_struct(type_):
        yield from (f"{field.name}.{path}" for part in type_ for path in _leaf_paths(part))
    else:
        yield field.name


def open_file(path: Path) -> pq.ParquetFile:
    """Return the file, to be read a page at a time rather than a whole column of a row group."""
    return pq.ParquetFile(path, buffer_size=_STREAM_BYTES)


def read_rows(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, as many at a time as take some `BATCH_BYTES` of memory.

    That is what the file says of itself. A page of a dictionary can stand for any number of large
    values, so where texts, payloads or chunks have one, which ours have not, few rows come.
    """
    metadata = file.metadata
    large = [file.schema_arrow.get_field_index(name) for name in ("text", "payload", "data")]
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        each = rows.total_byte_size // max(1, rows.num_rows) + 1
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // each))
        if any(at >= 0 and rows.column(at).has_dictionary_page for at in large):
            size = min(size, _UNTRUSTED_ROWS)
        yield from file.iter_batches(size, row_groups=[group])


def _portions(stored: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield `stored` in parts whose texts and payloads fit into memory together."""
    size = 0.0
    for name, values in (("text_len", "text"), ("stored_len", "payload")):
        there = stored.column(name).filter(stored.column(values).is_valid())
        size += pc.sum(there.cast(pa.float64())).as_py() or 0.0
    if size <= BATCH_BYTES or stored.num_rows < 2:
        if stored.num_rows:
            yield stored
        return
    half = stored.num_rows // 2
    yield from _portions(stored.slice(0, half))
    yield from _portions(stored.slice(half))


def _batch_of(stored: pa.RecordBatch, rest: _BlobReader) -> Batch:
    """Return the events that these rows of a table `events` store."""
    text = _typed(stored.column("text"), pa.string())
    payload = _typed(stored.column("payload"), pa.binary())
    status = pc.fill_null(_typed(stored.column("status"), pa.int32()), NO_STATUS)
    fixed = _native.pack(
        stored.num_rows,
        _numbers(stored.column("event_no"), "q"),
        _numbers(_typed(stored.column("observed_at"), _TIME), "q"),
        _numbers(stored.column("mono_ns"), "q"),
        _ids(stored.column("session_id")),
        _numbers(stored.column("seq"), "i"),
        _numbers(stored.column("command_no"), "i"),
        memoryview(_kind_numbers(stored.column("kind"))).cast("i"),
        _numbers(stored.column("flags"), "i"),
        _numbers(status, "i"),
        _numbers(stored.column("orig_len"), "q"),
        _numbers(stored.column("stored_len"), "q"),
    )
    texts, payloads = _values(text), _values(payload)
    for row, size, sign in _incomplete(stored, text, payload):
        event_no = stored.column("event_no")[row].as_py()
        values = texts if sign < 0 else payloads
        values[row] = rest.complete(event_no, values[row] or b"", size, sign=sign)
    spans = stored.column("mask_spans")
    masked = pc.indices_nonzero(pc.fill_null(pc.list_value_length(spans), 0)).to_pylist()
    extras = {row: {"spans": spans[row].as_py()} for row in masked}
    return Batch(fixed, texts, payloads, extras, stored)


def _incomplete(
    stored: pa.RecordBatch, text: pa.Array, payload: pa.Array
) -> list[tuple[int, int, int]]:
    """Return (row, whole size, sign in blobs) of what is not all inline, as it lies in blobs."""
    found: list[tuple[int, int, int]] = []
    for name, values, sign in (("text_len", text, -1), ("stored_len", payload, 1)):
        sizes = stored.column(name)
        longer = pc.greater(sizes, pc.binary_length(values))
        rows = pc.indices_nonzero(pc.fill_null(longer, False)).to_pylist()
        found += [(row, sizes[row].as_py(), sign) for row in rows]
    return sorted(found, key=_row_and_sign)


def _row_and_sign(part: tuple[int, int, int]) -> tuple[int, int]:
    return part[0], part[2]


def _typed(values: pa.Array, type_: pa.DataType) -> pa.Array:
    return values if values.type == type_ else values.cast(type_)


def _numbers(values: pa.Array, code: Literal["q", "i"]) -> memoryview:
    """Return a column of integers as a view of its int64 (`q`) or int32 (`i`).

    Raises:
        ValueError: a value is null.
    """
    type_ = pa.int64() if code == "q" else pa.int32()
    if values.null_count:
        raise ValueError("null where there is always a value")
    if values.type == _TIME:
        values = values.view(type_)
    values = _typed(values, type_)
    data = memoryview(values.buffers()[1] or b"").cast("B").cast(code)
    return data[values.offset : values.offset + len(values)]


def _ids(values: pa.Array) -> memoryview:
    """Return session ids, 16 bytes each."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    values = _typed(values, pa.binary(16))
    if values.null_count:
        raise ValueError("null where there is always a value")
    data = memoryview(values.buffers()[1] or b"").cast("B")
    return data[16 * values.offset : 16 * (values.offset + len(values))]


def _kind_numbers(values: pa.Array) -> bytearray:
    """Return the kinds, int32, that a column names.

    Raises:
        LookupError: there is no such kind.
        ValueError: one is null.
    """
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    names = values.dictionary.to_pylist()
    table = array("i", [_KINDS[name] for name in names])
    return _native.lookup(_numbers(values.indices, "i"), memoryview(table))


def _values(column: pa.Array) -> Values:
    """Return texts or payloads as they lie in Arrow's buffers."""
    valid, offsets, data = column.buffers()
    first, rows = column.offset, len(column)
    if rows == 0 or offsets is None:
        return Values(bytearray(), b"")
    places = _native.places_of(
        memoryview(offsets).cast("B").cast("i")[first : first + rows + 1],
        None if valid is None else memoryview(valid).cast("B"),
        first,
        rows,
    )
    return Values(places, b"" if data is None else memoryview(data).cast("B"))


class _BlobReader:
    """Gives the rest of large texts and payloads; called in event order, it reads along."""

    def __init__(self, file: pq.ParquetFile | None) -> None:
        self._file = file
        self._rows = self._read()
        self._row = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0

    def _read(self) -> Iterator[tuple[int, int, bytes | None, int | None]]:
        if self._file is None:
            return
        for batch in read_rows(self._file):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def complete(self, event_no: int, head: bytes, size: int, *, sign: int) -> bytes:
        """Return all `size` bytes of a text (`sign` -1) or payload (+1) that begins with `head`."""
        if size > MAX_VALUE_BYTES:
            raise TamperedError(f"event {event_no}: {size} bytes, {MAX_VALUE_BYTES} at most")
        parts, length = [head], len(head)
        while length < size:
            row = next(self._rows, None)
            if row is None or row[:2] != (event_no, sign * length):
                raise TamperedError(
                    f"event {event_no}: {length} bytes of its {size} are there, "
                    "the rest is not in blobs"
                )
            data = row[2] if row[3] is None else self._at(row[3])
            self._keep(self._row, data)
            self._row += 1
            if not data:
                raise TamperedError(f"event {event_no}: an empty blob")
            parts.append(data)
            length += len(data)
        if length != size:
            raise TamperedError(f"event {event_no}: {length} bytes in blobs, {size} expected")
        return b"".join(parts)

    def _keep(self, row: int, data: bytes | None) -> None:
        """Keep what was read last: equal chunks mostly lie close to each other."""
        if data:
            self._kept_bytes += len(data) - len(self._kept.get(row, b""))
            self._kept[row] = data
            self._kept.move_to_end(row)
            while self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _at(self, row: int) -> bytes | None:
        """Return the data of blob number `row`, which an equal one names."""
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        assert self._file is not None
        at = row
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if 0 <= at < rows:
                batches = self._file.iter_batches(_BLOB_ROWS, row_groups=[group], columns=["data"])
                for batch in batches:
                    if at < batch.num_rows:
                        value: bytes | None = batch.column(0)[at].as_py()
                        self._keep(row, value)
                        return value
                    at -= batch.num_rows
            at -= rows
        return None
