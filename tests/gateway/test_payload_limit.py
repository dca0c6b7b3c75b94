"""Of what a target answers beyond `payload_limit` the beginning is kept, and the hash of all of it.

The server's bytes are read off the wire between gateway and server, so that neither length nor hash
is our own word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import agentaudit as aa
from agentaudit.archive.verify import verify
from agentaudit.model import Flag
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.recorded import Recorded, Row, read
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import Pump, PumpFactory

LIMIT = 4096
BIG = "SELECT i, repeat('x', 100) FROM generate_series(1, 2000) AS i"


@dataclass
class Site:
    """A gateway before a real server, with a pump in between."""

    gateway: Hosted
    pump: Pump
    token: str

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.gateway.dsn("orders", self.token), autocommit=True)

    def sealed(self) -> Recorded:
        self.gateway.close()
        return read(self.gateway.archive)

    def session(self) -> aa.Session:
        """Return the recorded session of the only client there was."""
        case = aa.load(self.gateway.archive)
        (row,) = case.sessions(target="orders").fetchall()
        return case.session(row[0])

    def answers(self, recorded: Recorded) -> dict[int, bytes]:
        """Return what the server said to each command, cut out of the wire's bytes by lengths."""
        (wire,) = self.pump.wires
        row = recorded.session(target="orders")
        events = [
            event
            for event in recorded.of(row)
            if event["side"] == "target" and event["kind"] == "response"
        ]
        # What is not ours to see is the login, before all of these.
        at = len(wire.down) - sum(event["orig_len"] for event in events)
        found: dict[int, bytes] = {}
        for event in events:
            part = bytes(wire.down[at : at + event["orig_len"]])
            found[event["command_no"]] = found.get(event["command_no"], b"") + part
            at += event["orig_len"]
        return found


@pytest.fixture
def site(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, pump: PumpFactory
) -> Iterator[Site]:
    between = pump(postgres18.host, postgres18.port)
    target = postgres18.target(payload_limit=LIMIT, address=f"{between.host}:{between.port}")
    with hosted(tmp_path, target, issuer=signing_issuer) as gateway:
        yield Site(gateway, between, signing_issuer.token())


def assert_cut(recorded: Recorded, row: Row, command: Row, answer: bytes) -> None:
    """Hold what is recorded of a command against what the server really said."""
    events = [
        event
        for event in recorded.of(row)
        if event["command_no"] == command["command_no"] and event["kind"] == "response"
    ]
    stored = b"".join(recorded.payload(event) for event in events)
    assert stored == answer[:LIMIT]
    assert sum(event["orig_len"] for event in events) == len(answer) == command["bytes_out"]
    seen = 0
    for event in events:
        seen += event["orig_len"]
        assert bool(event["flags"] & Flag.TRUNCATED) == (seen > LIMIT)
        if seen - event["orig_len"] >= LIMIT:
            assert event["payload"] is None
    (end,) = (
        event
        for event in recorded.of(row)
        if event["command_no"] == command["command_no"] and event["kind"] == "command_end"
    )
    assert bool(end["flags"] & Flag.TRUNCATED) == (len(answer) > LIMIT)
    hashes = [value for value in command["sha256"] if value.startswith("response:")]
    expected = [f"response:{hashlib.sha256(answer).hexdigest()}"] if len(answer) > LIMIT else []
    assert hashes == expected


def test_the_beginning_of_each_long_answer_is_kept_with_length_and_hash_of_all(site: Site) -> None:
    with site.connect() as connection:
        expected = connection.execute(BIG).fetchall()
        # Beyond the 256 KiB of one event, in one row; and many events of many rows.
        assert len(connection.execute("SELECT repeat('y', 700000)").fetchall()[0][0]) == 700_000
        assert len(connection.execute("SELECT g FROM generate_series(1, 90000) g").fetchall())
        with connection.cursor() as cursor, cursor.copy(f"COPY ({BIG}) TO STDOUT") as copy:
            copied = b"".join(copy)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(
                "SELECT repeat('z', 50), 1 / (900 - i) FROM generate_series(1, 999) i"
            )
        assert connection.execute("SELECT 42").fetchall() == [(42,)]
    recorded = site.sealed()
    row = recorded.session(target="orders")
    commands = recorded.commands_of(row)
    answers = site.answers(recorded)
    for command in commands:
        assert_cut(recorded, row, command, answers[command["command_no"]])
    assert len(answers[3]) > len(copied) > LIMIT
    assert [len(answers[n]) > LIMIT for n in range(6)] == [True, True, True, True, True, False]

    session = site.session()
    kept = session.result(0)
    assert 0 < kept.num_rows < 40
    assert [tuple(row.values()) for row in kept.to_pylist()] == expected[: kept.num_rows]
    assert session.command(0)["rows_returned"] == 2000
    assert session.result(1).num_rows == 0
    assert session.command(4)["error_code"] == "22012"
    assert session.result(5).to_pylist() == [{"?column?": 42}]
    key = (site.gateway.archive.parent / "keys" / "gw1.vkey").read_text()
    assert verify(site.gateway.archive, key=key, deep=True, remember=False).ok


def test_what_follows_a_cut_answer_is_read_as_it_was(site: Site) -> None:
    """Prepared, binary, pipelined, several statements in one query, a failure inside."""
    with site.connect() as connection:
        for number in range(3):
            rows = connection.execute(
                "SELECT i, i * %s FROM generate_series(1, 1500) AS i",
                [number],
                binary=True,
                prepare=True,
            ).fetchall()
            assert len(rows) == 1500
        with connection.pipeline(), connection.cursor() as one, connection.cursor() as other:
            one.execute(BIG)
            other.execute("SELECT 'after ' || %s", ["it"])
            assert len(one.fetchall()) == 2000
            assert other.fetchall() == [("after it",)]
        raw = connection.pgconn.exec_(f"{BIG}; SELECT 'second' AS s; {BIG}; SELECT 7 AS n".encode())
        assert raw.get_value(0, 0) == b"7"
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(
                "SELECT repeat('z', 50), 1 / (900 - i) FROM generate_series(1, 999) i",
                prepare=True,
            )
        connection.execute("ROLLBACK")
        assert connection.execute("SELECT 'the end'", prepare=True).fetchall() == [("the end",)]
    recorded = site.sealed()
    row = recorded.session(target="orders")
    answers = site.answers(recorded)
    for command in recorded.commands_of(row):
        assert_cut(recorded, row, command, answers[command["command_no"]])

    session = site.session()
    texts = {command["command_no"]: command["text"] for command in recorded.commands_of(row)}
    shown = {number: table.to_pylist() for number, table in session.results(limit=3)}
    by_text = {texts[number].strip(): rows for number, rows in shown.items()}
    assert by_text["SELECT 'after ' || $1"][0].popitem()[1] == "after it"
    assert by_text["SELECT 'second' AS s"] == [{"s": "second"}]
    assert by_text["SELECT 7 AS n"] == [{"n": 7}]
    assert by_text["SELECT 'the end'"] == [{"?column?": "the end"}]
    for number, text in texts.items():
        if "generate_series(1, 1500)" in text:
            table = session.result(number)
            assert 0 < table.num_rows < 1500
            assert table.column(0).to_pylist() == list(range(1, table.num_rows + 1))


def test_a_cut_answer_is_shown_as_such_wherever_it_is_read(site: Site) -> None:
    from agentaudit.widgets import Replay
    from agentaudit.widgets.still import still

    with site.connect() as connection:
        connection.execute(BIG).fetchall()
        connection.execute("SELECT 1").fetchall()
    recorded = site.sealed()
    answer = site.answers(recorded)[0]
    said = (
        f"first 4,096 of {len(answer):,} bytes kept, the rest was not; "
        f"SHA-256 of all {hashlib.sha256(answer).hexdigest()}"
    )
    session = site.session()
    assert {number: cut.words() for number, cut in session.cuts().items()} == {0: said}
    assert said in session.told_command(0)
    assert session.transcript().count("bytes kept") == 1
    assert said in still(session)
    case = aa.load(site.gateway.archive)
    replay = Replay(case, session)
    assert replay._questions.ask("command", {"command_no": 0})[0]["cut"] == said
    assert replay._questions.ask("command", {"command_no": 1})[0]["cut"] is None


def test_a_result_that_still_runs_is_shown_as_far_as_it_was_kept(site: Site) -> None:
    connection = site.connect()
    endless = f"COPY ({BIG.replace('2000', '400000')}) TO STDOUT"
    with connection.cursor() as cursor, cursor.copy(endless) as copy:
        for _ in range(200):
            copy.read()
        (cut,) = site.session().cuts().values()
        assert cut.kept == LIMIT
        assert cut.sha256 is None
        assert "still running" in site.session().transcript()
        for _ in copy:
            pass
    connection.close()
