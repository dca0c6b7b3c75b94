"""Files that were seen on their way to a host, so that a command that runs one says what is in it.

A text like `bash deploy.sh` is `unknown`: what the file says is not in it. Where the gateway has
recorded the file as it was written, what it does is added to what is known of the command, and from
where the gateway knows it. Nothing is ever taken away: others may have changed the file since, so
its class stays `unknown`, and a rule about that is asked as before.

What is kept is in memory alone, as it passed, by who wrote it and as whom at which host. Little is
kept, and what is forgotten is `unknown`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from agentaudit.masking.masks import Masks
from agentaudit.model import Command
from agentaudit.paths import normal_path
from agentaudit.risk import shell
from agentaudit.risk.shell_reading import MAX_CHARACTERS

MAX_SCRIPT_BYTES: Final = MAX_CHARACTERS
"""No shell's text that is longer is read."""

MAX_FILES: Final = 64
MAX_OWNER_BYTES: Final = 512 * 1024
"""Of one owner; the oldest make room."""

MAX_OWNERS: Final = 64

MAX_COMING: Final = 16
"""Files that one session writes at once and that are kept while it does."""

_MAX_PATH: Final = 4096
_MAX_LINKED: Final = 4
"""Scripts of which one command is told what is in them, beside those that it runs for sure."""

_FROM_INPUT: Final = re.compile(r"\s*cat\s*>\|?[^<>|]+")
"""May write its standard input to a file, and do no more than chmod it."""


_IS_OF_SHELL: Final = re.compile(r"#!.*sh\b")


@dataclass(frozen=True, slots=True)
class Script:
    """A file's text, and the command of the archive that wrote it."""

    text: str
    session_id: UUID
    command_no: int
    sha256: str

    @property
    def finding(self) -> str:
        """What `risk` says of a command that names it."""
        digest = f"sha256:{self.sha256} " if self.sha256 else ""
        return f"script {digest}of {self.session_id}/{self.command_no}"


@dataclass(slots=True)
class _Owner:
    scripts: OrderedDict[str, Script] = field(default_factory=OrderedDict)
    size: int = 0

    def put(self, path: str, script: Script) -> None:
        self.drop(path)
        self.scripts[path] = script
        self.size += len(script.text)
        while len(self.scripts) > MAX_FILES or self.size > MAX_OWNER_BYTES:
            self.drop(next(iter(self.scripts)))

    def drop(self, path: str) -> None:
        old = self.scripts.pop(path, None)
        self.size -= 0 if old is None else len(old.text)


class Scripts:
    """What a gateway remembers, of all who write."""

    def __init__(self) -> None:
        self._owners: OrderedDict[Hashable, _Owner] = OrderedDict()

    def of(self, owner: Hashable, session_id: UUID, masks: Masks) -> SessionScripts:
        """Return what a session of `owner` writes and runs."""
        return SessionScripts(self, owner, session_id, masks)

    def find(self, owner: Hashable, path: str) -> Script | None:
        """Return what is known of a file."""
        known = self._owners.get(owner)
        return None if known is None else known.scripts.get(normal_path(path))

    def keep(self, owner: Hashable, paths: Iterable[str], script: Script) -> None:
        """Remember a file, by each of its names."""
        known = self._owners.setdefault(owner, _Owner())
        self._owners.move_to_end(owner)
        for path in paths:
            known.put(normal_path(path), script)
        while len(self._owners) > MAX_OWNERS:
            self._owners.popitem(last=False)


class SessionScripts:
    """What one session writes and runs."""

    def __init__(self, scripts: Scripts, owner: Hashable, session_id: UUID, masks: Masks) -> None:
        self._scripts = scripts
        self._owner = owner
        self._session_id = session_id
        self._masks = masks
        self._coming = 0
        self._hidden = set[str]()

    def link(self, command: Command, text: str, state: shell.State = shell.EXEC) -> None:
        """Add to what an unknown command does, of a shell in `state`, what the files do it names.

        Before it is recorded, `hide` must have hidden what masks hide in their texts.
        """
        self._hidden = set()
        if command.cls != "unknown":
            return
        used: dict[str, Script] = {}

        def read(path: str) -> str | None:
            script = self._scripts.find(self._owner, path)
            if script is None:
                return None
            used[path] = script
            return script.text

        line = shell.classify(text, state, scripts=read)
        lines = [line] if used else []
        for path in _named(line, state.folder or "~"):
            if len(lines) > _MAX_LINKED:
                break
            if path not in used and (given := read(path)) is not None:
                # Whatever it is that is handed a script, it may be a shell.
                inner = shell.classify(given)
                if inner.cls != "unknown" or _IS_OF_SHELL.match(given):
                    lines.append(inner)
        for each in lines:
            first = [f"contains {each.operation}"] if each is not line and each.operation else []
            command.risk = _merged(command.risk, first, each.risk)
            command.resources = _merged(command.resources, each.resources)
        command.risk = _merged(command.risk, (script.finding for script in used.values()))
        self._hidden = {each for one in used.values() for each in self._hidden_in(one.text)}

    def hide(self, command: Command) -> None:
        """Take out of what was found in the files of the last `link` what masks hide in them."""
        for hidden in self._hidden:
            command.risk = tuple(each.replace(hidden, "***") for each in command.risk)
            command.resources = tuple(each.replace(hidden, "***") for each in command.resources)
        self._hidden = set()

    def _hidden_in(self, text: str) -> Iterator[str]:
        raw = text.encode()
        for each in self._masks.scanner.find(raw):
            yield raw[each.start : each.stop].decode("utf-8", "replace")

    def given(self, command: Command, text: str) -> Given | None:
        """Return what collects the files that a command writes whole, if it writes any."""
        if command.cls == "unknown" or "cat" not in text or ">" not in text:
            return None
        line = shell.classify(text)
        texts = dict(line.files)
        path = _from_input(line) if _FROM_INPUT.fullmatch(text) else ""
        if not path and not texts:
            return None
        return Given(self, command.command_no, texts, path, self.begin() if path else None)

    def begin(self) -> bytearray | None:
        """Return what a file's content is to be collected in, by `add`; `keep` ends it.

        None where so many come at once that this one is not kept.
        """
        if self._coming >= MAX_COMING:
            return None
        self._coming += 1
        return bytearray()

    def keep(
        self,
        paths: Iterable[str],
        content: bytearray | None,
        command_no: int,
        *,
        is_whole: bool,
        sha256: str = "",
    ) -> None:
        """Remember a file, if it is whole and may be a script; `sha256` is what its row says."""
        if content is None:
            return
        self._coming -= 1
        if not is_whole or not content or len(content) > MAX_SCRIPT_BYTES or b"\0" in content:
            return
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return
        self.remember(paths, text, command_no, sha256)

    def remember(self, paths: Iterable[str], text: str, command_no: int, sha256: str = "") -> None:
        """Remember a file's text."""
        if not sha256 and not any(self._hidden_in(text)):  # else it would help to guess that
            sha256 = hashlib.sha256(text.encode()).hexdigest()
        script = Script(text, self._session_id, command_no, sha256)
        self._scripts.keep(self._owner, paths, script)


def add(content: bytearray | None, data: bytes) -> None:
    """Add to what comes of a file, up to where it is too long to be kept."""
    if content is not None and len(content) <= MAX_SCRIPT_BYTES:
        content += data[: MAX_SCRIPT_BYTES + 1 - len(content)]


@dataclass(slots=True)
class Given:
    """Files that an exec request writes: `texts` are in it, and one may be its standard input."""

    scripts: SessionScripts
    command_no: int
    texts: dict[str, str]
    path: str
    content: bytearray | None
    has_ended: bool = False

    def add(self, data: bytes) -> None:
        """Take what the command reads."""
        add(self.content, data)

    def end(self, status: int | None) -> None:
        """Remember what was written, once the command has exited without an error."""
        if status == 0:
            for path, text in self.texts.items():
                self.scripts.remember([path], text, self.command_no)
        is_whole = status == 0 and self.has_ended
        self.scripts.keep([self.path], self.content, self.command_no, is_whole=is_whole)
        self.content, self.texts = None, {}


def _merged(*names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def _from_input(line: shell.Line) -> str:
    """Return which file a text writes its standard input to, and does no more than chmod."""
    if not line.commands or line.commands[0].argv != ("cat",):
        return ""
    first, *rest = line.commands
    is_alone = len(first.resources) == 1 and all(each.operation == "chmod" for each in rest)
    return first.resources[0] if is_alone else ""


def _named(line: shell.Line, folder: str) -> Iterator[str]:
    """Yield what any word of a command may be as the name of a file."""
    words = dict.fromkeys(word for each in line.commands for word in each.argv if word)
    for word in list(words)[:MAX_FILES]:
        if len(word) < _MAX_PATH:
            yield word if word.startswith("/") else posixpath.join(folder, word)
