"""What waits for a decision at a gateway, and yes or no to it, for a page.

A page gets each request as the gateway told it, with the document that is decided on (`shown`) and
its digest. It computes the digest itself from the document that it draws and sends it back; here it
is held against what the gateway says now, and there against what waits. So nobody decides on
anything but what was on the screen.

What is asked of the gateway goes in the name of the token that `control` gives for each question,
and the token never goes to the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from agentaudit.client.control import Control
from agentaudit.errors import QuestionError, RefusedError
from agentaudit.widgets.questions import Data, Questions, question

if TYPE_CHECKING:
    from agentaudit.client.control import Request

MAX_PENDING: Final = 200
"""Requests that a page gets: those that are over first."""

MAX_AT_ONCE: Final = 50
MAX_REASON: Final = 2_000

MakeControl = Callable[[], Control]


class ApprovalQuestions(Questions):
    """What a page asks about pending requests; `control` makes the API's client, with a token.

    An error that it raises is told to the page, with its hint.
    """

    def __init__(self, control: MakeControl) -> None:
        self._control = control

    @question
    def pending(self) -> Data:
        """Answer what waits, what ends first before others; `mine` counts what one may decide
        oneself, and `now` is the time here, µs since 1970."""
        found = self._control().requests(state="pending")
        found.sort(key=lambda one: (one.expires_at, str(one.id)))
        return {
            "now": time.time_ns() // 1_000,
            "count": len(found),
            "mine": sum(one.may_decide for one in found),
            "requests": [one.model_dump(mode="json", by_alias=True) for one in found[:MAX_PENDING]],
        }

    @question
    def decide(self, verdict: str, reason: str, requests: list[dict[str, str]]) -> Data:
        """Decide requests, each `{id, digest}`, and answer what became of each.

        Several at once must be of one kind, class and target, as at the command line. An answer is
        `{id, state}`, or `{id, error, hint}` where it was not decided.
        """
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
