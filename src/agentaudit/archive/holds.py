"""The legal holds that stand in an archive, each with who set it and why.

The log says that a hold stands and what it selects; who ordered it, on whose authority and why is
in an event of the control session, because a log is kept for ever and read by everybody.

Format: docs/formats/archive.md, "Retention"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive import canonical
from agentaudit.archive.layout import Layout, segment_path
from agentaudit.archive.log import read_log
from agentaudit.archive.retention import Standing
from agentaudit.archive.snapshot import check_format, open_archive


@dataclass(frozen=True, slots=True)
class StandingHold:
    """A legal hold in force; `user` in `selector` is an HMAC.

    `actor`, `authority` and `reason` are empty where the event cannot be read: in a live journal
    that is the gateway's own, or in an archive that was damaged.
    """

    gateway: str
    hold: str
    set_at_us: int
    selector: Mapping[str, Any]
    actor: str
    authority: str
    reason: str


def legal_holds(layout: Layout) -> list[StandingHold]:
    """Return the legal holds in force, gateway by gateway, in the order in which they were set.

    Raises:
        ArchiveError: there is no archive of this format, or a log cannot be read.
    """
    check_format(layout)
    found = []
    for gateway in layout.gateways():
        standing = Standing()
        set_at: dict[str, int] = {}
        seals: list[Mapping[str, Any]] = []
        for entry in read_log(layout.log(gateway), []).entries():
            standing.take(entry)
            if entry["type"] == "legal_hold_set":
                set_at[entry["hold"]] = entry["at"]
            elif entry["type"] == "seal":
                seals.append(entry)
        live: pa.Table | None = None
        for hold in standing.holds.values():
            row = _sealed_event(layout, gateway, seals, hold.event)
            if row is None:
                live = open_archive(layout.root).live["events"] if live is None else live
                row = _live_event(live, gateway, hold.event)
            said = _said(row)
            found.append(StandingHold(gateway, hold.hold, set_at[hold.hold], hold.selector, *said))
    return found


def _sealed_event(
    layout: Layout, gateway: str, seals: list[Mapping[str, Any]], event_no: int
) -> Mapping[str, Any] | None:
    for seal in seals:
        if seal["first_event"] <= event_no < seal["first_event"] + seal["n"]:
            relative = segment_path("events", gateway, seal["first_at"], UUID(seal["segment"]))
            try:
                rows = pq.read_table(
                    layout.root / relative,
                    columns=["kind", "payload"],
                    filters=[("event_no", "=", event_no)],
                ).to_pylist()
            except (OSError, pa.ArrowException):
                return {}
            return rows[0] if rows else {}
    return None


def _live_event(events: pa.Table, gateway: str, event_no: int) -> Mapping[str, Any]:
    for row in events.select(["gateway", "event_no", "kind", "payload"]).to_pylist():
        if (row["gateway"], row["event_no"]) == (gateway, event_no):
            return dict(row)
    return {}


def _said(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return actor, authority and reason of the event that set a hold."""
    try:
        members = canonical.decode(row["payload"]) if row["kind"] == "legal_hold" else {}
        actor, authority, reason = (
            members.get(name, "") for name in ("actor", "authority", "reason")
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", "", ""
    return str(actor), str(authority), str(reason)
