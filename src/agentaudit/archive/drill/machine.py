"""A machine as somebody could take it: an archive, and the keys of the gateways that write it.

Copies of one share every file that nobody changes in place, so that a drill of a hundred attacks
does not need a hundred times the disk: whoever changes a file puts another in its place.
"""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive.keys import EPOCH_NAME, Place, epoch_statement
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import LogWriter, read_log
from agentaudit.archive.note import Checkpoint, CosigningKey, Signer, open_note, sign_note
from agentaudit.errors import ArchiveError

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Takes a log's entries, and returns those that shall stand in their place."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder with an archive, and the keys of its gateways beside it."""

    folder: Path
    origin: str

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def layout(self) -> Layout:
        return Layout(self.archive)

    def place(self, gateway: str) -> Place:
        """Return where `gateway` records."""
        return Place(archive=self.archive, gateway=gateway, origin=self.origin, keys=self.keys)

    def log_key(self, gateway: str) -> Signer:
        """Return the private log key."""
        return Signer.parse((self.keys / f"{gateway}.key").read_text())

    def epoch_key(self, gateway: str) -> Signer:
        """Return the private epoch key of the day on which the machine was taken."""
        return Signer.parse((self.keys / f"{gateway}.epoch").read_text())

    def verifier_keys(self, gateway: str) -> list[str]:
        """Return what auditors were given of `gateway`: the log's key, and its first epoch's."""
        return (self.keys / f"{gateway}.vkey").read_text().split()

    def checkpoint(self, gateway: str) -> str:
        """Return the log's checkpoint, a signed note."""
        return self.layout.checkpoint(gateway).read_text()

    def cosigned(self, gateway: str, witness: CosigningKey) -> bytes:
        """Return the log's checkpoint with the cosignature of `witness`, of now."""
        note = self.checkpoint(gateway)
        text = note.partition("\n\n")[0] + "\n"
        return (note + witness.cosign(text, int(time.time()))).encode()

    def entries(self, gateway: str) -> list[dict[str, Any]]:
        """Return the entries of a log, oldest first."""
        return list(read_log(self.layout.log(gateway), []).entries())

    def copy_to(self, folder: Path) -> Machine:
        """Return a copy in `folder`, which is not there yet.

        Journals, which grow in place, are copied; a gateway's lock and reserve are left out.
        """
        for parent, folders, files in os.walk(self.folder):
            target = folder / Path(parent).relative_to(self.folder)
            target.mkdir(parents=True)
            folders[:] = [name for name in folders if not (Path(parent) / name).is_symlink()]
            for name in files:
                path = Path(parent, name)
                if name in ("lock", "reserve") or name.endswith(".tmp"):
                    continue
                if path.suffix == ".journal":
                    shutil.copyfile(path, target / name)
                else:
                    # What is replaced meanwhile is linked whole, as it was or as it is.
                    os.link(path, target / name)
        return Machine(folder, self.origin)


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` as a file of its own: other copies keep what they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def rewrite_parquet(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put `change` of the table at `path` in its place."""
    table = change(pq.ParquetFile(path).read())
    path.unlink()
    pq.write_table(table, path, compression="zstd")


def sealed_as_it_is(archive: Path, path: Path) -> Change:
    """Return what gives the last entry that names the Parquet file `path` the digest it has now."""
    relative = path.relative_to(archive).as_posix()

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        data = path.read_bytes()
        for entry in reversed(entries):
            for file in entry.get("files", {}).values():
                if file["path"] == relative:
                    file["sha256"] = sha256(data).hexdigest()
                    file["bytes"] = len(data)
                    file["rows"] = pq.read_metadata(path).num_rows
                    return entries
        return entries

    return change


def fresh_log(folder: Path, origin: str, signers: Sequence[Signer], memory: Path) -> LogWriter:
    """Remove the log in `folder`, and what its gateway remembers of it; return one to write.

    `signers` sign its checkpoints, the log key's first.
    """
    shutil.rmtree(folder / "tile", ignore_errors=True)
    (folder / "checkpoint").unlink(missing_ok=True)
    memory.unlink(missing_ok=True)
    writer = LogWriter(folder, origin, signers[0], memory)
    writer.signers = list(signers)
    return writer


def write_log(
    machine: Machine,
    gateway: str,
    entries: Iterable[dict[str, Any]],
    log_key: Signer,
    epoch_keys: Sequence[Signer],
) -> None:
    """Write a log anew with `entries`, signed with `log_key` and those of `epoch_keys` that fit.

    Whatever these keys can sign is signed again where it is not right any more: heads, the
    statement of each epoch key about the next, the checkpoint. What they cannot sign stays as it
    was, or goes without.
    """
    layout, origin = machine.layout, log_key.verifier.name
    held = {str(key.verifier): key for key in epoch_keys}
    memory = machine.keys / f"{gateway}.checkpoint"
    writer = fresh_log(layout.log(gateway), origin, [log_key], memory)
    epoch: Signer | None = None
    pending: list[dict[str, Any]] = []
    for entry in entries:
        if entry["type"] == "genesis":
            epoch = held.get(entry["epoch_key"])
        elif entry["type"] == "key_epoch":
            if pending:
                writer.append(pending)
                pending = []
            if epoch is not None:
                statement = epoch_statement(origin, writer.size, writer.root, entry["key"])
                signature = base64.b64encode(epoch.sign(statement)).decode()
                entry = entry | {"signature": signature}
            epoch = held.get(entry["key"])
        elif entry["type"] == "seal":
            signers = [log_key] if epoch is None else [log_key, epoch]
            entry = entry | {"head": _head(origin, entry, signers)}
            write_file(layout.head(UUID(entry["segment"])), entry["head"].encode())
        pending.append(entry)
        writer.signers = [log_key] if epoch is None else [log_key, epoch]
    writer.append(pending)


def _head(origin: str, seal: dict[str, Any], signers: Sequence[Signer]) -> str:
    """Return the seal's head, signed again by `signers` where it does not say what the seal says.

    An old head that still fits is kept: it may have a signature that nobody can make any more.
    """
    root = bytes.fromhex(seal["root"])
    text = Checkpoint(f"{origin}/seg/{seal['segment']}", seal["n"], root).text()
    verifiers = [signer.verifier for signer in signers]
    head: str = seal["head"]
    try:
        opened = open_note(head.encode(), verifiers)
        if opened.text == text and len(opened.signed_by) == len(verifiers):
            return head
    except ArchiveError:
        pass
    return sign_note(text, signers).decode()


def epoch_name(origin: str, gateway: str) -> str:
    """Return the name of the epoch keys of `gateway`'s log."""
    return f"{origin}/{gateway}/{EPOCH_NAME}"
