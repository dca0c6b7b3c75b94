"""What entries a log has, and what each of them must hold.

An entry is what somebody with the key has signed, not what is well formed; so every reader asks
here before it looks at a member.

Format: docs/formats/archive.md, "Log"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from agentaudit.errors import ArchiveError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAX_TIME_US = 253_402_300_800_000_000  # the year 10000

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _time(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_TIME_US


def _uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.match(value) is not None


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.match(value) is not None


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*names: str) -> Check:
    return lambda value: value in names


def _file(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in value and check(value[name]) for name, check in _FILE.items()
    )


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_file, value.values()))


def _selector(value: Any) -> bool:
    """Say whether `value` selects sessions: no member selects nothing, so one is needed."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(name in _SELECTOR and _SELECTOR[name](part) for name, part in value.items())
    )


_FILE: dict[str, Check] = {"path": _text, "sha256": _sha256, "bytes": _count, "rows": _count}

# `user` is an HMAC: nobody's name is kept for ever.
_SELECTOR: dict[str, Check] = {
    "session": _uuid,
    "user": _sha256,
    "target": _text,
    "since": _time,
    "until": _time,
}

MEMBERS: dict[str, dict[str, Check]] = {
    "genesis": {
        "format": _count,
        "origin": _text,
        "gateway": _text,
        "host": _text,
        "clock": _text,
        "key": _text,
        "epoch_key": _text,
    },
    "key_epoch": {"key": _text, "signature": _text},
    "start": {"version": _text, "clock": _text},
    "policy": {"sha256": _sha256},
    "open_segment": {"segment": _uuid, "first_event": _count},
    "tick": {"segment": _uuid, "n": _count, "root": _sha256},
    "heartbeat": {"next_event": _count},
    "seal": {
        "segment": _uuid,
        "previous": _optional(_uuid),
        "first_event": _count,
        "n": _count,
        "root": _sha256,
        "head": _text,
        "files": _files,
        "first_at": _time,
        "last_at": _time,
        "sessions_opened": _count,
        "sessions_closed": _count,
        "sessions_open": _count,
        "commands": _count,
        "sessions_root": _sha256,
        "decisions": _count,
        "clock": _text,
        "policy": _optional(_sha256),
    },
    "purge_intent": {
        "purge": _uuid,
        "what": _one_of("sessions", "payloads"),
        "basis": _one_of("policy", "decision"),
        "policy": _optional(_sha256),
        "decision": _optional(_count),
        "list": _sha256,
        "sessions": _count,
        "segments": _count,
    },
    "purge_done": {
        "purge": _uuid,
        "segment": _uuid,
        "rows": _count,
        "files": _files,
        "residue": _optional(_file),
        "salts": _optional(_file),
    },
    "legal_hold_set": {"hold": _uuid, "selector": _selector, "event": _count},
    "legal_hold_release": {"hold": _uuid, "event": _count},
    "anchor": {"size": _count, "root": _sha256, "authority": _text, "sha256": _sha256},
    "export": {"event": _count},
    "retire": {"next_event": _count},
    "recovery": {"segment": _uuid, "sessions_closed": _count},
    "incident": {"journal": _text, "what": _text},
    "stop": {"next_event": _count},
}
"""The entries of format 1 that this release writes, each with the members that it must have."""


def check_entry(number: int, entry: Any) -> None:
    """Return if `entry` has what its type needs; a type that is not known needs nothing.

    Raises:
        ArchiveError: it is no object with a type and a time, or a member is missing or of
            another form.
    """
    place = f"log entry {number}"
    if not isinstance(entry, dict) or not _text(entry.get("type")) or not _time(entry.get("at")):
        raise ArchiveError(f"{place}: not an object with a type and a time")
    for name, check in MEMBERS.get(entry["type"], {}).items():
        if name not in entry or not check(entry[name]):
            raise ArchiveError(f"{place}: a {entry['type']} without a well-formed {name}")
