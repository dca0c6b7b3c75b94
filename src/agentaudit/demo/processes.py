"""Child processes with their output in a file, ended by pid when we end, however we end.

The demo, the tests and the benchmarks run the gateway and its peers with these.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from agentaudit.errors import AgentauditError

READY_SECONDS = 60.0
"""How long a peer may take to come up; generous, because continuous integration is slow."""

_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class PeerError(AgentauditError):
    """A peer did not start, or ended; the message carries the end of its log."""


def until(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Return as soon as `condition()` is true.

    Raises:
        PeerError: it was not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PeerError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


class Child:
    """A child process with its output in a file; it is ended by its own pid, never by name.

    On Linux the kernel ends it too when this process dies without a chance to clean up.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._name = Path(argv[0]).name
        self._stop_signal = stop_signal
        with log.open("ab") as output:
            self._process = _spawn(
                [str(part) for part in argv],
                output=output,
                directory=directory,
                environment=environment,
                user=user,
                last_signal=stop_signal,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal, or None while the process runs."""
        return self._process.poll()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return as soon as `condition()` is true.

        Raises:
            PeerError: the process ended first, or `READY_SECONDS` passed.
        """

        def ready_or_dead() -> bool:
            return self.exit_status is not None or condition()

        try:
            until(ready_or_dead, what)
        except PeerError as error:
            raise PeerError(f"{error}\n{self._log_end()}") from None
        if self.exit_status is not None:
            raise PeerError(f"{what}: exit status {self.exit_status}\n{self._log_end()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, seconds: float = READY_SECONDS) -> int:
        """Return the exit status.

        Raises:
            PeerError: the process still runs after `seconds`.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise PeerError(
                f"{self._name}: still running after {seconds:g} s\n{self._log_end()}"
            ) from None

    def stop(self, seconds: float = READY_SECONDS) -> int:
        """Ask the process to end, kill it when it does not, and return its exit status."""
        if self.exit_status is None:
            self.send(self._stop_signal)
        try:
            return self.wait(seconds)
        except PeerError:
            self.send(signal.SIGKILL)
            return self.wait(seconds)

    def _log_end(self) -> str:
        return "\n".join(self.log_text().splitlines()[-20:])


def identity_of(user: str | None) -> dict[str, Any]:
    """Return the arguments that make `subprocess` run as `user`; none for ourselves."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def without_libpq_variables() -> dict[str, str]:
    """Return the environment without libpq's: PGHOST and its like would redirect every client."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _spawn(
    argv: list[str],
    *,
    output: IO[bytes],
    directory: Path,
    environment: Mapping[str, str] | None,
    user: str | None,
    last_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=environment,
        # A Ctrl-C is for us alone: we end the peers in their order.
        start_new_session=True,
        # One system call and no lock, so that it is safe between fork and exec.
        preexec_fn=_die_with_parent(last_signal),
        **identity_of(user),
    )


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)

    return ask_kernel


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a new private folder and remove it afterwards."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
