"""Texts that change something and look as if they did not: a server says so, and no text is less.

Each runs in a transaction of a real server, which tells whether something has changed behind it.
What changes something must be at least a write by its text alone, together with the texts before
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from agentaudit.protocols import postgres_messages as wire
from agentaudit.risk.sql import CLASSES, classify, split
from tests.peers.postgres import PostgresPeer

PREPARED = r"""
CREATE TABLE t (a int);
INSERT INTO t VALUES (1), (2), (3);
CREATE TABLE "T x" (a int);
CREATE TABLE "größe" (a int);
CREATE TABLE bait (a int);
CREATE TABLE trap (a int);
INSERT INTO trap VALUES (1);
CREATE TABLE scores (a int, b int[]);
INSERT INTO scores VALUES (1, '{1}');
CREATE SEQUENCE s;
CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS 'DELETE FROM public.t; SELECT 1';
CREATE FUNCTION wipe(a int, b int) RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1';
CREATE FUNCTION wipe_text(text) RETURNS text LANGUAGE sql AS 'DELETE FROM t; SELECT ''x''';
CREATE FUNCTION wipe_all(VARIADIC a int[]) RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1';
CREATE FUNCTION wipe_row() RETURNS TABLE (x int) LANGUAGE sql AS 'DELETE FROM t; SELECT 1';
CREATE FUNCTION lie(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
  AS 'BEGIN PERFORM public.wipe(); RETURN $1; END';
CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM t; RETURN NEW; END';
CREATE FUNCTION is_good(int) RETURNS boolean LANGUAGE sql AS 'DELETE FROM t; SELECT true';
CREATE FUNCTION is_more(int, int) RETURNS boolean LANGUAGE sql
  AS 'DELETE FROM t; SELECT true';
CREATE PROCEDURE tidy() LANGUAGE sql AS 'DELETE FROM t';
CREATE OPERATOR ~~> (LEFTARG = int, RIGHTARG = int, FUNCTION = wipe);
CREATE OPERATOR ~~~> (LEFTARG = int, RIGHTARG = int, FUNCTION = is_more);
CREATE AGGREGATE total (int) (SFUNC = wipe, STYPE = int, INITCOND = '0');
CREATE DOMAIN good AS int CHECK (is_good(VALUE));
CREATE TYPE mood AS (a int);
CREATE FUNCTION to_mood(int) RETURNS mood LANGUAGE sql AS 'DELETE FROM t; SELECT ROW($1)::mood';
CREATE CAST (int AS mood) WITH FUNCTION to_mood(int);
CREATE VIEW v AS SELECT a FROM t;
CREATE RULE also AS ON INSERT TO bait DO ALSO DELETE FROM t;
CREATE RULE rather AS ON UPDATE TO trap DO INSTEAD DELETE FROM t;
CREATE TRIGGER each AFTER INSERT ON scores FOR EACH ROW EXECUTE FUNCTION on_row();
CREATE SCHEMA evil;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS 'DELETE FROM public.t; SELECT $1';
CREATE OPERATOR evil.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = public.wipe);
CREATE ROLE reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
GRANT SELECT ON s TO reader;
SELECT lo_from_bytea(4711, 'x');
GRANT SELECT ON LARGE OBJECT 4711 TO reader;
"""

STATE = """
SELECT (SELECT array_agg(a ORDER BY a) FROM t), (SELECT count(*) FROM "T x"),
  (SELECT count(*) FROM "größe"), (SELECT last_value + is_called::int FROM s),
  (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_roles),
  (SELECT lo_get(oid) FROM pg_largeobject_metadata WHERE oid = 4711),
  (SELECT count(*) FROM pg_largeobject_metadata), current_user,
  (SELECT count(*) FROM pg_shdepend), (SELECT count(*) FROM pg_listening_channels()),
  (SELECT relacl FROM pg_class WHERE relname = 't'),
  (SELECT relrowsecurity FROM pg_class WHERE relname = 't'), to_regclass('trap'),
  (SELECT count(*) FROM pg_description),
  (SELECT array_agg(proconfig::text ORDER BY oid) FROM pg_proc WHERE oid > 16383),
  (SELECT count(*) FROM pg_db_role_setting), (SELECT count(*) FROM scores),
  (SELECT array_agg((rulename, ev_enabled, is_instead, ev_action::text) ORDER BY oid)
    FROM pg_rewrite WHERE oid > 16383),
  (SELECT array_agg(tgenabled ORDER BY oid) FROM pg_trigger)
"""

HIDDEN = [
    # Comments.
    "/* SELECT 1 */ DELETE FROM t",
    "/* /* nested */ SELECT 1 */ DELETE FROM t",
    "/*/**/*/ DELETE FROM t",
    "-- SELECT 1\nDELETE FROM t",
    "SELECT 1 --\r; DELETE FROM t",
    "SELECT 1 /* ; */; /**/ DELETE/**/FROM/**/t",
    "SELECT '/*'; DELETE FROM t; SELECT '*/'",
    "SELECT 1 AS \"--\"; DELETE FROM t",
    "SELECT 1 AS \"/*\"; DELETE FROM t; SELECT 2 AS \"*/\"",
    # Escapes and quotes.
    r"SELECT E'\''; DELETE FROM t; SELECT E'\''",
    r"SELECT 'a\'; DELETE FROM t; SELECT '\'",
    r"SELECT e'\\'; DELETE FROM t --'",
    "SELECT 'it''s'; DELETE FROM t; SELECT ''''",
    "SELECT 'a'\n'; SELECT '; DELETE FROM t",
    "SELECT $a$ $$ $b$ $a$; DELETE FROM t; SELECT $$ $a$ $$",
    "SELECT $$'$$; DELETE FROM t; SELECT $$'$$",
    "SELECT $ä$;$ä$; DELETE FROM t",
    "SELECT B'1', X'1F', N'x'; DELETE FROM t",
    # Names.
    'DELETE FROM "t"',
    r'DELETE FROM U&"\0074"',
    'DELETE FROM U&"!0074" UESCAPE \'!\'',
    r'DELETE FROM U&"\+000074"',
    r'UPDATE U&"\0074" SET U&"\0061" = 9',
    r'SELECT U&"pu\0062lic".U&"w\0069pe"()',
    'SELECT U&"!0077ipe" UESCAPE \'!\' ()',
    r'WITH U&"\0078" AS (DELETE FROM t RETURNING *) SELECT 1',
    'INSERT INTO U&"gr!00f6!00dfe" UESCAPE \'!\' VALUES (1)',
    'INSERT INTO "T x" VALUES (1)',
    'INSERT INTO "größe" VALUES (1)',
    "INSERT INTO größe VALUES (1)",
    r'SELECT U&"\0077ipe"()',
    'SELECT "wipe"()',
    "DeLeTe\u000bFrOm\u000ct",
    "delete from only public . t",
    # WITH.
    "WITH x AS (DELETE FROM t RETURNING *) SELECT count(*) FROM x",
    "WITH x AS (SELECT 1), y AS (UPDATE t SET a = 9 RETURNING a) SELECT 1",
    "WITH x AS (INSERT INTO t VALUES (9)) SELECT 1",
    "WITH t AS (SELECT 1) DELETE FROM t",
    "WITH RECURSIVE x AS (SELECT 1), y AS (DELETE FROM t) TABLE x",
    "WITH x AS (MERGE INTO t USING trap ON true WHEN MATCHED THEN DELETE RETURNING t.a) TABLE x",
    "EXPLAIN ANALYZE WITH x AS (DELETE FROM t RETURNING *) TABLE x",
    # What is run although it is only told, and what is told to be run.
    "EXPLAIN (ANALYZE) DELETE FROM t",
    "EXPLAIN (ANALYZE off, ANALYZE) DELETE FROM t",
    "EXPLAIN (COSTS off, TIMING off, ANALYZE 'true') UPDATE t SET a = 9",
    "EXPLAIN ANALYZE VERBOSE CREATE TABLE x AS SELECT 1",
    "EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT wipe()",
    "EXPLAIN (ANALYZE, FORMAT json, SUMMARY off) SELECT wipe()",
    "EXPLAIN (ANALYZE 1) WITH x AS (UPDATE t SET a = 9 RETURNING a) TABLE x",
    "EXPLAIN ANALYZE SELECT 1 INTO x",
    "EXPLAIN ANALYZE MERGE INTO t USING trap ON true WHEN MATCHED THEN DELETE",
    "EXPLAIN ANALYZE INSERT INTO bait VALUES (1)",
    "DO $$DECLARE r text; BEGIN FOR r IN EXPLAIN ANALYZE DELETE FROM t LOOP END LOOP; END$$",
    "DO $a$BEGIN EXECUTE $b$EXPLAIN ANALYZE DELETE FROM t$b$; END$a$",
    "DO $a$BEGIN DO $b$BEGIN DELETE FROM t; END$b$; END$a$",
    "PREPARE p AS SELECT wipe(); EXECUTE p",
    "PREPARE p (int) AS UPDATE t SET a = $1; EXPLAIN (ANALYZE) EXECUTE p (9)",
    "PREPARE p AS WITH x AS (DELETE FROM t RETURNING a) TABLE x; CREATE TABLE x AS EXECUTE p",
    'PREPARE "P" AS DELETE FROM t; PREPARE p AS SELECT 1; EXECUTE "P"',
    "PREPARE p AS SELECT 1; DISCARD PLANS; DEALLOCATE ALL; PREPARE p AS DELETE FROM t; EXECUTE p",
    "PREPARE p AS DELETE FROM t; EXECUTE p",
    "PREPARE p AS DELETE FROM t; EXPLAIN ANALYZE EXECUTE p",
    "PREPARE p (int) AS INSERT INTO t VALUES ($1); EXECUTE p (9)",
    "PREPARE p AS SELECT 1; DEALLOCATE p; PREPARE p AS DELETE FROM t; EXECUTE p",
    "CREATE TEMP TABLE x AS SELECT wipe()",
    "DECLARE c CURSOR FOR SELECT wipe(); FETCH c",
    "DECLARE c CURSOR WITH HOLD FOR SELECT wipe_row(); MOVE ALL c",
    "COPY (DELETE FROM t RETURNING *) TO STDOUT",
    "COPY (SELECT wipe()) TO STDOUT",
    "COPY (WITH x AS (DELETE FROM t RETURNING *) TABLE x) TO STDOUT (FORMAT csv)",
    "DO $$BEGIN DELETE FROM t; END$$",
    "DO LANGUAGE plpgsql 'BEGIN EXECUTE ''DEL'' || ''ETE FROM t''; END'",
    "CALL tidy()",
    "CALL public . tidy ( )",
    # Calls, wherever an expression may stand.
    "SELECT wipe()",
    "SELECT public.wipe(b => 1, a => 2)",
    "SELECT wipe_all(VARIADIC ARRAY[1])",
    "SELECT * FROM wipe_row()",
    "SELECT * FROM ROWS FROM (generate_series(1, 2), wipe_row()) WITH ORDINALITY",
    "SELECT 1 FROM trap, LATERAL wipe_row()",
    "SELECT a FROM trap WHERE wipe() = 1",
    "SELECT a FROM trap ORDER BY wipe()",
    "SELECT a FROM trap LIMIT wipe()",
    "SELECT a FROM trap OFFSET (SELECT wipe())",
    "SELECT count(*) FROM trap HAVING wipe() = 1",
    "SELECT count(*) FROM trap GROUP BY wipe()",
    "SELECT count(*) FILTER (WHERE wipe() = 1) FROM trap",
    "SELECT array_agg(a ORDER BY wipe()) FROM trap",
    "SELECT sum(a) OVER (PARTITION BY wipe()) FROM trap",
    "SELECT sum(a) OVER w FROM trap WINDOW w AS (ORDER BY wipe())",
    "SELECT 1 FROM trap JOIN scores ON wipe() = 1",
    "SELECT CASE WHEN true THEN wipe() END",
    "SELECT COALESCE(NULL, wipe())",
    "SELECT GREATEST(1, wipe()), NULLIF(1, 2)",
    "SELECT ARRAY[wipe()]",
    "SELECT ARRAY(SELECT wipe())",
    "SELECT ROW(wipe())",
    "SELECT (ARRAY[1, 2])[wipe()]",
    "SELECT EXISTS (SELECT 1 FROM wipe_row())",
    "SELECT 1 IN (SELECT wipe())",
    "SELECT 1 = ANY (ARRAY[wipe()])",
    "SELECT wipe() IS NULL",
    "SELECT (to_mood(1)).a",
    "SELECT (1::mood).a",
    "SELECT JSON_OBJECT('a': wipe())",
    "SELECT JSON_ARRAY(wipe())",
    "SELECT DISTINCT ON (wipe()) a FROM trap",
    "SELECT a FROM trap TABLESAMPLE bernoulli (100 * wipe())",
    "SELECT 1 UNION ALL SELECT wipe()",
    "VALUES (wipe())",
    "SELECT 1 ~~> 2",
    "SELECT 1 OPERATOR(public.~~>) 2",
    "SELECT 1 ~~~> ANY (ARRAY[2])",
    "SELECT total(a) FROM trap",
    "SELECT 1::good",
    "SELECT CAST(1 AS good)",
    "SELECT good '1'",
    "SELECT x FROM (SELECT wipe() AS x) AS y",
    """SELECT * FROM json_to_record('{"a": 1}') AS x (a good)""",
    """SELECT * FROM jsonb_to_recordset('[{"a": 1}]') AS x (a good, b int)""",
    """SELECT * FROM ROWS FROM (json_to_record('{"a": 1}') AS (a good)) AS x""",
    """SELECT * FROM JSON_TABLE(jsonb '[{"a": 1}]', '$[*]' COLUMNS (a good PATH '$.a'))""",
    "SELECT JSON_VALUE(jsonb '[1]', '$[0]' RETURNING good)",
    "SELECT JSON_QUERY(jsonb '[1]', '$' RETURNING good[])",
    "PREPARE p AS SELECT '{1}'::good[]",
    "ALTER TABLE trap ADD COLUMN b good DEFAULT 1",
    "ALTER TABLE trap ALTER COLUMN a TYPE good",
    "EXPLAIN SELECT lie(1)",
    "PREPARE p AS SELECT lie(1); EXPLAIN EXECUTE p",
    "CREATE INDEX ON trap (lie(a))",
    "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery FROM wipe_row()')",
    # Rules, triggers, views.
    "INSERT INTO bait VALUES (1)",
    "UPDATE trap SET a = 2",
    "INSERT INTO scores VALUES (2, NULL)",
    "INSERT INTO v VALUES (9)",
    "DELETE FROM v",
    "UPDATE v SET a = 9",
    "MERGE INTO v USING trap ON true WHEN MATCHED THEN DELETE",
    "WITH x AS (INSERT INTO scores VALUES (2, NULL)) SELECT 1",
    "CREATE RULE later AS ON INSERT TO scores DO ALSO DELETE FROM t; INSERT INTO scores VALUES (2)",
    "CREATE RULE instead AS ON DELETE TO bait DO INSTEAD (UPDATE t SET a = 9; DELETE FROM t); "
    "INSERT INTO bait VALUES (1)",
    "CREATE OR REPLACE RULE rather AS ON UPDATE TO trap DO INSTEAD NOTHING",
    "ALTER TABLE bait DISABLE RULE also",
    "ALTER TABLE scores DISABLE TRIGGER each",
    # Functions of the system.
    "SELECT nextval('s')",
    "SELECT setval('s', 99)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_create(0)",
    "SELECT lo_put(4711, 0, 'y')",
    "SELECT lowrite(lo_open(4711, 131072), 'y')",
    "SELECT lo_unlink(4711)",
    # Settings.
    "SET search_path = evil, pg_catalog, public; SELECT lower('x')",
    "SET LOCAL search_path TO evil, pg_catalog, public; SELECT 1 + 1",
    "SELECT set_config('search_path', 'evil, pg_catalog, public', true); SELECT lower('x')",
    "SET search_path = evil, 'pg_catalog', public; SELECT lower('x')",
    'SET "Search_Path" = evil, "pg_catalog", public; SELECT lower(\'x\')',
    "SET ROLE reader",
    "SET LOCAL role = 'reader'",
    'SET "Role" = reader',
    "SET SESSION AUTHORIZATION reader",
    'SET "SESSION_AUTHORIZATION" TO reader',
    "SELECT set_config('role', 'reader', true)",
    "SELECT pg_catalog.set_config('ro' || 'le', 'reader', false)",
    "SELECT set_config(name, 'reader', true) FROM (VALUES ('role')) AS x (name)",
    "SET session_replication_role = replica; INSERT INTO scores VALUES (2, NULL)",
    "SET LOCAL standard_conforming_strings = off; INSERT INTO t VALUES (9)",
    "SET LOCAL client_encoding = 'latin1'; DELETE FROM t",
    "SET NAMES 'UTF8'; INSERT INTO größe VALUES (1)",
    "ALTER FUNCTION on_row() SET row_security = off",
    "ALTER ROLE reader SET search_path = evil, pg_catalog",
    # Rights, and the shape of things.
    "GRANT SELECT ON t TO PUBLIC",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE IF EXISTS trap RENAME TO u",
    "COMMENT ON TABLE t IS 'x'",
    "SELECT 1 INTO x",
    "CREATE TABLE x ()",
    "TRUNCATE t",
    "DROP TABLE trap",
]  # fmt: skip


@pytest.fixture(scope="module")
def administrator(postgres18: PostgresPeer) -> Iterator[psycopg.Connection[Any]]:
    postgres18.execute("CREATE DATABASE hidden")
    with psycopg.connect(postgres18.superuser_dsn("hidden")) as connection:
        connection.execute(PREPARED)
        connection.commit()
        yield connection


def run(connection: psycopg.Connection[Any], text: bytes) -> None:
    """Send `text` as one simple query, and read whatever comes."""
    pgconn, errors = connection.pgconn, []
    pgconn.send_query(text)
    while (result := pgconn.get_result()) is not None:
        if result.status == pq.ExecStatus.COPY_OUT:
            while pgconn.get_copy_data(0)[0] > 0:
                pass
        errors.append(result.error_message.decode())
    assert not any(errors)


@pytest.mark.parametrize("text", HIDDEN)
def test_what_changes_something_is_a_write_or_worse(
    administrator: psycopg.Connection[Any], text: str
) -> None:
    before = administrator.execute(STATE).fetchone()
    try:
        run(administrator, text.encode())
        administrator.execute("RESET search_path")
        after = administrator.execute(STATE).fetchone()
    finally:
        administrator.rollback()
        administrator.execute("DEALLOCATE ALL")
        administrator.commit()

    assert after != before, "nothing is hidden here"
    assert CLASSES.index(classify(text).cls) >= CLASSES.index("write")


def test_they_are_many_and_no_two_are_the_same() -> None:
    assert len(set(HIDDEN)) == len(HIDDEN) >= 170


def test_bytes_that_say_nothing_do_not_end_a_string(postgres18: PostgresPeer) -> None:
    """A database without an encoding takes every byte, and its clients' texts are read as UTF-8."""
    said = b"SELECT $\x80$ $\x81$, '$\x80$, wipe() --'"
    postgres18.execute("CREATE DATABASE raw ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(postgres18.superuser_dsn("raw")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        connection.execute(
            "CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1'"
        )
        run(connection, said)
        left = connection.execute("SELECT count(*) FROM t").fetchone()

    text = wire.text_of(said, wire.codec_of("SQL_ASCII"))
    assert left == (0,)
    assert classify(text).cls == "unknown"
    assert split(f"{text}; SELECT 1") == (f"{text}; SELECT 1",)
