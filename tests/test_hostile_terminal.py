"""The corpus of hostile texts at the command line: no verb lets a terminal obey any of it."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

import agentaudit
from agentaudit.analysis.printable import printable, width
from agentaudit.cli import main
from tests.analysis.recording import Recorded
from tests.support.hostile import CASES, unseen
from tests.support.hostile_control import control_api, waiting

TEXTS = [case.text for case in CASES]
RULES = '[[mask]]\nname = "n\u202e\u200b\u009b2J\u00ad"\npattern = ["aaPwned|harmless"]\n'

Run = Callable[..., str]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in this process; return what it wrote, in which nothing is to be obeyed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("AGENTAUDIT_TOKEN", "token")

    def run(*argv: object, status: int | None = 0) -> str:
        capfd.readouterr()
        found = main([str(each) for each in argv])
        out, err = capfd.readouterr()
        for said in (out, err):
            assert printable(said, block=True) == said, argv
        assert status in (None, found), err
        return out + err

    return run


def test_lists_and_replays_write_it_out(run: Run, hostile_archive: Recorded) -> None:
    where = ("--archive", hostile_archive.path)
    said, *named = hostile_archive.sessions
    assert unseen(run("sessions", *where), 60) == []
    listed = run("commands", *where)
    assert unseen(listed, 200) == []
    whole = run("replay", said, *where)
    assert unseen(whole, 1_000) == []
    assert "hold by rule" in run("replay", named[7], *where)
    case = agentaudit.load(hostile_archive.path)
    opened = "\n".join(part for session in named for part in case.session(session).told())
    assert unseen(opened, 1_000) == []
    assert printable(opened, block=True) == opened
    assert unseen(run("replay", said, *where, "--speed", "1e9"), 1_000) == []
    run("replay", said, "--command", 3, *where)
    for verb in (("sessions",), ("commands",), ("replay", said)):
        run(*verb, *where, "--json")


def test_evidence_writes_it_out(run: Run, hostile_archive: Recorded, tmp_path: Path) -> None:
    where = ("--archive", hostile_archive.path)
    for more in ((), ("--json",), ("--deep", "--session", hostile_archive.sessions[0])):
        run("verify", hostile_archive.path, *more, "--key", hostile_archive.key)
    run("verify", hostile_archive.path, status=2)
    run("prove", hostile_archive.sessions[0], *where, "--out", tmp_path / "proof")
    run("verify", tmp_path / "proof", "--key", hostile_archive.key)
    out = tmp_path / "report.html"
    run("report", *where, "--session", hostile_archive.sessions[1], "--out", out, status=2)


def test_names_of_files_are_written_out_too(
    run: Run, hostile_archive: Recorded, tmp_path: Path
) -> None:
    archive = tmp_path / "an \u202earchive\x1b[2J"
    shutil.copytree(hostile_archive.path, archive)
    (archive / "heads" / "\x1b]0;owned\x07\u2066").write_text("stray")
    run("verify", archive, "--key", hostile_archive.key, status=1)
    run("sessions", "--archive", archive, status=None)
    run("sessions", "--archive", tmp_path / "\x1b[2Jnowhere", status=2)


def test_what_is_held_and_masked_is_written_out(
    run: Run, hostile_archive: Recorded, tmp_path: Path
) -> None:
    config = tmp_path / "agentaudit.toml"
    run("init", tmp_path)
    text = config.read_text()
    (line,) = [each for each in text.splitlines() if each.startswith("archive =")]
    config.write_text(text.replace(line, f'archive = "{hostile_archive.path}"'))
    assert unseen(run("legal-hold", "list", "--config", config), 200) == []
    run("legal-hold", "list", "--config", config, "--json")
    run("retention", "plan", "--config", config)
    (tmp_path / "rules.toml").write_text(RULES, "utf-8")
    masks = ("mask", "preview", "--archive", hostile_archive.path)
    masks += ("--session", hostile_archive.sessions[0], "--rules", tmp_path / "rules.toml")
    assert "n\\u202e\\u200b\\x9b2J\\xad" in run(*masks)
    run(*masks, "--json")
    (tmp_path / "others.toml").write_text(RULES.replace("harmless", "evil"), "utf-8")
    run(*masks, "--against", tmp_path / "others.toml")


def test_what_a_control_api_says_is_written_out(run: Run, tmp_path: Path) -> None:
    requests = [waiting(text) for text in TEXTS]
    with control_api(requests) as api:
        at = ("--control", api.url)
        assert unseen(run("pending", *at), 3_000) == []
        run("pending", *at, "--json")
        (id, *_) = [one["id"] for one in requests]
        assert unseen(run("deny", id, "--reason", "no", *at, status=None), 200, CASES[:2]) == []
        assert unseen(run("grants", *at, "--all", status=None)) == []
        assert unseen(run("end", "--list", *at)) == []
        assert unseen(run("block", "--list", *at)) == []
        assert unseen(run("tail", *at, status=2)) == []
        run("tail", *at, "--json", status=2)
        run("pull", api.url, tmp_path / "copy", status=2)


def test_in_a_terminal_it_is_as_harmless(hostile_archive: Recorded, tmp_path: Path) -> None:
    told = in_terminal(
        b"a\n", "replay", hostile_archive.sessions[0], "--archive", hostile_archive.path
    )
    assert "n # enter: next" not in told
    assert printable(told, block=True) == told
    assert unseen(told, 60) == []
    for verb in ("sessions", "commands"):
        told = in_terminal(b"", verb, "--archive", hostile_archive.path)
        assert printable(told, block=True) == told
        lines = [line for line in told.splitlines() if not line.startswith("access: ")]
        assert all(width(line) <= COLUMNS for line in lines)
        # A name of three thousand letters pushes nothing off the screen.
        assert lines[0].rstrip().endswith(("ENDED", "STATEMENT"))


COLUMNS = 260


def in_terminal(typed: bytes, *argv: object) -> str:
    """Return what a verb writes to a terminal, in which this is typed; ends of lines as one."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "agentaudit.cli", *map(str, argv)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        told = b""
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # the last of those who wrote is gone
                break
            told += data
    os.close(ours)
    assert process.returncode == 0, told[-2_000:]
    return told.decode().replace("\r\n", "\n")


def test_an_archive_of_it_is_sound(hostile_archive: Recorded) -> None:
    assert agentaudit.load(hostile_archive.path).verify(hostile_archive.key, deep=True).ok is True
