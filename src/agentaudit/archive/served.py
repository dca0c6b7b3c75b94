"""Which files of an archive are for others, how they are opened, and which a whole copy has.

Named by their form alone, built from `layout`: journals, locks, sockets and whatever else lies in
the folder have no such name. No link is followed, at any step of a path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from agentaudit.archive.layout import (
    COSIGNED,
    GATEWAY_NAME,
    TABLES,
    TILE_WIDTH,
    TRUST_POLICY,
    Layout,
    anchor_path,
    anchor_size,
    entries_path,
    is_segment,
    segment_path,
    tile_end,
    tile_path,
)
from agentaudit.archive.log import Log
from agentaudit.archive.retention import Standing
from agentaudit.errors import ArchiveError

MAX_PATH_CHARACTERS: Final = 400

_TABLE_FOLDER: Final = re.compile(r"gw=([a-z0-9-]{1,63})/date=[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_DOCUMENT: Final = re.compile(r"[0-9a-f]{64}\.json\Z")
_RESIDUE: Final = re.compile(r"(0|[1-9][0-9]{0,8})(\.salts)?\.parquet\Z")


def is_log_file(path: str) -> bool:
    """Whether `path` is one that has hashes, signatures and policies and nothing that was said.

    >>> is_log_file("log/gw1/tile/0/000.p/3"), is_log_file("log/gw1/../../keys/gw1")
    (True, False)
    """
    parts = path.split("/")
    if path == "FORMAT":
        return True
    if parts[0] == "policies" and len(parts) == 2:
        return _DOCUMENT.match(parts[1]) is not None
    if parts[0] == "heads" and len(parts) == 2:
        return parts[1].endswith(".note") and is_segment(parts[1].removesuffix(".note"))
    if parts[0] != "log" or len(parts) < 3 or not GATEWAY_NAME.match(parts[1]):
        return False
    below = "/".join(parts[2:])
    if below in ("checkpoint", COSIGNED, TRUST_POLICY, f"keys/{parts[1]}.vkey"):
        return True
    return anchor_size(below) is not None or tile_end(below) is not None


def is_served(path: str) -> bool:
    """Whether `path`, below the archive, is that of a file that belongs to it.

    >>> segment = "018bcfe5-6800-7def-8123-456789abcdef"
    >>> is_served(f"events/gw=gw1/date=2026-01-01/{segment}.parquet")
    True
    >>> is_served(f"journal/gw1/{segment}.journal"), is_served("log/../FORMAT")
    (False, False)
    """
    if len(path) > MAX_PATH_CHARACTERS:
        return False
    if is_log_file(path):
        return True
    parts = path.split("/")
    name = parts[-1]
    if parts[0] in TABLES and len(parts) == 4:
        folder = _TABLE_FOLDER.match("/".join(parts[1:3]))
        stem = name.removesuffix(".parquet")
        return folder is not None and stem != name and is_segment(stem)
    if parts[0] == "residue" and len(parts) == 3:
        return is_segment(parts[1]) and _RESIDUE.match(name) is not None
    return (
        parts[0] == "purges"
        and len(parts) == 2
        and name.endswith(".json")
        and is_segment(name.removesuffix(".json"))
    )


def open_served(root: Path, path: str) -> BufferedReader:
    """Open a file of the archive at `root`; `path` is served.

    Raises:
        FileNotFoundError: `path` is not served, there is no such file, or it is no regular one.
        OSError: it cannot be read.
    """
    if not is_served(path):
        raise FileNotFoundError(2, "no file of an archive", path)
    *folders, name = path.split("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in folders:
            below = os.open(each, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        fd = os.open(name, flags, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(2, "no regular file", path)
    return os.fdopen(fd, "rb")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that a whole copy has; of some the log says SHA-256 and size."""

    path: str
    sha256: str | None = None
    size: int | None = None
    is_optional: bool = False


def tiles(gateway: str, size: int) -> Iterator[Wanted]:
    """Yield the tiles of a log of `size` entries, hashes and entries."""
    level, count = 0, size
    while count:
        whole, width = divmod(count, TILE_WIDTH)
        for index in range(whole + (width > 0)):
            is_partial = index == whole
            one = width if is_partial else TILE_WIDTH
            if level == 0:
                yield Wanted(f"log/{gateway}/{entries_path(index, one)}")
            yield Wanted(f"log/{gateway}/{tile_path(level, index, one)}")
        level, count = level + 1, whole


def named(layout: Layout, gateway: str, log: Log) -> Iterator[Wanted]:
    """Yield the files that the entries of `log` name, and no others.

    Raises:
        ArchiveError: an entry names what is none of the archive's files.
    """
    root = layout.root
    standing = Standing()
    seals: dict[str, Mapping[str, Any]] = {}
    for entry in log.entries():
        standing.take(entry)
        kind = entry["type"]
        if kind == "seal":
            seals[entry["segment"]] = entry
            yield Wanted(layout.head(UUID(entry["segment"])).relative_to(root).as_posix())
        elif kind == "policy":
            digest = entry["sha256"]
            yield Wanted(layout.policy(digest).relative_to(root).as_posix(), digest)
        elif kind == "anchor":
            path = f"log/{gateway}/{anchor_path(entry['size'])}"
            yield Wanted(path, entry["sha256"], is_optional=True)
        elif kind == "purge_intent":
            path = layout.purge(entry["purge"]).relative_to(root).as_posix()
            yield Wanted(path, entry["list"])
        elif kind == "purge_done":
            for name in ("residue", "salts"):
                if entry[name] is not None:
                    yield _file(entry[name]["path"], entry[name])
    for segment, seal in seals.items():
        for table, file in standing.segments[segment].files.items():
            if table in TABLES:
                yield _file(segment_path(table, gateway, seal["first_at"], UUID(segment)), file)


def _file(path: str, file: Mapping[str, Any]) -> Wanted:
    # An entry cannot name a file elsewhere.
    if not is_served(path):
        raise ArchiveError(f"the log names {path!r}, which is no file of an archive")
    return Wanted(path, file["sha256"], file["bytes"])
