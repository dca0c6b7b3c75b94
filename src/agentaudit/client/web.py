"""One request over HTTP: no redirect is followed, no proxy asked, and nothing waits for ever.

What is sent holds a token or a secret. A redirect would take it somewhere else, and a proxy that
an environment variable names would read it.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agentaudit.settings.values import refuse_unsafe_url

_READ_BYTES: Final = 1 << 16


class NoAnswer(Exception):
    """No usable answer came, for the reason that the message says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the JSON of the body, which may be anything."""

    status: int
    value: Any


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    ca_file: Path | None = None,
    timeout_s: float,
    most_bytes: int,
) -> Answer:
    """Send one request and return its answer, of at most `most_bytes`, within `timeout_s`.

    Plain http is for loopback only; `ca_file` takes the place of the system's authorities.

    Raises:
        NoAnswer: there is none in time, or it is too long or no JSON.
    """
    try:
        refuse_unsafe_url(url.partition("?")[0])
        connection = _connection(url, ca_file, timeout_s)
    except ValueError as error:
        raise NoAnswer(str(error)) from None
    except OSError as error:
        raise NoAnswer(f"{ca_file}: {error.strerror or 'no certificates in PEM'}") from None
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_late = threading.Event()
    watchdog = threading.Timer(timeout_s, _hang_up)
    watchdog.daemon = True
    try:
        connection.connect()
        # A socket's own timeout counts from the last byte: a server that drips would never end it.
        # `http.client` forgets the socket as soon as it knows that nothing else will come on it.
        watchdog.args = (connection.sock, is_late)
        watchdog.start()
        connection.request(method, path, body, {"Accept": "application/json", **headers})
        response = connection.getresponse()
        received = _read(response, most_bytes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        # ValueError: a host or a path that cannot be put into a request.
        if is_late.is_set() or isinstance(error, TimeoutError):
            raise NoAnswer(f"no answer within {timeout_s:g} s") from None
        raise NoAnswer(_reason(error)) from None
    finally:
        watchdog.cancel()
        connection.close()
    if is_late.is_set():
        raise NoAnswer(f"no answer within {timeout_s:g} s")
    if received is None:
        raise NoAnswer(f"an answer of more than {most_bytes:,} bytes")
    try:
        return Answer(response.status, json.loads(received))
    except (ValueError, RecursionError):
        raise NoAnswer(f"HTTP status {response.status}, and no JSON") from None


def _connection(url: str, ca_file: Path | None, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    context = ssl.create_default_context(cafile=ca_file)
    return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)


def _read(response: http.client.HTTPResponse, most_bytes: int) -> bytes | None:
    """Return the body, or None where it is longer."""
    received = bytearray()
    while part := response.read(_READ_BYTES):
        received += part
        if len(received) > most_bytes:
            return None
    if response.length:  # read by parts, it does not complain itself
        raise http.client.IncompleteRead(bytes(received), response.length)
    return bytes(received)


def _hang_up(connected: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself in the same moment


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or 'failed'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
