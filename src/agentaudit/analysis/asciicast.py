r"""A recorded terminal as asciicast v3, which players of others play.

It has what passed, masked where it was masked, escape sequences and all: a player obeys them. As a
file it is ASCII, which no terminal obeys. What the gateway said itself has a marker.

Source: docs.asciinema.org/manual/asciicast/v3
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from agentaudit.analysis.printable import printable
from agentaudit.model import Side

if TYPE_CHECKING:
    from agentaudit.analysis.terminal import Terminal

MARK: Final = "agentaudit: "
"""How the marker begins that stands where the gateway speaks."""

_MAX_TITLE: Final = 200


def lines(terminal: Terminal, *, typed: bool) -> Iterator[str]:
    """Yield the lines of the file, each with its end; with what was `typed`, if that is asked."""
    yield _header(terminal)
    before_us = 0
    # What a character of several bytes is cut into are several events, and JSON holds characters.
    readers = {side: codecs.getincrementaldecoder("utf-8")("replace") for side in Side}
    for moment in terminal.moments():
        told: list[tuple[str, str]] = []
        if moment.kind == "size":
            columns, rows = moment.size
            told.append(("r", f"{columns}x{rows}"))
        elif moment.kind == "exit":
            told.append(("x", str(moment.status)))
        elif moment.kind == "output":
            if moment.is_ours:
                told.append(("m", MARK + printable(moment.text)))
            told.append(("o", readers[Side.TARGET].decode(moment.data)))
        elif typed:
            told.append(("i", readers[Side.CLIENT].decode(moment.data)))
        for code, data in told:
            if data:
                yield f"[{_seconds(moment.at_us - before_us)}, {_json(code)}, {_json(data)}]\n"
                before_us = moment.at_us
    rest = readers[Side.TARGET].decode(b"", final=True)
    if rest:
        yield f"[{_seconds(0)}, {_json('o')}, {_json(rest)}]\n"


def _header(terminal: Terminal) -> str:
    session = terminal.session
    facts, command = session.facts, session.command(terminal.command_no)
    columns, rows = terminal.size
    kind: dict[str, Any] = {"cols": columns, "rows": rows}
    if terminal.kind:
        kind["type"] = printable(terminal.kind)
    title = (
        f"{facts['user'] or 'unknown user'} on {facts['target']}, session {session.id}, "
        f"command {terminal.command_no}"
    )
    header: dict[str, Any] = {"version": 3, "term": kind}
    header["timestamp"] = int(terminal.began_at.timestamp())
    header["title"] = printable(title[:_MAX_TITLE])
    if command["text"]:
        header["command"] = printable(command["text"])
    return _json(header) + "\n"


def _seconds(us: int) -> str:
    """Return a time of microseconds as seconds, exactly.

    >>> _seconds(0), _seconds(1_000_001), _seconds(12_300_000)
    ('0.0', '1.000001', '12.3')
    """
    whole, part = divmod(max(0, us), 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0") + ("0" if not part else "")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
