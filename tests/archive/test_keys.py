"""The keys of a gateway with workers: one folder, a log each, one file to hand out."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentaudit.archive.keys import create_keys, own_logs
from agentaudit.errors import SettingsError


def test_only_the_keys_that_are_missing_are_made_and_one_file_has_all_that_ever_were(
    tmp_path: Path,
) -> None:
    alone = create_keys(tmp_path, "gw1", ["gw1"], "audit.test").splitlines()
    assert [line.split("+")[0] for line in alone] == ["audit.test/gw1", "audit.test/gw1/epoch"]
    two = create_keys(tmp_path, "gw1", ["gw1-1", "gw1-2"], "audit.test").splitlines()
    before = (tmp_path / "gw1-1.key").read_text()
    three = create_keys(tmp_path, "gw1", ["gw1-1", "gw1-2", "gw1-3"], "audit.test").splitlines()

    assert (tmp_path / "gw1-1.key").read_text() == before
    assert [line.split("+")[0] for line in three] == ["audit.test/gw1-3", "audit.test/gw1-3/epoch"]
    assert (tmp_path / "gw1.vkey").read_text().splitlines() == [*alone, *two, *three]
    assert (tmp_path / "gw1-2.vkey").read_text().splitlines() == two[2:]


def test_a_key_is_replaced_by_no_other(tmp_path: Path) -> None:
    names = ["gw1-1", "gw1-2"]
    create_keys(tmp_path, "gw1", names, "audit.test")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(SettingsError, match="there is a log key already"):
        create_keys(tmp_path, "gw1", names, "audit.test")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == found


def test_own_logs_are_those_of_the_gateway_and_its_workers_whose_keys_are_here(
    tmp_path: Path,
) -> None:
    archive, keys = tmp_path / "archive", tmp_path / "keys"
    names = ["gw1", "gw1-2", "gw1-10", "gw1-65", "gw1-01", "gw1-b", "gw11", "gw2"]
    for name in [*names, "gw1-3"]:
        (archive / "log" / name).mkdir(parents=True)
    create_keys(keys, "gw1", names, "audit.test")

    assert own_logs(archive, keys, "gw1") == ["gw1", "gw1-2", "gw1-10"]
    assert own_logs(tmp_path / "none", keys, "gw1") == []
