"""Typed lines as dialogues: what the client types, what the target says, what is told of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.protocols.ssh_lines import Line, TypedLines
from agentaudit.protocols.ssh_typing import MAX_LINE, Buffer, Known, key_at

PROMPT = b"\x1b[?2004hu@h:~$ "
ENTERED = b"\r\n\x1b[?2004l\r"
CERTAIN = {"is_certain": True, "is_secret": False, "why": ""}


def shell(said: bytes = PROMPT, columns: int = 80) -> TypedLines:
    lines = TypedLines(columns, 24)
    lines.said(said)
    return lines


def end(lines: TypedLines, typed: bytes, echo: bytes | None = None) -> Line | None:
    """Type up to a key that ends a line, have the rest echoed, and let the key through."""
    count = lines.typed(typed)
    assert count == len(typed) - 1
    lines.said(typed[:count] if echo is None else echo)
    found = lines.line()
    assert lines.passed(typed[count:]) == 1
    return found


def run(lines: TypedLines, typed: bytes, echo: bytes | None = None) -> Line | None:
    found = end(lines, typed, echo)
    lines.said(ENTERED + PROMPT)
    return found


def certain(text: str) -> Line:
    return Line(text, is_certain=True, is_secret=False, why="")


def test_a_line_is_settled_when_the_screen_shows_it() -> None:
    lines = shell()
    assert lines.is_settled
    assert lines.typed(b"ls -l\rpwd") == 5
    assert not lines.is_settled
    lines.said(b"ls ")
    assert not lines.is_settled
    lines.said(b"-l")
    assert lines.is_settled
    assert lines.line() == certain("ls -l")
    assert lines.passed(b"\rpwd") == 1
    assert lines.typed(b"pwd\r") == 3
    assert not lines.is_settled
    lines.said(ENTERED + PROMPT + b"pwd")
    assert lines.is_settled
    assert lines.line() == certain("pwd")


def test_what_the_screen_does_not_show_is_not_certain_and_nothing_is_behind_it() -> None:
    lines = shell()
    found = run(lines, b"rm x\r", b"ls")
    assert found == Line("ls", False, False, "the screen shows something else than what was typed")
    found = run(lines, b"ls\r")
    assert found is not None
    assert (found.text, found.is_certain) == ("ls", False)
    assert found.why.startswith("a line before it was not certain")


def test_a_line_that_was_dropped_leaves_no_doubt() -> None:
    lines = shell()
    lines.typed(b"rm x\r")
    lines.said(b"ls")
    found = lines.line()
    assert found is not None
    assert not found.is_certain
    assert lines.dropped() == b"\x05\x15\x03"
    lines.said(b"^C\r\n" + PROMPT)
    assert run(lines, b"ls\r") == certain("ls")


def test_an_empty_line_ends_nothing() -> None:
    lines = shell()
    assert run(lines, b"\r") is None
    assert run(lines, b"  \r") is None
    assert run(lines, b"\n") is None
    assert run(lines, b"ls\r") == certain("ls")


def test_what_was_decided_about_is_what_was_read_then() -> None:
    lines = shell()
    lines.typed(b"ls\r")
    lines.said(b"ls")
    assert lines.line() == certain("ls")
    lines.said(b"\r\x1b[Ksomething else")
    lines.passed(b"\r")
    lines.said(ENTERED + PROMPT)
    assert run(lines, b"pwd\r") == certain("pwd")


def test_what_may_go_on_in_the_next_line_is_not_certain() -> None:
    for text in (b"f() {\r", b"case x in\r", b"echo ${x#'a}\r"):
        found = run(shell(), text)
        assert found is not None
        assert (found.is_certain, found.text) == (False, text[:-1].decode())


def test_a_command_of_too_many_lines_is_not_certain() -> None:
    lines = shell()
    run(lines, b"true\r")
    second = b"\r\n\x1b[?2004l\r\x1b[?2004h> "
    found = end(lines, b"cat <<E\r")
    for _ in range(300):
        if found is not None:
            break
        lines.said(second)
        found = end(lines, b"x" * 60 + b"\r")
    assert found is not None
    assert (found.is_certain, found.why) == (False, "too long")


# --- what once let a line run that nobody had been told of --------------------------------------


def test_what_is_unfinished_is_believed_of_a_shell_that_is_known_alone() -> None:
    lines = shell()
    found = end(lines, b"echo 'a\r")
    assert found is not None
    assert (found.is_certain, found.why) == (False, "it may be finished")
    lines = shell()
    run(lines, b"true\r")
    assert end(lines, b"echo 'a\r") is None


@pytest.mark.parametrize("before", [b"\x16", b"\x1b"])
def test_a_paste_that_the_shell_does_not_see_hides_no_enter(before: bytes) -> None:
    lines = shell()
    typed = b"rm -rf /srv/x #" + before + b"\x1b[200~"
    assert lines.typed(typed + b"\r") == len(typed)
    lines.said(b"rm -rf /srv/x #^[")
    found = lines.line()
    assert found is not None
    assert not found.is_certain


def test_an_interrupt_that_is_quoted_ends_nothing() -> None:
    lines = shell()
    count = lines.typed(b"rm -rf /srv/x #\x16")
    lines.said(b"rm -rf /srv/x #^\x08")
    assert lines.typed(b"\x03\r") == 1
    lines.said(b"^C")
    found = lines.line()
    assert count == 16
    assert found is not None
    assert not found.is_certain
    lines = shell()
    lines.typed(b"rm x\x16")
    assert lines.typed(b"\r") == 0
    assert lines.dropped() == b"\x05\x15\x03"


def test_behind_an_interrupt_nothing_is_empty_before_there_is_a_prompt() -> None:
    lines = shell()
    lines.typed(b"rm -rf /srv/x\x03")
    lines.said(b"rm -rf /srv/x")
    assert lines.typed(b"\r") == 0
    found = lines.line()
    assert found is not None
    assert not found.is_certain


def test_keys_for_a_program_that_took_no_screen_are_no_nothing() -> None:
    lines = shell()
    assert end(lines, b"less file\r") == certain("less file")
    lines.said(ENTERED + b"text\r\n:")
    found = end(lines, b"!rm -rf /srv/x\r", echo=b"\r!rm -rf /srv/x")
    assert found is not None
    assert not found.is_certain


def test_a_program_that_was_killed_on_its_screen_has_the_keys_no_more() -> None:
    lines = shell()
    assert end(lines, b"less file\r") == certain("less file")
    lines.said(ENTERED + b"\x1b[?1049htext\r\n:")
    assert end(lines, b"/search\r") is None
    lines.said(b"Killed\r\n" + PROMPT)
    found = end(lines, b"/bin/rm -rf /srv/x\r")
    assert found is not None


def test_what_is_not_followed_is_doubted_from_then_on() -> None:
    lines = shell()
    lines.doubt("a signal was sent")
    found = end(lines, b"ls\r")
    assert found == Line("ls", False, False, "a signal was sent")


# --- passwords ------------------------------------------------------------------------------------


def test_a_password_that_sudo_asks_for_is_a_secret_and_certain() -> None:
    lines = shell()
    assert end(lines, b"sudo ls\r") == certain("sudo ls")
    assert not lines.is_hiding
    lines.said(ENTERED + b"[sudo] password for u: ")
    assert lines.is_hiding
    assert lines.typed(b"hunter2\r") == 7
    assert lines.is_hiding
    assert not lines.is_settled
    assert lines.line() == Line("", is_certain=True, is_secret=True, why="")
    assert lines.passed(b"\r") == 1
    assert not lines.is_hiding
    lines.said(b"\r\nSorry, try again.\r\n[sudo] password for u: ")
    assert lines.is_hiding
    assert end(lines, b"hunter3\r", b"") == Line("", is_certain=True, is_secret=True, why="")
    lines.said(b"\r\nfile\r\n" + PROMPT)
    assert not lines.is_hiding
    assert run(lines, b"ls\r") == certain("ls")


def test_a_password_that_nothing_known_asks_for_is_hidden_and_not_certain() -> None:
    lines = shell()
    end(lines, b"ls\r")
    lines.said(ENTERED + b"Password: ")
    found = end(lines, b"rm -rf x\r", b"")
    assert found == Line("", False, True, "nothing known asks for a password")
    lines.said(b"\r\n" + PROMPT)
    found = run(lines, b"ls\r")
    assert found is not None
    assert not found.is_certain


def test_what_is_echoed_behind_a_password_prompt_is_no_secret() -> None:
    lines = shell()
    end(lines, b"sudo ls\r")
    lines.said(ENTERED + b"Password: ")
    lines.typed(b"rm -rf x\r")
    assert lines.is_hiding
    lines.said(b"rm -rf x")
    assert not lines.is_hiding
    found = lines.line()
    assert found is not None
    assert (found.is_secret, found.is_certain) == (False, False)
    assert "rm -rf x" in found.text


def test_a_line_editor_asks_for_no_password() -> None:
    lines = shell(b"\x1b[?2004hPassword: ")
    assert not lines.is_hiding
    found = end(lines, b"rm x\r", b"")
    assert found is not None
    assert not found.is_secret


@pytest.mark.parametrize(
    "prompt",
    [
        "[sudo] password for agent: ",
        "Password: ",
        "password:",
        "(current) UNIX password: ",
        "New password: ",
        "Enter passphrase for key '.ssh/id_ed25519': ",
        "agent@host's password: ",
        "Enter PIN for 'token': ",
        "Passwort: ",
        "[sudo] Passwort für agent: ",
        "Mo\x74 de passe : ",
        "Contraseña: ",
        "Verification code: ",
        "Пароль: ",
        "パスワード：",
    ],
)
def test_passwords_are_asked_for_in_many_ways(prompt: str) -> None:
    lines = shell()
    end(lines, b"sudo ls\r")
    lines.said(ENTERED + prompt.encode())
    assert lines.is_hiding


@pytest.mark.parametrize("prompt", ["Password", "no password", "login: ", "$ ", "compass: ", ""])
def test_other_prompts_hide_nothing(prompt: str) -> None:
    lines = shell()
    end(lines, b"sudo ls\r")
    lines.said(ENTERED + prompt.encode())
    assert not lines.is_hiding


# --- what is known by the screen alone ------------------------------------------------------------


def test_a_completion_is_known_by_the_screen() -> None:
    lines = shell()
    assert run(lines, b"cat al\t\r", b"cat alpha.txt ") == certain("cat alpha.txt ")


@pytest.mark.parametrize(
    ("echo", "why"),
    [
        (b"cat al\x1b[Xpha", "something else was written to the screen"),
        (b"cat al^Apha", "characters that the screen does not tell apart"),
        (b"cat al  pha", "characters that the screen does not tell apart"),
        (b"rm alpha", "what is shown does not begin with what was typed"),
        (b"cat alpha\r\nmore", "something stands below"),
        (b"cat al\x1b[2J\x1b[H", "the prompt is not found again"),
        (b"cat al\\", "characters that the screen does not tell apart"),
    ],
)
def test_a_completion_that_is_not_clear_is_not_certain(echo: bytes, why: str) -> None:
    found = run(shell(), b"cat al\t\r", echo)
    assert found is not None
    assert (found.is_certain, found.why) == (False, why)


def test_where_something_else_may_write_the_screen_alone_proves_nothing() -> None:
    lines = shell()
    lines.distrust("another channel")
    assert run(lines, b"ls\r") == certain("ls")
    found = run(lines, b"\x1b[A\r", b"ls")
    assert found == Line("ls", False, False, "another channel")


def test_what_is_written_while_nothing_is_typed_is_not_the_shells() -> None:
    lines = shell()
    lines.typed(b"ls")
    lines.said(b"ls")
    assert lines.is_settled
    lines.said(b" -l")
    lines.typed(b"\t")
    lines.said(b"x")
    lines.typed(b"\r")
    found = lines.line()
    assert found is not None
    assert found.why == "something else was written to the screen"


def test_a_completion_without_a_line_editor_is_not_certain() -> None:
    found = run(shell(b"$ "), b"cat al\t\r", b"cat al  ")
    assert found is not None
    assert found.why == "completion without a line editor that is known"


def test_the_expansion_of_a_history_is_known_only_in_bash_and_of_the_last_line() -> None:
    lines = shell()
    found = run(lines, b"echo !!\r")
    assert found is not None
    assert found.why == "history expansion"
    lines = shell()
    assert run(lines, b"echo a b\r") == certain("echo a b")
    assert run(lines, b'!! !$ \'!x\' \\!y "!" ! =!= "!("\r') == certain(
        'echo a b b \'!x\' \\!y "!" ! =!= "!("'
    )
    for expansion in (b"!x\r", b"^a^b\r", b"!$:h\r", b'echo "!1"\r'):
        lines = shell()
        run(lines, b"ls\r")
        found = run(lines, expansion)
        assert found is not None
        assert not found.is_certain


# --- keys that may end a line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        (b"ls\n", 2),
        (b"ls\x0f", 2),
        (b"ls\x1b#", 3),
        (b"ls\x1b\r", 3),
        (b"ls\x18\x05", 2),
        (b"ls\x1b[200~a\rb\x1b[201~\r", 17),
        (b"ls\x04", 3),
        (b"ls\t\x1b[A\x1bb\x1bOC\x7f", 12),
    ],
)
def test_a_key_that_may_end_a_line_stops(typed: bytes, count: int) -> None:
    assert shell().typed(typed) == count


def test_a_key_may_come_in_pieces() -> None:
    lines = shell()
    assert lines.typed(b"ls\x1b") == 3
    assert lines.typed(b"#rest") == 0
    assert lines.typed(b"#rest") == 0
    lines.said(b"ls")
    found = lines.line()
    assert found == Line("ls", False, False, "a key that may run what is not shown")


def test_without_a_line_editor_the_end_of_input_ends_a_line() -> None:
    lines = shell(b"$ ")
    assert lines.typed(b"rm x\x04") == 4
    lines.said(b"rm x")
    assert lines.line() == Line("rm x", False, False, "the end of input")
    lines = shell(b"$ ")
    assert lines.typed(b"\x04") == 1


def test_without_brackets_a_paste_ends_at_its_newline() -> None:
    assert shell(b"$ ").typed(b"\x1b[200~ls\rrm x\x1b[201~") == 8


@pytest.mark.parametrize(
    ("keys", "text", "known"),
    [
        ([b"ab", b"\x02", b"\x14"], "ba", Known.TYPED),
        ([b"a", b"\x14"], "a", Known.TYPED),
        ([b"one two", b"\x1bb", b"\x1bd", b"\x01", b"\x19", b" "], "two one ", Known.TYPED),
        ([b"one two", b"\x17", b"\x17", b"\x19"], "one two", Known.TYPED),
        ([b"one two", b"\x01", b"\x1bd", b"\x1bd", b"\x19", b"!"], "one two!", Known.TYPED),
        (
            [b"one", b"\x01", b"\x1bf", b"!", b"\x0b", b"\x15", b"\x19", b"\x19"],
            "one!one!",
            Known.TYPED,
        ),
        ([b"one", b"\x1bOH", b"\x1b[C", b"\x04", b"\x1b[3~", b"\x1bOF", b"x"], "ox", Known.TYPED),
        ([b"\x16", b"x", b"\x07", b"\x0c"], "x", Known.TYPED),
        ([b"\x16", b"\x01"], "", Known.LOST),
        ([b"\x16", b"\t"], "\t", Known.TYPED),
        ([b"a", b"\x1b[200~", b"b", b"\r", b"\t", b"c", b"\x1b[201~"], "ab\n\tc", Known.TYPED),
        ([b"\x1b[200~", b"\x01"], "", Known.LOST),
        ([b"a", b"\x00"], "a", Known.LOST),
        ([b"a", b"\x1b[2~"], "a", Known.LOST),
        ([b"a", b"\xff"], "a", Known.LOST),
        (["e\u0301".encode(), b"\x7f"], "e", Known.SHOWN),
        ([b"a", b"\x1b5", b"b"], "ab", Known.SHOWN),
        ([b"a", b"\x12", b"x", b"\x7f", b"y", b"\x12", b"\x05", b"z"], "az", Known.SHOWN),
        ([b"x" * MAX_LINE, b"x"], "", Known.LOST),
    ],
)
def test_keys_edit_as_readline_does(keys: list[bytes], text: str, known: Known) -> None:
    buffer = Buffer()
    for key in keys:
        buffer.press(key)
    assert (buffer.text, buffer.known) == (text, known)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"ab\r", b"ab"),
        ("é漢x".encode(), "é漢".encode()),
        (b"\x1b[1;5Cx", b"\x1b[1;5C"),
        (b"\x1bOPx", b"\x1bOP"),
        (b"\x1bbx", b"\x1bb"),
        (b"\x1b\x1b[C", b"\x1b"),
        (b"\x1b[\x01", b"\x1b"),
        (b"\x1b[" + b"1" * 100, b"\x1b"),
        (b"\x1b", b""),
        (b"\x1bO", b""),
        (b"\xe6\xbc", b""),
        (b"\xff", b"\xff"),
    ],
)
def test_keys_are_told_apart(data: bytes, expected: bytes) -> None:
    assert key_at(data, 0) == expected


# --- full-screen programs -------------------------------------------------------------------------

VIM = ENTERED + b"\x1b[?1049h\x1b[?2004h\x1b[2Jtext"
LEFT = b"\x1b[?2004l\x1b[?1049l"


@pytest.mark.parametrize(
    "typed",
    [
        b"ihello\rrm -rf /\x1b:wq\r",
        b"\x1b[?1;2c\x1b]11;rgb:0/0/0\x07\x1b[I:set nu\rggdd3j/pattern\rnN:%s/a/b/g\r:w\rZZ",
        b"A more\x1b\x1b:x!\r",
    ],
)
def test_what_is_typed_in_vim_ends_nothing(typed: bytes) -> None:
    lines = shell()
    assert end(lines, b"vim x\r") == certain("vim x")
    lines.said(VIM)
    while typed:
        typed = typed[lines.typed(typed) :]
        lines.said(b"\x1b[1;1Hx")
        if typed:
            assert lines.is_settled
            assert lines.line() is None
            typed = typed[lines.passed(typed) :]
    lines.said(LEFT + PROMPT)
    assert run(lines, b"ls\r") == certain("ls")


@pytest.mark.parametrize(
    "typed",
    [
        b":!rm x\r",
        b":q\rinsmod x\r",
        b"!!rm x\r",
        b"ia\x1bOA:!x\r",
        b"Q!x\r",
        b":set shell=x\r",
        b":s/a/\\=system('x')/\r",
        b"@q",
        b"K",
        b"gx",
    ],
)
def test_keys_that_may_run_a_program_in_vim_end_all_certainty(typed: bytes) -> None:
    lines = shell()
    end(lines, b"vim x\r")
    lines.said(VIM)
    told: list[Line | None] = []
    while typed:
        typed = typed[lines.typed(typed) :]
        if typed:
            told.append(lines.line())
            typed = typed[lines.passed(typed) :]
    lines.said(LEFT + PROMPT)
    told.append(run(lines, b"ls\r"))
    assert told[-1] is not None
    assert not any(each is not None and each.is_certain for each in told)


def test_a_full_screen_program_that_ended_amid_keys_ends_all_certainty() -> None:
    lines = shell()
    end(lines, b"less x\r")
    lines.said(ENTERED + b"\x1b[?1049h")
    lines.typed(b"/patt")
    lines.said(b"\x1b[?1049l" + PROMPT)
    found = run(lines, b"ls\r")
    assert found == Line("ls", False, False, "less ended amid keys")


def test_the_alternate_screen_alone_is_no_program() -> None:
    lines = shell()
    end(lines, b"vim x\r")
    lines.said(ENTERED + b"no vim\r\n" + PROMPT)
    assert run(lines, b"ls\r") == certain("ls")
    lines.said(b"\x1b[?1049h")
    found = run(lines, b"rm x\r")
    assert found is not None
    assert not found.is_certain


# --- whatever the bytes ---------------------------------------------------------------------------

SAID = st.sampled_from(
    [
        PROMPT,
        ENTERED,
        b"> ",
        b"Password: ",
        b"\x1b[?1049h",
        b"\x1b[?1049l",
        b"ls",
        b"\r\n",
        b"\b\x1b[K",
    ]
    + [b"(reverse-i-search)`l': ls", b"\x1b[2J\x1b[H", b"\xff", "漢".encode(), b"\x1b[A", b"x" * 70]
)
TYPED = st.sampled_from(
    [
        b"ls",
        b"vim x",
        b"less x",
        b"sudo ls",
        b"echo 'a",
        b"!!",
        b"\r",
        b"\n",
        b"\x0f",
        b"\x03",
        b"\x04",
    ]
    + [
        b"\t",
        b"\x12",
        b"\x1b[A",
        b"\x1b",
        b"#",
        b"\x18",
        b"\x16",
        b"\x1b[200~",
        b"\x1b[201~",
        b"\x7f",
    ]
    + [b":q\r", b"ihello\x1b", b"bash\r", b"ls &\r", b"\xff", "漢e\u0301".encode(), b"x" * 70]
)


@given(
    st.lists(
        st.tuples(st.just("said"), SAID | st.binary(max_size=6))
        | st.tuples(st.just("typed"), TYPED | st.binary(max_size=6))
        | st.tuples(st.just("size"), st.integers(0, 90)),
        max_size=60,
    ),
    st.booleans(),
)
def test_no_bytes_break_the_recognition(
    dialogue: list[tuple[str, bytes] | tuple[str, int]], drops: bool
) -> None:
    lines = TypedLines(30, 6)
    for _, what in dialogue:
        if isinstance(what, int):
            lines.resize(what, what // 4)
    lines = TypedLines(30, 6)
    for kind, what in dialogue:
        if isinstance(what, int):
            lines.resize(what, what // 4)
        elif kind == "said":
            lines.said(what)
        else:
            while what:
                count = lines.typed(what)
                assert 0 <= count <= len(what)
                what = what[count:]
                if what:
                    found = lines.line()
                    assert found == lines.line()
                    assert found is None or (found.why == "") == found.is_certain
                    if drops:
                        assert lines.dropped() == b"\x05\x15\x03"
                        what = what[1:]
                    else:
                        assert lines.passed(what) == 1
                        what = what[1:]
        assert isinstance(lines.is_settled, bool)
        assert isinstance(lines.is_hiding, bool)
