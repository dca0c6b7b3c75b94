"""An archive as it is at one moment: sealed files by their seals, and the live journal's rows.

Readers never list folders: which files belong to the archive is what the log says at one
checkpoint, so a file that somebody put there is not read, and a file that is gone is an error.

Format: docs/formats/archive.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from agentaudit.archive import journal, known
from agentaudit.archive.columns import EventColumns
from agentaudit.archive.files import read_limited
from agentaudit.archive.layout import FORMAT_TEXT, TABLES, Layout, segment_path
from agentaudit.archive.log import (
    Contradiction,
    Log,
    contradictions,
    read_checkpoint,
    read_log,
)
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.purge import read_list
from agentaudit.archive.retention import Standing
from agentaudit.archive.sealed import require_sessions_as_sealed, sealed_segments
from agentaudit.archive.segment import SCHEMAS, table_of
from agentaudit.archive.tracker import Tracker
from agentaudit.errors import ArchiveError, TamperedError

_LOOKS = 5
"""How often to look again when a segment is sealed while it is read."""
_MAX_FORMAT_BYTES = 100
_MAX_KEY_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to read.

    `files` lists the sealed Parquet files of each table in log order; `live` has the rows of the
    journals behind the last seals, with the same schemas (and, as event numbers are a gateway's
    own, a column `gateway` in `blobs`, where every chunk is given in full); `checkpoints` says at
    which log size. `contradictions` is empty unless a log is behind or beside what this machine
    remembers of it; `unread` names journals that only the gateway's own user may read.
    """

    root: Path
    files: dict[str, list[Path]]
    live: dict[str, pa.Table]
    checkpoints: dict[str, Checkpoint]
    contradictions: list[str]
    unread: list[str]


def check_format(layout: Layout) -> None:
    """Return if `layout` is an archive of format 1.

    Raises:
        ArchiveError: it is not one, or of another format.
    """
    try:
        found = read_limited(layout.format_file, _MAX_FORMAT_BYTES)
    except OSError as error:
        raise ArchiveError(
            f"archive {layout.root}: FORMAT: {error.strerror}",
            hint="give the folder that holds FORMAT, log and events",
        ) from error
    if found != FORMAT_TEXT:
        raise ArchiveError(
            f"archive {layout.root}: FORMAT says {found!r}, {FORMAT_TEXT!r} expected",
            hint="a newer release may have made it, or it is damaged",
        )


def open_archive(path: Path, *, remember: bool = False) -> Snapshot:
    """Return the archive at `path` as it is now. It is checked for consistency, not for trust.

    `remember` keeps each log's checkpoint in the user's state folder, unless it contradicts what
    is there.

    Raises:
        ArchiveError: no archive, of another format, or half copied.
    """
    layout = Layout(path)
    check_format(layout)
    for _ in range(_LOOKS):
        try:
            return _read(layout, remember)
        except FileNotFoundError as error:
            # A journal was sealed, or a file purged, between two of our looks: look once more.
            gone = ArchiveError(
                f"archive {path}: {error.filename} is gone", hint="`agentaudit verify` says more"
            )
        except ArchiveError as error:
            gone = error
    raise gone


def _read(layout: Layout, remember: bool) -> Snapshot:
    files: dict[str, list[Path]] = {table: [] for table in TABLES}
    live: dict[str, list[pa.Table]] = {table: [] for table in TABLES}
    checkpoints = {}
    contradictions: list[str] = []
    unread: list[str] = []
    for gateway in layout.gateways():
        log = read_log(layout.log(gateway), [])
        checkpoints[gateway] = log.checkpoint
        contradictions += _against_memory(layout, gateway, log, remember)
        seals: dict[str, dict[str, Any]] = {}
        standing = Standing()
        next_event_no = 0
        for entry in log.entries():
            standing.take(entry)
            if entry["type"] == "seal":
                seals[entry["segment"]] = entry
                next_event_no = entry["first_event"] + entry["n"]
        sealed = {UUID(segment) for segment in seals}
        going = _going(layout, standing)
        for segment, seal in seals.items():
            for table in TABLES:
                if table not in standing.segments[segment].files:
                    continue
                # Built again rather than believed: an entry cannot name a file elsewhere.
                relative = segment_path(table, gateway, seal["first_at"], UUID(segment))
                path = layout.root / relative
                if path.is_file():
                    files[table].append(path)
                elif segment not in going:
                    raise ArchiveError(
                        f"archive {layout.root}: {relative} is missing",
                        hint="the archive is half copied or was changed; `agentaudit verify` "
                        "says more",
                    )
        try:
            tables = _live_tables(layout, gateway, log, sealed, next_event_no)
        except PermissionError as error:
            unread.append(f"{error.filename}: {error.strerror}")
            continue
        if _seals(layout, gateway, log) != len(sealed):
            raise ArchiveError(f"log/{gateway}: segments are sealed faster than they can be read")
        for table, rows in tables.items():
            live[table].append(rows)
    whole = {
        table: pa.concat_tables(parts) if parts else SCHEMAS[table].empty_table()
        for table, parts in live.items()
    }
    if "gateway" not in whole["blobs"].column_names:
        whole["blobs"] = _of_gateway(whole["blobs"], "")
    return Snapshot(layout.root, files, whole, checkpoints, contradictions, unread)


def _going(layout: Layout, standing: Standing) -> set[str]:
    """Return the segments of which a purge that is under way may have removed files."""
    going: set[str] = set()
    for purge in standing.unfinished():
        try:
            going |= read_list(layout, purge.intent).segments.keys() - purge.done.keys()
        except (OSError, ArchiveError):
            pass  # then nothing excuses a file that is missing
    return going


def _seals(layout: Layout, gateway: str, log: Log) -> int:
    """Return how many segments are sealed by now; `log` is what was read before."""
    if read_checkpoint(layout.log(gateway)) != log.note:
        log = read_log(layout.log(gateway), [])
    return sum(entry["type"] == "seal" for entry in log.entries())


def _live_tables(
    layout: Layout, gateway: str, log: Log, sealed: set[UUID], next_event_no: int
) -> dict[str, pa.Table]:
    """Return the rows of the journals that no seal names yet."""
    is_first = True
    tracker = Tracker(gateway)
    columns = EventColumns(gateway)
    commands = []
    for segment in journal.in_order(layout, gateway):
        if segment in sealed:
            continue
        reader = journal.JournalReader(layout.journal(gateway, segment))
        if reader.header.first_event_no != next_event_no:
            raise ArchiveError(
                f"{reader.path.name}: begins at event {reader.header.first_event_no}, "
                f"{next_event_no} expected",
                hint="a segment is missing; `agentaudit verify` says more",
            )
        sessions = reader.header.sessions
        if is_first and sessions:
            require_sessions_as_sealed(
                layout.root, sealed_segments(gateway, log.entries()), sessions
            )
            for session in sessions:
                tracker.resume(session)
        for what in tracker.contradictions(sessions):
            raise TamperedError(f"{reader.path.name}: {what}", hint="keep a copy of the archive")
        is_first = False
        for batch in reader.batches():
            columns.add(batch, tracker.add_journaled(batch, complete=False))
            tracker.follow(batch)
            next_event_no += batch.rows
    for tracked in tracker.sessions.values():
        for command in tracked.in_flight.values():
            row = command.row(command.request.event_no)
            commands.append(tracker.command_row(row, tracked))
    rows = columns.take()
    return {
        "events": rows["events"],
        "blobs": _of_gateway(_in_full(rows["blobs"]), gateway),
        "commands": pa.concat_tables([rows["commands"], table_of("commands", commands)]),
        "sessions": table_of("sessions", tracker.session_rows()),
        "decisions": table_of("decisions", tracker.decisions),
        "access": table_of("access", tracker.access),
    }


def _in_full(blobs: pa.Table) -> pa.Table:
    """Return `blobs` with every chunk's data in its own row: row numbers end with the segment."""
    data = blobs.column("data").to_pylist()
    for row, same_as in enumerate(blobs.column("same_as").to_pylist()):
        if same_as is not None:
            data[row] = data[same_as]
    schema = SCHEMAS["blobs"]
    return blobs.set_column(2, schema.field("data"), pa.array(data, pa.binary())).set_column(
        3, schema.field("same_as"), pa.nulls(len(data), pa.int64())
    )


def _of_gateway(blobs: pa.Table, gateway: str) -> pa.Table:
    return blobs.append_column("gateway", pa.array([gateway] * blobs.num_rows, pa.string()))


def _against_memory(layout: Layout, gateway: str, log: Log, remember: bool) -> list[str]:
    """Return how a log contradicts what is remembered of it; remember it where it does not."""
    try:
        key = read_limited(layout.verifier_key(gateway), _MAX_KEY_BYTES).decode().strip()
        signed_by = open_note(log.note, [Verifier.parse(key)]).signed_by
    except (OSError, UnicodeDecodeError, ArchiveError) as error:
        return [f"log/{gateway}: {error}"]
    if not signed_by:
        return [f"log/{gateway}: not signed by the key that lies beside it"]
    found: list[Contradiction] = []
    seen = known.recall(log.checkpoint.origin)
    if seen is not None:
        found = known.key_contradictions(seen, key)
        found += contradictions(log, seen.checkpoint, "remembered checkpoint")
    if remember and not found:
        known.remember(known.Known(key, log.checkpoint, trusted=False))
    return [f"log/{gateway}: {contradiction}" for contradiction in found]
