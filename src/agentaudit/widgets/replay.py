"""Replay of one session in a notebook: its commands, results and errors, in their own time.

The kernel keeps the data. The browser asks for slices by name (`open`, `index`, `page`, `command`,
`result`, …) in messages that carry a number, and each answer carries the same number; it never
sends SQL. Nothing recorded is ever a synced trait, because traits are saved into the notebook.

JupyterLab delivers messages on threads of its choice (subshells), also while a cell runs, so what
answers them touches no event loop and shares nothing but a small cache of results under a lock.

Beside the widget a still picture of the session goes out as HTML, for nbconvert and for readers
without a kernel: see `still`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anywidget
import traitlets

from agentaudit.analysis import cells
from agentaudit.analysis.case import Case
from agentaudit.analysis.session import Session
from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.widgets.still import still

if TYPE_CHECKING:
    import pyarrow as pa

STATIC = Path(__file__).parent / "static"

MAX_RESULT_ROWS = 100_000
_KEPT_RESULTS = 4
_STATEMENT_CHARACTERS = 8_000
_WHOLE_CHARACTERS = 1_000_000
_CELL_CHARACTERS = 300
_MAX_INDEX = 100_000
_MAX_PAGE = 500

_FACTS = (
    "user",
    "agent",
    "issuer",
    "target",
    "protocol",
    "gateway",
    "close_reason",
    "client_addr",
    "client_app",
    "bytes_in",
    "bytes_out",
    "masked",
)
_COMMAND = (
    "command_no",
    "operation",
    "status",
    "decision",
    "rule",
    "confidence",
    "error_code",
    "error_text",
    "duration_us",
    "rows_returned",
    "rows_affected",
    "bytes_in",
    "bytes_out",
    "txn_no",
    "txn_status",
    "masked",
    "params",
    "first_event_no",
    "last_event_no",
)

Answer = tuple[dict[str, Any], list[bytes]]


class Replay(anywidget.AnyWidget):
    """Steps through one session; `command_no` is the command shown, from Python and from the page.

    In a notebook::

        replay = Replay(case, "0199f3c2-…", command=12)
        replay                                   # draws it
        replay.command["text"]                   # of the command that is shown
    """

    _esm = STATIC / "replay.js"
    _css = STATIC / "replay.css"

    session_id = traitlets.Unicode(read_only=True).tag(sync=True)
    command_no = traitlets.Int(-1).tag(sync=True)
    speed = traitlets.Float(1.0).tag(sync=True)

    def __init__(
        self,
        case: Case,
        session: Session | UUID | str,
        *,
        command: int | None = None,
        speed: float = 1.0,
    ) -> None:
        """Show `session` of `case`, at its first command or at `command`.

        Raises:
            QuestionError: no such session, or no such command in it.
        """
        self._session = session if isinstance(session, Session) else case.session(session)
        if command is not None:
            self._session.command(command)
        super().__init__(command_no=-1 if command is None else command, speed=speed)
        self.set_trait("session_id", str(self._session.id))
        self._results: dict[int, pa.Table] = {}
        self._reading = threading.Lock()
        self.on_msg(self._receive)

    @property
    def command(self) -> dict[str, Any]:
        """The row of the command that is shown.

        Raises:
            QuestionError: none is shown yet.
        """
        return self._session.command(self.command_no)

    def result(self) -> pa.Table:
        """Return the rows that the shown command returned, at most 100,000."""
        return self._result(self.command_no)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = still(self._session, self.command_no)
        return bundle

    def _receive(self, widget: object, message: Any, buffers: object) -> None:
        """Answer one question of the page; always, or it would wait for ever."""
        if not isinstance(message, dict) or message.get("v") != 1:
            return
        answer: dict[str, Any] = {"v": 1, "id": message.get("id")}
        parts: list[bytes] = []
        try:
            question = _QUESTIONS.get(message.get("op"))  # type: ignore[arg-type]
            if question is None:
                raise QuestionError("the page asks what this kernel does not know; reload it")
            data, parts = question(self, **(message.get("args") or {}))
            answer |= {"ok": True, "data": data}
        except AgentauditError as error:
            answer |= {"ok": False, "error": str(error)}
        except Exception as error:
            answer |= {"ok": False, "error": f"the kernel failed: {type(error).__name__}"}
            self.send(answer)
            raise
        self.send(answer, parts)

    def _open(self) -> Answer:
        facts = self._session.facts
        session: dict[str, Any] = {name: facts[name] for name in _FACTS}
        session["id"] = str(self._session.id)
        session["opened_at"] = _microseconds(facts["opened_at"])
        session["closed_at"] = _microseconds(facts["closed_at"])
        return {"session": session, "total": self._session.count, "events": facts["events"]}, []

    def _index(self, offset: int, limit: int) -> Answer:
        table = self._session.ask(
            "replay_index", offset=int(offset), limit=min(int(limit), _MAX_INDEX)
        ).to_arrow_table()
        return {"offset": offset, "count": table.num_rows}, [
            _buffer(column) for column in table.columns
        ]

    def _page(self, numbers: list[int]) -> Answer:
        relation = self._session.ask(
            "replay_page", numbers=[int(number) for number in numbers[:_MAX_PAGE]]
        )
        rows = []
        for row in relation.fetchall():
            shown = dict(zip(relation.columns, row, strict=True))
            returned, changed = shown.pop("rows_returned"), shown.pop("rows_affected")
            shown["rows"] = returned if returned is not None else changed
            if shown["rows"] is not None:
                noun = "row" if shown["rows"] == 1 else "rows"
                shown["rows_label"] = f"{shown['rows']:,} {noun}" + (
                    " changed" if returned is None else ""
                )
            rows.append(shown)
        return {"rows": rows}, []

    def _find(self, text: str) -> Answer:
        table = self._session.ask("replay_find", text=str(text)).to_arrow_table()
        return {"count": table.num_rows}, [_buffer(table.column("number"))]

    def _command(self, command_no: int) -> Answer:
        row = self._session.command(int(command_no))
        shown = {name: row[name] for name in _COMMAND}
        shown["cls"] = row["class"]
        shown["started_at"] = _microseconds(row["started_at"])
        shown["ended_at"] = _microseconds(row["ended_at"])
        shown["resources"] = row["resources"] or []
        shown["risk"] = row["risk"] or []
        statement = self._session.statement(int(command_no))
        shown["text"] = statement[:_STATEMENT_CHARACTERS]
        shown["text_more"] = max(0, len(statement) - _STATEMENT_CHARACTERS)
        cut = self._session.cuts(int(command_no)).get(int(command_no))
        shown["cut"] = None if cut is None else cut.words()
        # What COPY sends has no columns in its row; its lines are one.
        is_copied = row["operation"] == "COPY" and row["rows_returned"] is not None
        has_rows = is_copied or bool(row["columns"])
        shown["returns_rows"] = has_rows and not (cut is not None and cut.is_purged)
        return shown, []

    def _statement(self, command_no: int) -> Answer:
        statement = self._session.statement(int(command_no))
        return {
            "text": statement[:_WHOLE_CHARACTERS],
            "more": max(0, len(statement) - _WHOLE_CHARACTERS),
        }, []

    def _rows(self, command_no: int, offset: int, limit: int) -> Answer:
        table = self._result(int(command_no))
        page = table.slice(max(0, int(offset)), min(int(limit), _MAX_PAGE))
        columns = [
            {"name": field.name, "type": type_name, "numeric": _is_number(field)}
            for field, type_name in zip(table.schema, cells.type_names(table.schema), strict=True)
        ]
        rows = [[_cell(cell) for cell in row] for row in cells.texts(page)]
        return {
            "columns": columns,
            "rows": rows,
            "total": table.num_rows,
            "is_limited": table.num_rows == MAX_RESULT_ROWS,
        }, []

    def _cell(self, command_no: int, row: int, column: int) -> Answer:
        table = self._result(int(command_no))
        text = cells.text(table.column(int(column))[int(row)].as_py()) or ""
        return {
            "text": text[:_WHOLE_CHARACTERS],
            "more": max(0, len(text) - _WHOLE_CHARACTERS),
        }, []

    def _result(self, command_no: int) -> pa.Table:
        # One at a time: two threads would decode the same session twice, and hold both.
        with self._reading:
            table = self._results.pop(command_no, None)
            if table is None:
                table = self._session.result(command_no, MAX_RESULT_ROWS)
            self._results[command_no] = table
            while len(self._results) > _KEPT_RESULTS:
                del self._results[next(iter(self._results))]
            return table


_QUESTIONS: dict[str, Callable[..., Answer]] = {
    "open": Replay._open,
    "index": Replay._index,
    "page": Replay._page,
    "find": Replay._find,
    "command": Replay._command,
    "statement": Replay._statement,
    "result": Replay._rows,
    "cell": Replay._cell,
}


def _microseconds(time: Any) -> int | None:
    return None if time is None else round(time.timestamp() * 1_000_000)


def _buffer(column: pa.ChunkedArray) -> bytes:
    """Return the values of a column without nulls as their little-endian bytes."""
    array = column.combine_chunks()
    if not len(array):
        return b""
    width = array.type.bit_width // 8
    return bytes(array.buffers()[1])[array.offset * width : (array.offset + len(array)) * width]


def _cell(text: str | None) -> str | dict[str, Any] | None:
    if text is None or len(text) <= _CELL_CHARACTERS:
        return text
    return {"text": text[:_CELL_CHARACTERS], "length": len(text)}


def _is_number(field: pa.Field) -> bool:
    import pyarrow.types as kinds

    return bool(
        kinds.is_integer(field.type)
        or kinds.is_floating(field.type)
        or kinds.is_decimal(field.type)
    )
