"""What a statement may change of what a catalogue says.

What is said is doubt: a definition is not read for what it makes, only for the names that it may
touch, and what may touch anything puts everything in doubt. A call of what is not harmless does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk import sql
from agentaudit.risk.catalogue import Catalogue
from agentaudit.risk.doubt import EVERYTHING, NO_DOUBT, Doubt
from agentaudit.risk.known import KEEPING, QUERIES, SILENT, Known
from agentaudit.risk.tree import Node, words


def changes(
    text: str, *, run: Iterable[str] | None = None, catalogue: Catalogue | None = None
) -> Doubt:
    """Return what of a catalogue may be otherwise once `text` has run.

    `run` are the texts that an EXECUTE or a FETCH in it may run, None if nobody knows. With a
    `catalogue`, calls of functions that shadow PostgreSQL's own are known for what they are.
    """
    try:
        if sql._is_unreadable(text):
            return EVERYTHING
        found = NO_DOUBT
        for each in orjson.loads(libpg_query.parse_sql_json(text)).get("stmts", ()):
            found |= _changes_of(each["stmt"], run, catalogue)
            if found.everything:
                return EVERYTHING
        return found
    except Exception:
        return EVERYTHING


def _changes_of(statement: Node, run: Iterable[str] | None, catalogue: Catalogue | None) -> Doubt:
    ((kind, body),) = statement.items()
    if kind in ("DoStmt", "CallStmt") or body.get("kind") == "TRANS_STMT_COMMIT_PREPARED":
        return EVERYTHING  # what was prepared, another session may have said
    if kind in ("ExecuteStmt", "FetchStmt"):
        if run is None:
            return EVERYTHING
        found = NO_DOUBT
        for each in run:
            found |= changes(each, run=(), catalogue=catalogue)
        return found
    known = Known(catalogue or _NOTHING, None, NO_DOUBT)
    inside = _inside(statement, known, run, catalogue)
    if kind in QUERIES or kind in SILENT or kind in _HARMLESS_KINDS or inside.everything:
        return inside
    if kind in ("ExplainStmt", "DeclareCursorStmt", "PrepareStmt", "CopyStmt"):
        return inside
    return inside | _defined(kind, body)


_NOTHING: Final = Catalogue(())


def _inside(
    statement: Node, known: Known, run: Iterable[str] | None, catalogue: Catalogue | None
) -> Doubt:
    """Return what the calls inside a statement, and its INTO, may change."""
    names: set[str] = set()
    settings = False
    stack: list[Any] = [statement]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += node
            continue
        for key, value in node.items():
            if type(value) is list:
                stack += value
                continue
            if type(value) is not dict:
                continue
            if key == "FuncCall":
                if not known.is_harmless_function(value):
                    return EVERYTHING
                if value["funcname"][-1]["String"]["sval"] in KEEPING:
                    settings = settings or not all(
                        "A_Const" in each or "TypeCast" in each for each in value.get("args", ())
                    )
            elif key == "A_Expr":
                if not known.is_harmless_operator(value["name"]):
                    return EVERYTHING
            elif key in ("intoClause", "into"):
                names.add(value["rel"]["relname"])
            elif key in ("ExecuteStmt", "CallStmt", "DoStmt") and value is not statement.get(key):
                return EVERYTHING if run is None else _changes_of({key: value}, run, catalogue)
            stack.append(value)
    return Doubt(names=frozenset(names), settings=settings) if names or settings else NO_DOUBT


def _defined(kind: str, body: Node) -> Doubt:
    """Return what a definition names."""
    # What goes with it is not named, and what had its name is found elsewhere from then on.
    if kind in _SWEEPING or body.get("behavior") == "DROP_CASCADE":
        return EVERYTHING
    if kind == "CreateSchemaStmt":
        names = frozenset(_strings({"of": body.get("schemaElts", [])}))
        return Doubt(names=names) if names else NO_DOUBT
    relations: set[str] = set()
    functions: set[str] = set()
    operators: set[str] = set()
    what = body.get("removeType") or body.get("renameType") or body.get("objectType") or ""
    if kind == "DefineStmt":
        what = body.get("kind", "")
    if kind in ("CreateFunctionStmt", "AlterFunctionStmt") or what in _ROUTINES:
        functions |= set(_strings(body))
    elif what == "OBJECT_OPERATOR" or kind == "AlterOperatorStmt":
        operators |= set(_strings(body))
    elif what in ("OBJECT_SCHEMA", "OBJECT_EXTENSION", "OBJECT_CAST", "OBJECT_DATABASE"):
        return EVERYTHING
    else:
        relations |= set(_strings(body))
    return Doubt(
        names=frozenset(relations), functions=frozenset(functions), operators=frozenset(operators)
    )


def _strings(body: Node) -> Iterator[str]:
    """Yield all parts of names in a definition, its constants aside."""
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += node
            continue
        for key, value in node.items():
            if type(value) is str:
                if key in ("relname", "newname", "sval", "typename", "subname"):
                    yield value
            elif type(value) is list:
                if key not in ("options", "objargs", "objfuncargs", "definition", "vals"):
                    stack.append(value)
            elif type(value) is dict and key not in _NOT_NAMES:
                stack.append(value)


_NOT_NAMES: Final = frozenset({"A_Const", "SelectStmt", "typeName", "argType", "returnType"})

_ROUTINES: Final = frozenset(
    {"OBJECT_FUNCTION", "OBJECT_AGGREGATE", "OBJECT_PROCEDURE", "OBJECT_ROUTINE"}
)

_SWEEPING: Final = frozenset(
    words(
        """
        AlterDatabaseStmt AlterExtensionContentsStmt AlterExtensionStmt CreateCastStmt
        CreateExtensionStmt DropOwnedStmt ImportForeignSchemaStmt LoadStmt
        AlterTableMoveAllStmt CreateTransformStmt CreateConversionStmt CreateOpClassStmt
        CreateEventTrigStmt AlterEventTrigStmt
        """
    )
)

# What changes no definition.
_HARMLESS_KINDS: Final = frozenset(
    words(
        """
        TransactionStmt VariableShowStmt ConstraintsSetStmt TruncateStmt VacuumStmt ClusterStmt
        ReindexStmt RefreshMatViewStmt CommentStmt GrantStmt GrantRoleStmt CreateRoleStmt
        AlterRoleStmt DropRoleStmt CreateStatsStmt AlterStatsStmt AlterSystemStmt
        CreateTableSpaceStmt DropTableSpaceStmt ReplicaIdentityStmt SecLabelStmt
        AlterDefaultPrivilegesStmt IndexStmt
        """
    )
)
