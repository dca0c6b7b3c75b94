"""Whatever moment a machine, a process or a disk fails at: what was acknowledged is in the archive.

A workload is recorded once on a `Tape`; for each of its operations every state is made that a crash
could leave, and recording starts there again. States that are equal are tried once. Then each
operation fails in turn, and the archive must go on once the disk is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentaudit.archive.journal import Entry, JournalReader
from agentaudit.archive.recorder import Recorder
from agentaudit.errors import RecordingError
from agentaudit.model import Kind
from tests import tries
from tests.archive.crashes import (
    Disk,
    Fault,
    Mark,
    Op,
    State,
    Tape,
    in_one_process,
    parts,
    sealer_of,
)
from tests.archive.recording import (
    ANA,
    BOB,
    DEADLINE_S,
    Site,
    SteppingClock,
    answer,
    counted,
    exchange,
    new_site,
    request,
    require_sound,
    rows,
    start,
)

FULL = pytest.mark.full


class Run:
    """One run of a gateway that is being taped."""

    def __init__(self, site: Site, tape: Tape) -> None:
        self.site = site
        self.tape = tape
        self.failures: list[RecordingError] = []
        self.refused: list[OSError] = []
        self.recorder: Recorder | None = None
        self._waiting: asyncio.Event | None = None

    async def begin(self, **options: Any) -> Recorder:
        """Start to record."""
        self.recorder = await start(
            self.site, clock=SteppingClock(), on_failure=self._fail, **options
        )
        return self.recorder

    def _fail(self, failure: RecordingError) -> None:
        self.tape.mark("failed", len(self.failures))
        self.failures.append(failure)
        if self._waiting is not None:
            self._waiting.set()

    def set_policy(self, document: bytes) -> None:
        """Ask for other rules; where they cannot be kept, the old ones stay, as at a reload."""
        assert self.recorder is not None
        try:
            self.recorder.set_policy(document)
        except OSError as error:
            self.refused.append(error)

    async def acknowledged(self, *, synced: bool = True) -> None:
        """Return once all that was recorded so far is written, or synced; it is on the tape then.

        Raises:
            RecordingError: recording has failed.
        """
        recorder, done = self.recorder, asyncio.Event()
        assert recorder is not None
        events = recorder._next_event_no

        def release() -> None:
            self.tape.mark("synced" if synced else "written", events)
            done.set()

        self._waiting = done
        recorder.release(release, synced=synced)
        async with asyncio.timeout(DEADLINE_S):
            await done.wait()
        if recorder.failure is not None:
            raise recorder.failure


Workload = Callable[[Run], Awaitable[None]]


async def short(run: Run) -> None:
    """Two segments with all that a recorder and a sealer do, ended in order."""
    recorder = await run.begin(segment_events=14, policy=b'{"rules":[]}')
    sealer = sealer_of(recorder)
    sealer.turn()
    ana = recorder.open_session(ANA)
    exchange(ana, 0, "select 'done'")
    await run.acknowledged()
    sealer.turn()
    bob = recorder.open_session(BOB)
    exchange(bob, 0, "select 'blob'", b"\xb7" * 9000)
    await run.acknowledged(synced=False)
    slow = request(ana, 1, "select 'slow'")
    await run.acknowledged()
    sealer.next_epoch()
    bob.close("client")
    exchange(ana, 2, "select 'next'")
    await run.acknowledged()
    run.set_policy(b'{"rules":["none"]}')
    sealer.turn()
    answer(ana, slow)
    await run.acknowledged()
    sealer.heartbeat()
    exchange(ana, 3, "select 'unticked'")
    await run.acknowledged()
    await recorder.stop()


async def unsynced(run: Run) -> None:
    """Several writes that nobody waits for lie between two syncs, and then all stops."""
    recorder = await run.begin(segment_events=20)
    ana = recorder.open_session(ANA)
    await run.acknowledged()
    for command_no in range(4):
        exchange(ana, command_no, f"select {command_no}", b"r" * 30 * command_no)
        await run.acknowledged(synced=False)
    await run.acknowledged()
    exchange(ana, 4, "select 'last'")
    await run.acknowledged(synced=False)
    request(ana, 5, "select 'in flight'")
    await run.acknowledged(synced=False)
    sealer_of(recorder).turn()
    await run.acknowledged()
    await recorder.stop()


@dataclass(frozen=True, slots=True)
class Promise:
    """What had been promised when something broke."""

    events: int = 0
    """As many were acknowledged."""
    entries: int = 0
    """As many of the log were published."""


@dataclass(slots=True)
class Truth:
    """What a tape says was recorded: events, keys and log, as they were first written."""

    vkey: str
    tape: Tape
    run: Run
    error: RecordingError | None = None
    events: dict[int, Entry] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, workload: Workload, fault: Fault | None = None) -> Truth:
        """Run `workload` in `folder`; return what it recorded, and how it failed."""
        site = new_site(folder)
        tape = Tape(folder)
        tape.fault = fault
        truth = cls(site.vkey, tape, Run(site, tape))

        async def run() -> None:
            try:
                await workload(truth.run)
            except RecordingError as error:
                truth.error = error
                if truth.run.recorder is not None:
                    with contextlib.suppress(RecordingError):
                        await truth.run.recorder.stop()

        with in_one_process(tape), tape.recording():
            asyncio.run(run())
        truth._read_journals(folder)
        if site.layout.checkpoint("gw1").exists():
            truth.log = site.log_entries()
        return truth

    def _read_journals(self, folder: Path) -> None:
        journals: dict[int, bytearray] = {}
        for entry in self.tape.entries:
            if isinstance(entry, Op):
                if entry.kind == "link" and entry.name.endswith(".journal.tmp"):
                    journals[entry.number] = bytearray()
                elif entry.kind == "write" and entry.home in journals:
                    end = entry.offset + len(entry.data)
                    journals[entry.home][entry.offset : end] = entry.data
        for content in journals.values():
            path = folder / "any.journal"
            path.write_bytes(content)
            if content:
                self.events |= {event.event_no: event for event in JournalReader(path).read()}
            path.unlink()

    def promise(self, entries: Iterable[Op | Mark] | None = None) -> tuple[Promise, Promise]:
        """Return what was promised for a crash of the machine, and for one of the process."""
        synced, written = Promise(), 0
        for entry in self.tape.entries if entries is None else entries:
            if isinstance(entry, Mark):
                if entry.what == "published":
                    synced = replace(synced, entries=entry.value)
                elif entry.what == "synced":
                    synced = replace(synced, events=entry.value)
                elif entry.what == "written":
                    written = entry.value
        return synced, replace(synced, events=max(written, synced.events))

    def require(self, site: Site, promise: Promise) -> None:
        """What was promised is in the archive of `site`, as it was recorded."""
        require_sound(site)
        assert site.log_entries()[: promise.entries] == self.log[: promise.entries]
        found = rows(site, "events")
        assert len(found) >= promise.events
        keys = {row["session_id"].bytes: row for row in rows(site, "sessions")}
        blobs = {row["event_no"]: row["data"] for row in rows(site, "blobs")}
        for row in found[: promise.events]:
            entry = self.events[row["event_no"]]
            assert as_row(entry) == {name: row[name] for name in as_row(entry)}
            if entry.kind == Kind.SESSION_OPEN:
                session = keys[entry.session_id]
                assert entry.extra == {
                    name: session[name].hex() for name in ("key_m", "key_t", "key_p")
                }
            if entry.kind != Kind.SESSION_CLOSE and entry.payload is not None:
                whole = row["payload"] + blobs.get(row["event_no"], b"")
                assert whole == entry.payload


def as_row(entry: Entry) -> dict[str, Any]:
    """Return what of a journaled event the archive has in the same words."""
    return {
        "event_no": entry.event_no,
        "mono_ns": entry.mono_ns,
        "seq": entry.seq,
        "command_no": entry.command_no,
        "kind": Kind(entry.kind).name.lower(),
        "flags": entry.flags,
        "orig_len": entry.orig_len,
        "text": None if entry.text is None else entry.text.decode(),
    }


@cache
def recorded(workload: Workload) -> Truth:
    """Return the tape of a whole `workload`; every test of one process has the same."""
    with tempfile.TemporaryDirectory() as folder:
        truth = Truth.of(Path(folder) / "site", workload)
        assert truth.error is None
        truth.tape.require_complete()
        with in_one_process():
            truth.require(Site(Path(folder) / "site", truth.vkey), truth.promise()[1])
    return truth


async def go_on(site: Site) -> None:
    """Start recording at `site`, record a session, and stop."""
    recorder = await start(site)
    exchange(recorder.open_session(BOB), 0, "select 'after the crash'")
    await counted(recorder)
    await recorder.stop()


def require_survived(truth: Truth, memory: Path, state: State, promise: Promise) -> None:
    """Recording starts in `state`, goes on, and what was promised is there."""
    folder = memory / "crashed"
    state.write_to(folder)
    site = Site(folder, truth.vkey)
    with in_one_process():
        asyncio.run(go_on(site))
        truth.require(site, promise)
    shutil.rmtree(folder)


# --- the machine or the process ends


def pulls(disk: Disk, most: int) -> Iterator[State]:
    """Yield what pulling the plug now may leave.

    All subsets of the unsynced changes where these are at most `most`; else all prefixes, each
    change missing alone and each there alone. Torn and reordered writes besides.
    """
    pending = disk.pending()
    indexes = list(pending)
    if len(indexes) <= most:
        for size in range(len(indexes) + 1):
            for kept in combinations(indexes, size):
                yield disk.state(kept)
    else:
        for place, index in enumerate(indexes):
            yield disk.state(indexes[:place])
            yield disk.state([index])
            yield disk.state(indexes[:place] + indexes[place + 1 :])
    for place, index in enumerate(indexes):
        size = len(pending[index].data)
        for cut in sorted({1, size // 2, size - 1} & set(range(1, size))):
            yield disk.state(indexes[: place + 1], {index: lambda data, cut=cut: data[:cut]})
            yield disk.state(indexes, {index: lambda data, cut=cut: bytes(cut) + data[cut:]})


def crash_points(
    truth: Truth, most: int, disk: Disk | None = None, tape: Tape | None = None
) -> list[tuple[int, State, Promise]]:
    """Return all states that a crash anywhere on the tape can leave, with the most promised."""
    found: dict[bytes, tuple[int, State, Promise]] = {}
    disk = disk or Disk(truth.tape.nodes)
    entries = (tape or truth.tape).entries
    # What was promised only grows: the last index that leaves a state asks the most of it.
    for index, entry in enumerate(entries):
        disk.apply(index, entry)
        machine, process = truth.promise(entries[: index + 1])
        for state in pulls(disk, most):
            found[state.digest()] = (index, state, machine)
        killed = disk.state(disk.pending())
        found[killed.digest()] = (index, killed, process)
    return list(found.values())


def test_the_tape_has_every_kind_of_entry_that_a_recording_leaves() -> None:
    types = {entry["type"] for entry in recorded(short).log}
    assert types == {
        *("genesis", "start", "policy", "open_segment", "tick", "seal", "key_epoch"),
        *("heartbeat", "stop"),
    }
    assert sum(entry["type"] == "seal" for entry in recorded(short).log) == 2


@pytest.mark.parametrize("part", parts(8))
@pytest.mark.parametrize(("workload", "most"), [(short, 6), (unsynced, 4)])
def test_a_crash_between_any_two_operations_loses_nothing_and_is_never_refused(
    workload: Workload, most: int, part: slice, memory: Path
) -> None:
    truth = recorded(workload)
    points = crash_points(truth, most)
    assert len(points) >= 200
    for index, state, promise in points[part]:
        try:
            require_survived(truth, memory, state, promise)
        except Exception as error:
            raise AssertionError(
                f"after operation {index}, {truth.tape.entries[index]}: {error}"
            ) from error


def torn(draw: st.DrawFn, data: bytes) -> Callable[[bytes], bytes]:
    """Draw what arrives of a write: some of its blocks, the last of them in part."""
    block = draw(st.sampled_from([16, 512, 4096]))
    lost = draw(st.sets(st.integers(0, len(data) // block)))
    end = draw(st.integers(0, len(data)))

    def arrived(data: bytes) -> bytes:
        changed = bytearray(data)
        for number in lost:
            part = changed[number * block : (number + 1) * block]
            changed[number * block : (number + 1) * block] = bytes(len(part))
        return bytes(changed[:end])

    return arrived


@st.composite
def pulled(draw: st.DrawFn, disk: Disk) -> State:
    """Draw any state that pulling the plug may leave."""
    pending = disk.pending()
    kept = draw(st.sets(st.sampled_from(sorted(pending)))) if pending else set()
    cut = (
        draw(st.sets(st.sampled_from(writes)))
        if (writes := sorted(index for index in kept if pending[index].data))
        else set()
    )
    return disk.state(kept, {index: torn(draw, pending[index].data) for index in sorted(cut)})


def after(truth: Truth, end: int) -> tuple[Disk, Promise, Promise]:
    """Return the disk behind the first `end` entries of a tape, and what was promised by then."""
    disk = Disk(truth.tape.nodes)
    for index, entry in enumerate(truth.tape.entries[:end]):
        disk.apply(index, entry)
    return disk, *truth.promise(truth.tape.entries[:end])


def retaped(truth: Truth, folder: Path, state: State) -> Tape:
    """Let recording start in `state` and go on, in `folder`; return the tape of that."""
    state.write_to(folder)
    tape = Tape(folder, state.numbers, since=len(truth.tape.entries))
    with in_one_process(tape), tape.recording():
        asyncio.run(go_on(Site(folder, truth.vkey)))
    shutil.rmtree(folder)
    return tape


# What hypothesis is given is a fixture's folder, empty again after each example.
ANY = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def require_any_pull_survived(data: st.DataObject, memory: Path) -> None:
    truth = recorded(data.draw(st.sampled_from([short, unsynced])))
    end = data.draw(st.integers(1, len(truth.tape.entries)))
    disk, promise, _ = after(truth, end)
    require_survived(truth, memory, data.draw(pulled(disk)), promise)


def require_any_second_crash_survived(data: st.DataObject, memory: Path) -> None:
    """A process is killed, and the machine dies while, or after, the next one recovers."""
    truth = recorded(data.draw(st.sampled_from([short, unsynced])))
    end = data.draw(st.integers(1, len(truth.tape.entries)))
    disk, machine, process = after(truth, end)
    is_killed = data.draw(st.booleans())
    state = disk.state(disk.pending()) if is_killed else data.draw(pulled(disk))
    tape = retaped(truth, memory / "again", state)
    if not is_killed:
        # What the machine came back with is all that the disk has: nothing more can get lost.
        disk, process = Disk(tape.nodes), machine
    second = data.draw(st.integers(0, len(tape.entries)))
    for index, entry in enumerate(tape.entries[:second], len(truth.tape.entries)):
        disk.apply(index, entry)
    is_killed_again = data.draw(st.booleans())
    if is_killed_again:
        require_survived(truth, memory, disk.state(disk.pending()), process)
    else:
        require_survived(truth, memory, data.draw(pulled(disk)), machine)


@pytest.mark.parametrize(
    "kinds",
    [{"mkdir"}, pytest.param({"link", "rename", "unlink", "write", "truncate"}, marks=FULL)],
    ids=["folders", "all else"],
)
@pytest.mark.timeout(600)
def test_what_a_killed_process_left_unsynced_is_not_built_upon(
    kinds: set[str], memory: Path
) -> None:
    """It is killed, the next one records and seals, and then the machine dies."""
    truth = recorded(short)
    entries = enumerate(truth.tape.entries)
    asked = [(at, one) for at, one in entries if isinstance(one, Op) and one.kind in kinds]
    for number in tries.steps(0, len(asked), share=1 if "mkdir" in kinds else 6):
        index, entry = asked[number]
        disk, machine, _ = after(truth, index + 1)
        tape = retaped(truth, memory / "again", disk.state(disk.pending()))
        for later, change in enumerate(tape.entries, len(truth.tape.entries)):
            disk.apply(later, change)
        try:
            require_survived(truth, memory, disk.state(()), machine)
        except Exception as error:
            raise AssertionError(f"killed after operation {index}, {entry}: {error}") from error


@settings(ANY, max_examples=40)
@given(data=st.data())
def test_any_subset_of_unsynced_blocks_and_names_may_be_lost(
    data: st.DataObject, memory: Path
) -> None:
    require_any_pull_survived(data, memory)


@settings(ANY, max_examples=30)
@given(data=st.data())
def test_a_recovery_may_crash_itself(data: st.DataObject, memory: Path) -> None:
    require_any_second_crash_survived(data, memory)


@FULL
@pytest.mark.timeout(1800)
@settings(ANY, max_examples=tries.of(400, share=60))
@given(data=st.data())
def test_any_subset_of_unsynced_blocks_and_names_may_be_lost_tried_for_long(
    data: st.DataObject, memory: Path
) -> None:
    require_any_pull_survived(data, memory)


@FULL
@pytest.mark.timeout(1800)
@settings(ANY, max_examples=tries.of(200, share=40))
@given(data=st.data())
def test_a_recovery_may_crash_itself_tried_for_long(data: st.DataObject, memory: Path) -> None:
    require_any_second_crash_survived(data, memory)


# --- an operation fails

ENOSPC = frozenset({"create", "write"})
"""The kinds of operations that a full disk answers so."""


def require_stopped(truth: Truth) -> None:
    """A fault stopped traffic, was told once, and no sync was tried again."""
    error = truth.error
    assert error is not None, f"went on after a failed {truth.tape.failed}"
    assert str(error), "says what is broken"
    assert error.hint, "says what to do"
    assert len(truth.run.failures) <= 1
    marks = [entry.what for entry in truth.tape.entries if isinstance(entry, Mark)]
    if "failed" in marks:
        assert not {"synced", "written"} & set(marks[marks.index("failed") :])
    assert truth.tape.synced_after_failure == []


def require_mended(truth: Truth, memory: Path) -> None:
    """Once the fault is gone recording goes on, with or without a crash of the machine besides."""
    disk = Disk(truth.tape.nodes)
    for index, entry in enumerate(truth.tape.entries):
        disk.apply(index, entry)
    machine, process = truth.promise()
    require_survived(truth, memory, disk.state(disk.pending()), process)
    require_survived(truth, memory, disk.state(()), machine)


def require_fault_survived(workload: Workload, fault: Fault, memory: Path) -> Truth:
    """Run `workload` with `fault`, and require what must hold then; return what was recorded."""
    folder = memory / "site"
    truth = Truth.of(folder, workload, fault)
    shutil.rmtree(folder)
    # A policy that cannot be read lets nothing go, and stops nothing.
    failed = [what for what in truth.tape.failed if not what.startswith("open archive/policies/")]
    if fault.error is None:
        assert truth.error is None
    elif failed and not truth.run.refused:
        require_stopped(truth)
    require_mended(truth, memory)
    return truth


@pytest.mark.parametrize("part", parts(64))
@pytest.mark.parametrize(
    "fault",
    [Fault(0, errno.EIO), Fault(0, errno.ENOSPC, lasts=True, kinds=ENOSPC)],
    ids=["EIO once", "ENOSPC"],
)
def test_a_fault_at_any_operation_stops_traffic_and_once_it_is_mended_recording_goes_on(
    fault: Fault, part: slice, memory: Path
) -> None:
    require_faults_survived(fault, part, memory)


@pytest.mark.parametrize("part", parts(64, every=8))
@pytest.mark.parametrize(
    "fault",
    [
        Fault(0, errno.EIO, lasts=True),
        Fault(0, errno.EDQUOT, lasts=True, kinds=ENOSPC),
        Fault(0, None, lasts=True),
    ],
    ids=["EIO from then on", "EDQUOT", "short writes"],
)
def test_faults_that_last_are_survived_too(fault: Fault, part: slice, memory: Path) -> None:
    require_faults_survived(fault, part, memory)


def require_faults_survived(fault: Fault, part: slice, memory: Path) -> None:
    asked = recorded(short).tape.asked
    for at in range(asked)[part]:
        try:
            require_fault_survived(short, replace(fault, at=at), memory)
        except Exception as error:
            raise AssertionError(f"{fault} at operation {at} of {asked}: {error}") from error
