"""Verification: starts from nothing, believes nothing that the archive says of itself.

A failed check is a finding, not an error; it names the place, what is there and what was signed.
`ok` is True only with a verifier key from outside: an archive that is consistent under the key
that lies beside it may have been rewritten together with that key.

What is promised, and against what: docs/limits.md
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive import canonical, journal, known
from agentaudit.archive.entries import MEMBERS
from agentaudit.archive.keys import EPOCH_NAME, epoch_statement
from agentaudit.archive.layout import (
    GATEWAY_NAME,
    TABLES,
    TILE_WIDTH,
    Layout,
    entries_path,
    segment_path,
    tile_end,
    tile_path,
)
from agentaudit.archive.log import Contradiction, Log, Tiles, bundle, contradictions, read_log
from agentaudit.archive.merkle import Frontier, leaf_hash, tree_root
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.segment import EventColumns, read_entries, table_of
from agentaudit.archive.snapshot import check_format
from agentaudit.archive.tracker import Tracked, Tracker
from agentaudit.errors import AgentauditError, ArchiveError, SettingsError, TamperedError
from agentaudit.model import Kind

Progress = Callable[[str, int, int], None]
_MALFORMED = (
    AgentauditError,
    pa.ArrowException,
    struct.error,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
_NEXT_EVENT = {"open_segment": "first_event", "stop": "next_event"}
_COMPARED_ROWS = 16_384
_COMPARED_BYTES = 32 << 20
_KEY_COLUMNS = ("key_m", "key_t", "key_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check that failed: which, where, what was seen and what was expected."""

    check: str
    place: str
    seen: str
    expected: str = ""

    def __str__(self) -> str:
        expected = f", {self.expected} expected" if self.expected else ""
        return f"{self.place}: {self.seen}{expected} [{self.check}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What of a log no anchor outside the archive covers yet.

    Whoever holds the signing key could rewrite just this without being caught by this check.
    `since_size` is the log's size at the anchor (0: none), `events` counts those sealed or
    journaled after it.
    """

    gateway: str
    anchor: str
    since_size: int
    entries: int
    events: int


@dataclass(slots=True)
class Verification:
    """The answer: True yes, False no, None could not tell."""

    ok: bool | None = None
    findings: list[Finding] = field(default_factory=list)
    exposure: list[Exposure] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    unknown_signers: list[str] = field(default_factory=list)
    deep: bool = False
    gateways: int = 0
    segments: int = 0
    events: int = 0
    sessions: int = 0
    commands: int = 0
    live_events: int = 0
    scripted_clocks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    path: Path | str,
    *,
    key: str | Sequence[str] | None = None,
    since: str | None = None,
    deep: bool = False,
    remember: bool = True,
    progress: Progress | None = None,
) -> Verification:
    """Check the archive at `path` against verifier keys and checkpoints from outside it.

    Fast: the log's consistency and signatures, and the digest of every file. `deep`: every leaf
    and root as well, the derived tables rebuilt from the events, and every column held against
    what it was denormalised from. Memory does not grow with the archive.

    Args:
        key: verifier keys (`name+hash+base64`, white space between them) that came from outside
            the archive: the log's, and its first epoch key, without which whoever holds the log
            key could have written everything anew.
        since: a checkpoint (signed note) that was kept outside, to hold the log against.
        remember: keep key and checkpoint in the user's state folder when nothing was found.
        progress: called with what is checked, how much of it is done, and how much there is.

    Raises:
        ArchiveError: there is no archive of this format, or a key or checkpoint is malformed.
        SettingsError: what this machine remembers of logs cannot be read.
    """
    layout = Layout(Path(path))
    if not layout.format_file.exists() and not layout.root.joinpath("log").is_dir():
        check_format(layout)
    texts = [key] if isinstance(key, str) else list(key or ())
    keys = [Verifier.parse(line) for text in texts for line in text.split()]
    for _ in range(3):
        check = _Check(layout, keys, since, deep, progress or (lambda *_: None))
        result = check.run()
        # A gateway that records meanwhile moves things: only findings at rest count.
        if not result.findings or check.is_unchanged():
            break
    if remember and not result.findings:
        for gateway, checkpoint in result.checkpoints.items():
            is_trusted = gateway not in result.unknown_signers
            known.remember(known.Known(check.signers[gateway], checkpoint, is_trusted))
    return result


class _Check:
    """One pass over one archive."""

    def __init__(
        self,
        layout: Layout,
        keys: Sequence[Verifier],
        since: str | None,
        deep: bool,
        progress: Progress,
    ) -> None:
        self.result = Verification(deep=deep)
        self.signers: dict[str, str] = {}
        self._layout = layout
        self._keys = keys
        self._since = None if since is None else _parse_since(since, keys)
        self._deep = deep
        self._progress = progress
        self._expected: set[str] = {"FORMAT"}
        self._live_segments: set[str] = set()
        self._journals: dict[str, set[UUID]] = {}

    def run(self) -> Verification:
        result, layout = self.result, self._layout
        try:
            check_format(layout)
        except ArchiveError as error:
            self._found("format", "FORMAT", str(error))
        gateways = layout.gateways()
        if not gateways:
            self._found("log", "log", "no gateway's log", "at least one")
        for gateway in gateways:
            result.gateways += 1
            self._journals[gateway] = layout.journal_segments(gateway)
            try:
                _GatewayCheck(self, gateway).run()
            except SettingsError:
                raise
            except _MALFORMED as error:
                # Signed or not, the archive may hold anything: what cannot be read is a finding.
                self._found("log", f"log/{gateway}", _words(error))
        self._find_strays()
        self._find_missing_logs()
        if result.findings:
            result.ok = False
        else:
            result.ok = None if result.unknown_signers or result.unread else True
        return result

    def is_unchanged(self) -> bool:
        """Whether nothing was recorded or sealed since this check began."""
        for gateway, checkpoint in self.result.checkpoints.items():
            try:
                log = read_log(self._layout.log(gateway), [])
            except ArchiveError:
                return True
            if log.checkpoint != checkpoint:
                return False
            if self._layout.journal_segments(gateway) != self._journals[gateway]:
                return False
        return True

    def _find_missing_logs(self) -> None:
        """Name each log that a key or checkpoint was given for and that is not there."""
        there = {checkpoint.origin for checkpoint in self.result.checkpoints.values()}
        given = {key.name.removesuffix(f"/{EPOCH_NAME}") for key in self._keys}
        if self._since is not None:
            given.add(self._since.origin)
        for origin in sorted(given - there):
            self._found("log", "log", "no log of this origin", origin)

    def _found(self, check: str, place: str, seen: str, expected: str = "") -> None:
        self.result.findings.append(Finding(check=check, place=place, seen=seen, expected=expected))

    def _find_strays(self) -> None:
        """Name every file that nothing accounts for.

        Passed over, because their content is never read as evidence: files in the making
        (`.tmp`), files of a segment that its journal still covers, tiles beyond the checkpoint,
        and a journal folder's `lock`, `reserve` and copies kept after an incident.
        """
        root = self._layout.root
        for folder, folders, files in os.walk(root):
            for path in (Path(folder) / name for name in (*folders, *files)):
                relative = path.relative_to(root).as_posix()
                if path.is_dir() and not path.is_symlink():
                    continue
                if path.is_symlink() or not path.is_file():
                    self._found("stray", relative, "not a regular file")
                elif relative not in self._expected and not self._is_harmless(relative):
                    self._found("stray", relative, "a file that no log entry accounts for")

    def _is_harmless(self, relative: str) -> bool:
        parts = relative.split("/")
        if parts[-1].endswith(".tmp"):
            return True
        if parts[0] == "journal" and len(parts) == 3:
            return parts[2] in ("lock", "reserve") or parts[2].endswith(".journal.incident")
        if parts[0] == "log" and len(parts) > 2 and GATEWAY_NAME.match(parts[1]):
            checkpoint = self.result.checkpoints.get(parts[1])
            end = tile_end("/".join(parts[2:]))
            return checkpoint is not None and end is not None and end > checkpoint.size
        return parts[-1].split(".")[0] in self._live_segments


class _GatewayCheck:
    """One pass over one gateway's log and what it binds."""

    def __init__(self, check: _Check, gateway: str) -> None:
        self._check = check
        self._result = check.result
        self._layout = check._layout
        self._gateway = gateway
        self._place = f"log/{gateway}"
        self._tracker = Tracker(gateway)
        self._next_event_no = 0
        self._previous: str | None = None
        self._ticks: dict[str, dict[int, bytes]] = {}
        self._opened: dict[str, int] = {}
        self._events_since: list[tuple[int, int]] = []
        self._epochs: list[tuple[int, Verifier]] = []

    def run(self) -> None:
        log = self._open_log()
        self._check_tiles(log)
        self._check_memory(log)
        entries = list(self._check_grammar(log))
        self._check_epochs(log, entries)
        self._gather_ticks(entries)
        seals = [(number, entry) for number, entry in enumerate(entries) if entry["type"] == "seal"]
        for done, (number, seal) in enumerate(seals):
            self._check._progress(f"segments of {self._gateway}", done, len(seals))
            self._check_seal(number, seal)
        self._check_live({seal["segment"] for _, seal in seals})
        self._expose(log)

    def _found(self, check: str, place: str, seen: str, expected: str = "") -> None:
        self._check._found(check, place, seen, expected)

    # --- the log

    def _open_log(self) -> Log:
        folder = self._layout.log(self._gateway)
        vkey_path = self._layout.verifier_key(self._gateway)
        self._expect(vkey_path)
        inside = None
        try:
            text = vkey_path.read_bytes()[:1000].decode()
            inside = Verifier.parse(text)
            if text != f"{inside}\n":
                self._found("key", self._relative(vkey_path), "not the key's only form")
        except (OSError, UnicodeDecodeError, ArchiveError) as error:
            self._found("key", self._relative(vkey_path), _words(error))
        keys = self._check._keys
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
        self._check.signers[self._gateway] = str(signer)
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
        folder = self._layout.log(self._gateway)
        required = Tiles().append(log.raw)
        levels = _levels([leaf_hash(entry) for entry in log.raw])
        for path in sorted(folder.glob("tile/**/*")):
            relative = path.relative_to(folder).as_posix()
            end = tile_end(relative)
            if not path.is_file() or end is None or end > log.checkpoint.size:
                continue
            expected = required.get(relative) or _tile(relative, log.raw, levels)
            self._expect(path)
            if path.read_bytes() != expected:
                self._found("tile", f"{self._place}/{relative}", "not what the entries hash to")
        for relative in required:
            if not (folder / relative).is_file():
                self._found("tile", f"{self._place}/{relative}", "missing")

    def _check_memory(self, log: Log) -> None:
        """Hold the log against what was seen of it before, outside the archive."""
        origin = log.checkpoint.origin
        anchors = []
        seen = known.recall(origin)
        is_trusted = self._gateway not in self._result.unknown_signers
        # A key given now outweighs one that was merely found in an archive before.
        if seen is not None and (seen.trusted or not is_trusted or seen.key == str(self._signer)):
            anchors.append(("remembered checkpoint", seen.checkpoint))
            for contradiction in known.key_contradictions(seen, str(self._signer)):
                self._contradicts(contradiction)
        if self._check._since is not None and self._check._since.origin == origin:
            anchors.append(("given checkpoint", self._check._since))
        self._anchor: tuple[str, int] = ("none", 0)
        for name, anchor in anchors:
            found = contradictions(log, anchor, name)
            for contradiction in found:
                self._contradicts(contradiction)
            if not found and anchor.size >= self._anchor[1]:
                self._anchor = (name, anchor.size)

    def _contradicts(self, contradiction: Contradiction) -> None:
        place = f"{self._place}/checkpoint"
        self._found(contradiction.check, place, contradiction.seen, contradiction.expected)

    def _check_grammar(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield the entries; find those that cannot stand where they stand."""
        next_event_no = 0
        for number, entry in enumerate(log.entries()):
            place, kind = f"{self._place} entry {number}", entry["type"]
            if (kind == "genesis") != (number == 0):
                self._found("log", place, f"a {kind} entry", "genesis first and only once")
            if kind == "genesis":
                self._check_genesis(entry, place)
            elif kind not in MEMBERS:
                self._result.unread.append(f"{place}: {kind!r} is of a newer release")
            elif kind == "policy":
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
            elif kind == "seal":
                next_event_no = entry["first_event"] + entry["n"]
            elif kind in _NEXT_EVENT and entry[_NEXT_EVENT[kind]] != next_event_no:
                seen = f"a {kind} at event {entry[_NEXT_EVENT[kind]]}"
                self._found("log", place, seen, f"event {next_event_no}")
            scripted = self._result.scripted_clocks
            if entry.get("clock", "system") != "system" and self._gateway not in scripted:
                scripted.append(self._gateway)
            yield entry

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

    def _check_epochs(self, log: Log, entries: Sequence[dict[str, Any]]) -> None:
        """Follow the epoch keys: each names the next, under the tree as it was at that size."""
        origin = log.checkpoint.origin
        tree = Frontier()
        for number, (raw, entry) in enumerate(zip(log.raw, entries, strict=True)):
            place = f"{self._place} entry {number}"
            if entry["type"] == "genesis":
                first = Verifier.parse(entry["epoch_key"])
                self._epochs.append((number, first))
                name = f"{origin}/{EPOCH_NAME}"
                given = [key for key in self._check._keys if key.name == name]
                if given and first not in given:
                    self._found("epoch", place, "begins with another epoch key than the one given")
            elif entry["type"] == "key_epoch":
                statement = epoch_statement(origin, number, tree.root(), entry["key"])
                signature = base64.b64decode(entry["signature"], validate=True)
                if not self._epochs or not self._epochs[-1][1].accepts(statement, signature):
                    self._found("epoch", place, "not signed by the epoch key before it")
                self._epochs.append((number, Verifier.parse(entry["key"])))
            tree.append(leaf_hash(raw))
        self._require_epoch("checkpoint", log.note, len(entries))

    def _require_epoch(self, what: str, note: bytes, number: int) -> None:
        """Check that the epoch key in force at entry `number` signed `note`."""
        known_keys = [key for since, key in self._epochs if since <= number]
        if not known_keys or not open_note(note, known_keys[-1:]).signed_by:
            self._found(
                "epoch", f"{self._place}: {what}", "not signed by the epoch key of its time"
            )

    def _check_policy(self, digest: str) -> None:
        path = self._layout.policy(digest)
        self._expect(path)
        try:
            if sha256(path.read_bytes()).hexdigest() != digest:
                self._found("policy", self._relative(path), "not what its name says")
        except OSError as error:
            self._found("policy", self._relative(path), str(error.strerror), "a file")

    def _gather_ticks(self, entries: Sequence[dict[str, Any]]) -> None:
        for number, entry in enumerate(entries):
            if entry["type"] == "open_segment":
                self._opened[entry["segment"]] = number
            elif entry["type"] == "tick":
                root = bytes.fromhex(entry["root"])
                self._ticks.setdefault(entry["segment"], {})[entry["n"]] = root

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
        result = self._result
        result.segments += 1
        result.events += seal["n"]
        result.sessions += seal["sessions_opened"]
        result.commands += seal["commands"]
        self._check_head(segment, seal, place)
        self._require_epoch(place, seal["head"].encode(), number)
        ticks = self._ticks.pop(seal["segment"], {})
        if ticks and max(ticks) > seal["n"]:
            self._found("tick", place, f"sealed at {seal['n']} events", f"{max(ticks)} as ticked")
        if self._check_files(segment, seal) and self._check._deep:
            try:
                self._check_rows(segment, seal, place, ticks)
            except _MALFORMED as error:
                self._found("rows", place, _words(error))

    def _check_head(self, segment: UUID, seal: dict[str, Any], place: str) -> None:
        path = self._layout.head(segment)
        self._expect(path)
        note = seal["head"].encode()
        try:
            if path.read_bytes() != note:
                self._found("head", self._relative(path), "not the note that the seal holds")
        except OSError as error:
            self._found("head", self._relative(path), str(error.strerror))
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

    def _check_files(self, segment: UUID, seal: dict[str, Any]) -> bool:
        """Check size and digest of each file that the seal names; say whether all are right."""
        right = True
        for table, file in seal["files"].items():
            path = segment_path(table, self._gateway, seal["first_at"], segment)
            if table not in TABLES or file["path"] != path:
                self._found("file", f"segment {segment}", f"its seal names {file['path']!r}", path)
                right = False
                continue
            target = self._layout.root / path
            self._expect(target)
            try:
                with target.open("rb") as opened:
                    digest = file_digest(opened, "sha256").hexdigest()
                    size = opened.tell()
            except OSError as error:
                self._found("file", path, str(error.strerror), "a file")
                right = False
                continue
            if digest != file["sha256"]:
                self._found(
                    "file", path, f"SHA-256 {digest[:8]}…", f"{file['sha256'][:8]}… as sealed"
                )
                right = False
            elif size != file["bytes"]:
                self._found("file", path, f"{size} bytes", f"{file['bytes']} as sealed")
        return right

    def _check_rows(
        self, segment: UUID, seal: dict[str, Any], place: str, ticks: dict[int, bytes]
    ) -> None:
        """Recompute leaves, roots, rows and columns of one segment from its events."""
        root, tracker = self._layout.root, self._tracker
        files = {table: root / file["path"] for table, file in seal["files"].items()}
        keys = _session_keys(files["sessions"])
        tracker.begin_segment()
        tree = Frontier()
        columns = EventColumns(self._gateway)
        stored = {table: _Rows(files.get(table)) for table in ("events", "blobs", "commands")}
        expected_no = seal["first_event"]
        first_us: int | None = None
        last_us = 0
        for entry, commit in read_entries(files["events"], files.get("blobs")):
            where = f"{place} row {expected_no - seal['first_event']}"
            if entry.event_no != expected_no:
                self._found("rows", where, f"event {entry.event_no}", f"event {expected_no}")
                return
            expected_no += 1
            if entry.kind == Kind.SESSION_OPEN:
                tracked = tracker.open(entry, keys[entry.session_id])
            else:
                tracked = tracker.session_of(entry)
                if entry.kind == Kind.SESSION_CLOSE:
                    self._check_close(entry.payload or b"{}", tracked, where)
            first_us = entry.observed_us if first_us is None else first_us
            last_us = max(last_us, entry.observed_us)
            hashed = tracker.add(entry, tracked)
            if commit is not None and commit != hashed.payload_commit:
                self._found("leaf", where, "payload_commit is not that of its payload")
            tree.append(hashed.leaf)
            if (tick := ticks.pop(tree.size, None)) and tree.root() != tick:
                self._found("tick", where, "does not hash to the root that was ticked here")
            columns.add(entry, tracked, hashed)
            if columns.rows >= _COMPARED_ROWS or columns.bytes >= _COMPARED_BYTES:
                self._compare_rows(columns, stored, place)
        self._compare_rows(columns, stored, place)
        for table, rows in stored.items():
            if rows.has_more:
                self._found("columns", place, f"{table} has rows that no event accounts for")
        if tree.size != seal["n"] or tree.root().hex() != seal["root"]:
            self._found(
                "leaf",
                place,
                f"{tree.size} events hash to {tree.root().hex()[:8]}…",
                f"{seal['n']} and {seal['root'][:8]}… as sealed",
            )
        if (first_us, last_us) != (seal["first_at"], seal["last_at"]):
            self._found("tables", place, "its seal says other times than its events")
        for table, path in files.items():
            rows = pq.read_metadata(path).num_rows
            if rows != seal["files"][table]["rows"]:
                self._found(
                    "tables", place, f"{table} has {rows} rows, its seal says another number"
                )
        self._check_tables(files, seal, place)

    def _compare_rows(self, columns: EventColumns, stored: dict[str, _Rows], place: str) -> None:
        """Hold what the events since the last call say against what is stored of them."""
        rebuilt = columns.take()
        rebuilt["commands"] = table_of("commands", self._tracker.take_commands())
        for table, expected in rebuilt.items():
            found = stored[table].take(expected.num_rows)
            if found is None:
                continue
            if found.column_names != expected.column_names:
                self._found("columns", place, f"{table} has other columns than the format")
                continue
            for name in expected.column_names:
                if not _equal(expected.column(name), found.column(name)):
                    self._found("columns", place, f"{table}.{name} is not what its events say")

    def _check_close(self, payload: bytes, tracked: Tracked, where: str) -> None:
        close, state = canonical.decode(payload), tracked.state
        if close.get("leaves_sha256") != tracked.leaves_digest.hexdigest():
            self._found("session", where, "session_close does not cover its session's leaves")
        counts = {
            "events": state.events + 1,
            "last_seq": state.events,
            "commands": state.commands,
            "bytes_in": state.bytes_in,
            "bytes_out": state.bytes_out,
            "masked": state.masked,
        }
        for name, count in counts.items():
            if close.get(name) != count:
                seen = f"session_close counts {close.get(name)} {name}"
                self._found("session", where, seen, str(count))

    def _check_tables(self, files: dict[str, Path], seal: dict[str, Any], place: str) -> None:
        tracker = self._tracker
        rebuilt = {
            "sessions": tracker.session_rows(),
            "decisions": tracker.decisions,
            "access": tracker.access,
        }
        for name, values in rebuilt.items():
            if name not in files:
                if values:
                    self._found("tables", place, f"no {name} file", f"{len(values)} rows")
                continue
            if not _equal_tables(table_of(name, values), pq.read_table(files[name])):
                self._found("tables", place, f"{name} is not what its events say")
        counts = {
            "sessions_opened": tracker.opened,
            "sessions_closed": tracker.closed,
            "sessions_open": len(tracker.sessions),
            "commands": tracker.ended,
            "decisions": len(tracker.decisions),
        }
        for name, count in counts.items():
            if seal[name] != count:
                self._found("tables", place, f"its seal counts {seal[name]} {name}", str(count))

    # --- the live tail

    def _check_live(self, sealed: set[str]) -> None:
        """Read the journals: whole frames, dense, and no shorter than the last tick."""
        layout = self._layout
        try:
            segments = journal.in_order(layout, self._gateway)
        except PermissionError as error:
            self._result.unread.append(f"journal/{self._gateway}: {error.strerror}")
            segments = sorted(layout.journal_segments(self._gateway))
        live = [segment for segment in segments if str(segment) not in sealed]
        for segment in layout.journal_segments(self._gateway):
            self._expect(layout.journal(self._gateway, segment))
        tracker = self._tracker if self._check._deep else Tracker(self._gateway)
        for segment in live:
            place = f"journal {segment}"
            self._check._live_segments.add(str(segment))
            try:
                reader = journal.JournalReader(layout.journal(self._gateway, segment))
                if reader.header.first_event_no != self._next_event_no:
                    self._found(
                        "chain",
                        place,
                        f"begins at event {reader.header.first_event_no}",
                        str(self._next_event_no),
                    )
                self._check_journal(reader, tracker, place)
            except PermissionError as error:
                self._result.unread.append(f"{place}: {error.strerror}")
            except (ArchiveError, TamperedError) as error:
                self._found("journal", place, str(error))
        for segment_text, number in self._opened.items():
            if segment_text not in sealed and UUID(segment_text) not in live:
                self._found(
                    "journal",
                    f"{self._place} entry {number}",
                    f"segment {segment_text} was begun and has neither journal nor seal",
                )

    def _check_journal(self, reader: journal.JournalReader, tracker: Tracker, place: str) -> None:
        ticks = self._ticks.pop(str(reader.header.segment), {})
        for session in reader.header.sessions:
            if session.session_id.bytes not in tracker.sessions:
                tracker.resume(session)
        tree = Frontier()
        # Only whole sessions have a digest to complete, and a fast check has not seen them all.
        complete = self._check._deep
        for entry in reader.read():
            tracked = tracker.of_journal(entry)
            if entry.kind == Kind.SESSION_CLOSE and complete:
                tracker.complete_close(tracked, entry)
            tree.append(tracker.add(entry, tracked).leaf)
            tick = ticks.pop(tree.size, None)
            if tick is not None and complete and tree.root() != tick:
                self._found(
                    "tick", f"{place} event {entry.event_no}", "does not hash to the ticked root"
                )
        reader.damage()
        if ticks:
            self._found("tick", place, f"{tree.size} events", f"{max(ticks)} as ticked")
        self._next_event_no += tree.size
        self._result.live_events += tree.size

    def _expose(self, log: Log) -> None:
        anchor, size = self._anchor
        events = sum(n for number, n in self._events_since if number >= size)
        self._result.exposure.append(
            Exposure(
                gateway=self._gateway,
                anchor=anchor,
                since_size=size,
                entries=log.checkpoint.size - size,
                events=events + self._result.live_events,
            )
        )

    def _expect(self, path: Path) -> None:
        self._check._expected.add(self._relative(path))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._layout.root).as_posix()


class _Rows:
    """The stored rows of a table, from the first on."""

    def __init__(self, path: Path | None) -> None:
        self._batches = iter(()) if path is None else _batches(path)
        self._ahead: pa.Table | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is a row that was not taken yet."""
        while self._ahead is None or not self._ahead.num_rows:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._ahead = pa.Table.from_batches([batch])
        return True

    def take(self, count: int) -> pa.Table | None:
        """Return the next `count` rows, None for none.

        Raises:
            TamperedError: there are not as many.
        """
        parts: list[pa.Table] = []
        while count > 0:
            if not self.has_more or self._ahead is None:
                raise TamperedError(f"{count} rows fewer than its events make")
            part = self._ahead.slice(0, count)
            self._ahead = self._ahead.slice(part.num_rows)
            parts.append(part)
            count -= part.num_rows
        return pa.concat_tables(parts) if parts else None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=16_384)


def _words(error: BaseException) -> str:
    """Return what a finding says of an error; a value's own text may be content."""
    if isinstance(error, AgentauditError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return f"malformed ({type(error).__name__})"


def _session_keys(path: Path) -> dict[bytes, dict[str, bytes]]:
    table = pq.read_table(path, columns=["session_id", *_KEY_COLUMNS])
    ids = [chunk.storage for chunk in table.column("session_id").chunks]
    session_ids = [value for chunk in ids for value in chunk.to_pylist()]
    keys = [table.column(name).to_pylist() for name in _KEY_COLUMNS]
    return {
        session_id: dict(zip(_KEY_COLUMNS, row, strict=True))
        for session_id, row in zip(session_ids, zip(*keys, strict=True), strict=True)
    }


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    if pa.types.is_dictionary(left.type):
        left, right = left.cast(pa.string()), right.cast(pa.string())
    return bool(left.combine_chunks().equals(right.combine_chunks()))


def _equal_tables(left: pa.Table, right: pa.Table) -> bool:
    return left.column_names == right.column_names and all(
        _equal(left.column(name), right.column(name)) for name in left.column_names
    )


def _levels(leaf_hashes: list[bytes]) -> list[list[bytes]]:
    """Return the hashes of tile level 0, 1, 2 …, of which tiles are cut."""
    levels = [leaf_hashes]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        whole = len(below) // TILE_WIDTH
        levels.append(
            [tree_root(below[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]) for i in range(whole)]
        )
    return levels


def _tile(relative: str, raw: Sequence[bytes], levels: list[list[bytes]]) -> bytes | None:
    """Return what a tile of this or an earlier size must hold, or None where none can lie there."""
    stem, _, width_text = relative.partition(".p/")
    width = int(width_text or TILE_WIDTH)
    level_name, digits = stem.split("/", 2)[1:]
    index = int(digits.replace("x", "").replace("/", ""))
    part = slice(index * TILE_WIDTH, index * TILE_WIDTH + width)
    if level_name == "entries":
        return bundle(raw[part]) if relative == entries_path(index, width) else None
    level = int(level_name)
    is_one = relative == tile_path(level, index, width) and level < len(levels)
    return b"".join(levels[level][part]) if is_one else None


def _parse_since(text: str, keys: Sequence[Verifier]) -> Checkpoint:
    """Return the checkpoint of a signed note that was kept outside the archive."""
    return Checkpoint.parse(open_note(text.encode(), keys).text)
