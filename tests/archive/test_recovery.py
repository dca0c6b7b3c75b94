"""What a crash leaves is recovered; what somebody changed is refused.

A crash is an exception at one step of the sealer in this process, a kill of a recording process,
or bytes cut from a journal.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive import journal
from agentaudit.archive.journal import JournalReader, JournalWriter, OpenSession
from agentaudit.archive.keys import create_key
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.sealer import POLL_S, TICK_S
from agentaudit.archive.snapshot import open_archive
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError, RecordingError, TamperedError
from agentaudit.model import Event, Kind, Side
from tests import tries
from tests.archive.recording import (
    ANA,
    BOB,
    GATEWAY,
    ORIGIN,
    Site,
    answer,
    boundaries,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    recover,
    request,
    require_sound,
    resign,
    rows,
    sealed_files,
    sealer,
    start,
    ticked,
    until,
)


@pytest.fixture(scope="module")
def closed_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose journal holds whole sessions only: its root does not hang on the recovery."""
    site = new_site(tmp_path_factory.mktemp("closed") / "site")
    crashed(site, close=True)
    return site


@pytest.fixture
def site(crash_site: Site, tmp_path: Path) -> Site:
    return crash_site.copy_to(tmp_path / "copy")


def types(site: Site) -> list[str]:
    return [entry["type"] for entry in site.log_entries()]


# --- lawful recovery


def test_cut_sessions_are_closed_and_commands_in_flight_are_seen_as_incomplete(site: Site) -> None:
    (path,) = site.journals()
    recorded = len(list(JournalReader(path).read()))
    next_event_no = recover(site)
    require_sound(site)
    # One end for the command in flight, one close for each of the three sessions.
    assert next_event_no == recorded + 4
    sessions = {row["user"]: row for row in rows(site, "sessions")}
    assert {row["close_reason"] for row in sessions.values()} == {"gateway_crash"}
    assert {user: row["commands"] for user, row in sessions.items()} == {"": 0, "ana": 3, "bob": 1}
    status = {row["text"]: row["status"] for row in rows(site, "commands")}
    assert status == {
        "select 'done'": "ok",
        "select 'blob'": "ok",
        "select 'bob'": "ok",
        "select 'in flight'": "incomplete",
    }
    added = rows(site, "events")[recorded:]
    assert [row["kind"] for row in added].count("session_close") == 3
    assert all(row["flags"] & 2 for row in added), "made by the gateway, so flagged synthetic"
    assert "recovery" in types(site)
    assert not site.journals()


def test_a_command_in_flight_has_the_length_of_what_was_answered_and_no_hash(
    tmp_path: Path,
) -> None:
    def answer_in_part(recorder: Recorder) -> None:
        session = recorder.open_session(BOB, payload_limit=1024)
        asked = request(session, 0, "select 'long'")
        for byte in (1, 2, 3):
            session.record(
                Event(
                    kind=Kind.RESPONSE,
                    side=Side.TARGET,
                    command_no=0,
                    payload=bytes([byte]) * 900,
                    orig_len=900,
                )
            )
        session.record(Event(kind=Kind.CONTENT, side=Side.CLIENT, command_no=0, orig_len=50))
        sent.append((asked.bytes_in, asked.bytes_out))

    sent: list[tuple[int, int]] = []
    site = new_site(tmp_path / "site")
    crashed(site, more=answer_in_part)
    live = open_archive(site.archive).live["commands"].to_pylist()
    recover(site)
    require_sound(site)
    for found in (live, rows(site, "commands")):
        (row,) = (row for row in found if row["text"] == "select 'long'")
        assert (row["status"], row["sha256"]) == ("incomplete", [])
        assert [(row["bytes_in"], row["bytes_out"])] == sent


def test_a_session_is_closed_at_the_time_of_the_last_event_that_was_recorded(site: Site) -> None:
    (path,) = site.journals()
    last_us = max(entry.observed_us for entry in JournalReader(path).read())
    recover(site)
    for row in rows(site, "sessions"):
        assert int(row["closed_at"].timestamp() * 1_000_000) == pytest.approx(last_us, abs=1)


def test_recovering_twice_changes_nothing_more(site: Site) -> None:
    recover(site)
    sealed = rows(site, "events")
    recover(site)
    require_sound(site)
    assert rows(site, "events") == sealed


def test_sessions_that_began_in_sealed_segments_are_recovered_whole(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site, segment_events=4)
    assert sealed_files(site, "events") or len(site.journals()) > 1
    recover(site)
    require_sound(site)
    assert {row["close_reason"] for row in rows(site, "sessions") if row["is_final"]} == {
        "gateway_crash"
    }


def test_a_session_whose_segment_was_sealed_long_ago_is_recovered_whole(tmp_path: Path) -> None:
    """Its digest needs leaves, text and blobs of sealed events; its command is still in flight."""
    site = new_site(tmp_path / "site")

    async def run() -> None:
        recorder = await start(site, segment_events=6)
        ana = recorder.open_session(ANA)
        exchange(ana, 0, "select '" + "x" * 70_000 + "'", b"\xb7" * 9000)
        slow = request(ana, 1, "select 'slow'")
        for _ in range(4):
            exchange(recorder.open_session(BOB), 0)
            await counted(recorder)
        await until(lambda: len(sealed_files(site, "events")) >= 2, "two seals")
        assert slow.status == "incomplete"
        recorder._sealer.kill()
        await recorder._sealer._exited
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(run())
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    recover(site)
    require_sound(site)
    (slow,) = (row for row in rows(site, "commands") if row["text"] == "select 'slow'")
    assert slow["status"] == "incomplete"
    assert slow["first_event_no"] == 5


def test_a_command_that_has_ended_is_not_under_way_again_whatever_follows(
    tmp_path: Path,
) -> None:
    """As where a client goes on sending rows after the target has refused the COPY."""
    site = new_site(tmp_path / "site")

    def more(recorder: Recorder) -> None:
        session = recorder.open_session(ANA)
        exchange(session, 0, "copy t from stdin")
        late = Event(kind=Kind.REQUEST, side=Side.CLIENT, command_no=0, payload=b"d", orig_len=1)
        session.record(late)

    crashed(site, more=more)
    recover(site)
    require_sound(site)
    texts = [row["text"] for row in rows(site, "commands")]
    assert texts.count("copy t from stdin") == 1
    assert "" not in texts


@pytest.mark.parametrize(
    "stride",
    [
        29,
        pytest.param(
            tries.of(1, share=8), id="1", marks=[pytest.mark.full, pytest.mark.timeout(300)]
        ),
    ],
)
def test_a_torn_tail_is_cut_at_every_byte_of_the_last_frame(
    site: Site, tmp_path: Path, stride: int
) -> None:
    (path,) = site.journals()
    whole = path.read_bytes()
    last, end = boundaries(path)[-2:]
    # A frame that lacks only zeros is whole in a room.
    end = last + len(whole[last:end].rstrip(b"\0"))
    first = last + 1 + random.randrange(min(stride, 8))
    for number, cut in enumerate(range(first, end, stride)):
        torn = site.copy_to(tmp_path / f"torn-{cut}")
        (torn_path,) = torn.journals()
        # A file that did not grow, or a room in which less was written.
        room = bytes(len(whole) - cut if number % 2 else 0)
        torn_path.write_bytes(whole[:cut] + room)
        tail = whole[last:cut].rstrip(b"\0")
        recover(torn)
        result = verify(torn.archive, key=torn.vkey, deep=True, remember=False)
        assert result.ok is True, (cut, [str(finding) for finding in result.findings])
        (entry,) = (e for e in torn.log_entries() if e["type"] == "recovery")
        assert entry.get("cut_bytes", 0) == len(tail)
        # The command in flight was what the last frame held.
        assert len(rows(torn, "commands")) == 3
        shutil.rmtree(torn.folder)


def test_a_journal_without_events_leaves_nothing(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    before = len(rows(site, "events"))
    header = journal.Header(
        journal.UUID(int=1 << 120), first_event_no=before, marker=os.urandom(16)
    )
    os.close(JournalWriter(site.layout.journal(GATEWAY, header.segment), header).fd)
    recover(site)
    require_sound(site)
    assert len(rows(site, "events")) == before
    assert not site.journals()


def test_what_a_crash_leaves_half_made_is_removed(site: Site) -> None:
    (path,) = site.journals()
    folder = site.archive / "events/gw=gw1/date=2026-01-01"
    folder.mkdir(parents=True)
    leftovers = [
        folder / f"{path.stem}.parquet",
        folder / f"{path.stem}.parquet.tmp",
        site.layout.log(GATEWAY) / "tile/0/000.p/99",
        site.layout.log(GATEWAY) / "tile/entries/000.p/99.tmp",
        site.layout.log(GATEWAY) / "checkpoint.tmp",
        site.layout.journals(GATEWAY) / f"{path.stem}.tmp",
    ]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    recover(site)
    require_sound(site)
    assert not [leftover for leftover in leftovers if leftover.exists()]


# --- crashes between any two steps


class Crash(BaseException):
    """The process ends here."""


STEPS = ("write", "fsync", "fdatasync", "replace", "rename", "unlink", "ftruncate", "mkdir")


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[Callable[[], int]]:
    """Let `after` durable steps of this process happen, and crash at the next one."""
    done = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done >= after:
                raise Crash
            done += 1
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counting(getattr(os, name)))
        yield lambda: done


def steps_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> int:
    with crashing(monkeypatch, after=1_000_000) as done:
        recover(site)
        return done()


def require_any_crash_recovers(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stride: int,
    check: Callable[[Site], None],
) -> None:
    """Crash a recovery at every `stride`th step, start again, and `check` what that gives."""
    rehearsal = site.copy_to(tmp_path / "rehearsal")
    steps = steps_of(rehearsal, monkeypatch)
    check(rehearsal)
    assert steps > 50
    first = random.randrange(stride)
    for after in range(first, steps, stride):
        broken = site.copy_to(tmp_path / f"crash-{after}")
        with crashing(monkeypatch, after), pytest.raises(Crash):
            recover(broken)
        try:
            recover(broken)
            check(broken)
        except (AssertionError, ArchiveError, RecordingError) as error:
            raise AssertionError(f"after a crash at step {after} of {steps}") from error
        shutil.rmtree(broken.folder)


def roots(site: Site) -> list[str]:
    return [entry["root"] for entry in site.log_entries() if entry["type"] == "seal"]


def require_root(root: list[str]) -> Callable[[Site], None]:
    def check(site: Site) -> None:
        require_sound(site)
        assert roots(site) == root

    return check


def require_all_that_was_recorded(count: int) -> Callable[[Site], None]:
    def check(site: Site) -> None:
        require_sound(site)
        assert len(rows(site, "events")) == count
        statuses = [row["status"] for row in rows(site, "commands")]
        assert sorted(statuses) == ["incomplete", "ok", "ok", "ok"]

    return check


def seal_roots(site: Site, tmp_path: Path) -> list[str]:
    reference = site.copy_to(tmp_path / "reference")
    recover(reference)
    return roots(reference)


def test_a_crash_between_steps_of_a_seal_recovers_to_the_same_root(
    closed_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = require_root(seal_roots(closed_site, tmp_path))
    require_any_crash_recovers(closed_site, tmp_path, monkeypatch, 13, check)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_crash_between_any_two_steps_of_a_seal_recovers_to_the_same_root(
    closed_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = require_root(seal_roots(closed_site, tmp_path))
    require_any_crash_recovers(closed_site, tmp_path, monkeypatch, tries.of(1, share=6), check)


def test_a_crash_in_a_recovery_loses_nothing(
    crash_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = require_all_that_was_recorded(17)
    require_any_crash_recovers(crash_site, tmp_path, monkeypatch, 13, check)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_crash_between_any_two_steps_of_a_recovery_loses_nothing(
    crash_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = require_all_that_was_recorded(17)
    require_any_crash_recovers(crash_site, tmp_path, monkeypatch, tries.of(1, share=6), check)


def test_a_crash_in_the_very_first_start_leaves_a_folder_that_can_be_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two steps: nothing is recorded yet that could be lost."""
    site = new_site(tmp_path / "new")
    for after in range(1000):
        fresh = site.copy_to(tmp_path / f"first-{after}")
        (fresh.archive).mkdir()
        (fresh.archive / "FORMAT").write_bytes(b"agentaudit archive 1\n")
        fresh.layout.journals(GATEWAY).mkdir(parents=True)
        try:
            with crashing(monkeypatch, after):
                recover(fresh)
        except Crash:
            recover(fresh)
            result = verify(fresh.archive, key=fresh.vkey, deep=True, remember=False)
            assert result.ok is True, (after, [str(finding) for finding in result.findings])
            shutil.rmtree(fresh.folder)
        else:
            break
    assert after > 10


# --- kill -9

VICTIM = """
import asyncio, sys
from pathlib import Path
from agentaudit.model import Durability
from tests.archive.recording import ANA, Site, counted, exchange, request, answer, start

async def main(folder, segment_events):
    recorder = await start(Site(Path(folder), ""), segment_events=segment_events)
    print("ready", flush=True)
    async def client(number):
        while True:
            session = recorder.open_session(ANA)
            for command_no in range(5):
                name = f"{session.session_id} {command_no}"
                command = request(session, command_no, f"select '{name}'")
                await counted(recorder)
                print("asked", name, flush=True)
                answer(session, command, b"r" * (number * 2000))
                await counted(recorder)
                print("answered", name, flush=True)
            session.close("client")
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(client(number))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def kill_while_recording(site: Site, lines: int, segment_events: int) -> tuple[set[str], set[str]]:
    """Kill a recording process when it has said `lines` lines; return what it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(site.folder), str(segment_events)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if len(said) > lines:
            break
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    assert said[0] == b"ready\n"
    whole = [line.decode().strip() for line in said[1:] if line.endswith(b"\n")]
    asked = {line.removeprefix("asked ") for line in whole if line.startswith("asked ")}
    answered = {line.removeprefix("answered ") for line in whole if line.startswith("answered ")}
    return asked, answered


def require_acknowledged(site: Site, asked: set[str], answered: set[str]) -> None:
    require_sound(site)
    found = {row["text"][8:-1]: row["status"] for row in rows(site, "commands")}
    assert asked <= found.keys()
    assert {found[name] for name in answered} <= {"ok"}
    assert set(found.values()) <= {"ok", "incomplete"}


def kill_again_and_again(site: Site, rounds: int) -> None:
    asked: set[str] = set()
    answered: set[str] = set()
    for _ in range(rounds):
        more = kill_while_recording(site, random.randrange(1, 400), random.choice([25, 10_000]))
        asked |= more[0]
        answered |= more[1]
        recover(site)
        require_acknowledged(site, asked, answered)
    assert asked


@pytest.mark.timeout(300)
def test_killing_a_recording_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    kill_again_and_again(new_site(tmp_path / "site"), rounds=3)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_killing_a_recording_process_many_times_loses_nothing_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    kill_again_and_again(new_site(tmp_path / "site"), rounds=tries.of(20, share=7))


# --- refusals


def files_of(site: Site) -> dict[str, bytes]:
    return {
        path.relative_to(site.archive).as_posix(): path.read_bytes()
        for path in site.archive.rglob("*")
        if path.is_file() and "/log/" not in f"/{path.relative_to(site.archive)}"
    }


def require_refused(site: Site, why: str) -> None:
    """Starting is refused, twice; no journal and no sealed file is changed."""
    before = files_of(site)
    for _ in range(2):
        with pytest.raises((TamperedError, ArchiveError), match=why):
            recover(site)
        after = files_of(site)
        for path in [path for path in after if path.endswith((".incident", "/lock"))]:
            after.pop(path)
        assert after == {p: data for p, data in before.items() if not p.endswith("/lock")}


def test_a_journal_cut_back_behind_a_tick_is_refused(site: Site) -> None:
    (path,) = site.journals()
    count = ticked(site)
    os.truncate(path, boundaries(path)[count - 1])
    require_refused(site, f"{count - 1} events, a signed tick says {count}")
    assert types(site).count("incident") == 1
    assert path.with_name(path.name + ".incident").read_bytes() == path.read_bytes()


def test_a_journal_changed_behind_a_tick_is_refused(site: Site) -> None:
    """Also by somebody who makes its checksums right."""
    (path,) = site.journals()
    ticked(site)
    reader = JournalReader(path)
    start = reader.offset
    frames = []
    for entry in reader.read():
        if entry.text == b"select 'done'":
            entry.text = b"select 'gone'"
        extra = journal.canonical.encode(entry.extra) if entry.extra else b""
        frames.append(
            journal.encode_frame(
                reader.header.marker, entry.fixed, entry.text, entry.payload, extra
            )
        )
    path.write_bytes(path.read_bytes()[:start] + b"".join(frames))
    require_refused(site, "a signed tick says")
    assert types(site).count("incident") == 1


def test_a_journal_changed_in_its_middle_is_refused(site: Site) -> None:
    (path,) = site.journals()
    changed = bytearray(path.read_bytes())
    changed[boundaries(path)[3] + 60] ^= 1
    path.write_bytes(changed)
    require_refused(site, "invalid at byte .* was written after what was there had been synced")
    assert types(site).count("incident") == 1


def test_an_incident_that_was_cut_short_is_told_at_the_next_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = site.journals()
    changed = bytearray(path.read_bytes())
    changed[boundaries(path)[3] + 60] ^= 1
    path.write_bytes(changed)
    for step in range(200):
        with crashing(monkeypatch, step), pytest.raises((Crash, TamperedError)):
            recover(site)
        if "incident" in types(site):
            break
        assert not path.with_name(path.name + ".incident").exists() or (
            path.with_name(path.name + ".incident").read_bytes() == changed
        )
    assert types(site).count("incident") == 1
    assert path.with_name(path.name + ".incident").read_bytes() == changed


def test_a_torn_tail_where_a_segment_was_over_is_refused(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site, segment_events=1_000_000)
    (path,) = site.journals()
    reader = JournalReader(path)
    events = len(list(reader.read()))
    header = journal.Header(journal.UUID(int=1 << 127), events, os.urandom(16))
    os.close(JournalWriter(site.layout.journal(GATEWAY, header.segment), header).fd)
    with path.open("ab") as file:
        file.write(reader.header.marker + b"torn")
    require_refused(site, "invalid at byte .*, and its segment was over")


def test_a_damaged_journal_header_is_refused(site: Site) -> None:
    (path,) = site.journals()
    changed = bytearray(path.read_bytes())
    changed[50] ^= 1
    path.write_bytes(changed)
    require_refused(site, path.stem)


def planted(site: Site, source: Site) -> Path:
    """Put the journal of `source` behind what `site` has sealed, under a segment of its own."""
    reader = JournalReader(source.journals()[0])
    (next_event,) = (e["next_event"] for e in site.log_entries() if e["type"] == "stop")
    header = dataclasses.replace(reader.header, segment=UUID(int=7), first_event_no=next_event)
    frames = []
    for number, entry in enumerate(reader.read(), next_event):
        entry.event_no = number
        extra = {name: value for name, value in entry.extra.items() if name != "synced"}
        data = journal.canonical.encode(extra) if extra else b""
        frame = journal.encode_frame(header.marker, entry.fixed, entry.text, entry.payload, data)
        frames.append(frame)
    path = site.layout.journal(GATEWAY, header.segment)
    path.write_bytes(header.encode() + b"".join(frames))
    return path


def test_a_journal_behind_a_gateway_that_stopped_is_found_and_refused(
    site: Site, tmp_path: Path
) -> None:
    stopped = new_site(tmp_path / "stopped")
    record(stopped)
    path = planted(stopped, site)
    for deep in (False, True):
        result = verify(stopped.archive, key=stopped.vkey, deep=deep, remember=False)
        assert result.ok is False
        assert [finding.place for finding in result.findings] == [f"journal {path.stem}"]
        assert "nothing was recording" in result.findings[0].seen
    require_refused(stopped, "nothing was recording")
    path.unlink()
    recover(stopped)
    require_sound(stopped)


def test_a_journal_that_a_crash_left_before_its_first_tick_is_a_note(site: Site) -> None:
    unnamed = ("open_segment", "tick")
    resign(site, lambda entries: [e for e in entries if e["type"] not in unnamed])
    result = verify(site.archive, key=site.vkey, deep=True, remember=False)
    assert result.ok is True
    assert "the log does not name it yet" in result.notes[0]
    recover(site)
    require_sound(site)


def another_user(session: OpenSession) -> list[OpenSession]:
    return [dataclasses.replace(session, facts={**session.facts, "user": "mallory"})]


HEADERS: dict[str, Callable[[OpenSession], list[OpenSession]]] = {
    "another facts": another_user,
    "another key_t": lambda session: [dataclasses.replace(session, key_t=bytes(32))],
    "another opened_us": lambda session: [dataclasses.replace(session, opened_us=1)],
    "another events": lambda session: [dataclasses.replace(session, events=99)],
    "another bytes_in": lambda session: [dataclasses.replace(session, bytes_in=99)],
    "not list session": lambda session: [],
    "which is not open": lambda session: [
        session,
        dataclasses.replace(session, session_id=UUID(int=7)),
    ],
    "of session": lambda session: [session, *another_user(session)],
}


@pytest.fixture(scope="module")
def long_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A crash while sessions were open that began in a sealed segment."""
    site = new_site(tmp_path_factory.mktemp("long") / "site")

    def until_sealed(_: Recorder) -> None:
        deadline = time.monotonic() + 60
        while len(site.journals()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    crashed(site, segment_events=8, more=until_sealed)
    assert types(site).count("seal") == 1
    return site


@pytest.mark.parametrize("why", HEADERS)
def test_a_header_that_says_else_of_a_session_than_its_events_is_found_and_refused(
    long_site: Site, tmp_path: Path, why: str
) -> None:
    """No signature covers a header: what it claims is in sealed events as well."""
    site = long_site.copy_to(tmp_path / "site")
    path = site.layout.journal(GATEWAY, journal.in_order(site.layout, GATEWAY)[-1])
    reader = JournalReader(path)
    frames = path.read_bytes()[reader.offset :]
    control, ana, *others = sorted(
        reader.header.sessions, key=lambda session: session.open_event_no
    )
    assert ana.facts["user"] == "ana"
    sessions = (control, *HEADERS[why](ana), *others)
    path.write_bytes(dataclasses.replace(reader.header, sessions=sessions).encode() + frames)
    result = verify(site.archive, key=site.vkey, deep=True, remember=False)
    assert result.ok is False
    assert why in str(result.findings[0])
    if why in ("another facts", "another key_t", "another opened_us", "which is not open"):
        assert verify(site.archive, key=site.vkey, remember=False).ok is False
        with pytest.raises(TamperedError, match="says else than was sealed"):
            open_archive(site.archive)
    require_refused(site, why)


def test_a_missing_journal_is_refused_once_its_segment_was_ticked(site: Site) -> None:
    (path,) = site.journals()
    ticked(site)
    path.unlink()
    require_refused(site, f"segment {path.stem}: begun in the log, and its journal is gone")


def test_a_missing_segment_before_a_journal_is_refused(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    (path,) = site.journals()
    header = JournalReader(path).header
    later = journal.Header(journal.UUID(int=1 << 127), header.first_event_no + 5, os.urandom(16))
    path.unlink()
    os.close(JournalWriter(site.layout.journal(GATEWAY, later.segment), later).fd)
    require_refused(site, "begins at event 5, 0 expected")


def without_memory(site: Site) -> None:
    """As where the archive was moved to another machine, and the key with it."""
    (site.keys / f"{GATEWAY}.checkpoint").unlink()


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_log_that_lost_its_checkpoint_is_refused_and_no_evidence_is_removed(
    tmp_path: Path, is_remembered: bool
) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    site.layout.checkpoint(GATEWAY).unlink()
    if not is_remembered:
        without_memory(site)
    require_refused(site, r"checkpoint is gone|remembers one")


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_log_that_is_gone_is_refused_and_no_evidence_is_removed(
    tmp_path: Path, is_remembered: bool
) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    shutil.rmtree(site.archive / "log")
    if not is_remembered:
        without_memory(site)
    require_refused(site, r"remembers one|no seal names it")


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_log_that_was_rolled_back_is_refused_and_no_evidence_is_removed(
    tmp_path: Path, is_remembered: bool
) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    checkpoint = site.layout.checkpoint(GATEWAY)
    older, epoch = checkpoint.read_bytes(), (site.keys / f"{GATEWAY}.epoch").read_bytes()
    record(site)
    checkpoint.write_bytes(older)
    (site.keys / f"{GATEWAY}.epoch").write_bytes(epoch)
    if not is_remembered:
        without_memory(site)
    require_refused(site, r"at least the \d+ of the checkpoint|no seal names it")


def test_a_journal_without_a_log_is_refused(site: Site) -> None:
    shutil.rmtree(site.archive / "log")
    without_memory(site)
    require_refused(site, "gone, and there is a journal")


def test_a_foreign_file_among_the_tables_is_named_and_left_alone(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    (path,) = sealed_files(site, "events")
    path.with_name("notes.parquet").write_bytes(b"mine")
    require_refused(site, r"notes\.parquet: no seal names it")


def test_a_log_of_another_key_is_refused(site: Site) -> None:
    (site.keys / f"{GATEWAY}.key").unlink()
    create_key(site.keys, GATEWAY, ORIGIN)
    require_refused(site, "not signed by this gateway's key")


# --- epoch keys


def test_each_start_begins_an_epoch_and_destroys_the_key_before(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    seen = set()
    for _ in range(3):
        record(site)
        seen.add((site.keys / f"{GATEWAY}.epoch").read_text())
    assert len(seen) == 3
    names = {path.name for path in site.keys.iterdir()}
    assert names == {"gw1.key", "gw1.vkey", "gw1.epoch", "gw1.people", "gw1.checkpoint"}
    for name in ("gw1.key", "gw1.epoch", "gw1.people"):
        assert (site.keys / name).stat().st_mode & 0o077 == 0
    assert types(site).count("key_epoch") == 2
    require_sound(site)


def test_an_epoch_ends_with_the_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentaudit.archive.sealer.EPOCH_S", 0.0)

    async def run() -> None:
        recorder = await start(site)
        exchange(recorder.open_session(ANA), 0)
        await recorder.stop()

    recover(site)
    before = types(site).count("key_epoch")
    with sealer(site) as opened:
        opened.recover()
        header = journal.Header(
            journal.UUID(int=1 << 120), opened._next_event_no, marker=os.urandom(16)
        )
        os.close(JournalWriter(site.layout.journal(GATEWAY, header.segment), header).fd)
        opened.turn()
        opened.turn()
        opened.stop()
    assert types(site).count("key_epoch") >= before + 2
    monkeypatch.undo()
    asyncio.run(run())
    require_sound(site)


def test_segments_that_wait_are_sealed_without_a_pause(site: Site) -> None:
    recover(site)
    with sealer(site) as opened:
        opened.recover()
        for number in range(3):
            segment = journal.UUID(int=(1 << 120) + number)
            header = journal.Header(segment, opened._next_event_no, marker=os.urandom(16))
            os.close(JournalWriter(site.layout.journal(GATEWAY, header.segment), header).fd)
        behind = []
        for _ in range(3):
            opened.turn()
            behind.append(opened.is_behind)
        opened.stop()
    assert behind == [True, True, False]
    require_sound(site)


@pytest.mark.parametrize(
    ("due_s", "waits_s"),
    [(0.0, TICK_S - POLL_S), (1000.5, 0.5)],
    ids=["nothing came before", "something waits for a tick"],
)
def test_a_burst_is_left_alone_until_a_tick_is_due(
    site: Site, monkeypatch: pytest.MonkeyPatch, due_s: float, waits_s: float
) -> None:
    recover(site)
    now_s = 1000.0
    monkeypatch.setattr("agentaudit.archive.sealer.BURST_BYTES", 64 << 10)
    with sealer(site) as opened:
        opened.recover()
        assert not opened.is_to_wait()
        segment = journal.UUID(int=1 << 120)
        header = journal.Header(segment, opened._next_event_no, marker=os.urandom(16))
        writer = JournalWriter(site.layout.journal(GATEWAY, segment), header)
        opened.turn()
        assert not opened.is_to_wait()
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        assert not opened.is_to_wait()
        os.ftruncate(writer.fd, writer.end + (64 << 10))
        opened._tick_due_s = due_s
        assert opened.is_to_wait()
        now_s += waits_s - 0.01
        assert opened.is_to_wait()
        now_s += 0.02
        # It goes on and on: from now on it is sealed as fast as can be.
        assert not opened.is_to_wait()
        now_s += 10 * TICK_S
        assert not opened.is_to_wait()
        os.ftruncate(writer.fd, writer.end)
        assert not opened.is_to_wait()
        os.ftruncate(writer.fd, writer.end + (64 << 10))
        assert opened.is_to_wait()
        os.ftruncate(writer.fd, writer.end)
        assert not opened.is_to_wait()
        # Overdue because a seal took so long: what came meanwhile has waited enough.
        now_s += TICK_S
        os.ftruncate(writer.fd, writer.end + (64 << 10))
        assert not opened.is_to_wait()
        os.ftruncate(writer.fd, writer.end)
        os.close(writer.fd)
        monkeypatch.undo()
        opened.stop()
    require_sound(site)


def test_a_log_whose_epoch_key_is_lost_does_not_go_on(site: Site) -> None:
    recover(site)
    (site.keys / f"{GATEWAY}.epoch").unlink()
    with pytest.raises(RecordingError, match="epoch key"):
        recover(site)


def test_the_lock_is_waited_for_and_then_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentaudit.archive.sealer._LOCK_WAIT_S", 0.0)
    with sealer(site), pytest.raises(RecordingError, match="another gateway records"):
        recover(site)
    waited: list[float] = []
    monkeypatch.setattr("agentaudit.archive.sealer._LOCK_WAIT_S", 60.0)
    held = sealer(site)
    held.__enter__()

    def give_back(seconds: float) -> None:
        waited.append(seconds)
        held.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", give_back)
    recover(site)
    assert len(waited) == 1


def test_a_heartbeat_shows_that_recording_goes_on_where_nothing_happens(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sealer(site) as opened:
        opened.recover()
        header = journal.Header(
            journal.UUID(int=1 << 120), opened._next_event_no, marker=os.urandom(16)
        )
        os.close(JournalWriter(site.layout.journal(GATEWAY, header.segment), header).fd)
        opened.turn()
        assert "heartbeat" not in types(site)
        monkeypatch.setattr("agentaudit.archive.sealer.HEARTBEAT_S", 0.0)
        opened.turn()
        opened.stop()
    beats = [entry for entry in site.log_entries() if entry["type"] == "heartbeat"]
    assert beats[0]["next_event"] == header.first_event_no
    require_sound(site)


def test_an_answer_after_a_recovery_belongs_to_a_new_session(site: Site) -> None:
    recover(site)
    first = len(rows(site, "events"))

    async def run() -> None:
        recorder = await start(site)
        session = recorder.open_session(ANA)
        answer(session, request(session, 0))
        await recorder.stop()

    asyncio.run(run())
    require_sound(site)
    assert rows(site, "events")[first]["kind"] == "session_open"
