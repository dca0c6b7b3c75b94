"""The rows of the derived tables, as canonical JSON made at record time.

A row is the payload of an event (`command_end`, `session_open`, `session_close`), so its leaf
proves it, and a later parser that would read the bytes otherwise is no tampering. What is
constant in a session stands once, in `session_open`, and nulls and empty lists are left out.

Format: docs/formats/archive.md, "Rows"
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agentaudit._native.raw import Members
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

_LISTS = ("columns", "origins", "paths", "resources", "risk", "sha256")
_NULLABLE = (
    *("error_code", "error_text", "estimated_rows", "params", "request_id", "rows_affected"),
    *("rows_returned", "target_ref", "traceparent", "txn_no", "txn_status"),
)
_OTHERS = (
    *("bytes_in", "bytes_out", "command_no", "confidence", "decision", "fingerprint"),
    *("first_event_no", "last_event_no", "masked", "operation", "parser", "rule", "status", "text"),
)

_members = Members()


def command_row(command: Command, ended_us: int, duration_us: int) -> bytes:
    """Return the payload of a `command_end` event."""
    request_id = None if command.request_id is None else str(command.request_id)
    row = _members
    # There is one for all: nothing from here to `end` runs anybody else's Python.
    row.begin()
    # Sorted, as RFC 8785 has it.
    row.integer(b'{"bytes_in":', command.bytes_in)
    row.integer(b',"bytes_out":', command.bytes_out)
    row.text(b',"class":', command.cls)
    if command.columns:
        row.texts(b',"columns":', command.columns)
    row.integer(b',"command_no":', command.command_no)
    row.text(b',"confidence":', command.confidence)
    row.text(b',"decision":', command.decision)
    row.integer(b',"duration_us":', duration_us)
    row.integer(b',"ended_at":', ended_us)
    if command.error_code is not None:
        row.text(b',"error_code":', command.error_code)
    if command.error_text is not None:
        row.text(b',"error_text":', command.error_text)
    if command.estimated_rows is not None:
        row.number(b',"estimated_rows":', command.estimated_rows)
    row.text(b',"fingerprint":', command.fingerprint)
    row.integer(b',"first_event_no":', command.first_event_no)
    row.integer(b',"last_event_no":', command.last_event_no)
    row.integer(b',"masked":', command.masked)
    row.text(b',"operation":', command.operation)
    if command.origins:
        row.texts(b',"origins":', command.origins)
    # A statement without parameters differs from one whose parameters were not kept.
    if command.params is not None:
        row.texts(b',"params":', command.params)
    row.text(b',"parser":', command.parser)
    if command.paths:
        row.texts(b',"paths":', command.paths)
    if request_id is not None:
        row.text(b',"request_id":', request_id)
    if command.resources:
        row.texts(b',"resources":', command.resources)
    if command.risk:
        row.texts(b',"risk":', command.risk)
    if command.rows_affected is not None:
        row.number(b',"rows_affected":', command.rows_affected)
    if command.rows_returned is not None:
        row.number(b',"rows_returned":', command.rows_returned)
    row.text(b',"rule":', command.rule)
    if command.sha256:
        row.texts(b',"sha256":', command.sha256)
    row.integer(b',"started_at":', command.started_at_us)
    row.text(b',"status":', command.status)
    if command.target_ref is not None:
        row.text(b',"target_ref":', command.target_ref)
    row.text(b',"text":', command.text)
    if command.traceparent is not None:
        row.text(b',"traceparent":', command.traceparent)
    if command.txn_no is not None:
        row.number(b',"txn_no":', command.txn_no)
    if command.txn_status is not None:
        row.text(b',"txn_status":', command.txn_status)
    made = row.end()
    if made is not None and (command.txn_no is None or command.txn_no <= _MAX_INT32):
        return made
    return encode(_command_members(command, ended_us, duration_us))


def _command_members(command: Command, ended_us: int, duration_us: int) -> dict[str, Any]:
    """Return what `command_row` spells."""
    members: dict[str, Any] = {name: getattr(command, name) for name in _OTHERS}
    members["class"] = command.cls
    members["duration_us"] = duration_us
    members["started_at"] = command.started_at_us
    members["ended_at"] = ended_us
    for name in _NULLABLE:
        value = getattr(command, name)
        if value is not None:
            members[name] = str(value) if name == "request_id" else value
    for name in _LISTS:
        values = getattr(command, name)
        if values:
            members[name] = values
    return members


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
