"""Cancel keys: what clients get in place of the server's own, what each stands for, whose it is.

A key is the server's process id and a secret of ours. Two servers may well use one process id at
the same time, so only the secret tells their sessions apart. It is as long as the client's protocol
lets it be: four bytes before 3.2, where a guess hits one in four thousand million, as at a server.

A cancel request may reach any worker, so a secret, as a number, leaves the number of its worker
when it is divided by how many there are. That takes no more from what must be guessed than it has
to: one bit for two workers, and nothing that matters from 32 bytes.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from agentaudit.archive.recorder import SessionRecorder
from agentaudit.gateway.serving import TargetAccess
from agentaudit.protocols.postgres_messages import PROTOCOL_3_2

SHORT_SECRET_BYTES: Final = 4
SECRET_BYTES: Final = 32
"""As PostgreSQL 18 itself; the protocol allows 4 to 256."""

PassOn = Callable[[int, int, bytes, str], Awaitable[bool]]
"""Gives a request to another worker: its number, pid and secret, and who asks; was it known?"""


def _nothing_paused() -> bool:
    return False


@dataclass(slots=True)
class CancelRoute:
    """Which backend a cancel key of ours stands for, by the key that its server gave.

    `cancel_paused` refuses what waits for people in that session, and says whether it did.
    """

    access: TargetAccess
    pid: int
    secret: bytes = field(repr=False)
    session: SessionRecorder = field(repr=False)
    cancel_paused: Callable[[], bool] = field(default=_nothing_paused, repr=False)


class CancelKeys:
    """The keys of the sessions that are open; `own` is this process's number among `workers`."""

    def __init__(self, own: int = 0, workers: int = 1, pass_on: PassOn | None = None) -> None:
        self._own = own
        self._workers = workers
        self._pass_on = pass_on
        self._of_pid: dict[int, dict[bytes, CancelRoute]] = {}

    def owner(self, secret: bytes) -> int:
        """Return the number of the worker whose key has this secret."""
        return int.from_bytes(secret) % self._workers

    def add(self, route: CancelRoute, version: int) -> bytes:
        """Return a new secret for `route`, to go with its `pid` to a client of this protocol."""
        taken = self._of_pid.setdefault(route.pid, {})
        size = SECRET_BYTES if version >= PROTOCOL_3_2 else SHORT_SECRET_BYTES
        secret = secrets.token_bytes(size)
        while secret in taken or self.owner(secret) != self._own:
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

    async def pass_on(self, pid: int, secret: bytes, peer: str) -> bool:
        """Let the worker that gave a key out carry out a request; say whether it knew the key.

        `peer` is the address of who asks.
        """
        owner = self.owner(secret)
        if self._pass_on is None or owner == self._own:
            return False
        return await self._pass_on(owner, pid, secret, peer)

    def __len__(self) -> int:
        return sum(map(len, self._of_pid.values()))
