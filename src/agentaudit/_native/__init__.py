"""The archive's inner loops, in C where they could be compiled.

A segment's leaves, rows and columns are some ten steps an event. Python needs 20 µs for them and
C one; so the steps are functions over whole batches, written twice. `_fast` is compiled from
Cython when the package is built; `_twin` is the same in Python, runs where there was no compiler,
and is what tests hold `_fast` against. Both give the same bytes.

SHA-256 is OpenSSL's in both: `_fast` calls the functions of the libcrypto that Python's own
`hashlib` has loaded, because calling them through `hashlib` costs more than hashing.
"""

from __future__ import annotations

import ctypes
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING

from agentaudit._native import _twin

__all__ = (
    "assign",
    "by_slot",
    "extend_tree",
    "gather",
    "hash_rows",
    "holders",
    "json_columns",
    "lookup",
    "marked",
    "pack",
    "places_of",
    "scan",
    "unpack",
    "why_slow",
    "without_numbers",
)


def _find_sha256() -> tuple[int, int, int]:
    """Return the addresses of SHA256_Init, SHA256_Update and SHA256_Final.

    Raises:
        LookupError: Python was built without OpenSSL, or with one that has them no longer.
    """
    try:
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)
        names = ("SHA256_Init", "SHA256_Update", "SHA256_Final")
        init, update, final = (
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names
        )
    except (ImportError, AttributeError, OSError) as error:
        raise LookupError("find no OpenSSL in Python whose SHA-256 they could call") from error
    return init, update, final


def _load() -> tuple[ModuleType, str]:
    """Return the implementation to use, and why it is not the compiled one, if it is not."""
    try:
        from agentaudit._native import _fast

        _fast.use_sha256(*_find_sha256())
    except ImportError:
        return _twin, "were not compiled when the package was installed"
    except LookupError as error:
        return _twin, str(error)
    # Trusted with every leaf, so tried first: RFC 6962's tree of two leaves.
    pair = bytes(range(64))
    if _fast.extend_tree(b"", 0, pair) != sha256(b"\x01" + pair).digest():
        return _twin, "do not hash as hashlib does"
    return _fast, ""


_loops, why_slow = _load()
"""Why the Python loops run instead of the compiled ones; empty where these run."""

if TYPE_CHECKING:
    from agentaudit._native._twin import (
        assign,
        by_slot,
        extend_tree,
        gather,
        hash_rows,
        holders,
        json_columns,
        lookup,
        marked,
        pack,
        places_of,
        scan,
        unpack,
        without_numbers,
    )
else:
    assign = _loops.assign
    by_slot = _loops.by_slot
    extend_tree = _loops.extend_tree
    gather = _loops.gather
    hash_rows = _loops.hash_rows
    holders = _loops.holders
    json_columns = _loops.json_columns
    lookup = _loops.lookup
    marked = _loops.marked
    pack = _loops.pack
    places_of = _loops.places_of
    scan = _loops.scan
    unpack = _loops.unpack
    without_numbers = _loops.without_numbers
