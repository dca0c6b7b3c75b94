"""Which masked columns a statement's answer can show, and which constants stand beside them.

The surprising decision is what counts as shown: a value that flows, through any expression, into a
column of the answer. What a condition tells (`WHERE ssn LIKE '1%'` has a row or has none) is an
inference and shows nothing, unless what is asked is made up by the text: then a column of it shows
what it was compared with, as in `SELECT n FROM generate_series(0, 999999999) n JOIN customers ON
ssn = n::text`.

A column is clear only where that is proven. Names are looked up in a catalogue, as PostgreSQL does
it; what is not in it, may have changed since, or is not understood hides what depends on it.

Name resolution: PostgreSQL, `src/backend/parser/parse_relation.c` and `parse_expr.c`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk import sql
from agentaudit.risk.catalogue import Catalogue, Column, Relation, Table
from agentaudit.risk.tree import Node, options, words


@dataclass(frozen=True, slots=True)
class Hidden:
    """A constant of the text: bytes `start` to `stop` of its UTF-8, and the rule that hides it."""

    start: int
    stop: int
    rule: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may have been made, replaced, renamed or changed since a catalogue was read.

    `names` are those of relations and types in whatever schema; `settings` says that a setting,
    a sequence or an advisory lock may hold a masked value.
    """

    everything: bool = False
    names: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    settings: bool = False

    def __or__(self, other: Doubt) -> Doubt:
        if other is NO_DOUBT or other == self:
            return self
        return Doubt(
            self.everything or other.everything,
            self.names | other.names,
            self.functions | other.functions,
            self.operators | other.operators,
            self.settings or other.settings,
        )


NO_DOUBT: Final = Doubt()
EVERYTHING: Final = Doubt(everything=True)


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How the lines of a COPY between the server and the client are written.

    `direction` is `out` or `in`, `format` `text`, `csv` or `binary`; `header` is "", `on` or
    `match`. What the text does not say is PostgreSQL's default. The `force` options name columns,
    `*` all of them.
    """

    direction: str
    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: str = ""
    quote: str = '"'
    escape: str = '"'
    encoding: str = ""
    default: str | None = None
    force_quote: tuple[str, ...] = ()
    force_null: tuple[str, ...] = ()
    force_not_null: tuple[str, ...] = ()
    is_understood: bool = True


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
        return Lineage(outputs=(), is_clear=True, copy=_copy_of(text) if is_copy else None)
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
        reading = _Reading(text, catalogue, path, doubtful)
        reading.is_near = reading.tells_always() or any(
            map(catalogue.has_masked, _RELATIONS.findall(parsed))
        )
        return reading.read(kind, body)
    except Exception:
        # Whatever it is (too deep, a shape that we do not know, bytes that are no UTF-8), an
        # agent's text picks it: it hides all, and ends nobody's session.
        return not_understood(text, catalogue)


def _copy_of(text: str) -> CopyFormat | None:
    try:
        ((kind, body),) = orjson.loads(libpg_query.parse_sql_json(text))["stmts"][0]["stmt"].items()
        return _copy_format(body) if kind == "CopyStmt" else None
    except Exception:
        return None


def not_understood(text: str, catalogue: Catalogue) -> Lineage:
    """Return what is hidden of a text that means something else than it seems to, or nobody knows.

    Under `standard_conforming_strings = off` a text is one.
    """
    rule = catalogue.whole
    return Lineage(
        whole=rule,
        constants=_all_constants(text, rule),
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
        reading = _Reading(expression, catalogue, (), NO_DOUBT)
        scope = _Scope(None, _NO_CTES)
        scope.sources.append(_Source.of_table(table, table.relation.name))
        return reading.flow(target["ResTarget"]["val"], scope).rule
    except Exception:
        return catalogue.whole


# What is harmless.

_FUNCTIONS: Final = (
    (sql._HARMLESS_FUNCTIONS - {"current_query"})  # which shows what the text hides
    | {name for name, cls in sql._FUNCTION_CLASSES.items() if cls in ("read", "session")}
    | frozenset(
        words(
            """
            aclexplode acldefault array_reverse array_sample array_shuffle array_sort casefold
            pg_available_extensions
            convert_from convert_to crc32 crc32c date_add date_subtract erf erfc gamma
            jsonb_path_query_tz lgamma makeaclitem nextval pg_blocking_pids pg_conf_load_time
            pg_current_snapshot pg_current_wal_lsn pg_current_xact_id pg_filenode_relation
            pg_get_function_arg_default
            pg_get_function_sqlbody pg_get_replica_identity_index pg_identify_object_as_address
            pg_index_column_has_property pg_index_has_property pg_indexam_has_property
            pg_jit_available pg_last_wal_receive_lsn pg_last_wal_replay_lsn
            pg_last_xact_replay_timestamp pg_lock_status pg_notify pg_options_to_table
            pg_partition_ancestors pg_partition_root pg_partition_tree pg_relation_filenode
            pg_relation_filepath pg_relation_is_updatable pg_safe_snapshot_blocking_pids
            pg_sequence_last_value pg_sequence_parameters pg_show_all_settings pg_snapshot_xip
            pg_snapshot_xmax pg_snapshot_xmin pg_tablespace_databases pg_timezone_abbrevs
            pg_timezone_names pg_visible_in_snapshot pg_wal_lsn_diff pg_xact_status set_bit set_byte
            set_config setval timezone to_bin to_oct txid_current txid_current_snapshot unistr
            uuidv4 xml_is_well_formed xmlagg xmlcomment xpath xpath_exists
            """
        )
    )
)
"""Of pg_catalog: what they return holds nothing but what their arguments hold, or what describes
the database, and they read no relation by its name. What they change is of no interest here."""

_ECHOING_FUNCTIONS: Final = frozenset(
    words(
        """
        current_setting currval lastval nextval pg_lock_status pg_sequence_last_value
        pg_show_all_settings
        """
    )
)
_ECHOING: Final = frozenset(
    words("pg_locks pg_sequences pg_settings pg_stat_activity pg_stat_replication")
)
"""What shows settings, sequences and locks, once a masked value may be kept in one."""

_KEEPING: Final = frozenset(
    words(
        """
        pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared
        pg_try_advisory_lock pg_try_advisory_lock_shared pg_try_advisory_xact_lock
        pg_try_advisory_xact_lock_shared set_config setval
        """
    )
)
"""What keeps its arguments where the server shows them to whoever asks."""

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

_SETS: Final = frozenset(
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
    _SETS
    - _TABLE_FUNCTIONS.keys()
    - frozenset(
        words(
            """
        json_populate_recordset json_to_recordset jsonb_populate_recordset jsonb_to_recordset unnest
        """
        )
    )
)

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

_CONSTANT_TOKENS: Final = frozenset(
    {"SCONST", "USCONST", "FCONST", "ICONST", "BCONST", "XCONST", "TRUE_P", "FALSE_P"}
)


class _NotUnderstood(Exception):
    """What cannot be said for sure."""


class _Flow:
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

    def add(self, other: _Flow) -> None:
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


class _Source:
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
                by_name[column.name] = column if other is None else _merged(other, column)
        self.by_name = by_name
        self.spread = spread
        self.asked = asked
        self._whole: Column | None = None

    @classmethod
    def of_table(cls, table: Table, alias: str) -> _Source:
        return cls(alias, table.columns, by_name=table.by_name)

    @property
    def whole(self) -> Column:
        """One column that stands for the whole row: a text may name it a hundred thousand times."""
        if self._whole is None:
            self._whole = _any(self.row())
        return self._whole

    def row(self) -> list[Column]:
        if self.columns is not None:
            return self.columns
        return [*self.by_name.values(), *([self.any] if self.any else ())]


def _merged(one: Column, other: Column) -> Column:
    return Column(
        one.name, one.rule or other.rule, (one, other), is_made=one.is_made or other.is_made
    )


class _Scope:
    """What names stand for at a place.

    `sources` are what a name is looked for in, `stars` what `*` stands for. `asked` is the rule of
    what its conditions mention, and `spread` of what the number of its rows tells: a value that
    the text makes up and compares with a masked one, say.
    """

    __slots__ = ("asked", "ctes", "outer", "sources", "spread", "stars")

    def __init__(self, outer: _Scope | None, ctes: _Ctes) -> None:
        self.outer = outer
        self.ctes = ctes
        self.sources: list[_Source] = []
        self.stars: list[_Source] = []
        self.asked = ""
        self.spread = ""


class _Result:
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


class _Ctes:
    """The queries of WITH that are seen at a place: the first so many of one, and those around."""

    __slots__ = ("_count", "_known", "_outer")

    def __init__(self, outer: _Ctes | None = None) -> None:
        self._outer = outer
        self._known: dict[str, tuple[int, _Cte]] = {}
        self._count = 0

    def add(self, name: str, cte: _Cte) -> None:
        self._known.setdefault(name, (self._count, cte))
        self._count += 1

    def first(self, count: int) -> _Ctes:
        """Return what the query at `count` sees, without RECURSIVE: those before it only."""
        seen = _Ctes(self._outer)
        seen._known = self._known
        seen._count = count
        return seen

    def get(self, name: str) -> _Cte | None:
        seen: _Ctes | None = self
        while seen is not None:
            place, cte = seen._known.get(name, (seen._count, None))
            if cte is not None and place < seen._count:
                return cte
            seen = seen._outer
        return None


_NO_CTES: Final = _Ctes()


class _Cte:
    __slots__ = ("body", "is_running", "result", "scope")

    def __init__(self, body: Node, scope: _Scope) -> None:
        self.body = body
        self.scope = scope
        self.result: _Result | None = None
        self.is_running = False


_DML: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_QUERIES: Final = _DML | {"SelectStmt"}
_MAX_ROUNDS: Final = 8
"""Of reading a recursive query again, with what is known of it: a rule for a column each."""

_MAX_READ_AGAIN_BYTES: Final = 1024 * 1024
"""For recursive queries inside recursive queries, all together."""

_MAX_STEPS: Final = 1_000_000

_MAX_COLUMNS: Final = 2_000
"""Of one query; PostgreSQL's own limit is 1,664."""


class _Reading:
    """One statement, while it is read."""

    def __init__(
        self, text: str, catalogue: Catalogue, path: Sequence[str] | None, doubtful: Doubt
    ) -> None:
        self._text = text
        self._catalogue = catalogue
        self._path = path
        self._doubtful = doubtful
        self._whole = catalogue.whole
        self._constants: dict[int, str] = {}
        self._params: dict[int, str] = {}
        self._shown: set[int] = set()
        self._tells = ""
        self._spoils: set[str] = set()
        self._answers_otherwise = False
        self._keeps = False
        self._steps = 0
        self._read_again = 0
        self._dotted = catalogue.functions | doubtful.functions
        self.is_near = False
        """Whether a masked relation is named for sure, and so the quick way leads nowhere."""

    def tells_always(self) -> bool:
        """Whether even what names no operator calls one of anybody's: a CASE, a JOIN by name."""
        names = self._catalogue.operators | self._doubtful.operators
        if not names.isdisjoint(("=", "<", ">")):
            self._tells = self._whole
        return bool(self._tells)

    # Kinds of statements.

    def read(self, kind: str, body: Node) -> Lineage:
        if kind in _QUERIES:
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
                return not_understood(self._text, self._catalogue)  # EXECUTE
            return self._definition(its_kind, query)
        if kind == "ViewStmt":
            ((its_kind, query),) = body["query"].items()
            return self._definition(its_kind, query)
        if kind == "VariableShowStmt":
            if self._doubtful.settings or self._doubtful.everything:
                return Lineage(whole=self._whole)
            return self._clear()
        if kind in _SILENT:
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

    def _clear(self, tells: str = "") -> Lineage:
        return Lineage(outputs=(), is_clear=True, whole=self._whole, tells=tells)

    def _query_statement(self, kind: str, body: Node) -> Lineage:
        if self._is_plain({kind: body}):
            return self._clear()
        result = self._run(kind, body, _Scope(None, _NO_CTES), is_top=True)
        return self._finish(self._outputs(result))

    def _outputs(self, result: _Result) -> tuple[str, ...] | None:
        if self._answers_otherwise or result.columns is None:
            return None
        for column in result.columns:
            if column.rule:
                self._show(column, column.rule)
        return tuple([column.rule for column in result.columns])

    def _finish(
        self, outputs: tuple[str, ...] | None, *, copy: CopyFormat | None = None
    ) -> Lineage:
        constants: tuple[Hidden, ...] = ()
        if self._constants:
            constants = _located(self._text, self._constants)
        return Lineage(
            outputs=outputs,
            whole=self._whole,
            constants=constants,
            params=dict(sorted(self._params.items())),
            tells=self._tells,
            copy=copy,
            spoils=Doubt(names=frozenset(self._spoils), settings=self._keeps)
            if self._spoils or self._keeps
            else NO_DOUBT,
        )

    def _explain(self, body: Node) -> Lineage:
        ((kind, query),) = body["query"].items()
        if kind in ("DeclareCursorStmt", "CreateTableAsStmt", "PrepareStmt"):
            ((kind, query),) = query["query"].items()
        if kind not in _QUERIES:
            return not_understood(self._text, self._catalogue)  # EXECUTE
        if self._is_plain({kind: query}):
            return self._clear()
        self._run(kind, query, _Scope(None, _NO_CTES), is_top=True)
        # Its lines show constants, and what the planner has seen of the values.
        return self._finish((self._tells or self._whole,))

    def _definition(self, kind: str, query: Node) -> Lineage:
        """Read the query of what is stored; no row comes back."""
        tells = self._whole if self._catalogue.has_event_triggers else ""
        if self._is_plain({kind: query}):
            return self._clear(tells)
        self._outputs(self._run(kind, query, _Scope(None, _NO_CTES), is_top=True))
        self._tells = self._tells or tells
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
                constants=_all_constants(self._text, code) if code else (),
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
            constants=_all_constants(self._text, self._whole) if mentions else (),
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
                    candidates = self._candidates(node)
                    if not candidates:
                        continue  # it is being made
                    found += candidates
                if "FuncCall" in node and not self._is_harmless_function(node["FuncCall"]):
                    return None
                stack += node.values()
        return found

    def _is_telling(self, relation: Relation) -> bool:
        return bool(
            self._is_doubtful(relation.name)
            or self._catalogue.table(relation).tells
            or relation.has_code
        )

    def _may_mention(self) -> bool:
        """Whether a word of the text is the name of a masked column."""
        if self._doubtful.everything:
            return True
        return any(self._catalogue.names_masked(word) for word in set(_WORDS.findall(self._text)))

    def _copy(self, body: Node) -> Lineage:
        form = _copy_format(body)
        is_stream = not body.get("filename") and not body.get("is_program")
        copy = form if is_stream else None
        if "query" in body:
            ((kind, query),) = body["query"].items()
            if self._is_plain({kind: query}):
                return Lineage(outputs=(), is_clear=True, whole=self._whole, copy=copy)
            result = self._run(kind, query, _Scope(None, _NO_CTES), is_top=True)
            return self._finish(self._outputs(result), copy=copy)
        scope = _Scope(None, _NO_CTES)
        source = self._target(body["relation"], is_written=bool(body.get("is_from")))
        if body.get("whereClause"):
            scope.sources.append(source)
            self.condition(body["whereClause"], scope)
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
        return any(each.generated for each in self._candidates(node))

    def _generated(self, node: Node) -> set[str]:
        return {
            name
            for each in self._candidates(node)
            for number, name, _ in each.columns
            if any(number == of for of, _ in each.generated)
        }

    # The quick way: nothing masked is near.

    def _is_plain(self, statement: Node) -> bool:
        """Whether a statement reads and writes nothing masked and calls nothing unknown."""
        if self.is_near:
            return False
        unresolved: set[str] = set()
        ctes: set[str] = set()
        written: list[Node] = []
        stack: list[Any] = [statement]
        while stack:
            node = stack.pop()
            if type(node) is list:
                stack += node
                continue
            for key, value in node.items():
                shape = type(value)
                if shape is list:
                    stack += value
                elif shape is not dict or key == "A_Const":
                    continue
                elif key == "ColumnRef":
                    fields = value["fields"]
                    if self._dotted and len(fields) > 1 and self._calls_by_dot(fields):
                        return False
                elif key == "RangeVar" or key == "relation":
                    if "relname" not in value:
                        stack.append(value)
                        continue
                    if not self._is_plain_relation(value, unresolved):
                        return False
                elif key == "FuncCall":
                    if not self._is_harmless_function(value):
                        return False
                    stack.append(value)
                elif key == "A_Expr":
                    if not self._is_harmless_operator(value["name"]):
                        return False
                    stack.append(value)
                elif key == "typeName":
                    if self._type_rule(value) is not None:
                        return False
                else:
                    if key == "A_Indirection":
                        if self._calls_by_dot(value["indirection"]):
                            return False
                    elif key == "CommonTableExpr":
                        ctes.add(value["ctename"])
                    elif key in _DML:
                        written.append(value["relation"])
                    elif key == "SubLink" and "operName" in value:
                        if not self._is_harmless_operator(value["operName"]):
                            return False
                    elif key == "RangeTableSample" or (key == "SortBy" and "useOp" in value):
                        return False
                    stack.append(value)
        if not unresolved <= ctes:
            return False
        return all(self._is_quiet(node) for node in written)

    def _is_plain_relation(self, node: Node, unresolved: set[str]) -> bool:
        name = node["relname"]
        if self._is_doubtful(name):
            return False
        found = self._candidates(node)
        if not found:
            if "schemaname" in node:
                return False
            unresolved.add(name)
            return True
        catalogue = self._catalogue
        for relation in found:
            table = catalogue.table(relation)
            if table.rule or table.tells or self._is_changed(relation):
                return False
        return True

    def _is_quiet(self, node: Node) -> bool:
        """Whether writing to a relation runs nothing of anybody's, and touches nothing masked."""
        found = self._candidates(node)
        return bool(found) and not any(
            relation.has_rules or self._writing_tells(relation) for relation in found
        )

    def _writing_tells(self, relation: Relation) -> bool:
        """Whether what is said about a write may quote a masked value."""
        catalogue = self._catalogue
        seen = {relation.oid}
        stack = [relation]
        while stack:
            each = stack.pop()
            if each.has_code or catalogue.table(each).tells or self._is_doubtful(each.name):
                return True
            if each.kind == "v":
                return True  # it writes to what is behind it
            for oid in (*each.children, *each.referrers):
                if oid not in seen and oid in catalogue.relations:
                    seen.add(oid)
                    stack.append(catalogue.relations[oid])
        return False

    # Names.

    def _is_doubtful(self, name: str) -> bool:
        return self._doubtful.everything or name in self._doubtful.names

    def _is_changed(self, relation: Relation) -> bool:
        """Whether something that a relation's rows come from is in doubt."""
        doubtful = self._doubtful
        if doubtful.settings and (relation.kind == "S" or relation.name in _ECHOING):
            return True
        return bool(doubtful.names) and not doubtful.names.isdisjoint(
            self._catalogue.names_behind(relation)
        )

    def _candidates(self, node: Node) -> Sequence[Relation]:
        return self._catalogue.candidates(node.get("schemaname"), node["relname"], self._path)

    def _is_harmless_function(self, call: Node) -> bool:
        names = [each["String"]["sval"] for each in call["funcname"]]
        name = names[-1]
        doubtful = self._doubtful
        if len(names) == 2 and names[0] == "pg_catalog":
            is_known = name in _FUNCTIONS
        elif len(names) == 2 and names[0] == "information_schema":
            is_known = name.startswith("_pg_")
        else:
            if doubtful.everything or name in doubtful.functions:
                return False
            if name in self._catalogue.functions:
                return False
            is_known = name in self._catalogue.known_functions or (
                len(names) == 1 and name in _FUNCTIONS
            )
        if name in _ECHOING_FUNCTIONS and (doubtful.settings or doubtful.everything):
            return False
        return is_known

    def _is_harmless_operator(self, names: Sequence[Node]) -> bool:
        name = names[-1]["String"]["sval"]
        if len(names) == 2 and names[0]["String"]["sval"] == "pg_catalog":
            return name in sql._OPERATORS
        for each in ("<=", ">=") if name.endswith(_BETWEEN) else (name,):
            if self._doubtful.everything or each in self._doubtful.operators:
                return False
            if each in self._catalogue.operators:
                return False
        if len(names) == 1 and name in sql._OPERATORS:
            return True
        return name in self._catalogue.known_operators

    def _type_rule(self, node: Node) -> str | None:
        """Return the rule that a value of a type is hidden by, None where it is harmless."""
        names = [each["String"]["sval"] for each in node.get("names", ())]
        if not names or node.get("pct_type"):
            return self._whole
        name = names[-1]
        schema = names[-2] if len(names) > 1 else None
        if schema == "information_schema":
            return None
        if schema == "pg_catalog":
            return None if name in sql._TYPES and not self._is_changed_type(name) else self._whole
        if self._is_doubtful(name):
            return self._whole
        path = self._path
        if schema is None and name in sql._TYPES:
            is_first = path is not None and "pg_catalog" not in path[1:]
            if is_first or not self._catalogue.types_named(None, name):
                return None if not self._is_changed_type(name) else self._whole
        found = self._catalogue.types_named(schema, name)
        if not found:
            return self._whole
        for each in found:
            rule = self._catalogue.held_by(each)
            if rule:
                return rule
            if not self._catalogue.is_safe_type(each):
                return self._whole
        return None

    def _is_changed_type(self, name: str) -> bool:
        return bool(self._catalogue.types_named("pg_catalog", name))

    # What flows.

    def flow(self, node: Any, scope: _Scope) -> _Flow:
        """Return what the value of an expression is made of."""
        flow = _Flow()
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
                    if not self._is_harmless_operator(value["name"]):
                        self._unknown(flow)
                    stack.append(value)
                elif key == "FuncCall":
                    self._call(value, scope, flow, stack)
                elif key == "typeName":
                    rule = self._type_rule(value)
                    if rule is not None:
                        self._tells = self._tells or rule
                        flow.rule = flow.rule or rule
                elif key == "SubLink":
                    self._sublink(value, scope, flow)
                elif key == "SelectStmt":
                    self._subquery(self._run(key, value, scope), flow)
                elif key == "A_Indirection":
                    self._indirection(value, scope, flow, stack)
                elif key == "MultiAssignRef":
                    self._assigned_part(value, scope, flow)
                elif key == "over":
                    self._window(value, scope, flow)
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

    def _unknown(self, flow: _Flow) -> None:
        flow.rule = flow.rule or self._whole
        self._tells = self._tells or self._whole

    def _call(self, call: Node, scope: _Scope, flow: _Flow, stack: list[Any]) -> None:
        name = call["funcname"][-1]["String"]["sval"]
        is_harmless = self._is_harmless_function(call)
        if not is_harmless:
            self._unknown(flow)
        elif name == "count":
            # How many there are says no value; but what they are is a condition.
            flow.is_count = flow.is_aggregate = True
            for each in call.get("args", ()):
                self.condition(each, scope)
        elif name in _KEEPING and self.flow(call.get("args", []), scope).rule:
            self._keeps = True
        if name in _AGGREGATES or "over" in call:
            flow.is_aggregate = True
        if name in _SETS or not is_harmless:
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
            self._window(call["over"], scope, flow)

    def _window(self, window: Node, scope: _Scope, flow: _Flow) -> None:
        for key in ("partitionClause", "orderClause"):
            for each in window.get(key, ()):
                self.condition(each, scope)
        for key in ("startOffset", "endOffset"):
            if key in window:
                flow.add(self.flow(window[key], scope))

    def _sublink(self, link: Node, scope: _Scope, flow: _Flow) -> None:
        ((kind, query),) = link["subselect"].items()
        if "operName" in link and not self._is_harmless_operator(link["operName"]):
            self._unknown(flow)
        if "testexpr" in link:
            flow.add(self.flow(link["testexpr"], scope))
        result = self._run(kind, query, scope)
        if link["subLinkType"] in ("EXPR_SUBLINK", "ARRAY_SUBLINK", "MULTIEXPR_SUBLINK"):
            self._subquery(result, flow)
            return
        if link["subLinkType"] != "EXISTS_SUBLINK":
            self._subquery(result, flow)
        # Whether there is a row is an answer about what its conditions mention.
        flow.rule = flow.rule or result.asked or result.spread
        flow.is_probe |= bool(result.spread)

    def _subquery(self, result: _Result, flow: _Flow) -> None:
        for column in result.all():
            flow.take(column)
        flow.rule = flow.rule or result.spread
        flow.is_probe |= bool(result.spread)

    def _indirection(self, node: Node, scope: _Scope, flow: _Flow, stack: list[Any]) -> None:
        names = [each["String"]["sval"] for each in node.get("indirection", ()) if "String" in each]
        fields = node["arg"].get("ColumnRef", {}).get("fields", ())
        if (
            names
            and len(fields) == 1
            and "String" in node["indirection"][0]
            and "String" in fields[0]
        ):
            alias = fields[0]["String"]["sval"]
            if self._is_row(alias, scope):
                self._column([fields[0], node["indirection"][0]], scope, flow)
                rest = node["indirection"][1:]
                if self._calls_by_dot(rest):
                    self._unknown(flow)
                stack += rest
                return
        if self._calls_by_dot(node["indirection"]):
            self._unknown(flow)
        stack.append(node["arg"])
        stack += node["indirection"]

    def _is_call_by_dot(self, name: str) -> bool:
        """Whether `(x).name` may call a function of anybody's."""
        return self._doubtful.everything or name in self._dotted

    def _calls_by_dot(self, fields: Iterable[Node]) -> bool:
        return any(
            self._is_call_by_dot(each["String"]["sval"]) for each in fields if "String" in each
        )

    def _is_row(self, name: str, scope: _Scope) -> bool:
        """Whether a name alone stands for a row of FROM, and for no column."""
        seen: _Scope | None = scope
        is_row = False
        while seen is not None:
            for source in seen.sources:
                if name in source.by_name or source.any is not None:
                    return False
                is_row = is_row or source.alias == name
            seen = seen.outer
        return is_row

    def _assigned_part(self, node: Node, scope: _Scope, flow: _Flow) -> None:
        source, number = node["source"], node["colno"] - 1
        if "RowExpr" in source and number < len(source["RowExpr"].get("args", ())):
            flow.add(self.flow(source["RowExpr"]["args"][number], scope))
            return
        if "SubLink" in source:
            ((kind, query),) = source["SubLink"]["subselect"].items()
            result = self._run(kind, query, scope)
            if result.columns is not None and number < len(result.columns):
                flow.take(result.columns[number])
                return
            self._subquery(result, flow)
            return
        flow.add(self.flow(source, scope))

    def _column(self, fields: list[Node], scope: _Scope, flow: _Flow) -> None:
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
        seen: _Scope | None = scope
        while seen is not None:
            self._spend(len(seen.sources))
            matching = [source for source in seen.sources if source.alias == alias]
            if matching:
                for source in matching:
                    self._of_source(source, name, flow)
                return
            seen = seen.outer
        self._unresolved(flow)

    def _of_source(self, source: _Source, name: str, flow: _Flow) -> None:
        if name == "*":
            flow.take(source.whole)
            return
        known = source.by_name.get(name, source.any)
        if known is not None:
            flow.take(known)
        elif name not in _SYSTEM_COLUMNS:
            self._unresolved(flow)

    def _unqualified(self, name: str, scope: _Scope, flow: _Flow) -> None:
        seen: _Scope | None = scope
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

    def _unresolved(self, flow: _Flow) -> None:
        self._unknown(flow)  # `row.f` may be a call

    def _spend(self, steps: int) -> None:
        """Bound the work: a text may have ten thousand names in ten thousand tables."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise _NotUnderstood

    # Conditions.

    def condition(self, node: Any, scope: _Scope) -> None:
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
                if "useOp" in by and not self._is_harmless_operator(by["useOp"]):
                    self._tells = self._tells or self._whole
                stack.append(by["node"])
            elif node:
                flow = self.flow(node, scope)
                self._ask(flow, scope)

    def _ask(self, flow: _Flow, scope: _Scope) -> None:
        """Note that which rows there are hangs on a value."""
        if flow.rule:
            scope.asked = scope.asked or flow.rule
            if flow.is_probe or (flow.refs and flow.is_made):
                # What was made up is found by it, and shows it.
                scope.spread = scope.spread or flow.rule
            self._hide(flow, flow.rule)

    def _hide(self, flow: _Flow, rule: str) -> None:
        """Hide the constants and the parameters that a value is made of."""
        for location in flow.constants:
            self._constants.setdefault(location, rule)
        for number in flow.params:
            self._params.setdefault(number, rule)
        for column in flow.refs:
            self._show(column, rule)

    def _show(self, column: Column, rule: str) -> None:
        stack = [column]
        while stack:
            column = stack.pop()
            if not column.refs and not column.constants and not column.params:
                continue
            if id(column) in self._shown:
                continue
            self._shown.add(id(column))
            for location in column.constants:
                self._constants.setdefault(location, rule)
            for number in column.params:
                self._params.setdefault(number, rule)
            stack += column.refs

    # Queries.

    def _run(self, kind: str, body: Node, outer: _Scope, *, is_top: bool = False) -> _Result:
        """Read a query; `outer` is what it sees around itself."""
        if kind == "SelectStmt":
            return self._select(body, outer, is_top=is_top)
        if kind == "InsertStmt":
            return self._insert(body, outer)
        if kind in ("UpdateStmt", "DeleteStmt"):
            return self._update(kind, body, outer)
        if kind == "MergeStmt":
            return self._merge(body, outer)
        raise _NotUnderstood

    def _enter(self, body: Node, outer: _Scope) -> _Scope:
        # A scope around nothing is left out: names are looked for in each.
        around = outer if outer.sources or outer.outer is not None else None
        if "withClause" not in body:
            return _Scope(around, outer.ctes)
        clause = body["withClause"]
        scope = _Scope(around, _Ctes(outer.ctes))
        is_recursive = clause.get("recursive", False)
        own = []
        for place, item in enumerate(clause.get("ctes", ())):
            query = item["CommonTableExpr"]
            seen = scope.ctes if is_recursive else scope.ctes.first(place)
            cte = _Cte(query, _Scope(around, seen))
            own.append(cte)
            scope.ctes.add(query["ctename"], cte)
        for cte in own:
            self._cte(cte)
        return scope

    def _cte(self, cte: _Cte) -> _Result:
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
                result = _renamed(self._run(kind, query, cte.scope), names)
            cte.result = self._with_path(cte.body, result)
            cte.is_running = False
        return cte.result

    def _recursive(self, cte: _Cte, query: Node, names: list[str]) -> _Result:
        if cte.scope.ctes.get(cte.body["ctename"]) is not cte:
            return _renamed(self._run("SelectStmt", query, cte.scope), names)
        around = self._enter(query, cte.scope)
        first = self._select(query["larg"], around)
        if first.columns is None:
            cte.result = first
        else:
            # Its own rows are rows that the text makes, one after the other.
            cte.result = _renamed(
                _Result(
                    [Column(each.name, each.rule, (each,), is_made=True) for each in first.columns],
                    spread=first.spread,
                ),
                names,
            )
        for _ in range(_MAX_ROUNDS):
            self._read_again += len(self._text)
            if self._read_again > _MAX_READ_AGAIN_BYTES:
                raise _NotUnderstood
            before = cte.result
            whole = _renamed(self._run("SelectStmt", query, cte.scope), names)
            cte.result = whole
            if _rules(before) == _rules(whole):
                return whole
        return self._hidden_result()

    def _with_path(self, body: Node, result: _Result) -> _Result:
        """Return a query of WITH with the columns that SEARCH and CYCLE add."""
        added = []
        if "search_clause" in body:
            added.append(body["search_clause"]["search_seq_column"])
        if "cycle_clause" in body:
            cycle = body["cycle_clause"]
            added += [cycle["cycle_mark_column"], cycle["cycle_path_column"]]
        if not added or result.columns is None:
            return result
        flow = _Flow()
        for column in result.columns:
            flow.take(column)
        return _Result(
            [*result.columns, *(flow.column(name) for name in added)],
            spread=result.spread,
            asked=result.asked,
        )

    def _hidden_result(self) -> _Result:
        return _Result(None, Column("*", self._whole, is_made=True))

    def _select(self, body: Node, outer: _Scope, *, is_top: bool = False) -> _Result:
        if body.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self._set_operation(body, outer)
        scope = self._enter(body, outer)
        if "valuesLists" in body:
            return self._values(body, scope)
        for item in body.get("fromClause", ()):
            scope.stars += self._from(item, scope)
        if "whereClause" in body:
            self.condition(body["whereClause"], scope)
        flows: list[_Flow] = []
        names: list[str] = []
        is_open = False
        for target in body.get("targetList", ()):
            is_open |= self._target_of(target["ResTarget"], scope, names, flows)
        aliases = dict(zip(names, flows, strict=True))
        for key in ("groupClause", "havingClause", "sortClause", "distinctClause"):
            if key in body:
                self._clause(body[key], scope, aliases, prefers_alias=key != "havingClause")
        for window in body.get("windowClause", ()):
            flow = _Flow()
            self._window(window["WindowDef"], scope, flow)
            scope.spread = scope.spread or flow.rule
        for key in ("limitCount", "limitOffset"):
            if key in body:
                flow = self.flow(body[key], scope)
                if flow.rule:
                    # Which row is shown is the value itself, where rows have numbers.
                    scope.spread = scope.spread or flow.rule
                    self._hide(flow, flow.rule)
                    for each in flows:
                        each.rule = each.rule or flow.rule
        return self._shown_columns(body, scope, names, flows, is_open=is_open, is_top=is_top)

    def _shown_columns(
        self,
        body: Node,
        scope: _Scope,
        names: list[str],
        flows: list[_Flow],
        *,
        is_open: bool,
        is_top: bool,
    ) -> _Result:
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
            return _Result(None, _any(columns), spread=spread, asked=asked)
        return _Result(columns, spread=spread, asked=asked)

    def _target_of(self, target: Node, scope: _Scope, names: list[str], flows: list[_Flow]) -> bool:
        """Add the columns of one item of a select list; return whether they are not known."""
        value = target["val"]
        fields = value["ColumnRef"]["fields"] if "ColumnRef" in value else ()
        if fields and "A_Star" in fields[-1]:
            return self._star(fields, scope, names, flows)
        if "A_Indirection" in value and "A_Star" in value["A_Indirection"]["indirection"][-1]:
            inner = value["A_Indirection"]
            of = inner["arg"].get("ColumnRef", {}).get("fields", ())
            is_alias = len(inner["indirection"]) == 1 and len(of) == 1 and "String" in of[0]
            if is_alias and self._is_row(of[0]["String"]["sval"], scope):
                return self._star([of[0], {"A_Star": {}}], scope, names, flows)
            names.append("*")
            flows.append(self.flow(value, scope))
            return True
        names.append(target.get("name") or _name_of(value))
        flows.append(self.flow(value, scope))
        return False

    def _star(
        self, fields: Sequence[Node], scope: _Scope, names: list[str], flows: list[_Flow]
    ) -> bool:
        sources = scope.stars
        if len(fields) > 1:
            alias = fields[-2]["String"]["sval"]
            sources = []
            seen: _Scope | None = scope
            while seen is not None and not sources:
                sources = [source for source in seen.sources if source.alias == alias]
                seen = seen.outer
            if len(sources) != 1:
                raise _NotUnderstood
        is_open = False
        for source in sources:
            if source.columns is None:
                is_open = True
            if len(names) + len(source.row()) > _MAX_COLUMNS:
                raise _NotUnderstood
            for column in source.row():
                names.append(column.name)
                flow = _Flow()
                flow.take(column)
                flows.append(flow)
        return is_open

    def _clause(
        self, items: Any, scope: _Scope, aliases: Mapping[str, _Flow], *, prefers_alias: bool
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
                    self._ask(flow, scope)
                    continue
            if node:
                self.condition(node, scope)

    def _set_operation(self, body: Node, outer: _Scope) -> _Result:
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
                        self._hide(flow, flow.rule)
                        result = _hidden_by(flow.rule, result)
        return result

    def _united(self, one: _Result, other: _Result) -> _Result:
        spread = one.spread or other.spread
        asked = one.asked or other.asked
        if one.columns is None or other.columns is None or len(one.columns) != len(other.columns):
            columns = _any([*one.all(), *other.all()])
            return _Result(None, columns, spread=spread, asked=asked)
        both = [_merged(a, b) for a, b in zip(one.columns, other.columns, strict=True)]
        for column in both:
            if column.rule:
                self._show(column, column.rule)
        return _Result(both, spread=spread, asked=asked)

    def _values(self, body: Node, scope: _Scope) -> _Result:
        rows = [each["List"]["items"] for each in body["valuesLists"]]
        flows = [_Flow() for _ in rows[0]]
        for row in rows:
            if len(row) != len(flows):
                raise _NotUnderstood
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
        return _Result(columns, spread=spread)

    # FROM.

    def _from(self, item: Node, scope: _Scope) -> list[_Source]:
        """Add what an item of FROM names to the scope; return what `*` stands for in it."""
        ((kind, body),) = item.items()
        if kind == "RangeVar":
            source = self._range_var(body, scope)
        elif kind == "JoinExpr":
            return self._join(body, scope)
        elif kind == "RangeSubselect":
            is_lateral = body.get("lateral", False)
            inner = scope if is_lateral else _Scope(scope.outer, scope.ctes)
            ((its_kind, query),) = body["subquery"].items()
            result = self._run(its_kind, query, inner)
            if is_lateral:
                scope.asked = scope.asked or result.asked
                scope.spread = scope.spread or result.spread
            source = _source(result, body.get("alias", {}))
        elif kind == "RangeFunction":
            source = self._range_function(body, scope)
        elif kind in ("RangeTableFunc", "JsonTable"):
            source = self._table_function(kind, body, scope)
        elif kind == "RangeTableSample":
            for each in body.get("args", ()):
                self.condition(each, scope)
            method = [each["String"]["sval"] for each in body.get("method", ())]
            if method not in (["bernoulli"], ["system"]):
                self._tells = self._tells or self._whole
            return self._from(body["relation"], scope)
        else:
            raise _NotUnderstood
        scope.sources.append(source)
        return [source]

    def _range_var(self, node: Node, scope: _Scope) -> _Source:
        if "schemaname" not in node:
            cte = scope.ctes.get(node["relname"])
            if cte is not None:
                return _source(self._cte(cte), node.get("alias", {}), node["relname"])
        return self._relation(node)

    def _relation(self, node: Node) -> _Source:
        alias = node.get("alias", {})
        name = alias.get("aliasname") or node["relname"]
        found = () if self._is_doubtful(node["relname"]) else self._candidates(node)
        if not found or any(map(self._is_changed, found)):
            self._tells = self._tells or self._whole
            return _Source(name, None, any_column=Column("*", self._whole))
        tables = [self._catalogue.table(relation) for relation in found]
        for table in tables:
            self._tells = self._tells or table.tells
        if len(tables) > 1:
            return _source(_of_any(tables), alias, name)
        if "colnames" in alias:
            return _source(_Result(tables[0].columns), alias, name)
        return _Source.of_table(tables[0], name)

    def _join(self, body: Node, scope: _Scope) -> list[_Source]:
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
        joined = _source(
            _Result(
                _columns_of(stars),
                _any(_rows_of(stars)),
                spread=next(filter(None, (source.spread for source in sources)), ""),
                asked=next(filter(None, (source.asked for source in sources)), ""),
            ),
            body["alias"],
        )
        scope.sources[before:] = [joined]
        return [joined]

    def _merge_columns(
        self, left: list[_Source], right: list[_Source], names: list[str], body: Node, scope: _Scope
    ) -> _Source:
        """Return the columns of a join by name: those that are in both come once, and first."""
        ours, theirs = _rows_of(left), _rows_of(right)
        is_open = _columns_of(left) is None or _columns_of(right) is None
        if body.get("isNatural"):
            known = {column.name for column in theirs}
            names = [column.name for column in ours if column.name in known or is_open]
        merged = []
        for name in dict.fromkeys(names):
            pair = [c for c in (*ours, *theirs) if c.name == name or (is_open and c.name == "*")]
            if not pair:
                raise _NotUnderstood
            flow = _Flow()
            for column in pair:
                flow.take(column)
            self._ask(flow, scope)
            merged.append(flow.column(name))
        by_name = {column.name: column for column in merged}
        scope.sources.append(_Source("", merged, by_name=by_name))
        if "join_using_alias" in body:
            alias = body["join_using_alias"]["aliasname"]
            scope.sources.append(_Source(alias, merged, by_name=by_name))
        rest = [column for column in (*ours, *theirs) if column.name not in by_name]
        if is_open:
            return _Source("", None, any_column=_any([*merged, *rest]))
        return _Source("", [*merged, *rest])

    def _range_function(self, body: Node, scope: _Scope) -> _Source:
        """Read functions in FROM: they see what is named before them."""
        alias = body.get("alias", {})
        columns: list[Column] | None = []
        whole = _Flow()
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
        result = _Result(columns, whole.column("*", is_made=True), spread=whole.rule)
        return _source(result, alias, _name_of(calls[0]["List"]["items"][0]))

    def _function_columns(
        self, call: Node, definitions: Sequence[Node], alias: Node, flow: _Flow, *, is_alone: bool
    ) -> list[Column] | None:
        """Return the columns of a function in FROM, None where they are not known."""
        for definition in definitions:
            if definition:
                return [
                    flow.column(each["ColumnDef"]["colname"], is_made=True)
                    for each in definition["List"]["items"]
                ]
        if "FuncCall" not in call:
            return [flow.column(_name_of(call), is_made=True)]
        if not self._is_harmless_function(call["FuncCall"]):
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

    def _table_function(self, kind: str, body: Node, scope: _Scope) -> _Source:
        flow = self.flow({key: part for key, part in body.items() if key != "alias"}, scope)
        parts = [part for each in body.get("columns", ()) for part in each.values()]
        names = [part.get("colname") or part.get("name") for part in parts]
        columns = None
        if all(names) and not any("columns" in part for part in parts):
            columns = [flow.column(name, is_made=True) for name in names]
        result = _Result(columns, flow.column("*", is_made=True), spread=flow.rule)
        name = "json_table" if kind == "JsonTable" else "xmltable"
        return _source(result, body.get("alias", {}), name)

    # What writes.

    def _target(self, node: Node, *, is_written: bool) -> _Source:
        """Return what is written to, with columns that take up what is assigned to them."""
        found = () if self._is_doubtful(node["relname"]) else self._candidates(node)
        for relation in found:
            if is_written and (relation.has_rules or (relation.kind == "v" and relation.has_code)):
                self._answers_otherwise = True
            if is_written and self._writing_tells(relation):
                self._tells = self._tells or self._whole
        if is_written and not found:
            self._answers_otherwise = True  # it may be anything by now
        source = self._relation(node)
        columns = None
        if source.columns is not None:
            columns = [Column(column.name, column.rule) for column in source.columns]
        any_column = None if source.any is None else Column("*", source.any.rule)
        return _Source(source.alias, columns, any_column=any_column)

    def _assign(self, target: _Source, name: str, flow: _Flow, node: Node, scope: _Scope) -> None:
        """Note that a value goes into a column."""
        column = target.by_name.get(name, target.any)
        if not flow.rule and scope.spread and flow.is_made:
            flow.rule = scope.spread
        rule = (column.rule if column is not None else self._whole) or flow.rule
        if not rule:
            return
        self._hide(flow, rule)
        if column is None or not column.rule:
            self._spoils.add(node["relname"])
        if column is not None and not column.rule:
            column.rule = rule

    def _assign_all(
        self,
        target: _Source,
        names: Sequence[str] | None,
        result: _Result,
        node: Node,
        place: _Scope,
    ) -> None:
        """Note that the columns of a query go into those of a table."""
        if names is None and target.columns is not None:
            names = [column.name for column in target.columns]
        if names is None or result.columns is None or len(names) < len(result.columns):
            # Which goes where is not known.
            flow = _Flow()
            for column in result.all():
                flow.take(column)
            for into in target.row():
                self._assign(target, into.name, flow, node, place)
            return
        for name, column in zip(names, result.columns, strict=False):
            flow = _Flow()
            flow.take(column)
            self._assign(target, name, flow, node, place)

    def _insert(self, body: Node, outer: _Scope) -> _Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self._target(node, is_written=True)
        names = None
        if "cols" in body:
            names = [each["ResTarget"]["name"] for each in body["cols"]]
        if "selectStmt" in body:
            ((kind, query),) = body["selectStmt"].items()
            self._assign_all(target, names, self._run(kind, query, scope), node, scope)
        scope.sources.append(target)
        scope.stars.append(target)
        if "onConflictClause" in body:
            clause = body["onConflictClause"]
            excluded = _Source("excluded", target.columns, any_column=target.any)
            scope.sources.append(excluded)
            infer = clause.get("infer", {})
            self.condition(infer.get("indexElems", []), scope)
            for each in (infer, clause):
                if "whereClause" in each:
                    self.condition(each["whereClause"], scope)
            self._set(clause.get("targetList", ()), target, node, scope)
            scope.sources.remove(excluded)
        return self._returning(body, target, scope)

    def _set(self, targets: Iterable[Node], target: _Source, node: Node, scope: _Scope) -> None:
        for each in targets:
            item = each["ResTarget"]
            flow = self.flow(item["val"], scope)
            for index in item.get("indirection", ()):
                flow.add(self.flow(index, scope))
            self._assign(target, item["name"], flow, node, scope)

    def _update(self, kind: str, body: Node, outer: _Scope) -> _Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self._target(node, is_written=True)
        scope.sources.append(target)
        scope.stars.append(target)
        for item in body.get("fromClause" if kind == "UpdateStmt" else "usingClause", ()):
            scope.stars += self._from(item, scope)
        if "whereClause" in body:
            self.condition(body["whereClause"], scope)
        if kind == "UpdateStmt":
            self._set(body["targetList"], target, node, scope)
        return self._returning(body, target, scope)

    def _merge(self, body: Node, outer: _Scope) -> _Result:
        scope = self._enter(body, outer)
        node = body["relation"]
        target = self._target(node, is_written=True)
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
                self._assign_all(target, names, _Result(columns), node, scope)
        return self._returning(body, target, scope)

    def _returning(self, body: Node, target: _Source, scope: _Scope) -> _Result:
        clause = body.get("returningClause", {})
        targets = clause.get("exprs", body.get("returningList", ()))
        if not targets:
            return _Result([])
        given = {"RETURNING_OPTION_OLD": "old", "RETURNING_OPTION_NEW": "new"}
        for each in clause.get("options", ()):
            option = each["ReturningOption"]
            given[option.get("option", "RETURNING_OPTION_OLD")] = option["value"]
        taken = {source.alias for source in scope.sources}
        for alias in given.values():
            if alias not in taken:
                scope.sources.append(_Source(alias, target.columns, any_column=target.any))
        flows: list[_Flow] = []
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


def _source(result: _Result, alias: Node, name: str = "") -> _Source:
    """Return what FROM names by `alias`, or by its own name where it has none."""
    names = [each["String"]["sval"] for each in alias.get("colnames", ())]
    named = _renamed(result, names)
    by_name = None
    if named.columns is None and names and named.any is not None:
        by_name = dict.fromkeys(names, named.any)
    return _Source(
        alias.get("aliasname") or name,
        named.columns,
        any_column=named.any if named.columns is None else None,
        by_name=by_name,
        spread=named.spread,
        asked=named.asked,
    )


def _renamed(result: _Result, names: Sequence[str]) -> _Result:
    if not names or result.columns is None:
        return result
    if len(names) > len(result.columns):
        raise _NotUnderstood
    renamed = [
        Column(name, column.rule, (column,), is_made=column.is_made)
        for name, column in zip(names, result.columns, strict=False)
    ]
    return _Result(
        [*renamed, *result.columns[len(names) :]], spread=result.spread, asked=result.asked
    )


def _of_any(tables: Sequence[Table]) -> _Result:
    """Return the columns of a name that may stand for any of several relations."""
    first, *others = tables
    names = [column.name for column in first.columns]
    if any([column.name for column in other.columns] != names for other in others):
        return _Result(None, _any([column for table in tables for column in table.columns]))
    columns = first.columns
    for other in others:
        columns = [_merged(a, b) for a, b in zip(columns, other.columns, strict=True)]
    return _Result(columns)


def _hidden_by(rule: str, result: _Result) -> _Result:
    columns = result.columns
    if columns is not None:
        columns = [Column(each.name, each.rule or rule, (each,)) for each in columns]
    any_column = None if result.any is None else Column("*", rule, (result.any,))
    return _Result(columns, any_column, spread=rule, asked=result.asked)


def _any(columns: Iterable[Column]) -> Column:
    """Return one column that stands for any of some."""
    refs = list(columns)
    rule = next((column.rule for column in refs if column.rule), "")
    return Column("*", rule, refs, is_made=any(column.is_made for column in refs))


def _rows_of(sources: Sequence[_Source]) -> list[Column]:
    return [column for source in sources for column in source.row()]


def _columns_of(sources: Sequence[_Source]) -> list[Column] | None:
    if any(source.columns is None for source in sources):
        return None
    return _rows_of(sources)


def _rules(result: _Result) -> list[str]:
    return [result.spread, *(column.rule for column in result.all())]


def _name_of(node: Node) -> str:
    """Return the name that PostgreSQL gives a column without one: what is around can use it.

    Source: FigureColname in `src/backend/parser/parse_target.c`.
    """
    return _figured(node)[0] or "?column?"


def _figured(node: Node) -> tuple[str, int]:
    """Return a name and how good it is: what a cast is of may have a better one than its type."""
    ((kind, body),) = node.items()
    if kind == "ColumnRef":
        last = body["fields"][-1]
        return (str(last["String"]["sval"]), 2) if "String" in last else ("", 0)
    if kind == "A_Indirection":
        names = [each["String"]["sval"] for each in body["indirection"] if "String" in each]
        return (str(names[-1]), 2) if names else _figured(body["arg"])
    if kind == "FuncCall":
        return str(body["funcname"][-1]["String"]["sval"]), 2
    if kind == "A_Expr":
        return ("nullif", 2) if body.get("kind") == "AEXPR_NULLIF" else ("", 0)
    if kind == "TypeCast":
        name, strength = _figured(body["arg"])
        return (name, 2) if strength > 1 else (body["typeName"]["names"][-1]["String"]["sval"], 1)
    if kind == "CollateClause":
        return _figured(body["arg"])
    if kind == "CaseExpr":
        name, strength = _figured(body["defresult"]) if "defresult" in body else ("", 0)
        return (name, 2) if strength > 1 else ("case", 1)
    if kind == "SubLink":
        return _figured_sublink(body)
    if kind in _BY_OP:
        return _BY_OP[kind].get(body.get("op", ""), ""), 2
    name = _NAMES.get(kind, "")
    return name, 2 if name else 0


def _figured_sublink(body: Node) -> tuple[str, int]:
    if body["subLinkType"] != "EXPR_SUBLINK":
        name = {"EXISTS_SUBLINK": "exists", "ARRAY_SUBLINK": "array"}.get(body["subLinkType"], "")
        return name, 2 if name else 0
    ((_, query),) = body["subselect"].items()
    while "larg" in query:
        query = query["larg"]
    if "valuesLists" in query:
        return "column1", 2
    if not query.get("targetList"):
        return "", 0
    target = query["targetList"][0]["ResTarget"]
    return target.get("name") or _name_of(target["val"]), 2


_BY_OP: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "MinMaxExpr": {"IS_GREATEST": "greatest", "IS_LEAST": "least"},
        "XmlExpr": {
            "IS_XMLCONCAT": "xmlconcat",
            "IS_XMLELEMENT": "xmlelement",
            "IS_XMLFOREST": "xmlforest",
            "IS_XMLPARSE": "xmlparse",
            "IS_XMLPI": "xmlpi",
            "IS_XMLROOT": "xmlroot",
        },
        "JsonFuncExpr": {
            "JSON_EXISTS_OP": "json_exists",
            "JSON_QUERY_OP": "json_query",
            "JSON_VALUE_OP": "json_value",
        },
        "SQLValueFunction": {
            f"SVFOP_{name.upper()}{suffix}": name
            for name in words(
                """
                current_date current_time current_timestamp localtime localtimestamp current_role
                current_user user session_user current_catalog current_schema
                """
            )
            for suffix in ("", "_N")
        },
    }
)

_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "A_ArrayExpr": "array",
        "CoalesceExpr": "coalesce",
        "GroupingFunc": "grouping",
        "JsonArrayAgg": "json_arrayagg",
        "JsonArrayConstructor": "json_array",
        "JsonArrayQueryConstructor": "json_array",
        "JsonObjectAgg": "json_objectagg",
        "JsonObjectConstructor": "json_object",
        "JsonParseExpr": "json",
        "JsonScalarExpr": "json_scalar",
        "JsonSerializeExpr": "json_serialize",
        "MergeSupportFunc": "merge_action",
        "RowExpr": "row",
        "XmlSerialize": "xmlserialize",
    }
)


# The text.


def _all_constants(text: str, rule: str) -> tuple[Hidden, ...]:
    """Return all constants of a text that may parse or not."""
    try:
        tokens = libpg_query.scan(text)
    except Exception:
        # Up to where it is broken it may say anything, and be cut anywhere.
        found = _FIRST.search(text)
        if found is None:
            return ()
        start = len(text[: found.start()].encode("utf-8", "surrogatepass"))
        return (Hidden(start, len(text.encode("utf-8", "surrogatepass")), rule),)
    offset = _offsets(text)
    return tuple(
        Hidden(offset(token.start), offset(token.end + 1), rule)
        for token in tokens
        if token.name in _CONSTANT_TOKENS
    )


_RELATIONS: Final = re.compile(r'"relname":"([^"\\]*)"')
_FIRST: Final = re.compile(r"['\"$]|(?<![A-Za-z_0-9])\d")
# What ends where it seems to: a string of several parts goes on after a line, or a comment.
_SIMPLE: Final = re.compile(r"'[^']*'(?!\s*(?:'|--))|\d+(?![\w.])")
_WORDS: Final = re.compile(r"[^\W\d][\w$]*")


def _located(text: str, constants: Mapping[int, str]) -> tuple[Hidden, ...]:
    """Return the constants that begin at some bytes of a text, to their ends."""
    found = []
    if text.isascii():
        for start, rule in sorted(constants.items()):
            match = _SIMPLE.match(text, start)
            if match is None:
                break
            is_national = text[start - 1 : start] in ("N", "n") and text[start] == "'"
            found.append(Hidden(start - is_national, match.end(), rule))
        else:
            return tuple(found)
        found = []
    offset = _offsets(text)
    waiting: tuple[int, str] | None = None
    before = -1  # where the N of N'…' is
    for token in libpg_query.scan(text):
        start = offset(token.start)
        if start in constants:
            waiting = (start if before < 0 else before, constants[start])
        before = start if token.name == "NCHAR" else -1
        # A sign and the N of N'…' are a part of the constant.
        if waiting is not None and token.name in _CONSTANT_TOKENS:
            found.append(Hidden(waiting[0], offset(token.end + 1), waiting[1]))
            waiting = None
    return tuple(found)


def _offsets(text: str) -> Any:
    """Return what tells a character's place in UTF-8."""
    if text.isascii():
        return lambda place: place
    places = [0]
    for character in text:
        places.append(places[-1] + len(character.encode("utf-8", "surrogatepass")))
    return places.__getitem__


def _copy_format(body: Node) -> CopyFormat:
    """Return how the lines of a COPY are written."""
    given: dict[str, Any] = {}
    is_understood = True
    for name, value in options(body):
        if name in given:
            is_understood = False
        given[name] = value
    form = _option(given, "format", "text").lower()
    is_csv = form == "csv"
    header = _option(given, "header", "off", bare="on").lower()
    quote = _option(given, "quote", '"')
    is_understood &= form in ("text", "csv", "binary") and header in _HEADERS
    is_understood &= given.keys() <= _COPY_OPTIONS
    return CopyFormat(
        direction="in" if body.get("is_from") else "out",
        format=form,
        delimiter=_option(given, "delimiter", "," if is_csv else "\t"),
        null=_option(given, "null", "" if is_csv else "\\N"),
        header=_HEADERS.get(header, "on"),
        quote=quote,
        escape=_option(given, "escape", quote),
        encoding=_option(given, "encoding", ""),
        default=_option(given, "default", "") if "default" in given else None,
        force_quote=_listed(given.get("force_quote")),
        force_null=_listed(given.get("force_null")),
        force_not_null=_listed(given.get("force_not_null")),
        is_understood=is_understood,
    )


_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("off", "false", "0", "no"), "")
    | dict.fromkeys(("on", "true", "1", "yes"), "on")
    | {"match": "match"}
)

_COPY_OPTIONS: Final = frozenset(
    words(
        """
        format delimiter null header quote escape encoding default force_quote force_null
        force_not_null freeze on_error log_verbosity reject_limit
        """
    )
)


def _option(given: Mapping[str, Any], name: str, default: str, *, bare: str = "") -> str:
    if name not in given:
        return default
    value = given[name]
    if not value:
        return bare or default
    ((kind, body),) = value.items()
    if kind == "Boolean":
        return "on" if body.get("boolval") else "off"
    if kind == "Integer":
        return str(body.get("ival", 0))
    return str(body.get("sval", default))


def _listed(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    if "A_Star" in value:
        return ("*",)
    return tuple(each["String"]["sval"] for each in value["List"]["items"])


# What changes the catalogue.


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
    if kind in ("DoStmt", "CallStmt"):
        return EVERYTHING
    if kind in ("ExecuteStmt", "FetchStmt"):
        if run is None:
            return EVERYTHING
        found = NO_DOUBT
        for each in run:
            found |= changes(each, run=(), catalogue=catalogue)
        return found
    reading = _Reading("", catalogue or _NOTHING, None, NO_DOUBT)
    inside = _inside(statement, reading, run, catalogue)
    if kind in _QUERIES or kind in _SILENT or kind in _HARMLESS_KINDS or inside.everything:
        return inside
    if kind in ("ExplainStmt", "DeclareCursorStmt", "PrepareStmt", "CopyStmt"):
        return inside
    return inside | _defined(kind, body)


_NOTHING: Final = Catalogue(())


def _inside(
    statement: Node, reading: _Reading, run: Iterable[str] | None, catalogue: Catalogue | None
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
                if not reading._is_harmless_function(value):
                    return EVERYTHING
                if value["funcname"][-1]["String"]["sval"] in _KEEPING:
                    settings = settings or not all(
                        "A_Const" in each or "TypeCast" in each for each in value.get("args", ())
                    )
            elif key == "A_Expr":
                if not reading._is_harmless_operator(value["name"]):
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

# What answers with no row, and reads and writes none.
_SILENT: Final = frozenset(
    words(
        """
        VariableSetStmt ClosePortalStmt DeallocateStmt DiscardStmt ListenStmt UnlistenStmt
        NotifyStmt LockStmt CheckPointStmt
        """
    )
)

# What runs the code of indexes, defaults or views on rows that are there.
_RUNNING: Final = frozenset(
    words("RefreshMatViewStmt VacuumStmt ClusterStmt ReindexStmt AlterTableStmt IndexStmt")
)

_BETWEEN: Final = ("BETWEEN", "BETWEEN SYMMETRIC")
