"""The operational log of a gateway's processes: JSON lines that never hold content."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog


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
