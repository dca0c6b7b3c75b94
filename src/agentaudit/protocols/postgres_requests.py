"""The client's side of a PostgreSQL conversation: bytes into steps that begin commands.

The frames of one command are one step and one `request` event, from its Parse or Bind to its
Execute, with the Sync or Flush behind it where that came along. Parse, Bind, Describe and Close
are held back until the message that makes the server answer: until then nobody waits for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from agentaudit._native.raw import cut, int32_at
from agentaudit.errors import ClientProtocolError
from agentaudit.model import (
    MAX_EVENT_BYTES,
    Command,
    Event,
    Flag,
    Kind,
    Refusal,
    Side,
    Step,
    passed,
    step_of,
)
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres_ledger import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    PARSE,
    QUERY,
    REFUSED,
    SYNC,
    Act,
    Batch,
    Execution,
    Ledger,
    Refused,
)
from agentaudit.protocols.postgres_messages import (
    decode_bind,
    decode_execute,
    decode_name,
    decode_parse,
    decode_query,
    text_of,
)
from agentaudit.protocols.postgres_prepared import (
    MAX_NAME_BYTES,
    MAX_TEXT_BYTES,
    Portal,
    Prepared,
    cut_text,
    quoted,
)

MAX_DECIDED_BYTES: Final = 16 * 1024 * 1024
"""A Query or Parse is held whole up to here, since it needs a decision; beyond, it is refused."""

MAX_GROUP: Final = 1_000
"""Messages that are held back together; beyond, they pass, and are no command's in particular."""

MAX_BIND_BYTES: Final = 1024 * 1024
"""A longer Bind is passed on in pieces, and its parameters are not decoded."""

FLUSH, FUNCTION_CALL, TERMINATE, COPY_DATA, COPY_DONE, COPY_FAIL = b"HFXdcf"

_ANY: Final = 0x7FFFFFFF
_SMALL: Final = 10_000  # PQ_SMALL_MESSAGE_LIMIT, src/include/libpq/libpq.h

_LENGTHS: Final = {
    QUERY: (5, _ANY),
    PARSE: (8, _ANY),
    BIND: (12, _ANY),
    DESCRIBE: (6, _SMALL),
    EXECUTE: (9, _SMALL),
    CLOSE: (6, _SMALL),
    SYNC: (4, 4),
    FLUSH: (4, 4),
    FUNCTION_CALL: (4, _ANY),
    TERMINATE: (4, 4),
    COPY_DATA: (4, _ANY),
    COPY_DONE: (4, 4),
    COPY_FAIL: (5, _SMALL),
}

_COPIES: Final = frozenset({COPY_DATA, COPY_DONE, COPY_FAIL})
_ALONE: Final = _COPIES | {QUERY, TERMINATE}
"""What is never in one group with a Parse or Bind before it."""
_CLOSES: Final = frozenset({SYNC, FLUSH, QUERY, TERMINATE})
"""What ends its group."""

# The same for all bytes, because a look into a table costs a tenth of one into a set.
_IS_ALONE: Final = bytes(kind in _ALONE for kind in range(256))
_IS_CLOSE: Final = bytes(kind in _CLOSES for kind in range(256))
_LEAST: Final = bytes(_LENGTHS[kind][0] if kind in _LENGTHS else 0 for kind in range(256))
"""The least length of a message, 0 where there is no such message."""
_MOST: Final = tuple(_LENGTHS[kind][1] if kind in _LENGTHS else 0 for kind in range(256))

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

# A statement that cannot succeed, in the place of one that was refused: the server fails there,
# skips what is pipelined behind it, and aborts the transaction as any error does.
_STAND_IN: Final = messages.parse("agentaudit", "agentaudit: a refused statement stood here")
_SYNC_FRAME: Final = messages.sync()
_FLUSH_FRAME: Final = messages.flush()

_REQUEST, _CLIENT, _SENT = Kind.REQUEST, Side.CLIENT, Flag.NONE


class _Unsettled(Exception):
    """What a name means depends on an answer that is still to come."""


class _Long:
    """A message that passes, or is refused, in pieces of 256 KiB."""

    __slots__ = ("command", "hash", "kind", "left", "portal", "refused", "start")

    def __init__(self, kind: int, size: int, refusal: Refusal | None = None) -> None:
        self.kind = kind
        self.left = size
        self.hash = hashlib.sha256()
        self.start = b""
        self.command: Execution | None = None
        self.portal: Portal | None = None
        self.refused = None if refusal is None else Refused((), error_of(refusal))

    def take(self, piece: bytes) -> bool:
        """Count a piece; return whether it is the first."""
        is_first = not self.start
        if is_first:
            self.start = piece
        self.hash.update(piece)
        self.left -= len(piece)
        return is_first


class Requests:
    """What a client sends, as steps; what it asks for goes into the ledger."""

    def __init__(self, ledger: Ledger, split: Callable[[str], Sequence[str]] | None) -> None:
        self._ledger = ledger
        self._split = split
        self.may_bind: Callable[[Prepared, bool], bool] | None = None
        self._held = bytearray()
        self._need = 0
        self._long: _Long | None = None
        # The group of frames that is being collected.
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._acts: list[Act] = []
        self._starts: tuple[Execution, ...] = ()
        self._owner: Execution | None = None
        self._text: str | None = None
        self._is_due = False
        self._is_copy = False
        self._about: list[Portal] = []
        self.is_waiting = False
        """Whether a message waits for an answer of the target; `receive` then goes on with it."""

    def receive(self, data: bytes, steps: list[Step]) -> None:
        """Append the steps that `data` completes.

        Raises:
            ClientProtocolError: bytes that the protocol does not allow.
        """
        if self._held:
            if len(self._held) + len(data) < self._need:
                self._held += data
                return
            data = b"".join((self._held, data))
            self._held.clear()
        self.is_waiting = False
        start = at = 0
        end = len(data)
        while True:
            if self._long is not None:
                need = min(self._long.left, MAX_EVENT_BYTES)
                if end - at < need:
                    break
                if self._must_wait(self._long, cut(data, at, at + need)):
                    self.is_waiting = True
                    need = 0
                    break
                self._take_piece(self._long, cut(data, at, at + need), steps)
                start = at = at + need
                continue
            need = 5
            if end - at < need:
                break
            kind = data[at]
            length = int32_at(data, at + 1)
            least = _LEAST[kind]
            if not least or length < least or length > _MOST[kind]:
                self._release(cut(data, start, at), steps)
                raise _impossible(kind, length, _LENGTHS.get(kind))
            need = length + 1
            stop = at + need
            if need > MAX_EVENT_BYTES or kind == FUNCTION_CALL:
                long = self._long_message(kind, need)
                if long is not None:
                    # A long Bind goes ahead of the Execute that it still belongs to.
                    self._release(cut(data, start, at), steps, keep_acts=kind == BIND)
                    self._long = long
                    start = at
                    continue
            if stop > end:
                break
            # Whatever is not collected with what went before ends that group.
            if self._is_due and kind != SYNC and kind != FLUSH:
                if not (self._is_copy and kind in _COPIES):
                    self._release(cut(data, start, at), steps)
                    start = at
            elif _IS_ALONE[kind] and (at > start or self._parts):
                self._release(cut(data, start, at), steps)
                start = at
            try:
                self._take(kind, cut(data, at + 5, stop))
            except _Unsettled:
                if end - at > MAX_DECIDED_BYTES:
                    raise ClientProtocolError(
                        "more than 16 MiB behind a statement that the server has not agreed to yet"
                    ) from None
                self.is_waiting = True
                need = 0
                break
            except ClientProtocolError:
                self._release(cut(data, start, at), steps)
                raise
            at = stop
            if kind == COPY_DATA:
                # What a COPY loads is row upon row of these: they are told as one.
                while end - at >= 5 and data[at] == COPY_DATA:
                    length = int32_at(data, at + 1)
                    if length < 4 or length >= MAX_EVENT_BYTES or length > end - at - 1:
                        break
                    at += length + 1
            elif _IS_CLOSE[kind]:
                self._release(cut(data, start, at), steps)
                start = at
        if at > start:
            self._hold_or_release(cut(data, start, at), steps)
        if at < end:
            self._held += data[at:] if at else data
            self._need = need

    def refuse(self, commands: tuple[Execution, ...], refusal: Refusal) -> list[Step]:
        """Return what goes to the server in place of the frames of `commands`."""
        for command in commands:
            command.deny(refusal.code, refusal.message)
        place = Act(REFUSED, commands[0], Refused(commands, error_of(refusal)))
        replaced = self._ledger.replace(commands, place)
        closing = commands[-1].closing
        if replaced is None:
            # The server skips to the next Sync: it would not have looked at what was refused.
            frame = closing if closing == _SYNC_FRAME else b""
        elif replaced == QUERY:
            frame = _STAND_IN + _SYNC_FRAME
        else:
            frame = _STAND_IN + closing
        if not frame:
            return []
        event = _stand_in_event(commands[0].command_no, frame)
        return [Step(side=_CLIENT, frame=frame, events=(event,), synthetic=True)]

    # Groups.

    def _release(self, frame: bytes, steps: list[Step], *, keep_acts: bool = False) -> None:
        """Make a step of the group that was collected; `frame` is its last part."""
        if self._parts:
            self._parts.append(frame)
            frame = b"".join(self._parts)
            self._parts.clear()
            self._parts_bytes = 0
        if self.may_bind is not None and self._acts and not self._starts and not keep_acts:
            self._begin_bound(self.may_bind)
        owner = self._owner
        if frame:
            starts: tuple[Command, ...] = self._starts
            ends: tuple[Command, ...] = ()
            if self._ledger.ends:
                ends = tuple(self._ledger.ends)
                self._ledger.ends.clear()
            if owner is not None and len(frame) > MAX_EVENT_BYTES:
                owner.add_hash(hashlib.sha256(frame).hexdigest())
            number = -1 if owner is None else owner.command_no
            event = passed(_REQUEST, _CLIENT, number, self._text, frame, _SENT)
            step = step_of(_CLIENT, frame, event, starts, ends, False)
            if self._about:
                step.about = tuple(self._about)
                self._about.clear()
            steps.append(step)
        self._owner = self._text = None
        self._starts = ()
        self._is_due = self._is_copy = False
        if keep_acts:
            self._let_ahead()
        else:
            self._acts = []

    def _let_ahead(self) -> None:
        """Note that what was collected passes before the Execute that it belongs to."""
        for act in self._acts:
            act.is_ahead = True

    def _hold_or_release(self, frame: bytes, steps: list[Step]) -> None:
        if self._is_due or len(self._acts) > MAX_GROUP:
            self._release(frame, steps)
        elif self._parts_bytes + len(frame) > MAX_DECIDED_BYTES:
            self._release(frame, steps, keep_acts=True)
        else:
            self._parts.append(frame)
            self._parts_bytes += len(frame)

    def _take(self, kind: int, body: bytes) -> None:
        """Take in one whole message."""
        if kind == BIND:
            self._bind(body)
        elif kind == EXECUTE:
            self._execute(body)
        elif kind == SYNC or kind == FLUSH:  # noqa: SIM109 a tuple costs a tenth of this
            self._close_group(kind)
        elif kind == DESCRIBE or kind == CLOSE:  # noqa: SIM109
            self._describe_or_close(kind, body)
        elif kind == PARSE:
            self._parse(body)
        elif kind == QUERY:
            self._query(body)
        elif kind == TERMINATE:
            self._text = "Terminate"
            self._is_due = True
        else:
            self._copy(kind)

    def _owe(self, kind: int, thing: Prepared | Portal | Refused | None = None) -> None:
        act = Act(kind, None, thing)
        self._acts.append(act)
        self._ledger.owe(act)

    def _close_group(self, kind: int) -> None:
        ledger = self._ledger
        if self.may_bind is not None and self._acts and not self._starts:
            self._begin_bound(self.may_bind)
        if self._starts:
            self._starts[-1].closing = _SYNC_FRAME if kind == SYNC else _FLUSH_FRAME
        elif not self._acts:
            # It came alone: it belongs to the command before it, if that has not ended.
            last = ledger.last
            self._owner = None if last is None or last.is_ended else last
        self._is_due = True
        if kind == FLUSH:
            return
        if ledger.copy == "in" and not ledger.is_copy_ended:
            ledger.swallowed_syncs += 1
            return
        ledger.owe_ready()

    # Messages.

    def _parse(self, body: bytes) -> None:
        ledger = self._ledger
        parse = decode_parse(body)
        sql = self._text = text_of(parse.sql, ledger.codec)
        if ledger.is_skipping:
            ledger.remember_skipped(Prepared(parse.name, sql, cut_text(sql), parse.types))
            self._acts.append(Act(PARSE, None))
            return
        statement = ledger.names.prepare(parse.name, sql, parse.types, ledger.cycle)
        statement.is_ambiguous = ledger.is_ambiguous(parse.sql, sql)
        self._owe(PARSE, statement)

    def _statement(self, name: bytes) -> Prepared:
        """Return what `name` means here.

        Raises:
            _Unsettled: that depends on an answer to what was sent before the last Sync.
        """
        ledger = self._ledger
        if ledger.is_skipping:
            skipped = ledger.skipped.get(name)
            if skipped is not None:
                return skipped
        elif self._is_unsettled(name):
            raise _Unsettled
        return ledger.names.statement(name, ledger.codec)

    def _is_unsettled(self, name: bytes) -> bool:
        """Say whether what a statement's `name` means depends on answers that will come."""
        ledger = self._ledger
        if ledger.names.is_unsettled(name, ledger.cycle):
            return True
        return self._is_in_doubt(name) and ledger.can_wait()

    def _is_in_doubt(self, name: bytes) -> bool:
        """Say whether a command under way may change what `name` stands for."""
        return bool(name) and self._ledger.is_renaming(name[:MAX_NAME_BYTES])

    def _portal(self, name: bytes) -> Portal | None:
        """Return the portal `name`, as `_statement` does."""
        ledger = self._ledger
        if ledger.is_skipping:
            return ledger.skipped_portals.get(name) or ledger.names.portal(name)
        if ledger.names.is_unsettled_portal(name, ledger.cycle):
            raise _Unsettled
        portal = ledger.names.portal(name)
        if self._is_in_doubt(name):
            if ledger.can_wait():
                raise _Unsettled
            if portal is not None:
                portal.is_doubtful = True
        return portal

    def _bind_name(self, portal: Portal) -> None:
        if self._ledger.is_skipping:
            self._ledger.remember_skipped(portal)
        else:
            self._ledger.names.bind(portal)
        self._owe(BIND, portal)

    def _describe_or_close(self, kind: int, body: bytes) -> None:
        names = self._ledger.names
        subtype, name = decode_name("Describe" if kind == DESCRIBE else "Close", body)
        thing: Prepared | Portal | None = None
        if subtype == _STATEMENT:
            is_close = kind == CLOSE
            thing = names.close(name, self._ledger.cycle) if is_close else self._statement(name)
        elif kind == CLOSE:
            thing = names.close_portal(name, self._ledger.cycle)
        else:
            thing = self._portal(name)
        self._owe(kind, thing)

    def _bind(self, body: bytes) -> None:
        ledger = self._ledger
        bind = decode_bind(body)
        statement = self._statement(bind.statement)
        params: tuple[str | None, ...] | None = ()
        if bind.values:
            # With the length before it, no value is four times as long in any of its texts.
            is_short = len(body) * 4 <= MAX_TEXT_BYTES
            params = self._params(bind, statement.types, is_short)
        portal = Portal(bind.portal, statement, params, bind.result_formats, ledger.cycle)
        portal.is_doubtful = self._is_in_doubt(bind.statement)
        portal.has_binary = 1 in bind.formats
        self._bind_name(portal)
        if ledger.is_watched:
            self._about.append(portal)

    def _params(
        self, bind: messages.Bind, types: tuple[int, ...], is_short: bool
    ) -> tuple[str | None, ...] | None:
        """Return the parameters as texts, None where they are too long for a command's row."""
        values = bind.values
        formats = bind.formats
        codec = self._ledger.codec
        if not is_short and _length(values) > MAX_TEXT_BYTES:
            return None
        if 1 not in formats:
            texts = tuple([None if v is None else text_of(v, codec) for v in values])
        else:
            if len(formats) == 1:
                formats *= len(values)
            types += (0,) * (len(values) - len(types))
            texts = tuple(
                [
                    messages.parameter_text(value, form == 1, oid, codec)
                    for value, form, oid in zip(values, formats, types, strict=False)
                ]
            )
        return texts if is_short or _fits(texts) else None

    def _execute(self, body: bytes) -> None:
        ledger = self._ledger
        name, max_rows = decode_execute(body)
        portal = self._portal(name)
        if portal is None:
            # A cursor of DECLARE is a portal too.
            rows = max_rows if max_rows > 0 else "ALL"
            sql = f"FETCH {rows} FROM {quoted(name.decode(ledger.codec, 'replace'))}"
            portal = Portal(name, Prepared(b"", sql, cut_text(sql)), None, (), ledger.cycle)
        statement = portal.statement
        command = ledger.last = ledger.begin(statement.sql, statement.text, portal)
        command.is_ambiguous = statement.is_ambiguous or portal.is_doubtful
        if ledger.names.is_doubtful and (portal.name or statement.name):
            command.is_ambiguous = True
        for act in self._acts:
            act.command = command
        self._text = statement.sql
        self._owner = command
        self._starts = (command,)
        self._is_due = True
        if ledger.is_skipping:
            ledger.skip(command)
        else:
            ledger.owed.append(Act(EXECUTE, command, portal))

    def _begin_bound(self, may_bind: Callable[[Prepared, bool], bool]) -> None:
        """Begin a command of what is bound here and not executed, unless it may just pass.

        To bind is to plan, and a server that plans runs functions that call themselves immutable.
        """
        ledger = self._ledger
        for act in self._acts:
            portal = act.thing
            if act.kind != BIND or not isinstance(portal, Portal):
                continue
            statement = portal.statement
            is_ambiguous = statement.is_ambiguous or portal.is_doubtful
            if ledger.names.is_doubtful and (portal.name or statement.name):
                is_ambiguous = True
            if may_bind(statement, is_ambiguous):
                continue
            command = ledger.last = ledger.begin(statement.sql, statement.text, portal)
            command.is_ambiguous = is_ambiguous
            command.is_only_bound = True
            for each in self._acts:
                each.command = command
            self._text = statement.sql
            self._owner = command
            self._starts = (command,)
            if ledger.is_skipping:
                ledger.skip(command)
            return

    def _query(self, body: bytes) -> None:
        ledger = self._ledger
        data = decode_query(body)
        sql = text_of(data, ledger.codec)
        texts: Sequence[str] = ()
        is_ambiguous = ledger.is_ambiguous(data, sql)
        if self._split is not None and not is_ambiguous:
            texts = self._split(sql)
        if len(texts) < 2:
            texts = (sql,)
        commands = tuple([ledger.begin(text, cut_text(text)) for text in texts])
        commands[0].is_ambiguous = is_ambiguous
        self._text = sql
        self._owner = commands[0]
        self._starts = commands
        ledger.last = commands[-1]
        self._is_due = True
        if ledger.is_skipping:
            for command in commands:
                ledger.skip(command)
            return
        ledger.cycle += 1
        ledger.owed.append(Act(QUERY, commands[0], Batch(commands, ledger.cycle)))

    def _copy(self, kind: int) -> None:
        ledger = self._ledger
        self._is_due = self._is_copy = True
        last = ledger.last
        self._owner = None if last is None or last.is_ended else last
        # Outside COPY FROM the server ignores CopyDone and CopyFail: nothing is owed for them.
        if kind != COPY_DATA:
            # Behind the end of the COPY under way it is that of one further on.
            if ledger.copy == "in" and not ledger.is_copy_ended:
                ledger.is_copy_ended = True
            elif ledger.owed.last is not None and not ledger.is_skipping:
                ledger.owed.last.ends_copy = True

    # Long messages.

    def _long_message(self, kind: int, size: int) -> _Long | None:
        """Return how a message of `size` bytes passes, None where it must be held whole."""
        if kind == COPY_DATA:
            long = _Long(kind, size)
            last = self._ledger.last
            long.command = None if last is None or last.is_ended else last
            return long
        if kind == BIND:
            return _Long(kind, size) if size > MAX_BIND_BYTES else None
        if kind == FUNCTION_CALL:
            return _Long(kind, size, _NO_FUNCTION_CALL)
        return _Long(kind, size, _TOO_LONG) if size > MAX_DECIDED_BYTES else None

    def _must_wait(self, long: _Long, piece: bytes) -> bool:
        """Say whether a long Bind is of a statement that the server has not agreed to yet."""
        if long.start or long.kind != BIND or self._ledger.is_skipping:
            return False
        _, statement, _ = messages.decode_bind_names(piece[5:])
        return self._is_unsettled(statement)

    def _take_piece(self, long: _Long, piece: bytes, steps: list[Step]) -> None:
        is_first = long.take(piece)
        refused = long.refused
        if is_first and long.kind == BIND:
            self._bind_long(long)
            self._let_ahead()
        starts: tuple[Execution, ...] = ()
        text: str | None = None
        if is_first and refused is not None:
            text = self._begin_refused(long, refused)
            starts = refused.commands
        command_no = -1 if long.command is None else long.command.command_no
        event = Event(
            kind=_REQUEST,
            side=_CLIENT,
            command_no=command_no,
            text=text,
            payload=piece,
            orig_len=len(piece),
            flags=Flag.CONTINUED if long.left else Flag.NONE,
        )
        events: tuple[Event, ...] = (event,)
        frame = piece
        if refused is not None:
            # Recorded in full, and not passed on.
            frame = b"" if long.left else self._end_refused(long, refused)
            if frame:
                events = (event, _stand_in_event(command_no, frame))
        ends = tuple(self._ledger.ends)
        self._ledger.ends.clear()
        about: tuple[Portal, ...] = ()
        if is_first and long.portal is not None and self._ledger.is_watched:
            about = (long.portal,)
        if not long.left:
            self._long = None
            if not is_first:
                self._keep_hash(long)
        steps.append(
            Step(
                side=_CLIENT,
                frame=frame,
                events=events,
                starts=starts,
                ends=ends,
                synthetic=refused is not None,
                about=about,
            )
        )

    def _keep_hash(self, long: _Long) -> None:
        digest = long.hash.hexdigest()
        if long.portal is not None:
            long.portal.sha256 = (digest,)
        elif long.command is not None and not long.command.is_ended:
            long.command.add_hash(digest)

    def _bind_long(self, long: _Long) -> None:
        ledger = self._ledger
        name, statement, _ = messages.decode_bind_names(long.start[5:])
        long.portal = Portal(name, self._statement(statement), None, (), ledger.cycle)
        long.portal.is_doubtful = self._is_in_doubt(statement)
        self._bind_name(long.portal)

    def _begin_refused(self, long: _Long, refused: Refused) -> str:
        """Start the command of a message that is refused as it comes; return what it says."""
        ledger = self._ledger
        start = long.start[5 : 5 + MAX_TEXT_BYTES]
        if long.kind == PARSE:
            # Not a command yet: an Execute behind it will be one, and is refused with it.
            name, _, rest = start.partition(b"\0")
            sql = rest.decode(ledger.codec, "replace")
            refused.statement = ledger.names.prepare(name, sql, (), ledger.cycle)
            return sql
        is_query = long.kind == QUERY
        sql = start.decode(ledger.codec, "replace") if is_query else "FunctionCall"
        command = ledger.last = ledger.begin(sql, cut_text(sql))
        report = messages.decode_report(refused.report[5:])
        command.deny(report.code, report.message)
        long.command = command
        refused.commands = (command,)
        if ledger.is_skipping:
            ledger.skip(command)
        return sql

    def _end_refused(self, long: _Long, refused: Refused) -> bytes:
        """Return what the server gets in place of a message that was refused as it came."""
        ledger = self._ledger
        act = Act(REFUSED, long.command, refused)
        if ledger.is_skipping:
            ledger.void(act)
            return b""
        ledger.owed.append(act)
        if long.kind == PARSE:
            self._acts.append(act)
            self._let_ahead()
            return _STAND_IN
        ledger.owe_ready()
        return _STAND_IN + _SYNC_FRAME


_STATEMENT: Final = ord("S")  # the subtype of Describe and Close


def error_of(refusal: Refusal) -> bytes:
    """Return the ErrorResponse that tells a client of a refusal."""
    return messages.error_response(
        severity="ERROR",
        code=refusal.code,
        message=refusal.message,
        detail=refusal.detail,
        hint=refusal.hint,
    )


def _length(texts: Sequence[str | bytes | None]) -> int:
    return sum([len(text) for text in texts if text is not None])


def _fits(texts: Sequence[str | None]) -> bool:
    return _length([t and t.encode("utf-8", "replace") for t in texts]) <= MAX_TEXT_BYTES


def _stand_in_event(command_no: int, frame: bytes) -> Event:
    return Event(
        kind=_REQUEST,
        side=_CLIENT,
        command_no=command_no,
        payload=frame,
        orig_len=len(frame),
        flags=Flag.SYNTHETIC,
    )


def _impossible(kind: int, length: int, limits: tuple[int, int] | None) -> ClientProtocolError:
    if limits is None:
        return ClientProtocolError(f"message 0x{kind:02x} from the client: no such message here")
    return ClientProtocolError(
        f"message 0x{kind:02x} from the client: length {length}, "
        f"expected {limits[0]} to {limits[1]}"
    )
