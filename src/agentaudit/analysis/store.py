"""The one place that talks to DuckDB: a locked in-memory database with views over an archive.

The database holds views, never copies: sealed Parquet is read where it lies, and only the live
journal's rows, which have no file yet, are tables. It is hardened before the first question: what
is asked can read the archive and nothing else of the machine, install nothing, and change no
setting. Each question runs on a cursor of its own, because a DuckDB 2 connection that two threads
share refuses the second, and JupyterLab calls widgets on threads of its choice.

Written for DuckDB 2.0, which broke with 1.x: no `fetchone` on relations, no `fetch_arrow_table` on
connections. Source of the order of the settings: duckdb.org, "Securing DuckDB".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from agentaudit.errors import ArchiveError, QuestionError

VIEWS = ("events", "commands", "sessions", "decisions", "access", "chunks", "fates")
_BESIDE = "annotations"
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


class Store:
    """Read-only questions over the tables of the archive at `root`."""

    def __init__(self, root: Path) -> None:
        self._connection = duckdb.connect(":memory:")
        self._showing = threading.Lock()
        setup = self._connection.cursor()
        setup.execute("SET TimeZone = 'UTC'")
        # The order matters: the folder cannot be allowed any more once access is off, and nothing
        # can be set once the configuration is locked.
        setup.execute(f"SET allowed_directories = [{_literal(f'{root}/')}]")
        setup.execute("SET enable_external_access = false")
        setup.execute("SET lock_configuration = true")

    def show(self, files: Mapping[str, Sequence[Path]], live: Mapping[str, pa.Table]) -> None:
        """Point all views at these sealed files and these rows of the journal, in one transaction.

        A question that runs meanwhile sees either all of the old or all of the new.

        Raises:
            ArchiveError: a file is not Parquet, or lies elsewhere.
        """
        with self._showing:
            cursor = self._connection.cursor()
            registered = []
            cursor.execute("BEGIN")
            try:
                for table, rows in live.items():
                    cursor.register(f"rows_{table}", _plain(rows))
                    registered.append(f"rows_{table}")
                    cursor.execute(f"CREATE OR REPLACE TABLE live_{table} AS FROM rows_{table}")
                    types = cursor.execute(f"DESCRIBE live_{table}").fetchall()
                    columns = {name: type_ for name, type_, *_ in types}
                    is_live = rows.num_rows > 0
                    cursor.execute(_union(table, files.get(table, ()), columns, is_live))
                for view in VIEWS:
                    cursor.execute(f"CREATE OR REPLACE VIEW {view} AS {named(f'views/{view}')}")
                cursor.execute("COMMIT")
            except duckdb.Error as error:
                cursor.execute("ROLLBACK")
                raise ArchiveError(
                    f"archive: a file cannot be read: {str(error).partition(chr(10))[0]}",
                    hint="`agentaudit verify` says which files are not what was sealed",
                ) from error
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            finally:
                for name in registered:
                    cursor.unregister(name)

    def annotate(self, rows: pa.Table) -> None:
        """Let the view `annotations` show `rows`, which lie in no archive."""
        with self._showing:
            cursor = self._connection.cursor()
            cursor.register("rows_annotations", rows)
            try:
                cursor.execute("CREATE OR REPLACE TABLE every_annotations AS FROM rows_annotations")
                cursor.execute(f"CREATE OR REPLACE VIEW {_BESIDE} AS {named(f'views/{_BESIDE}')}")
            finally:
                cursor.unregister("rows_annotations")

    def ask(self, sql: str, parameters: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Return the answer to `sql` as a relation, which DuckDB computes when it is read.

        Raises:
            QuestionError: `sql` is not one statement that only reads.
        """
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _READS:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise QuestionError(
                f"one SELECT expected, found {kinds}",
                hint="an archive is read only; copy what you need with .to_parquet() of a relation",
            )
        return self._connection.cursor().sql(sql, params=dict(parameters or {}))

    def relation(self, rows: pa.Table) -> duckdb.DuckDBPyRelation:
        """Return rows that were made here as a relation, like an answer."""
        return self._connection.cursor().from_arrow(rows)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the whole answer as one dictionary a row; for answers known to be small."""
        relation = self.ask(sql, parameters)
        columns = relation.columns
        return [dict(zip(columns, row, strict=True)) for row in relation.fetchall()]

    def batches(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int = 1_000
    ) -> Iterator[pa.RecordBatch]:
        """Yield the answer in record batches of about `rows`, for answers of any size."""
        yield from self.ask(sql, parameters).to_arrow_reader(rows)


@cache
def named(question: str) -> str:
    """Return the text of `queries/<question>.sql`."""
    return (resources.files(__package__) / "queries" / f"{question}.sql").read_text("utf-8")


def _union(table: str, files: Sequence[Path], columns: Mapping[str, str], is_live: bool) -> str:
    # Rows of a segment's file are told apart by file and row number: blobs refer to each other by
    # them. The path holds gw= and date=, which must not become columns.
    live = f"SELECT *, NULL AS filename, NULL AS file_row_number FROM live_{table}"  # noqa: S608
    if not files:
        return f"CREATE OR REPLACE VIEW every_{table} AS {live}"
    names = ", ".join(_literal(str(path)) for path in files)
    schema = ""
    if table == "commands":
        # Old files lack a column. To look for that (`union_by_name`) opens every file each time.
        told = ", ".join(
            f"{_literal(name)}: {{name: {_literal(name)}, type: {_literal(type_)}, "
            "default_value: NULL}"
            for name, type_ in columns.items()
        )
        schema = f"schema = MAP {{{told}}}, "
    sealed = (
        f"SELECT * FROM read_parquet([{names}], {schema}"  # noqa: S608
        f"filename = true, file_row_number = true, hive_partitioning = false)"
    )
    # A union costs a search through all texts a quarter more, so there is none without need. (Live
    # rows of blobs have a column of their own, which must be there whether they are or not.)
    union = f" UNION ALL BY NAME {live}" if is_live or table == "blobs" else ""
    return f"CREATE OR REPLACE VIEW every_{table} AS {sealed}{union}"


def _plain(rows: pa.Table) -> pa.Table:
    """Return `rows` without dictionaries, which DuckDB would make enums of, unlike Parquet's."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
