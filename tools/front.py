"""Runs scripts of the front end, `extension/package.json`: `build` where none is named.

After `build`, the JupyterLab plugin and the configuration that enables the server's half are linked
into this virtual environment, where Jupyter looks for them: what a wheel brings, for a checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hatch_build import SHARED, bundle

ROOT = Path(__file__).resolve().parent.parent


def main(scripts: Sequence[str]) -> int:
    """Run them in their order; return 0, or 1 after the first that failed and said why."""
    try:
        for script in scripts or ("build",):
            bundle(ROOT, script)
            if script == "build" and sys.prefix != sys.base_prefix:
                link(Path(sys.prefix))
    except subprocess.CalledProcessError:
        return 1
    except KeyboardInterrupt:
        return 130  # how `watch` ends
    return 0


def link(prefix: Path) -> None:
    """Let a virtual environment have what a wheel would install beside the package."""
    for made, place in SHARED.items():
        target = prefix / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)  # of a wheel that was installed here before
        target.unlink(missing_ok=True)
        target.symlink_to(ROOT / made)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
