"""What pgbench connects to: the server, pgbouncer in front of it, and the gateway in each mode."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentaudit.demo.database import Postgres, embedded_postgres, free_port
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import Child, PeerError
from agentaudit.demo.provider import IdentityProvider

DURABILITIES = ("strict", "writes", "relaxed")
DATABASE = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way to the same database; `pid` is the process in between, `gateway` is set if ours."""

    name: str
    port: int
    user: str
    password: str = field(repr=False)
    pid: int | None = None
    gateway: Gateway | None = None

    def environment(self, application: str) -> dict[str, str]:
        """Return libpq's variables for this target; sessions carry `application` as their name."""
        libpq = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": DATABASE,
            "PGAPPNAME": application,
            "PGSSLMODE": "disable",
        }
        return {name: v for name, v in os.environ.items() if not name.startswith("PG")} | libpq


@contextmanager
def running(directory: Path, scale: int, durabilities: Sequence[str]) -> Iterator[list[Target]]:
    """Start everything, fill pgbench's tables at `scale`, and yield the targets, direct first."""
    password = secrets.token_urlsafe(18)
    settings = {"shared_buffers": "512MB", "max_connections": "200", "log_statement": "none"}
    with ExitStack() as stack:
        server = stack.enter_context(Postgres(binaries=embedded_postgres(), settings=settings))
        server.execute(
            f"CREATE ROLE bench LOGIN PASSWORD '{password}'",
            f"CREATE DATABASE {DATABASE} OWNER bench",
        )
        direct = Target(name="direct", port=server.port, user="bench", password=password)
        _fill(direct, server.binaries / "pgbench", scale)
        targets = [direct, stack.enter_context(_pgbouncer(directory, server, password))]
        provider = stack.enter_context(IdentityProvider(directory / "issuer"))
        token = provider.token("bench", ["data-agents"], agent="pgbench")
        for durability in durabilities:
            gateway = _gateway(directory, server, provider, password, durability)
            stack.enter_context(gateway)
            targets.append(
                Target(
                    name=durability,
                    port=gateway.port,
                    user="bench",
                    password=token,
                    pid=gateway.pid,
                    gateway=gateway,
                )
            )
        yield targets


def _fill(target: Target, pgbench: Path, scale: int) -> None:
    import subprocess

    subprocess.run(
        [pgbench, "--initialize", "--quiet", f"--scale={scale}"],
        check=True,
        capture_output=True,
        env=target.environment("initialize"),
    )


@contextmanager
def _pgbouncer(directory: Path, server: Postgres, password: str) -> Iterator[Target]:
    """Run pgbouncer in session mode; it trusts its clients, so it has less to do than we have."""
    binary = next(
        (p for p in map(Path, ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer")) if p.exists()), None
    )
    if binary is None:
        raise PeerError("no pgbouncer", hint="apt-get install pgbouncer, or make bench")
    port = free_port()
    settings = server.directory / "pgbouncer.ini"
    settings.touch(mode=0o600)
    settings.write_text(
        f"""\
[databases]
{DATABASE} = host=127.0.0.1 port={server.port} user=bench password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = session
default_pool_size = 100
max_client_conn = 200
log_connections = 0
log_disconnections = 0
""",
        encoding="utf-8",
    )
    server.give(settings)
    child = Child(
        [binary, settings],
        log=directory / "pgbouncer.log",
        directory=server.directory,
        user=server.user,
    )
    try:
        child.wait_for(lambda: _accepts(port), "pgbouncer: start")
        yield Target(name="pgbouncer", port=port, user="bench", password="", pid=child.pid)
    finally:
        child.stop()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _gateway(
    directory: Path, server: Postgres, provider: IdentityProvider, password: str, durability: str
) -> Gateway:
    folder = directory / durability
    folder.mkdir()
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="utf-8")
    return Gateway(
        folder,
        {
            "gateway": {
                "name": durability,
                "origin": "bench.invalid",
                "durability": durability,
            },
            "listen": {"postgres": "127.0.0.1:0"},
            "issuer": [{"url": provider.issuer, "audience": [provider.audience]}],
            "target": [
                {
                    "name": DATABASE,
                    "address": f"{server.host}:{server.port}",
                    "database": DATABASE,
                    "user": "bench",
                    "password_file": str(secret),
                    "tls": "disable",
                    "groups": ["data-agents"],
                }
            ],
        },
    )
