"""PostgreSQL's protocol 3 from the first ReadyForQuery on, both directions, without I/O.

The gateway needs the messages, to record them, and the exact bytes, to pass them on; so every
step keeps its raw frames. Replies carry no name of what they answer: they are paired with
requests by position alone, and a reply that does not fit its place is a protocol error rather
than a guess, because a record that pairs wrongly is worse than a connection that ends.

A refusal is the surprising part. Instead of answering in the server's stead, which would mean to
guess its transaction state, the refused frames are replaced by a Parse that cannot succeed. The
server fails at the right place, skips what is pipelined behind it, aborts the transaction as any
error does and reports its true state; only the text of its error is replaced by the refusal.

Specification: postgresql.org/docs/current/protocol-flow.html; where it is silent,
`src/backend/tcop/postgres.c` and `src/backend/commands/copyfromparse.c` decide.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Final

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import MAX_EVENT_BYTES, Command, Event, Flag, Kind, Refusal, Side, Step
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres_messages import Column, Report, RowShape
from agentaudit.protocols.postgres_prepared import (
    MAX_TEXT_BYTES,
    NO_SHAPE,
    Names,
    Portal,
    Prepared,
    cut_text,
    quoted,
)

MAX_DECIDED_BYTES: Final = 16 * 1024 * 1024
"""A Query or Parse is held whole up to here, since it needs a decision; beyond, it is refused."""

MAX_BIND_BYTES: Final = 1024 * 1024
"""A longer Bind is passed on in pieces, and its parameters are not decoded."""

MAX_HASHES: Final = 1_000
"""Long messages of one command whose hashes its row names; the leaves of all events hold anyway."""

_QUERY_CANCELED: Final = "57014"

_TOO_LONG: Final = Refusal(
    code="54000",  # program_limit_exceeded
    message="agentaudit: a statement of more than 16 MiB cannot be decided on",
    hint="load data with COPY",
)
_NO_FUNCTION_CALL: Final = Refusal(
    code="0A000",  # feature_not_supported
    message="agentaudit: the function call protocol is not passed on",
    hint="call the function in a SELECT",
)

_HEADER: Final = Struct("!Bi")
_unpack_header: Final = _HEADER.unpack_from

# Type bytes. A letter may mean two messages, one a side.
_QUERY, _PARSE, _BIND, _DESCRIBE, _EXECUTE, _CLOSE = b"QPBDEC"
_SYNC, _FLUSH, _FUNCTION_CALL, _TERMINATE = b"SHFX"
_COPY_DATA, _COPY_DONE, _COPY_FAIL = b"dcf"
_DATA_ROW: Final = ord("D")
_STATEMENT: Final = ord("S")  # the subtype of Describe and Close
_REFUSED: Final = 0  # not a message: the place of one that was refused
_COPY_END: Final = 1  # not a message either: where the client ended a COPY that had not begun yet

_LARGE: Final = 0x7FFFFFFF
_SMALL: Final = 10_000  # PQ_SMALL_MESSAGE_LIMIT, src/include/libpq/libpq.h

_CLIENT_LENGTHS: Final[Mapping[int, tuple[int, int]]] = {
    _QUERY: (5, _LARGE),
    _PARSE: (8, _LARGE),
    _BIND: (12, _LARGE),
    _DESCRIBE: (6, _SMALL),
    _EXECUTE: (9, _SMALL),
    _CLOSE: (6, _SMALL),
    _SYNC: (4, 4),
    _FLUSH: (4, 4),
    _FUNCTION_CALL: (4, _LARGE),
    _TERMINATE: (4, 4),
    _COPY_DATA: (4, _LARGE),
    _COPY_DONE: (4, 4),
    _COPY_FAIL: (5, _SMALL),
}

_REQUEST, _RESPONSE = Kind.REQUEST, Kind.RESPONSE
_CLIENT, _TARGET = Side.CLIENT, Side.TARGET
# Made once: `|` of flags costs as much as decoding a row.
_SENT: Final = Flag.NONE
_SENT_CONTINUED: Final = Flag.CONTINUED
_SENT_SYNTHETIC: Final = Flag.SYNTHETIC
_RECEIVED: Final = Flag.FROM_TARGET
_RECEIVED_CONTINUED: Final = Flag.FROM_TARGET | Flag.CONTINUED
_RECEIVED_SYNTHETIC: Final = Flag.FROM_TARGET | Flag.SYNTHETIC

_POISON: Final = messages.parse("agentaudit", "agentaudit: a refused statement stood here")
_SYNC_FRAME: Final = messages.sync()
_FLUSH_FRAME: Final = messages.flush()

_ROW_VERBS: Final = ("SELECT", "FETCH", "SHOW", "EXPLAIN")

_SKIPPED: Final = "not run: a command before it failed"


@dataclass(slots=True, kw_only=True, eq=False)
class Execution(Command):
    """A command with what only PostgreSQL's conversation knows of it.

    `sql` is the whole text where `text` is cut to 64 KiB: what judges a statement must read this.
    `portal` is None for a statement of a simple query; `closing` is the Sync or Flush that came
    with it.
    """

    sql: str = ""
    shape: RowShape = NO_SHAPE
    portal: Portal | None = field(default=None, repr=False)
    closing: bytes = field(default=b"", repr=False)
    is_ended: bool = field(default=False, repr=False)

    @property
    def result_columns(self) -> tuple[Column, ...]:
        """The columns of its rows, in the formats that they have; empty where nobody asked.

        Known as soon as its first row is.
        """
        portal = self.portal
        if portal is None:
            return self.shape.columns
        if portal.shape is not NO_SHAPE:
            return portal.shape.columns
        # A statement is described before the Bind says which formats it wants.
        columns = portal.statement.shape.columns
        formats = portal.result_formats
        if len(formats) == 1:
            formats *= len(columns)
        if len(formats) != len(columns):
            return columns
        return tuple(replace(c, format=f) for c, f in zip(columns, formats, strict=True))


@dataclass(slots=True, eq=False)
class _Refused:
    """What stands in the place of refused frames until the server has failed there."""

    commands: tuple[Execution, ...]
    report: bytes
    statement: Prepared | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    """The statements of a simple query; the server answers them one after the other."""

    commands: tuple[Execution, ...]
    cycle: int
    at: int = 0


class _Act:
    """A message that the server owes an answer, in the order sent."""

    __slots__ = ("command", "kind", "thing")

    def __init__(
        self,
        kind: int,
        command: Execution | None = None,
        thing: Prepared | Portal | _Refused | _Batch | int | None = None,
    ) -> None:
        self.kind = kind
        self.command = command
        self.thing = thing


class _Long:
    """A message that passes in pieces: what is left of it, its hash, and whose it is."""

    __slots__ = ("command", "hash", "is_first", "kind", "left", "portal", "refused", "start")

    def __init__(self, kind: int, size: int, command: Execution | None = None) -> None:
        self.kind = kind
        self.left = size
        self.command = command
        self.hash = hashlib.sha256()
        self.is_first = True
        self.start = b""
        self.portal: Portal | None = None
        self.refused: _Refused | None = None

    def take(self, piece: bytes) -> None:
        self.is_first = not self.start
        if self.is_first:
            self.start = piece
        self.hash.update(piece)
        self.left -= len(piece)


class _Inlet:
    """Bytes of one side that no whole message was made of yet."""

    __slots__ = ("held", "long", "need")

    def __init__(self) -> None:
        self.held = bytearray()
        self.need = 0
        self.long: _Long | None = None


class Conversation:
    """Both directions of one connection, understood without I/O (`model.Conversation`).

    Client side: the frames of one command are one step and one `request` event, from its Parse or
    Bind to its Execute, with the Sync or Flush behind it where that came along. Parse, Bind,
    Describe and Close are held back until the message that makes the server answer. Target side:
    a run of whole messages of one command is one step and one `response` event. A message of more
    than 256 KiB passes in pieces of exactly that, flagged `continued`, and its hash is in its
    command. How the bytes were cut changes at most where an event ends, never what is in it.

    A command ends, on either side's step (`Step.ends`), when its outcome is known: with the
    ReadyForQuery where that is the next reply owed, so that `txn_status` says what the server
    reported; else with its own last reply, `txn_status` None. What was pipelined behind a failure
    ends as `incomplete`. After FATAL, or when the connection just ends, the rest is the recorder's
    to end.

    `txn_no` counts transactions from 1: commands between two idle states share a number.
    """

    def __init__(
        self,
        *,
        split: Callable[[str], Sequence[str]] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """Begin after the login; `parameters` is what the server reported in it."""
        self._split = split
        self._codec = "utf-8"
        self._is_standard_strings = True
        self._status = "I"
        self._broken: ClientProtocolError | TargetProtocolError | None = None
        self._next_command_no = 0
        self._txn_no = 1
        self._is_txn_used = False
        self._from_client = _Inlet()
        self._from_target = _Inlet()

        # What the client has sent and may not pass alone.
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._acts: list[_Act] = []
        self._command: Execution | None = None
        self._batch: tuple[Execution, ...] = ()
        self._sql: str | None = None
        self._is_due = False
        self._is_copy_group = False

        # What the server owes, and how far it is.
        self._owed: deque[_Act] = deque()
        self._last: Execution | None = None
        self._ending: Execution | None = None
        self._ends: list[Execution] = []
        self._texts: list[str] = []
        self._rows = 0
        self._is_skipping = False
        self._copy = ""
        self._is_copy_ended = False
        self._swallowed_syncs = 0
        self._cycle = 0

        self._names = Names()
        for name, value in (parameters or {}).items():
            self._set_parameter(name, value)

    @property
    def txn_status(self) -> str:
        """What the server last reported: `I` idle, `T` in a transaction, `E` in a failed one."""
        return self._status

    @property
    def in_transaction(self) -> bool:
        """Whether the server last reported an open transaction, failed or not."""
        return self._status != "I"

    @property
    def broken(self) -> ClientProtocolError | TargetProtocolError | None:
        """The protocol error that the next `receive` raises, if one came behind good messages."""
        return self._broken

    def receive(self, side: Side, data: bytes) -> list[Step]:
        """Return the steps that `data` completes; it may be cut anywhere.

        Raises:
            ClientProtocolError, TargetProtocolError: bytes that the protocol does not allow at
                this place. Good messages before them are returned first; `broken` tells.
        """
        if self._broken is not None:
            raise self._broken
        steps: list[Step] = []
        try:
            if side is _CLIENT:
                self._receive_client(data, steps)
            else:
                self._receive_target(data, steps)
        except (ClientProtocolError, TargetProtocolError) as error:
            self._broken = error
            if not steps:
                raise
        return steps

    def refuse(self, step: Step, refusal: Refusal) -> list[Step]:
        """Refuse a step that `receive` returned and that was not forwarded; return what goes
        to the server in its place.

        The client's answer comes with a later step of the target's side, at its turn. All
        commands of the step are `denied`; a Sync at its end still reaches the server.
        """
        commands = tuple(c for c in step.starts if isinstance(c, Execution))
        if not commands:
            raise ValueError("only a step that starts commands can be refused")
        report = messages.error_response(
            severity="ERROR",
            code=refusal.code,
            message=refusal.message,
            detail=refusal.detail,
            hint=refusal.hint,
        )
        for command in commands:
            _deny(command, refusal.code, refusal.message)
        # Whether the frames ended in a Sync of their own, or are a Query, which ends like one.
        closing = commands[-1].closing
        place = _Act(_REFUSED, commands[0], _Refused(commands, report))
        replaced = self._replace(commands, place)
        if replaced is None:
            # The server skips to the next Sync: it would not have looked at what was refused.
            frame = closing if closing == _SYNC_FRAME else b""
        elif replaced == _QUERY:
            frame = _POISON + _SYNC_FRAME
        else:
            frame = _POISON + closing
        return [_synthetic_request(commands[0].command_no, frame)] if frame else []

    def _replace(self, commands: tuple[Execution, ...], place: _Act) -> int | None:
        """Put `place` where the messages of `commands` are owed; return the last one's kind."""
        replaced: int | None = None
        kept: deque[_Act] = deque()
        for act in self._owed:
            if not any(act.command is command for command in commands):
                kept.append(act)
                continue
            self._void(act)
            if replaced is None:
                kept.append(place)
            replaced = act.kind
            if isinstance(act.thing, _Batch):
                kept.append(_Act(_SYNC, None, act.thing.cycle))
        self._owed = kept
        return replaced

    # The client's side.

    def _receive_client(self, data: bytes, steps: list[Step]) -> None:
        inlet = self._from_client
        if inlet.held:
            inlet.held += data
            if len(inlet.held) < inlet.need:
                return
            data = bytes(inlet.held)
            inlet.held.clear()
        start = at = 0
        end = len(data)
        need = 5
        while True:
            if inlet.long is not None:
                size = min(inlet.long.left, MAX_EVENT_BYTES)
                if end - at < size:
                    need = size
                    break
                self._pass_piece(inlet.long, data[at : at + size], steps)
                at += size
                start = at
                if not inlet.long.left:
                    inlet.long = None
                continue
            if end - at < 5:
                need = 5
                break
            kind, length = _unpack_header(data, at)
            stop = at + 1 + length
            limits = _CLIENT_LENGTHS.get(kind)
            if limits is None or not limits[0] <= length <= limits[1]:
                self._release(data[start:at], steps)
                raise _bad_client_message(kind, length, limits)
            if length >= MAX_EVENT_BYTES or kind == _FUNCTION_CALL:
                long = self._begin_long(kind, length + 1)
                if long is not None:
                    self._release(data[start:at], steps, keep_open=kind == _BIND)
                    start = at
                    inlet.long = long
                    continue
            if stop > end:
                need = length + 1
                break

            if kind in (_SYNC, _FLUSH):
                self._close_group(kind)
                self._release(data[start:stop], steps)
                start = stop
            elif kind == _EXECUTE:
                if self._is_due:
                    self._release(data[start:at], steps)
                    start = at
                self._execute(data[at + 5 : stop])
            elif kind in (_PARSE, _BIND, _DESCRIBE, _CLOSE):
                if self._is_due:
                    self._release(data[start:at], steps)
                    start = at
                self._prepare(kind, data[at + 5 : stop])
            elif kind == _QUERY:
                self._release(data[start:at], steps)
                self._query(data[at + 5 : stop])
                self._release(data[at:stop], steps)
                start = stop
            elif kind == _TERMINATE:
                self._release(data[start:at], steps)
                self._sql = "Terminate"
                self._is_due = True
                self._release(data[at:stop], steps)
                start = stop
            else:
                if (self._is_due and not self._is_copy_group) or self._acts or self._parts:
                    self._release(data[start:at], steps)
                    start = at
                self._copy_frame(kind)
            at = stop
        if at > start:
            if self._is_due:
                self._release(data[start:at], steps)
            elif self._parts_bytes + at - start > MAX_DECIDED_BYTES:
                self._release(data[start:at], steps, keep_open=True)
            else:
                self._parts.append(data[start:at])
                self._parts_bytes += at - start
        if at < end:
            inlet.held += data[at:] if at else data
            inlet.need = need

    def _release(self, frame: bytes, steps: list[Step], *, keep_open: bool = False) -> None:
        """Make a step of the frames that were held and `frame`, the group's last part."""
        if self._parts:
            self._parts.append(frame)
            frame = b"".join(self._parts)
            self._parts.clear()
            self._parts_bytes = 0
        command = self._command
        if frame:
            starts: tuple[Command, ...] = self._batch
            ends: tuple[Command, ...] = ()
            if command is not None and len(frame) > MAX_EVENT_BYTES:
                _add_hash(command, hashlib.sha256(frame).hexdigest())
            if starts and self._ends:
                ends = tuple(self._ends)
                self._ends.clear()
            event = Event(
                kind=_REQUEST,
                side=_CLIENT,
                command_no=-1 if command is None else command.command_no,
                text=self._sql,
                payload=frame,
                orig_len=len(frame),
            )
            steps.append(Step(side=_CLIENT, frame=frame, events=(event,), starts=starts, ends=ends))
        self._command = None
        self._batch = ()
        self._sql = None
        self._is_due = self._is_copy_group = False
        if not keep_open and self._acts:
            self._acts.clear()

    def _owe(self, act: _Act) -> None:
        if self._is_skipping:
            self._void(act)
        else:
            self._owed.append(act)

    def _close_group(self, kind: int) -> None:
        command = self._command
        if command is None and not self._acts:
            # It came alone: it belongs to the command before it, if that has not ended.
            last = self._last
            if last is not None and not last.is_ended:
                self._command = last
        elif command is not None and not self._is_copy_group:
            command.closing = _SYNC_FRAME if kind == _SYNC else _FLUSH_FRAME
        self._is_due = True
        if kind == _FLUSH:
            return
        if self._copy == "in" and not self._is_copy_ended:
            # The server ignores Sync in COPY FROM, for the convenience of clients that do not
            # know yet what their statement was (CopyGetData).
            self._swallowed_syncs += 1
            return
        self._is_skipping = False
        self._cycle += 1
        self._owed.append(_Act(_SYNC, None, self._cycle))

    def _prepare(self, kind: int, body: bytes) -> None:
        """Take in a Parse, Bind, Describe or Close."""
        names = self._names
        thing: Prepared | Portal | None = None
        if kind == _BIND:
            bind = messages.decode_bind(body)
            statement = names.statement(bind.statement, self._codec)
            params = self._params(bind, statement)
            names.bind(bind.portal, Portal(statement, params, bind.result_formats, self._cycle))
        elif kind == _PARSE:
            parse = messages.decode_parse(body)
            self._sql = parse.sql.decode(self._codec, "replace")
            thing = names.prepare(parse.name, self._sql, parse.types)
        else:
            subtype, name = messages.decode_name("Describe" if kind == _DESCRIBE else "Close", body)
            if subtype == _STATEMENT:
                is_close = kind == _CLOSE
                thing = names.close(name) if is_close else names.statement(name, self._codec)
            elif kind == _CLOSE:
                names.close_portal(name)
            else:
                thing = names.portal(name)
        act = _Act(kind, None, thing)
        self._acts.append(act)
        self._owe(act)

    def _params(self, bind: messages.Bind, statement: Prepared) -> tuple[str | None, ...] | None:
        values = bind.values
        if not values:
            return ()
        if sum([len(value) for value in values if value is not None]) > MAX_TEXT_BYTES:
            return None
        formats = bind.formats
        types = statement.types
        codec = self._codec
        if not formats or formats == (0,):
            return tuple([None if v is None else v.decode(codec, "replace") for v in values])
        if len(formats) == 1:
            formats *= len(values)
        known = len(types)
        texts = tuple(
            messages.parameter_text(value, formats[i] == 1, types[i] if i < known else 0, codec)
            for i, value in enumerate(values)
        )
        if sum([len(text) for text in texts if text is not None]) > MAX_TEXT_BYTES:
            return None  # Hexadecimal doubles what is binary.
        return texts

    def _execute(self, body: bytes) -> None:
        name, max_rows = messages.decode_execute(body)
        portal = self._names.portal(name)
        if portal is None:
            # A cursor of DECLARE is a portal too.
            rows = max_rows if max_rows > 0 else "ALL"
            sql = f"FETCH {rows} FROM {quoted(name.decode(self._codec, 'replace'))}"
            portal = Portal(Prepared(b"", sql, cut_text(sql)), None, (), self._cycle)
        statement = portal.statement
        command = Execution(
            command_no=self._next_command_no,
            text=statement.text,
            sql=statement.sql,
            params=portal.params,
            portal=portal,
            sha256=portal.sha256,
        )
        self._next_command_no += 1
        for act in self._acts:
            act.command = command
        self._sql = statement.sql
        self._command = self._last = command
        self._batch = (command,)
        self._is_due = True
        if self._is_skipping:
            self._skip(command)
        else:
            self._owed.append(_Act(_EXECUTE, command, portal))

    def _query(self, body: bytes) -> None:
        sql = messages.decode_query(body).decode(self._codec, "replace")
        texts: Sequence[str] = ()
        # With backslash escapes in plain strings our parser would find other ends than the server.
        if self._split is not None and self._is_standard_strings:
            texts = self._split(sql)
        if len(texts) > 1:
            commands = tuple([self._new_command(text) for text in texts])
        else:
            commands = (self._new_command(sql),)
        self._start_batch(sql, commands)
        if self._is_skipping:
            for command in commands:
                self._skip(command)
            return
        self._cycle += 1
        self._owed.append(_Act(_QUERY, commands[0], _Batch(commands, self._cycle)))

    def _new_command(self, sql: str) -> Execution:
        command = Execution(command_no=self._next_command_no, text=cut_text(sql), sql=sql)
        self._next_command_no += 1
        return command

    def _start_batch(self, sql: str, commands: tuple[Execution, ...]) -> None:
        self._sql = sql
        self._batch = commands
        self._command = commands[0]
        self._last = commands[-1]
        self._is_due = True

    def _copy_frame(self, kind: int) -> None:
        self._is_due = self._is_copy_group = True
        last = self._last
        if last is not None and not last.is_ended:
            self._command = last
        if kind == _COPY_DATA:
            return
        # Outside COPY FROM the server ignores CopyDone and CopyFail: they owe nothing.
        if self._copy == "in":
            self._is_copy_ended = True
        elif self._owed and not self._is_skipping:
            self._owed.append(_Act(_COPY_END))

    def _begin_long(self, kind: int, size: int) -> _Long | None:
        """Return how a message of `size` bytes passes, None where it must be held whole."""
        if kind == _COPY_DATA and size > MAX_EVENT_BYTES:
            last = self._last
            return _Long(kind, size, None if last is None or last.is_ended else last)
        if kind == _BIND and size > MAX_BIND_BYTES:
            return _Long(kind, size)
        if kind in (_QUERY, _PARSE) and size > MAX_DECIDED_BYTES:
            return self._begin_refused(kind, size, _TOO_LONG)
        if kind == _FUNCTION_CALL:
            return self._begin_refused(kind, size, _NO_FUNCTION_CALL)
        return None

    def _begin_refused(self, kind: int, size: int, refusal: Refusal) -> _Long:
        long = _Long(kind, size)
        report = messages.error_response(
            severity="ERROR", code=refusal.code, message=refusal.message, hint=refusal.hint
        )
        long.refused = _Refused((), report)
        return long

    def _pass_piece(self, long: _Long, piece: bytes, steps: list[Step]) -> None:
        long.take(piece)
        starts: tuple[Command, ...] = ()
        text: str | None = None
        if long.is_first and long.kind == _BIND:
            portal, name, _ = messages.decode_bind_names(piece[5:])
            statement = self._names.statement(name, self._codec)
            long.portal = Portal(statement, None, (), self._cycle)
            self._names.bind(portal, long.portal)
            act = _Act(_BIND)
            self._acts.append(act)
            self._owe(act)
        if long.refused is not None:
            if long.is_first:
                text = self._begin_refusal(long, long.refused)
                starts = long.refused.commands
            frame = b"" if long.left else self._end_refusal(long, long.refused)
        else:
            frame = piece
        command = long.command
        command_no = -1 if command is None else command.command_no
        event = Event(
            kind=_REQUEST,
            side=_CLIENT,
            command_no=command_no,
            text=text,
            payload=piece,
            orig_len=len(piece),
            flags=_SENT_CONTINUED if long.left else _SENT,
        )
        events: tuple[Event, ...] = (event,)
        if frame and long.refused is not None:
            events = (event, *_synthetic_request(command_no, frame).events)
        ends = tuple(self._ends)
        self._ends.clear()
        steps.append(
            Step(
                side=_CLIENT,
                frame=frame,
                events=events,
                starts=starts,
                ends=ends,
                synthetic=long.refused is not None,
            )
        )
        if not long.left:
            digest = long.hash.hexdigest()
            if long.portal is not None:
                long.portal.sha256 = (digest,)
            elif command is not None and not command.is_ended and long.start is not piece:
                _add_hash(command, digest)

    def _begin_refusal(self, long: _Long, refused: _Refused) -> str | None:
        """Start the command of a message that is refused as it comes; return what it says."""
        report = messages.decode_report(refused.report[5:])
        if long.kind == _PARSE:
            # No command yet: the Execute behind it will be one, and refused with it.
            name, _, rest = long.start[5:].partition(b"\0")
            sql = rest[:MAX_TEXT_BYTES].decode(self._codec, "replace")
            refused.statement = self._names.prepare(name, sql, ())
            if self._is_skipping:
                self._names.void(refused.statement)
            return sql
        if long.kind == _QUERY:
            sql = long.start[5 : 5 + MAX_TEXT_BYTES].decode(self._codec, "replace")
        else:
            sql = "FunctionCall"
        command = self._new_command(sql)
        _deny(command, report.code, report.message)
        self._last = long.command = command
        refused.commands = (command,)
        if self._is_skipping:
            self._skip(command)
        return command.sql

    def _end_refusal(self, long: _Long, refused: _Refused) -> bytes:
        """Return what the server gets in place of a message that was refused as it came."""
        if self._is_skipping:
            return b""
        act = _Act(_REFUSED, long.command, refused)
        self._owed.append(act)
        if long.kind == _PARSE:
            self._acts.append(act)
            return _POISON
        self._cycle += 1
        self._owed.append(_Act(_SYNC, None, self._cycle))
        return _POISON + _SYNC_FRAME

    # The target's side.

    def _receive_target(self, data: bytes, steps: list[Step]) -> None:
        inlet = self._from_target
        if inlet.held:
            inlet.held += data
            if len(inlet.held) < inlet.need:
                return
            data = bytes(inlet.held)
            inlet.held.clear()
        start = at = 0
        end = len(data)
        need = 5
        owner = self._owner()
        while True:
            if inlet.long is not None:
                long = inlet.long
                size = min(long.left, MAX_EVENT_BYTES)
                if end - at < size:
                    need = size
                    break
                self._answer_piece(long, data[at : at + size], steps)
                at += size
                start = at
                owner = self._owner()
                if not long.left:
                    inlet.long = None
                continue
            if end - at < 5:
                need = 5
                break
            kind, length = _unpack_header(data, at)
            stop = at + 1 + length
            if length < 4 or kind not in _REPLIES:
                self._answer(owner, data[start:at], steps)
                raise TargetProtocolError(
                    f"message 0x{kind:02x} of length {length} from the target"
                )
            now = self._owner()
            if at > start and (now is not owner or stop - start > MAX_EVENT_BYTES):
                self._answer(owner, data[start:at], steps)
                start = at
            owner = now
            if length >= MAX_EVENT_BYTES:
                self._answer(owner, data[start:at], steps)
                start = at
                inlet.long = _Long(kind, length + 1, owner)
                continue
            if stop > end:
                need = length + 1
                break

            if kind == _DATA_ROW:
                # Rows are counted by their lengths alone: this loop is most of a large result.
                self._expect_rows()
                rows = 1
                at = stop
                limit = min(end - 5, start + MAX_EVENT_BYTES - 5)
                while at <= limit:
                    kind, length = _unpack_header(data, at)
                    if kind != _DATA_ROW or length < 4:
                        break
                    stop = at + 1 + length
                    if stop > end or stop - start > MAX_EVENT_BYTES:
                        break
                    at = stop
                    rows += 1
                self._rows += rows
                continue
            try:
                replacement = _REPLIES[kind](self, data[at + 5 : stop])
            except TargetProtocolError:
                self._answer(owner, data[start:at], steps)
                raise
            if replacement is not None:
                self._answer(owner, data[start:at], steps, keep=True)
                self._answer(owner, replacement, steps, flags=_RECEIVED_SYNTHETIC)
                start = stop
            elif self._ends:
                self._answer(owner, data[start:stop], steps)
                start = stop
            at = stop
        if at > start:
            self._answer(owner, data[start:at], steps)
        if at < end:
            inlet.held += data[at:] if at else data
            inlet.need = need

    def _owner(self) -> Execution | None:
        """Return whose the next message of the target is."""
        if self._ending is not None:
            return self._ending
        owed = self._owed
        while owed:
            act = owed[0]
            if act.kind != _COPY_END:
                return act.command
            owed.popleft()
        return None

    def _answer(
        self,
        owner: Execution | None,
        frame: bytes,
        steps: list[Step],
        *,
        flags: Flag = _RECEIVED,
        keep: bool = False,
    ) -> None:
        """Make a step of a run of messages; `keep` leaves what they ended to the next one."""
        if not frame:
            return
        text: str | None = None
        ends: tuple[Command, ...] = ()
        if not keep:
            if self._texts:
                text = "\n".join(self._texts)
                self._texts.clear()
            if self._ends:
                ends = tuple(self._ends)
                self._ends.clear()
        event = Event(
            kind=_RESPONSE,
            side=_TARGET,
            command_no=-1 if owner is None else owner.command_no,
            text=text,
            payload=frame,
            orig_len=len(frame),
            flags=flags,
        )
        is_synthetic = flags is _RECEIVED_SYNTHETIC
        steps.append(
            Step(side=_TARGET, frame=frame, events=(event,), ends=ends, synthetic=is_synthetic)
        )

    def _answer_piece(self, long: _Long, piece: bytes, steps: list[Step]) -> None:
        long.take(piece)
        if long.left:
            self._answer(long.command, piece, steps, flags=_RECEIVED_CONTINUED, keep=True)
            return
        if long.command is not None:
            _add_hash(long.command, long.hash.hexdigest())
        # Of a long error only the beginning is read: the fields that we need come first.
        if long.kind == _DATA_ROW:
            self._expect_rows()
            self._rows += 1
        elif long.kind in b"EdNAS":
            replacement = _REPLIES[long.kind](self, long.start[5:])
            if replacement is not None:
                raise TargetProtocolError("ErrorResponse: too long where a statement was refused")
        else:
            raise TargetProtocolError(f"message 0x{long.kind:02x}: too long to be one")
        self._answer(long.command, piece, steps)

    def _expect(self, *kinds: int) -> _Act:
        """Return the message that this reply answers, checked to be one of `kinds`."""
        owed = self._owed
        if not owed or owed[0].kind not in kinds:
            seen = "nothing" if not owed else f"0x{owed[0].kind:02x}"
            expected = " or ".join(f"0x{kind:02x}" for kind in kinds)
            raise TargetProtocolError(
                f"a reply out of its place: it answers {expected}, owed is an answer to {seen}"
            )
        return owed[0]

    def _expect_rows(self) -> _Act:
        act = self._expect(_EXECUTE, _QUERY)
        self._ending = None  # A query with more results than our parser found statements.
        return act

    # Replies; each returns a frame for the client where that is not the server's own.

    def _parse_complete(self, body: bytes) -> bytes | None:
        statement = self._expect(_PARSE).thing
        self._owed.popleft()
        assert isinstance(statement, Prepared)
        self._names.agree(statement)
        return None

    def _bind_complete(self, body: bytes) -> bytes | None:
        self._expect(_BIND)
        self._owed.popleft()
        return None

    def _close_complete(self, body: bytes) -> bytes | None:
        statement = self._expect(_CLOSE).thing
        self._owed.popleft()
        if isinstance(statement, Prepared):
            self._names.agree(statement)
        return None

    def _parameter_description(self, body: bytes) -> bytes | None:
        statement = self._expect(_DESCRIBE).thing
        types = messages.decode_parameter_description(body)
        if isinstance(statement, Prepared):
            statement.types = types
        return None

    def _row_description(self, body: bytes) -> bytes | None:
        act = self._expect(_DESCRIBE, _QUERY)
        shape = messages.decode_row_description(body, self._codec)
        if act.kind == _QUERY:
            self._ending = None
            if act.command is not None:
                act.command.shape = shape
                act.command.columns = shape.names
            return None
        if isinstance(act.thing, Prepared | Portal):
            act.thing.shape = shape
        self._owed.popleft()
        return None

    def _no_data(self, body: bytes) -> bytes | None:
        self._expect(_DESCRIBE)
        self._owed.popleft()
        return None

    def _command_complete(self, body: bytes) -> bytes | None:
        act = self._expect_rows()
        command = act.command
        assert command is not None
        tag = body[:-1].decode("ascii", "replace")
        verb, _, rest = tag.partition(" ")
        count = rest.rpartition(" ")[2]
        self._complete(command, verb, int(count) if count.isdigit() and len(count) < 19 else None)
        if tag in ("DEALLOCATE ALL", "DISCARD ALL"):
            self._names.deallocate_all()
        elif tag == "DEALLOCATE":
            self._names.deallocate(command.sql)
        self._finish(act)
        if verb == "COMMIT":
            self._end_transaction()
        return None

    def _empty_query(self, body: bytes) -> bytes | None:
        act = self._expect_rows()
        assert act.command is not None
        self._complete(act.command, "", None)
        self._finish(act)
        return None

    def _portal_suspended(self, body: bytes) -> bytes | None:
        act = self._expect(_EXECUTE)
        assert act.command is not None
        self._complete(act.command, "SELECT", None)
        self._finish(act)
        return None

    def _complete(self, command: Execution, verb: str, count: int | None) -> None:
        command.status = "ok"
        command.txn_no = self._txn_no
        self._is_txn_used = True
        _name_columns(command)
        if self._copy:
            is_in = self._copy == "in"
            self._copy = ""
            if is_in:
                # It came to its end, so the server has read, and ignored, these.
                self._swallowed_syncs = 0
                command.rows_affected = count
            else:
                command.rows_returned = count
        elif self._rows or command.columns:
            command.rows_returned = self._rows
            if verb not in _ROW_VERBS and count is not None:
                command.rows_affected = (command.rows_affected or 0) + count
        elif verb in _ROW_VERBS:
            # CREATE TABLE AS answers `SELECT 5` without a row.
            if count and verb == "SELECT":
                command.rows_affected = count
            else:
                command.rows_returned = 0
        elif count is not None and verb != "MOVE":
            command.rows_affected = (command.rows_affected or 0) + count

    def _finish(self, act: _Act) -> None:
        """Take the completed command from its place, and end it unless ReadyForQuery is next."""
        command = act.command
        assert command is not None
        if act.kind == _QUERY:
            batch = act.thing
            assert isinstance(batch, _Batch)
            if batch.at + 1 == len(batch.commands):
                self._ending = command
                return
            batch.at += 1
            act.command = batch.commands[batch.at]
            self._end(command, None)
        else:
            self._owed.popleft()
            if self._owed and self._owed[0].kind == _SYNC:
                self._ending = command
            else:
                self._end(command, None)
        self._rows = 0

    def _copy_begins(self, direction: str) -> None:
        self._expect_rows()
        self._copy = direction
        self._is_copy_ended = False
        if direction != "in":
            return
        # What the client sent ahead of the server's consent is read as part of the COPY.
        kept = deque([self._owed.popleft()])
        while self._owed:
            act = self._owed.popleft()
            if act.kind == _SYNC:
                self._swallowed_syncs += 1
                continue
            if act.kind == _COPY_END:
                self._is_copy_ended = True
            else:
                kept.append(act)
            break
        kept.extend(self._owed)
        self._owed = kept

    def _copy_in(self, body: bytes) -> bytes | None:
        self._copy_begins("in")
        return None

    def _copy_out(self, body: bytes) -> bytes | None:
        self._copy_begins("out")
        return None

    def _copy_both(self, body: bytes) -> bytes | None:
        self._copy_begins("both")
        return None

    def _copy_data(self, body: bytes) -> bytes | None:
        if self._copy not in ("out", "both"):
            raise TargetProtocolError("CopyData outside COPY")
        return None

    def _error(self, body: bytes) -> bytes | None:
        report = messages.decode_report(body, self._codec)
        if report.ends_connection:
            self._texts.append(str(report))
            command = self._owner()
            if command is not None:
                self._blame(command, report)
                self._end(command, None)
            self._ending = None
            return None
        self._copy = ""
        if not self._owed:
            raise TargetProtocolError(f"an error {report.code} that answers nothing")
        act = self._owed[0]
        replacement: bytes | None = None
        command = act.command
        if act.kind == _REFUSED:
            assert isinstance(act.thing, _Refused)
            replacement = act.thing.report
            report = messages.decode_report(replacement[5:])
            if command is not None:
                _deny(command, report.code, report.message)
            for other in act.thing.commands[1:]:
                self._end(other, None)
        elif act.kind == _SYNC:
            # A deferred constraint speaks up at the end: the command before it has failed.
            command = self._ending
        self._texts.append(str(report))
        if command is not None:
            self._blame(command, report)
        self._rows = 0
        if act.kind == _SYNC:
            return replacement
        if act.kind == _QUERY:
            assert isinstance(act.thing, _Batch)
            for other in act.thing.commands[act.thing.at + 1 :]:
                self._skip(other)
            act.thing.at = len(act.thing.commands) - 1
            self._ending = command
            return replacement
        while self._owed and self._owed[0].kind != _SYNC:
            skipped = self._owed.popleft()
            self._void(skipped)
            others: tuple[Execution, ...] = ()
            if isinstance(skipped.thing, _Refused | _Batch):
                others = skipped.thing.commands
            elif skipped.kind == _EXECUTE and skipped.command is not None:
                others = (skipped.command,)
            for other in others:
                # A group's messages share its command, and the one that failed ends for itself.
                if other is not command:
                    self._skip(other)
        if self._owed:
            self._ending = command
        else:
            self._is_skipping = True
            self._ending = None
            if command is not None:
                self._end(command, None)
        return replacement

    def _blame(self, command: Execution, report: Report) -> None:
        if command.status != "denied":
            command.status = "cancelled" if report.code == _QUERY_CANCELED else "error"
            command.error_code = report.code
            command.error_text = cut_text(report.message)
        # A deferred constraint fails after its CommandComplete: nothing was affected after all.
        command.rows_affected = None
        command.txn_no = self._txn_no
        self._is_txn_used = True
        if self._rows:
            command.rows_returned = self._rows
        _name_columns(command)

    def _notice(self, body: bytes) -> bytes | None:
        self._texts.append(str(messages.decode_report(body, self._codec)))
        return None

    def _notification(self, body: bytes) -> bytes | None:
        return None

    def _parameter_status(self, body: bytes) -> bytes | None:
        self._set_parameter(*messages.decode_parameter_status(body))
        return None

    def _set_parameter(self, name: str, value: str) -> None:
        if name == "client_encoding":
            self._codec = messages.codec_of(value)
        elif name == "standard_conforming_strings":
            self._is_standard_strings = value == "on"

    def _ready(self, body: bytes) -> bytes | None:
        status = body.decode("ascii", "replace")
        if status not in ("I", "T", "E"):
            raise TargetProtocolError("ReadyForQuery: unknown transaction status")
        if self._swallowed_syncs and not (self._owed and self._owed[0].kind in (_SYNC, _QUERY)):
            # A COPY that failed before the server read the Sync that we took for ignored.
            self._swallowed_syncs -= 1
            self._is_skipping = False
            self._status = status
            return None
        act = self._expect(_SYNC, _QUERY)
        self._owed.popleft()
        self._status = status
        cycle = act.thing
        if self._ending is not None:
            self._end(self._ending, status)
            self._ending = None
        if isinstance(cycle, _Batch):
            for command in cycle.commands[cycle.at :]:
                self._end(command, status)
            cycle = cycle.cycle
        self._rows = 0
        self._copy = ""
        if not self._owed:
            self._swallowed_syncs = 0
        if status == "I":
            self._end_transaction()
            assert isinstance(cycle, int)
            self._names.end_transaction(cycle)
        return None

    def _end_transaction(self) -> None:
        if self._is_txn_used:
            self._txn_no += 1
            self._is_txn_used = False

    # Both sides.

    def _void(self, act: _Act) -> None:
        """The server will not look at this message, or has refused it."""
        statement = act.thing.statement if isinstance(act.thing, _Refused) else act.thing
        if act.kind != _DESCRIBE and isinstance(statement, Prepared):
            self._names.void(statement)

    def _skip(self, command: Execution) -> None:
        """End a command that the server will not look at."""
        if command.status == "incomplete":
            command.error_text = _SKIPPED
        self._end(command, None)

    def _end(self, command: Execution, txn_status: str | None) -> None:
        if command.is_ended:
            return
        command.is_ended = True
        command.txn_status = txn_status
        self._ends.append(command)


def _deny(command: Execution, code: str, message: str) -> None:
    if command.decision == "allow":
        command.decision = "deny"
        command.rule = "protocol"
    command.status = "denied"
    command.error_code = code
    command.error_text = message


def _name_columns(command: Execution) -> None:
    portal = command.portal
    if portal is not None:
        known = portal.shape if portal.shape is not NO_SHAPE else portal.statement.shape
        command.shape = known
        command.columns = known.names


def _add_hash(command: Execution, digest: str) -> None:
    if len(command.sha256) < MAX_HASHES:
        command.sha256 += (digest,)


def _synthetic_request(command_no: int, frame: bytes) -> Step:
    event = Event(
        kind=_REQUEST,
        side=_CLIENT,
        command_no=command_no,
        payload=frame,
        orig_len=len(frame),
        flags=_SENT_SYNTHETIC,
    )
    return Step(side=_CLIENT, frame=frame, events=(event,), synthetic=True)


def _bad_client_message(
    kind: int, length: int, limits: tuple[int, int] | None
) -> ClientProtocolError:
    if limits is None:
        return ClientProtocolError(f"message 0x{kind:02x} from the client: no such message here")
    return ClientProtocolError(
        f"message 0x{kind:02x} from the client: length {length}, "
        f"expected {limits[0]} to {limits[1]}"
    )


_Reply = Callable[[Conversation, bytes], bytes | None]

_REPLIES: Final[Mapping[int, _Reply]] = {
    ord(kind): reply
    for kind, reply in {
        "1": Conversation._parse_complete,
        "2": Conversation._bind_complete,
        "3": Conversation._close_complete,
        "A": Conversation._notification,
        "C": Conversation._command_complete,
        "D": Conversation._no_data,  # never called: rows are counted where they are found
        "E": Conversation._error,
        "G": Conversation._copy_in,
        "H": Conversation._copy_out,
        "I": Conversation._empty_query,
        "N": Conversation._notice,
        "S": Conversation._parameter_status,
        "T": Conversation._row_description,
        "W": Conversation._copy_both,
        "Z": Conversation._ready,
        "c": Conversation._copy_data,
        "d": Conversation._copy_data,
        "n": Conversation._no_data,
        "s": Conversation._portal_suspended,
        "t": Conversation._parameter_description,
    }.items()
}
