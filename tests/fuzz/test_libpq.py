"""What libpq makes of a server's bytes is what the conversation makes of them.

libpq sends, a server that is played here answers with bytes of our choice, and both tell how many
results there were, of how many rows, and with which SQLSTATE.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import pq

from agentaudit.errors import TargetProtocolError
from agentaudit.protocols.postgres import Conversation
from tests import tries
from tests.protocols import wire
from tests.protocols.wire import Talk, at_semicolons

Status = pq.ExecStatus

Outcome = tuple[str, str | None, int | None]
"""`ok`, `error` or `incomplete`; the SQLSTATE; how many rows were returned, where some were."""

SKIPPED: Outcome = ("incomplete", None, None)

LOGIN = (
    wire.message("R", b"\0\0\0\0")
    + wire.parameter_status("client_encoding", "UTF8")
    + wire.parameter_status("server_version", "18.0")
    + wire.parameter_status("standard_conforming_strings", "on")
    + wire.message("K", b"\0\0\0\1\0\0\0\2")
    + wire.ready()
)


class Played:
    """A server that says what it is told to, and libpq at the other end of the connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            dsn = f"host=127.0.0.1 port={port} user=a dbname=a sslmode=disable gssencmode=disable"
            self.client = pq.PGconn.connect_start(dsn.encode())
            self.client.connect_poll()
            self.server, _ = listener.accept()
        self.server.settimeout(10)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while self.client.connect_poll() == pq.PollingStatus.WRITING:
            pass
        self.server.recv(65536)
        self.server.sendall(LOGIN)
        while self.client.connect_poll() != pq.PollingStatus.OK:
            assert self.client.status != pq.ConnStatus.BAD, self.client.error_message

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.finish()
        self.server.close()

    def hear(self, last: bytes) -> bytes:
        """Return what libpq has said, which ends with `last`."""
        while self.client.flush():
            pass
        heard = b""
        while not heard.endswith(last):
            heard += self.server.recv(65536)
        return heard

    def results(self) -> Iterator[pq.PGresult | None]:
        """Yield libpq's results; None parts those of one query from the next one's."""
        while True:
            result = self.client.get_result()
            yield result
            if result is None and self.client.status == pq.ConnStatus.BAD:
                return


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one statement."""

    kind: str
    count: int = 0
    before: bytes = b""

    def bytes(self) -> bytes:
        row = wire.data_row(b"x" * self.count, None)
        return (
            self.before
            + {
                "rows": wire.row_description(("a", 25), ("b", 25))
                + row * self.count
                + wire.command_complete(f"SELECT {self.count}"),
                "insert": wire.command_complete(f"INSERT 0 {self.count}"),
                "begin": wire.command_complete("BEGIN"),
                "error": wire.error(f"2201{self.count % 10}", "no"),
                "copied": wire.COPY_OUT
                + wire.copy_data(b"1\n") * self.count
                + wire.COPY_DONE
                + wire.command_complete(f"COPY {self.count}"),
            }[self.kind]
        )

    def extended(self) -> bytes:
        bound = wire.PARSE_COMPLETE + wire.BIND_COMPLETE
        if self.kind == "error":
            return self.bytes() if self.count % 2 else bound + wire.NO_DATA + self.bytes()
        return bound + (b"" if self.kind == "rows" else wire.NO_DATA) + self.bytes()


asides = st.sampled_from(
    [b"", b"", wire.notice("n"), wire.notification("c", "p"), wire.parameter_status("a", "b")]
)
counts = st.integers(0, 9)
answers = st.builds(Answer, st.sampled_from(["rows", "insert", "begin", "error"]), counts, asides)
copied = st.builds(Answer, st.just("copied"), counts, asides)
simple = st.lists(st.one_of(answers, copied), min_size=1, max_size=4)
pipelines = st.lists(answers, min_size=1, max_size=6)


def of_libpq(results: Sequence[pq.PGresult | None]) -> list[Outcome]:
    """Return what libpq tells of each statement."""
    told: list[Outcome] = []
    for result in results:
        if result is None or result.status == Status.PIPELINE_SYNC:
            continue
        if result.status == Status.TUPLES_OK:
            told.append(("ok", None, result.ntuples))
        elif result.status in (Status.COMMAND_OK, Status.EMPTY_QUERY):
            told.append(("ok", None, None))
        elif result.status == Status.PIPELINE_ABORTED:
            told.append(("incomplete", None, None))
        elif result.status == Status.FATAL_ERROR:
            code = result.error_field(pq.DiagnosticField.SQLSTATE)
            told.append(("error", (code or b"").decode("utf-8", "replace"), None))
    return told


def merged(told: Sequence[Outcome], count: int) -> list[Outcome]:
    """Return what is told of `count` statements, where a server answered more than it was asked.

    The last one has all that comes behind it: the first error, or every row.
    """
    if not 0 < count < len(told):
        return list(told)
    kept, more = list(told[: count - 1]), told[count - 1 :]
    failed = [one for one in more if one[0] == "error"]
    rows = [n for _, _, n in more if n is not None]
    last = failed[0] if failed else ("ok", None, sum(rows) if rows else None)
    return [*kept, last]


def of_conversation(talk: Talk) -> list[Outcome]:
    """Return the same of the commands that have ended, in the order that they began in."""
    return [
        (c.status, c.error_code, c.rows_returned if c.columns else None)
        for c in sorted(talk.ended, key=lambda c: c.command_no)
    ]


def ask_simply(played: Played, many: Sequence[Answer]) -> bytes:
    sql = "; ".join(f"SELECT {n}" for n in range(len(many)))
    played.client.send_query(sql.encode())
    return played.hear(b"\0")


def answered_simply(many: Sequence[Answer]) -> bytes:
    said = b""
    for one in many:
        said += one.bytes()
        if one.kind == "error":
            break
    return said + wire.ready()


def ask_in_pipeline(played: Played, many: Sequence[Answer]) -> bytes:
    played.client.enter_pipeline_mode()
    for n in range(len(many)):
        played.client.send_query_params(b"SELECT $1", [str(n).encode()])
    played.client.pipeline_sync()
    return played.hear(wire.SYNC)


def answered_in_pipeline(many: Sequence[Answer]) -> bytes:
    said = b""
    for one in many:
        if one.kind == "rows":  # libpq has each portal described
            described = wire.PARSE_COMPLETE + wire.BIND_COMPLETE
            said += described + one.bytes()
        else:
            said += one.extended()
        if one.kind == "error":
            break
    return said + wire.ready()


def collect(played: Played) -> list[pq.PGresult | None]:
    """Return libpq's results up to where the connection ends, which it does behind the answer."""
    played.server.shutdown(socket.SHUT_WR)
    found: list[pq.PGresult | None] = []
    for result in played.results():
        found.append(result)
        if result is not None and result.status in (Status.COPY_OUT, Status.COPY_BOTH):
            while played.client.get_copy_data(0)[0] > 0:
                pass
        if result is not None and result.status == Status.COPY_IN:  # what a CopyBoth ends as
            played.client.put_copy_end()
        if len(found) > 200:
            break
        if found[-2:] == [None, None]:
            break
    return found


def agree(many: Sequence[Answer], *, in_pipeline: bool, flip: tuple[int, int] | None) -> None:
    """Hold libpq's story of one answer against the conversation's."""
    talk = Talk(Conversation(split=at_semicolons))
    with Played() as played:
        asked = (ask_in_pipeline if in_pipeline else ask_simply)(played, many)
        answer = bytearray((answered_in_pipeline if in_pipeline else answered_simply)(many))
        if flip is not None:
            answer[flip[0] % len(answer)] ^= flip[1]
        played.server.sendall(answer)
        try:
            told = of_libpq(collect(played))
        except psycopg.OperationalError:
            assert flip is not None  # it has lost its way in a COPY
            return
        gave_up = b'" message' in played.client.error_message or any(c == "" for _, c, _ in told)
    talk.client(asked)
    try:
        talk.target(bytes(answer))
    except TargetProtocolError:
        assert flip is not None
        return
    is_missing = talk.conversation.broken is not None or len(talk.ended) < len(talk.commands)
    if flip is not None and (gave_up or is_missing):
        return  # What libpq cannot read, we may.
    recorded = of_conversation(talk)
    # What was not run behind an error, libpq tells of in a pipeline only.
    if in_pipeline:
        assert told.count(SKIPPED) == recorded.count(SKIPPED)
    told = [one for one in told if one != SKIPPED]
    recorded = [one for one in recorded if one != SKIPPED]
    if flip is not None:
        told = merged(told, len(recorded))
        # libpq forgets the rows before an error.
        recorded = [(s, code, None if s == "error" else rows) for s, code, rows in recorded]
    assert recorded == told


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_libpq_and_the_conversation_tell_the_same_of_what_a_server_answers(
    in_pipeline: bool,
) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(pipelines if in_pipeline else simple)
    def holds(many: list[Answer]) -> None:
        agree(many, in_pipeline=in_pipeline, flip=None)

    holds()


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize(
    "examples", [80, pytest.param(tries.of(600, share=200), id="many", marks=pytest.mark.full)]
)
def test_where_both_accept_what_a_server_garbles_they_tell_the_same(
    examples: int, in_pipeline: bool
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(pipelines if in_pipeline else simple, st.integers(0, 5_000), st.integers(1, 255))
    # A notice before the answer that becomes an error.
    @example([Answer("rows", 0, wire.notice("n"))], 0, ord("N") ^ ord("E"))
    def holds(many: list[Answer], at: int, bits: int) -> None:
        agree(many, in_pipeline=in_pipeline, flip=(at, bits))

    holds()


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_they_tell_the_same_of_a_message_of_every_type_in_the_place_of_every_other(
    in_pipeline: bool,
) -> None:
    kinds = ["rows", "insert", "begin", "error"] + ["copied"] * (not in_pipeline)
    for kind, before in itertools.product(kinds, [b"", wire.notice("n")]):
        for many in ([Answer(kind, 1, before)], [Answer("rows", 1), Answer(kind, 1, before)]):
            answer = (answered_in_pipeline if in_pipeline else answered_simply)(many)
            at = 0
            while at < len(answer):
                for other in b"123ACDEGHIKNRSTVWZcdnst":
                    if other != answer[at]:
                        agree(many, in_pipeline=in_pipeline, flip=(at, other ^ answer[at]))
                at += 1 + int.from_bytes(answer[at + 1 : at + 5], "big")
