"""The log's side of witnessing: offer checkpoints, keep the last that was cosigned.

Witnesses are asked about one checkpoint at a time, all of them, so that their cosignatures come
together on one note; whoever is slow or away misses a round. What a witness has seen last is asked
of the witness itself, with 409, as the protocol has it; nothing about it is stored here.

Protocol: c2sp.org/tlog-witness
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agentaudit.archive.files import read_limited, replace
from agentaudit.archive.layout import COSIGNED, TRUST_POLICY
from agentaudit.archive.note import Checkpoint, Cosigner, Verifier, open_note, split_note
from agentaudit.archive.outside import Errand, Patience, Say, WitnessPeer, post
from agentaudit.archive.tile_hashes import TileHashes
from agentaudit.archive.tlog_policy import Policy, format_policy, parse_policy
from agentaudit.errors import ArchiveError, TamperedError

ROUND_S = 60.0
"""Between two checkpoints that are offered, if no segment is sealed meanwhile."""

PATIENCE_S = 30.0
"""How long a round waits for the slowest before another may begin."""

_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n\Z")
_TRIES = 3
_MAX_COSIGNED_BYTES = 100_000


@dataclass(slots=True)
class _Round:
    """One checkpoint, and the cosignatures that have come in for it, in the witnesses' order."""

    size: int
    note: bytes
    began_s: float
    lines: dict[int, str] = field(default_factory=dict)

    def cosigned(self) -> bytes:
        return self.note + "".join(line for _, line in sorted(self.lines.items())).encode()


@dataclass(frozen=True, slots=True)
class Cosigned:
    """That a witness has cosigned a log at `size`: its signature line, newline included."""

    size: int
    line: str


class _Witness:
    def __init__(self, peer: WitnessPeer, say: Say) -> None:
        self.peer = peer
        self.cosigner = Cosigner.parse(peer.key)
        self.patience = Patience("witness", peer.url, say)
        self.errand: Errand[Cosigned] = Errand("witness")
        self.seen_size = 0


class Witnessing:
    """Gets a log's checkpoints cosigned. All methods are the sealer's; none of them waits."""

    def __init__(self, folder: Path, log: Verifier, peers: Sequence[WitnessPeer], say: Say) -> None:
        """Know the log in `folder`, signed by the key `log`; write its `policy`."""
        self._folder = folder
        self._witnesses = [_Witness(peer, say) for peer in peers]
        text = format_policy([log], [(w.cosigner, w.peer.url) for w in self._witnesses])
        self._policy: Policy = parse_policy(text)
        path = folder / TRUST_POLICY
        if self._witnesses or path.exists():
            replace(path, text)
        self._round: _Round | None = None
        self._next_s = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether an answer is still to come."""
        return any(witness.errand.is_under_way for witness in self._witnesses)

    def hurry(self) -> None:
        """Let the next round begin as soon as it can: there is something worth witnessing."""
        self._next_s = 0.0

    def turn(self, size: int, note: bytes, now_s: float) -> bytes | None:
        """Go on; return a cosigned checkpoint that is to be kept, if there is a better one.

        `size` and `note` are the log's at this moment.
        """
        has_news = [witness for witness in self._witnesses if self._take(witness, now_s)]
        self._begin(size, note, now_s)
        return self._worth_keeping() if has_news else None

    def _take(self, witness: _Witness, now_s: float) -> bool:
        result = witness.errand.take()
        if result is None:
            return False
        if isinstance(result, Exception):
            is_grave = isinstance(result, TamperedError)
            witness.patience.failed(result, now_s, is_grave=is_grave)
            return False
        witness.patience.answered()
        witness.seen_size = result.size
        if self._round is None or witness.seen_size != self._round.size:
            return False  # too late: another round has begun
        self._round.lines[self._witnesses.index(witness)] = result.line
        return True

    def _begin(self, size: int, note: bytes, now_s: float) -> None:
        before = self._round
        if now_s < self._next_s or (before is not None and before.size == size):
            return
        if self.is_under_way and before is not None and now_s < before.began_s + PATIENCE_S:
            return
        ready = [
            witness
            for witness in self._witnesses
            if not witness.errand.is_under_way and witness.patience.allows(now_s)
        ]
        if not ready:
            return
        self._round = _Round(size, note, now_s)
        self._next_s = now_s + ROUND_S
        for witness in ready:
            hashes = TileHashes(self._folder, size)
            witness.errand.begin(
                partial(ask, witness.peer, witness.cosigner, note, hashes, witness.seen_size)
            )

    def _worth_keeping(self) -> bytes | None:
        """Return the round's note if it says more than what is kept: a quorum, or a larger size."""
        assert self._round is not None
        note = self._round.cosigned()
        if not self._meets_quorum(note):
            try:
                kept = (self._folder / COSIGNED).read_bytes()
            except OSError:
                kept = b""
            if kept and self._meets_quorum(kept):
                return None
        return note

    def _meets_quorum(self, note: bytes) -> bool:
        try:
            witnessed = self._policy.evaluate(note)
        except ArchiveError:
            return False
        return witnessed is not None and witnessed.time_s is not None


def ask(
    peer: WitnessPeer, cosigner: Cosigner, note: bytes, hashes: TileHashes, old_size: int
) -> Cosigned:
    """Return the cosignature of a witness on `note`, a checkpoint of the tree of `hashes`.

    `old_size` is what the witness is believed to have seen; if it has seen another, it says so.

    Raises:
        OSError: it cannot be reached.
        TamperedError: it has seen another history, or a later one, of this log.
        ArchiveError: it refuses, or does not answer as a witness does.
    """
    url = f"{peer.url.rstrip('/')}/add-checkpoint"
    for _ in range(_TRIES):
        proof = hashes.consistency_proof(old_size) if 0 < old_size < hashes.size else []
        body = encode_request(old_size, proof, note)
        reply = post(url, body, "text/plain; charset=utf-8", peer.ca_file)
        if reply.status == 200:
            return Cosigned(hashes.size, _cosignature(note, reply.body, cosigner))
        if reply.status == 422:
            raise TamperedError(
                f"this log does not follow from the {old_size} entries that it has cosigned",
                hint="somebody else writes this log with its key, or it was rolled back",
            )
        seen = _SIZE.match(reply.body)
        if reply.status != 409 or seen is None:
            raise ArchiveError(f"it answers {reply.status}")
        seen_size = int(seen[1])
        if seen_size > hashes.size:
            raise TamperedError(
                f"it has cosigned {seen_size} entries of this log, which has {hashes.size}",
                hint="the log was rolled back, or somebody else writes it with its key",
            )
        if seen_size == old_size:
            raise TamperedError(
                f"it has cosigned another root of this log's first {seen_size} entries",
                hint="somebody else writes this log with its key",
            )
        old_size = seen_size
    raise ArchiveError("it goes on while it is asked")


def encode_request(old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """Return the body that asks a witness to cosign `note`."""
    lines = [b"old %d\n" % old_size, *(base64.b64encode(value) + b"\n" for value in proof)]
    return b"".join([*lines, b"\n", note])


def _cosignature(note: bytes, body: bytes, cosigner: Cosigner) -> str:
    """Return the one line of a witness's answer that is a cosignature by `cosigner`."""
    text, _ = split_note(note)
    _, lines = split_note(text + b"\n" + body)
    for line in lines:
        signed = text + b"\n" + f"{line}\n".encode()
        if open_note(signed, [], [cosigner]).cosigned_by:
            return f"{line}\n"
    raise ArchiveError("it answers without a cosignature by its key")


def cosigned_checkpoint(folder: Path) -> tuple[bytes, Checkpoint] | None:
    """Return the cosigned checkpoint of the log in `folder`, or None; nothing is verified.

    Raises:
        ArchiveError: it is there and no checkpoint.
    """
    try:
        note = read_limited(folder / COSIGNED, _MAX_COSIGNED_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveError(f"log {folder.name}: cosigned: {error.strerror}") from error
    return note, Checkpoint.parse(open_note(note, []).text)
