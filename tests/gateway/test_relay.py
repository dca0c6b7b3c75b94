"""The relay as a dialogue: bytes in, bytes out, no socket; recorder and conversation are real."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive.keys import create_key
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.gateway import relay as relay_module
from agentaudit.gateway.holds import NobodyAsks
from agentaudit.gateway.postgres_judge import Judge
from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.gateway.relay import HIGH_WATER_BYTES, Relay
from agentaudit.masking.masks import Masks
from agentaudit.model import Durability, SessionFacts
from agentaudit.policy import NO_RULE, Rule, SessionPolicy
from agentaudit.protocols import postgres_messages as wire
from agentaudit.protocols.postgres import Conversation
from agentaudit.risk import sql
from tests.gateway.disk import Disk
from tests.gateway.recorded import Recorded, read


class Leg:
    """A transport that keeps what is written to it; `says` is its peer speaking."""

    def __init__(self, *, half_closes: bool = True) -> None:
        self.heard = bytearray()
        self.is_reading = True
        self.is_closed = False
        self.is_half_closed = False
        self.waiting = 0
        self.protocol: Any = None
        self._half_closes = half_closes

    def says(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def hangs_up(self) -> None:
        """The peer closes its side; the transport follows where the protocol lets it."""
        if not self.protocol.eof_received():
            self.close()

    # --- what the relay calls

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def can_write_eof(self) -> bool:
        return self._half_closes

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        assert not self.is_half_closed
        self.heard += data

    def write_eof(self) -> None:
        self.is_half_closed = True

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.waiting = 0
        self.close()


NO_DROPS = SessionPolicy(
    rules=(Rule(name="no drops", action="deny", operations=frozenset({"DROP TABLE"})),),
    default=NO_RULE,
)


class Session:
    """An open session between two legs."""

    def __init__(
        self, recorder: Recorder, *, durability: Durability, session_bytes: int = 1 << 30
    ) -> None:
        self.client, self.target = Leg(), Leg()
        self.reasons: list[str] = []
        self.is_gone = False
        self.recorder = recorder
        self.session: SessionRecorder = recorder.open_session(SessionFacts(protocol="postgres"))
        conversation = Conversation(split=sql.split)
        masker = PostgresMasks(Masks([]), conversation, None)
        self.relay = Relay(
            conversation=conversation,
            masker=masker,
            judge=Judge(conversation, self.session, masker, NO_DROPS),
            recorder=recorder,
            session=self.session,
            durability=durability,
            session_bytes=session_bytes,
            client=self.client,  # type: ignore[arg-type]
            target=self.target,  # type: ignore[arg-type]
            asks=NobodyAsks(),
            ended=lambda relay, reason: self.reasons.append(reason),
            gone=lambda relay: setattr(self, "is_gone", True),
        )
        self.relay.start(b"", b"")

    async def settle(self) -> None:
        """Return once all that is recorded counts, and what it released has been passed on."""
        counts = asyncio.get_running_loop().create_future()
        self.recorder.release(lambda: counts.set_result(None), synced=True)
        await counts
        await asyncio.sleep(0)


class Recording:
    """A recorder in a folder of its own, and sessions in it."""

    def __init__(self, folder: Path, durability: Durability) -> None:
        self.folder = folder
        self.durability = durability
        self.recorder: Recorder

    def session(self, **keys: Any) -> Session:
        return Session(self.recorder, durability=self.durability, **keys)

    async def read(self) -> Recorded:
        """Seal everything and return it."""
        await self.recorder.stop()
        return read(self.folder / "archive")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return the recorder's file operations; a recorder that has started already is not asked."""
    return Disk(monkeypatch)


@pytest.fixture
async def recording(
    tmp_path: Path, request: pytest.FixtureRequest, disk: Disk
) -> AsyncIterator[Recording]:
    durability = getattr(request, "param", Durability.RELAXED)
    made = Recording(tmp_path, durability)
    create_key(tmp_path / "keys", "gw1", "audit.test")
    made.recorder = await Recorder.start(
        archive=tmp_path / "archive",
        gateway="gw1",
        origin="audit.test",
        keys=tmp_path / "keys",
        durability=durability,
    )
    yield made
    await made.recorder.stop()


def query(text: str) -> bytes:
    return wire.frame(b"Q", text.encode() + b"\0")


def row(value: str) -> bytes:
    shape = struct.pack("!h", 1) + b"v\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
    data = struct.pack("!hi", 1, len(value)) + value.encode()
    return wire.frame(b"T", shape) + wire.frame(b"D", data)


def done(tag: str, status: bytes = b"I") -> bytes:
    return wire.frame(b"C", tag.encode() + b"\0") + wire.ready_for_query(status)


async def test_what_one_side_says_the_other_hears_to_the_byte(recording: Recording) -> None:
    session = recording.session()

    session.client.says(query("SELECT 'a'"))
    await session.settle()
    session.target.says(row("a") + done("SELECT 1"))
    await session.settle()
    session.client.says(wire.terminate())
    session.client.hangs_up()
    await session.settle()
    session.target.hangs_up()
    await session.settle()

    assert session.target.heard == query("SELECT 'a'") + wire.terminate()
    assert session.client.heard == row("a") + done("SELECT 1")
    assert (session.reasons, session.is_gone) == (["client"], True)
    recorded = await recording.read()
    found = recorded.session(protocol="postgres")
    assert recorded.wire(found, "client") == session.target.heard
    assert recorded.wire(found, "target") == session.client.heard


async def test_a_denied_statement_is_recorded_and_never_reaches_the_target(
    recording: Recording,
) -> None:
    session = recording.session()

    session.client.says(query("SELECT 'a'") + query("DROP TABLE t") + query("SELECT 'b'"))
    await session.settle()
    assert b"DROP" not in session.target.heard
    stand_in = wire.error_response(severity="ERROR", code="42601", message="syntax error")
    session.target.says(row("a") + done("SELECT 1"))
    session.target.says(stand_in + wire.ready_for_query())
    session.target.says(row("b") + done("SELECT 1"))
    await session.settle()

    heard = bytes(session.client.heard)
    # The refusal waits for the reply that is owed before it, and the next reply for the refusal.
    assert heard.index(b"\1a") < heard.index(b"no drops")
    assert heard.index(b"no drops") < heard.rindex(b"\1b")
    session.relay.abort()
    await session.settle()
    recorded = await recording.read()
    found = recorded.session(protocol="postgres")
    commands = recorded.commands_of(found)
    assert [(c["operation"], c["status"], c["rule"]) for c in commands] == [
        ("SELECT", "ok", "none"),
        ("DROP TABLE", "denied", "no drops"),
        ("SELECT", "ok", "none"),
    ]
    assert any(b"DROP" in (e["payload"] or b"") for e in recorded.of(found))


@pytest.mark.parametrize("recording", [Durability.WRITES], indirect=True)
async def test_a_read_never_overtakes_the_write_before_it(recording: Recording, disk: Disk) -> None:
    """In `writes` mode a read need not wait for the disk, but it must wait for its turn."""
    session = recording.session()
    disk.may_sync.clear()

    session.client.says(query("INSERT INTO t VALUES (1)"))
    session.client.says(query("SELECT 1"))
    for _ in range(10):
        await asyncio.sleep(0)
    heard_before = bytes(session.target.heard)
    disk.may_sync.set()
    await session.settle()

    assert heard_before == b""
    assert session.target.heard == query("INSERT INTO t VALUES (1)") + query("SELECT 1")
    session.relay.abort()


async def test_a_source_is_not_read_while_too_much_of_it_waits(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = recording.session()
    session.client.says(query("SELECT 1"))
    await session.settle()

    session.client.protocol.pause_writing()
    assert not session.target.is_reading
    assert session.client.is_reading, "the other direction goes on"
    session.client.protocol.resume_writing()
    assert session.target.is_reading

    session.target.says(row("x" * (HIGH_WATER_BYTES // 2)) * 3)
    assert not session.target.is_reading
    await session.settle()
    assert session.target.is_reading
    session.relay.abort()


async def test_a_session_that_is_held_up_reads_from_neither_side_and_loses_nothing(
    recording: Recording,
) -> None:
    session = recording.session()
    session.client.says(query("SELECT 1"))
    session.relay.hold_up(True)
    assert not session.client.is_reading
    assert not session.target.is_reading
    await session.settle()
    assert session.target.heard == query("SELECT 1"), "what had come goes on"
    session.client.protocol.pause_writing()
    session.relay.hold_up(False)
    assert session.client.is_reading
    assert not session.target.is_reading, "its sink is full all the same"
    session.client.protocol.resume_writing()
    assert session.target.is_reading
    session.relay.abort()


async def test_a_session_that_is_ended_says_so_once_and_reads_no_more(
    recording: Recording,
) -> None:
    session = recording.session()

    session.relay.end("max_session", "long enough")
    session.relay.end("session_bytes", "too late to matter")
    session.client.says(query("SELECT 'after'"))
    session.target.says(row("after"))
    await session.settle()

    assert session.client.heard.count(b"long enough") == 1
    assert b"too late" not in session.client.heard
    assert session.target.heard == b""
    assert session.client.is_half_closed, "the client may still be sending: no reset"
    assert session.target.is_closed
    assert session.reasons == ["max_session"]
    session.client.hangs_up()
    await session.settle()
    assert session.is_gone
    recorded = await recording.read()
    found = recorded.session(protocol="postgres")
    assert found["close_reason"] == "max_session"
    assert recorded.wire(found, "target") == session.client.heard


async def test_nothing_is_said_in_the_middle_of_a_message(recording: Recording) -> None:
    session = recording.session()
    session.client.says(query("SELECT 1"))
    await session.settle()
    whole = row("x" * 3 * HIGH_WATER_BYTES)
    session.target.says(whole[: 2 * HIGH_WATER_BYTES])
    await session.settle()
    assert 0 < len(session.client.heard) < len(whole)

    session.relay.end("shutdown", "goodbye")
    await session.settle()

    assert b"goodbye" not in session.client.heard
    assert session.reasons == ["shutdown"]
    session.relay.abort()


async def test_a_client_that_never_closes_is_cut(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "LINGER_S", 0.01)
    session = recording.session()
    stuck = recording.session()
    stuck.client.waiting = 1

    session.relay.end("shutdown", "goodbye")
    stuck.relay.end("shutdown", "goodbye")

    async with asyncio.timeout(30):
        while not (session.is_gone and stuck.is_gone):
            await session.settle()


async def test_a_target_that_breaks_the_protocol_ends_the_session_with_the_reason(
    recording: Recording,
) -> None:
    session = recording.session()

    session.target.says(b"\0garbage of a server")
    await session.settle()

    assert b"08P01" in session.client.heard
    assert b"the target: " in session.client.heard
    assert session.reasons == ["protocol_error"]
    session.relay.abort()


async def test_an_encrypted_target_is_closed_where_a_plain_one_is_half_closed(
    recording: Recording,
) -> None:
    plain, encrypted = recording.session(), recording.session()
    encrypted.target._half_closes = False

    for session in (plain, encrypted):
        session.client.says(query("SELECT 1"))
        session.client.hangs_up()
        await session.settle()

    assert (plain.target.is_half_closed, plain.target.is_closed) == (True, False)
    assert encrypted.target.is_closed
    plain.target.says(row("1") + done("SELECT 1"))
    await plain.settle()
    assert plain.client.heard == row("1") + done("SELECT 1")
    plain.relay.abort()


async def test_a_drain_ends_a_session_when_its_transaction_does(recording: Recording) -> None:
    session = recording.session()
    session.client.says(query("BEGIN"))
    await session.settle()
    session.target.says(done("BEGIN", b"T"))

    session.relay.drain("shutting down")
    session.client.says(query("COMMIT"))
    await session.settle()
    assert session.reasons == []
    session.target.says(done("COMMIT"))
    await session.settle()

    assert session.reasons == ["shutdown"]
    heard = bytes(session.client.heard)
    assert heard.index(b"COMMIT") < heard.index(b"shutting down")
    session.relay.abort()
