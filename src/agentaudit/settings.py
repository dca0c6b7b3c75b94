"""`agentaudit.toml` as frozen models.

Nothing in the file is ever ignored: an unknown key is an error that names the nearest valid one,
and a key whose feature does not exist yet is an error that says so, unless it is set to the value
that means "off". All problems of a file are reported at once. Secrets stand in the file only by
reference and are read by `Target.read_password`, never kept in a model.

Format: docs/settings.md
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agentaudit.errors import SettingsError
from agentaudit.model import Durability
from agentaudit.patterns import compile_pattern

MAX_SECRET_BYTES = 64 * 1024
SECRET_COMMAND_TIMEOUT_S = 10

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

_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_DURATION_UNIT = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_SIZE = re.compile(r"(\d{1,12})(B|KiB|MiB|GiB|TiB)")
_SIZE_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration like 30s, 50m, 12h or 30d")
    return int(match[1]) * _DURATION_UNIT[match[2]]


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size like 512KiB, 256MiB or 10GiB, or a number of bytes")
    return int(match[1]) * _SIZE_UNIT[match[2]]


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; `str()` gives the form that the file has, IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address; other names are not resolved.

    >>> is_loopback("127.8.0.1"), is_loopback("::1"), is_loopback("localhost.example.com")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(value: object) -> object:
    if isinstance(value, Address):
        return value
    text = value if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host) != bracketed or not re.fullmatch(r"\d{1,5}", port):
        raise ValueError('expected "host:port", or "[address]:port" for IPv6')
    if int(port) > 65535:
        raise ValueError("expected a port up to 65535")
    return Address(host, int(port))


def parse_address(text: str) -> Address:
    """Return the address that `host:port`, or `[address]:port`, stands for.

    Raises:
        SettingsError: not such a text.
    """
    try:
        address = _address(text)
    except ValueError as error:
        raise SettingsError(f"address {text[:100]!r}: {error}") from None
    assert isinstance(address, Address)
    return address


def _durability(value: object) -> object:
    names = {mode.name.lower(): mode for mode in Durability}
    if isinstance(value, Durability):
        return value
    if not isinstance(value, str) or value not in names:
        raise ValueError('expected "strict", "writes" or "relaxed"')
    return names[value]


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
AddressText = Annotated[Address, BeforeValidator(_address)]
DurabilityText = Annotated[Durability, BeforeValidator(_durability)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


def _located(value: Path, info: ValidationInfo) -> Path:
    """Resolve a path of the file against the file's own folder."""
    root: Path = (info.context or {}).get("root", Path())
    return root / value


LocatedPath = Annotated[Path, AfterValidator(_located)]


def _pattern(value: str) -> str:
    compile_pattern(value)
    return value


def refuse_unsafe_url(url: str, *, needs_https: bool = True) -> str:
    """Return `url` if keys may be fetched from it: https, or plain http on loopback.

    Without `needs_https`, plain http will do anywhere.

    Raises:
        ValueError: it says what is wrong with the address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected an https address")
    if needs_https and parts.scheme == "http" and not is_loopback(host):
        raise ValueError("plain http is for loopback only; use https")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected an address without user, query or fragment")
    if parts.port == 0:
        raise ValueError("expected a port up to 65535")
    return url


SafeUrl = Annotated[str, AfterValidator(refuse_unsafe_url)]


def _state(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("sqlite", "postgresql"):
        raise ValueError("expected sqlite:///state.db or postgresql://user@host/database")
    if parts.scheme == "sqlite" and (parts.netloc or not parts.path.strip("/") or parts.query):
        raise ValueError("expected sqlite:///, and the path of a file")
    if parts.password is not None or "password=" in parts.query:
        raise ValueError("a password does not belong here: name a ?passfile=, as libpq reads it")
    return value


StateText = Annotated[str, AfterValidator(_state)]

MAX_APPROVALS: Final = 10
_LONGEST_HOLD: Final = timedelta(hours=12)
_LONGEST_WAIT: Final = timedelta(minutes=10)

RESERVED_RULES: Final = frozenset({"none", "default", "protocol", "grant", "access"})
"""What a command's `rule` says where no rule of the settings decided."""

RESERVED_MASKS: Final = frozenset({"credentials", "undecided"})
"""What a masked span names where no rule of the settings has hidden it."""

Word = Annotated[str, Field(min_length=1, max_length=200)]
Class = Literal["read", "write", "schema", "admin", "session", "unknown"]
Operation = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9:_./ -]{0,99}$")]
# Up to three parts, `*` in any of them.
ResourceText = Annotated[str, Field(pattern=r"^[^.?\[\]]+(\.[^.?\[\]]+){0,2}$", max_length=200)]
PatternText = Annotated[str, AfterValidator(_pattern)]


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        # Relative paths are resolved by validators, and defaults are relative paths too.
        validate_default=True,
    )


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


class Gateway(_Table):
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


class Listen(_Table):
    """`[listen]`: the addresses that clients connect to; port 0 takes any free port."""

    postgres: AddressText | None = None
    control: AddressText | None = None
    # Strict: the number 1 is no truth value in a file.
    postgres_oauth: Annotated[bool, Field(strict=True)] = False


class Limits(_Table):
    """`[limits]`: quotas, each of which ends a session or an actor's new one."""

    disk_warn: Size = 10 << 30
    disk_stop: Size = 1 << 30
    journal_max: Size = 4 << 30
    session_bytes: Size = 50 << 30
    actor_connections: Annotated[int, Field(ge=1)] = 200
    preauth_connections: Annotated[int, Field(ge=1)] = 200
    max_session: Duration = timedelta(hours=12)
    max_holds_per_actor: Annotated[int, Field(ge=1)] = 4


class Roles(_Table):
    """`[roles]`: the groups whose members may decide, and the audience of their tokens."""

    admin: tuple[str, ...] = ()
    auditor: tuple[str, ...] = ()
    audience: Annotated[str, Field(min_length=1)] = "agentaudit-review"


_SCOPE: Final = r"^[!#-\[\]-~]+( [!#-\[\]-~]+)*$"
"""RFC 6749, section 3.3."""


class Issuer(_Table):
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


class Retention(_Table):
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


class Target(_Table):
    """`[[target]]`: a database that clients ask for by `name`, and how the gateway logs in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]
    protocol: Literal["postgres"] = "postgres"
    address: AddressText
    database: Annotated[str, Field(min_length=1, max_length=63)]
    user: Annotated[str, Field(min_length=1, max_length=63)]
    password_file: LocatedPath | None = None
    password_env: str | None = None
    password_command: tuple[str, ...] = ()
    tls: Literal["disable", "require", "verify-full"] = "verify-full"
    tls_ca_file: LocatedPath | None = None
    tls_cert_file: LocatedPath | None = None
    tls_key_file: LocatedPath | None = None
    require_auth: Annotated[tuple[AuthMethod, ...], Field(min_length=1)] = ("scram-sha-256",)
    groups: tuple[str, ...] = ()
    access: Literal["standing", "request"] = "standing"
    approvers: tuple[Word, ...] = ()
    wait: Annotated[Duration, Field(le=_LONGEST_WAIT)] = timedelta(0)
    max_window: Annotated[Duration, Field(ge=timedelta(seconds=1))] | None = None
    linger: Duration = timedelta(seconds=60)
    single_window: Annotated[bool, Field(strict=True)] = False
    default: Literal["allow", "hold", "deny"] = "allow"
    tags: dict[Word, Word] = {}
    replication: Literal["refuse", "pass"] = "refuse"
    inspect_user: Annotated[str, Field(max_length=63)] = ""
    inspect_password_file: LocatedPath | None = None
    retention: str | None = None
    payload_limit: Annotated[int, Field(ge=MIN_PAYLOAD_LIMIT)] | None = None

    @field_validator("payload_limit", mode="before")
    @classmethod
    def _is_size_or_off(cls, value: object) -> object:
        return None if value in ("", None) else _size(value)

    @model_validator(mode="after")
    def _is_whole(self) -> Target:
        given = [self.password_file is not None, self.password_env is not None]
        if sum([*given, bool(self.password_command)]) > 1:
            raise ValueError(
                "at most one of password_file, password_env and password_command may be given"
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file are given together or not at all")
        if self.wait and self.access != "request":
            raise ValueError('wait means something only with access = "request"')
        if self.inspect_password_file is not None and not self.inspect_user:
            raise ValueError("inspect_password_file means something only with inspect_user")
        if self.inspect_user == self.user:
            raise ValueError("inspect_user must be another role than user, one that only reads")
        if self.tls == "disable" and (self.tls_ca_file or self.tls_cert_file):
            raise ValueError('tls_ca_file and tls_cert_file mean nothing with tls = "disable"')
        return self

    def window_document(self) -> dict[str, Any]:
        """Return what the policy document has of windows, where the target has any."""
        if not self.has_windows and self.max_window is None:
            return {}
        return {
            "linger_us": self.linger // _US,
            "max_window_us": None if self.max_window is None else self.max_window // _US,
            "single_window": self.single_window,
        }

    def inspecting(self) -> Target | None:
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
            raw = _read_limited(self.password_file, f"{where}: password_file")
            return _decode_secret(raw, where)
        if self.password_env is not None:
            value = os.environ.get(self.password_env)
            if value is None:
                raise SettingsError(
                    f"{where}: the environment has no {self.password_env}",
                    hint="set the variable that password_env names",
                )
            return value
        if self.password_command:
            return _decode_secret(_run_limited(self.password_command, where), where)
        return None


def _read_limited(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{where} {path}: {error.strerror or 'cannot be read'}",
            hint="create the file, readable for the gateway alone",
        ) from None


def _run_limited(argv: Sequence[str], where: str, key: str = "password_command") -> bytes:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECRET_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        # Neither text of these holds the command's output, but a timeout's holds the whole argv.
        problem = "took too long" if isinstance(error, subprocess.TimeoutExpired) else "cannot run"
        raise SettingsError(f"{where}: {key} {argv[0]}: {problem}") from None
    if done.returncode:
        raise SettingsError(
            f"{where}: {key} {argv[0]}: exit status {done.returncode}",
            hint="run it by hand as the gateway's user",
        )
    return done.stdout


def _decode_secret(raw: bytes, where: str, what: str = "password") -> str:
    if len(raw) > MAX_SECRET_BYTES:
        raise SettingsError(f"{where}: the {what} is longer than {MAX_SECRET_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{where}: the {what} is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\0" in text:
        raise SettingsError(f"{where}: the {what} is empty or holds a NUL")
    return text


class When(_Table):
    """`when` of a rule: conditions that must all be met; of a list, one is enough."""

    target: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    protocol: Annotated[tuple[Literal["postgres"], ...], Field(min_length=1)] | None = None
    groups: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    tags: Annotated[dict[Word, Word], Field(min_length=1)] | None = None
    cls: Annotated[tuple[Class, ...], Field(min_length=1)] | None = Field(
        default=None, alias="class"
    )
    operation: Annotated[tuple[Operation, ...], Field(min_length=1)] | None = None
    resource: Annotated[tuple[ResourceText, ...], Field(min_length=1)] | None = None
    text: Annotated[PatternText, Field(min_length=1, max_length=10_000)] | None = None
    rows_over: Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)] | None = None

    def document(self) -> dict[str, Any]:
        """Return the conditions that there are, as the policy document has them."""
        found = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {name: sorted(set(v)) if isinstance(v, list) else v for name, v in found.items()}

    def covers(self, other: When) -> bool:
        """Return whether each of its conditions is one of `other`'s too, no wider there."""
        theirs = other.document()
        return all(
            name in theirs and _is_within(theirs[name], wanted)
            for name, wanted in self.document().items()
        )


def _is_within(narrow: Any, wide: Any) -> bool:
    if isinstance(wide, list):
        return set(narrow) <= set(wide)
    if isinstance(wide, int):
        return bool(narrow >= wide)
    if isinstance(wide, dict):
        # Each tag is a condition more.
        return bool(wide.items() <= narrow.items())
    return bool(narrow == wide)


class Rule(_Table):
    """`[[rule]]`: what happens to the commands that meet its conditions; the first one decides."""

    name: Word
    when: When = When()
    action: Literal["allow", "deny", "hold"]
    approvers: tuple[Word, ...] = ()
    approvals: Annotated[int, Field(ge=1, le=MAX_APPROVALS, strict=True)] = 1
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=_LONGEST_HOLD)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Rule:
        if self.action == "allow" and self.when.rows_over is not None:
            raise ValueError("rows_over is for what is not to pass: deny or hold it")
        if self.action != "hold":
            for key in ("approvers", "approvals", "timeout"):
                if key in self.model_fields_set:
                    raise ValueError(f'{key} means something only with action = "hold"')
        return self

    def document(self) -> dict[str, Any]:
        """Return the rule as the policy document has it."""
        said: dict[str, Any] = {
            "action": self.action,
            "name": self.name,
            "when": self.when.document(),
        }
        if self.action == "hold":
            said["approvals"] = self.approvals
            said["approvers"] = list(self.approvers)
            said["timeout_us"] = None if self.timeout is None else self.timeout // _US
        return said

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in RESERVED_RULES:
            raise ValueError(f'"{value}" is what is recorded where no rule decided')
        return value

    def hides(self, later: Rule) -> bool:
        """Return whether a `later` rule is never reached behind this one."""
        if not self.when.covers(later.when):
            return False
        if self.action != "allow" or not (
            self.when.operation or self.when.resource or self.when.text
        ):
            return True
        # Of what a text says, a rule allows less than one that denies or holds by the same words.
        return later.action == "allow" and "unknown" not in (later.when.cls or ())


MIN_PSEUDONYM_KEY: Final = 32
"""Bytes: what is shorter can be guessed by whoever knows a value and sees its pseudonym."""


def _column(value: str) -> str:
    if any("*" in part and part != "*" for part in value.split(".")):
        raise ValueError('"*" stands for a whole part of a name, not for some of its letters')
    if value.endswith("*"):
        raise ValueError("a mask names a column, and not all of them")
    return value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Mask(_Table):
    """`[[mask]]`: what is hidden before it is recorded, and maybe from the client too."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
    target: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    columns: tuple[Annotated[ResourceText, AfterValidator(_column)], ...] = ()
    detect: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], ...] = ()
    pattern: Annotated[tuple[PatternText, ...], BeforeValidator(_several)] = ()
    json_path: Annotated[
        tuple[Annotated[str, Field(min_length=2, max_length=1000)], ...], BeforeValidator(_several)
    ] = ()
    action: Literal["redact", "partial", "pseudonym", "drop"] = "redact"
    apply: Annotated[tuple[Literal["archive", "client"], ...], Field(min_length=1)] = ("archive",)
    key_file: LocatedPath | None = None
    key_env: str | None = None
    key_command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Mask:
        if self.name in RESERVED_MASKS:
            raise ValueError(f'"{self.name}" is what is hidden in any case')
        if not (self.columns or self.detect or self.pattern or self.json_path):
            raise ValueError("it hides nothing: give columns, detect, pattern or json_path")
        if "archive" not in self.apply:
            raise ValueError('apply must have "archive": what the client may not see, nobody may')
        keys = [self.key_file is not None, self.key_env is not None, bool(self.key_command)]
        if sum(keys) != (self.action == "pseudonym"):
            raise ValueError(
                "one of key_file, key_env and key_command is needed"
                if self.action == "pseudonym" and not any(keys)
                else 'key_file, key_env and key_command are for action = "pseudonym", one of them'
            )
        if any(not pattern for pattern in self.pattern):
            raise ValueError("an empty pattern is everywhere")
        return self

    def document(self) -> dict[str, Any]:
        """Return the mask as the policy document has it: without its key."""
        said: dict[str, Any] = {
            "action": self.action,
            "apply": sorted(set(self.apply)),
            "name": self.name,
        }
        for key, values in (
            ("columns", self.columns),
            ("detect", self.detect),
            ("json_paths", self.json_path),
            ("patterns", self.pattern),
            ("targets", self.target),
        ):
            if values:
                said[key] = list(values)
        return said

    def read_key(self) -> bytes | None:
        """Return the key of its pseudonyms, None where it makes none; blocks.

        Raises:
            SettingsError: the reference leads nowhere, or to what will not do.
        """
        if self.action != "pseudonym":
            return None
        where = f'mask "{self.name}"'
        if self.key_file is not None:
            raw = _read_limited(self.key_file, f"{where}: key_file")
        elif self.key_env is not None:
            raw = os.environ.get(self.key_env, "").encode()
            if not raw:
                raise SettingsError(f"{where}: the environment has no {self.key_env}")
        else:
            raw = _run_limited(self.key_command, where, "key_command")
        key = _decode_secret(raw, where, "key").encode()
        if len(key) < MIN_PSEUDONYM_KEY:
            raise SettingsError(
                f"{where}: the key is shorter than {MIN_PSEUDONYM_KEY} bytes",
                hint="openssl rand -hex 32 makes one",
            )
        return key


class Witness(_Table):
    """`[[witness]]`: somebody who says which checkpoint of the log was the largest they saw."""

    url: SafeUrl
    key: Annotated[str, Field(min_length=1, max_length=4000)]
    ca_file: LocatedPath | None = None


class Anchor(_Table):
    """`[[anchor]]`: an RFC 3161 authority that stamps the log's checkpoints with the time."""

    # Plain http is usual here, and enough: a token is signed, and the request is a digest.
    url: Annotated[str, AfterValidator(partial(refuse_unsafe_url, needs_https=False))]
    interval: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(hours=1)
    ca_file: LocatedPath | None = None


MAX_WEBHOOKS: Final = 16
MIN_WEBHOOK_SECRET: Final = 16
"""Characters: what is shorter can be guessed by whoever sees a signature."""


class Webhook(_Table):
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
        raw = _read_limited(self.secret_file, f"{where}: secret_file")
        secret = _decode_secret(raw, where, "secret")
        if len(secret) < MIN_WEBHOOK_SECRET:
            raise SettingsError(
                f"{where}: the secret is shorter than {MIN_WEBHOOK_SECRET} characters",
                hint="openssl rand -hex 32 makes one",
            )
        return secret.encode()


class Settings(_Table):
    """A whole `agentaudit.toml`; paths are absolute once `load` has returned it."""

    gateway: Gateway
    listen: Listen = Listen()
    limits: Limits = Limits()
    roles: Roles = Roles()
    issuer: tuple[Issuer, ...] = ()
    target: tuple[Target, ...] = ()
    retention: tuple[Retention, ...] = ()
    witness: tuple[Witness, ...] = ()
    anchor: tuple[Anchor, ...] = ()
    webhook: Annotated[tuple[Webhook, ...], Field(max_length=MAX_WEBHOOKS)] = ()
    rule: tuple[Rule, ...] = ()
    mask: tuple[Mask, ...] = ()

    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """The file that `load` read, or None."""
        return self._path

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        for what, names in (
            ("issuer url", [issuer.url for issuer in self.issuer]),
            ("target name", [target.name for target in self.target]),
            ("rule name", [rule.name for rule in self.rule]),
            ("mask name", [mask.name for mask in self.mask]),
            ("retention name", [retention.name for retention in self.retention]),
            ("witness url", [witness.url for witness in self.witness]),
            ("witness key", [witness.key for witness in self.witness]),
            ("anchor url", [anchor.url for anchor in self.anchor]),
            ("webhook url", [webhook.url for webhook in self.webhook]),
        ):
            for name in sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f'{what} "{name}" is given twice')
        if self.limits.journal_max < 2 * self.gateway.segment_bytes:
            raise ValueError(
                "limits.journal_max must be at least twice gateway.segment_bytes: one segment is "
                "written while another is sealed"
            )
        classes = [retention.name for retention in self.retention]
        for target in self.target:
            if target.retention is not None and target.retention not in classes:
                near = difflib.get_close_matches(target.retention, classes, n=1, cutoff=0)
                there = f'the nearest is "{near[0]}"' if near else "there is no [[retention]]"
                raise ValueError(
                    f'target "{target.name}": retention "{target.retention}" is no class, {there}'
                )
        self._reaches_every_rule()
        if self.webhook and self.listen.control is None:
            raise ValueError("[[webhook]] needs listen.control: the control API's process does it")
        if self.listen.postgres_oauth and not self.issuer:
            raise ValueError("listen.postgres_oauth is true, and there is no [[issuer]] to name")
        for key in ("postgres", "control"):
            address = getattr(self.listen, key)
            if address is None or address.is_loopback or self.gateway.tls_cert_file is not None:
                continue
            raise ValueError(
                f"listen.{key} is {address}, and without gateway.tls_cert_file"
                " only loopback may be listened on: tokens would cross the network in clear"
            )
        return self

    def _require_targets(self, where: str, names: Sequence[str]) -> None:
        targets = [target.name for target in self.target]
        for name in names:
            if name not in targets:
                near = difflib.get_close_matches(name, targets, n=1, cutoff=0)
                there = f'the nearest is "{near[0]}"' if near else "there is no [[target]]"
                raise ValueError(f'{where}: "{name}" is no target, {there}')

    def _reaches_every_rule(self) -> None:
        for mask in self.mask:
            self._require_targets(f'mask "{mask.name}"', mask.target or ())
        for number, rule in enumerate(self.rule):
            where = f'rule "{rule.name}"'
            self._require_targets(where, rule.when.target or ())
            for before in self.rule[:number]:
                if before.hides(rule):
                    raise ValueError(
                        f'{where} is never reached: all that it is about, rule "{before.name}" '
                        "decides before it"
                    )

    @property
    def needs_state(self) -> bool:
        """Whether people decide on something here, so that it must be known who decided what."""
        return (
            self.listen.control is not None
            or any(rule.action == "hold" for rule in self.rule)
            or any(t.default == "hold" or t.has_windows for t in self.target)
        )

    def policy_document(self) -> bytes:
        """Return what is in force for sessions as canonical JSON (RFC 8785), without secrets."""
        document = {
            "default": "allow",
            "masks": [mask.document() for mask in self.mask],
            "retention": {
                "classes": {
                    r.name: {
                        "keep_us": r.keep // _US,
                        "payload_keep_us": None
                        if r.payload_keep is None
                        else r.payload_keep // _US,
                        "notice_us": r.notice // _US,
                    }
                    for r in self.retention
                },
                "targets": {t.name: t.retention for t in self.target if t.retention is not None},
            },
            "rules": [rule.document() for rule in self.rule],
            "targets": [
                {
                    "access": t.access,
                    "default": t.default,
                    "groups": list(t.groups),
                    "name": t.name,
                    "payload_limit": t.payload_limit,
                }
                | t.window_document()
                # Named only where they say something, so that other policies keep their digests.
                | ({"replication": t.replication} if t.replication == "pass" else {})
                | ({"tags": t.tags} if t.tags else {})
                | ({"approvers": list(t.approvers)} if t.approvers else {})
                for t in sorted(self.target, key=lambda t: t.name)
            ],
        }
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    def mask_digest(self) -> str:
        """Return the SHA-256 of the policy document's `masks`, empty where there are none."""
        masks = [mask.document() for mask in self.mask]
        text = json.dumps(masks, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest() if masks else ""

    def policy_digest(self) -> str:
        """Return the SHA-256 of `policy_document` in lower-case hex: what sessions refer to."""
        return hashlib.sha256(self.policy_document()).hexdigest()


_US = timedelta(microseconds=1)

_ON = object()
"""No value of a key marked so means "off": its mere presence asks for what is not there."""

# What DESIGN promises and a later release brings. A value that means "off" is accepted, so that
# one file can be explicit; any other is refused by name, because an ignored rule is a hole.
_LATER: Final[Mapping[str, Mapping[str, object]]] = {
    "": {},
    "gateway": {},
    "listen": {
        "ssh": _ON,
        "http": _ON,
        "proxy_protocol": [],
    },
    "limits": {},
    "roles": {},
    "issuer": {},
    "retention": {},
    "witness": {},
    "anchor": {},
    "webhook": {},
    "rule": {},
    "rule.when": {},
    "mask": {
        "header": [],
    },
    "target": {
        "credential_command": [],
        "enforce_read_only": False,
        "recheck": False,
    },
}
_LATER_VALUES: Final[Mapping[tuple[str, str], tuple[object, ...]]] = {
    ("target", "protocol"): ("ssh", "aws", "kubernetes", "mcp", "http"),
}
_Location = tuple[str | int, ...]


def load(path: Path) -> Settings:
    """Return the settings in `path`; relative paths in it are taken from the file's own folder.

    Files that it names are not opened here: `agentaudit check` and the gateway do that.

    Raises:
        SettingsError: every problem of the file, one a line, each with file and key.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror or 'cannot be read'}",
            hint="agentaudit init writes a file to start from",
        ) from None
    return parse(text, path)


def parse(text: bytes, path: Path) -> Settings:
    """Return the settings that `text` is, as `load` does where `path` holds it.

    Raises:
        SettingsError: as `load`.
    """
    try:
        document = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    problems = _refuse_later(document)
    try:
        settings = Settings.model_validate(document, context={"root": path.absolute().parent})
        settings._path = path.absolute()
    except ValidationError as error:
        # include_input=False: a secret written into the wrong key must not come back in an error.
        problems += [_describe(each) for each in error.errors(include_input=False)]
        settings = None
    if settings is None or problems:
        raise SettingsError(
            "\n".join(f"{path}: {problem}" for problem in problems),
            hint="docs/settings.md lists every key",
        )
    return settings


def _refuse_later(document: dict[str, Any]) -> list[str]:
    """Return a problem for each key of a later release, and take all of those out of `document`."""
    problems = _refuse_later_keys(document, "", "")
    for section in filter(None, _SECTIONS):
        tables: list[tuple[_Location, dict[str, Any]]] = [((), document)]
        for key in section.split("."):
            tables = [each for place, table in tables for each in _tables(table, key, place)]
        for place, table in tables:
            problems += _refuse_later_keys(table, section, f"{_place(place)}.")
    return problems


def _tables(
    table: dict[str, Any], key: str, place: _Location
) -> Iterator[tuple[_Location, dict[str, Any]]]:
    """Yield what is under `key`, a table or a list of tables, each with its place."""
    value = table.get(key)
    if isinstance(value, dict):
        yield (*place, key), value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, dict):
                yield (*place, key, number), each


def _refuse_later_keys(table: dict[str, Any], section: str, prefix: str) -> list[str]:
    problems = []
    for key, off in _LATER[section].items():
        if key in table:
            value = table.pop(key)
            if off is _ON or value != off or type(value) is not type(off):
                problems.append(f"{prefix}{key}: not available yet")
    for (owner, key), later in _LATER_VALUES.items():
        if owner == section and isinstance(table.get(key), str) and table[key] in later:
            problems.append(f'{prefix}{key}: "{table.pop(key)}" is not available yet')
    return problems


def _place(location: Sequence[str | int]) -> str:
    """Return a location of the file as a person counts: `target[2].address`."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _describe(error: Mapping[str, Any]) -> str:
    location: tuple[str | int, ...] = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f'unknown key, the nearest valid one is "{_nearest(location)}"'
    elif error["type"] == "missing":
        message = "missing"
    elif message[:1].isupper():
        message = message[:1].lower() + message[1:]
    place = _place(location)
    return f"{place}: {message}" if place else message


_SECTIONS: Final[Mapping[str, type[_Table]]] = {
    "": Settings,
    "gateway": Gateway,
    "listen": Listen,
    "limits": Limits,
    "roles": Roles,
    "issuer": Issuer,
    "target": Target,
    "retention": Retention,
    "witness": Witness,
    "anchor": Anchor,
    "webhook": Webhook,
    "rule": Rule,
    "rule.when": When,
    "mask": Mask,
}


def _nearest(location: Sequence[str | int]) -> str:
    """Return the valid key most like the last part of `location`: of its own table if it can be."""
    wrong = str(location[-1])
    section = ".".join(part for part in location[:-1] if isinstance(part, str))
    here = _keys_of(section)
    near = difflib.get_close_matches(wrong, here, n=1, cutoff=0.7)
    if near:
        return near[0]
    # A key in the wrong table is as common a slip as a misspelt one.
    elsewhere = {
        key: f"{name}.{key}"
        for name in _SECTIONS
        if name not in ("", section)
        for key in _keys_of(name)
    }
    near = difflib.get_close_matches(wrong, elsewhere, n=1, cutoff=0.7)
    if near:
        return elsewhere[near[0]]
    return difflib.get_close_matches(wrong, here, n=1, cutoff=0)[0]


def _keys_of(section: str) -> list[str]:
    fields = _SECTIONS[section].model_fields
    return [*(field.alias or name for name, field in fields.items()), *_LATER[section]]


_DEFAULT: Final = """\
# agentaudit: every key is explained in docs/settings.md.
# Relative paths start at this file's folder. Durations: 30s, 50m, 12h, 30d. Sizes: 256MiB.

[gateway]
name = "{name}"                       # [a-z0-9-]; part of every path, so choose it for good
# Unique in the world: witnesses know this log as origin/name.
origin = "{origin}"
workers = 1                        # processes on one port, each with a log and keys of its own
archive = "archive"                # everything that is recorded
keys = "keys"                      # what signs the log; keep a copy of keys/{name}.vkey elsewhere
# strict: on disk before it is forwarded · writes: plain reads go earlier · relaxed: within 50 ms
durability = "strict"
segment_events = 1_000_000         # a segment is sealed at the first of these three
segment_bytes = "256MiB"
segment_age = "24h"
drain_timeout = "30s"              # how long sessions may go on after SIGTERM
# tls_cert_file = "tls/cert.pem"   # without these two only loopback may be listened on
# tls_key_file = "tls/key.pem"

[listen]
postgres = "127.0.0.1:6432"

[limits]
disk_warn = "10GiB"                # less free space than this is logged
disk_stop = "1GiB"                 # less than this stops all traffic
journal_max = "4GiB"               # traffic waits while more than this is not sealed yet
session_bytes = "50GiB"            # a session that moved more is ended
actor_connections = 200            # of one user at a time
preauth_connections = 200          # that have not shown a valid token yet
max_session = "12h"

# Who may say who somebody is: nobody can connect before there is an issuer.
# [[issuer]]
# url = "https://idp.example.com"  # exactly as the token's "iss" has it
# audience = ["agentaudit"]
# groups_claim = "groups"          # dotted path allowed
# user_claim = "sub"
# agent_claim = "azp"              # else client_id
# require = {{}}                     # further claims that must match
# ca_file = ""                     # instead of the system's certificate authorities
# algorithms = ["RS256", "ES256"]

# What clients ask for by dbname: psql "host=… port=6432 dbname=orders user=x password=$TOKEN"
# [[target]]
# name = "orders"
# protocol = "postgres"
# address = "db.internal:5432"
# database = "orders"
# user = "orders_rw"
# password_file = "secrets/orders" # or password_env = "…", or password_command = ["…"]
# tls = "verify-full"              # disable, require, verify-full
# tls_ca_file = "tls/db-ca.pem"
# require_auth = ["scram-sha-256"]
# groups = ["data-agents"]         # who may connect at all; nobody if absent
# default = "allow"                # deny: what no rule matches and is no plain read is denied
# tags = {{ env = "prod" }}          # what rules may ask for
# replication = "refuse"           # pass: base backups and streams of changes are let through
# payload_limit = "1MiB"           # keep the beginning of a longer response, and the hash of all
# retention = "standard"           # a class below; kept for ever if absent

# What agents may do: the first rule that matches decides, and else the target's default.
# [[rule]]
# name = "no schema changes"
# when = {{ target = ["orders"], class = ["schema", "admin", "unknown"] }}
# action = "deny"                  # or allow

# What nobody is to find in the archive: hidden before it is written.
[[mask]]
name = "secrets"
detect = ["secrets"]               # keys, tokens, passwords; also "personal", or by name
action = "redact"                  # partial (last four), pseudonym (needs key_file), drop
apply = ["archive"]                # add "client" to hide it from the agent too

# [[mask]]
# name = "customer identifiers"
# columns = ["*.customers.ssn", "email"]
# action = "pseudonym"             # equal values stay equal
# key_file = "secrets/pseudonyms"  # openssl rand -hex 32 makes one

# How long sessions are kept, counted from their end.
# [[retention]]
# name = "standard"
# keep = "400d"
# payload_keep = "90d"             # results and other bytes go earlier; statements stay
# notice = "7d"                    # a shorter policy that replaces this one waits so long

# Who else says what this log held and when: run by others, or it proves little.
# [[witness]]
# url = "https://witness.example.org/"
# key = "witness.example.org/w1+…" # its verifier key, from its owner

# Time stamps (RFC 3161) over the log's state.
# [[anchor]]
# url = "http://timestamp.example.org/"
# interval = "1h"
# ca_file = "tls/tsa-ca.pem"       # what its time stamps must lead to
"""


def write_default(directory: Path, *, name: str = "gw1", origin: str = "") -> list[Path]:
    """Write a commented `agentaudit.toml` that starts as it is; return the file and its folders.

    Makes `directory` with `archive` (0750), `keys` and `secrets` (0700) inside. Without `origin`
    the host's name is taken. The log's keys are made by whoever owns their format.

    Raises:
        SettingsError: there is such a file already, or `name` or `origin` will not do; nothing is
            written then.
    """
    path = Path(directory) / "agentaudit.toml"
    origin = origin or _host_name()
    try:
        Gateway.model_validate(
            {"name": name, "origin": origin}, context={"root": path.parent.absolute()}
        )
    except ValidationError as error:
        raise SettingsError(
            "\n".join(f"gateway.{_describe(each)}" for each in error.errors(include_input=False)),
            hint="both become part of every signature; docs/settings.md says what they may be",
        ) from None
    text = _DEFAULT.format(name=name, origin=origin)
    folders = [path.parent / "archive", path.parent / "keys", path.parent / "secrets"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        for folder, mode in zip(folders, (0o750, 0o700, 0o700), strict=True):
            folder.mkdir(mode=mode, exist_ok=True)
    except FileExistsError:
        raise SettingsError(
            f"{path}: exists already", hint="choose another folder, or remove the file first"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path.parent}: {error.strerror or 'cannot be written'}") from None
    return [path, *folders]


def _host_name() -> str:
    name = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip(".-")
    return name or "localhost"
