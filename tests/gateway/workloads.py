"""What agents do, at random: each workload is one session of one client, from a seed.

None of them leaves anything behind; `application` becomes the session's `application_name`.
"""

from __future__ import annotations

import asyncio
import io
import random
import select
import socket
import string
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
from psycopg import errors, sql

from tests.gateway.scripts import Speaker, frames, random_script
from tests.protocols import wire

LARGEST = 3_000_000
"""Bytes of a large value: more than any queue on the way holds."""

ACTS = 12
"""Acts of one session."""

Workload = Callable[[random.Random, "Door", str], None]


@dataclass(frozen=True, slots=True)
class Door:
    """Where to knock, and with what token."""

    host: str
    port: int
    token: str


def text(chance: random.Random) -> str:
    """Return a text, now and then one of megabytes."""
    largest = chance.choice([10, 300, 20_000, 300_000, LARGEST])
    alphabet = chance.choice([string.ascii_letters, "äéß€漢𝄞 '\\\n\t"])
    return "".join(chance.choices(alphabet, k=50)) * (chance.randint(1, largest) // 50 + 1)


# --- psycopg


def with_psycopg(chance: random.Random, door: Door, application: str) -> None:
    with psycopg.connect(
        host=door.host,
        port=door.port,
        dbname="orders",
        user="agent",
        password=door.token,
        application_name=application,
        sslmode="disable",
        autocommit=True,
    ) as connection:
        connection.execute("CREATE TEMP TABLE notes (id int, body text)")
        for _ in range(ACTS):
            chance.choice(_PSYCOPG)(chance, connection)


def _parameters(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    said = text(chance)
    with connection.cursor(binary=chance.random() < 0.5) as cursor:
        row = cursor.execute("SELECT %s::text, %s::int8", (said, 7)).fetchone()
    assert row == (said, 7)


def _bulk(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    rows, width = chance.randint(1, 20_000), chance.randint(0, 100)
    cursor = connection.execute(
        "SELECT g, repeat('x', %s) FROM generate_series(1, %s) g", (width, rows)
    )
    assert len(cursor.fetchall()) == rows


def _pipeline(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    """Ask for many things before the first answer is read; some of it fails."""
    try:
        with connection.pipeline():
            for n in range(chance.randint(1, 60)):
                divisor = 0 if chance.random() < 0.02 else n + 1
                connection.execute("SELECT 1 / %s, %s", (divisor, text(chance)[:1000]))
    except (errors.DivisionByZero, errors.InvalidSqlStatementName):
        # psycopg takes for prepared what the server has skipped behind a failure, direct as well.
        pass


def _many(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    rows = [(n, "m" * chance.randint(0, 50)) for n in range(chance.randint(1, 400))]
    connection.cursor().executemany("INSERT INTO notes VALUES (%s, %s)", rows)


def _copy(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    binary = sql.SQL("(FORMAT binary)" if chance.random() < 0.5 else "(FORMAT text)")
    into = sql.SQL("COPY notes FROM STDIN {}").format(binary)
    with connection.cursor() as cursor:
        with cursor.copy(into) as copy:
            copy.set_types(["int4", "text"])
            for n in range(chance.randint(0, 2000)):
                copy.write_row((n, "c" * chance.randint(0, 400)))
        with cursor.copy(sql.SQL("COPY notes TO STDOUT {}").format(binary)) as copy:
            for _ in copy:
                pass


def _failed_copy(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    try:
        with connection.cursor() as cursor, cursor.copy("COPY notes FROM STDIN") as copy:
            for _ in range(chance.randint(1, 200)):
                copy.write("no number\tx\n" * 100)
    except errors.InvalidTextRepresentation:
        pass


def _notices(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    length = chance.choice([10, 1000, 400_000])
    connection.execute(
        f"DO $$ BEGIN FOR i IN 1 .. {chance.randint(1, 5)} LOOP"
        f" RAISE NOTICE '%', repeat('n', {length}); END LOOP; END $$"
    )


def _notifications(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    connection.execute("LISTEN news")
    for _ in range(chance.randint(1, 20)):
        connection.execute("SELECT pg_notify('news', %s)", ("p" * chance.randint(0, 7000),))
    connection.execute("UNLISTEN news")


def _transaction(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    try:
        with connection.transaction(), connection.cursor("streamed") as cursor:
            cursor.execute("SELECT repeat('s', 500) FROM generate_series(1, 900)")
            while cursor.fetchmany(chance.randint(1, 300)):
                if chance.random() < 0.2:
                    connection.execute("SELECT * FROM no_such_table")
    except errors.UndefinedTable:
        pass


def _several(chance: random.Random, connection: psycopg.Connection[Any]) -> None:
    connection.execute("; ".join(f"SELECT {n}" for n in range(chance.randint(1, 9))).encode())


_PSYCOPG: tuple[Callable[[random.Random, psycopg.Connection[Any]], None], ...] = (
    _parameters,
    _parameters,
    _bulk,
    _pipeline,
    _many,
    _copy,
    _failed_copy,
    _notices,
    _notifications,
    _transaction,
    _several,
)


# --- asyncpg


def with_asyncpg(chance: random.Random, door: Door, application: str) -> None:
    asyncio.run(_with_asyncpg(chance, door, application))


async def _with_asyncpg(chance: random.Random, door: Door, application: str) -> None:
    connection = await asyncpg.connect(
        host=door.host,
        port=door.port,
        user="agent",
        password=door.token,
        database="orders",
        ssl=False,
        server_settings={"application_name": application},
    )
    await connection.execute("CREATE TEMP TABLE notes (id int, body text)")
    for _ in range(ACTS):
        act = chance.randrange(6)
        count = chance.randint(1, 500)
        if act == 0:
            said = text(chance)
            assert await connection.fetchval("SELECT $1::text", said) == said
        elif act == 1:
            rows = [(n, "a" * chance.randint(0, 50)) for n in range(count)]
            await connection.executemany("INSERT INTO notes VALUES ($1, $2)", rows)
        elif act == 2:
            async with connection.transaction():
                pages = connection.cursor("SELECT id FROM notes", prefetch=chance.randint(1, 90))
                assert all([row["id"] >= 0 async for row in pages])
        elif act == 3:
            records = [(n, "r" * chance.randint(0, 300)) for n in range(count)]
            await connection.copy_records_to_table("notes", records=records)
            out = io.BytesIO()
            await connection.copy_from_query("SELECT * FROM notes", output=out, format="binary")
        elif act == 4:
            try:
                await connection.fetch("SELECT * FROM no_such_table")
            except asyncpg.UndefinedTableError:
                pass
        else:
            try:
                await connection.fetch("SELECT pg_sleep(30)", timeout=0.01)
            except TimeoutError:
                # The driver has cancelled it, and gives up if the next one times out meanwhile.
                await connection.execute("SELECT 1")
    await connection.close()


# --- byte by byte


def with_scripts(chance: random.Random, door: Door, application: str) -> None:
    """Pipelines of everything, in pieces that know no message, and a cancel now and then."""
    with Speaker(door, door.token, application) as client:
        for _ in range(ACTS):
            if chance.random() < 0.2:
                _cancel(client, door)
                continue
            data = b"".join(frames(random_script(chance, chance.randint(1, 30))))
            while data:
                size = chance.choice([1, 5, 100, 4096, len(data)])
                client.say(data[:size])
                data = data[size:]
            client.wait()
        client.say(wire.query("ROLLBACK"))
        client.hear("Z")
        client.leave()


def _cancel(client: Speaker, door: Door) -> None:
    """Cancel a statement, again and again until it has heard of it."""
    client.say(wire.query("ROLLBACK") + wire.query("SELECT pg_sleep(60)"))
    client.hear("Z")
    while not select.select([client.socket], [], [], 0.05)[0]:
        with socket.create_connection((door.host, door.port)) as canceller:
            key = client.key
            canceller.sendall(struct.pack("!II", 8 + len(key), 80877102) + key)
            canceller.recv(1)
    client.hear("Z")


WORKLOADS: dict[str, Workload] = {
    "psycopg": with_psycopg,
    "asyncpg": with_asyncpg,
    "scripts": with_scripts,
}
