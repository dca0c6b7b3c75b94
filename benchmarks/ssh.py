"""`python -m benchmarks.ssh`: SSH through the gateway, beside `ssh -J` through a jump host.

Two real OpenSSH servers, the host and the jump, and a gateway in front of the same host, which
records `relaxed` and masks secrets. Both ways take turns, and each row is the ratio of their
medians: of rates, more is better; of times, less.

It prints no figures unless the archive verifies afterwards and has every channel.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Final

import asyncssh

import agentaudit as aa
from agentaudit.demo.database import free_port
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import Child, until
from agentaudit.demo.provider import IdentityProvider
from benchmarks.measure import peak_bytes

MIB: Final = 1 << 20
_SETTINGS: Final = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/key
PidFile none
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
Subsystem sftp internal-sftp
MaxSessions 500
MaxStartups 500
"""


_File = IO[bytes] | None


@dataclass(frozen=True, slots=True)
class Way:
    """How a client gets to the host."""

    name: str
    options: tuple[str, ...]
    host: str
    environment: dict[str, str]

    def run(self, *words: str, stdin: _File = None, stdout: _File = None) -> None:
        """Run `ssh` with a command."""
        argv = ["ssh", *self.options, self.host, *words]
        subprocess.run(argv, env=self.environment, check=True, stdin=stdin, stdout=stdout)

    def batch(self, script: str) -> None:
        """Run `sftp` with a script."""
        # Else a batch asks for no password.
        argv = ["sftp", "-q", "-o", "BatchMode=no", *self.options, "-b", "-", self.host]
        subprocess.run(
            argv,
            env=self.environment,
            check=True,
            input=script.encode(),
            stdout=subprocess.DEVNULL,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios; return 0, or 1 where the archive does not have it all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ssh")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--sessions", type=int, default=200)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "known_hosts").touch()
        host = stack.enter_context(_server(folder / "host"))
        jump = stack.enter_context(_server(folder / "jump"))
        gateway = stack.enter_context(_gateway(folder, host))
        ways = [_by_jump(folder, host, jump), _by_gateway(folder, gateway)]
        rows = [*_rows(ways, folder, asked.rounds, asked.mib), *_echo(ways, asked.rounds)]
        before = peak_bytes(gateway.pid)
        asyncio.run(_many(folder, gateway, asked.sessions))
        memory = peak_bytes(gateway.pid)
        gateway.terminate()
        case = aa.load(gateway.archive)
        if not case.verify(key=gateway.verifier_key).ok:
            print("the archive does not verify: no figures", file=sys.stderr)
            return 1
        ((recorded,),) = case.sql(
            "SELECT count(*) FROM commands WHERE operation IN ('exec', 'subsystem')"
        ).fetchall()
        # Handshakes four times a round, three transfers, each once more to warm up; and an echo.
        ran = 4 * asked.rounds + 1 + 3 * (asked.rounds + 1) + 1 + asked.sessions
        if recorded != ran:
            print(f"{ran} channels ran, {recorded} are recorded: no figures", file=sys.stderr)
            return 1
    print(f"{'':34}{'jump':>10}{'gateway':>10}{'ratio':>8}{'target':>9}")
    for row in rows:
        print(row)
    sessions = f"memory with {asked.sessions} sessions, MB"
    print(f"{sessions:34}{before / 1e6:>10.0f}{memory / 1e6:>10.0f}{'':8}{'<= 600':>9}")
    return 0


def _rows(ways: Sequence[Way], folder: Path, rounds: int, mib: int) -> Iterator[str]:
    data, copy = folder / "data", folder / "copy"
    with data.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB // 2) + b"words and numbers, 12345, and so on\n" * 14564)
    yield _times(
        "handshake and `true`, ms", ways, rounds * 4, lambda way: way.run("true"), "<= 1.0"
    )

    def download(way: Way) -> None:
        with copy.open("wb") as file:
            way.run("cat", str(data), stdout=file)

    def upload(way: Way) -> None:
        with data.open("rb") as file:
            way.run("cat", ">", "/dev/null", stdin=file)

    yield _rates("download by `cat`, MB/s", ways, rounds, download, data, ">= 0.75")
    get = f"get {data} {copy}\n"
    yield _rates(
        "download by sftp, MB/s", ways, rounds, lambda way: way.batch(get), data, ">= 0.75"
    )
    yield _rates("upload by `cat`, MB/s", ways, rounds, upload, data, ">= 1.2")


def _measured(ways: Sequence[Way], rounds: int, act: Callable[[Way], None]) -> list[float]:
    """Return the median of the seconds that each way takes; they take turns."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways if number % 2 else ways[::-1]:
            begun = time.perf_counter()
            act(way)
            if number:  # the first time warms up
                times[way.name].append(time.perf_counter() - begun)
    return [median(found) for found in times.values()]


def _times(
    what: str, ways: Sequence[Way], rounds: int, act: Callable[[Way], None], target: str
) -> str:
    jump, gateway = _measured(ways, rounds, act)
    return f"{what:34}{jump * 1e3:>10.1f}{gateway * 1e3:>10.1f}{gateway / jump:>8.2f}{target:>9}"


def _rates(
    what: str,
    ways: Sequence[Way],
    rounds: int,
    act: Callable[[Way], None],
    data: Path,
    target: str,
) -> str:
    jump, gateway = (data.stat().st_size / 1e6 / s for s in _measured(ways, rounds, act))
    return f"{what:34}{jump:>10.0f}{gateway:>10.0f}{gateway / jump:>8.2f}{target:>9}"


def _echo(ways: Sequence[Way], rounds: int) -> Iterator[str]:
    """Type letters into a terminal, and see how long each takes to come back."""
    with ExitStack() as stack:
        open_ = {
            way.name: stack.enter_context(
                subprocess.Popen(
                    ["ssh", *way.options, "-tt", way.host, "stty raw -echo; echo ready; cat"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=way.environment,
                )
            )
            for way in ways
        }
        for process in open_.values():
            assert process.stdout is not None
            while b"ready" not in process.stdout.readline():
                pass

        def type_letters(way: Way) -> None:
            process = open_[way.name]
            assert process.stdin is not None
            assert process.stdout is not None
            for letter in b"abcdefghij" * 5:
                os.write(process.stdin.fileno(), bytes([letter]))
                os.read(process.stdout.fileno(), 1)

        jump, gateway = (s / 50 for s in _measured(ways, rounds * 4, type_letters))
        for process in open_.values():
            process.kill()
    what = "echo of a letter, ms"
    yield f"{what:34}{jump * 1e3:>10.2f}{gateway * 1e3:>10.2f}{gateway / jump:>8.2f}{'<= 1.3':>9}"


async def _many(folder: Path, gateway: Gateway, sessions: int) -> None:
    """Have so many sessions at once, each of which says something."""
    secret = (folder / "secret").read_text()
    async with asyncio.timeout(300), AsyncExitStack() as stack:
        opened = []
        for _ in range(sessions):
            connection = await stack.enter_async_context(
                asyncssh.connect(
                    "127.0.0.1",
                    gateway.ssh_port,
                    username="host",
                    password=secret,
                    known_hosts=None,
                    config=[],
                )
            )
            opened.append(await connection.create_process("cat"))
        for process in opened:
            process.stdin.write("said\n" * 1000)
            process.stdin.write_eof()
        for process in opened:
            assert await process.stdout.read() == "said\n" * 1000


@contextmanager
def _server(folder: Path) -> Iterator[Path]:
    """Run an OpenSSH server whose files are in `folder`."""
    folder.mkdir()
    _make_key(folder / "key")
    (folder / "port").write_text(str(port := free_port()))
    (folder / "config").write_text(_SETTINGS.format(port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert server is not None, "apt-get install openssh-server"
    log = folder / "log"
    child = Child([server, "-D", "-e", "-f", str(folder / "config")], log=log, directory=folder)
    try:
        until(lambda: "Server listening" in log.read_text(), "sshd: start")
        yield folder
    finally:
        child.stop()


def _make_key(path: Path) -> None:
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(keygen, check=True)


@contextmanager
def _gateway(folder: Path, host: Path) -> Iterator[Gateway]:
    _make_key(folder / "gateway_key")
    with IdentityProvider(folder / "issuer") as provider:
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(provider.token("bench", ["data-agents"], agent="ssh"))
        place = folder / "gateway"
        place.mkdir()
        settings = {
            "gateway": {
                "name": "gw1",
                # Readers remember the log of an origin, and this one is another each time.
                "origin": f"bench-{os.urandom(8).hex()}.test",
                "durability": "relaxed",
                "ssh_host_key_file": str(folder / "gateway_key"),
            },
            "listen": {"ssh": "127.0.0.1:0"},
            "limits": {"actor_connections": 1000, "session_bytes": "1000GiB"},
            "mask": [{"name": "secrets", "detect": ["secrets"]}],
            "issuer": [{"url": provider.issuer, "audience": [provider.audience]}],
            "target": [
                {
                    "name": "host",
                    "protocol": "ssh",
                    "address": f"127.0.0.1:{(host / 'port').read_text()}",
                    "user": getpass.getuser(),
                    "key_file": str(host / "key"),
                    "host_keys": [_public(host / "key")],
                    "groups": ["data-agents"],
                }
            ],
        }
        with Gateway(place, settings) as gateway:
            yield gateway


def _public(key: Path) -> str:
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def _options(folder: Path) -> tuple[str, ...]:
    return (
        *("-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
        *("-o", f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "IdentitiesOnly=yes"),
    )


def _by_jump(folder: Path, host: Path, jump: Path) -> Way:
    user = getpass.getuser()
    common = " ".join(_options(folder))
    to = f"ssh {common} -i {jump / 'key'} -W %h:%p -p {(jump / 'port').read_text()}"
    options = (
        *_options(folder),
        *("-i", str(host / "key"), "-o", f"Port={(host / 'port').read_text()}"),
        *("-o", f"ProxyCommand={to} {user}@127.0.0.1", "-o", f"User={user}"),
    )
    return Way("jump", options, "127.0.0.1", dict(os.environ))


def _by_gateway(folder: Path, gateway: Gateway) -> Way:
    ask = folder / "askpass"
    ask.write_text(f"#!/bin/sh\ncat {folder / 'secret'}\n")
    ask.chmod(0o700)
    options = (
        *_options(folder),
        *("-o", "PreferredAuthentications=password", "-o", f"Port={gateway.ssh_port}"),
        *("-o", "User=host"),
    )
    asks = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none:0"}
    return Way("gateway", options, "127.0.0.1", {**os.environ, **asks})


if __name__ == "__main__":
    raise SystemExit(main())
