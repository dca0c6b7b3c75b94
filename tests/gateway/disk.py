"""The recorder's file operations in a test's hands: held back, or failing."""

from __future__ import annotations

import os
import threading

import pytest

from agentaudit.archive import journal
from agentaudit.archive import recorder as recorder_module
from tests.archive.faults import io_in_python


class Disk:
    """The recorder's file operations, which a test can hold back or let fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        io_in_python(monkeypatch)
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.sync_error: OSError | None = None
        self.write_error: OSError | None = None
        self.syncs_wanted = 0
        self._sync = os.fdatasync
        self._write = journal.write_all_at
        monkeypatch.setattr(recorder_module.os, "fdatasync", self.sync)
        monkeypatch.setattr(journal, "write_all_at", self.write)

    def sync(self, fd: int) -> None:
        self.syncs_wanted += 1
        self.may_sync.wait()
        if self.sync_error is not None:
            raise self.sync_error
        self._sync(fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.write_error is not None:
            raise self.write_error
        self._write(fd, data, offset)
