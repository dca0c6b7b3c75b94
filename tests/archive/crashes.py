"""Crashes of a machine, made from a tape of what recorder and sealer asked of its file system.

A `Tape` records every change to the files below a folder while something runs; `Disk` replays a
tape up to any operation and says what a crash there could leave behind. The model is weaker than
ext4, XFS or Btrfs promise, so that no promise of one of them is relied on:

- What was written to a file and not synced since, may be there or not, each write by itself; a
  write may be there in part; what a lost write leaves before a kept one reads as zeros.
- A name that was made, moved or removed is durable once its *folder* was synced, and until then
  each such change is there or not by itself. Syncing a file does not keep its name.
- A rename is atomic: under the new name lies the old file or the new one, whole.
- What was synced stays. Nothing that was never written appears.

A process that is killed leaves everything that it wrote: the state with all changes kept.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import pytest

from agentaudit.archive import journal
from agentaudit.archive import recorder as recorder_module
from agentaudit.archive import sealer as sealer_module
from agentaudit.archive.clocks import Clock
from agentaudit.archive.keys import Place
from agentaudit.archive.log import LogWriter
from agentaudit.archive.outside import Outside
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.sealer import Sealer
from agentaudit.errors import AgentauditError, RecordingError
from tests import tries
from tests.archive.faults import io_in_python

ROOT = 0
"""The number of the folder that a tape is about."""

_GATHERED_BYTES = 8192


def parts(some: int, *, every: int = 1) -> list[Any]:
    """Return which crashes a test is to try: every `some`-th; in a full run more, in eighths.

    That is all of them, unless `every` makes it fewer, or a share is enough (`tests.tries`).
    """
    # Where a test tries few as it is, a share of the last parts would be none.
    every *= tries.of(1, share=8 if every == 1 else 4)
    eighths = [
        pytest.param(
            slice(first * every + random.randrange(every), None, 8 * every),
            marks=pytest.mark.full,
            id=f"part {first}",
        )
        for first in range(8)
    ]
    return [pytest.param(slice(some // 2, None, some), id="some"), *eighths]


@dataclass(frozen=True, slots=True)
class Op:
    """One change: to the content of file `home`, or to the names in folder `home`.

    `number` is the file that a name stands for. A `sync` covers the changes to `home` on the tape
    before `begun`: what came while it was under way may have missed it.
    """

    kind: str
    home: int
    name: str = ""
    number: int = -1
    target: str = ""
    offset: int = 0
    data: bytes = field(default=b"", repr=False)
    begun: int = 0
    mode: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was promised at this place of the tape."""

    what: str
    value: int


@dataclass(slots=True)
class Node:
    """A file or folder as the disk has it, and the changes that it may still lose."""

    is_folder: bool
    mode: int
    content: bytes = b""
    names: dict[str, int] = field(default_factory=dict)
    pending: dict[int, Op] = field(default_factory=dict)

    def copy(self) -> Node:
        return replace(self, names=dict(self.names), pending=dict(self.pending))


@dataclass(frozen=True, slots=True)
class Fault:
    """What operation number `at` answers, and every later one of those kinds where it `lasts`.

    No `error` is a short write: half of it is taken.
    """

    at: int
    error: int | None
    lasts: bool = False
    kinds: frozenset[str] = frozenset()


class Tape:
    """Records what this process does to files below `root`, and makes it fail where asked."""

    def __init__(
        self, root: Path, numbers: Mapping[str, int] | None = None, since: int = 0
    ) -> None:
        """Begin with what lies in `root`.

        Where this tape goes on from another, `since` is that one's length, and `numbers` are those
        of the files there, by path.
        """
        self.root = root.resolve()
        self.entries: list[Op | Mark] = []
        self.fault: Fault | None = None
        self.asked = 0
        """How many operations were asked for, done or not."""
        self.failed: list[str] = []
        """What failed so, in order: the kind of operation and its path."""
        self.synced_after_failure: list[str] = []
        self.nodes: dict[int, Node] = {}
        self._failed_syncs: set[int] = set()
        self._lock = threading.RLock()
        self._numbers: dict[int, int] = {}
        self._since = since
        # Beyond whatever the tape before has given away.
        self._next = since + 1
        self._scan(self.root, "", numbers or {})

    def _scan(self, path: Path, relative: str, numbers: Mapping[str, int]) -> int:
        status = path.stat()
        number = ROOT if not relative else numbers.get(relative, -1)
        if number < 0:
            number = self._new_number()
        self._numbers[status.st_ino] = number
        node = Node(path.is_dir(), stat.S_IMODE(status.st_mode))
        if node.is_folder:
            for child in sorted(path.iterdir()):
                below = f"{relative}/{child.name}".removeprefix("/")
                node.names[child.name] = self._scan(child, below, numbers)
        else:
            node.content = path.read_bytes()
        self.nodes[number] = node
        return number

    def _new_number(self) -> int:
        self._next += 1
        return self._next - 1

    def mark(self, what: str, value: int) -> None:
        """Note that `what` was promised here."""
        with self._lock:
            self.entries.append(Mark(what, value))

    @contextmanager
    def recording(self) -> Iterator[Self]:
        """Record, and fail where asked, until the block is left."""
        names = ("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "rename")
        names += ("unlink", "remove", "mkdir", "rmdir", "posix_fallocate", "chmod", "statvfs")
        with pytest.MonkeyPatch.context() as patch:
            io_in_python(patch)
            # So that one journal is laid out many times.
            patch.setattr(journal, "ROOM_BYTES", 4096)
            for name in names:
                patch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
            patch.setattr(pq, "ParquetWriter", self._parquet_writer(pq.ParquetWriter))
            yield self

    def _inside(self, path: Any, folder: int | None = None) -> Path | None:
        try:
            base = Path() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
            absolute = (base / os.fspath(path)).absolute()
        except TypeError:
            return None
        return absolute if absolute.is_relative_to(self.root) else None

    def _file(self, fd: int) -> Path | None:
        return self._inside(str(Path(f"/proc/self/fd/{fd}").readlink()).removesuffix(" (deleted)"))

    def _number(self, fd: int) -> int:
        return self._numbers[os.fstat(fd).st_ino]

    def _number_at(self, path: Path) -> int:
        return self._numbers[path.lstat().st_ino]

    def _ask(self, kind: str, path: Path) -> bool:
        """Count an operation; raise where it is to fail, return whether it is to be cut short."""
        at, fault = self.asked, self.fault
        self.asked += 1
        if fault is None or at < fault.at or (at > fault.at and not fault.lasts):
            return False
        if fault.kinds and kind not in fault.kinds:
            return False
        if fault.error is None:
            if kind == "write":
                self.failed.append(f"{kind} {path.relative_to(self.root)}")
            return kind == "write"
        self.failed.append(f"{kind} {path.relative_to(self.root)}")
        raise OSError(fault.error, os.strerror(fault.error), str(path))

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def function(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            inside = self._inside(path)
            if inside is None:
                return real(path, flags, mode, **more)
            with self._lock:
                self._ask("create" if flags & os.O_CREAT else "open", inside)
                is_new = bool(flags & os.O_CREAT) and not os.path.lexists(inside)
                fd = real(path, flags, mode, **more)
                if is_new:
                    number = self._numbers[os.fstat(fd).st_ino] = self._new_number()
                    folder = self._number_at(inside.parent)
                    self.entries.append(Op("link", folder, inside.name, number, mode=mode))
                elif flags & os.O_TRUNC:
                    self.entries.append(Op("truncate", self._number(fd)))
                return fd

        return function

    def _write(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def function(fd: int, data: Any) -> int:
            path = self._file(fd)
            if path is None:
                return real(fd, data)
            with self._lock:
                if self._ask("write", path):
                    data = bytes(data)[: max(1, len(data) // 2)]
                is_appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
                offset = os.fstat(fd).st_size if is_appending else os.lseek(fd, 0, os.SEEK_CUR)
                count = real(fd, data)
                content = bytes(data)[:count]
                self.entries.append(Op("write", self._number(fd), offset=offset, data=content))
                return count

        return function

    def _pwrite(self, real: Callable[..., int]) -> Callable[..., int]:
        def function(fd: int, data: Any, offset: int) -> int:
            path = self._file(fd)
            if path is None:
                return real(fd, data, offset)
            with self._lock:
                if self._ask("write", path):
                    data = bytes(data)[: max(1, len(data) // 2)]
                count = real(fd, data, offset)
                content = bytes(data)[:count]
                self.entries.append(Op("write", self._number(fd), offset=offset, data=content))
                return count

        return function

    def _ftruncate(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def function(fd: int, length: int) -> None:
            path = self._file(fd)
            if path is None:
                real(fd, length)
                return
            with self._lock:
                self._ask("truncate", path)
                real(fd, length)
                self.entries.append(Op("truncate", self._number(fd), offset=length))

        return function

    def _posix_fallocate(self, real: Callable[..., None]) -> Callable[..., None]:
        def function(fd: int, offset: int, length: int) -> None:
            path = self._file(fd)
            if path is None:
                real(fd, offset, length)
                return
            with self._lock:
                self._ask("write", path)
                real(fd, offset, length)
                self.entries.append(Op("allocate", self._number(fd), offset=offset + length))

        return function

    def _fsync(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def function(fd: Any) -> None:
            path = self._file(fd)
            if path is None:
                real(fd)
                return
            with self._lock:
                number = self._number(fd)
                if number in self._failed_syncs:
                    self.synced_after_failure.append(str(path.relative_to(self.root)))
                try:
                    self._ask("sync", path)
                except OSError:
                    self._failed_syncs.add(number)
                    raise
                begun = self._since + len(self.entries)
            # The disk below is a model; the real one need not turn.
            with self._lock:
                self.entries.append(Op("sync", number, begun=begun))

        return function

    _fdatasync = _fsync

    def _replace(self, real: Callable[..., None]) -> Callable[..., None]:
        def function(source: Any, target: Any, **more: Any) -> None:
            old, new = self._inside(source), self._inside(target)
            if old is None or new is None:
                assert old is new, f"{source} moves across the tape's folder"
                real(source, target, **more)
                return
            assert old.parent == new.parent, f"{source} moves to another folder: the model has none"
            with self._lock:
                self._ask("rename", new)
                real(source, target, **more)
                number, folder = self._number_at(new), self._number_at(new.parent)
                self.entries.append(Op("rename", folder, old.name, number, new.name))

        return function

    _rename = _replace

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def function(path: Any, **more: Any) -> None:
            inside = self._inside(path, more.get("dir_fd"))
            if inside is None:
                real(path, **more)
                return
            with self._lock:
                self._ask("unlink", inside)
                number = self._number_at(inside) if os.path.lexists(inside) else -1
                real(path, **more)
                folder = self._number_at(inside.parent)
                self.entries.append(Op("unlink", folder, inside.name, number))

        return function

    _remove = _rmdir = _unlink

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        def function(path: Any, mode: int = 0o777, **more: Any) -> None:
            inside = self._inside(path)
            if inside is None:
                real(path, mode, **more)
                return
            with self._lock:
                self._ask("create", inside)
                real(path, mode, **more)
                number = self._numbers[inside.stat().st_ino] = self._new_number()
                folder = self._number_at(inside.parent)
                self.entries.append(Op("mkdir", folder, inside.name, number, mode=mode))

        return function

    def _chmod(self, real: Callable[..., None]) -> Callable[..., None]:
        def function(path: Any, mode: int, **more: Any) -> None:
            inside = None if isinstance(path, int) else self._inside(path)
            if inside is None:
                real(path, mode, **more)
                return
            with self._lock:
                self._ask("chmod", inside)
                real(path, mode, **more)
                self.entries.append(Op("chmod", self._number_at(inside), mode=mode))

        return function

    def _statvfs(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def function(path: Any) -> Any:
            inside = self._inside(path)
            if inside is not None:
                with self._lock:
                    self._ask("statvfs", inside)
            return real(path)

        return function

    def _parquet_writer(self, real: type[Any]) -> type[Any]:
        """pyarrow opens a path by itself; given a file of ours, its writes pass here too."""

        class Writer(real):  # type: ignore[misc]
            sink: _Sink | None = None

            def __init__(self, where: Any, schema: Any, **options: Any) -> None:
                self.sink = _Sink(where) if isinstance(where, str | os.PathLike) else None
                super().__init__(self.sink or where, schema, **options)

            def close(self) -> None:
                super().close()
                if self.sink is not None:
                    self.sink.close()

            def __del__(self) -> None:
                """Write nothing more: a process that ends early does not get here."""
                if self.sink is not None:
                    self.sink.abandon()

        return Writer

    def require_complete(self) -> None:
        """The tape tells all that happened: replayed to its end, it gives the folder as it is."""
        disk = Disk(self.nodes)
        for index, entry in enumerate(self.entries):
            disk.apply(index, entry)
        made = disk.state(disk.pending())
        seen = dict(_contents(self.root))
        assert sorted(made.files) == sorted(seen)
        for path, content in seen.items():
            assert made.files[path][1] == content, f"{path}: changed past the tape"


def _contents(root: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in root.rglob("*"):
        yield path.relative_to(root).as_posix(), None if path.is_dir() else path.read_bytes()


class _Sink:
    """A file that writes through `os.write`, for pyarrow.

    It gathers pyarrow's hundreds of small writes: each would be a crash point like its neighbour.
    """

    def __init__(self, path: Any) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._gathered = bytearray()
        self.closed = False

    def write(self, data: Any) -> int:
        self._gathered += data
        if len(self._gathered) >= _GATHERED_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        while self._gathered:
            del self._gathered[: os.write(self._fd, bytes(self._gathered))]

    def abandon(self) -> None:
        self._gathered.clear()
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                self.flush()
            finally:
                os.close(self._fd)


@dataclass(frozen=True, slots=True)
class State:
    """What a crash left: by path, mode and content (None for a folder), and each file's number."""

    files: dict[str, tuple[int, bytes | None]]
    numbers: dict[str, int]

    def digest(self) -> bytes:
        """Name the state: two with one digest are the same."""
        whole = sha256()
        for path, (mode, content) in sorted(self.files.items()):
            whole.update(f"{path}\0{mode:o}\0{-1 if content is None else len(content)}\0".encode())
            whole.update(content or b"")
        return whole.digest()

    def write_to(self, folder: Path) -> None:
        """Make it in `folder`, which is not there yet."""
        folder.mkdir()
        for path, (mode, content) in self.files.items():
            if content is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(content)
                (folder / path).chmod(mode)


class Disk:
    """The model: what is durable, and what a crash may still undo."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self._nodes = {number: node.copy() for number, node in nodes.items()}

    def copy(self) -> Disk:
        return Disk(self._nodes)

    def apply(self, index: int, entry: Op | Mark) -> None:
        """Take in what stands at `index` of the tape."""
        if isinstance(entry, Mark):
            return
        if entry.kind in ("link", "mkdir"):
            self._nodes[entry.number] = Node(entry.kind == "mkdir", entry.mode)
        node = self._nodes[entry.home]
        if entry.kind == "chmod":
            node.mode = entry.mode
        elif entry.kind == "sync":
            for number in [n for n in node.pending if n < entry.begun]:
                op = node.pending.pop(number)
                if node.is_folder:
                    _rename_in(node.names, op)
                else:
                    node.content = bytes(_change(bytearray(node.content), op, op.data))
        else:
            node.pending[index] = entry

    def pending(self) -> dict[int, Op]:
        """Return the changes that a crash may undo, in the order in which they were made.

        Those of a file that no crash would show, because it has no name whatever is kept, are not
        among them.
        """
        named = {ROOT}
        for node in self._nodes.values():
            named |= set(node.names.values())
            named |= {op.number for op in node.pending.values() if node.is_folder}
        found = {}
        for number, node in self._nodes.items():
            if number in named:
                found |= node.pending
        return dict(sorted(found.items()))

    def state(
        self, kept: Iterable[int], torn: Mapping[int, Callable[[bytes], bytes]] | None = None
    ) -> State:
        """Return what is there if of all pending changes those `kept` have reached the disk.

        `torn` gives what arrived of a kept write; what it leaves out (shorter) was not written.
        """
        kept, torn = set(kept), torn or {}
        files: dict[str, tuple[int, bytes | None]] = {}
        numbers: dict[str, int] = {}
        self._collect(ROOT, "", kept, torn, files, numbers)
        return State(files, numbers)

    def _collect(
        self,
        number: int,
        path: str,
        kept: set[int],
        torn: Mapping[int, Callable[[bytes], bytes]],
        files: dict[str, tuple[int, bytes | None]],
        numbers: dict[str, int],
    ) -> None:
        node = self._nodes[number]
        if path:
            numbers[path] = number
        changes = [(index, op) for index, op in node.pending.items() if index in kept]
        if not node.is_folder:
            content = node.content
            if changes:
                changed = bytearray(content)
                for index, op in changes:
                    data = torn[index](op.data) if index in torn else op.data
                    changed = _change(changed, op, data)
                content = bytes(changed)
            files[path] = (node.mode, content)
            return
        if path:
            files[path] = (node.mode, None)
        names = dict(node.names)
        for _, op in changes:
            _rename_in(names, op)
        for name, child in sorted(names.items()):
            self._collect(child, f"{path}/{name}".removeprefix("/"), kept, torn, files, numbers)


def _rename_in(names: dict[str, int], op: Op) -> None:
    if op.kind in ("link", "mkdir"):
        names[op.name] = op.number
    elif names.get(op.name) == op.number:
        del names[op.name]
    if op.kind == "rename":
        names[op.target] = op.number


def _change(content: bytearray, op: Op, data: bytes) -> bytearray:
    if op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
    elif op.kind == "allocate":
        content.extend(bytes(max(0, op.offset - len(content))))
    elif data:
        content.extend(bytes(max(0, op.offset - len(content))))
        content[op.offset : op.offset + len(data)] = data
    return content


class InlineSealer:
    """A sealer in this process, in place of `SealerProcess`: `turn` is its time to work.

    An error ends it as it would end its process; `kill` does so without a word.
    """

    def __init__(
        self,
        said: Callable[[dict[str, Any]], None],
        ended: Callable[[AgentauditError], None],
    ) -> None:
        self._said = said
        self._ended = ended
        self._place: Place
        self._lock = -1
        self._error: AgentauditError | None = None
        self.sealer: Sealer | None = None

    def starved_s(self) -> float:
        return 0.0  # it has its turns

    async def start(self, place: Place, clock: Clock, outside: Outside) -> dict[str, Any]:
        self._place = place
        take = sealer_module._take_lock

        def taken(path: Path) -> int:
            self._lock = take(path)
            return self._lock

        sealer_module._take_lock = taken
        try:
            self.sealer = Sealer(place, clock.kind, self._said, outside=outside)
            return {"next_event_no": self.sealer.recover()}
        except (AgentauditError, OSError) as error:
            self.kill()
            raise self._error_of(error) from error
        finally:
            sealer_module._take_lock = take

    def _error_of(self, error: AgentauditError | OSError) -> AgentauditError:
        if isinstance(error, AgentauditError):
            return error
        what, hint = sealer_module.disk_error(self._place, error)
        return RecordingError(what, hint=hint)

    def _run(self, work: Callable[[Sealer], object]) -> None:
        if self.sealer is None:
            return
        try:
            work(self.sealer)
        except (AgentauditError, OSError) as error:
            self._error = self._error_of(error)
            self.kill()
            self._ended(self._error)

    def send(self, message: dict[str, Any]) -> None:
        self._run(lambda sealer: sealer.set_policy(message["policy"]))

    def turn(self) -> None:
        """Read, tick and seal what there is."""

        def work(sealer: Sealer) -> None:
            sealer._tick_due_s = 0.0
            while sealer.turn():
                pass

        self._run(work)

    def heartbeat(self) -> None:
        """Let it be idle for so long that it says so."""

        def work(sealer: Sealer) -> None:
            while sealer.turn():
                pass
            sealer._heard_s = float("-inf")
            sealer.turn()

        self._run(work)

    def next_epoch(self) -> None:
        """Let its day be over."""

        def work(sealer: Sealer) -> None:
            sealer._epoch_began_s = float("-inf")
            sealer.turn()

        self._run(work)

    async def stop(self, *, failed: bool) -> None:
        if not failed:
            self._run(Sealer.stop)
        self.kill()
        if self._error is not None:
            raise RecordingError(str(self._error), hint=self._error.hint)

    def kill(self) -> None:
        self.sealer = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextmanager
def in_one_process(tape: Tape | None = None, reserve_bytes: int = 4096) -> Iterator[None]:
    """Recorders started here have their sealer in this process, and a small reserve.

    Each log entry that is published goes onto the `tape`.
    """
    with pytest.MonkeyPatch.context() as patch:
        io_in_python(patch)
        patch.setattr(recorder_module, "SealerProcess", InlineSealer)
        patch.setattr(recorder_module, "RESERVE_BYTES", reserve_bytes)
        if tape is None:
            # Nobody watches: then the real disk need not turn either.
            patch.setattr(os, "fsync", lambda fd: None)
            patch.setattr(os, "fdatasync", lambda fd: None)
        else:
            append = LogWriter.append

            def appended(log: LogWriter, entries: Any) -> None:
                append(log, entries)
                tape.mark("published", log.size)

            patch.setattr(LogWriter, "append", appended)
        yield


def sealer_of(recorder: Recorder) -> InlineSealer:
    assert isinstance(recorder._sealer, InlineSealer)
    return recorder._sealer
