"""Compiles `agentaudit._native._fast` when a wheel is built, an editable one included.

Without a compiler the package is whole all the same: the loops then run in Python. The variable
AGENTAUDIT_NATIVE decides what becomes of a compilation that fails: `require` makes it an error, as
CI does, so that a slow build never passes for a fast one; `skip` tries none.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "agentaudit._native._fast"
SOURCE = Path("src/agentaudit/_native/_fast.pyx")


class NativeBuildHook(BuildHookInterface):
    """Adds the compiled module to the wheel; an editable install gets it beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("AGENTAUDIT_NATIVE", "")
        if wanted == "skip":
            return
        root = Path(self.root)
        self._folder = tempfile.TemporaryDirectory(prefix="agentaudit-native-")
        try:
            module = compiled(root / SOURCE, Path(self._folder.name))
        except Exception as error:  # whatever a compiler that is half there may raise
            if wanted == "require":
                raise
            self.app.display_warning(f"agentaudit: {NAME} is not compiled: {error}")
            self.app.display_warning("hint: with a C compiler sealing needs a fifth of the CPU")
            return
        if version == "editable":
            target = root / SOURCE.with_name(module.name)
            # Another inode: a process that has the old one mapped keeps it whole.
            target.unlink(missing_ok=True)
            target.write_bytes(module.read_bytes())
        else:
            build_data["force_include"][str(module)] = f"agentaudit/_native/{module.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compiled(source: Path, folder: Path) -> Path:
    """Return the module made of `source`, which lies in `folder`, with all that was made for it.

    Raises:
        Exception: there is no compiler, or it refuses.
    """
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(
        NAME,
        # Named relative to the checkout, as it stands in the C file and in what debuggers show.
        [os.path.relpath(source)],
        # Columns are read as int64 and as bytes in turn.
        extra_compile_args=["-O3", "-fno-strict-aliasing"],
    )
    extensions = cythonize([extension], build_dir=str(folder / "c"), quiet=True)
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib = str(folder / "lib")
    command.build_temp = str(folder / "o")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(NAME))
