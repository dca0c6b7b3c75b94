"""Who waits for the disk: the event loop for a quick one, the thread for a slow one."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from agentaudit._native import system
from agentaudit.archive import syncer as syncer_module
from agentaudit.archive.syncer import QUICK_S, SLOW_DISK_S, STALL_S, Syncer
from tests.archive.faults import python_of
from tests.archive.recording import until


class Case:
    """A syncer, whose disk takes `takes_s` for a sync by a clock that goes no other way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.takes_s = QUICK_S / 10
        self.now_s = 1000.0
        self.error: OSError | None = None
        self.on_loop: list[bool] = []
        self.synced: list[int] = []
        self.failed: list[int | None] = []
        self.asked = 0
        self.fds: list[int] = []
        self.may_sync = threading.Event()
        self.may_sync.set()
        self._loop_thread = threading.get_ident()
        monkeypatch.setattr(syncer_module, "sync_loop", python_of(system).sync_loop)
        monkeypatch.setattr(syncer_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(os, "fdatasync", self._sync)
        self.syncer = Syncer(
            asyncio.get_running_loop(),
            self.synced.append,
            lambda error: self.failed.append(error.errno),
        )

    def _sync(self, fd: int) -> None:
        on_loop = threading.get_ident() == self._loop_thread
        self.fds.append(fd)
        assert on_loop or self.may_sync.wait(60)
        self.on_loop.append(on_loop)
        self.now_s += self.takes_s
        if self.error is not None:
            raise self.error

    async def sync(self, *, is_awaited: bool = True) -> bool:
        """Have the next event synced; return whether the event loop waited for it."""
        self.asked += 1
        self.syncer.request(0, self.asked, is_awaited=is_awaited)
        at_once = [*self.synced]
        await until(lambda: self.asked in self.synced, "the sync")
        assert (self.asked in at_once) == self.on_loop[-1]
        return self.on_loop[-1]


@pytest.fixture
async def case(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    made = Case(monkeypatch)
    made.syncer.start()
    yield made
    made.may_sync.set()
    made.syncer.stop()
    made.syncer.join()


async def test_the_event_loop_waits_for_a_quick_disk(case: Case) -> None:
    assert [await case.sync() for _ in range(20)] == [True] * 20


async def test_what_nobody_waits_for_is_the_thread_s(case: Case) -> None:
    assert not await case.sync(is_awaited=False)
    assert await case.sync()


async def test_a_slow_disk_holds_the_event_loop_up_once_a_second(case: Case) -> None:
    case.takes_s = 10 * QUICK_S
    for _ in range(3):
        assert [await case.sync() for _ in range(20)] == [True] + [False] * 19
        case.now_s += SLOW_DISK_S


async def test_a_disk_that_slows_down_is_left_to_the_thread_until_it_is_quick_again(
    case: Case,
) -> None:
    assert all([await case.sync() for _ in range(20)])
    case.takes_s = 1.5 * QUICK_S
    assert not all([await case.sync() for _ in range(20)])
    assert not await case.sync()
    case.takes_s = QUICK_S / 10
    assert not await case.sync()
    case.now_s += SLOW_DISK_S
    assert all([await case.sync() for _ in range(20)])


async def test_one_sync_that_took_long_changes_nothing(case: Case) -> None:
    assert all([await case.sync() for _ in range(20)])
    case.takes_s = 20 * QUICK_S
    assert await case.sync()
    case.takes_s = QUICK_S / 10
    assert await case.sync()


async def test_a_stall_is_told_by_one_sync(case: Case) -> None:
    for _ in range(3):
        assert all([await case.sync() for _ in range(20)])
        case.takes_s = 2 * STALL_S
        assert await case.sync()
        case.takes_s = QUICK_S / 10
        assert not await case.sync()
        case.now_s += SLOW_DISK_S


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_after_a_failure_nothing_is_synced(case: Case, is_awaited: bool) -> None:
    assert await case.sync()
    case.error = OSError(errno.EIO, os.strerror(errno.EIO))
    case.syncer.request(0, 2, is_awaited=is_awaited)
    await until(lambda: bool(case.failed), "the failure")
    case.error = None
    case.syncer.request(0, 3, is_awaited=True)
    case.syncer.request(0, 4, is_awaited=False)
    assert case.failed == [errno.EIO]
    assert case.synced == [1]
    assert len(case.on_loop) == 2


# --- while the thread is at work


@pytest.fixture
async def busy(case: Case) -> Case:
    """The thread is syncing event 1, of file 10, and held up."""
    case.may_sync.clear()
    case.asked = 1
    case.syncer.request(10, 1, is_awaited=False)
    await until(lambda: case.fds == [10], "the thread is at work")
    return case


async def test_two_syncs_are_never_under_way_and_those_that_gather_are_one(busy: Case) -> None:
    """A kernel tells of a failed write once: one sync beside another may hear nothing of it."""
    for event_no in (2, 3, 4):
        busy.syncer.request(10, event_no, is_awaited=event_no == 3)
    assert busy.fds == [10]
    busy.may_sync.set()
    await until(lambda: len(busy.synced) == 2, "both syncs")
    assert sorted(busy.synced) == [1, 4]
    assert busy.on_loop == [False, True], "somebody waits for the second one"


async def test_what_gathers_and_nobody_waits_for_is_the_thread_s(busy: Case) -> None:
    busy.syncer.request(10, 2, is_awaited=False)
    busy.may_sync.set()
    await until(lambda: busy.synced == [1, 2], "both syncs")
    assert busy.on_loop == [False, False]


async def test_a_file_is_closed_when_its_sync_is_over_and_not_synced_again(busy: Case) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    busy.syncer.request(write_end, 2, is_awaited=True)
    busy.syncer.retire(write_end)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 1)
    busy.may_sync.set()
    await until(lambda: busy.synced == [1], "the sync")
    assert os.read(read_end, 1) == b"", "its last writer is gone"
    os.close(read_end)
    assert await busy.sync()
    assert busy.fds == [10, 0]


@pytest.mark.parametrize("fails", [False, True])
async def test_who_settles_hears_of_the_sync_under_way_and_nobody_else(
    busy: Case, fails: bool
) -> None:
    if fails:
        busy.error = OSError(errno.EIO, os.strerror(errno.EIO))
    busy.syncer.request(10, 2, is_awaited=True)
    busy.may_sync.set()
    error = busy.syncer.settle()
    assert (error and error.errno) == (errno.EIO if fails else None)
    assert busy.syncer.settle() is None
    busy.syncer.look()
    await asyncio.sleep(0)
    assert (busy.synced, busy.failed) == ([], [])
    assert busy.fds == [10]
    busy.error = None
    busy.syncer.request(10, 3, is_awaited=True)
    assert busy.synced == ([] if fails else [3])


async def test_who_joins_hears_of_the_sync_under_way(busy: Case) -> None:
    busy.error = OSError(errno.EIO, os.strerror(errno.EIO))
    busy.syncer.stop()
    busy.may_sync.set()
    error = busy.syncer.join()
    assert error is not None
    assert error.errno == errno.EIO
