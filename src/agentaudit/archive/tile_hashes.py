"""Proofs about a log out of its tiles: a few of them are read, never the log.

A growing log is asked for proofs all its life; its leaf hashes would be a gigabyte of memory
after some years, and each hash of a proof lies in one tile, or in two levels of them.

Format: c2sp.org/tlog-tiles; source of the proof: RFC 6962, section 2.1.2
"""

from __future__ import annotations

from pathlib import Path

from agentaudit.archive.files import read_limited
from agentaudit.archive.layout import TILE_WIDTH, tile_path
from agentaudit.archive.merkle import HASH_BYTES, node_hash, tree_root
from agentaudit.errors import ArchiveError

_TILE_LEVELS = 8


class TileHashes:
    """The tree of a log as it was at `size`, at which a checkpoint was published."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self._folder = folder

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Return the hashes that prove the first `old_size` entries unchanged.

        Raises:
            IndexError: `old_size` is not between 1 and the size.
            ArchiveError: a tile is missing or too short.
        """
        if not 1 <= old_size <= self.size:
            raise IndexError(f"tree of {old_size} within a tree of {self.size}")
        return self._subproof(old_size, 0, self.size, whole=True)

    def root(self, first: int, end: int) -> bytes:
        """Return the root over the leaves from `first` to before `end`.

        `first` is where a subtree begins that is large enough for all of them.
        """
        count = end - first
        level = count.bit_length() - 1
        if count == 1 << level:
            return self._subtree(level, first >> level)
        split = first + (1 << level)
        return node_hash(self.root(first, split), self.root(split, end))

    def _subproof(self, old_end: int, first: int, end: int, *, whole: bool) -> list[bytes]:
        if old_end == end:
            return [] if whole else [self.root(first, end)]
        split = first + (1 << ((end - first - 1).bit_length() - 1))
        if old_end <= split:
            return [*self._subproof(old_end, first, split, whole=whole), self.root(split, end)]
        return [*self._subproof(old_end, split, end, whole=False), self.root(first, split)]

    def _subtree(self, level: int, index: int) -> bytes:
        """Return the root of a complete subtree: of 2**level leaves, the `index`th of its kind."""
        tile_level, rest = divmod(level, _TILE_LEVELS)
        tile, place = divmod(index << rest, TILE_WIDTH)
        hashes_there = self.size >> (_TILE_LEVELS * tile_level)
        width = min(TILE_WIDTH, hashes_there - tile * TILE_WIDTH)
        data = self._tile(tile_level, tile, width)
        end = place + (1 << rest)
        return tree_root(
            data[position * HASH_BYTES : (position + 1) * HASH_BYTES]
            for position in range(place, end)
        )

    def _tile(self, level: int, index: int, width: int) -> bytes:
        """Return at least the first `width` hashes of a tile, which by now may be full."""
        name = tile_path(level, index, width)
        path = self._folder / name
        if width < TILE_WIDTH and not path.exists():
            path = self._folder / tile_path(level, index)
        try:
            data = read_limited(path, TILE_WIDTH * HASH_BYTES)
        except OSError as error:
            raise ArchiveError(f"log {self._folder.name}: {name}: {error.strerror}") from error
        if len(data) < width * HASH_BYTES:
            raise ArchiveError(f"log {self._folder.name}: {name}: {len(data)} bytes")
        return data
