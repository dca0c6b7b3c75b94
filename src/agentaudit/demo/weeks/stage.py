"""Where the weeks are played: gateway, database and issuer by one scripted clock, and who is on.

A session is a generator that yields the seconds until its next step. The stage takes whichever
step is next by the clock, moves the clock there and lets it run, so sessions overlap as they
would, and weeks pass in minutes. What a step takes is real; what lies between steps is scripted.
"""

from __future__ import annotations

import heapq
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, Self

import psycopg

from agentaudit.archive.clocks import ScriptedClock
from agentaudit.archive.journal import JournalReader, in_order
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log
from agentaudit.client.control import Control, Request
from agentaudit.client.local import ask
from agentaudit.demo.agent import Login
from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.gateways import Gateway, to_toml
from agentaudit.demo.processes import PeerError, until, without_libpq_variables
from agentaudit.demo.weeks.issuer import ScriptedIssuer

GATEWAY: Final = "gw1"

Script = Generator[float, None, None]
"""Yields seconds until its next step, none of which may be less than nothing."""

Step = Generator[float, None, list[Any]]

_S: Final = 1_000_000
_QUIET_US: Final = 60 * _S
"""Before longer pauses than this, all that has happened is signed, as it would be."""

_TICK_US: Final = 2 * _S
_LOOK_S: Final = 0.25
_SETTLES_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who decides."""

    name: str
    groups: tuple[str, ...]


class Stage:
    """What is played runs in `directory`: the gateway's settings, keys and archive lie there."""

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], clock: ScriptedClock,
        issuer: ScriptedIssuer, database: Postgres,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.database = database
        self._issuer = issuer
        self._gateway = Gateway(directory, settings, clock)
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="agent")
        self._coming: list[tuple[int, int, Script]] = []
        self._added = 0
        self._connected = 0
        self._journal: JournalReader | None = None
        self._journaled = 0
        self.archive = self._gateway.archive
        self.verifier_key = self._gateway.verifier_key

    def __enter__(self) -> Self:
        self._gateway.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.terminate()
        self._pool.shutdown()

    # --- time

    def at(self, when: datetime, script: Script) -> None:
        """Let `script` begin at `when`, or now if that is over."""
        self._add(round(when.timestamp() * _S), script)

    def play(self) -> None:
        """Let everything happen in its order, until nothing is left."""
        while self._coming:
            due_us, _, script = heapq.heappop(self._coming)
            self._go_to(due_us)
            try:
                pause_s = next(script)
            except StopIteration:
                continue
            self._add(self.clock.now_us() + round(pause_s * _S), script)

    def let_pass(self, seconds: float) -> None:
        """Move the clock on, for who plays alone."""
        self._go_to(self.clock.now_us() + round(seconds * _S))

    def let_settle(self) -> None:
        """Wait for what the gateway does every second or so, whatever its clock says.

        It looks for blocks, and reads tables again that were changed: until then they are in doubt,
        and what is in doubt is masked.
        """
        time.sleep(_SETTLES_S)

    def restart(self, settings: Mapping[str, Any]) -> None:
        """Stop the gateway, which seals, and start it with these settings."""
        self._gateway.wait_until_idle(but=self._connected)
        self._gateway.terminate()
        self.clock.move(20 * _S)
        self._gateway.config.write_text(to_toml(settings), encoding="utf-8")
        self._gateway.start()

    def _add(self, when_us: int, script: Script) -> None:
        self._added += 1
        heapq.heappush(self._coming, (when_us, self._added, script))

    def _go_to(self, when_us: int) -> None:
        if when_us - self.clock.now_us() > _QUIET_US:
            # The end of a session is recorded once its connection is seen to be gone.
            self._gateway.wait_until_idle(but=self._connected)
            self._let_sign()
        self.clock.move(max(0, when_us - self.clock.now_us()))

    def _let_sign(self) -> None:
        self.clock.move(_TICK_US)
        until(self._is_signed, "the sealer signs what was recorded")

    def _is_signed(self) -> bool:
        """Say whether a tick covers all that is journaled by now."""
        layout = Layout(self.archive)
        segment = in_order(layout, GATEWAY)[-1]
        if self._journal is None or self._journal.header.segment != segment:
            self._journal = JournalReader(layout.journal(GATEWAY, segment))
            self._journaled = 0
        self._journaled += sum(1 for _ in self._journal.read())
        entries = read_log(layout.log(GATEWAY), []).entries()
        ticks = [entry for entry in entries if entry.get("segment") == str(segment)]
        return bool(ticks) and ticks[-1].get("n", 0) >= self._journaled

    # --- who connects

    def dsn(self, login: Login, target: str) -> str:
        token = self._issuer.token(login.user, login.groups, agent=login.agent)
        return self._gateway.dsn(target, token)

    def connect(self, login: Login, target: str, run: str, chance: Random) -> Hand:
        """Return a connection of an agent; use it as a context manager."""
        return Hand(self, login, target, run, chance)

    def refuse(self, login: Login, target: str, run: str) -> None:
        """Let somebody connect who may not.

        Raises:
            PeerError: the gateway lets them in.
        """
        try:
            psycopg.connect(self.dsn(login, target), application_name=run).close()
        except psycopg.OperationalError:
            return
        raise PeerError(f"{login.agent} for {login.user} was let in to {target}")

    def psql(self, login: Login, target: str, run: str, script: str) -> None:
        """Run a script in psql; its statements may fail.

        Raises:
            PeerError: psql could not connect.
        """
        words = psycopg.conninfo.conninfo_to_dict(self.dsn(login, target))
        secret = {"PGPASSWORD": str(words.pop("password")), "PGAPPNAME": run}
        where = psycopg.conninfo.make_conninfo("", **words)
        result = subprocess.run(
            [embedded_postgres() / "psql", "--no-psqlrc", "--quiet", where],
            input=script,
            capture_output=True,
            text=True,
            env=without_libpq_variables() | secret,
            timeout=60,
            check=False,
        )
        if result.returncode not in (0, 3):
            raise PeerError(f"psql: exit status {result.returncode}: {result.stderr}")

    # --- who decides

    def control(self, person: Person) -> Control:
        """Return the control API as `person`, who has just logged in, uses it."""
        token = self._issuer.review_token(person.name, person.groups)
        return Control(self._gateway.control_url, token)

    def pending(self, login: Login, person: Person, sent: Future[Any]) -> Request:
        """Return the request about what `login` has `sent`, as soon as `person` sees it.

        Raises:
            PeerError: it is answered, and nobody was asked.
        """
        control = self.control(person)
        while not sent.done():
            for request in control.requests(state="pending"):
                if request.requester.user == login.user:
                    return request
            time.sleep(_LOOK_S)
        raise PeerError(f"a statement of {login.agent} was held by nobody: {sent.result()}")

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the operator order something of the running gateway, and return what came of it."""
        return ask(self.archive, GATEWAY, request)

    def erase(self, session: str, reason: str, asks: Person, approves: Person) -> None:
        """Let two people have one session erased."""
        self.order(
            {
                "do": "erase",
                "selector": {"session": session},
                "reason": reason,
                "requester_token": self._issuer.review_token(asks.name, asks.groups),
                "approver_token": self._issuer.review_token(approves.name, approves.groups),
            }
        )


class Hand:
    """One connection of a scripted agent, with its own chances."""

    def __init__(self, stage: Stage, login: Login, target: str, run: str, chance: Random) -> None:
        self._stage = stage
        self._login = login
        self.chance = chance
        self.connection = psycopg.connect(
            stage.dsn(login, target), autocommit=True, application_name=run
        )
        stage._connected += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._stage._connected -= 1

    def thought(self) -> float:
        """Return how many seconds the next thought takes: mostly one, now and then ten."""
        return min(12.0, self.chance.lognormvariate(0.0, 0.7))

    def ask(self, statement: str, parameters: Sequence[Any] | None = None) -> Step:
        """Think, then send a statement; return its rows."""
        yield self.thought()
        return self._run(statement, parameters)

    def fail(self, statement: str, sqlstate: str, parameters: Sequence[Any] | None = None) -> Step:
        """Think, then send a statement that is refused with `sqlstate`; return no rows.

        Raises:
            PeerError: it succeeded, or failed otherwise.
        """
        yield self.thought()
        self._fail(statement, sqlstate, parameters)
        return []

    def copy_out(self, statement: str) -> Step:
        """Think, then send a `COPY … TO STDOUT` and take what comes."""
        yield self.thought()
        with self.connection.cursor().copy(statement.encode()) as copy:
            for _ in copy:
                pass
        return []

    def copy_in(self, statement: str, rows: Sequence[Sequence[Any]]) -> Step:
        """Think, then send a `COPY … FROM STDIN` with `rows`."""
        yield self.thought()
        with self.connection.cursor().copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
        return []

    def wait_for(
        self,
        person: Person,
        verdict: Literal["approve", "deny"],
        reason: str,
        statement: str,
        parameters: Sequence[Any] | None = None,
        *,
        after_s: float,
    ) -> Step:
        """Think, then send a statement that is held, on which `person` decides `after_s` later.

        Raises:
            PeerError: what was denied ran, or what was approved did not.
        """
        yield self.thought()
        waiting = self._stage._pool.submit(self._try, statement, parameters)
        request = self._stage.pending(self._login, person, waiting)
        yield after_s
        self._stage.control(person).decide(request.id, verdict, reason, request.digest)
        answer = waiting.result(60)
        state = answer.sqlstate if isinstance(answer, psycopg.Error) else None
        if (state == "42501") != (verdict == "deny") or state not in (None, "42501"):
            raise PeerError(f"{statement}: {state} after it was decided: {verdict}")
        return answer if isinstance(answer, list) else []

    def give_up(self, person: Person, statement: str, *, after_s: float) -> Step:
        """Think, then send a statement that is held, and cancel it `after_s` later."""
        yield self.thought()
        waiting = self._stage._pool.submit(self._try, statement, None)
        self._stage.pending(self._login, person, waiting)
        yield after_s
        self.connection.cancel_safe(timeout=30)
        answer = waiting.result(60)
        if not isinstance(answer, psycopg.Error) or answer.sqlstate != "57014":
            raise PeerError(f"{statement}: {answer} after it was cancelled")
        return []

    def _try(self, statement: str, parameters: Sequence[Any] | None) -> list[Any] | psycopg.Error:
        try:
            return self._run(statement, parameters)
        except psycopg.Error as error:
            return error

    def _run(self, statement: str, parameters: Sequence[Any] | None = None) -> list[Any]:
        cursor = self.connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _fail(self, statement: str, sqlstate: str, parameters: Sequence[Any] | None) -> None:
        answer = self._try(statement, parameters)
        if not isinstance(answer, psycopg.Error):
            raise PeerError(f"{statement}: no error, {sqlstate} expected")
        if answer.sqlstate != sqlstate:
            raise PeerError(f"{statement}: {answer.sqlstate}, {sqlstate} expected") from answer
