"""The kernel's side of the approvals: whose token is asked with, and what leaves the kernel."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.analysis.explore import Filter
from agentaudit.client import tokens
from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.widgets import Approvals, Explorer
from agentaudit.widgets.approvals import MAX_REASON
from tests.analysis.recording import Recorded
from tests.widgets.desk import Desk, desk_in
from tests.widgets.test_replay import Elements

SECRET = "DELETE FROM salaries WHERE iban = 'DE89370400440532013000'"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_in(tmp_path_factory.mktemp("desk")) as desk:
        yield desk


@pytest.fixture
def desk(made_once: Desk) -> Desk:
    made_once.clear()
    return made_once


class Page:
    """The far end of the widget's channel: keeps what a browser would receive."""

    def __init__(self, widget: Approvals) -> None:
        self.widget = widget
        self.received: list[dict[str, Any]] = []
        self._came = threading.Event()
        widget.send = self._receive

    def _receive(self, content: dict[str, Any], buffers: object = None) -> None:
        json.dumps(content)  # what goes to a browser must be JSON
        self.received.append(content)
        self._came.set()

    def try_to_ask(self, op: str, /, **args: Any) -> dict[str, Any]:
        self._came.clear()
        content = {"v": 1, "id": 7, "op": op, "args": args}
        self.widget._handle_msg(
            {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
        )
        assert self._came.wait(60)
        return self.received[-1]

    def ask(self, op: str, /, **args: Any) -> Any:
        answer = self.try_to_ask(op, **args)
        assert answer["ok"], answer
        return answer["data"]

    def decide(self, *requests: dict[str, Any], **changes: Any) -> dict[str, Any]:
        pairs = [{"id": one["id"], "digest": one["digest"]} for one in requests]
        args = {"verdict": "approve", "reason": "as agreed", "requests": pairs} | changes
        return self.try_to_ask("decide", **args)


def page_of(desk: Desk, user: str = "dora", *groups: str, **options: Any) -> Page:
    return Page(Approvals(control=lambda: desk.control(user, *groups), **options))


def test_a_request_is_told_whole_and_decided_once(desk: Desk) -> None:
    filed = desk.hold()
    page = page_of(desk)
    pending = page.ask("pending")
    (request,) = pending["requests"]
    assert (pending["count"], pending["mine"]) == (1, 1)
    assert request["shown"] == filed.shown
    assert [str(one.id) for one in page.widget.pending()] == [request["id"]]
    assert page.decide(request)["data"] == {"decided": [{"id": request["id"], "state": "approved"}]}
    assert desk.now_of(filed).votes[0].reason == "as agreed"
    (vote,) = page.ask("outcome", request=request["id"])["votes"]
    assert (vote["approver"]["user"], vote["reason"]) == ("dora", "as agreed")
    again = page.decide(request)["data"]["decided"][0]
    assert "approved already" in again["error"]
    assert not page.try_to_ask("outcome", request="x")["ok"]


def test_several_of_one_kind_are_decided_together_and_others_are_not(desk: Desk) -> None:
    filed = [desk.hold(user=user) for user in ("ana", "ben", "cid")]
    filed += [desk.hold(cls=""), desk.hold(cls=""), desk.access()]
    page = page_of(desk, "dora-several")
    told = {one["id"]: one for one in page.ask("pending")["requests"]}
    ana, ben, cid, several, more, access = (told[str(one.id)] for one in filed)
    for wrong, said in (
        ([ana, access], "of one kind"),
        ([ana, several], "of one kind"),
        ([several, more], "one by one"),
    ):
        assert said in page.decide(*wrong)["error"]
    decided = page.decide(ana, ben, verdict="deny", reason="not on a Friday")["data"]["decided"]
    assert [one["state"] for one in decided] == ["denied", "denied"]
    assert [desk.now_of(one).state for one in filed] == ["denied"] * 2 + ["pending"] * 4
    assert page.decide(cid)["data"]["decided"][0]["state"] == "approved"


def test_what_is_not_what_was_shown_is_not_decided(desk: Desk) -> None:
    filed, other = desk.hold("DELETE FROM orders WHERE id = 1"), desk.hold()
    page = page_of(desk)
    told = page.ask("pending")["requests"]
    changed = desk.rewrite(filed, "DELETE FROM orders")
    answer = page.decide(*told)
    assert "what was shown is not what waits" in answer["error"]
    assert [desk.now_of(one).state for one in (changed, other)] == ["pending", "pending"]


def test_a_decision_needs_a_reason_and_the_word_for_it(desk: Desk) -> None:
    filed = desk.hold()
    page = page_of(desk)
    (request,) = page.ask("pending")["requests"]
    for changes, said in (
        ({"reason": "  "}, "needs a reason"),
        ({"reason": "x" * (MAX_REASON + 1)}, "at most 1,000 characters"),
        ({"verdict": "yes"}, "approve or deny"),
    ):
        assert said in page.decide(request, **changes)["error"]
    assert desk.now_of(filed).state == "pending"
    # As long as the control API takes it.
    assert page.decide(request, reason="x" * MAX_REASON)["ok"]


def test_where_nothing_is_decided_the_kernel_refuses_whatever_a_page_says(desk: Desk) -> None:
    filed = desk.hold()
    page = page_of(desk, decides=False)
    assert page.ask("open") == {"decides": False, "sessions": False}
    (request,) = page.ask("pending")["requests"]
    assert "nothing is decided here" in page.decide(request)["error"]
    assert desk.now_of(filed).state == "pending"


def test_the_token_is_that_of_each_moment_and_never_leaves_the_kernel(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AGENTAUDIT_TOKEN", raising=False)
    monkeypatch.setenv("AGENTAUDIT_CONTROL", desk.url)
    desk.hold(SECRET)
    page = Page(Approvals())
    nobody = page.try_to_ask("pending")
    assert "no token that is good now" in nobody["error"]
    assert "agentaudit login" in nobody["hint"]
    token = desk.token()
    now = int(time.time())
    tokens.keep(
        tokens.Kept(
            issuer=desk.issuer.issuer,
            audience="agentaudit-review",
            client_id="agentaudit",
            token=token,
            got_at=now,
            control=desk.url,
        )
    )
    # A login is looked for at each question: the cell need not be run again.
    (request,) = page.ask("pending")["requests"]
    page.decide(request)
    file = tmp_path / "mine.jwt"
    file.write_text(desk.token("emil"))
    file.chmod(stat.S_IRUSR)
    by_file = Page(Approvals(token_file=str(file), audience="agentaudit-review"))
    by_file.ask("pending")

    for each in (page, by_file):
        saved = json.dumps([each.widget.get_state(), each.widget._repr_mimebundle_()], default=str)
        told = json.dumps(each.received)
        for secret in (token, file.read_text(), str(file)):
            assert secret not in saved
            assert secret not in told
            assert secret not in repr(each.widget)
        # What is saved with a notebook is the picture, and nothing that an agent wrote.
        for recorded in (SECRET, "salaries", "ana", "copilot-7", desk.url):
            assert recorded not in saved, recorded
        own = {name for name in each.widget.get_state() if not name.startswith("_")}
        assert own <= {"layout", "tabbable", "tooltip"}


def test_a_gateway_that_is_not_named_or_gone_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AGENTAUDIT_CONTROL", raising=False)
    monkeypatch.setenv("AGENTAUDIT_TOKEN", "some.token.here")
    answer = Page(Approvals()).try_to_ask("pending")
    assert answer["error"] == "no control API is named"
    assert "AGENTAUDIT_CONTROL" in answer["hint"]
    gone = Approvals(control="http://127.0.0.1:9")
    answer = Page(gone).try_to_ask("pending")
    assert "connection refused" in answer["error"]
    assert "some.token.here" not in json.dumps(answer)
    with pytest.raises(AgentauditError):
        gone.pending()
    with pytest.raises(QuestionError, match="case: an archive"):
        Approvals("http://127.0.0.1:9")  # type: ignore[arg-type]


def test_the_picture_says_when_it_was_taken_and_how_much_waited(desk: Desk) -> None:
    desk.hold(SECRET, agent="<script>alert(1)</script>")
    desk.hold("TRUNCATE orders", cls="schema", target="<b>orders\u202e</b>")
    desk.access()
    before = f"{time.gmtime().tm_year}-"
    html = page_of(desk).widget.still()
    seen = Elements(html)
    assert "3 requests waited for a decision" in seen.text
    assert f"at {before}" in seen.text
    assert "1 of access, 2 of statement" in seen.text
    assert "<b>orders\\u202e</b>" in seen.text
    assert seen.tags.isdisjoint({"script", "b", "img"})
    for secret in (SECRET, "salaries", "TRUNCATE", "ana", "ben", "month end", "alert"):
        assert secret not in html
    desk.clear()
    assert "Nothing waited for a decision" in page_of(desk).widget.still()
    lost = Approvals(control="http://127.0.0.1:9").still()
    assert "could not be asked" in lost
    assert "127.0.0.1" not in lost


def test_a_picture_is_not_waited_for_where_a_gateway_hangs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentaudit.widgets.approvals.STILL_WAIT_S", 0.05)
    release = threading.Event()

    def hang() -> Any:
        release.wait(60)
        return desk.control()

    try:
        assert "could not be asked" in Approvals(control=hang).still()
    finally:
        release.set()


def test_a_question_does_not_keep_others_of_the_kernel_waiting(desk: Desk) -> None:
    release, began = threading.Event(), threading.Event()

    def hang() -> Any:
        began.set()
        release.wait(60)
        return desk.control()

    page = Page(Approvals(control=hang))
    message = {"v": 1, "id": 1, "op": "pending", "args": {}}
    page.widget._handle_msg(
        {"content": {"data": {"method": "custom", "content": message}}, "buffers": []}
    )
    assert began.wait(60)
    assert page.ask("open")["decides"] is True
    release.set()


def test_the_session_of_a_request_plays_beside_it_and_the_explorer_follows(
    desk: Desk, recorded: Recorded
) -> None:
    case = aa.load(recorded.path)
    explorer = Explorer(case, user="ana")
    page = Page(Approvals(explorer, control=desk.control))
    assert page.ask("open") == {"decides": True, "sessions": True}
    session = recorded.sessions[0]
    count = case.session(session).count
    # What waits is not recorded yet: the last command before it is what can be shown.
    assert page.ask("session", session=str(session), command=count + 5) == {
        "session": str(session),
        "command": count - 1,
    }
    assert explorer.selected == (case.session(session).id, count - 1)
    assert explorer.filter == Filter(user=("ana",))
    opened = page.ask("replay", session=str(session), op="open", args={})
    assert opened["total"] == count
    nowhere = "00000000-0000-7000-8000-000000000000"
    assert "not in this archive" in page.try_to_ask("session", session=nowhere, command=0)["error"]
    alone = page_of(desk)
    assert "no archive" in alone.try_to_ask("session", session=str(session), command=0)["error"]
    assert not alone.try_to_ask("replay", session=str(session), op="open", args={})["ok"]
