"""TCP connections on one epoll, plain or in TLS, called back as `asyncio.Protocol` has it.

The surprising decision: the event loop's own transports are not used. What they do for every read
and write (a handle, a write request, a second round through the loop) costs as much as recording
what passed, so here a turn is one call: all sockets that have something to say are read, and at
its end the journal is written once and what waited for that is let go. The epoll is itself one
file of the event loop, whichever that is.

A `Connection` is an `asyncio.Transport` in all that is used of one. Nothing is read ahead: with
`pause_reading`, at most what one call of recv(2) returned is on this side of the kernel.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final, Protocol

from agentaudit._native.system import poll, receive, send

MIN_READ_BYTES: Final = 16 * 1024
MAX_READ_BYTES: Final = 256 * 1024
"""What one read asks for grows and shrinks between these with what comes."""

KEPT_BYTES: Final = 16 * MAX_READ_BYTES
"""What is freed stays with the process up to twice this."""

MAX_EVENTS: Final = 16
"""Served in one turn: with more, what the first of them said would wait for the last one's."""

MAX_SYNCED_EVENTS: Final = 256
"""Served in one turn where nothing goes on before a sync, which all of them then share."""

MAX_TURNS: Final = 16
"""Turns without a look at what else the event loop has to do: timers, logins."""

MAX_ACCEPTS: Final = 64
"""Connections taken in one turn, so that a flood of them does not stop those that are open."""

MIN_PAUSE_S: Final = 0.1
"""How long nobody is let in when the process has no file descriptor left."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_BROKEN: Final = select.EPOLLHUP | select.EPOLLERR


class Turns(Protocol):
    """Who does once a turn what all connections wait for."""

    def begin_turn(self) -> None:
        """Note that `end_turn` will be called soon."""
        ...

    def end_turn(self, more: bool) -> None:
        """Do what was put off to the end of the turn; `more` says that another follows at once."""
        ...


class _NoTurns:
    def begin_turn(self) -> None:
        pass

    def end_turn(self, more: bool) -> None:
        pass


class Poller:
    """The connections of one event loop; a turn serves `most` of them."""

    def __init__(self, turns: Turns | None = None, most: int = MAX_EVENTS) -> None:
        self.loop = asyncio.get_running_loop()
        self._turns = turns or _NoTurns()
        self._most = most
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        # Once glibc has freed a block as large as this it keeps as much at hand, and no longer
        # asks the kernel for memory at each large read, to give it back at once.
        _ = bytearray(KEPT_BYTES)
        self.loop.add_reader(self._epoll.fileno(), self._run)

    def close(self) -> None:
        """Watch nothing any more; connections that are open are aborted."""
        for connection in list(self._connections.values()):
            connection.abort()
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def watch(self, connection: Connection, mask: int) -> None:
        """Have `connection` called when it is ready for one of `mask`; 0 is never."""
        fd = connection.fd
        if fd not in self._connections:
            if mask:
                self._connections[fd] = connection
                self._epoll.register(fd, mask)
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            # Without interest the kernel would still report a peer that is gone, again and again.
            del self._connections[fd]
            self._epoll.unregister(fd)

    def _run(self) -> None:
        # While several have something to say, more will when these were served: that is looked
        # for here, because a round through the event loop costs as much as serving one.
        left = MAX_TURNS
        while left:
            left -= 1
            if not self._turn(left > 0):
                return

    def _turn(self, may_go_on: bool) -> bool:
        """Serve all that is ready; return whether another turn is to follow."""
        more = False
        self._turns.begin_turn()
        try:
            ready = poll(self._epoll, self._most)
            more = may_go_on and len(ready) > 2
            for at in range(0, len(ready), 2):
                connection = self._connections.get(ready[at])
                if connection is not None:
                    self._call(connection, ready[at + 1])
        finally:
            self._turns.end_turn(more)
        return more

    def _call(self, connection: Connection, mask: int) -> None:
        try:
            connection.ready(mask)
        except Exception as error:
            # One connection's fault must not keep the others from their turn.
            connection.abort()
            self.loop.call_exception_handler({"message": "connection", "exception": error})

    def read_on(self, connection: Connection) -> None:
        """Let `connection` hand on what it has already, in a turn of its own."""
        self._turns.begin_turn()
        try:
            self._call(connection, 0)
        finally:
            self._turns.end_turn(False)


class Connection:
    """One end of a TCP connection.

    `fd` is -1 once it is closed.
    """

    def __init__(self, poller: Poller, sock: socket.socket, protocol: Any) -> None:
        """Take over `sock`, which is connected and does not block, and begin to read."""
        self.fd = sock.fileno()
        self._poller = poller
        self._loop = poller.loop
        self._socket = sock
        self._protocol = protocol
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._handshake: asyncio.Future[None] | None = None
        self._mask = 0
        self._read_size = MIN_READ_BYTES
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._is_reading = True
        self._has_read_all = False
        self._is_writing_paused = False
        self._is_closing = False
        self._wants_eof = False
        self._is_lost = False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that vanished without a word must not keep its session for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._protocol.connection_made(self)
        self._watch()

    # --- what the poller calls

    def ready(self, mask: int) -> None:
        """Read and write what can be; with no mask, hand on what was read already."""
        if not mask:
            if self._is_reading and not self._is_lost and not self._has_read_all:
                self._decrypt()
            return
        if self._waiting_bytes and mask & (_OUT | _BROKEN):
            self._send_waiting()
        if self._is_reading and mask & (_IN | _BROKEN):
            self._receive()
        elif mask & _BROKEN and not self._waiting_bytes:
            self._watch()

    def _watch(self) -> None:
        if self._is_lost:
            return
        mask = 0
        if self._is_reading and not self._has_read_all:
            mask = _IN
        if self._waiting_bytes:
            mask |= _OUT
        if mask != self._mask:
            self._mask = mask
            self._poller.watch(self, mask)

    # --- reading

    def _receive(self) -> None:
        size = self._read_size
        try:
            data = receive(self.fd, size)
        except OSError as error:
            self._lose(error)
            return
        if data is None:
            return
        got = len(data)
        if got == size:
            if size < MAX_READ_BYTES:
                self._read_size = size * 4
        elif got * 16 < size and size > MIN_READ_BYTES:
            self._read_size = size // 4
        if self._tls is not None:
            self._receive_tls(data)
        elif got:
            self._protocol.data_received(data)
        else:
            self._end()

    def _receive_tls(self, data: bytes) -> None:
        assert self._incoming is not None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._handshake is not None:
            self._shake_hands()
        else:
            self._decrypt()

    def _decrypt(self) -> None:
        """Hand on what has come in TLS, as long as somebody reads."""
        tls, incoming = self._tls, self._incoming
        assert tls is not None
        assert incoming is not None
        while self._is_reading and not self._is_lost:
            try:
                data = tls.read(MAX_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as error:
                self._lose(error)
                return
            if not data:
                self._end()
                return
            self._protocol.data_received(data)
            if not incoming.pending and not tls.pending():
                break
        # An answer of TLS itself, as to an update of keys.
        self._send_encrypted()

    def _end(self) -> None:
        """The peer says no more."""
        self._has_read_all = True
        self._watch()
        if not self._is_closing and not self._protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """Hand on nothing until `resume_reading`."""
        self._is_reading = False
        self._watch()

    def resume_reading(self) -> None:
        """Hand on what comes, and what has come since `pause_reading`."""
        if self._is_reading or self._is_closing:
            return
        self._is_reading = True
        self._watch()
        if self._tls is not None and self._handshake is None:
            self._loop.call_soon(self._poller.read_on, self)

    # --- writing

    def write(self, data: bytes) -> None:
        """Send `data`; what the kernel does not take waits. Behind `close` nothing is sent."""
        if self._is_closing or self._is_lost or self._wants_eof or not data:
            return
        if self._tls is not None:
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                self._lose(error)
                return
            self._send_encrypted()
        else:
            self._send(data)

    def _send_encrypted(self) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        if outgoing.pending:
            self._send(outgoing.read())

    def _send(self, data: bytes) -> None:
        if self._is_lost:
            return
        if not self._waiting_bytes:
            try:
                sent = send(self.fd, data)
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            self._waiting.append(memoryview(data)[sent:])
            self._waiting_bytes = len(data) - sent
            self._watch()
        else:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        if self._waiting_bytes > self._high and not self._is_writing_paused:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def _send_waiting(self) -> None:
        waiting = self._waiting
        try:
            sent = self._socket.sendmsg(waiting[:64])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self._waiting_bytes -= sent
        done = 0
        for part in waiting:
            if sent < len(part):
                break
            sent -= len(part)
            done += 1
        del waiting[:done]
        if sent:
            waiting[0] = memoryview(waiting[0])[sent:]
        if self._waiting_bytes <= self._low and self._is_writing_paused:
            self._is_writing_paused = False
            self._protocol.resume_writing()
        if not self._waiting_bytes:
            self._watch()
            if self._wants_eof:
                self._shut_down()
            if self._is_closing:
                self._lose(None)

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Call `pause_writing` above `high` bytes that wait, `resume_writing` at `low`."""
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the kernel."""
        return self._waiting_bytes

    # --- TLS

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        first_bytes: bytes = b"",
    ) -> None:
        """Go on in TLS: as the server, or as the client of `server_hostname`.

        `first_bytes` are what was read already of the peer's first TLS message.

        Raises:
            ssl.SSLError, OSError: the handshake failed, and the connection is closed.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            incoming,
            outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._incoming, self._outgoing = incoming, outgoing
        incoming.write(first_bytes)
        done: asyncio.Future[None] = self._loop.create_future()
        self._handshake = done
        self.resume_reading()
        self._shake_hands()
        try:
            await done
        except BaseException:
            self.abort()
            raise

    def _shake_hands(self) -> None:
        done, tls = self._handshake, self._tls
        assert done is not None
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_encrypted()
            return
        except OSError as error:  # ssl.SSLError is one
            self._send_encrypted()  # the alert that says why
            if not done.done():
                done.set_exception(error)
            return
        self._send_encrypted()
        self._handshake = None
        if not done.done():
            done.set_result(None)
        # What came behind the handshake in the same read.
        self._loop.call_soon(self._poller.read_on, self)

    # --- the end

    def can_write_eof(self) -> bool:
        """Return whether one direction can end before the other; in TLS it cannot."""
        return self._tls is None

    def write_eof(self) -> None:
        """Say no more, once what waits has gone; what comes is still read."""
        if self._wants_eof or self._is_lost:
            return
        self._wants_eof = True
        if not self._waiting_bytes:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # gone already; reading will say so

    def close(self) -> None:
        """Read no more, and close once what waits has gone."""
        if self._is_closing:
            return
        if self._tls is not None and self._handshake is None and not self._is_lost:
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                pass  # it has been written; the peer's own close is not waited for
            self._send_encrypted()
        self._is_closing = True
        self._is_reading = False
        self._watch()
        if not self._waiting_bytes:
            self._lose(None)

    def abort(self) -> None:
        """Close at once."""
        self._lose(None)

    def is_closing(self) -> bool:
        """Return whether it is closed, or will be."""
        return self._is_closing or self._is_lost

    def _lose(self, error: OSError | None) -> None:
        if self._is_lost:
            return
        self._is_reading = False
        self._waiting_bytes = 0
        self._waiting.clear()
        if self._mask:
            self._mask = 0
            self._poller.watch(self, 0)
        self._is_lost = self._is_closing = True
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_exception(error or ConnectionResetError("closed in the handshake"))
        # Not from within a call of the protocol's own.
        self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: OSError | None) -> None:
        self.fd = -1
        self._socket.close()
        protocol, self._protocol = self._protocol, None
        # Nobody is called any more. What both hold of each other would wait for the collector.
        protocol.connection_lost(error)

    # --- what a protocol asks

    def set_protocol(self, protocol: Any) -> None:
        """Call `protocol` from here on."""
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `peername`, `sockname`, `socket` or `ssl_object` of this connection."""
        if name == "ssl_object":
            return self._tls if self._tls is not None else default
        if name == "socket":
            return self._socket
        try:
            if name == "peername":
                return self._socket.getpeername()
            if name == "sockname":
                return self._socket.getsockname()
        except OSError:
            pass  # gone before anybody asked
        return default


class Listener:
    """Takes connections that come to `sock`, which listens and does not block."""

    def __init__(self, poller: Poller, sock: socket.socket, made: Callable[[], Any]) -> None:
        """Call `made` for the protocol of each connection."""
        self._poller = poller
        self._socket = sock
        self._made = made
        self._pause: asyncio.TimerHandle | None = None
        poller.loop.add_reader(sock.fileno(), self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port, *_ = self._socket.getsockname()
        return str(host), int(port)

    def close(self) -> None:
        """Take no more."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._poller.loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is free: those in the queue wait, and the loop must not spin.
                self._poller.loop.remove_reader(self._socket.fileno())
                self._pause = self._poller.loop.call_later(MIN_PAUSE_S, self._go_on)
                return
            sock.setblocking(False)
            Connection(self._poller, sock, self._made())

    def _go_on(self) -> None:
        self._pause = None
        self._poller.loop.add_reader(self._socket.fileno(), self._accept)


def listen(host: str, port: int, backlog: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a socket that listens, for a `Listener`.

    Raises:
        OSError: the address is not ours, or taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=backlog, reuse_port=reuse_port)
    sock.setblocking(False)
    return sock


async def connect(poller: Poller, host: str, port: int, protocol: Any) -> Connection:
    """Return a connection to `host`, the first of its addresses that answers.

    Raises:
        OSError: none does, or it has none.
    """
    loop = poller.loop
    failure: OSError | None = None
    for family, address in await _addresses(loop, host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return Connection(poller, sock, protocol)
    raise failure or OSError("the name has no address")


async def _addresses(
    loop: asyncio.AbstractEventLoop, host: str, port: int
) -> Sequence[tuple[int, Any]]:
    try:
        version = ip_address(host).version
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]
    # A literal needs no resolver, and so no thread.
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
