"""The parts of a run: each with gateways of its own, whose archives are checked and then removed.

So the disk needs room for one part at a time, and a figure stands only if the archive that it was
measured with holds everything that was executed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from agentaudit import load
from agentaudit.archive.verify import verify
from agentaudit.demo.processes import PeerError
from benchmarks import bulk, connections, measure, report, slices, synthetic
from benchmarks.report import Row
from benchmarks.rows import BLOCK_ROWS, copy_block
from benchmarks.slices import PROTOCOLS, Slice
from benchmarks.targets import SYNTHETIC, Peers, Target, tls_of

CLIENTS = (1, 8, 32)
STRICT_CLIENTS = 32
CPU_CELL = ("prepared", 8)
BULK = ("select", "copy-out", "copy-in")
ROWS = (
    *PROTOCOLS,
    *("tls", "strict", "latency", "cpu"),
    *BULK,
    *("synthetic", "memory", "idle", "connect"),
)

_STATEMENTS = (
    slices.STATEMENT,
    bulk.SELECT,
    bulk.COPY_OUT,
    bulk.COPY_IN,
    synthetic.STATEMENT,
)

Cells = dict[tuple[str, int], list[str]]


class WrongArchiveError(Exception):
    """An archive does not verify, or lacks what was executed: nothing counts."""


class Run:
    """One run: what was asked for, and what was found so far."""

    def __init__(self, arguments: argparse.Namespace, directory: Path, peers: Peers) -> None:
        self.arguments = arguments
        self.directory = directory
        self.peers = peers
        self.slices: list[Slice] = []
        self.rows: list[Row] = []
        self.archives = 0
        self.executions = 0
        self.tls = ""
        self.busy: list[float] = []

    def wants(self, *names: str) -> bool:
        """Whether one of these rows was asked for."""
        return not self.arguments.only or any(name in self.arguments.only for name in names)

    def rounds(self, name: str) -> Iterator[int]:
        """Yield the number of each round, saying how long it took."""
        began = time.monotonic()
        for number in range(self.arguments.rounds):
            yield number
            took = time.monotonic() - began
            self.say(f"{name}: round {number + 1} of {self.arguments.rounds}, {took:.0f} s so far")

    @staticmethod
    def say(text: str) -> None:
        """Tell whoever waits."""
        print(text, file=sys.stderr)

    def check(self, gateways: dict[str, Target], found: Sequence[Slice]) -> None:
        """End `gateways`, and hold their archives against what was executed.

        Raises:
            WrongArchiveError: one does not verify, or an execution is missing or too many.
        """
        problems: list[str] = []
        for name, target in gateways.items():
            gateway = target.gateway
            assert gateway is not None
            gateway.terminate()
            own = [one for one in found if one.target.removesuffix(" TLS") == name]
            began = time.monotonic()
            wrong = list(faults(gateway.archive, gateway.verifier_key, own))
            self.say(f"{name}: verified in {time.monotonic() - began:.0f} s")
            problems += [f"{name}: {what}" for what in wrong]
            self.archives += 1
            self.executions += sum(one.executions for one in own)
        if problems:
            raise WrongArchiveError("\n".join(problems))


def faults(archive: Path, key: str, found: Sequence[Slice]) -> Iterator[str]:
    """Yield why the archive does not prove what the clients of `found` have counted."""
    verification = verify(archive, key=key, deep=True, remember=False)
    if not verification.ok:
        yield from map(str, verification.findings)
        yield f"verify --deep says {verification.ok}"
    yield from report.disagreements(found, _recorded(archive))


def _recorded(archive: Path) -> dict[str, report.Recorded]:
    """Return what an archive says of each application's sessions."""
    starts = " OR ".join(f"starts_with(c.text, ${n})" for n in range(1, len(_STATEMENTS) + 1))
    found = load(archive).sql(
        "SELECT s.client_app, count(DISTINCT s.session_id), count(c.command_no), "
        "sum(coalesce(c.rows_returned, c.rows_affected)) FROM sessions s LEFT JOIN commands c "
        f"ON c.session_id = s.session_id AND c.status = 'ok' AND ({starts}) GROUP BY 1",
        {str(n): text for n, text in enumerate(_STATEMENTS, start=1)},
    )
    return {
        application: report.Recorded(sessions, executions, int(rows or 0))
        for application, sessions, executions, rows in found.fetchall()
    }


# --- many small statements


def pgbench(run: Run) -> None:
    """Take the slices of `pgbench -S`, all targets of a cell in turn."""
    cells, asked = _plan(run)
    if not cells:
        return
    wanted = {name for names in cells.values() for name in names}
    modes = [one for one in ("relaxed", "strict") if wanted & {one, f"{one} TLS"}]
    with run.peers.gateways(*modes) as gateways:
        plain = [run.peers.direct, run.peers.pgbouncer, *gateways.values()]
        targets = {one.name: one for one in [*plain, *(one.over_tls() for one in plain)]}
        if any(name.endswith(" TLS") for name in wanted):
            run.tls = _agreed_tls([targets["pgbouncer TLS"], targets["relaxed TLS"]])
        found = list(_pgbench_slices(run, cells, targets))
        run.check(gateways, found)
    measured = [one for one in found if not one.cell.startswith("connecting")]
    run.slices += measured
    run.rows += report.pgbench_rows(measured, asked)


def _plan(run: Run) -> tuple[Cells, list[tuple[str, str]]]:
    """Return which targets take turns in each cell, and which rows its slices are for."""
    arguments, cells = run.arguments, Cells()
    asked: list[tuple[str, str]] = []

    def ask(kind: str, protocol: str, clients: int, *targets: str) -> None:
        names = cells.setdefault((protocol, clients), ["direct"] if arguments.direct else [])
        names += [name for name in targets if name not in names]
        asked.append((kind, f"{protocol} {clients}"))

    for protocol in arguments.protocols:
        for clients in arguments.clients or CLIENTS:
            if run.wants(protocol):
                ask("relaxed", protocol, clients, "pgbouncer", "relaxed")
            if (protocol, clients) == CPU_CELL and run.wants("cpu", protocol):
                ask("cpu", protocol, clients, "pgbouncer", "relaxed")
            if run.wants("tls"):
                ask("tls", protocol, clients, "pgbouncer TLS", "relaxed TLS")
        if run.wants("strict"):
            for clients in arguments.clients or [STRICT_CLIENTS]:
                ask("strict", protocol, clients, "pgbouncer", "strict")
        if run.wants("latency"):
            ask("latency", protocol, 1, "direct", "strict")
    kinds = ("relaxed", "tls", "strict", "latency", "cpu")
    return cells, sorted(asked, key=lambda one: kinds.index(one[0]))


def _agreed_tls(targets: Sequence[Target]) -> str:
    """Return what all of `targets` agree on with the same client.

    Raises:
        PeerError: not all on the same.
    """
    found = {target.name: tls_of(target) for target in targets}
    if len(set(found.values())) > 1:
        raise PeerError(f"no two of a kind: {found}")
    return next(iter(found.values()))


def _pgbench_slices(run: Run, cells: Cells, targets: dict[str, Target]) -> Iterator[Slice]:
    # pgbench's clock starts before its clients connect: what that takes is added to a slice.
    extra: dict[tuple[str, int], int] = {}
    for (_, clients), names in cells.items():
        for name in names:
            if (name, clients) not in extra:
                application = f"bench-connecting-{clients}-{name}"
                one = slices.connecting(targets[name], application, clients=clients)
                extra[name, clients] = round(one.connecting_s)
                yield one
    for number in run.rounds("pgbench"):
        for (protocol, clients), names in cells.items():
            for name in _in_turn(names, number):
                yield slices.select_only(
                    targets[name],
                    f"bench-{number}-{protocol}-{clients}-{name}",
                    protocol=protocol,
                    clients=clients,
                    seconds=run.arguments.seconds + extra[name, clients],
                    logs=run.directory / "pgbench",
                    synced=run.directory if (name, clients) == ("strict", 1) else None,
                )


def _in_turn(names: Sequence[str], number: int) -> Sequence[str]:
    return names if number % 2 == 0 else names[::-1]


# --- many rows


def many_rows(run: Run) -> None:
    """Read and write a few million rows at once, direct and through gateways of two modes."""
    cells = [name for name in BULK if run.wants(name)]
    if not cells:
        return
    blocks = max(1, run.arguments.rows // BLOCK_ROWS)
    rows, server = blocks * BLOCK_ROWS, run.peers.server
    bulk.fill(server, rows)
    block = memoryview(copy_block())
    asks = {
        "select": partial(bulk.read, statement=bulk.SELECT, answer=f"SELECT {rows}"),
        "copy-out": partial(bulk.read, statement=bulk.COPY_OUT, answer=f"COPY {rows}"),
        "copy-in": partial(
            bulk.write, statement=bulk.COPY_IN, block=block, times=blocks, answer=f"COPY {rows}"
        ),
    }
    for cell in cells:
        # One after the other, so that no more than one of them has its archives on the disk.
        with run.peers.gateways("relaxed", "strict") as gateways:
            targets = {"direct": run.peers.direct, **gateways}
            found = []
            for number in run.rounds(cell):
                for name in _in_turn(list(targets), number):
                    bulk.empty(server)
                    found.append(
                        bulk.moved(
                            targets[name],
                            f"bench-{number}-{cell}-{name}",
                            asks[cell],
                            cell=f"{cell} {rows:,}",
                            rows=rows,
                        )
                    )
            run.check(gateways, found)
        run.slices += found
        run.rows += report.bulk_rows(found)


def from_synthetic(run: Run) -> None:
    """Read from a server that is faster than anything between it and the client."""
    if not run.wants("synthetic", "memory"):
        return
    blocks = max(1, 2 * run.arguments.rows // BLOCK_ROWS)
    read = partial(
        bulk.read,
        statement=f"{synthetic.STATEMENT}{blocks}",
        answer=synthetic.answer_of(blocks),
    )
    with run.peers.gateways("relaxed") as gateways:
        targets = {
            "direct": run.peers.synthetic,
            "pgbouncer": run.peers.pgbouncer.to(SYNTHETIC),
            "relaxed": gateways["relaxed"].to(SYNTHETIC),
        }
        found = [
            bulk.moved(
                targets[name],
                f"bench-{number}-synthetic-{name}",
                read,
                cell="synthetic",
                rows=blocks * BLOCK_ROWS,
            )
            for number in run.rounds("synthetic")
            for name in _in_turn(list(targets), number)
        ]
        processes = gateways["relaxed"].processes
        peak = sum(map(measure.peak_bytes, processes.relaying))
        sealer_peak = sum(map(measure.peak_bytes, processes.sealing))
        run.check(gateways, found)
    run.slices += found
    run.rows += report.synthetic_rows(found, peak, sealer_peak)


# --- connections


def many_connections(run: Run) -> None:
    """Hold many connections that do nothing, and see what memory that takes."""
    if not run.wants("idle"):
        return
    for is_tls in (False, True):
        with run.peers.gateways("relaxed") as gateways:
            target = gateways["relaxed"]
            found, one = connections.idle(
                target.over_tls() if is_tls else target,
                "bench-idle",
                connections=run.arguments.connections,
            )
            run.check(gateways, [one])
        run.rows.append(report.idle_row(found))


def connects(run: Run) -> None:
    """Connect again and again, direct and through the gateway, in turn."""
    if not run.wants("connect"):
        return
    with run.peers.gateways("relaxed") as gateways:
        targets = {"direct": run.peers.direct, **gateways}
        for target in targets.values():
            # The first token of a gateway costs the provider's keys.
            connections.connects(target, "bench-first", times=1)
        found = [
            connections.connects(
                targets[name],
                f"bench-{number}-connect-{name}",
                times=run.arguments.connects,
            )
            for number in run.rounds("connect")
            for name in _in_turn(list(targets), number)
        ]
        run.check(gateways, found)
    run.slices += found
    run.rows.append(report.connect_row(found))


SECTIONS: tuple[Callable[[Run], None], ...] = (
    pgbench,
    many_rows,
    from_synthetic,
    many_connections,
    connects,
)
