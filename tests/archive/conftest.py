"""Archives are recorded in temporary folders, and what is remembered of them stays there too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.faults import Disk
from tests.archive.recording import Site, crashed, new_site


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test remember a log in the state folder of whoever runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A place to record: a key, and no archive yet."""
    return new_site(tmp_path / "site")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The journals' disk, to watch, to hold up and to break."""
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def crash_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site as a crash leaves it: one journal, two sessions and the control session open."""
    site = new_site(tmp_path_factory.mktemp("crash") / "site")
    crashed(site)
    return site


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that no disk slows down, where there is one: thousands of archives are made."""
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    ) as folder:
        yield Path(folder)
