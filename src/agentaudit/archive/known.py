"""What this machine remembers of logs it has seen: key and last checkpoint per origin.

The archive cannot prove by itself that it is not an older or another one. What was seen before,
kept outside it, can: an archive behind or beside its remembered checkpoint was rolled back or
forked. The file is the user's own state, never part of the archive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentaudit.archive import canonical
from agentaudit.archive.files import PRIVATE_MODE, locked, make_folder, replace
from agentaudit.archive.log import Contradiction
from agentaudit.archive.note import Checkpoint
from agentaudit.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Known:
    """A log as it was last seen; `trusted` where its key was given from outside the archive."""

    key: str
    checkpoint: Checkpoint
    trusted: bool


def key_contradictions(known: Known, key: str) -> list[Contradiction]:
    """Return how `key`, which signed a log, contradicts the one that is known of it."""
    if known.key == key:
        return []
    return [
        Contradiction("key", f"signed by {_short(key)}", f"{_short(known.key)}, as remembered,")
    ]


def recall(origin: str) -> Known | None:
    """Return what is remembered of the log `origin`, or None.

    Raises:
        SettingsError: the memory cannot be read.
    """
    return _known(_load(_file()), origin)


def remember(known: Known) -> None:
    """Keep `known` as the last that was seen of its origin.

    A trusted key stays trusted; the caller has found no contradiction.
    """
    path = _file()
    make_folder(path.parent)
    checkpoint = known.checkpoint
    with locked(path):
        logs = _load(path)
        before = _known(logs, checkpoint.origin)
        trusted = known.trusted
        if before is not None and before.key == known.key:
            trusted = trusted or before.trusted
            if before.checkpoint.size > checkpoint.size:
                checkpoint = before.checkpoint  # another reader was faster
        logs[checkpoint.origin] = {
            "key": known.key,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "trusted": trusted,
        }
        replace(path, canonical.encode(logs), mode=PRIVATE_MODE)


def _known(logs: dict[str, Any], origin: str) -> Known | None:
    value = logs.get(origin)
    if value is None:
        return None
    try:
        checkpoint = Checkpoint(origin, int(value["size"]), bytes.fromhex(value["root"]))
        return Known(str(value["key"]), checkpoint, bool(value["trusted"]))
    except (KeyError, TypeError, ValueError):
        raise _damaged(_file()) from None


def _short(key: str) -> str:
    return "+".join(key.split("+")[:2])


def _damaged(path: Path) -> SettingsError:
    return SettingsError(
        f"{path}: damaged", hint="move it away; then give --key, and --since if you have one"
    )


def state_folder() -> Path:
    """Return where the user's state lives (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "agentaudit"


def _file() -> Path:
    return state_folder() / "known-logs.json"


def _load(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    try:
        logs = canonical.decode(data)
    except ValueError:
        logs = None
    if not isinstance(logs, dict):
        raise _damaged(path)
    return logs
