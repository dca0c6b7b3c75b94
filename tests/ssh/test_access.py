"""Tickets, access for a time and orders to end, as for any other target."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from tests.gateway.test_control import People
from tests.peers.issuers import SigningIssuer
from tests.ssh.client import OpenSsh, Started, recorded

CONTROL = {"control": "127.0.0.1:0"}


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def people_at(gw: Gateway, issuer: SigningIssuer, opened: contextlib.ExitStack) -> People:
    return opened.enter_context(contextlib.closing(People(gw, issuer)))


def use(client: OpenSsh, secret: str) -> None:
    (client.folder / "secret").write_text(secret)


def test_a_ticket_lets_in_once(
    started: Started, signing_issuer: SigningIssuer, opened: contextlib.ExitStack
) -> None:
    gw, client = started(listen=CONTROL)
    people = people_at(gw, signing_issuer, opened)
    ticket = people.ask("POST", "/v1/tickets", client.token, target="host-1").json()["ticket"]
    assert len(ticket) <= 64
    use(client, ticket)
    assert client.ssh("echo", "in").stdout == b"in\n"
    again = client.ssh("echo", "in")
    assert again.returncode == 255
    assert b"agentaudit: " in again.stderr
    assert ticket.encode() not in b"".join(
        path.read_bytes() for path in gw.directory.rglob("*") if path.is_file()
    )


def test_access_is_asked_for_granted_and_ended(
    started: Started, signing_issuer: SigningIssuer, opened: contextlib.ExitStack
) -> None:
    gw, client = started(listen=CONTROL, access="request", approvers=["dba"], max_window="1h")
    people = people_at(gw, signing_issuer, opened)
    refused = client.ssh("true")
    assert refused.returncode == 254
    assert b"must be granted first" in refused.stderr
    (request,) = people.pending(people.reviewer())
    assert people.decide(request, people.reviewer()).status_code == 200
    token = signing_issuer.token(groups=["data-agents"])
    use(client, token)
    until(lambda: people.ask("GET", "/v1/grants", token).json()[0]["in_force"], "it is in force")
    argv = ["ssh", *client.options, "-p", str(client.port), "-l", "host-1", "127.0.0.1"]
    process = subprocess.Popen(
        [*argv, "echo on; sleep 20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=client.environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        grant = people.ask("GET", "/v1/grants", token).json()[0]
        assert people.ask("DELETE", f"/v1/grants/{grant['id']}", people.reviewer()).is_success
        _, said = process.communicate(timeout=30)
    assert process.returncode == 255
    assert b"agentaudit: " in said
    rows = (
        recorded(gw)
        .sql("SELECT close_reason FROM sessions WHERE protocol = 'ssh' ORDER BY opened_at")
        .fetchall()
    )
    assert rows[0] == ("refused",)
    assert rows[-1][0] not in ("refused", "client")
