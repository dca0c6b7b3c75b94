"""Each finding with texts that show it, and with texts that nearly do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentaudit.policy import Policy
from agentaudit.risk import bodies, sql
from agentaudit.risk.findings import FINDINGS
from agentaudit.risk.sql import CLASSES, UNKNOWN, Statement, classify
from tests.peers.postgres import PostgresPeer
from tests.risk.test_sql import CORPUS

DELETE = "DO $$BEGIN DELETE FROM t WHERE a = 1; END$$"

EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "contains DELETE": (
        ["WITH x AS (DELETE FROM t) SELECT 1", "EXPLAIN DELETE FROM t", "BEGIN; DELETE FROM t"],
        ["DELETE FROM t", "SELECT 'DELETE FROM t'", DELETE],
    ),
    "calls setval": (["SELECT setval('s', 1)"], ["SELECT mine.setval('s', 1)", "SELECT setval"]),
    "no where": (
        ["DELETE FROM t", "UPDATE t SET a = 1", "DELETE FROM t USING s",
         "PREPARE p AS DELETE FROM t",
         "WITH x AS (UPDATE t SET a = 1) SELECT 1", "EXPLAIN ANALYZE DELETE FROM t"],
        ["DELETE FROM t WHERE a = 1", "UPDATE t SET a = 1 WHERE b", "EXPLAIN DELETE FROM t",
         "DELETE FROM t WHERE CURRENT OF c", "INSERT INTO t SELECT * FROM s",
         "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2"],
    ),
    "where always true": (
        [f"DELETE FROM t WHERE {condition}" for condition in (
            "true", "1 = 1", "a = a", "t.a = t.a", "NOT false", "a = 1 OR true", "a = 5 OR 1 = 1",
            "1 = 1 AND true", "2 > 1", "1 <> 2", "1 < 2 AND 2 < 3", "'a' = 'a'", "'a' <> 'b'",
            "a IS NULL OR a IS NOT NULL", "id IS NOT NULL OR id IS NULL", "a LIKE '%'",
            "a ILIKE '%%'", "a SIMILAR TO '%'", "a ~ '.*'", "a ~ ''", "a OR NOT a",
            "a = 1 OR a <> 1", "a < 3 OR a >= 3", "a = 1 OR NOT (a = 1)", "a <= a", "$1 = $1",
            "a LIKE 'x' OR a NOT LIKE 'x'", "a IS TRUE OR a IS NOT TRUE", "true IS TRUE",
            "1 = 2 IS FALSE", "(1 = 2) IS NOT TRUE", "NOT (1 = 2)", "1 IN (2, 1)", "1 NOT IN (2)",
            "1 BETWEEN 0 AND 2", "1 NOT BETWEEN 2 AND 3", "1 = ANY (ARRAY[2, 1])", "'t'", "'yes'",
            "'on'::boolean", "1::int = 1", "CAST('1' AS int) = 1", "1 + 1 = 2", "3 * 2 > 5",
            "5 - 4 = 1", "1.0 = 1", "1e2 = 100", "'1' = 1", "-1 < 0", "1 IS NOT NULL",
            "NULL IS NULL", "EXISTS (SELECT 1)", "COALESCE(true, a)", "a IS NOT DISTINCT FROM a",
            "1 IS DISTINCT FROM 2", "true = true", "NOT (NOT true)",
        )]
        + ["UPDATE t SET a = 1 WHERE true",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE"],
        [f"DELETE FROM t WHERE {condition}" for condition in (
            "false", "1 = 2", "a = b", "t.a = s.a", "a = 1", "a = 1 AND true", "a = 1 OR b = 1",
            "a IS NOT NULL", "a IS NULL OR b IS NOT NULL", "a LIKE '%x'", "a LIKE ''",
            "a LIKE '_%'",
            "a NOT LIKE '%'", "a SIMILAR TO 'x%'", "a ~ 'x.*'", "a !~ '.*'", "a OR NOT b", "a <> a",
            "a = 1 OR a <> 2", "a < 3 OR a >= 4", "a < 3 OR a > 3", "a < a", "a = $1", "NULL",
            "NULL = NULL", "1 = NULL", "NOT true", "NOT (a = a)", "true IS FALSE", "a IS TRUE",
            "true IS UNKNOWN", "1 IN (2, 3)", "1 NOT IN (1)", "a IN (1)", "a IN (a, b) AND c",
            "1 BETWEEN 2 AND 3", "a BETWEEN 1 AND 2", "1 = ANY (ARRAY[2])", "1 = ANY (a)", "'f'",
            "'x'", "'a' < 'b'", "'off'::boolean", "1 + 1 = 3", "1 IS NULL", "NULL IS NOT NULL",
            "EXISTS (SELECT 1 FROM s)", "NOT EXISTS (SELECT 1)", "EXISTS (SELECT 1 WHERE false)",
            "EXISTS (SELECT 1 LIMIT 0)", "COALESCE(a, true)", "random() = random()", "f()",
            "a IS DISTINCT FROM a", "1 IS NOT DISTINCT FROM 2", "'[1]'::jsonb = '[1]'", "1 <> 1",
        )]
        + ["SELECT * FROM t WHERE true", "DELETE FROM t USING s WHERE t.a = s.a",
           "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE"],
    ),
    "no limit": (
        ["SELECT * FROM t", "TABLE t", "SELECT a FROM t WHERE a > 1", "SELECT a FROM t LIMIT ALL",
         "SELECT a FROM t LIMIT NULL", "SELECT a FROM t OFFSET 5", "SELECT 1 UNION SELECT a FROM t",
         "SELECT count(*) FROM t GROUP BY a", "SELECT max(a) OVER () FROM t",
         "SELECT * FROM (SELECT * FROM t) x", "WITH x AS (SELECT * FROM t) SELECT * FROM x",
         "SELECT a FROM t TABLESAMPLE system (1)", "SELECT mine.count(a) FROM t",
         "SELECT (SELECT count(*) FROM s) FROM t", "SELECT lower(a) FROM t JOIN s ON true",
         "WITH t AS (SELECT 1) SELECT * FROM public.t"],
        ["SELECT 1", "SELECT * FROM t LIMIT 5", "SELECT * FROM t LIMIT $1", "VALUES (1)",
         "SELECT * FROM t FETCH FIRST ROW ONLY", "SELECT count(*) FROM t",
         "SELECT 1 + max(a) FROM t",
         "SELECT pg_catalog.sum(a) FROM t", "SELECT 1 FROM t HAVING true",
         "(SELECT * FROM t) UNION SELECT * FROM s LIMIT 3", "SELECT * FROM generate_series(1, 9)",
         "SELECT * FROM (SELECT * FROM t LIMIT 5) x", "SELECT * INTO x FROM t",
         "WITH x AS (SELECT * FROM t LIMIT 1) SELECT * FROM x", "INSERT INTO t SELECT * FROM s",
         "WITH RECURSIVE x AS (SELECT 1 UNION SELECT * FROM x) SELECT * FROM x",
         "EXPLAIN SELECT * FROM t", "PREPARE p AS SELECT * FROM t", "COPY t TO STDOUT"],
    ),
    "merge deletes": (
        ["MERGE INTO t USING s ON t.a = s.a WHEN MATCHED AND s.b THEN DELETE"],
        ["MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET a = 1",
         "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DO NOTHING"],
    ),
    "truncates": (["TRUNCATE t", "BEGIN; TRUNCATE ONLY t"], ["DELETE FROM t", "SELECT truncate"]),
    "drops": (
        ["DROP TABLE t", "DROP FUNCTION f", "DROP OWNED BY u", "DROP DATABASE d", "DROP ROLE u",
         "ALTER TABLE t DROP COLUMN a", "ALTER TABLE t DROP CONSTRAINT c", "DROP TABLESPACE x",
         "DROP SUBSCRIPTION s", "DROP USER MAPPING FOR u SERVER s"],
        ["ALTER TABLE t ALTER COLUMN a DROP NOT NULL", "SELECT 'DROP TABLE t'", "TRUNCATE t",
         "CREATE TEMP TABLE t (a int) ON COMMIT DROP"],
    ),
    "cascades": (
        ["DROP TABLE t CASCADE", "TRUNCATE t CASCADE", "ALTER TABLE t DROP COLUMN a CASCADE",
         "REVOKE SELECT ON t FROM u CASCADE", "DROP OWNED BY u CASCADE"],
        ["DROP TABLE t", "DROP TABLE t RESTRICT", "TRUNCATE t", "ALTER TABLE t DROP COLUMN a",
         "CREATE TABLE t (a int REFERENCES s ON DELETE CASCADE)"],
    ),
    "writes in with": (
        ["WITH x AS (DELETE FROM t) SELECT 1", "WITH x AS (INSERT INTO t VALUES (1)) TABLE s",
         "INSERT INTO s WITH x AS (UPDATE t SET a = 1 RETURNING a) TABLE x"],
        ["WITH x AS (SELECT 1) DELETE FROM t", "WITH x AS (SELECT a FROM t FOR UPDATE) TABLE x",
         "EXPLAIN WITH x AS (DELETE FROM t) SELECT 1"],
    ),
    "explain analyzes write": (
        ["EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN (ANALYZE, COSTS off) UPDATE t SET a = 1",
         "EXPLAIN ANALYZE WITH x AS (DELETE FROM t) SELECT 1", "EXPLAIN ANALYZE SELECT 1 INTO x",
         "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "EXPLAIN ANALYZE DELETE FROM t WHERE f()"],
        ["EXPLAIN DELETE FROM t", "EXPLAIN ANALYZE SELECT a FROM t", "EXPLAIN ANALYZE EXECUTE p",
         "EXPLAIN (ANALYZE off) DELETE FROM t", "EXPLAIN ANALYZE SELECT f()"],
    ),
    "locks": (
        ["SELECT a FROM t FOR UPDATE", "SELECT a FROM t FOR KEY SHARE", "LOCK t",
         "SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_xact_lock(1)"],
        ["SELECT a FROM t", "SELECT pg_advisory_unlock(1)", "SELECT * FROM pg_locks LIMIT 1"],
    ),
    "runs program": (
        ["COPY t FROM PROGRAM 'x'", "COPY (SELECT 1) TO PROGRAM 'x'"],
        ["COPY t FROM '/program'", "COPY t FROM STDIN", "COPY program TO STDOUT"],
    ),
    "server file": (
        ["COPY t FROM '/x'", "COPY t TO '/x'", "SELECT pg_read_file('x')", "SELECT pg_ls_waldir()",
         "SELECT pg_catalog.pg_ls_dir('x')", "SELECT lo_import('x')", "SELECT lo_export(1, 'x')",
         "SELECT public.pg_file_unlink('x')", "CREATE EXTENSION file_fdw"],
        ["COPY t TO STDOUT", "COPY t FROM PROGRAM 'x'", "SELECT mine.pg_read_file('x')",
         "SELECT pg_relation_size('x')", "SELECT lo_get(1)"],
    ),
    "loads library": (
        ["LOAD 'x'", "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x', 'f'",
         "CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'f'"],
        ["LISTEN x", "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'"],
    ),
    "large object": (
        ["SELECT lo_unlink(1)", "SELECT lo_get(1)", "SELECT lowrite(1, 'x')",
         "SELECT lo_import('x')"],
        ["SELECT lower('x')", "SELECT log(1)", "SELECT mine.lo_get(1)"],
    ),
    "controls server": (
        ["ALTER SYSTEM SET work_mem = 1", "SELECT pg_terminate_backend(1)", "CHECKPOINT",
         "ALTER DATABASE d SET search_path = x", "SELECT pg_reload_conf()"],
        ["SET work_mem = 1", "SELECT pg_backend_pid()", "ALTER DATABASE d RENAME TO e"],
    ),
    "other server": (
        ["SELECT dblink('x', 'y')", "SELECT public.dblink_exec('x', 'y')",
         "CREATE EXTENSION dblink",
         "CREATE SERVER s FOREIGN DATA WRAPPER w", "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y",
         "CREATE FOREIGN TABLE t (a int) SERVER s", "CREATE USER MAPPING FOR u SERVER s",
         "SELECT postgres_fdw_disconnect_all()", "DROP SERVER s"],
        ["SELECT link('x')", "CREATE TABLE t (a int)", "CREATE EXTENSION hstore",
         "DROP TABLE server"],
    ),
    "replicates": (
        ["CREATE PUBLICATION p FOR ALL TABLES",
         "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
         "DROP SUBSCRIPTION s", "ALTER SUBSCRIPTION s DISABLE", "DROP PUBLICATION p",
         "SELECT pg_create_logical_replication_slot('x', 'y')",
         "SELECT * FROM pg_logical_slot_get_changes('x', NULL, NULL)"],
        ["SELECT * FROM pg_replication_slots LIMIT 1", "SELECT mine.pg_logical_x()", "NOTIFY p"],
    ),
    "sleeps": (
        ["SELECT pg_sleep(1)", "SELECT pg_catalog.pg_sleep_for('1s')"],
        ["SELECT mine.pg_sleep(1)", "SELECT 'pg_sleep(1)'", "SELECT pg_sleep FROM t LIMIT 1"],
    ),
    "grants": (
        ["GRANT SELECT ON t TO u", "GRANT a TO b", "CREATE SCHEMA s GRANT SELECT ON t TO u",
         "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO u"],
        ["REVOKE SELECT ON t FROM u", "REVOKE GRANT OPTION FOR SELECT ON t FROM u"],
    ),
    "revokes": (["REVOKE SELECT ON t FROM u", "REVOKE a FROM b"], ["GRANT SELECT ON t TO u"]),
    "changes owner": (
        ["ALTER TABLE t OWNER TO u", "ALTER FUNCTION f OWNER TO u", "REASSIGN OWNED BY a TO b"],
        ["ALTER SEQUENCE s OWNED BY t.a", "ALTER TABLE t RENAME TO owner", "DROP OWNED BY u"],
    ),
    "manages roles": (
        ["CREATE ROLE u", "ALTER USER u PASSWORD 'x'", "DROP ROLE u", "GRANT a TO b",
         "REVOKE a FROM b",
         "ALTER ROLE u SET work_mem = 1"],
        ["GRANT SELECT ON t TO u", "SET ROLE u", "SELECT * FROM pg_roles LIMIT 1"],
    ),
    "switches role": (
        ["SET ROLE u", "SET LOCAL ROLE u", "SET SESSION AUTHORIZATION u", "RESET ROLE",
         "DISCARD ALL",
         'SET "Role" = u', "SELECT set_config('role', 'u', false)", "RESET SESSION AUTHORIZATION"],
        ["SET search_path = role", "SELECT set_config('x.y', 'role', false)", "DISCARD TEMP",
         "CREATE ROLE u"],
    ),
    "row security": (
        ["CREATE POLICY p ON t", "ALTER POLICY p ON t USING (true)", "DROP POLICY p ON t",
         "ALTER TABLE t DISABLE ROW LEVEL SECURITY", "ALTER TABLE t FORCE ROW LEVEL SECURITY",
         "SET row_security = off", "SELECT set_config('row_security', 'off', true)"],
        ["DROP RULE p ON t", "SELECT row_security_active('t')",
         "ALTER TABLE t ADD row_security int"],
    ),
    "switches triggers": (
        ["ALTER TABLE t DISABLE TRIGGER ALL", "ALTER TABLE t ENABLE REPLICA TRIGGER x",
         "ALTER TABLE t DISABLE RULE x", "SET session_replication_role = replica",
         "ALTER EVENT TRIGGER x DISABLE"],
        ["CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()", "DROP TRIGGER x ON t",
         "ALTER TABLE t ENABLE ROW LEVEL SECURITY"],
    ),
    "changes setting search_path": (
        ["SET search_path = x", "SET LOCAL search_path TO DEFAULT", "SET SCHEMA 'x'",
         "RESET search_path", "SELECT set_config('search_path', 'x', true)",
         "ALTER ROLE u SET search_path = x", "ALTER FUNCTION f SET search_path = x",
         "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = x RETURN 1"],
        ["SHOW search_path", "SET work_mem = 1", "SET x.search_path = 1",
         "SELECT current_setting('search_path')"],
    ),
    "changes setting client_encoding": (
        ["SET NAMES 'latin1'", "SET client_encoding = 'SJIS'"], ["SHOW client_encoding"],
    ),
    "changes setting standard_conforming_strings": (
        ["SET standard_conforming_strings = off", 'SET "Standard_Conforming_Strings" TO off'],
        ["SET escape_string_warning = off"],
    ),
    "changes setting transaction_read_only": (
        ["SET TRANSACTION READ WRITE", "SET transaction_read_only = off"],
        ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
    ),
    "changes setting all": (["RESET ALL", "DISCARD ALL"], ["RESET work_mem", "DISCARD PLANS"]),
    "changes setting unknown": (
        ["SELECT set_config(a, 'x', true) FROM t"], ["SELECT set_config('work_mem', '1', true)"],
    ),
    "definer rights": (
        ["CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1",
         "ALTER FUNCTION f SECURITY DEFINER"],
        ["CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY INVOKER RETURN 1",
         "ALTER FUNCTION f SECURITY INVOKER"],
    ),
    "extension": (
        ["CREATE EXTENSION hstore", "ALTER EXTENSION hstore UPDATE",
         "ALTER EXTENSION hstore ADD TABLE t", ],
        ["CREATE SCHEMA extension", "SELECT * FROM pg_extension LIMIT 1"],
    ),
    "untrusted language": (
        ["CREATE EXTENSION plpython3u", "CREATE LANGUAGE plperlu", "DO LANGUAGE plpython3u 'x'",
         "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS 'x'",
         "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x', 'f'"],
        ["CREATE EXTENSION plperl", "CREATE TRUSTED LANGUAGE plperl HANDLER h", "DO 'BEGIN END'",
         "CREATE FUNCTION f() RETURNS int LANGUAGE plperl AS 'x'"],
    ),
    "stores code": (
        ["CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1", "CREATE POLICY p ON t",
         "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()",
         "CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM s",
         "CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION f()"],
        ["DROP FUNCTION f", "DROP RULE r ON t", "DO 'BEGIN END'", "CREATE VIEW v AS SELECT 1"],
    ),
    "runs code": (["DO 'BEGIN END'", "CALL p()"], ["SELECT f()", "DROP PROCEDURE p"]),
    "prepares": (["PREPARE p AS SELECT 1"], ["PREPARE TRANSACTION 'p'", "EXECUTE p"]),
    "runs prepared": (
        ["EXECUTE p", "EXPLAIN ANALYZE EXECUTE p", "CREATE TABLE x AS EXECUTE p"],
        ["PREPARE p AS SELECT 1", "DEALLOCATE p", "DO $$BEGIN EXECUTE 'x'; END$$"],
    ),
    "body contains DELETE": (
        [DELETE, "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT 1; DELETE FROM t'",
         "CREATE FUNCTION f() RETURNS trigger AS $$BEGIN IF NEW.a THEN LOOP DELETE FROM t; "
         "END LOOP; END IF; RETURN NEW; END$$ LANGUAGE plpgsql",
         "DO $a$BEGIN EXECUTE 'x'; CREATE FUNCTION f() RETURNS void LANGUAGE sql "
         "AS $b$WITH x AS (DELETE FROM t) SELECT 1$b$; END$a$"],
        ["DO $$BEGIN PERFORM 'DELETE FROM t'; END$$", "DELETE FROM t",
         "DO $$BEGIN -- DELETE\nEND$$",
         "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM t; END"],
    ),
    "body calls setval": (
        ["DO $$BEGIN PERFORM setval('s', 1); END$$",
         "DO $$DECLARE a int := setval('s', 1); BEGIN END$$",
         "DO $$DECLARE a int; BEGIN a := setval('s', 1); END$$",
         "DO $$BEGIN IF setval('s', 1) > 0 THEN END IF; END$$"],
        ["SELECT setval('s', 1)", "DO $$BEGIN PERFORM mine.setval('s', 1); END$$"],
    ),
    "dynamic sql": (
        ["DO $$BEGIN EXECUTE 'DROP ' || 'TABLE t'; END$$",
         "DO $$DECLARE r record; BEGIN FOR r IN EXECUTE 'x' LOOP END LOOP; END$$",
         "DO $$DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'x'; END$$",
         "CREATE FUNCTION f() RETURNS SETOF int AS $$BEGIN RETURN QUERY EXECUTE 'x'; END$$ "
         "LANGUAGE plpgsql", "SELECT query_to_xml('x', true, true, '')", "SELECT dblink('x', 'y')"],
        ["EXECUTE p", DELETE, "SELECT mine.query_to_xml('x')",
         "CREATE FUNCTION f() RETURNS SETOF int AS $$BEGIN RETURN QUERY SELECT 1; END$$ "
         "LANGUAGE plpgsql"],
    ),
    "body not read": (
        ["DO LANGUAGE plperl 'x'", "DO 'no code'", "DO $$BEGIN nothing sensible; END$$",
         "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'no sql'",
         f"DO $$BEGIN {'DELETE FROM t; ' * 5000} END$$", f"DO $$BEGIN {'f:=1;' * 2000} END$$"],
        [DELETE, "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1",
         "DO $$DECLARE a int[]; BEGIN a[1] := 2; a[f('=')] = 3; END$$",
         f"DO $$BEGIN {'DELETE FROM t; ' * 500} END$$"],
    ),
    "unknown function f": (
        ["SELECT f()", "INSERT INTO t VALUES (f(1))", "EXPLAIN SELECT f()",
         "DO $$BEGIN PERFORM f(); END$$"],
        ["SELECT lower('x')", "SELECT f", "SELECT mine.f()", "DROP FUNCTION f"],
    ),
    "unknown function mine.lower": (["SELECT mine.lower('x')"], ["SELECT pg_catalog.lower('x')"]),
    "several statements": (["SELECT 1; SELECT 2"], ["SELECT 1;", "SELECT ';'", DELETE]),
    "ends transaction": (
        ["BEGIN; DELETE FROM t; COMMIT", "ROLLBACK; DELETE FROM t", "DO $$BEGIN COMMIT; END$$",
         "CREATE PROCEDURE p() AS $$BEGIN ROLLBACK; END$$ LANGUAGE plpgsql"],
        ["COMMIT", "BEGIN; DELETE FROM t", "BEGIN; ROLLBACK TO x", DELETE],
    ),
}  # fmt: skip


@pytest.mark.parametrize("finding", EXAMPLES)
def test_a_finding_is_said_of_what_shows_it(finding: str) -> None:
    assert [text for text in EXAMPLES[finding][0] if finding not in classify(text).risk] == []


@pytest.mark.parametrize("finding", EXAMPLES)
def test_a_finding_is_not_said_of_what_nearly_shows_it(finding: str) -> None:
    said = {text: classify(text) for text in EXAMPLES[finding][1]}
    assert all(known.operation for known in said.values())
    assert [text for text, known in said.items() if finding in known.risk] == []


# The vocabulary.


def is_known(finding: str) -> bool:
    patterns = (re.sub(r"<\w+>", "|", each) for each in FINDINGS)
    return any(
        re.fullmatch(re.escape(each).replace(re.escape("|"), ".+"), finding) for each in patterns
    )


def test_every_finding_has_an_example_and_every_example_is_of_a_finding() -> None:
    assert {name for name in EXAMPLES if not is_known(name)} == set()
    stems = {each.partition("<")[0] for each in FINDINGS}
    assert {each for each in stems if not any(name.startswith(each) for name in EXAMPLES)} == set()


def test_nothing_is_said_that_is_not_in_the_vocabulary() -> None:
    texts = [text for pair in EXAMPLES.values() for texts in pair for text in texts]
    said = {
        each for text in [*texts, *(known[0] for known in CORPUS)] for each in classify(text).risk
    }
    assert {each for each in said if not is_known(each)} == set()


def test_the_format_documents_the_vocabulary_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats" / "archive.md").read_text()
    section = page.partition("#### What `risk` says")[2].partition("\n#")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    answered = rows.pop("answered as <tag>")
    assert rows == FINDINGS
    assert answered


# What rules read stays what it was.


def test_no_finding_but_contains_and_calls_is_read_by_a_rule() -> None:
    said = {each.partition("<")[0] for each in FINDINGS}
    assert {each for each in said if each.startswith(("contains ", "calls "))} == {
        "contains ",
        "calls ",
    }


def test_the_code_of_a_function_is_not_its_operation() -> None:
    document = b"""{"targets": [{"name": "db", "default": "allow"}], "rules": [
        {"name": "no deletes", "when": {"operation": ["DELETE"]}, "action": "deny"}]}"""
    session = Policy(document).for_session(target="db", protocol="postgres", groups=())

    assert session.decide(classify(DELETE), DELETE).action == "allow"
    contained = "WITH x AS (DELETE FROM t) SELECT 1"
    assert session.decide(classify(contained), contained).action == "deny"


@pytest.mark.parametrize("text", [DELETE, "DO $$BEGIN NULL; END$$", "DO 'no code'"])
def test_looking_into_a_block_makes_it_no_safer(text: str) -> None:
    statement = classify(text)

    assert (statement.cls, statement.confidence, statement.resources) == (
        "unknown",
        "uncertain",
        (),
    )


# Numbers.


def test_a_condition_that_hangs_on_a_number_is_not_told_by_another_number() -> None:
    for _ in range(2):
        assert "where always true" in classify("DELETE FROM t WHERE 1 = 1").risk
        assert "where always true" not in classify("DELETE FROM t WHERE 1 = 2").risk
        assert "where always true" not in classify("DELETE FROM t WHERE a = 7 OR a <> 8").risk
        assert "where always true" in classify("DELETE FROM t WHERE a = 7 OR a <> 7").risk


def test_texts_that_differ_in_other_numbers_are_parsed_once() -> None:
    sql._classify_cached.cache_clear()
    for number in range(10):
        classify(f"DELETE FROM t WHERE id = {number}")
    assert sql._classify_cached.cache_info().misses == 1


numbers = st.integers(0, 3).map(str)
operands = st.one_of(numbers, st.sampled_from(["a", "b", "true", "false", "NULL", "$1", "t.a"]))
comparisons = st.one_of(
    st.tuples(operands, st.sampled_from(["=", "<>", "<", ">=", ">", "<="]), operands).map(" ".join),
    st.tuples(operands, st.just("BETWEEN"), numbers, st.just("AND"), numbers).map(" ".join),
    st.tuples(operands, st.just("IN ("), numbers, st.just(","), numbers, st.just(")")).map(
        " ".join
    ),
    st.tuples(numbers, st.sampled_from(["+", "-", "*"]), numbers, st.just("="), numbers).map(
        " ".join
    ),
    operands.map("{} IS NULL".format),
    operands.map("{} IS NOT NULL".format),
    st.sampled_from(["true", "false", "a", "NOT a"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        inner.map("NOT ({})".format),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda of: f"({' '.join(of)})"),
    ),
    max_leaves=5,
)


@given(conditions)
def test_with_any_numbers_in_the_cache_a_text_is_what_it_is_alone(condition: str) -> None:
    text = f"DELETE FROM t WHERE {condition}"
    assert classify(text).risk == sql._classify(text).risk


@pytest.fixture(scope="module")
def rows(postgres18: PostgresPeer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres18.superuser_dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE TEMP TABLE t AS SELECT a, b "
            "FROM generate_series(0, 4) a, generate_series(0, 4) b"
        )
        yield connection


@given(condition=conditions)
@example(condition="(NULL = 0 OR NULL <> 0)")
@example(condition="(NULL OR NOT NULL)")
@settings(max_examples=400, deadline=None)
def test_what_is_said_to_hold_for_every_row_does_on_a_server(
    rows: psycopg.Connection[Any], condition: str
) -> None:
    if "where always true" in classify(f"DELETE FROM t WHERE {condition}").risk:
        try:
            left = rows.execute(f"SELECT count(*) FROM t WHERE ({condition}) IS NOT TRUE")
        except psycopg.Error:
            return  # `a` is a number and no condition, and `$1` is none of ours
        assert left.fetchone() == (0,), condition


# Names.


@pytest.mark.parametrize(
    ("text", "reads", "writes", "columns"),
    [
        ("SELECT * FROM orders", ["orders"], [], ["orders.*"]),
        ("TABLE public.orders", ["public.orders"], [], ["public.orders.*"]),
        ("SELECT a, b FROM t WHERE c = 1", ["t"], [], ["t.a", "t.b", "t.c"]),
        ("SELECT o.a, c.b FROM orders o JOIN public.c ON c.id = o.c", ["orders", "public.c"], [],
         ["orders.a", "public.c.b", "public.c.id", "orders.c"]),
        ("SELECT a, s.b FROM t, s", ["t", "s"], [], ["a", "s.b"]),
        ("SELECT *, t.* FROM t, s", ["t", "s"], [], ["t.*", "s.*"]),
        ("SELECT public.t.a FROM public.t", ["public.t"], [], ["public.t.a"]),
        ("SELECT t FROM t", ["t"], [], ["t.*"]),
        ('SELECT "T"."a.b" FROM "T"', ["T"], [], ['T."a.b"']),
        ("SELECT a FROM t JOIN s USING (id)", ["t", "s"], [], ["id", "a"]),
        ("SELECT x.n FROM (SELECT a AS n FROM t) x", ["t"], [], ["t.a"]),
        ("WITH x AS (SELECT a FROM t) SELECT a, x.* FROM x", ["t"], [], ["t.a"]),
        ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM s WHERE s.x = t.a AND y = 1)", ["t", "s"], [],
         ["t.a", "s.x", "y"]),
        ("SELECT sum(a) AS n FROM t GROUP BY b ORDER BY n", ["t"], [], ["t.a", "t.b"]),
        ("SELECT x.k FROM t AS x (k, l)", ["t"], [], ["t.*"]),
        ("SELECT count(*) FROM t", ["t"], [], []),
        ("SELECT a FROM generate_series(1, 3) AS a", [], [], []),
        ("SELECT a FROM t UNION SELECT b FROM s", ["t", "s"], [], ["t.a", "s.b"]),
        ("INSERT INTO t (a, b) VALUES (1, 2) RETURNING c", [], ["t"], ["t.a", "t.b", "t.c"]),
        ("INSERT INTO t VALUES (1)", [], ["t"], ["t.*"]),
        ("INSERT INTO t (a) SELECT b FROM s", ["s"], ["t"], ["t.a", "s.b"]),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b", [], ["t"],
         ["t.a", "t.b"]),
        ("UPDATE t SET a = 1, b = s.b FROM s WHERE t.c = s.c", ["s"], ["t"],
         ["t.a", "t.b", "s.b", "t.c", "s.c"]),
        ("DELETE FROM t WHERE a = 1", [], ["t"], ["t.a"]),
        ("DELETE FROM t USING t x WHERE t.a = x.b", ["t"], ["t"], ["t.a", "t.b"]),
        ("WITH t AS (SELECT 1) DELETE FROM t", [], ["t"], []),
        ("MERGE INTO t USING s ON t.a = s.b WHEN MATCHED THEN UPDATE SET c = 1 "
         "WHEN NOT MATCHED THEN INSERT (d) VALUES (s.e)", ["s"], ["t"],
         ["t.c", "t.d", "t.a", "s.b", "s.e"]),
        ("WITH x AS (DELETE FROM t RETURNING a) INSERT INTO s TABLE x", [], ["s", "t"],
         ["s.*", "t.a"]),
        ("COPY t (a, b) TO STDOUT", ["t"], [], ["t.a", "t.b"]),
        ("COPY t FROM STDIN", [], ["t"], ["t.*"]),
        ("COPY (DELETE FROM t RETURNING a) TO STDOUT", [], ["t"], ["t.a"]),
        ("TRUNCATE a, b", [], ["a", "b"], []),
        ("DROP TABLE a", [], ["a"], []),
        ("CREATE TABLE a AS SELECT b FROM c", ["c"], ["a"], ["c.b"]),
        ("WITH a AS (SELECT 1) SELECT * INTO a FROM b", ["b"], ["a"], ["b.*"]),
        ("CREATE TABLE a (b int REFERENCES c, LIKE d)", ["c", "d"], ["a"], []),
        ("CREATE VIEW v AS SELECT a FROM t", ["t"], ["v"], ["t.a"]),
        ("GRANT SELECT ON t TO u", [], ["t"], []),
        ("LOCK t", [], [], []),
        ("EXPLAIN DELETE FROM t WHERE a = 1", [], [], []),
        ("EXPLAIN ANALYZE DELETE FROM t WHERE a = 1", [], ["t"], ["t.a"]),
        ("PREPARE p AS DELETE FROM t", [], ["t"], []),
        ("DO $$BEGIN UPDATE t SET a = x FROM s; END$$", ["s"], ["t"], ["t.a", "x"]),
        ("DO $$DECLARE r record; BEGIN FOR r IN SELECT a FROM t LOOP END LOOP; END$$", ["t"], [],
         ["a"]),
        ("SELECT a FROM t; DELETE FROM s", ["t"], ["s"], ["t.a"]),
    ],
)  # fmt: skip
def test_what_is_read_and_written_is_said_as_far_as_the_text_tells(
    text: str, reads: list[str], writes: list[str], columns: list[str]
) -> None:
    statement = classify(text)

    assert sorted(statement.reads) == sorted(reads)
    assert sorted(statement.writes) == sorted(writes)
    assert sorted(statement.columns) == sorted(columns)


def test_a_fetch_does_what_its_cursor_does() -> None:
    fetched = sql.fetch("FETCH ALL FROM c", ["DELETE FROM orders RETURNING id"])

    assert fetched.writes == ("orders",)
    assert {"contains DELETE", "no where"} <= set(fetched.risk)


# Whatever is sent.


def test_code_over_the_bounds_is_unknown() -> None:
    function = "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$%s$$"
    longer = classify(function % ("DELETE FROM t;" * (bodies.MAX_BYTES // 14)))
    more = classify(function % ("DELETE FROM t;" * (bodies.MAX_STATEMENTS + 1)))
    within = classify(function % ("DELETE FROM t;" * bodies.MAX_STATEMENTS))

    assert {longer.cls, more.cls} == {"unknown"}
    assert "body not read" in longer.risk
    assert "body not read" in more.risk
    assert within.cls == "schema"


def test_code_in_code_is_read_so_deep_and_no_deeper() -> None:
    text = "DELETE FROM t"
    for depth in range(bodies.MAX_DEPTH):
        text = f"DO $d{depth}$BEGIN {text}; END$d{depth}$"
    assert "body contains DELETE" in classify(text).risk
    assert "body not read" not in classify(text).risk

    text = f"DO $more$BEGIN {text}; END$more$"
    assert "body contains DELETE" not in classify(text).risk
    assert "body not read" in classify(text).risk


@pytest.mark.parametrize(
    "condition",
    ["(" * 3000 + "true" + ")" * 3000, "NOT " * 3000 + "true", " OR ".join(["a = b"] * 3000),
     " OR ".join(f"(a = {n} AND"
     for n in range(300)) + " b" + ")" * 300, "1" + " + 1" * 3000 + " = 1",
     "1e999999999 = 1e999999999", "1" * 5000 + " = 1", "1 = 1" + "::int" * 3000],
)  # fmt: skip
def test_a_condition_of_any_shape_is_looked_at_or_left_alone(condition: str) -> None:
    assert classify(f"DELETE FROM t WHERE {condition}").cls in ("write", "unknown")


@pytest.mark.parametrize(
    "text",
    [f"DO $$BEGIN {'IF a THEN ' * 2000}{'END IF; ' * 2000}END$$",
     f"DO $$DECLARE {' '.join(f'a{n} int;' for n in range(5000))} BEGIN END$$",
     "DO $$BEGIN END$$;" * 3000, "DO 'DO ''DO ''''BEGIN END'''' '' '", "DO ''", "DO",
     "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS ''",
     "CREATE FUNCTION f() RETURNS int AS 'a', 'b'",
     "SELECT f" + "(f" * 400 + ")" * 400, "SELECT " + ", ".join(f"f{n}()" for n in range(20_000)),
     "WITH " + ", ".join(f"c{n} AS (TABLE c{n - 1})" for n in range(1, 20_000)) + " TABLE c1",
     f"SELECT {', '.join(f'c{n}' for n in range(40_000))} FROM "
     f"{', '.join(f't{n}' for n in range(40_000))}",
     "SELECT * FROM " + "(SELECT * FROM " * 200 + "t" + ") x" * 200],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_whatever_is_sent_is_a_statement_and_its_findings_are_few(text: str) -> None:
    statement = classify(text)

    assert isinstance(statement, Statement)
    assert len(set(statement.risk)) < 100


WORDS = sorted(
    {word for known in CORPUS for word in re.findall(r"\w+|\$\$|[^\w\s]", known[0])}
    | {word for pair in EXAMPLES.values() for each in pair for text in each if len(text) < 300
       for word in re.findall(r"\w+|\$\$|[^\w\s]", text)}
)  # fmt: skip
TEXTS = [known[0] for known in CORPUS] + [
    text for pair in EXAMPLES.values() for texts in pair for text in texts if len(text) < 300
]


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.lists(st.sampled_from(WORDS), max_size=4),
       st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=300)
def test_findings_never_raise(text: str, other: str, words: list[str], random: object) -> None:
    cut = getattr(random, "randrange")  # noqa: B009
    tokens = re.findall(r"\w+|\s+|\$\$|[^\w\s]", text)
    others = re.findall(r"\w+|\s+|\$\$|[^\w\s]", other)
    at, to = cut(len(tokens) + 1), cut(len(others) + 1)
    for mixed in (
        tokens[:at] + words + tokens[at:],
        tokens[:at] + others[to:],
        others[:to] + words,
    ):
        statement = classify(" ".join(mixed))
        assert statement.cls in CLASSES
        assert statement == UNKNOWN or all(map(is_known, statement.risk))


@given(st.text(max_size=40))
def test_code_of_any_text_never_raises(body: str) -> None:
    quoted = body.replace("'", "''").replace("\0", "")
    assert classify(f"DO '{quoted}'").cls == "unknown"
    assert classify(f"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS '{quoted}'").cls in CLASSES
