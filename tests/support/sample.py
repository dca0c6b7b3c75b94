"""The sample archive, and the session in it that everything else is about."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import agentaudit
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import read_log

SAMPLE: Final = Path(__file__).parents[2] / "sample_data" / "archive"


def incident() -> tuple[str, int]:
    """Return session and number of the command that deleted most: ids are new with each sample."""
    ((session, number),) = (
        agentaudit.load(SAMPLE)
        .sql(
            "SELECT session_id, command_no FROM commands WHERE operation = 'DELETE' "
            "ORDER BY rows_affected DESC LIMIT 1"
        )
        .fetchall()
    )
    return str(session), int(number)


def size_and_events() -> tuple[int, int]:
    """Return how many entries its log has, and how many events that says were recorded."""
    entries = list(read_log(Layout(SAMPLE).log("gw1"), []).entries())
    assert entries[-1]["type"] == "stop"
    return len(entries), entries[-1]["next_event"]
