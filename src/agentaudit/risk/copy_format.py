"""How the lines of a COPY are written, as its text says it.

An option that is not known, or given twice, is no error here: the format says of itself that it is
not understood, and nobody tells columns in its lines.

Options: postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson
from pglast import parser as libpg_query

from agentaudit.risk.tree import Node, options, words


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How the lines of a COPY between the server and the client are written.

    `direction` is `out` or `in`, `format` `text`, `csv` or `binary`; `header` is "", `on` or
    `match`. What the text does not say is PostgreSQL's default. The `force` options name columns,
    `*` all of them.
    """

    direction: str
    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: str = ""
    quote: str = '"'
    escape: str = '"'
    encoding: str = ""
    default: str | None = None
    force_quote: tuple[str, ...] = ()
    force_null: tuple[str, ...] = ()
    force_not_null: tuple[str, ...] = ()
    is_understood: bool = True


def of_text(text: str) -> CopyFormat | None:
    """Return how the lines of a text that is a COPY are written, None where it is none."""
    try:
        ((kind, body),) = orjson.loads(libpg_query.parse_sql_json(text))["stmts"][0]["stmt"].items()
        return of_statement(body) if kind == "CopyStmt" else None
    except Exception:
        return None


def of_statement(body: Node) -> CopyFormat:
    """Return how the lines of a COPY are written."""
    given: dict[str, Any] = {}
    is_understood = True
    for name, value in options(body):
        if name in given:
            is_understood = False
        given[name] = value
    form = _option(given, "format", "text").lower()
    is_csv = form == "csv"
    header = _option(given, "header", "off", bare="on").lower()
    quote = _option(given, "quote", '"')
    is_understood &= form in ("text", "csv", "binary") and header in _HEADERS
    is_understood &= given.keys() <= _COPY_OPTIONS
    return CopyFormat(
        direction="in" if body.get("is_from") else "out",
        format=form,
        delimiter=_option(given, "delimiter", "," if is_csv else "\t"),
        null=_option(given, "null", "" if is_csv else "\\N"),
        header=_HEADERS.get(header, "on"),
        quote=quote,
        escape=_option(given, "escape", quote),
        encoding=_option(given, "encoding", ""),
        default=_option(given, "default", "") if "default" in given else None,
        force_quote=_listed(given.get("force_quote")),
        force_null=_listed(given.get("force_null")),
        force_not_null=_listed(given.get("force_not_null")),
        is_understood=is_understood,
    )


_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("off", "false", "0", "no"), "")
    | dict.fromkeys(("on", "true", "1", "yes"), "on")
    | {"match": "match"}
)

_COPY_OPTIONS: Final = frozenset(
    words(
        """
        format delimiter null header quote escape encoding default force_quote force_null
        force_not_null freeze on_error log_verbosity reject_limit
        """
    )
)


def _option(given: Mapping[str, Any], name: str, default: str, *, bare: str = "") -> str:
    if name not in given:
        return default
    value = given[name]
    if not value:
        return bare or default
    ((kind, body),) = value.items()
    if kind == "Boolean":
        return "on" if body.get("boolval") else "off"
    if kind == "Integer":
        return str(body.get("ival", 0))
    return str(body.get("sval", default))


def _listed(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    if "A_Star" in value:
        return ("*",)
    return tuple(each["String"]["sval"] for each in value["List"]["items"])
