"""Who talks to the gateway in a soak: agents, pgbench, and everybody who behaves badly.

Every statement of an agent carries a mark of its own, in its text or as a parameter. What its
client was told of it goes into `Traffic.told`, at the moment when the answer has come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from agentaudit.demo.processes import without_libpq_variables
from tests.protocols import wire
from tests.soak.clients import Client, Ended, first_value, outcomes

SLOW_BYTES = 1024
SLOW_PAUSE_S = 0.25
"""A slow reader takes 4 KB a second."""

RESULT_ROWS = 20_000
"""Of 1 KB each: what a slow reader asks for fits into no buffer on the way."""

BURST_S = 15
_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_BENCHES = (("tpcb-like", "simple"), ("select-only", "extended"), ("select-only", "prepared"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many of each kind there are; together they are `connections`."""

    connections: int
    bench: int = 12
    idle: int = 40
    slow: int = 6
    stalled: int = 6
    killed: int = 2
    probes: int = 4

    @property
    def agents(self) -> int:
        others = self.bench * len(_BENCHES) + self.idle + self.slow + self.stalled
        return self.connections - others - self.killed - self.probes


@dataclass(frozen=True, slots=True)
class Bench:
    """One burst of pgbench: how many transactions it says were processed."""

    application: str
    script: str
    processed: int


@dataclass
class Seen:
    """What the clients saw."""

    told: dict[str, str] = field(default_factory=dict)
    benches: list[Bench] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    holds: list[tuple[float, float]] = field(default_factory=list)
    probed: dict[str, list[float]] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0


class Traffic:
    """All of it. `run` returns when `seconds` have passed and everybody has hung up."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        token: Callable[[str], str],
        superuser: Callable[[], str],
        restart: Callable[[], None],
        binaries: Path,
        numbers: Numbers,
        seconds: float,
        rate: float,
        seed: str,
    ) -> None:
        self.seen = Seen()
        self._address = address
        self._token = token
        self._superuser = superuser
        self._restart = restart
        self._binaries = binaries
        self._numbers = numbers
        self._seconds = seconds
        self._pause = numbers.agents / rate
        self._rate = rate
        self._seed = seed
        self._stop = asyncio.Event()
        self._marks = 0

    async def run(self) -> None:
        """Talk for the time given.

        Raises:
            TimeoutError: a client still waited for an answer a minute after the end.
        """
        began = time.monotonic()
        numbers = self._numbers
        async with asyncio.timeout(self._seconds + 60), asyncio.TaskGroup() as group:
            roles: list[tuple[str, int, Callable[[str, random.Random], Awaitable[None]]]] = [
                ("agent", numbers.agents, self._agent),
                ("probe", numbers.probes, self._probe),
                ("idle", numbers.idle, self._idle),
                ("slow", numbers.slow, self._slow_reader),
                ("stalled", numbers.stalled, self._stalled_writer),
                ("killed", numbers.killed, self._killed),
            ]
            for role, count, act in roles:
                for number in range(count):
                    name = f"{role}{number}"
                    group.create_task(self._again(act, name))
            for script, protocol in _BENCHES:
                group.create_task(self._bench(script, protocol, began))
            group.create_task(self._terminate_backends())
            group.create_task(self._restart_server(began))
            await asyncio.sleep(self._seconds)
            self._stop.set()

    # --- what all of them share

    async def _again(self, act: Callable[[str, random.Random], Awaitable[None]], name: str) -> None:
        chance = random.Random(f"{self._seed} {name}")
        while not self._stop.is_set():
            try:
                await act(name, chance)
            except Ended as end:
                self.seen.ended[end.code or "cut off"] += 1
                await self._rest(0.2 + chance.random())

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    @contextlib.asynccontextmanager
    async def _connected(self, name: str, *, receives: int = 0) -> AsyncIterator[Client]:
        client = await Client.connect(self._address, self._token(name), name, receives=receives)
        seen = self.seen
        seen.counts["connections"] += 1
        seen.open += 1
        seen.most_open = max(seen.most_open, seen.open)
        try:
            yield client
        finally:
            seen.open -= 1
            client.writer.transport.abort()

    def _mark(self, name: str) -> str:
        self._marks += 1
        return f"soak:{name}-{self._marks}"

    def _tell(self, mark: str, outcome: str) -> None:
        self.seen.told[mark] = outcome

    # --- agents

    async def _agent(self, name: str, chance: random.Random) -> None:
        async with self._connected(name) as client:
            acts = _ACTS
            for _ in range(chance.randint(1, 60)):
                if self._stop.is_set():
                    break
                act = chance.choices([a for a, _ in acts], [weight for _, weight in acts])[0]
                self.seen.counts[act.__name__.strip("_")] += 1
                await act(self, client, name, chance)
                await self._rest(chance.expovariate(1 / self._pause))
            await self._end(client, name, chance)

    async def _end(self, client: Client, name: str, chance: random.Random) -> None:
        """Leave, in one of the ways in which clients do."""
        way = chance.choice(["leave", "leave", "reset", "half", "reset at work"])
        self.seen.counts[f"ends: {way}"] += 1
        if way == "leave":
            await client.leave()
        elif way == "half":
            client.say(wire.query(f"SELECT pg_sleep(0.05), '{self._mark(name)}'"))
            await client.hang_up_half()
        else:
            if way == "reset at work":
                client.say(wire.query(f"SELECT pg_sleep(0.2), '{self._mark(name)}'"))
                await asyncio.sleep(0.02)
            client.reset()

    async def _select(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        self._told_value(mark, await client.ask(wire.query(f"SELECT '{mark}'")))

    async def _parameters(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        replies = await client.ask(wire.run("SELECT $1::text", [mark.encode()]))
        self._told_value(mark, replies)

    async def _prepared(self, client: Client, name: str, chance: random.Random) -> None:
        await client.ask(wire.parse("s", "SELECT $1::text, $2::int4") + wire.SYNC)
        for _ in range(chance.randint(1, 20)):
            mark = self._mark(name)
            values = [mark.encode(), b"\0\0\0\7"]
            run = wire.bind("", "s", values, [0, 1]) + wire.execute() + wire.SYNC
            self._told_value(mark, await client.ask(run))
        await client.ask(wire.close_statement("s") + wire.SYNC)

    def _told_value(self, mark: str, replies: list[tuple[str, bytes]]) -> None:
        """Note the outcome of a statement that answers its own mark."""
        (outcome,) = outcomes(replies)
        values = [first_value(body) for kind, body in replies if kind == "D"]
        if outcome == "ok" and values != [mark.encode()]:
            self.seen.wrong.append(f"{mark} was answered with {values!r:.100}")
        self._tell(mark, outcome)

    async def _pipeline(self, client: Client, name: str, chance: random.Random) -> None:
        marks, sent = [], b""
        for _ in range(chance.randint(2, 10)):
            marks.append(self._mark(name))
            works = chance.random() < 0.85
            what = f"SELECT '{marks[-1]}'" if works else f"SELECT nothing /* {marks[-1]} */"
            sent += wire.parse("", what) + wire.bind() + wire.describe_portal() + wire.execute()
            if chance.random() < 0.2:
                sent += wire.FLUSH
        found = outcomes(await client.ask(sent + wire.SYNC))
        found += ["skipped"] * (len(marks) - len(found))
        for mark, outcome in zip(marks, found, strict=True):
            self._tell(mark, outcome)

    async def _transaction(self, client: Client, name: str, chance: random.Random) -> None:
        last = chance.choice(["COMMIT", "ROLLBACK"])
        for what in ("BEGIN /* {} */", "INSERT INTO soak VALUES ('{}')", last + " /* {} */"):
            mark = self._mark(name)
            (outcome,) = outcomes(await client.ask(wire.query(what.format(mark))))
            self._tell(mark, outcome)

    async def _several(self, client: Client, name: str, chance: random.Random) -> None:
        marks = [self._mark(name) for _ in range(3)]
        text = "; ".join(f"SELECT '{mark}'" for mark in marks)
        found = outcomes(await client.ask(wire.query(text)))
        for mark, outcome in zip(marks, found, strict=True):
            self._tell(mark, outcome)

    async def _failure(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        what = chance.choice(["SELECT 1/0", "SELECT nothing", "SELEC", "SELECT * FROM nowhere"])
        (outcome,) = outcomes(await client.ask(wire.query(f"{what} /* {mark} */")))
        self._tell(mark, outcome)

    async def _copy_in(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        client.say(wire.query(f"COPY soak FROM STDIN /* {mark} */"))
        kind, _ = await client.reply()
        if kind == "E":
            await client.replies(1)
            return
        for _ in range(chance.randint(1, 20)):
            client.say(wire.copy_data(b"copied " + b"x" * chance.randint(0, 60_000) + b"\n"))
        gives_up = chance.random() < 0.2
        ends = wire.copy_fail("given up") if gives_up else wire.COPY_DONE
        (outcome,) = outcomes(await client.ask(ends))
        self._tell(mark, outcome)

    async def _copy_out(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        rows = chance.randint(1, 5000)
        what = f"COPY (SELECT g, '{mark}' FROM generate_series(1, {rows}) g) TO STDOUT"
        replies = await client.ask(wire.query(what))
        (outcome,) = outcomes(replies)
        if outcome == "ok" and sum(kind == "d" for kind, _ in replies) != rows:
            self.seen.wrong.append(f"{mark} gave another number of rows than {rows}")
        self._tell(mark, outcome)

    async def _bulk(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        rows = chance.randint(1, 3000)
        what = f"SELECT repeat('x', 1000), '{mark}' FROM generate_series(1, {rows})"
        replies = await client.ask(wire.query(what))
        (outcome,) = outcomes(replies)
        if outcome == "ok" and sum(kind == "D" for kind, _ in replies) != rows:
            self.seen.wrong.append(f"{mark} gave another number of rows than {rows}")
        self._tell(mark, outcome)

    async def _cancelled(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        client.say(wire.query(f"SELECT pg_sleep(4) /* {mark} */"))
        await asyncio.sleep(0.02 + 0.2 * chance.random())
        with contextlib.suppress(OSError):
            await client.cancel()
        (outcome,) = outcomes(await client.replies(1))
        self._tell(mark, outcome)

    async def _notified(self, client: Client, name: str, chance: random.Random) -> None:
        mark = self._mark(name)
        await client.ask(wire.query("LISTEN soak"))
        replies = await client.ask(wire.query(f"NOTIFY soak, '{mark}'"))
        (outcome,) = outcomes(replies)
        self._tell(mark, outcome)
        await client.ask(wire.query("UNLISTEN soak"))

    # --- those who behave

    async def _probe(self, name: str, chance: random.Random) -> None:
        answered = self.seen.probed.setdefault(name, [])
        async with self._connected(name) as client:
            while not self._stop.is_set():
                await self._select(client, name, chance)
                answered.append(time.monotonic())
                await self._rest(0.1)
            await client.leave()

    async def _idle(self, name: str, chance: random.Random) -> None:
        async with self._connected(name) as client:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.reply(), 1)
            await client.leave()

    async def _bench(self, script: str, protocol: str, began: float) -> None:
        number = 0
        while (left := self._seconds - (time.monotonic() - began)) > 3:
            number += 1
            application = f"pgbench-{script}-{protocol}-{number}"
            process = await asyncio.create_subprocess_exec(
                self._binaries / "pgbench",
                "--no-vacuum",
                f"--builtin={script}",
                f"--protocol={protocol}",
                f"--client={self._numbers.bench}",
                f"--rate={self._rate}",
                f"--time={min(BURST_S, int(left) - 1)}",
                env=self._environment(application, "bench"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            found = _PROCESSED.search(out.decode())
            if found is None:
                # The server was down: nothing was processed.
                self.seen.counts["pgbench: no run"] += 1
                await self._rest(0.5)
                continue
            self.seen.benches.append(Bench(application, script, int(found[1])))

    def _environment(self, application: str, target: str) -> dict[str, str]:
        host, port = self._address
        return without_libpq_variables() | {
            "PGHOST": host,
            "PGPORT": str(port),
            "PGUSER": "agent",
            "PGPASSWORD": self._token(application),
            "PGDATABASE": target,
            "PGAPPNAME": application,
            "PGSSLMODE": "disable",
        }

    # --- those who do not

    async def _slow_reader(self, name: str, chance: random.Random) -> None:
        async with self._connected(name, receives=SLOW_BYTES) as client:
            mark = self._mark(name)
            began = time.monotonic()
            client.say(
                wire.query(
                    f"SELECT repeat('x', 1000), '{mark}' FROM generate_series(1, {RESULT_ROWS})"
                )
            )
            hold = 5 + 15 * chance.random()
            taken = 0
            while time.monotonic() - began < hold and not self._stop.is_set():
                data = await client.reader.read(SLOW_BYTES)
                if not data:
                    raise Ended
                taken += len(data)
                await self._rest(SLOW_PAUSE_S)
            self.seen.holds.append((began, time.monotonic()))
            self.seen.counts["slow readers"] += 1
            if chance.random() < 0.5:
                client.reset()
                return
            await self._read_all(client)
            self._tell(mark, "ok")
            await client.leave()

    async def _read_all(self, client: Client) -> None:
        """Read up to a ReadyForQuery, whatever part of a message was read before."""
        end = b""
        while not end.endswith(b"Z\0\0\0\5I"):
            data = await client.reader.read(65536)
            if not data:
                raise Ended
            end = (end + data)[-6:]

    async def _stalled_writer(self, name: str, chance: random.Random) -> None:
        async with self._connected(name) as client:
            mark = self._mark(name)
            copies = chance.random() < 0.5
            if copies:
                client.say(wire.query(f"COPY soak FROM STDIN /* {mark} */"))
                if (await client.reply())[0] == "E":
                    raise Ended
                sent = wire.copy_data(b"stalled " + b"y" * 100_000 + b"\n") + wire.COPY_DONE
            else:
                sent = wire.query(f"SELECT '{mark}', '{'z' * 100_000}'")
            at = chance.choice([1, 3, 5, 50_000, len(sent) - 1])
            client.say(sent[:at])
            await self._rest(3 + 5 * chance.random())
            self.seen.counts["stalled writers"] += 1
            if chance.random() < 0.3:
                client.reset()
                return
            (outcome,) = outcomes(await client.ask(sent[at:]))
            self._tell(mark, outcome)
            await client.leave()

    async def _killed(self, name: str, chance: random.Random) -> None:
        """Kill psql with SIGKILL while it reads a large result."""
        process = await asyncio.create_subprocess_exec(
            self._binaries / "psql",
            "--no-psqlrc",
            "--command=COPY (SELECT repeat('k', 1000) FROM generate_series(1, 200000)) TO STDOUT",
            env=self._environment(name, "orders"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        for _ in range(chance.randint(1, 50)):
            if not await process.stdout.read(65536):
                break
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
        self.seen.counts["clients killed"] += 1
        await self._rest(1 + chance.random())

    async def _terminate_backends(self) -> None:
        chance = random.Random(f"{self._seed} terminator")
        while not self._stop.is_set():
            await self._rest(1 + 3 * chance.random())
            with contextlib.suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(
                    self._superuser(), autocommit=True
                ) as connection:
                    done = await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name ~ '^(agent|pgbench|slow|idle)'"
                        " ORDER BY random() LIMIT 1"
                    )
                    self.seen.counts["backends killed"] += len(await done.fetchall())

    async def _restart_server(self, began: float) -> None:
        """Restart it in the middle, and every ten minutes of a long run."""
        often = min(600.0, self._seconds / 2)
        at = often
        while at < self._seconds - 5:
            await self._rest(began + at - time.monotonic())
            if self._stop.is_set():
                return
            down = time.monotonic()
            await asyncio.to_thread(self._restart)
            self.seen.outages.append((down, time.monotonic()))
            self.seen.counts["server restarts"] += 1
            at += often


_Act = Callable[[Traffic, Client, str, random.Random], Awaitable[None]]

_ACTS: tuple[tuple[_Act, int], ...] = (
    (Traffic._select, 10),
    (Traffic._parameters, 10),
    (Traffic._prepared, 5),
    (Traffic._pipeline, 8),
    (Traffic._transaction, 5),
    (Traffic._several, 3),
    (Traffic._failure, 4),
    (Traffic._copy_in, 2),
    (Traffic._copy_out, 2),
    (Traffic._bulk, 1),
    (Traffic._cancelled, 3),
    (Traffic._notified, 1),
)
