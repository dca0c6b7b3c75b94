"""A sealed segment as its log has it now, and the hash of each of its leaves.

A seal says what a segment was; what purges have done since says which of its files are left, and
where the hashes of removed rows lie. Whoever needs a whole tree and the content of one session
alone reads a segment here once: other sessions' payloads beyond what lies inline are never read,
as their commitments are stored.

Format: docs/formats/archive.md, "Leaf", "Tables" and "Retention"
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive import leaves
from agentaudit.archive.files import measure
from agentaudit.archive.journal import NO_STATUS, Entry, OpenSession
from agentaudit.archive.layout import TABLES, segment_path
from agentaudit.archive.leaves import LEAF_TAG, spans_digest
from agentaudit.archive.merkle import HASH_BYTES
from agentaudit.archive.segment import SCHEMAS, table_of
from agentaudit.archive.tracker import Tracked
from agentaudit.errors import ArchiveError, TamperedError
from agentaudit.model import Kind

MAX_SEGMENT_EVENTS = 1 << 24
"""A segment beyond this is not proven event by event: its tree would fill the memory."""

_BATCH_ROWS = 16_384
_KINDS = {kind.name.lower(): int(kind) for kind in Kind}
_COLUMNS = (
    "event_no",
    "observed_at",
    "mono_ns",
    "session_id",
    "seq",
    "command_no",
    "kind",
    "flags",
    "status",
    "orig_len",
    "stored_len",
    "text",
    "text_len",
    "payload",
    "payload_commit",
    "mask_spans",
)
_GROWING = ("events", "commands", "bytes_in", "bytes_out", "masked")
_OF_ITS_END = ("closed_at", "close_reason", "close_event_no", "is_final")
_CONSTANT = [name for name in SCHEMAS["sessions"].names if name not in (*_GROWING, *_OF_ITS_END)]
_OF_SESSION = ("gateway", "side", "masked", "protocol", "user", "agent", "target")


@dataclass(slots=True)
class Sealed:
    """A segment: its seal, where in the log that stands, and what is left of it.

    `files` are paths by table, built again rather than believed. `residue` and `salts` are what
    purges left in the place of rows and of keys, in the order of the purges. `told` is what the log
    says of each of these, by path.
    """

    gateway: str
    number: int
    seal: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    residue: list[str] = field(default_factory=list)
    salts: list[str] = field(default_factory=list)

    @property
    def segment(self) -> UUID:
        return UUID(self.seal["segment"])

    def require(self, root: Path, paths: Iterable[str]) -> None:
        """Return if the files at `paths`, below `root`, are the ones that the log tells of.

        Before this nothing of them is parsed: a few KB of Parquet may decode to gigabytes.

        Raises:
            TamperedError: one is not.
            ArchiveError, OSError: one cannot be read.
        """
        for path in paths:
            told = self.told[path]
            if measure(root / path, told["bytes"]) != (told["bytes"], told["sha256"]):
                raise TamperedError(
                    f"{path}: not the file that was sealed",
                    hint="`agentaudit verify` says more; keep a copy of the archive",
                )
            rows = pq.read_metadata(root / path).num_rows
            if rows != told["rows"]:
                raise TamperedError(f"{path}: {rows} rows, {told['rows']} as sealed")

    def session_ids(self, root: Path) -> Iterator[bytes]:
        """Yield the ids, 16 bytes each, of the sessions with events in it; none if it is gone.

        Raises:
            TamperedError: its `sessions` file is not the one that the log tells of.
            ArchiveError, OSError, pyarrow.ArrowException: it cannot be read.
        """
        if "sessions" not in self.files:
            return
        self.require(root, [self.files["sessions"]])
        for batch in _batches(root / self.files["sessions"], ["session_id"]):
            if batch.column(0).null_count:
                raise TamperedError(f"{self}: a session without an id")
            yield from _values(batch.column(0), "session_id")

    def constants(self, root: Path, sessions: Container[UUID]) -> Iterator[dict[str, Any]]:
        """Yield what the rows of `sessions` have of these all their lives; raises as above."""
        if "sessions" not in self.files:
            return
        self.require(root, [self.files["sessions"]])
        for batch in _batches(root / self.files["sessions"], _CONSTANT):
            yield from (row for row in batch.to_pylist() if row.get("session_id") in sessions)

    def __str__(self) -> str:
        return f"segment {self.seal['segment']}"


def sealed_segments(gateway: str, entries: Iterable[dict[str, Any]]) -> list[Sealed]:
    """Return the segments that the log `entries` of `gateway` seal, in their order.

    Raises:
        TamperedError: an entry names a file that is none of its segment's.
    """
    found: dict[str, Sealed] = {}
    for number, entry in enumerate(entries):
        if entry["type"] == "seal":
            sealed = found[entry["segment"]] = Sealed(gateway, number, entry)
            _name_files(sealed, entry["files"], number)
        elif entry["type"] == "purge_done" and entry["segment"] in found:
            sealed = found[entry["segment"]]
            _name_files(sealed, entry["files"], number)
            for name, paths in (("residue", sealed.residue), ("salts", sealed.salts)):
                if entry[name] is not None:
                    paths.append(_residue_path(sealed, entry[name], name, number))
    return list(found.values())


def require_sessions_as_sealed(
    root: Path, segments: Sequence[Sealed], sessions: Iterable[OpenSession]
) -> None:
    """Hold what a journal's header says of sessions against the segments that they began in.

    What grows with a session is not compared: that takes its events.

    Raises:
        TamperedError: their `sessions` files say something else of one, or nothing.
        ArchiveError, OSError, pyarrow.ArrowException: one cannot be read.
    """
    opened: dict[int, list[OpenSession]] = {}
    for session in sessions:
        ends = (one.seal["first_event"] + one.seal["n"] for one in segments)
        at = next((at for at, end in enumerate(ends) if session.open_event_no < end), -1)
        opened.setdefault(at, []).append(session)
    for at, claimed in opened.items():
        ids = {session.session_id for session in claimed}
        there = segments[at].constants(root, ids) if at >= 0 else ()
        rows = {row["session_id"]: row for row in there}
        for session in claimed:
            row = rows.get(session.session_id)
            if row is None or row != _constants(session):
                raise TamperedError(
                    f"session {session.session_id}: a journal's header says else than was sealed",
                    hint="`agentaudit verify --deep` says more; keep a copy of the archive",
                )


def _constants(session: OpenSession) -> dict[str, Any] | None:
    """Return what a row of `sessions` has of the session all its life, None where none can."""
    try:
        made = table_of("sessions", [Tracked(session).row()]).select(_CONSTANT).to_pylist()
    except (pa.ArrowException, TypeError, ValueError, AttributeError):
        return None
    return cast("dict[str, Any]", made[0])


def _name_files(sealed: Sealed, files: dict[str, Any], number: int) -> None:
    sealed.files, sealed.told = {}, {}
    for table, file in files.items():
        path = segment_path(table, sealed.gateway, sealed.seal["first_at"], sealed.segment)
        if table not in TABLES or file["path"] != path:
            raise TamperedError(f"log entry {number}: {sealed} has no file {file['path']!r}")
        sealed.files[table] = path
        sealed.told[path] = file


def _residue_path(sealed: Sealed, file: dict[str, Any], name: str, number: int) -> str:
    folder, _, last = file["path"].rpartition("/")
    count = last.removesuffix(".parquet").removesuffix(".salts" if name == "salts" else "")
    suffix = ".salts.parquet" if name == "salts" else ".parquet"
    is_right = folder == f"residue/{sealed.segment}" and last == f"{count}{suffix}"
    if not is_right or not count.isascii() or not count.isdigit():
        raise TamperedError(f"log entry {number}: {sealed} has no {name} {file['path']!r}")
    sealed.told[file["path"]] = file
    return str(file["path"])


@dataclass(slots=True)
class SessionEvent:
    """One event of the session that was asked for, whole, with what its leaf is made of.

    `preimage` is what the leaf hashes behind the byte 0. A salt is None where its key is gone.
    `payload_matches` says whether the payload, where there is one, is what the leaf commits to.
    `columns` are those of the row that no leaf has.
    """

    entry: Entry
    leaf_index: int
    preimage: bytes
    leaf: bytes
    salt_t: bytes | None
    salt_p: bytes | None
    payload_matches: bool
    columns: dict[str, Any]


class SegmentLeaves:
    """One pass over a segment: yields a session's events, and leaves behind the hash of each leaf.

    `hashes` holds 32 bytes a leaf; it is whole once `read` has ended.
    """

    def __init__(self, root: Path, sealed: Sealed) -> None:
        """Look at what is left of the segment, which the caller has held against the log.

        Raises:
            ArchiveError: it is larger than `MAX_SEGMENT_EVENTS`.
            TamperedError: its files hold another number of leaves than its seal says.
        """
        self._root = root
        self._sealed = sealed
        self._first = sealed.seal["first_event"]
        self._count = sealed.seal["n"]
        self._there = bytearray()
        self.hashes = bytearray()
        if self._count > MAX_SEGMENT_EVENTS:
            raise ArchiveError(
                f"{sealed}: {self._count:,} events, at most {MAX_SEGMENT_EVENTS:,} can be proven",
                hint="set gateway.segment_events lower for segments to come",
            )
        # Before anything is allocated for them: a seal can claim any number.
        paths = [*sealed.residue]
        if "events" in sealed.files:
            paths.append(sealed.files["events"])
        rows = sum(pq.read_metadata(root / path).num_rows for path in paths)
        if rows != self._count:
            raise TamperedError(f"{sealed}: {rows:,} leaves, its seal says {self._count:,}")

    def read(self, session_id: bytes) -> Iterator[SessionEvent]:
        """Yield the events of one session (none has the id of 0 bytes), in their order.

        Raises:
            TamperedError: a leaf is missing, is there twice, or cannot be made.
        """
        self.hashes = bytearray(HASH_BYTES * self._count)
        self._there = bytearray(self._count)
        for path in self._sealed.residue:
            for index, leaf in _pairs(self._root / path, "leaf_hash", HASH_BYTES):
                self._put(index, leaf)
        if "events" in self._sealed.files:
            yield from self._read_rows(session_id)
        if 0 in self._there:
            raise TamperedError(f"{self._sealed}: leaf {self._there.index(0)} is missing")

    def _put(self, index: int, leaf: bytes) -> None:
        if not 0 <= index < self._count or self._there[index]:
            raise TamperedError(f"{self._sealed}: leaf {index} is there twice, or is none of it")
        self._there[index] = 1
        self.hashes[HASH_BYTES * index : HASH_BYTES * (index + 1)] = leaf

    def _read_rows(self, session_id: bytes) -> Iterator[SessionEvent]:
        files = {table: self._root / path for table, path in self._sealed.files.items()}
        keys = _session_keys(files["sessions"]) if "sessions" in files else {}
        salts = {
            index: salt
            for path in self._sealed.salts
            for index, salt in _pairs(self._root / path, "salt", 16)
        }
        blobs = _Blobs(files.get("blobs"))
        with pq.ParquetFile(files["events"]) as file:
            names = [*_COLUMNS, *_OF_SESSION]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                columns = [_values(batch.column(name), name) for name in _COLUMNS]
                for number, row in enumerate(zip(*columns, strict=True)):
                    index = row[0] - self._first
                    if row[3] not in keys:
                        raise TamperedError(f"{self._sealed} leaf {index}: its session has no row")
                    event = _event(
                        row, index, keys[row[3]], salts.get(index), blobs, row[3] == session_id
                    )
                    self._put(index, event.leaf)
                    if row[3] == session_id:
                        for name in _OF_SESSION:
                            event.columns[name] = batch.column(name)[number].as_py()
                        yield event


def _event(
    row: tuple[Any, ...],
    index: int,
    keys: tuple[bytes | None, bytes | None, bytes | None],
    kept_salt: bytes | None,
    blobs: _Blobs,
    is_wanted: bool,
) -> SessionEvent:
    (event_no, observed_us, mono_ns, session_id, seq, command_no, kind, flags, status) = row[:9]
    (orig_len, stored_len, text, text_len, payload, commit, spans) = row[9:]
    key_m, key_t, key_p = keys
    if key_m is None or key_t is None:
        raise TamperedError(f"event {event_no}: the keys of its session are gone, and it is not")
    whole_text = None if text is None else text.encode()
    if whole_text is not None and text_len > len(whole_text):
        whole_text = blobs.complete(event_no, whole_text, text_len, sign=-1)
    if is_wanted and payload is not None and stored_len > len(payload):
        payload = blobs.complete(event_no, payload, stored_len, sign=1)
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
        text=whole_text,
        payload=payload,
        extra={"spans": spans} if spans else {},
    )
    salt_p = kept_salt if key_p is None else leaves.salt(key_p, seq)
    matches = True
    if payload is None:
        payload_commit = leaves.ABSENT if commit is None else commit
    elif commit is not None and not is_wanted:
        payload_commit = commit
    elif salt_p is None:
        raise TamperedError(f"event {event_no}: its payload is there, and nothing to prove it by")
    else:
        payload_commit = sha256(b"AA1p" + salt_p + payload).digest()
        matches = commit is None or commit == payload_commit
        payload_commit = commit or payload_commit
    preimage = b"".join(
        (
            LEAF_TAG,
            entry.fixed,
            leaves.salt(key_m, seq),
            leaves.text_commit(key_t, seq, whole_text),
            payload_commit,
            spans_digest(spans) if spans else leaves.ABSENT,
        )
    )
    return SessionEvent(
        entry=entry,
        leaf_index=index,
        preimage=preimage,
        leaf=sha256(b"\x00" + preimage).digest(),
        salt_t=leaves.salt(key_t, seq) if is_wanted else None,
        salt_p=salt_p,
        payload_matches=matches,
        columns={},
    )


def _values(column: Any, name: str) -> list[Any]:
    if name == "session_id":
        column = column.storage if column.type == pa.uuid() else column.cast(pa.binary(16))
    elif name == "observed_at":
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _session_keys(path: Path) -> dict[bytes, tuple[bytes | None, bytes | None, bytes | None]]:
    names = ["session_id", "key_m", "key_t", "key_p"]
    keys: dict[bytes, tuple[bytes | None, bytes | None, bytes | None]] = {}
    for batch in _batches(path, names):
        columns = [_values(batch.column(name), name) for name in names]
        for session_id, key_m, key_t, key_p in zip(*columns, strict=True):
            keys[session_id] = (key_m, key_t, key_p)
    return keys


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)


def _pairs(path: Path, value: str, width: int) -> Iterator[tuple[int, bytes]]:
    """Yield the rows of a residue or salts file: a leaf's index and what is kept of it."""
    for batch in _batches(path, ["leaf_index", value]):
        for index, data in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if len(data) != width:
                raise TamperedError(f"{path.name}: {len(data)} bytes, {width} expected")
            yield index, data


class _Blobs:
    """Gives the rest of large texts and payloads; reads along, and past what nobody asks for."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows = self._read()

    def _read(self) -> Iterator[tuple[int, int, bytes | None, int | None]]:
        if self._path is None:
            return
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def complete(self, event_no: int, head: bytes, size: int, *, sign: int) -> bytes:
        """Return all `size` bytes of a text (`sign` -1) or payload (+1) that begins with `head`.

        Raises:
            TamperedError: they are not all there.
        """
        parts, length = [head], len(head)
        while length < size:
            row = self._next(event_no, sign * length)
            data = row[2] if row[3] is None else self._at(row[3])
            if not data:
                raise TamperedError(f"event {event_no}: an empty blob")
            parts.append(data)
            length += len(data)
        if length != size:
            raise TamperedError(f"event {event_no}: {length} bytes in blobs, {size} expected")
        return b"".join(parts)

    def _next(self, event_no: int, offset: int) -> tuple[int, int, bytes | None, int | None]:
        for row in self._rows:
            if row[:2] == (event_no, offset):
                return row
            if row[0] > event_no:
                break
        raise TamperedError(f"event {event_no}: what lies beyond its row is not in blobs")

    def _at(self, row: int) -> bytes | None:
        """Return the data of blob number `row`, which an equal one names."""
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if 0 <= row < rows:
                    data = file.read_row_group(group, columns=["data"]).column("data")
                    value: bytes | None = data[row].as_py()
                    return value
                row -= rows
        return None
