"""Verbs for whoever decides: what waits, and yes or no to it.

What is decided is what was fetched, by its digest, and the digest is computed here from what is
shown: nobody decides on anything that this command could not have shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from agentaudit.cli.asking import add_control, control
from agentaudit.cli.options import Adds, add_json, words
from agentaudit.cli.output import (
    CANNOT_TELL,
    NO,
    YES,
    columns,
    complain,
    now_us,
    print_json,
    print_table,
)
from agentaudit.errors import ControlError, QuestionError, RefusedError

if TYPE_CHECKING:
    from agentaudit.client.control import Control, Request, Verdict

MIN_PREFIX = 8
_SHORT = 13
"""Of an id as it is shown in a table: all of its time, to the millisecond."""


def add_verbs(add: Adds) -> None:
    one = add(pending)
    one.add_argument("--kind", choices=("hold", "access"), help="only statements, or only access")
    one.add_argument("--target", help="only of this target")
    add_json(one)
    add_control(one)
    for verb in (approve, deny):
        one = add(verb)
        one.add_argument("id", nargs="+", metavar="ID", help="a request: its id, or its beginning")
        one.add_argument("--reason", type=words, required=True, help="why, in words that are kept")
        add_json(one)
        add_control(one)


def pending(arguments: argparse.Namespace) -> int:
    """Show what waits for a decision: what it does, then all of its text."""
    from agentaudit.analysis.printable import printable
    from agentaudit.cli import shown

    found = control(arguments).requests(
        state="pending", kind=arguments.kind, target=arguments.target
    )
    found.sort(key=lambda one: one.expires_at)
    if arguments.json:
        for one in found:
            print_json(one.model_dump(mode="json", by_alias=True))
        return YES
    now = now_us()
    for one in found:
        print(shown.request(one, now, columns(sys.stdout)))
        print()
    if len(found) > 1:
        # What a terminal shows is the end.
        lines = [
            (
                shown.left(one, now),
                _beginning(one, found),
                printable(one.target),
                shown.who(one),
                shown.effects(one),
            )
            for one in found
        ]
        print_table(("TIME", "ID", "TARGET", "WHO", "DOES"), lines)
    if not found:
        print("nothing waits for a decision", file=sys.stderr)
    elif any(one.may_decide for one in found):
        print("decide: agentaudit approve ID --reason …, or deny", file=sys.stderr)
    return YES


def approve(arguments: argparse.Namespace) -> int:
    """Approve statements that wait, or access: of one class and target, if there are several."""
    return _decide(arguments, "approve")


def deny(arguments: argparse.Namespace) -> int:
    """Deny statements that wait, or access: of one class and target, if there are several."""
    return _decide(arguments, "deny")


def _decide(arguments: argparse.Namespace, verdict: Verdict) -> int:
    api = control(arguments)
    try:
        requests = _found(api, arguments.id)
        _refuse_mixed(requests)
        if sys.stderr.isatty():
            from agentaudit.cli import shown

            for one in requests:
                print(shown.request(one, now_us(), columns(sys.stderr)), file=sys.stderr)
        if len(requests) == 1:
            (one,) = requests
            decided = api.decide(one.id, verdict, arguments.reason, one.digest)
            _tell(arguments, decided.id, decided.state)
            return YES
        pairs = [(one.id, one.digest) for one in requests]
        status = YES
        for each in api.decide_batch(verdict, arguments.reason, pairs):
            _tell(arguments, each.id, each.state, each.error, each.hint)
            status = status if each.state else NO
    except RefusedError as error:
        complain(str(error), error.hint)
        return NO if error.is_final else CANNOT_TELL
    return status


def _found(api: Control, ids: Sequence[str]) -> list[Request]:
    """Return the requests of `ids`, each once, and each what its digest says."""
    listed: list[Request] = []
    found: dict[UUID, Request] = {}
    for text in ids:
        try:
            one = api.request(UUID(text))
        except ValueError:
            # Among all that were ever asked, not only those that wait: what somebody has seen may
            # be over, and what waits now have the same beginning.
            listed = listed or api.requests()
            one = _by_beginning(listed, text)
        if not one.is_what_it_says:
            raise ControlError(
                f"request {one.id}: its digest is not that of what is shown of it",
                hint="decide nothing there, and ask who runs the gateway",
            )
        found[one.id] = one
    return list(found.values())


def _by_beginning(listed: Sequence[Request], text: str) -> Request:
    if len(text) < MIN_PREFIX:
        raise QuestionError(
            f"request {text!r}: at least {MIN_PREFIX} characters of its id expected"
        )
    fitting = [one for one in listed if str(one.id).startswith(text.lower())]
    if len(fitting) != 1:
        ids = ", ".join(str(one.id) for one in fitting[:5])
        raise QuestionError(
            f"request {text!r}: {'several begin so' if fitting else 'there is none'}",
            hint=ids or "agentaudit pending shows what waits",
        )
    return fitting[0]


def _refuse_mixed(requests: Sequence[Request]) -> None:
    if len(requests) < 2:
        return
    kinds = {(one.kind, one.target, one.cls) for one in requests}
    if len(kinds) > 1:
        raise QuestionError(
            "several at once must be of one kind, class and target; these are "
            + ", ".join(sorted(" ".join(filter(None, kind)) for kind in kinds)),
            hint="decide them one by one",
        )
    if requests[0].kind == "hold" and not requests[0].cls:
        raise QuestionError(
            "queries of several statements are decided one by one", hint="look at each"
        )


def _tell(
    arguments: argparse.Namespace, id: UUID, state: str, error: str = "", hint: str = ""
) -> None:
    if arguments.json:
        told = {"id": str(id), "state": state, "error": error, "hint": hint}
        print_json({name: value for name, value in told.items() if value})
    elif error:
        complain(error, hint)
    else:
        # One voice of several leaves it as it was.
        from agentaudit.analysis.printable import printable

        said = "counted, it waits for others yet" if state == "pending" else printable(state)
        print(f"{id}  {said}")


def _beginning(one: Request, among: Sequence[Request]) -> str:
    """Return so much of an id that it is told from the others."""
    ids = [str(each.id) for each in among if each is not one]
    own = str(one.id)
    return next(
        own[:length]
        for length in range(_SHORT, len(own) + 1)
        if length == len(own) or not any(each.startswith(own[:length]) for each in ids)
    )
