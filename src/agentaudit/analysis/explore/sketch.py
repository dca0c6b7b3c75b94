"""What a screen shows while the index is built: commands by hour, class and flags.

One pass over the archive's own files makes it, in about a second for ten million commands.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.answers import MAX_LANES, Bins, stream
from agentaudit.analysis.explore.built import HOUR_US
from agentaudit.analysis.explore.filters import Filter

_KNOWN: Final = frozenset(("since", "until", "cls", "flags"))

_SCHEMA: Final = pa.schema(
    [
        ("lane", pa.uint8()),
        ("bin", pa.uint16()),
        ("n", pa.uint32()),
        ("severity", pa.uint8()),
        ("cls", pa.uint8()),
        ("flags", pa.uint8()),
        ("id", pa.int64()),
    ]
)


class Sketch:
    """`rows` are (start of an hour, class, flags, how many, severity), codes as in `meaning`."""

    def __init__(
        self, rows: list[tuple[int, int, int, int, int]], first: int | None, last: int | None
    ) -> None:
        self._rows = rows
        self._first = first
        self._last = last

    def overview(self) -> dict[str, Any]:
        """Return how many commands there are, and from when to when."""
        return {"n": sum(row[3] for row in self._rows), "first": self._first, "last": self._last}

    def bins(
        self, asked: Filter, *, since: int, until: int, width: int, lanes: str
    ) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return what `Answers.bins` would, but for `id` (0) and finer steps than an hour.

        None where it cannot tell: lanes of anything but classes, and most filters.
        """
        if lanes not in ("none", "class") or not asked.to_json().keys() <= _KNOWN:
            return None
        bins = Bins.of(since, until, width)
        if bins.step % HOUR_US:
            step = -(-bins.step // HOUR_US) * HOUR_US
            origin = since // step * step
            bins = Bins(origin, step, max(1, -(-(until - origin) // step)))
        first = max(bins.origin, asked.since or 0)
        end = bins.until if asked.until is None else min(bins.until, asked.until)
        classes = {meaning.GRAVITY.index(cls) for cls in asked.cls} or range(len(meaning.GRAVITY))
        mask = sum(meaning.FLAGS[flag].bit for flag in asked.flags)
        cells: dict[tuple[int, int], list[int]] = {}
        totals: dict[int, list[int]] = {}
        for hour, cls, flags, n, severity in self._rows:
            # An hour of which a part is meant is drawn whole: this is a sketch.
            if hour + HOUR_US <= first or hour >= end or cls not in classes:
                continue
            if mask and not flags & mask:
                continue
            lane = cls if lanes == "class" else 0
            cell = cells.setdefault((lane, (hour - bins.origin) // bins.step), [0, -1, 0, 0])
            cell[0] += n
            cell[1], cell[2] = max((cell[1], cell[2]), (severity, -cls))
            cell[3] |= flags
            total = totals.setdefault(lane, [0, 0])
            total[0] += n
            total[1] = max(total[1], severity)
        ranked = sorted(totals, key=lambda lane: (-totals[lane][1], -totals[lane][0], lane))
        place = {lane: number for number, lane in enumerate(ranked[:MAX_LANES])}
        columns: list[list[int]] = [[] for _ in _SCHEMA]
        for (lane, number), (n, severity, cls, flags) in sorted(
            cells.items(), key=lambda item: (place[item[0][0]], item[0][1])
        ):
            for column, value in zip(
                columns, (place[lane], number, n, severity, -cls, flags, 0), strict=True
            ):
                column.append(value)
        facts = {
            "origin": bins.origin,
            "step": bins.step,
            "count": bins.count,
            "n": sum(n for n, _ in totals.values()),
            "lanes": [
                {
                    "name": meaning.GRAVITY[lane] if lanes == "class" else "",
                    "n": totals[lane][0],
                    "severity": totals[lane][1],
                }
                for lane in ranked
            ],
        }
        return facts, [stream(pa.table(columns, schema=_SCHEMA))]
