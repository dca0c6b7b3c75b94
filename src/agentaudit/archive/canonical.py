"""Canonical JSON (RFC 8785) for the values that the archive holds.

orjson sorts keys by UTF-8 bytes, RFC 8785 by UTF-16 code units: the same for ASCII keys, which
all of ours are but for labels. Nothing that the archive hashes is a float, whose canonical form
differs between the two; integers beyond 2**53, which a JavaScript verifier could not read back,
are refused.
"""

from __future__ import annotations

from typing import Any

import orjson

_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def encode(value: Any) -> bytes:
    """Return `value` as canonical JSON, UTF-8.

    Raises:
        TypeError: an integer beyond 2**53 - 1, a string that is not valid Unicode, or what JSON
            has no form for.

    >>> encode({"b": 1, "a": [None, "é"]}).decode()
    '{"a":[null,"é"],"b":1}'
    """
    return orjson.dumps(value, option=_OPTIONS)


def decode(data: bytes) -> Any:
    """Return the value that `data` encodes.

    Raises:
        ValueError: not JSON.
        MemoryError: there is no room to parse it.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError from None  # which says nothing about the data
        raise
