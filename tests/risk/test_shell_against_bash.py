"""Every program that a real shell runs for a text is among the commands read from it, or the
answer is unknown; and where it is harmless, no file changes.

Texts are put together of pieces that shells and readers take in different ways. They are run by
bash, and by dash, which is `sh` on Debian: an answer must hold for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agentaudit.risk.shell import Line, classify
from tests.risk.shells import STUBS, Shells

# Without a slash: nothing outside of the folder is named. Without `kill`, and what could spell it.
TOKENS = [
    *(" ", " ", " ", "\n", "\t", ";", ";", "&", "&&", "|", "||", "|&", "(", ")", "{ ", "; }", "}"),
    *("rm", "ls", "cat", "deploy", "grep", "rm a", "ls b", " a", " b", " -x", "r", "m", "x=", "x"),
    *(
        "'",
        "'",
        '"',
        '"',
        "\\",
        "\\\n",
        "$",
        "$x",
        "${x}",
        "${x:-",
        "$(",
        "$((",
        "`",
        "`",
        "$'",
        "#",
    ),
    *("<", ">", ">>", "<<E\n", "<<'E'\n", "<<-E\n", "\nE\n", "<<<", "2>&1", "&>", ">&", "<(", ">("),
    *("if ", "then ", "else ", "fi", "for x in a; do ", "while ", "do ", "done", "case a in a) "),
    *(";;", "esac", "! ", "time ", "[[ ", " ]]", "[ ", " ]", "x() { ", "function x { ", "coproc "),
    *(
        "*",
        "?",
        "[",
        "]",
        "{",
        ",",
        "..",
        "~",
        "=",
        "+=",
        "((",
        "))",
        "$[",
        "!",
        "^",
        "%",
        ":",
        "é",
    ),
    *("eval ", "sh -c ", "bash -c ", "xargs ", "env ", "nohup ", "exec ", "command ", "timeout 1 "),
    *(
        "alias ls=rm",
        "set -- rm a",
        '"$@"',
        "$@",
        "cd ",
        "read x",
        "echo ",
        "echo rm | sh",
        "1",
        "-c",
    ),
    *(
        "find . -name a -exec ",
        " {} \\;",
        "x=rm ",
        "$x a",
        "unset x",
        "printf ",
        "test ",
        "true",
        "false",
    ),
]

words = st.sampled_from(
    ["a", "b", "'a b'", '"a  b"', "\\a", "$x", '"$x"', "${x:-a}", "*", "{a,b}"]
) | (st.sampled_from(["$'a\\tb'", "a\\ b", "~", "-x", "'#'", '"\\$x"', "é", "$(ls a)", "`ls b`"]))
names = st.sampled_from(
    [
        *STUBS,
        'r"m"',
        "\\rm",
        "r''m",
        "$'rm'",
        "'ls'",
        '"cat"',
        "echo",
        "true",
        "command rm",
        "env rm",
    ]
)
redirects = st.sampled_from(["", "", "", " > c", " 2>&1", " < a", " <<< rm", " >> c 2>/dev/null"])
simple = st.builds(
    lambda name, args, redirect: " ".join([name, *args]) + redirect,
    names,
    st.lists(words, max_size=3),
    redirects.filter(lambda text: "/" not in text),
)


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.sampled_from(["; ", " && ", " || ", " | ", "\n", " & ", "\n\n", " # rm\n"])
    return st.one_of(
        st.builds(lambda a, by, b: f"{a}{by}{b}", inner, joined, inner),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"{{ {text}; }}"),
        inner.map(lambda text: f"if {text}; then rm b; fi"),
        inner.map(lambda text: f"for x in a b; do {text}; done"),
        inner.map(lambda text: f"while false; do {text}; done"),
        inner.map(lambda text: f'echo "$({text})"'),
        inner.map(lambda text: f"ls `{text}`".replace("``", "")),
        inner.map(lambda text: f"cat <<E\n$({text})\nE\n"),
        inner.map(lambda text: f"cat <<'E'\n{text}\nE\n"),
        inner.map(lambda text: f"sh <<'E'\n{text}\nE\n"),
        inner.map(lambda text: f"f() {{ {text}; }}; f a"),
        inner.map(lambda text: "sh -c '" + text.replace("'", "'\\''") + "'"),
        inner.map(lambda text: "eval '" + text.replace("'", "'\\''") + "'"),
        inner.map(lambda text: "bash -c '" + text.replace("'", "'\\''") + "' b a"),
        inner.map(lambda text: f"! {text}"),
        inner.map(lambda text: f"cat <(rm a) {text}"),
        inner.map(lambda text: f"x=$({text}) ls"),
        inner.map(lambda text: f"ls a | xargs {text}"),
        inner.map(lambda text: f"timeout 2 {text}"),
        inner.map(lambda text: f"find a -exec {text} \\;"),
        inner.map(lambda text: f"[ -f a ] && {text}"),
        inner.map(lambda text: f"echo 'echo a' | sh; {text}"),
    )


whole = st.recursive(simple, _compound, max_leaves=5)


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A text of the grammar, in which a few pieces are put in or taken out."""
    text = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        if draw(st.booleans()):
            text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at:]
        else:
            text = text[:at] + text[at + draw(st.integers(1, 2)) :]
    return text


texts = changed() | st.lists(st.sampled_from(TOKENS), min_size=2, max_size=14).map("".join)


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Shells:
    return Shells(tmp_path_factory.mktemp("shells"))


def is_told(call: Sequence[str], line: Line) -> bool:
    """Whether a call is one that a command of the line may come to."""
    return any(_fits(tuple(call), each.argv) for each in line.commands)


@lru_cache(maxsize=4096)
def _fits(call: tuple[str, ...], argv: tuple[str | None, ...]) -> bool:
    """Whether the words are those of the call, None standing for any number of them."""
    if not argv:
        return not call
    if argv[0] is None:
        return any(_fits(call[skipped:], argv[1:]) for skipped in range(len(call) + 1))
    return bool(call) and call[0] == argv[0] and _fits(call[1:], argv[1:])


def untold(shells: Shells, text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what a shell does for `text` and the answer does not say."""
    line = classify(text)
    if line.cls == "unknown":
        return
    for shell in shells.paths:
        if "$'" in text and not shell.endswith("bash"):
            continue  # other shells take it for a dollar and a text in quotes
        for call in shells.run(shell, text):
            if not is_told(call, line):
                yield shell, call
        if line.cls in ("session", "read") and not shells.is_unchanged():
            yield shell, ("a file is another",)


def is_safe(text: str) -> bool:
    return "/" not in text and "kill" not in text and "\0" not in text


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts)
def test_what_a_shell_runs_is_told_or_unknown(shells: Shells, text: str) -> None:
    assume(is_safe(text))
    assert list(untold(shells, text)) == []


@pytest.mark.full
@pytest.mark.timeout(600)
@settings(max_examples=3_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts)
def test_what_a_shell_runs_is_told_or_unknown_of_many_texts(shells: Shells, text: str) -> None:
    assume(is_safe(text))
    assert list(untold(shells, text)) == []


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("r\"m\" 'a b' c\\ d; ls -x", [("rm", "a b", "c d"), ("ls", "-x")]),
        ("echo a | xargs rm", [("rm", "a")]),
        ('f() { rm "$1"; }; f b', [("rm", "b")]),
        ("echo ls a | sh; sh -c 'rm \"$0\"' b", [("ls", "a"), ("rm", "b")]),
        (
            "ls a & rm b; find . -name a -exec cat {} \\;",
            [("cat", "./a"), ("ls", "a"), ("rm", "b")],
        ),
    ],
)
def test_the_stubs_tell_how_they_are_called(
    shells: Shells, text: str, calls: list[tuple[str, ...]]
) -> None:
    for shell in shells.paths:
        told = shells.run(shell, text)
        assert sorted(told) == sorted(calls)
        assert all(is_told(call, classify(text)) for call in told)
