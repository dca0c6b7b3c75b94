"""Records archives with sessions that are due, and gives the orders that purge and hold them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive import canonical, leaves
from agentaudit.archive import retention as retention_module
from agentaudit.archive.batch import Entry
from agentaudit.archive.gaps import read_gaps, read_keys
from agentaudit.archive.keys import People
from agentaudit.archive.merkle import GappedFrontier
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.retention import standing
from agentaudit.archive.segment import read_entries
from agentaudit.archive.verify import verify
from agentaudit.model import Event, Kind, SessionFacts
from tests.archive.recording import (
    Site,
    SteppingClock,
    counted,
    exchange,
    order,
    retention,
    rows,
    start,
)

KEEP = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 30})
BIG = b"\xb7" * 9000
BIGGER = b"\xc8" * (1 << 20)


def facts(name: str, target: str = "orders") -> SessionFacts:
    return SessionFacts(protocol="postgres", target=target, user=name, agent=f"agent-of-{name}")


def talk(recorder: Any, name: str, target: str = "orders", reply: bytes = b"reply") -> UUID:
    session = recorder.open_session(facts(name, target))
    exchange(session, 0, f"select 'secret of {name}'", reply)
    exchange(session, 1, f"select 'secret of {name}' {'again ' * 20_000}", reply + name.encode())
    session.close("client")
    return session.session_id


def hmac_of(site: Site, name: str) -> str:
    return People(site.place).hmac(name)


def approval(selector: dict[str, Any], at_us: int) -> dict[str, Any]:
    """Return what a decision says by which somebody else approves an erasure."""
    return {
        "kind": "purge",
        "state": "approved",
        "requester": "aa" * 32,
        "approvers": ["bb" * 32],
        "selector": selector,
        "requested_at": at_us,
        "decided_at": at_us,
    }


def write_down(
    site: Site, recorder: Recorder, ids: dict[str, UUID], at_us: int, **decision: Any
) -> None:
    """Record what orders point to: who ordered, and an approval of any erasure."""

    def record(kind: Kind, /, **members: Any) -> None:
        recorder.control.record(Event(kind=kind, payload=canonical.encode(members)))

    record(Kind.PURGE, action="retention_apply")
    for name, session in ids.items():
        record(Kind.LEGAL_HOLD, action="set", selector={"session": str(session)})
        for selector in ({"session": str(session)}, {"user": hmac_of(site, name)}):
            record(Kind.DECISION, **approval(selector, at_us) | decision)


def event_of(site: Site, kind: str, /, **members: Any) -> int:
    """Return the number of an event of the control session whose row has these members."""
    for row in rows(site, "events"):
        if row["kind"] == kind:
            told = canonical.decode(row["payload"])
            if all(told.get(name) == value for name, value in members.items()):
                return int(row["event_no"])
    raise AssertionError(f"no {kind} with {members}")


def recorded(
    site: Site,
    policy: bytes = KEEP,
    segments: int = 1,
    decision: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, UUID]:
    """Record sessions of 2023 of some people; bob's equal chunks come first."""
    ids: dict[str, UUID] = {}

    async def run() -> None:
        clock = SteppingClock()
        for number in range(segments):
            recorder = await start(site, policy=policy, clock=clock, **options)
            for name in ("bob", "ana", "eve"):
                name += str(number) if number else ""
                ids[name] = talk(recorder, name, reply=BIG)
            ids[f"pay{number}"] = talk(recorder, f"pay{number}", "billing", BIGGER)
            ids[f"other{number}"] = talk(recorder, f"other{number}", "other", BIG)
            write_down(site, recorder, ids, clock.now_us(), **decision or {})
            await counted(recorder)
            await recorder.stop()

    asyncio.run(run())
    return ids


def crowded(site: Site, events: int) -> dict[str, UUID]:
    """Record one segment of so many events, and one session among them that is to go."""
    ids: dict[str, UUID] = {}

    async def run() -> None:
        clock = SteppingClock()
        recorder = await start(site, policy=retention(), clock=clock)
        others = [recorder.open_session(facts(f"other{number}")) for number in range(20)]
        victim = recorder.open_session(facts("victim"))
        ids["victim"] = victim.session_id
        rounds = events // (3 * len(others)) + 1
        for number in range(rounds):
            for other in others:
                exchange(other, number, f"select 'secret of other', {number}", b"answer to other")
            if number in (rounds // 3, rounds // 2):
                exchange(victim, number, "select 'secret of victim'", b"answer to victim")
            if number % 50 == 0:
                await counted(recorder, synced=False)
        for session in (victim, *others):
            session.close("client")
        write_down(site, recorder, ids, clock.now_us())
        await counted(recorder)
        await recorder.stop()

    asyncio.run(run())
    return ids


def split(site: Site, policy: bytes = retention(orders={"keep": 30})) -> dict[str, UUID]:
    """Record two sessions with segments so small that some hold nothing else."""
    ids: dict[str, UUID] = {}

    async def run() -> None:
        clock = SteppingClock()
        recorder = await start(site, policy=policy, clock=clock, segment_events=4)
        for name in ("bob", "ana"):
            session = recorder.open_session(facts(name))
            ids[name] = session.session_id
            for number in range(6):
                exchange(session, number, f"select 'secret of {name}'", BIG)
                await counted(recorder)
            session.close("client")
            await counted(recorder)
        write_down(site, recorder, ids, clock.now_us())
        await counted(recorder)
        await recorder.stop()

    asyncio.run(run())
    return ids


def every_value(site: Site) -> bytes:
    """All bytes of all files, and all values of all Parquet files, dictionaries included."""
    parts = []
    for path in site.archive.rglob("*"):
        if path.is_file():
            parts.append(path.read_bytes())
            if path.suffix == ".parquet":
                with pq.ParquetFile(path) as file:
                    parts.append(str(file.metadata.to_dict()).encode())
                    for group in range(file.num_row_groups):
                        for column in file.read_row_group(group).columns:
                            parts += [b for chunk in column.chunks for b in held_by(chunk)]
    return b"\n".join(parts)


def held_by(array: pa.Array) -> Iterator[bytes]:
    """The buffers in which Arrow keeps an array's values, one behind the other."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        yield from held_by(array.dictionary)
    yield from (buffer.to_pybytes() for buffer in array.buffers() if buffer is not None)


def require_proven(site: Site) -> None:
    """All verifies in depth, and each segment hashes to the root that it has had all along."""
    for deep in (False, True):
        result = verify(site.archive, key=site.vkey, deep=deep, remember=False)
        assert result.ok is True, [str(finding) for finding in result.findings]
    entries = site.log_entries()
    found = standing(entries)
    for seal in (entry for entry in entries if entry["type"] == "seal"):
        remains = found.segments[seal["segment"]]
        if remains.is_gone:
            continue
        gaps = read_gaps(site.layout, UUID(seal["segment"]), remains)
        files = {table: site.archive / file["path"] for table, file in remains.files.items()}
        keys = read_keys(files["sessions"])
        tree = GappedFrontier((i, bytes(gaps.between(i, i + 1) or b"")) for i in gaps.indices)
        for entry, stored in read_entries(files["events"], files.get("blobs")):
            assert entry.event_no - seal["first_event"] == tree.size
            salt = gaps.salts.get(tree.size)
            tree.append(leaf_of(entry, stored, keys[entry.session_id], salt))
        assert (tree.size, tree.root().hex()) == (seal["n"], seal["root"])


def leaf_of(
    entry: Entry, stored: bytes | None, keys: dict[str, bytes | None], salt: bytes | None
) -> bytes:
    """The leaf hash of a row, in a straight line: what is gone has left its commitment or salt."""
    payload = leaves.ABSENT if stored is None else stored
    if entry.payload is not None:
        if keys["key_p"] is not None:
            assert salt is None
            salt = leaves.salt(keys["key_p"], entry.seq)
        assert salt is not None
        payload = leaves.salted_payload_commit(salt, entry.payload)
    assert keys["key_m"] is not None
    assert keys["key_t"] is not None
    text = leaves.text_commit(keys["key_t"], entry.seq, entry.text)
    return leaves.event_leaf(entry, keys["key_m"], text, payload)


def entries_of(site: Site, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in site.log_entries() if entry["type"] == kind]


def apply(site: Site) -> dict[str, Any]:
    answer = order(site, "retention_apply", event=event_of(site, "purge"))
    assert "result" in answer, answer
    return dict(answer["result"])


@contextmanager
def the_next_day() -> Iterator[None]:
    """Let segments have rested that retention rewrote today."""
    with patch.object(retention_module, "is_fresh", return_value=False):
        yield


def apply_for_days(site: Site) -> dict[str, Any]:
    """As `apply` today, and again on the next day for what has to wait until then."""
    first = apply(site)
    with the_next_day():
        second = apply(site)
    return second | {"purges": first["purges"] + second["purges"]}


def erase(site: Site, selector: dict[str, Any], **members: Any) -> dict[str, Any]:
    decision = event_of(site, "decision", selector=selector)
    return order(
        site,
        "erase",
        selector=selector,
        decision=decision,
        decided_at=time.time_ns() // 1000,
        **members,
    )


def hold(site: Site, **selector: Any) -> str:
    return str(asyncio.run(_ordered(site, "set", {"selector": selector}))["hold"])


def release(site: Site, held: str) -> dict[str, Any]:
    return asyncio.run(_ordered(site, "release", {"hold": held}))


async def _ordered(site: Site, action: str, members: dict[str, Any]) -> dict[str, Any]:
    """Record who orders something about a legal hold, and let it be done."""
    recorder = await start(site)
    try:
        said = {"actor": "os:test", "action": action, "authority": "court", "reason": "case 8"}
        event = recorder.record_control(Kind.LEGAL_HOLD, said | members)
        return await recorder.order(f"legal_hold_{action}", event=event, **members)
    finally:
        await recorder.stop()


def listed(site: Site) -> list[dict[str, Any]]:
    """The sessions on all lists of purges."""
    return [
        session
        for path in sorted((site.archive / "purges").glob("*.json"))
        for session in canonical.decode(path.read_bytes())["sessions"]
    ]
