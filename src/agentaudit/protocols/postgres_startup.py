"""What the parameters of a start-up packet mean to a server, without I/O.

Where the gateway has to know what a client wants before a server says so, it reads the packet as
the server does, down to what that takes for true: who reads it otherwise can be led past.

Source: PostgreSQL, `ProcessStartupPacket` (src/backend/tcop/backend_startup.c), `parse_bool`
(src/backend/utils/adt/bool.c), `pg_split_opts` (src/backend/utils/init/postinit.c).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_TRUTHS: Final = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "1": True,
    "0": False,
}

_OPTION: Final = re.compile(r"(?:[^\\\s]|\\.)+", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def replication(parameters: Mapping[str, str]) -> str | None:
    """Return `physical` or `logical`, empty for an ordinary session, None for what is neither."""
    value = parameters.get("replication")
    if value is None:
        return ""
    if value == "database":
        return "logical"
    truth = is_true(value)
    return None if truth is None else "physical" if truth else ""


def is_true(value: str) -> bool | None:
    """Return what `value` says, which may be the beginning of a word; None where it says nothing.

    >>> is_true("T"), is_true("of"), is_true("o")
    (True, False, None)
    """
    text = value.lower()
    if not text or text == "o":
        return None
    return next((truth for word, truth in _TRUTHS.items() if word.startswith(text)), None)


def settings_in(options: str) -> dict[str, str]:
    r"""Return the settings in the start-up parameter `options`; other switches are left out.

    >>> settings_in(r"-c a.b=1 --c=x\ y -cd=2")
    {'a.b': '1', 'c': 'x y', 'd': '2'}
    """
    found = {}
    words = iter([_ESCAPED.sub(r"\1", word) for word in _OPTION.findall(options)])
    for word in words:
        if word == "-c":
            setting = next(words, "")
        elif word.startswith(("--", "-c")):
            setting = word[2:]
        else:
            continue
        name, _, value = setting.partition("=")
        found[name] = value
    return found
