"""What outside says of a log: remembered and given checkpoints, witnesses, time stamps.

Each of them fixes the log as it was at some size; the largest one bounds what is still exposed. A
cosigned checkpoint or a time stamp lies inside the archive and is worth something all the same,
because its signature is somebody else's: only with that somebody's key from outside does it count.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentaudit.archive.anchors import Authorities
from agentaudit.archive.files import read_limited
from agentaudit.archive.layout import COSIGNED, TRUST_POLICY, anchor_path
from agentaudit.archive.log import Log
from agentaudit.archive.merkle import Frontier, leaf_hash
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.tlog_policy import Policy, parse_policy
from agentaudit.archive.verification import Anchor, Found, words
from agentaudit.archive.witnessing import cosigned_checkpoint
from agentaudit.errors import ArchiveError

_MAX_TOKEN_BYTES = 64 * 1024
_MAX_POLICY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose word counts, all of it from outside the archive.

    `since_note` is the checkpoint that was given, whole, with whatever signatures it has.
    """

    policy: Policy | None = None
    authorities: Authorities | None = None
    since_note: bytes | None = None


class AnchorsCheck:
    """Holds one log against everything that outside says of it."""

    def __init__(self, trust: Trust, gateway: str, folder: Path) -> None:
        """Begin with what witnesses have cosigned, which must be read before the log is."""
        self._trust = trust
        self._gateway = gateway
        self._folder = folder
        self._place = f"log/{gateway}"
        self._claims: list[tuple[str, str, Checkpoint, Anchor | None]] = []
        self._kept: tuple[bytes, Checkpoint] | ArchiveError | None
        try:
            self._kept = cosigned_checkpoint(folder)
        except ArchiveError as error:
            self._kept = error
        self._log: Log
        self._signer: Verifier | None
        self.files: list[Path] = []
        """What lies in the log's folder because of this, and is accounted for."""
        self.has_quorum = False

    def claim(self, kind: str, checkpoint: Checkpoint) -> None:
        """Take in a checkpoint that somebody kept outside."""
        anchor = Anchor(gateway=self._gateway, kind=kind, size=checkpoint.size)
        self._claims.append((f"{self._place}/checkpoint", kind, checkpoint, anchor))

    def check(self, log: Log, signer: Verifier | None, found: Found) -> list[Anchor]:
        """Return the anchors that `log`, which `signer` has signed, goes with.

        What it contradicts is found.
        """
        self._log, self._signer = log, signer
        self._take_policy(found)
        self._take_cosigned(found)
        return self.held(found)

    def held(self, found: Found) -> list[Anchor]:
        """As `check`, of what was taken in since then."""
        claims, self._claims = self._claims, []
        roots = self._roots({checkpoint.size for _, _, checkpoint, _ in claims})
        anchors = []
        for place, name, checkpoint, anchor in claims:
            root = roots.get(checkpoint.size)
            if root is None:
                seen = f"{self._log.checkpoint.size} entries"
                found("rollback", place, seen, f"at least the {checkpoint.size} of the {name}")
            elif root != checkpoint.root:
                seen = f"the first {checkpoint.size} entries hash to {root.hex()[:8]}…"
                found("fork", place, seen, f"{checkpoint.root.hex()[:8]}… of the {name}")
            elif anchor is not None:
                anchors.append(anchor)
        return anchors

    def _roots(self, sizes: set[int]) -> dict[int, bytes]:
        """Return the log's root at each of `sizes` that it has."""
        tree = Frontier()
        roots = {0: tree.root()} if 0 in sizes else {}
        if not sizes:
            return roots
        for raw in self._log.raw():
            tree.append(leaf_hash(raw))
            if tree.size in sizes:
                roots[tree.size] = tree.root()
        return roots

    # --- witnesses

    def _take_policy(self, found: Found) -> None:
        """Account for the operator's own policy: it is read, and nothing rests on it."""
        path = self._folder / TRUST_POLICY
        try:
            logs = parse_policy(read_limited(path, _MAX_POLICY_BYTES)).logs
        except FileNotFoundError:
            return
        except (OSError, ArchiveError) as error:
            self.files.append(path)
            found("witness", f"{self._place}/{TRUST_POLICY}", words(error))
            return
        self.files.append(path)
        if self._signer is not None and logs != (self._signer,):
            found("witness", f"{self._place}/{TRUST_POLICY}", "for another log than this one")

    def _take_cosigned(self, found: Found) -> None:
        """Take in what witnesses say of checkpoints that lie here or were given."""
        origin = self._log.checkpoint.origin
        notes = [(f"{self._place}/checkpoint", self._log.note)]
        if self._kept is not None:
            self.files.append(self._folder / COSIGNED)
        if isinstance(self._kept, ArchiveError):
            found("witness", f"{self._place}/{COSIGNED}", str(self._kept))
        elif self._kept is not None:
            self._take_kept(*self._kept, found)
            notes.append((f"{self._place}/{COSIGNED}", self._kept[0]))
        if self._trust.since_note is not None:
            notes.append((f"given checkpoint of {origin}", self._trust.since_note))
        if self._trust.policy is not None:
            for place, note in notes:
                self._evaluate(self._trust.policy, place, note, found)

    def _take_kept(self, note: bytes, checkpoint: Checkpoint, found: Found) -> None:
        """Hold the log against the checkpoint that it says was cosigned: it must be its own."""
        place = f"{self._place}/{COSIGNED}"
        try:
            signed = open_note(note, [] if self._signer is None else [self._signer])
        except ArchiveError as error:
            found("witness", place, str(error))
            return
        if not signed.signed_by or checkpoint.origin != self._log.checkpoint.origin:
            found("witness", place, "not a checkpoint that this log's key has signed")
        else:
            # The log's own word for an earlier or later state of it: it must hold, and anchors
            # nothing, unless witnesses that are trusted have signed it too.
            self._claims.append((place, "cosigned checkpoint", checkpoint, None))

    def _evaluate(self, policy: Policy, place: str, note: bytes, found: Found) -> None:
        logs = [] if self._signer is None else [self._signer]
        try:
            witnessed = policy.evaluate(note, logs)
        except ArchiveError as error:
            found("witness", place, str(error))
            return
        if witnessed is None or witnessed.checkpoint.origin != self._log.checkpoint.origin:
            return
        if not policy.needs_witnesses:
            self.has_quorum = True
            return
        if witnessed.time_s is None:
            return
        self.has_quorum = True
        kind = "witnessed checkpoint"
        anchor = Anchor(
            gateway=self._gateway,
            kind=kind,
            size=witnessed.checkpoint.size,
            at_s=witnessed.time_s,
            by=witnessed.names,
        )
        if all(anchor != claimed for *_, claimed in self._claims):
            self._claims.append((place, kind, witnessed.checkpoint, anchor))

    # --- time stamps

    def take_time_stamp(self, number: int, entry: dict[str, Any], found: Found) -> None:
        """Take in the token that an `anchor` entry names; with authorities given, verify it."""
        size, relative = entry["size"], anchor_path(entry["size"])
        path, place = self._folder / relative, f"{self._place}/{relative}"
        where = f"{self._place} entry {number}"
        if size > number or path in self.files:
            found("anchor", where, f"anchors {size} entries", "what was there, and once")
            return
        self.files.append(path)
        checkpoint = Checkpoint(self._log.checkpoint.origin, size, bytes.fromhex(entry["root"]))
        anchor = None
        try:
            token = read_limited(path, _MAX_TOKEN_BYTES)
            if sha256(token).hexdigest() != entry["sha256"]:
                found("anchor", place, "not the token that the log names")
                return
            if self._trust.authorities is not None:
                at_s = self._trust.authorities.check(token, checkpoint.text().encode())
                anchor = Anchor(
                    gateway=self._gateway,
                    kind="time-stamped checkpoint",
                    size=size,
                    at_s=at_s,
                    by=(entry["authority"],),
                )
        except (OSError, ArchiveError) as error:
            found("anchor", place, words(error))
            return
        self._claims.append((place, "time-stamped checkpoint", checkpoint, anchor))
