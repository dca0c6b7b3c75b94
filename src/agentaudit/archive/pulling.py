"""Brings a copy of an archive from somewhere else: whole, at one checkpoint of each log.

Whoever gives it names no file: paths come from `layout` by what the log's entries say, and the
entries must hash to the checkpoint before one of them is believed. The checkpoint is put in place
last, so that what was interrupted is the older copy, or none, and the next pull goes on from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agentaudit.archive.files import make_folder, measure, read_limited, replace
from agentaudit.archive.layout import (
    COSIGNED,
    FORMAT_TEXT,
    GATEWAY_NAME,
    TRUST_POLICY,
    Layout,
)
from agentaudit.archive.log import Log, contradictions
from agentaudit.archive.merkle import leaf_hash, tree_root
from agentaudit.archive.note import Checkpoint, open_note
from agentaudit.archive.served import Wanted, named, tiles
from agentaudit.errors import ArchiveError, TamperedError

MAX_SMALL_BYTES: Final = 100_000
MAX_OTHER_BYTES: Final = 64 << 20
MAX_LOGS: Final = 1000
_ROUNDS: Final = 3


class Source(Protocol):
    """Where files come from."""

    def fetch(self, path: str, target: Path, limit: int) -> bool:
        """Put the file at `target`, of at most `limit` bytes; say whether there is one.

        A `target` that is there already is the beginning of it, which may be gone on from.
        """
        ...


@dataclass(slots=True)
class Pulled:
    """What came of it: how many files were fetched and how many were there, and log sizes."""

    fetched: int
    kept: int
    sizes: dict[str, int]


def pull(
    source: Source, logs: Sequence[str], root: Path, say: Callable[[str], None] = lambda _: None
) -> Pulled:
    """Bring `logs` into the archive at `root`, which is there in part, in an older state, or not.

    Raises:
        ArchiveError: what is given is no archive, or is not whole.
        TamperedError: it contradicts itself, or what was pulled before.
        OSError: it cannot be fetched, or not written.
    """
    layout = Layout(root)
    if not logs or len(logs) > MAX_LOGS or not all(GATEWAY_NAME.match(name) for name in logs):
        raise ArchiveError("what is given names no logs of an archive")
    root.mkdir(parents=True, exist_ok=True)
    # Before anything is put there: a folder with something else in it stays as it is.
    if layout.format_file.exists():
        if read_limited(layout.format_file, 100) != FORMAT_TEXT:
            raise ArchiveError(f"{layout.format_file}: another format")
    elif any(path.name not in _OURS for path in root.iterdir()):
        raise ArchiveError(f"{root}: neither empty nor an archive", hint="give another folder")
    pulled = Pulled(0, 0, {})
    for gateway in sorted(set(logs)):
        say(gateway)
        _Pull(source, layout, gateway, pulled).run()
    replace(layout.format_file, FORMAT_TEXT)
    return pulled


_OURS: Final = frozenset(
    ["log", "heads", "policies", "residue", "purges", "events", "blobs", "commands"]
    + ["sessions", "decisions", "access", "FORMAT.tmp"]
)


class _Pull:
    def __init__(self, source: Source, layout: Layout, gateway: str, pulled: Pulled) -> None:
        self._source = source
        self._layout = layout
        self._gateway = gateway
        self._pulled = pulled

    def run(self) -> None:
        failure: ArchiveError | None = None
        for _ in range(_ROUNDS):
            try:
                self._round()
            except TamperedError:
                raise
            except ArchiveError as error:
                # The log has grown, or a purge has gone on, since its checkpoint was fetched.
                failure = error
            else:
                return
        assert failure is not None
        raise failure

    def _round(self) -> None:
        layout, gateway = self._layout, self._gateway
        folder = layout.log(gateway)
        self._key()
        # Before the checkpoint: what was cosigned is never newer than that.
        for name in (COSIGNED, TRUST_POLICY):
            self._fetch(Wanted(f"log/{gateway}/{name}", is_optional=True), MAX_SMALL_BYTES, True)
        incoming = folder / "checkpoint.tmp"
        make_folder(folder)
        incoming.unlink(missing_ok=True)
        if not self._source.fetch(f"log/{gateway}/checkpoint", incoming, MAX_SMALL_BYTES):
            raise ArchiveError(f"log {gateway}: there is no checkpoint")
        note = read_limited(incoming, MAX_SMALL_BYTES)
        checkpoint = Checkpoint.parse(open_note(note, []).text)
        for wanted in tiles(gateway, checkpoint.size):
            self._tile(wanted)
        log = Log(folder, checkpoint, (), note)
        if tree_root(map(leaf_hash, log.raw())) != checkpoint.root:
            raise TamperedError(
                f"log {gateway}: its entries do not hash to its checkpoint",
                hint="remove what was pulled and pull anew; if it stays so, ask whose log it is",
            )
        if (folder / "checkpoint").exists():
            before = read_limited(folder / "checkpoint", MAX_SMALL_BYTES)
            older = Checkpoint.parse(open_note(before, []).text)
            for found in contradictions(log, older, "checkpoint that was pulled before"):
                raise TamperedError(
                    f"log {gateway}: {found}", hint="keep the copy that is there before anything"
                )
        for wanted in named(layout, gateway, log):
            self._fetch(wanted, MAX_OTHER_BYTES)
        replace(folder / "checkpoint", note)
        self._pulled.sizes[gateway] = checkpoint.size

    def _key(self) -> None:
        path = self._layout.verifier_key(self._gateway)
        relative = path.relative_to(self._layout.root).as_posix()
        before = read_limited(path, MAX_SMALL_BYTES) if path.exists() else None
        self._fetch(Wanted(relative), MAX_SMALL_BYTES, anew=True)
        if before is not None and read_limited(path, MAX_SMALL_BYTES) != before:
            replace(path, before)
            raise TamperedError(f"log {self._gateway}: it has another key than before")

    def _tile(self, wanted: Wanted) -> None:
        whole = wanted.path.partition(".p/")[0]
        if whole != wanted.path and (self._layout.root / whole).is_file():
            return
        try:
            self._fetch(wanted, MAX_OTHER_BYTES)
        except ArchiveError:
            if whole == wanted.path:
                raise
            # It is full by now.
            self._fetch(Wanted(whole), MAX_OTHER_BYTES)

    def _fetch(self, wanted: Wanted, limit: int, anew: bool = False) -> None:
        """Bring a file unless it is there.

        Raises:
            ArchiveError: there is none, or it is not what the log says.
        """
        target = self._layout.root / wanted.path
        if not anew and target.is_file() and _is_as_wanted(target, wanted):
            self._pulled.kept += 1
            return
        if wanted.size is not None:
            limit = wanted.size
        for part in _steps(self._layout.root, target.parent):
            if part.is_symlink():
                raise ArchiveError(f"{part}: a link, where a folder of the archive is expected")
        make_folder(target.parent)
        incoming = target.with_name(target.name + ".tmp")
        if wanted.sha256 is None or anew:
            incoming.unlink(missing_ok=True)  # nothing tells whether it is a part of this one
        for _ in range(2):
            if not self._source.fetch(wanted.path, incoming, limit):
                incoming.unlink(missing_ok=True)
                if wanted.is_optional:
                    return
                raise ArchiveError(f"{wanted.path}: there is none")
            if _is_as_wanted(incoming, wanted):
                break
            incoming.unlink()  # it went on from something else: once more, from its beginning
        else:
            raise ArchiveError(f"{wanted.path}: it is not what the log says")
        fd = os.open(incoming, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        incoming.replace(target)
        self._pulled.fetched += 1


def _is_as_wanted(path: Path, wanted: Wanted) -> bool:
    if wanted.sha256 is None:
        return True
    size = path.stat().st_size if wanted.size is None else wanted.size
    return measure(path, size) == (size, wanted.sha256)


def _steps(root: Path, folder: Path) -> Iterator[Path]:
    while folder != root:
        yield folder
        folder = folder.parent
