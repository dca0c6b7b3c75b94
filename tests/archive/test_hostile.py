"""Archives made to hurt who reads them: a finding or a clear error, in bounded memory."""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentaudit import load
from agentaudit.archive import canonical, known, purge, verify_purges
from agentaudit.archive.drill.attacker import with_values
from agentaudit.archive.drill.machine import rewrite_parquet, sealed_as_it_is
from agentaudit.archive.journal import Header, JournalReader
from agentaudit.archive.note import Checkpoint, sign_note
from agentaudit.archive.prove import prove
from agentaudit.archive.verify import verify
from agentaudit.cli import main
from agentaudit.errors import AgentauditError, ArchiveError
from tests.archive.recording import (
    GATEWAY,
    Site,
    crashed,
    new_site,
    order,
    record,
    resign,
    retention,
    rows,
    sealed_files,
)

MEMORY_BYTES = 3 << 30


def swap(site: Site, path: Path, rows: int = 0) -> None:
    """Let the log name `path` as it is now, under the real keys, and maybe its `rows`."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            for file in entry.get("files", {}).values():
                if site.archive / file["path"] == path:
                    file["sha256"] = sha256(path.read_bytes()).hexdigest()
                    file["bytes"] = path.stat().st_size
                    file["rows"] = rows or file["rows"]
        return entries

    resign(site, change)


def verified(site: Site) -> tuple[int, dict[str, Any], int]:
    """Return status, answer and peak memory in bytes of `verify --deep` in its own process."""
    command = [sys.executable, "-m", "agentaudit.cli", "verify", "--deep", "--json"]
    with subprocess.Popen(
        [*command, "--key", site.vkey, str(site.archive)],
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_STATE_HOME": str(site.folder / "state")},
    ) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.read() or "{}")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, answer, usage.ru_maxrss * 1024


@pytest.mark.parametrize("is_named", [False, True])
def test_a_parquet_bomb_is_a_finding_in_bounded_memory(site: Site, is_named: bool) -> None:
    record(site)
    path = sealed_files(site, "events")[0]
    table = pq.ParquetFile(path).read()
    rows = 100_000
    ones = table.take(pa.array([0] * rows))
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * (8 << 20)])
    at = table.column_names.index("text")
    # Without the Arrow schema it reads back as plain strings: 800 GB out of a few kilobytes.
    pq.write_table(ones.set_column(at, "text", bomb), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 1 << 20
    swap(site, path, rows if is_named else 0)
    status, answer, peak = verified(site)
    assert status == 1
    assert answer["ok"] is False
    assert "segment" in answer["findings"][0]["place"]
    assert peak < MEMORY_BYTES


def large(site: Site) -> None:
    """Let a table have more in it than a small limit on memory allows, signed by the gateway."""
    record(site, commands=10)
    path = sealed_files(site, "commands")[0]
    table = pq.ParquetFile(path).read()
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 10, pa.int32()), ["x" * (100 << 20)])
    at = table.column_names.index("error_text")
    changed = table.set_column(at, "error_text", text)
    pq.write_table(changed, path, compression="zstd", store_schema=False)
    swap(site, path)


_LIMITED = """
import sys
from agentaudit import cli
from agentaudit.cli import hostile
hostile.MEMORY_BYTES = 300 << 20
sys.exit(cli.main(sys.argv[1:]))
"""


def limited(*arguments: str) -> tuple[int, str]:
    """Run the command line with little memory, in a process that has none to spare yet."""
    command = [sys.executable, "-c", _LIMITED, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


def test_what_does_not_fit_into_memory_is_no_finding_and_never_a_yes(site: Site) -> None:
    large(site)
    command = ["verify", "--key", site.vkey.split()[0], str(site.archive)]
    assert limited(*command)[0] == 0
    status, told = limited(*command, "--deep")
    assert status == 2
    assert "unread: segment" in told
    assert "more memory than is allowed" in told
    session = next(row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    assert limited(*command, "--session", str(session))[0] == 2
    (head,) = site.archive.glob("heads/*.note")
    head.unlink()
    assert limited(*command, "--deep")[0] == 1


def test_a_log_that_does_not_fit_into_memory_is_no_finding(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(site, sessions=2, policy=retention(billing={"keep": 0}))
    order(site, "retention_apply", event=1)

    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(verify_purges, "read_list", fail)
    result = verify(site.archive, key=site.vkey)
    assert (result.ok, result.findings) == (None, [])
    assert result.unread == ["log/gw1: reading it takes more memory than is allowed"]
    assert known.recall(site.place.log_origin) is None


def test_no_room_to_parse_json_says_nothing_about_the_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(data: bytes) -> Any:
        raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)

    monkeypatch.setattr(orjson, "loads", full)
    with pytest.raises(MemoryError):
        canonical.decode(b"[]")


def test_a_list_of_what_was_purged_is_held_no_longer_than_its_purge(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "MAX_SESSIONS", 4)
    record(site, sessions=40, commands=0, policy=retention(billing={"keep": 0}))
    order(site, "retention_apply", event=1)
    assert len([e for e in site.log_entries() if e["type"] == "purge_intent"]) == 5
    held: list[int] = []
    real = verify_purges.read_list

    def counted(*arguments: Any) -> Any:
        held.append(sum(isinstance(each, purge.Listed) for each in gc.get_objects()))
        return real(*arguments)

    monkeypatch.setattr(verify_purges, "read_list", counted)
    result = verify(site.archive, key=site.vkey, deep=True)
    assert result.ok is True
    assert "20 sessions purged" in " ".join(result.notes)
    assert len(held) == 10
    assert max(held) <= 4


def test_the_limit_on_memory_ends_with_the_verb(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    record(site)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert main(["verify", "--key", site.vkey, str(site.archive)]) == 0
    assert "fast check" in capsys.readouterr().out
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_limit_on_memory_is_on_top_of_what_the_caller_holds(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    record(site)
    with mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE):
        assert main(["verify", "--deep", "--key", site.vkey, str(site.archive)]) == 0
    assert "deep check" in capsys.readouterr().out


def change_seal(**members: Any) -> Callable[[Site], None]:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry | members if entry["type"] == "seal" else entry for entry in entries]

    return lambda site: resign(site, change)


def change_file(**members: Any) -> Callable[[Site], None]:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            if entry["type"] == "seal":
                entry["files"]["events"] |= members
        return entries

    return lambda site: resign(site, change)


def remove(pattern: str) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        found = [path for path in site.archive.glob(pattern) if path.is_file()]
        assert found
        for path in found:
            path.unlink()

    return change


def write(relative: str, data: bytes) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        (site.archive / relative).write_bytes(data)

    return change


def link_outside(site: Site) -> None:
    """The events file is a link to one that is the same, elsewhere."""
    path = sealed_files(site, "events")[0]
    elsewhere = site.folder / "elsewhere.parquet"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


MUTATIONS: dict[str, Callable[[Site], None]] = {
    "newer": write("FORMAT", b"agentaudit archive 2\n"),
    "foreign": write("FORMAT", b"Delta Lake\n"),
    "half copied: no events": remove("events/**/*"),
    "half copied: no log": remove("log/**/*"),
    "half copied: no tiles": remove("log/*/tile/**/*"),
    "half copied: no heads": remove("heads/*"),
    "a path that leads out": change_file(path="../../../etc/passwd"),
    "an absolute path": change_file(path="/etc/passwd"),
    "another table's path": change_file(path="events/gw=gw1/date=1970-01-01/x.parquet"),
    "a link": link_outside,
    "more events than there are": change_seal(n=2**53 - 2),
    "another first event": change_seal(first_event=2**53 - 1),
    "a time beyond all calendars": change_seal(first_at=2**53 - 1),
    "more sessions than there are": change_seal(sessions_opened=2**53 - 1),
    "a head that is no note": change_seal(head="\n" * 10_000),
    "not Parquet": lambda site: sealed_files(site, "events")[0].write_bytes(b"PAR1" * 1000),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_no_sound_archive_is_told_and_left_as_it_is(site: Site, name: str) -> None:
    record(site)
    MUTATIONS[name](site)
    before = contents(site.archive)
    with contextlib.suppress(ArchiveError):
        result = verify(site.archive, key=site.vkey, deep=True)
        assert result.ok is False
        assert result.findings
    with contextlib.suppress(AgentauditError):
        load(site.archive).commands().fetchall()
    assert contents(site.archive) == before


@pytest.mark.parametrize("size", [2**30, 2**40, 2**60])
def test_a_checkpoint_that_claims_a_huge_log_is_answered_at_once(site: Site, size: int) -> None:
    record(site)
    checkpoint = Checkpoint(site.place.log_origin, size, bytes(32))
    site.layout.checkpoint(GATEWAY).write_bytes(sign_note(checkpoint.text(), site.signers))
    result = verify(site.archive, key=site.vkey)
    assert result.ok is False


@pytest.mark.parametrize(
    "relative",
    [
        "FORMAT",
        "log/gw1/checkpoint",
        "log/gw1/keys/gw1.vkey",
        "log/gw1/tile/0/000.p/*",
        "log/gw1/tile/entries/000.p/*",
        "heads/*.note",
        "policies/*.json",
    ],
)
def test_a_file_of_a_terabyte_is_a_finding_and_not_read(site: Site, relative: str) -> None:
    record(site, policy=b'{"rules":[]}')
    for path in site.archive.glob(relative):
        os.truncate(path, 1 << 40)
    status, answer, peak = verified(site)
    assert status in (1, 2)
    assert not answer or answer["findings"]
    assert peak < MEMORY_BYTES


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 200 << 30)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


PLACES = [
    "FORMAT",
    "heads/*.note",
    "events/*/*/*.parquet",
    "sessions/*/*/*.parquet",
    "policies/*.json",
    "policies/" + "a" * 64 + ".json",
    "residue/*/0.parquet",
    "purges/*.json",
    "log/gw1/checkpoint",
    "log/gw1/cosigned",
    "log/gw1/policy",
    "log/gw1/keys/gw1.vkey",
    "journal/gw1/01a20600-0000-7000-8000-000000000000.journal",
]


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("purged") / "site")
    record(site, sessions=2, policy=retention(billing={"keep": 0}))
    order(site, "retention_apply", event=1)
    assert verify(site.archive, key=site.vkey, remember=False).ok is True
    return site


@pytest.mark.parametrize("make", [fifo, device, sparse, folder])
@pytest.mark.parametrize("relative", PLACES)
def test_what_never_ends_is_told_at_once(
    purged: Site, tmp_path: Path, relative: str, make: Callable[[Path], None]
) -> None:
    site = purged.copy_to(tmp_path / "copy")
    paths = list(site.archive.glob(relative))
    if not paths and make is folder:
        return  # a folder without a file in it is nothing
    paths = paths or [site.archive / relative]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    (session,) = (row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    make(paths[0])
    for options in ({"deep": True}, {"session": session}):
        with contextlib.suppress(ArchiveError):
            result = verify(site.archive, key=site.vkey, **options)
            assert (result.ok is False and result.findings) or "session" in options
    with contextlib.suppress(AgentauditError):
        prove(site.archive, session, out=tmp_path / "proof")
    for verb in ("sessions", "commands"):
        assert main([verb, "--archive", str(site.archive)]) in (0, 1, 2)


def spoil(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = change(pq.ParquetFile(path).read())
        path.unlink()
        pq.write_table(table, path)

    return write


SPOILT: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "not Parquet": lambda path: path.write_bytes(b"PAR1" * 100),
    "a folder": folder,
    "gone": Path.unlink,
    "no session_id": spoil(lambda table: table.drop_columns(["session_id"])),
    "another type": spoil(lambda table: pa.table({"session_id": list(range(table.num_rows))})),
    "nulls": spoil(lambda t: pa.table({"session_id": pa.nulls(t.num_rows, pa.binary(16))})),
}


@pytest.fixture(scope="module")
def two_segments(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("two") / "site")
    record(site)
    record(site)
    return site


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_list_of_sessions_hides_no_more_than_its_own(
    two_segments: Site, tmp_path: Path, name: str, is_signed: bool
) -> None:
    site = two_segments.copy_to(tmp_path / "copy")
    before, after = (row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    path = sealed_files(site, "sessions")[1]
    SPOILT[name](path)
    if is_signed and path.is_file():
        swap(site, path)
    else:
        assert verify(site.archive, key=site.vkey).ok is False
    result = verify(site.archive, key=site.vkey, session=before)
    assert result.ok is True
    assert "cannot be read" in " ".join(result.notes)
    assert prove(site.archive, before, out=tmp_path / "proof").is_whole
    with pytest.raises(ArchiveError, match="sessions/"):
        verify(site.archive, key=site.vkey, session=after)
    with pytest.raises(ArchiveError, match="sessions/"):
        prove(site.archive, after, out=tmp_path / "another")
    assert main(["sessions", "--archive", str(site.archive)]) in (0, 1, 2)


def with_context(path: Path, context: bytes) -> None:
    """Give a journal another context, its checksum right."""
    reader = JournalReader(path)
    frames = path.read_bytes()[reader.offset :]
    whole = Header(reader.header.segment, reader.header.first_event_no, reader.header.marker)
    head = whole.encode()[: -4 - len(b'{"sessions":[]}')]
    head = head[:-4] + len(context).to_bytes(4) + context
    path.write_bytes(head + crc32(head).to_bytes(4) + frames)


CONTEXTS = [
    b"{",
    b"[]",
    b"5",
    b"{}",
    b'{"sessions":5}',
    b'{"sessions":[5]}',
    b'{"sessions":[{"session_id":5}]}',
    b'{"sessions":[{"session_id":"x"}]}',
]


@pytest.mark.parametrize("spoil", [*CONTEXTS, b"", None])
def test_a_journal_that_no_gateway_wrote_is_told_and_what_is_sealed_is_proven(
    tmp_path: Path, spoil: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    site = new_site(tmp_path / "site")
    record(site)
    (session,) = (row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    crashed(site)
    (path,) = site.journals()
    if spoil is None:
        folder(path)
    elif spoil:
        with_context(path, spoil)
    else:
        path.write_bytes(b"")
    for options in ({"deep": True}, {"session": session}):
        result = verify(site.archive, key=site.vkey, **options)
        assert result.ok is False
        assert "journal" in str(result.findings[0])
    assert prove(site.archive, session, out=tmp_path / "proof").is_whole
    assert main(["sessions", "--archive", str(site.archive)]) == 2
    assert capsys.readouterr().err.startswith("agentaudit: ")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**53])
@pytest.mark.parametrize(
    ("kind", "member"),
    [
        ("session_open", "target_pid"),
        ("session_close", "closed_at"),
        ("command_end", "rows_returned"),
        ("command_end", "txn_no"),
        ("command_end", "started_at"),
    ],
)
def test_a_number_that_no_column_holds_is_a_finding(
    two_segments: Site, tmp_path: Path, kind: str, member: str, number: int
) -> None:
    site = two_segments.copy_to(tmp_path / "copy")
    path = sealed_files(site, "events")[1]
    table = pq.ParquetFile(path).read()
    row = table.column("kind").to_pylist().index(kind)
    session = table.column("session_id")[row].as_py()

    def change(payloads: list[bytes]) -> list[bytes]:
        payload = json.loads(payloads[row]) | {member: number}
        payloads[row] = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
        return payloads

    rewrite_parquet(path, with_values("payload", change))
    resign(site, sealed_as_it_is(site.archive, path))
    for options in ({"deep": True}, {"session": session}):
        result = verify(site.archive, key=site.vkey, **options)
        assert result.ok is False
        assert result.findings


def test_a_bomb_in_the_place_of_a_list_of_sessions_is_not_parsed(
    two_segments: Site, tmp_path: Path
) -> None:
    site = two_segments.copy_to(tmp_path / "copy")
    session = next(row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    path = sealed_files(site, "sessions")[0]
    table = pq.ParquetFile(path).read()
    many = table.take(pa.array([0] * 1_000_000))
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(many)
    for is_signed in (False, True):
        if is_signed:
            swap(site, path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ArchiveError, match="rows" if is_signed else "not the file"):
            prove(site.archive, session, out=tmp_path / "proof")
        with pytest.raises(ArchiveError):
            verify(site.archive, key=site.vkey, session=session)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize(
    ("relative", "make"),
    [
        ("log/gw1", lambda path: (shutil.rmtree(path), path.write_text("x"))),
        ("log/loop", lambda path: path.symlink_to("loop")),
        ("log/other", Path.mkdir),
        ("heads", lambda path: (shutil.rmtree(path), path.write_text("x"))),
        ("events", lambda path: (shutil.rmtree(path), path.symlink_to("events"))),
    ],
)
def test_an_archive_with_the_wrong_folders_is_answered_by_every_verb(
    two_segments: Site, tmp_path: Path, relative: str, make: Callable[[Path], Any]
) -> None:
    site = two_segments.copy_to(tmp_path / "copy")
    session = str(next(r["session_id"] for r in rows(site, "sessions") if r["user"] == "ana"))
    make(site.archive / relative)
    there, key = str(site.archive), site.vkey.split()[0]
    assert main(["verify", there, "--key", key]) == 1
    is_its_own = not relative.startswith("log/") or relative == "log/gw1"
    status = main(["verify", there, "--key", key, "--session", session])
    assert status in ((1, 2) if is_its_own else (0,))
    out = str(tmp_path / "proof")
    status = main(["prove", session, "--archive", there, "--out", out])
    assert status in ((0, 2) if is_its_own else (0,))
    assert main(["sessions", "--archive", there]) in (0, 1, 2)


@pytest.mark.parametrize(
    "make",
    [Path.unlink, folder, lambda path: path.write_bytes(b"agentaudit archive 2\n")],
)
def test_one_session_of_an_archive_of_another_format_is_not_vouched_for(
    two_segments: Site, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    site = two_segments.copy_to(tmp_path / "copy")
    session = next(row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")
    assert verify(site.archive, key=site.vkey, session=session).ok is True
    make(site.layout.format_file)
    result = verify(site.archive, key=site.vkey, session=session)
    assert result.ok is False
    assert [finding.check for finding in result.findings] == ["format"]


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of all that lies below `root`."""
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_mode, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }
