"""Values of a result as the texts that psql would show, so that replay and transcript agree.

Only what is shown is converted: a slice of a column, never a whole result.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def texts(table: pa.Table) -> list[list[str | None]]:
    """Return the rows of `table`, a few at most, as texts; null is None."""
    columns = [[text(value) for value in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def text(value: Any) -> str | None:
    r"""Return one value as text, None for null.

    >>> text(b"\x00\xff"), text(True), text([1, None])
    ('\\x00ff', 't', '{1,NULL}')
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=text)
    return str(value)


def _element(item: Any) -> str:
    shown = text(item)
    if shown is None:
        return "NULL"
    if isinstance(item, str) and (not item or item.upper() == "NULL" or set(item) & set('{},"\\ ')):
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return shown


def type_names(schema: pa.Schema) -> Iterable[str]:
    """Yield each column's type: PostgreSQL's name where the result carries it, else Arrow's."""
    for field in schema:
        named = (field.metadata or {}).get(b"postgres.type")
        yield named.decode() if named else str(field.type)
