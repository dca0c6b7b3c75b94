"""A person at a terminal: OpenSSH on a pseudo-terminal, keys typed one after the other."""

from __future__ import annotations

import re

import pexpect

from tests.ssh.client import OpenSsh

_PROMPT = r"[$#] (\x1b\[[0-9;?]*[a-zA-Z])*$"
_COLUMNS, _ROWS = 100, 30


class Terminal:
    """A shell at the other end of `ssh -tt`."""

    def __init__(self, client: OpenSsh, *words: str) -> None:
        argv = [*client.options, "-tt", "-p", str(client.port), "-l", "host-1", "127.0.0.1", *words]
        self.child = pexpect.spawn(
            "ssh",
            argv,
            env=client.environment | {"TERM": "xterm"},
            dimensions=(_ROWS, _COLUMNS),
            timeout=20,
            searchwindowsize=4096,
        )
        self.child.delaybeforesend = None

    def wait(self) -> str:
        """Return what came up to the next prompt."""
        self.child.expect(_PROMPT)
        return str(self.child.before.decode(errors="replace"))

    def wait_for(self, words: str) -> str:
        """Return what came up to `words`, and these."""
        self.child.expect_exact(words)
        return (self.child.before + self.child.after).decode(errors="replace")

    def refused(self, number: int) -> str:
        """Return what came up to the prompt behind the refusal of a command."""
        return self.wait_for(f"command {number})") + self.wait()

    def see(self, line: str) -> None:
        """Return once a line of output is `line`."""
        self.child.expect(rf"[\r\n]{re.escape(line)}\r\n")

    def type(self, keys: str) -> None:
        """Type keys one by one, each as soon as the one before was sent."""
        for key in keys:
            self.child.send(key)

    def send(self, data: str) -> None:
        """Send all at once, as a paste."""
        self.child.send(data)

    def run(self, line: str) -> str:
        """Type a line and Enter, and return what came up to the next prompt."""
        self.type(line + "\r")
        return self.wait()

    def hang_up(self) -> None:
        """End `ssh` without another word."""
        self.child.close(force=True)

    def end(self) -> int:
        """Leave the shell; return with what `ssh` exits."""
        self.child.send("\x04")
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -1)
