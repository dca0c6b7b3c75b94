"""The keys that sign SSH certificates: of those who come in, and of the gateway at a host.

A certificate that the gateway makes for a client says who that is for a quarter of an hour at most,
and is half of what lets somebody in: the other half is a row of the state, with its digest and the
actor as the token named it. So a certificate that the state does not know opens nothing, whoever
has the authority's key, and groups, grants, blocks and windows are asked when it is used.

Source: PROTOCOL.certkeys of OpenSSH
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncssh

from agentaudit.errors import IdentityError, SettingsError
from agentaudit.model import Actor
from agentaudit.protocols import ssh_certificates as wire
from agentaudit.protocols.ssh_certificates import Certificate, PublicKey
from agentaudit.settings.secrets import read_private

SOURCE_ADDRESS: Final = "source-address"
PERMIT_PTY: Final = "permit-pty"
SKEW_S: Final = 60
"""How far the clocks of two gateways with one state may be apart."""

AT_HOST_S: Final = 300
"""How long a certificate for a host is good, and since when: its clock is not ours."""

_MAX_WORD: Final = 256
_NONCE_BYTES: Final = 32
_SHA2_512: Final = b"rsa-sha2-512"


class Authority:
    """A key that signs certificates; its `repr` has no part of it."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._key = key
        self._algorithm = _SHA2_512 if key.algorithm == b"ssh-rsa" else key.sig_algorithms[0]
        self._public = key.convert_to_public()
        self.blob = key.public_data
        """Its public key."""

    @classmethod
    def read(cls, path: Path, where: str) -> Authority:
        """Return the authority whose private key a file holds; `where` names the key of the file.

        Raises:
            SettingsError: it cannot be used, or others than the gateway's user can read it.
        """
        hint = "ssh-keygen -t ed25519 -N '' -f FILE makes one"
        try:
            key = asyncssh.import_private_key(read_private(path, where))
            wire.parse_key(key.public_data)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise SettingsError(f"{where} {path}: {error}", hint=hint) from None
        except wire.MalformedKey as error:
            raise SettingsError(f"{where} {path}: {error}", hint=hint) from None
        return cls(key)

    @property
    def fingerprint(self) -> str:
        """What people compare."""
        return self._key.get_fingerprint()

    def require_another(self, other: Authority, target: str) -> None:
        """Refuse one key for clients and for a host: what a client is given must open no host.

        Raises:
            SettingsError: both are the same.
        """
        if self.blob == other.blob:
            raise SettingsError(
                f'target "{target}": user_ca_key_file has the key of gateway.ssh_ca_key_file, so '
                "that clients could go to the host past the gateway",
                hint="ssh-keygen -t ed25519 -N '' -f FILE makes another one",
            )

    def sign(
        self,
        key: PublicKey,
        *,
        serial: int,
        key_id: str,
        principals: Sequence[str],
        valid_after: int,
        valid_before: int,
        critical: Mapping[str, bytes] | None = None,
        permits: Sequence[str] = (PERMIT_PTY,),
    ) -> Certificate:
        """Return a user's certificate; `permits` are what is special and yet may be had."""
        unsigned = Certificate(
            key=key,
            serial=serial,
            key_id=key_id,
            principals=tuple(principals),
            valid_after=valid_after,
            valid_before=valid_before,
            critical=critical or {},
            extensions=dict.fromkeys(permits, b""),
            authority=self.blob,
            nonce=os.urandom(_NONCE_BYTES),
        )
        return replace(unsigned, signature=self._key.sign(unsigned.signed, self._algorithm))

    def verify(self, certificate: Certificate, *, target: str, peer: str, now_us: int) -> None:
        """Refuse a certificate of this authority's that does not let its bearer go to `target`.

        Raises:
            IdentityError: with the reason; nothing of it was believed before its signature was.
        """
        if not signed_by(self._public, certificate.signed, certificate.signature):
            raise IdentityError("the certificate's signature is wrong")
        if certificate.kind != wire.USER:
            raise IdentityError("the certificate is a host's")
        if certificate.critical.keys() - {SOURCE_ADDRESS}:
            raise IdentityError("the certificate has a critical option that is not known here")
        now_s = now_us / 1_000_000
        if now_s < certificate.valid_after - SKEW_S:
            raise IdentityError("the certificate is not valid yet", hint="are the clocks right?")
        if now_s >= certificate.valid_before:
            raise IdentityError(
                "the certificate is over", hint="agentaudit ssh-cert gets another one"
            )
        if target not in certificate.principals:
            raise IdentityError("the certificate is for another target")
        allowed = certificate.critical.get(SOURCE_ADDRESS)
        if allowed is not None and not _is_from(peer, allowed):
            raise IdentityError("the certificate is for another address")


@dataclass(frozen=True, slots=True)
class AtHost:
    """What proves the gateway to one host, once: a key that only this connection has."""

    key: asyncssh.SSHKey
    certificate: asyncssh.SSHCertificate
    serial: int


def for_host(authority: Authority, login: str, key_id: str, now_us: int) -> AtHost:
    """Return a fresh key, and a certificate by which a host lets it in as `login`."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    now_s, serial = now_us // 1_000_000, new_serial()
    certificate = authority.sign(
        wire.parse_key(key.public_data),
        serial=serial,
        key_id=key_id,
        principals=[login],
        valid_after=now_s - AT_HOST_S,
        valid_before=now_s + AT_HOST_S,
        # Whether a client may have it, rules say.
        permits=(PERMIT_PTY, "permit-port-forwarding"),
    )
    return AtHost(key, asyncssh.import_certificate(certificate.line()), serial)


def new_serial() -> int:
    """Return a number that nobody guesses, and that a database's 64 bits hold with their sign."""
    return secrets.randbelow((1 << 63) - 1) + 1


def life_s(wanted: timedelta, expires_us: int, now_us: int) -> tuple[int, int]:
    """Return from when until when a certificate is good whose token expires at `expires_us`."""
    now_s = now_us // 1_000_000
    return now_s, min(now_s + int(wanted.total_seconds()), expires_us // 1_000_000)


def digest(certificate: Certificate) -> bytes:
    """Return what the state knows a certificate by."""
    return sha256(certificate.blob).digest()


def key_id_of(actor: Actor) -> str:
    """Return issuer, subject and agent in one line of plain ASCII: an agent may choose its name.

    It is for people who read a host's log; what is decided goes by the state.

    >>> key_id_of(Actor(user="u", subject="a b", issuer="https://idp.example.com"))
    'https://idp.example.com a%20b -'
    """
    return " ".join(_word(part) for part in (actor.issuer, actor.subject, actor.agent))


def _word(text: str) -> str:
    said = quote(text, safe="/:@+=._-~", errors="replace") or "-"
    return said if len(said) <= _MAX_WORD else said[:_MAX_WORD] + "~"


def public_key(line: str) -> PublicKey:
    """Return the public key that a client sends, if it is one by mathematics too.

    Raises:
        MalformedKey: it is none.
    """
    key = wire.parse_key_line(line)
    try:
        _imported(key)
    except ValueError:
        raise wire.MalformedKey("not a public key: its numbers are none of a key") from None
    return key


def has_signed(key: PublicKey, data: bytes, signature: bytes) -> bool:
    """Say whether the bearer of a certificate for `key` has signed `data`, and was there."""
    try:
        imported = _imported(key)
    except ValueError:
        return False
    imported.set_touch_required(True)
    return signed_by(imported, data, signature)


def _imported(key: PublicKey) -> asyncssh.SSHKey:
    return asyncssh.import_public_key(key.line())


def signed_by(key: asyncssh.SSHKey, data: bytes, signature: bytes) -> bool:
    """Say whether `key` has signed `data`, by an algorithm of today: not RSA with SHA-1."""
    size = int.from_bytes(signature[:4], "big")
    algorithm = signature[4 : 4 + size]
    modern = (b"rsa-sha2-256", _SHA2_512) if key.algorithm == b"ssh-rsa" else (key.algorithm,)
    return algorithm in modern and key.verify(data, signature)


def _is_from(peer: str, allowed: bytes) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
        networks = [
            ipaddress.ip_network(each, strict=False)
            for each in wire.text_of_option(allowed).split(",")
        ]
    except (ValueError, wire.MalformedKey):
        return False
    return any(_plain(address) in network for network in networks)


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def source_of(host: str) -> str:
    """Return the address of a peer as `source-address` has it; '' where it has none."""
    try:
        return str(_plain(ipaddress.ip_address(host.partition("%")[0])))
    except ValueError:
        return ""
