"""Rules over what was recorded, and beside it what was decided when it ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import agentaudit as aa
from agentaudit.analysis.case import Case
from agentaudit.demo.gateways import to_toml
from agentaudit.errors import QuestionError, SettingsError

SAMPLE = Path(__file__).parents[2] / "sample_data" / "archive"


@pytest.fixture(scope="module")
def case() -> Case:
    return aa.load(SAMPLE)


def settings(folder: Path, *rules: dict[str, object], default: str = "allow") -> Path:
    target = {"name": "orders", "address": "db:5432", "database": "orders", "user": "app"}
    path = folder / "agentaudit.toml"
    path.write_text(
        to_toml(
            {
                "gateway": {"name": "gw1", "origin": "audit.example.com"},
                "target": [target | {"default": default}],
                "rule": rules,
            }
        )
    )
    return path


def test_every_command_is_judged_and_keeps_what_was_decided(case: Case, tmp_path: Path) -> None:
    no_deletes = {"name": "no deletes", "action": "deny", "when": {"operation": ["DELETE"]}}
    strangers = {"name": "strangers", "action": "deny", "when": {"groups": ["nobody"]}}
    rows = case.backtest(settings(tmp_path, strangers, no_deletes)).to_arrow_table().to_pylist()

    assert len(rows) == len(case.commands()) > 80
    deletes = [row for row in rows if row["operation"] == "DELETE"]
    assert deletes
    for row in rows:
        if row["target"] != "orders" and row["class"] not in ("read", "session"):
            expected = ("deny", "default")  # of the other target these settings say nothing
        else:
            expected = ("deny", "no deletes") if row in deletes else ("allow", "none")
        assert (row["would"], row["would_rule"]) == expected
    decided = Counter(row["decision"] for row in rows)
    assert min(decided[how] for how in ("allow", "deny", "hold")) > 0
    assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)


def test_the_targets_default_is_what_would_happen_to_the_rest(case: Case, tmp_path: Path) -> None:
    answer = case.backtest(settings(tmp_path, default="deny"))
    found = Counter(answer.project('"class", would, would_rule').fetchall())

    assert {key for key in found if key[0] in ("read", "session")} == {
        ("read", "allow", "none"),
        ("session", "allow", "none"),
    }
    assert {key[1:] for key in found if key[0] in ("write", "unknown", "admin")} == {
        ("deny", "default")
    }


def test_a_policy_that_was_in_force_is_asked_again_by_its_digest(case: Case) -> None:
    digests = {row[0] for row in case.sessions().project("policy_digest").fetchall()} - {None}
    assert len(digests) > 1
    for digest in digests:
        answer = case.backtest(digest)
        assert len(answer) == len(case.commands())

        sessions = case.sessions().filter(f"policy_digest = '{digest}'").project("session_id")
        under_it = {str(session) for (session,) in sessions.fetchall()}
        judged = [
            row
            for row in answer.project(
                "session_id, text, decision, rule, would, would_rule"
            ).fetchall()
            if str(row[0]) in under_it
        ]
        assert judged
        assert [row for row in judged if row[2:4] != row[4:6]] == []


def test_rules_that_cannot_be_read_are_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="not in this archive"):
        case.backtest("0" * 64)
    with pytest.raises(SettingsError, match=r"rule\[1\]\.action: missing"):
        case.backtest(settings(tmp_path, {"name": "x"}))
    with pytest.raises(SettingsError, match="nowhere"):
        case.backtest(tmp_path / "nowhere.toml")


def test_an_archive_without_commands_has_the_same_columns(case: Case, tmp_path: Path) -> None:
    from tests.analysis.recording import record

    empty = aa.load(record(tmp_path).path).backtest(settings(tmp_path))
    assert len(empty) == 0
    assert empty.columns == case.backtest(settings(tmp_path)).columns
