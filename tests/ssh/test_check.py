"""What `agentaudit check` says of hosts, and of the gateway's own key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agentaudit.demo.gateways import Gateway
from tests.ssh.client import Started, make_key


def checked(gw: Gateway) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("agentaudit"), "check", "--config", str(gw.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_a_host_that_is_there_and_what_is_wrong_with_one_that_is_not(
    started: Started, tmp_path: Path
) -> None:
    gw, _ = started()
    gw.terminate()
    said = checked(gw)
    assert "OpenSSH" in said
    assert "clients know it by SHA256:" in said
    settings = gw.config.read_text()
    make_key(tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    begin = settings.index("ssh-ed25519 ")
    pinned = settings[begin : settings.index('"', begin)]
    gw.config.write_text(settings.replace(pinned, other))
    assert "its host key is none of those that are pinned" in checked(gw)
    gw.config.write_text(settings.replace("user_key", "no_key"))
    assert "no_key: No such file" in checked(gw)
    (tmp_path / "gateway_key").write_text("no key")
    gw.config.write_text(settings)
    assert f"gateway.ssh_host_key_file {tmp_path}/gateway_key: " in checked(gw)
