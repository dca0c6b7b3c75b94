"""Secrets, which stand in the settings only by reference: a file, a command, or the environment.

They are read when they are needed and kept in no model; no error holds one, nor what a command that
was to print it said.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from agentaudit.errors import SettingsError

MAX_SECRET_BYTES = 64 * 1024
SECRET_COMMAND_TIMEOUT_S = 10


def read_limited(path: Path, where: str) -> bytes:
    """Return what a file holds, up to one byte more than a secret may have."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{where} {path}: {error.strerror or 'cannot be read'}",
            hint="create the file, readable for the gateway alone",
        ) from None


def read_private(path: Path, where: str) -> bytes:
    """Return what `read_limited` does, of a file that its owner alone can read.

    Raises:
        SettingsError: there is none, or group or others may read or write it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return read_limited(path, where)  # which says what is wrong
    if mode & 0o077:
        raise SettingsError(
            f"{where} {path}: its mode is {mode & 0o777:04o}, others than its owner have it too",
            hint=f"chmod 600 {path}",
        )
    return read_limited(path, where)


def run_limited(argv: Sequence[str], where: str, key: str = "password_command") -> bytes:
    """Return what the command that `key` names prints; it is given 10 s."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECRET_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        # Neither text of these holds the command's output, but a timeout's holds the whole argv.
        problem = "took too long" if isinstance(error, subprocess.TimeoutExpired) else "cannot run"
        raise SettingsError(f"{where}: {key} {argv[0]}: {problem}") from None
    if done.returncode:
        raise SettingsError(
            f"{where}: {key} {argv[0]}: exit status {done.returncode}",
            hint="run it by hand as the gateway's user",
        )
    return done.stdout


def decoded(raw: bytes, where: str, what: str = "password") -> str:
    """Return the text of a secret; one newline at the end is not part of it."""
    if len(raw) > MAX_SECRET_BYTES:
        raise SettingsError(f"{where}: the {what} is longer than {MAX_SECRET_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{where}: the {what} is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\0" in text:
        raise SettingsError(f"{where}: the {what} is empty or holds a NUL")
    return text
