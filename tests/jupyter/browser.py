"""JupyterLab in headless Chromium: a page that may reach this machine only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.jupyter.conftest import ROOT, Server

ARTIFACTS = ROOT / "artifacts"
AXE = ROOT / "extension" / "node_modules" / "axe-core" / "axe.min.js"
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
# A condition is waited for; how long says nothing on a machine with other work to do.
expect.set_options(timeout=SLOW_MS)

LOCAL = {"127.0.0.1", "localhost", "", None}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium for the block."""
    found = shutil.which("chromium")
    assert found is not None, "apt-get install chromium fonts-dejavu-core fonts-liberation"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=list(OPTIONS))


@contextmanager
def page_of(browser: Browser) -> Iterator[Page]:
    """Open a page for the block; what it asks of the world, and errors in it, fail the test."""
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(SLOW_MS)
    abroad: list[str] = []
    failures: list[str] = []

    def watch(route: Route) -> None:
        if urlsplit(route.request.url).hostname in LOCAL:
            route.continue_()
        else:
            abroad.append(route.request.url)
            route.abort()

    page.route("**/*", watch)
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    page.close()
    assert abroad == []
    assert failures == []


def open_lab(page: Page, server: Server, query: str = "") -> None:
    """Open JupyterLab in a fresh workspace, and our sidebar."""
    page.goto(f"{server.url}lab?reset&token={server.token}{query}")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("async () => { await window.jupyterapp.restored }")
    page.evaluate("() => window.jupyterapp.shell.activateById('agentaudit-sidebar')")
    page.wait_for_selector(".aal-sidebar .aal-archive")


def run(page: Page, command: str, arguments: str = "{}") -> None:
    """Run a command of JupyterLab's, without waiting for what it promises."""
    page.evaluate(f"() => {{ window.jupyterapp.commands.execute('{command}', {arguments}) }}")


def darken(page: Page) -> None:
    """Change to JupyterLab's dark theme."""
    run(page, "apputils:change-theme", "{ theme: 'JupyterLab Dark' }")
    page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")


def lighten(page: Page) -> None:
    """Change back to the light one."""
    run(page, "apputils:change-theme", "{ theme: 'JupyterLab Light' }")
    page.wait_for_selector("body[data-jp-theme-light='true']", state="attached")


def assert_accessible(page: Page, selector: str) -> None:
    """Fail where axe-core finds something serious or critical in what `selector` matches."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate(
        "async selector => (await axe.run(selector)).violations"
        ".filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => [one.id, ...one.nodes.map(node => node.html.slice(0, 160)"
        " + ' ' + (node.any[0]?.message ?? ''))])",
        selector,
    )
    assert found == []


def keep(page: Page, name: str) -> Path:
    """Keep a screenshot of the whole window."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    # What moves or fades would make two pictures of one state differ.
    page.screenshot(path=path, animations="disabled")
    return path
