"""A witness as an HTTP server: few routes, hard limits, nothing signed that is not remembered.

The standard library's server is enough, because everything it reads goes through a meter: a
request may have only so many bytes and seconds, and there are only so many connections. Whoever
sends more, or slower, is cut off.

Protocol: c2sp.org/tlog-witness
"""

from __future__ import annotations

import io
import re
import signal
import socket
import socketserver
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from agentaudit.archive.files import FILE_MODE, PRIVATE_MODE, make_folder, replace
from agentaudit.archive.note import CosigningKey, Verifier
from agentaudit.errors import ArchiveError, SettingsError
from agentaudit.settings.values import Address
from agentaudit.witness.memory import Memory
from agentaudit.witness.protocol import MAX_BODY_BYTES, Refusal, check_signature, parse_request

MAX_CONNECTIONS = 64
HEAD_BYTES = 32 * 1024
IDLE_S = 20.0
"""How long a connection may take for a request's head, and be idle before it."""
BODY_S = 20.0
_LENGTH = re.compile(r"[0-9]{1,9}\Z")
_SIZE_TYPE = "text/x.tlog.size"

Say = Callable[[dict[str, Any]], None]
"""Takes a line of the operational log."""

_LOGS = """\
# The logs that this witness knows: a verifier key a line, as `agentaudit keygen` prints it (the
# first of its two). The file is read again when it has changed. To withdraw a log, remove its line.
"""


def create_witness(folder: Path, name: str) -> str:
    """Make a witness in `folder`: key, memory, and an empty list of logs. Return its verifier key.

    `name` is the key's name, by custom an address without a scheme.

    Raises:
        SettingsError: there is one already.
        ArchiveError: the name will not do.
    """
    key = CosigningKey.generate(name)
    make_folder(folder)
    path = folder / "witness.key"
    if path.exists() or (folder / "state.sqlite").exists():
        raise SettingsError(
            f"{folder}: holds a witness already",
            hint="a witness keeps key and memory together; begin another in another folder",
        )
    Memory.create(folder / "state.sqlite")
    if not (folder / "logs").exists():
        replace(folder / "logs", _LOGS.encode(), mode=FILE_MODE)
    replace(folder / "witness.vkey", f"{key.cosigner}\n".encode(), mode=FILE_MODE)
    # Last: whoever sees a key may rely on the files beside it.
    replace(path, f"{key.private_text()}\n".encode(), mode=PRIVATE_MODE)
    return str(key.cosigner)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Witness:
    """One witness: its key, what it remembers and which logs it knows."""

    def __init__(self, folder: Path, say: Say, clock: Callable[[], float] = time.time) -> None:
        """Load the witness in `folder`.

        Raises:
            SettingsError: there is none, or a file of it cannot be used.
        """
        self._say = say
        self._clock = clock
        self._key = _load_key(folder / "witness.key")
        self._memory = Memory(folder / "state.sqlite")
        self._logs_file = folder / "logs"
        self._logs: dict[str, list[Verifier]] = {}
        self._logs_seen: tuple[int, int, int] | None = None
        self._logs_lock = threading.Lock()
        self._read_logs()

    @property
    def vkey(self) -> str:
        """The verifier key under which others know this witness."""
        return str(self._key.cosigner)

    def close(self) -> None:
        """End; what was begun is kept or not, whole."""
        self._memory.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer an add-checkpoint request."""
        try:
            request = parse_request(body)
        except ArchiveError as error:
            return _refused(Refusal(400, str(error)))
        origin = request.checkpoint.origin
        refusal = check_signature(request, self._keys_of(origin))
        if refusal is not None:
            return _refused(refusal)
        try:
            kept = self._memory.advance(request, int(self._clock()))
        except ArchiveError as error:
            self._say({"event": "not kept, so not cosigned", "error": str(error)})
            return _refused(Refusal(500, "the witness cannot keep what it would sign"))
        if isinstance(kept, Refusal):
            if kept.is_fork:
                self._say({"event": "a log has forked", "note": request.note.decode()})
            return _refused(kept)
        return Answer(200, self._key.cosign(request.text, kept).encode())

    def _keys_of(self, origin: str) -> list[Verifier]:
        with self._logs_lock:
            if _signature(self._logs_file) != self._logs_seen:
                try:
                    self._read_logs()
                    self._say({"event": "logs read again", "logs": len(self._logs)})
                except SettingsError as error:
                    self._say({"event": "logs not read, the old ones stay", "error": str(error)})
            return self._logs.get(origin, [])

    def _read_logs(self) -> None:
        self._logs_seen = _signature(self._logs_file)
        try:
            text = self._logs_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SettingsError(f"{self._logs_file}: {reason}") from None
        logs: dict[str, list[Verifier]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    key = Verifier.parse(line)
                except ArchiveError as error:
                    raise SettingsError(f"{self._logs_file} line {number}: {error}") from None
                logs.setdefault(key.name, []).append(key)
        self._logs = logs


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load_key(path: Path) -> CosigningKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SettingsError(
            f"witness key {path}: {reason}", hint="agentaudit witness DIR --init NAME makes one"
        ) from None
    if mode & 0o077:
        raise SettingsError(f"witness key {path}: mode {mode:04o}, 0600 expected", hint="chmod 600")
    try:
        return CosigningKey.parse(text)
    except ArchiveError as error:
        raise SettingsError(f"{path}: {error}") from None


def _refused(refusal: Refusal) -> Answer:
    if refusal.seen_size is not None:
        return Answer(refusal.status, b"%d\n" % refusal.seen_size, _SIZE_TYPE)
    return Answer(refusal.status, f"{refusal.reason}\n".encode())


# --- HTTP


class _Meter(io.RawIOBase):
    """A connection that may be read only so much and so long at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._bytes = 0
        self._until_s = 0.0

    def allow(self, count: int, seconds: float) -> None:
        self._bytes = count
        self._until_s = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0 or self._bytes <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(buffer, min(len(buffer), self._bytes))
        self._bytes -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        context = self.server.tls
        # For the handshake as a whole: ssl takes a timeout so, and not for each read.
        self.request.settimeout(IDLE_S)
        if context is not None:
            self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()
        self.rfile.close()
        self._meter = _Meter(self.connection)
        self.rfile = io.BufferedReader(self._meter)

    def finish(self) -> None:
        super().finish()
        # With TLS the socket that the server knows is not the one that is open any more.
        self.connection.close()

    def handle_one_request(self) -> None:
        self._meter.allow(HEAD_BYTES, IDLE_S)
        super().handle_one_request()

    def do_POST(self) -> None:
        # What is left unread of a refused request must not be taken for the next one.
        self.close_connection = True
        if self.path != "/add-checkpoint":
            self._send(Answer(404, b"POST /add-checkpoint is all there is\n"))
            return
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1:
            self._send(Answer(411, b"one Content-Length is needed\n"))
            return
        if not _LENGTH.match(lengths[0]):
            self._send(Answer(400, b"not a Content-Length\n"))
            return
        length = int(lengths[0])
        if length > MAX_BODY_BYTES:
            self._send(Answer(413, b"%d bytes at most\n" % MAX_BODY_BYTES))
            return
        self._meter.allow(length, BODY_S)
        body = self.rfile.read(length)
        if len(body) == length:
            self.close_connection = self.headers.get("Connection", "").lower() == "close"
            self._send(self.server.witness.add_checkpoint(body))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not HTTP as it should be; what was sent is not sent back."""
        self.close_connection = True
        self.request_version = self.protocol_version
        self._send(Answer(int(code), b"not such a request\n"))

    def version_string(self) -> str:
        return "agentaudit-witness"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked is not worth a line, and it is the client's text."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: Address, witness: Witness, tls: ssl.SSLContext | None, say: Say
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.witness = witness
        self.tls = tls
        self._say = say
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that went away is no news
            self._say({"event": "request failed", "error": type(error).__name__})


class WitnessServer:
    """Serves a witness until it is closed; `address` is where, its port the real one."""

    def __init__(
        self,
        folder: Path,
        listen: Address,
        *,
        say: Say,
        tls: tuple[Path, Path] | None = None,
        plain: bool = False,
    ) -> None:
        """Load the witness in `folder` and listen; `tls` is a certificate's chain and its key.

        `plain` allows another than a loopback address without TLS: for a proxy that has it.

        Raises:
            SettingsError: the witness, the certificate or the address cannot be used.
        """
        if tls is None and not plain and not listen.is_loopback:
            raise SettingsError(
                f"{listen}: without TLS only loopback is listened on",
                hint="give --tls-cert and --tls-key; or --plain behind a proxy that ends TLS",
            )
        context = None if tls is None else _tls(*tls)
        self.witness = Witness(folder, say)
        try:
            self._server = _Server(listen, self.witness, context, say)
        except OSError as error:
            self.witness.close()
            raise SettingsError(f"{listen}: {error.strerror}") from None
        host, port = self._server.server_address[:2]
        self.address = Address(str(host), int(port))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more; a checkpoint that is being kept is kept first."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.witness.close()


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not usable PEM"
        raise SettingsError(f"{certificate}, {key}: {reason}") from None
    return context


def _no_passphrase() -> str:
    raise ValueError


def run(
    folder: Path, listen: Address, *, say: Say, tls: tuple[Path, Path] | None, plain: bool
) -> int:
    """Serve the witness in `folder` until SIGTERM or SIGINT; return 0.

    Raises:
        SettingsError: it could not start.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = WitnessServer(folder, listen, say=say, tls=tls, plain=plain)
    address = server.address
    say(
        {
            "event": "listening",
            "address": address.host,
            "port": address.port,
            "witness": server.witness.vkey,
        }
    )
    ended.wait()
    server.close()
    say({"event": "stopped"})
    return 0
