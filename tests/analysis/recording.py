"""Archives for tests: PostgreSQL's messages, through the real parser and recorder.

A `Script` says what a client and a server send and how long they take; `record` plays it against
a clock that only the script moves, so every time in the archive is known.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive import keys
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.model import Durability, Event, Flag, Kind, SessionFacts, Side
from agentaudit.protocols.postgres import Conversation
from agentaudit.risk.sql import classify, split

OPENED_US = 1_793_700_000_000_000  # 2026-11-03 10:00:00 UTC
Column = tuple[str, int] | tuple[str, int, int, int]
"""Name and type; and, of a table's own column, table and number."""

INT4, INT8, TEXT, BOOL, NUMERIC, TIMESTAMPTZ, JSONB = 23, 20, 25, 16, 1700, 1184, 3802


class ScriptedClock:
    """A clock that moves only when it is told to."""

    kind = "scripted"

    def __init__(self) -> None:
        self.us = OPENED_US

    def now_us(self) -> int:
        return self.us

    def mono_ns(self) -> int:
        return self.us * 1_000


@dataclass
class Exchange:
    """What a client sends, and what the server answers after `took_us`."""

    asked: bytes
    answered: bytes
    took_us: int
    wait_us: int


@dataclass
class Script:
    """One session to record."""

    user: str = "copilot-7"
    agent: str = "codex"
    target: str = "orders"
    reason: str | None = "client"
    exchanges: list[Exchange] = field(default_factory=list)
    in_transaction: str = "I"

    def query(
        self,
        sql: str,
        *,
        rows: Sequence[Sequence[str | bytes | None]] | None = None,
        columns: Sequence[Column] = (),
        tag: str = "",
        error: tuple[str, str] | None = None,
        took_us: int = 1_500,
        wait_us: int = 400_000,
    ) -> Script:
        """Add a statement of the simple protocol and its answer; `tag` moves the transaction."""
        asked = _message(b"Q", sql.encode() + b"\0")
        answered = self._result(rows, columns, tag, error)
        self.exchanges.append(Exchange(asked, answered + self._ready(), took_us, wait_us))
        return self

    def prepared(
        self,
        sql: str,
        params: Sequence[str | None],
        *,
        rows: Sequence[Sequence[str | bytes | None]] | None = None,
        columns: Sequence[Column] = (),
        tag: str = "",
        error: tuple[str, str] | None = None,
        took_us: int = 1_500,
        wait_us: int = 400_000,
    ) -> Script:
        """Add one statement of the extended protocol, its parameters as text."""
        values = b"".join(
            struct.pack("!i", -1)
            if value is None
            else struct.pack("!i", len(value.encode())) + value.encode()
            for value in params
        )
        asked = (
            _message(b"P", b"\0" + sql.encode() + b"\0" + struct.pack("!h", 0))
            + _message(
                b"B",
                b"\0\0" + struct.pack("!hh", 0, len(params)) + values + struct.pack("!h", 0),
            )
            + _message(b"D", b"P\0")
            + _message(b"E", b"\0" + struct.pack("!i", 0))
            + _message(b"S", b"")
        )
        bound = _message(b"1", b"") + _message(b"2", b"")
        described = b"" if columns else _message(b"n", b"")
        answered = bound + described + self._result(rows, columns, tag, error)
        self.exchanges.append(Exchange(asked, answered + self._ready(), took_us, wait_us))
        return self

    def unanswered(self, sql: str) -> Script:
        """Add a statement that is still running when the session ends, or the script does."""
        asked = _message(b"Q", sql.encode() + b"\0")
        self.exchanges.append(Exchange(asked, b"", 0, 400_000))
        return self

    def _result(
        self,
        rows: Sequence[Sequence[str | bytes | None]] | None,
        columns: Sequence[Column],
        tag: str,
        error: tuple[str, str] | None,
    ) -> bytes:
        parts = []
        if columns:
            described = b"".join(
                name.encode() + b"\0" + struct.pack("!ihihih", *(origin or (0, 0)), oid, -1, -1, 0)
                for name, oid, *origin in columns
            )
            parts.append(_message(b"T", struct.pack("!h", len(columns)) + described))
        for row in rows or ():
            cells = b"".join(_cell(cell) for cell in row)
            parts.append(_message(b"D", struct.pack("!h", len(row)) + cells))
        if error is not None:
            code, text = error
            fields = f"SERROR\0VERROR\0C{code}\0M{text}\0\0".encode()
            parts.append(_message(b"E", fields))
            if self.in_transaction == "T":
                self.in_transaction = "E"
        else:
            tag = tag or f"SELECT {len(rows or ())}"
            parts.append(_message(b"C", tag.encode() + b"\0"))
            self.in_transaction = {"BEGIN": "T", "COMMIT": "I", "ROLLBACK": "I"}.get(
                tag, self.in_transaction
            )
        return b"".join(parts)

    def _ready(self) -> bytes:
        return _message(b"Z", self.in_transaction.encode())


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _cell(cell: str | bytes | None) -> bytes:
    if cell is None:
        return struct.pack("!i", -1)
    data = cell.encode() if isinstance(cell, str) else cell
    return struct.pack("!i", len(data)) + data


@dataclass(frozen=True)
class Recorded:
    """An archive, the verifier key that was kept outside it, and its sessions in order."""

    path: Path
    key: str
    sessions: tuple[str, ...]


async def start_recorder(folder: Path, clock: ScriptedClock, **options: Any) -> Recorder:
    """Start a recorder for the archive in `folder`, with keys beside it."""
    place = folder / "keys"
    if not place.is_dir():
        keys.create_key(place, "gw1", "audit.example.com")
    return await Recorder.start(
        archive=folder / "archive",
        gateway="gw1",
        origin="audit.example.com",
        keys=place,
        durability=Durability.RELAXED,
        clock=clock,
        **options,
    )


def play(recorder: Recorder, clock: ScriptedClock, script: Script) -> SessionRecorder:
    """Record `script` as the gateway would: request, decision, answer, end."""
    session = recorder.open_session(
        SessionFacts(
            protocol="postgres",
            target=script.target,
            user=script.user,
            issuer="https://idp.example.com",
            groups=("data-agents",),
            agent=script.agent,
            client_addr="127.0.0.1:50000",
            client_app="psycopg",
            gateway_port=6432,
            target_addr="127.0.0.1:5432",
            target_pid=4242,
            policy_digest="0" * 64,
            mask_digest="0" * 64,
        )
    )
    session.record(
        Event(kind=Kind.NOTICE, side=Side.TARGET, flags=Flag.SYNTHETIC, text="login", orig_len=312)
    )
    conversation = Conversation(split=split)
    for exchange in script.exchanges:
        clock.us += exchange.wait_us
        _pass(session, conversation, Side.CLIENT, exchange.asked)
        clock.us += exchange.took_us
        _pass(session, conversation, Side.TARGET, exchange.answered)
    clock.us += 200_000
    if script.reason is not None:
        session.close(script.reason)
    return session


def _pass(session: SessionRecorder, conversation: Conversation, side: Side, data: bytes) -> None:
    if not data:
        return
    for step in conversation.receive(side, data):
        for command in step.starts:
            judged = classify(command.sql)  # type: ignore[attr-defined]
            command.operation, command.cls = judged.operation, judged.cls
            command.resources, command.fingerprint = judged.resources, judged.fingerprint
            command.confidence, command.parser = judged.confidence, judged.parser
            session.begin(command)
        for event in step.events:
            session.record(event)
        for command in step.ends:
            session.end(command)


def record(
    folder: Path,
    *scripts: Script,
    later_us: int = 0,
    gap_us: int = 60_000_000,
    **options: Any,
) -> Recorded:
    """Record `scripts` one after the other and stop, which seals."""

    async def run() -> Recorded:
        clock = ScriptedClock()
        clock.us += later_us
        recorder = await start_recorder(folder, clock, **options)
        sessions = []
        for script in scripts:
            sessions.append(str(play(recorder, clock, script).session_id))
            clock.us += gap_us
        await recorder.stop()
        key = (folder / "keys" / "gw1.vkey").read_text().strip()
        return Recorded(folder / "archive", key, tuple(sessions))

    # On a thread: where a browser is driven, this one has a running loop already.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """An archive, sealed, of two sessions: `investigation` and `hostile`. Nobody may change it."""
    return record(tmp_path_factory.mktemp("recorded"), investigation(), hostile())


def investigation() -> Script:
    """An agent's session with a bit of everything: reads, a failure, a write, too much, a scare."""
    script = Script()
    script.query("SET application_name = 'codex'", tag="SET")
    script.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        columns=[("table_name", TEXT)],
        rows=[["customers"], ["orders"], ["payments"]],
    )
    script.query(
        "SELECT id, name, emial FROM customers LIMIT 5",
        error=("42703", 'column "emial" does not exist'),
    )
    script.prepared(
        "SELECT id, name, email, balance, vip FROM customers WHERE id = $1",
        ["7"],
        columns=[
            ("id", INT4),
            ("name", TEXT),
            ("email", TEXT),
            ("balance", NUMERIC),
            ("vip", BOOL),
        ],
        rows=[["7", "Ada Lovelace", "ada@example.com", "1234.50", "t"]],
        wait_us=3_200_000,
    )
    script.prepared(
        "UPDATE customers SET email = $1 WHERE id = $2",
        ["ada@lovelace.example", "7"],
        tag="UPDATE 1",
        took_us=4_100,
    )
    script.query(
        "SELECT id, name, email, note FROM customers -- all of them\nORDER BY id",
        columns=[("id", INT4), ("name", TEXT), ("email", TEXT), ("note", TEXT)],
        rows=[
            [str(i), f"Customer {i}", f"c{i}@example.com", None if i % 3 else "n" * (i % 700)]
            for i in range(1, 1_235)
        ],
        took_us=48_000,
        wait_us=9_000_000,
    )
    script.query("BEGIN", tag="BEGIN", wait_us=125_000_000)
    script.query("DELETE FROM orders", tag="DELETE 5120", took_us=310_000)
    script.query(
        "SELECT count(*) FROM orders", columns=[("count", INT8)], rows=[["0"]], wait_us=1_900_000
    )
    script.query("SELECT 1/0", error=("22012", "division by zero"))
    script.query(
        "SELECT 1",
        error=(
            "25P02",
            "current transaction is aborted, commands ignored until end of transaction block",
        ),
    )
    script.query("ROLLBACK", tag="ROLLBACK")
    return script


def hostile() -> Script:
    """A session whose texts try to be obeyed by whatever shows them."""
    script = Script(
        user="<img src=x onerror=alert(1)>", agent="\u202egnp.exe", target="orders</style><script>"
    )
    script.query(
        "SELECT '<script>window.pwned = 1</script>' AS \"<b onmouseover=alert(1)>\" "
        "/* \x1b]0;owned\x07 */",
        columns=[("<b onmouseover=alert(1)>", TEXT), ("esc\x1b[31m", TEXT)],
        rows=[
            ["<img src=x onerror='window.pwned = 1'>", "\x1b[2J\x1b[1;1Hgone"],
            ["\u202edrowssap\u202c", "a\x00b".replace("\x00", "\x9b")],
            [b"\xff\xfe invalid utf-8", "javascript:alert(1)"],
        ],
    )
    script.query(
        "DROP TABLE users; --\u2066 harmless \u2069",
        error=("42P01", '<script>alert("x")</script> \x1b[5m "users" does not exist'),
    )
    return script
