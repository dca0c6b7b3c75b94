"""Rows of `events`, `blobs` and `commands`, made from batches column by column.

A column of Arrow is a buffer, and so is what a batch has: `agentaudit._native` moves bytes from
the one to the other, and no value becomes a Python object on its way. What takes a whole parser,
or is rare, goes through Python: masked spans, blobs, and a `command_end` whose payload is not the
canonical JSON that a recorder writes.
"""

from __future__ import annotations

import heapq
from array import array
from hashlib import sha256
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from agentaudit import _native
from agentaudit.archive import canonical
from agentaudit.archive.batch import INLINE_PAYLOAD_BYTES, Batch, Values
from agentaudit.archive.rows import cut_text
from agentaudit.archive.segment import (
    BLOB_BYTES,
    EMPTY_LISTS,
    EMPTY_TEXTS,
    INLINE_TEXT_BYTES,
    SCHEMAS,
    table_of,
)
from agentaudit.archive.tracker import SESSION_COLUMNS, Hashes, Tracked
from agentaudit.model import Kind, Side

_EVENTS, _BLOBS, _COMMANDS = (SCHEMAS[name] for name in ("events", "blobs", "commands"))
_KINDS = pa.array([kind.name.lower() for kind in sorted(Kind)], pa.string())
_SIDES = pa.array([Side.CLIENT.value, Side.TARGET.value], pa.string())
_OF_SESSION = ("protocol", "gateway", "user", "agent", "target")
_FROM_SESSION = frozenset(SESSION_COLUMNS) | {"session_id"}
_ROW_BYTES = 200


def _form(type_: pa.DataType) -> bytes:
    if pa.types.is_list(type_):
        return b"l"
    return b"s" if type_ in (pa.string(), pa.uuid()) else b"i"


# What `_native.json_columns` is asked for: the members of a `command_end`, in their order.
_MEMBERS = sorted(
    (
        (f.name.encode(), _form(f.type), f.name not in EMPTY_LISTS | EMPTY_TEXTS)
        for f in _COMMANDS
        if f.name not in _FROM_SESSION
    ),
)


class EventColumns:
    """Rows of `events`, `blobs` and `commands`, gathered until they are taken.

    `rows` counts the events since then and `bytes` about what they take, `last_us` is the latest
    time of all that were added.
    """

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._same: dict[bytes, int] = {}
        self._blob_rows = 0
        self.last_us = 0
        self._clear()

    def _clear(self) -> None:
        self._events: list[list[pa.Array]] = [[] for _ in _EVENTS]
        self._names: dict[str, dict[str, int]] = {name: {} for name in _OF_SESSION}
        self._blobs: list[tuple[Any, ...]] = []
        self._commands: list[pa.Table] = []
        self.rows = 0
        self.bytes = 0

    def add(self, batch: Batch, hashes: Hashes) -> None:
        """Add the rows of a batch.

        Raises:
            ValueError, pa.ArrowException: a value that no column holds.
        """
        rows = batch.rows
        (event_no, observed_us, mono_ns, orig_len, stored_len, ids, *ints) = _native.unpack(
            batch.fixed
        )
        seq, command_no, kinds, sides, status, flags, sided, known = ints
        text, text_len, long_texts = _inline(batch.texts, rows, INLINE_TEXT_BYTES, _STRING)
        payload, _, long_payloads = _inline(batch.payloads, rows, INLINE_PAYLOAD_BYTES, _BINARY)
        masked, spans = _spans(batch)
        made: dict[str, pa.Array] = {
            "event_no": _array(pa.int64(), rows, event_no),
            "observed_at": _array(_EVENTS.field("observed_at").type, rows, observed_us),
            "mono_ns": _array(pa.int64(), rows, mono_ns),
            "session_id": _uuids(rows, ids),
            "seq": _array(pa.int32(), rows, seq),
            "command_no": _array(pa.int32(), rows, command_no),
            "kind": pa.DictionaryArray.from_arrays(_array(pa.int32(), rows, kinds), _KINDS),
            "side": pa.DictionaryArray.from_arrays(_array(pa.int32(), rows, sides, sided), _SIDES),
            "status": _array(pa.int32(), rows, status, known),
            "flags": _array(pa.int32(), rows, flags),
            "text": text,
            "text_len": text_len,
            "payload": payload,
            "orig_len": _array(pa.int64(), rows, orig_len),
            "stored_len": _array(pa.int64(), rows, stored_len),
            "payload_commit": _commits(hashes.payload_commits, rows, long_payloads, batch),
            "masked": masked,
            "mask_spans": spans,
        }
        for name in _OF_SESSION:
            made[name] = self._of_session(name, batch, hashes.tracked)
        for parts, field in zip(self._events, _EVENTS, strict=True):
            parts.append(made[field.name])
        self.rows += rows
        times = _array(pa.int64(), rows, observed_us)
        self.last_us = max(self.last_us, pc.max(times).as_py())
        self.bytes += _ROW_BYTES * rows + text.nbytes + payload.nbytes
        self._add_blobs(batch, long_texts, long_payloads)
        if batch.ends:
            self._commands.append(command_table(batch, hashes.tracked))

    def _of_session(self, name: str, batch: Batch, tracked: list[Tracked]) -> pa.Array:
        """Return for each event where its session's `name` is in `_names`."""
        numbers = self._names[name]
        if name == "gateway":
            values = [self._gateway] * len(tracked)
        else:
            values = [session.in_every_row[name] for session in tracked]
        table = array("i", [numbers.setdefault(value, len(numbers)) for value in values])
        return _array(pa.int32(), batch.rows, _native.lookup(batch.slots, memoryview(table)))

    def _add_blobs(self, batch: Batch, texts: list[int], payloads: list[int]) -> None:
        """Add what does not fit inline, an event's text before its payload."""
        if not texts and not payloads:
            return
        longer = heapq.merge(((row, -1) for row in texts), ((row, 1) for row in payloads))
        for row, sign in longer:
            value = (batch.texts if sign < 0 else batch.payloads)[row] or b""
            start = INLINE_PAYLOAD_BYTES
            if sign < 0:
                start = len(cut_text(value, INLINE_TEXT_BYTES))
            self._add_blob(batch.event_no(row), value, start, sign)

    def _add_blob(self, event_no: int, data: bytes, start: int, sign: int) -> None:
        """Add what lies behind `start`; an equal chunk of the segment is named instead."""
        self.bytes += len(data) - start
        for offset in range(start, len(data), BLOB_BYTES):
            chunk = data[offset : offset + BLOB_BYTES]
            digest = sha256(chunk).digest()
            same_as = self._same.setdefault(digest, self._blob_rows)
            is_new = same_as == self._blob_rows
            content = (chunk, None) if is_new else (None, same_as)
            self._blobs.append((event_no, sign * offset, *content))
            self._blob_rows += 1

    def take(self) -> dict[str, pa.Table]:
        """Return the rows gathered since the last call, by table."""
        arrays = []
        for parts, field in zip(self._events, _EVENTS, strict=True):
            column = parts
            if field.name in self._names:
                names = pa.array(self._names[field.name], pa.string())
                column = [pa.DictionaryArray.from_arrays(part, names) for part in parts]
            arrays.append(pa.chunked_array(column, field.type))
        blobs = list(zip(*self._blobs, strict=True)) or [()] * len(_BLOBS)
        columns = [pa.array(values, f.type) for values, f in zip(blobs, _BLOBS, strict=True)]
        tables = {
            "events": pa.Table.from_arrays(arrays, schema=_EVENTS),
            "blobs": pa.Table.from_arrays(columns, schema=_BLOBS),
            "commands": pa.concat_tables([_COMMANDS.empty_table(), *self._commands]),
        }
        self._clear()
        return tables


_STRING, _BINARY = pa.string(), pa.binary()


def _array(
    type_: pa.DataType, rows: int, data: bytearray | bytes, valid: bytearray | None = None
) -> pa.Array:
    bitmap = None if valid is None else pa.py_buffer(valid)
    return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(data)])


def _uuids(rows: int, data: bytearray | bytes) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), _array(pa.binary(16), rows, data))


def _inline(
    values: Values, rows: int, cap: int, type_: pa.DataType
) -> tuple[pa.Array, pa.Array, list[int]]:
    """Return values up to `cap` bytes, their whole lengths, and the rows that are longer."""
    offsets, data, valid, lengths, longer = _native.gather(values.raw, rows, cap, type_ == _STRING)
    bitmap = pa.py_buffer(valid)
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)]
    inline = pa.Array.from_buffers(type_, rows, buffers)
    if type_ == _STRING:
        inline.validate(full=True)
    whole = pa.Array.from_buffers(pa.int64(), rows, [bitmap, pa.py_buffer(lengths)])
    return inline, whole, longer


def _commits(commits: bytearray, rows: int, longer: list[int], batch: Batch) -> pa.Array:
    """Return the commitments of the payloads that are not whole and inline; null for the rest."""
    valid = bytearray((rows + 7) // 8)
    for row in longer:
        valid[row >> 3] |= 1 << (row & 7)
    for row, how in enumerate(batch.given or b""):
        if how == 1:
            valid[row >> 3] |= 1 << (row & 7)
    return _array(pa.binary(32), rows, commits, valid)


def _spans(batch: Batch) -> tuple[pa.Array, pa.Array]:
    """Return how many spans each event has, and the spans."""
    type_ = _EVENTS.field("mask_spans").type
    by_row = batch.spans()
    if by_row:
        lists = [by_row.get(row, []) for row in range(batch.rows)]
        return pa.array([len(one) for one in lists], pa.int32()), pa.array(lists, type_)
    none = _array(pa.int32(), batch.rows, bytes(4 * batch.rows))
    offsets = _array(pa.int32(), batch.rows + 1, bytes(4 * (batch.rows + 1)))
    return none, pa.ListArray.from_arrays(offsets, pa.array([], type_.value_type), type=type_)


# --- commands


def command_table(batch: Batch, tracked: list[Tracked]) -> pa.Table:
    """Return the rows of `commands` that a batch's events of kind command_end make."""
    columns = _native.json_columns(batch.payloads.raw, batch.rows, batch.ends, _MEMBERS)
    if columns is not None:
        try:
            return _parsed(batch, tracked, columns)
        except (pa.ArrowException, ValueError):
            pass  # one of them says more than the columns hold: let the parser say which
    return parsed_whole(batch, tracked)


def parsed_whole(batch: Batch, tracked: list[Tracked]) -> pa.Table:
    """As `command_table`, for whatever JSON there is."""
    slot_of = batch.slot_of
    rows = []
    for row in batch.ends:
        said = canonical.decode(batch.payloads[row] or b"{}")
        rows.append({**said, **tracked[slot_of[row]].in_every_row})
    return table_of("commands", rows)


def _parsed(
    batch: Batch, tracked: list[Tracked], columns: list[tuple[bytes, bytes, bytes, bytes, bytes]]
) -> pa.Table:
    rows = len(batch.ends)
    slot_of = batch.slot_of
    slots = array("i", [slot_of[row] for row in batch.ends])
    indices = _array(pa.int32(), rows, slots.tobytes())
    made: dict[str, pa.Array] = {}
    for (name, form, _), column in zip(_MEMBERS, columns, strict=True):
        type_ = _COMMANDS.field(name.decode()).type
        made[name.decode()] = _column(form, type_, rows, *column)
    for name in SESSION_COLUMNS:
        values = pa.array([session.in_every_row[name] for session in tracked], pa.string())
        made[name] = values.take(indices)
    ids = pa.array([session.in_every_row["session_id"] for session in tracked], pa.binary(16))
    made["session_id"] = pa.ExtensionArray.from_storage(pa.uuid(), ids.take(indices))
    return pa.Table.from_arrays([made[name] for name in _COMMANDS.names], schema=_COMMANDS)


def _column(
    form: bytes,
    type_: pa.DataType,
    rows: int,
    valid: bytes,
    values: bytes,
    data: bytes,
    item_valid: bytes,
    items: bytes,
) -> pa.Array:
    """Return a column of `_native.json_columns` as an array.

    Raises:
        ValueError, pa.ArrowException: a text that is no UTF-8, or a number beyond its type.
    """
    bitmap = None if 0 not in valid else _bitmap(valid)
    if form == b"i":
        made = pa.Array.from_buffers(pa.int64(), rows, [bitmap, pa.py_buffer(values)])
        return made.view(type_) if pa.types.is_timestamp(type_) else made.cast(type_)
    if form == b"s":
        buffers = [bitmap, pa.py_buffer(values), pa.py_buffer(data)]
        made = pa.Array.from_buffers(pa.string(), rows, buffers)
        made.validate(full=True)
        if type_ != pa.uuid():
            return made
        ids = [None if value is None else UUID(value).bytes for value in made.to_pylist()]
        return pa.ExtensionArray.from_storage(type_, pa.array(ids, pa.binary(16)))
    some = None if 0 not in item_valid else _bitmap(item_valid)
    buffers = [some, pa.py_buffer(data), pa.py_buffer(items)]
    texts = pa.Array.from_buffers(pa.string(), len(item_valid), buffers)
    texts.validate(full=True)
    return pa.Array.from_buffers(type_, rows, [bitmap, pa.py_buffer(values)], children=[texts])


def _bitmap(bytes_: bytes) -> pa.Buffer:
    """Return Arrow's bitmap of a byte a row, 0 or 1."""
    flags = pa.Array.from_buffers(pa.uint8(), len(bytes_), [None, pa.py_buffer(bytes_)])
    return pc.equal(flags, 1).buffers()[1]
