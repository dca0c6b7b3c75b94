"""What statements are taken for. No entry of the corpus may ever move down.

`statements.toml` has every page of PostgreSQL's command reference; here are the classes' borders.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.risk import sql
from agentaudit.risk.sql import CLASSES, classify, split

CORPUS = [
    # Plain reads.
    ("SELECT 1", "SELECT", "read", ()),
    ("select a, b from public.orders o join customers c on o.c = c.id where a > 1 limit 5",
     "SELECT", "read", ("public.orders", "customers")),
    ("SELECT count(*), max(x), lower(y) FROM t GROUP BY z HAVING sum(x) > 1", "SELECT", "read",
     ("t",)),
    ("SELECT pg_catalog.now(), current_user, '1'::int, a::text[] FROM t", "SELECT", "read",
     ("t",)),
    ("SELECT 1 WHERE a IN (1, 2) AND b BETWEEN 1 AND 2 AND c LIKE 'x%' AND d IS DISTINCT FROM e",
     "SELECT", "read", ()),
    ("SELECT * FROM t TABLESAMPLE system (1) ORDER BY a USING >", "SELECT", "read", ("t",)),
    ("VALUES (1), (2)", "SELECT", "read", ()),
    ("TABLE t", "SELECT", "read", ("t",)),
    ("SHOW ALL", "SHOW", "read", ()),
    ("EXPLAIN DELETE FROM t", "EXPLAIN", "read", ("t",)),
    ("EXPLAIN (ANALYZE off) DELETE FROM t", "EXPLAIN", "read", ("t",)),
    ("COPY t TO STDOUT", "COPY", "read", ("t",)),
    ("COPY (SELECT * FROM t) TO STDOUT", "COPY", "read", ("t",)),
    ("DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE", "read", ("t",)),
    ("FETCH 10 FROM c", "FETCH", "read", ()),
    ("MOVE 10 FROM c", "MOVE", "read", ()),
    ("SELECT pg_sleep(1)", "SELECT", "read", ()),
    # Writes, wherever they hide.
    ("INSERT INTO t SELECT * FROM s", "INSERT", "write", ("t", "s")),
    ("UPDATE t SET a = 1 FROM s", "UPDATE", "write", ("t", "s")),
    ("DELETE FROM t", "DELETE", "write", ("t",)),
    ("TRUNCATE a, b.c", "TRUNCATE", "write", ("a", "b.c")),
    ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", "MERGE", "write", ("t", "s")),
    ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "SELECT", "write", ("t",)),
    ("SELECT * FROM t FOR UPDATE", "SELECT", "write", ("t",)),
    ("SELECT nextval('s')", "SELECT", "write", ()),
    ("SELECT pg_catalog.lo_unlink(1)", "SELECT", "write", ()),
    ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN", "write", ("t",)),
    ("EXPLAIN (ANALYZE 1, VERBOSE) DELETE FROM t", "EXPLAIN", "write", ("t",)),
    ("COPY t FROM STDIN", "COPY", "write", ("t",)),
    ("COPY (DELETE FROM t RETURNING *) TO STDOUT", "COPY", "write", ("t",)),
    ("NOTIFY c, 'x'", "NOTIFY", "write", ()),
    ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION", "write", ()),
    ("COMMIT PREPARED 'x'", "COMMIT PREPARED", "write", ()),
    ("REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW", "write", ("v",)),
    # The shape of things.
    ("CREATE TABLE a (b int REFERENCES c)", "CREATE TABLE", "schema", ("a", "c")),
    ("CREATE TABLE a AS SELECT * FROM b", "CREATE TABLE AS", "schema", ("b", "a")),
    ("SELECT * INTO a FROM b", "SELECT", "schema", ("a", "b")),
    ("EXPLAIN ANALYZE CREATE TABLE a AS SELECT 1", "EXPLAIN", "schema", ("a",)),
    ("DROP TABLE a.b, c", "DROP TABLE", "schema", ("a.b", "c")),
    ("DROP MATERIALIZED VIEW v", "DROP MATERIALIZED VIEW", "schema", ("v",)),
    ("DROP FUNCTION f(int)", "DROP FUNCTION", "schema", ()),
    ("ALTER TABLE t ADD COLUMN x int", "ALTER TABLE", "schema", ("t",)),
    ("ALTER INDEX i RENAME TO j", "ALTER INDEX", "schema", ("i",)),
    ("CREATE VIEW v AS SELECT f() FROM t", "CREATE VIEW", "schema", ("v", "t")),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM t; SELECT 1; END",
     "CREATE FUNCTION", "schema", ("t",)),
    ("COMMENT ON TABLE t IS 'x'", "COMMENT", "schema", ("t",)),
    ("CREATE TYPE m AS ENUM ('a')", "CREATE TYPE", "schema", ()),
    # Whose rights count, and what is outside of the tables.
    ("GRANT SELECT ON t TO u", "GRANT", "admin", ("t",)),
    ("REVOKE r FROM u", "REVOKE", "admin", ()),
    ("CREATE SCHEMA s GRANT SELECT ON t TO u", "CREATE SCHEMA", "admin", ("t",)),
    ("ALTER TABLE t OWNER TO u", "ALTER TABLE", "admin", ("t",)),
    ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", "ALTER TABLE", "admin", ("t",)),
    ("ALTER FUNCTION f() OWNER TO u", "ALTER FUNCTION", "admin", ()),
    ("DROP EXTENSION x", "DROP EXTENSION", "admin", ()),
    ("DROP ROLE u", "DROP ROLE", "admin", ()),
    ("SET ROLE u", "SET", "admin", ()),
    ("RESET SESSION AUTHORIZATION", "RESET", "admin", ()),
    ("VACUUM t", "VACUUM", "admin", ("t",)),
    ("ANALYZE t", "ANALYZE", "admin", ("t",)),
    ("COPY t FROM PROGRAM 'x'", "COPY", "admin", ("t",)),
    ("COPY t TO '/tmp/x'", "COPY", "admin", ("t",)),
    ("SELECT pg_read_file('/etc/passwd')", "SELECT", "admin", ()),
    ("SELECT set_config('role', 'u', false)", "SELECT", "admin", ()),
    ("ALTER SYSTEM SET x = 1", "ALTER SYSTEM", "admin", ()),
    # The session itself.
    ("BEGIN", "BEGIN", "session", ()),
    ("START TRANSACTION READ ONLY", "BEGIN", "session", ()),
    ("ROLLBACK TO SAVEPOINT x", "ROLLBACK TO", "session", ()),
    ("SET search_path = a", "SET", "session", ()),
    ("PREPARE x AS DELETE FROM t", "PREPARE", "session", ("t",)),
    ("DEALLOCATE ALL", "DEALLOCATE", "session", ()),
    ("LISTEN c", "LISTEN", "session", ()),
    ("LOCK TABLE t", "LOCK", "session", ("t",)),
    # Whatever it may be.
    ("SELECT f(a) FROM t", "SELECT", "unknown", ("t",)),
    ("SELECT other.lower(a) FROM t", "SELECT", "unknown", ("t",)),
    ("SELECT * FROM f()", "SELECT", "unknown", ()),
    ("INSERT INTO t VALUES (f())", "INSERT", "unknown", ("t",)),
    ("SELECT a ~~> b", "SELECT", "unknown", ()),
    ("SELECT a OPERATOR(other.+) b", "SELECT", "unknown", ()),
    ("SELECT 1 ~~> ANY (SELECT 2)", "SELECT", "unknown", ()),
    ("SELECT a FROM t ORDER BY a USING ~~>", "SELECT", "unknown", ("t",)),
    ("SELECT 'x'::mood", "SELECT", "unknown", ()),
    ("SELECT 'x'::other.text", "SELECT", "unknown", ()),
    ("SELECT * FROM t TABLESAMPLE other(1)", "SELECT", "unknown", ("t",)),
    ("SELECT query_to_xml('DELETE FROM t', true, true, '')", "SELECT", "unknown", ()),
    ("SELECT dblink('x', 'DELETE FROM t')", "SELECT", "unknown", ()),
    ("DO $$BEGIN DELETE FROM t; END$$", "DO", "unknown", ()),
    ("CALL p()", "CALL", "unknown", ()),
    ("EXECUTE x", "EXECUTE", "unknown", ()),
    ("EXPLAIN ANALYZE EXECUTE x", "EXPLAIN", "unknown", ()),
    ("EXPLAIN SELECT f()", "EXPLAIN", "unknown", ()),
    ("CREATE TABLE a AS EXECUTE x", "CREATE TABLE AS", "unknown", ("a",)),
    ("DECLARE c CURSOR FOR SELECT f()", "DECLARE", "unknown", ()),
    ("CREATE INDEX i ON t (f(a))", "CREATE INDEX", "unknown", ("t",)),
    ("SELEC 1", "", "unknown", ()),
    ("SELECT 'it''s", "", "unknown", ()),
    ("SELECT 1\0; DROP TABLE t", "", "unknown", ()),
]  # fmt: skip

REFERENCE = tomllib.loads((Path(__file__).parent / "statements.toml").read_text(encoding="utf-8"))

CORPUS += [
    (known["sql"], known["operation"], known["class"], tuple(known["resources"]))
    for page in REFERENCE.values()
    for known in page["statements"]
]


def test_a_statement_is_taken_for_what_it_does() -> None:
    wrong = []
    for text, *expected in CORPUS:
        found = classify(text)
        assert found.parser.startswith("pglast ")
        if [found.operation, found.cls, found.resources] != expected:
            wrong.append((text, found, expected))
    assert not wrong


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        ("DELETE FROM t", "certain"),
        ("BEGIN", "certain"),
        ("SELECT 1", "certain"),
        ("SELECT pg_catalog.now() FROM pg_catalog.pg_class", "certain"),
        ("SELECT a FROM t", "uncertain"),  # t may be a view, and the view may call anything
        ("SELECT now()", "uncertain"),  # search_path may lead it elsewhere
        ("SELECT true + true", "uncertain"),  # an operator of the path may fit better
        ("SELECT 1 OPERATOR(pg_catalog.+) 1", "certain"),
        ("PREPARE p AS SELECT 1", "certain"),
        ("PREPARE p AS SELECT FROM t WHERE a = '{5}'", "uncertain"),  # read as a's type at once
        ("FETCH 1 FROM c", "uncertain"),
        ("SELECT f()", "uncertain"),
        ("DO 'x'", "uncertain"),
        ("not sql", "uncertain"),
    ],
)
def test_only_what_the_grammar_decides_is_certain(text: str, confidence: str) -> None:
    assert classify(text).confidence == confidence


def test_what_a_statement_shows_beside_its_class_is_said() -> None:
    known = {
        one["sql"]: one["risk"]
        for page in REFERENCE.values()
        for one in page["statements"]
        if "risk" in one
    }
    assert len(known) > 200
    assert {text: list(classify(text).risk) for text in known} == known


def test_the_corpus_is_of_some_size() -> None:
    assert len({text for text, *_ in CORPUS}) >= 600


def test_several_statements_are_of_the_worst_class_among_them() -> None:
    statement = classify("BEGIN; SELECT 1; DROP TABLE t; COMMIT")

    assert (statement.operation, statement.cls, statement.resources) == ("BEGIN", "schema", ("t",))


@pytest.mark.parametrize("worse", range(len(CLASSES)))
def test_classes_are_ordered_from_harmless_to_anything(worse: int) -> None:
    examples = ["BEGIN", "SELECT 1", "DELETE FROM t", "DROP TABLE t", "VACUUM", "DO 'x'"]
    for better in range(worse + 1):
        assert classify(f"{examples[better]}; {examples[worse]}").cls == CLASSES[worse]


@pytest.mark.parametrize("text", ["", " ", "-- nothing", "/* DROP TABLE t */", ";"])
def test_nothing_is_harmless(text: str) -> None:
    assert (classify(text).operation, classify(text).cls) == ("", "session")


@pytest.mark.parametrize(
    ("text", "resources"),
    [
        ("WITH t AS (SELECT 1) SELECT * FROM t", ()),
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", ("t",)),
        ("WITH RECURSIVE t AS (SELECT 1 UNION SELECT * FROM t) SELECT * FROM t", ()),
        ("WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b", ()),
        ("WITH t AS (SELECT 1) SELECT * FROM public.t", ("public.t",)),
        ("WITH t AS (SELECT 1) DELETE FROM t", ("t",)),  # what is written to is a table
        ("SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t) x, t", ("t",)),
        ('SELECT * FROM "My Schema"."T" WHERE id IN (SELECT id FROM "T")', ("My Schema.T", "T")),
        ("SELECT * FROM db.public.t", ("db.public.t",)),
    ],
)
def test_resources_are_relations_and_no_common_table_expressions(
    text: str, resources: tuple[str, ...]
) -> None:
    assert classify(text).resources == resources


def test_a_fingerprint_groups_what_differs_in_constants() -> None:
    one, two = classify("SELECT a FROM t WHERE b = 'x'"), classify("SELECT a FROM t WHERE b = 'y'")

    assert one.fingerprint == two.fingerprint != ""
    assert one.fingerprint != classify("SELECT a FROM t WHERE c = 'x'").fingerprint


def test_a_text_over_a_mebibyte_is_not_looked_at() -> None:
    harmless = "SELECT 1 -- "
    assert classify(harmless + "x" * (1 << 20)).cls == "unknown"
    assert classify(harmless + "é" * (1 << 19)).cls == "unknown"
    assert classify(harmless + "x" * (1 << 19)).cls == "read"


def test_a_comment_that_a_cut_would_end_does_not_hide_what_is_behind_it() -> None:
    assert classify("SELECT 1 --" + " " * 65_536 + "\n, f()").cls == "unknown"


@pytest.mark.parametrize("nested", ["(" * 20_000 + "1" + ")" * 20_000, "1" + "+1" * 60_000])
def test_an_expression_of_any_depth_is_judged_or_unknown(nested: str) -> None:
    assert classify(f"SELECT {nested}").cls in ("read", "unknown")


@pytest.mark.parametrize(
    "text", ["SELECT 1--2", "SELECT 'a1'", "SELECT $1", "SELECT a1.b2, 1.5, .5"]
)
def test_numbers_are_only_taken_out_where_they_are_numbers(text: str) -> None:
    assert classify(text) == sql._classify(text)


plain = st.lists(
    st.sampled_from(
        ["SELECT", "a", "b2", "t_1", "FROM", "WHERE", "=", "<", "(", ")", ",", "+", "-", "*", "/"]
        + ["1", "42", "007", "999999999", "1000000000", "3.14", ".5", "1.", "1e5", "$1", "LIMIT"]
        + [";", "DELETE", "UPDATE", "SET", "AND", "IN", "ORDER BY", "f", "count", "float", "\n"]
    ),
    max_size=14,
)


@given(plain, st.sampled_from(["", " "]))
def test_taking_numbers_out_changes_nothing_but_the_numbers(words: list[str], gap: str) -> None:
    text = gap.join(words)
    quick, whole = classify(text), sql._classify(text)
    # `float(0)` and the like are errors by their number: then the whole is unknown, rightly.
    assert quick == whole or "float" in words


@given(st.text(max_size=60))
def test_any_text_is_of_some_class(text: str) -> None:
    assert classify(text).cls in CLASSES


# Division.

ATOMIC = "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END"


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("BEGIN; DELETE FROM t; COMMIT;", ("BEGIN", "DELETE FROM t", "COMMIT")),
        ("SELECT ';'; SELECT $$;$$", ("SELECT ';'", "SELECT $$;$$")),
        ("SELECT 'é'; SELECT 2", ("SELECT 'é'", "SELECT 2")),
        ("SELECT 1; -- ;", ("SELECT 1",)),
        (f"{ATOMIC}; TABLE t", (ATOMIC, "TABLE t")),
    ],
)
def test_a_query_is_divided_where_the_server_divides_it(
    text: str, statements: tuple[str, ...]
) -> None:
    assert split(text) == statements


@pytest.mark.parametrize(
    "text", ["SELECT 1", "SELECT 1; \n", ";;", "", "SELECT 1; SELEC", "-- ; \n;"]
)
def test_what_is_one_statement_or_none_comes_back_as_it_is(text: str) -> None:
    assert split(text) == (text,)


def test_a_text_over_a_mebibyte_is_not_divided() -> None:
    text = "SELECT 1; SELECT '" + "x" * (1 << 20) + "'"

    assert split(text) == (text,)
    shorter = "SELECT 1; SELECT '" + "x" * (1 << 19) + "'"
    assert len(split(shorter)) == 2
