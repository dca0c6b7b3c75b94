"""The report in headless Chromium, from a file, as an auditor opens it; with a script, and without.

Screenshots, and what it looks like on paper, are kept in `artifacts/` at the checkout's root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

import agentaudit
from agentaudit.analysis.report.page import Player, render
from tests.analysis.recording import Recorded, record
from tests.analysis.terminals import Shell
from tests.analysis.terminals import record as record_terminals
from tests.support.hostile import CASES
from tests.support.sample import incident as incident_of_sample

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
SAMPLE = ROOT / "sample_data" / "archive"
AXE = ROOT / "extension" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "report.html"
    key = SAMPLE.with_name("archive.vkey")
    agentaudit.load(SAMPLE).report(since="2026-11-22", until="2026-11-23", key=key, out=out)
    return out


@pytest.fixture(scope="module")
def hostile(hostile_archive: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "report.html"
    case = agentaudit.load(hostile_archive.path)
    case.report(since="2026-01-01", until="2027-01-01", limit=20_000, out=out)
    return out


class Watched:
    """A page and what it did: addresses that it asked for, what its console and dialogs said."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []
        context.set_offline(True)
        self.page: Page = context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(path.as_uri())


def test_the_report_is_one_file_without_a_network(browser: Browser, sample: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    watched = Watched(context, sample)
    assert watched.asked == [sample.as_uri()]
    assert watched.said == []
    page = watched.page
    assert (
        page.get_by_role("heading", level=1).inner_text()
        == "Recorded from 2026-11-22 to 2026-11-23"
    )
    assert page.locator(".verdict").inner_text().startswith("✓")
    assert page.locator("article.session").count() == 5
    assert page.locator("article.command").count() == 95
    shown = page.locator("pre.statement", has_text="DELETE FROM orders WHERE status = 'cancelled'")
    assert shown.first.is_visible()
    # The style sheet's hash is right: without it the contents would not stand beside the text.
    page.set_viewport_size({"width": 1280, "height": 900})
    beside = page.locator("nav.contents").bounding_box()
    text = page.locator("main").bounding_box()
    assert beside is not None
    assert text is not None
    assert beside["x"] + beside["width"] < text["x"]
    context.close()


def opened(page: Page, number: int) -> Locator:
    """Press the button of a session's replay; return it, once a command is drawn."""
    player = page.locator(f'.player[data-number="{number}"]')
    player.get_by_role("button", name=f"Replay session {number}", exact=True).press("Enter")
    replay = player.locator(".aa-replay")
    replay.locator(".aa-detail-no").wait_for()
    return replay


def incident(page: Page) -> int:
    """Return the number of the session in which orders were deleted."""
    article = page.locator(f'article.session[data-session="{incident_of_sample()[0]}"]')
    return int((article.get_attribute("id") or "").removeprefix("session-"))


def test_a_session_is_replayed_from_the_file_by_keyboard(browser: Browser, sample: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    watched = Watched(context, sample)
    page = watched.page
    number = incident(page)
    article = page.locator("article.session").nth(number - 1)
    replay = opened(page, number)
    # The list has the focus: what is typed moves through it.
    assert replay.locator(".aa-list").evaluate("node => node === document.activeElement")
    total = article.locator("article.command").count()
    assert replay.locator(".aa-place").inner_text() == f"1 / {total}"
    page.keyboard.press("ArrowDown")
    assert replay.locator(".aa-place").inner_text() == f"2 / {total}"
    page.keyboard.press("/")
    page.keyboard.type("delete from orders")
    replay.locator(".aa-place", has_text=re.compile(rf"of {total}\)$")).wait_for()
    statement = replay.locator(".aa-detail .aa-statement")
    assert "DELETE FROM orders" in statement.inner_text()
    # The rows that are in the table are the rows in the replay.
    shown = article.locator("article.command", has=page.locator("table.result"))
    cells = shown.first.locator("table.result tbody tr").first.locator("td").all_inner_texts()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.type(shown.first.get_attribute("data-command") or "")
    page.keyboard.press("Enter")
    row = replay.locator(".aa-grid tbody tr").first
    row.wait_for()
    assert row.locator("td").all_inner_texts() == cells
    assert watched.asked == [sample.as_uri()]
    assert watched.said == []
    article.get_by_role("button", name="Close the replay").press("Enter")
    assert article.locator(".aa-replay").count() == 0
    context.close()


def test_a_replay_that_was_changed_is_not_played(
    browser: Browser, sample: Path, tmp_path: Path
) -> None:
    html = sample.read_text("utf-8")
    place = html.index("\n", html.index('<pre data-file="replay-')) + 200
    spoilt = tmp_path / "spoilt.html"
    changed = "A" if html[place] != "A" else "B"
    spoilt.write_text(html[:place] + changed + html[place + 1 :], "utf-8")
    context = browser.new_context()
    page = Watched(context, spoilt).page
    player = page.locator(".player").first
    player.get_by_role("button").click()
    player.get_by_role("alert").wait_for()
    assert "is not the file that SHA256SUMS names" in player.get_by_role("alert").inner_text()
    assert player.locator(".aa-replay").count() == 0
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_kept_as_pictures_in_light_and_dark(
    browser: Browser, sample: Path, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = Watched(context, sample).page
    ARTIFACTS.mkdir(exist_ok=True)
    assert "Verified" in page.locator(".verdict").inner_text()
    page.screenshot(path=ARTIFACTS / f"report-{scheme}.png")
    page.locator("article.session").nth(1).scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"report-session-{scheme}.png")
    replay = opened(page, incident(page))
    replay.scroll_into_view_if_needed()
    deleted = page.locator("article.command", has_text="DELETE FROM orders")
    undone = deleted.filter(has=page.get_by_text("rolled back", exact=True)).first
    page.keyboard.press("g")
    page.keyboard.type(undone.get_attribute("data-command") or "")
    page.keyboard.press("Enter")
    replay.locator(".aa-detail").get_by_text("rolled back", exact=True).wait_for()
    page.screenshot(path=ARTIFACTS / f"report-replay-{scheme}.png")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")
    context.close()


def test_on_paper_nothing_is_cut_off(browser: Browser, sample: Path) -> None:
    context = browser.new_context(viewport={"width": 700, "height": 900})
    page = Watched(context, sample).page
    replay = opened(page, incident(page))
    page.emulate_media(media="print")
    assert not replay.is_visible()
    assert page.locator(".player >> visible=true").count() == 0
    wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
            .filter(each => !each.closest('[hidden]'))
            .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
            .map(each => each.tagName + ' ' + each.textContent.slice(0, 60))"""
    )
    assert wide == []
    ARTIFACTS.mkdir(exist_ok=True)
    page.pdf(path=ARTIFACTS / "report-printed.pdf", prefer_css_page_size=True)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Browser, sample: Path, scheme: str, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = Watched(context, sample).page
    opened(page, incident(page))
    page.evaluate(AXE.read_text("utf-8") + "; undefined")
    found = page.evaluate("async () => (await axe.run()).violations")
    told = [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]
    assert told == []
    context.close()


def test_the_keyboard_skips_to_the_report_and_reaches_its_parts(
    browser: Browser, sample: Path
) -> None:
    context = browser.new_context()
    page = Watched(context, sample).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.locator("nav.contents a").nth(6).press("Enter")
    assert page.evaluate("location.hash") == "#integrity"
    context.close()


def test_nothing_hostile_runs_and_nothing_is_asked_for(browser: Browser, hostile: Path) -> None:
    context = browser.new_context()
    watched = Watched(context, hostile)
    page = watched.page
    assert page.locator("article.session").count() == 50
    assert page.locator("article.command").count() >= 2 * len(CASES)
    page.mouse.move(300, 300)
    page.wait_for_timeout(500)
    assert watched.asked == [hostile.as_uri()]
    assert watched.said == []
    assert page.evaluate("window.aaPwned") is None
    assert page.evaluate("document.scripts.length") == 1
    assert page.title().startswith("Evidence report: ")
    # What is shown is the text itself, from a statement to the name of a column.
    first = CASES[0]
    assert page.locator("pre.statement", has_text=first.text).first.is_visible()
    assert page.locator("table.result th", has_text=first.text[:50]).first.is_visible()
    # The same in the replay: each case is a command, a parameter, a result and an error.
    replay = opened(page, 1)
    for number in range(2 * len(CASES)):
        shown = replay.locator(".aa-detail-no", has_text=re.compile(f"^#{number}$"))
        shown.wait_for()
        if number % 2 == 0:
            replay.locator(".aa-grid tbody tr").first.wait_for()
        page.keyboard.press("ArrowDown")
    assert watched.asked == [hostile.as_uri()]
    assert watched.said == []
    assert page.evaluate("window.aaPwned") is None
    assert page.evaluate("document.scripts.length") == 1
    foreign = replay.locator("script, img, iframe, object, link, style, form, base, meta, a")
    assert foreign.count() == 0
    # And as names of those who were there.
    named = opened(page, 2)
    assert CASES[0].text in named.locator(".aa-who").inner_text()
    context.close()


def test_the_screen_of_a_terminal_is_played_from_the_file(browser: Browser, tmp_path: Path) -> None:
    shell = Shell((80, 24)).says("$ ").says("se\x1b[31mcr").says("et\r\n")
    for case in CASES:
        shell.says(case.text.encode("utf-8", "replace")[:1_000] + b"\r\n")
    shell.says("\x1b[2J\x1b[Hlast").exits(0)
    recorded = record_terminals(tmp_path / "site", [shell])
    out = tmp_path / "report.html"
    agentaudit.load(recorded.path).report(session=recorded.sessions[0], out=out)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    watched = Watched(context, out)
    page = watched.page
    assert page.locator("pre.screen").inner_text() == "last"
    replay = opened(page, 1)
    screen = replay.locator(".aa-t-screen[aria-busy=false]")
    expect(screen).to_contain_text("last")
    replay.get_by_label("Find on the screen").fill("SECRET")
    page.keyboard.press("Enter")
    replay.locator(".aa-t-hit").first.click()
    expect(screen).to_contain_text("$ secret")
    expect(screen).not_to_contain_text("last")
    replay.get_by_role("slider", name="Time on the terminal").press("PageUp")
    assert watched.asked == [out.as_uri()]
    assert watched.said == []
    assert page.evaluate("window.aaPwned") is None
    context.close()


def test_no_script_runs_that_its_policy_does_not_name(browser: Browser, tmp_path: Path) -> None:
    """Were one put in behind our back, the page's own policy would stop it; ours would run."""
    archive = record(tmp_path / "site").path
    facts = agentaudit.load(archive).report(since="2026-01-01").facts
    html = render(facts).decode()
    spoilt = tmp_path / "spoilt.html"
    attack = "<script>window.aaPwned=1</script><img src=x onerror='window.aaPwned=1'>"
    spoilt.write_text(html.replace("<main", attack + "<main"))
    context = browser.new_context()
    watched = Watched(context, spoilt)
    assert watched.page.evaluate("window.aaPwned") is None
    assert any("Content Security Policy" in said for said in watched.said)
    ours = tmp_path / "ours.html"
    script = "document.body.dataset.ours = 'yes';"
    ours.write_bytes(render(facts, player=Player(script=script)))
    watched = Watched(context, ours)
    assert watched.page.evaluate("document.body.dataset.ours") == "yes"
    assert watched.said == []
    context.close()
