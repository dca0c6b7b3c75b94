"""`python -m benchmarks`: the gateway beside no gateway and beside pgbouncer, as a table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from agentaudit import load
from agentaudit.archive.verify import verify
from agentaudit.demo.processes import temporary_folder
from benchmarks import measure, report, slices
from benchmarks.report import Row
from benchmarks.slices import PROTOCOLS, Slice
from benchmarks.targets import Peers, Target

ROWS = (*PROTOCOLS, "tls", "strict", "latency", "cpu")
CLIENTS = (1, 8, 32)
STRICT_CLIENTS = 32
CPU_CELL = ("prepared", 8)

Cells = dict[tuple[str, int], list[str]]


class WrongArchiveError(Exception):
    """An archive does not verify, or lacks what was executed: nothing counts."""


class Run:
    """One run: what was asked for, what was found so far."""

    def __init__(self, arguments: argparse.Namespace, directory: Path, peers: Peers) -> None:
        self.arguments = arguments
        self.directory = directory
        self.peers = peers
        self.slices: list[Slice] = []
        self.rows: list[Row] = []
        self.verified = 0
        self.executions = 0

    def wants(self, *names: str) -> bool:
        """Whether one of these rows was asked for."""
        return not self.arguments.only or any(name in self.arguments.only for name in names)

    def say(self, text: str) -> None:
        """Tell whoever waits."""
        print(text, file=sys.stderr)

    def check(self, targets: Sequence[Target], found: Sequence[Slice]) -> None:
        """Hold the archives of `targets`, which have ended, against what was executed.

        Raises:
            WrongArchiveError: one does not verify, or an execution is missing or too many.
        """
        problems: list[str] = []
        for target in targets:
            gateway = target.gateway
            assert gateway is not None
            gateway.terminate()
            key = gateway.verifier_key
            verification = verify(gateway.archive, key=key, deep=True, remember=False)
            if not verification.ok:
                problems += [f"{target.name}: {finding}" for finding in verification.findings]
                problems.append(f"{target.name}: verify --deep says {verification.ok}")
            rows = load(gateway.archive).sql(
                "SELECT s.client_app, count(*) FROM commands c JOIN sessions s USING (session_id) "
                "WHERE c.status = 'ok' AND starts_with(c.text, $select) GROUP BY 1",
                {"select": slices.STATEMENT},
            )
            own = [one for one in found if one.target.removesuffix(" TLS") == target.name]
            problems += report.disagreements(own, dict(rows.fetchall()))
            self.verified += 1
            self.executions += sum(one.executions for one in own)
        if problems:
            raise WrongArchiveError("\n".join(problems))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1
        arguments.clients = arguments.clients or [1, 8]
    with temporary_folder("agentaudit-bench-") as directory:
        # These logs are gone in a few minutes: nobody need remember them.
        os.environ["XDG_STATE_HOME"] = str(directory)
        _keep_imports()
        began, busy = time.monotonic(), measure.busy_cores()
        with Peers(directory, arguments.scale) as peers:
            run = Run(arguments, directory, peers)
            try:
                _pgbench(run)
            except WrongArchiveError as error:
                print(error, file=sys.stderr)
                print("no figure: the archives do not hold what was executed", file=sys.stderr)
                return 1
        sync_ms = measure.sync_ms(directory)
    print(*report.table(run.rows), sep="\n")
    if arguments.quick:
        print("\nA quick run shows that the benchmark works; its figures mean nothing.")
    print(
        f"\nMedians of {arguments.rounds} rounds, slices of {arguments.seconds} s; "
        f"{os.cpu_count()} cores, of which {busy:.2f} were busy before; load "
        f"{os.getloadavg()[0]:.1f} now; a synced 4 KiB append takes {sync_ms:.2f} ms (median). "
        f"{time.monotonic() - began:.0f} s in all.\n"
        f"{run.verified} archives hold all {run.executions:,} executions; verify --deep: yes."
    )
    if arguments.json is not None:
        found = {
            "rows": [asdict(row) | {"met": row.is_met} for row in run.rows],
            "slices": [asdict(one) for one in run.slices],
            "sync_ms": sync_ms,
            "busy_cores": busy,
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _keep_imports() -> None:
    """Let children, which start in other folders, import what we do: they are what is measured."""
    if "PYTHONPATH" in os.environ:
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))


def _cells(run: Run) -> Cells:
    """Return which targets take turns at each protocol and number of clients."""
    arguments, cells = run.arguments, Cells()

    def add(protocol: str, clients: int, *targets: str) -> None:
        names = cells.setdefault((protocol, clients), [])
        names += [name for name in targets if name not in names]

    for protocol in arguments.protocols:
        for clients in arguments.clients or CLIENTS:
            if run.wants(protocol) or (run.wants("cpu") and (protocol, clients) == CPU_CELL):
                add(protocol, clients, "pgbouncer", "relaxed")
            if run.wants("tls"):
                add(protocol, clients, "pgbouncer TLS", "relaxed TLS")
        if run.wants("strict"):
            for clients in arguments.clients or [STRICT_CLIENTS]:
                add(protocol, clients, "pgbouncer", "strict")
        if run.wants("latency"):
            add(protocol, 1, "direct", "strict")
    if arguments.direct:
        for names in cells.values():
            if "direct" not in names:
                names.insert(0, "direct")
    return cells


def _pgbench(run: Run) -> None:
    """Take the slices of `pgbench -S`, all targets of a cell in turn, and check them."""
    cells = _cells(run)
    if not cells:
        return
    wanted = {name for names in cells.values() for name in names}
    modes = [one for one in ("relaxed", "strict") if wanted & {one, f"{one} TLS"}]
    with run.peers.gateways(*modes) as gateways:
        plain = [run.peers.direct, run.peers.pgbouncer, *gateways.values()]
        targets = {one.name: one for one in [*plain, *(one.over_tls() for one in plain)]}
        found = list(_pgbench_slices(run, cells, targets))
        run.check(list(gateways.values()), found)
    measured = [one for one in found if not one.cell.startswith("connecting")]
    run.slices += measured
    run.rows += report.pgbench_rows(measured)


def _pgbench_slices(run: Run, cells: Cells, targets: dict[str, Target]) -> Iterator[Slice]:
    arguments = run.arguments
    # pgbench's clock starts before its clients connect: what that takes is added to a slice.
    extra: dict[tuple[str, int], int] = {}
    for (_, clients), names in cells.items():
        for name in names:
            if (name, clients) not in extra:
                application = f"bench-connecting-{clients}-{name}"
                one = slices.connecting(targets[name], application, clients=clients)
                extra[name, clients] = round(one.connecting_s)
                yield one
    began = time.monotonic()
    for number in range(arguments.rounds):
        for (protocol, clients), names in cells.items():
            for name in names if number % 2 == 0 else reversed(names):
                sync_ms = None
                if name == "strict" and clients == 1:
                    sync_ms = measure.sync_ms(run.directory, 100)
                yield slices.select_only(
                    targets[name],
                    f"bench-{number}-{protocol}-{clients}-{name}",
                    protocol=protocol,
                    clients=clients,
                    seconds=arguments.seconds + extra[name, clients],
                    logs=run.directory / "pgbench",
                    sync_ms=sync_ms,
                )
        took = time.monotonic() - began
        run.say(f"pgbench: round {number + 1} of {arguments.rounds}, {took:.0f} s so far")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, metavar="ROW", help=f"only these: {', '.join(ROWS)}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds; five or more (default: 5)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a slice (default: 2)")
    parser.add_argument("--scale", type=int, default=5, help="pgbench's scale (default: 5)")
    parser.add_argument("--clients", type=int, nargs="+", help="of pgbench (default: 1 8 32)")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--direct", action="store_true", help="pgbench without anything between")
    parser.add_argument("--json", type=Path, help="write every slice and every row there")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
