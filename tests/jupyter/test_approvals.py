"""What a gateway holds, decided in JupyterLab; and by HTTP, who may not and why.

The hold of a real psql session is in test_story.py. Screenshots are kept in `artifacts/` at the
checkout's root.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Route, expect

import agentaudit
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from tests.jupyter.browser import chromium, keep, open_lab, page_of, run
from tests.jupyter.conftest import Answer, Server, serving, serving_lab, unframed
from tests.jupyter.holding import holding, left, log_in
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer


@pytest.fixture
def gw(gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer) -> Gateway:
    """A gateway that holds deletes for the DBAs, and asks a planner how many rows they are."""
    return holding(gateway, postgres18, signing_issuer)


@contextmanager
def waiting(gw: Gateway, issuer: SigningIssuer, *statements: str) -> Iterator[list[str]]:
    """Let each statement wait on a connection of its own; yield what became of each, at the end."""
    errors: list[str] = []

    def execute(number: int, statement: str) -> None:
        try:
            dsn = gw.dsn("orders", issuer.token(f"user{number}"))
            with psycopg.connect(dsn, autocommit=True) as client:
                client.execute(statement)
            errors.append("")
        except psycopg.Error as error:
            errors.append(str(error))

    threads = [
        threading.Thread(target=execute, args=(number, statement))
        for number, statement in enumerate(statements)
    ]
    for each in threads:
        each.start()
    yield errors
    for each in threads:
        each.join()


def falsify(route: Route) -> None:
    """Give the page another statement than the one that waits, of the same length."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.body().replace(b"WHERE n = 1", b"WHERE n > 0"))


def decisions(gw: Gateway) -> list[dict[str, Any]]:
    """Return the decisions in the archive of a gateway, which ends now."""
    gw.wait_until_idle()
    gw.terminate()
    relation = agentaudit.load(gw.archive).sql("FROM decisions ORDER BY requested_at")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("browser")
def test_several_of_a_kind_are_denied_at_once_by_keyboard_alone(
    gw: Gateway,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(gw, signing_issuer, tmp_path, monkeypatch)
    environment = {"AGENTAUDIT_CONTROL": gw.control_url}
    with (
        serving_lab(gw.directory, tmp_path, environment=environment) as lab,
        chromium() as browser,
        page_of(browser) as page,
        waiting(
            gw,
            signing_issuer,
            "DELETE FROM victim WHERE n = 1",
            "DELETE FROM victim WHERE n = 2",
            "SELECT 1; DELETE FROM victim",
        ) as errors,
    ):
        open_lab(page, lab)
        # Something between the gateway and the page changes a text: the digest is of another.
        page.route("**/agentaudit/approvals*", falsify)
        run(page, "agentaudit:open-approvals")
        cards = page.locator(".aa-card")
        expect(cards).to_have_count(3)
        expect(cards.get_by_role("alert")).to_have_text(
            "Its digest is not that of what is shown of it. Decide nothing there, "
            "and ask who runs the gateway."
        )
        expect(cards.get_by_role("checkbox")).to_have_count(2)
        page.unroute("**/agentaudit/approvals*", falsify)
        page.evaluate("() => window.jupyterapp.shell.currentWidget.close()")
        run(page, "agentaudit:open-approvals")
        expect(cards.get_by_role("checkbox")).to_have_count(3)
        page.locator(".aa-scrolled").focus()
        chosen = 0
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "() => [document.activeElement.className, "
                "document.activeElement.getAttribute('aria-label') ?? '']"
            )
            if focused[0] == "aa-choose" and "SELECT" not in focused[1]:
                page.keyboard.press("Space")
                chosen += 1
            if focused[0] == "aa-reason":
                break
        assert chosen == 2
        # A query of several statements is decided by itself.
        expect(page.locator(".aa-choose:disabled")).to_have_count(1)
        page.keyboard.type("not on a Friday")
        keep(page, "lab-approvals-several")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.textContent") == "Deny 2"
        page.keyboard.press("Enter")
        expect(cards).to_have_count(1)
        cards.get_by_role("checkbox").check()
        page.get_by_label("Reason, required").fill("nor is this")
        page.get_by_role("button", name="Deny").click()
        expect(cards).to_have_count(0)
    assert len(errors) == 3
    assert all("denied by rule" in error for error in errors)
    assert left(postgres18) == 5
    reasons = sorted(str(one["reasons"]) for one in decisions(gw))
    assert reasons == ["['nor is this']", "['not on a Friday']", "['not on a Friday']"]


class Reviewer:
    """Somebody who asks the approvals route by HTTP."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def told(self) -> dict[str, Any]:
        return dict(self.server.http.get("agentaudit/approvals").json())

    def pending(self, count: int = 1) -> list[dict[str, Any]]:
        until(lambda: len(self.told().get("requests") or []) >= count, "a request that waits")
        return list(self.told()["requests"])

    def decide(self, *requests: dict[str, Any], **changes: Any) -> Answer:
        args = {
            "verdict": "deny",
            "reason": "no",
            "requests": [{"id": one["id"], "digest": one["digest"]} for one in requests],
        } | changes
        message = {"v": 1, "id": 1, "op": "decide", "args": args}
        return unframed(self.server.http.post("agentaudit/approvals", json=message).content)


def test_a_decision_is_about_what_was_shown_and_has_a_reason(
    gw: Gateway, signing_issuer: SigningIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(gw, signing_issuer, tmp_path, monkeypatch)
    with (
        serving(
            gw.directory, tmp_path, environment={"AGENTAUDIT_CONTROL": gw.control_url}
        ) as server,
        waiting(gw, signing_issuer, "DELETE FROM victim") as errors,
    ):
        reviewer = Reviewer(server)
        (request,) = reviewer.pending()
        assert request["may_decide"]
        assert reviewer.told()["mine"] == 1
        for changes, said in (
            ({"reason": " "}, "needs a reason"),
            ({"reason": None}, "needs a reason"),
            ({"reason": "x" * 3_000}, "at most"),
            ({"verdict": "Approve"}, "approve or deny"),
            ({"requests": []}, "requests at once"),
            ({"requests": [request] * 60}, "requests at once"),
            ({"requests": [{"id": request["id"]}]}, "id and digest"),
            ({"requests": [{"id": "x", "digest": "y"}]}, "id and digest"),
            ({"requests": [{"id": request["id"], "digest": "0" * 64}]}, "is not what waits"),
        ):
            answer = reviewer.decide(request, **changes)
            assert not answer.told["ok"]
            assert said in answer.told["error"]
        assert reviewer.pending() == [request]
        assert reviewer.decide(request).data["decided"] == [
            {"id": request["id"], "state": "denied"}
        ]
        again = reviewer.decide(request).data["decided"]
        assert again[0]["error"]
    assert "denied by rule" in errors[0]


def test_who_may_not_decide_is_told_so_and_a_server_can_decide_nothing(
    gw: Gateway, signing_issuer: SigningIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"AGENTAUDIT_CONTROL": gw.control_url}
    with waiting(gw, signing_issuer, "DELETE FROM victim"):
        with serving(gw.directory, tmp_path / "a", environment=environment) as server:
            reviewer = Reviewer(server)
            told = reviewer.told()
            assert "no token that is good now" in told["error"]
            assert "agentaudit login" in told["hint"]
            # A login is looked for at each question.
            log_in(gw, signing_issuer, tmp_path / "a", monkeypatch, auth_time=1_000_000_000)
            (request,) = reviewer.pending()
            answer = reviewer.decide(request)
            assert "15 minutes ago" in str(answer.told)
        log_in(gw, signing_issuer, tmp_path / "b", monkeypatch)
        with serving(
            gw.directory, tmp_path / "b", "--AgentauditApp.decides=False", environment=environment
        ) as server:
            reviewer = Reviewer(server)
            assert reviewer.told()["may_decide"] is False
            (request,) = reviewer.pending()
            message = {"v": 1, "id": 1, "op": "decide", "args": {}}
            said = server.http.post("agentaudit/approvals", json=message)
            assert said.status_code == 403
            message |= {"op": "outcome", "args": {"request": request["id"]}}
            told = unframed(server.http.post("agentaudit/approvals", json=message).content)
            assert (told.data["state"], told.data["votes"]) == ("pending", [])
        with serving(gw.directory, tmp_path / "b", environment=environment) as server:
            assert Reviewer(server).decide(request).data["decided"][0]["state"] == "denied"
