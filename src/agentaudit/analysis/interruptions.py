"""What the gateways' logs say of times in which nothing was recorded, and of what is gone.

A log cannot say that it was killed: it goes on with a `start` that no `stop` came before. And its
silence says something, because a gateway that runs says so at least once a minute.

Format: docs/formats/archive.md, "Log"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log

SILENCE_US: Final = 150_000_000
"""Two heartbeats are missing, and half of one more: a busy machine may be late with one."""

_ALIVE: Final = frozenset({"start", "policy", "open_segment", "tick", "heartbeat"})
"""Only who records appends these; others may be of a start that finishes what a crash left."""

Row = dict[str, Any]


def of_archive(layout: Layout) -> list[Row]:
    """Return what the logs of all gateways tell, a row each, as the question `gaps` takes it.

    Raises:
        ArchiveError: a log cannot be read.
    """
    return [
        row
        for gateway in layout.gateways()
        for row in of_log(gateway, read_log(layout.log(gateway), []).entries())
    ]


def of_log(gateway: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield what one log tells: `what` is one of these, `amount` as it says.

    `stopped` (from a `stop` to the next `start`), `crashed` (from the last sign of life to the next
    `start`), `silent` (no sign of life for longer than two heartbeats), `unfinished` (the end of
    the log: it records still, or was killed), `torn` (bytes that a crash left half written),
    `recovered` (sessions that a recovery closed), `incident`, `purged` (sessions),
    `scripted_clock`.
    """

    def row(what: str, at: int, until: int | None, amount: int | None, detail: str) -> Row:
        return {
            "since": _time(at),
            "until": None if until is None else _time(until),
            "gateway": gateway,
            "what": what,
            "amount": amount,
            "detail": detail,
        }

    alive_at: int | None = None
    is_stopped = is_scripted = False
    for entry in entries:
        kind, at = entry["type"], entry["at"]
        if kind == "start":
            if alive_at is not None:
                if is_stopped:
                    yield row("stopped", alive_at, at, None, "the gateway was stopped in order")
                else:
                    yield row("crashed", alive_at, at, None, "the gateway ended without a word")
            if entry["clock"] == "scripted" and not is_scripted:
                is_scripted = True
                yield row("scripted_clock", at, None, None, "times are made up from here on")
            elif entry["clock"] != "scripted":
                is_scripted = False
        elif kind in _ALIVE and alive_at is not None and at - alive_at > SILENCE_US:
            # A clock that is scripted jumps, and the heart beats by another one.
            if not is_scripted:
                yield row("silent", alive_at, at, None, "no heartbeat in the log")
        elif kind == "recovery":
            if entry.get("cut_bytes"):
                yield row("torn", at, None, entry["cut_bytes"], "bytes of a torn end were cut off")
            yield row("recovered", at, None, entry["sessions_closed"], "sessions were closed")
        elif kind == "incident":
            yield row("incident", at, None, None, f"{entry['journal']}: {entry['what']}")
        elif kind == "purge_intent":
            why = f"{entry['what']}, by {entry['basis']}"
            yield row("purged", at, None, entry["sessions"], why)
        if kind in _ALIVE or kind == "stop":
            alive_at, is_stopped = at, kind == "stop"
    if alive_at is not None and not is_stopped:
        yield row("unfinished", alive_at, None, None, "it records still, or was killed")


def _time(us: int) -> datetime:
    # Not fromtimestamp: a float does not hold every microsecond.
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
