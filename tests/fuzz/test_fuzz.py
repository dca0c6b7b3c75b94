"""The fuzzers' properties under Hypothesis: what real peers said, changed in every way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.model import Side
from tests import tries
from tests.fuzz.dialogues import Turn, corpus, decode, encode
from tests.fuzz.targets import TARGETS, conversation, hold

KINDS = ("flip", "cut", "put", "twice", "move", "other side", "splice")

recorded = st.sampled_from(corpus())


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A recorded dialogue with bytes flipped, cut out, put in or said twice, or turns moved."""
    turns = decode(draw(recorded))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(turns) - 1))
        side, said = turns[at]
        first = draw(st.integers(0, len(said)))
        last = draw(st.integers(first, min(len(said), first + 20)))
        kind = draw(st.sampled_from(KINDS))
        if kind == "flip" and first < len(said):
            flipped = said[first] ^ draw(st.integers(1, 255))
            said = said[:first] + bytes([flipped]) + said[first + 1 :]
        elif kind == "cut":
            said = said[:first] + said[last:]
        elif kind == "put":
            said = said[:first] + draw(st.binary(max_size=12)) + said[first:]
        elif kind == "twice":
            turns.insert(at, (side, said))
        elif kind == "move":
            turns.insert(draw(st.integers(0, len(turns) - 1)), turns.pop(at))
            continue
        elif kind == "other side":
            side = Side.CLIENT if side is Side.TARGET else Side.TARGET
        elif kind == "splice":
            turns.insert(at, draw(st.sampled_from(decode(draw(recorded)))))
        turns[at] = (side, said)
    return encode(turns)


def test_a_dialogue_is_bytes_and_back() -> None:
    turns: list[Turn] = [(Side.CLIENT, b"a" * 70_000), (Side.TARGET, b""), (Side.TARGET, b"b")]

    again = decode(encode(turns))

    assert [side for side, _ in again] == [Side.CLIENT, Side.CLIENT, Side.TARGET]
    assert b"".join(said for _, said in again) == b"a" * 70_000 + b"b"


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_recorded_passes_every_target(name: str) -> None:
    for data in corpus():
        TARGETS[name](data)


def test_what_was_recorded_is_understood_to_its_end() -> None:
    for data in corpus():
        talk, broken = hold(decode(data))
        assert broken == ""
        assert sorted(talk.ended_nos()) == sorted(talk.commands)


@pytest.mark.parametrize(
    "examples", [150, pytest.param(tries.of(1_500, share=400), id="many", marks=pytest.mark.full)]
)
def test_a_changed_dialogue_is_understood_or_is_a_protocol_error_however_it_is_cut(
    examples: int,
) -> None:
    settings(max_examples=examples, deadline=None)(given(changed())(conversation))()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "conversation"])
def test_any_bytes_pass_every_other_target(name: str) -> None:
    anything = st.one_of(changed(), st.binary(max_size=200))
    settings(max_examples=100, deadline=None)(given(anything)(TARGETS[name]))()
