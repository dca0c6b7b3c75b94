"""The rows of the derived tables, as canonical JSON made at record time.

A row is the payload of an event (`command_end`, `session_open`, `session_close`), so its leaf
proves it, and a later parser that would read the bytes otherwise is no tampering. What is
constant in a session stands once, in `session_open`, and nulls and empty lists are left out.

Format: docs/formats/archive.md, "Rows"
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agentaudit import _native
from agentaudit.archive import canonical
from agentaudit.archive.batch import Entry
from agentaudit.archive.journal import OpenSession
from agentaudit.model import Command, SessionFacts, Span

MAX_ROW_TEXT_BYTES = 64 * 1024
"""A row holds the beginning of a longer text; its request event holds all of it."""

RESPONSE_HASH = "response:"
"""What stands in a row's `sha256` before the hash of a whole response of which a prefix is kept;
the others are of messages that were cut into several events."""

_MAX_INT = 2**53 - 1
_MAX_INT32 = 2**31 - 1
_INT32_COLUMNS = frozenset({"target_pid", "gateway_port", "txn_no", "masked"})

# The members of a command's row, as RFC 8785 sorts them.
_COMMAND = (
    b"bytes_in",
    b"bytes_out",
    b"class",
    b"columns",
    b"command_no",
    b"confidence",
    b"decision",
    b"duration_us",
    b"ended_at",
    b"error_code",
    b"error_text",
    b"estimated_rows",
    b"fingerprint",
    b"first_event_no",
    b"last_event_no",
    b"masked",
    b"operation",
    b"origins",
    b"params",
    b"parser",
    b"paths",
    b"request_id",
    b"resources",
    b"risk",
    b"rows_affected",
    b"rows_returned",
    b"rule",
    b"sha256",
    b"started_at",
    b"status",
    b"target_ref",
    b"text",
    b"traceparent",
    b"txn_no",
    b"txn_status",
)


def command_row(command: Command, ended_us: int, duration_us: int) -> bytes:
    """Return the payload of a `command_end` event."""
    values = (
        command.bytes_in,
        command.bytes_out,
        command.cls,
        command.columns or None,
        command.command_no,
        command.confidence,
        command.decision,
        duration_us,
        ended_us,
        command.error_code,
        command.error_text,
        command.estimated_rows,
        command.fingerprint,
        command.first_event_no,
        command.last_event_no,
        command.masked,
        command.operation,
        command.origins or None,
        # A statement without parameters differs from one whose parameters were not kept.
        command.params,
        command.parser,
        command.paths or None,
        None if command.request_id is None else str(command.request_id),
        command.resources or None,
        command.risk or None,
        command.rows_affected,
        command.rows_returned,
        command.rule,
        command.sha256 or None,
        command.started_at_us,
        command.status,
        command.target_ref,
        command.text,
        command.traceparent,
        command.txn_no,
        command.txn_status,
    )
    is_plain = command.txn_no is None or command.txn_no <= _MAX_INT32
    row = _native.object_bytes(_COMMAND, values) if is_plain else None
    if row is not None:
        return row
    return encode(
        {
            name.decode(): value
            for name, value in zip(_COMMAND, values, strict=True)
            if value is not None
        }
    )


def incomplete_row(
    request: Entry, *, bytes_in: int, bytes_out: int, last_event_no: int
) -> dict[str, Any]:
    """Return the row of a command whose end nobody has seen, as far as its events tell it."""
    return {
        "command_no": request.command_no,
        "class": "unknown",
        "confidence": "uncertain",
        "decision": "allow",
        "rule": "none",
        "operation": "",
        "text": (request.text or b"")[:MAX_ROW_TEXT_BYTES].decode(errors="ignore"),
        "status": "incomplete",
        "started_at": request.observed_us,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "masked": 0,
        "first_event_no": request.event_no,
        "last_event_no": last_event_no,
    }


def session_facts(facts: SessionFacts, gateway: str) -> dict[str, Any]:
    """Return the members of a `session_open` payload: all that is constant in the session."""
    members: dict[str, Any] = {"gateway": gateway}
    for name in SessionFacts.__slots__:
        value = getattr(facts, name)
        if isinstance(value, UUID):
            value = str(value)
        elif name == "labels":
            value = dict(value)
        if value not in (None, "", (), {}):
            members[name] = list(value) if isinstance(value, tuple) else value
    cleaned: dict[str, Any] = _clean(members)
    return cleaned


def encode(row: dict[str, Any]) -> bytes:
    """Return `row` as canonical JSON, whatever the wire put into it.

    Lone surrogates become U+FFFD, and a count that its column cannot hold is left out: a value
    that no table takes must not be what ends recording.
    """
    try:
        if row.get("txn_no", 0) <= _MAX_INT32 and row.get("target_pid", 0) <= _MAX_INT32:
            return canonical.encode(row)
    except TypeError:
        pass
    return canonical.encode(_clean(row))


def cut_text(text: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of UTF-8 `text`, which is longer, cut at a character."""
    end = limit
    while end > 0 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]


def valid_text(text: str) -> str:
    """Return `text` with U+FFFD for what no UTF-8 can hold (lone surrogates)."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(value: Any, name: str = "") -> Any:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        cleaned = {_ascii(key): _clean(item, key) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None}
    if isinstance(value, int) and not isinstance(value, bool):
        limit = _MAX_INT32 if name in _INT32_COLUMNS else _MAX_INT
        return value if -limit <= value <= limit else None
    return value


def _ascii(name: str) -> str:
    """Return `name` as ASCII, so that all agree on the order of an object's members."""
    return name.encode("ascii", "backslashreplace").decode()


def session_close_row(
    *,
    reason: str,
    closed_us: int,
    last_seq: int,
    commands: int,
    bytes_in: int,
    bytes_out: int,
    masked: int,
) -> dict[str, Any]:
    """Return the members of a `session_close` payload; the sealer adds `leaves_sha256`."""
    return {
        "close_reason": reason,
        "closed_at": closed_us,
        "last_seq": last_seq,
        "events": last_seq + 1,
        "commands": commands,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "masked": masked,
    }


def closed_session(session: OpenSession, closed_us: int) -> bytes:
    """Return what a seal's `sessions_root` commits to of a session that closed in its segment.

    It is what decides when a session is due and whether it is held; so when its rows are purged,
    this can still be proven to be what was said of it when it closed.
    """
    return canonical.encode(
        {
            "closed_at": closed_us,
            "opened_at": session.opened_us,
            "session_id": str(session.session_id),
            "target": session.facts.get("target", ""),
            "user": session.facts.get("user_hmac", ""),
        }
    )


def span_members(spans: tuple[Span, ...]) -> list[dict[str, Any]]:
    """Return masked spans as canonical JSON hashes them (`spans_digest`)."""
    return [
        {"rule": s.rule, "place": s.place, "offset": s.offset, "length": s.length} for s in spans
    ]
