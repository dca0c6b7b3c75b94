"""The client of a gateway's control API: holds, access, tickets, live sessions and blocks.

What comes back holds what agents wrote. It is data here; whoever prints it escapes it.

A decision is about a digest, and a digest means nothing to people: `Request.is_what_it_says`
computes it from the document itself, so that what somebody was shown is what they decided.

Contract: docs/access.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentaudit.archive import canonical
from agentaudit.client import web
from agentaudit.errors import ControlError, QuestionError, RefusedError
from agentaudit.settings.values import refuse_unsafe_url

TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 64 << 20
"""Of what waits, one request may be a mebibyte long."""

MAX_TOKEN_BYTES: Final = 32 * 1024

Verdict = Literal["approve", "deny"]

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_Got = TypeVar("_Got")


class _Told(BaseModel):
    # What a newer gateway says besides is kept, and passed on as it came.
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Person(_Told):
    """Who somebody is, as an identity provider says."""

    user: str
    subject: str
    issuer: str
    agent: str = ""
    actor_chain: tuple[str, ...] = ()


class Vote(_Told):
    """What one person decided, and why."""

    approver: Person
    verdict: str
    reason: str
    at: int


class Request(_Told):
    """A hold or an access request; times are µs since 1970.

    `shown` is what is decided on, and `digest` its SHA-256.
    """

    id: UUID
    kind: str
    state: str
    target: str
    rule: str
    requester: Person
    approvers: tuple[str, ...] = ()
    approvals: int = 1
    cls: str = Field(alias="class")
    shown: dict[str, Any] = Field(repr=False)
    digest: str
    reason: str = ""
    session_id: UUID | None = None
    command_no: int = 0
    duration_us: int = 0
    starts_at: int = 0
    requested_at: int
    expires_at: int
    decided_at: int = 0
    votes: tuple[Vote, ...] = ()
    may_decide: bool = False

    @property
    def is_what_it_says(self) -> bool:
        """Whether its digest is that of its document, and so of what can be shown of it."""
        try:
            return sha256(canonical.encode(self.shown)).hexdigest() == self.digest
        except TypeError:
            return False


class Decided(_Told):
    """What became of one request of a batch: its state, or why it was not decided."""

    id: UUID
    state: str = ""
    error: str = ""
    hint: str = ""


class Grant(_Told):
    """Access that was granted; `in_force` says whether it lets somebody in now."""

    id: UUID
    request_id: UUID
    actor: Person
    target: str
    classes: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    starts_at: int
    ends_at: int
    revoked_at: int = 0
    revoked_by: str = ""
    in_force: bool


class Ticket(_Told):
    """A short secret that opens one target for a short time, in a token's place."""

    ticket: str = Field(repr=False)
    expires_at: int


class SshCertificate(_Told):
    """A certificate as a file `-cert.pub` has it; `port` is 0 where the gateway's is not known."""

    certificate: str = Field(pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}$", max_length=64 * 1024)
    serial: str
    key_id: str
    targets: tuple[str, ...]
    valid_after: int
    expires_at: int
    port: int = Field(ge=0, lt=1 << 16)


class Live(_Told):
    """A session that is open now."""

    session_id: UUID
    gateway: str
    user: str
    agent: str = ""
    target: str
    protocol: str = ""
    client_addr: str = ""
    opened_at: int
    window_id: UUID | None = None


class Block(_Told):
    """Somebody who opens no new session."""

    id: UUID
    issuer: str = ""
    subject: str = ""
    user: str = ""
    by: str = ""
    reason: str = ""
    at: int = 0


class Control:
    """The control API at `url`, asked with `token`; one connection a request.

    Its methods raise `RefusedError` where the API says no, and `ControlError` where it says
    nothing that can be used: whether it did what it was asked is not known then.
    """

    def __init__(
        self, url: str, token: str, *, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Ask the API at `url`: https, or plain http on loopback.

        Raises:
            QuestionError: of what is no address or no token.
        """
        try:
            self._url = refuse_unsafe_url(url).rstrip("/")
        except ValueError as error:
            raise QuestionError(f"control API {url}: {error}") from None
        # Checked here, because `http.client` would put it into its message.
        if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            raise QuestionError("the token is none: printable ASCII without spaces expected")
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    # --- holds and access requests

    def requests(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        target: str | None = None,
        limit: int = 1000,
    ) -> list[Request]:
        """Return the newest requests that one may see, of a state, kind or target where given."""
        wanted = {"state": state, "kind": kind, "target": target, "limit": str(limit)}
        return self._get("/v1/requests", list[Request], wanted)

    def request(self, id: UUID) -> Request:
        return self._get(f"/v1/requests/{id}", Request)

    def ask(
        self,
        target: str,
        duration: str,
        reason: str,
        *,
        starts_at: int = 0,
        classes: Sequence[str] = (),
        resources: Sequence[str] = (),
    ) -> Request:
        """Ask for access to `target` for so long (`30m`), from now or from `starts_at` on."""
        body = {
            "target": target,
            "duration": duration,
            "reason": reason,
            "starts_at": starts_at,
            "classes": list(classes),
            "resources": list(resources),
        }
        return self._send("POST", "/v1/requests", Request, body)

    def withdraw(self, id: UUID) -> Request:
        """Withdraw an access request of one's own."""
        return self._send("DELETE", f"/v1/requests/{id}", Request)

    def decide(self, id: UUID, verdict: Verdict, reason: str, digest: str) -> Request:
        """Decide about what `digest` stands for."""
        body = {"verdict": verdict, "reason": reason, "digest": digest}
        return self._send("POST", f"/v1/requests/{id}/decision", Request, body)

    def decide_batch(
        self, verdict: Verdict, reason: str, requests: Iterable[tuple[UUID, str]]
    ) -> list[Decided]:
        """Decide several requests of one class and target, each by its id and digest."""
        items = [{"id": str(id), "digest": digest} for id, digest in requests]
        body = {"verdict": verdict, "reason": reason, "requests": items}
        return self._send("POST", "/v1/decisions", list[Decided], body)

    # --- access

    def grants(self, *, target: str | None = None, all: bool = False) -> list[Grant]:
        """Return grants, newest first: those in force or to come, or all of them."""
        wanted = {"target": target, "all": "true" if all else None}
        return self._get("/v1/grants", list[Grant], wanted)

    def revoke(self, id: UUID) -> Grant:
        """Revoke a grant; its sessions end within a second."""
        return self._send("DELETE", f"/v1/grants/{id}", Grant)

    def ticket(self, target: str) -> Ticket:
        """Return a ticket for `target`."""
        return self._send("POST", "/v1/tickets", Ticket, {"target": target})

    def ssh_certificate(self, public_key: str, targets: Sequence[str] = ()) -> SshCertificate:
        """Return a certificate of a public key for `targets`, or all hosts that one may go to."""
        body = {"public_key": public_key, "targets": list(targets)}
        return self._send("POST", "/v1/ssh-certs", SshCertificate, body)

    # --- sessions and who may open them

    def live(self) -> list[Live]:
        """Return the sessions that are open now, of those that one may see."""
        return self._get("/v1/sessions/live", list[Live])

    def end(self, session_id: UUID, reason: str) -> None:
        """End a session."""
        query = urlencode({"reason": reason}, quote_via=quote)
        self._send("DELETE", f"/v1/sessions/{session_id}?{query}", object)

    def block(self, reason: str, *, issuer: str = "", subject: str = "", user: str = "") -> Block:
        """Let somebody open no new session: a subject of an issuer, or a user."""
        who = {"issuer": issuer, "subject": subject, "user": user}
        body = {name: value for name, value in who.items() if value} | {"reason": reason}
        return self._send("POST", "/v1/blocks", Block, body)

    def blocks(self) -> list[Block]:
        """Return the blocks in force."""
        return self._get("/v1/blocks", list[Block])

    def unblock(self, id: UUID) -> None:
        """End a block."""
        self._send("DELETE", f"/v1/blocks/{id}", object)

    # --- how

    def _get(
        self, path: str, kind: type[_Got], wanted: dict[str, str | None] | None = None
    ) -> _Got:
        given = {name: value for name, value in (wanted or {}).items() if value is not None}
        return self._send("GET", path + (f"?{urlencode(given)}" if given else ""), kind)

    def _send(
        self, method: str, path: str, kind: type[_Got], body: dict[str, Any] | None = None
    ) -> _Got:
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = web.ask(
                method,
                self._url + path,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                ca_file=self._ca_file,
                timeout_s=self._timeout_s,
                most_bytes=MAX_ANSWER_BYTES,
            )
        except web.NoAnswer as error:
            hint = "" if method == "GET" else "whether it was done is not known: look before again"
            raise ControlError(f"control API {self._url}: {error}", hint=hint) from None
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        try:
            return TypeAdapter(kind).validate_python(answer.value)
        except ValidationError:
            # Without what it was: it may hold a secret.
            raise ControlError(
                f"control API {self._url}: its answer makes no sense",
                hint="is it of the same version, and is that its address?",
            ) from None

    def _refusal(self, answer: web.Answer) -> ControlError:
        said = answer.value if isinstance(answer.value, dict) else {}
        error, hint = str(said.get("error") or ""), str(said.get("hint") or "")
        if not error or answer.status >= 500:
            status = f"HTTP status {answer.status}"
            return ControlError(f"control API {self._url}: {error or status}", hint=hint)
        return RefusedError(error, hint=hint, status=answer.status)
