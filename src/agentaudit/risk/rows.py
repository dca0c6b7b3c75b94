"""How many rows a statement is about, as a question that a planner can answer.

Planning a DELETE wants the right to delete. Who asks here may only read, so the question is a
SELECT of the rows that would go, written anew from the statement's tree; and of what has no plan
(TRUNCATE, DROP) it is the tables whose rows all are at stake. The answer is for people and decides
nothing.

A planner runs functions that call themselves immutable, with the rights of who asks. So nothing is
asked about a text that may call what is not PostgreSQL's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
import pglast
from pglast import ast
from pglast import parser as libpg_query
from pglast.stream import RawStream

from agentaudit.risk import sql
from agentaudit.risk.tree import Node

MAX_CHARACTERS: Final = 16 * 1024
MAX_DEPTH: Final = 300
"""Of the tree: pglast makes its objects, and writes them, by recursion."""

MAX_TABLES: Final = 8

_WHOLE: Final = frozenset(
    ["TRUNCATE", "DROP TABLE", "DROP MATERIALIZED VIEW", "ALTER TABLE", "CREATE INDEX", "REINDEX"]
    + ["CLUSTER", "VACUUM", "REFRESH MATERIALIZED VIEW"]
)
"""What is about all rows of the tables that it names."""


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


def rows(text: str) -> Rows:
    """Return what a planner can be asked about `text`, one statement.

    >>> rows("DELETE FROM orders o WHERE o.total > $1").query
    'SELECT FROM orders AS o WHERE o.total > $1'
    """
    told = sql.classify(text)
    if told.cls == "unknown" or len(text) > MAX_CHARACTERS:
        return Rows(why="it may do more than its text says")
    tables = (told.writes or told.reads)[:MAX_TABLES]
    if told.operation in _WHOLE:
        return Rows(tables=tables, is_whole=True)
    if "writes in with" in told.risk:
        return Rows(tables=tables, why="a query of its WITH writes")
    try:
        statement = _statement(text)
        query = None if statement is None else _query(statement)
        if isinstance(query, int):
            return Rows(tables=tables, count=query)
        if query is None:
            if told.operation == "COPY" and told.reads:
                return Rows(tables=tables, is_whole=True)
            return Rows(tables=tables, why="it has no plan")
        written = RawStream()(query)
        numbers = _parameters(orjson.loads(libpg_query.parse_sql_json(written)))
    except (libpg_query.ParseError, ValueError, RecursionError, NotImplementedError):
        return Rows(tables=tables, why="its text cannot be written anew")
    if sql.classify(written).cls != "read":
        return Rows(tables=tables, why="it may do more than its text says")
    return Rows(query=written, parameters=numbers, tables=tables)


def _statement(text: str) -> ast.Node | None:
    """Return the tree of a statement that is alone, if it is not too deep."""
    tree = orjson.loads(libpg_query.parse_sql_json(text))
    if len(tree.get("stmts", ())) != 1:
        return None
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


def _query(statement: Any) -> ast.Node | int | None:
    """Return a query for the rows of a statement, or how many there are; None without a plan."""
    while isinstance(
        statement,
        ast.ExplainStmt | ast.DeclareCursorStmt | ast.CreateTableAsStmt | ast.CopyStmt,
    ):
        statement = statement.query
    if isinstance(statement, ast.DeleteStmt | ast.UpdateStmt):
        if isinstance(statement.whereClause, ast.CurrentOfExpr):
            return 1
        if isinstance(statement, ast.DeleteStmt):
            others = statement.usingClause
        else:
            others = statement.fromClause
        return _select(
            statement, (statement.relation, *(others or ())), whereClause=statement.whereClause
        )
    if isinstance(statement, ast.MergeStmt):
        joined = ast.JoinExpr(
            jointype=0,
            larg=statement.relation,
            rarg=statement.sourceRelation,
            quals=statement.joinCondition,
        )
        return _select(statement, (joined,))
    if isinstance(statement, ast.InsertStmt):
        values: Any = statement.selectStmt
        if values is None:
            return 1
        if values.valuesLists:
            return len(values.valuesLists)  # DEFAULT means nothing outside of an INSERT
        if statement.withClause is not None and values.withClause is not None:
            return None
        values.withClause = values.withClause or statement.withClause
        return _read(values)
    if isinstance(statement, ast.SelectStmt):
        return _read(statement)
    return None


def _select(statement: Any, tables: tuple[Any, ...], **clauses: Any) -> ast.Node:
    return ast.SelectStmt(fromClause=tables, withClause=statement.withClause, **clauses)


def _read(select: ast.SelectStmt) -> ast.Node:
    # Both want rights that a reader has not.
    select.intoClause = None
    select.lockingClause = None
    return select


def _parameters(tree: Node) -> tuple[int, ...]:
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
