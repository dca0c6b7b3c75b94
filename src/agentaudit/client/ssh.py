"""A key for SSH, its certificate from a control API, and where both lie.

The private key is made here and stays here: what is sent is the public one. Files have the names
and modes that OpenSSH looks for: `id`, `id.pub` and `id-cert.pub`, of which it finds the last two
by the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from agentaudit.archive.files import PRIVATE_MODE, locked, make_folder, replace
from agentaudit.archive.known import state_folder
from agentaudit.client.control import Control, SshCertificate
from agentaudit.errors import ControlError, QuestionError
from agentaudit.protocols.ssh_certificates import (
    MalformedKey,
    PublicKey,
    parse_certificate_line,
    parse_key_line,
)

KEY_NAME: Final = "id_ed25519"
PUBLIC_MODE: Final = 0o644
_MAX_KEY_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, and what `ssh` needs of it: the files of the private key and of itself."""

    key_file: Path
    certificate_file: Path
    certificate: SshCertificate


def certify(
    api: Control, targets: list[str], *, key: Path | None = None, folder: Path | None = None
) -> Certified:
    """Get a certificate for `targets`, or for all hosts that one may connect to, and write it.

    It is for the public key in the file `key`, beside which it is written unless a `folder` is
    given; without one for a fresh key in `folder`, else in one of the user's own.

    Raises:
        QuestionError: the key cannot be read, is none, or a file cannot be written.
        ControlError: the API says no, or what makes no sense.
    """
    try:
        if key is not None:
            public = _read(key)
            name = key.name.removesuffix(".pub")
            certificate = _ask(api, public, targets)
            where = folder or key.parent
            make_folder(where)
            path = where / f"{name}-cert.pub"
            replace(path, _line(certificate.certificate), mode=PUBLIC_MODE)
            return Certified(key.with_name(name), path, certificate)
        where = folder or state_folder() / "ssh"
        make_folder(where)
        private = Ed25519PrivateKey.generate()
        said = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        certificate = _ask(api, parse_key_line(said.decode()), targets)
        path = where / KEY_NAME
        # Two that run at once must not leave the key of one and the certificate of the other.
        with locked(path):
            secret = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            replace(path, secret, mode=PRIVATE_MODE)
            replace(where / f"{KEY_NAME}.pub", _line(said.decode()), mode=PUBLIC_MODE)
            shown = where / f"{KEY_NAME}-cert.pub"
            replace(shown, _line(certificate.certificate), mode=PUBLIC_MODE)
        return Certified(path, shown, certificate)
    except OSError as error:
        raise QuestionError(f"{error.filename or folder}: {error.strerror}") from None


def _ask(api: Control, public: PublicKey, targets: list[str]) -> SshCertificate:
    found = api.ssh_certificate(public.line(), targets)
    try:
        is_for_it = parse_certificate_line(found.certificate).key == public
    except MalformedKey:
        is_for_it = False
    if not is_for_it:
        raise ControlError("the control API's certificate is not for the key that it was sent")
    return found


def _read(path: Path) -> PublicKey:
    with path.open("rb") as file:
        line = file.read(_MAX_KEY_BYTES)
    if b"PRIVATE KEY" in line:
        raise QuestionError(
            f"{path}: a private key, which nobody else is to have", hint=f"give {path}.pub"
        )
    try:
        return parse_key_line(line.decode("utf-8", "replace"))
    except MalformedKey as error:
        raise QuestionError(f"{path}: {error}") from None


def _line(text: str) -> bytes:
    return f"{text}\n".encode()
