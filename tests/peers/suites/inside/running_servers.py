"""A pytest plugin for asyncpg's own suite, which starts a cluster of its own where it can.

Here its clusters run already. What it skips then, and needs no more of a cluster than a host and a
port, is let run all the same. Its standby is the one that AGENTAUDIT_STANDBY_PORT names.
"""

from __future__ import annotations

import os
import platform
import sys
import types
from typing import Any

import pytest

USABLE = {
    "TestConnectionLoss": (),
    "TestConnectionTerminationListener": (),
    "TestHotStandby": (),
    "TestConnectionAttributes": (),
    "TestConnection": (
        "test_connection_ssl_to_no_ssl_server",
        "test_connection_sslmode_no_ssl_server",
        "test_connection_no_home_dir",
    ),
}
"""Classes, and methods of classes, that skip themselves if PGHOST is set."""


def pytest_configure(config: pytest.Config) -> None:
    """Hand the suite the servers that run, and what it would import for the system's name."""
    module = types.ModuleType("distro")
    module.id = lambda: platform.freedesktop_os_release()["ID"]  # type: ignore[attr-defined]
    sys.modules.setdefault("distro", module)

    from asyncpg import _testbase

    _testbase._default_cluster = _running(os.environ["PGPORT"])


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> None:
    """Let run what can."""
    if name not in USABLE:
        return
    if not USABLE[name]:
        obj.__unittest_skip__ = False
    for method in USABLE[name]:
        setattr(obj, method, _unskipped(getattr(obj, method)))
    if hasattr(obj, "connect_standby"):
        obj.setup_cluster = classmethod(_use_running_pair)


def _unskipped(method: Any) -> Any:
    # unittest wraps what it skips, and so hides from asyncpg's metaclass that it is a coroutine.
    coroutine = method.__wrapped__

    def run(self: Any) -> None:
        self.loop.run_until_complete(coroutine(self))

    return run


def _use_running_pair(cls: Any) -> None:
    cls.master_cluster = _running(os.environ["PGPORT"])
    cls.standby_cluster = _running(os.environ["AGENTAUDIT_STANDBY_PORT"])


def _running(port: str) -> Any:
    from asyncpg.cluster import RunningCluster

    class Running(RunningCluster):  # type: ignore[misc]
        def get_pg_version(self) -> tuple[int, int]:
            return (int(os.environ["AGENTAUDIT_SERVER"]), 0)

    return Running(
        host=os.environ["PGHOST"],
        port=port,
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
    )
