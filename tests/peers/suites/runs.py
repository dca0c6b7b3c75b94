"""One suite, run by pytest in a process of its own against one place."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentaudit.demo.processes import Child, PeerError
from tests.peers.suites import compare, sources
from tests.peers.suites.ways import Need, Place

TEST_SECONDS = 60
"""A test that takes longer has failed: a lost answer must not hold up the rest."""

RUN_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Suite:
    """Somebody's tests of a driver, and how to run them."""

    name: str
    driver: str
    package: str
    entries: Sequence[str]
    """What of the source distribution is needed."""
    whole: Sequence[str]
    part: Sequence[str]
    """What runs in a few minutes: where much of the protocol is used."""
    left_out: Sequence[str]
    need: Need
    options: Callable[[Place, str], list[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of each test, and how long all took, with the start of pytest."""

    outcomes: dict[str, str]
    seconds: float


def run(suite: Suite, place: Place, selection: Sequence[str], report: Path) -> Run:
    """Run `selection`, files of the suite, against `place`; `report` is where pytest's goes.

    Raises:
        PeerError: pytest came to no end, or to none that says what became of each test.
    """
    folder = sources.unpacked(suite.package, suite.entries)
    written = report.with_suffix(".json")
    written.unlink(missing_ok=True)
    environment = place.environment(suite.need.database)
    inside = Path(__file__).parent / "inside"
    environment["PYTHONPATH"] = f"{sources.ROOT}:{inside}"
    # -P and -s: the installed driver is tested, not the one beside the tests.
    command = [sys.executable, "-P", "-s", "-m", "pytest", "-o", "addopts=", "-q", "-rfE"]
    command += ["--tb=short", "-p", "tools.outcomes", "--outcomes", str(written)]
    command += [f"--timeout={TEST_SECONDS}", "--timeout-method=signal"]
    command += ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:asyncio", "-p", "no:xdist"]
    command += [f"--ignore={name}" for name in suite.left_out]
    command += [*suite.options(place, suite.need.database), *selection]
    report.unlink(missing_ok=True)
    began = time.monotonic()
    child = Child(command, log=report, directory=folder, environment=environment)
    try:
        status = child.wait(RUN_SECONDS)
    finally:
        child.stop()
    seconds = time.monotonic() - began
    # Anything but 0 and 1 is no answer: a file that cannot even be read has no tests to compare.
    if status not in (0, 1) or not written.exists():
        end = child.log_text()[-2000:]
        raise PeerError(f"pytest: exit status {status}, expected 0 or 1\n{end}")
    outcomes = json.loads(written.read_text())
    return Run({compare.plain(name): what for name, what in outcomes.items()}, seconds)


def _asyncpg_options(place: Place, database: str) -> list[str]:
    return ["-p", "running_servers", "--import-mode=importlib", "--assert=plain"]


def _sqlalchemy_options(driver: str) -> Callable[[Place, str], list[str]]:
    def options(place: Place, database: str) -> list[str]:
        where = f"{place.user}:{place.password}@{place.host}:{place.port}/{database}"
        # Its plugin needs pytest's own of warnings before it.
        return ["-p", "warnings", "--dburi", f"postgresql+{driver}://{where}"]

    return options


def _sqlalchemy(driver: str) -> Suite:
    return Suite(
        name="sqlalchemy",
        driver=driver,
        package="sqlalchemy",
        entries=("test", "lib", "setup.cfg", "pyproject.toml"),
        whole=("test/dialect/postgresql", "test/dialect/test_suite.py"),
        part=(
            "test/dialect/postgresql/test_async_pg.py",
            "test/dialect/postgresql/test_dialect.py",
            "test/dialect/postgresql/test_on_conflict.py",
            "test/dialect/postgresql/test_query.py",
            "test/dialect/test_suite.py",
        ),
        left_out=(),
        need=Need(
            "test",
            prepare=(
                "ALTER DATABASE test SET default_text_search_config = 'pg_catalog.english'",
                "CREATE SCHEMA test_schema",
                "CREATE SCHEMA test_schema_2",
                "CREATE EXTENSION hstore",
                "CREATE EXTENSION citext",
                "CREATE EXTENSION btree_gist",
                # It asks for a collation of that name, which not every system has.
                "CREATE COLLATION IF NOT EXISTS public.\"en_US\" (provider = libc, locale = 'C')",
            ),
        ),
        options=_sqlalchemy_options(driver),
    )


SUITES = {
    ("asyncpg", "asyncpg"): Suite(
        name="asyncpg",
        driver="asyncpg",
        package="asyncpg",
        entries=("tests", "pyproject.toml"),
        whole=("tests",),
        part=tuple(
            f"tests/test_{name}.py"
            for name in (
                "adversity",
                "cache_invalidation",
                "cancellation",
                "codecs",
                "copy",
                "cursor",
                "execute",
                "introspection",
                "listeners",
                "prepare",
                "timeout",
                "transaction",
            )
        ),
        # Linters over asyncpg's own source.
        left_out=("tests/test__sourcecode.py",),
        need=Need("postgres", later=("asyncpg_intro_test", "testdb"), standby=True),
        options=_asyncpg_options,
    ),
    ("sqlalchemy", "psycopg"): _sqlalchemy("psycopg"),
    ("sqlalchemy", "psycopg_async"): _sqlalchemy("psycopg_async"),
    ("sqlalchemy", "asyncpg"): _sqlalchemy("asyncpg"),
}
