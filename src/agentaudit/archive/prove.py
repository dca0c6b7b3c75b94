"""Proofs that leave the archive: one session, or one event, for somebody who has only a key.

A folder of standard `.tlog-proof` files beside what they prove: each event's leaf in its
segment's head, and each head's seal in the log's checkpoint. The tree of a segment is made once
for all events of the session. What a leaf merely commits to, text and payload, is disclosed beside
it with its salt, and can be left out without loss of proof.

Format: docs/formats/archive.md, "Proofs"
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from agentaudit.archive import canonical
from agentaudit.archive.files import PRIVATE_MODE, read_limited
from agentaudit.archive.find import FoundSession, find_session
from agentaudit.archive.layout import PROOF_TEXT, Layout, ProofLayout
from agentaudit.archive.log import contradictions, decode_entry
from agentaudit.archive.merkle import Frontier, WholeTree, inclusion_proofs, leaf_hash
from agentaudit.archive.note import MAX_NOTE_BYTES, Checkpoint, open_note
from agentaudit.archive.proof import Proof
from agentaudit.archive.sealed import Sealed, SegmentLeaves, SessionEvent
from agentaudit.archive.snapshot import check_format
from agentaudit.archive.verification import MALFORMED, words
from agentaudit.errors import AgentauditError, ArchiveError, QuestionError, TamperedError
from agentaudit.model import Kind

DISCLOSE = ("all", "text", "none")
"""What of the events' content a proof hands out: all of it, what a person reads, or nothing."""

# Payloads that we made as rows of tables, and that are no bytes of the wire.
_ROWS = frozenset(
    int(kind)
    for kind in (
        Kind.SESSION_OPEN,
        Kind.SESSION_CLOSE,
        Kind.COMMAND_END,
        Kind.DECISION,
        Kind.ACCESS,
        Kind.PURGE,
        Kind.LEGAL_HOLD,
    )
)
_PRIVATE_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is about to leave the archive; `seq` is None for all of the session."""

    gateway: str
    session_id: UUID
    seq: int | None
    disclose: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What was written to `folder`: `events` proofs of `session_id`.

    `is_whole` says that they prove the session complete, from its open to its close.
    `live_events` of it are not sealed yet, and so in no proof; None where the journal may not be
    read. `withheld` counts proven events of which something was purged and cannot be disclosed.
    """

    folder: Path
    gateway: str
    session_id: UUID
    events: int
    is_whole: bool
    live_events: int | None
    withheld: int


def prove(
    path: Path | str,
    session: UUID | str,
    *,
    seq: int | None = None,
    out: Path | str | None = None,
    disclose: str = "all",
    on_export: Callable[[Export], None] | None = None,
) -> Proven:
    """Write proofs of a session, or of its event `seq`, into a new folder `out`.

    Args:
        session: its id, or the unambiguous beginning of one.
        out: the folder; `<session id>.proof` or `<session id>-<seq>.proof` here unless given.
        disclose: `all` (text and payload of each event), `text` (what a person reads: texts, and
            the rows that were made of the session and its commands) or `none`.
        on_export: called before anything is written; what it raises keeps everything in.

    Raises:
        QuestionError: no such session, event or way to disclose; or `out` is there already.
        ArchiveError: nothing of it is sealed yet, or the archive cannot be read.
        TamperedError: what the archive holds does not hash to what was sealed.
    """
    if disclose not in DISCLOSE:
        raise QuestionError(f"disclose {disclose!r}: one of {', '.join(DISCLOSE)} expected")
    layout = Layout(Path(path))
    check_format(layout)
    found = find_session(layout, session)
    suffix = "" if seq is None else f"-{seq}"
    folder = Path(f"{found.session_id}{suffix}.proof" if out is None else out)
    if folder.exists() or folder.is_symlink():
        raise QuestionError(f"{folder}: is there already", hint="a proof needs a new folder")
    if not found.segments:
        raise ArchiveError(
            f"session {found.session_id}: not sealed yet, so nothing of it can be proven",
            hint="its segment is sealed when it is full or old enough (gateway.segment_age)",
        )
    if on_export is not None:
        on_export(
            Export(
                gateway=found.gateway,
                session_id=found.session_id,
                seq=seq,
                disclose=disclose,
                folder=folder,
            )
        )
    try:
        with _new_folder(folder) as temporary:
            writer = _Writer(layout, found, ProofLayout(temporary), disclose)
            return writer.write(seq, folder)
    except AgentauditError:
        raise
    except FileExistsError:
        raise QuestionError(f"{folder}: is there already") from None
    except MemoryError:
        raise
    except MALFORMED as error:
        raise ArchiveError(
            f"session {found.session_id}: {words(error)}",
            hint="`agentaudit verify --deep` says more",
        ) from error


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that gets its name once it is complete, and is removed if it never is."""
    temporary = folder.with_name(folder.name + ".tmp")
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary)
    temporary.mkdir(mode=_PRIVATE_FOLDER_MODE)
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _Writer:
    """Writes one folder of proofs."""

    def __init__(
        self, layout: Layout, found: FoundSession, files: ProofLayout, disclose: str
    ) -> None:
        self._layout = layout
        self._found = found
        self._files = files
        self._disclose = disclose
        self._withheld = 0
        self._events = 0
        self._last_kind = 0
        self._first_seq = 0

    def write(self, seq: int | None, folder: Path) -> Proven:
        """Write everything; return what it is, as lying in `folder`."""
        found = self._found
        note, checkpoint = _best_checkpoint(self._layout, found)
        entries = _entries_to_prove(found, checkpoint)
        hashes = map(leaf_hash, islice(found.log.raw(), checkpoint.size))
        root, proofs = inclusion_proofs(hashes, entries)
        if root != checkpoint.root:
            raise TamperedError(f"log/{found.gateway}: changed while it was read")
        with self._files.disclosure.open("xb") as disclosure:
            self._files.disclosure.chmod(PRIVATE_MODE)
            for sealed in found.segments:
                if not self._write_segment(sealed, seq, disclosure):
                    continue
                raw, _ = entries[sealed.number]
                _write(self._files.seal_leaf(sealed.segment), raw)
                proof = Proof(sealed.number, tuple(proofs[sealed.number]), note)
                _write(self._files.seal_proof(sealed.segment), proof.encode())
        if not self._events:
            raise QuestionError(
                f"session {found.session_id}: no sealed event {seq}",
                hint="seq counts a session's events from 0",
            )
        is_whole = seq is None and self._last_kind == Kind.SESSION_CLOSE
        _write(self._files.epochs, _epochs(entries, proofs))
        _write(
            self._files.claim,
            canonical.encode(
                {
                    "events": self._events,
                    "first_seq": self._first_seq,
                    "gateway": found.gateway,
                    "origin": checkpoint.origin,
                    "session_id": str(found.session_id),
                    "whole": is_whole,
                }
            ),
        )
        _write(self._files.marker, PROOF_TEXT)
        return Proven(
            folder=folder,
            gateway=found.gateway,
            session_id=found.session_id,
            events=self._events,
            is_whole=is_whole,
            live_events=found.live_events,
            withheld=self._withheld,
        )

    def _write_segment(self, sealed: Sealed, seq: int | None, disclosure: BufferedWriter) -> int:
        """Write what is asked for of one segment; return how many events that is."""
        sealed.require(self._layout.root, sealed.told)
        leaves = SegmentLeaves(self._layout.root, sealed)
        proven: list[tuple[int, int]] = []
        for event in leaves.read(self._found.session_id.bytes):
            if seq is None or event.entry.seq == seq:
                self._write_event(event, disclosure)
                proven.append((event.entry.seq, event.leaf_index))
        tree = WholeTree(leaves.hashes)
        if tree.root().hex() != sealed.seal["root"]:
            raise TamperedError(
                f"{sealed}: its leaves hash to {tree.root().hex()[:8]}…, "
                f"{sealed.seal['root'][:8]}… was sealed",
                hint="`agentaudit verify --deep` says more; keep a copy of the archive",
            )
        head = sealed.seal["head"].encode()
        for number, index in proven:
            proof = Proof(index, tuple(tree.inclusion_proof(index)), head)
            _write(self._files.proof(number), proof.encode())
        return len(proven)

    def _write_event(self, event: SessionEvent, disclosure: BufferedWriter) -> None:
        entry = event.entry
        if not self._events:
            self._first_seq = entry.seq
        self._events += 1
        self._last_kind = entry.kind
        _write(self._files.leaf(entry.seq), event.preimage)
        salts: dict[str, int | str] = {}
        content = (
            (self._files.text, "salt_t", entry.text, event.salt_t),
            (self._files.payload, "salt_p", entry.payload, event.salt_p),
        )
        for path, name, data, salt in content:
            if data is not None and salt is not None and self._is_disclosed(entry.kind, name):
                _write(path(entry.seq), data)
                salts[name] = salt.hex()
        if entry.payload is None and entry.stored_len:
            self._withheld += 1
        if salts:
            disclosure.write(canonical.encode({"seq": entry.seq, **salts}) + b"\n")

    def _is_disclosed(self, kind: int, salt: str) -> bool:
        if self._disclose == "all" or kind == Kind.SESSION_CLOSE:
            return True  # without its close no session is provably complete
        return self._disclose == "text" and (salt == "salt_t" or kind in _ROWS)


def _best_checkpoint(layout: Layout, found: FoundSession) -> tuple[bytes, Checkpoint]:
    """Return the log's checkpoint: with witnesses' signatures where that covers all seals."""
    log = found.log
    path = layout.cosigned(found.gateway)
    last = max(sealed.number for sealed in found.segments)
    if path.is_file():
        note = read_limited(path, MAX_NOTE_BYTES)
        cosigned = Checkpoint.parse(open_note(note, []).text)
        is_ours = cosigned.origin == log.checkpoint.origin
        if is_ours and last < cosigned.size and not contradictions(log, cosigned, path.name):
            return note, cosigned
    return log.note, log.checkpoint


def _entries_to_prove(
    found: FoundSession, checkpoint: Checkpoint
) -> dict[int, tuple[bytes, bytes | None]]:
    """Return by number the entries that a proof needs: the session's seals, and all of epochs.

    With each entry of the latter comes the root of the log before it.
    """
    seals = {sealed.number for sealed in found.segments}
    entries: dict[int, tuple[bytes, bytes | None]] = {}
    before = Frontier()
    for number, raw in enumerate(islice(found.log.raw(), checkpoint.size)):
        if number in seals:
            entries[number] = (raw, None)
        elif decode_entry(number, raw)["type"] in ("genesis", "key_epoch"):
            entries[number] = (raw, before.root())
        before.append(leaf_hash(raw))
    return entries


def _epochs(
    entries: dict[int, tuple[bytes, bytes | None]], proofs: dict[int, list[bytes]]
) -> bytes:
    """Return the chain of epoch keys: genesis and each `key_epoch`, shown to be in the log."""
    lines = []
    for number, (raw, root) in entries.items():
        if root is not None:
            line: dict[str, Any] = {
                "entry": raw.decode(),
                "index": number,
                "proof": [value.hex() for value in proofs[number]],
            }
            if number:
                line["root"] = root.hex()  # what the signature in the entry is over
            lines.append(canonical.encode(line) + b"\n")
    return b"".join(lines)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_MODE)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
