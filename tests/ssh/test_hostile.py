"""Whoever means harm ends its own session: nobody else notices, and memory stays bounded."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import asyncssh
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from benchmarks.measure import peak_bytes
from tests.ssh.client import OpenSsh, Started, connected, recorded

MIB = 1 << 20
GROWTH = 96 * MIB


@contextmanager
def undisturbed(gw: Gateway, client: OpenSsh) -> Iterator[None]:
    """Somebody else works before and after, and the gateway does not grow meanwhile."""
    assert client.ssh("echo", "before").stdout == b"before\n"
    before = peak_bytes(gw.pid)
    yield
    assert client.ssh("echo", "after").stdout == b"after\n"
    assert peak_bytes(gw.pid) - before < GROWTH
    assert "Traceback" not in gw.log_text()


def dial(client: OpenSsh) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=30)


def test_what_is_no_handshake_ends_its_own_connection(started: Started) -> None:
    gw, client = started()
    with undisturbed(gw, client):
        for said in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\0" * 5000,
            b"SSH-1.5-old\r\n",
            b"SSH-2.0-x\r\n" + b"\xff" * 5000,
            b"SSH-2.0-x\r\n" + b"\x7f\xff\xff\xff" * 10,
            b"x" * 200_000,
        ):
            # It may be ended before all is said.
            with dial(client) as conn, suppress(OSError):
                conn.sendall(said)
                conn.shutdown(socket.SHUT_WR)
                while conn.recv(65536):
                    pass
    assert recorded(gw).sql("SELECT count(*) FROM sessions WHERE protocol = 'ssh'").fetchall()


def test_those_who_open_connections_and_say_nothing_make_room(started: Started) -> None:
    gw, client = started(limits={"preauth_connections": 20})
    with undisturbed(gw, client), ExitStack() as idle:
        for number in range(100):
            conn = idle.enter_context(dial(client))
            if number % 2:
                conn.sendall(b"SSH-2.0-half\r\n")
        assert client.ssh("echo", "meanwhile").stdout == b"meanwhile\n"


async def test_channels_and_window_changes_without_end(started: Started) -> None:
    gw, client = started()
    with undisturbed(gw, client):
        async with connected(client) as connection:
            opened = [await connection.create_process("cat") for _ in range(64)]
            with pytest.raises(asyncssh.ChannelOpenError, match="64 channels are open"):
                await connection.create_process("cat")
            for number in range(20_000):
                opened[0].change_terminal_size(number % 200 + 1, 24)
            for process in opened:
                process.stdin.write_eof()
            for process in opened:
                await process.wait()
    rows = (
        recorded(gw).sql("SELECT count(*) FROM events WHERE text LIKE 'window-change %'").fetchall()
    )
    assert rows == [(20_000,)]


async def test_a_window_of_gigabytes_is_no_reason_to_keep_what_nobody_reads(
    started: Started,
) -> None:
    gw, client = started()
    with undisturbed(gw, client):
        async with connected(client) as connection:
            connection.set_keepalive(0)
            await connection.create_process("head -c 300M /dev/zero", window=1 << 31, encoding=None)
            connection._transport.pause_reading()
            await asyncio.sleep(3)
            connection.abort()
    assert recorded(gw).sql("SELECT sum(bytes_out) < 30000000 FROM commands").fetchall()[0][0]


async def test_channels_that_are_over_and_never_closed_are_counted(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, client = started(exec_only=True)
    with undisturbed(gw, client):
        async with connected(client) as connection:
            handlers = dict(asyncssh.SSHClientChannel._packet_handlers)
            handlers[97] = lambda *_: None
            monkeypatch.setattr(asyncssh.SSHClientChannel, "_packet_handlers", handlers)
            for _ in range(128):
                await connection.create_session(asyncssh.SSHClientSession)
            with pytest.raises(asyncssh.ChannelOpenError, match="channels are open"):
                await connection.create_session(asyncssh.SSHClientSession)
            monkeypatch.undo()


async def test_variables_without_end_are_not_kept(started: Started) -> None:
    gw, client = started()
    with undisturbed(gw, client):
        async with connected(client) as connection:
            variables = {f"LC_{number}": "x" * 30_000 for number in range(3000)}
            variables |= {f"NO_{number}": "x" * 30_000 for number in range(500)}
            assert (await connection.run("true", env=variables)).exit_status == 0
    rows = recorded(gw).sql("SELECT count(*) FROM events WHERE text LIKE 'env LC_%'").fetchall()
    assert rows == [(64,)]


async def test_whoever_was_not_let_in_does_not_stay(started: Started) -> None:
    gw, client = started()
    with undisturbed(gw, client):
        connection = await connected(client, user="nowhere")
        assert (await connection.run("true")).exit_status == 254
        async with asyncio.timeout(8):
            await connection.wait_closed()


def test_output_that_is_never_read_waits_at_the_host(started: Started) -> None:
    gw, client = started()
    argv = ["ssh", *client.options, "-p", str(client.port), "-l", "host-1", "127.0.0.1"]
    with undisturbed(gw, client):
        process = subprocess.Popen(
            [*argv, "head -c 500M /dev/zero; echo at the end >&2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=client.environment,
        )
        try:
            assert process.stdout is not None
            process.stdout.read(1 << 20)
            assert client.ssh("echo", "meanwhile").stdout == b"meanwhile\n"
        finally:
            process.kill()
            process.communicate()
    until(lambda: '"reason": "client"' in gw.log_text(), "it has ended")
