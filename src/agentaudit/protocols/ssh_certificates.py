"""OpenSSH user certificates, written and read, without I/O and without a key.

A certificate is a public key with what its authority says of whoever has the private one. The
reader is strict where the format leaves room, because what two readers take for different things is
a hole: one certificate has one spelling here, options in order and none of them twice. It bounds
everything, and it verifies nothing: `signed` and `signature` are for who has the authority's key.

Format: PROTOCOL.certkeys of OpenSSH; RFC 4251, section 5; RFC 5656; PROTOCOL.u2f
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

USER: Final = 1
"""SSH_CERT_TYPE_USER; a host's is 2."""

MAX_BYTES: Final = 32 * 1024
"""Of a certificate: `MAX_PRINCIPALS` names and the largest RSA key fit in."""

MAX_PRINCIPALS: Final = 256
"""As in OpenSSH (SSHKEY_CERT_MAX_PRINCIPALS)."""

MIN_RSA_BITS: Final = 3072
MAX_RSA_BITS: Final = 16_384
"""As in OpenSSH (SSHBUF_MAX_BIGNUM)."""

MAX_OPTIONS: Final = 16

_CERTIFICATE: Final = "-cert-v01@openssh.com"
_VENDOR: Final = "@openssh.com"

# How many strings a public key has behind the name of its algorithm.
_PARTS: Final[Mapping[str, int]] = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
_POINT_BYTES: Final = {"nistp256": 65, "nistp384": 97, "nistp521": 133}


class MalformedKey(ValueError):
    """Not a public key, or not a certificate, of those that are taken; without its content."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: `algorithm` as RFC 4253 names it, and its `parts`, strings, as on the wire."""

    algorithm: str
    parts: bytes

    @property
    def blob(self) -> bytes:
        """The key as it is named in a signature or a fingerprint."""
        return _string(self.algorithm.encode()) + self.parts

    @property
    def certificate_algorithm(self) -> str:
        """What a certificate of it is called."""
        return self.algorithm.removesuffix(_VENDOR) + _CERTIFICATE

    def line(self) -> str:
        """Return it as `authorized_keys` has it, without a comment."""
        return f"{self.algorithm} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What an authority says; times are seconds since 1970, from the first until before the last.

    `authority` is the authority's public key as a blob. Values of options are as on the wire.
    """

    key: PublicKey
    serial: int
    kind: int = USER
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: Mapping[str, bytes] = field(default_factory=dict)
    extensions: Mapping[str, bytes] = field(default_factory=dict)
    authority: bytes
    nonce: bytes
    signature: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the authority signs: all but the signature."""
        return b"".join(
            (
                _string(self.key.certificate_algorithm.encode()),
                _string(self.nonce),
                self.key.parts,
                self.serial.to_bytes(8, "big"),
                self.kind.to_bytes(4, "big"),
                _string(self.key_id.encode()),
                _string(b"".join(_string(name.encode()) for name in self.principals)),
                self.valid_after.to_bytes(8, "big"),
                self.valid_before.to_bytes(8, "big"),
                _string(_options(self.critical)),
                _string(_options(self.extensions)),
                _string(b""),
                _string(self.authority),
            )
        )

    @property
    def blob(self) -> bytes:
        """The whole certificate."""
        return self.signed + _string(self.signature)

    def line(self) -> str:
        """Return it as a file `…-cert.pub` has it, without a comment."""
        return f"{self.key.certificate_algorithm} {base64.b64encode(self.blob).decode()}"


def option_text(text: str) -> bytes:
    """Return the value of an option that is a text, as `source-address`."""
    return _string(text.encode())


def text_of_option(value: bytes) -> str:
    """Return the text that an option's value is.

    Raises:
        MalformedKey: it is none.
    """
    reader = _Reader(value)
    text = reader.text()
    reader.end()
    return text


def is_certificate(blob: bytes) -> bool:
    """Say whether what a client offers is called a certificate, whatever it is."""
    try:
        return _Reader(blob).text().endswith(_CERTIFICATE)
    except MalformedKey:
        return False


def parse_certificate(blob: bytes) -> Certificate:
    """Return the certificate that `blob` is; that it is signed is not looked at.

    Raises:
        MalformedKey: it is none, or spelled as nobody spells one.
    """
    if len(blob) > MAX_BYTES:
        raise MalformedKey(f"a certificate of more than {MAX_BYTES} bytes")
    reader = _Reader(blob)
    algorithm = reader.text()
    names = [name for name in _PARTS if PublicKey(name, b"").certificate_algorithm == algorithm]
    if not names:
        raise MalformedKey("a certificate of an algorithm that is not taken")
    nonce = reader.string()
    key = _key(names[0], reader)
    serial, kind, key_id = reader.number(8), reader.number(4), reader.text()
    listed = _Reader(reader.string())
    principals = []
    while not listed.is_over:
        principals.append(listed.text())
        if len(principals) > MAX_PRINCIPALS:
            raise MalformedKey(f"a certificate of more than {MAX_PRINCIPALS} principals")
    valid_after, valid_before = reader.number(8), reader.number(8)
    critical, extensions = _read_options(reader.string()), _read_options(reader.string())
    if reader.string():
        raise MalformedKey("a certificate whose reserved field is not empty")
    authority, signature = reader.string(), reader.string()
    reader.end()
    found = Certificate(
        key=key,
        serial=serial,
        kind=kind,
        key_id=key_id,
        principals=tuple(principals),
        valid_after=valid_after,
        valid_before=valid_before,
        critical=critical,
        extensions=extensions,
        authority=authority,
        nonce=nonce,
        signature=signature,
    )
    # What is verified is what was read, and nothing else.
    if found.blob != blob:
        raise MalformedKey("a certificate with more than one spelling")
    return found


def parse_certificate_line(line: str) -> Certificate:
    """Return the certificate of a line as a file `…-cert.pub` has it; see `parse_certificate`."""
    return parse_certificate(_blob(line)[1])


def parse_key(blob: bytes) -> PublicKey:
    """Return the public key that `blob` is, of those that a certificate may be for.

    A point that is on no curve is not noticed.

    Raises:
        MalformedKey: it is none, or too short to be safe.
    """
    reader = _Reader(blob)
    key = _key(reader.text(), reader)
    reader.end()
    return key


def parse_key_line(line: str) -> PublicKey:
    """Return the public key of a line as `ssh-keygen` writes it; its comment is not looked at.

    Raises:
        MalformedKey: as `parse_key`; the message does not hold it.
    """
    name, blob = _blob(line)
    if name not in _PARTS:
        raise MalformedKey(f"not a public key of those that are taken: {', '.join(sorted(_PARTS))}")
    key = parse_key(blob)
    if key.algorithm != name:
        raise MalformedKey("not a public key: its two names differ")
    return key


def _blob(line: str) -> tuple[str, bytes]:
    """Return the name that a line begins with, and the bytes of its second word."""
    words = line.strip().split(None, 2)
    if len(line.strip().splitlines()) != 1 or len(words) < 2:
        raise MalformedKey("not a public key: one line as in ~/.ssh/id_ed25519.pub expected")
    try:
        return words[0], base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise MalformedKey("not a public key: its second word is no base64") from None


def _key(algorithm: str, reader: _Reader) -> PublicKey:
    if algorithm not in _PARTS:
        raise MalformedKey("a public key of an algorithm that is not taken")
    parts = [reader.string() for _ in range(_PARTS[algorithm])]
    if algorithm == "ssh-rsa":
        _require_rsa(*parts)
    elif "nistp" in algorithm:
        curve = algorithm.removesuffix(_VENDOR).rpartition("-")[2]
        # Uncompressed: the only form that RFC 5656 wants all to know.
        if parts[0] != curve.encode() or parts[1][:1] != b"\4":
            raise MalformedKey("a public key on another curve than its name says")
        if len(parts[1]) != _POINT_BYTES[curve]:
            raise MalformedKey("a public key whose point has not the length of its curve's")
    elif len(parts[0]) != 32:
        raise MalformedKey("an Ed25519 key that has not 32 bytes")
    return PublicKey(algorithm, b"".join(_string(part) for part in parts))


def _require_rsa(exponent: bytes, modulus: bytes) -> None:
    for number in (exponent, modulus):
        is_positive = bool(number) and number[0] < 0x80
        is_short = len(number) < 2 or number[0] != 0 or number[1] >= 0x80
        if not is_positive or not is_short:
            raise MalformedKey("an RSA key whose numbers are not spelled as RFC 4251 says")
    if not MIN_RSA_BITS <= int.from_bytes(modulus, "big").bit_length() <= MAX_RSA_BITS:
        raise MalformedKey(f"an RSA key that has not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if len(exponent) > 8:
        raise MalformedKey("an RSA key with an exponent of more than 64 bits")


def _options(options: Mapping[str, bytes]) -> bytes:
    names = sorted(options, key=str.encode)
    return b"".join(_string(name.encode()) + _string(options[name]) for name in names)


def _read_options(data: bytes) -> dict[str, bytes]:
    reader, found = _Reader(data), dict[str, bytes]()
    while not reader.is_over:
        name = reader.text()
        if name in found or len(found) == MAX_OPTIONS:
            raise MalformedKey("a certificate with an option twice, or too many of them")
        found[name] = reader.string()
    return found


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _Reader:
    """Reads what RFC 4251 section 5 describes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at == len(self._data)

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def string(self) -> bytes:
        return self._take(self.number(4))

    def text(self) -> str:
        try:
            return self.string().decode()
        except UnicodeDecodeError:
            raise MalformedKey("a text that is no UTF-8") from None

    def end(self) -> None:
        if not self.is_over:
            raise MalformedKey("more bytes than it has")

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise MalformedKey("fewer bytes than it says")
        self._at += size
        return taken
