"""Requests, the votes about them, and the grants that approved access becomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, RowMapping, func, insert, select, update

from agentaudit.archive.ids import uuid7
from agentaudit.errors import (
    AlreadyVoted,
    NoSuchGrant,
    NoSuchRequest,
    NotPending,
    TooManyPending,
    WrongDigest,
)
from agentaudit.gateway import state_rows as rows
from agentaudit.gateway.state_database import Part
from agentaudit.gateway.state_rows import Grant, Kind, Request, RequestState, Vote
from agentaudit.gateway.state_tables import grants, requests, votes, windows
from agentaudit.model import Actor

MANY: Final = 1000


class Requests(Part):
    """What waits for people, and what they decided; a part of `State`."""

    # --- requests

    def file(self, request: Request, *, most_pending: int) -> None:
        """Keep a new `request`, which is pending whatever it says.

        Those of its requester and kind count that are pending at `requested_us`.

        Raises:
            TooManyPending: there are `most_pending` of them.
            QuestionError: a part of it is not what the state keeps, `TooLarge` among others.
        """
        values = rows.request_values(request)
        pending = select(func.count()).where(
            _is_pending(request.requested_us),
            requests.c.kind == request.kind,
            _is_of(requests, (request.requester.issuer, request.requester.subject)),
        )
        with self._database.writing() as connection:
            count = connection.execute(pending).scalar_one()
            if count >= most_pending:
                raise TooManyPending(
                    f"{count} requests of this kind wait for a decision, "
                    f"at most {most_pending} may",
                    hint="wait until one of them is decided, or cancel it",
                )
            connection.execute(insert(requests), values)

    def request(self, id: UUID) -> Request | None:
        """Return the request, or None where there is none of this id."""
        with self._database.reading() as connection:
            return next(iter(requests_that(connection, requests.c.id == id)), None)

    def requests(
        self,
        *,
        state: RequestState | None = None,
        kind: Kind | None = None,
        target: str | None = None,
        requester: tuple[str, str] | None = None,
        limit: int = MANY,
    ) -> list[Request]:
        """Return the newest requests first; `requester` is issuer and subject."""
        wanted: list[ColumnElement[bool]] = []
        if state is not None:
            wanted.append(requests.c.state == state)
        if kind is not None:
            wanted.append(requests.c.kind == kind)
        if target is not None:
            wanted.append(requests.c.target == target)
        if requester is not None:
            wanted.append(_is_of(requests, requester))
        with self._database.reading() as connection:
            return requests_that(connection, *wanted, limit=limit)

    def request_states(self, limit: int = MANY) -> dict[UUID, tuple[str, int]]:
        """Return of the newest requests the state and the number of votes, without what they show.

        The newest first.
        """
        cast = select(votes.c.request_id, func.count().label("cast")).group_by(votes.c.request_id)
        counts = cast.subquery()
        wanted = (
            select(requests.c.id, requests.c.state, func.coalesce(counts.c.cast, 0))
            .outerjoin(counts, counts.c.request_id == requests.c.id)
            .order_by(requests.c.requested_us.desc(), requests.c.id.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return {id: (state, cast) for id, state, cast in connection.execute(wanted)}

    def outcomes(self, ids: Iterable[UUID]) -> dict[UUID, Request]:
        """Return those of `ids` that are no longer pending."""
        with self._database.reading() as connection:
            found = requests_that(
                connection, requests.c.id.in_(list(ids)), requests.c.state != "pending"
            )
        return {request.id: request for request in found}

    def vote(self, id: UUID, vote: Vote, *, digest: str, now_us: int) -> Request:
        """Add `vote` about what `digest` stands for; return the request as it then is.

        One denial decides, or approvals of as many people as the request asks for. Whether this
        person may decide is the caller's to know. Approved access has its grant at once, which is
        in force once `recorded`; its `classes` and `resources` are those that the request shows.

        Raises:
            NoSuchRequest, NotPending, WrongDigest, AlreadyVoted: in this order.
        """
        values = rows.vote_values(id, vote)
        with self._database.writing() as connection:
            request = _request(connection, id)
            if request.state != "pending":
                raise NotPending(f"request {id}: is {request.state} already")
            if request.expires_us <= now_us:
                raise NotPending(f"request {id}: its time is over")
            if request.digest != digest:
                raise WrongDigest(
                    f"request {id}: the decision is about another text than the one that waits",
                    hint="look at the request again, and decide about what it shows now",
                )
            voted = {who for each in request.votes for who in _behind(each.approver)}
            if _behind(vote.approver) & voted:
                raise AlreadyVoted(
                    f"request {id}: has a decision of yours",
                    hint=f"{request.approvals} different people must approve",
                )
            connection.execute(insert(votes), values)
            if vote.verdict == "deny":
                return _decide(connection, id, "denied", now_us)
            # Who denies decides, so all who voted before approved.
            if len(request.votes) + 1 < request.approvals:
                return _request(connection, id)
            if request.kind == "access":
                _make_grant(connection, request, now_us)
            return _decide(connection, id, "approved", now_us)

    def settle(self, id: UUID, state: Literal["expired", "cancelled"], *, now_us: int) -> Request:
        """End the request unless it is decided; return it as it then is: what came first stands.

        Raises:
            NoSuchRequest: there is none of this id.
        """
        with self._database.writing() as connection:
            request = _request(connection, id)
            if request.state == "pending":
                return _decide(connection, id, state, now_us)
            connection.rollback()
            return request

    def abandoned(self, gateway: str) -> list[Request]:
        """Return the holds that wait for a gateway of this name, which has only just started."""
        with self._database.reading() as connection:
            return requests_that(
                connection,
                requests.c.state == "pending",
                requests.c.kind == "hold",
                requests.c.gateway == gateway,
                limit=None,
            )

    def expire(self, now_us: int) -> list[Request]:
        """End the access requests whose time is over; return those that this call has ended."""
        over = (
            requests.c.state == "pending",
            requests.c.kind == "access",
            requests.c.expires_us <= now_us,
        )
        with self._database.reading() as connection:
            if connection.execute(select(requests.c.id).where(*over).limit(1)).first() is None:
                return []
        with self._database.writing() as connection:
            ids = list(connection.execute(select(requests.c.id).where(*over).limit(MANY)).scalars())
            if not ids:
                connection.rollback()
                return []
            connection.execute(
                update(requests)
                .where(requests.c.id.in_(ids))
                .values(state="expired", decided_us=now_us)
            )
            return requests_that(connection, requests.c.id.in_(ids), limit=None)

    def unrecorded(self, gateway: str) -> list[Request]:
        """Return the requests of this gateway whose outcome no archive has yet."""
        with self._database.reading() as connection:
            return requests_that(
                connection,
                requests.c.gateway == gateway,
                requests.c.is_recorded.is_(False),
                requests.c.state != "pending",
            )

    def recorded(self, ids: Iterable[UUID]) -> None:
        """Note that the archive has the outcomes of these requests; their grants are in force."""
        wanted = list(ids)
        with self._database.writing() as connection:
            connection.execute(
                update(requests)
                .where(requests.c.id.in_(wanted), requests.c.state != "pending")
                .values(is_recorded=True)
            )
            connection.execute(
                update(grants).where(grants.c.request_id.in_(wanted)).values(is_recorded=True)
            )

    # --- grants

    def grant(self, id: UUID) -> Grant | None:
        """Return the grant, or None where there is none of this id."""
        with self._database.reading() as connection:
            return next(iter(_grants(connection, grants.c.id == id)), None)

    def grants(
        self,
        *,
        actor: tuple[str, str] | None = None,
        target: str | None = None,
        now_us: int | None = None,
        limit: int = MANY,
    ) -> list[Grant]:
        """Return the newest grants first; with `now_us`, those alone that are in force then.

        `actor` is issuer and subject.
        """
        wanted: list[ColumnElement[bool]] = []
        if actor is not None:
            wanted.append(_is_of(grants, actor))
        if target is not None:
            wanted.append(grants.c.target == target)
        if now_us is not None:
            wanted.append(in_force(now_us))
        with self._database.reading() as connection:
            return _grants(connection, *wanted, limit=limit)

    def grant_for(self, issuer: str, subject: str, target: str, now_us: int) -> list[Grant]:
        """Return the grants that let this actor in to `target` now, the newest first."""
        return self.grants(actor=(issuer, subject), target=target, now_us=now_us)

    def revoke(self, id: UUID, *, by: str, now_us: int) -> Grant:
        """End the grant, and its windows with it; return it, as it was first revoked.

        Raises:
            NoSuchGrant: there is none of this id.
        """
        values = {"revoked_us": rows.time("the time", now_us), "revoked_by": rows.text("who", by)}
        with self._database.writing() as connection:
            found = _grants(connection, grants.c.id == id)
            if not found:
                raise NoSuchGrant(f"grant {id}: there is none", hint="agentaudit grants lists them")
            if found[0].revoked_us:
                connection.rollback()
                return found[0]
            connection.execute(update(grants).where(grants.c.id == id).values(values))
            connection.execute(
                update(windows)
                .where(windows.c.grant_id == id, windows.c.ended_us == 0)
                .values(ended_us=now_us, end_reason="revoked")
            )
            return _grants(connection, grants.c.id == id)[0]


def in_force(now_us: int) -> ColumnElement[bool]:
    """Return the condition that a grant is recorded, has begun, and is neither over nor revoked."""
    return (
        grants.c.is_recorded.is_(True)
        & (grants.c.starts_us <= now_us)
        & (grants.c.ends_us > now_us)
        & (grants.c.revoked_us == 0)
    )


def _grants(connection: Connection, *wanted: ColumnElement[bool], limit: int = MANY) -> list[Grant]:
    found = connection.execute(
        select(grants)
        .where(*wanted)
        .order_by(grants.c.starts_us.desc(), grants.c.id.desc())
        .limit(limit)
    ).mappings()
    return [rows.grant_of(row) for row in found]


def _behind(approver: Actor) -> set[tuple[str, str]]:
    """Return everybody who stands behind a vote: one person counts once, whoever acts for them."""
    return {(approver.issuer, subject) for subject in (approver.subject, *approver.chain)}


def _is_of(table: Any, actor: tuple[str, str]) -> ColumnElement[bool]:
    issuer, subject = actor
    found: ColumnElement[bool] = (table.c.issuer == issuer) & (table.c.subject == subject)
    return found


def _is_pending(now_us: int) -> ColumnElement[bool]:
    return (requests.c.state == "pending") & (requests.c.expires_us > now_us)


def _request(connection: Connection, id: UUID) -> Request:
    for request in requests_that(connection, requests.c.id == id):
        return request
    raise NoSuchRequest(
        f"request {id}: there is none", hint="agentaudit pending lists those that wait"
    )


def requests_that(
    connection: Connection, *wanted: ColumnElement[bool], limit: int | None = MANY
) -> list[Request]:
    """Return the newest first, each with its votes in the order in which they came."""
    found = connection.execute(
        select(requests)
        .where(*wanted)
        .order_by(requests.c.requested_us.desc(), requests.c.id.desc())
        .limit(limit)
    ).mappings()
    listed: Sequence[RowMapping] = found.all()
    if not listed:
        return []
    cast = connection.execute(
        select(votes)
        .where(votes.c.request_id.in_([row["id"] for row in listed]))
        .order_by(votes.c.at_us, votes.c.issuer, votes.c.subject)
    ).mappings()
    by_request: dict[UUID, list[Vote]] = {}
    for row in cast:
        by_request.setdefault(row["request_id"], []).append(rows.vote_of(row))
    return [rows.request_of(row, by_request.get(row["id"], ())) for row in listed]


def _decide(connection: Connection, id: UUID, state: RequestState, now_us: int) -> Request:
    connection.execute(
        update(requests).where(requests.c.id == id).values(state=state, decided_us=now_us)
    )
    return _request(connection, id)


def _make_grant(connection: Connection, request: Request, now_us: int) -> None:
    starts_us = max(request.starts_us, now_us)
    connection.execute(
        insert(grants),
        {
            "id": uuid7(now_us),
            "request_id": request.id,
            "issuer": request.requester.issuer,
            "subject": request.requester.subject,
            "actor": rows.actor_document("the requester", request.requester),
            "target": request.target,
            "classes": rows.document("the classes", rows.shown_names(request, "classes")),
            "resources": rows.document("the resources", rows.shown_names(request, "resources")),
            "starts_us": starts_us,
            "ends_us": starts_us + request.duration_us,
            "revoked_us": 0,
            "revoked_by": "",
            "is_recorded": False,
        },
    )
