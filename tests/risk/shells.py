"""Real shells, in a folder of their own, whose programs are stubs that tell how they were called.

Nothing that a text names is outside of that folder: texts have no slash, and programs are looked up
in the stubs alone. What runs other programs (`env`, `xargs`, `sh`) is the real thing.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

STUBS = ("rm", "ls", "cat", "cp", "mv", "grep", "wc", "sort", "touch", "mkdir", "deploy", "head")
REAL = ("env", "xargs", "nohup", "timeout", "nice", "sh", "bash", "find")

_FILES = ("a", "b", "-x")
_TEXT = "a b\n"

# `$0`, then each word, end in NUL; a call ends in a line break of its own.
_STUB = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" '
' >>@TOLD@
"""


class Shells:
    """A folder with stubs, and the shells that are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.stubs = folder / "stubs"
        self.told = folder / "told"
        self.work.mkdir()
        self.stubs.mkdir()
        for name in STUBS:
            stub = self.stubs / name
            stub.write_text(_STUB.replace("@TOLD@", str(self.told)))
            stub.chmod(0o755)
        for name in REAL:
            found = shutil.which(name)
            assert found, name
            (self.stubs / name).symlink_to(found)
        self.paths = [path for name in ("bash", "dash") if (path := shutil.which(name))]
        assert self.paths

    def is_unchanged(self) -> bool:
        """Whether the files are as they were before the last run."""
        found = {each.name: each for each in self.work.iterdir()}
        return found.keys() == set(_FILES) and all(
            each.is_file() and each.read_text() == _TEXT for each in found.values()
        )

    def run(self, shell: str, text: str) -> list[tuple[str, ...]]:
        """Return how the stubs were called that `text` runs, words as they came in."""
        for each in self.work.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink()
        for name in _FILES:
            (self.work / name).write_text(_TEXT)
        reading, writing = os.pipe()
        environment = {
            "PATH": str(self.stubs),
            "HOME": str(self.work),
            "FUNCNEST": "4",
            "LC_ALL": "C.UTF-8",
        }
        flags = ["--norc", "--noprofile"] if shell.endswith("bash") else []
        self.told.write_bytes(b"")
        process = subprocess.Popen(
            [shell, *flags, "-c", text],
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        # It is closed when the last process is over that could still tell something.
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            select.select([pipe], [], [], 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        calls: list[tuple[str, ...]] = []
        call: list[str] = []
        for word in self.told.read_bytes().split(b"\0")[:-1]:
            if word == b"\n":
                calls.append(tuple(call))
                call = []
            else:
                call.append(word.decode(errors="replace"))
        return calls
