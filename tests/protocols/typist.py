"""A real bash on a terminal, typed into through the recogniser as a gateway would."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentaudit.protocols.ssh_lines import Line, TypedLines

DEADLINE_SECONDS = 20.0
# What is waited for behind the last output: here another test may have the processor meanwhile.
QUIET_SECONDS = 0.5
START_SECONDS = 3.0

RC = r"""
PS1='\u@host:\W\$ '
HISTFILE=$HOME/history
HISTTIMEFORMAT=
HISTSIZE=1000
PROMPT_COMMAND='history -a'
shopt -s lithist histappend
"""


@dataclass
class Ended:
    """What one Enter ended, and what the shell's own history has of it."""

    line: Line | None
    got: list[str]


class Typist:
    """A shell, and what was recognised of the lines that it was given."""

    def __init__(
        self, shell: list[str], home: Path, columns: int, rows: int, environment: dict[str, str]
    ) -> None:
        self.home = home
        self.lines = TypedLines(columns, rows)
        self.found: list[Line | None] = []
        self.output = b""
        """What was said since the last key that ended a line, or since this was emptied."""
        self.said = b""
        """All that was said."""
        self._read = 0
        self._master, slave = os.openpty()
        self._size(columns, rows)
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", *shell],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=home,
            env={
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "PATH": "/usr/bin:/bin",
                "TERM": "xterm-256color",
                "USER": "agent",
                **environment,
            },
        )
        os.close(slave)

    def close(self) -> None:
        if self._shell.poll() is None:
            self._shell.kill()
            self._shell.wait()
            os.close(self._master)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self.lines.resize(columns, rows)
        self._size(columns, rows)

    def _listen(self, seconds: float) -> bool:
        """Hear what the shell says within a time; whether it said anything."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.output += data
        self.said += data
        self.lines.said(data)
        return bool(data)

    def until(self, pattern: bytes) -> None:
        """Listen until a pattern is found in what was said since the last Enter."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        ends = re.compile(pattern, re.S)
        while not ends.search(self.output):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{pattern!r} in {self.output[-2000:]!r}")
            self._listen(0.5)

    def type(self, keys: bytes) -> None:
        """Type as a gateway does: a key that ends a line waits until the screen shows the rest."""
        while keys:
            count = self.lines.typed(keys)
            os.write(self._master, keys[:count])
            keys = keys[count:]
            if keys:
                while not self.lines.is_settled and self._listen(QUIET_SECONDS):
                    pass
                self.found.append(self.lines.line())
                self.output = b""
                count = self.lines.passed(keys)
                os.write(self._master, keys[:count])
                keys = keys[count:]
                while keys and not self.lines.is_ready and self._listen(START_SECONDS):
                    pass

    def interrupt(self) -> None:
        """Type ^C until there is a prompt: bash itself misses some, until the next key."""
        while True:
            self.output = b""
            self.type(b"\x03")
            while self._listen(1.0):
                if re.search(rb"[$#>] $", self.output):
                    return

    def history(self) -> list[str]:
        """Return what the shell has got since this was asked for the last time."""
        path = self.home / "history"
        text = path.read_text(errors="replace") if path.exists() else ""
        new, self._read = text[self._read :], len(text)
        return [each.rstrip("\n") for each in re.split(r"^#\d+\n", new, flags=re.M) if each]

    def hang_up(self) -> str:
        """End the shell, and return all that it has got, each line between two newlines."""
        os.close(self._master)
        self._shell.wait(DEADLINE_SECONDS)
        text = (self.home / "history").read_bytes().decode(errors="replace")
        return "\n" + re.sub(r"^#\d+\n", "", text, flags=re.M)


@contextmanager
def typist(
    home: Path,
    columns: int = 80,
    rows: int = 24,
    shell: tuple[str, ...] = ("bash", "--rcfile", ".rc", "-i"),
    rc: str = RC,
    **environment: str,
) -> Iterator[Typist]:
    """Start a shell on a terminal, and wait for its first prompt."""
    for name in (".rc", ".bashrc"):
        (home / name).write_text(rc)
    one = Typist(list(shell), home, columns, rows, environment)
    try:
        one.until(rb"[$#>] $")
        one.output = b""
        one.history()
        yield one
    finally:
        one.close()
