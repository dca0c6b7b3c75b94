"""A gateway's log: few statements, kept for ever, in tiles that anybody can serve and check.

What is signed is the log's checkpoint; everything else in the archive is bound to it by digest.
Appending writes tiles first and replaces the checkpoint last, so a crash leaves either the old
log or the new one; tiles beyond the checkpoint are rewritten by the next append. A log is read as
a stream, never held: under traffic it grows by half an entry a second, for years.

Format: c2sp.org/tlog-tiles, c2sp.org/tlog-checkpoint; entries: docs/formats/archive.md, "Log"
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from agentaudit.archive import canonical
from agentaudit.archive.entries import check_entry
from agentaudit.archive.files import make_folder, read_limited, replace, sync_folder, write_new
from agentaudit.archive.layout import COSIGNED, TILE_WIDTH, entries_path, tile_end, tile_path
from agentaudit.archive.merkle import Frontier, leaf_hash, tree_root
from agentaudit.archive.note import Checkpoint, Signer, Verifier, open_note, sign_note
from agentaudit.errors import ArchiveError, TamperedError

MAX_ENTRY_BYTES = 65_535
_U16 = struct.Struct(">H")
_MAX_CHECKPOINT_BYTES = 100_000
_MAX_BUNDLE_BYTES = TILE_WIDTH * (_U16.size + MAX_ENTRY_BYTES)


class Tiles:
    """The tiles of a growing tree: what is not full yet, and thereby what an append changes."""

    def __init__(self) -> None:
        self.tree = Frontier()
        self._bundle: list[bytes] = []
        # By level, the hashes of the tile under way; a full tile moves up as one hash.
        self._edges: list[list[bytes]] = []

    def append(self, entries: Iterable[bytes]) -> dict[str, bytes]:
        """Add `entries`; return path and content of every tile and bundle that this changes."""
        changed: dict[str, bytes] = {}
        for entry in entries:
            self._bundle.append(entry)
            if len(self._bundle) == TILE_WIDTH:
                index = self.tree.size // TILE_WIDTH
                changed[entries_path(index)] = bundle(self._bundle)
                self._bundle = []
            leaf = leaf_hash(entry)
            self.tree.append(leaf)
            self._add_hash(0, leaf, changed)
        size = self.tree.size
        if self._bundle:
            changed[entries_path(size // TILE_WIDTH, len(self._bundle))] = bundle(self._bundle)
        for level, edge in enumerate(self._edges):
            if edge:
                index = (size >> (8 * level)) // TILE_WIDTH
                changed[tile_path(level, index, len(edge))] = b"".join(edge)
        return changed

    def _add_hash(self, level: int, value: bytes, changed: dict[str, bytes]) -> None:
        if level == len(self._edges):
            self._edges.append([])
        edge = self._edges[level]
        edge.append(value)
        if len(edge) == TILE_WIDTH:
            index = (self.tree.size >> (8 * level)) // TILE_WIDTH - 1
            changed[tile_path(level, index)] = b"".join(edge)
            self._edges[level] = []
            self._add_hash(level + 1, tree_root(edge), changed)


def bundle(entries: Iterable[bytes]) -> bytes:
    """Return the content of an entry bundle: each entry behind its length, u16."""
    return b"".join(_U16.pack(len(entry)) + entry for entry in entries)


class LogWriter:
    """Appends to one log. Its owner holds the gateway's lock, so there is one writer."""

    def __init__(self, folder: Path, origin: str, signer: Signer, memory: Path) -> None:
        """Open the log in `folder`, or a new one.

        `memory` is a file outside the archive with the last checkpoint that this writer published,
        so that it never goes on from a log that somebody rolled back.

        Raises:
            TamperedError: its checkpoint is gone, not ours or behind the one remembered, or its
                entries do not fit it.
        """
        self.folder = folder
        self.origin = origin
        self.signers = [signer]
        """Who signs the checkpoints to come: the log key, and the epoch key once it is known."""
        self._memory = memory
        self._tiles = Tiles()
        self._found: Log | None = None
        self.is_whole = True
        """Whether all that was appended is there; if not, nobody may go on with it."""
        self.note = b""
        """The checkpoint as it was last signed by this writer."""
        if not (folder / "checkpoint").exists():
            self._require_new()
            return
        log = read_log(folder, [signer.verifier])
        if not log.signed_by or log.checkpoint.origin != origin:
            raise TamperedError(
                f"log {folder.name}: its checkpoint is not signed by this gateway's key "
                f"for {origin}",
                hint="the key or the log was replaced; verify the archive with its known key",
            )
        if self._memory.exists():
            remembered = Checkpoint.parse(open_note(self._memory.read_bytes(), []).text)
            for found in contradictions(log, remembered, f"checkpoint in {self._memory}"):
                raise TamperedError(
                    f"log {folder.name}: {found}",
                    hint="the archive was rolled back or replaced; put its newest copy back, or "
                    "move that file away if the loss is known and written down",
                )
        for chunk in log.chunks():
            self._tiles.append(chunk)
        self._found = log

    def found(self) -> Iterator[dict[str, Any]]:
        """Yield the entries that were there when it was opened, oldest first."""
        return iter(()) if self._found is None else self._found.entries()

    @property
    def size(self) -> int:
        return self._tiles.tree.size

    @property
    def root(self) -> bytes:
        return self._tiles.tree.root()

    @property
    def checkpoint(self) -> Checkpoint:
        """The head that covers all entries so far."""
        return Checkpoint(self.origin, self.size, self.root)

    def _require_new(self) -> None:
        """Return if this log never had a checkpoint: at most its first entry lies there."""
        if self._memory.exists():
            raise TamperedError(
                f"log {self.folder.name}: gone, and {self._memory} remembers one",
                hint="put the log back; a new archive needs a gateway name and key of its own",
            )
        for path in self.folder.glob("tile/**/*"):
            end = tile_end(path.relative_to(self.folder).as_posix())
            if path.is_file() and path.suffix != ".tmp" and (end is None or end > 1):
                raise TamperedError(
                    f"log {self.folder.name}: there are entries, and the checkpoint is gone",
                    hint="put the checkpoint back; a log never begins anew",
                )

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append `entries` and publish the checkpoint that covers them, durably.

        Raises:
            ArchiveError: an entry is longer than the format allows.
            OSError: the log cannot be written; `is_whole` is false from then on, and this writer
                must not be used again.
        """
        added = [canonical.encode(entry) for entry in entries]
        for entry in added:
            if len(entry) > MAX_ENTRY_BYTES:
                raise ArchiveError(f"log entry: {len(entry)} bytes, at most {MAX_ENTRY_BYTES}")
        folders: set[Path] = set()
        self.is_whole = False
        changed = self._tiles.append(added)
        for path, data in changed.items():
            target = self.folder / path
            if target.parent not in folders:
                make_folder(target.parent)
                folders.add(target.parent)
            write_new(target, data)
        for folder in folders:
            sync_folder(folder)
        note = sign_note(self.checkpoint.text(), self.signers)
        replace(self.folder / "checkpoint", note)
        replace(self._memory, note)
        self.note = note
        self.is_whole = True
        self._remove_partials(changed)

    def _remove_partials(self, changed: Iterable[str]) -> None:
        """Remove what a full tile makes superfluous; readers of an older checkpoint take that."""
        for path in changed:
            partials = self.folder / f"{path}.p"
            if ".p/" not in path and partials.is_dir():
                shutil.rmtree(partials, ignore_errors=True)

    def keep_cosigned(self, note: bytes) -> None:
        """Keep a checkpoint of this log that witnesses have cosigned, beside or as the current one.

        Raises:
            OSError: the log cannot be written.
        """
        replace(self.folder / COSIGNED, note)
        if self.note and note.startswith(self.note):
            replace(self.folder / "checkpoint", note)


@dataclass(frozen=True, slots=True)
class Log:
    """A log as read at one checkpoint, which its entries hashed to when it was opened.

    The entries stay where they are, since a log of years does not fit into memory: each call
    below reads them again.
    """

    folder: Path
    checkpoint: Checkpoint
    signed_by: tuple[Verifier, ...]
    note: bytes

    def raw(self) -> Iterator[bytes]:
        """Yield the bytes of every entry, oldest first.

        Raises:
            ArchiveError, TamperedError: a bundle is missing or malformed.
        """
        for chunk in self.chunks():
            yield from chunk

    def chunks(self) -> Iterator[list[bytes]]:
        """Yield the bytes of every entry, one bundle at a time."""
        size = self.checkpoint.size
        for index in range(-(-size // TILE_WIDTH)):
            yield _read_bundle(self.folder, index, min(TILE_WIDTH, size - index * TILE_WIDTH))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, oldest first.

        Raises:
            ArchiveError: an entry is not what its type says.
        """
        for number, data in enumerate(self.raw()):
            yield decode_entry(number, data)

    def root_at(self, size: int) -> bytes:
        """Return the root over the first `size` entries."""
        if size == self.checkpoint.size:
            return self.checkpoint.root
        return tree_root(map(leaf_hash, islice(self.raw(), size)))


def decode_entry(number: int, data: bytes) -> dict[str, Any]:
    """Return the entry that `data` encodes.

    Raises:
        ArchiveError: it is not what its type says.
    """
    try:
        entry = canonical.decode(data)
    except ValueError:
        entry = None
    check_entry(number, entry)
    return cast("dict[str, Any]", entry)


def read_checkpoint(folder: Path) -> bytes:
    """Return the checkpoint of the log in `folder`, a signed note; nothing is verified.

    Raises:
        ArchiveError: it cannot be read.
    """
    try:
        return read_limited(folder / "checkpoint", _MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise ArchiveError(f"log {folder.name}: checkpoint: {error.strerror}") from error


def read_log(folder: Path, verifiers: Sequence[Verifier]) -> Log:
    """Return the log in `folder` at its checkpoint.

    Raises:
        ArchiveError: no log, a file of it is missing or malformed, or a wrong signature by one
            of `verifiers`.
        TamperedError: the entries do not hash to the checkpoint's root.
    """
    note = read_checkpoint(folder)
    opened = open_note(note, verifiers)
    checkpoint = Checkpoint.parse(opened.text)
    log = Log(folder, checkpoint, opened.signed_by, note)
    root = tree_root(map(leaf_hash, log.raw()))
    if root != checkpoint.root:
        raise TamperedError(
            f"log {folder.name}: its {checkpoint.size} entries hash to {root.hex()[:8]}…, "
            f"the checkpoint says {checkpoint.root.hex()[:8]}…",
            hint="keep a copy of the archive before anything else",
        )
    return log


def _read_bundle(folder: Path, index: int, width: int) -> list[bytes]:
    """Return the first `width` entries of a bundle, which by now may be full."""
    name = entries_path(index, width)
    path = folder / name
    if width < TILE_WIDTH and not path.exists():
        path = folder / entries_path(index)
    try:
        data = read_limited(path, _MAX_BUNDLE_BYTES)
    except OSError as error:
        raise ArchiveError(f"log {folder.name}: {name}: {error.strerror}") from error
    entries: list[bytes] = []
    position = 0
    while len(entries) < width:
        if position + 2 > len(data):
            raise TamperedError(
                f"log {folder.name}: {name}: {len(entries)} entries, {width} expected"
            )
        (length,) = _U16.unpack_from(data, position)
        entry = data[position + 2 : position + 2 + length]
        if len(entry) < length:
            raise TamperedError(f"log {folder.name}: {name}: entry {len(entries)} is cut off")
        entries.append(entry)
        position += 2 + length
    if position != len(data) and path == folder / name:
        raise TamperedError(f"log {folder.name}: {name}: {len(data) - position} bytes too many")
    return entries


@dataclass(frozen=True, slots=True)
class Contradiction:
    """How a log differs from what is known of it: `key`, `rollback` or `fork`."""

    check: str
    seen: str
    expected: str

    def __str__(self) -> str:
        return f"{self.seen}, {self.expected} expected"


def contradictions(log: Log, anchor: Checkpoint, name: str) -> list[Contradiction]:
    """Return how `log` contradicts `anchor`, an earlier checkpoint of it called `name`."""
    size = log.checkpoint.size
    if anchor.size > size:
        return [
            Contradiction(
                "rollback", f"{size} entries", f"at least the {anchor.size} of the {name}"
            )
        ]
    root = log.root_at(anchor.size)
    if root != anchor.root:
        seen = f"the first {anchor.size} entries hash to {root.hex()[:8]}…"
        return [Contradiction("fork", seen, f"{anchor.root.hex()[:8]}… of the {name}")]
    return []
