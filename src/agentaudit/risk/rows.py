"""How many rows a statement is about, as a question that a planner can answer.

Planning a DELETE wants the right to delete. Who asks here may only read, so the question is a
SELECT of the rows that would go, written anew from the statement's tree; and of what has no plan
(TRUNCATE, DROP) it is the tables whose rows all are at stake. Where the two might differ there is
no question: no number is better than one that an agent has chosen.

A planner runs functions that call themselves immutable, with the rights of who asks. So nothing is
asked about a text that may call what is not PostgreSQL's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
import pglast
from pglast import ast, enums
from pglast import parser as libpg_query
from pglast.stream import RawStream

from agentaudit.risk import sql
from agentaudit.risk.tree import words

MAX_CHARACTERS: Final = 16 * 1024
MAX_DEPTH: Final = 300
"""Of the tree: pglast makes its objects, and writes them, by recursion."""

MAX_TABLES: Final = 8

_UNSURE: Final = "it may do more than its text says"
_WHOLE: Final = frozenset(
    ["TRUNCATE", "DROP TABLE", "DROP MATERIALIZED VIEW", "ALTER TABLE", "CREATE INDEX", "REINDEX"]
    + ["CLUSTER", "VACUUM", "REFRESH MATERIALIZED VIEW"]
)
"""What is about all rows of the tables that it names."""

_SETS: Final = frozenset(
    words(
        """
        generate_series generate_subscripts json_array_elements json_array_elements_text json_each
        json_each_text json_object_keys json_populate_recordset json_to_recordset
        jsonb_array_elements jsonb_array_elements_text jsonb_each jsonb_each_text jsonb_object_keys
        jsonb_path_query jsonb_populate_recordset jsonb_to_recordset pg_get_keywords
        regexp_matches regexp_split_to_table string_to_table unnest
        """
    )
)
"""Functions that make several rows of one of VALUES."""

_MAX_FETCHED: Final = 2**31
"""FETCH ALL asks for more."""

_WRITING: Final = frozenset(
    words(
        """
        location stmt_location stmt_len list_start list_end rexpr_list_start rexpr_list_end
        funcformat
        """
    )
)
"""What of a tree is how it was written, and not what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What to ask about a statement.

    `query` is a read that has its rows, with the statement's own parameters, of which it uses
    those of `parameters` (from 1); or `count` is known without asking. `tables` are those, as
    written, whose size says what the number means: for `is_whole` their rows are the statement's.
    `why` says why there is nothing to ask.
    """

    query: str = ""
    parameters: tuple[int, ...] = ()
    count: int | None = None
    tables: tuple[str, ...] = ()
    is_whole: bool = False
    why: str = ""


class _NoQuestion(Exception):
    """There is nothing to ask, and why."""


def rows(text: str) -> Rows:
    """Return what a planner can be asked about `text`, one statement.

    >>> rows("DELETE FROM orders o WHERE o.total > $1").query
    'SELECT FROM orders AS o WHERE o.total > $1'
    """
    told = sql.classify(text)
    if told.cls == "unknown" or len(text) > MAX_CHARACTERS:
        return Rows(why=_UNSURE)
    named = told.writes or told.reads
    tables = named[:MAX_TABLES]
    try:
        parsed = libpg_query.parse_sql_json(text)
        tree = orjson.loads(parsed)
        if told.operation in _WHOLE or (told.operation == "COPY" and _is_copied_whole(tree)):
            _refuse_half(named, parsed)
            return Rows(tables=tables, is_whole=True)
        if "writes in with" in told.risk:
            raise _NoQuestion("a query of its WITH writes")
        query = _query(_statement(tree, text))
        if isinstance(query, int):
            return Rows(tables=tables, count=query)
        written = _written(query)
        numbers = _parameters(orjson.loads(libpg_query.parse_sql_json(written)))
    except _NoQuestion as reason:
        return Rows(tables=tables, why=str(reason))
    except Exception:  # Its printers raise what they like about trees that they do not know.
        return Rows(tables=tables, why="its text cannot be written anew")
    if sql.classify(written).cls != "read":
        return Rows(tables=tables, why=_UNSURE)
    return Rows(query=written, parameters=numbers, tables=tables)


def _refuse_half(named: tuple[str, ...], parsed: str) -> None:
    """Refuse what is about more than the tables that are asked about."""
    if not named:
        raise _NoQuestion("it names no table")
    if len(named) > MAX_TABLES:
        raise _NoQuestion(f"of {len(named)} tables")
    if "DROP_CASCADE" in parsed:
        raise _NoQuestion("what depends on its tables goes as well (CASCADE)")


def _is_copied_whole(tree: Any) -> bool:
    body = tree["stmts"][0]["stmt"].get("CopyStmt", {})
    return "relation" in body and not body.get("is_from")


def _written(query: ast.Node) -> str:
    """Return the text of a query, if it says what the tree does."""
    written = str(RawStream()(query))
    (again,) = pglast.parse_sql(written)
    if _meaning(again.stmt) != _meaning(query):
        raise _NoQuestion("its text cannot be written anew")
    return written


def _meaning(node: Any) -> Any:
    return _pruned(node(skip_none=True))


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(part) for name, part in value.items() if name not in _WRITING}
    if isinstance(value, list | tuple):
        return [_pruned(part) for part in value]
    return value


def _statement(tree: Any, text: str) -> Any:
    """Return the tree of a statement that is alone, if it is not too deep."""
    if len(tree.get("stmts", ())) != 1:
        raise _NoQuestion("it has no plan")
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for node in level
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
        if not level:
            (statement,) = pglast.parse_sql(text)
            return statement.stmt
    raise RecursionError


def _query(statement: Any) -> Any:
    """Return a query for the rows of a statement, or how many there are."""
    while isinstance(
        statement,
        ast.ExplainStmt | ast.DeclareCursorStmt | ast.CreateTableAsStmt | ast.CopyStmt,
    ):
        statement = statement.query
    if isinstance(statement, ast.SelectStmt):
        return _read(statement)
    if isinstance(statement, ast.InsertStmt):
        return _inserted(statement)
    if isinstance(statement, ast.VariableShowStmt) and statement.name != "all":
        return 1
    if isinstance(statement, ast.FetchStmt):
        fetched = abs(statement.howMany or 0)
        if fetched <= _MAX_FETCHED:
            return 0 if statement.ismove else fetched
    if isinstance(statement, ast.MergeStmt):
        return _select(statement, (_merged(statement),))
    if not isinstance(statement, ast.DeleteStmt | ast.UpdateStmt):
        raise _NoQuestion("it has no plan")
    if isinstance(statement.whereClause, ast.CurrentOfExpr):
        return 1
    is_delete = isinstance(statement, ast.DeleteStmt)
    others: Any = getattr(statement, "usingClause" if is_delete else "fromClause")
    query = _select(statement, (statement.relation, *(others or ())))
    query.whereClause = statement.whereClause
    return query


def _select(statement: Any, tables: tuple[Any, ...]) -> Any:
    """Return a SELECT from the table that a statement writes, and others."""
    target, names = statement.relation, statement.withClause
    ctes = () if names is None or target.schemaname is not None else names.ctes
    if any(each.ctename == target.relname for each in ctes):
        # What is written to is a table, whatever a query of the WITH is called; and here not.
        raise _NoQuestion("a query of its WITH has its table's name")
    query = _template("SELECT")
    query.fromClause = tables
    query.withClause = names
    return query


def _merged(statement: Any) -> Any:
    """Return the join whose rows a MERGE is about."""
    kinds = {clause.matchKind for clause in statement.mergeWhenClauses or ()}
    takes_source = enums.MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_TARGET in kinds
    takes_target = enums.MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_SOURCE in kinds
    joins = {
        (False, False): enums.JoinType.JOIN_INNER,
        (False, True): enums.JoinType.JOIN_LEFT,
        (True, False): enums.JoinType.JOIN_RIGHT,
        (True, True): enums.JoinType.JOIN_FULL,
    }
    joined = _template("SELECT FROM a JOIN b ON true").fromClause[0]
    joined.jointype = joins[takes_source, takes_target]
    joined.larg = statement.relation
    joined.rarg = statement.sourceRelation
    joined.quals = statement.joinCondition
    return joined


def _template(text: str) -> Any:
    """Return a tree with all that a tree has where its text says nothing."""
    (parsed,) = pglast.parse_sql(text)
    return parsed.stmt


def _inserted(statement: Any) -> ast.Node | int:
    values = statement.selectStmt
    if values is None:
        return 1
    if values.valuesLists:
        # DEFAULT means nothing outside of an INSERT, so they are counted.
        if any(_SETS & set(_names(each)) for each in values.valuesLists):
            raise _NoQuestion("a row of its VALUES may become many")
        return len(values.valuesLists)
    if statement.withClause is not None and values.withClause is not None:
        raise _NoQuestion("it has two WITH")
    values.withClause = values.withClause or statement.withClause
    return _read(values)


def _names(values: Any) -> list[str]:
    """Return the names of the functions that some values call."""
    found: list[str] = []
    stack = [part(skip_none=True) for part in values]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if node.get("@") == "FuncCall":
                found.append(node["funcname"][-1]["sval"])
            stack += node.values()
        elif isinstance(node, list | tuple):
            stack += node
    return found


def _read(select: ast.SelectStmt) -> ast.Node:
    # Both want rights that a reader has not.
    select.intoClause = None
    select.lockingClause = None
    return select


def _parameters(tree: Any) -> tuple[int, ...]:
    """Return the numbers of the parameters that a tree uses."""
    found: set[int] = set()
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "ParamRef" in node:
                found.add(node["ParamRef"].get("number", 0))
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return tuple(sorted(found))
