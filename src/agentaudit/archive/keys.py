"""The keys of a gateway's log: kept outside the archive, readable by nobody else.

The log key is made once. Who holds its private half can sign a history; who holds the verifier
key can check one, so that is what auditors must get from outside the archive.

Beside it each checkpoint carries the signature of an epoch key, which lives for a day or a run.
The next one is introduced under the signature of the old one, which is then destroyed. The first
one is made with the log key, and auditors get its verifier key as well: who takes the machine
today has no key that leads from it to another yesterday.

The third key names no signer: under it people's names become HMACs wherever a log, which is kept
for ever, must speak of them.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentaudit.archive.files import (
    FILE_MODE,
    PRIVATE_MODE,
    make_folder,
    replace,
    sync_folder,
)
from agentaudit.archive.layout import GATEWAY_NAME, Layout
from agentaudit.archive.note import Checkpoint, Signer
from agentaudit.errors import RecordingError, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a gateway records, and the folder with the key that its log is signed with."""

    archive: Path
    gateway: str
    origin: str
    keys: Path

    def __post_init__(self) -> None:
        if not GATEWAY_NAME.match(self.gateway):
            raise RecordingError(f"gateway name {self.gateway!r}: [a-z0-9-] expected")

    @property
    def log_origin(self) -> str:
        """The origin of this gateway's log, under which witnesses know it."""
        return f"{self.origin}/{self.gateway}"


EPOCH_NAME = "epoch"
"""An epoch key's name is its log's origin and this, behind a slash."""


def create_key(keys: Path, gateway: str, origin: str) -> str:
    """Make the keys of `gateway`, 0600; return the verifier keys of its log and first epoch.

    These are two lines, log key first; a file `<gateway>.vkey` beside the keys holds them too.

    Raises:
        SettingsError: there is one already.
    """
    log_origin = f"{origin}/{gateway}"
    signer = Signer.generate(log_origin)
    epoch = Signer.generate(f"{log_origin}/{EPOCH_NAME}")
    make_folder(keys)
    path = keys / f"{gateway}.key"
    if path.exists():
        raise SettingsError(
            f"{path}: there is a log key already",
            hint="a log is signed by one key all its life: use another gateway name for a new log; "
            f"only if this gateway never recorded anything, remove {gateway}.* here and try again",
        )
    text = f"{signer.verifier}\n{epoch.verifier}\n"
    replace(keys / f"{gateway}.epoch", f"{epoch.private_text()}\n".encode(), mode=PRIVATE_MODE)
    people = f"{os.urandom(32).hex()}\n".encode()
    replace(keys / f"{gateway}.people", people, mode=PRIVATE_MODE)
    replace(keys / f"{gateway}.vkey", text.encode(), mode=FILE_MODE)
    # Last: whoever sees a log key may rely on the files beside it.
    replace(path, f"{signer.private_text()}\n".encode(), mode=PRIVATE_MODE)
    return text.strip()


def create_keys(keys: Path, gateway: str, names: Sequence[str], origin: str) -> str:
    """Make the keys that are missing of the logs `names`, as `create_key`; return what it returns.

    All of them are those of `gateway`'s workers, or its own. `<gateway>.vkey` then holds the
    verifier keys of every log that it ever had keys for: what is handed out is one file.

    Raises:
        SettingsError: none is missing.
    """
    shared = keys / f"{gateway}.vkey"
    known = shared.read_text().splitlines() if shared.exists() else []
    missing = [name for name in names if not (keys / f"{name}.key").exists()]
    made = [create_key(keys, name, origin) for name in missing or names[:1]]
    lines = list(known)
    for name in names:
        lines += (keys / f"{name}.vkey").read_text().splitlines()
    text = "".join(f"{line}\n" for line in dict.fromkeys(lines))
    replace(shared, text.encode(), mode=FILE_MODE)
    return "\n".join(made)


def own_logs(archive: Path, keys: Path, gateway: str) -> list[str]:
    """Return the logs in `archive` of this gateway and of its workers, whose keys are in `keys`.

    Those of workers that it has no more are among them.
    """
    name = re.compile(rf"{re.escape(gateway)}(?:-([1-9]|[1-5][0-9]|6[0-4]))?\Z")
    found = []
    for log in Layout(archive).gateways():
        match = name.match(log)
        if match is not None and (keys / f"{log}.key").exists():
            found.append((int(match[1] or 0), log))
    return [log for _, log in sorted(found)]


def load_key(place: Place) -> Signer:
    """Return the signer of this gateway's log.

    Raises:
        RecordingError: no key, one that others can read, or one of another log.
    """
    path = place.keys / f"{place.gateway}.key"
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1000)
    except UnicodeDecodeError:
        raise RecordingError(f"log key {path}: not text") from None
    except OSError as error:
        raise RecordingError(
            f"log key {path}: {error.strerror}", hint="`agentaudit keygen` makes one"
        ) from error
    if mode & 0o077:
        raise RecordingError(f"log key {path}: mode {mode:04o}, 0600 expected", hint="chmod 600")
    signer = Signer.parse(text)
    if signer.verifier.name != place.log_origin:
        raise RecordingError(
            f"log key {path}: made for {signer.verifier.name}, the settings say {place.log_origin}",
            hint="origin and gateway name belong to a log for ever; use its own key",
        )
    return signer


class People:
    """Turns people's names into what may be kept of them for ever."""

    def __init__(self, place: Place) -> None:
        """Load this gateway's key.

        Raises:
            RecordingError: it is not there, or not 32 bytes as hex.
        """
        path = place.keys / f"{place.gateway}.people"
        try:
            self._key = bytes.fromhex(path.read_text())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not hex"
            raise RecordingError(
                f"people key {path}: {reason}", hint="`agentaudit keygen` makes it with the others"
            ) from error
        if len(self._key) != 32:
            raise RecordingError(f"people key {path}: {len(self._key)} bytes, 32 expected")

    def hmac(self, user: str) -> str:
        """Return HMAC-SHA256(key, "AA1u" ‖ user) as hex; the empty string for no user."""
        return hmac.digest(self._key, b"AA1u" + user.encode(), "sha256").hex() if user else ""


class EpochKeys:
    """The current epoch key of a log, and how it gives way to the next.

    Crash story: the next key is durable before the log names it, and takes the place of the old
    one after; so at any moment one of the two files holds the key that the log names.
    """

    def __init__(self, place: Place) -> None:
        self._name = f"{place.log_origin}/{EPOCH_NAME}"
        self._current = place.keys / f"{place.gateway}.epoch"
        self._next = place.keys / f"{place.gateway}.epoch.next"

    def first(self) -> Signer:
        """Return the key that a new log begins with: the one that was made with the log key.

        Raises:
            RecordingError: it is not there.
        """
        try:
            return Signer.parse(self._current.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise RecordingError(
                f"epoch key {self._current}: none", hint="`agentaudit keygen` makes both keys"
            ) from error

    def propose(self) -> Signer:
        """Return a new key, kept durably, that is not in force yet."""
        signer = Signer.generate(self._name)
        replace(self._next, f"{signer.private_text()}\n".encode(), mode=PRIVATE_MODE)
        return signer

    def adopt(self) -> None:
        """Put the proposed key in force and destroy the one before."""
        self._next.replace(self._current)
        sync_folder(self._current.parent)

    def find(self, vkey: str) -> Signer:
        """Return the key that the log names, `vkey`.

        Raises:
            RecordingError: it is not there.
        """
        for path in (self._next, self._current):
            if path.exists():
                signer = Signer.parse(path.read_text())
                if str(signer.verifier) == vkey:
                    if path == self._next:
                        self.adopt()
                    return signer
        raise RecordingError(
            f"epoch key {self._current}: not the one that the log names last",
            hint="a log goes on only with it, and it is in no backup; begin a new log under "
            "another gateway name",
        )


def epoch_statement(origin: str, size: int, root: bytes, vkey: str) -> bytes:
    """Return what an epoch key signs to name the next one, `vkey`.

    `size` and `root` are those of the log just before the entry that holds the signature.
    """
    head = Checkpoint(origin, size, root).text()
    return f"agentaudit epoch key\n{head}{vkey}\n".encode()
