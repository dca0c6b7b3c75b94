"""A pytest plugin that writes down what became of every test, and a judge over such reports.

`make test` leaves the long tests out and `make test-all` runs them later, so neither run alone can
tell whether something was never run. The judge reads all reports of a check-out together: a test
that was left out of one run must have passed in another, and what was skipped, expected to fail or
never run must stand in `tests/allowed-skips.txt` with its reason.

Run as `python -m pytest -p tools.outcomes --outcomes FILE …`, then
`python -m tools.outcomes --allowed tests/allowed-skips.txt FILE…`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

# The worst that was seen of a test wins: a test that passes and then fails in its teardown failed.
_RANK = {"deselected": 0, "passed": 1, "skipped": 2, "xfailed": 3, "xpassed": 4, "failed": 5}


class Outcomes:
    """Collects one outcome a test in the process that controls the run, workers included."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.seen: dict[str, str] = {}

    def note(self, name: str, outcome: str) -> None:
        """Keep `outcome` for the test `name` unless a worse one is known."""
        known = self.seen.get(name)
        if known is None or _RANK[outcome] > _RANK[known]:
            self.seen[name] = outcome

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self.note(item.nodeid, "deselected")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        # A module that skips itself as a whole has no tests that could be seen to be missing.
        if report.outcome != "passed":
            self.note(report.nodeid, report.outcome)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "wasxfail"):
            self.note(report.nodeid, "xfailed" if report.skipped else "xpassed")
        elif report.when == "call" or report.outcome != "passed":
            self.note(report.nodeid, report.outcome)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        for name, outcome in getattr(node, "workeroutput", {}).get("outcomes", {}).items():
            self.note(name, outcome)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Workers of pytest-xdist alone know what they left out; they hand it to their controller.
        workeroutput = getattr(session.config, "workeroutput", None)
        if workeroutput is not None:
            workeroutput["outcomes"] = self.seen
        elif self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.seen, indent=1, sort_keys=True) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--outcomes FILE`."""
    parser.addoption("--outcomes", type=Path, help="write what became of every test, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector, in the controller and in each worker."""
    config.pluginmanager.register(Outcomes(config.getoption("--outcomes")), "agentaudit-outcomes")


def parse_allowed(text: str) -> dict[str, str]:
    """Return the reason of each test that may be left out.

    One a line: the test's id, two spaces, `#` and the reason. Blank lines and lines that start
    with `#` say nothing.

    Raises:
        ValueError: a line has no reason.
    """
    allowed = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, mark, reason = line.partition("  # ")
        if not mark or not reason.strip():
            raise ValueError(f"line {number} gives no reason: {line.strip()}")
        allowed[name.strip()] = reason.strip()
    return allowed


def judge(
    reports: Iterable[Mapping[str, str]], allowed: Mapping[str, str]
) -> tuple[Counter[str], list[str]]:
    """Return how many tests ended how, and every complaint, in the order of the tests' names.

    A test that one report left out counts as what another says of it.
    """
    merged = Outcomes(None)
    for report in reports:
        for name, outcome in report.items():
            merged.note(name, outcome)
    counts: Counter[str] = Counter()
    complaints = []
    for name, outcome in sorted(merged.seen.items()):
        if outcome in ("passed", "failed"):
            counts[outcome] += 1
            if outcome == "failed":
                complaints.append(f"failed: {name}")
            if name in allowed:
                complaints.append(f"{outcome}, yet listed as allowed not to run: {name}")
        elif name in allowed and outcome != "xpassed":
            counts["skipped"] += 1
        else:
            counts["failed"] += 1
            complaints.append(f"{outcome} without being allowed to: {name}")
    complaints.extend(
        f"listed as allowed not to run, and there is no such test: {name}"
        for name in sorted(set(allowed) - set(merged.seen))
    )
    return counts, complaints


def main(argv: Sequence[str] | None = None) -> int:
    """Judge the reports named on the command line; return 0 where nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(description="Judges reports of pytest runs together.")
    parser.add_argument("--allowed", type=Path, required=True)
    parser.add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args(argv)

    missing = [str(path) for path in arguments.reports if not path.exists()]
    reports = [json.loads(path.read_text()) for path in arguments.reports if path.exists()]
    counts, complaints = judge(reports, parse_allowed(arguments.allowed.read_text()))
    complaints += [f"no report was written: {path}" for path in missing]
    if not counts["passed"]:
        complaints.append("no test passed at all")
    for complaint in complaints:
        print(complaint)
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"tests: {counts['passed']} passed, {counts['failed']} failed{skipped}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
