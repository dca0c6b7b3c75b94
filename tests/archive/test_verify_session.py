"""One session, checked as deeply as a whole archive, without reading the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from agentaudit.archive.segment import SCHEMAS
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from tests.archive.recording import (
    ANA,
    BOB,
    GATEWAY,
    Site,
    counted,
    exchange,
    new_site,
    resign,
    rows,
    sealed_files,
    start,
)
from tests.archive.test_verify import edited, forged, without_first, without_last


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One run, as its keys can sign it anew: Ana's session in two segments, Bob's in a third."""
    site = new_site(tmp_path_factory.mktemp("one") / "site")

    async def run() -> None:
        recorder = await start(site, segment_events=4)
        session = recorder.open_session(ANA)
        exchange(session, 0, "select '" + "é" * 40_000 + "'", b"\xb7" * 9000)
        exchange(session, 1, "select 1", b"\xb7" * 9000)
        await counted(recorder)
        exchange(session, 2, "select 2", b"\xb8" * 9000)
        session.close("client")
        await counted(recorder)
        bob = recorder.open_session(BOB)
        exchange(bob, 0)
        bob.close("client")
        await recorder.stop()

    asyncio.run(run())
    return site


@pytest.fixture
def site(sealed: Site, tmp_path: Path) -> Site:
    return sealed.copy_to(tmp_path / "copy")


def ana(site: Site) -> UUID:
    return next(row["session_id"] for row in rows(site, "sessions") if row["user"] == "ana")


def check(site: Site, **options: Any) -> Verification:
    given = {"key": site.vkey, "session": ana(site), "remember": False} | options
    return verify(site.archive, **given)


def test_a_session_is_complete_and_only_its_segments_are_read(site: Site) -> None:
    identity = ana(site)
    sealed_files(site, "events")[2].write_bytes(b"no Parquet at all")
    result = check(site, session=identity)
    assert result.ok is True, result.findings
    assert (result.segments, result.events, result.commands) == (2, 11, 3)
    assert result.subject == f"session {identity}"


# What a session's rows say of themselves, in the first segment: row 1 of each table but `sessions`.
ROWS = {"events": 2, "commands": 1, "sessions": 1, "blobs": 0}


@pytest.mark.parametrize("table", ["events", "commands", "sessions"])
def test_an_edited_value_of_the_session_is_found_though_it_was_sealed_with_the_real_keys(
    site: Site, table: str
) -> None:
    identity = ana(site)
    path = sealed_files(site, table)[0]
    missed = []
    for column in SCHEMAS[table]:
        with forged(site, path, edited(column, row=ROWS[table])):
            result = check(site, session=identity)
        checks = {finding.check for finding in result.findings}
        if not checks or "epoch" in checks:
            missed.append((column.name, checks))
    assert missed == []
    assert check(site).ok is True


def of_another(session: UUID) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.filter(
            pa.array([value != session for value in table.column("session_id").to_pylist()])
        )

    return change


@pytest.mark.parametrize("number", [0, 1])
def test_a_sessions_file_that_hides_the_session_does_not_hide_the_gap(
    site: Site, number: int
) -> None:
    identity = ana(site)
    with forged(site, sealed_files(site, "sessions")[number], of_another(identity)):
        result = check(site, session=identity)
    assert result.ok is False
    assert "session" in {finding.check for finding in result.findings}


@pytest.mark.parametrize("table", ["events", "commands", "blobs"])
@pytest.mark.parametrize("change", [without_first, without_last])
def test_a_missing_row_is_found(
    site: Site, table: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    identity = ana(site)
    with forged(site, sealed_files(site, table)[0], change):
        result = check(site, session=identity)
    assert result.ok is False
    assert "epoch" not in {finding.check for finding in result.findings}


def test_a_file_that_was_changed_without_the_keys_is_named(site: Site) -> None:
    identity = ana(site)
    path = sealed_files(site, "events")[1]
    path.write_bytes(path.read_bytes() + b"\0")
    (finding,) = check(site, session=identity).findings
    assert finding.check == "file"
    assert finding.place == path.relative_to(site.archive).as_posix()


def test_a_log_that_was_cut_is_found_though_the_session_is_whole(site: Site) -> None:
    assert verify(site.archive, key=site.vkey).ok is True
    resign(site, lambda entries: entries[:-1])
    result = check(site)
    assert "rollback" in {finding.check for finding in result.findings}


def test_without_a_key_the_signer_is_unknown(site: Site) -> None:
    assert check(site, key=None).ok is None


def test_a_finding_names_the_leaf_and_its_segment(site: Site) -> None:
    path = sealed_files(site, "events")[0]
    with forged(site, path, edited(SCHEMAS["events"].field("user"), row=2)):
        (finding,) = check(site, session=ana(site)).findings
    assert finding.place == f"segment {path.stem} leaf 2"
    assert "events.user" in finding.seen


def test_the_control_session_is_checked_like_any_other(site: Site) -> None:
    control = next(row for row in rows(site, "sessions") if row["protocol"] == "agentaudit")
    assert check(site, session=control["session_id"]).ok is True
    assert control["gateway"] == GATEWAY
