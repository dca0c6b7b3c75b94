"""Which lines leave a shell as it was: the programs that they start are known, and end.

After any other line something may stand between the terminal and the shell, or the shell may do
other things with keys than its manual says. So this is a list of what is allowed, not of what is
dangerous: what is not understood here is not plain. It says nothing about the harm in a line.

Source: the bash manual, "Shell Syntax"; POSIX.1-2017, chapter 2; the programs' own manuals
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MAX_DEPTH: Final = 16
MAX_COMMANDS: Final = 256

# Programs that read no terminal, whatever they are told, with the exceptions of `_judge_any`.
_ANY: Final = frozenset(
    """
    [ : arch basename break cal cd chgrp chmod chown clear continue cp date df dig dir dirname
    dirs du echo false file free getent groups help host hostname id ifconfig jobs kill killall l
    la last ll ln locale ls lsblk lscpu lsmod lsof lspci lsusb mkdir mktemp mv netstat nproc pgrep
    ping pkill popd printenv printf ps pushd pwd readlink realpath rm rmdir seq sleep ss stat sync
    test times touch true truncate tty type umask umount uname uptime w wait whereis which
    who whoami
    """.split()  # noqa: SIM905
)
# What reads a file, or the terminal where none is named. Options that take a value have a colon.
# An option is left out that reads a part of a line only, because the shell would get the rest.
_READERS: Final = {
    "cat": "AbeEnstTuv",
    "tac": "brs:",
    "head": "n:qvz",
    "tail": "n:qvfF",
    "wc": "clmwL",
    "sort": "bdfgiMhnRrVk:t:o:ucs",
    "uniq": "cdDf:iuw:z",
    "cut": "b:c:d:f:s",
    "nl": "b:w:",
    "rev": "",
    "fold": "bsw:",
    "column": "tns:",
    "base64": "dw:",
    "od": "A:ct:xv",
    "hexdump": "Cbcdox",
    "strings": "an:",
    "cmp": "ls",
    "diff": "uqrNyibBw",
    "comm": "123",
    **dict.fromkeys(["md5sum", "sha1sum", "sha256sum", "sha512sum"], "bct"),
    "grep": "EFGPviwxcnlLqshHoabRrA:B:C:e:m:",
    "egrep": "vicnlqwo",
    "fgrep": "vicnlqwo",
    "zgrep": "vicnlqwo",
    "zcat": "",
    "sed": "nrEi",
    "awk": "F:v:",
    "tr": "cCdst",
    "tee": "ai",
}
_FULL_SCREEN: Final = {
    "vi": "vim",
    "vim": "vim",
    "view": "vim",
    "less": "less",
    "man": "less",
    "journalctl": "less",
    "systemctl": "less",
    "top": "top",
}
_PAGING: Final = frozenset({"man", "journalctl", "systemctl"})
# Programs that ask for a password on the terminal, and switch its echo off.
_ASKING: Final = frozenset({"sudo", "su", "passwd", "kinit"})
_SHELLS: Final = {
    "bash": frozenset({"-l", "-i", "--login"}),
    "su": frozenset({"-", "-l", "--login", "root"}),
}
_WORDS_BEFORE: Final = frozenset(
    {"if", "then", "elif", "else", "while", "until", "do", "{", "!", "time"}
)
_CLOSES: Final = {"fi": "if", "done": "do", "}": "{"}
_UNREAD: Final = frozenset({"case", "select", "function", "[[", "coproc", "esac", "in"})
_FOLDERS: Final = re.compile(r"(?:/usr)?/s?bin/([a-z0-9.\-]+)")
_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=")
_HARMLESS: Final = re.compile(
    r"(?!histchars$|auto_resume$)[a-z][a-z0-9_]*|LANG|LC_[A-Z]+|TZ|EDITOR_MODE"
)
_BACKQUOTED: Final = re.compile(r"`[^`\\'\"$]*`")
_SUM: Final = re.compile(r"\$\(\([\d\s+*/%<>=-]*\)\)")
_ARITHMETIC: Final = re.compile(r"\$\(\([^()`'\"\\]*\)\)")
_VALUE: Final = re.compile(r"\$\{(?:#?\w+|[#?@*])\}")
_EXPANSION: Final = re.compile(r"\$\{[^{}()`'\"\\$]*\}")
_ESCAPED: Final = re.compile(r"\$'(?:[^'\\]|\\.)*'", re.S)
_VARIABLE: Final = re.compile(r"\$(?:\w+|[?#@*$!-])")
_TEST: Final = re.compile(r"\[\[\s[^'\"`\\\n(){};]*\s\]\]")
# What programs of this list do as they are told there; it is told by names, so it is no proof.
_SETTINGS: Final = re.compile(
    r"(?:^|[\s/='\"~])\.(?:bash|profile|inputrc|vim|exrc|gvim|less|manpath|config|local|toprc|curlrc"
    r"|ssh\b|xdg|pam|sudo|env|terminfo|termcap)|/etc/|(?:~|HOME)\S*/bin/"
)
_LOOKING: Final = frozenset(
    """
    ls cat head tail grep wc stat file diff cd less find du md5sum sha256sum which
    """.split()  # noqa: SIM905
)
_SED: Final = re.compile(
    r"(?:[0-9$,]+|/[^/]*/)?(?:[pdq=]|s([/,|#])(?:(?!\1).)*\1(?:(?!\1).)*\1g?)?"
)
_AWK: Final = re.compile(r"(?!.*(?:system|getline|\||>|@|close|fflush|ARGV|ENVIRON)).*", re.S)


class _Open(Exception):
    """The shell wants more before it does anything."""


class _Strange(Exception):
    """Something that is not read here: its message says what."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a line leaves behind."""

    is_open: bool = False
    """Whether the shell surely does nothing yet, and asks for more with its second prompt."""
    doubt: str = ""
    """Why the shell may be another one after it; "" where it is surely as it was."""
    is_read: bool = True
    """Whether it surely is a whole command; what cannot be read may go on in the next line."""
    full_screen: str = ""
    """The full-screen program that it ends in, by whose keys it has: vim, less, top."""
    paints: bool = False
    """Whether something may go on writing to the terminal."""
    asks: bool = False
    """Whether it may ask for a password, and nothing else in the line can look as if it did."""
    is_shell: bool = False
    """Whether another shell begins or one ends: with other variables, and another history."""


@dataclass(slots=True)
class _Word:
    literal: str | None = ""
    """What it is for the program; None where the shell makes it of something."""
    is_quoted: bool = False
    assigns: str = ""
    """The variable that it sets, where it stands before a command."""


@dataclass(slots=True)
class _Simple:
    words: list[_Word] = field(default_factory=list)
    reads_terminal: bool = True
    is_redirected: bool = False
    is_piped: bool = False
    depth: int = 0


def survey(text: str) -> Survey:
    """Return what the shell is like after a line.

    >>> survey("ls -l | wc -l").doubt, survey("python3 x.py").doubt
    ('', 'python3 may still have the terminal')
    >>> survey("echo 'a").is_open
    True
    """
    reader = _Reader(text, 0)
    try:
        reader.read()
    except _Open:
        if reader.has_run:
            return Survey(doubt="a part of it runs before it is whole", is_read=False)
        if not reader.is_strange:
            return Survey(is_open=True)
        return Survey(doubt="syntax that is not read", is_read=False)
    except (_Strange, RecursionError) as error:
        return Survey(doubt=str(error), is_read=False)
    if reader.doubt:
        return Survey(doubt=reader.doubt)
    if _SETTINGS.search(text) and not _only_looks(text, reader.simple):
        return Survey(doubt="a file of settings was named")
    last = len(reader.simple) - 1
    full_screen, asks, is_shell = "", False, False
    for at, each in enumerate(reader.simple):
        found = _judge(each)
        if found.full_screen and each.is_piped and each.words[0].literal in _PAGING:
            found = Survey()
        if found.doubt:
            return found
        if found.full_screen and (at != last or each.depth or reader.paints):
            return Survey(doubt=f"{found.full_screen} among other commands")
        full_screen = found.full_screen
        # Beside it another command may print such a question, and leave the answer to the shell.
        asks = found.asks and last == 0
        is_shell = is_shell or found.is_shell
    return Survey(full_screen=full_screen, asks=asks, is_shell=is_shell, paints=reader.paints)


def _only_looks(text: str, simple: Sequence[_Simple]) -> bool:
    programs = {each.words[0].literal for each in simple}
    return ">" not in text and programs <= _LOOKING


class _Reader:
    """Reads a line into its simple commands, those in substitutions among them."""

    def __init__(self, text: str, depth: int) -> None:
        self.text = text
        self.at = 0
        self.depth = depth
        self.simple: list[_Simple] = []
        self.paints = False
        self.is_strange = False
        self.has_run = False
        self.doubt = ""
        self.ends: list[str] = []
        self._documents: list[tuple[str, bool, bool]] = []

    def read(self, until: str = "") -> None:
        """Read to the end, or to the closing parenthesis of a substitution."""
        if self.depth > MAX_DEPTH:
            raise _Strange("nested too deep")
        current = _Simple()
        starts = True  # a command may start here
        wants = False  # one must: the operator before needs it
        reads_terminal = True
        while True:
            self._skip_blanks()
            if self.at >= len(self.text):
                self._finish(current, reads_terminal)
                if until or self.ends or wants or self._documents:
                    raise _Open
                return
            character = self.text[self.at]
            if character == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text.startswith("&>", self.at):
                self.at += 1
                current.is_redirected = True
                self._redirect()
            elif character in ";&|\n()":
                operator = self._operator()
                if operator == "(":
                    if current.words or not starts or self.text[self.at : self.at + 1] == "(":
                        self._strange("a function or arithmetic")
                    self.ends.append("(")
                    continue
                if operator in ("\n", ")"):
                    wants = wants and not current.words
                elif not current.words and starts and not current.is_redirected:
                    self._strange(f"{operator} without a command before it")
                else:
                    wants = operator in ("|", "||", "&&", "|&")
                current.is_piped = operator in ("|", "|&")
                self._finish(current, reads_terminal)
                current = _Simple(depth=len(self.ends))
                starts = True
                if operator == ")":
                    if until and not self.ends:
                        return
                    if not self.ends or self.ends.pop() != "(":
                        self._strange("a parenthesis")
                    starts = False
                elif operator == "&":
                    self.paints = True
                elif operator == "\n":
                    self._read_documents()
                    # Of rows that were pasted a shell runs what is whole.
                    self.has_run |= bool(self.simple) and not self.ends and not wants
                reads_terminal = operator not in ("|", "|&")
            elif character in "<>":
                if self.text.startswith(("<(", ">("), self.at):
                    # What it runs is waited for by nobody.
                    self.doubt = "a process substitution"
                    self._substitute()
                    current.words.append(_Word(None))
                else:
                    current.is_redirected = True
                    if self._redirect():
                        reads_terminal = False
            elif starts and not current.words and (test := _TEST.match(self.text, self.at)):
                # It evaluates arithmetic, and what a variable is called by.
                self.doubt = "[["
                self.at = test.end()
                current.words.append(_Word("true"))
                wants = False
            else:
                word = self._word()
                if (
                    self.text[self.at : self.at + 1] in ("<", ">")
                    and (word.literal or "").isdigit()
                ):
                    continue
                is_first = starts and not current.words and not word.is_quoted
                is_first = is_first and not current.is_redirected
                if is_first and word.literal is not None and self._keyword(word.literal):
                    starts = word.literal not in _CLOSES
                    wants = starts and word.literal not in ("time", "!")
                    continue
                if not starts:
                    self._strange("a word behind the end of a command")
                wants = False
                current.words.append(word)
                current.depth = len(self.ends)

    def _finish(self, current: _Simple, reads_terminal: bool) -> None:
        if current.words:
            current.reads_terminal = reads_terminal
            self.simple.append(current)
            if len(self.simple) > MAX_COMMANDS:
                raise _Strange("too many commands")

    def _strange(self, what: str) -> None:
        self.is_strange = True
        raise _Strange(f"{what} is not read")

    def _keyword(self, word: str) -> bool:
        """Follow a reserved word where a command may start; whether it was one."""
        if word in _UNREAD:
            self._strange(word)
        if word == "for":
            self._for()
            return True
        if word in _CLOSES:
            if not self.ends or self.ends.pop() != _CLOSES[word]:
                self._strange(word)
            return True
        if word in ("if", "while", "until", "{"):
            self.ends.append(word)
        elif word == "do":
            if not self.ends or self.ends.pop() not in ("while", "until", "for"):
                self._strange(word)
            self.ends.append(word)
        elif word in ("then", "elif", "else") and self.ends[-1:] != ["if"]:
            self._strange(word)
        return word in _WORDS_BEFORE

    def _for(self) -> None:
        self._skip_blanks()
        name = self._word().literal if self.at < len(self.text) else ""
        if not name:
            self._strange("for")
        elif not _HARMLESS.fullmatch(name):
            self.doubt = f"{name} was set"
        while True:
            self._skip_blanks()
            if self.at >= len(self.text):
                raise _Open
            if self.text[self.at] in ";\n":
                self.at += 1
                break
            if self.text[self.at] in "&|()<>#":
                self._strange("for")
            self._word()
        self.ends.append("for")

    def _skip_blanks(self) -> None:
        while self.at < len(self.text):
            if self.text[self.at] in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            else:
                return

    def _operator(self) -> str:
        for operator in ("&&", "||", "|&", ";;"):
            if self.text.startswith(operator, self.at):
                if operator == ";;":
                    self._strange("case")
                self.at += 2
                return operator
        self.at += 1
        return self.text[self.at - 1]

    def _redirect(self) -> bool:
        """Follow a redirection; whether it gives another input than the terminal."""
        match = re.compile(r"<<<|<<-?|<>|<&|>>|>\||>&|<|>").match(self.text, self.at)
        operator = match.group() if match else "<"
        self.at += len(operator)
        self._skip_blanks()
        if self.at >= len(self.text) or self.text[self.at] in ";&|\n()<>":
            self._strange("a redirection")
        word = self._word()
        if operator in ("<<", "<<-"):
            if word.literal is None or "\\" in word.literal:
                self._strange("a here-document")
            # Substitutions in its text are looked for where the delimiter is not quoted.
            self._documents.append((word.literal or "", word.is_quoted, operator == "<<-"))
            return True
        if operator in ("<>", "<&") or (operator == "<" and _is_device(word)):
            self.doubt = "input from a device"
        return operator in ("<", "<<<")

    def _read_documents(self) -> None:
        for delimiter, is_quoted, is_indented in self._documents:
            while True:
                if self.at >= len(self.text):
                    raise _Open
                end = self.text.find("\n", self.at)
                line = self.text[self.at : end] if end >= 0 else self.text[self.at :]
                self.at = end + 1 if end >= 0 else len(self.text)
                if (line.lstrip("\t") if is_indented else line) == delimiter:
                    break
                if end < 0:
                    raise _Open
                if not is_quoted and ("`" in line or "$(" in line or line.endswith("\\")):
                    self._strange("a here-document with substitutions")
        self._documents.clear()

    # --- words -----------------------------------------------------------------------------------

    def _word(self) -> _Word:
        name = _NAME.match(self.text, self.at)
        word = _Word(assigns=name.group(1) if name else "")
        pieces: list[str] = []
        is_made = False
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in " \t\n;&|()<>":
                break
            if character == "'":
                pieces.append(self._single_quoted())
                word.is_quoted = True
            elif character == '"':
                is_made |= self._double_quoted(pieces)
                word.is_quoted = True
            elif character == "\\":
                if self.at + 1 >= len(self.text):
                    raise _Open
                if self.text[self.at + 1] != "\n":
                    pieces.append(self.text[self.at + 1])
                    word.is_quoted = True
                self.at += 2
            elif character in "$`":
                is_made |= self._substitution(pieces, is_bare=True)
            else:
                is_made |= character in "*?[{" and len(self.text) > self.at + 1
                is_made |= character == "~"
                pieces.append(character)
                self.at += 1
        text = "".join(pieces)
        # A brace or a bracket alone is a word of the shell; ~ is a folder, and no device.
        word.literal = None if is_made and text not in ("{", "[", "[[") else text
        if word.literal is None and not word.is_quoted and re.fullmatch(r"[\w./~*?-]+", text):
            word.literal = None if text.startswith(("/dev", "/proc", "*", "?", "-")) else text
        return word

    def _single_quoted(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise _Open
        quoted, self.at = self.text[self.at + 1 : end], end + 1
        return quoted

    def _double_quoted(self, pieces: list[str]) -> bool:
        is_made = False
        self.at += 1
        while True:
            if self.at >= len(self.text):
                raise _Open
            character = self.text[self.at]
            if character == '"':
                self.at += 1
                return is_made
            if character == "\\" and self.at + 1 < len(self.text):
                pieces.append(self.text[self.at : self.at + 2])
                self.at += 2
            elif character in "$`":
                is_made |= self._substitution(pieces, is_bare=False)
            else:
                pieces.append(character)
                self.at += 1

    def _substitution(self, pieces: list[str], *, is_bare: bool) -> bool:
        """Follow what a `$` or a backquote begins; whether the shell makes something of it."""
        text, at = self.text, self.at
        if text[at] == "`":
            self.doubt = "a backquote"
            return self._skip(_BACKQUOTED)
        if text.startswith("$((", at):
            # A variable in arithmetic is evaluated once more, and may hold a substitution.
            if not _SUM.match(text, at):
                self.doubt = "arithmetic"
            return self._skip(_ARITHMETIC)
        if text.startswith("$(", at):
            self._substitute()
            return True
        if text.startswith("${", at):
            if not _VALUE.match(text, at):
                self.doubt = "an expansion"
            return self._skip(_EXPANSION)
        if is_bare and text.startswith(("$'", '$"', "$["), at):
            if not text.startswith("$'", at):
                self._strange(text[at : at + 2])
            return self._skip(_ESCAPED)
        if match := _VARIABLE.match(text, at):
            self.at = match.end()
            return True
        pieces.append("$")
        self.at += 1
        return False

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Go behind what is not read itself, and has an end that is known."""
        match = pattern.match(self.text, self.at)
        if match is None:
            self._strange("an expansion")
        else:
            self.at = match.end()
        return True

    def _substitute(self) -> None:
        """Read what is between a parenthesis and its end as commands of their own."""
        inner = _Reader(self.text, self.depth + 1)
        inner.at = self.at + 2
        try:
            inner.read(")")
        finally:
            self.is_strange |= inner.is_strange
        self.at = inner.at
        self.doubt = self.doubt or inner.doubt
        self.paints |= inner.paints
        self.simple += inner.simple
        for each in inner.simple:
            each.depth = 1


# --- programs ------------------------------------------------------------------------------------


def _is_device(word: _Word) -> bool:
    return word.literal is None or (
        word.literal.startswith(("/dev/", "/proc/", "/dev", "/proc", "//"))
        and word.literal != "/dev/null"
    )


def _judge(simple: _Simple) -> Survey:
    words = list(simple.words)
    while words and (name := words[0].assigns):
        if not _HARMLESS.fullmatch(name):
            return Survey(doubt=f"{name} was set")
        words.pop(0)
    if not words:
        return Survey()
    program, arguments = words[0].literal, words[1:]
    if program is None:
        return Survey(doubt="a command that the shell makes of something")
    if "/" in program:
        folder = _FOLDERS.fullmatch(program)
        if folder is None:
            return Survey(doubt="a program by its path may still have the terminal")
        program = folder.group(1)
    return _judge_program(program, arguments, simple.reads_terminal)


def _judge_program(program: str, arguments: Sequence[_Word], reads_terminal: bool) -> Survey:
    literals = [each.literal for each in arguments]
    options = [each for each in literals if each and each.startswith("-")]
    held = Survey(doubt=f"{program} may still have the terminal")
    if program in _SHELLS and set(literals) <= _SHELLS[program]:
        return Survey(asks=program == "su", is_shell=True)
    match program:
        case "exit" | "logout":
            return Survey(is_shell=True)
        case "sudo":
            return _judge_sudo(arguments, reads_terminal) or held
        case "passwd":
            return Survey(asks=True)
        case "export" | "unset" | "local" | "readonly":
            names = [(each or "$").partition("=")[0] for each in literals]
            wrong = [each for each in names if not _HARMLESS.fullmatch(each)]
            return Survey(doubt=f"{wrong[0]} was set") if wrong else Survey()
        case "history":
            return Survey() if all((each or "x").isdigit() for each in literals) else held
        case "find":
            acts = [
                each for each in literals if each is None or each.startswith(("-ex", "-ok", "-f"))
            ]
            return (
                held
                if {each for each in acts if each not in ("-false", "-follow", "-fstype")}
                else Survey()
            )
        case "tar":
            bundle = (literals[0] or "").removeprefix("-") if literals else ""
            is_known = (
                re.fullmatch(r"[cxtzjJvpk]*f?", bundle)
                and "f" in bundle
                and options in ([], ["-" + bundle])
            )
            return Survey() if is_known and None not in literals[:2] else held
        case "gzip" | "gunzip":
            return Survey() if literals and None not in literals and "-" not in literals else held
        case "ip":
            known = ("a", "addr", "address", "r", "route", "l", "link", "n", "neigh", "neighbour")
            return Survey() if literals and literals[0] in known else held
        case "curl":
            odd = [
                each
                for each in literals
                if each is None
                or "@" in each
                or re.match(r"-\w*[KTFd]|--[a-z-]*(?:config|data|upload|form)", each)
            ]
            return held if odd else Survey()
        case "command":
            return Survey() if literals[:1] in (["-v"], ["-V"]) else held
    if program in _FULL_SCREEN:
        return _judge_full_screen(program, literals, reads_terminal) or held
    if program in _READERS:
        return Survey() if _reads_files(program, arguments, reads_terminal) else held
    return Survey() if program in _ANY and _is_quiet(program, arguments) else held


def _is_quiet(program: str, arguments: Sequence[_Word]) -> bool:
    """Whether a program that is told this reads no terminal, sets nothing and runs no other."""
    literals = [each.literal or "" for each in arguments]
    named = literals[:1] if program == "printf" else literals if program in ("test", "[") else []
    if any(each.startswith("-v") for each in named):
        # They set a variable, or evaluate what it is called by.
        return False
    if program in ("cp", "mv", "ln") and any(map(_is_device, arguments)):
        return False
    if program == "jobs":
        return not literals
    odd = ("--file", "-f") if program in ("date", "file", "dig", "host") else ("--file",)
    return program in ("echo", "printf") or not any(each.startswith(odd) for each in literals)


def _judge_sudo(arguments: Sequence[_Word], reads_terminal: bool) -> Survey | None:
    at = 0
    while at < len(arguments) and (option := arguments[at].literal or "").startswith("-"):
        if option in ("-i", "-s"):
            return Survey(asks=True, is_shell=True) if len(arguments) == 1 else None
        if option not in ("-u", "-n", "-H"):
            return None
        at += 2 if option == "-u" else 1
    program = arguments[at].literal if at < len(arguments) else None
    if not program or program in ("exit", "export"):
        return None
    inner = _judge_program(program, arguments[at + 1 :], reads_terminal)
    # With another user's settings a full-screen program may do anything.
    if inner.doubt or inner.full_screen:
        return None
    return Survey(asks=True, is_shell=inner.is_shell)


def _judge_full_screen(
    program: str, literals: Sequence[str | None], reads_terminal: bool
) -> Survey | None:
    """Judge a program that takes the whole screen; None where it may run others as it is told."""
    kind = _FULL_SCREEN[program]
    if any(each is None or each.startswith("+") for each in literals):
        return None
    options = [each for each in literals if each and each.startswith("-")]
    if program in ("systemctl", "journalctl"):
        if {"edit", "set-environment"} & set(literals):
            return None
        return (
            Survey() if "--no-pager" in options or not reads_terminal else Survey(full_screen=kind)
        )
    if program == "top" and "-b" in options:
        return Survey()
    if options and not (kind == "less" and re.fullmatch(r"(?:-[SNRi]+)+", "".join(options))):
        return None
    return Survey(full_screen=kind)


def _reads_files(program: str, arguments: Sequence[_Word], reads_terminal: bool) -> bool:
    """Whether a program that reads its input reads files or a pipe, and surely not the terminal."""
    valued = {each[0] for each in re.findall(r"\w:", _READERS[program])}
    plain = set(_READERS[program]) - valued - {":"}
    operands: list[_Word] = []
    seen: set[str] = set()
    rest = iter(arguments)
    for each in rest:
        text = each.literal
        if text is None or text == "-" or not text.startswith("-"):
            operands.append(each)
            continue
        if text.startswith("--"):
            if text not in ("--color", "--color=auto", "--color=always", "--color=never", "--help"):
                return False
            continue
        if re.fullmatch(r"-\d+", text):
            continue
        for at, option in enumerate(text[1:], 1):
            seen.add(option)
            if option in valued:
                if at == len(text) - 1 and next(rest, None) is None:
                    return False
                break
            if option not in plain:
                return False
    scripts = 0
    if program in ("grep", "egrep", "fgrep", "zgrep"):
        scripts = 0 if "e" in seen else 1
    elif program in ("sed", "awk"):
        scripts = 1
        script = operands[0].literal if operands else None
        if script is None or not (_SED if program == "sed" else _AWK).fullmatch(script):
            return False
    files = operands[scripts:]
    if len(operands) < scripts or any(_is_device(each) or each.literal == "-" for each in files):
        return False
    if program in ("tr", "tee"):
        return not reads_terminal
    if not reads_terminal or (program == "grep" and seen & {"r", "R"}):
        return True
    return len(files) >= (2 if program in ("diff", "cmp", "comm") else 1)
