"""A build that silently left out what makes the gateway and the archive fast is a failed build."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from agentaudit import _native
from hatch_build import sources

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
