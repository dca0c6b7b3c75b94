"""One slice: one target, one way of asking, one number of clients, a second or two."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from benchmarks.measure import Processes, ahead, cpu_of, sync_ms
from benchmarks.sealing import wait_until_sealed_up
from benchmarks.targets import Target, pgbench

PROTOCOLS = ("simple", "extended", "prepared")
STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = "
"""How every execution of `pgbench -S` begins (src/bin/pgbench/pgbench.c, built-in script)."""

SAMPLED = 0.25
"""The share of transactions whose latency is kept: enough for a p99, and cheap for the client."""

_SYNC_TIMES = 100

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_RATE = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_LATENCY = re.compile(r"^latency average = ([\d.]+) ms", re.MULTILINE)
_CONNECTING = re.compile(r"^initial connection time = ([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one slice did; `rate` is executions a second, or bytes a second where rows are many.

    `cpu_s` is the CPU time of the process in between, `sealing_s` that of the sealer until it was
    idle again, `waited_s` how long that took after the slice. `sync_ms` is what a synced append
    took just before and after. `load` is the machine's, of a minute. `moved` is the bytes of `rows`
    rows, `sessions` how many sessions it took, where that is what counts.
    """

    cell: str
    target: str
    application: str
    executions: int
    rate: float
    p50_us: float | None = None
    p99_us: float | None = None
    cpu_s: float = 0.0
    sealing_s: float = 0.0
    waited_s: float = 0.0
    connecting_s: float = 0.0
    sync_ms: float | None = None
    load: float = 0.0
    rows: int | None = None
    moved: int = 0
    sessions: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What pgbench says of a run; the rate, a second, leaves out the time to connect."""

    executions: int
    rate: float
    latency_ms: float
    connecting_ms: float


def read_output(text: str) -> Report:
    """Return what pgbench printed, as numbers.

    Raises:
        ValueError: a transaction failed, none was done, or this is no report of pgbench's.
    """
    processed, failed = _PROCESSED.search(text), _FAILED.search(text)
    if processed is None:
        raise ValueError(f"no report of pgbench's: {text[-500:]!r}")
    if failed is not None and failed[1] != "0":
        raise ValueError(f"{failed[1]} transactions failed")
    rest = [pattern.search(text) for pattern in (_RATE, _LATENCY, _CONNECTING)]
    rate, latency, connecting = (float(found[1]) if found else None for found in rest)
    if rate is None or latency is None or connecting is None:
        raise ValueError("no transaction in the time of the slice: lengthen it with --seconds")
    return Report(int(processed[1]), rate, latency, connecting)


def read_latencies(lines: Iterable[str]) -> list[int]:
    """Return the latencies in pgbench's per-transaction log, µs, shortest first.

    Source: PostgreSQL's documentation of pgbench, "Per-Transaction Logging": the third field.
    """
    return sorted(int(line.split(" ", 3)[2]) for line in lines)


def connecting(target: Target, application: str, *, clients: int) -> Slice:
    """Connect `clients` and run one statement in each, to see how long connecting takes."""
    options = [*_select_only("simple", clients), "--transactions=1"]
    return _pgbench(target, f"connecting {clients}", options, application)


def select_only(
    target: Target,
    application: str,
    *,
    protocol: str,
    clients: int,
    seconds: int,
    logs: Path,
    synced: Path | None = None,
) -> Slice:
    """Run `pgbench -S` against `target` for `seconds`, in which its clients also connect.

    The latencies of a share of its transactions go through a folder `logs`, which is gone after.
    Before and after, it is measured how long a sync takes in the folder `synced`.
    """
    logs.mkdir()
    options = [
        *_select_only(protocol, clients),
        f"--time={seconds}",
        "--log",
        f"--sampling-rate={SAMPLED}",
        f"--log-prefix={logs}/log",
    ]
    try:
        return _pgbench(target, f"{protocol} {clients}", options, application, logs, synced)
    finally:
        shutil.rmtree(logs)


def _select_only(protocol: str, clients: int) -> list[str]:
    return [
        "--select-only",
        "--no-vacuum",
        f"--protocol={protocol}",
        f"--client={clients}",
        f"--jobs={min(clients, 2)}",
    ]


class Spent:
    """CPU time of a target's processes, in a slice and until its sealers were idle again."""

    cpu_s = sealing_s = waited_s = 0.0


@contextmanager
def spending(target: Target) -> Iterator[Spent]:
    """Measure what a target's processes spend meanwhile; returns once its sealers are idle.

    The processes in between are asked as soon as the client is done, the sealers when they are.
    """
    found = Spent()
    processes: Processes = target.processes
    relaying, sealing = cpu_of(processes.relaying), cpu_of(processes.sealing)
    with ahead(target.is_ahead):
        yield found
    found.cpu_s = cpu_of(processes.relaying) - relaying
    if target.archive is not None:
        found.waited_s = wait_until_sealed_up([target.archive])
    found.sealing_s = cpu_of(processes.sealing) - sealing


def _pgbench(
    target: Target,
    cell: str,
    options: list[str],
    application: str,
    logs: Path | None = None,
    synced: Path | None = None,
) -> Slice:
    syncs: list[float] = []
    with spending(target) as spent:
        if synced is not None:
            syncs.append(sync_ms(synced, _SYNC_TIMES))
        result = subprocess.run(
            [pgbench(), *options],
            capture_output=True,
            text=True,
            check=False,
            env=target.environment(application),
        )
        if synced is not None:
            syncs.append(sync_ms(synced, _SYNC_TIMES))
    if result.returncode != 0:
        raise ValueError(f"pgbench against {target.name}: {result.stderr.strip()[-500:]}")
    try:
        found = read_output(result.stdout)
    except ValueError as error:
        raise ValueError(f"pgbench against {target.name}, {cell}: {error}") from None
    latencies: list[int] = []
    if logs is not None:
        latencies = read_latencies(
            line for path in logs.iterdir() for line in path.read_text().splitlines()
        )
        if not latencies:
            raise ValueError(f"pgbench against {target.name}, {cell}: no latency was sampled")
    return Slice(
        cell=cell,
        target=target.name,
        application=application,
        executions=found.executions,
        rate=found.rate,
        p50_us=median(latencies) if latencies else None,
        p99_us=latencies[len(latencies) * 99 // 100] if latencies else None,
        cpu_s=spent.cpu_s,
        sealing_s=spent.sealing_s,
        waited_s=spent.waited_s,
        connecting_s=found.connecting_ms / 1000,
        sync_ms=mean(syncs) if syncs else None,
        load=os.getloadavg()[0],
    )
