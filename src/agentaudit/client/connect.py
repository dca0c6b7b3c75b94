"""A local listener in front of a gateway, for tools that have one fixed connection string.

A client speaks to it as to a server. It gives the gateway a credential in the client's place, and
from then on copies bytes: what is said is between the two, and neither looked at nor kept.

Whoever reaches the listener has its user's access. So it is on loopback or a Unix socket alone,
and asks who comes: by a password of its own on loopback, which every user of a machine reaches,
and by the kernel's word on a socket.

The gateway is spoken to in TLS from the first byte (`sslnegotiation=direct`), so that there is no
answer in clear that could talk us out of it. Without TLS it must be on loopback.

Source: postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
import signal
import socket
import ssl
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentaudit.client.credentials import Credential, Credentials
from agentaudit.errors import (
    AgentauditError,
    ClientProtocolError,
    ControlError,
    IssuerError,
    QuestionError,
    RefusedError,
    SettingsError,
    TargetProtocolError,
)
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres_messages import CancelRequest, StartupMessage
from agentaudit.settings.values import Address, parse_address

MAX_CONNECTIONS: Final = 100
"""Sessions at a time: half of what a gateway lets one user have by default."""

MAX_LOGINS: Final = 50
"""Connections that are no session yet; a cancel request is one too."""

LEAST_PASSWORD: Final = 16
"""Characters of a password for the listener: other users of a machine may guess all day."""

SOCKET_PORT: Final = 5432
"""In the name of a socket for which only a folder is given: a client's default."""

_SOCKET: Final = re.compile(r"\.s\.PGSQL\.(\d{1,5})")
"""How clients that use libpq, and most others, look for a socket in a folder."""

_MAX_SOCKET_PATH: Final = 107
_PEER: Final = struct.Struct("3i")
_ALPN: Final = "postgresql"
_READ_BYTES: Final = 1 << 18
_LOGIN: Final = "agentaudit.login"
"""The start-up parameter that tells a gateway which offers OAUTHBEARER to ask for a password."""

_INVALID_PASSWORD: Final = "28P01"  # noqa: S105  an SQLSTATE
_NOT_ALLOWED: Final = "28000"
_CONNECTION_FAILED: Final = "08006"
_NOT_NOW: Final = "57P03"
_PROTOCOL: Final = "08P01"

Say = Callable[[dict[str, Any]], None]
"""Takes a line of the operational log."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for a client's login, for a gateway to be there, and for last bytes to be taken."""

    client_s: float = 30.0
    gateway_s: float = 20.0
    linger_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the gateway is; without `tls` in clear, which is for loopback."""

    address: Address
    tls: ssl.SSLContext | None


def gateway_at(address: Address, ca_file: Path | None) -> Gateway:
    """Return the gateway at `address`: in TLS, but for loopback where no `ca_file` is given.

    A gateway takes what comes from loopback in clear even where it has TLS, and refuses it
    otherwise, before it asks for anything.

    Raises:
        SettingsError: the file holds no certificates.
    """
    if ca_file is None and address.is_loopback:
        return Gateway(address, None)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(f"{ca_file}: {error.strerror or 'no certificates in PEM'}") from None
    context.set_alpn_protocols([_ALPN])
    return Gateway(address, context)


def parse_listen(text: str) -> Address | Path:
    """Return where to listen: a loopback address, or the path of a socket.

    Raises:
        SettingsError: it is neither.
    """
    if "/" in text:
        path = Path(text).absolute()
        return path if _SOCKET.fullmatch(path.name) else path / f".s.PGSQL.{SOCKET_PORT}"
    address = parse_address(text)
    if not address.is_loopback:
        raise SettingsError(
            f"{address}: only loopback is listened on, or a Unix socket",
            hint="whoever reaches the listener has your access; let each machine have its own",
        )
    # As a name it may be two addresses, which port 0 would give two ports.
    return Address("127.0.0.1", address.port) if address.host == "localhost" else address


class _Refused(Exception):
    """The client is told why, and hears no more."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class _Over(Exception):
    """The connection is over, and whoever it matters to has been told."""


class _Stream:
    """Both directions of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        """Return what has come; nothing at its end."""
        return await self._reader.read(_READ_BYTES)

    async def more(self) -> bytes:
        """Return what has come; raise `_Over` at its end."""
        data = await self.read()
        if not data:
            raise _Over("hung up")
        return data

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def end(self) -> None:
        """Say that nothing more comes. TLS has no half of a connection: there all of it ends."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        else:
            self.writer.close()

    async def close(self, linger_s: float) -> None:
        """Close; what the other side has not taken by then is lost."""
        self.writer.close()
        try:
            async with asyncio.timeout(linger_s):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self.writer.transport.abort()


class Listener:
    """Lets clients in to one target of a gateway. `start` it, and `stop` it."""

    def __init__(
        self,
        target: str,
        gateway: Gateway,
        credentials: Credentials,
        say: Say,
        *,
        password: str = "",
        deadlines: Deadlines | None = None,
    ) -> None:
        """`password` is what clients on loopback are asked for; they are not where it is empty."""
        self._target = target
        self._gateway = gateway
        self._credentials = credentials
        self._say = say
        self._password = password.encode()
        self._deadlines = deadlines or Deadlines()
        self._server: asyncio.Server | None = None
        self._socket: tuple[Path, tuple[int, int]] | None = None
        self._tasks: asyncio.TaskGroup
        self._serving: set[asyncio.Task[None]] = set()
        self._sessions = 0
        self._count = 0

    async def start(self, where: Address | Path) -> Address | Path:
        """Listen, and return where: with the real port where the one given is 0.

        Raises:
            SettingsError: it cannot be listened on, or others could put a socket there.
        """
        listening = _listen(where)
        if isinstance(where, Path):
            self._socket = (where, _identity(where))
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_server(
            self._connected, sock=listening, limit=_READ_BYTES
        )
        if isinstance(where, Path):
            return where
        host, port = listening.getsockname()[:2]
        return Address(str(host), int(port))

    async def stop(self) -> None:
        """Listen no more, and hang up."""
        if self._server is None:
            return
        self._server.close()
        if self._socket is not None:
            path, identity = self._socket
            with contextlib.suppress(OSError):
                if _identity(path) == identity:  # and not that of one that came after us
                    path.unlink()
        for task in list(self._serving):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) - self._sessions >= MAX_LOGINS:
            self._say({"event": "hung up", "error": f"{MAX_LOGINS} connections log in already"})
            writer.transport.abort()
            return
        self._count += 1
        task = self._tasks.create_task(self._serve(_Stream(reader, writer), self._count))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, client: _Stream, number: int) -> None:
        connection = _Connection(client)
        line: dict[str, Any] = {"connection": number}
        try:
            await self._let_in(connection, line)
        except _Refused as refused:
            self._say(
                {"event": "refused", **line, "sqlstate": refused.code, "error": refused.message}
            )
            await self._tell(client, refused)
        except (_Over, OSError) as error:
            reason = str(error) if isinstance(error, _Over) else "connection lost"
            self._say({"event": "closed", **line, "why": reason})
        except asyncio.CancelledError:
            client.writer.transport.abort()
            raise
        except Exception as error:
            # One connection must not take the others with it; what it held may be in the text.
            self._say({"event": "failed unexpectedly", **line, "error": type(error).__name__})
        finally:
            await client.close(self._deadlines.linger_s)

    async def _tell(self, client: _Stream, refused: _Refused) -> None:
        told = messages.error_response(
            code=refused.code, message=f"agentaudit connect: {refused.message}", hint=refused.hint
        )
        with contextlib.suppress(OSError):
            client.writer.write(told)

    # --- a client

    async def _let_in(self, connection: _Connection, line: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._deadlines.client_s):
                packet = await connection.begin()
                if isinstance(packet, StartupMessage):
                    await self._require_friend(connection)
        except TimeoutError:
            if connection.startup is None:
                raise _Over("no start-up packet in time") from None
            raise _Refused(_NOT_ALLOWED, "no password in time") from None
        except ClientProtocolError as error:
            if not connection.is_postgres:
                # Whoever began no start-up packet is no client of ours: words would confuse it.
                raise _Over(str(error)) from None
            raise _Refused(_PROTOCOL, str(error), error.hint) from None
        if isinstance(packet, CancelRequest):
            await self._cancel(packet)
            return
        if self._sessions >= MAX_CONNECTIONS:
            raise _Refused("53300", f"{MAX_CONNECTIONS} sessions are open already")
        self._sessions += 1
        try:
            await self._session(connection, packet, line)
        finally:
            self._sessions -= 1

    async def _require_friend(self, connection: _Connection) -> None:
        """Refuse who has no right to this user's access."""
        uid = _peer_uid(connection.client.writer)
        if uid is not None:
            if not may_use(uid):
                raise _Refused(_NOT_ALLOWED, "this socket is another user's")
        elif self._password and not hmac.compare_digest(
            await connection.ask_for_password(), self._password
        ):
            raise _Refused(
                _INVALID_PASSWORD,
                "wrong password for this listener",
                "it is in the connection string that agentaudit connect printed, or in its file",
            )

    # --- the gateway

    async def _open(self) -> _Stream:
        """Return a connection to the gateway, verified."""
        address, tls = self._gateway.address, self._gateway.tls
        where = f"gateway {address}"
        try:
            async with asyncio.timeout(self._deadlines.gateway_s):
                reader, writer = await asyncio.open_connection(
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls is not None else None,
                    limit=_READ_BYTES,
                )
        except TimeoutError:
            raise _Refused(_CONNECTION_FAILED, f"{where}: no answer") from None
        except ssl.SSLCertVerificationError as error:
            raise _Refused(
                _CONNECTION_FAILED,
                f"{where}: TLS: {error.verify_message}",
                "start agentaudit connect with --ca-file, and the name in its certificate",
            ) from None
        except OSError as error:
            # A peer that knows no TLS hangs up in the middle of it.
            if tls is not None and isinstance(error, (ssl.SSLError, ConnectionResetError)):
                raise _Refused(
                    _CONNECTION_FAILED,
                    f"{where}: TLS failed",
                    "a gateway without a certificate is reached on loopback alone, "
                    "without --ca-file",
                ) from None
            raise _Refused(_CONNECTION_FAILED, f"{where}: {_reason(error)}") from None
        stream = _Stream(reader, writer)
        connected = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        encrypted = writer.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != _ALPN:
            await stream.close(self._deadlines.linger_s)
            raise _Refused(
                _CONNECTION_FAILED, f"{where}: it speaks TLS, and not for {_ALPN}"
            ) from None
        return stream

    async def _cancel(self, request: CancelRequest) -> None:
        """Pass a cancel request on, and return when the gateway has taken it."""
        try:
            gateway = await self._open()
        except _Refused as refused:
            raise _Over(f"cancel request not passed on: {refused.message}") from None
        try:
            async with asyncio.timeout(self._deadlines.gateway_s):
                await gateway.send(messages.cancel_request(request.pid, request.secret))
                while await gateway.read():
                    pass
        except TimeoutError:
            raise _Over("cancel request not taken in time") from None
        finally:
            await gateway.close(self._deadlines.linger_s)

    async def _session(
        self, connection: _Connection, startup: StartupMessage, line: dict[str, Any]
    ) -> None:
        wanted = {**startup.parameters, "database": self._target, _LOGIN: "password"}
        packet = messages.startup_message(wanted, startup.version)
        if len(packet) > messages.MAX_STARTUP_BYTES:
            raise _Refused(_PROTOCOL, "the start-up packet leaves no room for the target's name")
        gateway = await self._open()
        try:
            reader = messages.MessageReader()
            try:
                async with asyncio.timeout(self._deadlines.gateway_s):
                    await gateway.send(packet)
                    await self._until_asked(connection.client, gateway, reader)
                # Only now: a ticket that nobody asks for would count as one that is unused.
                credential = await self._credential()
                await gateway.send(messages.password_message(credential.password))
            except TimeoutError:
                raise self._broken("no answer") from None
            except TargetProtocolError as error:
                raise self._broken(str(error)) from None
            except OSError:
                raise self._broken("it hung up") from None
            self._say({"event": "opened", **line})
            await self._both_ways(connection, gateway, reader, credential)
            self._say({"event": "closed", **line})
        finally:
            await gateway.close(self._deadlines.linger_s)

    def _broken(self, what: str) -> _Refused:
        return _Refused(_CONNECTION_FAILED, f"gateway {self._gateway.address}: {what}")

    async def _until_asked(
        self, client: _Stream, gateway: _Stream, reader: messages.MessageReader
    ) -> None:
        """Pass on what the gateway says before it asks for a password in clear."""
        while True:
            data = await gateway.read()
            if not data:
                raise self._broken("it hung up")
            for kind, body in reader.feed(data):
                if kind == b"R":
                    code, _ = messages.decode_authentication(body)
                    if code != messages.AUTHENTICATION_CLEARTEXT:
                        # Not even one that lets us in: what passes there is not recorded.
                        raise _Refused(
                            _CONNECTION_FAILED,
                            f"gateway {self._gateway.address}: it asks for no token",
                            "is that the address of a gateway, and not of a database?",
                        )
                    return
                await client.send(messages.frame(kind, body))
                if kind == b"E":
                    raise _Over(f"refused by the gateway, {messages.decode_report(body).code}")

    async def _credential(self) -> Credential:
        try:
            return await self._credentials.one()
        except RefusedError as error:
            code = _NOT_NOW if error.status == 429 else _NOT_ALLOWED
            login = "agentaudit login gets a new token" if error.status == 401 else ""
            raise _Refused(code, str(error), error.hint or login) from None
        except ControlError as error:
            # Its own hint is for who gave an order; a ticket that was lost opens nothing.
            raise _Refused(_NOT_NOW, str(error), "no ticket came from there: try again") from None
        except IssuerError as error:
            raise _Refused(_NOT_NOW, str(error), error.hint) from None
        except AgentauditError as error:
            raise _Refused(_NOT_ALLOWED, str(error), error.hint) from None

    # --- a session

    async def _both_ways(
        self,
        connection: _Connection,
        gateway: _Stream,
        reader: messages.MessageReader,
        credential: Credential,
    ) -> None:
        client = connection.client
        ended_by: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                if connection.rest:
                    await gateway.send(connection.rest)
                upward = group.create_task(_copy(client, gateway))
                await self._outcome(client, gateway, reader, credential)
                await _copy(gateway, client)
                # The gateway has said its last word: nobody hears what the client says now.
                await asyncio.wait({upward}, timeout=self._deadlines.linger_s)
                upward.cancel()
        except* (OSError, _Over, TargetProtocolError) as group_of_both:
            ended_by = group_of_both.exceptions[0]
        if ended_by is not None:
            raise _Over("connection lost" if isinstance(ended_by, OSError) else str(ended_by))

    async def _outcome(
        self,
        client: _Stream,
        gateway: _Stream,
        reader: messages.MessageReader,
        credential: Credential,
    ) -> None:
        """Pass on the gateway's answer to the credential, and take note of a refusal."""
        data = reader.rest()
        while True:
            for kind, body in reader.feed(data):
                if kind == b"R" and messages.decode_authentication(body)[0]:
                    # The client's answer would be our local password.
                    raise _Over("the gateway asks a second time")
                passed = messages.frame(kind, body)
                if kind not in b"RE":
                    client.writer.write(passed)
                    continue
                if kind == b"E" and messages.decode_report(body).code in (
                    _INVALID_PASSWORD,
                    _NOT_ALLOWED,
                ):
                    self._credentials.refused(credential)
                await client.send(passed + reader.rest())
                return
            data = await gateway.read()
            if not data:
                raise _Over("the gateway hung up")


async def _copy(source: _Stream, target: _Stream) -> None:
    """Copy all that comes, no faster than it is taken, and then say that it was all."""
    while data := await source.read():
        await target.send(data)
    with contextlib.suppress(OSError):
        target.end()


class _Connection:
    """What is known of one client while it logs in."""

    def __init__(self, client: _Stream) -> None:
        self.client = client
        self.startup: StartupMessage | None = None
        self.rest = b""
        """What came behind what was read; the gateway's, once the client is let in."""
        self.is_postgres = False

    async def begin(self) -> StartupMessage | CancelRequest:
        """Answer requests for encryption, and return the packet that says what the client wants.

        Raises:
            ClientProtocolError: it is none, or bytes came where an encryption has to begin.
        """
        data = b""
        asked: set[type] = set()
        while True:
            self.is_postgres = messages.begins_startup(data)
            packet = messages.parse_startup(data)
            if packet is None:
                data += await self.client.more()
                continue
            if isinstance(packet, StartupMessage):
                self.startup = packet
                self.rest = data[packet.size :]
                return packet
            if isinstance(packet, CancelRequest):
                return packet
            if isinstance(packet, messages.DirectTLS):
                raise ClientProtocolError("start-up: TLS, which this listener does not have")
            if type(packet) in asked:
                raise ClientProtocolError("start-up: encryption is asked for twice")
            if len(data) > packet.size:
                raise ClientProtocolError("start-up: bytes behind a request for encryption")
            asked.add(type(packet))
            await self.client.send(b"N")
            data = b""

    async def ask_for_password(self) -> bytes:
        """Return the password that the client has for this listener."""
        await self.client.send(messages.authentication_cleartext())
        reader = messages.MessageReader(error=ClientProtocolError)
        data = self.rest
        while True:
            for kind, body in reader.feed(data):
                if kind == b"X":
                    raise _Over("left without a password")
                if kind != b"p":
                    raise ClientProtocolError(f"login: message {kind!r}, expected p")
                self.rest = reader.rest()
                return messages.decode_password(body)
            data = await self.client.more()


def _reason(error: OSError) -> str:
    # asyncio's own texts name the address once more, and each that a name stands for.
    if isinstance(error, socket.gaierror) or error.errno is None:
        return (error.strerror or "cannot be reached").lower()
    return os.strerror(error.errno).lower()


# --- where it listens


def may_use(uid: int) -> bool:
    """Return whether a user may have this one's access: this one itself, and root, who has it."""
    return uid in (0, os.geteuid())


def _peer_uid(writer: asyncio.StreamWriter) -> int | None:
    """Return who is at the other end of a Unix socket; None for one of another kind."""
    connected = writer.get_extra_info("socket")
    if connected.family != socket.AF_UNIX:
        return None
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(credentials)[1])


def _listen(where: Address | Path) -> socket.socket:
    try:
        if isinstance(where, Address):
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            return socket.create_server((where.host, where.port), family=family)
        return _listen_on_socket(where)
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror or 'cannot be listened on'}") from None


def _listen_on_socket(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise SettingsError(f"{path}: the path of a socket has at most {_MAX_SOCKET_PATH} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = path.parent.stat()
    if folder.st_mode & 0o022 or folder.st_uid not in (0, os.geteuid()):
        # Whoever may write there could put a socket of their own in the place of this one.
        raise SettingsError(
            f"{path.parent}: others may write there",
            hint="a folder of your own, as mkdir -m 700 makes it",
        )
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path}: is no socket")
        if _is_listened_on(path):
            raise SettingsError(f"{path}: something listens there")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        # Before it listens: until then nobody can connect, whatever the umask let through.
        path.chmod(0o600)
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def read_password(path: Path) -> str:
    """Return the password in a file that nobody else may read.

    Raises:
        QuestionError: it cannot be read.
        SettingsError: others may read it, or it is too short to keep others out.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4096).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise QuestionError(f"{path}: {reason}") from None
    if mode & 0o077:
        raise SettingsError(f"{path}: mode {mode:04o}, 0600 expected", hint="chmod 600")
    if len(text) < LEAST_PASSWORD or not text.isprintable():
        raise SettingsError(
            f"{path}: a password of {LEAST_PASSWORD} characters or more, in one line, expected",
            hint="other users of this machine may guess as often as they like",
        )
    return text


# --- as a process


def run(listener: Listener, where: Address | Path, say: Say, ready: Callable[[Any], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told where, once it listens.

    Raises:
        SettingsError: it could not start.
    """
    asyncio.run(_run(listener, where, say, ready))


async def _run(
    listener: Listener, where: Address | Path, say: Say, ready: Callable[[Any], None]
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        ready(await listener.start(where))
        await ended.wait()
    finally:
        await listener.stop()
    say({"event": "stopped"})
