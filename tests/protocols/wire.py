"""PostgreSQL's messages, written from the specification alone, and a way to play dialogues.

Nothing here uses the code under test: an encoder that shared its mistakes would hide them.
Format: postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentaudit.model import Command, Event, Flag, Refusal, Side, Step
from agentaudit.protocols.postgres import Conversation, Execution


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def string(text: str | bytes) -> bytes:
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def values_of(values: Sequence[bytes | None]) -> bytes:
    fields = [
        struct.pack("!i", -1 if value is None else len(value)) + (value or b"") for value in values
    ]
    return struct.pack("!H", len(values)) + b"".join(fields)


# Client.


def query(sql: str | bytes) -> bytes:
    return message("Q", string(sql))


def parse(name: str, sql: str | bytes, *types: int) -> bytes:
    oids = struct.pack(f"!H{len(types)}I", len(types), *types)
    return message("P", string(name) + string(sql) + oids)


def bind(
    portal: str = "",
    statement: str = "",
    values: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    return message(
        "B",
        string(portal)
        + string(statement)
        + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
        + values_of(values)
        + struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats),
    )


def describe_statement(name: str = "") -> bytes:
    return message("D", b"S" + string(name))


def describe_portal(name: str = "") -> bytes:
    return message("D", b"P" + string(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return message("E", string(portal) + struct.pack("!i", max_rows))


def close_statement(name: str) -> bytes:
    return message("C", b"S" + string(name))


def close_portal(name: str) -> bytes:
    return message("C", b"P" + string(name))


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")
COPY_DONE = message("c")


def copy_data(data: bytes) -> bytes:
    return message("d", data)


def copy_fail(reason: str) -> bytes:
    return message("f", string(reason))


def function_call(oid: int) -> bytes:
    return message("F", struct.pack("!IHHH", oid, 0, 0, 0))


def run(sql: str, values: Sequence[bytes | None] = (), **bound: Sequence[int]) -> bytes:
    """Parse, Bind, Describe, Execute and Sync, as libpq sends PQexecParams."""
    return parse("", sql) + bind("", "", values, **bound) + describe_portal() + execute() + SYNC


# Server.


def row_description(*columns: tuple[str, int] | tuple[str, int, int]) -> bytes:
    """Name, type and format of each column, as columns 1, 2, … of table 16384."""
    body = struct.pack("!H", len(columns))
    for number, (name, oid, *form) in enumerate(columns, 1):
        body += string(name) + struct.pack("!IhIhih", 16384, number, oid, -1, -1, *form or (0,))
    return message("T", body)


def data_row(*values: bytes | None) -> bytes:
    return message("D", values_of(values))


def command_complete(tag: str) -> bytes:
    return message("C", string(tag))


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


def error(code: str, text: str = "no", severity: str = "ERROR") -> bytes:
    return message("E", report(code, text, severity))


def notice(text: str) -> bytes:
    return message("N", report("00000", text, "NOTICE"))


def report(code: str, text: str, severity: str) -> bytes:
    fields = {"S": severity, "V": severity, "C": code, "M": text}
    return b"".join(string(tag + value) for tag, value in fields.items()) + b"\0"


def parameter_status(name: str, value: str) -> bytes:
    return message("S", string(name) + string(value))


def parameter_description(*oids: int) -> bytes:
    return message("t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def notification(channel: str, payload: str) -> bytes:
    return message("A", struct.pack("!I", 4711) + string(channel) + string(payload))


PARSE_COMPLETE = message("1")
BIND_COMPLETE = message("2")
CLOSE_COMPLETE = message("3")
NO_DATA = message("n")
EMPTY_QUERY = message("I")
PORTAL_SUSPENDED = message("s")
COPY_IN = message("G", struct.pack("!bHH", 0, 1, 0))
COPY_OUT = message("H", struct.pack("!bHH", 0, 1, 0))
COPY_OUT_BINARY = message("H", struct.pack("!bHH", 1, 1, 1))
COPY_BOTH = message("W", struct.pack("!bH", 0, 0))


def ran(tag: str = "SELECT 1", *rows: bytes) -> bytes:
    """What answers `run`, up to ReadyForQuery."""
    described = row_description(("a", 25)) if rows else NO_DATA
    return PARSE_COMPLETE + BIND_COMPLETE + described + b"".join(rows) + command_complete(tag)


@dataclass
class Talk:
    """A conversation being held; every step must forward what came in, unless it was refused."""

    conversation: Conversation = field(default_factory=Conversation)
    steps: list[Step] = field(default_factory=list)
    commands: dict[int, Execution] = field(default_factory=dict)
    ended: list[Command] = field(default_factory=list)

    def client(self, data: bytes, *, size: int | None = None) -> list[Step]:
        return self._say(Side.CLIENT, data, size)

    def target(self, data: bytes, *, size: int | None = None) -> list[Step]:
        return self._say(Side.TARGET, data, size)

    def refuse(self, step: Step, refusal: Refusal) -> list[Step]:
        stand_ins = self.conversation.refuse(step, refusal)
        self.steps += stand_ins
        return stand_ins

    def _say(self, side: Side, data: bytes, size: int | None) -> list[Step]:
        steps: list[Step] = []
        size = size or len(data) or 1
        for at in range(0, len(data), size):
            steps += self.conversation.receive(side, data[at : at + size])
        for step in steps:
            # An answer may be what a message of the client has waited for.
            assert step.side is side or side is Side.TARGET
            for command in step.starts:
                assert isinstance(command, Execution)
                assert command.command_no == len(self.commands)
                self.commands[command.command_no] = command
            self.ended += step.ends
        self.steps += steps
        return steps

    def events(self) -> list[Event]:
        return [event for step in self.steps for event in step.events]

    def frames(self, side: Side) -> bytes:
        return b"".join(step.frame for step in self.steps if step.side is side)

    def ended_nos(self) -> list[int]:
        return [command.command_no for command in self.ended]


def told(steps: Sequence[Step]) -> list[tuple[int, str | None]]:
    """Return command number and text of each event."""
    return [(event.command_no, event.text) for step in steps for event in step.events]


def merged(events: Sequence[Event]) -> list[tuple[Side | None, int, bytes, str]]:
    """Return the events with neighbours of one command and side joined: what no cut may change."""
    joined: list[tuple[Side | None, int, bytes, str]] = []
    for event in events:
        key = (event.side, event.command_no)
        payload, text = event.payload or b"", event.text or ""
        assert event.orig_len == len(payload)
        assert bool(event.flags & Flag.FROM_TARGET) == (event.side is Side.TARGET)
        if joined and joined[-1][:2] == key:
            _, _, before, texts = joined.pop()
            payload, text = before + payload, texts + text
        joined.append((*key, payload, text))
    return joined


Split = Callable[[str], Sequence[str]]


def at_semicolons(sql: str) -> list[str]:
    """Divide a query where no string holds a semicolon, as these tests write them."""
    return [part.strip() for part in sql.split(";") if part.strip()]
