"""The demo runs, ends, and leaves an archive and nothing else."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from agentaudit import demo
from agentaudit.cli import main
from agentaudit.demo import agent, shop
from agentaudit.demo.database import Postgres
from agentaudit.demo.gateways import to_toml
from agentaudit.demo.notebooks import execute
from agentaudit.demo.processes import Child, PeerError, until
from agentaudit.errors import QuestionError
from tests.peers.postgres import PostgresPeer


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark in the environment that every process which the test starts inherits."""
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("AGENTAUDIT_TEST_MARK", mark)
    return mark


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the processes of the test put their temporary files, which a killed one leaves."""
    with tempfile.TemporaryDirectory(prefix="agentaudit-test-") as name:
        # PostgreSQL's own user has to get to its folder inside.
        Path(name).chmod(0o711)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def marked(mark: str) -> Iterator[str]:
    """Yield the command lines of the processes that carry the mark, our own apart."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_demo_works_twice_in_one_folder_and_leaves_no_process(
    tmp_path: Path, mark: str
) -> None:
    directory = tmp_path / "demo-run"
    for runs in (1, 2):
        result = subprocess.run(
            [sys.executable, "-m", "agentaudit.cli", "demo", directory],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "agentaudit verify --deep: yes" in result.stdout
        found = re.search(r"(\d+) of (\d+) statements", result.stdout)
        assert found is not None
        assert found[1] == found[2] != "0"
        assert (directory / "archive" / "FORMAT").is_file()
        assert len(list((directory / "earlier").glob("*/archive/FORMAT"))) == runs - 1
        assert not re.search(r"eyJ|password|PRIVATE", result.stdout + result.stderr)
    assert list(marked(mark)) == []


@pytest.mark.full
def test_a_demo_that_is_asked_to_end_ends_its_processes(tmp_path: Path, mark: str) -> None:
    child = Child(
        [sys.executable, "-m", "agentaudit.cli", "demo", tmp_path / "demo-run"],
        log=tmp_path / "log",
        directory=tmp_path,
    )
    child.wait_for(lambda: "listens on" in child.log_text(), "demo: gateway up")
    child.send(signal.SIGTERM)
    assert child.wait() == 128 + signal.SIGTERM
    assert list(marked(mark)) == []


@pytest.mark.full
def test_a_demo_that_is_killed_takes_its_processes_with_it(
    tmp_path: Path, mark: str, temporary: Path
) -> None:
    child = Child(
        [sys.executable, "-m", "agentaudit.cli", "demo", tmp_path / "demo-run"],
        log=tmp_path / "log",
        directory=tmp_path,
    )
    child.wait_for(lambda: "listens on" in child.log_text(), "demo: gateway up")
    child.send(signal.SIGKILL)
    child.wait()
    until(lambda: not list(marked(mark)), "demo: its processes end")


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "archive"
    kept.mkdir()
    with pytest.raises(QuestionError, match="not a folder of the demo's"):
        demo.run(tmp_path, io.StringIO())
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_folder_to_make_a_demo_in(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")

    assert main(["demo", str(tmp_path / path)]) == 2

    assert str(tmp_path / path) in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_the_shop_has_the_same_rows_every_time(own_postgres18: PostgresPeer) -> None:
    digest = (
        "SELECT md5(string_agg(row::text, '' ORDER BY row::text)) FROM ("
        "SELECT c::text AS row FROM customers c UNION ALL SELECT o::text FROM orders o "
        "UNION ALL SELECT p::text FROM payments p UNION ALL SELECT t::text FROM tickets t) rows"
    )
    digests = []
    for database in ("one", "two"):
        own_postgres18.execute(f"CREATE DATABASE {database}")
        shop.fill(own_postgres18.superuser_dsn(database))
        digests += own_postgres18.execute(digest, database=database)
    assert digests[0] == digests[1]


def test_the_agents_day_runs_against_a_server_without_the_gateway(
    own_postgres18: PostgresPeer,
) -> None:
    shop.fill(own_postgres18.superuser_dsn("orders"))
    own_postgres18.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO scram", database="orders")
    dsn = (
        f"host={own_postgres18.host} port={own_postgres18.port} dbname=orders user=scram "
        f"password={own_postgres18.passwords['scram']}"
    )
    assert "country,customers" in agent.nightly_report(dsn)
    agent.refund_duplicates(dsn, think=lambda seconds: None)
    agent.answer_tickets(dsn, think=lambda seconds: None)
    ((orders, cancelled),) = own_postgres18.execute(
        "SELECT count(*), count(*) FILTER (WHERE status = 'cancelled' AND placed_at < '2026-06-01')"
        " FROM orders",
        database="orders",
    )
    assert orders > 2000, "the DELETE without WHERE was rolled back"
    assert cancelled == 0, "the smaller one was committed"


def test_a_page_with_an_executed_notebook_fetches_nothing(tmp_path: Path) -> None:
    cells = [
        "import os; print('archive', os.environ['AGENTAUDIT_ARCHIVE'])",
        "class View:\n"
        "    def _repr_mimebundle_(self, **_):\n"
        "        return {'text/html': '<b>still picture</b>',\n"
        "                'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}}\n"
        "View()",
    ]
    notebook = tmp_path / "n.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]),
        notebook,
    )
    page = tmp_path / "n.html"
    execute(notebook, page, environment={"AGENTAUDIT_ARCHIVE": "here"})
    html = page.read_text()
    assert "archive here" in html
    assert "<b>still picture</b>" in html
    assert not re.search(r"<script|<link|<iframe|<img[^>]+src=.http|@import|url\(.?http", html)


def test_a_failing_cell_is_an_error_that_names_the_notebook(tmp_path: Path) -> None:
    notebook = tmp_path / "broken.ipynb"
    cell = nbformat.v4.new_code_cell("1 / 0")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    with pytest.raises(PeerError, match=r"broken\.ipynb: a cell failed: ZeroDivisionError"):
        execute(notebook, tmp_path / "broken.html", environment={})


def test_a_server_that_cannot_start_says_why(own_postgres18: PostgresPeer) -> None:
    server = Postgres(binaries=own_postgres18.binaries, settings={"shared_buffers": "nonsense"})
    try:
        with pytest.raises(PeerError, match="shared_buffers"):
            server.start()
    finally:
        server.remove()
    assert not server.directory.exists()


def test_settings_written_as_toml_read_back_the_same() -> None:
    settings = {
        "gateway": {"name": "gw1", "drain": 3, "on": True, "text": 'a "quoted" \\ é'},
        "target": [{"name": "a", "groups": ["x", "y"], "tags": {"env": "prod"}}, {"name": "b"}],
    }
    assert tomllib.loads(to_toml(settings)) == settings
