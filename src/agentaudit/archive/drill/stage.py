"""The stage of a drill: the archive's own history under keys of the drill, and two days on top.

The private keys of a given archive are not there, and must not be; so its log is written anew
under keys that the drill makes, and attackers who hold keys can be played. Then the real recorder
writes a `yesterday` and a `today` behind it, and a log of a second gateway: that gives any archive
a key that was destroyed, a live journal, and something to roll back to.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from agentaudit.archive import canonical
from agentaudit.archive.drill.machine import Machine, epoch_name, write_file, write_log
from agentaudit.archive.files import PRIVATE_MODE, replace
from agentaudit.archive.ids import uuid7
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.keys import create_key
from agentaudit.archive.layout import FORMAT_TEXT, Layout
from agentaudit.archive.log import Log, read_log
from agentaudit.archive.note import CosigningKey, Signer
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.archive.retention import NOTICE_US, Standing, standing
from agentaudit.archive.tlog_policy import format_policy
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError
from agentaudit.model import Command, Event, Kind, SessionFacts, Side

MAX_EVENTS = 200_000
"""Of a larger archive the drill takes the first runs: an attack on one is like on another."""

KEPT, DUE = "drill-orders", "drill-due"
"""Targets of the drill's own days: of the second one, sessions are due at once."""

POLICY = canonical.encode(
    {
        "retention": {
            "classes": {"due": {"keep_us": 0, "payload_keep_us": None, "notice_us": NOTICE_US}},
            "targets": {DUE: "due"},
        },
        "rules": [],
    }
)
"""The rules that the drill's own days are recorded under."""

APPROVED = "ana"
"""Whose session was erased, as somebody else approved."""

SELF_APPROVED = "bob"
"""Whose sessions somebody wanted to be erased, and approved that themselves."""

HELD, PURGED = "cleo", "dora"
"""Whose sessions are due: one is under a legal hold, the other one was purged."""

CONTROL = "the gateway"
"""Stands for the sessions of nobody, in which a gateway keeps who decided what."""

_TARGETS = {APPROVED: KEPT, SELF_APPROVED: KEPT, HELD: DUE, PURGED: DUE}

_LIVE_S = 60.0
_POLL_S = 0.02
_OF_A_SEGMENT = ("open_segment", "tick", "seal")
# They vouch for a log that the drill has written anew, or end it.
_LEFT_OUT = ("anchor", "retire")


@dataclass(frozen=True, slots=True)
class Taken:
    """What of the given archive the stage holds."""

    gateways: int
    segments: int
    segments_there: int
    events: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The machine at four times, each a folder of its own."""

    folder: Path
    gateway: str
    """The gateway that is attacked."""
    other: str
    """A second one, which records into the same archive."""
    taken: Taken
    yesterday: Machine
    live: Machine
    """Today, while the gateway records: a journal with ticks, and events that none covers."""
    today: Machine
    """Today, after the gateway has stopped."""
    purged: Machine
    """A day later: the second gateway has set a legal hold, and purged what is due and approved."""
    decisions: dict[str, int]
    """The number of the event that decides about a user's sessions."""
    witness: CosigningKey
    """The key of a witness that saw the log grow, at each of these times."""

    def trust_policy(self) -> bytes:
        """Return the policy of an auditor who asks for the witness's cosignature."""
        logs = [self.today.log_key(name).verifier for name in self.today.layout.gateways()]
        return format_policy(logs, [(self.witness.cosigner, "https://witness.invalid")])

    def verifier_keys(self) -> list[str]:
        """Return what an auditor of this archive was given, of every gateway."""
        keys = sorted(self.today.keys.glob("*.vkey"))
        return [line for path in keys for line in path.read_text().split()]


def build(archive: Path, folder: Path) -> Stage:
    """Return a stage in `folder`, which is empty, made of the archive at `archive`.

    Raises:
        ArchiveError: there is no sound archive; what is found of it is in the message.
    """
    source = Layout(archive)
    require_sound(verify(archive, remember=False), f"archive {archive}")
    machine = Machine(folder / "work", f"drill-{secrets.token_hex(4)}.agentaudit.invalid")
    machine.archive.mkdir(parents=True)
    write_file(machine.layout.format_file, FORMAT_TEXT)
    gateways = source.gateways()
    taken = [_rekey(source, machine, gateway) for gateway in gateways]
    largest = max(range(len(gateways)), key=lambda number: taken[number].events)
    gateway, other = gateways[largest], _unused(gateways)
    create_key(machine.keys, other, machine.origin)
    record(machine, [gateway, other])
    yesterday = machine.copy_to(folder / "yesterday")
    live = asyncio.run(_record_watched(machine, gateway, folder))
    today = machine.copy_to(folder / "today")
    decisions = asyncio.run(_purge(machine, other))
    stage = Stage(
        folder=folder,
        gateway=gateway,
        other=other,
        taken=Taken(
            gateways=len(gateways),
            segments=sum(one.segments for one in taken),
            segments_there=sum(one.segments_there for one in taken),
            events=sum(one.events for one in taken),
        ),
        yesterday=yesterday,
        live=live,
        today=today,
        purged=machine,
        decisions=decisions,
        witness=CosigningKey.generate("witness.drill.invalid"),
    )
    for one in (yesterday, live, today, machine):
        found = verify(one.archive, key=stage.verifier_keys(), deep=True, remember=False)
        require_sound(found, "the drill's copy")
    return stage


def require_sound(result: Any, what: str) -> None:
    """Return if nothing was found, and nothing left unread, but who signed it.

    Raises:
        ArchiveError: something was.
    """
    faults = [*map(str, result.findings), *result.unread]
    if faults:
        raise ArchiveError(
            f"{what}: not sound, so a drill would prove nothing: {faults[0]}",
            hint="agentaudit verify says all that is wrong with it",
        )


# --- the archive's own history --------------------------------------------------------------------


def _rekey(source: Layout, machine: Machine, gateway: str) -> Taken:
    """Copy what one log binds, and write the log anew under new keys."""
    log = read_log(source.log(gateway), [])
    seals = [entry for entry in log.entries() if entry["type"] == "seal"]
    kept = _runs(log, seals, has_tail=_copy_tail(source, machine, gateway, log))
    if kept < len(seals):
        shutil.rmtree(machine.layout.journals(gateway), ignore_errors=True)
    entries = list(_history(log, seals, kept, machine.layout.journal_segments(gateway)))
    create_key(machine.keys, gateway, machine.origin)
    log_key, epoch_keys = machine.log_key(gateway), [machine.epoch_key(gateway)]
    for entry in entries:
        if entry["type"] == "genesis":
            entry |= {
                "origin": log_key.verifier.name,
                "key": str(log_key.verifier),
                "epoch_key": str(epoch_keys[0].verifier),
            }
        elif entry["type"] == "key_epoch":
            epoch_keys.append(Signer.generate(epoch_name(machine.origin, gateway)))
            entry["key"] = str(epoch_keys[-1].verifier)
        elif entry["type"] == "policy":
            _copy(source, machine, source.policy(entry["sha256"]))
    _copy_sealed(source, machine, standing(entries))
    write_file(machine.layout.verifier_key(gateway), f"{log_key.verifier}\n".encode())
    machine.layout.head(UUID(int=0)).parent.mkdir(exist_ok=True)
    write_log(machine, gateway, entries, log_key, epoch_keys)
    replace(
        machine.keys / f"{gateway}.epoch",
        f"{epoch_keys[-1].private_text()}\n".encode(),
        mode=PRIVATE_MODE,
    )
    return Taken(1, kept, len(seals), sum(seal["n"] for seal in seals[:kept]))


def _copy_tail(source: Layout, machine: Machine, gateway: str, log: Log) -> bool:
    """Copy the journals of what is not sealed; say whether there is all that the log has begun.

    To the recorder, which starts on the copy, they are what a crash left.
    """
    begun = set()
    for entry in log.entries():
        if entry["type"] == "open_segment":
            begun.add(UUID(entry["segment"]))
        elif entry["type"] == "seal":
            begun.discard(UUID(entry["segment"]))
    try:
        for segment in source.journal_segments(gateway):
            _copy(source, machine, source.journal(gateway, segment))
            copy = machine.layout.journal(gateway, segment)
            # It may be written meanwhile, and copied with a gap and more behind that.
            os.truncate(copy, JournalReader(copy).skip())
    except ArchiveError:
        return False  # only the gateway may read them, or it has just sealed one
    return begun <= machine.layout.journal_segments(gateway)


def _runs(log: Log, seals: Sequence[dict[str, Any]], *, has_tail: bool) -> int:
    """Return how many segments to take: all, or those of the first runs of the gateway.

    Behind a run's last segment no session is open; one that is could not be gone on with.
    """
    ends = [number for number, seal in enumerate(seals, 1) if seal["sessions_open"] == 0]
    is_whole = has_tail or not seals or len(seals) in ends
    if any(entry["type"].startswith("purge_") for entry in log.entries()):
        # What was purged is told of many segments at once: such a history is taken whole.
        if not is_whole:
            raise ArchiveError(
                f"log {log.folder.name}: a gateway records, and its journal cannot be read",
                hint="drill as the gateway's user, or on a copy of a time when it did not record",
            )
        return len(seals)
    events = list(itertools.accumulate(seal["n"] for seal in seals))
    if is_whole and (not seals or events[-1] <= MAX_EVENTS):
        return len(seals)
    small = [number for number in ends if events[number - 1] <= MAX_EVENTS]
    return max(small, default=min(ends, default=0))


def _history(
    log: Log, seals: Sequence[dict[str, Any]], kept: int, live: set[UUID]
) -> Iterator[dict[str, Any]]:
    """Yield the entries that the stage begins with: those of `kept` segments and the live ones."""
    segments = {seal["segment"] for seal in seals[:kept]} | {str(segment) for segment in live}
    last = seals[kept - 1]["segment"] if kept else None
    for entry in log.entries():
        if entry["type"] in _LEFT_OUT:
            continue
        if entry["type"] not in _OF_A_SEGMENT or entry["segment"] in segments:
            yield entry
        if kept < len(seals) and (entry.get("segment") == last and entry["type"] == "seal"):
            return


def _copy_sealed(source: Layout, machine: Machine, stands: Standing) -> None:
    """Copy the files of all segments, and what purges have left of them."""
    for segment, remains in stands.segments.items():
        for file in remains.files.values():
            _copy(source, machine, source.root / file["path"])
        for number, _ in remains.residues:
            _copy(source, machine, source.residue(UUID(segment), number))
        for number, _ in remains.salts:
            _copy(source, machine, source.salts(UUID(segment), number))
    for purge in stands.purges:
        _copy(source, machine, source.purge(purge))


def _copy(source: Layout, machine: Machine, path: Path) -> None:
    """Copy one file that the archive names; it was verified, so it lies inside."""
    target = machine.archive / path.relative_to(source.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, target, follow_symlinks=False)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from error


def _unused(gateways: list[str]) -> str:
    number = 2
    while f"drill{number}" in gateways:
        number += 1
    return f"drill{number}"


# --- days on top ----------------------------------------------------------------------------------


def record(machine: Machine, gateways: Sequence[str], *, sessions: bool = True) -> None:
    """Start `gateways` on `machine`, which recovers what is there; record a day, and stop."""
    asyncio.run(_record(machine, gateways, sessions))


async def _record(machine: Machine, gateways: Sequence[str], sessions: bool) -> None:
    for gateway in gateways:
        recorder = await _started(machine, gateway)
        if sessions:
            await _day(recorder)
        await recorder.stop()


async def _record_watched(machine: Machine, gateway: str, folder: Path) -> Machine:
    """Record a day; return the machine as it was meanwhile, behind a tick that covers not all."""
    recorder = await _started(machine, gateway)
    await _day(recorder)
    try:
        async with asyncio.timeout(_LIVE_S):
            for attempt in itertools.count():
                # Nobody but the log says when the sealer ticks.
                if _ticks(machine, gateway) < 3:
                    await asyncio.sleep(_POLL_S)
                    continue
                _session(recorder, "eve", KEPT)
                await _synced(recorder)
                live = machine.copy_to(folder / f"live-{attempt}")
                # The sealer goes on while we copy: a tick in between is one too many.
                memory = (live.keys / f"{gateway}.checkpoint").read_text()
                ticks = _ticks(live, gateway)
                if memory == live.checkpoint(gateway) and _journaled(live, gateway) > ticks:
                    return live
    finally:
        await recorder.stop()
    raise AssertionError("the copies above do not end")


async def _purge(machine: Machine, gateway: str) -> dict[str, int]:
    """Set a legal hold and purge by policy and by decision; return who decided about whom."""
    recorder = await _started(machine, gateway)
    try:
        held = _selector(recorder, HELD)
        hold = {"actor": "drill", "action": "set", "authority": "a court", "reason": "a drill"}
        event = recorder.record_control(Kind.LEGAL_HOLD, hold | {"selector": held})
        await recorder.order("legal_hold_set", selector=held, event=event)
        event = recorder.record_control(Kind.PURGE, {"actor": "drill", "action": "retention_apply"})
        await recorder.order("retention_apply", event=event)
        decided_us = recorder.clock.now_us()
        approved = _selector(recorder, APPROVED)
        own = {"session": str(session_ids(machine, gateway, "")[0])}
        decisions = {
            APPROVED: _decide(recorder, approved, "approver", decided_us),
            SELF_APPROVED: _decide(
                recorder, _selector(recorder, SELF_APPROVED), "requester", decided_us
            ),
            CONTROL: _decide(recorder, own, "approver", decided_us),
        }
        await recorder.order(
            "erase", selector=approved, decision=decisions[APPROVED], decided_at=decided_us
        )
    finally:
        await recorder.stop()
    return decisions


def _decide(recorder: Recorder, selector: dict[str, str], approver: str, now_us: int) -> int:
    return recorder.record_control(
        Kind.DECISION,
        {
            "request_id": str(uuid7(now_us)),
            "kind": "purge",
            "requester": recorder.hmac("requester"),
            "approvers": [recorder.hmac(approver)],
            "reasons": ["a drill"],
            "requested_at": now_us,
            "decided_at": now_us,
            "state": "approved",
            "selector": selector,
        },
    )


def session_ids(machine: Machine, gateway: str, user: str) -> list[UUID]:
    """Return the sessions of `user` in the first segment of `gateway`'s log, by their order."""
    seal = next(entry for entry in machine.entries(gateway) if entry["type"] == "seal")
    path: str = seal["files"]["sessions"]["path"]
    table = pq.read_table(machine.archive / path, columns=["session_id", "user"])
    ids, users = (table.column(name).to_pylist() for name in ("session_id", "user"))
    return [value for value, name in zip(ids, users, strict=True) if name == user]


def _selector(recorder: Recorder, user: str) -> dict[str, str]:
    return {"user": recorder.hmac(user)}


async def _started(machine: Machine, gateway: str) -> Recorder:
    return await Recorder.start(
        archive=machine.archive,
        gateway=gateway,
        origin=machine.origin,
        keys=machine.keys,
        policy=POLICY,
    )


async def _day(recorder: Recorder) -> None:
    for user, target in _TARGETS.items():
        _session(recorder, user, target).close("client")
    await _synced(recorder)


def _session(recorder: Recorder, user: str, target: str) -> SessionRecorder:
    """Record the beginning of a session, with two commands."""
    session = recorder.open_session(
        SessionFacts(protocol="postgres", target=target, user=user, agent="drill")
    )
    for command_no in range(2):
        sql = f"fetch {command_no} from totals"
        command = Command(command_no=command_no, text=sql, operation="FETCH", cls="read")
        session.begin(command)
        for kind, side, text, data in (
            (Kind.REQUEST, Side.CLIENT, sql, sql.encode()),
            (Kind.RESPONSE, Side.TARGET, None, b"\x2a" * 40),
        ):
            session.record(
                Event(
                    kind=kind,
                    side=side,
                    command_no=command_no,
                    text=text,
                    payload=data,
                    orig_len=len(data),
                )
            )
        command.status = "ok"
        command.rows_returned = 1
        session.end(command)
    return session


async def _synced(recorder: Recorder) -> None:
    done = asyncio.get_running_loop().create_future()
    recorder.release(lambda: done.set_result(None), synced=True)
    await done


def _ticks(machine: Machine, gateway: str) -> int:
    """Return how many events of the open segment the last tick covers."""
    last = machine.entries(gateway)[-1]
    return int(last["n"]) if last["type"] == "tick" else 0


def _journaled(machine: Machine, gateway: str) -> int:
    """Return how many events the journal of the open segment holds."""
    (segment,) = machine.layout.journal_segments(gateway)
    return sum(1 for _ in JournalReader(machine.layout.journal(gateway, segment)).read())
