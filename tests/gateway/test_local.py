"""Who opens an archive leaves a trace where its gateway runs; elsewhere nothing stops a reader."""

from __future__ import annotations

import errno
import getpass
import json
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit import cli
from agentaudit.archive.layout import Layout
from agentaudit.archive.verify import verify
from agentaudit.client import local as client
from agentaudit.errors import QuestionError, RecordingError
from agentaudit.gateway import local
from tests.gateway.disk import Disk
from tests.gateway.hosted import Hosted, hosted
from tests.peers.issuers import SigningIssuer


@pytest.fixture
def archive(tmp_path: Path, signing_issuer: SigningIssuer) -> Any:
    with hosted(tmp_path, issuer=signing_issuer) as gateway:
        yield gateway


def accesses(path: Path) -> list[tuple[str, str, str, str]]:
    """Return what is recorded of access, without leaving more of it."""
    from agentaudit.analysis.case import Case

    case = Case(path)
    return case.sql(
        "SELECT actor, action, object, detail FROM access ORDER BY recorded_at"
    ).fetchall()


def test_who_opens_an_archive_over_its_gateway_is_recorded(
    archive: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    me = f"os:{getpass.getuser()}"
    case = aa.load(archive.archive)
    assert case.access == "recorded"
    ((control,),) = case.sql("SELECT session_id FROM sessions").fetchall()
    case.session(control)
    case.session(str(control)[:20])
    case.search("a name").fetchall()
    case.verify()
    assert cli.main(["sessions", "--archive", str(archive.archive)]) == 0
    assert "access: recorded" in capsys.readouterr().err
    assert cli.main(["replay", str(control), "--archive", str(archive.archive)]) == 0
    assert cli.main(["verify", str(archive.archive)]) == 2
    assert "access: recorded" in capsys.readouterr().err
    assert accesses(archive.archive) == [
        (me, "open", "archive", ""),
        (me, "open", f"session {control}", ""),
        (me, "search", "archive", ""),
        (me, "verify", "archive", ""),
        (me, "open", "archive", "agentaudit sessions"),
        (me, "open", "archive", "agentaudit replay"),
        (me, "open", f"session {control}", "agentaudit replay"),
        (me, "verify", "archive", "agentaudit verify"),
    ]
    archive.close()
    assert len(accesses(archive.archive)) == 8
    key = (archive.archive.parent / "keys" / "gw1.vkey").read_text()
    assert verify(archive.archive, key=key, deep=True, remember=False).ok


def test_of_a_copy_nobody_knows_who_reads_it(
    archive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.close()
    copy = shutil.copytree(archive.archive, tmp_path / "copy")
    assert aa.load(copy).access == "not recorded"
    assert cli.main(["commands", "--archive", str(copy)]) == 0
    assert "access: not recorded" in capsys.readouterr().err
    assert accesses(copy) == []


def test_the_socket_is_for_owner_and_group_and_goes_with_the_gateway(archive: Any) -> None:
    path = Layout(archive.archive).control("gw1")
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert client.running(archive.archive) == ["gw1"]
    assert verify(archive.archive, remember=False).findings == []
    archive.close()
    assert not path.exists()
    assert client.running(archive.archive) == []
    assert not client.is_running(archive.archive, "gw1")


def test_only_a_socket_in_its_own_place_is_passed_over_by_verification(archive: Any) -> None:
    archive.close()
    stray = socket.socket(socket.AF_UNIX)
    stray.bind(str(archive.archive / "journal" / "gw1" / "other"))
    (archive.archive / "journal" / "gw1" / "control").write_text("no socket")
    found = {finding.place for finding in verify(archive.archive, remember=False).findings}
    assert found == {"journal/gw1/other", "journal/gw1/control"}
    stray.close()


def test_a_socket_that_a_killed_gateway_left_gives_way(
    tmp_path: Path, signing_issuer: SigningIssuer
) -> None:
    folder = tmp_path / "archive" / "journal" / "gw1"
    with hosted(tmp_path, issuer=signing_issuer) as gateway:
        pass
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "control"))
    left.close()
    assert aa.load(gateway.archive).access == "not recorded"
    again = Hosted(gateway._settings, None)
    try:
        assert aa.load(again.archive).access == "recorded"
    finally:
        again.close()


def test_an_archive_may_lie_deeper_than_a_sockets_path_reaches(
    tmp_path: Path, signing_issuer: SigningIssuer
) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    with hosted(deep, issuer=signing_issuer) as gateway:
        assert len(str(Layout(gateway.archive).control("gw1"))) > 107
        assert aa.load(gateway.archive).access == "recorded"


NONSENSE = [
    (b"{}\n", "does not know"),
    (b'{"do": "no such thing"}\n', "does not know"),
    (b'{"do": ["access"]}\n', "does not know"),
    (b"[]\n", "no JSON object"),
    (b"\xff\n", "no line of JSON"),
    (b"[" * 50_000 + b"\n", "no line of JSON"),
    (b"x" * 70_000 + b"\n", "more than 65536 bytes"),
    (b'{"do": "access", "action": "drop", "object": "x"}\n', "action: one of"),
    (b'{"do": "access", "action": "open"}\n', "object: not given"),
    (b'{"do": "access", "action": "open", "object": 7}\n', "object: a text"),
    (b'{"do": "legal_hold_set"}\n', "what it is about"),
    (b'{"do": "legal_hold_set", "selector": {"all": 1}}\n', "what it is about"),
    (b'{"do": "legal_hold_set", "selector": {"since": true}}\n', "since: microseconds"),
    (b'{"do": "legal_hold_set", "selector": {"target": "a"}}\n', "authority: not given"),
    (b'{"do": "legal_hold_release", "hold": "../.."}\n', "hold: an id"),
    (b'{"do": "erase", "selector": {"target": "x"}}\n', "what it is about"),
    (b'{"do": "erase", "selector": {"user": "x"}, "reason": "y"}\n', "nobody may decide"),
]


def test_what_makes_no_sense_is_answered_and_leaves_no_trace(archive: Any) -> None:
    for sent, said in NONSENSE:
        with client._connected(archive.archive, "gw1") as connection:
            connection.sendall(sent)
            answer = json.loads(client._line(connection, None))
        assert not answer["ok"]
        assert said in answer["error"]
    assert accesses(archive.archive) == []
    assert aa.load(archive.archive).access == "recorded"


def test_who_says_nothing_or_half_a_line_gets_nothing_and_hinders_nobody(
    archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "REQUEST_TIMEOUT_S", 0.2)
    with client._connected(archive.archive, "gw1") as connection:
        connection.sendall(b'{"do": ')
        assert aa.load(archive.archive).access == "recorded"
        assert connection.recv(100) == b""


def test_connections_beyond_the_limit_are_hung_up_on(
    archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_CONNECTIONS", 1)
    with client._connected(archive.archive, "gw1") as first:
        # It was accepted before the next one, for the queue has an order.
        assert aa.load(archive.archive).access == "not recorded"
        request = {"do": "access", "action": "export", "object": "x"}
        first.sendall(json.dumps(request).encode() + b"\n")
        assert json.loads(client._line(first, None))["ok"]


def test_one_user_can_fill_no_disk_with_records_of_access(
    archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_A_MINUTE", 2)
    cases = [aa.load(archive.archive) for _ in range(4)]
    assert [case.access for case in cases] == ["recorded"] * 2 + ["not recorded"] * 2
    assert len(accesses(archive.archive)) == 2


def test_a_gateway_that_cannot_record_says_so_and_the_reader_reads_on(
    tmp_path: Path, signing_issuer: SigningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with hosted(tmp_path, issuer=signing_issuer, expect_failure=True) as gateway:
        disk.sync_error = OSError(errno.EIO, os.strerror(errno.EIO))
        assert aa.load(gateway.archive).access == "not recorded"
        with pytest.raises(RecordingError):
            client.ask(gateway.archive, "gw1", {"do": "access", "action": "open", "object": "x"})
        with pytest.raises(RecordingError):
            gateway.close()


@pytest.mark.parametrize("kind", ["file", "link", "folder link", "deaf", "silent"])
def test_what_lies_in_the_sockets_place_is_not_obeyed(
    archive: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ACCESS_TIMEOUT_S", 0.3)
    archive.close()
    folder = archive.archive / "journal" / "gw1"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    listening = socket.socket(socket.AF_UNIX)
    place = folder / "control" if kind in ("deaf", "silent") else elsewhere / "control"
    listening.bind(str(place))
    if kind != "deaf":
        listening.listen()
    if kind == "file":
        (folder / "control").write_text("x")
    elif kind == "link":
        (folder / "control").symlink_to(place)
    elif kind == "folder link":
        shutil.rmtree(folder)
        folder.symlink_to(elsewhere)
    assert client.running(archive.archive) == (["gw1"] if kind == "silent" else [])
    assert aa.load(archive.archive).access == "not recorded"
    listening.close()


def test_a_stranger_may_leave_a_record_and_order_nothing(archive: Any) -> None:
    import asyncio

    from agentaudit.gateway.orders import Asker, Orders

    async def ask(gateway: Any, request: dict[str, Any]) -> dict[str, Any]:
        orders = Orders(gateway.recorder, gateway._authority)
        return await orders.carry_out(Asker("eve", is_operator=False), request)

    def run(request: dict[str, Any]) -> dict[str, Any]:
        future = archive.call(
            lambda gateway: asyncio.run_coroutine_threadsafe(
                ask(gateway, request), asyncio.get_running_loop()
            )
        )
        return future.result()  # type: ignore[no-any-return]

    run({"do": "access", "action": "open", "object": "archive"})
    for do in ("retention_apply", "erase", "legal_hold_set", "legal_hold_release"):
        with pytest.raises(QuestionError, match="os:eve may not do this"):
            run({"do": do})
    assert accesses(archive.archive) == [("os:eve", "open", "archive", "")]
