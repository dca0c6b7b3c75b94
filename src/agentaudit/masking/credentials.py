"""Where an SQL text has a password, by PostgreSQL's own scanner.

Passwords stand behind the word PASSWORD (ALTER ROLE, CREATE USER MAPPING), behind CONNECTION, and
in the connection strings that dblink's functions take. The scanner is enough for that, and it reads
what its grammar would not: a statement that fails was sent all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pglast import parser as libpg_query

MAX_SCANNED_CHARACTERS: Final = 1024 * 1024

_MAY_HOLD: Final = re.compile(
    r"passw|passphrase|secret|token|api_?key|dblink|conninfo|connection", re.IGNORECASE
)
_STRINGS: Final = frozenset({"SCONST", "USCONST"})
_BETWEEN: Final = frozenset({"COLON_EQUALS", "EQUALS_GREATER", "ASCII_61", "TO"})
_IN_CONNINFO: Final = re.compile(r"passw|secret|token", re.IGNORECASE)
_SETTING: Final = re.compile(r"passw|passphrase|secret|api_?key|token|conninfo", re.IGNORECASE)


def scan(text: str) -> Sequence[Any]:
    """Return the tokens of `text`, none where it has a string without an end, or is too long."""
    if len(text) > MAX_SCANNED_CHARACTERS or "\0" in text:
        return ()
    try:
        return libpg_query.scan(text)
    except (libpg_query.ParseError, UnicodeError):
        return ()


def is_string(token: Any) -> bool:
    """Return whether a token is a string constant."""
    return token.name in _STRINGS


def credentials(text: str) -> list[tuple[int, int]]:
    """Return where in `text` constants begin and end that are credentials, quotes included.

    >>> sql = "ALTER ROLE a PASSWORD 'x'"
    >>> [sql[start:stop] for start, stop in credentials(sql)]
    ["'x'"]
    """
    if _MAY_HOLD.search(text) is None:
        return []
    tokens = [token for token in scan(text) if not token.name.endswith("_COMMENT")]
    return [(token.start, token.end + 1) for token in _credentials(text, tokens)]


def _credentials(text: str, tokens: Sequence[Any]) -> Iterator[Any]:
    is_set = False
    calls: list[str] = []
    for number, token in enumerate(tokens):
        before = tokens[number - 1] if number else None
        if token.name == "ASCII_59":
            is_set = False
            calls.clear()
        elif token.name == "SET":
            is_set = before is None or before.name in ("ASCII_59", "SYSTEM_P")
        elif token.name == "ASCII_40":
            called = text[before.start : before.end + 1].lower() if before is not None else ""
            calls.append(called)
        elif token.name == "ASCII_41" and calls:
            calls.pop()
        elif token.name in _STRINGS:
            said = text[token.start : token.end + 1]
            if (
                (any("dblink" in call for call in calls) and _IN_CONNINFO.search(said))
                or (calls and calls[-1] == "set_config" and _is_setting(text, tokens, number))
                or _follows_credential(text, tokens, number, is_set=is_set)
            ):
                yield token


def _is_setting(text: str, tokens: Sequence[Any], number: int) -> bool:
    """Say whether the constant at `number` is the value in `set_config('my.secret', 'x', …)`."""
    if number < 2 or tokens[number - 1].name != "ASCII_44" or not is_string(tokens[number - 2]):
        return False
    name = tokens[number - 2]
    return _SETTING.search(text, name.start, name.end + 1) is not None


def _follows_credential(text: str, tokens: Sequence[Any], number: int, *, is_set: bool) -> bool:
    """Say whether the constant at `number` is what the word before it says is a credential."""
    before = number - 1
    has_sign = before >= 0 and tokens[before].name in _BETWEEN
    if has_sign:
        before -= 1
    if before < 0:
        return False
    name = tokens[before].name
    word = text[tokens[before].start : tokens[before].end + 1]
    if is_set and has_sign:
        # A setting's name may have parts, each a token.
        return _SETTING.search(word) is not None
    if name == "PASSWORD":
        # `password = 'x'` is a comparison too, and a column: a detector's business.
        return not has_sign or tokens[before + 1].name not in ("ASCII_61", "TO")
    if name == "CONNECTION":
        return _IN_CONNINFO.search(text[tokens[number].start : tokens[number].end + 1]) is not None
    # OPTIONS (api_secret 'x'): of a foreign server or a user mapping.
    return not has_sign and name == "IDENT" and _SETTING.search(word) is not None
