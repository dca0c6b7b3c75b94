"""The stream of the control API: real sessions, seen as they happen by those who may."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from agentaudit import cli
from agentaudit.demo.processes import until
from tests.gateway.test_control import DELETES, People, Waiting, control_pids
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

Site = Callable[..., People]


@pytest.fixture
def site(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Iterator[Site]:
    postgres18.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        database="orders",
    )
    made: list[People] = []

    def start(**gateway_keys: Any) -> People:
        gw = gateway(
            postgres18.target() | {"approvers": ["dba"]},
            issuer=signing_issuer,
            listen={"control": "127.0.0.1:0"},
            tables={"rule": [DELETES], "roles": {"admin": ["root"], "auditor": ["auditors"]}},
            **gateway_keys,
        )
        made.append(People(gw, signing_issuer))
        return made[-1]

    yield start
    for people in made:
        people.http.close()


class Listener:
    """Somebody who reads a stream; `next` waits for an event of a kind."""

    def __init__(self, people: People, token: str, last_id: str = "") -> None:
        self.http = httpx.Client(timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": last_id}
        request = self.http.build_request(
            "GET", f"{people.gw.control_url}/v1/stream", headers=headers
        )
        self.response = self.http.send(request, stream=True)
        self.status = self.response.status_code
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self._queue: queue.Queue[tuple[str, str, dict[str, Any]] | None] = queue.Queue()
        lines = self.response.iter_lines()
        if self.status == 200:
            assert next(lines) == ": agentaudit"  # from here on all is heard
        self._thread = threading.Thread(target=self._read, args=(lines,))
        self._thread.start()

    def _read(self, lines: Iterator[str]) -> None:
        event = id = ""
        with contextlib.suppress(httpx.HTTPError):
            for line in lines:
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "id":
                    id = value
                elif name == "data":
                    self._queue.put((event, id, json.loads(value)))
        self._queue.put(None)

    def next(self, kind: str = "", **members: Any) -> dict[str, Any]:
        """Return the next event of `kind` that has these members."""
        while True:
            found = self._queue.get(timeout=60)
            assert found is not None, "the stream has ended"
            self.seen.append(found)
            if kind in ("", found[0]) and members.items() <= found[2].items():
                return found[2]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            stream = self.response.extensions["network_stream"]
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.response.close()
        self.http.close()


@contextlib.contextmanager
def listening(people: People, token: str, last_id: str = "") -> Iterator[Listener]:
    listener = Listener(people, token, last_id)
    try:
        yield listener
    finally:
        listener.close()


def run(people: People, user: str, *sql: str) -> None:
    token = people.issuer.token(user)
    with psycopg.connect(people.gw.dsn("orders", token), autocommit=True) as client:
        for each in sql:
            client.execute(each)


def test_sessions_and_commands_are_heard_in_order_with_what_the_archive_says(site: Site) -> None:
    people = site()
    with listening(people, people.issuer.token("ada", ["auditors"])) as ada:
        run(people, "ana", "SELECT 1 AS one", "SELECT '\x1b[2J\nx' AS hostile")
        opened = ada.next("session", state="opened")
        assert (opened["user"], opened["target"]) == ("ana", "orders")
        first = ada.next("command", text="SELECT 1 AS one")
        assert (first["class"], first["status"], first["user"]) == ("read", "ok", "ana")
        assert first["session_id"] == opened["session_id"]
        assert ada.next("command")["text"] == "SELECT '\x1b[2J\nx' AS hostile"
        closed = ada.next("session")
        assert (closed["state"], closed["commands"]) == ("closed", 2)


def test_an_agent_hears_of_its_own_sessions_and_of_no_others(site: Site) -> None:
    people = site()
    with listening(people, people.issuer.token("ana")) as ana:
        run(people, "ben", "SELECT 'of ben'")
        run(people, "ana", "SELECT 'of ana'")
        assert ana.next("command")["text"] == "SELECT 'of ana'"
        assert {data["user"] for _, _, data in ana.seen} == {"ana"}


def test_holds_are_heard_by_who_asked_and_by_who_may_decide(site: Site) -> None:
    people = site()
    with (
        listening(people, people.reviewer()) as dora,
        listening(people, people.issuer.token("ana")) as ana,
        listening(people, people.issuer.token("ben")) as ben,
    ):
        waiting = Waiting(people)
        held = dora.next("hold")
        assert (held["state"], held["statement"]) == ("pending", "DELETE FROM victim")
        assert ana.next("hold")["id"] == held["id"]
        people.decide(held, people.reviewer(), verdict="deny")
        waiting.result()
        assert dora.next("hold")["state"] == "denied"
        assert ana.next("hold")["votes"][0]["approver"] == "dora"
        run(people, "ben", "SELECT 1")
        ben.next("command")
        assert {kind for kind, _, _ in ben.seen} == {"session", "command"}


def test_who_comes_back_goes_on_behind_the_last_event_and_else_is_told_of_a_gap(
    site: Site,
) -> None:
    people = site()
    token = people.issuer.token("ada", ["auditors"])
    with listening(people, token) as ada:
        run(people, "ana", "SELECT 1", "SELECT 2")
        ada.next("command", text="SELECT 1")
        last_id = ada.seen[-1][1]
    with listening(people, token, last_id) as ada:
        assert ada.next()["text"] == "SELECT 2"
    for unknown in ("0-1", "x", last_id.partition("-")[0] + "-99999999"):
        with listening(people, token, unknown) as ada:
            assert "not kept" in ada.next("gap")["why"]


def test_a_journal_that_ends_is_read_to_its_end_and_the_next_one_from_its_beginning(
    site: Site,
) -> None:
    people = site(segment_events=100)
    with listening(people, people.issuer.token("ada", ["auditors"])) as ada:
        for begin in range(0, 100, 10):
            wanted = [f"SELECT {number}" for number in range(begin, begin + 10)]
            run(people, "ana", *wanted)
            assert [ada.next("command")["text"] for _ in wanted] == wanted
    assert len(list(people.gw.archive.glob("events/*/*/*.parquet"))) >= 2


def test_a_huge_statement_is_cut(site: Site) -> None:
    people = site()
    with listening(people, people.issuer.token("ada", ["auditors"])) as ada:
        run(people, "ana", f"SELECT '{'x' * 3_000_000}' IS NULL")
        command = ada.next("command")
        assert command["is_cut"]
        assert len(json.dumps(command)) < 10_000


def test_who_reads_nothing_is_let_go_and_told_so_and_others_hear_all(site: Site) -> None:
    people = site()
    token = people.issuer.token("ada", ["auditors"])
    host, port = people.gw.control_url.removeprefix("http://").split(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((host, int(port)))
    slow.sendall(
        f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    assert b": agentaudit" in _until(slow, b": agentaudit")
    long = f"SELECT '{'x' * 3900}' IS NULL"
    count = 2500
    with listening(people, token) as quick:
        for _ in range(count // 250):
            # In turn, so that the quick one keeps up.
            run(people, "ana", *[long] * 250)
            heard = 0
            while heard < 250:
                event = quick.next()
                heard += 1 if "text" in event else event.get("commands", 0) * ("why" in event)
        told = _until(slow, b"event: end")
        assert b"more than 1000 events behind" in told
    slow.close()


def _until(connection: socket.socket, what: bytes) -> bytes:
    connection.settimeout(60)
    got = bytearray()
    while what not in got or not got.endswith(b"\n\r\n"):
        data = connection.recv(65536)
        if not data:
            break
        got += data
    return bytes(got)


def test_only_so_many_may_listen(site: Site) -> None:
    people = site()
    token = people.issuer.token("ana")
    with contextlib.ExitStack() as streams:
        for _ in range(4):
            streams.enter_context(listening(people, token))
        with listening(people, token) as refused:
            assert refused.status == 429
    assert people.ask("GET", "/v1/stream", "no.token").status_code == 401

    def is_free() -> bool:
        with listening(people, token) as again:
            return again.status == 200

    until(is_free, "their places are free")


# --- agentaudit tail


@contextlib.contextmanager
def tailing(people: People, token: str, *options: str) -> Iterator[Callable[[], str]]:
    """Run `agentaudit tail`, and give what returns its next line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentaudit.cli", "tail", *options],
        env=os.environ | {"AGENTAUDIT_CONTROL": people.gw.control_url, "AGENTAUDIT_TOKEN": token},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def heard(people: People, user: str, line: Callable[[], str]) -> list[str]:
    """Return the lines up to a command that `user` runs, again and again until it is heard."""
    is_heard = threading.Event()

    def speak() -> None:
        while not is_heard.is_set():
            run(people, user, "SELECT 'are you there'")

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        lines = [line()]
        while "are you there" not in lines[-1]:
            lines.append(line())
        return lines
    finally:
        is_heard.set()
        speaker.join()


def test_tail_prints_one_escaped_line_each_of_what_is_asked_for(site: Site) -> None:
    people = site()
    token = people.issuer.token("ada", ["auditors"])
    with tailing(people, token, "--user", "ana", "--target", "orders") as line:
        heard(people, "ana", line)
        run(people, "ben", "SELECT 'of ben'")
        run(people, "ana", "SELECT '\x1b]0;owned\x07\n\u202e'")
        while "owned" not in (said := line()):
            assert "ben" not in said
        assert "\\x1b]0;owned\\x07\\n\\u202e" in said
        assert "  command  orders  ana  read  ok  SELECT" in said
        assert said.isascii()


def test_tail_as_json_is_one_object_a_line_and_survives_a_new_process(site: Site) -> None:
    people = site()
    token = people.issuer.token("ada", ["auditors"])
    with tailing(people, token, "--json") as line:
        heard(people, "ana", line)
        (before,) = control_pids(people)
        os.kill(before, signal.SIGKILL)
        until(lambda: control_pids(people) not in ([], [before]), "another one starts")
        run(people, "ana", "SELECT 'unheard, it may be'")
        lines = heard(people, "ben", line)
        while '"user": "ben"' not in lines[-1]:
            lines += heard(people, "ben", line)
        events = [json.loads(each)["event"] for each in lines]
        assert "gap" in events


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--control", "http://example.com"], "plain http is for loopback only"),
        (["--control", "http://127.0.0.1:1", "--token-file", "/nonexistent"], "No such file"),
        ([], "no control API is named"),
    ],
)
def test_tail_needs_an_address_and_a_token(
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AGENTAUDIT_CONTROL", "AGENTAUDIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["tail", *options]) == 2
    assert said in capsys.readouterr().err


def test_tail_says_why_it_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    people = site()
    token = people.gw.directory / "token"
    token.write_text("no.such.token\n")
    options = ["--control", people.gw.control_url, "--token-file", str(token)]
    assert cli.main(["tail", *options]) == 2
    assert "token" in capsys.readouterr().err
