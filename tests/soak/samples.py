"""What a process takes, again and again, and whether that grows.

A leak is a slope, not a number: the growth of a run is the median of the slopes between all pairs
of samples (Theil and Sen), which a burst or a garbage collection moves little, times its length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from benchmarks.measure import children

MIB = 1024 * 1024

_POINTS = 300
"""Samples that a slope is made of; there are 45,000 pairs of them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a gateway's processes take `at` seconds into the run, `children` all together."""

    at: float
    resident: int
    descriptors: int
    children_resident: int
    children_descriptors: int
    connections: int


def take(pid: int, at: float, connections: int) -> Sample:
    """Return what the process and its children take now; a child that has just ended counts 0."""
    below = [_taken(child) for child in children(pid)]
    resident, descriptors = _taken(pid)
    return Sample(
        at=at,
        resident=resident,
        descriptors=descriptors,
        children_resident=sum(one[0] for one in below),
        children_descriptors=sum(one[1] for one in below),
        connections=connections,
    )


def _taken(pid: int) -> tuple[int, int]:
    """Return resident bytes and open files. Source: proc(5), status and fd."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024, descriptors
    return 0, 0


@dataclass(frozen=True, slots=True)
class Trend:
    """How something has gone over a run: its median, its peak, and by how much it has grown."""

    typical: float
    peak: float
    growth: float

    def is_flat(self, *, floor: float, share: float) -> bool:
        """Whether it grew by no more than `floor`, or that share of what is typical."""
        return self.growth <= max(floor, share * self.typical)


def trend(
    samples: Sequence[Sample], value: Callable[[Sample], float], *, warm_up: float = 0.25
) -> Trend:
    """Return the trend of `value` behind the first part of the run.

    Raises:
        ValueError: fewer than two samples are left.
    """
    last = samples[-1].at if samples else 0.0
    kept = [(one.at, value(one)) for one in samples if one.at >= warm_up * last]
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} samples are no trend")
    step = -(-len(kept) // _POINTS)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(kept[::step], 2)]
    values = [one for _, one in kept]
    span = kept[-1][0] - kept[0][0]
    return Trend(typical=median(values), peak=max(values), growth=median(slopes) * span)
