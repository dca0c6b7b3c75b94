"""What waits for a decision at a gateway, and yes or no to it, in a notebook and in JupyterLab.

A page gets each request as the gateway told it, with the document that is decided on (`shown`) and
its digest. It computes the digest itself from the document that it draws and sends it back; here it
is held against what the gateway says now, and there against what waits. So nobody decides on
anything but what was on the screen.

What is asked of the gateway goes in the name of the token that `control` gives for each question,
and the token never goes to the page. Nor is it an argument: what stands in a cell is saved.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from agentaudit.analysis.case import Case
from agentaudit.client import tokens
from agentaudit.client.control import Control
from agentaudit.errors import AgentauditError, QuestionError, RefusedError
from agentaudit.widgets.pictures import beginning, grid
from agentaudit.widgets.questions import Buffered, Data, Questions, question
from agentaudit.widgets.replay import Replays
from agentaudit.widgets.scope import Scope, Scoped
from agentaudit.widgets.view import View, bundle

if TYPE_CHECKING:
    from agentaudit.client.control import Request

MAX_PENDING: Final = 200
"""Requests that a page gets: those that are over first."""

MAX_AT_ONCE: Final = 50
MAX_REASON: Final = 1_000
"""Characters, as the control API has it."""

STILL_WAIT_S: Final = 2.0
"""How long a cell may wait for the picture that is saved with it."""

_STILL_ROWS: Final = 50

MakeControl = Callable[[], Control]


class Approvals(View):
    """Shows what waits at a gateway, live, and takes yes or no to it, with a reason.

    In a notebook::

        approvals = Approvals()                  # the gateway of AGENTAUDIT_CONTROL
        approvals                                # draws it
        Approvals(case)                          # opens the sessions that wait, too
        Approvals(explorer)                      # and selects there what waits in them
        approvals.pending()                      # as `client.control.Request`s
    """

    _esm = bundle("approvals.js")
    _css = bundle("approvals.css")

    def __init__(
        self,
        case: Case | Scoped | None = None,
        *,
        control: str | MakeControl | None = None,
        token_file: str | PathLike[str] | None = None,
        audience: str | None = None,
        ca_file: str | PathLike[str] | None = None,
        decides: bool = True,
    ) -> None:
        """Ask the control API at the address `control`, or at that of AGENTAUDIT_CONTROL.

        What proves who decides is found as `agentaudit approve` finds it, at each question anew:
        in `token_file`, in AGENTAUDIT_TOKEN, or in what `agentaudit login` keeps (of `audience`).
        `control` may be a function instead, which returns the client with a token of its own.
        Where not `decides`, nobody can decide here. Nothing is asked before it is drawn.

        Raises:
            QuestionError: `case` is no case and no view of one.
        """
        scope: Scope | None = None
        if case is not None and not isinstance(case, Case):
            if not hasattr(case, "scope"):
                raise QuestionError(
                    "case: an archive that was loaded expected, or a view of one",
                    hint="the address of a control API is given as control=…",
                )
            scope, case = case.scope, case.scope.case
        if not callable(control):
            control = asked_at(control, token_file, audience, ca_file)
        self._asked = _WidgetQuestions(control, case, scope, decides=decides)
        super().__init__(self._asked)

    def pending(self) -> list[Request]:
        """Return what waits now, what ends first before others.

        Raises:
            AgentauditError: the control API is not named, says no, or does not answer.
        """
        return self._asked.waiting()

    def still(self) -> str:
        """Return when how much waited for whom, as HTML: no statement, and nobody who asks."""
        return still(self._asked)

    def _receive(self, widget: object, message: object, buffers: object) -> None:
        # A gateway may take half a minute to answer: other views of this kernel do not wait for it.
        threading.Thread(
            target=super()._receive,
            args=[widget, message, buffers],
            name="agentaudit-approvals",
            daemon=True,
        ).start()


def asked_at(
    url: str | None,
    token_file: str | PathLike[str] | None = None,
    audience: str | None = None,
    ca_file: str | PathLike[str] | None = None,
) -> MakeControl:
    """Return what makes the client of the API at `url`, each time with the token of that time."""

    def make() -> Control:
        where = (url or os.environ.get("AGENTAUDIT_CONTROL", "")).rstrip("/")
        if not where:
            raise QuestionError(
                "no control API is named", hint="set AGENTAUDIT_CONTROL, or give control=…"
            )
        token = tokens.given(_path(token_file), control=where, audience=audience)
        return Control(where, token, ca_file=_path(ca_file))

    return make


def _path(given: str | PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


class ApprovalQuestions(Questions):
    """What a page asks about pending requests; `control` makes the API's client, with a token.

    An error that it raises is told to the page, with its hint.
    """

    def __init__(self, control: MakeControl, *, decides: bool = True) -> None:
        self._control = control
        self._decides = decides

    def waiting(self) -> list[Request]:
        """Return what waits, what ends first before others."""
        found = self._control().requests(state="pending")
        found.sort(key=lambda one: (one.expires_at, str(one.id)))
        return found

    @question
    def pending(self) -> Data:
        """Answer what waits, what ends first before others; `mine` counts what one may decide
        oneself, and `now` is the time here, µs since 1970."""
        found = self.waiting()
        return {
            "now": time.time_ns() // 1_000,
            "count": len(found),
            "mine": sum(one.may_decide for one in found),
            "requests": [one.model_dump(mode="json", by_alias=True) for one in found[:MAX_PENDING]],
        }

    @question
    def outcome(self, request: str) -> Data:
        """Answer what became of a request: its state, and who voted how, and why."""
        try:
            one = self._control().request(UUID(str(request)))
        except ValueError:
            raise QuestionError("a request is named by its id") from None
        told = one.model_dump(mode="json", by_alias=True, include={"id", "state", "votes"})
        return dict(told)

    @question
    def decide(self, verdict: str, reason: str, requests: list[dict[str, str]]) -> Data:
        """Decide requests, each `{id, digest}`, and answer what became of each.

        Several at once must be of one kind, class and target, as at the command line. An answer is
        `{id, state}`, or `{id, error, hint}` where it was not decided.
        """
        if not self._decides:
            raise QuestionError("nothing is decided here", hint="agentaudit approve, or deny")
        wanted = _verdict(verdict)
        words = _reason(reason)
        pairs = _pairs(requests)
        api = self._control()
        found: list[Request] = []
        for id, digest in pairs:
            one = api.request(id)
            if not one.is_what_it_says or one.digest != digest:
                raise QuestionError(
                    f"request {id}: what was shown is not what waits",
                    hint="decide nothing there; look again, and ask who runs the gateway",
                )
            found.append(one)
        _refuse_mixed(found)
        if len(found) == 1:
            try:
                decided = api.decide(found[0].id, wanted, words, found[0].digest)
            except RefusedError as error:
                told = {"id": str(found[0].id), "error": str(error), "hint": error.hint}
                return {"decided": [told]}
            return {"decided": [{"id": str(decided.id), "state": decided.state}]}
        batch = api.decide_batch(wanted, words, [(one.id, one.digest) for one in found])
        return {"decided": [_told(each) for each in batch]}


def _verdict(verdict: object) -> Literal["approve", "deny"]:
    if verdict == "approve":
        return "approve"
    if verdict == "deny":
        return "deny"
    raise QuestionError("a verdict is approve or deny")


def _reason(reason: object) -> str:
    words = str(reason).strip() if isinstance(reason, str) else ""
    if not words:
        raise QuestionError("a decision needs a reason, in words that are kept")
    if len(words) > MAX_REASON:
        raise QuestionError(f"a reason of at most {MAX_REASON:,} characters expected")
    return words


def _pairs(requests: object) -> list[tuple[UUID, str]]:
    if not isinstance(requests, list) or not 0 < len(requests) <= MAX_AT_ONCE:
        raise QuestionError(f"1 to {MAX_AT_ONCE} requests at once expected")
    pairs: dict[UUID, str] = {}
    for each in requests:
        try:
            pairs[UUID(str(each["id"]))] = str(each["digest"])
        except (ValueError, KeyError, TypeError):
            raise QuestionError("a request is named by its id and digest") from None
    return list(pairs.items())


def _refuse_mixed(requests: Sequence[Request]) -> None:
    if len(requests) < 2:
        return
    if len({(one.kind, one.target, one.cls) for one in requests}) > 1:
        raise QuestionError(
            "several at once must be of one kind, class and target", hint="decide them one by one"
        )
    if requests[0].kind == "hold" and not requests[0].cls:
        raise QuestionError(
            "queries of several statements are decided one by one", hint="look at each"
        )


def _told(each: Any) -> Data:
    told = {"id": str(each.id), "state": each.state, "error": each.error, "hint": each.hint}
    return {name: value for name, value in told.items() if value}


class _WidgetQuestions(ApprovalQuestions):
    """The same for a notebook, where a case may be at hand: then sessions can be opened."""

    def __init__(
        self, control: MakeControl, case: Case | None, scope: Scope | None, *, decides: bool
    ) -> None:
        super().__init__(control, decides=decides)
        self._case = case
        self._scope = scope
        self._replays = None if case is None else Replays(case)

    @question
    def open(self) -> Data:
        """Answer what can be done here."""
        return {"decides": self._decides, "sessions": self._case is not None}

    @question
    def session(self, session: str, command: int) -> Data:
        """Answer where a session's replay begins: at `command`, or the last one recorded before.

        A view whose scope is shared selects it.
        """
        if self._case is None:
            raise QuestionError("no archive is given to open sessions of", hint="Approvals(case)")
        found = self._case.session(str(session))
        # What waits may not be recorded yet.
        number = min(int(command), found.count - 1)
        if self._scope is not None and number >= 0:
            self._scope.select((found.id, number))
        return {"session": str(found.id), "command": number}

    @question
    def replay(self, session: str, op: str, args: dict[str, Any]) -> Buffered:
        """Answer a question about one session, as `ReplayQuestions` does."""
        if self._replays is None:
            raise QuestionError("no archive is given to open sessions of", hint="Approvals(case)")
        return self._replays.ask(session, op, args)


# --- the still picture


def still(asked: ApprovalQuestions) -> str:
    """Return how much waited, of which kind and until when, as HTML without scripts.

    It is saved with a notebook, so there is nothing in it that an agent wrote, and no name of a
    person; nor why a gateway could not be asked, for that tells where it is.
    """
    found: list[list[Request]] = []

    def ask() -> None:
        try:
            found.append(asked.waiting())
        except AgentauditError:
            pass  # the page says why

    asking = threading.Thread(target=ask, name="agentaudit-still", daemon=True)
    asking.start()
    asking.join(STILL_WAIT_S)
    taken = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"
    parts = [
        f"<style>{bundle('still.css')}</style>",
        beginning("Pending approvals"),
    ]
    if found:
        (requests,) = found
        kinds = Counter("statement" if one.kind == "hold" else one.kind for one in requests)
        said = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(kinds.items()))
        many = "1 request" if len(requests) == 1 else f"{len(requests):,} requests"
        parts.append(f"<h4>{many} waited for a decision</h4>" if requests else _NOTHING)
        parts.append(f"<p>at {taken}{f': {said}' if said else ''}</p>")
        if requests:
            headings = ("until", "kind", "class", "target", "approvals", "who decides")
            parts.append(grid(headings, map(_row, requests[:_STILL_ROWS])))
        if len(requests) > _STILL_ROWS:
            parts.append(f"<p>and {len(requests) - _STILL_ROWS:,} more</p>")
    else:
        parts.append("<h4>The gateway could not be asked what waits</h4>")
        parts.append(f"<p>at {taken}</p>")
    parts.append(
        "<p>A still picture, without what was asked and by whom. With a kernel, requests come here "
        "as they are made, and are decided.</p></section>"
    )
    return "".join(parts)


_NOTHING: Final = "<h4>Nothing waited for a decision</h4>"


def _row(one: Request) -> Sequence[str]:
    ends = datetime.fromtimestamp(one.expires_at / 1e6, UTC)
    approved = sum(vote.verdict == "approve" for vote in one.votes)
    return (
        f"{ends:%Y-%m-%d %H:%M:%S}Z",
        "statement" if one.kind == "hold" else one.kind,
        one.cls,
        one.target,
        f"{approved} of {one.approvals}",
        ", ".join(one.approvers),
    )
