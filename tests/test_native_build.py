"""A build that silently left out what makes the archive fast is a failed build."""

from __future__ import annotations

from agentaudit import _native


def test_the_compiled_loops_run_here() -> None:
    assert _native.why_slow == "", f"the compiled loops {_native.why_slow}"
