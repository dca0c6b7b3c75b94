"""Reading an archive: by its log, with the live tail, and by plain DuckDB and Polars."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet as pq
import pytest

from agentaudit.archive import journal, snapshot
from agentaudit.archive.log import Log
from agentaudit.archive.segment import SCHEMAS
from agentaudit.archive.snapshot import Snapshot, open_archive
from agentaudit.errors import ArchiveError
from tests.archive.recording import (
    ANA,
    GATEWAY,
    Site,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    recover,
    request,
    resign,
    rows,
    sealed_files,
    start,
)
from tests.archive.test_tampering import earlier_checkpoint, rekeyed


@pytest.fixture(scope="module")
def sealed_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("sealed") / "site")
    record(site, sessions=2, commands=3, segment_events=20)
    return site


@pytest.fixture(scope="module")
def live_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One sealed segment, and a journal with sessions that go on."""
    site = new_site(tmp_path_factory.mktemp("live") / "site")
    record(site, commands=1)
    crashed(site)
    return site


@pytest.fixture
def site(sealed_site: Site, tmp_path: Path) -> Site:
    return sealed_site.copy_to(tmp_path / "copy")


@pytest.fixture
def live(live_site: Site, tmp_path: Path) -> Site:
    return live_site.copy_to(tmp_path / "copy")


def numbers(read: Snapshot) -> list[int]:
    """Return all event numbers of a snapshot, in its order."""
    found: list[int] = []
    for path in read.files["events"]:
        found += pq.ParquetFile(path).read(columns=["event_no"]).column(0).to_pylist()
    return found + read.live["events"].column("event_no").to_pylist()


def test_a_snapshot_names_the_sealed_files_in_the_order_of_the_log(site: Site) -> None:
    read = open_archive(site.archive)
    assert {table: files for table, files in read.files.items() if files} == {
        table: sealed_files(site, table) for table in ("events", "commands", "sessions")
    }
    assert numbers(read) == list(range(len(rows(site, "events"))))
    assert read.checkpoints["gw1"].size == len(site.log_entries())
    assert all(table.num_rows == 0 for table in read.live.values())
    assert (read.contradictions, read.unread) == ([], [])


def test_the_live_tail_has_the_rows_that_sealing_will_give_it(live: Site) -> None:
    read = open_archive(live.archive)
    assert numbers(read) == list(range(len(numbers(read))))
    for name, table in read.live.items():
        schema = table.schema if name != "blobs" else table.drop_columns(["gateway"]).schema
        assert schema.equals(SCHEMAS[name])
    commands = {row["text"]: row for row in read.live["commands"].to_pylist()}
    assert commands["select 'in flight'"]["status"] == "incomplete"
    assert {row["is_final"] for row in read.live["sessions"].to_pylist()} == {False}
    before = read.live["events"].to_pylist()
    done = [row for row in read.live["commands"].to_pylist() if row["status"] == "ok"]
    recover(live)
    after = [row for row in rows(live, "events") if row["event_no"] >= before[0]["event_no"]]
    assert after[: len(before)] == before
    sealed = [row for row in rows(live, "commands") if row["status"] == "ok"]
    assert done == sealed[1:]


def test_live_blobs_hold_every_chunk_in_full(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    payload = b"\xb7" * 9000

    async def run() -> None:
        recorder = await start(site)
        session = recorder.open_session(ANA)
        exchange(session, 0, reply=payload)
        exchange(session, 1, reply=payload)
        await counted(recorder)
        blobs = open_archive(site.archive).live["blobs"].to_pylist()
        assert [(row["data"], row["same_as"], row["gateway"]) for row in blobs] == [
            (payload[8192:], None, GATEWAY)
        ] * 2
        await recorder.stop()

    asyncio.run(run())


async def test_a_command_under_way_is_seen_while_it_runs(site: Site) -> None:
    recorder = await start(site)
    session = recorder.open_session(ANA)
    request(session, 0, "select pg_sleep(600)")
    await counted(recorder)
    (row,) = open_archive(site.archive).live["commands"].to_pylist()
    assert (row["text"], row["status"], row["user"]) == (
        "select pg_sleep(600)",
        "incomplete",
        "ana",
    )
    await recorder.stop()


def test_a_segment_that_is_sealed_while_it_is_read_is_not_lost(
    live: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the log and listing the journals, its journal went into a sealed file."""
    expected = numbers(open_archive(live.archive))
    real = snapshot.read_log
    left = 1

    def slow(folder: Path, verifiers: Any) -> Log:
        nonlocal left
        log = real(folder, verifiers)
        if left:
            left -= 1
            recover(live)
        return log

    monkeypatch.setattr(snapshot, "read_log", slow)
    found = numbers(open_archive(live.archive))
    assert found[: len(expected)] == expected


def test_a_file_that_the_log_does_not_name_is_not_read(site: Site) -> None:
    path = sealed_files(site, "events")[0]
    shutil.copy(path, path.with_name("018bcfe5-6800-7def-8123-456789abcdef.parquet"))
    read = open_archive(site.archive)
    assert numbers(read) == list(range(len(rows(site, "events"))))


@pytest.mark.parametrize("table", ["events", "sessions"])
def test_a_sealed_file_that_is_missing_is_an_error(site: Site, table: str) -> None:
    path = sealed_files(site, table)[1]
    path.unlink()
    with pytest.raises(ArchiveError, match=f"{path.name} is missing"):
        open_archive(site.archive)


def test_a_seal_cannot_name_a_file_elsewhere(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.parquet"
    secret.write_bytes(b"")

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            for file in entry.get("files", {}).values():
                file["path"] = f"../../{secret.name}"
        return entries

    resign(site, change)
    read = open_archive(site.archive)
    assert secret not in {path.resolve() for files in read.files.values() for path in files}


MALFORMED: list[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = [
    lambda entries: [*entries, {"type": "seal"}],
    lambda entries: [*entries, {"type": "seal", "segment": "x", "files": {}}],
    lambda entries: [
        entry | {"files": {"secrets": {}}} if entry["type"] == "seal" else entry
        for entry in entries
    ],
]


@pytest.mark.parametrize("change", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_log_is_an_archive_error(
    site: Site, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    resign(site, change)
    with pytest.raises(ArchiveError):
        open_archive(site.archive)


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="FORMAT: No such file"):
        open_archive(tmp_path)
    (tmp_path / "FORMAT").write_bytes(b"agentaudit archive 2\n")
    with pytest.raises(ArchiveError, match="FORMAT says"):
        open_archive(tmp_path)


def test_an_archive_without_a_gateway_is_empty(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_bytes(b"agentaudit archive 1\n")
    read = open_archive(tmp_path)
    assert not any(read.files.values())
    assert all(table.num_rows == 0 for table in read.live.values())


def test_a_journal_that_only_the_gateway_may_read_is_named_and_the_rest_is_read(
    live: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(journal, "open_regular", opened)
    read = open_archive(live.archive)
    assert read.files["events"] == sealed_files(live, "events")
    assert read.live["events"].num_rows == 0
    (unread,) = read.unread
    assert "Permission denied" in unread


def test_opening_remembers_and_tells_what_contradicts_it(site: Site, tmp_path: Path) -> None:
    assert open_archive(site.archive, remember=True).contradictions == []
    whole = site.layout.checkpoint(GATEWAY).read_bytes()
    size = open_archive(site.archive).checkpoints["gw1"].size
    site.layout.checkpoint(GATEWAY).write_bytes(earlier_checkpoint(site, size - 1))
    (found,) = open_archive(site.archive, remember=True).contradictions
    assert f"{size - 1} entries, at least the {size} of the remembered checkpoint" in found
    site.layout.checkpoint(GATEWAY).write_bytes(whole)
    assert open_archive(site.archive).contradictions == []
    rekeyed(site, tmp_path)
    contradictions = open_archive(site.archive, remember=True).contradictions
    assert any("as remembered" in found for found in contradictions)


def test_a_log_that_its_own_key_did_not_sign_is_told(site: Site, tmp_path: Path) -> None:
    other = new_site(tmp_path / "other")
    vkey = site.layout.verifier_key(GATEWAY)
    vkey.write_text(other.vkey.splitlines()[0] + "\n")
    (found,) = open_archive(site.archive).contradictions
    assert "not signed by the key that lies beside it" in found
    vkey.unlink()
    (found,) = open_archive(site.archive).contradictions
    assert "No such file" in found


# --- without our package


def test_duckdb_reads_the_tables_as_plain_parquet(site: Site) -> None:
    def query(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as connection:
            sql = sql.replace("$", f"{site.archive}/")
            return connection.execute(sql).fetchall()

    events, commands, sessions = (
        f"read_parquet('${table}/gw=*/date=*/*.parquet', hive_partitioning=false)"
        for table in ("events", "commands", "sessions")
    )
    expected = rows(site, "commands")
    assert query(f"select count(*), max(event_no) from {events}") == [
        (len(rows(site, "events")), len(rows(site, "events")) - 1)
    ]
    assert query(f"select text, status, rows_returned from {commands} order by first_event_no") == [
        (row["text"], row["status"], row["rows_returned"]) for row in expected
    ]
    assert query(f"""select "user", "groups"[1], labels['model'] from {sessions}
            where "user" = 'ana' and is_final""") == [("ana", "data-agents", "m-2")]
    joined = f"""select s."user", count(*) from {events} e join {sessions} s using (session_id)
        where e.kind = 'request' and s.is_final group by 1 order by 1"""
    assert query(joined) == [("ana", 3), ("bob", 3)]
    some_id = expected[0]["session_id"]
    assert query(f"select count(*) from {events} where session_id = '{some_id}'")[0][0] > 3
    (kind,) = query(f"select typeof(observed_at), typeof(session_id) from {events} limit 1")
    assert kind == ("TIMESTAMP WITH TIME ZONE", "UUID")
    partitions = f"select distinct gw from read_parquet('${'events'}/gw=*/date=*/*.parquet')"
    assert query(partitions) == [("gw1",)]


def test_polars_reads_the_tables_as_plain_parquet(site: Site) -> None:
    def table(name: str) -> polars.DataFrame:
        return polars.read_parquet(f"{site.archive}/{name}/gw=*/date=*/*.parquet")

    events, commands, sessions = table("events"), table("commands"), table("sessions")
    assert events["event_no"].sort().to_list() == list(range(len(rows(site, "events"))))
    assert sorted(commands["text"].to_list()) == sorted(
        row["text"] for row in rows(site, "commands")
    )
    final = sessions.filter(polars.col("is_final") & (polars.col("user") == "ana"))
    assert final["groups"].to_list() == [["data-agents", "eu"]]
    joined = events.join(sessions.filter("is_final"), on="session_id")
    assert joined.height == events.height
