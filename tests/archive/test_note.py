"""Signed notes and checkpoints, against Go's published key and note, and against OpenSSL."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.note import Checkpoint, Signer, Verifier, open_note, sign_note
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
