"""A server's own account of what it ran: PostgreSQL's csvlog, read as it grows.

It is the witness that knows nothing of us: for each statement its text, its parameters, and how it
ended. Times, pids and texts are the server's.

Format: postgresql.org/docs/current/runtime-config-logging.html, "Using CSV-Format Log Output"
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.processes import PeerError, until
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer

_RAN = re.compile(
    r"duration: [\d.]+ ms  (?:statement|execute (?P<name>.*?)): (?P<text>.*)\Z", re.DOTALL
)
_PARAMETER = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")


@dataclass(frozen=True, slots=True)
class Line:
    """One entry; `query` is the statement that an error was about, empty where none was."""

    application: str
    pid: int
    severity: str
    sqlstate: str
    message: str
    detail: str
    query: str
    context: str

    @property
    def ran(self) -> str | None:
        """The text of the statement that this entry says has run to its end, None for any other."""
        found = _RAN.match(self.message) if self.severity == "LOG" else None
        return None if found is None else found["text"]

    @property
    def has_failed(self) -> bool:
        """Whether this entry says that a statement, or the connection with it, has failed."""
        return self.severity in ("ERROR", "FATAL", "PANIC")

    @property
    def params(self) -> tuple[str | None, ...] | None:
        """The parameters of an execution, as texts; None where the entry does not say."""
        for text in (self.detail, self.context):
            # PostgreSQL 15 writes `parameters:`, 16 and newer `Parameters:`.
            _, found, values = text.replace("Parameters:", "parameters:").partition("parameters:")
            if found:
                return tuple(
                    None if value == "NULL" else value[1:-1].replace("''", "'")
                    for value in _PARAMETER.findall(values)
                )
        return None


class ServerLog:
    """The csvlog in one file; each `read` returns what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    def read(self) -> Iterator[Line]:
        """Yield the entries that were written since the last call and are whole."""
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        end = _whole(data)
        self._at += end
        text = data[:end].decode("utf-8", "replace")
        for fields in csv.reader(io.StringIO(text, newline="")):
            yield Line(
                application=fields[22],
                pid=int(fields[3]),
                severity=fields[11],
                sqlstate=fields[12],
                message=fields[13],
                detail=fields[14],
                query=fields[19],
                context=fields[18],
            )


def _whole(data: bytes) -> int:
    """Return where the last entry that is whole ends: a quoted field may hold line ends."""
    end = data.rfind(b"\n") + 1
    while end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end


class TellingPostgres(PostgresPeer):
    """A server that tells each statement with its parameters and its outcome, in `account`."""

    def __init__(self, *, binaries: Path, max_connections: int = 150) -> None:
        super().__init__(binaries=binaries, authority=None)
        folder = self.data / "told"
        settings = {
            "logging_collector": "on",
            "log_destination": "csvlog",
            "log_directory": str(folder),
            "log_filename": "server.log",
            "log_rotation_age": "0",
            "log_rotation_size": "0",
            "log_statement": "none",
            "log_min_duration_statement": "0",
            "log_parameter_max_length_on_error": "-1",
            "max_connections": str(max_connections),
        }
        # Of two lines for one name the server takes the last.
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.account = ServerLog(folder / "server.csv")

    def told(self, last: str) -> list[Line]:
        """Return the new entries once one of them holds `last`: a process of its own writes them.

        Raises:
            PeerError: none comes.
        """
        lines: list[Line] = []

        def is_there() -> bool:
            lines.extend(self.account.read())
            return any(last in line.message for line in lines)

        until(is_there, "postgres: the last statement is in its log")
        return lines


@pytest.fixture(scope="session", params=["15", "18"])
def telling_postgres(request: pytest.FixtureRequest) -> Iterator[TellingPostgres]:
    """PostgreSQL 15 and 18 that tell what they ran; each is stopped before the next starts."""
    binaries = DEBIAN_BINARIES if request.param == "15" else embedded_postgres()
    if not (binaries / "postgres").exists():
        raise PeerError("no PostgreSQL 15", hint="apt-get install postgresql-15, or make test")
    with TellingPostgres(binaries=binaries) as server:
        server.create_users()
        yield server
