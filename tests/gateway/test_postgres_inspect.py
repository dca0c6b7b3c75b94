"""How many rows a statement that waits is about, as a real planner says to who reviews it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from agentaudit.gateway.state import State, Vote
from agentaudit.model import Actor
from tests.gateway.recorded import Row, read
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

DBA = Actor(user="dora", subject="dora", issuer="https://people.test", groups=("dba",))
HOLDS = {
    "name": "all that changes",
    "when": {"class": ["write", "schema", "admin", "unknown"]},
    "action": "hold",
    "approvers": ["dba"],
}
COUNTED = {"resource": ["stock.counted"]}
RULES = [
    {
        "name": "few at a time",
        "when": {"operation": ["UPDATE"], "rows_over": 100} | COUNTED,
        "action": "deny",
    },
    {
        "name": "many need a DBA",
        "when": {"operation": ["DELETE"], "rows_over": 100} | COUNTED,
        "action": "hold",
        "approvers": ["dba"],
    },
    {
        "name": "read a little",
        "when": {"class": ["read"], "rows_over": 100} | COUNTED,
        "action": "deny",
    },
    {"name": "few", "when": {"operation": ["UPDATE", "DELETE"]} | COUNTED, "action": "allow"},
    HOLDS,
]


class Site:
    """A gateway that asks planners, and who looks at what waits."""

    def __init__(self, gw: Gateway, server: PostgresPeer, token: str) -> None:
        self.gw = gw
        self.server = server
        self.token = token
        self.reports_search_path = True
        self.state = State.open("sqlite:///state.db", base=gw.directory)

    def connect(self, target: str = "orders", **keys: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.gw.dsn(target, self.token), autocommit=True, **keys)

    def estimates(
        self,
        client: psycopg.Connection[Any],
        text: str,
        params: Sequence[Any] | None = None,
        **keys: Any,
    ) -> list[dict[str, Any]]:
        """Return what a reviewer sees of a statement, which is denied then."""
        cursor = psycopg.RawCursor(client)

        def run() -> None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="denied by rule"):
                cursor.execute(text.encode(), params, **keys)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: bool(self.state.requests(state="pending")), "a request that waits")
        (request,) = self.state.requests(state="pending")
        now_us = time.time_ns() // 1000
        vote = Vote(approver=DBA, verdict="deny", reason="only asked", at_us=now_us)
        self.state.vote(request.id, vote, digest=request.digest, now_us=now_us)
        thread.join()
        return [statement["estimate"] for statement in request.shown["statements"]]

    def estimate(
        self, text: str, params: Sequence[Any] | None = None, *, target: str = "orders"
    ) -> dict[str, Any]:
        with self.connect(target) as client:
            (found,) = self.estimates(client, text, params)
        return found


@pytest.fixture(scope="module", params=["postgres15", "postgres18"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Site]:
    server: PostgresPeer = request.getfixturevalue(request.param)
    server.execute(
        "CREATE SCHEMA stock",
        "CREATE TABLE stock.items AS SELECT n, n % 10 AS kind FROM generate_series(1, 10000) n",
        "CREATE TABLE stock.counted AS SELECT n FROM generate_series(1, 10000) n",
        "CREATE TABLE stock.parts (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE stock.low PARTITION OF stock.parts FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE stock.high PARTITION OF stock.parts FOR VALUES FROM (100) TO (1000)",
        "INSERT INTO stock.parts SELECT generate_series(50, 149)",
        "CREATE TABLE stock.hidden AS SELECT 1 AS n",
        "GRANT USAGE ON SCHEMA stock TO PUBLIC",
        "GRANT ALL ON ALL TABLES IN SCHEMA stock TO scram",
        "ALTER TABLE stock.items OWNER TO scram",
        "GRANT SELECT ON stock.items, stock.parts, stock.counted TO inspector",
        "ANALYZE stock.items, stock.counted, stock.low, stock.high, stock.hidden",
        database="orders",
    )
    targets = [
        server.target(**server.inspector()),
        server.target("wrong", **server.inspector()) | {"inspect_password": "something else"},
    ]
    folder = tmp_path_factory.mktemp("inspected")
    try:
        with (
            closing(SigningIssuer()) as issuer,
            gateways(folder, authority, lambda: issuer) as make,
        ):
            gw = make(*targets, tables={"rule": RULES})
            site = Site(gw, server, issuer.token("ana"))
            site.reports_search_path = request.param == "postgres18"
            yield site
            site.state.close()
    finally:
        server.execute("DROP SCHEMA stock CASCADE", database="orders")


def test_a_planner_says_how_many_rows_a_change_is_about(site: Site) -> None:
    assert site.estimate("DELETE FROM stock.items WHERE kind = 3") == {
        "rows": pytest.approx(1000, rel=0.2),
        "tables": {"stock.items": 10000},
    }
    assert site.estimate("UPDATE stock.items SET kind = 1")["rows"] == 10000
    inserted = site.estimate("INSERT INTO stock.items VALUES (1, DEFAULT), (2, DEFAULT)")
    assert inserted == {"rows": 2, "tables": {"stock.items": 10000}}


def test_parameters_are_those_of_the_statement(site: Site) -> None:
    by_value = "UPDATE stock.items SET kind = $1 WHERE n < $2"
    assert site.estimate(by_value, [5, 101])["rows"] == pytest.approx(100, rel=0.2)
    assert site.estimate(by_value, [5, 5001])["rows"] == pytest.approx(5000, rel=0.2)


def test_what_has_no_plan_is_about_all_rows_of_its_tables(site: Site) -> None:
    assert site.estimate("TRUNCATE stock.items")["rows"] == 10000
    # The server counts partitions; their parent it has not counted.
    assert site.estimate("TRUNCATE stock.parts, stock.items") == {
        "rows": 10100,
        "tables": {"stock.parts": 100, "stock.items": 10000},
    }
    assert site.estimate("DROP TABLE stock.nowhere") == {
        "rows": None,
        "why": "the server has not counted its rows",
        "tables": {"stock.nowhere": None},
    }


def test_names_are_looked_for_where_the_session_does(site: Site) -> None:
    with site.connect() as client:
        client.execute("SET search_path = stock")
        (found,) = site.estimates(client, "DELETE FROM items")
    if site.reports_search_path:
        assert found["rows"] == 10000
    else:
        assert found["why"] == "the inspecting login does not find a table of that name"


def test_what_the_session_began_with_counts_for_the_planner_too(site: Site) -> None:
    options = "-c search_path=stock -c transform_null_equals=on -c client_encoding=LATIN1"
    with site.connect(options=options) as client:
        client.execute("SET client_encoding = UTF8")
        (found,) = site.estimates(client, "DELETE FROM items")
        (none,) = site.estimates(client, "DELETE FROM items WHERE kind = NULL")
        (few,) = site.estimates(client, "DELETE FROM items WHERE kind IS NULL")
    assert found["rows"] == 10000
    assert none["rows"] == few["rows"]


def test_who_reviews_learns_why_there_is_no_estimate(site: Site) -> None:
    assert site.estimate("DELETE FROM stock.hidden") == {
        "rows": None,
        "why": "the inspecting login may not read it",
        "tables": {"stock.hidden": 1},
    }
    with_writes = "WITH w AS (DELETE FROM stock.items RETURNING n) SELECT n FROM w"
    assert site.estimate(with_writes)["why"] == "a query of its WITH writes"
    assert site.estimate("CREATE TABLE made (n int)")["why"] == "it has no plan"
    refused = site.estimate("DELETE FROM stock.items WHERE n = $1", ["secret"])
    assert refused["why"] == "the planner refuses: SQLSTATE 22P02"


def test_a_login_that_fails_keeps_nobody_from_deciding(site: Site) -> None:
    found = site.estimate("DELETE FROM stock.items", target="wrong")
    assert found == {"why": "the inspecting login is not let in"}


def test_what_the_session_has_locked_is_not_waited_for(site: Site) -> None:
    with site.connect() as client:
        client.execute("BEGIN")
        client.execute("LOCK TABLE stock.items IN ACCESS EXCLUSIVE MODE")
        (found,) = site.estimates(client, "DELETE FROM stock.items WHERE kind = 3")
    assert found["why"] == "a table is locked"


def test_each_statement_of_a_query_has_an_estimate(site: Site) -> None:
    with site.connect() as client:
        deletes = "DELETE FROM stock.items WHERE n < 101; DELETE FROM stock.parts"
        found = site.estimates(client, deletes)
    assert [one["rows"] for one in found] == [pytest.approx(100, rel=0.2), 100]


def test_a_function_that_calls_itself_immutable_is_not_run_by_who_inspects(site: Site) -> None:
    with site.connect() as client:
        assert site.estimates(client, "UPDATE stock.items SET n = stock.lie(1)") == [
            {"rows": None, "why": "it may do more than its text says"}
        ]


def test_the_session_of_a_changed_meaning_has_no_estimate(site: Site) -> None:
    with site.connect() as client:
        client.execute("SET transform_null_equals = on")
        (found,) = site.estimates(client, "DELETE FROM stock.items WHERE kind = NULL")
    changed = "changes setting transform_null_equals"
    assert found == {"why": f"the session has changed what it may mean ({changed})"}


def test_tables_that_inherit_are_counted_with_their_parent(site: Site) -> None:
    site.server.execute(
        "CREATE TABLE IF NOT EXISTS stock.heir () INHERITS (stock.hidden)",
        "GRANT ALL ON stock.heir TO scram",
        "INSERT INTO stock.heir SELECT generate_series(1, 100)",
        "ANALYZE stock.heir",
        database="orders",
    )
    try:
        assert site.estimate("TRUNCATE stock.hidden")["rows"] == 101
    finally:
        site.server.execute("DROP TABLE stock.heir", database="orders")


# --- rules by the number of rows


def recorded(site: Site, pid: int) -> tuple[Row, list[Row]]:
    """Return the session at the server's process `pid`, which is over, and its commands."""
    site.gw.wait_until_idle()
    seen = read(site.gw.archive)
    (session,) = [one for one in seen.sessions if one["target_pid"] == pid]
    return session, seen.commands_of(session)


def test_a_rule_is_about_what_changes_more_rows_than_it_says(site: Site) -> None:
    changes = "UPDATE stock.counted SET n = n WHERE n <= %s"
    with site.connect() as client:
        pid = client.info.backend_pid
        client.execute(changes, [50])
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as denied:
            client.execute(changes, [5000])
        client.execute("SELECT 1")
    assert denied.value.diag.message_primary == 'agentaudit: denied by rule "few at a time"'
    told = denied.value.diag.message_detail
    assert told is not None
    assert "; its rows: about 5,0" in told or "; its rows: about 4,9" in told
    _, (small, large, _) = recorded(site, pid)
    assert (small["decision"], small["rule"], small["status"]) == ("allow", "few", "ok")
    assert small["estimated_rows"] == pytest.approx(50, rel=0.2)
    assert (large["decision"], large["rule"], large["status"]) == (
        *("deny", "few at a time", "denied"),
    )


def test_what_nobody_can_count_is_taken_for_too_much(site: Site) -> None:
    with site.connect() as client, site.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE stock.counted IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as denied:
            client.execute("UPDATE stock.counted SET n = n WHERE n = 1")
    assert str(denied.value.diag.message_detail).endswith("; its rows: not known")


def test_people_are_asked_about_many_rows_and_not_about_few(site: Site) -> None:
    with site.connect() as client, client.transaction(force_rollback=True):
        assert client.execute("DELETE FROM stock.counted WHERE n <= 50").rowcount == 50
        both = "DELETE FROM stock.counted WHERE n = 77; DELETE FROM stock.counted WHERE n > 5000"
    with site.connect() as client:
        few, many = site.estimates(client, both)
    assert few["rows"] < 100 < many["rows"]
    assert site.estimate("DELETE FROM stock.counted")["rows"] == 10000


def test_a_read_that_has_more_rows_than_was_expected_is_cut_short(site: Site) -> None:
    # The planner takes each for every third row.
    more = " AND ".join(f"n % {number} >= 0" for number in range(1, 6))
    with closing(site.connect()) as client:
        pid = client.info.backend_pid
        assert len(client.execute("SELECT n FROM stock.counted WHERE n <= 50").fetchall()) == 50
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="denied by rule"):
            client.execute("SELECT n FROM stock.counted")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="fewer rows may pass"):
            client.execute(f"SELECT n FROM stock.counted WHERE {more}")
    session, _ = recorded(site, pid)
    assert session["close_reason"] == "rows_over"


def test_a_short_answer_with_too_many_rows_ends_the_session_behind_it(site: Site) -> None:
    more = " AND ".join(f"n % {number} >= 0" for number in range(1, 6))
    with closing(site.connect()) as client, suppress(psycopg.Error):
        pid = client.info.backend_pid
        client.execute(f"SELECT n FROM stock.counted WHERE n <= 400 AND {more}")
    session, _ = recorded(site, pid)
    assert session["close_reason"] == "rows_over"


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("PERFORM pg_notify('heard', current_user)", {"rows": 10000}),
        ("PERFORM stock.wipes()", {"rows": None, "why": "the planner refuses: SQLSTATE 25006"}),
        ("PERFORM pg_sleep(5)", {"rows": None, "why": "the planner took too long"}),
    ],
)
def test_what_planning_runs_behind_a_view_is_taken_back(
    site: Site, does: str, told: dict[str, Any]
) -> None:
    site.server.execute(
        "CREATE OR REPLACE FUNCTION stock.wipes() RETURNS void LANGUAGE sql"
        " AS 'DELETE FROM stock.hidden'",
        "CREATE OR REPLACE FUNCTION stock.hides() RETURNS int IMMUTABLE LANGUAGE plpgsql"
        f" AS $$BEGIN {does}; RETURN 1; END$$",
        "CREATE OR REPLACE VIEW stock.looks AS SELECT stock.hides() AS one",
        "GRANT SELECT ON stock.looks TO PUBLIC",
        "GRANT DELETE ON stock.hidden TO inspector",
        database="orders",
    )
    with site.server.connect() as listener:
        listener.execute("LISTEN heard")
        found = site.estimate("DELETE FROM stock.items USING stock.looks l WHERE l.one = 1")
        assert list(listener.notifies(timeout=0)) == []
    assert found == told | {"tables": {"stock.items": 10000}}


def test_the_archive_has_the_estimate_that_was_shown(site: Site) -> None:
    crossed = "DELETE FROM stock.items USING " + ", ".join(f"stock.items i{n}" for n in range(4))
    found = site.estimate(f"{crossed} WHERE stock.items.kind > $1", [-1])
    assert found["rows"] == 2**53 - 1
    assert site.estimate("UPDATE stock.items SET kind = 7")["rows"] == 10000
    site.gw.wait_until_idle()
    seen = read(site.gw.archive)
    rows = [row for session in seen.sessions for row in seen.commands_of(session)]
    assert {row["text"]: row["estimated_rows"] for row in rows}[
        "UPDATE stock.items SET kind = 7"
    ] == 10000
