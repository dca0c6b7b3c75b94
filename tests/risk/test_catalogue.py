"""What a catalogue says is masked: by name, by inheritance, by type, by a view's definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from agentaudit.risk.catalogue import QUERIES, Catalogue, Relation, Type, read
from agentaudit.risk.lineage import lineage
from tests.peers.postgres import PostgresPeer

TEXT = "pg_catalog.text"


def relation(oid: int, name: str, *columns: str, schema: str = "public", **more: Any) -> Relation:
    """Return a table whose columns are texts, or of the type after a colon."""
    parts = [column.partition(":") for column in columns]
    typed = tuple((n, part[0], part[2] or TEXT) for n, part in enumerate(parts, start=1))
    return Relation(oid, schema, name, more.pop("kind", "r"), typed, **more)


def rules(catalogue: Catalogue, oid: int) -> list[str | None]:
    count = len(catalogue.relations[oid].columns)
    return [catalogue.rule_of(oid, number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("pattern", "is_masked"),
    [
        ("ssn", True),
        ("SSN", True),
        ('"ssn"', True),
        ("customers.ssn", True),
        ("Customers.Ssn", True),
        ("public.customers.ssn", True),
        ("*.customers.ssn", True),
        ("public.*.ssn", True),
        ("*.*.ssn", True),
        ("*.ssn", True),
        ("customers.*", True),
        ("other.customers.ssn", False),
        ("orders.ssn", False),
        ("ssn2", False),
        ("customers", False),
    ],
)
def test_a_pattern_names_a_column_by_its_last_parts(pattern: str, is_masked: bool) -> None:
    known = Catalogue([relation(1, "customers", "id", "ssn")], columns=[(pattern, "rule")])
    assert known.rule_of(1, 2) == ("rule" if is_masked else "")


def test_names_in_upper_case_are_hidden_too() -> None:
    known = Catalogue([relation(1, "People", "Email", "e.mail")], columns=[("email", "a")])
    assert rules(known, 1) == ["a", ""]
    dotted = Catalogue([relation(1, "People", "e.mail")], columns=[('"e.mail"', "a")])
    assert rules(dotted, 1) == ["a"]


def test_the_first_pattern_that_matches_names_the_rule() -> None:
    patterns = [("customers.ssn", "first"), ("ssn", "second"), ("*.ssn", "third")]
    known = Catalogue([relation(1, "customers", "ssn"), relation(2, "x", "ssn")], columns=patterns)
    assert (known.rule_of(1, 1), known.rule_of(2, 1)) == ("first", "second")
    assert known.whole == "first"


def test_what_is_not_in_the_catalogue_is_not_known() -> None:
    known = Catalogue([relation(1, "customers", "ssn")], columns=[("ssn", "r")])
    assert known.rule_of(2, 1) is None
    assert known.rule_of(1, 9) is None
    assert known.rule_of(1, -1) == ""
    assert known.rule_of(1, 0) == "r"  # the whole row


def test_a_column_is_masked_in_children_and_when_read_through_parents_but_not_in_siblings() -> None:
    tables = [
        relation(1, "top", "a", "b", children=(2, 3)),
        relation(2, "left", "a", "b", "c", children=(4,)),
        relation(3, "right", "a", "b", "c"),
        relation(4, "leaf", "a", "b", "c"),
    ]
    down = Catalogue(tables, columns=[("top.a", "r")])
    assert [rules(down, oid)[0] for oid in (1, 2, 3, 4)] == ["r"] * 4
    up = Catalogue(tables, columns=[("left.b", "r")])
    assert [rules(up, oid)[1] for oid in (1, 2, 3, 4)] == ["r", "r", "", "r"]
    assert rules(Catalogue(tables, columns=[("leaf.c", "r")]), 2) == ["", "", "r"]


def test_a_column_that_holds_masked_rows_is_masked() -> None:
    tables = [
        relation(1, "customers", "id", "ssn"),
        relation(2, "holds", "c:public.customers", "cs:public.customers[]", "w:public.wrapped"),
        relation(3, "wrapped", "in:public.customers", kind="c"),
        relation(4, "plain", "p:public.pair", "m:public.mood"),
        relation(5, "pair", "a", "b", kind="c"),
    ]
    types = [
        Type("public", "customers", "c", relation=1, is_safe=True),
        Type("public", "wrapped", "c", relation=3, is_safe=True),
        Type("public", "pair", "c", relation=5, is_safe=True),
        Type("public", "mood", "e", is_safe=True),
    ]
    known = Catalogue(tables, types=types, columns=[("customers.ssn", "r")])
    assert rules(known, 2) == ["r", "r", "r"]
    assert rules(known, 4) == ["", ""]


def test_types_that_hold_each_other_end() -> None:
    tables = [
        relation(1, "a", "b:public.b[]", "ssn"),
        relation(2, "b", "a:public.a[]"),
        relation(3, "c", "a:public.a", "b:public.b"),
    ]
    types = [
        Type("public", name, "c", relation=oid, is_safe=True)
        for oid, name in enumerate("abc", start=1)
    ]
    known = Catalogue(tables, types=types, columns=[("a.ssn", "r")])
    assert rules(known, 3) == ["r", "r"]


def test_a_view_is_masked_by_its_definition_and_views_on_views_too() -> None:
    tables = [
        relation(1, "customers", "id", "ssn"),
        relation(2, "v", "id", "s", kind="v",
                 definition="SELECT c.id, upper(c.ssn) AS s FROM public.customers c;"),
        relation(3, "w", "x", "y", kind="v", definition="SELECT v.s, v.id FROM public.v;"),
        relation(4, "broken", "x", kind="v", definition="CHOOSE"),
        relation(5, "gone", "x", kind="v"),
        relation(6, "loop", "x", kind="v", definition="SELECT loop.x FROM public.loop"),
        relation(7, "calls", "x", "y", kind="v",
                 definition="SELECT public.f(customers.id) AS f, 1 FROM public.customers"),
    ]  # fmt: skip
    known = Catalogue(tables, functions=frozenset({"f"}), columns=[("customers.ssn", "r")])
    assert rules(known, 2) == ["", "r"]
    assert rules(known, 3) == ["r", ""]
    assert rules(known, 4) == rules(known, 5) == rules(known, 6) == ["r"]
    assert rules(known, 7) == ["r", ""]


def test_a_thousand_views_on_views_hide_all_and_end_nothing() -> None:
    tables = [relation(1, "v0", "ssn", "id")]
    tables += [
        relation(n + 1, f"v{n}", "a", "b", kind="v", definition=f"SELECT * FROM public.v{n - 1}")
        for n in range(1, 1000)
    ]
    known = Catalogue(tables, columns=[("v0.ssn", "r")])
    assert rules(known, 1000)[0] == "r"


def test_a_generated_column_is_masked_by_what_it_is_made_of() -> None:
    table = relation(1, "t", "ssn", "up", "len", generated=((2, "upper(ssn)"), (3, "length(name)")))
    named = relation(2, "u", "name", "up", generated=((2, "upper(name)"),))
    known = Catalogue([table, named], columns=[("ssn", "r")])
    assert rules(known, 1) == ["r", "r", "r"]  # `name` is none of its columns: not understood
    assert rules(known, 2) == ["", ""]


def test_system_relations_are_clear_but_for_what_shows_values() -> None:
    tables = [
        relation(n, name, *columns, schema="pg_catalog")
        for n, (name, *columns) in enumerate(
            [
                ("pg_class", "relname"),
                ("pg_stats", "tablename", "most_common_vals"),
                ("pg_statistic", "starelid"),
                ("pg_stat_activity", "pid", "query"),
                ("pg_made_up", "a"),
            ],
            start=1,
        )
    ]
    known = Catalogue(tables, columns=[("email", "r")])
    assert [rules(known, oid) for oid in range(1, 6)] == [[""], ["", "r"], ["r"], ["", "r"], ["r"]]


def test_a_search_path_says_which_relation_a_name_is() -> None:
    tables = [
        relation(1, "t", "a"),
        relation(2, "t", "a", schema="other"),
        relation(3, "pg_class", "a", schema="pg_catalog"),
        relation(4, "pg_class", "a"),
    ]
    known = Catalogue(tables, user="other")
    assert known.resolve(None, "t", ["public", "other"]) == tables[0]
    assert known.resolve(None, "t", ["$user", "public"]) == tables[1]
    assert known.resolve("other", "t", ["public"]) == tables[1]
    assert known.resolve(None, "t", []) is None
    assert known.resolve(None, "pg_class", ["public"]) == tables[2]
    assert known.resolve(None, "pg_class", ["public", "pg_catalog"]) == tables[3]
    assert len(Catalogue(tables).candidates(None, "t", ["$user", "public"])) == 2


def test_answers_that_are_none_are_refused() -> None:
    for answers in (["{}", "{}"], ["null", "null"], ["x", "y"], ["[]"], ['{"path": 1}', "{}"]):
        with pytest.raises(ValueError):
            read(answers, [("email", "r")])


SCHEMA = """
CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE DOMAIN checked AS int CHECK (f(VALUE) > 0);
CREATE DOMAIN plain AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('a');
CREATE TABLE quiet (id int PRIMARY KEY DEFAULT 1, d plain, m mood,
  created timestamptz DEFAULT now(), CHECK (id > 0));
CREATE INDEX ON quiet (abs(id));
CREATE TABLE by_trigger (id int);
CREATE TRIGGER t BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION g();
CREATE TABLE by_rule (id int);
CREATE RULE r AS ON INSERT TO by_rule DO INSTEAD NOTHING;
CREATE TABLE by_default (id int DEFAULT f(1));
CREATE TABLE by_check (id int CHECK (f(id) > 0));
CREATE TABLE by_index (id int);
CREATE INDEX ON by_index (f(id));
CREATE TABLE by_domain (id checked);
CREATE TABLE by_partition (id int) PARTITION BY LIST (id);
CREATE TABLE one PARTITION OF by_partition (CHECK (f(id) > 0)) FOR VALUES IN (1);
CREATE TABLE by_policy (id int);
CREATE POLICY p ON by_policy USING (f(id) > 0);
CREATE TABLE safe_policy (id int);
CREATE POLICY p ON safe_policy USING (id > 0);
CREATE TABLE referring (id int REFERENCES quiet ON DELETE CASCADE, dropped int, email text);
ALTER TABLE referring DROP COLUMN dropped;
CREATE OPERATOR ## (RIGHTARG = int, FUNCTION = f);
CREATE VIEW v AS SELECT email AS e, id FROM referring;
CREATE TEMP TABLE temporary (email text);
"""


@pytest.fixture(scope="module", params=["postgres15", "postgres18"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresPeer]:
    peer: PostgresPeer = request.getfixturevalue(request.param)
    peer.execute("DROP DATABASE IF EXISTS catalogue", "CREATE DATABASE catalogue")
    if request.param == "postgres15":
        peer.execute("CREATE EXTENSION citext", "CREATE EXTENSION pgcrypto", database="catalogue")
    peer.execute(SCHEMA, database="catalogue")
    yield peer
    peer.execute("DROP DATABASE catalogue WITH (FORCE)")


@pytest.fixture(scope="module")
def found(server: PostgresPeer) -> Catalogue:
    with server.connect(user="inspector", dbname="catalogue") as connection:
        connection.execute("SET search_path = ''")
        answers = [connection.execute(query).fetchall() for query in QUERIES]
    assert all(len(rows) == 1 and len(rows[0]) == 1 for rows in answers)
    return read([rows[0][0] for rows in answers], [("email", "contact")])


def named(catalogue: Catalogue, name: str) -> Relation:
    relation = catalogue.resolve(None, name, ["public"])
    assert relation is not None
    return relation


def test_what_runs_code_when_it_is_written_is_told(found: Catalogue) -> None:
    code = {
        each.name
        for each in found.relations.values()
        if each.schema == "public" and each.has_code and each.kind in "rp"
    }
    assert code == {
        "by_trigger", "by_rule", "by_default", "by_check", "by_index", "by_domain", "by_partition",
        "one",
    }  # fmt: skip
    assert named(found, "by_rule").has_rules
    assert not named(found, "by_trigger").has_rules
    assert named(found, "by_policy").has_policies
    assert not named(found, "safe_policy").has_policies
    assert named(found, "quiet").referrers == (named(found, "referring").oid,)


def test_columns_keep_their_numbers(found: Catalogue) -> None:
    referring = named(found, "referring")
    assert [column[:2] for column in referring.columns] == [(1, "id"), (3, "email")]
    assert found.rule_of(referring.oid, 3) == "contact"
    assert found.rule_of(referring.oid, 1) == ""
    assert found.rule_of(named(found, "v").oid, 1) == "contact"
    assert named(found, "quiet").columns[2][2] == "public.mood"
    assert found.resolve(None, "temporary", ["public"]) is None


def test_functions_and_operators_of_anybodys_are_known_and_extensions_are_none(
    server: PostgresPeer, found: Catalogue
) -> None:
    assert found.functions == {"f", "g"}
    assert found.operators == {"##"}
    if "max" in found.known_functions:  # of citext, which has one of its own
        assert lineage("SELECT max(id) FROM referring", found, path=["public"]).outputs == ("",)
        text = "SELECT digest('a', 'md5'), 'x'::citext = 'X' FROM referring"
        assert lineage(text, found, path=["public"]).outputs == ("", "")


def test_the_queries_name_nothing_that_could_lead_elsewhere(server: PostgresPeer) -> None:
    with server.connect(user="inspector", dbname="catalogue") as connection:
        answers = [connection.execute(query).fetchall()[0][0] for query in QUERIES]
    with pytest.raises(ValueError, match="search_path"):
        read(answers, [("email", "r")])


def test_whoever_owns_an_extension_cannot_make_a_function_of_theirs_harmless(
    server: PostgresPeer,
) -> None:
    with psycopg.connect(server.superuser_dsn("catalogue")) as connection:
        if connection.info.server_version >= 160000:
            return  # the wheel's server has no extension that is made here
        connection.execute("CREATE ROLE owner")
        connection.execute("CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute("ALTER FUNCTION mine() OWNER TO owner")
        connection.execute("ALTER EXTENSION citext ADD FUNCTION mine()")
        connection.execute("SET LOCAL search_path = ''")
        answers = [connection.execute(query).fetchall()[0][0] for query in QUERIES]
        connection.rollback()
    known = read(answers, [("email", "r")])
    assert "mine" in known.functions
    assert "mine" not in known.known_functions
