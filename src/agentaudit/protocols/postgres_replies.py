"""The target's side of a PostgreSQL conversation: bytes into steps that end commands.

A run of whole messages that belong to one command is one step and one `response` event. Rows are
skipped by their lengths and counted; nothing looks into them. A message of more than 256 KiB
passes in pieces of exactly that, and its hash is in its command.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final

from agentaudit._native.raw import cut, int32_at
from agentaudit.errors import TargetProtocolError
from agentaudit.model import MAX_EVENT_BYTES, Command, Flag, Kind, Side, Step, passed, step_of
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
from agentaudit.protocols.postgres_messages import RowShape, decode_row_description
from agentaudit.protocols.postgres_prepared import NO_SHAPE, Names, Portal, Prepared

_DATA_ROW, _ERROR, _BOUND, _ROWS, _COMPLETE, _READY, _COPIED = b"DE2TCZd"
_MAY_BE_LONG: Final = b"DEdNAS"

_CHANGES: Final = frozenset(
    ["INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "DROP", "ALTER", "GRANT"]
    + ["REVOKE", "REFRESH", "CALL", "DO"]
)
"""First words of the tags with which the server reports that something was changed."""


def _discard_all(names: Names, sql: str) -> None:
    names.deallocate_all()
    names.close_all()


_RENAMES: Final[Mapping[str, Callable[[Names, str], None]]] = {
    "PREPARE": Names.prepared_by_sql,
    "DEALLOCATE": Names.deallocate,
    "DEALLOCATE ALL": lambda names, sql: names.deallocate_all(),
    "DECLARE CURSOR": Names.declared,
    "CLOSE CURSOR": Names.close_cursor,
    "CLOSE CURSOR ALL": lambda names, sql: names.close_all(),
    "DISCARD ALL": _discard_all,
}
"""What a statement that was answered so has done to names."""

_TELLING: Final = frozenset(
    {"client_encoding", "default_transaction_read_only", "is_superuser", "search_path"}
    | {"session_authorization", "standard_conforming_strings"}
)
"""Reported settings that change what a statement means or may do; `search_path` since 18."""
_ROW_VERBS: Final = ("SELECT", "FETCH", "SHOW", "EXPLAIN")

_COMMENT: Final = re.compile(r"/\*|--[^\r\n]*")
_IN_COMMENT: Final = re.compile(r"/\*|\*/")
_TO_SAVEPOINT: Final = re.compile(
    r"\s*(?:ROLLBACK|ABORT)(?:\s+(?:WORK|TRANSACTION))?\s+TO\s", re.IGNORECASE
)

_RESPONSE, _TARGET = Kind.RESPONSE, Side.TARGET
# Made once: `|` of two flags costs more than reading a row.
_RECEIVED: Final = Flag.FROM_TARGET
_RECEIVED_CONTINUED: Final = Flag.FROM_TARGET | Flag.CONTINUED
_RECEIVED_SYNTHETIC: Final = Flag.FROM_TARGET | Flag.SYNTHETIC


def _goes_back_to_savepoint(sql: str) -> bool:
    """Say whether a statement that was answered with ROLLBACK leaves its transaction open."""
    words = ""
    at = 0
    while (comment := _COMMENT.search(sql, at)) is not None:
        words += sql[at : comment.start()] + " "
        at = comment.end()
        depth = 1 if comment[0] == "/*" else 0
        while depth and (mark := _IN_COMMENT.search(sql, at)) is not None:
            depth += 1 if mark[0] == "/*" else -1
            at = mark.end()
    return _TO_SAVEPOINT.match(words + sql[at:]) is not None


class _Long:
    """A message that passes in pieces of 256 KiB."""

    __slots__ = ("hash", "kind", "left", "owner", "start")

    def __init__(self, kind: int, size: int, owner: Execution | None) -> None:
        self.kind = kind
        self.left = size
        self.owner = owner
        self.hash = hashlib.sha256()
        self.start = b""


class Replies:
    """What a server answers, as steps; each answer is taken off the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.parameters: dict[str, str] = {}
        self._held = bytearray()
        self._need = 0
        self._long: _Long | None = None
        self._rows = 0
        self._texts: list[str] = []
        self._starts: tuple[Execution, ...] = ()
        self._about: list[tuple[object, RowShape]] = []

    def receive(self, data: bytes, steps: list[Step]) -> None:
        """Append the steps that `data` completes.

        Raises:
            TargetProtocolError: bytes that the protocol does not allow, or not here.
        """
        if self._held:
            if len(self._held) + len(data) < self._need:
                self._held += data
                return
            data = b"".join((self._held, data))
            self._held.clear()
        ledger = self._ledger
        owed = ledger.owed
        start = at = 0
        end = len(data)
        owner: Execution | None = None
        while True:
            if self._long is not None:
                need = min(self._long.left, MAX_EVENT_BYTES)
                if end - at < need:
                    break
                self._take_piece(self._long, cut(data, at, at + need), steps)
                start = at = at + need
                continue
            need = 5
            if end - at < need:
                break
            kind = data[at]
            length = int32_at(data, at + 1)
            need = length + 1
            stop = at + need
            # Whose this message is; a run has one owner.
            now = ledger.ending
            if now is None and owed.first is not None:
                now = owed.first.command
            if at > start and (now is not owner or stop - start > MAX_EVENT_BYTES):
                self._release(owner, cut(data, start, at), steps)
                start = at
            owner = now
            if length < 4 or (kind != _DATA_ROW and kind not in _REPLIES):
                self._release(owner, cut(data, start, at), steps)
                raise TargetProtocolError(f"message 0x{kind:02x} of length {length} from a server")
            if need > MAX_EVENT_BYTES:
                self._release(owner, cut(data, start, at), steps)
                start = at
                self._long = _Long(kind, need, owner)
                continue
            if stop > end:
                break
            if kind == _DATA_ROW or kind == _COPIED:  # noqa: SIM109 a tuple costs more
                try:
                    at = self._skip_rows(kind, data, start, stop)
                except TargetProtocolError:
                    self._release(owner, data[start:at], steps)
                    raise
                continue
            if kind == _ERROR and at > start:
                # It is told in its own event, and may have to be replaced.
                self._release(owner, cut(data, start, at), steps)
                start = at
            try:
                stand_in = self._take(kind, cut(data, at + 5, stop))
            except TargetProtocolError:
                self._release(owner, cut(data, start, at), steps)
                raise
            at = stop
            if stand_in is not None:
                self._release(owner, stand_in, steps, _RECEIVED_SYNTHETIC)
                start = at
            elif ledger.ends or self._starts:
                self._release(
                    self._starts[0] if self._starts else owner, cut(data, start, at), steps
                )
                start = at
        if at > start:
            self._release(owner, cut(data, start, at), steps)
        if at < end:
            self._held += data[at:] if at else data
            self._need = need

    def _take(self, kind: int, body: bytes) -> bytes | None:
        """Take in one whole message."""
        # What nearly every answer is made of needs no look into a table.
        if kind == _BOUND:
            return self._bind_complete(body)
        if kind == _ROWS:
            return self._row_description(body)
        if kind == _COMPLETE:
            return self._command_complete(body)
        if kind == _READY:
            return self._ready(body)
        return _REPLIES[kind](self, body)

    def _skip_rows(self, kind: int, data: bytes, start: int, at: int) -> int:
        """Count the row that ends at `at` and those behind it; return where the last one ends.

        It is a DataRow or CopyData. This loop is nearly all that a large result costs here.
        """
        if kind == _COPIED:
            self._copy_data(data)
        else:
            self._expect_rows()
        rows = 1
        end = len(data)
        limit = min(end, start + MAX_EVENT_BYTES)
        last_header = end - 5
        while at <= last_header:
            length = int32_at(data, at + 1)
            stop = at + 1 + length
            if data[at] != kind or stop > limit or length < 4:
                break
            at = stop
            rows += 1
        if kind == _DATA_ROW:
            self._rows += rows
        return at

    def _release(
        self,
        owner: Execution | None,
        frame: bytes,
        steps: list[Step],
        flags: Flag = _RECEIVED,
    ) -> None:
        """Make a step of a run of messages, with what they ended."""
        if not frame:
            return
        text: str | None = None
        if self._texts:
            text = "\n".join(self._texts)
            self._texts.clear()
        ends: tuple[Command, ...] = ()
        if self._ledger.ends:
            ends = tuple(self._ledger.ends)
            self._ledger.ends.clear()
        number = -1 if owner is None else owner.command_no
        event = passed(_RESPONSE, _TARGET, number, text, frame, flags)
        is_synthetic = flags is _RECEIVED_SYNTHETIC
        step = step_of(_TARGET, frame, event, self._starts, ends, is_synthetic)
        if self._about:
            step.about = tuple(self._about)
            self._about.clear()
        steps.append(step)
        self._starts = ()

    def _take_piece(self, long: _Long, piece: bytes, steps: list[Step]) -> None:
        if not long.start:
            long.start = piece
        long.hash.update(piece)
        long.left -= len(piece)
        if long.left:
            self._release(long.owner, piece, steps, _RECEIVED_CONTINUED)
            return
        self._long = None
        if long.owner is not None:
            long.owner.add_hash(long.hash.hexdigest())
        if long.kind == _DATA_ROW:
            self._expect_rows()
            self._rows += 1
        elif long.kind not in _MAY_BE_LONG:
            raise TargetProtocolError(f"message 0x{long.kind:02x}: too long to be one")
        # Of a long error or notice the beginning is read: code and message come first.
        elif _REPLIES[long.kind](self, long.start[5:]) is not None:
            raise TargetProtocolError("ErrorResponse: too long where a statement was refused")
        self._release(long.owner, piece, steps)

    def end_unread(
        self,
        status: str,
        error_code: str | None,
        tag: str,
        txn_status: str | None,
        steps: list[Step],
    ) -> None:
        """Take in the shortest end that the answer under way can have had.

        What a server says is made up here rather than the ledger moved by hand: there is one
        place that knows what an answer means for what is still owed.

        Raises:
            TargetProtocolError: it does not fit what is owed.
        """
        self._held.clear()
        self._need = 0
        self._long = None
        if status == "incomplete":
            return
        owed = self._ledger.owed
        if status != "ok":
            report = messages.error_response(severity="ERROR", code=error_code or "", message="")
            self.receive(report, steps)
        elif self._ledger.ending is None:
            while owed.first is not None and owed.first.kind in _SHORTEST_ANSWER:
                self.receive(_SHORTEST_ANSWER[owed.first.kind], steps)
            self.receive(messages.frame(b"C", tag.encode("ascii", "replace") + b"\0"), steps)
        if txn_status is not None:
            self.receive(messages.ready_for_query(txn_status.encode()), steps)

    # Answers; each returns a frame for the client where that is not to be the server's own.

    def _expect_rows(self) -> Act:
        ledger = self._ledger
        act = ledger.expect(EXECUTE, QUERY)
        ledger.ending = None  # A query with more results than we know statements.
        return act

    def _parse_complete(self, body: bytes) -> bytes | None:
        statement = self._ledger.expect(PARSE).thing
        self._ledger.owed.drop()
        if isinstance(statement, Prepared):
            self._ledger.names.agree(statement)
        return None

    def _bind_complete(self, body: bytes) -> bytes | None:
        portal = self._ledger.expect(BIND).thing
        self._ledger.owed.drop()
        if isinstance(portal, Portal):
            self._ledger.names.agree_portal(portal)
        return None

    def _close_complete(self, body: bytes) -> bytes | None:
        closed = self._ledger.expect(CLOSE).thing
        self._ledger.owed.drop()
        if isinstance(closed, Prepared):
            self._ledger.names.agree(closed)
        elif isinstance(closed, Portal):
            self._ledger.names.agree_portal(closed)
        return None

    def _parameter_description(self, body: bytes) -> bytes | None:
        statement = self._ledger.expect(DESCRIBE).thing
        types = messages.decode_parameter_description(body)
        if isinstance(statement, Prepared):
            statement.types = types
        return None

    def _row_description(self, body: bytes) -> bytes | None:
        act = self._ledger.expect(DESCRIBE, QUERY)
        shape = decode_row_description(body, self._ledger.codec)
        if self._ledger.is_watched:
            self._about.append((act.command if act.kind == QUERY else act.thing, shape))
        if act.kind == QUERY:
            self._ledger.ending = None
            if act.command is not None:
                act.command.shape = shape
                act.command.columns = shape.names
                act.command.origins = shape.origins
            return None
        if isinstance(act.thing, Prepared | Portal):
            act.thing.shape = shape
        self._ledger.owed.drop()
        return None

    def _no_data(self, body: bytes) -> bytes | None:
        self._ledger.expect(DESCRIBE)
        self._ledger.owed.drop()
        return None

    def _command_complete(self, body: bytes) -> bytes | None:
        known = _TAGS.get(body)
        tag, verb, count = _tag(body) if known is None else known
        command = self._complete(self._expect_rows(), verb, count)
        if verb == "COMMIT" or tag == "PREPARE TRANSACTION":
            self._ledger.end_transaction()
        elif tag == "ROLLBACK":
            # Idle need not follow: in a chain, or within a query. A COMMIT may say so too.
            if not _goes_back_to_savepoint(command.sql):
                self._ledger.end_transaction()
        elif tag in _RENAMES:
            _RENAMES[tag](self._ledger.names, command.sql)
        return None

    def _empty_query(self, body: bytes) -> bytes | None:
        self._complete(self._expect_rows(), "", None)
        return None

    def _portal_suspended(self, body: bytes) -> bytes | None:
        self._complete(self._ledger.expect(EXECUTE), "SELECT", None)
        return None

    def _complete(self, act: Act, verb: str, count: int | None) -> Execution:
        """Give the command its outcome; it ends now unless ReadyForQuery is what comes next."""
        ledger = self._ledger
        command = act.command
        assert command is not None
        command.status = "ok"
        changes = verb in _CHANGES or ledger.copy == "in"
        if changes and command.cls in ("read", "session"):
            # What the server says it did outweighs what the text seemed to say: a name may have
            # come to stand for another statement where no protocol shows it (in a DO block).
            command.cls = "unknown"
            command.confidence = "uncertain"
            command.risk += (f"answered as {verb}",)
        command.name_columns()
        ledger.use_transaction(command)
        if ledger.copy:
            self._end_copy(command, count)
        else:
            self._count_rows(command, verb, count)
        if act.kind == EXECUTE:
            ledger.owed.drop()
            following = ledger.owed.first
            if following is not None and following.kind == SYNC:
                ledger.ending = command
            else:
                ledger.end(command, None)
            self._rows = 0
            return command
        batch = act.thing
        assert isinstance(batch, Batch)
        if batch.is_last():
            ledger.ending = command
        else:
            batch.at += 1
            act.command = batch.commands[batch.at]
            ledger.end(command, None)
            self._rows = 0
        return command

    def _count_rows(self, command: Execution, verb: str, count: int | None) -> None:
        returns_rows = verb in _ROW_VERBS
        if self._rows or command.columns:
            command.rows_returned = self._rows
        elif returns_rows and not count:
            command.rows_returned = 0
        # CREATE TABLE AS answers `SELECT 5` without a row; MOVE counts what nobody got.
        if count and verb != "MOVE" and not (returns_rows and command.rows_returned is not None):
            command.rows_affected = (command.rows_affected or 0) + count
        elif count == 0 and not returns_rows and verb != "MOVE":
            command.rows_affected = command.rows_affected or 0

    def _end_copy(self, command: Execution, count: int | None) -> None:
        ledger = self._ledger
        if ledger.copy == "in":
            # It came to its end, so the server has read, and ignored, these.
            ledger.swallowed_syncs = 0
            command.rows_affected = count
        else:
            command.rows_returned = count
        ledger.copy = ""

    def _copy_in(self, body: bytes) -> bytes | None:
        self._expect_rows()
        self._ledger.begin_copy("in", is_binary=body[:1] == b"\1")
        return None

    def _copy_out(self, body: bytes) -> bytes | None:
        self._expect_rows()
        self._begin_copy("out", body)
        return None

    def _copy_both(self, body: bytes) -> bytes | None:
        self._expect_rows()
        self._begin_copy("both", body)
        return None

    def _begin_copy(self, direction: str, body: bytes) -> None:
        self._ledger.begin_copy(direction, is_binary=body[:1] == b"\1")
        if self._ledger.is_watched:
            self._about.append(("copy", NO_SHAPE))

    def _copy_data(self, body: bytes) -> bytes | None:
        if self._ledger.copy not in ("out", "both"):
            raise TargetProtocolError("CopyData outside of a COPY")
        return None

    def _error(self, body: bytes) -> bytes | None:
        ledger = self._ledger
        report = messages.decode_report(body, ledger.codec)
        if report.ends_connection:
            self._texts.append(str(report))
            command = ledger.owner()
            if command is not None:
                # A query is committed when it is complete, an execution at its Sync.
                first = ledger.owed.first
                if ledger.ending is None or first is None or first.kind != QUERY:
                    ledger.blame(command, report)
                ledger.end(command, None)
            ledger.ending = None
            return None
        act = ledger.owed.first
        if act is None:
            raise TargetProtocolError(f"an error {report.code} that answers nothing")
        ledger.copy = ""
        # A deferred constraint speaks up at the Sync: the command before it has failed.
        command = ledger.ending if act.kind == SYNC else act.command
        stand_in: bytes | None = None
        if act.kind == REFUSED:
            assert isinstance(act.thing, Refused)
            stand_in = act.thing.report
            report = messages.decode_report(stand_in[5:])
            if command is not None:
                command.deny(report.code, report.message)
        elif (
            act.kind == PARSE
            and isinstance(act.thing, Prepared)
            and (command is None or not command.runs(act.thing))
        ):
            # It was only to be prepared. Many drivers prepare whatever they run, so a statement
            # that fails here is a command that failed, or it would show nowhere as one. An
            # Execute of something else, sent along with it, is not to blame.
            command = ledger.begin(act.thing.sql, act.thing.text)
            self._starts = (command,)
        self._texts.append(str(report))
        if command is not None:
            ledger.blame(command, report)
            if self._rows:
                command.rows_returned = self._rows
        self._rows = 0
        if act.kind == QUERY:
            assert isinstance(act.thing, Batch)
            for other in act.thing.commands[act.thing.at + 1 :]:
                ledger.skip(other)
            act.thing.at = len(act.thing.commands)
            ledger.ending = command
        elif act.kind != SYNC:
            ledger.fail(command)
        return stand_in

    def _notice(self, body: bytes) -> bytes | None:
        self._texts.append(str(messages.decode_report(body, self._ledger.codec)))
        return None

    def _notification(self, body: bytes) -> bytes | None:
        if self._ledger.is_watched:
            self._about.append(("notification", NO_SHAPE))
        return None

    def _parameter_status(self, body: bytes) -> bytes | None:
        self.set_parameter(*messages.decode_parameter_status(body))
        if self._ledger.is_watched:
            self._about.append(("setting", NO_SHAPE))
        return None

    def set_parameter(self, name: str, value: str) -> None:
        """Take in a setting that the server reports."""
        if name in _TELLING:
            self.parameters[name] = value
        if name == "client_encoding":
            self._ledger.codec = messages.codec_of(value)
        elif name == "standard_conforming_strings":
            self._ledger.is_standard_strings = value == "on"
        elif name == "server_encoding":
            self._ledger.is_converted = value != "SQL_ASCII"

    def _ready(self, body: bytes) -> bytes | None:
        ledger = self._ledger
        owed = ledger.owed
        status = _STATUSES.get(body)
        if status is None:
            raise TargetProtocolError("ReadyForQuery: no transaction status")
        ledger.status = status
        first = owed.first
        is_owed = first is not None and (first.kind == SYNC or first.kind == QUERY)
        if ledger.swallowed_syncs and not is_owed:
            # A COPY failed before the server read the Sync that we took for ignored.
            ledger.swallowed_syncs -= 1
            ledger.is_skipping = False
            return None
        cycle = ledger.expect(SYNC, QUERY).thing
        owed.drop()
        if ledger.ending is not None:
            ledger.end(ledger.ending, status)
            ledger.ending = None
        if isinstance(cycle, Batch):
            # The server saw fewer statements than we did.
            for command in cycle.commands[cycle.at :]:
                ledger.end(command, status)
            cycle = cycle.cycle
        self._rows = 0
        ledger.copy = ""
        if not owed:
            ledger.swallowed_syncs = 0
            ledger.is_reported = True
        if status == "I":
            ledger.end_transaction()
            assert isinstance(cycle, int)
            ledger.names.end_transaction(cycle)
        return None


_Tag = tuple[str, str, int | None]

_TAGS: Final[dict[bytes, _Tag]] = {}
"""Most answers end as one before them did."""
_MAX_TAGS: Final = 512


def _tag(body: bytes) -> _Tag:
    """Return the tag of a CommandComplete, its first word, and the number at its end."""
    tag = body[:-1].decode("ascii", "replace")
    verb, _, rest = tag.partition(" ")
    count = rest.rpartition(" ")[2]
    made = tag, verb, int(count) if count.isdigit() and len(count) < 19 else None
    if len(body) <= 64:
        if len(_TAGS) == _MAX_TAGS:
            _TAGS.clear()
        _TAGS[body] = made
    return made


_SHORTEST_ANSWER: Final[Mapping[int, bytes]] = {
    PARSE: messages.frame(b"1"),
    BIND: messages.frame(b"2"),
    CLOSE: messages.frame(b"3"),
    DESCRIBE: messages.frame(b"n"),
}
_STATUSES: Final = {b"I": "I", b"T": "T", b"E": "E"}

_Reply = Callable[[Replies, bytes], bytes | None]

_REPLIES: Final[Mapping[int, _Reply]] = {
    ord(kind): reply
    for kind, reply in {
        "1": Replies._parse_complete,
        "2": Replies._bind_complete,
        "3": Replies._close_complete,
        "A": Replies._notification,
        "C": Replies._command_complete,
        "E": Replies._error,
        "G": Replies._copy_in,
        "H": Replies._copy_out,
        "I": Replies._empty_query,
        "N": Replies._notice,
        "S": Replies._parameter_status,
        "T": Replies._row_description,
        "W": Replies._copy_both,
        "Z": Replies._ready,
        "c": Replies._copy_data,
        "d": Replies._copy_data,
        "n": Replies._no_data,
        "s": Replies._portal_suspended,
        "t": Replies._parameter_description,
    }.items()
}
