"""What clients connect to: the server, pgbouncer in front of it, and the gateway in each mode."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentaudit.demo.database import Postgres, embedded_postgres, free_port
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import Child, PeerError
from agentaudit.demo.provider import IdentityProvider
from benchmarks import synthetic
from benchmarks.measure import Processes, put_ahead
from benchmarks.sealing import Archive

DATABASE = "bench"
SYNTHETIC = "synthetic"
"""The server of ours that answers as fast as its socket takes it, by its name in between."""

CONNECTIONS = 600
"""How many connections everything between client and server lets in."""

_SSL_REQUEST = struct.pack(">II", 8, 80877103)
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way to the same database; `gateway` is set if it is ours.

    Where it `is_ahead`, so are its clients: nothing else on the machine comes before them.
    """

    name: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = DATABASE
    tls: bool = False
    is_ahead: bool = False
    pid: int | None = None
    gateway: Gateway | None = None
    archive: Archive | None = None

    def libpq(self, application: str) -> dict[str, str]:
        """Return libpq's parameters for this target, by keyword."""
        return {
            "host": "127.0.0.1",
            "port": str(self.port),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "application_name": application,
            "sslmode": "require" if self.tls else "disable",
        }

    def environment(self, application: str) -> dict[str, str]:
        """Return the environment of a client of this target, named `application`."""
        names = {"dbname": "PGDATABASE", "application_name": "PGAPPNAME"}
        libpq = {
            names.get(key, f"PG{key.upper()}"): value
            for key, value in self.libpq(application).items()
        }
        return {name: v for name, v in os.environ.items() if not name.startswith("PG")} | libpq

    def to(self, database: str) -> Target:
        """Return the way to another database."""
        return replace(self, database=database)

    def over_tls(self) -> Target:
        """Return the same target, its clients in TLS."""
        return replace(self, name=f"{self.name} TLS", tls=True)

    @property
    def processes(self) -> Processes:
        """The processes in between; of the server itself, none."""
        return Processes() if self.pid is None else Processes.of(self.pid)


class Peers:
    """The server, pgbouncer and the provider of tokens, for as long as the benchmark runs.

    Gateways come and go, so that their archives never need more room than one part of it takes.
    """

    def __init__(
        self, directory: Path, scale: int, *, ahead: bool = False, workers: int | None = None
    ) -> None:
        """Say what pgbench's `scale` is, and how many `workers` a gateway has, if not as it comes.

        `ahead`: all that takes part, but for sealers, runs before the rest of the machine.
        """
        self.directory = directory
        self._ahead = ahead
        self._workers = {} if workers is None else {"workers": workers}
        self._scale = scale
        self._stack = ExitStack()
        self._password = secrets.token_urlsafe(18)
        self._begun = 0

    def __enter__(self) -> Peers:
        with ExitStack() as stack:
            self._certificate, self._key = _certificate()
            self.server = stack.enter_context(_server())
            self.server.execute(
                f"CREATE ROLE bench LOGIN PASSWORD '{self._password}'",
                f"CREATE DATABASE {DATABASE} OWNER bench",
            )
            self.direct = Target(
                name="direct",
                port=self.server.port,
                user="bench",
                password=self._password,
                is_ahead=self._ahead,
            )
            self._fill()
            self.synthetic = stack.enter_context(self._synthetic())
            self.pgbouncer = stack.enter_context(self._pgbouncer())
            self._provider = stack.enter_context(IdentityProvider(self.directory / "issuer"))
            self._token = self._provider.token("bench", ["data-agents"], agent="pgbench")
            if self._ahead:
                for pid in (self.server.pid, self.pgbouncer.pid, self._synthetic_pid):
                    assert pid is not None
                    put_ahead(pid)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def gateways(self, *durabilities: str) -> Iterator[dict[str, Target]]:
        """Yield a gateway, with an archive of its own, for each of `durabilities`.

        Their archives are gone afterwards: what is in them is to be checked before.
        """
        self._begun += 1
        folder = self.directory / f"gateways-{self._begun}"
        folder.mkdir()
        try:
            with ExitStack() as stack:
                found = {}
                for durability in durabilities:
                    gateway = stack.enter_context(self._gateway(folder / durability, durability))
                    for pid in Processes.of(gateway.pid).relaying if self._ahead else ():
                        put_ahead(pid)
                    found[durability] = Target(
                        name=durability,
                        port=gateway.port,
                        user="bench",
                        password=self._token,
                        pid=gateway.pid,
                        is_ahead=self._ahead,
                        gateway=gateway,
                        archive=Archive(gateway.archive),
                    )
                yield found
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fill(self) -> None:
        subprocess.run(
            [pgbench(), "--initialize", "--quiet", f"--scale={self._scale}"],
            check=True,
            capture_output=True,
            env=self.direct.environment("initialize"),
        )

    @contextmanager
    def _synthetic(self) -> Iterator[Target]:
        with synthetic.running(self.directory) as (port, pid):
            self._synthetic_pid = pid
            yield Target(
                name="direct",
                port=port,
                user="bench",
                password="",
                database=SYNTHETIC,
                is_ahead=self._ahead,
            )

    @contextmanager
    def _pgbouncer(self) -> Iterator[Target]:
        """Run pgbouncer in session mode; it trusts its clients, so it has less to do than we."""
        binary = next(
            (p for p in map(Path, ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer")) if p.exists()),
            None,
        )
        if binary is None:
            raise PeerError("no pgbouncer", hint="apt-get install pgbouncer, or make bench")
        port, server = free_port(), self.server
        settings = self._give("pgbouncer.ini", b"")
        certificate = self._give("pgbouncer.pem", self._certificate)
        key = self._give("pgbouncer.key", self._key)
        login = f"host=127.0.0.1 port={server.port} user=bench password={self._password}"
        settings.write_text(
            f"""\
[databases]
{DATABASE} = {login}
{SYNTHETIC} = host=127.0.0.1 port={self.synthetic.port} user=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = session
default_pool_size = 100
max_client_conn = {CONNECTIONS}
client_tls_sslmode = allow
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
log_connections = 0
log_disconnections = 0
""",
            encoding="utf-8",
        )
        child = Child(
            [binary, settings],
            log=self.directory / "pgbouncer.log",
            directory=server.directory,
            user=server.user,
        )
        try:
            child.wait_for(lambda: _accepts(port), "pgbouncer: start")
            yield Target(
                name="pgbouncer",
                port=port,
                user="bench",
                password="",
                pid=child.pid,
                is_ahead=self._ahead,
            )
        finally:
            child.stop()

    def _give(self, name: str, content: bytes) -> Path:
        """Write a file that only the server's user reads, as pgbouncer runs as that user."""
        path = self.server.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        self.server.give(path)
        return path

    def _gateway(self, folder: Path, durability: str) -> Gateway:
        folder.mkdir()
        files: Mapping[str, bytes] = {
            "password": self._password.encode(),
            "cert.pem": self._certificate,
            "key.pem": self._key,
        }
        for name, content in files.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(content)
        return Gateway(
            folder,
            {
                "gateway": {
                    "name": durability,
                    # Another log, whatever its name: what is remembered of one is not of the next.
                    "origin": f"part-{self._begun}.bench.invalid",
                    "durability": durability,
                    "tls_cert_file": "cert.pem",
                    "tls_key_file": "key.pem",
                    **self._workers,
                },
                "listen": {"postgres": "127.0.0.1:0"},
                "limits": {"actor_connections": CONNECTIONS},
                "issuer": [{"url": self._provider.issuer, "audience": [self._provider.audience]}],
                "target": [
                    {
                        "name": DATABASE,
                        "address": f"{self.server.host}:{self.server.port}",
                        "database": DATABASE,
                        "user": "bench",
                        "password_file": "password",
                        "tls": "disable",
                        "groups": ["data-agents"],
                    },
                    {
                        "name": SYNTHETIC,
                        "address": f"127.0.0.1:{self.synthetic.port}",
                        "database": SYNTHETIC,
                        "user": "bench",
                        "require_auth": ["none"],
                        "tls": "disable",
                        "groups": ["data-agents"],
                    },
                ],
            },
        )


def tls_of(target: Target) -> str:
    """Return the version and the cipher that a target agrees on with a client that takes any.

    Raises:
        PeerError: it does not speak TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", target.port), timeout=30) as plain:
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise PeerError(f"{target.name}: does not offer TLS")
        with context.wrap_socket(plain) as encrypted:
            cipher, version, _ = encrypted.cipher() or ("none", "none", 0)
    return f"{version}, {cipher}"


def pgbench() -> Path:
    """Return Debian's pgbench, the newest; that of the wheel cannot speak TLS.

    Raises:
        PeerError: there is none.
    """
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3])
    )
    if not found:
        raise PeerError("no pgbench of Debian's", hint="apt-get install postgresql, or make bench")
    return found[-1]


@contextmanager
def _server() -> Iterator[Postgres]:
    """Run PostgreSQL, its files in memory where there is room.

    What the server writes back would meet the archives on their disk, and who pays for that is
    chance.
    """
    settings = {
        "shared_buffers": "512MB",
        "max_connections": str(CONNECTIONS + 20),
        "log_statement": "none",
    }
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES
    before = tempfile.tempdir
    tempfile.tempdir = str(_MEMORY) if has_room else before
    try:
        server = Postgres(binaries=embedded_postgres(), settings=settings)
    finally:
        tempfile.tempdir = before
    with server:
        yield server


def _certificate() -> tuple[bytes, bytes]:
    """Return a certificate for loopback and its key, P-256, PEM; it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench.invalid")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
