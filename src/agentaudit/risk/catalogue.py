"""What a database's own catalogue says about its relations, and which of their columns are masked.

A rule names columns of tables; what an agent reads may be a view on them, a partition, a parent, or
a column that holds their rows as a value. All of that is decided here, once for each catalogue:
a view by the lineage of its definition, what inherits by its name, a value by its type.

The queries are to be run under an empty search_path: then PostgreSQL qualifies every name that it
writes, and no name in them can lead elsewhere. `read` refuses answers that were given otherwise.

Catalogue: postgresql.org/docs/current/catalogs.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk.tree import words

SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema"})


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation as `pg_class` has it; `columns` are (number, name, type) without dropped ones.

    `definition` is a view's query with all names qualified, `generated` are the expressions of
    generated columns by number. `has_code` says that a write to it may run what is not
    PostgreSQL's own, `has_policies` that a read may; `has_rules` that a write may answer with
    other rows than its own. `referrers` are the tables that a delete or an update is passed on to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[tuple[int, str, str], ...]
    definition: str = ""
    has_code: bool = False
    children: tuple[int, ...] = ()
    has_rules: bool = False
    has_policies: bool = False
    referrers: tuple[int, ...] = ()
    generated: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Type:
    """A type outside of pg_catalog, or one of pg_catalog that a foreign cast leads to.

    `of` are the names of the types that it is made of: of an array, a domain or a range one.
    `is_safe` says that making or casting a value of it runs nothing but PostgreSQL's own code,
    as far as that hangs on this type alone.
    """

    schema: str
    name: str
    kind: str
    of: tuple[str, ...] = ()
    relation: int = 0
    is_safe: bool = False


class Column:
    """A column of something in FROM: the rule that hides it, or "".

    `constants` (byte offsets) and `params` are what its values are made of in the text itself,
    besides `refs`. `is_made` says that the text makes them up: they show what they are compared
    with, as those of a table need not.
    """

    __slots__ = ("constants", "is_made", "name", "params", "refs", "rule")

    def __init__(
        self,
        name: str,
        rule: str = "",
        refs: Sequence[Column] = (),
        constants: Sequence[int] = (),
        params: Sequence[int] = (),
        *,
        is_made: bool = False,
    ) -> None:
        self.name = name
        self.rule = rule
        self.refs = refs
        self.constants = constants
        self.params = params
        self.is_made = is_made


class Table:
    """A relation with the rules of its columns; `rule` is that of the first masked one."""

    __slots__ = ("by_name", "columns", "relation", "rule", "tells")

    def __init__(self, relation: Relation, rules: Sequence[str], tells: str = "") -> None:
        self.relation = relation
        self.columns = [
            Column(name, rule) for (_, name, _), rule in zip(relation.columns, rules, strict=True)
        ]
        self.by_name = {column.name: column for column in self.columns}
        self.rule = next(filter(None, rules), "")
        self.tells = tells or ("" if relation.schema in SYSTEM_SCHEMAS else self.rule)


class Catalogue:
    """What one database's catalogue said at one moment, and which of its columns are masked.

    `columns` are the (pattern, rule) pairs of the settings, the first that matches wins. A pattern
    is `column`, `table.column` or `schema.table.column`, `*` matches any part, and upper and lower
    case are the same. `functions` and `operators` are the names of those outside of pg_catalog
    that may do anything, `known_functions` and `known_operators` of those that are known not to.

    `whole` is the rule to name for what may be any masked column; "" masks nothing at all.
    """

    def __init__(
        self,
        relations: Iterable[Relation],
        search_path: Sequence[str] = (),
        user: str = "",
        functions: frozenset[str] = frozenset(),
        operators: frozenset[str] = frozenset(),
        types: Iterable[Type] = (),
        columns: Sequence[tuple[str, str]] = (),
        *,
        known_functions: frozenset[str] = frozenset(),
        known_operators: frozenset[str] = frozenset(),
        has_event_triggers: bool = False,
    ) -> None:
        self.relations: Mapping[int, Relation] = {each.oid: each for each in relations}
        self.search_path = tuple(search_path)
        self.user = user
        self.functions = functions
        self.operators = operators
        self.known_functions = known_functions - functions
        self.known_operators = known_operators - operators
        self.has_event_triggers = has_event_triggers
        self.whole = columns[0][1] if columns else ""
        self._patterns = _Patterns(columns)
        self._by_name: dict[str, list[Relation]] = {}
        for relation in self.relations.values():
            self._by_name.setdefault(relation.name, []).append(relation)
        self._types: dict[str, list[Type]] = {}
        for each in types:
            self._types.setdefault(each.name, []).append(each)
        self._named: dict[int, list[str]] = {}
        self._tables: dict[int, Table | None] = {}
        self._behind: dict[int, frozenset[str]] = {}
        self._safe: dict[tuple[str, str], bool] = {}
        self._held: dict[tuple[str, str], str] = {}
        self._inherit()

    def rule_of(self, oid: int, attnum: int) -> str | None:
        """Return the rule that hides a column, "" where it is proven clear; None is not known."""
        relation = self.relations.get(oid)
        if relation is None:
            return None
        if attnum < 0:
            return ""  # where and when a row is, and never what
        if attnum == 0:
            return self.table(relation).rule  # the whole row
        for column, (number, _, _) in zip(
            self.table(relation).columns, relation.columns, strict=True
        ):
            if number == attnum:
                return column.rule
        return None

    def resolve(self, schema: str | None, name: str, path: Sequence[str]) -> Relation | None:
        """Return the relation that a name stands for under a search_path."""
        found = self.candidates(schema, name, path)
        return found[0] if found else None

    def candidates(
        self, schema: str | None, name: str, path: Sequence[str] | None
    ) -> Sequence[Relation]:
        """Return the relations that a name may stand for: one under a known search_path."""
        found = self._by_name.get(name, ())
        if not found:
            return found
        if schema is not None:
            return [each for each in found if each.schema == schema]
        if path is None:
            return found
        if not self.user and ("$user" in path or '"$user"' in path):
            return found
        where = [self.user if each in ("$user", '"$user"') else each for each in path]
        if "pg_catalog" not in where:
            where.insert(0, "pg_catalog")
        for each in where:
            for relation in found:
                if relation.schema == each:
                    return (relation,)
        return ()

    def table(self, relation: Relation) -> Table:
        """Return a relation's columns with their rules; a view's are worked out when asked for."""
        table = self._tables.get(relation.oid)
        if table is None:
            if relation.oid in self._tables:  # a view on itself is nothing that can be read
                return Table(relation, [self.whole] * len(relation.columns), self.whole)
            self._tables[relation.oid] = None
            table = self._tables[relation.oid] = self._work_out(relation)
        return table

    def names_behind(self, relation: Relation) -> frozenset[str]:
        """Return the names of all relations that a relation's rows come from, its own included."""
        if relation.oid not in self._behind:
            seen = {relation.oid}
            names = set()
            stack = [relation]
            while stack:
                each = stack.pop()
                names.add(each.name)
                others = [self.relations[oid] for oid in each.children if oid in self.relations]
                if each.definition:
                    for schema, name in _named(each.definition):
                        others += self.candidates(schema, name, ())
                for other in others:
                    if other.oid not in seen:
                        seen.add(other.oid)
                        stack.append(other)
            self._behind[relation.oid] = frozenset(names)
        return self._behind[relation.oid]

    def has_masked(self, name: str) -> bool:
        """Whether a relation of this name, in whatever schema, has a masked column."""
        return any(self.table(each).rule for each in self._by_name.get(name, ()))

    def names_masked(self, name: str) -> str:
        """Return the rule that hides a column of this name in some table, or ""."""
        return self._patterns.of_column(name)

    def types_named(self, schema: str | None, name: str) -> Sequence[Type]:
        """Return the types outside of PostgreSQL's own that a name may stand for."""
        found = self._types.get(name, ())
        return found if schema is None else [each for each in found if each.schema == schema]

    def is_safe_type(self, each: Type) -> bool:
        """Whether making a value of a type runs nothing but PostgreSQL's own code."""
        key = (each.schema, each.name)
        if key not in self._safe:
            self._safe[key] = False  # while it is looked into: a type of itself is none
            self._safe[key] = each.is_safe and all(map(self._is_safe_name, self._parts(each)))
        return self._safe[key]

    def held_by(self, each: Type) -> str:
        """Return the rule of a masked column that a value of a type may have inside, or ""."""
        key = (each.schema, each.name)
        if key not in self._held:
            rule = ""
            seen = {key}
            stack = [each]
            while stack and not rule:
                inner = stack.pop()
                rule = next(filter(None, self._named.get(inner.relation, ())), "")
                for name in self._parts(inner):
                    for part in self._of_name(name):
                        if (part.schema, part.name) not in seen:
                            seen.add((part.schema, part.name))
                            stack.append(part)
            self._held[key] = rule
        return self._held[key]

    def _parts(self, each: Type) -> Iterator[str]:
        yield from each.of
        if each.relation in self.relations:
            for _, _, type_name in self.relations[each.relation].columns:
                yield type_name

    def _is_safe_name(self, name: str) -> bool:
        found = self._of_name(name)
        if not found:
            return name.startswith("pg_catalog.")
        return all(map(self.is_safe_type, found))

    def _of_name(self, name: str) -> Sequence[Type]:
        """Return the types of a name with its schema, an array's `[]` aside."""
        schema, _, last = name.removesuffix("[]").partition(".")
        return self.types_named(schema, last)

    def _inherit(self) -> None:
        """Find which columns are masked by name, in a table and in what inherits from it."""
        own = {each.oid: self._patterns.of(each) for each in self.relations.values()}
        parents: dict[int, list[int]] = {}
        for relation in self.relations.values():
            for child in relation.children:
                parents.setdefault(child, []).append(relation.oid)
        down = self._spread(own, lambda oid: self.relations[oid].children)
        # Upwards alone: what hides a column of one partition says nothing of its siblings.
        up = self._spread(down, lambda oid: parents.get(oid, ()))
        self._named = {
            oid: [a or b for a, b in zip(down[oid], up[oid], strict=True)] for oid in own
        }

    def _spread(self, rules: Mapping[int, list[str]], following: Any) -> dict[int, list[str]]:
        """Return the rules with those that reach a relation along `following`."""
        spread = {oid: list(each) for oid, each in rules.items()}
        stack = [oid for oid, each in spread.items() if any(each)]
        while stack:
            oid = stack.pop()
            names = [name for _, name, _ in self.relations[oid].columns]
            masked = {n: rule for n, rule in zip(names, spread[oid], strict=True) if rule}
            for other in following(oid):
                if other not in self.relations:
                    continue
                known = spread[other]
                changed = False
                for place, (_, name, _) in enumerate(self.relations[other].columns):
                    if not known[place] and name in masked:
                        known[place] = masked[name]
                        changed = True
                if changed:
                    stack.append(other)
        return spread

    def _own_rules(self, relation: Relation) -> list[str]:
        """Return the rules by name and by type, of anything but a view all that there are."""
        if not self.whole:
            return [""] * len(relation.columns)
        if relation.schema in SYSTEM_SCHEMAS:
            return self._system_rules(relation)
        return [
            rule or self._rule_of_type(type_name)
            for rule, (_, _, type_name) in zip(
                self._named[relation.oid], relation.columns, strict=True
            )
        ]

    def _rule_of_type(self, type_name: str) -> str:
        found = self._of_name(type_name)
        if not found:
            return "" if type_name.startswith("pg_catalog.") else self.whole
        rule = next(filter(None, map(self.held_by, found)), "")
        # What reads such a value may run what is somebody's own.
        return rule or ("" if all(map(self.is_safe_type, found)) else self.whole)

    def _system_rules(self, relation: Relation) -> list[str]:
        if relation.schema == "information_schema":
            return [""] * len(relation.columns)
        hidden = _TELLING.get(relation.name, None if relation.name in _PLAIN else _ALL)
        if hidden is None:
            return [""] * len(relation.columns)
        return [
            self.whole if hidden is _ALL or name in hidden else ""
            for _, name, _ in relation.columns
        ]

    def _work_out(self, relation: Relation) -> Table:
        rules = self._own_rules(relation)
        tells = ""
        if not self.whole or relation.schema in SYSTEM_SCHEMAS:
            return Table(relation, rules)
        # Late, for lineage reads catalogues, and a catalogue's views are what only lineage can say.
        from agentaudit.risk import lineage

        if relation.kind in "vm":
            found, tells = lineage.of_view(relation.definition, self, len(rules))
            rules = [a or b for a, b in zip(rules, found, strict=True)]
        elif relation.generated:
            expressions = dict(relation.generated)
            plain = Table(relation, rules)
            rules = [
                rule or (
                    lineage.of_expression(expressions[number], plain, self)
                    if number in expressions
                    else ""
                )
                for rule, (number, _, _) in zip(rules, relation.columns, strict=True)
            ]  # fmt: skip
        for oid in relation.children:
            if oid in self.relations:
                child = self.table(self.relations[oid]).by_name
                rules = [
                    rule or (child[name].rule if name in child else "")
                    for rule, (_, name, _) in zip(rules, relation.columns, strict=True)
                ]
        if relation.has_policies:
            tells = tells or self.whole
        return Table(relation, rules, tells)


class _Patterns:
    """The columns that the settings name, first match first."""

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        self._by_column: dict[str, list[tuple[int, str, str, str]]] = {}
        for place, (pattern, rule) in enumerate(columns):
            parts = [
                part[1:-1].replace('""', '"') if part.startswith('"') else part
                for part in _PARTS.findall(pattern.lower())
            ]
            schema, table, column = (["*", "*"] + parts)[-3:]
            self._by_column.setdefault(column, []).append((place, schema, table, rule))

    def of(self, relation: Relation) -> list[str]:
        """Return the rule of each column of a relation by its name."""
        if relation.schema in SYSTEM_SCHEMAS:
            return [""] * len(relation.columns)
        schema, table = relation.schema.lower(), relation.name.lower()
        found = []
        for _, name, _ in relation.columns:
            patterns = [*self._by_column.get(name.lower(), ()), *self._by_column.get("*", ())]
            matching = [
                (place, rule)
                for place, of_schema, of_table, rule in patterns
                if of_schema in ("*", schema) and of_table in ("*", table)
            ]
            found.append(min(matching)[1] if matching else "")
        return found

    def of_column(self, name: str) -> str:
        patterns = self._by_column.get(name.lower())
        return patterns[0][3] if patterns else ""


def _named(definition: str) -> list[tuple[str | None, str]]:
    """Return the relations that a query names, and the queries of its WITH as well."""
    found: list[tuple[str | None, str]] = []
    stack: list[Any] = [orjson.loads(libpg_query.parse_sql_json(definition))]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            if isinstance(node.get("relname"), str):
                found.append((node.get("schemaname"), node["relname"]))
            stack += node.values()
    return found


_PARTS: Final = re.compile(r'"(?:[^"]|"")*"|[^.]+')

_ALL: Final[frozenset[str]] = frozenset({"*"})

# What shows values that stand in tables, what is running, or a secret of the server's own.
_TELLING: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "pg_attribute": frozenset({"attmissingval"}),
        "pg_stat_activity": frozenset({"query"}),
        "pg_prepared_statements": frozenset({"statement"}),
        "pg_cursors": frozenset({"statement"}),
        "pg_authid": frozenset({"rolpassword"}),
        "pg_shadow": frozenset({"passwd"}),
        "pg_subscription": frozenset({"subconninfo"}),
        "pg_stat_wal_receiver": frozenset({"conninfo"}),
        "pg_foreign_server": frozenset({"srvoptions"}),
        "pg_stats": frozenset(
            words(
                """
                most_common_vals histogram_bounds most_common_elems elem_count_histogram
                range_length_histogram range_bounds_histogram
                """
            )
        ),
    }
)

# What describes the database, and shows no value of a table; any other of pg_catalog may.
_PLAIN: Final = frozenset(
    words(
        """
        pg_aggregate pg_am pg_amop pg_amproc pg_attrdef pg_auth_members
        pg_available_extension_versions pg_available_extensions pg_backend_memory_contexts pg_cast
        pg_class pg_collation pg_config pg_constraint pg_conversion pg_database pg_db_role_setting
        pg_default_acl pg_depend pg_description pg_enum pg_event_trigger pg_extension
        pg_file_settings pg_foreign_data_wrapper pg_foreign_table pg_group pg_hba_file_rules
        pg_ident_file_mappings pg_index pg_indexes pg_inherits pg_init_privs pg_language
        pg_largeobject_metadata pg_locks pg_matviews pg_namespace pg_opclass pg_operator
        pg_opfamily pg_parameter_acl pg_partitioned_table pg_policies pg_policy pg_prepared_xacts
        pg_proc pg_publication pg_publication_namespace pg_publication_rel pg_publication_tables
        pg_range pg_replication_origin pg_replication_origin_status pg_replication_slots pg_rewrite
        pg_roles pg_rules pg_seclabel pg_seclabels pg_sequence pg_sequences pg_settings pg_shdepend
        pg_shdescription pg_shmem_allocations pg_shmem_allocations_numa pg_shseclabel
        pg_stat_all_indexes pg_stat_all_tables pg_stat_archiver pg_stat_bgwriter
        pg_stat_checkpointer pg_stat_database pg_stat_database_conflicts pg_stat_gssapi pg_stat_io
        pg_stat_progress_analyze pg_stat_progress_basebackup pg_stat_progress_cluster
        pg_stat_progress_copy pg_stat_progress_create_index pg_stat_progress_vacuum
        pg_stat_recovery_prefetch pg_stat_replication pg_stat_replication_slots pg_stat_slru
        pg_stat_ssl pg_stat_subscription pg_stat_subscription_stats pg_stat_sys_indexes
        pg_stat_sys_tables pg_stat_user_functions pg_stat_user_indexes pg_stat_user_tables
        pg_stat_wal pg_stat_xact_all_tables pg_stat_xact_sys_tables pg_stat_xact_user_functions
        pg_stat_xact_user_tables pg_statio_all_indexes pg_statio_all_sequences pg_statio_all_tables
        pg_statio_sys_indexes pg_statio_sys_sequences pg_statio_sys_tables pg_statio_user_indexes
        pg_statio_user_sequences pg_statio_user_tables pg_statistic_ext pg_subscription_rel
        pg_tables pg_tablespace pg_timezone_abbrevs pg_timezone_names pg_transform pg_trigger
        pg_ts_config pg_ts_config_map pg_ts_dict pg_ts_parser pg_ts_template pg_type pg_user
        pg_views pg_wait_events
        """
    )
)

_RELATIONS: Final = """
SELECT pg_catalog.json_build_object(
  'path', pg_catalog.current_setting('search_path'),
  'search_path', (
    SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'),
  'relations', (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      c.oid::pg_catalog.int8, n.nspname, c.relname, c.relkind, (
        SELECT pg_catalog.json_agg(
          pg_catalog.json_build_array(a.attnum, a.attname, a.atttypid::pg_catalog.int8)
          ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
      CASE WHEN c.relkind IN ('v', 'm')
             AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        THEN pg_catalog.pg_get_viewdef(c.oid) END))
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S', 'c')
      AND n.nspname !~ '^pg_(toast|temp)'),
  'inherits', (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      i.inhparent::pg_catalog.int8, i.inhrelid::pg_catalog.int8))
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind IN ('r', 'p', 'f')),
  'generated', (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      a.attrelid::pg_catalog.int8, a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid)))
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attgenerated <> '' AND NOT a.attisdropped)
)::pg_catalog.text
"""

# What depends on a function or an operator has it in pg_depend, unless that is PostgreSQL's own
# from the start. What came with an extension is its authors', as long as a superuser owns it:
# whoever owns an extension can add things of their own to it. Its operators and types compute;
# its functions do only where the extension is on the list, for there are those that run a text.
# A cast in C is a superuser's.
_CODE: Final = """
WITH known(classid, objid) AS (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
  LEFT JOIN pg_catalog.pg_proc p
    ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.objid
  LEFT JOIN pg_catalog.pg_operator o
    ON d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.objid
  LEFT JOIN pg_catalog.pg_type t
    ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = d.objid
  JOIN pg_catalog.pg_roles r
    ON r.oid = pg_catalog.coalesce_owner
  WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
    AND r.rolsuper AND (p.oid IS NULL OR e.extname IN ({extensions}))
),
foreign_code(oid) AS (
  SELECT p.oid FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT EXISTS (
    SELECT FROM known k
    WHERE k.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND k.objid = p.oid)
),
foreign_operators(oid) AS (
  SELECT o.oid FROM pg_catalog.pg_operator o
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT EXISTS (
    SELECT FROM known k
    WHERE k.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND k.objid = o.oid)
),
calling(classid, objid) AS (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
  WHERE (d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      AND d.refobjid IN (SELECT oid FROM foreign_code))
    OR (d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
      AND d.refobjid IN (SELECT oid FROM foreign_operators))
),
code(relation) AS (
  SELECT t.tgrelid FROM pg_catalog.pg_trigger t
  WHERE NOT t.tgisinternal AND t.tgfoid IN (SELECT oid FROM foreign_code)
  UNION SELECT r.ev_class FROM pg_catalog.pg_rewrite r WHERE r.rulename <> '_RETURN'
  UNION SELECT d.adrelid FROM pg_catalog.pg_attrdef d
    JOIN calling ON classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND objid = d.oid
  UNION SELECT c.conrelid FROM pg_catalog.pg_constraint c
    JOIN calling ON classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND objid = c.oid
    WHERE c.conrelid <> 0
  UNION SELECT i.indrelid FROM pg_catalog.pg_index i
    JOIN calling ON classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = i.indexrelid
  UNION SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'f'
),
policies(relation) AS (
  SELECT p.polrelid FROM pg_catalog.pg_policy p
  JOIN calling ON classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND objid = p.oid
),
foreign_casts(castsource, casttarget, castcontext) AS (
  SELECT c.castsource, c.casttarget, c.castcontext FROM pg_catalog.pg_cast c
  JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  WHERE p.oid IN (SELECT oid FROM foreign_code) AND l.lanname NOT IN ('c', 'internal')
),
casts(oid) AS (
  SELECT casttarget FROM foreign_casts
  UNION SELECT castsource FROM foreign_casts WHERE castcontext <> 'e'
)
SELECT pg_catalog.json_build_object(
  'path', pg_catalog.current_setting('search_path'),
  'code', (SELECT pg_catalog.json_agg(relation::pg_catalog.int8) FROM code),
  'policies', (SELECT pg_catalog.json_agg(relation::pg_catalog.int8) FROM policies),
  'rules', (
    SELECT pg_catalog.json_agg(r.ev_class::pg_catalog.int8) FROM pg_catalog.pg_rewrite r
    WHERE r.rulename <> '_RETURN'),
  'referrers', (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      c.confrelid::pg_catalog.int8, c.conrelid::pg_catalog.int8))
    FROM pg_catalog.pg_constraint c
    WHERE c.contype = 'f' AND (c.confupdtype IN ('c', 'n', 'd') OR c.confdeltype IN ('c', 'n', 'd'))
  ),
  'functions', (
    SELECT pg_catalog.json_agg(DISTINCT p.proname) FROM pg_catalog.pg_proc p
    WHERE p.oid IN (SELECT oid FROM foreign_code)),
  'operators', (
    SELECT pg_catalog.json_agg(DISTINCT o.oprname) FROM pg_catalog.pg_operator o
    WHERE o.oid IN (SELECT oid FROM foreign_operators)),
  'known_functions', (
    SELECT pg_catalog.json_agg(DISTINCT p.proname) FROM pg_catalog.pg_proc p
    JOIN known ON classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND objid = p.oid),
  'known_operators', (
    SELECT pg_catalog.json_agg(DISTINCT o.oprname) FROM pg_catalog.pg_operator o
    JOIN known ON classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND objid = o.oid),
  'types', (
    SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      t.oid::pg_catalog.int8, n.nspname, t.typname, t.typtype, t.typrelid::pg_catalog.int8,
      COALESCE(r.rngsubtype, NULLIF(t.typbasetype, 0), NULLIF(t.typelem, 0))::pg_catalog.int8,
      CASE WHEN t.oid IN (SELECT oid FROM casts) THEN false
        WHEN n.nspname IN ('pg_catalog', 'information_schema') THEN true
        WHEN t.typtype IN ('c', 'e', 'm') OR t.typcategory = 'A' THEN true
        WHEN t.typtype = 'r' THEN r.rngcanonical NOT IN (SELECT oid FROM foreign_code)
        WHEN t.typtype = 'd' THEN NOT EXISTS (
          SELECT FROM pg_catalog.pg_constraint c
          JOIN calling ON classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
            AND objid = c.oid
          WHERE c.contypid = t.oid)
        ELSE EXISTS (
          SELECT FROM known k
          WHERE k.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND k.objid = t.oid)
      END,
      t.typcategory = 'A'))
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
    WHERE n.nspname !~ '^pg_(toast|temp)'),
  'event_triggers', EXISTS (
    SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtenabled <> 'D')
)::pg_catalog.text
"""

# Their functions compute: none of them reads a table, a file or another server by its name.
_EXTENSIONS: Final = words(
    """
    btree_gin btree_gist citext cube earthdistance fuzzystrmatch hstore intarray isn ltree pg_trgm
    pgcrypto seg unaccent uuid-ossp vector
    """
)

QUERIES: Final = (
    _RELATIONS,
    _CODE.replace("{extensions}", ", ".join(f"'{name}'" for name in _EXTENSIONS)).replace(
        "pg_catalog.coalesce_owner", "COALESCE(p.proowner, o.oprowner, t.typowner)"
    ),
)
"""What to ask a database, under an empty search_path; each answers with one row of one text."""


def read(
    answers: Sequence[str | bytes], columns: Sequence[tuple[str, str]], *, user: str = ""
) -> Catalogue:
    """Return the catalogue that the answers to `QUERIES` describe.

    `columns` are the (pattern, rule) pairs of the settings; `user` is the role that `$user` in a
    search_path stands for; without it, a name under such a path stands for all that it could.

    Raises:
        ValueError: these are no such answers, or they were given under a search_path.
    """
    try:
        relations, code = map(orjson.loads, answers)
        if relations["path"].strip() not in ("", '""') or code["path"].strip() not in ("", '""'):
            raise ValueError("the catalogue was read under a search_path")
        return _read(relations, code, columns, user)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("the catalogue's answers are not understood") from error


def _read(
    relations: dict[str, Any],
    code: dict[str, Any],
    columns: Sequence[tuple[str, str]],
    user: str,
) -> Catalogue:
    def names(key: str) -> frozenset[str]:
        return frozenset(code[key] or ())

    types = {each[0]: each for each in code["types"]}
    type_names = {
        oid: f"{schema}.{types[of][2] if is_array and of in types else name}"
        if not is_array or of not in types
        else f"{types[of][1]}.{types[of][2]}[]"
        for oid, schema, name, _, _, of, _, is_array in types.values()
    }
    children = _pairs(relations["inherits"])
    referrers = _pairs(code["referrers"])
    generated = _pairs((oid, (number, text)) for oid, number, text in relations["generated"] or ())
    has_code = _with_parents(set(code["code"] or ()), children)
    has_policies = set(code["policies"] or ())
    has_rules = set(code["rules"] or ())
    unsafe = {
        f"{schema}.{name}"
        for _, schema, name, kind, _, _, is_safe, _ in types.values()
        if kind == "d" and not is_safe
    }
    found = []
    for oid, schema, name, kind, its_columns, definition in relations["relations"]:
        own = tuple(
            (number, column, type_names.get(type_oid, "?"))
            for number, column, type_oid in its_columns or ()
        )
        found.append(
            Relation(
                oid=oid,
                schema=schema,
                name=name,
                kind=kind,
                columns=own,
                definition=definition or "",
                has_code=oid in has_code or any(each[2].rstrip("[]") in unsafe for each in own),
                children=tuple(children.get(oid, ())),
                has_rules=oid in has_rules,
                has_policies=oid in has_policies,
                referrers=tuple(referrers.get(oid, ())),
                generated=tuple(generated.get(oid, ())),
            )
        )
    return Catalogue(
        found,
        search_path=search_path(relations["search_path"]),
        user=user,
        functions=names("functions"),
        operators=names("operators"),
        types=[
            Type(
                schema=schema,
                name=name,
                kind=kind,
                of=(type_names[of],) if of in type_names else (),
                relation=relation,
                is_safe=is_safe,
            )
            for _, schema, name, kind, relation, of, is_safe, is_array in types.values()
            if not is_array and (schema not in SYSTEM_SCHEMAS or not is_safe)
        ],
        columns=columns,
        known_functions=names("known_functions"),
        known_operators=names("known_operators"),
        has_event_triggers=code["event_triggers"],
    )


def _pairs(pairs: Iterable[tuple[int, Any]] | None) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for key, value in pairs or ():
        found.setdefault(key, []).append(value)
    return found


def _with_parents(oids: set[int], children: Mapping[int, Sequence[int]]) -> set[int]:
    """Return what has one of `oids` among what inherits from it."""
    parents = _pairs((child, parent) for parent, each in children.items() for child in each)
    stack = list(oids)
    while stack:
        for parent in parents.get(stack.pop(), ()):
            if parent not in oids:
                oids.add(parent)
                stack.append(parent)
    return oids


def search_path(setting: str | None) -> tuple[str, ...]:
    """Return the schemas that a setting of `search_path` names, `$user` as it stands.

    >>> search_path('"$user", Public')
    ('$user', 'public')
    """
    parts = re.findall(r'"(?:[^"]|"")*"|[^,\s]+', setting or "")
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in parts
    )
