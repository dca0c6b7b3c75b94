"""What holds for every conversation: any cut of its bytes, any garbage, any pipeline.

`Server` answers as a PostgreSQL server would, statement by statement, with failures where the
text says so; it shares nothing with the code under test but the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import Flag, Refusal, Side
from agentaudit.protocols.postgres import Conversation
from tests.protocols import wire
from tests.protocols.wire import Talk, at_semicolons, merged


@dataclass
class Server:
    """Answers messages in order; skips to the next Sync after an error, as PostgreSQL does."""

    is_skipping: bool = False
    is_to_blame: bool = False
    ran: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, cycle: list[tuple[str, str]]) -> bytes:
        """Return the answer to (kind, text) messages; a text with `fail` fails where it says."""
        out = b""
        for kind, text in cycle:
            if kind == "sync":
                self.is_skipping = False
                out += wire.ready()
            elif self.is_skipping:
                # What fails at Parse or Bind is the fault of the Execute that it was for.
                if kind == "execute":
                    self.ran.append((text, "error" if self.is_to_blame else "incomplete"))
                    self.is_to_blame = False
            elif kind == "query":
                out += self._query(text)
            elif f"fail at {kind}" in text:
                self.is_skipping = True
                self.is_to_blame = kind != "execute"
                out += wire.error("XX000", text)
                self.ran += [(text, "error")] * (kind == "execute")
            elif kind == "execute":
                self.ran.append((text, "ok"))
                out += wire.data_row(text.encode(), None) + wire.command_complete("SELECT 1")
            else:
                out += {
                    "parse": wire.PARSE_COMPLETE,
                    "bind": wire.BIND_COMPLETE,
                    "describe": wire.row_description(("a", 25), ("b", 25)),
                    "flush": b"",
                }[kind]
        return out

    def _query(self, sql: str) -> bytes:
        out = b""
        statements = at_semicolons(sql)
        for n, text in enumerate(statements):
            if "fail" in text:
                self.ran.append((text, "error"))
                self.ran += [(other, "incomplete") for other in statements[n + 1 :]]
                return out + wire.error("XX000", text) + wire.ready()
            self.ran.append((text, "ok"))
            out += wire.row_description(("a", 25)) + wire.data_row(text.encode())
            out += wire.command_complete("SELECT 1")
        return out + wire.ready()


FRAMES: dict[str, Callable[[str], bytes]] = {
    "parse": lambda text: wire.parse("", text),
    "bind": lambda text: wire.bind("", "", [text.encode(), None]),
    "describe": lambda _: wire.describe_portal(),
    "execute": lambda _: wire.execute(),
    "flush": lambda _: wire.FLUSH,
    "sync": lambda _: wire.SYNC,
    "query": wire.query,
}

words = st.text(st.characters(codec="utf-8", exclude_characters="\0;"), min_size=1, max_size=9).map(
    lambda text: f"SELECT '{text}'"
)
fates = st.sampled_from(["", "", "", " fail at parse", " fail at bind", " fail at execute"])
statements = st.tuples(words, fates).map("".join)


def run_of(text: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind in ("parse", "bind", "describe", "execute")]


runs = statements.map(run_of)
flushed = runs.map(lambda run: [*run, ("flush", "")])
pipelines = st.lists(st.one_of(runs, flushed), min_size=1, max_size=4).map(
    lambda many: [*(message for run in many for message in run), ("sync", "")]
)
queries = st.lists(statements, min_size=1, max_size=3).map(
    lambda texts: [("query", "; ".join(texts))]
)
cycles = st.lists(st.one_of(pipelines, queries), min_size=1, max_size=4)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def bytes_of(cycle: list[tuple[str, str]]) -> bytes:
    return b"".join(FRAMES[kind](text) for kind, text in cycle)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, at, n = [], 0, 0
    while at < len(data):
        cut.append(data[at : at + sizes[n % len(sizes)]])
        at += len(cut[-1])
        n += 1
    return cut


def hold(dialogue: list[tuple[Side, bytes]], sizes: list[int] | None = None) -> Talk:
    talk = Talk(Conversation(split=at_semicolons))
    for side, data in dialogue:
        for piece in pieces(data, sizes or [len(data) or 1]):
            (talk.client if side is Side.CLIENT else talk.target)(piece)
    return talk


@given(cycles, st.booleans(), cuts)
def test_any_cut_of_the_bytes_gives_the_same_frames_events_and_commands(
    held: list[list[tuple[str, str]]], is_ahead: bool, sizes: list[int]
) -> None:
    server = Server()
    asked = [(Side.CLIENT, bytes_of(cycle)) for cycle in held]
    answered = [(Side.TARGET, server.answer(cycle)) for cycle in held]
    if is_ahead:  # everything is asked before anything is answered
        dialogue = asked + answered
    else:
        dialogue = [turn for turns in zip(asked, answered, strict=True) for turn in turns]

    whole, cut = hold(dialogue), hold(dialogue, sizes)

    for side in Side:
        said = b"".join(data for speaker, data in dialogue if speaker is side)
        assert whole.frames(side) == cut.frames(side) == said
    assert merged(whole.events()) == merged(cut.events())
    assert [dict_of(c) for c in whole.ended] == [dict_of(c) for c in cut.ended]


def dict_of(command: object) -> dict[str, object]:
    names = ("command_no", "text", "params", "status", "error_code", "error_text", "columns")
    names += ("rows_returned", "rows_affected", "txn_no", "txn_status", "sha256")
    return {name: getattr(command, name) for name in names}


@given(cycles, st.booleans())
def test_every_command_has_the_outcome_that_the_server_gave_it(
    held: list[list[tuple[str, str]]], is_ahead: bool
) -> None:
    # With a backslash, what is asked ahead is not divided: `is_ambiguous` has tests of its own.
    assume(not is_ahead or not any("\\" in text for cycle in held for _, text in cycle))
    server = Server()
    asked = [(Side.CLIENT, bytes_of(cycle)) for cycle in held]
    answered = [(Side.TARGET, server.answer(cycle)) for cycle in held]
    dialogue = asked + answered
    if not is_ahead:
        dialogue = [turn for turns in zip(asked, answered, strict=True) for turn in turns]

    talk = hold(dialogue)

    assert [(command.text, command.status) for command in talk.commands.values()] == server.ran
    assert sorted(c.command_no for c in talk.ended) == list(talk.commands)
    for command in talk.commands.values():
        assert command.rows_returned == (1 if command.status == "ok" else None)
        assert (command.error_code == "XX000") == (command.status == "error")
    # And each answer is recorded under the command that it answers.
    for event in talk.events():
        if event.side is Side.TARGET and b"D\0\0" in (event.payload or b""):
            assert talk.commands[event.command_no].text.encode() in (event.payload or b"")


@given(st.lists(st.tuples(st.sampled_from(Side), st.binary(max_size=60)), max_size=8))
def test_garbage_gives_a_protocol_error_or_nothing(said: list[tuple[Side, bytes]]) -> None:
    talk = Talk()
    try:
        for side, data in said:
            (talk.client if side is Side.CLIENT else talk.target)(data)
    except (ClientProtocolError, TargetProtocolError):
        pass
    for side in Side:
        # FunctionCalls are the one thing in there that is not passed on.
        frames = b"".join(s.frame for s in talk.steps if s.side is side and not s.synthetic)
        events = b"".join(
            event.payload or b""
            for event in talk.events()
            if event.side is side and not event.flags & Flag.SYNTHETIC
        )
        heard = b"".join(data for speaker, data in said if speaker is side)
        assert heard.startswith(events)
        assert len(frames) <= len(events)


@given(cycles, st.data())
def test_a_flipped_byte_gives_a_protocol_error_or_another_conversation(
    held: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    server = Server()
    dialogue = []
    for cycle in held:
        dialogue.append((Side.CLIENT, bytearray(bytes_of(cycle))))
        dialogue.append((Side.TARGET, bytearray(server.answer(cycle))))
    _, victim = data.draw(st.sampled_from([turn for turn in dialogue if turn[1]]))
    at = data.draw(st.integers(0, len(victim) - 1))
    victim[at] ^= data.draw(st.integers(1, 255))
    talk = Talk(Conversation(split=at_semicolons))
    try:
        for side, said in dialogue:
            (talk.client if side is Side.CLIENT else talk.target)(bytes(said))
    except (ClientProtocolError, TargetProtocolError):
        return
    for command in talk.ended:
        assert command.status in ("ok", "error", "incomplete", "cancelled", "denied")


@given(cycles, st.data())
def test_a_refusal_at_any_place_is_answered_at_its_turn(
    held: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    """The server is made to fail where the refused frames stood, and the rest pairs as ever."""
    talk = Talk(Conversation(split=at_semicolons))
    refused: list[int] = []
    server = Server()
    for cycle in held:
        sent = b""
        for step in talk.client(bytes_of(cycle)):
            if step.starts and data.draw(st.booleans()):
                refused += [command.command_no for command in step.starts]
                refusal = Refusal(code="42501", message="denied")
                sent += b"".join(s.frame for s in talk.conversation.refuse(step, refusal))
            else:
                sent += step.frame
        talk.target(server.answer(decoded(sent)))

    assert sorted(talk.ended_nos()) == sorted(talk.commands)
    assert {n for n, c in talk.commands.items() if c.status == "denied"} == set(refused)
    for step in talk.steps:
        if step.side is Side.TARGET and step.synthetic:
            assert step.events[0].command_no in refused


def decoded(sent: bytes) -> list[tuple[str, str]]:
    """Return what the server reads: the stand-in of a refusal is a Parse that fails."""
    kinds = {"P": "parse", "B": "bind", "D": "describe", "E": "execute", "H": "flush"}
    kinds |= {"S": "sync", "Q": "query"}
    said, text, at = [], "", 0
    while at < len(sent):
        kind = kinds[chr(sent[at])]
        stop = at + 1 + int.from_bytes(sent[at + 1 : at + 5], "big")
        if kind == "parse":
            name, sql, _ = sent[at + 5 : stop].split(b"\0", 2)
            text = "fail at parse" if name == b"agentaudit" else sql.decode()
        elif kind == "query":
            text = sent[at + 5 : stop - 1].decode()
        said.append((kind, text))
        at = stop
    return said


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_a_session_of_everything_reads_the_same_in_pieces_of_any_size(size: int) -> None:
    dialogue = [
        (Side.CLIENT, wire.parse("s", "SELECT $1", 23) + wire.describe_statement("s") + wire.SYNC),
        (Side.TARGET, wire.PARSE_COMPLETE + wire.parameter_description(23)),
        (Side.TARGET, wire.row_description(("a", 23)) + wire.ready()),
        (Side.CLIENT, wire.bind("", "s", [b"\0\0\0\1"], [1]) + wire.execute("", 1) + wire.FLUSH),
        (Side.TARGET, wire.BIND_COMPLETE + wire.data_row(b"1") + wire.PORTAL_SUSPENDED),
        (Side.CLIENT, wire.execute() + wire.close_statement("s") + wire.SYNC),
        (Side.TARGET, wire.command_complete("SELECT 0") + wire.CLOSE_COMPLETE + wire.ready()),
        (Side.CLIENT, wire.query("COPY t FROM STDIN")),
        (Side.TARGET, wire.COPY_IN),
        (Side.CLIENT, wire.copy_data(b"1\n") + wire.copy_data(b"2\n") + wire.COPY_DONE),
        (Side.TARGET, wire.notice("slow") + wire.command_complete("COPY 2") + wire.ready()),
        (Side.CLIENT, wire.query("COPY t TO STDOUT")),
        (Side.TARGET, wire.COPY_OUT + wire.copy_data(b"1\n" * 9) + wire.COPY_DONE),
        (Side.TARGET, wire.command_complete("COPY 9") + wire.ready()),
        (Side.TARGET, wire.notification("c", "p") + wire.parameter_status("TimeZone", "UTC")),
        (Side.CLIENT, wire.query("") + wire.TERMINATE),
        (Side.TARGET, wire.EMPTY_QUERY + wire.ready()),
        (Side.TARGET, wire.error("57P01", "bye", "FATAL")),
    ]

    whole, cut = hold(dialogue), hold(dialogue, [size])

    assert merged(whole.events()) == merged(cut.events())
    assert [dict_of(c) for c in whole.ended] == [dict_of(c) for c in cut.ended]
    assert len(whole.ended) == 5


@pytest.mark.parametrize("size", [4096, 65_536, 262_143, 262_144, 262_145, 1 << 20])
def test_long_messages_pass_in_the_same_pieces_however_they_arrive(size: int) -> None:
    dialogue = [
        (Side.CLIENT, wire.run("SELECT $1", [b"x" * (3 << 20)])),
        (Side.TARGET, wire.ran("SELECT 2", wire.data_row(b"y" * (1 << 20)), wire.data_row(b"z"))),
        (Side.TARGET, wire.notice("n" * 300_000) + wire.ready()),
    ]

    whole, cut = hold(dialogue), hold(dialogue, [size])

    def long_events(talk: Talk) -> list[tuple[Side | None, int, Flag]]:
        return [
            (event.side, event.orig_len, event.flags)
            for event in talk.events()
            if event.flags & Flag.CONTINUED
        ]

    assert long_events(whole) == long_events(cut)
    assert len(long_events(whole)) == 12 + 4 + 1
    assert merged(whole.events()) == merged(cut.events())
    assert whole.commands[0].sha256 == cut.commands[0].sha256
    assert len(whole.commands[0].sha256) == 3
