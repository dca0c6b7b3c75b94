"""Programs and builtins that run another command, or change what later words mean.

What they run is handed back as words or as text, and judged like everything else. Of a shell that
reads its commands from somewhere (a pipe, a file, the terminal), only what is known to come from
there is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agentaudit.risk.shell_effects import (
    Effect,
    Input,
    Program,
    anything,
    literal,
    read_options,
    texts_of,
    unknown,
)
from agentaudit.risk.shell_reading import Word
from agentaudit.risk.shell_tools import options

# Programs that run the command in their words.


def _runs(listed: str, cls: str = "session", *findings: str, skips: int = 0) -> Program:
    """Return what runs the words behind its options and `skips` operands of its own."""
    known = replace(options(listed), ends_at_operand=True)

    def effect(name: str, words: Sequence[Word], given: Input) -> Effect:
        read = read_options(known, words)
        own, run = read.operands[:skips], tuple(read.operands[skips:])
        if read.findings or any(word.text is None for word in own):
            return unknown(*read.findings, *findings)
        if not run:
            return Effect(cls=cls, findings=findings) if cls != "session" else unknown(*findings)
        return Effect(cls=cls, findings=findings, argv=(run,), writes=tuple(read.writes))

    return effect


_SUDO: Final = replace(
    options(
        "-EHnSkKbBPv -u: -g: -p: -C: -T: -l --user: --group: --preserve-env"
        " --non-interactive --set-home --stdin --list --validate"
    ),
    ends_at_operand=True,
)


def _sudo(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_SUDO, words)
    run = list(read.operands)
    while run and re.match(r"[A-Za-z_]\w*=", run[0].begins):
        if not is_harmless_setting(run.pop(0)):
            return unknown("takes privilege")
    if read.findings:
        return unknown("takes privilege", *read.findings)
    if not run:
        is_asked = read.has("l", "list", "v", "k", "K", "validate")
        return Effect(cls="admin" if is_asked else "unknown", findings=("takes privilege",))
    return Effect(cls="admin", findings=("takes privilege",), argv=(tuple(run),))


def _su(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(options("-lmp -c: -s: -g: --login --command: --shell:"), words)
    asked = read.value("c", "command")
    if read.findings or asked is None or asked.text is None or read.has("s", "shell"):
        return unknown("takes privilege", *read.findings)
    return Effect(cls="admin", findings=("takes privilege",), texts=(asked.text,))


_ENV: Final = replace(
    options("-i0v -u: -C: --ignore-environment --unset: --null"), ends_at_operand=True
)


def _env(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_ENV, words)
    run = list(read.operands)
    while run and "=" in run[0].begins:
        word = run.pop(0)
        if not is_harmless_setting(word):
            return unknown(f"changes variable {variable_of(word)}")
    if read.findings or (run and read.has("C")):
        return unknown(*read.findings)
    if not run:
        return Effect(cls="read", findings=("shows environment",))
    return Effect(cls="session", argv=(tuple(run),))


_XARGS: Final = replace(
    options(
        "-0rtxpo -n: -P: -I: -L: -d: -s: -a< -E: --null --no-run-if-empty --max-args: --max-procs:"
        " --verbose --max-lines --delimiter: --arg-file<"
    ),
    ends_at_operand=True,
)


def _xargs(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_XARGS, words)
    if read.findings:
        return unknown(*read.findings)
    run = list(read.operands) or [literal("echo")]
    mark = read.value("I")
    if mark is None:
        # What it reads may begin with a dash, but for names that `find` or `ls` of a folder print.
        return Effect(cls="session", argv=((*run, anything()),), reads=tuple(read.reads))
    if not mark.text:
        return unknown("option not literal")
    filled: list[Word] = []
    for word in run:
        if mark.text in (word.text or "") or word.text is None:
            prefix = word.begins.partition(mark.text)[0]
            filled.append(Word(word.raw, -1, None, prefix, False, False))
        else:
            filled.append(word)
    return Effect(cls="session", argv=(tuple(filled),), reads=tuple(read.reads))


def _flock(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(replace(options("-snxeu -w: -E:"), ends_at_operand=True), words)
    run = tuple(read.operands[1:])
    if read.findings or not run or run[0].text == "-c":
        return unknown("runs text")
    return Effect(cls="write", argv=(run,), writes=tuple(read.operands[:1]))


def _joined(name: str, words: Sequence[Word], given: Input) -> Effect:
    """Of what hands its words to a shell, as one text."""
    read = read_options(
        replace(options("-dtbecgx -n: --interval: --differences"), ends_at_operand=True), words
    )
    texts = texts_of(read.operands)
    if read.findings or not texts:
        return unknown("runs text", *read.findings)
    return Effect(cls="session", texts=(" ".join(texts),))


_SSH: Final = replace(options("-46aqTtvxnCk -p: -l: -i< -c: -m: -E> -J:"), ends_at_operand=True)


def _ssh(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_SSH, words)
    texts = texts_of(read.operands)
    if read.findings or not texts or len(texts) < 2:
        forwards = any(re.match(r"-\w*[LRDw]", word.text or "") for word in words)
        return unknown("other host", *(["tunnels"] if forwards else []), *read.findings)
    host, *run = texts
    return Effect(
        cls="write",
        hosts=(host.rpartition("@")[2],),
        findings=("other host", "contacts host"),
        texts=(" ".join(run),),
        is_certain=False,
    )


# Shells.

_SHELL_OPTIONS: Final = replace(
    options("-cexuvlinrsfhmB -o: --login --norc --noprofile --posix --version"),
    ends_at_operand=True,
)


def _shell(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_SHELL_OPTIONS, words)
    run = list(read.operands)
    if run and run[0].text == "-":
        run.pop(0)
    if read.has("version"):
        return Effect(cls="read")
    chosen = [word.text for option, word in read.values if option == "o"]
    if read.findings or not _SET_OPTIONS.issuperset(chosen):
        return unknown(*(read.findings or ["unknown option"]))
    if read.has("c"):
        if not run or run[0].text is None:
            return unknown("runs text")
        return Effect(cls="session", texts=(run[0].text,))
    if run and not read.has("s"):
        if read.has("n") and not run[0].may_be_option:
            return Effect(cls="read", reads=(run[0],))
        return Effect(cls="session", script=run[0])
    return runs_input(given)


_DECODES: Final = frozenset(
    [
        "base64",
        "base32",
        "xxd",
        "openssl",
        "gzip",
        "gunzip",
        "zcat",
        "bzcat",
        "xzcat",
        "rev",
        "tr",
        "uudecode",
    ]
)


def runs_input(given: Input) -> Effect:
    """Return the effect of what runs the commands that it reads."""
    if given.text is not None:
        return Effect(cls="session", texts=(given.text,), is_certain=given.is_certain)
    if given.source in _DECODES:
        return unknown("runs decoded", "runs input")
    if given.source in ("curl", "wget", "nc", "ncat"):
        return unknown("runs download", "runs input")
    return unknown("runs input")


# What the shell itself does.


def _eval(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts is None:
        return replace(unknown("runs text"), is_in_doubt=True)
    return Effect(cls="session", evaluated=(" ".join(texts),))


def _source(name: str, words: Sequence[Word], given: Input) -> Effect:
    if not words or words[0].may_be_option:
        return replace(unknown("option not literal"), is_in_doubt=True)
    return Effect(cls="session", script=words[0], is_sourced=True)


def _trap(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts is None:
        return replace(unknown("stores code"), is_in_doubt=True)
    if not texts or texts[0] in ("-l", "-p"):
        return Effect(cls="session")
    if texts[0] == "--":
        texts = texts[1:]
    if len(texts) < 2 or texts[0] in ("-", ""):
        return Effect(cls="session")
    # It runs between the commands that follow, and so may define anything.
    return Effect(cls="session", evaluated=(texts[0],), findings=("stores code",), is_later=True)


def _exec(name: str, words: Sequence[Word], given: Input) -> Effect:
    if not words:
        return Effect(cls="session")
    if words[0].may_be_option:
        return unknown("option not literal")
    return Effect(cls="session", argv=(tuple(words),))


def _command(name: str, words: Sequence[Word], given: Input) -> Effect:
    if words and words[0].text in ("-v", "-V"):
        return Effect(cls="read")
    run = list(words)
    while run and run[0].text in ("-p", "--"):
        run.pop(0)
    if not run or run[0].may_be_option:
        return unknown("option not literal")
    return Effect(cls="session", argv=(tuple(run),))


def _alias(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts is None:
        return replace(unknown("stores code"), is_in_doubt=True)
    if not texts or texts == ["-p"]:
        return Effect(cls="session")
    names: list[str] = []
    values: list[str] = []
    for text in texts:
        alias, equals, value = text.partition("=")
        if not equals:
            if text.startswith("-"):
                return replace(unknown("stores code"), is_in_doubt=True)
            continue
        # A reserved word, or one behind which the next word is looked up too.
        if not re.fullmatch(r"[\w.+-]+", alias) or alias in _RESERVED or value[-1:].isspace():
            return replace(unknown("stores code"), is_in_doubt=True)
        names.append(alias)
        values.append(value)
    return Effect(
        cls="session",
        aliases=tuple(names),
        texts=tuple(values),
        findings=("stores code",),
        is_later=True,
    )


_RESERVED: Final = frozenset(
    [
        "if",
        "then",
        "else",
        "elif",
        "fi",
        "for",
        "while",
        "until",
        "do",
        "done",
        "case",
        "esac",
        "in",
    ]
) | {"function", "select", "time", "coproc", "repeat", "nocorrect", "noglob", "end"}


def _sets(name: str, words: Sequence[Word], given: Input) -> Effect:
    """`export`, `readonly`, `declare`, `local`: which variables, and who sees them."""
    rest = list(words)
    is_exported = name == "export"
    if rest and rest[0].text in ("-p", "--"):
        rest.pop(0)
    if not rest:
        return Effect(cls="read", findings=("shows environment",))
    for word in rest:
        assigned = re.match(r"[A-Za-z_]\w*(=|$)", word.begins)
        if not assigned or (word.text is None and "=" not in word.begins) or word.globs:
            return replace(unknown("option not literal"), is_in_doubt=True)
        is_harmless = (
            is_harmless_setting(word) if is_exported else is_harmless_name(variable_of(word))
        )
        if not is_harmless:
            return changed(variable_of(word))
    return Effect(cls="session")


def _unset(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts and texts[0] == "-v":
        texts = texts[1:]
    if texts is None or any(not re.fullmatch(r"\w+", text) for text in texts):
        return replace(unknown("option not literal"), is_in_doubt=True)
    bad = [text for text in texts if not is_harmless_name(text)]
    return changed(bad[0]) if bad else Effect(cls="session")


def changed(variable: str) -> Effect:
    """Return the effect of setting a variable that decides what programs run or do."""
    findings = [f"changes variable {variable}"]
    if variable.startswith(("HIST", "SAVEHIST")):
        findings.append("hides history")
    return replace(unknown(*findings), is_in_doubt=True)


_READ: Final = replace(options("-rs -p: -t: -n: -N: -d:"), ends_at_operand=True)


def _read(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_READ, words)
    texts = texts_of(read.operands)
    numbers = [word.text or "" for option, word in read.values if option in ("t", "n", "N")]
    if read.findings or texts is None or not all(re.fullmatch(r"[0-9.]+", n) for n in numbers):
        return replace(unknown(*read.findings), is_in_doubt=True)
    bad = [text for text in texts if not is_harmless_name(text)]
    return changed(bad[0]) if bad else Effect(cls="session")


def _printf(name: str, words: Sequence[Word], given: Input) -> Effect:
    if words and words[0].may_be_option and words[0].text != "--":
        return unknown("option not literal")
    return Effect(cls="session")


_SET_OPTIONS: Final = frozenset(["pipefail", "errexit", "nounset", "xtrace", "verbose", "noglob"])


def _set(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts == []:
        return Effect(cls="read", findings=("shows environment",))
    at = 0
    while texts is not None and at < len(texts):
        text = texts[at]
        if re.fullmatch(r"[-+][eufxv]+", text):
            at += 1
        elif re.fullmatch(r"[-+][eufxv]*o", text) and texts[at + 1 : at + 2]:
            if texts[at + 1] not in _SET_OPTIONS:
                break
            at += 2
        else:
            break
    if texts is None or at < len(texts):
        return replace(unknown("unknown option"), is_in_doubt=True)
    return Effect(cls="session")


_HOME: Final = Word("~", -1, None, "/", False, False)


def _moves(name: str, words: Sequence[Word], given: Input) -> Effect:
    operands = [word for word in words if word.text not in ("-P", "-L", "--")]
    if not operands:
        return Effect(cls="session", moves_to=_HOME if name == "cd" else anything())
    return Effect(cls="session", moves_to=operands[0])


_COMPARES: Final = frozenset(
    [
        "=",
        "==",
        "!=",
        "<",
        ">",
        "-eq",
        "-ne",
        "-lt",
        "-le",
        "-gt",
        "-ge",
        "-nt",
        "-ot",
        "-ef",
        "-a",
        "-o",
    ]
)


def _test(name: str, words: Sequence[Word], given: Input) -> Effect:
    """`test` and `[`: bash's `-v` computes the index of its word, and a command in it runs."""
    texts = [word.text for word in words]
    if name == "[" and texts[-1:] == ["]"]:
        texts.pop()
    before: str | None = ""
    for word, text, after in zip(words, texts, [*texts[1:], ""], strict=False):
        is_operand = before is not None and (before.startswith("-") or before in _COMPARES)
        if text in ("-v", "-R") or word.splits or word.globs:
            return unknown("option not literal")
        if word.may_be_option and text is None and not is_operand and after not in ("", *_COMPARES):
            return unknown("option not literal")
        before = text
    return Effect(cls="session")


def _condition(name: str, words: Sequence[Word], given: Input) -> Effect:
    """`[[ … ]]`, where numbers are computed: a command in the index of a name runs."""
    texts = [word.text for word in words]
    computes = {"-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v", "-R"}
    if texts[-1:] != ["]]"] or not computes.isdisjoint(texts):
        return unknown("runs text")
    return Effect(cls="session")


def _number(name: str, words: Sequence[Word], given: Input) -> Effect:
    """What takes a number: zsh computes it."""
    for word in words:
        if not re.fullmatch(r"[-+=,\w]+", word.text if word.text is not None else word.begins):
            return unknown("runs text")
        if word.splits:
            return unknown("runs text")
    return Effect(cls="session")


# Which variables.

_HARMLESS_EXPORTS: Final = re.compile(
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|COLUMNS|LINES|NO_COLOR|CLICOLOR|FORCE_COLOR|DEBIAN_FRONTEND|TERM"
    r"|AWS_(DEFAULT_)?REGION|PG(HOST|PORT|USER|DATABASE|PASSWORD|APPNAME|CONNECT_TIMEOUT)"
)
_PAGERS: Final = frozenset(["PAGER", "GIT_PAGER", "SYSTEMD_PAGER", "MANPAGER", "AWS_PAGER"])

_SPECIAL: Final = re.compile(
    r"""
    # Of shells: of zsh, csh and fish too, whose names are in small letters.
    path|fpath|cdpath|mailpath|manpath|module_path|fignore|prompt|psvar|watch|argv|status|options
    |commands|functions|aliases|galiases|saliases|dis_\w*|nameddirs|userdirs|parameters|histchars
    |auto_resume|precmd\w*|preexec\w*|chpwd\w*|periodic\w*|zshexit\w*|zshaddhistory\w*|home|shell|term
    |cwd|user|pipestatus|savehist|filec|zle_\w*|fish_\w*|\w*_proxy|_\w*
    |PATH|IFS|ENV|BASH\w*|HOME|PS[0-9]|R?PROMPT\w*|CDPATH|FPATH|ZDOTDIR|ZSH\w*|HIST\w*|SAVEHIST|SHELL\w*
    |PWD|OLDPWD|OPTIND|OPTARG|REPLY|UID|EUID|GID|EGID|USERNAME|TIMEFMT|TIMEFORMAT|NULLCMD|READNULLCMD
    |GLOBIGNORE|EXECIGNORE|FIGNORE|FUNC\w*|DIRSTACK|GROUPS|HOSTFILE|INPUTRC|MAIL\w*|RANDOM|SECONDS
    |COMP\w*|READLINE\w*|POSTEDIT|WATCH\w*|FCEDIT|SUDO\w*|_JAVA\w*
    # Of programs.
    |LD_\w*|DYLD_\w*|GLIBC\w*|MALLOC\w*|GCONV\w*|LOC\w*|NLSPATH|RES_\w*|HOSTALIASES|TERMINFO\w*|TERMCAP
    |PYTHON\w*|PERL\w*|RUBY\w*|GEM\w*|BUNDLE\w*|NODE\w*|NPM\w*|JAVA\w*|JDK\w*|CLASSPATH|LUA\w*|PHP\w*|R_\w*
    |GIT\w*|SSH\w*|\w*PAGER|\w*EDITOR|VISUAL|BROWSER|LESS\w*|MORE|MAN\w*|TMP\w*|TEMP\w*|\w*OPTIONS|\w*OPTS
    |\w*FLAGS|\w*_PROXY|XDG\w*|KUBE\w*|DOCKER\w*|AWS_\w*|GOOGLE\w*|AZURE\w*|CLOUDSDK\w*|PG\w*|PSQL\w*
    |MYSQL\w*|MAKE\w*|CC|CXX|TAR\w*|RSYNC\w*|RSH|GZIP|BZIP\w*|XZ\w*|ZSTD\w*|GREP\w*|RIPGREP\w*|POSIX\w*
    |CURL\w*|SSL\w*|OPENSSL\w*|WGETRC|FIND\w*|ACK\w*|JQ\w*|SYSTEMD\w*|DEBUG\w*|PKG\w*|CARGO\w*|RUST\w*|GO\w*
    """,
    re.VERBOSE,
)


def is_harmless_name(variable: str) -> bool:
    """Whether a shell's own variable of that name changes what no program does.

    One that the server has in its environment under a name of its own is seen by programs; what
    these do with it is not known.
    """
    return not _SPECIAL.fullmatch(variable)


def variable_of(word: Word) -> str:
    """Return the name in a word of the form NAME=value."""
    return word.begins.partition("=")[0]


def is_harmless_setting(word: Word) -> bool:
    """Whether no program does something else for a variable that it is handed, `NAME=value`."""
    name, equals, value = word.begins.partition("=")
    if name in _PAGERS and equals:
        return word.text is not None and value in ("", "cat")
    return _HARMLESS_EXPORTS.fullmatch(name) is not None


WRAPPERS: Final[dict[str, Program]] = {
    "sudo": _sudo,
    "doas": _sudo,
    "su": _su,
    "runuser": _su,
    "pkexec": _runs("--user:", "admin", "takes privilege"),
    "chroot": _runs("", "admin", "takes privilege", skips=1),
    "env": _env,
    "nohup": _runs("", "write", "stays behind"),
    "setsid": _runs("-fcw --fork --wait", "session", "stays behind"),
    "nice": _runs("-n: -# --adjustment:"),
    "ionice": _runs("-t -c: -n:"),
    "chrt": _runs("-abfior", "write", skips=1),
    "taskset": _runs("-ac", "session", skips=1),
    "timeout": _runs("-v -s: -k: --signal: --kill-after: --preserve-status --foreground", skips=1),
    "stdbuf": _runs("-i: -o: -e: --input: --output: --error:"),
    "time": _runs("-p -v"),
    "unbuffer": _runs(""),
    "strace": _runs("-fcqtrvyTiC -e: -s: -p:", "write"),
    "busybox": _runs(""),
    "toybox": _runs(""),
    "flock": _flock,
    "xargs": _xargs,
    "watch": _joined,
    "ssh": _ssh,
    **dict.fromkeys(("sh", "bash", "dash", "ash", "rbash"), _shell),
    "eval": _eval,
    "source": _source,
    ".": _source,
    "trap": _trap,
    "exec": _exec,
    "command": _command,
    "builtin": _command,
    "alias": _alias,
    "unalias": lambda name, words, given: Effect(cls="session"),
    **dict.fromkeys(("export", "readonly", "declare", "typeset", "local"), _sets),
    "unset": _unset,
    "read": _read,
    "printf": _printf,
    "set": _set,
    "cd": _moves,
    "pushd": _moves,
    "popd": _moves,
    "[[": _condition,
    "test": _test,
    "[": _test,
    **dict.fromkeys(("exit", "return", "break", "continue", "shift", "ulimit", "umask"), _number),
    **dict.fromkeys(
        (
            "shopt",
            "enable",
            "hash",
            "bind",
            "complete",
            "compgen",
            "compopt",
            "let",
            "mapfile",
            "fc",
            "readarray",
            "getopts",
            "setopt",
            "unsetopt",
            "autoload",
            "zmodload",
            "emulate",
            "functions",
            "nocorrect",
            "noglob",
            "fg",
            "-",
            "coproc",
            "integer",
            "float",
            "zstyle",
            "abbr",
            "setenv",
            "stty",
        ),
        lambda name, words, given: replace(unknown("unknown option"), is_in_doubt=True),
    ),
}
"""By name."""
