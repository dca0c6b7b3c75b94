"""The explorer in headless Chromium: filters, time, lists, a session behind a line, by keys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

import agentaudit as aa
from agentaudit.analysis.explore import Filter
from agentaudit.widgets.explorer import ExplorerQuestions
from agentaudit.widgets.scope import Scope
from tests.analysis.recording import Script, hostile, investigation, record
from tests.widgets.page import keep, packed, require_accessible, serving
from tests.widgets.test_in_jupyterlab import browser

__all__ = ["browser"]

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), pytest.mark.xdist_group("browser")]

ALL = ["facets", "timeline", "list", "code"]
QUIET_MS = 20_000


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    folder = tmp_path_factory.mktemp("explored")
    path = record(folder, investigation(), hostile(), investigation(), gap_us=7_200_000_000).path
    scope = Scope(aa.load(path), Filter())
    assert scope.index.wait(60)
    return scope


@pytest.fixture
def address(scope: Scope) -> Iterator[str]:
    scope.narrow(Filter())
    scope.select(None)
    with serving(ExplorerQuestions(scope), "explorer", {"parts": ALL, "lanes": "none"}) as address:
        yield address


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    """Of more users than a facet shows at once."""
    sessions = [Script(user=f"user-{n:02}").query(f"SELECT {n}") for n in range(120)]
    scope = Scope(aa.load(record(tmp_path_factory.mktemp("many"), *sessions).path), Filter())
    assert scope.index.wait(60)
    return scope


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 860})
    page.set_default_timeout(QUIET_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.add_init_script("window.pwned = 0; window.alert = () => { window.pwned = 1 }")
    yield page
    assert page.evaluate("() => window.pwned") == 0
    assert wrong == []
    page.close()


def opened(page: Page, address: str, theme: str = "light") -> Page:
    page.goto(f"{address}?theme={theme}")
    page.wait_for_selector(".aa-x-row >> nth=3")
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
    return page


def until(found: Callable[[], Any]) -> Any:
    """Return what comes of `found` once it is true: what a page says takes a while."""
    for _ in range(200):
        if result := found():
            return result
        time.sleep(0.05)
    raise AssertionError("it did not come to be so")


def texts(page: Page) -> list[str]:
    return page.locator(".aa-x-row .aa-c-text").all_inner_texts()


def selected(scope: Scope, but: object = None) -> object:
    """Wait until the kernel has heard that another command is selected, and return it."""
    return until(lambda: scope.selected if scope.selected != but else None)


def facet(page: Page, name: str) -> None:
    page.locator(".aa-facet-value", has_text=re.compile(rf"^{name}\d")).first.click()


def test_what_is_asked_by_clicks_is_what_the_kernel_knows(
    address: str, page: Page, scope: Scope
) -> None:
    opened(page, address)
    expect(page.locator(".aa-x-title")).to_contain_text("26 commands")
    expect(page.locator(".aa-x-title")).to_contain_text("scripted clock")
    facet(page, "error")
    expect(page.locator(".aa-x-title")).to_contain_text("of 26 commands")
    page.wait_for_function("() => document.querySelectorAll('.aa-x-row').length < 10")
    assert scope.filter in (Filter(flags=("error",)), Filter(status=("error",)))
    expected = scope.case.sql(scope.filter.sql())
    names = expected.columns
    rows = [row[names.index("text")] for row in expected.fetchall()]
    expect(page.locator(".aa-x-row .aa-c-text")).to_have_count(len(rows))
    shown = texts(page)
    assert any("emial" in text for text in shown)
    page.locator(".aa-x-search").fill("EMIAL")
    expect(page.locator(".aa-x-tab[aria-selected=true]")).to_have_text("Commands 2")
    page.get_by_role("button", name="clear all").click()
    expect(page.locator(".aa-x-title")).not_to_contain_text("of 26 commands")
    assert until(lambda: scope.filter == Filter())
    keep(page, "explorer")


def test_the_code_of_a_filter_is_shown_and_is_what_runs(
    address: str, page: Page, scope: Scope
) -> None:
    opened(page, address)
    facet(page, "write")
    page.locator(".aa-code-box summary").click()
    expect(page.locator(".aa-x-code").first).to_have_text("case.commands(cls='write')")
    sql = page.locator(".aa-x-code").last.inner_text()
    assert scope.case.sql(sql).fetchall() == scope.case.commands(cls="write").fetchall()


def test_all_of_it_by_keys_alone(address: str, page: Page, scope: Scope) -> None:
    opened(page, address)
    page.keyboard.press("Tab")
    expect(page.locator(".aa-x-search")).to_be_focused()
    page.keyboard.type("emial")
    expect(page.locator(".aa-x-tab[aria-selected=true]")).to_have_text("Commands 2")
    page.keyboard.press("Escape")
    expect(page.locator(".aa-x-list")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('.aa-x-row.aa-active .aa-c-text')")
    assert selected(scope)
    page.keyboard.press("Enter")
    replay = page.locator(".aa-x-drawer .aa-replay")
    expect(replay.locator(".aa-detail .aa-statement")).to_contain_text("emial")
    expect(replay.locator(".aa-error")).to_contain_text('column "emial" does not exist')
    page.keyboard.press("ArrowDown")
    expect(replay.locator(".aa-detail .aa-statement")).to_contain_text("balance")
    page.wait_for_function("() => document.querySelector('.aa-x-drawer .aa-grid td')")
    keep(page, "explorer-session")
    page.keyboard.press("Escape")
    expect(page.locator(".aa-x-list")).to_be_focused()
    expect(replay).to_have_count(0)


@pytest.mark.parametrize("gesture", ["Enter", "double click"])
@pytest.mark.parametrize("moves_on", [False, True], ids=["stays", "moves on"])
def test_a_row_that_is_not_here_yet_opens_when_it_comes(
    address: str, page: Page, gesture: str, moves_on: bool
) -> None:
    opened(page, address)
    held: list[Route] = []
    counted: list[Route] = []

    def hold(route: Route) -> None:
        if json.loads(route.request.post_data or "")["op"] != "sessions":
            route.continue_()
        elif counted:
            held.append(route)
        else:
            # How many there are is answered, and none of them: as of a page further down.
            counted.append(route)
            body = route.fetch().body()
            head = json.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])
            route.fulfill(body=packed(head["answer"], []))

    page.route("**/ask", hold)
    page.locator(".aa-x-tab", has_text="Sessions").click()
    row = page.locator(".aa-x-row").nth(1)
    expect(row).to_have_text("…")
    if gesture == "Enter":
        row.click()
        page.keyboard.press("Enter")
    else:
        row.dblclick()
    if moves_on:
        page.keyboard.press("ArrowDown")
    expect(page.locator(".aa-x-drawer")).to_be_hidden()
    held[0].continue_()
    expect(row).not_to_have_text("…")
    if moves_on:
        expect(page.locator(".aa-x-row.aa-active")).to_have_attribute("aria-posinset", "3")
        expect(page.locator(".aa-x-drawer")).to_be_hidden()
        page.keyboard.press("Enter")
    expect(page.locator(".aa-x-drawer .aa-detail .aa-statement")).to_be_visible()


def test_pages_that_share_a_scope_come_to_show_the_same(
    address: str, browser: Browser, page: Page, scope: Scope
) -> None:
    opened(page, address)
    other = opened(browser.new_page(viewport={"width": 1400, "height": 860}), address)
    # Neither has heard of the other's choice when it makes its own.
    facet(page, "read")
    facet(other, "error")
    for each in (page, other):
        expect(each.locator(".aa-chip")).to_have_count(2)
        expect(each.locator(".aa-chip").first).to_contain_text("read")
    assert scope.filter.cls == ("read",)
    assert scope.filter.flags or scope.filter.status
    other.close()


def test_lanes_set_in_python_are_those_of_the_page(address: str, page: Page) -> None:
    opened(page, address)
    page.evaluate("() => window.model.set('lanes', 'user')")
    expect(page.get_by_label("Lanes")).to_have_value("user")
    expect(page.locator(".aa-lane-name")).to_have_count(2)
    page.get_by_label("Lanes").select_option("agent")
    assert page.evaluate("() => window.traits.lanes") == "agent"


@pytest.mark.parametrize("ends_by", ["Escape", "?"])
def test_the_help_of_the_timeline_takes_the_focus_keeps_it_and_gives_it_back(
    address: str, page: Page, ends_by: str
) -> None:
    opened(page, address)
    plot = page.locator(".aa-plot")
    plot.focus()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_focused()
    for key in ("Tab", "Shift+Tab", "/", "ArrowDown"):
        page.keyboard.press(key)
        expect(dialog).to_be_focused()
    require_accessible(page)
    keep(page, "explorer-keys")
    page.keyboard.press(ends_by)
    expect(dialog).to_be_hidden()
    expect(plot).to_be_focused()
    button = page.get_by_role("button", name="Keyboard help of the timeline")
    button.press("Enter")
    expect(dialog).to_be_focused()
    page.keyboard.press(ends_by)
    expect(button).to_be_focused()


def test_every_value_of_a_facet_can_be_reached_by_keys(page: Page, many: Scope) -> None:
    traits = {"parts": ["facets", "code"], "lanes": "none"}
    with serving(ExplorerQuestions(many), "explorer", traits) as address:
        page.goto(address)
        users = page.locator(".aa-facet", has_text="User")
        more = users.get_by_role("button", name="more of User")
        expect(more).to_have_text("113 more")
        more.press("Enter")
        expect(users.locator(".aa-facet-value")).to_have_count(50)
        for shown, left in ((100, "20 more"), (120, "")):
            more.press("Enter")
            expect(users.locator(".aa-facet-value")).to_have_count(shown)
            if left:
                expect(more).to_have_text(left)
                expect(more).to_be_focused()
        expect(more).to_have_count(0)
        expect(users.locator(".aa-facet-value").last).to_be_focused()
        expect(page.locator(".aa-facets [role=status]")).to_have_text("120 values, 120 shown")
        names = users.locator(".aa-facet-value span").all_inner_texts()
        assert set(names) == {f"user-{n:02}" for n in range(120)}
        field = users.get_by_role("searchbox", name="Look for a value of User")
        field.press_sequentially("USER-11")
        expect(users.locator(".aa-facet-value")).to_have_count(11)
        expect(field).to_be_focused()
        expect(page.locator(".aa-facets [role=status]")).to_contain_text("found")
        require_accessible(page)
        keep(page, "explorer-facet")
        users.locator(".aa-facet-value", has_text="user-117").press("Enter")
        assert until(lambda: many.filter == Filter(user=("user-117",)))
        expect(users.locator(".aa-facet-value[aria-pressed=true]")).to_have_text("user-1171")
        expect(users.locator(".aa-facet-value")).to_have_count(11)
        expect(page.locator(".aa-x-title")).to_contain_text("1 of 120 commands")
        page.goto("about:blank")


def test_the_timeline_steps_through_errors_and_keeps_what_is_in_view(
    address: str, page: Page, scope: Scope
) -> None:
    opened(page, address)
    plot = page.locator(".aa-plot")
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("]")
    page.wait_for_function("() => document.querySelector('.aa-x-row.aa-active')")
    expect(page.locator(".aa-x-row.aa-active .aa-c-status")).to_have_text("error")
    first = selected(scope)
    page.keyboard.press("]")
    assert selected(scope, first) != first
    for _ in range(4):
        page.keyboard.press("+")
    page.keyboard.press("f")
    expect(page.locator(".aa-x-title")).to_contain_text("of 26 commands")
    assert until(lambda: scope.filter.since and scope.filter.until)
    page.keyboard.press("Escape")
    expect(page.locator(".aa-x-title")).not_to_contain_text("of 26 commands")
    assert until(lambda: scope.filter == Filter())


def test_a_wide_screen_has_its_timeline_too(address: str, page: Page) -> None:
    page.set_viewport_size({"width": 2400, "height": 900})
    opened(page, address)
    looked = "() => performance.getEntriesByName('agentaudit look').length"
    page.wait_for_function(looked)
    expect(page.locator(".aa-trouble")).to_be_hidden()


def test_lanes_have_the_names_of_what_is_in_them(address: str, page: Page) -> None:
    opened(page, address)
    page.get_by_label("Lanes").select_option("user")
    names = page.locator(".aa-lane-name span")
    expect(names).to_have_count(2)
    assert sorted(names.all_inner_texts()) == ["<img src=x onerror=alert(1)>", "copilot-7"]
    page.locator(".aa-timeline").get_by_role("button", name="Closer").click()
    keep(page, "explorer-lanes")


def test_what_was_recorded_to_be_obeyed_is_shown_as_it_is(address: str, page: Page) -> None:
    opened(page, address)
    facet(page, "<img src=x onerror=alert\\(1\\)>")
    expect(page.locator(".aa-x-tab[aria-selected=true]")).to_have_text("Commands 2")
    expect(page.locator(".aa-x-row .aa-c-text")).to_have_count(2)
    shown = " ".join(texts(page))
    assert "<script>window.pwned = 1</script>" in shown
    assert "\\u2066" in shown, "a character that turns the direction is written out"
    assert "\x1b" not in page.content()
    assert "\u202e" not in page.content()
    page.locator(".aa-x-tab", has_text="Sessions").click()
    expect(page.locator(".aa-x-row")).to_have_count(1)
    page.locator(".aa-x-row").click()
    page.keyboard.press("Enter")
    expect(page.locator(".aa-x-drawer .aa-who")).to_have_text("<img src=x onerror=alert(1)>")
    keep(page, "explorer-hostile")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_in_it_keeps_anybody_out(address: str, page: Page, theme: str) -> None:
    opened(page, address, theme)
    facet(page, "read")
    page.get_by_label("Lanes").select_option("session")
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
    require_accessible(page)
    keep(page, f"explorer-{theme}")
    page.locator(".aa-x-list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".aa-x-drawer .aa-detail .aa-statement")
    require_accessible(page)


@pytest.mark.parametrize(
    ("parts", "there"),
    [(["timeline"], ".aa-plot"), (["facets", "code"], ".aa-facet-value")],
    ids=["timeline", "filter"],
)
def test_a_part_works_alone(page: Page, scope: Scope, parts: list[str], there: str) -> None:
    scope.narrow(Filter())
    scope.select(None)
    traits = {"parts": parts, "lanes": "agent"}
    with serving(ExplorerQuestions(scope), "explorer", traits) as address:
        page.goto(address)
        page.wait_for_selector(there)
        expect(page.locator(".aa-x-title")).to_contain_text("26 commands")
        require_accessible(page)
        keep(page, f"explorer-{parts[0]}")
        page.goto("about:blank")
