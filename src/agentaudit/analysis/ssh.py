"""What SSH commands said: the lines of their output, as tables.

A row is a line of what the host sent on a command's channel, standard output and standard error
in the order in which they passed. Of a terminal it is a line as it was read: those that scrolled
by, and those of the last screen (`terminal.Terminal.lines`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Final

import pyarrow as pa

from agentaudit.model import Side

MAX_LINE_BYTES: Final = 8192
"""A longer line is several rows."""

BATCH_ROWS: Final = 8192

_SCHEMA: Final = pa.schema([("output", pa.string())])
_NOTHING: Final = pa.schema([]).empty_table()

Piece = tuple[Side | None, bytes, int, int]
"""Side, bytes, flags and command_no, as `Session.traffic` has them."""


class _Lines:
    """Cuts what comes in pieces into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from _rows(line)
        while len(rest) > MAX_LINE_BYTES:
            yield _text(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest

    def finish(self) -> Iterator[str]:
        if self._rest:
            yield _text(self._rest)


def _rows(line: bytes) -> Iterator[str]:
    line = line.removesuffix(b"\r")
    for start in range(0, max(1, len(line)), MAX_LINE_BYTES):
        yield _text(line[start : start + MAX_LINE_BYTES])


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def output_tables(
    traffic: Iterable[Piece], wanted: Collection[int], limit: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and at most `limit` first lines of each command of `wanted` that said any.

    They come in the order in which they said their first.
    """
    lines: dict[int, _Lines] = {}
    found: dict[int, list[str]] = {}
    for side, payload, _, command_no in traffic:
        if side is not Side.TARGET or command_no not in wanted:
            continue
        rows = found.setdefault(command_no, [])
        if len(rows) < limit:
            rows.extend(lines.setdefault(command_no, _Lines()).feed(payload))
    for command_no, rows in found.items():
        if len(rows) < limit:
            rows.extend(lines[command_no].finish())
        if rows:
            yield command_no, _table(rows[:limit])


def output_table(traffic: Iterable[Piece], command_no: int, limit: int | None) -> pa.Table:
    """Return the lines of one command, at most `limit`; without columns where it said nothing."""
    rows: list[str] = []
    for batch in output_batches(traffic, command_no):
        rows += batch.column(0).to_pylist()
        if limit is not None and len(rows) >= limit:
            break
    return _table(rows[:limit]) if rows else _NOTHING


def output_batches(traffic: Iterable[Piece], command_no: int) -> Iterator[pa.RecordBatch]:
    """Yield the lines of one command, batch by batch."""
    lines = _Lines()
    rows: list[str] = []
    for side, payload, _, owner in traffic:
        if side is Side.TARGET and owner == command_no:
            rows.extend(lines.feed(payload))
        while len(rows) >= BATCH_ROWS:
            yield pa.record_batch([pa.array(rows[:BATCH_ROWS])], schema=_SCHEMA)
            del rows[:BATCH_ROWS]
    rows.extend(lines.finish())
    if rows:
        yield pa.record_batch([pa.array(rows, pa.string())], schema=_SCHEMA)


def read_batches(lines: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a terminal, batch by batch."""
    rest = iter(lines)
    while rows := list(islice(rest, BATCH_ROWS)):
        yield pa.record_batch([pa.array(rows, pa.string())], schema=_SCHEMA)


def read_table(lines: Iterable[str], limit: int | None) -> pa.Table:
    """Return the lines of a terminal, at most `limit`; without columns where there are none."""
    rows = list(islice(lines, limit))
    return _table(rows) if rows else _NOTHING


def _table(rows: list[str]) -> pa.Table:
    return pa.table([pa.array(rows, pa.string())], schema=_SCHEMA)
