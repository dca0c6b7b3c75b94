"""What several views look at together: an archive's index, a filter, and the command selected."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
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


class Scope:
    """One filter and one selection over `case`; whoever changes either, all others hear of it."""

    def __init__(self, case: Case, chosen: Filter) -> None:
        self.case = case
        self.index = index_of(case)
        self._filter = chosen
        self._selected: Selected | None = None
        self._listeners: list[weakref.WeakMethod[Callable[[Scope], None]]] = []
        self._lock = threading.Lock()

    @property
    def filter(self) -> Filter:
        """Which commands are looked at."""
        return self._filter

    @property
    def selected(self) -> Selected | None:
        """The command that is looked at."""
        return self._selected

    def hear(self, listener: Callable[[Scope], None]) -> None:
        """Call a method, as long as its object lives, after each change that another made."""
        with self._lock:
            self._listeners.append(weakref.WeakMethod(listener))

    def change(
        self, chosen: Filter, selected: Selected | None, *, by: object | None = None
    ) -> None:
        """Take another filter and selection, and tell all who listen, but for the object `by`."""
        with self._lock:
            if (chosen, selected) == (self._filter, self._selected):
                return
            self._filter, self._selected = chosen, selected
            methods = [method() for method in self._listeners]
            self._listeners = [each for each in self._listeners if each() is not None]
        for method in methods:
            if method is not None and getattr(method, "__self__", None) is not by:
                method(self)

    def to_json(self) -> dict[str, Any]:
        """Return it as a page has it."""
        selected = self._selected
        return {
            "filter": self._filter.to_json(),
            "selected": selected and {"session": str(selected[0]), "command": selected[1]},
        }


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
