"""What a planner is asked about a statement, and what it never is."""

from __future__ import annotations

import pytest

from agentaudit.risk.rows import MAX_CHARACTERS, Rows, rows
from agentaudit.risk.sql import classify
from tests.risk.test_sql import CORPUS

QUERIES = {
    "DELETE FROM s.a x USING b WHERE b.id = x.id AND x.n = $2 RETURNING *": (
        "SELECT FROM s.a AS x, b WHERE b.id = x.id AND x.n = $2",
        (2,),
    ),
    'UPDATE ONLY "A b" SET n = $1 WHERE id = $3': (
        'SELECT FROM ONLY "A b" WHERE id = $3',
        (3,),
    ),
    "WITH k AS (SELECT 1) DELETE FROM t WHERE n IN (SELECT * FROM k)": (
        "WITH k AS (SELECT 1) SELECT FROM t WHERE n IN (SELECT * FROM k)",
        (),
    ),
    "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE": (
        "SELECT FROM t INNER JOIN s ON t.id = s.id",
        (),
    ),
    "MERGE INTO t USING s ON false WHEN NOT MATCHED THEN INSERT VALUES (1)": (
        "SELECT FROM t RIGHT JOIN s ON FALSE",
        (),
    ),
    "MERGE INTO t USING s ON false WHEN NOT MATCHED BY SOURCE THEN DELETE": (
        "SELECT FROM t LEFT JOIN s ON FALSE",
        (),
    ),
    "DELETE FROM t WHERE n IN (1, 2) AND d > now() - interval '1 day' AND s LIKE 'a%'": (
        "SELECT FROM t WHERE n IN (1, 2) AND d > now() - CAST('1 day' AS interval) AND s LIKE 'a%'",
        (),
    ),
    "WITH k AS (SELECT 1) INSERT INTO t SELECT * FROM k": (
        "WITH k AS (SELECT 1) SELECT * FROM k",
        (),
    ),
    "SELECT * INTO copied FROM t FOR UPDATE": ("SELECT * FROM t", ()),
    "CREATE TABLE copied AS SELECT n FROM t": ("SELECT n FROM t", ()),
    "COPY (SELECT n FROM t) TO STDOUT": ("SELECT n FROM t", ()),
    "DECLARE c CURSOR FOR SELECT n FROM t": ("SELECT n FROM t", ()),
    "EXPLAIN ANALYZE DELETE FROM t": ("SELECT FROM t", ()),
}


@pytest.mark.parametrize("text", QUERIES)
def test_a_change_is_asked_about_as_a_read_of_its_rows(text: str) -> None:
    asked = rows(text)

    assert (asked.query, asked.parameters) == QUERIES[text]
    assert not asked.why


def test_some_say_themselves_how_many_rows_there_are() -> None:
    assert rows("INSERT INTO t VALUES (1, DEFAULT), (2, DEFAULT)") == Rows(count=2, tables=("t",))
    assert rows("INSERT INTO t DEFAULT VALUES") == Rows(count=1, tables=("t",))
    assert rows("SHOW search_path") == Rows(count=1)
    assert rows("FETCH 50 FROM c") == rows("FETCH BACKWARD 50 FROM c") == Rows(count=50)
    assert rows("FETCH c") == Rows(count=1)
    assert rows("MOVE 50 FROM c") == Rows(count=0)
    assert rows("DELETE FROM t WHERE CURRENT OF c") == Rows(count=1, tables=("t",))


@pytest.mark.parametrize("text", ["TRUNCATE a, s.b", "DROP TABLE a, s.b"])
def test_some_are_about_all_rows_of_their_tables(text: str) -> None:
    assert rows(text) == Rows(tables=("a", "s.b"), is_whole=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT lie(1)", "it may do more than its text says"),
        ("DELETE FROM t WHERE lie(n) = 1", "it may do more than its text says"),
        ("DELETE FROM t WHERE n = 1::public.trap", "it may do more than its text says"),
        ("DO $$BEGIN END$$", "it may do more than its text says"),
        ("no sql", "it may do more than its text says"),
        (f"SELECT '{'x' * MAX_CHARACTERS}'", "it may do more than its text says"),
        ("WITH w AS (DELETE FROM t RETURNING n) SELECT n FROM w", "a query of its WITH writes"),
        ("BEGIN", "it has no plan"),
        ("PREPARE p AS DELETE FROM t", "it has no plan"),
        ("COPY t FROM STDIN", "it has no plan"),
        ("FETCH ALL FROM c", "it has no plan"),
        ("FETCH BACKWARD ALL FROM c", "it has no plan"),
        ("SHOW ALL", "it has no plan"),
        ("SELECT 1; SELECT 2", "it has no plan"),
        # Each of these was shown with a number that was another one.
        ("WITH t AS (SELECT 1) DELETE FROM t", "a query of its WITH has its table's name"),
        ("WITH t AS (SELECT 1) UPDATE t SET n = 1", "a query of its WITH has its table's name"),
        ("TRUNCATE a, b, c, d, e, f, g, h, i", "of 9 tables"),
        ("TRUNCATE a CASCADE", "what depends on its tables goes as well (CASCADE)"),
        ("VACUUM", "it names no table"),
        ("REINDEX DATABASE d", "it names no table"),
        ("INSERT INTO t VALUES (generate_series(1, 9))", "a row of its VALUES may become many"),
        ("DELETE FROM t WHERE (NOT p) BETWEEN false AND true", "its text cannot be written anew"),
        ("DELETE FROM t WHERE xmlroot(x, version a) IS NULL", "its text cannot be written anew"),
        ("SELECT 1" + " + 1" * 400, "its text cannot be written anew"),
        ("SELECT " + "NOT " * 400 + "true", "it may do more than its text says"),
    ],
)
def test_nothing_is_asked_about_the_rest(text: str, why: str) -> None:
    asked = rows(text)

    assert asked.why == why
    assert not asked.query
    assert asked.count is None


def test_what_is_asked_is_a_read_whatever_the_statement_is() -> None:
    asked = [rows(text) for text, *_ in CORPUS]

    queries = [one.query for one in asked if one.query]
    assert len(queries) > 50
    assert {classify(query).cls for query in queries} == {"read"}
