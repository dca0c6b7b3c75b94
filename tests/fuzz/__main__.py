"""`python -m tests.fuzz --seconds 60`: each target under atheris, from the recorded corpus.

atheris sees Python's bytecode alone, so that the sources are loaded here even where there is a
compiled module beside them; the tests with Hypothesis run what was compiled.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "agentaudit"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--found", type=Path, default=Path(), help="where failures are written")
    parser.add_argument("--only", help="one target, in this process")
    arguments = parser.parse_args(argv)
    if arguments.only:
        return _fuzz(arguments.only, arguments.seconds, arguments.found)
    arguments.found.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in _names():
        command = [sys.executable, "-m", "tests.fuzz", "--only", name]
        options = ["--seconds", str(arguments.seconds), "--found", str(arguments.found)]
        # libFuzzer ends its process, so that each target has one of its own.
        done = subprocess.run(command + options, capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines()
        print(f"{name}: {lines[-1] if lines else done.returncode}")
        if done.returncode:
            failed.append(name)
            print(*lines[-40:], sep="\n")
    return 1 if failed else 0


def _names() -> list[str]:
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def _only_sources(path: str) -> FileFinder:
    """Find in a folder of the package what is written in Python, and nothing that was compiled.

    Raises:
        ImportError: it is another folder.
    """
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.submodule_search_locations is not None
    if not path.startswith(found.submodule_search_locations[0]):
        raise ImportError(path)
    return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))


def _fuzz(name: str, seconds: int, found: Path) -> int:
    import atheris

    sys.path_hooks.insert(0, _only_sources)
    with atheris.instrument_imports(include=[PACKAGE]):
        from tests.fuzz.dialogues import corpus
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(corpus()):
            (Path(folder) / f"recorded-{number}").write_bytes(data)
        options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048"]
        options += ["-max_len=8192", f"-artifact_prefix={found}/{name}-", "-print_final_stats=0"]
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
