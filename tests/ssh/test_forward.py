"""Connections through a host: off unless a rule names them, recorded before they go on."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncssh
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentaudit.demo.database import free_port
from agentaudit.demo.processes import until
from agentaudit.protocols.ssh import Destination
from tests.gateway.test_holds import Reviewers, meanwhile
from tests.ssh.client import OpenSsh, Started, connected, recorded


def rule(action: str, *places: str, **keys: Any) -> dict[str, Any]:
    when = {"protocol": ["ssh"], "operation": ["forward"], "resource": list(places)}
    return {"name": f"{action} these", "when": when, "action": action} | keys


@dataclass
class Server:
    """Answers each connection with what it said, once that has ended, and keeps it in `said`.

    One that `is_prompt` says so, too, whenever it has heard something; one that `ends_first` says
    no more than its greeting.
    """

    port: int = 0
    said: list[bytes] = field(default_factory=list)
    answer: Callable[[bytes], bytes] = bytes
    greeting: bytes = b""
    is_prompt: bool = False
    ends_first: bool = False


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(made.greeting)
            if ends_first := made.ends_first:
                connection.shutdown(socket.SHUT_WR)
            said = b""
            while data := connection.recv(65536):
                said += data
                if made.is_prompt:
                    connection.sendall(b".")
            made.said.append(said)
            if not ends_first:
                connection.sendall(made.answer(said))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@contextmanager
def forwarding(client: OpenSsh, option: str, local: int) -> Iterator[Callable[[], str]]:
    """Run `ssh -N` with a forwarding, once it listens; yields what tells what it has said."""
    argv = ["ssh", *client.options, "-N", *option.split(), "-o", "ExitOnForwardFailure=yes"]
    log = client.folder / "forwarding"
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [*argv, "-p", str(client.port), "-l", "host-1", "127.0.0.1"],
            env=client.environment,
            stderr=said,
        ) as ssh,
    ):
        try:
            until(lambda: _is_listening(local), f"ssh {option}")
            yield lambda: log.read_text()
        finally:
            ssh.terminate()


def _is_listening(port: int) -> bool:
    # Looked up, not tried: each try would be a connection through the gateway.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] == f"0100007F:{port:04X}" and row[3] == "0A" for row in rows)


def asked(port: int, data: bytes, prelude: bytes = b"") -> bytes:
    """Say `data` to a local port, end that, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if prelude:
            connection.sendall(prelude[:3])
            assert connection.recv(2) == b"\5\0"
            connection.sendall(prelude[3:])
            assert connection.recv(10)[1] == 0
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def test_openssh_forwards_what_a_rule_allows_and_both_directions_are_recorded(
    started: Started, server: Server
) -> None:
    place = f"127.0.0.1:{server.port}"
    gw, client = started(rule("allow", place))
    server.answer = lambda said: said.upper() * 1000
    local, socks = free_port(), free_port()
    with forwarding(client, f"-L {local}:127.1:{server.port} -D {socks}", local):
        until(lambda: _is_listening(socks), "ssh -D")
        assert asked(local, b"through l") == b"THROUGH L" * 1000
        socks5 = b"\5\1\0" + b"\5\1\0\1" + socket.inet_aton("127.0.0.1")
        prelude = socks5 + struct.pack(">H", server.port)
        assert asked(socks, b"through d", prelude) == b"THROUGH D" * 1000
    assert client.ssh("-W", place, input=b"through w").stdout == b"THROUGH W" * 1000
    assert server.said == [b"through l", b"through d", b"through w"]

    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok
    rows = case.sql(
        "SELECT session_id, command_no, operation, class, text, resources, decision, rule, status,"
        " risk FROM commands ORDER BY started_at"
    ).fetchall()
    expected = (
        *("forward", "write", f"forward {place}", [place]),
        *("allow", "allow these", "ok", ["tunnels", "contacts host"]),
    )
    assert [row[2:] for row in rows] == [expected] * 3
    for row, way in zip(rows, (b"l", b"d", b"w"), strict=True):
        session = case.session(str(row[0]))
        sent = b"".join(session.stream("client", command_no=row[1]))
        assert sent == f"forward {place}".encode() + b"through " + way
        came = b"".join(session.stream("target", command_no=row[1]))
        assert came == (b"through " + way).upper() * 1000
        assert session.result(row[1]).num_columns == 0
        assert place in session.transcript()
    page = gw.directory / "report.html"
    case.report(session=str(rows[0][0]), out=page, key=gw.verifier_key)
    assert place in page.read_text()
    said = case.sql("SELECT text FROM events WHERE kind = 'notice' ORDER BY seq").fetchall()
    assert any(text.startswith(f"direct-tcpip 127.1 {server.port} 127.0.0.1 ") for (text,) in said)


def test_nothing_is_forwarded_that_no_rule_names(started: Started, server: Server) -> None:
    """Neither a default, nor a rule about all writes, nor one about another place opens it."""
    place = f"127.0.0.1:{server.port}"
    everything = {"name": "all", "when": {"protocol": ["ssh"]}, "action": "allow"}
    held = {"name": "ask", "when": {"class": ["write"]}, "action": "hold", "approvers": ["dba"]}
    gw, client = started(
        rule("allow", "127.0.0.1:1", "*.internal:*", f"127.0.0.*.*:{server.port}"),
        held,
        everything,
    )
    for way in (place, f"[::ffff:127.0.0.1]:{server.port}", f"localhost:{server.port}"):
        refused = client.ssh("-W", way)
        assert refused.returncode != 0
        assert b"administratively prohibited: agentaudit: denied by rule" in refused.stderr, way
    odd = client.ssh("-W", f"1.2.3.4.5:{server.port}")
    assert b"neither a host's name nor an address" in odd.stderr
    port = free_port()
    back = client.ssh("-R", f"{port}:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes", "true")
    assert b"remote port forwarding failed" in back.stderr
    assert server.said == []
    case = recorded(gw)
    rows = case.sql(
        "SELECT text, decision, rule, status, error_code FROM commands WHERE operation = 'forward'"
        " ORDER BY started_at"
    ).fetchall()
    denied = ("deny", "default", "denied", "1")
    assert rows == [
        (f"forward {place}", *denied),
        (f"forward {place}", *denied),
        (f"forward localhost:{server.port}", *denied),
        (f"forward 1.2.3.4.5 {server.port}", "deny", "protocol", "denied", "1"),
    ]
    notes = [t for (t,) in case.sql("SELECT text FROM events WHERE kind = 'notice'").fetchall()]
    assert f"tcpip-forward refused localhost {port}" in notes


def test_a_connection_waits_until_somebody_has_approved(started: Started, server: Server) -> None:
    place = f"127.0.0.1:{server.port}"
    gw, client = started(rule("hold", place, approvers=["dba"]))
    reviewers = Reviewers(gw)
    try:

        def review() -> None:
            (request,) = reviewers.wait_for()
            (shown,) = request.shown["statements"]
            assert (shown["text"], shown["resources"]) == (f"forward {place}", [place])
            assert server.said == []
            reviewers.decide(request)

        with meanwhile(review):
            done = client.ssh("-W", place, input=b"approved")
        assert done.stdout == b"approved", done.stderr
        with meanwhile(reviewers.deny_next):
            done = client.ssh("-W", place, input=b"denied")
        assert b"not on a Friday" in done.stderr
        hung_up = client.popen("-W", place)
        reviewers.wait_for()
        hung_up.kill()
        hung_up.wait()
        assert server.said == [b"approved"]
    finally:
        reviewers.state.close()
    rows = recorded(gw).sql(
        "SELECT c.status, d.state FROM commands c JOIN decisions d USING (request_id)"
        " ORDER BY c.started_at"
    )
    expected = [("ok", "approved"), ("denied", "denied"), ("cancelled", "cancelled")]
    assert rows.fetchall() == expected


def test_a_session_that_ends_ends_its_connections(started: Started, server: Server) -> None:
    gw, client = started(rule("allow", "127.0.0.1:*"), limits={"session_bytes": "1MiB"})
    server.answer = lambda said: bytes(4 << 20)
    done = client.ssh("-W", f"127.0.0.1:{server.port}")
    assert len(done.stdout) < 2 << 20
    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok
    assert case.sql("SELECT status FROM commands").fetchall() == [("cancelled",)]
    rows = case.sql("SELECT close_reason FROM sessions WHERE protocol = 'ssh'")
    assert rows.fetchall() == [("session_bytes",)]


async def test_a_target_that_refuses_is_heard_with_its_reason(started: Started) -> None:
    nobody = free_port()
    gw, client = started(rule("allow", "127.0.0.1:*"))
    async with connected(client) as connection:
        with pytest.raises(asyncssh.ChannelOpenError) as error:
            await connection.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", nobody)
        assert error.value.code == asyncssh.OPEN_CONNECT_FAILED
        with pytest.raises(asyncssh.ChannelOpenError) as error:
            await connection.create_connection(asyncssh.SSHTCPSession, "127.0.0.1", 70000)
        assert error.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        with pytest.raises(asyncssh.ChannelOpenError) as error:
            await connection.create_unix_connection(asyncssh.SSHUNIXSession, "/run/x y")
        assert error.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        assert (await connection.run("echo still here")).stdout == "still here\n"
    case = recorded(gw)
    notes = [t for (t,) in case.sql("SELECT text FROM events WHERE kind = 'notice'").fetchall()]
    assert r"open-failure 2 Connection\x20refused" in notes
    assert r"direct-streamlocal@openssh.com refused /run/x\x20y" in notes
    rows = case.sql("SELECT status, error_code, error_text FROM commands").fetchall()
    assert rows[0] == ("error", "2", "Connection refused")
    assert rows[1][:2] == ("denied", "1")
    assert rows[2][0] == "ok"


async def test_all_that_passes_is_recorded_and_either_end_may_end_first(
    started: Started, server: Server
) -> None:
    random = Random(seed := os.urandom(4).hex())
    gw, client = started(rule("allow", "127.0.0.1:*"))
    server.answer = lambda said: said[::-1]
    server.greeting = b"hello"
    sent = [
        [random.randbytes(int(random.paretovariate(0.4)) % 300_000) for _ in range(9)]
        for _ in range(16)
    ]

    async def talk(connection: asyncssh.SSHClientConnection, pieces: list[bytes]) -> None:
        reader, writer = await connection.open_connection("127.0.0.1", server.port)
        assert await reader.readexactly(5) == b"hello"
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()  # the answer comes when this has been heard
        assert await reader.read() == b"".join(pieces)[::-1], seed
        writer.close()

    async with connected(client) as connection:
        await asyncio.gather(*(talk(connection, pieces) for pieces in sent))
        reader, writer = await connection.open_connection("127.0.0.1", server.port)
        assert await reader.readexactly(5) == b"hello"
        writer.write(last := random.randbytes(400_000))
        writer.close()  # without another word: all of it goes on nevertheless
        await writer.wait_closed()
        server.ends_first = True
        reader, writer = await connection.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b"hello"
        writer.write(late := random.randbytes(100_000))
        writer.write_eof()
        await asyncio.to_thread(until, lambda: len(server.said) == 18, "the last connections")
    everything = sorted([*(b"".join(pieces) for pieces in sent), last, late])
    assert sorted(server.said) == everything, seed

    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok
    rows = case.sql("SELECT session_id, command_no, status FROM commands").fetchall()
    assert {status for _, _, status in rows} == {"ok"}
    session = case.session(str(rows[0][0]))
    head = f"forward 127.0.0.1:{server.port}".encode()
    seen = [b"".join(session.stream("client", command_no=no)) for _, no, _ in rows]
    assert sorted(each.removeprefix(head) for each in seen) == everything, seed
    for (_, no, _), up in zip(rows, seen, strict=True):
        down = b"".join(session.stream("target", command_no=no))
        said = up.removeprefix(head)
        answer = b"" if said == late else said[::-1]
        assert said == last or down == b"hello" + answer, seed


def test_a_secret_that_passes_in_pieces_is_in_no_file(started: Started, server: Server) -> None:
    mask = {"name": "keys", "detect": ["secrets"], "action": "redact", "apply": ["archive"]}
    gw, client = started(rule("allow", "127.0.0.1:*"), mask=[mask])
    server.is_prompt = True
    server.answer = lambda said: secret.encode()
    secret = "AKIAQQQSFODNN7EXAQQQ"
    local = free_port()
    with (
        forwarding(client, f"-L {local}:127.0.0.1:{server.port}", local),
        socket.create_connection(("127.0.0.1", local), timeout=30) as connection,
    ):
        for piece in ("key = ", secret[:9], secret[9:], " and more"):
            connection.sendall(piece.encode())
            assert connection.recv(1) == b"."  # it has arrived, in a packet of its own
    until(lambda: server.said != [], "the end of it")
    assert server.said == [f"key = {secret} and more".encode()]
    client.ssh("-W", f"{secret}.internal:22")
    case = recorded(gw)
    seen = b"".join(path.read_bytes() for path in gw.directory.rglob("*") if path.is_file())
    rows = case.sql("SELECT coalesce(payload::VARCHAR, '') || coalesce(text, '') FROM events")
    seen += "".join(row for (row,) in rows.fetchall()).encode()
    rows = case.sql("SELECT commands::VARCHAR FROM commands")
    seen += "".join(row for (row,) in rows.fetchall()).encode()
    assert secret.encode() not in seen
    assert secret[4:14].encode() not in seen
    assert secret.lower().encode() not in seen
    assert b"and more" in seen


@given(st.text("0123456789xXaFf.", min_size=1, max_size=14))
@example("0x7f.1")
@example("017700000001")
@example("2130706433")
@example("0x7F.0x0.0.01.")
@example("256.1")
@example("08.1")
def test_what_a_resolver_takes_for_an_address_is_never_a_name(host: str) -> None:
    place = Destination.of(host, 22)
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))  # the C library's own reading
    except OSError:
        return
    assert place is None or (place.host, place.asked) == (address, address)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        *(("", 22), (".", 22), ("a..b", 22), ("a b", 22), ("a\0b", 22), ("ä.example", 22)),
        *(("::1%lo", 22), ("[::1", 22), ("::g", 22), ("a:b", 22), ("1.2.3.4:5", 22)),
        *(("host", 0), ("host", 65536), ("a" * 64, 22), ("a." * 127 + "aa", 22)),
    ],
)
def test_what_is_no_host_with_a_port_is_no_destination(host: str, port: int) -> None:
    assert Destination.of(host, port) is None
