"""A web server that answers what a test says, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.peers.certificates import Certificate


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Says:
    """One answer; a `body` that is no bytes is sent as JSON, and a function is called for it."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: bool = False
    """Whether it comes a byte at a time, and never ends."""


Answer = Says | Callable[[Asked], Says]


class Served:
    """What is at each `method path`, in turn where there are several; and what was asked."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self.is_over = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate_file, certificate.key_file)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def at(self, place: str, *answers: Answer) -> None:
        """Answer so at `place`, one after the other, and then as the last one says."""
        self.answers[place] = list(answers)

    def close(self) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: Asked) -> Says:
        self.asked.append(asked)
        left = self.answers.get(f"{asked.method} {asked.path.partition('?')[0]}")
        if not left:
            return Says({"error": "nothing is there"}, 404)
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(asked) if callable(answer) else answer

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        served = self

        class Answering(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                says = served._answer(
                    Asked(self.command, self.path, dict(self.headers), self.rfile.read(size))
                )
                body = says.body if isinstance(says.body, bytes) else json.dumps(says.body).encode()
                self.send_response(says.status)
                for name, value in {"Content-Length": str(len(body)), **says.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has had enough
                    self.wfile.write(body)
                    while says.drips and not served.is_over.wait(0.02):
                        self.wfile.write(b" ")

            do_POST = do_GET  # noqa: N815
            do_DELETE = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Answering


@contextmanager
def served(
    answers: Mapping[str, Answer] | None = None, certificate: Certificate | None = None
) -> Iterator[Served]:
    """Serve `answers` for the block."""
    one = Served(certificate)
    for place, answer in (answers or {}).items():
        one.at(place, answer)
    try:
        yield one
    finally:
        one.close()
