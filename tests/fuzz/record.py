"""`python -m tests.fuzz.record`: record the corpus anew, from real clients and a real server.

Dialogues begin behind the login, so that no password is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors

from agentaudit.demo.database import embedded_postgres
from agentaudit.model import Side
from tests.fuzz.dialogues import CORPUS, encode
from tests.peers.postgres import PostgresPeer
from tests.protocols.tap import Tap

Connection = psycopg.Connection[Any]


def simple(c: Connection) -> None:
    c.execute("SELECT 1 AS a, 'b' AS b, NULL AS c; SELECT 2")
    c.execute("")
    c.execute("DO $$BEGIN RAISE NOTICE 'hi'; END$$")


def parameters(c: Connection) -> None:
    with c.cursor(binary=True) as cursor:
        cursor.execute("SELECT %s::int4, %s::text, %s::numeric, now()", (1, "x", 2))
    c.execute("SELECT %s::uuid, %s::jsonb", ("0" * 32, "{}"))


def prepared(c: Connection) -> None:
    for n in range(3):
        c.execute("SELECT %s::int4", (n,), prepare=True)


def failures(c: Connection) -> None:
    for sql in ("SELECT nothing", "SELEC", "SELECT 1/0"):
        try:
            c.execute(sql)
        except errors.Error:
            pass


def transaction(c: Connection) -> None:
    try:
        with c.transaction():
            c.execute("CREATE TEMP TABLE t (a int)")
            c.execute("SELECT %s", (1,))
            c.execute("SELECT 1/%s", (0,))
    except errors.DivisionByZero:
        pass


def pipeline(c: Connection) -> None:
    try:
        with c.pipeline():
            for n in (1, 2, 0, 3):
                c.execute("SELECT 1/%s", (n,))
    except errors.DivisionByZero:
        pass


def copies(c: Connection) -> None:
    c.execute("CREATE TEMP TABLE t (a int)")
    with c.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            copy.write("1\n2\n")
        with cursor.copy("COPY t TO STDOUT") as copy:
            list(copy)
    try:
        with c.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            copy.write("x\n")
    except errors.InvalidTextRepresentation:
        pass


def notifications(c: Connection) -> None:
    c.execute("LISTEN a")
    c.execute("NOTIFY a, 'b'")
    c.execute("SET TimeZone = 'Asia/Tokyo'")


def cursors(c: Connection) -> None:
    with c.transaction(), c.cursor("d") as cursor:
        cursor.execute("SELECT g, repeat('x', g) FROM generate_series(1, 9) g")
        while cursor.fetchmany(4):
            pass


def types(c: Connection) -> None:
    with c.cursor(binary=True) as cursor:
        cursor.execute(
            "SELECT true, '\\x00'::bytea, 1.5::float8, '{1,NULL}'::int4[], '[1,5)'::int4range,"
            " 'infinity'::timestamptz, '1 day'::interval, '10.0.0.1'::inet, 'a'::\"char\""
        )


def killed(c: Connection) -> None:
    try:
        c.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    except errors.OperationalError:
        pass


SCRIPTS: tuple[Callable[[Connection], None], ...] = (
    *(simple, parameters, prepared, failures, transaction, pipeline, copies, notifications),
    *(cursors, types, killed),
)


def main() -> int:
    CORPUS.mkdir(exist_ok=True)
    with PostgresPeer(binaries=embedded_postgres(), authority=None) as server:
        server.create_users()
        for script in SCRIPTS:
            with (
                Tap(server.host, server.port) as tap,
                server.connect(host="127.0.0.1", port=tap.port, sslmode="disable") as c,
            ):
                script(c)
            (tapped,) = tap.connections
            steps = tapped.talk.steps
            said = [(step.side, step.frame) for step in steps]
            assert all(side in Side for side, _ in said)
            (CORPUS / f"{script.__name__}.dialogue").write_bytes(encode(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
