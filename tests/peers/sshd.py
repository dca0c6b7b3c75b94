"""A real OpenSSH server on a port of its own, and what a gateway needs to log in there."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentaudit.demo.database import free_port
from agentaudit.demo.processes import Child, until

_SETTINGS = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
TrustedUserCAKeys {folder}/user_ca.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
AcceptEnv LANG LC_* AA_*
SetEnv HISTFILE=/dev/null
Subsystem sftp internal-sftp
MaxSessions 200
MaxStartups 500
LogLevel VERBOSE
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server; `user` may log in with `key_file`, and `host_key` is its own.

    So may whoever has a certificate for `user` that the key in `user_ca_key_file` has signed.
    """

    port: int
    user: str
    key_file: Path
    user_ca_key_file: Path
    host_key: str
    log: Path

    def target(self, name: str = "host-1", **keys: Any) -> dict[str, Any]:
        """Return the `[[target]]` that it is; a key that is None is left out."""
        whole = {
            "name": name,
            "protocol": "ssh",
            "address": f"127.0.0.1:{self.port}",
            "user": self.user,
            "key_file": str(self.key_file),
            "host_keys": [self.host_key],
            "groups": ["data-agents"],
            "default": "allow",
        } | keys
        return {key: value for key, value in whole.items() if value is not None}


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Run one for the whole session."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Run one whose files are in `folder`."""
    for name in ("host_key", "user_key", "user_ca"):
        make_key(folder / name)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    (folder / "sshd_config").write_text(_SETTINGS.format(port=port, folder=folder))
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert server is not None, "apt-get install openssh-server"
    log = folder / "sshd.log"
    child = Child(
        [server, "-D", "-e", "-f", str(folder / "sshd_config")], log=log, directory=folder
    )
    try:
        until(lambda: "Server listening" in log.read_text(), "sshd: start")
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        key, authority = folder / "user_key", folder / "user_ca"
        yield Sshd(port, getpass.getuser(), key, authority, host_key, log)
    finally:
        child.stop()


def make_key(path: Path) -> None:
    """Write an Ed25519 key pair as `path` and `path`.pub."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True
    )
