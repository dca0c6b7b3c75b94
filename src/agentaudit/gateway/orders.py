"""What an operator may have done to an archive: purges, legal holds, and records of access.

Whoever orders something is in the archive before it is done: first an event of the control
session that says who, what and why, then the order to the sealer, which refers to it. A running
gateway gets requests by its local socket (`gateway.local`); without one the command line starts a
recorder and asks the same class, so there is one way to do each thing.

An erasure needs two people: each proves by a token who they are, of the audience and with a group
that `[roles]` names, from a login of at most 15 minutes ago. Their names do not go into the
decision, because an erasure must not leave a new record of people; their HMACs do.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from agentaudit.archive.batch import INLINE_PAYLOAD_BYTES
from agentaudit.archive.ids import uuid7
from agentaudit.archive.keys import own_logs
from agentaudit.archive.layout import Layout
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.rows import encode, valid_text
from agentaudit.errors import AgentauditError, IdentityError, QuestionError
from agentaudit.identity import MAX_TOKEN_BYTES, Verifier
from agentaudit.model import Actor, Kind
from agentaudit.settings.tables import Roles
from agentaudit.settings.whole import Settings

LOGIN_AGE_S: Final = 15 * 60.0
MAX_TEXT_CHARACTERS: Final = 600
"""Two such texts and the rest fit into the 8 KiB that an event holds inline, however escaped; of an
order that has three, `_record` sees to it."""

ACCESSES: Final = ("open", "search", "export", "verify")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_TIME_US: Final = 253_402_300_800_000_000  # the year 10000

log = structlog.get_logger()

Request = Mapping[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as the kernel says: a user of this machine, and whether it is the gateway's own."""

    name: str
    is_operator: bool

    @property
    def actor(self) -> str:
        """What the archive calls them."""
        return f"os:{self.name}"


class Orders:
    """Carries out requests on the archive of one running recorder.

    `authority` returns the roles in force and who verifies tokens now; both may be reloaded.
    """

    def __init__(self, recorder: Recorder, authority: Callable[[], tuple[Roles, Verifier]]) -> None:
        self._recorder = recorder
        self._authority = authority
        self._verbs: Mapping[str, Callable[[Asker, Request], Awaitable[Result]]] = {
            "access": self._access,
            "retention_apply": self._retention_apply,
            "erase": self._erase,
            "legal_hold_set": self._set_hold,
            "legal_hold_release": self._release_hold,
        }

    async def carry_out(self, asker: Asker, request: Request) -> Result:
        """Do what `request` asks under `do`, and return what came of it.

        Raises:
            QuestionError: there is no such request, it is malformed, or it cannot be done now.
            IdentityError, IssuerError: of an erasure, that two people have decided is not shown.
            RecordingError: nothing can be recorded, so nothing may be done.
        """
        do = request.get("do")
        verb = self._verbs.get(do) if isinstance(do, str) else None
        if verb is None:
            raise QuestionError("a request that this gateway does not know")
        if do != "access" and not asker.is_operator:
            raise QuestionError(
                f"{asker.actor} may not do this",
                hint="only the gateway's own user, or root, orders purges and legal holds",
            )
        return await verb(asker, request)

    async def _access(self, asker: Asker, request: Request) -> Result:
        action = _text(request, "action")
        if action not in ACCESSES:
            raise QuestionError(f"action: one of {', '.join(ACCESSES)} expected")
        object_ = _text(request, "object", exact=False)
        detail = _text(request, "detail", required=False, exact=False)
        event = self._recorder.record_access(asker.actor, action, object_, detail)
        await self._recorder.recorded()
        return {"event": event}

    async def _retention_apply(self, asker: Asker, request: Request) -> Result:
        recorder = self._recorder
        members = {
            "actor": asker.actor,
            "action": "retention_apply",
            "at": recorder.clock.now_us(),
        }
        access = ("purge", "what is due", "retention apply")
        event = self._record(asker, access, Kind.PURGE, members)
        return {"event": event} | await recorder.order("retention_apply", event=event)

    async def _set_hold(self, asker: Asker, request: Request) -> Result:
        selector = self._selector(request, "session", "user", "target", "since", "until")
        hold = _uuid(request, "hold") if "hold" in request else ""
        event = self._record_hold(asker, "set", request, {"selector": selector})
        # One hold in several logs is one to who sets it, lists it and releases it.
        named = {"hold": hold} if hold else {}
        answer = await self._recorder.order(
            "legal_hold_set", selector=selector, event=event, **named
        )
        return {"event": event, "selector": selector} | answer

    async def _release_hold(self, asker: Asker, request: Request) -> Result:
        hold = _uuid(request, "hold")
        event = self._record_hold(asker, "release", request, {"hold": hold})
        answer = await self._recorder.order("legal_hold_release", hold=hold, event=event)
        return {"event": event} | answer

    def _record_hold(
        self, asker: Asker, action: str, request: Request, members: Mapping[str, Any]
    ) -> int:
        authority, reason = _text(request, "authority"), _text(request, "reason")
        told = {
            "actor": asker.actor,
            "action": action,
            "at": self._recorder.clock.now_us(),
            "authority": authority,
            "reason": reason,
            **members,
        }
        access = ("legal_hold" if action == "set" else "release", "legal hold", authority)
        return self._record(asker, access, Kind.LEGAL_HOLD, told)

    def _record(
        self, asker: Asker, access: tuple[str, str, str], kind: Kind, members: Mapping[str, Any]
    ) -> int:
        """Record who orders something, and the event that the order refers to; return its number.

        `access` is action, object and detail.

        Raises:
            QuestionError: the event is longer than what a verification has of it in one row.
        """
        size = len(encode(dict(members)))
        if size > INLINE_PAYLOAD_BYTES:
            raise QuestionError(
                f"the order: {size:,} bytes as it is recorded, at most {INLINE_PAYLOAD_BYTES:,} "
                "expected",
                hint="a control character counts as six: give shorter texts",
            )
        self._recorder.record_access(asker.actor, *access)
        return self._recorder.record_control(kind, members)

    async def _erase(self, asker: Asker, request: Request) -> Result:
        recorder = self._recorder
        selector = self._selector(request, "session", "user")
        if len(selector) != 1:
            raise QuestionError("an erasure is of one session, or of one user's sessions")
        if request.get("dry_run") is True:
            return await recorder.order("erase", selector=selector, dry_run=True)
        reason = _text(request, "reason")
        requested_us = recorder.clock.now_us()
        requester = await self._admin(request, "requester_token", "the requester's token")
        approver = await self._admin(request, "approver_token", "the approver's token")
        _refuse_one_and_the_same(requester, approver)
        decided_us = recorder.clock.now_us()
        decision: dict[str, Any] = {
            "request_id": str(uuid7(requested_us)),
            "kind": "purge",
            "requester": self._person(requester),
            "approvers": [self._person(approver)],
            "reasons": [reason],
            "requested_at": requested_us,
            "decided_at": decided_us,
            "state": "approved",
            "selector": selector,
        }
        if "session" in selector:
            decision["session_id"] = selector["session"]
        access = ("purge", _in_words(selector), "erase")
        event = self._record(asker, access, Kind.DECISION, decision)
        answer = await recorder.order(
            "erase", selector=selector, decision=event, decided_at=decided_us
        )
        return {"decision": event} | answer

    async def _admin(self, request: Request, name: str, whose: str) -> Actor:
        """Return who a token proves its bearer to be: somebody who may decide."""
        roles, verifier = self._authority()
        if not roles.admin:
            raise QuestionError(
                "nobody may decide on an erasure: [roles] admin names no group",
                hint="docs/settings.md says who may and what their tokens need",
            )
        token = _text(request, name, limit=MAX_TOKEN_BYTES)
        try:
            actor = await verifier.actor(token, audience=roles.audience, login_age_s=LOGIN_AGE_S)
        except IdentityError as error:
            raise IdentityError(f"{whose}: {error}", hint=error.hint) from None
        if not set(actor.groups) & set(roles.admin):
            raise IdentityError(
                f"{whose}: its bearer is in no group that may decide",
                hint="[roles] admin names the groups",
            )
        return actor

    def _person(self, actor: Actor) -> str:
        # Issuer and subject, which are what tells people apart, and not what they are called.
        return self._recorder.hmac(f"{actor.issuer} {actor.subject}")

    def _selector(self, request: Request, *allowed: str) -> dict[str, Any]:
        """Return what selects sessions, with the user's HMAC in place of the name."""
        given = request.get("selector")
        if not isinstance(given, Mapping) or not given or not set(given) <= set(allowed):
            raise QuestionError(f"what it is about: one or more of {', '.join(allowed)} expected")
        selector: dict[str, Any] = {}
        for name in given:
            if name == "session":
                selector[name] = _uuid(given, name)
            elif name in ("since", "until"):
                selector[name] = _time(given, name)
            else:
                text = _text(given, name)
                selector[name] = self._recorder.hmac(text) if name == "user" else text
        if selector.get("since", 0) > selector.get("until", _MAX_TIME_US):
            since, until = _moment(selector["since"]), _moment(selector["until"])
            raise QuestionError(f"since {since}: after until {until}, so it is about nothing")
        return selector


def alone(settings: Settings, name: str, request: Request) -> Result:
    """Carry out `request` where `name` does not run: record for as long as it takes, and seal.

    `name` is the gateway of the settings, or a worker of it that there is or was.

    Raises:
        QuestionError: there is no such archive, it is another user's, or as `Orders.carry_out`.
        IdentityError, IssuerError: as `Orders.carry_out`.
        RecordingError, TamperedError: the archive cannot be written, or was tampered with.
    """
    # A gateway starts without what reads archives, Arrow's computing above all.
    from agentaudit.archive.snapshot import check_format

    own = settings.gateway
    layout = Layout(own.archive)
    check_format(layout)
    if name not in layout.gateways():
        raise QuestionError(
            f"archive {own.archive}: gateway {name} has recorded nothing here",
            hint="gateway.name in the settings says whose log it is about",
        )
    owner = own.archive.stat().st_uid
    if owner != os.geteuid():
        # What another user writes, root above all, the gateway could not read at its next start.
        raise QuestionError(
            f"archive {own.archive}: belongs to uid {owner}, this is uid {os.geteuid()}",
            hint="run it as the gateway's own user, or while the gateway runs",
        )
    return asyncio.run(_alone(settings, name, request))


async def _alone(settings: Settings, name: str, request: Request) -> Result:
    recorder = await _record(settings, name)
    verifier = Verifier(settings.issuer)
    try:
        orders = Orders(recorder, lambda: (settings.roles, verifier))
        return await orders.carry_out(Asker(user_name(os.geteuid()), True), request)
    finally:
        verifier.close()
        await recorder.stop()


async def _record(settings: Settings, name: str) -> Recorder:
    own = settings.gateway
    return await Recorder.start(
        archive=own.archive,
        gateway=name,
        origin=own.origin,
        keys=own.keys,
        durability=own.durability,
        policy=settings.policy_document(),
    )


async def recover_others(settings: Settings) -> None:
    """Recover and seal what workers have left that this gateway has no more.

    What cannot be recovered is told, and stays as it is: it is no part of what records from now.
    """
    own = settings.gateway
    layout = Layout(own.archive)
    for name in own_logs(own.archive, own.keys, own.name):
        if name in own.names or not layout.journal_segments(name):
            continue
        try:
            recorder = await _record(settings, name)
            await recorder.stop()
        except AgentauditError as error:
            log.error(
                "what a former worker left cannot be recovered",
                gateway=name,
                error=str(error),
                hint=error.hint,
            )
        else:
            log.info("what a former worker left is recovered", gateway=name)


def user_name(uid: int) -> str:
    """Return what this machine calls a user; may ask a directory service."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _refuse_one_and_the_same(requester: Actor, approver: Actor) -> None:
    """Return if two people have decided, neither of them on behalf of the other."""
    if requester.issuer != approver.issuer:
        return
    if {approver.subject, *approver.chain} & {requester.subject, *requester.chain}:
        raise IdentityError(
            "requester and approver are one and the same, or one acts for the other",
            hint="somebody else than who asks for an erasure must approve it",
        )


def _in_words(selector: Mapping[str, Any]) -> str:
    if "session" in selector:
        return f"session {selector['session']}"
    return f"sessions of user HMAC {selector['user']}"


def _text(
    members: Mapping[str, Any],
    name: str,
    *,
    limit: int = MAX_TEXT_CHARACTERS,
    required: bool = True,
    exact: bool = True,
) -> str:
    """Return a member of a request; `exact` is one that must be recorded as it was given."""
    value = members.get(name, "")
    if not isinstance(value, str) or len(value) > limit:
        raise QuestionError(f"{name}: a text of at most {limit:,} characters expected")
    if required and not value.strip():
        raise QuestionError(f"{name}: not given")
    if exact and valid_text(value) != value:
        raise QuestionError(f"{name}: no valid UTF-8, a text expected")
    return value


def _time(members: Mapping[str, Any], name: str) -> int:
    value = members[name]
    if type(value) is not int:
        raise QuestionError(f"{name}: microseconds since 1970 expected")
    if not 0 <= value < _MAX_TIME_US:
        raise QuestionError(f"{name}: {_moment(value)}, a time from 1970 to 9999 expected")
    return value


def _moment(time_us: int) -> str:
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} microseconds since 1970"
    return moment.isoformat().replace("+00:00", "Z")


def _uuid(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not _UUID.fullmatch(value.lower()):
        raise QuestionError(f"{name}: an id as 01a2048e-a9f5-706c-b9f0-0d3c7f0bd1b7 expected")
    return str(UUID(value))
