"""agentaudit: what AI agents did, recorded, proven and replayed.

The names below load on first use (PEP 562): a gateway runs without DuckDB, and an analyst without
uvloop or asyncssh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case, load
    from agentaudit.analysis.session import Session
    from agentaudit.archive.prove import prove
    from agentaudit.archive.verification import Verification
    from agentaudit.archive.verify import verify

_HOME = {
    "Case": "agentaudit.analysis.case",
    "Session": "agentaudit.analysis.session",
    "Verification": "agentaudit.archive.verification",
    "load": "agentaudit.analysis.case",
    "prove": "agentaudit.archive.prove",
    "verify": "agentaudit.archive.verify",
}

__all__ = ["Case", "Session", "Verification", "load", "prove", "verify"]


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
