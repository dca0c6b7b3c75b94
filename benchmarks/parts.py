"""What `python -m benchmarks.archive` measures, each part in a process of its own.

`python -m benchmarks.parts PART ARGUMENTS` takes its arguments as JSON and prints what it found as
JSON. Times are of the work alone: starting Python and importing are left out, memory has all of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import uvloop

from agentaudit import load
from agentaudit.archive.clocks import SystemClock
from agentaudit.archive.files import make_folder, replace, sync_folder
from agentaudit.archive.journal import JournalWriter
from agentaudit.archive.keys import People, Place, create_key
from agentaudit.archive.layout import FORMAT_TEXT, TABLES, Layout
from agentaudit.archive.outside import Outside
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.sealer_process import SealerProcess
from agentaudit.archive.verify import verify
from agentaudit.errors import AgentauditError
from agentaudit.model import Durability, Event, Kind, SessionFacts, Side
from benchmarks.measure import children, cpu_seconds, own_cpu_seconds, peak_bytes, sync_ms
from benchmarks.traffic import RARE_TEXT, Traffic, wire_payloads

GATEWAY = "gw1"
ORIGIN = "bench.invalid"
PRODUCERS = 16
_WARM_UP_S = 1.0


def place_of(folder: Path) -> Place:
    """Return where the benchmark's gateway records in `folder`."""
    return Place(archive=folder / "archive", gateway=GATEWAY, origin=ORIGIN, keys=folder / "keys")


# --- seal


def seal(folder: str, **arguments: Any) -> dict[str, Any]:
    """Make an archive: journals one after the other, each sealed by the gateway's own sealer."""
    return asyncio.run(_seal(Path(folder), **arguments))


async def _seal(
    folder: Path, events: int, segment_events: int, seed: int, wire_mean: int
) -> dict[str, Any]:
    place = place_of(folder)
    layout = Layout(place.archive)
    vkey = create_key(place.keys, GATEWAY, ORIGIN)
    make_folder(layout.journals(GATEWAY))
    replace(layout.format_file, FORMAT_TEXT)
    people = People(place).hmac
    traffic = Traffic(events, gateway=GATEWAY, seed=seed, wire_mean=wire_mean, people=people)
    told: dict[str, Any] = {}
    failures: list[AgentauditError] = []
    news = asyncio.Event()

    def said(message: dict[str, Any]) -> None:
        told.update(message)
        news.set()

    def ended(error: AgentauditError) -> None:
        failures.append(error)
        news.set()

    async def until(name: str, value: object) -> None:
        while told.get(name) != value:
            if failures:
                raise failures[0]
            news.clear()
            await news.wait()

    sealer = SealerProcess(said, ended)
    clock = SystemClock()
    clock.kind = "scripted"  # the traffic's times are made up
    await sealer.start(place, clock, Outside())
    (pid,) = children(os.getpid())
    cpu_before, wall, journal_bytes = cpu_seconds(pid), 0.0, 0
    spool = folder / "journal"
    while traffic.next_event_no < events:
        # The sealer waits meanwhile: it has read the journal before this one, and seals that
        # when it sees this one.
        segment = traffic.write_journal(spool, segment_events)
        journal_bytes += spool.stat().st_size
        began = time.perf_counter()
        spool.replace(layout.journal(GATEWAY, segment))
        sync_folder(layout.journals(GATEWAY))
        await until("ticked", traffic.next_event_no)
        wall += time.perf_counter() - began
    began = time.perf_counter()
    header = traffic.empty_header()
    os.close(JournalWriter(layout.journal(GATEWAY, header.segment), header).fd)
    await until("sealed", str(segment))
    wall += time.perf_counter() - began
    cpu, peak = cpu_seconds(pid) - cpu_before, peak_bytes(pid)
    await sealer.stop(failed=False)
    totals = traffic.totals
    return {
        "key": vkey,
        "events": totals.events,
        "sessions": totals.sessions,
        "commands": totals.commands,
        "requests": totals.requests,
        "rare": totals.rare,
        "payload_mean": totals.payload_bytes / totals.events,
        "wire_mean": totals.wire_bytes / max(1, totals.wire_events),
        "journal_bytes": journal_bytes,
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_bytes": peak,
    }


# --- size


def size(folder: str) -> dict[str, Any]:
    """Return the bytes on disk of each table and of the rest, and of each column of events."""
    archive = place_of(Path(folder)).archive
    tables = {table: _bytes(archive / table) for table in TABLES}
    log = _bytes(archive / "log") + _bytes(archive / "heads")
    columns: dict[str, dict[str, int]] = {}
    connection = duckdb.connect()
    for table in ("events", "commands"):
        rows = connection.execute(
            "SELECT split_part(path_in_schema, ', ', 1), sum(total_compressed_size), "
            "sum(total_uncompressed_size) FROM parquet_metadata($files) GROUP BY 1 ORDER BY 2 DESC",
            {"files": [str(path) for path in _files(archive / table)]},
        ).fetchall()
        columns[table] = {name: int(compressed) for name, compressed, _ in rows}
        if table == "events":
            (payload,) = [row for row in rows if row[0] == "payload"]
    return {
        "tables": tables,
        "log": log,
        "columns": columns,
        "payload_ratio": int(payload[2]) / int(payload[1]),
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


# --- verify


def verify_archive(folder: str, key: str, deep: bool) -> dict[str, Any]:
    """Verify the archive once."""
    archive = place_of(Path(folder)).archive
    before, began = own_cpu_seconds(), time.perf_counter()
    result = verify(archive, key=key, deep=deep, remember=False)
    return {
        "cpu_s": own_cpu_seconds() - before,
        "wall_s": time.perf_counter() - began,
        "peak_bytes": peak_bytes(),
        "ok": result.ok,
        "events": result.events,
        "findings": [str(finding) for finding in result.findings[:10]],
    }


# --- ask

_SESSION = (
    # An ordinary one of the middle, and its user and hour.
    "SELECT session_id::VARCHAR, \"user\", date_trunc('hour', opened_at::TIMESTAMP) "
    "FROM sessions WHERE protocol = 'postgres' AND is_final "
    "ORDER BY abs(events - 200), abs(open_event_no - $middle) LIMIT 1"
)
QUESTIONS = {
    "user and hour": (
        'SELECT event_no, observed_at, session_id, kind, text FROM events WHERE "user" = $user '
        "AND observed_at >= $hour AND observed_at < $hour + INTERVAL 1 HOUR"
    ),
    "one session with payloads": (
        "SELECT seq, observed_at, kind, text, payload FROM events "
        "WHERE session_id = $session::UUID ORDER BY seq"
    ),
    "LIKE over all texts": f"SELECT count(*) FROM events WHERE text LIKE '%{RARE_TEXT}%'",
    "count a minute": "SELECT epoch_us(observed_at)//60000000 AS minute, count(*) FROM events "
    "GROUP BY minute",
}
"""What is asked of DuckDB, the same of the views and of the files."""


def ask(folder: str, repeats: int) -> dict[str, Any]:
    """Ask the views of `agentaudit.load`, and the files themselves; every time is a median."""
    archive = place_of(Path(folder)).archive
    before, began = own_cpu_seconds(), time.perf_counter()
    case = load(archive)
    opened = {"cpu_s": own_cpu_seconds() - before, "wall_s": time.perf_counter() - began}
    files = [str(path) for path in _files(archive / "events")]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(
        "CREATE VIEW events AS SELECT * FROM read_parquet("
        f"{files}, hive_partitioning = false)"  # names of ours
    )
    ((events, middle),) = case.sql("SELECT count(*), count(*) // 2 FROM events").fetchall()
    ((session, user, hour),) = case.sql(_SESSION, {"middle": middle}).fetchall()
    values = {"session": session, "user": user, "hour": hour}
    asked: dict[str, Any] = {}
    for name, sql in QUESTIONS.items():
        parameters = {key: value for key, value in values.items() if f"${key}" in sql}
        asked[name] = {
            "views": _timed(lambda: case.sql(sql, parameters).to_arrow_table(), repeats),  # noqa: B023
            "files": _timed(
                lambda: connection.sql(sql, params=parameters).to_arrow_table(),  # noqa: B023
                repeats,
            ),
        }
    ((rare,),) = case.sql(QUESTIONS["LIKE over all texts"]).fetchall()
    ((sessions, in_session),) = case.sql(
        "SELECT count(*), sum(events) FILTER (session_id = $session::UUID) FROM sessions",
        {"session": session},
    ).fetchall()
    ((commands,),) = case.sql("SELECT count(*) FROM commands").fetchall()
    return {
        "opened": opened,
        "asked": asked,
        "found": {
            "events": events,
            "sessions": sessions,
            "commands": commands,
            "rare": rare,
        },
        "in_session": int(in_session),
    }


def _timed(run: Callable[[], Any], repeats: int) -> dict[str, Any]:
    rows = run().num_rows  # warms what any reader would have warm, and is not counted
    cpu: list[float] = []
    wall: list[float] = []
    for _ in range(repeats):
        before, began = own_cpu_seconds(), time.perf_counter()
        run()
        wall.append(time.perf_counter() - began)
        cpu.append(own_cpu_seconds() - before)
    return {"cpu_s": median(cpu), "wall_s": median(wall), "rows": rows}


# --- record


def record(folder: str, seconds: float, seed: int) -> dict[str, Any]:
    """Let `PRODUCERS` record in strict mode, each waiting for every acknowledgement."""
    place = place_of(Path(folder))
    vkey = create_key(place.keys, GATEWAY, ORIGIN)
    before_ms = sync_ms(place.keys)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_record(place, seconds, seed))
    found["sync_ms"] = median([before_ms, sync_ms(place.keys)])
    result = verify(place.archive, key=vkey, deep=True, remember=False)
    found |= {
        "ok": result.ok,
        "events": result.events,
        "findings": [str(finding) for finding in result.findings[:10]],
    }
    return found


async def _record(place: Place, seconds: float, seed: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    recorder = await Recorder.start(
        archive=place.archive,
        gateway=place.gateway,
        origin=place.origin,
        keys=place.keys,
        durability=Durability.STRICT,
    )
    payloads = cycle(wire_payloads(seed, 10_000))
    # As the gateway sets its own collector.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    latencies: list[float] = []
    recorded = 0
    counting = loop.time() + _WARM_UP_S
    end = counting + seconds

    async def produce(number: int) -> None:
        nonlocal recorded
        facts = SessionFacts(protocol="postgres", target="orders", user=f"producer-{number}")
        session = recorder.open_session(facts)
        while (now := loop.time()) < end:
            payload = next(payloads)
            done = loop.create_future()
            began = time.perf_counter()
            session.record(
                Event(
                    kind=Kind.RESPONSE,
                    side=Side.TARGET,
                    payload=payload,
                    orig_len=len(payload),
                )
            )
            recorder.release(partial(done.set_result, None), synced=True)
            await done
            recorded += 1
            if now >= counting:
                latencies.append(time.perf_counter() - began)
        session.close("client")

    async def cpu_at(when: float) -> float:
        await asyncio.sleep(when - loop.time())
        return time.process_time()

    async with asyncio.TaskGroup() as group:
        for number in range(PRODUCERS):
            group.create_task(produce(number))
        first, last = group.create_task(cpu_at(counting)), group.create_task(cpu_at(end))
    await recorder.stop()
    return {
        "rate": len(latencies) / seconds,
        "latency_ms": median(latencies) * 1000,
        "cpu_us": (last.result() - first.result()) / len(latencies) * 1e6,
        # Opens and closes of all sessions, the recorder's own included.
        "expected": recorded + 2 * (PRODUCERS + 1),
    }


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "seal": seal,
    "size": size,
    "verify": verify_archive,
    "ask": ask,
    "record": record,
}

if __name__ == "__main__":
    try:
        print(json.dumps(PARTS[sys.argv[1]](**json.loads(sys.argv[2]))))
    except AgentauditError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
