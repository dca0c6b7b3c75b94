"""agentaudit: what AI agents did, recorded, proven and replayed.

The names below load on first use (PEP 562): a gateway runs without DuckDB, and an analyst without
uvloop or asyncssh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from agentaudit.analysis.case import Case
    from agentaudit.analysis.session import Session
    from agentaudit.archive.prove import prove
    from agentaudit.archive.verification import Verification
    from agentaudit.archive.verify import verify

_HOME = {
    "Case": "agentaudit.analysis.case",
    "Session": "agentaudit.analysis.session",
    "Verification": "agentaudit.archive.verification",
    "prove": "agentaudit.archive.prove",
    "verify": "agentaudit.archive.verify",
}

__all__ = ["Case", "Session", "Verification", "load", "prove", "verify"]


def load(path: str | PathLike[str], *, notes: str | PathLike[str] | None = None) -> Case:
    """Open the archive at `path` for reading, and remember how far its logs have come.

    A log that is behind, beside or signed otherwise than what this machine remembers of it is
    warned of, and named in `Case.contradictions`: it may have been rolled back. A gateway that
    records into the archive on this machine records who opened it; `Case.access` says so. What
    people say of it lies in the file `notes`; unless given, `<path>.notes.jsonl`, beside it.

    Raises:
        ArchiveError: no archive is there, or it is of a format that this version does not know.
        QuestionError: `notes` is inside the archive.
    """
    from functools import partial
    from pathlib import Path

    from agentaudit.analysis.case import Case
    from agentaudit.client import local

    return Case(
        Path(path),
        record=partial(local.record_access, Path(path)),
        notes=None if notes is None else Path(notes),
    )


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
