"""The rows that a recorded PostgreSQL command returned, as Arrow tables.

Results are not stored; they are read out of the recorded bytes by the protocol code that relayed
them, run over the session again from its beginning, because a statement may have been described
long before it was executed. The recorded command numbers are taken as they are: dividing a simple
query again would ask for the SQL parser that only gateways have, and for the same version of it.

A command's rows are those of its first result. Rows of another shape, which only a text that the
recording gateway could not parse returns, are left out; `rows_returned` counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
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

_header: Final = Struct("!Bi").unpack_from
_DATA_ROW, _ROW_DESCRIPTION = b"DT"
_SYNTHETIC: Final = int(Flag.SYNTHETIC)

Row = list[bytes | None]


def result_table(traffic: Traffic, command_no: int, limit: int | None = 100_000) -> pa.Table:
    """Return at most `limit` rows of a command, typed by column; all of them with None.

    A command that returned no rows, and no columns, has a table without columns.

    Raises:
        ArchiveError: the recorded bytes are not a conversation, or a row does not fit its columns.
    """
    for result in _results(traffic, wanted=command_no, limit=limit):
        return result.table()
    return pa.table({})


def result_tables(traffic: Traffic, limit: int | None) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and table, of at most `limit` rows, of every command that returned columns.

    Raises:
        ArchiveError: as `result_table`.
    """
    for result in _results(traffic, wanted=None, limit=limit):
        yield result.command_no, result.table()


def result_batches(traffic: Traffic, command_no: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a command in batches of one schema, for results of any size.

    The first batch decides about columns whose values do not fit their type. A `numeric` without
    declared digits is text here, since any later row may have more of them.

    Raises:
        ArchiveError: as `result_table`; or a later value does not fit its column.
    """
    schema: pa.Schema | None = None
    done = 0
    for result in _results(traffic, wanted=command_no, limit=None, batched=True):
        if schema is None:
            schema = result.streaming_schema()
        batch = result.batch(schema, done)
        done += batch.num_rows
        yield batch


@dataclass(slots=True)
class _Result:
    """Rows of one command, collected until there are enough of them."""

    command_no: int
    execution: Execution | None = None
    columns: tuple[Column, ...] = ()
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)
    is_described: bool = False
    is_over: bool = False
    is_given: bool = False

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
                    self._describe(messages.decode_row_description(body).columns)
            elif not self.is_over and (limit is None or len(self.rows) < limit):
                self._add(body)

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

    def _add(self, body: bytes) -> None:
        row = messages.decode_data_row(body)
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
        self.size += len(body)

    def values(self) -> Iterator[Sequence[bytes | None]]:
        if self.rows:
            return zip(*self.rows, strict=True)
        return iter([()] * len(self.columns))

    def table(self) -> pa.Table:
        arrays = [
            types.array_of(column, values)
            for column, values in zip(self.columns, self.values(), strict=True)
        ]
        fields = [
            types.field_of(column, array.type)
            for column, array in zip(self.columns, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def streaming_schema(self) -> pa.Schema:
        fields = []
        for column, values in zip(self.columns, self.values(), strict=True):
            arrow = types.expected_type(column)
            if arrow is None or types.array_as(column, values, arrow) is None:
                arrow = pa.string()
            if types.array_as(column, values, arrow) is None:
                arrow = pa.binary()
            fields.append(types.field_of(column, arrow))
        return pa.schema(fields)

    def batch(self, schema: pa.Schema, first_row: int) -> pa.RecordBatch:
        arrays = []
        for column, values, kept in zip(self.columns, self.values(), schema, strict=True):
            array = types.array_as(column, values, kept.type)
            if array is None:
                raise ArchiveError(
                    f"command {self.command_no}: column {kept.name!r} holds a value from row "
                    f"{first_row} on that is no {kept.type}",
                    hint="result(command_no, limit=None) types the whole column at once",
                )
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def is_full(self) -> bool:
        return len(self.rows) >= BATCH_ROWS or self.size >= BATCH_BYTES

    def clear(self) -> None:
        """Forget the rows, which somebody has taken."""
        self.rows = []
        self.size = 0
        self.is_given = True


def _results(
    traffic: Traffic, *, wanted: int | None, limit: int | None, batched: bool = False
) -> Iterator[_Result]:
    """Yield the result of one command, or of all, as soon as each is known.

    With `batched` a result comes again and again, with the rows since the last time; it is
    emptied when the next one is asked for.
    """
    conversation = Conversation()
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
                    result = _Result(number)
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
        if kind in (_DATA_ROW, _ROW_DESCRIPTION):
            yield kind, frame[at + 5 : at + 1 + length]
        at += 1 + length
