"""When the disk or the sealer fails, traffic stops, and nothing that counted is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive import journal, sealer_process
from agentaudit.archive import recorder as recorder_module
from agentaudit.archive.journal import JournalReader, encode_frame
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.verify import verify
from agentaudit.errors import RecordingError
from agentaudit.model import Event, Kind, Side
from tests.archive.faults import Disk, io_in_python
from tests.archive.recording import (
    ANA,
    BOB,
    CheckedLoop,
    Site,
    counted,
    exchange,
    new_site,
    record,
    recover,
    request,
    require_sound,
    rows,
    start,
    until,
)


def sealer_pid(recorder: Recorder) -> int:
    transport = recorder._sealer._transport
    assert transport is not None
    pid = transport.get_pid()
    assert pid is not None
    return pid


class Failures(list[RecordingError]):
    """What `on_failure` was called with."""

    async def one(self) -> RecordingError:
        await until(lambda: bool(self), "a failure")
        return self[0]


async def require_stopped(recorder: Recorder, failures: Failures, what: str) -> None:
    """Nothing more passes: every call says why, and `on_failure` was called once."""
    failure = await failures.one()
    assert what in str(failure)
    assert recorder.failure is failure
    assert not recorder.healthy
    with pytest.raises(RecordingError, match=r"\w"):
        recorder.open_session(ANA)
    with pytest.raises(RecordingError, match=r"\w"):
        recorder.release(lambda: None, synced=False)
    with pytest.raises(RecordingError, match=r"\w"):
        await recorder.stop()
    assert len(failures) == 1


async def test_a_failed_sync_stops_traffic_and_what_was_written_is_recovered(
    site: Site, disk: Disk
) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    exchange(session, 0, "select 'acknowledged'")
    await counted(recorder)
    released: list[str] = []
    disk.error = OSError(errno.EIO, "Input/output error")
    exchange(session, 1, "select 'in doubt'")
    recorder.release(lambda: released.append("synced"), synced=True)
    await failures.one()
    with pytest.raises(RecordingError, match="Input/output error"):
        session.record(Event(kind=Kind.NOTICE))
    session.close("client")
    await require_stopped(recorder, failures, "sync: Input/output error")
    assert released == []
    disk.error = None
    recover(site)
    require_sound(site)
    assert [row["text"] for row in rows(site, "commands")] == [
        "select 'acknowledged'",
        "select 'in doubt'",
    ]
    assert {row["close_reason"] for row in rows(site, "sessions")} == {"gateway_crash"}


async def test_a_sync_that_fails_at_the_very_end_is_told(site: Site, disk: Disk) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    await counted(recorder)
    disk.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(RecordingError, match="Input/output error"):
        await recorder.stop()
    assert len(failures) == 1
    disk.error = None
    recover(site)
    require_sound(site)


async def test_a_failed_sync_between_segments_stops_traffic(site: Site, disk: Disk) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append, segment_events=8)
    session = recorder.open_session(ANA)
    await counted(recorder)
    disk.error = OSError(errno.EIO, "Input/output error")
    for command_no in range(3):
        exchange(session, command_no)
    await require_stopped(recorder, failures, "Input/output error")
    disk.error = None
    recover(site)
    require_sound(site)


def is_journal(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").readlink().suffix == ".journal"


class FullDisk:
    """From a moment on, a journal can grow by `room` more bytes and no more."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.reserve = 1 << 20
        real = os.pwrite
        reserve = site.layout.reserve("gw1")

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if self.room is None or not is_journal(fd):
                return real(fd, data, offset)
            if not reserve.exists():
                self.room, self.reserve = self.room + self.reserve, 0
            size = os.fstat(fd).st_size
            taken = min(len(data), max(0, size - offset) + self.room)
            if taken == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= max(0, offset + taken - size)
            return real(fd, data[:taken], offset)

        io_in_python(monkeypatch)
        monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("laid_out", [1, 64, 1024], ids="rooms of {}".format)
@pytest.mark.parametrize("room", [0, 1, 100, 500])
async def test_a_full_disk_ends_every_session_on_the_reserve(
    site: Site, monkeypatch: pytest.MonkeyPatch, room: int, laid_out: int
) -> None:
    """Wherever the last write is cut, its frames come out whole, once the reserve is given back."""
    monkeypatch.setattr(journal, "ROOM_BYTES", laid_out)
    full = FullDisk(site, monkeypatch)
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session, other = recorder.open_session(ANA), recorder.open_session(BOB)
    exchange(session, 0)
    await counted(recorder)
    released: list[str] = []
    full.room = room
    exchange(session, 1, "select 'the last'")
    request(other, 0, "select 'unanswered'")
    recorder.release(lambda: released.append("written"), synced=False)
    await require_stopped(recorder, failures, "No space left on device")
    assert "free space" in failures[0].hint
    assert released == []
    full.room = None
    require_sound(site)
    assert {row["close_reason"] for row in rows(site, "sessions")} == {"recording_failed"}
    assert [(row["text"], row["status"]) for row in rows(site, "commands")] == [
        ("select 1", "ok"),
        ("select 'the last'", "ok"),
        ("select 'unanswered'", "incomplete"),
    ]


async def test_a_full_disk_without_a_reserve_leaves_a_torn_tail_that_is_cut(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROOM_BYTES", 1)
    full = FullDisk(site, monkeypatch)
    full.reserve = 0
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    await counted(recorder)
    full.room = 50
    exchange(session, 0)
    await require_stopped(recorder, failures, "No space left on device")
    full.room = None
    recover(site)
    require_sound(site)
    assert {row["close_reason"] for row in rows(site, "sessions")} == {"gateway_crash"}


async def test_a_write_that_fails_otherwise_stops_traffic(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    await counted(recorder)
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if is_journal(fd):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data, offset)

    io_in_python(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        recorder.open_session(ANA)
        await require_stopped(recorder, failures, "journal write: Input/output error")
    recover(site)
    require_sound(site)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 66 MiB: two more than the reserve."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=66m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.full
async def test_a_disk_that_is_really_full_ends_every_session_and_seals_what_was_recorded(
    small_disk: Path,
) -> None:
    """Needs root, as it mounts a file system."""
    site = new_site(small_disk / "site")
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    command_no = 0
    acknowledged = -1
    while recorder.failure is None:
        exchange(session, command_no, reply=os.urandom(50_000))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        recorder.release(lambda done=done: done.set_result(None), synced=True)  # type: ignore[misc]
        await until(lambda done=done: done.done() or bool(failures), "an answer")  # type: ignore[misc]
        if done.done():
            acknowledged = command_no
        command_no += 1
    assert acknowledged >= 10
    await require_stopped(recorder, failures, "No space left on device")
    if site.journals():
        recover(site)  # the sealer itself had met the full disk first
    require_sound(site)
    assert len(rows(site, "commands")) > acknowledged


async def test_too_little_free_space_stops_traffic_in_good_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    failures = Failures()
    recorder = await start(site, on_failure=failures.append, disk_stop=1 << 62)
    session = recorder.open_session(ANA)
    exchange(session, 0)
    await require_stopped(recorder, failures, "disk_stop is 4611686018427387904")
    require_sound(site)
    assert {row["close_reason"] for row in rows(site, "sessions")} == {"recording_failed"}


async def test_a_disk_that_does_not_say_how_much_is_free_stops_traffic(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    failures = Failures()
    recorder = await start(site, on_failure=failures.append, disk_stop=1)
    exchange(recorder.open_session(ANA), 0)
    await counted(recorder)
    monkeypatch.setattr(os, "statvfs", broken)
    await require_stopped(recorder, failures, "free space: Input/output error")
    recover(site)
    require_sound(site)


async def test_the_reserve_is_there_while_a_gateway_records_and_only_then(site: Site) -> None:
    recorder = await start(site)
    reserve = site.layout.reserve("gw1")
    assert reserve.stat().st_size == 64 << 20
    assert reserve.stat().st_blocks * 512 >= 64 << 20
    await recorder.stop()
    assert not reserve.exists()


async def test_a_sealer_that_dies_stops_traffic(site: Site) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    exchange(session, 0)
    await counted(recorder)
    os.kill(sealer_pid(recorder), signal.SIGKILL)
    await require_stopped(recorder, failures, "the sealer ended with status -9")
    recover(site)
    require_sound(site)
    assert len(rows(site, "commands")) == 1
    # docs/operate.md says so: nobody was left to record another reason.
    assert {row["close_reason"] for row in rows(site, "sessions")} == {"gateway_crash"}


class OnceOnly:
    """A disk that tells once that a write has failed, as Linux does of each open file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        io_in_python(monkeypatch)
        self.is_broken = False
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self._loop_thread = threading.get_ident()
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        if self.is_broken and threading.get_ident() != self._loop_thread:
            self.is_asked.set()
            assert self.may_answer.wait(60)
            raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_a_roll_does_not_pass_over_a_sync_that_has_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = OnceOnly(monkeypatch)
    failures = Failures()
    recorder = await start(site, segment_events=10, on_failure=failures.append)
    session = recorder.open_session(ANA)
    await counted(recorder)
    disk.is_broken = True
    released: list[str] = []
    for name, events in (("before", 1), ("behind", 12)):
        recorder.begin_turn()
        for _ in range(events):
            session.record(Event(kind=Kind.NOTICE, side=Side.TARGET))
        recorder.release(partial(released.append, name), synced=True)
        recorder.end_turn(False)
        disk.may_answer.set()  # nobody has looked for it when the next turn ends
    assert released == []
    await require_stopped(recorder, failures, "sync: Input/output error")
    assert released == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stop_does_not_pass_over_the_sync_under_way(
    site: Site, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    disk = OnceOnly(monkeypatch)
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    await counted(recorder)
    disk.is_broken = fails
    session.record(Event(kind=Kind.NOTICE, side=Side.TARGET))
    heard: list[str] = []

    async def wait() -> None:
        try:
            await recorder.recorded()
            heard.append("recorded")
        except RecordingError as error:
            heard.append(str(error))

    async with asyncio.TaskGroup() as tasks, asyncio.timeout(60):
        tasks.create_task(wait())
        if fails:
            await until(disk.is_asked.is_set, "the sync is under way")
            asyncio.get_running_loop().call_later(0.05, disk.may_answer.set)
            with pytest.raises(RecordingError, match="sync: Input/output error"):
                await recorder.stop()
            assert len(failures) == 1
        else:
            await asyncio.sleep(0)
            await recorder.stop()
    assert len(heard) == 1
    assert heard[0].endswith("sync: Input/output error" if fails else "recorded")


async def test_a_sealer_that_dies_while_it_should_seal_is_told(site: Site) -> None:
    recorder = await start(site)
    await counted(recorder)
    os.kill(sealer_pid(recorder), signal.SIGKILL)
    with pytest.raises(RecordingError, match="status -9"):
        await recorder.stop()
    recover(site)
    require_sound(site)


async def test_a_sealer_that_signs_nothing_stops_traffic(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    monkeypatch.setattr(recorder_module, "SEALER_SILENCE_S", 0.2)
    monkeypatch.setattr(sealer_process, "EXIT_S", 0.2)
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    os.kill(sealer_pid(recorder), signal.SIGSTOP)
    recorder.open_session(ANA)
    await require_stopped(recorder, failures, "the sealer signed nothing")
    recover(site)
    require_sound(site)


async def test_traffic_waits_for_a_sealer_that_gets_no_processor(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    monkeypatch.setattr(recorder_module, "SEALER_SILENCE_S", 0.2)
    told: list[bool] = []
    recorder = await start(site, on_behind=told.append)
    # Stopped it waits for no processor: the kernel's count of that is all that is made up here.
    os.kill(sealer_pid(recorder), signal.SIGSTOP)
    monkeypatch.setattr(sealer_process.SealerProcess, "starved_s", lambda self: time.monotonic())
    session = recorder.open_session(ANA)
    await until(lambda: recorder.is_behind, "traffic waits")
    assert recorder.is_starved
    loop = CheckedLoop(recorder)
    await until(lambda: loop.checks >= 50, "two and a half times the silence of one that has died")
    assert recorder.healthy
    monkeypatch.setattr(recorder_module, "SEALER_SILENCE_S", 30.0)
    os.kill(sealer_pid(recorder), signal.SIGCONT)
    await until(lambda: told == [True, False], "traffic goes on")
    session.close("client")
    await recorder.stop()
    require_sound(site)


async def test_what_waits_for_a_processor_is_counted(site: Site) -> None:
    recorder = await start(site)
    before_s = recorder._sealer.starved_s()
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(sealer_pid(recorder), {cpu})
    with busy(cpu):
        session = recorder.open_session(ANA)
        exchange(session, 0)
        await counted(recorder)
        await until(lambda: recorder._ticked_no == recorder._written_no, "a tick")
    assert recorder._sealer.starved_s() > before_s
    session.close("client")
    await recorder.stop()


@contextmanager
def busy(cpu: int) -> Iterator[None]:
    """Keep a processor busy."""
    program = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def test_a_start_that_takes_long_is_no_silence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    monkeypatch.setattr(recorder_module, "SEALER_SILENCE_S", 3.0)
    started = sealer_process.SealerProcess.start

    async def start_late(*arguments: Any) -> dict[str, Any]:
        ready = await started(*arguments)
        await asyncio.sleep(3.1)
        return ready

    monkeypatch.setattr(sealer_process.SealerProcess, "start", start_late)
    recorder = await start(site)
    recorder.open_session(ANA).close("client")
    await counted(recorder)
    await until(lambda: recorder._ticked_no == recorder._written_no, "a tick of all there is")
    await recorder.stop()


async def test_a_sealer_is_not_missed_while_nothing_is_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    recorder = await start(site)
    await counted(recorder)
    await until(lambda: recorder._ticked_no == recorder._written_no, "a tick of all there is")
    monkeypatch.setattr(recorder_module, "SEALER_SILENCE_S", 0.0)
    loop = CheckedLoop(recorder)
    await until(lambda: loop.checks >= 10, "ten checks")
    assert recorder.healthy
    monkeypatch.undo()
    await recorder.stop()


async def test_a_sealer_that_is_behind_is_told_and_so_is_that_it_has_caught_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    told: list[bool] = []
    recorder = await start(site, segment_bytes=100_000, journal_max=300_000, on_behind=told.append)
    session = recorder.open_session(ANA)
    exchange(session, 0)
    await counted(recorder)
    os.kill(sealer_pid(recorder), signal.SIGSTOP)
    events = 0
    while not recorder.is_behind:
        session.record(Event(kind=Kind.NOTICE, side=Side.TARGET, payload=bytes(10_000)))
        events += 1
        await counted(recorder, synced=False)
        assert events <= 30 + 10, "a segment more than the limit, at most"
    assert events >= 29
    assert told == [True]
    loop = CheckedLoop(recorder)
    await until(lambda: loop.checks >= 10, "ten checks")
    assert told == [True]
    os.kill(sealer_pid(recorder), signal.SIGCONT)
    await until(lambda: not recorder.is_behind, "it catches up")
    assert told == [True, False]
    monkeypatch.undo()
    await recorder.stop()
    require_sound(site)


async def test_one_segment_alone_is_never_too_much(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There would be nothing to seal, and traffic would wait for ever."""
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    told: list[bool] = []
    recorder = await start(site, journal_max=1000, on_behind=told.append)
    recorder.open_session(ANA).record(
        Event(kind=Kind.NOTICE, side=Side.TARGET, payload=bytes(10_000))
    )
    await counted(recorder)
    loop = CheckedLoop(recorder)
    await until(lambda: loop.checks >= 10, "ten checks")
    assert told == []
    await recorder.stop()


async def test_a_sealer_that_meets_a_contradiction_stops_traffic_and_says_which(
    site: Site,
) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    exchange(recorder.open_session(ANA), 0)
    await until(lambda: "tick" in [e["type"] for e in site.log_entries()], "a tick")
    (path,) = site.journals()
    # A whole frame of an event that is not the next, as no recorder writes it.
    whole = path.read_bytes()
    reader = JournalReader(path)
    entry, *_ = reader.read()
    with path.open("r+b") as file:
        file.seek(reader.offset)
        file.write(encode_frame(reader.header.marker, entry.fixed, None, None))
    failure = await failures.one()
    assert "event 0 at byte" in str(failure)
    with pytest.raises(RecordingError):
        await recorder.stop()
    path.write_bytes(whole)
    recover(site)
    require_sound(site)


async def test_a_start_that_fails_leaves_no_process_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(record, site)
    started: list[Any] = []
    real = sealer_process.SealerProcess.connection_made

    def connection_made(self: Any, transport: Any) -> None:
        started.append(transport)
        real(self, transport)

    monkeypatch.setattr(sealer_process.SealerProcess, "connection_made", connection_made)

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecordingError, match="No space left on device"):
        await start(site)
    (transport,) = started
    await until(lambda: transport.get_returncode() is not None, "the sealer's end")
    monkeypatch.undo()
    await asyncio.to_thread(record, site)
    require_sound(site)


async def test_verify_answers_for_an_archive_whose_recording_failed(site: Site, disk: Disk) -> None:
    failures = Failures()
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    session.record(Event(kind=Kind.NOTICE, side=Side.TARGET))
    disk.error = OSError(errno.EIO, "Input/output error")
    await failures.one()
    with pytest.raises(RecordingError):
        await recorder.stop()
    assert verify(site.archive, key=site.vkey, deep=True).ok is True


async def test_a_start_with_another_logs_key_does_not_touch_the_archive(site: Site) -> None:
    with pytest.raises(RecordingError, match="the settings say other"):
        await Recorder.start(
            archive=site.archive, gateway="gw1", origin="other.example.com", keys=site.keys
        )

    assert not site.archive.exists()


async def test_an_order_that_cannot_be_given_is_owed_no_answer(site: Site) -> None:
    recorder = await start(site)
    with pytest.raises(TypeError, match="surrogate"):
        await recorder.order("legal_hold_set", selector={"target": "\ud800"}, event=0)
    # An answer that nobody waits for would be reported as an error when the sealer ends.
    assert recorder._sealer._orders == {}
    await recorder.stop()
