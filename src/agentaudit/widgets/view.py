"""What all widgets are: a page's half in `static`, and a kernel's half that answers its questions.

The kernel keeps the data; nothing recorded is ever a synced trait, because traits are saved into
the notebook. JupyterLab delivers messages on threads of its choice (subshells), also while a cell
runs, so what answers them touches no event loop.

Beside the widget a still picture goes out as HTML, for nbconvert and for readers without a kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anywidget

from agentaudit.errors import QuestionError
from agentaudit.widgets.questions import Questions

STATIC: Final = Path(__file__).parent / "static"


def bundle(name: str) -> str:
    """Return a file of the front end.

    By its text and not by its path: anywidget keeps every widget alive whose file it watches.

    Raises:
        QuestionError: it was not built.
    """
    try:
        return (STATIC / name).read_text("utf-8")
    except FileNotFoundError:
        raise QuestionError(
            f"{name}: the front end is not built", hint="make front, in the checkout"
        ) from None


class View(anywidget.AnyWidget):
    """A widget whose page asks `questions`; subclasses name its files and draw the still one."""

    def __init__(self, questions: Questions, **traits: Any) -> None:
        super().__init__(**traits)
        self._questions = questions
        self.on_msg(self._receive)

    def still(self) -> str:
        """Return a picture of it as HTML without scripts, of what may be saved with a notebook."""
        raise NotImplementedError

    def _receive(self, widget: object, message: object, buffers: object) -> None:
        self._questions.answer(message, self.send)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = self.still()
        return bundle
