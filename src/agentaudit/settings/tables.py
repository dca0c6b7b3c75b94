"""The tables of the settings, but for rules and masks.

What can be told of one table by itself is told here, and what takes several in `settings.whole`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from agentaudit.errors import SettingsError
from agentaudit.model import Durability
from agentaudit.settings.secrets import decoded, read_limited, run_limited
from agentaudit.settings.values import (
    MICROSECOND,
    AddressText,
    DurabilityText,
    Duration,
    LocatedPath,
    Name,
    SafeUrl,
    Size,
    StateText,
    Table,
    Word,
    refuse_unsafe_url,
    size,
)

ASYMMETRIC_ALGORITHMS: Final = frozenset(
    {
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    }
)
"""`none` and the HMAC family are missing on purpose: RFC 8725, sections 2.1 and 3.1."""

_LONGEST_WAIT: Final = timedelta(minutes=10)

LONGEST_CERT: Final = timedelta(minutes=15)
"""How long an SSH certificate may be good: what has left the gateway cannot be called back."""

MAX_WORKERS: Final = 64
MAX_NAME: Final = 63
"""Characters of a name under which something records."""


def log_names(gateway: str, workers: int) -> tuple[str, ...]:
    """Return the names of the logs of a gateway with so many workers.

    >>> log_names("gw1", 1), log_names("gw1", 2)
    (('gw1',), ('gw1-1', 'gw1-2'))
    """
    if workers == 1:
        return (gateway,)
    return tuple(f"{gateway}-{number}" for number in range(1, workers + 1))


class Gateway(Table):
    """`[gateway]`: who this gateway is, where it records, and how soon a record counts."""

    name: Name
    origin: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS, strict=True)] = 1
    archive: LocatedPath = Path("archive")
    keys: LocatedPath = Path("keys")
    durability: DurabilityText = Durability.STRICT
    segment_events: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    segment_bytes: Size = 256 << 20
    segment_age: Duration = timedelta(hours=24)
    drain_timeout: Duration = timedelta(seconds=30)
    state: StateText = "sqlite:///state.db"
    tls_cert_file: LocatedPath | None = None
    tls_key_file: LocatedPath | None = None
    ssh_host_key_file: LocatedPath | None = None
    ssh_ca_key_file: LocatedPath | None = None
    ssh_cert_life: Annotated[Duration, Field(ge=timedelta(seconds=1), le=LONGEST_CERT)] = (
        LONGEST_CERT
    )
    ssh_cert_source_address: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _is_whole(self) -> Gateway:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file are given together or not at all")
        if self.keys.is_relative_to(self.archive):
            raise ValueError("keys must lie outside archive: who copies one must not get the other")
        if self.workers > 1 and len(self.names[-1]) > MAX_NAME:
            raise ValueError(f"name is too long for {self.workers} workers: {self.names[-1]}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it records, each with a log of its own: one for each worker."""
        return log_names(self.name, self.workers)


class Listen(Table):
    """`[listen]`: the addresses that clients connect to; port 0 takes any free port."""

    postgres: AddressText | None = None
    ssh: AddressText | None = None
    control: AddressText | None = None
    # Strict: the number 1 is no truth value in a file.
    postgres_oauth: Annotated[bool, Field(strict=True)] = False


class Limits(Table):
    """`[limits]`: quotas, each of which ends a session or an actor's new one."""

    disk_warn: Size = 10 << 30
    disk_stop: Size = 1 << 30
    journal_max: Size = 4 << 30
    session_bytes: Size = 50 << 30
    actor_connections: Annotated[int, Field(ge=1)] = 200
    preauth_connections: Annotated[int, Field(ge=1)] = 200
    max_session: Duration = timedelta(hours=12)
    max_holds_per_actor: Annotated[int, Field(ge=1)] = 4


class Roles(Table):
    """`[roles]`: the groups whose members may decide, and the audience of their tokens."""

    admin: tuple[str, ...] = ()
    auditor: tuple[str, ...] = ()
    audience: Annotated[str, Field(min_length=1)] = "agentaudit-review"


_SCOPE: Final = r"^[!#-\[\]-~]+( [!#-\[\]-~]+)*$"
"""RFC 6749, section 3.3."""


class Issuer(Table):
    """`[[issuer]]`: an OIDC provider, and what its tokens must say."""

    url: SafeUrl
    audience: Annotated[tuple[str, ...], Field(min_length=1)]
    groups_claim: str = "groups"
    user_claim: str = "sub"
    agent_claim: str = "azp"
    require: dict[str, str | int | bool | tuple[str, ...]] = Field(default_factory=dict)
    ca_file: LocatedPath | None = None
    oauth_scope: Annotated[str, Field(pattern=_SCOPE)] = "openid"
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "ES256")

    @field_validator("ca_file", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("algorithms")
    @classmethod
    def _are_asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for algorithm in value:
            if algorithm not in ASYMMETRIC_ALGORITHMS:
                allowed = ", ".join(sorted(ASYMMETRIC_ALGORITHMS))
                raise ValueError(f'"{algorithm}" is not one of {allowed}')
        return value


MIN_PAYLOAD_LIMIT: Final = 1024
"""A prefix begins with what says how to read it: the answers to Parse and Bind, and the columns."""

AuthMethod = Literal["scram-sha-256", "scram-sha-256-plus", "md5", "password", "none"]
"""As libpq's `require_auth`; `scram-sha-256` is with or without channel binding, `-plus` with."""


NOTICE = timedelta(days=7)
"""How long a shorter policy waits unless its predecessor says otherwise."""

_LONGEST_KEEP = timedelta(days=36_525)


class Retention(Table):
    """`[[retention]]`: a class of targets, and how long what passed through them is kept."""

    name: Name
    keep: Duration
    payload_keep: Duration | None = None
    notice: Duration = NOTICE

    @model_validator(mode="after")
    def _fits_together(self) -> Retention:
        for name, value in (("keep", self.keep), ("payload_keep", self.payload_keep)):
            if value is not None and not timedelta() < value <= _LONGEST_KEEP:
                raise ValueError(f"{name} must be more than nothing and at most 36525d")
        if self.payload_keep is not None and self.payload_keep > self.keep:
            raise ValueError("payload_keep is longer than keep, which ends it all")
        if self.notice > _LONGEST_KEEP:
            raise ValueError("notice must be at most 36525d")
        return self


class Target(Table):
    """What every `[[target]]` has: a name that clients ask for, where it is, and who may go there.

    How the gateway logs in is its protocol's own; a password is what all of them may have.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]
    address: AddressText
    user: Annotated[str, Field(min_length=1, max_length=63)]
    password_file: LocatedPath | None = None
    password_env: str | None = None
    password_command: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    access: Literal["standing", "request"] = "standing"
    approvers: tuple[Word, ...] = ()
    wait: Annotated[Duration, Field(le=_LONGEST_WAIT)] = timedelta(0)
    max_window: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    linger: Duration = timedelta(seconds=60)
    single_window: Annotated[bool, Field(strict=True)] = False
    default: Literal["allow", "hold", "deny"] = "allow"
    tags: dict[Word, Word] = Field(default_factory=dict)
    retention: str | None = None
    payload_limit: Annotated[int, Field(ge=MIN_PAYLOAD_LIMIT)] | None = None

    @field_validator("payload_limit", mode="before")
    @classmethod
    def _is_size_or_off(cls, value: object) -> object:
        return None if value in ("", None) else size(value)

    @model_validator(mode="after")
    def _is_whole(self) -> Target:
        given = [self.password_file is not None, self.password_env is not None]
        if sum([*given, bool(self.password_command)]) > 1:
            raise ValueError(
                "at most one of password_file, password_env and password_command may be given"
            )
        if self.wait and self.access != "request":
            raise ValueError('wait means something only with access = "request"')
        return self

    def protocol_document(self) -> dict[str, Any]:
        """Return what the policy document has of what only this protocol's targets have."""
        raise NotImplementedError

    def window_document(self) -> dict[str, Any]:
        """Return what the policy document has of windows, where the target has any."""
        if not self.has_windows and self.max_window is None:
            return {}
        return {
            "linger_us": self.linger // MICROSECOND,
            "max_window_us": None if self.max_window is None else self.max_window // MICROSECOND,
            "single_window": self.single_window,
        }

    @property
    def has_windows(self) -> bool:
        """Whether a token is let in once, for a time, so that it must be known as used."""
        return self.access == "request" or self.single_window

    def read_password(self) -> str | None:
        """Return the backend's password, or None where the target names none.

        Blocks: a file is read, a command run (10 s at most). One newline at the end is not part
        of the secret.

        Raises:
            SettingsError: the reference leads nowhere; the message never holds the secret.
        """
        where = f'target "{self.name}"'
        if self.password_file is not None:
            raw = read_limited(self.password_file, f"{where}: password_file")
            return decoded(raw, where)
        if self.password_env is not None:
            value = os.environ.get(self.password_env)
            if value is None:
                raise SettingsError(
                    f"{where}: the environment has no {self.password_env}",
                    hint="set the variable that password_env names",
                )
            return value
        if self.password_command:
            return decoded(run_limited(self.password_command, where), where)
        return None


class PostgresTarget(Target):
    """A `[[target]]` that is a PostgreSQL database, and how the gateway logs in."""

    protocol: Literal["postgres"] = "postgres"
    database: Annotated[str, Field(min_length=1, max_length=63)]
    tls: Literal["disable", "require", "verify-full"] = "verify-full"
    tls_ca_file: LocatedPath | None = None
    tls_cert_file: LocatedPath | None = None
    tls_key_file: LocatedPath | None = None
    require_auth: Annotated[tuple[AuthMethod, ...], Field(min_length=1)] = ("scram-sha-256",)
    replication: Literal["refuse", "pass"] = "refuse"
    inspect_user: Annotated[str, Field(max_length=63)] = ""
    inspect_password_file: LocatedPath | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> PostgresTarget:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file are given together or not at all")
        if self.inspect_password_file is not None and not self.inspect_user:
            raise ValueError("inspect_password_file means something only with inspect_user")
        if self.inspect_user == self.user:
            raise ValueError("inspect_user must be another role than user, one that only reads")
        if self.tls == "disable" and (self.tls_ca_file or self.tls_cert_file):
            raise ValueError('tls_ca_file and tls_cert_file mean nothing with tls = "disable"')
        return self

    def protocol_document(self) -> dict[str, Any]:
        # Named only where it says something, so that other policies keep their digests.
        return {"replication": self.replication} if self.replication == "pass" else {}

    def inspecting(self) -> PostgresTarget | None:
        """Return the target as its planner is asked by, None where that is not."""
        if not self.inspect_user:
            return None
        login = {
            "user": self.inspect_user,
            "password_file": self.inspect_password_file,
            "password_env": None,
            "password_command": (),
        }
        return self.model_copy(update=login)


_HOST_KEY: Final = (
    r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+={0,2}( .*)?$"
)
_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,126}\*?$"


class SshTarget(Target):
    """A `[[target]]` that is a host with an SSH server, and how the gateway logs in.

    `host_keys` are all that the server may prove itself by, as lines of `known_hosts` have them
    behind the name. `logins` are other users of it that a client may ask for, beside `user`.
    """

    protocol: Literal["ssh"]
    host_keys: Annotated[
        tuple[Annotated[str, Field(pattern=_HOST_KEY)], ...], Field(min_length=1, max_length=8)
    ]
    key_file: LocatedPath | None = None
    user_ca_key_file: LocatedPath | None = None
    logins: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")], ...] = ()
    exec_only: Annotated[bool, Field(strict=True)] = False
    env: tuple[Annotated[str, Field(pattern=_VARIABLE)], ...] = ("LANG", "LC_*")

    @model_validator(mode="after")
    def _logs_in_somehow(self) -> SshTarget:
        has_password = self.password_file or self.password_env or self.password_command
        ways = (bool(has_password), self.key_file is not None, self.user_ca_key_file is not None)
        if sum(ways) != 1:
            raise ValueError(
                "one of key_file, user_ca_key_file and the passwords says how to log in"
            )
        return self

    def protocol_document(self) -> dict[str, Any]:
        return {
            "env": list(self.env),
            "exec_only": self.exec_only,
            "logins": list(self.logins),
            "protocol": "ssh",
        }


def _protocol_of(target: object) -> str:
    said = target.get("protocol") if isinstance(target, dict) else getattr(target, "protocol", None)
    return "ssh" if said == "ssh" else "postgres"


AnyTarget = Annotated[
    Annotated[PostgresTarget, Tag("postgres")] | Annotated[SshTarget, Tag("ssh")],
    Discriminator(_protocol_of),
]
"""A `[[target]]` of any protocol."""


class Witness(Table):
    """`[[witness]]`: somebody who says which checkpoint of the log was the largest they saw."""

    url: SafeUrl
    key: Annotated[str, Field(min_length=1, max_length=4000)]
    ca_file: LocatedPath | None = None


class Anchor(Table):
    """`[[anchor]]`: an RFC 3161 authority that stamps the log's checkpoints with the time."""

    # Plain http is usual here, and enough: a token is signed, and the request is a digest.
    url: Annotated[str, AfterValidator(partial(refuse_unsafe_url, needs_https=False))]
    interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(hours=1)
    ca_file: LocatedPath | None = None


MAX_WEBHOOKS: Final = 16
MIN_WEBHOOK_SECRET: Final = 16
"""Characters: what is shorter can be guessed by whoever sees a signature."""


class Webhook(Table):
    """`[[webhook]]`: who is told of requests that wait and of decisions, by HTTP."""

    url: SafeUrl
    events: Annotated[
        tuple[Literal["hold", "access", "decision"], ...], Field(min_length=1, max_length=3)
    ] = ("hold", "access", "decision")
    secret_file: LocatedPath
    ca_file: LocatedPath | None = None

    @field_validator("ca_file", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def receiver(self) -> str:
        """Host and port; the rest of an address is often a secret of the receiver's."""
        parts = urlsplit(self.url)
        return parts.netloc

    def read_secret(self) -> bytes:
        """Return the key of its signatures; blocks. One newline at the end is not part of it.

        Raises:
            SettingsError: there is no such file, or what it holds will not do.
        """
        where = f"webhook {self.receiver}"
        raw = read_limited(self.secret_file, f"{where}: secret_file")
        secret = decoded(raw, where, "secret")
        if len(secret) < MIN_WEBHOOK_SECRET:
            raise SettingsError(
                f"{where}: the secret is shorter than {MIN_WEBHOOK_SECRET} characters",
                hint="openssl rand -hex 32 makes one",
            )
        return secret.encode()
