"""What the names in a statement stand for, and which of them lead to PostgreSQL's own code alone.

Harmless is what returns nothing but what its arguments hold, and reads no relation by its name. The
rest may do anything: functions and operators of anybody's, what shadows one of PostgreSQL's own, a
type whose cast is a function, a rule or a trigger behind a write.

A statement that names only what is harmless, and nothing masked, needs no closer look: most do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from agentaudit.risk import sql
from agentaudit.risk.catalogue import Catalogue, Relation
from agentaudit.risk.doubt import Doubt
from agentaudit.risk.tree import Node, words

DML: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
QUERIES: Final = DML | {"SelectStmt"}

# What answers with no row, and reads and writes none.
SILENT: Final = frozenset(
    words(
        """
        VariableSetStmt ClosePortalStmt DeallocateStmt DiscardStmt ListenStmt UnlistenStmt
        NotifyStmt LockStmt CheckPointStmt
        """
    )
)

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

KEEPING: Final = frozenset(
    words(
        """
        pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared
        pg_try_advisory_lock pg_try_advisory_lock_shared pg_try_advisory_xact_lock
        pg_try_advisory_xact_lock_shared set_config setval
        """
    )
)
"""What keeps its arguments where the server shows them to whoever asks."""

_BETWEEN: Final = ("BETWEEN", "BETWEEN SYMMETRIC")


class Known:
    """What a catalogue says, but for what is in doubt, where names are looked for in `path`.

    `whole` is the rule to name for what may be any masked column.
    """

    def __init__(self, catalogue: Catalogue, path: Sequence[str] | None, doubtful: Doubt) -> None:
        self.catalogue = catalogue
        self.doubtful = doubtful
        self.whole = catalogue.whole
        self._path = path
        self._dotted = catalogue.functions | doubtful.functions

    def is_doubtful(self, name: str) -> bool:
        return self.doubtful.everything or name in self.doubtful.names

    def is_changed(self, relation: Relation) -> bool:
        """Whether something that a relation's rows come from is in doubt."""
        doubtful = self.doubtful
        if doubtful.settings and (relation.kind == "S" or relation.name in _ECHOING):
            return True
        return bool(doubtful.names) and not doubtful.names.isdisjoint(
            self.catalogue.names_behind(relation)
        )

    def candidates(self, node: Node) -> Sequence[Relation]:
        return self.catalogue.candidates(node.get("schemaname"), node["relname"], self._path)

    def is_harmless_function(self, call: Node) -> bool:
        names = [each["String"]["sval"] for each in call["funcname"]]
        name = names[-1]
        doubtful = self.doubtful
        if len(names) == 2 and names[0] == "pg_catalog":
            is_known = name in _FUNCTIONS
        elif len(names) == 2 and names[0] == "information_schema":
            is_known = name.startswith("_pg_")
        else:
            if doubtful.everything or name in doubtful.functions:
                return False
            if name in self.catalogue.functions:
                return False
            is_known = name in self.catalogue.known_functions or (
                len(names) == 1 and name in _FUNCTIONS
            )
        if name in _ECHOING_FUNCTIONS and (doubtful.settings or doubtful.everything):
            return False
        return is_known

    def is_harmless_operator(self, names: Sequence[Node]) -> bool:
        name = names[-1]["String"]["sval"]
        if len(names) == 2 and names[0]["String"]["sval"] == "pg_catalog":
            return name in sql._OPERATORS
        for each in ("<=", ">=") if name.endswith(_BETWEEN) else (name,):
            if self.doubtful.everything or each in self.doubtful.operators:
                return False
            if each in self.catalogue.operators:
                return False
        if len(names) == 1 and name in sql._OPERATORS:
            return True
        return name in self.catalogue.known_operators

    def type_rule(self, node: Node) -> str | None:
        """Return the rule that a value of a type is hidden by, None where it is harmless."""
        names = [each["String"]["sval"] for each in node.get("names", ())]
        if not names or node.get("pct_type"):
            return self.whole
        name = names[-1]
        schema = names[-2] if len(names) > 1 else None
        if schema == "information_schema":
            return None
        if schema == "pg_catalog":
            return None if name in sql._TYPES and not self._is_changed_type(name) else self.whole
        if self.is_doubtful(name):
            return self.whole
        path = self._path
        if schema is None and name in sql._TYPES:
            is_first = path is not None and "pg_catalog" not in path[1:]
            if is_first or not self.catalogue.types_named(None, name):
                return None if not self._is_changed_type(name) else self.whole
        found = self.catalogue.types_named(schema, name)
        if not found:
            return self.whole
        for each in found:
            rule = self.catalogue.held_by(each)
            if rule:
                return rule
            if not self.catalogue.is_safe_type(each):
                return self.whole
        return None

    def _is_changed_type(self, name: str) -> bool:
        return bool(self.catalogue.types_named("pg_catalog", name))

    def _is_call_by_dot(self, name: str) -> bool:
        """Whether `(x).name` may call a function of anybody's."""
        return self.doubtful.everything or name in self._dotted

    def calls_by_dot(self, fields: Iterable[Node]) -> bool:
        return any(
            self._is_call_by_dot(each["String"]["sval"]) for each in fields if "String" in each
        )

    # Whole statements.

    def is_plain(self, statement: Node) -> bool:
        """Whether a statement reads and writes nothing masked and calls nothing unknown."""
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
                    if self._dotted and len(fields) > 1 and self.calls_by_dot(fields):
                        return False
                elif key == "RangeVar" or key == "relation":
                    if "relname" not in value:
                        stack.append(value)
                        continue
                    if not self._is_plain_relation(value, unresolved):
                        return False
                elif key == "FuncCall":
                    if not self.is_harmless_function(value):
                        return False
                    stack.append(value)
                elif key == "A_Expr":
                    if not self.is_harmless_operator(value["name"]):
                        return False
                    stack.append(value)
                elif key == "typeName":
                    if self.type_rule(value) is not None:
                        return False
                else:
                    if key == "A_Indirection":
                        if self.calls_by_dot(value["indirection"]):
                            return False
                    elif key == "CommonTableExpr":
                        ctes.add(value["ctename"])
                    elif key in DML:
                        written.append(value["relation"])
                    elif key == "SubLink" and "operName" in value:
                        if not self.is_harmless_operator(value["operName"]):
                            return False
                    elif key == "RangeTableSample" or (key == "SortBy" and "useOp" in value):
                        return False
                    stack.append(value)
        if not unresolved <= ctes:
            return False
        return all(self._is_quiet(node) for node in written)

    def _is_plain_relation(self, node: Node, unresolved: set[str]) -> bool:
        name = node["relname"]
        if self.is_doubtful(name):
            return False
        found = self.candidates(node)
        if not found:
            if "schemaname" in node:
                return False
            unresolved.add(name)
            return True
        catalogue = self.catalogue
        for relation in found:
            table = catalogue.table(relation)
            if table.rule or table.tells or self.is_changed(relation):
                return False
        return True

    def _is_quiet(self, node: Node) -> bool:
        """Whether writing to a relation runs nothing of anybody's, and touches nothing masked."""
        found = self.candidates(node)
        return bool(found) and not any(
            relation.has_rules or self.writing_tells(relation) for relation in found
        )

    def writing_tells(self, relation: Relation) -> bool:
        """Whether what is said about a write may quote a masked value."""
        catalogue = self.catalogue
        seen = {relation.oid}
        stack = [relation]
        while stack:
            each = stack.pop()
            if each.has_code or catalogue.table(each).tells or self.is_doubtful(each.name):
                return True
            if each.kind == "v":
                return True  # it writes to what is behind it
            for oid in (*each.children, *each.referrers):
                if oid not in seen and oid in catalogue.relations:
                    seen.add(oid)
                    stack.append(catalogue.relations[oid])
        return False
