"""Patterns of settings, in RE2's syntax: their time is linear in what they search.

An agent picks the text, so an engine that goes back and tries again would let it stop a gateway.

Syntax: github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from typing import Final, Protocol, cast

import re2

_MAX_MEMORY: Final = 8 << 20
"""Bytes that one pattern may take, compiled and while it searches."""


class Pattern(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> object | None:
        """Return something where it is in `text`, None where it is not."""
        ...


def compile_pattern(text: str) -> Pattern:
    """Return `text` compiled.

    Raises:
        ValueError: it is no pattern, or too large a one; the message says why.
    """
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        return cast("Pattern", re2.compile(text, options))
    except re2.error as error:
        reason = error.args[0]
        said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"no pattern of RE2: {said}") from None
