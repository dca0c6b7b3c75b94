"""Checks a folder of proofs offline: no archive, no log, nothing but keys from outside.

The folder is as hostile as an archive. What it claims is read first and decides only what must be
there; every file is opened by a name that is made here, never by one that was found.

Format: docs/formats/archive.md, "Proofs"; c2sp.org/tlog-proof
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from agentaudit.archive import canonical, known
from agentaudit.archive.entries import check_entry
from agentaudit.archive.files import open_regular, read_limited
from agentaudit.archive.journal import FIXED
from agentaudit.archive.keys import EPOCH_NAME, epoch_statement
from agentaudit.archive.layout import PROOF_TEXT, ProofLayout
from agentaudit.archive.leaves import ABSENT, LEAF_TAG
from agentaudit.archive.log import MAX_ENTRY_BYTES
from agentaudit.archive.merkle import leaf_hash
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.proof import MAX_PROOF_BYTES, Proof
from agentaudit.archive.verification import (
    MALFORMED,
    Anchor,
    Exposure,
    Finding,
    Progress,
    Verification,
    words,
)
from agentaudit.archive.verify_anchors import Trust
from agentaudit.errors import ArchiveError, SettingsError
from agentaudit.model import Kind

_LEAF_BYTES = len(LEAF_TAG) + FIXED.size + 16 + 3 * 32
_MAX_CONTENT_BYTES = 64 << 20
_MAX_CLOSE_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 18
_MAX_EPOCHS = 10_000
_MAX_FINDINGS = 1_000
_PROGRESS_EVENTS = 1_000
_EVENT_FILE = re.compile(r"(0|[1-9][0-9]{0,15})\.(leaf|tlog-proof|text|payload)\Z")
_MAX_INT = 2**53 - 1
_CLAIM = {"events", "first_seq", "gateway", "origin", "session_id", "whole"}


class _Enough(Exception):
    """So much is wrong that more would only fill memory."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the folder says that it proves."""

    gateway: str
    origin: str
    session_id: UUID
    first_seq: int
    events: int
    whole: bool

    @classmethod
    def parse(cls, data: bytes) -> _Claim:
        value = canonical.decode(data)
        if not isinstance(value, dict) or canonical.encode(value) != data:
            raise ArchiveError("proof.json: not canonical JSON of one object")
        if set(value) != _CLAIM or type(value["whole"]) is not bool:
            raise ArchiveError("proof.json: has other members than the format")
        texts = [value.get(name) for name in ("gateway", "origin", "session_id")]
        counts = [value.get(name) for name in ("first_seq", "events")]
        if not all(isinstance(text, str) for text in texts):
            raise ArchiveError("proof.json: gateway, origin and session_id must be texts")
        if not all(type(count) is int and 0 <= count <= _MAX_INT for count in counts):
            raise ArchiveError("proof.json: first_seq and events must be counts")
        gateway, origin, session_id = map(str, texts)
        first_seq, events = (int(count or 0) for count in counts)
        if not events:
            raise ArchiveError("proof.json: proves no event")
        return cls(gateway, origin, UUID(session_id), first_seq, events, value["whole"])

    def __str__(self) -> str:
        if self.whole:
            return f"session {self.session_id}"
        last = self.first_seq + self.events - 1
        which = f"event {last}" if self.events == 1 else f"events {self.first_seq} to {last}"
        return f"{which} of session {self.session_id}"


@dataclass(frozen=True, slots=True)
class _Seal:
    """A seal that was shown to be in the log, and the head that it holds."""

    number: int
    entry: dict[str, Any]
    note: bytes
    head: Checkpoint


def is_proof(path: Path) -> bool:
    """Say whether `path` is a folder of proofs."""
    return ProofLayout(path).marker.exists()


class ProofCheck:
    """One pass over one folder."""

    def __init__(
        self,
        path: Path,
        keys: Sequence[Verifier],
        since: Checkpoint | None,
        trust: Trust,
        progress: Progress,
    ) -> None:
        self.result = Verification(deep=True)
        self._files = ProofLayout(path)
        self._policy = trust.policy
        self._keys = keys if trust.policy is None else [*keys, *trust.policy.logs]
        self._since = since
        self._has_authorities = trust.authorities is not None
        self._progress = progress
        self._seals: dict[UUID, _Seal] = {}
        self._epochs: list[tuple[int, Verifier]] = []
        self._entries: list[tuple[bytes, Proof]] = []
        self._signer: Verifier | None = None
        self._checkpoint: tuple[bytes, Checkpoint] | None = None
        self._leaves = sha256()

    def run(self) -> Verification:
        """Check everything; what is wrong becomes a finding.

        Raises:
            ArchiveError: this is no folder of proofs of a format that is known.
            SettingsError: what this machine remembers of logs cannot be read.
        """
        result = self.result
        try:
            if read_limited(self._files.marker, 100) != PROOF_TEXT:
                raise ArchiveError(
                    f"{self._files.marker}: not {PROOF_TEXT!r}",
                    hint="a newer release may have made it",
                )
        except OSError as error:
            raise ArchiveError(f"{self._files.marker}: {error.strerror}") from error
        try:
            self._check()
        except SettingsError:
            raise
        except _Enough:
            result.notes.append(f"{_MAX_FINDINGS} findings: the rest was not looked at")
        except MemoryError as error:
            result.unread.append(words(error))
        except MALFORMED as error:
            self.result.findings.append(_finding("proof", ".", words(error)))
        if result.findings:
            result.ok = False
        else:
            unsure = result.unknown_signers or result.without_quorum or result.unread
            result.ok = None if unsure else True
        return result

    def _check(self) -> None:
        claim = _Claim.parse(read_limited(self._files.claim, 10_000))
        self.result.subject = str(claim)
        self.result.gateways = 1
        self._choose_signer(claim)
        self._check_events(claim)
        self._check_epochs()
        if not claim.whole:
            self.result.notes.append(
                "that the session has no other events is not claimed, and not proven"
            )
        self._check_memory(claim)
        self._find_strays(claim)
        if self._checkpoint is not None:
            self.result.checkpoints[claim.gateway] = self._checkpoint[1]

    def _found(self, check: str, place: str, seen: str, expected: str = "") -> None:
        self.result.findings.append(_finding(check, place, seen, expected))
        if len(self.result.findings) >= _MAX_FINDINGS:
            raise _Enough

    # --- who signed

    def _choose_signer(self, claim: _Claim) -> None:
        """Follow the epoch keys from genesis on, and settle on the key of the log."""
        lines = _lines(self._files.epochs)
        entry = self._epoch_entry(next(lines, {}), "genesis")
        if self._entries[0][1].index != 0:
            raise ArchiveError("epochs.jsonl: does not begin with the log's genesis")
        named = {"gateway": claim.gateway, "origin": claim.origin, "format": 1}
        for name, value in named.items():
            if entry[name] != value:
                self._found("log", "epochs.jsonl", f"genesis names another {name}", str(value))
        inside = Verifier.parse(entry["key"])
        given = [key for key in self._keys if key.name == claim.origin]
        if given and inside not in given:
            self._found(
                "signature", "epochs.jsonl", f"not signed by the given key of {inside.name}"
            )
        if not given:
            self.result.unknown_signers.append(claim.gateway)
        self._signer = inside if not given or inside in given else given[0]
        if inside.name != claim.origin:
            self._found("key", "epochs.jsonl", "the key of another log", claim.origin)
        first = Verifier.parse(entry["epoch_key"])
        expected = [key for key in self._keys if key.name == f"{claim.origin}/{EPOCH_NAME}"]
        if expected and first not in expected:
            self._found("epoch", "epochs.jsonl", "begins with another epoch key than the one given")
        self._epochs.append((0, first))
        for line in lines:
            self._follow_epoch(claim, line)

    def _follow_epoch(self, claim: _Claim, line: dict[str, Any]) -> None:
        entry = self._epoch_entry(line, "key_epoch")
        index = self._entries[-1][1].index
        before, key = self._epochs[-1]
        if index <= before or len(self._epochs) >= _MAX_EPOCHS:
            raise ArchiveError("epochs.jsonl: its entries are not in the log's order, or too many")
        statement = epoch_statement(claim.origin, index, bytes.fromhex(line["root"]), entry["key"])
        signature = base64.b64decode(entry["signature"], validate=True)
        if not key.accepts(statement, signature):
            self._found("epoch", f"epochs.jsonl entry {index}", "not signed by the key before it")
        self._epochs.append((index, Verifier.parse(entry["key"])))

    def _epoch_entry(self, line: dict[str, Any], kind: str) -> dict[str, Any]:
        index, text, hashes = line.get("index"), line.get("entry"), line.get("proof")
        if type(index) is not int or not isinstance(text, str) or not isinstance(hashes, list):
            raise ArchiveError(f"epochs.jsonl: no {kind} with its index and proof")
        raw = text.encode()
        entry: dict[str, Any] = canonical.decode(raw)
        check_entry(index, entry)
        if entry["type"] != kind or (kind == "genesis") != ("root" not in line):
            raise ArchiveError(f"epochs.jsonl: a {entry['type']} where a {kind} must stand")
        proof = Proof(index, tuple(bytes.fromhex(value) for value in hashes[:64]), b"")
        self._entries.append((leaf_hash(raw), proof))
        return entry

    def _check_epochs(self) -> None:
        """Check that the entries that named the epoch keys are in the log."""
        if self._checkpoint is None:
            return
        for leaf, proof in self._entries:
            if not proof.shows(leaf, self._checkpoint[1]):
                self._found("proof", f"epochs.jsonl entry {proof.index}", "not in the checkpoint")

    def _open(self, place: str, note: bytes, number: int) -> Checkpoint:
        """Return the checkpoint in `note`, which both keys of its time must have signed."""
        epoch = [key for since, key in self._epochs if since <= number][-1:]
        keys = [*epoch] if self._signer is None else [self._signer, *epoch]
        opened = open_note(note, keys)
        if self._signer not in opened.signed_by:
            self._found("signature", place, "not signed by the log's key")
        if not set(epoch) & set(opened.signed_by):
            self._found("epoch", place, "not signed by the epoch key of its time")
        return Checkpoint.parse(opened.text)

    # --- what is proven

    def _seal_of(self, claim: _Claim, note: bytes) -> _Seal:
        """Return the seal that holds the head `note`, once it is shown to be in the log.

        Raises:
            ArchiveError: it is not.
        """
        origin = note.partition(b"\n")[0].decode()
        prefix, _, segment_text = origin.rpartition("/seg/")
        if prefix != claim.origin:
            raise ArchiveError("its head is not one of this log's segments")
        segment = UUID(segment_text)
        if segment not in self._seals:
            self._seals[segment] = self._read_seal(claim, segment)
        seal = self._seals[segment]
        if seal.note != note:
            raise ArchiveError(f"its head is not the one that {segment} was sealed with")
        return seal

    def _read_seal(self, claim: _Claim, segment: UUID) -> _Seal:
        place = self._files.seal_proof(segment).name
        raw = read_limited(self._files.seal_leaf(segment), MAX_ENTRY_BYTES)
        proof = Proof.parse(read_limited(self._files.seal_proof(segment), MAX_PROOF_BYTES))
        if self._checkpoint is None:
            size = Checkpoint.parse(open_note(proof.note, []).text).size
            checkpoint = self._open(place, proof.note, size - 1)
            self._checkpoint = (proof.note, checkpoint)
            if checkpoint.origin != claim.origin:
                self._found("signature", place, "a checkpoint of another log", claim.origin)
        if proof.note != self._checkpoint[0]:
            raise ArchiveError(f"{place}: another checkpoint than the other seals'")
        if not proof.shows(leaf_hash(raw), self._checkpoint[1]):
            self._found("proof", place, "its seal is not in the log's checkpoint")
        entry = canonical.decode(raw)
        check_entry(proof.index, entry)
        if entry["type"] != "seal" or entry["segment"] != str(segment):
            raise ArchiveError(f"{place}: not the seal of this segment")
        head = self._open(f"{place}: head", entry["head"].encode(), proof.index)
        if head != Checkpoint(
            f"{claim.origin}/seg/{segment}", entry["n"], bytes.fromhex(entry["root"])
        ):
            self._found("head", place, "its head does not say what its seal says")
        self.result.segments += 1
        return _Seal(proof.index, entry, entry["head"].encode(), head)

    def _check_events(self, claim: _Claim) -> None:
        disclosed = _Disclosure(_lines(self._files.disclosure))
        event_no = -1
        close: bytes | None = None
        for seq in range(claim.first_seq, claim.first_seq + claim.events):
            place = self._files.leaf(seq).name
            if self.result.events % _PROGRESS_EVENTS == 0:
                self._progress("events", self.result.events, claim.events)
            try:
                preimage = read_limited(self._files.leaf(seq), _LEAF_BYTES)
                proof = Proof.parse(read_limited(self._files.proof(seq), MAX_PROOF_BYTES))
            except OSError as error:
                self._found("proof", place, words(error), f"{claim.events} events as claimed")
                return
            if len(preimage) != _LEAF_BYTES or not preimage.startswith(LEAF_TAG):
                raise ArchiveError(f"{place}: not a leaf of an event")
            before = event_no
            event_no, _, _, session_id, leaf_seq, _, kind, *_ = FIXED.unpack_from(
                preimage, len(LEAF_TAG)
            )
            seal = self._seal_of(claim, proof.note)
            leaf = leaf_hash(preimage)
            if not proof.shows(leaf, seal.head):
                self._found("proof", place, "not in the head of its segment")
            if proof.index != event_no - seal.entry["first_event"]:
                self._found("leaf", place, f"event {event_no} is not leaf {proof.index} there")
            if session_id != claim.session_id.bytes or leaf_seq != seq:
                self._found("session", place, "another session's event, or another seq")
            if event_no <= before:
                self._found("session", place, f"event {event_no} after event {before}")
            is_last = seq == claim.first_seq + claim.events - 1
            if (kind == Kind.SESSION_OPEN) != (seq == 0):
                self._found("session", place, "session_open is a session's first event, no other")
            if kind == Kind.SESSION_CLOSE and not is_last:
                self._found("session", place, "an event after session_close")
            self._check_content(disclosed, seq, preimage)
            self.result.events += 1
            if kind == Kind.SESSION_CLOSE and is_last:
                close = self._read_close(seq)
            else:
                self._leaves.update(leaf)
        for seq in disclosed.rest():
            self._found("disclosure", "disclosure.jsonl", f"salts of seq {seq}, which is not here")
        if claim.whole:
            self._check_whole(claim, close)

    def _read_close(self, seq: int) -> bytes | None:
        try:
            return read_limited(self._files.payload(seq), _MAX_CLOSE_BYTES)
        except OSError:
            return None

    def _check_whole(self, claim: _Claim, close: bytes | None) -> None:
        if claim.first_seq != 0 or close is None:
            self._found(
                "session",
                f"session {claim.session_id}",
                "claimed to be whole",
                "every event from seq 0 to a disclosed session_close",
            )
            return
        said = canonical.decode(close)
        expected = {
            "leaves_sha256": self._leaves.hexdigest(),
            "events": claim.events,
            "last_seq": claim.events - 1,
        }
        for name, value in expected.items():
            if said.get(name) != value:
                place = self._files.payload(claim.events - 1).name
                self._found("session", place, f"session_close has another {name}", str(value))
        self.result.sessions = 1

    def _check_content(self, disclosed: _Disclosure, seq: int, preimage: bytes) -> None:
        """Hold what is disclosed of an event against what its leaf commits to."""
        salts = disclosed.of(seq)
        commits = {"salt_t": preimage[-96:-64], "salt_p": preimage[-64:-32]}
        paths = {"salt_t": self._files.text(seq), "salt_p": self._files.payload(seq)}
        tags = {"salt_t": b"AA1t", "salt_p": b"AA1p"}
        for name, path in paths.items():
            if name not in salts:
                if os.path.lexists(path):
                    self._found("disclosure", path.name, "no salt to check it by")
                continue
            try:
                digest = _digest(path, tags[name] + salts[name])
            except (OSError, ArchiveError) as error:
                self._found("disclosure", path.name, words(error))
                continue
            if digest != commits[name] or commits[name] == ABSENT:
                self._found("disclosure", path.name, "not what its leaf commits to")

    # --- what else there is

    def _check_memory(self, claim: _Claim) -> None:
        """Hold the checkpoint against those of the same log that are known from elsewhere."""
        if self._checkpoint is None:
            return
        checkpoint = self._checkpoint[1]
        anchors = []
        seen = known.recall(claim.origin)
        is_trusted = not self.result.unknown_signers
        if seen is not None and (seen.trusted or not is_trusted or seen.key == str(self._signer)):
            anchors.append(("remembered checkpoint", seen.checkpoint))
            for contradiction in known.key_contradictions(seen, str(self._signer)):
                self._found(
                    contradiction.check, "epochs.jsonl", contradiction.seen, contradiction.expected
                )
        if self._since is not None and self._since.origin == claim.origin:
            anchors.append(("given checkpoint", self._since))
        elif self._since is not None:
            self._found("log", self._files.claim.name, "no log of this origin", self._since.origin)
        if self._has_authorities:
            self.result.notes.append("not compared: a folder of proofs has no time stamps")
        covered = "none"
        for name, anchor in anchors:
            if anchor.size != checkpoint.size:
                # A proof alone cannot tell how two sizes of a log fit together.
                self.result.notes.append(
                    f"not compared: the {name} has {anchor.size} entries, that of the proof "
                    f"{checkpoint.size}"
                )
                continue
            covered = name
            if anchor.root != checkpoint.root:
                seen_root = f"root {checkpoint.root.hex()[:8]}…"
                self._found(
                    "fork", "checkpoint", seen_root, f"{anchor.root.hex()[:8]}… of the {name}"
                )
            else:
                self.result.anchors.append(
                    Anchor(gateway=claim.gateway, kind=name, size=checkpoint.size)
                )
        if self._ask_witnesses(claim, *self._checkpoint):
            covered = "witnessed checkpoint"
        self.result.exposure.append(
            Exposure(
                gateway=claim.gateway,
                anchor=covered,
                since_size=0 if covered == "none" else checkpoint.size,
                entries=checkpoint.size if covered == "none" else 0,
                events=self.result.events if covered == "none" else 0,
            )
        )

    def _ask_witnesses(self, claim: _Claim, note: bytes, checkpoint: Checkpoint) -> bool:
        """Say whether a quorum of the policy's witnesses, if there is one, cosigned this."""
        if self._policy is None:
            return False
        try:
            witnessed = self._policy.evaluate(note, [] if self._signer is None else [self._signer])
        except ArchiveError as error:
            self._found("witness", "checkpoint", str(error))
            return False
        if witnessed is None or (self._policy.needs_witnesses and witnessed.time_s is None):
            self.result.without_quorum.append(claim.gateway)
            return False
        if not self._policy.needs_witnesses:
            return False
        self.result.anchors.append(
            Anchor(
                gateway=claim.gateway,
                kind="witnessed checkpoint",
                size=checkpoint.size,
                at_s=witnessed.time_s,
                by=witnessed.names,
            )
        )
        return True

    def _find_strays(self, claim: _Claim) -> None:
        """Name every file that nothing above has checked."""
        files = self._files
        fixed = (files.marker, files.claim, files.epochs, files.disclosure)
        expected = {path.name for path in fixed}
        for segment in self._seals:
            expected |= {files.seal_leaf(segment).name, files.seal_proof(segment).name}
        with os.scandir(files.root) as entries:
            for entry in entries:
                match = _EVENT_FILE.match(entry.name)
                seq = -1 if match is None else int(match[1]) - claim.first_seq
                if entry.name not in expected and not 0 <= seq < claim.events:
                    self._found("stray", entry.name, "a file that the proof does not account for")


class _Disclosure:
    """The salts of what is disclosed, event by event, read along."""

    def __init__(self, lines: Iterator[dict[str, Any]]) -> None:
        self._lines = lines
        self._ahead: dict[str, Any] | None = None

    def of(self, seq: int) -> dict[str, bytes]:
        """Return the salts of event `seq`, by name; events must be asked for in order."""
        line = self._peek()
        if line is None or line["seq"] != seq:
            return {}
        self._ahead = None
        names = [name for name in ("salt_t", "salt_p") if name in line]
        salts: dict[str, bytes] = {name: bytes.fromhex(line[name]) for name in names}
        if not salts or any(len(salt) != 16 for salt in salts.values()):
            raise ArchiveError(f"disclosure.jsonl: seq {seq} without salts of 16 bytes")
        return salts

    def rest(self) -> Iterator[int]:
        """Yield the seq of each line that was for none of the events."""
        while (line := self._peek()) is not None:
            yield line["seq"]
            self._ahead = None

    def _peek(self) -> dict[str, Any] | None:
        if self._ahead is None:
            self._ahead = next(self._lines, None)
            if self._ahead is not None and type(self._ahead.get("seq")) is not int:
                raise ArchiveError("disclosure.jsonl: a line without a seq")
        return self._ahead


def _finding(check: str, place: str, seen: str, expected: str = "") -> Finding:
    return Finding(check=check, place=place, seen=seen, expected=expected)


def _digest(path: Path, prefix: bytes) -> bytes:
    """Return SHA-256(prefix ‖ content) of a file whose length is limited and not held."""
    digest = sha256(prefix)
    length = 0
    with open_regular(path) as file:
        while data := file.read(1 << 20):
            length += len(data)
            if length > _MAX_CONTENT_BYTES:
                raise ArchiveError(f"{path.name}: more than {_MAX_CONTENT_BYTES} bytes")
            digest.update(data)
    return digest.digest()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one canonical JSON object a line."""
    with open_regular(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
            value = canonical.decode(line)
            if not isinstance(value, dict) or canonical.encode(value) + b"\n" != line:
                raise ArchiveError(f"{path.name}: a line that is not canonical JSON of an object")
            yield value
