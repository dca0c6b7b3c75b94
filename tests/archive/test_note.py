"""Signed notes and checkpoints, against Go's published key and note, and against OpenSSL."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.note import (
    Checkpoint,
    Cosignature,
    Cosigner,
    CosigningKey,
    Signer,
    Verifier,
    open_note,
    sign_note,
)
from agentaudit.errors import ArchiveError

# Source: golang.org/x/mod, sumdb/note/note_test.go and the package's example.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
    "otpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}".encode()

# The DER in front of a raw Ed25519 public key (RFC 8410, section 4).
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")


def test_gos_published_note_is_signed_by_its_published_key() -> None:
    opened = open_note(GO_NOTE, [Verifier.parse(GO_VKEY)])
    assert opened.text == GO_TEXT
    assert [str(verifier) for verifier in opened.signed_by] == [GO_VKEY]


def test_gos_published_private_key_signs_the_published_note() -> None:
    signer = Signer.parse(GO_SKEY)
    assert str(signer.verifier) == GO_VKEY
    assert signer.private_text() == GO_SKEY
    assert sign_note(GO_TEXT, [signer]) == GO_NOTE


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a3+",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+zzzzzzzz+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TX",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq!LDE4izWy10TW",
        # Of the wrong length, and of another algorithm, each with a hash that fits (Go's cases).
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(ArchiveError, match=r"verifier key: |key name: "):
        Verifier.parse(vkey)


def test_a_verifier_key_with_any_character_changed_is_refused() -> None:
    for place in range(len(GO_VKEY)):
        changed = GO_VKEY[:place] + chr(ord(GO_VKEY[place]) + 1) + GO_VKEY[place + 1 :]
        with pytest.raises(ArchiveError):
            Verifier.parse(changed)


def test_no_part_of_a_private_key_is_a_private_key_and_no_error_shows_it() -> None:
    secret = GO_SKEY.rsplit("+", 1)[1]
    broken = [GO_SKEY[:end] for end in range(len(GO_SKEY))]
    broken += [GO_SKEY.replace("c74f20a3", "c74f20a4"), GO_SKEY.replace("+AYEK", "+ZYEK")]
    broken += [GO_SKEY.replace("AYEK", "AY!K"), "x" + GO_SKEY]
    for text in broken:
        with pytest.raises(ArchiveError) as caught:
            Signer.parse(text)
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\tb"])
def test_a_key_needs_a_name_without_white_space_and_plus(name: str) -> None:
    with pytest.raises(ArchiveError, match="key name"):
        Signer.generate(name)


def test_openssl_verifies_what_we_sign(tmp_path: Path) -> None:
    signer = Signer.generate("audit.example.com/gw1")
    note = sign_note(Checkpoint("audit.example.com/gw1", 3, bytes(32)).text(), [signer])
    body, signature_line = note.split(b"\n\n")
    files = {
        "body": body + b"\n",
        "signature": base64.b64decode(signature_line.split(b" ")[2])[4:],
        "key.der": ED25519_SPKI + signer.verifier.public_key,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"]
    command += ["-inkey", "key.der", "-in", "body", "-sigfile", "signature"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "body").write_bytes(body + b"x\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_a_note_shows_all_known_signers_once_and_passes_over_unknown_ones() -> None:
    ours, theirs, unknown = Signer.generate("ours"), Signer.generate("theirs"), Signer.generate("x")
    note = sign_note("text\n", [unknown, ours, theirs, ours])
    known = [ours.verifier, theirs.verifier]
    assert open_note(note, known).signed_by == (ours.verifier, theirs.verifier)
    assert open_note(note, []).signed_by == ()


def test_a_signature_under_a_known_name_by_another_key_is_not_that_keys() -> None:
    ours, forger = Signer.generate("log"), Signer.generate("log")
    assert open_note(sign_note("text\n", [forger]), [ours.verifier]).signed_by == ()


def test_the_text_of_a_note_may_hold_blank_lines() -> None:
    signer = Signer.generate("log")
    text = "one\n\n\ntwo\n\n— log looks like a signature\n"
    assert open_note(sign_note(text, [signer]), [signer.verifier]).text == text


def test_a_note_with_any_byte_changed_is_not_signed() -> None:
    verifier = Verifier.parse(GO_VKEY)
    for place in range(len(GO_NOTE)):
        for bit in range(8):
            changed = bytearray(GO_NOTE)
            changed[place] ^= 1 << bit
            try:
                assert open_note(bytes(changed), [verifier]).signed_by == ()
            except ArchiveError:
                pass  # no note any more, or a wrong signature: both say no


def mangle(old: str, new: str) -> bytes:
    assert old in GO_NOTE.decode()
    return GO_NOTE.decode().replace(old, new).encode()


@pytest.mark.parametrize(
    ("note", "why"),
    [
        (b"", "no blank line"),
        (GO_TEXT.encode(), "no blank line"),
        (GO_TEXT.encode() + b"\n", "0 signatures"),
        (GO_NOTE[:-1], "no blank line"),
        (mangle("— Peter", "- Peter"), "signature line"),
        (mangle("— Peter", "—Peter"), "signature line"),
        (mangle("PeterNeumann x08", "PeterNeumannx08"), "signature line"),
        (mangle("— PeterNeumann", "—  "), "signature line"),
        (mangle("nAM=", "nAM"), "signature line"),
        (mangle("nAM=", "nAN="), "signature line"),
        (mangle("nAM=", "!AM="), "signature line"),
        (GO_NOTE + b"more\n", "signature line"),
        (GO_TEXT.encode() + "\n— PeterNeumann x08go\n".encode(), "signature line"),
        (GO_NOTE[:-5] + b"AA==\n", "does not fit"),
        (mangle("cryptography", "cryptographY"), "does not fit"),
        (GO_NOTE.replace(b"know", b"kn\xffw"), "not UTF-8"),
        (GO_NOTE.replace("— ".encode(), b"\xff ", 1), "not UTF-8"),
        (GO_TEXT.encode() + b"\n" + GO_SIGNATURE.encode() * 101, "101 signatures"),
        (b"x" * 1_000_000 + b"\n\n" + GO_SIGNATURE.encode(), "bytes, at most 1000000"),
        # C2SP signed-note: no ASCII control characters but the line feed.
        (GO_NOTE.replace(b"know", b"kn\x00w"), "signed note: "),
        (GO_NOTE.replace(b"know", b"kn\tw"), "signed note: "),
    ],
)
def test_what_is_no_note_is_refused(note: bytes, why: str) -> None:
    with pytest.raises(ArchiveError, match=why):
        open_note(note, [Verifier.parse(GO_VKEY)])


def test_a_control_character_makes_no_note_whoever_signed_it() -> None:
    signer = Signer.generate("log")
    with pytest.raises(ArchiveError):
        open_note(sign_note("te\x00xt\n", [signer]), [signer.verifier])


@given(
    origin=st.from_regex(r"[a-z0-9./-]{1,40}", fullmatch=True),
    size=st.integers(0, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
)
def test_a_checkpoint_is_read_back_as_it_was_written(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log",
        "log\n1\n",
        f"log\n1\n{ROOT}",
        f"log\n01\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n+1\n{ROOT}\n",
        f"log\n1 \n{ROOT}\n",
        f"log\n١\n{ROOT}\n",
        f"log\n\n{ROOT}\n",
        f"log\n99999999999999999999\n{ROOT}\n",
        f"log\n1\n{ROOT[:-1]}\n",
        f"log\n1\n{ROOT[:-2]}B=\n",
        f"log\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"log\n1\n{ROOT}\nextension\n",
        f"log\n1\n{ROOT}\n\n",
        # C2SP tlog-checkpoint: the origin is not empty.
        f"\n1\n{ROOT}\n",
    ],
)
def test_what_is_no_checkpoint_in_its_only_form_is_refused(text: str) -> None:
    with pytest.raises(ArchiveError, match="checkpoint: "):
        Checkpoint.parse(text)


@given(st.binary(max_size=300))
def test_garbage_is_no_note_and_no_key(data: bytes) -> None:
    parsers: list[Callable[[], object]] = [
        lambda: open_note(data, [Verifier.parse(GO_VKEY)]),
        lambda: Verifier.parse(data.decode("latin-1")),
        lambda: Signer.parse(data.decode("latin-1")),
        lambda: Checkpoint.parse(data.decode("latin-1")),
    ]
    for parse in parsers:
        with pytest.raises(ArchiveError):
            parse()


# Real ones: a checkpoint of a staging CT log and two of its signatures, one by a public witness.
# Source: transparency-dev/formats note_cosigv1_test.go (the witness's key), and the log's own
# checkpoint as served in May 2026; both keys verify it in other implementations' tests.
COSIGNED = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3\
urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI7\
5MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5\
XeU/zZ0WBxtqB0DrAWfBw==
""".encode()
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
ARCHE = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)


def test_a_public_witnesss_cosignature_of_a_public_log_is_accepted_with_its_time() -> None:
    remora, arche = Cosigner.parse(REMORA), Verifier.parse(ARCHE)
    opened = open_note(COSIGNED, [arche], [remora])
    assert opened.signed_by == (arche,)
    assert opened.cosigned_by == (Cosignature(remora, 1_779_573_024),)
    assert str(remora) == REMORA


def test_a_cosignature_fits_its_text_and_its_time_alone() -> None:
    remora = Cosigner.parse(REMORA)
    line = COSIGNED.splitlines(keepends=True)[-1].decode()
    other_time = line.replace("2net5wAAAABq", "2net5wAAAABr")
    assert other_time != line
    for changed in (
        COSIGNED.replace(b"\n1432088532\n", b"\n1432088533\n"),
        COSIGNED.replace(line.encode(), other_time.encode()),
    ):
        with pytest.raises(ArchiveError, match="does not fit its text"):
            open_note(changed, [], [remora])


def test_a_witnesss_key_is_never_a_logs_nor_the_other_way_round() -> None:
    with pytest.raises(ArchiveError, match="verifier key: not an Ed25519 key"):
        Verifier.parse(REMORA)
    with pytest.raises(ArchiveError, match="witness key: not an Ed25519 key for cosignatures"):
        Cosigner.parse(ARCHE)


def test_a_cosignature_made_here_is_what_openssl_verifies_over_the_formats_message(
    tmp_path: Path,
) -> None:
    key = CosigningKey.generate("witness.example/w1")
    text = Checkpoint("example.com/behind-the-sofa", 20852163, bytes(32)).text()
    note = sign_note(text, [Signer.generate("example.com/behind-the-sofa")])
    note += key.cosign(text, 1679315147).encode()
    assert open_note(note, [], [key.cosigner]).cosigned_by == (
        Cosignature(key.cosigner, 1679315147),
    )
    blob = base64.b64decode(note.split(b" ")[-1])
    assert blob[:12] == key.cosigner.key_id + (1679315147).to_bytes(8)
    (tmp_path / "message").write_text(f"cosignature/v1\ntime 1679315147\n{text}")
    (tmp_path / "signature").write_bytes(blob[12:])
    (tmp_path / "key.der").write_bytes(ED25519_SPKI + key.cosigner.public_key)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"]
        + ["-inkey", "key.der", "-in", "message", "-sigfile", "signature"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_a_witnesss_private_key_is_kept_in_the_form_of_gos_tools() -> None:
    key = CosigningKey.parse(GO_SKEY)
    assert key.private_text() == GO_SKEY
    assert key.cosigner.public_key == Verifier.parse(GO_VKEY).public_key
    assert Cosigner.parse(str(key.cosigner)) == key.cosigner
    for text in (GO_SKEY.replace("c74f20a3", "c74f20a4"), GO_SKEY[:-2], "x"):
        with pytest.raises(ArchiveError, match="private witness key") as caught:
            CosigningKey.parse(text)
        assert GO_SKEY.rsplit("+", 1)[1] not in str(caught.value)


def test_of_several_cosignatures_by_one_witness_the_first_counts() -> None:
    key = CosigningKey.generate("w")
    text = Checkpoint("o", 1, bytes(32)).text()
    note = sign_note(text, [Signer.generate("o")])
    note += (key.cosign(text, 9) + key.cosign(text, 5)).encode()
    assert [c.time_s for c in open_note(note, [], [key.cosigner]).cosigned_by] == [9]


def test_extension_lines_are_passed_over_only_for_whoever_asks_for_it() -> None:
    plain = Checkpoint("example.com/log", 3, bytes(32))
    text = plain.text() + "extension\nanother\n"
    with pytest.raises(ArchiveError, match="lines after its root"):
        Checkpoint.parse(text)
    assert Checkpoint.parse(text, with_extensions=True) == plain
    for broken in (plain.text() + "\n", plain.text() + "x", plain.text() + "a\n\nb\n"):
        with pytest.raises(ArchiveError):
            Checkpoint.parse(broken, with_extensions=True)
