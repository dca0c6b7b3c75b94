"""The sieve, blanking and rewriting of rows: compiled and in Python, with the same answers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit._native import sift
from agentaudit.masking.detectors import DETECTORS
from agentaudit.protocols import postgres_messages as messages
from tests.archive.faults import python_of

both = pytest.mark.parametrize("kind", [sift, python_of(sift)], ids=["compiled", "python"])

ANCHORS = (b"akia", b"eyJ", b"passw", b"q~", b"@a")
HINTS = {"bare": 14, "beside": 6, "spaced": 9, "dots": 3, "colons": 7, "letters": 16}
ALPHABETS = (
    b"0123456789 -./():+TZaAkKiIpPsSwWeEyYjJqQ~@\0",
    b"0123456789 -./():+TZ",
    b"0123 -.T:+",
    b"0aA:",
    b"aAkKiIpPsSwWeEyYjJqQ~@\0 ",
    b"AB1 ",
)
PIECES = (b"2026-11-30 12:34:56.123456+00", b"2026-11-30T12:34:56.5Z", b"1999-01-02", b":07.123")


def row(*values: bytes | None) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return messages.frame(b"D", body)


def bind(*values: bytes, portal: bytes = b"", formats: Sequence[int] = ()) -> bytes:
    body = portal + b"\0s\0" + struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    body += struct.pack("!H", len(values))
    body += b"".join(struct.pack("!i", len(value)) + value for value in values)
    return messages.frame(b"B", body + struct.pack("!Hh", 1, 1))


def telling(seed: int) -> bytes:
    """Return bytes in which much may be: numbers, dates, runs, anchors, and what nearly is one."""
    chosen = random.Random(seed)
    parts = []
    for _ in range(chosen.randrange(6)):
        if chosen.random() < 0.25:
            part = chosen.choice([*PIECES, *ANCHORS])
            cut = chosen.randrange(len(part) + 1)
            parts.append(chosen.choice([part, part[:cut], part[cut:], part.upper()]))
        else:
            parts.append(bytes(chosen.choices(chosen.choice(ALPHABETS), k=chosen.randrange(40))))
    return b"".join(parts)


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 2**32))
def test_both_sieves_agree(data: bytes, seed: int) -> None:
    compiled, python = (kind.Sieve(ANCHORS, **HINTS) for kind in (sift, python_of(sift)))
    # What is looked at 64 bytes at a time must not depend on where it begins.
    moved = b"x" * (seed % 67) + b"\0" * (seed % 3 == 0) + telling(seed)
    for each in (data, telling(seed), data + telling(seed), moved):
        assert compiled.may_hold(each) == python.may_hold(each)
        assert compiled.suspects(each) == python.suspects(each)


@both
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"xAkIaX", True),
        (b"aki", False),
        (b"xeyJx", True),
        (b"XEYJX", True),
        (b"xeyjx", False),
        (b"Q~", True),
        (b"4111111111111111", True),
        (b"data4111111111111111", False),
        (b"4111111111111111_x", False),
        (b"\0\0\1a4111111111111111", True),
        (b"4111111111111111s\0\0\0\4", True),
        (b"a4111 111111111111", True),
        (b"aid = 4821234;", False),
        (b"123-45-6789", True),
        (b"12345.678901", False),
        (b"123.456.7890", True),
        (b"2026-11-30", False),
        (b"2026-11-30 1234", True),
        (b"2026-11-30 12:34:56.123456+00", False),
        (b"2026-11-30T12:34:56.123456Z", False),
        (b"+2026-11-30 12:34", True),
        (b":56.1234567-001", True),
        (b"AB123456", True),
        (b"ab123456", False),
        (b"AB 123456 C", True),
        (b"AB 123456;", True),
        (b"a 123456 C", True),
        (b"a 123456;", False),
        (b"ON 2026-11-30 12:00", False),
        (b"-123456-X", True),
        (b"10.0.0.1", True),
        (b"10.0.1", False),
        (b"1:2:3:4:5:6:7:8", True),
        (b"fe80::1", True),
        (b"::1", True),
        (b"x::y", False),
        (b"12:34:56", False),
        (b"RSSMRA85T10A562S", True),
        (b"ABCDEFGHIJKLMNO", False),
        (b"abcdefghijklmnop", False),
    ],
)
def test_a_sieve_lets_through_what_may_be_something(kind: Any, data: bytes, expected: bool) -> None:
    assert kind.Sieve(ANCHORS, **HINTS).may_hold(b"\0" + data + b"\0") is expected


def test_all_anchors_fit_into_one_sieve() -> None:
    sift.Sieve(tuple({anchor for each in DETECTORS for anchor in each.anchors}))


@both
@pytest.mark.parametrize("anchors", [(b"a",), (b"",)])
def test_an_anchor_of_one_byte_is_refused(kind: Any, anchors: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="two bytes"):
        kind.Sieve(anchors)


@pytest.mark.parametrize("data", [b"12345678-Z", b"1234567+", b"X-1234567", b"1.2.3.4", b"f::1f"])
def test_it_is_seen_wherever_it_begins(data: bytes) -> None:
    sieve = sift.Sieve(ANCHORS, **HINTS)
    for before in range(140):
        assert sieve.may_hold(b"," * before + data + b",,")
        assert not sieve.may_hold(b"," * before + data[:2] + b",,")


@both
@pytest.mark.parametrize("hint", ["bare", "beside", "spaced", "dots"])
def test_a_number_too_short_to_be_found_is_refused(kind: Any, hint: str) -> None:
    with pytest.raises(ValueError, match="six digits or three dots"):
        kind.Sieve((), **{hint: 2})


@both
def test_suspects_are_values_and_near_ones_are_told_as_one(kind: Any) -> None:
    sieve = kind.Sieve(ANCHORS, **HINTS)
    blanked = b"\0nothing\0akia\0\0passw\0" + b"x" * 300 + b"\0clean\0 eyJ"
    assert sieve.suspects(blanked) == [(9, 20), (328, 332)]
    assert sieve.suspects(b"") == sieve.suspects(bytes(70)) == []


@both
def test_framing_is_blanked_and_content_is_not(kind: Any) -> None:
    frame = row(b"AKIA", None, b"x" * 65) + messages.frame(b"C", b"SELECT 1\0")
    blanked = kind.blank(frame, True)
    assert len(blanked) == len(frame)
    assert blanked.replace(b"\0", b" ").split() == [b"AKIA", b"x" * 65, b"SELECT", b"1"]
    asked = bind(b"one", b"two", portal=b"p", formats=[0, 1]) + messages.query("SELECT 1")
    assert kind.blank(asked, False).replace(b"\0", b" ").split() == [
        *(b"p", b"s", b"one", b"two", b"SELECT", b"1"),
    ]
    error = messages.error_response(code="22P02", message="AKIA")
    assert b"\0AKIA\0" in kind.blank(error, True)


@both
def test_a_place_is_told_with_its_message_and_value(kind: Any) -> None:
    first, second = row(b"a", b"bc"), row(None, b"def")
    frame = first + second
    where = frame.index(b"def")
    assert kind.place(frame, True, 0, where + 1) == (len(first), 1, where, where + 3)
    assert kind.place(frame, True, 0, 2) == (0, -1, 5, len(first))


@both
def test_columns_become_what_a_change_says_and_null_stays(kind: Any) -> None:
    frame = row(b"1", b"secret", b"x") + messages.frame(b"C", b"SELECT 2\0") + row(b"2", None, b"y")
    made, hidden = kind.change_rows(frame, (None, b"[m]", lambda value: value * 2), None)
    assert made == (
        row(b"1", b"[m]", b"xx") + messages.frame(b"C", b"SELECT 2\0") + row(b"2", None, b"yy")
    )
    assert hidden == [0, 6, 2, 0]
    nothing, hidden = kind.change_rows(frame, (sift.AS_NULL,), sift.AS_NULL)
    assert nothing.count(b"\xff\xff\xff\xff") == 6  # another number of columns: all of them
    assert hidden == [0, 10]


CHANGES: list[Callable[[bytes], bytes | None] | bytes | None] = [
    None,
    b"",
    b"[masked]",
    sift.AS_NULL,
    lambda value: value[::-1] * 3,
    lambda value: None,
]


@given(
    st.lists(st.lists(st.none() | st.binary(max_size=40), max_size=4), max_size=6),
    st.lists(st.sampled_from(CHANGES), max_size=4),
    st.sampled_from(CHANGES),
)
def test_both_rewrite_rows_alike_and_what_they_make_is_whole(
    rows: list[list[bytes | None]], changes: list[Any], otherwise: Any
) -> None:
    frame = b"".join(row(*values) for values in rows)
    compiled = sift.change_rows(frame, tuple(changes), otherwise)
    assert compiled == python_of(sift).change_rows(frame, tuple(changes), otherwise)
    reader = messages.MessageReader()
    for (_, body), values in zip(list(reader.feed(compiled[0])), rows, strict=True):
        assert len(messages.decode_data_row(body)) == len(values)


@given(st.binary(max_size=80), st.booleans(), st.integers(0, 3))
def test_what_is_no_message_is_an_error_in_both_and_nothing_else(
    garbage: bytes, from_target: bool, which: int
) -> None:
    frame = messages.frame([b"D", b"B", b"E", b"C"][which], garbage)
    for data in (garbage, frame, frame + garbage):
        for name, arguments in (
            ("blank", (data, from_target)),
            ("change_rows", (data, (b"x",), None)),
            ("copied", (data,)),
        ):
            told = []
            for kind in (sift, python_of(sift)):
                try:
                    told.append(getattr(kind, name)(*arguments))
                except (ValueError, IndexError):
                    told.append(None)
            assert told[0] == told[1], name


@both
def test_bodies_of_copy_data_are_joined(kind: Any) -> None:
    frame = messages.frame(b"d", b"one\n") + messages.frame(b"d") + messages.frame(b"d", b"two\n")
    assert kind.copied(frame + messages.frame(b"c")) == (b"one\ntwo\n", len(frame))
