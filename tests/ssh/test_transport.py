"""The shorter way of channels' bytes: the ciphers that it takes, new keys, and what was changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from typing import Any

import asyncssh
import pytest

from agentaudit.gateway.ssh_transport import while_keys_change
from tests.ssh.client import OpenSsh, Started, recorded

CIPHERS = {
    "": "aes128-gcm@openssh.com",  # though OpenSSH has aes128-ctr first
    "aes256-gcm@openssh.com": "aes256-gcm@openssh.com",
    "aes128-ctr": "aes128-ctr",
    "aes256-ctr,aes256-gcm@openssh.com": "aes256-gcm@openssh.com",
}


def test_each_cipher_carries_all_bytes_while_keys_are_changed(started: Started) -> None:
    gw, client = started()
    data = os.urandom(1_500_000)
    for asked, taken in CIPHERS.items():
        options = ["-vv", "-o", "RekeyLimit=300K", *(["-c", asked] if asked else [])]
        said = client.ssh(*options, "cat", input=data)
        assert said.returncode == 0, said.stderr
        assert hashlib.sha256(said.stdout).digest() == hashlib.sha256(data).digest(), asked
        assert f"client->server cipher: {taken}".encode() in said.stderr, asked
        assert said.stderr.count(b"rekeying in progress") > 2 or said.stderr.count(b"NEWKEYS") > 4
    case = recorded(gw)
    rows = case.sql("SELECT bytes_in, bytes_out, status FROM commands").fetchall()
    assert rows == [(len(data) + len("cat"), len(data), "ok")] * len(CIPHERS)
    assert case.verify(key=gw.verifier_key).ok


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes128-ctr"])
def test_a_byte_that_was_changed_on_the_way_goes_nowhere(started: Started, cipher: str) -> None:
    gw, client = started()

    async def tampered() -> None:
        passed = 0

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at: int) -> None:
            nonlocal passed
            with suppress(OSError):
                while data := bytearray(await reader.read(65536)):
                    if passed < at <= passed + len(data):
                        data[at - passed - 1] ^= 1
                    passed += len(data) if at else 0
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up = await asyncio.open_connection("127.0.0.1", gw.ssh_port)
            async with asyncio.TaskGroup() as both:
                both.create_task(pump(reader, up[1], 40_000))
                both.create_task(pump(up[0], writer, 0))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = await _connect(client, port, cipher)
            async with connection:
                process = await connection.create_process("cat", encoding=None)
                process.stdin.write(b"x" * 100_000)
                process.stdin.write_eof()
                with pytest.raises(asyncssh.MACError):
                    await process.stdout.read()

    asyncio.run(asyncio.wait_for(tampered(), 60))
    case = recorded(gw)
    ((size, status),) = case.sql("SELECT bytes_in, status FROM commands").fetchall()
    assert size < 100_000
    assert status != "ok"
    assert case.verify(key=gw.verifier_key).ok


async def _connect(client: OpenSsh, port: int, cipher: str) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1",
        port,
        username="host-1",
        password=client.token,
        known_hosts=None,
        encryption_algs=[cipher],
        config=[],
    )


async def test_who_changes_keys_again_and_again_is_not_cut_and_who_never_ends_it_is() -> None:
    timers: list[Any] = []

    class End:
        """As much of the library's connection as is asked."""

        _kex_complete = True
        cuts = 0

        def __init__(self) -> None:
            self._loop = self

        def call_later(self, seconds: float, act: Any) -> Any:
            timer = asyncio.get_running_loop().call_later(60, act)
            timers.append((timer, act))
            return timer

        def _send_kexinit(self) -> None:
            self._kex_complete = False

        def _send_deferred_packets(self) -> None: ...

        def abort(self) -> None:
            self.cuts += 1

    end: Any = End()
    told: list[str] = []
    while_keys_change(end, lambda: told.append("begun"), lambda: told.append("ended"))
    for _ in range(3):
        end._send_kexinit()
        end._kex_complete = True
        end._send_deferred_packets()
    assert told == ["begun", "ended"] * 3
    assert all(timer.cancelled() for timer, _ in timers)
    end._send_kexinit()
    timer, cut = timers[-1]
    assert not timer.cancelled()
    cut()
    timer.cancel()
    assert end.cuts == 1
