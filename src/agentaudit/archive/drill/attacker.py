"""What somebody with the disk, and some of the keys, can do to an archive.

An attacker changes files of its own copy, and signs with the keys that it has. What it cannot sign
it leaves as it was: so each attack shows what its keys are good for, and no more.
"""

from __future__ import annotations

import enum
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

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
from agentaudit.archive.ids import uuid7
from agentaudit.archive.journal import Entry, Header, JournalReader, encode_frame
from agentaudit.archive.keys import People
from agentaudit.archive.note import Signer
from agentaudit.archive.purge import Purger, Sessions, Steps, list_document, take
from agentaudit.archive.retention import Sealed, Standing, standing
from agentaudit.archive.rewrite import Cut, count_rows, rewrite


class Power(enum.StrEnum):
    """What an attacker has."""

    DISK = "the disk"
    LOG_KEY = "the disk and the log key"
    YESTERDAY = "the machine of yesterday, with its epoch key"
    TODAY = "the machine of today, with its epoch key"
    BOTH_DAYS = "the machine of today, and the epoch key of yesterday"


@dataclass(frozen=True, slots=True)
class Attacker:
    """Somebody with `power` over `machine`, a copy that nobody else uses, who attacks `gateway`."""

    machine: Machine
    stage: Stage
    power: Power
    gateway: str

    @property
    def archive(self) -> Path:
        return self.machine.archive

    # --- reading

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of the log."""
        return self.machine.entries(self.gateway)

    def seals(self) -> list[dict[str, Any]]:
        """Return the seals: of the archive's own segments, then yesterday's, then today's.

        Each has the files that purges have left of it; what has gone whole is left out.
        """
        entries = self.entries()
        left = standing(entries).segments
        return [
            entry | {"files": left[entry["segment"]].files}
            for entry in entries
            if entry["type"] == "seal" and not left[entry["segment"]].is_gone
        ]

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

    def rewrite_journal(
        self,
        change: Callable[[list[Entry]], list[Entry]],
        header: Callable[[Header], Header] = lambda header: header,
    ) -> None:
        """Write the journal anew with `change` of its events, every checksum right."""
        path = self.journal()
        reader = JournalReader(path)
        write_file(path, _journal(header(reader.header), change(list(reader.read()))))

    def plant_journal(self, source: Machine, *, first_event_no: int) -> None:
        """Put the open segment of `source` here, as another one that begins at that event."""
        layout = source.layout
        (segment,) = layout.journal_segments(self.gateway)
        reader = JournalReader(layout.journal(self.gateway, segment))
        entries = list(reader.read())
        for number, entry in enumerate(entries, first_event_no):
            entry.event_no = number
        other = uuid7(time.time_ns() // 1000)
        header = replace(reader.header, segment=other, first_event_no=first_event_no)
        write_file(self.machine.layout.journal(self.gateway, other), _journal(header, entries))

    def remove_gateway(self, gateway: str) -> None:
        """Remove all that a gateway has ever recorded, and what was in force or purged only there.

        Whoever leaves a file of it is found out: it is a stray without that gateway's log.
        """
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
                segment = UUID(entry["segment"])
                layout.head(segment).unlink()
                for file in entry["files"].values():
                    (self.archive / file["path"]).unlink(missing_ok=True)
                shutil.rmtree(layout.residue(segment, 0).parent, ignore_errors=True)
            if entry["type"] == "purge_intent":
                layout.purge(entry["purge"]).unlink()
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
            keys.append(self.machine.epoch_key(self.gateway))
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

    def purge(
        self,
        steps: Callable[[Purger], Steps],
        *,
        lie: Callable[[Standing], None] = lambda standing: None,
        change: Change = lambda told: told,
        at_us: int = 0,
    ) -> None:
        """Purge with the gateway's own code, which is told a lie about what stands in the log.

        `change` is made of the entries that come of it, before they are appended and signed; they
        are of now, or of `at_us`.
        """
        layout, told = self.machine.layout, list[dict[str, Any]]()
        stands, seals = self._standing()
        lie(stands)
        for remains in stands.segments.values():
            remains.retained_us = 0  # only for the sake of the disk does it wait a day

        def append(entry: dict[str, Any]) -> None:
            told.append({"at": at_us or time.time_ns() // 1000, **entry})
            take(layout, stands, told[-1])

        people = People(self.machine.place(self.gateway))
        purger = Purger(layout, self.gateway, stands, seals, append, lambda: people)
        for _ in steps(purger):
            pass
        self.sign(lambda entries: [*entries, *change(told)])

    def erase_unasked(self, session_id: UUID, decision: int) -> None:
        """Erase a session of the first segment piece by piece, where the gateway's code would not.

        `decision` is the number of the event that decides it.
        """
        layout, (stands, seals) = self.machine.layout, self._standing()
        seal = self.seals()[0]
        segment, sessions = seal["segment"], self.table(seal, "sessions")
        cut = Cut("sessions", frozenset([session_id.bytes]))
        part = {
            "segment": segment,
            "rows": count_rows(self.table(seal, "events"), cut),
            "whole": False,
        }
        people = People(self.machine.place(self.gateway))
        (row,) = (r for r in pq.read_table(sessions).to_pylist() if r["session_id"] == session_id)
        told = Sealed(
            session_id=session_id,
            user=people.hmac(row["user"]),
            target=row["target"],
            opened_us=_us(row["opened_at"]),
            closed_us=_us(row["closed_at"]),
            segments=(segment,),
        )
        tables = Sessions(layout, self.gateway, seals, stands, people)
        now_us = time.time_ns() // 1000
        purge = str(uuid7(now_us))
        document = list_document(purge, "sessions", tables.proven([told]), [part])
        write_file(layout.purge(purge), document)
        intent = {
            "type": "purge_intent",
            "at": now_us,
            "purge": purge,
            "what": "sessions",
            "basis": "decision",
            "policy": stands.policy,
            "decision": decision,
            "list": sha256(document).hexdigest(),
            "sessions": 1,
            "segments": 1,
        }
        done = _run(rewrite(layout, self.gateway, seal, stands.segments[segment], cut))
        done |= {"type": "purge_done", "at": now_us, "purge": purge, "segment": segment}
        self.sign(lambda entries: [*entries, intent, done])

    def _standing(self) -> tuple[Standing, dict[str, dict[str, Any]]]:
        """Return what stands at the end of the log, and its seals by segment."""
        stands, seals = Standing(), {}
        for entry in self.entries():
            take(self.machine.layout, stands, entry)
            if entry["type"] == "seal":
                seals[entry["segment"]] = entry
        return stands, seals

    def user(self, name: str) -> dict[str, str]:
        """Return the selector of a user's sessions."""
        return {"user": People(self.machine.place(self.gateway)).hmac(name)}

    def drop_segment(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Remove the last segment's files; return the entries without it and what came after."""
        segment = [entry for entry in entries if entry["type"] == "seal"][-1]
        self.machine.layout.head(UUID(segment["segment"])).unlink()
        for file in segment["files"].values():
            (self.archive / file["path"]).unlink()
        first = next(n for n, e in enumerate(entries) if e.get("segment") == segment["segment"])
        return entries[:first]


def _us(moment: datetime) -> int:
    """Return microseconds since 1970, exactly."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _run(steps: Generator[None, None, dict[str, Any]]) -> dict[str, Any]:
    """Take all steps, and return what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: dict[str, Any] = end.value
            return result


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


def _journal(header: Header, entries: Sequence[Entry]) -> bytes:
    frames = [
        encode_frame(
            header.marker,
            entry.fixed,
            entry.text,
            entry.payload,
            canonical.encode(entry.extra) if entry.extra else b"",
        )
        for entry in entries
    ]
    return b"".join([header.encode(), *frames])
