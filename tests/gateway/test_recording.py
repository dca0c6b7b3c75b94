"""Nothing passes before its record counts, and nothing at all once recording has failed.

The faults are put into the file operations of the real recorder, in the test's own process.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from agentaudit.archive import journal
from agentaudit.demo.processes import until
from agentaudit.errors import RecordingError
from tests.gateway.disk import Disk
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error, startup
from tests.gateway.recorded import read
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_strict_statement_reaches_the_server_only_after_its_record_is_synced(
    tmp_path: Path, disk: Disk, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    marker = secrets.token_hex(8)
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        connection = psycopg.connect(gateway.dsn("orders", signing_issuer.token()), autocommit=True)
        disk.may_sync.clear()
        wanted = disk.syncs_wanted
        asking = in_background(lambda: connection.execute(f"SELECT '{marker}'"))
        until(lambda: disk.syncs_wanted > wanted, "the recorder syncs")
        # It is written, and one sync away from being forwarded.
        assert marker in str(read(gateway.archive).events)

        # The server logs a statement before it runs it; a second client shows that it is not idle.
        with postgres18.connect() as direct:
            direct.execute(f"SELECT 'after {marker}'")
        assert [one.text for one in postgres18.logged(marker)] == [f"SELECT 'after {marker}'"]

        disk.may_sync.set()
        asking.join()
        assert len(postgres18.logged(marker)) == 2
        connection.close()


@pytest.mark.parametrize(
    ("durability", "waits", "statement"),
    [
        ("writes", False, "SELECT '{}'"),
        ("writes", True, "CREATE TEMPORARY TABLE t AS SELECT '{}'"),
        ("relaxed", False, "CREATE TEMPORARY TABLE t AS SELECT '{}'"),
    ],
)
def test_what_waits_for_the_disk_is_what_the_durability_mode_says(
    tmp_path: Path,
    disk: Disk,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    durability: str,
    waits: bool,
    statement: str,
) -> None:
    text = statement.format(secrets.token_hex(8))
    with hosted(
        tmp_path, postgres18.target(), issuer=signing_issuer, durability=durability
    ) as gateway:
        connection = psycopg.connect(gateway.dsn("orders", signing_issuer.token()), autocommit=True)
        disk.may_sync.clear()
        wanted = disk.syncs_wanted
        asking = in_background(lambda: connection.execute(text))
        if waits:
            until(lambda: disk.syncs_wanted > wanted, "the recorder syncs")
            assert postgres18.logged(text) == []
        else:
            asking.join()
        disk.may_sync.set()
        asking.join()
        assert len(postgres18.logged(text)) == 1
        connection.close()


FAULTS = [
    ("write", errno.ENOSPC, "53100"),
    ("write", errno.EIO, "58030"),
    ("sync", errno.EIO, "58030"),
    ("sync", errno.ENOSPC, "53100"),
]


@pytest.mark.parametrize(("operation", "number", "sqlstate"), FAULTS)
def test_a_disk_that_fails_stops_all_traffic_with_an_error_that_says_so(
    tmp_path: Path,
    disk: Disk,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    operation: str,
    number: int,
    sqlstate: str,
) -> None:
    marker = secrets.token_hex(8)
    with hosted(
        tmp_path, postgres18.target(), issuer=signing_issuer, expect_failure=True
    ) as gateway:
        token = signing_issuer.token()
        idle = psycopg.connect(gateway.dsn("orders", token), autocommit=True)
        asking = psycopg.connect(gateway.dsn("orders", token), autocommit=True)
        asking.execute("SELECT 1")
        setattr(disk, f"{operation}_error", OSError(number, os.strerror(number)))

        with pytest.raises(psycopg.OperationalError) as caught:
            asking.execute(f"SELECT '{marker}'")
        assert caught.value.sqlstate == sqlstate
        assert "recording is not possible" in str(caught.value)
        with pytest.raises(psycopg.OperationalError, match="recording is not possible"):
            idle.execute(f"SELECT 'idle {marker}'")

        with Raw(gateway) as client:
            assert error_fields(client.say(startup()).hear_until_closed())["C"] == sqlstate
        assert postgres18.logged(marker) == []
        with pytest.raises(RecordingError):
            gateway.close()


def test_a_disk_that_fails_during_a_login_fails_that_login(
    tmp_path: Path, disk: Disk, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(
        tmp_path, postgres18.target(), issuer=signing_issuer, expect_failure=True
    ) as gateway:
        disk.sync_error = OSError(errno.EIO, os.strerror(errno.EIO))

        error = login_error(gateway, signing_issuer.token())

        assert error["C"] == "58030"
        with pytest.raises(RecordingError):
            gateway.close()


def test_a_disk_that_fills_up_under_an_answer_cuts_it_rather_than_lie(
    tmp_path: Path,
    disk: Disk,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that was half sent cannot be followed by an error: the connection just ends."""
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        expect_failure=True,
        durability="relaxed",
    ) as gateway:
        connection = psycopg.connect(gateway.dsn("orders", signing_issuer.token()))
        cursor = connection.cursor()
        heard = threading.Event()

        def fill(fd: int, data: bytes, offset: int) -> None:
            if len(data) > 200_000:
                if heard.is_set():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                heard.set()
            disk.write(fd, data, offset)

        monkeypatch.setattr(journal, "write_all_at", fill)
        with pytest.raises(psycopg.OperationalError) as caught:
            cursor.execute("SELECT repeat('x', 50000000)")
        assert caught.value.sqlstate is None
        assert heard.is_set()
        with pytest.raises(RecordingError):
            gateway.close()


def test_little_space_stops_traffic_before_there_is_none(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        expect_failure=True,
        limits={"disk_stop": 1 << 60},
    ) as gateway:
        until(lambda: not is_healthy(gateway), "the recorder looks at the disk")

        with Raw(gateway) as client:
            error = error_fields(client.say(startup()).hear_until_closed())
        assert error["C"] == "53100"
        with pytest.raises(RecordingError):
            gateway.close()


def test_traffic_waits_for_a_sealer_that_is_behind_and_loses_nothing(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(
        postgres18.target(),
        issuer=signing_issuer,
        durability="relaxed",
        segment_bytes="1MiB",
        limits={"journal_max": "2MiB"},
    )
    rows: list[Any] = []
    late: list[Any] = []

    def ask(statement: str, answer: list[Any]) -> threading.Thread:
        def work() -> None:
            with psycopg.connect(gw.dsn("orders", signing_issuer.token())) as ana:
                answer.extend(ana.execute(statement))

        return in_background(work)

    (sealer,) = psutil.Process(gw.pid).children()
    sealer.suspend()
    asking = ask("SELECT repeat('x', 1000) FROM generate_series(1, 50000)", rows)
    until(lambda: '"the sealer is behind, traffic waits"' in gw.log_text(), "traffic waits")
    assert '"limit": "limits.journal_max"' in gw.log_text()
    journals = (gw.archive / "journal/gw1").glob("*.journal")
    assert 2 << 20 < sum(path.stat().st_size for path in journals) < 8 << 20
    coming_late = ask("SELECT 1", late)
    until(lambda: gw.log_text().count('"session opened"') == 2, "somebody else comes in")
    assert asking.is_alive()
    assert (rows, late) == ([], [])
    sealer.resume()
    asking.join()
    coming_late.join()
    assert rows == [("x" * 1000,)] * 50_000
    assert late == [(1,)]
    assert '"the sealer has caught up, traffic goes on"' in gw.log_text()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    (command,) = [one for one in recorded.commands if "generate_series" in one["text"]]
    assert command["rows_returned"] == 50_000
    assert command["bytes_out"] > 50_000_000


def is_healthy(gateway: Hosted) -> bool:
    healthy: bool = gateway.call(lambda inside: inside.recorder.healthy)
    return healthy
