"""What a screen shows while the index is built: commands by hour, class and flags.

One pass over the archive's own files makes it, in about two seconds for ten million commands. What
the files say of their row groups makes an outline before that, at once: how many, and when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agentaudit.analysis.explore import meaning
from agentaudit.analysis.explore.answers import MAX_LANES, Bins, stream
from agentaudit.analysis.explore.built import HOUR_US
from agentaudit.analysis.explore.filters import Filter
from agentaudit.archive.snapshot import Snapshot

_TIMES: Final = frozenset(("since", "until"))
_KNOWN: Final = _TIMES | {"cls", "flags"}
_OUTLINED_FILES: Final = 1_000
_MOST_TURNS: Final = 1_000_000
"""Hours of all row groups together."""

_MOST_HOURS: Final = 24 * 366
"""Of a row group: what says that it has commands of more than a year is not believed."""

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
    """`rows` are (start of an hour, class, flags, how many, severity), codes as in `meaning`.

    Of an outline, `is_outline`, times and numbers are all that is known.
    """

    def __init__(
        self,
        rows: list[tuple[int, int, int, int, int]],
        first: int | None,
        last: int | None,
        *,
        is_outline: bool = False,
    ) -> None:
        self._rows = rows
        self._first = first
        self._last = last
        self._lanes = ("none",) if is_outline else ("none", "class")
        self._known = _TIMES if is_outline else _KNOWN

    def overview(self) -> dict[str, Any]:
        """Return how many commands there are, and from when to when."""
        return {"n": sum(row[3] for row in self._rows), "first": self._first, "last": self._last}

    def bins(
        self, asked: Filter, *, since: int, until: int, width: int, lanes: str
    ) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return what `Answers.bins` would, but for `id` (0) and finer steps than an hour.

        None where it cannot tell: lanes of anything but classes, and most filters.
        """
        if lanes not in self._lanes or not asked.to_json().keys() <= self._known:
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


def outline(snap: Snapshot) -> Sketch | None:
    """Return how many commands there are, spread evenly over the times of each row group.

    None where that would take long, or cannot be told.
    """
    if len(snap.files["commands"]) > _OUTLINED_FILES:
        return None
    hours: Counter[int] = Counter()
    ends: list[int] = []
    # Files may say anything of themselves. Whoever reads all of it says what is wrong.
    with suppress(Exception):
        turns = _MOST_TURNS
        for n, first, last in _groups(snap):
            ends += first, last
            begin, end = first // HOUR_US, last // HOUR_US
            turns -= end - begin + 1
            if turns < 0:
                return None
            share, more = divmod(n, end - begin + 1)
            for number, hour in enumerate(range(begin, end + 1)):
                hours[hour] += share + (number < more)
        unknown = len(meaning.GRAVITY) - 1
        rows = [(hour * HOUR_US, unknown, 0, n, 0) for hour, n in sorted(hours.items()) if n]
        return Sketch(rows, min(ends, default=None), max(ends, default=None), is_outline=True)
    return None


def _groups(snap: Snapshot) -> Iterator[tuple[int, int, int]]:
    """Yield how many commands are in each row group, and the first and the last of their times.

    Raises:
        OSError: a file cannot be read.
        ValueError: it does not say, or says what cannot be.
    """
    for path in snap.files["commands"]:
        metadata = pq.read_metadata(path)
        column = metadata.schema.names.index("started_at")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            found = group.column(column).statistics
            if found is None or not found.has_min_max:
                raise ValueError
            yield _spread(group.num_rows, found.min, found.max)
    live = snap.live["commands"]
    if live.num_rows:
        ends = pc.min_max(live["started_at"]).as_py()
        yield _spread(live.num_rows, ends["min"], ends["max"])


def _spread(n: int, first: datetime | None, last: datetime | None) -> tuple[int, int, int]:
    if first is None or last is None:
        raise ValueError
    times = [round(time.timestamp() * 1_000_000) for time in (first, last)]
    if not 0 <= times[0] <= times[1] or (times[1] - times[0]) // HOUR_US > _MOST_HOURS:
        raise ValueError
    return n, times[0], times[1]
