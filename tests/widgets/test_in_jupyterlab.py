"""The first investigation in a real JupyterLab, in headless Chromium, as an investigator sees it.

Screenshots are kept in `artifacts/` at the checkout's root. Debian: chromium, fonts-dejavu-core,
fonts-liberation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

import agentaudit
from agentaudit.analysis import cells
from tests.widgets.conftest import ARTIFACTS, Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

NOTEBOOK = "01-first-investigation.ipynb"
SLOW_MS = 60_000
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOCAL = {"127.0.0.1", "localhost", ""}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium fonts-dejavu-core fonts-liberation"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may reach this machine only; what else it asks for fails the test."""
    page = browser.new_page(viewport={"width": 1500, "height": 1150})
    page.set_default_timeout(SLOW_MS)
    abroad: list[str] = []
    failures: list[str] = []

    def watch(route: Route) -> None:
        if urlsplit(route.request.url).hostname in LOCAL | {None}:
            route.continue_()
        else:
            abroad.append(route.request.url)
            route.abort()

    page.route("**/*", watch)
    page.on("websocket", lambda socket: _note(abroad, socket.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    page.close()
    assert abroad == []
    assert failures == []


def _note(abroad: list[str], url: str) -> None:
    if urlsplit(url).hostname not in LOCAL:
        abroad.append(url)


def open_and_run(page: Page, lab: Lab, notebook: str) -> Locator:
    """Open `notebook` in JupyterLab, run all of it, and return the replay in it."""
    page.goto(lab.address(notebook))
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("async () => { await window.jupyterapp.restored }")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # Lab asks which kernel to use if cells are run before it has started the preferred one.
    page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.isReady")
    # Braces: the promise of a running notebook must not be waited for here.
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    replay = page.locator(".aa-replay")
    expect(replay.locator(".aa-statement")).to_be_visible(timeout=SLOW_MS)
    replay.scroll_into_view_if_needed()
    return replay


def keep(page: Page, replay: Locator, name: str) -> None:
    """Keep two screenshots: of the whole window, and of the replay alone."""
    ARTIFACTS.mkdir(exist_ok=True)
    replay.scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"{name}.png")
    replay.screenshot(path=ARTIFACTS / f"{name}-replay.png")


def statement(replay: Locator) -> str:
    """Return the statement shown; its text even while JupyterLab has scrolled it out of sight."""
    return replay.locator(".aa-statement").text_content() or ""


def number(replay: Locator) -> int:
    return int((replay.locator(".aa-detail-no").text_content() or "").removeprefix("#"))


def test_an_investigator_replays_the_incident_in_jupyterlab(page: Page, lab: Lab) -> None:
    case = agentaudit.load(lab.folder / "archive")
    (incident,) = case.sql(
        "FROM commands WHERE operation = 'DELETE' ORDER BY rows_affected DESC LIMIT 1"
    ).fetchall()
    session = case.session(incident[0])
    replay = open_and_run(page, lab, NOTEBOOK)

    # It opens at the command that the notebook names, and says what became of it.
    assert statement(replay) == session.command(incident[1])["text"]
    assert "DELETE FROM orders" in statement(replay)
    expect(replay.locator(".aa-detail-top")).to_contain_text("rolled back")
    keep(page, replay, "jupyterlab-incident")

    # Step by keyboard alone, back to where the customers were read, and read a cell of the result.
    replay.locator(".aa-list").focus()
    for _ in range(incident[1]):
        if statement(replay) == "SELECT * FROM customers":
            break
        before = number(replay)
        page.keyboard.press("ArrowLeft")
        expect(replay.locator(".aa-detail-no")).to_have_text(f"#{before - 1}")
    assert statement(replay) == "SELECT * FROM customers"
    recorded = session.result(number(replay))
    first_row = replay.locator(".aa-grid tbody tr").first
    expect(first_row.locator("td").nth(1)).to_have_text(recorded["full_name"][0].as_py())
    shown = first_row.locator("td").all_text_contents()
    assert shown == [text or "NULL" for text in cells.texts(recorded.slice(0, 1))[0]]
    keep(page, replay, "jupyterlab-result")

    # The grid is paged: the browser has fifty rows, the kernel all of them.
    assert replay.locator(".aa-grid tbody tr").count() == 50
    replay.get_by_label("Last rows").click()
    expect(replay.locator(".aa-range")).to_contain_text(f"of {recorded.num_rows:,}")
    last_name = recorded["full_name"][recorded.num_rows - 1].as_py()
    expect(replay.locator(".aa-grid tbody tr").last.locator("td").nth(1)).to_have_text(last_name)

    # Filter by text: the kernel searches, also parameters.
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("integration_keys")
    expect(replay.locator(".aa-place")).to_contain_text("1 / 1")
    page.keyboard.press("Escape")
    expect(replay.locator(".aa-row")).to_have_count(1)
    assert "integration_keys" in statement(replay)
    replay.get_by_label("Filter commands by text").fill("")
    expect(replay.locator(".aa-place")).to_contain_text(f"/ {session.count}")

    # Play, and pause: time goes on by itself, through the end of a command.
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    expect(replay.locator(".aa-detail-no")).to_have_text("#0")
    page.keyboard.press("Space")
    expect(replay.get_by_label("Pause")).to_be_visible()
    page.wait_for_function(
        "() => Number(document.querySelector('.aa-detail-no').textContent.slice(1)) >= 2"
    )
    page.keyboard.press("Space")
    expect(replay.get_by_label("Play", exact=True)).to_be_visible()

    # Jump by number; an error shows with its code.
    page.keyboard.press("g")
    failed = session.commands.filter("error_code = '42501'").fetchall()[0]
    page.keyboard.type(str(failed[1]))
    page.keyboard.press("Enter")
    expect(replay.locator(".aa-error")).to_contain_text("42501")

    # Keys that would delete a cell in JupyterLab stay in the replay.
    before = page.locator(".jp-Notebook .jp-Cell").count()
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.locator(".jp-Notebook .jp-Cell").count() == before

    page.evaluate(
        "() => window.jupyterapp.commands.execute("
        "'apputils:change-theme', { theme: 'JupyterLab Dark' })"
    )
    page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    replay.locator(".aa-list").focus()
    page.keyboard.press("g")
    page.keyboard.type(str(incident[1]))
    page.keyboard.press("Enter")
    expect(replay.locator(".aa-statement")).to_contain_text("DELETE FROM orders")
    keep(page, replay, "jupyterlab-dark")

    # Nothing in the notebook failed.
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
