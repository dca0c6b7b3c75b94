"""What this machine remembers of logs: kept outside the archive, never going back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agentaudit.archive import known
from agentaudit.archive.known import Known
from agentaudit.archive.note import Checkpoint
from agentaudit.archive.verify import verify
from agentaudit.errors import SettingsError
from tests.archive.recording import Site, record

KEY = "log+01020304+abc"


def seen(size: int, *, origin: str = "log", key: str = KEY, trusted: bool = False) -> Known:
    return Known(key, Checkpoint(origin, size, bytes([size]) * 32), trusted)


def memory() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "agentaudit" / "known-logs.json"


def test_nothing_is_remembered_before_anything_was_seen() -> None:
    assert known.recall("log") is None


def test_logs_are_remembered_each_by_its_origin() -> None:
    known.remember(seen(3))
    known.remember(seen(5, origin="other", trusted=True))
    assert known.recall("log") == seen(3)
    assert known.recall("other") == seen(5, origin="other", trusted=True)
    assert stat.S_IMODE(memory().stat().st_mode) == 0o600


def test_a_smaller_checkpoint_never_takes_the_place_of_a_larger_one() -> None:
    """Two that verify at once: the slower has seen less."""
    known.remember(seen(5))
    known.remember(seen(3))
    assert known.recall("log") == seen(5)


def test_a_key_that_was_given_once_stays_trusted() -> None:
    known.remember(seen(3, trusted=True))
    known.remember(seen(4))
    assert known.recall("log") == seen(4, trusted=True)


def test_another_key_takes_the_place_of_one_that_was_only_found() -> None:
    known.remember(seen(9))
    known.remember(seen(3, key="log+05060708+def", trusted=True))
    assert known.recall("log") == seen(3, key="log+05060708+def", trusted=True)


def test_another_key_is_a_contradiction_that_shows_which() -> None:
    one = "log+01020304+AQ+/++"
    other = "log+05060708+AQ++++"
    (found,) = known.key_contradictions(seen(1, key=one), other)
    assert str(found) == "signed by log+05060708, log+01020304, as remembered, expected"
    assert known.key_contradictions(seen(1, key=one), one) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"log": 5}',
        b'{"log": {}}',
        b'{"log": {"key": "k", "size": "x"}}',
        b"\xff",
    ],
)
def test_a_damaged_memory_is_named_and_left_alone(content: bytes) -> None:
    memory().parent.mkdir(parents=True)
    memory().write_bytes(content)
    with pytest.raises(SettingsError, match=r"known-logs\.json: damaged") as caught:
        known.recall("log")
    assert "--key" in caught.value.hint
    with pytest.raises(SettingsError, match="damaged"):
        known.remember(seen(1))
    assert memory().read_bytes() == content


def test_a_memory_that_cannot_be_read_is_named(site: Site) -> None:
    record(site, commands=1)
    memory().mkdir(parents=True)
    with pytest.raises(SettingsError, match="Is a directory"):
        verify(site.archive, key=site.vkey)


def test_the_state_folder_is_that_of_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert known.state_folder() == tmp_path / ".local/state/agentaudit"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert known.state_folder() == tmp_path / "state/agentaudit"


def test_verify_remembers_what_it_found_sound_and_nothing_else(site: Site) -> None:
    record(site, commands=1)
    verify(site.archive, key=site.vkey, remember=False)
    assert not memory().exists()
    (site.archive / "extra").touch()
    verify(site.archive, key=site.vkey)
    assert not memory().exists()
    (site.archive / "extra").unlink()
    verify(site.archive)
    found = known.recall("audit.example.com/gw1")
    assert found is not None
    assert not found.trusted
    result = verify(site.archive, key=site.vkey)
    found = known.recall("audit.example.com/gw1")
    assert found is not None
    assert found.trusted
    assert found.checkpoint == result.checkpoints["gw1"]


@pytest.fixture(scope="module")
def heard_by_one() -> Known | None:
    before = known.recall("log")
    known.remember(seen(1))
    return before


@pytest.fixture(scope="module")
def heard_by_another() -> Known | None:
    before = known.recall("log")
    known.remember(seen(1, key="log+05060708+def"))
    return before


def test_what_a_fixture_of_a_module_remembers_no_other_hears_of(
    heard_by_one: Known | None, heard_by_another: Known | None
) -> None:
    # Of logs that share a name, one would be said to be signed otherwise "as remembered".
    assert heard_by_one is None
    assert heard_by_another is None
    assert known.recall("log") is None
