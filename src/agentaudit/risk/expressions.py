"""What the value of an expression is made of, and what a condition asks for.

Which columns a name stands for, PostgreSQL decides by what is in FROM around it, from the inside
out; so it is done here. An expression has queries in it, and they have expressions: who reads those
is a subclass.

Name resolution: PostgreSQL, `src/backend/parser/parse_relation.c` and `parse_expr.c`.
"""

from __future__ import annotations

from typing import Any, Final

from agentaudit.risk.catalogue import Column
from agentaudit.risk.flows import Flow, NotUnderstood, Result, Scope, Source
from agentaudit.risk.known import KEEPING, Known
from agentaudit.risk.tree import Node, words

_AGGREGATES: Final = frozenset(
    words(
        """
        any_value array_agg avg bit_and bit_or bool_and bool_or corr count covar_pop covar_samp
        cume_dist dense_rank every first_value json_agg json_object_agg jsonb_agg jsonb_object_agg
        lag last_value lead max min mode nth_value ntile percent_rank percentile_cont
        percentile_disc range_agg rank regr_count row_number stddev stddev_pop stddev_samp
        string_agg sum var_pop var_samp variance xmlagg
        """
    )
)
"""What makes one value of many rows, and so can say how many there were."""

SETS: Final = frozenset(
    words(
        """
        generate_series generate_subscripts json_array_elements json_array_elements_text json_each
        json_each_text json_object_keys json_populate_recordset json_to_recordset
        jsonb_array_elements jsonb_array_elements_text jsonb_each jsonb_each_text jsonb_object_keys
        jsonb_path_query jsonb_populate_recordset jsonb_to_recordset regexp_matches
        regexp_split_to_table string_to_table unnest
        """
    )
)
"""What makes several rows of one."""

_SYSTEM_COLUMNS: Final = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})

# Expressions, and parts of them: what they make is made of what is inside them.
_EXPRESSIONS: Final = frozenset(
    words(
        """
        A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star BitString BoolExpr Boolean
        BooleanTest CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CurrentOfExpr
        Float FuncCall GroupingFunc GroupingSet Integer JsonAggConstructor JsonArgument
        JsonArrayAgg JsonArrayConstructor JsonArrayQueryConstructor JsonBehavior JsonFormat
        JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg JsonObjectConstructor JsonOutput
        JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr JsonTable JsonTableColumn
        JsonTablePathSpec JsonValueExpr List MergeSupportFunc MinMaxExpr MultiAssignRef
        NamedArgExpr NullTest ParamRef RangeTableFunc RangeTableFuncCol ResTarget RowExpr
        SQLValueFunction SelectStmt SetToDefault SortBy String SubLink TypeCast TypeName WindowDef
        XmlExpr XmlSerialize
        """
    )
)

_MAX_STEPS: Final = 1_000_000


class Expressions:
    """What is found out while the expressions of one statement are read.

    `constants` (by their first byte) and `params` are those that stand beside a masked column, each
    with the rule; `tells` is the rule of what the server may say beside the rows, and `keeps` says
    that a masked value goes where settings, sequences and locks are kept.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.whole = known.whole
        self.constants: dict[int, str] = {}
        self.params: dict[int, str] = {}
        self.tells = ""
        self.keeps = False
        self._shown: set[int] = set()
        self._steps = 0

    def run(self, kind: str, body: Node, outer: Scope, *, is_top: bool = False) -> Result:
        """Read a query; `outer` is what it sees around itself."""
        raise NotImplementedError

    def flow(self, node: Any, scope: Scope) -> Flow:
        """Return what the value of an expression is made of."""
        flow = Flow()
        if "ColumnRef" in node:  # as most are
            self._column(node["ColumnRef"]["fields"], scope, flow)
            return flow
        stack: list[Any] = [node]
        while stack:
            node = stack.pop()
            if type(node) is list:
                stack += node
                continue
            for key, value in node.items():
                shape = type(value)
                if shape is list:
                    if key in ("name", "colnames", "funcname", "names"):
                        continue
                    stack += value
                    continue
                if shape is not dict:
                    continue
                if key == "ColumnRef":
                    self._column(value["fields"], scope, flow)
                elif key == "A_Const":
                    if not value.get("isnull"):
                        flow.constants.append(value.get("location", 0))
                elif key == "ParamRef":
                    flow.params.append(value.get("number", 0))
                elif key == "A_Expr":
                    if not self.known.is_harmless_operator(value["name"]):
                        self._unknown(flow)
                    stack.append(value)
                elif key == "FuncCall":
                    self._call(value, scope, flow, stack)
                elif key == "typeName":
                    rule = self.known.type_rule(value)
                    if rule is not None:
                        self.tells = self.tells or rule
                        flow.rule = flow.rule or rule
                elif key == "SubLink":
                    self._sublink(value, scope, flow)
                elif key == "SelectStmt":
                    self._subquery(self.run(key, value, scope), flow)
                elif key == "A_Indirection":
                    self._indirection(value, scope, flow, stack)
                elif key == "MultiAssignRef":
                    self._assigned_part(value, scope, flow)
                elif key == "over":
                    self.window(value, scope, flow)
                elif key == "agg_filter":
                    self.condition(value, scope)
                elif key[0].isupper() and key not in _EXPRESSIONS:
                    self._unknown(flow)
                    stack.append(value)
                else:
                    if key in ("JsonObjectAgg", "JsonArrayAgg"):
                        flow.is_aggregate = True
                    stack.append(value)
        return flow

    def _unknown(self, flow: Flow) -> None:
        flow.rule = flow.rule or self.whole
        self.tells = self.tells or self.whole

    def _call(self, call: Node, scope: Scope, flow: Flow, stack: list[Any]) -> None:
        name = call["funcname"][-1]["String"]["sval"]
        is_harmless = self.known.is_harmless_function(call)
        if not is_harmless:
            self._unknown(flow)
        elif name == "count":
            # How many there are says no value; but what they are is a condition.
            flow.is_count = flow.is_aggregate = True
            for each in call.get("args", ()):
                self.condition(each, scope)
        elif name in KEEPING and self.flow(call.get("args", []), scope).rule:
            self.keeps = True
        if name in _AGGREGATES or "over" in call:
            flow.is_aggregate = True
        if name in SETS or not is_harmless:
            flow.is_set = True
        for key in ("args", "agg_order"):
            if key in call and not (is_harmless and name == "count"):
                if key == "agg_order" and not call.get("agg_within_group"):
                    for each in call[key]:
                        self.condition(each, scope)
                else:
                    stack.append(call[key])
        if "agg_filter" in call:
            self.condition(call["agg_filter"], scope)
        if "over" in call:
            self.window(call["over"], scope, flow)

    def window(self, window: Node, scope: Scope, flow: Flow) -> None:
        for key in ("partitionClause", "orderClause"):
            for each in window.get(key, ()):
                self.condition(each, scope)
        for key in ("startOffset", "endOffset"):
            if key in window:
                flow.add(self.flow(window[key], scope))

    def _sublink(self, link: Node, scope: Scope, flow: Flow) -> None:
        ((kind, query),) = link["subselect"].items()
        if "operName" in link and not self.known.is_harmless_operator(link["operName"]):
            self._unknown(flow)
        if "testexpr" in link:
            flow.add(self.flow(link["testexpr"], scope))
        result = self.run(kind, query, scope)
        if link["subLinkType"] in ("EXPR_SUBLINK", "ARRAY_SUBLINK", "MULTIEXPR_SUBLINK"):
            self._subquery(result, flow)
            return
        if link["subLinkType"] != "EXISTS_SUBLINK":
            self._subquery(result, flow)
        # Whether there is a row is an answer about what its conditions mention.
        flow.rule = flow.rule or result.asked or result.spread
        flow.is_probe |= bool(result.spread)

    def _subquery(self, result: Result, flow: Flow) -> None:
        for column in result.all():
            flow.take(column)
        flow.rule = flow.rule or result.spread
        flow.is_probe |= bool(result.spread)

    def _indirection(self, node: Node, scope: Scope, flow: Flow, stack: list[Any]) -> None:
        names = [each["String"]["sval"] for each in node.get("indirection", ()) if "String" in each]
        fields = node["arg"].get("ColumnRef", {}).get("fields", ())
        if (
            names
            and len(fields) == 1
            and "String" in node["indirection"][0]
            and "String" in fields[0]
        ):
            alias = fields[0]["String"]["sval"]
            if self.is_row(alias, scope):
                self._column([fields[0], node["indirection"][0]], scope, flow)
                rest = node["indirection"][1:]
                if self.known.calls_by_dot(rest):
                    self._unknown(flow)
                stack += rest
                return
        if self.known.calls_by_dot(node["indirection"]):
            self._unknown(flow)
        stack.append(node["arg"])
        stack += node["indirection"]

    def is_row(self, name: str, scope: Scope) -> bool:
        """Whether a name alone stands for a row of FROM, and for no column."""
        seen: Scope | None = scope
        is_row = False
        while seen is not None:
            for source in seen.sources:
                if name in source.by_name or source.any is not None:
                    return False
                is_row = is_row or source.alias == name
            seen = seen.outer
        return is_row

    def _assigned_part(self, node: Node, scope: Scope, flow: Flow) -> None:
        source, number = node["source"], node["colno"] - 1
        if "RowExpr" in source and number < len(source["RowExpr"].get("args", ())):
            flow.add(self.flow(source["RowExpr"]["args"][number], scope))
            return
        if "SubLink" in source:
            ((kind, query),) = source["SubLink"]["subselect"].items()
            result = self.run(kind, query, scope)
            if result.columns is not None and number < len(result.columns):
                flow.take(result.columns[number])
                return
            self._subquery(result, flow)
            return
        flow.add(self.flow(source, scope))

    def _column(self, fields: list[Node], scope: Scope, flow: Flow) -> None:
        """Add what a name stands for."""
        names = [each["String"]["sval"] if "String" in each else "*" for each in fields]
        if len(names) == 1:
            if names[0] == "*":
                for source in scope.stars:
                    flow.take(source.whole)
                return
            self._unqualified(names[0], scope, flow)
            return
        *_, alias, name = names
        seen: Scope | None = scope
        while seen is not None:
            self._spend(len(seen.sources))
            matching = [source for source in seen.sources if source.alias == alias]
            if matching:
                for source in matching:
                    self._of_source(source, name, flow)
                return
            seen = seen.outer
        self._unresolved(flow)

    def _of_source(self, source: Source, name: str, flow: Flow) -> None:
        if name == "*":
            flow.take(source.whole)
            return
        known = source.by_name.get(name, source.any)
        if known is not None:
            flow.take(known)
        elif name not in _SYSTEM_COLUMNS:
            self._unresolved(flow)

    def _unqualified(self, name: str, scope: Scope, flow: Flow) -> None:
        seen: Scope | None = scope
        is_open = False
        while seen is not None:
            is_found = False
            self._spend(len(seen.sources))
            for source in seen.sources:
                column = source.by_name.get(name)
                if column is not None:
                    flow.take(column)
                    is_found = True
                elif source.any is not None:
                    is_open = True
                    flow.take(source.any)
            if is_found:
                return
            seen = seen.outer
        if name in _SYSTEM_COLUMNS:
            return
        seen = scope
        while seen is not None:
            matching = [source for source in seen.sources if source.alias == name]
            if matching:
                for source in matching:
                    flow.take(source.whole)
                return
            seen = seen.outer
        if not is_open:
            self._unresolved(flow)

    def _unresolved(self, flow: Flow) -> None:
        self._unknown(flow)  # `row.f` may be a call

    def _spend(self, steps: int) -> None:
        """Bound the work: a text may have ten thousand names in ten thousand tables."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise NotUnderstood

    # Conditions.

    def condition(self, node: Any, scope: Scope) -> None:
        """Hide the constants of each part of a condition that mentions what is masked."""
        stack: list[Any] = [node]
        while stack:
            node = stack.pop()
            if type(node) is list:
                stack += node
            elif "BoolExpr" in node:
                stack += node["BoolExpr"]["args"]
            elif "SortBy" in node:
                by = node["SortBy"]
                if "useOp" in by and not self.known.is_harmless_operator(by["useOp"]):
                    self.tells = self.tells or self.whole
                stack.append(by["node"])
            elif node:
                flow = self.flow(node, scope)
                self.ask(flow, scope)

    def ask(self, flow: Flow, scope: Scope) -> None:
        """Note that which rows there are hangs on a value."""
        if flow.rule:
            scope.asked = scope.asked or flow.rule
            if flow.is_probe or (flow.refs and flow.is_made):
                # What was made up is found by it, and shows it.
                scope.spread = scope.spread or flow.rule
            self.hide(flow, flow.rule)

    def hide(self, flow: Flow, rule: str) -> None:
        """Hide the constants and the parameters that a value is made of."""
        for location in flow.constants:
            self.constants.setdefault(location, rule)
        for number in flow.params:
            self.params.setdefault(number, rule)
        for column in flow.refs:
            self.show(column, rule)

    def show(self, column: Column, rule: str) -> None:
        stack = [column]
        while stack:
            column = stack.pop()
            if not column.refs and not column.constants and not column.params:
                continue
            if id(column) in self._shown:
                continue
            self._shown.add(id(column))
            for location in column.constants:
                self.constants.setdefault(location, rule)
            for number in column.params:
                self.params.setdefault(number, rule)
            stack += column.refs
