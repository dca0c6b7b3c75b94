"""Fixtures of these tests: real Jupyter servers with our extension, asked by HTTP."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentaudit.demo.processes import Child, until
from tests.analysis.recording import recorded

__all__ = ["recorded"]

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_data" / "archive"


@dataclass(frozen=True)
class Answer:
    """One answer to a question, taken out of its frame as the format says."""

    told: dict[str, Any]
    buffers: tuple[bytes, ...]

    @property
    def data(self) -> Any:
        assert self.told["ok"], self.told
        return self.told["data"]


def unframed(body: bytes) -> Answer:
    """Return what is in a frame; written from its description, not from what makes it."""
    assert body[:4] == b"AAQ1"
    (length,) = struct.unpack("<I", body[4:8])
    head = json.loads(body[8 : 8 + length])
    buffers, place = [], 8 + length
    for size in head["buffers"]:
        filled = (place + 7) // 8 * 8
        assert body[place:filled] == bytes(filled - place)
        buffers.append(body[filled : filled + size])
        place = filled + size
    assert place == len(body)
    return Answer(head["answer"], tuple(buffers))


@dataclass(frozen=True)
class Server:
    """A running server: `url` ends in a slash, `http` is somebody who has its token."""

    url: str
    token: str
    root: Path
    log: Path
    http: httpx.Client

    def archives(self) -> dict[str, dict[str, Any]]:
        """Return the archives that may be asked about, by their paths."""
        found = self.http.get("agentaudit/archives").json()["archives"]
        return {one["path"]: one for one in found}

    def ask(self, where: str, op: str, *, page: str = "", **args: Any) -> Answer:
        """Ask a question of a component, `<archive>/<component>[/<session>]`."""
        message = {"v": 1, "id": 7, "op": op, "args": args}
        said = self.http.post(
            f"agentaudit/questions/{where}", json=message, params={"page": page} if page else {}
        )
        assert said.status_code == 200, said.text
        answer = unframed(said.content)
        assert answer.told["id"] == 7
        return answer


ENABLED = (
    "-m",
    "jupyter_server",
    "--ServerApp.jpserver_extensions={'agentaudit.jupyter': True}",
)


@contextmanager
def serving(
    root: Path,
    scratch: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = ENABLED,
    python: str | Path = sys.executable,
) -> Iterator[Server]:
    """Run a Jupyter server over `root` with our extension, and with no settings of the user's."""
    home = scratch / "home"
    home.mkdir(parents=True, exist_ok=True)
    runtime = home / "runtime"
    log = scratch / "server.log"
    argv: list[str | Path] = [python, *command]
    argv += ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    argv += [f"--ServerApp.root_dir={root}"]
    argv += options
    server = Child(
        argv,
        log=log,
        directory=scratch,
        environment=_environment(home, runtime) | dict(environment or {}),
    )
    try:
        server.wait_for(lambda: bool(_told(runtime)), "Jupyter listens")
        (info,) = _told(runtime)
        with httpx.Client(
            base_url=info["url"],
            headers={"Authorization": f"token {info['token']}"},
            timeout=60,
        ) as http:
            until(lambda: _answers(http), "Jupyter answers")
            yield Server(info["url"], info["token"], root, log, http)
    finally:
        server.stop()


@contextmanager
def serving_lab(
    root: Path,
    scratch: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    python: str | Path = sys.executable,
) -> Iterator[Server]:
    """Run JupyterLab over `root` as it is installed: both of our halves are enabled by that."""
    settings = scratch / "home" / "settings"
    news = settings / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    # Lab asks for news at its first start; the browser would show a question over our screenshot.
    (news / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    places = {
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "home" / "workspaces"),
    }
    with serving(
        root,
        scratch,
        "--LabApp.expose_app_in_browser=True",
        *options,
        environment=places | dict(environment or {}),
        command=("-m", "jupyterlab"),
        python=python,
    ) as server:
        yield server


def _environment(home: Path, runtime: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTAUDIT")}
    return kept | {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
    }


def _told(runtime: Path) -> list[dict[str, Any]]:
    found = []
    for path in runtime.glob("jpserver-*.json"):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue  # it is being written
    return found


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("api").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose root holds the sample archive, `work/archive`, and a folder without one."""
    scratch = tmp_path_factory.mktemp("jupyter")
    root = scratch / "root"
    shutil.copytree(SAMPLE, root / "work" / "archive")
    shutil.copy(SAMPLE.with_name("archive.vkey"), root / "work")
    (root / "plain").mkdir()
    with serving(root, scratch) as running:
        yield running
