"""What a shell command does, by two readers of the shell's grammar and a table of programs.

The surprising decision is what `certain` means. No text says what a shell command does: names are
looked up through PATH, functions and aliases, all of which are the server's, and programs read
settings there. All of this module takes a name for the program that is commonly called so, and
`certain` says that beyond that each word that counts is literal. An answer is `uncertain` where it
hangs on values, on files, on what an earlier line defined, or on a script that was recorded before.

A class is never guessed downward. Unknown is what cannot be read, a program or an option that is
not in the tables, a name or an option that is not literal, and code of another language.

Grammar: POSIX.1-2024 and bash 5.2, as far as `shell_reading` and tree-sitter agree.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agentaudit.risk import shell_findings as findings
from agentaudit.risk.shell_effects import Effect, Input, unknown
from agentaudit.risk.shell_grammar import PARSER, agrees
from agentaudit.risk.shell_programs import effect_of
from agentaudit.risk.shell_reading import (
    MAX_CHARACTERS,
    Reading,
    Redirect,
    Simple,
    Unreadable,
    Word,
    read,
)
from agentaudit.risk.shell_wrappers import (
    WRAPPERS,
    changed,
    is_harmless_name,
    is_harmless_setting,
    variable_of,
)
from agentaudit.risk.sql import CLASSES

MAX_TEXTS: Final = 64
"""A text runs at most so many others; one that runs more is unknown."""

MAX_READ: Final = 2 * MAX_CHARACTERS
"""So many characters are read in all of them."""

MAX_NESTING: Final = 8
"""`sh -c 'sh -c …'`, deeper, is unknown."""

MAX_NAMED: Final = 64
"""Of a text with more resources or findings not all are named, and it is unknown; so is what comes
after it in a shell with more functions and aliases."""

Scripts = Callable[[str], str | None]
"""The text of a file that this session has recorded as it wrote it, by its path: absolute, or
`~/…` in the folder in which the session began. None where it is not known."""

_RANK: Final = {name: rank for rank, name in enumerate(CLASSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What earlier lines of the same shell have changed.

    `folder` is where it is, `~` being where the session began, and None where that is not known.
    `is_in_doubt` says that any name may mean something else by now: a file was sourced, or PATH was
    set. `is_interactive` says that a person's shell reads the line, at a terminal.
    """

    functions: Mapping[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    folder: str | None = "~"
    is_in_doubt: bool = False
    is_interactive: bool = False


EXEC: Final = State()
"""Of a command that SSH hands to a new shell."""

INTERACTIVE: Final = State(is_interactive=True)
"""Of the first line that is typed into a shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command that a text would run.

    `argv` has None for each word that is not literal; `via` is what runs it, from the outside in;
    `resources` are the paths and hosts that it names.
    """

    operation: str
    cls: str
    confidence: str
    argv: tuple[str | None, ...] = ()
    via: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    risk: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a text does; the first fields are those of a command of the archive.

    `operation` is its first command's, and `cls` the worst of all. `resources` are paths, absolute
    or in `~`, as patterns where the text has patterns, and hosts. `files` are the texts of files
    that it gives whole, by their paths. `after` is what the next line of the same shell finds.
    """

    operation: str
    cls: str
    resources: tuple[str, ...] = ()
    fingerprint: str = ""
    confidence: str = "uncertain"
    parser: str = PARSER
    risk: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    after: State = EXEC


def classify(text: str, state: State = EXEC, scripts: Scripts | None = None) -> Line:
    """Return what a shell does that is handed `text`.

    >>> line = classify("cd /srv && sudo rm -rf data")
    >>> line.operation, line.cls, line.risk[:2]
    ('cd', 'admin', ('contains sudo', 'contains rm'))
    >>> line.writes
    ('/srv/data',)
    """
    return _Judge(state, scripts).line(text)


_UNKNOWN: Final = _RANK["unknown"]


@dataclass(slots=True)
class _Shell:
    """What names and folders mean to the commands of one shell.

    `folders` are those in which it may be, and `chain` the one in which it is for sure, as long as
    commands follow a `cd` by `&&`: the last one is `chained`. `own` are functions of the text that
    is judged, whose bodies are part of it.
    """

    functions: dict[str, str]
    aliases: set[str]
    folders: set[str] | None
    is_in_doubt: bool
    is_here: bool = True
    chain: str | None = None
    chain_scope: int = -1
    chained: Simple | None = None
    own: dict[str, int] = field(default_factory=dict)

    def child(self, scope: int, *, is_here: bool = True) -> _Shell:
        folders = self.now(scope) if is_here else {"~"}
        known = None if folders is None else set(folders)
        return _Shell({}, set(), known, self.is_in_doubt, is_here and self.is_here)

    def now(self, scope: int) -> set[str] | None:
        if self.chain is not None and scope == self.chain_scope:
            return {self.chain}
        return self.folders


class _Judge:
    def __init__(self, state: State, scripts: Scripts | None) -> None:
        self.state = state
        self.scripts = scripts
        self.texts = 0
        self.characters = 0
        self.commands: list[Command] = []
        self.reads: dict[str, None] = {}
        self.writes: dict[str, None] = {}
        self.hosts: dict[str, None] = {}
        self.files: dict[str, str] = {}
        self.touched: set[str] = set()

    def line(self, text: str) -> Line:
        state = self.state
        folders = None if state.folder is None else {state.folder}
        shell = _Shell(dict(state.functions), set(state.aliases), folders, state.is_in_doubt)
        if state.is_interactive and _is_edited(text):
            self._add_unknown(shell, (), "not read")
        else:
            self._text(text, shell, ())
        folder = next(iter(shell.folders)) if shell.folders and len(shell.folders) == 1 else None
        if len(shell.functions) + len(shell.aliases) > MAX_NAMED:
            shell.functions, shell.aliases, shell.is_in_doubt = {}, set(), True
        after = State(
            functions=shell.functions,
            aliases=frozenset(shell.aliases),
            folder=folder,
            is_in_doubt=shell.is_in_doubt,
            is_interactive=state.is_interactive,
        )
        return self._whole(after)

    def _whole(self, after: State) -> Line:
        if not self.commands:
            return Line(operation="", cls="session", confidence="certain", after=after)
        first = next((each for each in self.commands if each.operation), self.commands[0])
        cls = max((each.cls for each in self.commands), key=_RANK.__getitem__)
        resources = _merged(each.resources for each in self.commands)
        contained = dict.fromkeys(
            f"contains {each.operation}" for each in self.commands if each.operation
        )
        contained.pop(f"contains {first.operation}", None)
        risk = _merged([contained, *(each.risk for each in self.commands)])
        if len(resources) > MAX_NAMED or len(risk) > MAX_NAMED:
            cls = "unknown"
        is_certain = cls != "unknown" and all(e.confidence == "certain" for e in self.commands)
        return Line(
            operation=first.operation,
            cls=cls,
            resources=resources[:MAX_NAMED],
            confidence="certain" if is_certain else "uncertain",
            risk=risk[:MAX_NAMED],
            reads=tuple(self.reads)[:MAX_NAMED],
            writes=tuple(self.writes)[:MAX_NAMED],
            hosts=tuple(self.hosts)[:MAX_NAMED],
            commands=tuple(self.commands),
            files=dict(self.files),
            after=after,
        )

    # Texts.

    def _text(self, text: str, shell: _Shell, via: tuple[str, ...]) -> Reading | None:
        """Judge all commands of a text that `shell` runs; return what is in it, if it is read."""
        self.texts += 1
        self.characters += len(text)
        is_foreign = "$'" in text and not _POSIX.isdisjoint(via)
        if (
            self.texts > MAX_TEXTS
            or self.characters > MAX_READ
            or len(via) > MAX_NESTING
            or is_foreign
        ):
            self._add_unknown(shell, via, "not read")
            return None
        try:
            reading = read(text)
        except Unreadable:
            self._add_unknown(shell, via, "not read")
            return None
        if not agrees(text, reading):
            self._add_unknown(shell, via, "not read")
            return None
        outer, shell.own = shell.own, {name: at for name, (_, at) in reading.functions.items()}
        if reading.functions and any(
            word.text in _MOVES for simple in reading.commands for word in simple.words
        ):
            shell.folders = shell.chain = None  # a body runs where it is called
        for simple in sorted(reading.commands, key=lambda each: each.start):
            self._simple(simple, shell, via)
        shell.own = outer
        shell.functions.update((name, body) for name, (body, _) in reading.functions.items())
        for variable in reading.variables:
            if not is_harmless_name(variable):
                self._note(Simple(), "for", changed(variable), shell, via)
        return reading

    def _add_unknown(self, shell: _Shell, via: tuple[str, ...], *shown: str) -> None:
        shell.is_in_doubt = True
        self.commands.append(
            Command(operation="", cls="unknown", confidence="uncertain", via=via, risk=shown)
        )

    # Commands.

    def _simple(self, simple: Simple, shell: _Shell, via: tuple[str, ...]) -> None:
        if shell.chain is not None and simple.scope == shell.chain_scope:
            if simple.joined == "&&" and simple.follows is shell.chained:
                shell.chained = simple
            else:
                shell.chain = None
        for word in simple.assignments:
            name = variable_of(word)
            is_harmless = is_harmless_setting(word) if simple.words else is_harmless_name(name)
            if not is_harmless:
                effect = changed(name)
                self._note(simple, "", replace(effect, is_in_doubt=not simple.words), shell, via)
        given = self._input(simple, shell)
        if simple.words:
            self._run(simple, tuple(simple.words), given, shell, via)
        else:
            is_certain = all(word.text is not None for word in simple.assignments)
            effect = Effect(cls="session", is_certain=is_certain)
            self._note(simple, "", effect, shell, via)

    def _run(
        self,
        simple: Simple,
        words: tuple[Word, ...],
        given: Input,
        shell: _Shell,
        via: tuple[str, ...],
        *,
        knows_functions: bool = True,
    ) -> None:
        """Judge a command of words, and what it runs."""
        first = words[0]
        if len(via) > MAX_NESTING:
            self._add_unknown(shell, via, "not read")
            return
        if not first.text:
            file = None if first.globs or first.text == "" else _paths(first, set())
            effect = Effect(cls="session") if file else unknown("name not literal")
            self._note(simple, "", effect, shell, via, words)
            if file:
                self._script(first, simple.scope, shell, (*via, *file), is_direct=True)
            return
        name = first.text
        function: str | None = None
        is_own = False
        if knows_functions:
            if name in shell.aliases and first.is_bare:
                self._note(simple, name, unknown("in doubt"), shell, via, words)
                return
            is_own = 0 <= shell.own.get(name, -1) <= first.start
            function = None if is_own else shell.functions.get(name)
        program = _program(name)
        if program in WRAPPERS:
            known: Effect | None = WRAPPERS[program](program, words[1:], given)
        else:
            known = effect_of(program, words[1:], given)
        if function is not None or is_own:
            # Its body is judged here or was where it is defined; a program of that name counts too,
            # for `command` and `unset -f` find it.
            effect = known or Effect(cls="session", is_certain=False)
        elif known is None and "/" in name:
            effect = Effect(cls="session", script=first)
        else:
            effect = known or unknown(f"unknown program {program[:64]}")
        if shell.is_in_doubt and effect.cls != "unknown":
            effect = replace(effect.worse("unknown", "in doubt"), is_certain=False)
        if effect.is_paged and self._waits_for_keys(simple):
            effect = effect.worse("unknown", "opens pager")
        self._note(simple, program, effect, shell, via, words)
        inner = (*via, program)
        if function is not None and name not in via:
            self._text(function, shell, inner)
        for argv in effect.argv:
            if argv:
                self._run(simple, argv, given, shell, inner, knows_functions=name == "time")
        for text in effect.texts:
            child = shell.child(simple.scope, is_here=program not in _ELSEWHERE)
            child.folders = None if effect.is_later else child.folders
            self._text(text, child, inner)
        for text in effect.evaluated:
            folders, chain = shell.folders, shell.chain
            if effect.is_later:
                shell.folders = shell.chain = None
            reading = self._text(text, shell, inner)
            if reading is not None and reading.functions:
                shell.is_in_doubt = True
            if effect.is_later:
                shell.folders, shell.chain = folders, chain
        if effect.script is not None:
            self._script(
                effect.script,
                simple.scope,
                shell,
                inner,
                is_direct=known is None,
                is_sourced=effect.is_sourced,
            )

    def _waits_for_keys(self, simple: Simple) -> bool:
        return self.state.is_interactive and not (
            simple.is_piped_on or any(each.operator in _WRITES for each in simple.redirects)
        )

    def _script(
        self,
        script: Word,
        scope: int,
        shell: _Shell,
        via: tuple[str, ...],
        *,
        is_direct: bool = False,
        is_sourced: bool = False,
    ) -> None:
        text = self._content(script, scope, shell)
        if is_sourced and "/" not in script.raw:
            text = None  # it is looked up through PATH first
        if text is None or (is_direct and ("$'" in text or not _IS_SHELL_SCRIPT.match(text))):
            self.commands.append(
                Command(
                    operation="",
                    cls="unknown",
                    confidence="uncertain",
                    via=via,
                    risk=("runs file" if text is None else "runs code",),
                )
            )
            shell.is_in_doubt |= is_sourced
            return
        self.commands.append(
            Command(
                operation="", cls="session", confidence="uncertain", via=via, risk=("runs script",)
            )
        )
        if is_sourced:
            reading = self._text(text, shell, via)
            shell.is_in_doubt |= reading is None or bool(reading.functions)
        else:
            self._text(text, shell.child(scope), via)

    def _content(self, word: Word, scope: int, shell: _Shell) -> str | None:
        """Return the text of a file, where this session gave all of it."""
        paths = _paths(word, shell.now(scope))
        if paths is None or len(paths) != 1 or word.globs or not shell.is_here:
            return None
        (path,) = paths
        if path in self.files:
            return self.files[path]
        if self.scripts is None or any(_covers(each, path) for each in self.touched):
            return None
        return self.scripts(path)

    def _input(self, simple: Simple, shell: _Shell) -> Input:
        """Return what a command reads, as far as the text says."""
        fed = [each for each in simple.redirects if each.feeds_input]
        if fed:
            last = fed[-1]
            text = last.body
            if last.operator == "<" and last.target is not None:
                text = self._content(last.target, simple.scope, shell)
            return Input(text=text, is_certain=last.operator != "<")
        if simple.joined not in ("|", "|&"):
            return Input()
        source = simple.follows
        if source is None or not source.words:
            return Input()
        name = _program(source.words[0].text or "")
        text = self._output(source, name, shell)
        return Input(text=text, source=name, is_certain=name != "cat")

    def _output(self, source: Simple, name: str, shell: _Shell) -> str | None:
        """Return what a command prints, where that is plain to see."""
        texts = [word.text for word in source.words[1:]]
        if any(each.operator in _WRITES for each in source.redirects) or None in texts:
            return None
        literal = [text for text in texts if text is not None]
        if name == "cat" and not literal:
            bodies = [each.body for each in source.redirects if each.feeds_input]
            return bodies[-1] if bodies else None
        if name == "cat" and len(literal) == 1 and not literal[0].startswith("-"):
            return self._content(source.words[1], source.scope, shell)
        if name == "echo" and not any("\\" in text or text.startswith("-") for text in literal):
            return " ".join(literal) + "\n"
        if name == "printf" and len(literal) == 1 and not re.search(r"[\\%]|^-", literal[0]):
            return literal[0]
        return None

    # What is noted of a command.

    def _note(
        self,
        simple: Simple,
        program: str,
        effect: Effect,
        shell: _Shell,
        via: tuple[str, ...],
        words: Sequence[Word] = (),
    ) -> None:
        """Keep what a command does, and let it change what names mean to those behind it."""
        shown = dict.fromkeys(effect.findings)
        rank = _RANK[effect.cls]
        resources: dict[str, None] = {}
        is_certain = effect.is_certain and all(word.text is not None for word in words)
        folders = shell.now(simple.scope)
        is_outer = bool(words) and len(simple.words) == len(words) and words[0] in simple.words
        reads, writes = list(effect.reads), list(effect.writes)
        if is_outer or not simple.words:
            for redirect in simple.redirects:
                rank = max(rank, self._redirect(redirect, reads, writes, shown))
            if simple.is_background:
                shown["stays behind"] = None
        for word in writes:
            paths = _paths(word, folders)
            if paths is None:
                rank = _UNKNOWN
                shown["path not literal"] = None
                resources[word.raw] = None
                self.touched.add("")
                continue
            for path in paths:
                if findings.is_sink(path):
                    continue
                rank = max(rank, _RANK["admin" if findings.is_of_the_system(path) else "write"])
                shown.update(dict.fromkeys(findings.of_written(path)))
                resources[path] = None
                if shell.is_here:
                    self.writes[path] = None
                    if program != "chmod":
                        self.touched.add(path)
                        self.files.pop(path, None)
        for word in reads:
            for path in _paths(word, folders) or {word.raw}:
                if path in ("-", "~/-"):
                    continue
                shown.update(dict.fromkeys(findings.of_read(path)))
                resources[path] = None
                if shell.is_here:
                    self.reads[path] = None
        for host in effect.hosts:
            resources[host] = None
            self.hosts[host] = None
        if words and is_outer:
            self._keep_file(simple, program, shell, via)
        self._change(simple, effect, shell)
        is_certain &= rank != _UNKNOWN and not shell.is_in_doubt
        self.commands.append(
            Command(
                operation=effect.operation or program,
                cls=CLASSES[rank],
                confidence="certain" if is_certain else "uncertain",
                argv=tuple(word.text for word in words),
                via=via,
                resources=tuple(resources),
                risk=tuple(shown),
            )
        )

    def _redirect(
        self, redirect: Redirect, reads: list[Word], writes: list[Word], shown: dict[str, None]
    ) -> int:
        """Note where a command's streams lead; return the rank of what that does at least."""
        target = redirect.target
        if target is None or redirect.operator == "<<<":
            return 0
        if redirect.operator in ("<&", ">&") and re.fullmatch(r"[0-9]+-?|-", target.raw):
            return 0
        if redirect.operator in _WRITES or redirect.operator == ">&":
            writes.append(target)
            if target.text is None or not findings.is_sink(target.text):
                shown["overwrites"] = None
            return 0
        reads.append(target)
        if target.text is None and (target.may_be_option or target.begins.startswith("/dev")):
            shown["opens socket"] = None
            return _UNKNOWN
        host = findings.socket_host(target.text or "")
        if host is None:
            return 0
        self.hosts[host] = None
        return _RANK["write"]

    def _keep_file(self, simple: Simple, program: str, shell: _Shell, via: tuple[str, ...]) -> None:
        """Remember the text of a file that a here-document gives."""
        targets = [each.target for each in simple.redirects if each.operator in (">", ">|")]
        bodies = [each.body for each in simple.redirects if each.feeds_input]
        if program != "cat" or len(simple.words) != 1 or len(simple.redirects) != 2 or via:
            return
        if len(targets) == 1 and len(bodies) == 1 and targets[0] and bodies[0] is not None:
            paths = _paths(targets[0], shell.now(simple.scope))
            is_sure = simple.joined in ("", ";", "\n", "&&") and not simple.is_background
            if paths is not None and len(paths) == 1 and is_sure and not simple.scope:
                self.files[next(iter(paths))] = bodies[0]

    def _change(self, simple: Simple, effect: Effect, shell: _Shell) -> None:
        shell.aliases.update(effect.aliases)
        shell.is_in_doubt |= effect.is_in_doubt
        if effect.moves_to is None:
            return
        folders = shell.now(simple.scope)
        moved = None if effect.moves_to.globs else _paths(effect.moves_to, folders)
        if moved is None or effect.moves_to.text == "-":
            shell.folders = None
            shell.chain = None
            return
        shell.folders = None if shell.folders is None else shell.folders | moved
        is_sure = simple.joined not in ("|", "|&", "||") and not simple.is_piped_on
        if len(moved) == 1 and is_sure and not simple.is_negated:
            (shell.chain,) = moved
            shell.chain_scope, shell.chained = simple.scope, simple
        if shell.folders is not None and len(shell.folders) > MAX_NESTING:
            shell.folders = None


_WRITES: Final = frozenset([">", ">>", ">|", "&>", "&>>", "<>"])
_POSIX: Final = frozenset(["sh", "dash", "ash", "busybox", "watch"])
"""May be shells to which `$'` begins no quotes."""

_ELSEWHERE: Final = frozenset(["ssh", "su", "runuser"])
"""Run a text in another folder, or on another machine."""

_MOVES: Final = frozenset(["cd", "pushd", "popd", "eval", "source", "."])

_STANDARD: Final = re.compile(r"(/usr)?(/local)?/s?bin")
_IS_SHELL_SCRIPT: Final = re.compile(
    r"(?!#!)|#! ?(/usr)?/bin/(env )?(ba|da)?sh( -[eux]+)?[ \t]*(\n|$)"
)
_TILDE: Final = re.compile(r"""(?:~|"?\$(?:HOME|\{HOME\})"?)((?:/[\w./@%+=:,*?-]*)?)"?""")
_HERE: Final = re.compile(r""""?\$(?:PWD|\{PWD\})"?((?:/[\w./@%+=:,*?-]*)?)"?""")
_PATTERN: Final = re.compile(r"[\w./@%+=:,*?\[\]~-]+")
_DOTS: Final = re.compile(r"(^|/)\.[^/]{0,1}[*?\[]")


def _program(name: str) -> str:
    """Return the name of the program that a word in front names."""
    if "/" not in name:
        return name
    folder, base = posixpath.split(posixpath.normpath(name))
    folder = folder.replace("//", "/")
    return base if _STANDARD.fullmatch(folder) else name


def _paths(word: Word, folders: set[str] | None) -> set[str] | None:
    """Return which paths, or patterns of paths, a word may name; None where that is not known."""
    if word.text is not None:
        path = f"./{word.text}" if word.text.startswith("~") else word.text
    elif match := _TILDE.fullmatch(word.raw):
        path = f"~{match.group(1)}"
    elif match := _HERE.fullmatch(word.raw):
        path = f".{match.group(1)}"
    elif word.globs and _PATTERN.fullmatch(word.raw):
        path = word.raw
    else:
        return None
    if not path or (word.text is None and _DOTS.search(path)):
        return None
    if path.startswith("/"):
        return {findings.joined("/", path)}
    if path == "~" or path.startswith("~/"):
        found = {_within(path)}
    elif folders is None:
        return None
    else:
        found = {_within(posixpath.join(each, path)) for each in folders}
    return None if "" in found else found


def _within(path: str) -> str:
    """Return a path without its dots; empty where it leaves the folder of a login by `..`."""
    if not path.startswith("~"):
        return findings.joined("/", path)
    inside = posixpath.normpath(path[2:] or ".")
    if inside == ".." or inside.startswith(("../", "/")):
        return ""
    return "~" if inside == "." else f"~/{inside}"


def _covers(written: str, path: str) -> bool:
    """Whether what was written may be the file at `path`; an empty one may be anything."""
    return path.startswith(written.rstrip("*").rstrip("/")) or "*" in written[:-1]


def _is_edited(text: str) -> bool:
    """Whether an interactive shell may change a line before it reads it.

    By its history (`!`, and `^` in front), and in zsh a `#` begins no comment.
    """
    return bool(re.search(r"!(?![ =]|$)|^\^|(^|[\s;&|(])#", text, re.MULTILINE))


def _merged(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))
