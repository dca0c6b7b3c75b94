"""The replays that a report carries: of each session that it tells, what a page asks to play it.

A replay is one JSON file, compressed, among the files that the page carries: the list of digests
names it, and who has no browser reads it with `gunzip`. It has the commands and as many rows of
each result as the tables have, with more of long statements and values, and what stood on the
screens of terminals; what a rule masked is masked in it. `Replay` in
`extension/components/src/embedded.ts` says what its members are.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentaudit.analysis import cells, replay
from agentaudit.analysis import film as films
from agentaudit.analysis.film import Film
from agentaudit.analysis.report.texts import MAX_LINE
from agentaudit.analysis.terminal import Terminal
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
MAX_SCREEN_BYTES: Final = 2 << 20
"""Of one terminal's frames."""
MAX_SCREENS_BYTES: Final = 8 << 20
"""Of all terminals of a session."""
MAX_SCREEN_FRAMES: Final = 2_000
"""Of one terminal; where there would be more, they are further apart."""
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
    screens: Mapping[int, Terminal | str],
    room: int,
) -> tuple[bytes, str]:
    """Return the replay of a session's commands `rows`; or nothing, and why.

    `room` is how many bytes of it, compressed, there is place for. The same commands are the same
    bytes.
    """
    if room <= 0:
        return b"", _TOO_LARGE
    size, parts = 0, []
    for part in _parts(session, facts, rows, results, cuts, screens):
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
    screens: Mapping[int, Terminal | str],
) -> Iterator[str]:
    """Yield the JSON piece by piece, so that one that becomes too large is never made."""
    yield '{"v":' + _json(VERSION)
    yield ',"session":' + _json(replay.session(session.id, facts))
    yield ',"events":' + _json(facts["events"])
    yield ',"index":' + _json(_index(session, [row["command_no"] for row in rows]))
    yield ',"commands":['
    room = MAX_SCREENS_BYTES
    for place, row in enumerate(rows):
        number = row["command_no"]
        told = _command(row, results.get(number), cuts.get(number), screens.get(number))
        yield ("," if place else "") + _json(told)[:-1]
        screen = screens.get(number)
        if isinstance(screen, Terminal):
            packed = _terminal(screen, min(room, MAX_SCREEN_BYTES))
            room -= len(packed)
            yield ',"terminal":' + packed
        yield "}"
    yield "]}\n"


def _terminal(terminal: Terminal, room: int) -> str:
    """Return a terminal with as many of its frames as there is room for, as JSON."""
    film = Film(terminal, most=MAX_SCREEN_FRAMES)
    pages: list[str] = []
    for number in range(film.pages):
        page = _json(film.page(number))
        room -= len(page)
        if room < 0:
            break
        pages.append(page)
    told = films.facts(film)
    times = film.times_ms[: len(pages) * films.PAGE_FRAMES]
    if len(pages) < film.pages:
        until_s = times[-1] / 1_000 if times else 0.0
        told["left_out"] = (
            f"of the screen this report has what was shown up to {until_s:,.1f} s: "
            f"{MAX_SCREEN_BYTES >> 20} MiB of one terminal are carried, and "
            f"{MAX_SCREENS_BYTES >> 20} MiB of a session's"
        )
    return f'{_json(told | {"times": times})[:-1]},"pages":[{",".join(pages)}]}}'


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


def _command(
    row: Mapping[str, Any], result: pa.Table | None, cut: Cut | None, screen: Terminal | str | None
) -> dict[str, Any]:
    told = replay.command(row, cut, has_terminal=screen is not None)
    told["has_terminal"] = isinstance(screen, Terminal)
    told["text"] = row["text"] or ""
    notes = [] if cut is None else [cut.words()]
    if isinstance(screen, str):
        notes.append(screen)
    if len(told["text"].encode()) > MAX_ROW_TEXT_BYTES - 4:
        notes.append("of the statement this report has the first 64 KiB")
    params = told["params"]
    if params is not None:
        told["params"] = [None if value is None else _cut(value) for value in params[:MAX_PARAMS]]
        if len(params) > MAX_PARAMS:
            notes.append(f"{len(params) - MAX_PARAMS:,} more parameters are not in this report")
    told["error_text"] = None if row["error_text"] is None else _cut(row["error_text"])
    told["resources"] = [_cut(each, MAX_LINE) for each in told["resources"]]
    if screen is None and result is not None and result.num_columns:
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
