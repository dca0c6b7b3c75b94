"""What an archive says happened, read as anybody would: files named by the log, live journal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from agentaudit.archive.snapshot import open_archive
from agentaudit.model import Flag

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recorded:
    """All rows of an archive with one gateway, in the order of the log."""

    sessions: list[Row]
    commands: list[Row]
    events: list[Row]
    decisions: list[Row]
    blobs: dict[int, list[tuple[int, bytes]]]

    def session(self, **facts: Any) -> Row:
        """Return the one session whose columns are `facts`."""
        found = [row for row in self.sessions if facts.items() <= row.items()]
        assert len(found) == 1, [(row["target"], row["close_reason"]) for row in found]
        return found[0]

    def of(self, session: Row) -> list[Row]:
        """Return the events of `session`."""
        return [row for row in self.events if row["session_id"] == session["session_id"]]

    def commands_of(self, session: Row) -> list[Row]:
        """Return the commands of `session`, in the order asked."""
        rows = [row for row in self.commands if row["session_id"] == session["session_id"]]
        return sorted(rows, key=lambda row: row["command_no"])

    def payload(self, event: Row) -> bytes:
        """Return all bytes of `event`."""
        whole: bytes = event["payload"] or b""
        for offset, data in sorted(self.blobs.get(event["event_no"], [])):
            if offset >= 0:
                assert offset == len(whole)
                whole += data
        assert len(whole) == event["stored_len"]
        return whole

    def wire(self, session: Row, side: str) -> bytes:
        """Return what `side` sent after the login, as recorded where nothing of it is masked."""
        kinds = ("request", "response", "content")
        events = [e for e in self.of(session) if e["side"] == side and e["kind"] in kinds]
        for event in events:
            if event["kind"] != "content" and not event["flags"] & Flag.WITHHELD:
                assert event["orig_len"] == len(self.payload(event))
        wire = b"".join(self.payload(event) for event in events)
        assert sum(event["orig_len"] for event in events) == len(wire)
        return wire

    def refusals(self) -> list[str]:
        """Return the texts of all `refused` events."""
        return [row["text"] for row in self.events if row["kind"] == "refused"]


def read(archive: Path) -> Recorded:
    """Return what `archive` holds now."""
    snapshot = open_archive(archive)
    rows: dict[str, list[Row]] = {}
    for table in ("sessions", "commands", "events", "decisions"):
        rows[table] = [
            row for path in snapshot.files[table] for row in pq.read_table(path).to_pylist()
        ]
        rows[table] += snapshot.live[table].to_pylist()
    blobs: dict[int, list[tuple[int, bytes]]] = {}
    for path in snapshot.files["blobs"]:
        chunks = pq.read_table(path).to_pylist()
        for chunk in chunks:
            same = chunk["same_as"]
            data = chunk["data"] if same is None else chunks[same]["data"]
            blobs.setdefault(chunk["event_no"], []).append((chunk["offset"], data))
    for chunk in snapshot.live["blobs"].to_pylist():
        blobs.setdefault(chunk["event_no"], []).append((chunk["offset"], chunk["data"]))
    return Recorded(
        _latest(rows["sessions"]), rows["commands"], rows["events"], rows["decisions"], blobs
    )


def _latest(sessions: list[Row]) -> list[Row]:
    """Return one row a session: the final one, else the one that knows most."""
    found: dict[UUID, Row] = {}
    for row in sessions:
        known = found.get(row["session_id"])
        if known is None or (row["is_final"], row["events"]) > (known["is_final"], known["events"]):
            found[row["session_id"]] = row
    return list(found.values())
