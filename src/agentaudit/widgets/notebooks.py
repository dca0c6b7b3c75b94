"""The project's notebooks, and working copies of them beside an archive.

A working copy is the investigator's: it is written once and never again. Its first code cell,
which carries the tag `parameters`, is made to name the archive, so that it opens years later
without an environment variable. The key that may lie beside an archive it never names: that came
with it, and would vouch for whoever wrote it last.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final
from uuid import UUID

import agentaudit
from agentaudit.errors import QuestionError

FIRST_INVESTIGATION: Final = "01-first-investigation.ipynb"
INVESTIGATION: Final = "investigation.ipynb"
"""What is copied for each new investigation; it tells no story of its own."""

MAX_COPIES: Final = 100

_NO_KEY: Final = "  # from whoever runs the gateway: a key, or a file that holds it"


def find_notebook(name: str) -> Path | None:
    """Return the path of one of the project's notebooks, or None where none are installed.

    A wheel carries them inside the package; a checkout has them beside `src`.
    """
    package = Path(agentaudit.__file__).resolve().parent
    for folder in (package / "notebooks", package.parents[1] / "notebooks"):
        if (folder / name).is_file():
            return folder / name
    return None


def find_key(archive: Path) -> Path | None:
    """Return the verifier key that lies beside `archive`, or None where there is not just one.

    It is what the archive's maker left there: something to compare with the key that the operator
    gives out, and never one to check the archive with.
    """
    named = archive.with_name(f"{archive.name}.vkey")
    if named.is_file():
        return named
    keys = sorted((archive.parent / "keys").glob("*.vkey"))
    return keys[0] if len(keys) == 1 else None


def place_notebook(archive: Path, name: str = FIRST_INVESTIGATION) -> Path:
    """Return a copy of a notebook beside `archive`, written now if there is none yet.

    Raises:
        QuestionError: no such notebook is installed, or the folder cannot be written.
    """
    copy = archive.parent / name
    if copy.exists():
        return copy
    original = find_notebook(name)
    if original is None:
        raise QuestionError(
            f"notebook {name}: not part of this installation",
            hint="it is in the folder notebooks of the source",
        )
    document = json.loads(original.read_text("utf-8"))
    for cell in document["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            cell["source"] = [f"archive = {archive.name!r}\n", f"key = None{_NO_KEY}"]
    try:
        with copy.open("x", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
    except OSError as error:
        raise QuestionError(
            f"{copy}: {error.strerror}", hint="copy the archive to a folder of yours"
        ) from None
    return copy


def write_investigation(
    archive: Path,
    folder: Path,
    *,
    session: UUID | None = None,
    command: int | None = None,
    key: Path | None = None,
) -> Path:
    """Write a new notebook into `folder` that investigates a session, or the newest one.

    Its parameters name the archive, a file with a verifier key that came from outside it, the
    session, and the command to begin at. Paths are relative to `folder` where the archive lies
    below what holds it, so that both can be moved together.

    Raises:
        QuestionError: the template is not installed, or the folder cannot be written.
    """
    original = find_notebook(INVESTIGATION)
    if original is None:
        raise QuestionError(f"notebook {INVESTIGATION}: not part of this installation")
    document = json.loads(original.read_text("utf-8"))
    lines = [
        f"archive = {_as_seen_from(folder, archive)!r}",
        f"key = None{_NO_KEY}" if key is None else f"key = {_as_seen_from(folder, key)!r}",
        f"session = {None if session is None else str(session)!r}",
        f"command = {command!r}",
    ]
    for cell in document["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            cell["source"] = "\n".join(lines).splitlines(keepends=True)
    what = archive.name if session is None else str(session)[:13]
    for number in range(1, MAX_COPIES + 1):
        suffix = "" if number == 1 else f"-{number}"
        written = folder / f"investigation-{what}{suffix}.ipynb"
        try:
            with written.open("x", encoding="utf-8") as file:
                json.dump(document, file, indent=1, ensure_ascii=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise QuestionError(f"{written.name}: {error.strerror}") from None
        return written
    raise QuestionError(f"there are {MAX_COPIES} notebooks of this name already")


def _as_seen_from(folder: Path, path: Path) -> str:
    """Return `path` relative to `folder` where no more than three folders up are needed."""
    seen = os.path.relpath(path, folder)
    return str(path) if Path(seen).parts[:4] == (os.pardir,) * 4 else seen
