"""docs/verify-without-us.md as written: OpenSSL, Go and SQL on the sample, and on 1,000 events."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentaudit.model import Event, Kind, Side, Span
from tests.archive.recording import ANA, BOB, Site, exchange, new_site, sealed_files, start

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "verify-without-us.md"
SAMPLE = {"ARCHIVE": "sample_data/archive", "KEYS": "sample_data/archive.vkey"}
FENCE = re.compile(r"^```(sh|go|sql)\n(.*?)^```$", re.M | re.S)
EVENTS = 1_000


def thousand_events(folder: Path) -> Site:
    """Record one segment of 1,000 events: masked ones, long texts, and equal large payloads."""
    site = new_site(folder)

    async def run() -> None:
        recorder = await start(site)
        ana, bob = recorder.open_session(ANA), recorder.open_session(BOB)
        for number in range(165):
            exchange(ana, number, f"select {number} -- é", b"\xb7" * (number * 60))
            exchange(bob, number, "select '" + "ü" * (number * 300) + "'", bytes(number))
        span = Span(rule='card "€"', place="text", offset=1, length=2)
        for kind, text in (
            (Kind.NOTICE, None),
            (Kind.NOTICE, ""),
            (Kind.NOTICE, "a notice"),
            (Kind.REFUSED, "refused"),
        ):
            ana.record(Event(kind=kind, side=Side.TARGET, text=text, status=-7, spans=(span, span)))
        ana.close("client")
        bob.close("client")
        await recorder.stop()

    asyncio.run(run())
    return site


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": path,
            "WORK": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def program(folder: Path) -> str:
    """Save the blocks that name a file, and return the others as one script."""
    script = ""
    for language, body in FENCE.findall(PAGE.read_text()):
        name = re.match(r"(?://|--) ([\w.]+)\n", body)
        if language == "sh":
            script += body
        else:
            assert name is not None
            (folder / name[1]).write_text(body)
    return script


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_sample_is_verified_with_openssl_go_and_sql_alone(tmp_path: Path) -> None:
    ended = run(program(tmp_path), tmp_path, **SAMPLE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = ended.stdout
    heads = len(list(Path(ROOT, SAMPLE["ARCHIVE"], "heads").iterdir()))
    assert told.count("Signature Verified Successfully") == 1 + heads
    assert "Signature Verification Failure" in ended.stdout + ended.stderr
    assert re.search(rf"^log: \d+ entries, {heads} heads$", told, re.M)
    assert re.search(r"^proofs: \d+ accepted, and rejected for changed leaves$", told, re.M)
    whole = re.findall(r"^[0-9a-f-]{36} \d+ [0-9a-f]{64} True$", told, re.M)
    purged = re.findall(r"^[0-9a-f-]{36} was purged$", told, re.M)
    assert whole
    assert len(whole) + len(purged) == heads


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_segment_of_a_thousand_events_hashes_in_sql_to_the_root_of_its_head(
    tmp_path: Path,
) -> None:
    site = thousand_events(tmp_path / "site")
    (path,) = sealed_files(site, "events")
    assert pq.read_metadata(path).num_rows == EVENTS
    keys = tmp_path / "keys.vkey"
    keys.write_text(site.vkey)
    work = tmp_path / "work"
    work.mkdir()
    ended = run(program(work), work, ARCHIVE=str(site.archive), KEYS=str(keys))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seal = next(entry for entry in site.log_entries() if entry["type"] == "seal")
    assert f"{seal['segment']} 1000 {seal['root']} True" in ended.stdout
