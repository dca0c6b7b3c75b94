"""The tiled log: its bytes, its growth across tiles, its crashes, and who may write it.

Format: c2sp.org/tlog-tiles
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive import canonical
from agentaudit.archive.layout import TILE_WIDTH, entries_path, tile_end, tile_path
from agentaudit.archive.log import LogWriter, Tiles, read_log
from agentaudit.archive.merkle import leaf_hash, tree_root
from agentaudit.archive.note import Signer
from agentaudit.errors import ArchiveError, TamperedError
from tests.archive import straight

ORIGIN = "audit.example.com/gw1"


@pytest.fixture
def signer() -> Signer:
    return Signer.generate(ORIGIN)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder of its own below the test's, so that what lies beside it goes with the test."""
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def statements(first: int, count: int) -> list[dict[str, Any]]:
    return [{"type": "note", "at": 0, "n": n} for n in range(first, first + count)]


def open_writer(folder: Path, signer: Signer, origin: str = ORIGIN) -> LogWriter:
    return LogWriter(folder, origin, signer, folder.with_suffix(".memory"))


def written(signer: Signer, folder: Path, *counts: int) -> LogWriter:
    """A log of `counts` entries, one append for each."""
    log = open_writer(folder, signer)
    for count in counts:
        log.append(statements(log.size, count))
    return log


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # Source: c2sp.org/tlog-tiles, "Parameters" and "Merkle tree".
        (tile_path(0, 1234067), "tile/0/x001/x234/067"),
        (tile_path(0, 0), "tile/0/000"),
        (tile_path(1, 0, 17), "tile/1/000.p/17"),
        (tile_path(0, 273, 112), "tile/0/273.p/112"),
        (tile_path(2, 999), "tile/2/999"),
        (tile_path(2, 1000), "tile/2/x001/000"),
        (entries_path(273, 112), "tile/entries/273.p/112"),
        (entries_path(1_000_000), "tile/entries/x001/x000/000"),
    ],
)
def test_tiles_lie_where_c2sp_says(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("tile/0/000.p/3", 3),
        ("tile/0/001", 512),
        ("tile/1/000.p/3", 3 * 256),
        ("tile/1/001", 2 * 65536),
        ("tile/entries/x001/000.p/9", 256_009),
        ("tile/0/1", None),
        ("tile/0/000.p/", None),
        ("tile/60/000", None),
        ("tile/x/000", None),
        ("tile/0/000.tmp", None),
        ("tile/0/000.p/3.tmp", None),
        ("other/0/000", None),
        ("tile/0/000\n", None),
    ],
)
def test_a_tile_s_path_tells_how_large_its_tree_is(path: str, end: int | None) -> None:
    assert tile_end(path) == end


def test_bundles_and_tiles_hold_lengths_entries_and_hashes_and_nothing_else(
    signer: Signer, tmp_path: Path
) -> None:
    written(signer, tmp_path, 3)
    bundle = (tmp_path / "tile/entries/000.p/3").read_bytes()
    position, entries = 0, []
    while position < len(bundle):
        (length,) = struct.unpack_from(">H", bundle, position)
        entries.append(bundle[position + 2 : position + 2 + length])
        position += 2 + length
    assert entries == [b'{"at":0,"n":%d,"type":"note"}' % n for n in range(3)]
    tile = (tmp_path / "tile/0/000.p/3").read_bytes()
    assert tile == b"".join(leaf_hash(entry) for entry in entries)
    assert read_log(tmp_path, [signer.verifier]).checkpoint.root == straight.tree(
        [leaf_hash(entry) for entry in entries]
    )


@pytest.mark.parametrize("steps", [(256,), (255, 1), (255, 2), (1,) * 5, (256, 256), (200, 400, 3)])
def test_a_log_grown_in_any_steps_holds_the_same_tiles_as_one_grown_at_once(
    signer: Signer, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    total = sum(steps)
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    written(signer, grown, *steps)
    written(signer, whole, total)
    for path in (p for p in whole.rglob("*") if p.is_file()):
        assert (grown / path.relative_to(whole)).read_bytes() == path.read_bytes()
    log = read_log(grown, [signer.verifier])
    assert log.checkpoint.size == total
    assert list(log.entries()) == statements(0, total)


@pytest.mark.parametrize("steps", [(65535, 1), (65535, 2, 1), (65536,), (65537,), (65536 + 300, 7)])
def test_tiles_are_right_on_both_sides_of_the_second_level(steps: tuple[int, ...]) -> None:
    total = sum(steps)
    entries = [n.to_bytes(3) for n in range(total)]
    growing = Tiles()
    files: dict[str, bytes] = {}
    start = 0
    for step in steps:
        files |= growing.append(entries[start : start + step])
        start += step
    hashes = [leaf_hash(entry) for entry in entries]
    assert growing.tree.root() == tree_root(hashes)
    level, expected = 0, {}
    while hashes:
        for index in range(-(-len(hashes) // TILE_WIDTH)):
            tile = hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
            expected[tile_path(level, index, len(tile))] = b"".join(tile)
        whole = len(hashes) // TILE_WIDTH
        hashes = [
            straight.tree(hashes[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]) for i in range(whole)
        ]
        level += 1
    assert level == 3
    assert {path: files[path] for path in expected} == expected


def test_a_log_continues_after_it_was_closed(signer: Signer, tmp_path: Path) -> None:
    written(signer, tmp_path, 200)
    log = open_writer(tmp_path, signer)
    assert log.size == 200
    log.append(statements(200, 100))
    assert list(read_log(tmp_path, [signer.verifier]).entries()) == statements(0, 300)


def test_another_key_may_not_continue_a_log(signer: Signer, tmp_path: Path) -> None:
    written(signer, tmp_path, 2)
    with pytest.raises(TamperedError, match="not signed by this gateway's key"):
        open_writer(tmp_path, Signer.generate(ORIGIN))


def test_the_key_of_another_log_may_not_continue_it(signer: Signer, tmp_path: Path) -> None:
    written(signer, tmp_path, 2)
    with pytest.raises(TamperedError, match="not signed by this gateway's key"):
        open_writer(tmp_path, signer, "audit.example.com/gw2")


def test_an_entry_that_no_bundle_can_hold_is_refused_and_changes_nothing(
    signer: Signer, tmp_path: Path
) -> None:
    log = written(signer, tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    empty = len('{"type":""}')
    with pytest.raises(ArchiveError, match="65536 bytes, at most 65535"):
        log.append([{"type": "x" * (65536 - empty)}])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    log.append([{"type": "x" * (65535 - empty)}])
    assert read_log(tmp_path, [signer.verifier]).checkpoint.size == 2


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_anywhere_in_an_append_leaves_the_old_log_or_the_new_one(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each durable step in turn is the last one that happens; then the log is opened again."""
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "open")}
    left = 0

    def counting(name: str) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real[name](*args, **kwargs)

        return step

    outcomes = set()
    for steps in range(200):
        folder = tmp_path / str(steps)
        log = written(signer, folder, 255)
        crashed = False
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counting(name))
            left = steps
            try:
                log.append(statements(255, 3))
            except Crash:
                crashed = True
        reopened = open_writer(folder, signer)
        outcomes.add(reopened.size)
        assert reopened.size in (255, 258)
        reopened.append(statements(reopened.size, 2))
        found = list(read_log(folder, [signer.verifier]).entries())
        assert found == statements(0, len(found))
        if not crashed:
            break
    assert not crashed
    assert outcomes == {255, 258}


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_log_without_a_checkpoint_never_begins_anew(
    signer: Signer, tmp_path: Path, is_remembered: bool
) -> None:
    written(signer, tmp_path, 2)
    (tmp_path / "checkpoint").unlink()
    if not is_remembered:
        tmp_path.with_suffix(".memory").unlink()
    with pytest.raises(TamperedError, match=r"the checkpoint is gone|gone, and .* remembers one"):
        open_writer(tmp_path, signer)


def test_a_log_that_was_rolled_back_is_not_gone_on_from(signer: Signer, tmp_path: Path) -> None:
    log = written(signer, tmp_path, 2)
    older = (tmp_path / "checkpoint").read_bytes()
    log.append(statements(2, 1))
    (tmp_path / "checkpoint").write_bytes(older)
    with pytest.raises(TamperedError, match="2 entries, at least the 3 of the checkpoint in"):
        open_writer(tmp_path, signer)


def test_a_log_that_was_written_anew_with_its_own_key_is_not_gone_on_from(
    signer: Signer, tmp_path: Path
) -> None:
    written(signer, tmp_path / "log", 3)
    other = LogWriter(tmp_path / "other", ORIGIN, signer, tmp_path / "nowhere")
    other.append(statements(1, 4))
    memory = (tmp_path / "log").with_suffix(".memory")
    with pytest.raises(TamperedError, match="the first 3 entries hash to"):
        LogWriter(tmp_path / "other", ORIGIN, signer, memory)


def test_a_crash_before_a_log_s_first_checkpoint_leaves_a_new_log(
    signer: Signer, tmp_path: Path
) -> None:
    """The first entry may lie there, whole or half written, and means nothing yet."""
    written(signer, tmp_path / "log", 1)
    (tmp_path / "log/checkpoint").unlink()
    (tmp_path / "log.memory").unlink()
    bundle = tmp_path / "log/tile/entries/000.p/1"
    bundle.rename(bundle.with_name("1.tmp"))
    assert open_writer(tmp_path / "log", signer).size == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "entry 1 is cut off"),
        (lambda data: data[: 2 + 28], "1 entries, 2 expected"),
        (lambda data: data[: 2 + 28 + 1], "1 entries, 2 expected"),
        (lambda data: data + b"\0", "1 bytes too many"),
        (lambda data: data.replace(b"1", b"2"), "hash to"),
    ],
)
def test_a_changed_bundle_is_named(
    signer: Signer, tmp_path: Path, change: Callable[[bytes], bytes], why: str
) -> None:
    written(signer, tmp_path, 2)
    path = tmp_path / "tile/entries/000.p/2"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TamperedError, match=why):
        read_log(tmp_path, [signer.verifier])


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/000.p/2"])
def test_a_missing_file_of_the_log_is_named(signer: Signer, tmp_path: Path, name: str) -> None:
    written(signer, tmp_path, 2)
    (tmp_path / name).unlink()
    with pytest.raises(ArchiveError, match=f"{name}: No such file"):
        read_log(tmp_path, [])


@pytest.mark.parametrize("value", [[], 1, {"type": 1}, {}, "x", {"type": "x"}])
def test_an_entry_that_is_no_statement_is_refused(
    signer: Signer, tmp_path: Path, value: object
) -> None:
    open_writer(tmp_path, signer).append([value])  # type: ignore[list-item]
    with pytest.raises(ArchiveError, match="log entry 0: not an object with a type and a time"):
        list(read_log(tmp_path, []).entries())


def test_a_full_tile_takes_the_place_of_its_parts(signer: Signer, tmp_path: Path) -> None:
    writer = written(signer, tmp_path, 200, 55)
    early = read_log(tmp_path, [signer.verifier])
    assert (tmp_path / "tile/entries/000.p/255").exists()
    writer.append(statements(255, 2))
    assert not (tmp_path / "tile/entries/000.p").exists()
    assert not (tmp_path / "tile/0/000.p").exists()
    assert (tmp_path / "tile/0/000").exists()
    # Who has the older checkpoint reads the same entries out of the full bundle.
    assert list(early.entries()) == statements(0, 255)
    assert early.root_at(200) == tree_root(
        leaf_hash(canonical.encode(entry)) for entry in statements(0, 200)
    )


def test_a_log_is_read_without_holding_it(signer: Signer, tmp_path: Path) -> None:
    def peak(folder: Path, entries: int) -> int:
        written(signer, folder, entries)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_log(folder, [signer.verifier]).entries()) == entries
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(tmp_path / "small", 600), peak(tmp_path / "large", 12_000)
    assert large < 2 * small


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/000.p/3"])
def test_a_file_larger_than_the_format_allows_is_not_read_whole(
    signer: Signer, tmp_path: Path, name: str
) -> None:
    written(signer, tmp_path, 3)
    os.truncate(tmp_path / name, 1 << 40)
    with pytest.raises(ArchiveError):
        read_log(tmp_path, [signer.verifier])
