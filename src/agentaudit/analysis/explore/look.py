"""What an index reads: one archive, looked at again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentaudit.analysis.case import Case
from agentaudit.archive import snapshot
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log
from agentaudit.archive.snapshot import Snapshot


class Look:
    """The archive of a case; a benchmark has one over files that no gateway made."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.archive = case.path

    def stamp(self) -> object:
        """Return what differs once the archive has grown; cheap."""
        return self._case.stamp()

    def snapshot(self) -> Snapshot:
        """Return the archive as it is now.

        Raises:
            ArchiveError: it cannot be read.
        """
        return snapshot.open_archive(self.archive)

    def gateways(self) -> list[dict[str, Any]]:
        """Return each gateway's `name`, and its `clock`: `system`, or by what its times are made.

        Raises:
            ArchiveError: a log cannot be read.
        """
        layout = Layout(self.archive)
        found = []
        for name in layout.gateways():
            clock = "system"
            for entry in read_log(layout.log(name), []).entries():
                if entry.get("clock", "system") != "system":
                    clock = str(entry["clock"])
                    break
            found.append({"name": name, "clock": clock})
        return found


def stamps(files: list[Path]) -> dict[Path, tuple[int, int]]:
    """Return size and time of change of each file: a purge writes another in its place."""
    found = {}
    for path in files:
        status = path.stat()
        found[path] = (status.st_size, status.st_mtime_ns)
    return found
