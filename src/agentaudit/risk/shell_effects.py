"""What a program would do with its words: the shape of that, and how options are read.

The surprising decision is that a program's options are a list of those that are known to be
harmless. GNU programs take any beginning of a long option's name, and new releases bring new
options; so one that is not listed makes the program unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agentaudit.risk.shell_reading import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a command reads as its standard input: `text`, where that is known.

    `source` is the name of the program whose output it is. It is not certain where it comes from a
    file.
    """

    text: str | None = None
    source: str = ""
    is_certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a command does by itself, and what else it runs.

    `operation` is empty where it is the program's name. `argv` are commands that it runs, as words,
    and `texts` are texts that a shell of its own runs; `evaluated` are those that the same shell
    does; both do so at another time, if `is_later`. `script` is the path of a shell script that it
    runs, and `is_sourced` says that it does so in the same shell. `moves_to` is where that goes on,
    `aliases` are names that it takes for something else, and `is_in_doubt` says that any name may
    be one now. `is_paged` says that a pager shows its output, if that is to a terminal.
    """

    cls: str
    operation: str = ""
    reads: tuple[Word, ...] = ()
    writes: tuple[Word, ...] = ()
    hosts: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    argv: tuple[tuple[Word, ...], ...] = ()
    texts: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()
    script: Word | None = None
    is_sourced: bool = False
    moves_to: Word | None = None
    aliases: tuple[str, ...] = ()
    is_in_doubt: bool = False
    is_later: bool = False
    is_certain: bool = True
    is_paged: bool = False

    def worse(self, cls: str, *findings: str) -> Effect:
        """Return the same, of another class, and with further findings."""
        return replace(self, cls=cls, findings=self.findings + findings)


Program = Callable[[str, Sequence[Word], Input], Effect]
"""What a program of a name does with the words behind it, and what it reads."""


def unknown(*findings: str, operation: str = "") -> Effect:
    """Return the effect of what may do anything."""
    return Effect(cls="unknown", findings=findings, operation=operation, is_certain=False)


def literal(text: str) -> Word:
    """Return a word of ours."""
    return Word(text, -1, text, text, False, False)


def anything(begins: str = "") -> Word:
    """Return a word of which only the beginning is known; without one it may be many."""
    return Word(f"{begins}*", -1, None, begins, not begins, False, globs=True)


def below(folder: Word) -> Word:
    """Return a word for what is in a folder."""
    if folder.text is not None:
        return anything(f"{folder.text.rstrip('/')}/")
    begins = folder.begins
    return Word(f"{folder.raw.rstrip('/')}/*", -1, None, begins, folder.splits, False, globs=True)


def texts_of(words: Iterable[Word]) -> list[str] | None:
    """Return the words, or None where one is not literal."""
    texts = [word.text for word in words]
    return None if None in texts else [text for text in texts if text is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which options a program has, and what they take.

    `kinds` is by the option's name without dashes: empty for a flag, `:` for one with a value, `?`
    for one whose value may only follow `=`, `<` and `>` for a path that is read or written.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    takes_any: bool = False
    takes_numbers: bool = False
    takes_clusters: bool = True
    ends_at_operand: bool = False


@dataclass(slots=True)
class Given:
    """What a command's words are to its program."""

    operands: list[Word] = field(default_factory=list)
    values: list[tuple[str, Word]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)
    reads: list[Word] = field(default_factory=list)
    writes: list[Word] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether one of the options is given."""
        return not self.flags.isdisjoint(names)

    def value(self, *names: str) -> Word | None:
        """Return the last value of one of the options."""
        return next((word for name, word in reversed(self.values) if name in names), None)


_NUMBER: Final = re.compile(r"[-+]?[0-9]+[bkmcKMG]?")


def read_options(options: Options, words: Sequence[Word]) -> Given:
    """Return what the words are; `findings` says what makes them unknown."""
    given = Given()
    at = 0

    def take(name: str, kind: str, value: Word | None) -> None:
        nonlocal at
        given.flags.add(name)
        if kind in ("", "?"):
            return
        if value is None:
            if at >= len(words):
                given.findings.append("unknown option")
                return
            value = words[at]
            at += 1
            if (value.splits or value.globs) and not options.takes_any:
                given.findings.append("option not literal")
        given.values.append((name, value))
        if kind == "<":
            given.reads.append(value)
        elif kind == ">":
            given.writes.append(value)

    while at < len(words):
        word = words[at]
        at += 1
        text = word.text
        if text is None:
            if not (word.may_be_option and not options.takes_any):
                given.operands.append(word)
            elif match := _ATTACHED.match(word.begins):
                # `--name=$x` is one option of whatever value, if it does not become more words.
                kind = options.kinds.get(match.group(1))
                if word.splits or kind not in (":", "?", "<"):
                    given.findings.append("option not literal")
                else:
                    given.values.append((match.group(1), word))
            else:
                given.findings.append("option not literal")
                given.operands.append(word)
        elif text == "--":
            given.operands += words[at:]
            break
        elif text.startswith("--") and len(text) > 2:
            name, equals, attached = text[2:].partition("=")
            kind = _kind(options, name)
            if kind is None:
                given.findings.append("unknown option")
                given.flags.add(name)
            else:
                take(name, kind, literal(attached) if equals else None)
                if kind == "?" and attached.startswith(("/", "~", "..")):
                    given.reads.append(literal(attached))
        elif text.startswith("-") and len(text) > 1:
            if options.takes_numbers and _NUMBER.fullmatch(text):
                continue
            if not options.takes_clusters:
                kind = options.kinds.get(text[1:])
                if kind is None:
                    given.findings.append("unknown option")
                else:
                    take(text[1:], kind, None)
                continue
            for index, letter in enumerate(text[1:], 2):
                kind = options.kinds.get(letter, "" if options.takes_any else None)
                if kind is None:
                    given.findings.append("unknown option")
                    given.flags.add(letter)
                    continue
                if kind in ("", "?"):
                    given.flags.add(letter)
                    if kind == "?":
                        break  # what follows is its value
                    continue
                take(letter, kind, literal(text[index:]) if text[index:] else None)
                break
        else:
            given.operands.append(word)
            if options.ends_at_operand:
                given.operands += words[at:]
                break
    return given


_ATTACHED: Final = re.compile(r"--([a-z0-9-]+)=")


def _kind(options: Options, name: str) -> str | None:
    if name in options.kinds:
        return options.kinds[name]
    if not options.takes_any:
        return None
    # What begins like one with a kind of its own may be it.
    like = [each for each in options.kinds if each.startswith(name) and len(each) > 1]
    return options.kinds[like[0]] if like else "?"
