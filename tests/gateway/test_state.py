"""What the gateway's state answers, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive.ids import uuid7
from agentaudit.errors import (
    AlreadyVoted,
    NoSuchBlock,
    NoSuchGrant,
    NoSuchRequest,
    NotPending,
    QuestionError,
    StateError,
    TooLarge,
    TooManyPending,
    WindowClosed,
    WrongDigest,
)
from agentaudit.gateway.state import Block, Grant, Live, SshCertificate, State, Ticket, Window
from agentaudit.model import Actor
from tests.peers.states import (
    HOUR,
    ISSUER,
    NOW,
    SECOND,
    a_request,
    a_vote,
    an_access,
    approved_access,
    enter,
    person,
    vote,
)


def test_a_request_comes_back_as_it_was_filed(state: State) -> None:
    request = a_request()
    state.file(request, most_pending=4)
    assert state.request(request.id) == request
    assert state.request(uuid7(NOW)) is None


def test_one_approval_decides_where_one_is_asked_for(state: State) -> None:
    request = a_request()
    state.file(request, most_pending=4)
    decided = vote(state, request.id, "anna")
    assert decided == dataclasses.replace(
        request, state="approved", decided_us=NOW + SECOND, votes=(a_vote("anna"),)
    )
    assert state.outcomes([request.id, uuid7(NOW)]) == {request.id: decided}


def test_a_denial_decides_whoever_approved_before(state: State) -> None:
    request = a_request(approvals=3)
    state.file(request, most_pending=4)
    assert vote(state, request.id, "anna").state == "pending"
    assert vote(state, request.id, "bert", "deny").state == "denied"


def test_as_many_different_people_must_approve_as_are_asked_for(state: State) -> None:
    request = a_request(approvals=2)
    state.file(request, most_pending=4)
    assert vote(state, request.id, "anna").state == "pending"
    with pytest.raises(AlreadyVoted):
        vote(state, request.id, "anna")
    assert state.outcomes([request.id]) == {}
    decided = vote(state, request.id, "bert")
    assert decided.state == "approved"
    assert [each.approver.subject for each in decided.votes] == ["anna", "bert"]


def test_a_vote_needs_the_digest_of_what_waits_and_a_request_that_does(state: State) -> None:
    request = a_request()
    state.file(request, most_pending=4)
    with pytest.raises(WrongDigest):
        vote(state, request.id, "anna", digest="00" * 32)
    with pytest.raises(NotPending):
        vote(state, request.id, "anna", now_us=request.expires_us)
    with pytest.raises(NoSuchRequest):
        vote(state, uuid7(NOW), "anna")
    assert state.request(request.id) == request
    vote(state, request.id, "anna")
    with pytest.raises(NotPending):
        vote(state, request.id, "bert")


def test_what_came_first_stands(state: State) -> None:
    approved, cancelled = a_request(), a_request()
    state.file(approved, most_pending=4)
    state.file(cancelled, most_pending=4)
    vote(state, approved.id, "anna")
    before = state.revision()
    assert state.settle(approved.id, "expired", now_us=NOW + HOUR).state == "approved"
    assert state.revision() == before
    settled = state.settle(cancelled.id, "cancelled", now_us=NOW + 2 * SECOND)
    assert (settled.state, settled.decided_us) == ("cancelled", NOW + 2 * SECOND)
    with pytest.raises(NoSuchRequest):
        state.settle(uuid7(NOW), "cancelled", now_us=NOW)


def test_a_requester_has_so_many_pending_requests_of_a_kind(state: State) -> None:
    state.file(first := a_request(), most_pending=2)
    state.file(a_request(expires_us=NOW + 1), most_pending=2)
    with pytest.raises(TooManyPending):
        state.file(a_request(), most_pending=2)
    state.file(an_access(), most_pending=1)
    state.file(a_request(requester=person("other")), most_pending=1)
    state.file(a_request(requested_us=NOW + 1), most_pending=2)
    state.settle(first.id, "cancelled", now_us=NOW)
    state.file(a_request(), most_pending=3)


def test_requests_are_listed_newest_first_by_what_is_asked(state: State) -> None:
    old = a_request(requested_us=NOW - 2)
    new = a_request(requested_us=NOW - 1, target="billing", requester=person("other"))
    access = an_access(id=uuid7(NOW + SECOND), requester=person("other"))
    for each in (old, new, access):
        state.file(each, most_pending=4)
    vote(state, old.id, "anna")
    assert [each.id for each in state.requests()] == [access.id, new.id, old.id]
    assert state.requests(limit=1) == [access]
    assert state.requests(state="pending", kind="hold") == [new]
    assert state.requests(target="billing") == [new]
    assert [each.id for each in state.requests(requester=(ISSUER, "agent"))] == [old.id]


def test_outcomes_of_hundreds_are_one_question(state: State) -> None:
    filed = [a_request() for _ in range(600)]
    for each in filed[:20]:
        state.file(each, most_pending=20)
    settled = state.settle(filed[3].id, "cancelled", now_us=NOW)
    assert state.outcomes(each.id for each in filed) == {settled.id: settled}
    assert state.outcomes([]) == {}


def test_a_gateway_finds_the_holds_that_it_left_behind(state: State) -> None:
    left, other, decided, access = (
        a_request(),
        a_request(gateway="gw1-3"),
        a_request(),
        an_access(),
    )
    for each in (left, other, decided, access):
        state.file(each, most_pending=4)
    vote(state, decided.id, "anna")
    assert state.abandoned("gw1-2") == [left]


def test_an_outcome_is_unrecorded_until_its_gateway_has_recorded_it(state: State) -> None:
    pending, decided = a_request(), a_request()
    state.file(pending, most_pending=4)
    state.file(decided, most_pending=4)
    vote(state, decided.id, "anna")
    assert [each.id for each in state.unrecorded("gw1-2")] == [decided.id]
    assert state.unrecorded("gw1-3") == []
    state.recorded([decided.id, pending.id])
    assert state.unrecorded("gw1-2") == []
    state.settle(pending.id, "expired", now_us=NOW)
    assert [each.id for each in state.unrecorded("gw1-2")] == [pending.id]


def test_access_that_nobody_decided_expires_once(state: State) -> None:
    late, early, hold = an_access(), an_access(expires_us=NOW + 1), a_request(expires_us=NOW + 1)
    for each in (late, early, hold):
        state.file(each, most_pending=4)
    (expired,) = state.expire(NOW + 1)
    assert expired == dataclasses.replace(early, state="expired", decided_us=NOW + 1)
    before = state.revision()
    assert state.expire(NOW + 1) == []
    assert state.revision() == before


def test_the_revision_is_another_one_after_each_change_of_anybody(
    open_state: Callable[[], State],
) -> None:
    mine, other = open_state(), open_state()
    first = mine.revision()
    assert mine.revision() == other.revision() == first
    other.file(a_request(), most_pending=4)
    second = mine.revision()
    assert second != first
    with pytest.raises(TooManyPending):
        other.file(a_request(), most_pending=1)
    assert mine.revision() == second


@pytest.mark.parametrize(
    "changes",
    [
        {"shown": {"text": "x" * (1 << 20)}},
        {"shown": {"text": {1, 2}}},
        {"shown": {"text": "\ud800"}},
        {"reason": "x" * 65537},
        {"reason": "a\0b"},
        {"reason": "\udc00"},
        {"target": "x" * 801},
        {"requester": Actor(user="u", subject="s" * 801, issuer=ISSUER)},
        {"expires_us": 1 << 63},
        {"duration_us": -1},
        {"kind": "access", "shown": {"classes": "write"}},
    ],
)
def test_what_is_too_large_or_no_text_is_refused_in_words_without_it(
    state: State, changes: dict[str, Any]
) -> None:
    with pytest.raises(QuestionError) as refused:
        state.file(a_request(**changes), most_pending=4)
    assert isinstance(refused.value, TooLarge) == ("at most" in str(refused.value))
    assert "xxx" not in str(refused.value)
    assert state.requests() == []


# --- grants


def test_approved_access_is_a_grant_of_what_was_shown(state: State) -> None:
    request = an_access(approvals=2)
    state.file(request, most_pending=4)
    vote(state, request.id, "anna")
    assert state.grants() == []
    vote(state, request.id, "bert")
    (grant,) = state.grants()
    assert grant == Grant(
        id=grant.id,
        request_id=request.id,
        actor=request.requester,
        target="orders",
        classes=("write",),
        resources=("public.orders",),
        starts_us=NOW + SECOND,
        ends_us=NOW + SECOND + HOUR,
        revoked_us=0,
        revoked_by="",
        is_recorded=False,
    )
    assert state.grant(grant.id) == grant
    assert state.grant(uuid7(NOW)) is None


def test_a_hold_or_a_denial_grants_nothing(state: State) -> None:
    hold, access = a_request(), an_access()
    state.file(hold, most_pending=4)
    state.file(access, most_pending=4)
    vote(state, hold.id, "anna")
    vote(state, access.id, "anna", "deny")
    assert state.grants() == []


def test_a_grant_is_in_force_once_recorded_from_its_start_to_its_end(state: State) -> None:
    later = NOW + 2 * HOUR
    grant = approved_access(state, starts_us=later, is_recorded=False)
    assert (grant.starts_us, grant.ends_us) == (later, later + HOUR)

    def found(now_us: int, target: str = "orders") -> list[UUID]:
        return [each.id for each in state.grant_for(ISSUER, "agent", target, now_us)]

    assert found(later) == []
    state.recorded([grant.request_id])
    assert found(later - 1) == []
    assert found(later) == found(later + HOUR - 1) == [grant.id]
    assert found(later + HOUR) == []
    assert found(later, "billing") == []
    assert state.grant_for(ISSUER, "other", "orders", later) == []
    assert [each.id for each in state.grants(now_us=later, target="orders")] == [grant.id]


def test_a_grant_is_revoked_once_and_its_windows_end_with_it(state: State) -> None:
    grant = approved_access(state)
    window = enter(state, grant_id=grant.id)
    revoked = state.revoke(grant.id, by="anna", now_us=NOW + 5 * SECOND)
    assert (revoked.revoked_us, revoked.revoked_by) == (NOW + 5 * SECOND, "anna")
    before = state.revision()
    assert state.revoke(grant.id, by="bert", now_us=NOW + 6 * SECOND) == revoked
    assert state.revision() == before
    assert state.grant_for(ISSUER, "agent", "orders", NOW + 5 * SECOND) == []
    assert state.ended_windows([window.id], NOW + 5 * SECOND) == {window.id: "revoked"}
    with pytest.raises(WindowClosed) as closed:
        enter(state, grant_id=grant.id, now_us=NOW + 6 * SECOND)
    assert closed.value.reason == "revoked"
    with pytest.raises(NoSuchGrant):
        state.revoke(uuid7(NOW), by="anna", now_us=NOW)


# --- windows


def test_connections_of_one_token_share_a_window(state: State) -> None:
    window = enter(state)
    assert window == Window(
        id=window.id,
        issuer=ISSUER,
        subject="agent",
        token="jti-1",
        target="orders",
        grant_id=None,
        opened_us=NOW + 2 * SECOND,
        ends_us=NOW + HOUR,
        ended_us=0,
        end_reason="",
    )
    assert enter(state, gateway="gw2-1", ends_us=NOW + 2 * HOUR) == window
    others = [
        enter(state, target="billing"),
        enter(state, token="jti-2"),
        enter(state, issuer="https://other.example.com"),
    ]
    assert len({window.id, *(each.id for each in others)}) == 4


def test_a_window_lingers_after_its_last_connection_and_no_longer(state: State) -> None:
    window = enter(state)
    enter(state, gateway="gw1-2")
    enter(state, gateway="gw1-2")
    left = NOW + 10 * SECOND
    over = left + 60 * SECOND
    state.leave(window.id, "gw1-2", NOW + 3 * SECOND)
    state.leave(window.id, "gw1-1", NOW + 3 * SECOND)
    state.leave(window.id, "gw1-1", NOW + 3 * SECOND)
    assert state.ended_windows([window.id], over) == {}
    state.leave(window.id, "gw1-2", left)
    assert state.ended_windows([window.id], over - 1) == {}
    before = state.revision()
    assert state.ended_windows([window.id], over) == {window.id: "linger"}
    assert state.revision() != before
    found = state.window(window.id)
    assert found is not None
    assert (found.ended_us, found.end_reason) == (over, "linger")
    # Others hear the same, however late they ask.
    assert state.ended_windows([window.id], NOW + 9 * HOUR) == {window.id: "linger"}


def test_who_comes_back_in_time_finds_the_window_open(state: State) -> None:
    window = enter(state)
    state.leave(window.id, "gw1-1", NOW + 3 * SECOND)
    assert enter(state, now_us=NOW + 30 * SECOND).id == window.id
    assert state.ended_windows([window.id], NOW + 300 * SECOND) == {}


def test_a_window_ends_by_the_hour_whoever_is_in_it(state: State) -> None:
    window = enter(state)
    assert state.ended_windows([window.id], NOW + HOUR - 1) == {}
    assert state.ended_windows([window.id], NOW + 2 * HOUR) == {window.id: "window_end"}
    found = state.window(window.id)
    assert found is not None
    assert found.ended_us == NOW + HOUR


def test_a_window_that_would_have_lingered_on_ends_by_the_hour(state: State) -> None:
    window = enter(state)
    state.leave(window.id, "gw1-1", NOW + HOUR - 5 * SECOND)
    assert state.ended_windows([window.id], NOW + 2 * HOUR) == {window.id: "window_end"}


def test_a_token_opens_a_new_window_on_a_standing_target_alone(state: State) -> None:
    first = enter(state)
    later = {"ends_us": NOW + 3 * HOUR, "now_us": NOW + HOUR}
    with pytest.raises(WindowClosed) as closed:
        enter(state, is_single=True, **later)
    assert closed.value.reason == "window_end"
    second = enter(state, **later)
    assert second.id != first.id
    assert state.used(ISSUER, "jti-1", "orders") == second
    assert state.used(ISSUER, "jti-2", "orders") is None
    enter(state, is_single=True, token="jti-2", **later)


def test_a_granted_window_ends_with_its_grant_and_the_token_has_no_other(state: State) -> None:
    grant, another = approved_access(state), approved_access(state)
    window = enter(state, grant_id=grant.id, ends_us=NOW + 9 * HOUR)
    assert window.ends_us == grant.ends_us
    assert enter(state, grant_id=another.id).grant_id == grant.id
    assert state.ended_windows([window.id], grant.ends_us) == {window.id: "window_end"}
    fresh = approved_access(state, starts_us=grant.ends_us)
    for grant_id in (fresh.id, None):
        with pytest.raises(WindowClosed):
            enter(state, grant_id=grant_id, now_us=grant.ends_us, ends_us=NOW + 9 * HOUR)
    enter(state, grant_id=fresh.id, token="jti-2", now_us=grant.ends_us, ends_us=NOW + 9 * HOUR)


@pytest.mark.parametrize(
    ("grant", "entering"),
    [
        ({"is_recorded": False}, {}),
        ({"target": "billing"}, {}),
        ({"requester": person("other")}, {}),
        ({"starts_us": NOW + HOUR}, {}),
        ({}, {"now_us": NOW + 2 * HOUR}),
        ({}, {"grant_id": uuid7(NOW)}),
        ({}, {"grant_id": None, "ends_us": NOW}),
    ],
)
def test_no_window_opens_by_a_grant_that_is_not_in_force(
    state: State, grant: dict[str, Any], entering: dict[str, Any]
) -> None:
    entering = {"grant_id": approved_access(state, **grant).id} | entering
    with pytest.raises(WindowClosed):
        enter(state, **entering)
    assert state.used(ISSUER, "jti-1", "orders") is None


def test_a_window_that_needed_no_grant_takes_the_first_that_comes(state: State) -> None:
    window = enter(state)
    grant = approved_access(state, duration_us=60 * SECOND)
    joined = enter(state, grant_id=grant.id)
    assert (joined.id, joined.grant_id, joined.ends_us) == (window.id, grant.id, grant.ends_us)


def test_a_gateway_that_starts_again_has_nobody_in_its_windows(state: State) -> None:
    mine, shared = enter(state), enter(state, token="jti-2")
    enter(state, token="jti-2", gateway="gw2-1")
    state.publish("gw1-1", [a_session()])
    state.forget_gateway("gw1-1", NOW + 5 * SECOND)
    late = NOW + 65 * SECOND
    assert state.ended_windows([mine.id, shared.id], late) == {mine.id: "linger"}
    assert state.live() == []


def test_a_window_that_is_not_there_any_more_is_over(state: State) -> None:
    gone = uuid7(NOW)
    assert state.ended_windows([gone], NOW) == {gone: "forgotten"}
    assert state.ended_windows([], NOW) == {}
    state.leave(gone, "gw1-1", NOW)
    assert state.window(gone) is None


# --- tickets, blocks, live sessions


def a_ticket(number: int, **changes: Any) -> Ticket:
    values: dict[str, Any] = {
        "secret_hash": bytes([number]) * 32,
        "actor": person("agent"),
        "token": "jti-1",
        "token_expires_us": NOW + HOUR,
        "target": "orders",
        "expires_us": NOW + 60 * SECOND,
    }
    return Ticket(**(values | changes))


def test_a_ticket_is_known_by_the_hash_of_its_secret_until_it_expires(state: State) -> None:
    ticket = a_ticket(1)
    state.add_ticket(ticket, most_per_actor=4, now_us=NOW)
    assert state.ticket(ticket.secret_hash, NOW) == ticket
    assert state.ticket(ticket.secret_hash, ticket.expires_us) is None
    assert state.ticket(bytes(32), NOW) is None
    late = a_ticket(2, token_expires_us=NOW + 5)
    state.add_ticket(late, most_per_actor=4, now_us=NOW)
    assert state.ticket(late.secret_hash, NOW + 5) is None
    with pytest.raises(QuestionError):
        state.add_ticket(a_ticket(3, secret_hash=b"secret"), most_per_actor=4, now_us=NOW)


def test_an_actor_has_so_many_tickets_at_a_time(state: State) -> None:
    for number in (1, 2):
        state.add_ticket(a_ticket(number), most_per_actor=2, now_us=NOW)
    with pytest.raises(TooManyPending):
        state.add_ticket(a_ticket(3), most_per_actor=2, now_us=NOW)
    state.add_ticket(a_ticket(3, actor=person("other")), most_per_actor=2, now_us=NOW)
    state.add_ticket(a_ticket(4), most_per_actor=2, now_us=NOW + 60 * SECOND)


def a_certificate(number: int, **changes: Any) -> SshCertificate:
    values: dict[str, Any] = {
        "serial": number,
        "digest": bytes([number % 256]) * 32,
        "actor": person("agent"),
        "token": "jti-1",
        "token_expires_us": NOW + HOUR,
        "targets": ("host-1", "host-2"),
        "expires_us": NOW + 60 * SECOND,
    }
    return SshCertificate(**(values | changes))


def test_a_certificate_is_known_by_serial_and_digest_until_it_expires(state: State) -> None:
    one = a_certificate((1 << 63) - 1)
    state.add_certificate(one, most_per_actor=2, now_us=NOW)
    for _ in range(2):
        assert state.certificate(one.serial, one.digest, NOW) == one
    assert state.certificate(one.serial, bytes(32), NOW) is None
    assert state.certificate(7, one.digest, NOW) is None
    assert state.certificate(one.serial, one.digest, one.expires_us) is None
    late = a_certificate(2, token_expires_us=NOW + 5)
    state.add_certificate(late, most_per_actor=2, now_us=NOW)
    assert state.certificate(2, late.digest, NOW + 5) is None
    with pytest.raises(TooManyPending):
        state.add_certificate(a_certificate(3), most_per_actor=2, now_us=NOW)
    with pytest.raises(StateError):  # a serial number is of one certificate
        state.add_certificate(a_certificate(2, actor=person("x")), most_per_actor=2, now_us=NOW)
    for wrong in ({"digest": b"x"}, {"serial": 0}, {"serial": 1 << 63}):
        with pytest.raises(QuestionError):
            state.add_certificate(a_certificate(4, **wrong), most_per_actor=9, now_us=NOW)
    state.prune(one.expires_us + 1)
    assert state.certificate(one.serial, one.digest, NOW) is None


def a_block(**changes: Any) -> Block:
    values: dict[str, Any] = {
        "id": uuid7(NOW),
        "issuer": ISSUER,
        "subject": "agent",
        "user": "",
        "by": "anna",
        "reason": "runs wild",
        "at_us": NOW,
    }
    return Block(**(values | changes))


def test_a_block_is_in_force_until_it_is_lifted(state: State) -> None:
    first, second = a_block(), a_block(at_us=NOW + 1)
    state.block(first)
    state.block(second)
    assert state.blocks() == [second, first]
    assert state.unblock(first.id, by="bert", now_us=NOW + 2) == first
    assert state.blocks() == [second]
    with pytest.raises(NoSuchBlock):
        state.unblock(first.id, by="bert", now_us=NOW + 2)


def a_session(**changes: Any) -> Live:
    values: dict[str, Any] = {
        "session_id": uuid7(NOW),
        "gateway": "gw1-1",
        "actor": person("agent"),
        "target": "orders",
        "protocol": "postgres",
        "client_addr": "192.0.2.1:40000",
        "opened_us": NOW,
        "window_id": uuid7(NOW),
    }
    return Live(**(values | changes))


def test_live_sessions_are_those_that_were_published_last(state: State) -> None:
    first, second = a_session(), a_session(opened_us=NOW + 1)
    elsewhere = a_session(gateway="gw2-1", opened_us=NOW + 2, window_id=None)
    state.publish("gw1-1", [first, second])
    state.publish("gw2-1", [elsewhere])
    assert state.live() == [elsewhere, second, first]
    before = state.revision()
    state.publish("gw1-1", [second, first])
    assert state.revision() == before
    third = a_session(opened_us=NOW + 3)
    state.publish("gw1-1", [third, first])
    assert state.live(gateway="gw1-1") == [third, first]
    state.publish("gw1-1", [])
    assert state.live() == [elsewhere]


def test_an_order_to_end_a_session_stands_until_it_has_ended(state: State) -> None:
    session, other = a_session(), a_session()
    state.publish("gw1-1", [session, other])
    assert state.end_session(session.session_id, by="anna", reason="enough", now_us=NOW)
    before = state.revision()
    assert state.end_session(session.session_id, by="bert", reason="again", now_us=NOW + 1)
    assert state.revision() == before
    assert not state.end_session(uuid7(NOW), by="anna", reason="enough", now_us=NOW)
    assert state.endings("gw1-1") == [(session.session_id, "anna", "enough")]
    assert state.endings("gw1-2") == []
    state.publish("gw1-1", [session, other])
    assert state.endings("gw1-1") == [(session.session_id, "anna", "enough")]
    state.publish("gw1-1", [other])
    assert state.endings("gw1-1") == []


def test_what_is_over_and_recorded_goes_and_a_used_token_stays_known(state: State) -> None:
    grant = approved_access(state)
    window = enter(state, grant_id=grant.id, token_expires_us=NOW + 5 * HOUR)
    unrecorded, pending = a_request(), a_request()
    for each in (unrecorded, pending):
        state.file(each, most_pending=4)
    state.settle(unrecorded.id, "cancelled", now_us=NOW)
    state.add_ticket(a_ticket(1), most_per_actor=4, now_us=NOW)
    state.block(block := a_block())
    state.unblock(block.id, by="anna", now_us=NOW)

    state.prune(NOW + 2 * HOUR)
    assert state.ticket(a_ticket(1).secret_hash, NOW) is None
    assert state.used(ISSUER, "jti-1", "orders") is not None
    assert state.request(grant.request_id) is not None

    state.prune(NOW + 9 * HOUR)
    assert state.window(window.id) is None
    assert state.grants() == []
    assert {each.id for each in state.requests()} == {unrecorded.id, pending.id}


# --- webhooks


def undelivered(state: State, *events: str, since_us: int = 0, **asked: Any) -> list[Any]:
    asked = {"gateways": ["gw1-2"], "events": events, "now_us": NOW, "since_us": since_us} | asked
    return [(event, found.id) for event, found in state.undelivered("w", **asked)]


def test_a_webhook_is_told_what_waits_and_what_ended_once(state: State) -> None:
    hold, access, other = a_request(), an_access(gateway="gw1-2"), a_request(gateway="gw2")
    for each in (hold, access, other):
        state.file(each, most_pending=4)
    assert undelivered(state, "hold") == [("hold", hold.id)]
    assert undelivered(state, "hold", "access", "decision", limit=1) == [
        ("hold", hold.id),
        ("access", access.id),
    ]
    assert undelivered(state, "hold", since_us=NOW) == []
    assert undelivered(state, "hold", now_us=hold.expires_us) == []
    state.delivered("w", "hold", hold.id, now_us=NOW)
    revision = state.revision()
    state.delivered("w", "hold", hold.id, now_us=NOW)
    state.delivered("w", "hold", uuid7(NOW), now_us=NOW)
    assert state.revision() == revision
    assert undelivered(state, "hold") == []
    vote(state, hold.id, "anna")
    vote(state, access.id, "anna")
    ended = [("decision", hold.id), ("decision", access.id)]
    assert sorted(undelivered(state, "hold", "access", "decision")) == sorted(ended)
    assert undelivered(state, "decision", since_us=NOW + SECOND) == []


def test_what_webhooks_were_told_goes_with_its_request(state: State) -> None:
    state.file(request := a_request(), most_pending=4)
    state.settle(request.id, "cancelled", now_us=NOW)
    state.recorded([request.id])
    state.delivered("w", "decision", request.id, now_us=NOW)
    state.prune(NOW + 1)
    assert state.request(request.id) is None
