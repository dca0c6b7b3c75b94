"""Archives are recorded in temporary folders, and what is remembered of them stays there too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archive.recording import Site, new_site


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test remember a log in the state folder of whoever runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A place to record: a key, and no archive yet."""
    return new_site(tmp_path / "site")
