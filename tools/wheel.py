"""Tries a freshly built wheel as a stranger would: nothing of the checkout on the path.

Takes the folder that `make wheel` filled: the wheel, and a virtual environment `venv` with the
gateway's pinned packages and that wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

BUNDLES = ("src/agentaudit/widgets/static", "src/agentaudit/analysis/report/static")
# An install for gateways must start without anything that only notebooks need.
FOREIGN_TO_GATEWAYS = ("duckdb", "polars", "jupyterlab", "anywidget", "IPython", "nbconvert")


def missing_files(wheel: Path) -> list[str]:
    """Return the tracked files of the package that the wheel lacks."""
    tracked = subprocess.run(
        ["git", "ls-files", "src/agentaudit"], check=True, capture_output=True, text=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    return [path for path in tracked if path.removeprefix("src/") not in packed]


def missing_bundles(wheel: Path) -> list[str]:
    """Return what was bundled of the front end, in no repository, and the wheel lacks."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    missing = []
    for folder in BUNDLES:
        made = [path.as_posix() for path in Path(folder).glob("*.*s")] or [folder]
        missing += [path for path in made if path.removeprefix("src/") not in packed]
    return missing


def missing_shared(prefix: Path) -> list[str]:
    """Return what an install should have put where Jupyter looks, and has not."""
    plugin = prefix / "share/jupyter/labextensions/@agentaudit/lab"
    expected = [
        prefix / "etc/jupyter/jupyter_server_config.d/agentaudit.json",
        plugin / "install.json",
        plugin / "package.json",
    ]
    missing = [path for path in expected if not path.is_file()]
    if not missing:
        # What JupyterLab loads first, by a name that changes with what is in it.
        entry = json.loads(expected[-1].read_text("utf-8"))["jupyterlab"]["_build"]["load"]
        missing = [path for path in (plugin / entry,) if not path.is_file()]
    return [str(path.relative_to(prefix)) for path in missing]


def main(argv: Sequence[str]) -> int:
    """Check the one wheel below the folder `argv[0]`; return 0, or 1 with what is wrong."""
    folder = Path(argv[0]).resolve()
    (wheel,) = folder.glob("*.whl")
    missing = missing_files(wheel) + missing_bundles(wheel)
    if wheel.name.endswith("-none-any.whl"):
        missing.append("its compiled module")
    missing += missing_shared(folder / "venv")
    if missing:
        print(f"{wheel.name} lacks: {', '.join(missing)}")
        return 1

    programs = folder / "venv/bin"
    modules = ", ".join(FOREIGN_TO_GATEWAYS)
    settings = folder / "try"
    sample = Path("sample_data").resolve()
    commands: tuple[list[str | Path], ...] = (
        [programs / "agentaudit", "--help"],
        [programs / "agentaudit", "init", settings],
        [programs / "agentaudit", "verify", "--key", sample / "archive.vkey", sample / "archive"],
        [
            programs / "python",
            "-c",
            "import importlib.util as u, agentaudit.gateway.server\n"
            f"found = [m for m in {FOREIGN_TO_GATEWAYS!r} if u.find_spec(m)]\n"
            "assert not found, found\n"
            "import agentaudit._native as native\n"
            "assert not native.why_slow, native.why_slow\n"
            # What the migrations are made of is found by names and not imported.
            "import pathlib, agentaudit.gateway.state as state\n"
            "state.State.open('sqlite:///state.db', base=pathlib.Path('try')).close()",
        ],
    )
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            print(f"{' '.join(map(str, command))} returned {done.returncode}\n{done.stderr}")
            return 1
    print(f"{wheel.name}: installs, starts, verifies the sample; none of {modules} comes with it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
