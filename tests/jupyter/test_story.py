"""The whole path, in a JupyterLab that was installed from the wheel: by mouse, and by keyboard.

Open the sample archive from the sidebar, find the incident with filters, replay it, approve a live
hold of a real psql session, export the report, and open that without a network. What is on a
screenshot was read from the page before. Screenshots are kept in `artifacts/`; those of the
documentation are `story-*`, made smaller (`python -m tools.pictures`).

`make story` makes the wheel and its environment; so does the first test here, where they are old.
Debian: chromium, fonts-dejavu-core, fonts-liberation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

import agentaudit
from agentaudit.analysis import cells
from agentaudit.demo.gateways import Gateway
from tests.jupyter.browser import assert_accessible, chromium, darken, keep, lighten, page_of
from tests.jupyter.conftest import ROOT, SAMPLE, Server, serving_lab
from tests.jupyter.holding import REASON, STATEMENT, Psql, fill, holding, left, log_in
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600), pytest.mark.xdist_group("browser")]

INSTALLED = ROOT / ".build" / "wheel" / "lab"
KEY = SAMPLE.with_name("archive.vkey")
CASE = agentaudit.load(SAMPLE)
SESSION, NUMBER, INCIDENT = CASE.sql(
    "SELECT session_id, command_no, text FROM commands "
    "WHERE operation = 'DELETE' ORDER BY rows_affected DESC LIMIT 1"
).fetchall()[0]
FACTS = CASE.session(SESSION).facts
WORDS = "DELETE FROM orders"
(FOUND,) = CASE.sql(
    "SELECT count(*) FROM commands WHERE class = 'write' AND contains(text, $words)",
    {"words": WORDS},
).fetchall()[0]
(LAST_RESULT,) = CASE.sql(
    "SELECT max(command_no) FROM commands WHERE session_id = $session AND rows_returned > 1",
    {"session": SESSION},
).fetchall()[0]
CELLS = [text or "NULL" for text in cells.texts(CASE.session(SESSION).result(LAST_RESULT))[0]]
HELD = STATEMENT.replace("\u202e", "\\u202e").replace("\u202c", "\\u202c")


@dataclass(frozen=True)
class Desk:
    """What is in front of the reviewer: the Lab, and behind it a gateway with its database."""

    lab: Server
    gw: Gateway
    issuer: SigningIssuer
    scratch: Path


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of an environment of its own, in which the wheel is installed and no Node is."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(["make", "--silent", "installed"], cwd=ROOT, env=quiet, check=True)
    assert not [*INSTALLED.glob("bin/node*")]
    return INSTALLED / "bin" / "python"


@pytest.fixture(scope="module")
def desk(
    python: Path,
    postgres18: PostgresPeer,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Desk]:
    scratch = tmp_path_factory.mktemp("story")
    root = scratch / "root"
    shutil.copytree(SAMPLE, root / "cases" / "shop")
    issuer = SigningIssuer()
    with gateways(root, authority, lambda: issuer) as make:
        gw = holding(make, postgres18, issuer)
        # Programs of the environment alone: there is nothing to build with.
        environment = {
            "AGENTAUDIT_CONTROL": gw.control_url,
            "PATH": str(python.parent),
            "PYTHONPATH": "",
        }
        keys = f"--AgentauditApp.keys={KEY}"
        with serving_lab(root, scratch, keys, environment=environment, python=python) as lab:
            yield Desk(lab, gw, issuer, scratch)
    issuer.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with page_of(browser) as page:
        yield page


class Hands(Protocol):
    """How somebody does each step; that it was done is seen in the page."""

    def open_sample(self) -> None: ...
    def explore(self) -> None: ...
    def filter_and_open(self) -> None: ...
    def go_to(self, command: int) -> None: ...
    def review(self) -> None: ...
    def approve(self) -> None: ...
    def export(self) -> None: ...
    def look_at(self, check: Callable[[], None], name: str) -> None: ...


class Mouse:
    """Points and clicks, types where there are fields; looks at everything in light and dark."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open_sample(self) -> None:
        self.page.locator(".jp-SideBar [data-id='agentaudit-sidebar']").click()
        self.page.get_by_role("button", name="Open the sessions of cases/shop").click()

    def explore(self) -> None:
        self.page.get_by_role("button", name="Explore", exact=True).click()

    def filter_and_open(self) -> None:
        explorer = self.page.locator(".aal-explorer")
        explorer.locator(".aa-facet-value.aa-cls-write").click()
        explorer.get_by_label("Part of a statement").fill(WORDS)
        explorer.get_by_role("button", name="newest first").click()
        expect(explorer.get_by_role("tab", name="Commands")).to_have_text(f"Commands {FOUND}")
        row = explorer.locator(".aa-x-row", has_text=INCIDENT)
        row.click()
        expect(row).to_have_attribute("aria-selected", "true")
        row.dblclick()

    def go_to(self, command: int) -> None:
        commands = self.page.locator(".aal-explorer .aa-list")
        commands.hover()
        self.page.mouse.wheel(0, 100_000)
        commands.locator(f".aa-row:has(.aa-no:text-is('#{command}'))").click()

    def review(self) -> None:
        self.page.get_by_role("button", name="Review", exact=True).first.click()

    def approve(self) -> None:
        self.page.locator(".aa-card").get_by_role("checkbox").check()
        self.page.get_by_label("Reason, required").fill(REASON)
        self.page.get_by_role("button", name="Approve", exact=True).click()

    def export(self) -> None:
        self.page.locator(".lm-DockPanel-tabBar").get_by_text("shop: explorer").click()
        self.page.get_by_role("button", name="Export evidence report").click()
        dialog = self.page.get_by_role("dialog")
        expect(dialog.get_by_label("This session")).to_be_checked()
        dialog.get_by_label("Folder").fill("cases")
        assert_accessible(self.page, ".aa-report-form")
        keep(self.page, "story-export-light")
        dialog.get_by_role("button", name="Export").click()

    def look_at(self, check: Callable[[], None], name: str) -> None:
        check()
        keep(self.page, f"story-{name}-light")
        darken(self.page)
        check()
        keep(self.page, f"story-{name}-dark")
        lighten(self.page)


class Keyboard:
    """Uses keys and nothing else."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.press = page.keyboard.press
        self.type = page.keyboard.type

    def open_sample(self) -> None:
        self.choose("Archives, sessions and approvals")
        expect(self.page.locator(".aal-sidebar .aal-search")).to_be_focused()
        self.tab_to("[aria-label='Open the sessions of cases/shop']", "Shift+Tab")
        self.press("Enter")

    def explore(self) -> None:
        expect(self.page.locator(".aal-overview .aal-search")).to_be_focused()
        self.choose("Explore an archive")

    def filter_and_open(self) -> None:
        search = self.page.locator(".aal-explorer").get_by_label("Part of a statement")
        expect(search).to_be_focused()
        self.tab_to(".aa-facet-value.aa-cls-write")
        self.press("Space")
        self.press("/")
        expect(search).to_be_focused()
        self.type(WORDS)
        tab = self.page.locator(".aal-explorer").get_by_role("tab", name="Commands")
        expect(tab).to_have_text(f"Commands {FOUND}")
        self.press("Escape")
        expect(self.page.locator(".aa-x-list[aria-label='Commands']")).to_be_focused()
        chosen = self.page.locator(".aa-x-row[aria-selected='true']")
        for _ in range(FOUND):
            self.press("ArrowDown")
            expect(chosen).to_have_count(1)
            if INCIDENT in (chosen.text_content() or ""):
                break
        self.press("Enter")

    def go_to(self, command: int) -> None:
        self.press("g")
        self.type(str(command))
        self.press("Enter")

    def review(self) -> None:
        self.choose("Pending approvals")

    def approve(self) -> None:
        expect(self.page.locator(".aa-approvals .aa-scrolled")).to_be_focused()
        self.tab_to(".aa-choose")
        self.press("Space")
        self.tab_to(".aa-reason")
        self.type(REASON)
        self.tab_to(".aa-approve")
        self.press("Enter")

    def export(self) -> None:
        # Back to the tab with the incident; the report is about what is in front.
        front = self.page.locator(".lm-DockPanel-tabBar .lm-mod-current")
        for _ in range(6):
            if "shop: explorer" in (front.text_content() or ""):
                break
            before = front.get_attribute("id") or ""
            self.press("Control+Shift+[")
            expect(front).not_to_have_id(before)
        self.choose("Export evidence report")
        dialog = self.page.get_by_role("dialog")
        expect(dialog.get_by_label("This session")).to_be_focused()
        self.tab_to("[name='folder']")
        self.type("cases")
        self.press("Enter")

    def look_at(self, check: Callable[[], None], name: str) -> None:
        check()
        keep(self.page, f"story-{name}-keyboard")

    def choose(self, command: str) -> None:
        """Choose a command in JupyterLab's palette."""
        field = self.page.locator("#modal-command-palette .lm-CommandPalette-input")
        items = self.page.locator("#modal-command-palette .lm-CommandPalette-item")
        wanted = items.filter(has_text=command).first
        # While Lab still puts its parts in place it may take the focus from its own palette.
        for _ in range(4):
            self.press("Control+Shift+C")
            try:
                expect(field).to_be_focused(timeout=8_000)
                self.type(command)
                wanted.wait_for(timeout=8_000)
                break
            except (AssertionError, TimeoutError):
                self.press("Escape")
        expect(wanted).to_be_visible()
        if not items.and_(self.page.locator(".lm-mod-active")).count():
            self.press("ArrowDown")
        self.press("Enter")
        expect(field).to_be_hidden()

    def tab_to(self, selector: str, key: str = "Tab", most: int = 60) -> None:
        """Press Tab, or Shift+Tab, until what `selector` matches has the focus."""
        for _ in range(most):
            if self.page.evaluate("what => document.activeElement.matches(what)", selector):
                return
            self.press(key)
        raise AssertionError(f"{selector}: not within {most} presses of {key}")


def enter(page: Page, desk: Desk) -> None:
    """Open JupyterLab, in a fresh workspace."""
    page.goto(f"{desk.lab.url}lab?reset&token={desk.lab.token}")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("async () => { await window.jupyterapp.restored }")
    # Lab reads its shortcuts after it says that it is restored.
    page.wait_for_function(
        "() => jupyterapp.commands.keyBindings"
        ".some(one => one.command === 'apputils:activate-command-palette')"
    )
    # The last part to come takes the focus.
    expect(page.locator(".jp-Launcher")).to_be_visible()
    expect(page.locator(".aal-statuses")).to_contain_text("0 approvals")


def walk(
    page: Page, desk: Desk, hands: Hands, server: PostgresPeer, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Go the whole path with these hands; return the report."""
    fill(server)
    token = log_in(desk.gw, desk.issuer, desk.scratch, monkeypatch)
    enter(page, desk)

    # The sample, from the sidebar.
    hands.open_sample()
    overview = page.locator(".aal-overview")
    newest = CASE.listed(limit=200).pl()
    expect(overview.locator("tbody tr")).to_have_count(len(newest))
    expect(page.locator(".aal-chosen")).to_contain_text("cases/shop")

    def sample() -> None:
        expect(overview.locator("tbody tr").first).to_contain_text(newest["user"][0])
        assert_accessible(page, ".aal-sidebar")
        assert_accessible(page, ".aal-overview")
        assert_accessible(page, ".aal-statuses")

    hands.look_at(sample, "archive")

    # The incident, by filters; and its replay.
    hands.explore()
    explorer = page.locator(".aal-explorer")
    expect(explorer.locator(".aa-x-row .aa-c-text").first).to_be_visible()
    hands.filter_and_open()
    expect(explorer.locator(".aa-chip")).to_have_text(["cls: write ×", f"text: {WORDS} ×"])
    replay = explorer.locator(".aa-replay")

    def incident() -> None:
        expect(replay.locator(".aa-detail-no")).to_have_text(f"#{NUMBER}")
        assert replay.locator(".aa-statement").text_content() == INCIDENT
        expect(replay.locator(".aa-detail-top")).to_contain_text("rolled back")
        assert_accessible(page, ".aal-explorer")

    hands.look_at(incident, "incident")

    # What it had returned, cell by cell.
    hands.go_to(LAST_RESULT)
    first = replay.locator(".aa-grid tbody tr").first

    def result() -> None:
        expect(replay.locator(".aa-detail-no")).to_have_text(f"#{LAST_RESULT}")
        expect(first.locator("td")).to_have_text(CELLS)

    hands.look_at(result, "result")

    # Somebody's statement is held, and told of wherever one is.
    script = f"BEGIN;\nSELECT count(*) FROM victim;\n{STATEMENT}\nCOMMIT;\n"
    psql = Psql(desk.gw, desk.issuer.token("ana"), script)
    expect(page.get_by_text("1 request waiting for your decision").first).to_be_visible()
    expect(page.locator(".aal-pending .aal-count")).to_have_text("1")
    expect(page.locator(".aal-statuses")).to_contain_text("1 approval")
    expect(page.get_by_role("tab", name="agentaudit: 1 request waiting")).to_be_visible()
    hands.review()
    card = page.locator(".aa-card")
    expect(card).to_have_count(1)

    def held() -> None:
        assert card.locator(".aa-whole").text_content() == HELD
        for text in ("write", "victim", "rows at stake", "about", "ana", "deletes need a DBA"):
            expect(card).to_contain_text(text)
        expect(card).to_contain_text("open; before this: 2")
        expect(card).to_contain_text("SELECT count(*) FROM victim;")
        # Nothing is decided without a choice and a reason.
        expect(page.get_by_role("button", name="Approve", exact=True)).to_be_disabled()
        assert_accessible(page, ".aa-approvals")
        assert page.evaluate("() => window.pwned") is None

    hands.look_at(held, "hold")
    assert left(server) == 5
    hands.approve()
    expect(page.locator(".aa-told")).to_have_text("1: approved")
    expect(page.locator(".aa-nothing")).to_be_visible()
    expect(page.locator(".aal-statuses")).to_contain_text("0 approvals")
    assert "ERROR" not in psql.said
    assert left(server) == 2
    assert token not in page.content()
    assert token not in desk.lab.log.read_text()
    found = agentaudit.load(desk.gw.archive).sql("FROM decisions ORDER BY decided_at")
    decided = dict(zip(found.columns, found.fetchall()[-1], strict=True))
    assert (decided["state"], decided["reasons"]) == ("approved", [REASON])
    assert decided["approvers"] == ["dora"]

    # The report of the incident, for somebody who was not here.
    hands.export()
    made = page.locator(".aal-report")
    expect(made.locator(".aal-answer")).to_have_text("✔ Verified")

    def report() -> None:
        expect(made.locator(".aal-path")).to_contain_text(f"cases/report-{str(SESSION)[:13]}")
        expect(made.locator(".aal-facts")).to_contain_text(f"{FACTS['user']} through")
        assert_accessible(page, ".aal-report")

    hands.look_at(report, "report")
    path = desk.lab.root / (made.locator(".aal-path").text_content() or "")
    assert path.stat().st_mode & 0o777 == 0o600
    expect(made.locator("code")).to_have_text(sha256(path.read_bytes()).hexdigest())
    return path


def read_without_network(browser: Browser, path: Path, scheme: str) -> None:
    """Open a report as an auditor does: from a file, with no network, and no script."""
    context = browser.new_context(
        offline=True,
        java_script_enabled=False,
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": 1280, "height": 900},
    )
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    expect(page.locator(".verdict")).to_contain_text("Verified")
    shown = page.locator(f"[data-session='{SESSION}'] [data-command='{NUMBER}'] pre.statement")
    assert shown.text_content() == INCIDENT
    shown.scroll_into_view_if_needed()
    assert asked == [path.as_uri()]
    keep(page, f"story-auditor-{scheme}")
    context.close()


def test_the_whole_path_by_mouse_in_light_and_dark(
    desk: Desk,
    browser: Browser,
    page: Page,
    postgres18: PostgresPeer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = walk(page, desk, Mouse(page), postgres18, monkeypatch)

    # It can be read here too, and taken along: the file that is handed over is the one on disk.
    made = page.locator(".aal-report")
    with page.expect_download() as download:
        made.get_by_role("button", name="Download").click()
    taken = tmp_path / download.value.suggested_filename
    download.value.save_as(taken)
    assert (taken.name, taken.read_bytes()) == (path.name, path.read_bytes())
    made.get_by_role("button", name="Open").click()
    inside = page.frame_locator(".jp-HTMLViewer iframe")
    expect(inside.locator("pre.statement", has_text=INCIDENT).first).to_be_visible()
    for scheme in ("light", "dark"):
        read_without_network(browser, taken, scheme)

    # What was decided is in the record that the page replays.
    where = desk.gw.archive.relative_to(desk.lab.root).as_posix()
    page.locator(".aal-archive [data-archive]", has_text=where).click()
    page.locator(".aal-sessions .aal-row:has(b:text-is('ana'))").first.click()
    replay = page.locator(".aal-session .aa-replay")
    expect(replay.locator(".aa-statement")).to_be_visible()
    replay.locator(".aa-row", has_text="DELETE FROM victim").click()
    expect(replay.locator(".aa-detail-top")).to_contain_text("hold: deletes need a DBA")


def test_the_whole_path_by_keyboard_alone(
    desk: Desk,
    browser: Browser,
    page: Page,
    postgres18: PostgresPeer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = walk(page, desk, Keyboard(page), postgres18, monkeypatch)
    # The report that was made is in front, and what opens it has the focus.
    expect(page.locator(".aal-report").get_by_role("button", name="Open")).to_be_focused()
    page.keyboard.press("Enter")
    inside: Locator = page.frame_locator(".jp-HTMLViewer iframe").locator("pre.statement")
    expect(inside.filter(has_text=INCIDENT).first).to_be_visible()
    read_without_network(browser, path, "light")
