"""The gateway as its users run it: a process that reads an `agentaudit.toml`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from agentaudit.archive.clocks import ScriptedClock
from agentaudit.archive.keys import create_keys
from agentaudit.demo.processes import (
    READY_SECONDS,
    Child,
    PeerError,
    until,
    without_libpq_variables,
)
from agentaudit.settings.tables import log_names


class Gateway:
    """`agentaudit gateway` as a process, in a folder with its settings, keys and archive.

    With a `clock` it is the gateway of `agentaudit.demo.scripted`, which goes by that.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], clock: ScriptedClock | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.host = "127.0.0.1"
        self._ports: dict[str, int] = {}
        self._listeners = {"postgres", "ssh"} & set(settings["listen"])
        self._child: Child | None = None
        self.config = directory / "agentaudit.toml"
        self.config.write_text(to_toml(settings), encoding="utf-8")
        self.archive = directory / "archive"
        own = settings["gateway"]
        names = log_names(own["name"], own.get("workers", 1))
        self.verifier_key = create_keys(directory / "keys", own["name"], names, own["origin"])
        """What the archive is verified with; in `keys/` too, beside the private keys."""
        self.log = directory / "gateway.log"
        self._command = ["agentaudit.cli", "gateway", "--config", str(self.config)]
        if clock is not None:
            self._command = ["agentaudit.demo.scripted", str(self.config), str(clock.path)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        if self._child is None:
            raise PeerError("gateway: not running")
        return self._child.pid

    @property
    def port(self) -> int:
        """Port of the PostgreSQL listener."""
        return self._ports["postgres"]

    @property
    def ssh_port(self) -> int:
        """Port of the SSH listener."""
        return self._ports["ssh"]

    @property
    def control_url(self) -> str:
        """Where the control API is."""
        return f"http://{self.host}:{self._ports['control']}"

    def start(self) -> None:
        """Start the gateway and return when it says that it listens.

        Raises:
            PeerError: it does not; the message ends with its log.
        """
        seen = len(self.log_lines()) if self.log.exists() else 0
        child = Child(
            [sys.executable, "-m", *self._command],
            log=self.log,
            directory=self.directory,
            environment=without_libpq_variables(),
        )

        def listening() -> bool:
            for line in self.log_lines()[seen:]:
                if line.get("event") == "listening":
                    self._ports[str(line["protocol"])] = int(line["port"])
            return self._listeners <= self._ports.keys()

        self._ports = {}
        try:
            child.wait_for(listening, "gateway: start")
        except BaseException:
            child.stop()
            raise
        self._child = child

    def terminate(self) -> int | None:
        """Drain and seal with SIGTERM; return the exit status, or None if it was not running."""
        return self._end(signal.SIGTERM)

    def kill9(self) -> int | None:
        """End the process as a power cut would; return its exit status."""
        return self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same folder after `terminate` or `kill9`, on new ports."""
        self.terminate()
        self.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        if self._child is not None:
            self._child.send(number)

    def exit_status(self) -> int | None:
        """Exit status of the process, or None while it runs."""
        return self._child.exit_status if self._child is not None else None

    def wait(self, seconds: float = READY_SECONDS) -> int:
        """Return the exit status once the process has ended by itself."""
        if self._child is None:
            raise PeerError("gateway: not running")
        status = self._child.wait(seconds)
        self._child = None
        return status

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the operational log's JSON lines; an unfinished last line is left out."""
        lines: list[dict[str, Any]] = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(line)
                if isinstance(value, dict):
                    lines.append(value)
        return lines

    def wait_until_idle(self, *, but: int = 0) -> None:
        """Return once every session that was opened is recorded as closed.

        `but` so many, of a worker that was killed.

        Without it, SIGTERM may overtake a client's farewell, and the session then ends as
        `shutdown`.

        Raises:
            PeerError: a session stays open.
        """
        until(lambda: len(self._open_sessions()) == but, "gateway: sessions end")

    def dsn(self, target: str, token: str, *, port: int | None = None, **extra: object) -> str:
        """Return a libpq connection string for `target` with the token as password."""
        parts = {
            "host": self.host,
            "port": port or self.port,
            "dbname": target,
            "user": "agent",
            "password": token,
        } | extra
        return " ".join(f"{name}='{value}'" for name, value in parts.items())

    def _open_sessions(self) -> set[str]:
        found: dict[str, set[str]] = {"session opened": set(), "session closed": set()}
        for line in self.log_lines():
            found.get(str(line.get("event")), set()).add(str(line.get("session")))
        return found["session opened"] - found["session closed"]

    def _end(self, number: signal.Signals) -> int | None:
        if self._child is None:
            return None
        child, self._child = self._child, None
        child.send(number)
        return child.stop()


def to_toml(settings: Mapping[str, Any]) -> str:
    """Return `settings` as TOML: tables, lists of tables, and scalar, list or inline values."""
    parts: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            parts.append(f"[{name}]\n" + _toml_pairs(value))
        else:
            parts.extend(f"[[{name}]]\n" + _toml_pairs(entry) for entry in value)
    return "\n".join(parts)


def _toml_pairs(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in table.items())


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name} = {_toml_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, Path):
        value = str(value)
    # JSON's strings, numbers and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False)
