"""The recorder with its sealer process: what counts when, where segments end, what is sealed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
import uvloop

from agentaudit.archive import canonical, syncer
from agentaudit.archive import recorder as recorder_module
from agentaudit.archive.files import make_folder, replace
from agentaudit.archive.keys import create_key
from agentaudit.archive.layout import FORMAT_TEXT, Layout
from agentaudit.archive.recorder import LAZY_SYNC_S, Recorder, _prepare_archive
from agentaudit.archive.segment import read_entries
from agentaudit.archive.verify import verify
from agentaudit.errors import RecordingError, TamperedError
from agentaudit.model import (
    MAX_EVENT_BYTES,
    Command,
    Durability,
    Event,
    Flag,
    Kind,
    SessionFacts,
    Side,
    Span,
)
from tests.archive.faults import Disk
from tests.archive.recording import (
    ANA,
    BOB,
    GATEWAY,
    ORIGIN,
    CheckedLoop,
    Site,
    SteppingClock,
    answer,
    counted,
    exchange,
    record,
    recover,
    request,
    require_sound,
    rows,
    sealed_files,
    start,
    until,
)


async def test_events_are_numbered_densely_and_sessions_on_their_own(site: Site) -> None:
    recorder = await start(site)
    sessions = [recorder.open_session(facts) for facts in (ANA, BOB, ANA)]
    for command_no in range(7):
        for session in sessions:
            exchange(session, command_no)
    for session in sessions:
        session.close("client")
    await recorder.stop()
    require_sound(site)


async def test_a_session_s_row_says_what_was_constant_and_what_was_counted(site: Site) -> None:
    recorder = await start(site, clock=SteppingClock())
    session = recorder.open_session(ANA)
    exchange(session, 0, "select 1", b"12345")
    session.close("client")
    await recorder.stop()
    control, row = rows(site, "sessions")
    facts = {"gateway": "gw1", "user": "ana", "email": "ana@example.com", "target_pid": 4711}
    facts |= {"groups": ["data-agents", "eu"], "actor_chain": ["copilot-7", "ana"]}
    facts |= {"labels": [("application_name", "psql"), ("model", "m-2")], "run_id": "run-41"}
    counts = {"commands": 1, "events": 5, "bytes_in": 14, "bytes_out": 5, "masked": 0}
    assert row | facts | counts | {"close_reason": "client", "is_final": True} == row
    assert row["opened_at"] < row["closed_at"]
    assert (control["protocol"], control["close_reason"]) == ("agentaudit", "shutdown")
    assert len({row["key_m"], row["key_t"], row["key_p"], control["key_m"]}) == 4


async def test_a_command_s_row_names_its_own_events_and_bytes(site: Site) -> None:
    """Even where other sessions record between its events."""
    recorder = await start(site, clock=SteppingClock())
    ana, bob = recorder.open_session(ANA), recorder.open_session(BOB)
    first = request(ana, 0, "select 1")
    exchange(bob, 0)
    answer(ana, first, b"one")
    exchange(bob, 1)
    second = request(ana, 1, "select 22")
    third = request(ana, 2, "select 333")
    ana.end(second)
    ana.end(third)
    await recorder.stop()
    require_sound(site)
    events = {row["event_no"]: row for row in rows(site, "events")}
    for row in rows(site, "commands"):
        own = [
            event["event_no"]
            for event in events.values()
            if event["session_id"] == row["session_id"]
            and event["command_no"] == row["command_no"]
            and event["kind"] in ("request", "response")
        ]
        assert (row["first_event_no"], row["last_event_no"]) == (own[0], own[-1])
        assert row["bytes_in"] == 6 + len(row["text"])
        assert row["started_at"] < row["ended_at"]
        assert row["duration_us"] > 0


async def test_every_column_of_a_command_is_sealed_as_it_was_given(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(ANA)
    command = Command(command_no=5, request_id=uuid4())
    given: dict[str, Any] = {
        "text": "update t set a = $1 where b = $2 -- é",
        "params": ("1", None),
        "operation": "UPDATE",
        "fingerprint": "0123456789abcdef",
        "resources": ("public.t",),
        "risk": ("write_without_where",),
        "confidence": "certain",
        "parser": "pglast 7",
        "decision": "hold",
        "rule": "writes",
        "status": "error",
        "error_code": "23505",
        "error_text": "duplicate key",
        "columns": ("a", "b"),
        "origins": ("16401.2", ""),
        "rows_returned": 2,
        "rows_affected": 3,
        "estimated_rows": 4,
        "txn_no": 9,
        "txn_status": "T",
        "target_ref": "r-1",
        "traceparent": "00-ab-cd-01",
        "paths": ("/a",),
        "sha256": ("00" * 32,),
    }
    session.begin(command)
    session.record(Event(kind=Kind.REQUEST, side=Side.CLIENT, command_no=5))
    for name, value in given.items():
        setattr(command, name, value)
    command.cls = "write"
    session.end(command)
    await recorder.stop()
    require_sound(site)
    (row,) = rows(site, "commands")
    for name, value in given.items():
        assert row[name] == (list(value) if isinstance(value, tuple) else value), name
    assert row["class"] == "write"
    assert row["request_id"] == command.request_id
    assert (row["user"], row["target"], row["gateway"]) == ("ana", "orders", "gw1")


async def test_a_large_payload_becomes_pieces_that_are_continued(site: Site) -> None:
    payload = b"".join(number.to_bytes(4) for number in range(170_000))
    recorder = await start(site)
    session = recorder.open_session(ANA)
    command = request(session, 0)
    last = session.record(
        Event(
            kind=Kind.RESPONSE,
            side=Side.TARGET,
            command_no=0,
            text="rows",
            payload=payload,
            orig_len=len(payload) + 100,
            flags=Flag.SYNTHETIC,
            spans=(Span("r", "payload", 0, 4),),
        )
    )
    session.end(command)
    await recorder.stop()
    require_sound(site)
    pieces = [row for row in rows(site, "events") if row["kind"] == "response"]
    assert [row["stored_len"] for row in pieces] == [MAX_EVENT_BYTES] * 2 + [
        len(payload) - 2 * MAX_EVENT_BYTES
    ]
    assert [bool(row["flags"] & Flag.CONTINUED) for row in pieces] == [True, True, False]
    assert all(row["flags"] & Flag.SYNTHETIC for row in pieces)
    assert sum(row["orig_len"] for row in pieces) == len(payload) + 100
    assert [row["text"] for row in pieces] == ["rows", None, None]
    assert [row["masked"] for row in pieces] == [1, 0, 0]
    assert pieces[-1]["event_no"] == last
    (events,), (blobs,) = sealed_files(site, "events"), sealed_files(site, "blobs")
    stored = [e.payload for e, _ in read_entries(events, blobs) if e.kind == Kind.RESPONSE]
    assert b"".join(piece or b"" for piece in stored) == payload
    assert rows(site, "commands")[0]["last_event_no"] == last


async def test_masked_spans_are_flagged_counted_and_sealed(site: Site) -> None:
    spans = (Span("card", "text", 7, 16), Span("ünï", "payload", 0, 4))
    recorder = await start(site)
    session = recorder.open_session(ANA)
    command = Command(command_no=0)
    session.begin(command)
    session.record(
        Event(kind=Kind.REQUEST, side=Side.CLIENT, command_no=0, text="select ****", spans=spans)
    )
    session.end(command)
    session.close("client")
    await recorder.stop()
    require_sound(site)
    (row,) = (row for row in rows(site, "events") if row["kind"] == "request")
    assert row["flags"] & Flag.MASKED
    assert row["masked"] == 2
    assert [tuple(span.values()) for span in row["mask_spans"]] == [
        (s.rule, s.place, s.offset, s.length) for s in spans
    ]
    assert rows(site, "commands")[0]["masked"] == 2
    assert [row["masked"] for row in rows(site, "sessions")] == [0, 2]


@pytest.mark.parametrize("mode", Durability)
def test_the_durability_mode_is_in_every_event_s_flags(site: Site, mode: Durability) -> None:
    record(site, durability=mode)
    require_sound(site)
    assert {row["flags"] >> 5 & 3 for row in rows(site, "events")} == {mode}


# --- what counts when


@pytest.mark.parametrize("is_quick", [False, True])
@pytest.mark.parametrize("synced", [False, True])
async def test_nothing_is_released_before_it_is_on_its_way_to_the_disk(
    site: Site, disk: Disk, synced: bool, is_quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before write(2) has taken it, or fdatasync(2) has returned, as was asked."""
    if is_quick:
        monkeypatch.setattr(syncer, "QUICK_S", 3600.0)
    recorder = await start(site, segment_events=40)
    session = recorder.open_session(ANA)
    late: list[int] = []
    seen: list[int] = []

    def check(event_no: int) -> Callable[[], None]:
        def released() -> None:
            seen.append(event_no)
            # The journals first: what leaves them meanwhile is sealed when the log is read.
            journaled = disk.numbers(site, synced=synced)
            sealed = {n for path in sealed_files(site, "events") for n in numbers(path)}
            if event_no not in journaled | sealed:
                late.append(event_no)

        return released

    for command_no in range(30):
        exchange(session, command_no)
        event_no = session.record(Event(kind=Kind.NOTICE, side=Side.TARGET))
        recorder.release(check(event_no), synced=synced)
        if command_no % 3 == 0:
            await asyncio.sleep(0)
    await counted(recorder, synced=synced)
    assert len(seen) == 30
    assert seen == sorted(seen)
    assert late == []
    await recorder.stop()


def numbers(path: Path) -> list[int]:
    found: list[int] = pq.ParquetFile(path).read(columns=["event_no"]).column(0).to_pylist()
    return found


async def test_what_waits_for_a_write_does_not_wait_for_the_disk(site: Site, disk: Disk) -> None:
    recorder = await start(site)
    await counted(recorder)
    disk.may_sync.clear()
    released: list[str] = []
    session = recorder.open_session(ANA)
    recorder.release(lambda: released.append("synced"), synced=True)
    exchange(session, 0)
    recorder.release(lambda: released.append("written"), synced=False)
    await until(lambda: "written" in released, "the write")
    assert released == ["written"]
    disk.may_sync.set()
    await until(lambda: "synced" in released, "the sync")
    await recorder.stop()


async def test_turns_that_follow_at_once_share_one_sync_and_nothing_is_synced_twice(
    site: Site, disk: Disk
) -> None:
    recorder = await start(site)
    await counted(recorder)
    session = recorder.open_session(ANA)
    await counted(recorder)
    before = disk.syncs
    released: list[int] = []
    for number in range(5):
        recorder.begin_turn()
        exchange(session, number)
        recorder.release(partial(released.append, number), synced=True)
        recorder.end_turn(number < 4)
        assert released == [] or number == 4
        assert not recorder._buffer, "what a turn recorded is written at its end"
    for _ in range(3):  # with nothing new to write, and the sync under way
        recorder.begin_turn()
        recorder.end_turn(False)
    await until(lambda: len(released) == 5, "the sync")
    assert released == [0, 1, 2, 3, 4]
    assert disk.syncs == before + 1
    await recorder.stop()


async def test_a_turn_does_not_wait_for_the_sync_under_way(site: Site, disk: Disk) -> None:
    recorder = await start(site)
    await counted(recorder)
    session = recorder.open_session(ANA)
    disk.may_sync.clear()
    released: list[str] = []
    for number in range(3):
        recorder.begin_turn()
        exchange(session, number)
        recorder.release(partial(released.append, "synced"), synced=True)
        recorder.release(partial(released.append, "written"), synced=False)
        recorder.end_turn(False)
    assert released == ["written"] * 3
    disk.may_sync.set()
    await until(lambda: released[3:] == ["synced"] * 3, "the sync")
    await recorder.stop()


async def test_a_waiter_s_fault_keeps_no_other_waiting(site: Site, disk: Disk) -> None:
    recorder = await start(site)
    await counted(recorder)
    session = recorder.open_session(ANA)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    released: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    for synced, name in ((True, "synced"), (False, "written")):
        recorder.begin_turn()
        exchange(session, int(synced))
        recorder.release(fails, synced=synced)
        recorder.release(partial(released.append, name), synced=synced)
        recorder.end_turn(True)
    recorder.begin_turn()
    recorder.end_turn(False)
    await until(lambda: released == ["written", "synced"], "both others")
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError] * 2
    await recorder.stop()


async def test_all_who_wait_share_one_sync(site: Site, disk: Disk) -> None:
    recorder = await start(site)
    await counted(recorder)
    sessions = [recorder.open_session(ANA) for _ in range(50)]
    await counted(recorder)
    disk.may_sync.clear()
    released: list[int] = []
    before = disk.syncs
    for turn in range(5):
        for number, session in enumerate(sessions):
            exchange(session, turn)
            recorder.release(
                lambda n=turn * 50 + number: released.append(n),  # type: ignore[misc]
                synced=True,
            )
        await asyncio.sleep(0)
    assert released == []
    disk.may_sync.set()
    await until(lambda: len(released) == 250, "the syncs")
    assert released == list(range(250))
    # One was held up with the first turn's; the next takes all that gathered meanwhile.
    assert disk.syncs - before <= 3
    await recorder.stop()
    require_sound(site)


async def test_what_nobody_waits_for_is_synced_all_the_same(site: Site, disk: Disk) -> None:
    recorder = await start(site, durability=Durability.RELAXED)
    session = recorder.open_session(ANA)
    event_no = session.record(Event(kind=Kind.NOTICE, side=Side.TARGET))
    await until(lambda: event_no in disk.numbers(site, synced=True), "a sync")
    await recorder.stop()


async def test_the_event_loop_waits_for_no_disk_where_nobody_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However quick it is."""
    recorder = await start(site, durability=Durability.RELAXED)
    await counted(recorder)
    monkeypatch.setattr(syncer, "QUICK_S", 3600.0)
    threads: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: threads.append(threading.get_ident()))
    recorder.open_session(ANA)
    await until(lambda: recorder._synced_no == recorder._next_event_no, "a sync")
    assert threads == []
    await counted(recorder)
    exchange(recorder.open_session(BOB), 0)
    await counted(recorder)
    assert set(threads) == {threading.get_ident()}
    monkeypatch.undo()
    await recorder.stop()


async def test_a_release_with_nothing_recorded_since_comes_at_once(site: Site) -> None:
    recorder = await start(site)
    for synced in (False, True, True, False):
        await counted(recorder, synced=synced)
    await recorder.stop()


async def test_what_a_released_callback_records_is_recorded(site: Site) -> None:
    recorder = await start(site, segment_events=4)
    session = recorder.open_session(ANA)
    done = asyncio.Event()
    left = 30

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            exchange(session, 30 - left)
            recorder.release(again, synced=left % 2 == 0)
        else:
            done.set()

    again()
    await asyncio.wait_for(done.wait(), 60)
    await recorder.stop()
    require_sound(site)


# --- segments


def segments(site: Site) -> list[dict[str, Any]]:
    return [entry for entry in site.log_entries() if entry["type"] == "seal"]


async def test_segments_end_at_a_number_of_events_and_sessions_go_on_in_the_next(
    site: Site,
) -> None:
    recorder = await start(site, segment_events=12)
    ana = recorder.open_session(ANA)
    for command_no in range(8):
        exchange(ana, command_no)
        await counted(recorder)
    bob = recorder.open_session(BOB)
    exchange(bob, 0)
    ana.close("client")
    await counted(recorder)
    await recorder.stop()
    require_sound(site)
    sealed = segments(site)
    assert len(sealed) >= 3
    assert [seal["first_event"] for seal in sealed[1:]] == [
        seal["first_event"] + seal["n"] for seal in sealed[:-1]
    ]
    ids = [seal["segment"] for seal in sealed]
    assert [seal["previous"] for seal in sealed] == [None, *ids[:-1]]
    parts = [row for row in rows(site, "sessions") if row["user"] == "ana"]
    assert [part["is_final"] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len({(part["key_m"], part["key_t"], part["key_p"]) for part in parts}) == 1
    assert [part["events"] for part in parts] == sorted(part["events"] for part in parts)


async def test_segments_end_at_a_number_of_bytes(site: Site) -> None:
    recorder = await start(site, segment_bytes=100_000)
    session = recorder.open_session(ANA)
    for command_no in range(9):
        exchange(session, command_no, reply=os.urandom(30_000))
        await counted(recorder)
    await recorder.stop()
    require_sound(site)
    assert len(segments(site)) == 3


async def test_segments_end_with_age_where_anything_was_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_CHECK_S", 0.01)
    recorder = await start(site, segment_age_s=0.05)
    await until(lambda: len(segments(site)) >= 1, "a segment by age")
    # Nothing was recorded since: an empty segment grows as old as it likes.
    await until(lambda: len(site.journals()) == 1, "the old journal's end")
    (empty,) = site.journals()
    loop = CheckedLoop(recorder)
    await until(lambda: loop.checks >= 20, "twenty checks")
    assert site.journals() == [empty]
    recorder.open_session(ANA)
    await until(lambda: len(segments(site)) >= 2, "another segment by age")
    await recorder.stop()
    require_sound(site)


async def test_a_segment_without_events_leaves_no_trace(site: Site) -> None:
    recorder = await start(site, segment_events=1)
    await counted(recorder)
    assert len(site.journals()) >= 1
    await recorder.stop()
    assert not site.journals()
    opened = {e["segment"] for e in site.log_entries() if e["type"] == "open_segment"}
    assert opened == {seal["segment"] for seal in segments(site)}
    require_sound(site)


async def test_a_clock_that_is_set_back_between_segments_changes_nothing(site: Site) -> None:
    """Ids of segments sort by the clock; their order must not hang on it."""
    clock = SteppingClock()
    recorder = await start(site, clock=clock, segment_events=10)
    session = recorder.open_session(ANA)
    for command_no in range(9):
        clock.us -= 5_000_000
        exchange(session, command_no)
        await counted(recorder)
    await recorder.stop()
    require_sound(site)
    ids = [seal["segment"] for seal in segments(site)]
    assert len(ids) > 2
    assert ids == sorted(ids, reverse=True)


async def test_what_is_recorded_is_ticked_while_its_segment_is_open(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(ANA)
    exchange(session, 0)
    await counted(recorder)
    await until(lambda: "tick" in [e["type"] for e in site.log_entries()], "a tick")
    (tick,) = (entry for entry in site.log_entries() if entry["type"] == "tick")
    assert 0 < tick["n"] <= 5
    result = verify(site.archive, key=site.vkey, deep=True)
    assert result.ok is True, [str(finding) for finding in result.findings]
    assert result.live_events == 5
    await recorder.stop()
    require_sound(site)


async def test_of_each_log_its_own_live_events_are_exposed(site: Site) -> None:
    second = create_key(site.keys, "gw2", ORIGIN)
    recorders = [
        await start(site),
        await Recorder.start(archive=site.archive, gateway="gw2", origin=ORIGIN, keys=site.keys),
    ]
    for recorder in recorders:
        exchange(recorder.open_session(ANA), 0)
        await counted(recorder)
    result = verify(site.archive, key=[site.vkey, second], remember=False)
    assert result.findings == []
    assert result.live_events == 10
    assert [(each.gateway, each.events) for each in result.exposure] == [("gw1", 5), ("gw2", 5)]
    for recorder in recorders:
        await recorder.stop()


def test_starting_and_stopping_many_times_gives_one_chain(site: Site) -> None:
    for number in range(5):
        record(site, sessions=1 + number % 2, segment_events=9)
    require_sound(site)
    types = [entry["type"] for entry in site.log_entries()]
    assert types[0] == "genesis"
    assert types.count("start") == types.count("stop") == 5
    assert types.count("key_epoch") == 4


def test_the_recorder_runs_on_uvloop_as_on_asyncio(site: Site) -> None:
    async def run() -> None:
        recorder = await start(site, segment_events=10)
        session = recorder.open_session(ANA)
        for command_no in range(5):
            exchange(session, command_no)
            await counted(recorder)
        await recorder.stop()

    uvloop.run(run())
    require_sound(site)


async def test_rules_in_force_are_kept_and_logged_when_they_change(site: Site) -> None:
    recorder = await start(site, policy=b'{"rules":[]}')
    exchange(recorder.open_session(ANA), 0)
    digest = recorder.set_policy(b'{"rules":[1]}')
    recorder.set_policy(b'{"rules":[1]}')
    await recorder.stop()
    require_sound(site)
    kept = {path.read_bytes() for path in (site.archive / "policies").iterdir()}
    assert kept == {b'{"rules":[]}', b'{"rules":[1]}'}
    logged = [entry["sha256"] for entry in site.log_entries() if entry["type"] == "policy"]
    assert logged[-1] == digest
    assert [key for key, _ in groupby(logged)] == logged


def test_gateways_may_make_an_archive_and_keep_the_same_rules_at_the_same_time(
    tmp_path: Path,
) -> None:
    document = b'{"rules":[]}'
    begin = threading.Barrier(2)

    def make_archive(layout: Layout, gateway: str) -> None:
        begin.wait()
        _prepare_archive(layout, gateway)

    def keep_rules(layout: Layout, gateway: str) -> None:
        path = layout.policy(sha256(document).hexdigest())
        make_folder(path.parent)
        begin.wait()
        replace(path, document, writer=gateway)

    with ThreadPoolExecutor(2) as executor:
        for number in range(200):
            layout = Layout(tmp_path / str(number))
            for do in (make_archive, keep_rules):
                list(executor.map(do, (layout, layout), ("gw1", "gw2")))
            assert layout.format_file.read_bytes() == FORMAT_TEXT
            assert list(layout.root.rglob("*.tmp")) == []


async def test_decisions_and_accesses_are_rows_of_their_own(site: Site) -> None:
    """They are recorded with their row as payload, as commands are."""
    recorder = await start(site)
    session = recorder.open_session(ANA)
    access = {"recorded_at": 1_700_000_000_000_000, "actor": "eve", "action": "open"}
    decision = {"request_id": str(uuid4()), "kind": "hold", "state": "approved"}
    decision |= {"approvers": ["eve"], "session_id": str(session.session_id)}
    recorder.control.record(Event(kind=Kind.ACCESS, payload=canonical.encode(access)))
    session.record(Event(kind=Kind.DECISION, payload=canonical.encode(decision)))
    await recorder.stop()
    require_sound(site)
    (row,) = rows(site, "access")
    assert (row["actor"], row["action"], row["object"]) == ("eve", "open", None)
    (row,) = rows(site, "decisions")
    assert str(row["request_id"]) == decision["request_id"]
    assert row["session_id"] == session.session_id
    assert (row["approvers"], row["reasons"]) == (["eve"], [])


# --- what the wire may hold

HOSTILE = "na\udcefve \ud83d\x00\ufffe \U0001f600"


async def test_whatever_a_client_or_target_sends_is_recorded_and_sealed(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(
        SessionFacts(
            protocol="postgres",
            user=HOSTILE,
            target_pid=2**32 - 1,
            client_app=HOSTILE,
            labels={HOSTILE: HOSTILE, "\U00010000": "", "\uffff": "x"},
            window_id=uuid4(),
        )
    )
    command = Command(command_no=0, text=HOSTILE, params=(HOSTILE, None), resources=(HOSTILE,))
    session.begin(command)
    session.record(
        Event(kind=Kind.REQUEST, side=Side.CLIENT, command_no=0, text=HOSTILE, payload=b"\xff")
    )
    command.status = "error"
    command.error_text = HOSTILE
    command.rows_affected = 10**25
    command.rows_returned = 2**63
    command.txn_no = 2**31
    session.end(command)
    session.close("client")
    await recorder.stop()
    require_sound(site)
    (row,) = rows(site, "commands")
    assert row["text"] == row["error_text"] == "na\ufffdve \ufffd\x00\ufffe \U0001f600"
    assert (row["rows_affected"], row["txn_no"]) == (None, None)
    assert [e["text"] for e in rows(site, "events") if e["kind"] == "request"] == [row["text"]]


# --- the ends of things


async def test_closing_ends_what_is_open_as_incomplete_and_only_once(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(ANA)
    request(session, 0, "select pg_sleep(60)")
    session.close("client_gone")
    session.close("shutdown")
    await recorder.stop()
    require_sound(site)
    (command,) = rows(site, "commands")
    assert (command["status"], command["text"]) == ("incomplete", "select pg_sleep(60)")
    (row,) = (row for row in rows(site, "sessions") if row["user"] == "ana")
    assert row["close_reason"] == "client_gone"


async def test_nothing_follows_a_close(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(ANA)
    command = request(session, 0)
    session.close("client")
    for late in (
        lambda: session.record(Event(kind=Kind.NOTICE)),
        lambda: session.begin(Command(command_no=1)),
        lambda: session.end(command),
    ):
        with pytest.raises(RecordingError, match="nothing can follow its close"):
            late()
    await recorder.stop()
    require_sound(site)


async def test_a_stop_leaves_nothing_to_be_done_on_the_loop(site: Site) -> None:
    """What was still to be flushed and synced when it came finds no journal any more."""
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    recorder = await start(site)
    for facts in (ANA, BOB):
        recorder.open_session(facts)
    await counted(recorder)
    stop = recorder._sealer.stop

    async def slowly(*, failed: bool) -> None:
        await asyncio.sleep(3 * LAZY_SYNC_S)
        await stop(failed=failed)

    recorder._sealer.stop = slowly
    await recorder.stop()
    recorder.end_turn(False)
    assert faults == []


async def test_nothing_follows_a_stop(site: Site) -> None:
    failures: list[RecordingError] = []
    recorder = await start(site, on_failure=failures.append)
    session = recorder.open_session(ANA)
    await recorder.stop()
    assert not recorder.healthy
    for late in (
        lambda: recorder.open_session(ANA),
        lambda: session.record(Event(kind=Kind.NOTICE)),
        lambda: recorder.release(lambda: None, synced=True),
    ):
        with pytest.raises(RecordingError):
            late()
    await recorder.stop()
    assert failures == []
    require_sound(site)


# --- who may record where


async def test_two_gateways_never_record_under_one_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentaudit.archive.sealer._LOCK_WAIT_S", 0.1)
    recorder = await start(site)
    exchange(recorder.open_session(ANA), 0)
    with pytest.raises(RecordingError, match="another gateway records under this name"):
        recover(site)
    await recorder.stop()
    require_sound(site)


async def test_a_folder_that_is_no_archive_is_refused_and_left_alone(site: Site) -> None:
    site.archive.mkdir()
    (site.archive / "thesis.tex").write_text("precious")
    with pytest.raises(RecordingError, match="not empty, and no archive"):
        await start(site)
    assert [path.name for path in site.archive.iterdir()] == ["thesis.tex"]


async def test_an_archive_of_another_format_is_refused(site: Site) -> None:
    site.archive.mkdir()
    (site.archive / "FORMAT").write_bytes(b"agentaudit archive 2\n")
    with pytest.raises(RecordingError, match="FORMAT says"):
        await start(site)


async def test_a_crash_while_an_archive_is_created_does_not_spoil_its_folder(site: Site) -> None:
    site.archive.mkdir()
    (site.archive / "FORMAT.tmp").write_bytes(b"agentaud")
    recorder = await start(site)
    await recorder.stop()
    require_sound(site)


async def test_an_archive_that_is_a_file_is_refused(site: Site) -> None:
    site.archive.write_bytes(b"")
    with pytest.raises(RecordingError, match=str(site.archive)):
        await start(site)


async def test_a_missing_key_is_named_before_anything_is_recorded(site: Site) -> None:
    (site.keys / f"{GATEWAY}.key").unlink()
    with pytest.raises(RecordingError, match=r"log key .*No such file") as caught:
        await start(site)
    assert "keygen" in caught.value.hint


async def test_another_key_than_the_log_s_is_refused_as_tampering(site: Site) -> None:
    await asyncio.to_thread(record, site)
    (site.keys / f"{GATEWAY}.key").unlink()
    create_key(site.keys, GATEWAY, "audit.example.com")
    with pytest.raises(TamperedError, match="not signed by this gateway's key"):
        await Recorder.start(
            archive=site.archive, gateway=GATEWAY, origin="audit.example.com", keys=site.keys
        )
