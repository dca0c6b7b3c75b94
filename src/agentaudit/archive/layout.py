"""Every path of an archive; no other module builds one.

Paths inside log entries are relative, with forward slashes, and come from here, so that a
hostile entry cannot name a file outside: readers build the path again and compare.

Format: docs/formats/archive.md, "Layout"; tiles: c2sp.org/tlog-tiles
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

FORMAT_TEXT = b"agentaudit archive 1\n"
PROOF_TEXT = b"agentaudit proof 1\n"
TABLES = ("events", "blobs", "commands", "sessions", "decisions", "access")
TILE_WIDTH = 256
GATEWAY_NAME = re.compile(r"[a-z0-9-]{1,63}\Z")
COSIGNED = "cosigned"
"""Below a log's folder: the last checkpoint that witnesses have cosigned."""
TRUST_POLICY = "policy"
"""Below a log's folder: whose cosignatures its operator asks for."""
_ANCHOR = re.compile(r"anchors/(0|[1-9][0-9]{0,18})\.tsr\Z")
_SEGMENT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return a hash tile's path below the log's folder; `width` below 256 is a partial tile.

    >>> tile_path(0, 1234067)
    'tile/0/x001/x234/067'
    >>> tile_path(1, 0, 3)
    'tile/1/000.p/3'
    """
    return _tile(str(level), index, width)


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return an entry bundle's path below the log's folder."""
    return _tile("entries", index, width)


def _tile(level: str, index: int, width: int) -> str:
    digits = f"{index % 1000:03d}"
    while index := index // 1000:
        digits = f"x{index % 1000:03d}/{digits}"
    return f"tile/{level}/{digits}" + (f".p/{width}" if width < TILE_WIDTH else "")


def anchor_path(size: int) -> str:
    """Return the path, below the log's folder, of the time stamp over its checkpoint of `size`."""
    return f"anchors/{size}.tsr"


def anchor_size(path: str) -> int | None:
    """Return the size that such a path says, or None where `path` is no time stamp's.

    >>> anchor_size("anchors/120.tsr"), anchor_size("anchors/0120.tsr")
    (120, None)
    """
    match = _ANCHOR.match(path)
    return None if match is None else int(match[1])


def is_segment(name: str) -> bool:
    """Whether `name` is a segment's id, in the form that paths have it.

    >>> is_segment("018bcfe5-6800-7def-8123-456789abcdef"), is_segment("notes")
    (True, False)
    """
    return _SEGMENT.match(name) is not None


def segment_path(table: str, gateway: str, first_us: int, segment: UUID) -> str:
    """Return the path, below the archive, of a segment's Parquet file for `table`.

    `first_us` is the time of the segment's first event, microseconds since 1970, UTC.
    """
    date = datetime.fromtimestamp(first_us // 1_000_000, UTC).date()
    return f"{table}/gw={gateway}/date={date.isoformat()}/{segment}.parquet"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in the archive at `root`."""

    root: Path

    @property
    def format_file(self) -> Path:
        return self.root / "FORMAT"

    def head(self, segment: UUID) -> Path:
        return self.root / "heads" / f"{segment}.note"

    def log(self, gateway: str) -> Path:
        return self.root / "log" / gateway

    def checkpoint(self, gateway: str) -> Path:
        return self.log(gateway) / "checkpoint"

    def cosigned(self, gateway: str) -> Path:
        return self.log(gateway) / COSIGNED

    def verifier_key(self, gateway: str) -> Path:
        return self.log(gateway) / "keys" / f"{gateway}.vkey"

    def residue(self, segment: UUID, number: int) -> Path:
        """The leaf hashes of the rows that the segment's purge `number`, from 0, removed."""
        return self.root / "residue" / str(segment) / f"{number}.parquet"

    def salts(self, segment: UUID, number: int) -> Path:
        """The salts of payloads that the segment's purge `number` left under a destroyed key."""
        return self.root / "residue" / str(segment) / f"{number}.salts.parquet"

    def purge(self, purge: str) -> Path:
        """The list of what a purge removes; it is kept for ever."""
        return self.root / "purges" / f"{purge}.json"

    def policy(self, digest: str) -> Path:
        return self.root / "policies" / f"{digest}.json"

    def journals(self, gateway: str) -> Path:
        return self.root / "journal" / gateway

    def journal(self, gateway: str, segment: UUID) -> Path:
        return self.journals(gateway) / f"{segment}.journal"

    def lock(self, gateway: str) -> Path:
        return self.journals(gateway) / "lock"

    def reserve(self, gateway: str) -> Path:
        return self.journals(gateway) / "reserve"

    def control(self, gateway: str) -> Path:
        """Return the socket on which a running gateway takes orders from its own machine."""
        return self.journals(gateway) / "control"

    def gateways(self) -> list[str]:
        """Return the gateways with a log here, sorted."""
        folder = self.root / "log"
        names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
        return sorted(name for name in names if GATEWAY_NAME.match(name))

    def folders(self, gateway: str) -> Iterator[Path]:
        """Yield the folders in which this gateway makes files or folders, as far as they exist.

        Not among them are the folders of days and of partial tiles: their files are synced with
        them, or made again.
        """
        names = ("journal", "log", "heads", "policies", "residue", "purges", *TABLES)
        for top in (self.root, *(self.root / name for name in names)):
            for folder in (top, top / gateway, top / f"gw={gateway}"):
                if folder.is_dir():
                    yield folder
        for name, below, _ in os.walk(self.log(gateway) / "tile"):
            below[:] = [folder for folder in below if not folder.endswith(".p")]
            yield Path(name)

    def journal_segments(self, gateway: str) -> set[UUID]:
        """Return the segments with a journal; other files there are no journals."""
        names = (path.stem for path in self.journals(gateway).glob("*.journal"))
        return {UUID(name) for name in names if is_segment(name)}


@dataclass(frozen=True, slots=True)
class ProofLayout:
    """Where everything lies in the proof folder at `root`, which is flat."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "PROOF"

    @property
    def claim(self) -> Path:
        return self.root / "proof.json"

    @property
    def epochs(self) -> Path:
        return self.root / "epochs.jsonl"

    @property
    def disclosure(self) -> Path:
        return self.root / "disclosure.jsonl"

    def proof(self, seq: int) -> Path:
        return self.root / f"{seq}.tlog-proof"

    def leaf(self, seq: int) -> Path:
        return self.root / f"{seq}.leaf"

    def text(self, seq: int) -> Path:
        return self.root / f"{seq}.text"

    def payload(self, seq: int) -> Path:
        return self.root / f"{seq}.payload"

    def seal_proof(self, segment: UUID) -> Path:
        return self.root / f"seal-{segment}.tlog-proof"

    def seal_leaf(self, segment: UUID) -> Path:
        return self.root / f"seal-{segment}.leaf"


_TILE = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?\Z"
)


def tile_end(path: str) -> int | None:
    """Return how large a tree must be to hold this tile, or None where `path` is no tile's.

    >>> tile_end("tile/0/000.p/3"), tile_end("tile/1/001"), tile_end("tile/0/1")
    (3, 131072, None)
    """
    match = _TILE.match(path)
    if match is None:
        return None
    level, digits, width = match.groups()
    if width is not None and not 0 < int(width) < TILE_WIDTH:
        return None
    index = int(digits.replace("x", "").replace("/", ""))
    hashes = index * TILE_WIDTH + (TILE_WIDTH if width is None else int(width))
    return hashes if level == "entries" else hashes << (8 * int(level))
