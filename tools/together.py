"""A pytest plugin: with several workers, tests that share what is made once run in one of them.

`--dist loadgroup` of pytest-xdist 3.8 has no effect with pytest 9.2: it renames tests by an
attribute that pytest no longer reads, so each worker made everything. Here a module says by its
text that its tests belong together: by a fixture of the module's, or by `xdist_group`, whose name
several modules may share. All other tests go to whoever is free.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_GROUP = re.compile(r"\bxdist_group\(\"([\w-]+)\"\)")
_OF_THE_MODULE = re.compile(r"\bscope=\"module\"")


def group(module: str, text: str) -> str | None:
    """Return what the tests of the file `module`, which reads `text`, are kept together by."""
    named = _GROUP.search(text)
    if named is not None:
        return named[1]
    return module if _OF_THE_MODULE.search(text) else None


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups first, the largest of them before others, and then test by test."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        self._group = cache(self._read)

    def _read(self, module: str) -> str | None:
        try:
            text = Path(self.config.rootpath, module).read_text(encoding="utf-8")
        except OSError:
            return None
        return group(module, text)

    def _split_scope(self, nodeid: str) -> str:
        return self._group(nodeid.partition("::")[0]) or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Schedule so in every run with workers."""
    return Together(config, log)
