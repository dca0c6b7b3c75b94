"""What a reviewer must know of a statement beside its class: one vocabulary, and how it is found.

A finding is what a part of the statement shows by itself; what it takes more for is found where
that is known. None of them decides anything: rules read `contains` and `calls` alone, which
nothing here says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from agentaudit.risk.tree import Node, constant, options, words

FINDINGS: Final = {
    "contains <operation>": "a statement of that operation is inside it, which rules look at too",
    "calls <function>": "calls one of a known class that changes what is no resource",
    "no where": "`DELETE` or `UPDATE` of all rows",
    "where always true": "the condition of a `DELETE`, `UPDATE` or `MERGE` holds for every row",
    "no limit": "a plain `SELECT` from a relation without `LIMIT`",
    "merge deletes": "`MERGE` with `DELETE`",
    "truncates": "`TRUNCATE`",
    "drops": "`DROP` of anything, a column and a constraint included",
    "cascades": "`CASCADE`: what depends on what is dropped, revoked or truncated goes too",
    "writes in with": "`INSERT`, `UPDATE`, `DELETE` or `MERGE` in a `WITH`",
    "explain analyzes write": "`EXPLAIN ANALYZE` of what is no read: it runs",
    "locks": "rows, tables or an advisory lock",
    "runs program": "`COPY` from or to a program of the server's machine",
    "server file": "reads, writes, lists or names files of the server's machine",
    "loads library": "`LOAD`, and functions in C",
    "large object": "reads or writes large objects",
    "controls server": "the whole server's settings or state, or its other sessions",
    "other server": "`dblink`, and foreign servers, tables and users",
    "replicates": "publications, subscriptions, replication slots and origins",
    "sleeps": "`pg_sleep` and its like",
    "grants": "`GRANT`, of default privileges and roles too",
    "revokes": "`REVOKE`, of default privileges and roles too",
    "changes owner": "`OWNER TO` and `REASSIGN OWNED`",
    "manages roles": "makes, changes or drops a role, or says who is a member",
    "switches role": "goes on with the rights of another role",
    "row security": "policies, row-level security of a table, or whether it applies",
    "switches triggers": "which triggers and rules run",
    "changes setting <name>": "sets one that changes what statements mean or may do, here or later",
    "definer rights": "a function that runs with its owner's rights",
    "extension": "`CREATE EXTENSION` and `ALTER EXTENSION`",
    "untrusted language": "a language in which code may do what the server may, or code in one",
    "stores code": "a function, trigger, rule or policy, which runs later for whoever meets it",
    "runs code": "`DO` and `CALL`",
    "prepares": "`PREPARE`: it runs later",
    "runs prepared": "`EXECUTE` of what was prepared before",
    "body contains <operation>": "the code of a `DO` or a function has such a statement",
    "body calls <function>": "as `calls`, in code",
    "dynamic sql": "runs a text as SQL that is known only when it runs",
    "body not read": "code in another language, that does not parse, or that is too long or deep",
    "unknown function <name>": "calls one that may do anything",
    "several statements": "more than one in a text",
    "ends transaction": "`COMMIT` or `ROLLBACK` in code, or beside other statements",
}
"""The vocabulary, with what each means; `<…>` stands for a name."""

WRITING: Final = frozenset(["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"])

Found = Iterator[str]


# Functions.


def of_function(names: Sequence[str], call: Node) -> Found:
    """Yield what a call shows, wherever it stands."""
    name = names[-1]
    if name in _EXTENSIONS or name.startswith(("dblink", "postgres_fdw_")):
        yield _EXTENSIONS.get(name, "other server")  # in whichever schema the extension is
        if name in _DYNAMIC_ELSEWHERE:
            yield "dynamic sql"
        return
    if list(names[:-1]) not in ([], ["pg_catalog"]):
        return
    if name == "set_config":
        arguments = call.get("args", ({},))
        setting = constant(arguments[0])
        yield from of_setting(setting or "unknown")
    elif name in _FUNCTIONS:
        yield from _FUNCTIONS[name]
    elif "replication_" in name or name.startswith("pg_logical_"):
        yield "replicates"
    elif name.startswith("pg_ls_"):
        yield "server file"
    elif name.startswith("lo_"):
        yield "large object"


def _each(names: str, *found: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(words(names), found)


_FUNCTIONS: Final = (
    _each("pg_sleep pg_sleep_for pg_sleep_until", "sleeps")
    | _each("lo_import lo_export", "large object", "server file")
    | _each("loread lowrite", "large object")
    | _each(
        "pg_read_file pg_read_binary_file pg_stat_file pg_hba_file_rules pg_file_settings"
        " pg_ident_file_mappings pg_current_logfile",
        "server file",
    )
    | _each(
        "pg_cancel_backend pg_terminate_backend pg_reload_conf pg_rotate_logfile pg_promote"
        " pg_switch_wal pg_create_restore_point pg_backup_start pg_backup_stop pg_stat_reset"
        " pg_stat_reset_shared pg_wal_replay_pause pg_wal_replay_resume",
        "controls server",
    )
    | _each(
        "pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock"
        " pg_advisory_xact_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared"
        " pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared",
        "locks",
    )
    | _each(
        "query_to_xml query_to_xmlschema query_to_xml_and_xmlschema ts_stat ts_rewrite",
        "dynamic sql",
    )
)

_EXTENSIONS: Final = {
    **dict.fromkeys(
        words("pg_file_write pg_file_rename pg_file_unlink pg_file_read pg_file_sync"),
        "server file",
    ),
    **dict.fromkeys(words("crosstab crosstabn connectby xpath_table"), "dynamic sql"),
}
_DYNAMIC_ELSEWHERE: Final = ("dblink", "dblink_exec", "dblink_open", "dblink_send_query")


# Settings.

_SETTINGS: Final = frozenset(
    words(
        """
        allow_in_place_tablespaces allow_system_table_mods array_nulls backslash_quote bytea_output
        check_function_bodies client_encoding createrole_self_grant datestyle
        default_transaction_deferrable default_transaction_isolation default_transaction_read_only
        dynamic_library_path event_triggers exit_on_error extension_control_path
        ignore_checksum_failure intervalstyle lc_messages lc_monetary lc_numeric lc_time
        lo_compat_privileges local_preload_libraries plpgsql.variable_conflict quote_all_identifiers
        restrict_nonsystem_relation_kind row_security search_path session_preload_libraries
        session_replication_role standard_conforming_strings synchronous_commit timezone
        timezone_abbreviations track_activities transaction_isolation transaction_read_only
        transform_null_equals xmloption zero_damaged_pages
        """
    )
)
_ROLES: Final = ("role", "session_authorization")


def of_setting(name: str) -> Found:
    """Yield what it shows that a setting is set, in the session or for later ones."""
    name = name.lower()  # as the server takes a quoted one
    if name in _ROLES:
        yield "switches role"
    elif name in _SETTINGS or name in ("all", "unknown") or name.startswith(("log_", "pgaudit.")):
        yield f"changes setting {name}"
    if name == "row_security":
        yield "row security"
    elif name == "session_replication_role":
        yield "switches triggers"


def _set(body: Node) -> Found:
    if body.get("kind") == "VAR_SET_MULTI":
        for name, _ in options(body, "args"):
            yield from of_setting(name)
    else:
        yield from of_setting(body.get("name") or "all")


def _stored(*found: str) -> Callable[[Node], Found]:
    """What sets a setting for later sessions."""

    def find(body: Node) -> Found:
        yield from found
        yield from _set(body.get("setstmt", {}))

    return find


def _discard(body: Node) -> Found:
    if body.get("target", "DISCARD_ALL") == "DISCARD_ALL":
        yield from ("switches role", "changes setting all")


# Code, rights and what is outside of tables.


def is_untrusted(language: str) -> bool:
    """Whether code in a language may do more than SQL can."""
    return language in ("c", "internal") or language.endswith("u")


def language_of(body: Node) -> str:
    """Return the language of a DO or a function, in lower case."""
    named = dict(options(body, "args" if "args" in body else "options"))
    value = named.get("language") or {}
    return str(value.get("String", {}).get("sval", "")).lower()


def _code(language: str) -> Found:
    if is_untrusted(language):
        yield "untrusted language"
        if language in ("c", "internal"):
            yield "loads library"


def _do(body: Node) -> Found:
    yield "runs code"
    yield from _code(language_of(body))


def _function(body: Node) -> Found:
    yield "stores code"
    named = dict(options(body))
    language = (named.get("language") or {}).get("String", {}).get("sval", "")
    yield from _code(str(language).lower())
    yield from _definer(named)


def _alter_function(body: Node) -> Found:
    yield from _definer(dict(options(body, "actions")))


def _definer(named: dict[str, Node]) -> Found:
    if (named.get("security") or {}).get("Boolean", {}).get("boolval"):
        yield "definer rights"


def _language(body: Node) -> Found:
    if is_untrusted(body.get("plname", "").lower()) or not body.get("pltrusted"):
        yield "untrusted language"


def _extension(body: Node) -> Found:
    yield "extension"
    name = body.get("extname", "")
    if name.startswith("pl") and is_untrusted(name):
        yield "untrusted language"
    if name in ("dblink", "postgres_fdw", "file_fdw"):
        yield "server file" if name == "file_fdw" else "other server"


def _copy(body: Node) -> Found:
    if body.get("is_program"):
        yield "runs program"
    elif body.get("filename"):
        yield "server file"


def _cascade(body: Node) -> Found:
    if body.get("behavior") == "DROP_CASCADE":
        yield "cascades"


def _drop(body: Node) -> Found:
    yield "drops"
    yield from _DROPPED.get(body.get("removeType", ""), ())
    yield from _cascade(body)


_DROPPED: Final = {
    "OBJECT_POLICY": ("row security",),
    "OBJECT_FDW": ("other server",),
    "OBJECT_FOREIGN_SERVER": ("other server",),
    "OBJECT_PUBLICATION": ("replicates",),
}


def _truncate(body: Node) -> Found:
    yield "truncates"
    yield from _cascade(body)


def _alteration(body: Node) -> Found:
    kind = body.get("subtype", "").removeprefix("AT_")
    if kind in ("DropColumn", "DropConstraint"):
        yield "drops"
        yield from _cascade(body)
    elif kind == "ChangeOwner":
        yield "changes owner"
    elif kind.endswith("RowSecurity"):
        yield "row security"
    elif kind.startswith(("EnableTrig", "DisableTrig", "EnableRule", "DisableRule")) or kind in (
        *("EnableAlwaysTrig", "EnableReplicaTrig", "EnableAlwaysRule", "EnableReplicaRule"),
    ):
        yield "switches triggers"


def _grant(body: Node) -> Found:
    yield "grants" if body.get("is_grant") else "revokes"
    yield from _cascade(body)


def _grant_role(body: Node) -> Found:
    yield from _grant(body)
    yield "manages roles"


def _rename(body: Node) -> Found:
    if body.get("renameType") == "OBJECT_ROLE":
        yield "manages roles"
    elif body.get("renameType") == "OBJECT_POLICY":
        yield "row security"


def _always(*found: str) -> Callable[[Node], Found]:
    return lambda _: iter(found)


def _with_drop(*found: str) -> Callable[[Node], Found]:
    return lambda body: iter(("drops", *found, *_cascade(body)))


OF: Final[dict[str, Callable[[Node], Found]]] = {
    "VariableSetStmt": _set,
    "DiscardStmt": _discard,
    "DoStmt": _do,
    "CallStmt": _always("runs code"),
    "PrepareStmt": _always("prepares"),
    "ExecuteStmt": _always("runs prepared"),
    "CreateFunctionStmt": _function,
    "AlterFunctionStmt": _alter_function,
    "CreateTrigStmt": _always("stores code"),
    "RuleStmt": _always("stores code"),
    "CreateEventTrigStmt": _always("stores code"),
    "AlterEventTrigStmt": _always("switches triggers"),
    "CreatePolicyStmt": _always("stores code", "row security"),
    "AlterPolicyStmt": _always("stores code", "row security"),
    "CreatePLangStmt": _language,
    "CreateExtensionStmt": _extension,
    "AlterExtensionStmt": _always("extension"),
    "AlterExtensionContentsStmt": _always("extension"),
    "LoadStmt": _always("loads library"),
    "CopyStmt": _copy,
    "TruncateStmt": _truncate,
    "DropStmt": _drop,
    "DropOwnedStmt": _with_drop(),
    "DropRoleStmt": _with_drop("manages roles"),
    "DropdbStmt": _with_drop(),
    "DropTableSpaceStmt": _with_drop(),
    "DropSubscriptionStmt": _with_drop("replicates"),
    "DropUserMappingStmt": _with_drop("other server"),
    "AlterTableCmd": _alteration,
    "AlterOwnerStmt": _always("changes owner"),
    "ReassignOwnedStmt": _always("changes owner"),
    "GrantStmt": _grant,
    "GrantRoleStmt": _grant_role,
    "AlterDefaultPrivilegesStmt": lambda body: _grant(body.get("action", {})),
    "CreateRoleStmt": _always("manages roles"),
    "RenameStmt": _rename,
    "AlterRoleStmt": _always("manages roles"),
    "AlterRoleSetStmt": _stored("manages roles"),
    "AlterSystemStmt": _stored("controls server"),
    "AlterDatabaseSetStmt": _stored("controls server"),
    "CheckPointStmt": _always("controls server"),
    "CreateFdwStmt": _always("other server"),
    "AlterFdwStmt": _always("other server"),
    "CreateForeignServerStmt": _always("other server"),
    "AlterForeignServerStmt": _always("other server"),
    "CreateForeignTableStmt": _always("other server"),
    "ImportForeignSchemaStmt": _always("other server"),
    "CreateUserMappingStmt": _always("other server"),
    "AlterUserMappingStmt": _always("other server"),
    "CreatePublicationStmt": _always("replicates"),
    "AlterPublicationStmt": _always("replicates"),
    "CreateSubscriptionStmt": _always("replicates"),
    "AlterSubscriptionStmt": _always("replicates"),
    "LockStmt": _always("locks"),
    "lockingClause": _always("locks"),
}
"""By the node of the grammar; what is not here shows nothing by itself."""


def of_merge(when: Node) -> Found:
    """Yield what an arm of a MERGE shows."""
    if when.get("commandType") == "CMD_DELETE":
        yield "merge deletes"


# Rows without end.

_AGGREGATES: Final = frozenset(
    words(
        """
        any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop
        covar_samp every json_agg json_object_agg jsonb_agg jsonb_object_agg max min mode
        percentile_cont percentile_disc range_agg regr_count regr_slope stddev stddev_pop
        stddev_samp string_agg sum var_pop var_samp variance xmlagg
        """
    )
)


def has_no_limit(select: Node) -> bool:
    """Whether as many rows as a relation has may come back from a plain SELECT.

    A limit that is NULL or ALL is none. A subquery in FROM and a WITH query are looked at in the
    same way, and so is each arm of a UNION.
    """
    queries: dict[str, Node] = {}
    stack = [select]
    while stack:
        body = stack.pop()
        for item in body.get("withClause", {}).get("ctes", ()):
            query = item["CommonTableExpr"]
            queries.setdefault(query["ctename"], query["ctequery"])
        limit = body.get("limitCount")
        if (limit is not None and not limit.get("A_Const", {}).get("isnull")) or _is_one_row(body):
            continue
        if "intoClause" in body:
            continue  # nothing comes back
        stack += [body[arm] for arm in ("larg", "rarg") if arm in body]
        items = list(body.get("fromClause", ()))
        while items:
            item = items.pop()
            if "RangeVar" in item:
                name = item["RangeVar"].get("relname", "")
                query = None if "schemaname" in item["RangeVar"] else queries.get(name)
                if query is None:
                    return True
                queries[name] = {}  # once is enough
                stack += [query["SelectStmt"]] if "SelectStmt" in query else []
            elif "JoinExpr" in item:
                items += [item["JoinExpr"]["larg"], item["JoinExpr"]["rarg"]]
            elif "RangeSubselect" in item:
                stack.append(item["RangeSubselect"]["subquery"]["SelectStmt"])
            elif "RangeTableSample" in item:
                items.append(item["RangeTableSample"]["relation"])
    return False


def _is_one_row(select: Node) -> bool:
    if "groupClause" in select:
        return False
    if "havingClause" in select:
        return True
    return any(
        _aggregates(each["ResTarget"].get("val", {})) for each in select.get("targetList", ())
    )


def _aggregates(expression: Node) -> bool:
    """Whether an aggregate is in an expression, but for one in a subquery."""
    stack: list[Node] = [expression]
    while stack:
        node = stack.pop()
        for key, value in node.items():
            if key == "FuncCall" and "over" not in value:
                *schema, name = (each["String"]["sval"] for each in value["funcname"])
                if schema in ([], ["pg_catalog"]) and name in _AGGREGATES:
                    return True
            if key in ("SubLink", "ColumnRef", "A_Const", "funcname"):
                continue
            if type(value) is dict:
                stack.append(value)
            elif type(value) is list:
                stack += [each for each in value if type(each) is dict]
    return False
