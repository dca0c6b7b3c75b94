"""Gateways in front of a real SSH server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentaudit.demo.gateways import Gateway
from tests.gateway.test_holds import Reviewers
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.sshd import Sshd
from tests.ssh.client import OpenSsh, Started, make_key


@pytest.fixture
def started(
    gateway: GatewayFactory, sshd: Sshd, signing_issuer: SigningIssuer, tmp_path: Path
) -> Started:
    """Start a gateway in front of the server, with rules, and make a client for it."""

    def start(
        *rules: dict[str, Any],
        limits: dict[str, Any] | None = None,
        mask: list[dict[str, Any]] | None = None,
        listen: dict[str, str] | None = None,
        **keys: Any,
    ) -> tuple[Gateway, OpenSsh]:
        host_key = tmp_path / "gateway_key"
        make_key(host_key)
        gw = gateway(
            sshd.target(**keys),
            issuer=signing_issuer,
            listen={"ssh": "127.0.0.1:0"} | (listen or {}),
            limits=limits,
            tables={"rule": list(rules), "mask": mask or []},
            ssh_host_key_file=str(host_key),
        )
        token = signing_issuer.token(groups=["data-agents"])
        return gw, OpenSsh.of(tmp_path, gw.ssh_port, token, host_key)

    return start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with a file that is to be there afterwards, or not."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("kept")
    return folder


@pytest.fixture
def reviewed() -> Iterator[list[Reviewers]]:
    """Keep those who decide at gateways, and close what they have open."""
    opened: list[Reviewers] = []
    yield opened
    for each in opened:
        each.state.close()
