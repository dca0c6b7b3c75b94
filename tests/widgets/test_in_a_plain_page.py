"""Widgets where there is no JupyterLab: their own colours, beside each other, and for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import agentaudit as aa
from agentaudit.widgets import MaskingPreview, Replay
from agentaudit.widgets.view import View
from tests.analysis.recording import Recorded
from tests.analysis.terminals import Shell
from tests.analysis.terminals import record as record_terminals
from tests.widgets import test_in_jupyterlab
from tests.widgets.plain_page import draw, sheet

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180), pytest.mark.xdist_group("browser")]

browser = test_in_jupyterlab.browser

AXE = Path(__file__).resolve().parents[2] / "extension/node_modules/axe-core/axe.min.js"
RULES = '[[mask]]\nname = "addresses"\ncolumns = ["email"]\ndetect = ["email"]\n'
# Of a table or a list its first rows are enough.
LOOKS = """\
root => {
  const more = ":is(tr, .aa-pair, .aa-row):nth-child(n + 4)";
  return [...root.querySelectorAll(`*:not(${more}, ${more} *)`)].map(node => {
    const style = getComputedStyle(node);
    const names = [...style].filter(name => !name.startsWith("--"));
    return [node.className, ...names.map(name => `${name}: ${style.getPropertyValue(name)}`)];
  });
}
"""


def replay_of(recorded: Recorded) -> View:
    return Replay(aa.load(recorded.path), recorded.sessions[0], command=5)


def masks_of(recorded: Recorded) -> View:
    return MaskingPreview(aa.load(recorded.path), RULES)


def the_replay(page: Page, recorded: Recorded) -> Locator:
    view = draw(page, replay_of(recorded), "replay")
    expect(view.locator(".aa-grid tbody tr").first).to_be_visible()
    expect(view.locator(".aa-row-sql").first).not_to_be_empty()
    return view


def the_masks(page: Page, recorded: Recorded) -> Locator:
    view = draw(page, masks_of(recorded), "masking-preview")
    expect(view.locator(".aa-pair[role='listitem']").first).to_be_visible()
    return view


VIEWS = {"replay": the_replay, "masking-preview": the_masks}


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a reader who prefers light, or dark."""
    scheme: Literal["light", "dark"] = request.param
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme=scheme)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    page.close()
    assert failures == []


def serious(page: Page) -> list[Any]:
    """Return what axe-core finds that is serious, or worse, each with its elements."""
    found = page.evaluate("() => axe.run('#root', { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


def test_everybody_can_use_a_replay(page: Page, recorded: Recorded) -> None:
    view = the_replay(page, recorded)
    page.add_script_tag(path=AXE)
    assert serious(page) == []
    view.locator(".aa-list").focus()
    for key in ("End", "[", "?"):  # an error, a change that did not last, the help
        page.keyboard.press(key)
        expect(view.locator(".aa-detail.aa-waiting")).to_have_count(0)
        assert serious(page) == []
    view.get_by_label("Jump to command number").fill("99999")
    page.keyboard.press("Enter")
    expect(view.locator(".aa-trouble")).to_contain_text("99999")
    assert serious(page) == []


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A shell in which somebody looked around, with much that is painted."""
    shell = Shell((80, 16)).says("\x1b[1;32magent@host-1\x1b[0m:\x1b[34m~\x1b[0m$ ")
    shell.says("ls").says("\r\n")
    for kind in (30, 40):
        shell.says("".join(f"\x1b[{kind + n}m {kind + n} \x1b[0m" for n in range(8)) + "\r\n", 1)
    shell.says("\x1b[7mreverse\x1b[0m \x1b[8mhidden\x1b[0m \x1b[9mstruck\x1b[0m 日本\r\n")
    shell.says("key [masked:aws_key] end\r\n", rule="aws_key").gateway_says("waits", 60_000_000)
    shell.says("<img src=x onerror=alert(1)> \u202eevil\r\n$ ").resizes(70, 14, 3_000_000).exits(0)
    return record_terminals(tmp_path_factory.mktemp("shells"), [shell])


def test_everybody_can_see_what_stood_on_a_terminal(page: Page, shells: Recorded) -> None:
    view = draw(page, Replay(aa.load(shells.path), shells.sessions[0]), "replay")
    screen = view.locator(".aa-t-screen[aria-busy=false]")
    expect(screen).to_contain_text("<img src=x onerror=alert(1)> \\u202eevil")
    expect(view.locator(".aa-terminal")).to_contain_text("xterm-256color, 70×14")
    expect(screen.locator(".aa-t-masked")).to_have_text("[masked:aws_key]")
    expect(screen.locator(".aa-t-ours")).to_have_text("agentaudit: waits")
    assert screen.locator("img").count() == 0
    page.add_script_tag(path=AXE)
    assert serious(page) == []
    # What is found is a place to go to: there the screen is as it was.
    view.get_by_label("Find on the screen").fill("AGENT@HOST-1:~$ LS")
    page.keyboard.press("Enter")
    expect(view.locator(".aa-t-hit")).to_have_text(["+00:00:00.200 agent@host-1:~$ ls"])
    assert serious(page) == []
    view.locator(".aa-t-hit").click()
    expect(screen).not_to_contain_text("masked")
    expect(view.locator(".aa-terminal")).to_contain_text("xterm-256color, 80×16")
    # A minute in which nothing happens is passed over, and a pause stands still.
    view.get_by_label("Speed").select_option("4")
    view.get_by_role("button", name="Play", exact=True).click()
    expect(screen).to_contain_text("agentaudit: waits", timeout=15_000)
    view.get_by_role("button", name="Pause", exact=True).click()
    expect(screen).to_contain_text("agentaudit: waits")
    slider = view.get_by_role("slider", name="Time on the terminal")
    slider.fill("200")
    expect(screen).not_to_contain_text("agentaudit: waits")
    expect(slider).to_have_attribute("aria-valuetext", "+00:00:00.200")
    slider.press("End")
    expect(screen).to_contain_text("agentaudit: waits")


def test_everybody_can_use_a_masking_preview(page: Page, recorded: Recorded) -> None:
    view = the_masks(page, recorded)
    page.add_script_tag(path=AXE)
    for tab in ("What is hidden", "Perhaps wrongly", "Not covered", "Columns", "Difference"):
        view.get_by_role("tab", name=tab).click()
        expect(view.locator(".aa-panel.aa-waiting")).to_have_count(0)
        assert serious(page) == [], tab
    view.get_by_label("Rules, as TOML").fill("[[mask]\n")
    page.keyboard.press("Control+Enter")
    expect(view.locator(".aa-problem")).to_be_visible()
    assert serious(page) == []


@pytest.mark.parametrize(
    ("name", "other"), [("replay", "masking-preview"), ("masking-preview", "replay")]
)
def test_a_view_looks_the_same_beside_another(
    page: Page, recorded: Recorded, name: str, other: str
) -> None:
    view = VIEWS[name](page, recorded)
    page.mouse.move(0, 0)
    alone = view.evaluate(LOOKS)
    page.add_style_tag(content=sheet(other))
    beside = view.evaluate(LOOKS)
    assert [each for each in zip(alone, beside, strict=True) if each[0] != each[1]] == []
    assert len(alone) > 100


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_outside_of_a_theme_is_as_light_or_dark_as_its_reader_prefers(
    page: Page, recorded: Recorded, name: str
) -> None:
    view = VIEWS[name](page, recorded)
    is_dark = page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    papers = {"dark": "rgb(22, 24, 28)", "light": "rgb(255, 255, 255)"}
    expect(view).to_have_css("background-color", papers["dark" if is_dark else "light"])
    # A theme that says what it is wins over what the reader prefers elsewhere.
    page.evaluate(
        f"() => document.body.setAttribute('data-jp-theme-light', '{str(is_dark).lower()}')"
    )
    expect(view).to_have_css("background-color", papers["light" if is_dark else "dark"])
