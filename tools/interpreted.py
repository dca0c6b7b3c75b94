"""A pytest plugin: modules that are compiled run from their Python source in this process.

Coverage sees only what the interpreter runs, and a doctest only what it can look into. What tests
start as processes of their own stays compiled.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "src/agentaudit"

_find_source = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))


def _hook(path: str) -> Any:
    folder = Path(path)
    # `_fast` has no source in Python; which loops run is the package's own choice.
    if folder.name == "_native" or not folder.is_relative_to(PACKAGE):
        raise ImportError
    return _find_source(path)


sys.path_hooks.insert(0, _hook)
sys.path_importer_cache.clear()
