"""What is printed holds nothing that a terminal or a reader would obey."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.analysis.explore.filters import literal
from agentaudit.analysis.printable import flat, printable

# What a page in a browser writes out too (extension/components/test/text.test.ts).
TABLE = json.loads((Path(__file__).parents[1] / "vectors" / "shown.json").read_text("utf-8"))
WRITTEN_OUT = {
    chr(code)
    for first, last in TABLE["written_out"]
    for code in range(int(first, 16), int(last, 16) + 1)
}
KEPT_IN_LINES = {chr(int(code, 16)) for code in TABLE["kept_in_lines"]}

# Every character of Unicode's own classes of controls, formats and surrogates.
OBEYED = {
    chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs")
}
# Signs that stand before numbers in some scripts: format characters by class, but drawn.
DRAWN = {
    chr(c) for c in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)
}
DRAWN |= {
    chr(c) for c in (*range(0x13430, 0x13440), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B))
}


@pytest.mark.parametrize("block", [False, True])
def test_every_control_and_format_character_is_written_out(block: bool) -> None:
    kept = {"\n", "\t"} if block else set()
    for character in sorted(OBEYED - DRAWN - kept):
        assert printable(character, block=block).isascii(), hex(ord(character))


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_what_is_printed_can_be_encoded_and_obeys_nothing(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not (OBEYED - DRAWN) & set(shown)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=50))
def test_letters_of_every_script_stay_as_they_are(text: str) -> None:
    drawn = "".join(c for c in text if not c.isspace() or c == " ")
    plain = "".join(c for c in drawn if c not in WRITTEN_OUT)
    assert printable(plain) == plain


def test_just_the_characters_of_the_table_are_written_out() -> None:
    every = [chr(code) for code in range(0x110000)]
    assert {c for c in every if printable(c) != c} == WRITTEN_OUT
    assert {c for c in every if printable(c, block=True) != c} == WRITTEN_OUT - KEPT_IN_LINES


def test_they_are_written_as_the_table_says() -> None:
    for code, written in TABLE["as"]:
        assert printable(chr(int(code, 16))) == written
    for each in TABLE["texts"]:
        assert printable(each["text"]) == each["line"]
        assert printable(each["text"], block=True) == each["block"]


def test_no_invisible_character_is_left_in_the_code_that_a_filter_stands_for() -> None:
    for character in WRITTEN_OUT - {chr(code) for code in range(0xD800, 0xE000)}:
        assert literal(f"a{character}") == f"'a' || chr({ord(character)})"


def test_a_text_in_one_line_loses_nothing_that_is_not_seen() -> None:
    assert flat(" a\t\r\n b\rc\u2028d\ufeff\n") == "a b\rc\u2028d\ufeff"


def test_what_is_ignored_by_default_is_in_the_table() -> None:
    """Default_Ignorable_Code_Point, from what Python knows of it: formats that draw nothing."""
    ignored = {c for c in OBEYED - DRAWN if unicodedata.category(c) == "Cf"}
    ignored |= {chr(c) for c in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0x34F, 0x3164)}
    assert ignored <= WRITTEN_OUT
