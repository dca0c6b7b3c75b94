"""What the tests of approvals share: a rule that holds, a psql that waits, a reviewer's login."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentaudit.client import tokens
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import without_libpq_variables
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

RULE = {
    "name": "deletes need a DBA",
    "when": {"operation": ["DELETE"]},
    "action": "hold",
    "timeout": "30m",
    "approvers": ["dba"],
}
STATEMENT = (
    "DELETE FROM victim WHERE n > 2 /* <img src=x onerror='window.pwned=1'> \u202eevil\u202c */;"
)
REASON = "the customer asked for it, ticket 4711"


def holding(make: GatewayFactory, server: PostgresPeer, issuer: SigningIssuer) -> Gateway:
    """Start a gateway that holds deletes for the DBAs, and asks a planner of how many rows."""
    fill(server)
    return make(
        server.target(**server.inspector()) | {"approvers": ["dba"]},
        issuer=issuer,
        listen={"control": "127.0.0.1:0"},
        tables={"rule": [RULE]},
    )


def fill(server: PostgresPeer) -> None:
    """Make the table of five rows that statements delete from."""
    server.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        "ANALYZE victim",
        database="orders",
    )


def log_in(
    gw: Gateway,
    issuer: SigningIssuer,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    **claims: Any,
) -> str:
    """Keep a reviewer's token as `agentaudit login` does, for the server's user; return it."""
    review = {"aud": "agentaudit-review", "auth_time": int(time.time())} | claims
    token = issuer.token("dora", ("dba",), claims=review)
    # The folder is what XDG_STATE_HOME says in the server too.
    monkeypatch.setenv("XDG_STATE_HOME", str(scratch / "home" / "state"))
    tokens.keep(
        tokens.Kept(
            issuer=issuer.issuer,
            audience="agentaudit-review",
            client_id="agentaudit",
            token=token,
            got_at=int(time.time()),
            user="dora",
            control=gw.control_url,
        )
    )
    return token


class Psql:
    """psql with a script, on a thread; `said` is what it wrote once it has ended."""

    def __init__(self, gw: Gateway, token: str, script: str) -> None:
        self._thread = threading.Thread(target=self._run, args=(gw, token, script))
        self._thread.start()

    def _run(self, gw: Gateway, token: str, script: str) -> None:
        self._done = subprocess.run(
            [embedded_postgres() / "psql", "-X", "-q", "-t", gw.dsn("orders", token)],
            input=script.encode(),
            env=without_libpq_variables(),
            capture_output=True,
            check=False,
            timeout=200,
        )

    @property
    def said(self) -> str:
        self._thread.join()
        return (self._done.stdout + self._done.stderr).decode()


def left(server: PostgresPeer) -> int:
    with server.connect() as direct:
        (count,) = direct.execute("SELECT count(*) FROM victim").fetchone() or (None,)
    return int(count)
