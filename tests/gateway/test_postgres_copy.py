"""What a COPY moves is masked by columns, however its rows are cut into messages."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from agentaudit._native import sift
from agentaudit.gateway.postgres_copy import MAX_ROW_BYTES, CopyMask
from agentaudit.masking.masks import Masks
from agentaudit.model import Event, Kind, Side, Step
from agentaudit.protocols import postgres_messages as messages
from agentaudit.risk.copy_format import CopyFormat
from agentaudit.risk.lineage import Lineage

MASKS = Masks([{"name": "pii", "action": "redact", "apply": ["archive"], "columns": ["*.t.b"]}])
FORMATS = {
    "text": CopyFormat("in"),
    "csv": CopyFormat("in", "csv", delimiter=",", null=""),
    "escape": CopyFormat("in", "csv", delimiter=",", null="", escape="\\"),
    "binary": CopyFormat("in", "binary"),
}
ALPHABETS = {
    "text": b"ab\t\t\\\\\n\n",
    "csv": b'ab,,""\n\n\r\\',
    "escape": b'ab,,""\\\\\n\n',
}
each_format = pytest.mark.parametrize("name", FORMATS)


def recorded(name: str, pieces: list[bytes], codec: str = "utf-8") -> bytes:
    """Return the rows that are recorded of a COPY in which a client sends `pieces`."""
    lineage = Lineage(outputs=("", "pii"), whole="pii", copy=FORMATS[name])
    copy = CopyMask(
        MASKS, Side.CLIENT, lambda _: (lineage, "pii"), is_binary=name == "binary", codec=codec
    )
    events: list[Event] = []
    for piece in pieces:
        event = Event(kind=Kind.REQUEST, side=Side.CLIENT, payload=messages.frame(b"d", piece))
        step = Step(side=Side.CLIENT, frame=event.payload or b"", events=(event,))
        copy.mask(step, event, lambda part, _: (part, []))
        events += step.events
    events += copy.finish(Side.CLIENT)
    frames = b"".join(event.payload or b"" for event in events)
    body, end = sift.copied(frames)
    assert end == len(frames)
    return body


def cut(data: bytes, chosen: random.Random) -> list[bytes]:
    size = chosen.choice([1, 2, 5, 40])
    places = sorted(chosen.randrange(len(data) + 1) for _ in range(len(data) // size))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def binary_rows(chosen: random.Random) -> bytes:
    out = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 3) + b"xyz"
    for _ in range(chosen.randrange(5)):
        values = [chosen.choice([None, b"", b"\0\xff", b"four"]) for _ in range(2)]
        out += struct.pack("!h", len(values))
        for value in values:
            out += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return out + b"\xff\xff"


@each_format
def test_the_same_is_recorded_wherever_messages_are_cut(name: str) -> None:
    for seed in range(100):
        chosen = random.Random(seed)
        if name == "binary":
            data = binary_rows(chosen)
        else:
            data = bytes(chosen.choices(ALPHABETS[name], k=chosen.randrange(60)))
        pieces = cut(data, chosen)
        assert recorded(name, pieces) == recorded(name, [data]), pieces


@pytest.mark.parametrize("name", ["text", "csv", "escape"])
def test_a_column_is_hidden_and_its_neighbour_is_not(name: str) -> None:
    sign = FORMATS[name].delimiter.encode()
    rows = b"one" + sign + b"secret\n" + b"two" + sign + b"hidden\n"
    shown = b"one" + sign + b"[masked:pii]\n" + b"two" + sign + b"[masked:pii]\n"
    assert recorded(name, [rows]) == recorded(name, [rows[:9], rows[9:]]) == shown


LONG = b"x" * (MAX_ROW_BYTES + 200_000)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("text", b"one\\\n" + LONG + b"\\\nno\tsecret\n"),
        ("csv", b'one,"' + LONG + b'\nno,secret\n""\n"\n'),
        ("escape", b'one,"' + LONG + b'\\"\nno,secret\n"\n'),
    ],
)
def test_a_row_too_long_is_hidden_to_its_end(name: str, row: bytes) -> None:
    sign = FORMATS[name].delimiter.encode()
    after = b"two" + sign + b"secret\n"
    for size in (100_000, 99_991):
        data = row + after
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        made = recorded(name, pieces)
        assert b"secret" not in made
        assert b"no" not in made
        assert made.endswith(b"two" + sign + b"[masked:pii]\n")


def test_a_row_too_long_in_binary_is_left_out_and_the_next_one_is_read() -> None:
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    long = struct.pack("!hi", 2, len(LONG)) + LONG + struct.pack("!i", 6) + b"secret"
    short = struct.pack("!hi3si6s", 2, 3, b"two", 6, b"secret")
    data = head + long + short + b"\xff\xff"
    pieces = [data[at : at + 50_000] for at in range(0, len(data), 50_000)]
    kept = struct.pack("!hi3si", 2, 3, b"two", -1)
    assert recorded("binary", pieces) == head + kept + b"\xff\xff"


def test_a_header_too_long_does_not_let_the_first_row_pass_as_one() -> None:
    pieces = [b"x" * 600_000, b"x" * 600_000, b",y\n", b"one,secret\n"]
    for form in (FORMATS["csv"], replace(FORMATS["csv"], header="on")):
        FORMATS["now"] = form
        assert recorded("now", pieces).endswith(b"one,[masked:pii]\n")
    del FORMATS["now"]


@pytest.mark.parametrize("sign", [b"\\" * 60 + b'"x', b'"' * 61, b"\\a" * 60])
def test_a_row_of_many_escapes_is_read_in_no_time(sign: bytes) -> None:
    row = b'a,"' + sign + b"\n"
    assert b"secret" not in recorded("escape", [row, b"a,secret\n"])


def test_a_byte_of_a_character_is_no_sign() -> None:
    rows = "ソ\t山田表\n太郎\t田中\n".encode("shift_jis")
    for codec in ("shift_jis", "gbk", "big5"):
        assert "山田".encode("shift_jis") not in recorded("text", [rows], codec)
    shown = recorded("text", ["é\tù\n".encode("latin-1")], "latin-1")
    assert shown == "é\t[masked:pii]\n".encode("latin-1")


def test_a_last_row_without_its_end_is_told_as_it_is() -> None:
    lineage = Lineage(outputs=("", "pii"), whole="pii", copy=FORMATS["text"])
    copy = CopyMask(MASKS, Side.CLIENT, lambda _: (lineage, "pii"))
    event = Event(kind=Kind.REQUEST, side=Side.CLIENT, payload=messages.frame(b"d", b"two\tsecret"))
    step = Step(side=Side.CLIENT, frame=event.payload or b"", events=(event,))
    copy.mask(step, event, lambda part, _: (part, []))
    (rest,) = copy.finish(Side.CLIENT)
    assert [(span.place, span.offset, span.length) for span in rest.spans] == [("column", 1, 6)]


@pytest.mark.parametrize("name", ["text", "csv", "escape"])
def test_what_stands_for_a_value_is_one_field(name: str) -> None:
    FORMATS["now"] = replace(FORMATS[name], delimiter=":")
    (made,) = recorded("now", [b"one:secret\n"]).splitlines()
    del FORMATS["now"]
    assert made == (b"one:[masked\\:pii]" if name == "text" else b'one:"[masked:pii]"')
