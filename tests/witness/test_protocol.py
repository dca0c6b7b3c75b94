"""What a witness answers: the protocol's own words, and requests of other witnesses' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.merkle import EMPTY_ROOT
from agentaudit.archive.note import Checkpoint, Cosigner, Signer, Verifier, open_note, sign_note
from agentaudit.errors import ArchiveError, SettingsError
from agentaudit.witness.protocol import Seen, judge, parse_request
from agentaudit.witness.server import Answer, Witness, create_witness
from tests.witness.requests import GrowingLog, body, new_log

NOW_S = 1_700_000_000
SAID: list[dict[str, Any]] = []


def witness_of(folder: Path, *keys: Verifier, now_s: float = NOW_S) -> Witness:
    if not folder.exists():
        create_witness(folder, "witness.example/w1")
    (folder / "logs").write_text("".join(f"{key}\n" for key in keys))
    SAID.clear()
    return Witness(folder, SAID.append, lambda: now_s)


@pytest.fixture
def log() -> GrowingLog:
    return new_log()


@pytest.fixture
def witness(tmp_path: Path, log: GrowingLog) -> Witness:
    return witness_of(tmp_path / "witness", log.signer.verifier)


def cosigned_time(witness: Witness, note: bytes, answer: Answer) -> int:
    """The answer is one cosignature that fits the note; return its time."""
    assert answer.status == 200
    assert answer.body.count(b"\n") == 1
    (cosignature,) = open_note(note + answer.body, [], [Cosigner.parse(witness.vkey)]).cosigned_by
    return cosignature.time_s


def test_a_log_that_grows_is_cosigned_at_each_size(witness: Witness, log: GrowingLog) -> None:
    old = 0
    for size in (1, 2, 7, 8, 300, 300):
        answer = witness.add_checkpoint(log.request(old, size))
        assert cosigned_time(witness, log.note(size), answer) == NOW_S
        old = size


def test_an_unknown_origin_is_404(witness: Witness) -> None:
    assert witness.add_checkpoint(new_log("other.example/x").request(0, 1)).status == 404


def test_a_checkpoint_that_no_known_key_signed_is_403(witness: Witness, log: GrowingLog) -> None:
    other = Signer(log.origin, b"another key".ljust(32))
    assert witness.add_checkpoint(body(0, [], log.note(1, other))).status == 403
    forged = log.note(1).replace(b"\n1\n", b"\n2\n")
    assert witness.add_checkpoint(body(0, [], forged)).status == 403


def test_signatures_by_unknown_keys_are_passed_over(witness: Witness, log: GrowingLog) -> None:
    note = log.note(1, Signer("x", bytes(32)), log.signer)
    assert witness.add_checkpoint(body(0, [], note)).status == 200


def test_an_old_size_beyond_the_checkpoint_is_400(witness: Witness, log: GrowingLog) -> None:
    witness.add_checkpoint(log.request(0, 5))
    assert witness.add_checkpoint(body(5, [], log.note(3))).status == 400


@pytest.mark.parametrize("old", [0, 4, 6])
def test_another_old_size_than_the_last_cosigned_is_409_with_that_size(
    witness: Witness, log: GrowingLog, old: int
) -> None:
    witness.add_checkpoint(log.request(0, 5))
    answer = witness.add_checkpoint(log.request(old, 9))
    assert answer == Answer(409, b"5\n", "text/x.tlog.size")


def test_a_second_root_at_one_size_is_409_and_kept_as_proof(
    witness: Witness, log: GrowingLog
) -> None:
    witness.add_checkpoint(log.request(0, 5))
    fork = GrowingLog(log.signer, branch="'")
    for _ in range(2):
        answer = witness.add_checkpoint(body(5, [], fork.note(5)))
        assert answer == Answer(409, b"5\n", "text/x.tlog.size")
    assert witness._memory.forks(log.origin) == [fork.note(5)]
    assert SAID[0]["event"] == "a log has forked"


def test_a_proof_of_another_history_is_422(witness: Witness, log: GrowingLog) -> None:
    witness.add_checkpoint(log.request(0, 5))
    fork = GrowingLog(log.signer, branch="'")
    assert witness.add_checkpoint(fork.request(5, 9)).status == 422
    assert witness.add_checkpoint(body(5, [], log.note(9))).status == 422
    assert witness.add_checkpoint(body(5, log.proof(5, 8), log.note(9))).status == 422
    assert cosigned_time(witness, log.note(9), witness.add_checkpoint(log.request(5, 9)))


def test_a_proof_where_none_is_needed_is_422(witness: Witness, log: GrowingLog) -> None:
    assert witness.add_checkpoint(body(0, [bytes(32)], log.note(5))).status == 422
    witness.add_checkpoint(log.request(0, 5))
    assert witness.add_checkpoint(body(5, [bytes(32)], log.note(5))).status == 422


def test_an_empty_tree_has_one_root(witness: Witness, log: GrowingLog) -> None:
    wrong = sign_note(Checkpoint(log.origin, 0, bytes(32)).text(), [log.signer])
    assert witness.add_checkpoint(body(0, [], wrong)).status == 422
    assert witness.add_checkpoint(log.request(0, 0)).status == 200


def test_extension_lines_are_part_of_what_is_cosigned(witness: Witness, log: GrowingLog) -> None:
    note = sign_note(log.checkpoint(3).text() + "an extension\n", [log.signer])
    answer = witness.add_checkpoint(body(0, [], note))
    assert cosigned_time(witness, note, answer) == NOW_S
    with pytest.raises(ArchiveError, match="does not fit"):
        open_note(log.note(3) + answer.body, [], [Cosigner.parse(witness.vkey)])


def test_a_clock_that_was_set_back_does_not_go_behind_the_last_cosignature(
    tmp_path: Path, log: GrowingLog
) -> None:
    folder = tmp_path / "witness"
    first = witness_of(folder, log.signer.verifier)
    first.add_checkpoint(log.request(0, 5))
    first.close()
    second = witness_of(folder, log.signer.verifier, now_s=NOW_S - 3600)
    answer = second.add_checkpoint(log.request(5, 9))
    assert cosigned_time(second, log.note(9), answer) == NOW_S


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        b"\n\n",
        b"old -1\n\n%s",
        b"old 00\n\n%s",
        b"old  0\n\n%s",
        b"Old 0\n\n%s",
        b"old 0\r\n\n%s",
        b"old 0 \n\n%s",
        b"old 99999999999999999999\n\n%s",
        b"old 9223372036854775808\n\n%s",
        b"old 0\nAAAA\n\n%s",
        b"old 0\n\xff\n\n%s",
        b"old 0\n" + b"KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * 64 + b"\n%s",
        b"old 0\nKgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n\n%s",
        b"old 0\n%s",
        b"%s",
    ],
)
def test_what_is_no_request_is_400(witness: Witness, log: GrowingLog, content: bytes) -> None:
    assert witness.add_checkpoint(content.replace(b"%s", log.note(1))).status == 400


def test_a_size_that_cannot_be_remembered_is_400(witness: Witness, log: GrowingLog) -> None:
    text = Checkpoint(log.origin, 2**63, bytes(32)).text()
    assert witness.add_checkpoint(body(0, [], sign_note(text, [log.signer]))).status == 400
    text = Checkpoint(log.origin, 2**63 - 1, bytes(32)).text()
    assert witness.add_checkpoint(body(0, [], sign_note(text, [log.signer]))).status == 200


@given(st.binary(max_size=400))
def test_nothing_but_the_projects_own_error_comes_of_any_body(content: bytes) -> None:
    for prefix in (b"", b"old 0\n\n", b"old 0\n\na\n1\n"):
        try:
            parse_request(prefix + content)
        except ArchiveError:
            pass


def test_the_judge_refuses_every_request_that_does_not_follow(log: GrowingLog) -> None:
    for seen_size in range(6):
        root = log.checkpoint(seen_size).root if seen_size else EMPTY_ROOT
        for old in range(6):
            for size in range(6):
                refusal = judge(parse_request(log.request(old, size)), Seen(seen_size, root))
                assert (refusal is None) == (old == seen_size <= size)


# Requests that FiloSottile/torchwood tries its litewitness with (internal/witness/witness_test.go);
# keys, trees and proofs are theirs.
SIGSUM_KEY = bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")
SIGSUM = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
ONE = f"""\
old 0

{SIGSUM}
1
KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

— {SIGSUM} UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQj\
UFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=
""".encode()
THREE = f"""\
old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
KgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
3
RcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=

— {SIGSUM} UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cb\
Aj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=
""".encode()
FIVE = f"""\
old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
+fUDV+k970B4I3uKrqJM4aP1lloPZP8mvr2Z4wRw2LI=
KgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
5
QrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=

— {SIGSUM} UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmy\
EZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=
""".encode()


@pytest.fixture
def sigsum(tmp_path: Path) -> Witness:
    from hashlib import sha256

    key_id = sha256(SIGSUM.encode() + b"\n\x01" + SIGSUM_KEY).digest()[:4]
    return witness_of(tmp_path / "sigsum", Verifier(SIGSUM, key_id, SIGSUM_KEY))


def test_requests_of_another_witnesss_tests_are_answered_as_there(sigsum: Witness) -> None:
    assert sigsum.add_checkpoint(ONE).status == 200
    assert sigsum.add_checkpoint(FIVE).status == 200
    assert sigsum.add_checkpoint(THREE) == Answer(409, b"5\n", "text/x.tlog.size")


def test_too_many_hashes_are_refused_as_in_another_witnesss_tests(sigsum: Witness) -> None:
    line = b"KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    content = ONE.replace(b"old 0\n", b"old 0\n" + line * 64)
    assert sigsum.add_checkpoint(content).status == 400


# --- its files


def test_a_witness_is_made_once(tmp_path: Path) -> None:
    vkey = create_witness(tmp_path / "w", "witness.example/w1")
    assert (tmp_path / "w/witness.vkey").read_text() == f"{vkey}\n"
    assert (tmp_path / "w/witness.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "w/state.sqlite").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="holds a witness already"):
        create_witness(tmp_path / "w", "witness.example/w1")


def test_a_witness_that_has_lost_its_memory_or_its_key_does_not_start(tmp_path: Path) -> None:
    for name, says in (("state.sqlite", "gone, and with it"), ("witness.key", "No such file")):
        folder = tmp_path / name
        create_witness(folder, "witness.example/w1")
        (folder / name).unlink()
        with pytest.raises(SettingsError, match=says):
            Witness(folder, SAID.append)


def test_what_is_no_memory_is_refused(tmp_path: Path) -> None:
    create_witness(tmp_path / "w", "witness.example/w1")
    (tmp_path / "w/state.sqlite").write_bytes(b"not a database, but long enough" * 100)
    with pytest.raises(SettingsError, match=r"state\.sqlite"):
        Witness(tmp_path / "w", SAID.append)
    (tmp_path / "w/state.sqlite").write_bytes(b"")
    with pytest.raises(SettingsError, match="not a witness's memory"):
        Witness(tmp_path / "w", SAID.append)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_witness(tmp_path / "w", "witness.example/w1")
    (tmp_path / "w/witness.key").chmod(0o640)
    with pytest.raises(SettingsError, match="0600 expected"):
        Witness(tmp_path / "w", SAID.append)


def test_logs_are_read_again_when_they_have_changed_and_the_old_stay_while_they_are_wrong(
    tmp_path: Path,
) -> None:
    log, other = new_log(), new_log("other.example/x")
    folder = tmp_path / "witness"
    witness = witness_of(folder, log.signer.verifier)
    assert witness.add_checkpoint(other.request(0, 1)).status == 404
    (folder / "logs").write_text(f"# both\n\n{log.signer.verifier}\n{other.signer.verifier}\n")
    assert witness.add_checkpoint(other.request(0, 1)).status == 200
    (folder / "logs").write_text("no key\n")
    assert witness.add_checkpoint(other.request(1, 2)).status == 200
    assert [line["event"] for line in SAID] == [
        "logs read again",
        "logs not read, the old ones stay",
    ]
    with pytest.raises(SettingsError, match=r"logs line 1: verifier key"):
        Witness(folder, SAID.append)


def test_a_memory_that_cannot_keep_is_500_and_signs_nothing(
    witness: Witness, log: GrowingLog
) -> None:
    witness._memory._db.execute("PRAGMA query_only = on")
    answer = witness.add_checkpoint(log.request(0, 5))
    assert answer.status == 500
    assert "—".encode() not in answer.body
    witness._memory._db.execute("PRAGMA query_only = off")
    assert witness._memory.seen(log.origin).size == 0
    assert witness.add_checkpoint(log.request(0, 5)).status == 200
