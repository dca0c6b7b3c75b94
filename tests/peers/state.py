"""What this machine remembers of logs is a new folder in each test, never the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def _state_in(path: Path) -> Iterator[Path]:
    # Not the `monkeypatch` of a test, which the test may undo.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(path))
        yield path


@pytest.fixture(scope="session", autouse=True)
def _state_of_wider_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with _state_in(tmp_path_factory.mktemp("state")):
        yield


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # pytest numbers folders by reading the one above: ever more of them, for thousands of tests.
    folder = tmp_path_factory.mktemp("states")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def state_home(_states: Iterator[Path]) -> Iterator[Path]:
    """The XDG state folder of the test and of every process that it starts."""
    path = next(_states)
    path.mkdir()
    with _state_in(path):
        yield path
