"""What becomes of values: those of parameters, and those of the columns of a result.

A rule about a column hides the whole of a value; what patterns find in text is hidden with all the
rest of a message, and here only where no text would show it: in binary, in hex, in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentaudit._native import sift
from agentaudit.gateway import postgres_frames as frames
from agentaudit.gateway.postgres_statements import Look
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import Masks
from agentaudit.masking.stream import without_lengths
from agentaudit.model import Span
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_messages import Column

JSON: Final = frozenset({114, 3802})
_JSON_ARRAYS: Final = frozenset({199, 3807})
JSON_LIKE: Final = JSON | _JSON_ARRAYS
_JSONB: Final = 3802
_BYTEA: Final = 17
_INT8: Final = 20
_DIGITS: Final = frozenset({_INT8, 1700})
"""int8 and numeric: in binary their digits are no text, and may be a card's."""
_FIXED: Final = frozenset(
    # bool, int2, int4, oid, float4, float8, date, time, timestamp, timestamptz, interval, timetz,
    # uuid
    [16, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 2950]
)
_LEAST_CARD: Final = (10**8).to_bytes(8)
"""Smaller numbers are nothing that is looked for."""


@dataclass(frozen=True, slots=True)
class Param:
    """What becomes of a parameter: by which rules, and whether it is told as text now.

    `hidden` is what was replaced, where that is not all of it.
    """

    value: bytes | None
    rules: tuple[str, ...] = ()
    is_text: bool = False
    hidden: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the rows of one statement: a change for each column, and its rule.

    `otherwise` is for rows that have other columns than are known.
    """

    changes: tuple[sift.Change, ...]
    rules: tuple[str, ...]
    otherwise: sift.Change
    otherwise_rule: str

    def apply(self, run: bytes, spans: list[Span]) -> bytes:
        """Return whole messages with their rows changed, and note in `spans` what is hidden."""
        made, hidden = sift.change_rows(run, self.changes, self.otherwise)
        for number, length in enumerate(hidden):
            change = self.changes[number] if number < len(self.changes) else self.otherwise
            if isinstance(change, Search):
                spans += [Span(rule, "column", number, n) for rule, n in change.told()]
            elif length:
                rule = self.rules[number] if number < len(self.rules) else self.otherwise_rule
                spans.append(Span(rule, "column", number, length))
        return made


class Search:
    """The change of a column in which something is looked for: whose it is, each value tells."""

    def __init__(self, change: Callable[[bytes], tuple[bytes | None, Sequence[str]]]) -> None:
        self._change = change
        self._told: dict[str, int] = {}

    def __call__(self, value: bytes) -> bytes | None:
        made, rules = self._change(value)
        for rule in rules:
            self._told[rule] = self._told.get(rule, 0) + len(value)
        return made if rules else value

    def told(self) -> Iterator[tuple[str, int]]:
        """Yield each rule that hid something since this was asked, and of how many bytes."""
        told, self._told = self._told, {}
        yield from told.items()


class Values:
    """Masks values one by one, by the rules of `masks`."""

    def __init__(self, masks: Masks, conversation: Conversation) -> None:
        self._masks = masks
        self._conversation = conversation

    def param(self, look: Look, number: int, value: bytes, oid: int, *, is_binary: bool) -> Param:
        """Return what becomes of a parameter, by its number from 0."""
        lineage = look.lineage
        if lineage is not None:
            rule = lineage.params.get(number + 1, "") or lineage.all_params
            if rule:
                shown = self.readable(value, oid, is_binary=is_binary)
                return Param(self._masks.rules[rule].whole(shown), (rule,), is_text=True)
        rules: tuple[str, ...] = ()
        if self._masks.paths and oid in _JSON_ARRAYS:
            return Param(None, (self._masks.paths[0][1],))
        parts: list[bytes] = []
        if oid in JSON or (oid == 0 and _may_be_json(value)):
            # What no path names may hold something all the same.
            value, rules = self._json(value, parts)
        if is_binary and oid in _FIXED:
            return Param(value)
        if not is_binary and (hex_ := self._in_hex(value)) is not None:
            return Param(mark(hex_[0]), (hex_[1],), is_text=True)
        if is_binary and not frames.may_be_text(value, oid, is_binary=True):
            inside = self._inside(value, oid)
            return Param(value) if inside is None else Param(inside[0], inside[1:], is_text=True)
        scanner = self._masks.scanner
        found = scanner.find(value) if scanner.may_hold(value) else []
        if not found:
            return Param(value, rules, hidden=tuple(parts))
        hiding = dict.fromkeys([*rules, *(each.rule for each in found)])
        parts += [value[each.start : each.stop] for each in found]
        made = frames.inline(self._masks, value, oid, found)
        return Param(made, tuple(hiding), hidden=tuple(parts))

    def change(self, name: str, column: Column | None, *, is_announced: bool) -> sift.Change:
        """Return what becomes of the values of a column that the rule `name` hides, or none.

        `is_announced` says that it was told as text.
        """
        if not name:
            return self.change_unknown() if column is None else self._change_unruled(column)
        rule = self._masks.rules[name]
        may_be_text = is_announced or (column is not None and column.type in frames.INLINE - JSON)
        if rule.action == "drop" or not may_be_text:
            return sift.AS_NULL
        if rule.action == "redact":
            return rule.whole(b"")
        oid = 0 if column is None else column.type
        is_binary = column is not None and column.format == 1

        def change(value: bytes) -> bytes | None:
            return rule.whole(self.readable(value, oid, is_binary=is_binary))

        return change

    def _change_unruled(self, column: Column) -> sift.Change:
        """Return what becomes of a column in which parts are hidden that no pattern sees."""
        oid, is_binary = column.type, column.format == 1
        if oid == _BYTEA and not is_binary:
            return Search(self._null_by_hex)
        if oid in _JSON_ARRAYS and self._masks.paths:
            rule = self._masks.paths[0][1]
            return Search(lambda value: (None, (rule,)))
        if oid in JSON and self._masks.paths:
            return Search(self._json)
        if not is_binary or oid in frames.INLINE or oid in _FIXED:
            return None
        if oid in _DIGITS:
            if not self._masks.scanner.finds_numbers:
                return None
            if oid == _INT8:
                return Search(self._null_by_digits)
        return Search(lambda value: self._null_by_inside(value, oid))

    def change_unknown(self) -> sift.Change:
        """Return what becomes of values that nobody has told the type and the format of."""
        return Search(self._unknown)

    def _unknown(self, value: bytes) -> tuple[bytes | None, Sequence[str]]:
        if self._masks.paths and _may_be_json(value):
            return self._json(value)
        return self._null_by_hex(value)

    def _null_by_hex(self, value: bytes) -> tuple[bytes | None, Sequence[str]]:
        found = self._in_hex(value)
        return None, found[1:] if found else ()

    def _null_by_digits(self, value: bytes) -> tuple[bytes | None, Sequence[str]]:
        if len(value) != 8 or value < _LEAST_CARD:
            return None, ()
        found = self._masks.scanner.find(b"%d" % int.from_bytes(value, signed=True))
        return None, [each.rule for each in found[:1]]

    def _null_by_inside(self, value: bytes, oid: int) -> tuple[bytes | None, Sequence[str]]:
        if frames.may_be_text(value, oid, is_binary=True):
            return None, ()  # what is in it is found with all the rest
        found = self._inside(value, oid)
        return None, found[1:] if found else ()

    def _json(
        self, value: bytes, hidden: list[bytes] | None = None
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return JSON with what paths name in it replaced, and by which rules."""
        head = value[:1] if value[:1] == b"\1" else b""  # of jsonb in binary, its version
        codec = self._conversation.codec
        made, rules = self._masks.mask_json(value[len(head) :], codec, hidden)
        return head + made, rules

    def _in_hex(self, value: bytes) -> tuple[str, str] | None:
        """Return what is found in bytes that are written as text, and its rule."""
        if not value.startswith(b"\\x"):
            return None
        try:
            data = bytes.fromhex(value[2:].decode("ascii"))
        except ValueError:
            return None
        scanner = self._masks.scanner
        found = scanner.find(data) if scanner.may_hold(data) else []
        return (found[0].what, found[0].rule) if found else None

    def _inside(self, value: bytes, oid: int) -> tuple[bytes, str] | None:
        """Return a value in binary that is no text as text, masked, and by which rule; or None."""
        scanner = self._masks.scanner
        shown = self.readable(value, oid, is_binary=True)
        if scanner.may_hold(shown) and (found := scanner.find(shown)):
            return self._masks.replaced(shown, found), found[0].rule
        for parts in without_lengths(value):
            if scanner.may_hold(parts) and (found := scanner.find(parts)):
                return mark(found[0].what), found[0].rule
        return None

    def readable(self, value: bytes, oid: int, *, is_binary: bool) -> bytes:
        """Return a value as text has it, so that it is the same in either format."""
        if not is_binary or (oid in frames.INLINE and oid != _JSONB):
            return value
        text = messages.parameter_text(value, True, oid, self._conversation.codec)
        return (text or "").encode("utf-8", "replace")


def _may_be_json(value: bytes) -> bool:
    return value.lstrip(b" \t\r\n\1")[:1] in (b"{", b"[")
