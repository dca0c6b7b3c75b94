"""Lines that are typed into a real bash: what is certain is what the shell's own history has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.protocols.typist import RC, Typist, typist

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END, DELETE = b"\x1b[H", b"\x1b[F", b"\x1b[3~"
SEARCH, INTERRUPT = b"\x12", b"\x03"
# Interrupted amid its quotes, it is in the history and yet never ran.
NEVER = "echo never 'closed"
PROMPT = rb"[$#>] $"
SCREEN = rb"\x1b\[\?1049h.*"

# What is typed, to the next prompt: a line, or more. With a pattern: to what is said then.
ORDINARY: Sequence[bytes | tuple[bytes, bytes]] = [
    b"ls\r",
    b"pwd\r",
    b"ls -la data | sort -k 5 -n | head -n 3\r",
    # --- editing
    b"echo wrxld" + LEFT * 3 + b"\x7for" + RIGHT + DELETE + END + b"d\r",
    b"cho one" + HOME + b"e" + b"\x05 two\r",
    b"echo first second\x17third\r",
    b"echo first second\x1b\x7fthird\r",
    b"rm -rf /srv\x15echo nothing\r",
    b"echo a b\x17\x17\x19\r",
    b"one two" + b"\x01\x0becho \x19\r",
    b"echo ab\x14\r",
    b"one echo\x1bb\x15\x05 \x19\r",
    b"echo one two\x1bb\x1bb\x1bdthree\r",
    b"echo \x1b[1;5D\x1b[1;5C\x06\x02\x06word\r",
    b"echo \x16$HOME\r",
    b"  echo indented   words\r",
    b"echo gone\x04\x04" + LEFT + b"\x04\r",
    (b"never run", rb"run$"),
    INTERRUPT,
    b"echo after an interrupt\r",
    b"\r",
    b"echo lower\x0c case\r",
    # --- history
    UP + b"\r",
    b"\x10\x10\r",
    UP + UP + DOWN + b" more\r",
    UP + LEFT * 4 + b"X" + b"\r",
    SEARCH + b"from the\r",
    SEARCH + b"from" + RIGHT + b" again\r",
    SEARCH + b"pwd" + SEARCH + b"\r",
    b"echo last word\r",
    b"echo \x1b.\r",
    b"echo before!\r",
    b"!!\r",
    b"echo '!' \"it is\" !$\r",
    b"\x1b<" + b"\r",
    # --- completion
    b"cat data/al\t\r",
    b"cat data/al\t| wc -l\r",
    b"ls da\t\t\r",
    b"ls data/\t\t" + b"al\t\r",
    b"cat data/bet\t\r",
    b"whoa\t\r",
    b"echo nothing-like-that\t\t\r",
    # --- more than one line
    b"echo 'first\r",
    b"second'\r",
    b'echo "a\rb $((1 + 2))\rc"\r',
    b"cat <<EOF\r",
    b"some $HOME text\r",
    b"EOF\r",
    b"cat <<'END' | wc -l\rone\rtwo\rEND\r",
    b"ls \\\r",
    b"  -l \\\r",
    b"  data\r",
    b"for i in 1 2 3; do\recho $i\rdone\r",
    b"if [ -f data/alpha.txt ]; then echo there; fi\r",
    b"while false; do\r  ls\rdone; echo end\r",
    b"(cd data && ls)\r",
    b"{ echo a; echo b; } > data/out 2>&1\r",
    NEVER.encode() + b"\r",
    INTERRUPT,
    # --- paste
    b"echo pasted once\recho pasted twice\rpwd\r",
    b"\x1b[200~echo in brackets\x1b[201~\r",
    b"\x1b[200~echo two\necho lines\x1b[201~\r",
    b"\x1b[200~echo 'tab\there'\x1b[201~" + LEFT + b"x\r",
    b"echo \x1b[200~\xe2\x82\xac 5\x1b[201~ each\r",
    # --- wide and long
    "echo 漢字 かな 한글 é ü 😀 end".encode() + LEFT * 5 + b"\x7f\r",
    b"echo " + "漢".encode() * 60 + b"x\r",
    b"echo " + b"0123456789" * 25 + b"\r",
    b"echo " + b"abcdefghij" * 25 + HOME + DELETE * 4 + b"printf '%s\\n'" + b"\r",
    b"echo " + b"word " * 60 + b"\x17\x17" + b"\x1bb" * 3 + b"X\r",
    UP + b"\r",
    b"echo " + b"longer than the screen " * 90 + b"\x17end\r",
    # --- full-screen programs
    (b"less data/long\r", SCREEN),
    (b"  /line 7\rGg", rb"line 7.*"),
    b"q",
    b"echo behind less\r",
    (b"vim data/alpha.txt\r", SCREEN),
    (b"ggOfirst line: rm -rf /\rsecond!\x1b", rb"second!.*"),
    b":wq\r",
    b"head -n 2 data/alpha.txt\r",
    # --- what ordinary work is made of
    b"mkdir -p data/new/deep && cd data/new\r",
    b"touch {a,b,c}.txt; ls *.txt\r",
    b"cd ../..\r",
    b"grep -rn alpha data | cut -d: -f1 | sort | uniq -c\r",
    b"find data -name '*.txt' -newer .rc\r",
    b"ps aux | grep bash | head -2\r",
    b"du -sh data; df -h / | tail -n 1\r",
    b"x=5; echo $x\r",
    b"awk '{print $1}' data/alpha.txt\r",
    b"sed -n '1,2p' data/alpha.txt\r",
    b"tar czf data/all.tgz data/new && tar tzf data/all.tgz\r",
    b"LANG=C date -u +%Y\r",
    b"printf '\\033[31mred\\033[0m\\n'\r",
    b"printf 'no newline'\r",
    b"echo on the same row\r",
    b"clear\r",
    b"chmod 600 data/alpha.txt; stat -c %a data/alpha.txt\r",
    b"rm -rf data/new\r",
    b"sleep 0.01 &\r",
    b"echo typed only\r",
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "alpha.txt").write_text("alpha\nbeta\n")
    (tmp_path / "data" / "beta file.txt").write_text("beta\n")
    (tmp_path / "data" / "long").write_text("".join(f"line {n}\n" for n in range(300)))
    (tmp_path / "history").write_text("#1\nls -d /usr\n#2\necho from the past\n#3\necho 'it was'\n")
    return tmp_path


@dataclass
class Count:
    lines: int = 0
    certain: int = 0


def type_and_compare(one: Typist, steps: Sequence[bytes | tuple[bytes, bytes]]) -> Count:
    """Type each step, and compare what is certain with what the shell got."""
    count = Count()
    for step in steps:
        keys, pattern = step if isinstance(step, tuple) else (step, PROMPT)
        one.output = b""
        one.found.clear()
        if keys == INTERRUPT:
            one.interrupt()
            continue
        one.type(keys)
        one.until(pattern)
        got = [each for each in one.history() if each != NEVER]
        told = [each for each in one.found if each is not None]
        # A newline that is quoted with a backslash is none for the shell.
        certain = [each.text.replace("\\\n", "") for each in told if each.is_certain]
        assert not any(each.is_certain and each.why for each in told)
        if len(certain) == len(told):
            # Lines that are pasted in brackets end with one Enter, and are told of as one.
            assert "\n".join(certain) == "\n".join(got) or pattern == SCREEN or not told, keys
        else:
            print(
                keys[:50],
                [(each.text[:50], each.why) for each in told],
                [each[:50] for each in got],
            )
            assert set(certain) <= set(got), keys
        count.lines += len(told)
        count.certain += len(certain)
    return count


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 24), (200, 50)])
def test_of_ordinary_lines_nearly_all_are_certain_and_none_is_wrong(
    home: Path, columns: int, rows: int
) -> None:
    with typist(home, columns, rows) as one:
        count = type_and_compare(one, ORDINARY)
    assert count.lines >= 60
    assert count.certain >= 0.95 * count.lines


# Lines of every way by which one is known, for hosts and terminals of other kinds.
FEW: Sequence[bytes | tuple[bytes, bytes]] = [
    b"ls data\r",
    b"echo one two" + LEFT * 3 + b"\x7f-\r",
    UP + b"\r",
    SEARCH + b"ls d\r",
    b"cat data/al\t\r",
    b"ls data/\t\tal\t\r",
    b"echo 'a\rb'\r",
    b"!!\x7f\x7f\x7fecho " + b"long " * 30 + HOME + END + b"er\r",
    b"cd data\r",
    b"pwd\x0c\r",
]


@pytest.mark.parametrize(
    ("prompt", "settings", "environment"),
    [
        (r"\n\[\e[1;32m\]\u@\h\[\e[0m\]:\w\n\[\e]0;\w\a\]\$ ", "", {}),
        (r"$(printf %s '[x]') \! \$ ", "", {}),
        (r"a-prompt-that-is-longer-than-the-terminal-" * 3 + "$ ", "", {}),
        (r"$ ", "bind 'set show-all-if-ambiguous on'; bind 'set colored-stats on'", {}),
        (r"$ ", "bind 'set mark-modified-lines on'", {}),
        (r"\$ ", "", {"TERM": "vt220"}),
        (r"\$ ", "", {"TERM": "screen-256color"}),
    ],
)
def test_hosts_may_have_other_prompts_and_terminals(
    home: Path, prompt: str, settings: str, environment: dict[str, str]
) -> None:
    rc = f"{RC}\nPS1='{prompt}'\n".replace("'[x]'", "x") + settings + "\n"
    with typist(home, rc=rc, **environment) as one:
        count = type_and_compare(one, FEW)
    assert count.certain == count.lines


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ("bind 'set enable-bracketed-paste off'", {}),
        ("", {"TERM": "dumb"}),
        ("bind 'set horizontal-scroll-mode on'", {}),
        ("set -o vi", {}),
    ],
)
def test_where_less_is_shown_less_is_certain_and_nothing_is_wrong(
    home: Path, settings: str, environment: dict[str, str]
) -> None:
    with typist(home, rc=f"{RC}\nPS1='\\$ '\n{settings}\n", **environment) as one:
        count = type_and_compare(one, FEW)
    assert 2 <= count.certain < count.lines


def test_a_shell_without_a_line_editor_has_certain_lines_too(home: Path) -> None:
    with typist(home, shell=("dash",), PS1="$ ") as one:
        one.type(b"ls\x15echo abx\x7fc\r")
        one.until(PROMPT)
        assert b"\r\nabc\r\n" in one.output
        one.type(b"echo 'x\r")
        one.until(rb"> $")
    told = [each for each in one.found if each is not None]
    # What is unfinished in one shell may be whole in another, and run.
    assert [(each.text, each.is_certain) for each in told] == [
        ("echo abc", True),
        ("echo 'x", False),
    ]


@pytest.mark.parametrize("columns", [20, 37, 200])
def test_another_size_amid_a_line_makes_nothing_wrong_certain(home: Path, columns: int) -> None:
    with typist(home) as one:
        for ahead in (b"echo short", b"echo " + b"0123456789" * 12):
            one.output = b""
            one.type(ahead)
            one.until(ahead[-3:] + b"$")
            one.resize(columns, 24)
            one.type(b" and on" + LEFT + b"x\r")
            one.until(PROMPT)
            one.resize(80, 24)
            one.type(b"\x0c")
        got = one.hang_up()
    for line in one.found:
        assert line is not None
        assert not line.is_certain or f"\n{line.text}\n" in got


# Each tries to have a line told as certain that the shell does not get. By name: what is typed.
ATTACKS: dict[str, Sequence[bytes | tuple[bytes, bytes]]] = {
    "a job paints over what was typed": [
        b"(sleep 0.3; printf '\\r\\033[Kroot@host:tmp$ ls') &\r",
        (b"rm -rf data/new", rb"\$ ls$"),
        b"\r",
    ],
    "a job paints another line from the history": [
        b"echo harmless\r",
        b"rm -rf data/new\r",
        b"(sleep 0.3; printf '\\r\\033[Kroot@host:tmp$ echo harmless') &\r",
        (UP, rb"\$ echo harmless$"),
        b"\r",
    ],
    "no echo": [b"stty -echo\r", b"echo unseen\r"],
    "a key is bound to a line": [b'bind \'"x": "rm -rf data/new\\C-m"\'\r', b"x", b"echo y\r"],
    "Enter is bound to another line": [
        b'bind \'"\\C-m": "\\C-a\\C-kecho other\\C-j"\'\r',
        b"echo typed\r",
    ],
    "a prompt of another look": [b"PS1='> '\r", b"echo one\r", b"PS1='\\n\\e[31m$ '\r", b"ls\r"],
    "a prompt that runs a command": [b"PROMPT_COMMAND='printf x'\r", b"echo one\r"],
    "a program fakes a prompt": [
        b"printf '\\033[?2004hroot@host:tmp$ ' > fake\r",
        (b"cat fake -\r", rb"tmp\$ $"),
        (b"rm -rf data/new\r", rb"new\r\n.*"),
        INTERRUPT,
        b"echo back\r",
    ],
    "a shell script fakes a shell": [
        b'printf \'while read -p "root@host:tmp$ " x; do echo "$x"; done\' > fake\r',
        b"bash fake\r",
        b"rm -rf data/new\r",
        INTERRUPT,
    ],
    "read asks with the prompt": [b"read -p 'root@host:tmp$ ' x\r", b"rm -rf data/new\r", b"ls\r"],
    "a loop reads and runs": [
        b"while read -e -p '$ ' x; do eval \"echo $x\"; done\r",
        b"rm -rf data/new\r",
        INTERRUPT,
    ],
    "an alias": [b"alias echo='ls'\r", b"echo x\r"],
    "a function": [b"ls() { rm -rf data/new; }\r", b"ls\r"],
    "a trap": [b"trap 'printf \"\\r\"' DEBUG\r", b"ls\r"],
    "vi": [b"set -o vi\r", b"echo one two\x1bbdwa three\r"],
    "vi by its key": [(b"\x1b\r", rb".*"), b"echo one two\x1bbdwa three\r"],
    "a comment that is none": [b"#echo run without Enter\x1b1\x1b#", b"ls\r"],
    "settings are read again": [
        b'printf \'"x": "rm -rf data\\\\C-m"\' > .inputrc\r',
        (b"\x18\x12", rb".*"),
        b"ls\r",
    ],
    "a macro of keys": [(b"\x18(echo macro\x18)", rb".*"), (b"\x18e", rb"macro"), b"\r"],
    "the next line comes with ^O": [
        b"echo 1\r",
        b"echo 2\r",
        (UP + UP + b"\x0f", rb"echo 2$"),
        b"\r",
    ],
    "quoted control characters": [b"echo a\x16\x0d\x16\x1b[K\r"],
    "no UTF-8": [b"echo \xff\xe9t\xe9\r"],
    "NUL": [b"echo a\x00b\r"],
    "the alternate screen": [
        (b"printf '\\033[?1049h'\r", PROMPT),
        b"echo x\r",
        b"vim data/alpha.txt\r:q!\r",
    ],
    "no wrapping, inserting, a region": [
        b"printf '\\033[?7l\\033[4h\\033[5;7r'\r",
        b"echo " + b"0123456789" * 12 + LEFT * 3 + b"x\r",
        b"echo y\r",
    ],
    "other letters": [b"printf '\\033(0'\r", b"echo abcdefghijk\r", UP + b"\r"],
    "hidden letters": [b"printf '\\033[8m'\r", b"echo x\r"],
    "typed before the prompt": [b"sleep 0.4\recho ahead\r", b"ls\r"],
    "a program takes a part of the line": [
        (b"head -c 5\r", rb"\r\n.*"),
        (b"echo rm -rf data/new\r", PROMPT),
        b"ls\r",
    ],
    "the expansion of a history": [b"ls\r", b" pwd\r", b"echo !-2\r", b"^-2^x^\r", b'echo "!l"\r'],
    "vim runs a program": [(b"vim data/alpha.txt\r", SCREEN), b":!echo ran\r\r:q\r", b"ls\r"],
    "vim runs a program by a macro": [
        (b"vim data/alpha.txt\r", SCREEN),
        (b'O:!echo ran\x1b0"qD@q\r', rb"ran.*"),
        b"\r:q!\r",
        b"ls\r",
    ],
    "keys behind the end of vim": [
        (b"vim data/alpha.txt\r", SCREEN),
        b":q\rid -u; echo\r",
        b"ls\r",
    ],
    "less runs a program": [
        (b"less data/long\r", SCREEN),
        (b"!echo ran\r", rb"ran.*"),
        b"\rq",
        b"ls\r",
    ],
    "vim with a command": [
        (b"vim -c '!echo ran' -c q data/alpha.txt\r", rb"ran.*"),
        b"\r",
        b"ls\r",
    ],
    "a file's name has a prompt in it": [
        b"touch $'zed\\nroot@host:tmp$ ls'\r",
        b"echo ze\t\r",
        b"touch $'yes\\e[2K\\rroot@host:tmp$ ls'\r",
        b"echo ye\t\r",
    ],
    "a line of the history has a prompt in it": [b"echo 'a\rroot@host:tmp$ rm'\r", UP + b"\r"],
    "a tab that looks like blanks": [b"echo 'a\x16\tb'\r", UP + b"\r"],
    "letters without width": ["echo a\u200bb e\u0301\r".encode(), UP + b"\r"],
    "a paste ends itself": [b"\x1b[200~echo a\x1b[201~; echo b\r", b"ls\r"],
    "syntax that goes on": [
        b"echo ${x#'a}\r",
        b"'}\r",
        b"case x in\r",
        b"x) echo y;;\resac\r",
        b"f() {\r",
        b"ls; }\r",
    ],
    "python": [(b"python3 -q\r", rb">>> $"), (b"print('$ ')\r", rb">>> $"), b"exit()\r", b"ls\r"],
    "the end of input": [b"bash\r", b"cat\x04\x15ls\r", b"\x04", b"ls\r"],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_whatever_stands_between_no_wrong_line_is_certain(home: Path, name: str) -> None:
    (home / "data" / "new").mkdir()
    # The last part of the folder's name is what the attacks imitate.
    (home / "tmp").symlink_to(home)
    with typist(home, rc=RC + "PS1='root@host:tmp$ '\n") as one:
        for step in ATTACKS[name]:
            keys, pattern = step if isinstance(step, tuple) else (step, PROMPT)
            if keys == INTERRUPT:
                one.interrupt()
                continue
            one.output = b""
            one.type(keys)
            one.until(pattern)
        got = one.hang_up()
    for line in one.found:
        if line is not None and line.is_certain:
            # A newline that is quoted with a backslash is none for the shell.
            text = "\n" + line.text.replace("\\\n", "") + "\n"
            assert text in got
            got = got.replace(text, "\n", 1)
