"""SFTP, version 3: both directions of one subsystem, packet by packet, and the commands they are.

Each request that names something is a command (`sftp.open`, `sftp.remove` …) and needs a decision
before it goes on; what is read and written through a handle is one command more of that handle,
`sftp.read` or `sftp.write`, from its first request to its close. Answers are found by their number,
so a request that is refused is answered at once.

Each step says where in its packet texts and contents of files stand (`Packet`, in `Step.about`):
who masks them, and hashes what is kept, need not read the packet again.

Nothing is buffered but a packet that is not whole yet, and that is limited: OpenSSH sends at most
256 KiB.

Source: draft-ietf-secsh-filexfer-02; OpenSSH, PROTOCOL, section 4
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Final

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import MAX_EVENT_BYTES, Command, Event, Flag, Kind, Refusal, Side, Step

MAX_PACKET_BYTES: Final = MAX_EVENT_BYTES - 4
"""So that a packet is one event. Of what OpenSSH reads and writes at once, 1 KiB is left over."""

MAX_HANDLES: Final = 1024
MAX_PENDING: Final = 4096
MAX_PATH_BYTES: Final = 4096

VERSION_SPOKEN: Final = 3
INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
READLINK, SYMLINK = 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

_ANSWERS: Final = frozenset([STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY])

_FXF_READ: Final = 0x01
_FXF_APPEND: Final = 0x04
_END_OF_FILE: Final = 1
_PERMISSION_DENIED: Final = 3
_STATUS_WORDS: Final = {
    1: "end of file",
    2: "no such file",
    3: "permission denied",
    4: "failure",
    5: "bad message",
    6: "no connection",
    7: "connection lost",
    8: "operation unsupported",
}

_NAMES: Final = {
    LSTAT: ("sftp.lstat", "read", 1),
    SETSTAT: ("sftp.setstat", "write", 1),
    OPENDIR: ("sftp.opendir", "read", 1),
    REMOVE: ("sftp.remove", "write", 1),
    MKDIR: ("sftp.mkdir", "write", 1),
    RMDIR: ("sftp.rmdir", "write", 1),
    REALPATH: ("sftp.realpath", "session", 1),
    STAT: ("sftp.stat", "read", 1),
    RENAME: ("sftp.rename", "write", 2),
    READLINK: ("sftp.readlink", "read", 1),
    SYMLINK: ("sftp.symlink", "write", 2),
}
"""Requests by paths: the operation, its class, and how many paths they have."""

_EXTENSIONS: Final = {
    b"posix-rename@openssh.com": ("sftp.rename", "write", 2),
    b"hardlink@openssh.com": ("sftp.hardlink", "write", 2),
    b"statvfs@openssh.com": ("sftp.statvfs", "read", 1),
    b"lsetstat@openssh.com": ("sftp.setstat", "write", 1),
    b"expand-path@openssh.com": ("sftp.realpath", "session", 1),
}
_HARMLESS: Final = frozenset(
    [b"limits@openssh.com", b"users-groups-by-id@openssh.com", b"home-directory"]
)
_HARMLESS_OF_OPEN: Final = frozenset([b"fstatvfs@openssh.com", b"fsync@openssh.com"])
"""Of the server, or of something that is open: no command of their own."""

_NOT_OPEN: Final = "this handle is not open"

_VOCABULARY: Final = re.compile(rb"[a-z-]{1,32}@openssh\.com")
"""Names that look like addresses, and are none."""
_COPY_DATA: Final = b"copy-data"

Span = tuple[int, int]
"""Where in a packet something begins and ends."""


@dataclass(slots=True, eq=False)
class Passing:
    """Bytes of one file in one direction, through one handle.

    `is_whole` as long as they came from the beginning on, one after the other, and all of them were
    taken; `opened` is the command that opened the file. `refused` is why no more of them may pass,
    which is for the owner to say.
    """

    command: Command
    opened: Command
    is_whole: bool = True
    next_offset: int = 0
    size: int = 0
    is_over: bool = False
    error_code: str = ""
    refused: str = ""

    def take(self, offset: int, size: int) -> bool:
        """Note what passes; return whether it follows on what did before."""
        follows = offset == self.next_offset
        self.is_whole = self.is_whole and follows
        self.next_offset = offset + size
        self.size += size
        return follows


@dataclass(slots=True)
class Packet:
    """What stands where in a packet: strings, the content of a file, and what nobody knows.

    `rest` is where the latter begins, at the latest at the packet's end. Of content, `offset` is
    its place in the file; what it `follows` on is what passed through the same handle before it.
    `refused` is why a request must not go on, whatever rules say.
    """

    texts: tuple[Span, ...]
    rest: int
    passing: Passing | None = None
    content: Span | None = None
    offset: int = 0
    follows: bool = False
    refused: str = ""


@dataclass(slots=True)
class _Handle:
    """What an open file or folder is, and what passes through it."""

    opened: Command
    is_appending: bool = False
    is_closing: bool = False
    reading: Passing | None = None
    writing: Passing | None = None


@dataclass(slots=True)
class _Pending:
    """A request that is owed an answer."""

    kind: int
    command: Command | None = None
    handle: bytes = b""
    passing: Passing | None = None
    offset: int = 0
    is_appending: bool = False
    waits: bool = False


class Sftp:
    """One subsystem's conversation; `number` gives the next command its number.

    `owner` is the command that the subsystem itself is: packets of no other belong to it.
    """

    def __init__(self, owner: int, number: Callable[[], int]) -> None:
        self._owner = owner
        self._number = number
        self._buffers = {Side.CLIENT: bytearray(), Side.TARGET: bytearray()}
        self._handles: dict[bytes, _Handle] = {}
        self._pending: dict[int, _Pending] = {}
        self._has_begun = False
        self._is_agreed = False
        self._home = ""
        self._not_open = False

    def names(self, path: str) -> tuple[str, ...]:
        """Return a path from the root on by its other name in `~` too, where it is there."""
        home = self._home.rstrip("/")
        if home and path.startswith(f"{home}/"):
            return path, f"~{path.removeprefix(home)}"
        return (path,)

    def receive(self, side: Side, data: bytes) -> Generator[Step]:
        """Take `data`, and yield the steps that it completes, a packet each.

        What comes behind the last step that was taken waits: it is looked at when this is called
        again, with nothing if need be.

        Raises:
            ClientProtocolError, TargetProtocolError: it is not SFTP; `left` has what is not.
        """
        self._buffers[side] += data
        return self._steps(side)

    def left(self, side: Side) -> bytes:
        """Return, once, what was received and is in no step."""
        buffer = self._buffers[side]
        left = bytes(buffer)
        buffer.clear()
        return left

    def _steps(self, side: Side) -> Generator[Step]:
        error, take = (
            (ClientProtocolError, self._request)
            if side is Side.CLIENT
            else (TargetProtocolError, self._answer)
        )
        buffer = self._buffers[side]
        at = 0
        try:
            while len(buffer) - at >= 4:
                (size,) = struct.unpack_from(">I", buffer, at)
                if not 0 < size <= MAX_PACKET_BYTES:
                    raise error(
                        f"sftp: a packet of {size} bytes, at most {MAX_PACKET_BYTES} expected"
                    )
                if len(buffer) - at - 4 < size:
                    break
                frame = bytes(buffer[at : at + 4 + size])
                try:
                    step = take(frame)
                except (struct.error, IndexError):
                    raise error(f"sftp: packet {frame[4]} is cut short") from None
                at += 4 + size
                yield step
        finally:
            del buffer[:at]

    def wait(self, step: Step, waits: bool) -> None:
        """Note whether a request waits for people: no target answers what it was not sent."""
        (number,) = struct.unpack_from(">I", step.frame, 5)
        self._pending[number].waits = waits

    def refuse(self, step: Step, refusal: Refusal) -> Step:
        """Return the answer to a request that does not go on."""
        (number,) = struct.unpack_from(">I", step.frame, 5)
        pending = self._pending.pop(number, None)
        ends = () if pending is None or pending.command is None else (pending.command,)
        for command in ends:
            command.status = "denied"
            command.error_code = str(_PERMISSION_DENIED)
            command.error_text = refusal.message
        body = struct.pack(">BII", STATUS, number, _PERMISSION_DENIED)
        frame = _string(body + _string(refusal.message.encode()) + _string(b"en"))
        owner = step.events[0].command_no
        event = self._event(Side.TARGET, owner, refusal.message, frame)
        event.flags |= Flag.SYNTHETIC
        return Step(side=Side.TARGET, frame=frame, events=(event,), ends=ends, synthetic=True)

    # --- from the client

    def _request(self, frame: bytes) -> Step:
        kind = frame[4]
        reader = _Reader(frame, 5)
        if kind == INIT:
            if self._has_begun:
                raise ClientProtocolError("sftp: it has begun already")
            reader.uint32()
            self._has_begun = True
            return self._step(Side.CLIENT, reader, self._owner, "init")
        if not self._is_agreed:
            raise ClientProtocolError(f"sftp: packet {kind} before a version is agreed on")
        number = reader.uint32()
        if number in self._pending:
            raise ClientProtocolError(f"sftp: request {number} has not been answered yet")
        if len(self._pending) >= MAX_PENDING:
            raise ClientProtocolError(f"sftp: {MAX_PENDING} requests have not been answered yet")
        pending = _Pending(kind)
        self._not_open = False
        if kind in (READ, WRITE):
            step = self._data(reader, pending)
        elif kind in (CLOSE, FSTAT, READDIR):
            pending.handle = reader.string()
            handle = self._handle(pending.handle)
            if handle is not None and kind == CLOSE:
                handle.is_closing = True
            step = self._step(Side.CLIENT, reader, self._owner, "close" if kind == CLOSE else "")
        else:
            command = pending.command = self._command(kind, reader, pending)
            owner = self._owner if command is None else command.command_no
            step = self._step(Side.CLIENT, reader, owner, command.text if command else "")
            step.starts = () if command is None else (command,)
        if self._not_open:
            step.about[0].refused = _NOT_OPEN
        self._pending[number] = pending
        return step

    def _command(self, kind: int, reader: _Reader, pending: _Pending) -> Command | None:
        name, cls, count = _NAMES.get(kind, (f"sftp.{kind}", "unknown", 0))
        note = ""
        paths: tuple[str, ...] | None = None
        if kind == OPEN:
            paths = (reader.path(),)
            flags = reader.uint32()
            pending.is_appending = flags & _FXF_APPEND != 0
            name, cls = "sftp.open", "read" if flags == _FXF_READ else "write"
            note = " (read)" if flags == _FXF_READ else f" (flags {flags:#x})"
        elif kind == FSETSTAT:
            name, cls, paths = "sftp.setstat", "write", self._of(reader.string())
        elif kind == EXTENDED:
            extension = reader.extension()
            if extension in _HARMLESS:
                return None
            if extension in _HARMLESS_OF_OPEN:
                self._handle(reader.string())
                return None
            if extension == _COPY_DATA:
                name, cls, paths = "sftp.copy-data", "write", self._copied(reader)
            else:
                unknown = f"sftp.{_shown(extension[:64])}", "unknown", 0
                name, cls, count = _EXTENSIONS.get(extension, unknown)
        if paths is None:
            paths = tuple(reader.path() for _ in range(count))
        command = Command(
            command_no=self._number(),
            text=f"{name.removeprefix('sftp.')} {' '.join(paths)}{note}".rstrip(),
            operation=name,
        )
        command.cls = cls
        command.confidence = "certain" if cls != "unknown" else "uncertain"
        command.paths = paths
        if name != "sftp.realpath" or paths not in ((".",), ("",)):
            # Where one is, a client must know to begin with.
            named = [each for path in paths for each in self._resources(path, kind)]
            if kind == SYMLINK:
                # What a link says is meant from its folder; servers differ in which path is which.
                one, other = paths
                named += self._resources(posixpath.join(posixpath.dirname(other), one), kind)
                named += self._resources(posixpath.join(posixpath.dirname(one), other), kind)
            command.resources = tuple(dict.fromkeys(named))
        return command

    def _resources(self, path: str, kind: int) -> Iterator[str]:
        """Yield a path from the root on, or from where the login begins (`~`), or both."""
        if path.startswith("/") or (kind == EXTENDED and path.startswith("~")):
            yield path
            return
        inner = "" if path in (".", "") else f"/{path}"
        yield f"~{inner}"
        if self._home:
            yield f"{self._home.rstrip('/')}{inner}" or "/"
        elif ".." in path.split("/"):
            yield "/*"  # anything at all

    def _handle(self, name: bytes) -> _Handle | None:
        """Return what a request is about; where that is nothing, the request must not go on.

        A client may guess the name that the target will give, or has given anew: what it wrote
        there would be held to no rule, or to those of another file.
        """
        known = self._handles.get(name)
        if known is None or known.is_closing:
            self._not_open = True
            return None
        return known

    def _of(self, handle: bytes) -> tuple[str, ...]:
        known = self._handle(handle)
        return () if known is None else known.opened.paths

    def _copied(self, reader: _Reader) -> tuple[str, ...]:
        source = reader.string()
        reader.uint64()
        reader.uint64()
        target = reader.string()
        reader.uint64()
        return *self._of(source), *self._of(target)

    def _data(self, reader: _Reader, pending: _Pending) -> Step:
        """Note what is read, or written, through a handle."""
        pending.handle = reader.string()
        pending.offset = reader.uint64()
        is_write = pending.kind == WRITE
        handle = self._handle(pending.handle)
        starts: tuple[Command, ...] = ()
        passing = None
        if handle is not None:
            passing = handle.writing if is_write else handle.reading
            if passing is None:
                passing = self._passing(handle, is_write)
                starts = (passing.command,)
        pending.passing = passing
        content = None
        if is_write:
            content = reader.content()
        else:
            reader.uint32()
            reader.end()
        owner = self._owner if passing is None else passing.command.command_no
        step = self._step(Side.CLIENT, reader, owner, starts[0].text if starts else "")
        step.starts = starts
        self._note_content(step, pending, content)
        return step

    def _passing(self, handle: _Handle, is_write: bool) -> Passing:
        name = "write" if is_write else "read"
        opened = handle.opened
        paths = opened.paths
        command = Command(
            command_no=self._number(),
            text=f"{name} {' '.join(paths)}".rstrip(),
            operation=f"sftp.{name}",
        )
        command.cls, command.confidence = name, "certain"
        command.resources, command.paths = opened.resources, paths
        passing = Passing(command, opened, is_whole=not (is_write and handle.is_appending))
        if is_write:
            handle.writing = passing
        else:
            handle.reading = passing
        return passing

    def _note_content(self, step: Step, pending: _Pending, content: Span | None) -> None:
        packet = step.about[0]
        packet.passing = pending.passing
        if content is None:
            return
        packet.content, packet.offset = content, pending.offset
        if pending.passing is not None and not pending.passing.is_over:
            size = content[1] - content[0]
            packet.follows = pending.passing.take(pending.offset, size)

    # --- from the target

    def _answer(self, frame: bytes) -> Step:
        kind = frame[4]
        reader = _Reader(frame, 5)
        if kind == VERSION:
            return self._version(reader)
        number = reader.uint32()
        pending = self._pending.get(number)
        if pending is None or pending.waits:
            raise TargetProtocolError(f"sftp: an answer to request {number}, which is none")
        if kind not in _ANSWERS:
            raise TargetProtocolError(f"sftp: packet {kind}, which answers nothing")
        content = None
        text = ""
        ends: list[Command] = []
        command, passing = pending.command, pending.passing
        if command is not None:
            command.status = "ok"
        if kind == STATUS:
            text = self._status(reader, pending, ends)
        elif kind == HANDLE and pending.kind in (OPEN, OPENDIR):
            self._open(reader.string(), pending)
        elif kind == DATA and pending.kind == READ:
            content = reader.content()
        elif kind == NAME:
            self._named(reader, pending)
        del self._pending[number]
        if command is not None:
            ends.append(command)
            owner = command.command_no
        else:
            owner = self._owner if passing is None else passing.command.command_no
        step = self._step(Side.TARGET, reader, owner, text)
        step.ends = tuple(ends)
        self._note_content(step, pending, content)
        return step

    def _version(self, reader: _Reader) -> Step:
        if not self._has_begun or self._is_agreed:
            raise TargetProtocolError("sftp: a version that nobody has asked for")
        version = reader.uint32()
        if version != VERSION_SPOKEN:
            raise TargetProtocolError(
                f"sftp: the target speaks version {version}, {VERSION_SPOKEN} expected"
            )
        while reader.is_in_strings():
            reader.extension()
        self._is_agreed = True
        return self._step(Side.TARGET, reader, self._owner, "version")

    def _status(self, reader: _Reader, pending: _Pending, ends: list[Command]) -> str:
        code = reader.uint32()
        text = "" if code == 0 else _STATUS_WORDS.get(code, f"status {code}")
        for _ in range(2):  # a message and its language, which older servers leave out
            if reader.is_in_strings():
                reader.string()
        command, passing = pending.command, pending.passing
        if command is not None:
            command.status = "ok" if code == 0 else "error"
            command.error_code = None if code == 0 else str(code)
            command.error_text = text or None
        is_end = code == _END_OF_FILE and pending.kind == READ
        if passing is not None and code != 0 and not is_end:
            passing.is_whole = False
            passing.error_code = passing.error_code or str(code)
        if pending.kind == CLOSE:
            handle = self._handles.pop(pending.handle, None)
            if handle is not None:
                ends += self._closed(handle, code)
        return text

    def _open(self, name: bytes, pending: _Pending) -> None:
        if name in self._handles:
            raise TargetProtocolError("sftp: a handle that is in use already")
        if len(self._handles) >= MAX_HANDLES:
            raise TargetProtocolError(f"sftp: more than {MAX_HANDLES} handles are open")
        assert pending.command is not None
        self._handles[name] = _Handle(pending.command, pending.is_appending)

    def _named(self, reader: _Reader, pending: _Pending) -> None:
        """Read names, as far as they are as they should be: nothing but a mask needs them."""
        first = b""
        for number in range(reader.uint32()):
            if not reader.is_in_strings():
                break
            name = reader.string()
            first = first if number else name
            if not reader.is_in_strings():
                break
            reader.string()
            if not reader.skip_attributes():
                break
        command = pending.command
        is_home = command is not None and command.paths in ((".",), ("",))
        if pending.kind == REALPATH and is_home and first.startswith(b"/"):
            self._home = self._home or _shown(first[:MAX_PATH_BYTES])

    def _closed(self, handle: _Handle, code: int) -> Iterator[Command]:
        for passing in (handle.reading, handle.writing):
            if passing is None or passing.is_over:
                continue
            passing.is_over = True
            command = passing.command
            error = passing.error_code or (str(code) if code else "")
            command.status = "error" if error else "ok"
            if error:
                command.error_code = error
                command.error_text = _STATUS_WORDS.get(int(error), f"status {error}")
            yield command

    # ---

    def _step(self, side: Side, reader: _Reader, command_no: int, text: str) -> Step:
        frame = reader.frame
        return Step(
            side=side,
            frame=frame,
            events=(self._event(side, command_no, text, frame),),
            about=(Packet(tuple(reader.texts), reader.at),),
        )

    def _event(self, side: Side, command_no: int, text: str, frame: bytes) -> Event:
        return Event(
            kind=Kind.REQUEST if side is Side.CLIENT else Kind.RESPONSE,
            side=side,
            command_no=command_no,
            text=text or None,
            payload=frame,
            orig_len=len(frame),
        )


def content_start(data: bytes) -> int | None:
    """Return where the content of a file would begin, in a packet that need not be whole."""
    kind = data[4] if len(data) > 4 else 0
    at = 13
    if kind == WRITE:
        at += int.from_bytes(data[9:13]) + 12
    return at if kind in (WRITE, DATA) and at <= len(data) else None


class _Reader:
    """Reads the fields of a packet in their order, and knows where its `texts` were."""

    __slots__ = ("at", "frame", "texts")

    def __init__(self, frame: bytes, at: int) -> None:
        self.frame = frame
        self.at = at
        self.texts: list[Span] = []

    def uint32(self) -> int:
        (value,) = struct.unpack_from(">I", self.frame, self.at)
        self.at += 4
        return int(value)

    def uint64(self) -> int:
        (value,) = struct.unpack_from(">Q", self.frame, self.at)
        self.at += 8
        return int(value)

    def string(self) -> bytes:
        start, end = self._string()
        self.texts.append((start, end))
        return self.frame[start:end]

    def extension(self) -> bytes:
        """Return the name of an extension, which is no text where it is as OpenSSH's are."""
        start, end = self._string()
        if _VOCABULARY.fullmatch(self.frame, start, end) is None:
            self.texts.append((start, end))
        return self.frame[start:end]

    def path(self) -> str:
        raw = self.string()
        if len(raw) > MAX_PATH_BYTES or b"\0" in raw:
            # Decided about by one text, and understood by the target as another one.
            raise ClientProtocolError(
                f"sftp: a path with a zero byte, or of {len(raw)} bytes, "
                f"at most {MAX_PATH_BYTES} expected"
            )
        return _shown(raw)

    def content(self) -> Span:
        """Return where the last string of a packet is."""
        span = self._string()
        self.end()
        return span

    def end(self) -> None:
        if self.at != len(self.frame):
            raise IndexError

    def is_in_strings(self) -> bool:
        """Say whether a whole string comes next."""
        left = len(self.frame) - self.at - 4
        return left >= 0 and struct.unpack_from(">I", self.frame, self.at)[0] <= left

    def skip_attributes(self) -> bool:
        """Go past the attributes of a file; return whether they were as they should be."""
        if len(self.frame) - self.at < 4:
            return False
        flags = self.uint32()
        sizes = ((0x1, 8), (0x2, 8), (0x4, 4), (0x8, 8))
        size = sum(each for flag, each in sizes if flags & flag)
        if len(self.frame) - self.at < size:
            return False
        self.at += size
        if flags & 0x80000000:
            if len(self.frame) - self.at < 4:
                return False
            for _ in range(2 * self.uint32()):
                if not self.is_in_strings():
                    return False
                self.string()
        return True

    def _string(self) -> Span:
        size = self.uint32()
        start = self.at
        if start + size > len(self.frame):
            raise IndexError
        self.at = start + size
        return start, self.at


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw
