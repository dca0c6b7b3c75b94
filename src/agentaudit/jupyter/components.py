"""Which views a browser may draw over HTTP, and what answers each: one line a component.

The name is the one in the address, `/agentaudit/questions/<archive>/<name>[/<session>]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agentaudit.analysis.case import Case
from agentaudit.analysis.explore import Filter
from agentaudit.analysis.masking_sources import recorded_in
from agentaudit.analysis.session import Session
from agentaudit.errors import QuestionError
from agentaudit.widgets.explorer import ExplorerQuestions
from agentaudit.widgets.masking_preview import MaskingQuestions
from agentaudit.widgets.questions import Questions
from agentaudit.widgets.replay import ReplayQuestions
from agentaudit.widgets.scope import Scope
from agentaudit.widgets.sessions import SessionsQuestions


@dataclass(frozen=True, slots=True)
class Component:
    """What makes the questions of a view, of a case and of a session of it where one is named.

    What keeps something that its page has said, `is_of_page`, is made for each page.
    """

    make: Callable[[Case, Session | None], Questions]
    is_of_page: bool = False


FIRST_RULES: Final = """\
# Masks as agentaudit.toml has them; Ctrl+Enter tries them.
[[mask]]
name = "secrets and addresses"
detect = ["secrets", "email"]
"""


def _replay(case: Case, session: Session | None) -> Questions:
    if session is None:
        raise QuestionError("a replay is of a session")
    session.facts  # noqa: B018 - one that was purged is refused here, and not command by command
    return ReplayQuestions(session)


def _masking(case: Case, session: Session | None) -> Questions:
    chosen = {"session": None if session is None else session.id}
    return MaskingQuestions(recorded_in(case, chosen), FIRST_RULES)


def _explorer(case: Case, session: Session | None) -> Questions:
    chosen = Filter() if session is None else Filter(session=(str(session.id),))
    return ExplorerQuestions(Scope(case, chosen))


COMPONENTS: Final[Mapping[str, Component]] = {
    "sessions": Component(lambda case, _: SessionsQuestions(case)),
    "explorer": Component(_explorer, is_of_page=True),
    "replay": Component(_replay),
    "masking": Component(_masking, is_of_page=True),
}
