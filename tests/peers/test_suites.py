"""What the comparison of client suites says, and that a part of the suites passes.

The whole of them runs with `python -m tests.peers.suites`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.suites import compare
from tests.peers.suites.__main__ import compare_ways
from tests.peers.suites.compare import Listed
from tests.peers.suites.runs import SUITES
from tests.peers.suites.ways import WAYS

TEST = "tests/test_copy.py::TestCopy::test_one"
SURE = {TEST: Listed("because", may_pass=False)}
PASSED = {TEST: "passed"}
FAILED = {TEST: "failed"}


@pytest.mark.parametrize("outcome", ["failed", "skipped", "xfailed", None])
def test_what_passes_another_way_must_pass_through_the_gateway(outcome: str | None) -> None:
    through = {} if outcome is None else {TEST: outcome}
    again = {"direct": [PASSED], "pump": [PASSED], "gateway": [through]}
    verdict = compare.judge({"direct": PASSED, "pump": FAILED, "gateway": through}, {}, again)
    assert verdict.unlisted == [TEST]
    assert not verdict.is_good


def test_what_fails_every_way_or_passes_through_the_gateway_is_not_suspect() -> None:
    everywhere = compare.judge({"direct": FAILED, "pump": FAILED, "gateway": FAILED}, {}, {})
    elsewhere = compare.judge({"direct": PASSED, "pump": FAILED, "gateway": PASSED}, {}, {})
    assert everywhere.is_good
    assert elsewhere.is_good
    assert elsewhere.elsewhere == [TEST]


def test_a_listed_test_may_fail() -> None:
    verdict = compare.judge({"direct": PASSED, "gateway": FAILED}, SURE, {})
    assert verdict.listed == [TEST]
    assert verdict.is_good


def test_a_listed_test_that_passes_or_is_gone_has_no_place_in_the_list() -> None:
    passes = compare.judge({"direct": PASSED, "gateway": PASSED}, SURE, {})
    other = {"tests/test_copy.py::TestCopy::test_two": "passed"}
    gone = compare.judge({"direct": other, "gateway": other}, SURE, {})
    assert passes.stale == gone.stale == [TEST]
    assert not passes.is_good
    assert not gone.is_good


def test_a_listed_test_may_pass_where_it_is_listed_so_and_be_left_out_of_a_part() -> None:
    unsure = {TEST: Listed("because", may_pass=True)}
    assert compare.judge({"direct": PASSED, "gateway": PASSED}, unsure, {}).is_good
    elsewhere = {"tests/test_pool.py::TestPool::test_one": "passed"}
    assert compare.judge({"direct": elsewhere, "gateway": elsewhere}, SURE, {}).is_good


def test_a_failure_counts_that_comes_again_and_only_through_the_gateway() -> None:
    ways = {"direct": PASSED, "gateway": FAILED}
    again = {"direct": [PASSED] * 3, "gateway": [PASSED, FAILED, PASSED]}
    assert compare.judge(ways, {}, again).unlisted == [TEST]


@pytest.mark.parametrize(
    "again",
    [
        {"direct": [PASSED] * 3, "gateway": [PASSED] * 3},
        {"direct": [PASSED, FAILED, PASSED], "gateway": [FAILED] * 3},
    ],
    ids=["never again", "another way too"],
)
def test_a_failure_that_was_an_accident_is_told_and_does_not_count(
    again: dict[str, list[dict[str, str]]],
) -> None:
    verdict = compare.judge({"direct": PASSED, "gateway": FAILED}, {}, again)
    assert verdict.flaky == [TEST]
    assert verdict.is_good


def test_the_list_is_read_from_the_tables_of_a_page_by_suite_and_driver() -> None:
    page = (
        "| test | with | it | because |\n|---|---|---|---|\n"
        "| `t/a.py::A::test_x[H:P]` | sqlalchemy/psycopg, sqlalchemy/asyncpg | fails | of this |\n"
        "| `t/b.py::B::test_y` | asyncpg/asyncpg | may fail | of that |\n"
    )
    both = {"t/a.py::A::test_x[H:P]": Listed("of this", may_pass=False)}
    assert compare.listed(page, "sqlalchemy", "psycopg") == both
    assert compare.listed(page, "sqlalchemy", "asyncpg") == both
    assert compare.listed(page, "sqlalchemy", "psycopg_async") == {}
    assert compare.listed(page, "asyncpg", "asyncpg") == {
        "t/b.py::B::test_y": Listed("of that", may_pass=True)
    }


def test_a_row_of_the_list_that_says_neither_fails_nor_may_fail_is_an_error() -> None:
    with pytest.raises(compare.ListError, match="'sometimes', expected one of fails, may fail"):
        compare.listed("| `a.py::test` | asyncpg/asyncpg | sometimes | why |\n", "asyncpg", "x")


@pytest.mark.parametrize(
    "suffix",
    ["postgresql+psycopg_18_6", "postgresql+psycopg_async_15_18", "postgresql+asyncpg_18_6"],
)
def test_a_name_is_the_same_with_every_driver_and_server(suffix: str) -> None:
    name = f"test/test_suite.py::DateTest_{suffix}::test_null[a_postgresql+x_1::b]"
    assert compare.plain(name) == "test/test_suite.py::DateTest::test_null[a_postgresql+x_1::b]"


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("suite", "driver"),
    [("asyncpg", "asyncpg"), ("sqlalchemy", "psycopg"), ("sqlalchemy", "asyncpg")],
)
def test_what_fails_only_through_the_gateway_has_its_reason_in_the_documentation(
    suite: str, driver: str, tmp_path: Path
) -> None:
    """What a pump does is asked of what fails: that it does no harm, the whole of them shows."""
    chosen = SUITES[suite, driver]
    assert compare_ways(chosen, WAYS, chosen.part, "18", tmp_path, only_suspects=["pump"])
