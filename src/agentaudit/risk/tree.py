"""What libpg_query's JSON looks like: {"SelectStmt": {…}}, and the few shapes that recur in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]


def words(text: str) -> list[str]:
    """Return the words of a list that reads better as a text."""
    return text.split()


def part(name: str) -> str:
    """Return a part of a name so that its dots divide nothing."""
    return f'"{name}"' if "." in name else name


def relation(node: Node) -> str:
    """Return the name of a RangeVar as written."""
    if "schemaname" not in node:
        return part(node["relname"])
    parts = (node.get("catalogname"), node["schemaname"], node["relname"])
    return ".".join(part(each) for each in parts if each)


def dotted(node: Node) -> str:
    """Return a name that is a list of strings, or empty where it is something else."""
    items = node.get("List", {}).get("items", [node])
    parts = [item.get("String", {}).get("sval") for item in items]
    return ".".join(parts) if all(isinstance(each, str) for each in parts) else ""


def options(body: Node, field: str = "options") -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each option of a statement."""
    for option in body.get(field, ()):
        element = option.get("DefElem", {})
        yield element.get("defname", ""), element.get("arg")


def constant(node: Node) -> str:
    """Return a constant text in lower case, and of everything else nothing."""
    value = node.get("A_Const", {})
    return str(value.get("sval", {}).get("sval", "")).lower()
