"""One slice: one target, one way of asking, one number of clients, a second or two."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from agentaudit.demo.database import embedded_postgres
from benchmarks.measure import cpu_seconds
from benchmarks.targets import Target

PROTOCOLS = ("simple", "extended", "prepared")
STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = "
"""How every execution of `pgbench -S` begins (src/bin/pgbench/pgbench.c, built-in script)."""

BULK_ROWS = 100_000
BULK_SELECT = f"SELECT * FROM pgbench_accounts WHERE aid <= {BULK_ROWS}"
BULK_COPY = f"COPY ({BULK_SELECT}) TO STDOUT"

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_RATE = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_LATENCY = re.compile(r"^latency average = ([\d.]+) ms", re.MULTILINE)
_CONNECTING = re.compile(r"^initial connection time = ([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice did; `cpu_us` is the time of the process in between, an execution.

    `connecting_s` is how long its clients took to connect, which its rate leaves out.
    """

    cell: str
    target: str
    application: str
    executions: int
    rate: float
    latency_ms: float
    cpu_us: float | None
    connecting_s: float = 0.0


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


def connecting(target: Target, application: str, *, clients: int) -> Slice:
    """Connect `clients` and run one statement in each, to see how long connecting takes."""
    options = [*_select_only("simple", clients), "--transactions=1"]
    return _pgbench(target, f"connecting {clients}", options, application)


def select_only(
    target: Target, application: str, *, protocol: str, clients: int, seconds: int
) -> Slice:
    """Run `pgbench -S` against `target` for `seconds`, in which its clients also connect."""
    options = [*_select_only(protocol, clients), f"--time={seconds}"]
    return _pgbench(target, f"{protocol} {clients}", options, application)


def _select_only(protocol: str, clients: int) -> list[str]:
    return [
        "--select-only",
        "--no-vacuum",
        f"--protocol={protocol}",
        f"--client={clients}",
        f"--jobs={min(clients, 2)}",
    ]


def bulk_select(target: Target, application: str, *, directory: Path) -> Slice:
    """Read `BULK_ROWS` rows in one result, a few times."""
    script = directory / "bulk.sql"
    script.write_text(BULK_SELECT + ";\n", encoding="utf-8")
    options = ["--no-vacuum", f"--file={script}", "--transactions=5"]
    return _pgbench(target, "bulk SELECT", options, application)


def bulk_copy(target: Target, application: str) -> Slice:
    """Copy `BULK_ROWS` rows out with psql, a few times in one session."""
    repeats = 5
    before = cpu_seconds(target.pid) if target.pid is not None else 0.0
    began = time.perf_counter()
    subprocess.run(
        [embedded_postgres() / "psql", "--no-psqlrc", *["--command", BULK_COPY] * repeats],
        check=True,
        stdout=subprocess.DEVNULL,
        env=target.environment(application),
    )
    took = time.perf_counter() - began
    return Slice(
        cell="bulk COPY",
        target=target.name,
        application=application,
        executions=repeats,
        rate=repeats / took,
        latency_ms=took / repeats * 1000,
        cpu_us=_cpu_us(target, before, repeats),
    )


def _pgbench(target: Target, cell: str, options: list[str], application: str) -> Slice:
    before = cpu_seconds(target.pid) if target.pid is not None else 0.0
    result = subprocess.run(
        [embedded_postgres() / "pgbench", *options],
        capture_output=True,
        text=True,
        check=False,
        env=target.environment(application),
    )
    if result.returncode != 0:
        raise ValueError(f"pgbench against {target.name}: {result.stderr.strip()[-500:]}")
    try:
        found = read_output(result.stdout)
    except ValueError as error:
        raise ValueError(f"pgbench against {target.name}, {cell}: {error}") from None
    return Slice(
        cell=cell,
        target=target.name,
        application=application,
        executions=found.executions,
        rate=found.rate,
        latency_ms=found.latency_ms,
        cpu_us=_cpu_us(target, before, found.executions),
        connecting_s=found.connecting_ms / 1000,
    )


def _cpu_us(target: Target, before: float, executions: int) -> float | None:
    if target.pid is None:
        return None
    return (cpu_seconds(target.pid) - before) / max(executions, 1) * 1e6
