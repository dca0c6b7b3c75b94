"""What a kernel says goes to a page at once.

Tornado leaves Nagle's algorithm on for web sockets: a small message waits until the page's machine
has acknowledged the one before it, which that puts off by up to 40 ms (RFC 9293, 3.7.4). A kernel
says that it is busy before each answer, so every answer waited for that. Jupyter Server has no
setting for it.
"""

from __future__ import annotations

from typing import Any


def at_once(connection: type[Any]) -> type[Any]:
    """Return a class like `connection`, of kernels' web sockets, whose messages do not wait."""

    class AtOnce(connection):  # type: ignore[misc]
        def connect(self) -> Any:
            self.websocket_handler.set_nodelay(True)
            return super().connect()

    return AtOnce
