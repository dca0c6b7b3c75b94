"""Runs scripts of the front end, `extension/package.json`: `build` where none is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hatch_build import bundle

ROOT = Path(__file__).resolve().parent.parent


def main(scripts: Sequence[str]) -> int:
    """Run them in their order; return 0, or 1 after the first that failed and said why."""
    try:
        for script in scripts or ("build",):
            bundle(ROOT, script)
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
