"""What somebody with the disk, and some of the keys, can do to an archive.

An attacker changes files of its own copy, and signs with the keys that it has. What it cannot sign
it leaves as it was: so each attack shows what its keys are good for, and no more.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from agentaudit.archive import canonical
from agentaudit.archive.drill.machine import (
    Change,
    Machine,
    rewrite_parquet,
    sealed_as_it_is,
    write_file,
    write_log,
)
from agentaudit.archive.drill.stage import Stage
from agentaudit.archive.journal import Entry, JournalReader, encode_frame
from agentaudit.archive.note import Signer


class Power(enum.StrEnum):
    """What an attacker has."""

    DISK = "the disk"
    LOG_KEY = "the disk and the log key"
    YESTERDAY = "the machine of yesterday, with its epoch key"
    TODAY = "the machine of today, with its epoch key"
    BOTH_DAYS = "the machine of today, and the epoch key of yesterday"


@dataclass(frozen=True, slots=True)
class Attacker:
    """Somebody with `power` over `machine`, a copy that nobody else uses."""

    machine: Machine
    stage: Stage
    power: Power

    @property
    def gateway(self) -> str:
        return self.stage.gateway

    @property
    def archive(self) -> Path:
        return self.machine.archive

    # --- reading

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of the log."""
        return self.machine.entries(self.gateway)

    def seals(self) -> list[dict[str, Any]]:
        """Return the seals: the archive's own segments, then yesterday's, then today's."""
        return [entry for entry in self.entries() if entry["type"] == "seal"]

    def table(self, seal: dict[str, Any], name: str) -> Path:
        """Return a sealed file."""
        path: str = seal["files"][name]["path"]
        return self.archive / path

    def journal(self) -> Path:
        """Return the journal of the open segment."""
        (segment,) = self.machine.layout.journal_segments(self.gateway)
        return self.machine.layout.journal(self.gateway, segment)

    def log_file(self, pattern: str) -> Path:
        """Return the last file of the log that matches `pattern`."""
        folder = self.machine.layout.log(self.gateway)
        files = [path for path in folder.glob(pattern) if path.is_file()]
        return max(files, key=lambda path: (path.stat().st_size, path.as_posix()))

    # --- with the disk

    def flip(self, path: Path, at: int | None = None) -> None:
        """Flip a bit of the byte `at`, which is the middle unless said."""
        data = bytearray(path.read_bytes())
        data[len(data) // 2 if at is None else at] ^= 0x04
        write_file(path, bytes(data))

    def rewrite(
        self, seal: dict[str, Any], name: str, change: Callable[[pa.Table], pa.Table]
    ) -> None:
        """Put `change` of a sealed table in its place."""
        rewrite_parquet(self.table(seal, name), change)

    def swap(self, one: Path, other: Path) -> None:
        """Exchange two files."""
        first, second = one.read_bytes(), other.read_bytes()
        write_file(one, second)
        write_file(other, first)

    def rewrite_journal(self, change: Callable[[list[Entry]], list[Entry]]) -> None:
        """Write the journal anew with `change` of its events, every checksum right."""
        path = self.journal()
        reader = JournalReader(path)
        marker = reader.header.marker
        frames = [
            encode_frame(
                marker,
                entry.fixed,
                entry.text,
                entry.payload,
                canonical.encode(entry.extra) if entry.extra else b"",
            )
            for entry in change(list(reader.read()))
        ]
        write_file(path, b"".join([reader.header.encode(), *frames]))

    def remove_gateway(self, gateway: str) -> None:
        """Remove all that a gateway has ever recorded, and rules that were in force only there."""
        layout, entries = self.machine.layout, self.machine.entries(gateway)
        used = {
            entry["sha256"]
            for name in layout.gateways()
            if name != gateway
            for entry in self.machine.entries(name)
            if entry["type"] == "policy"
        }
        for entry in entries:
            if entry["type"] == "policy" and entry["sha256"] not in used:
                layout.policy(entry["sha256"]).unlink(missing_ok=True)
            if entry["type"] == "seal":
                layout.head(UUID(entry["segment"])).unlink()
                for file in entry["files"].values():
                    (self.archive / file["path"]).unlink()
        for folder in (layout.log(gateway), layout.journals(gateway)):
            shutil.rmtree(folder, ignore_errors=True)

    def put_back(self, earlier: Machine) -> None:
        """Put the archive of an earlier time in the place of this one."""
        shutil.rmtree(self.archive)
        earlier.copy_to(self.machine.folder / "earlier")
        (self.machine.folder / "earlier" / "archive").rename(self.archive)

    # --- with keys

    def epoch_keys(self) -> list[Signer]:
        """Return the epoch keys that this attacker has."""
        keys = []
        if self.power in (Power.YESTERDAY, Power.BOTH_DAYS):
            keys.append(self.stage.yesterday.epoch_key(self.gateway))
        if self.power in (Power.TODAY, Power.BOTH_DAYS):
            keys.append(self.stage.live.epoch_key(self.gateway))
        return keys

    def sign(self, *changes: Change) -> None:
        """Write the log anew with its entries changed, signed with what there is to sign with."""
        assert self.power is not Power.DISK
        entries = self.entries()
        for change in changes:
            entries = change(entries)
        log_key = self.machine.log_key(self.gateway)
        write_log(self.machine, self.gateway, entries, log_key, self.epoch_keys())

    def sign_edit(
        self, seal: dict[str, Any], name: str, change: Callable[[pa.Table], pa.Table]
    ) -> None:
        """Change a sealed table, and sign a log whose seal has the digest of that."""
        self.rewrite(seal, name, change)
        self.sign(sealed_as_it_is(self.archive, self.table(seal, name)))

    def drop_segment(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Remove the last segment's files; return the entries without it and what came after."""
        segment = [entry for entry in entries if entry["type"] == "seal"][-1]
        self.machine.layout.head(UUID(segment["segment"])).unlink()
        for file in segment["files"].values():
            (self.archive / file["path"]).unlink()
        first = next(n for n, e in enumerate(entries) if e.get("segment") == segment["segment"])
        return entries[:first]


def with_values(
    name: str, change: Callable[[list[Any]], list[Any]]
) -> Callable[[pa.Table], pa.Table]:
    """Return what puts `change` of the values of column `name` in their place; ids are bytes."""

    def changed(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        field, column = table.schema.field(index), table.column(index).combine_chunks()
        if pa.types.is_dictionary(field.type):
            array = pa.array(change(column.cast(pa.string()).to_pylist()), pa.string())
            array = array.dictionary_encode().cast(field.type)
        elif field.type == pa.uuid():
            storage = pa.array(change(column.storage.to_pylist()), pa.binary(16))
            array = pa.ExtensionArray.from_storage(field.type, storage)
        elif pa.types.is_timestamp(field.type):
            array = pa.array(change(column.cast(pa.int64()).to_pylist()), field.type)
        else:
            array = pa.array(change(column.to_pylist()), field.type)
        return table.set_column(index, field, array)

    return changed


def without_row(row: int) -> Callable[[pa.Table], pa.Table]:
    """Return what removes one row."""
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
