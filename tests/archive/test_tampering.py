"""Whatever is done to an archive's files, `verify` says no and names the place.

The exceptions are listed with their reasons: see `HARMLESS_TO_REMOVE`. No byte of a file is
harmless to change.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from agentaudit.archive import verify_log
from agentaudit.archive.drill.machine import rewrite_parquet
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.keys import create_key
from agentaudit.archive.layout import segment_path
from agentaudit.archive.log import read_log
from agentaudit.archive.note import Checkpoint, Signer, sign_note
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from tests import tries
from tests.archive.recording import (
    ANA,
    GATEWAY,
    ORIGIN,
    Site,
    boundaries,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    resign,
    sealed_files,
    start,
    ticked,
)

HARMLESS_TO_REMOVE = {
    # Held by a running gateway only to be alone; it never has content.
    r"journal/gw1/lock",
    # A partial tile of an earlier size: a larger one holds all of it, and C2SP lets logs drop it.
    r"log/gw1/tile/(0|entries)/000\.p/\d+",
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small archive: two segments, a policy, an epoch that ended."""
    site = new_site(tmp_path_factory.mktemp("sealed") / "site")
    record(site, commands=1, policy=b'{"rules":[]}')
    record(site, commands=1)
    return site


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """As small as an archive gets: one segment with one command."""
    site = new_site(tmp_path_factory.mktemp("tiny") / "site")
    record(site, commands=1, policy=b'{"rules":[]}')
    return site


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An archive whose gateway records, up to its last tick."""
    site = new_site(tmp_path_factory.mktemp("live") / "site")
    crashed(site)
    ticked(site)
    (path,) = site.journals()
    # The room behind it holds nothing yet: what is put there was never recorded.
    os.truncate(path, boundaries(path)[-1])
    return site


@pytest.fixture
def site(sealed: Site, tmp_path: Path) -> Site:
    return sealed.copy_to(tmp_path / "copy")


def check(site: Site, *, deep: bool = False) -> Verification:
    return verify(site.archive, key=site.vkey, deep=deep, remember=False)


def files(site: Site) -> list[str]:
    paths = (path for path in site.archive.rglob("*") if path.is_file())
    return sorted(path.relative_to(site.archive).as_posix() for path in paths)


def names(result: Verification, relative: str) -> bool:
    """Whether a finding names the file, or what it binds."""
    segment = re.search(r"[0-9a-f-]{36}", relative)
    places = [relative]
    if relative.startswith("log/"):
        places.append("log/gw1")
    if relative.startswith("journal/") and segment:
        places.append(f"journal {segment[0]}")
    return any(place in str(finding) for finding in result.findings for place in places)


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """Let the file hold `data` for a while, under the same name and times."""
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    try:
        yield
    finally:
        path.write_bytes(before)


def require_every_flip_found(
    site: Site, relative: str, *, stride: int, masks: tuple[int, ...], deep: bool = False
) -> int:
    """Flip bytes of one file, `stride` apart, in turn; return how many were tried."""
    path = site.archive / relative
    whole = path.read_bytes()
    tried = 0
    for place in range(random.randrange(min(stride, len(whole))), len(whole), stride):
        for mask in masks:
            flipped = bytearray(whole)
            flipped[place] ^= mask
            with changed(path, bytes(flipped)):
                result = check(site, deep=deep)
            where = f"byte {place} of {relative}, xor {mask:#x}"
            assert result.ok is False, where
            assert names(result, relative), (where, [str(f) for f in result.findings])
            tried += 1
    return tried


def test_flipping_bytes_of_any_file_is_found(sealed: Site) -> None:
    """A sample of them; `make long` flips each."""
    tried = 0
    for relative in files(sealed):
        size = (sealed.archive / relative).stat().st_size
        if size:
            # The log and its keys are small and bind all else: a closer look.
            stride = max(1, size // 5)
            tried += require_every_flip_found(sealed, relative, stride=stride, masks=(0x20, 0xFF))
    assert tried > 200


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "prefix", ["FORMAT", "log/", "heads/", "policies/", "events/", "commands/", "sessions/"]
)
def test_flipping_every_byte_of_every_file_in_turn_is_found(tiny: Site, prefix: str) -> None:
    """`.ci/run` flips a share of them, another in each run."""
    stride = tries.of(1, share=8)
    for relative in (r for r in files(tiny) if r.startswith(prefix)):
        assert require_every_flip_found(tiny, relative, stride=stride, masks=(0xFF,)) > 0


def superseded(site: Site, relative: str) -> bool:
    size = read_log(site.layout.log(GATEWAY), []).checkpoint.size
    match = re.search(r"/000\.p/(\d+)$", relative)
    return match is not None and int(match[1]) < size


def test_flipping_any_byte_of_the_key_beside_the_log_is_found(sealed: Site) -> None:
    """Also what reads as the same: the case of a hexadecimal digit, other white space."""
    for relative in ("FORMAT", "log/gw1/keys/gw1.vkey"):
        require_every_flip_found(sealed, relative, stride=1, masks=(0x01, 0x20))


def test_flipping_bytes_of_a_live_journal_is_found(live: Site) -> None:
    (path,) = live.journals()
    relative = path.relative_to(live.archive).as_posix()
    require_every_flip_found(live, relative, stride=83, masks=(0x01,), deep=True)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_flipping_every_byte_of_a_live_journal_in_turn_is_found(live: Site) -> None:
    """`.ci/run` flips a share of them, another in each run."""
    (path,) = live.journals()
    relative = path.relative_to(live.archive).as_posix()
    require_every_flip_found(live, relative, stride=tries.of(1, share=8), masks=(0x01,))


def test_removing_any_file_is_found(site: Site) -> None:
    harmless = set()
    for relative in files(site):
        path = site.archive / relative
        data = path.read_bytes()
        path.unlink()
        result = check(site)
        path.write_bytes(data)
        if result.ok is False:
            assert names(result, relative), (relative, [str(f) for f in result.findings])
        else:
            harmless.add(relative)
    unexplained = {r for r in harmless if not any(re.fullmatch(p, r) for p in HARMLESS_TO_REMOVE)}
    assert unexplained == set()
    assert {r for r in harmless if "tile" in r} == {
        r for r in files(site) if superseded(site, r)
    }, "only what a later tile holds"


def test_removing_the_live_journal_is_found(live: Site, tmp_path: Path) -> None:
    site = live.copy_to(tmp_path / "copy")
    (path,) = site.journals()
    path.unlink()
    result = check(site)
    assert result.ok is False
    assert "neither journal nor seal" in str(result.findings[0])


def test_a_journal_that_only_the_gateway_may_read_leaves_the_answer_open(
    live: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither yes nor no: what is in it was not seen."""

    def opened(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(verify_log, "open_regular", opened)
    result = check(live, deep=True)
    assert result.ok is None
    assert result.findings == []
    assert "Permission denied" in result.unread[0]


@pytest.mark.parametrize("deep", [False, True])
def test_an_archive_is_checked_as_it_was_when_the_check_began(site: Site, *, deep: bool) -> None:
    """Whole segments begin and are sealed while it lasts, the live one among them."""
    crashed(site)
    before = check(site, deep=deep)
    assert before.ok is True

    def recording() -> None:
        record(site, segment_events=8)

    progress = once_a_look(recording)
    result = verify(site.archive, key=site.vkey, deep=deep, remember=False, progress=progress)
    assert result.ok is True, [str(finding) for finding in result.findings]
    assert result.checkpoints == before.checkpoints
    # What the live journal came to hold before it was sealed is read with it.
    assert result.events == before.events
    assert result.live_events > before.live_events
    assert check(site, deep=deep).segments > before.segments + 1


def test_what_every_look_finds_is_found_though_recording_goes_on(site: Site) -> None:
    looks = 0

    def recording() -> None:
        nonlocal looks
        looks += 1
        record(site, commands=1)
        if moves:
            (site.archive / f"extra-{looks - 1}").unlink(missing_ok=True)
            (site.archive / f"extra-{looks}").touch()

    def look() -> Verification:
        return verify(site.archive, key=site.vkey, progress=once_a_look(recording))

    (site.archive / "extra-0").touch()
    moves = False
    result = look()
    assert result.ok is False
    assert [finding.place for finding in result.findings] == ["extra-0"]
    moves = True
    (site.archive / "extra-0").unlink()
    result = look()
    assert (result.ok, result.findings) == (None, [])
    assert "extra-" in result.unread[0]
    assert "others in each of 3 passes" in result.unread[0]


def test_what_changes_between_looks_is_found_where_nothing_records(site: Site) -> None:
    (site.archive / "extra").touch()
    checkpoint = site.layout.checkpoint(GATEWAY)

    def unsigned() -> None:
        (site.archive / "extra").unlink(missing_ok=True)
        (site.archive / "other").touch()
        checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n", b"0\n", 2))

    result = verify(site.archive, key=site.vkey, progress=once_a_look(unsigned))
    assert result.ok is False
    assert [finding.place for finding in result.findings] == ["other"]


def once_a_look(do: Callable[[], None]) -> Callable[[str, int, int], None]:
    """Return what is called with progress, and does it at the first segment of each look."""
    last = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        if done <= last or last == 0:
            do()
        last = done

    return progress


def test_an_entry_of_a_newer_release_leaves_the_answer_open(site: Site) -> None:
    resign(site, lambda entries: [*entries, {"type": "something_new", "at": 1}])
    result = check(site, deep=True)
    assert result.ok is None
    assert "something_new" in result.unread[0]


def test_cutting_the_live_journal_back_behind_its_last_tick_is_found(
    live: Site, tmp_path: Path
) -> None:
    site = live.copy_to(tmp_path / "copy")
    (path,) = site.journals()
    os.truncate(path, path.stat().st_size - 1)
    for deep in (False, True):
        result = check(site, deep=deep)
        assert result.ok is False
        assert [finding.check for finding in result.findings] == ["tick"]


def test_a_live_journal_that_says_another_segment_is_found_whatever_is_in_it(
    live: Site, tmp_path: Path
) -> None:
    """What is ticked is looked up by its segment: nothing would be held against it."""
    site = live.copy_to(tmp_path / "copy")
    (path,) = site.journals()
    header = JournalReader(path).header
    path.write_bytes(dataclasses.replace(header, segment=UUID(int=1)).encode())
    for deep in (False, True):
        result = check(site, deep=deep)
        assert result.ok is False
        assert f"{path.name}: its header says segment {UUID(int=1)}" in str(result.findings[0])


def test_a_tick_of_a_segment_that_is_not_there_is_found(site: Site) -> None:
    tick = {"type": "tick", "at": 1, "segment": str(UUID(int=1)), "n": 2, "root": "00" * 32}
    resign(site, lambda entries: [*entries, tick])
    result = check(site)
    assert [finding.check for finding in result.findings] == ["tick"]
    assert "ticked at 2 events" in result.findings[0].seen


@pytest.mark.parametrize("size", [0, 1, 100])
def test_truncating_any_file_is_found(site: Site, size: int) -> None:
    for relative in files(site):
        path = site.archive / relative
        if path.stat().st_size > size and not superseded(site, relative):
            with changed(path, path.read_bytes()[:size]):
                result = check(site)
            assert result.ok is False
            assert names(result, relative), (relative, [str(f) for f in result.findings])


def test_appending_to_any_file_is_found(site: Site) -> None:
    for relative in files(site):
        path = site.archive / relative
        if relative != "journal/gw1/lock":
            with changed(path, path.read_bytes() + b"\n"):
                result = check(site)
            assert result.ok is False, relative
            assert names(result, relative)


def without_row(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table.slice(2)])


def swapped(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)])


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def same(table: pa.Table) -> pa.Table:
    """Also a file that says the same in other bytes is not the file that was sealed."""
    return table


@pytest.mark.parametrize("change", [without_row, swapped, twice, same])
@pytest.mark.parametrize("table", ["events", "commands", "sessions"])
def test_removed_swapped_and_repeated_rows_are_found_by_their_file(
    site: Site, table: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    path = sealed_files(site, table)[0]
    rewrite_parquet(path, change)
    result = check(site)
    assert result.ok is False
    (finding,) = result.findings
    assert finding.place == path.relative_to(site.archive).as_posix()
    assert "as sealed" in finding.expected


def test_files_of_two_segments_that_change_places_are_found(site: Site) -> None:
    first, second = sealed_files(site, "events")
    other = first.with_suffix(".x")
    first.rename(other)
    second.rename(first)
    other.rename(second)
    result = check(site)
    assert {finding.place for finding in result.findings} == {
        path.relative_to(site.archive).as_posix() for path in (first, second)
    }


@pytest.mark.parametrize(
    "relative",
    [
        "events/gw=gw1/date=2026-01-01/01a203d1-edd4-77d3-a0c6-d27fbf81b029.parquet",
        "events/gw=gw1/extra.parquet",
        "extra",
        "log/gw1/extra",
        "log/gw1/keys/gw2.vkey",
        "log/gw1/tile/0/001",
        "log/gw1/tile/0/000.p/0",
        "log/gw1/tile/entries/000.p/0",
        "log/gw1/tile/0/000.p/999",
        "log/gw1/tile/0/x000/000.p/1",
        "log/gw1/tile/1/000.p/1",
        "heads/01a203d1-edd4-77d3-a0c6-d27fbf81b029.note",
        "journal/gw1/notes.journal",
        "journal/gw1/extra",
        "journal/gw2/lock",
        "policies/extra.json",
        "residue/extra",
    ],
)
@pytest.mark.parametrize("content", [b"", b"content"])
def test_a_file_that_nothing_accounts_for_is_named(
    site: Site, relative: str, content: bytes
) -> None:
    path = site.archive / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    result = check(site)
    if re.match(r"log/gw1/tile/(0/001|0/000.p/999|1/)", relative) and result.ok:
        return  # beyond the checkpoint: what a crash leaves, never read, removed at the next start
    if relative == "journal/gw2/lock" and result.ok:
        return  # what a gateway that never recorded leaves
    assert result.ok is False
    assert names(result, relative)


def test_files_named_after_the_live_segment_are_named_but_for_those_that_its_seal_makes(
    live: Site, tmp_path: Path
) -> None:
    site = live.copy_to(tmp_path / "copy")
    (path,) = site.journals()
    first_us = next(JournalReader(path).read()).observed_us
    segment = UUID(path.stem)
    in_the_making = [
        site.archive / segment_path("events", GATEWAY, first_us, segment),
        site.layout.head(segment),
    ]
    strays = [
        site.archive / segment_path("events", GATEWAY, first_us - 864 * 10**8, segment),
        site.archive / segment_path("events", "gw2", first_us, segment),
        site.archive / "heads" / f"{segment}.txt",
        site.archive / f"{segment}.parquet",
    ]
    for file in (*in_the_making, *strays):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    result = check(site)
    named = {path.relative_to(site.archive).as_posix() for path in strays}
    assert {finding.place for finding in result.findings} == named
    noted = [f"{path.relative_to(site.archive).as_posix()}: " for path in in_the_making]
    assert all(any(note.startswith(one) for note in result.notes) for one in noted)


def test_a_file_in_the_making_that_has_been_made_meanwhile_is_passed_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealer at work renames it between the moment it is listed and the one it is looked at."""
    walk = os.walk

    def walk_and_rename(root: Path) -> Iterator[Any]:
        for folder, folders, files in walk(root):
            yield folder, folders, [*files, "65.tmp"]

    monkeypatch.setattr(os, "walk", walk_and_rename)
    result = check(site)
    assert result.findings == []
    assert result.ok


def test_a_policy_whose_entry_a_crash_forestalled_is_passed_over(site: Site) -> None:
    document = b'{"rules":[]}'
    path = site.layout.policy(sha256(document).hexdigest())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(document)
    assert check(site).ok is True
    path.write_bytes(b"something else")
    assert check(site).ok is False


@pytest.mark.parametrize("relative", ["heads", "events", "log/gw1/keys", "log/gw1/tile"])
def test_a_folder_that_is_a_link_is_named(site: Site, tmp_path: Path, relative: str) -> None:
    folder = site.archive / relative
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    result = check(site)
    assert result.ok is False
    assert relative in {finding.place for finding in result.findings}


def test_a_file_that_is_a_link_or_no_file_is_named(site: Site, tmp_path: Path) -> None:
    path = sealed_files(site, "events")[0]
    relative = path.relative_to(site.archive).as_posix()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(site.archive / "pipe")
    result = check(site)
    assert result.ok is False
    assert {finding.place for finding in result.findings} == {relative, "pipe"}


def test_a_gateway_that_is_gone_as_a_whole_is_found_by_who_has_its_key(
    sealed: Site, tmp_path: Path
) -> None:
    site = sealed.copy_to(tmp_path / "copy")
    second = create_key(site.keys, "gw2", ORIGIN)
    result = verify(site.archive, key=[site.vkey, second], remember=False)
    assert result.ok is False
    assert "audit.example.com/gw2" in str(result.findings[0])


# --- against what was seen before


def earlier_checkpoint(site: Site, size: int) -> bytes:
    """The checkpoint that this log had at `size`: signatures hang on nothing but size and root."""
    log = read_log(site.layout.log(GATEWAY), [])
    root = log.root_at(size)
    return sign_note(Checkpoint(log.checkpoint.origin, size, root).text(), site.signers)


def test_a_log_cut_back_by_one_entry_is_found_against_a_remembered_checkpoint(site: Site) -> None:
    size = read_log(site.layout.log(GATEWAY), []).checkpoint.size
    assert verify(site.archive, key=site.vkey).ok is True
    checkpoint = site.layout.checkpoint(GATEWAY)
    checkpoint.write_bytes(earlier_checkpoint(site, size - 1))
    for key in (site.vkey, None):
        result = verify(site.archive, key=key)
        assert result.ok is False
        assert [(finding.check, finding.place) for finding in result.findings] == [
            ("rollback", "log/gw1/checkpoint")
        ]


def test_a_log_cut_back_by_one_entry_is_found_against_a_given_checkpoint(site: Site) -> None:
    checkpoint = site.layout.checkpoint(GATEWAY)
    kept = checkpoint.read_text()
    size = read_log(site.layout.log(GATEWAY), []).checkpoint.size
    checkpoint.write_bytes(earlier_checkpoint(site, size - 1))
    result = verify(site.archive, key=site.vkey, since=kept, remember=False)
    assert result.ok is False
    assert "at least the" in str(result.findings[0])


def test_what_no_anchor_covers_is_said_and_may_be_cut(site: Site) -> None:
    """The limit of what is promised: nobody saw the last entry, so nobody misses it."""
    size = read_log(site.layout.log(GATEWAY), []).checkpoint.size
    result = verify(site.archive, key=site.vkey, remember=False)
    (exposure,) = result.exposure
    assert (exposure.anchor, exposure.since_size, exposure.entries) == ("none", 0, size)
    assert exposure.events == result.events
    site.layout.checkpoint(GATEWAY).write_bytes(earlier_checkpoint(site, size - 1))
    assert verify(site.archive, key=site.vkey, remember=False).ok is True


def test_behind_a_remembered_checkpoint_nothing_is_exposed(site: Site) -> None:
    assert verify(site.archive, key=site.vkey).ok is True
    (exposure,) = verify(site.archive, key=site.vkey).exposure
    assert (exposure.anchor, exposure.entries, exposure.events) == ("remembered checkpoint", 0, 0)
    record(site, commands=1)
    (exposure,) = verify(site.archive, key=site.vkey).exposure
    assert exposure.events == 7
    assert exposure.entries > 0


def rekeyed(site: Site, folder: Path) -> Site:
    """Another archive of the same gateway, with keys of its own, in the place of the first."""
    forged = new_site(folder / "forged")
    record(forged, commands=1)
    shutil.rmtree(site.archive)
    shutil.copytree(forged.archive, site.archive)
    return forged


@pytest.mark.parametrize("is_trusted", [True, False])
def test_replaced_keys_are_found_against_remembered_ones(
    site: Site, tmp_path: Path, is_trusted: bool
) -> None:
    verify(site.archive, key=site.vkey if is_trusted else None)
    rekeyed(site, tmp_path)
    result = verify(site.archive)
    assert result.ok is False
    assert "key" in {finding.check for finding in result.findings}
    assert "log/gw1/checkpoint" in {finding.place for finding in result.findings}


def test_replaced_keys_are_found_against_given_ones(site: Site, tmp_path: Path) -> None:
    rekeyed(site, tmp_path)
    result = verify(site.archive, key=site.vkey, remember=False)
    assert result.ok is False
    assert "signature" in {finding.check for finding in result.findings}


def test_without_a_key_from_outside_the_answer_is_never_yes(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        result = verify(site.archive, deep=True)
        assert result.ok is None
        assert result.unknown_signers == ["gw1"]
    stranger = new_site(tmp_path / "stranger")
    result = verify(site.archive, key=stranger.vkey, remember=False)
    assert result.ok is False, "a key of this origin that signed nothing here"


def test_a_key_that_is_given_outweighs_one_that_was_merely_found(
    site: Site, tmp_path: Path
) -> None:
    forged = site.copy_to(tmp_path / "other")
    rekeyed(forged, tmp_path)
    assert verify(forged.archive).ok is None
    assert verify(site.archive, key=site.vkey).ok is True
    assert verify(forged.archive).ok is False


def test_a_checkpoint_of_another_log_is_no_anchor_of_this_one(site: Site) -> None:
    signer = Signer.generate("other.example.com/gw1")
    note = sign_note(Checkpoint("other.example.com/gw1", 1, bytes(32)).text(), [signer]).decode()
    result = verify(site.archive, key=site.vkey, since=note, remember=False)
    assert result.ok is False
    assert "other.example.com/gw1" in str(result.findings[0])


async def test_an_archive_that_is_being_recorded_verifies_at_any_moment(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    recorder = await start(site, segment_events=60)
    session = recorder.open_session(ANA)
    stop = asyncio.Event()

    async def traffic() -> None:
        command_no = 0
        while not stop.is_set():
            exchange(session, command_no, reply=os.urandom(9000))
            command_no += 1
            await counted(recorder)
            await asyncio.sleep(0.002)

    answers: list[tuple[bool | None, list[str]]] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(traffic())
        for number in range(12):
            result = await asyncio.to_thread(
                verify, site.archive, key=site.vkey, deep=number % 2 == 0
            )
            answers.append((result.ok, [str(finding) for finding in result.findings]))
        stop.set()
    assert task.done()
    assert [answer for answer in answers if answer[0] is not True] == []
    await recorder.stop()
