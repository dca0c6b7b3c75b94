"""The real control API over a state that a test fills: what waits, without a gateway or a server.

It can change under a page's eyes as a gateway's does: requests come and go, one of them is suddenly
another text, and the API does not answer for a while.
"""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from agentaudit.archive import canonical
from agentaudit.archive.ids import uuid7
from agentaudit.client.control import Control
from agentaudit.demo.gateways import to_toml
from agentaudit.demo.processes import until
from agentaudit.gateway.state import Request, State
from agentaudit.model import Actor
from tests.peers.issuers import SigningIssuer

SECOND_US = 1_000_000


class Desk:
    """A control API on a port of its own; reviewers are of the group `dba`."""

    def __init__(self, folder: Path, issuer: SigningIssuer) -> None:
        self.issuer = issuer
        self._folder = folder
        self._config = folder / "agentaudit.toml"
        self._config.write_text(
            to_toml(
                {
                    "gateway": {"name": "gw1", "origin": "audit.test"},
                    "listen": {"postgres": "127.0.0.1:0", "control": "127.0.0.1:0"},
                    "issuer": [{"url": issuer.issuer, "audience": [issuer.audience]}],
                    "target": [
                        {
                            "name": "orders",
                            "address": "127.0.0.1:5432",
                            "database": "orders",
                            "user": "orders_rw",
                            "groups": ["data-agents"],
                        }
                    ],
                }
            )
        )
        self.state = State.open("sqlite:///state.db", base=folder)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer, on the port that it had before; nothing happens if it does."""
        if self._process is not None:
            return
        log = self._folder / "control.log"
        with socket.socket() as listening, log.open("ab") as written:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", self._port))
            listening.listen(16)
            self._port = listening.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "agentaudit.gateway.control_process",
                    str(self._config),
                    str(listening.fileno()),
                ],
                stdin=subprocess.PIPE,
                stderr=written,
                pass_fds=[listening.fileno()],
            )
        until(self._answers, "the control API answers")

    def stop(self) -> None:
        """Answer nobody: connections are refused."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(30)
        self._process = None

    def close(self) -> None:
        self.stop()
        self.state.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    # --- who asks

    def token(self, user: str = "dora", *groups: str) -> str:
        """Return a token with which one may decide."""
        review = {"aud": "agentaudit-review", "auth_time": int(time.time())}
        return self.issuer.token(user, groups or ("dba",), claims=review)

    def control(self, user: str = "dora", *groups: str) -> Control:
        return Control(self.url, self.token(user, *groups))

    # --- what waits

    def hold(
        self,
        text: str = "DELETE FROM orders WHERE id = 7",
        *,
        user: str = "ana",
        agent: str = "copilot-7",
        seconds: float = 300,
        session: UUID | None = None,
        changes: dict[str, Any] | None = None,
        statement: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Request:
        """Let a statement wait; `changes` are of the document, `statement` of what is in that."""
        now_us = time.time_ns() // 1_000
        id, session = uuid7(now_us), session or uuid7(now_us)
        said = {
            "operation": "DELETE",
            "class": "write",
            "resources": ["public.orders"],
            "reads": ["public.orders"],
            "writes": ["public.orders"],
            "columns": [],
            "risk": [],
            "confidence": "certain",
            "decision": "hold",
            "rule": "deletes need a DBA",
            "estimate": {"rows": 1, "tables": {"public.orders": 48_210}},
            "text": text,
            "params": None,
            "sha256": [],
        } | (statement or {})
        shown = {
            "session": str(session),
            "command": 3,
            "target": "orders",
            "protocol": "postgres",
            "user": user,
            "issuer": self.issuer.issuer,
            "agent": agent,
            "actor_chain": [user, agent],
            "client_addr": "10.1.2.3",
            "client_app": "psql",
            "rule": "deletes need a DBA",
            "startup": {"application_name": "psql"},
            "statements": [said],
            "transaction": {"status": "I", "number": 1, "before": []},
            "reported": {"search_path": '"$user", public', "is_superuser": "off"},
            "settings": [],
        } | (changes or {})
        values: dict[str, Any] = {
            "id": id,
            "kind": "hold",
            "gateway": "gw1",
            "requester": self._actor(user, agent),
            "target": "orders",
            "rule": "deletes need a DBA",
            "approvers": ("dba",),
            "approvals": 1,
            "cls": "write",
            "shown": shown,
            "digest": digest(shown),
            "session_id": session,
            "command_no": 3,
            "requested_us": now_us,
            "expires_us": now_us + round(seconds * SECOND_US),
        }
        return self._file(Request(**(values | fields)))

    def access(self, *, user: str = "ben", seconds: float = 900, **changes: Any) -> Request:
        """Let somebody wait for access to the target `orders`."""
        now_us = time.time_ns() // 1_000
        shown = {
            "target": "orders",
            "user": user,
            "issuer": self.issuer.issuer,
            "agent": "agent",
            "actor_chain": [user],
            "reason": "month end, ticket 4711",
            "duration_s": 1_800,
            "starts_at": 0,
            "classes": ["read"],
            "resources": ["public.orders"],
        } | changes
        return self._file(
            Request(
                id=uuid7(now_us),
                kind="access",
                gateway="gw1",
                requester=self._actor(user, "agent"),
                target="orders",
                rule="access",
                approvers=("dba",),
                approvals=1,
                shown=shown,
                digest=digest(shown),
                reason=str(shown["reason"]),
                duration_us=1_800 * SECOND_US,
                requested_us=now_us,
                expires_us=now_us + round(seconds * SECOND_US),
            )
        )

    def now_of(self, request: Request) -> Request:
        """Return a request as it is now."""
        found = self.state.request(request.id)
        assert found is not None
        return found

    def rewrite(self, request: Request, text: str) -> Request:
        """Let the same id stand for another text, as nothing of ours ever would."""
        (statement,) = request.shown["statements"]
        shown = dict(request.shown) | {"statements": [statement | {"text": text}]}
        told = canonical.encode(shown).decode()
        with closing(sqlite3.connect(self._folder / "state.db")) as raw, raw:
            found = raw.execute("SELECT id FROM requests WHERE digest = ?", [request.digest])
            ((key,),) = found.fetchall()
            raw.execute(
                "UPDATE requests SET shown = ?, digest = ? WHERE id = ?",
                [told, digest(shown), key],
            )
        return replace(request, shown=shown, digest=digest(shown))

    def expire(self, request: Request) -> None:
        """End a request as its gateway does when nobody has decided in time."""
        self.state.settle(request.id, "expired", now_us=time.time_ns() // 1_000)

    def clear(self) -> None:
        """Let nothing wait any more."""
        for one in self.state.requests(state="pending"):
            self.state.settle(one.id, "cancelled", now_us=time.time_ns() // 1_000)

    def _file(self, request: Request) -> Request:
        self.state.file(request, most_pending=1_000)
        return request

    def _actor(self, user: str, agent: str) -> Actor:
        return Actor(
            user=user, subject=user, issuer=self.issuer.issuer, agent=agent, chain=(user, agent)
        )


def digest(shown: dict[str, Any]) -> str:
    return sha256(canonical.encode(shown)).hexdigest()


@contextmanager
def desk_in(folder: Path) -> Iterator[Desk]:
    """Run one for the block."""
    with closing(SigningIssuer()) as issuer, closing(Desk(folder, issuer)) as desk:
        yield desk
