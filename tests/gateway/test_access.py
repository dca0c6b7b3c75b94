"""Access for a time: grants, windows, tickets, blocks and orders to end, by the control API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentaudit.archive.verify import verify
from agentaudit.demo.processes import until
from tests.gateway.recorded import read
from tests.gateway.test_control import People
from tests.gateway.test_holds import meanwhile
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

Site = Callable[..., People]


@pytest.fixture
def site(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[Site]:
    """Start gateways to which access is asked for."""
    postgres18.execute(
        "DROP TABLE IF EXISTS ledger, secrets",
        "CREATE TABLE ledger AS SELECT generate_series(1, 5) AS n",
        "CREATE TABLE secrets AS SELECT 'x' AS said",
        "GRANT ALL ON ledger, secrets TO PUBLIC",
        database="orders",
    )
    made: list[People] = []

    def start(**changes: Any) -> People:
        asked = {"access": "request", "approvers": ["dba"], "max_window": "1h"} | changes
        gw = gateway(
            postgres18.target() | asked,
            issuer=signing_issuer,
            listen={"control": "127.0.0.1:0"},
            tables={"roles": {"admin": ["root"], "auditor": ["auditors"]}},
        )
        made.append(People(gw, signing_issuer))
        return made[-1]

    yield start
    for people in made:
        people.http.close()


def connect(people: People, token: str) -> psycopg.Connection[Any]:
    return psycopg.connect(people.gw.dsn("orders", token), autocommit=True)


def refusal(people: People, token: str) -> str:
    """Return why a connection with `token` is refused."""
    with pytest.raises(psycopg.OperationalError) as refused:
        connect(people, token).close()
    return str(refused.value)


def grant(people: People, user: str = "ana", duration: str = "1h", **asked: Any) -> dict[str, Any]:
    """Let somebody approve what `user` asks for; return the grant once it is in force."""
    body = {"target": "orders", "duration": duration, "reason": "month's end"} | asked
    request = people.ask("POST", "/v1/requests", people.issuer.token(user), **body)
    assert request.status_code == 201, request.text
    assert people.decide(request.json(), people.reviewer()).status_code == 200

    def in_force() -> list[dict[str, Any]]:
        grants = people.ask("GET", "/v1/grants", people.issuer.token(user)).json()
        mine = [one for one in grants if one["request_id"] == request.json()["id"]]
        return [one for one in mine if one["in_force"]]

    until(lambda: bool(in_force()), "the grant is in force")
    return in_force()[0]


def test_without_a_grant_one_is_told_which_request_waits_and_how_to_ask(site: Site) -> None:
    people = site()
    said = refusal(people, people.issuer.token("ana"))
    (request,) = people.pending(people.reviewer())
    assert "must be granted first" in said
    assert f"request {request['id']} waits for a decision by dba" in said
    assert "agentaudit request orders --for 1h" in said
    assert refusal(people, people.issuer.token("ana"))
    assert len(people.pending(people.reviewer())) == 1
    people.decide(request, people.reviewer())
    token = people.issuer.token("ana")
    until(lambda: "in_force" in str(people.ask("GET", "/v1/grants", token).json()), "granted")
    until(lambda: people.ask("GET", "/v1/grants", token).json()[0]["in_force"], "it is in force")
    with connect(people, token) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_client_may_wait_for_its_grant(site: Site) -> None:
    people = site(wait="50s")

    def approve() -> None:
        (request,) = people.pending(people.reviewer())
        people.decide(request, people.reviewer())

    with meanwhile(approve), connect(people, people.issuer.token("ana")) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("duration_s", "left_s"), [(4, 1.5), pytest.param(60, 10, marks=pytest.mark.full)]
)
def test_a_connection_ends_when_its_grant_does_however_late_it_was_opened(
    site: Site, duration_s: int, left_s: float
) -> None:
    people = site()
    token = people.issuer.token("ana")
    given = grant(people, duration=f"{duration_s}s")
    first = connect(people, token)
    ends_s = given["ends_at"] / 1e6
    until(lambda: time.time() > ends_s - left_s, "most of it is over", seconds=duration_s)
    late = connect(people, token)
    assert late.execute("SELECT 1").fetchone() == (1,)
    for client in (first, late):
        with pytest.raises(psycopg.OperationalError, match="for which you have access is over"):
            client.execute("SELECT pg_sleep(30)")
        client.close()
    assert time.time() >= ends_s - 0.01
    assert "has had its time" in refusal(people, token)
    grant(people)
    assert "this token's access is over" in refusal(people, token)
    with connect(people, people.issuer.token("ana")) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_revoking_ends_live_sessions_and_the_token_is_refused_afterwards(site: Site) -> None:
    people = site()
    token = people.issuer.token("ana")
    given = grant(people)
    client = connect(people, token)
    window = people.ask("GET", "/v1/sessions/live", token)
    until(lambda: bool(people.ask("GET", "/v1/sessions/live", token).json()), "it is seen")
    window = people.ask("GET", "/v1/sessions/live", token).json()[0]["window_id"]
    other = people.issuer.token("ben")
    assert people.ask("DELETE", f"/v1/grants/{given['id']}", other).status_code == 404
    revoked = people.ask("DELETE", f"/v1/grants/{given['id']}", people.reviewer())
    assert revoked.json()["revoked_by"] == "dora"
    with pytest.raises(psycopg.OperationalError, match="your access was revoked"):
        client.execute("SELECT pg_sleep(30)")
    client.close()
    assert "has had its time" in refusal(people, token)
    people.gw.wait_until_idle()
    people.gw.terminate()
    recorded = read(people.gw.archive)
    (session,) = [one for one in recorded.sessions if one["close_reason"] == "revoked"]
    assert str(session["window_id"]) == window
    assert [(d["kind"], d["state"], d["approvers"]) for d in recorded.decisions] == [
        ("access", "approved", ["dora"]),
        ("access", "cancelled", ["dora"]),
    ]
    assert recorded.decisions[0]["grant_until"] is not None


def test_ones_own_approval_is_refused(site: Site) -> None:
    people = site()
    asked = {"target": "orders", "duration": "1h", "reason": "x"}
    token = people.issuer.token("dora", ["data-agents", "dba"])
    request = people.ask("POST", "/v1/requests", token, **asked).json()
    own = people.decide(request, people.reviewer("dora", "data-agents", "dba"))
    assert own.status_code == 403
    assert "somebody else must decide" in own.json()["hint"]
    assert "must be granted first" in refusal(people, token)


def test_a_grant_lets_in_for_what_it_names_and_nothing_else(site: Site) -> None:
    people = site()
    grant(people, classes=["read"], resources=["ledger"])
    with connect(people, people.issuer.token("ana")) as client:
        assert client.execute("SELECT count(*) FROM ledger").fetchone() == (5,)
        client.execute("BEGIN")
        client.execute("ROLLBACK")
        beyond_it = ["SELECT * FROM secrets", "DELETE FROM ledger", "SELECT lo_unlink(1)"]
        beyond_it += ["SET search_path = hr", "PREPARE p AS DELETE FROM secrets"]
        for beyond in (*beyond_it, "LOCK TABLE secrets"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match='rule "grant"'):
                client.execute(beyond)
        assert client.execute("SELECT count(*) FROM ledger").fetchone() == (5,)


def test_a_ticket_opens_one_connection_of_its_tokens_window(site: Site) -> None:
    people = site(access="standing", single_window=True)
    token = people.issuer.token("ana")
    bought = people.ask("POST", "/v1/tickets", token, target="orders").json()["ticket"]
    assert len(bought) <= 64
    with connect(people, bought) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert "was used, or is over" in refusal(people, bought)
    assert "was used, or is over" in refusal(people, "aat_" + "x" * 40)
    assert people.ask("POST", "/v1/tickets", people.reviewer(), target="orders").status_code == 403
    people.gw.wait_until_idle()
    people.gw.terminate()
    recorded = read(people.gw.archive)
    (session,) = [one for one in recorded.sessions if one["close_reason"] == "client"]
    assert session["user"] == "ana"
    everything = b"".join(p.read_bytes() for p in people.gw.directory.rglob("*") if p.is_file())
    assert bought.encode() not in everything


def test_a_single_window_is_over_when_its_last_connection_has_lingered(site: Site) -> None:
    people = site(access="standing", single_window=True, linger="1s")
    token = people.issuer.token("ana")
    for _ in range(2):
        with connect(people, token) as client:
            client.execute("SELECT 1")
    until(lambda: _is_over(people, token), "the window is over")
    with connect(people, people.issuer.token("ana")) as client:
        client.execute("SELECT 1")


def _is_over(people: People, token: str) -> bool:
    time.sleep(1.2)  # longer than it lingers, so that each look does not open it again
    return "its last connection ended a while ago" in _said(people, token)


def test_who_is_blocked_opens_nothing_until_the_block_is_lifted(site: Site) -> None:
    people = site(access="standing")
    root = people.issuer.token("rita", ["root"])
    assert people.ask("POST", "/v1/blocks", root, reason="x").status_code == 400
    with connect(people, people.issuer.token("ana")) as client:
        block = people.ask("POST", "/v1/blocks", root, user="ana", reason="leaked").json()
        until(lambda: _is_blocked(people, "ana"), "ana is blocked")
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert not _is_blocked(people, "ben")
    other = people.issuer.token("ana")
    assert people.ask("DELETE", f"/v1/blocks/{block['id']}", other).status_code == 403
    people.ask("DELETE", f"/v1/blocks/{block['id']}", root)
    until(lambda: not _is_blocked(people, "ana"), "ana is let in again")
    people.gw.wait_until_idle()
    people.gw.terminate()
    texts = [event["text"] for event in read(people.gw.archive).events]
    assert "rita has blocked user ana of any issuer: leaked" in texts
    assert "rita has unblocked user ana of any issuer" in texts


def _is_blocked(people: People, user: str) -> bool:
    return "you are blocked" in _said(people, people.issuer.token(user))


def _said(people: People, token: str) -> str:
    """Return why a token is refused, or nothing where it is let in."""
    try:
        connect(people, token).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def test_an_admin_ends_a_session_and_others_may_not(site: Site) -> None:
    people = site(access="standing")
    root = people.issuer.token("rita", ["root"])
    with connect(people, people.issuer.token("ana")) as client:
        until(lambda: bool(people.ask("GET", "/v1/sessions/live", root).json()), "it is seen")
        (live,) = people.ask("GET", "/v1/sessions/live", root).json()
        path = f"/v1/sessions/{live['session_id']}"
        assert people.ask("DELETE", path, people.issuer.token("ben")).status_code == 404
        auditor = people.issuer.token("ada", ["auditors"])
        assert people.ask("DELETE", path, auditor).status_code == 403
        assert people.ask("DELETE", f"{path}?reason=enough", root).status_code == 202
        with pytest.raises(psycopg.OperationalError, match="rita has ended this session: enough"):
            client.execute("SELECT pg_sleep(30)")
    until(lambda: not people.ask("GET", "/v1/sessions/live", root).json(), "it is gone")
    people.gw.wait_until_idle()
    people.gw.terminate()
    recorded = read(people.gw.archive)
    assert [one["close_reason"] for one in recorded.sessions if one["user"] == "ana"] == ["ended"]
    assert "ended by rita: enough" in [event["text"] for event in recorded.events]


def test_metrics_are_for_overseers_and_name_nobody(site: Site) -> None:
    people = site()
    refusal(people, people.issuer.token("ana"))
    assert people.ask("GET", "/metrics", people.issuer.token("ana")).status_code == 403
    text = people.ask("GET", "/metrics", people.issuer.token("ada", ["auditors"])).text
    assert 'agentaudit_requests_pending{kind="access",target="orders"} 1.0' in text
    assert "ana" not in text


def test_workers_share_holds_grants_and_revocations(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    postgres18.execute(
        "DROP TABLE IF EXISTS ledger",
        "CREATE TABLE ledger AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON ledger TO PUBLIC",
        database="orders",
    )
    holds = {"name": "holds", "when": {"class": ["write"]}, "action": "hold", "approvers": ["dba"]}
    gw = gateway(
        postgres18.target() | {"access": "request", "approvers": ["dba"]},
        issuer=signing_issuer,
        listen={"control": "127.0.0.1:0"},
        tables={"rule": [holds]},
        workers=2,
    )
    people = People(gw, signing_issuer)
    given = grant(people)
    token = people.issuer.token("ana")
    clients = [connect(people, token) for _ in range(4)]
    for number, client in enumerate(clients):
        client.pgconn.send_query(b"DELETE FROM ledger WHERE n = %d" % number)
    found = people.pending(people.reviewer(), 4)
    items = [{"id": one["id"], "digest": one["digest"]} for one in found]
    body = {"verdict": "approve", "reason": "checked", "requests": items}
    done = people.ask("POST", "/v1/decisions", people.reviewer(), **body).json()
    assert [one["state"] for one in done] == ["approved"] * 4
    for client in clients:
        while (result := client.pgconn.get_result()) is not None:
            assert result.error_message == b""
    until(lambda: len(people.ask("GET", "/v1/sessions/live", token).json()) == 4, "all are seen")
    lived = people.ask("GET", "/v1/sessions/live", token).json()
    assert {one["gateway"] for one in lived} == {"gw1-1", "gw1-2"}
    people.ask("DELETE", f"/v1/grants/{given['id']}", people.reviewer())
    for client in clients:
        with pytest.raises(psycopg.OperationalError, match="your access was revoked"):
            client.execute("SELECT pg_sleep(30)")
        client.close()
    people.http.close()
    gw.wait_until_idle()
    gw.terminate()
    recorded = read(gw.archive)
    states = [(one["kind"], one["state"]) for one in recorded.decisions]
    assert (
        sorted(states)
        == [("access", "approved"), ("access", "cancelled")] + [("hold", "approved")] * 4
    )
    assert not verify(gw.archive, deep=True, remember=False).findings


def test_two_gateways_share_a_state_in_postgresql(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
) -> None:
    postgres18.execute("DROP DATABASE IF EXISTS shared", "CREATE DATABASE shared OWNER scram")
    postgres18.execute(
        "DROP TABLE IF EXISTS ledger",
        "CREATE TABLE ledger AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON ledger TO PUBLIC",
        database="orders",
    )
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:scram:{postgres18.passwords['scram']}\n", encoding="utf-8")
    passwords.chmod(0o600)
    address = f"{postgres18.host}:{postgres18.port}"
    holds = {"name": "holds", "when": {"class": ["write"]}, "action": "hold", "approvers": ["dba"]}
    first, second = (
        gateway(
            postgres18.target() | {"access": "request", "approvers": ["dba"]},
            issuer=signing_issuer,
            listen={"control": "127.0.0.1:0"},
            tables={"rule": [holds]},
            name=name,
            state=f"postgresql://scram@{address}/shared?passfile={passwords}",
        )
        for name in ("east", "west")
    )
    asking, deciding = People(first, signing_issuer), People(second, signing_issuer)
    given = grant(asking)
    token = asking.issuer.token("ana")
    here, there = connect(asking, token), connect(deciding, token)
    here.pgconn.send_query(b"DELETE FROM ledger WHERE n = 1")
    (request,) = deciding.pending(deciding.reviewer())
    assert deciding.decide(request, deciding.reviewer()).json()["state"] == "approved"
    result = here.pgconn.get_result()
    assert result is not None
    assert result.command_status == b"DELETE 1"
    deciding.ask("DELETE", f"/v1/grants/{given['id']}", deciding.reviewer())
    for client in (here, there):
        while client.pgconn.get_result() is not None:
            pass
        with pytest.raises(psycopg.OperationalError, match="your access was revoked"):
            client.execute("SELECT pg_sleep(30)")
        client.close()
    for people in (asking, deciding):
        people.http.close()
        people.gw.wait_until_idle()
        people.gw.terminate()
    states = [(one["kind"], one["state"]) for one in read(first.archive).decisions]
    assert sorted(states) == [
        ("access", "approved"),
        ("access", "cancelled"),
        ("hold", "approved"),
    ]
    assert not read(second.archive).decisions


def test_what_a_revoked_session_runs_is_cancelled_at_the_server(
    site: Site, postgres18: PostgresPeer
) -> None:
    people = site()
    given = grant(people)
    client = connect(people, people.issuer.token("ana"))
    client.pgconn.send_query(b"INSERT INTO ledger SELECT 1000 FROM pg_sleep(300)")
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with postgres18.connect() as direct:
        until(lambda: direct.execute(sleeping).fetchone() is not None, "it sleeps")
        people.ask("DELETE", f"/v1/grants/{given['id']}", people.reviewer())
        until(lambda: direct.execute(sleeping).fetchone() is None, "it is cancelled")
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    client.close()
