"""The gateway as its users run it: a process with an `agentaudit.toml`, on ports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from agentaudit.demo.gateways import Gateway
from tests.peers.certificates import Authority


class Issuer(Protocol):
    """What a gateway needs to know of an identity provider."""

    issuer: str
    audience: str


class GatewayFactory(Protocol):
    """Starts gateways: `gateway(target, …, issuer=…, durability="relaxed")`."""

    def __call__(
        self,
        *targets: Mapping[str, Any],
        issuer: Issuer | Sequence[Issuer] | None = None,
        tls: bool = False,
        start: bool = True,
        issuer_keys: Mapping[str, Any] | None = None,
        listen: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        tables: Mapping[str, Any] | None = None,
        **gateway_keys: Any,
    ) -> Gateway:
        """Start a gateway; keyword arguments not named here go to `[gateway]`.

        `tables` are further ones of the settings, `roles` or `retention`. A target's `password`,
        or `inspect_password`, becomes a file that the settings name. Without `issuer` it is the
        real provider of the `issuer` fixture.
        """
        ...


@pytest.fixture
def gateway(
    tmp_path: Path, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[GatewayFactory]:
    """Make gateways, each in a folder of its own; all of them end with the test."""
    with gateways(tmp_path, authority, lambda: request.getfixturevalue("issuer")) as make:
        yield make


@contextmanager
def gateways(
    folder: Path, authority: Authority, provider: Callable[[], Issuer]
) -> Iterator[GatewayFactory]:
    """Make gateways in `folder` for the block; `provider` gives the issuer where none is named."""
    made: list[Gateway] = []

    def make(
        *targets: Mapping[str, Any],
        issuer: Issuer | Sequence[Issuer] | None = None,
        tls: bool = False,
        start: bool = True,
        issuer_keys: Mapping[str, Any] | None = None,
        listen: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        tables: Mapping[str, Any] | None = None,
        **gateway_keys: Any,
    ) -> Gateway:
        directory = folder / f"gateway-{len(made)}"
        directory.mkdir()
        chosen = issuer if issuer is not None else provider()
        issuers = chosen if isinstance(chosen, Sequence) else [chosen]
        settings: dict[str, Any] = {
            "gateway": {"name": "gw1", "origin": f"audit-{len(made)}.test", "durability": "strict"}
            | (_certificate(authority) if tls else {})
            | gateway_keys,
            "listen": {"postgres": "127.0.0.1:0"} | dict(listen or {}),
        }
        if limits:
            settings["limits"] = dict(limits)
        settings |= tables or {}
        settings["issuer"] = [
            {"url": one.issuer, "audience": [one.audience]} | dict(issuer_keys or {})
            for one in issuers
        ]
        settings["target"] = [_with_secrets_in_files(dict(one), directory) for one in targets]
        made.append(Gateway(directory, settings))
        if start:
            made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        _end_all([one.terminate for one in made])


def _certificate(authority: Authority) -> dict[str, str]:
    certificate = authority.server()
    return {
        "tls_cert_file": str(certificate.certificate_file),
        "tls_key_file": str(certificate.key_file),
    }


def _with_secrets_in_files(target: dict[str, Any], directory: Path) -> dict[str, Any]:
    for key in ("password", "inspect_password"):
        password = target.pop(key, None)
        if password is not None:
            secret = directory / f"{target['name']}.{key}"
            secret.touch(mode=0o600)
            secret.write_text(password, encoding="utf-8")
            target[f"{key}_file"] = str(secret)
    return target


def _end_all(ends: Sequence[Callable[[], object]]) -> None:
    errors: list[Exception] = []
    for end in ends:
        try:
            end()
        except Exception as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup("gateways did not end", errors)
