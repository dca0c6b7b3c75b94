"""Terminals at the command line: played, exported, searched; nothing recorded is obeyed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agentaudit.analysis.printable import printable
from agentaudit.cli import main
from tests.analysis.recording import Recorded
from tests.analysis.terminals import Shell, record
from tests.analysis.test_asciicast import read
from tests.support.hostile import CASES
from tests.test_hostile_terminal import in_terminal

# All that we ever tell a terminal: where, in which look, erase, and which screen.
OURS = re.compile(r"\x1b\[(?:\d+;1H|[0-9;]+m|K|2J|\?1049[hl]|\?25[hl])")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A shell that says every hostile text, and one that is plain."""
    shell = Shell((120, 40)).says("$ ").says("pass\x1b[31mwo").says("rd\x1b[0m\r\n")
    for case in CASES:
        shell.says(case.text.encode("utf-8", "replace")[:2_000] + b"\r\n", 3_000_000)
    shell.says(bytes(range(256)) + b"\x1bc\x1b[1;44mlast\x1b[0m").exits(3)
    plain = Shell(None, "uptime").says("up\n").exits(0)
    short = Shell().says("$ \x1b]0;title\x07", 1_000)
    return record(tmp_path_factory.mktemp("shells"), [shell, plain], [short])


def test_a_screen_is_played_in_words_and_looks_of_our_own(recorded: Recorded) -> None:
    where = ("--archive", recorded.path)
    told = in_terminal(b"", "replay", recorded.sessions[0], *where, "--speed", "1e9")
    assert told.count("\x1b[?1049h") == told.count("\x1b[?1049l") == 1
    assert "\x1b[0;1;44mlast\x1b[0m" in told
    assert "pass\x1b[0;31mword\x1b[0m" in told
    rest = OURS.sub("", told)
    assert printable(rest, block=True) == rest
    for typed, session in ((b"p\nq\n", 1), (b"a\n", 0)):
        told = in_terminal(typed, "replay", recorded.sessions[session], *where)
        assert ("\x1b[?1049h" in told) == (session == 1)
        rest = OURS.sub("", told)
        assert printable(rest, block=True) == rest


def test_into_a_file_goes_no_screen(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["replay", recorded.sessions[0], "--archive", str(recorded.path), "--speed", "1e9"]
    assert main([*argv, "--rows", "10000"]) == 0
    told = capsys.readouterr().out
    assert printable(told, block=True) == told
    assert "last" in told


def test_a_terminal_is_exported_to_a_new_file_or_to_standard_output(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--archive", str(recorded.path)]
    argv = ["export", recorded.sessions[0], "--format", "asciicast", *where]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert told.isascii()
    assert printable(told, block=True) == told
    assert read(told).said("x") == "3"
    out = tmp_path / "shell.cast"
    assert main([*argv, "--command", "0", "--typed", "--out", str(out)]) == 0
    assert out.read_text() == told
    assert out.stat().st_mode & 0o777 == 0o600
    for more in (["--out", str(out)], ["--command", "1"], ["--command", "7"]):
        assert main([*argv, *more]) == 2
    assert out.read_text() == told


def test_what_stood_on_a_screen_is_found_and_what_was_sent_by_itself(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--archive", str(recorded.path)]
    found = {}
    for more in ([], ["--screens"], ["--screens", "--session", recorded.sessions[0]]):
        assert main(["search", "PASSWORD", *more, *where]) == 0
        told = capsys.readouterr().out
        assert printable(told, block=True) == told
        found[len(more)] = told.splitlines()
    assert [len(lines) for lines in found.values()] == [1, 2, 2]
    assert found[1][0].split()[:4] == ["FIRST", "SEEN", "LAST", "SEEN"]
    assert found[1][1].endswith("$ password")
    assert main(["search", "script", "--screens", "--json", "--limit", "3", *where]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert {"first_seen", "last_seen", "session_id", "command_no", "text"} <= set(rows[0])
    assert main(["search", "uptime", *where]) == 0
    assert "uptime" in capsys.readouterr().out
    assert main(["search", "up", "--session", "00000000-0000", *where]) == 2
