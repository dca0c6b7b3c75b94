"""Waits until sealers have nothing left to do, so that no slice pays for the one before it.

A sealer works at low priority and lags behind its gateway; what it still owes when a slice ends
would be done in the next one, on another target's account. It is done when a signed tick, or a
seal, covers the last event of the journal.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable
from pathlib import Path

from agentaudit.archive import journal
from agentaudit.archive.journal import FIXED, JournalReader
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_checkpoint, read_log
from agentaudit.demo.processes import PeerError
from agentaudit.errors import ArchiveError

PATIENCE_S = 600.0
_BEFORE_FIXED = 24  # marker, length, CRC
_POLL_S = 0.05
_LOOKS = 2
"""How often in a row a sealer must be found idle: a session that ends adds a last event."""


class Archive:
    """The archive of a gateway, looked at from outside while it is written."""

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._signed: dict[str, tuple[bytes, int]] = {}

    def is_sealed_up(self) -> bool:
        """Whether every event in every journal has been signed."""
        return all(self._is_sealed_up(gateway) for gateway in self._layout.gateways())

    def _is_sealed_up(self, gateway: str) -> bool:
        try:
            segments = journal.in_order(self._layout, gateway)
            if len(segments) > 1:
                return False  # all but the last are waiting for their seal
            written = [_next_event_no(self._layout.journal(gateway, one)) for one in segments]
            signed = self._next_signed(gateway)
        except (FileNotFoundError, ArchiveError):
            return False  # sealed, or signed, while we looked
        return all(one is not None and one <= signed for one in written)

    def _next_signed(self, gateway: str) -> int:
        """Return the number of the first event that nothing signed covers."""
        folder = self._layout.log(gateway)
        note, found = self._signed.get(gateway, (b"", 0))
        if read_checkpoint(folder) == note:
            return found
        log = read_log(folder, [])
        found, first = 0, {}
        for entry in log.entries():
            if entry["type"] == "open_segment":
                first[entry["segment"]] = entry["first_event"]
            elif entry["type"] == "tick":
                found = first[entry["segment"]] + entry["n"]
            elif entry["type"] == "seal":
                found = entry["first_event"] + entry["n"]
        self._signed[gateway] = log.note, found
        return found


def wait_until_sealed_up(archives: Iterable[Archive]) -> float:
    """Return the seconds that it took until the sealers of `archives` were idle.

    Raises:
        PeerError: they did not come to an end.
    """
    began = time.monotonic()
    waiting, looks = list(archives), 0
    while waiting and looks < _LOOKS:
        if time.monotonic() - began > PATIENCE_S:
            raise PeerError(f"sealers: not idle within {PATIENCE_S:g} s")
        looks = looks + 1 if all(one.is_sealed_up() for one in waiting) else 0
        time.sleep(_POLL_S)
    return time.monotonic() - began


def _next_event_no(path: Path) -> int | None:
    """Return the number after that of a journal's last event; None while that is being written.

    Nothing but a frame of this file begins with its marker, so the last one is found from behind.
    """
    header = JournalReader(path).header
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.rfind(header.marker)
        if at <= data.find(header.marker):
            return header.first_event_no  # only the file's own header has it
        fixed = data[at + _BEFORE_FIXED : at + _BEFORE_FIXED + FIXED.size]
    return int.from_bytes(fixed[:8]) + 1 if len(fixed) == FIXED.size else None
