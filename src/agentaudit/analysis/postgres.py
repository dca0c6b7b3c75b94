"""The rows that a recorded PostgreSQL command returned, as Arrow tables.

Results are not stored; they are read out of the recorded bytes by the protocol code that relayed
them, run over the session again from its beginning, because a statement may have been described
long before it was executed. The recorded command numbers are taken as they are: dividing a simple
query again would ask for the SQL parser that only gateways have, and for the same version of it.

A command's rows are those of its first result. Rows of another shape, which only a text that the
recording gateway could not parse returns, are left out; `rows_returned` counts them.

What `COPY … TO STDOUT` sends has no columns that the protocol tells of, and whether its text is
tab separated or CSV stands in the statement alone. So a line is a row, whole, in one column; of the
binary format, which divides itself, rows have columns of bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from agentaudit.analysis import postgres_types as types
from agentaudit.errors import ArchiveError, ClientProtocolError, TargetProtocolError
from agentaudit.model import Command, Flag, Side, Step
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation, Execution
from agentaudit.protocols.postgres_messages import Column

Traffic = Iterable[tuple[Side | None, bytes, int, int]]
"""What a session recorded, in order: side, bytes, flags and command number of each event.

Without a side the bytes are the row of a command that ended here, and of whose response only the
beginning was kept.
"""

BATCH_ROWS: Final = 10_000
BATCH_BYTES: Final = 16 * 1024 * 1024

_header: Final = struct.Struct("!Bi").unpack_from
_DATA_ROW, _ROW_DESCRIPTION, _COPY_OUT, _COPY_DATA = b"DTHd"
_READ: Final = frozenset((_DATA_ROW, _ROW_DESCRIPTION, _COPY_OUT, _COPY_DATA))
_INT16, _INT32 = struct.Struct("!h").unpack_from, struct.Struct("!i").unpack_from
_TEXT: Final = 25
_SYNTHETIC: Final = int(Flag.SYNTHETIC)

Row = list[bytes | None]


def result_table(
    traffic: Traffic, command_no: int, limit: int | None = 100_000, *, client_encoding: str = ""
) -> pa.Table:
    """Return at most `limit` rows of a command, typed by column; all of them with None.

    A command that returned no rows, and no columns, has a table without columns. `client_encoding`
    is what the client asked for when it connected; what it set later is in the traffic.

    Raises:
        ArchiveError: the recorded bytes are not a conversation, or a row does not fit its columns.
    """
    for result in _results(traffic, client_encoding, wanted=command_no, limit=limit):
        return result.table()
    return pa.table({})


def result_tables(
    traffic: Traffic, limit: int | None, *, client_encoding: str = ""
) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and table, of at most `limit` rows, of every command that returned columns.

    Raises:
        ArchiveError: as `result_table`.
    """
    for result in _results(traffic, client_encoding, wanted=None, limit=limit):
        yield result.command_no, result.table()


def result_batches(
    traffic: Callable[[], Traffic], command_no: int, *, client_encoding: str = ""
) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a command in batches of one schema, for results of any size.

    Where a later value might not fit the type that its column has, as a time stamp may be infinite,
    a result of more than one batch is read twice: first to know the types that all of its values
    fit, as `result_table` would have them.

    Raises:
        ArchiveError: as `result_table`; or a value is none that its type has.
    """
    types_: list[pa.DataType] = []
    whole: pa.Table | None = None
    rows = 0
    for result in _parts(traffic(), client_encoding, command_no):
        if result.is_certain():
            yield result.certain_batch()
            continue
        table = result.table()
        rows += table.num_rows
        whole = table if not types_ else None
        found = table.schema.types
        types_ = [
            types.common_type(*each)
            for each in zip(result.columns, types_ or found, found, strict=True)
        ]
    if whole is not None:
        yield from whole.combine_chunks().to_batches() or [_no_rows(whole.schema)]
        return
    if not types_:
        return
    for result in _parts(traffic(), client_encoding, command_no):
        # A live session may have gone on meanwhile, with values of which nothing is known yet.
        del result.rows[rows:]
        rows -= len(result.rows)
        yield result.batch(types_)
        if rows == 0:
            return


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


@dataclass(slots=True)
class _Result:
    """Rows of one command, collected until there are enough of them."""

    command_no: int
    codec: str
    execution: Execution | None = None
    columns: tuple[Column, ...] = ()
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)
    is_described: bool = False
    is_over: bool = False
    is_given: bool = False
    copy: _Copied | None = None

    def take(self, step: Step, execution: Execution | None, limit: int | None) -> None:
        """Take in what a step of the target says, but for rows beyond `limit`."""
        self.execution = execution or self.execution
        (event,) = step.events
        if event.flags & Flag.CONTINUED:
            self.pieces.append(step.frame)
            return
        frame = b"".join((*self.pieces, step.frame))
        self.pieces.clear()
        for kind, body in _rows_in(frame):
            if kind == _ROW_DESCRIPTION:
                # One for a portal says nothing that the portal does not know, formats included.
                if execution is None or execution.portal is None:
                    self._describe(messages.decode_row_description(body, self.codec).columns)
            elif kind == _COPY_OUT:
                self.copy = _Copied(body)
                self._describe(self.copy.columns)
            elif kind == _COPY_DATA:
                if self.copy is not None:
                    self._add_copied(self.copy.rows_in(body), limit)
            elif not self.is_over and (limit is None or len(self.rows) < limit):
                self._add(self._decoded(body), len(body))

    def _decoded(self, body: bytes) -> Row:
        try:
            return messages.decode_data_row(body)
        except TargetProtocolError as error:
            raise ArchiveError(f"command {self.command_no}: {error}") from error

    def is_known(self) -> bool:
        """Whether it is a result at all, if without rows."""
        if not self.is_described and self.execution is not None:
            columns = self.execution.result_columns if self.execution.portal is not None else ()
            if columns:
                self._describe(columns)
        return bool(self.columns or self.rows)

    def _describe(self, columns: tuple[Column, ...]) -> None:
        if self.is_described:
            self.is_over = columns != self.columns
        else:
            self.columns = columns
            self.is_described = True

    def _add_copied(self, rows: Iterable[Row], limit: int | None) -> None:
        for row in rows:
            if limit is not None and len(self.rows) >= limit:
                return
            self._add(row, sum(len(value) for value in row if value is not None))

    def _add(self, row: Row, size: int) -> None:
        if not self.rows and not self.is_known() and not self.is_given:
            # Nobody had the statement described: its columns have neither name nor type.
            self._describe(
                tuple(Column(f"column_{n + 1}", 0, 0, 0, -1, -1, 0) for n in range(len(row)))
            )
        if len(row) != len(self.columns):
            raise ArchiveError(
                f"command {self.command_no}: a row of {len(row)} values, "
                f"expected {len(self.columns)}"
            )
        self.rows.append(row)
        self.size += size

    def values(self) -> Iterator[Sequence[bytes | None]]:
        if self.rows:
            return zip(*self.rows, strict=True)
        return iter([()] * len(self.columns))

    def table(self) -> pa.Table:
        arrays = [
            types.array_of(column, values, self.codec)
            for column, values in zip(self.columns, self.values(), strict=True)
        ]
        fields = [
            types.field_of(column, array.type)
            for column, array in zip(self.columns, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def is_certain(self) -> bool:
        """Whether no value can change what type a column has."""
        return all(types.certain_type(column) is not None for column in self.columns)

    def certain_batch(self) -> pa.RecordBatch:
        try:
            return self.batch([types.certain_type(column) for column in self.columns])
        except types.UNFIT as error:
            raise ArchiveError(
                f"command {self.command_no}: a value that its column's type does not have",
                hint="session.result(…) reads such a column as text or bytes",
            ) from error

    def batch(self, arrow: Sequence[pa.DataType]) -> pa.RecordBatch:
        arrays = [
            types.array_as(column, values, type_, self.codec)
            for column, values, type_ in zip(self.columns, self.values(), arrow, strict=True)
        ]
        fields = [
            types.field_of(column, type_) for column, type_ in zip(self.columns, arrow, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def is_full(self) -> bool:
        return len(self.rows) >= BATCH_ROWS or self.size >= BATCH_BYTES

    def clear(self) -> None:
        """Forget the rows, which somebody has taken."""
        self.rows = []
        self.size = 0
        self.is_given = True


_COPY_SIGNATURE: Final = b"PGCOPY\n\377\r\n\0"
_COPY_HEAD: Final = struct.Struct("!Ii").unpack_from


class _Copied:
    """The rows of a `COPY … TO STDOUT`; see the top.

    Source: postgresql.org, "COPY", "File Formats".
    """

    def __init__(self, response: bytes) -> None:
        """Begin with what a CopyOutResponse says."""
        self._is_binary = response[:1] == b"\1"
        self._held = b""
        self._is_begun = False
        self._is_over = False
        self.columns: tuple[Column, ...] = (Column("line", 0, 0, _TEXT, -1, -1, 0),)
        if self._is_binary:
            count = int.from_bytes(response[1:3], "big")
            self.columns = tuple(
                Column(f"column_{n + 1}", 0, 0, 0, -1, -1, 1) for n in range(count)
            )

    def rows_in(self, data: bytes) -> Iterator[Row]:
        """Yield the rows that a message completes; the server sends one with each.

        Raises:
            ArchiveError: it is none of the format.
        """
        if not self._is_binary:
            yield [data.removesuffix(b"\n")]
            return
        data = self._held + data
        at = 0
        try:
            if not self._is_begun:
                at = self._begin(data)
            while not self._is_over and at < len(data):
                row, at = self._row(data, at)
                if row is not None:
                    yield row
        except struct.error:
            # The rest comes with the next message: that is allowed, if no server does it.
            if len(data) - at > BATCH_BYTES:
                raise _no_copy() from None
        self._held = data[at:]

    def _begin(self, data: bytes) -> int:
        start = len(_COPY_SIGNATURE)
        if not data.startswith(_COPY_SIGNATURE[: len(data)]):
            raise _no_copy()
        _, length = _COPY_HEAD(data, start)
        end = start + 8 + int(length)
        if length < 0:
            raise _no_copy()
        if end > len(data):
            raise struct.error("cut off")
        self._is_begun = True
        return end

    def _row(self, data: bytes, at: int) -> tuple[Row | None, int]:
        (count,) = _INT16(data, at)
        at += 2
        if count == -1:
            self._is_over = True
            return None, len(data)
        row: Row = []
        for _ in range(count):
            (length,) = _INT32(data, at)
            at += 4
            if length < -1:
                raise _no_copy()
            if length > len(data) - at:
                raise struct.error("cut off")
            row.append(None if length < 0 else data[at : at + length])
            at += max(length, 0)
        return row, at


def _no_copy() -> ArchiveError:
    return ArchiveError(
        "the recorded bytes are no COPY in binary format",
        hint="session.stream('target', command_no=…) has them as they are",
    )


def _parts(traffic: Traffic, client_encoding: str, wanted: int) -> Iterator[_Result]:
    return _results(traffic, client_encoding, wanted=wanted, limit=None, batched=True)


def _results(
    traffic: Traffic,
    client_encoding: str,
    *,
    wanted: int | None,
    limit: int | None,
    batched: bool = False,
) -> Iterator[_Result]:
    """Yield the result of one command, or of all, as soon as each is known.

    With `batched` a result comes again and again, with the rows since the last time; it is
    emptied when the next one is asked for.
    """
    encoding = client_encoding.strip("'\"")
    conversation = Conversation(parameters={"client_encoding": encoding} if encoding else None)
    executions: dict[int, Execution] = {}
    result: _Result | None = None
    for side, payload, flags, number in traffic:
        if side is Side.CLIENT and flags & _SYNTHETIC:
            continue  # It stood in for something refused, which is recorded too.
        if side is None:
            for command in _end_unread(conversation, payload):
                executions.pop(command.command_no, None)
            continue
        is_answer = side is Side.TARGET and number >= 0
        if result is not None and is_answer and number != result.command_no:
            if wanted is not None:
                break
            if result.is_known():
                yield result
            result = None
        for step in _receive(conversation, side, payload):
            for command in step.starts:
                if isinstance(command, Execution):
                    executions[command.command_no] = command
            if is_answer and wanted in (None, number):
                if result is None:
                    result = _Result(number, conversation.codec)
                result.take(step, executions.get(step.events[0].command_no), limit)
            for command in step.ends:
                executions.pop(command.command_no, None)
        if result is not None and wanted is not None:
            if batched and result.is_full():
                yield result
                result.clear()
            elif limit is not None and len(result.rows) >= limit:
                break
    if result is not None and result.is_known() and (result.rows or not result.is_given):
        yield result


def _receive(conversation: Conversation, side: Side, payload: bytes) -> list[Step]:
    try:
        steps = conversation.receive(side, payload)
        if conversation.broken is not None:
            raise conversation.broken
    except (ClientProtocolError, TargetProtocolError) as error:
        raise _no_conversation(error) from error
    return steps


def _end_unread(conversation: Conversation, payload: bytes) -> list[Command]:
    """Take the conversation to where the command of this row ended; return what ended there."""
    try:
        row = json.loads(payload)
        steps = conversation.end_unread(
            status=row["status"],
            error_code=row.get("error_code"),
            tag=row["operation"],
            txn_status=row.get("txn_status"),
        )
    except (
        TargetProtocolError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        raise _no_conversation(error) from error
    return [command for step in steps for command in step.ends]


def _no_conversation(error: Exception) -> ArchiveError:
    return ArchiveError(
        f"the recorded bytes are no conversation: {error}",
        hint="agentaudit verify --deep says whether they are those that were recorded",
    )


def _rows_in(frame: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(frame):
        kind, length = _header(frame, at)
        if kind in _READ:
            yield kind, frame[at + 5 : at + 1 + length]
        at += 1 + length
