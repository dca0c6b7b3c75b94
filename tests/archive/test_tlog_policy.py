"""Trust policies: c2sp.org/tlog-policy, applied to a checkpoint that real witnesses cosigned."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.note import Checkpoint, Cosigner, CosigningKey, Signer, sign_note
from agentaudit.archive.tlog_policy import format_policy, parse_policy
from agentaudit.errors import ArchiveError

ORIGIN = "example.com/behind-the-sofa"
LOG = Signer(ORIGIN, bytes(32))
WITNESSES = [CosigningKey(f"witness.example/{number}", bytes([number]) * 32) for number in range(6)]
NAMES = ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(32))
LINES = "".join(
    f"witness {name} {witness.cosigner}\n" for name, witness in zip(NAMES, WITNESSES, strict=True)
)
# The example of c2sp.org/tlog-policy, section "Example policy", with keys.
EXAMPLE = (
    f"log {LOG.verifier}\n\n{LINES}"
    "group X-witnesses 2 X1 X2 X3\n"
    "group Y-witnesses any Y1 Y2 Y3\n"
    "group X-and-Y all X-witnesses Y-witnesses\n"
    "quorum X-and-Y\n"
)


def cosigned(times: dict[str, int], checkpoint: Checkpoint = CHECKPOINT) -> bytes:
    text = checkpoint.text()
    lines = [WITNESSES[NAMES.index(name)].cosign(text, time) for name, time in times.items()]
    return sign_note(text, [LOG]) + "".join(lines).encode()


def test_the_examples_quorum_needs_two_of_one_operator_and_one_of_the_other() -> None:
    policy = parse_policy(EXAMPLE.encode())
    for count in range(len(NAMES) + 1):
        for names in itertools.combinations(NAMES, count):
            witnessed = policy.evaluate(cosigned(dict.fromkeys(names, 5)))
            assert witnessed is not None
            met = sum(n[0] == "X" for n in names) >= 2 and any(n[0] == "Y" for n in names)
            assert (witnessed.time_s is not None) == met
            assert witnessed.names == names


def test_a_quorum_is_as_old_as_the_cosignature_that_completed_it() -> None:
    policy = parse_policy(EXAMPLE.encode())
    witnessed = policy.evaluate(cosigned({"X1": 10, "X2": 90, "X3": 20, "Y2": 15, "Y3": 99}))
    assert witnessed is not None
    assert witnessed.time_s == 20
    assert witnessed.checkpoint == CHECKPOINT
    assert witnessed.log == LOG.verifier


def test_a_checkpoint_of_no_log_of_the_policy_is_nobodys() -> None:
    stranger = Signer("example.com/other", bytes(32))
    note = sign_note(Checkpoint("example.com/other", 1, bytes(32)).text(), [stranger])
    assert parse_policy(EXAMPLE.encode()).evaluate(note) is None


def test_a_log_key_vouches_for_its_own_origin_alone() -> None:
    text = Checkpoint("example.com/other", 1, bytes(32)).text()
    assert parse_policy(EXAMPLE.encode()).evaluate(sign_note(text, [LOG])) is None


def test_a_policy_without_logs_takes_those_that_are_known_from_elsewhere() -> None:
    policy = parse_policy(f"{LINES}quorum X1\n".encode())
    note = cosigned({"X1": 5})
    assert policy.evaluate(note) is None
    witnessed = policy.evaluate(note, [LOG.verifier])
    assert witnessed is not None
    assert witnessed.time_s == 5


def test_quorum_none_asks_for_no_witness_and_grants_no_time() -> None:
    policy = parse_policy(f"log {LOG.verifier}\n{LINES}quorum none\n".encode())
    witnessed = policy.evaluate(cosigned({"X1": 5}))
    assert witnessed is not None
    assert not policy.needs_witnesses
    assert witnessed.time_s is None
    assert witnessed.names == ("X1",)


def test_a_wrong_cosignature_by_a_known_witness_is_an_error_not_an_absence() -> None:
    note = cosigned({"X1": 5}).replace(b"\n7\n", b"\n8\n")
    with pytest.raises(ArchiveError, match="does not fit its text"):
        parse_policy(EXAMPLE.encode()).evaluate(note)


def test_white_space_and_comments_and_addresses_are_as_the_format_allows() -> None:
    witness = WITNESSES[0].cosigner
    text = (
        f"\t # a comment\n \t\n  log \t{LOG.verifier}   https://log.example/ \n"
        f"witness K\u212a {witness}\thttps://w.example/x\nquorum K\u212a\t\n"
    )
    policy = parse_policy(text.encode())
    assert policy.quorum == "K\u212a"
    assert policy.urls == {
        str(LOG.verifier): "https://log.example/",
        str(witness): "https://w.example/x",
    }


def test_names_are_octets_and_need_not_be_utf_8() -> None:
    text = b"witness \xff\xfe " + str(WITNESSES[0].cosigner).encode() + b"\nquorum \xff\xfe\n"
    assert parse_policy(text).quorum.encode("utf-8", "surrogateescape") == b"\xff\xfe"


W = str(WITNESSES[0].cosigner)
V = str(WITNESSES[1].cosigner)
SAME_KEY = str(CosigningKey("another.name", bytes([0]) * 32).cosigner)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no quorum"),
        (f"witness a {W}\n", "no quorum"),
        (f"witness a {W}\nquorum a", "does not end in a newline"),
        (f"witness a {W}\nquorum a\nquorum a\n", "line 3: a second quorum"),
        (f"quorum a\nwitness a {W}\n", "line 1: 'a' is not defined"),
        (f"witness a {W}\nquorum b\n", "line 2: 'b' is not defined"),
        (f"witness a {W}\nwitness a {V}\nquorum a\n", "defined already"),
        (f"witness a {W}\nwitness b {W}\nquorum a\n", "key that is there already"),
        (f"witness a {W}\nwitness b {SAME_KEY}\nquorum a\n", "key that is there already"),
        (f"log {LOG.verifier}\nlog {LOG.verifier}\nquorum none\n", "key that is there already"),
        (f"witness none {W}\nquorum none\n", "the name none is taken"),
        (f"log {W}\nquorum none\n", "verifier key: not an Ed25519 key"),
        (f"witness a {LOG.verifier}\nquorum a\n", "witness key: not an Ed25519 key for"),
        (f"witness a {W}\ngroup g all a none\nquorum g\n", "'none' is not defined"),
        (f"witness a {W}\ngroup g 0 a\nquorum g\n", "'0': all, any or 1 to 1"),
        (f"witness a {W}\ngroup g 2 a\nquorum g\n", "'2': all, any or 1 to 1"),
        (f"witness a {W}\ngroup g 01 a\nquorum g\n", "'01': all, any or 1 to 1"),
        (f"witness a {W}\ngroup g all a a\nquorum g\n", "a member already"),
        (f"witness a {W}\ngroup g any a\ngroup h any a\nquorum h\n", "a member already"),
        (f"witness a {W}\ngroup g any g\nquorum g\n", "'g' is not defined"),
        (f"witness a {W}\ngroup g any\nquorum a\n", "line 2: 2 items"),
        ("quorum none none\n", "line 1: 2 items"),
        ("quorum\u00a0none\n", "neither log"),
        ("quorum none\r\n", "control characters"),
        ("qourum none\n", "neither log"),
        (f"witness a {W}+\nquorum a\n", "witness key"),
    ],
)
def test_what_the_format_does_not_allow_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ArchiveError, match="policy") as caught:
        parse_policy(text.encode())
    assert says in str(caught.value)


def test_a_policy_larger_than_any_is_refused_before_it_is_read() -> None:
    with pytest.raises(ArchiveError, match="bytes, at most"):
        parse_policy(b"#\n" * 200_000)
    many = "".join(f"group g{n} any a{n}\n" for n in range(2))
    with pytest.raises(ArchiveError, match="not defined"):
        parse_policy(many.encode())


def test_thirty_two_logs_witnesses_and_groups_are_supported() -> None:
    # "strongly recommended": c2sp.org/tlog-policy, "Implementation limits".
    logs = "".join(f"log {Signer(f'l{n}', bytes([n]) * 32).verifier}\n" for n in range(32))
    keys = [CosigningKey(f"w{n}", bytes([n]) * 32).cosigner for n in range(32)]
    witnesses = "".join(f"witness w{n} {key}\n" for n, key in enumerate(keys))
    groups = "group g0 any w0\n" + "".join(f"group g{n} all g{n - 1} w{n}\n" for n in range(1, 32))
    assert len(parse_policy(f"{logs}{witnesses}{groups}quorum g31\n".encode()).groups) == 32


@pytest.mark.parametrize(
    ("count", "quorum"), [(0, "none"), (1, "w1"), (2, "2 of 2"), (3, "2 of 3"), (4, "3 of 4")]
)
def test_what_settings_say_is_written_as_a_policy_for_most_of_the_witnesses(
    count: int, quorum: str
) -> None:
    witnesses = [(witness.cosigner, "https://w.example/") for witness in WITNESSES[:count]]
    policy = parse_policy(format_policy([LOG.verifier], witnesses))
    assert policy.logs == (LOG.verifier,)
    assert list(policy.witnesses.values()) == [cosigner for cosigner, _ in witnesses]
    group = policy.groups.get(policy.quorum)
    shown = policy.quorum if group is None else f"{group.threshold} of {len(group.members)}"
    assert shown == quorum


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_nothing_but_the_projects_own_error_comes_of_any_bytes(text: bytes) -> None:
    try:
        parse_policy(text)
    except ArchiveError:
        pass


@given(st.lists(st.sampled_from(EXAMPLE.split()), max_size=30), st.sampled_from(" \n"))
def test_nothing_but_the_projects_own_error_comes_of_any_words(
    words: list[str], between: str
) -> None:
    try:
        parse_policy((between.join(words) + "\n").encode())
    except ArchiveError:
        pass


def test_a_cosigner_is_told_apart_from_a_log_by_its_type() -> None:
    assert isinstance(Cosigner.parse(W), Cosigner)
