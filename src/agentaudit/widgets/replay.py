"""Replay of one session: its commands, results and errors, in their own time.

`ReplayQuestions` answers what a page asks about one session, in slices by name; `Replay` is the
widget that shows such a page in a notebook. See `questions` and `view` for what they have in common
with all others.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import traitlets

from agentaudit.analysis import cells, replay
from agentaudit.analysis import film as films
from agentaudit.analysis.case import Case
from agentaudit.analysis.film import Film
from agentaudit.analysis.seen import seen
from agentaudit.analysis.session import Session
from agentaudit.errors import QuestionError
from agentaudit.widgets.questions import Buffered, Data, Questions, question
from agentaudit.widgets.scope import Scope, Scoped
from agentaudit.widgets.still import still
from agentaudit.widgets.view import View, bundle

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RESULT_ROWS = 100_000
_KEPT_RESULTS = 4
_KEPT_FILMS = 1
_KEPT_REPLAYS = 4
_STATEMENT_CHARACTERS = 8_000
_WHOLE_CHARACTERS = 1_000_000
_CELL_CHARACTERS = 300
_MAX_INDEX = 100_000
_MAX_PAGE = 500
_MAX_SEEN = 200


class Replay(View):
    """Steps through one session; `command_no` is the command shown, from Python and from the page.

    In a notebook::

        replay = Replay(case, "0199f3c2-…", command=12)
        replay                                   # draws it
        replay.command["text"]                   # of the command that is shown
        Replay(explorer)                         # follows what is selected there
    """

    _esm = bundle("replay.js")
    _css = bundle("replay.css")

    session_id = traitlets.Unicode(read_only=True).tag(sync=True)
    command_no = traitlets.Int(-1).tag(sync=True)
    speed = traitlets.Float(1.0).tag(sync=True)

    def __init__(
        self,
        case: Case | Scoped,
        session: Session | UUID | str | None = None,
        *,
        command: int | None = None,
        speed: float = 1.0,
    ) -> None:
        """Show `session` of `case`, at its first command or at `command`.

        Given another view in the place of a case, and no session, it shows what is selected there.

        Raises:
            QuestionError: no such session, or no such command in it.
        """
        self._scope = None if isinstance(case, Case) or session is not None else case.scope
        if self._scope is not None:
            super().__init__(Questions(), speed=speed)
            self._scope.hear(self._follow)
            self.observe(self._lead, "command_no")
            self._follow(self._scope)
            return
        if session is None:
            raise QuestionError("session: none is given", hint="case.sessions() lists them")
        if not isinstance(session, Session):
            session = (case if isinstance(case, Case) else case.scope.case).session(session)
        if command is not None:
            session.command(command)
        super().__init__(Questions(), speed=speed)
        self._show(session, -1 if command is None else command)

    @property
    def session(self) -> Session:
        """The session that is shown.

        Raises:
            QuestionError: none is selected yet in the view that this one follows.
        """
        if not isinstance(self._questions, ReplayQuestions):
            raise QuestionError("session: none is selected yet")
        return self._questions.session

    @property
    def command(self) -> dict[str, Any]:
        """The row of the command that is shown.

        Raises:
            QuestionError: none is shown yet.
        """
        return self.session.command(self.command_no)

    def result(self) -> pa.Table:
        """Return the rows that the shown command returned, at most 100,000.

        Raises:
            QuestionError: none is shown yet.
        """
        if not isinstance(self._questions, ReplayQuestions):
            raise QuestionError("session: none is selected yet")
        return self._questions.table(self.command_no)

    def still(self) -> str:
        """Return the session as HTML; where it is long, the commands around the one shown."""
        if not isinstance(self._questions, ReplayQuestions):
            return "<p>No session was selected.</p>"
        return still(self._questions.session, self.command_no)

    def _show(self, session: Session, command_no: int) -> None:
        self._questions = ReplayQuestions(session)
        with self.hold_sync():
            self.set_trait("session_id", str(session.id))
            self.command_no = command_no

    def _follow(self, scope: Scope) -> None:
        if scope.selected is None:
            return
        identity, command_no = scope.selected
        if self.session_id == str(identity):
            self.command_no = command_no
        else:
            self._show(scope.case.session(identity), command_no)

    def _lead(self, change: object) -> None:
        if self._scope is not None and self.session_id and self.command_no >= 0:
            self._scope.select((UUID(self.session_id), self.command_no), by=self)


class ReplayQuestions(Questions):
    """What a page asks about one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._results: dict[int, pa.Table] = {}
        self._films: dict[int, Film] = {}
        self._reading = threading.Lock()

    @question
    def open(self) -> Data:
        facts = self.session.facts
        return {
            "session": replay.session(self.session.id, facts),
            "total": self.session.count,
            "events": facts["events"],
        }

    @question
    def index(self, offset: int, limit: int) -> Buffered:
        table = self.session.ask(
            "replay_index", offset=int(offset), limit=min(int(limit), _MAX_INDEX)
        ).to_arrow_table()
        return {"offset": offset, "count": table.num_rows}, [
            _buffer(column) for column in table.columns
        ]

    @question
    def page(self, numbers: list[int]) -> Data:
        relation = self.session.ask(
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
        return {"rows": rows}

    @question
    def find(self, text: str) -> Buffered:
        table = self.session.ask("replay_find", text=str(text)).to_arrow_table()
        return {"count": table.num_rows}, [_buffer(table.column("number"))]

    @question
    def command(self, command_no: int) -> Data:
        row = self.session.command(int(command_no))
        cut = self.session.cuts(int(command_no)).get(int(command_no))
        has_terminal = row["protocol"] == "ssh" and int(command_no) in self.session.terminals
        shown = replay.command(row, cut, has_terminal=has_terminal)
        statement = self.session.statement(int(command_no))
        shown["text"] = statement[:_STATEMENT_CHARACTERS]
        shown["text_more"] = max(0, len(statement) - _STATEMENT_CHARACTERS)
        return shown

    @question
    def statement(self, command_no: int) -> Data:
        statement = self.session.statement(int(command_no))
        return {
            "text": statement[:_WHOLE_CHARACTERS],
            "more": max(0, len(statement) - _WHOLE_CHARACTERS),
        }

    @question
    def result(self, command_no: int, offset: int, limit: int) -> Data:
        table = self.table(int(command_no))
        page = table.slice(max(0, int(offset)), min(int(limit), _MAX_PAGE))
        rows = [[replay.cell(cell, _CELL_CHARACTERS) for cell in row] for row in cells.texts(page)]
        return {
            "columns": replay.columns(table.schema),
            "rows": rows,
            "total": table.num_rows,
            "is_limited": table.num_rows == MAX_RESULT_ROWS,
        }

    @question
    def cell(self, command_no: int, row: int, column: int) -> Data:
        table = self.table(int(command_no))
        text = cells.text(table.column(int(column))[int(row)].as_py()) or ""
        return {
            "text": text[:_WHOLE_CHARACTERS],
            "more": max(0, len(text) - _WHOLE_CHARACTERS),
        }

    @question
    def terminal(self, command_no: int) -> Buffered:
        film = self._film(int(command_no), is_fresh=True)
        return films.facts(film), [struct.pack(f"<{len(film.times_ms)}i", *film.times_ms)]

    @question
    def frames(self, command_no: int, page: int) -> Data:
        return {"frames": self._film(int(command_no)).page(int(page))}

    @question
    def seen(self, command_no: int, text: str) -> Data:
        hits, is_cut = seen(self.session.terminal(int(command_no)), str(text), _MAX_SEEN)
        told = [
            {"first_ms": hit.first_us // 1_000, "last_ms": hit.last_us // 1_000, "text": hit.text}
            for hit in hits
        ]
        return {"hits": told, "is_cut": is_cut}

    def _film(self, command_no: int, *, is_fresh: bool = False) -> Film:
        with self._reading:
            film = self._films.pop(command_no, None)
            if film is None:
                film = Film(self.session.terminal(command_no))
            elif is_fresh:
                film.refresh()
            self._films[command_no] = film
            while len(self._films) > _KEPT_FILMS:
                del self._films[next(iter(self._films))]
            return film

    def table(self, command_no: int) -> pa.Table:
        """Return the rows that a command returned, at most 100,000; the last few are kept."""
        # One at a time: two threads would decode the same session twice, and hold both.
        with self._reading:
            table = self._results.pop(command_no, None)
            if table is None:
                table = self.session.result(command_no, MAX_RESULT_ROWS)
            self._results[command_no] = table
            while len(self._results) > _KEPT_RESULTS:
                del self._results[next(iter(self._results))]
            return table


class Replays:
    """Answers about any session of a case, each as `ReplayQuestions` does; keeps the last few."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._kept: dict[str, ReplayQuestions] = {}
        self._opening = threading.Lock()

    def ask(self, session: Any, op: Any, args: Any) -> Buffered:
        """Return the answer to a question about the session of that id.

        Raises:
            AgentauditError: there is no such session or question, or it cannot be answered.
        """
        if not isinstance(session, str):
            raise QuestionError("session: an id expected")
        with self._opening:
            asked = self._kept.pop(session, None)
            if asked is None:
                asked = ReplayQuestions(self._case.session(session))
            self._kept[session] = asked
            while len(self._kept) > _KEPT_REPLAYS:
                del self._kept[next(iter(self._kept))]
        return asked.ask(op, args)


def _buffer(column: pa.ChunkedArray) -> bytes:
    """Return the values of a column without nulls as their little-endian bytes."""
    array = column.combine_chunks()
    if not len(array):
        return b""
    width = array.type.bit_width // 8
    return bytes(array.buffers()[1])[array.offset * width : (array.offset + len(array)) * width]
