"""Nothing secret is kept: canaries of every kind, in every place, are looked for afterwards.

Each place plants its own, one of every detector's kind, at four targets: one that no rule is about,
where they must be found, since a search that finds nothing proves nothing; one with all detectors;
one with rules about columns too; and one where the client is not to see them either.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
import subprocess
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg.types.json import Jsonb

import agentaudit as aa
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import without_libpq_variables
from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.masking.detectors import DETECTORS
from agentaudit.masking.masks import Masks
from agentaudit.model import Command, Event, Side
from agentaudit.protocols import postgres_messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.risk.sql import split
from tests import tries
from tests.gateway.raw import Raw, startup
from tests.gateway.recorded import read
from tests.masking.canaries import MAKERS, Canary, Search, kept, make
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.protocols import wire

pytestmark = pytest.mark.timeout(400)

KINDS: Final = tuple(MAKERS)
HANGS_S: Final = 15
"""A client that hears nothing for so long waits in vain."""

BARE, ARCHIVE, COLUMNS, CLIENT = "bare", "archive", "columns", "client"
TARGETS: Final = (BARE, ARCHIVE, COLUMNS, CLIENT)
BOTH = ["archive", "client"]
MASKS: Final = [
    {"name": "secrets", "target": [ARCHIVE, COLUMNS], "detect": ["all"], "action": "redact"},
    {
        "name": "ids",
        "target": [COLUMNS],
        "columns": ["*.customers.ssn", "email"],
        "action": "redact",
    },
    {"name": "hidden", "target": [CLIENT], "detect": ["all"], "action": "redact", "apply": BOTH},
]
TELL = """
CREATE FUNCTION tell(how text, what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  CASE how
    WHEN 'notice' THEN RAISE NOTICE 'it is %', what;
    WHEN 'warning' THEN RAISE WARNING USING MESSAGE = 'look', DETAIL = what, HINT = what;
    WHEN 'message' THEN RAISE EXCEPTION 'it is %', what;
    WHEN 'detail' THEN RAISE EXCEPTION USING MESSAGE = 'no', DETAIL = what;
    WHEN 'hint' THEN RAISE EXCEPTION USING MESSAGE = 'no', HINT = what;
    WHEN 'column' THEN RAISE EXCEPTION USING MESSAGE = 'no', COLUMN = what, TABLE = what;
  END CASE;
  RETURN what;
END $$
"""
SETUP: Final = (
    "CREATE TABLE customers (id int, ssn text, email text)",
    "CREATE TABLE kept (id int, what text)",
    "CREATE TABLE once (what text UNIQUE)",
    "CREATE TABLE checked (what text CHECK (length(what) < 3))",
    "CREATE TYPE pair AS (a int, what text)",
    TELL,
    "GRANT ALL ON customers, kept, once, checked TO PUBLIC",
)
UNDO: Final = (
    "DROP TABLE customers, kept, once, checked",
    "DROP TYPE pair",
    "DROP FUNCTION tell(text, text)",
)


# --- planting


@dataclass
class Door:
    """Where a place is reached, and whether who asks there gets to see what comes back."""

    gateway: Gateway
    target: str
    token: str
    place: str
    open: list[psycopg.Connection[Any]] = field(default_factory=list)

    def end(self) -> None:
        """Shut the connections down that stand still, so that who waits on them goes on."""
        for client in self.open:
            with (
                suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(client.fileno())) as end,
            ):
                end.shutdown(socket.SHUT_RDWR)

    @property
    def sees(self) -> bool:
        return self.target != CLIENT

    def dsn(self, **keys: Any) -> str:
        return self.gateway.dsn(self.target, self.token, sslmode="disable", **keys)

    def psycopg(self, **keys: Any) -> psycopg.Connection[Any]:
        keys = {"application_name": f"{self.target} {self.place}"} | keys
        client = psycopg.connect(self.dsn(), autocommit=True, **keys)
        self.open.append(client)
        return client

    def raw(self, **parameters: str) -> Line:
        keys = {"database": self.target, "application_name": f"{self.target} {self.place}"}
        return Line(self, **(keys | parameters))

    def psql(self, script: str) -> str:
        """Return what psql prints."""
        dsn = self.dsn(application_name=f"{self.target} {self.place}")
        done = subprocess.run(
            ["psql", "-X", "-q", "-A", "-t", dsn],
            input=script.encode(),
            capture_output=True,
            env=without_libpq_variables(),
            timeout=60,
            check=False,
        )
        return (done.stdout + done.stderr).decode()

    def heard(self, canary: Canary, said: object) -> None:
        """Assert that what came back has the canary, or that it has not where it is hidden."""
        data = said if isinstance(said, bytes) else str(said).encode()
        if self.sees:
            assert canary.secret.splitlines()[-2 if "\n" in canary.secret else 0].encode() in data
        else:
            assert not any(trace in data for trace in canary.traces), canary


class Line(Raw):
    """A raw client that hears in large pieces."""

    def __init__(self, door: Door, **parameters: str) -> None:
        super().__init__(door.gateway)
        self.socket.settimeout(HANGS_S)
        self._heard = b""
        self.say(startup(**parameters))
        self.hear_past(b"R")
        self.say(postgres_messages.password_message(door.token))
        self.greeting = self.hear_past(b"Z")

    def say(self, data: bytes) -> Line:
        super().say(data)
        return self

    def hear_past(self, kind: bytes) -> bytes:
        """Return what is heard up to a message of this kind."""
        at = 0
        while True:
            while len(self._heard) - at >= 5:
                stop = at + 1 + struct.unpack_from("!I", self._heard, at + 1)[0]
                if len(self._heard) < stop:
                    break
                found, at = self._heard[at : at + 1], stop
                if found == kind:
                    said, self._heard = self._heard[:at], self._heard[at:]
                    return said
            more = self.socket.recv(1 << 16)
            assert more, self._heard
            self._heard += more

    def ask(self, data: bytes) -> bytes:
        return self.say(data).hear_past(b"Z")


Plants = Callable[[Door, Sequence[Canary]], None]
PLACES: Final[dict[str, Plants]] = {}


def place(plants: Plants) -> Plants:
    PLACES[plants.__name__.replace("_", " ")] = plants
    return plants


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def short(canaries: Sequence[Canary]) -> list[Canary]:
    """Return those that fit into an identifier."""
    return [c for c in canaries if len(c.text) < 60 and '"' not in c.text and "\n" not in c.text]


def identifier(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@place
def literal_in_a_simple_query(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            door.heard(canary, client.execute(f"SELECT {quoted(canary.text)} AS a").fetchone())


@place
def several_statements_in_one_query(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            said = quoted(canary.text)
            cursor = client.execute(f"SELECT 1; /* {canary.text} */ SELECT {said}; SELECT {said}")
            while cursor.nextset():
                door.heard(canary, cursor.fetchall())


@place
def dollar_quotes_and_comments(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            text = f"SELECT $body$ {canary.text} $body$ -- {canary.text.replace(chr(10), ' ')}"
            door.heard(canary, client.execute(text).fetchone())


@place
def parameter_and_row_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            row = client.execute("SELECT %s::text, %s::varchar", [canary.text] * 2).fetchone()
            door.heard(canary, row)


@place
def parameter_and_row_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, client.cursor(binary=True) as cursor:
        for canary in canaries:
            row = cursor.execute("SELECT %b::text, %b::varchar", [canary.text] * 2).fetchone()
            door.heard(canary, row)


@place
def prepared_once_and_run_often(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg(prepare_threshold=0) as client:
        for canary in canaries:
            door.heard(canary, client.execute("SELECT %s::text", [canary.text]).fetchone())


@place
def pipeline(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, client.pipeline():
        cursors = [client.execute("SELECT %s::text", [canary.text]) for canary in canaries]
        for canary, cursor in zip(canaries, cursors, strict=True):
            door.heard(canary, cursor.fetchone())


@place
def many_rows_at_once(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        texts = [canary.text for canary in canaries]
        rows = client.execute(
            "SELECT t, n, repeat('x', 300) FROM unnest(%s::text[]) WITH ORDINALITY u(t, n)", [texts]
        ).fetchall()
        for canary, row in zip(canaries, rows, strict=True):
            door.heard(canary, row[0])


@place
def a_value_of_many_lines(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        text = "\n".join(f"line {n}: {c.text} and so on" for n, c in enumerate(canaries))
        (row,) = client.execute("SELECT %s::text", [text]).fetchall()
        for canary in canaries:
            door.heard(canary, row[0])


def _with_jsonb(door: Door, canaries: Sequence[Canary], *, binary: bool) -> None:
    with door.psycopg() as client, client.cursor(binary=binary) as cursor:
        for canary in canaries:
            value = Jsonb({"a": [1, canary.text], canary.text: None})
            row = cursor.execute("SELECT %s::jsonb, %s::json", [value, value]).fetchone()
            if "\n" not in canary.text and '"' not in canary.text:
                door.heard(canary, row)


@place
def json_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    _with_jsonb(door, canaries, binary=False)


@place
def json_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    _with_jsonb(door, canaries, binary=True)


def _with_arrays(door: Door, canaries: Sequence[Canary], *, binary: bool) -> None:
    with door.psycopg() as client, client.cursor(binary=binary) as cursor:
        for canary in canaries:
            value = [["a", canary.text], [canary.text, "b"]]
            row = cursor.execute("SELECT %s::text[]", [value]).fetchone()
            door.heard(canary, row if row is None or row[0] is None else row[0][0][1])


@place
def array_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    _with_arrays(door, canaries, binary=False)


@place
def array_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    _with_arrays(door, canaries, binary=True)


def _with_records(door: Door, canaries: Sequence[Canary], *, binary: bool) -> None:
    with door.psycopg() as client, client.cursor(binary=binary) as cursor:
        for canary in canaries:
            cursor.execute("SELECT ROW(1, %s::text)::pair, ROW(2, %s::text)", [canary.text] * 2)
            row = cursor.fetchone()
            if '"' not in canary.text and "\\" not in canary.text:
                door.heard(canary, row)


@place
def record_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    _with_records(door, canaries, binary=False)


@place
def record_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    _with_records(door, canaries, binary=True)


@place
def bytea_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, client.cursor(binary=True) as cursor:
        for canary in canaries:
            row = cursor.execute("SELECT %b::bytea", [canary.text.encode()]).fetchone()
            assert row is not None
            door.heard(canary, row[0] or b"")


@place
def bytea_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            row = client.execute("SELECT %t::bytea", [canary.text.encode()]).fetchone()
            assert row is not None
            door.heard(canary, row[0] or b"")


@place
def numbers_that_are_cards(door: Door, canaries: Sequence[Canary]) -> None:
    digits = [re.sub("[ -]", "", c.secret) for c in canaries if c.detector == "card"]
    with door.psycopg() as client:
        for binary in (False, True):
            with client.cursor(binary=binary) as cursor:
                for each in digits:
                    sent = int(each)
                    row = cursor.execute("SELECT %s::int8, %s::numeric", [sent, sent]).fetchone()
                    assert not door.sees or row == (sent, sent)
                    assert door.sees or row is None or sent not in row
        for each in digits:
            client.execute(f"SELECT {each}, {each}::numeric, ARRAY[{each}]")
            with client.cursor(binary=True) as cursor:
                cursor.execute("SELECT ARRAY[%s::int8], ROW(%s::int8)", [int(each)] * 2)


@place
def column_name(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in short(canaries):
            for binary in (False, True):
                said = client.execute(f"SELECT 1 AS {identifier(canary.text)}", binary=binary)
                assert said.description is not None
                door.heard(canary, said.description[0].name)


COPIES: Final = ("text", "csv", "binary")


def _copies_out(door: Door, canaries: Sequence[Canary], form: str) -> None:
    with door.psycopg() as client:
        client.execute("CREATE TEMP TABLE mine (id int, what text)")
        cursor = client.cursor()
        cursor.executemany("INSERT INTO mine VALUES (1, %s)", [(c.text,) for c in canaries])
        with cursor.copy(f"COPY mine TO STDOUT (FORMAT {form})") as copy:
            said = b"".join(bytes(piece) for piece in copy)
        for canary in canaries:
            if '"' not in canary.secret:
                door.heard(canary, said)


def _copies_in(door: Door, canaries: Sequence[Canary], form: str, size: int) -> None:
    with door.psycopg() as client:
        client.execute("CREATE TEMP TABLE mine (id int, what text)")
        if form == "text":
            lines = [c.text.replace("\\", "\\\\").replace("\n", "\\n") for c in canaries]
            data = "".join(f"7\t{line}\n" for line in lines).encode()
        elif form == "csv":
            lines = [c.text.replace('"', '""') for c in canaries]
            data = "".join(f'7,"{line}"\n' for line in lines).encode()
        else:
            rows = [c.text.encode() for c in canaries]
            data = b"PGCOPY\n\xff\r\n\0" + bytes(8)
            for row in rows:
                data += struct.pack("!hiii", 2, 4, 7, len(row)) + row
            data += struct.pack("!h", -1)
        with client.cursor().copy(f"COPY mine FROM STDIN (FORMAT {form})") as copy:
            for at in range(0, len(data), size):
                copy.write(data[at : at + size])
        (count,) = client.execute("SELECT count(*) FROM mine").fetchone() or (0,)
        assert count == len(canaries)
        if door.sees:
            found = client.execute("SELECT what FROM mine").fetchall()
            assert {what for (what,) in found} == {c.text for c in canaries}


for _form in COPIES:
    PLACES[f"COPY out as {_form}"] = partial(_copies_out, form=_form)
    for _size in (1, 7, 4096):
        PLACES[f"COPY in as {_form}, in pieces of {_size}"] = partial(
            _copies_in, form=_form, size=_size
        )


@place
def copy_that_the_client_fails(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            line.say(wire.query("COPY kept FROM STDIN")).hear_past(b"G")
            said = line.ask(wire.copy_data(b"1\tx\n") + wire.copy_fail(canary.text))
            door.heard(canary, said)


@place
def copy_whose_row_is_wrong(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            line.say(wire.query("COPY kept FROM STDIN")).hear_past(b"G")
            row = canary.text.encode().replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
            line.ask(wire.copy_data(row + b"\tx\n") + wire.COPY_DONE)


@place
def copy_cut_off_by_the_end_of_the_connection(door: Door, canaries: Sequence[Canary]) -> None:
    for canary in canaries[::4]:
        with door.raw() as line:
            line.say(wire.query("COPY kept FROM STDIN")).hear_past(b"G")
            row = f"1\t{canary.text}".encode()
            line.say(wire.copy_data(row[:-3]))


@place
def message_cut_off_by_the_end_of_the_connection(door: Door, canaries: Sequence[Canary]) -> None:
    for canary in canaries[::4]:
        with door.raw() as line:
            line.say(wire.query(f"SELECT {quoted(canary.text)}")[:-2])


def _reports(door: Door, canaries: Sequence[Canary], how: str) -> None:
    with door.psycopg() as client:
        said: list[str] = []
        client.add_notice_handler(
            lambda each: said.append(f"{each.message_primary} {each.message_detail}")
        )
        for canary in canaries:
            try:
                client.execute("SELECT 1 FROM (SELECT tell(%s, %s)) t", [how, canary.text])
                client.execute("SELECT tell(%s, %s)", [how, canary.text])
            except psycopg.Error as error:
                said.append(f"{error} {error.diag.column_name}")
            door.heard(canary, "\n".join(said))


for _how in ("notice", "warning", "message", "detail", "hint", "column"):
    PLACES[f"report: {_how}"] = partial(_reports, how=_how)


def _fails(
    door: Door, canaries: Sequence[Canary], text: str, params: Sequence[str] | None = None
) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            values = None if params is None else [canary.text for _ in params]
            asked = text.format(quoted(canary.text), identifier(canary.text), canary.text)
            try:
                client.execute(asked, values)
            except psycopg.Error as error:
                # libpq adds a line of the client's own text: what the server said is asked for.
                if "{2}" not in text:
                    door.heard(canary, (error.diag.message_primary, error.diag.message_detail))
            else:
                raise AssertionError(asked)


@place
def error_of_a_cast(door: Door, canaries: Sequence[Canary]) -> None:
    _fails(door, canaries, "SELECT CAST({0} AS int)")
    _fails(door, canaries, "SELECT CAST(%t AS int)", [""])
    _fails(door, canaries, "SELECT (%s::text)::timestamptz", [""])


@place
def error_of_a_constraint(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, client.transaction(force_rollback=True):
        for canary in canaries:
            with client.transaction():
                client.execute("INSERT INTO once VALUES (%s)", [canary.text])
            for asked in ("INSERT INTO once VALUES (%s)", "INSERT INTO checked VALUES (%s)"):
                with pytest.raises(psycopg.Error) as caught, client.transaction():
                    client.execute(asked, [canary.text])
                if "once" in asked or not door.sees:
                    # A row that fails a CHECK is cited only in part.
                    door.heard(canary, caught.value.diag.message_detail)


@place
def error_of_syntax_and_names(door: Door, canaries: Sequence[Canary]) -> None:
    _fails(door, canaries, "SELEC {2}")
    _fails(door, short(canaries), "SELECT * FROM {1}")
    _fails(door, short(canaries), "SELECT {1}")


@place
def statement_that_is_not_understood(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            line.ask(wire.query(b"\xff" + canary.text.encode()))
            line.ask(wire.query(f"SELECT '{canary.text}"))
            line.ask(wire.run(f"SELECT $1 {canary.text}", [canary.text.encode()]))


@place
def notification(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        client.execute("LISTEN heard")
        for canary in canaries:
            client.execute("SELECT pg_notify('heard', %s)", [canary.text])
            client.execute(f"NOTIFY heard, {quoted(canary.text)}")
            for each in client.notifies(timeout=10, stop_after=2):
                door.heard(canary, each.payload)


@place
def name_of_a_channel(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in short(canaries):
            client.execute(f"LISTEN {identifier(canary.text)}")
            client.execute(f"NOTIFY {identifier(canary.text)}")


@place
def session_setting(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            door.heard(
                canary, line.ask(wire.query(f"SET app.note = {quoted(canary.text)}; SHOW app.note"))
            )
        for canary in short(canaries):
            line.ask(wire.query(f"SET application_name = {quoted(canary.text)}"))
            value = [canary.text.encode()]
            line.ask(wire.run("SELECT set_config('application_name', $1, false)", value))


@place
def start_up_options(door: Door, canaries: Sequence[Canary]) -> None:
    for canary in canaries:
        said = re.sub(r"(\s|\\)", r"\\\1", canary.text)
        with door.raw(options=f"-c app.note={said}", **{"app.other": canary.text}) as line:
            line.ask(wire.query("SHOW app.note; SHOW app.other"))


@place
def start_up_application_name(door: Door, canaries: Sequence[Canary]) -> None:
    for canary in canaries:
        with door.raw(application_name=canary.text) as line:
            line.ask(wire.query("SELECT 1"))


@place
def start_up_that_is_refused(door: Door, canaries: Sequence[Canary]) -> None:
    for canary in canaries:
        for more in (
            {"no_such_setting": canary.text},
            {canary.text: "x"},
            {"database": canary.text},
            {"user": canary.text},
            {"options": f"-c no_such_setting={canary.text}"},
        ):
            with Raw(door.gateway) as raw, suppress(ConnectionError, AssertionError, TypeError):
                raw.say(startup(**({"database": door.target} | more))).hear_one()
                farewell = postgres_messages.password_message(door.token) + wire.TERMINATE
                raw.say(farewell).hear_until_closed()


@place
def names_of_statements_and_portals(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            name = canary.text
            said = line.ask(
                wire.parse(name, "SELECT 1")
                + wire.describe_statement(name)
                + wire.bind(name, name)
                + wire.describe_portal(name)
                + wire.execute(name)
                + wire.close_portal(name)
                + wire.close_statement(name)
                + wire.SYNC
            )
            assert b"D" in {bytes([said[at]]) for at, *_ in _parts(said)}
            # None of them is there any more: the server says their names.
            for unknown in (wire.describe_statement(name), wire.execute(name), wire.bind("", name)):
                line.ask(unknown + wire.SYNC)


@place
def names_in_statements(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in short(canaries):
            name = identifier(canary.text)
            client.execute(f"PREPARE {name} AS SELECT 1")
            client.execute(f"EXECUTE {name}")
            client.execute(f"DEALLOCATE {name}")
            with client.transaction():
                client.execute(f"DECLARE {name} CURSOR FOR SELECT {quoted(canary.text)}")
                door.heard(canary, client.execute(f"FETCH ALL FROM {name}").fetchall())
            with pytest.raises(psycopg.Error):
                client.execute(f"EXECUTE {name}")
            client.execute(f"CREATE TEMP TABLE {name} (a int)")
            client.execute(f"DROP TABLE {name}")


@place
def cursor_that_is_fetched_in_parts(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            said = line.ask(
                wire.parse("", "SELECT $1 || ' ' || n FROM generate_series(1, 3) n", 25)
                + wire.bind("", "", [canary.text.encode()])
                + wire.execute("", 1) * 4
                + wire.SYNC
            )
            door.heard(canary, said)


@place
def call_of_a_function_by_its_number(door: Door, canaries: Sequence[Canary]) -> None:
    with door.raw() as line:
        for canary in canaries:
            value = wire.values_of([canary.text.encode()])
            # upper(text), and what is not there.
            for oid in (871, 1):
                line.ask(wire.message("F", struct.pack("!IHH", oid, 1, 0) + value + b"\0\0"))


@place
def what_runs_is_asked_for(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            asked = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            row = client.execute(f"{asked} AND {quoted(canary.text)} <> ''").fetchone()
            if "'" not in canary.text:
                door.heard(canary, row)


@place
def body_of_code(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for canary in canaries:
            client.execute(f"DO $do$ BEGIN PERFORM {quoted(canary.text)}; END $do$")
            client.execute(
                "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS"
                f" $f$ SELECT {quoted(canary.text)} $f$"
            )
            door.heard(canary, client.execute("SELECT pg_temp.f()").fetchone())
            client.execute("DROP FUNCTION pg_temp.f()")


@place
def table_that_keeps_them(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, client.transaction(force_rollback=True):
        for canary in canaries:
            client.execute("INSERT INTO kept VALUES (1, %s)", [canary.text])
            asked = "UPDATE kept SET id = 2 WHERE what = %s RETURNING what"
            door.heard(canary, client.execute(asked, [canary.text]).fetchone())
        client.execute(f"INSERT INTO kept VALUES (1, {quoted(canaries[0].text)}) RETURNING kept")
        rows = client.execute("SELECT what, kept, to_jsonb(kept) FROM kept").fetchall()
        door.heard(canaries[0], rows)


LONG: Final = 300 * 1024


def _longs(canaries: Sequence[Canary], size: int) -> list[tuple[str, list[Canary]]]:
    """Return texts of `size` with canaries in them, on the borders of pieces among other places."""
    texts = []
    for at in range(0, len(canaries), 12):
        these = list(canaries[at : at + 12])
        text = ""
        for number, canary in enumerate(these):
            border = (number + 1) * size // (len(these) + 1) // 65536 * 65536 + 65536 - 40
            text += "y" * (max(border - len(text), 50) - 1) + f" {canary.text} "
        texts.append((text + "y" * (size - len(text)), these))
    return texts


def _with_longs(door: Door, canaries: Sequence[Canary], size: int, *, binary: bool) -> None:
    with door.psycopg() as client, client.cursor(binary=binary) as cursor:
        for text, these in _longs(canaries, size):
            row = cursor.execute("SELECT %s::text", [text]).fetchone()
            assert row is not None
            for canary in these:
                door.heard(canary, row[0])


@place
def long_values_as_text(door: Door, canaries: Sequence[Canary]) -> None:
    _with_longs(door, canaries, LONG, binary=False)


@place
def long_values_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    _with_longs(door, canaries, LONG, binary=True)


@place
def values_of_more_than_a_megabyte(door: Door, canaries: Sequence[Canary]) -> None:
    _with_longs(door, canaries[::3], 1_200_000, binary=False)


@place
def long_queries(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for size in (LONG, 1_200_000):
            for text, these in _longs(canaries[:: size // LONG], size):
                row = client.execute(f"SELECT {quoted(text)}").fetchone()
                assert row is not None
                for canary in these:
                    if "'" not in canary.secret:
                        door.heard(canary, row[0])


@place
def query_that_is_too_long(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client, suppress(psycopg.Error):
        said = " ".join(canary.text for canary in canaries)
        client.execute(f"SELECT {quoted(said + ' ' + 'z' * (17 << 20) + ' ' + said)}")


@place
def long_rows_of_copy(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        client.execute("CREATE TEMP TABLE mine (id int, what text)")
        for text, these in _longs(canaries, LONG):
            line = text.replace("\\", "\\\\").replace("\n", "\\n")
            with client.cursor().copy("COPY mine FROM STDIN") as copy:
                copy.write(f"1\t{line}\n")
            with client.cursor().copy("COPY mine TO STDOUT") as copy:
                said = b"".join(bytes(piece) for piece in copy)
            for canary in these:
                if "\\" not in canary.secret:
                    door.heard(canary, said)
            client.execute("TRUNCATE mine")


@place
def long_notices_and_errors(door: Door, canaries: Sequence[Canary]) -> None:
    with door.psycopg() as client:
        for text, _ in _longs(canaries, LONG):
            client.execute("SELECT tell('notice', %s)", [text])
            with pytest.raises(psycopg.Error):
                client.execute("SELECT tell('message', %s)", [text])


async def _in_asyncpg(door: Door, canaries: Sequence[Canary]) -> None:
    client = await asyncpg.connect(
        host=door.gateway.host,
        port=door.gateway.port,
        user="agent",
        password=door.token,
        database=door.target,
        ssl=False,
        server_settings={"application_name": f"{door.target} {door.place}"},
    )
    try:
        statement = await client.prepare("SELECT $1::text, $2::text[], $3::bytea, $4::jsonb")
        await client.execute("CREATE TEMP TABLE mine (id int, what text)")
        for canary in canaries:
            document = (
                '{"a": "b"}'
                if "\n" in canary.text or '"' in canary.text
                else f'{{"a": "{canary.text}"}}'
            )
            row = await statement.fetchrow(
                canary.text, [canary.text], canary.text.encode(), document
            )
            door.heard(canary, row[0])
            door.heard(canary, row[1])
            door.heard(canary, row[2] or b"")
            async with client.transaction():
                async for each in client.cursor(
                    "SELECT $1 || ' ' || n FROM generate_series(1, 3) n", canary.text, prefetch=2
                ):
                    door.heard(canary, each[0])
        rows = [(n, canary.text) for n, canary in enumerate(canaries)]
        await client.copy_records_to_table("mine", records=rows)
        said: list[bytes] = []

        async def take(data: bytes) -> None:
            said.append(data)

        await client.copy_from_query(
            "SELECT what FROM mine WHERE id >= $1", 0, output=take, format="binary"
        )
        for canary in canaries:
            door.heard(canary, b"".join(said))
        await client.executemany("INSERT INTO mine VALUES ($1, $2)", rows)
    finally:
        await client.close()


@place
def asyncpg_in_binary(door: Door, canaries: Sequence[Canary]) -> None:
    asyncio.run(_in_asyncpg(door, canaries))


@place
def psql_script(door: Door, canaries: Sequence[Canary]) -> None:
    script = ["CREATE TEMP TABLE mine (id int, what text);"]
    for canary in canaries:
        line = canary.text.replace("\\", "\\\\").replace("\n", "\\n")
        script.append(f"SELECT {quoted(canary.text)};")
        script.append(f"COPY mine FROM STDIN;\n1\t{line}\n\\.")
        script.append(f"SELECT tell('notice', {quoted(canary.text)});")
        script.append(f"SELECT {quoted(canary.text)}::int;")
    script.append(
        "SELECT what FROM mine;\nCOPY mine TO STDOUT;\n\\copy mine TO STDOUT (FORMAT csv)"
    )
    script.append("\\d mine\n\\l\n\\du\n\\df tell")
    said = door.psql("\n".join(script))
    if not door.sees:
        # Where an error is, psql shows by the text that it has sent itself.
        said = "\n".join(line for line in said.splitlines() if not line.startswith("LINE "))
    for canary in canaries:
        if '"' not in canary.secret and "\n" not in canary.secret:
            door.heard(canary, said)
    assert "character varying" in said or "text" in said


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length = struct.unpack_from("!I", data, at + 1)[0]
        yield at, data[at + 5 : at + 1 + length]
        at += 1 + length


# --- a gateway that has seen them all


def kinds_at(name: str, first: int) -> tuple[str, ...]:
    """Return the kinds that a place plants: all, or a third of them, another at the next place."""
    if tries.IS_WHOLE or name == "numbers that are cards":
        return KINDS
    return KINDS[(first + list(PLACES).index(name)) % 3 :: 3]


@dataclass
class Site:
    """What is left of a gateway that has seen all canaries, and what went wrong on the way."""

    planted: dict[tuple[str, str], list[Canary]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    while_running: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)
    sealed: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)
    masking_errors: list[dict[str, Any]] = field(default_factory=list)
    gateway: Gateway | None = None


def look(folder: Path, search: Search) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Return what is found: by target and place, detectors and where."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for where, data in kept(folder):
        for target, at, detector in search.find(data):
            found[target, at].add((detector, where))
    return found


@pytest.fixture(scope="module", params=["postgres18"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Site]:
    server: PostgresPeer = request.getfixturevalue(request.param)
    server.execute(*SETUP, database="orders")
    made = Site()
    first = random.randrange(3)
    folder = tmp_path_factory.mktemp("canaries")
    try:
        with (
            closing(SigningIssuer()) as issuer,
            gateways(folder, authority, lambda: issuer) as make_gateway,
        ):
            gw = made.gateway = make_gateway(
                *(server.target(name) for name in TARGETS),
                tables={"mask": MASKS},
                durability="relaxed",
            )
            token = issuer.token("ana")
            for name, plants in PLACES.items():
                for target in TARGETS:
                    seed = f"{request.param} {target} {name}"
                    canaries = [make(kind, seed) for kind in kinds_at(name, first)]
                    made.planted[target, name] = canaries
                    door = Door(gw, target, token, name)
                    watchdog = threading.Timer(HANGS_S, door.end)
                    watchdog.start()
                    try:
                        plants(door, canaries)
                    except Exception:
                        made.failures[target, name] = traceback.format_exc()
                    finally:
                        watchdog.cancel()
            gw.wait_until_idle()
            search = Search(
                ((target, name, canary.detector), canary)
                for (target, name), canaries in made.planted.items()
                for canary in canaries
            )
            made.while_running = look(gw.directory, search)
            made.masking_errors = [e for e in gw.log_lines() if e["event"] == "masking failed"]
            assert gw.terminate() == 0
            made.sealed = look(gw.directory, search)
            yield made
    finally:
        server.execute(*UNDO, database="orders")


@pytest.mark.full
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("target", TARGETS[1:])
def test_a_canary_is_nowhere_in_what_a_gateway_keeps(site: Site, target: str, name: str) -> None:
    assert site.failures.get((target, name)) is None
    running = site.while_running.get((target, name), set())
    sealed = site.sealed.get((target, name), set())
    assert not (running | sealed), sorted(running | sealed)


# --- every cut


class Driven:
    """A conversation that is masked as it goes, without sockets."""

    def __init__(self, masks: Masks) -> None:
        self.conversation = Conversation(split=split)
        self.masks = PostgresMasks(masks, self.conversation, None)
        self.events: list[Event] = []
        self.ended: list[Command] = []
        self.passed: dict[Side, bytes] = dict.fromkeys(Side, b"")

    def hear(self, side: Side, data: bytes, *, stands_still: bool) -> None:
        """Hear `data`; where it `stands_still` then, what was withheld is kept for now."""
        for step in self.conversation.receive(side, data):
            self.masks.mask(step)
            self.events += step.events
            self.ended += step.ends
            self.passed[step.side] += step.frame
        if stands_still and self.masks.is_withholding:
            self.events += self.masks.flush()

    def end(self) -> None:
        self.events += self.masks.finish()

    @property
    def kept(self) -> bytes:
        """All that is recorded, with the payloads of each side one behind the other."""
        parts = [repr(command).encode() for command in self.ended]
        parts += [
            b"".join(e.payload or b"" for e in self.events if e.side is side) for side in Side
        ]
        parts += [(event.text or "").encode() for event in self.events]
        return b"\n".join(parts)


Said = list[tuple[Side, bytes]]


def _dialogues(canary: Canary) -> dict[str, Said]:
    """Return what is said where a canary is in each kind of message, by a name for it."""
    text = canary.text
    data = text.encode()
    line = data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    in_csv = b'"' + data.replace(b'"', b'""') + b'"'
    row = wire.data_row(b"7", data)
    described = wire.row_description(("a", 23), ("b", 25))
    in_binary = struct.pack("!hi", 2, 4) + b"\0\0\0\7" + struct.pack("!i", len(data)) + data
    copied = b"PGCOPY\n\xff\r\n\0" + bytes(8) + in_binary + b"\xff\xff"
    client, target = Side.CLIENT, Side.TARGET
    described_binary = wire.row_description(("a", 23, 1), ("b", 25, 1))

    def copies(content: bytes, sql: str) -> Said:
        # Cut across rows and values, as a client may.
        pieces = b"".join(
            wire.copy_data(content[at : at + 11]) for at in range(0, len(content), 11)
        )
        return [
            (client, wire.query(sql)),
            (target, wire.COPY_IN),
            (client, pieces + wire.COPY_DONE),
            (target, wire.command_complete("COPY 1") + wire.ready()),
        ]

    return {
        "query": [
            (client, wire.query(f"SELECT 7, {quoted(text)}")),
            (target, described + row + wire.command_complete("SELECT 1") + wire.ready()),
        ],
        "parameters": [
            (client, wire.parse("s", "SELECT $1, $2", 23, 25) + wire.describe_statement("s")),
            (
                client,
                wire.bind("", "s", [b"\0\0\0\7", data], [1, 1], [1]) + wire.execute() + wire.SYNC,
            ),
            (target, wire.PARSE_COMPLETE + wire.parameter_description(23, 25) + described),
            (target, wire.BIND_COMPLETE + wire.data_row(b"\0\0\0\7", data)),
            (target, wire.command_complete("SELECT 1") + wire.ready()),
        ],
        "run": [
            (client, wire.run("SELECT 7, $1", [data])),
            (target, wire.PARSE_COMPLETE + wire.BIND_COMPLETE + described_binary),
            (target, wire.data_row(b"\0\0\0\7", data) + wire.command_complete("SELECT 1")),
            (target, wire.ready()),
        ],
        "reports": [
            (client, wire.query("SELECT tell()")),
            (target, wire.notice(text) + wire.notification("heard", text)),
            (target, wire.parameter_status("application_name", text)),
            (target, wire.error("22P02", text) + wire.ready()),
        ],
        "COPY in": copies(b"7\t" + line + b"\n8\tx\n", "COPY t FROM STDIN"),
        "COPY in as CSV": copies(b"7," + in_csv + b"\n8,x\n", "COPY t FROM STDIN CSV"),
        "COPY in as binary": copies(copied, "COPY t FROM STDIN BINARY"),
        "COPY out": [
            (client, wire.query("COPY t TO STDOUT")),
            (
                target,
                wire.COPY_OUT + wire.copy_data(b"7\t" + line + b"\n") + wire.copy_data(b"8\tx\n"),
            ),
            (target, wire.COPY_DONE + wire.command_complete("COPY 2") + wire.ready()),
        ],
        "COPY out as binary": [
            (client, wire.query("COPY t TO STDOUT BINARY")),
            (
                target,
                wire.COPY_OUT_BINARY + wire.copy_data(copied[:-2]) + wire.copy_data(copied[-2:]),
            ),
            (target, wire.COPY_DONE + wire.command_complete("COPY 1") + wire.ready()),
        ],
        "COPY that fails": [
            (client, wire.query("COPY t FROM STDIN")),
            (target, wire.COPY_IN),
            (client, wire.copy_data(b"7\t" + line) + wire.copy_fail(text)),
            (target, wire.error("57014", f"COPY from stdin failed: {text}") + wire.ready()),
        ],
    }


@cache
def _masks() -> Masks:
    return Masks([{"name": "secrets", "detect": ["all"], "action": "redact", "apply": ["archive"]}])


def _is_hidden(canary: Canary, said: Said, cut: int, *, stands_still: bool, size: int = 0) -> None:
    """Assert it of a dialogue that is cut at byte `cut`, or into pieces of `size`."""
    driven = Driven(_masks())
    at = 0
    for side, data in said:
        here = cut - at
        pieces = [data[:here], data[here:]] if 0 < here < len(data) else [data]
        if size:
            pieces = [data[n : n + size] for n in range(0, len(data), size)]
        for piece in pieces:
            driven.hear(side, piece, stands_still=stands_still)
        at += len(data)
    driven.end()
    kept_bytes = driven.kept
    where = f"{canary.detector}, cut at {cut}, pieces of {size}"
    assert not [trace for trace in canary.traces if trace in kept_bytes], where
    for side in Side:
        sent = b"".join(data for each, data in said if each is side)
        assert driven.passed[side] == sent, where
    again = Conversation(split=split)
    for event in driven.events:
        # What is masked is protocol still.
        if event.side is not None and event.payload:
            again.receive(event.side, event.payload)
            assert again.broken is None, where


CUT: Final = ("aws_key", "private_key", "jwt", "card", "password_literal", "email", "pl_pesel")
"""Kinds whose dialogues are cut everywhere: the others differ from these in their pattern alone."""
NAMES: Final = tuple(_dialogues(make("aws_key", "names")))


@pytest.mark.parametrize("name", NAMES)
def test_a_canary_is_hidden_whatever_the_size_of_a_read(name: str) -> None:
    for kind in KINDS:
        canary = make(kind, f"reads {name}")
        said = _dialogues(canary)[name]
        for size in (1, 2, 13, 1 << 20):
            _is_hidden(canary, said, 0, stands_still=False, size=size)


@pytest.mark.full
@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stands_still", [False, True])
def test_a_canary_is_hidden_wherever_a_read_ends(
    kind: str, name: str, *, stands_still: bool
) -> None:
    canary = make(kind, f"cuts {name}")
    said = _dialogues(canary)[name]
    for cut in tries.steps(1, sum(len(data) for _, data in said), share=4):
        _is_hidden(canary, said, cut, stands_still=stands_still)


# --- the canaries themselves


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda each: each.name)
def test_a_canary_is_what_its_detector_finds(detector: Any) -> None:
    for number in range(50):
        canary = make(detector.name, str(number))
        start = len(canary.before.encode())
        assert (start, start + len(canary.secret.encode())) in detector.find(canary.text.encode())


def test_no_two_canaries_are_the_same() -> None:
    planted = [make(kind, f"{t} {name}") for kind in KINDS for t in TARGETS for name in PLACES]
    assert len({canary.secret for canary in planted}) == len(planted) > 10_000


# --- what is left is worth something


def _unplantable(name: str) -> bool:
    """Say whether a place keeps nothing of what it was told, masked or not."""
    return name.startswith(("start up", "message cut off", "call of a function", "copy cut off"))


@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in PLACES if not _unplantable(n)])
def test_where_no_rule_is_about_a_target_the_search_finds_them(site: Site, name: str) -> None:
    assert site.failures.get((BARE, name)) is None
    found = {detector for detector, _ in site.sealed[BARE, name]}
    assert len(found) >= (1 if name == "numbers that are cards" else tries.of(9, share=4))


@pytest.mark.full
def test_no_session_ended_because_masking_failed(site: Site) -> None:
    assert site.masking_errors == []


@pytest.mark.full
def test_results_that_were_masked_can_be_read(site: Site) -> None:
    """Each session's recorded bytes go through the protocol's own code again, to rows of Arrow."""
    assert site.gateway is not None
    case = aa.load(site.gateway.archive)
    recorded = read(site.gateway.archive)
    seen = 0
    for session in recorded.sessions:
        if session["target"] == BARE or not session["client_app"].startswith(TARGETS):
            continue
        again = Conversation(split=split)
        for event in sorted(recorded.of(session), key=lambda each: each["event_no"]):
            if event["kind"] in ("request", "response", "content") and event["payload"]:
                side = Side.CLIENT if event["side"] == "client" else Side.TARGET
                again.receive(side, recorded.payload(event))
                assert again.broken is None, session["client_app"]
        for _, table in case.session(session["session_id"]).results(10):
            seen += table.num_rows
    assert seen > tries.of(1000, share=400)
