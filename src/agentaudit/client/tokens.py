"""The tokens that `login` got: one file of the user's, which nobody else may read.

One is kept for each issuer and audience, the last one. A token that was got for one control API
(`control`) is never given to another: whoever talks a user into asking a wrong address would have
it, and what it opens.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from agentaudit.archive import canonical
from agentaudit.archive.files import PRIVATE_MODE, locked, make_folder, replace
from agentaudit.archive.known import state_folder
from agentaudit.errors import QuestionError, SettingsError

SPARE_S: Final = 10
"""A token that ends within this is as good as over: it has a way to go yet."""

_MAX_TOKEN_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A token; times are seconds since 1970, and `expires_at` is 0 where nobody has said."""

    issuer: str
    audience: str
    client_id: str
    token: str = field(repr=False)
    got_at: int
    expires_at: int = 0
    user: str = ""
    login_at: int = 0
    control: str = ""

    def is_over(self, now: float) -> bool:
        return 0 < self.expires_at < now + SPARE_S


def file() -> Path:
    """Return where they are kept."""
    return state_folder() / "tokens.json"


def keep(token: Kept) -> Path:
    """Keep `token` in place of the last one of its issuer and audience; return the file.

    Those that are over go.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    path = file()
    try:
        make_folder(path.parent)
        with locked(path):
            now = time.time()
            place = (token.issuer, token.audience)
            others = [
                one
                for one in _load(path)
                if (one.issuer, one.audience) != place and not one.is_over(now)
            ]
            rows = [asdict(one) for one in (*others, token)]
            replace(path, canonical.encode(rows), mode=PRIVATE_MODE)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    return path


def newest(*, control: str, audience: str | None = None) -> Kept | None:
    """Return the last token that `control` may see, of `audience` where given; or None.

    Raises:
        SettingsError: the file cannot be read, or others can read it.
    """
    now = time.time()
    fitting = [
        one
        for one in _load(file())
        if not one.is_over(now)
        and one.control in ("", control)
        and audience in (None, one.audience)
    ]
    return max(fitting, key=lambda one: one.got_at, default=None)


def given(token_file: Path | None, *, control: str, audience: str | None = None) -> str:
    """Return what proves to the API `control` who asks: of the file, where one is given.

    Otherwise of the environment, AGENTAUDIT_TOKEN, and then what `login` has kept.

    Raises:
        QuestionError: there is none that is good now, or the file cannot be read.
        SettingsError: what is kept cannot be read.
    """
    if token_file is not None:
        where, found = str(token_file), _read(token_file)
    elif named := os.environ.get("AGENTAUDIT_TOKEN"):
        where, found = "AGENTAUDIT_TOKEN", named
    else:
        kept = newest(control=control, audience=audience)
        where, found = str(file()), "" if kept is None else kept.token
    found = found.strip()
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise QuestionError(
            f"{where}: no token that is good now",
            hint="agentaudit login gets one; or give --token-file, or set AGENTAUDIT_TOKEN",
        )
    return found


def _read(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return opened.read(_MAX_TOKEN_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise QuestionError(f"{path}: {error.strerror}") from None


def _load(path: Path) -> list[Kept]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as opened:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            data = opened.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    if mode & 0o077:
        raise SettingsError(
            f"{path}: mode {mode:04o}, others may have read it",
            hint="end those tokens at the provider, and delete the file",
        )
    try:
        rows: Any = canonical.decode(data)
        return [Kept(**row) for row in rows]
    except (ValueError, TypeError):
        raise SettingsError(f"{path}: damaged", hint="delete it and log in again") from None
