"""Tokens made by hand, byte by byte: what no provider signs, and what no library would encode.

A signer turns a signing input into a signature. Source: RFC 7515, section 7.1, and 7518, section 3.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Signer = Callable[[bytes], bytes]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""FIPS 186-4, appendix D.1.2.3."""


def jws(header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes, sign: Signer) -> str:
    """Return a token of `header` and `claims`; bytes go into it as they are."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(sign(signed.encode()))}"


def opened(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of `token`, believed as they are."""
    header, claims, _ = token.split(".")
    return json.loads(decoded(header)), json.loads(decoded(claims))


def encoded(value: dict[str, Any] | bytes) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def rs256(key: rsa.RSAPrivateKey) -> Signer:
    return lambda signed: key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def ps256(key: rsa.RSAPrivateKey) -> Signer:
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    return lambda signed: key.sign(signed, salted, hashes.SHA256())


def es256(key: ec.EllipticCurvePrivateKey) -> Signer:
    def sign(signed: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def hs256(secret: bytes) -> Signer:
    """Sign with what the verifier may take for a shared secret: a public key, as everybody has."""
    return lambda signed: hmac.digest(secret, signed, "sha256")


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{encoded(signature)}"


def twin(token: str) -> str:
    """Return an ES256 token with the other signature that is as good: (r, n - s)."""
    signature = decoded(token.rpartition(".")[2])
    s = _P256_ORDER - int.from_bytes(signature[32:], "big")
    return with_signature(token, signature[:32] + s.to_bytes(32, "big"))


def other_bits(part: str) -> str:
    """Return the same bytes in base64 with other unused bits at the end.

    Raises:
        ValueError: there are none, its bytes being a multiple of three.
    """
    if len(part) % 4 == 0:
        raise ValueError("no unused bits")
    return part[:-1] + _ALPHABET[_ALPHABET.index(part[-1]) ^ 1]
