"""A proof of inclusion as a text file that anybody's verifier reads (`.tlog-proof`).

It holds the index, the hashes up to the root, and the checkpoint as it was signed, but not the
entry itself: whoever checks it brings that along, and the keys that they trust.

Format: c2sp.org/tlog-proof
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from agentaudit.archive.merkle import HASH_BYTES, verifies_inclusion
from agentaudit.archive.note import Checkpoint
from agentaudit.errors import ArchiveError

MAX_PROOF_BYTES = 1_000_000
_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_MAX_HASHES = 63
_INDEX = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Proof:
    """Where in the tree of a checkpoint an entry is, and the hashes that show it.

    `note` is the checkpoint, signatures included; `extra` is data of the application's that
    nothing proves.
    """

    index: int
    hashes: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the content of a `.tlog-proof` file."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(value).decode() for value in self.hashes]
        return "\n".join([*lines, "", ""]).encode() + self.note

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Return the proof that a `.tlog-proof` file holds.

        Raises:
            ArchiveError: it is none, or not in its only form.
        """
        if len(data) > MAX_PROOF_BYTES:
            raise ArchiveError(f"proof: {len(data)} bytes, at most {MAX_PROOF_BYTES} expected")
        head, blank, note = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise ArchiveError("proof: not ASCII above its checkpoint") from None
        if lines.pop(0) != _FIRST_LINE or not blank:
            raise ArchiveError(f"proof: not {_FIRST_LINE}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = _decode(lines.pop(0).removeprefix("extra "))
        name, _, number = lines.pop(0).partition(" ") if lines else ("", "", "")
        if name != "index" or not _INDEX.fullmatch(number):
            raise ArchiveError("proof: no index where it must stand")
        if len(lines) > _MAX_HASHES:
            raise ArchiveError(f"proof: {len(lines)} hashes, at most {_MAX_HASHES} expected")
        hashes = tuple(_decode(line) for line in lines)
        if any(len(value) != HASH_BYTES for value in hashes):
            raise ArchiveError("proof: a hash that is not 32 bytes")
        return cls(int(number), hashes, note, extra)

    def shows(self, leaf: bytes, checkpoint: Checkpoint) -> bool:
        """Say whether `leaf`, a leaf's hash, is there; `checkpoint` is what the note was read as.

        The signatures on the note are the caller's to check.
        """
        return verifies_inclusion(
            self.hashes, leaf=leaf, index=self.index, size=checkpoint.size, root=checkpoint.root
        )


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if base64.b64encode(data).decode() != text:
        raise ArchiveError("proof: not the only base64 form")
    return data
