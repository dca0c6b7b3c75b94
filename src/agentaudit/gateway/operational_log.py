"""The operational log of a gateway's processes: JSON lines that never hold content."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Coroutine, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()


def configure_log(**members: str) -> None:
    """Let structlog write JSON lines to standard error, and let nothing else write there.

    Each line has `members` as well.
    """

    def add_members(_: object, __: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {**members, **line}

    structlog.configure(
        processors=[
            add_members,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # asyncio and the libraries quote what they were given.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def without_content(error: BaseException) -> dict[str, Any]:
    """Return type and places of `error`: the texts of foreign exceptions may quote the wire."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "at": [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames],
    }


async def guarded(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and log what nobody expected: it must not end all else of a task group."""
    try:
        await work
    except Exception as error:
        log.error("a task failed unexpectedly", **without_content(error))
