"""Proofs out of a log's tiles, against the same proofs out of all its leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.archive.log import Tiles
from agentaudit.archive.merkle import (
    consistency_proof,
    leaf_hash,
    tree_root,
    verifies_consistency,
)
from agentaudit.archive.tile_hashes import TileHashes
from agentaudit.errors import ArchiveError

SIZES = [1, 2, 3, 5, 255, 256, 257, 511, 512, 513, 768, 70_000]
ENTRIES = [b"%d" % number for number in range(SIZES[-1])]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiles of a log that published a checkpoint at each of SIZES."""
    folder = tmp_path_factory.mktemp("log")
    tiles, before = Tiles(), 0
    for size in SIZES:
        for path, data in tiles.append(ENTRIES[before:size]).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        before = size
    return folder


def test_every_proof_is_the_one_that_all_leaves_give(folder: Path) -> None:
    for size in SIZES[:-1]:
        for old in range(1, size + 1):
            proof = TileHashes(folder, size).consistency_proof(old)
            assert proof == consistency_proof(LEAVES[:size], old)


ROOT = tree_root(LEAVES)


@settings(deadline=None, max_examples=60)
@given(old=st.integers(1, SIZES[-1]) | st.sampled_from([256, 512, 65_536, 65_537, SIZES[-1]]))
def test_proofs_of_a_tree_with_three_levels_of_tiles_lead_to_its_root(
    folder: Path, old: int
) -> None:
    proof = TileHashes(folder, SIZES[-1]).consistency_proof(old)
    assert verifies_consistency(
        proof, old_size=old, old_root=tree_root(LEAVES[:old]), size=SIZES[-1], root=ROOT
    )


@pytest.mark.parametrize("old", [0, -1, 6])
def test_there_is_no_proof_from_outside_the_tree(folder: Path, old: int) -> None:
    with pytest.raises(IndexError):
        TileHashes(folder, 5).consistency_proof(old)


def test_a_tile_that_is_missing_or_short_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="No such file"):
        TileHashes(tmp_path, 5).consistency_proof(3)
    (tmp_path / "tile/0/000.p").mkdir(parents=True)
    (tmp_path / "tile/0/000.p/5").write_bytes(bytes(31))
    with pytest.raises(ArchiveError, match="31 bytes"):
        TileHashes(tmp_path, 5).consistency_proof(3)
