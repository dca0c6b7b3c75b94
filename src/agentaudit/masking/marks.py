"""What stands where something was hidden.

Marks have no quote, brace, comma, backslash or white space: inside a JSON string, an array, a row
of COPY or an SQL string, what is around them stays what it was.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

MIN_KEY_BYTES: Final = 32

_SHOWN: Final = 4
_MIN_PARTIAL: Final = 3 * _SHOWN
"""Of what is shorter, four characters would be too much to show."""

_UNFIT: Final = re.compile(r"[^a-z0-9_]+")


def slug(name: str) -> str:
    """Return `name` as a mark has it.

    >>> slug("Customer identifiers")
    'customer-identifiers'
    """
    return _UNFIT.sub("-", name.lower()).strip("-")[:40] or "rule"


def mark(name: str) -> bytes:
    """Return what stands in the place of something that `name` hides.

    >>> mark("aws_key")
    b'[masked:aws_key]'
    """
    return f"[masked:{slug(name)}]".encode()


def partial(value: bytes) -> bytes | None:
    """Return the last four characters behind four stars, None where that would show too much.

    >>> partial(b"4111 1111 1111 1111"), partial(b"12345")
    (b'****1111', None)
    """
    text = value.decode("utf-8", "replace")
    if len(text) < _MIN_PARTIAL:
        return None
    shown = "".join(each if each.isalnum() else "-" for each in text[-_SHOWN:])
    return f"****{shown}".encode()


@dataclass(frozen=True, slots=True)
class PseudonymKey:
    """What makes equal values equal pseudonyms, and two keys never the same one.

    A pseudonym begins with four characters that name its key: after a rotation, which one it is of
    shows. HMAC is that of RFC 2104 with SHA-256, cut to 128 bits.

    >>> key = PseudonymKey(bytes(32))
    >>> key.pseudonym(b"a") == key.pseudonym(b"a"), key.pseudonym(b"a") == key.pseudonym(b"b")
    (True, False)
    """

    key: bytes = field(repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.key) < MIN_KEY_BYTES:
            raise ValueError(f"a key of pseudonyms has {MIN_KEY_BYTES} bytes at least")
        named = hmac.digest(self.key, b"agentaudit pseudonym key", sha256)
        object.__setattr__(self, "name", _letters(named[:5])[:4])

    def pseudonym(self, value: bytes) -> bytes:
        """Return what stands for `value` wherever it is."""
        made = hmac.digest(self.key, value, "sha256")
        return f"pn_{self.name}_{_letters(made[:16])}".encode()


def _letters(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
