"""One end of the socket between a supervisor and a worker: messages either way, with a connection.

A message is one JSON object, a datagram that keeps its order and tells when the other end is gone
(SOCK_SEQPACKET), and may carry one open file. Nothing here waits for anybody: what the other end
does not take now is kept, up to a limit, and a connection is not kept at all.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

MAX_MESSAGE_BYTES: Final = 16 * 1024
MAX_KEPT: Final = 1_000
"""Messages for an end that does not read: it hangs, and whoever waits for it gives up in time."""

_A_TURN: Final = 64
"""Messages that are read before others have their turn on the loop."""

Message = dict[str, Any]


class Channel:
    """`received(message, fd)` gets what comes, with an open file or -1; `ended()` the end of it."""

    def __init__(
        self,
        end: socket.socket,
        received: Callable[[Message, int], None],
        ended: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._end = end
        self._received = received
        self._ended = ended
        self._kept: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._loop.add_reader(end, self._readable)

    def send(self, message: Message) -> bool:
        """Send `message`, now or once the other end reads; False if it will never be."""
        if not self._is_open or len(self._kept) >= MAX_KEPT:
            return False
        self._kept.append(json.dumps(message, separators=(",", ":")).encode())
        if len(self._kept) == 1:
            self._flush()
        return self._is_open

    def hand_over(self, message: Message, fd: int) -> bool:
        """Send `message` with the open file `fd` if that can be done at once; say whether."""
        if not self._is_open or self._kept:
            return False
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._end.sendmsg([json.dumps(message).encode()], attached)
        except OSError:
            return False  # it is gone, which the next read says, or has no room
        return True

    def close(self) -> None:
        """Say no more; the other end finds its end closed. `ended` is not called."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._end.close()

    def _flush(self) -> None:
        try:
            while self._kept:
                self._end.send(self._kept[0])
                self._kept.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._end, self._flush)
            return
        except OSError:
            self._kept.clear()  # the next read says that it is gone
        self._loop.remove_writer(self._end)

    def _readable(self) -> None:
        for _ in range(_A_TURN):
            if not self._is_open:
                return
            try:
                data, fd = _receive(self._end)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", -1
            if not data:
                self.close()
                self._ended()
                return
            self._received(json.loads(data), fd)


def receive_first(end: socket.socket) -> tuple[Message, int]:
    """Wait for a message on a channel's end that no loop reads yet, and return it with its file.

    Raises:
        EOFError: the other end is gone.
    """
    end.setblocking(True)
    data, fd = _receive(end)
    if not data:
        raise EOFError
    return json.loads(data), fd


def _receive(end: socket.socket) -> tuple[bytes, int]:
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    data, attached, _, _ = end.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, packed in attached:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    return data, fds[0] if fds else -1


def close_file(fd: int) -> None:
    """Close an open file that came with a message, if one did."""
    if fd >= 0:
        os.close(fd)
