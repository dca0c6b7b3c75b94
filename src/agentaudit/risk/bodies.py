"""The code of a DO or a function, as the SQL that it consists of.

Read are LANGUAGE sql and plpgsql, by PostgreSQL's own parsers; what a text computed at run time
would do, nobody can tell. Code is in code too, so whoever looks into it keeps a `Budget`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk.tree import Node, options

MAX_DEPTH: Final = 4
"""Of code in code in code; what is deeper is not read."""

MAX_BYTES: Final = 64 * 1024
"""Of all code in one text: plpgsql's parser takes a time that grows as the square of it."""

MAX_STATEMENTS: Final = 1000


@dataclass(slots=True)
class Code:
    """What code consists of: `texts` of SQL, and findings about all of it."""

    texts: list[str] = field(default_factory=list)
    findings: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Budget:
    """How much code one text may have; `is_over` once it had more."""

    bytes: int = MAX_BYTES
    statements: int = MAX_STATEMENTS
    is_over: bool = False

    def takes(self, text: str, depth: int, statements: int = 0) -> bool:
        """Return whether there is room, and take it."""
        self.bytes -= len(text)
        self.statements -= statements
        if self.bytes < 0 or self.statements < 0 or depth > MAX_DEPTH:
            self.is_over = True
        return not self.is_over


def is_code(statement: Node) -> bool:
    """Whether a statement has code that is a text."""
    if "DoStmt" in statement:
        return True
    return "sql_body" not in statement.get("CreateFunctionStmt", {"sql_body": None})


def read(statement: Node, text: str, depth: int, budget: Budget) -> Code:
    """Return what the code of a DO or a CREATE FUNCTION is; `text` is the statement's own."""
    ((kind, body),) = statement.items()
    named = dict(options(body, "args" if kind == "DoStmt" else "options"))
    language = _text(named.get("language")).lower() or ("plpgsql" if kind == "DoStmt" else "sql")
    code = Code()
    if not budget.takes(text, depth):
        code.findings["body not read"] = None
    elif language == "sql":
        code.texts.append(_text(named.get("as")))
    elif language == "plpgsql":
        try:
            parsed = orjson.loads(libpg_query.parse_plpgsql_json(text))
        except (libpg_query.ParseError, UnicodeError, ValueError):
            code.findings["body not read"] = None
        else:
            _read_plpgsql(parsed, code)
            if not budget.takes("", depth, len(code.texts)):
                code.texts.clear()
                code.findings["body not read"] = None
    else:
        code.findings["body not read"] = None
    return code


def _text(node: Any) -> str:
    """Return what an option says, which is a string or a list of one."""
    items = (node or {}).get("List", {}).get("items", [node or {}])
    value: str = items[0].get("String", {}).get("sval", "")
    return value


def _read_plpgsql(parsed: list[Node], code: Code) -> None:
    stack: list[Any] = list(reversed(parsed))
    while stack:
        node = stack.pop()
        for key, value in node.items():
            if key in _DYNAMIC:
                code.findings["dynamic sql"] = None
            elif key in ("PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"):
                code.findings["ends transaction"] = None
            if key == "PLpgSQL_expr":
                code.texts.append(_as_statement(value))
            elif type(value) is dict:
                stack.append(value)
            elif type(value) is list:
                stack += [each for each in reversed(value) if type(each) is dict]


_DYNAMIC: Final = frozenset(["PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors", "dynquery"])

_ASSIGNED: Final = re.compile(r"[^:=(\[]*(?:\[[^\]]*\][^:=(\[]*)*:?=(.*)", re.DOTALL)


def _as_statement(expression: Node) -> str:
    """Return the statement that an expression of plpgsql is run as.

    Modes: RawParseMode, src/include/parser/parser.h.
    """
    query: str = expression.get("query", "")
    mode = expression.get("parseMode", 0)
    if mode == 0:
        return query
    if mode >= 3:
        assigned = _ASSIGNED.fullmatch(query)
        query = assigned[1] if assigned else ""
    return f"SELECT {query}"


def statements(texts: list[str]) -> Iterator[tuple[Node, str] | None]:
    """Yield the statements of SQL texts, each with its own text; None for a text that is none."""
    for text in texts:
        try:
            tree = orjson.loads(libpg_query.parse_sql_json(text))
        except (libpg_query.ParseError, UnicodeError, ValueError):
            yield None
            continue
        yield from with_texts(tree, text)


def with_texts(tree: Node, text: str) -> Iterator[tuple[Node, str]]:
    """Yield the statements of a parsed text, each with its own part of it."""
    raw = text.encode()
    for each in tree.get("stmts", ()):
        begin = each.get("stmt_location", 0)
        length = each.get("stmt_len", 0)
        own = raw[begin : begin + length] if length else raw[begin:]
        yield each["stmt"], own.decode("utf-8", "replace")
