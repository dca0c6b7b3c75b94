"""The name that PostgreSQL gives a column of a select list without one.

What is around a query can use that name, and so a column that nobody named is found by it.

Source: FigureColname in `src/backend/parser/parse_target.c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentaudit.risk.tree import Node, words


def name_of(node: Node) -> str:
    """Return the name of a column that is `node`."""
    return _figured(node)[0] or "?column?"


def _figured(node: Node) -> tuple[str, int]:
    """Return a name and how good it is: what a cast is of may have a better one than its type."""
    ((kind, body),) = node.items()
    if kind == "ColumnRef":
        last = body["fields"][-1]
        return (str(last["String"]["sval"]), 2) if "String" in last else ("", 0)
    if kind == "A_Indirection":
        names = [each["String"]["sval"] for each in body["indirection"] if "String" in each]
        return (str(names[-1]), 2) if names else _figured(body["arg"])
    if kind == "FuncCall":
        return str(body["funcname"][-1]["String"]["sval"]), 2
    if kind == "A_Expr":
        return ("nullif", 2) if body.get("kind") == "AEXPR_NULLIF" else ("", 0)
    if kind == "TypeCast":
        name, strength = _figured(body["arg"])
        return (name, 2) if strength > 1 else (body["typeName"]["names"][-1]["String"]["sval"], 1)
    if kind == "CollateClause":
        return _figured(body["arg"])
    if kind == "CaseExpr":
        name, strength = _figured(body["defresult"]) if "defresult" in body else ("", 0)
        return (name, 2) if strength > 1 else ("case", 1)
    if kind == "SubLink":
        return _figured_sublink(body)
    if kind in _BY_OP:
        return _BY_OP[kind].get(body.get("op", ""), ""), 2
    name = _NAMES.get(kind, "")
    return name, 2 if name else 0


def _figured_sublink(body: Node) -> tuple[str, int]:
    if body["subLinkType"] != "EXPR_SUBLINK":
        name = {"EXISTS_SUBLINK": "exists", "ARRAY_SUBLINK": "array"}.get(body["subLinkType"], "")
        return name, 2 if name else 0
    ((_, query),) = body["subselect"].items()
    while "larg" in query:
        query = query["larg"]
    if "valuesLists" in query:
        return "column1", 2
    if not query.get("targetList"):
        return "", 0
    target = query["targetList"][0]["ResTarget"]
    return target.get("name") or name_of(target["val"]), 2


_BY_OP: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "MinMaxExpr": {"IS_GREATEST": "greatest", "IS_LEAST": "least"},
        "XmlExpr": {
            "IS_XMLCONCAT": "xmlconcat",
            "IS_XMLELEMENT": "xmlelement",
            "IS_XMLFOREST": "xmlforest",
            "IS_XMLPARSE": "xmlparse",
            "IS_XMLPI": "xmlpi",
            "IS_XMLROOT": "xmlroot",
        },
        "JsonFuncExpr": {
            "JSON_EXISTS_OP": "json_exists",
            "JSON_QUERY_OP": "json_query",
            "JSON_VALUE_OP": "json_value",
        },
        "SQLValueFunction": {
            f"SVFOP_{name.upper()}{suffix}": name
            for name in words(
                """
                current_date current_time current_timestamp localtime localtimestamp current_role
                current_user user session_user current_catalog current_schema
                """
            )
            for suffix in ("", "_N")
        },
    }
)

_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "A_ArrayExpr": "array",
        "CoalesceExpr": "coalesce",
        "GroupingFunc": "grouping",
        "JsonArrayAgg": "json_arrayagg",
        "JsonArrayConstructor": "json_array",
        "JsonArrayQueryConstructor": "json_array",
        "JsonObjectAgg": "json_objectagg",
        "JsonObjectConstructor": "json_object",
        "JsonParseExpr": "json",
        "JsonScalarExpr": "json_scalar",
        "JsonSerializeExpr": "json_serialize",
        "MergeSupportFunc": "merge_action",
        "RowExpr": "row",
        "XmlSerialize": "xmlserialize",
    }
)
