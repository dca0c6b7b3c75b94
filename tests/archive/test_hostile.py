"""Archives made to hurt who reads them: a finding or a clear error, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentaudit import load
from agentaudit.archive.note import Checkpoint, sign_note
from agentaudit.archive.verify import verify
from agentaudit.cli import main
from agentaudit.errors import AgentauditError, ArchiveError
from tests.archive.recording import GATEWAY, Site, record, resign, sealed_files

MEMORY_BYTES = 3 << 30


def swap(site: Site, path: Path) -> None:
    """Let the log name `path` as it is now, under the real keys."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            for file in entry.get("files", {}).values():
                if site.archive / file["path"] == path:
                    file["sha256"] = sha256(path.read_bytes()).hexdigest()
                    file["bytes"] = path.stat().st_size
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


def test_a_parquet_bomb_is_a_finding_in_bounded_memory(site: Site) -> None:
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
    swap(site, path)
    status, answer, peak = verified(site)
    assert status == 1
    assert answer["ok"] is False
    assert "segment" in answer["findings"][0]["place"]
    assert peak < MEMORY_BYTES


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


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of all that lies below `root`."""
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_mode, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }
