"""What a log says of its own time, and what a verification's answer is in words."""

from __future__ import annotations

import ast
import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

import agentaudit.archive
from agentaudit.analysis.integrity import (
    MAX_MARKS,
    MAX_SEGMENTS,
    MAX_STRETCHES,
    MEANINGS,
    SILENT_US,
    History,
    Position,
    check_files,
    check_signature,
    exposed,
    exposure,
    history,
    place_of,
    positions,
    verdict,
)
from agentaudit.archive.drill.machine import fresh_log
from agentaudit.archive.note import Verifier
from agentaudit.archive.verification import Finding, Verification
from agentaudit.archive.verify import verify
from tests.archive.purging import apply, hold, recorded, release
from tests.archive.recording import (
    GATEWAY,
    Site,
    crashed,
    new_site,
    record,
    recover,
    start,
)

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
BEGIN_US = 1_793_700_000_000_000
ZERO = "00" * 32


def segment_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def written(site: Site, *entries: dict[str, Any]) -> History:
    """Write a log of `entries` behind a genesis and a start, and return its history."""
    record(site, commands=1)
    (genesis,) = (entry for entry in site.log_entries() if entry["type"] == "genesis")
    memory = site.keys / f"{GATEWAY}.checkpoint"
    log = fresh_log(site.layout.log(GATEWAY), site.place.log_origin, site.signers, memory)
    begin = {"type": "start", "at": BEGIN_US, "version": "9.9", "clock": "system"}
    log.append([genesis | {"at": BEGIN_US}, begin, *entries])
    return history(site.layout, GATEWAY)


def tick(at_us: int, n: int = 1) -> dict[str, Any]:
    return {"type": "tick", "at": at_us, "segment": segment_id(0), "n": n, "root": ZERO}


def seal(number: int, at_us: int, events: int = 10) -> dict[str, Any]:
    segment = segment_id(number)
    file = {"path": f"events/{segment}.parquet", "sha256": ZERO, "bytes": 100, "rows": events}
    return {
        "type": "seal",
        "at": at_us,
        "segment": segment,
        "previous": segment_id(number - 1) if number else None,
        "first_event": number * events,
        "n": events,
        "root": ZERO,
        "head": "head",
        "files": {"events": file},
        "first_at": at_us - 10,
        "last_at": at_us - 5,
        "sessions_opened": 1,
        "sessions_closed": 1,
        "sessions_open": 0,
        "commands": 2,
        "sessions_root": ZERO,
        "decisions": 0,
        "clock": "system",
        "policy": None,
    }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return new_site(tmp_path / "site")


def test_a_real_log_is_told_with_its_segments_ticks_and_its_end(site: Site) -> None:
    record(site, sessions=2, commands=2, policy=b'{"rules":[]}')
    record(site, commands=1)
    told = history(site.layout, GATEWAY)
    entries = site.log_entries()
    assert told.problem == ""
    assert told.entries == len(entries)
    assert (told.segment_count, len(told.segments)) == (2, 2)
    assert told.events == sum(entry["n"] for entry in entries if entry["type"] == "seal")
    assert told.tick_count == sum(entry["type"] in ("tick", "heartbeat") for entry in entries)
    assert sum(told.ticks) == told.tick_count
    assert told.epochs == sum(entry["type"] == "key_epoch" for entry in entries)
    assert [gap.kind for gap in told.gaps] == ["stopped", "stopped"]
    assert told.gaps[0].until_us is not None
    assert told.gaps[-1].until_us is None
    assert not told.is_recording
    assert told.begun == {}
    assert {"start", "stop", "policy"} <= {mark.kind for mark in told.marks}
    first = told.segments[0]
    assert told.from_us <= first.begun_us <= first.sealed_us <= told.until_us
    assert first.root == next(entry["root"] for entry in entries if entry["type"] == "seal")


def test_a_crash_is_a_gap_from_the_last_sign_of_life_to_the_next_start(site: Site) -> None:
    crashed(site)
    before = history(site.layout, GATEWAY)
    assert before.is_recording
    assert before.gaps == []
    recover(site)
    record(site, commands=1)
    told = history(site.layout, GATEWAY)
    crash = next(gap for gap in told.gaps if gap.kind == "crashed")
    assert crash.from_us == before.until_us
    assert crash.until_us is not None
    assert any(mark.kind == "recovery" for mark in told.marks)


def test_a_log_that_says_nothing_for_five_minutes_while_recording_was_silent(site: Site) -> None:
    last_us = BEGIN_US + SECOND_US + SILENT_US
    told = written(
        site,
        tick(BEGIN_US + SECOND_US),
        tick(last_us),  # just in time
        tick(last_us + SILENT_US + 1),
        {"type": "stop", "at": last_us + SILENT_US + 2, "next_event": 1},
        {"type": "heartbeat", "at": last_us + 9 * SILENT_US, "next_event": 1},
    )
    silent = [gap for gap in told.gaps if gap.kind == "silent"]
    assert [(gap.from_us, gap.until_us) for gap in silent] == [(last_us, last_us + SILENT_US + 1)]


def test_what_cannot_be_read_is_told_as_a_problem(site: Site) -> None:
    record(site, commands=1)
    site.layout.checkpoint(GATEWAY).write_bytes(b"nothing\n")
    told = history(site.layout, GATEWAY)
    assert told.problem
    assert told.segments == []


def test_a_log_of_years_is_told_in_bounds_and_nothing_is_lost_from_the_counts(site: Site) -> None:
    count = 3 * MAX_SEGMENTS
    entries: list[dict[str, Any]] = []
    for number in range(count):
        at_us = BEGIN_US + number * HOUR_US
        entries += [tick(at_us), seal(number, at_us + SECOND_US)]
        entries.append({"type": "policy", "at": at_us + 2 * SECOND_US, "sha256": ZERO})
    told = written(site, *entries)
    assert told.segment_count == count
    assert len(told.segments) <= MAX_SEGMENTS
    assert sum(segment.segments for segment in told.segments) == count
    assert sum(segment.events for segment in told.segments) == told.events == 10 * count
    assert told.segments[-1].segments == 1
    assert told.segments[-1].segment == segment_id(count - 1)
    assert told.segments[0].segments > 1
    assert told.segments[0].root == ""
    ends = [segment.sealed_us for segment in told.segments]
    assert ends == sorted(ends)
    assert len(told.ticks) <= MAX_STRETCHES
    assert sum(told.ticks) == count
    last = (told.until_us - told.from_us) // told.stretch_us
    assert last <= len(told.ticks) + 1
    assert sum(mark.kind == "policy" for mark in told.marks) == MAX_MARKS
    assert told.left_out["policy"] == count - MAX_MARKS
    assert told.left_out["gap"] == count - 1 - MAX_MARKS  # an hour between two signs of life


def test_holds_and_purges_last_from_their_first_entry_to_their_last(site: Site) -> None:
    ids = recorded(site)
    held = hold(site, session=str(ids["bob"]))
    other = hold(site, session=str(ids["ana"]))
    release(site, other)
    apply(site)
    told = history(site.layout, GATEWAY)
    holds = {mark.id: mark for mark in told.marks if mark.kind == "hold"}
    assert holds[held].until_us is None
    assert holds[other].until_us is not None
    purges = [mark for mark in told.marks if mark.kind == "purge"]
    assert purges
    assert all(mark.until_us is not None and "retention policy" in mark.says for mark in purges)
    intents = [e["purge"] for e in site.log_entries() if e["type"] == "purge_intent"]
    assert [mark.id for mark in purges] == intents


def test_a_position_has_the_time_of_its_last_entry_and_what_was_sealed_after(site: Site) -> None:
    record(site, commands=1)
    record(site, commands=2)
    entries = site.log_entries()
    first, second = (number for number, e in enumerate(entries) if e["type"] == "seal")
    sizes = [0, 1, first, first + 1, len(entries), len(entries) + 5]
    found = positions(site.layout, GATEWAY, sizes)
    events = entries[first]["n"], entries[second]["n"]
    assert found == {
        0: Position(None, sum(events)),
        1: Position(entries[0]["at"], sum(events)),
        first: Position(entries[first - 1]["at"], sum(events)),
        first + 1: Position(entries[first]["at"], events[1]),
        len(entries): Position(entries[-1]["at"], 0),
    }


def test_what_is_exposed_counts_from_what_others_know_and_from_what_is_remembered_here(
    site: Site,
) -> None:
    record(site, commands=1)
    since = site.layout.checkpoint(GATEWAY).read_text()
    size = len(site.log_entries())
    assert verify(site.archive, key=site.vkey).ok  # which remembers it
    record(site, commands=2)
    entries = site.log_entries()
    sealed = [entry["n"] for entry in entries if entry["type"] == "seal"]

    (each,) = exposure(site.layout, verify(site.archive, key=site.vkey, remember=False))
    assert (each.anchor, each.since_size, each.events) == ("none", 0, sum(sealed))
    assert (each.remembered_size, each.here_events) == (size, sealed[1])
    assert each.here_entries == len(entries) - size
    assert exposed(each).startswith(f"all of it ({len(entries)} log entries with {sum(sealed)} ")
    assert "and only here" in exposed(each)

    answer = verify(site.archive, key=site.vkey, since=since, remember=False)
    (each,) = exposure(site.layout, answer)
    assert (each.anchor, each.since_size) == ("given checkpoint", size)
    assert (each.entries, each.events) == (len(entries) - size, sealed[1])
    assert each.since_us == entries[size - 1]["at"]
    assert exposed(each).endswith(f"since the given checkpoint at {size} entries")

    now = site.layout.checkpoint(GATEWAY).read_text()
    answer = verify(site.archive, key=site.vkey, since=now, remember=False)
    (each,) = exposure(site.layout, answer)
    assert exposed(each) == "nothing: the given checkpoint covers all of it"


def test_what_a_journal_holds_is_exposed_too(site: Site) -> None:
    crashed(site)
    answer = verify(site.archive, key=site.vkey, remember=False)
    (each,) = exposure(site.layout, answer)
    assert each.events == answer.live_events > 0


def test_a_live_gateway_records_and_its_segment_is_begun(site: Site) -> None:
    async def run() -> History:
        recorder = await start(site)
        try:
            return history(site.layout, GATEWAY)
        finally:
            await recorder.stop()

    told = asyncio.run(run())
    assert told.is_recording


# --- words


def names_of_checks() -> set[str]:
    """The first arguments of all calls that make findings, in the verifier's own sources."""
    found = set()
    for path in Path(agentaudit.archive.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("found", "_found", "told") and isinstance(first, ast.Constant):
                found.add(first.value)
    return {name for name in found if isinstance(name, str)}


def test_every_check_of_the_verifier_has_a_meaning_and_something_to_do() -> None:
    names = names_of_checks()
    assert {"file", "leaf", "tick", "purge", "fork", "stray"} <= names
    assert names <= MEANINGS.keys()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("segment 01a20478-ad63-72af-a2d1-03e58f7bbfc0 row 12", ("", True, -1, -1, 12)),
        ("segment 01a20478-ad63-72af-a2d1-03e58f7bbfc0 event 7", ("", True, -1, 7, -1)),
        ("log/gw1 entry 31 (purge x)", ("gw1", False, 31, -1, -1)),
        ("log/gw-2/checkpoint", ("gw-2", False, -1, -1, -1)),
        (
            "events/gw=gw1/2026-11-22/01a20478-ad63-72af-a2d1-03e58f7bbfc0.parquet",
            ("gw1", True, -1, -1, -1),
        ),
        ("heads/01a20478-ad63-72af-a2d1-03e58f7bbfc0.note", ("", True, -1, -1, -1)),
        ("FORMAT", ("", False, -1, -1, -1)),
        ("entry 99999999999999999999999999", ("", False, -1, -1, -1)),
    ],
)
def test_a_findings_place_is_taken_apart(place: str, expected: tuple[Any, ...]) -> None:
    found = place_of(Finding(check="x", place=place, seen=""))
    told = (found.gateway, bool(found.segment), found.entry, found.event, found.row)
    assert told == expected


def test_a_verdict_says_yes_only_of_yes_and_why_it_is_no_other() -> None:
    assert verdict(Verification(ok=True)).word == "verified"
    assert "deep check" in verdict(Verification(ok=True)).why[0]
    assert "every row" in verdict(Verification(ok=True, deep=True)).why[0]
    unsure = verdict(Verification(ok=None, unknown_signers=["gw1"], unread=["x"]))
    assert unsure.word == "could not tell"
    assert "no key from outside" in unsure.why[0]
    assert len(unsure.why) == 2
    finding = Finding(check="file", place="x", seen="y")
    bad = verdict(Verification(ok=False, findings=[finding], unknown_signers=["gw1"]))
    assert bad.word == "not verified"
    assert bad.why[0].startswith("1 check failed")
    assert verdict(Verification()).word == "could not tell"


# --- without us


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_printed_commands_check_a_signature_and_files_without_us(site: Site) -> None:
    record(site, commands=1)
    keys = [Verifier.parse(line) for line in site.vkey.split()]
    told = history(site.layout, GATEWAY)
    script = check_signature(site.archive, GATEWAY, keys, told.origin)
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout

    files = told.segments[0].files
    done = run(check_files(site.archive, files))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK") == len(files)

    checkpoint = site.layout.checkpoint(GATEWAY)
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n", b"0\n", 1))
    assert run(script).returncode != 0
    path = site.archive / files["commands"]["path"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run(check_files(site.archive, files)).returncode != 0


def test_without_a_key_the_commands_ask_for_one(site: Site) -> None:
    script = check_signature(site.archive, GATEWAY, [], "origin")
    assert "key=...  #" in script
    assert run(script).returncode != 0


def test_what_a_log_names_cannot_end_the_script_that_checks_it(tmp_path: Path) -> None:
    file = {"path": f"x\nEND\ntouch {tmp_path}/ran\n", "sha256": ZERO}
    run(check_files(tmp_path, {"events": file}))
    assert not (tmp_path / "ran").exists()
    script = check_signature(tmp_path / "a'; touch ran; '", GATEWAY, [], "origin")
    subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert not (tmp_path / "ran").exists()
