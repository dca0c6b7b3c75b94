"""What must hold for any bytes: each target takes some, and raises nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from agentaudit.analysis import postgres_types as types
from agentaudit.analysis.postgres import result_tables
from agentaudit.errors import ArchiveError, ClientProtocolError, TargetProtocolError
from agentaudit.model import Command, Flag, Side
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from tests.fuzz.dialogues import Turn, decode
from tests.protocols.wire import FLUSH, SYNC, Talk, at_semicolons

PROTOCOL_ERRORS = (ClientProtocolError, TargetProtocolError)


def conversation(data: bytes) -> None:
    """A dialogue gives steps or a protocol error, and the same ones however it is cut."""
    turns = decode(data)
    whole, broken = hold(turns)
    # Who of the two broke the rules first may depend on the cut, where one waits for the other.
    assert bool(hold_in_bytes(turns, whole)) == bool(broken)
    for side in Side:
        said = b"".join(said for speaker, said in turns if speaker is side)
        recorded = b"".join(
            event.payload or b""
            for event in whole.events()
            if event.side is side and not event.flags & Flag.SYNTHETIC
        )
        # What is recorded is what was said, up to where somebody broke the rules.
        assert said.startswith(recorded)
        passed = b"".join(s.frame for s in whole.steps if s.side is side and not s.synthetic)
        assert len(passed) <= len(recorded)
    assert len(whole.ended_nos()) == len(set(whole.ended_nos()))
    assert set(whole.ended_nos()) <= set(whole.commands)


def hold(turns: Sequence[Turn], size: int | None = None) -> tuple[Talk, str]:
    """Return the conversation made of `turns`, and the protocol error that ended it."""
    talk = Talk(Conversation(split=at_semicolons))
    for side, said in turns:
        pieces = [said[at : at + 1] for at in range(len(said))] if size == 1 else [said]
        for piece in pieces:
            try:
                (talk.client if side is Side.CLIENT else talk.target)(piece)
            except PROTOCOL_ERRORS as error:
                return talk, str(error)
            if talk.conversation.broken is not None:
                return talk, str(talk.conversation.broken)
    return talk, ""


def hold_in_bytes(turns: Sequence[Turn], whole: Talk) -> str:
    """Hold it byte by byte, compare it with the whole, and return the protocol error."""
    cut, broken = hold(turns, 1)
    # A client's message may wait for an answer, and goes on as soon as that has come: who of the
    # two is told first does depend on the cut, and whether it goes on before the target breaks the
    # rules.
    for side in Side:
        one, other = told_of(whole, side), told_of(cut, side)
        assert one == (other[: len(one)] if broken and side is Side.CLIENT else other)
    one_ended, other_ended = list(map(facts, whole.ended)), list(map(facts, cut.ended))
    assert one_ended == (other_ended[: len(one_ended)] if broken else other_ended)
    return broken


def told_of(talk: Talk, side: Side) -> list[tuple[int, bytes, str]]:
    """Return command, bytes and text of what `side` said, without the Sync or Flush at the end.

    A Sync that comes too late is no longer of its command where that has ended meanwhile.
    """
    told: list[tuple[int, bytes, str]] = []
    for event in talk.events():
        if event.side is not side:
            continue
        number, said, text = event.command_no, event.payload or b"", event.text or ""
        while side is Side.CLIENT and said.endswith((SYNC, FLUSH)):
            said = said[: -len(SYNC)]
        if told and told[-1][0] == number:
            _, before, texts = told.pop()
            said, text = before + said, texts + text
        if said:
            told.append((number, said, text))
    return told


def facts(command: Command) -> tuple[object, ...]:
    """Return what may not depend on how the bytes were cut."""
    return (
        *(command.command_no, command.text, command.params, command.status, command.error_code),
        *(command.error_text, command.columns, command.rows_returned, command.rows_affected),
        *(command.txn_no, command.txn_status, command.sha256),
    )


def startup(data: bytes) -> None:
    """A start-up packet parses, is asked to go on, or is a protocol error."""
    with contextlib.suppress(ClientProtocolError):
        packet = messages.parse_startup(data)
        if packet is None:
            assert len(data) < messages.MAX_STARTUP_BYTES
        else:
            assert packet.size <= len(data)


def login(data: bytes) -> None:
    """Messages of a login are the same ones whole and byte by byte, up to a protocol error."""
    assert _read(data, len(data) or 1) == _read(data, 1)


def _read(data: bytes, size: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    reader = messages.MessageReader(error=ClientProtocolError)
    found: list[tuple[bytes, bytes]] = []
    try:
        for at in range(0, len(data), size):
            # It is lazy, so that what came before an error is kept.
            found.extend(reader.feed(data[at : at + size]))
    except ClientProtocolError:
        return found, True
    assert b"".join(messages.frame(*one) for one in found) + reader.rest() == data
    return found, False


def bodies(data: bytes) -> None:
    """Each decoder of one message's body takes any bytes, or says that they are no such message."""
    for decode_body in _DECODERS:
        with contextlib.suppress(*PROTOCOL_ERRORS):
            decode_body(data)
    for oid in (0, 16, 17, 20, 21, 23, 25, 26, 700, 701, 1700, 2950):
        for is_binary in (False, True):
            assert isinstance(messages.parameter_text(data, is_binary, oid, "utf-8"), str)


_DECODERS: tuple[Callable[[bytes], object], ...] = (
    messages.decode_authentication,
    messages.decode_sasl_mechanisms,
    messages.decode_parameter_status,
    messages.decode_backend_key_data,
    messages.decode_password,
    messages.decode_sasl_initial_response,
    messages.decode_report,
    messages.decode_row_description,
    messages.decode_parameter_description,
    messages.decode_parse,
    messages.decode_bind,
    messages.decode_execute,
    messages.decode_query,
    messages.decode_data_row,
    lambda body: messages.decode_name("Describe", body),
)


def results(data: bytes) -> None:
    """What was recorded of a dialogue gives tables, or an error of the archive."""
    whole, _ = hold(decode(data))
    traffic = [
        (event.side, event.payload or b"", int(event.flags), event.command_no)
        for event in whole.events()
    ]
    with contextlib.suppress(ArchiveError):
        for _, table in result_tables(traffic, None):
            table.validate(full=True)


def values(data: bytes) -> None:
    """A column of any values of any type, in text and in binary, is an array of as many."""
    if not data:
        return
    oid = _OIDS[data[0] >> 1 & 0x3F] if data[0] >> 1 & 0x3F < len(_OIDS) else data[0]
    column = messages.Column("a", 0, 0, oid, -1, -1, data[0] & 1)
    column_values = [one or None for one in data[1:].split(b"\xa5\x5a")]
    array = types.array_of(column, column_values)
    assert len(array) == len(column_values)
    array.validate(full=True)


_OIDS = (16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 600, 650, 700, 701, 790, 829, 869, 1000) + (
    *(1005, 1007, 1009, 1016, 1021, 1022, 1042, 1043, 1082, 1083, 1114, 1115, 1182, 1184, 1185),
    *(1186, 1231, 1266, 1560, 1700, 2950, 2951, 3802, 3807, 3904, 3906, 3908, 3910, 3912, 3926),
)

TARGETS: dict[str, Callable[[bytes], None]] = {
    "conversation": conversation,
    "startup": startup,
    "login": login,
    "bodies": bodies,
    "results": results,
    "values": values,
}
