"""The gate looks at each package by itself, and at branches by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.coverage_gates import figures

HALF = """
def f(x):
    if x:
        return 1
    return 2

f(1)
"""


def test_the_figures_are_those_that_coverage_itself_reports(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(HALF)
    run = [sys.executable, "-m", "coverage"]
    # The run that this test is part of may be measured itself; that must not reach the inner one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    for command in (["run", "--branch", "half.py"], ["json", "-o", "report.json"]):
        subprocess.run(
            [*run, *command], cwd=tmp_path, env=clean, check=True, stdout=subprocess.DEVNULL
        )
    report = json.loads((tmp_path / "report.json").read_text())

    measured = figures(report, "half")

    assert measured is not None
    assert measured[0] == pytest.approx(report["totals"]["percent_covered"])
    assert measured[1] == 50


def test_a_package_that_nothing_measured_has_no_figure() -> None:
    assert figures({"files": {}}, "src/agentaudit/protocols/") is None
