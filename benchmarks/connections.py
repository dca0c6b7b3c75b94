"""What a connection costs: the time to open one, and the memory of one that is idle."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from statistics import median

from psycopg import pq

from benchmarks.measure import shared_out_bytes
from benchmarks.sealing import wait_until_sealed_up
from benchmarks.slices import STATEMENT, Slice, spending
from benchmarks.targets import Target

_WARMING = 20
_STATEMENTS = 5


def connect(target: Target, application: str) -> pq.abc.PGconn:
    """Return a connection of libpq's, logged in.

    Raises:
        ConnectionError: the target refuses.
    """
    keywords = target.libpq(application)
    found = pq.PGconn.connect(" ".join(f"{k}='{v}'" for k, v in keywords.items()).encode())
    if found.status != pq.ConnStatus.OK:
        raise ConnectionError(f"{target.name}: {found.get_error_message()}")
    return found


def connects(target: Target, application: str, *, times: int) -> Slice:
    """Connect `times`, one after the other; the latencies are those of one connect."""
    taken: list[float] = []
    with spending(target) as spent:
        for _ in range(times):
            began = time.perf_counter()
            connection = connect(target, application)
            taken.append(time.perf_counter() - began)
            connection.finish()
    return Slice(
        cell="connect",
        target=target.name,
        application=application,
        executions=0,
        sessions=times,
        rate=times / sum(taken),
        p50_us=median(taken) * 1e6,
        p99_us=sorted(taken)[times * 99 // 100] * 1e6,
        cpu_s=spent.cpu_s,
        sealing_s=spent.sealing_s,
        waited_s=spent.waited_s,
        load=os.getloadavg()[0],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Memory of a gateway before and after `connections` were opened and used a little, bytes."""

    target: str
    connections: int
    before: int
    after: int
    sealer_before: int
    sealer_after: int

    @property
    def each(self) -> float:
        """Bytes an idle connection takes in the process that it passes through."""
        return (self.after - self.before) / self.connections

    @property
    def each_sealing(self) -> float:
        """Bytes that the sealer needs to know of a session that is open."""
        return (self.sealer_after - self.sealer_before) / self.connections


def idle(target: Target, application: str, *, connections: int) -> tuple[Idle, Slice]:
    """Open `connections`, ask a little in each, and see what memory they take when all is quiet.

    A few that came and went before have made what is made once.
    """
    assert target.archive is not None
    for connection in [_used(target, application) for _ in range(_WARMING)]:
        connection.finish()
    wait_until_sealed_up([target.archive])
    before = _memory(target)
    opened: list[pq.abc.PGconn] = []
    try:
        opened.extend(_used(target, application) for _ in range(connections))
        wait_until_sealed_up([target.archive])
        after = _memory(target)
    finally:
        for connection in opened:
            connection.finish()
    wait_until_sealed_up([target.archive])
    found = Idle(
        target=target.name,
        connections=connections,
        before=before[0],
        after=after[0],
        sealer_before=before[1],
        sealer_after=after[1],
    )
    sessions = connections + _WARMING
    return found, Slice(
        cell="idle",
        target=target.name,
        application=application,
        executions=sessions * _STATEMENTS,
        sessions=sessions,
        rate=0.0,
    )


def _used(target: Target, application: str) -> pq.abc.PGconn:
    connection = connect(target, application)
    for number in range(_STATEMENTS):
        result = connection.exec_(f"{STATEMENT}{number + 1}".encode())
        if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples != 1:
            raise ValueError(f"{target.name}: {connection.get_error_message()}")
    return connection


def _memory(target: Target) -> tuple[int, int]:
    processes = target.processes
    return (
        sum(map(shared_out_bytes, processes.relaying)),
        sum(map(shared_out_bytes, processes.sealing)),
    )
