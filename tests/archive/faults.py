"""Faults to inject where the archive meets the operating system."""

from __future__ import annotations

import os
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from agentaudit._native import system
from agentaudit.archive import files, journal, sealer, syncer
from agentaudit.archive.journal import JournalReader
from agentaudit.errors import AgentauditError
from tests.archive.recording import Site


def python_of(module: ModuleType) -> ModuleType:
    """Return `module` as the interpreter runs it, where the one that is loaded is compiled."""
    source = Path(module.__file__ or "").with_name(f"{module.__name__.rpartition('.')[2]}.py")
    spec = spec_from_file_location(module.__name__, source)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def io_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the archive write with `os.write` and `os.pwrite`, and sync with `os.fdatasync`.

    There a test can get between.
    """
    python = python_of(system)
    for module in (files, sealer):
        monkeypatch.setattr(module, "write_all", python.write_all)
    monkeypatch.setattr(journal, "write_all_at", python.write_all_at)
    monkeypatch.setattr(syncer, "sync_loop", python.sync_loop)
    # On the thread, so that the event loop can go on while a test holds it up.
    monkeypatch.setattr(syncer, "QUICK_S", -1.0)


class Disk:
    """Watches and holds up what this process writes to journals."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        io_in_python(monkeypatch)
        self.synced: dict[str, int] = {}
        self.syncs = 0
        self._lock = threading.Lock()
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.error: OSError | None = None
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            self.may_sync.wait()
            if self.error is not None:
                raise self.error
            path, size = str(Path(f"/proc/self/fd/{fd}").readlink()), os.fstat(fd).st_size
            self.syncs += 1
            real(fd)
            # Two threads may sync one file, and the one that began first may be back last.
            with self._lock:
                self.synced[path] = max(size, self.synced.get(path, 0))

        monkeypatch.setattr(os, "fdatasync", fdatasync)

    def numbers(self, site: Site, *, synced: bool) -> set[int]:
        """Return the numbers of the events in live journals, written or synced."""
        found = set()
        for path in site.journals():
            copy = path.with_suffix(".copy")
            data = path.read_bytes()
            copy.write_bytes(data[: self.synced.get(str(path), 0)] if synced else data)
            try:
                found |= {entry.event_no for entry in JournalReader(copy).read()}
            except AgentauditError:
                pass  # not even its header is synced
            copy.unlink()
        return found
