"""What several views look at together: an archive's index, a filter, and the command selected."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from agentaudit.analysis import asked
from agentaudit.analysis.case import Case
from agentaudit.analysis.explore import Filter, Index
from agentaudit.errors import QuestionError

Selected = tuple[UUID, int]
"""A session, and the number of a command in it."""

_indexes: weakref.WeakValueDictionary[Path, Index] = weakref.WeakValueDictionary()
_making = threading.Lock()


def index_of(case: Case) -> Index:
    """Return the index of an archive, which all its views share; it builds itself meanwhile."""
    with _making:
        index = _indexes.get(case.path)
        if index is None:
            index = _indexes[case.path] = Index(case)
        return index


@dataclass(frozen=True, slots=True)
class _State:
    """What a scope has after so many changes."""

    filter: Filter
    selected: Selected | None = None
    number: int = 0


class Scope:
    """One filter and one selection over `case`; whoever changes either, all others hear of it.

    Several pages may change it at once, each while it has not heard of the others yet. So a page
    says what it changes and no more, the scope numbers what comes of it, and pages tell by the
    number what is newer: all come to show the same (extension/components/src/explorer/scope.ts).
    """

    def __init__(self, case: Case, chosen: Filter) -> None:
        self.case = case
        self.index = index_of(case)
        # Numbers of a scope whose kernel or server has forgotten it are no numbers of this one.
        self._name = secrets.token_hex(8)
        self._state = _State(chosen)
        self._listeners: list[weakref.WeakMethod[Callable[[Scope], None]]] = []
        self._lock = threading.Lock()

    @property
    def filter(self) -> Filter:
        """Which commands are looked at."""
        return self._state.filter

    @property
    def selected(self) -> Selected | None:
        """The command that is looked at."""
        return self._state.selected

    def hear(self, listener: Callable[[Scope], None]) -> None:
        """Call a method, as long as its object lives, after each change that another made."""
        with self._lock:
            self._listeners.append(weakref.WeakMethod(listener))

    def narrow(self, chosen: Filter) -> None:
        """Take another filter, and tell all who listen."""
        self._change(lambda before: replace(before, filter=chosen))

    def select(self, selected: Selected | None, *, by: object | None = None) -> None:
        """Select another command, and tell all who listen, but for the object `by`."""
        self._change(lambda before: replace(before, selected=selected), by)

    def take(self, change: object) -> None:
        """Take what a page changes: clauses of the `filter`, empty where they go, or `selected`.

        Raises:
            QuestionError: it is no change of these; then nothing is changed.
        """
        if not isinstance(change, Mapping) or not change.keys() <= {"filter", "selected"}:
            raise QuestionError("change: clauses of a filter, or a selected command expected")
        clauses = change.get("filter", {})
        if not isinstance(clauses, Mapping):
            raise QuestionError("change: an object of a filter's clauses expected")

        def changed(before: _State) -> _State:
            chosen = Filter.parse({**before.filter.to_json(), **clauses})
            if "selected" not in change:
                return replace(before, filter=chosen)
            return replace(before, filter=chosen, selected=selection(change["selected"]))

        self._change(changed)

    def _change(self, change: Callable[[_State], _State], by: object | None = None) -> None:
        with self._lock:
            changed = change(self._state)
            if changed == self._state:
                return
            self._state = replace(changed, number=self._state.number + 1)
            methods = [method() for method in self._listeners]
            self._listeners = [each for each in self._listeners if each() is not None]
        for method in methods:
            if method is not None and (by is None or getattr(method, "__self__", None) is not by):
                method(self)

    def to_json(self) -> dict[str, Any]:
        """Return it as a page has it."""
        state = self._state
        selected = state.selected
        return {
            "scope": self._name,
            "number": state.number,
            "filter": state.filter.to_json(),
            "selected": selected and {"session": str(selected[0]), "command": selected[1]},
        }


class Scoped(Protocol):
    """A view that shares what it looks at."""

    scope: Scope


def selection(given: object) -> Selected | None:
    """Return what a page says is selected.

    Raises:
        QuestionError: it is no session's id and number of a command.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.keys() != {"session", "command"}:
        raise QuestionError("selected: a session and a command expected")
    try:
        session = UUID(given["session"])
    except (ValueError, TypeError, AttributeError):
        raise QuestionError("selected: a session's id expected") from None
    return session, asked.count("selected.command", given["command"])
