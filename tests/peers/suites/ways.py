"""Three ways from a client to a server: straight, through a byte pump, and through the gateway.

Each is a world of its own, with new servers, because the suites leave things behind. The login is
the superuser's, as the suites want it: only the password differs, which is a token for the gateway.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from agentaudit.archive.snapshot import open_archive
from agentaudit.archive.verify import verify
from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import PeerError
from agentaudit.demo.provider import IdentityProvider
from tests.peers.postgres import DEBIAN_BINARIES
from tests.peers.pump import Pump

WAYS = ("direct", "pump", "gateway")

SERVERS: Mapping[str, Callable[[], Path]] = {
    "18": embedded_postgres,
    "15": lambda: DEBIAN_BINARIES,
}

Note = Callable[[str], None]
"""Told what is worth a line."""

_USER = "postgres"
_GROUP = "data-agents"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suite connects to; `standby_port` is 0 where it wanted none."""

    host: str
    port: int
    password: str = field(repr=False)
    server: str
    standby_port: int = 0

    @property
    def user(self) -> str:
        return _USER

    def environment(self, database: str) -> dict[str, str]:
        """Return ours with the variables of libpq, and those of the plugin, for this place."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": _USER,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
            "AGENTAUDIT_SERVER": self.server,
            "AGENTAUDIT_STANDBY_PORT": str(self.standby_port),
        }


@dataclass(frozen=True, slots=True)
class Need:
    """What a suite wants to find.

    `database` is made with what `prepare` makes in it. `later` are databases that the suite makes
    itself and then connects to: the gateway knows databases by the names of its targets alone.
    """

    database: str
    prepare: Sequence[str] = ()
    later: Sequence[str] = ()
    standby: bool = False


@contextmanager
def way(name: str, need: Need, *, server: str, directory: Path, note: Note) -> Iterator[Place]:
    """Yield the place that a suite is to connect to; what stands behind it ends with the block.

    Raises:
        PeerError: something does not start, or what the gateway recorded is not sound.
    """
    with ExitStack() as stack:
        password = secrets.token_hex(18)
        servers = [stack.enter_context(_server(server, password, need))]
        if need.standby:
            servers.append(stack.enter_context(_standby(server, password)))
        ports = [one.port for one in servers]
        shown = password
        if name == "pump":
            pumps = [Pump(one.host, one.port) for one in servers]
            for pump in pumps:
                stack.callback(pump.close)
            ports = [pump.port for pump in pumps]
        elif name == "gateway":
            issuer = stack.enter_context(IdentityProvider(directory / "issuer"))
            ports = [
                stack.enter_context(
                    _gateway(directory / f"gateway-{number}", one, password, need, issuer, note)
                ).port
                for number, one in enumerate(servers)
            ]
            shown = issuer.token("suite", [_GROUP], minutes=240)
        yield Place("127.0.0.1", ports[0], shown, server, *ports[1:])


def _postgres(server: str) -> Postgres:
    return Postgres(
        binaries=SERVERS[server](),
        settings={
            "max_connections": "150",
            "max_prepared_transactions": "10",
            "log_statement": "none",
            "jit": "off",
        },
    )


@contextmanager
def _server(server: str, password: str, need: Need) -> Iterator[Postgres]:
    with _postgres(server) as postgres:
        postgres.execute(f"ALTER ROLE {_USER} PASSWORD '{password}'")
        if need.database != "postgres":
            postgres.execute(f"CREATE DATABASE {need.database}")
        if need.prepare:
            postgres.execute(*need.prepare, database=need.database)
        yield postgres


@contextmanager
def _standby(server: str, password: str) -> Iterator[Postgres]:
    """Yield a server in recovery, which is all that a client can tell of a standby."""
    with _postgres(server) as postgres:
        postgres.execute(f"ALTER ROLE {_USER} PASSWORD '{password}'")
        postgres.stop()
        signal = postgres.data / "standby.signal"
        signal.touch()
        postgres.give(signal)
        postgres.start()
        yield postgres


@contextmanager
def _gateway(
    directory: Path,
    server: Postgres,
    password: str,
    need: Need,
    issuer: IdentityProvider,
    note: Note,
) -> Iterator[Gateway]:
    directory.mkdir()
    secret = directory / "password"
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="utf-8")
    targets = [
        {
            "name": database,
            "address": f"{server.host}:{server.port}",
            "database": database,
            "user": _USER,
            "password_file": str(secret),
            "tls": "disable",
            "groups": [_GROUP],
        }
        for database in (need.database, *need.later)
    ]
    settings = {
        "gateway": {"name": "gw1", "origin": "suites.test"},
        "listen": {"postgres": "127.0.0.1:0"},
        "issuer": [{"url": issuer.issuer, "audience": [issuer.audience]}],
        "target": targets,
    }
    with Gateway(directory, settings) as gateway:
        yield gateway
        status = gateway.terminate()
    if status != 0:
        raise PeerError(f"gateway: exit status {status}\n{gateway.log_text()[-2000:]}")
    note(_recorded(gateway))


def _recorded(gateway: Gateway) -> str:
    """Return what was recorded, in words.

    Raises:
        PeerError: the archive does not verify, or a session ended for what the gateway took for a
            breach of the protocol.
    """
    found = verify(gateway.archive, key=gateway.verifier_key, deep=True, remember=False)
    if not found.ok:
        raise PeerError(f"the recording of the suite does not verify: {found.findings}")
    reasons = Counter[str]()
    for path in open_archive(gateway.archive).files["sessions"]:
        reasons.update(pq.read_table(path, columns=["close_reason"])["close_reason"].to_pylist())
    if reasons["protocol_error"]:
        raise PeerError(
            f"gateway: {reasons['protocol_error']} sessions ended as protocol_error\n"
            + gateway.log_text()[-2000:]
        )
    return f"recorded {found.sessions} sessions, {found.commands} commands; verify --deep: yes"
