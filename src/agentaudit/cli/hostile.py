"""Reads an archive that may be made to hurt whoever reads it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentaudit.errors import AgentauditError, ArchiveError

MEMORY_BYTES = 3 << 30
"""Five times what verification takes: a Parquet file of a few bytes may decode to terabytes."""


@contextmanager
def hostile() -> Iterator[None]:
    """Read an archive that may be made to hurt: in bounded memory, and with an error by name.

    Raises:
        ArchiveError: what is there is not what any gateway writes.
    """
    from agentaudit.archive.verification import MALFORMED, words

    with _bounded_memory():
        try:
            yield
        except (AgentauditError, BrokenPipeError):
            raise
        except Exception as error:
            # DuckDB is asked last, and only where a verb has loaded it.
            duckdb = sys.modules.get("duckdb")
            if isinstance(error, (*MALFORMED, MemoryError)):
                reason = words(error)
            elif duckdb is not None and isinstance(error, duckdb.Error):
                reason = f"malformed ({type(error).__name__})"
            else:
                raise
            raise ArchiveError(
                f"archive: it cannot be read: {reason}",
                hint="`agentaudit verify` says which of its files are not what was sealed",
            ) from error


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let what a hostile archive asks for beyond reason fail, rather than take the machine."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + MEMORY_BYTES
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        # Whoever called `main` in a process of their own has other work to do in it.
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Return what the process holds already of that which `RLIMIT_DATA` limits (proc(5), statm)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
    except FileNotFoundError:
        return 0
    return pages * resource.getpagesize()
