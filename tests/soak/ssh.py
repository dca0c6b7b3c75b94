"""`python -m tests.soak.ssh --minutes 10 --sessions 50`: SSH, everything at once.

Clients log in, run commands that take and give random bytes, fail, type lines into shells, carry
files and connections, change keys, read slowly and hang up. At the end each command that a client
knows of must have its one row, with the bytes that the client counted; the archive must verify, and
the gateway be no larger than it was.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncssh
import pytest
import uvloop

import agentaudit as aa
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import temporary_folder
from tests.peers.issuers import SigningIssuer
from tests.peers.sshd import Sshd, make_key, running_sshd
from tests.soak import accounts
from tests.soak.__main__ import Tokens, Verdict, judge_end, judge_memory
from tests.soak.samples import Sample, take

_MAX_BYTES: Final = 300_000
_PAUSE_S: Final = 0.4
"""Between two things that a client does, in the mean."""
_STEP_S: Final = 120.0

Row = tuple[str, str, str | None, int, int]
"""What is recorded of a command: operation, status, error_code, bytes_in and bytes_out."""


class Traffic:
    """What clients did, by a mark that each command has in its text, and what its row must say."""

    def __init__(self, gateway: Gateway, tokens: Tokens, echo: int, folder: Path) -> None:
        self.told: dict[str, Row] = {}
        self.files: dict[str, str] = {}
        self.forwarded: list[int] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.open = 0
        self._gateway = gateway
        self._tokens = tokens
        self._echo = echo
        self._folder = folder

    async def client(self, name: str, seed: str, until: float) -> None:
        """Connect again and again, and do all kinds of things."""
        random = Random(f"{seed} {name}")
        number = 0
        kinds: list[Callable[[Any, str, Random], Awaitable[None]]] = [
            *(self._pass, self._pass, self._fail, self._type),
            *(self._carry, self._forward, self._read_slowly),
        ]
        while time.monotonic() < until:
            connection = await asyncssh.connect(
                "127.0.0.1",
                self._gateway.ssh_port,
                username="host-1",
                password=self._tokens(name),
                known_hosts=None,
                config=[],
                rekey_bytes=random.choice(["64K", "1G"]),
                encryption_algs=[random.choice(["aes128-gcm@openssh.com", "aes128-ctr"])],
            )
            self.open += 1
            try:
                for _ in range(random.randrange(1, 8)):
                    number += 1
                    kind = random.choice(kinds)
                    mark = f"s{name}-{number}"
                    async with asyncio.timeout(_STEP_S):
                        await kind(connection, mark, random)
                    self.counts[kind.__name__.strip("_")] += 1
                    await asyncio.sleep(random.expovariate(1 / _PAUSE_S))
                if random.random() < 0.2:
                    number += 1
                    await self._hang_up(connection, f"s{name}-{number}")
            finally:
                self.open -= 1
                connection.close()
                await connection.wait_closed()

    async def _pass(self, connection: Any, mark: str, random: Random) -> None:
        data = random.randbytes(random.randrange(_MAX_BYTES))
        text = f"cat # {mark}"
        done = await connection.run(text, input=data, encoding=None)
        self._same(mark, done.stdout, data)
        said = len(data) + len(done.stderr)  # a start-up file of the host's may say something
        self.told[mark] = ("exec", "ok", None, len(text) + len(data), said)

    async def _fail(self, connection: Any, mark: str, random: Random) -> None:
        text, status = f"exit 3 # {mark}", 3
        done = await connection.run(text)
        if done.exit_status != status:
            self.wrong.append(f"{mark}: status {done.exit_status}")
        said = len(done.stdout.encode()) + len(done.stderr.encode())
        self.told[mark] = ("exec", "error", "3", len(text), said)

    async def _type(self, connection: Any, mark: str, random: Random) -> None:
        process = await connection.create_process(term_type="xterm", encoding="utf-8")
        seen = ""
        process.stdin.write(f"echo {mark} said\r")
        while seen.count(f"{mark} said") < 2:  # as it was typed, and as it was said
            said = await process.stdout.read(4096)
            if not said:
                self.wrong.append(f"{mark}: the shell ended, having said {seen[-200:]!r}")
                return
            seen += said
        process.stdin.write("exit\r")
        await process.wait_closed()
        self.told[mark] = ("line", "ok", None, -1, -1)

    async def _carry(self, connection: Any, mark: str, random: Random) -> None:
        data = random.randbytes(random.randrange(1, _MAX_BYTES))
        path = str(self._folder / mark)
        async with connection.start_sftp_client() as sftp:
            async with sftp.open(path, "wb", block_size=16384, max_requests=1) as file:
                await file.write(data)
            async with sftp.open(path, "rb", block_size=16384, max_requests=1) as file:
                self._same(mark, await file.read(), data)
            await sftp.remove(path)
        self.files[path] = hashlib.sha256(data).hexdigest()

    async def _forward(self, connection: Any, mark: str, random: Random) -> None:
        data = random.randbytes(random.randrange(1, _MAX_BYTES))
        reader, writer = await connection.open_connection("127.0.0.1", self._echo, encoding=None)
        writer.write(data)
        writer.write_eof()
        self._same(mark, await reader.read(), data)
        writer.close()
        await writer.wait_closed()
        self.forwarded.append(len(data))

    async def _read_slowly(self, connection: Any, mark: str, random: Random) -> None:
        size = random.randrange(_MAX_BYTES, 10 * _MAX_BYTES)
        text = f"head -c {size} /dev/zero # {mark}"
        process = await connection.create_process(text, encoding=None, window=32768)
        got = 0
        while data := await process.stdout.read(32768):
            got += len(data)
            await asyncio.sleep(0.01)
        if got != size:
            self.wrong.append(f"{mark}: {got} bytes of {size}")
        said = size + len(await process.stderr.read())
        await process.wait_closed()
        self.told[mark] = ("exec", "ok", None, len(text), said)

    async def _hang_up(self, connection: Any, mark: str) -> None:
        process = await connection.create_process(f"echo up; sleep 600 # {mark}")
        await process.stdout.readline()
        connection.abort()
        self.counts["hang_up"] += 1
        self.told[mark] = ("exec", "cancelled", None, -1, -1)

    def _same(self, mark: str, got: Any, sent: bytes) -> None:
        if got != sent:
            self.wrong.append(f"{mark}: {len(got)} bytes came back of {len(sent)}, or others")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.ssh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--sessions", type=int, default=50, help="at once (default: 50)")
    parser.add_argument("--workers", type=int, default=1, help="of the gateway (default: 1)")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    asked = parser.parse_args(argv)
    print(f"seed {asked.seed}; --seed repeats who does what, not when", flush=True)
    with temporary_folder("agentaudit-soak-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        verdict = _soak(asked, directory)
    print(*verdict.lines, sep="\n")
    return 0 if verdict.holds else 1


def _soak(asked: argparse.Namespace, directory: Path) -> Verdict:
    with ExitStack() as stack:
        issuer = SigningIssuer()
        stack.callback(issuer.close)
        (directory / "sshd").mkdir()
        host = stack.enter_context(running_sshd(directory / "sshd"))
        gateway = Gateway(directory / "gateway", _settings(asked, host, issuer, directory))
        gateway.start()
        stack.callback(gateway.terminate)
        (directory / "files").mkdir()
        traffic, samples = uvloop.run(_run(asked, gateway, Tokens(issuer), directory / "files"))
        gateway.wait_until_idle()
        after = take(gateway.pid, samples[-1].at, 0)
        status = gateway.terminate()
        verdict = Verdict()
        verdict.lines.append(f"\n{dict(traffic.counts.most_common())}\n")
        verdict.add("every byte came back", accounts.some(traffic.wrong), "as it was sent")
        judge_memory(verdict, samples, samples[0], after)
        _judge_records(verdict, gateway, traffic)
        judge_end(verdict, gateway, status)
        return verdict


def _settings(
    asked: argparse.Namespace, host: Sshd, issuer: SigningIssuer, directory: Path
) -> dict[str, Any]:
    make_key(directory / "gateway_key")
    return {
        "gateway": {
            "name": "gw1",
            "origin": "soak.test",
            "durability": "relaxed",
            "segment_bytes": "32MiB",
            "workers": asked.workers,
            "ssh_host_key_file": str(directory / "gateway_key"),
        },
        "listen": {"ssh": "127.0.0.1:0"},
        "mask": [{"name": "secrets", "detect": ["secrets"]}],
        "rule": [
            {
                "name": "the echo",
                "when": {"operation": ["forward"], "resource": ["127.0.0.1:*"]},
                "action": "allow",
            }
        ],
        "issuer": [{"url": issuer.issuer, "audience": [issuer.audience]}],
        "target": [host.target()],
    }


async def _run(
    asked: argparse.Namespace, gateway: Gateway, tokens: Tokens, folder: Path
) -> tuple[Traffic, list[Sample]]:
    """Have the sessions; return what they did, and samples of the gateway, one a second."""
    samples: list[Sample] = []
    began = time.monotonic()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def watch(traffic: Traffic) -> None:
        while True:
            await asyncio.sleep(1)
            samples.append(take(gateway.pid, time.monotonic() - began, traffic.open))

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        traffic = Traffic(gateway, tokens, port, folder)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(traffic))
            async with asyncio.TaskGroup() as clients:
                for number in range(asked.sessions):
                    until = began + asked.minutes * 60
                    # Five actors, for an actor's connections are counted.
                    name = f"{'abcde'[number % 5]}{number}"
                    clients.create_task(traffic.client(name, asked.seed, until))
            watching.cancel()
    return traffic, samples


def _judge_records(verdict: Verdict, gateway: Gateway, traffic: Traffic) -> None:
    case = aa.load(gateway.archive)
    rows = case.sql(
        "SELECT regexp_extract(text, '\\bs[a-e]\\d+-\\d+\\b') AS mark, operation, status, "
        "error_code, bytes_in, bytes_out FROM commands WHERE operation IN ('exec', 'line')"
    ).fetchall()
    found: dict[str, list[Row]] = {}
    for mark, *row in rows:
        found.setdefault(mark, []).append((row[0], row[1], row[2], row[3], row[4]))
    verdict.add(
        "each command has one row, with its bytes",
        accounts.some(unlike(traffic.told, found)),
        f"{len(traffic.told):,} of {len(rows):,}, in {_count(case, 'sessions'):,} sessions, "
        f"{_count(case, 'events'):,} events",
    )
    carried = case.sql(
        "SELECT paths[1], operation, sha256[1] FROM commands "
        "WHERE operation IN ('sftp.read', 'sftp.write')"
    ).fetchall()
    expected = Counter(
        (path, operation, digest)
        for path, digest in traffic.files.items()
        for operation in ("sftp.read", "sftp.write")
    )
    verdict.add(
        "each file is recorded as it was, both ways",
        accounts.some(map(str, expected - Counter(carried))),
        f"{len(traffic.files):,} files",
    )
    sizes = case.sql(
        "SELECT bytes_in - strlen(text), bytes_out FROM commands WHERE operation = 'forward'"
    ).fetchall()
    through = Counter((size, size) for size in traffic.forwarded)
    verdict.add(
        "each connection through the host has its bytes, both ways",
        accounts.some(map(str, through - Counter(sizes))),
        f"{len(sizes):,} connections",
    )


def unlike(told: dict[str, Row], found: dict[str, list[Row]]) -> Iterator[str]:
    for mark, row in told.items():
        rows = found.get(mark, [])
        if len(rows) != 1:
            yield f"{mark}: {len(rows)} rows"
        elif any(wanted not in (-1, is_) for wanted, is_ in zip(row, rows[0], strict=True)):
            yield f"{mark}: expected {row}, found {rows[0]}"


def _count(case: aa.Case, table: str) -> int:
    ((n,),) = case.sql(f"SELECT count(*) FROM {table}").fetchall()
    count: int = n
    return count


if __name__ == "__main__":
    sys.exit(main())
