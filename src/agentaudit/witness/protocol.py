"""What a witness is asked and what it must answer, without I/O, clock or keys.

Protocol: c2sp.org/tlog-witness, "add-checkpoint"
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentaudit.archive.merkle import EMPTY_ROOT, HASH_BYTES, verifies_consistency
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.errors import ArchiveError

MAX_BODY_BYTES = 256 * 1024
"""Room for 16 signatures of any algorithm and 63 hashes."""

MAX_SIZE = 2**63 - 1
"""The largest tree that is remembered: a signed 64-bit integer, as in Go's packages."""

_MAX_PROOF = 63
_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint, and how it follows from the one of `old_size`."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes
    text: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Seen:
    """The largest checkpoint of a log that a witness has cosigned; `time_s` is when it last did."""

    size: int = 0
    root: bytes = EMPTY_ROOT
    time_s: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no cosignature: an HTTP status, words, and for 409 the size that was seen.

    `is_fork`: the log signed two trees of one size, and the note proves it.
    """

    status: int
    reason: str
    seen_size: int | None = None
    is_fork: bool = False


def parse_request(body: bytes) -> Request:
    """Return what the body of an add-checkpoint request asks.

    Raises:
        ArchiveError: not such a body.
    """
    head, separator, note = body.partition(b"\n\n")
    if not separator:
        raise ArchiveError("add-checkpoint: no empty line before the checkpoint")
    old_line, *proof_lines = head.split(b"\n")
    match = _OLD.match(old_line)
    if match is None:
        raise ArchiveError("add-checkpoint: its first line is not 'old' and a size")
    if len(proof_lines) > _MAX_PROOF:
        raise ArchiveError(f"add-checkpoint: {len(proof_lines)} hashes, at most {_MAX_PROOF}")
    proof = tuple(_hash(line) for line in proof_lines)
    text = open_note(note, []).text
    checkpoint = Checkpoint.parse(text, with_extensions=True)
    if max(int(match[1]), checkpoint.size) > MAX_SIZE:
        raise ArchiveError(f"add-checkpoint: a size beyond {MAX_SIZE}")
    return Request(int(match[1]), proof, note, text, checkpoint)


def _hash(line: bytes) -> bytes:
    try:
        value = base64.b64decode(line, validate=True)
    except binascii.Error:
        value = b""
    if len(value) != HASH_BYTES or base64.b64encode(value) != line:
        raise ArchiveError("add-checkpoint: a proof line is not a hash in base64")
    return value


def check_signature(request: Request, keys: Sequence[Verifier]) -> Refusal | None:
    """Return why the checkpoint is not one of a known log: `keys` are those of its origin."""
    if not keys:
        return Refusal(404, "this log is not known here")
    try:
        signed_by = open_note(request.note, keys).signed_by
    except ArchiveError:
        signed_by = ()
    return None if signed_by else Refusal(403, "no signature by a key that is known of this log")


def judge(request: Request, seen: Seen) -> Refusal | None:
    """Return why a checkpoint that its log has signed does not follow from what was seen."""
    old_size, checkpoint, proof = request.old_size, request.checkpoint, request.proof
    if old_size > checkpoint.size:
        return Refusal(400, "the old size is beyond the checkpoint's")
    if old_size != seen.size:
        return Refusal(409, "the old size is not the last that was cosigned", seen.size)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        return Refusal(422, "not the root of an empty tree")
    if old_size == checkpoint.size and checkpoint.root != seen.root:
        return Refusal(409, "another root was cosigned at this size", seen.size, is_fork=True)
    if old_size in (0, checkpoint.size):
        return Refusal(422, "a proof where none is needed") if proof else None
    follows = verifies_consistency(
        proof,
        old_size=old_size,
        old_root=seen.root,
        size=checkpoint.size,
        root=checkpoint.root,
    )
    return None if follows else Refusal(422, "the proof does not lead here from what was cosigned")
