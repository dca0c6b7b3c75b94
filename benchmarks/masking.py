"""`python -m benchmarks.masking`: what masks cost, in slices that alternate in one run.

pgbench -S, prepared, with 8 clients, of a gateway with every detector on beside one without masks.
A large SELECT in which nothing is hidden, and one whose one column is: of no gateway, of a gateway
without masks, and by CPU time of the gateway's own process. And how much its memory grows while
rows of a megabyte are searched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import bulk
from benchmarks.measure import peak_bytes
from benchmarks.slices import _RATE, Slice
from benchmarks.targets import DATABASE, Peers, Target, pgbench

CLIENTS = 8
_ALL: Mapping[str, Any] = {"name": "all", "detect": ["all"]}
_WORDS = "SELECT id, words FROM words"
_MASKED = "SELECT id, note FROM bulk"
_WIDE = "SELECT repeat('no secret here; ', 65536) FROM generate_series(1, 200)"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masking")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2_000_000)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, Peers(Path(folder), 10) as peers:
        bulk.fill(peers.server, asked.rows)
        peers.server.execute(
            # Eleven words a row: about 100 bytes in which no detector finds anything.
            "CREATE UNLOGGED TABLE words AS SELECT n AS id, 'order ' || n % 1000 || ' left the "
            "warehouse on time and the customer was told about it by the courier yesterday' "
            f"AS words FROM generate_series(1, {asked.rows}) n",
            "VACUUM (FREEZE, ANALYZE) words",
            "GRANT ALL ON words TO bench",
            database=DATABASE,
        )
        with ExitStack() as stack:
            make = _maker(peers, Path(folder), stack)
            plain = make("plain", [])
            masked = make("masked", [_ALL])
            column = make("column", [{"name": "notes", "columns": ["*.bulk.note"]}])
            _small({"plain": plain, "masked": masked}, asked.rounds, asked.seconds)
            _large(peers.direct, plain, masked, column, asked)
            _memory(masked)
    return 0


def _maker(
    peers: Peers, folder: Path, stack: ExitStack
) -> Callable[[str, list[Mapping[str, Any]]], Target]:
    def make(name: str, masks: list[Mapping[str, Any]]) -> Target:
        gateway = peers._gateway(folder / name, "relaxed")
        text = gateway.config.read_text(encoding="utf-8")
        for mask in masks:
            text += "\n[[mask]]\n" + "".join(f"{key} = {_toml(v)}\n" for key, v in mask.items())
        gateway.config.write_text(text, encoding="utf-8")
        stack.enter_context(gateway)
        return replace(
            peers.direct,
            name=name,
            port=gateway.port,
            password=peers._token,
            pid=gateway.pid,
            gateway=gateway,
        )

    return make


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"'


def _small(targets: Mapping[str, Target], rounds: int, seconds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in targets}
    for number in range(rounds):
        # Each comes first in every other round: a machine is not as fast all the time.
        names = deque(targets)
        names.rotate(number)
        for name in names:
            rates[name].append(_rate(targets[name], seconds))
    ratios = [a / b for a, b in zip(rates["masked"], rates["plain"], strict=True)]
    print(
        f"pgbench -S prepared, {CLIENTS} clients, all detectors: "
        f"{median(ratios):.3f} of without (0.85)"
    )


def _rate(target: Target, seconds: int) -> float:
    command = [pgbench(), "-n", "-S", "-M", "prepared", "-c", CLIENTS, "-T", seconds]
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        env=target.environment("masking"),
    )
    found = _RATE.search(done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def _large(
    direct: Target, plain: Target, masked: Target, column: Target, asked: argparse.Namespace
) -> None:
    cells = {
        "direct": (direct, _WORDS),
        "plain": (plain, _WORDS),
        "masked": (masked, _WORDS),
        "digests": (masked, _MASKED),
        "column": (column, _MASKED),
    }
    slices: dict[str, list[Slice]] = {name: [] for name in cells}
    for number in range(max(3, asked.rounds // 3)):
        names = deque(cells)
        names.rotate(number)
        for name in names:
            target, statement = cells[name]
            slices[name].append(_read(target, statement, asked.rows))

    def ratio(name: str, to: str) -> float:
        pairs = zip(slices[name], slices[to], strict=True)
        return median(one.rate / other.rate for one, other in pairs)

    def a_core(name: str) -> float:
        return median(one.moved / (one.cpu_s - one.sealing_s) / 1e6 for one in slices[name])

    of_direct = ratio("masked", "direct")
    print(f"bulk SELECT, all detectors, nothing found: {of_direct:.3f} of direct (0.7)")
    print(f"the same, without masks: {ratio('plain', 'direct'):.3f} of direct")
    print(f"the same, of MD5 digests, all detectors: {ratio('digests', 'direct'):.3f} of direct")
    print(f"bulk SELECT, one column rewritten: {a_core('column'):.0f} MB/s a core (60)")
    print(f"bulk SELECT, all detectors: {a_core('masked'):.0f} MB/s a core")
    print(f"bulk SELECT, without masks: {a_core('plain'):.0f} MB/s a core")


def _read(target: Target, statement: str, rows: int) -> Slice:
    return bulk.moved(
        target,
        "masking",
        lambda connection: bulk.read(connection, statement, f"SELECT {rows}"),
        cell="masking",
        rows=rows,
    )


def _memory(target: Target) -> None:
    assert target.pid is not None
    before = peak_bytes(target.pid)
    bulk.moved(
        target,
        "masking",
        lambda connection: bulk.read(connection, _WIDE, "SELECT 200"),
        cell="masking",
        rows=200,
    )
    grown = (peak_bytes(target.pid) - before) / 2**20
    print(f"200 rows of 1 MiB, all detectors: the gateway's memory peaks {grown:.1f} MiB higher")


if __name__ == "__main__":
    sys.exit(main())
