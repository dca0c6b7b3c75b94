"""A run in which a test was skipped, left out or expected to fail must not pass for complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.outcomes import judge, main, parse_allowed

ROOT = Path(__file__).parents[2]

SUITE = """
import pytest

def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip(reason="no")
def test_skips(): pass
@pytest.mark.xfail(strict=False)
def test_expected_to_fail(): assert False
@pytest.mark.xfail(strict=False)
def test_unexpectedly_passes(): pass
@pytest.mark.long
def test_left_out(): pass
@pytest.fixture
def broken():
    yield
    raise RuntimeError
def test_fails_in_teardown(broken): pass
"""


@pytest.fixture
def report(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "test_absent.py").write_text("import pytest\npytest.importorskip('absent_peer')\n")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "tools.outcomes"]
        + ["-m", "not long", "-p", "no:cacheprovider", "--outcomes", "report.json"]
        + request.param,
        cwd=tmp_path,
        # Of a dozen plugins one has to do with it, and each worker loads all.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.DEVNULL,
    )
    seen: dict[str, str] = json.loads((tmp_path / "report.json").read_text())
    return seen


@pytest.mark.parametrize("report", [["-n", "0"], ["-n", "2"]], indirect=True, ids=["one", "many"])
def test_a_report_names_the_outcome_of_every_test_with_and_without_workers(
    report: dict[str, str],
) -> None:
    assert report == {
        "test_absent.py": "skipped",
        "test_suite.py::test_passes": "passed",
        "test_suite.py::test_fails": "failed",
        "test_suite.py::test_skips": "skipped",
        "test_suite.py::test_expected_to_fail": "xfailed",
        "test_suite.py::test_unexpectedly_passes": "xpassed",
        "test_suite.py::test_left_out": "deselected",
        "test_suite.py::test_fails_in_teardown": "failed",
    }


def test_a_test_that_one_run_leaves_out_counts_as_what_another_says() -> None:
    counts, complaints = judge([{"a": "passed", "b": "deselected"}, {"b": "passed"}], {})
    assert (counts["passed"], complaints) == (2, [])


@pytest.mark.parametrize("outcome", ["skipped", "xfailed", "xpassed", "deselected", "failed"])
def test_anything_but_a_pass_is_a_complaint(outcome: str) -> None:
    counts, complaints = judge([{"a": outcome}], {})
    assert counts["failed"] == 1
    assert len(complaints) == 1


@pytest.mark.parametrize("outcome", ["skipped", "xfailed", "deselected"])
def test_what_is_listed_with_a_reason_may_be_left_out(outcome: str) -> None:
    counts, complaints = judge([{"a": outcome}], {"a": "reason"})
    assert (counts["skipped"], complaints) == (1, [])


@pytest.mark.parametrize("outcome", ["passed", "failed", "xpassed"])
def test_a_listed_test_that_runs_after_all_is_a_complaint(outcome: str) -> None:
    assert judge([{"a": outcome}], {"a": "reason"})[1]


def test_a_listed_test_that_does_not_exist_is_a_complaint() -> None:
    assert judge([{"a": "passed"}], {"gone": "reason"})[1]


def test_a_line_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_allowed("# a comment\ntests/test_a.py::test_b\n")


def test_a_name_may_hold_the_mark_of_a_comment() -> None:
    assert parse_allowed("t.py::test[#1]  # needs an engine\n") == {
        "t.py::test[#1]": "needs an engine"
    }


def test_the_judge_counts_last_and_fails_where_a_report_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("")
    good = tmp_path / "good.json"
    good.write_text('{"a": "passed"}')
    assert main(["--allowed", str(allowed), str(good)]) == 0
    assert capsys.readouterr().out == "tests: 1 passed, 0 failed\n"
    assert main(["--allowed", str(allowed), str(good), str(tmp_path / "gone.json")]) == 1


def test_a_run_without_a_single_test_fails(tmp_path: Path) -> None:
    allowed, empty = tmp_path / "allowed.txt", tmp_path / "empty.json"
    allowed.write_text("")
    empty.write_text("{}")
    assert main(["--allowed", str(allowed), str(empty)]) == 1
