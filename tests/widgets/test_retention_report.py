"""The kernel's side of the retention report: what it tells a page, and the picture."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.archive.retention import DAY_US
from agentaudit.errors import QuestionError
from agentaudit.widgets.retention_report import (
    RetentionQuestions,
    RetentionReport,
    selected,
    span,
)
from tests.analysis.test_kept import settings
from tests.archive.purging import apply, hold, recorded
from tests.archive.recording import GATEWAY, Site, new_site
from tests.widgets.test_replay import Elements

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "archive"
SECRET = "secret of"  # of every statement that these archives have


def ask(questions: RetentionQuestions, op: str, **args: Any) -> dict[str, Any]:
    data, buffers = questions.ask(op, args)
    assert list(buffers) == []
    json.dumps(data)
    return dict(data)


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Sessions of which some are held, some were purged, and some are kept."""
    site = new_site(tmp_path_factory.mktemp("purged") / "site")
    ids = recorded(site)
    hold(site, session=str(ids["bob"]))
    apply(site)
    return site


def test_the_page_is_told_targets_holds_purges_and_policies(purged: Site) -> None:
    data = ask(RetentionQuestions(aa.load(purged.archive)), "open")
    (log,) = data["logs"]
    assert log["problem"] == ""
    assert {each["target"] for each in log["targets"]} >= {"orders", "billing", "other"}
    assert {len(each["due"]["sessions"]) for each in log["targets"]} == {data["days"] + 1}
    (held,) = log["holds"]
    assert (held["actor"], held["authority"], held["reason"]) == ("os:test", "court", "case 8")
    assert held["sessions"] == 1
    assert held["selector"].keys() == {"session"}
    assert [each["holds"] for each in log["held"]] == [[held["hold"]]]
    assert log["purge_count"] == len(log["purges"]) > 0
    assert [each["entry"] for each in log["purges"]] == sorted(
        (each["entry"] for each in log["purges"]), reverse=True
    )
    assert log["policies"][-1]["ended_us"] is None
    assert SECRET not in json.dumps(data)


def test_a_purge_is_told_with_its_proof_and_the_commands_that_check_it(purged: Site) -> None:
    questions = RetentionQuestions(aa.load(purged.archive))
    (log,) = ask(questions, "open")["logs"]
    purge = ask(questions, "purge", gateway=GATEWAY, purge=log["purges"][0]["purge"])
    (part,) = purge["parts"]
    assert len(part["root"]) == 64
    changed = [file for file in part["files"] if file["before"] != file["after"]]
    assert changed
    assert SECRET not in json.dumps(purge)
    script = purge["script"].splitlines()
    assert script[1].startswith(f"echo '{purge['list_sha256']}  purges/")
    done = subprocess.run(
        ["sh", "-c", "\n".join(script[:2])], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert ": OK" in done.stdout
    with pytest.raises(QuestionError):
        questions.ask("purge", {"gateway": GATEWAY, "purge": "../../x"})


def test_settings_are_told_as_what_they_would_change(purged: Site, tmp_path: Path) -> None:
    questions = RetentionQuestions(aa.load(purged.archive), settings(purged, tmp_path))
    data = ask(questions, "open")
    assert (data["settings"], data["has_settings"]) == ("agentaudit.toml", True)
    after = {each["target"]: each["after"] for each in data["logs"][0]["targets"]}
    assert after["orders"]["says"]["keep_us"] == 20 * DAY_US
    assert after["other"]["says"]["keep_us"] is None
    assert str(tmp_path) not in json.dumps(data)


def test_it_is_read_anew_when_that_is_asked_for(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    ids = recorded(site)
    questions = RetentionQuestions(aa.load(site.archive))
    assert ask(questions, "open")["logs"][0]["holds"] == []
    hold(site, session=str(ids["ana"]))
    assert ask(questions, "open")["logs"][0]["holds"] == []
    assert len(ask(questions, "open", again=True)["logs"][0]["holds"]) == 1


def test_it_can_be_as_of_another_time(purged: Site) -> None:
    moment = datetime(2023, 11, 15, tzinfo=UTC)
    report = RetentionReport(aa.load(purged.archive), at=moment)
    assert report.kept.at_us == moment.timestamp() * 1e6
    with pytest.raises(QuestionError):
        RetentionReport(aa.load(purged.archive), at="soon")


def test_the_picture_has_the_same_and_neither_path_nor_content(purged: Site) -> None:
    picture = RetentionReport(aa.load(purged.archive)).still()
    for words in ("Retention of archive", "orders", "30 days", "case 8", "court", "for ever"):
        assert words in picture
    assert str(purged.archive) not in picture
    assert SECRET not in picture
    assert "<script" not in picture
    assert Elements(picture).tags.isdisjoint({"script", "img", "iframe"})


def test_what_whoever_set_a_hold_wrote_is_written_out(purged: Site) -> None:
    report = RetentionReport(aa.load(purged.archive))
    (held,) = report.kept.logs[0].holds
    object.__setattr__(held.hold, "reason", "<img src=x>\x1b[2J\u202e")
    picture = report.still()
    assert "<img" not in picture
    assert "&lt;img src=x&gt;\\x1b[2J\\u202e" in picture


def test_the_sample_has_a_picture() -> None:
    picture = RetentionReport(aa.load(SAMPLE)).still()
    assert "orders" in picture
    assert "crm" in picture
    assert "<script" not in picture


def test_a_page_may_ask_for_nothing_else(purged: Site) -> None:
    questions = RetentionQuestions(aa.load(purged.archive))
    for name in ("kept", "name", "_case"):
        with pytest.raises(QuestionError):
            questions.ask(name, {})


@pytest.mark.parametrize(
    ("time_us", "words"),
    [
        (None, "for ever"),
        (0, "0 h"),
        (DAY_US, "1 day"),
        (4000 * DAY_US, "4,000 days"),
        (36 * 3_600_000_000, "36 h"),
        (1_800_000_000, "0.5 h"),
    ],
)
def test_times_to_keep_are_told_in_words(time_us: int | None, words: str) -> None:
    assert span(time_us) == words


def test_what_a_hold_selects_is_told_and_no_hmac_whole() -> None:
    words = selected({"user": "ab" * 32, "since": 0, "target": "orders"})
    assert words == "since 1970-01-01 00:00Z, target orders, user HMAC abababababababab…"
