"""What the columns of a query are made of: its FROM, its select list, WITH, and what it writes.

A query of WITH is read when it is first named, and a recursive one again until its columns stay as
they are. What a statement writes into a column hides that column, within the statement at once.

Bounds, for a text may nest and multiply as it likes: what is beyond one is not understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from agentaudit.risk import sql
from agentaudit.risk.catalogue import Column
from agentaudit.risk.column_names import name_of
from agentaudit.risk.expressions import SETS, Expressions
from agentaudit.risk.flows import (
    Cte,
    Ctes,
    Flow,
    NotUnderstood,
    Result,
    Scope,
    Source,
    any_of,
    columns_of,
    hidden_by,
    merged,
    of_any,
    renamed,
    rows_of,
    rules_of,
    source_of,
)
from agentaudit.risk.known import Known
from agentaudit.risk.tree import Node, words

_TABLE_FUNCTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(("json_each", "json_each_text", "jsonb_each", "jsonb_each_text"),
                        ("key", "value")),
        **dict.fromkeys(
            words(
                """
                json_array_elements json_array_elements_text jsonb_array_elements
                jsonb_array_elements_text
                """
            ),
            ("value",),
        ),
        "pg_options_to_table": ("option_name", "option_value"),
        "aclexplode": ("grantor", "grantee", "privilege_type", "is_grantable"),
        "pg_partition_tree": ("relid", "parentrelid", "isleaf", "level"),
        "pg_partition_ancestors": ("relid",),
        "pg_available_extensions": ("name", "default_version", "comment"),
        "pg_get_keywords": ("word", "catcode", "barelabel", "catdesc", "baredesc"),
    }
)  # fmt: skip
"""The columns of those that have more than one, or one with a name that is not theirs."""

_SCALAR_SETS: Final = (
    SETS
    - _TABLE_FUNCTIONS.keys()
    - frozenset(
        words(
            """
        json_populate_recordset json_to_recordset jsonb_populate_recordset jsonb_to_recordset unnest
        """
        )
    )
)

_MAX_ROUNDS: Final = 8
"""Of reading a recursive query again, with what is known of it: a rule for a column each."""

_MAX_READ_AGAIN_BYTES: Final = 1024 * 1024
"""For recursive queries inside recursive queries, all together."""

_MAX_COLUMNS: Final = 2_000
"""Of one query; PostgreSQL's own limit is 1,664."""


class Queries(Expressions):
    """What is found out while the queries of one statement are read.

    `spoils` are the relations into which masked values go. Where a statement `answers_otherwise`,
    its rows are not those that its text names.
    """

    def __init__(self, text: str, known: Known) -> None:
        super().__init__(known)
        self.spoils: set[str] = set()
        self.answers_otherwise = False
        self._text = text
        self._read_again = 0

    def run(self, kind: str, body: Node, outer: Scope, *, is_top: bool = False) -> Result:
        """Read a query; `outer` is what it sees around itself."""
        if kind == "SelectStmt":
            return self._select(body, outer, is_top=is_top)
        if kind == "InsertStmt":
            return self._insert(body, outer)
        if kind in ("UpdateStmt", "DeleteStmt"):
            return self._update(kind, body, outer)
        if kind == "MergeStmt":
            return self._merge(body, outer)
        raise NotUnderstood

    def _enter(self, body: Node, outer: Scope) -> Scope:
        # A scope around nothing is left out: names are looked for in each.
        around = outer if outer.sources or outer.outer is not None else None
        if "withClause" not in body:
            return Scope(around, outer.ctes)
        clause = body["withClause"]
        scope = Scope(around, Ctes(outer.ctes))
        is_recursive = clause.get("recursive", False)
        own = []
        for place, item in enumerate(clause.get("ctes", ())):
            query = item["CommonTableExpr"]
            seen = scope.ctes if is_recursive else scope.ctes.first(place)
            cte = Cte(query, Scope(around, seen))
            own.append(cte)
            scope.ctes.add(query["ctename"], cte)
        for cte in own:
            self._cte(cte)
        return scope

    def _cte(self, cte: Cte) -> Result:
        """Return the columns of a query of WITH, which is read when it is first named."""
        if cte.is_running:
            if cte.result is None:  # in its first term, or through another: PostgreSQL refuses
                return self._hidden_result()
            return cte.result
        if cte.result is None:
            cte.is_running = True
            ((kind, query),) = cte.body["ctequery"].items()
            names = [each["String"]["sval"] for each in cte.body.get("aliascolnames", ())]
            if kind == "SelectStmt" and query.get("op", "SETOP_NONE") != "SETOP_NONE":
                result = self._recursive(cte, query, names)
            else:
                result = renamed(self.run(kind, query, cte.scope), names)
            cte.result = self._with_path(cte.body, result)
            cte.is_running = False
        return cte.result

    def _recursive(self, cte: Cte, query: Node, names: list[str]) -> Result:
        if cte.scope.ctes.get(cte.body["ctename"]) is not cte:
            return renamed(self.run("SelectStmt", query, cte.scope), names)
        around = self._enter(query, cte.scope)
        first = self._select(query["larg"], around)
        if first.columns is None:
            cte.result = first
        else:
            # Its own rows are rows that the text makes, one after the other.
            cte.result = renamed(
                Result(
                    [Column(each.name, each.rule, (each,), is_made=True) for each in first.columns],
                    spread=first.spread,
                ),
                names,
            )
        for _ in range(_MAX_ROUNDS):
            self._read_again += len(self._text)
            if self._read_again > _MAX_READ_AGAIN_BYTES:
                raise NotUnderstood
            before = cte.result
            whole = renamed(self.run("SelectStmt", query, cte.scope), names)
            cte.result = whole
            if rules_of(before) == rules_of(whole):
                return whole
        return self._hidden_result()

    def _with_path(self, body: Node, result: Result) -> Result:
        """Return a query of WITH with the columns that SEARCH and CYCLE add."""
        added = []
        if "search_clause" in body:
            added.append(body["search_clause"]["search_seq_column"])
        if "cycle_clause" in body:
            cycle = body["cycle_clause"]
            added += [cycle["cycle_mark_column"], cycle["cycle_path_column"]]
        if not added or result.columns is None:
            return result
        flow = Flow()
        for column in result.columns:
            flow.take(column)
        return Result(
            [*result.columns, *(flow.column(name) for name in added)],
            spread=result.spread,
            asked=result.asked,
        )

    def _hidden_result(self) -> Result:
        return Result(None, Column("*", self.whole, is_made=True))

    def _select(self, body: Node, outer: Scope, *, is_top: bool = False) -> Result:
        if body.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self._set_operation(body, outer)
        scope = self._enter(body, outer)
        if "valuesLists" in body:
            return self._values(body, scope)
        for item in body.get("fromClause", ()):
            scope.stars += self._from(item, scope)
        if "whereClause" in body:
            self.condition(body["whereClause"], scope)
        flows: list[Flow] = []
        names: list[str] = []
        is_open = False
        for target in body.get("targetList", ()):
            is_open |= self._target_of(target["ResTarget"], scope, names, flows)
        aliases = dict(zip(names, flows, strict=True))
        for key in ("groupClause", "havingClause", "sortClause", "distinctClause"):
            if key in body:
                self._clause(body[key], scope, aliases, prefers_alias=key != "havingClause")
        for window in body.get("windowClause", ()):
            flow = Flow()
            self.window(window["WindowDef"], scope, flow)
            scope.spread = scope.spread or flow.rule
        for key in ("limitCount", "limitOffset"):
            if key in body:
                flow = self.flow(body[key], scope)
                if flow.rule:
                    # Which row is shown is the value itself, where rows have numbers.
                    scope.spread = scope.spread or flow.rule
                    self.hide(flow, flow.rule)
                    for each in flows:
                        each.rule = each.rule or flow.rule
        return self._shown_columns(body, scope, names, flows, is_open=is_open, is_top=is_top)

    def _shown_columns(
        self,
        body: Node,
        scope: Scope,
        names: list[str],
        flows: list[Flow],
        *,
        is_open: bool,
        is_top: bool,
    ) -> Result:
        spread, asked = scope.spread, scope.asked
        for source in scope.sources:
            spread = spread or source.spread
            asked = asked or source.asked
        is_group = "groupClause" in body or "distinctClause" in body
        for flow in flows:
            is_group = is_group or flow.is_aggregate
            if flow.is_set and flow.rule:
                spread = spread or flow.rule
        columns = []
        for name, flow in zip(names, flows, strict=True):
            if not flow.rule:
                shows_count = is_group or flow.is_count or not (flow.refs or is_top)
                if spread and (shows_count or (flow.refs and flow.is_made)):
                    flow.rule = spread
                elif scope.asked and not is_top and not flow.refs and not flow.is_count:
                    flow.rule = scope.asked  # a constant that stands for what was asked
            columns.append(flow.column(name))
        if is_open:
            return Result(None, any_of(columns), spread=spread, asked=asked)
        return Result(columns, spread=spread, asked=asked)

    def _target_of(self, target: Node, scope: Scope, names: list[str], flows: list[Flow]) -> bool:
        """Add the columns of one item of a select list; return whether they are not known."""
        value = target["val"]
        fields = value["ColumnRef"]["fields"] if "ColumnRef" in value else ()
        if fields and "A_Star" in fields[-1]:
            return self._star(fields, scope, names, flows)
        if "A_Indirection" in value and "A_Star" in value["A_Indirection"]["indirection"][-1]:
            inner = value["A_Indirection"]
            of = inner["arg"].get("ColumnRef", {}).get("fields", ())
            is_alias = len(inner["indirection"]) == 1 and len(of) == 1 and "String" in of[0]
            if is_alias and self.is_row(of[0]["String"]["sval"], scope):
                return self._star([of[0], {"A_Star": {}}], scope, names, flows)
            names.append("*")
            flows.append(self.flow(value, scope))
            return True
        names.append(target.get("name") or name_of(value))
        flows.append(self.flow(value, scope))
        return False

    def _star(
        self, fields: Sequence[Node], scope: Scope, names: list[str], flows: list[Flow]
    ) -> bool:
        sources = scope.stars
        if len(fields) > 1:
            alias = fields[-2]["String"]["sval"]
            sources = []
            seen: Scope | None = scope
            while seen is not None and not sources:
                sources = [source for source in seen.sources if source.alias == alias]
                seen = seen.outer
            if len(sources) != 1:
                raise NotUnderstood
        is_open = False
        for source in sources:
            if source.columns is None:
                is_open = True
            if len(names) + len(source.row()) > _MAX_COLUMNS:
                raise NotUnderstood
            for column in source.row():
                names.append(column.name)
                flow = Flow()
                flow.take(column)
                flows.append(flow)
        return is_open

    def _clause(
        self, items: Any, scope: Scope, aliases: Mapping[str, Flow], *, prefers_alias: bool
    ) -> None:
        if not prefers_alias:
            self.condition(items, scope)
            return
        for item in items:
            node = item.get("SortBy", {}).get("node", item)
            fields = node.get("ColumnRef", {}).get("fields", ())
            if len(fields) == 1 and "String" in fields[0]:
                flow = aliases.get(fields[0]["String"]["sval"])
                if flow is not None:
                    self.ask(flow, scope)
                    continue
            if node:
                self.condition(node, scope)

    def _set_operation(self, body: Node, outer: Scope) -> Result:
        scope = self._enter(body, outer)
        # A chain of a thousand UNIONs nests to the left.
        chain = [body]
        while (
            chain[-1]["larg"].get("op", "SETOP_NONE") != "SETOP_NONE"
            and "withClause" not in chain[-1]["larg"]
        ):
            chain.append(chain[-1]["larg"])
        result = self._select(chain[-1]["larg"], scope)
        for each in reversed(chain):
            result = self._united(result, self._select(each["rarg"], scope))
        if "sortClause" in body:
            for item in body["sortClause"]:
                if "ColumnRef" not in item["SortBy"]["node"]:
                    self.condition(item, scope)
        for each in chain:
            for key in ("limitCount", "limitOffset"):
                if key in each:
                    flow = self.flow(each[key], scope)
                    if flow.rule:
                        self.hide(flow, flow.rule)
                        result = hidden_by(flow.rule, result)
        return result

    def _united(self, one: Result, other: Result) -> Result:
        spread = one.spread or other.spread
        asked = one.asked or other.asked
        if one.columns is None or other.columns is None or len(one.columns) != len(other.columns):
            columns = any_of([*one.all(), *other.all()])
            return Result(None, columns, spread=spread, asked=asked)
        both = [merged(a, b) for a, b in zip(one.columns, other.columns, strict=True)]
        for column in both:
            if column.rule:
                self.show(column, column.rule)
        return Result(both, spread=spread, asked=asked)

    def _values(self, body: Node, scope: Scope) -> Result:
        rows = [each["List"]["items"] for each in body["valuesLists"]]
        flows = [Flow() for _ in rows[0]]
        for row in rows:
            if len(row) != len(flows):
                raise NotUnderstood
            for value, flow in zip(row, flows, strict=True):
                flow.add(self.flow(value, scope))
        spread = ""
        for key in ("limitCount", "limitOffset"):
            if key in body:
                spread = spread or self.flow(body[key], scope).rule
        columns = [
            flow.column(f"column{number}", is_made=True)
            for number, flow in enumerate(flows, start=1)
        ]
        return Result(columns, spread=spread)

    # FROM.

    def _from(self, item: Node, scope: Scope) -> list[Source]:
        """Add what an item of FROM names to the scope; return what `*` stands for in it."""
        ((kind, body),) = item.items()
        if kind == "RangeVar":
            source = self._range_var(body, scope)
        elif kind == "JoinExpr":
            return self._join(body, scope)
        elif kind == "RangeSubselect":
            is_lateral = body.get("lateral", False)
            inner = scope if is_lateral else Scope(scope.outer, scope.ctes)
            ((its_kind, query),) = body["subquery"].items()
            result = self.run(its_kind, query, inner)
            if is_lateral:
                scope.asked = scope.asked or result.asked
                scope.spread = scope.spread or result.spread
            source = source_of(result, body.get("alias", {}))
        elif kind == "RangeFunction":
            source = self._range_function(body, scope)
        elif kind in ("RangeTableFunc", "JsonTable"):
            source = self._table_function(kind, body, scope)
        elif kind == "RangeTableSample":
            for each in body.get("args", ()):
                self.condition(each, scope)
            method = [each["String"]["sval"] for each in body.get("method", ())]
            if method not in (["bernoulli"], ["system"]):
                self.tells = self.tells or self.whole
            return self._from(body["relation"], scope)
        else:
            raise NotUnderstood
        scope.sources.append(source)
        return [source]

    def _range_var(self, node: Node, scope: Scope) -> Source:
        if "schemaname" not in node:
            cte = scope.ctes.get(node["relname"])
            if cte is not None:
                return source_of(self._cte(cte), node.get("alias", {}), node["relname"])
        return self._relation(node)

    def _relation(self, node: Node) -> Source:
        alias = node.get("alias", {})
        name = alias.get("aliasname") or node["relname"]
        found = () if self.known.is_doubtful(node["relname"]) else self.known.candidates(node)
        if not found or any(map(self.known.is_changed, found)):
            self.tells = self.tells or self.whole
            return Source(name, None, any_column=Column("*", self.whole))
        tables = [self.known.catalogue.table(relation) for relation in found]
        for table in tables:
            self.tells = self.tells or table.tells
        if len(tables) > 1:
            return source_of(of_any(tables), alias, name)
        if "colnames" in alias:
            return source_of(Result(tables[0].columns), alias, name)
        return Source.of_table(tables[0], name)

    def _join(self, body: Node, scope: Scope) -> list[Source]:
        before = len(scope.sources)
        left = self._from(body["larg"], scope)
        right = self._from(body["rarg"], scope)
        stars = [*left, *right]
        names = [each["String"]["sval"] for each in body.get("usingClause", ())]
        if names or body.get("isNatural"):
            stars = [self._merge_columns(left, right, names, body, scope)]
        if "quals" in body:
            self.condition(body["quals"], scope)
        if "alias" not in body:
            return stars
        sources = scope.sources[before:]
        joined = source_of(
            Result(
                columns_of(stars),
                any_of(rows_of(stars)),
                spread=next(filter(None, (source.spread for source in sources)), ""),
                asked=next(filter(None, (source.asked for source in sources)), ""),
            ),
            body["alias"],
        )
        scope.sources[before:] = [joined]
        return [joined]

    def _merge_columns(
        self, left: list[Source], right: list[Source], names: list[str], body: Node, scope: Scope
    ) -> Source:
        """Return the columns of a join by name: those that are in both come once, and first."""
        ours, theirs = rows_of(left), rows_of(right)
        is_open = columns_of(left) is None or columns_of(right) is None
        if body.get("isNatural"):
            known = {column.name for column in theirs}
            names = [column.name for column in ours if column.name in known or is_open]
        merged = []
        for name in dict.fromkeys(names):
            pair = [c for c in (*ours, *theirs) if c.name == name or (is_open and c.name == "*")]
            if not pair:
                raise NotUnderstood
            flow = Flow()
            for column in pair:
                flow.take(column)
            self.ask(flow, scope)
            merged.append(flow.column(name))
        by_name = {column.name: column for column in merged}
        scope.sources.append(Source("", merged, by_name=by_name))
        if "join_using_alias" in body:
            alias = body["join_using_alias"]["aliasname"]
            scope.sources.append(Source(alias, merged, by_name=by_name))
        rest = [column for column in (*ours, *theirs) if column.name not in by_name]
        if is_open:
            return Source("", None, any_column=any_of([*merged, *rest]))
        return Source("", [*merged, *rest])

    def _range_function(self, body: Node, scope: Scope) -> Source:
        """Read functions in FROM: they see what is named before them."""
        alias = body.get("alias", {})
        columns: list[Column] | None = []
        whole = Flow()
        calls = body["functions"]
        for each in calls:
            call, *definitions = each["List"]["items"]
            flow = self.flow(call, scope)
            for definition in definitions:
                if definition:
                    flow.add(self.flow(definition, scope))
            whole.add(flow)
            own = self._function_columns(call, definitions, alias, flow, is_alone=len(calls) == 1)
            columns = None if own is None or columns is None else [*columns, *own]
        for each in body.get("coldeflist", ()):
            whole.add(self.flow(each, scope))
        if "coldeflist" in body:
            defined = [each["ColumnDef"]["colname"] for each in body["coldeflist"]]
            columns = [whole.column(name, is_made=True) for name in defined]
        if columns is not None and body.get("ordinality"):
            columns = [*columns, Column("ordinality", is_made=True)]
        result = Result(columns, whole.column("*", is_made=True), spread=whole.rule)
        return source_of(result, alias, name_of(calls[0]["List"]["items"][0]))

    def _function_columns(
        self, call: Node, definitions: Sequence[Node], alias: Node, flow: Flow, *, is_alone: bool
    ) -> list[Column] | None:
        """Return the columns of a function in FROM, None where they are not known."""
        for definition in definitions:
            if definition:
                return [
                    flow.column(each["ColumnDef"]["colname"], is_made=True)
                    for each in definition["List"]["items"]
                ]
        if "FuncCall" not in call:
            return [flow.column(name_of(call), is_made=True)]
        if not self.known.is_harmless_function(call["FuncCall"]):
            return None
        name = call["FuncCall"]["funcname"][-1]["String"]["sval"]
        called = alias.get("aliasname", name) if is_alone else name
        if name in _TABLE_FUNCTIONS:
            return [flow.column(each, is_made=True) for each in _TABLE_FUNCTIONS[name]]
        if name in _SCALAR_SETS:
            return [flow.column(called, is_made=True)]
        if name == "unnest":
            # A column for each array; but for one of rows as many as these have.
            arguments = call["FuncCall"]["args"]
            if all(map(_is_of_scalars, arguments)):
                called = called if len(arguments) == 1 else name
                return [flow.column(called, is_made=True)] * len(arguments)
        return None

    def _table_function(self, kind: str, body: Node, scope: Scope) -> Source:
        flow = self.flow({key: part for key, part in body.items() if key != "alias"}, scope)
        parts = [part for each in body.get("columns", ()) for part in each.values()]
        names = [part.get("colname") or part.get("name") for part in parts]
        columns = None
        if all(names) and not any("columns" in part for part in parts):
            columns = [flow.column(name, is_made=True) for name in names]
        result = Result(columns, flow.column("*", is_made=True), spread=flow.rule)
        name = "json_table" if kind == "JsonTable" else "xmltable"
        return source_of(result, body.get("alias", {}), name)

    # What writes.

    def target(self, node: Node, *, is_written: bool) -> Source:
        """Return what is written to, with columns that take up what is assigned to them."""
        found = () if self.known.is_doubtful(node["relname"]) else self.known.candidates(node)
        for relation in found:
            if is_written and (relation.has_rules or (relation.kind == "v" and relation.has_code)):
                self.answers_otherwise = True
            if is_written and self.known.writing_tells(relation):
                self.tells = self.tells or self.whole
        if is_written and not found:
            self.answers_otherwise = True  # it may be anything by now
        source = self._relation(node)
        columns = None
        if source.columns is not None:
            columns = [Column(column.name, column.rule) for column in source.columns]
        any_column = None if source.any is None else Column("*", source.any.rule)
        return Source(source.alias, columns, any_column=any_column)

    def _assign(self, target: Source, name: str, flow: Flow, node: Node, scope: Scope) -> None:
        """Note that a value goes into a column."""
        column = target.by_name.get(name, target.any)
        if not flow.rule and scope.spread and flow.is_made:
            flow.rule = scope.spread
        rule = (column.rule if column is not None else self.whole) or flow.rule
        if not rule:
            return
        self.hide(flow, rule)
        # What is hidden now because it is in doubt may be seen again, and what went into it not.
        if column is None or not column.rule or (flow.rule and self._is_in_doubt(node)):
            self.spoils.add(node["relname"])
        if column is not None and not column.rule:
            column.rule = rule

    def _is_in_doubt(self, node: Node) -> bool:
        known = self.known
        return known.is_doubtful(node["relname"]) or any(
            map(known.is_changed, known.candidates(node))
        )

    def _assign_all(
        self,
        target: Source,
        names: Sequence[str] | None,
        result: Result,
        node: Node,
        place: Scope,
    ) -> None:
        """Note that the columns of a query go into those of a table."""
        if names is None and target.columns is not None:
            names = [column.name for column in target.columns]
        if names is None or result.columns is None or len(names) < len(result.columns):
            # Which goes where is not known.
            flow = Flow()
            for column in result.all():
                flow.take(column)
            for into in target.row():
                self._assign(target, into.name, flow, node, place)
            return
        for name, column in zip(names, result.columns, strict=False):
            flow = Flow()
            flow.take(column)
            self._assign(target, name, flow, node, place)

    def _insert(self, body: Node, outer: Scope) -> Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self.target(node, is_written=True)
        names = None
        if "cols" in body:
            names = [each["ResTarget"]["name"] for each in body["cols"]]
        if "selectStmt" in body:
            ((kind, query),) = body["selectStmt"].items()
            self._assign_all(target, names, self.run(kind, query, scope), node, scope)
        scope.sources.append(target)
        scope.stars.append(target)
        if "onConflictClause" in body:
            clause = body["onConflictClause"]
            excluded = Source("excluded", target.columns, any_column=target.any)
            scope.sources.append(excluded)
            infer = clause.get("infer", {})
            self.condition(infer.get("indexElems", []), scope)
            for each in (infer, clause):
                if "whereClause" in each:
                    self.condition(each["whereClause"], scope)
            self._set(clause.get("targetList", ()), target, node, scope)
            scope.sources.remove(excluded)
        return self._returning(body, target, scope)

    def _set(self, targets: Iterable[Node], target: Source, node: Node, scope: Scope) -> None:
        for each in targets:
            item = each["ResTarget"]
            flow = self.flow(item["val"], scope)
            for index in item.get("indirection", ()):
                flow.add(self.flow(index, scope))
            self._assign(target, item["name"], flow, node, scope)

    def _update(self, kind: str, body: Node, outer: Scope) -> Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self.target(node, is_written=True)
        scope.sources.append(target)
        scope.stars.append(target)
        for item in body.get("fromClause" if kind == "UpdateStmt" else "usingClause", ()):
            scope.stars += self._from(item, scope)
        if "whereClause" in body:
            self.condition(body["whereClause"], scope)
        if kind == "UpdateStmt":
            self._set(body["targetList"], target, node, scope)
        return self._returning(body, target, scope)

    def _merge(self, body: Node, outer: Scope) -> Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self.target(node, is_written=True)
        scope.stars += self._from(body["sourceRelation"], scope)
        scope.sources.append(target)
        scope.stars.append(target)
        self.condition(body["joinCondition"], scope)
        for each in body.get("mergeWhenClauses", ()):
            clause = each["MergeWhenClause"]
            if "condition" in clause:
                self.condition(clause["condition"], scope)
            targets = clause.get("targetList", ())
            if clause.get("commandType") == "CMD_UPDATE":
                self._set(targets, target, node, scope)
            elif "values" in clause:
                flows = [self.flow(value, scope) for value in clause["values"]]
                columns = [flow.column("") for flow in flows]
                names = [item["ResTarget"]["name"] for item in targets] if targets else None
                self._assign_all(target, names, Result(columns), node, scope)
        return self._returning(body, target, scope)

    def _returning(self, body: Node, target: Source, scope: Scope) -> Result:
        clause = body.get("returningClause", {})
        targets = clause.get("exprs", body.get("returningList", ()))
        if not targets:
            return Result([])
        given = {"RETURNING_OPTION_OLD": "old", "RETURNING_OPTION_NEW": "new"}
        for each in clause.get("options", ()):
            option = each["ReturningOption"]
            given[option.get("option", "RETURNING_OPTION_OLD")] = option["value"]
        taken = {source.alias for source in scope.sources}
        for alias in given.values():
            if alias not in taken:
                scope.sources.append(Source(alias, target.columns, any_column=target.any))
        flows: list[Flow] = []
        names: list[str] = []
        is_open = False
        for item in targets:
            is_open |= self._target_of(item["ResTarget"], scope, names, flows)
        return self._shown_columns({}, scope, names, flows, is_open=is_open, is_top=True)


def _is_of_scalars(array: Node) -> bool:
    """Whether the elements of an array are no rows for sure."""
    if "A_ArrayExpr" in array:
        elements = array["A_ArrayExpr"].get("elements", ())
        return all("A_Const" in each or _is_of_scalars(each) for each in elements)
    if "TypeCast" in array:
        names = array["TypeCast"]["typeName"].get("names", ())
        return bool(names) and names[-1]["String"]["sval"] in sql._TYPES
    if "FuncCall" in array:
        name = array["FuncCall"]["funcname"][-1]["String"]["sval"]
        return name in ("string_to_array", "regexp_split_to_array", "regexp_match")
    return False
