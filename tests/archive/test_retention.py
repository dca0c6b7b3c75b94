"""What may go and when: policies with their notice, legal holds, and what a log says of purges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.journal import OpenSession
from agentaudit.archive.retention import (
    DAY_US,
    FOR_EVER,
    NOTICE_US,
    Closed,
    Keep,
    Plan,
    Sealed,
    Standing,
    batches,
    parse_policy,
    selects,
    standing,
)
from agentaudit.archive.rows import closed_session
from agentaudit.errors import ArchiveError

SESSION = UUID("018bcfe5-6800-7def-8123-456789abcdef")
SEGMENT = "018bcfe5-6800-7def-8123-00000000abcd"
ANA = "aa" * 32
CLOSED = Closed(session_id=SESSION, user=ANA, target="orders", opened_us=100, closed_us=200)


def policy(at: int, *keeps: Keep, digest: str = "ab" * 32) -> tuple[dict[str, Any], Any]:
    return {"type": "policy", "at": at, "sha256": digest}, dict(
        zip(("orders", "billing"), keeps, strict=False)
    )


def days(keep: int | None, *, payload: int | None = None, notice: int = 7) -> Keep:
    return Keep(
        keep_us=None if keep is None else keep * DAY_US,
        payload_us=None if payload is None else payload * DAY_US,
        notice_us=notice * DAY_US,
    )


def with_policies(*policies: tuple[dict[str, Any], Any]) -> Standing:
    found = Standing()
    for entry, keeps in policies:
        found.take(entry, keeps)
    return found


def test_what_has_no_class_no_target_or_no_policy_is_kept_for_ever() -> None:
    at_us = 1000 * DAY_US
    assert Standing().due("orders", 0, at_us) is None
    found = with_policies(policy(0, days(1)))
    assert found.due("orders", 0, at_us) == "sessions"
    assert found.due("billing", 0, at_us) is None
    assert found.due("", 0, at_us) is None
    found.policies[0].keeps[""] = days(1)  # type: ignore[index]
    assert found.due("", 0, at_us) is None, "the control session has no class, whatever is said"


def test_a_session_is_due_once_it_has_been_closed_for_as_long_as_it_is_kept() -> None:
    found = with_policies(policy(0, days(30, payload=10)))
    closed_us = 5 * DAY_US
    assert found.due("orders", closed_us, closed_us + 10 * DAY_US - 1) is None
    assert found.due("orders", closed_us, closed_us + 10 * DAY_US) == "payloads"
    assert found.due("orders", closed_us, closed_us + 30 * DAY_US - 1) == "payloads"
    assert found.due("orders", closed_us, closed_us + 30 * DAY_US) == "sessions"


def test_a_shorter_policy_waits_for_the_notice_of_the_one_it_replaces() -> None:
    found = with_policies(policy(0, days(300, notice=14)), policy(100 * DAY_US, days(1, notice=0)))
    assert found.keep("orders", 114 * DAY_US - 1).keep_us == 300 * DAY_US
    assert found.keep("orders", 114 * DAY_US).keep_us == DAY_US


def test_a_longer_policy_is_in_force_at_once() -> None:
    found = with_policies(policy(0, days(1)), policy(10 * DAY_US, days(300)))
    assert found.keep("orders", 10 * DAY_US).keep_us == 300 * DAY_US


def test_a_policy_that_takes_the_notice_away_first_gains_nothing() -> None:
    """The notice that counts is the one of the policy that promised to keep."""
    found = with_policies(
        policy(0, days(300)),
        policy(100 * DAY_US, days(300, notice=0)),
        policy(100 * DAY_US + 1, days(1, notice=0)),
    )
    assert found.keep("orders", 101 * DAY_US).keep_us == 300 * DAY_US
    assert found.keep("orders", 107 * DAY_US).keep_us == DAY_US


def test_dropping_a_class_and_naming_it_again_shorter_waits_too() -> None:
    found = with_policies(policy(0), policy(100 * DAY_US, days(1, notice=0)))
    assert found.due("orders", 0, 100 * DAY_US + NOTICE_US - 1) is None
    assert found.due("orders", 0, 100 * DAY_US + NOTICE_US) == "sessions"


def test_what_was_recorded_before_there_was_a_policy_has_the_usual_notice() -> None:
    found = Standing()
    found.take({"type": "seal", "at": 1, "segment": SEGMENT, "files": {}})
    found.take(*policy(100 * DAY_US, days(1, notice=0)))
    assert found.due("orders", 0, 100 * DAY_US + NOTICE_US - 1) is None
    assert found.due("orders", 0, 100 * DAY_US + NOTICE_US) == "sessions"


def test_an_entry_that_is_dated_back_does_not_begin_its_notice_earlier() -> None:
    found = with_policies(policy(0, days(300)))
    found.take({"type": "tick", "at": 100 * DAY_US})
    found.take(*policy(50 * DAY_US, days(1)))
    assert found.keep("orders", 107 * DAY_US - 1).keep_us == 300 * DAY_US
    assert found.keep("orders", 107 * DAY_US).keep_us == DAY_US


KEEPS = st.builds(
    days,
    st.one_of(st.none(), st.integers(1, 50)),
    payload=st.one_of(st.none(), st.integers(1, 50)),
    notice=st.integers(0, 20),
)


@given(st.lists(st.tuples(st.integers(0, 30), KEEPS), min_size=1, max_size=6), st.integers(0, 60))
def test_nothing_goes_that_a_policy_in_force_or_within_its_notice_keeps(
    history: list[tuple[int, Keep]], later: int
) -> None:
    """Said a second time, as a question of each policy alone."""
    at, entries, since = 0, [], []
    for gap, keep in history:
        at += gap * DAY_US
        since.append(at)
        entries.append(policy(at, keep))
    now_us = at + later * DAY_US
    due = with_policies(*entries).due("orders", 0, now_us)
    keeps_all = keeps_payloads = False
    for number, (_, keep) in enumerate(history):
        is_last = number == len(history) - 1
        if is_last or since[number + 1] + keep.notice_us > now_us:
            keeps_all |= keep.keep_us is None or now_us < keep.keep_us
            until = keep.keep_us if keep.payload_us is None else keep.payload_us
            keeps_payloads |= until is None or now_us < until
    if due == "sessions":
        assert not keeps_all
    elif due == "payloads":
        assert keeps_all
        assert not keeps_payloads
    else:
        assert keeps_all
        assert keeps_payloads


@pytest.mark.parametrize(
    ("selector", "is_held"),
    [
        ({}, False),
        ({"session": str(SESSION)}, True),
        ({"session": SEGMENT}, False),
        ({"user": ANA}, True),
        ({"user": "bb" * 32}, False),
        ({"target": "orders"}, True),
        ({"target": "orders", "user": "bb" * 32}, False),
        ({"since": 200}, True),
        ({"since": 201}, False),
        ({"until": 100}, True),
        ({"until": 99}, False),
        ({"since": 150, "until": 160}, True),
        ({"target": "orders", "since": 50, "until": 99}, False),
        ({"something": "else"}, False),
    ],
)
def test_a_hold_matches_a_session_that_has_all_that_it_names(
    selector: dict[str, Any], is_held: bool
) -> None:
    assert selects(selector, CLOSED) is is_held


@pytest.mark.parametrize("selector", [{"since": 150}, {"until": 150}, {"since": 200, "until": 100}])
def test_a_session_in_which_the_clock_was_set_back_lasted_from_the_earlier_to_the_later_time(
    selector: dict[str, Any],
) -> None:
    back = replace(CLOSED, opened_us=CLOSED.closed_us, closed_us=CLOSED.opened_us)
    assert selects(selector, back) is selects(selector, CLOSED)
    assert (back.begin_us, back.end_us) == (CLOSED.begin_us, CLOSED.end_us) == (100, 200)


def test_a_hold_holds_until_it_is_released() -> None:
    found = Standing()
    assert found.holding(CLOSED) == []
    for hold, selector in (("one", {"target": "orders"}), ("two", {"user": ANA})):
        entry = {"type": "legal_hold_set", "at": 1, "hold": hold, "event": 7}
        found.take(entry | {"selector": selector})
    assert found.holding(CLOSED) == ["one", "two"]
    found.take({"type": "legal_hold_release", "at": 2, "hold": "one", "event": 8})
    assert found.holding(CLOSED) == ["two"]
    assert found.holds["two"].names_a_user


def sealed(number: int, *segments: str, **members: Any) -> Sealed:
    return Sealed(
        session_id=UUID(int=number),
        user=ANA,
        target="orders",
        opened_us=0,
        closed_us=1,
        segments=segments or (SEGMENT,),
        index=number,
        **members,
    )


def test_a_plan_takes_what_is_due_and_leaves_what_is_held_or_was_just_rewritten() -> None:
    found = Standing()
    other = SEGMENT.replace("abcd", "0001")
    for segment in (SEGMENT, other):
        found.take({"type": "seal", "at": 1, "segment": segment, "files": {}})
    found.segments[other].retained_us = 10 * DAY_US
    hold = {"type": "legal_hold_set", "at": 1, "hold": "h", "event": 7}
    found.take(hold | {"selector": {"session": str(UUID(int=3))}})
    plan = Plan()
    now_us = 11 * DAY_US - 1
    plan.add(sealed(1), "sessions", found, now_us)
    plan.add(sealed(2), "payloads", found, now_us)
    plan.add(sealed(3), "sessions", found, now_us)
    plan.add(sealed(4, SEGMENT, other), "sessions", found, now_us)
    plan.add(sealed(5, has_payloads=False), "payloads", found, now_us)
    assert [s.index for s in plan.sessions] == [1]
    assert [s.index for s in plan.payloads] == [2]
    assert [(s.index, holds) for s, holds in plan.held] == [(3, ["h"])]
    assert [s.index for s in plan.waiting] == [4]
    plan.spread()
    assert plan.payloads == [], "SEGMENT is rewritten for sessions today"
    assert [s.index for s in plan.waiting] == [4, 2]
    later = Plan()
    later.add(sealed(4, SEGMENT, other), "sessions", found, now_us + 1)
    assert [s.index for s in later.sessions] == [4]


def test_sessions_go_in_parts_and_those_of_one_segment_together() -> None:
    other = SEGMENT.replace("abcd", "0001")
    given = [sealed(1), sealed(2, other), sealed(3), sealed(4, other)]
    assert [[s.index for s in part] for part in batches(given, 2)] == [[2, 4], [1, 3]]


@pytest.mark.parametrize("retention", [[], {"classes": {}, "targets": {}}])
def test_a_document_without_classes_keeps_everything(retention: Any) -> None:
    assert parse_policy(json.dumps({"retention": retention}).encode()) == {}
    assert parse_policy(b"{}") == {}


KEPT = {"keep_us": 5, "payload_keep_us": None, "notice_us": 7}


def test_a_document_says_how_long_each_target_is_kept() -> None:
    document = {"retention": {"classes": {"a": KEPT, "b": KEPT}, "targets": {"orders": "a"}}}
    assert parse_policy(json.dumps(document).encode()) == {
        "orders": Keep(keep_us=5, payload_us=None, notice_us=7)
    }


@pytest.mark.parametrize(
    "retention",
    [
        7,
        {},
        {"classes": {"a": KEPT}, "targets": {"orders": "b"}},
        {"classes": {"a": KEPT | {"keep_us": None}}, "targets": {}},
        {"classes": {"a": KEPT | {"notice_us": -1}}, "targets": {}},
        {"classes": {"a": KEPT | {"payload_keep_us": 1.5}}, "targets": {}},
        {"classes": {"a": {"keep_us": 5}}, "targets": {}},
        {"classes": [], "targets": {}},
    ],
)
def test_a_document_with_a_malformed_retention_is_refused(retention: Any) -> None:
    with pytest.raises(ArchiveError, match="malformed"):
        parse_policy(json.dumps({"retention": retention}).encode())


def test_a_document_that_is_not_json_is_refused() -> None:
    with pytest.raises(ArchiveError, match="malformed"):
        parse_policy(b"{")


def intent(purge: str, what: str = "sessions", **members: Any) -> dict[str, Any]:
    return {
        "type": "purge_intent",
        "at": 5,
        "purge": purge,
        "what": what,
        "basis": "policy",
        "segments": 1,
    } | members


def done(purge: str, files: dict[str, Any], **members: Any) -> dict[str, Any]:
    entry = {"type": "purge_done", "at": 6, "purge": purge, "segment": SEGMENT, "rows": 3}
    return entry | {"files": files, "residue": None, "salts": None} | members


def test_a_log_says_what_purges_have_left_of_a_segment() -> None:
    seal = {"type": "seal", "at": 1, "segment": SEGMENT, "files": {"events": 1, "blobs": 1}}
    first = [seal, intent("p"), done("p", {"events": 2}, residue={"path": "r"})]
    found = standing(first)
    remains = found.segments[SEGMENT]
    assert (remains.files, remains.rows_gone, remains.purges) == ({"events": 2}, 3, 1)
    assert remains.residues == [(0, {"path": "r"})]
    assert remains.retained_us == 6
    assert found.unfinished() == []
    second = [*first, intent("q", "payloads"), done("q", {"events": 3}, salts={"path": "s"})]
    remains = standing(second).segments[SEGMENT]
    assert (remains.files, remains.rows_gone, remains.purges) == ({"events": 3}, 3, 2)
    assert remains.salts == [(1, {"path": "s"})]
    remains = standing([*second, intent("r"), done("r", {})]).segments[SEGMENT]
    assert remains.is_gone
    assert (remains.residues, remains.salts, remains.files) == ([], [], {})


def test_an_intent_is_unfinished_until_each_of_its_segments_is_done() -> None:
    seal = {"type": "seal", "at": 1, "segment": SEGMENT, "files": {}}
    found = standing([seal, intent("p", segments=2, basis="decision"), done("p", {"events": 2})])
    assert [purge.purge for purge in found.unfinished()] == ["p"]
    assert found.segments[SEGMENT].retained_us == 0, "an erasure makes no session wait"


def test_a_session_has_the_leaf_that_its_seal_committed_to() -> None:
    session = OpenSession(
        session_id=SESSION,
        facts={"target": "orders", "user": "ana", "user_hmac": ANA},
        key_m=b"",
        key_t=b"",
        key_p=b"",
        opened_us=100,
        open_event_no=0,
    )
    assert CLOSED.leaf() == closed_session(session, 200)


def test_for_ever_has_no_end() -> None:
    assert FOR_EVER.payload_end_us is None
