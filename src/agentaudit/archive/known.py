"""What this machine remembers of logs it has seen: key and last checkpoint per origin.

The archive cannot prove by itself that it is not an older or another one. What was seen before,
kept outside it, can: an archive behind or beside its remembered checkpoint was rolled back or
forked. The file is the user's own state, never part of the archive.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentaudit.archive import canonical
from agentaudit.archive.files import make_folder, replace
from agentaudit.archive.note import Checkpoint
from agentaudit.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class Known:
    """A log as it was last seen."""

    key: str
    checkpoint: Checkpoint


def state_folder() -> Path:
    """Return where the user's state lives (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "agentaudit"


def recall(origin: str) -> Known | None:
    """Return what is remembered of the log `origin`, or None.

    Raises:
        ArchiveError: the memory cannot be read.
    """
    value = _load(_file()).get(origin)
    if value is None:
        return None
    checkpoint = Checkpoint(origin, int(value["size"]), bytes.fromhex(value["root"]))
    return Known(str(value["key"]), checkpoint)


def remember(key: str, checkpoint: Checkpoint) -> None:
    """Keep `checkpoint` as the last one seen of its origin, signed by verifier key `key`."""
    path = _file()
    make_folder(path.parent)
    with _locked(path):
        logs = _load(path)
        logs[checkpoint.origin] = {
            "key": key,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
        }
        replace(path, canonical.encode(logs))


def _file() -> Path:
    return state_folder() / "known-logs.json"


def _load(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from error
    try:
        logs = canonical.decode(data)
    except ValueError:
        logs = None
    if not isinstance(logs, dict):
        raise ArchiveError(
            f"{path}: damaged", hint="move it away; then give --key, and --since if you have one"
        )
    return logs


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
