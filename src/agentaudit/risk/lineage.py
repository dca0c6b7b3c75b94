"""Which masked columns a statement's answer can show, and which constants stand beside them.

The surprising decision is what counts as shown: a value that flows, through any expression, into a
column of the answer. What a condition tells (`WHERE ssn LIKE '1%'` has a row or has none) is an
inference and shows nothing, unless what is asked is made up by the text: then a column of it shows
what it was compared with, as in `SELECT n FROM generate_series(0, 999999999) n JOIN customers ON
ssn = n::text`.

A column is clear only where that is proven. Names are looked up in a catalogue, as PostgreSQL does
it; what is not in it, may have changed since, or is not understood hides what depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk import copy_format, sql
from agentaudit.risk.catalogue import Catalogue, Relation, Table
from agentaudit.risk.constants import Hidden, all_constants, located
from agentaudit.risk.copy_format import CopyFormat
from agentaudit.risk.doubt import NO_DOUBT, Doubt
from agentaudit.risk.flows import NO_CTES, Result, Scope, Source
from agentaudit.risk.known import QUERIES, SILENT, Known
from agentaudit.risk.queries import Queries
from agentaudit.risk.tree import Node, words

_RELATIONS: Final = re.compile(r'"relname":"([^"\\]*)"')
_WORDS: Final = re.compile(r"[^\W\d][\w$]*")

# What runs the code of indexes, defaults or views on rows that are there.
_RUNNING: Final = frozenset(
    words("RefreshMatViewStmt VacuumStmt ClusterStmt ReindexStmt AlterTableStmt IndexStmt")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What of a statement's answer and of its text is hidden, and by which rule.

    `outputs` are the columns of the answer, or of what a DECLARE or a PREPARE stands for, or of a
    COPY's lines: the rule that hides each, "" where it shows nothing masked. None: neither their
    number nor their origin is known, and `whole` hides them all. Where `is_clear`, whatever comes
    back shows nothing masked, and `outputs` is empty. `whole` is "" only where nothing is masked
    at all.

    `constants` and `params` are those that stand beside a masked column, in the order of the text;
    `all_params` hides every parameter. `tells` hides what the server says beside the rows, and
    "" says that no masked value can be in that. `spoils` are the relations into which masked
    values go: no column of theirs is clear any more.
    """

    outputs: tuple[str, ...] | None = None
    is_clear: bool = False
    whole: str = ""
    constants: tuple[Hidden, ...] = ()
    params: Mapping[int, str] = field(default_factory=dict)
    all_params: str = ""
    tells: str = ""
    copy: CopyFormat | None = None
    spoils: Doubt = NO_DOUBT


_NOWHERE: Final = frozenset[str]()


def lineage(
    text: str,
    catalogue: Catalogue,
    *,
    path: Sequence[str] | None = None,
    doubtful: Doubt = NO_DOUBT,
) -> Lineage:
    """Return what of one statement and its answer is hidden.

    `path` is the session's search_path, None where that is not known: then a name stands for all
    that it could.

    >>> customers = Relation(1, "public", "customers", "r", ((1, "id", "pg_catalog.int4"),
    ...     (2, "ssn", "pg_catalog.text")))
    >>> known = Catalogue([customers], columns=[("*.customers.ssn", "identifiers")])
    >>> lineage("SELECT id, upper(ssn) FROM customers", known, path=["public"]).outputs
    ('', 'identifiers')
    """
    if not catalogue.whole:
        is_copy = "copy" in text[:4096].lower()
        return Lineage(
            outputs=(), is_clear=True, copy=copy_format.of_text(text) if is_copy else None
        )
    written: frozenset[str] = frozenset()
    try:
        if sql._is_unreadable(text):
            return not_understood(text, catalogue)
        parsed = libpg_query.parse_sql_json(text)
        statements = orjson.loads(parsed).get("stmts", ())
        if not statements:
            return Lineage(outputs=(), is_clear=True, whole=catalogue.whole)
        if len(statements) > 1:
            return not_understood(text, catalogue)
        ((kind, body),) = statements[0]["stmt"].items()
        written = _written({kind: body})
        reading = _Reading(text, Known(catalogue, path, doubtful))
        reading.is_near = reading.tells_always() or any(
            map(catalogue.has_masked, _RELATIONS.findall(parsed))
        )
        return reading.read(kind, body)
    except Exception:
        # Whatever it is (too deep, a shape that we do not know, bytes that are no UTF-8), an
        # agent's text picks it: it hides all, and ends nobody's session.
        found = not_understood(text, catalogue)
        return replace(found, spoils=Doubt(names=written)) if written else found


def _written(statement: Node) -> frozenset[str]:
    """Return the names of tables into which a statement, or one inside it, puts rows."""
    names: set[str] = set()
    stack: list[Any] = [statement]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += node
        elif type(node) is dict:
            for key, value in node.items():
                if key in ("InsertStmt", "UpdateStmt", "MergeStmt") and "relation" in value:
                    names.add(value["relation"]["relname"])
                elif key in ("into", "intoClause", "rel") and type(value) is dict:
                    names.add(value.get("rel", value).get("relname", ""))
                stack.append(value)
    return frozenset(filter(None, names))


def not_understood(text: str, catalogue: Catalogue) -> Lineage:
    """Return what is hidden of a text that means something else than it seems to, or nobody knows.

    Under `standard_conforming_strings = off` a text is one.
    """
    rule = catalogue.whole
    return Lineage(
        whole=rule,
        constants=all_constants(text, rule),
        all_params=rule,
        tells=rule,
    )


def of_view(definition: str, catalogue: Catalogue, count: int) -> tuple[Sequence[str], str]:
    """Return the rules of a view's columns by its definition, and what reading it may tell."""
    if not definition:  # it was dropped while the catalogue was read
        return [catalogue.whole] * count, catalogue.whole
    found = lineage(definition, catalogue, path=())
    if found.is_clear:
        return [""] * count, found.tells
    if found.outputs is None or len(found.outputs) != count:
        return [catalogue.whole] * count, catalogue.whole
    return found.outputs, found.tells


def of_expression(expression: str, table: Table, catalogue: Catalogue) -> str:
    """Return the rule that hides what an expression over a table's own row makes, or ""."""
    try:
        tree = orjson.loads(libpg_query.parse_sql_json(f"SELECT {expression}"))
        (target,) = tree["stmts"][0]["stmt"]["SelectStmt"]["targetList"]
        queries = Queries(expression, Known(catalogue, (), NO_DOUBT))
        scope = Scope(None, NO_CTES)
        scope.sources.append(Source.of_table(table, table.relation.name))
        return queries.flow(target["ResTarget"]["val"], scope).rule
    except Exception:
        return catalogue.whole


class _Reading:
    """One statement, while it is read."""

    def __init__(self, text: str, known: Known) -> None:
        self._text = text
        self._known = known
        self._catalogue = known.catalogue
        self._whole = known.whole
        self._queries = Queries(text, known)
        self.is_near = False
        """Whether a masked relation is named for sure, and so the quick way leads nowhere."""

    def tells_always(self) -> bool:
        """Whether even what names no operator calls one of anybody's: a CASE, a JOIN by name."""
        names = self._catalogue.operators | self._known.doubtful.operators
        if not names.isdisjoint(("=", "<", ">")):
            self._queries.tells = self._whole
        return bool(self._queries.tells)

    def read(self, kind: str, body: Node) -> Lineage:
        if kind in QUERIES:
            return self._query_statement(kind, body)
        if kind == "CopyStmt":
            return self._copy(body)
        if kind == "ExplainStmt":
            return self._explain(body)
        if kind in ("DeclareCursorStmt", "PrepareStmt"):
            ((its_kind, query),) = body["query"].items()
            return self._query_statement(its_kind, query)
        if kind == "CreateTableAsStmt":
            ((its_kind, query),) = body["query"].items()
            if its_kind != "SelectStmt":
                found = not_understood(self._text, self._catalogue)  # EXECUTE
                return replace(found, spoils=Doubt(names=_written(body)))
            # What a materialized view is made of, the catalogue says.
            is_table = body.get("objtype") != "OBJECT_MATVIEW"
            return self._definition(its_kind, query, into=_written(body) if is_table else _NOWHERE)
        if kind == "ViewStmt":
            ((its_kind, query),) = body["query"].items()
            return self._definition(its_kind, query)
        if kind == "VariableShowStmt":
            if self._known.doubtful.settings or self._known.doubtful.everything:
                return Lineage(whole=self._whole)
            return self._clear()
        if kind in SILENT:
            return self._clear()
        if kind == "TransactionStmt":
            # What was deferred is checked and run at the end, and its errors quote rows.
            is_end = "COMMIT" in body["kind"] or "PREPARE" in body["kind"]
            return self._clear(self._whole if is_end else "")
        if kind == "ConstraintsSetStmt":
            return self._clear(self._whole)
        if kind in ("ExecuteStmt", "FetchStmt", "CallStmt", "DoStmt"):
            return self._run_elsewhere(kind)
        if kind in sql._PLAIN or kind in sql._SPECIAL:
            return self._other(kind, body)
        return not_understood(self._text, self._catalogue)

    def _is_plain(self, statement: Node) -> bool:
        """Whether the quick way is open: nothing masked is near."""
        return not self.is_near and self._known.is_plain(statement)

    def _clear(self, tells: str = "") -> Lineage:
        return Lineage(outputs=(), is_clear=True, whole=self._whole, tells=tells)

    def _query_statement(self, kind: str, body: Node) -> Lineage:
        if self._is_plain({kind: body}):
            return self._clear()
        result = self._queries.run(kind, body, Scope(None, NO_CTES), is_top=True)
        outputs = self._outputs(result)
        if "intoClause" in body:
            self._store(outputs, _written(body["intoClause"]))
        return self._finish(outputs)

    def _outputs(self, result: Result) -> tuple[str, ...] | None:
        if self._queries.answers_otherwise or result.columns is None:
            return None
        for column in result.columns:
            if column.rule:
                self._queries.show(column, column.rule)
        return tuple([column.rule for column in result.columns])

    def _store(self, outputs: tuple[str, ...] | None, into: frozenset[str]) -> None:
        """Note that what a query answers with goes into a table that is made of it."""
        if outputs is None or any(outputs):
            self._queries.spoils |= into

    def _finish(
        self, outputs: tuple[str, ...] | None, *, copy: CopyFormat | None = None
    ) -> Lineage:
        constants: tuple[Hidden, ...] = ()
        if self._queries.constants:
            constants = located(self._text, self._queries.constants)
        return Lineage(
            outputs=outputs,
            whole=self._whole,
            constants=constants,
            params=dict(sorted(self._queries.params.items())),
            tells=self._queries.tells,
            copy=copy,
            spoils=Doubt(names=frozenset(self._queries.spoils), settings=self._queries.keeps)
            if self._queries.spoils or self._queries.keeps
            else NO_DOUBT,
        )

    def _explain(self, body: Node) -> Lineage:
        ((kind, query),) = body["query"].items()
        if kind in ("DeclareCursorStmt", "CreateTableAsStmt", "PrepareStmt"):
            ((kind, query),) = query["query"].items()
        if kind not in QUERIES:
            return not_understood(self._text, self._catalogue)  # EXECUTE
        if self._is_plain({kind: query}):
            return self._clear()
        self._queries.run(kind, query, Scope(None, NO_CTES), is_top=True)
        # Its lines show constants, and what the planner has seen of the values.
        return self._finish((self._queries.tells or self._whole,))

    def _definition(self, kind: str, query: Node, *, into: frozenset[str] = _NOWHERE) -> Lineage:
        """Read the query of what is stored, `into` a table where it is rows; none comes back."""
        tells = self._whole if self._catalogue.has_event_triggers else ""
        if self._is_plain({kind: query}):
            return self._clear(tells)
        result = self._queries.run(kind, query, Scope(None, NO_CTES), is_top=True)
        self._store(self._outputs(result), into)
        self._queries.tells = self._queries.tells or tells
        return self._finish(())

    def _run_elsewhere(self, kind: str) -> Lineage:
        """Read what runs a text that is not here."""
        if kind == "FetchStmt":  # its numbers are rows
            return Lineage(whole=self._whole, tells=self._whole)
        if kind == "DoStmt":
            code = self._whole if self._may_mention() else ""
            return Lineage(
                whole=self._whole,
                tells=self._whole,
                constants=all_constants(self._text, code) if code else (),
            )
        return not_understood(self._text, self._catalogue)

    def _other(self, kind: str, body: Node) -> Lineage:
        """Read what answers with no row: definitions, rights, upkeep."""
        found = self._relations_of(body)
        rule = self._whole if self._catalogue.has_event_triggers else ""
        if kind in _RUNNING or found is None or any(self._is_telling(each) for each in found):
            rule = self._whole
        mentions = self._may_mention()
        return Lineage(
            outputs=(),
            is_clear=True,
            whole=self._whole,
            constants=all_constants(self._text, self._whole) if mentions else (),
            tells=rule or (self._whole if mentions else ""),
        )

    def _relations_of(self, body: Node) -> list[Relation] | None:
        """Return the relations that a definition names, None where one is not known."""
        found: list[Relation] = []
        stack: list[Any] = [body]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack += node
            elif isinstance(node, dict):
                if isinstance(node.get("relname"), str):
                    candidates = self._known.candidates(node)
                    if not candidates:
                        continue  # it is being made
                    found += candidates
                if "FuncCall" in node and not self._known.is_harmless_function(node["FuncCall"]):
                    return None
                stack += node.values()
        return found

    def _is_telling(self, relation: Relation) -> bool:
        return bool(
            self._known.is_doubtful(relation.name)
            or self._catalogue.table(relation).tells
            or relation.has_code
        )

    def _may_mention(self) -> bool:
        """Whether a word of the text is the name of a masked column."""
        if self._known.doubtful.everything:
            return True
        return any(self._catalogue.names_masked(word) for word in set(_WORDS.findall(self._text)))

    def _copy(self, body: Node) -> Lineage:
        form = copy_format.of_statement(body)
        is_stream = not body.get("filename") and not body.get("is_program")
        copy = form if is_stream else None
        if "query" in body:
            ((kind, query),) = body["query"].items()
            if self._is_plain({kind: query}):
                return Lineage(outputs=(), is_clear=True, whole=self._whole, copy=copy)
            result = self._queries.run(kind, query, Scope(None, NO_CTES), is_top=True)
            return self._finish(self._outputs(result), copy=copy)
        scope = Scope(None, NO_CTES)
        source = self._queries.target(body["relation"], is_written=bool(body.get("is_from")))
        if body.get("whereClause"):
            scope.sources.append(source)
            self._queries.condition(body["whereClause"], scope)
        if source.columns is None:
            return self._finish(None, copy=copy)
        columns = source.columns
        if "attlist" in body:
            wanted = [each["String"]["sval"] for each in body["attlist"]]
            if any(name not in source.by_name for name in wanted):
                return self._finish(None, copy=copy)
            columns = [source.by_name[name] for name in wanted]
        elif self._has_generated(body["relation"]):
            generated = self._generated(body["relation"])
            columns = [column for column in columns if column.name not in generated]
        return self._finish(tuple([column.rule for column in columns]), copy=copy)

    def _has_generated(self, node: Node) -> bool:
        return any(each.generated for each in self._known.candidates(node))

    def _generated(self, node: Node) -> set[str]:
        return {
            name
            for each in self._known.candidates(node)
            for number, name, _ in each.columns
            if any(number == of for of, _ in each.generated)
        }
