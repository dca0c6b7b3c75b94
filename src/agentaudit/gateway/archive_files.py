"""`GET /v1/archive`: an archive's files for auditors, and `POST /v1/access`: records of access.

Who fetches is in the archive before a byte is sent: the running gateway is asked through its own
socket, and where it does not answer nothing is given. Files that hold hashes and signatures alone
leave one record for all that somebody fetches of them within a while; what was said leaves one
each.

Contract: docs/archive-files.md
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from io import BufferedReader
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header
from fastapi.exceptions import HTTPException
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from agentaudit.archive.layout import Layout
from agentaudit.archive.rows import valid_text
from agentaudit.archive.served import is_log_file, is_served, open_served
from agentaudit.client.local import record_access
from agentaudit.gateway.control import Caller, Control, Forbidden, Here, Shared

LOG_FILES_S: Final = 600.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_DETAIL: Final = 500
_MAX_REMEMBERED: Final = 1000

router = APIRouter()


class Access(BaseModel):
    """`POST /v1/access`: what somebody does with what they have of the archive."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["open", "search", "export", "verify"]
    object: Annotated[str, Field(min_length=1, max_length=_MAX_DETAIL)]
    detail: Annotated[str, Field(max_length=_MAX_DETAIL)] = ""


class _Recent:
    """Who has fetched log files a short while ago, by the monotonic clock."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def has(self, who: tuple[str, str]) -> bool:
        with self._lock:
            return time.monotonic() - self._at.get(who, float("-inf")) < LOG_FILES_S

    def add(self, who: tuple[str, str]) -> None:
        with self._lock:
            if len(self._at) >= _MAX_REMEMBERED:
                self._at.clear()
            self._at[who] = time.monotonic()


_recent: Final = _Recent()


def _record(control: Control, caller: Caller, action: str, object_: str, detail: str = "") -> None:
    """Leave a record of access in the archive.

    Raises:
        HTTPException: that cannot be done now.
    """
    actor = caller.actor
    who = f"by {actor.user[:120]} ({actor.subject[:120]} of {actor.issuer[:200]})"
    said = valid_text(f"{who}: {detail}" if detail else who)[:_MAX_DETAIL]
    if not record_access(control.settings.gateway.archive, action, valid_text(object_), said):
        raise HTTPException(503, "no record of this access can be left, so nothing is given")


def _require_auditor(control: Control, caller: Caller) -> None:
    if not control.oversees(caller):
        raise Forbidden("only admins and auditors read the archive")


@router.post("/v1/access", status_code=201)
def leave_record(control: Shared, caller: Here, access: Access) -> dict[str, bool]:
    """Leave a record of what one does with a copy of the archive (admins and auditors)."""
    _require_auditor(control, caller)
    _record(control, caller, access.action, access.object, access.detail)
    return {"recorded": True}


@router.get("/v1/archive")
def index(control: Shared, caller: Here) -> dict[str, Any]:
    """List the logs that the archive has (admins and auditors); what is in it, they say."""
    _require_auditor(control, caller)
    return {"logs": Layout(control.settings.gateway.archive).gateways()}


@router.get("/v1/archive/{path:path}", response_class=Response)
def file(
    control: Shared,
    caller: Here,
    path: str,
    range: Annotated[str, Header(max_length=100)] = "",
    if_range: Annotated[str, Header(max_length=200)] = "",
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """Return a file that belongs to the archive (admins and auditors); it is recorded first."""
    _require_auditor(control, caller)
    if not is_served(path):
        raise HTTPException(404, "no file of an archive has such a path")
    try:
        opened = open_served(control.settings.gateway.archive, path)
    except OSError:
        raise HTTPException(404, "there is no such file") from None
    try:
        return _answer(control, caller, path, opened, range, if_range, if_none_match)
    except BaseException:
        opened.close()
        raise


def _answer(
    control: Control,
    caller: Caller,
    path: str,
    opened: BufferedReader,
    range_: str,
    if_range: str,
    if_none_match: str,
) -> Response:
    status = os.fstat(opened.fileno())
    size = status.st_size
    tag = f'"{status.st_mtime_ns:x}-{size:x}-{status.st_ino:x}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "no-store"}
    if tag in if_none_match or if_none_match == "*":
        opened.close()
        return Response(status_code=304, headers=headers)
    first, last, number = 0, size - 1, 200
    if range_ and if_range in ("", tag):
        asked = _range(range_, size)
        if asked is None:
            opened.close()
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        if asked != (0, size - 1):
            (first, last), number = asked, 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    if not is_log_file(path):
        _record(control, caller, "export", path, headers.get("Content-Range", ""))
    elif not _recent.has(caller.who):
        _record(control, caller, "export", "files of the log")
        _recent.add(caller.who)
    headers["Content-Length"] = str(last - first + 1)
    opened.seek(first)
    return StreamingResponse(
        _chunks(opened, last - first + 1), number, headers, "application/octet-stream"
    )


_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Return first and last byte of the one range that `text` asks for, or None: there is none.

    What is no such range is passed over, as RFC 9110, section 14.2, has it.
    """
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return 0, size - 1
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            return 0, size - 1
    return (first, last) if first <= last else None


def _chunks(opened: BufferedReader, size: int) -> Iterator[bytes]:
    with opened:
        while size > 0 and (data := opened.read(min(size, _CHUNK_BYTES))):
            size -= len(data)
            yield data
