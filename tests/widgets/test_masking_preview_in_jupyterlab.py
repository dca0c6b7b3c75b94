"""The masking preview in a real JupyterLab, in headless Chromium, as a compliance officer sees it.

Screenshots are kept in `artifacts/` at the checkout's root.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from agentaudit.widgets.notebooks import place_notebook
from tests.widgets import test_in_jupyterlab
from tests.widgets.conftest import ARTIFACTS, Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

browser = test_in_jupyterlab.browser
page = test_in_jupyterlab.page

NOTEBOOK = "03-masking.ipynb"
SLOW_MS = test_in_jupyterlab.SLOW_MS


def open_and_run(page: Page, lab: Lab) -> Locator:
    """Open the notebook in JupyterLab, run all of it, and return the preview in it."""
    place_notebook(lab.folder / "archive", NOTEBOOK)
    page.goto(lab.address(NOTEBOOK))
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("async () => { await window.jupyterapp.restored }")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.isReady")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    preview = page.locator(".aa-masks")
    # Lab draws only what is near the window, so it must be looked for.
    for _ in range(60):
        if preview.count():
            break
        page.locator(".jp-WindowedPanel-outer").evaluate("node => node.scrollBy(0, 500)")
        page.wait_for_timeout(500)
    expect(preview.locator(".aa-pair").first).to_be_visible(timeout=SLOW_MS)
    preview.scroll_into_view_if_needed()
    return preview


def keep(page: Page, preview: Locator, name: str) -> None:
    """Keep two screenshots: of the whole window, and of the preview alone."""
    ARTIFACTS.mkdir(exist_ok=True)
    preview.scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"{name}.png")
    preview.screenshot(path=ARTIFACTS / f"{name}-preview.png")


def test_a_compliance_officer_tries_rules_in_jupyterlab(page: Page, lab: Lab) -> None:
    preview = open_and_run(page, lab)

    # Before and after, side by side; and what it is that is seen.
    first = preview.locator(".aa-pair[role='listitem']").first
    expect(first.locator(".aa-hidden-part")).not_to_be_empty()
    expect(first.locator(".aa-made")).not_to_be_empty()
    expect(preview.locator(".aa-banner")).to_contain_text("as they were recorded")
    keep(page, preview, "jupyterlab-masking")

    # By keyboard from tab to tab, to what is not covered.
    preview.get_by_role("tab", name="What is hidden").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(preview.get_by_role("tab", name="Not covered")).to_be_focused()
    expect(preview.locator(".aa-panel")).to_contain_text("customers.full_name")
    keep(page, preview, "jupyterlab-masking-not-covered")

    # Rules are edited, or added at a click, and tried; the kernel says what is wrong with them.
    editor = preview.get_by_label("Rules, as TOML")
    rules = editor.input_value()
    editor.fill(rules.replace('detect = ["secrets"]', 'detekt = ["secrets"]'))
    editor.press("Control+Enter")
    expect(preview.locator(".aa-problem")).to_contain_text("the nearest is detect")
    keep(page, preview, "jupyterlab-masking-wrong")
    editor.fill(rules)
    before = preview.locator(".aa-figure.aa-hide b").text_content() or ""
    preview.get_by_label("add a rule for customers.line phone").click()
    expect(editor).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(preview.locator(".aa-figure.aa-hide b")).not_to_have_text(before, timeout=SLOW_MS)
    expect(preview.locator(".aa-problem")).to_be_hidden()

    # The difference says what they hide that the first ones did not.
    preview.get_by_role("tab", name="Difference").click()
    expect(preview.locator(".aa-part").first).to_contain_text("Hidden only now", timeout=SLOW_MS)
    keep(page, preview, "jupyterlab-masking-difference")

    # A bar is a filter, and the list has pages.
    preview.get_by_role("group", name="By column").get_by_role("button").first.click()
    expect(preview.locator(".aa-chip")).to_have_count(1)
    preview.get_by_label("Last page").click()
    total = (preview.locator(".aa-range").text_content() or "").rpartition(" ")[2]
    expect(preview.locator(".aa-range")).to_contain_text(f"–{total} of {total}")
    preview.get_by_role("tab", name="Columns").click()
    expect(preview.locator(".aa-table")).to_contain_text("customers.ssn")

    # Keys that would delete a cell in JupyterLab stay in the preview.
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells

    preview.get_by_role("tab", name="What is hidden").click()
    page.evaluate(
        "() => window.jupyterapp.commands.execute("
        "'apputils:change-theme', { theme: 'JupyterLab Dark' })"
    )
    page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    expect(preview.locator(".aa-pair").first).to_be_visible()
    keep(page, preview, "jupyterlab-masking-dark")

    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
