"""Checks what is asked before DuckDB sees it, so that a slip gets an answer that names it.

A value of a wrong type is never repeated, only its type: a slip in a notebook may pass a whole
result where a name was meant, and errors end up in logs.
"""

from __future__ import annotations

import operator
from datetime import UTC, date, datetime
from typing import Any, Final

from agentaudit.errors import QuestionError

CLASSES: Final = ("read", "write", "schema", "admin", "session", "unknown")
STATUSES: Final = ("ok", "error", "denied", "cancelled", "incomplete")

_MAX_SECONDS: Final = 366 * 86_400
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


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value`, which must be one of `choices`.

    Raises:
        QuestionError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        *most, last = choices
        raise QuestionError(f"{name}: {', '.join(most)} or {last} expected")
    return value


def seconds_us(name: str, value: Any) -> int:
    """Return so many seconds, whole or not, as microseconds.

    Raises:
        QuestionError: it is no number from 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuestionError(f"{name}: seconds expected, found {type(value).__name__}")
    if not 0 <= value <= _MAX_SECONDS:
        raise QuestionError(f"{name}: 0 to {_MAX_SECONDS:,} seconds expected, found {value}")
    return round(value * 1_000_000)


def instant(name: str, value: str | date | None) -> datetime | None:
    """Return a time with its zone; UTC where `value` names none.

    Raises:
        QuestionError: text that is no ISO 8601 time, or no time at all.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise QuestionError(
                f"time {value!r}: an ISO 8601 time expected, as 2026-11-01 or 2026-11-01T12:30:00Z"
            ) from None
    if not isinstance(value, date):
        raise QuestionError(
            f"{name}: an ISO 8601 text, date or datetime expected, found {type(value).__name__}"
        )
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
