"""The commands in a shell text and their words: a reader of our own, which refuses what it may not.

The surprising decision is how little it reads. Shells differ in what a text means, and which one
the server runs is not known: what bash, dash and zsh may read in two ways is unreadable, and so is
what is rare and hard (`case`, arrays, `((…))`, arithmetic with names in it). What runs when is not
told: each command of a text counts, in whatever branch, loop, function or substitution it stands.

What is read here is believed only if tree-sitter's grammar of bash finds the same commands and
words: see `shell_grammar`.

Grammar: POSIX.1-2024, volume 3, section 2; Bash Reference Manual 5.2, chapter 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

MAX_CHARACTERS: Final = 64 * 1024
"""A longer text is not read."""

MAX_DEPTH: Final = 32
"""What is nested deeper is not read."""

MAX_COMMANDS: Final = 1_000

MAX_WORDS: Final = 5_000


class Unreadable(Exception):
    """The text, or a part of it, means we do not know what; the message says which part."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as written, and what is known of what becomes of it.

    `text` is None unless the word is literal; `begins` is what each word surely begins with that it
    becomes. `splits` says that it may become any number of words, of which only the first begins
    so, `globs`, any number that all begin so; `is_bare` says that nothing in it is quoted, escaped
    or expanded.
    """

    raw: str
    start: int
    text: str | None
    begins: str
    splits: bool
    is_bare: bool
    globs: bool = False

    @property
    def may_be_option(self) -> bool:
        """Whether it may become a word that begins with `-`."""
        if self.text is not None:
            return self.text.startswith("-")
        return self.splits or not self.begins or self.begins.startswith("-")


@dataclass(frozen=True, slots=True)
class Redirect:
    """What a command reads from or writes to; `body` is the text of a here-document, if literal."""

    descriptor: str
    operator: str
    target: Word | None
    body: str | None = None

    @property
    def feeds_input(self) -> bool:
        """Whether it is about what the command reads as its standard input."""
        return self.operator in ("<", "<<", "<<-", "<<<", "<>", "<&") and self.descriptor in (
            *("", "0"),
        )


@dataclass(slots=True)
class Simple:
    """A simple command, or the redirections of a compound one, which have no words.

    `joined` is the operator between it and what comes before it, `follows` that, where it is a
    simple command too, and `scope` tells apart in which subshell it runs. `awaits` counts the
    here-documents that it has.
    """

    joined: str = ""
    scope: int = 0
    assignments: list[Word] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    follows: Simple | None = None
    awaits: int = 0
    is_negated: bool = False
    is_piped_on: bool = False
    is_background: bool = False
    start: int = -1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.assignments or self.words or self.redirects or self.awaits)


@dataclass(slots=True)
class Reading:
    """What is in a text. `words` and `names` are where each word and each command's name begins.

    A function is told as its body, whose commands are among `commands` like all others, and where
    its definition ends.
    """

    commands: list[Simple] = field(default_factory=list)
    functions: dict[str, tuple[str, int]] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    words: set[int] = field(default_factory=set)
    names: set[int] = field(default_factory=set)


def read(text: str) -> Reading:
    """Return the commands of `text`.

    Raises:
        Unreadable: what it means is not known.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    if not text.replace("\n", "").replace("\t", "").isprintable() or "\ufffd" in text:
        raise Unreadable("control characters")
    if _SWALLOWED.search(text):
        raise Unreadable("character set")
    reader = _Reader(text)
    reader.read_all()
    return reader.reading


# In GBK and its like, the last byte of a character and the backslash, bar or backtick behind it are
# one character.
_SWALLOWED: Final = re.compile(r"[^\x00-\x7f][\\|`]")

_OPERATOR: Final = re.compile(r";;|;&|&&|\|\||\|&|[;&|]")
_REDIRECT: Final = re.compile(r"(\d*)(<<<|<<-|<<|<>|<&|>>|>\||>&|<|>)|(&>>|&>)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_ODD_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\+=|\[)")
_DELIMITER: Final = re.compile(r"""(\\?)([A-Za-z0-9_]+)|'([A-Za-z0-9_ ]+)'|"([A-Za-z0-9_ ]+)\"""")
_PARAMETER: Final = re.compile(
    r"""
    \{ (?: \#? (?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])
         | (?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*])
           (?: (?: :?[-+?] | %%? | \#\#? | //? | \^\^? | ,,? ) [A-Za-z0-9_\ ./:@%+,=*?~^-]*
             | : \ ?-?[0-9]+ (?: : -?[0-9]+ )? )
    ) \}""",
    re.VERBOSE,
)
_ARITHMETIC: Final = re.compile(r"\(\(([0-9\s+\-*/%<>=!&|^~?:,()]*)\)\)")
_SPECIAL: Final = "0123456789@*#?$!-"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")
_BLANKS: Final = " \t"
_ENDS_WORD: Final = " \t\n;&|()"

_GO_ON: Final = frozenset(["if", "then", "else", "elif", "while", "until", "do", "!"])
_CLOSE: Final = frozenset(["fi", "done"])
_REFUSED: Final = frozenset(["case", "esac", "select", "function", "coproc", "repeat", "foreach"])
"""Shells part over them, or they are rare; two are zsh's."""

_ANSI: Final = dict(zip('abeEfnrtv\\"?', '\a\b\x1b\x1b\f\n\r\t\v\\"?', strict=True))
_CODE: Final = re.compile(r"x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|[0-7]{1,3}")


class _Builder:
    """What becomes of a word, piece by piece."""

    def __init__(self) -> None:
        self.literal: list[str] = []
        self.begins: str | None = None
        self.splits = False
        self.globs = False
        self.is_bare = True

    def add(self, text: str) -> None:
        self.literal.append(text)

    def expand(self, *, splits: bool, begins: str = "") -> None:
        """Add a piece of which nothing is known but how it begins."""
        if self.begins is None:
            self.begins = "".join(self.literal) + begins
        self.splits |= splits
        self.is_bare = False

    def word(self, raw: str, start: int) -> Word:
        text = "".join(self.literal)
        if self.begins is None:
            return Word(raw, start, text, text, self.splits, self.is_bare)
        return Word(raw, start, None, self.begins, self.splits, False, self.globs)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.end = len(text)
        self.depth = 0
        self.words = 0
        self.blocks = 0
        self.scope = 0
        self.scopes = 0
        self.pending: list[tuple[Simple, str, str, bool, str]] = []
        self.reading = Reading()

    def read_all(self) -> None:
        self._list("")

    # Lists.

    def _nested(self, closer: str, *, is_subshell: bool = True) -> None:
        """Read a list up to its end, with here-documents of its own."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        pending, self.pending = self.pending, []
        scope = self.scope
        if is_subshell:
            self.scopes += 1
            self.scope = self.scopes
        self._list(closer)
        self.scope = scope
        self.pending = pending + self.pending if closer == "}" else pending
        self.depth -= 1

    def _list(self, closer: str) -> None:
        simple = Simple(scope=self.scope)
        previous: Simple | None = None
        is_closed = False  # a compound command is over, and only an operator or a redirect fits
        is_function = False

        def finish(operator: str) -> None:
            nonlocal simple, previous, is_closed, is_function
            if is_function and (operator in ("|", "|&", "&") or not simple.is_empty):
                raise Unreadable("function in a subshell, or with redirections")
            is_function = False
            if not simple.is_empty:
                simple.is_piped_on = operator in ("|", "|&")
                simple.is_background = operator == "&"
                self._keep(simple)
                previous = simple if simple.words and not is_closed else None
            elif is_closed:
                previous = None
            elif operator == "\n":
                return  # an empty line, and what is joined stays so
            simple = Simple(joined=operator, scope=self.scope, follows=previous)
            is_closed = False

        while True:
            self._skip_blanks()
            if simple.is_empty:
                simple.start = self.at
            if self.at >= self.end:
                if closer:
                    raise Unreadable("not closed")
                finish("")
                if self.pending:
                    raise Unreadable("here-document without end")
                return
            here = self.text[self.at]
            if here == "#":
                end = self._find("\n")
                self.reading.comments.append(self.text[self.at : end])
                self.at = end
            elif here == "\n":
                finish("\n")
                self.at += 1
                self._here_documents()
            elif here == ")":
                if closer != ")":
                    raise Unreadable("closes nothing")
                finish("")
                if self.pending:
                    raise Unreadable("here-document in a list that ends first")
                self.at += 1
                return
            elif here == "(":
                if not simple.is_empty or is_closed:
                    self._function(simple)
                    is_function = True
                    simple = Simple(joined=simple.joined, scope=self.scope)
                elif self.text.startswith("((", self.at):
                    raise Unreadable("arithmetic command")
                else:
                    self.at += 1
                    self._nested(")")
                is_closed = True
            elif self._redirect(simple):
                pass
            elif here in ";&|":
                operator = self._operator()
                finish(operator)
            else:
                word = self._word()
                is_first = simple.is_empty and word.is_bare
                if is_first and word.raw == "}" and closer == "}":
                    finish("")
                    return
                if is_first and word.raw in _GO_ON:
                    is_closed = False
                    self.blocks += word.raw in ("if", "while", "until")
                    simple.is_negated |= word.raw == "!"
                elif is_first and word.raw in _CLOSE:
                    is_closed = True
                    self.blocks -= 1
                elif is_closed:
                    raise Unreadable("word behind a compound command")
                elif is_first and word.raw == "{":
                    self._nested("}", is_subshell=False)
                    is_closed = True
                elif is_first and word.raw == "for":
                    self._for()
                elif is_first and (word.raw in _REFUSED or word.raw == "}"):
                    raise Unreadable(f"reserved word {word.raw}")
                else:
                    self._add(simple, word)

    def _add(self, simple: Simple, word: Word) -> None:
        if not simple.words:
            if _ODD_ASSIGNMENT.match(word.raw):
                raise Unreadable("assignment to a part")
            if _ASSIGNMENT.match(word.raw):
                simple.assignments.append(word)
                self.reading.words.add(word.start)
                return
            self.reading.names.add(word.start)
        elif simple.words[0].raw != "[" and any(
            each.operator == "&>" or each.operator == "&>>" for each in simple.redirects
        ):
            # In POSIX, `a &>f b` are two commands.
            raise Unreadable("word behind &>")
        simple.words.append(word)
        if simple.words[0].raw not in ("[", "[["):
            self.reading.words.add(word.start)

    def _keep(self, simple: Simple) -> None:
        if simple.words and simple.words[0].raw == "[[" and simple.words[-1].raw != "]]":
            raise Unreadable("condition with operators")
        if len(self.reading.commands) >= MAX_COMMANDS:
            raise Unreadable("too many commands")
        self.reading.commands.append(simple)

    def _operator(self) -> str:
        match = _OPERATOR.match(self.text, self.at, self.end)
        operator = match.group() if match else ""
        if operator in ("", ";;", ";&"):
            raise Unreadable("operator of case")
        self.at += len(operator)
        return operator

    def _function(self, simple: Simple) -> None:
        if (
            len(simple.words) != 1
            or simple.assignments
            or simple.redirects
            or not simple.words[0].is_bare
            or not _NAME.fullmatch(simple.words[0].raw)
        ):
            raise Unreadable("parenthesis")
        if self.depth or self.blocks or simple.joined not in ("", ";", "\n"):
            raise Unreadable("function that may not be defined")
        word = simple.words[0]
        self.at += 1
        self._skip_blanks()
        if not self.text.startswith(")", self.at):
            raise Unreadable("parenthesis")
        self.at += 1
        self._skip_blanks(" \t\n")
        if not re.compile(r"\{\s").match(self.text, self.at):
            raise Unreadable("function without braces")
        self.reading.names.discard(word.start)
        self.reading.words.discard(word.start)
        self.at += 1
        begin = self.at
        self._nested("}", is_subshell=False)
        if word.raw in self.reading.functions:
            raise Unreadable("function defined twice")
        body = self.text[begin : self.at - 1]
        self.reading.functions[word.raw] = (body, self.at)

    def _for(self) -> None:
        self._skip_blanks()
        match = _NAME.match(self.text, self.at, self.end)
        if not match:
            raise Unreadable("for")
        self.reading.variables.append(match.group())
        self.blocks += 1
        self.at = match.end()
        self._skip_blanks(" \t\n")
        if re.compile(r"in[ \t]").match(self.text, self.at, self.end):
            self.at += 2
            while True:
                self._skip_blanks()
                if self.at >= self.end or self.text[self.at] in ";\n":
                    break
                word = self._word()
                self.reading.words.add(word.start)
        if self.at < self.end and self.text[self.at] in ";\n":
            self.at += 1
            self._here_documents()
        elif not re.compile(r"do\s").match(self.text, self.at, self.end):
            raise Unreadable("for")

    # Here-documents and other redirections.

    def _redirect(self, simple: Simple) -> bool:
        match = _REDIRECT.match(self.text, self.at, self.end)
        if not match:
            return False
        descriptor, operator = match.group(1) or "", match.group(2) or match.group(3)
        if operator in ("<", ">") and self.text.startswith("(", match.end()):
            return False  # a process substitution
        self.at = match.end()
        self._skip_blanks()
        if operator in ("<<", "<<-"):
            delimiter = _DELIMITER.match(self.text, self.at, self.end)
            if not delimiter:
                raise Unreadable("delimiter of a here-document")
            self.at = delimiter.end()
            if self.at < self.end and self.text[self.at] not in " \t\n;&|()<>":
                raise Unreadable("delimiter of a here-document")
            escaped, plain, *quoted = delimiter.groups()
            is_literal = bool(escaped) or not plain
            named = plain or quoted[0] or quoted[1]
            self.pending.append((simple, descriptor, operator, is_literal, named))
            simple.awaits += 1
            return True
        word = self._word()
        if word.raw != "-":
            self.reading.words.add(word.start)
        body = None if word.text is None else f"{word.text}\n"
        simple.redirects.append(
            Redirect(descriptor, operator, word, body if operator == "<<<" else None)
        )
        return True

    def _here_documents(self) -> None:
        """Read the here-documents that begin on the line behind their operator."""
        pending, self.pending = self.pending, []
        for simple, descriptor, operator, is_literal, delimiter in pending:
            lines: list[str] = []
            begin = self.at
            while True:
                if self.at >= self.end:
                    raise Unreadable("here-document without end")
                end = self._find("\n")
                line = self.text[self.at : end]
                if operator == "<<-":
                    line = line.lstrip("\t")
                if line == delimiter:
                    break
                if not is_literal and line.endswith("\\"):
                    raise Unreadable("line that goes on in a here-document")
                lines.append(line)
                self.at = min(end + 1, self.end)
            stop, behind = self.at, end
            body: str | None = "".join(f"{line}\n" for line in lines)
            if not is_literal:
                self.at = begin
                found = self._expanded(stop)
                # The backslashes that quote are left out, and tabs at the beginning of lines.
                body = found if operator == "<<" or found is None else body
                if operator == "<<-" and "\\" in self.text[begin:stop]:
                    body = None
            self.at = behind  # the newline is read as one
            simple.redirects.append(Redirect(descriptor, operator, None, body))
        if pending and self.at < self.end:
            self.at += 1

    def _expanded(self, stop: int) -> str | None:
        """Read an unquoted here-document up to `stop`; return its text where it is literal."""
        builder = _Builder()
        end, self.end = self.end, stop
        while self.at < self.end:
            here = self.text[self.at]
            if here == "\\" and self.text[self.at + 1 : self.at + 2] in ("\\", "$", "`"):
                builder.add(self.text[self.at + 1])
                self.at += 2
            else:
                self._in_quotes(builder, here)
        self.end = end
        return builder.word("", 0).text

    # Words.

    def _skip_blanks(self, blanks: str = _BLANKS) -> None:
        while self.at < self.end:
            here = self.text[self.at]
            if here in blanks:
                self.at += 1
            elif here == "\\" and self.text.startswith("\n", self.at + 1):
                # In the middle of a word or an operator it is left out too, and shells part.
                if self.at and self.text[self.at - 1] not in " \t\n":
                    raise Unreadable("line that goes on in a word")
                self.at += 2
            else:
                return

    def _find(self, character: str) -> int:
        found = self.text.find(character, self.at, self.end)
        return self.end if found < 0 else found

    def _word(self) -> Word:
        start = self.at
        self.words += 1
        if self.words > MAX_WORDS:
            raise Unreadable("too many words")
        plain = _PLAIN.match(self.text, start, self.end)
        if plain and (plain.end() == self.end or self.text[plain.end()] in _ENDS_WORD):
            self.at = plain.end()
            return Word(plain.group(), start, plain.group(), plain.group(), False, True)
        builder = _Builder()
        braces = -1
        has_braces = False
        while self.at < self.end:
            here = self.text[self.at]
            if here in _ENDS_WORD:
                break
            if here in "<>":
                if not self.text.startswith("(", self.at + 1):
                    break
                self.at += 2
                self._nested(")")
                builder.expand(splits=False, begins="/")
            elif here == "\\":
                if self.at + 1 >= self.end or self.text[self.at + 1] == "\n":
                    raise Unreadable("line that goes on in a word")
                builder.add(self.text[self.at + 1])
                builder.is_bare = False
                self.at += 2
            elif here == "'":
                end = self.text.find("'", self.at + 1, self.end)
                if end < 0 or self.text[end - 1] == "\\":
                    raise Unreadable("quote without end")  # for fish, it goes on behind `\'`
                builder.add(self.text[self.at + 1 : end])
                builder.is_bare = False
                self.at = end + 1
            elif here == '"':
                self._double_quotes(builder)
            elif here == "$":
                self._dollar(builder, is_quoted=False)
            elif here == "`":
                self._backticks(builder, is_quoted=False)
            elif here in "*?" or (here == "[" and not self._is_test(start)):
                builder.expand(splits=False)
                builder.globs = True
                self.at += 1
            elif here == "~" and (self.at == start or self.text[self.at - 1] in "=:"):
                # Behind `=` too: bash takes a word that looks like an assignment for one.
                builder.expand(splits=False, begins="/")
                self.at += 1
            elif run := _PLAIN.match(self.text, self.at, self.end):
                builder.add(run.group())
                self.at = run.end()
            else:
                if here == "{":
                    braces = len(builder.literal)
                elif here == "}" and braces >= 0:
                    has_braces = True
                builder.add(here)
                self.at += 1
        raw = self.text[start : self.at]
        if not raw:
            raise Unreadable("operator where a word is expected")
        if raw.startswith("{") and raw.endswith("}") and self.text[self.at : self.at + 1] in "<>":
            raise Unreadable("redirection that sets a variable")
        word = builder.word(raw, start)
        if has_braces and ("," in raw or ".." in raw):
            # As many words as there are between the braces.
            first = raw.index("{")
            begins = raw[:first] if re.fullmatch(r"[\w./-]*", raw[:first]) else ""
            return Word(raw, start, None, begins, word.splits, False, True)
        return word

    def _is_test(self, start: int) -> bool:
        """Whether the word is `[` or `[[`."""
        match = re.compile(r"\[\[?(?=[ \t])").match(self.text, start, self.end)
        return bool(match)

    def _double_quotes(self, builder: _Builder) -> None:
        builder.is_bare = False
        self.at += 1
        while self.at < self.end:
            here = self.text[self.at]
            if here == '"':
                self.at += 1
                return
            if here == "\\" and self.at + 1 < self.end:
                escaped = self.text[self.at + 1]
                if escaped == "\n":
                    raise Unreadable("line that goes on in quotes")
                builder.add(escaped if escaped in '$`"\\' else f"\\{escaped}")
                self.at += 2
            else:
                self._in_quotes(builder, here)
        raise Unreadable("quote without end")

    def _in_quotes(self, builder: _Builder, here: str) -> None:
        if here == "$":
            self._dollar(builder, is_quoted=True)
        elif here == "`":
            self._backticks(builder, is_quoted=True)
        else:
            builder.add(here)
            self.at += 1

    def _dollar(self, builder: _Builder, *, is_quoted: bool) -> None:
        """Read what begins with `$`."""
        self.at += 1
        following = self.text[self.at] if self.at < self.end else ""
        if following == "(":
            self._substitution()
            builder.expand(splits=not is_quoted)
        elif following == "{":
            match = _PARAMETER.match(self.text, self.at, self.end)
            if not match:
                raise Unreadable("expansion")
            self.at = match.end()
            is_many = match.group()[1] in "@*"
            builder.expand(splits=not is_quoted or is_many, begins=_known(match.group()[1:-1]))
        elif match := _NAME.match(self.text, self.at, self.end):
            self.at = match.end()
            builder.expand(splits=not is_quoted, begins=_known(match.group()))
        elif following and following in "?#$":
            self.at += 1
            builder.expand(splits=False, begins="0")  # a number
        elif following and following in _SPECIAL:
            self.at += 1
            builder.expand(splits=not is_quoted or following in "@*")
        elif following == "'" and not is_quoted:
            self._ansi(builder)
        elif following in ("[", "\\") or (following == '"' and not is_quoted):
            raise Unreadable("expansion")
        else:
            builder.add("$")
            return
        if self.text.startswith("[", self.at):
            raise Unreadable("expansion")  # of a part, to zsh and csh

    def _substitution(self) -> None:
        if self.text.startswith("((", self.at):
            match = _ARITHMETIC.match(self.text, self.at, self.end)
            # Of a name the value is computed, and a command in an index of it runs.
            if not match or not _is_balanced(match.group(1)):
                raise Unreadable("arithmetic")
            self.at = match.end()
            return
        self.at += 1
        self._nested(")")

    def _backticks(self, builder: _Builder, *, is_quoted: bool) -> None:
        end = self.text.find("`", self.at + 1, self.end)
        body = self.text[self.at : end]
        if end < 0 or "\\" in body or "<<" in body or (is_quoted and '"' in body):
            raise Unreadable("backticks")
        outer, self.end = self.end, end
        self.at += 1
        self._nested("")
        self.end = outer
        self.at = end + 1
        builder.expand(splits=not is_quoted)

    def _ansi(self, builder: _Builder) -> None:
        """Read `$'…'`, which is not known to all shells: there `'` ends at the first quote."""
        end = self.text.find("'", self.at + 1, self.end)
        body = self.text[self.at + 1 : end]
        if end < 0 or "\\'" in self.text[self.at + 1 : end + 1]:
            raise Unreadable("quotes of ANSI C")
        at = 0
        while at < len(body):
            if body[at] != "\\":
                builder.add(body[at])
                at += 1
                continue
            at += 1
            code = _CODE.match(body, at)
            if code:
                digits = code.group()
                number = int(digits, 8) if digits[0] in "01234567" else int(digits[1:], 16)
                if not 0 < number < 0x80:
                    raise Unreadable("quotes of ANSI C")
                builder.add(chr(number))
                at = code.end()
            elif body[at] in _ANSI:
                builder.add(_ANSI[body[at]])
                at += 1
            else:
                raise Unreadable("quotes of ANSI C")
        builder.is_bare = False
        self.at = end + 1


def _is_balanced(text: str) -> bool:
    depth = 0
    for each in text:
        depth += {"(": 1, ")": -1}.get(each, 0)
        if depth < 0:
            return False
    return depth == 0


def _known(parameter: str) -> str:
    """Return what the value of a parameter begins with, as far as that is known."""
    return "/" if parameter in ("HOME", "PWD", "OLDPWD") else ""
