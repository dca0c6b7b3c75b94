"""The control API, asked by HTTP as its clients do, beside a gateway with sessions."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory, gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

DELETES = {
    "name": "deletes need a DBA",
    "when": {"operation": ["DELETE"]},
    "action": "hold",
    "approvers": ["dba"],
}


class People:
    """Who asks the control API of one gateway, each by a token of the issuer."""

    def __init__(self, gw: Gateway, issuer: SigningIssuer) -> None:
        self.gw = gw
        self.issuer = issuer
        self.http = httpx.Client(base_url=gw.control_url, timeout=30)

    def close(self) -> None:
        """Ask no more; the gateway goes on."""
        self.http.close()

    def reviewer(self, user: str = "dora", *groups: str, age_s: int = 0, **claims: Any) -> str:
        """Return a token with which one may decide."""
        review = {"aud": "agentaudit-review", "auth_time": int(time.time()) - age_s}
        return self.issuer.token(user, groups or ("dba",), claims=review | claims)

    def ask(self, method: str, path: str, token: str, **json: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return self.http.request(method, path, headers=headers, json=json or None)

    def pending(self, token: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what waits, once there are so many."""

        def found() -> list[dict[str, Any]]:
            return list(self.ask("GET", "/v1/requests?state=pending", token).json())

        until(lambda: len(found()) >= count, "a request that waits")
        return found()

    def decide(self, request: Mapping[str, Any], token: str, **changes: Any) -> httpx.Response:
        body = {"verdict": "approve", "reason": "checked", "digest": request["digest"]} | changes
        return self.ask("POST", f"/v1/requests/{request['id']}/decision", token, **body)


def people_of(
    make: GatewayFactory, postgres: PostgresPeer, signing_issuer: SigningIssuer
) -> People:
    postgres.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        database="orders",
    )
    gw = make(
        postgres.target() | {"approvers": ["dba"]},
        issuer=signing_issuer,
        listen={"control": "127.0.0.1:0"},
        tables={"rule": [DELETES], "roles": {"admin": ["root"], "auditor": ["auditors"]}},
    )
    return People(gw, signing_issuer)


@pytest.fixture
def people(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[People]:
    with contextlib.closing(people_of(gateway, postgres18, signing_issuer)) as found:
        yield found


@pytest.fixture(scope="module")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, postgres18: PostgresPeer
) -> Iterator[People]:
    with (
        contextlib.closing(SigningIssuer()) as issuer,
        gateways(tmp_path_factory.mktemp("control"), authority, lambda: issuer) as make,
        contextlib.closing(people_of(make, postgres18, issuer)) as found,
    ):
        yield found


@pytest.fixture
def shared(made_once: People) -> Iterator[People]:
    """A gateway for all tests that only ask, where nothing waits any more."""
    yield made_once
    reviewer = made_once.reviewer()
    for request in made_once.ask("GET", "/v1/requests?state=pending", reviewer).json():
        made_once.decide(request, reviewer, verdict="deny")


def control_pids(people: People) -> list[int]:
    """Return the processes of the control API of a gateway, which is one or none."""
    found = []
    for child in psutil.Process(people.gw.pid).children():
        with contextlib.suppress(psutil.Error):  # it has ended just now
            if "control_process" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


class Waiting:
    """A statement of `user` that waits; `result` tells what became of it."""

    def __init__(self, people: People, user: str = "ana", sql: str = "DELETE FROM victim") -> None:
        self._dsn = people.gw.dsn("orders", people.issuer.token(user))
        self._sql = sql
        self.error: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as client:
                client.execute(self._sql)
        except psycopg.Error as error:
            self.error = error

    def result(self) -> psycopg.Error | None:
        self._thread.join()
        return self.error


def test_a_second_person_approves_and_the_statement_goes_on(people: People) -> None:
    waiting = Waiting(people)
    (request,) = people.pending(people.reviewer())
    assert request["kind"] == "hold"
    assert request["class"] == "write"
    assert request["shown"]["statements"][0]["text"] == "DELETE FROM victim"
    assert request["may_decide"]
    decided = people.decide(request, people.reviewer())
    assert decided.status_code == 200, decided.text
    assert decided.json()["state"] == "approved"
    assert waiting.result() is None
    assert people.decide(request, people.reviewer("emil")).status_code == 409


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (lambda p: p.reviewer("ana"), "you asked for it yourself"),
        (lambda p: p.reviewer("bot", act={"sub": "ana"}), "you asked for it yourself"),
        (lambda p: p.reviewer("agent"), "you asked for it yourself"),
        (lambda p: p.reviewer("dora", "others"), "none that you may see"),
        (lambda p: p.reviewer("dora", "auditors"), "in no group that may decide"),
        (lambda p: p.reviewer(age_s=1000), "15 minutes ago"),
        (lambda p: p.issuer.token("dora", ["dba"]), "needs a token of the audience"),
        (lambda p: p.issuer.token("dora", ["dba"], claims={"aud": "x"}), "for another audience"),
        (lambda p: "no.such.token", "token"),
    ],
)
def test_who_may_not_decide_is_told_why(
    shared: People, token: Callable[[People], str], said: str
) -> None:
    waiting = Waiting(shared)
    (request,) = shared.pending(shared.reviewer())
    refused = shared.decide(request, token(shared))
    assert refused.status_code in (401, 403, 404)
    assert said in refused.json()["error"]
    assert shared.pending(shared.reviewer())
    assert shared.decide(request, shared.reviewer(), verdict="deny").status_code == 200
    assert waiting.result() is not None


def test_a_decision_is_about_what_was_shown_and_nothing_else(people: People) -> None:
    waiting = Waiting(people)
    (request,) = people.pending(people.reviewer())
    assert people.decide(request, people.reviewer(), digest="0" * 64).status_code == 409
    assert people.decide(request, people.reviewer(), reason="").status_code == 400
    assert people.decide(request, people.reviewer(), verdict="deny").status_code == 200
    error = waiting.result()
    assert error is not None
    assert "denied by rule" in str(error)


def test_an_agent_sees_its_own_requests_and_no_others(people: People) -> None:
    waiting = [Waiting(people, user) for user in ("ana", "ben")]
    everything = people.pending(people.reviewer(), 2)
    own = people.ask("GET", "/v1/requests", people.issuer.token("ana")).json()
    assert [one["requester"]["user"] for one in own] == ["ana"]
    assert not own[0]["may_decide"]
    other = next(one for one in everything if one["requester"]["user"] == "ben")
    seen = people.ask("GET", f"/v1/requests/{other['id']}", people.issuer.token("ana"))
    assert seen.status_code == 404
    auditor = people.issuer.token("ada", ["auditors"])
    assert len(people.ask("GET", "/v1/requests", auditor).json()) == 2
    for request in everything:
        people.decide(request, people.reviewer(), verdict="deny")
    for each in waiting:
        each.result()


def test_a_batch_is_of_one_class_and_target(people: People) -> None:
    sql = "DELETE FROM victim WHERE n = 1"
    waiting = [Waiting(people, user, sql) for user in ("ana", "ben")]
    waiting.append(Waiting(people, "cid", "SELECT 1; DELETE FROM victim"))
    found = {one["requester"]["user"]: one for one in people.pending(people.reviewer(), 3)}

    def decide(*users: str, verdict: str = "approve") -> httpx.Response:
        items = [{"id": found[user]["id"], "digest": found[user]["digest"]} for user in users]
        body = {"verdict": verdict, "reason": "checked", "requests": items}
        return people.ask("POST", "/v1/decisions", people.reviewer(), **body)

    assert decide("ana", "cid").status_code == 400
    done = decide("ana", "ben")
    assert [one["state"] for one in done.json()] == ["approved", "approved"]
    assert decide("cid", verdict="deny").json()[0]["state"] == "denied"
    assert [each.result() is None for each in waiting] == [True, True, False]


def test_the_api_describes_itself_and_says_whether_it_can_decide(people: People) -> None:
    assert people.http.get("/healthz").json() == {"ok": True}
    assert people.http.get("/readyz").status_code == 200
    paths = people.http.get("/openapi.json").json()["paths"]
    assert "/v1/requests/{id}/decision" in paths
    assert people.http.get("/docs").status_code == 404


def test_a_long_body_and_a_strange_one_are_refused(people: People) -> None:
    token = people.issuer.token()
    long = people.ask("POST", "/v1/requests", token, target="x" * 70_000)
    assert long.status_code == 413
    strange = people.ask("POST", "/v1/requests", token, target="orders", secret="s3cret")
    assert strange.status_code == 400
    assert "s3cret" not in strange.text


def test_after_the_process_has_died_another_one_answers(people: People) -> None:
    def pids() -> list[int]:
        return control_pids(people)

    until(lambda: bool(pids()), "it starts")
    (before,) = pids()
    assert people.http.get("/healthz").json() == {"ok": True}
    os.kill(before, signal.SIGKILL)
    until(lambda: bool(pids()) and pids() != [before], "another one starts")
    people.http.close()
    people.http = httpx.Client(base_url=people.gw.control_url, timeout=30)
    assert people.http.get("/healthz").json() == {"ok": True}


def test_decisions_are_in_the_archive_with_who_and_why(people: People) -> None:
    waiting = Waiting(people)
    (request,) = people.pending(people.reviewer())
    people.decide(request, people.reviewer(), reason="ticket 4711")
    assert waiting.result() is None
    people.gw.wait_until_idle()
    people.gw.terminate()
    (decision,) = read(people.gw.archive).decisions
    assert decision["approvers"] == ["dora"]
    assert decision["reasons"] == ["ticket 4711"]


def test_connections_that_say_nothing_keep_nobody_out(people: People) -> None:
    url = httpx.URL(people.gw.control_url)
    assert people.http.get("/healthz").status_code == 200
    silent = [socket.create_connection((url.host, url.port or 80)) for _ in range(300)]
    with httpx.Client(base_url=url, timeout=30) as other:
        assert other.get("/healthz").status_code == 200
        assert people.ask("GET", "/v1/requests", people.reviewer()).status_code == 200
    for each in silent:
        each.close()
