"""A gateway's log: few statements, kept for ever, in tiles that anybody can serve and check.

What is signed is the log's checkpoint; everything else in the archive is bound to it by digest.
Appending writes tiles first and replaces the checkpoint last, so a crash leaves either the old
log or the new one; tiles beyond the checkpoint are rewritten by the next append.

Format: c2sp.org/tlog-tiles, c2sp.org/tlog-checkpoint; entries: docs/formats/archive.md, "Log"
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentaudit.archive import canonical
from agentaudit.archive.files import make_folder, sync_folder, write_new
from agentaudit.archive.layout import TILE_WIDTH, entries_path, tile_path
from agentaudit.archive.merkle import leaf_hash, node_hash, tree_root
from agentaudit.archive.note import Checkpoint, Signer, Verifier, open_note, sign_note
from agentaudit.errors import ArchiveError, TamperedError

MAX_ENTRY_BYTES = 65_535
_U16 = struct.Struct(">H")
_MAX_CHECKPOINT_BYTES = 100_000


def tiles(leaves: Sequence[bytes], since: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every hash tile that growing from `since` leaves changes.

    `leaves` are the leaf hashes of the whole tree.
    """
    level, hashes = 0, list(leaves)
    while len(hashes) > 0:
        first = (since >> (8 * level)) // TILE_WIDTH
        for index in range(first, -(-len(hashes) // TILE_WIDTH)):
            tile = hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
            yield tile_path(level, index, len(tile)), b"".join(tile)
        whole = len(hashes) // TILE_WIDTH
        hashes = [
            _subtree_root(hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH])
            for index in range(whole)
        ]
        level += 1


def bundles(entries: Sequence[bytes], since: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every entry bundle that growing from `since` entries changes."""
    for index in range(since // TILE_WIDTH, -(-len(entries) // TILE_WIDTH)):
        bundle = entries[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
        data = b"".join(_U16.pack(len(entry)) + entry for entry in bundle)
        yield entries_path(index, len(bundle)), data


def _subtree_root(hashes: Sequence[bytes]) -> bytes:
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


class LogWriter:
    """Appends to one log. Its owner holds the gateway's lock, so there is one writer."""

    def __init__(self, folder: Path, origin: str, signer: Signer) -> None:
        """Open the log in `folder`, or a new one.

        Raises:
            TamperedError: its checkpoint is not ours, or its entries do not fit it.
        """
        self.folder = folder
        self.origin = origin
        self._signer = signer
        self._entries: list[bytes] = []
        self._leaves: list[bytes] = []
        if (folder / "checkpoint").exists():
            log = read_log(folder, [signer.verifier])
            if not log.signed_by or log.checkpoint.origin != origin:
                raise TamperedError(
                    f"log {folder.name}: its checkpoint is not signed by this gateway's key "
                    f"for {origin}",
                    hint="the key or the log was replaced; verify the archive with its known key",
                )
            self._entries = list(log.raw)
            self._leaves = [leaf_hash(entry) for entry in self._entries]

    @property
    def size(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, oldest first."""
        return (canonical.decode(entry) for entry in self._entries)

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append `entries` and publish the checkpoint that covers them, durably."""
        since = len(self._entries)
        added = [canonical.encode(entry) for entry in entries]
        for entry in added:
            if len(entry) > MAX_ENTRY_BYTES:
                raise ArchiveError(f"log entry: {len(entry)} bytes, at most {MAX_ENTRY_BYTES}")
        raw = self._entries + added
        leaves = self._leaves + [leaf_hash(entry) for entry in added]
        folders: set[Path] = set()
        for path, data in (*bundles(raw, since), *tiles(leaves, since)):
            target = self.folder / path
            if target.parent not in folders:
                make_folder(target.parent)
                folders.add(target.parent)
            write_new(target, data)
        for folder in folders:
            sync_folder(folder)
        checkpoint = Checkpoint(self.origin, len(raw), tree_root(leaves))
        write_new(self.folder / "checkpoint", sign_note(checkpoint.text(), [self._signer]))
        sync_folder(self.folder)
        self._entries, self._leaves = raw, leaves


@dataclass(frozen=True, slots=True)
class Log:
    """A log as read at one checkpoint, its entries checked against the checkpoint's root."""

    checkpoint: Checkpoint
    signed_by: tuple[Verifier, ...]
    raw: tuple[bytes, ...]
    note: bytes

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, oldest first.

        Raises:
            ArchiveError: an entry is no JSON object with a type.
        """
        for number, data in enumerate(self.raw):
            try:
                entry = canonical.decode(data)
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise ArchiveError(f"log entry {number}: not a JSON object with a type")
            yield entry


def _read_checkpoint(folder: Path) -> bytes:
    path = folder / "checkpoint"
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise ArchiveError(f"log {folder.name}: checkpoint: {error.strerror}") from error


def read_log(folder: Path, verifiers: Sequence[Verifier]) -> Log:
    """Return the log in `folder` at its checkpoint.

    Raises:
        ArchiveError: no log, a file of it is missing or malformed, or a wrong signature by one
            of `verifiers`.
        TamperedError: the entries do not hash to the checkpoint's root.
    """
    note = _read_checkpoint(folder)
    opened = open_note(note, verifiers)
    checkpoint = Checkpoint.parse(opened.text)
    raw = tuple(_read_entries(folder, checkpoint.size))
    root = tree_root(leaf_hash(entry) for entry in raw)
    if root != checkpoint.root:
        raise TamperedError(
            f"log {folder.name}: its {checkpoint.size} entries hash to {root.hex()[:8]}…, "
            f"the checkpoint says {checkpoint.root.hex()[:8]}…",
            hint="keep a copy of the archive before anything else",
        )
    return Log(checkpoint, opened.signed_by, raw, note)


def _read_entries(folder: Path, size: int) -> Iterator[bytes]:
    for index in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        name = entries_path(index, width)
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ArchiveError(f"log {folder.name}: {name}: {error.strerror}") from error
        position = count = 0
        while count < width:
            if position + 2 > len(data):
                raise TamperedError(f"log {folder.name}: {name}: {count} entries, {width} expected")
            (length,) = _U16.unpack_from(data, position)
            entry = data[position + 2 : position + 2 + length]
            if len(entry) < length:
                raise TamperedError(f"log {folder.name}: {name}: entry {count} is cut off")
            yield entry
            position += 2 + length
            count += 1
        if position != len(data):
            raise TamperedError(f"log {folder.name}: {name}: {len(data) - position} bytes too many")
