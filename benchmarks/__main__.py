"""`python -m benchmarks`: the gateway beside no gateway and beside pgbouncer, as a table."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import agentaudit
from agentaudit.demo.processes import temporary_folder
from benchmarks import measure, report
from benchmarks.sections import ROWS, SECTIONS, Run, WrongArchiveError
from benchmarks.slices import PROTOCOLS
from benchmarks.targets import Peers


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    # Whoever ends us means the servers and gigabytes too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1
        arguments.clients = arguments.clients or [1, 8]
        arguments.rows, arguments.connections, arguments.connects = 400_000, 50, 10
    with _alone(), temporary_folder("agentaudit-bench-") as directory:
        # These logs are gone in a few minutes: nobody need remember them.
        os.environ["XDG_STATE_HOME"] = str(directory)
        _keep_imports()
        began = time.monotonic()
        with _peers(arguments, directory) as peers:
            run = Run(arguments, directory, peers)
            try:
                for section in SECTIONS:
                    run.busy.append(measure.busy_cores())
                    section(run)
            except WrongArchiveError as error:
                print(error, file=sys.stderr)
                print("no figure: the archives do not hold what was executed", file=sys.stderr)
                return 1
        with measure.ahead(arguments.ahead):
            sync_ms = measure.sync_ms(directory)
    print(*report.table(run.rows), sep="\n")
    if arguments.quick:
        print("\nA quick run shows that the benchmark works; its figures mean nothing.")
    print(
        f"\nMedians of {arguments.rounds} rounds, slices of {arguments.seconds} s; "
        f"{os.cpu_count()} cores, {max(run.busy):.2f} of them busy with something else between "
        f"the parts, at most; load {os.getloadavg()[0]:.1f} now; a synced 4 KiB append takes "
        f"{sync_ms:.2f} ms (median); {run.tls or 'no TLS'}; "
        f"{'ahead of all else; ' if arguments.ahead else ''}"
        f"{time.monotonic() - began:.0f} s in all.\n"
        f"{_compiled()}.\n"
        f"{run.archives} archives hold all {run.executions:,} executions; verify --deep: yes."
    )
    if arguments.json is not None:
        found = {
            "rows": [
                asdict(row) | {"measured": row.measured, "met": row.is_met} for row in run.rows
            ],
            "slices": [asdict(one) for one in run.slices],
            "sync_ms": sync_ms,
            "busy_cores": run.busy,
            "tls": run.tls,
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other run is under way here: two would measure each other."""
    path = Path(tempfile.gettempdir()) / "agentaudit-bench.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is under way: waiting for its end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _peers(arguments: argparse.Namespace, directory: Path) -> Peers:
    return Peers(directory, arguments.scale, ahead=arguments.ahead, workers=arguments.workers)


def _compiled() -> str:
    """Say what of the data path is compiled: without that, everything is several times slower."""
    package = Path(agentaudit.__file__).parent
    sources = [path.with_suffix(".py") for path in package.rglob("*.pxd")]
    old = [path.stem for path in sources if not _is_compiled(path)]
    if not old:
        return f"{len(sources)} modules of the data path are compiled"
    return f"NOT COMPILED, or older than their source: {', '.join(sorted(old))}"


def _is_compiled(source: Path) -> bool:
    changed = max(path.stat().st_mtime for path in (source, source.with_suffix(".pxd")))
    made = source.parent.glob(f"{source.stem}.*.so")
    return any(path.stat().st_mtime >= changed for path in made)


def _keep_imports() -> None:
    """Let children, which start in other folders, import what we do: they are what is measured."""
    if "PYTHONPATH" in os.environ:
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))


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
    parser.add_argument(
        "--rows", type=int, default=5_000_000, help="of a bulk slice (default: 5000000)"
    )
    parser.add_argument("--connections", type=int, default=500, help="that are idle (default: 500)")
    parser.add_argument(
        "--connects", type=int, default=40, help="one after the other, a slice (default: 40)"
    )
    parser.add_argument("--workers", type=int, help="processes of a gateway (default: as it comes)")
    parser.add_argument(
        "--ahead", action="store_true", help="run before all else on a busy machine, as root"
    )
    parser.add_argument("--direct", action="store_true", help="pgbench without anything between")
    parser.add_argument("--json", type=Path, help="write every slice and every row there")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
