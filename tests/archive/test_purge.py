"""What goes is gone from every file, what stays is proven by the root that was sealed before."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from agentaudit.archive import canonical
from agentaudit.archive import purge as purge_module
from agentaudit.archive.drill.machine import rewrite_parquet, sealed_as_it_is
from agentaudit.archive.keys import create_key
from agentaudit.archive.layout import TABLES
from agentaudit.archive.purge import Purger
from agentaudit.archive.purge import plan as make_plan
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.retention import Standing, standing
from agentaudit.archive.segment import TableWriter
from agentaudit.archive.verify import verify
from agentaudit.errors import RecordingError
from agentaudit.model import Kind
from tests import tries
from tests.archive.purging import (
    BIG,
    BIGGER,
    apply,
    apply_for_days,
    approval,
    crowded,
    entries_of,
    erase,
    event_of,
    every_value,
    hmac_of,
    hold,
    listed,
    recorded,
    release,
    require_proven,
    split,
    talk,
    the_next_day,
)
from tests.archive.recording import (
    GATEWAY,
    ORIGIN,
    Site,
    counted,
    crashed,
    order,
    recover,
    resign,
    retention,
    rows,
    sealed_files,
    sealer,
    start,
    until,
)


def marks(name: str) -> list[str]:
    """What nobody but the session of `name` has said."""
    return [f"secret of {name}", f"agent-of-{name}"]


def test_what_is_due_is_gone_from_every_file_and_the_rest_proves_to_the_old_root(
    site: Site,
) -> None:
    recorded(site)
    before = every_value(site)
    for name in ("bob", "ana", "eve"):
        assert all(mark.encode() in before for mark in marks(name))
    keys = [row for row in rows(site, "sessions") if row["user"] in ("bob", "ana", "eve")]
    seal = entries_of(site, "seal")[0]

    result = apply_for_days(site)

    after = every_value(site)
    for name in ("bob", "ana", "eve"):
        assert not any(mark.encode() in after for mark in marks(name))
    for row in keys:
        for key in ("key_m", "key_t", "key_p"):
            assert row[key] in before
            assert row[key] not in after
    assert all(mark.encode() in after for mark in marks("other0"))
    require_proven(site)
    assert entries_of(site, "seal")[0] == seal
    whole, payloads = result["purges"]
    assert (whole["what"], whole["sessions"], whole["segments"]) == ("sessions", 3, 1)
    assert (payloads["what"], payloads["sessions"]) == ("payloads", 1)
    assert {row["user"] for row in rows(site, "sessions")} == {"", "pay0", "other0"}


def test_what_stays_of_commands_that_were_sealed_before_there_were_origins_is_whole(
    site: Site,
) -> None:
    recorded(site)
    (path,) = sealed_files(site, "commands")
    rewrite_parquet(path, lambda table: table.drop_columns(["origins"]))
    resign(site, sealed_as_it_is(site.archive, path))

    apply_for_days(site)

    require_proven(site)
    left = rows(site, "commands")
    assert {row["user"] for row in left} == {"pay0", "other0"}
    assert {row["origins"] for row in left} == {None}


@pytest.mark.full
@pytest.mark.timeout(300)
def test_one_session_goes_out_of_a_segment_of_a_hundred_thousand_events(site: Site) -> None:
    """The rest proves to the old root, what went is in no file, and the log says why."""
    ids = crowded(site, events=100_000)
    (seal,) = entries_of(site, "seal")
    assert seal["n"] > 100_000
    victim = str(ids["victim"])
    keys = [row for row in rows(site, "sessions") if row["user"] == "victim"]
    before = every_value(site)
    secrets = [b"secret of victim", b"agent-of-victim", b"answer to victim", ids["victim"].bytes]
    secrets += [keys[0][name] for name in ("key_m", "key_t", "key_p")]
    assert all(secret in before for secret in secrets)

    erase(site, {"session": victim})

    after = every_value(site)
    # Its id is on the list of what went, which is kept; nothing else of it is anywhere.
    assert not any(secret in after for secret in secrets)
    assert b"secret of other" in after
    require_proven(site)
    assert entries_of(site, "seal") == [seal]
    (intent,), (done,) = entries_of(site, "purge_intent"), entries_of(site, "purge_done")
    decision = event_of(site, "decision", selector={"session": victim})
    assert (intent["basis"], intent["decision"]) == ("decision", decision)
    assert [each["session_id"] for each in listed(site)] == [victim]
    assert done["residue"]["rows"] == done["rows"] == 8


def test_the_log_says_what_went_and_why(site: Site) -> None:
    recorded(site)
    apply(site)
    intent = entries_of(site, "purge_intent")[0]
    done = entries_of(site, "purge_done")[0]
    policy = entries_of(site, "policy")[0]
    assert (intent["basis"], intent["policy"]) == ("policy", policy["sha256"])
    assert (intent["sessions"], intent["segments"]) == (3, 1)
    listed = site.layout.purge(intent["purge"]).read_text()
    assert "bob" not in listed
    assert done["purge"] == intent["purge"]
    assert done["residue"]["rows"] == done["rows"] == 3 * 8


def test_of_equal_chunks_the_first_that_stays_keeps_the_bytes(site: Site) -> None:
    """bob's, ana's and eve's go; they had the chunk that the others' rows named."""
    recorded(site, retention(orders={"keep": 30}))
    (path,) = sealed_files(site, "blobs")
    assert pq.read_table(path).column("same_as").null_count < len(pq.read_table(path))

    apply(site)

    blobs = pq.read_table(path).to_pylist()
    seen: dict[bytes, int] = {}
    for number, row in enumerate(blobs):
        if row["data"] is not None:
            assert row["data"] not in seen, "an equal chunk is stored once"
            seen[row["data"]] = number
        else:
            assert blobs[row["same_as"]]["data"] is not None
    events = {row["event_no"] for row in rows(site, "events")}
    assert {row["event_no"] for row in blobs} <= events
    assert BIG[8192:] in seen
    require_proven(site)


def test_payloads_go_while_statements_and_their_proof_stay(site: Site) -> None:
    ids = recorded(site)
    mine = ids["pay0"]
    kept = [row for row in rows(site, "events") if row["session_id"] == mine]
    commands = [row for row in rows(site, "commands") if row["session_id"] == mine]
    assert BIGGER[:5000] in every_value(site)

    apply_for_days(site)

    after = every_value(site)
    assert BIGGER[:5000] not in after
    assert b"secret of pay0" in after, "what was asked stays"
    assert [row for row in rows(site, "commands") if row["session_id"] == mine] == commands
    (session,) = [row for row in rows(site, "sessions") if row["session_id"] == mine]
    assert session["key_p"] is None
    assert session["key_m"] is not None
    left = [row for row in rows(site, "events") if row["session_id"] == mine]
    assert len(left) == len(kept)
    for new, old in zip(left, kept, strict=True):
        passed = old["kind"] in ("request", "response")
        assert new["payload"] == (None if passed else old["payload"])
        assert (new["text"], new["stored_len"]) == (old["text"], old["stored_len"])
        assert new["payload_commit"] is not None or not passed
    require_proven(site)


def test_a_session_whose_payloads_went_can_go_as_a_whole_later(site: Site) -> None:
    recorded(site, retention(billing={"keep": 4000, "payload_keep": 30}))
    apply(site)
    segment = standing(site.log_entries()).segments
    assert [remains.rows_gone for remains in segment.values()] == [0] * len(segment)
    hmac = next(iter(listed(site)))["user"]
    answer = erase(site, {"user": hmac})
    assert answer["result"]["purges"][0]["sessions"] == 1
    assert b"secret of pay0" not in every_value(site)
    require_proven(site)


def test_an_erasure_takes_what_it_names_and_nothing_else(site: Site) -> None:
    ids = recorded(site, retention())
    answer = erase(site, {"session": str(ids["bob"])})
    assert [purge["sessions"] for purge in answer["result"]["purges"]] == [1]
    after = every_value(site)
    assert b"secret of bob" not in after
    assert b"secret of ana" in after
    erase(site, {"user": hmac_of(site, "ana")})
    after = every_value(site)
    assert b"secret of ana" not in after
    assert b"secret of eve" in after
    require_proven(site)
    assert [entry["basis"] for entry in entries_of(site, "purge_intent")] == ["decision"] * 2


async def test_an_erasure_takes_what_closed_in_the_segment_under_way(site: Site) -> None:
    recorder = await start(site, policy=retention())
    try:
        ana, bob = talk(recorder, "ana"), talk(recorder, "bob")
        selector = {"user": hmac_of(site, "ana")}
        await counted(recorder)
        await until(lambda: bool(entries_of(site, "tick")), "a tick")
        would = await recorder.order("erase", selector=selector, dry_run=True)
        assert (would["unsealed"], would["totals"]["sessions"]["sessions"]) == ([str(ana)], 0)
        assert entries_of(site, "seal") == []
        now_us = recorder.clock.now_us()
        event = recorder.record_control(Kind.DECISION, approval(selector, now_us))
        later = talk(recorder, "ana")
        done = await recorder.order("erase", selector=selector, decision=event, decided_at=now_us)
        assert ([purge["sessions"] for purge in done["purges"]], done["later"]) == ([1], 1)
    finally:
        await recorder.stop()
    left = {row["session_id"] for row in rows(site, "sessions")}
    assert {bob, later} <= left
    assert ana not in left
    require_proven(site)


def test_an_erasure_that_takes_nothing_says_why(site: Site) -> None:
    ids = recorded(site, retention())
    unknown = {"session": "018bcfe5-6800-7def-8123-456789abcdef"}
    answer = order(site, "erase", selector=unknown, decision=0, decided_at=5)
    assert "no closed session" in answer["error"]
    held = hold(site, target="orders")
    assert held in erase(site, {"session": str(ids["bob"])})["error"]
    early = order(site, "erase", selector={"session": str(ids["other0"])}, decision=0, decided_at=5)
    assert "closed after it was decided" in early["error"]
    assert entries_of(site, "purge_intent") == []


def test_the_gateways_own_session_is_not_erased_whatever_was_decided(site: Site) -> None:
    """It holds who decided what: without it no purge could be shown to have been lawful."""
    recorded(site, retention())
    own = [row["session_id"] for row in rows(site, "sessions") if row["protocol"] == "agentaudit"]
    selector = {"session": str(own[0])}
    answer = order(site, "erase", selector=selector, decision=0, decided_at=2**52)
    assert "no closed session" in answer["error"]
    assert entries_of(site, "purge_intent") == []
    require_proven(site)


def test_a_dry_run_says_what_would_go_and_touches_nothing(site: Site) -> None:
    ids = recorded(site, retention())
    before = every_value(site)
    answer = erase(site, {"session": str(ids["bob"])}, dry_run=True)
    assert answer["result"]["totals"]["sessions"]["sessions"] == 1
    assert entries_of(site, "purge_intent") == []
    assert len(every_value(site)) >= len(before)


@pytest.mark.parametrize("by", ["session", "user", "target", "time"])
def test_a_held_session_survives_every_way_to_purge(site: Site, by: str) -> None:
    ids = recorded(site, retention(orders={"keep": 30}))
    (bob,) = [row for row in rows(site, "sessions") if row["session_id"] == ids["bob"]]
    opened_us = int(bob["opened_at"].timestamp() * 1_000_000)
    selector: dict[str, Any] = {
        "session": {"session": str(ids["bob"])},
        "user": {"user": hmac_of(site, "bob")},
        "target": {"target": "orders"},
        "time": {"since": opened_us, "until": opened_us},
    }[by]
    held = hold(site, **selector)

    result = apply(site)

    assert str(ids["bob"]) in [each["session"] for each in result["held"]]
    assert "error" in erase(site, {"session": str(ids["bob"])})
    assert "error" in erase(site, {"user": hmac_of(site, "bob")})
    assert b"secret of bob" in every_value(site)
    require_proven(site)
    assert release(site, held) == {"hold": held, "others": []}
    erase(site, {"session": str(ids["bob"])})
    assert b"secret of bob" not in every_value(site)


async def test_an_order_names_the_gateways_whose_logs_it_is_nothing_to(site: Site) -> None:
    for name in ("gw2", "gw3"):
        create_key(site.keys, name, ORIGIN)
        other = await Recorder.start(
            archive=site.archive, gateway=name, origin=ORIGIN, keys=site.keys
        )
        await other.stop()
    recorder = await start(site)
    try:
        held = {"target": "orders"}
        members = {"action": "set", "selector": held}
        event = recorder.record_control(Kind.LEGAL_HOLD, members)
        answer = await recorder.order("legal_hold_set", event=event, selector=held)
        assert answer["others"] == ["gw2", "gw3"]
        for selector, others in (({"user": "aa" * 32}, ["gw2", "gw3"]), ({"session": "x"}, [])):
            would = await recorder.order("erase", selector=selector, dry_run=True)
            assert would["others"] == others
    finally:
        await recorder.stop()


def test_a_segment_that_is_all_due_goes_whole_but_not_while_one_of_it_is_held(site: Site) -> None:
    """Segments of one session each: nothing of the control session lies in them."""
    ids = split(site)
    first, second = (str(ids[name]) for name in ("bob", "ana"))
    hold(site, session=second)
    plan = order(site, "retention_plan")["result"]
    apply(site)
    wholes = [each["whole"] for each in plan["sessions"]]
    assert True in wholes
    gone = [
        remains for remains in standing(site.log_entries()).segments.values() if remains.is_gone
    ]
    assert len(gone) == wholes.count(True)
    users = {row["user"] for row in rows(site, "sessions")}
    assert "ana" in users
    assert "bob" not in users
    assert {UUID(first), UUID(second)} & {row["session_id"] for row in rows(site, "events")} == {
        UUID(second)
    }
    require_proven(site)
    for entry in entries_of(site, "purge_done"):
        if not entry["files"]:
            assert entry["residue"] is None
            assert list(site.archive.rglob(f"{entry['segment']}*")) == [
                site.layout.head(UUID(entry["segment"]))
            ]


def test_a_session_goes_from_all_its_segments_at_once(site: Site) -> None:
    ids = split(site)
    touched = [
        path
        for path in sealed_files(site, "sessions")
        if any(row["session_id"] == ids["bob"] for row in pq.read_table(path).to_pylist())
    ]
    assert len(touched) > 2
    erase(site, {"session": str(ids["bob"])})
    assert b"secret of bob" not in every_value(site)
    assert listed(site)[0]["segments"] == [path.stem for path in touched]
    require_proven(site)


def test_what_touches_a_segment_that_was_rewritten_today_waits(site: Site) -> None:
    ids = recorded(site, retention(orders={"keep": 30}))
    held = hold(site, session=str(ids["bob"]))
    apply(site)
    release(site, held)
    result = apply(site)
    assert [each["session"] for each in result["waiting"]] == [str(ids["bob"])]
    assert result["purges"] == []
    assert b"secret of bob" in every_value(site)


def test_a_plan_says_what_would_go_and_touches_nothing(site: Site) -> None:
    recorded(site)
    files = {path: path.stat().st_mtime_ns for path in site.archive.rglob("*.parquet")}
    plan = order(site, "retention_plan")["result"]
    assert {path: path.stat().st_mtime_ns for path in site.archive.rglob("*.parquet")} == files
    assert plan["totals"]["sessions"]["sessions"] == 3
    assert plan["totals"]["payloads"]["sessions"] == 0
    assert len(plan["waiting"]) == 1, "payloads of a segment that loses sessions"
    assert plan["sessions"][0]["rows"] == 24
    same = make_plan(site.layout, GATEWAY, time.time_ns() // 1000)
    assert same["totals"] == plan["totals"]
    apply(site)
    with the_next_day():
        plan = order(site, "retention_plan")["result"]
    assert plan["payloads"][0]["rows"] == 2 + 4 + 5, "requests, and replies in pieces of 256 KiB"


def test_a_hold_on_a_user_stops_every_purge_once_the_people_key_is_lost(site: Site) -> None:
    recorded(site)
    hold(site, user=hmac_of(site, "bob"))
    (site.keys / f"{GATEWAY}.people").unlink()
    assert "people key" in order(site, "retention_apply", event=0)["error"]
    with pytest.raises(RecordingError, match="names a user"):
        make_plan(site.layout, GATEWAY, time.time_ns() // 1000)


def test_nothing_goes_under_another_people_key(site: Site) -> None:
    """Its HMACs are other ones: whom a hold holds cannot be told."""
    recorded(site)
    (site.keys / f"{GATEWAY}.people").write_text("ab" * 32)
    assert "sessions_root" in order(site, "retention_apply", event=0)["error"]
    assert entries_of(site, "purge_intent") == []


def test_a_changed_segment_is_not_purged(site: Site) -> None:
    """What was tampered with must not be made to look right by a rewrite."""
    recorded(site)
    (path,) = sealed_files(site, "commands")
    path.write_bytes(path.read_bytes() + b"\n")
    assert "not the file that was sealed" in order(site, "retention_apply", event=0)["error"]
    assert entries_of(site, "purge_intent") == []


def test_a_list_that_nobody_would_read_is_split_before_its_intent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = recorded(site, retention(orders={"keep": 30}))
    with monkeypatch.context() as patched:
        patched.setattr(purge_module, "MAX_LIST_BYTES", 300)
        assert (
            "which a purge's list cannot name" in order(site, "retention_apply", event=0)["error"]
        )
        assert entries_of(site, "purge_intent") == []
        patched.setattr(purge_module, "MAX_LIST_BYTES", 900)
        assert [purge["sessions"] for purge in apply(site)["purges"]] == [1, 1, 1]
    assert {each["session_id"] for each in listed(site)} == {
        str(ids[name]) for name in ("bob", "ana", "eve")
    }
    require_proven(site)


def test_a_shorter_policy_purges_nothing_before_its_notice_is_over(site: Site) -> None:
    recorded(site, retention(orders={"keep": 4000}))
    recorded(site, retention(orders={"keep": 30, "notice": 0}))
    assert apply(site)["purges"] == []


def test_a_policy_that_changes_while_retention_is_applied_stops_it(site: Site) -> None:
    """What was due by the one may not be by the other; nothing was begun, so nothing is open."""
    recorded(site)
    answers: list[dict[str, Any]] = []
    with sealer(site, said=answers.append) as opened:
        opened.recover()
        opened.order({"order": 1, "do": "retention_apply", "event": event_of(site, "purge")})
        for _ in range(4):
            opened.work(0.0)
        other = retention(orders={"keep": 3})
        digest = sha256(other).hexdigest()
        site.layout.policy(digest).write_bytes(other)
        opened.set_policy(digest)
        opened.stop()
    assert "policy has changed" in next(a["error"] for a in answers if a.get("order") == 1)
    assert entries_of(site, "purge_intent") == []
    assert list(site.archive.rglob("purges/*")) == []
    require_proven(site)


def test_a_segment_may_be_sealed_while_an_order_goes_through_the_archive(
    site: Site, tmp_path: Path
) -> None:
    ids = split(site)
    ahead = site.copy_to(tmp_path / "ahead")
    crashed(ahead, close=True)
    answers: list[dict[str, Any]] = []
    with sealer(site, said=answers.append) as opened:
        opened.recover()
        selector = {"session": str(ids["bob"])}
        opened.order({"order": 1, "do": "erase", "selector": selector, "dry_run": True})
        for _ in range(3):
            opened.work(0.0)
        before = len(entries_of(site, "seal"))
        (journal,) = ahead.journals()
        shutil.copy(journal, site.layout.journals(GATEWAY))
        opened.turn()
        opened._seal()
        assert len(entries_of(site, "seal")) == before + 1
        opened.stop()
    (answer,) = (answer for answer in answers if answer.get("order") == 1)
    assert answer["result"]["totals"]["sessions"]["sessions"] == 1


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [Path.unlink, damaged])
@pytest.mark.parametrize("table", ["sessions", "events", "commands"])
def test_an_order_that_meets_a_bad_file_is_answered_with_its_name(
    site: Site, table: str, harm: Callable[[Path], None]
) -> None:
    recorded(site)
    (path,) = sealed_files(site, table)
    harm(path)
    answer = order(site, "retention_apply", event=0)
    assert path.relative_to(site.archive).as_posix() in answer["error"]
    assert entries_of(site, "purge_intent") == []


def test_a_purge_on_a_full_disk_ends_nothing_and_goes_on_once_there_is_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(site)
    event = event_of(site, "purge")
    files = contents(site)

    def is_full(self: TableWriter, table: Any) -> None:
        self.temporary.parent.mkdir(parents=True, exist_ok=True)
        self.temporary.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        patched.setattr(TableWriter, "write", is_full)
        assert "No space left on device" in order(site, "retention_apply", event=event)["error"]
        with sealer(site, said=told.append) as opened:
            opened.recover()
            opened.stop()
    assert [(each["level"], each["notice"]) for each in told if "notice" in each] == [
        ("error", "a purge cannot be finished")
    ]
    assert contents(site) == files
    assert len(standing(site.log_entries()).unfinished()) == 1
    assert order(site, "retention_apply", event=event)["result"]
    assert b"secret of bob" not in every_value(site)
    require_proven(site)


def test_a_damaged_segment_does_not_stop_a_start_that_has_a_purge_to_finish(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(site)
    assert stopped_at(site, 8, monkeypatch)
    (purge,) = standing(site.log_entries()).unfinished()
    segment = next(
        s
        for s in canonical.decode(site.layout.purge(purge.purge).read_bytes())["segments"]
        if not s["whole"] and s["segment"] not in purge.done
    )["segment"]
    path = next(site.archive.rglob(f"events/**/{segment}.parquet"))
    good = path.read_bytes()
    damaged(path)

    recover(site)

    assert segment in order(site, "retention_apply", event=0)["error"]
    assert len(standing(site.log_entries()).unfinished()) == 1
    path.write_bytes(good)
    recover(site)
    assert standing(site.log_entries()).unfinished() == []
    require_proven(site)


def test_a_hold_also_keeps_what_an_unfinished_purge_has_not_taken_yet(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = recorded(site, retention(orders={"keep": 30}), segments=2)
    first, second = (entry["segment"] for entry in entries_of(site, "seal"))
    (bad,) = (path for path in sealed_files(site, "events") if path.stem == second)
    event, good = event_of(site, "purge"), bad.read_bytes()
    name_list = Purger._name_list

    def then_damaged(self: Purger, intent: dict[str, Any]) -> None:
        name_list(self, intent)
        damaged(bad)

    with sealer(site) as opened, monkeypatch.context() as patched:
        opened.recover()
        patched.setattr(Purger, "_name_list", then_damaged)
        opened.order({"order": 1, "do": "retention_apply", "event": event})
        while opened.work():
            pass
    assert [done["segment"] for done in entries_of(site, "purge_done")] == [first]
    bad.write_bytes(good)
    with sealer(site) as opened:
        # As a running gateway, which does not recover in between.
        opened._read_log()
        opened._log.signers = site.signers
        selector = {"session": str(ids["bob1"])}
        event = event_of(site, "legal_hold", selector=selector)
        opened.order({"order": 2, "do": "legal_hold_set", "selector": selector, "event": event})
        while opened.work():
            pass
    forged = site.copy_to(tmp_path / "forged")

    result = apply(site)

    assert [(each["resumed"], each["sessions"]) for each in result["purges"]] == [(True, 6)]
    held = {each["session"] for each in result["held"]}
    assert held == {str(ids[name]) for name in ("bob1", "ana1", "eve1")}, "all of that segment"
    assert b"secret of bob1" in every_value(site)
    assert len(standing(site.log_entries()).unfinished()) == 1
    found = verify(site.archive, key=site.vkey, remember=False).findings
    assert [finding.check for finding in found] == ["purge"]
    (hold,) = standing(site.log_entries()).holds
    release(site, hold)
    recover(site)
    assert standing(site.log_entries()).unfinished() == []
    assert b"secret of bob1" not in every_value(site)
    require_proven(site)

    with monkeypatch.context() as patched:
        patched.setattr(Standing, "holding", lambda self, session: [])
        recover(forged)
    found = verify(forged.archive, key=site.vkey, remember=False).findings
    assert [finding.check for finding in found] == ["hold"]


@pytest.mark.parametrize(
    "message",
    [
        {"do": "something"},
        {"do": "legal_hold_set", "selector": {}, "event": 0},
        {"do": "legal_hold_set", "selector": {"user": "ana"}, "event": 0},
        {"do": "legal_hold_set", "event": 0},
        {"do": "legal_hold_release", "hold": "x", "event": 0},
        {"do": "erase", "selector": {}, "decision": 0},
    ],
)
def test_an_order_that_cannot_be_carried_out_is_answered(
    site: Site, message: dict[str, Any]
) -> None:
    recorded(site)
    assert order(site, message.pop("do"), **message)["error"]


class CrashError(BaseException):
    """The machine stops here."""


def contents(site: Site) -> dict[str, bytes]:
    """What all tables and all that purges left hold, by path."""
    return {
        path.relative_to(site.archive).as_posix(): path.read_bytes()
        for folder in (*TABLES, "residue")
        for path in (site.archive / folder).rglob("*")
        if path.is_file()
    }


def stopped_at(site: Site, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Apply retention and stop before rename or removal number `step`; say whether it came."""
    left = step

    def stopping(real: Any) -> Any:
        def call(path: Path, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise CrashError
            left -= 1
            return real(path, *args, **kwargs)

        return call

    with sealer(site) as opened, monkeypatch.context() as patched:
        opened.recover()
        opened.order({"order": 1, "do": "retention_apply", "event": 0})
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, stopping(getattr(Path, name)))
        try:
            while opened.work():
                pass
        except CrashError:
            return True
    return False


def require_the_same_end(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: range
) -> int:
    """Stop a purge at each of these steps, start again, and compare; return how many there were."""
    calm = site.copy_to(folder / "calm")
    apply(calm)
    wanted = contents(calm)
    for tried, step in enumerate(steps):
        copy = site.copy_to(folder / f"crash{step}")
        if not stopped_at(copy, step, monkeypatch):
            return tried
        recover(copy)
        assert standing(copy.log_entries()).unfinished() == []
        require_proven(copy)
        if not entries_of(copy, "purge_intent"):
            apply(copy)
        assert contents(copy) == wanted, f"step {step}"
        assert list(copy.archive.rglob("*.tmp")) == []
        shutil.rmtree(copy.folder)
    raise AssertionError("it goes on for ever")


CRASHES = {
    "sessions": retention(orders={"keep": 30}),
    "payloads": retention(orders={"keep": 4000, "payload_keep": 30}),
}


@pytest.mark.parametrize("policy", CRASHES.values(), ids=CRASHES.keys())
def test_a_purge_that_a_crash_stopped_is_finished_by_the_next_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: bytes
) -> None:
    """A sample of its steps; `make long` stops at each."""
    split(site, policy)
    steps = range(random.randrange(7), 10_000, 7)
    assert require_the_same_end(site, tmp_path, monkeypatch, steps) > 4


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("policy", CRASHES.values(), ids=CRASHES.keys())
def test_a_purge_that_a_crash_stopped_anywhere_is_finished_by_the_next_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: bytes
) -> None:
    """`.ci/run` stops at a share of its steps, another in each run."""
    split(site, policy)
    recorded(site, policy)
    steps = tries.steps(0, 10_000, share=6)
    assert require_the_same_end(site, tmp_path, monkeypatch, steps) > tries.of(40, share=5)
