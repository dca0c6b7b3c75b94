"""Which table's column a name is, where the text alone says so.

A statement's tables are known by the names it calls them; a column is said with its table as that
is written, `orders.total`, where no other table can have it, and else as it is written itself. Of
`*` and a whole row it is `orders.*`. What a subquery or a WITH query brings is said of that query's
own tables, and so a name that is one of theirs is none here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from agentaudit.risk.tree import Node, part, relation

Names = dict[str, None]
"""In the order in which they came."""


class Ctes:
    """The WITH queries that are seen at a place: the first so many of a WITH, and those around it.

    A text may have tens of thousands of them, so no place has a set of its own.
    """

    __slots__ = ("_count", "_outer", "_places")

    def __init__(
        self, places: Mapping[str, int] = MappingProxyType({}), outer: Ctes | None = None
    ) -> None:
        self._places = places
        self._outer = outer
        self._count = len(places)

    def first(self, count: int) -> Ctes:
        """Return what the query at `count` sees, without RECURSIVE: those before it only."""
        seen = Ctes(self._places, self._outer)
        seen._count = count
        return seen

    def __contains__(self, name: str) -> bool:
        seen: Ctes | None = self
        while seen is not None:
            if seen._places.get(name, seen._count) < seen._count:
                return True
            seen = seen._outer
        return False


_NO_CTES: Final = Ctes()


class Scope:
    """What names stand for at a place in a statement.

    `ctes` are the WITH queries that are seen there, `tables` what FROM names, each by what the
    statement calls it: its name as written, or None for what is no table. What is named as a
    relation is `reads`, `writes` or neither by `does`.
    """

    __slots__ = ("ctes", "does", "has_star", "outer", "outputs", "relations", "tables")

    def __init__(
        self,
        ctes: Ctes = _NO_CTES,
        outer: Scope | None = None,
        does: str = "",
        tables: dict[str, str | None] | None = None,
        outputs: frozenset[str] = frozenset(),
    ) -> None:
        self.ctes = ctes
        self.outer = outer
        self.does = does
        self.tables = {} if tables is None else tables
        self.outputs = outputs
        self.relations = len(self.tables)
        self.has_star = False

    def beside(self) -> Scope:
        """Return what a subquery in FROM sees: nothing of what is beside it."""
        return Scope(self.ctes, self.outer, self.does)


CODE: Final = Scope(tables={"": ""})
"""Around the code of a function, whose variables look like columns."""


def enter(kind: str, body: Node, outer: Scope, ctes: Ctes, columns: Names) -> Scope:
    """Return the scope of a query, or of what writes; note the columns that it writes."""
    tables: dict[str, str | None] = {}
    scope = Scope(ctes, outer if outer.tables or outer.outer else None, "reads", tables)
    if kind != "SelectStmt":
        target = body["relation"]
        name = relation(target)
        tables[_called(target)] = name
        if kind == "InsertStmt":
            _note_targets(name, body.get("cols", _ALL), columns)
            if "onConflictClause" in body:
                tables["excluded"] = None
                _note_targets(name, body["onConflictClause"].get("targetList", ()), columns)
        elif kind == "UpdateStmt":
            _note_targets(name, body.get("targetList", ()), columns)
        elif kind == "MergeStmt":
            _add_tables([body["sourceRelation"]], scope, columns)
            for clause in body.get("mergeWhenClauses", ()):
                when = clause["MergeWhenClause"]
                inserted = _ALL if when.get("commandType") == "CMD_INSERT" else ()
                _note_targets(name, when.get("targetList", inserted), columns)
        else:
            _add_tables(body.get("usingClause", ()), scope, columns)
    if "fromClause" in body:
        _add_tables(body["fromClause"], scope, columns)
    # Counted here: a text may have as many columns as tables.
    scope.relations = sum(table is not None for table in tables.values())
    return scope


_ALL: Final[list[Node]] = [{"ResTarget": {"name": "*"}}]


def _note_targets(name: str, targets: Iterable[Node], columns: Names) -> None:
    for target in targets:
        columns[f"{name}.{part(target['ResTarget'].get('name', '*'))}"] = None


def note_copied(body: Node, columns: Names) -> None:
    """Note the columns of a COPY of a table."""
    if "relation" in body:
        name = relation(body["relation"])
        for each in body.get("attlist", [{}]):
            columns[f"{name}.{part(each.get('String', {}).get('sval', '*'))}"] = None


def _called(item: Node) -> str:
    called: str = item.get("alias", {}).get("aliasname") or item.get("relname", "")
    return called


def _add_tables(items: Iterable[Node], scope: Scope, columns: Names) -> None:
    tables = scope.tables
    stack = list(items)
    while stack:
        item = stack.pop()
        if "RangeVar" in item:
            body = item["RangeVar"]
            name: str | None = relation(body)
            if "schemaname" not in body and body["relname"] in scope.ctes:
                name = None
            elif "colnames" in body.get("alias", ()):
                columns[f"{name}.*"] = None  # all of them, under names of the statement's own
                name = None
            tables[_called(body)] = name
        elif "JoinExpr" in item:
            body = item["JoinExpr"]
            stack += [body["rarg"], body["larg"]]
            for each in body.get("usingClause", ()):
                columns[part(each["String"]["sval"])] = None
            if "alias" in body:
                tables[_called(body)] = None
        elif "RangeTableSample" in item:
            stack.append(item["RangeTableSample"]["relation"])
        else:
            ((_, body),) = item.items()
            tables[_called(body) or f" {len(tables)}"] = None


def note_column(fields: list[Node], scope: Scope, columns: Names) -> None:
    """Note what a name that stands for a value is a column of."""
    names = [each["String"]["sval"] if "String" in each else "*" for each in fields]
    if len(names) > 1:
        _note_qualified(names, scope, columns)
    elif names[0] not in scope.outputs:  # what the query itself has named so
        around = []
        seen: Scope | None = scope
        while seen is not None:
            if seen.tables:
                around.append(seen)
            seen = seen.outer
        if names[0] != "*":
            _note_unqualified(names[0], around, columns)
        elif around and not around[0].has_star:
            around[0].has_star = True
            for table in filter(None, around[0].tables.values()):
                columns[f"{table}.*"] = None


def _note_unqualified(name: str, around: list[Scope], columns: Names) -> None:
    for scope in around:
        if name in scope.tables:
            table = scope.tables[name]
            if table:
                columns[f"{table}.*"] = None  # the row, unless a column has its name
            return
    if len(around) == 1 and len(around[0].tables) == 1:
        (table,) = around[0].tables.values()
        if table:
            columns[f"{table}.{part(name)}"] = None
            return
    if not around or any(scope.relations for scope in around):
        columns[part(name)] = None


def _note_qualified(names: list[str], scope: Scope, columns: Names) -> None:
    *qualifier, last = names
    if len(names) == 2:
        seen: Scope | None = scope
        while seen is not None:
            if names[0] in seen.tables:
                table = seen.tables[names[0]]
                if table is not None:
                    columns[f"{table}.{part(last)}"] = None
                return
            seen = seen.outer
    columns[f"{'.'.join(map(part, qualifier))}.{part(last)}"] = None
