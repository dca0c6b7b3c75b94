"""Two identity providers: a real one, and one whose keys the test holds.

The real one (nanoidp) shows that the gateway works with what providers send; it never signs a
wrong token. `SigningIssuer` signs whatever a test asks for, and counts who fetches its keys.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from agentaudit.demo.provider import IdentityProvider

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class SigningIssuer:
    """A loopback issuer: a discovery document and a key set, and tokens signed as a test likes.

    `keys` maps key ids to private keys, all of them published; `current` is the one that signs.
    `fetched` counts requests by path. `failing` makes every answer this HTTP status. `tokens` is
    what its token endpoint says at the end of a device grant, in which nobody is asked.
    """

    audience = "agentaudit"

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.current = ""
        self.fetched: Counter[str] = Counter()
        self.failing: int | None = None
        self.tokens: dict[str, Any] | None = None
        self._gate = threading.Event()
        self._gate.set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.rotate()

    def close(self) -> None:
        """Stop answering; connections are refused from now on."""
        self._gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rotate(self, *, forget: bool = True, algorithm: str = "RS256") -> str:
        """Sign with a new key; `forget` unpublishes the others. Returns the new key id."""
        key: PrivateKey
        if algorithm.startswith("ES"):
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if forget:
            self.keys.clear()
        self.current = uuid.uuid4().hex
        self.keys[self.current] = key
        return self.current

    def hang(self) -> None:
        """Accept requests and answer none of them until `resume`."""
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    def token(
        self,
        user: str = "ana",
        groups: Sequence[str] = ("data-agents",),
        *,
        agent: str = "agent",
        claims: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        headers: Mapping[str, Any] | None = None,
        key: Any = None,
        algorithm: str | None = None,
    ) -> str:
        """Return a token that is valid but for what the arguments change.

        `claims` are set last and `without` names claims to leave out; `key` and `algorithm` sign
        with something else than the published key.
        """
        now = int(time.time())
        payload: dict[str, Any] = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.audience,
            "azp": agent,
            "groups": list(groups),
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "jti": str(uuid.uuid4()),
        }
        payload |= dict(claims or {})
        for name in without:
            del payload[name]
        signer = self.keys[self.current] if key is None else key
        natural = "ES256" if isinstance(signer, ec.EllipticCurvePrivateKey) else "RS256"
        return jwt.encode(
            payload,
            signer,
            algorithm=algorithm or natural,
            headers={"kid": self.current} | dict(headers or {}),
        )

    def document(self, path: str) -> dict[str, Any] | None:
        """Return what is published at `path`, or None."""
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/keys",
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "device_authorization_endpoint": f"{self.issuer}/device",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            }
        if path == "/keys":
            return {"keys": [_public(kid, key) for kid, key in self.keys.items()]}
        if path == "/device" and self.tokens is not None:
            told = {"device_code": "d", "user_code": "u", "interval": 0.01}
            return told | {"verification_uri": "https://login.example.com"}
        if path == "/token":
            return self.tokens
        return None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        issuer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched[self.path] += 1
                issuer._gate.wait()
                document = issuer.document(self.path)
                status = issuer.failing or (200 if document is not None else 404)
                body = json.dumps(document or {}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Answer


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """A real OpenID Connect provider in a process of its own; `.token(user, groups)`."""
    with IdentityProvider(tmp_path_factory.mktemp("issuer")) as provider:
        yield provider


@pytest.fixture
def signing_issuer() -> Iterator[SigningIssuer]:
    """An issuer whose keys the test holds."""
    issuer = SigningIssuer()
    yield issuer
    issuer.close()


def _public(kid: str, key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        published = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "RS256"}
    else:
        published = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "ES256"}
    return published | {"kid": kid, "use": "sig"}
