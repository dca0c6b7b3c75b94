"""Approvals in headless Chromium, as a reviewer sees them: the real control API behind the widget.

Screenshots are kept in `artifacts/` at the checkout's root.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

import agentaudit as aa
from agentaudit.demo.gateways import Gateway
from agentaudit.gateway.state import Request
from agentaudit.widgets import Approvals
from tests.analysis.recording import Recorded
from tests.jupyter import test_approvals as in_jupyter
from tests.jupyter.holding import STATEMENT, Psql, left
from tests.jupyter.test_approvals import decisions
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.widgets import test_in_jupyterlab
from tests.widgets.desk import Desk, desk_in
from tests.widgets.page import keep, require_accessible, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

browser = test_in_jupyterlab.browser
page = test_in_jupyterlab.page
gw = in_jupyter.gw

REASON = "Reason, required"
_number = itertools.count(1)


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_in(tmp_path_factory.mktemp("desk")) as desk:
        yield desk


@pytest.fixture
def desk(made_once: Desk) -> Iterator[Desk]:
    yield made_once
    made_once.clear()
    made_once.start()


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    """Where a reviewer of this test's own looks: who asks too much in a minute is refused."""
    user = f"dora-{next(_number)}"
    widget = Approvals(control=lambda: desk.control(user))
    with serving(widget._questions, "approvals") as address:
        yield address


def show(page: Page, address: str, theme: str = "light") -> Locator:
    page.set_viewport_size({"width": 1180, "height": 1000})
    page.goto(f"{address}?theme={theme}")
    return page.locator(".aa-approvals")


def card_of(view: Locator, text: str) -> Locator:
    return view.locator(".aa-card", has_text=text)


def different(desk: Desk) -> list[Request]:
    """Let different things wait: a batch, which is returned, one that is grave, and access."""
    text, few = "DELETE FROM orders WHERE id = ANY ($1)", {"rows": 3, "tables": {}}
    batch = [
        desk.hold(text, statement={"params": ["{7,8,9}"], "estimate": few}, changes=changes)
        for changes in ({}, {"client_app": "cron"}, {"command": 9})
    ]
    desk.hold(
        "-- clean up before the import\nDELETE FROM orders\n USING customers\n"
        " WHERE orders.customer_id = customers.id;",
        user="maria.keller",
        agent="copilot-7",
        seconds=110,
        approvals=2,
        approvers=("dba", "privacy"),
        statement={
            "reads": ["public.customers", "public.orders"],
            "resources": ["public.orders", "public.customers"],
            "risk": ["no limit", "where always true", "unknown function app.is_old"],
            "confidence": "uncertain",
            "estimate": {"rows": 48_210, "tables": {"public.orders": 48_210}},
        },
        changes={
            "transaction": {
                "status": "T",
                "number": 4,
                "before": [
                    {"text": "SET search_path TO staging, public", "status": "ok"},
                    {"text": "SELECT count(*) FROM orders", "status": "ok"},
                ],
            },
            "settings": ["changes setting search_path: SET search_path TO staging, public"],
        },
    )
    desk.access()
    return batch


def test_a_reviewer_reads_what_waits_at_a_glance_and_approves_a_batch(
    page: Page, desk: Desk, address: str, theme: str
) -> None:
    batch = different(desk)
    view = show(page, address, theme)
    cards = view.locator(".aa-card")
    expect(cards).to_have_count(5)
    expect(view.locator(".aa-approvals-title")).to_have_text("5 requests waiting for a decision")
    # What ends first is on top, with who asks, where, what is at stake, and who may say yes.
    grave = cards.first
    for text in (
        "maria.keller via copilot-7",
        "orders (postgres)",
        "about 48,210 (public.orders has about 48,210)",
        "where always true",
        "this one run",
        "you, or somebody else in dba, privacy",
        "0 of 2 approvals so far",
        "open; before this: 2",
        "SET search_path TO staging, public",
        "uncertain",
    ):
        expect(grave).to_contain_text(text)
    expect(grave.get_by_role("timer")).to_have_text(re.compile(r"^[01]:\d\d left$"))
    expect(grave.locator(".aa-whole")).to_contain_text("-- clean up before the import")
    access = card_of(view, "access to orders for 30 min")
    expect(access).to_contain_text("all of that from now on, for 30 min")
    expect(access).to_contain_text("month end, ticket 4711")
    require_accessible(page)
    keep(page, f"approvals-glance-{theme}")

    # Those of another kind cannot be chosen with it; those that ask for the same, at a click.
    mine = card_of(view, "ana via copilot-7").first
    mine.get_by_role("button", name="choose all 3 that ask for the very same").click()
    expect(view.locator(".aa-choose:checked")).to_have_count(3)
    expect(view.locator(".aa-choose:disabled")).to_have_count(1)
    expect(view.locator(".aa-chosen")).to_have_text("3 requests, one decision")
    approve = view.get_by_role("button", name="Approve 3")
    expect(approve).to_be_disabled()
    view.get_by_label(REASON).fill("the three that support has asked for, ticket 4711")
    expect(approve).to_be_enabled()
    mine.scroll_into_view_if_needed()
    require_accessible(page)
    keep(page, f"approvals-batch-{theme}")
    approve.click()
    expect(view.locator(".aa-told")).to_have_text("3: approved")
    expect(cards).to_have_count(2)
    assert {desk.now_of(one).state for one in batch} == {"approved"}
    over = view.locator(".aa-ended-one")
    expect(over).to_have_count(3)
    expect(over.first).to_contain_text("ticket 4711")
    # One voice of two leaves it waiting.
    grave.get_by_role("checkbox").check()
    view.get_by_label(REASON).fill("seen")
    view.get_by_role("button", name="Approve", exact=True).click()
    expect(view.locator(".aa-told")).to_have_text("1: counted, it waits for others yet")
    expect(cards.first).to_contain_text("1 of 2 approvals so far")
    over.first.scroll_into_view_if_needed()
    require_accessible(page)
    keep(page, f"approvals-after-{theme}")


def test_a_new_request_appears_by_itself_is_heard_of_and_denied_by_keyboard_alone(
    page: Page, desk: Desk, address: str
) -> None:
    view = show(page, address)
    expect(view.locator(".aa-nothing")).to_be_visible()
    keep(view, "approvals-nothing")
    heard = view.get_by_role("log")
    expect(heard).to_have_text("")
    first = desk.hold("DELETE FROM orders WHERE id = 1", user="ana")
    expect(view.locator(".aa-card")).to_have_count(1)
    expect(heard).to_contain_text(
        "New: DELETE public.orders, asked by ana via copilot-7, on orders;"
    )
    expect(view.get_by_role("status")).to_have_text("")
    second = desk.hold("DELETE FROM orders WHERE id = 2", user="ben")
    expect(view.locator(".aa-card")).to_have_count(2)
    expect(heard).to_contain_text("asked by ben via copilot-7")
    # It came below the other: what is read does not jump.
    expect(view.locator(".aa-card").first).to_contain_text("WHERE id = 1")

    page.keyboard.press("Tab")
    expect(view.locator(".aa-scrolled")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(card_of(view, "WHERE id = 2")).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    expect(view.locator(".aa-choose:checked")).to_have_count(2)
    page.keyboard.press("r")
    expect(view.get_by_label(REASON)).to_be_focused()
    # No reason, no decision: the buttons are not even reached.
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement === document.body")
    view.get_by_label(REASON).focus()
    page.keyboard.type("   ")
    expect(view.get_by_role("button", name="Deny 2")).to_be_disabled()
    page.keyboard.type("not on a Friday")
    require_accessible(page)
    page.keyboard.press("Tab")
    expect(view.get_by_role("button", name="Deny 2")).to_be_focused()
    page.keyboard.press("Enter")
    expect(view.locator(".aa-told")).to_have_text("2: denied")
    expect(view.locator(".aa-card")).to_have_count(0)
    expect(heard).to_contain_text("denied: DELETE public.orders, asked by ben via copilot-7.")
    expect(view.locator(".aa-scrolled")).to_be_focused()
    for one in (first, second):
        now = desk.now_of(one)
        assert (now.state, now.votes[0].reason) == ("denied", "not on a Friday")


def test_a_request_whose_text_has_changed_is_not_decided(
    page: Page, desk: Desk, address: str
) -> None:
    filed = desk.hold("DELETE FROM orders WHERE id = 1")
    view = show(page, address)
    card = view.locator(".aa-card")
    card.get_by_role("checkbox").check()
    view.get_by_label(REASON).fill("one order, as agreed")

    def change_first(route: Route) -> None:
        if (route.request.post_data_json or {}).get("op") == "decide":
            desk.rewrite(filed, "DELETE FROM orders WHERE id > 0")
        route.continue_()

    page.route("**/ask", change_first)
    view.get_by_role("button", name="Approve").click()
    alert = view.get_by_role("alert").filter(has_text="what was shown is not what waits")
    expect(alert).to_be_visible()
    # It is drawn anew, has to be read anew, and what was said of it stays until the next choice.
    expect(card.locator(".aa-whole")).to_have_text("DELETE FROM orders WHERE id > 0")
    expect(card.get_by_role("checkbox")).not_to_be_checked()
    expect(view.get_by_role("button", name="Approve")).to_be_disabled()
    assert desk.now_of(filed).state == "pending"
    assert desk.now_of(filed).votes == ()
    keep(view, "approvals-changed")
    with page.expect_response("**/ask"):
        pass  # the next look
    expect(alert).to_be_visible()
    card.get_by_role("checkbox").check()
    expect(alert).to_be_hidden()


def test_what_is_over_cannot_be_decided_and_says_so(page: Page, desk: Desk, address: str) -> None:
    short, decided = desk.hold("DELETE FROM a", seconds=15), desk.hold("DELETE FROM b", user="ben")
    view = show(page, address)
    card = card_of(view, "DELETE FROM a")
    card.get_by_role("checkbox").check()
    view.get_by_label(REASON).fill("in time")
    expect(view.get_by_role("log")).to_contain_text("Less than a minute left")
    expect(card.get_by_role("timer")).to_have_text("time is over")
    expect(card.get_by_role("checkbox")).to_be_disabled()
    expect(card.get_by_role("checkbox")).not_to_be_checked()
    expect(view.get_by_role("button", name="Approve")).to_be_disabled()
    expect(view.locator(".aa-told")).to_contain_text("is over")
    keep(view, "approvals-over")
    desk.expire(short)
    expect(view.locator(".aa-ended-one")).to_contain_text("expired")
    # Somebody else decides about the one that is chosen.
    card_of(view, "DELETE FROM b").get_by_role("checkbox").check()
    desk.control("emil").decide(decided.id, "deny", "we never do that", decided.digest)
    expect(view.locator(".aa-ended-one").first).to_contain_text("emil: we never do that")
    expect(view.locator(".aa-nothing")).to_be_visible()
    expect(view.locator(".aa-told")).to_contain_text("waits no more")
    require_accessible(page)


def test_a_gateway_that_is_gone_is_said_once_and_comes_back(
    page: Page, desk: Desk, address: str
) -> None:
    filed = desk.hold()
    view = show(page, address)
    view.get_by_role("checkbox").check()
    view.get_by_label(REASON).fill("as agreed")
    expect(view.get_by_role("button", name="Approve")).to_be_enabled()
    desk.stop()
    lost = view.get_by_role("alert").filter(has_text="connection refused")
    expect(lost).to_contain_text("nothing can be decided meanwhile")
    expect(view.get_by_role("button", name="Approve")).to_be_disabled()
    expect(view.locator(".aa-live")).to_be_hidden()
    require_accessible(page)
    keep(view, "approvals-lost")
    # What was written and chosen is still there when it is back, in the same place.
    desk.start()
    expect(lost).to_be_hidden()
    expect(view.get_by_role("log")).to_contain_text("The gateway answers again.")
    expect(view.get_by_role("checkbox")).to_be_checked()
    view.get_by_role("button", name="Approve").click()
    expect(view.locator(".aa-told")).to_have_text("1: approved")
    assert desk.now_of(filed).state == "approved"


HOSTILE = {
    "an element": "<img src=x onerror='window.pwned = 1'>",
    "a script": "</pre></script><script>window.pwned = 1</script>",
    "a style": "<style>* { display: none }</style>",
    "another direction": "\u202eevorppa\u202c",
    "a terminal's escape": "\x1b[2J\x1b]8;;javascript:alert(1)\x07here\x1b]8;;\x07",
    "nothing to be seen": "a\u200bb\u2066c\u2069",
    "a lone surrogate's place": "\ufeff\u00ad",
    "a link": "javascript:window.pwned=1",
}


def test_what_an_agent_wrote_is_shown_and_never_obeyed(
    page: Page, desk: Desk, address: str
) -> None:
    for said in HOSTILE.values():
        desk.hold(
            f"DELETE FROM orders /* {said} */" + "\n" * 200 + "WHERE true",
            user=said,
            agent=said,
            statement={
                "operation": said,
                "resources": [said],
                "class": said,
                "risk": [said],
                "params": [said, None],
                "unheard of": {said: said},
            },
            changes={
                "client_app": said,
                "startup": {said: said},
                "settings": [said],
                "transaction": {"status": "T", "before": [{"text": said, "status": said}]},
                "something newer": [said],
            },
            target="orders",
            rule=said,
        )
    view = show(page, address)
    expect(view.locator(".aa-card")).to_have_count(len(HOSTILE))
    expect(view.get_by_role("checkbox")).to_have_count(len(HOSTILE))
    assert page.evaluate("() => window.pwned") is None
    assert view.locator("img, script, style, a, iframe").count() == 0
    shown = view.text_content() or ""
    for written in ("<img src=x onerror=", "\\u202eevorppa\\u202c", "\\x1b[2J", "\\ufeff\\xad"):
        assert written in shown
    names = view.evaluate(
        "node => [...node.querySelectorAll('*')].flatMap("
        "one => [...one.attributes].map(each => each.value)).join(' ')"
    )
    for text in (shown, names):
        assert not set(text) & set("\u202e\u202c\x1b\x07\u200b\u2066\ufeff\u00ad")
    # What would push the end of it off the screen is counted, and what is unknown is there.
    expect(view.locator(".aa-card").first).to_contain_text("(199 lines without a word)")
    expect(view.locator(".aa-card").first).to_contain_text("also something newer")
    expect(view.locator(".aa-card").first).to_contain_text("also unheard of")
    # It stays in its box.
    is_within = "node => node.scrollWidth <= node.clientWidth"
    assert view.locator(".aa-scrolled").evaluate(is_within)
    require_accessible(page)
    keep(view, "approvals-hostile")


def test_a_request_with_a_false_digest_cannot_be_chosen(
    page: Page, desk: Desk, address: str
) -> None:
    desk.hold(digest="0" * 64)
    view = show(page, address)
    expect(view.locator(".aa-card").get_by_role("alert")).to_contain_text("Decide nothing there")
    expect(view.get_by_role("checkbox")).to_have_count(0)


def test_who_may_not_decide_sees_who_may(page: Page, desk: Desk) -> None:
    desk.hold(user="dora")
    widget = Approvals(control=lambda: desk.control("dora"), decides=False)
    with serving(widget._questions, "approvals") as address:
        view = show(page, address)
        expect(view.locator(".aa-card")).to_contain_text("not you: somebody else in dba")
        expect(view.locator(".aa-chosen")).to_have_text("Nothing is decided here.")
        require_accessible(page)


def test_the_session_of_a_request_is_played_and_left_again(
    page: Page, desk: Desk, recorded: Recorded
) -> None:
    case = aa.load(recorded.path)
    desk.hold(session=case.session(recorded.sessions[0]).id, command_no=5)
    with serving(Approvals(case, control=desk.control)._questions, "approvals") as address:
        view = show(page, address)
        view.get_by_role("button", name="open session").click()
        replay = page.locator(".aa-replay")
        expect(replay.locator(".aa-detail-no")).to_have_text("#5")
        require_accessible(page)
        keep(page, "approvals-session")
        page.get_by_role("button", name="← requests").click()
        expect(replay).to_have_count(0)
        expect(view.get_by_role("button", name="open session")).to_be_focused()


@pytest.mark.timeout(300)
def test_a_statement_of_psql_waits_and_runs_when_it_is_approved_in_a_notebook(
    page: Page,
    gw: Gateway,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = in_jupyter.log_in(gw, signing_issuer, tmp_path, monkeypatch)
    monkeypatch.setenv("AGENTAUDIT_CONTROL", gw.control_url)
    monkeypatch.delenv("AGENTAUDIT_TOKEN", raising=False)
    with serving(Approvals(aa.load(gw.archive))._questions, "approvals") as address:
        view = show(page, address)
        expect(view.locator(".aa-nothing")).to_be_visible()
        script = f"BEGIN;\nSELECT count(*) FROM victim;\n{STATEMENT}\nCOMMIT;\n"
        psql = Psql(gw, signing_issuer.token("ana"), script)
        card = view.locator(".aa-card")
        expect(card).to_have_count(1)
        for text in ("write", "victim", "about", "ana via agent", "open; before this: 2"):
            expect(card).to_contain_text(text)
        assert left(postgres18) == 5
        # What it has done before is in the record of the session that goes on.
        card.get_by_role("button", name="open session").click()
        expect(page.locator(".aa-replay .aa-statement")).to_contain_text("FROM victim")
        page.keyboard.press("Escape")
        card.get_by_role("checkbox").check()
        view.get_by_label(REASON).fill("the customer asked for it, ticket 4711")
        keep(page, "approvals-psql")
        view.get_by_role("button", name="Approve").click()
        assert "ERROR" not in psql.said
        assert left(postgres18) == 2
        expect(view.locator(".aa-ended-one")).to_contain_text("dora: the customer asked for it")
        assert token not in page.content()
    (decision,) = decisions(gw)
    assert (decision["state"], decision["approvers"]) == ("approved", ["dora"])
