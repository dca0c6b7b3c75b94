"""Where the constants of a text are, in bytes.

A tree says where a constant begins, but for the N of N'…', and only the scanner where it ends. Of a
text that cannot be scanned, all from the first quote, dollar or digit on may be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pglast import parser as libpg_query


@dataclass(frozen=True, slots=True)
class Hidden:
    """A constant of the text: bytes `start` to `stop` of its UTF-8, and the rule that hides it."""

    start: int
    stop: int
    rule: str


_CONSTANT_TOKENS: Final = frozenset(
    {"SCONST", "USCONST", "FCONST", "ICONST", "BCONST", "XCONST", "TRUE_P", "FALSE_P"}
)
_FIRST: Final = re.compile(r"['\"$]|(?<![A-Za-z_0-9])\d")
# What ends where it seems to: a string of several parts goes on after a line, or a comment.
_SIMPLE: Final = re.compile(r"'[^']*'(?!\s*(?:'|--))|\d+(?![\w.])")


def all_constants(text: str, rule: str) -> tuple[Hidden, ...]:
    """Return all constants of a text that may parse or not."""
    try:
        tokens = libpg_query.scan(text)
    except Exception:
        # Up to where it is broken it may say anything, and be cut anywhere.
        found = _FIRST.search(text)
        if found is None:
            return ()
        start = len(text[: found.start()].encode("utf-8", "surrogatepass"))
        return (Hidden(start, len(text.encode("utf-8", "surrogatepass")), rule),)
    offset = _offsets(text)
    return tuple(
        Hidden(offset(token.start), offset(token.end + 1), rule)
        for token in tokens
        if token.name in _CONSTANT_TOKENS
    )


def located(text: str, constants: Mapping[int, str]) -> tuple[Hidden, ...]:
    """Return the constants that begin at some bytes of a text, to their ends."""
    found = []
    if text.isascii():
        for start, rule in sorted(constants.items()):
            match = _SIMPLE.match(text, start)
            if match is None:
                break
            is_national = text[start - 1 : start] in ("N", "n") and text[start] == "'"
            found.append(Hidden(start - is_national, match.end(), rule))
        else:
            return tuple(found)
        found = []
    offset = _offsets(text)
    waiting: tuple[int, str] | None = None
    before = -1  # where the N of N'…' is
    for token in libpg_query.scan(text):
        start = offset(token.start)
        if start in constants:
            waiting = (start if before < 0 else before, constants[start])
        before = start if token.name == "NCHAR" else -1
        # A sign and the N of N'…' are a part of the constant.
        if waiting is not None and token.name in _CONSTANT_TOKENS:
            found.append(Hidden(waiting[0], offset(token.end + 1), waiting[1]))
            waiting = None
    return tuple(found)


def _offsets(text: str) -> Any:
    """Return what tells a character's place in UTF-8."""
    if text.isascii():
        return lambda place: place
    places = [0]
    for character in text:
        places.append(places[-1] + len(character.encode("utf-8", "surrogatepass")))
    return places.__getitem__
