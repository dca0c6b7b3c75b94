"""What values are made of on their way through a query: columns, constants and parameters.

A column keeps what it is made of by reference, so that a constant is found to stand beside a masked
column however late that is known. Columns that are not known are one column that stands for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from agentaudit.risk.catalogue import Column, Table
from agentaudit.risk.tree import Node


class NotUnderstood(Exception):
    """What cannot be said for sure."""


class Flow:
    """What a value is made of."""

    __slots__ = (
        "constants",
        "is_aggregate",
        "is_count",
        "is_probe",
        "is_set",
        "params",
        "refs",
        "rule",
    )

    def __init__(self) -> None:
        self.rule = ""
        self.refs: list[Column] = []
        self.constants: list[int] = []
        self.params: list[int] = []
        self.is_aggregate = False
        self.is_count = False
        self.is_probe = False
        self.is_set = False

    def take(self, column: Column) -> None:
        self.refs.append(column)
        if column.rule and not self.rule:
            self.rule = column.rule

    def add(self, other: Flow) -> None:
        self.rule = self.rule or other.rule
        self.refs += other.refs
        self.constants += other.constants
        self.params += other.params
        self.is_aggregate |= other.is_aggregate
        self.is_count |= other.is_count
        self.is_probe |= other.is_probe
        self.is_set |= other.is_set

    @property
    def is_made(self) -> bool:
        """Whether the text itself makes it up, in part at least."""
        if not self.refs:
            return not self.is_count
        return any(each.is_made for each in self.refs)

    def column(self, name: str, *, is_made: bool = False) -> Column:
        is_made = is_made or self.is_made
        return Column(name, self.rule, self.refs, self.constants, self.params, is_made=is_made)


class Source:
    """What FROM names: its columns, or one that stands for all where they are not known."""

    __slots__ = ("_whole", "alias", "any", "asked", "by_name", "columns", "spread")

    def __init__(
        self,
        alias: str,
        columns: list[Column] | None,
        *,
        any_column: Column | None = None,
        by_name: dict[str, Column] | None = None,
        spread: str = "",
        asked: str = "",
    ) -> None:
        self.alias = alias
        self.columns = columns
        self.any = any_column
        if by_name is None:
            by_name = {}
            for column in columns or ():
                other = by_name.get(column.name)
                by_name[column.name] = column if other is None else merged(other, column)
        self.by_name = by_name
        self.spread = spread
        self.asked = asked
        self._whole: Column | None = None

    @classmethod
    def of_table(cls, table: Table, alias: str) -> Source:
        return cls(alias, table.columns, by_name=table.by_name)

    @property
    def whole(self) -> Column:
        """One column that stands for the whole row: a text may name it a hundred thousand times."""
        if self._whole is None:
            self._whole = any_of(self.row())
        return self._whole

    def row(self) -> list[Column]:
        if self.columns is not None:
            return self.columns
        return [*self.by_name.values(), *([self.any] if self.any else ())]


def merged(one: Column, other: Column) -> Column:
    """Return one column that is made of two."""
    return Column(
        one.name, one.rule or other.rule, (one, other), is_made=one.is_made or other.is_made
    )


class Scope:
    """What names stand for at a place.

    `sources` are what a name is looked for in, `stars` what `*` stands for. `asked` is the rule of
    what its conditions mention, and `spread` of what the number of its rows tells: a value that
    the text makes up and compares with a masked one, say.
    """

    __slots__ = ("asked", "ctes", "outer", "sources", "spread", "stars")

    def __init__(self, outer: Scope | None, ctes: Ctes) -> None:
        self.outer = outer
        self.ctes = ctes
        self.sources: list[Source] = []
        self.stars: list[Source] = []
        self.asked = ""
        self.spread = ""


class Result:
    """The columns of a query; None where they are not known, and then `any` is all of them."""

    __slots__ = ("any", "asked", "columns", "spread")

    def __init__(
        self,
        columns: list[Column] | None,
        any_column: Column | None = None,
        *,
        spread: str = "",
        asked: str = "",
    ) -> None:
        self.columns = columns
        self.any = any_column
        self.spread = spread
        self.asked = asked

    def all(self) -> list[Column]:
        if self.columns is not None:
            return self.columns
        return [self.any] if self.any else []


class Ctes:
    """The queries of WITH that are seen at a place: the first so many of one, and those around."""

    __slots__ = ("_count", "_known", "_outer")

    def __init__(self, outer: Ctes | None = None) -> None:
        self._outer = outer
        self._known: dict[str, tuple[int, Cte]] = {}
        self._count = 0

    def add(self, name: str, cte: Cte) -> None:
        self._known.setdefault(name, (self._count, cte))
        self._count += 1

    def first(self, count: int) -> Ctes:
        """Return what the query at `count` sees, without RECURSIVE: those before it only."""
        seen = Ctes(self._outer)
        seen._known = self._known
        seen._count = count
        return seen

    def get(self, name: str) -> Cte | None:
        seen: Ctes | None = self
        while seen is not None:
            place, cte = seen._known.get(name, (seen._count, None))
            if cte is not None and place < seen._count:
                return cte
            seen = seen._outer
        return None


NO_CTES: Final = Ctes()


class Cte:
    """A query of WITH; it is read when it is first named."""

    __slots__ = ("body", "is_running", "result", "scope")

    def __init__(self, body: Node, scope: Scope) -> None:
        self.body = body
        self.scope = scope
        self.result: Result | None = None
        self.is_running = False


def source_of(result: Result, alias: Node, name: str = "") -> Source:
    """Return what FROM names by `alias`, or by its own name where it has none."""
    names = [each["String"]["sval"] for each in alias.get("colnames", ())]
    named = renamed(result, names)
    by_name = None
    if named.columns is None and names and named.any is not None:
        by_name = dict.fromkeys(names, named.any)
    return Source(
        alias.get("aliasname") or name,
        named.columns,
        any_column=named.any if named.columns is None else None,
        by_name=by_name,
        spread=named.spread,
        asked=named.asked,
    )


def renamed(result: Result, names: Sequence[str]) -> Result:
    """Return the columns of a query under other names, of which there may be fewer.

    Raises:
        NotUnderstood: there are more.
    """
    if not names or result.columns is None:
        return result
    if len(names) > len(result.columns):
        raise NotUnderstood
    columns = [
        Column(name, column.rule, (column,), is_made=column.is_made)
        for name, column in zip(names, result.columns, strict=False)
    ]
    return Result(
        [*columns, *result.columns[len(names) :]], spread=result.spread, asked=result.asked
    )


def of_any(tables: Sequence[Table]) -> Result:
    """Return the columns of a name that may stand for any of several relations."""
    first, *others = tables
    names = [column.name for column in first.columns]
    if any([column.name for column in other.columns] != names for other in others):
        return Result(None, any_of([column for table in tables for column in table.columns]))
    columns = first.columns
    for other in others:
        columns = [merged(a, b) for a, b in zip(columns, other.columns, strict=True)]
    return Result(columns)


def hidden_by(rule: str, result: Result) -> Result:
    """Return the columns of a query, none of them clear: `rule` hides what was."""
    columns = result.columns
    if columns is not None:
        columns = [Column(each.name, each.rule or rule, (each,)) for each in columns]
    any_column = None if result.any is None else Column("*", rule, (result.any,))
    return Result(columns, any_column, spread=rule, asked=result.asked)


def any_of(columns: Iterable[Column]) -> Column:
    """Return one column that stands for any of some."""
    refs = list(columns)
    rule = next((column.rule for column in refs if column.rule), "")
    return Column("*", rule, refs, is_made=any(column.is_made for column in refs))


def rows_of(sources: Sequence[Source]) -> list[Column]:
    """Return the columns of all sources, or what stands for them where they are not known."""
    return [column for source in sources for column in source.row()]


def columns_of(sources: Sequence[Source]) -> list[Column] | None:
    """Return the columns of all sources, None where those of one are not known."""
    if any(source.columns is None for source in sources):
        return None
    return rows_of(sources)


def rules_of(result: Result) -> list[str]:
    """Return what is hidden of a query: alike twice where reading it again changes nothing."""
    return [result.spread, *(column.rule for column in result.all())]
