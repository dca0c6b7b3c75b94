"""Follows a live journal for whoever looks on: sessions and commands, as the archive has them.

It only reads, from another process than the recorder's, and costs the data path nothing. It may
miss what it cannot keep up with, and then says how much: what it tells is no evidence. A journal
that is sealed meanwhile is read to its end by the descriptor that is open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Literal, cast
from uuid import UUID

from agentaudit.archive import canonical, journal
from agentaudit.archive.batch import Batch
from agentaudit.archive.files import open_regular
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.layout import Layout

MAX_READ_BYTES: Final = 8 << 20
"""What one call reads, about: a fraction of a batch more."""

MAX_BEHIND_BYTES: Final = 32 << 20
"""What is further behind is skipped."""

_TAIL_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 24
"""Marker, length and CRC of a frame; its event number is next."""

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A session that opened or closed, or a command that ended; `row` as the archive has it.

    `facts` is what is constant in the session, or None where its beginning was not seen.
    """

    what: Literal["opened", "closed", "command"]
    session_id: UUID
    row: dict[str, Any]
    facts: Facts | None


@dataclass(slots=True)
class Followed:
    """What one call has read: what was seen, in order, and what was passed over."""

    seen: list[Seen] = field(default_factory=list)
    commands_skipped: int = 0
    events_skipped: int = 0
    bytes_skipped: int = 0


class Follower:
    """One log's live journal, from now on. Belongs to one thread; `close` it."""

    def __init__(self, layout: Layout, gateway: str) -> None:
        self._layout = layout
        self._gateway = gateway
        self._file: BinaryIO | None = None
        self._reader: _Reader
        self._sessions: dict[bytes, Facts] = {}
        self._is_at_end = False

    def read(self, most: int) -> Followed:
        """Return what came since the last call; the first returns nothing. At most `most` commands.

        Raises:
            ArchiveError, OSError: the journal cannot be read.
        """
        followed = Followed()
        if self._file is None:
            segments = journal.in_order(self._layout, self._gateway)
            if not segments:
                self._is_at_end = True  # between a seal and the next event
                return followed
            self._open(segments[0 if self._is_at_end else -1])
            if self._is_at_end:
                return self.read(most)
            self._reader.jump(self._size())
            self._take(Followed(), 0, MAX_READ_BYTES)
            return followed
        behind = self._size() - self._reader.offset
        if behind > MAX_BEHIND_BYTES:
            followed.bytes_skipped = self._reader.jump(self._size())
        while self._take(followed, most, MAX_READ_BYTES) and self._go_on(followed, most):
            pass
        return followed

    def close(self) -> None:
        """Close what is open; the next `read` begins anew."""
        self._is_at_end = False
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _size(self) -> int:
        assert self._file is not None
        return os.fstat(self._file.fileno()).st_size

    def _open(self, segment: UUID) -> None:
        path = self._layout.journal(self._gateway, segment)
        # Unbuffered: what lies behind the end now is room, and has other bytes at the next look.
        file = cast(BinaryIO, open_regular(path).detach())
        try:
            reader = _Reader(path, file)
        except BaseException:
            file.close()
            raise
        self._close_file()
        self._file, self._reader = file, reader
        self._sessions = {each.session_id.bytes: each.facts for each in reader.header.sessions}

    def _go_on(self, followed: Followed, most: int) -> bool:
        """Go to the segment behind this one; return whether there is one."""
        for segment in journal.in_order(self._layout, self._gateway):
            if segment == self._reader.header.segment:
                continue
            path = self._layout.journal(self._gateway, segment)
            try:
                first = JournalReader(path).header.first_event_no
            except FileNotFoundError:
                continue
            if first < self._reader.next_event_no:
                continue
            # It began when this one was finished, so whatever this one has is there now.
            if not self._take(followed, most, MAX_READ_BYTES):
                return False
            missing = first - self._reader.next_event_no
            try:
                self._open(segment)
            except FileNotFoundError:
                continue
            # Segments that came and were sealed between two looks.
            followed.events_skipped += missing
            return True
        return False

    def _take(self, followed: Followed, most: int, limit: int) -> bool:
        """Read on; return whether that is all that there is."""
        begin = self._reader.offset
        for batch in self._reader.batches():
            self._look(batch, followed, most)
            if self._reader.offset - begin > limit:
                return False
        return True

    def _look(self, batch: Batch, followed: Followed, most: int) -> None:
        for row, what in _of_interest(batch):
            entry = batch.entry(row)
            facts = self._sessions.get(entry.session_id)
            if what == "opened":
                members = canonical.decode(entry.payload or b"{}")
                self._sessions[entry.session_id] = facts = members
            elif what == "closed":
                members = canonical.decode(entry.payload or b"{}")
                self._sessions.pop(entry.session_id, None)
            elif len(followed.seen) >= most:
                followed.commands_skipped += 1
                continue
            else:
                members = canonical.decode(entry.payload or b"{}")
            followed.seen.append(Seen(what, UUID(bytes=entry.session_id), members, facts))


class _Reader(JournalReader):
    @property
    def next_event_no(self) -> int:
        return self._next_event_no

    def jump(self, size: int) -> int:
        """Go to a whole frame near the end of a file of `size`; return how many bytes that skips.

        It stays where it is while no frame begins there.
        """
        begin = max(self.offset, size - _TAIL_BYTES)
        with self._file() as file:
            file.seek(begin)
            tail = file.read(_TAIL_BYTES)
        at = tail.find(self.header.marker)
        while at >= 0 and self._frame_end(tail, at) is None:
            at = tail.find(self.header.marker, at + 1)
        if at < 0:
            return 0
        skipped = begin + at - self.offset
        self.offset += skipped
        self._next_event_no = int.from_bytes(tail[at + _HEAD_BYTES : at + _HEAD_BYTES + 8])
        return skipped


def _of_interest(batch: Batch) -> Iterator[tuple[int, Literal["opened", "closed", "command"]]]:
    rows: list[tuple[int, Literal["opened", "closed", "command"]]] = []
    rows += [(row, "command") for row in batch.ends]
    rows += [(run.first, "opened") for run in batch.runs if run.opens]
    rows += [(run.last, "closed") for run in batch.runs if run.closes]
    yield from sorted(rows)
