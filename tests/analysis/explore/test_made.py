"""The benchmark's commands are the same each time, and its table has a row for each answer."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentaudit.archive.segment import SCHEMAS
from benchmarks import workbench, workbench_archive


def test_the_same_seed_makes_the_same_commands_in_order_of_time(tmp_path: Path) -> None:
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        snap = workbench_archive.write(tmp_path / name, 4_000, seed)
        (path,) = snap.files["commands"]
        tables.append(pq.read_table(path))
    first, again, other = tables
    assert first.schema.equals(SCHEMAS["commands"])
    assert first.equals(again)
    assert not first.equals(other)
    times = first["started_at"].to_pylist()
    assert times == sorted(times)
    assert len(set(first["session_id"].to_pylist())) == 16
    assert set(first["class"].to_pylist()) >= {"read", "write", "session", "schema"}


def test_a_run_prints_a_row_for_each_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--commands", "2000", "--repeats", "1", "--only", "lo", "--dir", str(tmp_path)]
    assert workbench.main(run) == 0
    printed = capsys.readouterr().out
    assert "| locate" in printed
    assert "commands; a sketch after" in printed
    assert list(tmp_path.iterdir()) == []
