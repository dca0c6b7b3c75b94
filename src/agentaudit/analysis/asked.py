"""Checks what is asked before DuckDB sees it, so that a slip gets an answer that names it.

A value of a wrong type is never repeated, only its type: a slip in a notebook may pass a whole
result where a name was meant, and errors end up in logs.
"""

from __future__ import annotations

import operator
from typing import Any, Final

from agentaudit.errors import QuestionError

CLASSES: Final = ("read", "write", "schema", "admin", "session", "unknown")
STATUSES: Final = ("ok", "error", "denied", "cancelled", "incomplete")

_CHOICES: Final = {"cls": CLASSES, "status": STATUSES}


def texts(**given: object) -> None:
    """Accept what is text or None, and of `cls` and `status` the archive's own words alone.

    Raises:
        QuestionError: one of `given` is of another type, or another word.
    """
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise QuestionError(f"{name}: text expected, found {type(value).__name__}")
        if name in _CHOICES and value not in _CHOICES[name]:
            *most, last = _CHOICES[name]
            raise QuestionError(f"{name}: {', '.join(most)} or {last} expected")


def whole(name: str, value: Any) -> int:
    """Return `value` as a whole number; those of numpy and the like are taken too.

    Raises:
        QuestionError: it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise QuestionError(
            f"{name}: a whole number expected, found {type(value).__name__}"
        ) from None


def count(name: str, value: Any) -> int:
    """Return `value` as a whole number from 0.

    Raises:
        QuestionError: it is none, or below 0.
    """
    number = whole(name, value)
    if number < 0:
        raise QuestionError(f"{name}: 0 or more expected, found {number}")
    return number
