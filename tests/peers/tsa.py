"""A time-stamping authority: `openssl ts`, behind HTTP on loopback.

Keys are EC, so that a run costs no RSA key; the request's path chooses what it does wrong.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CONFIG = """\
[tsa]
default_tsa = tsa1
[tsa1]
dir = {folder}
serial = $dir/serial
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
clock_precision_digits = 0
ordering = no
ess_cert_id_chain = no
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[stamping]
extendedKeyUsage = critical, timeStamping
keyUsage = critical, digitalSignature
"""


class TimeStamper:
    """An authority with a root of its own; `ca_file` is what its clients trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.ca_file = folder / "ca.pem"
        self.url = ""
        self.asked = 0
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        self._lock = threading.Lock()
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        config = ["-config", "tsa.cnf"]
        self._openssl(
            ["req", "-x509", *config, *key, "-keyout", "ca.key", "-out", "ca.pem"]
            + ["-days", "2", "-subj", "/CN=stamp root", "-extensions", "ca"]
        )
        self._openssl(
            ["req", *config, *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=stamper"]
        )
        self._openssl(
            ["x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2"]
            + ["-CAcreateserial", "-extfile", "tsa.cnf", "-extensions", "stamping"]
            + ["-out", "tsa.pem"]
        )

    def _openssl(self, words: list[str]) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)

    def reply(self, request: bytes) -> bytes:
        """Return the response of `openssl ts` to a request."""
        with self._lock:
            self.asked += 1
            (self._folder / "request").write_bytes(request)
            self._openssl(
                ["ts", "-reply", "-config", "tsa.cnf", "-queryfile", "request", "-out", "response"]
            )
            return (self._folder / "response").read_bytes()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve it; `/` stamps, `/old` sends the first token again, `/broken` flips a byte."""
        stamper, first = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                token = stamper.reply(self.rfile.read(int(self.headers["Content-Length"])))
                first.append(token)
                if self.path == "/old":
                    token = first[0]
                elif self.path == "/broken":
                    token = token[:-20] + bytes([token[-20] ^ 1]) + token[-19:]
                elif self.path == "/down":
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(token)))
                self.end_headers()
                self.wfile.write(token)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
