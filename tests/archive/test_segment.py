"""Sealed segments: what is written as Parquet is read back as the same events."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.archive import segment
from agentaudit.archive.batch import (
    BATCH_BYTES,
    INLINE_PAYLOAD_BYTES,
    NO_STATUS,
    Batch,
    Entry,
    Values,
)
from agentaudit.archive.columns import EventColumns
from agentaudit.archive.journal import OpenSession
from agentaudit.archive.rows import cut_text
from agentaudit.archive.segment import (
    INLINE_TEXT_BYTES,
    SCHEMAS,
    TableWriter,
    open_file,
    read_batches,
    read_entries,
    read_rows,
    table_of,
)
from agentaudit.archive.tracker import Hashes, Tracked
from agentaudit.errors import TamperedError
from agentaudit.model import Flag, Kind

SESSION = OpenSession(
    session_id=UUID("018bcfe5-6800-7abc-8123-456789abcdef"),
    facts={"protocol": "postgres", "user": "ana", "target": "orders"},
    key_m=bytes(32),
    key_t=bytes(32),
    key_p=bytes(32),
    opened_us=0,
    open_event_no=0,
)
SPANS = [
    {"rule": "card", "place": "text", "offset": 3, "length": 16},
    {"rule": "ü", "place": "payload", "offset": 0, "length": 2**40},
]


def event(number: int, text: bytes | None, payload: bytes | None, **changed: Any) -> Entry:
    fields: dict[str, Any] = {
        "event_no": number,
        "observed_us": 1_700_000_000_000_000 + number,
        "mono_ns": number,
        "session_id": SESSION.session_id.bytes,
        "seq": number,
        "command_no": 4,
        "kind": int(Kind.RESPONSE),
        "flags": int(Flag.FROM_TARGET),
        "status": NO_STATUS,
        "orig_len": 9,
        "stored_len": 0 if payload is None else len(payload),
        "text": text,
        "payload": payload,
    }
    return Entry(**(fields | changed))


def batch_of(entries: list[Entry]) -> Batch:
    """Return `entries` as a batch, as if each value lay elsewhere."""
    values = []
    for column in ([e.text for e in entries], [e.payload for e in entries]):
        values.append(Values(bytearray(struct.pack("=qq", 0, -1) * len(entries)), b""))
        for row, value in enumerate(column):
            if value is not None:
                values[-1][row] = value
    fixed = bytearray(b"".join(entry.fixed for entry in entries))
    return Batch(fixed, *values, {row: e.extra for row, e in enumerate(entries) if e.extra})


def write(folder: Path, entries: list[Entry], group: int = 3) -> tuple[Path, Path | None]:
    """Write `entries` as a sealed segment, `group` at a time; return its events and blobs."""
    columns = EventColumns("gw1")
    writers = {name: TableWriter(folder, f"{name}.parquet", name) for name in ("events", "blobs")}
    for begin in range(0, len(entries), group):
        batch = batch_of(entries[begin : begin + group])
        # What these events end is a matter of `commands`, and their payloads are not its rows.
        batch.ends = []
        commits = bytearray(b"\x07" * 32 * batch.rows)
        columns.add(batch, Hashes(bytearray(), commits, [Tracked(SESSION)] * len(batch.runs)))
        tables = columns.take()
        for name, writer in writers.items():
            writer.write(tables[name])
    sealed = {name: writer.finish() for name, writer in writers.items()}
    events, blobs = sealed["events"], sealed["blobs"]
    assert events is not None
    return folder / events.path, None if blobs is None else folder / blobs.path


def read(events: Path, blobs: Path | None) -> list[Entry]:
    return [entry for entry, _ in read_entries(events, blobs)]


def big(tag: bytes, size: int) -> bytes:
    return (tag * (size // len(tag) + 1))[:size]


shapes = st.one_of(
    st.none(),
    st.sampled_from(
        [
            b"",
            "é".encode() * 40_000,
            big(b"ab", INLINE_TEXT_BYTES),
            big(b"ab", INLINE_TEXT_BYTES + 1),
            "\U0001f600".encode() * 20_000,
            big(b"a", 3 << 20),
        ]
    ),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
)
payloads = st.one_of(
    st.none(),
    st.sampled_from(
        [
            b"",
            big(b"\x00\xff", INLINE_PAYLOAD_BYTES),
            big(b"\x00\xff", INLINE_PAYLOAD_BYTES + 1),
            big(b"q", 256 * 1024),
            big(b"r", 256 * 1024),
        ]
    ),
    st.binary(max_size=20),
)


@settings(deadline=None)
@given(
    made=st.lists(st.tuples(shapes, payloads, st.sampled_from([[], SPANS])), min_size=1, max_size=9)
)
def test_what_is_written_is_read_back(
    made: list[tuple[bytes | None, bytes | None, list[Any]]], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("segment")
    entries = [
        event(n, text, payload, extra={"spans": spans} if spans else {})
        for n, (text, payload, spans) in enumerate(made)
    ]
    assert read(*write(folder, entries)) == entries


@pytest.mark.parametrize(
    "changed",
    [
        {"status": 0},
        {"status": 2**31 - 1},
        {"command_no": -1},
        {"flags": 0x7F},
        {"orig_len": 2**62},
        {"observed_us": 0},
        {"observed_us": -1},
        {"mono_ns": 2**62},
        *({"kind": int(kind)} for kind in Kind),
    ],
    ids=str,
)
def test_every_field_is_read_back(tmp_path: Path, changed: dict[str, Any]) -> None:
    entries = [event(0, b"text", b"payload", **changed)]
    assert read(*write(tmp_path, entries)) == entries


def test_null_is_not_empty(tmp_path: Path) -> None:
    entries = [event(0, None, None), event(1, b"", b""), event(2, None, b""), event(3, b"", None)]
    events, blobs = write(tmp_path, entries)
    assert blobs is None
    assert read(events, None) == entries
    stored = pq.ParquetFile(events).read().to_pylist()
    assert [row["text"] for row in stored] == [None, "", None, ""]
    assert [row["text_len"] for row in stored] == [None, 0, None, 0]
    assert [row["payload"] for row in stored] == [None, b"", b"", None]


def test_a_commitment_is_stored_where_the_payload_is_not_whole_and_only_there(
    tmp_path: Path,
) -> None:
    sizes = [0, INLINE_PAYLOAD_BYTES, INLINE_PAYLOAD_BYTES + 1]
    events, blobs = write(tmp_path, [event(n, None, bytes(size)) for n, size in enumerate(sizes)])
    assert [commit for _, commit in read_entries(events, blobs)] == [None, None, b"\x07" * 32]


def test_equal_chunks_of_a_segment_are_stored_once(tmp_path: Path) -> None:
    entries = [event(n, None, big(b"rows ", 200_000)) for n in range(20)]
    events, blobs = write(tmp_path, entries)
    assert blobs is not None
    rows = pq.ParquetFile(blobs).read().to_pylist()
    assert [row["same_as"] for row in rows] == [None] + [0] * 19
    assert [row["data"] is None for row in rows] == [False] + [True] * 19
    assert read(events, blobs) == entries


def test_a_long_text_is_cut_at_a_character(tmp_path: Path) -> None:
    text = b"x" * (INLINE_TEXT_BYTES - 1) + "é".encode()
    assert cut_text(text, INLINE_TEXT_BYTES) == b"x" * (INLINE_TEXT_BYTES - 1)
    events, blobs = write(tmp_path, [event(0, text, None)])
    assert blobs is not None
    stored = pq.ParquetFile(events).read().to_pylist()[0]
    assert (stored["text"], stored["text_len"]) == ("x" * (INLINE_TEXT_BYTES - 1), 65537)
    assert pq.ParquetFile(blobs).read().to_pylist()[0]["offset"] == -(INLINE_TEXT_BYTES - 1)
    assert read(events, blobs)[0].text == text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda blobs: blobs.slice(0, 1), "the rest is not in blobs"),
        (lambda blobs: blobs.slice(1), "the rest is not in blobs"),
        (lambda blobs: pa.concat_tables([blobs.slice(1), blobs.slice(0, 1)]), "not in blobs"),
        (
            lambda blobs: blobs.set_column(2, "data", pa.array([b"", b""], pa.binary())),
            "an empty blob",
        ),
        (
            lambda blobs: blobs.set_column(2, "data", pa.array([b"z" * 9000, b"z"], pa.binary())),
            "bytes in blobs",
        ),
    ],
)
def test_payloads_that_are_not_all_there_are_named(tmp_path: Path, change: Any, why: str) -> None:
    entries = [event(n, None, big(b"%d" % n, 9000)) for n in range(2)]
    events, blobs = write(tmp_path, entries)
    assert blobs is not None
    pq.write_table(change(pq.ParquetFile(blobs).read()), blobs)
    with pytest.raises(TamperedError, match=why):
        read(events, blobs)


def test_payloads_whose_blobs_file_is_gone_are_named(tmp_path: Path) -> None:
    events, _ = write(tmp_path, [event(0, None, bytes(9000))])
    with pytest.raises(TamperedError, match="event 0: 8192 bytes of its 9000 are there"):
        read(events, None)


@pytest.mark.parametrize("same_as", [5, 1, -1])
def test_a_blob_that_names_no_other_is_refused(tmp_path: Path, same_as: int) -> None:
    entries = [event(n, None, bytes(9000)) for n in range(2)]
    events, blobs = write(tmp_path, entries)
    assert blobs is not None
    table = pq.ParquetFile(blobs).read()
    column = pa.array([None, same_as], pa.int64())
    pq.write_table(table.set_column(3, "same_as", column), blobs)
    with pytest.raises(TamperedError, match="event 1"):
        read(events, blobs)


def test_a_file_is_written_as_the_format_says(tmp_path: Path) -> None:
    entries = [event(n, b"x", big(b"%d" % n, 9000)) for n in range(10)]
    for path in write(tmp_path, entries, group=4):
        assert path is not None
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(n).num_rows for n in range(3)] == [4, 4, 2]
        column = file.metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"
        assert column.has_column_index
        assert column.has_offset_index
    assert not list(tmp_path.glob("*.tmp"))
    assert pq.read_schema(tmp_path / "events.parquet").equals(SCHEMAS["events"])


def test_nothing_is_written_for_a_table_without_rows(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "access.parquet", "access")
    writer.write(SCHEMAS["access"].empty_table())
    assert writer.finish() is None
    assert not list(tmp_path.iterdir())


def test_a_row_group_holds_at_most_what_the_format_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "ROW_GROUP_ROWS", 4)
    events, _ = write(tmp_path, [event(n, None, None) for n in range(9)], group=9)
    metadata = pq.ParquetFile(events).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [4, 4, 1]


def members() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "commands", {"session_id": uuid4().bytes, "params": [None, "a"], "request_id": None}
    yield "sessions", {"session_id": uuid4().bytes, "labels": {"b": "1", "a": "2"}}
    yield "decisions", {"request_id": str(uuid4()), "session_id": uuid4().bytes}
    yield "access", {"recorded_at": 0}


@pytest.mark.parametrize(("name", "row"), list(members()))
def test_what_a_row_does_not_say_is_null_or_empty(name: str, row: dict[str, Any]) -> None:
    table = table_of(name, [row])
    assert table.schema.equals(SCHEMAS[name])
    (found,) = table.to_pylist()
    for key, value in found.items():
        if key not in row:
            assert value in (None, [], ""), key
    if "params" in row:
        assert found["params"] == [None, "a"]
    if "labels" in row:
        assert found["labels"] == [("a", "2"), ("b", "1")]


def test_no_parameters_differ_from_parameters_that_were_not_kept() -> None:
    rows = [{"params": []}, {}]
    assert table_of("commands", rows).column("params").to_pylist() == [[], None]


def test_other_engines_read_what_is_sealed(tmp_path: Path) -> None:
    entries = [
        event(
            n,
            None if n % 5 == 0 else f"text {n} é".encode(),
            None if n % 7 == 0 else bytes([n % 251]) * (n % 40),
            status=n if n % 3 else NO_STATUS,
            observed_us=1_700_000_000_000_000 + (n * 7919) % 3001,
            mono_ns=2**62 - n,
        )
        for n in range(5000)
    ]
    events, _ = write(tmp_path, entries, group=2000)
    names = ["event_no", "mono_ns", "seq", "status", "text", "text_len", "payload", "stored_len"]
    expected = pq.read_table(events, columns=names).to_pylist()
    assert [row["mono_ns"] for row in expected] == [entry.mono_ns for entry in entries]
    assert polars.read_parquet(events, columns=names).to_dicts() == expected
    columns = ", ".join(names)
    found = duckdb.sql(f"SELECT {columns} FROM '{events}' ORDER BY event_no").fetchall()
    assert [dict(zip(names, row, strict=True)) for row in found] == expected
    times = duckdb.sql(f"SELECT epoch_us(observed_at) FROM '{events}' ORDER BY event_no").fetchall()
    assert [us for (us,) in times] == [entry.observed_us for entry in entries]


def test_a_footer_holds_no_text_and_no_payload(tmp_path: Path) -> None:
    events, _ = write(tmp_path, [event(0, b"the-text-itself", b"the-payload-itself")])
    metadata = pq.ParquetFile(events).metadata.row_group(0)
    kept = {metadata.column(n).path_in_schema: metadata.column(n) for n in range(23)}
    assert kept["text"].statistics is None
    assert kept["payload"].statistics is None
    assert kept["event_no"].statistics.min == 0


def test_few_rows_are_read_at_a_time_where_they_are_large(tmp_path: Path) -> None:
    made = [event(n, None, big(b"%d " % n, 3 << 20)) for n in range(20)]
    events, blobs = write(tmp_path, made, group=20)
    assert blobs is not None
    with open_file(blobs) as file:
        sizes = [batch.nbytes for batch in read_rows(file)]
    assert len(sizes) > 3
    assert max(sizes) <= 2 * BATCH_BYTES
    batches = list(read_batches(events, blobs))
    assert [entry for batch in batches for entry in batch.entries()] == made
    held = [sum(map(len, batch.payloads.elsewhere.values())) for batch in batches]
    assert max(held) <= BATCH_BYTES


def test_a_dictionary_that_stands_for_much_is_read_a_little_at_a_time(tmp_path: Path) -> None:
    rows = 5000
    path = tmp_path / "bomb.parquet"
    table = pa.table({"text": pa.array(["x" * 60_000] * rows)})
    pq.write_table(table, path, compression="zstd")
    with open_file(path) as file:
        assert max(batch.num_rows for batch in read_rows(file)) <= 1024
