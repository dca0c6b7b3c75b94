"""Runs nanoidp, an OpenID Connect provider, on a port that the kernel picks, or on the one it had.

Its own command line cannot: there, port 0 means its default. Everything else is the provider as
it ships, with the settings that this module writes. Its address is written to `address` in the
settings folder once it listens.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SETTINGS = """\
config_version: 1
oauth:
  issuer: "http://127.0.0.1"
  issuer_from_request: true
  audience: "{audience}"
  token_expiry_minutes: 60
jwt:
  keys_dir: "{directory}/keys"
session:
  secret_key: "{secret}"
"""


def serve(directory: Path, audience: str, port: int) -> None:
    """Serve until the process is ended; users and clients are added over its own API."""
    from nanoidp.app import create_app
    from werkzeug.serving import make_server

    settings = _SETTINGS.format(audience=audience, directory=directory, secret=os.urandom(16).hex())
    (directory / "settings.yaml").write_text(settings, encoding="utf-8")
    (directory / "users.yaml").write_text("config_version: 1\nusers: {}\n", encoding="utf-8")
    server = make_server("127.0.0.1", port, create_app(str(directory)), threaded=True)
    # Renamed into place: who finds the file finds all of it.
    pending = directory / "address.tmp"
    pending.write_text(f"http://127.0.0.1:{server.server_port}", encoding="ascii")
    pending.rename(directory / "address")
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
