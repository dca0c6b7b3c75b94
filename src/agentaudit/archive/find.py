"""Finds one session in an archive by its log and its tables, without a database.

What is found is where to look, not evidence: a `sessions` file that hides a session makes its
proof incomplete, which whoever checks it sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from agentaudit.archive import canonical, journal
from agentaudit.archive.files import read_limited
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import Log, read_log
from agentaudit.archive.purge import MAX_LIST_BYTES
from agentaudit.archive.sealed import Sealed, sealed_segments
from agentaudit.archive.verification import MALFORMED, words
from agentaudit.errors import ArchiveError, QuestionError

SHORTEST_PREFIX = 8
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class FoundSession:
    """A session, the log that it is in, and which segments have events of it.

    Where `spoilt` names `sessions` files that are not what was sealed, there may be more.
    `is_live` says that a journal knows it, `live_events` how many events there no seal covers yet;
    both are None where the journal may not be read.
    """

    gateway: str
    session_id: UUID
    log: Log
    segments: list[Sealed]
    is_live: bool | None
    live_events: int | None
    spoilt: list[str]


def find_session(layout: Layout, session: UUID | str) -> FoundSession:
    """Return where the session is whose id is, or begins with, `session`.

    Raises:
        QuestionError: no session, or more than one, has an id that begins so.
        ArchiveError: its log cannot be read, is sealed faster than it can be read, or does not have
            the session where what is spoilt might have it.
    """
    prefix = _prefix(session)
    for look in range(_LOOKS):
        try:
            return _look(layout, prefix, may_move=look == 0)
        except _Moved:
            continue
        except FileNotFoundError as error:
            # A journal was sealed between two of our looks.
            gone = ArchiveError(
                f"archive {layout.root}: {error.filename} is gone",
                hint="`agentaudit verify` says more",
            )
    raise gone


class _Moved(Exception):
    """A file is not the one that the log tells of: a purge may be putting another in its place."""


def _prefix(session: UUID | str) -> str:
    prefix = str(session).strip().lower()
    if not re.fullmatch(r"[0-9a-f-]+", prefix) or len(prefix) < SHORTEST_PREFIX:
        raise QuestionError(
            f"session {prefix!r}: a session id, or at least {SHORTEST_PREFIX} characters "
            "of its beginning, expected",
            hint="case.sessions() or agentaudit sessions lists them",
        )
    return prefix


def _look(layout: Layout, prefix: str, *, may_move: bool) -> FoundSession:
    found: dict[tuple[str, bytes], tuple[Log, list[Sealed]]] = {}
    live: dict[tuple[str, bytes], int] = {}
    unread = set()
    spoilt: list[str] = []
    digits = prefix.replace("-", "")
    for gateway in layout.gateways():
        try:
            log = read_log(layout.log(gateway), [])
            segments = sealed_segments(gateway, log.entries())
        except ArchiveError as error:
            spoilt.append(str(error))  # other gateways' sessions are in other logs
            continue
        for sealed in segments:
            try:
                # All of them first: half a list would be as good as none.
                ids = [i for i in sealed.session_ids(layout.root) if i.hex().startswith(digits)]
            except MemoryError:
                raise
            except MALFORMED as error:
                if may_move:
                    raise _Moved from error
                path, reason = sealed.files["sessions"], words(error)
                spoilt.append(reason if path in reason else f"{path}: {reason}")
                continue
            for session_id in ids:
                found.setdefault((gateway, session_id), (log, []))[1].append(sealed)
        try:
            counts = _live_events(layout, gateway, {sealed.segment for sealed in segments})
        except FileNotFoundError:
            raise
        except (OSError, ArchiveError) as error:
            unread.add(gateway)
            if not isinstance(error, PermissionError):
                spoilt.append(words(error))
            continue
        for session_id, count in counts.items():
            if session_id.hex().startswith(digits):
                found.setdefault((gateway, session_id), (log, []))
                live[gateway, session_id] = count
    if not found:
        for gateway in layout.gateways():
            _complain_if_purged(layout, gateway, prefix)
        if spoilt:
            raise ArchiveError(
                f"session {prefix}: not in what can be read of this archive; {spoilt[0]}",
                hint="`agentaudit verify` says more; keep a copy of the archive",
            )
        raise QuestionError(
            f"session {prefix}: not in this archive",
            hint="case.sessions() or agentaudit sessions lists them",
        )
    if len(found) > 1:
        raise QuestionError(
            f"session {prefix}: several sessions begin so", hint="give more of the id"
        )
    ((gateway, session_id), (log, segments)) = found.popitem()
    is_readable = gateway not in unread
    return FoundSession(
        gateway,
        UUID(bytes=session_id),
        log,
        segments,
        (gateway, session_id) in live if is_readable else None,
        live.get((gateway, session_id), 0) if is_readable else None,
        spoilt,
    )


def _complain_if_purged(layout: Layout, gateway: str, prefix: str) -> None:
    """Return if no purge of this log lists a session that begins so.

    Raises:
        QuestionError: one does.
    """
    for entry in read_log(layout.log(gateway), []).entries():
        if entry["type"] != "purge_intent" or entry["what"] != "sessions":
            continue
        try:
            listed = canonical.decode(read_limited(layout.purge(entry["purge"]), MAX_LIST_BYTES))
            ids = [session["session_id"] for session in listed["sessions"]]
        except MALFORMED:
            continue  # what is wrong with it is for `verify` to say
        if any(str(identity).startswith(prefix) for identity in ids):
            raise QuestionError(
                f"session {prefix}: purged by {entry['purge']} ({entry['basis']})",
                hint=f"purges/{entry['purge']}.json lists what went with it",
            )


def _live_events(layout: Layout, gateway: str, sealed: set[UUID]) -> dict[bytes, int]:
    """Return how many events of each session the journals hold that no seal names."""
    counts: dict[bytes, int] = {}
    for segment in journal.in_order(layout, gateway):
        if segment in sealed:
            continue
        reader = journal.JournalReader(layout.journal(gateway, segment))
        for session in reader.header.sessions:
            counts.setdefault(session.session_id.bytes, 0)
        for entry in reader.read():
            counts[entry.session_id] = counts.get(entry.session_id, 0) + 1
    return counts
