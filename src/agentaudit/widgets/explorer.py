"""Sessions and commands of an archive: filters, time, a list, and what is behind each line of it.

`ExplorerQuestions` answers what such a page asks, out of the index that `analysis.explore` keeps;
`Explorer`, `Timeline` and `CommandFilter` are widgets over it, which show all or a part. Given the
same explorer they share its scope: filter, times and selection of one are those of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import traitlets

from agentaudit.analysis import asked
from agentaudit.analysis.case import Case
from agentaudit.analysis.explore import Answer, Filter, Index, Rebuilt
from agentaudit.analysis.session import Session
from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.widgets.pictures import beginning, escaped
from agentaudit.widgets.questions import Buffered, Data, Questions, question
from agentaudit.widgets.replay import Replay, Replays
from agentaudit.widgets.scope import Scope, Scoped
from agentaudit.widgets.view import View, bundle

if TYPE_CHECKING:
    import duckdb

MAX_MARKS: Final = 4_000
"""Up to so many commands in view are drawn one by one."""

STILL_WAIT_S: Final = 2.0
"""How long a cell may wait for the picture that is saved with it, of so many commands at most: the
page asks nothing before its cell has ended."""
STILL_COMMANDS: Final = 200_000

LANES: Final = ("none", "session", "user", "agent", "target", "class")
_Found = TypeVar("_Found")
_MAX_CHANNEL = 20


class ExplorerQuestions(Questions):
    """What pages ask about an archive, and what they change of its scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._replays = Replays(scope.case)

    @question
    def open(self) -> Data:
        found = self._ask("overview")
        first, last = found["first"] or 0, found["last"] or 0
        return {
            "archive": self._scope.case.path.name,
            "commands": found["n"],
            "sessions": found["values"].get("session"),
            "first": first,
            "last": max(first, last),
            "ready": found["ready"],
            "progress": found["progress"]["share"],
            "scripted": any(each["clock"] == "scripted" for each in found["gateways"]),
            "warnings": found["warnings"] + ([found["trouble"]] if found["trouble"] else []),
            "stamp": f"{found['ready']} {found['generation']}",
            **self._scope.to_json(),
        }

    @question
    def scope(self, change: Any) -> Data:
        """Take what a page changes; the answer is the scope with it."""
        self._scope.take(change)
        return self._scope.to_json()

    @question
    def look(
        self, filter: Any, since: Any, until: Any, width: Any, lanes: Any, channel: Any = ""
    ) -> Buffered:
        """Bins of a stretch of time, or the commands in it where they are few."""
        if not isinstance(channel, str) or len(channel) > _MAX_CHANNEL:
            raise QuestionError(f"channel: at most {_MAX_CHANNEL} characters expected")
        place = {"filter": filter, "since": since, "until": until, "lanes": lanes}
        channel = channel and f"{id(self)} {channel}"
        bins = self._scope.index.answer("bins", {**place, "width": width}, channel=channel)
        if bins.facts["n"] is None:
            # Before there is an index, nobody can tell lanes apart.
            whole = {**place, "width": width, "lanes": "none"}
            bins = self._scope.index.answer("bins", whole, channel=channel)
        if bins.facts["ready"] and bins.facts["n"] <= MAX_MARKS:
            # On no channel: its turn would end that of a newer look.
            marks = self._scope.index.answer("marks", {**place, "limit": MAX_MARKS})
            if marks.facts.get("complete"):
                return _buffered(marks, kind="marks")
        return _buffered(bins, kind="bins")

    @question
    def facets(self, filter: Any) -> Data:
        return self._ask("facets", filter=filter)

    @question
    def values(self, filter: Any, facet: Any, text: Any, offset: Any, limit: Any) -> Data:
        """Values of one facet, those that `facets` has no room for too."""
        page = {"text": text, "offset": offset, "limit": limit}
        return self._ask("values", filter=filter, facet=facet, **page)

    @question
    def count(self, filter: Any) -> Data:
        """How many commands match; null while that is not known."""
        return {"n": self._ask("position", filter=filter, order="oldest", t=0)["n"]}

    @question
    def rows(self, filter: Any, newest: Any, offset: Any, limit: Any) -> Buffered:
        return self._page("rows", filter, newest, offset, limit)

    @question
    def sessions(self, filter: Any, newest: Any, offset: Any, limit: Any) -> Buffered:
        return self._page("sessions", filter, newest, offset, limit)

    @question
    def step(self, filter: Any, direction: Any, t: Any, session: Any, command: Any) -> Buffered:
        """The next command behind one, or behind a time where that is none, as a row."""
        behind = {"filter": filter, "order": "oldest" if direction == 1 else "newest", "limit": 1}

        def next_to(found: Data) -> Answer:
            at = {"t": t, "id": 0} if found.get("id") is None else found
            after = {"t": at["t"], "id": at["id"]}
            return self._scope.index.answer("rows", {**behind, "after": after, **_of(found)})

        if session is None:
            return _buffered(next_to({}))
        return _buffered(self._located(session, command, next_to))

    @question
    def which(self, id: Any, build: Any) -> Data:
        """Which command an `id` of the index is; null where the index is another than that was."""
        try:
            return self._ask("which", id=id, build=asked.whole("build", build))
        except Rebuilt:
            return {"session": None, "command_no": None}

    @question
    def locate(self, session: Any, command: Any) -> Data:
        return self._ask("locate", session=session, command_no=command)

    @question
    def place(self, filter: Any, newest: Any, session: Any, command: Any) -> Data:
        """Where in the list of commands one is; null where it is not there."""

        def place_of(found: Data) -> Data:
            if found.get("id") is None:
                return {"position": None, "matches": False}
            at = {"t": found["t"], "id": found["id"], **_of(found)}
            return self._ask("position", filter=filter, order=_order(newest), **at)

        found = self._located(session, command, place_of)
        return {"place": found["position"] if found["matches"] else None}

    def _located(self, session: Any, command: Any, ask: Callable[[Data], _Found]) -> _Found:
        """Ask something about where a command is, again if the index is built anew meanwhile."""
        try:
            return ask(self.locate(session, command))
        except Rebuilt:
            return ask(self.locate(session, command))

    @question
    def code(self, filter: Any) -> Data:
        """The SQL and the Python that a filter stands for."""
        chosen = Filter.parse(filter)
        return {"sql": chosen.sql(), "python": chosen.python()}

    @question
    def replay(self, session: Any, op: Any, args: Any) -> Buffered:
        """A question about one session, as `ReplayQuestions` answers it."""
        return self._replays.ask(session, op, args)

    def _ask(self, name: str, **arguments: Any) -> Data:
        return self._scope.index.answer(name, arguments).facts

    def _page(self, name: str, filter: Any, newest: Any, offset: Any, limit: Any) -> Buffered:
        page = {"filter": filter, "order": _order(newest), "offset": offset, "limit": limit}
        return _buffered(self._scope.index.answer(name, page))


class _Scoped(View):
    """A widget over a scope, its own or another view's."""

    _esm = bundle("explorer.js")
    _css = bundle("explorer.css")

    parts = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    lanes = traitlets.Enum(LANES, "none").tag(sync=True)

    scope: Scope

    def __init__(
        self, of: Case | Scoped, parts: tuple[str, ...], *, lanes: str = "none", **filter: Any
    ) -> None:
        if not isinstance(of, Case):
            self.scope = of.scope
            if filter:
                raise QuestionError("filter: that of the explorer is shared; set it there")
        else:
            self.scope = Scope(of, _chosen(filter))
        super().__init__(ExplorerQuestions(self.scope), lanes=lanes)
        self.set_trait("parts", list(parts))
        self.scope.hear(self._tell)

    @property
    def case(self) -> Case:
        """The case that is looked at."""
        return self.scope.case

    @property
    def filter(self) -> Filter:
        """The filter in force; set it to another, or to a dict of its clauses."""
        return self.scope.filter

    @filter.setter
    def filter(self, chosen: Filter | Mapping[str, Any]) -> None:
        if not isinstance(chosen, Filter):
            chosen = Filter.parse(chosen)
        self.scope.narrow(chosen)

    @property
    def sql(self) -> str:
        """The SQL that the filter stands for, for `case.sql`."""
        return self.filter.sql()

    @property
    def python(self) -> str:
        """The Python that the filter stands for."""
        return self.filter.python()

    def data(self) -> duckdb.DuckDBPyRelation:
        """Return the commands that the filter leaves, as a relation: `.pl()`, `.df()`, more SQL."""
        return self.case.sql(self.sql)

    @property
    def selected(self) -> tuple[UUID, int] | None:
        """The session and the number of the command that is selected, or None."""
        return self.scope.selected

    def select(self, session: UUID | str, command: int) -> None:
        """Select a command; the views that share the scope show it.

        Raises:
            QuestionError: there is no such session or command.
        """
        found = self.case.session(session)
        found.command(command)
        self.scope.select((found.id, command))

    @property
    def session(self) -> Session:
        """The session of the command that is selected.

        Raises:
            QuestionError: none is selected.
        """
        if self.selected is None:
            raise QuestionError("selected: no command is", hint="click one, or call select()")
        return self.case.session(self.selected[0])

    def replay(self) -> Replay:
        """Return the replay of the selected command's session.

        Raises:
            QuestionError: none is selected.
        """
        session = self.session
        assert self.selected is not None
        return Replay(self.case, session, command=self.selected[1])

    def still(self) -> str:
        """Return counts as HTML, and what the filter stands for."""
        return still(self.scope)

    def _tell(self, scope: Scope) -> None:
        self.send({"v": 1, "event": "scope", "data": scope.to_json()})


class Explorer(_Scoped):
    """All of an archive's sessions and commands: filters, a timeline, lists, and their replay.

    In a notebook::

        explorer = Explorer(case, user="ana", status="error")
        explorer                                 # draws it
        explorer.data().pl()                     # the commands that the filter leaves
        explorer.selected                        # the session and number of the selected command
        Timeline(explorer)                       # another view of the same
    """

    def __init__(self, case: Case | Scoped, *, lanes: str = "none", **filter: Any) -> None:
        """Show what matches: any clauses of `Filter`, a value or a list of values each.

        Raises:
            QuestionError: a clause is wrong.
        """
        super().__init__(case, ("facets", "timeline", "list", "code"), lanes=lanes, **filter)


class Timeline(_Scoped):
    """When what happened: lanes a session, user, agent or target; densities and single commands."""

    def __init__(self, case: Case | Scoped, *, lanes: str = "user", **filter: Any) -> None:
        """Show the commands of a case, or what another view shows.

        Raises:
            QuestionError: a clause of the filter is wrong.
        """
        super().__init__(case, ("timeline",), lanes=lanes, **filter)


class CommandFilter(_Scoped):
    """A filter, put together by clicks, with the SQL and the Python that it stands for."""

    def __init__(self, case: Case | Scoped, **filter: Any) -> None:
        """Begin with what matches, or with the filter of another view.

        Raises:
            QuestionError: a clause of the filter is wrong.
        """
        super().__init__(case, ("facets", "code"), **filter)


def _chosen(given: Mapping[str, Any]) -> Filter:
    """Return the filter of keyword arguments: a single value may stand for a list of one."""
    single = {"since", "until", "text"}
    return Filter.parse(
        {
            name: value if name in single or not isinstance(value, str | UUID) else [str(value)]
            for name, value in given.items()
        }
    )


def _of(found: Data) -> Data:
    """Return the argument that says of which build the ids in `found` are."""
    return {"build": found.get("build")}


def _order(newest: object) -> str:
    return "newest" if newest is True else "oldest"


def _buffered(answer: Answer, **more: Any) -> Buffered:
    return answer.facts | more, list(answer.buffers)


# --- the still picture


def still(scope: Scope) -> str:
    """Return counts of what the filter leaves as HTML without scripts, and the filter as SQL."""
    facets: dict[str, Any] = {}
    counted = "not read yet"
    try:
        is_read = _is_read(scope.index)
        n = scope.index.answer("overview").facts["n"]
        if is_read:
            facets = scope.index.answer("facets", {"filter": scope.filter.to_json()}).facts
        if n is not None:
            counted = f"{n:,} commands" + ("" if is_read else ", not read yet")
    except AgentauditError as error:
        counted = str(error)
    parts = [
        f"<style>{bundle('still.css')}</style>",
        beginning("Explorer of an archive"),
        f"<h4>{escaped(scope.case.path.name)}: {escaped(counted)}</h4>",
    ]
    for facet in ("cls", "status", "user", "agent", "target"):
        values = facets.get("facets", {}).get(facet, {}).get("values", [])
        if values:
            said = ", ".join(f"{escaped(str(name))} {n:,}" for name, n in values[:8])
            parts.append(f"<p><b>{facet}</b> {said}</p>")
    parts += [
        f"<pre>{escaped(scope.filter.sql())}</pre>",
        "<p>A still picture. With a kernel, the archive can be explored here.</p></section>",
    ]
    return "".join(parts)


def _is_read(index: Index) -> bool:
    """Wait for the index of a small archive; return whether it is there."""
    end = time.monotonic() + STILL_WAIT_S
    while not index.wait(0.05):
        n = index.answer("overview").facts["n"]
        if time.monotonic() > end or (n is not None and n > STILL_COMMANDS):
            return False
    return True
