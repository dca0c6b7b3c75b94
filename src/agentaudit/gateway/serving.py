"""Settings made ready: certificates loaded, secrets read, key sets at hand.

A `Serving` is made whole or not at all, and never changes: a reload makes another one and swaps
it in, so a connection sees one state of the files from its first byte to its last.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentaudit.archive.clocks import Clock, SystemClock
from agentaudit.archive.note import Cosigner
from agentaudit.archive.outside import AnchorPeer, Outside, WitnessPeer
from agentaudit.errors import ArchiveError, SettingsError
from agentaudit.identity import Verifier
from agentaudit.masking.marks import PseudonymKey
from agentaudit.masking.masks import Masks
from agentaudit.masking.plugins import plugged_in
from agentaudit.policy import Policy
from agentaudit.protocols.scram import ScramKeys
from agentaudit.settings.secrets import read_limited
from agentaudit.settings.tables import PostgresTarget, SshTarget, Webhook
from agentaudit.settings.whole import Settings

if TYPE_CHECKING:
    from agentaudit.gateway.ssh_authority import Authority

WATCH_S: Final = 5.0
"""Between two looks at the files that the settings name, and at the disk."""

HOST_KEY: Final = "gateway.ssh_host_key_file"

POSTGRES_ALPN = "postgresql"
"""What a client offers that starts TLS at once: without it another protocol's client could be led
here (ALPACA)."""


@dataclass(frozen=True, slots=True)
class TargetAccess:
    """A target with what it takes to log in there; `tls` is None where it is not to be used.

    `inspector` is the same target by the login that asks its planner, if it has one.
    `scram_keys` is what the password became under a server's salt and number of iterations, kept
    because that takes milliseconds; it is as secret as the password, and goes with it.
    """

    settings: PostgresTarget
    password: str | None
    tls: ssl.SSLContext | None
    inspector: TargetAccess | None = None
    scram_keys: dict[tuple[bytes, int], ScramKeys] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"TargetAccess({self.settings.name!r})"


@dataclass(frozen=True, slots=True)
class HostAccess:
    """A host with what it takes to log in there: a password, a private key in PEM, or `authority`,
    which signs a certificate for each connection."""

    settings: SshTarget
    password: str | None
    key: bytes | None
    authority: Authority | None = None

    def __repr__(self) -> str:
        return f"HostAccess({self.settings.name!r})"


@dataclass(frozen=True, slots=True)
class Serving:
    """All that is in force for connections that begin now."""

    settings: Settings
    verifier: Verifier
    tls: ssl.SSLContext | None
    targets: Mapping[str, TargetAccess]
    hosts: Mapping[str, HostAccess]
    policy: Policy
    policy_digest: str
    mask_digest: str
    masks: Mapping[str, Masks]
    """By target."""
    said: Masks
    """Of all targets together: for what is said before one is found."""
    ssh_authority: Authority | None = None
    """Whose certificates let SSH clients in."""


def prepare(
    settings: Settings, previous: Serving | None = None, clock: Clock | None = None
) -> Serving:
    """Return `settings` made ready; blocks for files and the commands that print secrets.

    Key sets that `previous` has fetched are kept if its issuers are the same. Tokens are held
    against `clock`, the machine's where it is None.

    Raises:
        SettingsError: a file or a secret that the settings name cannot be used.
    """
    keeps_issuers = previous is not None and previous.settings.issuer == settings.issuer
    if previous is not None and keeps_issuers:
        verifier = previous.verifier
    else:
        verifier = verifier_by(clock or SystemClock(), settings)
    for webhook in settings.webhook:
        # The control API's process uses them; what cannot be used is refused here, as a whole.
        webhook.read_secret()
        webhook_tls(webhook)
    authority = ssh_authority(settings)
    hosts = {
        target.name: host_access(target)
        for target in settings.target
        if isinstance(target, SshTarget)
    }
    for host in hosts.values():
        if authority is not None and host.authority is not None:
            host.authority.require_another(authority, host.settings.name)
    masks = {target.name: masks_of(settings, target.name) for target in settings.target}
    return Serving(
        settings=settings,
        verifier=verifier,
        tls=_server_tls(settings),
        targets={
            target.name: target_access(target)
            for target in settings.target
            if isinstance(target, PostgresTarget)
        },
        hosts=hosts,
        policy=Policy(settings.policy_document()),
        policy_digest=settings.policy_digest(),
        mask_digest=settings.mask_digest(),
        masks=masks,
        said=masks_of(settings, None),
        ssh_authority=authority,
    )


def verifier_by(clock: Clock, settings: Settings) -> Verifier:
    """Return what takes the tokens of the issuers in `settings`, at the times of `clock`."""
    return Verifier(settings.issuer, wall_clock=lambda: clock.now_us() / 1e6)


def masks_of(settings: Settings, target: str | None) -> Masks:
    """Return the masks of a target, those of all targets where it is None; blocks.

    Raises:
        SettingsError: a detector that there is not, a path or a pattern that is none, or no key.
    """
    keys = {}
    for mask in settings.mask:
        if (key := mask.read_key()) is not None:
            keys[mask.name] = PseudonymKey(key)
    finders = plugged_in({name for mask in settings.mask for name in mask.detect})
    documents = [mask.document() for mask in settings.mask]
    for document in documents:
        try:
            Masks([document], keys=keys, finders=finders)
        except ValueError as error:
            raise SettingsError(f'mask "{document["name"]}": {error}') from None
    try:
        return Masks(documents, target=target, keys=keys, finders=finders)
    except ValueError as error:
        raise SettingsError(f"[[mask]]: {error}") from None


def outside(settings: Settings) -> Outside:
    """Return who is told of the log: witnesses and time-stamping authorities.

    Raises:
        SettingsError: a witness's key is none, or what speaks to authorities is not installed.
    """
    for witness in settings.witness:
        try:
            Cosigner.parse(witness.key)
        except ArchiveError as error:
            raise SettingsError(f"witness {witness.url}: {error}") from None
    if settings.anchor and find_spec("rfc3161_client") is None:
        raise SettingsError(
            "[[anchor]] needs the module rfc3161_client, which is not installed",
            hint="pip install 'agentaudit[timestamps]'",
        )
    return Outside(
        witnesses=tuple(
            WitnessPeer(url=w.url, key=w.key, ca_file=_text(w.ca_file)) for w in settings.witness
        ),
        anchors=tuple(
            AnchorPeer(url=a.url, interval_s=a.interval.total_seconds(), ca_file=_text(a.ca_file))
            for a in settings.anchor
        ),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def host_access(target: SshTarget) -> HostAccess:
    """Return `target` with its password or its key read; blocks.

    Raises:
        SettingsError: it cannot be used.
    """
    key, where = None, f'target "{target.name}"'
    if target.key_file is not None:
        key = read_limited(target.key_file, f"{where}: key_file")
    authority = _authority(target.user_ca_key_file, f"{where}: user_ca_key_file")
    return HostAccess(target, target.read_password(), key, authority)


def read_host_key(settings: Settings) -> bytes:
    """Return the file with the key by which SSH clients know the gateway; blocks.

    Raises:
        SettingsError: it cannot be read.
    """
    path = settings.gateway.ssh_host_key_file
    assert path is not None, "the settings have one where SSH is listened for"
    return read_limited(path, HOST_KEY)


def ssh_authority(settings: Settings) -> Authority | None:
    """Return whose certificates let SSH clients in, None where the settings name nobody; blocks.

    Raises:
        SettingsError: its key cannot be used.
    """
    return _authority(settings.gateway.ssh_ca_key_file, "gateway.ssh_ca_key_file")


def _authority(path: Path | None, where: str) -> Authority | None:
    if path is None:
        return None
    from agentaudit.gateway.ssh_authority import Authority  # with its library: a fifth of a second

    return Authority.read(path, where)


def target_access(target: PostgresTarget) -> TargetAccess:
    """Return `target` with its password read and its certificates loaded; blocks.

    Raises:
        SettingsError: one of them cannot be used.
    """
    tls = _target_tls(target)
    inspecting = target.inspecting()
    inspector = None
    if inspecting is not None:
        inspector = TargetAccess(inspecting, inspecting.read_password(), tls)
    return TargetAccess(target, target.read_password(), tls, inspector)


def watched_files(settings: Settings) -> Iterable[Path]:
    """Yield the files whose change asks for a reload."""
    if settings.path is not None:
        yield settings.path
    own = settings.gateway
    candidates = [own.tls_cert_file, own.tls_key_file]
    candidates += [own.ssh_host_key_file, own.ssh_ca_key_file]
    candidates += [issuer.ca_file for issuer in settings.issuer]
    candidates += [mask.key_file for mask in settings.mask]
    for webhook in settings.webhook:
        candidates += [webhook.secret_file, webhook.ca_file]
    for target in settings.target:
        candidates.append(target.password_file)
        if isinstance(target, PostgresTarget):
            candidates += [target.inspect_password_file, target.tls_ca_file]
            candidates += [target.tls_cert_file, target.tls_key_file]
        else:
            candidates += [target.key_file, target.user_ca_key_file]
    yield from (path for path in candidates if path is not None)


def signatures(settings: Settings) -> dict[Path, tuple[int, int]]:
    """Return what of the files that the settings name tells whether one has changed."""
    found = {}
    for path in watched_files(settings):
        try:
            status = path.stat()
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_ino)
    return found


def _server_tls(settings: Settings) -> ssl.SSLContext | None:
    certificate, key = settings.gateway.tls_cert_file, settings.gateway.tls_key_file
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, certificate, key, "gateway")
    context.set_alpn_protocols([POSTGRES_ALPN])
    return context


def _target_tls(target: PostgresTarget) -> ssl.SSLContext | None:
    if target.tls == "disable":
        return None
    where = f'target "{target.name}"'
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = target.tls == "verify-full"
    if target.tls_ca_file is not None:
        try:
            context.load_verify_locations(target.tls_ca_file)
        except OSError as error:
            raise SettingsError(
                f"{where}: tls_ca_file {target.tls_ca_file}: {_why(error)}"
            ) from None
    elif target.tls == "verify-full":
        context.load_default_certs()
    else:
        # `require` alone asks for encryption and not for who answers, as in libpq.
        context.verify_mode = ssl.CERT_NONE
    if target.tls_cert_file is not None and target.tls_key_file is not None:
        _load_pair(context, target.tls_cert_file, target.tls_key_file, where)
    return context


def webhook_tls(webhook: Webhook) -> ssl.SSLContext | None:
    """Return how `webhook` is spoken to, None where that is plain http on loopback; blocks.

    Raises:
        SettingsError: its `ca_file` cannot be used.
    """
    if not webhook.url.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cafile=webhook.ca_file)
    except OSError as error:
        raise SettingsError(
            f"webhook {webhook.receiver}: ca_file {webhook.ca_file}: {_why(error)}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path, where: str) -> None:
    try:
        # Without a callback an encrypted key would wait for a passphrase at the terminal.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _EncryptedKeyError:
        raise SettingsError(f"{where}: tls_key_file {key}: encrypted keys cannot be used") from None
    except OSError as error:
        raise SettingsError(
            f"{where}: tls_cert_file {certificate}, tls_key_file {key}: {_why(error)}"
        ) from None


class _EncryptedKeyError(Exception):
    pass


def _no_passphrase() -> str:
    raise _EncryptedKeyError


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not usable PEM").lower().replace("_", " ")
    return (error.strerror or "cannot be read").lower()
