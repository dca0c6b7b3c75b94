"""Options that several verbs have, and what their values mean."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agentaudit.cli.output import Verb

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

Adds = Callable[[Verb], argparse.ArgumentParser]
"""Adds a verb, and returns its parser for the options."""


def add_verb(verbs: Verbs, verb: Verb, name: str = "") -> argparse.ArgumentParser:
    """Add a verb, which its docstring explains, and return its parser."""
    does = (verb.__doc__ or "").partition("\n")[0]
    one = verbs.add_parser(
        name or verb.__name__.replace("_", "-"),
        help=does[0].lower() + does[1:].rstrip("."),
        description=does,
        epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
    )
    one.set_defaults(verb=verb)
    return one


def add_config(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--config",
        type=Path,
        default=Path("agentaudit.toml"),
        metavar="FILE",
        help="the settings (default: agentaudit.toml)",
    )


def add_json(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="print JSON, one object a line")


def add_config_and_json(one: argparse.ArgumentParser) -> None:
    add_config(one)
    add_json(one)


def add_authority(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--authority",
        type=words,
        required=True,
        help="who has ordered it: a court, a case number",
    )
    one.add_argument("--reason", type=words, required=True, help="why, in words that are kept")


def add_archive(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--archive",
        type=Path,
        default=Path("archive"),
        metavar="DIR",
        help="the archive (default: archive)",
    )


def add_question(one: argparse.ArgumentParser) -> None:
    add_archive(one)
    one.add_argument("--user", help="who, as the identity provider says")
    one.add_argument("--agent", help="the client that the token was given to")
    one.add_argument("--target", help="the target's name")
    one.add_argument("--since", type=instant, metavar="TIME", help="2026-11-01, or 2h, 30d ago")
    one.add_argument("--until", type=instant, metavar="TIME", help="the same, excluded")
    one.add_argument(
        "--class", dest="cls", choices=("read", "write", "schema", "admin", "session", "unknown")
    )
    one.add_argument("--status", choices=("ok", "error", "denied", "cancelled", "incomplete"))
    one.add_argument("--table", help="a table that is named, with or without its schema")
    one.add_argument(
        "--limit", type=whole, default=100, metavar="N", help="at most N, 0 for all (default: 100)"
    )
    add_json(one)


_AGO = re.compile(r"(\d+)([smhd])")


_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def instant(text: str) -> datetime:
    """Return the time that `text` means: ISO 8601, UTC if it names no zone, or a span ago."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])})
        value = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a time as 2026-11-01T12:30, or a span as 2h or 30d, expected"
        ) from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def words(text: str) -> str:
    """Return `text` if it is one: what is no UTF-8 comes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{os.fsencode(text)!r}: UTF-8 expected") from None
    return text


def speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: a number above 0 expected")
    return speed


_MOST = 1_000_000_000
"""More rows than anybody reads, and fewer than DuckDB's LIMIT can count."""


def whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}: a whole number from 0 to {_MOST:,} expected"
        )
    return number
