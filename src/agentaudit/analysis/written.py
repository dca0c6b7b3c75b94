"""Files that are handed out: new ones alone, readable by their owner."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agentaudit.errors import QuestionError

_HINT = "it is never written over: name another file"


def write_new(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file that is not there yet, readable by its owner alone.

    Raises:
        QuestionError: it is there, or cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise QuestionError(f"{path}: is there already", hint=_HINT) from None
    except OSError as error:
        raise QuestionError(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines(parts)
    except BaseException as error:
        path.unlink(missing_ok=True)  # half of it is none
        if isinstance(error, OSError):
            raise QuestionError(f"{path}: {error.strerror}") from None
        raise


def require_new(path: Path) -> None:
    """Return if a file can be made at `path`, so that nobody waits for it in vain.

    Raises:
        QuestionError: something is there already, or its folder is not.
    """
    if path.exists() or path.is_symlink():
        raise QuestionError(f"{path}: is there already", hint=_HINT)
    if not path.absolute().parent.is_dir():
        raise QuestionError(f"{path}: no such folder")
