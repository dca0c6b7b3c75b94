"""The journal: what was written is read back, a torn tail is told from corruption."""

from __future__ import annotations

import errno
import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive import canonical, journal
from agentaudit.archive.journal import (
    ROOM_BYTES,
    Entry,
    Header,
    JournalReader,
    JournalWriter,
    OpenSession,
)
from agentaudit.archive.layout import Layout
from agentaudit.errors import ArchiveError, TamperedError
from agentaudit.model import Flag, Kind, Side

MARKER = bytes(range(16))
SEGMENT = UUID("018bcfe5-6800-7def-8123-456789abcdef")
SESSION = UUID("018bcfe5-6800-7abc-8123-456789abcdef")

json_values = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5)
entries = st.builds(
    Entry,
    event_no=st.just(0),
    observed_us=st.integers(-(2**63), 2**63 - 1),
    mono_ns=st.integers(0, 2**64 - 1),
    session_id=st.binary(min_size=16, max_size=16),
    seq=st.integers(0, 2**32 - 1),
    command_no=st.integers(-(2**31), 2**31 - 1),
    kind=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**16 - 1),
    status=st.integers(-(2**31), 2**31 - 1),
    orig_len=st.integers(0, 2**64 - 1),
    stored_len=st.integers(0, 2**64 - 1),
    text=st.none() | st.binary(max_size=40),
    payload=st.none() | st.binary(max_size=40) | st.just(MARKER * 3),
    extra=st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), json_values),
)


def frame(entry: Entry, marker: bytes = MARKER) -> bytes:
    extra = canonical.encode(entry.extra) if entry.extra else b""
    return journal.encode_frame(marker, entry.fixed, entry.text, entry.payload, extra)


def event(number: int, payload: bytes | None = b"payload", **changed: Any) -> Entry:
    fields: dict[str, Any] = {
        "event_no": number,
        "observed_us": 1_700_000_000_000_000 + number,
        "mono_ns": number,
        "session_id": SESSION.bytes,
        "seq": number,
        "command_no": -1,
        "kind": int(Kind.NOTICE),
        "flags": 0,
        "status": journal.NO_STATUS,
        "orig_len": 0,
        "stored_len": 0 if payload is None else len(payload),
        "text": None,
        "payload": payload,
    }
    return Entry(**(fields | changed))


def written(folder: Path, frames: bytes, first: int = 0) -> Path:
    path = folder / f"{SEGMENT}.journal"
    path.write_bytes(Header(SEGMENT, first, MARKER).encode() + frames)
    return path


@given(st.lists(entries, max_size=6), st.integers(0, 2**63))
def test_what_is_written_is_read_back(made: list[Entry], first: int) -> None:
    for number, entry in enumerate(made):
        entry.event_no = first + number
    path = Path(os.environ["XDG_STATE_HOME"]).parent / f"{SEGMENT}.journal"
    path.write_bytes(Header(SEGMENT, first, MARKER).encode() + b"".join(map(frame, made)))
    reader = JournalReader(path)
    assert list(reader.read()) == made
    assert reader.damage() == b""


@given(
    st.builds(
        OpenSession,
        session_id=st.uuids(),
        facts=st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), json_values),
        key_m=st.binary(min_size=32, max_size=32),
        key_t=st.binary(min_size=32, max_size=32),
        key_p=st.binary(min_size=32, max_size=32),
        opened_us=st.integers(0, 2**52),
        open_event_no=st.integers(0, 2**52),
        events=st.integers(0, 2**52),
        commands=st.integers(0, 2**52),
        bytes_in=st.integers(0, 2**52),
        bytes_out=st.integers(0, 2**52),
        masked=st.integers(0, 2**52),
    )
)
def test_the_sessions_open_at_the_start_are_read_back(session: OpenSession) -> None:
    path = Path(os.environ["XDG_STATE_HOME"]).parent / f"{SEGMENT}.journal"
    header = Header(SEGMENT, 7, MARKER, (session,))
    path.write_bytes(header.encode())
    assert JournalReader(path).header == header


def test_any_truncation_reads_as_a_prefix_and_leaves_a_torn_tail(tmp_path: Path) -> None:
    made = [event(n, payload=b"x" * n) for n in range(4)]
    frames = [frame(entry) for entry in made]
    ends = [0]
    for data in frames:
        ends.append(ends[-1] + len(data))
    path = written(tmp_path, b"".join(frames))
    whole = path.read_bytes()
    start = len(whole) - ends[-1]
    for cut in range(ends[-1] + 1):
        path.write_bytes(whole[: start + cut])
        reader = JournalReader(path)
        complete = max(n for n, end in enumerate(ends) if end <= cut)
        assert list(reader.read()) == made[:complete]
        assert reader.damage() == whole[start + ends[complete] : start + cut].rstrip(b"\0")
        assert reader.offset == start + ends[complete]


def test_a_reader_goes_on_where_it_stopped_however_the_bytes_arrive(tmp_path: Path) -> None:
    made = [event(n) for n in range(5)]
    data = b"".join(map(frame, made))
    path = written(tmp_path, b"")
    reader = JournalReader(path)
    found: list[Entry] = []
    with path.open("ab", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            found += reader.read()
    assert found == made


def test_a_reader_that_is_left_in_the_middle_goes_on_behind_what_it_gave(tmp_path: Path) -> None:
    made = [event(n) for n in range(5)]
    reader = JournalReader(written(tmp_path, b"".join(map(frame, made))))
    assert next(iter(reader.read())) == made[0]
    assert list(reader.read()) == made[1:]


def test_frames_larger_than_a_read_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_READ_BYTES", 100)
    made = [event(n, payload=b"y" * 333) for n in range(7)]
    assert list(JournalReader(written(tmp_path, b"".join(map(frame, made)))).read()) == made


def test_frames_inside_a_payload_are_not_frames(tmp_path: Path) -> None:
    """Even of an agent that knew the marker, which is random and readable by the gateway alone."""
    forged = frame(event(1, payload=b"forged"))
    made = [event(0, payload=forged * 2), event(1), event(2, payload=MARKER)]
    reader = JournalReader(written(tmp_path, b"".join(map(frame, made))))
    assert list(reader.read()) == made
    assert reader.damage() == b""


@given(st.binary(max_size=200))
def test_a_torn_tail_that_looks_like_another_journal_is_still_a_torn_tail(noise: bytes) -> None:
    """What an agent can know of journals, a marker of its own, never passes for a frame."""
    path = Path(os.environ["XDG_STATE_HOME"]).parent / f"{SEGMENT}.journal"
    foreign = frame(event(1), marker=bytes(reversed(MARKER)))
    torn = frame(event(1, payload=noise + foreign + noise))[:-1]
    path.write_bytes(Header(SEGMENT, 0, MARKER).encode() + frame(event(0)) + torn)
    reader = JournalReader(path)
    assert [entry.event_no for entry in reader.read()] == [0]
    assert reader.damage() == torn.rstrip(b"\0")


def test_any_byte_changed_in_what_a_later_frame_calls_synced_is_told_from_a_torn_tail(
    tmp_path: Path,
) -> None:
    frames = [frame(event(n)) for n in range(2)]
    frames.append(frame(event(2, text=b"t", payload=b"p", extra={"synced": 2})))
    path = written(tmp_path, b"".join(frames))
    whole = path.read_bytes()
    end = len(whole) - len(frames[-1])
    start = end - sum(map(len, frames[:-1]))
    for place in range(start, end):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        reader = JournalReader(path)
        read = list(reader.read())
        with pytest.raises(TamperedError, match=r"invalid at byte \d+, and the frame at byte \d+ "):
            reader.damage()
        assert len(read) < 2


def test_unsynced_writes_that_a_power_cut_lost_out_of_order_are_a_torn_tail(
    tmp_path: Path,
) -> None:
    """Of four writes after the last sync the second is lost; the frames behind it are whole."""
    frames = [frame(event(n, extra={"synced": 1} if n == 4 else {})) for n in range(5)]
    lost = bytes(len(frames[2]))
    path = written(tmp_path, b"".join((*frames[:2], lost, *frames[3:])))
    reader = JournalReader(path)
    assert [entry.event_no for entry in reader.read()] == [0, 1]
    assert reader.damage() == b"".join((lost, *frames[3:])).rstrip(b"\0")


def test_any_byte_changed_in_the_last_frame_reads_as_a_torn_tail(tmp_path: Path) -> None:
    frames = [frame(event(n)) for n in range(2)]
    path = written(tmp_path, b"".join(frames))
    whole = path.read_bytes()
    for place in range(len(whole) - len(frames[-1]), len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        reader = JournalReader(path)
        assert len(list(reader.read())) == 1
        assert reader.damage() == changed[-len(frames[-1]) :].rstrip(b"\0")


def test_any_byte_changed_in_the_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0x01, 0x80):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            with pytest.raises(ArchiveError, match=path.name):
                JournalReader(path)


def test_a_truncated_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=path.name):
            JournalReader(path)


def test_a_missing_frame_is_corruption(tmp_path: Path) -> None:
    path = written(tmp_path, frame(event(0)) + frame(event(2)))
    with pytest.raises(TamperedError, match=r"event 2 at byte \d+, event 1 expected"):
        list(JournalReader(path).read())


def test_frames_that_lie_about_their_length_end_the_journal(tmp_path: Path) -> None:
    whole = frame(event(0))
    for length in (0, 1, 2**32 - 1, (64 << 20) + 1):
        lying = whole[:16] + length.to_bytes(4) + whole[20:]
        reader = JournalReader(written(tmp_path, lying))
        assert list(reader.read()) == []
        assert reader.damage() == lying.rstrip(b"\0")


@pytest.mark.parametrize(
    ("kind", "flags", "side"),
    [
        (Kind.REQUEST, Flag.NONE, Side.CLIENT),
        (Kind.RESPONSE, Flag.FROM_TARGET, Side.TARGET),
        (Kind.NOTICE, Flag.FROM_TARGET | Flag.SYNTHETIC, Side.TARGET),
        (Kind.CONTENT, Flag.NONE, Side.CLIENT),
        (Kind.REFUSED, Flag.NONE, Side.CLIENT),
        (Kind.SESSION_OPEN, Flag.NONE, None),
        (Kind.COMMAND_END, Flag.FROM_TARGET, None),
        (Kind.ACCESS, Flag.NONE, None),
    ],
)
def test_an_event_belongs_to_the_side_that_its_kind_and_flags_say(
    kind: Kind, flags: Flag, side: Side | None
) -> None:
    assert event(0, kind=int(kind), flags=int(flags)).side is side


def test_a_journal_is_readable_by_its_owner_only_and_laid_out_ahead(tmp_path: Path) -> None:
    path = tmp_path / f"{SEGMENT}.journal"
    header = Header(SEGMENT, 0, MARKER)
    writer = JournalWriter(path, header)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    reader = JournalReader(path)
    frames = [frame(event(number, b"%0700d" % number)) for number in range(900)]
    read: list[int] = []
    for written in frames:
        writer.write(written)
        if len(read) % 7 == 0:
            assert path.stat().st_size % ROOM_BYTES == 0
        read += [entry.event_no for entry in reader.read()]
        assert reader.damage() == b""
    assert len(frames) * len(frames[0]) > 2 * ROOM_BYTES
    assert read == list(range(900))
    writer.finish()
    os.close(writer.fd)
    assert path.read_bytes() == header.encode() + b"".join(frames)


def test_what_is_large_is_written_without_a_room(tmp_path: Path) -> None:
    path = tmp_path / f"{SEGMENT}.journal"
    writer = JournalWriter(path, Header(SEGMENT, 0, MARKER))
    writer.write(frame(event(0)))
    writer.write(large := frame(event(1, bytes(ROOM_BYTES))))
    assert path.stat().st_size == writer.end
    writer.write(large := frame(event(2, bytes(ROOM_BYTES // 2))))
    assert path.stat().st_size == writer.end
    writer.write(frame(event(3)))
    assert path.stat().st_size == (writer.end // ROOM_BYTES + 1) * ROOM_BYTES
    os.close(writer.fd)
    assert len(large) > ROOM_BYTES // 4
    assert [entry.event_no for entry in JournalReader(path).read()] == [0, 1, 2, 3]


def test_a_tail_is_torn_in_its_room_and_ends_in_zeros(tmp_path: Path) -> None:
    """Frames end in zeros themselves: what a room adds is not taken for a part of them."""
    path = tmp_path / f"{SEGMENT}.journal"
    writer = JournalWriter(path, Header(SEGMENT, 0, MARKER))
    writer.write(frame(event(0)))
    end = writer.end
    writer.write(lost := frame(event(1, b"lost")))
    os.close(writer.fd)
    whole = path.read_bytes()
    assert lost.endswith(bytes(4))
    for kept in range(len(lost) + 1):
        torn = bytearray(whole)
        torn[end + kept : end + len(lost)] = bytes(len(lost) - kept)
        path.write_bytes(torn)
        reader = JournalReader(path)
        read = [entry.event_no for entry in reader.read()]
        is_whole = not lost[kept:].strip(b"\0")
        assert read == ([0, 1] if is_whole else [0])
        assert reader.damage() == (b"" if is_whole else lost[:kept].rstrip(b"\0"))


def test_a_gap_of_zeros_before_a_frame_is_told_from_a_room(tmp_path: Path) -> None:
    """A power cut loses unsynced writes in any order; what was synced it does not lose."""
    path = tmp_path / f"{SEGMENT}.journal"
    for synced in (0, 1, 2):
        writer = JournalWriter(path, Header(SEGMENT, 0, MARKER))
        writer.write(frame(event(0)))
        end = writer.end
        writer.write(lost := frame(event(1)))
        writer.write(kept := frame(event(2, extra={"synced": synced})))
        os.pwrite(writer.fd, bytes(len(lost)), end)
        os.close(writer.fd)
        reader = JournalReader(path)
        assert [entry.event_no for entry in reader.read()] == [0]
        if synced == 2:
            with pytest.raises(TamperedError, match="had been synced"):
                reader.damage()
        else:
            assert reader.damage() == bytes(len(lost)) + kept.rstrip(b"\0")


def test_a_gap_that_is_filled_while_it_is_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read piece by piece, and rooms are filled meanwhile."""
    path = tmp_path / f"{SEGMENT}.journal"
    writer = JournalWriter(path, Header(SEGMENT, 0, MARKER))
    writer.write(frame(event(0)))
    reader = JournalReader(path)
    assert [entry.event_no for entry in reader.read()] == [0]
    missed = frame(event(1))
    writer.write(missed)
    writer.write(frame(event(2, extra={"synced": 2})))
    os.close(writer.fd)
    seen = reader._tail()
    looks = iter([bytes(len(missed)) + seen[len(missed) :], seen])
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_tail", lambda: next(looks))
        assert reader.damage() == b""
    assert next(looks, None) is None
    assert [entry.event_no for entry in reader.read()] == [1, 2]


def test_what_a_failed_write_has_left_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{SEGMENT}.journal"
    writer = JournalWriter(path, Header(SEGMENT, 0, MARKER))
    writer.write(frame(event(0)))
    end = writer.end

    def failing(fd: int, data: bytes, offset: int) -> None:
        os.pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all_at", failing)
        with pytest.raises(OSError, match="No space"):
            writer.write(frame(event(1, bytes(ROOM_BYTES))))
    assert writer.end == end
    assert path.stat().st_size > end
    writer.cut()
    assert path.stat().st_size == end
    writer.write(frame(event(1)))
    os.close(writer.fd)
    reader = JournalReader(path)
    assert [entry.event_no for entry in reader.read()] == [0, 1]
    assert reader.damage() == b""


def test_a_journal_that_cannot_be_synced_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / f"{SEGMENT}.journal"
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            JournalWriter(path, Header(SEGMENT, 0, MARKER))
    assert not path.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_journals_are_ordered_by_their_events_whatever_their_ids_say(tmp_path: Path) -> None:
    """A clock that was set back gives a later segment the smaller id."""
    layout = Layout(tmp_path)
    layout.journals("gw1").mkdir(parents=True)
    ids = [UUID(int=n << 96) for n in (5, 3, 9, 1)]
    for first, segment in enumerate(ids):
        header = Header(segment, first, MARKER)
        os.close(JournalWriter(layout.journal("gw1", segment), header).fd)
    assert journal.in_order(layout, "gw1") == ids
    assert all(a.int != b.int for a, b in pairwise(ids))
    layout.journal("gw1", ids[2]).write_bytes(b"AA1J")
    with pytest.raises(ArchiveError, match="header is damaged"):
        journal.in_order(layout, "gw1")


def test_a_journal_under_another_name_than_its_segment_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    other = path.rename(path.with_name(f"{UUID(int=9)}.journal"))
    with pytest.raises(TamperedError, match=f"its header says segment {SEGMENT}"):
        JournalReader(other)


def test_what_is_no_journal_or_a_newer_one_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    whole = path.read_bytes()
    path.write_bytes(b"PAR1" + whole[4:])
    with pytest.raises(ArchiveError, match="not a journal, b'PAR1' where b'AA1J' is expected"):
        JournalReader(path)
    path.write_bytes(whole[:4] + (2).to_bytes(2) + whole[6:])
    with pytest.raises(ArchiveError, match="journal version 2, 1 expected"):
        JournalReader(path)
