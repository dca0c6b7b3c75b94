"""Tokens for libpq's own OAuth, as an application hands them over that has its tokens elsewhere.

libpq 18 asks an application's hook for a token before it starts a flow of its own, which needs a
person and a browser. Here it is libpq itself that speaks OAUTHBEARER, under psycopg, that is linked
to the same library.

Source: postgresql.org/docs/18/libpq-oauth.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

_BEARER_TOKEN = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN, src/interfaces/libpq/libpq-fe.h


class _Request(ctypes.Structure):
    """`PGoauthBearerRequest`."""

    _fields_ = [
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("start", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    ]


_Hook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@dataclass
class OAuthTokens:
    """What the hook answers with, `token`, and what libpq has asked it."""

    token: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def oauth_tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[OAuthTokens]:
    """Let psycopg's libpq take its tokens from the test; issuers may be plain http."""
    monkeypatch.setenv("PGOAUTHDEBUG", "UNSAFE")
    tokens = OAuthTokens()
    library = ctypes.CDLL(str(_libpq()))
    kept: list[bytes] = []

    def answer(kind: int, connection: int, data: int) -> int:
        if kind != _BEARER_TOKEN:
            return 0
        request = ctypes.cast(data, ctypes.POINTER(_Request)).contents
        scope = request.scope
        tokens.asked.append(
            (request.openid_configuration.decode(), None if scope is None else scope.decode())
        )
        kept.append(tokens.token.encode())
        request.token = kept[-1]
        return 1

    hook = _Hook(answer)
    library.PQgetAuthDataHook.restype = ctypes.c_void_p
    before = library.PQgetAuthDataHook()
    library.PQsetAuthDataHook(hook)
    yield tokens
    library.PQsetAuthDataHook(ctypes.c_void_p(before))


def _libpq() -> Path:
    spec = find_spec("psycopg_binary")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]).with_name("psycopg_binary.libs")
    (library,) = folder.glob("libpq-*.so*")
    return library
