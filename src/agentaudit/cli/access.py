"""Verbs about who may come in: asking for access, tickets, and ending it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from agentaudit.cli.asking import add_control, control
from agentaudit.cli.options import Adds, add_json, words
from agentaudit.cli.output import (
    CANNOT_TELL,
    NO,
    YES,
    complain,
    now_us,
    print_json,
    print_table,
)
from agentaudit.errors import ControlError, QuestionError, RefusedError

if TYPE_CHECKING:
    from agentaudit.client.control import Grant, Request

LOOK_S: Final = 1.0
"""Between two looks at a request: well below what a control API hears in a minute."""

IN_FORCE_S: Final = 30.0
"""What a grant takes at most, once approved, to be recorded."""

CLASSES: Final = ("read", "write", "schema", "admin", "session", "unknown")
MIN_PREFIX: Final = 8


class _Identified(Protocol):
    @property
    def id(self) -> UUID: ...


def add_verbs(add: Adds) -> None:
    one = add(request)
    one.add_argument("target", metavar="TARGET")
    one.add_argument(
        "--for", dest="duration", required=True, metavar="TIME", help="how long, as 30m or 1h"
    )
    one.add_argument("--reason", type=words, required=True, help="why, in words that are kept")
    one.add_argument(
        "--class",
        dest="classes",
        action="append",
        choices=CLASSES,
        default=[],
        help="only for this class of statements; may be repeated",
    )
    one.add_argument(
        "--table", action="append", default=[], help="only for this table; may be repeated"
    )
    one.add_argument(
        "--at", type=_instant, metavar="TIME", help="from then on, as 2026-11-01T12:30 (UTC)"
    )
    one.add_argument("--wait", action="store_true", help="until it is decided, and in force")
    _add_common(one)
    one = add(grants)
    one.add_argument("--target", help="only of this target")
    one.add_argument("--all", action="store_true", help="those that are over, too")
    _add_common(one)
    one = add(revoke)
    one.add_argument("id", metavar="ID", help="a grant: its id, or its beginning")
    _add_common(one)
    one = add(ticket)
    one.add_argument("target", metavar="TARGET")
    _add_common(one)
    one = add(end)
    one.add_argument("session", nargs="?", metavar="SESSION", help="its id, or its beginning")
    one.add_argument("--reason", type=words, help="why, in words that are kept")
    one.add_argument("--list", action="store_true", help="only list the sessions that are open")
    _add_common(one)
    one = add(block)
    one.add_argument("user", nargs="?", default="", type=words, metavar="USER")
    one.add_argument("--subject", default="", type=words, help="by the subject of their tokens")
    one.add_argument("--issuer", default="", metavar="URL", help="only of this issuer")
    one.add_argument("--reason", type=words, help="why, in words that are kept")
    one.add_argument("--list", action="store_true", help="only list who is blocked")
    _add_common(one)
    one = add(unblock)
    one.add_argument("id", metavar="ID", help="a block: its id, or its beginning")
    _add_common(one)


def _add_common(one: argparse.ArgumentParser) -> None:
    add_json(one)
    add_control(one)


# --- access for a time


def request(arguments: argparse.Namespace) -> int:
    """Ask for access to a target for a time; somebody else decides."""
    from agentaudit.analysis.printable import printable

    starts_at = 0 if arguments.at is None else round(arguments.at.timestamp() * 1e6)
    asked = control(arguments).ask(
        arguments.target,
        arguments.duration,
        arguments.reason,
        starts_at=starts_at,
        classes=arguments.classes,
        resources=arguments.table,
    )
    if arguments.wait:
        if not arguments.json:
            groups = printable(", ".join(asked.approvers))
            print(f"{asked.id} waits for {groups}", file=sys.stderr)
        asked = _decided(arguments, asked)
    if arguments.json:
        print_json(asked.model_dump(mode="json", by_alias=True))
    else:
        print(asked.id)
        _say_state(asked)
    if not arguments.wait:
        return YES
    if asked.state != "approved":
        return NO
    return _wait_until_in_force(arguments, asked)


def _decided(arguments: argparse.Namespace, asked: Request) -> Request:
    """Return the request once it is decided, or its time over."""
    from agentaudit.analysis.printable import printable

    while asked.state == "pending":
        time.sleep(LOOK_S)
        try:
            # With a token that is good now: a decision may take longer than the first one lives.
            asked = control(arguments).request(asked.id)
        except RefusedError:
            raise
        except ControlError as error:
            if now_us() > asked.expires_at:
                raise
            print(f"{printable(str(error))}; trying again", file=sys.stderr)
    return asked


def _wait_until_in_force(arguments: argparse.Namespace, asked: Request) -> int:
    give_up_at = time.monotonic() + IN_FORCE_S
    while True:
        found = control(arguments).grants(target=asked.target)
        mine = [grant for grant in found if grant.request_id == asked.id]
        if any(grant.in_force or grant.starts_at > now_us() for grant in mine):
            return YES
        if time.monotonic() > give_up_at:
            return complain(
                f"request {asked.id}: approved, and its grant is not in force",
                "a gateway must record it first: does one run?",
            )
        time.sleep(LOOK_S)


def _say_state(asked: Request) -> None:
    from agentaudit.analysis.printable import printable

    if asked.state == "pending":
        groups = printable(", ".join(asked.approvers))
        print(f"waits for a decision by {groups}", file=sys.stderr)
        return
    print(printable(asked.state), file=sys.stderr)
    for vote in asked.votes:
        told = f"{vote.approver.user}: {vote.verdict}, {vote.reason}"
        print(printable(told), file=sys.stderr)


def grants(arguments: argparse.Namespace) -> int:
    """List grants, newest first: those in force and to come."""
    from agentaudit.analysis.printable import printable

    found = control(arguments).grants(target=arguments.target, all=arguments.all)
    if arguments.json:
        for grant in found:
            print_json(grant.model_dump(mode="json"))
        return YES
    lines = [
        (
            str(grant.id),
            printable(grant.actor.user),
            printable(grant.target),
            _minute(grant.starts_at),
            _minute(grant.ends_at),
            printable(_standing(grant)),
            printable(_limits(grant)),
        )
        for grant in found
    ]
    print_table(("GRANT", "USER", "TARGET", "FROM", "UNTIL", "NOW", "ONLY FOR"), lines)
    return YES


def revoke(arguments: argparse.Namespace) -> int:
    """Revoke a grant; its sessions end within a second."""
    api = control(arguments)

    def look_up() -> list[Grant]:
        return api.grants(all=True)

    id = _id(arguments.id, "grant", look_up)
    return _do(lambda: _told(arguments, api.revoke(id).model_dump(mode="json"), f"{id}  revoked"))


def ticket(arguments: argparse.Namespace) -> int:
    """Get a ticket: a short secret that opens a target once, within five minutes."""

    def get() -> None:
        got = control(arguments).ticket(arguments.target)
        _told(arguments, got.model_dump(mode="json"), got.ticket)
        until = f"{datetime.fromtimestamp(got.expires_at / 1e6, UTC):%H:%M:%SZ}"
        print(f"good for one connection until {until}", file=sys.stderr)

    return _do(get)


# --- sessions and people


def end(arguments: argparse.Namespace) -> int:
    """End a session that is open, within a second."""
    from agentaudit.analysis.printable import printable

    api = control(arguments)
    if arguments.list:
        found = api.live()
        if arguments.json:
            for one in found:
                print_json(one.model_dump(mode="json"))
            return YES
        lines = [
            (
                str(one.session_id),
                _minute(one.opened_at),
                printable(one.user),
                printable(one.agent or "-"),
                printable(one.target),
                printable(one.gateway),
                printable(one.client_addr),
            )
            for one in found
        ]
        headings = ("SESSION", "OPENED", "USER", "AGENT", "TARGET", "GATEWAY", "FROM")
        print_table(headings, lines)
        return YES
    if not arguments.session or not arguments.reason:
        raise QuestionError(
            "end: a session and --reason are needed", hint="--list says which are open"
        )
    id = _id(arguments.session, "session", lambda: [_Session(one.session_id) for one in api.live()])

    def order() -> None:
        api.end(id, arguments.reason)
        _told(arguments, {"session_id": str(id)}, f"{id}  is ordered to end")

    return _do(order)


class _Session:
    def __init__(self, id: UUID) -> None:
        self.id = id


def block(arguments: argparse.Namespace) -> int:
    """Let somebody open no new session, from within a second."""
    from agentaudit.analysis.printable import printable

    api = control(arguments)
    if arguments.list:
        found = api.blocks()
        if arguments.json:
            for one in found:
                print_json(one.model_dump(mode="json"))
            return YES
        lines = [
            tuple(
                printable(cell or "-")
                for cell in (str(one.id), one.user, one.subject, one.issuer, one.by, one.reason)
            )
            for one in found
        ]
        print_table(("BLOCK", "USER", "SUBJECT", "ISSUER", "BY", "REASON"), lines)
        return YES
    if bool(arguments.user) == bool(arguments.subject) or not arguments.reason:
        raise QuestionError(
            "block: a user or --subject, and --reason, are needed", hint="--list says who is"
        )

    def add() -> None:
        made = api.block(
            arguments.reason,
            issuer=arguments.issuer,
            subject=arguments.subject,
            user=arguments.user,
        )
        _told(arguments, made.model_dump(mode="json"), str(made.id))
        print("sessions that are open stay: agentaudit end", file=sys.stderr)

    return _do(add)


def unblock(arguments: argparse.Namespace) -> int:
    """Let somebody open sessions again."""
    api = control(arguments)
    id = _id(arguments.id, "block", api.blocks)

    def lift() -> None:
        api.unblock(id)
        _told(arguments, {"id": str(id)}, f"{id}  unblocked")

    return _do(lift)


# --- how


def _do(call: Callable[[], None]) -> int:
    """Do it; 1 where the API says that it may not be, 2 where that cannot be told."""
    try:
        call()
    except RefusedError as error:
        complain(str(error), error.hint)
        return NO if error.is_final else CANNOT_TELL
    return YES


def _told(arguments: argparse.Namespace, value: dict[str, object], text: str) -> None:
    from agentaudit.analysis.printable import printable

    if arguments.json:
        print_json(value)
    else:
        print(printable(text))


def _id(text: str, what: str, look_up: Callable[[], Sequence[_Identified]]) -> UUID:
    """Return the id that `text` is, or the beginning of."""
    try:
        return UUID(text)
    except ValueError:
        pass
    if len(text) < MIN_PREFIX:
        raise QuestionError(f"{what} {text!r}: at least {MIN_PREFIX} characters of its id expected")
    fitting = [one.id for one in look_up() if str(one.id).startswith(text.lower())]
    if len(fitting) != 1:
        raise QuestionError(
            f"{what} {text!r}: {'several begin so' if fitting else 'there is none'}",
            hint=", ".join(map(str, fitting[:5])),
        )
    return fitting[0]


def _standing(grant: Grant) -> str:
    if grant.revoked_at:
        return f"revoked by {grant.revoked_by}"
    if grant.in_force:
        return "in force"
    now = now_us()
    if grant.ends_at <= now:
        return "over"
    return "to come" if grant.starts_at > now else "being recorded"


def _limits(grant: Grant) -> str:
    return ", ".join((*grant.classes, *grant.resources)) or "-"


def _minute(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%MZ}"


def _instant(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a time as 2026-11-01T12:30 expected") from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
