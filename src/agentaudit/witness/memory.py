"""What a witness has cosigned: kept durably before it says so, and compared and set in one step.

Losing this file, or going back to an older copy, would let the witness cosign a second history.
So it is made once, together with the key; without it a witness does not start, and a witness
that was restored from a backup needs a new key.

SQLite with a rollback journal and `synchronous = EXTRA`: under `FULL` the removal of the journal,
which is what commits, may itself be undone by a power cut.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from agentaudit.archive.files import PRIVATE_MODE, sync_folder
from agentaudit.errors import ArchiveError, SettingsError
from agentaudit.witness.protocol import Refusal, Request, Seen, judge

_BUSY_S = 10.0
_MAX_FORKS = 16
_SCHEMA = """
CREATE TABLE log (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, time_s INTEGER NOT NULL
) STRICT;
CREATE TABLE fork (
    origin TEXT NOT NULL, note BLOB NOT NULL, time_s INTEGER NOT NULL, UNIQUE (origin, note)
) STRICT;
PRAGMA user_version = 1;
"""


class Memory:
    """The last checkpoint of each log; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the memory at `path`, which is there.

        Raises:
            SettingsError: it is not there, or no memory of a witness.
        """
        if not path.is_file():
            raise SettingsError(
                f"{path}: gone, and with it what this witness has cosigned",
                hint="put it back as it was last; else begin a new witness, with a new key",
            )
        self._lock = threading.Lock()
        try:
            self._db = _open(path)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise SettingsError(f"{path}: {error}") from None
        if version != 1:
            raise SettingsError(f"{path}: not a witness's memory of version 1")

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty memory at `path`, where nothing is."""
        path.touch(PRIVATE_MODE, exist_ok=False)
        db = _open(path)
        db.executescript(_SCHEMA)
        db.close()
        sync_folder(path.parent)

    def close(self) -> None:
        """End the use of this memory; a transaction under way comes first."""
        with self._lock:
            self._db.close()

    def seen(self, origin: str) -> Seen:
        """Return the largest checkpoint of a log that was cosigned."""
        with self._lock:
            return self._seen(origin)

    def advance(self, request: Request, now_s: int) -> int | Refusal:
        """Judge a checkpoint that its log has signed, and remember it if it may be cosigned.

        Return the time to cosign it with, seconds since 1970: `now_s`, or the time of the last
        cosignature where the clock was set back behind it.

        Raises:
            ArchiveError: nothing could be kept, so nothing may be cosigned.
        """
        checkpoint = request.checkpoint
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    seen = self._seen(checkpoint.origin)
                    time_s = max(now_s, seen.time_s)
                    refusal = judge(request, seen)
                    if refusal is None:
                        self._db.execute(
                            "INSERT OR REPLACE INTO log VALUES (?, ?, ?, ?)",
                            (checkpoint.origin, checkpoint.size, checkpoint.root, time_s),
                        )
                    elif refusal.is_fork:
                        self._keep_fork(request, now_s)
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise ArchiveError(f"the witness's memory: {error}") from None
        return time_s if refusal is None else refusal

    def forks(self, origin: str) -> list[bytes]:
        """Return the notes that prove that a log signed two trees of one size."""
        with self._lock:
            rows = self._db.execute("SELECT note FROM fork WHERE origin = ?", (origin,))
            return [note for (note,) in rows]

    def _keep_fork(self, request: Request, now_s: int) -> None:
        origin = request.checkpoint.origin
        (kept,) = self._db.execute(
            "SELECT count(*) FROM fork WHERE origin = ?", (origin,)
        ).fetchone()
        if kept < _MAX_FORKS:
            self._db.execute(
                "INSERT OR IGNORE INTO fork VALUES (?, ?, ?)", (origin, request.note, now_s)
            )

    def _seen(self, origin: str) -> Seen:
        row = self._db.execute(
            "SELECT size, root, time_s FROM log WHERE origin = ?", (origin,)
        ).fetchone()
        return Seen() if row is None else Seen(*row)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("PRAGMA synchronous = EXTRA")
    return db
