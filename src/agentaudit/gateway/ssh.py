"""The door for SSH clients: from the banner to the first channel.

The user's name says which target, and as whom there (`host-1`, `host-1/ops`); the password, or the
answer to the one question of keyboard-interactive, is a ticket or a token. OpenSSH cuts what is
typed at 1,023 bytes, so a long token cannot come this way, and that is said. Or the client has a
certificate that the gateway's own authority has signed (`ssh_authority`); a public key alone opens
nothing. Once the client is known, the gateway logs in at the host by what only the gateway has, and
holds its host key against those that the settings pin. What is refused after that is told on the
channel, where a person reads it, with exit status 254.

Agent and X11 forwarding, ports of the host's and sockets are refused; connections through the host
are decided about (`ssh_forward`).

Source: RFC 4252, RFC 4254
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NoReturn

import asyncssh
import structlog

from agentaudit.errors import (
    IdentityError,
    IssuerError,
    QuestionError,
    RecordingError,
    SettingsError,
    StateError,
    TargetError,
)
from agentaudit.gateway.admitted import STANDING, TICKET, NotAdmitted
from agentaudit.gateway.operational_log import guarded
from agentaudit.gateway.relay import recording_words
from agentaudit.gateway.serving import HostAccess, read_host_key
from agentaudit.gateway.sessions import Sessions, TooManyConnections, with_actor
from agentaudit.gateway.ssh_authority import Authority, digest, for_host, has_signed, key_id_of
from agentaudit.gateway.ssh_forward import Forward
from agentaudit.gateway.ssh_scripts import Scripts
from agentaudit.gateway.ssh_session import MAX_CHANNELS, REFUSED_STATUS, Channel, Login, SshSession
from agentaudit.gateway.ssh_target import ALGORITHMS, KEEPALIVE_S, TARGET_S, host_key, log_in
from agentaudit.gateway.ssh_transport import prefer_gcm
from agentaudit.gateway.wire import reason
from agentaudit.identity import Bearer
from agentaudit.model import Actor, Event, Flag, Kind, SessionFacts, Side
from agentaudit.protocols.ssh import STDERR, asked_for, said
from agentaudit.protocols.ssh_certificates import (
    Certificate,
    MalformedKey,
    is_certificate,
    parse_certificate,
)
from agentaudit.settings.tables import SshTarget
from agentaudit.settings.values import Address

LOGIN_S: Final = 30.0
"""What a client has to prove who it is in."""

_CUT_AT: Final = 1023
"""Bytes of a password at which OpenSSH cuts it, silently."""
_MAX_ATTEMPTS: Final = 3
_MAX_KEYS: Final = 32
"""Public keys that a client may offer: more than an agent of a person's holds."""
_MAX_NAME: Final = 256
_REFUSED_S: Final = 10.0
"""What somebody who is known and not let in has to open a channel, and to read why."""
_TOLD_S: Final = 1.0

log = structlog.get_logger()


class SshDoor:
    """Lets SSH clients in."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        login_s: float = LOGIN_S,
        target_s: float = TARGET_S,
    ) -> None:
        self.sessions = sessions
        self.login_s = login_s
        self.target_s = target_s
        self.logins: defaultdict[tuple[str, str], Login] = defaultdict(Login)
        self.scripts = Scripts()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._options: asyncssh.SSHServerConnectionOptions

    async def listen(self, address: Address) -> None:
        """Listen at `address`.

        Raises:
            SettingsError: the address, or the gateway's host key, cannot be used.
        """
        settings = self.sessions.serving.settings
        options = self._connection_options(host_key(settings, read_host_key(settings)))
        try:
            self._acceptor = await asyncssh.listen(address.host, address.port, options=options)
        except OSError as error:
            raise SettingsError(f"listen.ssh {address}: {reason(error)}") from None
        log.info("listening", protocol="ssh", address=address.host, port=self.port)

    def join(self, key: bytes) -> None:
        """Get ready to `take` connections, by the host key that all workers have.

        Raises:
            SettingsError: the key cannot be used.
        """
        self._options = self._connection_options(host_key(self.sessions.serving.settings, key))

    def take(self, sock: socket.socket) -> None:
        """Serve a connection that somebody else has accepted, and of which no byte was read."""
        self.sessions.spawn(self._take(sock))

    async def _take(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def made() -> asyncssh.SSHServerConnection:
            return asyncssh.SSHServerConnection(loop, self._options)

        try:
            await loop.connect_accepted_socket(made, sock)
        except OSError:  # it is gone already
            sock.close()
            self.sessions.places.end()

    def _connection_options(self, key: asyncssh.SSHKey) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _Client(self),
            server_host_keys=[key],
            login_timeout=self.login_s,
            keepalive_interval=KEEPALIVE_S,
            agent_forwarding=False,
            x11_forwarding=False,
            line_editor=False,
            encoding=None,
            gss_host=None,
            # By the name clients tell in which order a link's two paths come.
            server_version="agentaudit_OpenSSH",
            **ALGORITHMS,
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._acceptor is not None
        return self._acceptor.get_port()

    def close(self) -> None:
        """Let nobody in any more; those that are in stay."""
        if self._acceptor is not None:
            self._acceptor.close()


class _Refused(Exception):
    """A client that is known is told why on its channel."""


class _Client(asyncssh.SSHServer):
    """One connection, from its first byte to its last."""

    def __init__(self, door: SshDoor) -> None:
        self._door = door
        self._sessions = door.sessions
        self._serving = door.sessions.serving
        self._connection: asyncssh.SSHServerConnection
        self.peer_host = ""
        self._peer = ""
        self._user = ""
        self._secret = ""
        self._bearer: Bearer | None = None
        self._attempts = 0
        self._keys = 0
        self._certificate: Certificate | None = None
        self._access: HostAccess | None = None
        self._admitted = STANDING
        self._opening: asyncio.Task[None] | None = None
        self._session: SshSession | None = None
        self._refusal = ""
        self._waiting = 0
        self._has_place = False
        self._is_lost = False
        self._is_login_over = False

    # --- before anybody is known

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        prefer_gcm(conn)
        # The library would verify a certificate by the machine's clock, take one without
        # principals for all of them, and tell nobody which one it was.
        conn.validate_public_key = self._validate_certificate  # type: ignore[method-assign]
        host, port, *_ = conn.get_extra_info("peername") or ("", 0)
        self.peer_host, self._peer = str(host), str(Address(str(host), port))
        self._sessions.enter(self)

    def abort(self) -> None:
        """Cut the connection: somebody else needs its place."""
        self._connection.abort()

    def close(self) -> None:
        """End the connection: the gateway lets nobody in any more."""
        self._connection.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._sessions.leave(self)
        if self._bearer is None:
            what = "hung up"
            if isinstance(exc, asyncssh.ProtocolError | asyncssh.KeyExchangeFailed):
                what = "not the protocol"
            elif isinstance(exc, asyncssh.ConnectionLost | asyncssh.DisconnectError):
                what = "too slow" if "timeout" in str(exc).lower() else what
            self._sessions.count_attempt(self.peer_host, what)
        if self._opening is not None and self._session is None:
            self._opening.cancel()
        if self._session is not None:
            self._session.lost(Side.CLIENT)
        self._end_login()

    def _end_login(self) -> None:
        """Say that it is over, once: a session counts by itself."""
        if not self._is_login_over:
            self._is_login_over = True
            self._sessions.places.end()

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        return self._serving.ssh_authority is not None and self._sessions.access is not None

    def password_auth_supported(self) -> bool:
        return True

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, list[tuple[str, bool]]]:
        return "", "", lang, [("Ticket: ", False)]

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        return len(responses) == 1 and await self.validate_password(username, responses[0])

    async def validate_password(self, username: str, password: str) -> bool:
        """Return whether `password` is a ticket or a token, and remember whose."""
        self._attempts += 1
        try:
            self._bearer = await self._identify(username, password)
        except _Refused as refused:
            self._connection.send_auth_banner(f"agentaudit: {refused}\n")
            if self._attempts >= _MAX_ATTEMPTS:
                self._connection.disconnect(
                    asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "too many attempts"
                )
            return False
        self._secret = password
        return True

    async def _validate_certificate(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Return whether `key_data` is a certificate that lets its bearer in.

        With `msg`, which it must have signed, it is remembered who that is; without, the client
        only asks whether to sign.
        """
        self._keys += 1
        if self._keys > _MAX_KEYS:
            self._connection.disconnect(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "too many public keys"
            )
            return False
        authority = self._serving.ssh_authority
        if authority is None or not is_certificate(key_data):
            return False
        try:
            certificate = parse_certificate(key_data)
        except MalformedKey:
            return False
        if certificate.authority != authority.blob:
            return False  # OpenSSH offers all that it has, and those of others are not our affair
        try:
            bearer = await self._identify_by(authority, certificate, username)
        except _Refused as refused:
            self._connection.send_auth_banner(f"agentaudit: {refused}\n")
            return False
        if not msg:
            return True
        session_id = self._connection._session_id
        signed = len(session_id).to_bytes(4, "big") + session_id + msg
        if username != self._user or not has_signed(certificate.key, signed, signature):
            self._sessions.count_attempt(self.peer_host, "certificate of somebody else")
            return False
        self._bearer, self._certificate = bearer, certificate
        return True

    async def _identify_by(
        self, authority: Authority, certificate: Certificate, username: str
    ) -> Bearer:
        self._require_open()
        target, _ = asked_for(username)
        access = self._sessions.access
        assert access is not None, "or public keys are not supported"
        now_us = self._sessions.recorder.clock.now_us()
        try:
            authority.verify(certificate, target=target, peer=self.peer_host, now_us=now_us)
            return await access.admission.bearer_of_certificate(
                certificate.serial, digest(certificate), target
            )
        except StateError as error:
            log.warning("the state does not answer", error=str(error), hint=error.hint)
            why, what = "a certificate cannot be looked up now", "state out of reach"
        except IdentityError as error:
            why, what = _said(error), "certificate refused"
        raise self._not_known(why, what)

    def _require_open(self) -> None:
        sessions = self._sessions
        if sessions.recorder.failure is not None:
            raise _Refused(recording_words(sessions.recorder.failure)[1])
        if sessions.is_draining:
            raise _Refused("this gateway is shutting down")

    async def _identify(self, username: str, secret: str) -> Bearer:
        sessions, serving = self._sessions, self._serving
        self._require_open()
        target, _ = asked_for(username)
        try:
            if secret.startswith(TICKET) and sessions.access is not None:
                return await sessions.access.admission.bearer_of(secret, target)
            return await serving.verifier.bearer(secret)
        except StateError as error:
            log.warning("the state does not answer", error=str(error), hint=error.hint)
            why, what = "a ticket cannot be looked up now", "state out of reach"
        except IdentityError as error:
            why, what = _said(error), "token refused"
            if len(secret.encode()) == _CUT_AT:
                why = (
                    "the token was cut at 1023 bytes by the client; use a ticket: agentaudit ticket"
                )
        except IssuerError as error:
            log.warning("issuer does not answer", error=str(error), hint=error.hint)
            why, what = "the token's issuer cannot be asked for its keys now", "issuer out of reach"
        raise self._not_known(why, what)

    def _not_known(self, why: str, what: str) -> _Refused:
        """Count, or record, that somebody could not prove who they are; return what to tell."""
        try:
            self._sessions.refuse_token(self._facts(), why, what)
        except RecordingError as error:
            why = recording_words(error)[1]
        return _Refused(why)

    # --- somebody who is known

    def auth_completed(self) -> None:
        self._sessions.leave(self)
        self._opening = asyncio.get_running_loop().create_task(guarded(self._open()))

    def session_requested(self) -> Awaitable[asyncssh.SSHServerSession[bytes]]:
        self._require_room()
        return self._channel()

    def _require_room(self) -> None:
        """Count a channel that waits for the session.

        Raises:
            asyncssh.ChannelOpenError: too many do.
        """
        if self._waiting >= MAX_CHANNELS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"{MAX_CHANNELS} channels are open"
            )
        self._waiting += 1

    async def _opened(self) -> SshSession | None:
        """Return the session, once it is open; none where it will not be."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._session is not None:
            self._waiting -= 1
        return self._session

    async def _channel(self) -> asyncssh.SSHServerSession[bytes]:
        session = await self._opened()
        if session is None:
            return _RefusedChannel(self._why, lambda: self._end_soon(_TOLD_S, self.close))
        return session.channel(Channel)

    @property
    def _why(self) -> str:
        return self._refusal or "the gateway could not open a session"

    def _end_soon(self, seconds: float, end: Callable[[], None]) -> None:
        """End the connection of somebody who was not let in: it counts as nobody's."""
        asyncio.get_running_loop().call_later(seconds, end)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> tuple[asyncssh.SSHTCPChannel[bytes], Awaitable[Forward]]:
        self._require_room()
        chan: asyncssh.SSHTCPChannel[bytes] = self._connection.create_tcp_channel()
        return chan, self._forward(chan, dest_host, dest_port, orig_host, orig_port)

    async def _forward(
        self, chan: asyncssh.SSHTCPChannel[bytes], host: str, port: int, *originator: str | int
    ) -> Forward:
        session = await self._opened()
        if session is None:
            self._end_soon(_TOLD_S, self.close)
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"agentaudit: {self._why}"
            )
        return await session.channel(Forward).ask(chan, host, port, *originator)

    async def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return await self._refuse_request("tcpip-forward", listen_host, listen_port)

    async def unix_server_requested(self, listen_path: str) -> bool:
        return await self._refuse_request("streamlocal-forward@openssh.com", listen_path)

    async def unix_connection_requested(self, dest_path: str) -> NoReturn:
        await self._refuse_request("direct-streamlocal@openssh.com", dest_path)
        raise asyncssh.ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "agentaudit: no sockets through this gateway"
        )

    async def _refuse_request(self, name: str, *asked: str | int) -> bool:
        """Record a request that is refused whatever rules say; return that it is."""
        if self._waiting >= MAX_CHANNELS:
            return False
        self._waiting += 1
        session = await self._opened()
        if session is not None:
            words = [self._shown(each) if isinstance(each, str) else each for each in asked]
            session.note(-1, Side.CLIENT, said(f"{name} refused", *words))
        return False

    async def _open(self) -> None:
        """Let the client in, log in at the target, and open the session."""
        bearer = self._bearer
        assert bearer is not None
        try:
            try:
                self._sessions.take_place(bearer.actor)
            except TooManyConnections:
                raise self._refuse("you have as many sessions as you may") from None
            self._has_place = True
            access = self._access = self._access_of(bearer.actor)
            await self._admit(bearer, access.settings)
            await self._log_in(bearer.actor, access)
        except _Refused as refused:
            self._refusal = str(refused)
        except RecordingError as error:
            self._refusal = recording_words(error)[1]
        finally:
            if self._session is None:
                self._end_soon(_REFUSED_S, self.abort)
                if self._has_place:
                    self._sessions.give_back(bearer.actor)
                if self._sessions.access is not None and self._admitted is not STANDING:
                    await self._sessions.access.left(self._admitted)

    def _access_of(self, actor: Actor) -> HostAccess:
        name, login = asked_for(self._user)
        access = self._serving.hosts.get(name)
        if access is None:
            raise self._refuse("there is no such target: the user's name is the name of a target")
        settings = access.settings
        if not set(actor.groups) & set(settings.groups):
            raise self._refuse(f'you are in no group that may connect to target "{settings.name}"')
        if login and login != settings.user and login not in settings.logins:
            raise self._refuse(f'target "{settings.name}" has no such login for you')
        return access

    async def _admit(self, bearer: Bearer, target: SshTarget) -> None:
        """Let a token in to a target, as blocks, grants and windows say."""
        access = self._sessions.access
        if access is None and not target.has_windows:
            return
        unknown = "who may come in cannot be looked up now"
        if access is None or access.is_out_of_reach:
            raise self._refuse(unknown)
        self._require_not_blocked(bearer.actor)
        try:
            self._admitted = await access.admission.admit(
                bearer, target, lambda: self._is_lost or self._sessions.is_draining
            )
        except NotAdmitted as no:
            raise self._not_admitted(no) from None
        except QuestionError as error:
            raise self._refuse(_said(error)) from None
        except StateError as error:
            log.warning("the state does not answer", error=str(error), hint=error.hint)
            raise self._refuse(unknown) from None

    def _require_not_blocked(self, actor: Actor) -> None:
        access = self._sessions.access
        if access is None:
            return
        try:
            access.admission.require_not_blocked(actor)
        except NotAdmitted as no:
            raise self._not_admitted(no) from None

    def _not_admitted(self, no: NotAdmitted) -> _Refused:
        return self._refuse("; ".join(filter(None, (no.message, no.detail, no.hint))))

    async def _log_in(self, actor: Actor, access: HostAccess) -> None:
        settings = access.settings
        where = f'target "{settings.name}"'
        lost: list[Exception | None] = []

        def gone(error: Exception | None) -> None:
            lost.append(error)
            if self._session is not None:
                self._session.lost(Side.TARGET)

        login = asked_for(self._user)[1] or settings.user
        at_host = None
        if access.authority is not None:
            now_us = self._sessions.recorder.clock.now_us()
            at_host = for_host(access.authority, login, key_id_of(actor), now_us)
        try:
            target = await log_in(
                access, login, gone, at_host=at_host, timeout_s=self._door.target_s
            )
        except TargetError as error:
            log.warning("no login at target", target=settings.name, reason=str(error))
            raise self._refuse(f"{where}: {error}") from None
        try:
            self._require_not_blocked(actor)  # all that may have taken minutes
            by = "login" if at_host is None else f"login by certificate {at_host.serial}"
            await self._hand_over(actor, access, login, target, by)
        finally:
            if self._session is None:
                target.abort()
            elif lost:
                self._session.lost(Side.TARGET)

    async def _hand_over(
        self,
        actor: Actor,
        access: HostAccess,
        login: str,
        target: asyncssh.SSHClientConnection,
        by: str,
    ) -> None:
        sessions, settings = self._sessions, access.settings
        host, port, *_ = target.get_extra_info("peername") or ("", 0)
        facts = replace(self._facts(), target_addr=str(Address(str(host), port)))
        session = sessions.recorder.open_session(facts, payload_limit=settings.payload_limit)
        try:
            session.record(Event(kind=Kind.NOTICE, side=Side.TARGET, text=by, flags=Flag.SYNTHETIC))
            await sessions.recorded()
        except RecordingError:
            raise
        except BaseException:
            session.close("client_gone")
            raise
        if self._is_lost:
            session.close("client_gone")
            return
        opened = self._session = SshSession(
            settings=settings,
            login=self._door.logins[settings.name, asked_for(self._user)[1] or settings.user],
            client=self._connection,
            target=target,
            recorder=sessions.recorder,
            session=session,
            durability=sessions.durability,
            session_bytes=self._serving.settings.limits.session_bytes,
            policy=self._serving.policy.for_session(
                target=settings.name,
                protocol="ssh",
                groups=actor.groups,
                scope=self._admitted.scope,
            ),
            masks=self._serving.masks[settings.name],
            asks=sessions.asks(actor, facts),
            scripts=self._door.scripts.of(
                (settings.name, login, actor.issuer, actor.subject),
                session.session_id,
                self._serving.masks[settings.name],
            ),
            spawn=sessions.spawn,
            ended=self._ended(actor),
            gone=sessions.forget,
        )
        sessions.add(opened, self._admitted.ends_us)
        self._end_login()
        if sessions.access is not None:
            sessions.access.opened(actor, facts, opened)
        log.info(
            "session opened",
            session=str(session.session_id),
            user=actor.user,
            target=settings.name,
            address=self._peer,
        )
        if sessions.is_draining:
            opened.drain("this gateway is shutting down", "connect again")

    def _ended(self, actor: Actor) -> Callable[[SshSession, str], None]:
        def ended(session: SshSession, why: str) -> None:
            sessions = self._sessions
            sessions.give_back(actor)
            sessions.remove(session)
            if sessions.access is not None:
                sessions.access.closed(session.session.session_id, self._admitted)
            log.info("session closed", session=str(session.session.session_id), reason=why)

        return ended

    # --- words

    def _refuse(self, message: str) -> _Refused:
        """Record that somebody known was refused; return what to tell them."""
        session_id = self._sessions.refuse(self._facts(), message)
        return _Refused(f"{message} (session {session_id})")

    def _facts(self) -> SessionFacts:
        actor = self._bearer.actor if self._bearer is not None else None
        target = self._access.settings if self._access is not None else None
        name, login = asked_for(self._user)
        version = self._connection.get_extra_info("client_version") or b""
        client = version.decode("utf-8", "replace") if isinstance(version, bytes) else str(version)
        port = self._connection.get_extra_info("sockname")
        labels = {"login": self._shown(login)} if login else {}
        if self._certificate is not None:
            labels["certificate"] = str(self._certificate.serial)
        facts = SessionFacts(
            protocol="ssh",
            target=self._shown(name),
            labels=labels,
            client_addr=self._peer,
            client_app=self._shown(client),
            gateway_port=port[1] if port else 0,
            target_addr=str(target.address) if target is not None else "",
            window_id=self._admitted.window_id,
            policy_digest=self._serving.policy_digest,
            mask_digest=self._serving.mask_digest,
        )
        return with_actor(facts, actor)

    def _shown(self, value: str) -> str:
        """Return what a client said, cut, without a ticket or a token that is in the wrong place,
        and without what the masks hide."""
        if self._secret and self._secret in value:
            return "(the token)"
        if TICKET in value or value.startswith("eyJ"):
            return "(a token)"
        return self._serving.said.mask_text(value)[:_MAX_NAME]


class _RefusedChannel(asyncssh.SSHServerSession[bytes]):
    """A channel of somebody who was not let in: it says why, and ends."""

    def __init__(self, why: str, told: Callable[[], None]) -> None:
        self._why = why
        self._told = told
        self._client: asyncssh.SSHServerChannel[bytes]

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._client = chan

    def pty_requested(self, *_: Any) -> bool:
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def session_started(self) -> None:
        with suppress(OSError):
            self._client.write(f"agentaudit: {self._why}\r\n".encode(), STDERR)
            self._client.exit(REFUSED_STATUS)
        self._told()


def _said(error: IdentityError | QuestionError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
