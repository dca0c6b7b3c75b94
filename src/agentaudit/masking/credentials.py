"""Where an SQL text has a password, by PostgreSQL's own scanner.

Passwords stand behind the word PASSWORD (ALTER ROLE, CREATE USER MAPPING), behind CONNECTION, and
in the connection strings that dblink's functions take. The scanner is enough for that, and it reads
what its grammar would not: a statement that fails was sent all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pglast import parser as libpg_query

from agentaudit.masking.masks import CREDENTIAL_WORDS

MAX_SCANNED_CHARACTERS: Final = 1024 * 1024

_MAY_HOLD: Final = re.compile("|".join(CREDENTIAL_WORDS), re.IGNORECASE)
_STRINGS: Final = frozenset({"SCONST", "USCONST"})
_BETWEEN: Final = frozenset({"COLON_EQUALS", "EQUALS_GREATER", "ASCII_61", "TO"})
_SIGNS: Final = frozenset({"ASCII_44", "ASCII_45", "ASCII_43", "DEFAULT", "FROM", "CURRENT_P"})
_IN_CONNINFO: Final = re.compile(r"passw|secret|token", re.IGNORECASE)
_SETTING: Final = re.compile(r"passw|passphrase|secret|api_?key|token|conninfo", re.IGNORECASE)
_SETTERS: Final = frozenset({"SET", "ALTER", "CREATE"})
"""What a statement begins with that may set a setting."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A token as libpg_query tells it: `end` is its last character."""

    name: str
    start: int
    end: int


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
    tokens = [token for token in _scanned(text) if not token.name.endswith("_COMMENT")]
    found: dict[tuple[int, int], None] = {}
    begin = 0
    for number, token in enumerate([*tokens, _Token("ASCII_59", len(text), len(text))]):
        if token.name == "ASCII_59":
            for each in _credentials(text, tokens[begin:number]):
                found[each.start, each.end + 1] = None
            begin = number + 1
    return sorted(found)


def _scanned(text: str) -> list[_Token]:
    """Return the tokens of `text`; where a string has no end, that is the last one."""
    if len(text) > MAX_SCANNED_CHARACTERS or "\0" in text:
        return []
    rest = len(text)
    tokens: Sequence[Any] = ()
    try:
        tokens = libpg_query.scan(text)
    except UnicodeError:
        return []
    except libpg_query.ParseError as error:
        rest = error.args[1] if len(error.args) > 1 else 0
        tokens = scan(text[:rest])
    made = [_Token(token.name, token.start, token.end) for token in tokens]
    if rest < len(text):
        made.append(_Token("SCONST", rest, len(text) - 1))
    return made


def _credentials(text: str, tokens: Sequence[_Token]) -> Iterator[_Token]:
    """Yield the tokens of one statement that are credentials."""

    def said(token: _Token) -> str:
        return text[token.start : token.end + 1]

    if tokens and tokens[0].name in _SETTERS:
        yield from _set(tokens, said)
    calls: list[tuple[str, list[_Token]]] = []
    for number, token in enumerate(tokens):
        if token.name == "ASCII_40":
            calls.append((said(tokens[number - 1]).lower() if number else "", []))
        elif token.name == "ASCII_41" and calls:
            yield from _told(*calls.pop(), said)
        elif token.name in _STRINGS:
            for _, strings in calls:
                strings.append(token)
            if _follows_credential(tokens, number, said):
                yield token
    for name, strings in calls:  # without an end
        yield from _told(name, strings, said)


def _set(tokens: Sequence[_Token], said: Callable[[_Token], str]) -> Iterator[_Token]:
    """Yield all that a statement sets settings to whose names are those of secrets."""
    is_set = is_secret = is_value = False
    for token in tokens:
        if token.name == "SET":
            is_set, is_secret, is_value = True, False, False
        elif not is_set:
            continue
        elif token.name in ("ASCII_61", "TO"):
            is_value = True
        elif not is_value:
            is_secret = is_secret or _SETTING.search(said(token)) is not None
        elif is_secret and token.name not in _SIGNS:
            yield token


def _told(call: str, strings: Sequence[_Token], said: Callable[[_Token], str]) -> Iterator[_Token]:
    """Yield what of the strings in a call is a credential."""
    if call.strip('"').endswith("set_config"):
        names = [token for token in strings if _SETTING.search(said(token))]
        if names:
            yield from (token for token in strings if token is not names[0])
    elif "dblink" in call:
        yield from (token for token in strings if _IN_CONNINFO.search(said(token)))


def _follows_credential(
    tokens: Sequence[_Token], number: int, said: Callable[[_Token], str]
) -> bool:
    """Say whether the constant at `number` is what the word before it says is a credential."""
    before = number - 1
    has_sign = before >= 0 and tokens[before].name in _BETWEEN
    if has_sign:
        before -= 1
    if before < 0:
        return False
    name = tokens[before].name
    if name == "PASSWORD":
        # `password = 'x'` is a comparison too, and a column: a detector's business.
        return not has_sign or tokens[before + 1].name not in ("ASCII_61", "TO")
    if name == "CONNECTION":
        return _IN_CONNINFO.search(said(tokens[number])) is not None
    # OPTIONS (api_secret 'x'): of a foreign server or a user mapping.
    return not has_sign and name == "IDENT" and _SETTING.search(said(tokens[before])) is not None
