"""The arguments of questions that come from a browser: nothing in them is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from agentaudit.analysis import asked
from agentaudit.analysis.explore import answers
from agentaudit.analysis.explore.filters import (
    MAX_US,
    MAX_VALUE_CHARACTERS,
    Filter,
    instant,
    text_of,
)
from agentaudit.errors import QuestionError

_MOST_ID: Final = (1 << 53) - 1
_MOST_OFFSET: Final = 1 << 40


def arguments(name: object, given: object) -> dict[str, Any]:
    """Return the arguments of the question `name`, checked, defaults filled in.

    Raises:
        QuestionError: no such question, an unknown or missing argument, or a wrong one.
    """
    if not isinstance(name, str) or name not in QUESTIONS:
        raise QuestionError("question: unknown", hint=f"there are {', '.join(sorted(QUESTIONS))}")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise QuestionError(f"{name}: an object expected, found {type(given).__name__}")
    takes = QUESTIONS[name]
    for key in given:
        if not isinstance(key, str) or key not in takes:
            shown = repr(key[:40]) if isinstance(key, str) else type(key).__name__
            raise QuestionError(
                f"{name}: unknown argument {shown}", hint=f"it takes {', '.join(takes) or 'none'}"
            )
    found = {key: check(f"{name}.{key}", given.get(key)) for key, check in takes.items()}
    if name in ("bins", "marks") and found["since"] >= found["until"]:
        raise QuestionError(f"{name}: since before until expected")
    if name == "rows" and found["after"] is not None and found["offset"]:
        raise QuestionError("rows: offset or after expected, found both")
    return found


Check = Callable[[str, Any], Any]


def _number(default: int | None, most: int, least: int = 0) -> Check:
    def check(name: str, value: Any) -> int | None:
        if value is None:
            return default
        number = asked.whole(name, int(value) if _is_whole(value) else value)
        if not least <= number <= most:
            raise QuestionError(f"{name}: {least} to {most} expected, found {number}")
        return number

    return check


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()  # JSON has one kind of number


def _choice(words: tuple[str, ...]) -> Check:
    def check(name: str, value: Any) -> str:
        if value is None:
            return words[0]
        if not isinstance(value, str) or value not in words:
            raise QuestionError(f"{name}: {', '.join(words[:-1])} or {words[-1]} expected")
        return value

    return check


def _time(name: str, value: Any) -> int:
    if value is None:
        raise QuestionError(f"{name}: a time expected, found none")
    return MAX_US if value == MAX_US else instant(name, value)


def _filter(name: str, value: Any) -> Filter:
    return Filter() if value is None else Filter.parse(value)


def _after(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"t", "id"}:
        raise QuestionError(f"{name}: an object of t and id expected")
    identity = _number(None, _MOST_ID)(f"{name}.id", value["id"])
    if identity is None:
        raise QuestionError(f"{name}.id: a whole number expected, found none")
    return _time(f"{name}.t", value["t"]), identity


def _session(name: str, value: Any) -> str:
    try:
        if not isinstance(value, str) or len(value) != 36:
            raise ValueError
        return str(UUID(value))
    except ValueError:
        raise QuestionError(f"{name}: a whole session id expected") from None


def _part(name: str, value: Any) -> str:
    return "" if value is None else text_of(name, value, MAX_VALUE_CHARACTERS)


_ORDER: Final = _choice(("newest", "oldest"))
_BUILD: Final = _number(None, _MOST_ID)

QUESTIONS: Final[Mapping[str, Mapping[str, Check]]] = {
    "overview": {},
    "bins": {
        "filter": _filter,
        "since": _time,
        "until": _time,
        "width": _number(1_200, answers.MAX_WIDTH, 1),
        "lanes": _choice(answers.LANES),
    },
    "marks": {
        "filter": _filter,
        "since": _time,
        "until": _time,
        "lanes": _choice(answers.LANES),
        "limit": _number(answers.MAX_MARKS, answers.MAX_MARKS, 1),
    },
    "facets": {"filter": _filter},
    "values": {
        "filter": _filter,
        "facet": _choice(answers.OPEN_FACETS),
        "text": _part,
        "offset": _number(0, _MOST_OFFSET),
        "limit": _number(answers.TOP_VALUES, answers.MAX_FOUND, 1),
    },
    "rows": {
        "filter": _filter,
        "order": _ORDER,
        "offset": _number(0, _MOST_OFFSET),
        "after": _after,
        "build": _BUILD,
        "limit": _number(200, answers.MAX_ROWS, 1),
    },
    "position": {
        "filter": _filter,
        "order": _ORDER,
        "t": _time,
        "id": _number(None, _MOST_ID),
        "build": _BUILD,
    },
    "sessions": {
        "filter": _filter,
        "order": _choice(answers.SESSION_ORDERS),
        "offset": _number(0, _MOST_OFFSET),
        "limit": _number(100, answers.MAX_SESSIONS, 1),
    },
    "which": {"id": _number(0, _MOST_ID), "build": _BUILD},
    "locate": {"session": _session, "command_no": _number(0, (1 << 31) - 1)},
}
"""Each question's arguments, and how each is checked; None is what was not given."""
