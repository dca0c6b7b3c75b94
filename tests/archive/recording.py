"""Records small archives, with the real sealer process or with a sealer in this one."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from agentaudit.archive import canonical
from agentaudit.archive import sealer as sealer_module
from agentaudit.archive.drill.machine import Machine, fresh_log
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.keys import Place, create_key
from agentaudit.archive.layout import Layout
from agentaudit.archive.note import Signer
from agentaudit.archive.outside import Outside
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.archive.retention import DAY_US, standing
from agentaudit.archive.sealer import Sealer
from agentaudit.archive.verify import verify
from agentaudit.model import Command, Event, Kind, SessionFacts, Side

GATEWAY = "gw1"
ORIGIN = "audit.example.com"
DEADLINE_S = 60.0

ANA = SessionFacts(
    protocol="postgres",
    target="orders",
    user="ana",
    issuer="https://id.example.com",
    email="ana@example.com",
    groups=("data-agents", "eu"),
    agent="copilot-7",
    actor_chain=("copilot-7", "ana"),
    run_id="run-41",
    labels={"model": "m-2", "application_name": "psql"},
    client_addr="192.0.2.7:50123",
    client_app="psql",
    gateway_port=6432,
    target_addr="198.51.100.4:5432",
    target_pid=4711,
)
BOB = SessionFacts(protocol="postgres", target="billing", user="bob", agent="copilot-9")


class SteppingClock:
    """Goes on by a millisecond whenever it is asked, from 14 November 2023, 22:13:20 UTC."""

    kind = "scripted"

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        self.us += 1000
        return self.us

    def mono_ns(self) -> int:
        return (self.us - 1_600_000_000_000_000) * 1000


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with an archive and the keys of its gateway; `vkey` is what auditors are given."""

    folder: Path
    vkey: str

    @property
    def machine(self) -> Machine:
        """The same as a drill sees it, with any number of gateways."""
        return Machine(self.folder, ORIGIN)

    @property
    def archive(self) -> Path:
        return self.machine.archive

    @property
    def keys(self) -> Path:
        return self.machine.keys

    @property
    def layout(self) -> Layout:
        return self.machine.layout

    @property
    def place(self) -> Place:
        return self.machine.place(GATEWAY)

    @property
    def signer(self) -> Signer:
        return self.machine.log_key(GATEWAY)

    @property
    def signers(self) -> list[Signer]:
        """The keys that sign now: the log's, and the current epoch's."""
        return [self.signer, self.machine.epoch_key(GATEWAY)]

    def journals(self) -> list[Path]:
        return sorted(self.layout.journals(GATEWAY).glob("*.journal"))

    def log_entries(self) -> list[dict[str, Any]]:
        return self.machine.entries(GATEWAY)

    def copy_to(self, folder: Path) -> Site:
        """Return a copy of this site in `folder`, which is not there yet.

        Of its own, other than a machine's: tests change files in place.
        """
        shutil.copytree(self.folder, folder, symlinks=True)
        return Site(folder, self.vkey)


def new_site(folder: Path) -> Site:
    """Return a new site with a log key and no archive."""
    folder.mkdir(parents=True)
    return Site(folder, create_key(folder / "keys", GATEWAY, ORIGIN))


async def start(site: Site, **options: Any) -> Recorder:
    """Start recording at `site`."""
    return await Recorder.start(
        archive=site.archive, gateway=GATEWAY, origin=ORIGIN, keys=site.keys, **options
    )


async def counted(recorder: Recorder, *, synced: bool = True) -> None:
    """Return once all that was recorded so far is written, or synced."""
    done = asyncio.get_running_loop().create_future()
    recorder.release(lambda: done.set_result(None), synced=synced)
    await asyncio.wait_for(done, DEADLINE_S)


class CheckedLoop:
    """The event loop of a recorder, counting how often it is asked for the next check."""

    def __init__(self, recorder: Recorder) -> None:
        self.checks = 0
        self._loop = recorder._loop
        recorder._loop = self  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        self.checks += "_check" in getattr(callback, "__name__", "")
        return self._loop.call_later(delay, callback, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition()` is true; fail where it never is."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:g} s"
        await asyncio.sleep(0.005)


def request(session: SessionRecorder, command_no: int, sql: str = "select 1") -> Command:
    """Record that a command was asked for; it is under way."""
    command = Command(command_no=command_no, text=sql, operation="SELECT", cls="read")
    session.begin(command)
    frame = b"Q" + (len(sql) + 5).to_bytes(4) + sql.encode("utf-8", "replace") + b"\0"
    session.record(
        Event(
            kind=Kind.REQUEST,
            side=Side.CLIENT,
            command_no=command_no,
            text=sql,
            payload=frame,
            orig_len=len(frame),
        )
    )
    return command


def answer(
    session: SessionRecorder, command: Command, reply: bytes = b"C\0\0\0\rSELECT 1\0"
) -> None:
    """Record the reply to `command`, and its end."""
    session.record(
        Event(
            kind=Kind.RESPONSE,
            side=Side.TARGET,
            command_no=command.command_no,
            payload=reply,
            orig_len=len(reply),
        )
    )
    command.status = "ok"
    command.rows_returned = 1
    session.end(command)


def exchange(
    session: SessionRecorder, command_no: int, sql: str = "select 1", reply: bytes = b"reply"
) -> None:
    """Record one command with its reply, five frames' worth of nothing special."""
    answer(session, request(session, command_no, sql), reply)


def record(site: Site, sessions: int = 1, commands: int = 2, **options: Any) -> None:
    """Record `sessions` whole sessions of `commands` commands each, and stop: all is sealed."""

    async def run() -> None:
        recorder = await start(site, **options)
        for number in range(sessions):
            session = recorder.open_session(ANA if number % 2 == 0 else BOB)
            for command_no in range(commands):
                exchange(session, command_no, f"select {number}, {command_no}")
                await counted(recorder)
            session.close("client")
        await recorder.stop()

    asyncio.run(run())


@contextmanager
def sealer(
    site: Site,
    clock: str = "system",
    said: Callable[[dict[str, Any]], None] = lambda message: None,
    outside: Outside | None = None,
) -> Iterator[Sealer]:
    """A sealer in this process; leaving gives its lock back, as the end of its process would."""
    locks: list[int] = []
    take = sealer_module._take_lock

    def taken(path: Path) -> int:
        locks.append(take(path))
        return locks[-1]

    sealer_module._take_lock = taken
    try:
        yield Sealer(site.place, clock, said, outside)
    finally:
        sealer_module._take_lock = take
        for lock in locks:
            os.close(lock)


def recover(site: Site) -> int:
    """Start and stop a sealer: recover what a crash left, seal it, return the next event_no."""
    with sealer(site) as opened:
        next_event_no = opened.recover()
        opened.stop()
    return next_event_no


def order(site: Site, do: str, **members: Any) -> dict[str, Any]:
    """Give one order to a sealer that records nothing else; return its answer."""
    answers: list[dict[str, Any]] = []
    with sealer(site, said=answers.append) as opened:
        opened.recover()
        opened.order({"order": 1, "do": do, **members})
        opened.stop()
    (answer,) = (answer for answer in answers if answer.get("order") == 1)
    return answer


def retention(**targets: dict[str, int | None]) -> bytes:
    """Return a policy document that says how many days each target is kept."""
    classes = {}
    for target, days in targets.items():
        members = {"keep": None, "payload_keep": None, "notice": 7} | days
        classes[target] = {
            f"{name}_us": None if value is None else value * DAY_US
            for name, value in members.items()
        }
    named = {target: target for target in targets}
    return canonical.encode({"retention": {"classes": classes, "targets": named}})


def sealed_files(site: Site, table: str) -> list[Path]:
    """Return the sealed files of `table` as the log names them, in its order."""
    segments = standing(site.log_entries()).segments.values()
    return [site.archive / s.files[table]["path"] for s in segments if table in s.files]


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    """Return the sealed rows of `table`, in log order."""
    found: list[dict[str, Any]] = []
    for path in sealed_files(site, table):
        found += pq.ParquetFile(path).read().to_pylist()
    return found


def resign(site: Site, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Write the log again with `change` of its entries, under the gateway's real keys.

    Epoch keys of the past are gone: only what follows the last `key_epoch` can be changed.
    """
    entries = change(site.log_entries())
    memory = site.keys / f"{GATEWAY}.checkpoint"
    log = fresh_log(site.layout.log(GATEWAY), site.place.log_origin, site.signers, memory)
    log.append(entries)


def require_sound(site: Site) -> None:
    """The archive verifies in depth, its numbers are dense, and its tables agree."""
    result = verify(site.archive, key=site.vkey, deep=True, remember=False)
    assert result.ok is True, [str(finding) for finding in result.findings]
    events = rows(site, "events")
    assert [event["event_no"] for event in events] == list(range(len(events)))
    assert result.events == len(events)
    by_session: dict[Any, list[Any]] = {}
    for event in events:
        by_session.setdefault(event["session_id"], []).append(event)
    for session in by_session.values():
        assert [event["seq"] for event in session] == list(range(len(session)))
        assert session[0]["kind"] == "session_open"
        assert session[-1]["kind"] == "session_close"
        assert [e["kind"] for e in session].count("session_close") == 1
    final = [row for row in rows(site, "sessions") if row["is_final"]]
    assert {row["session_id"] for row in final} == set(by_session)
    for row in final:
        assert row["events"] == len(by_session[row["session_id"]])


def crashed(
    site: Site,
    *,
    close: bool = False,
    more: Callable[[Recorder], None] = lambda recorder: None,
    **options: Any,
) -> None:
    """Record two sessions with a command in flight, all synced, and crash.

    `close` ends the sessions; `more` records what else there is to be.
    """

    async def run() -> None:
        recorder = await start(site, **options)
        ana, bob = recorder.open_session(ANA), recorder.open_session(BOB)
        exchange(ana, 0, "select 'done'")
        exchange(ana, 1, "select 'blob'", b"\xb7" * 9000)
        await counted(recorder)
        exchange(bob, 0, "select 'bob'")
        if close:
            for session in (ana, bob, recorder.control):
                session.close("client")
        else:
            request(ana, 2, "select 'in flight'")
        more(recorder)
        await counted(recorder)
        sealer_process = recorder._sealer
        sealer_process.kill()
        await sealer_process._exited
        recorder._stopping = True
        recorder._syncer.stop()
        await asyncio.get_running_loop().run_in_executor(None, recorder._syncer.join)
        if recorder._watch is not None:
            recorder._watch.cancel()
        assert recorder._journal is not None
        os.close(recorder._journal.fd)

    asyncio.run(run())


def ticked(site: Site) -> int:
    """Sign a tick over all that the journal holds; return how many events that is."""
    with sealer(site) as opened:
        # As a running sealer does, without the recovery that would close the journal.
        opened._read_log()
        opened._log.signers = site.signers
        opened.turn()
    ticks = [entry["n"] for entry in site.log_entries() if entry["type"] == "tick"]
    return int(ticks[-1])


def boundaries(path: Path) -> list[int]:
    reader = JournalReader(path)
    return [reader.offset, *(reader.offset for _ in reader.read())]
