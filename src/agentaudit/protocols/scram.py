"""SCRAM-SHA-256 as a client speaks it, with and without channel binding, without I/O.

The slow part is apart on purpose: what the password becomes under a server's salt is the same at
every login, so whoever logs in often may keep it. It is worth as much as the password and has to
be kept like it. `verify` is the step that must not be left out: without it any server can say yes.

Sources: RFC 5802 (the exchange), 7677 (SHA-256), 4013 (SASLprep), 5929 section 4 (binding).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from agentaudit.errors import AgentauditError

MIN_ITERATIONS: Final = 4096
"""RFC 7677, section 4: fewer would make what a replaced server learns cheap to search."""

MAX_ITERATIONS: Final = 10_000_000
"""Seconds of work; the number is the server's choice, and a server may be anybody."""

_SERVER_FIRST: Final = re.compile(
    r"r=(?P<nonce>[!-+\--~]{1,1024}),s=(?P<salt>[A-Za-z0-9+/]{1,1024}={0,2}),i=(?P<count>[1-9]\d{0,8})"
)


class ScramError(AgentauditError):
    """The exchange failed; the text says at which step and never quotes it."""


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a password becomes under one salt; secret, for it is enough to log in with."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def derive_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """Return the keys of `password`; takes about half a microsecond for each iteration."""
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, iterations)
    return ScramKeys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


class ScramClient:
    """One exchange: `first`, `challenge`, `final` and `verify`, in this order.

    `binding` is the type and the data of the channel; it is used if `mechanism` ends in `-PLUS`,
    and otherwise the server is told that it could have been.
    """

    def __init__(
        self, mechanism: str, binding: tuple[str, bytes] | None = None, *, nonce: str = ""
    ) -> None:
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18)).decode()
        if mechanism.endswith("-PLUS"):
            assert binding is not None
            header = f"p={binding[0]},,".encode()
            self._binding = header + binding[1]
        else:
            header = b"n,," if binding is None else b"y,,"
            self._binding = header
        self._header = header
        # The server knows the user from elsewhere and ignores the name here; libpq sends none.
        self._first = f"n=,r={self._nonce}"
        self._messages = ""
        self._server_signature = b""

    def first(self) -> bytes:
        """Return the client's first message."""
        return self._header + self._first.encode()

    def challenge(self, server_first: bytes) -> tuple[bytes, int]:
        """Take the server's first message and return its salt and iteration count.

        Raises:
            ScramError: it is malformed, or answers another exchange.
        """
        text = server_first.decode("latin-1")
        match = _SERVER_FIRST.fullmatch(text)
        if match is None:
            raise ScramError("the server's challenge is malformed")
        nonce, count = match["nonce"], int(match["count"])
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ScramError("the server's challenge is not for this login")
        if not MIN_ITERATIONS <= count <= MAX_ITERATIONS:
            raise ScramError(
                f"the server asks for {count} iterations,"
                f" expected {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        bare = f"c={base64.b64encode(self._binding).decode()},r={nonce}"
        self._messages = f"{self._first},{text},{bare}"
        self._final = bare
        return _decoded(match["salt"]), count

    def final(self, keys: ScramKeys) -> bytes:
        """Return the client's last message, which proves that it knows the password."""
        messages = self._messages.encode("latin-1")
        signature = _hmac(hashlib.sha256(keys.client_key).digest(), messages)
        proof = bytes(a ^ b for a, b in zip(keys.client_key, signature, strict=True))
        self._server_signature = _hmac(keys.server_key, messages)
        return f"{self._final},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password as well.

        Raises:
            ScramError: it does not, or it refuses the client's proof.
        """
        name, _, value = server_final.decode("latin-1").partition("=")
        if name == "e":
            raise ScramError("the server refuses the proof")
        signature = _decoded(value.partition(",")[0]) if name == "v" else b""
        expected = self._server_signature
        if not expected or not hmac.compare_digest(signature, expected):
            raise ScramError("the server has not proven that it knows the password")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("the server's message is not base64") from None


_FORBIDDEN: Final = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _prepared(password: str) -> bytes:
    """Return `password` by SASLprep, or as it is where that forbids it: so do libpq and servers."""
    if password.isascii() and password.isprintable():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c)
    )
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    is_right_to_left = [stringprep.in_table_d1(c) for c in text]
    is_mixed = any(is_right_to_left) and (
        any(map(stringprep.in_table_d2, text)) or not (is_right_to_left[0] and is_right_to_left[-1])
    )
    if not text or is_mixed or any(is_in(c) for c in text for is_in in _FORBIDDEN):
        return password.encode()
    return text.encode()
