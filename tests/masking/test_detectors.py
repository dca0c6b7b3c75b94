"""Detectors find what is labelled, to the byte, and keep what they promise to whoever runs them."""

from __future__ import annotations

import re
from collections import Counter
from re import _parser  # type: ignore[attr-defined]

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit._native.sift import Sieve
from agentaudit.masking.detectors import DETECTORS, GROUPS, Detector, compiled, named
from tests.masking import samples
from tests.masking.samples import Label

LABELS = tuple(samples.labels())
FOUND = [label for label in LABELS if label.spans]
CLEAN = [label for label in LABELS if not label.spans]
BY_NAME = {each.name: each for each in DETECTORS}

ALTERNATION_MEMORY = 64 << 20
MOST_BEFORE = 256
"""Bytes of context before what is hidden."""

each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: each.name)


def matches(detector: Detector, data: bytes) -> list[bytes]:
    """Return the whole matches, context included, that the spans of `find` come from."""
    spans = set(detector.find(data))
    pattern = compiled(detector.pattern)
    found, at = [], 0
    while at < len(data) and (match := pattern.search(data, at)):
        is_found = match.span(min(pattern.groups, 1)) in spans
        found += [match.group(0)] if is_found else []
        at = match.end() if is_found else match.start() + 1
    assert len(found) == len(spans)
    return found


def keeps_promise(detector: Detector, match: bytes) -> bool:
    hints = (detector.digits, detector.bare, detector.colons, detector.dots, detector.letters)
    return Sieve(detector.anchors, *hints).may_hold(match)


# --- the labelled set


@pytest.mark.parametrize("label", FOUND, ids=lambda label: label.detector)
def test_what_is_labelled_is_found_to_the_byte(label: Label) -> None:
    assert tuple(BY_NAME[label.detector].find(label.text)) == label.spans


@pytest.mark.parametrize("label", CLEAN, ids=lambda label: label.detector)
def test_what_only_looks_like_it_is_left_alone(label: Label) -> None:
    found = {
        each.name: label.text[start:end]
        for each in DETECTORS
        for start, end in each.find(label.text)
    }
    assert not found


def test_the_set_is_large_and_has_both_kinds_for_each_detector() -> None:
    assert sum(len(label.spans) for label in FOUND) >= 250
    assert len(CLEAN) >= 250
    for labels in (FOUND, CLEAN):
        counts = Counter(label.detector for label in labels)
        assert all(counts[name] >= 3 for name in BY_NAME)
        assert set(counts) <= {*BY_NAME, samples.NONE}


def test_the_set_says_nothing_twice() -> None:
    assert len({label.text for label in LABELS}) == len(LABELS)


@pytest.mark.parametrize("label", FOUND, ids=lambda label: label.detector)
def test_what_stands_around_changes_nothing(label: Label) -> None:
    detector = BY_NAME[label.detector]
    shifted = tuple((start + 3, end + 3) for start, end in label.spans)
    assert tuple(detector.find(b"ab\0" + label.text + b"\0cd")) == shifted


# --- what is promised


@each_detector
def test_a_detector_is_described_as_its_class_says(detector: Detector) -> None:
    assert re.fullmatch("[a-z0-9_]+", detector.name)
    hints = (detector.digits, detector.bare, detector.colons, detector.dots, detector.letters)
    assert detector.anchors or any(hints)
    for anchor in detector.anchors:
        assert len(anchor) >= 2
        assert anchor.isascii()
        assert anchor == anchor.lower()
    assert detector.pattern.isascii()  # the same in any encoding
    assert compiled(detector.pattern).groups <= 1


@pytest.mark.parametrize("label", FOUND, ids=lambda label: label.detector)
def test_a_sieve_lets_through_what_a_detector_finds(label: Label) -> None:
    detector = BY_NAME[label.detector]
    found = matches(detector, label.text)
    assert found
    assert all(keeps_promise(detector, match) for match in found)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: each.name)
def test_generated_matches_keep_what_is_promised(detector: Detector) -> None:
    @settings(max_examples=15, database=None)
    @given(st.from_regex(re.compile(detector.pattern.encode("latin-1")), fullmatch=True))
    def check(data: bytes) -> None:
        for match in matches(detector, data):
            assert keeps_promise(detector, match)
            assert b"\0" not in match
            assert detector.name == "private_key" or not set(match) & set(b"\r\n")

    check()


@pytest.mark.parametrize("label", FOUND, ids=lambda label: label.detector)
def test_no_match_crosses_a_nul_and_only_a_private_key_crosses_a_line(label: Label) -> None:
    detector = BY_NAME[label.detector]
    breaks = (b"\0",) if detector.name == "private_key" else (b"\0", b"\n", b"\r")
    for place in range(len(label.text) + 1):
        for sign in breaks:
            broken = label.text[:place] + sign + label.text[place:]
            assert not any(sign in match for match in matches(detector, broken))


@each_detector
def test_the_context_before_a_secret_is_bounded(detector: Detector) -> None:
    if compiled(detector.pattern).groups:
        group = re.search(r"(?<!\\)\((?!\?)", detector.pattern)
        assert group is not None
        before = _parser.parse(detector.pattern[: group.start()])
        assert before.getwidth()[1] <= MOST_BEFORE


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: each.name)
@settings(max_examples=30, database=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_can_be_searched(detector: Detector, data: bytes) -> None:
    end = 0
    for start, stop in detector.find(data):
        assert end <= start < stop <= len(data)
        end = stop


def test_all_patterns_run_as_one() -> None:
    together = compiled("|".join(f"(?:{each.pattern})" for each in DETECTORS), ALTERNATION_MEMORY)
    for label in FOUND:
        match = together.search(label.text)
        assert match is not None
        assert match.start() <= label.spans[0][0]


def test_a_text_of_matches_within_matches_takes_no_square_of_its_length() -> None:
    data = b"AIza-" * 40_000 + b"4111 1111 1111 1112 " * 10_000 + b"eyJ." * 40_000
    for detector in DETECTORS:
        assert not list(detector.find(data))


# --- names


def test_names_and_groups_give_detectors_in_order_and_once() -> None:
    assert [each.name for each in named(["email", "card", "email"])] == ["card", "email"]
    assert named(["all"]) == DETECTORS
    assert named(["secrets", "personal", "jwt"]) == DETECTORS
    assert {each.group for each in named(["personal"])} == {"personal"}
    assert named([]) == ()


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="emial; the nearest is email"):
        named(["jwt", "emial"])


def test_names_are_said_once() -> None:
    assert len(BY_NAME) == len(DETECTORS)
    assert not set(GROUPS) & set(BY_NAME)
