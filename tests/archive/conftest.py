"""Archives are recorded in temporary folders, with keys of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.faults import Disk
from tests.archive.recording import Site, crashed, new_site


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
