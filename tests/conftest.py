"""Every fixture is a named tool in `tests/peers`; nothing starts before a test asks for it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On a machine with other work to do everything is slow, which says nothing about a test.
settings.register_profile(
    "unhurried",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

pytest_plugins = [
    "tests.peers.certificates",
    "tests.peers.gateway",
    "tests.peers.issuers",
    "tests.peers.oauth",
    "tests.peers.postgres",
    "tests.peers.pump",
    "tests.peers.serverlog",
    "tests.peers.sshd",
    "tests.peers.state",
    "tests.peers.states",
    "tests.support.hostile",
]

SOURCES = Path(__file__).parent.parent / "src"


def pytest_sessionstart() -> None:
    """Refuse to test modules that were compiled from other sources than those that are there."""
    for compiled in SOURCES.rglob("*.so"):
        source = compiled.with_name(compiled.name.partition(".")[0])
        made_ns = compiled.stat().st_mtime_ns
        for path in map(source.with_suffix, (".py", ".pyx", ".pxd")):
            if path.exists() and path.stat().st_mtime_ns > made_ns:
                pytest.exit(f"{path.name} is newer than what was compiled of it: run make native")
