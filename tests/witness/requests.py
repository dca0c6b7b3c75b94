"""Logs and requests for witnesses under test, and a client that shares no code with ours."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Sequence
from dataclasses import dataclass

from agentaudit.archive.merkle import consistency_proof, leaf_hash, tree_root
from agentaudit.archive.note import Checkpoint, Signer, sign_note
from agentaudit.settings.values import Address


@dataclass(frozen=True, slots=True)
class GrowingLog:
    """A log whose every entry is known, and with it each of its checkpoints and proofs."""

    signer: Signer
    branch: str = ""
    """Where this is another history of the same log: what it differs in, from entry 1 on."""

    @property
    def origin(self) -> str:
        return self.signer.verifier.name

    def leaves(self, size: int) -> list[bytes]:
        texts = [f"entry {n}" + (self.branch if n else "") for n in range(size)]
        return [leaf_hash(text.encode()) for text in texts]

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, tree_root(self.leaves(size)))

    def note(self, size: int, *signers: Signer) -> bytes:
        return sign_note(self.checkpoint(size).text(), signers or [self.signer])

    def proof(self, old: int, size: int) -> list[bytes]:
        return consistency_proof(self.leaves(size), old) if 0 < old < size else []

    def request(self, old: int, size: int) -> bytes:
        return body(old, self.proof(old, size) if old <= size else [], self.note(size))


def new_log(origin: str = "log.example/gw1") -> GrowingLog:
    return GrowingLog(Signer(origin, b"log key".ljust(32)))


def body(old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    lines = [f"old {old}\n".encode()]
    lines += [base64.b64encode(value) + b"\n" for value in proof]
    return b"".join([*lines, b"\n", note])


def post(address: Address, content: bytes, path: str = "/add-checkpoint") -> tuple[int, str, str]:
    """Return status, type and body of the answer."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    try:
        connection.request("POST", path, content)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()
