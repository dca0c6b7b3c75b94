"""The demo as a person sees it: record, verify, compare, replay, and say where everything is."""

from __future__ import annotations

import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from agentaudit import Case, load
from agentaudit.archive.verify import verify
from agentaudit.demo.database import Logged
from agentaudit.demo.notebooks import execute, find_notebook
from agentaudit.demo.recording import Recording, record
from agentaudit.errors import QuestionError

NOTEBOOK = "01-first-investigation.ipynb"
PACE = 0.5

_MARKER = ".agentaudit-demo"
_EARLIER = "earlier"


def present(directory: Path, out: TextIO) -> int:
    """Run the demo in `directory`; see `agentaudit.demo.run`."""
    began = time.monotonic()

    def tell(line: str) -> None:
        out.write(f"[{time.monotonic() - began:5.1f} s] {line}\n")
        out.flush()

    directory = directory.resolve()
    with _ended_in_order():
        _make_room(directory)
        # Every run is a log of its own, so its name must be its own: verifiers remember names.
        origin = f"demo-{secrets.token_hex(4)}.invalid"
        recording = record(directory, origin=origin, pace=PACE, tell=tell)
        key_file = directory / "keys" / "gw1.vkey"
        verification = verify(recording.archive, key=recording.verifier_key, deep=True)
        tell("every leaf, root and table was recomputed: verify --deep")
        case = load(recording.archive)
        missing = _missing(recording, case)
        tell("the database's own log was compared with the archive")
        html = _replay(directory, recording.archive, key_file)
        if html is not None:
            tell(f"the notebook {NOTEBOOK} was executed on it")

    out.write("\nWhat was recorded\n")
    for line in _summary(case):
        out.write(f"  {line}\n")
    out.write("\nIs it whole\n")
    answers = {True: "yes", False: "NO", None: "could not tell"}
    out.write(f"  agentaudit verify --deep: {answers[verification.ok]}\n")
    for finding in verification.findings:
        out.write(f"    {finding}\n")
    executed = len(recording.executions)
    out.write(
        f"  {executed - len(missing)} of {executed} statements of the database's log are there\n"
    )
    for one in missing:
        out.write(f"    missing: {one.text[:100]!r}\n")
    out.write("\nWhere to go on\n")
    out.write(f"  archive   {recording.archive}\n")
    out.write(f"  verify    agentaudit verify --key {key_file} --deep {recording.archive}\n")
    out.write(f"  notebook  {html if html is not None else 'not part of this installation'}\n")
    out.write("  open it   make lab\n")
    return 0 if verification.ok and not missing else 1


def _make_room(directory: Path) -> None:
    """Leave `directory` empty but for earlier runs.

    Raises:
        QuestionError: it holds files that no demo made, or cannot be a folder.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file, not a folder" if directory.is_file() else error.strerror
        raise QuestionError(
            f"{directory}: {reason}",
            hint="name a folder that does not exist yet: agentaudit demo DIR",
        ) from None
    found = [path for path in directory.iterdir() if path.name not in (_MARKER, _EARLIER)]
    marker = directory / _MARKER
    if found and not marker.exists():
        raise QuestionError(
            f"{directory}: not empty, and not a folder of the demo's",
            hint="name a folder that does not exist yet: agentaudit demo DIR",
        )
    if found:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(marker.stat().st_mtime))
        aside = directory / _EARLIER / f"{stamp}-{secrets.token_hex(2)}"
        aside.mkdir(parents=True)
        for path in found:
            path.rename(aside / path.name)
    marker.write_text("made by agentaudit demo; the next run moves what is here to earlier/\n")


def _missing(recording: Recording, case: Case) -> list[Logged]:
    """Return the executions of the database's log for which the archive has no command."""
    rows = case.sql("SELECT text FROM commands").fetchall()
    recorded = Counter(_essence(text) for (text,) in rows)
    missing: list[Logged] = []
    for execution in recording.executions:
        text = _essence(execution.text)
        if recorded[text]:
            recorded[text] -= 1
        else:
            missing.append(execution)
    return missing


def _essence(text: str) -> str:
    # psql keeps the semicolon, the log and the archive differ in what surrounds a statement.
    return text.strip().rstrip(";").rstrip()


def _summary(case: Case) -> Iterator[str]:
    sessions = case.sql(
        "SELECT opened_at, agent, user, close_reason, commands, bytes_in, bytes_out "
        "FROM sessions WHERE protocol <> 'agentaudit' ORDER BY opened_at"
    ).fetchall()
    yield f"{len(sessions)} sessions"
    for opened_at, agent, user, reason, commands, bytes_in, bytes_out in sessions:
        yield (
            f"  {opened_at:%H:%M:%S}  {agent} for {user}: {commands} commands, "
            f"{_size(bytes_in)} in, {_size(bytes_out)} out, closed: {reason}"
        )
    commands = case.sql("SELECT class, status FROM commands").fetchall()
    yield f"{len(commands)} commands: {_counts(cls for cls, _ in commands)}"
    yield f"with status: {_counts(status for _, status in commands)}"
    largest = case.sql(
        "SELECT text, rows_returned FROM commands WHERE rows_returned IS NOT NULL "
        "ORDER BY rows_returned DESC LIMIT 1"
    ).fetchall()
    for text, rows in largest:
        yield f"largest result: {rows} rows, {_one_line(text)}"
    deletes = case.sql(
        "SELECT text, rows_affected, fate FROM commands JOIN fates USING (session_id, command_no) "
        "WHERE operation = 'DELETE' ORDER BY rows_affected DESC LIMIT 2"
    ).fetchall()
    for text, rows, fate in deletes:
        yield f"delete of {rows} rows, {fate}: {_one_line(text)}"


def _counts(values: Iterable[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in Counter(values).most_common())


def _replay(directory: Path, archive: Path, key_file: Path) -> Path | None:
    notebook = find_notebook(NOTEBOOK)
    if notebook is None:
        return None
    html = directory / Path(NOTEBOOK).with_suffix(".html")
    environment = {"AGENTAUDIT_ARCHIVE": str(archive), "AGENTAUDIT_KEY": str(key_file)}
    execute(notebook, html, environment=environment)
    return html


def _one_line(text: str) -> str:
    return " ".join(text.split())[:70]


def _size(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1000:.0f} kB"


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that every process is ended on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
