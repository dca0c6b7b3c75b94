"""OpenSSH's own clients, with a ticket or a token as their password."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

import agentaudit as aa
from agentaudit.demo.gateways import Gateway
from tests.peers.sshd import make_key


@dataclass(frozen=True, slots=True)
class OpenSsh:
    """Runs `ssh`, `scp` and `sftp` against a gateway."""

    folder: Path
    port: int
    token: str

    @classmethod
    def of(cls, folder: Path, port: int, token: str, host_key: Path) -> OpenSsh:
        """Make a client that knows the gateway by `host_key`, its private key's file."""
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(token)
        ask = folder / "askpass"
        ask.write_text(f"#!/bin/sh\ncat {shlex.quote(str(secret))}\n")
        ask.chmod(0o700)
        public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
        return cls(folder, port, token)

    @property
    def options(self) -> list[str]:
        """What every one of the clients is told."""
        return [
            *("-F", "none", "-o", "StrictHostKeyChecking=yes"),
            *("-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"),
            *("-o", "GlobalKnownHostsFile=none", "-o", "IdentitiesOnly=yes"),
            *("-o", "PreferredAuthentications=password,keyboard-interactive"),
            *("-o", "NumberOfPasswordPrompts=1"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Let a client ask a program for its password."""
        return {
            **os.environ,
            "SSH_ASKPASS": str(self.folder / "askpass"),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": "none:0",
        }

    def ssh(
        self, *words: str, user: str = "host-1", input: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `ssh` with a command, or options and a command."""
        argv = ["ssh", *self.options, "-p", str(self.port), "-l", user, "127.0.0.1", *words]
        return self.run(argv, input=input, timeout=timeout)

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        """Start `ssh` with a command, or options and a command."""
        argv = ["ssh", *self.options, "-p", str(self.port), "-l", "host-1", "127.0.0.1", *words]
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment
        )

    def run(
        self,
        argv: list[str],
        *,
        input: bytes = b"",
        timeout: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run any of them."""
        return subprocess.run(
            argv,
            input=input,
            capture_output=True,
            timeout=timeout,
            env=environment or self.environment,
            check=False,
        )


def connected(client: OpenSsh, user: str = "host-1") -> Any:
    """Return asyncssh's connection to the gateway, to be entered."""
    return asyncssh.connect(
        "127.0.0.1",
        client.port,
        username=user,
        password=client.token,
        known_hosts=str(client.folder / "known_hosts"),
        config=[],
    )


Started = Callable[..., tuple[Gateway, OpenSsh]]
"""Starts a gateway, with rules and keys of its target, and makes a client for it."""


def recorded(gw: Gateway) -> aa.Case:
    """Stop a gateway that is idle, and open what it has recorded."""
    gw.wait_until_idle()
    gw.terminate()
    return aa.load(gw.archive)


__all__ = ["OpenSsh", "Started", "connected", "make_key", "recorded"]
