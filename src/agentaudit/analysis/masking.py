"""What a set of masks would hide, shown on values before anybody trusts it.

`preview` looks at a text, a file, a query result or recorded sessions and says what would be
hidden, what may be hidden wrongly, and what looks like a secret and would stay. `compare` shows
what two sets of rules do otherwise. Nothing is changed, and nothing is asked of a database.

A gateway knows more than a preview does: its target's catalogue, and so of which column an
expression, a view or a parameter is made. What is shown here is the least that it would hide, but
for JSON in columns of type text; the notes of a preview say so. And what was recorded under a rule
is hidden for good: a preview of a recording shows marks where it was.

Values are kept for the first hits alone, and only in excerpts, so a source may be of any size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from agentaudit.analysis.masking_look import BY_PATH, MASKED, Hit, Look, label
from agentaudit.analysis.masking_rules import RuleSet, rules_of
from agentaudit.analysis.masking_sources import COLUMN, TEXT, Batch, Source, source_of
from agentaudit.analysis.printable import printable
from agentaudit.masking.suggest import (
    DIGITS_ALONE,
    MIN_SHARE,
    Sample,
    kind_of,
    names_a_key,
    telling,
)

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

MAX_HITS: Final = 10_000
"""Kept by themselves; the rest is counted."""

_SAMPLED: Final = 5_000
_EXAMPLES: Final = 5
_NEARLY_ALL: Final = 0.8
_FEW: Final = 5
"""Of so few values nothing can be said by their share."""


# --- what comes of it


@dataclass(frozen=True, slots=True)
class ColumnCount:
    """How many values of one column were looked at, and in how many something would be hidden.

    `masked` counts those of which something was hidden before they were recorded.
    """

    column: str
    values: int
    nulls: int
    hidden: int
    masked: int
    by_rule: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """How often something would be hidden; rules that hide nothing are there with 0."""

    by_rule: Mapping[str, int]
    by_detector: Mapping[str, int]
    by_column: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hits of one detector in one column that may be wrong, for one reason; with some of them."""

    column: str
    detector: str
    rule: str
    count: int
    reason: str
    examples: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A column that would stay visible although it looks like `detector`, or is named like `kind`.

    `share` is of the `values` of a sample that are not null; `examples` are shown in part. Where
    not `is_whole`, these are texts of which it is a part.
    """

    column: str
    detector: str
    kind: str
    share: float
    values: int
    examples: tuple[str, ...]
    reason: str
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class AlreadyMasked:
    """Values of which something was hidden before: `name` is what their marks say."""

    column: str
    name: str
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What rules would hide in a source; `more` counts hits beyond those that are kept."""

    source: str
    rules: tuple[str, ...]
    values: int
    hits: tuple[Hit, ...]
    more: int
    counts: Counts
    columns: tuple[ColumnCount, ...]
    candidates: tuple[Candidate, ...]
    uncovered: tuple[Uncovered, ...]
    already_masked: tuple[AlreadyMasked, ...]
    notes: tuple[str, ...]

    @property
    def hidden(self) -> int:
        """How many places would be hidden, in all."""
        return len(self.hits) + self.more

    @property
    def text(self) -> str:
        """The preview to read, with at most 20 of each list; safe to print."""
        return self.told()

    def told(self, rows: int = 20) -> str:
        """Return the preview to read, with at most `rows` of each list; safe to print."""
        return "\n".join(_told(self, rows))

    def to_arrow(self) -> pa.Table:
        """Return the kept hits as an Arrow table."""
        return _arrow(self.hits)

    def pl(self) -> pl.DataFrame:
        """Return the kept hits as a Polars frame."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def df(self) -> Any:
        """Return the kept hits as a pandas frame, which needs pandas."""
        return self.to_arrow().to_pandas()

    def diff(self, other: Preview) -> Difference:
        """Return what this preview hides that `other`, of the same source, does not, and so on.

        Where either has more hits than it keeps, those are not compared, and the answer says so:
        `compare` reads the source once for both, and has no such limit.
        """
        made = _Differing(MAX_HITS)
        mine, theirs = _by_value(self.hits), _by_value(other.hits)
        for where in dict.fromkeys((*mine, *theirs)):
            made.add(mine.get(where, []), theirs.get(where, []))
        notes = []
        if self.more or other.more:
            notes.append("only the hits that were kept are compared; compare() looks at all")
        return made.done(self.source, self.rules, other.rules, notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What two sets of rules, a and b, do otherwise; counts are of all, hits of the first ones."""

    source: str
    rules_a: tuple[str, ...]
    rules_b: tuple[str, ...]
    only_a: tuple[Hit, ...]
    only_b: tuple[Hit, ...]
    otherwise: tuple[tuple[Hit, Hit], ...]
    count_a: int
    count_b: int
    count_otherwise: int
    same: int
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The difference to read; safe to print."""
        return self.told()

    def told(self, rows: int = 20) -> str:
        """Return the difference to read, with at most `rows` of each list; safe to print."""
        lines = [f"{_counted(self.same, 'place')} hidden alike by both in {self.source}"]
        for title, hits, count in (
            ("only a hides", self.only_a, self.count_a),
            ("only b hides", self.only_b, self.count_b),
        ):
            lines += ["", f"{title}: {count:,}", *_lines_of(hits, count, rows)]
        lines += ["", f"both, differently: {self.count_otherwise:,}"]
        for a, b in self.otherwise[:rows]:
            lines.append(f"  {_p(a.place)}")
            lines.append(f"    - {_p(a.before)}")
            lines.append(f"    a {_p(a.after)}   ({_p(_by(a))})")
            lines.append(f"    b {_p(b.after)}   ({_p(_by(b))})")
        if self.count_otherwise > rows:
            lines.append(f"  … {self.count_otherwise - min(rows, len(self.otherwise)):,} more")
        lines += [f"note: {_p(note)}" for note in self.notes]
        return "\n".join(lines)

    def to_arrow(self) -> pa.Table:
        """Return the kept hits as an Arrow table; `side` is `only_a`, `only_b`, `a` or `b`."""
        import pyarrow as pa

        sides = (
            ("only_a", self.only_a),
            ("only_b", self.only_b),
            ("a", [a for a, _ in self.otherwise]),
            ("b", [b for _, b in self.otherwise]),
        )
        tables = [
            _arrow(hits).add_column(0, "side", pa.array([side] * len(hits), pa.string()))
            for side, hits in sides
        ]
        return pa.concat_tables(tables)


def preview(rules: Any, source: Any, *, table: str = "", limit: int = MAX_HITS) -> Preview:
    """Return what `rules` would hide in `source`, and keep the first `limit` hits.

    `rules` is the path of an `agentaudit.toml` or of any TOML with `[[mask]]`, such a TOML as a
    text, a list of such tables, or `Masks`. `source` is a text to look at, the path (`pathlib`) of
    a file (CSV, JSON lines, Parquet, else text), a table of Arrow, DuckDB, Polars or pandas, a
    session, or a case with all of them. `table` names the table that a result is of.

    Raises:
        SettingsError: a rule is wrong.
        QuestionError: the source cannot be read.

    >>> found = preview([{"name": "addresses", "detect": ["email"]}], "from: ada@example.com")
    >>> found.hits[0].after, found.hits[0].detector
    ('from: [masked:email]', 'email')
    """
    chosen = rules_of(rules)
    made = _Previewing(chosen, limit)
    opened = source_of(source, table=table)
    notes: list[str] = []
    for batch in opened.batches(notes):
        made.add(batch)
    return made.done(opened, notes)


def compare(
    rules_a: Any, rules_b: Any, source: Any, *, table: str = "", limit: int = MAX_HITS
) -> Difference:
    """Return what two sets of rules do otherwise in `source`, read once; see `preview`.

    Raises:
        SettingsError: a rule is wrong.
        QuestionError: the source cannot be read.
    """
    a, b = rules_of(rules_a), rules_of(rules_b)
    made = _Differing(limit)
    opened = source_of(source, table=table)
    notes: list[str] = []
    for batch in opened.batches(notes):
        of_a, of_b = Look(a.at(batch.target), batch), Look(b.at(batch.target), batch)
        for place in sorted({*of_a.cuts, *of_b.cuts}):
            made.add(list(of_a.hits(place)), list(of_b.hits(place)))
    return made.done(opened.name, a.names, b.names, [*dict.fromkeys((*a.notes, *b.notes)), *notes])


# --- a preview, while it is made


@dataclass(slots=True)
class _Column:
    values: int = 0
    nulls: int = 0
    hidden: int = 0
    masked: int = 0
    name: str = ""
    is_whole: bool = False
    by_rule: Counter[str] = field(default_factory=Counter)
    by_detector: Counter[tuple[str, str]] = field(default_factory=Counter)
    wholes: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, list[Hit]] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)


class _Previewing:
    def __init__(self, rules: RuleSet, limit: int) -> None:
        self._rules = rules
        self._limit = limit
        self._hits: list[Hit] = []
        self._more = 0
        self._columns: dict[str, _Column] = {}
        self._doubted: dict[tuple[str, str, str, str], tuple[int, list[Hit]]] = {}
        self._masked: Counter[tuple[str, str]] = Counter()
        self._has_unknown_tables = False

    def add(self, batch: Batch) -> None:
        look = Look(self._rules.at(batch.target), batch)
        name = label(batch)
        column = self._columns.setdefault(name, _Column())
        column.name = batch.column
        column.is_whole |= bool(look.rule)
        self._has_unknown_tables |= batch.kind == COLUMN and batch.tables is None
        self._count(name, column, batch)
        for place in sorted(look.cuts):
            cuts = look.cuts[place]
            column.hidden += bool(cuts)
            for hit in look.hits(place):
                self._take(column, hit)
        self._look_at_the_rest(column, batch, look)

    def _count(self, name: str, column: _Column, batch: Batch) -> None:
        for value in batch.values:
            if value is None:
                column.nulls += 1
                continue
            column.values += 1 if batch.kind != TEXT else value.count("\n") + (value[-1:] != "\n")
            if "[masked:" in value or "pn_" in value or "****" in value:
                found = {_name_of_mark(each) for each in MASKED.finditer(value)}
                column.masked += bool(found)
                self._masked.update((name, each) for each in found)

    def _take(self, column: _Column, hit: Hit) -> None:
        column.by_rule[hit.rule] += 1
        if hit.detector:
            column.by_detector[hit.detector, hit.rule] += 1
            column.wholes[hit.detector] += hit.stop - hit.start == len(hit.before)
            firsts = column.firsts.setdefault(hit.detector, [])
            if len(firsts) < _EXAMPLES:
                firsts.append(hit)
        for doubt in hit.doubts:
            key = hit.column, hit.detector, hit.rule, doubt
            count, examples = self._doubted.get(key, (0, []))
            if len(examples) < _EXAMPLES:
                examples.append(hit)
            self._doubted[key] = count + 1, examples
        if len(self._hits) < self._limit:
            self._hits.append(hit)
        else:
            self._more += 1

    def _look_at_the_rest(self, column: _Column, batch: Batch, look: Look) -> None:
        """Look for anything in what would stay visible."""
        if look.rule or column.sample.values >= _SAMPLED:
            return
        rest: Iterable[str]
        if batch.kind == TEXT:
            rest = look.after(0).splitlines()
        else:
            rest = (look.after(n) for n, value in enumerate(batch.values) if value is not None)
        column.sample.add(islice(rest, _SAMPLED - column.sample.values))

    def done(self, source: Source, notes: Sequence[str]) -> Preview:
        by_rule: Counter[str] = Counter(dict.fromkeys(self._rules.names, 0))
        by_detector: Counter[str] = Counter()
        for column in self._columns.values():
            by_rule.update(column.by_rule)
            for (detector, _), count in column.by_detector.items():
                by_detector[detector] += count
        order = sorted(self._columns, key=lambda name: -self._columns[name].by_rule.total())
        columns = [(name, self._columns[name]) for name in order]
        counted = tuple(
            ColumnCount(name, c.values, c.nulls, c.hidden, c.masked, dict(c.by_rule))
            for name, c in columns
        )
        masked = tuple(
            AlreadyMasked(column, name, count)
            for (column, name), count in sorted(self._masked.items(), key=lambda each: -each[1])
        )
        return Preview(
            source=source.name,
            rules=self._rules.names,
            values=sum(c.values for _, c in columns),
            hits=tuple(self._hits),
            more=self._more,
            counts=Counts(
                dict(by_rule),
                dict(by_detector.most_common()),
                {name: c.by_rule.total() for name, c in columns if c.by_rule},
            ),
            columns=counted,
            candidates=tuple(self._candidates()),
            uncovered=tuple(self._uncovered()),
            already_masked=masked,
            notes=(*self._rules.notes, *self._known(source, bool(masked)), *notes),
        )

    def _candidates(self) -> Iterator[Candidate]:
        found = [
            Candidate(column, detector, rule, count, reason, tuple(examples))
            for (column, detector, rule, reason), (count, examples) in self._doubted.items()
        ]
        for name, column in self._columns.items():
            for (detector, rule), count in column.by_detector.items():
                kind = telling(column.name) if column.name else None
                if (
                    detector in DIGITS_ALONE
                    and column.name
                    and column.values >= _FEW
                    and column.wholes[detector] >= _NEARLY_ALL * column.values
                    and (kind is None or detector not in kind.detectors)
                    and not names_a_key(column.name)
                ):
                    reason = f'nearly all of the column, and "{column.name}" names something else'
                    examples = tuple(column.firsts[detector])
                    found.append(Candidate(name, detector, rule, count, reason, examples))
        yield from sorted(found, key=lambda each: (-each.count, each.column, each.detector))

    def _uncovered(self) -> Iterator[Uncovered]:
        for name, column in self._columns.items():
            if column.is_whole:
                continue
            sample = column.sample
            kinds = [
                each
                for each in sample.kinds(MIN_SHARE)
                if not (each in DIGITS_ALONE and column.name and names_a_key(column.name))
            ]
            for detector in kinds:
                yield Uncovered(
                    name,
                    detector,
                    kind_of(detector).name,
                    sample.share(detector),
                    sample.values,
                    tuple(sample.examples[detector]),
                    "values look like it",
                    sample.is_whole(detector),
                )
            kind = telling(column.name) if column.name else None
            rest = column.values - column.hidden - column.masked
            if kind is not None and not kinds and rest > MIN_SHARE * column.values:
                share = rest / column.values
                yield Uncovered(
                    name,
                    "",
                    kind.name,
                    share,
                    column.values,
                    (),
                    f'the name "{column.name}" says so',
                )

    def _known(self, source: Source, has_masked: bool) -> Iterator[str]:
        masks = self._rules.any
        if has_masked and source.is_recorded:
            yield (
                "values that a rule hid when they were recorded are marks: they were never in the "
                "archive, so they cannot come back, and no rule of today can be tried on them"
            )
        elif has_masked:
            yield "what is a mark already is left as it is: what was there cannot be told from it"
        if source.is_recorded and masks.columns:
            yield (
                "columns are told by the names in a result and the tables that the statement "
                "reads; a gateway has the target's catalogue, and would also hide expressions, "
                "renamed columns, rows as a whole, views, columns in what COPY sends, and the "
                "constants and parameters that are compared with such a column"
            )
        if source.is_recorded and find_spec("pglast") is None:
            yield (
                "without the module pglast, passwords in statements are found by patterns alone; "
                "a gateway reads statements as PostgreSQL does"
            )
        if self._has_unknown_tables and any("." in pattern for pattern, _ in masks.columns):
            yield (
                "of which table this result is, nobody has said: rules that name a table were "
                'applied by the column\'s name alone (table="…" says it)'
            )
        if self._more:
            yield f"{self._more:,} more hits were counted and are not kept"


def _name_of_mark(found: re.Match[str]) -> str:
    return found["name"] or ("pseudonym" if found["pseudonym"] else "partial")


# --- a difference, while it is made


def _by_value(hits: Iterable[Hit]) -> dict[tuple[object, ...], list[Hit]]:
    found: dict[tuple[object, ...], list[Hit]] = {}
    for hit in hits:
        where = hit.session, hit.command_no, hit.kind, hit.column, hit.row
        found.setdefault(where, []).append(hit)
    return found


class _Differing:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._only_a: list[Hit] = []
        self._only_b: list[Hit] = []
        self._otherwise: list[tuple[Hit, Hit]] = []
        self._counts = [0, 0, 0, 0]

    def add(self, a: Sequence[Hit], b: Sequence[Hit]) -> None:
        """Take in what both sets of rules hide of one value."""
        left = list(b)
        for mine in a:
            theirs = [each for each in left if _meet(mine, each)]
            if not theirs:
                self._put(0, self._only_a, mine)
                continue
            for each in theirs:
                left.remove(each)
                if _alike(mine, each):
                    self._counts[3] += 1
                else:
                    self._put(2, self._otherwise, (mine, each))
        for each in left:
            if any(_meet(mine, each) for mine in a):
                continue  # of something that a hides in one, b hides more than one
            self._put(1, self._only_b, each)

    def _put(self, number: int, kept: list[Any], each: object) -> None:
        self._counts[number] += 1
        if len(kept) < self._limit:
            kept.append(each)

    def done(
        self, source: str, a: Sequence[str], b: Sequence[str], notes: Sequence[str]
    ) -> Difference:
        return Difference(
            source=source,
            rules_a=tuple(a),
            rules_b=tuple(b),
            only_a=tuple(self._only_a),
            only_b=tuple(self._only_b),
            otherwise=tuple(self._otherwise),
            count_a=self._counts[0],
            count_b=self._counts[1],
            count_otherwise=self._counts[2],
            same=self._counts[3],
            notes=tuple(notes),
        )


def _meet(a: Hit, b: Hit) -> bool:
    if (a.how == BY_PATH) != (b.how == BY_PATH):
        return False
    if a.how == BY_PATH:
        return a.before == b.before
    return a.offset < b.offset + _length(b) and b.offset < a.offset + _length(a)


def _alike(a: Hit, b: Hit) -> bool:
    same = (a.offset, _length(a), a.is_dropped) == (b.offset, _length(b), b.is_dropped)
    return same and a.after[a.after_start : a.after_stop] == b.after[b.after_start : b.after_stop]


def _length(hit: Hit) -> int:
    return hit.stop - hit.start


# --- to read

_COLUMNS: Final = (
    "session",
    "command_no",
    "kind",
    "column",
    "row",
    "rule",
    "detector",
    "how",
    "before",
    "after",
    "doubts",
)


def _arrow(hits: Sequence[Hit]) -> pa.Table:
    import pyarrow as pa

    types = {"command_no": pa.int32(), "row": pa.int64(), "doubts": pa.list_(pa.string())}
    schema = pa.schema([pa.field(name, types.get(name, pa.string())) for name in _COLUMNS])
    rows = [{name: getattr(hit, name) for name in _COLUMNS} for hit in hits]
    return pa.Table.from_pylist(rows, schema)


def _p(text: str) -> str:
    return printable(text)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _by(hit: Hit) -> str:
    what = hit.detector or hit.how.replace("_", " ")
    return f"{hit.rule}: {what}" if what != hit.rule else what


def _lines_of(hits: Sequence[Hit], count: int, rows: int) -> Iterator[str]:
    for hit in hits[:rows]:
        yield f"  {_p(hit.place)}   ({_p(_by(hit))})"
        yield f"    - {_p(hit.before)}"
        yield f"    + {'NULL' if hit.is_dropped and not hit.after else _p(hit.after)}"
    if count > min(rows, len(hits)):
        yield f"  … {count - min(rows, len(hits)):,} more"


def _told(found: Preview, rows: int) -> Iterator[str]:
    noun = "line" if [each.column for each in found.columns] == ["(text)"] else "value"
    looked = f"{_counted(found.values, noun)} of {_p(found.source)}"
    if not found.hidden:
        yield f"nothing would be hidden in {looked}"
    else:
        yield f"{_counted(found.hidden, 'place')} would be hidden in {looked}"
        yield ""
        yield from _lines_of(found.hits, found.hidden, rows)
    for title, counts in (
        ("by rule", found.counts.by_rule),
        ("by detector", found.counts.by_detector),
        ("by column", found.counts.by_column),
    ):
        if counts and (found.hidden or title == "by rule"):
            yield ""
            yield title
            wide = max(len(f"{count:,}") for count in counts.values())
            for name, count in list(counts.items())[: max(rows, 1)]:
                yield f"  {count:>{wide},}  {_p(name)}"
    if found.candidates:
        yield ""
        yield "perhaps hidden wrongly"
        for candidate in found.candidates[:rows]:
            yield (
                f"  {candidate.count:,} × {_p(candidate.detector)} in {_p(candidate.column)}: "
                f"{_p(candidate.reason)}"
            )
            yield from (
                f"      {_p(each.before[each.start : each.stop])}"
                for each in candidate.examples[:2]
            )
    if found.uncovered:
        yield ""
        yield "not covered"
        for each in found.uncovered[:rows]:
            what = each.detector or each.kind
            why = f"as {', '.join(each.examples[:2])}" if each.examples else each.reason
            percent = f"{100 * each.share:.0f} % of {_counted(each.values, 'value')}"
            yield f"  {_p(each.column)}: {_p(what)}, {percent} ({_p(why)})"
    if found.already_masked:
        yield ""
        yield "masked already"
        for one in found.already_masked[:rows]:
            marked = _counted(one.values, "value")
            yield f"  {_p(one.column)}: {marked} with marks of {_p(one.name)}"
    if found.notes:
        yield ""
        yield from (f"note: {_p(note)}" for note in found.notes)
