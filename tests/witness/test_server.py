"""A witness as a process: asked by many at once, killed at any moment, and what it never does."""

from __future__ import annotations

import base64
import http.client
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentaudit.archive.note import Cosigner, open_note
from agentaudit.errors import SettingsError
from agentaudit.settings.values import Address, parse_address
from agentaudit.witness import server as server_module
from agentaudit.witness.protocol import MAX_BODY_BYTES
from agentaudit.witness.server import Witness, WitnessServer, create_witness
from tests.peers.certificates import Authority
from tests.witness.requests import GrowingLog, body, new_log, post

LOOPBACK = parse_address("127.0.0.1:0")
NAME = "witness.example/w1"


def new_witness(folder: Path, *logs: GrowingLog) -> Cosigner:
    vkey = create_witness(folder, NAME)
    (folder / "logs").write_text("".join(f"{log.signer.verifier}\n" for log in logs))
    return Cosigner.parse(vkey)


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Address]:
    server = WitnessServer(folder, LOOPBACK, say=lambda line: None, **options)
    try:
        yield server.address
    finally:
        server.close()


class Process:
    """`agentaudit witness` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentaudit.cli", "witness", str(folder)]
            + ["--listen", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = json.loads(self._process.stderr.readline())
        assert line["event"] == "listening", line
        self.address = Address(line["address"], line["port"])

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def terminate(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)
        return self._process.returncode


# --- what it never does


class Promises(RuleBasedStateMachine):
    """Whatever it is asked, in whatever order, with restarts: one history, never back."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / "witness"
        self.logs = [new_log(), GrowingLog(new_log().signer, branch="'")]
        self.cosigned: list[tuple[int, bytes]] = []
        self.times: list[int] = []
        self.now_s = 1_700_000_000

    @initialize()
    def make(self) -> None:
        self.key = new_witness(self.path, self.logs[0])
        self.witness = Witness(self.path, lambda line: None, lambda: self.now_s)

    @rule(
        branch=st.integers(0, 1),
        old=st.integers(0, 9),
        size=st.integers(0, 9),
        honest=st.booleans(),
        proof_of=st.integers(0, 9),
    )
    def ask(self, branch: int, old: int, size: int, honest: bool, proof_of: int) -> None:
        log = self.logs[branch]
        if honest:
            old = self.cosigned[-1][0] if self.cosigned else 0
        proof = log.proof(min(old, proof_of, size), size)
        if honest and old <= size:
            proof = log.proof(old, size)
        note = log.note(size)
        answer = self.witness.add_checkpoint(body(old, proof, note))
        if answer.status == 200:
            (seen,) = open_note(note + answer.body, [], [self.key]).cosigned_by
            self.cosigned.append((size, log.checkpoint(size).root))
            self.times.append(seen.time_s)
        elif answer.status == 409:
            assert int(answer.body) == (self.cosigned[-1][0] if self.cosigned else 0)

    @rule(seconds=st.integers(-100, 100))
    def set_clock(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def restart(self) -> None:
        self.witness.close()
        self.witness = Witness(self.path, lambda line: None, lambda: self.now_s)

    @invariant()
    def holds(self) -> None:
        sizes = [size for size, _ in self.cosigned]
        assert sizes == sorted(sizes)
        assert self.times == sorted(self.times)
        histories = dict.fromkeys((0, 1), 0)
        for branch, log in enumerate(self.logs):
            histories[branch] = all(
                log.checkpoint(size).root == root for size, root in self.cosigned
            )
        assert any(histories.values())

    def teardown(self) -> None:
        if hasattr(self, "witness"):
            self.witness.close()
        self._folder.cleanup()


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_whatever_is_asked_at_once_one_history_is_cosigned_and_sizes_never_go_back(
    tmp_path: Path,
) -> None:
    log = new_log()
    fork = GrowingLog(log.signer, branch="'")
    key = new_witness(tmp_path / "w", log)
    with served(tmp_path / "w") as address:

        def ask(seed: int) -> list[tuple[int, bytes, int]]:
            choose = random.Random(seed)
            got, old = [], 0
            for _ in range(15):
                history = choose.choice([log, fork])
                size = old + choose.randrange(3)
                status, _, text = post(address, history.request(old, size))
                if status == 200:
                    (seen,) = open_note(history.note(size) + text.encode(), [], [key]).cosigned_by
                    got.append((size, history.checkpoint(size).root, seen.time_s))
                    old = size
                elif status == 409:
                    old = int(text)
            return got

        with ThreadPoolExecutor(8) as pool:
            cosigned = [each for got in pool.map(ask, range(8)) for each in got]
    assert max(size for size, _, _ in cosigned) > 1
    branches = [
        all(history.checkpoint(size).root == root for size, root, _ in cosigned)
        for history in (log, fork)
    ]
    assert any(branches)


def test_killed_at_any_moment_it_never_forgets_what_it_has_cosigned(tmp_path: Path) -> None:
    log = new_log()
    fork = GrowingLog(log.signer, branch="'")
    key = new_witness(tmp_path / "w", log)
    choose = random.Random(7)
    promised = 0
    for _ in range(6):
        process = Process(tmp_path / "w")
        killer = threading.Timer(choose.uniform(0.0, 0.2), process.kill)
        old = promised
        killer.start()
        with suppress(OSError, http.client.HTTPException):
            while True:
                status, _, text = post(process.address, log.request(old, old + 1))
                if status == 200:
                    assert open_note(log.note(old + 1) + text.encode(), [], [key]).cosigned_by
                    old = promised = old + 1
                elif status == 409:
                    old = int(text)
                    assert old >= promised
        killer.join()
    process = Process(tmp_path / "w")
    status, kind, text = post(process.address, fork.request(0, 1))
    assert (status, kind) == (409, "text/x.tlog.size")
    seen = int(text)
    assert seen >= promised > 0
    assert post(process.address, body(seen, [], fork.note(seen)))[0] == 409
    assert post(process.address, fork.request(seen, seen + 1))[0] == 422
    assert post(process.address, log.request(seen, seen + 1))[0] == 200
    assert process.terminate() == 0


def test_two_processes_on_one_memory_are_one_witness(tmp_path: Path) -> None:
    log = new_log()
    new_witness(tmp_path / "w", log)
    with served(tmp_path / "w") as one, served(tmp_path / "w") as other:
        assert post(one, log.request(0, 4))[0] == 200
        assert post(other, log.request(0, 2))[::2] == (409, "4\n")
        assert post(other, log.request(4, 6))[0] == 200
        assert post(one, log.request(4, 5))[::2] == (409, "6\n")


# --- HTTP


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    new_witness(tmp_path / "w", new_log())
    return tmp_path / "w"


def exchange(address: Address, sent: bytes) -> bytes:
    """Send bytes and read until the other end closes."""
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        with suppress(ConnectionError):
            connection.sendall(sent)
        received = b""
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
        return received


def status_of(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received else 0


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /add-checkpoint HTTP/1.1\r\n\r\n", 411),
        ("POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 411),
        ("POST /add-checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (
            "POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\n"
            "Transfer-Encoding: chunked\r\n\r\n",
            411,
        ),
        ("POST /add-checkpoint HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /add-checkpoint HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", 400),
        (f"POST /add-checkpoint HTTP/1.1\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n", 413),
        ("POST /other HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        ("POST /add-checkpoint?x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        ("GET /add-checkpoint HTTP/1.1\r\nConnection: close\r\n\r\n", 501),
        ("nonsense\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_of_the_protocol_is_refused_and_the_connection_ends(
    folder: Path, head: str, status: int
) -> None:
    with served(folder) as address:
        received = exchange(address, head.encode())
        assert status_of(received) == status
        assert received.count(b"HTTP/1.1 ") <= 1
        assert post(address, new_log().request(0, 1))[0] == 200


def test_a_head_that_does_not_end_is_cut_off(folder: Path) -> None:
    with served(folder) as address:
        assert status_of(exchange(address, b"POST /" + b"a" * 1_000_000)) in (0, 414)
        many = b"".join(b"X-%d: y\r\n" % n for n in range(100_000))
        received = exchange(address, b"POST /add-checkpoint HTTP/1.1\r\n" + many)
        assert status_of(received) in (0, 431)
        assert post(address, new_log().request(0, 1))[0] == 200


def test_whoever_is_slow_is_cut_off_and_the_others_are_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IDLE_S", 0.3)
    monkeypatch.setattr(server_module, "BODY_S", 0.3)
    head = b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    with served(folder) as address:
        for part in (b"", b"POST /add", head, head + b"old 0\n"):
            # Returns only when the server closes.
            assert exchange(address, part) == b""
        assert post(address, new_log().request(0, 1))[0] == 200


def test_more_connections_than_allowed_are_closed_and_those_that_end_make_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server_module, "IDLE_S", 5.0)
    with served(folder) as address:
        held = [socket.create_connection((address.host, address.port)) for _ in range(2)]
        for connection in held:
            # An answered request shows that the connection has its place.
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
        assert exchange(address, b"") == b""
        for connection in held:
            connection.close()
        for _ in range(1000):
            with suppress(OSError, http.client.HTTPException):
                assert post(address, new_log().request(0, 1))[0] == 200
                break
        else:
            pytest.fail("no place became free")


def test_one_connection_serves_many_requests(folder: Path) -> None:
    log = new_log()
    with served(folder) as address:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
        connection.connect()
        first = connection.sock
        for old in range(3):
            connection.request("POST", "/add-checkpoint", log.request(old, old + 1))
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read().startswith("— witness.example/w1 ".encode())
            assert connection.sock is first
        connection.close()


def test_tls_is_served_with_the_certificate_given(folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.server()
    context = ssl.create_default_context(cafile=authority.file)
    log = new_log()
    with served(folder, tls=(pair.certificate_file, pair.key_file)) as address:
        connection = http.client.HTTPSConnection(
            "localhost", address.port, timeout=30, context=context
        )
        connection.request("POST", "/add-checkpoint", log.request(0, 1))
        assert connection.getresponse().status == 200
        connection.close()
        assert exchange(address, b"POST / HTTP/1.1\r\n\r\n") in (b"", b"\x15\x03\x01\x00\x02\x02F")


def test_another_address_than_loopback_needs_tls_or_a_word(folder: Path) -> None:
    with pytest.raises(SettingsError, match="only loopback"):
        WitnessServer(folder, parse_address("0.0.0.0:0"), say=lambda line: None)
    WitnessServer(folder, parse_address("0.0.0.0:0"), say=lambda line: None, plain=True).close()


def test_what_the_server_cannot_use_is_named(folder: Path) -> None:
    with served(folder) as address, pytest.raises(SettingsError, match="in use"):
        WitnessServer(folder, address, say=lambda line: None)
    missing = folder / "missing.pem"
    with pytest.raises(SettingsError, match=r"missing\.pem"):
        WitnessServer(folder, LOOPBACK, say=lambda line: None, tls=(missing, missing))
    with pytest.raises(SettingsError, match="address"):
        parse_address("nowhere")


def test_init_makes_a_witness_and_prints_its_key(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "agentaudit.cli",
        "witness",
        str(tmp_path / "w"),
        "--init",
        NAME,
    ]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    assert Cosigner.parse(made.stdout).name == NAME
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds a witness already" in again.stderr


def test_an_answer_tells_nothing_that_was_sent(folder: Path) -> None:
    content = b"old 0\nsecret" + base64.b64encode(b"secret") + b"\n\nsecret"
    with served(folder) as address:
        assert "secret" not in post(address, content)[2]
