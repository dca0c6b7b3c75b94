"""What SSH channels say, as the archive has it: each request is a line of words.

Bytes of a channel are events with a payload: `request` from the client, `response` from the
target, with status `STDERR` for what a target writes there. All else that a channel says is a
`notice` whose text begins with the request's name as RFC 4254 has it; what it carries follows,
with every character that is no printable ASCII, every space and every backslash as `\\xNN`.

A connection that a client wants forwarded names a host as it likes; a host's resolver takes
`0x7f.1` for `127.0.0.1`. `Destination` is the one form that rules, rows and the request to the
target have.

Source: RFC 4254, sections 5 to 7; RFC 1123, section 2.1; inet_aton(3)
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

STDERR: Final = 1
"""SSH_EXTENDED_DATA_STDERR, RFC 4254 section 5.2."""

_PLAIN: Final = frozenset(range(0x21, 0x7F)) - {ord("\\")}


def asked_for(user: str) -> tuple[str, str]:
    """Return the target and the login that a user's name asks for; the login may be empty.

    >>> asked_for("host-1"), asked_for("host-1/ops")
    (('host-1', ''), ('host-1', 'ops'))
    """
    target, _, login = user.partition("/")
    return target, login


_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|[0-9]+")
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a forwarded connection goes.

    `host` is an address in its usual form, or a name in lower case. `asked` is what is asked of the
    target: the same, but for the dot at the end of a name that is not to be looked for elsewhere.
    """

    host: str
    port: int
    asked: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, host: str, port: int) -> Destination | None:
        """Return what a client has asked for; None where that is no host with a port.

        >>> str(Destination.of("DB.internal.", 5432)), str(Destination.of("0x7f.1", 22))
        ('db.internal:5432', '127.0.0.1:22')
        >>> str(Destination.of("::FFFF:10.0.0.7", 22)), Destination.of("1.2.3.4.5", 22)
        ('10.0.0.7:22', None)
        """
        if not 0 < port <= _MAX_PORT:
            return None
        host = host.lower()
        if ":" in host:
            address = _ipv6(host)
            return None if address is None else cls(address, port, address)
        name = host.removesuffix(".")
        if not _NAME.fullmatch(name):
            return None
        if not _NUMBER.fullmatch(name.rpartition(".")[2]):
            return cls(name, port, host)
        # No name ends with a number: what is no address may still be one to some resolver.
        address = _ipv4(name)
        return None if address is None else cls(address, port, address)


def _ipv6(host: str) -> str | None:
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return None
    if address.scope_id is not None:
        return None
    return str(address.ipv4_mapped or address)


def _ipv4(host: str) -> str | None:
    """Return the address that `inet_aton` reads: up to four numbers in any of three bases."""
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):
        return None
    try:
        *first, last = [_number(part) for part in parts]
    except ValueError:
        return None
    room = 4 - len(first)
    if any(number > 255 for number in first) or last >= 256**room:
        return None
    raw = bytes(first) + last.to_bytes(room, "big")
    return str(ipaddress.IPv4Address(raw))


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part, 16)
    return int(part, 8) if part.startswith("0") else int(part)


def said(name: str, *values: str | bytes | int) -> str:
    r"""Return a request of a channel as a line.

    >>> said("env", "LANG", "de_DE UTF-8"), said("window-change", 80, 24)
    ('env LANG de_DE\\x20UTF-8', 'window-change 80 24')
    """
    return " ".join([name, *(_word(value) for value in values)])


def _word(value: str | bytes | int) -> str:
    if isinstance(value, int):
        return str(value)
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in raw)


def words(line: str) -> tuple[str, ...]:
    r"""Return the name and the values of a request, as `said` has written them.

    >>> words("env LANG de_DE\\x20UTF-8")
    ('env', 'LANG', 'de_DE UTF-8')
    """
    return tuple(_read(word) for word in line.split(" "))


def _read(word: str) -> str:
    if "\\" not in word:
        return word
    first, *rest = word.split("\\x")
    raw = first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
    return raw.decode("utf-8", "backslashreplace")
