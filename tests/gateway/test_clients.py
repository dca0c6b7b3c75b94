"""Unmodified clients through the gateway, and every byte of theirs accounted for.

A pump stands on either side of the gateway. What it saw is the independent witness: the bytes
that a client sent after its login are those that the server got and those in the archive, and so
the other way round.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy

from agentaudit.archive.verify import verify
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import without_libpq_variables
from agentaudit.demo.provider import IdentityProvider
from tests.gateway.conserved import is_conserved
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer
from tests.peers.pump import Pump, PumpFactory

LONG = 600_000
"""Characters of a value that no event holds whole: it passes in pieces."""


# --- what each client does


def psql(binaries: Path, *, extended: bool) -> Callable[[str, int, str], None]:
    last = "SELECT $1::int + $2::int \\bind 1 2 \\g" if extended else "SELECT 3;"
    copied = "\n".join(f"{i}\t{'z' * 200}" for i in range(20_000, 23_000))

    def work(host: str, port: int, token: str) -> None:
        script = f"""
            CREATE TABLE notes (id int PRIMARY KEY, body text);
            INSERT INTO notes SELECT i, repeat('é', i % 300) FROM generate_series(1, 5000) i;
            SELECT * FROM notes;
            SELECT 1; SELECT 2 \\; SELECT 3;
            SELECT length('{"x" * LONG}'), repeat('y', {LONG});
            \\copy notes TO '/dev/null'
            \\copy (SELECT id + 10000, body FROM notes LIMIT 50) TO PROGRAM 'cat > /dev/null'
            COPY notes FROM STDIN;
{copied}
\\.
            SELECT no_such_column FROM notes;
            BEGIN; DELETE FROM notes; ROLLBACK;
            LISTEN news; NOTIFY news, 'hello'; SELECT 1;
            DO $$ BEGIN RAISE NOTICE 'noticed'; END $$;
            {last}
            DROP TABLE notes;
        """
        done = subprocess.run(
            [binaries / "psql", "-X", "-h", host, "-p", str(port), "-U", "agent", "-d", "orders"],
            input=script.encode(),
            env=without_libpq_variables() | {"PGPASSWORD": token, "PGCLIENTENCODING": "UTF8"},
            capture_output=True,
            check=False,
            timeout=60,
        )
        said = done.stderr.decode()
        assert 'column "no_such_column" does not exist' in said, said
        assert "noticed" in said
        assert done.returncode == 0, said
        assert b"5000" in done.stdout
        assert b"3\n(1 row)" in done.stdout

    return work


def with_psycopg(host: str, port: int, token: str) -> None:
    with psycopg.connect(
        host=host, port=port, dbname="orders", user="agent", password=token, autocommit=True
    ) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        with connection.pipeline(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notes VALUES (%s, %s)", [(i, "n" * i) for i in range(500)]
            )
        with connection.cursor(binary=True) as cursor:
            for i in range(10):  # prepared by psycopg from the fifth on
                row = cursor.execute("SELECT id FROM notes WHERE id = %s", (i,)).fetchone()
                assert row == (i,)
        with connection.cursor() as cursor:
            with cursor.copy("COPY notes FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "text"])
                for i in range(1000, 4000):
                    copy.write_row((i, "b" * 300))
            with cursor.copy("COPY notes TO STDOUT") as copy:
                assert sum(len(block) for block in copy) > 900_000
        with connection.transaction(), connection.cursor("streamed") as streamed:
            streamed.execute("SELECT * FROM notes")
            assert len(streamed.fetchmany(100)) == 100
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT 1/0")
        with pytest.raises(psycopg.errors.UniqueViolation):
            pipelined_failure(connection)
        connection.execute("SELECT %s::text", ("p" * LONG,))
        assert (
            connection.info.backend_pid
            == connection.execute("SELECT pg_backend_pid()").fetchone()[0]
        )  # type: ignore[index]
        connection.execute("DROP TABLE notes")


def pipelined_failure(connection: psycopg.Connection[Any]) -> None:
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("INSERT INTO notes VALUES (1, 'again')")
        connection.execute("SELECT 'skipped'")


def with_asyncpg(host: str, port: int, token: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(
            host=host, port=port, database="orders", user="agent", password=token
        )
        await connection.execute(
            "CREATE TABLE notes (id int PRIMARY KEY, tags text[], at timestamp)"
        )
        await connection.executemany(
            "INSERT INTO notes (id, tags) VALUES ($1, $2)", [(i, ["a", "b"]) for i in range(300)]
        )
        statement = await connection.prepare("SELECT tags FROM notes WHERE id = $1")
        assert await statement.fetchval(7) == ["a", "b"]
        async with connection.transaction():
            cursor = await connection.cursor("SELECT id FROM notes ORDER BY id")
            assert len(await cursor.fetch(50)) == 50
            assert len(await cursor.fetch(50)) == 50
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("SELECT * FROM no_such_table")
        await connection.copy_records_to_table(
            "notes", records=[(i, ["c"], None) for i in range(1000, 3000)]
        )
        out = io.BytesIO()
        await connection.copy_from_query("SELECT id FROM notes", output=out, format="csv")
        assert len(out.getvalue().splitlines()) == 2300
        assert await connection.fetchval("SELECT length($1::text)", "q" * LONG) == LONG
        await connection.execute("DROP TABLE notes")
        await connection.close()

    asyncio.run(work())


def with_sqlalchemy(host: str, port: int, token: str) -> None:
    url = sqlalchemy.URL.create("postgresql+psycopg", "agent", token, host, port, "orders")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    metadata = sqlalchemy.MetaData()
    notes = sqlalchemy.Table(
        "notes",
        metadata,
        sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("body", sqlalchemy.Text),
    )
    with engine.connect() as connection:
        metadata.create_all(connection)
        connection.execute(notes.insert(), [{"body": f"note {i}"} for i in range(200)])
        connection.commit()
        assert len(sqlalchemy.inspect(connection).get_columns("notes")) == 2
        rows = connection.execute(sqlalchemy.select(notes).where(notes.c.id > 100)).all()
        assert len(rows) == 100
        connection.rollback()
        metadata.drop_all(connection)
        connection.commit()


CLIENTS: dict[str, Callable[[str, int, str], None]] = {
    "psql 15": psql(DEBIAN_BINARIES, extended=False),
    "psql 18": psql(embedded_postgres(), extended=True),
    "psycopg": with_psycopg,
    "asyncpg": with_asyncpg,
    "SQLAlchemy": with_sqlalchemy,
}


# --- between pumps


def between_pumps(
    server: PostgresPeer, gateway: GatewayFactory, pump: PumpFactory, **keys: object
) -> tuple[Gateway, Pump, Pump]:
    back = pump(server.host, server.port)
    gw = gateway(server.target(address=f"{back.host}:{back.port}"), **keys)
    return gw, pump(gw.host, gw.port), back


@pytest.mark.parametrize("name", CLIENTS)
def test_an_unmodified_client_works_and_every_byte_is_recorded(
    name: str,
    postgres15: PostgresPeer,
    gateway: GatewayFactory,
    pump: PumpFactory,
    issuer: IdentityProvider,
) -> None:
    gw, front, back = between_pumps(postgres15, gateway, pump, durability="relaxed")
    token = issuer.token("ana", ["data-agents"], at_least_bytes=2000)
    assert len(token) >= 2000

    CLIENTS[name](front.host, front.port, token)

    front.wait_until_closed()
    back.wait_until_closed()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    session = recorded.session(protocol="postgres", user="ana")
    assert session["close_reason"] == "client"
    is_conserved(recorded, session, front.wires[0], back.wires[0])
    statuses = {row["status"] for row in recorded.commands_of(session)}
    assert statuses <= {"ok", "error", "incomplete"}
    verified = verify(gw.archive, key=(gw.directory / "keys" / "gw1.vkey").read_text(), deep=True)
    assert (verified.ok, verified.findings) == (True, [])


@pytest.mark.parametrize("durability", ["strict", "writes"])
def test_bytes_are_conserved_in_every_durability_mode(
    durability: str,
    postgres18: PostgresPeer,
    gateway: GatewayFactory,
    pump: PumpFactory,
    issuer: IdentityProvider,
) -> None:
    gw, front, back = between_pumps(postgres18, gateway, pump, durability=durability)

    with_psycopg(front.host, front.port, issuer.token("ana", ["data-agents"]))

    front.wait_until_closed()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    session = recorded.session(protocol="postgres")
    is_conserved(recorded, session, front.wires[0], back.wires[0])
    mode = {"strict": 0, "writes": 1}[durability]
    assert {event["flags"] >> 5 & 3 for event in recorded.of(session)} == {mode}


# --- TLS


def encrypted(connection: psycopg.Connection[object]) -> bool:
    return bool(connection.pgconn.ssl_in_use)


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_a_client_verifies_the_gateway_and_the_gateway_the_server(
    negotiation: str,
    postgres15: PostgresPeer,
    gateway: GatewayFactory,
    authority: Authority,
    issuer: IdentityProvider,
) -> None:
    gw = gateway(postgres15.target(tls="verify-full", tls_ca_file=str(authority.file)), tls=True)
    dsn = gw.dsn(
        "orders",
        issuer.token("ana", ["data-agents"], at_least_bytes=2000),
        sslmode="verify-full",
        sslrootcert=authority.file,
        sslnegotiation=negotiation,
    ).replace("host='127.0.0.1'", "host='localhost' hostaddr='127.0.0.1'")

    with psycopg.connect(dsn) as connection:
        assert encrypted(connection)
        row = connection.execute(
            "SELECT ssl, length(repeat('x', 5000000)) FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert row == (True, 5_000_000)
        big = connection.execute("SELECT repeat('x', 5000000)").fetchone()
        assert big is not None
        assert len(big[0]) == 5_000_000

    gw.wait_until_idle()
    gw.terminate()
    assert read(gw.archive).session(user="ana")["close_reason"] == "client"


def test_asyncpg_starts_tls_directly_too(
    postgres15: PostgresPeer,
    gateway: GatewayFactory,
    authority: Authority,
    issuer: IdentityProvider,
) -> None:
    gw = gateway(postgres15.target(), tls=True)
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["postgresql"])

    async def work(direct: bool) -> int:
        connection = await asyncpg.connect(
            host="localhost",
            port=gw.port,
            database="orders",
            user="agent",
            password=issuer.token("ana", ["data-agents"]),
            ssl=context,
            direct_tls=direct,
        )
        value: int = await connection.fetchval("SELECT 42")
        await connection.close()
        return value

    assert asyncio.run(work(True)) == 42
    assert asyncio.run(work(False)) == 42


# --- what is passed on


def test_start_up_parameters_reach_the_server_and_its_settings_the_client(
    postgres15: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    gw = gateway(postgres15.target())
    dsn = gw.dsn(
        "orders",
        issuer.token("ana", ["data-agents"]),
        application_name="report",
        client_encoding="LATIN1",
        options="-c search_path=pg_catalog -c work_mem=7MB",
    )

    with psycopg.connect(dsn) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("application_name", "search_path", "work_mem")
        ]
        assert shown == [("report",), ("pg_catalog",), ("7MB",)]
        assert connection.info.parameter_status("client_encoding") == "LATIN1"
        server_version = connection.info.server_version
        assert connection.execute("SELECT 'é'").fetchone() == ("é",)

    with postgres15.connect() as direct:
        assert direct.info.server_version == server_version
    gw.wait_until_idle()
    gw.terminate()
    session = read(gw.archive).session(user="ana")
    assert session["client_app"] == "report"
    labels = dict(session["labels"])
    assert labels["options"] == "-c search_path=pg_catalog -c work_mem=7MB"
    assert labels["user"] == "agent"
    assert session["target_addr"] == f"{postgres15.host}:{postgres15.port}"


def test_a_client_of_a_newer_protocol_is_told_which_one_is_spoken(
    postgres18: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    gw = gateway(postgres18.target())
    dsn = gw.dsn("orders", issuer.token("ana", ["data-agents"]), max_protocol_version="latest")

    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.fixture(params=["postgres15", "postgres18"])
def server(request: pytest.FixtureRequest) -> PostgresPeer:
    """The oldest and the newest server that there are tests with, one after the other."""
    peer = request.getfixturevalue(request.param)
    assert isinstance(peer, PostgresPeer)
    return peer


@pytest.mark.parametrize("binary", [False, True])
def test_a_result_column_is_recorded_with_the_table_and_attribute_that_the_server_names(
    server: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider, binary: bool
) -> None:
    """Held against the catalogue: of a table, a view, a system's column, and of none."""
    gw = gateway(server.target())
    query = "SELECT p.email, p.ssn AS x, lower(p.ssn), v.ssn, p.ctid, p.id FROM people p, masked v"
    numbers = """
        SELECT attrelid || '.' || attnum FROM pg_attribute
        WHERE (attrelid::regclass::text, attname) = (%s, %s)
    """
    named = [("people", "email"), ("people", "ssn"), None, ("masked", "ssn")]
    named += [("people", "ctid"), ("people", "id")]
    with psycopg.connect(
        gw.dsn("orders", issuer.token("ana", ["data-agents"])), autocommit=True
    ) as connection:
        connection.execute("CREATE TABLE people (id int, gone int, ssn text, email text)")
        connection.execute("ALTER TABLE people DROP gone")
        connection.execute("CREATE VIEW masked AS SELECT ssn FROM people")
        simple = psycopg.ClientCursor(connection)
        simple.execute(query)
        connection.execute(query, binary=binary)
        connection.execute("INSERT INTO people (id) VALUES (1) RETURNING id, id + 1")
        connection.execute("SELECT 1, now()")
        with connection.cursor().copy("COPY people TO STDOUT") as copy:
            list(copy)
        expected = []
        for name in named:
            found = name and connection.execute(numbers, name).fetchone()
            expected.append(found[0] if found else "")
        connection.execute("DROP TABLE people CASCADE")

    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    rows = recorded.commands_of(recorded.session(user="ana"))
    assert [row["origins"] for row in rows if row["text"] == query] == [expected, expected]
    (inserted,) = [row for row in rows if row["operation"] == "INSERT"]
    assert inserted["origins"] == [expected[-1], ""]
    assert inserted["columns"] == ["id", "?column?"]
    others = [row for row in rows if row["operation"] in ("CREATE TABLE", "COPY")]
    others += [row for row in rows if row["text"] == "SELECT 1, now()"]
    assert {row["origins"] for row in others} == {None}
    assert len(others) == 3
    assert verify(gw.archive, key=gw.verifier_key, deep=True, remember=False).ok is True


def test_a_command_row_says_what_ran_and_what_came_of_it(
    postgres15: PostgresPeer, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    gw = gateway(postgres15.target())
    with psycopg.connect(gw.dsn("orders", issuer.token("ana", ["data-agents"]))) as connection:
        connection.execute("SELECT g, %s::text FROM generate_series(1, 3) g", ("p",))
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("DELETE FROM no_such_table")

    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    session = recorded.session(user="ana")
    begin, select, delete, commit = recorded.commands_of(session)
    assert [row["operation"] for row in (begin, select, delete, commit)] == [
        "BEGIN",
        "SELECT",
        "DELETE",
        "COMMIT",
    ]
    assert (select["status"], select["rows_returned"], select["params"]) == ("ok", 3, ["p"])
    assert select["columns"] == ["g", "text"]
    assert (delete["status"], delete["error_code"], delete["class"]) == ("error", "42P01", "write")
    assert {row["decision"] for row in (begin, select, delete)} == {"allow"}
    assert {row["rule"] for row in (begin, select, delete)} == {"none"}
    assert select["bytes_in"] > 0
    assert select["bytes_out"] > 0
    assert session["policy_digest"]
    assert (gw.archive / "policies" / f"{session['policy_digest']}.json").exists()
