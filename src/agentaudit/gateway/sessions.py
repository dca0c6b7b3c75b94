"""What the doors of all protocols share: who may come in, who is in, and who was turned away.

A connection is anonymous until its token is valid. Until then it is only counted, by address and
minute, because whoever is nobody must not be able to fill the archive; the first few refused
tokens of an address and minute have a record of their own. From then on each attempt is a session,
refused or not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import structlog

from agentaudit.archive.recorder import Recorder
from agentaudit.errors import RecordingError
from agentaudit.gateway.admitted import WINDOW_WORDS
from agentaudit.gateway.connections import MAX_EVENTS, MAX_SYNCED_EVENTS, Poller
from agentaudit.gateway.holds import Asks, NobodyAsks
from agentaudit.gateway.operational_log import guarded
from agentaudit.gateway.places import Places
from agentaudit.gateway.relay import recording_words
from agentaudit.gateway.serving import Serving
from agentaudit.model import Actor, Durability, Event, Flag, Kind, SessionFacts, Side

MINUTE_S: Final = 60.0
MAX_ADDRESSES: Final = 10_000
"""Counted apart in one minute; those beyond share one count."""

RECORDED_REFUSALS: Final = 10
"""Refused tokens of one address and minute that are recorded one by one; the others are counted."""

LAST_WORDS_S: Final = 5.0
"""What a client has to take its farewell in once the drain is over."""

POLL_S: Final = 0.02

if TYPE_CHECKING:
    from agentaudit.gateway.access import Access

log = structlog.get_logger()


class Anonymous(Protocol):
    """A connection of somebody who has not been recognised yet."""

    peer_host: str
    """Its address, without the port."""

    def close(self) -> None:
        """End it once what was written has gone."""
        ...

    def abort(self) -> None:
        """End it at once."""
        ...


class Opened(Protocol):
    """An open session, whatever its protocol."""

    def end(self, reason: str, message: str, hint: str = "") -> None:
        """End it for `reason`, and tell the client."""
        ...

    def drain(self, message: str, hint: str = "") -> None:
        """End it once nothing is under way."""
        ...

    def hold_up(self, is_held_up: bool) -> None:
        """Read nothing more, or go on."""
        ...

    def recording_failed(self, failure: RecordingError) -> None:
        """Stop at once: nothing more can be recorded."""
        ...

    @property
    def owes_bytes(self) -> bool:
        """Whether the client has still to take something that is recorded as sent to it."""
        ...

    def abort(self) -> None:
        """Cut its connections."""
        ...


def with_actor(facts: SessionFacts, actor: Actor | None) -> SessionFacts:
    """Return the facts of a session with who it is of, where that is known by now."""
    if actor is None:
        return facts
    return replace(
        facts,
        user=actor.user,
        issuer=actor.issuer,
        email=actor.email,
        groups=actor.groups,
        agent=actor.agent,
        actor_chain=actor.chain,
    )


class TooManyConnections(Exception):
    """An actor has as many sessions as it may."""


class Sessions:
    """The sessions of a gateway, and its anonymous connections; belongs to the event loop.

    `places` counts both, with those of other workers where there are any; `access` asks people,
    where the settings need that.
    """

    def __init__(
        self,
        serving: Serving,
        recorder: Recorder,
        places: Places | None = None,
        access: Access | None = None,
    ) -> None:
        self.serving = serving
        self.recorder = recorder
        self.access = access
        self.durability = serving.settings.gateway.durability
        is_strict = self.durability is Durability.STRICT
        self.poller = Poller(recorder, MAX_SYNCED_EVENTS if is_strict else MAX_EVENTS)
        self.is_draining = False
        self.tasks: asyncio.TaskGroup | None = None
        """For what goes on behind a session; whoever lets people in sets it."""
        self._relays: dict[Opened, asyncio.TimerHandle] = {}
        self._anonymous: dict[str, dict[Anonymous, None]] = {}
        self.places = places or Places()
        self._waiting: set[asyncio.Future[None]] = set()
        self._attempts: dict[str, Counter[str]] = {}
        self._minute: asyncio.TimerHandle | None = None
        self._leaving: set[Opened] = set()

    # --- before the token

    def enter(self, wire: Anonymous) -> None:
        """Take `wire` in as anonymous.

        At the limit, somebody has to go.
        """
        self._anonymous.setdefault(wire.peer_host, {})[wire] = None
        self.places.enter()
        if self.places.make_room(self.serving.settings.limits.preauth_connections):
            self.make_room()

    def make_room(self) -> None:
        """End the oldest anonymous connection of the address that has most of them.

        Who sits on connections makes room for everybody else.
        """
        anonymous = self._anonymous
        if not anonymous:
            return
        address = max(anonymous, key=lambda host: len(anonymous[host]))
        oldest = next(iter(anonymous[address]))
        self.leave(oldest)
        self.count_attempt(address, "made room for others")
        oldest.abort()

    def leave(self, wire: Anonymous) -> None:
        """Count `wire` as anonymous no more: its token was valid, or it ended."""
        wires = self._anonymous.get(wire.peer_host, {})
        if wire not in wires:
            return
        del wires[wire]
        self.places.leave()
        if not wires:
            del self._anonymous[wire.peer_host]

    def count_attempt(self, address: str, what: str) -> int:
        """Count a connection that ended before its token was valid; return which one `what` it is.

        Counts are recorded on the control session once a minute and address.
        """
        if address not in self._attempts and len(self._attempts) >= MAX_ADDRESSES:
            address = "other addresses"
        counts = self._attempts.setdefault(address, Counter())
        counts[what] += 1
        if self._minute is None:
            self._minute = asyncio.get_running_loop().call_later(MINUTE_S, self.record_attempts)
        return counts[what]

    def record_attempts(self) -> None:
        """Record what was counted since the last time."""
        attempts, self._attempts = self._attempts, {}
        if self._minute is not None:
            self._minute.cancel()
            self._minute = None
        for address, counts in attempts.items():
            words = ", ".join(f"{what}: {count}" for what, count in counts.most_common())
            log.info("attempts without a valid token", address=address, counts=dict(counts))
            try:
                self.recorder.control.record(
                    Event(
                        kind=Kind.REFUSED,
                        side=Side.CLIENT,
                        text=f"{address}: {counts.total()} attempts without a valid token in a"
                        f" minute ({words})",
                        flags=Flag.SYNTHETIC,
                    )
                )
            except RecordingError:
                return

    # --- refused

    def refuse_token(self, facts: SessionFacts, reason: str, what: str) -> UUID | None:
        """Record that a token was refused, or count it if its address had enough of these.

        Raises:
            RecordingError: recording has failed.
        """
        address = facts.client_addr.rpartition(":")[0].strip("[]")
        if self.count_attempt(address, what) > RECORDED_REFUSALS:
            return None
        return self.refuse(facts, reason)

    def refuse(self, facts: SessionFacts, reason: str) -> UUID:
        """Record a refused session and return its id.

        Raises:
            RecordingError: recording has failed.
        """
        session = self.recorder.open_session(facts)
        session.record(
            Event(kind=Kind.REFUSED, side=Side.CLIENT, text=reason, flags=Flag.SYNTHETIC)
        )
        session.close("refused")
        log.info(
            "refused",
            session=str(session.session_id),
            user=facts.user,
            target=facts.target,
            address=facts.client_addr,
            reason=reason,
        )
        return session.session_id

    # --- open

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside everything else."""
        if self.tasks is None:
            work.close()
        else:
            self.tasks.create_task(guarded(work))

    def asks(self, actor: Actor, facts: SessionFacts) -> Asks:
        """Return who asks people for a session of `actor`."""
        if self.access is None:
            return NobodyAsks()
        return self.access.for_session(
            actor, facts, lambda: self.serving.settings.limits.max_holds_per_actor
        )

    def take_place(self, actor: Actor) -> None:
        """Take one of the connections that `actor` may have; `give_back` returns it.

        Raises:
            TooManyConnections: it has all of them.
        """
        limit = self.serving.settings.limits.actor_connections
        if not self.places.take((actor.issuer, actor.subject), limit):
            raise TooManyConnections

    def give_back(self, actor: Actor) -> None:
        """Give a place of `actor` back."""
        self.places.give_back((actor.issuer, actor.subject))

    async def recorded(self) -> None:
        """Return once all that is recorded so far counts in the durability that is set.

        Raises:
            RecordingError: it never will.
        """
        counts: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(counts)
        try:
            synced = self.durability is not Durability.RELAXED
            self.recorder.release(partial(_settle, counts), synced=synced)
            await counts
        finally:
            self._waiting.discard(counts)

    def add(self, relay: Opened, ends_us: int = 0) -> None:
        """Take an open session in; `remove` is called when it is over.

        It ends at `ends_us`, when its window does; 0 where it has none.
        """
        seconds = self.serving.settings.limits.max_session.total_seconds()
        words = (
            "max_session",
            "this session has lasted as long as it may",
            "connect again; the operator sets [limits] max_session",
        )
        if ends_us:
            left_s = (ends_us - self.recorder.clock.now_us()) / 1_000_000
            if left_s < seconds:
                seconds, words = left_s, ("window_end", *WINDOW_WORDS["window_end"])
        self.places.begin()
        self._relays[relay] = asyncio.get_running_loop().call_later(seconds, relay.end, *words)
        if self.recorder.is_behind:
            relay.hold_up(True)

    def hold_up(self, is_behind: bool) -> None:
        """Let all traffic wait while the sealer is behind, and go on when it has caught up."""
        if is_behind:
            why = "limits.journal_max" if not self.recorder.is_starved else "processor time"
            log.warning("the sealer is behind, traffic waits", limit=why)
        else:
            log.info("the sealer has caught up, traffic goes on")
        for relay in list(self._relays):
            relay.hold_up(is_behind)

    def remove(self, relay: Opened) -> None:
        """Count a session no more that has ended; its connections may still be closing."""
        self._relays.pop(relay).cancel()
        self.places.end()
        self._leaving.add(relay)

    def forget(self, relay: Opened) -> None:
        """Let go of a session whose connections are closed."""
        self._leaving.discard(relay)

    def recording_failed(self, failure: RecordingError) -> None:
        """Stop all traffic: nothing that passes now would be recorded."""
        reason = recording_words(failure)[0]
        log.error("recording failed", reason=reason, error=str(failure), hint=failure.hint)
        for relay in list(self._relays):
            relay.recording_failed(failure)
        for counts in self._waiting:
            if not counts.done():
                counts.set_exception(failure)

    async def drain(self, timeout_s: float) -> None:
        """End every session: at once if idle, else when its transaction ends or the time is up."""
        self.is_draining = True
        for wires in list(self._anonymous.values()):
            for wire in list(wires):
                wire.close()
        words = ("this gateway is shutting down", "connect again: another one may be there")
        # One turn of the loop: a client's Terminate may have arrived that was not read yet.
        await asyncio.sleep(POLL_S)
        for relay in list(self._relays):
            relay.drain(*words)
        await self._until_ended(timeout_s)
        for relay in list(self._relays):
            relay.end("shutdown", *words)
        await self._until_ended(LAST_WORDS_S)
        for relay in [*self._relays, *self._leaving]:
            relay.abort()
        self.record_attempts()

    async def _until_ended(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        while self._relays or any(relay.owes_bytes for relay in self._leaving):
            if loop.time() >= give_up_at:
                return
            await asyncio.sleep(POLL_S)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
