"""Canonical JSON, against the `rfc8785` package over the values that the archive holds."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive import canonical

SAFE = 2**53 - 1
names = st.text(st.characters(max_codepoint=127), max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-SAFE, SAFE) | st.text(st.characters(codec="utf-8"))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_it_is_rfc_8785_over_all_that_the_archive_holds(value: Any) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


@given(values)
def test_it_is_read_back_as_it_was(value: Any) -> None:
    assert canonical.decode(canonical.encode(value)) == value


def test_it_escapes_as_rfc_8785_does() -> None:
    everything = "".join(chr(n) for n in range(0x180)) + '\u2028\u2029"\\/\ufeff\U0001f600'
    assert canonical.encode(everything) == rfc8785.dumps(everything)


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        2**64,
        "\udc80",
        {"\ud800": 1},
        {1: 2},
        b"bytes",
        {1, 2},
        datetime(2026, 1, 1, tzinfo=UTC),
        Point(1),
        [{"deep": [2**53]}],
    ],
    ids=repr,
)
def test_what_the_archive_never_holds_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical.encode(value)


@pytest.mark.parametrize("data", [b"", b"{", b"nul", b'"\xff"', b"[1,]", b"{} {}"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        canonical.decode(data)


@given(st.dictionaries(names, scalars, max_size=5))
def test_the_order_in_which_members_were_added_does_not_show(members: dict[str, Any]) -> None:
    backwards = dict(reversed(members.items()))
    assert canonical.encode(backwards) == canonical.encode(members)
    assert json.loads(canonical.encode(backwards)) == members
