"""The suites' sources: source distributions, pinned by hash in the lock of development.

A suite must fit the driver that is installed, so the lock that pins the one pins the other. What
is fetched stays in a folder for the next run.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentaudit.demo.processes import PeerError

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".build" / "suites"


def pinned(package: str) -> tuple[str, str]:
    """Return the version of `package` in the lock, and its lines there, hashes included.

    Raises:
        PeerError: the lock has no such package.
    """
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    found = re.search(
        rf"^{re.escape(package)}==(\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", lock, re.MULTILINE
    )
    if found is None:
        raise PeerError(f"requirements-dev.lock: no {package}")
    return found[1], found[0]


def unpacked(package: str, wanted: Sequence[str]) -> Path:
    """Return a folder with the entries `wanted` of the package's source distribution.

    Raises:
        PeerError: another version is installed than the one that is pinned, or it cannot be had.
    """
    version, requirement = pinned(package)
    installed = importlib.metadata.version(package)
    if installed != version:
        raise PeerError(
            f"{package}: {installed} is installed, {version} is pinned", hint="make test"
        )
    folder = CACHE / f"{package}-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{package}-") as temporary:
        work = Path(temporary)
        archive = _download(requirement, work)
        with tarfile.open(archive) as tar:
            members = [one for one in tar if _entry(one.name) in wanted]
            tar.extractall(work / "unpacked", members, filter="data")
        (top,) = (work / "unpacked").iterdir()
        try:
            top.rename(folder)
        except OSError:
            # Somebody else was faster; what they have has the same hash.
            if not folder.exists():
                raise
    return folder


def _download(requirement: str, work: Path) -> Path:
    listed = work / "requirements.txt"
    listed.write_text(requirement, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
        # pip asks a source distribution for its metadata, with the build tools that we have.
        + ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        + ["--require-hashes", "--requirement", str(listed), "--dest", str(work / "downloaded")],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise PeerError(f"pip download: {result.stderr[-2000:]}")
    (archive,) = (work / "downloaded").iterdir()
    return archive


def _entry(name: str) -> str:
    # The first part is the name and version of the package.
    return name.split("/")[1] if "/" in name else ""
