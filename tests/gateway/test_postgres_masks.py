"""What masks make of a session's messages: bytes where nothing is hidden, the protocol where it is.

No sockets here: a conversation, its masks, and what would be recorded and passed on.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest

from agentaudit.errors import MaskingError
from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.masking.marks import PseudonymKey
from agentaudit.masking.masks import Masks
from agentaudit.masking.scan import Scanner
from agentaudit.model import Event, Flag, Kind, Side
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.risk import sql

SECRET = b"AKIAIOSFODNN7EXAMPLX"
ALL: Mapping[str, Any] = {
    "name": "all",
    "action": "redact",
    "apply": ["archive"],
    "detect": ["all"],
}
IDLE = messages.ready_for_query(b"I")


class Talk:
    """A session under `rules`: what each side says, what is recorded of it, and what goes on."""

    def __init__(self, *rules: Mapping[str, Any], **more: Any) -> None:
        self.conversation = Conversation(split=sql.split)
        self.masks = PostgresMasks(Masks(rules, **more), self.conversation, None)
        self.events: list[Event] = []
        self.passed = {Side.CLIENT: b"", Side.TARGET: b""}
        self.said = {Side.CLIENT: b"", Side.TARGET: b""}
        self.commands: list[Any] = []

    def client(self, *frames: bytes, cuts: Iterable[int] = ()) -> None:
        self._say(Side.CLIENT, b"".join(frames), cuts)

    def target(self, *frames: bytes, cuts: Iterable[int] = ()) -> None:
        self._say(Side.TARGET, b"".join(frames), cuts)

    def _say(self, side: Side, data: bytes, cuts: Iterable[int]) -> None:
        self.said[side] += data
        places = [0, *cuts, len(data)]
        for start, stop in pairwise(places):
            for step in self.conversation.receive(side, data[start:stop]):
                self.masks.mask(step)
                self.events += step.events
                self.passed[step.side] += step.frame
                self.commands += step.ends

    def finish(self) -> None:
        self.events += self.masks.finish()

    def recorded(self, side: Side) -> bytes:
        return b"".join(event.payload or b"" for event in self.events if event.side is side)

    def everything(self) -> bytes:
        texts = [event.text or "" for event in self.events]
        texts += [repr((c.text, c.params, c.columns, c.error_text)) for c in self.commands]
        return b"".join(event.payload or b"" for event in self.events) + "".join(texts).encode()


def row(*values: bytes) -> bytes:
    parts = [struct.pack("!i", len(value)) + value for value in values]
    return messages.frame(b"D", struct.pack("!H", len(values)) + b"".join(parts))


def description(*columns: tuple[bytes, int, int]) -> bytes:
    parts = [
        name + b"\0" + struct.pack("!IhIhih", 0, 0, oid, -1, -1, form)
        for name, oid, form in columns
    ]
    return messages.frame(b"T", struct.pack("!H", len(columns)) + b"".join(parts))


def bind(value: bytes, form: int = 0) -> bytes:
    body = b"\0\0" + struct.pack("!Hh", 1, form) + struct.pack("!Hi", 1, len(value)) + value
    return messages.frame(b"B", body + struct.pack("!H", 0))


def random_bytes(chosen: random.Random, size: int) -> bytes:
    return bytes(chosen.choices(b"abcz12\n\t ", k=size))


def workload(seed: int) -> Iterator[tuple[Side, bytes]]:
    chosen = random.Random(seed)
    two = description((b"a", 25, 0), (b"b", 25, 0))
    for _ in range(4):
        kind = chosen.choice(["copy out", "copy in", "rows", "bind", "long query"])
        if kind == "copy out":
            yield Side.CLIENT, messages.query("COPY t TO STDOUT")
            data = messages.frame(b"H", b"\0\0\1\0\0")
            for _ in range(chosen.randrange(20)):
                line = random_bytes(chosen, chosen.choice([0, 5, 50, 300_000]))
                data += messages.frame(b"d", line + chosen.choice([b"\n", b"\n", b""]))
                data += chosen.choice([b"", b"", b"", messages.notice_response(message="so")])
            yield (
                Side.TARGET,
                data + messages.frame(b"c") + messages.frame(b"C", b"COPY 3\0") + IDLE,
            )
        elif kind == "copy in":
            yield Side.CLIENT, messages.query("COPY t FROM STDIN")
            yield Side.TARGET, messages.frame(b"G", b"\0\0\1\0\0")
            for _ in range(10):
                piece = random_bytes(chosen, chosen.choice([0, 5, 50, 300_000]))
                yield Side.CLIENT, messages.frame(b"d", piece)
            yield Side.CLIENT, messages.frame(b"c")
            yield Side.TARGET, messages.frame(b"C", b"COPY 3\0") + IDLE
        elif kind == "rows":
            yield Side.CLIENT, messages.query("SELECT 1")
            rows = b"".join(
                row(
                    random_bytes(chosen, chosen.choice([0, 3, 600_000])), b"x" * chosen.randrange(9)
                )
                for _ in range(chosen.randrange(6))
            )
            yield Side.TARGET, two + rows + messages.frame(b"C", b"SELECT 3\0") + IDLE
        elif kind == "bind":
            value = random_bytes(chosen, chosen.choice([3, 300_000, 1_200_000]))
            yield (
                Side.CLIENT,
                messages.parse("", "SELECT $1")
                + bind(value)
                + messages.execute()
                + messages.sync(),
            )
            done = messages.frame(b"C", b"SELECT 1\0") + IDLE
            yield Side.TARGET, messages.frame(b"1") + messages.frame(b"2") + row(b"a", b"b") + done
        else:
            yield Side.CLIENT, messages.query(f"SELECT '{'x' * 300_000}'")
            notice = messages.notice_response(message="n" * chosen.choice([3, 300_000]))
            yield Side.TARGET, two + messages.frame(b"C", b"SELECT 0\0") + notice + IDLE


@pytest.mark.parametrize("seed", range(24))
def test_where_nothing_is_hidden_what_is_recorded_is_what_was_said(seed: int) -> None:
    chosen = random.Random(seed)
    talk = Talk()
    for side, data in workload(seed):
        cuts = sorted(chosen.sample(range(1, len(data)), min(len(data) - 1, chosen.randrange(4))))
        talk._say(side, data, cuts)
        if chosen.random() < 0.3:
            talk.events += talk.masks.flush()
    talk.finish()
    for side in Side:
        assert talk.recorded(side) == talk.said[side] == talk.passed[side]
        sizes = [event.orig_len for event in talk.events if event.side is side]
        assert sum(sizes) == len(talk.said[side])
    assert not any(event.flags & Flag.MASKED or event.spans for event in talk.events)


def in_every_place() -> Iterator[tuple[str, list[tuple[Side, bytes]]]]:
    done = messages.frame(b"C", b"SELECT 1\0") + IDLE
    text = description((b"a", 25, 0))
    execute = messages.execute() + messages.sync()
    query = messages.query("SELECT 1")
    name = SECRET.decode()
    parse = messages.parse("", "SELECT $1")
    ok = messages.frame(b"1") + messages.frame(b"2") + row(b"x") + done
    copy_in = [(Side.CLIENT, messages.query("COPY t FROM STDIN"))]
    copy_in += [(Side.TARGET, messages.frame(b"G", b"\0\0\1\0\0"))]
    copied = (Side.TARGET, messages.frame(b"C", b"COPY 1\0") + IDLE)
    c, t = Side.CLIENT, Side.TARGET
    yield "a query", [(c, messages.query(f"SELECT '{name}'")), (t, text + row(b"x") + done)]
    yield "a comment", [(c, messages.query(f"SELECT 1 -- {name}")), (t, text + row(b"x") + done)]
    yield (
        "a prepared text",
        [(c, messages.parse("", f"SELECT '{name}'") + bind(b"") + execute), (t, ok)],
    )
    yield "a statement's name", [(c, messages.parse(name, "SELECT 1") + messages.sync())]
    yield "a parameter", [(c, parse + bind(SECRET) + execute), (t, ok)]
    yield "a parameter in binary", [(c, parse + bind(SECRET, 1) + execute), (t, ok)]
    yield "a row", [(c, query), (t, text + row(SECRET) + done)]
    yield "a row in binary", [(c, query), (t, description((b"a", 25, 1)) + row(SECRET) + done)]
    array = struct.pack("!iiIii", 1, 0, 25, 1, 1) + struct.pack("!i", 20) + SECRET
    yield "an array", [(c, query), (t, description((b"a", 1009, 1)) + row(array) + done)]
    yield (
        "JSON",
        [(c, query), (t, description((b"a", 3802, 1)) + row(b'\1{"a":"%s"}' % SECRET) + done)],
    )
    yield "a column's name", [(c, query), (t, description((SECRET, 23, 0)) + row(b"1") + done)]
    error = messages.error_response(
        severity="ERROR", code="22P02", message=f"no: {name}", detail=name
    )
    yield "an error", [(c, query), (t, error + IDLE)]
    yield "a notice", [(c, query), (t, messages.notice_response(message=name) + done)]
    told = messages.frame(b"A", b"\0\0\0\1news\0" + SECRET + b"\0")
    yield "a notification", [(c, query), (t, text + row(b"x") + done + told)]
    status = messages.parameter_status("application_name", name)
    yield "a setting", [(c, query), (t, status + text + row(b"x") + done)]
    out = messages.frame(b"H", b"\0\0\1\0\0") + messages.frame(b"d", b"1\t" + SECRET + b"\n")
    yield (
        "COPY out",
        [(c, messages.query("COPY t TO STDOUT")), (t, out + messages.frame(b"c") + done)],
    )
    line = messages.frame(b"d", b"1\t" + SECRET + b"\n") + messages.frame(b"c")
    yield "COPY in", [*copy_in, (c, line), copied]
    cut = messages.frame(b"d", b"1\t" + SECRET[:7]) + messages.frame(b"d", SECRET[7:] + b"\n")
    yield "COPY in, cut", [*copy_in, (c, cut + messages.frame(b"c")), copied]
    yield "a CopyFail", [*copy_in, (c, messages.frame(b"f", SECRET + b"\0")), (t, error + IDLE)]
    long = b"z " * 150_000 + SECRET + b" z" * 10
    yield "a long row", [(c, query), (t, text + row(long) + done)]
    yield "a long parameter", [(c, parse + bind(long * 4) + execute), (t, ok)]
    yield "a long line", [*copy_in, (c, messages.frame(b"d", long) + messages.frame(b"c")), copied]
    yield "a long notice", [(c, query), (t, messages.notice_response(message=long.decode()) + done)]


PLACES = dict(in_every_place())


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_in_nothing_that_is_recorded_and_in_all_that_passes(place: str) -> None:
    talk = Talk(ALL)
    for side, data in PLACES[place]:
        talk._say(side, data, ())
    talk.finish()
    assert SECRET not in talk.everything()
    assert SECRET[:12] not in talk.everything()
    assert talk.passed == talk.said
    assert any(event.spans for event in talk.events)
    assert all(span.length for event in talk.events for span in event.spans)
    for side in Side:
        assert sum(e.orig_len for e in talk.events if e.side is side) == len(talk.said[side])


@pytest.mark.parametrize("place", PLACES)
def test_what_is_recorded_is_a_conversation_still(place: str) -> None:
    talk, again = Talk(ALL), Conversation()
    for side, data in PLACES[place]:
        begun = len(talk.events)
        talk._say(side, data, ())
        for event in talk.events[begun:]:
            assert event.side is not None
            again.receive(event.side, event.payload or b"")
    assert again.broken is None
    assert again.txn_status == talk.conversation.txn_status


SHORT = [name for name, said in PLACES.items() if all(len(data) < 2000 for _, data in said)]


@pytest.mark.parametrize("place", SHORT)
def test_a_secret_is_found_wherever_reads_cut_it(place: str) -> None:
    said = PLACES[place]
    for number, (_, data) in enumerate(said):
        for cut in range(1, len(data)):
            talk = Talk(ALL)
            for other, (side, each) in enumerate(said):
                talk._say(side, each, [cut] if other == number else ())
            talk.finish()
            assert SECRET not in talk.everything(), (number, cut)
            assert talk.passed == talk.said


@pytest.mark.parametrize("place", [name for name in SHORT if name != "a statement's name"])
def test_what_the_client_is_not_to_see_it_does_not_get(place: str) -> None:
    talk = Talk({**ALL, "apply": ["archive", "client"]})
    for side, data in PLACES[place]:
        talk._say(side, data, ())
    assert SECRET not in talk.passed[Side.TARGET]
    assert talk.passed[Side.CLIENT] == talk.said[Side.CLIENT]  # the target gets what was sent
    reader = messages.MessageReader(max_bytes=1 << 20)
    assert list(reader.feed(talk.passed[Side.TARGET]))
    assert reader.rest() == b""


def test_only_some_rules_are_the_clients_too() -> None:
    seen = {"name": "seen", "action": "redact", "apply": ["archive"], "detect": ["email"]}
    unseen = {
        "name": "unseen",
        "action": "redact",
        "apply": ["archive", "client"],
        "detect": ["card"],
    }
    talk = Talk(seen, unseen)
    talk.client(messages.query("SELECT 1"))
    both = row(b"ann@example.com 4111111111111111")
    talk.target(description((b"a", 25, 0)), both, messages.frame(b"C", b"SELECT 1\0"), IDLE)
    assert b"ann@example.com [masked:card]" in talk.passed[Side.TARGET]
    assert b"[masked:email] [masked:card]" in talk.recorded(Side.TARGET)


@pytest.mark.parametrize(
    ("oid", "form", "value", "expected"),
    [
        (25, 0, b"card 4111111111111111", b"card [masked:card]"),
        (1043, 1, b"card 4111111111111111", b"card [masked:card]"),
        (114, 0, b'{"n":4111111111111111}', b'{"n":"[masked:card]"}'),
        (114, 0, b'{"n":"4111111111111111"}', b'{"n":"[masked:card]"}'),
        (3802, 1, b'\1{"n":4111111111111111}', b'\1{"n":"[masked:card]"}'),
        (20, 0, b"4111111111111111", None),
        (20, 1, (4111111111111111).to_bytes(8), None),
        (20, 1, (4111111111111112).to_bytes(8), (4111111111111112).to_bytes(8)),
        (1009, 0, b"{4111111111111111,b}", b"{[masked:card],b}"),
        (99999, 1, b"4111111111111111", b"[masked:card]"),
        (99999, 1, b"\0\1 4111111111111111", None),
    ],
)
def test_a_value_is_one_of_its_type_still(
    oid: int, form: int, value: bytes, expected: bytes | None
) -> None:
    talk = Talk(ALL)
    talk.client(messages.query("SELECT 1"))
    talk.target(
        description((b"a", oid, form)), row(value), messages.frame(b"C", b"SELECT 1\0"), IDLE
    )
    (body,) = [
        body
        for kind, body in messages.MessageReader().feed(talk.recorded(Side.TARGET))
        if kind == b"D"
    ]
    assert messages.decode_data_row(body) == [expected]


def test_a_pseudonym_is_the_same_in_text_and_in_binary() -> None:
    rule = {"name": "p", "action": "pseudonym", "apply": ["archive"], "detect": ["us_ssn"]}
    key = PseudonymKey(bytes(32))
    made = []
    for form in (0, 1):
        talk = Talk(rule, keys={"p": key})
        talk.client(messages.parse("", "SELECT $1"), bind(b"123-45-6789", form), messages.execute())
        talk.client(messages.sync())
        made.append(talk.events[0].payload)
    assert made[0] is not None
    assert key.pseudonym(b"123-45-6789") in made[0]
    assert made[1] is not None
    assert key.pseudonym(b"123-45-6789") in made[1]


def test_what_no_path_names_in_a_parameter_is_looked_at_all_the_same() -> None:
    rule = {**ALL, "json_paths": ["$.token"]}
    talk = Talk(rule)
    value = b'{"token":"short","note":"' + SECRET + b'"}'
    talk.client(messages.parse("", "SELECT $1", [114]), bind(value), messages.execute())
    talk.client(messages.sync())
    recorded = talk.recorded(Side.CLIENT)
    assert b'{"token":"[masked:all]","note":"[masked:aws_key]"}' in recorded
    assert talk.passed[Side.CLIENT] == talk.said[Side.CLIENT]


def test_a_hash_of_a_long_message_is_of_what_is_kept() -> None:
    clear, masked = Talk(), Talk(ALL)
    for talk in (clear, masked):
        talk.client(messages.query("SELECT 1"))
        long = row(b"z " * 200_000 + SECRET)
        done = messages.frame(b"C", b"SELECT 1\0")
        talk.target(description((b"a", 25, 0)), long, done, IDLE)
    assert len(clear.commands[0].sha256) == len(masked.commands[0].sha256) == 1
    assert clear.commands[0].sha256 != masked.commands[0].sha256


class Breaks:
    """A plug-in that fails."""

    name = "breaks"

    def find(self, data: bytes) -> Iterator[tuple[int, int]]:
        raise RuntimeError(data.decode())


def test_what_cannot_be_masked_is_an_error_that_says_nothing_of_it() -> None:
    rule = {"name": "b", "action": "redact", "apply": ["archive"], "detect": ["breaks"]}
    talk = Talk(rule, finders={"breaks": Breaks()})
    with pytest.raises(MaskingError) as failed:
        talk.client(messages.query("SELECT 'hunter2'"))
    assert "hunter2" not in str(failed.value)
    assert talk.events == []
    assert talk.passed[Side.CLIENT] == b""


def test_content_follows_what_was_withheld() -> None:
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN"))
    talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
    half = b"1\thalf a " + b"very " * 40
    first, second = messages.frame(b"d", half), messages.frame(b"d", b"long line\n2\tand\n")
    talk.client(first)
    assert talk.events[-1].flags & Flag.WITHHELD
    assert talk.masks.is_withholding
    assert talk.events[-1].orig_len == len(first)
    talk.events += talk.masks.flush()
    assert talk.events[-1].kind is Kind.CONTENT
    kept = talk.recorded(Side.CLIENT)
    assert b"1\thalf a very" in kept
    assert not kept.endswith(first)  # its last words wait for what they mean
    talk.client(second)
    assert not talk.masks.is_withholding
    assert talk.recorded(Side.CLIENT).endswith(first + second)


# --- framing is no text, and hides none

CARD = b"4242424242424242"
TOKEN = b"ghp_" + b"A1b2C3d4E5f6" * 3
DONE = messages.frame(b"C", b"SELECT 1\0") + IDLE
SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
ROWS = {"name": "rows", "action": "redact", "apply": ["archive"], "json_paths": ["$..token"]}


def copied_row(*values: bytes) -> bytes:
    parts = [struct.pack("!i", len(value)) + value for value in values]
    return struct.pack("!h", len(values)) + b"".join(parts)


@pytest.mark.parametrize("sizes", [range(40, 86), range(86, 132)], ids=str)
def test_the_length_of_a_value_hides_nothing_in_it(sizes: range) -> None:
    for size in sizes:
        require_hidden(size)


def require_hidden(size: int) -> None:
    card = (CARD + b" is a card").ljust(size, b".")
    token = (TOKEN + b" ").ljust(size, b".")
    talk = Talk(ALL)
    talk.client(messages.query("SELECT 1"))
    talk.target(description((b"n", 25, 0)), row(card), row(token), DONE)
    talk.client(messages.parse("", "SELECT $1"), bind(card), messages.execute(), messages.sync())
    talk.target(messages.frame(b"1") + messages.frame(b"2"), row(CARD), messages.frame(b"s") + IDLE)
    talk.client(messages.query("COPY t TO STDOUT (FORMAT binary)"))
    talk.target(messages.frame(b"H", b"\1\0\1\0\1"))
    for body in (SIGNATURE + copied_row(b"x"), copied_row(card), copied_row(token), b"\xff\xff"):
        talk.target(messages.frame(b"d", body))
    talk.target(messages.frame(b"c"), DONE)
    talk.finish()
    assert CARD not in talk.everything(), size
    assert TOKEN not in talk.everything(), size


@pytest.mark.parametrize("cut", [1, 5, 11, 15, 19, 20, 25, 40, 70])
@pytest.mark.parametrize("is_early", [False, True])
def test_what_a_client_copies_in_binary_is_read_wherever_it_is_cut(
    cut: int, *, is_early: bool
) -> None:
    data = SIGNATURE + copied_row((TOKEN + b" ").ljust(65, b".")) + b"\xff\xff"
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN (FORMAT binary)"))
    begun = messages.frame(b"G", b"\1\0\1\0\1")
    # Drivers send what they have without waiting for the server's word.
    talk.target(b"" if is_early else begun)
    talk.client(messages.frame(b"d", data[:cut]))
    talk.client(messages.frame(b"d", data[cut:]))
    talk.client(messages.frame(b"c"))
    talk.target((begun if is_early else b"") + messages.frame(b"C", b"COPY 1\0") + IDLE)
    talk.finish()
    assert TOKEN not in talk.everything()
    assert len(talk.recorded(Side.CLIENT)) == len(talk.said[Side.CLIENT])


@pytest.mark.parametrize(
    "statement",
    [
        "SET my.secret = 'hunter2x'",
        "SELECT set_config('my.secret','hunter2x',false)",
        "ALTER SYSTEM SET app.secret = hunter2x",
        "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', api_secret 'hunter2x')",
        "SELECT dblink_connect('c', 'host=x token=hunter2x')",
    ],
)
@pytest.mark.parametrize("rules", [(), ({**ALL, "detect": ["card"]},), (ALL,)])
def test_a_credential_in_its_place_is_hidden_whatever_the_rules(
    statement: str, rules: tuple[Mapping[str, Any], ...]
) -> None:
    talk = Talk(*rules)
    talk.client(messages.query(statement))
    talk.finish()
    assert b"hunter2x" not in talk.everything()
    assert b"hunter2x" in talk.passed[Side.CLIENT]


# --- JSON paths

JSON_TEXT = b'{"token":"s3cretvalue","n":12345678901234567890.12}'


def declared(oid: int) -> bytes:
    return messages.frame(b"P", b"\0INSERT INTO t VALUES ($1)\0" + struct.pack("!HI", 1, oid))


@pytest.mark.parametrize("oid", [0, 114, 3802, 199])
def test_a_path_hides_in_a_parameter(oid: int) -> None:
    talk = Talk(ROWS)
    talk.client(declared(oid), bind(JSON_TEXT), messages.execute(), messages.sync())
    talk.finish()
    assert b"s3cret" not in talk.everything()
    spans = [span for event in talk.events for span in event.spans]
    assert {(span.rule, span.place, span.offset) for span in spans} == {("rows", "parameter", 0)}
    if oid != 199:
        assert b'"n":12345678901234567890.12' in talk.recorded(Side.CLIENT)


@pytest.mark.parametrize(
    "value",
    [
        JSON_TEXT,
        b'{"a":{"token":"s3cretvalue"},"a":1}',
        b'{"\\u0074oken":"s3cretvalue"}',
        JSON_TEXT[:-1] + b',"pad":"' + b"x" * 400_000 + b'"}',
    ],
)
@pytest.mark.parametrize("is_described", [True, False])
def test_a_path_hides_in_a_row(value: bytes, is_described: bool) -> None:
    if len(value) > 1000 and not is_described:
        return  # of such a value nobody knows that it is JSON
    talk = Talk(ROWS)
    asked = messages.frame(b"D", b"P\0") if is_described else b""
    talk.client(messages.parse("", "SELECT j"), bind(b""), asked, messages.execute())
    talk.client(messages.sync())
    shape = description((b"j", 114, 0)) if is_described else b""
    began = messages.frame(b"1") + messages.frame(b"2")
    talk.target(began + shape + row(value) + DONE)
    talk.finish()
    assert b"s3cret" not in talk.everything()
    assert talk.passed[Side.TARGET] == talk.said[Side.TARGET]


def test_two_paths_are_told_by_their_own_rules() -> None:
    other = {**ROWS, "name": "other", "json_paths": ["$.pin"]}
    talk = Talk(ROWS, other)
    talk.client(messages.query("SELECT j"))
    talk.target(description((b"j", 114, 0)), row(b'{"pin":1}'), row(b'{"token":"s"}'), DONE)
    spans = [span for event in talk.events for span in event.spans if span.place == "column"]
    assert [(span.rule, span.length) for span in spans] == [("other", 9), ("rows", 13)]


# --- what is told of what was hidden


def test_spans_are_where_the_marks_are() -> None:
    talk = Talk(ALL)
    talk.target(messages.frame(b"S", b"client_encoding\0LATIN1\0"))
    talk.client(messages.frame(b"Q", b"SELECT '\xe9\xe9', '" + TOKEN + b"'\0"))
    assert starts_of_marks(talk) == [b"[masked:github_token]"]


def starts_of_marks(talk: Talk) -> list[bytes]:
    """Return what is recorded where spans of payloads say that something is hidden."""
    spans = [(e.payload or b"", s) for e in talk.events for s in e.spans if s.place == "payload"]
    return [payload[span.offset :].partition(b"]")[0] + b"]" for payload, span in spans]


def test_what_was_hidden_in_a_parameter_is_hidden_where_an_error_quotes_it() -> None:
    talk = Talk(ALL)
    talk.client(messages.parse("", "SELECT f($1)"), bind(b"user=bob password=hunter2x!Q"))
    talk.client(messages.execute(), messages.sync())
    talk.target(messages.error_response(code="P0001", message="wrong: hunter2x!Q"), IDLE)
    talk.finish()
    assert b"hunter2x" not in talk.everything()


def test_no_hash_is_kept_of_a_copy_in_which_something_was_hidden() -> None:
    for body, is_kept in ((b"x" * 300_000, True), (b"x" * 300_000 + b" " + TOKEN, False)):
        talk = Talk(ALL)
        talk.client(messages.query("COPY t FROM STDIN"))
        talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
        talk.client(messages.frame(b"d", body + b"\n"), messages.frame(b"c"))
        talk.target(messages.frame(b"C", b"COPY 1\0") + IDLE)
        talk.finish()
        assert bool(talk.commands[-1].sha256) is is_kept


# --- what takes no square of its length


@pytest.mark.parametrize(
    "pieces",
    [
        [b"a"] + [b""] * 20_000,
        [b"a" * 60_000 + b" "],
        [b"-----BEGIN PRIVATE KEY-----\n"] + [b"A\n"] * 20_000,
        [b"-----BEGIN PRIVATE KEY" * 3000 + b"{\n"],
        [b"\0" * 60_000 + b"x\0y"],
        [b"y"] * 20_000,
    ],
    ids=["empty", "word", "key", "keys", "zeros", "bytes"],
)
def test_a_copy_cut_oddly_is_looked_at_once(pieces: list[bytes]) -> None:
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN (FORMAT binary)"))
    talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
    most = 0
    for number, piece in enumerate(pieces):
        talk.client(messages.frame(b"d", piece))
        if number % 1000 == 0:
            talk.events += talk.masks.flush()
        held = sum(copy.pending for copy in talk.masks._copies.values())
        most = max(most, held)
    talk.finish()
    assert most <= 300_000
    assert len(talk.recorded(Side.CLIENT)) == len(talk.said[Side.CLIENT])


# --- what a second look found


def test_a_notice_among_rows_of_a_copy_is_told_masked() -> None:
    talk = Talk(ALL)
    talk.client(messages.query("COPY t TO STDOUT"))
    notice = messages.notice_response(message="key " + SECRET.decode())
    rows = [messages.frame(b"d", b"1\n"), notice, messages.frame(b"d", b"2\n")]
    talk.target(messages.frame(b"H", b"\0\0\1\0\0"), *rows, messages.frame(b"c"), DONE)
    assert SECRET not in talk.everything()
    assert "[masked:aws_key]" in "".join(event.text or "" for event in talk.events)


def test_what_a_path_hid_is_hidden_where_an_error_quotes_it() -> None:
    talk = Talk(ROWS)
    talk.client(declared(3802), bind(b'{"token":"hunter22xyz","a":1}'), messages.execute())
    talk.client(messages.sync())
    detail = "Key ((d ->> 'token'::text))=(hunter22xyz) already exists."
    talk.target(messages.error_response(code="23505", message="no", detail=detail), IDLE)
    talk.finish()
    assert b"hunter22" not in talk.everything()


@pytest.mark.parametrize("value", [JSON_TEXT, b"\1" + JSON_TEXT, b" [" + JSON_TEXT + b"]"])
def test_a_path_hides_where_nobody_has_told_a_type(value: bytes) -> None:
    talk = Talk(ROWS)
    parsed = messages.parse("", "SELECT j FROM t WHERE j @> $1")
    talk.client(parsed, bind(value, form=1), messages.execute(), messages.sync())
    talk.target(messages.frame(b"1") + messages.frame(b"2") + row(value) + DONE)
    long = value[:-1] + b" " * 300_000 + value[-1:]
    talk.client(parsed, bind(long, form=1), messages.execute(), messages.sync())
    talk.target(messages.frame(b"1") + messages.frame(b"2") + row(long) + DONE)
    talk.finish()
    assert b"s3cret" not in talk.everything()


def test_json_is_read_in_the_encoding_of_the_session() -> None:
    rule = {**ROWS, "apply": ["archive", "client"]}
    plain, escaped = b'{"name":"caf\xe9","a":1}', b'{"name":"caf\\u00e9\\u20ac","token":"x"}'
    talk = Talk(rule)
    talk.target(messages.frame(b"S", b"client_encoding\0LATIN1\0"))
    talk.client(messages.query("SELECT j"))
    talk.target(description((b"j", 114, 0)), row(plain), row(escaped), DONE)
    hidden = b'{"name":"caf\xe9\\u20ac","token":"[masked:rows]"}'
    assert row(plain) + row(hidden) in talk.passed[Side.TARGET]


@pytest.mark.parametrize("begin", [b"password='hunter2 correct ", b"Cookie: sid=1; session="])
def test_a_secret_longer_than_may_wait_is_hidden_to_the_end_of_its_line(begin: bytes) -> None:
    secret = b"horse battery; staple, " * 3
    for before in (64 * 1024 - 40, 64 * 1024 - 20, 64 * 1024 - 3):
        line = b"x " * (before // 2) + begin + secret
        talk = Talk(ALL)
        talk.client(messages.query("COPY t FROM STDIN"))
        talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
        for at in range(0, len(line), 8192):
            talk.client(messages.frame(b"d", line[at : at + 8192]))
        talk.client(messages.frame(b"d", b"\nnext\n"), messages.frame(b"c"))
        talk.finish()
        assert b"staple" not in talk.everything()
        assert b"next" in talk.recorded(Side.CLIENT)


def test_half_a_secret_before_many_empty_messages_hides_the_other_half() -> None:
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN"))
    talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
    talk.client(messages.frame(b"d", SECRET[:8]))
    talk.client(messages.frame(b"d") * 60_000)
    talk.client(messages.frame(b"d", SECRET[8:] + b"\nnext\n"), messages.frame(b"c"))
    talk.finish()
    assert SECRET[8:] not in talk.everything()
    assert b"next" in talk.recorded(Side.CLIENT)


@pytest.mark.parametrize("sign", [b"\\n", b"\\t", b"\\r", b"\\u000a"])
@pytest.mark.parametrize("value", [SECRET, TOKEN, CARD, b"+49 30 901820", b"10.0.0.1"])
def test_how_the_end_of_a_line_is_written_is_no_part_of_a_word(sign: bytes, value: bytes) -> None:
    talk = Talk(ALL)
    talk.client(messages.query("SELECT j"))
    talk.target(description((b"j", 114, 0)), row(b'{"log":"line' + sign + value + b'"}'), DONE)
    talk.client(messages.query("COPY t TO STDOUT"))
    talk.target(messages.frame(b"H", b"\0\0\1\0\0"))
    talk.target(messages.frame(b"d", b"1\tline" + sign + value + b"\n"), messages.frame(b"c"), DONE)
    talk.client(messages.query("COPY t FROM STDIN"))
    talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
    talk.client(messages.frame(b"d", b"1\tline" + sign + value[:5]))
    talk.client(messages.frame(b"d", value[5:] + b"\n"), messages.frame(b"c"))
    talk.finish()
    assert value not in talk.everything()


def test_what_only_the_archives_rules_hide_is_not_quoted_away_from_the_client() -> None:
    archive = {**ALL, "name": "first", "detect": ["github_token"]}
    both = {**ALL, "name": "second", "detect": ["aws_key"], "apply": ["archive", "client"]}
    talk = Talk(archive, both)
    talk.client(messages.query(f"SELECT '{TOKEN.decode()}'::int"))
    error = messages.error_response(code="22P02", message=f'invalid input: "{TOKEN.decode()}"')
    talk.target(error, IDLE)
    talk.finish()
    assert talk.passed[Side.TARGET] == talk.said[Side.TARGET]
    assert TOKEN not in talk.everything()


def test_a_flush_in_a_copy_stands_where_it_stood() -> None:
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN"))
    talk.target(messages.frame(b"G", b"\0\0\1\0\0"))
    talk.client(
        messages.frame(b"d", b"a\nbc") + messages.frame(b"H") + messages.frame(b"d", b"d\n")
    )
    talk.client(messages.frame(b"c"))
    talk.finish()
    assert talk.recorded(Side.CLIENT) == talk.said[Side.CLIENT]


@pytest.mark.parametrize("cut", [1, 2, 3, 12])
def test_text_that_a_client_copies_early_may_begin_as_binary_does(cut: int) -> None:
    line = b"PGPASSWORD='hunter2xyz' and PG\n"
    talk = Talk(ALL)
    talk.client(messages.query("COPY t FROM STDIN"))
    talk.client(messages.frame(b"d", line[:cut]))
    talk.client(messages.frame(b"d", line[cut:] + line), messages.frame(b"c"))
    talk.finish()
    assert b"hunter2" not in talk.everything()


def test_many_small_messages_are_each_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    may_hold = Scanner.may_hold

    def count(scanner: Scanner, data: bytes) -> bool:
        looked.append(len(data))
        return may_hold(scanner, data)

    monkeypatch.setattr(Scanner, "may_hold", count)
    talk = Talk(ALL)
    # Not in order, so that each is one of a run.
    talk.client(messages.frame(b"c") * 10_000, messages.query(SECRET.decode()))
    assert SECRET not in talk.everything()
    assert sum(looked) < 4 * len(talk.said[Side.CLIENT])
