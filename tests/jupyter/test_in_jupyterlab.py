"""The plugin in a real JupyterLab, in headless Chromium: what test_story.py does not pass by.

Screenshots are kept in `artifacts/` at the checkout's root. Debian: chromium, fonts-dejavu-core,
fonts-liberation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

import agentaudit
from tests.analysis.recording import hostile, record
from tests.jupyter.browser import assert_accessible, chromium, darken, keep, open_lab, page_of, run
from tests.jupyter.conftest import SAMPLE, Server, serving_lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

CASE = agentaudit.load(SAMPLE)
INCIDENT = CASE.sql(
    "FROM commands WHERE operation = 'DELETE' ORDER BY rows_affected DESC LIMIT 1"
).fetchall()[0]
SESSION, NUMBER = str(INCIDENT[0]), INCIDENT[1]
STATEMENT = CASE.session(SESSION).command(NUMBER)["text"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with page_of(browser) as page:
        yield page


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab over a folder with the sample archive, as it is installed: nothing is enabled."""
    scratch = tmp_path_factory.mktemp("lab")
    root = scratch / "root"
    shutil.copytree(SAMPLE, root / "cases" / "shop")
    shutil.copy(SAMPLE.with_name("archive.vkey"), root / "cases" / "shop.vkey")
    with serving_lab(root, scratch) as server:
        yield server


def find_incident(page: Page) -> None:
    """Search the sidebar for the incident's statement, and open its session."""
    page.get_by_label("Search sessions by user, agent, target or text").first.fill(STATEMENT[:40])
    row = page.locator(f".aal-sessions [data-session='{SESSION}']")
    expect(row).to_be_visible()
    row.click()
    expect(page.locator(".aa-statement")).to_be_visible()


def test_a_tab_comes_back_after_a_reload(page: Page, lab: Server) -> None:
    open_lab(page, lab)
    # Lab saves its layout a moment after the last change.
    with page.expect_request(lambda sent: sent.method == "PUT" and SESSION in str(sent.post_data)):
        find_incident(page)
    page.goto(f"{lab.url}lab?token={lab.token}")
    expect(page.locator(".aa-statement")).to_be_visible()


def test_a_folder_of_the_file_browser_opens_as_an_archive(page: Page, lab: Server) -> None:
    open_lab(page, lab)
    run(page, "filebrowser:go-to-path", "{ path: 'cases' }")
    run(page, "filebrowser:activate")
    item = page.locator(".jp-DirListing-item[data-isdir='true']", has_text="shop")
    item.click(button="right")
    page.get_by_role("menuitem", name="Open as an Archive").click()
    table = page.locator(".aal-table")
    expect(table.locator("tbody tr")).to_have_count(len(CASE.listed(limit=200).fetchall()))
    expect(page.locator(".aal-facts")).to_contain_text("access not recorded")
    page.locator(".aal-overview").get_by_label("Search").fill("integration_keys")
    expected = CASE.listed("integration_keys", limit=200).fetchall()
    expect(table.locator("tbody tr")).to_have_count(len(expected))
    assert_accessible(page, ".aal-overview")
    keep(page, "lab-archive")
    table.locator("tbody tr button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".aa-statement")).to_be_visible()


def test_an_archive_is_verified_by_a_command_and_the_status_says_so(
    page: Page, lab: Server
) -> None:
    open_lab(page, lab)
    status = page.locator(".aal-statuses")
    expect(status).to_contain_text("not checked")
    run(page, "agentaudit:verify-archive", "{ deep: true }")
    expect(page.get_by_text("shop: consistent with itself; no key")).to_be_visible()
    expect(status).to_contain_text("≈ consistent, no key")
    expect(page.locator(".aal-answer")).to_have_text("≈ Consistent with itself")
    expect(page.locator(".aal-verification")).to_contain_text("lies beside the archive")


def test_a_broken_archive_shows_its_first_broken_link(page: Page, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(SAMPLE, root / "archive")
    shutil.copy(SAMPLE.with_name("archive.vkey"), root)
    changed = sorted((root / "archive" / "commands").rglob("*.parquet"))[0]
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with serving_lab(root, tmp_path) as lab:
        open_lab(page, lab)
        page.get_by_role("button", name="Verify archive").first.click()
        finding = page.locator(".aal-finding").first
        expect(finding).to_contain_text(changed.name)
        expect(page.locator(".aal-answer")).to_have_text("✗ Do not rely on this archive")
        expect(page.locator(".aal-statuses")).to_contain_text("✗ broken")
        assert_accessible(page, ".aal-verification")
        darken(page)
        assert_accessible(page, ".aal-verification")
        keep(page, "lab-broken-dark")


def test_an_investigation_begins_as_a_notebook_at_the_command_shown(
    page: Page, lab: Server
) -> None:
    open_lab(page, lab, f"&session={SESSION}&command={NUMBER}")
    expect(page.locator(".aa-detail-no")).to_have_text(f"#{NUMBER}")
    page.get_by_role("button", name="Investigate in a notebook").click()
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    expect(cell).to_contain_text(SESSION)
    (written,) = lab.root.rglob(f"investigation-{SESSION[:13]}.ipynb")
    document = json.loads(written.read_text())
    (parameters,) = [
        "".join(cell["source"])
        for cell in document["cells"]
        if "parameters" in cell["metadata"].get("tags", ())
    ]
    assert f"command = {NUMBER}" in parameters


def test_hostile_records_are_shown_in_lists_and_never_obeyed(page: Page, tmp_path: Path) -> None:
    archive = record(tmp_path / "root" / "hostile", hostile()).path
    with serving_lab(tmp_path / "root", tmp_path) as lab:
        open_lab(page, lab)
        expect(page.locator(".aal-sessions .aal-row")).to_have_count(1)
        run(page, "agentaudit:open-archive")
        expect(page.locator(".aal-table tbody tr")).to_have_count(1)
        shown = page.locator(".aal-table").text_content() or ""
        for text in ("<img src=x onerror=alert(1)>", "\\u202egnp.exe", "orders</style><script>"):
            assert text in shown, text
            assert text in (page.locator(".aal-sessions").text_content() or "")
        page.locator(".aal-sessions .aal-row").click()
        expect(page.locator(".aa-statement")).to_be_visible()
        assert page.evaluate("() => window.pwned") is None
        made = page.evaluate(
            "() => [...document.querySelectorAll('.aal-sidebar *, .aal-overview *, .aa-replay *')]"
            ".map(node => node.localName)"
        )
        assert not {"img", "script", "style", "a", "iframe", "object", "link"} & set(made)
        # Bidirectional controls turn nothing around, in a tab's title either.
        assert "\u202e" not in page.evaluate("() => document.body.innerText")
        keep(page, "lab-hostile")
    assert archive.is_dir()
