"""What people decide while a gateway runs: it asks, looks for answers, and records them.

The state (`state`) is where gateways, the control API and the people behind it meet; no process
waits for another one. Answers are looked for fifty times a second while something waits: whether
its file was written, where the state is one, and else one small question.

An outcome is in the archive before what it lets pass leaves, and what a crash left pending is
cancelled by the next start: what waited died with the process that held its bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import structlog

from agentaudit.archive import canonical
from agentaudit.archive.ids import uuid7
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.archive.rows import encode
from agentaudit.errors import (
    NoSuchRequest,
    RecordingError,
    StateError,
    TooLarge,
    TooManyPending,
)
from agentaudit.gateway.admission import Admission
from agentaudit.gateway.admitted import WINDOW_WORDS, Admitted
from agentaudit.gateway.holds import Asked, Outcome
from agentaudit.gateway.operational_log import guarded, without_content
from agentaudit.gateway.state import Block, Live, Note, Request, State
from agentaudit.gateway.state_thread import StateThread
from agentaudit.model import Actor, Event, Flag, Kind, SessionFacts

LOOK_S: Final = 0.02
"""Between two looks for answers while something waits: an approval goes on within 100 ms."""

REST_S: Final = 0.25
"""Between two looks while nothing waits."""

TIDY_S: Final = 10.0
"""Between two looks for what is over."""

KEPT_US: Final = 30 * 24 * 3600 * 1_000_000
"""How long what is over stays in the state; the archive has it anyway."""

TIMEOUT_S: Final = 5 * 60.0
TIMEOUT_IN_TRANSACTION_S: Final = 60.0
"""How long a statement waits whose rule does not say: an open transaction holds locks."""

MAX_SHOWN_BYTES: Final = 256 * 1024
"""What a reviewer is shown is shown whole; what is longer, nobody can decide on."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What there was to see, at one number of changes."""

    revision: int
    outcomes: Mapping[UUID, Request]
    blocks: Sequence[Block]
    over: Mapping[UUID, str]
    endings: Sequence[tuple[UUID, str, str]]
    unrecorded: Sequence[Request]
    notes: Mapping[UUID, Note]


class NobodyCan(Exception):
    """Nobody can decide on what waits, and why."""


@dataclass(slots=True)
class _Waiting:
    asked: Asked
    timer: asyncio.TimerHandle


class OpenSession(Protocol):
    """What is asked of a session that may have to end (`relay.Relay`)."""

    session: SessionRecorder

    def end(self, reason: str, message: str, hint: str = "") -> None:
        """End it for `reason`, and tell the client."""
        ...


class Access:
    """What people decide on in one process of a gateway; belongs to its event loop.

    It records as `name`; `first` is the log of the gateway that records what is of no session.
    """

    def __init__(self, recorder: Recorder, name: str, first: str, *, url: str, base: Path) -> None:
        self._recorder = recorder
        self._name = name
        self._first = first
        self._url = url
        self._base = base
        self._loop = asyncio.get_running_loop()
        self._state: StateThread
        self.admission: Admission
        self._open: dict[UUID, tuple[Live, OpenSession]] = {}
        self._is_published = True
        self._tasks: asyncio.TaskGroup
        self._watch: asyncio.Task[None] | None = None
        self._waiting: dict[UUID, _Waiting] = {}
        self._has_begun_to_wait = asyncio.Event()
        self._withdrawn: set[UUID] = set()
        self._in_sessions: set[UUID] = set()
        """Outcomes that a session has recorded, and the state does not know that yet."""
        self._unsettled: dict[UUID, tuple[Literal["expired", "cancelled"], bool]] = {}
        """What the state is to be told once it is in reach again."""
        self._looked_for: set[UUID] = set()
        self._seen: int | None = None
        self._last_write: tuple[int, int] | None = None
        self._looked = 0.0
        self._is_out_of_reach = False

    async def start(self) -> None:
        """Open the state, and cancel what a process before this one left waiting.

        Raises:
            StateError: the state cannot be used.
            RecordingError: recording has failed.
        """
        self._state = await StateThread.open(self._url, base=self._base)
        clock = self._recorder.clock
        self.admission = Admission(self._state, self._name, self._first, clock.now_us)
        try:
            await self._state.do(self._take_over)
            await self._look()
        except BaseException:
            await self._state.close()
            raise
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._watch = self._tasks.create_task(self._look_on())

    def _take_over(self, state: State) -> None:
        """Let go of what a process of this name before this one has left."""
        now_us = self._recorder.clock.now_us()
        state.forget_gateway(self._name, now_us)
        for left in state.abandoned(self._name):
            state.settle(left.id, "cancelled", now_us=now_us)

    async def stop(self) -> None:
        """Ask no more; every session has ended, so nothing waits."""
        if self._watch is not None:
            self._watch.cancel()
        await self._tasks.__aexit__(None, None, None)
        now_us = self._recorder.clock.now_us()
        try:
            await self._state.do(lambda state: state.forget_gateway(self._name, now_us))
        except StateError as error:
            self._fault(error)
        await self._state.close()

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the state does not answer, so that nobody may be let in."""
        return self._is_out_of_reach

    def for_session(
        self, actor: Actor, facts: SessionFacts, most: Callable[[], int]
    ) -> SessionAccess:
        """Return who asks for one session of `actor`, at most `most()` things at a time."""
        return SessionAccess(self, actor, facts, most)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(guarded(work))

    # --- sessions

    def opened(self, actor: Actor, facts: SessionFacts, session: OpenSession) -> None:
        """Let all see a session that has begun, and let it be ended by others."""
        state = session.session.state
        live = Live(
            session_id=state.session_id,
            gateway=self._name,
            actor=actor,
            target=facts.target,
            protocol=facts.protocol,
            client_addr=facts.client_addr,
            opened_us=state.opened_us,
            window_id=facts.window_id,
        )
        self._open[live.session_id] = (live, session)
        self._is_published = False

    def closed(self, session_id: UUID, admitted: Admitted) -> None:
        """Note that a session is over."""
        self._open.pop(session_id, None)
        self._is_published = False
        if admitted.window_id is not None:
            self._begin(self.left(admitted))

    async def left(self, admitted: Admitted) -> None:
        """Count out of its window what was counted in."""
        try:
            await self.admission.leave(admitted)
        except StateError as error:
            self._fault(error)

    async def _publish(self) -> None:
        self._is_published = True
        sessions = [live for live, _ in self._open.values()]
        try:
            await self._state.do(lambda state: state.publish(self._name, sessions))
        except StateError:
            self._is_published = False
            raise

    def _end_windows(self, over: Mapping[UUID, str]) -> None:
        for live, session in list(self._open.values()):
            reason = over.get(live.window_id) if live.window_id is not None else None
            if reason is not None:
                told = reason if reason == "revoked" else "window_end"
                session.end(told, *WINDOW_WORDS[told])

    def _end_ordered(self, endings: Sequence[tuple[UUID, str, str]]) -> None:
        for session_id, by, why in endings:
            _, session = self._open.get(session_id, (None, None))
            if session is None or session.session.closed:
                continue
            session.session.record(
                Event(kind=Kind.NOTICE, text=f"ended by {by}: {why}", flags=Flag.SYNTHETIC)
            )
            session.end("ended", f"{by} has ended this session: {why}", "ask who ended it")

    # --- asking

    def ask(self, asked: Asked, make: Callable[[], Request], most: int) -> None:
        """File the request that `make` makes, of whose actor at most `most` may be pending.

        What `make` raises as `NobodyCan` denies it at once.
        """
        self._begin(self._ask(asked, make, most))

    async def _ask(self, asked: Asked, make: Callable[[], Request], most: int) -> None:
        request = None
        why = "nobody can be asked about it"
        try:
            request = await self._file(asked, make, most)
        except NobodyCan as error:
            why = str(error)
        except TooManyPending:
            why = f"you have {most} statements that wait already"
        except TooLarge as error:
            why = str(error)
        except StateError as error:
            self._fault(error)
            why = "nobody can be asked now"
            # It may have been filed all the same.
            self._unsettled[asked.request_id] = ("cancelled", True)
        except Exception as error:
            log.error("a statement cannot be filed", **without_content(error))
        if asked.request_id in self._withdrawn:
            self._withdrawn.discard(asked.request_id)
            if request is not None:
                await self._settle(request.id, "cancelled", recorded=True)
            self._in_sessions.discard(asked.request_id)
        elif request is None:
            asked.answered(Outcome(state="denied", why=why))
        else:
            seconds = (request.expires_us - request.requested_us) / 1_000_000
            timer = self._loop.call_later(seconds, self._expire, request.id)
            self._waiting[request.id] = _Waiting(asked, timer)
            self._has_begun_to_wait.set()
            log.info("waits for a decision", request=str(request.id), rule=request.rule)
            asked.filed()

    async def _file(self, asked: Asked, make: Callable[[], Request], most: int) -> Request | None:
        """File it, unless its session gives up before that."""
        if asked.complete is not None and asked.hold.approvers:
            await asked.complete()
        if asked.request_id in self._withdrawn:
            return None
        request = make()
        await self._state.do(lambda state: state.file(request, most_pending=most))
        return request

    def withdraw(self, request_id: UUID) -> None:
        """Ask no more about what has been recorded as cancelled."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            self._withdrawn.add(request_id)  # it is being filed
            return
        waiting.timer.cancel()
        self._begin(self._settle(request_id, "cancelled", recorded=True))

    def _expire(self, request_id: UUID) -> None:
        if request_id in self._waiting:
            self._begin(self._settle(request_id, "expired", recorded=False))

    async def _settle(
        self, request_id: UUID, state: Literal["expired", "cancelled"], *, recorded: bool
    ) -> None:
        now_us = self._recorder.clock.now_us()
        try:
            request = await self._state.do(
                lambda known: known.settle(request_id, state, now_us=now_us)
            )
            if recorded:
                await self._note_recorded([request_id])
                self._in_sessions.discard(request_id)
        except NoSuchRequest:
            # A database that was restored, or that somebody has emptied: nobody can decide now.
            self._in_sessions.discard(request_id)
            self._answer(request_id, Outcome(state="expired", why="nobody could be asked"))
            return
        except StateError as error:
            self._fault(error)
            self._unsettled[request_id] = (state, recorded or request_id in self._waiting)
            # Nobody can have approved what cannot be looked up.
            self._answer(request_id, Outcome(state="expired", why="nobody could be asked"))
            return
        self._answer(request_id, _outcome(request))

    def _answer(self, request_id: UUID, outcome: Outcome) -> None:
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting.timer.cancel()
            waiting.asked.answered(outcome)

    # --- looking for answers

    async def _look_on(self) -> None:
        tidied = 0.0
        while True:
            await self._pause()
            if not self._may_find_something():
                continue
            try:
                await self._look()
                if self._name == self._first and self._loop.time() - tidied > TIDY_S:
                    tidied = self._loop.time()
                    await self._state.do(self._tidy)
            except StateError as error:
                self._fault(error)
            except RecordingError:
                return  # all sessions end over it
            except Exception as error:
                # Whoever waits, or is to be ended, must not be forgotten over one bad row.
                log.error("a look at the state failed", **without_content(error))

    async def _pause(self) -> None:
        if self._waiting:
            await asyncio.sleep(LOOK_S)
            return
        self._has_begun_to_wait.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_begun_to_wait.wait(), REST_S)

    def _may_find_something(self) -> bool:
        # Taken before the look: what is written during it is found by the next one.
        last_write, before = self._state.last_write(), self._last_write
        now = self._loop.time()
        is_quiet = last_write is not None and last_write == before
        if self._waiting and is_quiet and now - self._looked < REST_S:
            return False
        self._last_write, self._looked = last_write, now
        return True

    async def _look(self) -> None:
        if not self._is_published:
            await self._publish()
        ids = list(self._waiting)
        is_new = not self._looked_for.issuperset(ids)
        windows = {live.window_id for live, _ in self._open.values() if live.window_id is not None}
        now_us = self._recorder.clock.now_us()

        def look(state: State) -> _Seen | None:
            # The number first: what changes after it is found by the next look.
            revision = state.revision()
            if revision == self._seen and not is_new:
                return None
            return _Seen(
                revision=revision,
                outcomes=state.outcomes(ids) if ids else {},
                blocks=state.blocks(),
                over=state.ended_windows(windows, now_us) if windows else {},
                endings=state.endings(self._name),
                unrecorded=state.unrecorded(self._name),
                notes=state.notes(self._name),
            )

        seen = await self._state.do(look)
        if self._is_out_of_reach:
            self._is_out_of_reach = False
            log.info("the state is in reach again")
        for request_id in list(self._unsettled):
            state, recorded = self._unsettled.pop(request_id)
            await self._settle(request_id, state, recorded=recorded)
        if seen is None:
            return
        self._looked_for = set(ids)
        for request_id, request in seen.outcomes.items():
            self._answer(request_id, _outcome(request))
        self.admission.blocks = seen.blocks
        self._end_windows(seen.over)
        self._end_ordered(seen.endings)
        await self._record_outcomes(seen)
        self._seen = seen.revision

    def _tidy(self, state: State) -> None:
        now_us = self._recorder.clock.now_us()
        state.expire(now_us)
        state.prune(now_us - KEPT_US)

    def _fault(self, error: StateError) -> None:
        if not self._is_out_of_reach:
            self._is_out_of_reach = True
            log.error("the state is out of reach", error=str(error), hint=error.hint)

    # --- recording

    def record(
        self, asked: Asked, actor: Actor, target: str, digest: str, outcome: Outcome
    ) -> None:
        """Record in its session what was decided about `asked`.

        Raises:
            RecordingError: recording has failed.
        """
        members = {
            "request_id": str(asked.request_id),
            "kind": "hold",
            "session_id": str(asked.session.session_id),
            "command_no": asked.command_no,
            "requester": actor.user,
            "target": target,
            "rule": asked.hold.rule,
            "text_commit": asked.commit,
            "requested_at": asked.requested_us,
            "decided_at": self._recorder.clock.now_us(),
            "state": outcome.state,
            "approvers": list(outcome.approvers),
            "reasons": list(outcome.reasons),
            "policy_digest": digest,
        }
        asked.session.record(
            Event(
                kind=Kind.DECISION,
                command_no=asked.command_no,
                text=_in_words(members, outcome.why),
                payload=encode(members),
            )
        )
        self._in_sessions.add(asked.request_id)
        if outcome.state != "cancelled":
            self._begin(self._note_once_recorded(asked.request_id))

    async def _note_once_recorded(self, request_id: UUID) -> None:
        try:
            await self._recorder.recorded()
            await self._note_recorded([request_id])
            self._in_sessions.discard(request_id)
        except StateError as error:
            self._fault(error)
        except RecordingError:
            pass  # the next start records it

    async def _note_recorded(self, ids: Sequence[UUID]) -> None:
        await self._state.do(lambda state: state.recorded(ids))

    async def _record_outcomes(self, seen: _Seen) -> None:
        """Record what was done and has no session of its own here, on the control session."""
        ids = []
        for request in seen.unrecorded:
            if request.id in self._waiting or request.id in self._in_sessions:
                continue
            ids.append(request.id)
            self._recorder.record_control(Kind.DECISION, _members(request))
        for note in seen.notes.values():
            if note.kind == "decision":
                self._recorder.record_control(Kind.DECISION, note.members)
            else:
                text = str(note.members.get("text", ""))
                event = Event(kind=Kind.NOTICE, text=text, flags=Flag.SYNTHETIC)
                self._recorder.control.record(event)
        if ids or seen.notes:
            await self._recorder.recorded()
        if ids:
            await self._note_recorded(ids)
        if seen.notes:
            await self._state.do(lambda state: state.noted(seen.notes))


class SessionAccess:
    """Who asks for one session (`holds.Asks`)."""

    def __init__(
        self, access: Access, actor: Actor, facts: SessionFacts, most: Callable[[], int]
    ) -> None:
        self._access = access
        self._actor = actor
        self._facts = facts
        self._most = most

    def new_id(self) -> UUID:
        return uuid7(self._access._recorder.clock.now_us())

    def ask(self, asked: Asked) -> None:
        asked.requested_us = self._access._recorder.clock.now_us()
        self._access.ask(asked, lambda: self._request(asked), self._most())

    def _request(self, asked: Asked) -> Request:
        """Return the request about `asked`.

        Raises:
            NobodyCan: it is too long to be reviewed, or nobody may decide on it.
        """
        facts, actor = self._facts, self._actor
        if not asked.hold.approvers:
            raise NobodyCan("nobody may decide on it")
        timeout_s = asked.hold.timeout_s
        if timeout_s is None:
            timeout_s = TIMEOUT_IN_TRANSACTION_S if asked.in_transaction else TIMEOUT_S
        document = encode(
            {
                "session": str(asked.session.session_id),
                "command": asked.command_no,
                "target": facts.target,
                "protocol": facts.protocol,
                "user": actor.user,
                "issuer": actor.issuer,
                "agent": actor.agent,
                "actor_chain": list(actor.chain),
                "client_addr": facts.client_addr,
                "client_app": facts.client_app,
                "rule": asked.hold.rule,
                "startup": dict(facts.labels),
                **asked.shown,
            }
        )
        if len(document) > MAX_SHOWN_BYTES:
            raise NobodyCan(
                f"{len(document):,} bytes to review, at most {MAX_SHOWN_BYTES:,} can be"
            )
        return Request(
            id=asked.request_id,
            kind="hold",
            gateway=self._access._name,
            requester=actor,
            target=facts.target,
            rule=asked.hold.rule,
            approvers=asked.hold.approvers,
            approvals=asked.hold.approvals,
            cls=asked.cls,
            shown=canonical.decode(document),
            digest=sha256(document).hexdigest(),
            session_id=asked.session.session_id,
            command_no=asked.command_no,
            requested_us=asked.requested_us,
            expires_us=asked.requested_us + round(timeout_s * 1_000_000),
        )

    def withdraw(self, asked: Asked) -> None:
        self._access.withdraw(asked.request_id)

    def record(self, asked: Asked, outcome: Outcome) -> None:
        self._access.record(
            asked, self._actor, self._facts.target, self._facts.policy_digest, outcome
        )


def _outcome(request: Request) -> Outcome:
    if request.state == "expired":
        seconds = (request.expires_us - request.requested_us) // 1_000_000
        why = f"nobody decided within {seconds} s"
    else:
        why = ""
    assert request.state != "pending"
    return Outcome(
        state=request.state,
        approvers=tuple(vote.approver.user for vote in request.votes),
        reasons=tuple(vote.reason for vote in request.votes),
        why=why,
    )


def _members(request: Request) -> dict[str, Any]:
    """Return the row of a decision that belongs to no session that is open."""
    members: dict[str, Any] = {
        "request_id": str(request.id),
        "kind": request.kind,
        "command_no": request.command_no,
        "requester": request.requester.user,
        "target": request.target,
        "rule": request.rule,
        "requested_at": request.requested_us,
        "decided_at": request.decided_us,
        "state": request.state,
        "approvers": [vote.approver.user for vote in request.votes],
        "reasons": [vote.reason for vote in request.votes],
    }
    if request.session_id is not None:
        members["session_id"] = str(request.session_id)
    if request.kind == "access" and request.state == "approved":
        starts_us = max(request.starts_us, request.decided_us)
        members["grant_until"] = starts_us + request.duration_us
    return members


def _in_words(members: dict[str, Any], why: str) -> str:
    by = f" by {', '.join(members['approvers'])}" if members["approvers"] else ""
    return f'{members["state"]}{by}, rule "{members["rule"]}"' + (f": {why}" if why else "")
