"""A terminal as an asciicast v3 file.

No program that reads version 3 is packaged for Python or Debian 12 (their asciinema reads 1 and 2),
so a strict reader is here, written from docs.asciinema.org/manual/asciicast/v3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.errors import QuestionError
from tests.analysis.recording import OPENED_US
from tests.analysis.terminals import Shell, record


@dataclass
class Cast:
    """What a file says; times are since its beginning, in seconds."""

    header: dict[str, Any]
    events: list[tuple[Decimal, str, str]]

    def said(self, code: str) -> str:
        return "".join(data for _, each, data in self.events if each == code)


def read(text: str) -> Cast:
    """Read a file of version 3, and accept nothing that the format does not have."""
    assert text.isascii()
    assert text.endswith("\n")
    first, *rest = text[:-1].split("\n")
    header = json.loads(first)
    assert header["version"] == 3
    assert set(header) <= {
        *("version", "term", "timestamp", "idle_time_limit", "command", "title", "env", "tags")
    }
    assert set(header["term"]) <= {"cols", "rows", "type", "version", "theme"}
    for name in ("cols", "rows"):
        assert type(header["term"][name]) is int
        assert 0 < header["term"][name] <= 65_535
    assert type(header["timestamp"]) is int
    events = []
    at = Decimal(0)
    for line in rest:
        event = json.loads(line, parse_float=Decimal)
        interval, code, data = event
        assert isinstance(interval, Decimal)
        assert interval >= 0
        assert code in set("oimrx")
        assert isinstance(data, str)
        if code == "r":
            columns, rows = data.split("x")
            assert 0 < int(columns) <= 65_535
            assert 0 < int(rows) <= 65_535
        if code == "x":
            int(data)
        at += interval
        events.append((at, code, data))
    return Cast(header, events)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> aa.Session:
    shell = Shell((90, 30)).says("$ ").types("ls\r").says(b"caf\xc3").says(b"\xa9 \x1b[31m\x7f", 1)
    shell.gateway_says("waits for a decision").resizes(0, 0).resizes(100_000, 40)
    shell.says("key [masked:aws_key]\r\n", 3_600_000_000, rule="aws_key").exits(signal="TERM")
    plain = Shell(None, "uptime").says("up\n").exits(3)
    other = (
        Shell((0, 0), "top \x1b[2J", kind="x\u202e").says("load \xff".encode("latin-1")).exits(7)
    )
    recorded = record(tmp_path_factory.mktemp("cast"), [shell, plain, other])
    return aa.load(recorded.path).session(recorded.sessions[0])


def test_a_cast_has_what_was_said_when_it_was_said(session: aa.Session) -> None:
    cast = read("".join(session.asciicast(0)))
    assert cast.header["term"] == {"cols": 90, "rows": 30, "type": "xterm-256color"}
    assert cast.header["timestamp"] == OPENED_US // 1_000_000
    assert cast.header["title"].startswith("copilot-7 on host-1, session ")
    assert "command" not in cast.header
    assert cast.said("o") == (
        "$ café \x1b[31m\x7fagentaudit: waits for a decision\r\nkey [masked:aws_key]\r\n"
    )
    assert cast.said("m") == "agentaudit: waits for a decision"
    assert [data for _, code, data in cast.events if code == "r"] == ["65535x40"]
    assert cast.said("i") == ""
    assert cast.events[-1] == (Decimal("3600.700001"), "x", "143")
    typed = read("".join(session.asciicast(0, typed=True)))
    assert typed.said("i") == "ls\r"
    assert typed.said("o") == cast.said("o")


def test_what_a_terminal_would_obey_in_a_title_is_written_out(session: aa.Session) -> None:
    cast = read("".join(session.asciicast(2)))
    assert cast.header["term"] == {"cols": 80, "rows": 24, "type": "x\\u202e"}
    assert cast.header["command"] == "top \\x1b[2J"
    assert (cast.said("o"), cast.said("x")) == ("load \ufffd", "7")


def test_what_has_no_terminal_has_no_cast(session: aa.Session) -> None:
    assert list(session.terminals) == [0, 2]
    for command in (1, None, 9, "0"):
        with pytest.raises(QuestionError, match=r"no terminal|none is named|no command 9|whole"):
            session.asciicast(command)  # type: ignore[arg-type]
