"""Masks where people and other sessions come in: approvals, pseudonyms, settings refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import PeerError, until
from agentaudit.gateway.state import State, Vote
from agentaudit.model import Actor
from tests.gateway.recorded import Recorded, read
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory, gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SSN, OTHER = "123-45-6789", "987-65-4321"
DBA = Actor(user="dora", subject="dora", issuer="https://people.test", groups=("dba",))
HOLD = {
    "name": "all writes",
    "when": {"class": ["write"], "target": ["orders"]},
    "action": "hold",
    "approvers": ["dba"],
}
KEY = "0123456789abcdef" * 2


@pytest.fixture
def people(postgres18: PostgresPeer) -> Iterator[PostgresPeer]:
    postgres18.execute(
        "CREATE TABLE people (id int, ssn text)",
        f"INSERT INTO people VALUES (1, '{SSN}'), (2, '{SSN}'), (3, '{OTHER}')",
        "CREATE TABLE visits AS SELECT ssn AS visitor, 1 AS n FROM people",
        "GRANT ALL ON people, visits TO scram",
        database="orders",
    )
    try:
        yield postgres18
    finally:
        postgres18.execute("DROP TABLE people, visits", database="orders")


def values(recorded: Recorded, text: str) -> list[str]:
    """Return the values of a result's first column, as they are recorded."""
    (command,) = [c for c in recorded.commands if c["text"] == text]
    payload = b"".join(
        recorded.payload(event)
        for event in recorded.events
        if event["session_id"] == command["session_id"]
        and event["command_no"] == command["command_no"]
        and event["kind"] == "response"
    )
    found = []
    at = 0
    while at < len(payload):
        length = int.from_bytes(payload[at + 1 : at + 5])
        if payload[at : at + 1] == b"D":
            size = int.from_bytes(payload[at + 7 : at + 11])
            found.append(payload[at + 11 : at + 11 + size].decode())
        at += 1 + length
    return found


def test_who_approves_sees_what_is_recorded_and_what_runs_is_what_was_sent(
    people: PostgresPeer, tmp_path: Path, authority: Authority
) -> None:
    mask = {"name": "ids", "columns": ["*.people.ssn"]}
    with (
        closing(SigningIssuer()) as issuer,
        gateways(tmp_path, authority, lambda: issuer) as make,
    ):
        gw = make(people.target(), tables={"mask": [mask], "rule": [HOLD]})
        state = State.open("sqlite:///state.db", base=gw.directory)

        def run() -> None:
            with psycopg.connect(gw.dsn("orders", issuer.token("ana")), autocommit=True) as client:
                client.execute(
                    "UPDATE people SET ssn = %s WHERE ssn = '987-65-4321'", ["555-44-3333"]
                )

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: bool(state.requests(state="pending")), "a request that waits")
        (request,) = state.requests(state="pending")
        (statement,) = request.shown["statements"]
        assert statement["text"] == "UPDATE people SET ssn = $1 WHERE ssn = '[masked:ids]'"
        assert statement["params"] == ["[masked:ids]"]
        vote = Vote(
            approver=DBA, verdict="approve", reason="so be it", at_us=time.time_ns() // 1000
        )
        state.vote(request.id, vote, digest=request.digest, now_us=time.time_ns() // 1000)
        thread.join()
        state.close()
        with people.connect(dbname="orders") as client:
            found = client.execute("SELECT ssn FROM people WHERE id = 3").fetchall()
        assert found == [("555-44-3333",)]
        assert gw.terminate() == 0
        for path in gw.directory.rglob("*"):
            if path.is_file() and path.suffix != ".parquet":
                content = path.read_bytes()
                assert b"555-44-3333" not in content, path
                assert OTHER.encode() not in content, path


def test_a_table_is_hidden_while_a_change_of_it_waits_and_comes_back_once_it_has_run(
    people: PostgresPeer, tmp_path: Path, authority: Authority
) -> None:
    people.execute("ALTER TABLE people OWNER TO scram", database="orders")
    mask = {"name": "ids", "columns": ["*.people.ssn"], "apply": ["archive", "client"]}
    rule = HOLD | {"when": {"class": ["schema"]}}
    with (
        closing(SigningIssuer()) as issuer,
        gateways(tmp_path, authority, lambda: issuer) as make,
    ):
        gw = make(people.target(), tables={"mask": [mask], "rule": [rule]})
        state = State.open("sqlite:///state.db", base=gw.directory)

        def seen(text: str) -> set[Any]:
            """Return what a session sees that opens, asks and leaves again."""
            with psycopg.connect(gw.dsn("orders", issuer.token("ben"))) as client:
                return {row[0] for row in client.execute(text.encode())}

        is_over = threading.Event()

        def alter() -> None:
            with psycopg.connect(gw.dsn("orders", issuer.token("ana")), autocommit=True) as client:
                client.execute("ALTER TABLE people ADD COLUMN region text")
                is_over.wait(60)

        assert seen("SELECT id FROM people") == {1, 2, 3}
        thread = threading.Thread(target=alter)
        thread.start()
        until(lambda: bool(state.requests(state="pending")), "a request that waits")
        assert seen("SELECT id FROM people").isdisjoint({1, 2, 3})
        # The tables are read while it waits: what is new there is known by then.
        people.execute(
            "CREATE TABLE later AS SELECT 7 AS n",
            "GRANT ALL ON later TO scram",
            database="orders",
        )
        until(lambda: seen("SELECT n FROM later") == {7}, "the tables are read again")
        assert seen("SELECT id FROM people").isdisjoint({1, 2, 3})

        (request,) = state.requests(state="pending")
        now_us = time.time_ns() // 1000
        vote = Vote(approver=DBA, verdict="approve", reason="so be it", at_us=now_us)
        state.vote(request.id, vote, digest=request.digest, now_us=now_us)
        until(lambda: seen("SELECT id FROM people") == {1, 2, 3}, "it is known again", 30)
        assert seen("SELECT region FROM people") == {None}
        assert seen("SELECT ssn FROM people") == {"[masked:ids]"}
        is_over.set()
        thread.join()
        state.close()
        people.execute("DROP TABLE later", database="orders")
        assert gw.terminate() == 0


def test_a_pseudonym_joins_across_sessions_and_tables_and_keys_keep_apart(
    people: PostgresPeer, tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "one").write_text(KEY)
    (tmp_path / "two").write_text(KEY[::-1])
    masks = [
        {
            "name": name,
            "target": [target],
            "columns": ["*.people.ssn", "*.visits.visitor"],
            "action": "pseudonym",
            "key_file": str(tmp_path / name),
        }
        for name, target in (("one", "orders"), ("two", "again"))
    ]
    with (
        closing(SigningIssuer()) as issuer,
        gateways(tmp_path, authority, lambda: issuer) as make,
    ):
        gw = make(people.target(), people.target("again"), tables={"mask": masks})
        for target, text in (
            ("orders", "SELECT ssn FROM people"),
            ("orders", "SELECT visitor FROM visits"),
            ("again", "SELECT ssn AS other FROM people"),
        ):
            with psycopg.connect(gw.dsn(target, issuer.token("ana"))) as client:
                assert SSN in {row[0] for row in client.execute(text.encode())}
        assert gw.terminate() == 0
        recorded = read(gw.archive)
    ssns = values(recorded, "SELECT ssn FROM people")
    visitors = values(recorded, "SELECT visitor FROM visits")
    others = values(recorded, "SELECT ssn AS other FROM people")
    # GROUP BY over pseudonyms counts as over the values: two of one, one of the other.
    assert sorted(Counter(ssns).values()) == [1, 2]
    assert Counter(ssns) == Counter(visitors)
    assert not set(ssns) & set(others)
    assert len({each[:7] for each in ssns}) == 1
    assert {each[:7] for each in ssns}.isdisjoint(each[:7] for each in others)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"detect": ["aws_kee"]}, 'mask "bad": '),
        ({"pattern": "("}, "no pattern of RE2"),
        ({"json_path": "token"}, "JSON path"),
        ({"columns": ["ssn*"]}, '"*" stands for a whole part of a name'),
        ({"columns": ["ssn"], "action": "pseudonym", "key_file": "nowhere"}, "key_file"),
    ],
)
def test_a_mask_that_will_not_do_is_never_skipped(
    gateway: GatewayFactory, postgres18: PostgresPeer, mask: dict[str, Any], said: str
) -> None:
    with pytest.raises(PeerError) as refused:
        gateway(postgres18.target(), tables={"mask": [{"name": "bad"} | mask]})
    assert said in str(refused.value)


def test_where_the_tables_cannot_be_read_everything_of_a_table_is_hidden(
    people: PostgresPeer, tmp_path: Path, authority: Authority
) -> None:
    mask = {"name": "ids", "columns": ["*.people.ssn"]}
    broken = people.target(**people.inspector()) | {"inspect_password": "wrong"}
    with (
        closing(SigningIssuer()) as issuer,
        gateways(tmp_path, authority, lambda: issuer) as make,
    ):
        gw: Gateway = make(broken, tables={"mask": [mask]})
        with psycopg.connect(gw.dsn("orders", issuer.token("ana"))) as client:
            assert client.execute("SELECT n::text FROM visits").fetchall() == [("1",)] * 3
        assert gw.terminate() == 0
        assert values(read(gw.archive), "SELECT n::text FROM visits") == ["[masked:ids]"] * 3
        assert "cannot be read" in gw.log_text()
