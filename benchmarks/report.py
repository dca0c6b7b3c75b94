"""What a run found: medians of per-round ratios, or why there are none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.slices import Slice

BASELINE = "direct"


def ratios(slices: Sequence[Slice]) -> dict[tuple[str, str], list[float]]:
    """Return, for each cell and target, its rate over the baseline's in each round.

    Slices of one cell stand in the order of their rounds.
    """
    rates = _rates(slices)
    return {
        (cell, target): [one / base for one, base in zip(found, rates[cell, BASELINE], strict=True)]
        for (cell, target), found in rates.items()
    }


def table(slices: Sequence[Slice], targets: Sequence[str]) -> Iterator[str]:
    """Yield a Markdown table: a row a cell, ratios to direct, CPU time an execution."""
    found, rates = ratios(slices), _rates(slices)
    between = [name for name in targets if name != BASELINE]
    heads = ["cell", "direct, 1/s", *between, *[f"{name}, CPU µs" for name in between]]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for cell in dict.fromkeys(one.cell for one in slices):
        columns = [cell, f"{median(rates[cell, BASELINE]):,.0f}"]
        columns += [f"{median(found[cell, name]):.2f}" for name in between]
        columns += [_cpu(slices, cell, name) for name in between]
        yield "| " + " | ".join(columns) + " |"


def as_json(slices: Sequence[Slice], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the same figures, with the ratio of every round, for keeping."""
    found = ratios(slices)
    return [
        {
            "cell": cell,
            "target": target,
            "ratio": round(median(values), 4),
            "rounds": [round(value, 4) for value in values],
        }
        for (cell, target), values in found.items()
        if target in targets and target != BASELINE
    ]


def disagreements(slices: Sequence[Slice], recorded: Mapping[str, int]) -> list[str]:
    """Return where pgbench's count is not the archives'; `recorded` counts by application."""
    return [
        f"{one.target}, {one.cell}: pgbench executed {one.executions} statements, "
        f"{recorded.get(one.application, 0)} are recorded"
        for one in slices
        if one.executions != recorded.get(one.application, 0)
    ]


def _rates(slices: Sequence[Slice]) -> dict[tuple[str, str], list[float]]:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in slices:
        rates[one.cell, one.target].append(one.rate)
    return rates


def _cpu(slices: Sequence[Slice], cell: str, target: str) -> str:
    # Ticks are coarse: all rounds together, each weighed by what it executed.
    chosen = [one for one in slices if (one.cell, one.target) == (cell, target)]
    executions = sum(one.executions for one in chosen)
    spent = sum((one.cpu_us or 0.0) * one.executions for one in chosen)
    return f"{spent / executions:,.1f}"
