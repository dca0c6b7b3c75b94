"""What a preview of masks reads: texts, files, query results and recorded sessions, in batches.

All of them become batches of values of one column each. A text has no columns, so it comes in
pieces of whole lines; a private key, which alone goes over lines, stays in one piece.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from agentaudit.analysis import cells
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    import pyarrow as pa

    from agentaudit.analysis.case import Case
    from agentaudit.analysis.session import Session

BATCH_ROWS: Final = 10_000
CHUNK_BYTES: Final = 256 << 10
MAX_JSON_BYTES: Final = 64 << 20
RESULT_ROWS: Final = 10_000
"""Of one recorded result. What is beyond is said to be left out."""

STATEMENT, PARAMETER, ERROR, RESULT, TEXT, COLUMN = (
    "statement",
    "parameter",
    "error",
    "result",
    "text",
    "column",
)
SESSION_KINDS: Final = (STATEMENT, PARAMETER, ERROR, RESULT)

_MAY_BE_CUT: Final = 16 * 1024
"""Characters of a statement from which on its row may hold only its first 64 KiB."""

_KEY_BEGINS: Final = re.compile(rb"-----BEGIN[ A-Z0-9]*PRIVATE KEY")
_KEY_ENDS: Final = re.compile(rb"-----END[^\0]{0,40}?-----")
_MAX_KEY_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Values of one column, one after the other; the first is that of row, or of line, `first_row`.

    `tables` are those that the statement reads, None where nobody knows. `kind` is one of the
    words above. A text is one value of many lines.
    """

    kind: str
    column: str
    values: Sequence[str | None]
    first_row: int = 0
    tables: tuple[str, ...] | None = None
    target: str = ""
    session: str = ""
    command_no: int | None = None
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Something to preview masks on: what it is, in words, and its batches, anew at each reading.

    `notes` is filled while it is read: what was left out, and why.
    """

    name: str
    batches: Callable[[list[str]], Iterable[Batch]]
    is_recorded: bool = False


def source_of(what: Any, *, table: str = "") -> Source:
    """Return `what` as a source: a text, a path, a table of Arrow or the like, a session, a case.

    `table` is the name of the table that a result is of, for rules that name one.

    Raises:
        QuestionError: it is none of these, or the file cannot be read.
    """
    from agentaudit.analysis.case import Case
    from agentaudit.analysis.session import Session

    if isinstance(what, Source):
        return what
    if isinstance(what, Case):
        return recorded_in(what, {})
    if isinstance(what, str):
        return Source(
            "a pasted text", lambda _: _lines(io.BytesIO(what.encode("utf-8", "replace")))
        )
    if isinstance(what, Path):
        return _file(what)
    if isinstance(what, Session):
        return recorded([what], f"session {what.id}")
    tables = (table,) if table else None
    reader = _reader(what)
    if reader is None:
        raise QuestionError(
            f"source: a text, a path, a table, a session or a case expected, "
            f"found {type(what).__name__}",
        )
    return Source("a query result", lambda _: _table(reader(), tables))


# --- texts


def _lines(file: BinaryIO) -> Iterator[Batch]:
    rest, line = b"", 1
    while True:
        data = file.read(CHUNK_BYTES)
        whole = rest + data
        cut = len(whole) if not data else _cut(whole)
        if cut:
            piece = whole[:cut]
            text = piece.decode("utf-8", "replace").replace("\0", " ")
            yield Batch(kind=TEXT, column="", values=[text], first_row=line)
            line += piece.count(b"\n")
        rest = whole[cut:]
        if not data:
            return


def _cut(data: bytes) -> int:
    """Return where a piece may end: behind a line, and before a private key without its end."""
    cut = data.rfind(b"\n") + 1
    if not cut:
        return len(data) if len(data) > 4 * CHUNK_BYTES else 0
    begun = list(_KEY_BEGINS.finditer(data, 0, cut))
    if begun and _KEY_ENDS.search(data, begun[-1].end(), cut) is None:
        start = begun[-1].start()
        if cut - start <= _MAX_KEY_BYTES:
            return start
    return cut


# --- files


def _file(path: Path) -> Source:
    readers: dict[str, Callable[[Path], Iterable[Batch]]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".parquet": _parquet,
    }
    read = readers.get(path.suffix.lower(), _plain)

    def batches(_: list[str]) -> Iterator[Batch]:
        try:
            yield from read(path)
        except OSError as error:
            raise QuestionError(f"{path}: {error.strerror or 'cannot be read'}") from None

    if not path.is_file():
        raise QuestionError(f"{path}: no such file")
    return Source(f"the file {path.name}", batches)


def _plain(path: Path) -> Iterator[Batch]:
    with path.open("rb") as file:
        yield from _lines(file)


def _csv(path: Path) -> Iterator[Batch]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        head = file.read(64 << 10)
        file.seek(0)
        try:
            dialect: Any = csv.Sniffer().sniff(head, delimiters=",;\t|")
        except csv.Error:
            dialect = csv.excel_tab if path.suffix.lower() == ".tsv" else csv.excel
        rows = csv.reader((line.replace("\0", " ") for line in file), dialect)
        try:
            names = next(rows, [])
            first = 1
            while batch := list(islice(rows, BATCH_ROWS)):
                for place, name in enumerate(names):
                    # CSV does not tell an empty text from none.
                    values = [row[place] or None if place < len(row) else None for row in batch]
                    yield _column(name, values, first, (path.stem,))
                first += len(batch)
        except csv.Error as error:
            raise QuestionError(f"{path}: line {rows.line_num}: no CSV: {error}") from None


def _json_lines(path: Path) -> Iterator[Batch]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from _documents(_parsed(path, file), (path.stem,))


def _parsed(path: Path, file: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise QuestionError(f"{path}: line {number}: no JSON") from None


def _json(path: Path) -> Iterator[Batch]:
    if path.stat().st_size <= MAX_JSON_BYTES:
        try:
            document = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, list) and all(isinstance(each, dict) for each in document):
            yield from _documents(iter(document), (path.stem,))
            return
        if document is not None:
            text = json.dumps(document, ensure_ascii=False)
            yield Batch(kind=COLUMN, column="", values=[text], first_row=1, is_json=True)
            return
    yield from _plain(path)


def _documents(documents: Iterator[Any], tables: tuple[str, ...]) -> Iterator[Batch]:
    first = 1
    while batch := list(islice(documents, BATCH_ROWS)):
        rows = [each if isinstance(each, dict) else {"": each} for each in batch]
        for name in dict.fromkeys(chain.from_iterable(rows)):
            column = [row.get(name) for row in rows]
            values = [_member(each) for each in column]
            is_json = any(isinstance(each, dict | list) for each in column)
            yield _column(name, values, first, tables, is_json=is_json)
        first += len(batch)


def _member(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _parquet(path: Path) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        yield from _table(file.iter_batches(BATCH_ROWS), (path.stem,))
    except pa.ArrowException:
        raise QuestionError(f"{path}: no Parquet") from None


# --- tables


def _reader(what: Any) -> Callable[[], Iterable[pa.RecordBatch]] | None:
    """Return what reads a table anew, or None where `what` is none."""
    import pyarrow as pa

    if isinstance(what, pa.Table):
        return lambda: what.to_batches(BATCH_ROWS)
    if isinstance(what, pa.RecordBatch):
        return lambda: [what]
    if hasattr(what, "to_arrow_reader"):  # a relation of DuckDB
        return lambda: what.to_arrow_reader(BATCH_ROWS)
    if hasattr(what, "__arrow_c_stream__"):
        return lambda: pa.RecordBatchReader.from_stream(what)
    return None


def _table(batches: Iterable[pa.RecordBatch], tables: tuple[str, ...] | None) -> Iterator[Batch]:
    first = 1
    for batch in batches:
        yield from columns_of(batch, first, tables)
        first += batch.num_rows


def columns_of(
    rows: pa.RecordBatch | pa.Table,
    first_row: int,
    tables: tuple[str, ...] | None,
    **facts: Any,
) -> Iterator[Batch]:
    """Yield the columns of some rows, values as texts."""
    names = cells.type_names(rows.schema)
    for field, type_name, column in zip(rows.schema, names, rows.columns, strict=True):
        yield Batch(
            kind=facts.get("kind", COLUMN),
            column=field.name,
            values=[_clean(cells.text(value)) for value in column.to_pylist()],
            first_row=first_row,
            tables=tables,
            is_json=type_name in ("json", "jsonb"),
            **{name: value for name, value in facts.items() if name != "kind"},
        )


def _column(
    name: str,
    values: Sequence[str | None],
    first: int,
    tables: tuple[str, ...],
    *,
    is_json: bool = False,
) -> Batch:
    return Batch(
        kind=COLUMN,
        column=name,
        values=[_clean(value) for value in values],
        first_row=first,
        tables=tables,
        is_json=is_json,
    )


def _clean(value: str | None) -> str | None:
    # A NUL stands between two values where they are searched.
    return value.replace("\0", " ") if value is not None and "\0" in value else value


# --- recorded sessions


def recorded(sessions: Sequence[Session], name: str, *, rows: int = RESULT_ROWS) -> Source:
    """Return sessions of an archive as a source: statements, parameters, errors and results."""

    def batches(notes: list[str]) -> Iterator[Batch]:
        for session in sessions:
            yield from _session(session, rows, notes)

    return Source(name, batches, is_recorded=True)


def recorded_in(case: Case, filters: Mapping[str, Any], *, rows: int = RESULT_ROWS) -> Source:
    """Return the sessions of a case that match as a source."""
    given = {name: value for name, value in filters.items() if value is not None}
    wanted = given.pop("session", None)
    if wanted is not None:
        if given:
            raise QuestionError(f"session: it is one already, without {', '.join(sorted(given))}")
        one = case.session(wanted)
        return recorded([one], f"session {one.id}", rows=rows)
    found = [row[0] for row in case.sessions(**given).project("session_id").fetchall()]
    sessions = [case.session(each) for each in reversed(found)]
    count = len(sessions)
    words = f"{count} recorded session{'' if count == 1 else 's'}"
    if given:
        words += f" ({', '.join(f'{name} {value}' for name, value in sorted(given.items()))})"
    return recorded(sessions, words, rows=rows)


def _session(session: Session, rows: int, notes: list[str]) -> Iterator[Batch]:
    identity, target = str(session.id), str(session.facts["target"] or "")
    reads: dict[int, tuple[str, ...]] = {}
    returned: dict[int, int] = {}
    for row in _commands(session):
        number = row["command_no"]
        facts: dict[str, Any] = {
            "target": target,
            "session": identity,
            "command_no": number,
            "tables": tuple(row["resources"] or ()),
        }
        reads[number] = facts["tables"]
        returned[number] = row["rows_returned"] or 0
        text = row["text"] or ""
        if len(text) >= _MAY_BE_CUT:
            text = session.statement(number)
        yield Batch(kind=STATEMENT, column="", values=[_clean(text)], **facts)
        if row["params"]:
            params = [_clean(each) for each in row["params"]]
            yield Batch(kind=PARAMETER, column="", values=params, first_row=1, **facts)
        if row["error_text"]:
            yield Batch(kind=ERROR, column="", values=[_clean(row["error_text"])], **facts)
    if session.is_purged:
        notes.append(f"session {identity}: its results were purged, statements are left")
        return
    for number, table in session.results(rows):
        facts = {"kind": RESULT, "target": target, "session": identity, "command_no": number}
        yield from columns_of(table, 1, reads.get(number, ()), **facts)
        if returned.get(number, 0) > table.num_rows:
            notes.append(
                f"session {identity} #{number}: {table.num_rows:,} of {returned[number]:,} rows "
                "were looked at"
            )


def _commands(session: Session) -> Iterator[dict[str, Any]]:
    names = ("command_no", "text", "params", "error_text", "resources", "rows_returned")
    reader = session.commands.project(", ".join(names)).to_arrow_reader(1_000)
    for batch in reader:
        yield from batch.to_pylist()
