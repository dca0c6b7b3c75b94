"""What an SQL statement does, by PostgreSQL's own grammar (libpg_query through pglast).

The surprising decision is how much is `unknown`: what does not parse, what is over 1 MiB, and
whatever calls a function, an operator or a cast that is not on the lists below, for it may write.
A class is never guessed downward; `confidence` is `certain` only where the grammar alone decides.
A plain read stays `uncertain` as soon as it names a relation, a function or an operator: a view, a
type, a cast or an index may hide a call, `t.f` may be one, and `search_path` may lead a name
elsewhere.

The text is read as under `standard_conforming_strings = on`; whoever knows better takes `UNKNOWN`.

Grammar: PostgreSQL 18, `src/backend/parser/gram.y`. Lists: `pg_proc` and `pg_operator`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import orjson
import pglast
from pglast import parser as libpg_query

from agentaudit import _native
from agentaudit.risk import bodies, findings, names
from agentaudit.risk.names import Ctes, Scope
from agentaudit.risk.tree import Node, constant, dotted, options, part, relation, words
from agentaudit.risk.truth import Condition

MAX_PARSED_BYTES: Final = 1024 * 1024
"""A longer text is not parsed, and unknown."""

_CACHED_CHARACTERS: Final = 8 * 1024

PARSER: Final = f"pglast {pglast.__version__.removeprefix('v')}"

CLASSES: Final = ("session", "read", "write", "schema", "admin", "unknown")
"""From harmless to whatever it may be; what does several things is of the last of them."""

_RANK: Final = {name: rank for rank, name in enumerate(CLASSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a text does; field names are those of a command.

    `resources` are the relations that it names, as written; `fingerprint` is libpg_query's, which
    groups statements that differ in constants, and must never decide anything. `cursor` is the one
    that a FETCH or MOVE runs further: what that does is said by who knows what it stands for.

    `risk` is what its operation does not say: `contains DELETE` of a statement inside it,
    `calls setval` of a function of a known class that changes what is no resource of it, and the
    findings of `findings.FINDINGS`, which decide nothing.

    `reads` and `writes` are the relations whose rows it reads, and whose rows, definition or
    rights it changes, as written; what a text that it runs or stores would, counts too. `columns`
    are those that it names, with their table as written where the text says whose they are, and
    `orders.*` for all of one's.
    """

    operation: str
    cls: str
    resources: tuple[str, ...] = ()
    fingerprint: str = ""
    confidence: str = "uncertain"
    parser: str = PARSER
    cursor: str | None = None
    risk: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    hangs_on_numbers: bool = field(default=False, repr=False, compare=False)
    """Whether another text that differs in plain numbers alone may have another risk."""


UNKNOWN: Final = Statement(operation="", cls="unknown")
"""What cannot be read."""


def classify(text: str) -> Statement:
    """Return what `text` does; of several, the first one's operation and the worst class.

    >>> deleted = classify("DELETE FROM orders")
    >>> deleted.operation, deleted.cls, deleted.resources
    ('DELETE', 'write', ('orders',))
    """
    if len(text) > _CACHED_CHARACTERS:
        return _classify(text)
    # Plain numbers change no class: one that counts through a table is parsed once. But one row
    # is found by `1 = 2`, and all are by `1 = 1`.
    known = _classify_cached(_native.without_numbers(text))
    return _classify_cached(text) if known.hangs_on_numbers else known


def fetch(text: str, run: Iterable[str] | None) -> Statement:
    """Return what the FETCH or MOVE `text` does, whose cursor may stand for any of the texts `run`.

    None says that nobody knows for what it stands.

    >>> fetch("FETCH ALL FROM c", ["DELETE FROM orders RETURNING id"]).cls
    'write'
    """
    fetched = classify(text)
    statements = [fetched, *([UNKNOWN] if run is None else map(classify, run))]
    return replace(
        fetched,
        cls=max((statement.cls for statement in statements), key=_RANK.__getitem__),
        resources=_merged(each.resources for each in statements),
        risk=_merged(
            (*each.risk, f"contains {each.operation}") for each in statements if each is not fetched
        ),
        reads=_merged(each.reads for each in statements),
        writes=_merged(each.writes for each in statements),
        columns=_merged(each.columns for each in statements),
    )


def _merged(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def split(text: str) -> tuple[str, ...]:
    """Return the statements of a simple query, without their semicolons.

    A text that does not parse, is empty or over 1 MiB comes back as it is, alone: the server will
    answer it as one.

    >>> split("begin; delete from t")
    ('begin', 'delete from t')
    """
    if ";" not in text.rstrip("; \t\r\n"):
        return (text,)
    return _split_cached(text) if len(text) <= _CACHED_CHARACTERS else _split(text)


def script(text: str) -> tuple[str, ...]:
    """Return the statements of a script, with the comments before each, whether they parse or not.

    >>> script("-- first\\nselect 1; no sql; -- nothing more")
    ('-- first\\nselect 1', 'no sql')
    """
    try:
        ends = _ends(text)
    except (libpg_query.ParseError, UnicodeError):
        return (text,)
    begins = [0, *ends]
    return tuple(text[b:e].strip("; \t\r\n") for b, e in zip(begins, ends, strict=False))


def _ends(text: str) -> list[int]:
    """Return where each statement of `text` ends."""
    with contextlib.suppress(libpg_query.ParseError):
        return [each.stop for each in libpg_query.split(text, only_slices=True)]
    # One of them is none: semicolons it is, but for those in strings and comments.
    ends: list[int] = []
    end = 0
    for token in libpg_query.scan(text):
        if token.name == "ASCII_59":
            ends += [end] if end else []
            end = 0
        elif not token.name.endswith("_COMMENT"):
            end = token.end + 1
    return [*ends, end] if end else ends


def _split(text: str) -> tuple[str, ...]:
    if _is_unreadable(text):
        return (text,)
    try:
        return tuple(libpg_query.split(text)) or (text,)
    except (libpg_query.ParseError, UnicodeError):
        return (text,)


_split_cached: Final = lru_cache(maxsize=1024)(_split)


def _is_unreadable(text: str) -> bool:
    # Bytes that say nothing in the client's encoding all became U+FFFD, and may differ: a string
    # that `$\x80$` begins ends at that, and not at `$\x81$`.
    return "\0" in text or "\ufffd" in text or _is_too_long(text)


def _is_too_long(text: str) -> bool:
    if len(text) * 4 <= MAX_PARSED_BYTES:
        return False  # a character is four bytes at most
    return len(text) > MAX_PARSED_BYTES or len(text.encode("utf-8", "replace")) > MAX_PARSED_BYTES


def _classify(text: str) -> Statement:
    if _is_unreadable(text):
        return UNKNOWN
    try:
        tree = orjson.loads(libpg_query.parse_sql_json(text))
        fingerprint = libpg_query.fingerprint(text)
    except (libpg_query.ParseError, UnicodeError, ValueError):
        return UNKNOWN
    statements = [each["stmt"] for each in tree.get("stmts", ()) if each]
    if not statements:
        # Nothing but comments: the server answers with EmptyQueryResponse.
        return Statement(operation="", cls="session", confidence="certain")
    parts = [_judge(statement) for statement in statements]
    if any(map(bodies.is_code, statements)):
        budget = bodies.Budget()
        own = bodies.with_texts(tree, text)
        for part, (statement, its_text) in zip(parts, own, strict=True):
            _look_into(statement, its_text, part, budget)
    whole, *others = parts
    for other in others:
        whole.add_next(other)
    if others:
        whole.findings["several statements"] = None
        if any(part.operation in _ENDS for part in parts):
            whole.findings["ends transaction"] = None
    if any(
        findings.has_no_limit(each["SelectStmt"]) for each in statements if "SelectStmt" in each
    ):
        whole.findings["no limit"] = None
    return Statement(
        operation=whole.operation,
        cls=whole.cls,
        resources=tuple(whole.resources),
        fingerprint=fingerprint,
        confidence="certain" if whole.is_certain else "uncertain",
        cursor=_cursor(statements),
        risk=(*whole.risk, *(f"contains {other.operation}" for other in others), *whole.findings),
        reads=tuple(whole.reads),
        writes=tuple(whole.writes),
        columns=tuple(whole.columns),
        hangs_on_numbers=whole.hangs_on_numbers,
    )


_ENDS: Final = frozenset(["COMMIT", "ROLLBACK", "PREPARE TRANSACTION"])


def _look_into(statement: Node, text: str, judgement: _Judgement, budget: bodies.Budget) -> None:
    """Add what the code of a DO or a function would do; its class is never told by that."""
    stack = [(statement, text, 1)]
    while stack:
        outer, its_text, depth = stack.pop()
        if not bodies.is_code(outer):
            continue
        code = bodies.read(outer, its_text, depth, budget)
        judgement.findings.update(code.findings)
        for each in bodies.statements(code.texts):
            if each is None or not budget.takes("", depth, 1):
                judgement.findings["body not read"] = None
                continue
            inner = _judge(each[0], names.CODE)
            judgement.add_code(inner)
            stack.append((*each, depth + 1))
    if budget.is_over:
        judgement.raise_to_unknown()


def _cursor(statements: Sequence[Node]) -> str | None:
    """Return the cursor of a FETCH or MOVE that is alone."""
    if len(statements) != 1:
        return None
    cursor: str | None = statements[0].get("FetchStmt", {}).get("portalname")
    return cursor


_classify_cached: Final = lru_cache(maxsize=4096)(_classify)


# One statement.


@dataclass(slots=True)
class _Judgement:
    operation: str
    cls: str
    resources: names.Names = field(default_factory=dict)
    risk: names.Names = field(default_factory=dict)
    findings: names.Names = field(default_factory=dict)
    reads: names.Names = field(default_factory=dict)
    writes: names.Names = field(default_factory=dict)
    columns: names.Names = field(default_factory=dict)
    is_certain: bool = True
    hangs_on_numbers: bool = False
    has_own_types: bool = False
    """Whether it names a type that is none of PostgreSQL's."""

    def raise_to(self, cls: str) -> None:
        if _RANK[cls] > _RANK[self.cls]:
            self.cls = cls

    def note_operation(self, operation: str) -> None:
        if operation not in (self.operation, "SELECT"):
            self.risk[f"contains {operation}"] = None

    def raise_to_unknown(self) -> None:
        self.cls = "unknown"
        self.is_certain = False

    def note_condition(self, condition: Node | None) -> None:
        if condition is None:
            self.findings["no where"] = None
            return
        known = Condition(condition)
        self.hangs_on_numbers |= known.hangs_on_numbers
        if known.is_always_true:
            self.findings["where always true"] = None

    def note_call(self, function: Sequence[str], call: Node, *, is_unknown: bool) -> None:
        self.findings.update(dict.fromkeys(findings.of_function(function, call)))
        if is_unknown and len(self.findings) < _MAX_FINDINGS:
            self.findings[f"unknown function {'.'.join(map(part, function))}"] = None

    def add_next(self, other: _Judgement) -> None:
        """Add what the next statement of the same text is; the operation stays the first's."""
        self.raise_to(other.cls)
        self.is_certain &= other.is_certain
        self.hangs_on_numbers |= other.hangs_on_numbers
        self.resources.update(other.resources)
        self.risk.update(other.risk)
        self.findings.update(other.findings)
        self._add_names(other)

    def _add_names(self, other: _Judgement) -> None:
        self.reads.update(other.reads)
        self.writes.update(other.writes)
        self.columns.update(other.columns)

    def add_code(self, inner: _Judgement) -> None:
        """Add what a statement of its code is: not its class, and nothing that rules read."""
        if inner.operation != "SELECT":
            self.findings[f"body contains {inner.operation}"] = None
        self.findings.update(dict.fromkeys(f"body {each}" for each in inner.risk))
        self.findings.update(inner.findings)
        self.hangs_on_numbers |= inner.hangs_on_numbers
        self._add_names(inner)


_MAX_FINDINGS: Final = 64
"""After so many no further function is named: a text picks how many it calls."""


def _judge(statement: Node, around: Scope | None = None) -> _Judgement:
    ((kind, body),) = statement.items()
    operation, cls = _kind(kind, body)
    judgement = _Judgement(operation, cls)
    scope = Scope(outer=around, does=_does(kind, body))
    if cls == "unknown" or kind == "FetchStmt":
        judgement.is_certain = False
    if kind in _NOT_RUN:
        # What it holds is stored, not run; only what it names is of interest. But a constant is
        # read as its type at once: a row's or an array's input runs the CHECK of a domain in it.
        inner = _Judgement(operation, "session")
        _walk(statement, inner, scope)
        if inner.has_own_types:
            inner.cls, inner.is_certain = "unknown", False
        else:
            # As it is of a column that a constant is compared with.
            is_certain = kind != "PrepareStmt" or not inner.resources
            inner.cls, inner.is_certain = cls, judgement.is_certain and is_certain
        return inner
    if kind == "ConstraintsSetStmt":
        return judgement  # a constraint is named like a relation, and is none
    _walk(statement, judgement, scope)
    named = dict.fromkeys(filter(None, _named_objects(kind, body)))
    judgement.resources.update(named)
    judgement.writes.update(named)
    if kind == "CopyStmt":
        names.note_copied(body, judgement.columns)
    elif kind == "ExplainStmt":
        _judge_explained(body, judgement)
    return judgement


def _does(kind: str, body: Node) -> str:
    """Return what a statement does to the relations that it names outside of a query."""
    if kind == "LockStmt":
        return ""
    return "reads" if kind == "CopyStmt" and not body.get("is_from") else "writes"


def _judge_explained(body: Node, judgement: _Judgement) -> None:
    if _is_on(body, "analyze"):
        if judgement.cls in ("write", "schema", "admin") or judgement.writes:
            judgement.findings["explain analyzes write"] = None
        return
    # Planned, not run; but planning evaluates functions, so unknown stays unknown.
    judgement.cls = "unknown" if judgement.cls == "unknown" else "read"
    planned = (each for each in judgement.findings if each.startswith("unknown function "))
    judgement.findings = dict.fromkeys(planned)
    judgement.reads, judgement.writes, judgement.columns = {}, {}, {}


def _named_objects(kind: str, body: Node) -> Iterator[str]:
    """Yield the relations that a statement names otherwise than by a RangeVar."""
    if kind in ("DropStmt", "CommentStmt", "SecLabelStmt", "AlterExtensionContentsStmt"):
        of = _object(body.get("removeType") or body.get("objtype", ""))
        for node in body.get("objects", [body.get("object", {})]):
            name = dotted(node)
            if of in _PARTS_OF_RELATIONS:
                yield name.rpartition(".")[0]
            elif of in _RELATIONS:
                yield name
    elif kind in ("CreateSeqStmt", "AlterSeqStmt"):
        for option, value in options(body):
            if option == "owned_by":
                yield dotted(value).rpartition(".")[0]


def _kind(kind: str, body: Node) -> tuple[str, str]:
    """Return operation and class of a statement without what is inside it."""
    special = _SPECIAL.get(kind)
    return special(body) if special else _PLAIN.get(kind) or (_words(kind), "unknown")


def _walk(statement: Node, judgement: _Judgement, scope: Scope) -> None:
    """Let everything inside `statement` raise the judgement; collect names but not CTEs."""
    # A stack of our own: expressions nest as deep as the parser allows. What a node is, is said
    # where it is a query or what writes.
    stack: list[tuple[Node, Scope, str]] = [(statement, scope, "")]
    while stack:
        node, scope, kind = stack.pop()
        if "relpersistence" in node and isinstance(node.get("relname"), str):
            _note_relation(node, scope, judgement)
            continue
        if kind:
            ctes = scope.ctes
            if "withClause" in node:
                ctes = _push_ctes(node["withClause"], scope, stack, judgement)
            scope = names.enter(kind, node, scope, ctes, judgement.columns)
        inside = []
        for key, value in node.items():
            shape = type(value)
            if shape is not dict and shape is not list:
                continue
            its_scope, its_kind = scope, ""
            mark = _MARKS[key]
            if mark:
                if mark == "leaf" or (key == "name" and shape is list):
                    continue
                if mark == "place":
                    value, its_scope, its_kind = _place(key, value, node, scope, kind)
                _check(key, value, judgement)
            for each in (value,) if shape is dict else value:
                if "ColumnRef" in each:
                    names.note_column(each["ColumnRef"]["fields"], its_scope, judgement.columns)
                elif "A_Const" not in each:
                    inside.append((each, its_scope, its_kind))
        stack += reversed(inside)


def _check(key: str, value: Any, judgement: _Judgement) -> None:
    if key in _CHECKS:
        _CHECKS[key](value, judgement)
    elif key[-4:] == "Stmt" and key[0].isupper():  # `selectStmt` is a field
        operation, cls = _kind(key, value)
        judgement.raise_to(cls)
        judgement.note_operation(operation)
        if key in _CONDITIONS:
            judgement.note_condition(value.get(_CONDITIONS[key]))
    if key in findings.OF:
        judgement.findings.update(dict.fromkeys(findings.OF[key](value)))


_CONDITIONS: Final = {
    "DeleteStmt": "whereClause",
    "UpdateStmt": "whereClause",
    "MergeStmt": "joinCondition",
}


def _place(key: str, value: Any, node: Node, scope: Scope, kind: str) -> tuple[Any, Scope, str]:
    """Return what to look at in a part of `node`, what names stand for there, and what it is."""
    if key in _QUERIES:
        return value, scope, key
    if kind:
        if key == "relation":
            return value, _WRITES, ""  # what is written to is a table, whatever a CTE is called
        if key in ("larg", "rarg"):
            return value, scope, "SelectStmt"
        if key == "sortClause":
            # A name that the query gave wins over a column's.
            targets = (each["ResTarget"].get("name") for each in node.get("targetList", ()))
            given = frozenset(filter(None, targets))
            return value, Scope(scope.ctes, scope, scope.does, outputs=given), ""
        if key == "selectStmt":
            return value, scope.beside(), ""
    if key == "RangeSubselect" and not value.get("lateral"):
        return value, scope.beside(), ""
    if key == "tableElts":
        return [_untyped(element) for element in value], scope, ""
    if key in ("CompositeTypeStmt", "CreateDomainStmt"):
        return {of: it for of, it in value.items() if of not in _PARTS_OF_TYPES}, scope, ""
    if key in ("intoClause", "into"):
        return value, _WRITES, ""
    if key in ("pktable", "inhRelations", "TableLikeClause"):
        return value, _READS, ""
    return value, scope, ""


class _Marks(dict[str, str]):
    """How a part of a node is looked at, by its name: the grammar has some hundreds of them."""

    def __missing__(self, key: str) -> str:
        mark = ""
        if key in _LEAVES:
            mark = "leaf"
        elif key in _PLACES:
            mark = "place"
        elif key in _CHECKS or key in findings.OF or key.endswith("Stmt") or key == "name":
            mark = "other"
        self[key] = mark
        return mark


_MARKS: Final = _Marks()

# What has nothing in it but a constant, or parts of a name.
_LEAVES: Final = frozenset(
    words("A_Const ParamRef String withClause funcname names fields colnames alias")
)

_QUERIES: Final = frozenset({"SelectStmt"} | findings.WRITING)

# Where what is inside stands differently from what is around it.
_PLACES: Final = _QUERIES | frozenset(
    words(
        """
        relation larg rarg sortClause selectStmt RangeSubselect TableLikeClause tableElts
        CompositeTypeStmt CreateDomainStmt intoClause into pktable inhRelations
        """
    )
)

_WRITES: Final = Scope(does="writes")
_READS: Final = Scope(does="reads")


def _push_ctes(
    clause: Node, scope: Scope, stack: list[tuple[Node, Scope, str]], judgement: _Judgement
) -> Ctes:
    """Queue the queries of a WITH; return the names that the statement sees."""
    items = [item["CommonTableExpr"] for item in clause.get("ctes", ())]
    places: dict[str, int] = {}
    for place, item in enumerate(items):
        places.setdefault(item["ctename"], place)
    ctes = Ctes(places, scope.ctes)
    for place, item in enumerate(items):
        query = item["ctequery"]
        if not findings.WRITING.isdisjoint(query):
            judgement.findings["writes in with"] = None
        # `WITH t AS (SELECT … FROM t)`
        seen = ctes if clause.get("recursive") else ctes.first(place)
        stack.append((query, Scope(seen, scope.outer, scope.does, scope.tables), ""))
    return ctes


def _note_relation(node: Node, scope: Scope, judgement: _Judgement) -> None:
    schema = node.get("schemaname")
    if schema is None and node["relname"] in scope.ctes:
        return
    name = relation(node)
    judgement.resources[name] = None
    if scope.does == "reads":
        judgement.reads[name] = None
    elif scope.does:
        judgement.writes[name] = None
    if judgement.cls in ("read", "session") and schema not in ("pg_catalog", "information_schema"):
        judgement.is_certain = False


def _check_function(call: Node, judgement: _Judgement) -> None:
    of = [each["String"]["sval"] for each in call["funcname"]]
    name = of[-1]
    is_known = of[:-1] in ([], ["pg_catalog"])
    if not is_known or name not in _HARMLESS_FUNCTIONS:
        cls = _FUNCTION_CLASSES.get(name, "unknown") if is_known else "unknown"
        judgement.raise_to(cls)
        if cls in ("write", "admin"):
            judgement.risk[f"calls {name}"] = None
        judgement.note_call(of, call, is_unknown=cls == "unknown")
    if len(of) == 1 or judgement.cls == "unknown":
        judgement.is_certain = False


def _is_among(known: frozenset[str], name: Sequence[Node]) -> bool:
    """Whether a name is one of those of pg_catalog that are `known`."""
    *schema, last = [part["String"]["sval"] for part in name] or [""]
    return schema in ([], ["pg_catalog"]) and last in known


def _check_operator(name: Any, judgement: _Judgement) -> None:
    if not (len(name) == 1 and name[0]["String"]["sval"] in _OPERATORS) and not _is_among(
        _OPERATORS, name
    ):
        judgement.raise_to_unknown()
    elif len(name) == 1 and judgement.cls in ("read", "session"):
        judgement.is_certain = False


def _check_type(type_name: Any, judgement: _Judgement) -> None:
    if isinstance(type_name, list):
        return  # the type that a statement is about
    if not _is_among(_TYPES, type_name.get("names", ())):
        judgement.raise_to_unknown()
        judgement.has_own_types = True


def _check_definition(body: Node, judgement: _Judgement) -> None:
    # An aggregate's first state is read as its type when it is created.
    parts = dict(options(body, "definition"))
    for state, condition in (("stype", "initcond"), ("mstype", "minitcond")):
        if condition in parts and state in parts:
            _check_type(parts[state].get("TypeName", {}), judgement)


def _check_index(element: Node, judgement: _Judgement) -> None:
    name = element.get("opclass", ())
    if name and not _is_among(_OPERATOR_CLASSES, name):
        judgement.raise_to_unknown()


def _check_exclusions(pairs: list[Node], judgement: _Judgement) -> None:
    for pair in pairs:
        _check_operator(pair["List"]["items"][1]["List"]["items"], judgement)


_PARTS_OF_TYPES: Final = ("coldeflist", "typeName")


def _untyped(element: Node) -> Node:
    """Return a column of a new table without its type: there is no row that has to be of it."""
    column = element.get("ColumnDef")
    if column is None:
        return element
    return {"ColumnDef": {name: part for name, part in column.items() if name != "typeName"}}


def _check_merge(clause: Node, judgement: _Judgement) -> None:
    judgement.findings.update(dict.fromkeys(findings.of_merge(clause)))
    command = clause.get("commandType", "").removeprefix("CMD_")
    if command != "NOTHING":
        judgement.note_operation(command)


def _check_into(_: Any, judgement: _Judgement) -> None:
    judgement.raise_to("schema")
    judgement.note_operation("CREATE TABLE AS")


def _check_sample(sample: Node, judgement: _Judgement) -> None:
    if dotted({"List": {"items": sample.get("method", ())}}) not in ("bernoulli", "system"):
        judgement.raise_to_unknown()


def _check_alteration(command: Node, judgement: _Judgement) -> None:
    subtype = command.get("subtype", "").removeprefix("AT_")
    if subtype in _RIGHTS:
        judgement.raise_to("admin")
    elif subtype in ("SetRelOptions", "ResetRelOptions"):
        items = command.get("def", {}).get("List", {}).get("items", ())
        if any(item["DefElem"]["defname"].startswith("security_") for item in items):
            judgement.raise_to("admin")


# What ALTER TABLE can do to rights rather than to columns; what a foreign table's options name.
_RIGHTS: Final = (
    "ChangeOwner",
    "EnableRowSecurity",
    "DisableRowSecurity",
    "ForceRowSecurity",
    "NoForceRowSecurity",
    "GenericOptions",
)


def _raises(cls: str) -> Callable[[Any, _Judgement], None]:
    return lambda _, judgement: judgement.raise_to(cls)


_CHECKS: Final[dict[str, Callable[[Any, _Judgement], None]]] = {
    "FuncCall": _check_function,
    "A_Expr": lambda expression, judgement: _check_operator(expression["name"], judgement),
    "operName": _check_operator,  # of `x OP ANY (SELECT …)`
    "useOp": _check_operator,  # of ORDER BY … USING
    "typeName": _check_type,
    "DefineStmt": _check_definition,
    "IndexElem": _check_index,
    "exclusions": _check_exclusions,
    "RangeTableSample": _check_sample,
    "MergeWhenClause": _check_merge,
    "lockingClause": _raises("write"),  # it marks rows, which READ ONLY forbids as well
    "intoClause": _check_into,
    "AlterTableCmd": _check_alteration,
}


def _words(kind: str) -> str:
    """Return `CreateTableAsStmt` as `CREATE TABLE AS`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.removesuffix("Stmt")).upper()


def _object(name: str) -> str:
    """Return `OBJECT_MATVIEW` as SQL says it."""
    words = name.removeprefix("OBJECT_").replace("_", " ")
    if words.startswith("TS"):
        return f"TEXT SEARCH {words.removeprefix('TS')}"
    return _OBJECTS.get(words, words)


_OBJECTS: Final = {
    "ATTRIBUTE": "TYPE",
    "DOMCONSTRAINT": "DOMAIN",
    "FDW": "FOREIGN DATA WRAPPER",
    "FOREIGN SERVER": "SERVER",
    "LARGEOBJECT": "LARGE OBJECT",
    "MATVIEW": "MATERIALIZED VIEW",
    "OPCLASS": "OPERATOR CLASS",
    "OPFAMILY": "OPERATOR FAMILY",
    "STATISTIC EXT": "STATISTICS",
    "TABCONSTRAINT": "CONSTRAINT",
}

_RELATIONS: Final = frozenset(
    ["TABLE", "VIEW", "MATERIALIZED VIEW", "INDEX", "SEQUENCE", "FOREIGN TABLE"]
)
_PARTS_OF_RELATIONS: Final = frozenset(["COLUMN", "CONSTRAINT", "POLICY", "RULE", "TRIGGER"])


def _is_on(body: Node, name: str) -> bool:
    """Whether an option is given; a value that is not plainly off counts as on."""
    for option, value in options(body):
        if option == name:
            text = str(value).lower()
            if value is None or not ("'off'" in text or "'false'" in text or text == _ZERO):
                return True
    return False


_ZERO: Final = str({"Integer": {}}).lower()


def _transaction(body: Node) -> tuple[str, str]:
    kind = body["kind"].removeprefix("TRANS_STMT_").replace("_", " ")
    # It outlives the session, and the second half is another session's work.
    cls = "write" if "PREPARE" in kind else "session"
    return {"START": "BEGIN", "PREPARE": "PREPARE TRANSACTION"}.get(kind, kind), cls


def _set(body: Node) -> tuple[str, str]:
    operation = "RESET" if body["kind"].startswith("VAR_RESET") else "SET"
    # The server takes a quoted name in any case.
    name = body.get("name", "").lower()
    values = [constant(value) for value in body.get("args", ())]
    if name == "search_path" and "pg_catalog" in values[1:]:
        # What calls itself `lower` or `+` from here on is looked for elsewhere first.
        return operation, "unknown"
    if name == "standard_conforming_strings" and values and values[0] in _ON:
        return operation, "session"
    is_admin = name in _ADMIN_SETTINGS or name.startswith(("log_", "pgaudit."))
    return operation, "admin" if is_admin else "session"


_ON: Final = frozenset({"on", "true", "yes", "1"})

_ADMIN_SETTINGS: Final = frozenset(
    words(
        """
        allow_system_table_mods createrole_self_grant dynamic_library_path event_triggers
        extension_control_path ignore_checksum_failure local_preload_libraries
        lo_compat_privileges role row_security session_authorization session_preload_libraries
        session_replication_role standard_conforming_strings track_activities zero_damaged_pages
        """
    )
)
"""They change whose rights count, what code is loaded, which triggers run, what a text says, what
the server itself records, or what it takes for sound."""


def _copy(body: Node) -> tuple[str, str]:
    if body.get("is_program") or body.get("filename"):
        return "COPY", "admin"
    return "COPY", "write" if body.get("is_from") else "read"


def _of_object(verb: str, field: str) -> Callable[[Node], tuple[str, str]]:
    def judge(body: Node) -> tuple[str, str]:
        kind = _object(body.get(field, ""))
        return f"{verb} {kind}".strip(), "admin" if kind in _ADMIN_OBJECTS else "schema"

    return judge


def _rename(body: Node) -> tuple[str, str]:
    kind = body.get("renameType", "")
    if kind == "OBJECT_TABCONSTRAINT":
        return "ALTER TABLE", "schema"
    return _of_object("ALTER", "relationType" if kind == "OBJECT_COLUMN" else "renameType")(body)


def _function(body: Node) -> tuple[str, str]:
    operation = "CREATE PROCEDURE" if body.get("is_procedure") else "CREATE FUNCTION"
    for option, value in options(body):
        if option == "language":
            # It loads a library, calls what it likes of the server, or is not trusted.
            language = str((value or {}).get("String", {}).get("sval", "")).lower()
            if language in ("c", "internal") or language.endswith("u"):
                return operation, "admin"
    return operation, "admin" if _is_definer(body.get("options", ())) else "schema"


def _alter_function(body: Node) -> tuple[str, str]:
    operation = f"ALTER {_object(body.get('objtype', 'FUNCTION'))}"
    return operation, "admin" if _is_definer(body.get("actions", ())) else "schema"


def _is_definer(options: Iterable[Node]) -> bool:
    """Whether whoever calls it has the rights of its owner."""
    elements = (option.get("DefElem", {}) for option in options)
    return any(
        element.get("defname") == "security" and element["arg"].get("Boolean", {}).get("boolval")
        for element in elements
    )


def _create_as(body: Node) -> tuple[str, str]:
    is_view = body.get("objtype") == "OBJECT_MATVIEW"
    return ("CREATE MATERIALIZED VIEW" if is_view else "CREATE TABLE AS"), "schema"


def _grant(body: Node) -> tuple[str, str]:
    return ("GRANT" if body.get("is_grant") else "REVOKE"), "admin"


def _vacuum(body: Node) -> tuple[str, str]:
    return ("VACUUM" if body.get("is_vacuumcmd") else "ANALYZE"), "admin"


def _fetch(body: Node) -> tuple[str, str]:
    return ("MOVE" if body.get("ismove") else "FETCH"), "read"


_ADMIN_OBJECTS: Final = frozenset(
    {
        "ACCESS METHOD",
        "EVENT TRIGGER",
        "EXTENSION",
        "FOREIGN DATA WRAPPER",
        "LANGUAGE",
        "POLICY",
        "PUBLICATION",
        "ROLE",
        "SERVER",
        "SUBSCRIPTION",
        "TABLESPACE",
        "TRANSFORM",
        "USER MAPPING",
        "DATABASE",
    }
)

_SPECIAL: Final[dict[str, Callable[[Node], tuple[str, str]]]] = {
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
    "CopyStmt": _copy,
    "DropStmt": _of_object("DROP", "removeType"),
    "RenameStmt": _rename,
    "CreateFunctionStmt": _function,
    "AlterFunctionStmt": _alter_function,
    "CreateTableAsStmt": _create_as,
    "AlterTableMoveAllStmt": lambda body: (_of_object("ALTER", "objtype")(body)[0], "admin"),
    "AlterTableStmt": _of_object("ALTER", "objtype"),
    "AlterOwnerStmt": lambda body: (_of_object("ALTER", "objectType")(body)[0], "admin"),
    "AlterObjectSchemaStmt": _of_object("ALTER", "objectType"),
    "AlterObjectDependsStmt": _of_object("ALTER", "objectType"),
    "DefineStmt": _of_object("CREATE", "kind"),
    "CommentStmt": lambda _: ("COMMENT", "schema"),
    "GrantStmt": _grant,
    "GrantRoleStmt": _grant,
    "VacuumStmt": _vacuum,
    "FetchStmt": _fetch,
}

_PLAIN: Final[dict[str, tuple[str, str]]] = {
    "SelectStmt": ("SELECT", "read"),
    "InsertStmt": ("INSERT", "write"),
    "UpdateStmt": ("UPDATE", "write"),
    "DeleteStmt": ("DELETE", "write"),
    "MergeStmt": ("MERGE", "write"),
    "TruncateStmt": ("TRUNCATE", "write"),
    "NotifyStmt": ("NOTIFY", "write"),
    "RefreshMatViewStmt": ("REFRESH MATERIALIZED VIEW", "write"),
    "ExplainStmt": ("EXPLAIN", "read"),
    "DeclareCursorStmt": ("DECLARE", "read"),
    "ClosePortalStmt": ("CLOSE", "session"),
    "PrepareStmt": ("PREPARE", "session"),
    "ExecuteStmt": ("EXECUTE", "unknown"),
    "DeallocateStmt": ("DEALLOCATE", "session"),
    "VariableShowStmt": ("SHOW", "read"),
    "DiscardStmt": ("DISCARD", "session"),
    "ListenStmt": ("LISTEN", "session"),
    "UnlistenStmt": ("UNLISTEN", "session"),
    "LockStmt": ("LOCK", "session"),
    "ConstraintsSetStmt": ("SET CONSTRAINTS", "session"),
    "DoStmt": ("DO", "unknown"),
    "CallStmt": ("CALL", "unknown"),
    "CreateStmt": ("CREATE TABLE", "schema"),
    "CreateSchemaStmt": ("CREATE SCHEMA", "schema"),
    "IndexStmt": ("CREATE INDEX", "schema"),
    "ViewStmt": ("CREATE VIEW", "schema"),
    "CreateSeqStmt": ("CREATE SEQUENCE", "schema"),
    "AlterSeqStmt": ("ALTER SEQUENCE", "schema"),
    "CreateTrigStmt": ("CREATE TRIGGER", "schema"),
    "RuleStmt": ("CREATE RULE", "schema"),
    "CreateEnumStmt": ("CREATE TYPE", "schema"),
    "AlterEnumStmt": ("ALTER TYPE", "schema"),
    "AlterTypeStmt": ("ALTER TYPE", "schema"),
    "CreateRangeStmt": ("CREATE TYPE", "schema"),
    "CompositeTypeStmt": ("CREATE TYPE", "schema"),
    "CreateDomainStmt": ("CREATE DOMAIN", "schema"),
    "AlterDomainStmt": ("ALTER DOMAIN", "schema"),
    "CreateStatsStmt": ("CREATE STATISTICS", "schema"),
    "AlterStatsStmt": ("ALTER STATISTICS", "schema"),
    "CreateCastStmt": ("CREATE CAST", "schema"),
    "CreateConversionStmt": ("CREATE CONVERSION", "schema"),
    "CreateOpClassStmt": ("CREATE OPERATOR CLASS", "schema"),
    "CreateOpFamilyStmt": ("CREATE OPERATOR FAMILY", "schema"),
    "AlterOpFamilyStmt": ("ALTER OPERATOR FAMILY", "schema"),
    "AlterOperatorStmt": ("ALTER OPERATOR", "schema"),
    "AlterCollationStmt": ("ALTER COLLATION", "schema"),
    "AlterTSDictionaryStmt": ("ALTER TEXT SEARCH DICTIONARY", "schema"),
    "AlterTSConfigurationStmt": ("ALTER TEXT SEARCH CONFIGURATION", "schema"),
    "ReplicaIdentityStmt": ("ALTER TABLE", "schema"),
    "CreatePolicyStmt": ("CREATE POLICY", "admin"),
    "AlterPolicyStmt": ("ALTER POLICY", "admin"),
    "CreateRoleStmt": ("CREATE ROLE", "admin"),
    "AlterRoleStmt": ("ALTER ROLE", "admin"),
    "AlterRoleSetStmt": ("ALTER ROLE", "admin"),
    "DropRoleStmt": ("DROP ROLE", "admin"),
    "AlterDefaultPrivilegesStmt": ("ALTER DEFAULT PRIVILEGES", "admin"),
    "ReassignOwnedStmt": ("REASSIGN OWNED", "admin"),
    "DropOwnedStmt": ("DROP OWNED", "admin"),
    "CreatedbStmt": ("CREATE DATABASE", "admin"),
    "DropdbStmt": ("DROP DATABASE", "admin"),
    "AlterDatabaseStmt": ("ALTER DATABASE", "admin"),
    "AlterDatabaseSetStmt": ("ALTER DATABASE", "admin"),
    "AlterDatabaseRefreshCollStmt": ("ALTER DATABASE", "admin"),
    "AlterSystemStmt": ("ALTER SYSTEM", "admin"),
    "CreateTableSpaceStmt": ("CREATE TABLESPACE", "admin"),
    "DropTableSpaceStmt": ("DROP TABLESPACE", "admin"),
    "AlterTableSpaceOptionsStmt": ("ALTER TABLESPACE", "admin"),
    # Its options may name a program, or a file, of the server.
    "CreateForeignTableStmt": ("CREATE FOREIGN TABLE", "admin"),
    "CreateExtensionStmt": ("CREATE EXTENSION", "admin"),
    "AlterExtensionStmt": ("ALTER EXTENSION", "admin"),
    "AlterExtensionContentsStmt": ("ALTER EXTENSION", "admin"),
    "CreatePLangStmt": ("CREATE LANGUAGE", "admin"),
    "CreateAmStmt": ("CREATE ACCESS METHOD", "admin"),
    "CreateTransformStmt": ("CREATE TRANSFORM", "admin"),
    "CreateEventTrigStmt": ("CREATE EVENT TRIGGER", "admin"),
    "AlterEventTrigStmt": ("ALTER EVENT TRIGGER", "admin"),
    "CreateFdwStmt": ("CREATE FOREIGN DATA WRAPPER", "admin"),
    "AlterFdwStmt": ("ALTER FOREIGN DATA WRAPPER", "admin"),
    "CreateForeignServerStmt": ("CREATE SERVER", "admin"),
    "AlterForeignServerStmt": ("ALTER SERVER", "admin"),
    "CreateUserMappingStmt": ("CREATE USER MAPPING", "admin"),
    "AlterUserMappingStmt": ("ALTER USER MAPPING", "admin"),
    "DropUserMappingStmt": ("DROP USER MAPPING", "admin"),
    "ImportForeignSchemaStmt": ("IMPORT FOREIGN SCHEMA", "admin"),
    "CreatePublicationStmt": ("CREATE PUBLICATION", "admin"),
    "AlterPublicationStmt": ("ALTER PUBLICATION", "admin"),
    "CreateSubscriptionStmt": ("CREATE SUBSCRIPTION", "admin"),
    "AlterSubscriptionStmt": ("ALTER SUBSCRIPTION", "admin"),
    "DropSubscriptionStmt": ("DROP SUBSCRIPTION", "admin"),
    "SecLabelStmt": ("SECURITY LABEL", "admin"),
    "ClusterStmt": ("CLUSTER", "admin"),
    "ReindexStmt": ("REINDEX", "admin"),
    "CheckPointStmt": ("CHECKPOINT", "admin"),
    "LoadStmt": ("LOAD", "admin"),
}

_NOT_RUN: Final = frozenset({"PrepareStmt", "ViewStmt", "CreateFunctionStmt", "RuleStmt"})

# Harmless, or of a known class; everything else of pg_catalog, and all of elsewhere, is unknown.
# Not here on purpose: convert (a conversion may be anybody's), query_to_xml, ts_stat and their
# like (they run a text as SQL), large objects, files, and what waits or signals.
_HARMLESS_FUNCTIONS: Final = frozenset(
    words(
        """
        abs acos acosd age any_value area array_agg array_append array_cat array_dims array_fill
        array_length array_lower array_ndims array_position array_positions array_prepend
        array_remove array_replace array_to_json array_to_string array_upper ascii asin asind atan
        atan2 atand avg bit_and bit_count bit_length bit_or bit_xor bool bool_and bool_or bound_box
        box bpchar btrim cardinality cbrt ceil ceiling center char_length character_length chr
        circle clock_timestamp coalesce col_description concat concat_ws corr cos cosd cosh cot
        count covar_pop covar_samp cume_dist current_catalog current_database current_query
        current_schema current_schemas current_setting current_user currval date date_bin date_part
        date_trunc decode degrees dense_rank diagonal diameter div encode enum_first enum_last
        enum_range every exp extract factorial first_value float4 float8 floor format format_type
        gcd gen_random_uuid generate_series generate_subscripts get_bit get_byte
        getdatabaseencoding has_any_column_privilege has_column_privilege has_database_privilege
        has_function_privilege has_schema_privilege has_sequence_privilege has_table_privilege
        has_type_privilege height host hostmask inet inet_client_addr inet_client_port
        inet_server_addr inet_server_port initcap int2 int4 int8 interval is_normalized isclosed
        isempty isfinite isopen json json_agg json_array_elements json_array_elements_text
        json_array_length json_build_array json_build_object json_each json_each_text
        json_extract_path json_extract_path_text json_object json_object_agg json_object_keys
        json_populate_record json_populate_recordset json_strip_nulls json_to_record
        json_to_recordset json_typeof jsonb jsonb_agg jsonb_array_elements
        jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object
        jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert
        jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists jsonb_path_match
        jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_populate_record
        jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls
        jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days justify_hours justify_interval
        lag last_value lastval lcm lead least left length like_escape line ln localtime
        localtimestamp log log10 lower lower_inc lower_inf lpad lseg ltrim make_date make_interval
        make_time make_timestamp make_timestamptz masklen max md5 min mod mode name netmask network
        normalize now npoints nth_value ntile nullif num_nonnulls num_nulls numeric numnode
        obj_description octet_length oid overlaps overlay parse_ident path pclose percent_rank
        percentile_cont percentile_disc pg_backend_pid pg_char_to_encoding pg_client_encoding
        pg_collation_for pg_collation_is_visible pg_column_size pg_conversion_is_visible
        pg_database_size pg_describe_object pg_encoding_to_char pg_function_is_visible
        pg_get_constraintdef pg_get_expr pg_get_function_arguments
        pg_get_function_identity_arguments pg_get_function_result pg_get_functiondef
        pg_get_indexdef pg_get_keywords pg_get_partition_constraintdef pg_get_partkeydef
        pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
        pg_get_statisticsobjdef_columns pg_get_triggerdef pg_get_userbyid pg_get_viewdef
        pg_has_role pg_identify_object pg_indexes_size pg_is_in_recovery pg_is_other_temp_schema
        pg_my_temp_schema pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible
        pg_postmaster_start_time pg_relation_is_publishable pg_relation_size pg_size_pretty
        pg_statistics_obj_is_visible pg_table_is_visible pg_table_size pg_tablespace_location
        pg_tablespace_size pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible
        pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible
        pg_typeof phraseto_tsquery pi plainto_tsquery point polygon popen position pow power
        querytree quote_ident quote_literal quote_nullable radians radius random range_agg
        range_merge rank regclass regexp_count regexp_instr regexp_like regexp_match regexp_matches
        regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx
        regr_avgy regr_count regr_intercept regr_r2 regr_slope repeat replace reverse right round
        row_number row_security_active row_to_json rpad rtrim scale session_user setweight sha224
        sha256 sha384 sha512 shobj_description sign similar_to_escape sin sind sinh slope
        split_part sqrt starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg
        string_to_array string_to_table strip strpos substr substring sum tan tand tanh text time
        timeofday timestamp timestamptz timetz timezone to_char to_date to_hex to_json to_jsonb
        to_number to_regclass to_regnamespace to_regproc to_regprocedure to_regrole to_regtype
        to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale
        trunc ts_headline ts_rank ts_rank_cd txid_current_if_assigned unnest upper upper_inc
        upper_inf uuid uuid_extract_timestamp uuid_extract_version uuidv7 var_pop var_samp varchar
        variance version websearch_to_tsquery width width_bucket
        """
    )
)

_FUNCTION_CLASSES: Final = {
    "pg_sleep": "read",
    "pg_sleep_for": "read",
    "pg_sleep_until": "read",
    "set_config": "admin",  # it can set the role
    "setseed": "session",
    "nextval": "write",
    "setval": "write",
    "pg_notify": "write",
    "txid_current": "write",
    "pg_current_xact_id": "write",
    **dict.fromkeys(
        words(
            """
        pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all
        pg_advisory_unlock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared
        pg_try_advisory_lock pg_try_advisory_lock_shared pg_try_advisory_xact_lock
        pg_try_advisory_xact_lock_shared
        """
        ),
        "session",
    ),
    **dict.fromkeys(
        words(
            """
        lo_close lo_creat lo_create lo_from_bytea lo_lseek lo_open lo_put lo_truncate lo_unlink
        lowrite
        """
        ),
        "write",
    ),
    **dict.fromkeys(
        words(
            """
        lo_export lo_import pg_cancel_backend pg_create_logical_replication_slot
        pg_create_physical_replication_slot pg_create_restore_point pg_drop_replication_slot
        pg_ls_dir pg_promote pg_read_binary_file pg_read_file pg_reload_conf pg_rotate_logfile
        pg_stat_file pg_stat_reset pg_switch_wal pg_terminate_backend
        """
        ),
        "admin",
    ),
}

_OPERATORS: Final = frozenset(
    words(
        """
        !! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|-
        / < <-> << <<= <<| <= <> <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@
        ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~*
        """
    )
) | {"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"}

_OPERATOR_CLASSES: Final = frozenset(
    words(
        """
        bpchar_pattern_ops inet_ops jsonb_ops jsonb_path_ops text_ops text_pattern_ops
        varchar_ops varchar_pattern_ops
        """
    )
)

_TYPES: Final = frozenset(
    words(
        """
        bit bool boolean box bpchar bytea char cidr circle date datemultirange daterange float4
        float8 inet int int2 int2vector int4 int4multirange int4range int8 int8multirange
        int8range integer interval json jsonb jsonpath line lseg macaddr macaddr8 money name
        numeric nummultirange numrange oid oidvector path pg_lsn point polygon regclass
        regcollation regconfig regdictionary regnamespace regoper regoperator regproc
        regprocedure regrole regtype text tid time timestamp timestamptz timetz tsmultirange
        tsquery tsrange tstzmultirange tstzrange tsvector uuid varbit varchar xid xid8 xml
        """
    )
)
