"""The corpus of hostile texts in every view, in Chromium: nothing of it runs, all of it is seen.

One archive has each case in every place that an agent, its user, a target or a reviewer chooses
(`tests/support/hostile.py`). Each view is drawn once on a page without Jupyter, whose policy lets
nothing else run, and is gone through: every command opened, every list to its end, every tab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat import v4
from playwright.sync_api import Browser, Page, expect

import agentaudit as aa
from agentaudit.analysis.case import Case
from agentaudit.analysis.explore import Filter
from agentaudit.analysis.explore.filters import MAX_VALUE_CHARACTERS
from agentaudit.analysis.masking_sources import recorded_in
from agentaudit.client.control import Control
from agentaudit.widgets import (
    Approvals,
    Explorer,
    Integrity,
    MaskingPreview,
    Replay,
    RetentionReport,
)
from agentaudit.widgets.explorer import ExplorerQuestions
from agentaudit.widgets.integrity import IntegrityQuestions
from agentaudit.widgets.masking_preview import MaskingQuestions
from agentaudit.widgets.questions import Questions
from agentaudit.widgets.replay import ReplayQuestions
from agentaudit.widgets.retention_report import RetentionQuestions
from agentaudit.widgets.scope import Scope
from tests.analysis.recording import Recorded
from tests.client.served import Says, served
from tests.support.hostile import CASES, MARKUP, unseen
from tests.support.hostile_control import control_api, waiting
from tests.support.watched import Watched
from tests.widgets import test_in_jupyterlab
from tests.widgets.page import PATHS, keep, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

browser = test_in_jupyterlab.browser

SLOW_MS = 60_000
expect.set_options(timeout=SLOW_MS)
TEXTS = [case.text for case in CASES]
# Of a filter's values none is longer.
CHOSEN = [text for text in TEXTS if len(text) <= MAX_VALUE_CHARACTERS]
# A mask's name has at most 100 characters, and no controls.
NAMES = dict.fromkeys(text.translate(dict.fromkeys(range(0x20)))[:100] for text in TEXTS)
RULES = [{"name": name, "pattern": ["aaPwned|harmless"], "action": "partial"} for name in NAMES]

# In a page: wait for what comes with the next frames, or for what `ready` says.
SETTLE = """\
const frame = () => new Promise(requestAnimationFrame);
const until = async (ready, what) => {
  for (const began = performance.now(); !ready(); await frame()) {
    if (performance.now() - began > 20_000) throw new Error(`it did not come to be so: ${what}`);
  }
};
"""


@pytest.fixture(scope="module", autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let nothing be remembered of archives that other tests called the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def recorded(hostile_archive: Recorded) -> Recorded:
    return hostile_archive


@pytest.fixture(scope="module")
def case(recorded: Recorded, own_memory: None) -> Case:
    return aa.load(recorded.path)


@pytest.fixture(scope="module")
def scope(case: Case) -> Scope:
    scope = Scope(case, Filter())
    assert scope.index.wait(60)
    return scope


@contextmanager
def drawn(
    browser: Browser,
    asked: Questions,
    name: str,
    traits: dict[str, Any] | None = None,
) -> Iterator[Watched]:
    """Draw a view on a page of its own; when it is left, nothing has happened there."""
    with serving(asked, name, traits) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(SLOW_MS)
        watched = Watched(page, address, PATHS)
        page.goto(address)
        yield watched
        watched.look()
        watched.require_nothing()
        page.close()


# --- the explorer and its parts


LIST = (
    SETTLE
    + """\
const list = document.querySelector(".aa-x-list");
const seen = [];
for (let before = -1; list.scrollTop !== before; await frame(), await frame()) {
  await until(() => list.querySelector(".aa-x-row") && !list.querySelector(".aa-empty"), "rows");
  seen.push(aaLook(list));
  before = list.scrollTop;
  list.scrollTop += Math.floor(list.clientHeight * 0.8);
}
return seen.join("\\n");
"""
)

SESSIONS = (
    SETTLE
    + """\
const list = document.querySelector(".aa-x-list:not([hidden])");
const key = (target, name) => target.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const drawer = document.querySelector(".aa-x-drawer");
const seen = [];
key(list, "Home");
for (let at = 0; at < count; at += 1) {
  await until(() => list.querySelector(".aa-x-row.aa-active .aa-c-time"), `row ${at}`);
  key(list, "Enter");
  await until(() => drawer.querySelector(".aa-detail .aa-statement"), `session ${at}`);
  seen.push(aaLook(drawer));
  key(drawer, "Escape");
  await until(() => drawer.hidden, `list after ${at}`);
  key(list, "ArrowDown");
}
return seen.join("\\n");
"""
)


def run(page: Page, script: str, **given: Any) -> str:
    """Run a script that waits, in the page; `given` are its constants."""
    names = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    return str(page.evaluate(f"async () => {{\n{names}{script}}}"))


def until_told(page: Page) -> None:
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")


def test_the_explorer_lists_and_opens_all_of_it(
    browser: Browser, scope: Scope, recorded: Recorded
) -> None:
    scope.narrow(Filter())
    traits = {"parts": ["facets", "timeline", "list", "code"], "lanes": "user"}
    with drawn(browser, ExplorerQuestions(scope), "explorer", traits) as watched:
        page = watched.page
        page.wait_for_selector(".aa-x-row >> nth=3")
        until_told(page)
        shown = run(page, LIST)
        assert unseen(shown) == []
        page.locator(".aa-x-tab", has_text="Sessions").click()
        expect(page.locator(".aa-x-tab[aria-selected=true]")).to_contain_text("Sessions")
        names = run(page, LIST)
        assert unseen(names, 60) == []
        page.locator(".aa-x-list:visible").focus()
        opened = run(page, SESSIONS, count=len(recorded.sessions))
        # The heading, the statement, its parameter, its error and the rule that held it.
        assert unseen(opened) == []
        keep(page, "explorer-hostile")


def test_filters_and_the_code_that_they_stand_for_show_all_of_it(
    browser: Browser, scope: Scope
) -> None:
    facets = ("user", "agent", "target", "operation", "risk", "table")
    chosen = Filter.parse(dict.fromkeys(facets, CHOSEN))
    among = [case for case in CASES if case.text in CHOSEN]
    scope.narrow(chosen)
    assert len(scope.case.sql(chosen.sql()).fetchall()) == len(CHOSEN)
    with drawn(
        browser, ExplorerQuestions(scope), "explorer", {"parts": ["facets", "code"]}
    ) as watched:
        page = watched.page
        page.wait_for_selector(".aa-facet-value")
        until_told(page)
        expect(page.locator(".aa-x-code").last).to_contain_text("ORDER BY")
        page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
        assert unseen(watched.look(".aa-x-chips"), among=among) == []
        for facet in page.locator(".aa-facet").all():
            more = facet.get_by_role("button", name="more")
            if more.count() and more.is_enabled():
                more.dispatch_event("click")
        assert unseen(watched.look(".aa-facets"), among=among) == []
        keep(page, "filter-hostile")


def test_lanes_are_named_by_all_of_it(browser: Browser, scope: Scope) -> None:
    # No more than so many lanes are drawn at once.
    for some in (CHOSEN[::2], CHOSEN[1::2]):
        scope.narrow(Filter.parse({"user": some}))
        traits = {"parts": ["timeline"], "lanes": "user"}
        with drawn(browser, ExplorerQuestions(scope), "explorer", traits) as watched:
            page = watched.page
            among = [each for each in CASES if each.text in some]
            for lane in ("user", "agent", "target"):
                page.get_by_label("Lanes").select_option(lane)
                expect(page.locator(".aa-lane-name")).to_have_count(len(some))
                assert unseen(watched.look(".aa-timeline-box"), 80, among) == []
            page.locator(".aa-plot").focus()
            for _ in range(5):
                page.keyboard.press("]")
            box = page.locator(".aa-plot").bounding_box()
            assert box is not None
            for step in range(20):
                page.mouse.move(box["x"] + box["width"] * step / 20, box["y"] + 12 + 14 * step)
                watched.look()


# --- one session


COMMANDS = (
    SETTLE
    + """\
const list = document.querySelector(".aa-list");
const detail = document.querySelector(".aa-detail");
const key = (name) => list.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const seen = { list: [], statement: [], params: [], error: [], head: [], cell: [], all: [] };
key("Home");
for (let at = 0; at < count; at += 1) {
  await until(() => detail.querySelector(".aa-detail-no")?.textContent === `#${at}`
    && !detail.matches(".aa-waiting") && !detail.querySelector("[aria-busy=true]"), `no ${at}`);
  aaLook(detail);
  for (const more of detail.querySelectorAll(".aa-open-cell, .aa-more")) {
    const cell = detail.querySelector(".aa-cell");
    const before = cell?.textContent;
    more.click();
    await until(() => !more.isConnected || cell?.textContent !== before, `the rest of ${at}`);
  }
  for (const [name, where] of [["statement", ".aa-statement"], ["params", ".aa-params"],
    ["error", ".aa-error"], ["head", "thead"], ["cell", "tbody, .aa-cell"]]) {
    for (const one of detail.querySelectorAll(where)) seen[name].push(one.textContent);
  }
  aaLook(detail);
  await until(() => !list.querySelector(".aa-current .aa-row-sql:empty"), `line ${at}`);
  seen.list.push(aaLook(list));
  key("ArrowDown");
}
return JSON.stringify(seen);
"""
)


def test_every_command_is_replayed_with_all_that_came_back(
    browser: Browser, case: Case, recorded: Recorded
) -> None:
    session = case.session(recorded.sessions[0])
    traits = {"session_id": str(session.id), "command_no": -1, "speed": 1}
    with drawn(browser, ReplayQuestions(session), "replay", traits) as watched:
        page = watched.page
        page.wait_for_selector(".aa-detail .aa-statement")
        seen = json.loads(run(page, COMMANDS, count=session.count))
        assert session.count >= 2 * len(CASES)
        whole = max(map(len, TEXTS))
        for place in ("statement", "params", "error", "cell"):
            assert unseen("\n".join(seen[place]), whole) == [], place
        assert unseen("\n".join(seen["head"]), 60) == []
        assert unseen("\n".join(seen["list"]), 100) == []
        keep(page, "replay-hostile")


# --- masks, proofs, retention


def test_a_masking_preview_shows_columns_and_values_as_data(
    browser: Browser, case: Case, recorded: Recorded
) -> None:
    against = [{"name": "others", "pattern": ["evil"]}]
    asked = MaskingQuestions(recorded_in(case, {"session": recorded.sessions[0]}), RULES, against)
    with drawn(browser, asked, "masking-preview", {"tab": "hits"}) as watched:
        page = watched.page
        page.wait_for_selector(".aa-pair[role='listitem']")
        # The rules as text, of names that are no TOML as they stand, are the same rules.
        page.get_by_role("button", name="Try").click()
        page.wait_for_function("() => !document.querySelector('.aa-waiting')")
        expect(page.locator(".aa-problem")).to_be_hidden()
        shown = []
        for tab in ("What is hidden", "Perhaps wrongly", "Not covered", "Columns", "Difference"):
            page.get_by_role("tab", name=tab).click()
            while True:
                expect(page.locator(".aa-panel.aa-waiting")).to_have_count(0)
                shown.append(watched.look())
                following = page.get_by_role("button", name="Next page").first
                if not following.count() or not following.is_enabled():
                    break
                following.click()
        assert unseen("\n".join(shown), 60) == []
        keep(page, "masking-preview-hostile")


def test_integrity_shows_holds_and_purges_as_data(
    browser: Browser, case: Case, recorded: Recorded
) -> None:
    asked = IntegrityQuestions(case, key=recorded.key)
    with drawn(browser, asked, "integrity") as watched:
        page = watched.page
        expect(page.locator(".aa-word")).to_have_text("Verified", timeout=SLOW_MS)
        for tab in page.get_by_role("tab").all():
            tab.click()
            watched.look()
        marks = page.locator(".aa-lanes .aa-mark")
        for number in range(min(40, marks.count())):
            marks.nth(number).dispatch_event("click")
            watched.look()
        keep(page, "integrity-hostile")


def test_retention_shows_targets_classes_and_reasons_as_data(browser: Browser, case: Case) -> None:
    with drawn(browser, RetentionQuestions(case), "retention-report") as watched:
        page = watched.page
        expect(page.locator(".aa-pick")).to_have_count(len(CASES) + 1, timeout=SLOW_MS)
        assert unseen(watched.look(".aa-targets")) == []
        shown = {}
        for tab in page.get_by_role("tab").all():
            tab.click()
            shown[tab.text_content() or ""] = watched.look(".aa-panel")
        (held,) = [text for name, text in shown.items() if name.startswith("Held")]
        assert unseen(held) == []
        page.locator(".aa-pick").nth(3).click()
        keep(page, "retention-hostile")


# --- what waits for a decision


def test_what_waits_is_shown_whole_and_decided_as_data(browser: Browser) -> None:
    requests = [waiting(text) for text in TEXTS]
    with control_api(requests) as api:
        widget = Approvals(control=lambda: Control(api.url, "token"))
        with drawn(browser, widget._questions, "approvals") as watched:
            page = watched.page
            expect(page.locator(".aa-card")).to_have_count(len(CASES))
            assert page.locator(".aa-card .aa-trouble").count() == 0
            whole = max(map(len, TEXTS))
            for where in (".aa-whole", ".aa-card-facts", ".aa-card-what", ".aa-badge"):
                assert unseen(watched.look(where), whole) == [], where
            page.locator(".aa-choose").first.check()
            page.get_by_label("Reason, required").fill("no")
            page.get_by_role("button", name="Deny").click()
            trouble = page.locator(".aa-approvals > .aa-trouble:not([hidden])")
            expect(trouble).to_contain_text(TEXTS[0])
            keep(page, "approvals-hostile")


# --- still pictures


def test_still_pictures_are_data_in_what_nbconvert_writes(
    browser: Browser, case: Case, recorded: Recorded, scope: Scope, tmp_path: Path
) -> None:
    scope.narrow(Filter.parse({"user": CHOSEN}))
    explorer = Explorer(case)
    assert explorer.scope.index.wait(60)
    explorer.filter = scope.filter
    pictures = {
        "explorer": explorer.still(),
        "replay": Replay(case, recorded.sessions[0]).still(),
        "masking": MaskingPreview(case, RULES, session=recorded.sessions[0]).still(),
        "integrity": Integrity(case, key=recorded.key).still(),
        "retention": RetentionReport(case).still(),
    }
    for number, session in enumerate(recorded.sessions[1:]):
        pictures[f"replay {number}"] = Replay(case, session).still()
    asked = exported(browser, {"harmless": Integrity(case).still()}, tmp_path).did
    watched = exported(browser, pictures, tmp_path)
    # What nbconvert's own page loads, which a browser without a network does not get.
    assert watched.did == asked
    watched.did.clear()
    assert watched.page.locator(".aa-picture").count() == len(pictures)
    ignored = ".aa-picture.mathjax_ignore.tex2jax_ignore"
    assert watched.page.locator(ignored).count() == len(pictures)
    shown = watched.look(".aa-picture")
    assert unseen(shown) == []
    first = watched.page.locator(".aa-picture").nth(1).text_content() or ""
    assert unseen(first) == []
    watched.require_nothing()
    keep(watched.page, "stills-hostile")
    watched.page.context.close()


def exported(browser: Browser, pictures: dict[str, str], folder: Path) -> Watched:
    """Open what nbconvert writes of a notebook with these outputs, without a network."""
    notebook = v4.new_notebook(
        cells=[
            v4.new_code_cell(
                name, outputs=[v4.new_output("display_data", data={"text/html": picture})]
            )
            for name, picture in pictures.items()
        ]
    )
    nbformat.validate(notebook)
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    path = folder / "exported.html"
    path.write_text(html, "utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    watched = Watched(context.new_page(), path.as_uri())
    watched.page.goto(path.as_uri())
    return watched


# --- that all of this could fail


def test_where_nothing_stops_it_the_corpus_is_heard(browser: Browser) -> None:
    """Each text as HTML on a page without a policy: what a view would do that did not escape it."""
    # In "typst" it is a label, as our views have them too.
    isolated = [case for case in MARKUP if re.search("<[a-z/]", case.text, re.IGNORECASE)]
    active = [case for case in isolated if case.name != "typst"]
    assert len(active) >= 35
    pages = {f"GET /{n}": case.text for n, case in enumerate(active)}
    pages |= {f"GET /escaped/{n}": escape(case.text) for n, case in enumerate(CASES)}
    says = {place: Says(PAGE.format(text).encode(), headers=HTML) for place, text in pages.items()}
    ran: list[str] = []
    with served(says | {"GET /x": Says(b"", 404)}) as site:
        page = browser.new_page()
        watched = Watched(page, site.url)
        page.route(re.compile("evil.invalid"), lambda route: route.abort())
        for number, case in enumerate(active):
            watched.did.clear()
            page.goto(f"{site.url}/{number}", wait_until="load")
            page.wait_for_function("() => window.isWhole || document.readyState === 'complete'")
            page.evaluate(SETTLED)
            saw = page.evaluate("() => [...aaSaw]") if "refresh" not in case.name else []
            assert saw or watched.did, case.name
            ran += [case.name] if "it ran" in saw else []
        watched.did.clear()
        for number, _ in enumerate(CASES):
            page.goto(f"{site.url}/escaped/{number}")
            page.evaluate(SETTLED)
            assert page.evaluate("() => [...aaSaw]") == []
        assert watched.did == []
        page.close()
    assert len(ran) >= 15, ran


PAGE = "<!doctype html><meta charset=utf-8><body><main>{}</main>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
SETTLED = """\
async () => {
  for (let i = 0; i < 4; i += 1) await new Promise(requestAnimationFrame);
  for (const node of document.querySelectorAll("body > *")) aaLook(node);
}
"""
