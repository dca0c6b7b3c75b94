"""Named questions of a page, and their answers, whatever carries them: a widget, or HTTP.

A question is `{"v": 1, "id": n, "op": name, "args": {…}}`. Its answer has the same number,
and either `"ok": true` with `data`, beside buffers of bytes, or `"ok": false` with an `error` and a
`hint`. Questions of one moment may come together, `{"v": 1, "batch": [question, …]}`, at most 32;
each is answered by itself. A page never sends SQL or a path: it names a method that is marked with
`question`, and gives plain values, which that method checks, because whoever drew the page may be
hostile.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, Final, TypeVar

from agentaudit.errors import AgentauditError, QuestionError

VERSION: Final = 1
MAX_BATCH: Final = 32
_AT_ONCE: Final = 2
"""Questions of a batch that are answered at once, in all of a process."""

Data = dict[str, Any]
Buffered = tuple[Data, list[bytes]]
"""What a question is answered with: values for JSON, and buffers where there is much."""

Send = Callable[[Data, list[bytes]], None]

_Method = TypeVar("_Method", bound=Callable[..., "Data | Buffered"])


_answering: Final = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="agentaudit-answers")


def question(method: _Method) -> _Method:
    """Mark a method of a `Questions` as what a page may ask, by the method's name."""
    method.is_question = True  # type: ignore[attr-defined]
    return method


class Questions:
    """Answers questions with its marked methods, on whatever thread they come."""

    def answer(self, message: object, send: Send) -> None:
        """Answer a page's question, or several, by `send`; always, or it would wait for ever.

        What is no question of this version is passed over.

        Raises:
            Exception: an answer failed in a way that nobody foresaw; the page has been told.
        """
        if not isinstance(message, dict) or message.get("v") != VERSION:
            return
        batch = message.get("batch")
        if not isinstance(batch, list):
            self._answer(message, send)
            return
        # What each waits for in a database lets the others go on meanwhile.
        answers = [
            _answering.submit(copy_context().run, self._answer, one, send)
            for one in batch[:MAX_BATCH]
            if isinstance(one, dict)
        ]
        wait(answers)
        for each in answers:
            each.result()

    def _answer(self, message: Data, send: Send) -> None:
        answer: Data = {"v": VERSION, "id": message.get("id")}
        try:
            data, buffers = self.ask(message.get("op"), message.get("args") or {})
        except AgentauditError as error:
            send(answer | {"ok": False, "error": str(error), "hint": error.hint}, [])
        except Exception as error:
            send(answer | {"ok": False, "error": f"the kernel failed: {type(error).__name__}"}, [])
            raise
        else:
            send(answer | {"ok": True, "data": data}, buffers)

    def ask(self, name: object, args: object) -> Buffered:
        """Return the answer to one question.

        Raises:
            AgentauditError: there is no such question, or it cannot be answered.
        """
        method = getattr(type(self), name, None) if isinstance(name, str) else None
        if method is None or not getattr(method, "is_question", False):
            raise QuestionError("the page asks what this kernel does not know; reload it")
        try:
            bound = inspect.signature(method).bind(self, **args)  # type: ignore[arg-type]
        except TypeError as error:
            raise QuestionError(f"question {name}: {error}", hint="reload the page") from None
        answer: Data | Buffered = method(*bound.args, **bound.kwargs)
        return (answer, []) if isinstance(answer, dict) else answer
