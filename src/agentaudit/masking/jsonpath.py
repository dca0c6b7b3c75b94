"""The part of JSONPath (RFC 9535) by which a rule names members of a JSON value.

`$`, `.name`, `..name`, `['name']`, `[3]`, `.*` and `[*]`: no filters, and nothing that computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_STEP: Final = re.compile(
    r"""(?P<deep>\.\.)?(?:(?(deep)|\.)(?P<name>[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff-]*|\*)"""
    r"""|\[\s*(?:(?P<index>\d{1,9})|(?P<all>\*)|'(?P<single>(?:[^'\\]|\\.)*)'"""
    r"""|"(?P<double>(?:[^"\\]|\\.)*)")\s*\])"""
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
MAX_STEPS: Final = 32

Step = tuple[bool, str | int | None]
"""Whether at any depth, and the member's name or the element's index; None is each of them."""


def parse(path: str) -> tuple[Step, ...]:
    """Return the steps of `path`.

    Raises:
        ValueError: it is no path of this kind; the message says where.

    >>> parse("$..token")
    ((True, 'token'),)
    """
    if not path.startswith("$"):
        raise ValueError('a JSON path begins with "$"')
    steps: list[Step] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or len(steps) == MAX_STEPS:
            raise ValueError(f"JSON path: nothing that is understood at character {at + 1}")
        quoted = found["single"] if found["single"] is not None else found["double"]
        step: str | int | None
        if quoted is not None:
            step = _ESCAPED.sub(r"\1", quoted)
        elif found["index"] is not None:
            step = int(found["index"])
        elif found["all"] is not None or found["name"] == "*":
            step = None
        else:
            step = found["name"]
        steps.append((found["deep"] is not None, step))
        at = found.end()
    if not steps:
        raise ValueError("a JSON path names a member")
    return tuple(steps)


def replace(value: Any, steps: tuple[Step, ...], change: Callable[[Any], Any]) -> int:
    """Change what `steps` name inside `value`, in place; return how many were changed.

    Raises:
        RecursionError: `value` is nested too deep.
    """
    (deep, wanted), rest = steps[0], steps[1:]
    changed = 0
    if isinstance(value, dict):
        keys: list[Any] = [wanted] if wanted in value else list(value) if wanted is None else []
        below = value.values()
    elif isinstance(value, list):
        at_index = isinstance(wanted, int) and wanted < len(value)
        keys = [wanted] if at_index else list(range(len(value))) if wanted is None else []
        below = value  # type: ignore[assignment]
    else:
        return 0
    if deep:
        for each in list(below):
            changed += replace(each, steps, change)
    for key in keys:
        if rest:
            changed += replace(value[key], rest, change)
        else:
            value[key] = change(value[key])
            changed += 1
    return changed
