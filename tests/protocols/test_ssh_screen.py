"""The screen: what it shows is what tmux shows after the same bytes, and no bytes break it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.protocols.ssh_screen import MAX_CELLS, Screen, Style, clamped
from tests.protocols.typist import typist

DEADLINE_SECONDS = 20.0
COLUMNS, ROWS = 20, 8
FULL = b"".join(b"%d" % (row % 10) * COLUMNS for row in range(ROWS))
LINES = b"\r\n".join(b"line %d" % row for row in range(ROWS))

# What a program says, on a screen of 20 columns and 8 rows.
SAID: dict[str, bytes] = {
    "text": b"hello\r\nworld",
    "a newline goes down alone": b"one\ntwo",
    "text goes on in the next row": b"x" * 45,
    "a full row waits to wrap": b"x" * 20 + b"\ry",
    "and wraps with the next letter": b"x" * 20 + b"yz",
    "scrolling": LINES + b"\r\none\r\ntwo\r\nthree",
    "cursor up and down": LINES + b"\x1b[3Aup\x1b[2Bdown\x1b[99Atop\x1b[99Bend",
    "cursor left and right": b"hello\x1b[3D__\x1b[5C!\x1b[99D<\x1b[99C>",
    "cursor by place": b"\x1b[3;5Hx\x1b[Hy\x1b[99;99Hz\x1b[4fw",
    "cursor by column and row": b"\x1b[7Gx\x1b[5dy\x1b[2Ez\x1b[1Fw\x1b[3`v",
    "erase to the end of the row": b"hello world\x1b[5D\x1b[K",
    "erase from the row's begin": b"hello world\x1b[5D\x1b[1K",
    "erase the row": b"hello\x1b[2Kx",
    "erase below": FULL + b"\x1b[4;5H\x1b[J",
    "erase above": FULL + b"\x1b[4;5H\x1b[1J",
    "erase all": FULL + b"\x1b[4;5H\x1b[2Jx",
    "insert letters": b"hello\x1b[4D\x1b[2@__",
    "insert letters at the edge": b"x" * 20 + b"\x1b[5G\x1b[4@",
    "delete letters": b"hello world\x1b[8D\x1b[3P",
    "erase letters": b"hello world\x1b[8D\x1b[3X",
    "insert rows in a region": LINES + b"\x1b[2;5r\x1b[3;1H\x1b[L",
    "a region scrolls": LINES + b"\x1b[2;5r\x1b[5;1H\nnew\r\nnewer",
    "a region scrolls down": LINES + b"\x1b[2;5r\x1b[2;1H\x1bMnew",
    "the region's end is no wall": LINES + b"\x1b[2;5r\x1b[8;1H\n\nend",
    "no region of one row": LINES + b"\x1b[4;4r\x1b[8;1H\r\nx",
    "places in a region": LINES + b"\x1b[3;6r\x1b[?6h\x1b[1;1Hx\x1b[9;1Hy\x1b[?6l",
    "scroll up and down": LINES + b"\x1b[2S\x1b[3T",
    "the cursor is kept": b"one\x1b7\x1b[5;5Htwo\x1b8three",
    "the cursor is kept, as SCO does": b"one\x1b[s\x1b[5;5Htwo\x1b[uthree",
    "tabs": b"a\tb\tc\td",
    "tabs that are set": b"\x1b[3g\x1b[1;5H\x1bH\x1b[1;9H\x1bH\ra\tb\tc",
    "tabs back": b"\tx\ty\x1b[2Zz",
    "the alternate screen": b"main\x1b[?1049hother\x1b[3;1Hmore",
    "back from it": b"main\x1b[?1049hother\x1b[3;1Hmore\x1b[?1049l and on",
    "insert mode": b"world\r\x1b[4hhello \x1b[4l!",
    "no wrapping": b"\x1b[?7l" + b"abcdefghijklmnopqrstuvwxyz",
    "a letter again": b"x\x1b[5by",
    "wide letters": "漢字かな".encode(),
    "a wide letter does not fit": b"x" * 19 + "漢".encode(),
    "marks": "e\u0301a\u0308o".encode(),
    "marks at the edge": b"x" * 19 + "e\u0301".encode() + b"y",
    "a title and other strings": b"a\x1b]0;title\x07b\x1bPq#0\x1b\\c\x1b_x\x1b\\d\x1b^y\x1b\\e",
    "colours": b"\x1b[31;1mred\x1b[0;48;5;17mblue\x1b[38;2;1;2;3mrgb\x1b[mx",
    "reset": b"\x1b[2;5r\x1b[31mhello\x1bcworld",
    "index and next line": b"one\x1bDtwo\x1bEthree\x1bMfour",
    "unknown sequences": b"a\x1b[>4;2mb\x1b[?12;25hc\x1b#3d\x1b[5 qe\x1b%Gf\x1b=g\x1b>h\x1b[1;2'zi",
    "cut sequences": b"a\x1b[3\x18b\x1b[1\x1b[2Cc\x1b]0;x\x18d",
}


# Where tmux differs from xterm, with what xterm shows.
XTERM: dict[str, tuple[bytes, str]] = {
    "a backspace ends the wait": (b"x" * 20 + b"\by", "x" * 18 + "yx"),
    "several tabs": (b"\x1b[2Ix", " " * 16 + "x"),
    "half of a wide letter": ("漢字".encode() + b"\x1b[2Gx\x1b[3Gy", " xy"),
    "line drawing": (b"\x1b(0lqqk\x1b(Bx\x1b)0\x0eq\x0fq", "┌──┐x─q"),
    "no UTF-8": (b"a\xffb\xe6\xbcc", "a\ufffdb\ufffdc"),
    "soft reset": (b"\x1b[2;5r\x1b[4hworld\x1b[!p\rW", "World"),
    "rows go to the first column": (b"abc\x1b[Mx", "x"),
    "a region of no rows": (b"\x1b[5;2rabc", "abc"),
    "a letter is never repeated past a row": (b"x\x1b[1000000b", "x" * 20),
    "a number without end": (b"\x1b[" + b"9" * 1000 + b"Cx\x1b[9999999999999999Dy", "y"),
    "C1 controls": ("a\x9b2Cb\x9d0;t\x9cc\x90x\x9cd".encode(), "a  bcd"),
    "a wide letter at the edge of no wrapping": (
        b"\x1b[?7l" + b"x" * 20 + "漢".encode(),
        "x" * 18 + "漢",
    ),
    "wide letters are parted by what is inserted": ("漢字".encode() + b"\x1b[2G\x1b[@x", " x 字"),
    "and by the edge": (b"x" * 18 + "漢".encode() + b"\r\x1b[@", " " + "x" * 18),
    "and by what is deleted": ("漢字".encode() + b"\x1b[2G\x1b[2Px", " x"),
    "selective erasing": (b"abc\x1b[?2K\x1b[?Jd", "   d"),
    "a private sequence": (b"a\x1b[?5nb\x1b[>cc\x1b[=0cd", "abcd"),
}


@pytest.fixture(scope="module")
def tmux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    program = shutil.which("tmux")
    assert program, "no tmux: install it with `tools/debian tmux`"
    folder = tmp_path_factory.mktemp("tmux")
    command = [program, "-S", str(folder / "socket"), "-f", "/dev/null"]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "screen-256color"}
    begin = ["new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "sleep 1000"]
    subprocess.run([*command, *begin], check=True, env=environment)
    subprocess.run([*command, "set", "-g", "status", "off"], check=True)
    yield command
    subprocess.run([*command, "kill-server"], check=True)


def shown_by(tmux: list[str], said: list[bytes], folder: Path) -> list[tuple[list[str], str]]:
    """Return what tmux shows after each of these, and where the cursor is then."""
    for at, each in enumerate(said):
        (folder / f"{at}").write_bytes(each)
        # What comes last is asked for by the test below: no byte of it is on the way by then.
        command = f"stty raw -echo; cat {folder}/{at}; printf '\\033]2;end {at}\\007'; sleep 1000"
        window = ["new-window", "-d", "-t", f":{at + 1}", command]
        subprocess.run([*tmux, *window], check=True)
    found = []
    for at in range(len(said)):
        target = ["-t", f":{at + 1}"]
        deadline = time.monotonic() + DEADLINE_SECONDS
        asked = ["display", "-p", *target, "#{pane_title}|#{cursor_x},#{cursor_y}"]
        while True:
            title, _, cursor = run([*tmux, *asked]).strip().partition("|")
            if title == f"end {at}":
                break
            assert time.monotonic() < deadline, title
        rows = run([*tmux, "capture-pane", "-p", *target]).split("\n")[:ROWS]
        found.append(([row.rstrip() for row in rows], cursor))
        subprocess.run([*tmux, "kill-window", *target], check=True)
    return found


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shown(said: bytes) -> tuple[list[str], str]:
    screen = Screen(COLUMNS, ROWS)
    screen.feed(said)
    _, column = screen.place
    return screen.text(), f"{column},{screen.cursor[1]}"


def test_the_screen_shows_what_tmux_shows(tmux: list[str], tmp_path: Path) -> None:
    theirs = shown_by(tmux, list(SAID.values()), tmp_path)
    ours = [shown(each) for each in SAID.values()]
    wrong = {
        name: (our, their)
        for name, our, their in zip(SAID, ours, theirs, strict=True)
        if our != their
    }
    assert not wrong


def test_programs_look_as_they_do_in_tmux(tmux: list[str], tmp_path: Path) -> None:
    (tmp_path / "long").write_text("".join(f"line {n} of this text\n" for n in range(50)))
    typed: list[tuple[bytes, bytes]] = [
        (b"less long\r", rb"\x1b\[27m\x1b\[K$"),
        (b"  /line 27\r", rb"line 33.*\x1b\[K$"),
        (b"q", rb"\$ $"),
        (b"vim -u NONE --cmd 'set shm=F' long\r", rb"line 6.*\x1b\[\?25h"),
        (b"ggdd3jOsome text\x1bJ~", rb"ome text.*\x1b\[\?25h"),
        (b":q!\r", rb"\$ $"),
        (b"ls\r", rb"\$ $"),
    ]
    said = [b""]
    with typist(tmp_path, COLUMNS, ROWS, rc="PS1='$ '\n") as one:
        for keys, pattern in typed:
            one.output = b""
            one.type(keys)
            one.until(pattern)
            said.append(one.said)
    theirs = shown_by(tmux, said, tmp_path)
    assert [shown(each)[0] for each in said] == [their[0] for their in theirs]


@pytest.mark.parametrize("name", XTERM)
def test_the_screen_shows_what_xterm_shows(name: str) -> None:
    said, expected = XTERM[name]
    assert shown(said)[0][0] == expected


# --- what else it tells ---------------------------------------------------------------------------


def test_a_row_knows_that_it_goes_on_with_the_one_above() -> None:
    screen = Screen(10, 4)
    screen.feed(b"x" * 25 + b"\r\nnext\r\nlast\r\n")
    rows = [screen.row(number) for number in range(6)]
    assert [row is not None and row.goes_on for row in rows] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    screen.feed(b"\x1b[2J\x1b[Hx")
    assert not any(row is not None and row.goes_on for row in map(screen.row, range(3, 6)))


def test_a_row_keeps_its_number_when_it_scrolls_off() -> None:
    screen = Screen(10, 3)
    screen.feed(b"first\r\nsecond")
    number, column = screen.place
    screen.feed(b"\r\n" * 5)
    row = screen.row(number)
    assert row is not None
    assert (row.text(0, column), screen.row(-1), screen.row(99)) == ("second", None, None)
    screen.feed(b"\x1b[?1049h")
    assert screen.row(0) is not None
    assert screen.row(number + 100) is None
    screen.feed(b"\x1b[?1049l\x1b[3J")
    assert screen.row(number) is None


def test_text_comes_with_its_style() -> None:
    screen = Screen(12, 3)
    screen.feed(
        b"a\x1b[1;3;38;5;200mb\x1b[0mc\x1b[4:3;48:2::1:2:3md\x1b[24;49;91;101me\x1b[39;7mf\x1b[m"
        b"\r\n\x1b[44m\x1b[K x\r\n\x1b[2Ky\x1b[mz"
    )
    assert screen.rows() == [
        [
            ("a", Style()),
            ("b", Style(200, None, is_bold=True, is_italic=True)),
            ("c", Style()),
            ("d", Style(None, "#010203", is_underlined=True)),
            ("e", Style(9, 9)),
            ("f", Style(None, 9, is_inverse=True)),
        ],
        [(" x", Style(None, 4)), (" " * 10, Style(None, 4))],
        [("y", Style(None, 4)), ("z", Style()), (" " * 10, Style(None, 4))],
    ]


@pytest.mark.parametrize(
    ("codes", "style"),
    [
        (b"38;5;300", Style()),
        (b"38;2;1;2", Style("#010200")),
        (b"38", Style()),
        (b"48:5:7", Style(None, 7)),
        (b"38:2:1:2:3", Style("#010203")),
        (b"2;9;8;22;29;28", Style()),
        (b"4;4:0", Style()),
        (b"999;;31", Style(1)),
        (b"31;48;2;255;0;0", Style(1, "#ff0000")),
    ],
)
def test_colours_that_are_none_change_nothing(codes: bytes, style: Style) -> None:
    screen = Screen(5, 1)
    screen.feed(b"\x1b[" + codes + b"mx")
    assert screen.rows() == [[("x", style)]]


def test_the_title_and_the_modes_are_told() -> None:
    screen = Screen()
    screen.feed(b"\x1b]2;a title\x1b\\\x1b]7;no title\x07\x1b[?25l\x1b[?2004h\x1b[?1049h")
    assert (screen.title, screen.is_cursor_shown, screen.is_bracketing) == ("a title", False, True)
    assert (screen.is_alternate, screen.alternations, screen.brackets) == (True, 1, 1)
    screen.feed(b"\x1b]2;" + b"x" * 10_000 + b"\x07\x1b[?1048h\x1b[?47l\x1b[?1048l\x1bc")
    assert (len(screen.title), screen.is_alternate, screen.brackets) == (0, False, 1)


def test_a_title_without_end_is_not_kept() -> None:
    screen = Screen()
    for _ in range(100):
        screen.feed(b"\x1b]2;" + b"x" * 1000)
    screen.feed(b"\x07")
    assert 0 < len(screen.title) <= 256


def test_another_size_moves_no_text_to_another_row() -> None:
    screen = Screen(20, 4)
    screen.feed(b"\x1b[41mone\r\ntwo\r\nthree\r\nfour five")
    screen.resize(6, 2)
    assert (screen.text(), screen.cursor) == (["three", "four f"], (5, 1))
    screen.resize(10, 5)
    assert screen.text() == ["three", "four f", "", "", ""]
    row = screen.row(1)
    assert row is not None
    assert row.text() == "two"
    screen.feed(b"\x1b[?1049hx\x1b[2;1Hy")
    screen.resize(10, 1)
    assert screen.text() == ["y    x"]


def test_a_size_has_limits() -> None:
    assert (clamped(0, 0), clamped(80, 24), clamped(5000, 5000)) == ((1, 1), (80, 24), (1000, 60))


TOKENS = st.sampled_from(
    [
        b"\x1b[",
        b"\x1b",
        b"\x1b]0;",
        b"\x9b",
        b"0",
        b"1",
        b"7",
        b"99",
        b";",
        b"?",
        b"m",
        b"H",
        b"J",
        b"K",
    ]
    + [
        bytes([byte])
        for byte in b"ABCDEFGLMPSTXZ@bdefghilrsu`a!p78DEMHc()0#\x0e\x0f\x18\n\r\t\b\x07\x84"
    ]
    + [
        b"\x1b[?1049h",
        b"\x1b[?1049l",
        b"\x1b[4h",
        b"\x1b[?6h",
        b"\x1b[?7l",
        b"\x1b[44m",
        b"\x1b[2;3r",
    ]
    + ["漢".encode(), "e\u0301".encode(), b"\xff", b"some text " * 3, "\u1160\u200d".encode()]
)


@given(
    st.lists(TOKENS | st.binary(max_size=8) | st.tuples(st.integers(-1, 90), st.integers(-1, 30)))
)
def test_no_bytes_break_the_screen(said: list[bytes | tuple[int, int]]) -> None:
    whole, cut = Screen(7, 4), Screen(7, 4)
    for each in said:
        if isinstance(each, tuple):
            whole.resize(*each)
            cut.resize(*each)
            continue
        whole.feed(each)
        for byte in each:
            cut.feed(bytes([byte]))
        x, y = whole.cursor
        assert 0 <= x < whole.columns
        assert 0 <= y < whole.height
        assert len(whole.text()) == whole.height
    assert whole.rows() == cut.rows()
    assert whole.place == cut.place
    for row in whole.rows():
        assert all(text for text, _ in row)


def test_what_has_scrolled_off_is_bounded() -> None:
    screen = Screen(1000, 60)
    for _ in range(20):
        screen.feed("e\u0301\u0301\u0301\u0301\u0301\u0301".encode() * 1000 + b"\x1b[999S")
    kept = [row for number in range(-50_000, 50_000) if (row := screen.row(number)) is not None]
    assert len(kept) * 1000 <= 2 * MAX_CELLS
    assert max(len(cell) for row in kept for cell in row.cells) <= 6
