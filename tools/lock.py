"""Writes the lock files: what pyproject.toml asks for, to the exact hash, for every platform.

The development lock is resolved first and binds the others, so that one virtual environment can
hold several of them. No line names an index or a host: a lock must install from whatever index a
site trusts. An existing lock is kept where it still fits; delete it to move to newest versions.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HEADER = "# Made by `make lock` from pyproject.toml; do not edit.\n"
OLDEST_PYTHON = "3.11"


def lock(selection: Sequence[str], target: Path, bounds: Path | None) -> None:
    """Resolve `selection`, as uv's options say it, into `target`, within the versions of `bounds`.

    Raises:
        subprocess.CalledProcessError: nothing fits.
    """
    bound = ["--constraint", str(bounds)] if bounds else []
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", *selection, *bound]
        + ["--universal", "--python-version", OLDEST_PYTHON, "--only-binary", ":all:"]
        + ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        + ["--output-file", str(target)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    target.write_text(HEADER + target.read_text().removeprefix(HEADER))


def main(extras: Sequence[str]) -> int:
    """Write a lock for each of `extras`, for the build and for fuzzing; return 0."""
    dev = Path("requirements-dev.lock")
    lock(["pyproject.toml", "--extra", "dev"], dev, None)
    for extra in extras:
        if extra != "dev":
            lock(["pyproject.toml", "--extra", extra], Path(f"requirements-{extra}.lock"), dev)
    for group in ("build", "fuzz"):
        lock(["--group", group], Path(f"requirements-{group}.lock"), dev)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
