"""What the gateway's state is made of, and how each of them is a row.

Bounds are checked on the way in, all of them here: what is written is Unicode without NUL, names
that an index holds are short enough for PostgreSQL's, and no document is larger than a reviewer
would read. A refusal says what was too large and never what it held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import RowMapping

from agentaudit.errors import QuestionError, TooLarge
from agentaudit.model import Actor

MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a text."""

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Of a document as JSON: a statement that waits is in it whole."""

MAX_NAME_BYTES: Final = 800
"""Of what identifies: three of them fit into an entry of PostgreSQL's index, which has 2,704."""

MAX_TIME_US: Final = 1 << 62
"""A time and a duration below it can be added up in 64 bits."""

Kind = Literal["hold", "access"]
RequestState = Literal["pending", "approved", "denied", "expired", "cancelled"]
Verdict = Literal["approve", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one person decided about a request."""

    approver: Actor
    verdict: Verdict
    reason: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command that is held, or access that was asked for.

    `gateway` is the log of the worker that owns it; `shown` is what reviewers see, masked, and
    `digest` the hex SHA-256 of its canonical JSON. `duration_us` and `starts_us` are of access
    alone. Of access, `shown` may have `classes` and `resources`, which the grant then has too.
    """

    id: UUID
    kind: Kind
    gateway: str
    requester: Actor
    target: str
    rule: str
    approvers: tuple[str, ...]
    approvals: int
    cls: str = ""
    shown: Mapping[str, Any]
    digest: str
    reason: str = ""
    session_id: UUID | None = None
    command_no: int = -1
    duration_us: int = 0
    starts_us: int = 0
    requested_us: int
    expires_us: int
    state: RequestState = "pending"
    decided_us: int = 0
    votes: tuple[Vote, ...] = ()
    is_recorded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Access of one actor to one target for a time; empty `classes` and `resources` mean all.

    It is in force once `is_recorded`, from `starts_us` until `ends_us` or `revoked_us`, which is 0
    unless it was revoked.
    """

    id: UUID
    request_id: UUID
    actor: Actor
    target: str
    classes: tuple[str, ...]
    resources: tuple[str, ...]
    starts_us: int
    ends_us: int
    revoked_us: int
    revoked_by: str
    is_recorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a token may use of a target, from its first connection on.

    `ends_us` is when it ends at the latest. Once it is over, `ended_us` is not 0 and `end_reason`
    says how that came: `window_end`, `revoked` or `linger`.
    """

    id: UUID
    issuer: str
    subject: str
    token: str
    target: str
    grant_id: UUID | None
    opened_us: int
    ends_us: int
    ended_us: int
    end_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A short secret that stands for a token, of which only the SHA-256 is kept."""

    secret_hash: bytes
    actor: Actor
    token: str
    token_expires_us: int
    target: str
    expires_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SshCertificate:
    """What stands behind an SSH certificate, which stands for a token until it expires.

    `digest` is the SHA-256 of the certificate; `targets` are its principals.
    """

    serial: int
    digest: bytes
    actor: Actor
    token: str
    token_expires_us: int
    targets: tuple[str, ...]
    expires_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """An actor that may open no new session; an empty `subject` or `user` says nothing."""

    id: UUID
    issuer: str
    subject: str
    user: str
    by: str
    reason: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody has done that `gateway` is to record: members of a `kind` of event."""

    gateway: str
    kind: Literal["decision", "notice"]
    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A session that is open, as the worker that serves it has published it."""

    session_id: UUID
    gateway: str
    actor: Actor
    target: str
    protocol: str
    client_addr: str
    opened_us: int
    window_id: UUID | None


# --- on the way in


def name(what: str, value: str) -> str:
    """Return `value`, which identifies something; `what` is its name in a refusal.

    Raises:
        TooLarge: longer than an index takes.
        QuestionError: no text that a database keeps.
    """
    return _bounded(what, value, MAX_NAME_BYTES)


def text(what: str, value: str) -> str:
    """Return `value`, which people read; see `name`."""
    return _bounded(what, value, MAX_TEXT_BYTES)


def _bounded(what: str, value: str, limit: int) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise QuestionError(f"{what} is no Unicode text") from None
    if "\0" in value:
        raise QuestionError(f"{what} holds a NUL, which no text of a database may")
    if size > limit:
        raise TooLarge(f"{what} has {size} bytes, at most {limit} are kept")
    return value


def document(what: str, value: object) -> str:
    """Return `value` as JSON; see `name`."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        raise QuestionError(f"{what} holds what is no JSON") from None
    if len(data) > MAX_DOCUMENT_BYTES:
        raise TooLarge(
            f"{what} has {len(data)} bytes as JSON, at most {MAX_DOCUMENT_BYTES} are kept"
        )
    return data.decode()


def time(what: str, value: int) -> int:
    """Return `value`, microseconds; see `name`."""
    if not 0 <= value < MAX_TIME_US:
        raise QuestionError(f"{what} is no time: expected microseconds since 1970")
    return value


def actor_document(what: str, actor: Actor) -> str:
    """Return `actor` as JSON; see `name`."""
    return document(
        what,
        {
            "user": actor.user,
            "subject": actor.subject,
            "issuer": actor.issuer,
            "agent": actor.agent,
            "email": actor.email,
            "groups": actor.groups,
            "chain": actor.chain,
        },
    )


def shown_names(request: Request, key: str) -> tuple[str, ...]:
    """Return what `request` shows under `key`, a list of names, or nothing.

    Raises:
        QuestionError: it is no such list.
    """
    names = request.shown.get(key, ())
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise QuestionError(f"{key} of an access request is no list of names")
    return tuple(names)


def request_values(request: Request) -> dict[str, Any]:
    """Return the row of `request` as it is filed.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    if request.kind == "access":
        for key in ("classes", "resources"):
            shown_names(request, key)
    return {
        "id": request.id,
        "kind": request.kind,
        "gateway": name("the gateway", request.gateway),
        "issuer": name("the requester's issuer", request.requester.issuer),
        "subject": name("the requester's subject", request.requester.subject),
        "requester": actor_document("the requester", request.requester),
        "target": name("the target", request.target),
        "rule": text("the rule", request.rule),
        "approvers": document("the approvers", request.approvers),
        "approvals": request.approvals,
        "cls": name("the class", request.cls),
        "shown": document("what reviewers see", request.shown),
        "digest": name("the digest", request.digest),
        "reason": text("the reason", request.reason),
        "session_id": request.session_id,
        "command_no": request.command_no,
        "duration_us": time("the duration", request.duration_us),
        "starts_us": time("the start", request.starts_us),
        "requested_us": time("the request's time", request.requested_us),
        "expires_us": time("the request's end", request.expires_us),
        "state": "pending",
        "decided_us": 0,
        "is_recorded": False,
    }


def vote_values(request_id: UUID, vote: Vote) -> dict[str, Any]:
    """Return the row of `vote`.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    return {
        "request_id": request_id,
        "issuer": name("the approver's issuer", vote.approver.issuer),
        "subject": name("the approver's subject", vote.approver.subject),
        "approver": actor_document("the approver", vote.approver),
        "verdict": vote.verdict,
        "reason": text("the reason", vote.reason),
        "at_us": time("the decision's time", vote.at_us),
    }


def ticket_values(ticket: Ticket) -> dict[str, Any]:
    """Return the row of `ticket`.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    if len(ticket.secret_hash) != 32:
        raise QuestionError("the hash of a ticket's secret is no SHA-256")
    return {
        "secret_hash": ticket.secret_hash,
        "issuer": name("the actor's issuer", ticket.actor.issuer),
        "subject": name("the actor's subject", ticket.actor.subject),
        "actor": actor_document("the actor", ticket.actor),
        "token": name("the token's id", ticket.token),
        "token_expires_us": time("the token's end", ticket.token_expires_us),
        "target": name("the target", ticket.target),
        "expires_us": time("the ticket's end", ticket.expires_us),
    }


def certificate_values(certificate: SshCertificate) -> dict[str, Any]:
    """Return the row of `certificate`.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    if len(certificate.digest) != 32 or not 0 < certificate.serial < 1 << 63:
        raise QuestionError("a certificate's digest is no SHA-256, or its serial no number of it")
    return {
        "serial": certificate.serial,
        "digest": certificate.digest,
        "issuer": name("the actor's issuer", certificate.actor.issuer),
        "subject": name("the actor's subject", certificate.actor.subject),
        "actor": actor_document("the actor", certificate.actor),
        "token": name("the token's id", certificate.token),
        "token_expires_us": time("the token's end", certificate.token_expires_us),
        "targets": document("the targets", certificate.targets),
        "expires_us": time("the certificate's end", certificate.expires_us),
    }


def block_values(block: Block) -> dict[str, Any]:
    """Return the row of `block`.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    return {
        "id": block.id,
        "issuer": name("the issuer", block.issuer),
        "subject": name("the subject", block.subject),
        "user": name("the user", block.user),
        "by": text("who blocks", block.by),
        "reason": text("the reason", block.reason),
        "at_us": time("the block's time", block.at_us),
        "lifted_us": 0,
        "lifted_by": "",
    }


def live_values(session: Live) -> dict[str, Any]:
    """Return the row of `session`.

    Raises:
        QuestionError: a part of it is not what the state keeps.
    """
    return {
        "session_id": session.session_id,
        "gateway": name("the gateway", session.gateway),
        "actor": actor_document("the actor", session.actor),
        "target": name("the target", session.target),
        "protocol": name("the protocol", session.protocol),
        "client_addr": name("the client's address", session.client_addr),
        "opened_us": time("the session's start", session.opened_us),
        "window_id": session.window_id,
        "ending_us": 0,
        "ending_by": "",
        "ending_reason": "",
    }


# --- on the way out


def actor_of(data: str) -> Actor:
    """Return the actor that `actor_document` wrote."""
    found = orjson.loads(data)
    return Actor(
        user=found["user"],
        subject=found["subject"],
        issuer=found["issuer"],
        agent=found["agent"],
        email=found["email"],
        groups=tuple(found["groups"]),
        chain=tuple(found["chain"]),
    )


def vote_of(row: RowMapping) -> Vote:
    """Return the vote that `row` is."""
    return Vote(
        approver=actor_of(row["approver"]),
        verdict=row["verdict"],
        reason=row["reason"],
        at_us=row["at_us"],
    )


def request_of(row: RowMapping, votes: Iterable[Vote]) -> Request:
    """Return the request that `row` is, with its `votes`."""
    values = {key: row[key] for key in _AS_THEY_ARE}
    return Request(
        requester=actor_of(row["requester"]),
        approvers=tuple(orjson.loads(row["approvers"])),
        shown=orjson.loads(row["shown"]),
        votes=tuple(votes),
        **values,
    )


def grant_of(row: RowMapping) -> Grant:
    """Return the grant that `row` is."""
    return Grant(
        id=row["id"],
        request_id=row["request_id"],
        actor=actor_of(row["actor"]),
        target=row["target"],
        classes=tuple(orjson.loads(row["classes"])),
        resources=tuple(orjson.loads(row["resources"])),
        starts_us=row["starts_us"],
        ends_us=row["ends_us"],
        revoked_us=row["revoked_us"],
        revoked_by=row["revoked_by"],
        is_recorded=row["is_recorded"],
    )


def window_of(row: Mapping[Any, Any]) -> Window:
    """Return the window that `row` is."""
    return Window(
        id=row["id"],
        issuer=row["issuer"],
        subject=row["subject"],
        token=row["token"],
        target=row["target"],
        grant_id=row["grant_id"],
        opened_us=row["opened_us"],
        ends_us=row["ends_us"],
        ended_us=row["ended_us"],
        end_reason=row["end_reason"],
    )


def ticket_of(row: RowMapping) -> Ticket:
    """Return the ticket that `row` is."""
    return Ticket(
        secret_hash=row["secret_hash"],
        actor=actor_of(row["actor"]),
        token=row["token"],
        token_expires_us=row["token_expires_us"],
        target=row["target"],
        expires_us=row["expires_us"],
    )


def certificate_of(row: RowMapping) -> SshCertificate:
    """Return what stands behind a certificate, as `row` has it."""
    return SshCertificate(
        serial=row["serial"],
        digest=row["digest"],
        actor=actor_of(row["actor"]),
        token=row["token"],
        token_expires_us=row["token_expires_us"],
        targets=tuple(orjson.loads(row["targets"])),
        expires_us=row["expires_us"],
    )


def block_of(row: RowMapping) -> Block:
    """Return the block that `row` is."""
    return Block(
        id=row["id"],
        issuer=row["issuer"],
        subject=row["subject"],
        user=row["user"],
        by=row["by"],
        reason=row["reason"],
        at_us=row["at_us"],
    )


def note_values(id: UUID, note: Note) -> dict[str, Any]:
    """Return the columns of a note."""
    told = {"kind": note.kind, "members": dict(note.members)}
    return {
        "id": id,
        "gateway": name("the gateway", note.gateway),
        "document": document("what is to be recorded", told),
    }


def note_of(row: RowMapping) -> Note:
    """Return the note that `row` is."""
    return Note(gateway=row["gateway"], **orjson.loads(row["document"]))


def live_of(row: RowMapping) -> Live:
    """Return the session that `row` is."""
    return Live(
        session_id=row["session_id"],
        gateway=row["gateway"],
        actor=actor_of(row["actor"]),
        target=row["target"],
        protocol=row["protocol"],
        client_addr=row["client_addr"],
        opened_us=row["opened_us"],
        window_id=row["window_id"],
    )


_AS_THEY_ARE: Final[Sequence[str]] = (
    "id", "kind", "gateway", "target", "rule", "approvals", "cls", "digest", "reason",
    "session_id", "command_no", "duration_us", "starts_us", "requested_us", "expires_us",
    "state", "decided_us", "is_recorded",
)  # fmt: skip
