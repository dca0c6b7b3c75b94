"""What masks make of one batch of values: what is hidden, by which rule, and why that may be wrong.

Values are searched as a gateway searches the fields of a message, joined with NULs between them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Final

import orjson

from agentaudit.analysis.masking_sources import (
    COLUMN,
    ERROR,
    PARAMETER,
    RESULT,
    STATEMENT,
    TEXT,
    Batch,
)
from agentaudit.masking import jsonpath
from agentaudit.masking.detectors import DETECTORS
from agentaudit.masking.marks import mark, slug
from agentaudit.masking.masks import CREDENTIALS, Masks, Rule
from agentaudit.masking.suggest import DIGITS_ALONE, KINDS, matches, names_a_key, telling, words

_SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema"})
_AROUND: Final = 60
_LONGEST: Final = 160
BY_COLUMN, BY_DETECTOR, BY_PATTERN, BY_PATH = "column", "detector", "pattern", "json_path"

_NAMES_OF_KINDS: Final = {
    STATEMENT: "(statements)",
    PARAMETER: "(parameters)",
    ERROR: "(error texts)",
    TEXT: "(text)",
}
DETECTOR_NAMES: Final = frozenset(each.name for each in DETECTORS)
MASKED: Final = re.compile(
    r"\[masked:(?P<name>[a-z0-9_-]{1,40})\]|(?P<pseudonym>\bpn_[a-z2-7]{4}_[a-z2-7]{26}\b)"
    r"|(?P<partial>^\*{4}[0-9A-Za-z-]{4}$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Something that a rule would hide, where it is, and what would stand there instead.

    `before` and `after` are excerpts of one value; `start` and `stop` say what of `before` would be
    hidden, `after_start` and `after_stop` what of `after` stands for it. `how` is `column`,
    `detector`, `pattern` or `json_path`. `doubts` say why it may be hidden wrongly.
    """

    kind: str
    column: str
    row: int
    rule: str
    how: str
    before: str
    start: int
    stop: int
    after: str
    after_start: int
    after_stop: int
    detector: str = ""
    session: str = ""
    command_no: int | None = None
    is_dropped: bool = False
    doubts: tuple[str, ...] = ()
    offset: int = 0
    """In the whole value, in characters."""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        where = f"{self.session[:13]} #{self.command_no} " if self.session else ""
        if self.kind == TEXT:
            return f"line {self.row:,}"
        if self.kind in (RESULT, COLUMN):
            return f"{where}{self.column or 'document'}, row {self.row:,}"
        number = f" ${self.row}" if self.kind == PARAMETER else ""
        return f"{where}{self.kind}{number}".strip()


# --- one batch under one set of masks


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is hidden of a value, in characters; `leaf` is a member of a JSON value, by itself."""

    start: int
    stop: int
    rule: str
    what: str
    how: str
    made: str | None
    leaf: str | None = None


class Look:
    """What masks make of the values of a batch: `cuts` by the value's place in it."""

    def __init__(self, masks: Masks, batch: Batch) -> None:
        self.batch = batch
        self.cuts: dict[int, list[_Cut]] = {}
        self._texts: dict[int, str] = {}
        self._ends: dict[int, list[int]] = {}
        self.rule = self._rule_of_column(masks) if batch.kind in (RESULT, COLUMN) else ""
        if self.rule:
            self._cut_whole(masks)
            return
        if masks.paths and (batch.is_json or batch.kind == COLUMN):
            self._cut_members(masks)
        self._cut_found(masks)
        if batch.kind == STATEMENT:
            self._cut_credentials()

    def text(self, place: int) -> str:
        """Return the value in which the cuts at `place` are."""
        text = self._texts.get(place)
        return text if text is not None else self.batch.values[place] or ""

    def after(self, place: int) -> str:
        """Return what would be recorded of a value; "" for nothing."""
        text = self.text(place)
        cuts = [cut for cut in self.cuts.get(place, ()) if cut.leaf is None]
        return _render(text, cuts, 0, len(text))

    def hits(self, place: int) -> Iterator[Hit]:
        """Yield what is hidden of one value."""
        cuts = self.cuts.get(place, ())
        plain = [cut for cut in cuts if cut.leaf is None]
        for cut in cuts:
            yield self._hit(place, cut, plain)

    def _line_ends(self, place: int) -> list[int]:
        ends = self._ends.get(place)
        if ends is None:
            ends = self._ends[place] = [at.start() for at in re.finditer("\n", self.text(place))]
        return ends

    def _rule_of_column(self, masks: Masks) -> str:
        batch = self.batch
        if not masks.columns or not batch.column:
            return ""
        # Rules that name a table mean none of the system's own, as a gateway reads them.
        tables = [
            (schema, table)
            for schema, table in map(_table_of, batch.tables or ())
            if schema not in _SYSTEM_SCHEMAS
        ]
        has_none = batch.tables is not None and not tables
        for pattern, rule in masks.columns:
            if has_none and "." in pattern:
                continue
            places = tables or [("", "")]
            if any(matches(pattern, (*table, batch.column)) for table in places):
                return rule
        return ""

    def _cut_whole(self, masks: Masks) -> None:
        rule = masks.rules[self.rule]
        for place, value in enumerate(self.batch.values):
            if value is None or is_masked(value):
                continue
            made = rule.whole(value.encode("utf-8", "replace"))
            cut = _Cut(0, len(value), self.rule, "", BY_COLUMN, _text(made))
            self.cuts[place] = [cut]

    def _cut_members(self, masks: Masks) -> None:
        for place, value in enumerate(self.batch.values):
            if value is None or value.lstrip()[:1] not in ("{", "["):
                continue
            try:
                document = orjson.loads(value)
            except ValueError:
                continue
            cuts: list[_Cut] = []
            for steps, name in masks.paths:
                try:
                    jsonpath.replace(document, steps, _hiding(masks.rules[name], cuts))
                except RecursionError:
                    made = mark(name).decode()
                    cuts.append(_Cut(0, len(value), name, "", BY_PATH, made, leaf=value))
            if cuts:
                self.cuts[place] = cuts
                self._texts[place] = orjson.dumps(document).decode()

    def _cut_found(self, masks: Masks) -> None:
        values = self.batch.values
        places = [place for place, value in enumerate(values) if value is not None]
        encoded = [self.text(place).encode("utf-8", "replace") for place in places]
        data = b"\0".join(encoded)
        if not data or not masks.scanner.may_hold(data):
            return
        starts = list(accumulate((len(each) + 1 for each in encoded), initial=0))
        for segment in masks.scanner.segments(data):
            number = bisect_right(starts, segment.start) - 1
            place, value = places[number], encoded[number]
            cuts = self.cuts.setdefault(place, [])
            byte = character = 0
            for each in segment.found:
                character += len(value[byte : each.start].decode("utf-8", "replace"))
                start, hidden = character, value[each.start : each.stop]
                character += len(hidden.decode("utf-8", "replace"))
                byte = each.stop
                made = _text(masks.rules[each.rule].whole(hidden, each.what))
                is_own = each.what == slug(each.rule) and each.what not in DETECTOR_NAMES
                how = BY_PATTERN if is_own else BY_DETECTOR
                cuts.append(_Cut(start, character, each.rule, each.what, how, made))

    def _cut_credentials(self) -> None:
        """Hide what a statement has in the place of a password, as gateways always do."""
        try:
            from agentaudit.masking.credentials import credentials
        except ModuleNotFoundError:
            return  # PostgreSQL's scanner is in a gateway's installation alone
        for place, value in enumerate(self.batch.values):
            there = self.cuts.get(place, [])
            for start, stop in credentials(value or ""):
                if is_masked((value or "")[start:stop].strip("'")):
                    continue
                there = [cut for cut in there if cut.stop <= start or stop <= cut.start]
                there.append(
                    _Cut(start, stop, CREDENTIALS, "password", BY_PATTERN, "'[masked:password]'")
                )
            if there:
                self.cuts[place] = sorted(there, key=lambda cut: cut.start)

    def _hit(self, place: int, cut: _Cut, cuts: Sequence[_Cut]) -> Hit:
        batch = self.batch
        if cut.leaf is not None:
            text, cuts = cut.leaf, [cut]
        else:
            text = self.text(place)
        row = batch.first_row + place
        low, high = max(0, cut.start - _AROUND), min(len(text), cut.stop + _AROUND)
        if batch.kind == TEXT:
            row = batch.first_row + bisect_right(self._line_ends(place), cut.start)
            low = max(low, text.rfind("\n", 0, cut.start) + 1)
            end = text.find("\n", cut.stop)
            high = min(high, end if end >= 0 else high)
        head = "…" if low and text[low - 1] != "\n" else ""
        tail = "…" if high < len(text) and text[high] != "\n" else ""
        hidden = text[cut.start : cut.stop]
        if len(hidden) > _LONGEST:
            hidden = f"{hidden[: _LONGEST - 21]}…{hidden[-20:]}"
        left = text[low : cut.start]
        left_after = _render(text, cuts, low, cut.start)
        made = cut.made or ""
        before = f"{head}{left}{hidden}{text[cut.stop : high]}{tail}"
        after = f"{head}{left_after}{made}{_render(text, cuts, cut.stop, high)}{tail}"
        start, after_start = len(head) + len(left), len(head) + len(left_after)
        return Hit(
            kind=batch.kind,
            column=label(batch),
            row=row,
            rule=cut.rule,
            how=cut.how,
            before=before,
            start=start,
            stop=start + len(hidden),
            after=after,
            after_start=after_start,
            after_stop=after_start + len(made),
            detector=cut.what if cut.how == BY_DETECTOR else "",
            session=batch.session,
            command_no=batch.command_no,
            is_dropped=cut.made is None,
            doubts=tuple(_doubts(batch, text, cut)),
            offset=cut.start,
        )


def _hiding(rule: Rule, cuts: list[_Cut]) -> Callable[[Any], str | None]:
    """Return what hides a member of a JSON value, and notes that it did."""

    def hide(each: Any) -> str | None:
        text = each if isinstance(each, str) else orjson.dumps(each).decode()
        if is_masked(text):
            return text
        made = _text(rule.whole(text.encode("utf-8", "replace")))
        cuts.append(_Cut(0, len(text), rule.name, "", BY_PATH, made, leaf=text))
        return made

    return hide


def _text(made: bytes | None) -> str | None:
    return None if made is None else made.decode("utf-8", "replace")


def _render(text: str, cuts: Sequence[_Cut], low: int, high: int) -> str:
    """Return `text` from `low` to `high` with what is hidden in it replaced; `cuts` in order."""
    parts, at = [], low
    for cut in islice(cuts, bisect_right(cuts, low, key=_stop), None):
        if cut.start >= high:
            break
        parts += [text[at : max(at, cut.start)], cut.made or ""]
        at = cut.stop
    return "".join([*parts, text[at:high]])


def _stop(cut: _Cut) -> int:
    return cut.stop


def is_masked(value: str) -> bool:
    """Return whether a value is a mark and nothing else."""
    found = MASKED.match(value)
    return found is not None and found.end() == len(value)


def label(batch: Batch) -> str:
    """Return how the column of a batch is called in a preview."""
    if batch.kind in _NAMES_OF_KINDS:
        return _NAMES_OF_KINDS[batch.kind]
    tables = [table for _, table in map(_table_of, batch.tables or ())]
    return f"{'+'.join(dict.fromkeys(tables))}.{batch.column}" if tables else batch.column


def _table_of(name: str) -> tuple[str, str]:
    """Return schema and table of a name as `resources` has it."""
    parts = [part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', name)]
    schema, table = (["", *parts])[-2:]
    return schema, table


# --- doubts

_TEST_CARDS: Final = frozenset(
    {
        "4242424242424242",
        "4111111111111111",
        "4012888888881881",
        "5555555555554444",
        "5105105105105100",
        "378282246310005",
        "371449635398431",
        "6011111111111117",
        "3530111333300000",
    }
)
"""Numbers that payment services publish for tests (stripe.com/docs/testing, among others)."""

_IS_NO_SECRET: Final = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64})"
)
_LABELS: Final = frozenset(
    {"card", "visa", "mastercard", "amex", "call", "whatsapp", "insurance", "tax"}
    | {word for kind in KINDS for name in kind.names for word in name.split("_")}
)
_JOINED: Final = "_-/.#:"


def _doubts(batch: Batch, text: str, cut: _Cut) -> Iterator[str]:
    """Yield reasons why what was found may be something else."""
    if cut.how != BY_DETECTOR:
        return
    value = text[cut.start : cut.stop]
    if cut.what == "card" and re.sub(r"\D", "", value) in _TEST_CARDS:
        yield "a number that is published for tests"
    if "EXAMPLE" in value:
        yield "it calls itself an example"
    if cut.what == "generic_secret" and _IS_NO_SECRET.fullmatch(value):
        yield "it has the form of a UUID or a digest"
    if cut.what not in DIGITS_ALONE:
        return
    if batch.column and names_a_key(batch.column):
        yield f'the name "{batch.column}" is one of a key or a number'
    if _is_joined(text[: cut.start], -1) or _is_joined(text[cut.stop :], 0):
        yield "it is part of something longer"
    is_whole = cut.start == 0 and cut.stop == len(text)
    if not is_whole and not value.startswith("+") and cut.what not in ("ipv4", "ipv6"):
        near = set(words(text[max(0, cut.start - 40) : cut.start]))
        if not near & _LABELS and telling(batch.column) is None:
            yield "nothing before it says what it is"


def _is_joined(text: str, edge: int) -> bool:
    """Return whether a text goes on at its edge as an identifier would."""
    near = text[-2:][::-1] if edge else text[:2]
    if not near:
        return False
    return near[0].isalnum() or (near[0] in _JOINED and len(near) > 1 and near[1].isalnum())
