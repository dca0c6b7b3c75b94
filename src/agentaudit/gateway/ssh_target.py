"""A login at a host: who it must be, and what the gateway proves itself by.

Source: RFC 4252, RFC 4253
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncssh

from agentaudit.errors import SettingsError, TargetError
from agentaudit.gateway.serving import HOST_KEY, HostAccess
from agentaudit.gateway.ssh_authority import AtHost
from agentaudit.gateway.wire import reason
from agentaudit.settings.whole import Settings

TARGET_S: Final = 20.0
"""What a host has to let the gateway in."""

KEEPALIVE_S: Final = 30.0

# Fast ones that both ends of every current OpenSSH have. ChaCha20 is not among them: a client that
# proposes it first, as OpenSSH does, would get it, and here it costs half of the throughput.
ALGORITHMS: Final[dict[str, Any]] = {
    "kex_algs": [
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "diffie-hellman-group16-sha512",
    ],
    "encryption_algs": [
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes256-ctr",
    ],
    "mac_algs": [
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    ],
    "compression_algs": ["none"],
}


class _AtTarget(asyncssh.SSHClient):
    """The gateway's own connection to a host."""

    def __init__(self, gone: Callable[[Exception | None], None]) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(exc)


def host_key(settings: Settings, data: bytes) -> asyncssh.SSHKey:
    """Return the key that is `data`, which `serving.read_host_key` has read.

    Raises:
        SettingsError: it is none, or needs a passphrase.
    """
    try:
        return asyncssh.import_private_key(data)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise SettingsError(
            f"{HOST_KEY} {settings.gateway.ssh_host_key_file}: {error}",
            hint="ssh-keygen -t ed25519 -N '' -f FILE makes one",
        ) from None


async def log_in(
    access: HostAccess,
    user: str,
    gone: Callable[[Exception | None], None],
    *,
    at_host: AtHost | None = None,
    timeout_s: float = TARGET_S,
) -> asyncssh.SSHClientConnection:
    """Log in at a host as `user`; `gone` is called once the connection is.

    `at_host` is what its authority, where it has one, has made for this connection.

    Raises:
        TargetError: it is not there, not who it should be, or does not let us in.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _connect(access, user, gone, at_host)
    except TimeoutError:
        raise TargetError("no answer in time") from None
    except asyncssh.HostKeyNotVerifiable:
        raise TargetError("its host key is none of those that are pinned") from None
    except asyncssh.PermissionDenied:
        raise TargetError("it does not take the gateway's login") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise TargetError("the key that the gateway has for it cannot be read") from None
    except asyncssh.Error as error:
        raise TargetError(f"it breaks the protocol ({type(error).__name__})") from None
    except OSError as error:
        raise TargetError(reason(error)) from None


async def _connect(
    access: HostAccess,
    user: str,
    gone: Callable[[Exception | None], None],
    at_host: AtHost | None,
) -> asyncssh.SSHClientConnection:
    settings = access.settings
    pinned = [asyncssh.import_public_key(key) for key in settings.host_keys]
    keys: list[Any] = [] if access.key is None else [asyncssh.import_private_key(access.key)]
    if at_host is not None:
        keys = [(at_host.key, at_host.certificate)]
    connection, _ = await asyncssh.create_connection(
        lambda: _AtTarget(gone),
        settings.address.host,
        settings.address.port,
        config=[],
        known_hosts=(pinned, [], []),
        username=user,
        client_keys=keys or None,
        password=access.password,
        agent_path=None,
        preferred_auth=["publickey"] if keys else ["password", "keyboard-interactive"],
        gss_host=None,
        keepalive_interval=KEEPALIVE_S,
        client_version="agentaudit",
        **ALGORITHMS,
    )
    return connection
