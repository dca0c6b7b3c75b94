"""Cancel keys: what clients get in place of the server's own, and what each stands for.

A key is the server's process id and a secret of ours. Two servers may well use one process id at
the same time, so only the secret tells their sessions apart. It is as long as the client's protocol
lets it be: four bytes before 3.2, where a guess hits one in four thousand million, as at a server.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.gateway.serving import TargetAccess
from agentaudit.protocols.postgres_messages import PROTOCOL_3_2

SHORT_SECRET_BYTES: Final = 4
SECRET_BYTES: Final = 32
"""As PostgreSQL 18 itself; the protocol allows 4 to 256."""


@dataclass(frozen=True, slots=True)
class CancelRoute:
    """Which backend a cancel key of ours stands for, by the key that its server gave."""

    access: TargetAccess
    pid: int
    secret: bytes = field(repr=False)
    session: SessionRecorder = field(repr=False)


class CancelKeys:
    """The keys of the sessions that are open."""

    def __init__(self) -> None:
        self._of_pid: dict[int, dict[bytes, CancelRoute]] = {}

    def add(self, route: CancelRoute, version: int) -> bytes:
        """Return a new secret for `route`, to go with its `pid` to a client of this protocol."""
        taken = self._of_pid.setdefault(route.pid, {})
        size = SECRET_BYTES if version >= PROTOCOL_3_2 else SHORT_SECRET_BYTES
        secret = secrets.token_bytes(size)
        while secret in taken:
            secret = secrets.token_bytes(size)
        taken[secret] = route
        return secret

    def find(self, pid: int, secret: bytes) -> CancelRoute | None:
        """Return what this key stands for, or None; how long it takes says nothing of secrets."""
        found: CancelRoute | None = None
        for known, route in self._of_pid.get(pid, {}).items():
            if hmac.compare_digest(known, secret):
                found = route
        return found

    def remove(self, pid: int, secret: bytes) -> None:
        """Forget a key that `add` made; nothing happens if it was forgotten already."""
        routes = self._of_pid.get(pid, {})
        routes.pop(secret, None)
        if not routes:
            self._of_pid.pop(pid, None)

    def __len__(self) -> int:
        return sum(map(len, self._of_pid.values()))
