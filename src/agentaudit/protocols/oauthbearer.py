"""OAUTHBEARER, the SASL mechanism that carries a token, as a server understands it; without I/O.

A client that has no token yet sends an empty one: not as a failure, but to be told where tokens
come from. The answer to that and to a token that will not do is the same JSON, and the client has
to answer it with one byte before it hears the error; so the exchange never just ends.

Sources: RFC 7628 (sections 3.1 to 3.2.3), RFC 6750 (what a token looks like), and PostgreSQL's
`src/backend/libpq/auth-oauth.c` for what it takes and refuses.
"""

from __future__ import annotations

import json
import re
from typing import Final

from agentaudit.errors import ClientProtocolError

MECHANISM: Final = "OAUTHBEARER"

DISMISSAL: Final = b"\1"
"""What a client answers to the JSON; nothing else may come."""

_SEPARATOR: Final = b"\1"
_PAIR: Final = re.compile(rb"([A-Za-z]+)=([\t\n\r -~]*)")
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")


def decode_client_first(data: bytes) -> str:
    """Return the token in a client's first message, empty where it asks where to get one.

    Raises:
        ClientProtocolError: not a message of this mechanism; what it holds is not repeated.
    """
    header, found, rest = data.partition(_SEPARATOR)
    # n,, or y,,: without channel binding, which this mechanism does not have, and for nobody else.
    if header[:1] == b"p":
        raise ClientProtocolError(f"{MECHANISM}: channel binding is not part of it")
    if header not in (b"n,,", b"y,,"):
        if header[:4] in (b"n,a=", b"y,a="):
            raise ClientProtocolError(f"{MECHANISM}: an authorization identity is not supported")
        raise ClientProtocolError(f"{MECHANISM}: expected the header n,, or y,,")
    if not found or rest[-2:] != _SEPARATOR * 2:
        if rest != _SEPARATOR:
            raise ClientProtocolError(f"{MECHANISM}: the message has no end")
        raise ClientProtocolError(f"{MECHANISM}: there is no auth value")
    values = []
    for part in rest[:-2].split(_SEPARATOR):
        pair = _PAIR.fullmatch(part)
        if pair is None:
            raise ClientProtocolError(f"{MECHANISM}: expected keys and values")
        if pair[1] == b"auth":
            values.append(pair[2])
    if len(values) != 1:
        raise ClientProtocolError(f"{MECHANISM}: {len(values)} auth values, expected one")
    if not values[0]:
        return ""
    token = _BEARER.fullmatch(values[0])
    if token is None:
        raise ClientProtocolError(f"{MECHANISM}: the auth value is not a bearer token")
    return token[1].decode("ascii")


def challenge(configuration_url: str, scope: str) -> bytes:
    """Return the JSON that says that the token will not do, and where to get one that does."""
    answer = {
        "status": "invalid_token",
        "openid-configuration": configuration_url,
        "scope": scope,
    }
    return json.dumps(answer).encode()
