"""What an archive keeps until when: held against what purging then does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import agentaudit as aa
from agentaudit.analysis.kept import DAYS, Kept, KeptLog, Target, kept
from agentaudit.archive.purge import plan
from agentaudit.archive.retention import DAY_US, FOR_EVER
from agentaudit.errors import QuestionError, SettingsError
from tests.archive.purging import apply, erase, facts, hmac_of, hold, recorded, release, talk
from tests.archive.recording import (
    GATEWAY,
    Site,
    SteppingClock,
    counted,
    new_site,
    record,
    retention,
    sealed_files,
    start,
)

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "archive"
SETTINGS = """\
[gateway]
name = "gw1"
archive = "{archive}"
origin = "audit.example.com"
keys = "{keys}"
[[retention]]
name = "short"
keep = "20d"
payload_keep = "5d"
[[target]]
name = "orders"
address = "127.0.0.1:5432"
database = "orders"
user = "app"
password_env = "SECRET"
retention = "short"
"""


class Now(SteppingClock):
    """As it steps, from a given time on."""

    def __init__(self, us: int) -> None:
        self.us = us


def at(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def ended(site: Site) -> int:
    """When the last session closed, by its events' own clock."""
    rows = aa.load(site.archive).sql("SELECT epoch_us(max(closed_at)) FROM sessions").fetchall()
    return int(rows[0][0])


def log_of(found: Kept) -> KeptLog:
    (log,) = found.logs
    assert log.problem == ""
    return log


def targets(found: Kept) -> dict[str, Target]:
    return {each.target: each for each in log_of(found).targets}


def settings(site: Site, folder: Path) -> Path:
    path = folder / "agentaudit.toml"
    path.write_text(SETTINGS.format(archive=site.archive, keys=site.keys))
    return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return new_site(tmp_path / "site")


@pytest.fixture
def recent(site: Site) -> tuple[Site, int]:
    """Sessions of three targets that closed on one day, and the time when they had."""
    clock = Now(1_793_700_000_000_000)
    policy = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 60})

    async def run() -> None:
        recorder = await start(site, policy=policy, clock=clock)
        for name, target in (("ana", "orders"), ("bob", "orders"), ("eve", "billing")):
            talk(recorder, name, target)
        talk(recorder, "zoe", "other")
        await counted(recorder)
        await recorder.stop()

    asyncio.run(run())
    return site, ended(site)


def test_the_sample_says_what_is_kept_of_its_targets_what_is_held_and_what_went() -> None:
    log = log_of(kept(aa.load(SAMPLE)))
    targets = {each.target: each for each in log.targets}
    assert {"orders", "crm"} <= set(targets)
    assert all(each.sessions > 0 and each.bytes > 10_000 for each in targets.values())
    assert any(each.keep.keep_us is not None for each in targets.values())
    assert len(log.holds) == 2, "three were set, one was released"
    assert log.purges


def test_each_target_says_how_long_it_is_kept_and_on_which_day_it_is_due(
    recent: tuple[Site, int],
) -> None:
    site, end_us = recent
    found = targets(kept(aa.load(site.archive), at=at(end_us + DAY_US)))
    orders, billing, other = found["orders"], found["billing"], found["other"]
    assert orders.keep.keep_us == 30 * DAY_US
    assert orders.kept_as == "orders"
    assert (orders.sessions, billing.sessions, other.sessions) == (2, 1, 1)
    assert orders.due.sessions[29] == 2
    assert (orders.due.within(28), orders.due.within(29)) == ((0, 0), (2, 0))
    assert orders.due.bytes[29] == orders.bytes > 0
    assert billing.due.payloads[59] == 1
    assert billing.due.within(DAYS) == (0, 1)
    assert billing.first_us is not None
    assert other.keep == FOR_EVER
    assert other.first_us is None


@pytest.mark.parametrize("offset_us", [-1, 0, 1])
def test_due_is_what_a_plan_would_purge_at_that_time(
    recent: tuple[Site, int], offset_us: int
) -> None:
    site, _ = recent
    first_us = targets(kept(aa.load(site.archive), at="2026-01-01"))["orders"].first_us
    assert first_us is not None
    now_us = first_us + offset_us
    found = kept(aa.load(site.archive), at=at(now_us))
    assert found.at_us == now_us
    planned = plan(site.layout, GATEWAY, now_us)["totals"]["sessions"]["sessions"]
    assert targets(found)["orders"].due.sessions[0] == planned == (0 if offset_us < 0 else 1)


def test_sizes_add_up_to_about_the_files(recent: tuple[Site, int]) -> None:
    site, _ = recent
    sizes = sum(each.bytes for each in log_of(kept(aa.load(site.archive))).targets)
    files = sum(
        path.stat().st_size
        for table in ("events", "commands", "sessions", "decisions", "blobs", "access")
        for path in sealed_files(site, table)
    )
    assert 0.4 * files < sizes <= files


def test_what_a_replaced_policy_promised_counts_until_its_notice_is_over(
    recent: tuple[Site, int],
) -> None:
    site, end_us = recent
    longer = targets(kept(aa.load(site.archive), at=at(end_us)))["orders"]
    record(site, policy=retention(orders={"keep": 1}))  # dated by the real clock
    entry = [e for e in site.log_entries() if e["type"] == "policy"][-1]
    now = at(entry["at"] + DAY_US)
    target = targets(kept(aa.load(site.archive), at=now))["orders"]
    until_us = entry["at"] + 7 * DAY_US
    assert target.promised_until_us == until_us
    assert target.keep.keep_us == longer.keep.keep_us == 30 * DAY_US
    # Due when the notice is over, or after 30 days, whichever is first.
    assert longer.first_us is not None
    assert target.first_us == max(entry["at"] + DAY_US, min(until_us, longer.first_us))
    after = targets(kept(aa.load(site.archive), at=at(until_us)))["orders"]
    assert after.keep.keep_us == DAY_US
    assert after.promised_until_us is None


def test_held_sessions_are_due_on_no_day_and_say_by_which_hold(recent: tuple[Site, int]) -> None:
    site, end_us = recent
    held = hold(site, target="orders")
    log = log_of(kept(aa.load(site.archive), at=at(end_us + 100 * DAY_US)))
    orders = next(each for each in log.targets if each.target == "orders")
    assert (orders.held, log.held_count) == (2, 2)
    assert orders.due.within(DAYS) == (0, 0)
    assert [holds for _, holds in log.held] == [(held,), (held,)]
    (told,) = log.holds
    assert (told.sessions, told.due) == (2, 2)
    assert (told.hold.authority, told.hold.reason) == ("court", "case 8")
    release(site, held)
    log = log_of(kept(aa.load(site.archive), at=at(end_us + 100 * DAY_US)))
    assert (log.holds, log.held_count) == ([], 0)
    assert next(t for t in log.targets if t.target == "orders").due.within(0) == (2, 0)


def test_a_hold_on_a_user_is_counted_only_with_the_people_key(
    recent: tuple[Site, int], tmp_path: Path
) -> None:
    site, _ = recent
    hold(site, user=hmac_of(site, "ana"))
    (told,) = log_of(kept(aa.load(site.archive))).holds
    assert told.sessions is None
    log = log_of(kept(aa.load(site.archive), settings=settings(site, tmp_path)))
    assert log.people
    assert [each.sessions for each in log.holds] == [1]
    assert log.held_count == 1


def test_purges_are_told_with_the_files_before_and_after_and_the_root_that_stays(
    site: Site,
) -> None:
    recorded(site)
    seals = {e["segment"]: e for e in site.log_entries() if e["type"] == "seal"}
    apply(site)
    entries = site.log_entries()
    log = log_of(kept(aa.load(site.archive)))
    assert log.purge_count == len(log.purges) == sum(e["type"] == "purge_intent" for e in entries)
    for purge in log.purges:
        assert purge.is_done
        assert entries[purge.entry]["purge"] == purge.purge
        listed = site.layout.purge(purge.purge).read_bytes()
        assert sha256(listed).hexdigest() == purge.list_sha256
        assert purge.rows == sum(part.rows for part in purge.parts) > 0
        for part in purge.parts:
            assert entries[part.entry]["type"] == "purge_done"
            assert part.root == seals[part.segment]["root"]
            assert part.before != part.after
    first = log.purges[0].parts[0]
    assert first.before == seals[first.segment]["files"]
    last = {part.segment: part.after for purge in log.purges for part in purge.parts}
    for files in last.values():
        for file in files.values():
            content = (site.archive / file["path"]).read_bytes()
            assert sha256(content).hexdigest() == file["sha256"]


def test_an_erasure_is_told_by_its_decision(site: Site) -> None:
    ids = recorded(site)
    erase(site, {"session": str(ids["ana"])})
    (purge,) = log_of(kept(aa.load(site.archive))).purges
    assert purge.basis == "decision"
    assert purge.decision is not None
    assert purge.sessions == 1


def test_settings_say_what_they_would_change_and_when(
    recent: tuple[Site, int], tmp_path: Path
) -> None:
    site, _ = recent
    path = settings(site, tmp_path)
    # As of now by the log's clock, so that the policy in force keeps its notice.
    now_us = max(entry["at"] for entry in site.log_entries()) + 1
    found = kept(aa.load(site.archive), settings=path, at=at(now_us))
    assert found.settings == "agentaudit.toml"
    assert found.changes
    orders, billing = targets(found)["orders"], targets(found)["billing"]
    assert orders.after is not None
    assert orders.after.kept_as == "short"
    assert orders.after.says.keep_us == 20 * DAY_US
    assert orders.after.says.payload_us == 5 * DAY_US
    # The policy before it has a say for seven days more.
    assert orders.after.keep.keep_us == 30 * DAY_US
    assert orders.after.promised_until_us == now_us + 7 * DAY_US
    assert orders.after.first_us is not None
    assert orders.first_us is not None
    assert orders.after.first_us >= min(now_us + 7 * DAY_US, orders.first_us)
    # A target that they do not name is kept for ever.
    assert billing.after is not None
    assert billing.after.says.keep_us is None
    assert billing.after.due.within(DAYS) == (0, 0)


def test_settings_that_say_the_same_change_nothing(site: Site, tmp_path: Path) -> None:
    path = settings(site, tmp_path)
    record(site, policy=retention(orders={"keep": 20, "payload_keep": 5}))
    assert kept(aa.load(site.archive), settings=path).changes is False


@pytest.mark.parametrize("wrong", ["no time", 7])
def test_a_time_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(QuestionError, match="time"):
        kept(aa.load(SAMPLE), at=wrong)


def test_settings_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        kept(aa.load(SAMPLE), settings=tmp_path / "none.toml")


def test_what_was_damaged_is_told_as_a_problem_of_its_log(recent: tuple[Site, int]) -> None:
    site, _ = recent
    case = aa.load(site.archive)
    (path,) = sealed_files(site, "sessions")
    path.write_bytes(b"PAR1 nothing PAR1")
    with patch("agentaudit.analysis.kept._counted", return_value={}):  # DuckDB says so by itself
        (log,) = kept(case).logs
    assert log.problem
    assert log.policies


def test_live_sessions_are_told_as_not_sealed(site: Site) -> None:
    async def run() -> int | None:
        recorder = await start(site)
        try:
            recorder.open_session(facts("ana"))
            await counted(recorder)
            return log_of(kept(aa.load(site.archive))).unsealed
        finally:
            await recorder.stop()

    assert asyncio.run(run()) == 1
