"""The gateway's one door to the archive: numbers events, journals them, says when they count.

The surprising decision: nothing is hashed and no Parquet is written here. An event costs a
struct, a CRC and a copy into the next write; the sealer, a process of its own, does the rest.
Frames of one turn of the event loop share one write(2), and all writers that wait share one
fdatasync, which a `Syncer` makes.

Everything here runs on the event loop's thread, except the `Syncer`'s own.

Durability: `release(synced=False)` calls back after the write, `synced=True` after the sync. A
failed write or sync is final: nothing is released any more, so no byte passes unrecorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from agentaudit._native.raw import frame
from agentaudit._native.system import mono_ns, now_us
from agentaudit.archive import canonical, journal
from agentaudit.archive.clocks import Clock, SystemClock
from agentaudit.archive.files import (
    PRIVATE_MODE,
    make_folder,
    replace,
    sync_folder,
)
from agentaudit.archive.ids import uuid7
from agentaudit.archive.journal import JournalWriter
from agentaudit.archive.keys import People, Place, load_key
from agentaudit.archive.layout import FORMAT_TEXT, Layout
from agentaudit.archive.leaves import text_commit
from agentaudit.archive.outside import Outside
from agentaudit.archive.rows import (
    RESPONSE_HASH,
    command_row,
    cut_text,
    encode,
    session_close_row,
    session_facts,
    span_members,
    valid_text,
)
from agentaudit.archive.sealer_process import SealerProcess
from agentaudit.archive.syncer import Syncer
from agentaudit.errors import AgentauditError, RecordingError
from agentaudit.model import (
    MAX_EVENT_BYTES,
    Command,
    Durability,
    Event,
    Flag,
    Kind,
    SessionFacts,
    Side,
)

LAZY_SYNC_S = 0.04
"""What nobody waits for is to be synced within 50 ms; the rest is for the sync itself."""

SEALER_SILENCE_S = 30.0
"""Traffic without a tick for so long waits: nothing that passes may stay unsigned. If the sealer
had processors for so long, it never will sign again, and traffic stops."""

MAX_TEXT_BYTES = 32 << 20
"""An event's text is cut there."""

RESERVE_BYTES = 64 << 20
_CHECK_S = 1.0
_MODE_SHIFT = 5
# Plain integers: `|` with an enum member costs more than all else that is done to an event.
_CLIENT, _TARGET = Side.CLIENT, Side.TARGET
_SESSION_OPEN, _SESSION_CLOSE = int(Kind.SESSION_OPEN), int(Kind.SESSION_CLOSE)
_COMMAND_END = int(Kind.COMMAND_END)
_NO_STATUS = journal.NO_STATUS
_FROM_TARGET = int(Flag.FROM_TARGET)
_MASKED = int(Flag.MASKED)
_TRUNCATED = int(Flag.TRUNCATED)


class Waiter:
    """Something that waits until what is recorded so far counts; `go` is called then, once."""

    __slots__ = ("event_no", "following")

    event_no: int
    following: Waiter | None

    def go(self) -> None:
        raise NotImplementedError


class _Callback(Waiter):
    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def go(self) -> None:
        self._callback()


class _Waiters:
    """A queue of them. Each knows the next, because two go through here for every command."""

    __slots__ = ("_loop", "first", "last")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first: Waiter | None = None
        self.last: Waiter | None = None
        self._loop = loop

    def append(self, waiter: Waiter) -> None:
        waiter.following = None
        if self.last is None:
            self.first = waiter
        else:
            self.last.following = waiter
        self.last = waiter

    def is_due(self, event_no: int) -> bool:
        """Say whether the first of them waits for no event from `event_no` on."""
        return self.first is not None and self.first.event_no <= event_no

    def let_go(self, event_no: int) -> None:
        """Let those go that wait for no event from `event_no` on."""
        while (waiter := self.first) is not None and waiter.event_no <= event_no:
            self._take_off(waiter)
            try:
                waiter.go()
            except Exception as error:
                # One waiter's fault must not keep the others waiting.
                self._loop.call_exception_handler({"message": "release", "exception": error})

    def clear(self) -> None:
        # One by one: a chain that is freed at once would recurse as deep as it is long.
        while self.first is not None:
            self._take_off(self.first)

    def _take_off(self, waiter: Waiter) -> None:
        self.first = waiter.following
        waiter.following = None
        if self.first is None:
            self.last = None


class Recorder:
    """Records the sessions of one gateway. Create it with `Recorder.start`."""

    def __init__(
        self,
        place: Place,
        *,
        durability: Durability,
        segment_events: int,
        segment_bytes: int,
        segment_age_s: float,
        disk_stop: int,
        journal_max: int,
        on_failure: Callable[[RecordingError], None],
        on_notice: Callable[[dict[str, Any]], None],
        on_behind: Callable[[bool], None],
        clock: Clock,
    ) -> None:
        self.failure: RecordingError | None = None
        self.is_recording = True
        self.is_behind = self.is_starved = False
        """Whether the sealer has fallen so far behind that traffic should wait for it, and whether
        that is because it gets no processor."""
        self.clock = clock
        self._is_system_clock = type(clock) is SystemClock
        self._place = place
        self._layout = Layout(place.archive)
        self._people = People(place)
        self._mode_bits = durability << _MODE_SHIFT
        self._segment_events = segment_events
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._disk_stop = disk_stop
        self._journal_max = journal_max
        self._on_failure = on_failure
        self._on_notice = on_notice
        self._on_behind = on_behind
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[UUID, SessionRecorder] = {}
        self._next_event_no = 0

        self._journal: JournalWriter | None = None
        self._marker = b""
        self._segment = UUID(int=0)
        self._segment_first = 0
        self._segment_born_s = 0.0

        self._buffer: list[bytes] = []
        self._flush_scheduled = False
        self._in_turn = False
        self._has_looked = False
        self._now_us = 0
        self._mono_ns = 0
        self._written_no = 0
        self._synced_no = 0
        self._told_synced_no = 0
        self._write_waiters = _Waiters(self._loop)
        self._sync_waiters = _Waiters(self._loop)
        self._waiting: set[asyncio.Future[None]] = set()
        self._lazy_sync: asyncio.TimerHandle | None = None
        self._syncer = Syncer(self._loop, self._synced, self._sync_failed)
        self._sealer = SealerProcess(self._sealer_said, self._sealer_ended)
        self._watch: asyncio.TimerHandle | None = None
        self._ticked_no = 0
        self._ticked_s = self._loop.time()
        self._starved_s = 0.0
        self._stopping = False
        self._ended = False
        self._ended_cleanly = False
        self.control: SessionRecorder

    @classmethod
    async def start(
        cls,
        *,
        archive: Path,
        gateway: str,
        origin: str,
        keys: Path,
        durability: Durability = Durability.STRICT,
        segment_events: int = 1_000_000,
        segment_bytes: int = 256 << 20,
        segment_age_s: float = 86_400.0,
        disk_stop: int = 0,
        journal_max: int = 0,
        outside: Outside | None = None,
        on_failure: Callable[[RecordingError], None] = lambda error: None,
        on_notice: Callable[[dict[str, Any]], None] = lambda notice: None,
        on_behind: Callable[[bool], None] = lambda is_behind: None,
        clock: Clock | None = None,
        policy: bytes | None = None,
    ) -> Recorder:
        """Start the sealer, which recovers what a crash left, and open a segment.

        `outside` is who is told of the log: witnesses and time-stamping authorities. `on_notice`
        is called on the loop with what the operational log is to say of them (`notice`, `level`).
        `on_failure` is called once, on the loop, when recording has become impossible. `on_behind`
        is called there with True when journals that are not sealed take more than `journal_max`
        bytes, at least twice `segment_bytes`, and with False when there is room for one again; 0
        is no limit. `policy` is the document of the rules in force, see `set_policy`.

        Raises:
            RecordingError: the archive cannot be written, another gateway has its lock, or the log
                key is not there or of another log, and then the archive was not touched.
            TamperedError: the archive contradicts its log; nothing was changed.
        """
        self = cls(
            Place(archive=archive, gateway=gateway, origin=origin, keys=keys),
            durability=durability,
            segment_events=segment_events,
            segment_bytes=segment_bytes,
            segment_age_s=segment_age_s,
            disk_stop=disk_stop,
            journal_max=journal_max,
            on_failure=on_failure,
            on_notice=on_notice,
            on_behind=on_behind,
            clock=clock or SystemClock(),
        )
        # The sealer would say the same, but only after a folder was made.
        load_key(self._place)
        try:
            _prepare_archive(self._layout, gateway)
            ready = await self._sealer.start(self._place, self.clock, outside or Outside())
            if policy is not None:
                self.set_policy(policy)
            self._next_event_no = self._ticked_no = int(ready["next_event_no"])
            self._heard()
            self._written_no = self._synced_no = self._next_event_no
            _make_reserve(self._layout.reserve(gateway))
            self._open_segment()
        except OSError as error:
            self._sealer.kill()
            raise RecordingError(
                f"archive {archive}: {error.strerror}",
                hint="the gateway needs to create and sync files there",
            ) from error
        self._syncer.start()
        self.control = self.open_session(SessionFacts(protocol="agentaudit"))
        self._watch = self._loop.call_later(_CHECK_S, self._check)
        return self

    @property
    def healthy(self) -> bool:
        """Whether recording is possible."""
        return self.is_recording

    def set_policy(self, document: bytes) -> str:
        """Keep the rules now in force, canonical JSON without secrets; return its SHA-256 as hex.

        Raises:
            OSError: the archive cannot be written.
        """
        digest = sha256(document).hexdigest()
        path = self._layout.policy(digest)
        make_folder(path.parent)
        # Even where it is there: whoever wrote it may not have lived to sync it.
        replace(path, document, writer=self._place.gateway)
        self._sealer.send({"policy": digest})
        return digest

    def open_session(
        self, facts: SessionFacts, *, payload_limit: int | None = None
    ) -> SessionRecorder:
        """Record `session_open` and return the session; its id is minted here.

        Of each command's response, at most the first `payload_limit` bytes are kept, and the
        length and SHA-256 of all of it.

        Raises:
            RecordingError: recording has failed.
        """
        self._require_healthy()
        self._tell()
        now_us = self._now_us
        members = session_facts(facts, self._place.gateway)
        if facts.user:
            members["user_hmac"] = self._people.hmac(members["user"])
        state = journal.OpenSession(
            session_id=uuid7(now_us),
            facts=members,
            key_m=os.urandom(32),
            key_t=os.urandom(32),
            key_p=os.urandom(32),
            opened_us=now_us,
            open_event_no=self._next_event_no,
        )
        session = SessionRecorder(self, state, payload_limit)
        self._sessions[state.session_id] = session
        keys = {"key_m": state.key_m.hex(), "key_t": state.key_t.hex(), "key_p": state.key_p.hex()}
        opened = encode(members)
        self._append(
            state,
            session._id,
            _SESSION_OPEN,
            0,
            -1,
            _NO_STATUS,
            0,
            None,
            opened,
            canonical.encode(keys),
        )
        return session

    def release(self, callback: Callable[[], None], synced: bool) -> None:
        """Call `callback` on the loop once all that is recorded so far counts; see `hold`.

        Raises:
            RecordingError: recording has failed.
        """
        self.hold(_Callback(callback), synced)

    def hold(self, waiter: Waiter, synced: bool) -> None:
        """Let `waiter` go on the loop once all that is recorded so far counts.

        Those of one kind go in the order asked. After a failure none goes any more.

        Raises:
            RecordingError: recording has failed.
        """
        if not self.is_recording:
            self._require_healthy()
        waiter.event_no = self._next_event_no
        if synced:
            self._sync_waiters.append(waiter)
        else:
            self._write_waiters.append(waiter)
        self._schedule_flush()

    # --- what is done to the archive itself

    def record_access(self, actor: str, action: str, object_: str, detail: str = "") -> int:
        """Record on the control session who did what to the archive; return the event_no.

        `action` is `open`, `search`, `export`, `verify`, `legal_hold`, `release` or `purge`.

        Raises:
            RecordingError: recording has failed.
        """
        members = {"actor": actor, "action": action, "object": object_, "detail": detail}
        return self.record_control(Kind.ACCESS, {"recorded_at": self.clock.now_us(), **members})

    def record_control(self, kind: Kind, members: Mapping[str, Any]) -> int:
        """Record an event of this gateway's own on its control session; return its event_no.

        `members` becomes its payload, as canonical JSON. A control session is never purged: whom
        an erasure is about may be in it as `hmac` only.

        Raises:
            RecordingError: recording has failed.
        """
        return self.control.record(Event(kind=kind, payload=encode(dict(members))))

    def hmac(self, name: str) -> str:
        """Return what may be kept for ever of a person's name, as hex."""
        return self._people.hmac(name)

    async def recorded(self) -> None:
        """Return once all that is recorded so far is on disk.

        Raises:
            RecordingError: it never will be.
        """
        self._require_healthy()
        counts: asyncio.Future[None] = self._loop.create_future()

        def settle() -> None:
            if not counts.done():
                counts.set_result(None)

        self._waiting.add(counts)
        try:
            self.release(settle, synced=True)
            await counts
        finally:
            self._waiting.discard(counts)

    async def order(self, do: str, **members: Any) -> dict[str, Any]:
        """Let the sealer, which alone purges and signs, do something; return its result.

        What the order refers to (a decision, who ordered it) is on disk before it is given. A
        purge goes on beside the recording and may take minutes; if whoever waits for it goes away,
        it goes on all the same.

        Raises:
            QuestionError: the sealer will not, and says why.
            RecordingError: recording has failed, or the sealer has ended.
        """
        await self.recorded()
        if do == "erase" and not members.get("dry_run"):
            # What closed before the decision may be in the open segment, and only what is sealed
            # can be erased.
            self._flush()
            if self._written_no > self._segment_first:
                self._roll()
            self._require_healthy()
        return await self._sealer.order(do, members)

    async def stop(self) -> None:
        """Close what is open, seal everything and end the sealer.

        Raises:
            RecordingError: recording failed, now or before; what was acknowledged stays journaled
                and is recovered at the next start.
        """
        if not self._stopping:
            self._stopping = True
            if self._watch is not None:
                self._watch.cancel()
            if self.failure is None:
                for session in list(self._sessions.values()):
                    session.close("shutdown")
                self._flush()
            self._ended = True
            self.is_recording = False
            self._cancel_lazy_sync()
            self._syncer.stop()
            sync_error = await self._loop.run_in_executor(None, self._syncer.join)
            if sync_error is not None:
                self._sync_failed(sync_error)
            if self._journal is not None:
                if self.failure is None:
                    try:
                        self._journal.finish()
                        self._synced_no = self._written_no
                        self._sync_waiters.let_go(self._synced_no)
                    except OSError as error:
                        self._fail("sync", error)
                os.close(self._journal.fd)
                self._journal = None
            await self._sealer.stop(failed=self.failure is not None and not self._ended_cleanly)
        if self.failure is not None:
            raise self.failure

    # --- recording

    def _append(
        self,
        state: journal.OpenSession,
        session_id: bytes,
        kind: int,
        flags: int,
        command_no: int,
        status: int,
        orig_len: int,
        text: bytes | None,
        payload: bytes | None,
        extra: bytes,
    ) -> int:
        """Frame an event as of the time that was told last; return its event_no."""
        event_no = self._next_event_no
        if not extra and self._synced_no > self._told_synced_no:
            # After a power cut this tells a write that was lost from one that was acknowledged.
            self._told_synced_no = self._synced_no
            extra = b'{"synced":%d}' % self._synced_no
        framed = frame(
            self._marker,
            event_no,
            self._now_us,
            self._mono_ns,
            session_id,
            state.events,
            command_no,
            kind,
            flags | self._mode_bits,
            status,
            orig_len,
            text,
            payload,
            extra,
        )
        self._next_event_no = event_no + 1
        state.events += 1
        self._buffer.append(framed)
        if not self._flush_scheduled:
            self._schedule_flush()
        return event_no

    def begin_turn(self) -> None:
        """Put writing off to `end_turn`, which whoever reads many connections at once calls."""
        self._in_turn = True

    def look(self) -> None:
        """Take the time. In a turn it is that of all that is recorded until the next look.

        What one read brought has been observed at one moment.
        """
        if self._is_system_clock:
            self._now_us = now_us()
            self._mono_ns = mono_ns()
        else:
            self._now_us = self.clock.now_us()
            self._mono_ns = self.clock.mono_ns()
        self._has_looked = self._in_turn

    def _tell(self) -> None:
        if not self._has_looked:
            self.look()

    def end_turn(self, more: bool) -> None:
        """Write what was recorded in this turn, and release what waited for that.

        Where another turn follows at once, what waits for a sync waits for that one's too: so few
        syncs do for many.
        """
        self._in_turn = self._has_looked = False
        if self._flush_scheduled:
            self._flush(more)
        if self._sync_waiters.first is not None:
            # The loop would hear of it only after more turns than this one.
            self._syncer.look()
            if not more and self._sync_waiters.is_due(self._written_no):
                self._request_sync()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            if not self._in_turn:
                self._loop.call_soon(self._flush)

    def _flush(self, more: bool = False) -> None:
        """Write what was recorded since the last turn, and release what waited for that.

        A sync is not asked for where `more` follows.
        """
        self._flush_scheduled = False
        if self.failure is not None:
            return
        if self._buffer:
            assert self._journal is not None
            data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
            try:
                self._journal.write(data)
            except OSError as error:
                self._write_failed(error)
                return
            self._buffer = []
            self._written_no = self._next_event_no
            # Before anything is released: what a callback records belongs to the next segment.
            if (
                self._journal.end >= self._segment_bytes
                or self._written_no - self._segment_first >= self._segment_events
            ):
                self._roll()
        if self._sync_waiters.first is None:
            self._sync_soon()
        elif not more:
            self._request_sync()
        self._write_waiters.let_go(self._written_no)

    def _sync_soon(self) -> None:
        """See to it that what nobody waits for is synced within 50 ms all the same."""
        if self._synced_no < self._written_no and self._lazy_sync is None:
            self._lazy_sync = self._loop.call_later(LAZY_SYNC_S, self._request_sync)

    def _request_sync(self) -> None:
        self._cancel_lazy_sync()
        if self.failure is not None or self._journal is None:
            return
        is_awaited = self._sync_waiters.first is not None
        self._syncer.request(self._journal.fd, self._written_no, is_awaited=is_awaited)

    def _cancel_lazy_sync(self) -> None:
        if self._lazy_sync is not None:
            self._lazy_sync.cancel()
            self._lazy_sync = None

    def _synced(self, event_no: int) -> None:
        """Release what waited for the sync of the events below `event_no`."""
        if self.failure is not None:
            return
        self._synced_no = max(self._synced_no, event_no)
        self._sync_waiters.let_go(self._synced_no)
        if self._sync_waiters.is_due(self._written_no):
            self._request_sync()
        else:
            self._sync_soon()

    # --- segments

    def _open_segment(self) -> None:
        self._marker = os.urandom(16)
        header = journal.Header(
            segment=uuid7(self.clock.now_us()),
            first_event_no=self._next_event_no,
            marker=self._marker,
            sessions=tuple(session.state for session in self._sessions.values()),
        )
        path = self._layout.journal(self._place.gateway, header.segment)
        self._journal = JournalWriter(path, header)
        self._segment = header.segment
        self._segment_first = self._told_synced_no = self._next_event_no
        self._segment_born_s = self._loop.time()

    def _roll(self) -> None:
        """Begin the next segment. The sealer seals this one when it sees the next one's journal."""
        old = self._journal
        assert old is not None
        sync_error = self._syncer.settle()
        if sync_error is not None:
            self._sync_failed(sync_error)
            return
        try:
            # What the old journal holds must be durable before anything follows it in the next.
            old.finish()
            self._open_segment()
        except OSError as error:
            self._fail("start of a segment", error)
            return
        self._syncer.retire(old.fd)
        self._look_behind()
        self._synced(self._written_no)

    # --- watching

    def _look_behind(self) -> None:
        """See whether traffic is to wait for the sealer, or no longer."""
        # A silence for any other reason ends recording.
        self.is_starved = self._is_silent()
        is_behind = self.is_starved or self._is_far_behind()
        if is_behind != self.is_behind:
            self.is_behind = is_behind
            self._on_behind(is_behind)

    def _is_silent(self) -> bool:
        """Say whether what was written has waited for a tick for too long."""
        is_waiting = self._written_no != self._ticked_no
        return is_waiting and self._loop.time() - self._ticked_s > SEALER_SILENCE_S

    def _is_far_behind(self) -> bool:
        """Say whether more is journaled than may be."""
        if not self._journal_max or self._journal is None:
            return False
        over = 0  # bytes of the journals to which nothing is added any more
        try:
            for segment in self._layout.journal_segments(self._place.gateway) - {self._segment}:
                with contextlib.suppress(FileNotFoundError):  # sealed since it was listed
                    over += self._layout.journal(self._place.gateway, segment).stat().st_size
        except OSError:
            return False  # a disk that does this fails the next write
        limit = self._journal_max - (self._segment_bytes if self.is_behind else 0)
        # Without those there is nothing that it could do about it.
        return over > 0 and over + self._journal.end > limit

    def _check(self) -> None:
        self._watch = self._loop.call_later(_CHECK_S, self._check)
        if self.failure is not None:
            return
        if self._written_no == self._ticked_no:
            self._heard()
        if self._is_silent() and not self._was_starved():
            self._fail_with(
                RecordingError(
                    f"the sealer signed nothing for {SEALER_SILENCE_S:.0f} s while events came in",
                    hint="see what its process does; recording goes on after a restart",
                )
            )
            return
        self._look_behind()
        if self._disk_stop:
            try:
                free = os.statvfs(self._place.archive)
            except OSError as error:
                self._fail("free space", error)
                return
            available = free.f_bavail * free.f_frsize
            if available < self._disk_stop:
                self._stop_cleanly(
                    RecordingError(
                        f"archive {self._place.archive}: {available} bytes free, "
                        f"[limits] disk_stop is {self._disk_stop}",
                        hint="free space, then restart the gateway",
                    )
                )
                return
        written = self._written_no > self._segment_first
        age_s = self._loop.time() - self._segment_born_s
        if written and age_s >= self._segment_age_s and not self._buffer:
            self._roll()

    def _sealer_said(self, message: dict[str, Any]) -> None:
        if "ticked" in message:
            self._ticked_no = int(message["ticked"])
            self._heard()
        elif "notice" in message:
            self._on_notice(message)

    def _heard(self) -> None:
        self._ticked_s = self._loop.time()
        self._starved_s = self._sealer.starved_s()

    def _was_starved(self) -> bool:
        """Say whether the sealer is silent because others have the processors.

        It is of low priority, and the machine may be busy: that is no reason to end every session.
        """
        starved_s = self._sealer.starved_s() - self._starved_s
        return self._loop.time() - self._ticked_s - starved_s <= SEALER_SILENCE_S

    def _sealer_ended(self, error: AgentauditError) -> None:
        if not self._stopping and self.failure is None:
            self._fail_with(RecordingError(str(error), hint=error.hint))

    # --- failure

    def _require_healthy(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._ended:
            raise RecordingError("the recorder has stopped")

    def _sync_failed(self, error: OSError) -> None:
        self._fail("sync", error)

    def _write_failed(self, error: OSError) -> None:
        """Stop traffic; on a full disk, give back the reserve and end the journal cleanly."""
        failure = RecordingError(
            f"archive {self._place.archive}: journal write: {error.strerror}",
            hint="free space on the disk, then restart the gateway",
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._stop_cleanly(failure)
        else:
            self._fail_with(failure)

    def _stop_cleanly(self, failure: RecordingError) -> None:
        """Fail, but journal what was recorded and every session's close first."""
        try:
            self._layout.reserve(self._place.gateway).unlink(missing_ok=True)
            assert self._journal is not None
            sync_error = self._syncer.settle()
            if sync_error is not None:
                raise sync_error
            # The failed write may have left a part of a frame behind.
            self._journal.cut()
            for session in list(self._sessions.values()):
                session.close("recording_failed")
            self._journal.write(b"".join(self._buffer))
            self._journal.finish()
            self._ended_cleanly = True
        except OSError:
            pass  # the first failure is the one to report, and the journal's tail is torn
        self._fail_with(failure)

    def _fail(self, what: str, error: OSError) -> None:
        self._fail_with(
            RecordingError(
                f"archive {self._place.archive}: {what}: {error.strerror}",
                hint="mend the disk, then restart the gateway; it recovers what was recorded",
            )
        )

    def _fail_with(self, failure: RecordingError) -> None:
        if self.failure is None:
            self.failure = failure
            self.is_recording = False
            self._buffer.clear()
            self._write_waiters.clear()
            self._sync_waiters.clear()
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_exception(failure)
            self._cancel_lazy_sync()
            self._on_failure(failure)

    def _forget(self, session_id: UUID) -> None:
        self._sessions.pop(session_id, None)


class _Response:
    """All that was answered to one command, of which a prefix is kept."""

    __slots__ = ("digest", "size")

    def __init__(self) -> None:
        self.digest = sha256()
        self.size = 0


class SessionRecorder:
    """Records one session. `Recorder.open_session` makes it."""

    def __init__(
        self, recorder: Recorder, state: journal.OpenSession, payload_limit: int | None
    ) -> None:
        self.state = state
        self.closed = False
        self._recorder = recorder
        self._id = state.session_id.bytes
        self._payload_limit = payload_limit
        self._open: dict[int, Command] = {}
        self._responses: dict[int, _Response] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a command is under way."""
        return bool(self._open)

    @property
    def session_id(self) -> UUID:
        return self.state.session_id

    def commit_next(self, text: str | None) -> str:
        """Return the archive's commitment to `text` if the next event has it, as hex."""
        state = self.state
        return text_commit(state.key_t, state.events, None if text is None else _utf8(text)).hex()

    def record(self, event: Event) -> int:
        """Append `event`; return its event_no, or that of its last piece.

        A payload beyond `MAX_EVENT_BYTES` becomes several events, all but the last flagged
        `continued`; `orig_len` is shared out with the pieces.

        Raises:
            RecordingError: recording has failed.
        """
        recorder = self._recorder
        if self.closed or not recorder.is_recording:
            self._require_open()
        payload = event.payload
        if payload is not None and len(payload) > MAX_EVENT_BYTES:
            return self._record_pieces(event, payload)
        state = self.state
        flags = int(event.flags)
        orig_len = event.orig_len
        if event.side is _TARGET:
            flags |= _FROM_TARGET
            state.bytes_out += orig_len
        elif event.side is _CLIENT:
            state.bytes_in += orig_len
        command = self._open.get(event.command_no)
        if command is not None:
            if event.side is _TARGET:
                command.bytes_out += orig_len
                if self._payload_limit is not None and payload is not None:
                    payload, flags = self._prefix(event.command_no, payload, flags)
            else:
                command.bytes_in += orig_len
        extra = b""
        if event.spans:
            flags |= _MASKED
            state.masked += len(event.spans)
            extra = canonical.encode({"spans": span_members(event.spans)})
            if command is not None:
                command.masked += len(event.spans)
        text = event.text
        recorder._tell()
        event_no = recorder._append(
            state,
            self._id,
            event.kind,
            flags,
            event.command_no,
            _NO_STATUS if event.status is None else event.status,
            orig_len,
            None if text is None else _utf8(text),
            payload,
            extra,
        )
        if command is not None:
            command.last_event_no = event_no
        return event_no

    def _prefix(self, command_no: int, payload: bytes, flags: int) -> tuple[bytes | None, int]:
        """Return what is kept of the next piece of a command's response, and its flags."""
        assert self._payload_limit is not None
        response = self._responses.get(command_no)
        if response is None:
            response = self._responses[command_no] = _Response()
        room = self._payload_limit - response.size
        response.digest.update(payload)
        response.size += len(payload)
        if len(payload) <= room:
            return payload, flags
        return payload[:room] if room > 0 else None, flags | _TRUNCATED

    def _require_open(self) -> None:
        self._recorder._require_healthy()
        if self.closed:
            raise RecordingError(f"session {self.session_id}: nothing can follow its close")

    def _record_pieces(self, event: Event, payload: bytes) -> int:
        last_event_no = -1
        for start in range(0, len(payload), MAX_EVENT_BYTES):
            piece = payload[start : start + MAX_EVENT_BYTES]
            is_last = start + MAX_EVENT_BYTES >= len(payload)
            left = event.orig_len - start
            last_event_no = self.record(
                Event(
                    kind=event.kind,
                    side=event.side,
                    command_no=event.command_no,
                    text=event.text if start == 0 else None,
                    payload=piece,
                    orig_len=max(0, left if is_last else min(len(piece), left)),
                    status=event.status,
                    flags=event.flags | (Flag.NONE if is_last else Flag.CONTINUED),
                    spans=event.spans if start == 0 else (),
                )
            )
        return last_event_no

    def begin(self, command: Command) -> None:
        """Stamp `command`; the next event recorded is its first.

        Raises:
            RecordingError: recording has failed.
        """
        recorder = self._recorder
        if self.closed or not recorder.is_recording:
            self._require_open()
        recorder._tell()
        command.started_at_us = recorder._now_us
        command.started_mono_ns = recorder._mono_ns
        command.first_event_no = recorder._next_event_no
        self._open[command.command_no] = command

    def end(self, command: Command) -> int:
        """Record that `command` has ended, and its row; return the event's event_no.

        Raises:
            RecordingError: recording has failed.
        """
        recorder = self._recorder
        if self.closed or not recorder.is_recording:
            self._require_open()
        self._open.pop(command.command_no, None)
        flags = 0
        response = self._responses.pop(command.command_no, None) if self._responses else None
        if response is not None and response.size > (self._payload_limit or 0):
            flags = _TRUNCATED
            command.sha256 += (f"{RESPONSE_HASH}{response.digest.hexdigest()}",)
        self.state.commands += 1
        recorder._tell()
        duration_us = (recorder._mono_ns - command.started_mono_ns) // 1000
        ended_us = recorder._now_us
        return recorder._append(
            self.state,
            self._id,
            _COMMAND_END,
            flags,
            command.command_no,
            _NO_STATUS,
            0,
            None,
            command_row(command, ended_us, duration_us),
            b"",
        )

    def close(self, reason: str) -> None:
        """End what is open as `incomplete` and record `session_close`; once closed, do nothing.

        After a failure nothing can be recorded: the next start closes the session.
        """
        recorder = self._recorder
        if self.closed:
            return
        if recorder.failure is None:
            for command in list(self._open.values()):
                self.end(command)
        self.closed = True
        recorder._forget(self.session_id)
        if recorder.failure is not None:
            return
        state = self.state
        recorder._tell()
        row = session_close_row(
            reason=reason,
            closed_us=recorder._now_us,
            last_seq=state.events,
            commands=state.commands,
            bytes_in=state.bytes_in,
            bytes_out=state.bytes_out,
            masked=state.masked,
        )
        closed = canonical.encode(row)
        recorder._append(state, self._id, _SESSION_CLOSE, 0, -1, _NO_STATUS, 0, None, closed, b"")


def _prepare_archive(layout: Layout, gateway: str) -> None:
    """Create the archive where there is none; refuse a folder that is something else."""
    make_folder(layout.root)
    # It may be there because a gateway was killed right after it had made it.
    with contextlib.suppress(PermissionError):
        sync_folder(layout.root.parent)
    # Listed before FORMAT is looked for: another gateway may be making this archive just now, and
    # it makes that file first.
    others = [path for path in layout.root.iterdir() if not _is_format_in_the_making(path.name)]
    if layout.format_file.exists():
        found = layout.format_file.read_bytes()
        if found != FORMAT_TEXT:
            raise RecordingError(
                f"archive {layout.root}: FORMAT says {found[:40]!r}, {FORMAT_TEXT!r} expected",
                hint="give another folder, or use the release that made this archive",
            )
    elif others:
        raise RecordingError(
            f"archive {layout.root}: not empty, and no archive (no FORMAT file)",
            hint="give an empty or new folder",
        )
    else:
        replace(layout.format_file, FORMAT_TEXT, writer=gateway)
    make_folder(layout.journals(gateway))


def _is_format_in_the_making(name: str) -> bool:
    return name.startswith("FORMAT.") and name.endswith(".tmp")


def _make_reserve(path: Path) -> None:
    """Keep room for the last close, tick and seal of a full disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        os.posix_fallocate(fd, 0, RESERVE_BYTES)
        os.fsync(fd)
    finally:
        os.close(fd)


def _utf8(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = valid_text(text).encode()
    # The payload has all of it; a frame has its limit.
    return data if len(data) <= MAX_TEXT_BYTES else cut_text(data, MAX_TEXT_BYTES)
