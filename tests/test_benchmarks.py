"""The benchmark counts what pgbench counts, and says nothing when the archives disagree."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.report import disagreements, ratios, table
from benchmarks.slices import Report, Slice, read_output

# Printed by pgbench 18.6: pgbench --select-only --no-vacuum --client=8 --jobs=2 --time=1
PGBENCH_OUTPUT = """\
pgbench (18.6)
transaction type: <builtin: select only>
scaling factor: 1
query mode: prepared
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 38121
number of failed transactions: 0 (0.000%)
latency average = 0.209 ms
initial connection time = 8.112 ms
tps = 38364.862421 (without initial connection time)
"""


def made(target: str, rate: float, *, executions: int = 100, cpu_us: float | None = None) -> Slice:
    return Slice(
        cell="simple 1",
        target=target,
        application=f"{target}-{rate}",
        executions=executions,
        rate=rate,
        latency_ms=1.0,
        cpu_us=cpu_us,
    )


def test_pgbenchs_report_is_read() -> None:
    assert read_output(PGBENCH_OUTPUT) == Report(38121, 38364.862421, 0.209, 8.112)


def test_a_report_with_failed_transactions_is_refused() -> None:
    with pytest.raises(ValueError, match="3 transactions failed"):
        read_output(PGBENCH_OUTPUT.replace("failed transactions: 0", "failed transactions: 3"))


def test_a_slice_in_which_nobody_got_connected_is_no_measurement() -> None:
    # pgbench leaves out latency and rate when it processed nothing.
    cut = PGBENCH_OUTPUT[: PGBENCH_OUTPUT.index("number of failed")].replace("38121", "0")
    with pytest.raises(ValueError, match="no transaction in the time of the slice"):
        read_output(cut)


def test_a_ratio_compares_neighbours_in_time_and_the_median_counts() -> None:
    # The machine slows down by half in the second round: the ratio does not move.
    rounds = [(1000.0, 800.0), (500.0, 400.0), (1000.0, 10.0)]
    slices = [
        one for direct, ours in rounds for one in (made("direct", direct), made("strict", ours))
    ]
    assert ratios(slices)["simple 1", "strict"] == [0.8, 0.8, 0.01]
    assert list(table(slices, ["direct", "strict"]))[2].startswith("| simple 1 | 1,000 | 0.80 |")


def test_cpu_time_is_weighed_by_executions() -> None:
    slices = [
        made("direct", 1),
        made("strict", 1, executions=300, cpu_us=10),
        made("strict", 1, executions=100, cpu_us=50),
        made("direct", 1),
    ]
    assert list(table(slices, ["direct", "strict"]))[2].endswith("| 20.0 |")


def test_an_archive_with_one_execution_less_is_named() -> None:
    slices = [made("strict", 1.0, executions=100), made("strict", 2.0, executions=7)]
    assert disagreements(slices, {"strict-1.0": 100, "strict-2.0": 7}) == []
    assert disagreements(slices, {"strict-1.0": 99, "strict-2.0": 7}) == [
        "strict, simple 1: pgbench executed 100 statements, 99 are recorded"
    ]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_quick_run_ends_with_proven_counts_and_a_table() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "| simple 8 |" in result.stdout
    assert "verify --deep: yes, yes, yes" in result.stdout
