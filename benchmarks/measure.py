"""What the kernel says of a process and of a disk."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from statistics import median

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


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


def children(pid: int) -> list[int]:
    """Return the child processes of a process: of a gateway, its sealer."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def sync_ms(directory: Path) -> float:
    """Return how long a 4 KiB append with fdatasync takes here, the floor of `strict`."""
    taken: list[float] = []
    descriptor = os.open(directory / "sync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(200):
            began = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return median(taken) * 1000
