"""Which archives a browser may ask about, and what is open of them.

Allowed are archives below the server's root folder, found by looking there within limits, and
those that the operator names in the configuration. A browser names an archive by an id, a hash of
where it lies, and never by a path; it may point at one folder below the root that was not found by
looking, and gets its id if that is an archive which lies there, links resolved.

What has not been asked for a while is closed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID

from agentaudit.analysis.case import Case
from agentaudit.archive.layout import Layout
from agentaudit.archive.snapshot import check_format
from agentaudit.client.local import record_access
from agentaudit.errors import ArchiveError, QuestionError
from agentaudit.jupyter.components import COMPONENTS
from agentaudit.widgets.notebooks import find_key
from agentaudit.widgets.questions import Questions

MAX_DEPTH: Final = 5
MAX_FOLDERS: Final = 5_000
MAX_SECONDS: Final = 2.0
MAX_ARCHIVES: Final = 200
LOOK_AGAIN_S: Final = 5.0
"""How long what was found below the root stands."""

MAX_OPEN: Final = 8
MAX_VIEWS: Final = 64
"""Archives that are open at once, and views of each; the one not asked for longest goes."""

UNUSED_S: Final = 15 * 60.0

READER: Final = "JupyterLab"
"""As what a gateway records who reads: beside the user that runs this server."""


@dataclass(frozen=True, slots=True)
class Found:
    """An archive that may be asked about; `path` is told as people know it: below the root."""

    id: str
    folder: Path
    path: str
    is_below_root: bool

    @property
    def key(self) -> Path | None:
        return find_key(self.folder)

    def record(self, action: str, object_: str, detail: str) -> bool:
        """Leave a record in it of what somebody does with it here; say whether that was done."""
        return record_access(self.folder, action, object_, f"{READER} {detail}".strip())


@dataclass(slots=True)
class _Opened:
    case: Case
    used_at: float
    views: OrderedDict[tuple[str, UUID | None, str], Questions] = field(default_factory=OrderedDict)


class Archives:
    """The archives below `root` and at `named` paths; safe to use from several threads."""

    def __init__(self, root: Path, named: Sequence[Path] = ()) -> None:
        self.root = root.resolve()
        self._named = tuple(named)
        self._looking = threading.Lock()
        self._looked_at = 0.0
        self._seen: dict[str, Found] = {}
        self._pointed: dict[str, Found] = {}
        self.is_cut = False
        """Whether the last look ended at a limit."""
        self._opening = threading.Lock()
        self._open: OrderedDict[str, _Opened] = OrderedDict()

    # --- which

    def all(self) -> list[Found]:
        """Return all that may be asked about, those of the configuration first, then by path."""
        with self._looking:
            if not self._looked_at or time.monotonic() > self._looked_at + LOOK_AGAIN_S:
                self._look()
            every = {**self._pointed, **self._seen}
        return sorted(every.values(), key=lambda one: (one.is_below_root, one.path))

    def find(self, id: str) -> Found | None:
        """Return the archive of an id, or None where none that is allowed has it."""
        with self._looking:
            one = self._seen.get(id) or self._pointed.get(id)
        if one is None:
            one = next((each for each in self.all() if each.id == id), None)
        # It was an archive when it was found; a link may lie there now.
        if one is None or one.folder.resolve() != one.folder or not _is_archive(one.folder):
            return None
        return one

    def at(self, path: str) -> Found:
        """Return the archive in a folder below the root, as the file browser names it.

        Raises:
            QuestionError: it does not lie there, or is no archive.
        """
        folder = self.inside(path)
        if not _is_archive(folder):
            raise QuestionError("this folder is no archive", hint="one has a file FORMAT")
        one = self._found(folder, is_below_root=True)
        with self._looking:
            self._pointed[one.id] = one
            while len(self._pointed) > MAX_ARCHIVES:
                del self._pointed[next(iter(self._pointed))]
        return one

    def inside(self, path: str) -> Path:
        """Return an existing folder below the root, which a browser names, links resolved.

        Raises:
            QuestionError: there is none, or it lies elsewhere.
        """
        parts = [part for part in path.split("/") if part]
        is_odd = any(part.startswith(".") or "\\" in part or "\0" in part for part in parts)
        try:
            folder = self.root.joinpath(*parts).resolve() if not is_odd else None
            if folder is not None and folder.is_relative_to(self.root) and folder.is_dir():
                return folder
        except (OSError, ValueError, RuntimeError):
            pass  # too long a name, a loop of links
        raise QuestionError("no such folder below the server's root")

    def place(self, path: str) -> Path:
        """Return a folder below the root in which a file of ours may be written.

        Raises:
            QuestionError: there is none, it lies elsewhere, or in an archive.
        """
        folder = self.inside(path)
        # Of whatever release it is, and damaged or not.
        if any(Layout(each).format_file.exists() for each in (folder, *folder.parents)):
            raise QuestionError(
                "the folder lies in an archive, where nothing but a gateway writes",
                hint="go to another folder in the file browser, or name one",
            )
        return folder

    def _look(self) -> None:
        found = []
        for path in self._named:
            folder = path.expanduser().resolve()
            if _is_archive(folder):
                found.append(self._found(folder, is_below_root=False))
        self.is_cut = False
        found += [self._found(folder, is_below_root=True) for folder in self._below()]
        self._seen = {}
        for one in found:
            self._seen.setdefault(one.id, one)
        self._looked_at = time.monotonic()

    def _below(self) -> Iterator[Path]:
        """Yield archives below the root, near ones first; links are not followed."""
        give_up_at = time.monotonic() + MAX_SECONDS
        level, folders, archives = [self.root], 0, 0
        for _ in range(MAX_DEPTH + 1):
            deeper = []
            for folder in level:
                folders += 1
                is_over = archives >= MAX_ARCHIVES or time.monotonic() > give_up_at
                if folders > MAX_FOLDERS or is_over:
                    self.is_cut = True
                    return
                if _is_archive(folder):
                    archives += 1
                    yield folder
                    continue  # nobody keeps one inside another
                deeper += _folders(folder)
            level = deeper
        self.is_cut = bool(level)

    def _found(self, folder: Path, *, is_below_root: bool) -> Found:
        told = folder.relative_to(self.root).as_posix() if is_below_root else str(folder)
        digest = sha256(os.fsencode(folder)).hexdigest()[:24]
        return Found(digest, folder, told, is_below_root)

    # --- what is open

    def questions(self, one: Found, component: str, session: UUID | None, page: str) -> Questions:
        """Return what answers a component's page about an archive, or about a session of it.

        Raises:
            QuestionError: no such session is in it.
            ArchiveError: it cannot be read.
        """
        made_by = COMPONENTS[component]
        opened = self._opened(one)
        place = (component, session, page if made_by.is_of_page else "")
        with self._opening:
            view = opened.views.get(place)
            if view is not None:
                opened.views.move_to_end(place)
                return view
        # Made without the lock: it may read a lot. Of two at once the first one stays.
        of = None if session is None else opened.case.session(session)
        fresh = made_by.make(opened.case, of)
        with self._opening:
            view = opened.views.setdefault(place, fresh)
            while len(opened.views) > MAX_VIEWS:
                opened.views.popitem(last=False)
        return view

    def close_unused(self, unused_s: float = UNUSED_S) -> None:
        """Close archives that nobody has asked about for so long."""
        until = time.monotonic() - unused_s
        with self._opening:
            unused = [id for id, opened in self._open.items() if opened.used_at <= until]
            closed = [self._open.pop(id) for id in unused]
        # An index ends with its last holder, and waits for its thread: not on the server's own.
        threading.Thread(target=closed.clear, name="agentaudit-closing").start()

    @property
    def open_count(self) -> int:
        """How many archives are open."""
        return len(self._open)

    def _opened(self, one: Found) -> _Opened:
        with self._opening:
            opened = self._open.get(one.id)
        if opened is None:
            case = Case(one.folder, record=one.record)
            with self._opening:
                opened = self._open.setdefault(one.id, _Opened(case, 0.0))
        with self._opening:
            opened.used_at = time.monotonic()
            self._open.setdefault(one.id, opened)
            self._open.move_to_end(one.id)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return opened


def _is_archive(folder: Path) -> bool:
    try:
        check_format(Layout(folder))
    except ArchiveError:
        return False
    return True


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []  # what may not be read is not shown
    return [folder / name for name in sorted(names)]
