"""Notes, tags and stars of people: a file beside the archive, which only grows and shows edits.

They are no evidence and no part of the archive, so they lie beside it, where those who may only
read it can write as well. A line is a record, never changed: whoever takes something back adds a
line that says so. Each has the SHA-256 of itself and of the line before it: who edits one shows.
Who writes them all again, or cuts lines off at the end, does not, for no key signs them.

The file may be anybody's: what is no record is named by its line, and the rest is read.

Crash story: a line is one write, synced before its id is told. What a power cut leaves of it has no
end; the next writer ends it, and it stays in the chain as a line that is no record.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from agentaudit.archive import canonical
from agentaudit.archive.files import PRIVATE_MODE, open_regular, sync_folder
from agentaudit.archive.ids import uuid7
from agentaudit.errors import ArchiveError, QuestionError

NOTE, TAG, STAR, RETRACT = "note", "tag", "star", "retract"
KINDS: Final = (NOTE, TAG, STAR)

MAX_NOTE_BYTES: Final = 16 * 1024
MAX_TAG_CHARACTERS: Final = 100
MAX_AUTHOR_CHARACTERS: Final = 200
MAX_LINE_BYTES: Final = 128 * 1024
"""Of a note of control characters alone JSON makes six times as many bytes."""
MAX_FILE_BYTES: Final = 64 << 20
MAX_FINDINGS: Final = 100
MAX_BROKEN: Final = 10_000
"""More say no more: a file that is none of ours would have one a line."""

_NOTHING_BEFORE: Final = "0" * 64
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_MAX_INT32: Final = 2**31 - 1

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("written_at", pa.timestamp("us", "UTC")),
        ("author", pa.string()),
        ("kind", pa.string()),
        ("session_id", pa.string()),
        ("command_no", pa.int32()),
        ("text", pa.string()),
        ("retracted_at", pa.timestamp("us", "UTC")),
        ("retracted_by", pa.string()),
        ("retracted_why", pa.string()),
        ("line", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Read:
    """What the file says: `rows` as `SCHEMA` has them, and what is wrong with it, by line."""

    rows: list[dict[str, Any]]
    findings: tuple[str, ...]

    @property
    def table(self) -> pa.Table:
        """The rows as an Arrow table."""
        return pa.Table.from_pylist(self.rows, SCHEMA)


def beside(archive: Path) -> Path:
    """Return where the annotations of the archive at `archive` lie, unless somebody says otherwise.

    >>> beside(Path("/srv/archive")).as_posix()
    '/srv/archive.notes.jsonl'
    """
    return archive.with_name(f"{archive.name}.notes.jsonl")


def login_name() -> str:
    """Return the name under which this process runs, or its number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class Annotations:
    """The file at `path`, which need not be there. Any number of processes may write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> object:
        """Return what differs once the file was changed; None while there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    # --- reading

    def read(self) -> Read:
        """Return all records, and what is wrong with the file; it never fails."""
        try:
            with open_regular(self.path) as file:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_SH)  # or the end of a line is not there yet
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return Read([], ())
        except OSError as error:
            return Read([], (f"cannot be read: {error.strerror}",))
        except ArchiveError:
            return Read([], ("not a regular file",))
        reader = _Reader()
        at, end = 0, min(len(data), MAX_FILE_BYTES)
        while at < end and reader.broken <= MAX_BROKEN:
            next_at = data.find(b"\n", at, end)
            next_at = end if next_at < 0 else next_at
            reader.take(data[at:next_at])
            at = next_at + 1
        if at < end:
            reader.findings.append(f"more than {MAX_BROKEN} are no records: the rest is not read")
        elif len(data) > MAX_FILE_BYTES:
            reader.findings.append(f"more than {MAX_FILE_BYTES >> 20} MiB: the rest is not read")
        elif data and not data.endswith(b"\n") and reader.is_broken:
            reader.findings.append(f"line {reader.number}: cut off, as by a crash or a full disk")
        return Read(list(reader.rows.values()), tuple(reader.findings))

    # --- writing

    def append(self, records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Write each of `records` as a line, durably; return their ids.

        They have `author`, `kind`, `session`, `command_no` and `text`, or `retracts` for the last
        three but one; id, time and hashes are added here.

        Raises:
            QuestionError: the file cannot be written, or would be longer than it may.
        """
        if not records:
            return ()
        try:
            with self._locked() as fd:
                return self._append(fd, records)
        except OSError as error:
            raise QuestionError(
                f"{self.path.name}: cannot be written: {error.strerror}",
                hint="agentaudit.load(…, notes=PATH) keeps annotations elsewhere",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self.path, flags, PRIVATE_MODE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise QuestionError(f"{self.path.name}: not a regular file")
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _append(self, fd: int, records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        size = os.fstat(fd).st_size
        last, is_ended = _last_line(fd, size)
        previous = _NOTHING_BEFORE if last is None else sha256(last).hexdigest()
        ids = []
        lines = []
        for given in records:
            now = datetime.now(UTC)
            record = {
                **given,
                "id": str(uuid7(int(now.timestamp() * 1_000_000))),
                "at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "previous": previous,
            }
            record["sha256"] = _digest(record)
            line = canonical.encode(record)
            previous = sha256(line).hexdigest()
            # Who crashed in the middle of a line has left it without an end.
            lines.append((b"" if is_ended else b"\n") + line + b"\n")
            ids.append(record["id"])
            is_ended = True
        if size + sum(map(len, lines)) > MAX_FILE_BYTES:
            raise QuestionError(
                f"{self.path.name}: {MAX_FILE_BYTES >> 20} MiB are full",
                hint="agentaudit.load(…, notes=PATH) begins another file",
            )
        for line in lines:
            # One write a line: whoever reads without a lock sees all of it, or a line without end.
            if os.write(fd, line) != len(line):
                raise OSError(28, "only a part of a line was written: is the disk full?")
        os.fsync(fd)
        if size == 0:
            sync_folder(self.path.parent)
        return tuple(ids)


class _Reader:
    """Takes the lines of a file in order."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.findings: list[str] = []
        self.number = 0
        self.broken = 0
        self.is_broken = False
        self._previous = _NOTHING_BEFORE
        self._retracted: set[str] = set()

    def take(self, line: bytes) -> None:
        """Take the next line."""
        self.number += 1
        previous, self._previous = self._previous, sha256(line).hexdigest()
        record = _record(line)
        self.is_broken = record is None
        if record is None:
            self.broken += 1
            self._find("no record of ours")
            return
        if record["previous"] != previous:
            self._find("does not follow the line before it: lines were changed, removed or added")
        if record["sha256"] != _digest(record):
            self._find("was changed after it was written")
        if record["id"] in self.rows or record["id"] in self._retracted:
            self._find("has the id of an earlier one, and is left out")
        elif record["kind"] == RETRACT:
            self._retract(record)
        else:
            self.rows[record["id"]] = {
                "id": record["id"],
                "written_at": datetime.fromisoformat(record["at"]),
                "author": record["author"],
                "kind": record["kind"],
                "session_id": record["session"],
                "command_no": record["command_no"],
                "text": record["text"],
                "line": self.number,
            }

    def _retract(self, record: Mapping[str, Any]) -> None:
        self._retracted.add(record["id"])
        row = self.rows.get(record["retracts"])
        if row is None:
            self._find("takes back what is not there")
        elif "retracted_at" not in row:
            row["retracted_at"] = datetime.fromisoformat(record["at"])
            row["retracted_by"] = record["author"]
            row["retracted_why"] = record["text"]

    def _find(self, what: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(f"line {self.number}: {what}")


def _last_line(fd: int, size: int) -> tuple[bytes | None, bool]:
    """Return the last line of a file, None where there is none, and whether it has an end."""
    if size == 0:
        return None, True
    is_ended = os.pread(fd, 1, size - 1) == b"\n"
    end = size - is_ended
    start = max(0, end - MAX_LINE_BYTES)
    tail = os.pread(fd, end - start, start)
    if start and b"\n" not in tail:
        # Somebody else's line: it is hashed all the same.
        tail = os.pread(fd, min(end, MAX_FILE_BYTES), 0)
    return tail.rpartition(b"\n")[2], is_ended


def _digest(record: Mapping[str, Any]) -> str:
    """Return SHA-256 of a record without its own."""
    return sha256(
        canonical.encode({name: value for name, value in record.items() if name != "sha256"})
    ).hexdigest()


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record that `line` is, or None."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        record = canonical.decode(line)
        if not isinstance(record, dict):
            return None
        texts = [record[name] for name in ("id", "at", "author", "kind", "text", "previous")]
        if not all(isinstance(text, str) for text in [*texts, record["sha256"]]):
            return None
        if not _UUID.fullmatch(record["id"]) or not _TIME.fullmatch(record["at"]):
            return None
        datetime.fromisoformat(record["at"])
        if record["kind"] == RETRACT:
            subject = record["retracts"]
        elif record["kind"] in KINDS:
            subject, number = record["session"], record["command_no"]
            if number is not None and not (type(number) is int and 0 <= number <= _MAX_INT32):
                return None
        else:
            return None
        _digest(record)  # which a number that JSON has and we have not would stop
        is_known = isinstance(subject, str) and _UUID.fullmatch(subject)
        return record if is_known else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


# --- what is said, checked


def records_of(
    session: UUID,
    command_no: int | None,
    *,
    note: str | None,
    tag: str | None,
    star: bool | None,
    author: str,
) -> list[dict[str, Any]]:
    """Return what is to be written of an annotation, a record for each of what is given.

    Raises:
        QuestionError: nothing is given, or something of a wrong type or size.
    """
    said: list[tuple[str, str]] = []
    if note is not None:
        said.append((NOTE, _text("note", note, most_bytes=MAX_NOTE_BYTES)))
    if tag is not None:
        said.append((TAG, _word("tag", tag, MAX_TAG_CHARACTERS)))
    if star not in (None, True, False):
        raise QuestionError(f"star: True or False expected, found {type(star).__name__}")
    if star:
        said.append((STAR, ""))
    if not said and star is None:
        raise QuestionError(
            "annotate: nothing to say was given",
            hint='case.annotate(session, command, note="…"), tag="…" or star=True',
        )
    return [
        {
            "author": author,
            "kind": kind,
            "session": str(session),
            "command_no": command_no,
            "text": text,
        }
        for kind, text in said
    ]


def retraction(identity: str, *, why: str, author: str) -> dict[str, Any]:
    """Return the record that takes `identity` back."""
    text = _text("why", why, most_bytes=MAX_NOTE_BYTES) if why else ""
    return {"author": author, "kind": RETRACT, "retracts": identity, "text": text}


def author_of(given: str | None) -> str:
    """Return who says it: who was given, or who runs this process.

    Raises:
        QuestionError: what was given is no name.
    """
    return login_name() if given is None else _word("author", given, MAX_AUTHOR_CHARACTERS)


def _text(name: str, value: object, *, most_bytes: int) -> str:
    if not isinstance(value, str):
        raise QuestionError(f"{name}: text expected, found {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise QuestionError(f"{name}: text with characters that no encoding has") from None
    if not value.strip():
        raise QuestionError(f"{name}: empty")
    if size > most_bytes:
        raise QuestionError(f"{name}: {size:,} bytes, at most {most_bytes:,}")
    return value


def _word(name: str, value: object, most: int) -> str:
    text = _text(name, value, most_bytes=4 * most).strip()
    if len(text) > most:
        raise QuestionError(f"{name}: {len(text)} characters, at most {most}")
    if not text.isprintable():
        raise QuestionError(f"{name}: characters that cannot be printed")
    return text
