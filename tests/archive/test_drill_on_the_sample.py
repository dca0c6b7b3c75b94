"""The drill on the sample archive, as the documentation shows it.

A file of its own, as it takes long and tells coverage nothing that `test_drill` does not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentaudit import cli
from agentaudit.archive.drill import ATTACKS
from tests.archive.test_drill import state

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_data" / "archive"


@pytest.mark.timeout(600)
def test_the_command_of_the_documentation_catches_on_the_sample_what_is_listed_and_only_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(SAMPLE)
    monkeypatch.chdir(ROOT)
    assert cli.main(["drill", "sample_data/archive", "--json"]) == 0
    *played, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert (whole["ok"], whole["attacks"]) == (True, len(ATTACKS))
    listed = {one.name: (one.without, one.anchored) for one in ATTACKS}
    assert listed == {
        one["attack"]: (one["without"]["answer"], one["anchored"]["answer"]) for one in played
    }
    assert state(SAMPLE) == before
