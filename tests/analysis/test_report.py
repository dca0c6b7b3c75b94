"""The evidence report: what it says, what it leaves out, and that it proves itself without us."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from array import array
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import agentaudit
from agentaudit.analysis.printable import printable
from agentaudit.analysis.report import Report, reading, replays
from agentaudit.analysis.report.facts import to_json
from agentaudit.analysis.report.page import SECTIONS, Player, player, render
from agentaudit.analysis.written import write_new
from agentaudit.archive import canonical
from agentaudit.archive.recorder import Recorder
from agentaudit.errors import QuestionError
from agentaudit.model import Command, Event, Kind, SessionFacts, Side, Span
from tests.analysis.recording import OPENED_US, Recorded, Script, ScriptedClock, record
from tests.archive import purging
from tests.archive.recording import (
    ANA,
    Site,
    crashed,
    new_site,
    recover,
    retention,
    start,
    ticked,
)
from tests.support.hostile import CASES
from tests.support.sample import incident, size_and_events

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_data" / "archive"
KEY = SAMPLE.with_name("archive.vkey")
DAY = ("2026-11-22", "2026-11-23")
"""The day of the incident."""
INCIDENT = incident()[0]


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what this machine remembers of logs out of tests, and in them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report about all of the sample archive."""
    out = tmp_path_factory.mktemp("sample") / "report.html"
    case = agentaudit.load(SAMPLE)
    return case.report(since=DAY[0], until=DAY[1], key=KEY, out=out)


class Page(HTMLParser):
    """What a browser would make of a page: its tags, attributes and text."""

    def __init__(self, html: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.headings: list[int] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- what it says ---------------------------------------------------------------------------------


def test_a_report_of_the_sample_is_verified_and_counts_everything(sample: Report) -> None:
    facts = sample.facts
    assert sample.ok is True
    assert facts.verdict == "Verified"
    population = facts.population
    case = agentaudit.load(SAMPLE)
    sessions = case.sessions().count("session_id").fetchall()[0][0]
    ((commands,),) = case.sql("SELECT count(*) FROM commands").fetchall()
    assert (population.sessions_all, population.commands_all) == (sessions, commands)
    that_day = case.sessions(since=DAY[0], until=DAY[1]).fetchall()
    assert population.sessions_asked == len(that_day) == 5
    asked = {str(row[0]) for row in case.commands(since=DAY[0], until=DAY[1]).fetchall()}
    assert {each.session_id for each in facts.sessions} >= asked
    assert population.commands_asked == population.commands_full > 27
    shown = sum(len(session.commands) for session in facts.sessions)
    assert shown == population.commands_full
    assert [each.check.ok for each in facts.sessions if each.check] == [True] * 5
    # No anchor came from outside: what this machine remembers is none for whoever reads it.
    (exposed,) = facts.integrity.exposure
    assert (exposed.entries, exposed.events) == size_and_events()


def test_it_has_each_command_with_all_that_is_known_of_it(recorded: Recorded) -> None:
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0], rows=2)
    (session,) = report.facts.sessions
    assert [command.number for command in session.commands] == list(range(12))
    read, update, large, delete = (session.commands[n] for n in (3, 4, 5, 7))
    assert read.params == ("7",)
    assert read.result is not None
    assert read.result.columns == ("id", "name", "email", "balance", "vip")
    assert read.result.rows == (("7", "Ada Lovelace", "ada@example.com", "1234.50", "t"),)
    assert "1 row changed" in update.outcome
    assert large.result is not None
    assert (len(large.result.rows), large.result.more_rows) == (2, 1_232)
    assert (delete.is_undone, delete.fate) == (True, "rolled back")
    assert session.commands[2].error == '42703 column "emial" does not exist'
    text = Page(report.html).text
    for shown in ("Ada Lovelace", "rolled back", "1,232 more", "NULL", "DELETE FROM orders"):
        assert shown in text


def test_the_digest_beside_a_statement_is_that_of_the_recorded_text(recorded: Recorded) -> None:
    case = agentaudit.load(recorded.path)
    (session,) = case.report(session=recorded.sessions[0]).facts.sessions
    digests = {command.number: command.sha256 for command in session.commands}
    assert all(digests.values())
    for number, digest in digests.items():
        statement = case.session(session.session_id).statement(number)
        assert digest == sha256(statement.encode()).hexdigest()


def test_made_up_time_is_said_loudly(recorded: Recorded) -> None:
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0], key=recorded.key)
    assert report.facts.is_scripted
    assert report.facts.exceptions[0].kind == "scripted clock"
    assert "No time in this report says when anything happened" in Page(report.html).text


def test_without_a_key_nobody_can_tell(recorded: Recorded) -> None:
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0])
    assert report.ok is None
    assert report.facts.verdict == "Could not tell"
    assert any("no verifier key" in reason for reason in report.facts.integrity.reasons)
    assert "No verifier key was given" in Page(report.html).text


def test_a_key_of_somebody_else_cannot_tell_either(recorded: Recorded, tmp_path: Path) -> None:
    stranger = new_site(tmp_path / "stranger").vkey
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0], key=stranger)
    assert report.ok is not True


def edited(recorded: Recorded, folder: Path) -> Path:
    """Return a copy of an archive in which one byte of an events file is another."""
    archive = folder / "archive"
    shutil.copytree(recorded.path, archive)
    (path,) = archive.glob("events/*/*/*.parquet")
    data = bytearray(path.read_bytes())
    # A byte of the footer's text about who wrote the file: it reads as before.
    place = data.rindex(b"parquet-cpp")
    data[place] ^= 1
    path.write_bytes(data)
    return archive


def test_an_archive_that_was_edited_is_not_verified_and_the_place_is_named(
    recorded: Recorded, tmp_path: Path
) -> None:
    archive = edited(recorded, tmp_path)
    report = agentaudit.load(archive).report(session=recorded.sessions[0], key=recorded.key)
    assert report.ok is False
    assert any("as sealed" in each for each in report.facts.integrity.archive.findings)
    page = Page(report.html).text
    assert "Not verified" in page
    assert "do not rely on this archive" in page
    # What is there is shown all the same.
    assert "DELETE FROM orders" in page


def test_a_log_that_was_rolled_back_is_not_verified(tmp_path: Path) -> None:
    before = record(tmp_path / "site", Script().query("SELECT 1"))
    old = tmp_path / "old"
    shutil.copytree(before.path, old / "archive")
    after = record(tmp_path / "site", Script().query("SELECT 2"), later_us=3_600_000_000)
    agentaudit.load(after.path).verify(after.key)
    with pytest.warns(UserWarning, match="verify"):
        case = agentaudit.load(old / "archive")
    report = case.report(session=before.sessions[0], key=before.key)
    assert report.ok is False
    assert "contradiction" in {each.kind for each in report.facts.exceptions}


def test_a_checkpoint_from_outside_bounds_what_is_exposed(
    recorded: Recorded, tmp_path: Path
) -> None:
    case = agentaudit.load(recorded.path)
    checkpoint = (recorded.path / "log" / "gw1" / "checkpoint").read_text()
    facts = case.report(
        session=recorded.sessions[0], key=recorded.key, since_checkpoint=checkpoint
    ).facts
    (exposed,) = facts.integrity.exposure
    assert (exposed.entries, exposed.events) == (0, 0)
    assert [each.kind for each in facts.integrity.anchors] == ["given checkpoint"]
    assert "a checkpoint that was kept outside" in facts.integrity.given


def test_what_came_after_the_checkpoint_from_outside_is_exposed(tmp_path: Path) -> None:
    record(tmp_path / "site", Script().query("SELECT 1"))
    kept = (tmp_path / "site" / "archive" / "log" / "gw1" / "checkpoint").read_text()
    later = record(tmp_path / "site", Script().query("SELECT 2"), later_us=3_600_000_000)
    case = agentaudit.load(later.path)
    facts = case.report(session=later.sessions[0], key=later.key, since_checkpoint=kept).facts
    (exposed,) = facts.integrity.exposure
    ((events,),) = case.sql("SELECT count(*) FROM events").fetchall()
    ((before,),) = case.sql(
        "SELECT count(*) FROM events WHERE observed_at < '2026-11-03 10:30:00Z'"
    ).fetchall()
    assert 0 < exposed.entries < facts.gateways[0].size
    assert exposed.events == events - before
    # Between the two the gateway did not run.
    gaps = [each.what for each in facts.not_recorded if "was not recording" in each.what]
    assert len(gaps) == 1


def test_a_crash_is_told_with_what_nobody_saw(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    recover(site)
    facts = agentaudit.load(site.archive).report(user="ana", key=site.vkey).facts
    assert facts.ok is True
    kinds = [each.kind for each in facts.exceptions]
    assert "recovery" in kinds
    assert any("crashed" in each.words for each in facts.exceptions if each.kind == "session")
    lacking = {each.what: each.count for each in facts.not_recorded}
    assert lacking["commands whose end was never seen"] == 1
    assert [command.status for command in facts.sessions[0].commands][-1] == "incomplete"


def test_what_is_live_is_told_as_live_and_proven_as_far_as_it_is_sealed(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    ticked(site)
    report = agentaudit.load(site.archive).report(user="ana", key=site.vkey)
    facts = report.facts
    assert facts.ok is None
    (session,) = facts.sessions
    assert session.closed_at is None
    assert session.proof == ""
    assert "not sealed yet" in session.proof_words
    assert facts.population.sessions_open == 1
    lacking = {each.what: each.count for each in facts.not_recorded}
    assert lacking["events that are not sealed yet"]
    assert "still open" in Page(report.html).text


def test_who_read_the_archive_is_told(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    told = {"actor": "os:<b>eve</b>", "action": "open", "detail": "agentaudit replay"}

    def read(recorder: Recorder) -> None:
        for number, what in enumerate(("archive", f"session {UUID(int=1)}")):
            members = {**told, "object": what, "recorded_at": 1_700_000_000_000_000 + number}
            recorder.control.record(Event(kind=Kind.ACCESS, payload=canonical.encode(members)))

    crashed(site, more=read)
    recover(site)
    case = agentaudit.load(site.archive)
    facts = case.report(since="2023-01-01").facts
    assert [(each.actor, each.action, each.object) for each in facts.accesses] == [
        ("os:<b>eve</b>", "open", "archive"),
        ("os:<b>eve</b>", "open", f"session {UUID(int=1)}"),
    ]
    ((session,),) = case.sessions(user="ana").project("session_id").fetchall()
    assert case.report(session=session).facts.accesses == ()


def test_what_was_masked_is_counted_by_its_rule(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    span = Span(rule='card "€"', place="text", offset=1, length=2)

    def masked(recorder: Recorder) -> None:
        session = recorder.open_session(ANA)
        session.record(Event(kind=Kind.NOTICE, side=Side.TARGET, text="a █", spans=(span, span)))
        session.close("client")

    crashed(site, close=True, more=masked)
    recover(site)
    facts = agentaudit.load(site.archive).report(user="ana").facts
    lacking = {each.what: each.count for each in facts.not_recorded}
    assert lacking['places hidden by the mask "card "€""'] == 2


def test_it_is_recorded_that_a_report_is_handed_out_before_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done: list[tuple[str, str]] = []

    def leave(action: str, what: str, detail: str) -> bool:
        done.append((action, what))
        assert len(done) > 4 or not out.exists()
        return True

    case = agentaudit.Case(SAMPLE, record=leave)
    facts = case.report(session=INCIDENT, out=out).facts
    session = f"session {facts.sessions[0].session_id}"
    assert done == [
        ("open", "archive"),
        ("open", session),
        ("verify", "archive"),
        ("export", session),
    ]
    case.report(since=DAY[0])
    assert done[-1] == ("export", "archive")


# --- decisions ------------------------------------------------------------------------------------


REQUEST, ACCESS = UUID(int=7 << 64), UUID(int=9 << 64)


def decided(site: Site) -> tuple[str, str]:
    """Record a session with a held and approved command and a denied one, and an access decision.

    Return the session, and the digest that the approval was about.
    """
    told: list[str] = []

    async def run() -> None:
        clock = ScriptedClock()
        recorder = await start(site, policy=retention(orders={"keep": 30}), clock=clock)
        session = recorder.open_session(
            SessionFacts(
                protocol="postgres", target="orders", user="ana", agent="copilot", window_id=ACCESS
            )
        )
        for number, (sql, decision, status) in enumerate(
            (("DELETE FROM orders", "hold", "ok"), ("DROP TABLE orders", "deny", "denied"))
        ):
            command = Command(
                command_no=number,
                text=sql,
                operation=sql.split()[0],
                cls="write",
                decision=decision,
                rule="deletes need a DBA",
                request_id=REQUEST if decision == "hold" else None,
            )
            session.begin(command)
            session.record(
                Event(
                    kind=Kind.REQUEST, side=Side.CLIENT, command_no=number, text=sql, payload=b"Q"
                )
            )
            if decision == "hold":
                members = {
                    "request_id": str(REQUEST),
                    "kind": "hold",
                    "session_id": str(session.session_id),
                    "command_no": 0,
                    "requester": "ana",
                    "target": "orders",
                    "rule": "deletes need a DBA",
                    "text_commit": "ab" * 32,
                    "requested_at": clock.us,
                    "decided_at": clock.us + 1_000_000,
                    "state": "approved",
                    "approvers": ["dana"],
                    "reasons": ["ticket <b>4711</b>"],
                }
                session.record(
                    Event(kind=Kind.DECISION, command_no=0, payload=canonical.encode(members))
                )
            command.status = status
            session.end(command)
        session.close("client")
        grant = {
            "request_id": str(ACCESS),
            "kind": "access",
            "requester": "ana",
            "target": "orders",
            "rule": "window",
            "requested_at": OPENED_US,
            "decided_at": OPENED_US,
            "state": "approved",
            "approvers": ["erik"],
            "reasons": ["on call"],
            "grant_until": OPENED_US + 3_600_000_000,
        }
        recorder.control.record(Event(kind=Kind.DECISION, payload=canonical.encode(grant)))
        told.append(str(session.session_id))
        await recorder.stop()

    asyncio.run(run())
    return told[0], "ab" * 32


def test_who_approved_what_text_and_when_is_told(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    session, digest = decided(site)
    facts = agentaudit.load(site.archive).report(session=session, key=site.vkey).facts
    hold, access = sorted(facts.decisions, key=lambda each: each.kind, reverse=True)
    assert (hold.kind, hold.state, hold.approvers) == ("hold", "approved", ("dana",))
    assert (hold.digest, hold.reasons) == (digest, ("ticket <b>4711</b>",))
    assert hold.command_no == 0
    assert (access.kind, access.approvers, access.request) == ("access", ("erik",), str(ACCESS))
    held, denied = facts.sessions[0].commands
    assert (held.decision, held.request, denied.decision) == ("hold", str(REQUEST), "deny")
    page = Page(render(facts))
    assert "dana" in page.text
    assert digest in page.text
    assert "b" not in page.tags


def test_a_request_finds_its_session_and_marks_its_command(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    session, _ = decided(site)
    case = agentaudit.load(site.archive)
    facts = case.report(request=REQUEST, key=site.vkey).facts
    assert [each.session_id for each in facts.sessions] == [session]
    assert [command.is_asked for command in facts.sessions[0].commands] == [True, False]
    by_access = case.report(request=str(ACCESS)).facts
    assert [each.session_id for each in by_access.sessions] == [session]
    with pytest.raises(QuestionError, match="not in this archive"):
        case.report(request=uuid4())


# --- retention ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three sessions are gone, and the payloads of one."""
    site = new_site(tmp_path_factory.mktemp("purged") / "site")
    policy = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 30})
    purging.recorded(site, policy)
    purging.apply_for_days(site)
    return site


def test_what_was_purged_is_counted_and_said(purged: Site) -> None:
    facts = agentaudit.load(purged.archive).report(since="2023-01-01", key=purged.vkey).facts
    assert facts.ok is True
    assert facts.population.sessions_purged == 3
    assert {each.what for each in facts.purges} == {"sessions", "payloads"}
    assert all(each.is_done for each in facts.purges)
    lacking = {each.what: each.count for each in facts.not_recorded}
    assert lacking["sessions that were purged"] == 3
    assert lacking["responses that were purged"] == 2
    kept = {each.target: (each.keep, each.payloads) for each in facts.retention}
    assert kept["orders"] == ("30 days", "30 days")
    assert kept["billing"] == ("4,000 days", "30 days")
    (stripped,) = [each for each in facts.sessions if each.is_purged]
    assert stripped.user == "pay0"
    assert all("purged under retention" in command.cut for command in stripped.commands)
    assert all("secret of pay0" in command.text for command in stripped.commands)


def test_whose_the_purged_were_nobody_can_tell(purged: Site) -> None:
    facts = agentaudit.load(purged.archive).report(user="other0").facts
    assert facts.population.sessions_purged is None
    assert "not known" in Page(render(facts)).text


def test_after_ever_so_many_policies_the_last_one_is_in_force(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    documents = [canonical.encode({"default": "allow", "number": n}) for n in range(205)]
    digests = [sha256(each).hexdigest() for each in documents]

    async def run() -> None:
        recorder = await start(site, policy=documents[0], clock=ScriptedClock())
        for document in documents[1:]:
            recorder.set_policy(document)
        await recorder.stop()

    asyncio.run(run())
    case = agentaudit.load(site.archive)
    policies = case.report(since="2023-01-01", replay=False).facts.policies
    assert [each.digest for each in policies] == digests
    assert [each.digest for each in policies if each.until is None] == digests[-1:]
    for before, after in itertools.pairwise(policies):
        assert before.until == after.since


def test_of_more_policies_than_are_listed_the_one_in_force_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentaudit.analysis.report import governance, story

    monkeypatch.setattr(story, "MAX_REIGNS", 4)
    monkeypatch.setattr(governance, "MAX_LINES", 3)
    site = new_site(tmp_path / "site")
    documents = [canonical.encode({"default": "allow", "number": n}) for n in range(7)]

    async def run() -> None:
        recorder = await start(site, policy=documents[0], clock=ScriptedClock())
        for document in documents[1:]:
            recorder.set_policy(document)
        await recorder.stop()

    asyncio.run(run())
    facts = agentaudit.load(site.archive).report(since="2023-01-01", replay=False).facts
    last = [sha256(documents[n]).hexdigest() for n in (1, 2, 6)]
    assert [each.digest for each in facts.policies] == last
    assert [each.until is None for each in facts.policies] == [False, False, True]
    assert facts.more_policies == 1
    notes = [each.words for each in facts.exceptions if each.kind == "policy"]
    assert notes == ["3 changes of policy were not looked at: more than are read"]


def test_a_session_that_was_purged_is_named_as_purged(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    ids = purging.split(site, retention(orders={"keep": 30}))
    purging.apply(site)
    with pytest.raises(QuestionError, match="purged by"):
        agentaudit.load(site.archive).report(session=ids["bob"])


def test_legal_holds_are_told_with_who_set_them_and_what_they_hold(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    ids = purging.recorded(site)
    hold = purging.hold(site, session=str(ids["ana"]))
    facts = agentaudit.load(site.archive).report(session=ids["ana"]).facts
    assert [each.hold for each in facts.legal_holds] == [hold]
    assert facts.sessions[0].holds == (hold,)
    assert agentaudit.load(site.archive).report(session=ids["eve"]).facts.sessions[0].holds == ()


# --- bounds ---------------------------------------------------------------------------------------


def test_what_does_not_fit_is_counted_and_what_matters_comes_first(recorded: Recorded) -> None:
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0], limit=5)
    (session,) = report.facts.sessions
    shown = [command.number for command in session.commands]
    # A failure, a write, a delete that was undone, and two failures more; no read.
    assert shown == [2, 4, 7, 9, 10]
    assert session.more_commands == 7
    assert {each.what: each.count for each in report.facts.left_out}[
        "commands that are not shown"
    ] == 7
    assert "5 of its 12 commands are shown" in Page(report.html).text


def test_only_the_time_that_was_asked_for_is_told(recorded: Recorded) -> None:
    case = agentaudit.load(recorded.path)
    facts = case.report(since="2026-11-03T10:02:00", until="2026-11-03T10:02:30").facts
    (session,) = facts.sessions
    assert [command.number for command in session.commands] == [6, 7, 8, 9, 10, 11]
    assert session.outside == 6
    assert facts.population.commands_asked == 6
    assert facts.population.commands_all == 14


def test_many_sessions_are_listed_and_the_first_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentaudit.analysis.report import gather

    monkeypatch.setattr(gather, "MAX_SESSIONS", 3)
    monkeypatch.setattr(gather, "MAX_LISTED", 5)
    site = record(tmp_path / "site", *(Script().query(f"SELECT {n}") for n in range(8)))
    facts = agentaudit.load(site.path).report(since="2026-01-01", until="2027-01-01").facts
    assert len(facts.listed) == 5
    assert len(facts.sessions) == 3
    left_out = {each.what: each.count for each in facts.left_out}
    assert left_out["sessions that are not listed"] == 3
    assert left_out["sessions without their commands"] == 2
    assert left_out["commands that are not shown"] == 5
    assert (facts.population.sessions_asked, facts.population.commands_asked) == (8, 8)


def test_large_segments_are_hashed_for_the_first_sessions_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = record(tmp_path / "site", *(Script().query(f"SELECT {n}") for n in range(4)))
    ((events,),) = agentaudit.load(site.path).sql("SELECT count(*) FROM events").fetchall()
    for room, chosen in ((1, 1), (2 * events, 2), (10 * events, 4)):
        monkeypatch.setattr(reading, "MAX_HASHED", room)
        facts = agentaudit.load(site.path).report(since="2026-01-01", key=site.key).facts
        assert [each.check is not None for each in facts.sessions].count(True) == chosen
        assert [bool(each.proof) for each in facts.sessions].count(True) == chosen
        assert facts.ok is True
        assert bool(facts.integrity.notes) == (chosen < 4)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "nothing is asked"),
        ({"session": INCIDENT, "request": uuid4()}, "not both"),
        ({"session": "00000000-dead"}, "not in this archive"),
        ({"request": "4711"}, "32 hexadecimal digits"),
        ({"since": "2027-01-01", "until": "2026-01-01"}, "since is not before until"),
        ({"session": INCIDENT, "limit": 0}, "limit"),
        ({"session": INCIDENT, "rows": 1_000}, "rows"),
        ({"session": INCIDENT, "disclose": "some"}, "disclose"),
    ],
)
def test_what_cannot_be_answered_is_said(asked: dict[str, object], says: str) -> None:
    with pytest.raises(QuestionError, match=says):
        agentaudit.load(SAMPLE).report(**asked)  # type: ignore[arg-type]


def test_a_report_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("of somebody")
    with pytest.raises(QuestionError, match="is there already"):
        agentaudit.load(SAMPLE).report(session=INCIDENT, out=out)
    assert out.read_text() == "of somebody"


# --- its form -------------------------------------------------------------------------------------


def test_the_same_question_to_the_same_archive_gives_the_same_bytes(
    sample: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "elsewhere" / "archive"
    shutil.copytree(SAMPLE, copy)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of-somebody-else"))
    again = agentaudit.load(copy).report(since=DAY[0], until=DAY[1], key=KEY)
    assert again.html == sample.html


def test_the_page_is_whole_without_scripts_and_loads_nothing(sample: Report) -> None:
    bare = agentaudit.load(SAMPLE).report(since=DAY[0], until=DAY[1], key=KEY, replay=False)
    assert "script" not in Page(bare.html).tags
    assert "script-src" not in bare.html.decode()
    assert not [each for each in bare.facts.blobs if each.name.startswith("replay-")]
    # Whoever makes it again makes the same.
    assert "--without-replay" in bare.facts.checks[-1].command
    assert "--without-replay" not in sample.facts.checks[-1].command
    # What is read without a script is there with one, too.
    page = Page(sample.html)
    for command in bare.facts.sessions[0].commands:
        assert command.text in page.text
    assert not {"img", "link", "iframe", "object", "form", "input", "base"} & page.tags
    addresses = [
        value for name, value in page.attributes if name in ("href", "src", "action", "srcset")
    ]
    assert addresses
    assert all(value is not None and value.startswith("#") for value in addresses)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    for _, title in SECTIONS:
        if title != "Notes of the investigation":
            assert title in page.text
    # Each heading is at most one level below the one before.
    assert page.headings[0] == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)


def test_the_policy_allows_this_style_alone_and_one_script_by_its_hash(sample: Report) -> None:
    import base64

    html = sample.html.decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(sha256(style[1].encode()).digest()).decode()
    said = unescape(policy[1])
    assert said.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in said
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert script == player().script
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in said
    assert sha256(script.encode()).hexdigest() in Page(sample.html).text
    assert re.findall(r"[a-z-]+-src (?!'none'|'sha256-)", said) == []
    assert "script-src" not in render(sample.facts).decode()
    for ending in ("'</SCRIPT>'", "a<!--b", "x</style>"):
        with pytest.raises(ValueError, match="ends its own element"):
            Player(script=ending)


def test_facts_are_one_structure_and_carried_inside(sample: Report) -> None:
    (carried,) = [each for each in sample.facts.blobs if each.name == "facts.json"]
    told = json.loads(carried.data)
    assert told["verdict"] == "Verified"
    assert len(told["sessions"]) == len(sample.facts.sessions) == 5
    bare = tuple(
        each for each in sample.facts.blobs if each.name not in ("facts.json", "SHA256SUMS")
    )
    assert to_json(replace(sample.facts, blobs=bare)) == carried.data


def test_notes_of_the_investigation_are_told_where_a_case_keeps_them(recorded: Recorded) -> None:
    class Noted(agentaudit.Case):
        def annotations(self) -> object:
            return self.sql(
                "SELECT 1 AS id, TIMESTAMPTZ '2026-11-05 10:00:00Z' AS time, 'ana' AS author, "
                f"UUID '{recorded.sessions[0]}' AS session_id, 7 AS command_no, 'note' AS kind, "
                "'<i>this</i> one \x1b[31m' AS text"
            )

    report = Noted(recorded.path).report(session=recorded.sessions[0])
    (note,) = report.facts.annotations
    assert (note.author, note.command_no, note.kind) == ("ana", 7, "note")
    page = Page(report.html)
    assert "Notes of the investigation" in page.text
    assert r"<i>this</i> one \x1b[31m" in page.text
    other = Noted(recorded.path).report(session=recorded.sessions[1])
    assert other.facts.annotations == ()


# --- checking it without us -----------------------------------------------------------------------


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "XDG_STATE_HOME": str(folder / "state")}
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(html: bytes) -> str:
    """Return the commands that a page prints, as one script."""
    blocks = re.findall(r'<pre class="shell">\n(.*?)</pre>', html.decode(), re.S)
    assert len(blocks) == 6
    return "\n".join(unescape(block) for block in blocks)


@pytest.fixture
def handed_out(tmp_path: Path) -> Path:
    """A folder as an auditor has it: a copy of the archive, the keys, and a report."""
    folder = tmp_path / "handed-out"
    shutil.copytree(SAMPLE, folder / "archive")
    shutil.copy(KEY, folder / "keys.vkey")
    agentaudit.load(folder / "archive").report(
        since=DAY[0],
        until=DAY[1],
        key=folder / "keys.vkey",
        out=folder / "report.html",
    )
    return folder


@pytest.mark.timeout(300)
def test_the_commands_that_it_prints_work_as_printed(handed_out: Path) -> None:
    done = shell(printed((handed_out / "report.html").read_bytes()), handed_out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SHA256SUMS" not in done.stdout
    assert done.stdout.count(": OK") == 13
    assert done.stdout.count("Signature Verified Successfully") == 1
    assert done.stdout.count("complete: from its open to its close nothing is missing") == 5
    assert done.stdout.count("yes: consistent and signed") == 2


@pytest.mark.timeout(300)
def test_steps_one_to_four_need_nothing_of_ours_and_no_archive(handed_out: Path) -> None:
    script = printed((handed_out / "report.html").read_bytes())
    shutil.rmtree(handed_out / "archive")
    without_us = script.partition("agentaudit verify")[0]
    assert "agentaudit" not in without_us.replace(".agentaudit.invalid", "")
    done = shell(without_us, handed_out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: from its open to its close" in done.stdout


@pytest.mark.parametrize("name", ["proof-", "replay-", "facts.json"])
def test_a_page_that_was_changed_fails_its_own_checks(handed_out: Path, name: str) -> None:
    html = (handed_out / "report.html").read_text()
    place = html.index(f'<pre data-file="{name}')
    place = html.index("\n", place) + 200
    changed = "A" if html[place] != "A" else "B"
    (handed_out / "report.html").write_text(html[:place] + changed + html[place + 1 :])
    done = shell(printed(html.encode()), handed_out)
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_proof_of_another_text_is_refused_by_the_program_inside(
    handed_out: Path, tmp_path: Path
) -> None:
    script = printed((handed_out / "report.html").read_bytes()).partition("agentaudit verify")[0]
    work = tmp_path / "work"
    work.mkdir()
    assert shell(f"WORK='{work}'\n{script}", handed_out).returncode == 0
    for path in sorted(work.glob("*/2.text"))[:1]:
        check = f"python3 {work}/check.py {work}/gw1.vkey {path.parent}"
        assert shell(check, handed_out).returncode == 0
        for name in ("2.text", "2.leaf", "2.tlog-proof"):
            whole = (path.parent / name).read_bytes()
            spoilt = whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
            (path.parent / name).write_bytes(spoilt)
            assert shell(check, handed_out).returncode != 0, name
            (path.parent / name).write_bytes(whole)
        told = path.parent / "disclosure.jsonl"
        whole, text = told.read_bytes(), path.read_bytes()
        lines = whole.splitlines(keepends=True)
        told.write_bytes(b"".join(line for line in lines if json.loads(line)["seq"] != 2))
        path.write_bytes(b"SELECT 'what nobody ever ran'")
        assert shell(check, handed_out).returncode != 0, "a text without the salt to check it by"
        told.write_bytes(whole)
        path.write_bytes(text)
        (path.parent / "2.leaf").unlink()
        assert shell(check, handed_out).returncode != 0
        other = new_site(tmp_path / "other").vkey
        (work / "other.vkey").write_text(other)
        refused = shell(check.replace("gw1.vkey", "other.vkey"), handed_out)
        assert refused.returncode != 0


# --- replays --------------------------------------------------------------------------------------


def replayed(report: Report, session: str) -> dict[str, Any]:
    """Return the replay of a session, as the page carries it."""
    name = f"replay-{session}.json.gz"
    (carried,) = [each for each in report.facts.blobs if each.name == name]
    told: dict[str, Any] = json.loads(gzip.decompress(carried.data))
    return told


def test_the_replay_of_a_session_is_what_a_widget_is_told(recorded: Recorded) -> None:
    from agentaudit.widgets.replay import ReplayQuestions

    case = agentaudit.load(recorded.path)
    report = case.report(session=recorded.sessions[0], rows=2)
    told = replayed(report, recorded.sessions[0])
    asked = ReplayQuestions(case.session(recorded.sessions[0]))
    opened, _ = asked.ask("open", {})
    assert told["session"] == opened["session"]
    assert told["events"] == opened["events"]
    _, buffers = asked.ask("index", {"offset": 0, "limit": 100})
    for column, buffer, code in zip(told["index"], buffers, "iddiBBBB", strict=True):
        values = array(code, buffer)
        assert [math.nan if each is None else each for each in column] == pytest.approx(
            list(values), nan_ok=True
        )
    assert len(told["commands"]) == 12
    for command in told["commands"]:
        number = command["command_no"]
        result = command.pop("result", None)
        wanted, _ = asked.ask("command", {"command_no": number})
        assert wanted.pop("text_more") == 0
        assert command == wanted
        if wanted["returns_rows"]:
            rows, _ = asked.ask("result", {"command_no": number, "offset": 0, "limit": 2})
            assert result == {"columns": rows["columns"], "rows": rows["rows"]}


def test_a_replay_has_the_commands_and_the_rows_of_the_tables(recorded: Recorded) -> None:
    case = agentaudit.load(recorded.path)
    report = case.report(session=recorded.sessions[0], limit=5, rows=1)
    (session,) = report.facts.sessions
    told = replayed(report, recorded.sessions[0])
    shown = [command.number for command in session.commands]
    assert [each["command_no"] for each in told["commands"]] == told["index"][0] == shown
    assert {len(each["result"]["rows"]) for each in told["commands"] if "result" in each} <= {0, 1}
    none = case.report(session=recorded.sessions[0], rows=0)
    for command in replayed(none, recorded.sessions[0])["commands"]:
        assert "result" not in command
        assert not command["returns_rows"]


def test_what_is_too_large_to_be_replayed_is_said(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = agentaudit.load(recorded.path)
    asked: dict[str, Any] = {"since": "2026-01-01", "until": "2027-01-01"}
    sizes = [
        each.size for each in case.report(**asked).facts.blobs if each.name.startswith("replay-")
    ]
    assert len(sizes) == 2
    for name, room, there in (
        ("MAX_BYTES", sizes[0], 1),
        ("MAX_BYTES", 10, 0),
        ("MAX_UNPACKED_BYTES", 3_000, 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(replays, name, room)
            report = case.report(**asked)
        named = [each.replay for each in report.facts.sessions if each.replay]
        carried = [each.name for each in report.facts.blobs if each.name.startswith("replay-")]
        assert named == carried
        assert len(named) == there
        assert report.html.decode().count('data-replay="') == there
        left_out = {each.what: each.count for each in report.facts.left_out}
        assert left_out["replays of sessions that are told"] == 2 - there
        assert all(each.replay or "MiB" in each.replay_words for each in report.facts.sessions)


def test_a_long_statement_and_a_long_value_are_replayed_whole_and_bounded(tmp_path: Path) -> None:
    long = "SELECT '" + "é" * 9_000 + "'"
    site = record(
        tmp_path / "site",
        Script()
        .query(long, columns=[("note", 25)], rows=[["n" * 1_000], ["m" * 5_000]])
        .prepared("SELECT $1", ["p" * 5_000], columns=[("a", 25)], rows=[["1"]]),
    )
    report = agentaudit.load(site.path).report(session=site.sessions[0])
    first, second = replayed(report, site.sessions[0])["commands"]
    assert first["text"] == long
    assert first["result"]["rows"] == [["n" * 1_000], [{"text": "m" * 4_000, "length": 5_000}]]
    assert second["params"] == ["p" * 4_000 + "…"]


# --- hostile content ------------------------------------------------------------------------------


def test_what_the_proofs_disclose_is_up_to_who_makes_it(recorded: Recorded) -> None:
    case = agentaudit.load(recorded.path)
    names = {}
    for disclose in ("none", "text", "all"):
        facts = case.report(session=recorded.sessions[0], disclose=disclose).facts
        (proof,) = [each for each in facts.blobs if each.name.startswith("proof-")]
        with tarfile.open(fileobj=io.BytesIO(proof.data)) as tar:
            names[disclose] = {Path(name).suffix for name in tar.getnames()}
            count = len([name for name in tar.getnames() if name.endswith(".payload")])
        assert (count == 1) == (disclose == "none")
    assert ".text" not in names["none"]
    assert ".text" in names["text"]


@pytest.fixture(scope="module")
def hostile_report(hostile_archive: Recorded) -> Report:
    case = agentaudit.load(hostile_archive.path)
    return case.report(since="2026-01-01", until="2027-01-01", limit=20_000, rows=5)


def test_there_are_enough_hostile_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len({case.text for case in CASES}) == len(CASES)


@pytest.mark.timeout(300)
def test_hostile_content_is_shown_as_data(hostile_report: Report) -> None:
    page = Page(hostile_report.html)
    text = re.sub(r"\s", "", page.text)
    for case in CASES:
        for shown in (printable(case.text, block=True), printable(case.text)):
            assert re.sub(r"\s", "", shown[:280]) in text, case.name
    assert not page.tags - ALLOWED_TAGS
    # One script and no more, which is ours; what runs in it, a browser shows.
    assert re.findall(r"<script", hostile_report.html.decode(), re.I) == ["<script"]
    assert f"<script>{player().script}</script>" in hostile_report.html.decode()
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    # Nothing that a terminal or a reader obeys is in the file, whatever shows it.
    assert printable(hostile_report.html.decode(), block=True) == hostile_report.html.decode()


ALLOWED_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer"),
    *("section", "article", "div", "h1", "h2", "h3", "h4", "p", "a", "span", "br", "pre"),
    *("dl", "dt", "dd", "ol", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th"),
    *("td", "time", "code", "samp", "small", "strong", "em", "i", "q", "script"),
}


@pytest.mark.timeout(600)
def test_hostile_content_cannot_pass_for_a_carried_file(
    hostile_archive: Recorded, hostile_report: Report, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_bytes(hostile_report.html)
    (tmp_path / "keys.vkey").write_text(hostile_archive.key)
    script = printed(hostile_report.html).partition("agentaudit verify")[0]
    done = shell(script, tmp_path)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert done.stdout.count("complete: ") == min(reading.MAX_SESSIONS, len(CASES) + 1)


def test_a_report_is_written_where_nothing_is_and_through_no_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "report.html", tmp_path / "elsewhere"
    write_new(path, [b"evidence"])
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"evidence", 0o600)
    (tmp_path / "link.html").symlink_to(elsewhere)
    for taken in (path, tmp_path / "link.html"):
        with pytest.raises(QuestionError, match="is there already"):
            write_new(taken, [b"another"])
    assert path.read_bytes() == b"evidence"
    assert not elsewhere.exists()
