"""What an archive's logs tell of themselves: policies, holds, purges, restarts and mishaps.

One pass over each log, as a stream: a log of years does not fit into memory, so of each kind of
entry only the first are kept, and the rest is counted. Policies are told as the times in which each
was in force, and the one that is now is always among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from agentaudit.archive import purge
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import Log, read_log
from agentaudit.archive.retention import Standing

MAX_KEPT: Final = 200
"""Entries of one kind that are kept of a log."""
MAX_REIGNS: Final = 10_000
"""Times in which policies were in force: two numbers and a digest each."""

DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a gateway did not record; `is_orderly` where it had stopped by itself."""

    begin_us: int
    end_us: int
    is_orderly: bool


@dataclass(slots=True)
class Reign:
    """A time in which a policy was in force; `until_us` is None while it is."""

    digest: str
    since_us: int
    until_us: int | None = None


@dataclass(slots=True)
class Story:
    """What one log tells; times are microseconds since 1970, UTC.

    `covered` says, for each size that was asked for, how many events the log's first so many
    entries cover; `seals` has first event and number of events of each segment; `counts` counts
    entries by type, also those beyond `MAX_KEPT`. Of `reigns` the last is the one that lasts, and
    `more_reigns` were left out before it.
    """

    log: Log
    standing: Standing = field(default_factory=Standing)
    origin: str = ""
    first_at_us: int = 0
    last_at_us: int = 0
    alive_at_us: int = 0
    """When it last said something as a gateway that records; a start may finish what was left."""
    clocks: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    events: int = 0
    seals: list[tuple[int, int]] = field(default_factory=list)
    is_stopped: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    set_back: list[tuple[int, int]] = field(default_factory=list)
    clock_changes: list[tuple[int, str, str]] = field(default_factory=list)
    covered: dict[int, int] = field(default_factory=dict)
    reigns: list[Reign] = field(default_factory=list)
    more_reigns: int = 0

    @property
    def is_scripted(self) -> bool:
        return any(clock != "system" for clock in self.clocks)


_ALIVE: Final = frozenset({"start", "policy", "open_segment", "tick", "heartbeat", "stop"})
_KEPT = frozenset({"recovery", "incident", "anchor", "purge_intent", "legal_hold_set"})


def story(layout: Layout, gateway: str, sizes: Collection[int] = ()) -> Story:
    """Return what the log of `gateway` tells, and how many events it covers at each of `sizes`.

    Raises:
        ArchiveError, TamperedError: the log cannot be read, or is not what its checkpoint says.
    """
    told = Story(read_log(layout.log(gateway), []))
    told.origin = told.log.checkpoint.origin
    firsts: dict[str, int] = {}
    for number, entry in enumerate(told.log.entries()):
        if number in sizes:
            told.covered[number] = told.events
        purge.take(layout, told.standing, entry)
        _take(told, entry, firsts)
    told.covered[told.log.checkpoint.size] = told.events
    return told


def _take(told: Story, entry: Mapping[str, Any], firsts: dict[str, int]) -> None:
    kind, at_us = entry["type"], entry["at"]
    told.counts[kind] += 1
    if at_us < told.last_at_us and len(told.set_back) < MAX_KEPT:
        told.set_back.append((told.last_at_us, at_us))
    if kind == "genesis":
        told.first_at_us = at_us
        told.clocks.append(entry["clock"])
    elif kind == "start":
        if told.counts["start"] > 1 and len(told.gaps) < MAX_KEPT:
            told.gaps.append(Gap(told.alive_at_us, at_us, told.is_stopped))
        told.is_stopped = False
        if entry["clock"] != told.clocks[-1]:
            told.clock_changes.append((at_us, told.clocks[-1], entry["clock"]))
        for known, value in ((told.clocks, entry["clock"]), (told.versions, entry["version"])):
            if value not in known and len(known) < MAX_KEPT:
                known.append(value)
    elif kind == "open_segment":
        firsts.clear()
        firsts[entry["segment"]] = entry["first_event"]
    elif kind == "tick":
        told.events = max(told.events, firsts.get(entry["segment"], 0) + entry["n"])
    elif kind == "seal":
        told.events = max(told.events, entry["first_event"] + entry["n"])
        told.seals.append((entry["first_event"], entry["n"]))
    elif kind == "stop":
        told.is_stopped = True
    elif kind == "policy":
        _succeed(told, str(entry["sha256"]), at_us)
    if kind in _KEPT:
        kept = told.kept.setdefault(kind, [])
        if len(kept) < MAX_KEPT:
            kept.append(entry)
    told.last_at_us = max(told.last_at_us, at_us)
    if kind in _ALIVE:
        told.alive_at_us = max(told.alive_at_us, at_us)


def _succeed(told: Story, digest: str, at_us: int) -> None:
    if told.reigns:
        last = told.reigns[-1]
        if last.digest == digest:
            return
        last.until_us = at_us
        if len(told.reigns) == MAX_REIGNS:
            told.reigns.pop()
            told.more_reigns += 1
    told.reigns.append(Reign(digest, at_us))


def moment_of(time_us: int) -> datetime:
    """Return a time of the archive; what no calendar has is its nearest end."""
    try:
        return datetime.fromtimestamp(time_us / 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)


def days(time_us: int | None) -> str:
    """Return a time to keep as people say it.

    >>> days(None), days(30 * DAY_US), days(DAY_US), days(3_600_000_000)
    ('for ever', '30 days', '1 day', '1.0 hours')
    """
    if time_us is None:
        return "for ever"
    if time_us % DAY_US:
        return f"{time_us / 3_600_000_000:,.1f} hours"
    count = time_us // DAY_US
    return f"{count:,} day" + ("" if count == 1 else "s")
