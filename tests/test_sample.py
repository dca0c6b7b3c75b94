"""The sample archive tells what its README says, and its times are those of one clock."""

from __future__ import annotations

import json
from collections import Counter

import pytest

import agentaudit as aa
from agentaudit.analysis.case import Case
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log
from agentaudit.archive.verify import verify
from tests.support.sample import SAMPLE, incident

KEY = SAMPLE.with_name("archive.vkey")
MAX_BYTES = 4_000_000
WEEK_S = 7 * 24 * 3600
LONGEST_UNSIGNED_S = 600
"""Several sessions may go on for a while without a pause that is long enough to wait for a tick."""


@pytest.fixture(scope="module")
def case() -> Case:
    return aa.load(SAMPLE)


@pytest.fixture(scope="module")
def entries() -> list[dict[str, object]]:
    return list(read_log(Layout(SAMPLE).log("gw1"), []).entries())


def one(case: Case, query: str) -> object:
    ((value,),) = case.sql(query).fetchall()
    return value


def test_it_verifies_and_says_that_its_clock_was_scripted() -> None:
    found = verify(SAMPLE, key=KEY.read_text(), deep=True, remember=False)
    assert found.findings == []
    assert found.ok is True
    assert found.scripted_clocks == ["gw1"]


def test_it_is_small_enough_to_be_in_a_repository() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert len(files) < 120


def test_it_has_weeks_of_many_agents_and_people(case: Case) -> None:
    who = "FROM sessions WHERE protocol <> 'agentaudit'"
    assert one(case, f"SELECT count(*) {who}") > 200
    assert one(case, f"SELECT count(DISTINCT agent) {who}") >= 7
    assert one(case, f"SELECT count(DISTINCT user) {who}") >= 7
    assert one(case, f"SELECT count(DISTINCT target) {who}") == 2
    assert one(case, f"SELECT epoch(max(opened_at) - min(opened_at)) {who}") > 3.5 * WEEK_S
    assert 2_000 < one(case, "SELECT count(*) FROM commands") < 20_000


def test_every_time_is_in_its_order(case: Case, entries: list[dict[str, object]]) -> None:
    dated = [entry["at"] for entry in entries]
    assert dated == sorted(dated)
    assert one(case, "SELECT count(*) FROM sessions WHERE closed_at < opened_at") == 0
    outside = (
        "SELECT count(*) FROM commands JOIN sessions USING (session_id) "
        "WHERE started_at < opened_at OR ended_at > closed_at OR ended_at < started_at"
    )
    assert one(case, outside) == 0
    decided = "FROM decisions WHERE decided_at < requested_at"
    assert one(case, f"SELECT count(*) {decided}") == 0
    backwards = (
        "SELECT count(*) FROM (SELECT observed_at < lag(observed_at) OVER (ORDER BY event_no) AND "
        "event_no = 1 + lag(event_no) OVER (ORDER BY event_no) AS is_back FROM events) "
        "WHERE is_back"
    )
    assert one(case, backwards) == 0


def test_what_happened_was_signed_soon(case: Case, entries: list[dict[str, object]]) -> None:
    covered = []
    for entry in entries:
        if entry["type"] == "open_segment":
            first = entry["first_event"]
        elif entry["type"] in ("tick", "seal"):
            covered.append((first + entry["n"], entry["at"]))
    # A refusal is recorded when the client has gone already, so the script does not wait for it.
    events = case.sql(
        "SELECT event_no, epoch_us(observed_at) FROM events SEMI JOIN "
        "(FROM sessions WHERE close_reason <> 'refused') USING (session_id) ORDER BY 1"
    ).fetchall()
    position, worst = 0, 0
    for number, observed in events:
        while covered[position][0] <= number:
            position += 1
        worst = max(worst, covered[position][1] - observed)
    assert worst < LONGEST_UNSIGNED_S * 1_000_000


def test_the_incident_is_in_the_midst_of_it(case: Case) -> None:
    incident = case.sql(
        "SELECT session_id, text, rows_affected, fate FROM commands "
        "JOIN fates USING (session_id, command_no) WHERE operation = 'DELETE' "
        "ORDER BY rows_affected DESC"
    ).fetchall()
    assert incident[0][1] == "/* new system starts clean */ DELETE FROM orders"
    assert incident[0][3] == "rolled back"
    assert len({row[0] for row in incident}) == 1
    assert len(case.search("AI ASSISTANTS")) > 0
    after = (
        "SELECT count(*) FROM sessions WHERE opened_at > "
        f"(SELECT max(closed_at) FROM sessions WHERE session_id = '{incident[0][0]}')"
    )
    assert one(case, after) > 2


def test_people_have_decided(case: Case) -> None:
    holds = case.sql("SELECT state, approvers, reasons FROM decisions WHERE kind = 'hold'")
    states = Counter(state for state, _, _ in holds.fetchall())
    assert states["approved"] >= 5
    assert states["denied"] >= 4
    assert states["cancelled"] >= 1
    assert all(reasons for state, _, reasons in holds.fetchall() if state != "cancelled")
    assert len({who for _, approvers, _ in holds.fetchall() for who in approvers or ()}) >= 3


def test_rules_and_masks_were_at_work(case: Case) -> None:
    rules = case.sql("SELECT DISTINCT rule FROM commands WHERE status = 'denied'").fetchall()
    assert len(rules) >= 3
    assert one(case, "SELECT count(*) FROM commands WHERE masked > 0") > 20
    assert one(case, "SELECT count(*) FROM sessions WHERE close_reason = 'refused'") >= 5
    assert len({row[0] for row in case.sessions().project("policy_digest").fetchall()}) >= 4


def test_what_was_due_is_purged_and_what_is_held_is_not(
    case: Case, entries: list[dict[str, object]]
) -> None:
    counted = Counter(str(entry["type"]) for entry in entries)
    assert counted["seal"] >= 5
    assert counted["legal_hold_set"] - counted["legal_hold_release"] >= 2
    assert counted["legal_hold_release"] >= 1
    assert {entry["what"] for entry in entries if entry["type"] == "purge_intent"} == {
        "sessions",
        "payloads",
    }
    lists = [json.loads(path.read_text()) for path in (SAMPLE / "purges").glob("*.json")]
    assert {purge["what"] for purge in lists} == {"sessions", "payloads"}
    left = case.sql(
        "SELECT session_id, target FROM sessions WHERE target IS NOT NULL AND commands > 0"
    ).fetchall()
    purged = {target for session, target in left if case.session(str(session)).is_purged}
    assert purged == {"crm", "orders"}
    gone = {each["session_id"] for purge in lists for each in purge["sessions"]}
    assert len(gone) > len(gone & {str(session) for session, _ in left}) > 0


def test_of_the_first_week_in_the_shop_only_what_is_held_has_its_bytes(case: Case) -> None:
    sessions = case.sql(
        "SELECT session_id, agent FROM sessions WHERE target = 'orders' AND commands > 0 "
        "AND opened_at < TIMESTAMPTZ '2026-11-02 00:00Z'"
    ).fetchall()
    is_purged: dict[str, set[bool]] = {}
    for session, agent in sessions:
        is_purged.setdefault(agent, set()).add(case.session(str(session)).is_purged)
    assert is_purged.pop("sync-9") == {False}
    assert len(is_purged) >= 4
    assert set().union(*is_purged.values()) == {True}


def test_the_incident_is_whole(case: Case) -> None:
    session, _ = incident()
    found = case.session(session)
    assert not found.is_purged
    assert found.cuts() == {}
    ((number, rows),) = case.sql(
        "SELECT command_no, rows_returned FROM commands "
        f"WHERE session_id = '{session}' AND text = 'SELECT * FROM customers'"
    ).fetchall()
    table = found.result(number)
    assert table.num_rows == rows > 1000
    assert all(table.column("ssn").to_pylist())
