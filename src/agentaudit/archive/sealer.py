"""The sealer: a low-priority process that turns a gateway's journal into signed Parquet.

It is the only writer of its gateway's log, and holds the lock and the key. It follows the journal
as it grows, so a seal has little left to do, and signs a tick of what it has read every two
seconds: behind a tick nothing inside an open segment can be rewritten unseen. Starting is
recovering: the same code reads what a crash left, closes what was open, and seals it.

It speaks lines of JSON: the gateway's settings come first on standard input, then policies as
they come into force, orders (purges and legal holds, which it alone may carry out, piece by piece
between its other work), and at last a `stop`. The end of the input means that the gateway has
died, and leaves its journal to the next start.

Crash story of a seal, in this order: files under their names, head, `seal` entry and checkpoint,
journal gone. Files without a `seal` are removed at start and made again; a journal with one is
only removed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gc
import os
import platform
import select
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Container, Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pyarrow as pa

from agentaudit._native.system import write_all
from agentaudit.archive import canonical, journal
from agentaudit.archive.anchors import Anchoring
from agentaudit.archive.batch import NO_STATUS, Entry
from agentaudit.archive.clocks import ScriptedClock
from agentaudit.archive.files import (
    PRIVATE_MODE,
    copy,
    make_folder,
    replace,
    sync_folder,
)
from agentaudit.archive.gaps import read_keys
from agentaudit.archive.journal import JournalReader, OpenSession
from agentaudit.archive.keys import EpochKeys, People, Place, epoch_statement, load_key
from agentaudit.archive.layout import TABLES, Layout, tile_end
from agentaudit.archive.log import LogWriter
from agentaudit.archive.note import Checkpoint, Signer, sign_note
from agentaudit.archive.open_segment import OpenSegment
from agentaudit.archive.outside import Outside
from agentaudit.archive.purge import Purger, Steps, Unsealed, finished, take
from agentaudit.archive.retention import Standing
from agentaudit.archive.rows import session_close_row
from agentaudit.archive.segment import read_batches
from agentaudit.archive.tracker import Tracker
from agentaudit.archive.witnessing import Witnessing
from agentaudit.errors import AgentauditError, ArchiveError, RecordingError, TamperedError
from agentaudit.model import Flag, Kind

TICK_S = 2.0
TURN_S = 0.5
HEARTBEAT_S = 60.0
EPOCH_S = 24 * 3600.0
POLL_S = 0.2
BURST_BYTES = 16 << 20
"""More than this unread at a look is a burst: over 80 MB/s, half of what one core can seal."""
WITNESS_WAIT_S = 5.0
"""How long the end of a gateway waits for its last checkpoint to be cosigned."""
_LOCK_WAIT_S = 10.0
_EVIDENCE_WAIT_S = 30.0
_SEAL_WAIT_S = 600.0
_STOP_WORK_S = 60.0
_NICE = 10


class _Order:
    """An order that is being carried out."""

    def __init__(self, number: int, message: dict[str, Any], steps: Steps) -> None:
        self.number = number
        self.message = message
        self.steps = steps
        self.needs_seal = message.get("do") == "erase" and not message.get("dry_run")
        """Whether the segment of its event must be sealed: of no other can anything be erased."""
        wait_s = _SEAL_WAIT_S if self.needs_seal else _EVIDENCE_WAIT_S
        self.deadline_s = time.monotonic() + wait_s

    @property
    def event_no(self) -> int | None:
        """The event of the control session that must be signed before the order is carried out."""
        event_no = self.message.get("event", self.message.get("decision"))
        return event_no if type(event_no) is int else None


class Sealer:
    """Follows, ticks and seals the journals of one gateway; `recover` comes first."""

    def __init__(
        self,
        place: Place,
        clock: str,
        say: Callable[[dict[str, Any]], None],
        outside: Outside | None = None,
        script: ScriptedClock | None = None,
    ) -> None:
        """Take the lock and open the log; `outside` is who is told of it.

        `clock` is the kind of the gateway's clock, and `script` that clock where a script moves it.

        Raises:
            RecordingError: another process has the lock, or there is no key.
            TamperedError: the log is not this key's.
        """
        self._place = place
        self._clock = clock
        self._script = script
        self._say = say
        self._layout = layout = Layout(place.archive)
        self._lock = _take_lock(layout.lock(place.gateway))
        self._signer: Signer = load_key(place)
        self._log = LogWriter(
            layout.log(place.gateway),
            place.log_origin,
            self._signer,
            memory=place.keys / f"{place.gateway}.checkpoint",
        )
        self._outside = outside or Outside()
        self._witnessing: Witnessing | None = None
        self._anchoring: Anchoring | None = None
        self._epoch_keys = EpochKeys(place)
        self._epoch_key = ""
        self._epoch_began_s = 0.0
        self._tracker = Tracker(place.gateway)
        self.is_behind = False
        """Whether the last turn knew of something unread when it ended."""
        self._burst_until_s: float | None = None
        self._calm_s = self._now_s()
        """When there was last no burst: what waits now has come since."""
        self._open: OpenSegment | None = None
        self._announced = False
        self._ticked = 0
        self._tick_due_s = 0.0
        self._heard_s = self._now_s()
        self._previous: UUID | None = None
        self._policy: str | None = None
        self._next_event_no = 0
        self._seals: dict[UUID, dict[str, Any]] = {}
        self._opened: set[UUID] = set()
        self._was_recording = False
        self._standing = Standing()
        # The purger names segments as entries do.
        self._sealed: dict[str, dict[str, Any]] = {}
        self._purger = Purger(
            layout,
            place.gateway,
            self._standing,
            self._sealed,
            self._append,
            lambda: People(place),
        )
        self._orders: deque[dict[str, Any]] = deque()
        self._order: _Order | None = None

    # --- start

    def recover(self) -> int:
        """Bring the archive to where the last gateway left it, sealed; return the next event_no.

        Raises:
            TamperedError: journal and log contradict each other; nothing was changed, but that
                an `incident` may have been logged.
        """
        place, layout = self._place, self._layout
        ticks = self._read_log()
        journals = journal.in_order(layout, place.gateway)
        self._require_evidence(set(journals))
        # A process that was killed may have made a folder, or moved a file, and not synced that.
        for folder in layout.folders(place.gateway):
            sync_folder(folder)
        if self._log.size == 0:
            self._begin_log()
        else:
            self._log.signers = [self._signer, self._epoch_keys.find(self._epoch_key)]
            self._begin_epoch()
        self._remove_unsealed()
        self._finish_purges()
        for segment in journals:
            if segment in self._seals:
                self._remove_journal(segment)
        unsealed = [segment for segment in journals if segment not in self._seals]
        for segment in unsealed:
            self._recover_segment(segment, ticks.get(segment, {}), segment == unsealed[-1])
        self._append({"type": "start", "version": version("agentaudit"), "clock": self._clock})
        log, outside = self._log, self._outside
        self._witnessing = Witnessing(
            log.folder, self._signer.verifier, outside.witnesses, self._say
        )
        self._anchoring = Anchoring(log.folder, log.found(), outside.anchors, self._say)
        return self._next_event_no

    def _finish_purges(self) -> None:
        """Finish what an earlier run began; a file that is in its way is in the way of it alone."""
        notice = {"notice": "a purge cannot be finished", "level": "error"}
        try:
            if holds := finished(self._purger.finish()):
                self._say(notice | {"reason": f"under legal hold {', '.join(holds)}"})
        except Exception as error:
            if not self._log.is_whole:
                raise
            why = _refusal("a purge", error)
            self._say(notice | {"reason": why["error"], "hint": why["hint"]})

    def _begin_log(self) -> None:
        place = self._place
        make_folder(self._layout.verifier_key(place.gateway).parent)
        replace(self._layout.verifier_key(place.gateway), f"{self._signer.verifier}\n".encode())
        epoch = self._epoch_keys.first()
        self._log.signers = [self._signer, epoch]
        self._append(
            {
                "type": "genesis",
                "format": 1,
                "origin": place.log_origin,
                "gateway": place.gateway,
                "host": platform.node(),
                "clock": self._clock,
                "key": str(self._signer.verifier),
                "epoch_key": str(epoch.verifier),
            }
        )
        self._epoch_began_s = self._now_s()

    def _begin_epoch(self) -> None:
        """Let the epoch key name the next one, and destroy it."""
        log = self._log
        old = log.signers[1]
        new = self._epoch_keys.propose()
        vkey = str(new.verifier)
        statement = epoch_statement(log.origin, log.size, log.root, vkey)
        signature = base64.b64encode(old.sign(statement)).decode()
        log.signers = [self._signer, new]
        self._append({"type": "key_epoch", "key": vkey, "signature": signature})
        self._epoch_keys.adopt()
        self._epoch_began_s = self._now_s()

    def _read_log(self) -> dict[UUID, dict[int, bytes]]:
        """Take up where the log ends; return the ticks of each segment that has no seal."""
        ticks: dict[UUID, dict[int, bytes]] = {}
        for entry in self._log.found():
            take(self._layout, self._standing, entry)
            if entry["type"] in ("start", "stop", "retire"):
                self._was_recording = entry["type"] == "start"
            elif entry["type"] == "open_segment":
                self._opened.add(UUID(entry["segment"]))
            elif entry["type"] == "tick":
                segment = UUID(entry["segment"])
                ticks.setdefault(segment, {})[entry["n"]] = bytes.fromhex(entry["root"])
            elif entry["type"] == "seal":
                self._previous = UUID(entry["segment"])
                self._seals[self._previous] = self._sealed[entry["segment"]] = entry
                self._opened.discard(self._previous)
                ticks.pop(self._previous, None)
                self._next_event_no = entry["first_event"] + entry["n"]
            elif entry["type"] == "policy":
                self._policy = entry["sha256"]
            elif entry["type"] == "genesis":
                self._epoch_key = entry["epoch_key"]
            elif entry["type"] == "key_epoch":
                self._epoch_key = entry["key"]
        return ticks

    def _require_evidence(self, journals: set[UUID]) -> None:
        """Refuse to start where log, files and journals cannot come from one history.

        A crash always leaves the journal of a segment that has no seal, because the journal goes
        last: whatever else is missing, somebody has removed or rolled back.
        """
        for segment in self._opened - set(self._seals) - journals:
            raise TamperedError(
                f"segment {segment}: begun in the log, and its journal is gone",
                hint="put the journal back, or keep this archive as it is and begin a new one",
            )
        ours = {str(segment) for segment in journals}
        for path in self._unsealed():
            # What a purge was making of a sealed segment is made again.
            is_rewrite = path.suffix == ".tmp" and path.name.split(".")[0] in self._sealed
            if path.name.split(".")[0] not in ours and not is_rewrite:
                raise TamperedError(
                    f"{path.relative_to(self._layout.root)}: no seal names it, and it has no "
                    "journal",
                    hint="the log was rolled back, or the file is foreign; put back what belongs",
                )
        if journals and self._log.size == 0:
            raise TamperedError(
                f"log {self._place.gateway}: gone, and there is a journal",
                hint="put the log back; a log never begins anew",
            )
        for segment in () if self._was_recording else journals - set(self._seals):
            reader = JournalReader(self._layout.journal(self._place.gateway, segment))
            if next(reader.read(), None) is not None:
                raise TamperedError(
                    f"{reader.path.name}: it has events, and the log says that nothing was "
                    "recording",
                    hint="a gateway that stops leaves no journal: take this one out, and keep it",
                )

    def _unsealed(self) -> Iterator[Path]:
        """Yield this gateway's Parquet files that no seal names."""
        layout = self._layout
        named = {file["path"] for seal in self._seals.values() for file in seal["files"].values()}
        for table in TABLES:
            for path in (layout.root / table / f"gw={self._place.gateway}").glob("date=*/*"):
                if path.relative_to(layout.root).as_posix() not in named:
                    yield path

    def _remove_unsealed(self) -> None:
        """Remove what a crash left half made: files without a seal, tiles without a checkpoint."""
        layout, gateway = self._layout, self._place.gateway
        log = layout.log(gateway)
        for path in (
            *self._unsealed(),
            *layout.journals(gateway).glob("*.tmp"),
            *log.glob("*.tmp"),
        ):
            path.unlink()
        for path in log.glob("tile/**/*"):
            if path.is_file():
                end = tile_end(path.relative_to(log).as_posix())
                if end is None or end > self._log.size:
                    path.unlink()

    def _recover_segment(self, segment: UUID, ticks: dict[int, bytes], is_last: bool) -> None:
        self._begin_segment(segment, ticks)
        assert self._open is not None
        open_segment, reader = self._open, self._open.reader
        try:
            self._read_whole(open_segment, is_last)
        except TamperedError as error:
            self._report_incident(reader.path, error)
            raise
        if is_last:
            self._close_open_sessions(reader.path, reader.offset)
            for batch in open_segment.batches():
                open_segment.add(batch)
        self._seal()

    @staticmethod
    def _read_whole(open_segment: OpenSegment, is_last: bool) -> None:
        """Read a journal that nobody writes any more, and hold it against what was signed."""
        reader = open_segment.reader
        for batch in open_segment.batches():
            open_segment.add(batch)
            open_segment.tracker.follow(batch)
        if reader.damage() and not is_last:
            raise TamperedError(
                f"{reader.path.name}: invalid at byte {reader.offset}, and its segment was over",
                hint="the journal was changed or the disk lost a write; keep a copy of it",
            )
        if open_segment.ticks:
            raise TamperedError(
                f"{reader.path.name}: {open_segment.tree.size} events, a signed tick says "
                f"{max(open_segment.ticks)}",
                hint="the journal was cut back; keep a copy of the archive before anything else",
            )

    def _close_open_sessions(self, path: Path, end: int) -> None:
        """Cut a torn tail, and journal an end for every session and command under way."""
        assert self._open is not None
        marker = self._open.reader.header.marker
        next_event_no = self._open.reader.header.first_event_no + self._open.tree.size
        frames: list[bytes] = []

        def append(state: OpenSession, seq: int, kind: Kind, command_no: int, row: Any) -> None:
            payload = canonical.encode(row)
            entry = Entry(
                event_no=next_event_no + len(frames),
                observed_us=self._now_us(),
                mono_ns=self._mono_ns(),
                session_id=state.session_id.bytes,
                seq=seq,
                command_no=command_no,
                kind=kind,
                flags=Flag.SYNTHETIC,
                status=NO_STATUS,
                orig_len=0,
                stored_len=len(payload),
                text=None,
                payload=payload,
            )
            frames.append(journal.encode_frame(marker, entry.fixed, None, payload))

        sessions = list(self._tracker.sessions.values())
        for tracked in sessions:
            state, seq, commands = tracked.state, tracked.state.events, tracked.state.commands
            for command_no, command in sorted(tracked.in_flight.items()):
                row = command.row(next_event_no + len(frames) - 1)
                append(state, seq, Kind.COMMAND_END, command_no, row)
                seq += 1
                commands += 1
            close = session_close_row(
                reason="gateway_crash",
                closed_us=self._open.last_us or state.opened_us,
                last_seq=seq,
                commands=commands,
                bytes_in=state.bytes_in,
                bytes_out=state.bytes_out,
                masked=state.masked,
            )
            append(state, seq, Kind.SESSION_CLOSE, -1, close)
        recovery: dict[str, Any] = {"type": "recovery", "segment": str(self._open.segment)}
        if tail := self._open.reader.damage():
            recovery |= {"cut_bytes": len(tail), "cut_sha256": sha256(tail).hexdigest()}
        # Logged before the tail is cut: a cut that nobody recorded would be a silent loss.
        self._append(recovery | {"sessions_closed": len(sessions)})
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, end)
            # Else a power cut could leave new frames upon the tail that was to be cut.
            os.fsync(fd)
            os.lseek(fd, end, os.SEEK_SET)
            write_all(fd, b"".join(frames))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _report_incident(self, path: Path, error: TamperedError) -> None:
        """Log that a journal contradicts itself or the log, once, and keep a copy of it."""
        told = (entry["journal"] for entry in self._log.found() if entry["type"] == "incident")
        if path.name not in told:
            copy(path, path.with_name(path.name + ".incident"), mode=PRIVATE_MODE)
            self._append({"type": "incident", "journal": path.name, "what": str(error)})

    # --- following

    def is_to_wait(self) -> bool:
        """Say whether so much comes in that it is better left alone until a tick is due.

        What is large is mostly short, a table that is read or copied: while that goes on, the
        processors and the disk are its own.
        """
        folder = self._layout.journals(self._place.gateway)
        read = 0 if self._open is None else self._open.reader.offset
        if sum(path.stat().st_size for path in folder.glob("*.journal")) - read < BURST_BYTES:
            self._burst_until_s = None
            self._calm_s = self._now_s()
            return False
        now_s = self._now_s()
        if self._burst_until_s is None:
            # Overdue where nothing came for long, or a seal took long: what is unread came since.
            is_overdue = now_s >= self._tick_due_s
            self._burst_until_s = (
                (self._calm_s + TICK_S - POLL_S) if is_overdue else self._tick_due_s
            )
        return now_s < self._burst_until_s

    def turn(self) -> bool:
        """Read what was journaled since the last turn, seal and tick; say whether there was any."""
        self._meet_outside()
        journals = journal.in_order(self._layout, self._place.gateway)
        if self._open is None:
            if not journals:
                return False
            self._begin_segment(journals[0], {})
        assert self._open is not None
        had_any = False
        # Listed before it is read: once a later journal is there, nothing is added to this one.
        is_over = journals[-1] != self._open.segment
        now_s, started_s = self._now_s(), time.monotonic()
        if now_s - self._epoch_began_s >= EPOCH_S:
            self._begin_epoch()
        self.is_behind = False
        for batch in self._open.batches():
            self._open.add(batch)
            had_any = True
            now_s = self._now_s()
            if time.monotonic() - started_s > TURN_S:
                # Under load the end of a journal may never come; ticks and orders must.
                self.is_behind = True
                break
        if had_any:
            self._heard_s = now_s
        if is_over and not self.is_behind:
            self._seal()
            self.is_behind = True  # the next journal is there
        elif self._open.tree.size > self._ticked and now_s >= self._tick_due_s:
            self._tick()
        elif now_s - self._heard_s >= HEARTBEAT_S:
            self._heard_s = now_s
            next_event = self._next_event_no + self._open.tree.size
            self._append({"type": "heartbeat", "next_event": next_event})
        return had_any

    def set_policy(self, digest: str) -> None:
        """Log that the rules whose document has this SHA-256 are in force from now on."""
        if digest != self._policy:
            self._policy = digest
            self._append({"type": "policy", "sha256": digest})

    # --- orders

    def order(self, message: dict[str, Any]) -> None:
        """Take an order; `work` carries it out, after those before it, and says what came of it."""
        self._orders.append(message)

    def work(self, budget_s: float = TURN_S) -> bool:
        """Carry on with what was ordered, for about `budget_s`; say whether there is more to do.

        An order that cannot be carried out is answered with the reason and ends nothing else.

        Raises:
            OSError: the log or the journal cannot be written.
        """
        deadline_s = time.monotonic() + budget_s
        while self._order is not None or self._orders:
            if self._order is None:
                message = self._orders.popleft()
                self._order = _Order(message["order"], message, self._carry_out(message))
            order = self._order
            if self._has_evidence(order):
                answer = self._step(order)
            elif time.monotonic() > order.deadline_s:
                what = f"event {order.event_no}: not recorded"
                answer = {"error": what, "hint": "an order needs its event first"}
            else:
                break
            if answer is not None:
                self._order = None
                self._say({"order": order.number, **answer})
            if time.monotonic() >= deadline_s:
                break
        return self._order is not None or bool(self._orders)

    def _step(self, order: _Order) -> dict[str, Any] | None:
        """Take an order's next step; return the answer to it once there is one."""
        try:
            next(order.steps)
        except StopIteration as done:
            return {"result": done.value}
        except Exception as error:
            if not self._log.is_whole:
                raise  # nobody can sign any more: that is the end of more than this order
            return _refusal(f"order {order.message.get('do')}", error)
        return None

    def _has_evidence(self, order: _Order) -> bool:
        """Say whether the event that says who ordered it is signed: what it does comes after."""
        event_no = order.event_no
        if event_no is None or self._next_event_no > event_no:
            return True
        if order.needs_seal:
            return False
        if self._next_event_no + self._ticked > event_no:
            return True
        if self._next_event_no + (self._open.tree.size if self._open else 0) > event_no:
            self._tick()
            return True
        return False

    def _carry_out(self, message: dict[str, Any]) -> Steps:
        purger, do = self._purger, message["do"]
        now_us = self._now_us()
        yield
        if do == "retention_plan":
            return (yield from purger.plan(now_us))
        if do == "retention_apply":
            return (yield from purger.apply(now_us, message["event"]))
        if do == "erase":
            is_dry = bool(message.get("dry_run"))
            erasing = purger.erase(
                message["selector"],
                message.get("decision", -1),
                now_us if is_dry else message["decided_at"],
                self._unsealed_sessions(),
                dry_run=is_dry,
            )
            return (yield from erasing)
        if do == "legal_hold_set":
            hold = message.get("hold", "")
            return purger.hold(message["selector"], message["event"], now_us, hold)
        if do == "legal_hold_release":
            return purger.release(message["hold"], message["event"])
        raise RecordingError(f"order {do!r}: not one that a sealer knows")

    def _unsealed_sessions(self) -> list[Unsealed]:
        """Return the sessions that are open, or have closed in the segment that is not sealed."""
        tracker = self._tracker
        seen = tracker.seen.values() if self._open is not None else ()
        closed = [each for each in seen if each.close is not None]
        return [
            Unsealed(str(each.state.session_id), each.fact("user_hmac"), is_open=each.close is None)
            for each in (*tracker.sessions.values(), *closed)
        ]

    def stop(self) -> None:
        """Seal what there is and log that recording has stopped.

        What was ordered goes on for a while; the next start finishes a purge that takes longer.
        """
        deadline_s = time.monotonic() + _STOP_WORK_S
        while self.work() and time.monotonic() < deadline_s:
            self.turn()
        while self._layout.journal_segments(self._place.gateway):
            if not self.turn() and self._open is not None:
                self._seal()
        self._layout.reserve(self._place.gateway).unlink(missing_ok=True)
        self._append({"type": "stop", "next_event": self._next_event_no})
        if self._witnessing is None:
            return
        self._witnessing.hurry()
        self._meet_outside()
        until_s = time.monotonic() + WITNESS_WAIT_S
        while self._witnessing.is_under_way and time.monotonic() < until_s:
            time.sleep(0.02)
            self._meet_outside()

    def _meet_outside(self) -> None:
        """Go on with witnesses and anchors, keeping what has come back; never waits for them."""
        if self._witnessing is None or self._anchoring is None:
            return  # nothing is told of a log before it is recovered
        log, now_s = self._log, time.monotonic()
        cosigned = self._witnessing.turn(log.size, log.note, now_s)
        if cosigned is not None:
            log.keep_cosigned(cosigned)
        anchor = self._anchoring.turn(log.checkpoint, now_s)
        if anchor is not None:
            self._append(anchor)

    def _begin_segment(self, segment: UUID, ticks: dict[int, bytes]) -> None:
        reader = JournalReader(self._layout.journal(self._place.gateway, segment))
        if reader.header.first_event_no != self._next_event_no:
            raise TamperedError(
                f"{reader.path.name}: begins at event {reader.header.first_event_no}, "
                f"{self._next_event_no} expected",
                hint="a segment before it is missing; keep a copy of the archive",
            )
        self._resume(reader)
        self._tracker.begin_segment()
        self._open = OpenSegment(reader, self._tracker, self._layout)
        self._open.ticks = dict(ticks)
        self._announced = segment in self._opened
        self._ticked = 0

    def _resume(self, reader: JournalReader) -> None:
        """Take up the sessions that a sealer before this one has followed so far.

        What they are is in their sealed events; the header only says which to look for, and since
        when, for nothing signs it.

        Raises:
            TamperedError: the header says something else than those events.
        """
        tracker, sessions = self._tracker, reader.header.sessions
        opened_at = {s.session_id.bytes: s.open_event_no for s in sessions}
        unknown = {one: at for one, at in opened_at.items() if one not in tracker.sessions}
        if unknown:
            self._replay(unknown.keys(), since=min(unknown.values()))
        was_open = 0 if self._previous is None else self._seals[self._previous]["sessions_open"]
        found = [*tracker.contradictions(sessions)]
        if len(tracker.sessions) < was_open:
            listed = f"{len(tracker.sessions)} of {was_open}"
            found.append(f"its header does not list sessions that are open: {listed}")
        if found:
            raise TamperedError(
                f"{reader.path.name}: {found[0]}",
                hint="the journal or a sealed file was changed; keep a copy of the archive",
            )

    def _replay(self, sessions: Container[bytes], *, since: int) -> None:
        """Follow `sessions` through the segments that are sealed, from event `since` on."""
        tracker, root = self._tracker, self._layout.root
        for seal in self._seals.values():
            remains = self._standing.segments[seal["segment"]]
            # Nothing of a session that is open goes: what has gone whole has none of its rows.
            if seal["first_event"] + seal["n"] <= since or remains.is_gone:
                continue
            files = {name: root / file["path"] for name, file in remains.files.items()}
            # Of a session that is open no key is destroyed.
            keys = cast("dict[bytes, dict[str, bytes]]", read_keys(files["sessions"]))
            for batch in read_batches(files["events"], files.get("blobs")):
                tracker.replay(batch, sessions, keys)

    def _announcement(self) -> list[dict[str, Any]]:
        assert self._open is not None
        if self._announced:
            return []
        self._announced = True
        header = self._open.reader.header
        return [
            {
                "type": "open_segment",
                "segment": str(header.segment),
                "first_event": header.first_event_no,
            }
        ]

    def _tick(self) -> None:
        """Sign the head of what was read of the open segment, once it is durable."""
        assert self._open is not None
        n = self._open.tree.size
        with self._open.reader.path.open("rb") as file:
            os.fdatasync(file.fileno())
        tick = {
            "type": "tick",
            "segment": str(self._open.segment),
            "n": n,
            "root": self._open.tree.root().hex(),
        }
        self._append(*self._announcement(), tick)
        self._ticked = n
        # It looks every POLL_S: what waits to be signed is not much older than TICK_S.
        self._tick_due_s = self._now_s() + TICK_S - POLL_S
        self._say({"ticked": self._open.reader.header.first_event_no + n})

    def _seal(self) -> None:
        open_segment, layout, place = self._open, self._layout, self._place
        assert open_segment is not None
        segment, header, tree = open_segment.segment, open_segment.reader.header, open_segment.tree
        if tree.size == 0:
            # No events, no files: a segment that was never used leaves no trace.
            self._remove_journal(segment)
            self._open = None
            return
        files = open_segment.finish()
        checkpoint = Checkpoint(f"{place.log_origin}/seg/{segment}", tree.size, tree.root())
        note = sign_note(checkpoint.text(), self._log.signers)
        head = layout.head(segment)
        make_folder(head.parent)
        replace(head, note)
        tracker = self._tracker
        seal = {
            "type": "seal",
            "segment": str(segment),
            "previous": None if self._previous is None else str(self._previous),
            "first_event": header.first_event_no,
            "n": tree.size,
            "root": tree.root().hex(),
            "head": note.decode(),
            "files": files,
            "first_at": open_segment.first_us,
            "last_at": open_segment.last_us,
            "sessions_opened": tracker.opened,
            "sessions_closed": tracker.closed,
            "sessions_open": len(tracker.sessions),
            "sessions_root": tracker.closed_sessions.root().hex(),
            "commands": tracker.ended,
            "decisions": len(tracker.decisions),
            "clock": self._clock,
            "policy": self._policy,
        }
        self._append(*self._announcement(), seal)
        self._seals[segment] = self._sealed[str(segment)] = seal
        self._previous = segment
        self._next_event_no = header.first_event_no + tree.size
        self._open = None
        self._ticked = 0
        self._remove_journal(segment)
        if self._witnessing is not None:
            self._witnessing.hurry()
        self._say({"ticked": self._next_event_no, "sealed": str(segment)})

    def _remove_journal(self, segment: UUID) -> None:
        path = self._layout.journal(self._place.gateway, segment)
        path.unlink()
        sync_folder(path.parent)

    def _now_us(self) -> int:
        return time.time_ns() // 1000 if self._script is None else self._script.now_us()

    def _mono_ns(self) -> int:
        return time.monotonic_ns() if self._script is None else self._script.mono_ns()

    def _now_s(self) -> float:
        """Return seconds that never go back, by the gateway's clock: what ticks and epochs are of.

        How long anything may take is of the machine's own.
        """
        return time.monotonic() if self._script is None else self._script.mono_ns() / 1e9

    def _append(self, *entries: dict[str, Any]) -> None:
        now_us = self._now_us()
        dated = [{"at": now_us, **entry} for entry in entries]
        self._log.append(dated)
        for entry in dated:
            take(self._layout, self._standing, entry)


def _take_lock(path: Path) -> int:
    """Return the locked descriptor; it is held until the process ends, however it ends.

    Waits a little: after a crash of the gateway its old sealer needs a moment to notice.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RecordingError(
                    f"{path}: another gateway records under this name",
                    hint="give each gateway a [gateway] name of its own",
                ) from None
            time.sleep(0.05)


def _refusal(what: str, error: Exception) -> dict[str, Any]:
    """Return why `what` was not done; of an error of our own only its kind and place."""
    if isinstance(error, AgentauditError):
        return {"error": str(error), "hint": error.hint}
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return {"error": f"{what}: {where}{error.strerror}", "hint": "mend the disk, and try again"}
    # Not the value: what is recorded may be in its text.
    place = traceback.extract_tb(error.__traceback__)[-1]
    traceback.print_tb(error.__traceback__)
    at = f"{Path(place.filename).name}:{place.lineno}"
    return {"error": f"{what}: {type(error).__name__} at {at}", "hint": "report it with the trace"}


def _follow(place: Place, settings: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> int:
    script = ScriptedClock(Path(settings["clock_file"])) if settings["clock_file"] else None
    outside = Outside.from_json(settings["outside"])
    sealer = Sealer(place, settings["clock"], say, outside, script)
    say({"ready": {"next_event_no": sealer.recover()}})
    received = b""
    wait_s, has_more = POLL_S, False
    while True:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
        if readable:
            data = os.read(sys.stdin.fileno(), 4096)
            if not data:
                return 0
            *lines, received = (received + data).split(b"\n")
            for message in map(canonical.decode, lines):
                if "policy" in message:
                    sealer.set_policy(message["policy"])
                elif "order" in message:
                    sealer.order(message)
                    has_more = True
                elif message["stop"]:
                    sealer.stop()
                    return 0
                else:
                    return 0
        if not has_more and sealer.is_to_wait():
            wait_s = POLL_S
            continue
        sealer.turn()
        has_more = sealer.work()
        # A batch costs as much as a thousand events: under load they are let to gather.
        wait_s = 0.0 if sealer.is_behind or has_more else POLL_S


def _first_line(fd: int) -> bytes:
    """Return the first line, and read no further: what follows is for `select` to see."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(fd, 1)):
        line += byte
    return line


def disk_error(place: Place, error: OSError) -> tuple[str, str]:
    """Return what a sealer says, and hints at, whose disk has failed."""
    # Arrow's own have no number and no words of the system's.
    why = error.strerror or type(error).__name__
    return f"archive {place.archive}: sealer: {why}", "mend the disk, then restart"


def main() -> int:
    """Run the sealer of the gateway that started this process."""

    def say(message: dict[str, Any]) -> None:
        try:
            os.write(sys.stdout.fileno(), canonical.encode(message) + b"\n")
        except BrokenPipeError:
            pass  # the gateway is gone; the end of the input says so too

    os.nice(_NICE)
    # A session of its own is a scheduling group of its own where the kernel makes such groups, and
    # then only the group's own niceness counts beside the gateway.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE), encoding="ascii")
    # Rows come and go by the thousand and hold no cycles: looking for some each time costs 4 %.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    settings = canonical.decode(_first_line(sys.stdin.fileno()))
    place = Place(
        archive=Path(settings["archive"]),
        gateway=settings["gateway"],
        origin=settings["origin"],
        keys=Path(settings["keys"]),
    )
    try:
        return _follow(place, settings, say)
    except AgentauditError as error:
        kinds = (TamperedError, ArchiveError)
        kind = next((k.__name__ for k in kinds if isinstance(error, k)), "RecordingError")
        say({"error": str(error), "hint": error.hint, "kind": kind})
    except OSError as error:
        what, hint = disk_error(place, error)
        say({"error": what, "hint": hint, "kind": "RecordingError"})
    except (pa.ArrowException, ValueError, LookupError, TypeError) as error:
        # Names the fault, not the value: what is recorded may be in its text.
        what = f"archive {place.archive}: sealer: {type(error).__name__}"
        traceback.print_tb(error.__traceback__)
        say({"error": what, "hint": "report it with the trace", "kind": "RecordingError"})
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
