"""Programs whose words are a language of their own, and what they come down to.

A program is here where a row of a table cannot say it: it has a script in a word (`sed`, `awk`), an
expression (`find`), or its class hangs on where it goes (`curl`). As there, what is not known to be
harmless makes it unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from agentaudit.risk import sql
from agentaudit.risk.shell_commands import PROGRAMS as COMMANDS
from agentaudit.risk.shell_effects import (
    Effect,
    Input,
    Options,
    Program,
    anything,
    below,
    literal,
    read_options,
    texts_of,
    unknown,
)
from agentaudit.risk.shell_findings import is_sink
from agentaudit.risk.shell_reading import Word
from agentaudit.risk.shell_tools import TOOLS, Tool, options
from agentaudit.risk.tree import words as split_words

# By the table.


def by_table(name: str, tool: Tool, words: Sequence[Word]) -> Effect:
    """Return the effect of a program of the table."""
    given = read_options(tool.options, words)
    operands = given.operands
    findings = (*tool.findings, *given.findings)
    cls = "unknown" if given.findings else tool.cls
    reads, writes = list(given.reads), list(given.writes)
    hosts: list[str] = []
    match tool.operands:
        case "paths":
            reads += operands
            if any("://" in word.begins for word in operands):
                cls, findings = "unknown", (*findings, "contacts host")
        case "pattern":
            reads += operands[1:] if not given.has("e", "f") else operands
        case "writes":
            writes += operands
        case "mode":
            is_mode = bool(operands[1:]) and _MODE.fullmatch(operands[0].text or "") is not None
            writes += operands[is_mode:]
        case "first":
            writes += operands[:1]
            reads += operands[1:]
        case "here":
            writes.append(anything("./"))
        case "copy":
            last = 0 if writes else 1
            if name == "install" and given.has("d"):
                last = len(operands)
            reads += operands[: len(operands) - last]
            writes += operands[len(operands) - last :]
        case "in-out":
            reads += operands[:1]
            writes += operands[1:]
            if any(word.splits or word.globs for word in operands):
                cls = "unknown"  # one word may become an input and an output
        case "hosts":
            hosts += [word.text or word.raw for word in operands]
            if cls == "read" and texts_of(words) is None:
                cls, findings = "write", (*findings, "sends data")  # in the name that it asks for
        case "format":
            if any(not (word.text or word.begins).startswith("+") for word in operands):
                cls = "unknown"
        case "none" if operands:
            cls = "unknown"
    if writes and cls in ("read", "session"):
        cls = "write"
        findings = (*findings, "overwrites")
    if name == "rm" and (
        given.has("r", "R") or any("recursive".startswith(f) for f in given.flags)
    ):
        findings = ("deletes recursively", *findings)
    if name == "chmod" and operands and _SET_ID.search(operands[0].text or "+s"):
        findings = ("set user id", *findings)
    return Effect(
        cls=cls,
        reads=tuple(reads),
        writes=tuple(writes),
        hosts=tuple(hosts),
        findings=findings,
        is_paged=name == "journalctl" and not given.has("no-pager"),
    )


_MODE: Final = re.compile(
    r"[0-7]+|[ugoa]*([-+=][rwxXstugo]*)+(,[ugoa]*([-+=][rwxXst]*)+)*|[\w.-]*:?[\w.-]*"
)
_SET_ID: Final = re.compile(r"[+=][rwxXt]*s|^0*[2-7][0-7]{3}$")


# Files.


_FIND_PLAIN: Final = frozenset(
    split_words(
        """
        -print -print0 -prune -depth -d -mount -xdev -empty -readable -writable -executable -true
        -false -nouser -nogroup -daystart -follow -ls -quit -o -or -a -and -not ! ( ) , -noleaf
        """
    )
)
_FIND_VALUE: Final = frozenset(
    split_words(
        """
        -name -iname -path -ipath -wholename -iwholename -regex -iregex -regextype -type -xtype
        -size -mtime -mmin -atime -amin -ctime -cmin -newer -anewer -cnewer -perm -user -uid -group
        -gid -links -inum -samefile -lname -ilname -maxdepth -mindepth -printf -fstype -used
        -newermt -newerct
        """
    )
)


def _find(name: str, words: Sequence[Word], given: Input) -> Effect:
    at = 0
    while at < len(words) and words[at].text in ("-H", "-L", "-P"):
        at += 1
    starts: list[Word] = []
    while at < len(words) and not _begins_expression(words[at]):
        starts.append(words[at])
        at += 1
    starts = starts or [literal(".")]
    writes: list[Word] = []
    findings: list[str] = []
    argv: list[tuple[Word, ...]] = []
    deletes = False
    cls = "read"
    while at < len(words):
        test = words[at].text
        at += 1
        if test in _FIND_PLAIN:
            continue
        if test in _FIND_VALUE:
            if at >= len(words) or words[at].splits or words[at].globs:
                return unknown("option not literal")
            at += 1
        elif test == "-delete":
            deletes = True
        elif test in ("-fprint", "-fprint0", "-fls", "-fprintf") and at < len(words):
            cls = "write"
            findings.append("overwrites")
            writes.append(words[at])
            at += 2 if test == "-fprintf" else 1
        elif test in ("-exec", "-execdir", "-ok", "-okdir"):
            begin = at
            while at < len(words) and words[at].text != ";":
                if words[at].text == "+" and words[at - 1].text == "{}":
                    break
                at += 1
            run = words[begin:at]
            if at >= len(words) or any(word.splits for word in run[:1]):
                return unknown("runs text")
            at += 1
            found = [literal(".")] if test.endswith("dir") else starts
            argv.append(tuple(each for word in run for each in _filled(word, found)))
        else:
            return unknown("option not literal" if test is None else "unknown option")
    if deletes:
        cls = "write"
        findings += ["deletes", "deletes recursively"]
        writes += [below(start) for start in starts]
    return Effect(
        cls=cls,
        reads=tuple(starts),
        writes=tuple(writes),
        findings=tuple(findings),
        argv=tuple(argv),
    )


def _begins_expression(word: Word) -> bool:
    return word.may_be_option or word.text in ("(", "!", ",", ")")


def _filled(word: Word, starts: Sequence[Word]) -> list[Word]:
    """Return what a word of `-exec` becomes for what is found below `starts`."""
    if word.text is None or "{}" not in word.text:
        return [word]
    if word.text == "{}":
        return [below(start) for start in starts] if len(starts) < 8 else [anything()]
    prefix = word.text.partition("{}")[0]
    return [Word(word.raw, -1, None, prefix, not prefix, False)]


_SED_OPTIONS: Final = options(
    "-nErsuz -e: -f< -l: -i? --quiet --silent --expression: --regexp-extended --in-place"
)
_SED_ADDRESS: Final = r"(?:[0-9]+(?:~[0-9]+)?|\$|/(?:\\[^\n]|[^/\\\n])*/I?)"
_SED_COMMAND: Final = re.compile(
    rf"""
    [\s;}}{{]*
    (?P<at> {_SED_ADDRESS} (?: \s*,\s* (?: {_SED_ADDRESS} | [+~][0-9]+ ) )? \s*!?\s* )?
    (?: [pdDPhHgGxnN=l]
      | [qQ][0-9]*
      | [sy] (?P<d>[^\\\n\w\s;}}{{]) (?P<from> (?: \\[^\n] | (?!(?P=d))[^\\\n] )* ) (?P=d)
             (?: \\[^\n] | (?!(?P=d))[^\\\n] )* (?P=d) [gpiIM0-9]*
      | \{{
    )? [ \t]* (?= [;\n}}] | $ | (?<=\{{) )
    """,
    re.VERBOSE,
)
# To some seds a delimiter within brackets ends nothing.
_OPEN_BRACKET: Final = re.compile(r"\[\^?\]|\[[^\]]*$|\[[^\]]*/")


def is_plain_sed(script: str) -> bool:
    """Whether a script of sed only prints, deletes and changes lines on their way through."""
    if "\\\n" in script or len(script) > 4096:
        return False
    at = 0
    while at < len(script):
        match = _SED_COMMAND.match(script, at)
        if not match or match.end() == at:
            return False
        if any(_OPEN_BRACKET.search(match.group(part) or "") for part in ("at", "from")):
            return False
        at = match.end()
        if at < len(script) and script[at] in ";\n}":
            at += 1
    return True


def _sed(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_SED_OPTIONS, words)
    scripts = [word for option, word in read.values if option in ("e", "expression")]
    operands = read.operands
    if not scripts:
        scripts, operands = operands[:1], operands[1:]
    texts = texts_of(scripts)
    findings = tuple(read.findings)
    if read.has("f") or texts is None or not all(is_plain_sed(text) for text in texts):
        return Effect(cls="unknown", reads=tuple(operands), findings=(*findings, "runs code"))
    is_in_place = read.has("i", "in-place")
    cls = "unknown" if findings else "write" if is_in_place else "read"
    return Effect(
        cls=cls,
        reads=() if is_in_place else tuple(operands),
        writes=tuple(operands) if is_in_place else (),
        findings=(*findings, "overwrites") if is_in_place else findings,
    )


_AWK_OPTIONS: Final = options("-F: -v: --version")


def _awk(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(
        Options(kinds=_AWK_OPTIONS.kinds, ends_at_operand=True),
        words,
    )
    program = read.operands[0].text if read.operands else None
    if read.findings or program is None or not is_plain_awk(program):
        return unknown("runs code", *read.findings)
    return Effect(cls="read", reads=tuple(read.operands[1:]))


def is_plain_awk(program: str) -> bool:
    """Whether a program of awk writes and runs nothing.

    A command or a file stands behind `|` or `>` after `print`, or before `getline`; that is looked
    for without regard to strings, so that none can hide it.
    """
    if re.search(r"system|getline|@|\\\n", program):
        return False
    printed = program.find("print")
    return printed < 0 or not re.search(r"[|>]", program[printed:])


_TAR_OPTIONS: Final = options(
    "-cxtrvfzjJapkhOmnuS -f: -C: -b: --list --extract --get --create --file: --directory:"
    " --gzip --bzip2 --xz --zstd --verbose --exclude: --strip-components: --no-same-owner"
    " --no-same-permissions --wildcards --dereference --to-stdout --auto-compress"
    " --keep-old-files --exclude-vcs --one-file-system --numeric-owner"
)


def _tar(name: str, words: Sequence[Word], given: Input) -> Effect:
    words = list(words)
    if words and (first := words[0].text) and not first.startswith("-"):
        # Without a dash, what the letters take follows in their order.
        values = words[1:]
        spread: list[Word] = []
        for letter in first:
            spread.append(literal(f"-{letter}"))
            if _TAR_OPTIONS.kinds.get(letter) == ":" and values:
                spread.append(values.pop(0))
        words = spread + values
    read = read_options(_TAR_OPTIONS, words)
    if read.findings:
        return unknown(*read.findings)
    archive = read.value("f", "file")
    # A colon in its name, but for one behind a slash, makes it one of another machine.
    if (
        archive is not None
        and not (archive.text or archive.begins).startswith(("/", "./"))
        and (archive.text is None or ":" in archive.text)
    ):
        return unknown("other host" if archive.text else "path not literal")
    if any(word.globs and word.may_be_option for word in read.operands):
        return unknown("option not literal")
    folder = read.value("C", "directory") or literal(".")
    is_file = archive is not None and archive.text != "-"
    archives = (archive,) if archive is not None and is_file else ()
    if read.has("t", "list"):
        return Effect(cls="read", operation="tar list", reads=archives)
    if read.has("x", "extract", "get"):
        if read.has("O", "to-stdout"):
            return Effect(cls="read", operation="tar extract", reads=archives)
        return Effect(
            cls="write",
            operation="tar extract",
            reads=archives,
            writes=(below(folder),),
            findings=("overwrites",),
        )
    if read.has("c", "create", "r", "u"):
        # What is named behind a folder is in that one: which, hangs on their order.
        folders = [below(word) for option, word in read.values if option in ("C", "directory")]
        return Effect(
            cls="write" if is_file or archive is None else "read",
            operation="tar create",
            reads=(*read.operands, *folders),
            writes=archives,
            findings=("overwrites",) if is_file else (),
        )
    return unknown("unknown option")


def _dd(name: str, words: Sequence[Word], given: Input) -> Effect:
    reads: list[Word] = []
    writes: list[Word] = []
    for word in words:
        key, _, value = (word.text or "").partition("=")
        if word.text is None:
            prefix, equals, begins = word.begins.partition("=")
            if not equals or word.splits or prefix not in ("if", "of"):
                return unknown("option not literal", "overwrites")
            value_word = Word(word.raw.partition("=")[2], -1, None, begins, False, False)
            (reads if prefix == "if" else writes).append(value_word)
        elif key == "if":
            reads.append(literal(value))
        elif key == "of":
            writes.append(literal(value))
    return Effect(
        cls="write" if writes else "read",
        reads=tuple(reads),
        writes=tuple(writes),
        findings=("overwrites",) if writes else (),
    )


_RSYNC_OPTIONS: Final = options(
    "-avzrltpgoDnuhPiWxcqHAXS --archive --verbose --compress --dry-run --progress --stats"
    " --delete --exclude: --include: --partial --human-readable --info: --checksum --bwlimit:"
    " --delete-after --delete-excluded --size-only --inplace --recursive"
)


def _copies_far(name: str, words: Sequence[Word], given: Input) -> Effect:
    allowed = _RSYNC_OPTIONS if name == "rsync" else options("-rpqC346v -P: -i< -l: -c:")
    read = read_options(allowed, words)
    if read.findings or any(word.text is None for word in read.operands):
        return unknown("sends data", *read.findings)
    far = [w for w in read.operands if ":" in (w.text or "").partition("/")[0]]
    near = [word for word in read.operands if word not in far]
    sends = bool(far) and bool(read.operands) and read.operands[-1] in far
    hosts = tuple(_host_of(word.text or "") for word in far)
    if any(not host or host.startswith("-") for host in hosts):
        return unknown("sends data")
    return Effect(
        cls="write",
        reads=tuple(near if sends else near[:-1]),
        writes=() if sends else tuple(near[-1:]),
        hosts=hosts,
        findings=(
            *(("contacts host",) if far else ()),
            *(("sends data",) if sends else ("overwrites",)),
            *(("deletes",) if any("delete" in flag for flag in read.flags) else ()),
        ),
    )


def _host_of(place: str) -> str:
    return place.removeprefix("rsync://").partition(":")[0].rpartition("@")[2]


# The network.

_URL: Final = re.compile(
    r"(?:(?P<scheme>(?i:https?|file))://)?(?P<host>[A-Za-z0-9.-]+|\[[0-9a-f:]+\]|(?=/))(?::[0-9]+)?(?:[/?#].*)?"
)
_FILE_URL: Final = re.compile(r"(?i:file):(?://[^/]*)?(?P<path>/[^?#]*)(?:[?#].*)?", re.DOTALL)
_FILE_SENT: Final = re.compile(r"(?:^|=)[@<]([^;,]+)")
_SENDS_FILES: Final = frozenset(["d", "data", "data-binary", "json", "F", "form", "H", "header"])
_LOOPBACK: Final = frozenset(["localhost", "127.0.0.1", "[::1]"])

_CURL_OPTIONS: Final = options(
    "-sSfLkviIgG46N# -H: -A: -e: -m: -u: -w: -X: -b: -o> -O -D> -c> -d: -F: -T< --data: --data-raw:"
    " --data-binary: --data-urlencode: --json: --form: --upload-file< --request: --header: --url:"
    " --max-time: --connect-timeout: --retry: --retry-delay: --compressed --silent --show-error"
    " --fail --location --insecure --verbose --include --head --user: --user-agent: --output>"
    " --write-out: --remote-name --no-progress-meter --http1.1 --http2 --fail-with-body --cacert<"
)
_SENDS: Final = ("d", "F", "T", "data", "data-raw", "data-binary", "data-urlencode", "json", "form")

_WGET_OPTIONS: Final = options(
    "-qvSc46 -O> -t: -T: -P> -U: --quiet --spider --no-check-certificate --tries: --timeout:"
    " --header: --output-document> --server-response --no-verbose --max-redirect:"
    " --directory-prefix> --post-data: --post-file< --body-data: --body-file< --method:"
)


def _fetches(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(_CURL_OPTIONS if name == "curl" else _WGET_OPTIONS, words)
    urls = [*read.operands, *(word for option, word in read.values if option == "url")]
    hosts: list[str] = []
    files = [literal(path) for option, word in read.values for path in _sent(option, word)]
    is_near = True
    for url in urls:
        # A `?` that is not quoted is a pattern; what it matches is at the same host.
        is_pattern = url.text is None and url.globs and not url.splits
        address = url.begins if is_pattern else url.text or ""
        file = _FILE_URL.fullmatch(address) if name == "curl" else None
        if file:
            path = unquote(file["path"])
            files.append(anything(path) if is_pattern else literal(path))
            continue
        match = _URL.fullmatch(address)
        if is_pattern and match and "/" not in url.begins[8:]:
            match = None
        is_near &= match is not None and match["host"] in _LOOPBACK
        hosts.append(match["host"] if match else url.raw)
    method = read.value("X", "request", "method")
    sends = read.has(*_SENDS, "upload-file", "post-data", "post-file", "body-data", "body-file")
    changes = sends or (method is not None and method.text not in ("GET", "HEAD"))
    format_of = read.value("w", "write-out")
    writes = [w for w in read.writes if w.text != "-" and not is_sink(w.text or "")]
    findings = list(read.findings)
    if format_of is not None and (
        format_of.text is None or re.search("%output|^@", format_of.text)
    ):
        findings.append("unknown option")
    is_literal = all(
        word.text is not None or (word in urls and not word.splits and word.globs) for word in words
    )
    if name == "wget" and not read.has("O", "output-document", "spider"):
        writes.append(read.value("P", "directory-prefix") or anything("./"))
    elif name == "curl" and read.has("O", "remote-name"):
        writes.append(anything("./"))
    saves = bool(writes)
    if findings or not urls:
        cls = "unknown"
    elif changes or saves or not is_near or not is_literal:
        cls = "write"
    else:
        cls = "read"
    return Effect(
        cls=cls,
        reads=(*read.reads, *files),
        writes=tuple(writes),
        hosts=tuple(hosts),
        findings=(
            *findings,
            *(() if is_near else ("contacts host",)),
            *(("sends data",) if sends or (not is_literal and not is_near) else ()),
            *(("overwrites",) if saves else ()),
        ),
    )


def _sent(option: str, word: Word) -> list[str]:
    """Return the files that an option's value says are to be sent."""
    text = word.text or ""
    if option == "data-urlencode":
        return [text.partition("@")[2]] if "@" in text else []
    return _FILE_SENT.findall(text) if option in _SENDS_FILES else []


_IP_SHOWS: Final = frozenset(["show", "list", "ls", "get"])  # `s` is `set`
_IP_FLAGS: Final = ("-4", "-6", "-br", "-brief", "-s", "-o", "-c", "-j", "-d", "-p")


def _ip(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if texts is None:
        return unknown("option not literal")
    while texts and texts[0] in _IP_FLAGS:
        texts.pop(0)
    if texts and texts[0].startswith("-"):
        return unknown("unknown option")
    objects = ("addr", "address", "a", "link", "l", "route", "r", "neigh", "rule", "maddr")
    if texts and texts[0] in objects and (len(texts) == 1 or texts[1] in _IP_SHOWS):
        return Effect(cls="read", operation="ip show")
    return Effect(cls="admin", findings=("changes network",)) if texts else Effect(cls="read")


# What is asked of something else.

_PSQL_OPTIONS: Final = options(
    "-AtxqnwX1bHe -c: -d: -h: -p: -U: -P: -F: -R: -l --command: --dbname: --host: --port:"
    " --username: --no-psqlrc --tuples-only --no-align --expanded --csv --pset: --field-separator:"
    " --list --single-transaction --quiet --no-password"
)


def _psql(name: str, words: Sequence[Word], given: Input) -> Effect:
    """Ask what the statements do; what is psql's own begins with a backslash or a colon."""
    read = read_options(_PSQL_OPTIONS, words)
    if read.findings:
        return unknown(*read.findings)
    asked = [word.text for option, word in read.values if option in ("c", "command")]
    if any(word.text is None for word in read.operands) or any(
        (word.text or "").startswith(("\\", "|")) for _, word in read.values
    ):
        return unknown("runs text")
    host = read.value("h", "host")
    if read.has("l", "list") and not asked:
        return Effect(cls="read", operation="psql")
    if not asked:
        text = given.text
        if text is None or "\\" in text or ":" in text.replace("::", ""):
            return unknown("runs input")
        asked = [text]
    statements = [sql.classify(text) if text is not None else sql.UNKNOWN for text in asked]
    cls = max((each.cls for each in statements), key=sql.CLASSES.index)
    return Effect(
        cls="read" if cls == "session" else cls,
        findings=tuple(
            dict.fromkeys(
                each
                for statement in statements
                for each in (
                    *((f"contains {statement.operation}",) if statement.operation else ()),
                    *statement.risk,
                )
            )
        ),
        hosts=() if host is None else (host.text or host.raw,),
        is_certain=False,
        is_paged=True,
    )


_OPENSSL_ASKS: Final = Options(
    kinds={"in": "<"}
    | dict.fromkeys(("inform", "checkend", "ext"), ":")
    | dict.fromkeys(
        split_words("text noout enddate startdate dates subject issuer fingerprint"), ""
    )
    | dict.fromkeys(split_words("serial sha256 modulus purpose"), ""),
    takes_clusters=False,
)


def _openssl(name: str, words: Sequence[Word], given: Input) -> Effect:
    command = words[0].text if words else None
    if command in ("version", "ciphers"):
        return Effect(cls="read", operation=f"openssl {command}")
    if command in ("x509", "req", "crl"):
        read = read_options(_OPENSSL_ASKS, words[1:])
        if not read.findings and not read.operands:
            return Effect(cls="read", operation=f"openssl {command}", reads=tuple(read.reads))
    return unknown("unknown option", operation=f"openssl {command or ''}".strip())


def _crontab(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(options("-l -u:"), words)
    if read.has("l") and not read.findings and not read.operands:
        return Effect(cls="read", operation="crontab list")
    return Effect(cls="admin", findings=("schedules", "startup file"))


def _top(name: str, words: Sequence[Word], given: Input) -> Effect:
    read = read_options(options("-bcHiSs1 -n: -d: -p: -u: -U: -o: -w:"), words)
    if read.findings or read.operands or not read.has("b"):
        return unknown("ends processes", *read.findings)
    return Effect(cls="read")


def _history(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    if not words or (texts is not None and all(text.isdigit() for text in texts)):
        return Effect(cls="read")
    return Effect(cls="write", findings=("hides history",), is_certain=False)


def _asks_version(name: str, words: Sequence[Word], given: Input) -> Effect:
    if texts_of(words) in (["--version"], ["-V"], ["-v"], ["-version"]) and (
        name not in ("perl", "ruby") or words[0].text != "-v"
    ):
        return Effect(cls="read")
    return unknown("runs code")


def _service_program(name: str, words: Sequence[Word], given: Input) -> Effect:
    """A server's own program, asked about its version or its settings."""
    if texts_of(words) in (["-t"], ["-T"], ["-v"], ["-V"], ["configtest"], ["-S"]):
        return Effect(cls="read")
    return Effect(cls="admin", findings=("manages services",))


PROGRAMS: Final[dict[str, Program]] = {
    **COMMANDS,
    "find": _find,
    "sed": _sed,
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _awk),
    **dict.fromkeys(("tar", "gtar", "bsdtar"), _tar),
    "dd": _dd,
    "rsync": _copies_far,
    "scp": _copies_far,
    "curl": _fetches,
    "wget": _fetches,
    "ip": _ip,
    "psql": _psql,
    "openssl": _openssl,
    "crontab": _crontab,
    "top": _top,
    "history": _history,
    **dict.fromkeys(
        ("python", "python2", "python3", "node", "nodejs", "ruby", "php", "java", "deno"),
        _asks_version,
    ),
    **dict.fromkeys(("nginx", "apachectl", "apache2ctl", "httpd", "haproxy"), _service_program),
}
"""By name; what is in neither table may do anything."""


def effect_of(name: str, words: Sequence[Word], given: Input) -> Effect | None:
    """Return what a program does with its words; None where it is not known."""
    if name in PROGRAMS:
        return PROGRAMS[name](name, words, given)
    tool = TOOLS.get(name)
    return None if tool is None else by_table(name, tool, words)
