"""The replays that a report carries: of each session that it tells, what a page asks to play it.

A replay is one JSON file, compressed, among the files that the page carries: the list of digests
names it, and who has no browser reads it with `gunzip`. It has the commands and as many rows of
each result as the tables have, with more of long statements and values; what a rule masked is
masked in it. `Replay` in `extension/components/src/embedded.ts` says what its members are.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentaudit.analysis import cells, replay
from agentaudit.analysis.report.texts import MAX_LINE
from agentaudit.analysis.transcript import Cut

if TYPE_CHECKING:
    import pyarrow as pa

    from agentaudit.analysis.session import Session

MAX_BYTES: Final = 4 << 20
"""Of all replays of a report together, compressed."""
MAX_UNPACKED_BYTES: Final = 16 << 20
"""Of one; the page refuses to unpack more."""
MAX_VALUE: Final = 4_000
"""Characters of a parameter, an error or a value of a result."""
MAX_PARAMS: Final = 500
VERSION: Final = 1
MAX_ROW_TEXT_BYTES: Final = 64 << 10
"""Of a statement, in its row; docs/formats/archive.md, "commands"."""

_TOO_LARGE: Final = f"the replays in a report are {MAX_BYTES >> 20} MiB at most"


def name_of(session: str) -> str:
    """Return the name of the file that has the replay of a session."""
    return f"replay-{session}.json.gz"


def packed(
    session: Session,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[int, pa.Table],
    cuts: Mapping[int, Cut],
    room: int,
) -> tuple[bytes, str]:
    """Return the replay of a session's commands `rows`; or nothing, and why.

    `room` is how many bytes of it, compressed, there is place for. The same commands are the same
    bytes.
    """
    if room <= 0:
        return b"", _TOO_LARGE
    size, parts = 0, []
    for part in _parts(session, facts, rows, results, cuts):
        size += len(part)
        if size > MAX_UNPACKED_BYTES:
            return b"", f"of one session at most {MAX_UNPACKED_BYTES >> 20} MiB are replayed"
        parts.append(part)
    made = io.BytesIO()
    # Not `gzip.compress`, which says in some versions of Python on what system it ran.
    with gzip.GzipFile(fileobj=made, mode="wb", filename="", mtime=0) as compressed:
        for part in parts:
            compressed.write(part.encode("ascii"))
    data = made.getvalue()
    return (data, "") if len(data) <= room else (b"", _TOO_LARGE)


def _parts(
    session: Session,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[int, pa.Table],
    cuts: Mapping[int, Cut],
) -> Iterator[str]:
    """Yield the JSON piece by piece, so that one that becomes too large is never made."""
    yield '{"v":' + _json(VERSION)
    yield ',"session":' + _json(replay.session(session.id, facts))
    yield ',"events":' + _json(facts["events"])
    yield ',"index":' + _json(_index(session, [row["command_no"] for row in rows]))
    yield ',"commands":['
    for place, row in enumerate(rows):
        number = row["command_no"]
        told = _command(row, results.get(number), cuts.get(number))
        yield ("," if place else "") + _json(told)
    yield "]}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def _index(session: Session, numbers: Sequence[int]) -> list[list[int | float | None]]:
    """Return the columns of the session's index, those of the question `index`; NaN is None."""
    every = session.ask("replay_index", offset=0, limit=(1 << 31) - 1)
    listed = ", ".join(str(int(number)) for number in numbers) or "NULL"
    table = every.filter(f"number IN ({listed})").order("number").to_arrow_table()
    return [[_number(value) for value in column.to_pylist()] for column in table.columns]


def _number(value: Any) -> int | float | None:
    """Return a number as short as JSON has it.

    >>> _number(1.5), _number(2.0), _number(float("nan")), _number(None)
    (1.5, 2, None, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(value)


def _command(row: Mapping[str, Any], result: pa.Table | None, cut: Cut | None) -> dict[str, Any]:
    told = replay.command(row, cut)
    told["text"] = row["text"] or ""
    notes = [] if cut is None else [cut.words()]
    if len(told["text"].encode()) > MAX_ROW_TEXT_BYTES - 4:
        notes.append("of the statement this report has the first 64 KiB")
    params = told["params"]
    if params is not None:
        told["params"] = [None if value is None else _cut(value) for value in params[:MAX_PARAMS]]
        if len(params) > MAX_PARAMS:
            notes.append(f"{len(params) - MAX_PARAMS:,} more parameters are not in this report")
    told["error_text"] = None if row["error_text"] is None else _cut(row["error_text"])
    told["resources"] = [_cut(each, MAX_LINE) for each in told["resources"]]
    if result is not None and result.num_columns:
        told["result"] = {
            "columns": replay.columns(result.schema),
            "rows": [
                [replay.cell(text, MAX_VALUE) for text in texts] for texts in cells.texts(result)
            ],
        }
    elif told["returns_rows"]:
        told["returns_rows"] = False
        notes.append("its rows are not in this report")
    told["cut"] = "; ".join(notes) or None
    return told


def _cut(text: str, limit: int = MAX_VALUE) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
