"""Statements that wait: nothing of them reaches the server before people have decided.

Decisions are put into the gateway's state directly; `test_control` makes them by the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import psycopg
import pytest

from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until, without_libpq_variables
from agentaudit.errors import AlreadyVoted
from agentaudit.gateway.state import Request, State, Vote
from agentaudit.model import Actor
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.raw import Raw, error_fields
from tests.gateway.recorded import Row, read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

DELETES = {
    "name": "deletes need a DBA",
    "when": {"operation": ["DELETE"]},
    "action": "hold",
    "approvers": ["dba"],
}
DBA = Actor(user="dora", subject="dora", issuer="https://people.test", groups=("dba",))
OTHER_DBA = Actor(user="emil", subject="emil", issuer="https://people.test", groups=("dba",))


class Reviewers:
    """Those who look at what waits, and decide."""

    def __init__(self, gw: Gateway) -> None:
        self.state = State.open("sqlite:///state.db", base=gw.directory)

    def wait_for(self, count: int = 1) -> list[Request]:
        """Return what waits, oldest first, once there are so many."""
        until(lambda: len(self.state.requests(state="pending")) >= count, "a request that waits")
        return self.state.requests(state="pending")[::-1]

    def decide(
        self, request: Request, verdict: Any = "approve", by: Actor = DBA, reason: str = "checked"
    ) -> Request:
        now_us = time.time_ns() // 1000
        vote = Vote(approver=by, verdict=verdict, reason=reason, at_us=now_us)
        return self.state.vote(request.id, vote, digest=request.digest, now_us=now_us)

    def approve_next(self) -> None:
        self.decide(self.wait_for()[0])

    def deny_next(self) -> None:
        self.decide(self.wait_for()[0], "deny", reason="not on a Friday")


Held = Callable[..., tuple[Gateway, Reviewers]]


@pytest.fixture
def held(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[Held]:
    """Start gateways that hold what the rules say, and those who decide."""
    postgres18.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        database="orders",
    )
    opened: list[Reviewers] = []

    def start(*rules: Mapping[str, Any], **keys: Any) -> tuple[Gateway, Reviewers]:
        tables = {"rule": list(rules or (DELETES,))}
        gw = gateway(postgres18.target(), issuer=signing_issuer, tables=tables, **keys)
        opened.append(Reviewers(gw))
        return gw, opened[-1]

    yield start
    for each in opened:
        each.state.close()


def query(sql: str) -> bytes:
    return wire.frame(b"Q", sql.encode() + b"\0")


def left(server: PostgresPeer) -> int:
    with server.connect() as direct:
        (count,) = direct.execute("SELECT count(*) FROM victim").fetchone() or (None,)
    return int(count)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Let `act` happen on another thread during the block, and fail if it failed."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def recorded(gw: Gateway) -> tuple[list[Row], list[Row]]:
    """Return commands and decisions of a gateway that is idle, and stop it."""
    gw.wait_until_idle()
    gw.terminate()
    seen = read(gw.archive)
    rows = [row for session in seen.sessions for row in seen.commands_of(session)]
    return rows, seen.decisions


def psql(gw: Gateway, token: str, script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [embedded_postgres() / "psql", "-X", "-q", "-t", gw.dsn("orders", token)],
        input=script.encode(),
        env=without_libpq_variables(),
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_psql_waits_and_goes_on_when_somebody_has_approved(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    shown: list[Request] = []

    def review() -> None:
        (request,) = reviewers.wait_for()
        assert left(postgres18) == 5
        shown.append(request)
        reviewers.decide(request)

    script = "\\set VERBOSITY verbose\nBEGIN;\nDELETE FROM victim WHERE n > 1;\nCOMMIT;\n"
    with meanwhile(review):
        done = psql(gw, signing_issuer.token("ana"), script)

    said = done.stderr.decode()
    assert 'NOTICE:  00000: agentaudit: waits for a decision, by rule "deletes need a DBA"' in said
    assert f"agentaudit approve {shown[0].id}" in said
    assert "ERROR" not in said
    assert left(postgres18) == 1
    (statement,) = shown[0].shown["statements"]
    assert statement["text"] == "DELETE FROM victim WHERE n > 1;"
    assert (statement["operation"], statement["class"]) == ("DELETE", "write")
    assert statement["resources"] == ["victim"]
    assert shown[0].shown["transaction"]["status"] == "T"
    assert [one["text"] for one in shown[0].shown["transaction"]["before"]] == ["BEGIN;"]
    assert shown[0].shown["user"] == "ana"
    assert shown[0].requester.subject == "ana"
    rows, decisions = recorded(gw)
    (row,) = [row for row in rows if row["operation"] == "DELETE"]
    assert (row["decision"], row["rule"], row["status"]) == ("hold", "deletes need a DBA", "ok")
    assert row["request_id"] == shown[0].id
    (decision,) = decisions
    assert decision["state"] == "approved"
    assert decision["request_id"] == shown[0].id
    assert decision["command_no"] == row["command_no"]
    assert (decision["requester"], decision["target"]) == ("ana", "orders")
    assert (decision["approvers"], decision["reasons"]) == (["dora"], ["checked"])
    assert decision["requested_at"] <= decision["decided_at"]


def test_denied_it_fails_with_rule_id_and_hint_and_the_transaction_with_it(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    script = """
        \\set VERBOSITY verbose
        BEGIN;
        DELETE FROM victim;
        SELECT 1;
        ROLLBACK;
        SELECT 'still here';
    """
    with meanwhile(reviewers.deny_next):
        done = psql(gw, signing_issuer.token(), script)

    said = done.stderr.decode()
    (request,) = reviewers.state.requests()
    assert 'ERROR:  42501: agentaudit: denied by rule "deletes need a DBA"' in said
    assert f"request {request.id}" in said
    assert "reason: not on a Friday" in said
    assert "HINT:  " in said
    assert "25P02" in said
    assert "still here" in done.stdout.decode()
    assert left(postgres18) == 5
    rows, decisions = recorded(gw)
    (row,) = [row for row in rows if row["operation"] == "DELETE"]
    assert (row["decision"], row["status"], row["error_code"]) == ("hold", "denied", "42501")
    assert [(one["state"], one["reasons"]) for one in decisions] == [
        ("denied", ["not on a Friday"])
    ]


def test_of_several_statements_in_one_query_none_runs_before_the_decision(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    query = "CREATE TABLE IF NOT EXISTS made (n int); DELETE FROM victim WHERE n = 1; SELECT 7"

    def review() -> None:
        (request,) = reviewers.wait_for()
        with postgres18.connect() as direct:
            assert direct.execute("SELECT to_regclass('made')").fetchone() == (None,)
        assert [one["text"] for one in request.shown["statements"]] == [
            one.strip() for one in query.split(";")
        ]
        reviewers.decide(request)

    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        with meanwhile(review):
            cursor = client.execute(query)
        while cursor.nextset():
            pass
        assert cursor.fetchone() == (7,)
    postgres18.execute("DROP TABLE made", database="orders")
    assert left(postgres18) == 4


def test_a_pipeline_waits_behind_it_and_what_was_before_it_is_answered(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        with meanwhile(reviewers.approve_next), client.pipeline():
            before = client.execute("SELECT 1 WHERE 1 = %s", [1])
            gone = client.execute("DELETE FROM victim WHERE n <= %s", [2])
            after = client.execute("SELECT count(*) FROM victim")
        assert before.fetchone() == (1,)
        assert gone.rowcount == 2
        assert after.fetchone() == (3,)
        denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="deletes need a DBA")
        with meanwhile(reviewers.deny_next), denied, client.pipeline():
            client.execute("SELECT 1")
            client.execute("DELETE FROM victim WHERE n <= %s", [4])
            client.execute("DELETE FROM victim")
        assert client.execute("SELECT count(*) FROM victim").fetchone() == (3,)
    rows, decisions = recorded(gw)
    assert [one["state"] for one in decisions] == ["approved", "denied"]
    deletes = [row for row in rows if row["operation"] == "DELETE"]
    assert [(row["params"], row["status"]) for row in deletes] == [
        (["2"], "ok"),
        (["4"], "denied"),
        ([], "incomplete"),
    ]


async def test_asyncpg_waits_and_other_connections_go_on(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    keys = {"host": gw.host, "port": gw.port, "database": "orders", "user": "a"}
    client = await asyncpg.connect(**keys, password=signing_issuer.token("ana"))
    other = await asyncpg.connect(**keys, password=signing_issuer.token("ben"))
    try:
        waits = asyncio.ensure_future(client.execute("DELETE FROM victim WHERE n = $1", 3))  # noqa: TID251
        (request,) = await asyncio.to_thread(reviewers.wait_for)
        assert await other.fetchval("SELECT count(*) FROM victim") == 5
        assert not waits.done()
        assert request.shown["statements"][0]["params"] == ["\\x00000003"] or request.shown[
            "statements"
        ][0]["params"] == ["3"]
        await asyncio.to_thread(reviewers.decide, request)
        assert await waits == "DELETE 1"
        transaction = client.transaction()
        await transaction.start()
        denies = asyncio.to_thread(reviewers.deny_next)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncio.gather(client.execute("DELETE FROM victim"), denies)
        await transaction.rollback()
        assert await client.fetchval("SELECT count(*) FROM victim") == 4
    finally:
        await client.close()
        await other.close()


def test_killing_the_client_cancels_the_request(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    client = subprocess.Popen(
        [embedded_postgres() / "psql", "-X", "-c", "DELETE FROM victim"]
        + [gw.dsn("orders", signing_issuer.token())],
        env=without_libpq_variables(),
        stderr=subprocess.PIPE,
    )
    (request,) = reviewers.wait_for()
    client.send_signal(signal.SIGKILL)
    client.communicate()
    until(lambda: not reviewers.state.requests(state="pending"), "the request is cancelled")

    assert left(postgres18) == 5
    rows, decisions = recorded(gw)
    (row,) = rows
    assert (row["decision"], row["status"]) == ("hold", "cancelled")
    assert [(one["state"], one["request_id"]) for one in decisions] == [("cancelled", request.id)]
    assert reviewers.state.request(request.id).state == "cancelled"  # type: ignore[union-attr]


def test_a_client_that_hangs_up_with_much_pipelined_is_noticed(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with Raw(gw) as client:
        client.log_in(signing_issuer.token()).say(query("DELETE FROM victim"))
        reviewers.wait_for()
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.socket.send(query("SELECT 1") * 10_000)
    until(lambda: not reviewers.state.requests(state="pending"), "the request is cancelled")
    assert left(postgres18) == 5


def test_a_cancel_request_is_answered_as_a_server_would(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as client:
        client.execute("SELECT 1")

        def cancel() -> None:
            reviewers.wait_for()
            client.cancel_safe()

        with meanwhile(cancel), pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("DELETE FROM victim")
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        client.rollback()
        assert client.execute("SELECT count(*) FROM victim").fetchone() == (5,)
    rows, decisions = recorded(gw)
    (row,) = [row for row in rows if row["operation"] == "DELETE"]
    assert (row["status"], row["error_code"]) == ("cancelled", "57014")
    assert [one["state"] for one in decisions] == ["cancelled"]


def test_a_cancel_request_reaches_what_the_server_is_busy_with(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:

        def cancel() -> None:
            with postgres18.connect() as direct:
                sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                until(lambda: direct.execute(sleeping).fetchone() is not None, "it sleeps")
            client.cancel_safe()

        cancelled = pytest.raises(psycopg.errors.QueryCanceled)
        with meanwhile(cancel), cancelled, client.pipeline():
            client.execute("SELECT pg_sleep(50)")
            client.execute("DELETE FROM victim")
    # Nobody is asked before it is known what the statement would run in, and now it never runs.
    assert not reviewers.state.requests()
    assert left(postgres18) == 5
    rows, decisions = recorded(gw)
    assert not decisions
    assert [(row["text"], row["status"]) for row in rows] == [
        ("SELECT pg_sleep(50)", "cancelled"),
        ("DELETE FROM victim", "incomplete"),
    ]


def test_nobody_decides_in_time_and_it_is_denied(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(DELETES | {"timeout": "1s"})
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody decided within 1 s"):
            client.execute("DELETE FROM victim")
        assert client.execute("SELECT 1").fetchone() == (1,)
    (request,) = reviewers.state.requests()
    assert request.state == "expired"
    rows, decisions = recorded(gw)
    assert [row["status"] for row in rows if row["operation"] == "DELETE"] == ["denied"]
    assert [one["state"] for one in decisions] == ["expired"]


def test_what_nobody_can_decide_is_denied_at_once(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(DELETES | {"approvers": []})
    denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody may decide on it")
    dsn = gw.dsn("orders", signing_issuer.token())
    with psycopg.connect(dsn, autocommit=True) as client, denied:
        client.execute("DELETE FROM victim")
    assert not reviewers.state.requests()
    _, decisions = recorded(gw)
    assert [one["state"] for one in decisions] == ["denied"]


def test_two_must_approve_where_the_rule_says_so(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(DELETES | {"approvals": 2})

    def review() -> None:
        (request,) = reviewers.wait_for()
        assert reviewers.decide(request).state == "pending"
        assert left(postgres18) == 5
        assert reviewers.decide(request, by=OTHER_DBA).state == "approved"

    dsn = gw.dsn("orders", signing_issuer.token())
    with psycopg.connect(dsn, autocommit=True) as client, meanwhile(review):
        client.execute("DELETE FROM victim")
    assert left(postgres18) == 0
    _, decisions = recorded(gw)
    assert [one["approvers"] for one in decisions] == [["dora", "emil"]]


def test_each_rule_that_holds_a_query_is_asked_in_its_turn(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    drops = {"name": "drops", "when": {"class": ["schema"]}, "action": "hold", "approvers": ["x"]}
    gw, reviewers = held(DELETES, drops)

    def review() -> None:
        first = reviewers.wait_for()[0]
        assert first.rule == "deletes need a DBA"
        reviewers.decide(first)
        second = reviewers.wait_for()[0]
        assert second.rule == "drops"
        assert left(postgres18) == 5
        reviewers.decide(second, "deny")

    dsn = gw.dsn("orders", signing_issuer.token())
    denied = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with psycopg.connect(dsn, autocommit=True) as client, meanwhile(review), denied:
        client.execute("DELETE FROM victim; DROP TABLE victim")
    assert left(postgres18) == 5


def test_an_actor_has_so_many_that_wait_and_no_more(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(limits={"max_holds_per_actor": 2})
    waiting = [
        subprocess.Popen(
            [embedded_postgres() / "psql", "-X", "-c", "DELETE FROM victim"]
            + [gw.dsn("orders", signing_issuer.token("ana"))],
            env=without_libpq_variables(),
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    reviewers.wait_for(2)
    ana, ben = (gw.dsn("orders", signing_issuer.token(user)) for user in ("ana", "ben"))
    denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="2 statements that wait")
    with psycopg.connect(ana, autocommit=True) as client, denied:
        client.execute("DELETE FROM victim")
    third = meanwhile(lambda: reviewers.decide(reviewers.wait_for(3)[-1]))
    with psycopg.connect(ben, autocommit=True) as client, third:
        client.execute("DELETE FROM victim WHERE n = 1")
    for each in waiting:
        each.kill()
        each.communicate()
    assert left(postgres18) == 4


def test_after_a_crash_what_was_pending_is_cancelled_and_nothing_ran(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    client = subprocess.Popen(
        [embedded_postgres() / "psql", "-X", "-c", "DELETE FROM victim"]
        + [gw.dsn("orders", signing_issuer.token())],
        env=without_libpq_variables(),
        stderr=subprocess.PIPE,
    )
    (request,) = reviewers.wait_for()
    gw.kill9()
    client.communicate()
    assert left(postgres18) == 5
    gw.start()

    assert reviewers.state.request(request.id).state == "cancelled"  # type: ignore[union-attr]
    gw.terminate()
    decisions = read(gw.archive).decisions
    assert [(one["state"], one["request_id"]) for one in decisions] == [("cancelled", request.id)]
    assert decisions[0]["session_id"] == request.session_id
    assert left(postgres18) == 5


def test_the_servers_end_reaches_a_client_that_waits(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as client:
        client.execute("SET idle_in_transaction_session_timeout = '300ms'")
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            client.execute("DELETE FROM victim")
    until(lambda: not reviewers.state.requests(state="pending"), "the request is cancelled")
    assert left(postgres18) == 5


def test_a_gateway_that_stops_cancels_what_waits(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(drain_timeout="1s")
    with psycopg.connect(gw.dsn("orders", signing_issuer.token()), autocommit=True) as client:

        def stop() -> None:
            reviewers.wait_for()
            gw.terminate()

        with meanwhile(stop), pytest.raises(psycopg.OperationalError, match="shutting down"):
            client.execute("DELETE FROM victim")
    assert [one.state for one in reviewers.state.requests()] == ["cancelled"]
    assert [one["state"] for one in read(gw.archive).decisions] == ["cancelled"]
    assert left(postgres18) == 5


def test_a_portal_that_was_approved_goes_on_without_being_asked_again(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    two = wire.frame(b"E", b"\0" + (2).to_bytes(4))
    with Raw(gw) as client:
        client.log_in(signing_issuer.token())
        bound = wire.parse("", "DELETE FROM victim RETURNING n") + wire.frame(b"B", bytes(8))
        client.say(bound + two + wire.flush())
        reviewers.approve_next()
        while client.hear_one()[0] != b"s":
            pass
        client.say(two + two + wire.sync()).hear_ready()
    assert len(reviewers.state.requests()) == 1
    assert left(postgres18) == 0
    rows, _ = recorded(gw)
    assert [row["rows_returned"] for row in rows] == [2, 2, 1]
    assert {row["request_id"] for row in rows} == {reviewers.state.requests()[0].id}


@pytest.mark.parametrize("action", ["hold", "deny"])
@pytest.mark.parametrize("closing", [wire.sync(), wire.flush() + wire.sync()])
def test_what_is_bound_and_not_executed_is_not_even_planned(
    held: Held,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    action: str,
    closing: bytes,
) -> None:
    postgres18.execute(
        "CREATE OR REPLACE FUNCTION lie(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN PERFORM wipe(); RETURN n; END $$",
        "CREATE OR REPLACE FUNCTION wipe() RETURNS int LANGUAGE sql AS "
        "'DELETE FROM victim; SELECT 1'",
        database="orders",
    )
    unknown = {"name": "unknown", "when": {"class": ["unknown"]}, "action": action}
    gw, reviewers = held(unknown | ({"approvers": ["dba"]} if action == "hold" else {}))
    bound = wire.parse("", "SELECT lie(1)") + wire.frame(b"B", bytes(8))
    with Raw(gw) as client:
        client.log_in(signing_issuer.token()).say(bound + closing)
        told = error_fields(b"".join(wire.frame(*client.hear_one()) for _ in range(1)))
        assert (told["C"], told["V"]) == ("42501", "ERROR")
        assert 'denied by rule "unknown"' in told["M"]
        client.hear_ready().say(query("SELECT 1")).hear_ready()
    assert left(postgres18) == 5
    assert not reviewers.state.requests()
    rows, _ = recorded(gw)
    assert [(row["text"], row["decision"], row["status"]) for row in rows] == [
        ("SELECT lie(1)", "deny", "denied"),
        ("SELECT 1", "allow", "ok"),
    ]


def test_a_reviewer_sees_what_it_would_run_in_however_it_was_sent(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    noise = b"".join(query(f"SET application_name = 'a{n}'") for n in range(30))
    said = query("SET /*" + "x" * 1100 + "*/ search_path = prod, public") + query("BEGIN")
    with Raw(gw) as client:
        client.log_in(signing_issuer.token())
        client.say(said + noise + query("DELETE FROM victim"))
        (request,) = reviewers.wait_for()
        assert request.shown["transaction"]["status"] == "T"
        assert request.shown["reported"]["search_path"] == "prod, public"
        (setting,) = request.shown["settings"]
        assert setting.startswith("changes setting search_path: SET /*")
        assert setting.endswith("characters more)")
        assert request.expires_us - request.requested_us == 60_000_000
        reviewers.decide(request, "deny")
        while client.hear_one()[0] != b"E":
            pass
    assert left(postgres18) == 5


def test_what_is_skipped_behind_a_failure_is_one_row_and_nobody_decides_on_it(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()

    def step(sql: str) -> bytes:
        return wire.parse("", sql) + wire.frame(b"B", bytes(8)) + wire.frame(b"E", bytes(5))

    texts = ["SELECT 1/0", "DELETE FROM victim", "DELETE FROM victim WHERE n = 1"]
    texts.append("INSERT INTO victim VALUES (9)")
    with Raw(gw) as client:
        client.log_in(signing_issuer.token())
        client.say(b"".join(map(step, texts)) + wire.sync()).hear_ready()
        client.say(query("SELECT 1")).hear_ready()
    assert not reviewers.state.requests()
    assert left(postgres18) == 5
    rows, decisions = recorded(gw)
    assert not decisions
    assert [(row["text"], row["status"]) for row in rows] == [
        ("SELECT 1/0", "error"),
        *[(text, "incomplete") for text in texts[1:]],
        ("SELECT 1", "ok"),
    ]


def test_who_queues_much_behind_it_and_is_gone_runs_nothing(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held()
    with Raw(gw) as client:
        client.log_in(signing_issuer.token()).say(query("DELETE FROM victim"))
        reviewers.wait_for()
        assert client.hear_one()[0] == b"N"
        client.say(query("SELECT 1") * 20_000)
    until(lambda: not reviewers.state.requests(state="pending"), "the request is cancelled")
    assert [one.state for one in reviewers.state.requests()] == ["cancelled"]
    with Raw(gw) as client:
        client.log_in(signing_issuer.token()).say(query("DELETE FROM victim"))
        reviewers.wait_for()
        assert client.hear_one()[0] == b"N"
        client.say(b"d" + (2_000_000).to_bytes(4) + bytes(1_999_996))
        assert "bytes were sent behind it" in error_fields(wire.frame(*client.hear_one()))["M"]
    assert left(postgres18) == 5


def test_one_person_counts_once_however_many_act_for_them(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(DELETES | {"approvals": 2})
    for_dora = replace(OTHER_DBA, chain=("emil", "dora"))

    def review() -> None:
        (request,) = reviewers.wait_for()
        reviewers.decide(request)
        with pytest.raises(AlreadyVoted):
            reviewers.decide(request, by=for_dora)
        reviewers.decide(request, "deny", by=OTHER_DBA)

    dsn = gw.dsn("orders", signing_issuer.token())
    denied = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with psycopg.connect(dsn, autocommit=True) as client, meanwhile(review), denied:
        client.execute("DELETE FROM victim")


def test_a_statement_whose_request_is_gone_does_not_wait_for_ever(
    held: Held, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw, reviewers = held(DELETES | {"timeout": "2s"})
    with psycopg.connect(gw.dsn("orders", signing_issuer.token("ana"))) as client:

        def lose() -> None:
            (request,) = reviewers.wait_for()
            # As a database does that was restored from a copy of before.
            with sqlite3.connect(gw.directory / "state.db") as database:
                deleted = database.execute("DELETE FROM requests")
                assert deleted.rowcount == 1
            assert request.kind == "hold"

        denied = pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody could be asked")
        with meanwhile(lose), denied:
            client.execute("DELETE FROM victim")
    assert left(postgres18) == 5
