"""Integrity and retention in headless Chromium, without Jupyter: as a compliance officer sees them.

Screenshots are kept in `artifacts/` at the checkout's root.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Locator, Page, expect

import agentaudit as aa
from agentaudit.archive.drill.machine import write_log
from agentaudit.archive.log import read_log
from agentaudit.archive.note import Checkpoint, Signer, sign_note
from agentaudit.archive.retention import DAY_US
from agentaudit.widgets.integrity import IntegrityQuestions
from agentaudit.widgets.retention_report import RetentionQuestions
from tests.analysis.test_kept import settings
from tests.archive.purging import KEEP, apply, hold, recorded, talk
from tests.archive.recording import (
    GATEWAY,
    Site,
    SteppingClock,
    counted,
    crashed,
    new_site,
    record,
    recover,
    retention,
    sealed_files,
    start,
)
from tests.widgets import test_in_jupyterlab
from tests.widgets.conftest import SAMPLE
from tests.widgets.page import keep, require_accessible, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

browser = test_in_jupyterlab.browser
page = test_in_jupyterlab.page

Made = TypeVar("Made")

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
BEGIN_US = 1_793_700_000_000_000  # 2026-11-03 10:00:00 UTC
SLOW_MS = test_in_jupyterlab.SLOW_MS


@dataclass(frozen=True)
class Story:
    """An archive of some days, and a checkpoint of it that was kept outside meanwhile."""

    site: Site
    since: str
    exposed: int


def spread(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a log's entries over days: each run lasts hours, and says so now and then.

    Once, in the fifth run, it says nothing for an hour.
    """
    at_us, run, told = BEGIN_US, 0, []
    for number, entry in enumerate(entries):
        if entry["type"] == "key_epoch":
            at_us += (7 + 5 * (run % 3)) * HOUR_US
        elif entry["type"] == "start":
            run += 1
        elif entry["type"] == "seal" and entries[number - 1]["type"] != "recovery":
            for beat in range(60 + 25 * (run % 4)):
                at_us += HOUR_US if (run, beat) == (5, 40) else 4 * MINUTE_US
                beats = {"type": "heartbeat", "next_event": entry["first_event"] + entry["n"]}
                told.append(beats | {"at": at_us})
        at_us += SECOND_US
        told.append(entry | {"at": at_us})
    return told


def elsewhere(make: Callable[[Path], Made], folder: Path) -> Made:
    """Call `make` in another thread: the browser has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make, folder).result()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return elsewhere(told, tmp_path_factory.mktemp("story"))


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return elsewhere(with_purges, tmp_path_factory.mktemp("purged"))


def told(folder: Path) -> Story:
    site = new_site(folder / "site")
    epochs: list[Signer] = []

    def step(do: Any, *args: Any, **options: Any) -> None:
        do(site, *args, **options)
        epochs.append(site.machine.epoch_key(GATEWAY))

    step(record, sessions=2, commands=3, policy=retention(orders={"keep": 365}))
    step(record, sessions=1, commands=2)
    step(crashed)
    step(recover)
    step(record, sessions=3, commands=2)
    step(hold, target="orders")
    step(record, sessions=1, commands=4)
    step(record, sessions=2, commands=2)
    write_log(site.machine, GATEWAY, spread(site.log_entries()), site.signer, epochs)

    entries = site.log_entries()
    seals = [number for number, entry in enumerate(entries) if entry["type"] == "seal"]
    size = seals[-2] + 1
    log = read_log(site.layout.log(GATEWAY), [])
    note = sign_note(
        Checkpoint(log.checkpoint.origin, size, log.root_at(size)).text(), [site.signer]
    )
    return Story(site, note.decode(), entries[seals[-1]]["n"])


def with_purges(folder: Path) -> Site:
    site = new_site(folder / "site")
    ids = recorded(site)
    hold(site, session=str(ids["bob"]))
    apply(site)
    asyncio.run(over_weeks(site))
    return site


async def over_weeks(site: Site) -> None:
    """Record sessions from 20 November 2023 on, by a clock that leaps."""
    clock = SteppingClock()
    clock.us += 6 * DAY_US
    recorder = await start(site, policy=KEEP, clock=clock)
    for number in range(40):
        talk(recorder, "ana", "orders" if number % 3 else "billing")
        clock.us += (3 + 11 * (number % 4)) * HOUR_US
    await counted(recorder)
    await recorder.stop()


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def show(page: Page, address: str, theme: str, panel: str) -> Locator:
    page.set_viewport_size({"width": 1280, "height": 1100})
    page.goto(f"{address}?theme={theme}")
    return page.locator(f".aa-{panel}")


def test_an_archive_that_is_whole_is_verified_with_its_exposure_window(
    page: Page, story: Story, theme: str
) -> None:
    asked = IntegrityQuestions(aa.load(story.site.archive), key=story.site.vkey, since=story.since)
    with serving(asked, "integrity") as address:
        panel = show(page, address, theme, "integrity")
        expect(panel.locator(".aa-word")).to_have_text("Verified", timeout=SLOW_MS)
        expect(panel.locator(".aa-loud")).to_be_hidden()
        window = panel.locator(".aa-exposure")
        expect(window).to_contain_text(f"with {story.exposed} events since the given checkpoint")
        expect(panel.locator(".aa-exposed")).to_be_attached()

        # A crash, a silence and the times when it was stopped are gaps.
        expect(panel.locator(".aa-gap-crashed")).to_have_count(1)
        expect(panel.locator(".aa-gap-silent")).to_have_count(1)
        expect(panel.locator(".aa-gap-silent")).to_have_attribute(
            "title", "silent: no sign of life for over five minutes, for 1 h 0 m"
        )
        expect(panel.locator(".aa-entry-hold")).to_have_count(1)

        # By keyboard along the strip: one stop for Tab, arrows move, details follow.
        marks = panel.locator(".aa-lanes .aa-mark")
        assert panel.locator(".aa-lanes .aa-mark[tabindex='0']").count() == 1
        panel.locator(".aa-lanes .aa-mark[tabindex='0']").focus()
        page.keyboard.press("Home")
        first = panel.locator(".aa-strip-detail").text_content()
        page.keyboard.press("ArrowRight")
        assert panel.locator(".aa-strip-detail").text_content() != first
        assert marks.count() > 20
        panel.locator(".aa-mark-segment").nth(1).click()
        panel.get_by_role("button", name="Files and digests").click()
        expect(panel.locator(".aa-strip-detail")).to_contain_text("sha256sum -c")
        require_accessible(page)
        keep(panel, f"integrity-verified-{theme}")

        # Deeply, at a click; nothing is claimed of it before its end.
        panel.get_by_role("button", name="Check deeply").click()
        expect(panel.locator(".aa-why")).to_contain_text("every row hashes", timeout=SLOW_MS)
        panel.get_by_role("tab", name="Exposure").click()
        expect(panel.locator(".aa-panel")).to_contain_text("given checkpoint")
        page.keyboard.press("ArrowRight")
        expect(panel.get_by_role("tab", name="Verify without us")).to_be_focused()
        expect(panel.locator(".aa-panel")).to_contain_text("openssl pkeyutl -verify")
        checkpoint = story.site.layout.checkpoint(GATEWAY).read_text()
        expect(panel.get_by_role("region", name="checkpoint of gw1").first).to_have_text(checkpoint)
        require_accessible(page)
        keep(panel, f"integrity-without-us-{theme}")


def test_a_tampered_archive_says_which_check_failed_where_and_what_to_do(
    page: Page, story: Story, theme: str, tmp_path: Path
) -> None:
    site = story.site.copy_to(tmp_path / "tampered")
    path = sealed_files(site, "events")[2]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (site.archive / "heads" / "<img src=x onerror=alert(1)>\u202e").write_text("stray")
    asked = IntegrityQuestions(aa.load(site.archive), key=site.vkey)
    with serving(asked, "integrity") as address:
        panel = show(page, address, theme, "integrity")
        expect(panel.locator(".aa-word")).to_have_text("Not verified", timeout=SLOW_MS)
        finding = panel.locator(".aa-finding", has_text=path.stem)
        expect(finding.locator(".aa-check-name")).to_have_text("file")
        expect(finding).to_contain_text("not the one that was sealed")
        expect(finding).to_contain_text("To do:")
        expect(panel.locator(".aa-mark-segment.aa-is-bad")).to_have_count(1)
        finding.get_by_role("button", name="Show").click()
        expect(panel.locator(".aa-strip-detail")).to_contain_text(path.stem)
        stray = panel.locator(".aa-finding", has_text="onerror")
        expect(stray).to_contain_text("<img src=x onerror=alert(1)>\\u202e")
        assert page.locator(".aa-view img").count() == 0
        require_accessible(page)
        keep(panel, f"integrity-tampered-{theme}")


def test_made_up_time_and_a_missing_key_are_said_loudly(page: Page, purged: Site) -> None:
    with serving(IntegrityQuestions(aa.load(purged.archive)), "integrity") as address:
        panel = show(page, address, "light", "integrity")
        expect(panel.locator(".aa-word")).to_have_text("Could not tell", timeout=SLOW_MS)
        expect(panel.locator(".aa-why")).to_contain_text("no key from outside the archive")
        expect(panel.locator(".aa-loud")).to_contain_text("Made-up time")
        expect(panel.locator(".aa-loud")).to_contain_text(GATEWAY)
        assert panel.locator(".aa-entry-purge").count() > 0
        require_accessible(page)
        keep(panel, "integrity-could-not-tell")


def test_a_retention_report_says_what_goes_what_is_held_and_what_went(
    page: Page, purged: Site, theme: str, tmp_path: Path
) -> None:
    # Some are due by then, some later, and some never.
    when = "2023-12-24T12:00:00Z"
    asked = RetentionQuestions(aa.load(purged.archive), settings(purged, tmp_path), at=when)
    with serving(asked, "retention-report") as address:
        panel = show(page, address, theme, "retention")
        expect(panel.locator(".aa-title")).to_contain_text("as of 2023-12-24 12:00:00Z")
        row = panel.get_by_role("row").filter(has=page.get_by_role("button", name="orders"))
        expect(row).to_contain_text("30 days")
        (log,) = asked.kept.logs
        orders = next(each for each in log.targets if each.target == "orders")
        assert orders.due.within(0)[0] > 0
        for days in (0, 7, 30, 90):
            expect(
                row.get_by_role("cell", name=str(orders.due.within(days)[0])).first
            ).to_be_visible()
        expect(panel.locator("svg[role='img']").first).to_be_visible()
        panel.get_by_role("button", name="other", exact=True).click()
        expect(panel.locator(".aa-panel")).to_contain_text("nothing is ever due")
        panel.get_by_role("button", name="other", exact=True).click()
        require_accessible(page)
        keep(panel, f"retention-next-{theme}")

        panel.get_by_role("tab", name="What goes next").focus()
        page.keyboard.press("ArrowRight")
        held = panel.locator(".aa-hold")
        expect(held).to_contain_text("case 8")
        expect(held).to_contain_text("court")
        expect(held).to_contain_text("os:test")
        expect(held).to_contain_text("1 session now")
        require_accessible(page)

        page.keyboard.press("ArrowRight")
        first = panel.locator(".aa-purge").first
        first.get_by_role("button", name="Proof").click()
        expect(first).to_contain_text("Root, before and after")
        expect(first).to_contain_text("sha256sum -c")
        require_accessible(page)
        keep(panel, f"retention-purged-{theme}")

        panel.get_by_role("tab", name="With the settings given").click()
        expect(panel.locator(".aa-panel")).to_contain_text("20 days instead of 30 days")
        require_accessible(page)
        keep(panel, f"retention-change-{theme}")
        assert "secret of" not in page.content()


def test_a_panel_that_is_taken_away_asks_no_more(page: Page) -> None:
    with serving(IntegrityQuestions(aa.load(SAMPLE)), "integrity") as address:
        panel = show(page, address, "light", "integrity")
        expect(panel.locator(".aa-word")).to_have_text("Could not tell", timeout=SLOW_MS)
        page.evaluate("() => window.leave()")
        expect(panel).to_have_count(0)
