"""What the kernel says of processes, of the machine and of a disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agentaudit.demo.processes import PeerError

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_SYNCED_BYTES = 4096


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, all threads, in ticks of usually 10 ms.

    Source: proc(5), /proc/pid/stat, fields 14 and 15.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def own_cpu_seconds() -> float:
    """Return the user and system time of this process and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def peak_bytes(pid: int | str = "self") -> int:
    """Return the most memory that a process has had resident since it was executed.

    Not `ru_maxrss`: that of a child begins with what its parent had when it forked.

    Source: proc(5), /proc/pid/status, VmHWM.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no VmHWM")


def shared_out_bytes(pid: int) -> int:
    """Return the memory of a process, where each page counts by how many processes share it.

    Source: proc(5), /proc/pid/smaps_rollup, Pss.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss")


def children(pid: int) -> list[int]:
    """Return the child processes of a process: of a gateway, its sealer."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one target: those that bytes pass through, and those that seal beside."""

    relaying: tuple[int, ...] = ()
    sealing: tuple[int, ...] = ()

    @classmethod
    def of(cls, pid: int) -> Processes:
        """Return the processes that `pid` began, however many it takes, itself among them."""
        relaying: list[int] = []
        sealing: list[int] = []
        below = [pid]
        while below:
            one = below.pop()
            is_sealer = b"agentaudit.archive.sealer" in Path(f"/proc/{one}/cmdline").read_bytes()
            (sealing if is_sealer else relaying).append(one)
            below += children(one)
        return cls(tuple(relaying), tuple(sealing))


def cpu_of(pids: Iterable[int]) -> float:
    """Return the CPU seconds of several processes together."""
    return sum(map(cpu_seconds, pids))


def put_ahead(pid: int) -> None:
    """Let all threads of a process, and what they begin, run before everything that is not ahead.

    Not by nice values: where the kernel groups processes by session, these count within one alone.

    Raises:
        PeerError: only root may.

    Source: sched(7), SCHED_RR and "The autogroup feature".
    """
    _schedule(pid, os.SCHED_RR, 1)


@contextlib.contextmanager
def ahead(wanted: bool) -> Iterator[None]:
    """Put this process ahead meanwhile, if that is `wanted`."""
    if not wanted:
        yield
        return
    put_ahead(os.getpid())
    try:
        yield
    finally:
        _schedule(os.getpid(), os.SCHED_OTHER, 0)


def _schedule(pid: int, policy: int, priority: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            try:
                os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
            except PermissionError as error:
                what = f"process {pid}: cannot be put ahead: {error.strerror}"
                raise PeerError(what, hint="run as root, or without --ahead") from None


def busy_cores(seconds: float = 1.0) -> float:
    """Return how many cores were busy in the next `seconds`, whoever kept them so.

    Source: proc(5), /proc/stat; what waits for a disk is not busy.
    """
    before, began = _busy_seconds(), time.monotonic()
    time.sleep(seconds)
    return (_busy_seconds() - before) / (time.monotonic() - began)


def _busy_seconds() -> float:
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split(maxsplit=11)[1:11]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_A_SECOND


def sync_ms(directory: Path, times: int = 200) -> float:
    """Return how long a 4 KiB append with fdatasync takes here, the median: the floor of `strict`.

    The file is the same in every call, and is cut back before each, so that it never grows large.
    """
    taken: list[float] = []
    descriptor = os.open(
        directory / "sync", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600
    )
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.write(descriptor, bytes(_SYNCED_BYTES))
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return median(taken) * 1000
