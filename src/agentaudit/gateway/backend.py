"""The gateway's own login at a PostgreSQL server, with the credential that clients never see.

What a server demands is checked against `require_auth` before anything is answered, as libpq
does: a server that was replaced could otherwise ask for the password in clear. SCRAM is done only
when the server has proven itself too; the slow half of it is remembered from then on. The answer to
a client never repeats what a server says about our credential; the server's own words are passed on
only from the moment it has let us in.

Which protocol is spoken here is a matter of its own: 3.2 differs from 3.0 in nothing that passes
through, only in the cancel key, and that is made anew for the client.

Source: postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP, RFC 5802 and 7677.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from agentaudit.errors import TargetError, TargetProtocolError
from agentaudit.gateway import connections
from agentaudit.gateway.connections import Poller
from agentaudit.gateway.serving import TargetAccess
from agentaudit.gateway.wire import ConnectionEnded, Wire, reason
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.scram import ScramClient, ScramError, ScramKeys, derive_keys

_LOGIN_FAILED: Final = frozenset({"28P01", "28000"})

_NOT_SPOKEN: Final = frozenset({"0A000", "08P01"})
"""How servers before 9.3, and some poolers, refuse a protocol that they should negotiate down."""

MAX_SCRAM_KEYS: Final = 4
"""Remembered for one target: a server has one salt for a password, and there may be replicas."""


class _NotSpoken(Exception):
    """The server does not speak the protocol that it was asked for."""


class LoginRefused(TargetError):
    """The server says no; `code` is the SQLSTATE for the client, `seen` the server's own.

    `report` is the server's whole ErrorResponse where it may be passed on as it is.
    """

    def __init__(
        self, message: str, *, code: str, seen: str = "", report: bytes = b"", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.seen = seen
        self.report = report


@dataclass(slots=True)
class Backend:
    """A server that has let us in, up to its first ReadyForQuery.

    `version` is the protocol that it speaks. `greeting` is what it said that the client should see,
    without its key and ReadyForQuery; `rest` is what came behind.
    """

    wire: Wire
    version: int = messages.PROTOCOL_3_0
    pid: int = 0
    secret: bytes = b""
    parameters: dict[str, str] = field(default_factory=dict)
    greeting: bytearray = field(default_factory=bytearray)
    status: bytes = b"I"
    rest: bytes = b""


async def connect(poller: Poller, access: TargetAccess) -> Wire:
    """Return a connection to the target, in TLS where its settings want that.

    Raises:
        LoginRefused: it cannot be reached, or not in TLS.
    """
    target = access.settings
    where = f'target "{target.name}"'
    wire = Wire()
    try:
        await connections.connect(poller, target.address.host, target.address.port, wire)
    except OSError as error:
        # The one code at which libpq goes on to the next host of its list, as it would have if the
        # server itself had not been there.
        raise LoginRefused(f"{where}: {reason(error)}", code="57P03") from None
    if access.tls is None:
        return wire
    try:
        wire.send(messages.ssl_request())
        answer = await wire.more()
        if answer != b"S":
            # More than one byte would be from before the encryption (CVE-2021-23222).
            said = "does not offer TLS" if answer == b"N" else "answers the request for TLS wrongly"
            raise LoginRefused(f"{where}: the server {said}", code="08001")
        await wire.start_tls(access.tls, server_hostname=target.address.host)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or "failed"
        raise LoginRefused(f"{where}: TLS: {why}", code="08001") from None
    except (OSError, ConnectionEnded):
        raise LoginRefused(f"{where}: the server hung up before TLS", code="08001") from None
    finally:
        if not wire.is_encrypted:
            wire.abort()
    return wire


async def log_in(
    poller: Poller,
    access: TargetAccess,
    parameters: Mapping[str, str],
    *,
    version: int = messages.PROTOCOL_3_0,
) -> Backend:
    """Return a session at the target, with the client's own start-up `parameters` beside ours.

    `version` is the newest protocol to ask for; the server may speak an older one.

    Raises:
        LoginRefused: the server cannot be reached, or does not let us in.
        TargetProtocolError: it says what its protocol does not allow.
    """
    wire = await connect(poller, access)
    try:
        return await _Login(access, wire, version).run(parameters)
    except _NotSpoken:
        wire.abort()
    except ConnectionEnded:
        raise LoginRefused(
            f'target "{access.settings.name}": the server hung up during the login', code="08006"
        ) from None
    except BaseException:
        wire.abort()
        raise
    return await log_in(poller, access, parameters)


class _Login:
    def __init__(self, access: TargetAccess, wire: Wire, version: int) -> None:
        self._access = access
        self._target = access.settings
        self._where = f'target "{access.settings.name}"'
        self._wire = wire
        self._asked = version
        self._version = version
        self._reader = messages.MessageReader(error=TargetProtocolError)
        self._is_negotiated = False
        self._is_heard = False
        """The server has begun to ask for a proof, so it speaks our protocol."""
        self._is_in = False

    async def run(self, parameters: Mapping[str, str]) -> Backend:
        own = {"user": self._target.user, "database": self._target.database}
        self._wire.send(messages.startup_message(own | dict(parameters), self._asked))
        await self._authenticate()
        self._is_in = True
        backend = Backend(self._wire, self._version)
        while True:
            kind, body = await self._message()
            if kind == b"Z":
                backend.status = body
                backend.rest = self._reader.rest() + self._wire.rest()
                return backend
            if kind == b"K":
                backend.pid, backend.secret = messages.decode_backend_key_data(body, self._version)
            elif kind in (b"S", b"N"):
                if kind == b"S":
                    name, value = messages.decode_parameter_status(body)
                    backend.parameters[name] = value
                backend.greeting += messages.frame(kind, body)
            else:
                raise TargetProtocolError(f"login: message {kind!r}, expected S, K, N or Z")

    async def _message(self) -> tuple[bytes, bytes]:
        """Return the next message that is no error and no negotiation of the protocol."""
        data = b""
        while True:
            for kind, body in self._reader.feed(data):
                if kind == b"E":
                    self._refused(body)
                if kind == b"v":
                    self._negotiate(body)
                elif kind != b"N" or self._is_in:
                    return kind, body
            data = await self._wire.more()

    def _negotiate(self, body: bytes) -> None:
        """Take in which protocol the server speaks; as libpq, once, and never a newer one."""
        version, unknown = messages.decode_negotiate_protocol_version(body)
        lowest = messages.PROTOCOL_3_0
        if self._is_in or self._is_negotiated or unknown or not lowest <= version < self._asked:
            raise TargetProtocolError(
                f"login: the server negotiates protocol {version >> 16}.{version & 0xFFFF},"
                f" asked for was {self._asked >> 16}.{self._asked & 0xFFFF}"
            )
        self._is_negotiated = True
        self._version = version

    def _refused(self, body: bytes) -> None:
        report = messages.decode_report(body)
        if (
            report.code in _NOT_SPOKEN
            and not self._is_heard
            and self._asked != messages.PROTOCOL_3_0
        ):
            raise _NotSpoken
        if self._is_in:
            raise LoginRefused(
                f"{self._where}: the server ends the login: SQLSTATE {report.code}",
                code=report.code,
                seen=report.code,
                report=messages.frame(b"E", body),
            )
        if report.code in _LOGIN_FAILED:
            raise LoginRefused(
                f"{self._where}: the server refuses the gateway's login",
                code="08004",
                seen=report.code,
                hint="the operator must mend the target's user or password",
            )
        # "Too many connections" or "starting up" help a client to decide when to come again.
        passes = report.code[:2] in ("53", "57")
        raise LoginRefused(
            f"{self._where}: the server refuses connections: SQLSTATE {report.code}",
            code=report.code if passes else "08004",
            seen=report.code,
        )

    async def _authenticate(self) -> None:
        kind, body = await self._message()
        code, rest = self._authentication(kind, body)
        if code == messages.AUTHENTICATION_OK:
            self._require("none")
            return
        if code == messages.AUTHENTICATION_CLEARTEXT:
            self._require("password")
            if not (self._wire.is_encrypted or self._target.address.is_loopback):
                raise LoginRefused(
                    f"{self._where}: the server asks for the password in clear, without TLS",
                    code="08004",
                    hint='the operator must set tls = "verify-full" for this target',
                )
            self._wire.send(messages.password_message(self._password()))
        elif code == messages.AUTHENTICATION_MD5:
            self._require("md5")
            self._wire.send(messages.password_message(self._md5(rest)))
        elif code == messages.AUTHENTICATION_SASL:
            await self._scram(messages.decode_sasl_mechanisms(rest))
        else:
            raise LoginRefused(
                f"{self._where}: the server asks for authentication method {code},"
                " which is not supported",
                code="08004",
            )
        code, _ = self._authentication(*await self._message())
        if code != messages.AUTHENTICATION_OK:
            raise TargetProtocolError(f"login: authentication {code}, expected 0")

    def _authentication(self, kind: bytes, body: bytes) -> tuple[int, bytes]:
        if kind != b"R":
            raise TargetProtocolError(f"login: message {kind!r}, expected R")
        self._is_heard = True
        return messages.decode_authentication(body)

    def _require(self, *methods: str) -> None:
        if not set(methods) & set(self._target.require_auth):
            wanted = ", ".join(self._target.require_auth)
            raise LoginRefused(
                f"{self._where}: the server asks for {methods[0]},"
                f" and require_auth allows {wanted}",
                code="08004",
                hint="the operator must settle what the server may ask for",
            )

    def _password(self) -> str:
        if self._access.password is None:
            raise LoginRefused(
                f"{self._where}: the server asks for a password, and the settings name none",
                code="08004",
                hint="the operator must set password_file for this target",
            )
        return self._access.password

    def _md5(self, salt: bytes) -> str:
        def digest(data: bytes) -> bytes:
            return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()

        inner = digest(self._password().encode() + self._target.user.encode())
        return "md5" + digest(inner + salt).decode()

    async def _scram(self, offered: tuple[str, ...]) -> None:
        allowed = self._target.require_auth
        binding = self._binding()
        mechanisms = [
            name
            for name, methods in (
                ("SCRAM-SHA-256-PLUS", {"scram-sha-256", "scram-sha-256-plus"}),
                ("SCRAM-SHA-256", {"scram-sha-256"}),
            )
            if name in offered
            and methods & set(allowed)
            and (binding is not None or not name.endswith("-PLUS"))
        ]
        if not mechanisms:
            self._require("scram-sha-256")
            raise LoginRefused(
                f"{self._where}: the server offers {', '.join(offered)}, none of which will do",
                code="08004",
            )
        client = ScramClient(mechanisms[0], binding)
        try:
            self._wire.send(messages.sasl_initial_response(mechanisms[0], client.first()))
            salt, count = client.challenge(
                await self._challenge(messages.AUTHENTICATION_SASL_CONTINUE)
            )
            keys = await self._keys(salt, count)
            self._wire.send(messages.sasl_response(client.final(keys)))
            client.verify(await self._challenge(messages.AUTHENTICATION_SASL_FINAL))
        except ScramError as error:
            raise LoginRefused(
                f"{self._where}: the SCRAM exchange with the server failed: {error}", code="08004"
            ) from None
        # Only now: what a server that proved nothing sent must not take the place of what is true.
        remembered = self._access.scram_keys
        remembered.pop((salt, count), None)
        remembered[salt, count] = keys
        while len(remembered) > MAX_SCRAM_KEYS:
            del remembered[next(iter(remembered))]

    async def _keys(self, salt: bytes, count: int) -> ScramKeys:
        keys = self._access.scram_keys.get((salt, count))
        if keys is not None:
            return keys
        # On a thread: how long this takes is the server's choice of iterations.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, derive_keys, self._password(), salt, count)

    async def _challenge(self, expected: int) -> bytes:
        code, data = self._authentication(*await self._message())
        if code != expected:
            raise TargetProtocolError(f"login: authentication {code}, expected {expected}")
        return data

    def _binding(self) -> tuple[str, bytes] | None:
        """Return the channel binding of RFC 5929, section 4.1, where the connection has one."""
        encrypted = self._wire.transport.get_extra_info("ssl_object")
        certificate = encrypted.getpeercert(binary_form=True) if encrypted is not None else None
        if certificate is None:
            return None
        try:
            algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
        except (ValueError, UnsupportedAlgorithm):
            return None
        if algorithm is None:
            return None  # Ed25519 has no hash of its own, and servers offer no binding with it
        name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
        return ("tls-server-end-point", hashlib.new(name, certificate).digest())
