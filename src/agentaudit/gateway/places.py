"""Who holds how many connections: of one process, or of all workers of a gateway.

Workers count in memory that they share, so that asking costs no message. Each writes a part of its
own, under a lock of the kernel's that its death takes away; what a dead worker held is forgotten
by whoever starts the next one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

Who = tuple[str, str]
"""Issuer and subject."""


class Places:
    """The connections of the one process of a gateway; belongs to its event loop."""

    def __init__(self) -> None:
        self._anonymous = 0
        self._actors: Counter[Who] = Counter()

    def take(self, who: Who, limit: int) -> bool:
        """Take one of the `limit` connections that `who` may have; False where it has all."""
        if self._actors[who] >= limit:
            return False
        self._actors[who] += 1
        return True

    def give_back(self, who: Who) -> None:
        """Give a connection of `who` back."""
        self._actors[who] -= 1
        if not self._actors[who]:
            del self._actors[who]

    def enter(self) -> None:
        """Count one more connection that has shown no valid token."""
        self._anonymous += 1

    def leave(self) -> None:
        """Count it no more."""
        self._anonymous -= 1

    def begin(self) -> None:
        """Count a session, which whoever hands out connections is to know of."""

    def end(self) -> None:
        """Count a login that is over, or a session."""

    def make_room(self, limit: int) -> bool:
        """Say whether an anonymous connection of this process has to go, because all are too many.

        Where another process has more of them, it is asked, and the answer is no.
        """
        return self._anonymous > limit


_NUMBER = 8
_HEADER = 4 * _NUMBER
_ENDED, _ANONYMOUS, _USED = range(3)
_DIGEST = 16
_SLOT = _DIGEST + _NUMBER
MAX_ACTORS: Final = 65_536
"""Users of one worker at a time: more than it may have open files."""

_PART = -(-(_HEADER + MAX_ACTORS * _SLOT) // mmap.PAGESIZE) * mmap.PAGESIZE


def create(workers: int) -> int:
    """Return memory for the counts of so many workers, as an open file."""
    fd = os.memfd_create("agentaudit places", os.MFD_CLOEXEC)
    os.ftruncate(fd, workers * _PART)
    return fd


class Shared:
    """The memory that workers share: for each its header, and a slot for each of its users.

    A slot is a digest of the user and a count; the slots in use are the first ones.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, workers * _PART)
        # Whole machine words: what another process reads without the lock is never half written.
        self._numbers = memoryview(self._map).cast("q")
        self.workers = range(workers)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else count meanwhile; held for microseconds, and never across an await."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def get(self, worker: int, name: int) -> int:
        return self._numbers[worker * _PART // _NUMBER + name]

    def add(self, worker: int, name: int, number: int) -> None:
        self._numbers[worker * _PART // _NUMBER + name] += number

    def ended(self, worker: int) -> int:
        """Return how many connections that a worker was handed have ended."""
        return self.get(worker, _ENDED)

    def clear(self, worker: int) -> None:
        """Forget what a worker counted that is dead."""
        with self.locked():
            for name in (_ENDED, _ANONYMOUS, _USED):
                self.add(worker, name, -self.get(worker, name))

    def find(self, worker: int, digest: bytes) -> int:
        """Return the slot of a user, or -1."""
        start = worker * _PART + _HEADER
        end = start + self.get(worker, _USED) * _SLOT
        at = self._map.find(digest, start, end)
        while at >= 0 and (at - start) % _SLOT:
            at = self._map.find(digest, at + 1, end)
        return -1 if at < 0 else (at - start) // _SLOT

    def count(self, worker: int, slot: int) -> int:
        return 0 if slot < 0 else self._numbers[self._at(worker, slot, _DIGEST) // _NUMBER]

    def set(self, worker: int, slot: int, digest: bytes, count: int) -> None:
        at = self._at(worker, slot, 0)
        self._map[at : at + _DIGEST] = digest
        self._numbers[(at + _DIGEST) // _NUMBER] = count

    def remove(self, worker: int, slot: int) -> None:
        """Free a slot: the last one takes its place."""
        self.add(worker, _USED, -1)
        last = self._at(worker, self.get(worker, _USED), 0)
        at = self._at(worker, slot, 0)
        self._map[at : at + _SLOT] = self._map[last : last + _SLOT]

    def append(self, worker: int, digest: bytes) -> None:
        self.set(worker, self.get(worker, _USED), digest, 1)
        self.add(worker, _USED, 1)

    def _at(self, worker: int, slot: int, offset: int) -> int:
        return worker * _PART + _HEADER + slot * _SLOT + offset


class SharedPlaces(Places):
    """The connections of worker `own`, from 0, among those of all.

    `ask(worker)` asks another worker to make room for one anonymous connection.
    """

    def __init__(self, shared: Shared, own: int, ask: Callable[[int], None]) -> None:
        self._shared = shared
        self._own = own
        self._ask = ask

    def take(self, who: Who, limit: int) -> bool:
        shared, own, digest = self._shared, self._own, _digest(who)
        with shared.locked():
            held = sum(shared.count(w, shared.find(w, digest)) for w in shared.workers)
            slot = shared.find(own, digest)
            if held >= limit or (slot < 0 and shared.get(own, _USED) >= MAX_ACTORS):
                return False
            if slot < 0:
                shared.append(own, digest)
            else:
                shared.set(own, slot, digest, shared.count(own, slot) + 1)
        return True

    def give_back(self, who: Who) -> None:
        shared, own, digest = self._shared, self._own, _digest(who)
        with shared.locked():
            slot = shared.find(own, digest)
            count = shared.count(own, slot)
            if count > 1:
                shared.set(own, slot, digest, count - 1)
            else:
                shared.remove(own, slot)

    def enter(self) -> None:
        self._shared.add(self._own, _ANONYMOUS, 1)

    def leave(self) -> None:
        self._shared.add(self._own, _ANONYMOUS, -1)

    def begin(self) -> None:
        self._shared.add(self._own, _ENDED, -1)

    def end(self) -> None:
        self._shared.add(self._own, _ENDED, 1)

    def make_room(self, limit: int) -> bool:
        shared, own = self._shared, self._own
        anonymous = {w: shared.get(w, _ANONYMOUS) for w in shared.workers}
        if sum(anonymous.values()) <= limit:
            return False
        fullest = max(anonymous, key=anonymous.__getitem__)
        if anonymous[fullest] > anonymous[own]:
            self._ask(fullest)
            return False
        return True


def _digest(who: Who) -> bytes:
    return blake2b("\0".join(who).encode(), digest_size=_DIGEST).digest()
