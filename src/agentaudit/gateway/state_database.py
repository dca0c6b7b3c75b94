"""The database under the gateway's state: SQLite or PostgreSQL, opened, migrated and locked.

Whoever writes locks the one row of `revision` first, in SQLite by BEGIN IMMEDIATE, and adds one to
it: writers take turns, and who wants to know whether anything has changed reads one number. Whoever
reads sees one moment. Nothing here lets a parameter or a password out: an error of SQLAlchemy's or
a driver's becomes a `StateError` that has its type and its code.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agentaudit.errors import SettingsError, StateError
from agentaudit.gateway import state_tables as tables

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a writer waits for its turn; ours hold the lock for milliseconds."""

CONNECT_TIMEOUT_S: Final = 5

_MIGRATIONS: Final = "agentaudit.gateway:migrations"
_MIGRATION_LOCK: Final = 0x6167656E_73746174
"""Of PostgreSQL's advisory locks: `agenstat`."""

_FORMS: Final = 'expected "sqlite:///state.db", or "postgresql://user@host/database"'
_READS: Final = "agentaudit_reads"
_LASTS: Final = "agentaudit_lasts"


class Database:
    """One database and the connection of this process to it, for one thread at a time."""

    def __init__(self, url: str, *, base: Path) -> None:
        """Open the database at `url`; a relative SQLite path is relative to `base`.

        Raises:
            SettingsError: `url` is none that the state can have.
            StateError: the database cannot be opened, or is of another release.
        """
        parsed = _parse(url)
        self._wal: Path | None = None
        if parsed.get_backend_name() == "sqlite":
            path = base / str(parsed.database)
            self._where = f"state {path}"
            self._wal = path.with_name(f"{path.name}-wal")
            self._engine = _sqlite(path, self._where)
        else:
            # A password may stand in the query too, so that the URL is not for messages.
            self._where = f"state in PostgreSQL{' on ' if parsed.host else ''}{parsed.host or ''}"
            self._engine = _postgres(parsed)
        try:
            with self._errors():
                self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close the connection."""
        with self._errors():
            self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection on which all statements see one moment.

        Raises:
            StateError: the database does not answer.
        """
        with self._errors(), self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"}
                connection = connection.execution_options(**options, postgresql_readonly=True)
            yield connection.execution_options(**{_READS: True})

    @contextmanager
    def writing(self, *, is_lasting: bool = True) -> Iterator[Connection]:
        """Give a connection on which nobody else writes, and commit what the block did.

        An exception takes everything back; so does `connection.rollback()`, after which nothing has
        changed and nobody is told that it has. What is not `is_lasting` waits for no disk: a power
        cut may take it back, and nothing else.

        Raises:
            StateError: the database does not answer, or cannot be written.
        """
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_LASTS: is_lasting})
            if not is_lasting and connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            connection.execute(_BUMP)
            yield connection
            connection.commit()

    def revision(self) -> int:
        """Return a number that is another one whenever anybody has changed anything."""
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(**{_READS: True})
            return int(connection.execute(_REVISION).scalar_one())

    def last_write(self) -> tuple[int, int] | None:
        """Return what is mostly another pair after a write, or None where only asking tells.

        It never blocks, and belongs to any thread. Two writes in one tick of the file system's
        clock may look like one.
        """
        if self._wal is None:
            return None
        try:
            found = self._wal.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_size)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StateError(
                f"{self._where}: {_code(error)}",
                hint="no session opens and nobody decides until the database answers",
            ) from None

    def _migrate(self) -> None:
        """Bring the schema to this release's, unless it is there, while nobody else does."""
        with self.reading() as connection:
            if _schema(connection) == tables.SCHEMA:
                return
        # A third of a second and 10 MB of every worker, for what is done once a release.
        import alembic.command
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            found = _schema(connection)
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", _MIGRATIONS)
            try:
                ScriptDirectory.from_config(config).get_revisions(found or "base")
            except CommandError:
                raise StateError(
                    f"{self._where}: its schema is {str(found)[:40]!r}, "
                    f"this release knows none newer than {tables.SCHEMA!r}",
                    hint="start the release that made it, or one that is newer",
                ) from None
            alembic.command.upgrade(config, "head")
            connection.commit()


class Part:
    """A part of the state's methods, on the database that all parts share."""

    def __init__(self, database: Database) -> None:
        self._database = database


_BUMP: Final = update(tables.revision).values(value=tables.revision.c.value + 1)
_REVISION: Final = select(tables.revision.c.value)


def _schema(connection: Connection) -> str | None:
    """Return which migration was the last, or None of an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # It may hold a password, so no word of it is said.
        raise SettingsError("gateway.state: not a database's URL", hint=_FORMS) from None
    if parsed.drivername == "sqlite":
        if parsed.host or not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise SettingsError(
                "gateway.state: sqlite takes the path of a file and nothing else", hint=_FORMS
            )
        return parsed
    if parsed.drivername == "postgresql":
        if "@" in (parsed.host or ""):
            raise SettingsError(
                "gateway.state: more than one @", hint="an @ of a password is written %40"
            )
        return parsed.set(drivername="postgresql+psycopg")
    raise SettingsError("gateway.state: neither sqlite nor postgresql", hint=_FORMS)


def _sqlite(path: Path, where: str) -> Engine:
    try:
        _prepare_file(path)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "sqlite_errorname", None)
        raise StateError(
            f"{where}: {reason or type(error).__name__}",
            hint="its folder must be there, and both belong to the gateway's user alone",
        ) from None
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        # The driver would begin when it sees fit, and never IMMEDIATE.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(_READS, False):
            connection.exec_driver_sql("BEGIN")
            return
        # With FULL, what was used or decided does not come back after a power cut.
        level = "FULL" if options.get(_LASTS, True) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _prepare_file(path: Path) -> None:
    """Make the database at `path` unless it is there, closed to others, and with a WAL.

    Only a file that is not there yet is opened: closing one would drop the locks that SQLite has on
    it in this process. The folder's lock is for those who come at the same time, as a database's
    way to a WAL waits for nobody.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if not path.is_file():
                raise FileExistsError(errno.EEXIST, "there, and no file") from None
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError("no WAL on this file system")
    finally:
        os.close(folder)


def _postgres(url: URL) -> Engine:
    # Nobody waits for long for one that the network has swallowed: a gateway for its database, or
    # all others for the lock of that gateway.
    defaults = {
        "application_name": "agentaudit",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": BUSY_TIMEOUT_MS,
    }
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={key: value for key, value in defaults.items() if key not in url.query},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET lock_timeout = {BUSY_TIMEOUT_MS};"
                f"SET statement_timeout = {2 * BUSY_TIMEOUT_MS};"
                f"SET idle_in_transaction_session_timeout = {BUSY_TIMEOUT_MS}"
            )
        connection.commit()

    return engine


def _code(error: SQLAlchemyError) -> str:
    """Return the type of `error` and the database's code for it, never its text."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__
