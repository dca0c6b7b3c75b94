"""Whether a condition holds for every row, as far as its text tells.

Nulls are left aside: `a = a` is taken for true, as whoever writes it does. What is a function's or
a column's to say is not known, so a condition may hold for every row and not be found here; one
that is found does, whatever the rows are.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from agentaudit.risk.tree import Node

_MAX_DEPTH: Final = 60

Operand = tuple[str, Any]
"""Its kind (`name`, `number`, `text`, `boolean`) and what it is."""


class Condition:
    """A condition: `is_always_true`, and whether that hangs on numbers that are in it."""

    __slots__ = ("hangs_on_numbers", "is_always_true")

    def __init__(self, condition: Node) -> None:
        self.hangs_on_numbers = False
        self.is_always_true = False
        junction = condition.get("BoolExpr", {})
        if junction.get("boolop") == "AND_EXPR":
            # The first comparison that is none of constants says what most conditions are.
            for each in junction["args"]:
                if self._value(each, 1) is not True and not self.hangs_on_numbers:
                    return
        self.is_always_true = self._value(condition, 0) is True

    def _value(self, node: Node, depth: int) -> bool | None:
        """Return what a condition always is; None where rows differ, or it is not known."""
        if depth > _MAX_DEPTH or len(node) != 1:
            return None
        ((kind, body),) = node.items()
        if kind == "BoolExpr":
            return self._junction(body, depth)
        if kind == "A_Expr":
            return self._comparison(body)
        if kind == "NullTest":
            operand = self._operand(body["arg"])
            if operand is None or operand[0] == "name":
                return None
            is_null = operand[0] == "null"
            return is_null is (body["nulltesttype"] == "IS_NULL")
        if kind == "BooleanTest":
            value = self._value(body["arg"], depth + 1)
            test: str = body["booltesttype"]
            if value is None or test.endswith("UNKNOWN"):
                return None
            return (value is test.endswith("TRUE")) is not ("_NOT_" in test)
        if kind == "CoalesceExpr":
            return self._value(body["args"][0], depth + 1)
        if kind == "SubLink":
            return True if _always_has_a_row(body) else None
        operand = self._operand(node)
        if operand is None:
            return None
        if operand[0] == "text":
            return _BOOLEANS.get(
                str(operand[1]).strip().lower()
            )  # 't' is read as what is asked for
        return bool(operand[1]) if operand[0] == "boolean" else None

    def _junction(self, body: Node, depth: int) -> bool | None:
        values = [self._value(each, depth + 1) for each in body["args"]]
        if body["boolop"] == "NOT_EXPR":
            return None if values[0] is None else not values[0]
        decisive: bool = body["boolop"] == "OR_EXPR"
        if decisive in values or (decisive and self._covers_all(body["args"])):
            return decisive
        return None if None in values else not decisive

    def _covers_all(self, arms: list[Node]) -> bool:
        """Whether one of `arms` is what another one is not: `a IS NULL OR a IS NOT NULL`."""
        seen = set()
        for arm in arms:
            form = self._form(arm)
            if form is None:
                continue
            what, test, opposite = form
            if (what, opposite) in seen:
                if any(kind == "number" for kind, _ in what):
                    self.hangs_on_numbers = True
                return True
            seen.add((what, test))
        return False

    def _form(self, arm: Node, depth: int = 0) -> tuple[tuple[Operand, ...], str, str] | None:
        """Return what a condition asks about, what it asks, and what would be the opposite."""
        ((kind, body),) = arm.items()
        if kind == "BoolExpr":
            if body["boolop"] != "NOT_EXPR" or depth > _MAX_DEPTH:
                return None
            form = self._form(body["args"][0], depth + 1)
            return None if form is None else (form[0], form[2], form[1])
        if kind == "A_Expr":
            left, right = self._operand(body.get("lexpr", {})), self._operand(body["rexpr"])
            operator = _operator(body)
            if left is None or right is None or body.get("kind") not in _PLAIN:
                return None
            if "null" in (left[0], right[0]):
                return None  # which is null, and so is its opposite
            return (
                ((left, right), operator, _OPPOSITES[operator]) if operator in _OPPOSITES else None
            )
        test, opposite, subject = "", "NOT", arm
        if kind in ("NullTest", "BooleanTest"):
            test = body["nulltesttype" if kind == "NullTest" else "booltesttype"]
            opposite = test.replace("IS_NOT_", "IS_") if "_NOT_" in test else f"IS_NOT_{test[3:]}"
            subject = body["arg"]
        operand = self._operand(subject)
        if operand is None or (operand[0] == "null" and not test):
            return None
        return (operand,), test, opposite

    def _comparison(self, body: Node) -> bool | None:
        kind, operator = body.get("kind"), _operator(body)
        right = body.get("rexpr", {})
        if kind in ("AEXPR_LIKE", "AEXPR_ILIKE", "AEXPR_SIMILAR") or operator in ("~", "~*"):
            return True if _matches_all(operator, right) else None
        left = self._operand(body.get("lexpr", {}))
        if left is None:
            return None
        if kind == "AEXPR_OP":
            return self._compare(operator, left, self._operand(right))
        if kind in ("AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
            sign = "=" if kind == "AEXPR_NOT_DISTINCT" else "<>"
            return self._compare(sign, left, self._operand(right))
        if kind in ("AEXPR_IN", "AEXPR_OP_ANY"):
            items = right.get("List", {}).get("items") or right.get("A_ArrayExpr", {}).get(
                "elements", ()
            )
            found = [self._compare(operator, left, self._operand(each)) for each in items]
            # `x NOT IN (…)` is `x <> ALL (…)`; everything else is met by one of them.
            decisive = kind == "AEXPR_OP_ANY" or operator == "="
            if decisive in found:
                return decisive
            return None if None in found or not found else not decisive
        if kind in ("AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"):
            low, high = (self._operand(each) for each in right["List"]["items"])
            found = [self._compare(">=", left, low), self._compare("<=", left, high)]
            is_within = False if False in found else None if None in found else True
            return is_within if kind == "AEXPR_BETWEEN" or is_within is None else not is_within
        return None

    def _compare(self, operator: str, left: Operand, right: Operand | None) -> bool | None:
        if right is None or "null" in (left[0], right[0]) or operator not in _HOLDS:
            return None
        (kind, one), (other_kind, other) = left, right
        if "number" in (kind, other_kind):
            one, other = _number(left), _number(right)
            if one is None or other is None:
                return None
            self.hangs_on_numbers = True
            order = (one > other) - (one < other)
        elif kind != other_kind:
            return None
        elif one == other:
            order = 0
        elif kind == "name" or operator not in ("=", "<>"):
            return None  # which text is less is a collation's to say
        else:
            order = 1
        return order in _HOLDS[operator]

    def _operand(self, node: Node, depth: int = 0) -> Operand | None:
        if depth > _MAX_DEPTH or len(node) != 1:
            return None
        ((kind, body),) = node.items()
        if kind == "A_Const":
            return _constant(body)
        if kind == "ColumnRef":
            parts = tuple(each.get("String", {}).get("sval", "*") for each in body["fields"])
            return ("name", parts)
        if kind == "ParamRef":
            return ("name", body.get("number", 0))
        if kind == "TypeCast":
            return _cast(self._operand(body["arg"], depth + 1), body["typeName"])
        if kind == "A_Expr" and body.get("kind") == "AEXPR_OP":
            left = self._operand(body.get("lexpr", {}), depth + 1)
            right = self._operand(body["rexpr"], depth + 1)
            return _computed(_operator(body), left, right)
        return None


_PLAIN: Final = ("AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE")
_HOLDS: Final = {"=": (0,), "<>": (-1, 1), "<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1)}
_OPPOSITES = {
    "=": "<>",
    "<": ">=",
    ">": "<=",
    "~~": "!~~",
    "~~*": "!~~*",
}
_OPPOSITES |= {opposite: operator for operator, opposite in _OPPOSITES.items()}
_BOOLEANS: Final = {
    **dict.fromkeys(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"), True),
    **dict.fromkeys(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"), False),
}
_NUMBER_TYPES: Final = frozenset(["int2", "int4", "int8", "numeric", "float4", "float8"])
_MAX_DIGITS: Final = 100


def _operator(body: Node) -> str:
    name: str = body["name"][-1].get("String", {}).get("sval", "")
    return name


def _constant(body: Node) -> Operand | None:
    if body.get("isnull"):
        return ("null", None)
    if "ival" in body:
        return ("number", body["ival"].get("ival", 0))
    if "fval" in body:
        return _as_number(body["fval"].get("fval", ""))
    if "boolval" in body:
        return ("boolean", body["boolval"].get("boolval", False))
    if "sval" in body:
        return ("text", body["sval"].get("sval", ""))
    return None


def _as_number(text: str) -> Operand | None:
    if len(text) > _MAX_DIGITS:
        return None
    try:
        number = Decimal(text)
    except ArithmeticError:
        return None
    return ("number", number) if number.is_finite() else None


def _number(operand: Operand) -> int | Decimal | None:
    """Return what a constant is where it is compared with a number."""
    kind, value = operand
    if kind == "text" and str(value).isascii() and str(value).isdigit():
        value = _as_number(str(value))
        return None if value is None else value[1]
    return value if kind == "number" else None


def _cast(operand: Operand | None, type_name: Node) -> Operand | None:
    if operand is None or type_name.get("arrayBounds"):
        return None
    kind, value = operand
    to = type_name.get("names", [{}])[-1].get("String", {}).get("sval")
    if to in ("bool", "boolean") and kind == "text":
        is_true = _BOOLEANS.get(str(value).strip().lower())
        return None if is_true is None else ("boolean", is_true)
    if (to in ("bool", "boolean") and kind == "boolean") or (to == "text" and kind == "text"):
        return operand
    if to in _NUMBER_TYPES and (kind == "text" or isinstance(value, int)):
        number = _number(operand)
        return None if number is None else ("number", number)
    return None


def _computed(operator: str, left: Operand | None, right: Operand | None) -> Operand | None:
    if left is None or right is None or {left[0], right[0]} != {"number"}:
        return None
    one, other = left[1], right[1]
    if not isinstance(one, int) or not isinstance(other, int) or max(abs(one), abs(other)) >> 64:
        return None
    if operator == "+":
        return ("number", one + other)
    if operator == "-":
        return ("number", one - other)
    return ("number", one * other) if operator == "*" else None


def _matches_all(operator: str, pattern: Node) -> bool:
    call = pattern.get("FuncCall", {})
    if call:  # SIMILAR TO asks for similar_to_escape('%')
        pattern = call.get("args", [{}])[0]
    body = pattern.get("A_Const", {})
    if "sval" not in body:
        return False
    text = body["sval"].get("sval", "")
    if operator in ("~~", "~~*") or (call and operator == "~"):
        return bool(text) and not text.strip("%")
    return operator in ("~", "~*") and text in ("", ".*", "^", "$", "^.*", ".*$", "^.*$")


def _always_has_a_row(link: Node) -> bool:
    query = link.get("subselect", {}).get("SelectStmt", {})
    return link.get("subLinkType") == "EXISTS_SUBLINK" and not (
        set(query) - {"targetList", "valuesLists", "limitOption", "op"}
        or query.get("op") != "SETOP_NONE"
        or any(
            "FuncCall" in each["ResTarget"].get("val", {}) for each in query.get("targetList", ())
        )
    )
