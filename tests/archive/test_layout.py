"""Paths, ids, keys and durable file operations."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit._native import system
from agentaudit.archive import files
from agentaudit.archive.ids import uuid7
from agentaudit.archive.keys import Place, create_key, load_key
from agentaudit.archive.layout import Layout, segment_path
from agentaudit.archive.note import Verifier
from agentaudit.errors import AgentauditError, RecordingError, SettingsError
from tests.archive.faults import io_in_python, python_of

SEGMENT = UUID("018bcfe5-6800-7def-8123-456789abcdef")


@pytest.mark.parametrize(
    ("first_us", "date"),
    [(0, "1970-01-01"), (86_399_999_999, "1970-01-01"), (86_400_000_000, "1970-01-02")],
)
def test_a_segment_lies_under_the_utc_day_of_its_first_event(first_us: int, date: str) -> None:
    path = segment_path("events", "gw1", first_us, SEGMENT)
    assert path == f"events/gw=gw1/date={date}/{SEGMENT}.parquet"


def test_the_paths_of_an_archive_are_those_of_the_format(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    found = {
        path.relative_to(tmp_path).as_posix()
        for path in (
            layout.format_file,
            layout.head(SEGMENT),
            layout.checkpoint("gw1"),
            layout.verifier_key("gw1"),
            layout.policy("ab"),
            layout.journal("gw1", SEGMENT),
            layout.lock("gw1"),
            layout.reserve("gw1"),
        )
    }
    assert found == {
        "FORMAT",
        f"heads/{SEGMENT}.note",
        "log/gw1/checkpoint",
        "log/gw1/keys/gw1.vkey",
        "policies/ab.json",
        f"journal/gw1/{SEGMENT}.journal",
        "journal/gw1/lock",
        "journal/gw1/reserve",
    }


def test_gateways_are_those_with_a_log(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.gateways() == []
    for name in ("gw2", "gw1", "No gateway"):
        layout.log(name).mkdir(parents=True)
    assert layout.gateways() == ["gw1", "gw2"]


def test_a_foreign_file_among_the_journals_is_no_journal(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.journal_segments("gw1") == set()
    layout.journals("gw1").mkdir(parents=True)
    (layout.journals("gw1") / "notes.journal").write_bytes(b"x")
    assert layout.journal_segments("gw1") == set()


@given(st.integers(0, 2**48 * 1000 - 1))
def test_an_id_is_a_uuid_of_version_7_that_holds_its_millisecond(unix_us: int) -> None:
    made = uuid7(unix_us)
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == unix_us // 1000


def test_ids_of_later_milliseconds_sort_later_and_ids_of_one_differ() -> None:
    made = [uuid7(n * 1000) for n in range(1, 100)]
    assert sorted(made, key=str) == made
    assert len({uuid7(5) for _ in range(100)}) == 100


def test_a_log_key_is_readable_by_its_owner_only_and_signs_for_its_origin(tmp_path: Path) -> None:
    keys = tmp_path / "new" / "keys"
    public = create_key(keys, "gw1", "audit.example.com")
    assert stat.S_IMODE((keys / "gw1.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((keys / "gw1.epoch").stat().st_mode) == 0o600
    assert (keys / "gw1.vkey").read_text() == public + "\n"
    verifier, epoch = map(Verifier.parse, public.splitlines())
    assert epoch.name == "audit.example.com/gw1/epoch"
    assert verifier.name == "audit.example.com/gw1"
    signer = load_key(place(tmp_path, keys))
    assert verifier.accepts(b"text", signer.sign(b"text"))


def test_a_log_key_is_never_overwritten(tmp_path: Path) -> None:
    create_key(tmp_path, "gw1", "audit.example.com")
    before = (tmp_path / "gw1.key").read_bytes()
    with pytest.raises(SettingsError, match="there is a log key already") as caught:
        create_key(tmp_path, "gw1", "audit.example.com")
    assert "never recorded anything" in caught.value.hint
    assert (tmp_path / "gw1.key").read_bytes() == before


def place(folder: Path, keys: Path, origin: str = "audit.example.com") -> Place:
    return Place(archive=folder / "archive", gateway="gw1", origin=origin, keys=keys)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path, "gw1", "audit.example.com")
    (tmp_path / "gw1.key").chmod(0o640)
    with pytest.raises(RecordingError, match="mode 0640, 0600 expected"):
        load_key(place(tmp_path, tmp_path))


def test_the_key_of_another_origin_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path, "gw1", "audit.example.com")
    with pytest.raises(RecordingError, match=r"made for audit\.example\.com/gw1, the settings say"):
        load_key(place(tmp_path, tmp_path, origin="other.example.com"))


def test_a_missing_key_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file") as caught:
        load_key(place(tmp_path, tmp_path))
    assert "keygen" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"rubbish\n", b"\xff\xfe", b"PRIVATE+KEY+a+b"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gw1.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(AgentauditError, match="log key"):
        load_key(place(tmp_path, tmp_path))


@pytest.mark.parametrize("name", ["", "GW1", "a/b", "..", "a" * 64, "gw1\n"])
def test_a_gateway_needs_a_name_that_is_safe_in_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="gateway name"):
        Place(archive=tmp_path, gateway=name, origin="o", keys=tmp_path)


def test_write_all_goes_on_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    python_of(system).write_all(fd, b"0123456789")
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_replace_leaves_the_old_content_where_the_new_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.replace(path, b"old")

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(OSError, match="No space"):
            files.replace(path, b"new")
    assert path.read_bytes() == b"old"


def test_replace_syncs_the_content_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def call(*args: object, real: object = real, name: str = name) -> object:
            calls.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(os, name, call)
    io_in_python(monkeypatch)
    files.replace(tmp_path / "file", b"data")
    assert calls == ["write", "fsync", "replace", "fsync"]


def test_folders_are_made_with_their_parents_and_without_access_for_others(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) & 0o007 == 0
    files.sync_folder(tmp_path / "a")
