"""Packets are masked as what they carry is, wherever that was cut, and stay packets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.gateway.ssh_sftp_masks import FileMask, masked_packet, not_passed
from agentaudit.masking.masks import Masks
from agentaudit.model import Event, Flag, Side
from tests.protocols import sftp_wire as wire
from tests.protocols.test_sftp import DOWNLOAD, Talk, contents

ALL = Masks([{"name": "all", "action": "redact", "apply": ["archive"], "detect": ["all"]}])
AWS, MAIL = b"AKIAIOSFODNN7EXAMPLX", b"ann@example.com"
KEY = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCQ\n-----END PRIVATE KEY-----"
TEXT = b"first line\n1\t" + MAIL + b"\t" + AWS + b"\npassword = 'hunter2 and'\n" + KEY + b"\nlast\n"
SECRETS = (AWS, MAIL, b"hunter2", b"MIIEvQIBADANBgkqhkiG9w0BAQEF", b"AASCQ")
C, T = Side.CLIENT, Side.TARGET


def uploaded(pieces: Iterable[tuple[int, bytes]], flush_after: int = -1) -> tuple[bytes, FileMask]:
    """Return what is recorded of writes, and their mask when all is over."""
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE)), (T, wire.handle(1, b"h")))
    mask = FileMask(ALL, C, 1)
    events: list[Event] = []
    sent = b""
    for number, (offset, data) in enumerate(pieces):
        frame = wire.writes(10 + number, b"h", offset, data)
        (step,) = talk.say(C, frame)
        talk.say(T, wire.status(10 + number))
        events += mask.take(step.events[0], step.about[0])
        if number == flush_after:
            events += mask.flush()
        sent += frame
    events += mask.finish(is_cut_off=not step.about[0].passing.is_whole)
    made = b"".join(event.payload or b"" for event in events)
    assert len(made) == len(sent) == sum(event.orig_len for event in events)
    for event in events:
        for span in event.spans:
            assert span.offset + span.length <= len(event.payload or b"")
    return made, mask


def written(made: bytes) -> bytes:
    """Return what packets that were recorded wrote."""
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE)), (T, wire.handle(1, b"h")))
    return b"".join(data for _, data, _ in contents(talk.say(C, made)))


def in_order(cuts: list[int]) -> list[tuple[int, bytes]]:
    edges = [0, *sorted(cuts), len(TEXT)]
    return [(start, TEXT[start:stop]) for start, stop in pairwise(edges)]


WHOLE = written(uploaded([(0, TEXT)])[0])


def test_what_is_found_is_hidden_and_nothing_else() -> None:
    assert len(WHOLE) == len(TEXT)
    assert b"first line\n1\t[masked:email]*\t[masked:aws_key]****\npassword = '[masked:p" in WHOLE
    assert WHOLE.endswith(b"\nlast\n")
    assert not [secret for secret in SECRETS if secret in WHOLE]


@given(st.lists(st.integers(0, len(TEXT)), max_size=6), st.integers(-1, 6))
def test_wherever_a_file_is_cut_its_packets_stay_packets_and_hide_the_same(
    cuts: list[int], flush_after: int
) -> None:
    made, mask = uploaded(in_order(cuts))
    assert written(made) == WHOLE
    assert mask.digest.digest() == hashlib.sha256(WHOLE).digest()
    flushed, mask = uploaded(in_order(cuts), flush_after)
    assert not [secret for secret in SECRETS if secret in written(flushed)]
    assert mask.digest.digest() == hashlib.sha256(written(flushed)).digest()


def test_byte_by_byte_hides_the_same() -> None:
    assert written(uploaded(in_order(list(range(1, len(TEXT)))))[0]) == WHOLE


def test_what_hides_nothing_is_hashed_as_it_passed() -> None:
    data = bytes(range(256)) * 40
    made, mask = uploaded([(at, data[at : at + 1000]) for at in range(0, len(data), 1000)])
    assert written(made) == data
    assert mask.digest.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:8].decode())
def test_what_comes_out_of_order_shows_no_half_of_a_secret(secret: bytes) -> None:
    begins = TEXT.index(secret)
    for cut in range(begins, begins + len(secret) + 1):
        halves = [(0, TEXT[:cut]), (cut, TEXT[cut:])]
        made = written(uploaded(reversed(halves))[0])
        seen = [secret[at : at + 4] for at in range(len(secret) - 3)]
        assert not [part for part in seen if part in made], (cut, made)


def test_the_rest_of_a_key_is_hidden_and_what_comes_behind_it_is_not() -> None:
    body = KEY[KEY.index(b"IEvQ") :]
    made = written(uploaded([(4096, body + b"\nshown\n" * 3)])[0])
    assert b"NBgkqhkiG9w0" not in made
    assert b"AASCQ" not in made
    assert made.endswith(b"\nshown\n\nshown\n")


def test_so_many_packets_as_wait_are_limited() -> None:
    pieces = [(at, b"x") for at in range(5000)]
    made, mask = uploaded(pieces)
    assert mask.pending == 0
    assert len(made) == sum(len(wire.writes(1, b"h", 0, b"x")) for _ in pieces)


def test_what_waits_is_withheld_and_said_so() -> None:
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE)), (T, wire.handle(1, b"h")))
    mask = FileMask(ALL, C, 1)
    (step,) = talk.say(C, wire.writes(2, b"h", 0, b"whole\nhalf"))
    (event,) = mask.take(step.events[0], step.about[0])
    assert event.flags & Flag.WITHHELD
    assert (event.payload or b"").endswith(b"whole\n")
    (rest,) = mask.finish(is_cut_off=False)
    assert (rest.payload, rest.orig_len) == (b"half", 0)


NAMES = [
    (C, wire.opens(1, b"/srv/" + AWS)),
    (C, wire.request(18, 2, wire.string(AWS), wire.string(b"x" * 65))),
    (C, wire.request(12, 3, wire.string(b"h"))),
    (T, wire.name(3, AWS, b"plain", MAIL)),
    (T, wire.request(101, 2, 4, wire.string(b"no " + AWS), wire.string(b"en"))),
    (T, wire.handle(1, AWS)),
    (C, wire.request(200, 5, wire.string(b"made-up"), wire.string(AWS) + wire.string(MAIL))),
]


def test_texts_of_packets_are_hidden_and_their_lengths_kept() -> None:
    talk, again = Talk(), Talk()
    for side, frame in NAMES:
        (step,) = talk.say(side, frame)
        made, spans = masked_packet(ALL, frame, step.about[0])
        assert len(made) == len(frame)
        assert AWS not in made
        assert MAIL not in made
        assert bool(spans) == (AWS in frame)
        if made[4] != 102:  # a handle by another name is another handle
            (read,) = again.say(side, made)
            assert read.about[0].texts == step.about[0].texts
        else:
            again.say(side, frame)


def test_packets_without_secrets_pass_as_they_are() -> None:
    talk = Talk(begun=False)
    for side, frame in DOWNLOAD:
        for step in talk.say(side, frame):
            if step.about[0].content is None:
                assert masked_packet(ALL, step.frame, step.about[0]) == (step.frame, [])


@pytest.mark.parametrize("begins", [True, False])
@given(st.data())
def test_what_did_not_pass_is_hidden_wherever_it_ends(begins: bool, draw: st.DataObject) -> None:
    frame = draw.draw(
        st.sampled_from(
            [wire.writes(1, b"h", 0, TEXT), wire.opens(1, b"/" + AWS), wire.data(1, TEXT), TEXT]
        )
    )
    data = frame[: draw.draw(st.integers(1, len(frame)))]
    events = not_passed(ALL, C, 7, data, begins=begins)
    made = b"".join(event.payload or b"" for event in events)
    assert len(made) == len(data) == sum(event.orig_len for event in events)
    for secret in (AWS, b"MIIEvQIBADANBgkqhkiG9w0BAQEF"):
        assert secret[:12] not in made


def test_an_answer_without_content_keeps_its_place_behind_what_waits() -> None:
    talk = Talk((C, wire.opens(1, b"/a")), (T, wire.handle(1, b"h")))
    talk.say(C, wire.reads(2, b"h", 0, 9) + wire.reads(3, b"h", 9, 9))
    mask = FileMask(ALL, T, 1)
    said = wire.data(2, b"one\ntwo"), wire.status(3, 1, b"End of file")
    events: list[Event] = []
    for frame in said:
        (step,) = talk.say(T, frame)
        events += mask.take(step.events[0], step.about[0])
    assert [event.payload for event in events] == [said[0][:-3], None]
    events += mask.finish(is_cut_off=False)
    assert b"".join(event.payload or b"" for event in events) == b"".join(said)
