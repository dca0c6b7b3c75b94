"""Fixtures of these tests: archives, and a real JupyterLab that a browser can open."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentaudit.demo.processes import Child
from tests.analysis.recording import recorded

__all__ = ["lab", "recorded"]

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "artifacts"
SAMPLE = ROOT / "sample_data" / "archive"


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that `agentaudit lab` started; `url` ends in a slash."""

    folder: Path
    url: str
    token: str

    def address(self, notebook: str) -> str:
        """Return where to open `notebook`, in a fresh workspace."""
        return f"{self.url}lab/tree/{notebook}?reset&token={self.token}"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab, by our own command, on a copy of the sample archive."""
    shutil.copytree(SAMPLE, tmp_path / "investigation" / "archive")
    shutil.copy(SAMPLE.with_name("archive.vkey"), tmp_path / "investigation")
    with running_lab(tmp_path / "investigation" / "archive", tmp_path) as lab:
        yield lab


@contextmanager
def running_lab(archive: Path, scratch: Path) -> Iterator[Lab]:
    """Run `agentaudit lab` on `archive`, with nothing of the user's own settings."""
    home = scratch / "home"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Lab asks for news at its first start; the browser would show a question over our screenshot.
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    runtime = home / "runtime"
    environment = os.environ | {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [sys.executable, "-m", "agentaudit.cli", "lab", str(archive), "--"]
    command += ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += ["--LabApp.expose_app_in_browser=True"]
    server = Child(
        command, log=scratch / "lab.log", directory=archive.parent, environment=environment
    )
    try:
        server.wait_for(lambda: bool(_servers(runtime)), "JupyterLab listens")
        (info,) = _servers(runtime)
        yield Lab(archive.parent, info["url"], info["token"])
    finally:
        server.stop()


def _servers(runtime: Path) -> list[dict[str, Any]]:
    """Return what servers with this runtime folder say of themselves, once they listen."""
    found = []
    for path in runtime.glob("jpserver-*.json"):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue  # it is being written
    return found
