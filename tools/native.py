"""Compiles the package's modules in place: what has changed since the last time, and no more.

An install compiles all of them anew. This is for who edits them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hatch_build import KEPT, compiled

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Compile; return 0."""
    folder = ROOT / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in compiled(ROOT / "src", folder):
        target = ROOT / "src" / name
        data = made.read_bytes()
        if not target.exists() or target.read_bytes() != data:
            # Another inode: a process that has the old one mapped keeps it whole.
            target.unlink(missing_ok=True)
            target.write_bytes(data)
        # Also what came out the same is younger than its source now.
        target.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
