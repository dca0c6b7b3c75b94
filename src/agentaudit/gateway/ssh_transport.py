"""A shorter way for the bytes of channels through the library's connections.

The library looks at each packet as if it could be any, formats what it would log of it, and says an
empty packet before each that it sends. Of a session that is open nearly all packets are channels'
bytes: these are opened, handed over and sealed here, by the library's own ciphers and counters.
All else goes through the library as ever, and so does whatever is not quite as it should be.

Source: RFC 4253, section 6; RFC 4254, section 5.2; RFC 5647
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.encryption import Encryption, ETMEncryption, GCMEncryption
from asyncssh.packet import SSHPacket
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Connection = asyncssh.SSHServerConnection | asyncssh.SSHClientConnection
Channel = asyncssh.SSHServerChannel[bytes] | asyncssh.SSHClientChannel[bytes]

_IGNORE: Final = 2
_DATA: Final = 94
_DATA_BYTE: Final = bytes([_DATA])
_EXTENDED_DATA: Final = 95
_HEADER_BYTES: Final = 4
_BEFORE_LISTS: Final = 1 + 16
"""A KEXINIT's number and its cookie."""
_KEYS_S: Final = 30.0
"""What a change of keys may take."""
_HEARD_S: Final = 1.0
"""A keepalive may come so much earlier than it is due: not each packet sets its timer anew."""


def hasten(connection: Connection) -> None:
    """Let the bytes of channels take the shorter way, from now on."""
    any_connection: Any = connection
    if any_connection._transport is not None:
        _Hastened(any_connection)


def while_keys_change(
    connection: Connection, begun: Callable[[], None], ended: Callable[[], None]
) -> None:
    """Tell when keys begin to be changed, and when that is over; cut who does not come to an end.

    The library keeps what it is to send meanwhile, however much that becomes.

    Source: RFC 4253, section 9
    """
    end: Any = connection
    send, go_on = end._send_kexinit, end._send_deferred_packets
    timer: asyncio.TimerHandle | None = None

    def begin() -> None:
        nonlocal timer
        send()
        begun()
        if timer is None:
            timer = end._loop.call_later(_KEYS_S, connection.abort)

    def finish() -> None:
        nonlocal timer
        if timer is not None:
            timer.cancel()
            timer = None
        go_on()
        if end._kex_complete:  # else what had waited was so much that keys change again
            ended()

    end._send_kexinit, end._send_deferred_packets = begin, finish


def write(channel: Channel, data: bytes, kind: int | None) -> None:
    """Say `data` on a channel, as `channel.write` does.

    Raises:
        OSError: it is closed, or never says what has such a `kind`.
    """
    end: Any = channel
    is_plain = kind is None and end._send_state == "open" and not end._send_buf
    if is_plain and 0 < len(data) <= min(end._send_window, end._send_pktsize):
        end._send_window -= len(data)
        end.send_packet(_DATA, len(data).to_bytes(4, "big"), data)
    else:
        channel.write(data, kind)


def prefer_gcm(connection: asyncssh.SSHServerConnection) -> None:
    """Let an OpenSSH client that has AES-GCM use it.

    The first cipher of the client's that the server has is taken, and OpenSSH has the counter modes
    first, each with a hash over all again. It says what it has without waiting for the server, so
    the server waits, and has no counter mode where the client has GCM. To others it speaks first.

    Source: RFC 4253, section 7.1
    """
    end: Any = connection
    send, header = end._send_kexinit, end._recv_pkthdr

    def after_version() -> None:
        end._send_kexinit = send
        if end._client_version.startswith(b"SSH-2.0-OpenSSH_"):
            end._send_kexinit, end._recv_pkthdr = after_client, first_header
        else:
            send()

    def first_header() -> bool:
        end._recv_pkthdr = end._recv_handler = header
        end._kexinit_sent = False  # the library thinks that it was
        went_on: bool = header()
        return went_on

    def after_client() -> None:
        end._send_kexinit = send
        offered = SSHPacket(end._client_kexinit[_BEFORE_LISTS:])
        _, _, to_server, to_client = (offered.get_namelist() for _ in range(4))
        common = [each for each in end._enc_algs if each in to_server and each in to_client]
        end._enc_algs = [each for each in common if b"-gcm@" in each] or end._enc_algs
        send()

    end._send_kexinit = after_version


class _Hastened:
    """One connection, with its two ways exchanged."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._send = connection.send_packet
        self._receive = connection._recv_data
        self._reset_timer = connection._reset_keepalive_timer
        self._time = connection._loop.time
        self._heard = 0.0
        connection.send_packet = self.send
        connection._recv_data = self.receive
        connection._reset_keepalive_timer = self.reset_timer

    def reset_timer(self) -> None:
        """Note that the peer was heard."""
        now = self._time()
        if now - self._heard > _HEARD_S:
            self._heard = now
            self._reset_timer()

    # --- what comes

    def receive(self) -> None:
        """Take all packets that have come whole."""
        connection = self._connection
        try:
            while self._take() and connection._transport is not None:
                pass
        except asyncssh.DisconnectError as error:
            connection._send_disconnect(error.code, error.reason, error.lang)
            connection._force_close(error)
        except Exception:
            connection.internal_error()

    def _take(self) -> bool:
        """Take channels' bytes, and one packet that is something else, if there is one.

        Return whether to go on.
        """
        connection = self._connection
        cipher = connection._recv_encryption
        is_between = connection._recv_handler == connection._recv_pkthdr
        if not is_between or connection._decompressor or not _shows_lengths(cipher):
            self._receive()
            return False
        self.reset_timer()
        received, at = connection._inpbuf, 0
        channels, tag = connection._channels, connection._recv_macsize
        while len(received) - at >= connection._recv_blocksize:
            length = int.from_bytes(received[at : at + _HEADER_BYTES], "big")
            end = at + _HEADER_BYTES + length + tag
            if length > connection._max_recv_pktlen:
                connection._inpbuf = received[at:]
                self._receive()  # the library refuses it
                return False
            if len(received) < end:
                break
            packet = _opened(cipher, connection._recv_seq, received, at, end, tag)
            payload = packet[1 : -packet[0]]
            if payload[:1] == _DATA_BYTE:
                channel = channels.get(int.from_bytes(payload[1:5], "big"))
                size = len(payload) - 9
                if (
                    channel is not None
                    and channel._recv_state == "open"
                    and 0 <= size <= channel._recv_window
                    and int.from_bytes(payload[5:9], "big") == size
                ):
                    connection._recv_seq = connection._recv_seq + 1 & 0xFFFFFFFF
                    at = end
                    channel._accept_data(payload[9:])
                    continue
            connection._inpbuf = received[at:]
            return self._hand_over(cipher, packet)
        connection._inpbuf = received[at:]
        return False

    def _hand_over(self, cipher: Encryption, packet: bytes) -> bool:
        """Let the library take a packet that was opened; return whether it is ready for more."""
        connection = self._connection
        opened = connection._recv_encryption = _Opened(packet)
        try:
            went_on = connection._recv_pkthdr() and connection._recv_packet()
        finally:
            if connection._recv_encryption is opened:  # else the keys are new
                connection._recv_encryption = cipher
        return bool(went_on)

    # --- what goes

    def send(self, kind: int, *parts: bytes, handler: Any = None) -> None:
        """Say a packet.

        The library says SSH_MSG_IGNORE before each: with a cipher in CBC mode, who knows the next
        packet's vector could try guesses of what was said before. There is none of these here, and
        half of the packets, and of their cost, were such.
        """
        if kind == _IGNORE:
            return
        connection = self._connection
        cipher = connection._send_encryption
        is_quick = (
            kind in (_DATA, _EXTENDED_DATA)
            and cipher is not None
            and connection._kex_complete
            and connection._compressor is None
            and connection._rekey_bytes_sent < connection._rekey_bytes
            and (not connection._rekey_seconds or connection._rekey_time > self._time())
        )
        if not is_quick:
            self._send(kind, *parts, handler=handler)
            return
        payload = b"".join(parts)
        block = connection._send_blocksize
        padding = -(connection._send_enchdrlen + 1 + len(payload)) % block
        padding += block if padding < 4 else 0
        packet = b"%c%c%b%b" % (padding, kind, payload, os.urandom(padding))
        header = len(packet).to_bytes(4, "big")
        sequence = connection._send_seq
        connection._send_seq = sequence + 1 & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(packet)
        connection._send(_sealed(cipher, sequence, header, packet))


class _Opened(Encryption):
    """Stands for a cipher where a packet has been opened already."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, first_block[:header_len]

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes:
        return self._packet


def _shows_lengths(cipher: Any) -> bool:
    """Say whether a packet's length can be read before it is opened: GCM, and encrypt-then-MAC."""
    return isinstance(cipher, GCMEncryption | ETMEncryption)


def _opened(cipher: Any, sequence: int, received: bytes, at: int, end: int, tag: int) -> bytes:
    """Return the packet that lies from `at` up to `end`.

    Raises:
        asyncssh.MACError: somebody has changed it.
    """
    header = received[at : at + _HEADER_BYTES]
    if isinstance(cipher, GCMEncryption):
        gcm = _kept(cipher)
        try:
            packet = gcm.decrypt(_next_vector(cipher), received[at + _HEADER_BYTES : end], header)
        except InvalidTag:
            raise asyncssh.MACError("MAC verification failed") from None
        return packet
    body, mac = received[at + _HEADER_BYTES : end - tag], received[end - tag : end]
    found: bytes | None = cipher.decrypt_packet(sequence, header, body, _HEADER_BYTES, mac)
    if not found:
        raise asyncssh.MACError("MAC verification failed")
    return found


def _sealed(cipher: Any, sequence: int, header: bytes, packet: bytes) -> bytes:
    if isinstance(cipher, GCMEncryption):
        return header + _kept(cipher).encrypt(_next_vector(cipher), packet, header)
    said, mac = cipher.encrypt_packet(sequence, header, packet)
    whole: bytes = said + mac
    return whole


def _kept(cipher: Any) -> AESGCM:
    """Return the AEAD of a cipher's key, which is set up once."""
    inner = cipher._cipher
    gcm: AESGCM | None = getattr(inner, "gcm", None)
    if gcm is None:
        gcm = inner.gcm = AESGCM(inner._key)
    return gcm


def _next_vector(cipher: Any) -> bytes:
    """Return the vector of this packet, and count (RFC 5647, section 7.1)."""
    inner = cipher._cipher
    vector: bytes = inner._iv
    counter = int.from_bytes(vector[4:], "big") + 1 & 0xFFFFFFFFFFFFFFFF
    inner._iv = vector[:4] + counter.to_bytes(8, "big")
    return vector
