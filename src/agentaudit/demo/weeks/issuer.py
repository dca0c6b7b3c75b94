"""An OpenID Connect issuer whose tokens are dated by a scripted clock.

A discovery document, a key set, and tokens signed by a key that only this process has: what a
gateway needs of an issuer. The demo's provider is a real one; it knows no time but the machine's.
"""

from __future__ import annotations

import http.server
import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from agentaudit.archive.clocks import Clock

AUDIENCE: Final = "agentaudit"
REVIEW_AUDIENCE: Final = "agentaudit-review"

_LIVES_S: Final = 3600


class ScriptedIssuer:
    """The issuer, on a loopback port; its tokens are valid from now on, by `clock`, for an hour."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self._key_id = secrets.token_hex(8)
        self._keys = {"keys": [public | {"kid": self._key_id, "use": "sig", "alg": "ES256"}]}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._answers())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def token(self, user: str, groups: Sequence[str], *, agent: str) -> str:
        """Return what `agent` connects with on behalf of `user`."""
        return self._signed(user, groups, {"aud": AUDIENCE, "azp": agent})

    def review_token(self, user: str, groups: Sequence[str]) -> str:
        """Return what `user`, who has logged in just now, decides with."""
        logged_in = self._clock.now_us() // 1_000_000
        return self._signed(user, groups, {"aud": REVIEW_AUDIENCE, "auth_time": logged_in})

    def _signed(self, user: str, groups: Sequence[str], claims: Mapping[str, object]) -> str:
        now = self._clock.now_us() // 1_000_000
        told = {
            "iss": self.url,
            "sub": user,
            "groups": list(groups),
            "jti": secrets.token_hex(12),
            "iat": now,
            "nbf": now,
            "exp": now + _LIVES_S,
            **claims,
        }
        headers = {"kid": self._key_id}
        return jwt.encode(told, self._key, algorithm="ES256", headers=headers)

    def _answers(self) -> type[http.server.BaseHTTPRequestHandler]:
        issuer = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                documents: dict[str, Any] = {
                    "/.well-known/openid-configuration": {
                        "issuer": issuer.url,
                        "jwks_uri": f"{issuer.url}/keys",
                    },
                    "/keys": issuer._keys,
                }
                found = documents.get(self.path)
                body = json.dumps(found or {}).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Answers
