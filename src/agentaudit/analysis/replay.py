"""What a replay shows of a session, as plain values: widget, server and report tell the same.

Texts are as they were recorded: whoever draws them writes out what a reader would obey. The names
are those of `extension/components/src/replay/answers.ts`; times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentaudit.analysis import cells
from agentaudit.analysis.transcript import Cut

if TYPE_CHECKING:
    import pyarrow as pa

_FACTS: Final = (
    "user",
    "agent",
    "issuer",
    "target",
    "protocol",
    "gateway",
    "close_reason",
    "client_addr",
    "client_app",
    "bytes_in",
    "bytes_out",
    "masked",
)
_COMMAND: Final = (
    "command_no",
    "operation",
    "status",
    "decision",
    "rule",
    "confidence",
    "error_code",
    "error_text",
    "duration_us",
    "rows_returned",
    "rows_affected",
    "bytes_in",
    "bytes_out",
    "txn_no",
    "txn_status",
    "masked",
    "params",
    "first_event_no",
    "last_event_no",
)


def session(identity: UUID, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose session it was and what it came to, from its row in `sessions`."""
    shown: dict[str, Any] = {name: facts[name] for name in _FACTS}
    shown["id"] = str(identity)
    shown["opened_at"] = microseconds(facts["opened_at"])
    shown["closed_at"] = microseconds(facts["closed_at"])
    return shown


def command(
    row: Mapping[str, Any], cut: Cut | None, *, has_terminal: bool = False
) -> dict[str, Any]:
    """Return a command from its row in `commands`, without its text.

    What was said on a terminal is its screen to see; of any other SSH command the lines are rows.
    """
    shown = {name: row[name] for name in _COMMAND}
    shown["cls"] = row["class"]
    shown["started_at"] = microseconds(row["started_at"])
    shown["ended_at"] = microseconds(row["ended_at"])
    shown["resources"] = row["resources"] or []
    shown["risk"] = row["risk"] or []
    shown["cut"] = None if cut is None else cut.words()
    # What COPY sends has no columns in its row; its lines are one.
    is_copied = row["operation"] == "COPY" and row["rows_returned"] is not None
    is_said = row["protocol"] == "ssh" and row["operation"] in ("exec", "shell")
    has_lines = is_said and not has_terminal and bool(row["bytes_out"])
    has_rows = is_copied or bool(row["columns"]) or has_lines
    shown["has_terminal"] = has_terminal and not (cut is not None and cut.is_purged)
    shown["returns_rows"] = has_rows and not (cut is not None and cut.is_purged)
    return shown


def columns(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return name and type of each column of a result, and whether it holds numbers."""
    return [
        {"name": field.name, "type": type_name, "numeric": _is_number(field)}
        for field, type_name in zip(schema, cells.type_names(schema), strict=True)
    ]


def cell(text: str | None, limit: int) -> str | dict[str, Any] | None:
    """Return a value as text; of one with more than `limit` characters the first, and its length.

    >>> cell("abc", 3), cell("abcd", 3)
    ('abc', {'text': 'abc', 'length': 4})
    """
    if text is None or len(text) <= limit:
        return text
    return {"text": text[:limit], "length": len(text)}


def microseconds(time: datetime | None) -> int | None:
    """Return a time as microseconds since 1970, None for none."""
    return None if time is None else round(time.timestamp() * 1_000_000)


def _is_number(field: pa.Field) -> bool:
    import pyarrow.types as kinds

    return bool(
        kinds.is_integer(field.type)
        or kinds.is_floating(field.type)
        or kinds.is_decimal(field.type)
    )
