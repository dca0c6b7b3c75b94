"""The control API: what people and agents ask of a gateway beside their sessions.

It is a process of its own (`control_process`), because a page of requests must not cost the data
path a millisecond, and meets the gateways only in the state: nothing that it grants is in force
before one of them has recorded it. Every route but health wants a bearer token. Who decides needs
one of the review audience, from a login of at most 15 minutes ago, and must be somebody else than
who asked, through the whole chain of delegation.

Contract: docs/control-api.md; the OpenAPI document is at `/openapi.json`.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi import Request as HttpRequest
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from agentaudit.archive.clocks import Clock, SystemClock
from agentaudit.archive.ids import uuid7
from agentaudit.archive.rows import valid_text
from agentaudit.errors import (
    AgentauditError,
    AlreadyVoted,
    IdentityError,
    IssuerError,
    NoSuchBlock,
    NoSuchGrant,
    NoSuchRequest,
    NotPending,
    QuestionError,
    StateError,
    TooLarge,
    TooManyPending,
    WrongDigest,
)
from agentaudit.gateway.admission import MAX_PENDING, access_request
from agentaudit.gateway.admitted import TICKET
from agentaudit.gateway.control_shapes import (
    AccessRequest,
    Batch,
    BlockRequest,
    BlockShown,
    Decision,
    GrantShown,
    LiveShown,
    Person,
    Shown,
    SshCertificateRequest,
    SshCertificateShown,
    TicketRequest,
    TicketShown,
    Voted,
)
from agentaudit.gateway.metrics import CONTENT_TYPE_LATEST, exposition
from agentaudit.gateway.orders import LOGIN_AGE_S
from agentaudit.gateway.serving import ssh_authority
from agentaudit.gateway.state import (
    Block,
    Grant,
    Note,
    Request,
    SshCertificate,
    State,
    Ticket,
    Vote,
)
from agentaudit.gateway.state_thread import StateThread
from agentaudit.identity import Bearer, Verifier
from agentaudit.model import Actor
from agentaudit.protocols.ssh_certificates import MAX_PRINCIPALS, MalformedKey, option_text
from agentaudit.settings.tables import SshTarget, Target
from agentaudit.settings.values import Duration
from agentaudit.settings.whole import Settings

MAX_BODY_BYTES: Final = 64 * 1024
MAX_GRANT: Final = timedelta(days=7)
MAX_TICKETS: Final = 100
"""Of one actor, that were not used yet."""

MAX_CERTIFICATES: Final = 100
"""Of one actor, that are valid."""

TICKET_LIVES_US: Final = 5 * 60 * 1_000_000

MAX_A_MINUTE: Final = 300
"""Requests of one actor that are heard in a minute, and of one address without a valid token."""

_MAX_HEARD: Final = 10_000

log = structlog.get_logger()

_STATUS: Final[Mapping[type[AgentauditError], int]] = {
    IdentityError: 401,
    NoSuchRequest: 404,
    NoSuchGrant: 404,
    NoSuchBlock: 404,
    NotPending: 409,
    WrongDigest: 409,
    AlreadyVoted: 409,
    TooLarge: 413,
    TooManyPending: 429,
    QuestionError: 400,
    IssuerError: 503,
    StateError: 503,
}


class Forbidden(AgentauditError):
    """Whoever asks is known, and may not have this."""


class TooManyRequests(AgentauditError):
    """Whoever asks must wait: others want to be heard too."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by which token: `for_review`, and from a login so fresh that it `decides`."""

    bearer: Bearer
    for_review: bool
    decides: bool

    @property
    def actor(self) -> Actor:
        return self.bearer.actor

    @property
    def who(self) -> tuple[str, str]:
        return self.actor.issuer, self.actor.subject


_DURATION: Final = TypeAdapter(Duration)


class Control:
    """What the routes share."""

    def __init__(
        self,
        settings: Settings,
        state: StateThread,
        verifier: Verifier,
        clock: Clock | None = None,
    ) -> None:
        """Take `settings`, and read the key by which certificates are signed, if there is one.

        Raises:
            SettingsError: it cannot be used.
        """
        self.settings = settings
        self._clock = clock or SystemClock()
        self.do = state.do
        self._verifier = verifier
        self._ssh_authority = ssh_authority(settings)
        self._heard: OrderedDict[object, tuple[int, int]] = OrderedDict()

    def now_us(self) -> int:
        return self._clock.now_us()

    # --- who asks

    def count(self, who: object) -> None:
        """Count a request of `who`, and refuse what is more than a minute's worth."""
        minute = int(time.monotonic() // 60)
        seen, count = self._heard.pop(who, (minute, 0))
        count = count + 1 if seen == minute else 1
        self._heard[who] = (minute, count)
        if len(self._heard) > _MAX_HEARD:
            self._heard.popitem(last=False)
        if count > MAX_A_MINUTE:
            raise TooManyRequests(f"more than {MAX_A_MINUTE} requests in a minute", hint="wait")

    async def caller(self, http: HttpRequest) -> Caller:
        """Return who asks, by the bearer token (RFC 6750).

        Raises:
            IdentityError, IssuerError, TooManyRequests.
        """
        host = http.client.host if http.client is not None else ""
        scheme, _, token = http.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            self.count(host)
            raise IdentityError(
                "no bearer token", hint="send Authorization: Bearer and a token of your issuer"
            )
        audience = self.settings.roles.audience
        bearer = self._verifier.bearer
        try:
            try:
                # An ID token says when its bearer has logged in, and here it will do.
                found = await bearer(token, audience=audience, login_age_s=LOGIN_AGE_S)
                caller = Caller(found, True, True)
            except IdentityError as lacks:
                try:
                    caller = Caller(await bearer(token, audience=audience), True, False)
                    # It may look on; what a decision lacks is said to who decides.
                    http.state.lacks = lacks
                except IdentityError:
                    caller = Caller(await bearer(token), False, False)
        except IdentityError:
            self.count(host)
            raise
        self.count(caller.who)
        return caller

    def require_decider(self, http: HttpRequest, caller: Caller) -> None:
        """Refuse who holds no token with which one may decide."""
        if caller.decides:
            return
        lacks = getattr(http.state, "lacks", None)
        if isinstance(lacks, IdentityError):
            raise Forbidden(str(lacks), hint=lacks.hint)
        raise Forbidden(
            f"a decision needs a token of the audience {self.settings.roles.audience}",
            hint="agentaudit login gets one",
        )

    def may_look(self, caller: Caller, request: Request) -> bool:
        return (
            caller.who == (request.requester.issuer, request.requester.subject)
            or self.oversees(caller)
            or not _is_apart(caller.actor, request.approvers)
        )

    def oversees(self, caller: Caller) -> bool:
        roles = self.settings.roles
        return not _is_apart(caller.actor, (*roles.admin, *roles.auditor))

    def is_admin(self, caller: Caller) -> bool:
        return not _is_apart(caller.actor, self.settings.roles.admin)

    def require_may_decide(self, caller: Caller, request: Request) -> None:
        """Refuse who is no approver of `request`, or in the chain of who asks.

        Raises:
            Forbidden: with the reason.
        """
        if _is_apart(caller.actor, request.approvers):
            raise Forbidden(
                f"request {request.id}: you are in no group that may decide on it",
                hint=f"its approvers are {', '.join(request.approvers)}",
            )
        if _is_involved(caller.actor, request.requester):
            raise Forbidden(
                f"request {request.id}: you asked for it yourself, or act for who did",
                hint="somebody else must decide",
            )

    # --- what is shown

    def shown(self, caller: Caller, request: Request) -> Shown:
        try:
            self.require_may_decide(caller, request)
            may_decide = request.state == "pending"
        except Forbidden:
            may_decide = False
        return Shown(
            id=request.id,
            kind=request.kind,
            state=request.state,
            target=request.target,
            rule=request.rule,
            requester=_person(request.requester),
            approvers=request.approvers,
            approvals=request.approvals,
            cls=request.cls,
            shown=dict(request.shown),
            digest=request.digest,
            reason=request.reason,
            session_id=request.session_id,
            command_no=request.command_no,
            duration_us=request.duration_us,
            starts_at=request.starts_us,
            requested_at=request.requested_us,
            expires_at=request.expires_us,
            decided_at=request.decided_us,
            votes=tuple(
                Voted(approver=_person(v.approver), verdict=v.verdict, reason=v.reason, at=v.at_us)
                for v in request.votes
            ),
            may_decide=may_decide,
        )

    def grant_shown(self, grant: Grant) -> GrantShown:
        now_us = self.now_us()
        return GrantShown(
            id=grant.id,
            request_id=grant.request_id,
            actor=_person(grant.actor),
            target=grant.target,
            classes=grant.classes,
            resources=grant.resources,
            starts_at=grant.starts_us,
            ends_at=grant.ends_us,
            revoked_at=grant.revoked_us,
            revoked_by=grant.revoked_by,
            in_force=grant.is_recorded
            and not grant.revoked_us
            and grant.starts_us <= now_us < grant.ends_us,
        )

    # --- what is done

    async def ask_for_access(self, caller: Caller, asked: AccessRequest) -> Request:
        target = self.target(caller, asked.target)
        duration = _duration(asked.duration)
        if not target.approvers:
            raise QuestionError(
                f'target "{target.name}": nobody may decide on access to it',
                hint="the operator names groups in its approvers",
            )
        request = access_request(
            caller.actor,
            target,
            gateway=self.settings.gateway.names[0],
            reason=asked.reason,
            duration=duration,
            now_us=self.now_us(),
            starts_us=asked.starts_at,
            classes=asked.classes,
            resources=asked.resources,
        )
        await self.do(lambda state: state.file(request, most_pending=MAX_PENDING))
        log.info(
            "access asked for",
            request=str(request.id),
            target=target.name,
            user=caller.actor.user,
        )
        return request

    async def certify(
        self, caller: Caller, asked: SshCertificateRequest, address: str
    ) -> SshCertificateShown:
        """Return a certificate for the key that `caller`, who is at `address`, has."""
        own, authority = self.settings.gateway, self._ssh_authority
        if authority is None:
            raise QuestionError(
                "this gateway signs no SSH certificates",
                hint="the operator sets gateway.ssh_ca_key_file; a ticket opens a host too",
            )
        from agentaudit.gateway import ssh_authority as ssh

        names = self._hosts(caller, asked.targets)
        try:
            key = ssh.public_key(asked.public_key)
        except MalformedKey as error:
            raise QuestionError(f"public_key: {error}", hint="ssh-keygen -t ed25519") from None
        critical = {}
        if own.ssh_cert_source_address:
            source = ssh.source_of(address)
            if not source:
                raise QuestionError("the address that you ask from is none of IP")
            critical = {ssh.SOURCE_ADDRESS: option_text(source)}
        bearer, now_us = caller.bearer, self.now_us()
        after_s, before_s = ssh.life_s(own.ssh_cert_life, bearer.expires_us, now_us)
        if before_s <= after_s:
            raise IdentityError("the token is about to expire", hint="get another one")
        certificate = authority.sign(
            key,
            serial=ssh.new_serial(),
            key_id=ssh.key_id_of(bearer.actor),
            principals=names,
            valid_after=after_s,
            valid_before=before_s,
            critical=critical,
        )
        kept = SshCertificate(
            serial=certificate.serial,
            digest=ssh.digest(certificate),
            actor=bearer.actor,
            token=bearer.token_id,
            token_expires_us=bearer.expires_us,
            targets=names,
            expires_us=before_s * 1_000_000,
        )
        await self.do(
            lambda state: state.add_certificate(
                kept, most_per_actor=MAX_CERTIFICATES, now_us=now_us
            )
        )
        log.info("certificate signed", serial=str(kept.serial), user=bearer.actor.user)
        listened = self.settings.listen.ssh
        return SshCertificateShown(
            certificate=certificate.line(),
            serial=str(certificate.serial),
            key_id=certificate.key_id,
            targets=names,
            valid_after=after_s * 1_000_000,
            expires_at=kept.expires_us,
            port=0 if listened is None else listened.port,
        )

    def _hosts(self, caller: Caller, named: Sequence[str]) -> tuple[str, ...]:
        """Return the hosts that a certificate is for: those that are named, or all that may be."""
        if named:
            targets = [self.target(caller, name) for name in dict.fromkeys(named)]
            for target in targets:
                if not isinstance(target, SshTarget):
                    raise QuestionError(f'target "{target.name}" is no host')
            return tuple(target.name for target in targets)
        found = tuple(
            target.name
            for target in self.settings.target
            if isinstance(target, SshTarget) and not _is_apart(caller.actor, target.groups)
        )
        if not found:
            raise Forbidden("there is no host that you may connect to")
        if len(found) > MAX_PRINCIPALS:
            raise QuestionError(
                f"you may connect to {len(found)} hosts, a certificate is for {MAX_PRINCIPALS}",
                hint="name those that it is to be for",
            )
        return found

    def target(self, caller: Caller, name: str) -> Target:
        for target in self.settings.target:
            if target.name == name and not _is_apart(caller.actor, target.groups):
                return target
        # One answer to both: what targets there are is for those who may connect.
        raise Forbidden(
            "there is no such target, or you are in no group that may connect to it",
            hint="the groups are the ones in the token",
        )

    def require_admin(self, caller: Caller) -> None:
        if not self.is_admin(caller):
            raise Forbidden("only admins may do this", hint="[roles] admin names their groups")

    def notice(self, text: str) -> Note:
        """Return what the gateway is to record as something that was done."""
        return Note(gateway=self.settings.gateway.names[0], kind="notice", members={"text": text})

    async def request_of(self, caller: Caller, id: UUID) -> Request:
        request = await self.do(lambda state: state.request(id))
        if request is None or not self.may_look(caller, request):
            raise NoSuchRequest(f"request {id}: there is none that you may see")
        return request

    async def decide(
        self, caller: Caller, request: Request, verdict: Any, reason: str, digest: str
    ) -> Request:
        self.require_may_decide(caller, request)
        now_us = self.now_us()
        vote = Vote(approver=caller.actor, verdict=verdict, reason=valid_text(reason), at_us=now_us)
        decided = await self.do(
            lambda state: state.vote(request.id, vote, digest=digest, now_us=now_us)
        )
        log.info(
            "decided",
            request=str(request.id),
            verdict=verdict,
            by=caller.actor.user,
            state=decided.state,
        )
        return decided


def _is_apart(actor: Actor, groups: tuple[str, ...]) -> bool:
    return not set(actor.groups) & set(groups)


def _is_involved(approver: Actor, requester: Actor) -> bool:
    """Say whether `approver` is who asks, acts for them, or is the agent that acts."""
    if approver.issuer != requester.issuer:
        return False
    theirs = {requester.subject, requester.agent, *requester.chain} - {""}
    return bool({approver.subject, *approver.chain} & theirs)


def _person(actor: Actor) -> Person:
    return Person(
        user=actor.user,
        subject=actor.subject,
        issuer=actor.issuer,
        agent=actor.agent,
        actor_chain=actor.chain,
    )


def _duration(text: str) -> timedelta:
    try:
        duration = _DURATION.validate_python(text)
    except ValidationError:
        raise QuestionError("duration: expected one like 30m or 1h") from None
    if not timedelta(seconds=1) <= duration <= MAX_GRANT:
        raise QuestionError(f"duration: expected 1s to {MAX_GRANT.days}d")
    return duration


def _shared(http: HttpRequest) -> Control:
    control: Control = http.app.state.control
    return control


Shared = Annotated[Control, Depends(_shared)]


async def _caller(http: HttpRequest, control: Shared) -> Caller:
    return await control.caller(http)


Here = Annotated[Caller, Depends(_caller)]


async def _decider(http: HttpRequest, control: Shared, caller: Here) -> Caller:
    control.require_decider(http, caller)
    return caller


Decider = Annotated[Caller, Depends(_decider)]

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Say that the process is there."""
    return {"ok": True}


@router.get("/readyz")
async def readyz(control: Shared) -> JSONResponse:
    """Say whether decisions can be taken: the state answers."""
    try:
        await control.do(State.revision)
    except StateError as error:
        return JSONResponse({"ok": False, "error": str(error)}, 503)
    return JSONResponse({"ok": True})


@router.post("/v1/requests", status_code=201)
async def ask_for_access(control: Shared, caller: Here, asked: AccessRequest) -> Shown:
    """Ask for access to a target (anybody who may connect to it at all)."""
    return control.shown(caller, await control.ask_for_access(caller, asked))


@router.get("/v1/requests")
async def list_requests(
    control: Shared,
    caller: Here,
    state: Literal["pending", "approved", "denied", "expired", "cancelled"] | None = None,
    kind: Literal["hold", "access"] | None = None,
    target: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Shown]:
    """List holds and access requests, newest first: one's own, and those one may decide."""
    found = await control.do(lambda known: known.requests(state=state, kind=kind, target=target))
    seen = [request for request in found if control.may_look(caller, request)]
    return [control.shown(caller, request) for request in seen[:limit]]


@router.get("/v1/requests/{id}")
async def one_request(control: Shared, caller: Here, id: UUID) -> Shown:
    """Return a hold or an access request."""
    return control.shown(caller, await control.request_of(caller, id))


@router.delete("/v1/requests/{id}")
async def withdraw(control: Shared, caller: Here, id: UUID) -> Shown:
    """Withdraw an access request of one's own; a hold is cancelled by its client."""
    request = await control.request_of(caller, id)
    if caller.who != (request.requester.issuer, request.requester.subject):
        raise Forbidden(f"request {id}: only who asked for it withdraws it")
    if request.kind != "access":
        raise QuestionError(f"request {id}: a statement waits, and its client cancels it")
    settled = await control.do(lambda state: state.settle(id, "cancelled", now_us=control.now_us()))
    if settled.state != "cancelled":
        raise NotPending(f"request {id}: is {settled.state} already")
    return control.shown(caller, settled)


@router.post("/v1/requests/{id}/decision")
async def decide(control: Shared, caller: Decider, id: UUID, decision: Decision) -> Shown:
    """Approve or deny (its approvers, with a fresh login)."""
    request = await control.request_of(caller, id)
    decided = await control.decide(
        caller, request, decision.verdict, decision.reason, decision.digest
    )
    return control.shown(caller, decided)


@router.post("/v1/decisions")
async def decide_batch(control: Shared, caller: Decider, batch: Batch) -> list[dict[str, Any]]:
    """Decide several requests of one class and target at once; each has its own answer."""
    found = [await control.request_of(caller, item.id) for item in batch.requests]
    if len({(request.kind, request.target, request.cls) for request in found}) != 1:
        raise QuestionError("a batch is of one target and one class")
    if found[0].kind == "hold" and not found[0].cls and len(found) > 1:
        raise QuestionError("queries of several statements are decided one by one")
    answers: list[dict[str, Any]] = []
    for request, item in zip(found, batch.requests, strict=True):
        try:
            decided = await control.decide(
                caller, request, batch.verdict, batch.reason, item.digest
            )
        except AgentauditError as error:
            answers.append({"id": str(request.id), "error": str(error), "hint": error.hint})
        else:
            answers.append({"id": str(request.id), "state": decided.state})
    return answers


@router.get("/v1/grants")
async def list_grants(
    control: Shared,
    caller: Here,
    target: Annotated[str | None, Query(max_length=200)] = None,
    all: bool = False,
) -> list[GrantShown]:
    """List grants, newest first: those in force or to come, one's own or all to overseers."""
    found = await control.do(lambda state: state.grants(target=target))
    now_us = control.now_us()
    return [
        control.grant_shown(grant)
        for grant in found
        if _may_see_grant(control, caller, grant)
        and (all or (not grant.revoked_us and grant.ends_us > now_us))
    ]


@router.delete("/v1/grants/{id}")
async def revoke(control: Shared, caller: Here, id: UUID) -> GrantShown:
    """Revoke a grant; its sessions end within a second (its actor, approvers, admins)."""
    grant = await control.do(lambda state: state.grant(id))
    if grant is None or not _may_see_grant(control, caller, grant):
        raise NoSuchGrant(f"grant {id}: there is none that you may see")
    if not _may_revoke(control, caller, grant):
        raise Forbidden(f"grant {id}: you may not revoke it")
    by = caller.actor.user
    revoked = await control.do(lambda state: _revoke(state, grant, by, control.now_us()))
    log.info("revoked", grant=str(id), by=by)
    return control.grant_shown(revoked)


def _revoke(state: State, grant: Grant, by: str, now_us: int) -> Grant:
    if not grant.revoked_us:
        request = state.request(grant.request_id)
        members = {
            "request_id": str(grant.request_id),
            "kind": "access",
            "command_no": -1,
            "requester": grant.actor.user,
            "target": grant.target,
            "rule": "access",
            "requested_at": now_us,
            "decided_at": now_us,
            "state": "cancelled",
            "approvers": [by],
            "reasons": ["revoked"],
            "grant_until": now_us,
        }
        gateway = "" if request is None else request.gateway
        # Noted first: what is done twice is told twice, and what is done is never untold.
        state.note(Note(gateway=gateway, kind="decision", members=members), now_us=now_us)
    return state.revoke(grant.id, by=by, now_us=now_us)


@router.post("/v1/tickets", status_code=201)
async def get_ticket(control: Shared, caller: Here, asked: TicketRequest) -> TicketShown:
    """Get a ticket for one connection (anybody who may connect, with the token that is for it)."""
    if caller.for_review:
        raise Forbidden("a ticket is bought with the token with which one connects")
    target = control.target(caller, asked.target)
    now_us, secret = control.now_us(), TICKET + secrets.token_urlsafe(30)
    ticket = Ticket(
        secret_hash=sha256(secret.encode()).digest(),
        actor=caller.actor,
        token=caller.bearer.token_id,
        token_expires_us=caller.bearer.expires_us,
        target=target.name,
        expires_us=min(now_us + TICKET_LIVES_US, caller.bearer.expires_us),
    )
    await control.do(
        lambda state: state.add_ticket(ticket, most_per_actor=MAX_TICKETS, now_us=now_us)
    )
    return TicketShown(ticket=secret, expires_at=ticket.expires_us)


@router.post("/v1/ssh-certs", status_code=201)
async def get_certificate(
    control: Shared, caller: Here, http: HttpRequest, asked: SshCertificateRequest
) -> SshCertificateShown:
    """Get an SSH certificate for a quarter of an hour at most (anybody who may connect).

    What it opens is asked when it is used, as of the token that it was got with.
    """
    if caller.for_review:
        raise Forbidden("a certificate is got with the token with which one connects")
    address = http.client.host if http.client is not None else ""
    return await control.certify(caller, asked, address)


@router.get("/v1/sessions/live")
async def live_sessions(control: Shared, caller: Here) -> list[LiveShown]:
    """List open sessions, newest first: one's own, and all to admins and auditors."""
    found = await control.do(State.live)
    return [
        LiveShown(
            session_id=one.session_id,
            gateway=one.gateway,
            user=one.actor.user,
            agent=one.actor.agent,
            target=one.target,
            protocol=one.protocol,
            client_addr=one.client_addr,
            opened_at=one.opened_us,
            window_id=one.window_id,
        )
        for one in found
        if control.oversees(caller) or caller.who == (one.actor.issuer, one.actor.subject)
    ]


@router.delete("/v1/sessions/{id}", status_code=202)
async def end_session(
    control: Shared, caller: Here, id: UUID, reason: Annotated[str, Query(max_length=1000)] = ""
) -> dict[str, str]:
    """Order a session to end, which it does within a second (admins, and whose it is)."""
    found = [one for one in await control.do(State.live) if one.session_id == id]
    own = bool(found) and caller.who == (found[0].actor.issuer, found[0].actor.subject)
    if not found or not (own or control.oversees(caller)):
        raise NoSuchRequest(f"session {id}: none that is open, or that you may see")
    if not own and not control.is_admin(caller):
        raise Forbidden(f"session {id}: you may not end it")
    by = caller.actor.user
    why = valid_text(reason) or "no reason given"
    await control.do(
        lambda state: state.end_session(id, by=by, reason=why, now_us=control.now_us())
    )
    log.info("session ordered to end", session=str(id), by=by)
    return {"session_id": str(id)}


@router.get("/v1/blocks")
async def list_blocks(control: Shared, caller: Here) -> list[BlockShown]:
    """List who may open no session (admins and auditors)."""
    if not control.oversees(caller):
        raise Forbidden("only admins and auditors see who is blocked")
    return [_block_shown(block) for block in await control.do(State.blocks)]


@router.post("/v1/blocks", status_code=201)
async def add_block(control: Shared, caller: Here, asked: BlockRequest) -> BlockShown:
    """Let somebody open no new session, from within a second (admins)."""
    control.require_admin(caller)
    if not asked.user and not asked.subject:
        raise QuestionError("a user or a subject must be named")
    now_us = control.now_us()
    block = Block(
        id=uuid7(now_us),
        issuer=asked.issuer,
        subject=asked.subject,
        user=asked.user,
        by=caller.actor.user,
        reason=valid_text(asked.reason),
        at_us=now_us,
    )
    told = f"{block.by} has blocked {_blocked(block)}: {block.reason}"

    def add(state: State) -> None:
        state.note(control.notice(told), now_us=now_us)
        state.block(block)

    await control.do(add)
    log.info("blocked", block=str(block.id), by=block.by)
    return _block_shown(block)


@router.delete("/v1/blocks/{id}")
async def lift_block(control: Shared, caller: Here, id: UUID) -> BlockShown:
    """Let them again (admins)."""
    control.require_admin(caller)
    by, now_us = caller.actor.user, control.now_us()

    def lift(state: State) -> Block:
        block = state.unblock(id, by=by, now_us=now_us)
        state.note(control.notice(f"{by} has unblocked {_blocked(block)}"), now_us=now_us)
        return block

    return _block_shown(await control.do(lift))


@router.get("/metrics")
async def metrics(control: Shared, caller: Here) -> Response:
    """Counts for Prometheus, none of them named by a client (admins and auditors)."""
    if not control.oversees(caller):
        raise Forbidden("only admins and auditors read metrics")
    text = await control.do(lambda state: exposition(state, control.settings))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def application(control: Control) -> FastAPI:
    """Return the ASGI application of a control API."""
    # Its own pages for reading the document would load scripts from elsewhere.
    app = FastAPI(title="agentaudit control API", version="1", docs_url=None, redoc_url=None)
    app.state.control = control
    app.include_router(router)
    app.add_middleware(BodyLimit)

    @app.exception_handler(AgentauditError)
    async def say(_: HttpRequest, error: AgentauditError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(HTTPException)
    async def refuse(_: HttpRequest, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail, "hint": ""}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        # Without what was given: it may hold what should not come back.
        places = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:10]
        )
        return _answer(QuestionError(places, hint="/openapi.json says what is expected"))

    return app


def _may_see_grant(control: Control, caller: Caller, grant: Grant) -> bool:
    return control.oversees(caller) or _may_revoke(control, caller, grant)


def _may_revoke(control: Control, caller: Caller, grant: Grant) -> bool:
    # To take access away needs no fresh login: it must be easy in an emergency.
    if caller.who == (grant.actor.issuer, grant.actor.subject) or control.is_admin(caller):
        return True
    targets = [t for t in control.settings.target if t.name == grant.target]
    return any(not _is_apart(caller.actor, target.approvers) for target in targets)


def _blocked(block: Block) -> str:
    who = f"user {block.user}" if block.user else f"subject {block.subject}"
    return f"{who} of {block.issuer or 'any issuer'}"


def _block_shown(block: Block) -> BlockShown:
    return BlockShown(
        id=block.id,
        user=block.user,
        subject=block.subject,
        issuer=block.issuer,
        by=block.by,
        reason=block.reason,
        at=block.at_us,
    )


def _answer(error: AgentauditError) -> JSONResponse:
    status = 403 if isinstance(error, Forbidden) else 429
    for kind, number in _STATUS.items():
        if isinstance(error, kind):
            status = number
            break
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    body = {"error": str(error), "hint": error.hint, "kind": type(error).__name__}
    return JSONResponse(body, status, headers)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BodyLimit:
    """Ends a request whose body is longer than `MAX_BODY_BYTES`, whatever its headers say."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"a body of more than {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counted, send)
