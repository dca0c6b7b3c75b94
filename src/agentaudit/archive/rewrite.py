"""One sealed segment written again without what a purge takes, still proven by its old root.

A row that goes leaves its leaf hash behind, so all others prove to the root that was sealed. That
is shown before anything is renamed, on the very files that will take the place of the old ones: a
purge can lose what it was told to remove, and nothing else.

Crash story: residue and salts are durable first, then the new files under `.tmp` names, then they
take their names one by one, `sessions` last, because its keys are what a second run needs to make
the residue again. Whatever was done already, a second run filters what it finds and comes to the
same files. Nothing counts before the `purge_done` that the caller appends.

A generator: it yields after each piece of work, so that its caller can tick meanwhile.

Format: docs/formats/archive.md, "Purges"
"""

from __future__ import annotations

import errno
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit.archive import leaves
from agentaudit.archive.batch import Batch
from agentaudit.archive.files import sync_folder
from agentaudit.archive.gaps import (
    KEPT_KINDS,
    give,
    hash_batch,
    in_order,
    read_gaps,
    read_keys,
)
from agentaudit.archive.layout import TABLES, Layout, segment_path
from agentaudit.archive.merkle import HASH_BYTES, Frontier
from agentaudit.archive.retention import Remains
from agentaudit.archive.segment import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    SCHEMAS,
    SealedFile,
    TableWriter,
    read_batches,
    with_later_columns,
)
from agentaudit.errors import ArchiveError, TamperedError

_BATCH_ROWS = 16_384
# Decisions before events, whose rows say which of them go; sessions last, for its keys.
_IN_ORDER = ("decisions", "access", "events", "blobs", "commands", "sessions")

Steps = Generator[None, None, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a purge takes of a segment: all of these sessions, or their payloads."""

    what: str
    sessions: frozenset[bytes]

    @property
    def takes_rows(self) -> bool:
        return self.what == "sessions"

    def of(self, rows: pa.Table | pa.RecordBatch) -> pa.Array:
        """Return which rows belong to its sessions, as booleans."""
        ids = pa.array(sorted(self.sessions), pa.binary(16))
        return pc.is_in(_storage(rows.column("session_id")), value_set=ids)

    def takes(self, rows: pa.Table | pa.RecordBatch) -> pa.Array:
        """Return which rows of `events` it removes, or strips of their payload."""
        ours = self.of(rows)
        if self.takes_rows:
            return ours
        is_there = rows.column("payload").is_valid()
        return pc.and_(ours, pc.and_(is_there, pc.invert(_is_row_of_ours(rows))))


def remove_segment(
    layout: Layout, gateway: str, seal: Mapping[str, Any], remains: Remains, rows: int
) -> Steps:
    """Remove every file of a segment, and return what `purge_done` says: its root is in its seal.

    `rows` is how many of its rows were left.
    """
    segment = UUID(seal["segment"])
    folders = set()
    for table in TABLES:
        path = layout.root / segment_path(table, gateway, seal["first_at"], segment)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            folders.add(path.parent)
    residue = layout.residue(segment, 0).parent
    if residue.is_dir():
        for path in residue.iterdir():
            path.unlink()
        residue.rmdir()
        folders.add(residue.parent)
    for folder in sorted(folders):
        sync_folder(folder)
    yield
    return {"rows": rows, "files": {}, "residue": None, "salts": None}


def count_rows(events: Path, cut: Cut) -> int:
    """Return how many rows of a segment's `events` a cut takes, or strips of their payload."""
    columns = ["session_id"] if cut.takes_rows else ["session_id", "kind", "payload"]
    total = 0
    with pq.ParquetFile(events) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            total += pc.sum(cut.takes(batch)).as_py() or 0
    return total


def rewrite(
    layout: Layout,
    gateway: str,
    seal: Mapping[str, Any],
    remains: Remains,
    cut: Cut,
) -> Steps:
    """Take `cut` out of a segment's files; return what `purge_done` says of it.

    Some of its sessions must stay; `remove_segment` is for all of them.

    Raises:
        TamperedError: its rows do not hash to the root that was sealed, before or after; then the
            old files are still in place.
        ArchiveError: a file of it cannot be read, or written again; a second run goes on.
    """
    work = _Rewrite(layout, gateway, seal, remains, cut)
    try:
        with naming(f"segment {seal['segment']}"):
            return (yield from work.run())
    except Exception:
        work.discard()
        raise


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Name `place` in what goes wrong with a file: Arrow's errors name neither file nor reason.

    Raises:
        ArchiveError: in place of an OSError, or of one of Arrow's.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or "damaged"
        if isinstance(error, FileNotFoundError):
            why = os.strerror(errno.ENOENT)
        raise ArchiveError(
            f"{place}: {why}",
            hint="a purge that was begun goes on the next time; `agentaudit verify` says more",
        ) from error


class _Rewrite:
    """One segment and one cut."""

    def __init__(
        self,
        layout: Layout,
        gateway: str,
        seal: Mapping[str, Any],
        remains: Remains,
        cut: Cut,
    ) -> None:
        self._root = layout.root
        self._seal = seal
        self._cut = cut
        segment = UUID(seal["segment"])
        self._paths = {
            table: segment_path(table, gateway, seal["first_at"], segment) for table in TABLES
        }
        self._residue = layout.residue(segment, remains.purges)
        self._salts = layout.salts(segment, remains.purges)
        self._gaps = read_gaps(layout, segment, remains)
        self._made: dict[str, SealedFile] = {}
        self._writers: dict[str, TableWriter] = {}
        self._begun: list[Path] = []
        self._gone: set[str] = set()

    def run(self) -> Steps:
        takes_rows = self._cut.takes_rows
        if not self._is_published():
            yield from self._leave()
            yield from self._filter()
        if takes_rows:
            self._gaps.add_residue(self._residue)
        elif self._salts.exists():
            self._gaps.add_salts(self._salts)
        yield from self._hash(lambda *_: None)
        rows = self._count()
        self._publish()
        yield
        return {
            "rows": rows,
            "files": {table: self._told(table) for table in TABLES if self._at(table)},
            "residue": self._of_file(self._residue) if takes_rows else None,
            "salts": None if takes_rows else self._of_file(self._salts),
        }

    def _at(self, table: str) -> Path | None:
        """Return where a table's rows are now: in the file that was made, or in the old one."""
        if table in self._gone:
            return None
        if table in self._made:
            return self._writers[table].temporary
        path = self._root / self._paths[table]
        return path if path.exists() else None

    def _there(self, table: str) -> Path:
        path = self._at(table)
        if path is None:
            raise TamperedError(
                f"{self._paths[table]}: missing",
                hint="put the file back: a purge goes on only from the files that it began with",
            )
        return path

    def _is_published(self) -> bool:
        """Say whether all files are the new ones already: `sessions` is renamed last."""
        sessions = pq.read_table(self._there("sessions"), columns=["session_id", "key_p"])
        ours = sessions.filter(self._cut.of(sessions))
        if self._cut.takes_rows:
            return bool(ours.num_rows == 0)
        return bool(ours.column("key_p").null_count == ours.num_rows)

    # --- what is left of what goes

    def _leave(self) -> Iterator[None]:
        """Make durable what must be known of rows and payloads once they are gone."""
        cut = self._cut
        self._commits: dict[int, bytes] = {}
        indices, hashes = array("q"), bytearray()

        def keep(batch: Batch, leaf_hashes: bytearray, commits: bytearray) -> None:
            ours = {slot for slot, run in enumerate(batch.runs) if run.session_id in cut.sessions}
            for row, slot in enumerate(batch.slot_of if ours else ()):
                if slot in ours:
                    piece = slice(HASH_BYTES * row, HASH_BYTES * (row + 1))
                    if cut.takes_rows:
                        indices.append(batch.event_no(row) - self._seal["first_event"])
                        hashes.extend(leaf_hashes[piece])
                    else:
                        self._commits[batch.event_no(row)] = bytes(commits[piece])

        if count_rows(self._there("events"), cut):
            yield from self._hash(keep)
            if cut.takes_rows:
                self._write(self._residue, "residue", indices, _split(hashes, HASH_BYTES))
        if not cut.takes_rows:
            yield from self._keep_salts()

    def _hash(self, keep: Callable[[Batch, bytearray, bytearray], None]) -> Iterator[None]:
        """Hash what there is and what was left of the rest, and hold it against the seal's root."""
        seal, gaps = self._seal, self._gaps
        keys = read_keys(self._there("sessions"))
        tree = Frontier()
        for batch in read_batches(self._there("events"), self._at("blobs")):
            give(batch, keys, gaps, seal["first_event"])
            hashes, commits = hash_batch(batch, keys)
            for piece in in_order(batch, hashes, tree, seal["first_event"], gaps):
                tree.extend(piece)
            keep(batch, hashes, commits)
            yield
        tree.extend(gaps.between(tree.size, seal["n"]) or b"")
        if tree.size != seal["n"] or tree.root().hex() != seal["root"]:
            raise TamperedError(
                f"segment {seal['segment']}: {tree.size} events hash to "
                f"{tree.root().hex()[:8]}…, {seal['n']} and {seal['root'][:8]}… as sealed",
                hint="nothing was purged from it; `agentaudit verify --deep` says more",
            )

    def _keep_salts(self) -> Iterator[None]:
        """Keep the salt of each payload that stays while its key goes."""
        keys = read_keys(self._there("sessions"))
        salts: dict[int, bytes] = {}
        columns = ["event_no", "session_id", "seq", "kind", "payload"]
        with pq.ParquetFile(self._there("events")) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                ours = batch.filter(pc.and_(self._cut.of(batch), _is_row_of_ours(batch)))
                ids = _storage(ours.column("session_id")).to_pylist()
                numbers, seqs = (ours.column(name).to_pylist() for name in ("event_no", "seq"))
                for number, seq, session_id in zip(numbers, seqs, ids, strict=True):
                    key_p = keys[session_id]["key_p"]
                    if key_p is not None:
                        salts[number - self._seal["first_event"]] = leaves.salt(key_p, seq)
                yield
        self._write(self._salts, "salts", salts.keys(), salts.values())

    def _write(
        self, path: Path, name: str, indices: Iterable[int], values: Iterable[bytes]
    ) -> None:
        writer = self._begin(path.relative_to(self._root).as_posix(), name)
        writer.write(_table(name, list(zip(indices, values, strict=True))))
        writer.finish()

    # --- what stays

    def _filter(self) -> Iterator[None]:
        """Write each table that changes again, under its `.tmp` name."""
        if self._cut.takes_rows:
            for table in ("decisions", "access"):
                self._filter_by_events(table)
            yield
        yield from self._filter_events()
        yield from self._filter_blobs()
        if self._cut.takes_rows:
            yield from self._filter_commands()
        self._filter_sessions()
        yield

    def _writer(self, table: str) -> TableWriter:
        return self._begin(self._paths[table], table)

    def _begin(self, relative: str, name: str) -> TableWriter:
        writer = TableWriter(self._root, relative, name)
        self._begun.append(writer.temporary)
        return writer

    def _finish(self, table: str, writer: TableWriter) -> None:
        """Take what was written as the table's file; a table without rows has none."""
        made = writer.prepare()
        if made is None:
            self._gone.add(table)
        else:
            self._writers[table], self._made[table] = writer, made

    def _filter_by_events(self, table: str) -> None:
        """Filter a table that has one row, in order, for each event of a kind."""
        path = self._at(table)
        if path is None:
            return
        kind = {"decisions": "decision", "access": "access"}[table]
        stays: list[bool] = []
        with pq.ParquetFile(self._there("events")) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["session_id", "kind"]):
                is_one = pc.equal(batch.column("kind").cast(pa.string()), kind)
                stays += pc.invert(self._cut.of(batch.filter(is_one))).to_pylist()
        rows = pq.read_table(path)
        if all(stays) or rows.num_rows == sum(stays):
            return  # nothing of it goes, or it has gone in a run before this one
        writer = self._writer(table)
        writer.write(rows.filter(pa.array(stays, pa.bool_())))
        self._finish(table, writer)

    def _filter_events(self) -> Iterator[None]:
        path, cut = self._there("events"), self._cut
        if not count_rows(path, cut):
            return
        rows = _Groups(self._writer("events"))
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                if cut.takes_rows:
                    rows.add(table.filter(pc.invert(cut.takes(table))))
                else:
                    rows.add(self._without_payloads(table))
                yield
        self._finish("events", rows.finish())

    def _without_payloads(self, table: pa.Table) -> pa.Table:
        goes = self._cut.takes(table)
        payload = pc.if_else(goes, pa.scalar(None, pa.binary()), table.column("payload"))
        commits = table.column("payload_commit").to_pylist()
        numbers = table.column("event_no").to_pylist()
        for row, (is_taken, number) in enumerate(zip(goes.to_pylist(), numbers, strict=True)):
            if is_taken and commits[row] is None:
                commits[row] = self._commits[number]
        for name, column in (("payload", payload), ("payload_commit", commits)):
            place = table.schema.get_field_index(name)
            field_ = SCHEMAS["events"].field(name)
            array_ = column if name == "payload" else pa.array(column, field_.type)
            table = table.set_column(place, field_, array_)
        return table

    def _filter_blobs(self) -> Iterator[None]:
        """Keep the chunks that an event still has; equal ones point to the first that stays."""
        path = self._at("blobs")
        if path is None:
            return
        places = pq.read_table(path, columns=["event_no", "offset", "same_as"])
        numbers, offsets, same = (column.to_pylist() for column in places.columns)
        texts, payloads = self._having(numbers)
        yield
        holder: dict[int, int] = {}
        # For each row: None where it goes, else the old row with its data, or (-1, new row) where
        # an equal chunk before it has that.
        fates: list[tuple[int, int | None] | None] = []
        count = 0
        for row, (number, offset, same_as) in enumerate(zip(numbers, offsets, same, strict=True)):
            if number not in (texts if offset < 0 else payloads):
                fates.append(None)
                continue
            source = row if same_as is None else same_as
            if source in holder:
                fates.append((-1, holder[source]))
            else:
                holder[source] = count
                fates.append((source, None))
            count += 1
        if None not in fates:
            return  # each keeps its row number, and so what points to it
        writer = self._writer("blobs")
        with pq.ParquetFile(path) as file:
            chunks = _Chunks(file)
            held: list[tuple[int, int, bytes | None, int | None]] = []
            size = 0
            for row, fate in enumerate(fates):
                if fate is None:
                    continue
                data = chunks.at(fate[0]) if fate[0] >= 0 else None
                held.append((numbers[row], offsets[row], data, fate[1]))
                size += len(data or b"")
                if size >= ROW_GROUP_BYTES or len(held) >= ROW_GROUP_ROWS:
                    writer.write(_table("blobs", held))
                    held, size = [], 0
                    yield
            writer.write(_table("blobs", held))
        self._finish("blobs", writer)

    def _having(self, numbers: Sequence[int]) -> tuple[set[int], set[int]]:
        """Return which of these events are still there, and which still have a payload."""
        wanted = pa.array(sorted(set(numbers)), pa.int64())
        texts: set[int] = set()
        payloads: set[int] = set()
        with pq.ParquetFile(self._there("events")) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["event_no", "payload"]):
                found = batch.filter(pc.is_in(batch.column("event_no"), value_set=wanted))
                texts.update(found.column("event_no").to_pylist())
                full = found.filter(found.column("payload").is_valid())
                payloads.update(full.column("event_no").to_pylist())
        return texts, payloads

    def _filter_commands(self) -> Iterator[None]:
        path = self._at("commands")
        if path is None:
            return
        ids = pq.read_table(path, columns=["session_id"])
        if not pc.any(self._cut.of(ids)).as_py():
            return
        rows = _Groups(self._writer("commands"))
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                stays = table.filter(pc.invert(self._cut.of(table)))
                rows.add(with_later_columns("commands", stays))
                yield
        self._finish("commands", rows.finish())

    def _filter_sessions(self) -> None:
        sessions = pq.read_table(self._there("sessions"))
        ours = self._cut.of(sessions)
        if self._cut.takes_rows:
            sessions = sessions.filter(pc.invert(ours))
        else:
            place = sessions.schema.get_field_index("key_p")
            field_ = SCHEMAS["sessions"].field("key_p")
            key_p = pc.if_else(ours, pa.scalar(None, field_.type), sessions.column("key_p"))
            sessions = sessions.set_column(place, field_, key_p)
        writer = self._writer("sessions")
        writer.write(sessions)
        self._finish("sessions", writer)

    # --- in place

    def _publish(self) -> None:
        """Give the new files their names, and remove those of tables without rows."""
        for table in _IN_ORDER:
            if table in self._gone:
                path = self._root / self._paths[table]
                path.unlink(missing_ok=True)
                sync_folder(path.parent)
            elif table in self._made:
                self._writers[table].publish()
            elif (there := self._at(table)) is not None:
                # A run before this one may have moved it and not synced that.
                sync_folder(there.parent)

    def discard(self) -> None:
        """Remove what was begun and has no name yet: a full disk needs the room."""
        for path in self._begun:
            path.unlink(missing_ok=True)

    def _count(self) -> int:
        """Return how many rows this cut has taken, or stripped of their payload."""
        if self._cut.takes_rows:
            with pq.ParquetFile(self._residue) as file:
                return int(file.metadata.num_rows)
        total = 0
        columns = ["session_id", "payload", "payload_commit"]
        with pq.ParquetFile(self._there("events")) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                stripped = pc.and_(
                    batch.column("payload").is_null(), batch.column("payload_commit").is_valid()
                )
                total += pc.sum(pc.and_(self._cut.of(batch), stripped)).as_py() or 0
        return total

    def _told(self, table: str) -> dict[str, Any]:
        made = self._made.get(table)
        if made is not None:
            return made.to_json()
        return self._of_file(self._root / self._paths[table]) or {}

    def _of_file(self, path: Path) -> dict[str, Any] | None:
        """Return what the log says of a file as it is, None where there is none."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            size = file.tell()
        rows = pq.read_metadata(path).num_rows
        return SealedFile(path.relative_to(self._root).as_posix(), digest, size, rows).to_json()


class _Groups:
    """Writes what is left of row groups as row groups of the usual size."""

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pa.Table) -> None:
        is_full = (
            self._rows + table.num_rows > ROW_GROUP_ROWS
            or self._bytes + table.nbytes > ROW_GROUP_BYTES
        )
        if is_full:
            self._flush()
        self._held.append(_plain(table))
        self._rows += table.num_rows
        self._bytes += table.nbytes

    def _flush(self) -> None:
        if self._rows:
            self._writer.write(_encoded(pa.concat_tables(self._held)))
        self._held, self._rows, self._bytes = [], 0, 0

    def finish(self) -> TableWriter:
        self._flush()
        return self._writer


def _plain(table: pa.Table) -> pa.Table:
    """Return `table` without dictionaries: theirs still hold the values of rows that went."""
    fields = [
        field_.with_type(field_.type.value_type) if pa.types.is_dictionary(field_.type) else field_
        for field_ in table.schema
    ]
    return table.cast(pa.schema(fields))


def _encoded(table: pa.Table) -> pa.Table:
    """Return a plain table with dictionaries again, of the values that are there."""
    for place, field_ in enumerate(SCHEMAS["events"] if "kind" in table.column_names else ()):
        if pa.types.is_dictionary(field_.type):
            column = table.column(place).combine_chunks().dictionary_encode()
            table = table.set_column(place, field_, column)
    return table


class _Chunks:
    """The data of rows of a blobs file, asked for mostly in order."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self._ends: list[int] = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            self._ends.append(rows + (self._ends[-1] if self._ends else 0))
        self._group = -1
        self._data: pa.ChunkedArray | None = None

    def at(self, row: int) -> bytes | None:
        group = bisect_right(self._ends, row)
        if group != self._group or self._data is None:
            self._data = self._file.read_row_group(group, columns=["data"]).column("data")
            self._group = group
        first = self._ends[group - 1] if group else 0
        data: bytes | None = self._data[row - first].as_py()
        return data


def _is_row_of_ours(rows: pa.RecordBatch) -> pa.Array:
    """Return which events have a payload that outlives payloads."""
    kinds = rows.column("kind").cast(pa.string())
    is_kept = pc.is_in(kinds, value_set=pa.array(sorted(KEPT_KINDS)))
    return pc.and_(is_kept, rows.column("payload").is_valid())


def _storage(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column of ids as their 16 bytes."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16))
    return column.storage


def _split(data: bytearray, size: int) -> Iterator[bytes]:
    return (bytes(data[start : start + size]) for start in range(0, len(data), size))


def _table(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = SCHEMAS[name]
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(values, type_) for values, type_ in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
