"""The compiled loops and those in Python: the same answers, whatever they are given."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentaudit import _native
from agentaudit._native import _twin, raw, system
from agentaudit.archive import canonical, columns, journal, leaves
from agentaudit.archive.batch import FIXED, Batch, Entry, Values
from agentaudit.archive.columns import EventColumns, command_table, parsed_whole
from agentaudit.archive.journal import JournalReader, OpenSession, encode_frame
from agentaudit.archive.merkle import Frontier
from agentaudit.archive.rows import command_row
from agentaudit.archive.tracker import Hashes, Tracked, Tracker
from agentaudit.archive.verify import verify
from agentaudit.model import Command
from tests.archive.faults import python_of
from tests.archive.recording import GATEWAY, Site, recover

# Not built is a failure of `make`, which tests/test_native_build.py names.
fast: Any = pytest.importorskip("agentaudit._native._fast")

MARKER = bytes(range(16))
IDS = [bytes([n]) * 16 for n in range(4)]
raw_python, system_python = python_of(raw), python_of(system)
LOOPS = {"compiled": fast, "python": _twin}


@pytest.fixture(params=sorted(LOOPS))
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make the archive use the compiled loops, then those in Python."""
    chosen: ModuleType = LOOPS[request.param]
    use(chosen, monkeypatch)
    return chosen


def use(loops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _native.__all__:
        if name != "why_slow":
            monkeypatch.setattr(_native, name, getattr(loops, name))


def answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a loop says, or that it refuses."""
    try:
        return function(*arguments)
    except ValueError:
        return ValueError


def agree(name: str, *arguments: Any) -> Any:
    """Return what both loops answer."""
    compiled = answer(getattr(fast, name), *arguments)
    assert compiled == answer(getattr(_twin, name), *arguments)
    return compiled


def numbers(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.integers(0, 20), st.sampled_from([low, high]), st.integers(low, high))


fields = st.tuples(
    numbers(64, signed=False),
    numbers(64),
    numbers(64, signed=False),
    st.sampled_from(IDS),
    numbers(32, signed=False),
    numbers(32),
    st.one_of(st.integers(0, 13), numbers(16, signed=False)),
    numbers(16, signed=False),
    numbers(32),
    numbers(64, signed=False),
    numbers(64, signed=False),
)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
    st.integers(0, 200).map(lambda size: "aé€\U0001f600".encode() * size),
)


def packed(rows: list[tuple[Any, ...]]) -> bytearray:
    return bytearray(b"".join(FIXED.pack(*row) for row in rows))


def laid(made: list[bytes | None], elsewhere: int) -> tuple[bytearray, bytes, dict[int, bytes]]:
    """Return values as a batch has them; bit n of `elsewhere` says so of value n."""
    laid_out = Values(bytearray(16 * len(made)), b"")
    data = b"~"
    for row, value in enumerate(made):
        if value is not None and elsewhere >> row & 1:
            laid_out[row] = value
        else:
            struct.pack_into(
                "=qq", laid_out.places, 16 * row, len(data), -1 if value is None else len(value)
            )
            data += value or b""
    return laid_out.places, data, laid_out.elsewhere


def as_view(code: str, given: list[int]) -> memoryview:
    return memoryview(struct.pack(f"={len(given)}{code}", *given)).cast(code)  # type: ignore[call-overload, no-any-return]


@given(st.binary(max_size=300), st.integers(1, 40))
def test_a_checksum_is_that_of_zlib(data: bytes, times: int) -> None:
    assert fast.crc32(data * times) == zlib.crc32(data * times)


frames = st.lists(st.tuples(fields, values, values, st.sampled_from([b"", b"{}", b'{"a":1}'])))


@given(
    st.tuples(numbers(64, signed=False), numbers(64), numbers(64, signed=False)),
    st.tuples(
        numbers(32, signed=False), numbers(32), st.integers(-1, 2**16), st.integers(-1, 2**16)
    ),
    numbers(32),
    numbers(64, signed=False),
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=300),
    st.binary(max_size=20),
)
def test_a_frame_is_made_alike_and_scans(
    first: tuple[int, int, int],
    second: tuple[int, int, int, int],
    status: int,
    orig_len: int,
    text: bytes | None,
    payload: bytes | None,
    extra: bytes,
) -> None:
    members = (MARKER, *first, IDS[1], *second, status, orig_len, text, payload, extra)
    made = answer(raw.frame, *members)
    assert made == answer(raw_python.frame, *members)
    if made is ValueError:
        assert not all(0 <= number < 2**16 for number in second[2:])
        return
    rows, stop, verdict, *_ = agree("scan", made, 0, MARKER, first[0], 2)
    assert (rows, stop, verdict) == (1, len(made), 0)


VALUES = st.text() | st.integers(-(2**65), 2**65) | st.lists(st.none() | st.text()).map(tuple)


@given(st.dictionaries(st.sampled_from("abcdefgh"), VALUES, min_size=1))
@example({"a": "\ud800"})
@example({"a": ('\x00\x1f\x7f"\\\n\r\t\b\f/é\u2028😀', None, "")})
@example({"a": "x" * 2_000_000, "b": 1})
@example({"a": 2**53 - 1, "b": 2**53})
def test_an_object_is_spelt_as_the_whole_encoder_does_or_not_at_all(
    members: dict[str, Any],
) -> None:
    def spelt(module: Any) -> bytes | None:
        row = module.Members()
        row.begin()
        before = "{"
        for name, value in sorted(members.items()):
            add = {str: row.text, int: row.number, tuple: row.texts}[type(value)]
            add(f'{before}"{name}":'.encode(), value)
            before = ","
        made: bytes | None = row.end()
        # What was large is not kept, and the next one begins anew.
        row.begin()
        row.text(b'{"a":', "x" * 2_000_000)
        row.end()
        row.end()
        return made

    try:
        whole = canonical.encode(members)
    except TypeError:
        whole = None
    assert spelt(raw) == whole
    assert spelt(raw_python) is None


@given(
    st.text("abcXY_019 ,.=<>()*+;$/%-'\"\n:é", max_size=30)
    | st.from_regex(r"SELECT \w+ FROM t WHERE [a-z0-9_.$ ]+ = \d{1,12}[;. a-z]?", fullmatch=True)
)
@example("SELECT 1 FROM t1 WHERE a = 12 -- 5")
@example("SELECT 1.5, 1e5, $1, 123456789, 1234567890, a1, 1a, 1-1, .5, 5.")
def test_numbers_are_taken_out_of_a_text_alike(text: str) -> None:
    agree("without_numbers", text)


@settings(deadline=None)
@given(made=frames, most=st.integers(1, 9), changes=st.data())
def test_a_journal_is_scanned_alike_whatever_was_done_to_its_bytes(
    made: list[Any], most: int, changes: st.DataObject
) -> None:
    data = bytearray(b"head")
    for number, (row, text, payload, extra) in enumerate(made):
        fixed = FIXED.pack(7 + number, *row[1:])
        data += encode_frame(MARKER, fixed, text, payload, extra)
    whole = agree("scan", bytes(data), 4, MARKER, 7, len(made) + 1)
    assert (whole[0], whole[1], whole[2]) == (len(made), len(data), 0)
    agree("scan", bytes(data), 4, MARKER, 7, most)
    agree("scan", bytes(data), 4, MARKER, 8, most)
    for place in changes.draw(st.lists(st.integers(0, len(data) - 1), max_size=3)):
        data[place] ^= changes.draw(st.integers(1, 255))
    agree("scan", bytes(data), 4, MARKER, 7, most)
    agree("scan", bytes(data[: changes.draw(st.integers(4, len(data)))]), 4, MARKER, 7, most)


@given(fixed=fields, body=st.binary(max_size=40))
def test_a_frame_with_a_right_checksum_and_any_lengths_is_scanned_alike(
    fixed: tuple[Any, ...], body: bytes
) -> None:
    frame = FIXED.pack(7, *fixed[1:]) + body
    head = struct.pack(">16sII", MARKER, len(frame), zlib.crc32(frame))
    agree("scan", head + frame, 0, MARKER, 7, 9)


@given(st.lists(fields))
def test_fields_are_unpacked_and_assigned_alike(rows: list[Any]) -> None:
    agree("unpack", packed(rows))
    agree("assign", packed(rows))


@given(st.lists(st.tuples(st.sampled_from(IDS), st.integers(1, 12), st.booleans()), max_size=30))
def test_sessions_in_order_are_assigned_alike(steps: list[tuple[bytes, int, bool]]) -> None:
    seqs: dict[bytes, int] = {}
    rows = []
    for number, (session_id, kind, slips) in enumerate(steps):
        seq = 0 if kind == 1 else seqs.get(session_id, 0) + (slips and number % 7 == 0)
        seqs[session_id] = seq + 1
        rows.append((number, 0, 0, session_id, seq, 0, kind, number & 1, 0, 2**62, 0))
    agree("assign", packed(rows))


@given(rows=st.lists(fields, max_size=6), data=st.data())
def test_columns_are_packed_alike_and_what_no_field_holds_is_refused(
    rows: list[Any], data: st.DataObject
) -> None:
    def column(bits: int) -> memoryview:
        drawn = st.lists(numbers(bits), min_size=len(rows), max_size=len(rows))
        return as_view("q" if bits == 64 else "i", data.draw(drawn))

    ids = b"".join(row[3] for row in rows)
    wide, narrow = [column(64) for _ in range(5)], [column(32) for _ in range(5)]
    agree("pack", len(rows), *wide[:3], ids, *narrow, *wide[3:])
    agree("pack", len(rows) + 1, *wide[:3], ids, *narrow, *wide[3:])


@given(rows=st.lists(fields))
def test_what_is_unpacked_can_be_packed_again(rows: list[Any]) -> None:
    kept = [
        tuple(min(value, 2**63 - 1) if isinstance(value, int) else value for value in row)
        for row in rows
    ]
    fixed = packed(
        [(*row[:4], row[4] & 0x7FFFFFFF, row[5], 1 + row[6] % 12, *row[7:]) for row in kept]
    )
    event_no, observed, mono, orig, stored, ids, *ints = fast.unpack(fixed)
    seq, command_no, kind, _, status, flags = (memoryview(one).cast("i") for one in ints[:6])
    wide = [memoryview(one).cast("q") for one in (event_no, observed, mono, orig, stored)]
    kinds = as_view("i", [number + 1 for number in kind])
    again = agree(
        "pack", len(rows), *wide[:3], ids, seq, command_no, kinds, flags, status, *wide[3:]
    )
    assert again == fixed


@settings(deadline=None)
@given(
    made=st.lists(st.tuples(fields, values, values, st.booleans(), st.integers(0, 2))),
    elsewhere=st.integers(0, 2**8 - 1),
    keys=st.binary(min_size=192, max_size=192),
)
def test_leaves_and_commitments_are_hashed_alike_and_as_the_format_says(
    made: list[Any], elsewhere: int, keys: bytes
) -> None:
    fixed = packed([row for row, *_ in made])
    texts = laid([text for _, text, *_ in made], elsewhere)
    payloads = laid([payload for _, _, payload, *_ in made], elsewhere >> 1)
    slots = bytearray(b"".join(struct.pack("=i", row & 1) for row in range(len(made))))
    spans = {row: sha256(b"%d" % row).digest() for row, one in enumerate(made) if one[3]}
    given_ = bytes(one[4] for one in made)
    data = b"".join(sha256(b"given %d" % row).digest() for row in range(len(made)))
    agree("hash_rows", fixed, texts, payloads, slots, keys, spans, given_, data)
    agree("hash_rows", fixed, texts, payloads, slots, keys[:96], spans, None, None)
    hashed, commits = agree("hash_rows", fixed, texts, payloads, slots, keys, {}, None, None)
    for row, (row_fields, text, payload, *_) in enumerate(made):
        seq, key = row_fields[4], keys[96 * (row & 1) :]
        place = slice(32 * row, 32 * row + 32)
        text_commit = leaves.text_commit(key[32:64], seq, text)
        payload_commit = leaves.payload_commit(key[64:96], seq, payload)
        entry = Entry(*row_fields, text, payload)
        assert commits[place] == payload_commit
        assert hashed[place] == leaves.event_leaf(entry, key[:32], text_commit, payload_commit)


@given(slots=st.lists(st.integers(-1, 3), max_size=20), slip=st.integers(-1, 1))
def test_leaves_are_grouped_and_tables_looked_up_alike(slots: list[int], slip: int) -> None:
    data = b"".join(sha256(b"%d" % row).digest() for row in range(len(slots)))
    counts = [slots.count(slot) for slot in range(4)]
    counts[0] += slip
    agree("by_slot", data, bytearray(as_view("i", slots).tobytes()), counts)
    agree("lookup", bytearray(as_view("i", slots).tobytes()), as_view("i", [5, -1, 7]))


@given(begun=st.integers(0, 40), added=st.integers(0, 40), slip=st.integers(0, 33))
def test_a_tree_grows_alike_and_as_one_that_is_grown_leaf_by_leaf(
    begun: int, added: int, slip: int
) -> None:
    hashes = [sha256(b"%d" % number).digest() for number in range(begun + added)]
    tree = Frontier(hashes[:begun])
    more = b"".join(hashes[begun:])
    agree("extend_tree", b"".join(tree._subtrees), begun + slip, more)
    agree("extend_tree", b"".join(tree._subtrees), begun, more[slip:])
    tree.extend(more)
    straight = Frontier(hashes)
    assert (tree.size, tree.root()) == (straight.size, straight.root())


@given(
    made=st.lists(values, max_size=8),
    elsewhere=st.integers(0, 255),
    cap=st.integers(0, 30),
    is_text=st.booleans(),
)
def test_values_are_gathered_alike(
    made: list[bytes | None], elsewhere: int, cap: int, is_text: bool
) -> None:
    agree("gather", laid(made, elsewhere), len(made), cap, is_text)
    agree("gather", laid(made, elsewhere), len(made) + 1, cap, is_text)


@given(
    place=st.tuples(numbers(64), st.one_of(st.integers(-3, 9), numbers(64))),
    elsewhere=st.sampled_from([{}, {0: b"there"}]),
)
def test_a_value_that_lies_outside_its_buffer_is_refused(
    place: tuple[int, int], elsewhere: dict[int, bytes]
) -> None:
    given_ = (bytearray(struct.pack("=qq", *place)), b"12345", elsewhere)
    if place[1] == -2 and not elsewhere:
        return
    agree("gather", given_, 1, 3, False)
    fixed = packed([(0, 0, 0, IDS[0], 0, 0, 1, 0, 0, 0, 0)])
    agree("hash_rows", fixed, given_, given_, bytes(4), bytes(96), {}, None, None)
    if fixed and answer(fast.json_columns, given_, 1, [0], []) is ValueError:
        assert answer(fast.gather, given_, 1, 3, False) is ValueError


@given(
    made=st.lists(st.one_of(st.none(), st.binary(max_size=5)), min_size=1, max_size=20),
    first=st.integers(0, 9),
)
def test_places_are_those_that_arrow_has(made: list[bytes | None], first: int) -> None:
    array = pa.array(made, pa.binary()).slice(first)
    valid, offsets, data = array.buffers()
    rows = len(array)
    view = memoryview(offsets).cast("B").cast("i")[array.offset : array.offset + rows + 1]
    bitmap = None if valid is None else memoryview(valid).cast("B")
    places = agree("places_of", view, bitmap, array.offset, rows)
    found = Values(places, b"" if data is None else memoryview(data).cast("B"))
    assert [found[row] for row in range(rows)] == array.to_pylist()
    agree("places_of", as_view("i", list(reversed(view))), bitmap, array.offset, rows)


@given(
    texts=st.lists(st.text("ab\x00é", max_size=60), max_size=12),
    needle=st.text("ab\x00é", max_size=20),
    slip=st.integers(-1, 1),
)
def test_what_holds_a_text_is_found_alike_and_no_text_runs_into_the_next(
    texts: list[str], needle: str, slip: int
) -> None:
    data = b"--" + "".join(texts).encode()
    ends = list(accumulate((len(text.encode()) for text in texts), initial=2))
    found = agree("holders", data, as_view("i", ends), needle.encode())
    assert not needle or list(found) == [needle in text for text in texts]
    agree("holders", data, as_view("i", [*ends[:-1], ends[-1] + slip]), needle.encode())
    agree("holders", data, as_view("i", ends[::-1]), needle.encode())


@given(marks=st.binary(max_size=20), codes=st.lists(st.integers(0, 21), max_size=40))
def test_marked_codes_are_found_alike(marks: bytes, codes: list[int]) -> None:
    found = agree("marked", marks, as_view("I", codes))
    assert all(code < len(marks) for code in codes) == isinstance(found, bytearray)


# --- commands, from canonical JSON or from what looks like it

SESSION = OpenSession(
    session_id=UUID(bytes=IDS[1]),
    facts={"gateway": GATEWAY, "protocol": "postgres", "user": "aña", "target": "orders"},
    key_m=bytes(32),
    key_t=bytes(32),
    key_p=bytes(32),
    opened_us=0,
    open_event_no=0,
)
MEMBERS = [name.decode() for name, _, _ in columns._MEMBERS]
strings = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", '"', "\\", "\n\t\b\f\r/", "\x00\x1f\x7f", "\u2028", "\U0001f600", "\ufffd"]
    ),
    st.just("018bcfe5-6800-7abc-8123-456789abcdef"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.sampled_from([0, 2**31, -(2**31), 2**53 - 1, -(2**53) + 1, 10**16, 2**63, -(2**63), 10**20]),
    st.floats(allow_nan=False, allow_infinity=False),
    strings,
)
anything = st.one_of(
    scalars,
    st.lists(st.one_of(st.none(), strings), max_size=3),
    st.lists(scalars, max_size=2),
    st.dictionaries(strings, scalars, max_size=2),
)
objects = st.dictionaries(st.one_of(st.sampled_from(MEMBERS), strings), anything, max_size=6)


def ends(payloads: list[bytes]) -> tuple[Batch, list[Tracked]]:
    """Return a batch of command_end events with these payloads."""
    rows = [(n, 0, 0, IDS[1], n, 0, 5, 2, 0, 0, len(p)) for n, p in enumerate(payloads)]
    nothing: list[bytes | None] = [None] * len(rows)
    batch = Batch(packed(rows), Values(*laid(nothing, 0)), Values(*laid([*payloads], 0b1010)), {})
    return batch, [Tracked(SESSION)]


def table_or_refusal(make: Callable[..., pa.Table], batch: Batch, tracked: list[Tracked]) -> Any:
    try:
        return make(batch, tracked)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError):
        return "refused"


def require_same_commands(payloads: list[bytes]) -> None:
    batch, tracked = ends(payloads)
    with pytest.MonkeyPatch.context() as patch:
        use(fast, patch)
        quick = table_or_refusal(command_table, batch, tracked)
    whole = table_or_refusal(parsed_whole, batch, tracked)
    assert quick == whole


def spaced(value: Any) -> bytes:
    return json.dumps(value).encode()


def escaped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def plain(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


@settings(deadline=None, max_examples=300)
@given(
    rows=st.lists(objects, max_size=4),
    form=st.sampled_from([plain, escaped, spaced]),
    changes=st.data(),
)
def test_commands_are_what_a_whole_parser_makes_of_any_json(
    rows: list[dict[str, Any]], form: Callable[[Any], bytes], changes: st.DataObject
) -> None:
    payloads = [form(row) for row in rows]
    require_same_commands(payloads)
    for number, payload in enumerate(payloads):
        place = changes.draw(st.integers(0, len(payload) - 1))
        byte = changes.draw(st.sampled_from(b'"\\{}[],:u0-9n\x00\xff\xed '))
        payloads[number] = (
            payload[:place] + bytes([byte]) + payload[place + changes.draw(st.integers(0, 1)) :]
        )
    require_same_commands(payloads)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"{}",
        b"{}x",
        b"{,}",
        b"null",
        b"[]",
        b'{"bytes_in":01}',
        b'{"bytes_in":-0}',
        b'{"bytes_in":-}',
        b'{"bytes_in":1e3}',
        b'{"bytes_in":1.0}',
        b'{"bytes_in":9007199254740993}',
        b'{"bytes_in":99999999999999999999}',
        b'{"bytes_in":1,"bytes_in":2}',
        b'{"bytes_out":1,"bytes_in":2}',
        b'{"command_no":4294967296}',
        b'{"class":"a\\ud83d\\ude00b"}',
        b'{"class":"\\ud83d"}',
        b'{"class":"\\ude00"}',
        b'{"class":"\\ud83d\\u0041"}',
        b'{"class":"\xff"}',
        b'{"class":"\xed\xa0\x80"}',
        b'{"class":"\x01"}',
        b'{"class":"\\x"}',
        b'{"class":"\\u00g0"}',
        b'{"class":"unended}',
        b'{"class":null,"columns":null,"params":[null,"",null]}',
        b'{"columns":["a",]}',
        b'{"columns":[,"a"]}',
        b'{"columns":["a"',
        b'{"cl\\u0061ss":"read"}',
        b'{"user":"mallory","session_id":"another"}',
        b'{"started_at":-1}',
        b'{"request_id":"no uuid"}',
        b'{"request_id":"018bcfe5-6800-7abc-8123-456789abcdef"}',
        b' {"class":"read"}',
        b'{"class":"read"}\n',
    ],
)
def test_commands_are_what_a_whole_parser_makes_of_odd_json(payload: bytes) -> None:
    require_same_commands([payload])
    require_same_commands([b'{"class":"read"}', payload, b'{"class":"write"}'])


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    params=st.one_of(st.none(), st.lists(st.one_of(st.none(), strings), max_size=3)),
    txn_no=st.one_of(st.none(), st.integers(0, 2**31 - 1)),
)
@example(text="", params=[], txn_no=None)
def test_what_a_recorder_writes_needs_no_whole_parser(
    text: str, params: list[str | None] | None, txn_no: int | None
) -> None:
    command = Command(
        command_no=3,
        text=text,
        params=None if params is None else tuple(params),
        txn_no=txn_no,
        columns=("id", "näme"),
        error_text="\x00\x7f",
        request_id=UUID(int=5),
    )
    payload = command_row(command, ended_us=2**51, duration_us=0)
    assert canonical.encode(canonical.decode(payload)) == payload
    batch, _ = ends([payload, payload])
    assert fast.json_columns(batch.payloads.raw, 2, [0, 1], columns._MEMBERS) is not None
    require_same_commands([payload, payload])


# --- all of it together


def parts(path: Path) -> Iterator[tuple[dict[str, pa.Table], Hashes]]:
    tracker, made = Tracker(GATEWAY), EventColumns(GATEWAY)
    for batch in JournalReader(path).batches():
        hashes = tracker.add_journaled(batch)
        made.add(batch, hashes)
        yield made.take(), hashes


def test_a_journal_becomes_the_same_rows_and_leaves_by_either(
    crash_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BATCH_ROWS", 3)
    (path,) = crash_site.journals()
    found = []
    for loops in LOOPS.values():
        use(loops, monkeypatch)
        found.append(list(parts(path)))
    assert len(found[0]) > 3
    for one, other in zip(*found, strict=True):
        assert one[0] == other[0]
        assert one[1].leaves == other[1].leaves
        assert one[1].payload_commits == other[1].payload_commits


def test_what_one_seals_the_other_verifies(
    loops: ModuleType, tmp_path: Path, crash_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = crash_site.copy_to(tmp_path / "copy")
    recover(site)
    use(fast if loops is _twin else _twin, monkeypatch)
    result = verify(site.archive, key=site.vkey, deep=True, remember=False)
    assert result.ok is True, [str(finding) for finding in result.findings]
    assert result.events > 10
