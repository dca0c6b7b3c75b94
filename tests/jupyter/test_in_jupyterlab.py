"""The plugin in a real JupyterLab, in headless Chromium: what test_story.py does not pass by.

Screenshots are kept in `artifacts/` at the checkout's root. Debian: chromium, fonts-dejavu-core,
fonts-liberation.
"""

from __future__ import annotations

import ast
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import agentaudit
from agentaudit.analysis.printable import printable
from agentaudit.client import tokens
from tests.jupyter.browser import (
    SLOW_MS,
    assert_accessible,
    chromium,
    darken,
    keep,
    open_lab,
    page_of,
    run,
)
from tests.jupyter.conftest import ROOT, SAMPLE, Server, serving_lab
from tests.support.hostile import CASES, record_hostile, unseen
from tests.support.hostile_control import control_api, waiting
from tests.support.watched import Watched

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


HOSTILE_FOLDER = "<img src=x onerror=window.aaPwned=1>\u202e"
TYPESET = """\
from IPython.display import HTML, display

display(HTML("<p id='typeset'>$x^2$</p>"))
display(HTML(replay.still()))
"""


def test_hostile_records_are_shown_in_every_view_and_never_obeyed(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_hostile(tmp_path / "root" / HOSTILE_FOLDER)
    session = recorded.sessions[0]
    # All of them wait in tests/widgets/test_hostile.py.
    some = CASES[::6]
    requests = [waiting(case.text) for case in some]
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(SLOW_MS)
    with control_api(requests) as api:
        keep_token(api.url, tmp_path, monkeypatch)
        environment = {"AGENTAUDIT_CONTROL": api.url}
        with serving_lab(tmp_path / "root", tmp_path, environment=environment) as lab:
            watched = Watched(page, lab.url, logs=False)
            open_lab(page, lab)
            expect(page.locator(".aal-sessions .aal-row")).to_have_count(50)
            assert unseen(watched.look(".aal-sessions"), 200, CASES[-50:]) == []
            expect(page.locator(".aal-statuses")).to_contain_text(f"{len(some)} approvals")
            watched.look(".aal-sidebar")

            run(page, "agentaudit:open-archive")
            expect(page.locator(".aal-table tbody tr")).to_have_count(len(recorded.sessions))
            assert unseen(watched.look(".aal-overview"), 200) == []

            run(page, "agentaudit:open-approvals")
            expect(page.locator(".aa-card")).to_have_count(len(some))
            assert unseen(watched.look(".aal-approvals"), 3_000, some) == []

            run(page, "agentaudit:explore-archive")
            expect(page.locator(".aal-explorer .aa-x-row .aa-c-text").first).to_be_visible()
            watched.look(".aal-explorer")

            page.locator(f".aal-sessions .aal-row[data-session='{recorded.sessions[-1]}']").click()
            expect(page.locator(".aal-session .aa-error")).to_be_visible()
            watched.look(".aal-session")

            run(page, "agentaudit:verify-archive", "{ deep: true }")
            expect(page.locator(".aal-answer")).to_have_text("≈ Consistent with itself")
            watched.look(".aal-verification")
            keep(page, "lab-hostile")

            written = investigation_of(lab, session)
            run(page, "docmanager:open", json.dumps({"path": written}))
            replay = run_notebook(page)
            assert unseen(replay.locator(".aa-list").text_content() or "", 60, CASES[:1]) == []
            # JupyterLab typesets formulas, and has done so here; of ours it leaves all alone.
            expect(page.locator("#typeset mjx-container")).to_have_count(1)
            picture = page.locator(".jp-Notebook .aa-picture")
            expect(picture).to_have_count(1)
            assert picture.locator("mjx-container").count() == 0
            assert unseen(picture.text_content() or "", 200) == []
            watched.look(".jp-Notebook .aa-replay")
            watched.look(".jp-Notebook .aa-picture")
            assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
            for kind in ("script", "iframe", "img", "object", "embed", "form", "base", "meta"):
                assert page.locator(f".jp-OutputArea {kind}").count() == 0, kind
            assert page.locator("a[href^='javascript:' i]").count() == 0
            keep(page, "lab-hostile-notebook")

            titles = page.locator(".lm-TabBar-tabLabel").all_text_contents()
            captions = page.eval_on_selector_all("[title]", "all => all.map(one => one.title)")
            for title in (*titles, *captions):
                assert printable(title, block=True) == title or HOSTILE_FOLDER in title
            assert page.evaluate("() => [...aaSaw]") == []
            texts = page.evaluate("() => [...aaTexts]")
            assert [text for text in texts if printable(text, block=True) != text] == []
            assert watched.did == []
        page.close()


def keep_token(control: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what proves to a control API who asks, where the server's user has it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(scratch / "home" / "state"))
    kept = {"issuer": "i", "audience": "a", "client_id": "c", "token": "t", "user": "dora"}
    tokens.keep(tokens.Kept(**kept, got_at=int(time.time()), control=control))


def investigation_of(lab: Server, session: str) -> str:
    """Write an investigation, in which nothing recorded became code or Markdown; return its path.

    A cell that draws a still picture is put behind it.
    """
    (archive,) = lab.archives().values()
    asked = {"archive": archive["id"], "folder": "", "session": session, "command": 1}
    path = str(lab.http.post("agentaudit/investigation", json=asked).json()["path"])
    document = json.loads((lab.root / path).read_text("utf-8"))
    template = json.loads((ROOT / "notebooks" / "investigation.ipynb").read_text("utf-8"))
    for cell, before in zip(document["cells"], template["cells"], strict=True):
        if "parameters" not in cell["metadata"].get("tags", ()):
            assert cell["source"] == before["source"]
            continue
        found: dict[str, object] = {}
        for line in ast.parse("".join(cell["source"])).body:
            assert isinstance(line, ast.Assign)
            (name,) = line.targets
            assert isinstance(name, ast.Name)
            found[name.id] = ast.literal_eval(line.value)
        assert found["session"] == session
        assert found["command"] == 1
        assert found["archive"] == f"{HOSTILE_FOLDER}/archive"
        assert found["key"] is None
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    document["cells"].append(cell | {"id": "typeset", "source": TYPESET})
    (lab.root / path).write_text(json.dumps(document), "utf-8")
    return path


def run_notebook(page: Page) -> Locator:
    """Run all of the notebook that is shown, and return the replay in it."""
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.isReady")
    run(page, "notebook:run-all-cells")
    expect(page.locator(".jp-Notebook .aa-replay .aa-statement")).to_be_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.jp-Notebook .jp-InputArea-prompt')]"
        ".every(one => !one.textContent.includes('*'))"
    )
    return page.locator(".jp-Notebook .aa-replay")
