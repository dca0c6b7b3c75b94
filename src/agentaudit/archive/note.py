"""Signed notes and checkpoints, byte for byte as C2SP defines them.

Exact formats are the point: an auditor can open our notes with Go's `sumdb/note` and check the
signature with OpenSSL, without a line of ours. Only Ed25519 is spoken: a log's own signatures
(type 0x01, `Verifier`) and a witness's timestamped ones (type 0x04, `Cosigner`). The two are
classes apart, so that no witness's key is ever taken for a log's.

Format: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from agentaudit.errors import ArchiveError

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_SIGNATURE_PREFIX = "— "
_PRIVATE_PREFIX = "PRIVATE+KEY+"
MAX_NOTE_BYTES = 1_000_000
_MAX_SIGNATURES = 100
_MAX_TIME_S = 2**63 - 1
_COSIGNATURE_BYTES = 4 + 8 + 64
_NAME = re.compile(r"[^\s+]+\Z")


@dataclass(frozen=True, slots=True)
class Verifier:
    """A verifier key: who may sign, under which name."""

    name: str
    key_id: bytes
    public_key: bytes

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Return the verifier that `name+hash+base64` stands for.

        Raises:
            ArchiveError: not a verifier key, or its hash is not that of its name and key.
        """
        return cls(*_split_key(vkey.strip(), "verifier key", _ED25519))

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_b64(_ED25519 + self.public_key)}"

    def accepts(self, text: bytes, signature: bytes) -> bool:
        """Say whether `signature`, 64 bytes, is this key's over `text`."""
        return _is_signed(self.public_key, text, signature)


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness's verifier key: who says that it saw a log at a time."""

    name: str
    key_id: bytes
    public_key: bytes

    @classmethod
    def parse(cls, vkey: str) -> Cosigner:
        """Return the witness that `name+hash+base64` stands for, a key of type 0x04.

        Raises:
            ArchiveError: not a witness's verifier key, or its hash is not that of its name and key.
        """
        return cls(*_split_key(vkey.strip(), "witness key", _COSIGNATURE))

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_b64(_COSIGNATURE + self.public_key)}"

    def accepts(self, text: bytes, time_s: int, signature: bytes) -> bool:
        """Say whether `signature`, 64 bytes, is this witness's over a checkpoint at `time_s`."""
        return _is_signed(self.public_key, _cosigned(text, time_s), signature)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """That a witness saw no larger checkpoint of a log at `time_s`, seconds since 1970."""

    cosigner: Cosigner
    time_s: int


class Signer:
    """A private log key; its text form is that of Go's `note.GenerateKey`."""

    def __init__(self, name: str, seed: bytes) -> None:
        _check_name(name)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public_key = self._key.public_key().public_bytes_raw()
        self.verifier = Verifier(name, _key_id(name, public_key), public_key)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Return a new key for `name`, which is the log's origin."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, skey: str) -> Signer:
        """Return the signer of a `PRIVATE+KEY+name+hash+base64` text.

        Raises:
            ArchiveError: not such a text, or its hash does not fit; the message holds no key.
        """
        name, hash_hex, seed = _split_private_key(skey, "private log key")
        signer = cls(name, seed)
        if signer.verifier.key_id.hex() != hash_hex:
            raise ArchiveError("private log key: its hash is not that of its name and key")
        return signer

    def private_text(self) -> str:
        """Return the private key as text; whoever reads it can sign as this log."""
        verifier = self.verifier
        blob = _b64(_ED25519 + self._key.private_bytes_raw())
        return f"{_PRIVATE_PREFIX}{verifier.name}+{verifier.key_id.hex()}+{blob}"

    def sign(self, text: bytes) -> bytes:
        """Return the 64-byte signature over `text`."""
        return self._key.sign(text)


class CosigningKey:
    """A witness's private key; its text form is that of a log key, as in Go's tools for witnesses.

    What it signs begins with `cosignature/v1`, which no checkpoint does.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        self._signer = Signer(name, seed)
        public_key = self._signer.verifier.public_key
        self.cosigner = Cosigner(name, _key_id(name, public_key, _COSIGNATURE), public_key)

    @classmethod
    def generate(cls, name: str) -> CosigningKey:
        """Return a new key for the witness `name`."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, skey: str) -> CosigningKey:
        """Return the key of a `PRIVATE+KEY+name+hash+base64` text.

        Raises:
            ArchiveError: not such a text, or its hash does not fit; the message holds no key.
        """
        name, hash_hex, seed = _split_private_key(skey, "private witness key")
        key = cls(name, seed)
        if key._signer.verifier.key_id.hex() != hash_hex:
            raise ArchiveError("private witness key: its hash is not that of its name and key")
        return key

    def private_text(self) -> str:
        """Return the private key as text; whoever reads it can cosign as this witness."""
        return self._signer.private_text()

    def cosign(self, text: str, time_s: int) -> str:
        """Return the signature line of this witness over a checkpoint's whole note text.

        `time_s` is the time of signing, seconds since 1970.
        """
        blob = self.cosigner.key_id + time_s.to_bytes(8)
        blob += self._signer.sign(_cosigned(text.encode(), time_s))
        return f"{_SIGNATURE_PREFIX}{self.cosigner.name} {_b64(blob)}\n"


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note's text, and which of the given verifiers and witnesses signed it."""

    text: str
    signed_by: tuple[Verifier, ...]
    cosigned_by: tuple[Cosignature, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a tree: whose, how large, and its root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the note text of this checkpoint."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"

    @classmethod
    def parse(cls, text: str, *, with_extensions: bool = False) -> Checkpoint:
        """Return the checkpoint in a note's text.

        Logs of ours have no extension lines; `with_extensions` passes over those of another's.

        Raises:
            ArchiveError: not the three lines of a checkpoint, or not in their only form.
        """
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
            raise ArchiveError("checkpoint: not origin, size and root, a line each")
        root = _decode(lines[2])
        if root is None or len(root) != 32:
            raise ArchiveError("checkpoint: its root is not 32 bytes of canonical base64")
        if with_extensions and lines[-1] == "" and all(lines[3:-1]):
            return cls(lines[0], int(lines[1]), root)
        if lines[3:] != [""]:
            raise ArchiveError("checkpoint: has lines after its root")
        return cls(lines[0], int(lines[1]), root)


def sign_note(text: str, signers: Iterable[Signer]) -> bytes:
    """Return `text`, which ends in a newline, as a signed note."""
    body = text.encode()
    lines = [
        f"{_SIGNATURE_PREFIX}{signer.verifier.name} "
        f"{_b64(signer.verifier.key_id + signer.sign(body))}\n"
        for signer in signers
    ]
    return body + b"\n" + "".join(lines).encode()


def open_note(
    note: bytes, verifiers: Sequence[Verifier], cosigners: Sequence[Cosigner] = ()
) -> OpenedNote:
    """Return the text of `note`, who of `verifiers` signed it, who of `cosigners` saw it and when.

    Signatures by unknown keys are passed over, as the format asks; a wrong signature by a known
    key is an error. Of several by one witness the first counts.

    Raises:
        ArchiveError: not a signed note, or a known key's signature does not fit its text.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise ArchiveError(f"signed note: {len(note)} bytes, at most {MAX_NOTE_BYTES} expected")
    body, signature_lines = split_note(note)
    signed_by: list[Verifier] = []
    cosigned_by: dict[Cosigner, Cosignature] = {}
    for line in signature_lines:
        name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
        blob = _decode(encoded)
        if not line.startswith(_SIGNATURE_PREFIX) or not name or blob is None or len(blob) < 5:
            raise ArchiveError("signed note: a signature line is not '— name base64'")
        for verifier in verifiers:
            if verifier.name == name and verifier.key_id == blob[:4]:
                if len(blob) != 68 or not verifier.accepts(body, blob[4:]):
                    raise _not_fitting(name)
                if verifier not in signed_by:
                    signed_by.append(verifier)
        for cosigner in cosigners:
            if cosigner.name == name and cosigner.key_id == blob[:4]:
                time_s = int.from_bytes(blob[4:12])
                if (
                    len(blob) != _COSIGNATURE_BYTES
                    or time_s > _MAX_TIME_S
                    or not cosigner.accepts(body, time_s, blob[12:])
                ):
                    raise _not_fitting(name)
                cosigned_by.setdefault(cosigner, Cosignature(cosigner, time_s))
    return OpenedNote(body.decode(), tuple(signed_by), tuple(cosigned_by.values()))


def split_note(note: bytes) -> tuple[bytes, list[str]]:
    """Return the text of a signed note, which ends in a newline, and its signature lines without.

    Nothing is verified.

    Raises:
        ArchiveError: not a signed note.
    """
    split = note.rfind(b"\n\n")
    if split < 0 or not note.endswith(b"\n"):
        raise ArchiveError("signed note: no blank line before signatures")
    body = note[: split + 1]
    try:
        text, signature_text = body.decode(), note[split + 2 :].decode()
    except UnicodeDecodeError:
        raise ArchiveError("signed note: not UTF-8") from None
    if any(ord(character) < 0x20 and character != "\n" for character in text):
        raise ArchiveError("signed note: control characters in its text")
    lines = signature_text.split("\n")[:-1]
    if not lines or len(lines) > _MAX_SIGNATURES:
        raise ArchiveError(f"signed note: {len(lines)} signatures")
    return body, lines


def _not_fitting(name: str) -> ArchiveError:
    return ArchiveError(f"signed note: the signature of {name} does not fit its text")


def _is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _cosigned(text: bytes, time_s: int) -> bytes:
    """Return what a witness signs: c2sp.org/tlog-cosignature, "Ed25519 signed message"."""
    return b"cosignature/v1\ntime %d\n" % time_s + text


def _split_key(key: str, what: str, algorithm: bytes) -> tuple[str, bytes, bytes]:
    try:
        name, hash_hex, encoded = key.split("+", 2)
        blob = base64.b64decode(encoded, validate=True)
        key_id = bytes.fromhex(hash_hex)
    except (ValueError, binascii.Error):
        raise ArchiveError(
            f"{what}: not name+hash+base64", hint="see `agentaudit keygen`"
        ) from None
    _check_name(name)
    if blob[:1] != algorithm or len(blob) != 33:
        kind = "an Ed25519 key" if algorithm == _ED25519 else "an Ed25519 key for cosignatures"
        raise ArchiveError(f"{what}: not {kind} (type 0x{algorithm.hex()}) of 32 bytes")
    if _key_id(name, blob[1:], algorithm) != key_id:
        raise ArchiveError(f"{what}: its hash is not that of its name and key")
    return name, key_id, blob[1:]


def _split_private_key(skey: str, what: str) -> tuple[str, str, bytes]:
    """Return name, hash and 32-byte seed; no message holds a part of the key."""
    if not skey.startswith(_PRIVATE_PREFIX):
        raise ArchiveError(f"{what}: does not begin with PRIVATE+KEY+")
    try:
        name, hash_hex, encoded = skey.strip().removeprefix(_PRIVATE_PREFIX).split("+", 2)
        blob = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise ArchiveError(f"{what}: not PRIVATE+KEY+name+hash+base64") from None
    if blob[:1] != _ED25519 or len(blob) != 33:
        raise ArchiveError(f"{what}: not an Ed25519 key of 32 bytes")
    return name, hash_hex, blob[1:]


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise ArchiveError("key name: empty, or holds white space or a plus sign")


def _key_id(name: str, public_key: bytes, algorithm: bytes = _ED25519) -> bytes:
    return sha256(name.encode() + b"\n" + algorithm + public_key).digest()[:4]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(encoded: str) -> bytes | None:
    """Return the bytes, or None where the text is not their only base64 form."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if _b64(data) == encoded else None
