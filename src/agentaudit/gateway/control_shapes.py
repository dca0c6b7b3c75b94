"""What the control API takes in and gives out: the types of its OpenAPI document.

Times are microseconds since 1970. `agentaudit.client.control` reads the answers, and knows nothing
of this module: a client may be older or newer than the gateway that it asks.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentaudit.protocols.ssh_certificates import MAX_PRINCIPALS

MAX_BATCH: Final = 100
MAX_KEY_LINE: Final = 8192
"""Characters of a public key with its comment; the largest RSA key has 2,800."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


Reason = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
ClassName = Literal["read", "write", "schema", "admin", "session", "unknown"]


class AccessRequest(_Body):
    """`POST /v1/requests`: access to `target` for so long, from `starts_at` on or from now."""

    target: Name
    duration: Annotated[str, Field(description="such as 30m or 1h", max_length=20)]
    reason: Reason
    starts_at: Annotated[int, Field(ge=0, lt=1 << 53, description="µs since 1970")] = 0
    classes: Annotated[tuple[ClassName, ...], Field(max_length=6)] = ()
    resources: Annotated[tuple[Name, ...], Field(max_length=50)] = ()


class Decision(_Body):
    """`POST /v1/requests/{id}/decision`: about what `digest` stands for, and nothing else."""

    verdict: Literal["approve", "deny"]
    reason: Reason
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BatchItem(_Body):
    """One request of a batch, and the digest of what was shown of it."""

    id: UUID
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Batch(_Body):
    """`POST /v1/decisions`: one decision on several requests of one class and target."""

    verdict: Literal["approve", "deny"]
    reason: Reason
    requests: Annotated[tuple[BatchItem, ...], Field(min_length=1, max_length=MAX_BATCH)]


class Person(_Body):
    """Who somebody is, as an identity provider says."""

    user: str
    subject: str
    issuer: str
    agent: str = ""
    actor_chain: tuple[str, ...] = ()


class Voted(_Body):
    """What one person decided."""

    approver: Person
    verdict: str
    reason: str
    at: int


class Shown(_Body):
    """A hold or an access request as reviewers see it; times are µs since 1970.

    `shown` is what is decided on, masked and whole; `digest` is the SHA-256 of its canonical JSON
    (RFC 8785). Whoever prints it must escape it: an agent wrote parts of it.
    """

    id: UUID
    kind: str
    state: str
    target: str
    rule: str
    requester: Person
    approvers: tuple[str, ...]
    approvals: int
    cls: str = Field(serialization_alias="class")
    shown: dict[str, Any]
    digest: str
    reason: str
    session_id: UUID | None
    command_no: int
    duration_us: int
    starts_at: int
    requested_at: int
    expires_at: int
    decided_at: int
    votes: tuple[Voted, ...]
    may_decide: bool


class GrantShown(_Body):
    """A grant; `in_force` says whether it lets somebody in now."""

    id: UUID
    request_id: UUID
    actor: Person
    target: str
    classes: tuple[str, ...]
    resources: tuple[str, ...]
    starts_at: int
    ends_at: int
    revoked_at: int
    revoked_by: str
    in_force: bool


class TicketRequest(_Body):
    """`POST /v1/tickets`: a short secret in place of the token, for one connection to `target`."""

    target: Name


class TicketShown(_Body):
    """A ticket; nobody is told what it is a second time."""

    ticket: str
    expires_at: int


class SshCertificateRequest(_Body):
    """`POST /v1/ssh-certs`: a certificate for a public key, as a file `.pub` has it in one line.

    Without `targets` it is for all hosts that one may connect to.
    """

    public_key: Annotated[str, Field(min_length=1, max_length=MAX_KEY_LINE)]
    targets: Annotated[tuple[Name, ...], Field(max_length=MAX_PRINCIPALS)] = ()


class SshCertificateShown(_Body):
    """A certificate as a file `-cert.pub` has it; the gateway listens for SSH at `port`.

    `port` is 0 where the settings leave it to the system.
    """

    certificate: str
    serial: str
    key_id: str
    targets: tuple[str, ...]
    valid_after: int
    expires_at: int
    port: int


class LiveShown(_Body):
    """A session that is open."""

    session_id: UUID
    gateway: str
    user: str
    agent: str
    target: str
    protocol: str
    client_addr: str
    opened_at: int
    window_id: UUID | None


class BlockRequest(_Body):
    """`POST /v1/blocks`: which user or subject may open no new session; of any issuer if none."""

    user: Annotated[str, Field(max_length=200)] = ""
    subject: Annotated[str, Field(max_length=200)] = ""
    issuer: Annotated[str, Field(max_length=500)] = ""
    reason: Reason


class BlockShown(_Body):
    """A block that is in force."""

    id: UUID
    user: str
    subject: str
    issuer: str
    by: str
    reason: str
    at: int
