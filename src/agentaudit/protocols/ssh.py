"""What SSH channels say, as the archive has it: each request is a line of words.

Bytes of a channel are events with a payload: `request` from the client, `response` from the
target, with status `STDERR` for what a target writes there. All else that a channel says is a
`notice` whose text begins with the request's name as RFC 4254 has it; what it carries follows,
with every character that is no printable ASCII, every space and every backslash as `\\xNN`.

Source: RFC 4254, sections 5 and 6
"""

from __future__ import annotations

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
