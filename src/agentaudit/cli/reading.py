"""Verbs that read an archive: what was done, by whom, where a text is, and its replay."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentaudit.cli.hostile import hostile
from agentaudit.cli.output import NO, YES, print_json, print_table, say_access
from agentaudit.cli.playing import play
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case
    from agentaudit.analysis.session import Session


@hostile()
def sessions(arguments: argparse.Namespace) -> int:
    """List sessions, newest first."""
    case = _load(arguments)
    found = case.sessions(**_filters(arguments, "user", "agent", "target"))
    rows = found.limit(arguments.limit) if arguments.limit else found
    if arguments.json:
        return _print_rows(rows, case)
    from agentaudit.analysis.printable import printable
    from agentaudit.analysis.transcript import moment, size

    lines = [
        (
            moment(row["opened_at"]),
            str(row["session_id"]),
            printable(row["user"] or "-"),
            printable(row["agent"] or "-"),
            printable(row["target"] or "-"),
            str(row["commands"] or 0),
            size(row["bytes_out"] or 0),
            printable(row["close_reason"] or "open"),
        )
        for row in _dicts(rows)
    ]
    print_table(
        ("OPENED", "SESSION", "USER", "AGENT", "TARGET", ">COMMANDS", ">RECEIVED", "ENDED"), lines
    )
    return _status(case)


@hostile()
def commands(arguments: argparse.Namespace) -> int:
    """List commands, newest first."""
    case = _load(arguments)
    found = case.commands(
        session=arguments.session, **_filters(arguments, "user", "agent", "target")
    )
    rows = found.limit(arguments.limit) if arguments.limit else found
    if arguments.json:
        return _print_rows(rows, case)
    from agentaudit.analysis.printable import flat, printable
    from agentaudit.analysis.transcript import moment, outcome

    lines = [
        (
            moment(row["started_at"]),
            f"{str(row['session_id'])[:18]}… #{row['command_no']}",
            printable(row["user"] or "-"),
            printable(row["target"] or "-"),
            printable(row["class"] or "-"),
            outcome(row) + (f" {printable(row['error_code'])}" if row["error_code"] else ""),
            printable(flat((row["text"] or "")[:400])),
        )
        for row in _dicts(rows)
    ]
    print_table(("STARTED", "COMMAND", "USER", "TARGET", "CLASS", "OUTCOME", "STATEMENT"), lines)
    return _status(case)


@hostile()
def replay(arguments: argparse.Namespace) -> int:
    """Step through a session in the terminal."""
    case = _load(arguments)
    session = case.session(arguments.session)
    if arguments.command_no is not None:
        session.command(arguments.command_no)  # complains if there is none
    if arguments.raw:
        _replay_raw(session, arguments)
        return _status(case)
    if arguments.json:
        rows = session.commands
        if arguments.command_no is not None:
            rows = rows.filter(f"command_no = {arguments.command_no:d}")
        return _print_rows(rows, case)
    # Who reads a file wants lines.
    screens = set(session.terminals) if sys.stdout.isatty() else set()
    if arguments.command_no is not None:
        if arguments.speed is not None and arguments.command_no in screens:
            play(session.terminal(arguments.command_no), arguments.speed)
        print(session.told_command(arguments.command_no, rows=arguments.rows))
        return _status(case)
    parts = session.told(rows=arguments.rows)
    print(next(parts))
    if arguments.speed is not None:
        _play(session, parts, arguments.speed, screens)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        _step(session, parts, screens)
    else:
        for part in parts:
            print(part)
    return _status(case)


@hostile()
def search(arguments: argparse.Namespace) -> int:
    """Find where a text occurs, or with --screens where it stood on a terminal; newest first."""
    case = _load(arguments)
    chosen = {name: getattr(arguments, name) for name in ("user", "target", "since", "until")}
    if arguments.screens:
        found = case.search_screens(arguments.text, session=arguments.session, **chosen)
    else:
        found = case.search(arguments.text, **chosen)
        if arguments.session is not None:
            identity = case.session(arguments.session).id
            found = found.filter(f"session_id = '{identity}'")
    rows = found.limit(arguments.limit) if arguments.limit else found
    if arguments.json:
        return _print_rows(rows, case)
    from agentaudit.analysis.printable import flat, printable
    from agentaudit.analysis.transcript import moment

    if arguments.screens:
        headings: tuple[str, ...] = ("FIRST SEEN", "LAST SEEN", "COMMAND", "USER", "TARGET", "ROW")
        times: tuple[str, ...] = ("first_seen", "last_seen")
    else:
        headings = ("OBSERVED", "COMMAND", "USER", "TARGET", "PLACE", "TEXT")
        times = ("observed_at",)
    lines = [
        (
            *(moment(row[time]) for time in times),
            f"{str(row['session_id'])[:18]}… #{row['command_no']}",
            printable(row["user"] or "-"),
            printable(row["target"] or "-"),
            *(() if arguments.screens else (printable(row["place"]),)),
            printable(flat((row["text"] or "")[:400])),
        )
        for row in _dicts(rows)
    ]
    print_table(headings, lines)
    return _status(case)


@hostile()
def export(arguments: argparse.Namespace) -> int:
    """Write what was recorded in a format of others: a terminal as asciicast v3."""
    from agentaudit.analysis.written import require_new, write_new

    case = _load(arguments)
    if arguments.out is not None:
        require_new(arguments.out)
    lines = case.session(arguments.session).asciicast(arguments.command_no, typed=arguments.typed)
    if arguments.out is None:
        sys.stdout.writelines(lines)
    else:
        write_new(arguments.out, (line.encode("ascii") for line in lines))
    return _status(case)


def _play(session: Session, parts: Iterator[str], speed: float, screens: set[int]) -> None:
    """Print each command when its time comes, `speed` times as fast as it was, idle time cut.

    Before those that had a terminal, of `screens`, that is played.
    """
    from agentaudit.analysis.transcript import IDLE_LIMIT_S

    before: datetime | None = None
    starts = session.commands.project("command_no, started_at").fetchall()
    for part, (number, started) in zip(parts, starts, strict=False):
        if before is not None:
            time.sleep(max(0.0, min((started - before).total_seconds(), IDLE_LIMIT_S)) / speed)
        before = started
        if number in screens:
            play(session.terminal(number), speed)
        print(part, flush=True)


def _step(session: Session, parts: Iterator[str], screens: set[int]) -> None:
    """Print a command for each Enter; `p` plays its screen, `a` prints all that is left, `q` ends.

    `screens` are the commands that have one.
    """
    numbers = session.commands.project("command_no").fetchall()
    for part, (number,) in zip(parts, numbers, strict=False):
        print(part, flush=True)
        keys = "p: play its screen, " if number in screens else ""
        while True:
            answer = input(f"-- enter: next, {keys}a: all, q: end -- ").strip().lower()
            if answer != "p" or number not in screens:
                break
            play(session.terminal(number), 1.0)
        if answer == "q":
            return
        if answer == "a":
            break
    for part in parts:
        print(part)


def _replay_raw(session: Session, arguments: argparse.Namespace) -> None:
    """Write the recorded bytes themselves; never to a terminal, which would obey them."""
    if sys.stdout.isatty():
        raise QuestionError(
            "--raw writes the bytes as they were recorded, which a terminal would obey",
            hint="send them to a file or a program: agentaudit replay … --raw > bytes",
        )
    out = sys.stdout.buffer
    for payload in session.stream(arguments.side, command_no=arguments.command_no):
        out.write(payload)
    out.flush()


def lab(arguments: argparse.Namespace) -> int:
    """Open JupyterLab on an archive, with a copy of the first investigation beside it."""
    from agentaudit.widgets.notebooks import place_notebook

    with hostile():
        case = _load(arguments)
    notebook = place_notebook(case.path)
    print(f"notebook: {notebook}", file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", str(notebook), *arguments.jupyter]
    sys.stderr.flush()
    # In our place rather than below us, so that signals and the exit status are JupyterLab's own.
    os.execv(sys.executable, command)


def _load(arguments: argparse.Namespace) -> Case:
    import warnings

    from agentaudit.analysis.case import Case
    from agentaudit.client.local import record_access

    archive, verb = arguments.archive, arguments.command

    def record(action: str, object_: str, detail: str) -> bool:
        return record_access(archive, action, object_, f"agentaudit {verb} {detail}".strip())

    # What the case warns of is printed by `_status`, and decides it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Case(archive, record=record)


def _status(case: Case) -> int:
    """Return yes, or no where the archive contradicts what this machine remembers of it."""
    from agentaudit.analysis.printable import printable

    for name in case.unread:
        print(
            f"note: {printable(name)} may not be read, so what is live is missing", file=sys.stderr
        )
    say_access(case.access == "recorded")
    for contradiction in case.contradictions:
        print(f"agentaudit: {printable(contradiction)}", file=sys.stderr)
    if case.contradictions:
        print("hint: agentaudit verify says more; keep a copy of the archive", file=sys.stderr)
        return NO
    return YES


def _filters(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    names = (*names, "since", "until", "cls", "status", "table")
    return {name: getattr(arguments, name) for name in names}


def _dicts(rows: Any) -> Iterator[dict[str, Any]]:
    for batch in rows.to_arrow_reader(1_000):
        yield from batch.to_pylist()


def _print_rows(rows: Any, case: Case) -> int:
    for row in _dicts(rows):
        print_json(row)
    return _status(case)
