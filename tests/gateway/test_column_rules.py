"""Ways around a column rule, through a gateway to real servers: no value of it is kept.

`tests/risk/test_lineage.py` tries what is known of a statement; this is about all that lies between
that and the archive: formats, cursors, COPY, what is prepared, what changes meanwhile. Each way has
a session of its own, so that what leaks says by which way it did.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import without_libpq_variables
from tests.gateway.raw import Raw, startup
from tests.gateway.recorded import Recorded, read
from tests.masking.canaries import kept
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.protocols import wire

pytestmark = pytest.mark.timeout(300)

MASKS: Final = [
    {"name": "secrets", "detect": ["all"], "action": "redact"},
    {"name": "ids", "columns": ["*.customers.ssn", "email"], "action": "redact"},
]
SSNS: Final = ("Zq7Kd-RwPxm-40719", "Hv3Tn-LsYwb-58204", "Bk9Mc-XgJfd-61385")
MAIL: Final = "Tg5Vy-QmZxc-29461"
OTHER: Final = "Ny6Fp-DzHqv-73052"
"""What is sent by a client, and compared with a masked column or written into one."""

SECRETS: Final = (*SSNS, MAIL, OTHER)
SETUP: Final = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, ssn text UNIQUE, email text, n int)",
    "CREATE TABLE orders (id int, customer_id int, total numeric, status text)",
    "CREATE TABLE notes (id int PRIMARY KEY, body text)",
    "CREATE TABLE log (what text)",
    f"INSERT INTO customers VALUES (1, 'Ann', '{SSNS[0]}', '{MAIL}', 1), (2, 'Bob', '{SSNS[1]}', 'b', 2),"
    f" (3, 'Cid', '{SSNS[2]}', 'c', 3)",
    "INSERT INTO orders SELECT n, n % 3 + 1, n * 1.5, 'open' FROM generate_series(10, 15) n",
    "INSERT INTO notes VALUES (1, 'hello'), (2, 'world')",
    "CREATE VIEW loud AS SELECT id, name, upper(ssn) AS shout, ssn AS plain FROM customers",
    "CREATE VIEW louder AS SELECT shout || '!' AS voice FROM loud",
    "CREATE VIEW names AS SELECT id, name FROM customers",
    "CREATE MATERIALIZED VIEW stored AS SELECT id, ssn AS s FROM customers",
    "CREATE FUNCTION peek(int) RETURNS text LANGUAGE sql STABLE"
    " AS 'SELECT ssn FROM customers WHERE id = $1'",
    "CREATE FUNCTION peek_all() RETURNS SETOF customers LANGUAGE sql STABLE AS 'SELECT * FROM customers'",
    "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
    " RAISE NOTICE 'new is %', NEW; RETURN NEW; END$$",
    "CREATE TABLE watched (id int, ssn text)",
    "CREATE TRIGGER shouts BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION shout()",
    "CREATE TABLE parent (id int, name text)",
    "CREATE SCHEMA part",
    "CREATE TABLE part.customers (id int, name text, ssn text, n int) PARTITION BY RANGE (id)",
    "CREATE TABLE part.low PARTITION OF part.customers FOR VALUES FROM (0) TO (100)",
    f"INSERT INTO part.customers (id, ssn) VALUES (1, '{SSNS[0]}')",
    "CREATE SCHEMA heirs",
    "CREATE TABLE heirs.customers (id int, name text, ssn text, n int)",
    "CREATE TABLE heirs.special (more text) INHERITS (heirs.customers)",
    f"INSERT INTO heirs.special (id, ssn, more) VALUES (1, '{SSNS[0]}', 'x')",
    "CREATE SCHEMA wide",
    'CREATE TABLE wide."Kunden ü" (id int, ssn text)',
    f"""INSERT INTO wide."Kunden ü" VALUES (1, '{SSNS[0]}')""",
    'CREATE VIEW wide."Näme" AS SELECT ssn AS "Größe" FROM public.customers',
    "CREATE TABLE wide.customers AS SELECT * FROM customers",
    "ANALYZE customers, orders, notes",
    "GRANT ALL ON SCHEMA public, part, heirs, wide TO PUBLIC",
    *(
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO PUBLIC"
        for schema in ("public", "part", "heirs", "wide")
    ),
    "ALTER TABLE customers OWNER TO scram",
    "ALTER TABLE wide.customers OWNER TO scram",
    "ALTER TABLE notes OWNER TO scram",
)
CLEAN: Final = (
    "DROP SCHEMA IF EXISTS public, part, heirs, wide CASCADE",
    "CREATE SCHEMA public",
    "GRANT ALL ON SCHEMA public TO PUBLIC",
)


@dataclass
class Client:
    """A session of its own, and all that it has heard."""

    gateway: Gateway
    token: str
    name: str
    binary: bool = False
    heard: list[object] = field(default_factory=list)
    _connection: psycopg.Connection[Any] | None = None

    @property
    def dsn(self) -> str:
        return self.gateway.dsn("orders", self.token, sslmode="disable", application_name=self.name)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = psycopg.connect(self.dsn, autocommit=True)
            self._connection.add_notice_handler(
                lambda each: self.heard.append((each.message_primary, each.message_detail))
            )
            self._connection.add_notify_handler(lambda each: self.heard.append(each.payload))
        return self._connection

    def run(self, text: str, params: Sequence[Any] | None = None, **keys: Any) -> None:
        """Run a statement, or several; note its rows, or its error."""
        keys.setdefault("binary", self.binary)
        keys.setdefault("prepare", self.binary)
        if ";" in text:
            keys = {}
        try:
            cursor = psycopg.RawCursor(self.connection).execute(text.encode(), params, **keys)
            while True:
                if cursor.description is not None:
                    self.heard.append([each.name for each in cursor.description])
                    self.heard += cursor.fetchall()
                if not cursor.nextset():
                    break
        except psycopg.Error as error:
            self.heard.append((str(error), error.diag.message_detail))

    def copy_out(self, text: str) -> None:
        with self.connection.cursor().copy(text) as copy:
            self.heard.append(b"".join(map(bytes, copy)))

    def copy_in(self, text: str, data: bytes, size: int = 5) -> None:
        try:
            with self.connection.cursor().copy(text) as copy:
                for at in range(0, len(data), size):
                    copy.write(data[at : at + size])
        except psycopg.Error as error:
            self.heard.append((str(error), error.diag.context))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def all_heard(self) -> str:
        return " ".join(
            each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each)
            for each in self.heard
        )


Does = Callable[[Client], None]


@dataclass(frozen=True)
class Way:
    """A way around the rule. Where `tells`, the client comes to see a value by it."""

    name: str
    does: Does
    tells: bool = True


def by(name: str, *texts: str, tells: bool = True, params: Sequence[Any] | None = None) -> Way:
    def does(client: Client) -> None:
        for text in texts:
            client.run(text, params if "$1" in text and "$$" not in text else None)

    return Way(name, does, tells)


def where(name: str, *, tells: bool = True) -> Callable[[Does], Way]:
    return lambda does: Way(name, does, tells)


# ruff: noqa: E501
# --- statements that read: each is run as a simple query, and prepared and in binary

READS: Final = [
    by("plain", "SELECT ssn FROM customers"),
    by("star", "SELECT * FROM customers"),
    by("alias", "SELECT ssn AS harmless FROM customers"),
    by("name of the rule alone", "SELECT email FROM customers"),
    by("qualified", "SELECT c.ssn, public.customers.id FROM public.customers, customers c"),
    by("concatenated", "SELECT 'a' || ssn || name FROM customers"),
    by("cast", "SELECT ssn::varchar, CAST(ssn AS bytea), ssn::name FROM customers"),
    by("halves", "SELECT substr(ssn, 1, 9), substr(ssn, 10) FROM customers"),
    by("upper and lower", "SELECT upper(ssn), lower(ssn) FROM customers"),
    by("reversed", "SELECT reverse(ssn) FROM customers"),
    by("in hexadecimal", "SELECT encode(ssn::bytea, 'hex') FROM customers"),
    by("in base64", "SELECT encode(ssn::bytea, 'base64') FROM customers"),
    by("characters", "SELECT string_to_table(ssn, NULL) FROM customers", tells=False),
    by("codes of characters", "SELECT array_agg(ascii(t)) FROM customers, string_to_table(ssn, NULL) t", tells=False),
    by("format", "SELECT format('%s and %L', ssn, ssn) FROM customers"),
    by("case", "SELECT CASE WHEN id = 1 THEN ssn ELSE name END FROM customers"),
    by("coalesce", "SELECT coalesce(NULL, ssn), greatest(ssn, name), nullif(ssn, '') FROM customers"),
    by("row_to_json", "SELECT row_to_json(c) FROM customers c"),
    by("to_jsonb", "SELECT to_jsonb(customers) FROM customers"),
    by("json_build_object", "SELECT json_build_object('k', ssn) FROM customers"),
    by("whole row", "SELECT c FROM customers c"),
    by("whole row as text", "SELECT c::text FROM customers c"),
    by("row constructor", "SELECT ROW(id, ssn) FROM customers"),
    by("field of a row", "SELECT (c).ssn FROM (SELECT c FROM customers c) q"),
    by("array", "SELECT ARRAY[ssn, name] FROM customers"),
    by("array of a query", "SELECT ARRAY(SELECT ssn FROM customers)"),
    by("string_agg", "SELECT string_agg(ssn, ',') FROM customers"),
    by("array_agg", "SELECT array_agg(ssn) FROM customers"),
    by("json_agg", "SELECT json_agg(c) FROM customers c"),
    by("jsonb_object_agg", "SELECT jsonb_object_agg(id, ssn) FROM customers"),
    by("max and min", "SELECT max(ssn), min(ssn) FROM customers"),
    by("window functions", "SELECT first_value(ssn) OVER (ORDER BY id), lag(ssn) OVER () FROM customers"),
    by("group by", "SELECT ssn, count(*) FROM customers GROUP BY ssn HAVING ssn > ''"),
    by("distinct on", "SELECT DISTINCT ON (ssn) ssn AS x FROM customers"),
    by("common table expression", "WITH w AS (SELECT ssn AS x FROM customers) SELECT x FROM w"),
    by("recursive", "WITH RECURSIVE w(x, n) AS (SELECT ssn, 1 FROM customers UNION ALL SELECT x, n + 1 FROM w WHERE n < 2) SELECT x FROM w"),
    by("union", "SELECT name FROM customers UNION ALL SELECT ssn FROM customers"),
    by("except", "SELECT ssn FROM customers EXCEPT SELECT name FROM customers"),
    by("subquery", "SELECT (SELECT ssn FROM customers WHERE id = o.customer_id) FROM orders o"),
    by("derived table with names", "SELECT a, b FROM (SELECT id, ssn FROM customers) q(a, b)"),
    by("lateral", "SELECT l.x FROM orders o, LATERAL (SELECT ssn AS x FROM customers WHERE id = o.customer_id) l"),
    by("join using", "SELECT * FROM customers JOIN (SELECT id, total FROM orders) o USING (id) RIGHT JOIN notes USING (id)", tells=False),
    by("join of the table with itself", "SELECT a.name, b.ssn FROM customers a NATURAL JOIN customers b"),
    by("values", "VALUES ((SELECT ssn FROM customers WHERE id = 1))"),
    by("table", "TABLE customers"),
    by("view", "SELECT plain, shout FROM loud"),
    by("view of a view", "SELECT * FROM louder"),
    by("materialized view", "SELECT s FROM stored"),
    by("unicode names", 'SELECT "Größe" FROM wide."Näme"'),
    by("unicode escapes", 'SELECT U&"\\0073\\0073\\006e" FROM U&"customer\\0073"'),
    by("quoted", 'SELECT "ssn" AS "SSN" FROM "public"."customers"'),
    by("function", "SELECT peek(1)"),
    by("function in FROM", "SELECT * FROM peek_all()"),
    by("function of rows", "SELECT peek_all()"),
    by("query_to_xml", "SELECT query_to_xml('SELECT ssn FROM customers', true, false, '')", tells=False),
    by("table_to_xml", "SELECT table_to_xml('customers', true, false, '')", tells=False),
    by("schema_to_xml", "SELECT schema_to_xml('public', true, false, '')", tells=False),
    by("pg_stats", "SELECT attname, histogram_bounds, most_common_vals FROM pg_stats WHERE tablename = 'customers'"),
    by("partitioned table", "SELECT ssn FROM part.customers"),
    by("partition", "SELECT ssn FROM part.low"),
    by("parent", "SELECT ssn FROM heirs.customers"),
    by("child", "SELECT ssn, more FROM heirs.special"),
    by("only", "SELECT ssn FROM ONLY customers"),
    by("tablesample", "SELECT ssn FROM customers TABLESAMPLE SYSTEM (100)"),
    by("for update", "SELECT ssn FROM customers FOR UPDATE"),
    by("jsonb_each", "SELECT e.value FROM customers c, jsonb_each(to_jsonb(c)) e"),
    by("jsonb_populate_record", "SELECT (jsonb_populate_record(NULL::customers, to_jsonb(c))).name, (jsonb_populate_record(NULL::customers, jsonb_build_object('name', c.ssn))).name FROM customers c"),
    by("xmlelement", "SELECT xmlelement(name x, ssn) FROM customers", tells=False),
    by("regexp_replace", "SELECT regexp_replace(ssn, 'x', 'y'), regexp_matches(ssn, '.*') FROM customers"),
    by("translate", "SELECT translate(ssn, 'x', 'x') COLLATE \"C\" FROM customers"),
    by("order by the column", "SELECT ssn FROM customers ORDER BY 1 LIMIT 2 OFFSET 0"),
    by("generated with what matches", "SELECT g FROM unnest(ARRAY['%', $1]) g JOIN customers ON ssn = g", params=[SSNS[0]]),
    by("compared parameter", "SELECT id FROM customers WHERE ssn = $1", params=[OTHER], tells=False),
    by("compared parameters", "SELECT id FROM customers WHERE ssn IN ($1, $2) OR upper(ssn) LIKE $3", params=[OTHER, SSNS[0], OTHER], tells=False),
    by("compared array", "SELECT id FROM customers WHERE ssn = ANY($1)", params=[[OTHER, SSNS[1]]], tells=False),
    by("compared literal", f"SELECT id FROM customers WHERE ssn = '{OTHER}' OR E'{OTHER}' = ssn", tells=False),
    by("compared constants", f"SELECT id FROM customers WHERE ssn IN ('{OTHER}', $q${SSNS[0]}$q$) OR ssn BETWEEN '{OTHER}' AND '{OTHER}'", tells=False),
    by("compared row", f"SELECT id FROM customers WHERE (id, ssn) = (1, '{OTHER}')", tells=False),
    by("compared by a join", f"SELECT c.id FROM customers c JOIN (VALUES ('{OTHER}')) v(x) ON c.ssn = v.x", tells=False),
    by("compared in a condition of a join", f"SELECT c.id FROM customers c JOIN orders o ON o.customer_id = c.id AND c.ssn <> '{OTHER}'", tells=False),
    by("compared with unicode quotes", f"SELECT id FROM customers WHERE ssn = U&'{OTHER}'", tells=False),
]  # fmt: skip

# --- errors, notices, and what a server says beside rows

SAYS: Final = [
    by("cast that fails", "SELECT ssn::int FROM customers"),
    by("cast that fails in a condition", "SELECT 1 FROM customers WHERE ssn::int = 1"),
    by("date that fails", "SELECT ssn::date, to_number(ssn, 'x') FROM customers"),
    by("json that fails", "SELECT ssn::jsonb FROM customers", tells=False),
    by("regular expression that fails", "SELECT 'x' ~ ('[' || ssn) FROM customers", tells=False),
    by("division", "SELECT 1 / (length(ssn) - length(ssn)) FROM customers", tells=False),
    by("unique violation", f"INSERT INTO customers VALUES (9, 'x', '{SSNS[0]}')"),
    by("unique violation by a parameter", "INSERT INTO customers VALUES (9, 'x', $1)", params=[SSNS[0]]),
    by("unique violation by an update", "UPDATE customers SET ssn = (SELECT max(ssn) FROM customers)"),
    by("primary key, with the row", f"INSERT INTO customers VALUES (1, 'x', '{OTHER}')", tells=False),
    by("not null, with the row", f"INSERT INTO customers (id, ssn) VALUES (NULL, '{OTHER}')"),
    by("not null, with the row of an update", "UPDATE customers SET id = NULL"),
    by("raise in a DO", "DO $$BEGIN RAISE NOTICE '%', (SELECT max(ssn) FROM customers); END$$"),
    by("exception in a DO", "DO $$BEGIN RAISE EXCEPTION '%', (SELECT max(ssn) FROM customers) USING ERRCODE = '42601'; END$$"),
    by("detail in a DO", "DO $$BEGIN RAISE EXCEPTION 'x' USING DETAIL = (SELECT max(ssn) FROM customers), HINT = 'y'; END$$"),
    by("hint in a DO", "DO $$BEGIN RAISE WARNING 'x' USING HINT = (SELECT max(ssn) FROM customers); END$$", tells=False),
    by("column of a report", "DO $$BEGIN RAISE EXCEPTION 'x' USING COLUMN = (SELECT max(ssn) FROM customers), TABLE = 't'; END$$", tells=False),
    by("code of a report", "DO $$BEGIN RAISE EXCEPTION USING ERRCODE = 'Q' || upper(substr((SELECT max(name) FROM customers), 1, 3)) || '1', MESSAGE = (SELECT max(ssn) FROM customers); END$$"),
    by("trigger", "INSERT INTO watched SELECT id, ssn FROM customers"),
    by("trigger by a literal", "INSERT INTO watched VALUES (1, (SELECT ssn FROM customers WHERE id = 1))"),
    by("notify by a value", "LISTEN heard", "SELECT pg_notify('heard', ssn) FROM customers", "SELECT 1"),
    by("notify in a DO", "LISTEN heard", "DO $$BEGIN PERFORM pg_notify('heard', (SELECT max(ssn) FROM customers)); END$$", "SELECT 1"),
    by("setting", "SELECT set_config('my.note', (SELECT max(ssn) FROM customers), false)", "SELECT current_setting('my.note')", "SHOW my.note"),
    by("application_name", "SELECT set_config('application_name', (SELECT max(ssn) FROM customers), false)", "SHOW application_name"),
    by("setting in a DO", "DO $$BEGIN PERFORM set_config('my.note', (SELECT max(ssn) FROM customers), false); END$$", "SHOW my.note"),
    by("pg_stat_activity", f"SELECT query, 1 FROM pg_stat_activity WHERE query LIKE '%activity%' AND EXISTS (SELECT 1 FROM customers WHERE ssn <> '{OTHER}')"),
    by("explain", f"EXPLAIN SELECT * FROM customers WHERE ssn = '{OTHER}'"),
    by("explain of a subquery", "EXPLAIN (ANALYZE, VERBOSE, FORMAT json) SELECT * FROM orders WHERE status = (SELECT max(ssn) FROM customers)", tells=False),
    by("large object", "SELECT lo_from_bytea(77001, (SELECT max(ssn) FROM customers)::bytea)", "SELECT convert_from(lo_get(77001), 'UTF8')", "SELECT lo_unlink(77001)"),
    by("sequence", "SELECT setval('counter', (SELECT max(ascii(ssn)) FROM customers))", "SELECT currval('counter')", tells=False),
    by("advisory", "SELECT pg_advisory_lock(1), (SELECT count(*) FROM customers WHERE ssn > $1)", params=[OTHER], tells=False),
]  # fmt: skip

# --- what keeps a value somewhere, and reads it from there

CHANGES: Final = [
    by("returning", "UPDATE customers SET n = n RETURNING ssn, name"),
    by("returning all", "UPDATE customers SET n = n WHERE id = 1 RETURNING *"),
    by("returning of a delete", "BEGIN", "DELETE FROM customers RETURNING customers", "ROLLBACK"),
    by("insert", f"INSERT INTO customers VALUES (20, 'x', '{OTHER}') RETURNING id, ssn", "DELETE FROM customers WHERE id = 20"),
    by("insert of several rows", f"INSERT INTO customers (ssn, id) VALUES ('{OTHER}', 20), (DEFAULT, 21)", "DELETE FROM customers WHERE id > 9", tells=False),
    by("insert by a parameter", "INSERT INTO customers (id, ssn, name) VALUES (20, $1, 'x')", "DELETE FROM customers WHERE ssn = $1", params=[OTHER], tells=False),
    by("on conflict", f"INSERT INTO customers VALUES (1, 'Ann', '{OTHER}') ON CONFLICT (id) DO UPDATE SET n = 1, name = excluded.ssn RETURNING name", "UPDATE customers SET name = 'Ann' WHERE id = 1"),
    by("update by a literal", "BEGIN", f"UPDATE customers SET ssn = '{OTHER}', n = 4 WHERE id = 1", f"UPDATE customers SET (n, ssn) = (1, '{OTHER}') WHERE id = 1", "ROLLBACK", tells=False),
    by("merge", "BEGIN", f"MERGE INTO customers c USING (VALUES (1, '{OTHER}')) v(id, s) ON c.id = v.id WHEN MATCHED THEN UPDATE SET ssn = v.s WHEN NOT MATCHED THEN INSERT (id, ssn) VALUES (9, '{OTHER}')", "ROLLBACK", tells=False),
    by("merge that copies", "BEGIN", "MERGE INTO notes t USING customers c ON t.id = c.id WHEN MATCHED THEN UPDATE SET body = c.ssn", "SELECT body FROM notes", "ROLLBACK"),
    by("insert of a query, then read", "BEGIN", "INSERT INTO log SELECT ssn FROM customers", "SELECT what FROM log", "ROLLBACK"),
    by("update from the table, then read", "BEGIN", "UPDATE notes SET body = c.ssn FROM customers c WHERE c.id = notes.id", "SELECT * FROM notes", "ROLLBACK"),
    by("with that writes", "BEGIN", "WITH w AS (INSERT INTO log SELECT ssn FROM customers RETURNING what) SELECT * FROM w", "ROLLBACK"),
    by("create table as", "CREATE TABLE made AS SELECT ssn AS x FROM customers", "SELECT x FROM made", "DROP TABLE made"),
    by("select into", "SELECT ssn AS x INTO TEMP made2 FROM customers", "SELECT x FROM made2"),
    by("temporary table that shadows", "CREATE TEMP TABLE orders AS SELECT ssn AS status FROM customers", "SELECT status FROM orders"),
    by("temporary view", "CREATE TEMP VIEW v AS SELECT ssn AS x FROM customers", "SELECT x FROM v"),
    by("temporary view that shadows", "CREATE TEMP VIEW notes AS SELECT ssn AS body, id FROM customers", "SELECT body FROM notes"),
    by("view that is replaced", "CREATE VIEW changing AS SELECT name AS x FROM customers", "SELECT x FROM changing", "CREATE OR REPLACE VIEW changing AS SELECT ssn AS x FROM customers", "SELECT x FROM changing", "DROP VIEW changing"),
    by("function of the session", "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS 'SELECT max(ssn) FROM customers'", "SELECT pg_temp.f()"),
    by("function that shadows", "CREATE FUNCTION pg_temp.g(text) RETURNS text LANGUAGE plpgsql AS $f$BEGIN RETURN (SELECT max(ssn) FROM customers); END$f$", "SELECT pg_temp.g('x')"),
    by("search_path", "SET search_path = heirs, public", "SELECT ssn FROM customers", "SELECT ssn AS x FROM special"),
    by("search_path to a copy", "CREATE TABLE wide.notes AS SELECT id, ssn AS body FROM public.customers", "SET search_path = wide, public", "SELECT body FROM notes", "DROP TABLE wide.notes"),
    by("dynamic SQL", "DO $$BEGIN EXECUTE 'CREATE TEMP TABLE hid AS SELECT ' || 's' || 'sn AS x FROM customers'; END$$", "SELECT x FROM hid"),
    by("column that is renamed", "BEGIN", "ALTER TABLE customers RENAME ssn TO harmless", "SELECT harmless FROM customers", "ROLLBACK"),
    by("table that is renamed", "BEGIN", "ALTER TABLE customers RENAME TO harmless", "SELECT ssn FROM harmless", "ROLLBACK"),
    by("column that is added", "BEGIN", "ALTER TABLE notes ADD COLUMN more text", "UPDATE notes SET more = c.ssn FROM customers c WHERE c.id = notes.id", "SELECT more FROM notes", "ROLLBACK"),
    by("column that becomes another type", "BEGIN", "ALTER TABLE wide.customers ALTER COLUMN ssn TYPE varchar(40)", "SELECT ssn FROM wide.customers", "ROLLBACK"),
    by("default of a column", "BEGIN", f"ALTER TABLE customers ALTER COLUMN ssn SET DEFAULT '{OTHER}'", "ROLLBACK", tells=False),
    by("check that shows a literal", "BEGIN", f"ALTER TABLE customers ADD CHECK (ssn <> '{OTHER}')", "ROLLBACK", tells=False),
    by("declare and fetch", "BEGIN", "DECLARE c CURSOR FOR SELECT ssn FROM customers", "FETCH 1 FROM c", "MOVE 1 IN c", "FETCH ALL FROM c", "COMMIT"),
    by("declare with hold", "BEGIN", "DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT upper(ssn) FROM customers", "COMMIT", "FETCH FIRST FROM h", "CLOSE h"),
    by("cursor of a function", "BEGIN", "DO $$DECLARE r refcursor := 'curs'; BEGIN OPEN r FOR SELECT ssn FROM customers; END$$", "FETCH ALL FROM curs", "COMMIT"),
    by("prepare and execute", "PREPARE p AS SELECT ssn FROM customers", "EXECUTE p", "EXECUTE p"),
    by("prepare with parameters", "PREPARE q(text) AS SELECT id, $1 FROM customers WHERE ssn = $1", f"EXECUTE q('{SSNS[0]}')"),
    by("pg_prepared_statements", f"PREPARE ps AS SELECT id FROM customers WHERE ssn = '{OTHER}'", "SELECT statement FROM pg_prepared_statements"),
    by("pg_cursors", "BEGIN", f"DECLARE pc CURSOR FOR SELECT id FROM customers WHERE ssn = '{OTHER}'", "SELECT statement FROM pg_cursors", "COMMIT"),
    by("explain analyze of create table as", "EXPLAIN ANALYZE CREATE TEMP TABLE ex AS SELECT ssn AS x FROM customers", "SELECT x FROM ex"),
    by("several statements", "SELECT 1; SELECT ssn FROM customers; SELECT name, ssn AS x FROM customers"),
    by("several statements that keep it", "CREATE TEMP TABLE sev AS SELECT ssn AS x FROM customers; SELECT x FROM sev; SELECT 'a'"),
    by("several statements with literals", f"SELECT 1; SELECT id FROM customers WHERE ssn = '{OTHER}'; UPDATE customers SET ssn = ssn WHERE ssn = '{OTHER}'", tells=False),
    by("rule of a table", "CREATE TABLE ruled (a int)", "CREATE RULE r AS ON INSERT TO ruled DO INSTEAD SELECT ssn FROM customers", "INSERT INTO ruled VALUES (1)", "DROP TABLE ruled", tells=False),
    by("comment on the way", f"SELECT ssn /* {'x' * 20} */ -- y\n FROM\n customers"),
    by("statistics of an expression", "CREATE STATISTICS st ON (upper(ssn)), id FROM customers", "ANALYZE customers", "SELECT * FROM pg_stats_ext_exprs", "DROP STATISTICS st", tells=False),
]  # fmt: skip

# --- ways that a statement alone does not have


@where("copy of the table")
def copy_table(client: Client) -> None:
    for form in ("text", "csv", "binary"):
        client.copy_out(f"COPY customers TO STDOUT (FORMAT {form})")


@where("copy of columns")
def copy_columns(client: Client) -> None:
    for form in ("text", "csv", "binary"):
        client.copy_out(f"COPY customers (name, ssn) TO STDOUT (FORMAT {form})")


@where("copy of a query")
def copy_query(client: Client) -> None:
    for form in ("text", "csv", "binary"):
        client.copy_out(f"COPY (SELECT 'x' || ssn, name FROM customers) TO STDOUT (FORMAT {form})")


@where("copy of a query with options")
def copy_options(client: Client) -> None:
    client.copy_out("COPY customers TO STDOUT WITH CSV HEADER DELIMITER ';' FORCE QUOTE *")
    client.copy_out("COPY customers TO STDOUT (DELIMITER '|', NULL 'nothing')")
    client.copy_out(
        "COPY customers TO STDOUT (FORMAT csv, QUOTE '~', ESCAPE '^', ENCODING 'LATIN1')"
    )


@where("copy of what nobody knows")
def copy_unknown(client: Client) -> None:
    client.copy_out("COPY (SELECT peek(1), row_to_json(c) FROM customers c) TO STDOUT")


@where("copy with values of many lines")
def copy_lines(client: Client) -> None:
    for form in ("text", "csv", "binary"):
        client.copy_out(
            "COPY (SELECT name, E'a\\nb\\\\c\"d,e\\tf' || ssn, 1 FROM customers) TO STDOUT"
            f" (FORMAT {form})"
        )


def _row_of_copy(form: str) -> bytes:
    if form == "text":
        return f"31\tx\t{OTHER}\t\\N\t1\n".encode()
    if form == "csv":
        return f'31,x,"{OTHER}",,1\n'.encode()
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    values = wire.values_of([b"\0\0\0\x1f", b"x", OTHER.encode(), None, b"\0\0\0\1"])
    return head + values + struct.pack("!h", -1)


@where("copy into the table", tells=False)
def copy_into(client: Client) -> None:
    for form in ("text", "csv", "binary"):
        for size in (1, 5, 1000):
            client.copy_in(f"COPY customers FROM STDIN (FORMAT {form})", _row_of_copy(form), size)
            client.run("DELETE FROM customers WHERE id = 31")


@where("copy into the table that fails", tells=False)
def copy_into_wrongly(client: Client) -> None:
    client.copy_in("COPY customers FROM STDIN", f"no number\tx\t{OTHER}\t\\N\t1\n".encode())
    client.copy_in("COPY customers FROM STDIN", f"1\tx\t{OTHER}\t\\N\t1\n".encode())
    client.copy_in("COPY customers FROM STDIN", f"32\tx\t{OTHER}\t\\N\n".encode())
    client.copy_in("COPY customers (ssn, id) FROM STDIN", f"{OTHER}\tx\n".encode())


@where("statement that is run again after it was described once")
def run_again(client: Client) -> None:
    for _ in range(3):
        client.run("SELECT id, ssn FROM customers WHERE id < $1", [9], prepare=True)
        client.run("SELECT upper(ssn) AS u FROM customers WHERE id < $1", [9], prepare=True)


@where("statement prepared before the column had its name")
def prepared_before(client: Client) -> None:
    client.run("CREATE TABLE later (id int, harmless text)")
    client.run("SELECT harmless FROM later", prepare=True)
    client.run("INSERT INTO later SELECT id, ssn FROM customers")
    client.run("SELECT harmless FROM later", prepare=True)
    client.run("DROP TABLE later")


@where("statement prepared before a view was replaced")
def prepared_before_a_view(client: Client) -> None:
    client.run("CREATE VIEW shifting AS SELECT name AS x FROM customers")
    for _ in range(2):
        client.run("SELECT x FROM shifting", prepare=True)
    client.run("CREATE OR REPLACE VIEW shifting AS SELECT ssn AS x FROM customers")
    client.run("SELECT x FROM shifting", prepare=True)
    client.run("DROP VIEW shifting")


@where("table that another session makes")
def made_elsewhere(client: Client) -> None:
    with psycopg.connect(client.dsn, autocommit=True) as other:
        other.execute("CREATE TABLE elsewhere AS SELECT ssn AS x FROM customers")
        client.run("SELECT x FROM elsewhere")
    client.run("SELECT x FROM elsewhere")
    client.run("DROP TABLE elsewhere")


@where("table that another session fills")
def filled_elsewhere(client: Client) -> None:
    with psycopg.connect(client.dsn, autocommit=True) as other:
        other.execute("INSERT INTO log SELECT ssn FROM customers")
        client.run("SELECT what FROM log")
    client.run("SELECT what AS x FROM log")
    client.run("DELETE FROM log")


@where("notification to another session")
def notified_elsewhere(client: Client) -> None:
    client.run("LISTEN afar")
    with psycopg.connect(client.dsn, autocommit=True) as other:
        other.execute("SELECT pg_notify('afar', ssn) FROM customers")
    for each in client.connection.notifies(timeout=10, stop_after=3):
        client.heard.append(each.payload)


@where("value heard and said again", tells=True)
def said_again(client: Client) -> None:
    client.run("SELECT ssn FROM customers WHERE id = 1")
    client.run("SELECT name FROM customers WHERE id = 1 AND ssn = $1", [SSNS[0]])


@where("pipeline")
def pipelined(client: Client) -> None:
    with client.connection.pipeline():
        cursors = [
            client.connection.execute(text, binary=binary)
            for text in ("SELECT ssn FROM customers", "SELECT upper(ssn), name FROM customers")
            for binary in (False, True)
        ]
        for cursor in cursors:
            client.heard += cursor.fetchall()


@where("portal that is suspended")
def suspended(client: Client) -> None:
    with _line(client) as line:
        line.say(
            wire.parse("s", "SELECT upper(ssn), id FROM customers WHERE id > $1")
            + wire.bind("p", "s", [b"0"], result_formats=[1])
            + wire.describe_portal("p")
            + wire.execute("p", 1)
            + wire.execute("p", 1)
            + wire.execute("p", 0)
            + wire.SYNC
        )
        client.heard.append(_until_ready(line))


@where("rows that nobody has described")
def never_described(client: Client) -> None:
    with _line(client) as line:
        asked = wire.parse("s", "SELECT name, ssn FROM customers") + wire.bind("", "s")
        line.say(asked + wire.execute() + wire.SYNC)
        client.heard.append(_until_ready(line))
        again = wire.bind("", "s", result_formats=[0, 1]) + wire.execute() + wire.SYNC
        line.say(again + wire.bind("", "s", result_formats=[1]) + wire.execute() + wire.SYNC)
        client.heard += [_until_ready(line), _until_ready(line)]


@where("statement described, and its portal not")
def statement_described(client: Client) -> None:
    with _line(client) as line:
        text = "SELECT id, 'x' || ssn FROM customers WHERE ssn <> $1"
        line.say(wire.parse("s", text) + wire.describe_statement("s") + wire.SYNC)
        client.heard.append(_until_ready(line))
        bound = wire.bind("", "s", [OTHER.encode()], formats=[1], result_formats=[0, 1])
        line.say(bound + wire.execute() + wire.SYNC)
        client.heard.append(_until_ready(line))


@where("many portals at once")
def many_portals(client: Client) -> None:
    with _line(client) as line:
        line.say(wire.query("BEGIN"))
        _until_ready(line)
        line.say(
            wire.parse("a", "SELECT name FROM customers")
            + wire.parse("b", "SELECT ssn FROM customers")
            + wire.bind("pa", "a")
            + wire.bind("pb", "b")
            + wire.execute("pa", 1)
            + wire.execute("pb", 1)
            + wire.execute("pa", 1)
            + wire.execute("pb", 1)
            + wire.SYNC
        )
        client.heard.append(_until_ready(line))


@where("function called by its number", tells=False)
def called(client: Client) -> None:
    client.run("SELECT 'peek(int)'::regprocedure::oid::int", binary=False, prepare=False)
    (number,) = next(each for each in client.heard if isinstance(each, tuple))
    with _line(client) as line:
        body = struct.pack("!IHH", number, 1, 0) + wire.values_of([b"1"]) + b"\0\0"
        line.say(wire.message("F", body))
        client.heard.append(_until_ready(line))


@where("asyncpg")
def with_asyncpg(client: Client) -> None:
    async def ask() -> None:
        gw = client.gateway
        connection = await asyncpg.connect(
            host=gw.host,
            port=gw.port,
            user="agent",
            password=client.token,
            database="orders",
            ssl=False,
            server_settings={"application_name": client.name},
        )
        try:
            statement = await connection.prepare("SELECT c, c.ssn, to_jsonb(c) FROM customers c")
            client.heard += await statement.fetch()
            async with connection.transaction():
                async for row in connection.cursor("SELECT upper(ssn) FROM customers", prefetch=1):
                    client.heard.append(row)
            await connection.copy_records_to_table("customers", records=[(41, "x", OTHER, None, 1)])
            await connection.execute("DELETE FROM customers WHERE id = $1", 41)
            client.heard += await connection.fetch(
                "SELECT name FROM customers WHERE ssn = $1", OTHER
            )
        finally:
            await connection.close()

    asyncio.run(ask())


@where("psql")
def with_psql(client: Client) -> None:
    script = (
        "\\set FETCH_COUNT 2\nSELECT ssn FROM customers;\n\\unset FETCH_COUNT\n"
        "SELECT ssn AS x FROM customers \\gset\n\\echo :x\n"
        "\\copy customers TO STDOUT\nSELECT ssn FROM customers WHERE id = 1 \\gx\n"
        "TABLE customers;\n\\d+ customers\n\\sf peek\n"
    )
    done = subprocess.run(
        ["psql", "-X", "-q", "-A", "-t", client.dsn],
        input=script.encode(),
        capture_output=True,
        env=without_libpq_variables(),
        timeout=60,
        check=False,
    )
    client.heard.append(done.stdout + done.stderr)


@where("long value")
def long_value(client: Client) -> None:
    client.run("SELECT repeat(ssn, 30000) FROM customers WHERE id = 1")
    client.run("SELECT id FROM customers WHERE ssn = $1", [OTHER * 30000])
    client.run(f"SELECT id FROM customers WHERE ssn = '{OTHER * 30000}'")
    client.copy_out("COPY (SELECT 1, repeat(ssn, 30000) FROM customers) TO STDOUT")
    client.copy_in(
        "COPY customers FROM STDIN", f"51\tx\t{OTHER * 30000}\t\\N\t1\n".encode(), 70_000
    )
    client.run("DELETE FROM customers WHERE id = 51")


@where("many rows")
def many_rows(client: Client) -> None:
    client.run("SELECT n, ssn, name FROM customers, generate_series(1, 3000) g")
    client.run("SELECT g, 'x' || ssn FROM customers, generate_series(1, 3000) g", binary=True)
    client.copy_out("COPY (SELECT n, ssn FROM customers, generate_series(1, 3000) g) TO STDOUT")


def _line(client: Client) -> Raw:
    line = Raw(client.gateway)
    line.say(startup(application_name=client.name)).hear_one()
    line.say(wire.message("p", wire.string(client.token)))
    return line.hear_ready()


def _until_ready(line: Raw) -> bytes:
    said = b""
    while True:
        kind, body = line.hear_one()
        said += body
        if kind == b"Z":
            return said


OTHERS: Final = [each for each in list(globals().values()) if isinstance(each, Way)]

# --- what shows nothing of the column, and stays as it is

CLEAR: Final = [
    ("SELECT id, name FROM customers", "Cid"),
    ("SELECT c.name FROM customers AS c ORDER BY c.ssn", "Cid"),
    ("SELECT count(*) + 4000 FROM customers", "4003"),
    ("SELECT name, n + 7000 FROM customers WHERE ssn IS NOT NULL", "7003"),
    ("SELECT upper(name) FROM customers", "CID"),
    ("SELECT o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id", "22.5"),
    ("SELECT * FROM orders", "open"),
    ("SELECT * FROM notes", "world"),
    ("SELECT * FROM names", "Cid"),
    ("SELECT name FROM loud", "Cid"),
    ("SELECT status, sum(total) + 1000 FROM orders GROUP BY status", "1112.5"),
    ("SELECT row_to_json(o) FROM orders o", '"status":"open"'),
    ("SELECT to_jsonb(q) FROM (SELECT id, name FROM customers) q", "Cid"),
    ("WITH w AS (SELECT name FROM customers) SELECT name || '!' FROM w", "Cid!"),
    ("SELECT string_agg(name, '+') FROM customers", "Ann+Bob+Cid"),
    ("SELECT 'literal of mine'", "literal of mine"),
    ("SELECT version(), 'is known'", "PostgreSQL"),
    ("SELECT current_database(), 'here'", "here"),
    ("SHOW server_version_num", "server_version_num"),
    ("SELECT relname FROM pg_class WHERE relname = 'customers'", "customers"),
    ("SELECT column_name FROM information_schema.columns WHERE table_name = 'customers'", "ssn"),
    ("SELECT n * 100 AS hundredfold FROM generate_series(71, 73) n", "7200"),
    ("VALUES (1, 'one value'), (2, 'two values')", "two values"),
    ("SELECT name FROM customers UNION SELECT body FROM notes", "world"),
    ("SELECT id FROM notes WHERE body = 'hello' AND 'kept literal' <> ''", "kept literal"),
    ("SELECT first_value(name) OVER (ORDER BY id) FROM customers", "Ann"),
    ("SELECT b.body FROM notes b, LATERAL (SELECT 1 FROM customers) l", "world"),
    ("UPDATE notes SET body = 'hello' WHERE id = 1 RETURNING body", "hello"),
    ("SELECT $1::text || ' came back'", "PARAM came back"),
    ("SELECT name FROM customers WHERE name = $1 OR name = 'Cid'", "PARAM"),
    ("SELECT nothing_there FROM orders", "nothing_there"),
    ("SELECT 1 / 0, 'a literal beside'", "division by zero"),
    ("COPY orders TO STDOUT", "open"),
    ("COPY (SELECT id, name FROM customers) TO STDOUT (FORMAT csv)", "3,Cid"),
]  # fmt: skip
"""Statements, and what of them or of their answers the archive has to show."""


# --- running them


@dataclass
class Site:
    """What became of all ways, and what the archive says of each."""

    told: dict[str, str]
    recorded: Recorded
    everything: dict[str, bytes]
    folder_has: list[str]
    errors: dict[str, Exception] = field(default_factory=dict)
    log: str = ""


def traces(value: str) -> set[bytes]:
    """Return what tells of `value`: six characters of it, in any case and direction, or encoded."""
    found = set()
    for each in (value, value.upper(), value.lower(), value[::-1]):
        found |= {each[at : at + 6].encode() for at in range(len(each) - 5)}
    found |= {value.encode().hex().encode(), base64.b64encode(value.encode())}
    return found


TRACES: Final = {trace for value in SECRETS for trace in traces(value)}


def in_session(recorded: Recorded, name: str) -> bytes:
    """Return all that the archive has of the sessions of that name."""
    parts: list[bytes] = []
    for session in recorded.sessions:
        if session["client_app"] != name:
            continue
        parts.append(repr(session).encode())
        for event in recorded.of(session):
            parts += [recorded.payload(event), str(event["text"]).encode()]
        for command in recorded.commands_of(session):
            parts.append(json.dumps(command, default=str, ensure_ascii=False).encode())
    return b"\n".join(parts)


def _jobs() -> Iterator[tuple[str, bool, Does]]:
    for number, (text, _) in enumerate(CLEAR):
        does = functools.partial(_runs_clear, text)
        yield f"clear: {number}", False, does
    for binary in (False, True):
        mode = "binary" if binary else "simple"
        for way in (*READS, *SAYS, *CHANGES):
            yield f"{mode}: {way.name}"[:60], binary, way.does
    for way in OTHERS:
        yield f"other: {way.name}"[:60], False, way.does


def _runs_clear(text: str, client: Client) -> None:
    if text.startswith("COPY"):
        client.copy_out(text)
    else:
        client.run(text, ["PARAM"] if "$1" in text else None)


@pytest.fixture(scope="module", params=["postgres15", "postgres18"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Site]:
    server: PostgresPeer = request.getfixturevalue(request.param)
    server.execute(*CLEAN, *SETUP, database="orders")
    folder = tmp_path_factory.mktemp("columns")
    told: dict[str, str] = {}
    errors: dict[str, Exception] = {}
    try:
        with (
            closing(SigningIssuer()) as issuer,
            gateways(folder, authority, lambda: issuer) as make,
        ):
            gw = make(server.target(), tables={"mask": MASKS}, durability="relaxed")
            token = issuer.token("ana")
            for name, binary, does in _jobs():
                client = Client(gw, token, name, binary)
                try:
                    with closing(client):
                        does(client)
                except Exception as error:
                    errors[name] = error
                told[name] = client.all_heard
            gw.wait_until_idle()
            assert gw.terminate() == 0
            recorded = read(gw.archive)
            names = [name for name, _, _ in _jobs()]
            has = [
                f"{trace!r} in {where}"
                for where, data in kept(gw.directory)
                for trace in (value.encode() for value in SECRETS)
                if trace in bytes(data)
            ]
            everything = {name: in_session(recorded, name) for name in names}
            yield Site(told, recorded, everything, has, errors, gw.log_text())
    finally:
        server.execute(*CLEAN, database="orders")


_NAMES: Final = [name for name, _, _ in _jobs()]
_TELLS: Final = {way.name for way in (*READS, *SAYS, *CHANGES, *OTHERS) if way.tells}


def test_no_way_leads_around_a_column_rule(site: Site) -> None:
    ways = [name for name in _NAMES if not name.startswith("clear")]
    assert {name: site.errors[name] for name in ways if name in site.errors} == {}
    assert [name for name in ways if not site.everything[name]] == []
    shown = {name: [each for each in TRACES if each in site.everything[name]] for name in ways}
    assert {name: sorted(traces) for name, traces in shown.items() if traces} == {}


def test_what_a_way_leads_to_is_told_to_the_client(site: Site) -> None:
    """Otherwise it would be no way around."""
    tell = [name for name in _NAMES if name.partition(": ")[2] in _TELLS]
    assert len(tell) > 100
    heard = {name: any(trace.decode() in site.told[name] for trace in TRACES) for name in tell}
    assert [name for name in tell if not heard[name]] == []


def test_what_shows_nothing_of_the_column_is_kept_as_it_is(site: Site) -> None:
    clear = [name for name in _NAMES if name.startswith("clear")]
    wrong = {}
    for name, (text, shown) in zip(clear, CLEAR, strict=True):
        found = site.everything[name]
        if name in site.errors or shown.encode() not in found or b"[masked:ids]" in found:
            wrong[text] = (site.errors.get(name), found)
    assert wrong == {}


def test_no_file_of_the_gateway_has_a_value(site: Site) -> None:
    assert site.folder_has == []


def test_the_ways_are_many() -> None:
    assert len({way.name for way in (*READS, *SAYS, *CHANGES, *OTHERS)}) >= 150
    assert len(CLEAR) >= 25
    assert len(set(_NAMES)) == len(_NAMES)
