"""Rows of commands that no gateway recorded: many that are alike, some that are odd; and what they
mean, in plain Python, for answers to be held against.

They lie in files like those of sealed segments, but for the last, which are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.analysis.explore import Filter
from agentaudit.analysis.explore.look import Look
from agentaudit.archive.segment import SCHEMAS, table_of
from agentaudit.archive.snapshot import Snapshot

BEGAN_US = 1_793_700_000_000_000  # 2026-11-03 10:00:00 UTC
HOUR_US = 3_600_000_000
Row = dict[str, Any]

GRAVITY = ("schema", "admin", "write", "unknown", "read", "session", "")
STATUS = ("ok", "error", "denied", "cancelled", "incomplete", "")
DECISION = ("allow", "deny", "hold", "")
ODD = (
    "",
    "it's",
    '"quoted"',
    'a"""b',
    "back\\slash\\",
    "\u202egnp.exe",
    "\x1b[31m",
    "new\nline",
    "Zoë ÉCOLE",
    "漢字",
    "100%_",
    "a\x00b",
    "<img src=x onerror=alert(1)>",
    "x" * 900,
    "' OR '1'='1",
    "$1 {0} %s",
    "'",
)


@dataclass
class MadeLook(Look):
    """Files and live rows that a test can add to, in the place of an archive."""

    archive: Path
    files: list[Path] = field(default_factory=list)
    live: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)

    def stamp(self) -> object:
        return (tuple(self.files), len(self.live))

    def snapshot(self) -> Snapshot:
        files: dict[str, list[Path]] = {name: [] for name in SCHEMAS}
        files["commands"] = list(self.files)
        live = {name: schema.empty_table() for name, schema in SCHEMAS.items()}
        live["commands"] = table_of("commands", self.live)
        live["sessions"] = table_of("sessions", self.sessions)
        return Snapshot(self.archive, files, live, {}, [], [])

    def gateways(self) -> list[dict[str, Any]]:
        return [{"name": "gw1", "clock": "system"}]

    def seal(self, rows: Sequence[Row]) -> None:
        """Add a file with these rows."""
        path = self.archive / f"{len(self.files)}.parquet"
        pq.write_table(table_of("commands", rows), path)
        self.files.append(path)


class Rows(list[Row]):
    """Many rows, which Hypothesis need not print whole."""

    def __repr__(self) -> str:
        return f"{len(self)} rows"


def plain(count: int, seed: int) -> list[Row]:
    """Return `count` commands of six sessions in ten hours that are much alike."""
    random = Random(seed)
    rows = []
    numbers = dict.fromkeys(range(6), 0)
    for _ in range(count):
        session = random.randrange(6)
        kind = random.choice(("SELECT", "SELECT", "SELECT", "UPDATE", "DROP TABLE"))
        is_bad = random.random() < 0.002
        rows.append(
            row(
                session=session,
                command_no=numbers[session],
                t=BEGAN_US + random.randrange(10 * HOUR_US),
                user=f"user-{session % 3}",
                agent=f"agent-{session % 2}",
                target="orders",
                operation=kind,
                cls={"SELECT": "read", "UPDATE": "write"}.get(kind, "schema"),
                text=f"{kind} x WHERE id = {random.randrange(300)}",
                resources=["public.orders"] if session % 2 else ["Customers", "public.orders"],
                risk=["drops"] if kind == "DROP TABLE" else [],
                status="denied" if is_bad else "ok",
                decision="deny" if is_bad else "allow",
                rows_returned=random.choice((0, 1, 5)),
            )
        )
        numbers[session] += 1
    return rows


def odd(count: int, seed: int) -> list[Row]:
    """Return `count` commands with whatever may stand in a file, nulls included."""
    random = Random(seed)

    def pick(*words: Any) -> Any:
        return random.choice((*words, None))

    rows = []
    for number in range(count):
        session = 100 + random.randrange(8)
        rows.append(
            row(
                session=session,
                command_no=number,
                t=BEGAN_US + random.choice((0, 0, 1, HOUR_US, random.randrange(1_000 * HOUR_US))),
                user=pick("user-1", *ODD),
                agent=pick("agent-1", *ODD),
                target=pick("orders", *ODD),
                protocol=pick("postgres", "ssh", "?"),
                operation=pick("SELECT", "select", "COPY", "", "é"),
                cls=pick(*GRAVITY, "other"),
                status=pick(*STATUS, "other"),
                decision=pick(*DECISION, "other"),
                rule=pick("none", "careful"),
                text=pick(*ODD) if random.random() < 0.5 else f"select {random.choice(ODD)} X",
                resources=random.sample((*ODD, "Orders", "public.ORDERS", "b.public.orders"), 3),
                risk=random.sample(("drops", "no where", *ODD), 2),
                masked=pick(0, 1, 7),
                duration_us=pick(0, 5, 10**9),
                rows_returned=pick(0, 999, 1_000),
                rows_affected=pick(0, 999, 1_000, 10**12),
                bytes_out=pick(0, 1 << 20, (1 << 20) - 1),
            )
        )
    return rows


def row(*, session: int, t: int, cls: str | None, user: str | None = "user-0", **given: Any) -> Row:
    """Return a row of `commands`, with the columns that are not given as they mostly are."""
    started = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=t)
    usual = {
        "gateway": "gw1",
        "protocol": "postgres",
        "operation": "SELECT",
        "status": "ok",
        "decision": "allow",
        "rule": "none",
        "masked": 0,
        "duration_us": 1_500,
        "bytes_in": 40,
        "bytes_out": 200,
        "rows_returned": 1,
        "rows_affected": None,
        "resources": [],
        "risk": [],
        "text": "",
    }
    return {
        **usual,
        **given,
        "session_id": str(identity(session)),
        "user": user,
        "class": cls,
        "started_at": started,
        "t": t,
    }


def identity(session: int) -> UUID:
    return UUID(int=(0x0199_AAAA << 96) | session)


# --- what they mean -------------------------------------------------------------------------------


def flags(row: Row) -> set[str]:
    found = set()
    if row["status"] == "error":
        found.add("error")
    if row["decision"] == "hold":
        found.add("held")
    if row["decision"] == "deny" or row["status"] == "denied":
        found.add("denied")
    if (row["masked"] or 0) > 0:
        found.add("masked")
    large = (row["rows_returned"] or 0) >= 1_000 or (row["rows_affected"] or 0) >= 1_000
    if large or (row["bytes_out"] or 0) >= 1 << 20:
        found.add("large")
    return found


def bits(row: Row) -> int:
    order = ("error", "held", "denied", "masked", "large")
    return sum(1 << order.index(flag) for flag in flags(row))


def severity(row: Row) -> int:
    found = flags(row)
    if found & {"denied", "held"}:
        return 3
    if row["status"] in ("error", "cancelled") or row["class"] in ("schema", "admin"):
        return 2
    if "large" in found:
        return 2
    return 1 if row["class"] in ("write", "unknown") or "masked" in found else 0


def class_code(row: Row) -> int:
    return GRAVITY.index(row["class"]) if row["class"] in GRAVITY else 6


def matches(row: Row, asked: Filter) -> bool:
    """Whether the filter means this row, said once more."""
    for facet in ("user", "agent", "target", "protocol", "operation"):
        if getattr(asked, facet) and (row[facet] or "") not in getattr(asked, facet):
            return False
    for facet in ("status", "decision"):
        if getattr(asked, facet) and row[facet] not in getattr(asked, facet):
            return False
    if asked.session and row["session_id"] not in asked.session:
        return False
    if asked.cls and row["class"] not in asked.cls:
        return False
    if asked.risk and not set(asked.risk) & set(row["risk"]):
        return False
    if asked.table and not any(
        name.lower() == wanted.lower() or name.lower().endswith("." + wanted.lower())
        for name in row["resources"]
        for wanted in asked.table
    ):
        return False
    if asked.flags and not flags(row) & set(asked.flags):
        return False
    if asked.since is not None and row["t"] < asked.since:
        return False
    if asked.until is not None and row["t"] >= asked.until:
        return False
    return asked.text.lower() in (row["text"] or "").lower()


def table(buffer: bytes) -> list[Row]:
    """Return the rows of an Arrow stream."""
    rows: list[Row] = pa.ipc.open_stream(buffer).read_all().to_pylist()
    return rows
