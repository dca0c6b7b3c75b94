"""Which tests fail only through the gateway, and whether the documentation has a reason for each.

A test is suspect that passes another way and does not pass through the gateway, whatever it does
there instead: one that is skipped has found something missing. Runs of the suspects alone then
tell whether it fails only through the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentaudit.errors import AgentauditError

Outcomes = Mapping[str, str]
"""What became of each test, by its name."""

_SERVER = re.compile(r"^([^:]+::[^:]+)_postgresql\+[a-z0-9]+(?:_[a-z]+)?(?:_\d+)+(?=::)")
_ROW = re.compile(
    r"^\| `(?P<test>[^`]*::[^`]*)` \| (?P<drivers>[^|]+)"
    r" \| (?P<how>[^|]+) \| (?P<reason>[^|]+) \|$",
    re.MULTILINE,
)
_MAY_PASS = {"fails": False, "may fail": True}


class ListError(AgentauditError):
    """The list of tests that may fail is not as it must be."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Why a test fails through the gateway; `may_pass` where that depends on the machine."""

    reason: str
    may_pass: bool


def plain(name: str) -> str:
    """Return a test's name without the driver and the server's version that SQLAlchemy adds."""
    return _SERVER.sub(r"\1", name)


def listed(page: str, suite: str, driver: str) -> dict[str, Listed]:
    """Return what the table rows of `page` say of a suite's tests with a driver.

    A row is the test's name, the drivers as `suite/driver`, "fails" or "may fail", and why.

    Raises:
        ListError: a row says neither of the two.
    """
    found = {}
    for row in _ROW.finditer(page):
        if row["how"] not in _MAY_PASS:
            raise ListError(
                f"{row['test']}: {row['how']!r}, expected one of {', '.join(_MAY_PASS)}"
            )
        if f"{suite}/{driver}" in row["drivers"].split(", "):
            found[row["test"]] = Listed(row["reason"].strip(), _MAY_PASS[row["how"]])
    return found


def suspects(ways: Mapping[str, Outcomes]) -> list[str]:
    """Return the tests that pass some other way, and not through the gateway."""
    others = [outcomes for name, outcomes in ways.items() if name != "gateway"]
    passed = {test for one in others for test, outcome in one.items() if outcome == "passed"}
    return sorted(test for test in passed if ways["gateway"].get(test) != "passed")


@dataclass(slots=True)
class Verdict:
    """What a comparison has found.

    `unlisted` fail only through the gateway, and nobody says why; `stale` are listed, and pass or
    are gone. `flaky` looked so at first. `elsewhere` differ between the ways, and pass through the
    gateway or no way.
    """

    unlisted: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    flaky: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.unlisted and not self.stale


def judge(
    ways: Mapping[str, Outcomes],
    reasons: Mapping[str, Listed],
    again: Mapping[str, Sequence[Outcomes]],
) -> Verdict:
    """Return what the runs say.

    `ways` holds a run each way, `again` further ones for the suspects that are not listed. Such a
    one counts if it fails again through the gateway, and never another way.
    """
    verdict = Verdict()
    suspected = suspects(ways)
    for test in suspected:
        if test in reasons:
            verdict.listed.append(test)
        elif _fails_only_through_the_gateway(test, again):
            verdict.unlisted.append(test)
        else:
            verdict.flaky.append(test)
    names = set[str]().union(*ways.values())
    files = {_file(one) for one in names}
    # Where a part of the suite ran, what is listed of the rest says nothing.
    verdict.stale = sorted(
        test
        for test, one in reasons.items()
        if (test not in names and _file(test) in files)
        or (ways["gateway"].get(test) == "passed" and not one.may_pass)
    )
    verdict.elsewhere = sorted(
        test
        for test in names.difference(suspected)
        if len({outcomes.get(test) for outcomes in ways.values()}) > 1
    )
    return verdict


def _fails_only_through_the_gateway(test: str, again: Mapping[str, Sequence[Outcomes]]) -> bool:
    through = again["gateway"]
    others = [run for name, runs in again.items() if name != "gateway" for run in runs]
    return any(run.get(test) != "passed" for run in through) and all(
        run.get(test) == "passed" for run in others
    )


def _file(test: str) -> str:
    return test.partition("::")[0]
