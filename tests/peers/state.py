"""What this machine remembers of logs is a new folder in each test, never the user's own.

So it is in each fixture of a module or wider, while that is made: two of them record logs of one
name, signed by other keys, and what one remembered would be said against the other's archive.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def _state_in(path: Path) -> Iterator[Path]:
    # Not the `monkeypatch` of a test, which the test may undo.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(path))
        yield path


_states = pytest.StashKey[Path]()
_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _state_of_wider_fixtures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    folder = request.config.stash[_states] = tmp_path_factory.mktemp("state")
    with _state_in(folder):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let a fixture that outlives a test begin with nothing remembered."""
    folder = request.config.stash.get(_states, None)
    if fixturedef.scope == "function" or folder is None:
        return (yield)
    own = folder / str(next(_numbers))
    own.mkdir()
    with _state_in(own):
        return (yield)


@pytest.fixture(autouse=True)
def state_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The XDG state folder of the test and of every process that it starts."""
    # Not by pytest's own numbers, which it finds by reading the folder above: of thousands, slowly.
    path = request.config.stash[_states] / str(next(_numbers))
    path.mkdir()
    with _state_in(path):
        yield path
