"""What a COPY moves is masked by columns, however its rows are cut into messages."""

from __future__ import annotations

import random
import struct

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


def recorded(name: str, pieces: list[bytes]) -> bytes:
    """Return the rows that are recorded of a COPY in which a client sends `pieces`."""
    lineage = Lineage(outputs=("", "pii"), whole="pii", copy=FORMATS[name])
    copy = CopyMask(MASKS, Side.CLIENT, lineage, "pii")
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
@pytest.mark.parametrize("seed", range(100))
def test_the_same_is_recorded_wherever_messages_are_cut(name: str, seed: int) -> None:
    chosen = random.Random(seed)
    if name == "binary":
        data = binary_rows(chosen)
    else:
        data = bytes(chosen.choices(ALPHABETS[name], k=chosen.randrange(60)))
    assert recorded(name, cut(data, chosen)) == recorded(name, [data])


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
