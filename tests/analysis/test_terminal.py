"""What stood on a terminal over time: its frames, its lines, and where a text was to be seen."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.analysis import film as films
from agentaudit.analysis.film import Film, frames
from agentaudit.analysis.printable import printable
from agentaudit.analysis.seen import seen
from agentaudit.analysis.session import Session
from agentaudit.analysis.terminal import Display, Moment, Part, Terminal
from agentaudit.errors import QuestionError
from agentaudit.protocols import ssh_screen
from tests.analysis.terminals import Shell, record
from tests.support.hostile import CASES

SECOND = 1_000_000


def opened(folder: Path, *shells: Shell) -> Session:
    recorded = record(folder, shells)
    return aa.load(recorded.path).session(recorded.sessions[0])


class Drawn:
    """What a page has drawn, frame by frame."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self.size = (0, 0)

    def take(self, frame: films.Frame) -> list[str]:
        """Draw a frame; return the text of all."""
        self.size = frame.get("size", self.size)
        count = self.size[1]
        self.rows = self.rows[:count] + [[] for _ in range(count - len(self.rows))]
        for at, row in frame["rows"]:
            self.rows[at] = row
        return [
            "".join(each if isinstance(each, str) else each[0] for each in row) for row in self.rows
        ]

    def looks(self, bit: int) -> list[str]:
        """Return all texts that look so."""
        return [
            each[0]
            for row in self.rows
            for each in row
            if not isinstance(each, str) and each[1] & bit
        ]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A long shell in random pieces, one with a bit of everything, and one without a terminal."""
    chance = random.Random(7)
    long = Shell((40, 6))
    words = [
        "ls\r\n",
        "\x1b[2J",
        "\x1b[1;3H",
        "wörd ",
        "\x1b[31m",
        "\x1b[0m",
        "日本",
        "\x1b[?1049h",
        "\x1b[?1049l",
    ]
    for turn in range(700):
        long.says("".join(chance.choices(words, k=5)), chance.randrange(5_000, 60_000))
        if turn % 90 == 0:
            long.resizes(chance.randrange(0, 60), chance.randrange(0, 9), 10)
    long.exits(0)
    shell = (
        Shell((30, 5))
        .says("$ ")
        .says("c")
        .says("at\r\n")
        .says("pa\x1b[1mss\x1b[0mwo")
        .says("rd\r\n")
    )
    shell.gateway_says("held").says("key [masked:aws_key] end\r\n", rule="aws_key")
    shell.says("\U0010f121\U0010f061gent ".encode() + b"\xf4\x8f\x84").says(b"\xa1!", 1)
    shell.says("".join(f"row {n}\r\n" for n in range(40)) + "last", 3 * SECOND).exits(0)
    plain = Shell(None, "uptime").says("up \x1b[1m3\x1b[0m days\n").exits(0)
    return opened(tmp_path_factory.mktemp("terminal"), long, shell, plain)


def test_a_frame_of_any_page_shows_what_stood_there_by_then(session: Session) -> None:
    terminal = session.terminal(0)
    film = Film(terminal)
    assert film.pages > 5
    expected = []
    display, moments = Display(terminal.size), terminal.moments()
    moment = next(moments, None)
    for step in terminal.steps(films.STEP_US):
        while moment is not None and moment.event_no <= step.last_event_no:
            display.take(moment)
            moment = next(moments, None)
        expected.append([row.rstrip() for row in display.screen.text()])
    assert len(expected) == len(film.times_ms)
    assert film.times_ms == sorted(film.times_ms)
    for page in [0, 1, film.pages - 1, 2, 2, 0, film.pages - 2, film.pages - 1]:
        drawn = Drawn()
        shown = [[row.rstrip() for row in drawn.take(frame)] for frame in film.page(page)]
        first = page * films.PAGE_FRAMES
        assert shown == expected[first : first + films.PAGE_FRAMES], page
    assert film.page(-1) == film.page(film.pages) == []
    json.dumps([film.page(0), films.facts(film)])


def test_played_once_it_ends_as_its_last_screen(session: Session) -> None:
    drawn, text = Drawn(), []
    times = []
    for at_us, frame in frames(session.terminal(0)):
        text = drawn.take(frame)
        times.append(at_us)
    assert times == sorted(times)
    assert min(b - a for a, b in pairwise(times)) > 0
    assert [row.rstrip() for row in text] == [
        row.rstrip() for row in session.terminal(0).last().screen.text()
    ]


def test_who_said_what_is_told_and_nobody_passes_for_another(session: Session) -> None:
    film = Film(session.terminal(1))
    drawn = Drawn()
    for frame in film.page(0)[:-1]:
        drawn.take(frame)
    ours, masked = 1 << 17, 1 << 16
    assert drawn.looks(ours) == ["agentaudit: held"]
    assert drawn.looks(masked) == ["[masked:aws_key]"]
    # These are the characters by which a screen knows them, said by the agent, and cut in two.
    text = "".join(
        "".join(each if isinstance(each, str) else each[0] for each in row) for row in drawn.rows
    )
    assert "\ufffd\ufffdgent \ufffd" in text


def test_lines_are_told_as_they_were_read(session: Session) -> None:
    told = session.result(1).column("output").to_pylist()
    assert told[:5] == [
        "$ cat",
        "password",
        "agentaudit: held",
        "key [masked:aws_key] end",
        "\ufffd\ufffdgent \ufffd!row 0",
    ]
    assert told[-2:] == ["row 39", "last"]
    assert len(told) == 45
    assert session.result(1, limit=2).num_rows == 2
    assert [batch.num_rows for batch in session.result_batches(1)] == [45]
    assert session.result(2).column(0).to_pylist() == ["up \x1b[1m3\x1b[0m days"]
    assert {n: t.num_rows for n, t in session.results(3)} == {0: 3, 1: 3, 2: 1}
    assert "    password" in session.transcript()
    with pytest.raises(QuestionError, match="no terminal"):
        session.terminal(2)


SEEN = {
    # What is looked for; what is said, a tenth of a second apart; the lines, with when.
    "in pieces": (
        "password",
        ["pa", "\x1b[31mss", "\x1b[0m\x1b]0;title\x07wo", "rd", "\r\n"],
        [("password", 400, 500)],
    ),
    "in any case": ("PASSWÖRD", ["passwörd"], [("passwörd", 100, 100)]),
    "backwards": ("abc", ["\x1b[1;3Hc", "\x1b[1;2Hb", "\x1b[1;1Ha"], [("abc", 300, 300)]),
    "typed, with a slip": (
        "cat",
        ["$ cat x", "\b\x1b[K", "y"],
        [("$ cat x", 100, 300), ("$ cat y", 300, 300)],
    ),
    "over the edge of a row": (
        "secretword",
        ["x" * 25 + "secretword"],
        [("x" * 25 + "secretword", 100, 100)],
    ),
    "scrolled by in one piece": (
        "row 3.",
        ["".join(f"row {n}.\r\n" for n in range(60))],
        [("row 3.", 100, 100)],
    ),
    "erased in the same piece": (
        "gone",
        ["go\x1b[1mne\x1b[2J\x1b[H", "here"],
        [("gone", 100, 100)],
    ),
    "cleared with what scrolled off": (
        "gone",
        ["gone\r\n" * 9 + "\x1b[H\x1b[2J\x1b[3J", "$ "],
        [("gone", 100, 100)],
    ),
    "until it is painted over": ("one", ["one", "\rtwo", "three"], [("one", 100, 200)]),
    "on the other screen": ("vim", ["\x1b[?1049hvim", "\x1b[?1049l"], [("vim", 100, 200)]),
    "before a program took the screen": (
        "old 2.",
        ["".join(f"old {n}.\r\n" for n in range(9)) + "\x1b[?1049hvim", "\x1b[?1049l"],
        [("old 2.", 100, 100)],
    ),
    "never": ("title", ["\x1b]0;title\x07", "\x1b[31m"], []),
    "not what is sent": ("\x1b[31m", ["\x1b[31mred"], []),
}


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session with a terminal for each way in which a text may come to stand on one."""
    shells = []
    for _, said, _ in SEEN.values():
        shell = Shell((30, 5))
        for each in said:
            shell.says(each)
        shells.append(shell)
    return opened(tmp_path_factory.mktemp("painted"), *shells)


@pytest.mark.parametrize("case", SEEN)
def test_a_text_is_found_where_it_stood(case: str, painted: Session) -> None:
    text, _, expected = SEEN[case]
    found, is_cut = seen(painted.terminal(list(SEEN).index(case)), text)
    assert [(hit.text, hit.first_us // 1_000, hit.last_us // 1_000) for hit in found] == expected
    assert not is_cut


def test_a_case_finds_it_in_every_session(tmp_path: Path) -> None:
    one = Shell().says("the to").says("ken is here\r\n").exits(0)
    recorded = record(tmp_path, [one, Shell(None, "x").says("token")], [Shell().says("TOKEN")])
    case = aa.load(recorded.path)
    found = case.search_screens("token")
    assert found.columns == [
        *("first_seen", "last_seen", "session_id", "command_no", "user", "target", "text")
    ]
    rows = [(str(row[2]), row[3], row[6]) for row in found.fetchall()]
    assert rows == [
        (recorded.sessions[1], 0, "TOKEN"),
        (recorded.sessions[0], 0, "the token is here"),
    ]
    assert len(case.search_screens("token", session=recorded.sessions[0])) == 1
    assert len(case.search_screens("token", limit=1)) == 1
    assert len(case.search_screens("token", user="nobody")) == 0
    assert len(case.search_screens("token", until="2026-11-03T10:00:00.150")) == 0
    assert len(case.search_screens("token", since="2026-11-03T10:00:00.900")) == 1
    with pytest.raises(QuestionError, match="no text"):
        case.search_screens("")


def test_a_line_that_many_repeat_is_told_once_and_their_number_is_bounded(tmp_path: Path) -> None:
    shell = Shell().says("same\r\n" * 500).says("".join(f"other {n}\r\n" for n in range(50)))
    terminal = opened(tmp_path, shell).terminal()
    assert [hit.text for hit in seen(terminal, "same")[0]] == ["same"]
    found, is_cut = seen(terminal, "other", 20)
    assert (len(found), is_cut) == (20, True)


SIZES = [(0, 0), (10_000, 10_000), (1, 1), (4_294_967_295, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_is_shown_as_far_as_a_screen_has_it(size: tuple[int, int], tmp_path: Path) -> None:
    film = Film(opened(tmp_path, Shell(size).says("hello 日本\r\n" * 3).resizes(*size)).terminal())
    facts = films.facts(film)
    assert facts["columns"] * facts["rows"] <= ssh_screen.MAX_CELLS
    assert film.page(0)[0]["size"] == (facts["columns"], facts["rows"])
    if size == (0, 0):
        assert (facts["columns"], facts["rows"]) == (80, 24)


def test_a_window_that_never_rests_is_thirty_frames_a_second(tmp_path: Path) -> None:
    shell = Shell()
    for turn in range(3_000):
        shell.resizes(20 + turn % 200, 5 + turn % 60, 1_000)
    film = Film(opened(tmp_path, shell).terminal())
    assert len(film.times_ms) == pytest.approx(3_000 / 33, abs=2)
    assert film.page(film.pages - 1)[-1]["size"] == (219, 64)


def test_an_hour_of_output_is_a_bounded_number_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "MAX_FRAMES", 100)
    shell = Shell()
    for turn in range(900):
        shell.says(f"tick {turn}\r\n", 4 * SECOND)
    terminal = opened(tmp_path, shell).terminal()
    film = Film(terminal, most=100)
    assert 90 <= len(film.times_ms) <= 101
    drawn = Drawn()
    for page in range(film.pages):
        for frame in film.page(page):
            text = drawn.take(frame)
    assert "tick 899" in text
    assert films.facts(film)["duration_ms"] == 3_600_000
    assert [hit.text for hit in seen(terminal, "tick 42")[0]] == [
        *("tick 42", *(f"tick 42{n}" for n in range(10)))
    ]


def test_megabytes_in_one_go_are_shown_and_searched(tmp_path: Path) -> None:
    line = "drwxr-xr-x 2 root root 4096 Nov 30 18:17 some/file/name of a thing\r\n"
    data = line * 20_000 + "needle\r\n" + line * 20_000
    terminal = opened(tmp_path, Shell((120, 50)).says(data, 1_000).says("end")).terminal()
    assert terminal.duration_us < SECOND
    film = Film(terminal)
    drawn = Drawn()
    for frame in film.page(0):
        text = drawn.take(frame)
    assert (text[48], text[49], film.left_out) == (line.rstrip(), "end", "")
    assert [hit.text for hit in seen(terminal, "needle")[0]] == ["needle"]


def test_what_is_beyond_the_bound_is_said_to_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "MAX_OUTPUT_BYTES", 3 << 20)
    shell = Shell()
    for _ in range(9):
        shell.says("x" * (1 << 20), SECOND)
    film = Film(opened(tmp_path, shell).terminal())
    assert len(film.times_ms) == 3
    assert film.left_out.startswith("the screen is shown up to 3.0 s")


def test_a_page_in_which_everything_changes_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "MAX_PAGE_BYTES", 100_000)
    shell = Shell((100, 30))
    for turn in range(64):
        cells = "".join(f"\x1b[{31 + (turn + n) % 6}mx" for n in range(3_000))
        shell.says("\x1b[H" + cells, 40_000)
    film = Film(opened(tmp_path, shell).terminal())
    page = film.page(0)
    assert len(page) == 64
    assert len(json.dumps(page)) < 5 * films.MAX_PAGE_BYTES
    assert page[-1]["rows"]


def test_nothing_that_a_host_says_goes_on_from_a_screen(tmp_path: Path) -> None:
    shell = Shell((80, 24))
    for case in CASES:
        shell.says(case.text.encode("utf-8", "replace")[:5_000] + b"\r\n", 40_000)
    shell.says(bytes(random.Random(3).choices(range(256), k=20_000)))
    session = opened(tmp_path, shell)
    told = [
        each if isinstance(each, str) else each[0]
        for _, frame in frames(session.terminal())
        for _, row in frame["rows"]
        for each in row
    ]
    told += session.terminal().lines()
    assert not [
        text for text in told if any(ord(each) < 32 or 127 <= ord(each) < 160 for each in text)
    ]
    assert printable(session.transcript(), block=True) == session.transcript()


def test_any_cut_of_the_bytes_is_the_same_screen() -> None:
    said = "a\U0010f041b".encode() + b"\xf4\x8f" + "ä日\x1b[31mx\U0010ffff".encode()
    whole = Display((20, 2))
    whole.feed(Part(said))
    for cut in range(len(said)):
        parts = Display((20, 2))
        parts.feed(Part(said[:cut]))
        parts.feed(Part(said[cut:]))
        assert parts.text() == whole.text(), cut


def test_what_is_recorded_later_is_there_once_it_is_asked_for_again(session: Session) -> None:
    class Growing(Terminal):
        """As a live session is: what was said after some events is not there yet."""

        until = 200

        def moments(self, after: int | None = None) -> Any:
            return (each for each in super().moments(after) if each.event_no <= self.until)

        def steps(self, step_us: int) -> Any:
            return (each for each in super().steps(step_us) if each.last_event_no <= self.until)

    terminal = Growing(session, 0, session.terminals[0])
    film = Film(terminal)
    before = film.page(film.pages - 1)
    terminal.until = 300
    film.refresh()
    drawn, other = Drawn(), Drawn()
    for page in range(film.pages):
        for frame in film.page(page):
            drawn.take(frame)
    for frame in Film(terminal).page(film.pages - 1):
        other.take(frame)
    assert before
    assert drawn.rows == other.rows


def test_a_moment_knows_its_parts() -> None:
    data = b"a [masked:x] b ****1234 c"
    moment = Moment(0, 1, "output", data, hidden=((2, "x"), (15, "y"), (24, "wrong")))
    assert [(part.data, part.whose) for part in moment.parts()] == [
        *(
            (b"a ", ""),
            (b"[masked:x]", "masked"),
            (b" b ", ""),
            (b"****1234", "masked"),
            (b" c", ""),
        )
    ]
