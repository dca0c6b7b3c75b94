"""A stream is masked the same wherever it is cut, and bounded in what it keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.masking.detectors import DETECTORS
from agentaudit.masking.masks import Masks
from agentaudit.masking.stream import _OF_LINES, _SPACE, MAX_PENDING_BYTES, Stream
from tests.masking import samples

ALL = Masks([{"name": "all", "action": "redact", "apply": ["archive"], "detect": ["all"]}])
KEY = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASC\n-----END PRIVATE KEY-----"
TEXT = (
    b"first line\n1\tann@example.com\tAKIAIOSFODNN7EXAMPLX\n"
    b"password = 'hunter2 and more'\n" + KEY + b"\n4111 1111 1111 1111\nlast"
)


def masked(data: bytes, cuts: list[int], **kind: bool) -> bytes:
    stream = Stream(ALL, **kind)
    out = b""
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        out += stream.feed(data[start:stop])[0]
    return out + stream.finish()[0]


WHOLE = masked(TEXT, [])


def test_what_is_in_a_stream_is_hidden() -> None:
    assert WHOLE == (
        b"first line\n1\t[masked:email]\t[masked:aws_key]\n"
        b"password = '[masked:password_literal]'\n[masked:private_key]\n[masked:card]\nlast"
    )


def test_a_stream_is_masked_the_same_wherever_it_is_cut() -> None:
    made = {cut: masked(TEXT, [cut]) for cut in range(1, len(TEXT))}
    assert {cut: text for cut, text in made.items() if text != WHOLE} == {}


def test_a_stream_is_masked_the_same_byte_by_byte() -> None:
    assert masked(TEXT, list(range(1, len(TEXT)))) == WHOLE


@given(st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_a_stream_that_keeps_its_length_keeps_it(cuts: list[int]) -> None:
    made = masked(TEXT, sorted(cuts), keeps_length=True)
    assert len(made) == len(TEXT)
    assert b"AKIAIOSFODNN7EXAMPLX" not in made
    assert b"MIIEvQIBADANBgkqhkiG9w0BAQEF" not in made


def test_what_waited_for_long_is_let_go_but_for_its_last_word() -> None:
    secrets = (b"ann@example.com", b"AKIAIOSFODNN7EXAMPLX", b"MIIEvQIBADANBgkqhkiG9w0BAQEF")
    for cut in range(1, len(TEXT)):
        stream = Stream(ALL, keeps_length=True)
        out = stream.feed(TEXT[:cut])[0]
        out += stream.flush()[0]
        out += stream.feed(TEXT[cut:])[0] + stream.finish()[0]
        assert len(out) == len(TEXT), cut
        assert not [secret for secret in secrets if secret in out], cut


def test_clean_text_passes_as_it_is() -> None:
    text = b"nothing to see here, for 12 of 34\n" * 1000
    assert masked(text, [17, 5000, 20_001]) == text


def test_a_line_without_end_is_bounded_and_what_runs_on_is_masked_to_its_end() -> None:
    stream = Stream(ALL)
    token = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + b"A" * (3 * MAX_PENDING_BYTES)
    out = b""
    for at in range(0, len(token), 10_000):
        out += stream.feed(token[at : at + 10_000])[0]
        assert stream.pending <= MAX_PENDING_BYTES
    out += stream.feed(b"AAAA and more\n")[0] + stream.finish()[0]
    assert out == b"[masked:all] and more\n"


def test_a_key_that_never_ends_hides_its_own_letters_and_nothing_behind_them() -> None:
    stream = Stream(ALL)
    out = stream.feed(b"-----BEGIN PRIVATE KEY-----\n" + b"QUJD\n" * 40_000)[0]
    out += stream.feed(b"'); DROP TABLE customers; --\n")[0] + stream.finish()[0]
    assert b"DROP TABLE customers" in out
    assert b"QUJD" not in out


def test_which_detectors_have_matches_of_more_than_one_word_is_known() -> None:
    for detector in DETECTORS:
        labels = [label for label in samples.labels() if label.detector == detector.name]
        hidden = [label.text[a:b] for label in labels for a, b in label.spans]
        is_of_words = all(_SPACE.search(value) is None for value in hidden)
        # Numbers are far shorter than what may wait.
        is_short = detector.group == "personal" or detector.name == "private_key"
        assert is_of_words or is_short or detector.name in _OF_LINES, detector.name


@pytest.mark.parametrize("size", [1000, 4096, 65_536, 200_000])
@pytest.mark.parametrize("before", [65_400, 65_500, 65_536, 131_000])
def test_a_line_that_is_hidden_to_its_end_does_not_end_within_a_key(size: int, before: int) -> None:
    body = b"MIIEpAIBAAKCAQEAtheKeyItself"
    key = (
        b"-----BEGIN RSA PRIVATE KEY-----\n" + (body + b"\n") * 9 + b"-----END RSA PRIVATE KEY-----"
    )
    masks = Masks([{"name": "all", "action": "redact", "apply": ["archive"], "detect": ["all"]}])
    for sign in (b"y", b"4"):
        data = b"a@b.example" + sign * before + b" " + key + b"\nafter\n"
        stream = Stream(masks, keeps_length=True)
        made = b"".join(stream.feed(data[at : at + size])[0] for at in range(0, len(data), size))
        made += stream.finish()[0]
        assert body not in made
        assert made.endswith(b"after\n")
        assert len(made) == len(data)


@pytest.mark.parametrize("masks", [ALL, Masks([])], ids=["with masks", "without"])
def test_a_stream_learns_what_else_to_hide_and_hides_it_wherever_it_is_cut(masks: Masks) -> None:
    values = [b"correct horse", b"horse.+"]
    said = b"before correct horse\r\n" + TEXT + b" horse.+ correct horse and horse.+\n"
    plain = Stream(masks)
    expected = plain.feed(TEXT + b" ")[0] + plain.finish()[0]
    for cut in range(len(said) + 1):
        stream = Stream(masks)
        stream.learn(masks.hiding("typed", values))
        out = stream.feed(said[:cut])[0] + stream.feed(said[cut:])[0] + stream.finish()[0]
        assert out == (
            b"before [masked:typed]\r\n"
            + expected
            + b"[masked:typed] [masked:typed] and [masked:typed]\n"
        ), cut
