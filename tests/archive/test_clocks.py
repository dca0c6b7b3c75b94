"""A scripted clock: one time for a gateway, its sealer and its control API; no setting has one."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive.clocks import ScriptedClock, SystemClock
from agentaudit.archive.verify import verify
from agentaudit.errors import SettingsError
from agentaudit.settings.whole import Settings
from tests.archive.recording import ANA, exchange, new_site, start

US = 1_000_000
MONDAY = datetime(2026, 10, 26, 9, tzinfo=UTC)
MONDAY_US = round(MONDAY.timestamp() * US)


def test_it_says_the_scripted_time_to_whoever_has_its_file(tmp_path: Path) -> None:
    clock = ScriptedClock.set_up(tmp_path / "clock", MONDAY_US)
    other = ScriptedClock(tmp_path / "clock")
    assert 0 <= clock.now_us() - MONDAY_US < 60 * US
    mono_ns = other.mono_ns()
    clock.move(3600 * US)
    assert 0 <= other.now_us() - MONDAY_US - 3600 * US < 60 * US
    assert 0 <= other.mono_ns() - mono_ns - 3600 * US * 1000 < 60 * US * 1000


def test_between_moves_it_runs_as_the_machines_clock_does(tmp_path: Path) -> None:
    clock = ScriptedClock.set_up(tmp_path / "clock", MONDAY_US)
    before_ns, scripted_ns = time.monotonic_ns(), clock.mono_ns()
    assert scripted_ns >= before_ns
    ahead_us = SystemClock().now_us() - clock.now_us()
    assert abs(SystemClock().now_us() - clock.now_us() - ahead_us) < 60 * US


def test_it_never_goes_back(tmp_path: Path) -> None:
    clock = ScriptedClock.set_up(tmp_path / "clock", MONDAY_US)
    with pytest.raises(ValueError, match="ahead only"):
        clock.move(-1)


def test_a_file_that_is_not_there_is_no_clock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="clock"):
        ScriptedClock(tmp_path / "clock")


def test_the_sealer_dates_what_it_signs_by_the_recorders_clock(tmp_path: Path) -> None:
    clock = ScriptedClock.set_up(tmp_path / "clock", MONDAY_US)
    site = new_site(tmp_path / "site")

    async def run() -> None:
        recorder = await start(site, clock=clock)
        session = recorder.open_session(ANA)
        exchange(session, 0, "select 1")
        clock.move(round(timedelta(days=3).total_seconds()) * US)
        session.close("client")
        await recorder.stop()

    asyncio.run(run())
    entries = site.log_entries()
    times = [entry["at"] for entry in entries]
    assert times == sorted(times)
    assert 0 <= times[0] - MONDAY_US < 3600 * US
    assert 0 <= times[-1] - MONDAY_US - 3 * 86_400 * US < 3600 * US
    (seal,) = (entry for entry in entries if entry["type"] == "seal")
    assert (entries[0]["clock"], seal["clock"]) == ("scripted", "scripted")
    assert seal["last_at"] - seal["first_at"] >= 3 * 86_400 * US
    verification = verify(site.archive, key=site.vkey, deep=True, remember=False)
    assert verification.ok
    assert verification.scripted_clocks == ["gw1"]


@pytest.mark.parametrize("table", ["gateway", "listen", "limits"])
def test_no_setting_names_a_clock(table: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"gateway": {"name": "gw1", "origin": "audit.test"}}
    given.setdefault(table, {})["clock"] = "scripted"
    with pytest.raises((SettingsError, ValueError), match="clock"):
        Settings.model_validate(given, context={"root": tmp_path})
