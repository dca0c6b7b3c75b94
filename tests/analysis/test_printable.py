"""What is printed holds nothing that a terminal or a reader would obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.analysis.printable import printable

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
    fillers = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
    plain = "".join(c for c in drawn if c not in fillers and not 0xE0000 <= ord(c) <= 0xE0FFF)
    assert printable(plain) == plain
