"""Runs the suites and compares them, test by test.

Exit status 0: no test fails only through the gateway, apart from those that
`docs/compatibility.md` gives a reason for; 1: one does, one that is listed passes, or a run came to
no result. pytest's own reports are kept in `.build/suites/reports`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentaudit.demo.processes import temporary_folder
from agentaudit.errors import AgentauditError
from tests.peers.suites import compare
from tests.peers.suites.compare import Outcomes, Verdict
from tests.peers.suites.runs import SUITES, Run, Suite, run
from tests.peers.suites.sources import CACHE, ROOT, pinned
from tests.peers.suites.ways import SERVERS, WAYS, way

PAGE = ROOT / "docs" / "compatibility.md"
REPEATS = 3


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(prog="python -m tests.peers.suites", description=__doc__)
    made.add_argument("--suite", choices=sorted({suite for suite, _ in SUITES}))
    made.add_argument("--driver", choices=sorted({driver for _, driver in SUITES}))
    made.add_argument(
        "--server", choices=sorted(SERVERS), default="18", help="PostgreSQL's version"
    )
    made.add_argument("--subset", action="store_true", help="what takes a few minutes")
    made.add_argument("--way", default=",".join(WAYS), help=f"of {','.join(WAYS)}")
    made.add_argument("selection", nargs="*", help="files of the suite, in place of all")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    arguments = parser().parse_args(argv)
    ways = arguments.way.split(",")
    if not set(ways) <= set(WAYS):
        parser().error(f"--way: {arguments.way}, expected some of {','.join(WAYS)}")
    chosen = [
        suite
        for (name, driver), suite in SUITES.items()
        if arguments.suite in (None, name) and arguments.driver in (None, driver)
    ]
    if not chosen:
        parser().error(f"--driver: {arguments.suite} does not run with {arguments.driver}")
    status = 0
    with temporary_folder("agentaudit-suites-") as work:
        # What this machine knows of logs is the user's own, and not of these.
        os.environ["XDG_STATE_HOME"] = str(work / "state")
        for suite in chosen:
            selection = arguments.selection or (suite.part if arguments.subset else suite.whole)
            try:
                is_good = compare_ways(suite, ways, selection, arguments.server, work)
            except AgentauditError as error:
                print(f"  {error}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n  ")
                is_good = False
            status = status if is_good else 1
    return status


def compare_ways(
    suite: Suite,
    ways: Sequence[str],
    selection: Sequence[str],
    server: str,
    work: Path,
    *,
    only_suspects: Sequence[str] = (),
) -> bool:
    """Run `selection` of a suite each way, say what became of it, and return whether all is well.

    The ways of `only_suspects` are gone by nothing but what passes another way alone.

    Raises:
        PeerError: something does not start or come to an end, or what was recorded is not sound.
        ListError: a row of the list is not as it must be.
    """
    version, _ = pinned(suite.package)
    print(f"{suite.name} {version}, {suite.driver}, PostgreSQL {server}")
    reasons = compare.listed(PAGE.read_text(encoding="utf-8"), suite.name, suite.driver)
    stage = _Stage(suite, server, work)
    first = {name: stage.run(name, selection) for name in ways if name not in only_suspects}
    if "gateway" not in ways or len(ways) == 1:
        return True
    if "pump" in first:
        print(
            f"  gateway / pump: {first['gateway'].seconds / first['pump'].seconds:.2f} of the time"
        )
    outcomes: dict[str, Outcomes] = {name: one.outcomes for name, one in first.items()}
    suspects = [test for test in compare.suspects(outcomes) if test not in reasons]
    again: dict[str, list[Outcomes]] = {}
    if suspects:
        print(f"  {len(suspects)} pass another way alone; {REPEATS} more times each way:")
        # Whole files, because a test may need what an earlier one left.
        files = sorted({test.partition("::")[0] for test in suspects})
        for name in ways:
            again[name] = [stage.run(name, files).outcomes for _ in range(REPEATS)]
        for test in suspects:
            print(f"    {test}: {_repeated(test, again)}")
    verdict = compare.judge(outcomes, reasons, again)
    _print(verdict, outcomes)
    return verdict.is_good


class _Stage:
    """Runs one suite against one server, each time in a new world."""

    def __init__(self, suite: Suite, server: str, work: Path) -> None:
        self._suite = suite
        self._server = server
        self._work = work
        self._number = 0

    def run(self, name: str, selection: Sequence[str]) -> Run:
        self._number += 1
        suite = self._suite
        directory = self._work / f"{suite.name}-{suite.driver}-{self._number}"
        directory.mkdir()
        reports = CACHE / "reports"
        reports.mkdir(parents=True, exist_ok=True)
        report = reports / f"{suite.name}-{suite.driver}-{self._server}-{name}-{self._number}.txt"
        with way(name, suite.need, server=self._server, directory=directory, note=_note) as place:
            done = run(suite, place, selection, report)
            print(f"  {name:8} {done.seconds:6.1f} s  {_counted(done.outcomes)}", flush=True)
        return done


def _note(text: str) -> None:
    print(f"  {text}", flush=True)


def _counted(outcomes: Outcomes) -> str:
    counts: dict[str, int] = {}
    for what in outcomes.values():
        counts[what] = counts.get(what, 0) + 1
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _repeated(test: str, again: Mapping[str, Sequence[Outcomes]]) -> str:
    return ", ".join(
        f"{name} " + "/".join(one.get(test, "not run") for one in runs)
        for name, runs in again.items()
    )


def _print(verdict: Verdict, ways: Mapping[str, Outcomes]) -> None:
    for words, tests in (
        ("fails only through the gateway", verdict.unlisted),
        ("is listed, and passes or is gone", verdict.stale),
        ("failed by accident", verdict.flaky),
        ("differs between the ways", verdict.elsewhere),
        ("fails through the gateway, as listed", verdict.listed),
    ):
        for test in tests:
            each = _repeated(test, {name: [outcomes] for name, outcomes in ways.items()})
            print(f"  {words}: {test}: {each}")
    print("  good" if verdict.is_good else "  NOT GOOD")


if __name__ == "__main__":
    sys.exit(main())
