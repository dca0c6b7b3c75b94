"""An OpenID Connect provider, as a process, and access tokens from its token endpoint."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from agentaudit.demo.processes import Child, PeerError


class IdentityProvider:
    """An OpenID Connect provider (nanoidp) on a loopback port, its users made on demand.

    Tokens come from its token endpoint, so they are signed by keys that nobody else holds and
    checked through its discovery document, as they would be anywhere.
    """

    audience = "agentaudit"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._password = secrets.token_urlsafe(24)
        self._known: dict[str, object] = {}
        self._child: Child | None = None
        self.issuer = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the provider and return when it answers: where it did before, with the same keys.

        Raises:
            PeerError: it does not come up; the message ends with its log.
        """
        address = self._directory / "address"
        address.unlink(missing_ok=True)
        port = urllib.parse.urlsplit(self.issuer).port or 0
        child = Child(
            [
                *(sys.executable, "-m", "agentaudit.demo.issuer"),
                *(self._directory, self.audience, str(port)),
            ],
            log=self._directory / "provider.log",
            directory=self._directory,
        )
        try:
            child.wait_for(address.exists, "identity provider: start")
        except BaseException:
            child.stop()
            raise
        self._child = child
        self._known.clear()
        self.issuer = address.read_text(encoding="ascii")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def token(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        agent: str = "agent",
        audience: str | None = None,
        minutes: int = 60,
        claims: Mapping[str, object] | None = None,
        at_least_bytes: int = 0,
    ) -> str:
        """Return an access token for `user` in `groups`, issued to the client `agent`.

        `at_least_bytes` pads it with a claim, as tokens with many entitlements are long;
        `audience` must be an absolute URI where given (RFC 8707).
        """
        form = self._form(user, groups, agent) | {"exp": str(minutes)}
        if audience is not None:
            form["resource"] = audience
        extra = dict(claims or {})
        token = str(self._request(agent, form, extra)["access_token"])
        if len(token) < at_least_bytes:
            # Base64 turns three bytes of claims into four of token.
            missing = (at_least_bytes - len(token)) * 3 // 4 + 3
            entitlement = "orders:customer:read "
            extra["entitlement_list"] = (entitlement * (missing // len(entitlement) + 1))[:missing]
            token = str(self._request(agent, form, extra)["access_token"])
        return token

    def login(
        self, user: str, groups: Sequence[str] = (), *, agent: str = "agent"
    ) -> dict[str, Any]:
        """Return all that a login of `user` brings: `access_token`, `id_token`, `refresh_token`."""
        form = self._form(user, groups, agent) | {"scope": "openid", "nonce": "n-0S6_WzA2Mj"}
        return self._request(agent, form, {})

    def rotate_keys(self) -> None:
        """Sign with a new key from now on; the two before it stay in the key set."""
        self._call("POST", "/api/keys/rotate", {})

    def _declare(self, kind: str, name: str, entry: dict[str, object]) -> None:
        if self._known.get(f"{kind}/{name}") == entry:
            return
        if f"{kind}/{name}" in self._known:
            self._call("DELETE", f"/api/runtime/{kind}/{urllib.parse.quote(name)}", None)
        secret = "password" if kind == "users" else "client_secret"
        self._call("POST", f"/api/runtime/{kind}", entry | {secret: self._password})
        self._known[f"{kind}/{name}"] = dict(entry)

    def _form(self, user: str, groups: Sequence[str], agent: str) -> dict[str, str]:
        self._declare("users", user, {"username": user, "groups": list(groups)})
        self._declare("clients", agent, {"client_id": agent})
        return {"grant_type": "password", "username": user, "password": self._password}

    def _request(
        self, agent: str, form: dict[str, str], extra: dict[str, object]
    ) -> dict[str, Any]:
        if extra:
            form = form | {"extra": json.dumps(extra)}
        basic = base64.b64encode(f"{agent}:{self._password}".encode()).decode()
        request = urllib.request.Request(
            f"{self.issuer}/token",
            data=urllib.parse.urlencode(form).encode(),
            headers={"Authorization": f"Basic {basic}"},
        )
        return _answer(request)

    def _call(self, method: str, path: str, body: object) -> None:
        request = urllib.request.Request(
            self.issuer + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        _answer(request)


def _answer(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        detail = error.read(500).decode(errors="replace")
        raise PeerError(
            f"identity provider: {error.code} for {request.selector}: {detail}"
        ) from None
    if not isinstance(answer, dict):
        raise PeerError(f"identity provider: no JSON object for {request.selector}")
    return answer
