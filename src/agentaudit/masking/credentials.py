"""Where an SQL text has a password, by PostgreSQL's own scanner.

Passwords stand behind the word PASSWORD (ALTER ROLE, CREATE USER MAPPING), behind CONNECTION, and
in the connection strings that dblink's functions take. The scanner is enough for that, and it reads
what its grammar would not: a statement that fails was sent all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pglast import parser as libpg_query

from agentaudit.masking.masks import CREDENTIAL_WORDS

MAX_SCANNED_CHARACTERS: Final = 1024 * 1024

_MAY_HOLD: Final = re.compile("|".join(CREDENTIAL_WORDS), re.IGNORECASE)
_STRINGS: Final = frozenset({"SCONST", "USCONST"})
_BETWEEN: Final = frozenset({"COLON_EQUALS", "EQUALS_GREATER", "ASCII_61", "TO"})
_SET_TO: Final = frozenset({"ASCII_61", "TO"})
_SIGNS: Final = frozenset({"ASCII_45", "ASCII_43"})
_IN_CONNINFO: Final = re.compile(r"passw|secret|token", re.IGNORECASE)
_SETTING: Final = re.compile(r"passw|passphrase|secret|api_?key|token|conninfo", re.IGNORECASE)
_HARMLESS: Final = frozenset({"password_encryption"})
_MOST_PARTS: Final = 7
"""Tokens of a setting's name, dots among them."""
_OWNERS: Final = frozenset({"SYSTEM_P", "ROLE", "USER", "DATABASE"})
"""What an ALTER is about that sets a setting of the server's own."""


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

    yield from _set(tokens, said)
    calls: list[_Call] = []
    depth = 0
    for number, token in enumerate(tokens):
        if token.name == "ASCII_40":
            depth += 1
            name = said(tokens[number - 1]).lower().strip('"') if number else ""
            if name == "set_config" or "dblink" in name:
                calls.append(_Call(name, depth))
        elif token.name == "ASCII_41":
            if calls and calls[-1].depth == depth:
                yield from calls.pop().credentials(said)
            depth = max(0, depth - 1)
        elif token.name == "ASCII_44" and calls and calls[-1].depth == depth:
            calls[-1].arguments.append([])
        elif token.name in _STRINGS:
            if calls:
                calls[-1].note(token, tokens[max(0, number - 2) : number], said)
            if _follows_credential(tokens, number, said):
                yield token
    for call in calls:  # without an end
        yield from call.credentials(said)


@dataclass(slots=True)
class _Call:
    """A call in which a credential has its place: the strings in each argument."""

    name: str
    depth: int
    arguments: list[list[_Token]] = field(default_factory=lambda: [[]])
    named: list[_Token] = field(default_factory=list)

    def note(self, token: _Token, before: Sequence[_Token], said: Callable[[_Token], str]) -> None:
        self.arguments[-1].append(token)
        is_named = len(before) == 2 and before[1].name in _BETWEEN
        if is_named and said(before[0]).lower().strip('"') == "setting_name":
            self.named.append(token)

    def credentials(self, said: Callable[[_Token], str]) -> Iterator[_Token]:
        if self.name != "set_config":
            for strings in self.arguments:
                if any(_IN_CONNINFO.search(said(token)) for token in strings):
                    yield from strings
            return
        names = self.named or self.arguments[0]
        if any(_is_secret(said(token)) for token in names):
            yield from (
                token for strings in self.arguments for token in strings if token not in names
            )


def _is_secret(setting: str) -> bool:
    return _SETTING.search(setting) is not None and setting.strip("\"'").lower() not in _HARMLESS


def _set(tokens: Sequence[_Token], said: Callable[[_Token], str]) -> Iterator[_Token]:
    """Yield what a statement sets settings to whose names are those of secrets.

    `SET [LOCAL | SESSION] name {= | TO} value, …`, by itself or in an ALTER or CREATE.
    """
    if not tokens or tokens[0].name not in ("SET", "ALTER", "CREATE"):
        return
    is_own = tokens[0].name == "SET" or (len(tokens) > 1 and tokens[1].name in _OWNERS)
    for number, token in enumerate(tokens):
        if token.name != "SET":
            continue
        at = number + 1
        if at < len(tokens) and tokens[at].name in ("LOCAL", "SESSION"):
            at += 1
        begin = at
        while at < len(tokens) and tokens[at].name not in _SET_TO:
            if at - begin > _MOST_PARTS or ((at - begin) % 2 and tokens[at].name != "ASCII_46"):
                break
            at += 1
        if at >= len(tokens) or tokens[at].name not in _SET_TO or at == begin:
            continue
        parts = at - begin
        # A name without a dot is one of the server's own, or a column's in an UPDATE inside.
        if parts > 1 or is_own:
            name = "".join(said(each) for each in tokens[begin:at])
            if _is_secret(name):
                yield from _values(tokens, at + 1)


def _values(tokens: Sequence[_Token], at: int) -> Iterator[_Token]:
    """Yield the values of a list: what stands between commas, with a sign or none."""
    while at < len(tokens):
        if tokens[at].name in _SIGNS:
            at += 1
        is_assigned = at + 1 < len(tokens) and tokens[at + 1].name == "ASCII_61"
        if at == len(tokens) or tokens[at].name in ("DEFAULT", "ASCII_41") or is_assigned:
            return
        yield tokens[at]
        if at + 1 == len(tokens) or tokens[at + 1].name != "ASCII_44":
            return
        at += 2


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
