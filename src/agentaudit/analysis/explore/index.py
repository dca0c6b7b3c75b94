"""An index over a case that answers while it is built, grows with the archive, and leaves nothing.

A thread of its own builds and refreshes it; whoever asks is answered from what there is, and told
how old that is. First there is an outline, how many and when, of what the files say of themselves;
within seconds a sketch, hours by class; then the whole index. Questions may come on any thread. A
question on a channel drops the one before it on the same channel: a screen that moved on no longer
wants that answer.
"""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

import duckdb

from agentaudit.analysis.case import Case
from agentaudit.analysis.explore import answers
from agentaudit.analysis.explore.answers import DROPPED, Answers, Rebuilt, Superseded, Turn
from agentaudit.analysis.explore.asking import arguments as checked
from agentaudit.analysis.explore.built import Built, Stopped, private_folder
from agentaudit.analysis.explore.filters import Filter
from agentaudit.analysis.explore.look import Look, stamps
from agentaudit.analysis.explore.sketch import Sketch, outline
from agentaudit.archive.snapshot import Snapshot
from agentaudit.errors import AgentauditError, QuestionError

_LOOK_S = 0.25
"""How long an answer may be older than the archive before anybody looks whether it has grown."""
_TAIL_ROWS = 250_000
"""Sealed commands behind the sorted ones up to which these are not sorted again."""
_KEPT_ANSWERS = 128
_KEPT_BYTES = 256 << 10
_MAX_CHANNELS = 100
_END_S = 10.0
_AGAIN_S = 5.0
"""How long after a failure the archive is looked at again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Facts for JSON, and Arrow streams; `facts` has what every answer says, see `Index.answer`."""

    facts: dict[str, Any]
    buffers: tuple[bytes, ...]


class Index:
    """Answers about every command of a case; close it, or use it as a context.

    It builds itself on a thread; `wait` waits for that.
    """

    def __init__(self, case: Case | Look) -> None:
        look = case if isinstance(case, Look) else Look(case)
        self._state = _State(look)
        self._thread = threading.Thread(
            target=_work, args=(self._state,), name="agentaudit-index", daemon=True
        )
        # Nothing recorded may be left behind, whoever forgets to close.
        self._finish = weakref.finalize(self, _end, self._state, self._thread)
        self._thread.start()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and remove what was written; questions after that are refused."""
        self._finish()

    @property
    def is_ready(self) -> bool:
        """Whether every question is answered in full."""
        return self._state.built is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the index is there; return whether it is.

        Raises:
            AgentauditError: it cannot be built.
        """
        self._state.settled.wait(timeout_s)
        if self._state.error is not None:
            raise self._state.error
        return self.is_ready

    def refresh(self, timeout_s: float | None = None) -> bool:
        """Take up what the archive has now, and return whether that was done in time.

        Raises:
            AgentauditError: the archive cannot be read any more.
        """
        done = self._state.ask_for_refresh()
        if not done.wait(timeout_s):
            return False
        if self._state.error is not None:
            raise self._state.error
        return True

    def answer(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, channel: str = ""
    ) -> Answer:
        """Return the answer to one of the named questions; see `Answers`.

        `arguments` may come from a browser: JSON-like, and not believed. A newer question on the
        same `channel` (any text but the empty one) ends this one with `Superseded`. `facts` has,
        beside what the question is about: `ready` (whether the index is there; before that only
        `overview` and `bins` say anything, and `bins` nothing finer than an hour), `generation`
        (another number after each change), `behind` (the archive has grown since), `progress`, and
        `build`: an `id` is of that build alone, so whoever asks about one gives that number too.

        Raises:
            QuestionError: no such question, or arguments that it does not take.
            Rebuilt: the `build` that was given is no more, say because something was purged.
            Superseded: see above.
            AgentauditError: the archive cannot be read.
        """
        given = checked(name, arguments)
        state = self._state
        state.look()
        if state.error is not None and state.built is None:
            raise state.error
        return state.answer(name, given, channel)

    # What Python asks; a browser asks by `answer`.

    def overview(self) -> Answer:
        """See `Answers.overview`; and `gateways`, each with its `clock`."""
        return self.answer("overview")

    def bins(
        self,
        filter: Filter | None = None,
        *,
        since: int,
        until: int,
        width: int = 1_200,
        lanes: str = "none",
    ) -> Answer:
        """See `Answers.bins`."""
        return self._asked("bins", filter, since=since, until=until, width=width, lanes=lanes)

    def marks(
        self,
        filter: Filter | None = None,
        *,
        since: int,
        until: int,
        lanes: str = "none",
        limit: int = answers.MAX_MARKS,
    ) -> Answer:
        """See `Answers.marks`."""
        return self._asked("marks", filter, since=since, until=until, lanes=lanes, limit=limit)

    def facets(self, filter: Filter | None = None) -> Answer:
        """See `Answers.facets`."""
        return self._asked("facets", filter)

    def values(
        self,
        facet: str,
        filter: Filter | None = None,
        *,
        text: str = "",
        offset: int = 0,
        limit: int = answers.TOP_VALUES,
    ) -> Answer:
        """See `Answers.values`."""
        return self._asked("values", filter, facet=facet, text=text, offset=offset, limit=limit)

    def rows(
        self,
        filter: Filter | None = None,
        *,
        order: str = "newest",
        offset: int = 0,
        after: tuple[int, int] | None = None,
        limit: int = 200,
        build: int | None = None,
    ) -> Answer:
        """See `Answers.rows`; `after` is `t` and `id` of a command, the id being of `build`."""
        behind = None if after is None else {"t": after[0], "id": after[1]}
        page = {"order": order, "offset": offset, "after": behind, "limit": limit, "build": build}
        return self._asked("rows", filter, **page)

    def position(
        self,
        filter: Filter | None = None,
        *,
        t: int,
        id: int | None = None,
        order: str = "newest",
        build: int | None = None,
    ) -> Answer:
        """See `Answers.position`; the `id` is of `build`."""
        return self._asked("position", filter, t=t, id=id, order=order, build=build)

    def sessions(
        self,
        filter: Filter | None = None,
        *,
        order: str = "newest",
        offset: int = 0,
        limit: int = 100,
    ) -> Answer:
        """See `Answers.sessions`."""
        return self._asked("sessions", filter, order=order, offset=offset, limit=limit)

    def locate(self, session: UUID | str, command_no: int) -> Answer:
        """See `Answers.locate`."""
        return self.answer("locate", {"session": str(session), "command_no": command_no})

    def _asked(self, name: str, filter: Filter | None, **arguments: Any) -> Answer:
        return self.answer(
            name, {"filter": None if filter is None else filter.to_json(), **arguments}
        )


class _State:
    """What the thread and those who ask share; the `Index` itself may be dropped meanwhile."""

    def __init__(self, look: Look) -> None:
        self.look_at = look
        self.built: Built | None = None
        self.sketch: Sketch | None = None
        self.building: Built | None = None
        self.error: AgentauditError | None = None
        self.progress: tuple[str, float] = ("opening", 0.0)
        self.settled = threading.Event()
        self.gateways: list[dict[str, Any]] = []
        self.is_closed = False
        self.generation = 0
        # From anywhere: a page may outlive this process, and its ids are none of another's index.
        self._builds = secrets.randbits(40)
        self._seen: object = None
        self._looked = 0.0
        self._is_behind = False
        self._is_wanted = False
        self._wake = threading.Condition()
        self.warnings: tuple[str, ...] = ()
        self._waiting: list[threading.Event] = []
        self._newest: dict[str, Turn] = {}
        self._running: dict[Turn, duckdb.DuckDBPyConnection] = {}
        self._answers: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._lock = threading.Lock()

    # --- the thread's part

    def build(self) -> None:
        """Build from nothing, and take the place of what there was."""
        stamp = self.look_at.stamp()
        snap = self._snapshot()
        files = stamps(snap.files["commands"])
        self.gateways = self.look_at.gateways()
        self._builds += 1
        fresh = Built(self.look_at.archive, private_folder(), self._builds)
        with self._lock:
            self.building = fresh
        # Whoever closes after this line closes that one too.
        self._require_open(fresh)
        try:
            if self.built is None:
                self.sketch = outline(snap)
                self.generation += 1
                self.sketch = Sketch(*fresh.sketch(snap))
                self.generation += 1
            fresh.build(snap, files, self._report)
        except BaseException:
            fresh.close()
            raise
        finally:
            with self._lock:
                self.building = None
        with self._lock:
            old, self.built = self.built, fresh
        self._require_open(fresh)
        self._taken(stamp)
        if old is not None:
            old.close()

    def refresh(self) -> None:
        """Take up what the archive has now."""
        stamp = self.look_at.stamp()
        if stamp == self._seen and self.built is not None:
            self._is_behind = False
            return
        built = self.built
        if built is None:
            self.build()
            return
        snap = self._snapshot()
        files = stamps(snap.files["commands"])
        if not built.take_tail(snap, files):
            self.build()
            return
        self._taken(stamp)
        if built.sealed_tail_rows > _TAIL_ROWS:
            self.build()

    def _snapshot(self) -> Snapshot:
        snap = self.look_at.snapshot()
        self.warnings = tuple(snap.contradictions) + tuple(
            f"{name} may not be read, so what is live is missing" for name in snap.unread
        )
        return snap

    def _require_open(self, fresh: Built) -> None:
        if self.is_closed:
            fresh.close()
            raise Stopped

    def _taken(self, stamp: object) -> None:
        with self._lock:
            self._seen = stamp
            self._is_behind = False
            self.generation += 1
            self._answers.clear()

    def _report(self, step: str, share: float) -> None:
        self.progress = (step, round(share, 3))

    def next_turn(self) -> list[threading.Event] | None:
        """Wait until somebody wants a refresh; return whom to tell, or None at the end."""
        with self._wake:
            while not self._waiting and not self._is_wanted and not self.is_closed:
                self._wake.wait()
            self._is_wanted = False
            if self.is_closed:
                return None
            waiting, self._waiting = self._waiting, []
            return waiting

    # --- what those who ask do

    def ask_for_refresh(self) -> threading.Event:
        done = threading.Event()
        with self._wake:
            if self.is_closed:
                raise QuestionError("index: it is closed")
            self._waiting.append(done)
            self._wake.notify_all()
        return done

    def look(self) -> None:
        """Wake the thread if the archive has grown, or could not be read the last time."""
        now = time.monotonic()
        if now - self._looked < (_LOOK_S if self.error is None else _AGAIN_S):
            return
        if self.built is None and self.error is None:
            return  # it is being built
        self._looked = now
        if self.error is not None or self.look_at.stamp() != self._seen:
            with self._wake:
                self._is_behind = self._is_wanted = True
                self._wake.notify_all()

    def answer(self, name: str, given: Mapping[str, Any], channel: str) -> Answer:
        turn = Turn(channel)
        with self._lock:
            if self.is_closed:
                raise QuestionError("index: it is closed")
            if channel:
                self._newest.pop(channel, None)
                self._newest[channel] = turn
                while len(self._newest) > _MAX_CHANNELS:
                    self._newest.pop(next(iter(self._newest)))
                for running, cursor in self._running.items():
                    if running.channel == channel:
                        running.is_over = True
                        cursor.interrupt()
            built, generation = self.built, self.generation
        if built is None:
            return self._said(self._sketched(name, given), generation)
        key = (generation, name, repr(sorted(given.items(), key=lambda item: item[0])))
        with self._lock:
            kept = self._answers.get(key)
            if kept is not None:
                self._answers.move_to_end(key)
        if kept is not None:
            return self._said(kept, generation)
        try:
            found = self._ask(built, name, given, turn)
        except Stopped:
            # It was replaced between two lines of ours: ask what took its place.
            with self._lock:
                again = self.built
            if again is None or again is built:
                raise QuestionError("index: it is closed") from None
            found = self._ask(again, name, given, turn)
        if sum(map(len, found.buffers)) <= _KEPT_BYTES:
            with self._lock:
                if generation == self.generation:
                    self._answers[key] = found
                    while len(self._answers) > _KEPT_ANSWERS:
                        self._answers.popitem(last=False)
        return self._said(found, generation)

    def _ask(self, built: Built, name: str, given: Mapping[str, Any], turn: Turn) -> Answer:
        arguments = dict(given)
        if arguments.pop("build", None) not in (None, built.number):
            raise Rebuilt(f"{name}: the archive was read anew since; what was shown is no more")
        wanted = arguments.pop("filter", Filter())
        base = built.base(wanted.text, lambda cursor: self.taking(cursor, turn))
        with built.reading() as cursor, self.taking(cursor, turn):
            if base.rows is not None:
                cursor.register(base.table, base.rows)
            facts, buffers = getattr(Answers(built, cursor, wanted, base, turn), name)(**arguments)
        if name == "overview":
            facts["gateways"] = self.gateways
            facts["warnings"] = list(self.warnings)
        return Answer({**facts, "build": built.number}, tuple(buffers))

    @contextmanager
    def taking(self, cursor: duckdb.DuckDBPyConnection, turn: Turn) -> Iterator[None]:
        """Let a newer question on the channel interrupt what `cursor` does meanwhile."""
        if not turn.channel:
            yield
            return
        with self._lock:
            turn.is_over = self._newest.get(turn.channel, turn) is not turn
            self._running[turn] = cursor
        try:
            turn.check()
            yield
        except duckdb.InterruptException:
            raise Superseded(DROPPED) from None
        finally:
            with self._lock:
                del self._running[turn]

    def _sketched(self, name: str, given: Mapping[str, Any]) -> Answer:
        sketch = self.sketch
        if name == "overview":
            facts: dict[str, Any] = {"n": None, "first": None, "last": None, "values": {}}
            if sketch is not None:
                facts |= sketch.overview()
            return Answer({**facts, "gateways": self.gateways, "warnings": list(self.warnings)}, ())
        if name == "bins" and sketch is not None:
            arguments = dict(given)
            drawn = sketch.bins(arguments.pop("filter"), **arguments)
            if drawn is not None:
                facts, buffers = drawn
                return Answer(facts, tuple(buffers))
        return Answer({"n": None}, ())

    def _said(self, found: Answer, generation: int) -> Answer:
        step, share = self.progress
        facts = {
            "build": None,
            **found.facts,
            "ready": self.built is not None,
            "generation": generation,
            "behind": self._is_behind,
            "progress": {"step": step, "share": share},
            "trouble": None if self.error is None else str(self.error),
        }
        return Answer(facts, found.buffers)

    def close(self) -> None:
        with self._wake:
            self.is_closed = True
            self._wake.notify_all()
        with self._lock:
            built, building = self.built, self.building
            self.built = None
        for one in (built, building):
            if one is not None:
                one.close()
        with self._wake:
            for done in self._waiting:
                done.set()
        self.settled.set()


def _end(state: _State, thread: threading.Thread) -> None:
    """Close, and wait for the thread: an interpreter that ends under DuckDB's feet is aborted."""
    state.close()
    if threading.current_thread() is not thread:
        thread.join(_END_S)


def _work(state: _State) -> None:
    """The thread: build, then refresh whenever somebody wants it."""
    turn: list[threading.Event] | None = []
    while turn is not None:
        try:
            state.refresh()
            state.error = None
        except Stopped:
            pass
        except AgentauditError as error:
            state.error = error
        except OSError as error:
            state.error = AgentauditError(f"archive: {error.strerror}: looked at while it changed")
        except Exception as error:
            # Whoever waits must hear of it, whatever it was: a full disk is DuckDB's own error.
            state.error = AgentauditError(f"index: it cannot be built: {type(error).__name__}")
        for done in turn:
            done.set()
        state.settled.set()
        turn = state.next_turn()
