"""`python -m benchmarks.workbench`: Explorer and Timeline with millions of commands.

First what they are answered and how fast, then, with `--browser`, what a person has of it in a real
JupyterLab (`benchmarks.workbench_browser`).

Ten million made-up commands (`benchmarks.workbench_archive` says of what) are indexed, and each
answer is asked at several zooms and under several filters, each time another place of the archive,
so that no answer is one that was kept. Times are those of one process, from the call to the Arrow
stream; a browser adds its way there and back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import pyarrow as pa

from agentaudit.analysis.explore import Filter, Index
from agentaudit.analysis.explore.look import Look
from agentaudit.archive.snapshot import Snapshot
from benchmarks import workbench_archive
from benchmarks.measure import peak_bytes

FULL_COMMANDS = 10_000_000
MEDIAN_MS, P95_MS = 60, 150
"""What an answer may take, so that a screen is there in 100 ms (median) and 250 ms (p95)."""
SKETCH_S = 1.5

_HOUR = 3_600_000_000
_ZOOMS = {
    "12 weeks": None,
    "5 weeks": 35 * 24 * _HOUR,
    "1 week": 7 * 24 * _HOUR,
    "1 day": 24 * _HOUR,
    "1 hour": _HOUR,
}
_BYTES_A_COMMAND = 700
"""Room for the files and for what DuckDB spills while it makes and sorts them."""

Ask = Callable[[Random], object]


class MadeLook(Look):
    """The files of `workbench_archive`."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder

    def stamp(self) -> object:
        return None

    def snapshot(self) -> Snapshot:
        return workbench_archive.snapshot(self.archive)

    def gateways(self) -> list[dict[str, Any]]:
        return [{"name": "gw1", "clock": "made up"}]


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table, in milliseconds; CPU is that of all threads of the process."""

    name: str
    median_ms: float
    p95_ms: float
    cpu_ms: float

    @property
    def is_met(self) -> bool:
        return self.median_ms <= MEDIAN_MS and self.p95_ms <= P95_MS


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.again is not None:
        return _measured(arguments, arguments.again.resolve())
    needed = arguments.commands * _BYTES_A_COMMAND
    free = shutil.disk_usage(arguments.dir or tempfile.gettempdir()).free
    if free < needed:
        print(f"{needed >> 20} MiB are needed, {free >> 20} are free", file=sys.stderr)
        return 1
    made = Path(tempfile.mkdtemp(prefix="agentaudit-bench-workbench-", dir=arguments.dir)).resolve()
    try:
        began = time.monotonic()
        workbench_archive.write(made, arguments.commands, arguments.seed)
        shutil.rmtree(made / "spill", ignore_errors=True)
        print(f"made in {time.monotonic() - began:.0f} s", file=sys.stderr)
        return _measured(arguments, made)
    finally:
        if arguments.keep:
            print(f"kept: {made} (--again {made})", file=sys.stderr)
        else:
            shutil.rmtree(made, ignore_errors=True)


def _measured(arguments: argparse.Namespace, folder: Path) -> int:
    began, cpu = time.monotonic(), time.process_time()
    with Index(MadeLook(folder)) as index:
        while index.overview().facts["n"] is None:
            time.sleep(0.01)
        sketched = time.monotonic() - began
        index.wait()
        ready, cpu = time.monotonic() - began, time.process_time() - cpu
        built = index._state.built
        assert built is not None
        size = (built.folder / "index.duckdb").stat().st_size
        levels = ", ".join(f"{level.name} {level.rows:,}" for level in built.levels)
        figures = []
        for name, ask in _questions(index):
            if arguments.only not in name:
                continue
            figures.append(_time(name, ask, arguments.repeats, arguments.seed))
            print(f"{figures[-1].name}: {figures[-1].median_ms:.0f} ms", file=sys.stderr)
        n = index.overview().facts["n"]
        print(*_table(figures), "", sep="\n")
        print(
            f"{n:,} commands; a sketch after {sketched:.1f} s (≤ {SKETCH_S}), all after "
            f"{ready:.0f} s ({cpu:.0f} s of CPU). The index has {size / 1e6:.0f} MB; levels: "
            f"{levels}. Peak memory {peak_bytes(os.getpid()) / 1e6:.0f} MB. {os.cpu_count()} "
            f"cores, load {os.getloadavg()[0]:.1f}; {arguments.repeats} times each."
        )
    seen: dict[str, Any] = {}
    if arguments.browser:
        from benchmarks import workbench_browser

        seen = workbench_browser.measure(folder)
        print("", *workbench_browser.table(seen), sep="\n")
    if arguments.json is not None:
        found = {"sketch_s": sketched, "ready_s": ready, "commands": n, "bytes": size}
        rows = [asdict(figure) for figure in figures]
        arguments.json.write_text(
            json.dumps({"figures": rows, "found": found, "browser": seen}, indent=1) + "\n"
        )
    return 0


def _questions(index: Index) -> Iterator[tuple[str, Ask]]:
    overview = index.overview().facts
    first, span = overview["first"], overview["last"] + 1 - overview["first"]

    def view(random: Random, width: int | None) -> dict[str, int]:
        # A little off each time, so that nothing is answered from what was kept.
        if width is None:
            return {"since": first - random.randrange(_HOUR), "until": first + span}
        since = first + random.randrange(max(1, span - width))
        return {"since": since, "until": since + width}

    for zoom, width in _ZOOMS.items():
        for lanes in ("none", "user", "session"):
            yield (
                f"bins, {zoom}, lanes {lanes}",
                lambda random, width=width, lanes=lanes: index.bins(
                    **view(random, width), lanes=lanes
                ),
            )
    yield "marks, 10 minutes", lambda random: index.marks(**view(random, _HOUR // 6), lanes="user")
    for name, some in _filters(index).items():

        def bins(random: Random, some: list[Filter] = some) -> object:
            return index.bins(random.choice(some), **view(random, None), lanes="user")

        def moved(asked: Filter, random: Random) -> Filter:
            since = first - random.randrange(_HOUR)
            return Filter.parse({**asked.to_json(), "since": since})

        def facets(random: Random, some: list[Filter] = some) -> object:
            return index.facets(moved(random.choice(some), random))

        def newest(random: Random, some: list[Filter] = some) -> object:
            return index.rows(moved(random.choice(some), random))

        counts = {asked: max(1, index.rows(asked, limit=1).facts["n"]) for asked in some}

        def middle(random: Random, counts: dict[Filter, int] = counts) -> object:
            asked, n = random.choice(list(counts.items()))
            return index.rows(asked, offset=random.randrange(n))

        def sessions(random: Random, some: list[Filter] = some) -> object:
            return index.sessions(moved(random.choice(some), random), order="gravest")

        yield f"bins, 12 weeks, {name}", bins
        yield f"facets, {name}", facets
        yield f"newest rows, {name}", newest
        yield f"rows in the middle, {name}", middle
        yield f"sessions, {name}", sessions
    page = pa.ipc.open_stream(index.rows(offset=overview["n"] // 2, limit=500).buffers[0])
    some = page.read_all().to_pylist()

    def behind(random: Random) -> object:
        row = random.choice(some)
        return index.rows(after=(row["t"], row["id"]))

    yield "rows behind one", behind
    yield "position", lambda random: index.position(t=first + random.randrange(span))
    yield (
        "locate",
        lambda random: index.locate(
            *(random.choice(some)[k] for k in ("session_id", "command_no"))
        ),
    )


def _filters(index: Index) -> dict[str, list[Filter]]:
    top = {
        facet: [value for value, _ in answer["values"][:8]]
        for facet, answer in index.facets().facts["facets"].items()
    }
    filters = {
        "no filter": [Filter()],
        "a user": [Filter(user=(one,)) for one in top["user"]],
        "a session": [Filter(session=(one,)) for one in top["session"]],
        "a class": [Filter(cls=(one,)) for one in top["cls"]],
        "denied": [Filter(flags=("denied",))],
        "a table": [Filter(table=(one,)) for one in top["table"]],
        "a risk": [Filter(risk=(one,)) for one in top["risk"]],
        "a rare text": [Filter(text=text) for text in ("drop table", "GRANT ALL ON public")],
        "a number": [Filter(text=f"id = {number}") for number in (12345, 777, 399, 4711)],
        "a frequent text": [Filter(text="where id")],
    }
    return {name: some for name, some in filters.items() if some}


def _time(name: str, ask: Ask, repeats: int, seed: int) -> Figure:
    random = Random(f"{seed} {name}")
    walls, cpus = [], []
    ask(random)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        ask(random)
        walls.append((time.perf_counter() - wall) * 1_000)
        cpus.append((time.process_time() - cpu) * 1_000)
    return Figure(name, median(walls), _p95(walls), median(cpus))


def _p95(times: list[float]) -> float:
    return quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    yield f"| answer | median ms (≤ {MEDIAN_MS}) | p95 ms (≤ {P95_MS}) | CPU ms |"
    yield "|---|---|---|---|"
    for one in figures:
        missed = "" if one.is_met else " (missed)"
        yield (
            f"| {one.name}{missed} | {one.median_ms:.0f} | {one.p95_ms:.0f} | {one.cpu_ms:.0f} |"
        )
    yield f"| missed: {sum(not one.is_met for one in figures)} of {len(figures)} | | | |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workbench", description=__doc__)
    parser.add_argument(
        "--commands", type=int, default=FULL_COMMANDS, help=f"(default: {FULL_COMMANDS})"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the commands (default: 1)")
    parser.add_argument("--repeats", type=int, default=20, help="of each answer (default: 20)")
    parser.add_argument("--only", default="", help="answers whose name has this text")
    parser.add_argument("--dir", type=Path, help="where there is room (default: $TMPDIR, or /tmp)")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--again", type=Path, help="measure files that --keep has left")
    parser.add_argument("--browser", action="store_true", help="in JupyterLab and Chromium too")
    parser.add_argument("--json", type=Path, help="write all that was found there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
