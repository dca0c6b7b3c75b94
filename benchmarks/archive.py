"""`python -m benchmarks.archive`: an archive of N made-up events, sealed, verified and asked.

The number that counts is CPU seconds of the process that does the work, so that a busy machine
makes less of a difference; how long it took stands beside it. A run whose archive does not verify,
or does not hold what was put into it, prints no figure at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.parts import PRODUCERS, QUESTIONS
from benchmarks.traffic import MEAN, WIRE_MEAN

FULL_EVENTS = 20_000_000
"""Figures that grow with the archive are given for so many."""

_BYTES_AN_EVENT = 200
_JOURNAL_BYTES_AN_EVENT = 1_300  # two journals at a time
_MADE = "made.json"

_QUESTION_MS = dict(zip(QUESTIONS, (28, 41, 800, 600), strict=True))
_WITHIN = 1.5


class WrongArchiveError(Exception):
    """An archive does not verify, or does not hold what was put into it: nothing counts."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table: `wall` is in seconds, or None where nothing was waited for."""

    name: str
    target: str
    measured: float
    wall: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.again is not None:
        return _measured(arguments, arguments.again.resolve())
    free = shutil.disk_usage(arguments.dir or tempfile.gettempdir()).free
    segment_events = min(arguments.segment_events, arguments.events)
    needed = arguments.events * _BYTES_AN_EVENT + segment_events * _JOURNAL_BYTES_AN_EVENT
    needed += 256 << 20  # the reserve of a recorder, and its journal
    if free < needed:
        print(
            f"{needed >> 20} MiB are needed, {free >> 20} are free: "
            "give another --dir, or fewer --events",
            file=sys.stderr,
        )
        return 1
    folder = Path(tempfile.mkdtemp(prefix="agentaudit-bench-archive-", dir=arguments.dir)).resolve()
    try:
        return _measured(arguments, folder)
    finally:
        if arguments.keep:
            print(f"kept: {folder} (--again {folder})", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _measured(arguments: argparse.Namespace, folder: Path) -> int:
    try:
        found = _measure(arguments, folder)
    except subprocess.CalledProcessError as error:
        print(f"no figures: exit status {error.returncode} of {error.cmd[3]}", file=sys.stderr)
        return 1
    except WrongArchiveError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    figures = list(_figures(found))
    print(*_table(figures), "", *_notes(found, arguments), sep="\n")
    if arguments.json is not None:
        rows = [asdict(figure) for figure in figures]
        arguments.json.write_text(json.dumps({"figures": rows, "found": found}, indent=1) + "\n")
    return 0


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every part; the archive is made unless it is there already."""
    made = folder / _MADE
    if arguments.again is None:
        segments = {"events": arguments.events, "segment_events": arguments.segment_events}
        traffic = {"seed": arguments.seed, "wire_mean": arguments.wire_mean}
        found = _part("seal", folder, **segments, **traffic)
        made.write_text(json.dumps(found) + "\n")
    sealed = json.loads(made.read_text())
    key = sealed["key"]
    deep = _part("verify", folder, key=key, deep=True)
    _require_verified("verify --deep", deep, sealed["events"])
    fast = [_part("verify", folder, key=key, deep=False) for _ in range(arguments.repeats)]
    for one in fast:
        _require_verified("verify", one, sealed["events"])
    asked = _part("ask", folder, repeats=arguments.repeats)
    _require_same_answers(asked, sealed)
    with tempfile.TemporaryDirectory(dir=folder, prefix="recorded-") as recorded:
        options = {"seconds": arguments.seconds, "seed": arguments.seed}
        journal = _part("record", Path(recorded), **options)
    _require_verified("recorded, verify --deep", journal, journal["expected"])
    size = _part("size", folder)
    return {
        "seal": sealed,
        "size": size,
        "fast": fast,
        "deep": deep,
        "ask": asked,
        "record": journal,
    }


def _part(name: str, folder: Path, **arguments: object) -> dict[str, Any]:
    """Run one of `benchmarks.parts` in a process of its own; return what it found."""
    print(f"{name} …", file=sys.stderr)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.parts", name),
            json.dumps({"folder": str(folder), **arguments}),
        ],
        cwd=Path(__file__).parents[1],
        # These logs are gone soon: nobody need remember them.
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _require_verified(name: str, result: dict[str, Any], expected: int) -> None:
    """Go on only with an archive that verifies and has as many events as were recorded."""
    if result["findings"]:
        raise WrongArchiveError(f"{name}: {'; '.join(result['findings'])}")
    if result["ok"] is not True:
        raise WrongArchiveError(f"{name}: says {result['ok']}")
    if result["events"] != expected:
        raise WrongArchiveError(f"{name}: {result['events']} events, {expected} were recorded")


def _require_same_answers(asked: dict[str, Any], sealed: dict[str, Any]) -> None:
    """Go on only where the views, the files and what was recorded are of one mind."""
    for name, number in asked["found"].items():
        if number != sealed[name]:
            raise WrongArchiveError(f"views: {number} {name}, {sealed[name]} were recorded")
    for name, ways in asked["asked"].items():
        views, files = ways["views"]["rows"], ways["files"]["rows"]
        if views != files:
            raise WrongArchiveError(f"{name}: {views} rows of the views, {files} of the files")
    rows = asked["asked"]["one session with payloads"]["views"]["rows"]
    if rows != asked["in_session"]:
        raise WrongArchiveError(f"one session: {rows} events, its row says {asked['in_session']}")


def _figures(found: dict[str, Any]) -> Iterator[Figure]:
    sealed, deep, recorded = found["seal"], found["deep"], found["record"]
    events = sealed["events"]
    fast_cpu = median(one["cpu_s"] for one in found["fast"])
    fast_wall = median(one["wall_s"] for one in found["fast"])
    scale = FULL_EVENTS / events
    yield Figure(
        "sealing, events a CPU-second",
        "≥ 200,000",
        events / max(sealed["cpu_s"], 0.01),
        sealed["wall_s"],
    )
    table_bytes = sum(found["size"]["tables"].values())
    yield Figure("all tables, bytes on disk an event", "≤ 130", table_bytes / events)
    yield Figure(
        "verify --deep, CPU-µs an event", "≤ 10", deep["cpu_s"] / events * 1e6, deep["wall_s"]
    )
    yield Figure(
        f"verify, CPU s for {FULL_EVENTS:,} events", "≤ 10", fast_cpu * scale, fast_wall * scale
    )
    peaks = {
        "sealer": sealed["peak_bytes"],
        "verify": max(one["peak_bytes"] for one in found["fast"]),
        "verify --deep": deep["peak_bytes"],
    }
    for name, peak in peaks.items():
        yield Figure(f"{name}, peak memory, MB", "≤ 600", peak / 1e6)
    yield Figure(
        f"journal, {PRODUCERS} producers, strict, records/s",
        "≥ 10,000 where a sync takes 0.3 ms",
        recorded["rate"],
    )
    yield Figure("journal, CPU µs a record", "", recorded["cpu_us"])
    yield Figure("journal, median acknowledgement, ms", "", recorded["latency_ms"])
    for name, ways in found["ask"]["asked"].items():
        for way, times in ways.items():
            target = f"≤ {_QUESTION_MS[name] * _WITHIN:g}"
            what = f"DuckDB, {way}: {name}, CPU ms"
            yield Figure(what, target, times["cpu_s"] * 1000, times["wall_s"])


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| figure | target | measured | wall |"
    yield "|---|---|---|---|"
    for figure in figures:
        yield (
            f"| {figure.name} | {figure.target} | {_number(figure.measured)} | "
            f"{'' if figure.wall is None else _seconds(figure.wall)} |"
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _notes(found: dict[str, Any], arguments: argparse.Namespace) -> Iterator[str]:
    sealed, size, asked = found["seal"], found["size"], found["ask"]
    events = sealed["events"]
    yield (
        f"{events:,} events, {sealed['sessions']:,} sessions, {sealed['commands']:,} commands. "
        f"Payloads have {sealed['payload_mean']:.0f} bytes in the mean (requests and responses "
        f"alone {sealed['wire_mean']:.0f}) and are stored {size['payload_ratio']:.1f} to 1. "
        "The archive verifies, fast and deep."
    )
    yield (
        f"{os.cpu_count()} cores; a synced 4 KiB append took {found['record']['sync_ms']:.2f} ms "
        f"(median). Medians of {arguments.repeats}, in memory; opening the archive took "
        f"{_seconds(asked['opened']['wall_s'])}."
    )
    tables = {**size["tables"], "log and heads": size["log"]}
    sizes = (f"{name} {count / events:.1f}" for name, count in tables.items() if count)
    journal = sealed["journal_bytes"] / events
    yield f"Bytes an event: {', '.join(sizes)}; the journal had {journal:.0f}."
    for table, columns in size["columns"].items():
        largest = list(columns.items())[:8]
        parts = ", ".join(f"{name} {count / events:.1f}" for name, count in largest)
        yield f"Of {table}: {parts}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive", description=__doc__)
    parser.add_argument("--events", type=int, default=FULL_EVENTS, help=f"(default: {FULL_EVENTS})")
    parser.add_argument(
        "--segment-events", type=int, default=1_000_000, help="in a segment (default: 1000000)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the traffic (default: 1)")
    parser.add_argument(
        "--wire-mean",
        type=int,
        default=WIRE_MEAN,
        help=f"bytes of a request or response; with {WIRE_MEAN} (the default), the payloads of all "
        f"events have {MEAN}",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of recording (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="of the fast parts (default: 5)")
    parser.add_argument("--dir", type=Path, help="where there is room (default: $TMPDIR, or /tmp)")
    parser.add_argument("--keep", action="store_true", help="leave the archive there")
    parser.add_argument("--again", type=Path, help="measure an archive that --keep has left")
    parser.add_argument("--json", type=Path, help="write all that was found there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
