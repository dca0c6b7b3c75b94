"""The rows that recorded commands returned, from dialogues and from PostgreSQL's own answers."""

from __future__ import annotations

import datetime
import struct
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.analysis import postgres, postgres_types
from agentaudit.analysis.postgres import result_batches, result_table, result_tables
from agentaudit.errors import ArchiveError
from agentaudit.model import Event, Flag, Refusal, Side
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_messages import Column
from agentaudit.protocols.postgres_values import ARRAYS
from tests.peers.postgres import PostgresPeer
from tests.protocols import wire
from tests.protocols.tap import Tap
from tests.protocols.wire import Talk, at_semicolons

Pieces = list[tuple[Side, bytes, int, int]]


def traffic(events: Sequence[Event]) -> Pieces:
    """Return what an archive would hand out of these events."""
    return [
        (event.side, event.payload, int(event.flags), event.command_no)
        for event in events
        if event.side is not None and event.payload is not None
    ]


@pytest.fixture
def talk() -> Talk:
    return Talk(Conversation(split=at_semicolons))


def test_a_query_has_its_rows_with_names_and_types(talk: Talk) -> None:
    talk.client(wire.query("SELECT a, b FROM t"))
    talk.target(wire.row_description(("a", 23), ("b", 25)))
    talk.target(wire.data_row(b"1", b"x") + wire.data_row(None, "é".encode()))
    talk.target(wire.command_complete("SELECT 2") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.to_pylist() == [{"a": 1, "b": "x"}, {"a": None, "b": "é"}]
    assert table.schema.types == [pa.int32(), pa.string()]
    assert table.schema.field("a").metadata == {
        b"postgres.oid": b"23",
        b"postgres.type": b"integer",
        b"postgres.table": b"16384",
        b"postgres.column": b"1",
    }


def test_a_statement_described_long_ago_still_names_the_columns(talk: Talk) -> None:
    talk.client(wire.parse("s", "SELECT $1") + wire.describe_statement("s") + wire.SYNC)
    talk.target(wire.PARSE_COMPLETE + wire.parameter_description(23))
    talk.target(wire.row_description(("a", 23)) + wire.ready())
    for n in range(3):
        talk.client(wire.bind("", "s", [b"1"], result_formats=[1]) + wire.execute() + wire.SYNC)
        talk.target(wire.BIND_COMPLETE + wire.data_row(struct.pack("!i", n)))
        talk.target(wire.command_complete("SELECT 1") + wire.ready())

    assert result_table(traffic(talk.events()), 2).to_pylist() == [{"a": 2}]
    everything = dict(result_tables(traffic(talk.events()), None))
    assert {number: table.to_pylist() for number, table in everything.items()} == {
        n: [{"a": n}] for n in range(3)
    }


def test_a_statement_described_in_text_and_bound_in_binary_is_read_as_binary(talk: Talk) -> None:
    talk.client(wire.parse("", "SELECT 1") + wire.describe_statement())
    talk.client(wire.bind(result_formats=[1]) + wire.execute() + wire.SYNC)
    talk.target(
        wire.PARSE_COMPLETE + wire.parameter_description() + wire.row_description(("a", 23))
    )
    talk.target(wire.BIND_COMPLETE + wire.data_row(b"\0\0\0\7") + wire.command_complete("SELECT 1"))
    talk.target(wire.ready())

    assert result_table(traffic(talk.events()), 0).to_pylist() == [{"a": 7}]


def test_a_result_without_rows_keeps_its_columns(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)) + wire.command_complete("SELECT 0") + wire.ready())
    talk.client(wire.run("SELECT a"))
    talk.target(wire.PARSE_COMPLETE + wire.BIND_COMPLETE + wire.row_description(("a", 1184)))
    talk.target(wire.command_complete("SELECT 0") + wire.ready())

    for number, arrow in enumerate([pa.int32(), pa.timestamp("us", tz="UTC")]):
        table = result_table(traffic(talk.events()), number)
        assert (table.num_rows, table.schema.field("a").type) == (0, arrow)
        (batch,) = result_batches(lambda: traffic(talk.events()), number)
        assert batch.schema == table.schema


def copy_out(form: int, columns: int) -> bytes:
    """CopyOutResponse."""
    return wire.message("H", struct.pack("!bh", form, columns) + struct.pack("!h", form) * columns)


def test_what_copy_sends_as_text_is_a_row_a_line(talk: Talk) -> None:
    lines = [b"id,note\n", b'1,"two\nlines"\n', "2,é\n".encode()]
    talk.client(wire.query("COPY t TO STDOUT (FORMAT csv, HEADER)"))
    talk.target(copy_out(0, 2) + b"".join(wire.message("d", line) for line in lines))
    talk.target(wire.message("c") + wire.command_complete("COPY 2") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.to_pylist() == [{"line": "id,note"}, {"line": '1,"two\nlines"'}, {"line": "2,é"}]
    assert result_table(traffic(talk.events()), 0, limit=2).num_rows == 2
    (batch,) = result_batches(lambda: traffic(talk.events()), 0)
    assert batch.to_pylist() == table.to_pylist()


def test_a_copy_of_nothing_has_its_column(talk: Talk) -> None:
    talk.client(wire.query("COPY t TO STDOUT"))
    talk.target(copy_out(0, 2) + wire.message("c") + wire.command_complete("COPY 0") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert (table.num_rows, table.column_names) == (0, ["line"])


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_what_copy_sends_in_binary_has_the_rows_that_it_is_divided_into(
    talk: Talk, cut: int
) -> None:
    """However it is cut into messages: the server sends a row with each, and need not."""
    data = b"PGCOPY\n\377\r\n\0" + struct.pack("!ii", 0, 3) + b"ext"
    data += struct.pack("!h", 2) + struct.pack("!ii", 4, 7) + struct.pack("!i", -1)
    data += struct.pack("!h", 2) + struct.pack("!i", 0) + struct.pack("!i", 2) + b"ab"
    data += struct.pack("!h", -1)
    talk.client(wire.query("COPY t TO STDOUT (FORMAT binary)"))
    talk.target(copy_out(1, 2))
    for n in range(0, len(data), cut):
        talk.target(wire.message("d", data[n : n + cut]))
    talk.target(wire.message("c") + wire.command_complete("COPY 2") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.to_pylist() == [
        {"column_1": b"\0\0\0\7", "column_2": None},
        {"column_1": b"", "column_2": b"ab"},
    ]


@pytest.mark.parametrize(
    "data", [b"no PGCOPY", b"PGCOPY\n\377\r\n\0" + struct.pack("!iihi", 0, 0, 2, -2)]
)
def test_a_binary_copy_that_is_none_is_named(talk: Talk, data: bytes) -> None:
    talk.client(wire.query("COPY t TO STDOUT (FORMAT binary)"))
    talk.target(copy_out(1, 2) + wire.message("d", data))

    with pytest.raises(ArchiveError, match="no COPY in binary format"):
        result_table(traffic(talk.events()), 0)


def test_texts_are_read_in_the_encoding_that_the_client_had_asked_for(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 25), ("b", 1009)))
    talk.target(wire.data_row("é".encode("latin-1"), "{é}".encode("latin-1")))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())
    talk.target(wire.message("S", b"client_encoding\0UTF8\0"))
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 25)) + wire.data_row("é".encode()))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())
    pieces = traffic(talk.events())

    assert result_table(pieces, 0, client_encoding="'LATIN1'").to_pylist() == [
        {"a": "é", "b": ["é"]}
    ]
    assert result_table(pieces, 1, client_encoding="'LATIN1'").to_pylist() == [{"a": "é"}]
    assert result_table(pieces, 0).to_pylist() == [{"a": "\ufffd", "b": "{\ufffd}"}]


def test_a_command_without_a_result_has_a_table_without_columns(talk: Talk) -> None:
    talk.client(wire.query("DELETE FROM t"))
    talk.target(wire.command_complete("DELETE 5") + wire.ready())

    assert result_table(traffic(talk.events()), 0).shape == (0, 0)
    assert result_table(traffic(talk.events()), 9).shape == (0, 0)
    assert list(result_batches(lambda: traffic(talk.events()), 0)) == []
    assert list(result_tables(traffic(talk.events()), 5)) == []


def test_rows_that_nobody_had_described_are_numbered_and_read_as_text(talk: Talk) -> None:
    talk.client(wire.parse("", "SELECT 1") + wire.bind() + wire.execute() + wire.SYNC)
    talk.target(wire.PARSE_COMPLETE + wire.BIND_COMPLETE + wire.data_row(b"1", None))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.to_pylist() == [{"column_1": "1", "column_2": None}]


def test_rows_without_columns_are_a_table_without_columns(talk: Talk) -> None:
    talk.client(wire.query("SELECT FROM t"))
    talk.target(wire.row_description() + wire.data_row() * 3)
    talk.target(wire.command_complete("SELECT 3") + wire.ready())

    assert result_table(traffic(talk.events()), 0).num_columns == 0
    assert talk.commands[0].rows_returned == 3


def test_at_most_the_rows_asked_for_are_read(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1") * 50)
    read = 0

    def counted() -> Iterator[tuple[Side, bytes, int, int]]:
        nonlocal read
        for piece in traffic(talk.events()):
            read += 1
            yield piece
        raise AssertionError("read on although there were enough")

    assert result_table(counted(), 0, limit=7).num_rows == 7
    assert read == 2


def test_each_statement_of_a_query_has_its_own_rows_by_the_recorded_numbers(talk: Talk) -> None:
    talk.client(wire.query("SELECT 1 AS a; SELECT 'x' AS b; SELECT 3 AS a"))
    for name, oid, value in [("a", 23, b"1"), ("b", 25, b"x"), ("a", 23, b"3")]:
        talk.target(wire.row_description((name, oid)) + wire.data_row(value))
        talk.target(wire.command_complete("SELECT 1"))
    talk.target(wire.ready())

    tables = dict(result_tables(traffic(talk.events()), 10))

    assert [tables[n].to_pylist() for n in range(3)] == [[{"a": 1}], [{"b": "x"}], [{"a": 3}]]
    assert result_table(traffic(talk.events()), 1).to_pylist() == [{"b": "x"}]


def test_of_an_undivided_query_the_first_results_rows_are_given() -> None:
    talk = Talk()
    talk.client(wire.query("SELECT 1; SELECT 'x', 2; SELECT 3"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1"))
    talk.target(wire.command_complete("SELECT 1"))
    talk.target(wire.row_description(("b", 25), ("c", 23)) + wire.data_row(b"x", b"2"))
    talk.target(wire.command_complete("SELECT 1"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"3"))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.to_pylist() == [{"a": 1}, {"a": 3}]
    assert talk.commands[0].rows_returned == 3


def test_a_row_longer_than_an_event_is_put_together_again(talk: Talk) -> None:
    value = bytes(range(97, 123)) * 30_000
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 25), ("b", 23)) + wire.data_row(b"x", b"1"))
    talk.target(wire.data_row(value, b"2") + wire.data_row(b"z", b"3"))
    talk.target(wire.command_complete("SELECT 3") + wire.ready())

    table = result_table(traffic(talk.events()), 0)

    assert table.column("b").to_pylist() == [1, 2, 3]
    assert table.column("a").to_pylist() == ["x", value.decode(), "z"]


def test_a_command_numbered_later_may_be_answered_earlier(talk: Talk) -> None:
    talk.client(wire.parse("s", "SELEC") + wire.SYNC + wire.query("SELECT a"))
    talk.target(wire.error("42601") + wire.ready())
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1"))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())

    assert [command.text for command in talk.commands.values()] == ["SELECT a", "SELEC"]
    assert result_table(traffic(talk.events()), 0).to_pylist() == [{"a": 1}]


def test_refused_statements_do_not_disturb_what_came_before_and_after(talk: Talk) -> None:
    refusal = Refusal(code="42501", message="denied")
    for asked in (wire.query("DROP TABLE t"), wire.run("DROP TABLE t")):
        (step,) = talk.client(asked)
        talk.refuse(step, refusal)
        talk.target(wire.error("42601") + wire.ready())
    talk.client(wire.function_call(1))
    talk.target(wire.error("42601") + wire.ready())
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1"))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())

    assert result_table(traffic(talk.events()), 3).to_pylist() == [{"a": 1}]


def test_a_large_result_comes_in_batches_of_one_schema(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "BATCH_ROWS", 1000)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23), ("n", 1700), ("d", 1114)))
    for n in range(50):
        row = wire.data_row(str(n).encode(), b"1.5", b"2026-11-03 10:00:00")
        talk.target(row * 100)
    talk.target(wire.command_complete("SELECT 5000") + wire.ready())

    batches = list(result_batches(lambda: traffic(talk.events()), 0))

    assert sum(batch.num_rows for batch in batches) == 5000
    assert len(batches) == 5
    table = pa.Table.from_batches(batches)
    assert table.schema.types == [pa.int32(), pa.decimal128(2, 1), pa.timestamp("us")]
    assert table.slice(4999, 1).to_pylist()[0]["a"] == 49


def test_a_first_batch_that_does_not_fit_makes_its_column_text(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 1114)) + wire.data_row(b"infinity"))
    talk.target(wire.command_complete("SELECT 1") + wire.ready())

    (batch,) = result_batches(lambda: traffic(talk.events()), 0)

    assert batch.to_pylist() == [{"a": "infinity"}]


@pytest.mark.parametrize(
    ("oid", "values", "arrow"),
    [
        (1082, [b"2026-11-03", b"2026-11-04", b"infinity", None], pa.string()),
        (1700, [b"1.5", None, b"-1234", b"0.000001"], pa.decimal128(10, 6)),
        (1700, [b"1" * 40, None, b"0." + b"1" * 40, b"1"], pa.string()),
        (1231, [b"{1.5}", b"{NULL}", b"{}", b"{12,0.25}"], pa.list_(pa.decimal128(4, 2))),
        (1231, [b"{1.5}", b"{}", b"{NaN}", None], pa.string()),
    ],
)
def test_a_later_batch_that_does_not_fit_makes_its_column_text_from_the_first_row_on(
    talk: Talk,
    monkeypatch: pytest.MonkeyPatch,
    oid: int,
    values: list[bytes | None],
    arrow: pa.DataType,
) -> None:
    monkeypatch.setattr(postgres, "BATCH_ROWS", 2)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", oid)))
    for value in values:
        talk.target(wire.data_row(value))
    talk.target(wire.command_complete("SELECT 4") + wire.ready())

    batches = list(result_batches(lambda: traffic(talk.events()), 0))

    assert [batch.num_rows for batch in batches] == [2, 2]
    assert pa.Table.from_batches(batches).column("a").type == arrow
    whole = result_table(traffic(talk.events()), 0)
    assert pa.Table.from_batches(batches).column("a").to_pylist() == whole.column("a").to_pylist()


def test_a_result_of_certain_types_is_read_once(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "BATCH_ROWS", 2)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23, 1), ("b", 25), ("c", 869), ("d", 1043, 1)))
    for n in range(5):
        talk.target(wire.data_row(n.to_bytes(4), b"x", b"::1", b"\xff"))
    talk.target(wire.command_complete("SELECT 5") + wire.ready())
    looks = iter([traffic(talk.events())])

    batches = list(result_batches(lambda: next(looks), 0))

    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    table = result_table(traffic(talk.events()), 0)
    assert pa.Table.from_batches(batches).equals(table)
    assert table.to_pylist()[4] == {"a": 4, "b": "x", "c": "::1", "d": "\ufffd"}


def test_a_value_that_no_server_sends_ends_batches_with_its_command(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "BATCH_ROWS", 2)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)))
    for value in (b"1", b"2", b"three"):
        talk.target(wire.data_row(value))
    talk.target(wire.command_complete("SELECT 3") + wire.ready())

    batches = result_batches(lambda: traffic(talk.events()), 0)

    assert next(batches).num_rows == 2
    with pytest.raises(ArchiveError, match="command 0: a value that its column's type does not"):
        next(batches)
    assert result_table(traffic(talk.events()), 0).column("a").to_pylist() == ["1", "2", "three"]


def test_of_a_copy_of_which_a_beginning_was_kept_the_whole_rows_are_there(talk: Talk) -> None:
    line = wire.message("d", b"1\tone\n")
    kept = copy_out(0, 2) + line + line[:-3]
    end = b'{"status":"ok","operation":"COPY","rows_returned":9,"txn_status":"I"}'
    pieces: list[tuple[Side | None, bytes, int, int]] = [
        (Side.CLIENT, wire.query("COPY t TO STDOUT"), 0, 0),
        (Side.TARGET, kept, int(Flag.FROM_TARGET | Flag.TRUNCATED), 0),
        (None, end, 0, 0),
        (Side.CLIENT, wire.query("SELECT 1"), 0, 1),
        (Side.TARGET, wire.row_description(("a", 23)) + wire.data_row(b"1"), 0, 1),
    ]

    assert result_table(pieces, 0).to_pylist() == [{"line": "1\tone"}]
    assert result_table(pieces, 1).to_pylist() == [{"a": 1}]


def test_binary_of_a_type_that_no_batch_tells_is_bytes_in_every_batch(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "BATCH_ROWS", 2)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 99_999, 1)))
    for value in [b"happy", b"sad", b"\0\0\0\7", None]:
        talk.target(wire.data_row(value))
    talk.target(wire.command_complete("SELECT 4") + wire.ready())

    table = pa.Table.from_batches(result_batches(lambda: traffic(talk.events()), 0))

    assert table.column("a").to_pylist() == [b"happy", b"sad", b"\0\0\0\7", None]


def test_rows_that_came_while_batches_were_read_are_left_for_the_next_time(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows yet what they are: the schema is that of the rows before them."""
    monkeypatch.setattr(postgres, "BATCH_ROWS", 2)
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 1082)) + wire.data_row(b"2026-01-01"))
    for n in (b"2026-01-02", b"2026-01-03"):
        talk.target(wire.data_row(n))
    before = traffic(talk.events())
    talk.target(wire.data_row(b"infinity"))
    talk.target(wire.command_complete("SELECT 4") + wire.ready())
    looks = iter([before, traffic(talk.events())])

    batches = list(result_batches(lambda: next(looks), 0))

    days = [[row["a"].day for row in batch.to_pylist()] for batch in batches]
    assert days == [[1, 2], [3]]


def test_bytes_that_are_no_conversation_are_named(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1"))
    pieces = traffic(talk.events())

    for spoiled in (
        [(Side.TARGET, wire.ready(), 0, -1), *pieces],
        [*pieces[:1], (Side.TARGET, pieces[1][1] + wire.PARSE_COMPLETE, 0, 0)],
    ):
        with pytest.raises(ArchiveError, match="no conversation"):
            result_table(spoiled, 0)


def test_a_row_that_does_not_fit_its_columns_is_named(talk: Talk) -> None:
    talk.client(wire.query("SELECT a"))
    talk.target(wire.row_description(("a", 23)) + wire.data_row(b"1", b"2"))

    with pytest.raises(ArchiveError, match="a row of 2 values, expected 1"):
        result_table(traffic(talk.events()), 0)


def test_a_row_whose_values_do_not_fill_it_is_an_error_of_the_archive(talk: Talk) -> None:
    talk.client(wire.query("SELECT 1"))
    talk.target(wire.row_description(("a", 25)) + wire.message("D", b"\0\2\0\0\0\0011"))

    with pytest.raises(ArchiveError, match="command 0: DataRow: cut off"):
        result_table(traffic(talk.events()), 0)


# Values. What a server says in one format it says in the other, so both must read the same.

NOW = datetime.datetime(2026, 11, 3, 10, 11, 12, 123456, tzinfo=datetime.UTC)
SOME = uuid.UUID("12345678-1234-1234-1234-123456789012")

VALUES: list[tuple[str, Any, pa.DataType]] = [
    ("1::int2", 1, pa.int16()),
    ("-2::int4", -2, pa.int32()),
    ("9223372036854775807::int8", 2**63 - 1, pa.int64()),
    ("4294967295::oid", 2**32 - 1, pa.uint32()),
    ("1.5::float4", 1.5, pa.float32()),
    ("'-infinity'::float8", float("-inf"), pa.float64()),
    ("true", True, pa.bool_()),
    ("false", False, pa.bool_()),
    ("12.3450::numeric", Decimal("12.3450"), pa.decimal128(6, 4)),
    ("-0.00012::numeric", Decimal("-0.00012"), pa.decimal128(5, 5)),
    ("0::numeric", Decimal(0), pa.decimal128(1, 0)),
    ("100000::numeric", Decimal(100000), pa.decimal128(6, 0)),
    ("1e-20::numeric", Decimal("1E-20"), pa.decimal128(20, 20)),
    ("12.3::numeric(10, 2)", Decimal("12.30"), pa.decimal128(10, 2)),
    ("12.3::numeric(60, 2)", Decimal("12.30"), pa.decimal256(60, 2)),
    ("1234567890123456789012345678901234567890.5::numeric",
     Decimal("1234567890123456789012345678901234567890.5"), pa.decimal256(41, 1)),
    ("1200::numeric(3, -2)", Decimal(1200), pa.decimal128(4, 0)),
    ("'NaN'::numeric", "NaN", pa.string()),
    ("'-Infinity'::numeric", "-Infinity", pa.string()),
    ("1e100::numeric", "1" + "0" * 100, pa.string()),
    ("'é'::text", "é", pa.string()),
    ("''::varchar", "", pa.string()),
    ("'a'::char(3)", "a  ", pa.string()),
    ("'x'::name", "x", pa.string()),
    ("'\\x0001ff'::bytea", b"\x00\x01\xff", pa.binary()),
    (f"'{SOME}'::uuid", SOME, pa.uuid()),
    ("'2026-11-03'::date", datetime.date(2026, 11, 3), pa.date32()),
    ("'infinity'::date", "infinity", pa.string()),
    ("'0044-03-15 BC'::date", "0044-03-15 BC", pa.string()),
    ("'0001-01-01'::date", datetime.date(1, 1, 1), pa.date32()),
    ("'9999-12-31'::date", datetime.date(9999, 12, 31), pa.date32()),
    ("'10000-01-01'::date", "10000-01-01", pa.string()),
    ("'10:11:12.5'::time", datetime.time(10, 11, 12, 500000), pa.time64("us")),
    ("'24:00'::time", "24:00:00", pa.string()),
    ("'2026-11-03 10:11:12.123456'::timestamp", NOW.replace(tzinfo=None), pa.timestamp("us")),
    ("'-infinity'::timestamp", "-infinity", pa.string()),
    ("'0044-03-15 12:00:00.5 BC'::timestamp", "0044-03-15 12:00:00.5 BC", pa.string()),
    ("'12000-01-01'::timestamp", "12000-01-01 00:00:00", pa.string()),
    ("'2026-11-03 15:41:12.123456+05:30'::timestamptz", NOW, pa.timestamp("us", tz="UTC")),
    ("'1800-01-01 00:00:00+00'::timestamptz",
     datetime.datetime(1800, 1, 1, tzinfo=datetime.UTC), pa.timestamp("us", tz="UTC")),
    ("'infinity'::timestamptz", "infinity", pa.string()),
    ("'1 year 2 mons -3 days 04:05:06.7'::interval", "1 year 2 mons -3 days +04:05:06.7",
     pa.string()),
    ("'-1 day -2:03'::interval", "-1 days -02:03:00", pa.string()),
    ("'0'::interval", "00:00:00", pa.string()),
    ("'-1 year +2 mons'::interval", "-10 mons", pa.string()),
    ("'-1 mon 1 day'::interval", "-1 mons +1 day", pa.string()),
    ("'-14 mons'::interval", "-1 years -2 mons", pa.string()),
    ("""'{"a": [1, null]}'::json""", '{"a": [1, null]}', pa.string()),
    ("""'{"a":[1]}'::jsonb""", '{"a": [1]}', pa.string()),
    ("array[1, 2, null]::int4[]", [1, 2, None], pa.list_(pa.int32())),
    ("'{}'::int4[]", [], pa.list_(pa.int32())),
    ("array['a b', 'c\"d', null, '', 'NULL', '\\']::text[]",
     ["a b", 'c"d', None, "", "NULL", "\\"], pa.list_(pa.string())),
    ("array[1.5, 2.25]::numeric[]", [Decimal("1.50"), Decimal("2.25")],
     pa.list_(pa.decimal128(3, 2))),
    (f"array['{SOME}']::uuid[]", [SOME], pa.list_(pa.uuid())),
    ("array[true, false]", [True, False], pa.list_(pa.bool_())),
    ("array['2026-11-03']::date[]", [datetime.date(2026, 11, 3)], pa.list_(pa.date32())),
    ("array['infinity', null]::date[]", "{infinity,NULL}", pa.string()),
    ("array[[1, 2], [3, 4]]", "{{1,2},{3,4}}", pa.string()),
    ("'[0:1]={1,2}'::int4[]", "[0:1]={1,2}", pa.string()),
    ("array[array['a b', null], array['\"', '']]", '{{"a b",NULL},{"\\"",""}}', pa.string()),
    ("array['NaN']::numeric[]", "{NaN}", pa.string()),
    ("null::int4", None, pa.int32()),
    ("null::numeric", None, pa.decimal128(1, 0)),
    ("null::int4[]", None, pa.list_(pa.int32())),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers(postgres15: PostgresPeer) -> dict[bool, pa.Table]:
    """What PostgreSQL 15 answered to `SELECT` of all `VALUES`, in text and in binary."""
    columns = ", ".join(f"({text}) AS v{n}" for n, (text, _, _) in enumerate(VALUES))
    tables = {}
    for binary in (False, True):
        with Tap(postgres15.host, postgres15.port) as tap:
            connection: psycopg.Connection[Any] = postgres15.connect(
                host="127.0.0.1", port=tap.port, sslmode="disable", options="-c timezone=CET"
            )
            with connection as c:
                c.cursor(binary=binary).execute(f"SELECT {columns}".encode())
        (tapped,) = tap.connections
        tables[binary] = result_table(traffic(tapped.talk.events()), 0)
    return tables


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("n", range(len(VALUES)), ids=[text for text, _, _ in VALUES])
def test_a_value_reads_the_same_from_text_and_from_binary(
    answers: dict[bool, pa.Table], n: int, binary: bool
) -> None:
    _, expected, arrow = VALUES[n]

    column = answers[binary].column(f"v{n}")

    assert column.to_pylist() == [expected]
    assert column.type == arrow


def column_of(oid: int, form: int = 0, modifier: int = -1) -> Column:
    return Column("a", 0, 0, oid, -1, modifier, form)


def test_bytea_may_be_written_with_escapes() -> None:
    array = postgres_types.array_of(column_of(17), [rb"a\\b\000\377", None])

    assert array.to_pylist() == [b"a\\b\x00\xff", None]


@pytest.mark.parametrize("oid", [16, 17, 20, 23, 700, 1082, 1083, 1114, 1184, 1700, 2950, 1007])
@pytest.mark.parametrize("form", [0, 1])
def test_a_value_that_its_type_cannot_have_is_kept_as_text_or_bytes(oid: int, form: int) -> None:
    values = [b"\x05x", None]
    array = postgres_types.array_of(column_of(oid, form), values)

    assert array.type in (pa.string(), pa.binary())
    assert len(array) == 2
    if array.type == pa.binary():
        assert array.to_pylist() == values


def test_types_that_are_not_known_stay_what_they_were() -> None:
    text = postgres_types.array_of(column_of(99_999), [b"happy", None])
    binary = postgres_types.array_of(column_of(99_999, 1), [b"\x00\xff", None])

    assert (text.type, text.to_pylist()) == (pa.string(), ["happy", None])
    assert (binary.type, binary.to_pylist()) == (pa.binary(), [b"\x00\xff", None])
    assert postgres_types.type_name(column_of(99_999)) == ""
    assert postgres_types.type_name(column_of(869)) == "inet"
    assert postgres_types.type_name(column_of(1231)) == "numeric[]"


@pytest.mark.parametrize(
    "text", [b"{1,2", b"1,2}", b"{1,,2}", b"{1,2}}", b"{{1},{2}}", b"[1:1]={1}", b"{1,2},", b"{a}"]
)
def test_an_array_that_is_no_list_of_numbers_is_text(text: bytes) -> None:
    array = postgres_types.array_of(column_of(1007), [text])

    assert array.to_pylist() == [text.decode()]


@given(
    st.binary(max_size=60),
    st.sampled_from(sorted({*postgres_types._TYPES, *postgres_types._NAMES, *ARRAYS, 99, 99_999})),
)
def test_no_binary_value_breaks_a_column(value: bytes, oid: int) -> None:
    array = postgres_types.array_of(column_of(oid, 1), [value, None])

    assert len(array) == 2
    assert array[1].as_py() is None


@given(
    st.text(max_size=30),
    st.sampled_from(sorted({*postgres_types._TYPES, *postgres_types._NAMES, *ARRAYS, 99, 99_999})),
)
def test_no_text_value_breaks_a_column(value: str, oid: int) -> None:
    array = postgres_types.array_of(column_of(oid), [value.encode(), None])

    assert len(array) == 2
    assert array[1].as_py() is None
