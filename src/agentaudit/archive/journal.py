"""The journal: what was recorded, from its first write until its segment is sealed.

One file a segment, to which frames are only added. Each begins with a marker that is random per
file, and recovery looks for nothing else: bytes that an agent sends can never pass for a frame.
The journal holds no hash, because hashing here would cost the data path what the sealer can do
later; the CRC is there to find a torn tail, not a forger. It is laid out ahead in zeros, because
a file that grows takes the disk two writes to sync.

Format: docs/formats/archive.md, "Journal"
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID
from zlib import crc32

from agentaudit import _native
from agentaudit._native.system import write_all_at
from agentaudit.archive import canonical
from agentaudit.archive.batch import BATCH_ROWS, FIXED, NO_STATUS, Batch, Entry, Values
from agentaudit.archive.files import PRIVATE_MODE, open_regular, sync_folder
from agentaudit.archive.layout import Layout, is_segment
from agentaudit.errors import ArchiveError, TamperedError

__all__ = (
    "FIXED",
    "NO_STATUS",
    "Entry",
    "Header",
    "JournalReader",
    "JournalWriter",
    "OpenSession",
    "encode_frame",
    "in_order",
)

MAGIC = b"AA1J"
VERSION = 1
ROOM_BYTES = 256 << 10
"""A journal is laid out ahead up to the next multiple of this."""

_NULL = 0xFFFFFFFF
_MAX_FRAME_BYTES = 64 << 20
_MAX_CONTEXT_BYTES = 1 << 30
_READ_BYTES = 8 << 20
_MAX_READ_BYTES = _MAX_FRAME_BYTES + _READ_BYTES

# magic, version, segment id, first event_no, marker, length of the context, CRC of all of it
_HEADER = struct.Struct(">4sH16sQ16sI")
_FRAME = struct.Struct(">16sII")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
# Members are sorted and this is the last, so it is all that there is.
_SYNCED = b'{"synced":'
_pack_length = _U32.pack
_NULL_LENGTH = _U32.pack(_NULL)


@dataclass(slots=True)
class OpenSession:
    """What must be known of an open session to seal its events, wherever its segment begins."""

    session_id: UUID
    facts: dict[str, Any]
    key_m: bytes
    key_t: bytes
    key_p: bytes
    opened_us: int
    open_event_no: int
    events: int = 0
    commands: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    masked: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return this session as a member of a journal header's context."""
        return {
            "session_id": str(self.session_id),
            "facts": self.facts,
            "key_m": self.key_m.hex(),
            "key_t": self.key_t.hex(),
            "key_p": self.key_p.hex(),
            "opened_us": self.opened_us,
            "open_event_no": self.open_event_no,
            "events": self.events,
            "commands": self.commands,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "masked": self.masked,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> OpenSession:
        """Return the session that `to_json` wrote.

        Raises:
            ValueError, LookupError, TypeError, AttributeError, ArithmeticError: it wrote no such.
        """
        if not isinstance(value["facts"], dict):
            raise TypeError("facts: not an object")
        names = ("opened_us", "open_event_no", "events", "commands")
        sizes = ("bytes_in", "bytes_out", "masked")
        return cls(
            session_id=UUID(value["session_id"]),
            facts=value["facts"],
            key_m=bytes.fromhex(value["key_m"]),
            key_t=bytes.fromhex(value["key_t"]),
            key_p=bytes.fromhex(value["key_p"]),
            **{name: int(value[name]) for name in names + sizes},
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a journal: which segment, and which sessions were open when it began."""

    segment: UUID
    first_event_no: int
    marker: bytes
    sessions: tuple[OpenSession, ...] = ()

    def encode(self) -> bytes:
        """Return the header's bytes."""
        context = canonical.encode({"sessions": [s.to_json() for s in self.sessions]})
        head = _HEADER.pack(
            MAGIC, VERSION, self.segment.bytes, self.first_event_no, self.marker, len(context)
        )
        return head + context + _U32.pack(crc32(head + context))


def encode_frame(
    marker: bytes, fixed: bytes, text: bytes | None, payload: bytes | None, extra: bytes = b""
) -> bytes:
    """Return one frame; `fixed` is `FIXED`, `extra` canonical JSON or empty."""
    body = b"".join(
        (
            fixed,
            _NULL_LENGTH if text is None else _pack_length(len(text)),
            text or b"",
            _NULL_LENGTH if payload is None else _pack_length(len(payload)),
            payload or b"",
            _pack_length(len(extra)),
            extra,
        )
    )
    return _FRAME.pack(marker, len(body), crc32(body)) + body


class JournalReader:
    """Reads a journal from its start and, called again, what was appended since.

    An incomplete or invalid end is not an error here: the writer may be in the middle of it.
    `damage` tells the two apart when nobody writes any more.

    Raises:
        ArchiveError: no journal, or its header is damaged.
        TamperedError: the journal of another segment than its name says.
    """

    def __init__(self, path: Path, held: BinaryIO | None = None) -> None:
        """Read the header; `held` is the file where it is open and may be gone from `path`."""
        self.path = path
        self._held = held
        with self._file() as file:
            self.header, self.offset = _read_header(file.read(_HEADER.size), file, path)
        if is_segment(path.stem) and str(self.header.segment) != path.stem:
            # What the log says of a segment is looked up by its name: it must be this one's.
            raise TamperedError(
                f"{path.name}: its header says segment {self.header.segment}",
                hint="no recorder names a journal so; keep a copy of the archive",
            )
        self._next_event_no = self.header.first_event_no

    @contextmanager
    def _file(self) -> Iterator[BinaryIO]:
        if self._held is not None:
            self._held.seek(0)
            yield self._held
            return
        with open_regular(self.path) as file:
            yield file

    def read(self) -> Iterator[Entry]:
        """Yield, one by one, the whole entries behind the last one read."""
        for batch, ends in self._scan(lambda: BATCH_ROWS, whole=True):
            for entry, end in zip(batch.entries(), ends, strict=True):
                self._next_event_no += 1
                self.offset = end
                yield entry

    def batches(self, room: Callable[[], int] = lambda: BATCH_ROWS) -> Iterator[Batch]:
        """Yield, batch by batch, the whole entries behind the last one read.

        `room` is asked before each batch how many events it may have.

        Raises:
            TamperedError: a valid frame that no recorder writes.
        """
        for batch, ends in self._scan(room, whole=False):
            self._next_event_no += batch.rows
            self.offset = ends[-1]
            yield batch

    def skip(self) -> int:
        """Go behind the last whole entry, and return the offset in the file at which it ends."""
        for _ in self.batches():
            pass
        return self.offset

    def _scan(
        self, room: Callable[[], int], *, whole: bool
    ) -> Iterator[tuple[Batch, Sequence[int]]]:
        """Yield batches with the offset in the file at which each of their frames ends.

        Where not `whole`, what only recovery asks of a frame is left out of `extras`.
        """
        with self._file() as file:
            at, size = self.offset, _READ_BYTES
            while True:
                # What the last read ended in the middle of is read again: cheaper than joining.
                file.seek(at)
                buffer = file.read(size)
                start, verdict = 0, 1
                while verdict == 1:
                    rows, stop, verdict, fixed, texts, payloads, ends, extras = _native.scan(
                        buffer,
                        start,
                        self.header.marker,
                        self._next_event_no,
                        max(1, min(room(), BATCH_ROWS)),
                    )
                    if rows:
                        batch = Batch(
                            fixed,
                            Values(texts, buffer),
                            Values(payloads, buffer),
                            {
                                row: self._extra(buffer, o, n, at)
                                for row, o, n in extras
                                if whole or not buffer.startswith(_SYNCED, o)
                            },
                        )
                        told = memoryview(ends).cast("q")[0 if whole else -1 :]
                        yield batch, [at + end for end in told]
                    if verdict > 1:
                        raise self._tampered(buffer, stop, at + stop, verdict)
                    start = stop
                if len(buffer) < size or (start == 0 and size == _MAX_READ_BYTES):
                    return
                at += start
                size = _READ_BYTES if start else min(2 * size, _MAX_READ_BYTES)

    def _extra(self, buffer: bytes, start: int, length: int, at: int) -> dict[str, Any]:
        try:
            extra = canonical.decode(buffer[start : start + length])
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise TamperedError(
                f"{self.path.name}: what lies at byte {at + start} is not the JSON of a recorder",
                hint="no recorder writes such a frame; keep a copy of the journal",
            )
        return extra

    def _tampered(self, buffer: bytes, start: int, offset: int, verdict: int) -> TamperedError:
        if verdict == 2:
            (event_no,) = _U64.unpack_from(buffer, start + _FRAME.size)
            return TamperedError(
                f"{self.path.name}: event {event_no} at byte {offset}, "
                f"event {self._next_event_no} expected",
                hint="keep a copy of the journal before anything else",
            )
        return TamperedError(
            f"{self.path.name}: the frame at byte {offset} has a right CRC and wrong lengths",
            hint="no recorder writes such a frame; keep a copy of the journal",
        )

    def damage(self) -> bytes:
        """Return the bytes after the last whole frame: empty, or a torn tail.

        Zeros at the very end are no part of it: they are the room that was laid out ahead.
        A power cut loses unsynced writes in any order, so whole frames may follow the gap; they
        were not acknowledged either, unless one of them says that what is missing was synced.
        Where a whole frame has come since `read`, somebody writes, and there is nothing to say.

        Raises:
            TamperedError: what is missing was once durable, so this is no torn tail but corruption.
        """
        tail = self._tail()
        if self._frame_end(tail, 0) is not None:
            return b""
        position = tail.find(self.header.marker, 1)
        while position >= 0:
            end = self._frame_end(tail, position)
            if end is not None and _synced_before(tail, position) > self._next_event_no:
                if self._frame_end(self._tail(), 0) is not None:
                    # Read piece by piece: the room of the first had been filled when the next came.
                    return b""
                raise TamperedError(
                    f"{self.path.name}: invalid at byte {self.offset}, and the frame at byte "
                    f"{self.offset + position} was written after what was there had been synced",
                    hint="the journal was changed or the disk lost a write; keep a copy of it",
                )
            position = tail.find(self.header.marker, position + 1 if end is None else end)
        return tail.rstrip(b"\0")

    def _tail(self) -> bytes:
        with self._file() as file:
            file.seek(self.offset)
            return file.read()

    def _frame_end(self, buffer: bytes, start: int) -> int | None:
        """Return where the valid frame at `start` ends, or None where there is none (yet)."""
        if len(buffer) - start < _FRAME.size:
            return None
        marker: bytes
        length: int
        marker, length, checksum = _FRAME.unpack_from(buffer, start)
        if marker != self.header.marker or not FIXED.size + 12 <= length <= _MAX_FRAME_BYTES:
            return None
        begin = start + _FRAME.size
        end = begin + length
        is_whole = end <= len(buffer) and crc32(memoryview(buffer)[begin:end]) == checksum
        return end if is_whole else None


def _synced_before(buffer: bytes, start: int) -> int:
    """Return below which event_no all was durable when the valid frame at `start` was written."""
    at = start + _FRAME.size + FIXED.size
    try:
        for _ in ("text", "payload"):
            (length,) = _U32.unpack_from(buffer, at)
            at += 4 + (0 if length == _NULL else length)
        (length,) = _U32.unpack_from(buffer, at)
        extra = canonical.decode(buffer[at + 4 : at + 4 + length]) if length else {}
        return int(extra.get("synced", 0))
    except (struct.error, ValueError, AttributeError, TypeError):
        return 0


def in_order(layout: Layout, gateway: str) -> list[UUID]:
    """Return the segments with a journal, in the order of their events.

    Their ids are no help here: a clock that was set back makes a later segment's id the smaller.

    Raises:
        ArchiveError: a header is damaged.
    """
    first_event_no = {}
    for segment in layout.journal_segments(gateway):
        path = layout.journal(gateway, segment)
        try:
            with open_regular(path) as file:
                head = file.read(_HEADER.size)
        except FileNotFoundError:
            continue  # sealed since it was listed
        if len(head) < _HEADER.size:
            raise ArchiveError(f"{path.name}: its header is damaged")
        first_event_no[segment] = _HEADER.unpack(head)[3]
    return sorted(first_event_no, key=first_event_no.__getitem__)


def _read_header(head: bytes, file: Any, path: Path) -> tuple[Header, int]:
    if len(head) < _HEADER.size or head[:4] != MAGIC:
        raise ArchiveError(f"{path.name}: not a journal, {head[:4]!r} where {MAGIC!r} is expected")
    _, version, segment, first_event_no, marker, length = _HEADER.unpack(head)
    if version != VERSION:
        raise ArchiveError(f"{path.name}: journal version {version}, {VERSION} expected")
    if length > _MAX_CONTEXT_BYTES:
        raise ArchiveError(f"{path.name}: a context of {length} bytes")
    context = file.read(length)
    checksum = file.read(4)
    if len(checksum) < 4 or crc32(head + context) != _U32.unpack(checksum)[0]:
        raise ArchiveError(f"{path.name}: its header is damaged")
    try:
        sessions = tuple(map(OpenSession.from_json, canonical.decode(context)["sessions"]))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        raise ArchiveError(f"{path.name}: the context in its header is malformed") from None
    header = Header(UUID(bytes=segment), first_event_no, marker, sessions)
    return header, _HEADER.size + length + 4


class JournalWriter:
    """Writes one journal, laid out ahead: behind what was written there is a room of zeros.

    To sync a file that has grown takes the disk two writes, one after the other: of the bytes, and
    of where they lie. In a room it takes one. `finish` cuts off what is left of it; a reader takes
    zeros at the end for what they are.
    """

    __slots__ = ("_room_end", "end", "fd")

    def __init__(self, path: Path, header: Header) -> None:
        """Create the journal durably, whole or not at all.

        Raises:
            OSError: it cannot be.
        """
        temporary = path.with_name(path.name + ".tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        data = header.encode()
        self._room_end = self.end = len(data)
        self.fd = os.open(temporary, flags, PRIVATE_MODE)
        try:
            write_all_at(self.fd, data, 0)
            os.fsync(self.fd)
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            os.close(self.fd)
            raise

    def write(self, data: bytes) -> None:
        """Write `data` behind what was written.

        Raises:
            OSError: it cannot be, and a part of it may have been.
        """
        end = self.end + len(data)
        if end > self._room_end:
            room_end = end
            if len(data) <= ROOM_BYTES // 4:
                room_end = (end // ROOM_BYTES + 1) * ROOM_BYTES
                data += bytes(room_end - end)
            # Else a room would not last for long, and its zeros cost more than it saves.
            self._room_end = room_end
        write_all_at(self.fd, data, self.end)
        self.end = end

    def cut(self) -> None:
        """Take the room away, and with it what a failed write has left there.

        Raises:
            OSError: it cannot be.
        """
        os.ftruncate(self.fd, self.end)
        self._room_end = self.end

    def finish(self) -> None:
        """Cut the room off and sync all; `fd` is the caller's to close.

        Raises:
            OSError: it cannot be.
        """
        self.cut()
        os.fdatasync(self.fd)
