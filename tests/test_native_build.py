"""A build that silently left out what makes the gateway and the archive fast is a failed build."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from agentaudit import _native
from hatch_build import kept, made_of, sources

SRC = Path(__file__).parent.parent / "src"


def test_the_compiled_loops_run_here() -> None:
    assert _native.why_slow == "", f"the compiled loops {_native.why_slow}"


def test_every_module_that_declares_c_classes_is_compiled_and_its_source_is_older() -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found = sources(SRC)
    assert Path("agentaudit/archive/recorder.py") in found
    for source in found:
        made = SRC / f"{source.with_suffix('')}{suffix}"
        assert made.exists(), f"{source} is not compiled: run make native"
        assert made.stat().st_mtime_ns >= (SRC / source).stat().st_mtime_ns


def test_what_was_compiled_is_kept_only_for_the_very_same_sources(tmp_path: Path) -> None:
    src, folder = tmp_path / "src", tmp_path / "native"
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in ("src/a/b.py", "src/a/b.pxd", "src/a/other.py", f"native/lib/a/b{suffix}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert kept(src, folder) is None
    (folder / "made-of").write_text(made_of(src))
    assert kept(src, folder) == [(f"a/b{suffix}", folder / f"lib/a/b{suffix}")]
    for path in (src / "a/b.py", src / "a/b.pxd", src / "a/other.py"):
        before = path.read_text()
        path.write_text(before.upper())
        assert kept(src, folder) is None
        path.write_text(before)
    (src / "a/new.py").touch()
    assert kept(src, folder) is None
    (src / "a/new.py").unlink()
    (folder / f"lib/a/b{suffix}").unlink()
    assert kept(src, folder) is None
