"""kill -9 in the middle of everything: what the server ran is in the archive, whatever happens."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive.verify import verify
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from agentaudit.protocols import postgres_messages as wire
from tests import tries
from tests.gateway.raw import startup
from tests.gateway.recorded import read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SESSIONS = 20
IN_FLIGHT = 10
"""Statements that each session has sent and has no answer to yet."""


class Busy:
    """A session that always has statements in flight, until its connection is gone."""

    def __init__(self, host: str, port: int, token: str, marker: str) -> None:
        self.sent: list[str] = []
        self.answered = 0
        self._marker = marker
        self._socket = socket.create_connection((host, port))
        self._socket.sendall(startup() + wire.password_message(token))
        self._reader = wire.MessageReader(max_bytes=1 << 20)
        self.pid = self._log_in()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its connection still is."""
        return self._thread.is_alive()

    def hang_up(self) -> None:
        """Leave without a word, whatever is in flight."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()

    def join(self) -> None:
        self._thread.join()
        self._socket.close()

    def _log_in(self) -> int:
        pid = 0
        while True:
            for kind, body in self._reader.feed(self._socket.recv(65536)):
                if kind == b"K":
                    pid = wire.decode_backend_key_data(body)[0]
                if kind == b"Z":
                    return pid

    def _ask(self) -> bytes:
        number = len(self.sent)
        # Slow statements keep many in flight without many in the archive.
        text = f"SELECT '{self._marker}-{number}' FROM pg_sleep(0.03)"
        if number % 3:
            text = f"INSERT INTO crash {text}"
        self.sent.append(f"BEGIN; {text}; COMMIT" if number % 3 == 2 else text)
        return wire.frame(b"Q", self.sent[-1].encode() + b"\0")

    def _run(self) -> None:
        try:
            self._socket.sendall(b"".join(self._ask() for _ in range(IN_FLIGHT)))
            while data := self._socket.recv(65536):
                done = sum(kind == b"Z" for kind, _ in self._reader.feed(data))
                self.answered += done
                self._socket.sendall(b"".join(self._ask() for _ in range(done)))
        except OSError:
            pass  # the gateway is gone


def kill_gateway(gw: Gateway) -> None:
    gw.kill9()


def kill_sealer(gw: Gateway) -> None:
    """Kill the sealer alone: the gateway stops traffic by itself, and says so when it ends."""
    said = gw.log_text().count("recording_failed")
    (sealer,) = Path(f"/proc/{gw.pid}/task/{gw.pid}/children").read_text().split()
    assert b"agentaudit.archive.sealer" in Path(f"/proc/{sealer}/cmdline").read_bytes()
    os.kill(int(sealer), signal.SIGKILL)
    until(
        lambda: gw.log_text().count("recording_failed") >= said + SESSIONS,
        "the gateway stops traffic",
    )
    assert gw.terminate() != 0


@pytest.mark.parametrize("kill", [kill_gateway, kill_sealer])
@pytest.mark.parametrize(
    "rounds",
    [
        2,
        pytest.param(
            tries.of(20, share=5), id="many", marks=[pytest.mark.full, pytest.mark.timeout(600)]
        ),
    ],
)
def test_kill_9_under_load_loses_nothing_that_the_server_ran(
    rounds: int,
    kill: Callable[[Gateway], None],
    gateway: GatewayFactory,
    own_postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
) -> None:
    server = own_postgres18
    server.execute("CREATE TABLE crash (marker text)", "GRANT ALL ON crash TO PUBLIC")
    server.execute("CREATE TABLE crash (marker text)", database=server.database)
    server.execute("GRANT ALL ON crash TO PUBLIC", database=server.database)
    gw = gateway(server.target(), issuer=signing_issuer, limits={"actor_connections": SESSIONS})
    in_flight = sum(crash(gw, server, signing_issuer, kill) for _ in range(rounds))
    assert in_flight >= 100

    assert gw.terminate() == 0
    is_proven(gw)


def crash(
    gw: Gateway, server: PostgresPeer, issuer: SigningIssuer, kill: Callable[[Gateway], None]
) -> int:
    """Kill it under load and start it again; return how many statements were in flight."""
    mark = secrets.token_hex(8)
    users = [f"{mark}-{number}" for number in range(SESSIONS)]
    sessions = [Busy(gw.host, gw.port, issuer.token(user), user) for user in users]
    moment = random.randrange(SESSIONS, 20 * SESSIONS)
    until(lambda: sum(s.answered for s in sessions) >= moment, "the sessions are under way")

    kill(gw)

    for session in sessions:
        session.join()
    until(lambda: not backends(server, sessions), "the server has noticed")
    gw.start()
    is_proven(gw)
    recorded = read(gw.archive)
    rows = {row["user"]: row for row in recorded.sessions}
    requests = [event for event in recorded.events if event["kind"] == "request"]
    ran = {one.text for one in server.logged(mark)}
    assert ran
    assert ran - {event["text"] for event in requests} == set()
    for session, user in zip(sessions, users, strict=True):
        assert rows[user]["close_reason"] == "gateway_crash"
        commands = recorded.commands_of(rows[user])
        assert {command["status"] for command in commands} <= {"ok", "incomplete"}
        # An answer left only after its record: the archive knows of all that the client knows of.
        known = " ".join(command["text"] for command in commands if command["status"] == "ok")
        assert all(f"'{user}-{number}'" in known for number in range(session.answered))
    return sum(len(session.sent) - session.answered for session in sessions)


def is_proven(gw: Gateway) -> None:
    key = (gw.directory / "keys" / "gw1.vkey").read_text()
    verified = verify(gw.archive, key=key, deep=True)
    assert verified.findings == []
    assert verified.ok is True


def backends(server: PostgresPeer, sessions: list[Busy]) -> Any:
    with server.connect() as direct:
        return direct.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", ([s.pid for s in sessions],)
        ).fetchall()
