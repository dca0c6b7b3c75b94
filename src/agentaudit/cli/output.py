"""What a verb answers with: a status, and lines that no terminal can be fooled by."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from agentaudit.errors import QuestionError

YES, NO, CANNOT_TELL = 0, 1, 2

MAX_CELL = 40
"""Columns of a terminal: an id has 36."""

Verb = Callable[[argparse.Namespace], int]


def complain(message: str, hint: str) -> int:
    from agentaudit.analysis.printable import printable

    print(f"agentaudit: {printable(message, block=True)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint, block=True)}", file=sys.stderr)
    return CANNOT_TELL


def say(line: dict[str, Any]) -> None:
    """Write a line of a server's operational log."""
    at = datetime.now(UTC).isoformat()
    print(json.dumps({**line, "at": at}, ensure_ascii=True), file=sys.stderr, flush=True)


def say_access(is_recorded: bool) -> None:
    print("access: recorded" if is_recorded else "access: not recorded", file=sys.stderr)


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise QuestionError(f"{path}: {reason}") from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QuestionError(f"{path}: {error.strerror}") from None


def print_json(value: object) -> None:
    print(ascii_json(value))


def ascii_json(value: object) -> str:
    """Return `value` as JSON in printable ASCII: no terminal obeys it, and no text turns around."""
    told = json.dumps(value, ensure_ascii=True, default=_json_value)
    return told.replace("\x7f", "\\u007f")  # the one control that is ASCII and goes unescaped


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def members(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def print_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print aligned columns. `>` aligns to the right.

    A terminal gets lines of its width, in which no cell takes more than `MAX_CELL` columns but the
    last: whoever chose a name could push what stands behind it off the screen.
    """
    from agentaudit.analysis.printable import width

    names = [heading.lstrip(">") for heading in headings]
    right = [heading.startswith(">") for heading in headings]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if room:
        lines = [[*(_cut(cell, MAX_CELL) for cell in line[:-1]), line[-1]] for line in lines]
    widths = [max(map(width, column)) for column in zip(names, *lines, strict=True)]
    for line in (names, *lines):
        cells = []
        for cell, wide, is_right in zip(line, widths, right, strict=True):
            blank = " " * (wide - width(cell))
            cells.append(blank + cell if is_right else cell + blank)
        text = "  ".join(cells).rstrip()
        print(_cut(text, room) if room else text)


def _cut(text: str, most: int) -> str:
    """Return `text` in at most so many columns of a terminal."""
    from agentaudit.analysis.printable import width

    if width(text) <= most:
        return text
    taken = 0
    for at, character in enumerate(text):
        taken += width(character)
        if taken >= most:
            return text[:at] + "…"
    return text


def columns(stream: TextIO) -> int | None:
    """Return how wide the terminal behind `stream` is, or None where there is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def now_us() -> int:
    return time.time_ns() // 1000


def progress(what: str, done: int, whole: int) -> None:
    share = f" {done * 100 // whole:3d} %" if whole else ""
    end = "\n" if whole and done >= whole else ""
    print(f"\r\x1b[K{what}{share}", end=end, file=sys.stderr, flush=True)
