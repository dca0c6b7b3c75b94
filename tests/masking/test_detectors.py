"""Detectors find what is labelled, to the byte, and keep what they promise to whoever runs them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from re import _parser  # type: ignore[attr-defined]

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.masking.detectors import DETECTORS, GROUPS, HINTS, Detector, compiled, named
from agentaudit.masking.scan import Scanner
from tests.masking import samples

LABELS = tuple(samples.labels())
FOUND = [label for label in LABELS if label.spans]
CLEAN = [label for label in LABELS if not label.spans]
BY_NAME = {each.name: each for each in DETECTORS}

ALTERNATION_MEMORY = 64 << 20
MOST_BEFORE = 256
"""Bytes of context before what is hidden."""

AROUND = "0123456789 -./():+TZXab"
TIMES = ("2026-11-30 12:34:56.123456+00", "2026-11-30T12:34:56.12Z", "2026-11-30 1", ":56.123-05")
GROUPED = re.compile(r"\A(\d{1,6}[ .-]){1,4}\d{1,6}\Z", re.ASCII)
"""What may hide a number from a sieve that leaves times alone."""

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
    return scanner_of(detector).may_hold(match)


@cache
def scanner_of(*detectors: Detector) -> Scanner:
    return Scanner([("rule", detector) for detector in detectors])


# --- the labelled set


def test_what_is_labelled_is_found_to_the_byte() -> None:
    found = {label: tuple(BY_NAME[label.detector].find(label.text)) for label in FOUND}
    assert [(label, spans) for label, spans in found.items() if spans != label.spans] == []


def test_what_only_looks_like_it_is_left_alone() -> None:
    found = [
        (each.name, label.text[start:end], label)
        for label in CLEAN
        for each in DETECTORS
        for start, end in each.find(label.text)
    ]
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


def test_what_stands_around_changes_nothing() -> None:
    for label in FOUND:
        shifted = tuple((start + 3, end + 3) for start, end in label.spans)
        found = BY_NAME[label.detector].find(b"ab\0" + label.text + b"\0cd")
        assert tuple(found) == shifted, label


# --- what is promised


@each_detector
def test_a_detector_is_described_as_its_class_says(detector: Detector) -> None:
    assert re.fullmatch("[a-z0-9_]+", detector.name)
    assert detector.anchors or any(getattr(detector, hint) for hint in HINTS)
    for anchor in detector.anchors:
        assert len(anchor) >= 2
        assert anchor.isascii()
    assert detector.pattern.isascii()  # the same in any encoding
    assert compiled(detector.pattern).groups <= 1


def test_a_sieve_lets_through_what_a_detector_finds() -> None:
    for label in FOUND:
        detector = BY_NAME[label.detector]
        found = matches(detector, label.text)
        assert found, label
        assert all(keeps_promise(detector, match) for match in found), label


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


@settings(max_examples=400, database=None)
@given(st.data())
def test_whatever_stands_around_a_sieve_lets_through_what_is_found(data: st.DataObject) -> None:
    around = st.text(AROUND, max_size=12) | st.sampled_from(TIMES) | st.from_regex(GROUPED)
    text = "".join(data.draw(st.lists(around, max_size=3))).encode()
    if data.draw(st.booleans()):
        label = data.draw(st.sampled_from(FOUND)).text
        text = data.draw(st.sampled_from([label + text, text + label, text + label + text]))
    scanner = scanner_of(*DETECTORS)
    if scanner.find(text):
        assert scanner.may_hold(text)
        assert scanner.segments(text)


@settings(max_examples=200)
@given(st.lists(st.sampled_from([label.text for label in FOUND]) | st.binary(max_size=40)))
def test_what_a_sieve_suspects_holds_all_that_is_found(values: list[bytes]) -> None:
    scanner = scanner_of(*DETECTORS)
    data = b"\0".join(values)
    assert scanner.found_in(data) == scanner.find(data)


@each_detector
def test_no_match_crosses_a_nul_and_only_a_private_key_crosses_a_line(detector: Detector) -> None:
    breaks = (b"\0",) if detector.name == "private_key" else (b"\0", b"\n", b"\r")
    for label in (label for label in FOUND if label.detector == detector.name):
        for place in range(len(label.text) + 1):
            for sign in breaks:
                broken = label.text[:place] + sign + label.text[place:]
                assert not any(sign in match for match in matches(detector, broken)), broken


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
