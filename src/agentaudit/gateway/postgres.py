"""The door for PostgreSQL clients: from the first byte to the first ReadyForQuery, and cancelling.

The client proves who it is by a token in the password message, which is why it is asked for a
password in clear: inside TLS, or on loopback. (By OAUTHBEARER where the settings want that: a
server announces one method, so then a client has to say beforehand if it has a password.) It then
gets the server's own greeting, except for the cancel key: its secret is ours, so that a cancel
request passes through here and reaches the one backend that it is for. The process id stays the
server's, because clients show it and compare it with the one in notifications.

The protocol is negotiated on each side alone: 3.2 differs from 3.0 in the cancel key, and no more.

Source: postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agentaudit.errors import (
    ClientProtocolError,
    IdentityError,
    IssuerError,
    QuestionError,
    RecordingError,
    StateError,
    TargetProtocolError,
)
from agentaudit.gateway import backend
from agentaudit.gateway.admitted import STANDING, TICKET, Admitted, NotAdmitted
from agentaudit.gateway.backend import Backend, LoginRefused
from agentaudit.gateway.cancelling import CancelKeys, CancelRoute
from agentaudit.gateway.postgres_inspect import MAX_AT_ONCE, Inspector
from agentaudit.gateway.postgres_judge import SQLSTATE, Judge
from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.gateway.postgres_tables import Tables, of_target
from agentaudit.gateway.relay import Relay, recording_words
from agentaudit.gateway.serving import POSTGRES_ALPN, Serving, TargetAccess
from agentaudit.gateway.sessions import Sessions, TooManyConnections, with_actor
from agentaudit.gateway.wire import ConnectionEnded, Wire
from agentaudit.identity import Bearer, configuration_url
from agentaudit.masking.masks import Masks
from agentaudit.model import Actor, Event, Flag, Kind, SessionFacts, Side
from agentaudit.protocols import oauthbearer, postgres_startup
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_messages import CancelRequest, StartupMessage
from agentaudit.risk import sql
from agentaudit.settings.tables import Target
from agentaudit.settings.values import is_loopback

_INVALID_PASSWORD: Final = "28P01"  # noqa: S105  an SQLSTATE
_NOT_ALLOWED: Final = "28000"
_MAX_LABEL: Final = 256
_LOGIN: Final = "agentaudit.login"
"""The start-up parameter, or the setting in `options`, by which a client names its login."""
_LOGINS: Final = frozenset({"", "password", "oauth"})
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*")
"""What looks like a token: `eyJ` is how the base64url of a JSON object with a text key begins."""
_CUTS_SHORT: Final = frozenset(
    ["revoked", "window_end", "ended", "max_session", "session_bytes", "rows_over"]
)
"""Ends of sessions that do not wait for what they run, which must not go on by itself."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for what a client, and a target, must have done before a session is open."""

    client_s: float = 30.0
    target_s: float = 20.0


class _Refused(Exception):
    """The client is told why, and hears no more. `what` is the word that it is counted under."""

    def __init__(
        self, code: str, message: str, *, what: str = "", detail: str = "", hint: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.what = what
        self.detail = detail
        self.hint = hint


class Door:
    """Lets PostgreSQL clients in. `serve` is one connection's whole login."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        deadlines: Deadlines | None = None,
        keys: CancelKeys | None = None,
    ) -> None:
        self._sessions = sessions
        self._deadlines = deadlines or Deadlines()
        self._keys = CancelKeys() if keys is None else keys
        self._inspecting: dict[str, asyncio.Semaphore] = {}
        self._tables: dict[str, tuple[Masks, Tables | None]] = {}

    async def serve(self, wire: Wire) -> None:
        """See `wire` through its login; it is a session, refused or gone when this returns."""
        self._sessions.enter(wire)
        connection = _Connection(wire, self._sessions.serving)
        try:
            await self._serve(connection)
        except _Refused as refused:
            self._count(connection, refused.what)
            self._tell(connection, refused)
        except RecordingError as error:
            reason, message, hint = recording_words(error)
            self._tell(connection, _Refused(SQLSTATE[reason], message, hint=hint))
        except ClientProtocolError as error:
            self._count(connection, "not the protocol")
            # Whoever began no start-up packet may be no client of ours: words would confuse it.
            if connection.is_postgres or wire.is_encrypted:
                self._tell(connection, _Refused("08P01", str(error), hint=error.hint))
        except TimeoutError:  # before OSError, which it is one of
            self._count(connection, "too slow")
            if connection.is_postgres:
                self._tell(connection, _Refused("57014", "the login took too long"))
        except (ConnectionEnded, ssl.SSLError, OSError) as error:
            is_tls = isinstance(error, ssl.SSLError)
            self._count(connection, "TLS failed" if is_tls else "hung up")
        finally:
            self._sessions.leave(wire)
            if not connection.is_open:
                wire.close()

    def _count(self, connection: _Connection, what: str) -> None:
        if what and connection.actor is None:
            self._sessions.count_attempt(connection.wire.peer_host, what)

    def _tell(self, connection: _Connection, refused: _Refused) -> None:
        connection.wire.send(
            messages.error_response(
                code=refused.code,
                message=f"agentaudit: {refused.message}",
                detail=refused.detail,
                hint=refused.hint,
            )
        )

    async def _serve(self, connection: _Connection) -> None:
        async with asyncio.timeout(self._deadlines.client_s):
            packet = await connection.begin()
            if isinstance(packet, StartupMessage):
                self._refuse_impossible(connection)
                connection.negotiate(packet)
                token = await connection.ask_for_token()
                try:
                    bearer = await self._identify(connection, token)
                except _Refused:
                    await connection.say_where_tokens_are()
                    raise
        if isinstance(packet, CancelRequest):
            await self._cancel(connection, packet)
            return
        actor = connection.actor = bearer.actor
        self._sessions.leave(connection.wire)
        try:
            self._sessions.take_place(actor)
        except TooManyConnections:
            raise self._refusal(
                connection, "53300", "you have as many sessions as you may"
            ) from None
        try:
            await self._open(connection, bearer)
        finally:
            if not connection.is_open:
                self._sessions.give_back(actor)

    def _refuse_impossible(self, connection: _Connection) -> None:
        failure = self._sessions.recorder.failure
        if failure is not None:
            raise failure
        if self._sessions.is_draining:
            raise _Refused("57P03", "this gateway is shutting down", what="shutting down")
        if not connection.wire.is_encrypted and not is_loopback(connection.wire.peer_host):
            raise _Refused(
                _NOT_ALLOWED,
                "TLS is needed: a token must not cross the network in clear",
                what="without TLS",
                hint="connect with sslmode=verify-full",
            )
        if connection.replication is None:
            raise _Refused(
                "22023",
                'the start-up parameter "replication" is neither a truth value nor "database"',
                what="replication",
            )
        targets = connection.serving.targets.values()
        if connection.replication and all(t.settings.replication == "refuse" for t in targets):
            raise _Refused("0A000", "replication is not let through", what="replication")
        if connection.login not in _LOGINS or (
            connection.login == "oauth" and not connection.serving.settings.listen.postgres_oauth
        ):
            raise _Refused(
                "22023",
                f'"{_LOGIN}" asks for a login that is not offered here',
                what="another login",
                hint="the one that is always there is password",
            )

    async def _identify(self, connection: _Connection, token: str) -> Bearer:
        if not token:
            is_password = not connection.wants_bearer
            raise _Refused(
                _INVALID_PASSWORD,
                "the password is empty" if is_password else "there is no token yet",
                what="no password" if is_password else "asked for the issuer",
                hint="the password is an access token of your identity provider"
                if is_password
                else "",
            )
        try:
            if token.startswith(TICKET) and self._sessions.access is not None:
                return await self._sessions.access.admission.bearer_of(
                    token, connection.target_name
                )
            return await connection.serving.verifier.bearer(token)
        except StateError as error:
            log.warning("the state does not answer", error=str(error), hint=error.hint)
            refused = _Refused("57P03", "a ticket cannot be looked up now")
            what = "state out of reach"
        except IdentityError as error:
            refused = _Refused(_INVALID_PASSWORD, str(error), hint=error.hint)
            what = "token refused"
        except IssuerError as error:
            log.warning("issuer does not answer", error=str(error), hint=error.hint)
            refused = _Refused("57P03", "the token's issuer cannot be asked for its keys now")
            what = "issuer out of reach"
        facts = connection.facts()
        session_id = self._sessions.refuse_token(facts, refused.message, what)
        refused.detail = f"session {session_id}" if session_id is not None else ""
        raise refused from None

    def _refusal(
        self, connection: _Connection, code: str, message: str, hint: str = "", detail: str = ""
    ) -> _Refused:
        """Record that somebody known was refused; return what to tell them."""
        told = f"{message} ({detail})" if detail else message
        session_id = self._sessions.refuse(connection.facts(), told)
        detail = f"session {session_id}" + (f", {detail}" if detail else "")
        return _Refused(code, message, detail=detail, hint=hint)

    # --- a session

    async def _open(self, connection: _Connection, bearer: Bearer) -> None:
        access = self._target_of(connection, bearer.actor)
        connection.access = access
        connection.admitted = await self._admit(connection, bearer, access.settings)
        try:
            await self._log_in(connection, bearer.actor, access)
        finally:
            if not connection.is_open and self._sessions.access is not None:
                await self._sessions.access.left(connection.admitted)

    async def _admit(self, connection: _Connection, bearer: Bearer, target: Target) -> Admitted:
        """Let a token in to a target, as blocks, grants and windows say."""
        access = self._sessions.access
        if access is None and not target.has_windows:
            return STANDING
        if access is None or access.is_out_of_reach:
            raise self._refusal(connection, "57P03", "who may come in cannot be looked up now")
        try:
            access.admission.require_not_blocked(bearer.actor)
            return await access.admission.admit(
                bearer,
                target,
                lambda: connection.wire.is_ended or self._sessions.is_draining,
            )
        except NotAdmitted as no:
            raise self._refusal(connection, _NOT_ALLOWED, no.message, no.hint, no.detail) from None
        except QuestionError as error:
            raise self._refusal(connection, _NOT_ALLOWED, str(error), error.hint) from None
        except StateError as error:
            log.warning("the state does not answer", error=str(error), hint=error.hint)
            raise self._refusal(
                connection, "57P03", "who may come in cannot be looked up now"
            ) from None

    async def _log_in(self, connection: _Connection, actor: Actor, access: TargetAccess) -> None:
        misplaced = connection.misplaced_token()
        if misplaced:
            raise self._refusal(
                connection,
                "22023",
                f'the start-up parameter "{misplaced}" holds the token',
                "the token is the password, and nothing else of it goes to the target",
            )
        try:
            async with asyncio.timeout(self._deadlines.target_s):
                server = await backend.log_in(
                    self._sessions.poller,
                    access,
                    connection.parameters_for_target(),
                    # Not more than the client itself asks for: its path is known to pass that.
                    version=(
                        messages.PROTOCOL_3_2
                        if connection.version >= messages.PROTOCOL_3_2
                        else messages.PROTOCOL_3_0
                    ),
                )
        except LoginRefused as error:
            log.warning("target refused login", target=access.settings.name, sqlstate=error.seen)
            refused = self._refusal(connection, error.code, str(error), error.hint)
            if not error.report:
                raise refused from None
            connection.wire.send(error.report)  # the server's own FATAL, after it let us in
            return
        except TargetProtocolError as error:
            log.warning("target breaks the protocol", target=access.settings.name)
            raise self._refusal(connection, "08006", f"the target: {error}") from None
        except TimeoutError:
            log.warning("target does not answer", target=access.settings.name)
            raise self._refusal(
                connection, "57P03", f'target "{access.settings.name}": no answer in time'
            ) from None
        try:
            await self._hand_over(connection, actor, access, server)
        finally:
            if not connection.is_open:
                server.wire.abort()

    def _target_of(self, connection: _Connection, actor: Actor) -> TargetAccess:
        access = connection.serving.targets.get(connection.target_name)
        if access is None:
            raise self._refusal(
                connection,
                "3D000",
                "there is no such target",
                "the name of the database is the name of a target; ask the gateway's operator"
                if connection.replication != "physical"
                else "replication names no database, so its user is the name of a target",
            )
        if not set(actor.groups) & set(access.settings.groups):
            raise self._refusal(
                connection,
                _NOT_ALLOWED,
                f'you are in no group that may connect to target "{access.settings.name}"',
                "the groups are the ones in the token",
            )
        if connection.replication and access.settings.replication != "pass":
            raise self._refusal(
                connection,
                "0A000",
                f'replication is not let through to target "{access.settings.name}"',
                'the operator may set replication = "pass" for it',
            )
        return access

    async def _hand_over(
        self, connection: _Connection, actor: Actor, access: TargetAccess, server: Backend
    ) -> None:
        tables = self._tables_of(connection.serving, access)
        if tables is not None:
            await tables.ready()
        session = self._sessions.recorder.open_session(
            replace(
                connection.facts(),
                target_addr=server.wire.peer,
                target_pid=server.pid or None,
            ),
            payload_limit=access.settings.payload_limit,
        )
        route = CancelRoute(access, server.pid, server.secret, session)
        secret = self._keys.add(route, connection.version) if server.secret else b""
        try:
            await self._greet(connection, actor, route, secret, server, tables)
        finally:
            if not connection.is_open:
                self._keys.remove(route.pid, secret)

    async def _greet(
        self,
        connection: _Connection,
        actor: Actor,
        route: CancelRoute,
        secret: bytes,
        server: Backend,
        tables: Tables | None,
    ) -> None:
        sessions, wire = self._sessions, connection.wire
        access, session = route.access, route.session
        greeting = b"".join(
            (
                messages.authentication_ok(),
                server.greeting,
                messages.backend_key_data(server.pid, secret) if secret else b"",
                messages.ready_for_query(server.status),
            )
        )
        try:
            session.record(
                Event(
                    kind=Kind.NOTICE,
                    side=Side.TARGET,
                    text="login",
                    orig_len=wire.sent + len(greeting),
                    flags=Flag.SYNTHETIC,
                )
            )
            await sessions.recorded()
        except RecordingError:
            raise
        except BaseException:
            session.close("client_gone")
            raise
        if wire.is_ended or server.wire.is_ended:
            session.close("client_gone" if wire.is_ended else "target")
            if not wire.is_ended:
                raise _Refused("08006", f'target "{access.settings.name}": the server hung up')
            return
        conversation = Conversation(split=sql.split, parameters=server.parameters)
        masker = PostgresMasks(
            connection.serving.masks[access.settings.name],
            conversation,
            tables,
            names_path="search_path" in repr(connection.parameters_for_target()),
        )
        relay = Relay(
            conversation=conversation,
            masker=masker,
            judge=Judge(
                conversation,
                session,
                masker,
                connection.serving.policy.for_session(
                    target=access.settings.name,
                    protocol="postgres",
                    groups=actor.groups,
                    scope=connection.admitted.scope,
                ),
                is_walsender=bool(connection.replication),
                inspector=self._inspector(access, connection.parameters_for_target()),
            ),
            recorder=sessions.recorder,
            session=session,
            durability=sessions.durability,
            session_bytes=connection.serving.settings.limits.session_bytes,
            client=wire.transport,
            target=server.wire.transport,
            asks=sessions.asks(actor, connection.facts()),
            ended=self._ended(actor, route, secret, connection.admitted),
            gone=sessions.forget,
        )
        connection.is_open = True
        route.cancel_paused = relay.cancel_paused
        wire.send(greeting)
        sessions.add(relay, connection.admitted.ends_us)
        if sessions.access is not None:
            sessions.access.opened(actor, connection.facts(), relay)
        log.info(
            "session opened",
            session=str(session.session_id),
            user=actor.user,
            target=access.settings.name,
            address=wire.peer,
        )
        relay.start(connection.rest + wire.rest(), server.rest + server.wire.rest())
        if sessions.is_draining:
            relay.drain("this gateway is shutting down", "connect again")

    def _tables_of(self, serving: Serving, access: TargetAccess) -> Tables | None:
        masks = serving.masks[access.settings.name]
        if (
            access.settings.name not in self._tables
            or self._tables[access.settings.name][0] is not masks
        ):
            made = of_target(self._sessions.poller, access, masks, self._sessions.spawn)
            self._tables[access.settings.name] = masks, made
        return self._tables[access.settings.name][1]

    def _inspector(self, access: TargetAccess, startup: dict[str, str]) -> Inspector | None:
        if access.inspector is None:
            return None
        turns = self._inspecting.setdefault(access.settings.name, asyncio.Semaphore(MAX_AT_ONCE))
        return Inspector(
            self._sessions.poller,
            access.inspector,
            access.settings.user,
            startup,
            turns,
            self._sessions.spawn,
        )

    def _ended(
        self, actor: Actor, route: CancelRoute, secret: bytes, admitted: Admitted
    ) -> Callable[[Relay, str], None]:
        def ended(relay: Relay, reason: str) -> None:
            self._keys.remove(route.pid, secret)
            if reason in _CUTS_SHORT and relay.was_busy:
                # A server that executes does not notice that its client is gone.
                self._sessions.spawn(self._cancel_backend(route))
            self._sessions.give_back(actor)
            self._sessions.remove(relay)
            if self._sessions.access is not None:
                self._sessions.access.closed(relay.session.session_id, admitted)
            log.info("session closed", session=str(relay.session.session_id), reason=reason)

        return ended

    # --- cancelling

    async def _cancel(self, connection: _Connection, request: CancelRequest) -> None:
        """Pass a cancel request on; the client's connection ends when the server has taken it."""
        pid, secret, peer = request.pid, request.secret, connection.wire.peer
        route = self._keys.find(pid, secret)
        if route is not None:
            self._sessions.leave(connection.wire)
            await self._cancel_on(route, peer)
        elif not await self._keys.pass_on(pid, secret, peer):
            self._count(connection, "unknown cancel key")

    async def cancel(self, pid: int, secret: bytes, peer: str) -> bool:
        """Carry out a request of `peer` that another worker got; say whether the key is known.

        Raises:
            RecordingError: recording has failed.
        """
        route = self._keys.find(pid, secret)
        if route is not None:
            await self._cancel_on(route, peer)
        return route is not None

    async def _cancel_on(self, route: CancelRoute, peer: str) -> None:
        route.session.record(
            Event(
                kind=Kind.NOTICE,
                side=Side.CLIENT,
                text=f"cancel request from {peer}",
                flags=Flag.SYNTHETIC,
            )
        )
        await self._sessions.recorded()
        if not route.cancel_paused():  # or what was to be cancelled has not reached the server
            await self._cancel_backend(route)

    async def _cancel_backend(self, route: CancelRoute) -> None:
        """Ask the server to cancel what a session runs; return when it has taken that."""
        try:
            async with asyncio.timeout(self._deadlines.target_s):
                wire = await backend.connect(self._sessions.poller, route.access)
                try:
                    wire.send(messages.cancel_request(route.pid, route.secret))
                    while True:
                        await wire.more()
                finally:
                    wire.abort()
        except ConnectionEnded:
            pass  # so the server says that it has taken the request
        except (LoginRefused, TimeoutError):
            log.warning("target takes no cancel request", target=route.access.settings.name)


class _Connection:
    """What is known of one client while it logs in."""

    def __init__(self, wire: Wire, serving: Serving) -> None:
        self.wire = wire
        self.serving = serving
        self.startup: StartupMessage | None = None
        self.version = messages.PROTOCOL_3_0
        """The protocol that is spoken with this client."""
        self.actor: Actor | None = None
        self.access: TargetAccess | None = None
        self.admitted = STANDING
        self.rest = b""
        self.is_postgres = False
        """It has begun a start-up packet of protocol 3, so it understands an ErrorResponse."""
        self.is_open = False
        self._token = ""

    async def begin(self) -> StartupMessage | CancelRequest:
        """Negotiate encryption and return the packet that says what the client wants.

        Raises:
            ClientProtocolError: it is none, or bytes came where an encryption has to begin.
        """
        data = b""
        asked: set[type] = set()
        while True:
            self.is_postgres = messages.begins_startup(data)
            packet = messages.parse_startup(data)
            if packet is None:
                data += await self.wire.more()
                continue
            if isinstance(packet, StartupMessage):
                self.startup = packet
                self.rest = data[packet.size :]
                return packet
            if isinstance(packet, CancelRequest):
                return packet
            if type(packet) in asked or self.wire.is_encrypted:
                raise ClientProtocolError("start-up: encryption is asked for twice")
            asked.add(type(packet))
            if isinstance(packet, messages.DirectTLS):
                if self.serving.tls is None or len(asked) > 1:
                    raise ClientProtocolError("start-up: TLS where none was agreed on")
                await self.wire.start_tls(self.serving.tls, first_bytes=data)
                encrypted = self.wire.transport.get_extra_info("ssl_object")
                if encrypted.selected_alpn_protocol() != POSTGRES_ALPN:
                    raise ClientProtocolError(f"start-up: direct TLS without ALPN {POSTGRES_ALPN}")
            elif len(data) > packet.size:
                # Sent in clear before the encryption, by whom nobody can say (CVE-2021-23214).
                raise ClientProtocolError("start-up: bytes behind a request for encryption")
            elif isinstance(packet, messages.SSLRequest) and self.serving.tls is not None:
                self.wire.send(b"S")
                await self.wire.start_tls(self.serving.tls)
            else:
                self.wire.send(b"N")
            data = b""

    async def ask_for_token(self) -> str:
        """Ask for a token and return what the client sends, which may be empty."""
        if self.wants_bearer:
            self.wire.send(messages.authentication_sasl([oauthbearer.MECHANISM]))
            name, first = messages.decode_sasl_initial_response(await self._answer())
            if name != oauthbearer.MECHANISM:
                raise ClientProtocolError(
                    f"SASLInitialResponse: another mechanism than {oauthbearer.MECHANISM}"
                )
            if first is None:
                self.wire.send(messages.authentication_sasl_continue(b""))
                first = await self._answer()
            self._token = oauthbearer.decode_client_first(first)
        else:
            self.wire.send(messages.authentication_cleartext())
            self._token = messages.decode_password(await self._answer()).decode("utf-8", "replace")
        return self._token

    async def say_where_tokens_are(self) -> None:
        """Tell a client that speaks OAUTHBEARER what it needs to get a token that will do."""
        if not self.wants_bearer:
            return
        issuer = self.serving.settings.issuer[0]
        self.wire.send(
            messages.authentication_sasl_continue(
                oauthbearer.challenge(configuration_url(issuer), issuer.oauth_scope)
            )
        )
        if await self._answer() != oauthbearer.DISMISSAL:
            raise ClientProtocolError(f"{oauthbearer.MECHANISM}: expected the end of the exchange")

    async def _answer(self) -> bytes:
        """Return what the client answers to a demand for a proof."""
        reader = messages.MessageReader(error=ClientProtocolError)
        data, self.rest = self.rest, b""
        while True:
            for kind, body in reader.feed(data):
                if kind == b"X":
                    raise ConnectionEnded("the client left")
                if kind != b"p":
                    raise ClientProtocolError(f"login: message {kind!r}, expected p")
                self.rest = reader.rest()
                return body
            data = await self.wire.more()

    def negotiate(self, startup: StartupMessage) -> None:
        """Settle which protocol is spoken, and say so where it is not what was asked for."""
        self.startup = startup
        self.version = min(startup.version, messages.PROTOCOL_3_2)
        options = [name for name in startup.parameters if name.startswith("_pq_.")]
        if startup.version > self.version or options:
            self.wire.send(messages.negotiate_protocol_version(self.version, options))

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.startup.parameters) if self.startup is not None else {}

    @property
    def target_name(self) -> str:
        """What the client asks for: its database, which by default is its user's name.

        Physical replication is of no database, and its tools say "replication" in its place: there
        the user names the target.
        """
        parameters = self.parameters
        database = parameters.get("database", "")
        if self.replication == "physical" and database == "replication":
            database = ""
        return database or parameters.get("user", "")

    @property
    def replication(self) -> str | None:
        """`physical`, `logical`, empty for an ordinary session, None for what is neither."""
        return postgres_startup.replication(self.parameters)

    @property
    def login(self) -> str:
        """How the client says that it wants to log in; empty where it leaves that to us."""
        parameters = self.parameters
        if _LOGIN in parameters:
            return parameters[_LOGIN]
        return postgres_startup.settings_in(parameters.get("options", "")).get(_LOGIN, "")

    @property
    def wants_bearer(self) -> bool:
        """Whether the token is asked for by OAUTHBEARER, and not as a password."""
        return self.serving.settings.listen.postgres_oauth and self.login != "password"

    def misplaced_token(self) -> str:
        """Return which start-up parameter holds the token and must not reach the target with it."""
        for name, value in self._parameters_to_pass().items():
            if self._holds_token(name):
                return "(the token)"
            if name != "application_name" and self._holds_token(value):
                return self._without_token(name)
        return ""

    def parameters_for_target(self) -> dict[str, str]:
        """Return the start-up parameters that are the client's to choose.

        A name that others see is no place for a token, and changes nothing where it is masked.
        """
        passed = self._parameters_to_pass()
        if "application_name" in passed:
            passed["application_name"] = self._masked(passed["application_name"])
        return passed

    def _parameters_to_pass(self) -> dict[str, str]:
        kept = ("user", "database", _LOGIN)
        return {
            name: value
            for name, value in self.parameters.items()
            if name not in kept and not name.startswith("_pq_.")
        }

    def facts(self) -> SessionFacts:
        """Return what is known so far; what the client says of itself goes to `labels`."""
        actor = self.actor
        target = self.access.settings if self.access is not None else None
        said = {
            self._without_token(name): self._without_token(value)
            for name, value in self.parameters.items()
        }
        # The gateway answers it with the target's database; as a label it would only repeat.
        said.pop("database", None)
        port = self.wire.transport.get_extra_info("sockname")
        facts = SessionFacts(
            protocol="postgres",
            target=self._without_token(self.target_name),
            labels=said,
            client_addr=self.wire.peer,
            client_app=said.get("application_name", ""),
            gateway_port=port[1] if port else 0,
            target_addr=str(target.address) if target is not None else "",
            window_id=self.admitted.window_id,
            policy_digest=self.serving.policy_digest,
            mask_digest=self.serving.mask_digest,
        )
        return with_actor(facts, actor)

    def _without_token(self, value: str) -> str:
        """Return `value`, cut, without any token that somebody put where it does not belong, and
        without what the masks hide."""
        shown = self._masked(value)
        # In `options` a space has a backslash before it.
        plain = shown.replace("\\", "")
        masked = self.serving.said.mask_text(plain)
        return (masked if masked != plain else self.serving.said.mask_text(shown))[:_MAX_LABEL]

    def _masked(self, value: str) -> str:
        if self._holds_token(value):
            return "(the token)"
        return _JWT.sub("(a token)", value)

    def _holds_token(self, value: str) -> bool:
        token = self._token
        return bool(token) and (token in value or (len(value) > 32 and value in token))
