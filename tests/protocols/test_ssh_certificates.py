"""OpenSSH certificates are read as `ssh-keygen` writes them, and nothing else is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.protocols.ssh_certificates import (
    MAX_BYTES,
    MAX_OPTIONS,
    MAX_PRINCIPALS,
    Certificate,
    MalformedKey,
    is_certificate,
    option_text,
    parse_certificate,
    parse_certificate_line,
    parse_key,
    parse_key_line,
    text_of_option,
)


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


ED25519 = parse_key(string(b"ssh-ed25519") + string(bytes(32)))
ONE = Certificate(
    key=ED25519,
    serial=(1 << 63) - 1,
    key_id="https://idp.example.com ana -",
    principals=("host-1", "host-2"),
    valid_after=1_700_000_000,
    valid_before=1_700_000_900,
    critical={"source-address": option_text("10.0.0.1")},
    extensions={"permit-pty": b""},
    authority=ED25519.blob,
    nonce=bytes(32),
    signature=b"signed",
)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_ssh_keygen_writes_is_read_and_written_alike(tmp_path: Path, kind: str) -> None:
    make = ["ssh-keygen", "-q", "-N", "", "-t", kind, "-f"]
    for name in ("ca", "id"):
        subprocess.run([*make, str(tmp_path / name)], check=True)
    sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "who", "-n", "a,b", "-z", "77"]
    sign += ["-V", "20260101000000Z:20260101001500Z", "-O", "source-address=10.0.0.0/8"]
    subprocess.run([*sign, str(tmp_path / "id.pub")], check=True)
    line = (tmp_path / "id-cert.pub").read_text()
    found = parse_certificate_line(line)
    assert (found.key_id, found.principals, found.serial, found.kind) == ("who", ("a", "b"), 77, 1)
    assert found.valid_before - found.valid_after == 900
    assert text_of_option(found.critical["source-address"]) == "10.0.0.0/8"
    assert "permit-pty" in found.extensions
    assert found.line() == " ".join(line.split()[:2])
    public = (tmp_path / "id.pub").read_text()
    assert found.key == parse_key_line(public)
    assert found.key.line() == " ".join(public.split()[:2])
    assert found.authority == parse_key_line((tmp_path / "ca.pub").read_text()).blob


def test_a_certificate_has_one_spelling() -> None:
    assert parse_certificate(ONE.blob) == ONE
    assert is_certificate(ONE.blob)
    assert not is_certificate(ED25519.blob)
    assert not is_certificate(b"")
    blob = ONE.blob
    for at in range(len(blob)):
        with pytest.raises(MalformedKey):
            parse_certificate(blob[:at])
    with pytest.raises(MalformedKey):
        parse_certificate(blob + b"\0")


def options(*names: str) -> bytes:
    return string(b"".join(string(name.encode()) + string(b"") for name in names))


EMPTY = string(b"")
TAIL = {
    "options out of order": options("b", "a") + EMPTY + EMPTY,
    "an option twice": options("a", "a") + EMPTY + EMPTY,
    "too many options": options(*map(str, range(MAX_OPTIONS + 1))) + EMPTY + EMPTY,
    "something in the reserved field": EMPTY + EMPTY + string(b"x"),
}


@pytest.mark.parametrize("what", TAIL)
def test_the_end_of_a_certificate_is_read_strictly(what: str) -> None:
    whole = replace(ONE, critical={}, extensions={})
    end = string(whole.authority) + string(whole.signature)
    start = whole.blob[: -len(3 * EMPTY + end)]
    assert start + 3 * EMPTY + end == whole.blob
    with pytest.raises(MalformedKey):
        parse_certificate(start + TAIL[what] + end)


def test_what_is_too_much_is_refused() -> None:
    many = replace(ONE, principals=("x",) * MAX_PRINCIPALS)
    assert parse_certificate(many.blob) == many
    for changed in (
        replace(ONE, principals=("x",) * (MAX_PRINCIPALS + 1)),
        replace(ONE, key_id="x" * MAX_BYTES),
    ):
        with pytest.raises(MalformedKey):
            parse_certificate(changed.blob)
    with pytest.raises(MalformedKey):
        parse_certificate(string(b"ssh-dss-cert-v01@openssh.com") + ONE.blob[36:])


def rsa(exponent: bytes, modulus: bytes) -> bytes:
    return string(b"ssh-rsa") + string(exponent) + string(modulus)


def ecdsa(curve: bytes, point: bytes) -> bytes:
    return string(b"ecdsa-sha2-nistp256") + string(curve) + string(point)


N = b"\0" + b"\x80" + bytes(383)
E = b"\1\0\1"
KEYS = {
    "an algorithm that is not there": string(b"ssh-dss") + string(b"x"),
    "a name that is no text": string(b"\xff"),
    "Ed25519 with 31 bytes": string(b"ssh-ed25519") + string(bytes(31)),
    "a byte more": ED25519.blob + b"\0",
    "RSA with 3071 bits": rsa(E, b"\x40" + bytes(383)),
    "RSA with 16385 bits": rsa(E, b"\1" + bytes(2048)),
    "RSA with a negative modulus": rsa(E, N[1:]),
    "RSA with a zero too many": rsa(E, b"\0" + N),
    "RSA without an exponent": rsa(b"", N),
    "RSA with an exponent of 72 bits": rsa(b"\1" + bytes(8), N),
    "another curve": ecdsa(b"nistp384", b"\4" + bytes(64)),
    "a compressed point": ecdsa(b"nistp256", b"\2" + bytes(64)),
    "a point too short": ecdsa(b"nistp256", b"\4" + bytes(63)),
}


@pytest.mark.parametrize("what", KEYS)
def test_a_key_that_is_none_is_refused(what: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(KEYS[what])


def test_keys_at_the_limits_are_taken() -> None:
    for blob in (rsa(E, N), ecdsa(b"nistp256", b"\4" + bytes(64))):
        assert parse_key(blob).blob == blob


@pytest.mark.parametrize(
    "line",
    ["", "ssh-ed25519", "ssh-ed25519 !", "ssh-ed25519 AAAA\nssh-ed25519 AAAA", "x AAAA",
     ED25519.line().replace("ssh-ed25519", "ssh-rsa", 1), "ssh-ed25519 ä"],
)  # fmt: skip
def test_a_line_that_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key_line(line)
    with pytest.raises(MalformedKey):
        parse_certificate_line(line)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_garbage_is_a_malformed_key_or_what_it_says(data: bytes, at: int, byte: int) -> None:
    changed = bytearray(ONE.blob)
    changed[at % len(changed)] = byte
    read: tuple[Callable[[bytes], object], ...] = (parse_certificate, parse_key, text_of_option)
    for blob in (data, bytes(changed), ONE.blob[: at % len(changed)] + data):
        for parse in read:
            try:
                found = parse(blob)
            except MalformedKey:
                continue
            if isinstance(found, Certificate):
                assert found.blob == blob
