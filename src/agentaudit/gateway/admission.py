"""Who is let in to a target, beside being in a group: blocks, grants and access windows.

A token has a window on a target where access is asked for, or where it may have only one: from its
first connection to the window's end, and never again. What a grant is for becomes the `scope` of
the session's rules. Whoever comes without a grant is told which request waits for a decision, and
may wait for it.

Contract: DESIGN, "Access window"; docs/access.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final

from agentaudit.archive import canonical
from agentaudit.archive.ids import uuid7
from agentaudit.archive.rows import encode
from agentaudit.errors import IdentityError, QuestionError, TooManyPending, WindowClosed
from agentaudit.gateway.admitted import STANDING, Admitted, NotAdmitted
from agentaudit.gateway.state import Block, Grant, Request
from agentaudit.gateway.state_thread import StateThread
from agentaudit.identity import LEEWAY_S, Bearer
from agentaudit.model import Actor
from agentaudit.policy import scope
from agentaudit.settings.tables import Target

LOOK_S: Final = 0.25
"""Between two looks for the grant that a client waits for."""

MAX_PENDING: Final = 20
"""Access requests of one actor that wait for a decision."""

ACCESS_LIVES: Final = timedelta(hours=24)
"""How long an access request waits."""

LONGEST_WINDOW: Final = timedelta(days=366)
"""Where `max_window` is not set; a token expires long before."""

ASKED_BY_CONNECTING: Final = "(asked for by connecting)"
DEFAULT_DURATION: Final = timedelta(hours=1)

_US: Final = timedelta(microseconds=1)


def access_request(
    actor: Actor,
    target: Target,
    *,
    gateway: str,
    reason: str,
    duration: timedelta,
    now_us: int,
    starts_us: int = 0,
    classes: Sequence[str] = (),
    resources: Sequence[str] = (),
) -> Request:
    """Return the request of `actor` for access to `target`, which `gateway` will record."""
    shown = encode(
        {
            "target": target.name,
            "user": actor.user,
            "issuer": actor.issuer,
            "agent": actor.agent,
            "actor_chain": list(actor.chain),
            "reason": reason,
            "duration_s": duration // timedelta(seconds=1),
            "starts_at": starts_us,
            "classes": list(classes),
            "resources": list(resources),
        }
    )
    document = canonical.decode(shown)
    return Request(
        id=uuid7(now_us),
        kind="access",
        gateway=gateway,
        requester=actor,
        target=target.name,
        rule="access",
        approvers=target.approvers,
        approvals=1,
        shown=document,
        digest=sha256(shown).hexdigest(),
        reason=document["reason"],
        duration_us=duration // _US,
        starts_us=starts_us,
        requested_us=now_us,
        expires_us=now_us + ACCESS_LIVES // _US,
    )


class Admission:
    """Lets people in, for one process of a gateway that records as `name`.

    `recorder` is the log that records decisions on access.
    """

    def __init__(
        self, state: StateThread, name: str, recorder: str, now_us: Callable[[], int]
    ) -> None:
        self._state = state
        self._name = name
        self._recorder = recorder
        self._now_us = now_us
        self.blocks: Sequence[Block] = ()

    def require_not_blocked(self, actor: Actor) -> None:
        """Refuse an actor that may open no new session.

        Raises:
            NotAdmitted: it is blocked.
        """
        for block in self.blocks:
            if block.issuer not in ("", actor.issuer):
                continue
            if actor.subject == block.subject or (block.user and actor.user == block.user):
                raise NotAdmitted(
                    "you are blocked from opening sessions",
                    detail=f"block {block.id}",
                    hint="ask the gateway's operator",
                )

    async def bearer_of(self, ticket: str, target: str) -> Bearer:
        """Return whose `ticket` it is, which lets nobody in a second time.

        Raises:
            IdentityError: it is none for this target, or was used, or is over.
            StateError: it cannot be looked up.
        """
        digest = sha256(ticket.encode()).digest()
        now_us = self._now_us()
        found = await self._state.do(lambda state: state.take_ticket(digest, now_us))
        if found is None or found.target != target:
            raise IdentityError(
                "the ticket is for another target, was used, or is over",
                hint="agentaudit ticket gets another one",
            )
        return Bearer(found.actor, found.token, found.token_expires_us)

    async def bearer_of_certificate(self, serial: int, digest: bytes, target: str) -> Bearer:
        """Return who got the certificate of this serial and digest, which may be used again.

        Raises:
            IdentityError: there is none for this target, or it is over.
            StateError: it cannot be looked up.
        """
        now_us = self._now_us()
        found = await self._state.do(lambda state: state.certificate(serial, digest, now_us))
        if found is None or target not in found.targets:
            raise IdentityError(
                "the certificate is not known here, or is over",
                hint="agentaudit ssh-cert gets another one",
            )
        return Bearer(found.actor, found.token, found.token_expires_us)

    async def admit(self, bearer: Bearer, target: Target, is_gone: Callable[[], bool]) -> Admitted:
        """Let the bearer of a token in to `target`; `leave` says that the session is over.

        Waits as long as the target says for a decision, unless the client `is_gone` meanwhile.

        Raises:
            NotAdmitted: there is no grant, or the token has had its window.
            StateError: the state cannot be asked, so nobody is let in.
        """
        if not target.has_windows:
            return STANDING
        grant = await self._grant(bearer, target, is_gone) if target.access == "request" else None
        now_us = self._now_us()
        actor = bearer.actor
        try:
            window = await self._state.do(
                lambda state: state.enter(
                    issuer=actor.issuer,
                    subject=actor.subject,
                    token=bearer.token_id,
                    token_expires_us=bearer.expires_us + round(LEEWAY_S * 1_000_000),
                    target=target.name,
                    grant_id=None if grant is None else grant.id,
                    gateway=self._name,
                    ends_us=now_us + (target.max_window or LONGEST_WINDOW) // _US,
                    linger_us=target.linger // _US,
                    is_single=True,
                    now_us=now_us,
                )
            )
        except WindowClosed as error:
            raise NotAdmitted(str(error), hint=error.hint) from None
        if grant is not None and window.grant_id not in (None, grant.id):
            # The window has one grant, the one that opened it.
            opened_by = window.grant_id
            grant = await self._state.do(lambda state: state.grant(opened_by))
        return Admitted(
            window_id=window.id,
            ends_us=window.ends_us,
            scope=None if grant is None else scope(grant.classes, grant.resources),
        )

    async def leave(self, admitted: Admitted) -> None:
        """Count a session of a window as over.

        Raises:
            StateError: it counts until this process starts again, or the window ends.
        """
        window_id = admitted.window_id
        if window_id is not None:
            now_us = self._now_us()
            await self._state.do(lambda state: state.leave(window_id, self._name, now_us))

    async def _grant(self, bearer: Bearer, target: Target, is_gone: Callable[[], bool]) -> Grant:
        actor = bearer.actor

        async def found() -> Grant | None:
            now_us = self._now_us()
            grants = await self._state.do(
                lambda state: state.grant_for(actor.issuer, actor.subject, target.name, now_us)
            )
            return grants[0] if grants else None

        grant = await found()
        if grant is not None:
            return grant
        used = await self._state.do(
            lambda state: state.used(actor.issuer, bearer.token_id, target.name)
        )
        if used is not None:
            raise NotAdmitted(
                f'this token has had its time on target "{target.name}"',
                hint="ask for access anew, and log in for a new token",
            )
        request = await self._ask(actor, target)
        give_up_us = self._now_us() + target.wait // _US
        while self._now_us() < give_up_us and not is_gone():
            await asyncio.sleep(LOOK_S)
            grant = await found()
            if grant is not None:
                return grant
        now = await self._state.do(lambda state: state.request(request.id))
        state = request.state if now is None else now.state
        said = "waits for a decision by" if state == "pending" else f"is {state}, by"
        raise NotAdmitted(
            f'access to target "{target.name}" must be granted first',
            detail=f"request {request.id} {said} {', '.join(target.approvers)}",
            hint="connect again once it is approved; to give a reason and a time: "
            f"agentaudit request {target.name} --for 1h --reason …",
        )

    async def _ask(self, actor: Actor, target: Target) -> Request:
        """Return the request of `actor` that waits already, or a new one."""
        who = (actor.issuer, actor.subject)
        waiting = await self._state.do(
            lambda state: state.requests(
                state="pending", kind="access", target=target.name, requester=who, limit=1
            )
        )
        if waiting:
            return waiting[0]
        if not target.approvers:
            raise NotAdmitted(
                f'access to target "{target.name}" must be granted, and nobody may do that',
                hint="the operator names groups in its approvers",
            )
        request = access_request(
            actor,
            target,
            gateway=self._recorder,
            reason=ASKED_BY_CONNECTING,
            duration=target.max_window or DEFAULT_DURATION,
            now_us=self._now_us(),
        )
        try:
            await self._state.do(lambda state: state.file(request, most_pending=MAX_PENDING))
        except TooManyPending:
            raise NotAdmitted(
                f"you have {MAX_PENDING} requests for access that wait already",
                hint="wait until one of them is decided",
            ) from None
        except QuestionError as error:
            raise NotAdmitted(str(error), hint=error.hint) from None
        return request
