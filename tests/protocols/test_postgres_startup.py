"""Start-up parameters as a server reads them; `bool.c` and `postinit.c` of PostgreSQL decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.protocols import postgres_startup as startup


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        *((value, True) for value in ("t", "T", "tR", "true", "y", "YES", "on", "1")),
        *((value, False) for value in ("f", "FA", "false", "n", "no", "of", "OFF", "0")),
        *(
            (value, None)
            for value in ("", "o", "2", "10", "truest", "onn", " on", "on ", "database")
        ),
    ],
)
def test_a_truth_value_may_be_the_beginning_of_a_word(value: str, truth: bool | None) -> None:
    assert startup.is_true(value) is truth


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({}, ""),
        ({"replication": "off"}, ""),
        ({"replication": "true"}, "physical"),
        ({"replication": "database"}, "logical"),
        ({"replication": "Database"}, None),
        ({"replication": ""}, None),
    ],
)
def test_a_start_up_says_what_it_wants_to_replicate(
    parameters: dict[str, str], kind: str | None
) -> None:
    assert startup.replication(parameters) == kind


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c a=1", {"a": "1"}),
        ("-ca=1 --b=2", {"a": "1", "b": "2"}),
        ("  -c\t a=1\n-c a=2 ", {"a": "2"}),
        (r"-c a=x\ y --b=\\", {"a": "x y", "b": "\\"}),
        ("-B 10 -c a=b=c word", {"a": "b=c"}),
        ("-c", {"": ""}),
        ("-c a", {"a": ""}),
        ("--", {"": ""}),
    ],
)
def test_options_are_taken_apart_as_by_a_server(options: str, settings: dict[str, str]) -> None:
    assert startup.settings_in(options) == settings


@given(st.text(max_size=60))
def test_any_text_is_options(options: str) -> None:
    assert all(isinstance(name, str) for name in startup.settings_in(options))
