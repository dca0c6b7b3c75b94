"""What the values of the settings look like: durations, sizes, addresses, names, patterns.

A value that is read already is taken as it is, so that settings can be made in code too. Paths are
resolved against the folder of the file, which is in the context of whoever validates.

Format: docs/settings.md
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from agentaudit.errors import SettingsError
from agentaudit.model import Durability
from agentaudit.patterns import compile_pattern

_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_DURATION_UNIT = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_SIZE = re.compile(r"(\d{1,12})(B|KiB|MiB|GiB|TiB)")
_SIZE_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration like 30s, 50m, 12h or 30d")
    return int(match[1]) * _DURATION_UNIT[match[2]]


def size(value: object) -> object:
    """Return the bytes that a text like 256MiB stands for; a number of bytes is one already."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size like 512KiB, 256MiB or 10GiB, or a number of bytes")
    return int(match[1]) * _SIZE_UNIT[match[2]]


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; `str()` gives the form that the file has, IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address; other names are not resolved.

    >>> is_loopback("127.8.0.1"), is_loopback("::1"), is_loopback("localhost.example.com")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(value: object) -> object:
    if isinstance(value, Address):
        return value
    text = value if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host) != bracketed or not re.fullmatch(r"\d{1,5}", port):
        raise ValueError('expected "host:port", or "[address]:port" for IPv6')
    if int(port) > 65535:
        raise ValueError("expected a port up to 65535")
    return Address(host, int(port))


def parse_address(text: str) -> Address:
    """Return the address that `host:port`, or `[address]:port`, stands for.

    Raises:
        SettingsError: not such a text.
    """
    try:
        address = _address(text)
    except ValueError as error:
        raise SettingsError(f"address {text[:100]!r}: {error}") from None
    assert isinstance(address, Address)
    return address


def _durability(value: object) -> object:
    names = {mode.name.lower(): mode for mode in Durability}
    if isinstance(value, Durability):
        return value
    if not isinstance(value, str) or value not in names:
        raise ValueError('expected "strict", "writes" or "relaxed"')
    return names[value]


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(size), Field(gt=0)]
AddressText = Annotated[Address, BeforeValidator(_address)]
DurabilityText = Annotated[Durability, BeforeValidator(_durability)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


def _located(value: Path, info: ValidationInfo) -> Path:
    """Resolve a path of the file against the file's own folder."""
    root: Path = (info.context or {}).get("root", Path())
    return root / value


LocatedPath = Annotated[Path, AfterValidator(_located)]


def _pattern(value: str) -> str:
    compile_pattern(value)
    return value


def refuse_unsafe_url(url: str, *, needs_https: bool = True) -> str:
    """Return `url` if keys may be fetched from it: https, or plain http on loopback.

    Without `needs_https`, plain http will do anywhere.

    Raises:
        ValueError: it says what is wrong with the address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected an https address")
    if needs_https and parts.scheme == "http" and not is_loopback(host):
        raise ValueError("plain http is for loopback only; use https")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected an address without user, query or fragment")
    if parts.port == 0:
        raise ValueError("expected a port up to 65535")
    return url


SafeUrl = Annotated[str, AfterValidator(refuse_unsafe_url)]


def _state(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("sqlite", "postgresql"):
        raise ValueError("expected sqlite:///state.db or postgresql://user@host/database")
    if parts.scheme == "sqlite" and (parts.netloc or not parts.path.strip("/") or parts.query):
        raise ValueError("expected sqlite:///, and the path of a file")
    if parts.password is not None or "password=" in parts.query:
        raise ValueError("a password does not belong here: name a ?passfile=, as libpq reads it")
    return value


StateText = Annotated[str, AfterValidator(_state)]

Word = Annotated[str, Field(min_length=1, max_length=200)]
Class = Literal["read", "write", "schema", "admin", "session", "unknown"]
Operation = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9:_./ -]{0,99}$")]
# Up to three parts, `*` in any of them.
ResourceText = Annotated[str, Field(pattern=r"^[^.?\[\]]+(\.[^.?\[\]]+){0,2}$", max_length=200)]
# Or a host of any number of parts and its port: what a rule says of a forwarded connection.
RuleResource = Annotated[
    str,
    Field(
        pattern=r"^[^.?\[\]]+(\.[^.?\[\]]+){0,2}$"
        r"|^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*):([0-9]{1,5}|\*)$",
        max_length=200,
    ),
]
PatternText = Annotated[str, AfterValidator(_pattern)]

MICROSECOND = timedelta(microseconds=1)


class Table(BaseModel):
    """What all tables are: frozen, and without a key that is not theirs."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        # Relative paths are resolved by validators, and defaults are relative paths too.
        validate_default=True,
    )
