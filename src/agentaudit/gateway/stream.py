"""`GET /v1/stream`: what happens, as it happens, to those who may see it.

Server-sent events of the control API's process. Holds and access requests come from the state;
sessions and commands from the live journals, which are followed read-only while somebody listens,
so the data path does nothing for it, and what is sent is what the archive has. There is a bound to
all of it: what is more than the follower may read is passed over and `gap` says so, and a listener
that does not keep up is let go. A stream is for people who look on; evidence is the archive.

Contract: docs/stream.md; format: html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Header
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from agentaudit.archive.follow import Followed, Follower, Seen
from agentaudit.archive.layout import Layout
from agentaudit.errors import ArchiveError, StateError
from agentaudit.gateway.changes import Changes
from agentaudit.gateway.control import Caller, Control, Here, Shared, TooManyRequests
from agentaudit.gateway.state import Live, Request, State
from agentaudit.gateway.webhooks import message

MAX_SUBSCRIBERS: Final = 64
MAX_OF_ONE: Final = 4
MAX_QUEUED: Final = 1000
"""Events that a listener may be behind."""

MAX_KEPT: Final = 1000
"""Events that a listener which comes back may have missed."""

MAX_KEPT_BYTES: Final = 16 << 20

KEEP_ALIVE_S: Final = 15.0
LOOK_S: Final = 0.25
LINGER_S: Final = 60.0
"""How long it is followed when nobody listens any more: who comes back goes on."""

RETRY_S: Final = 5.0
COMMANDS_A_LOOK: Final = 250
"""1,000 a second: what is more, nobody reads, and a core would be busy with it."""

MAX_TEXT_CHARACTERS: Final = 4000
NICE: Final = 10

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event; of a session of `owner`, or about a `request`, or for everybody."""

    number: int
    kind: str
    line: bytes
    owner: tuple[str, str] | None = None
    request: Request | None = None
    is_for_all: bool = False
    plain: bytes = b""
    """In its place for who does not oversee: how much others do is not for everybody."""


@dataclass(slots=True, eq=False)
class Subscriber:
    """Somebody who listens."""

    caller: Caller
    queue: deque[bytes] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    end: str = ""
    """Why it is over, once it is."""


class Stream:
    """All who listen, and what they listen to; belongs to the control API's event loop."""

    def __init__(self, control: Control, changes: Changes) -> None:
        own = control.settings.gateway
        self._control = control
        self._changes = changes
        self._layout = Layout(own.archive)
        self._names = own.names
        self._subscribers: set[Subscriber] = set()
        self._kept: deque[StreamEvent] = deque()
        self._kept_bytes = 0
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._is_wanted = asyncio.Event()
        self._is_following = asyncio.Event()
        self._left_s = 0.0
        self._owners: dict[UUID, Live] = {}
        self._states: dict[UUID, tuple[str, int]] | None = None
        self._is_ended = False

    # --- those who listen

    def subscribe(self, caller: Caller, last_id: str) -> Subscriber:
        """Let `caller` listen, from behind the event `last_id` on where that is still known.

        Raises:
            TooManyRequests: as many listen as may.
        """
        own = sum(each.caller.who == caller.who for each in self._subscribers)
        if len(self._subscribers) >= MAX_SUBSCRIBERS or own >= MAX_OF_ONE:
            raise TooManyRequests(
                f"{own} streams of yours are open, at most {MAX_OF_ONE} may be, "
                f"and {MAX_SUBSCRIBERS} of all",
                hint="close one of them",
            )
        subscriber = Subscriber(caller)
        self._resume(subscriber, last_id)
        self._subscribers.add(subscriber)
        self._is_wanted.set()
        return subscriber

    async def begun(self) -> None:
        """Return once it is followed: what happens from now on is heard."""
        await self._is_following.wait()

    def leave(self, subscriber: Subscriber) -> None:
        """Let it go."""
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self._left_s = asyncio.get_running_loop().time()

    def end(self) -> None:
        """Let all go: this process ends."""
        self._is_ended = True
        for each in self._subscribers:
            each.end = each.end or "the control API is starting anew, connect again"
            each.woken.set()

    def _resume(self, subscriber: Subscriber, last_id: str) -> None:
        if not last_id:
            return
        epoch, _, number = last_id.partition("-")
        first = self._kept[0].number if self._kept else self._number + 1
        is_known = epoch == self._epoch and number.isdecimal() and len(number) < 16
        if not is_known or int(number) < first - 1 or int(number) > self._number:
            gap = self._made("gap", {"why": "what came behind that id is not kept"})
            subscriber.queue.append(gap.line)
            return
        for event in self._kept:
            if event.number > int(number) and self._may_see(subscriber.caller, event):
                subscriber.queue.append(self._line(subscriber.caller, event))
        subscriber.woken.set()

    def _may_see(self, caller: Caller, event: StreamEvent) -> bool:
        if event.is_for_all:
            return True
        if event.request is not None:
            return self._control.may_look(caller, event.request)
        return caller.who == event.owner or self._control.oversees(caller)

    def _line(self, caller: Caller, event: StreamEvent) -> bytes:
        return event.plain if event.plain and not self._control.oversees(caller) else event.line

    # --- what there is to hear

    def _made(self, kind: str, members: Mapping[str, Any], **who: Any) -> StreamEvent:
        # Escaped to ASCII, so that no line of it ends before its end.
        data = json.dumps(members, separators=(",", ":"), ensure_ascii=True)
        line = f"event: {kind}\nid: {self._epoch}-{self._number}\ndata: {data}\n\n".encode()
        return StreamEvent(self._number, kind, line, **who)

    def _publish(self, kind: str, members: Mapping[str, Any], **who: Any) -> None:
        self._number += 1
        self._pass_on(self._made(kind, members, **who))

    def _publish_gap(self, why: str, skipped: Mapping[str, int]) -> None:
        self._number += 1
        plain = self._made("gap", {"why": why}).line
        self._pass_on(self._made("gap", {"why": why, **skipped}, is_for_all=True, plain=plain))

    def _pass_on(self, event: StreamEvent) -> None:
        self._kept.append(event)
        self._kept_bytes += len(event.line)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().line)
        for each in self._subscribers:
            if each.end or not self._may_see(each.caller, event):
                continue
            if len(each.queue) >= MAX_QUEUED:
                each.queue.clear()
                each.end = f"more than {MAX_QUEUED} events behind"
            else:
                each.queue.append(self._line(each.caller, event))
            each.woken.set()

    async def run(self) -> None:
        """Follow state and journals while somebody listens, until cancelled."""
        while True:
            self._is_wanted.clear()
            if not self._subscribers:
                await self._is_wanted.wait()
            await self._follow()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        changed = self._changes.listen()
        thread = ThreadPoolExecutor(1, "follow", _be_nice)
        followers = [Follower(self._layout, name) for name in self._names]
        retry_s = 0.0
        self._states = None
        try:
            while self._subscribers or loop.time() - self._left_s < LINGER_S:
                if changed.is_set():
                    changed.clear()
                    await self._look_at_state()
                if loop.time() >= retry_s:
                    try:
                        for follower in followers:
                            self._tell(await loop.run_in_executor(thread, _read, follower))
                    except (OSError, ArchiveError) as error:
                        retry_s = loop.time() + RETRY_S
                        log.error("a journal cannot be followed", error=type(error).__name__)
                        self._publish_gap("a journal cannot be read", {})
                        for follower in followers:
                            follower.close()
                self._is_following.set()
                await asyncio.sleep(LOOK_S)
        finally:
            self._is_following.clear()
            self._changes.leave(changed)
            thread.shutdown(wait=True)
            for follower in followers:
                follower.close()
            # Whoever comes later cannot go on from before: nobody has looked meanwhile.
            self._kept.clear()
            self._kept_bytes = 0
            self._number += 1

    async def _look_at_state(self) -> None:
        known = self._states
        try:
            states = await self._control.do(State.request_states)
            self._owners = {one.session_id: one for one in await self._control.do(State.live)}
            news = [] if known is None else [id for id in states if known.get(id) != states[id]]
            for id in reversed(news):
                request = await self._control.do(partial(State.request, id=id))
                if request is not None:
                    self._tell_request(request)
        except StateError:
            return  # `Changes` says so; it is looked at again once it has changed
        self._states = states

    def _tell_request(self, request: Request) -> None:
        event = request.kind if request.state == "pending" else "decision"
        said = message(event, request)["request"]
        self._publish(request.kind, said, request=request)

    def _tell(self, followed: Followed) -> None:
        for seen in followed.seen:
            owner, facts = self._owner(seen)
            if seen.what == "command":
                self._publish("command", _command(seen, facts), owner=owner)
            else:
                self._publish("session", _session(seen, facts), owner=owner)
        skipped = {
            "commands": followed.commands_skipped,
            "events": followed.events_skipped,
            "bytes": followed.bytes_skipped,
        }
        if any(skipped.values()):
            self._publish_gap("more than can be followed", skipped)

    def _owner(self, seen: Seen) -> tuple[tuple[str, str] | None, Mapping[str, Any]]:
        """Return whose session it is, and what is said of it; nobody's where neither is known."""
        if seen.facts is not None:
            # The chain begins with the token's own subject.
            chain = seen.facts.get("actor_chain") or [None]
            subject = chain[0]
            owner = None if subject is None else (str(seen.facts.get("issuer")), str(subject))
            return owner, seen.facts
        live = self._owners.get(seen.session_id)
        if live is None:
            return None, {}
        actor = live.actor
        facts = {
            "gateway": live.gateway,
            "user": actor.user,
            "agent": actor.agent,
            "issuer": actor.issuer,
            "target": live.target,
            "protocol": live.protocol,
        }
        return (actor.issuer, actor.subject), facts


def _be_nice() -> None:
    # In Linux a thread has a priority of its own: who looks on comes behind who works.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _read(follower: Follower) -> Followed:
    return follower.read(COMMANDS_A_LOOK)


_FACTS: Final = ("gateway", "user", "agent", "issuer", "target", "protocol")


def _command(seen: Seen, facts: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(seen.row)
    text = str(row.get("text", ""))
    row["text"] = text[:MAX_TEXT_CHARACTERS]
    row["is_cut"] = len(text) > MAX_TEXT_CHARACTERS
    for name in ("columns", "origins", "paths", "resources", "risk", "params", "sha256"):
        if name in row:
            row[name] = _cut(row[name])
    for name in ("error_text", "target_ref", "traceparent"):
        if name in row:
            row[name] = str(row[name])[:MAX_TEXT_CHARACTERS]
    return (
        {name: facts.get(name, "") for name in _FACTS} | row | {"session_id": str(seen.session_id)}
    )


def _cut(values: Sequence[Any]) -> list[str | None]:
    """Return the first of a list, which take no more together than a text may."""
    kept: list[str | None] = []
    left = MAX_TEXT_CHARACTERS
    for value in values[:20]:
        text = None if value is None else str(value)[: min(left, MAX_TEXT_CHARACTERS // 4)]
        kept.append(text)
        left -= len(text or "")
    return kept


def _session(seen: Seen, facts: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: facts.get(name, "") for name in _FACTS}
    said |= {"session_id": str(seen.session_id), "state": seen.what}
    if seen.what == "opened":
        names = ("client_addr", "client_app", "window_id")
        return said | {name: str(facts[name])[:1000] for name in names if name in facts}
    return said | {
        name: seen.row[name]
        for name in ("close_reason", "closed_at", "commands", "bytes_in", "bytes_out")
        if name in seen.row
    }


# --- the route

router = APIRouter()


@router.get("/v1/stream", response_class=StreamingResponse)
async def stream(
    http: HttpRequest,
    control: Shared,
    caller: Here,
    last_event_id: Annotated[str, Header(max_length=40)] = "",
) -> StreamingResponse:
    """Stream what happens: one's own, what one may decide on, and all to admins and auditors."""
    hub: Stream = http.app.state.stream
    subscriber = hub.subscribe(caller, last_event_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return _Answer(hub, subscriber, _lines(hub, subscriber, control), headers)


class _Answer(StreamingResponse):
    """Lets its subscriber go however it ends, begun or not."""

    def __init__(
        self,
        hub: Stream,
        subscriber: Subscriber,
        lines: AsyncIterator[bytes],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._hub = hub
        self._subscriber = subscriber

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hub.leave(self._subscriber)


async def _lines(hub: Stream, subscriber: Subscriber, control: Control) -> AsyncIterator[bytes]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KEEP_ALIVE_S):
            await hub.begun()
    yield b": agentaudit\n\n"
    while True:
        left_s = (subscriber.caller.bearer.expires_us - control.now_us()) / 1e6
        if left_s <= 0 and not subscriber.end:
            subscriber.end = "your token has expired"
        while subscriber.queue:
            yield subscriber.queue.popleft()
        if subscriber.end:
            yield f"event: end\ndata: {json.dumps({'why': subscriber.end})}\n\n".encode()
            return
        subscriber.woken.clear()
        try:
            async with asyncio.timeout(min(KEEP_ALIVE_S, left_s)):
                await subscriber.woken.wait()
        except TimeoutError:
            yield b": still here\n\n"
