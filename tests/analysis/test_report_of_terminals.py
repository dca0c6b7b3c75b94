"""An evidence report of terminal sessions: last screens in its tables, and frames to be played."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.analysis.report import replays
from agentaudit.widgets.replay import ReplayQuestions
from tests.analysis.recording import Recorded
from tests.analysis.terminals import Shell, record


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A shell and a command without a terminal."""
    shell = Shell((40, 6)).says("$ ").says("ls <b>\r\n").says("\x1b[31mred\x1b[0m \u202eevil\r\n")
    shell.says("key [masked:aws_key]\r\n", 5_000_000, rule="aws_key")
    for turn in range(300):
        shell.says(f"row {turn}\r\n", 50_000)
    plain = Shell(None, "uptime").says("up\n").exits(0)
    return record(tmp_path_factory.mktemp("reported"), [shell.exits(0), plain])


def carried(report: Any) -> list[dict[str, Any]]:
    (blob,) = [each for each in report.facts.blobs if each.name.startswith("replay-")]
    commands: list[dict[str, Any]] = json.loads(gzip.decompress(blob.data))["commands"]
    return commands


def test_a_terminal_is_told_by_its_last_screen_and_played_from_the_page(recorded: Recorded) -> None:
    case = aa.load(recorded.path)
    report = case.report(session=recorded.sessions[0], pdf=True)
    shell, plain = report.facts.sessions[0].commands
    assert shell.screen == tuple(f"row {n}" for n in range(295, 300))
    assert shell.screen_words == "Its terminal at the end, 40 columns and 6 rows"
    assert (shell.result, plain.screen, plain.screen_words) == (None, (), "")
    assert plain.result is not None
    page = report.html.decode()
    assert '<pre class="screen"' in page
    assert page.count('<pre class="statement">') == 1
    assert "row 295\nrow 296" in page
    first, second = carried(report)
    asked = ReplayQuestions(case.session(recorded.sessions[0]))
    facts, _ = asked.ask("terminal", {"command_no": 0})
    told = first["terminal"]
    assert {name: told[name] for name in facts} == facts
    frames = [asked.ask("frames", {"command_no": 0, "page": n})[0]["frames"] for n in range(5)]
    assert told["pages"] == json.loads(json.dumps(frames))
    assert len(told["times"]) == sum(map(len, told["pages"])) > 300
    assert (first["has_terminal"], first["returns_rows"], "result" in first) == (True, False, False)
    assert second["has_terminal"] is False
    assert second["result"]["rows"] == [["up"]]


def test_frames_that_do_not_fit_are_left_out_and_said(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "MAX_SCREEN_BYTES", 30_000)
    case = aa.load(recorded.path)
    told = carried(case.report(session=recorded.sessions[0]))[0]["terminal"]
    assert 0 < len(told["pages"]) < 5
    assert len(told["times"]) == 64 * len(told["pages"])
    assert told["left_out"].startswith("of the screen this report has what was shown up to ")
    monkeypatch.setattr(replays, "MAX_SCREEN_FRAMES", 50)
    told = carried(case.report(session=recorded.sessions[0]))[0]["terminal"]
    assert (len(told["pages"]), told["left_out"]) == (1, None)
    assert len(told["times"]) <= 51


def test_who_hands_out_no_rows_hands_out_no_screen(recorded: Recorded) -> None:
    report = aa.load(recorded.path).report(session=recorded.sessions[0], rows=0)
    shell = report.facts.sessions[0].commands[0]
    assert (shell.screen, shell.screen_words) == ((), "its terminal is left out, as was asked for")
    first = carried(report)[0]
    assert "terminal" not in first
    assert first["has_terminal"] is False
    assert "as was asked for" in first["cut"]
    assert "row 299" not in report.html.decode()


def test_a_terminal_that_was_sent_too_much_is_left_out(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentaudit.analysis.film.MAX_OUTPUT_BYTES", 1_000)
    report = aa.load(recorded.path).report(session=recorded.sessions[0])
    assert (
        report.facts.sessions[0]
        .commands[0]
        .screen_words.startswith("its terminal is left out: it was sent ")
    )


def test_the_same_terminal_is_the_same_bytes(recorded: Recorded, tmp_path: Path) -> None:
    html = [aa.load(recorded.path).report(session=recorded.sessions[0]).html for _ in range(2)]
    assert html[0] == html[1]
