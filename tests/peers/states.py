"""A state of the gateway for a test, on either database, and what tests put into it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive.ids import uuid7
from agentaudit.gateway.state import Grant, Request, State, Vote, Window
from agentaudit.model import Actor
from tests.peers.postgres import PostgresPeer

_number = itertools.count()

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND
ISSUER = "https://idp.example.com"
DIGEST = "ab" * 32


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest) -> str:
    """A database that is empty and of this test alone."""
    if request.param == "sqlite":
        return "sqlite:///state.db"
    server: PostgresPeer = request.getfixturevalue("postgres18")
    name = f"state_{next(_number)}"
    server.execute(f"CREATE DATABASE {name} OWNER scram")
    return postgres_url(server, name)


def postgres_url(server: PostgresPeer, database: str) -> str:
    return f"postgresql://scram:{server.passwords['scram']}@{server.host}:{server.port}/{database}"


@pytest.fixture
def open_state(state_url: str, tmp_path: Path) -> Iterator[Callable[[], State]]:
    """Opens the test's database once more, as another process would."""
    states: list[State] = []

    def open_one() -> State:
        states.append(State.open(state_url, base=tmp_path))
        return states[-1]

    yield open_one
    for each in states:
        each.close()


@pytest.fixture
def state(open_state: Callable[[], State]) -> State:
    return open_state()


def person(subject: str) -> Actor:
    return Actor(user=subject, subject=subject, issuer=ISSUER, groups=("dba",), chain=(subject,))


def a_request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "id": uuid7(NOW),
        "kind": "hold",
        "gateway": "gw1-2",
        "requester": person("agent"),
        "target": "orders",
        "rule": "schema changes need a DBA",
        "approvers": ("dba", "owners"),
        "approvals": 1,
        "cls": "schema",
        "shown": {"text": "DROP TABLE ü", "params": [None, "1\0"]},
        "digest": DIGEST,
        "session_id": uuid7(NOW),
        "command_no": 7,
        "requested_us": NOW,
        "expires_us": NOW + HOUR,
    }
    return Request(**(values | changes))


def an_access(**changes: Any) -> Request:
    return a_request(
        **(
            {
                "kind": "access",
                "cls": "",
                "session_id": None,
                "command_no": -1,
                "shown": {"classes": ["write"], "resources": ["public.orders"]},
                "reason": "incident 7",
                "duration_us": HOUR,
            }
            | changes
        )
    )


def a_vote(subject: str, verdict: Any = "approve", at_us: int = NOW + SECOND) -> Vote:
    return Vote(approver=person(subject), verdict=verdict, reason="looked at it", at_us=at_us)


def vote(state: State, id: UUID, subject: str, verdict: Any = "approve", **keys: Any) -> Request:
    keys = {"digest": DIGEST, "now_us": NOW + SECOND} | keys
    return state.vote(id, a_vote(subject, verdict), **keys)


def approved_access(state: State, *, is_recorded: bool = True, **changes: Any) -> Grant:
    request = an_access(**changes)
    state.file(request, most_pending=100)
    vote(state, request.id, "anna")
    if is_recorded:
        state.recorded([request.id])
    return next(each for each in state.grants() if each.request_id == request.id)


def enter(state: State, **changes: Any) -> Window:
    values: dict[str, Any] = {
        "issuer": ISSUER,
        "subject": "agent",
        "token": "jti-1",
        "token_expires_us": NOW + 24 * HOUR,
        "target": "orders",
        "grant_id": None,
        "gateway": "gw1-1",
        "ends_us": NOW + HOUR,
        "linger_us": 60 * SECOND,
        "is_single": False,
        "now_us": NOW + 2 * SECOND,
    }
    return state.enter(**(values | changes))
