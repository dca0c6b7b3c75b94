"""`python -m benchmarks`: pgbench -S direct, through pgbouncer, and through the gateway."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from agentaudit import load
from agentaudit.archive.verify import verify
from agentaudit.demo.processes import temporary_folder
from benchmarks import measure, report, slices
from benchmarks.measure import children, cpu_seconds
from benchmarks.slices import Slice
from benchmarks.targets import DURABILITIES, Target, running

Run = Callable[[Target, str], Slice]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.scale = 1, 1, 1
        arguments.clients, arguments.protocols = [1, 8], ["simple", "prepared"]
    with temporary_folder("agentaudit-bench-") as directory:
        # These logs are gone in a few minutes: nobody need remember them.
        os.environ["XDG_STATE_HOME"] = str(directory)
        sync_ms = measure.sync_ms(directory)
        with running(directory, arguments.scale, DURABILITIES) as targets:
            names = [target.name for target in targets]
            done = list(_slices(arguments, directory, targets))
            sealers = _sealer_seconds(targets)
        # All is sealed now: what pgbench was told is held against what can be proven.
        problems, verified = _check(targets, done)
    if problems:
        for problem in problems:
            print(problem, file=sys.stderr)
        print("no ratio: the archives do not hold what was executed", file=sys.stderr)
        return 1
    executions = sum(one.executions for one in done if one.target in DURABILITIES)
    measured = [one for one in done if not one.cell.startswith("connecting")]
    print()
    if arguments.quick:
        print("A quick run shows that the benchmark works; its figures mean nothing.\n")
    print(*report.table(measured, names), sep="\n")
    print(
        f"\nRatios to direct, medians of {arguments.rounds} rounds, {arguments.seconds} s slices; "
        f"{os.cpu_count()} cores; a synced 4 KiB append takes {sync_ms:.2f} ms (median).\n"
        f"The archives hold all {executions:,} executions, verify --deep: {verified}; "
        f"the sealers' CPU is {sealers / executions * 1e6:.1f} µs an execution beside that."
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(measured, names), indent=1) + "\n")
    return 0


def _slices(
    arguments: argparse.Namespace, directory: Path, targets: Sequence[Target]
) -> Iterator[Slice]:
    # pgbench's clock starts before its clients connect: what that takes is added to a slice.
    extra: dict[tuple[str, int], int] = {}
    for clients in arguments.clients:
        for target in targets:
            one = slices.connecting(target, f"bench-connecting-{clients}", clients=clients)
            extra[target.name, clients] = math.ceil(one.connecting_s)
            yield one

    def select_only(target: Target, application: str, *, protocol: str, clients: int) -> Slice:
        seconds = arguments.seconds + extra[target.name, clients]
        return slices.select_only(
            target, application, protocol=protocol, clients=clients, seconds=seconds
        )

    runs: list[Run] = [
        partial(select_only, protocol=protocol, clients=clients)
        for protocol in arguments.protocols
        for clients in arguments.clients
    ]
    runs += [partial(slices.bulk_select, directory=directory), slices.bulk_copy]
    began = time.monotonic()
    for number in range(arguments.rounds):
        order = list(targets) if number % 2 == 0 else list(reversed(targets))
        for cell, run in enumerate(runs):
            for target in order:
                yield run(target, f"bench-{number}-{cell}-{target.name}")
        took = time.monotonic() - began
        print(f"round {number + 1} of {arguments.rounds}: {took:.0f} s so far", file=sys.stderr)


def _check(targets: Sequence[Target], done: Sequence[Slice]) -> tuple[list[str], str]:
    """Return what is wrong with the archives, and the answers of `verify --deep`."""
    problems: list[str] = []
    answers: list[str] = []
    for target in targets:
        if target.gateway is None:
            continue
        archive = target.gateway.archive
        case = load(archive)
        verification = verify(archive, key=target.gateway.verifier_key, deep=True, remember=False)
        answers.append("yes" if verification.ok else "NO")
        if not verification.ok:
            problems += [f"{target.name}: {finding}" for finding in verification.findings]
            problems.append(f"{target.name}: verify --deep says {verification.ok}")
        rows = case.sql(
            "SELECT s.client_app, count(*) FROM commands c JOIN sessions s USING (session_id) "
            "WHERE c.status = 'ok' AND (starts_with(c.text, $select) "
            "OR starts_with(c.text, $bulk) OR starts_with(c.text, $copy)) GROUP BY 1",
            {
                "select": slices.STATEMENT,
                "bulk": slices.BULK_SELECT,
                "copy": slices.BULK_COPY,
            },
        ).fetchall()
        own = [one for one in done if one.target == target.name]
        problems += report.disagreements(own, dict(rows))
    return problems, ", ".join(answers)


def _sealer_seconds(targets: Sequence[Target]) -> float:
    return sum(
        cpu_seconds(child)
        for target in targets
        if target.gateway is not None
        for child in children(target.gateway.pid)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; five or more (default: 5)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a slice (default: 2)")
    parser.add_argument("--scale", type=int, default=5, help="pgbench's scale (default: 5)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--protocols", nargs="+", choices=slices.PROTOCOLS, default=slices.PROTOCOLS
    )
    parser.add_argument("--json", type=Path, help="write the ratio of every round there")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
