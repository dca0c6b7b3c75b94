"""Runs the front end's own tests, in the Node that bundles it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "extension/components/test").glob("*.test.ts"))


@pytest.mark.timeout(300)
def test_the_components_pass_their_own_tests() -> None:
    written = sum(len(re.findall(r"^\s*test\(", path.read_text("utf-8"), re.M)) for path in TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "tools.front", "test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    told = re.findall(r"^\S (tests|pass|fail|cancelled|skipped|todo) (\d+)$", done.stdout, re.M)
    counts = {name: int(number) for name, number in told}
    assert done.returncode == 0, done.stdout + done.stderr
    # One that is written in a loop is several.
    ran = counts.pop("tests")
    assert ran >= written > 0
    assert counts == {"pass": ran, "fail": 0, "cancelled": 0, "skipped": 0, "todo": 0}
