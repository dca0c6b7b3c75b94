"""With all detectors on, fewer than 1 in 10,000 values are masked wrongly."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

import pytest

from agentaudit.masking.detectors import DETECTORS
from tests.masking import samples

PER_10_000 = 1

SAMPLES_REMAINING: dict[tuple[str, str, str], str] = {}
"""What is found wrongly in the sample databases: table, column and detector, and why."""

IDS_REMAINING = {
    ("ids", "sixteen_digits", "card"): "one in four begins as a card does, one in ten of them has"
    " its check digit",
}
"""What is found wrongly in columns of ids."""


def hits(columns: Iterable[samples.Column]) -> Counter[tuple[str, str, str]]:
    """Return in how many values of each table and column each detector found something."""
    found: Counter[tuple[str, str, str]] = Counter()
    for column in columns:
        # Searched as one text, with a NUL between two values, as a message's fields are.
        text = b"\0".join(column.values)
        starts = list(accumulate((len(value) + 1 for value in column.values), initial=0))
        for detector in DETECTORS:
            spans = list(detector.find(text))
            where = {bisect(starts, start) for start, _ in spans}
            assert where == {bisect(starts, end - 1) for _, end in spans}
            if where:
                found[column.table, column.name, detector.name] = len(where)
    return found


def wrong(found: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str, str]]:
    """Return those of `found` that are not what the sample really holds."""
    return Counter(
        {
            (table, column, detector): count
            for (table, column, detector), count in found.items()
            if samples.RIGHTLY_FOUND.get((table, column)) != detector
        }
    )


@pytest.fixture(scope="module")
def columns() -> list[samples.Column]:
    return list(samples.read())


def test_fewer_than_1_in_10_000_values_of_databases_are_masked_wrongly(
    columns: list[samples.Column],
) -> None:
    values = sum(len(column.values) for column in columns)
    assert values > 200_000

    found = wrong(hits(columns))

    assert found.total() * 10_000 < values * PER_10_000
    assert set(found) == set(SAMPLES_REMAINING)


def test_personal_data_of_the_samples_is_found(columns: list[samples.Column]) -> None:
    found = hits(columns)
    for column in columns:
        detector = samples.RIGHTLY_FOUND.get((column.table, column.name))
        if detector is not None:
            assert found[column.table, column.name, detector] == len(column.values)


def test_ids_that_are_found_wrongly_are_of_these_kinds() -> None:
    found = wrong(hits(samples.ids()))

    assert set(found) == set(IDS_REMAINING)
