"""One gateway's log and what it binds: signatures, grammar, epochs, files, the live tail."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

from agentaudit.archive import journal, known
from agentaudit.archive.entries import MEMBERS
from agentaudit.archive.files import open_regular, read_limited
from agentaudit.archive.keys import EPOCH_NAME, epoch_statement
from agentaudit.archive.layout import (
    TABLES,
    TILE_WIDTH,
    Layout,
    segment_path,
    tile_end,
)
from agentaudit.archive.log import Log, Tiles, bundle, decode_entry, read_log
from agentaudit.archive.merkle import Frontier, leaf_hash
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.purge import MAX_POLICY_BYTES
from agentaudit.archive.retention import parse_policy
from agentaudit.archive.sealed import require_sessions_as_sealed, sealed_segments
from agentaudit.archive.tracker import Tracker
from agentaudit.archive.verification import (
    MALFORMED,
    Exposure,
    Found,
    Progress,
    Verification,
    is_as_sealed,
    words,
)
from agentaudit.archive.verify_anchors import AnchorsCheck, Trust
from agentaudit.archive.verify_purges import PurgesCheck
from agentaudit.archive.verify_rows import RowsCheck
from agentaudit.errors import ArchiveError, TamperedError

_NEXT_EVENT = {"open_segment": "first_event", "stop": "next_event"}


UNSEALED: Final = "was begun and has neither journal nor seal"
"""Of a copy it is what has not ended yet; of an archive, what is lost."""


@dataclass(slots=True, kw_only=True)
class Scope:
    """What a pass over an archive was asked, and what its logs account for.

    Without `files` the logs alone are checked, and not the files that their seals name. `sealing`
    are the paths that a seal under way may have made, of journals that could be read;
    `unread_segments` those of which they could not.
    """

    layout: Layout
    keys: Sequence[Verifier]
    since: Checkpoint | None
    trust: Trust
    deep: bool
    progress: Progress
    found: Found
    files: bool = True
    signers: dict[str, str] = field(default_factory=dict)
    expected: set[str] = field(default_factory=set)
    sealing: set[str] = field(default_factory=set)
    unread_segments: set[UUID] = field(default_factory=set)


class LogCheck:
    """One pass over one gateway's log and what it binds."""

    def __init__(self, scope: Scope, result: Verification, gateway: str) -> None:
        self._scope = scope
        self._deep = scope.deep
        self._result = result
        self._found = scope.found
        self._layout = scope.layout
        self._gateway = gateway
        self._place = f"log/{gateway}"
        self._tracker = Tracker(gateway)
        self._rows = RowsCheck(scope.layout.root, self._tracker, scope.found)
        self._next_event_no = 0
        self._live_events = 0
        self._previous: str | None = None
        self._ticks: dict[str, dict[int, bytes]] = {}
        self._opened: dict[str, int] = {}
        self._events_since: list[tuple[int, int]] = []
        self._epoch: Verifier | None = None
        self._tree = Frontier()
        self._policy: str | None = None
        self._sealed: set[str] = set()
        self._records = False
        self._journals: dict[UUID, BinaryIO | None] = {}
        self._begun_meanwhile: set[UUID] = set()
        self._purges = PurgesCheck(scope.layout, gateway, scope.found, result.notes, scope.expected)

    def run(self) -> Log:
        """Check everything; return the log as it was read."""
        with ExitStack() as held:
            return self._run(held)

    def _run(self, held: ExitStack) -> Log:
        # Before the log: a gateway that records meanwhile must not get ahead of what was read.
        self._hold_journals(held)
        self._outside = AnchorsCheck(
            self._scope.trust, self._gateway, self._layout.log(self._gateway)
        )
        log = self._open_log()
        # And what was begun just before it was read.
        self._hold_journals(held, only_begun=True)
        self._check_tiles(log)
        self._check_outside(log)
        self._purges.begin()
        size = log.checkpoint.size
        for number, raw in enumerate(log.raw()):
            entry = decode_entry(number, raw)
            if entry["type"] == "seal":
                self._scope.progress(f"log of {self._gateway}", number, size)
            self._check_entry(number, entry)
            self._tree.append(leaf_hash(raw))
        self._require_epoch("checkpoint", log.note)
        self._result.anchors += self._outside.held(self._found)
        for path in self._outside.files:
            self._expect(path)
        self._check_live(log)
        self._purges.end(deep=self._deep)
        self._expose(log)
        return log

    # --- the log

    def _open_log(self) -> Log:
        folder = self._layout.log(self._gateway)
        vkey_path = self._layout.verifier_key(self._gateway)
        self._expect(vkey_path)
        inside = None
        try:
            text = read_limited(vkey_path, 1000).decode()
            inside = Verifier.parse(text)
            if text != f"{inside}\n":
                self._found("key", self._relative(vkey_path), "not the key's only form")
        except (OSError, UnicodeDecodeError, ArchiveError) as error:
            self._found("key", self._relative(vkey_path), words(error))
        keys = self._scope.keys
        candidates = [*keys, inside] if inside is not None and inside not in keys else [*keys]
        log = read_log(folder, candidates)
        self._expect(folder / "checkpoint")
        self._result.checkpoints[self._gateway] = log.checkpoint
        origin = log.checkpoint.origin
        outside = [v for v in log.signed_by if v in keys and v.name == origin]
        if not outside:
            if any(key.name == origin for key in keys):
                self._found(
                    "signature",
                    f"{self._place}/checkpoint",
                    f"not signed by the given key of {origin}",
                )
            elif inside is None or inside not in log.signed_by or inside.name != origin:
                self._found(
                    "signature",
                    f"{self._place}/checkpoint",
                    f"not signed by the key that the archive names for {origin}",
                )
            self._result.unknown_signers.append(self._gateway)
        signer = outside[0] if outside else inside
        self._scope.signers[self._gateway] = str(signer)
        if inside is not None and outside and inside not in outside:
            self._found(
                "key",
                self._relative(vkey_path),
                "another key than the one given",
            )
        self._signer = signer
        return log

    def _check_tiles(self, log: Log) -> None:
        """Hold every tile that lies there against what the entries hash to."""
        tiles = Tiles()
        changed: dict[str, bytes] = {}
        number = 0
        for chunk in log.chunks():
            for raw in chunk:
                self._purges.look_ahead(number, raw)
                number += 1
            changed = tiles.append(chunk)
            for relative, content in changed.items():
                is_full = ".p/" not in relative
                self._check_tile(relative, content, is_needed=is_full)
                self._check_partials(relative, content, chunk)
        for relative, content in changed.items():
            self._check_tile(relative, content, is_needed=True)

    def _check_tile(self, relative: str, content: bytes, *, is_needed: bool) -> None:
        path = self._layout.log(self._gateway) / relative
        self._expect(path)
        try:
            if read_limited(path, len(content)) != content:
                self._found("tile", f"{self._place}/{relative}", "not what the entries hash to")
        except FileNotFoundError:
            if is_needed:
                self._found("tile", f"{self._place}/{relative}", "missing")
        except (OSError, ArchiveError) as error:
            self._found("tile", f"{self._place}/{relative}", words(error))

    def _check_partials(self, relative: str, content: bytes, chunk: Sequence[bytes]) -> None:
        """Check what lies there of this tile's narrower days, of its bottom level alone.

        A tile of a level above grows by one hash a chunk, so each of its widths comes by itself.
        """
        stem, _, width_text = relative.partition(".p/")
        level = stem.split("/")[1]
        if level not in ("0", "entries"):
            return
        for path in (self._layout.log(self._gateway) / f"{stem}.p").glob("*"):
            earlier = f"{stem}.p/{path.name}"
            width = int(path.name) if tile_end(earlier) is not None else TILE_WIDTH
            if width < int(width_text or TILE_WIDTH):
                part = bundle(chunk[:width]) if level == "entries" else content[: 32 * width]
                self._check_tile(earlier, part, is_needed=False)

    def _check_outside(self, log: Log) -> None:
        """Hold the log against what was kept of it, or said of it, outside the archive."""
        origin, outside = log.checkpoint.origin, self._outside
        place = f"{self._place}/checkpoint"
        seen = known.recall(origin)
        is_trusted = self._gateway not in self._result.unknown_signers
        # A key given now outweighs one that was merely found in an archive before.
        if seen is not None and (seen.trusted or not is_trusted or seen.key == str(self._signer)):
            outside.claim("remembered checkpoint", seen.checkpoint)
            for found in known.key_contradictions(seen, str(self._signer)):
                self._found(found.check, place, found.seen, found.expected)
        if self._scope.since is not None and self._scope.since.origin == origin:
            outside.claim("given checkpoint", self._scope.since)
        self._result.anchors += outside.check(log, self._signer, self._found)
        if self._scope.trust.policy is not None and not outside.has_quorum:
            self._result.without_quorum.append(self._gateway)

    def _check_entry(self, number: int, entry: dict[str, Any]) -> None:
        """Check an entry where it stands, and all that it binds."""
        place, kind = f"{self._place} entry {number}", entry["type"]
        if (kind == "genesis") != (number == 0):
            self._found("log", place, f"a {kind} entry", "genesis first and only once")
        if kind not in MEMBERS:
            self._result.unread.append(f"{place}: {kind!r} is of a newer release")
        if kind in _NEXT_EVENT and entry[_NEXT_EVENT[kind]] != self._next_event_no:
            seen = f"a {kind} at event {entry[_NEXT_EVENT[kind]]}"
            self._found("log", place, seen, f"event {self._next_event_no}")
        scripted = self._result.scripted_clocks
        if entry.get("clock", "system") != "system" and self._gateway not in scripted:
            scripted.append(self._gateway)
        self._purges.take(number, entry)
        if kind == "genesis":
            self._check_genesis(entry, place)
        elif kind == "key_epoch":
            self._check_epoch(number, entry, place)
        elif kind == "policy":
            self._policy = entry["sha256"]
            self._check_policy(entry["sha256"])
        elif kind == "incident":
            self._result.notes.append(f"{place}: incident: {entry['what']}")
        elif kind == "recovery":
            closed = entry["sessions_closed"]
            cut = entry.get("cut_bytes", 0)
            self._result.notes.append(
                f"{place}: recovery after a crash: {closed} sessions closed, {cut} bytes of a "
                "torn write cut"
            )
        elif kind in ("start", "stop", "retire"):
            self._records = kind == "start"
        elif kind == "open_segment":
            self._opened[entry["segment"]] = number
        elif kind == "tick":
            root = bytes.fromhex(entry["root"])
            self._ticks.setdefault(entry["segment"], {})[entry["n"]] = root
        elif kind == "anchor":
            self._outside.take_time_stamp(number, entry, self._found)
        elif kind == "seal":
            if entry["policy"] != self._policy:
                self._found("policy", place, f"a seal under {entry['policy']}", str(self._policy))
            self._check_seal(number, entry)

    def _check_genesis(self, entry: dict[str, Any], place: str) -> None:
        expected = {
            "gateway": self._gateway,
            "origin": self._result.checkpoints[self._gateway].origin,
            "format": 1,
        }
        if self._signer is not None:
            expected["key"] = str(self._signer)
        for name, value in expected.items():
            if entry.get(name) != value:
                self._found("log", place, f"genesis names another {name}", str(value))
        self._epoch = Verifier.parse(entry["epoch_key"])
        name = f"{expected['origin']}/{EPOCH_NAME}"
        given = [key for key in self._scope.keys if key.name == name]
        if given and self._epoch not in given:
            self._found("epoch", place, "begins with another epoch key than the one given")

    def _check_epoch(self, number: int, entry: dict[str, Any], place: str) -> None:
        """Check that the epoch key before it signed this one, under the tree as it was here."""
        origin = self._result.checkpoints[self._gateway].origin
        statement = epoch_statement(origin, number, self._tree.root(), entry["key"])
        signature = base64.b64decode(entry["signature"], validate=True)
        if self._epoch is None or not self._epoch.accepts(statement, signature):
            self._found("epoch", place, "not signed by the epoch key before it")
        self._epoch = Verifier.parse(entry["key"])

    def _require_epoch(self, what: str, note: bytes) -> None:
        """Check that the epoch key in force here signed `note`."""
        if self._epoch is None or not open_note(note, [self._epoch]).signed_by:
            self._found(
                "epoch", f"{self._place}: {what}", "not signed by the epoch key of its time"
            )

    def _check_policy(self, digest: str) -> None:
        path = self._layout.policy(digest)
        self._expect(path)
        try:
            document = read_limited(path, MAX_POLICY_BYTES)
            if sha256(document).hexdigest() != digest:
                self._found("policy", self._relative(path), "not what its name says")
            parse_policy(document)
        except (OSError, ArchiveError) as error:
            self._found("policy", self._relative(path), words(error), "a file")

    # --- a segment

    def _check_seal(self, number: int, seal: dict[str, Any]) -> None:
        segment = UUID(seal["segment"])
        place = f"segment {segment}"
        if seal["first_event"] != self._next_event_no:
            self._found(
                "chain", place, f"begins at event {seal['first_event']}", str(self._next_event_no)
            )
        if seal["previous"] != self._previous:
            self._found("chain", place, f"follows {seal['previous']}", str(self._previous))
        self._next_event_no = seal["first_event"] + seal["n"]
        self._previous = seal["segment"]
        self._events_since.append((number, seal["n"]))
        self._sealed.add(seal["segment"])
        self._opened.pop(seal["segment"], None)
        result = self._result
        result.segments += 1
        result.events += seal["n"]
        result.sessions += seal["sessions_opened"]
        result.commands += seal["commands"]
        self._check_head(segment, seal, place)
        self._require_epoch(place, seal["head"].encode())
        ticks = self._ticks.pop(seal["segment"], {})
        if ticks and max(ticks) > seal["n"]:
            self._found("tick", place, f"sealed at {seal['n']} events", f"{max(ticks)} as ticked")
        if not self._scope.files:
            return
        still_open = len(self._tracker.sessions) if self._deep else None
        self._purges.seal(seal, place, still_open)
        purged = self._purges.of(seal["segment"])
        if purged is not None and purged.remains.is_gone:
            return
        files = seal["files"] if purged is None else purged.remains.files
        is_right = self._check_files(segment, seal, files)
        if is_right and self._deep and (purged is None or purged.is_readable):
            try:
                self._rows.check(seal, place, ticks, purged)
            except MemoryError as error:
                # What later rows are checked against is not known: the rest is checked fast.
                self._deep = False
                self._result.unread.append(f"{place} and the rows behind it: {words(error)}")
            except MALFORMED as error:
                self._found("rows", place, words(error))

    def _check_head(self, segment: UUID, seal: dict[str, Any], place: str) -> None:
        path = self._layout.head(segment)
        self._expect(path)
        note = seal["head"].encode()
        try:
            if read_limited(path, len(note)) != note:
                self._found("head", self._relative(path), "not the note that the seal holds")
        except (OSError, ArchiveError) as error:
            self._found("head", self._relative(path), words(error))
        expected = Checkpoint(
            f"{self._result.checkpoints[self._gateway].origin}/seg/{segment}",
            seal["n"],
            bytes.fromhex(seal["root"]),
        )
        try:
            opened = open_note(note, [] if self._signer is None else [self._signer])
            if Checkpoint.parse(opened.text) != expected or not opened.signed_by:
                self._found("head", place, "its head does not say what its seal says")
        except ArchiveError as error:
            self._found("head", place, str(error))

    def _check_files(
        self, segment: UUID, seal: dict[str, Any], files: Mapping[str, dict[str, Any]]
    ) -> bool:
        """Check size and digest of each file of a segment; say whether all are right."""
        right = True
        for table, file in files.items():
            path = segment_path(table, self._gateway, seal["first_at"], segment)
            if table not in TABLES or file["path"] != path:
                self._found("file", f"segment {segment}", f"its seal names {file['path']!r}", path)
                right = False
                continue
            target = self._layout.root / path
            self._expect(target)
            right = is_as_sealed(target, path, file, self._found) and right
        return right

    def _hold_journals(self, held: ExitStack, *, only_begun: bool = False) -> None:
        """Open the journals that are there: one that is sealed meanwhile can be read all the same.

        What `only_begun` adds counts where the log has begun it; else it came after the log.
        """
        layout = self._layout
        for segment in layout.journal_segments(self._gateway) - self._journals.keys():
            path = layout.journal(self._gateway, segment)
            try:
                self._journals[segment] = held.enter_context(open_regular(path))
            except FileNotFoundError:
                continue  # sealed since it was listed
            except PermissionError as error:
                self._journals[segment] = None
                self._result.unread.append(f"journal {segment}: {error.strerror}")
                self._scope.unread_segments.add(segment)
            except (OSError, ArchiveError) as error:
                self._journals[segment] = None
                self._found("journal", f"journal {segment}", words(error))
            if only_begun:
                self._begun_meanwhile.add(segment)
            self._expect(path)

    def _check_live(self, log: Log) -> None:
        """Read the journals: whole frames, dense, and no shorter than the last tick."""
        live = {
            segment: file
            for segment, file in self._journals.items()
            if str(segment) not in self._sealed
            and (segment not in self._begun_meanwhile or str(segment) in self._opened)
        }
        tracker = self._tracker if self._deep else Tracker(self._gateway)
        is_whole = self._deep
        for reader in self._readers(live):
            place = f"journal {reader.header.segment}"
            try:
                if reader.header.first_event_no != self._next_event_no:
                    self._found(
                        "chain",
                        place,
                        f"begins at event {reader.header.first_event_no}",
                        str(self._next_event_no),
                    )
                if not is_whole and reader.header.sessions:
                    segments = sealed_segments(self._gateway, log.entries())
                    require_sessions_as_sealed(self._layout.root, segments, reader.header.sessions)
                self._check_journal(reader, tracker, place, is_whole=is_whole)
            except MemoryError:
                raise
            except MALFORMED as error:
                self._found("journal", place, words(error))
            is_whole = True
        for segment_text, number in self._opened.items():
            if UUID(segment_text) not in live:
                self._found(
                    "journal",
                    f"{self._place} entry {number}",
                    f"segment {segment_text} {UNSEALED}",
                )
        for segment_text, ticks in self._ticks.items():
            if UUID(segment_text) not in live and segment_text not in self._opened:
                seen = f"ticked at {max(ticks)} events, and nothing there is held against that"
                self._found("tick", f"segment {segment_text}", seen)

    def _readers(self, live: Mapping[UUID, BinaryIO | None]) -> list[journal.JournalReader]:
        """Return a reader of each journal that may be read, in the order of their events."""
        readers = []
        for segment, file in live.items():
            if file is None:
                continue
            path = self._layout.journal(self._gateway, segment)
            try:
                readers.append(journal.JournalReader(path, file))
            except (ArchiveError, TamperedError) as error:
                self._found("journal", f"journal {segment}", str(error))
        return sorted(readers, key=lambda reader: reader.header.first_event_no)

    def _check_journal(
        self, reader: journal.JournalReader, tracker: Tracker, place: str, *, is_whole: bool
    ) -> None:
        """Hold a journal against its ticks, and its header where the tracker knows all sessions."""
        ticks = self._ticks.pop(str(reader.header.segment), {})
        sessions = reader.header.sessions
        if is_whole:
            for what in tracker.contradictions(sessions):
                self._found("journal", place, what)
        for session in sessions:
            if session.session_id.bytes not in tracker.sessions:
                tracker.resume(session)
        tree = Frontier()
        # Only whole sessions have a digest to complete, and a fast check has not seen them all.
        complete = self._deep
        for batch in reader.batches():
            if tree.size == 0:
                self._take_as_sealing(reader.header.segment, batch.observed_us(0))
            hashes = tracker.add_journaled(batch, complete=complete)
            begin = tree.size
            for size in tree.stops(memoryview(hashes.leaves), tuple(ticks)):
                if ticks.pop(size) != tree.root() and complete:
                    event_no = batch.event_no(size - begin - 1)
                    self._found(
                        "tick", f"{place} event {event_no}", "does not hash to the ticked root"
                    )
        reader.damage()
        if str(reader.header.segment) not in self._opened:
            self._check_unnamed(reader, place, events=tree.size)
        if ticks:
            self._found("tick", place, f"{tree.size} events", f"{max(ticks)} as ticked")
        self._next_event_no += tree.size
        self._live_events += tree.size
        self._result.live_events += tree.size

    def _check_unnamed(self, reader: journal.JournalReader, place: str, *, events: int) -> None:
        """Check that a gateway was recording that may have begun this journal after its last entry.

        One without events may have been removed since it was listed, as having none.
        """
        if self._records and events:
            self._result.notes.append(f"{place}: {events} events, and the log does not name it yet")
        elif not self._records and (events or reader.path.exists()):
            seen = "the log does not name it, and says that nothing was recording"
            self._found("journal", place, seen)

    def _take_as_sealing(self, segment: UUID, first_us: int) -> None:
        """Account for what a seal under way, or cut off by a crash, may have made by now."""
        paths = [segment_path(table, self._gateway, first_us, segment) for table in TABLES]
        self._scope.sealing.update(paths, [self._relative(self._layout.head(segment))])

    def _expose(self, log: Log) -> None:
        anchors = [each for each in self._result.anchors if each.gateway == self._gateway]
        best = max(enumerate(anchors), key=lambda each: (each[1].size, each[0]), default=None)
        anchor, size = ("none", 0) if best is None else (best[1].kind, best[1].size)
        events = sum(n for number, n in self._events_since if number >= size)
        self._result.exposure.append(
            Exposure(
                gateway=self._gateway,
                anchor=anchor,
                since_size=size,
                entries=log.checkpoint.size - size,
                events=events + self._live_events,
            )
        )

    def _expect(self, path: Path) -> None:
        self._scope.expected.add(self._relative(path))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._layout.root).as_posix()
