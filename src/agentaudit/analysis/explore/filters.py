"""Which commands are meant: a `Filter`, and the SQL and the Python that stand for it.

A filter comes from a browser, so `Filter.parse` believes nothing. What it prints for a person
selects the same commands as the index does; texts of a recording are in it, so every character
that does not print is written as a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from agentaudit.analysis.asked import CLASSES, STATUSES
from agentaudit.analysis.explore import meaning
from agentaudit.analysis.printable import printable
from agentaudit.errors import QuestionError

FACETS: Final = (
    *("session", "user", "agent", "target", "protocol", "cls", "status", "decision"),
    *("operation", "risk", "table"),
)
"""What a filter may list values of, in the order in which they are shown; and `flags`."""

MAX_VALUES = 200
MAX_VALUE_CHARACTERS = 2_000
MAX_TEXT_CHARACTERS = 1_000
MAX_US: Final = 253_402_300_800_000_000
"""The end of the year 9999: later times have no ISO 8601 text."""

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "cls": CLASSES,
    "status": STATUSES,
    "decision": meaning.DECISIONS,
    "flags": tuple(meaning.FLAGS),
}
_COLUMNS: Final[Mapping[str, str]] = {
    "session": "session_id",
    "user": '"user"',
    "agent": "agent",
    "target": "target",
    "protocol": "protocol",
    "cls": "class",
    "status": "status",
    "decision": "decision",
    "operation": "operation",
}
_IN_PYTHON: Final = ("session", "user", "agent", "target", "cls", "status", "operation", "table")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Commands that match every clause given; a clause of several values is met by any of them.

    `session` has ids; `table` names of tables, with or without their schema, in any case; `flags`
    words of `meaning.FLAGS`. `since` and `until` are of the start, microseconds since 1970, UTC,
    from the first to before the second. `text` is looked for in the statement's recorded text (its
    first 64 KiB), in any case. An empty clause means all.
    """

    session: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    cls: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    decision: tuple[str, ...] = ()
    operation: tuple[str, ...] = ()
    risk: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    text: str = ""

    def __post_init__(self) -> None:
        for name in (*FACETS, "flags"):
            if isinstance(getattr(self, name), str):
                raise QuestionError(f"filter.{name}: a tuple of values expected, found a text")

    @classmethod
    def parse(cls, asked: object) -> Filter:
        """Return the filter that a browser asks for, each clause's values sorted and once.

        Raises:
            QuestionError: an unknown key, or a value that is of a wrong type, unknown, or too long.
        """
        if not isinstance(asked, Mapping):
            raise QuestionError(f"filter: an object expected, found {type(asked).__name__}")
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {}
        for name, value in asked.items():
            if name not in known:
                shown = repr(name[:40]) if isinstance(name, str) else type(name).__name__
                raise QuestionError(
                    f"filter: unknown key {shown}", hint=f"there are {', '.join(sorted(known))}"
                )
            if name in ("since", "until"):
                given[name] = None if value is None else instant(f"filter.{name}", value)
            elif name == "text":
                given[name] = text_of("filter.text", value, MAX_TEXT_CHARACTERS)
            else:
                given[name] = _values(name, value)
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """Return what `parse` takes, without clauses that say nothing."""
        said: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value not in ((), ""):
                said[field.name] = list(value) if isinstance(value, tuple) else value
        return said

    def without(self, facet: str) -> Filter:
        """Return this filter with no clause about `facet`, a field's name."""
        nothing: dict[str, Any] = {facet: () if facet in FACETS or facet == "flags" else None}
        return replace(self, **({"text": ""} if facet == "text" else nothing))

    def clauses(self) -> list[str]:
        """Return the clauses as SQL conditions over the view `commands`, all of them to be met."""
        found = []
        for facet, column in _COLUMNS.items():
            if values := getattr(self, facet):
                found.append(_among(_known(column, values, facet), values))
        if self.risk:
            found.append(f"list_has_any(risk, [{', '.join(map(literal, self.risk))}])")
        if self.table:
            either = " OR ".join(
                f"lower(name) = lower({literal(name)}) "
                f"OR ends_with(lower(name), lower({literal('.' + name)}))"
                for name in self.table
            )
            found.append(f"len(list_filter(resources, lambda name: {either})) > 0")
        if self.flags:
            found.append(f"({' OR '.join(meaning.FLAGS[flag].sql for flag in self.flags)})")
        if self.since is not None:
            found.append(f"started_at >= TIMESTAMPTZ '{iso(self.since)}'")
        if self.until is not None:
            found.append(f"started_at < TIMESTAMPTZ '{iso(self.until)}'")
        if self.text:
            found.append(f"contains(lower(text), lower({literal(self.text)}))")
        return found

    def sql(self) -> str:
        """Return the SQL that stands for this filter, for `case.sql`: newest first.

        >>> print(Filter(user=("ada",), cls=("write",)).sql())
        SELECT *
        FROM commands
        WHERE "user" = 'ada'
          AND class = 'write'
        ORDER BY started_at DESC, session_id DESC, command_no DESC
        """
        lines = ["SELECT *", "FROM commands"]
        for number, clause in enumerate(self.clauses()):
            lines.append(f"  AND {clause}" if number else f"WHERE {clause}")
        lines.append("ORDER BY started_at DESC, session_id DESC, command_no DESC")
        return "\n".join(lines)

    def python(self) -> str:
        """Return the Python that stands for this filter, where `case` is the case: an expression.

        >>> Filter(user=("ada",), since=0).python()
        "case.commands(user='ada', since='1970-01-01T00:00:00.000000Z')"
        """
        if not self._is_plain():
            # Between three quotes a text reads as it stands, but for what would end it.
            sql = self.sql().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
            return f'case.sql("""\n{sql}\n""")'
        said = {name: getattr(self, name)[0] for name in _IN_PYTHON if getattr(self, name)}
        for name in ("since", "until"):
            if (us := getattr(self, name)) is not None:
                said[name] = iso(us)
        return f"case.commands({', '.join(f'{n}={printable(repr(v))}' for n, v in said.items())})"

    def _is_plain(self) -> bool:
        """Whether `Case.commands` can say all of it, and means the same."""
        others = (*self.protocol, *self.decision, *self.risk, *self.flags)
        if others or self.text or any(len(getattr(self, name)) > 1 for name in _IN_PYTHON):
            return False
        values = [value for name in _IN_PYTHON for value in getattr(self, name)]
        # It folds an operation to capitals, and takes no null for an empty text.
        return all(values) and all(
            value.isascii() and value == value.upper() for value in self.operation
        )


def instant(name: str, value: Any) -> int:
    """Return a time that was asked for, in microseconds since 1970.

    Raises:
        QuestionError: no whole number, before 1970 or after the year 9999.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if isinstance(value, bool) or not isinstance(value, int):
        raise QuestionError(f"{name}: whole microseconds expected, found {type(value).__name__}")
    if not 0 <= value < MAX_US:
        raise QuestionError(f"{name}: a time from 1970 to 9999 expected")
    return value


def iso(us: int) -> str:
    """Return a time as text, to the microsecond.

    >>> iso(1_793_700_000_000_001)
    '2026-11-03T10:00:00.000001Z'
    """
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def literal(text: str) -> str:
    r"""Return `text` as SQL in one line of characters that print.

    >>> print(literal("it's\n"))
    'it''s' || chr(10)
    """
    parts: list[str] = []
    run: list[str] = []
    for character in text:
        # Not all that Python takes for printing is seen: no character of an invisible one is left.
        if character.isprintable() and printable(character) == character:
            run.append("''" if character == "'" else character)
            continue
        if run:
            parts.append(f"'{''.join(run)}'")
            run = []
        parts.append(f"chr({ord(character)})")
    if run or not parts:
        parts.append(f"'{''.join(run)}'")
    return " || ".join(parts)


def _among(column: str, values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return f"{column} = {literal(values[0])}"
    return f"{column} IN ({', '.join(map(literal, values))})"


def _known(column: str, values: tuple[str, ...], facet: str) -> str:
    # What is null is shown as an empty text, so whoever asks for that means both.
    return f"coalesce({column}, '')" if "" in values and facet != "session" else column


def _values(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise QuestionError(f"filter.{name}: a list expected, found {type(value).__name__}")
    if len(value) > MAX_VALUES:
        raise QuestionError(
            f"filter.{name}: at most {MAX_VALUES} values expected, found {len(value)}"
        )
    found = {text_of(f"filter.{name}", one, MAX_VALUE_CHARACTERS) for one in value}
    if name == "session":
        found = {_session(one) for one in found}
    if name in _CHOICES and not found.issubset(_CHOICES[name]):
        *most, last = _CHOICES[name]
        raise QuestionError(f"filter.{name}: {', '.join(most)} or {last} expected")
    return tuple(sorted(found))


def text_of(name: str, value: object, most: int) -> str:
    """Return `value` as text of at most `most` characters.

    Raises:
        QuestionError: it is none, or longer, or no Unicode.
    """
    if not isinstance(value, str):
        raise QuestionError(f"{name}: text expected, found {type(value).__name__}")
    if len(value) > most:
        raise QuestionError(f"{name}: at most {most} characters expected, found {len(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise QuestionError(f"{name}: Unicode text expected, found half a character")
    return value


def _session(value: str) -> str:
    try:
        if len(value) != 36:
            raise ValueError
        return str(UUID(value))
    except ValueError:
        raise QuestionError("filter.session: whole session ids expected") from None
