"""Named questions of a page, and their answers, whatever carries them: a widget, or HTTP.

A question is `{"v": 1, "id": n, "op": name, "args": {…}}`. Its answer has the same number,
and either `"ok": true` with `data`, beside buffers of bytes, or `"ok": false` with an `error` and a
`hint`. Questions of one moment may come together, `{"v": 1, "batch": [question, …]}`, at most 32;
answers that are there together go back so, each with how many of the `buffers` are its own. A page
never sends SQL or a path: it names a method that is marked with
`question`, and gives plain values, which that method checks, because whoever drew the page may be
hostile.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from agentaudit.errors import AgentauditError, QuestionError

VERSION: Final = 1
MAX_BATCH: Final = 32
_AT_ONCE: Final = 2
"""Questions of a batch that are answered at once, in all of a process."""
_TOGETHER_S: Final = 0.02
"""So long answers wait for others of their batch: a message costs more than most answers do, and
so does each time that a page draws. One that is late goes by itself."""

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


@dataclass(frozen=True, slots=True)
class _Answered:
    """What goes back for a question, and what nobody foresaw."""

    answer: Data
    buffers: list[bytes]
    failure: Exception | None = None

    def require_foreseen(self) -> None:
        if self.failure is not None:
            raise self.failure


def _send(answered: Sequence[_Answered], send: Send) -> None:
    """Send answers in one message."""
    if len(answered) == 1:
        send(answered[0].answer, answered[0].buffers)
    elif answered:
        batch = [each.answer | {"buffers": len(each.buffers)} for each in answered]
        buffers = [buffer for each in answered for buffer in each.buffers]
        send({"v": VERSION, "batch": batch}, buffers)


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
            _answering.submit(copy_context().run, self._answered, one)
            for one in batch[:MAX_BATCH]
            if isinstance(one, dict)
        ]
        ready, late = wait(answers, timeout=_TOGETHER_S)
        _send([each.result() for each in answers if each in ready], send)
        for each in as_completed(late):
            _send([each.result()], send)
        for each in answers:
            each.result().require_foreseen()

    def _answer(self, message: Data, send: Send) -> None:
        answered = self._answered(message)
        _send([answered], send)
        answered.require_foreseen()

    def _answered(self, message: Data) -> _Answered:
        answer: Data = {"v": VERSION, "id": message.get("id")}
        try:
            data, buffers = self.ask(message.get("op"), message.get("args") or {})
        except AgentauditError as error:
            return _Answered(answer | {"ok": False, "error": str(error), "hint": error.hint}, [])
        except Exception as error:
            failed = {"ok": False, "error": f"the kernel failed: {type(error).__name__}"}
            return _Answered(answer | failed, [], error)
        return _Answered(answer | {"ok": True, "data": data}, buffers)

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
