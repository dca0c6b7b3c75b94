"""A pytest plugin: with several workers, tests that share what is made once run in one of them.

`--dist loadgroup` of pytest-xdist 3.8 has no effect with pytest 9.2: it renames tests by an
attribute that pytest no longer reads, so each worker made everything. Here a module says by its
text that its tests belong together: by a fixture of the module's, or by `xdist_group`, whose name
several modules may share. All other tests go to whoever is free.

What may take longest goes first, by the time-outs that tests are marked with: begun last, a test of
minutes has one worker busy when the others have nothing left to do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
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


def grouping(root: Path) -> Callable[[str], str]:
    """Return what tells of a test's name what it is kept together by: itself, where nothing is."""

    @cache
    def read(module: str) -> str | None:
        try:
            text = Path(root, module).read_text(encoding="utf-8")
        except OSError:
            return None
        return group(module, text)

    return lambda nodeid: read(nodeid.partition("::")[0]) or nodeid


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups and single tests in the order in which workers have collected them."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        # It would have groups with many tests go first, however short these are.
        config.option.loadscopereorder = False
        self._group = grouping(config.rootpath)

    def _split_scope(self, nodeid: str) -> str:
        return self._group(nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put first what may take longest; whatever else decides the order does so within that."""
    group = grouping(config.rootpath)
    seconds: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("timeout")
        # Most tests take no second; which do is written down nowhere.
        seconds[group(item.nodeid)] += mark.args[0] if mark is not None and mark.args else 1
    items.sort(key=lambda item: -seconds[group(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Schedule so in every run with workers."""
    return Together(config, log)
