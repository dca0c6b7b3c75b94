"""Archives for tests of questions: sessions whose commands say what became of them.

A `Script` of `recording` plays PostgreSQL's messages; where a test is about what rows say, it says
them here, and the statement is classified as a gateway would. The clock moves only as told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from agentaudit.archive import canonical
from agentaudit.archive.recorder import Recorder, SessionRecorder
from agentaudit.model import Command, Event, Flag, Kind, SessionFacts, Side, Span
from agentaudit.risk.sql import classify
from tests.analysis.recording import Recorded, ScriptedClock, start_recorder

SECOND_US = 1_000_000


@dataclass
class Did:
    """One command: `fields` are those of `model.Command`, where they are not what the text says."""

    text: str
    fields: dict[str, Any]
    wait_us: int = SECOND_US
    took_us: int = 1_000
    spans: tuple[Span, ...] = ()
    answer: tuple[Event, ...] = ()
    decided: Mapping[str, Any] = field(default_factory=dict)
    waited_us: int = 0
    never_ended: bool = False


def did(
    text: str,
    *,
    wait_us: int = SECOND_US,
    took_us: int = 1_000,
    spans: tuple[Span, ...] = (),
    answer: tuple[Event, ...] = (),
    decided: Mapping[str, Any] | None = None,
    waited_us: int = 0,
    never_ended: bool = False,
    **fields: Any,
) -> Did:
    """Return a command that succeeded, unless `fields` say otherwise."""
    return Did(text, fields, wait_us, took_us, spans, answer, decided or {}, waited_us, never_ended)


@dataclass
class Acted:
    """One session, or one that was `refused`."""

    did: Sequence[Did] = ()
    user: str = "ana"
    agent: str = "bot"
    target: str = "orders"
    reason: str | None = "client"
    client_addr: str = "192.0.2.7:50123"
    client_app: str = "psql"
    refused: str = ""
    policy: str = "0" * 64


def act(recorder: Recorder, clock: ScriptedClock, acted: Acted, **options: Any) -> SessionRecorder:
    """Record one session; return its recorder, closed where it has a reason to be."""
    session = recorder.open_session(
        SessionFacts(
            protocol="postgres",
            target=acted.target,
            user=acted.user,
            agent=acted.agent,
            client_addr=acted.client_addr,
            client_app=acted.client_app,
            policy_digest=acted.policy,
        ),
        **options,
    )
    if acted.refused:
        session.record(
            Event(kind=Kind.REFUSED, side=Side.CLIENT, text=acted.refused, flags=Flag.SYNTHETIC)
        )
        session.close("refused")
        return session
    transaction = 0
    is_open = False
    for number, one in enumerate(acted.did):
        clock.us += one.wait_us
        judged = classify(one.text)
        transaction += not is_open
        is_open = (is_open or judged.operation == "BEGIN") and judged.operation not in (
            "COMMIT",
            "ROLLBACK",
        )
        facts: dict[str, Any] = {
            "operation": judged.operation,
            "cls": judged.cls,
            "resources": judged.resources,
            "risk": judged.risk,
            "fingerprint": judged.fingerprint,
            "status": "incomplete" if one.never_ended else "ok",
            "txn_no": transaction,
            "txn_status": "T" if is_open else "I",
        }
        command = Command(command_no=number, text=one.text, **(facts | one.fields))
        session.begin(command)
        session.record(
            Event(
                kind=Kind.REQUEST,
                side=Side.CLIENT,
                command_no=number,
                text=one.text,
                orig_len=len(one.text),
                spans=one.spans,
                flags=Flag.MASKED if one.spans else Flag.NONE,
            )
        )
        if one.decided:
            _decide(session, clock, command, one)
        for event in one.answer:
            event.command_no = number
            session.record(event)
        clock.us += one.took_us
        if not one.never_ended:
            session.end(command)
    clock.us += SECOND_US
    if acted.reason is not None:
        session.close(acted.reason)
    return session


def _decide(session: SessionRecorder, clock: ScriptedClock, command: Command, one: Did) -> None:
    asked_us = clock.us
    clock.us += one.waited_us
    members = {
        "request_id": str(uuid4()),
        "kind": "hold",
        "session_id": str(session.session_id),
        "command_no": command.command_no,
        "requester": "ana",
        "target": "orders",
        "rule": "writes need a look",
        "requested_at": asked_us,
        "decided_at": clock.us,
        "state": "approved",
        "approvers": ["rita"],
        "reasons": ["ticket 12"],
    }
    members |= one.decided
    command.request_id = UUID(members["request_id"])
    session.record(
        Event(
            kind=Kind.DECISION,
            command_no=command.command_no,
            payload=canonical.encode(members),
        )
    )


def answered(size: int, *, cut_to: int | None = None) -> Event:
    """Return an answer of so many bytes, of which perhaps only the first are kept."""
    kept = size if cut_to is None else cut_to
    return Event(
        kind=Kind.RESPONSE,
        side=Side.TARGET,
        payload=b"\0" * kept,
        orig_len=size,
        flags=Flag.NONE if cut_to is None else Flag.TRUNCATED,
    )


def perform(
    folder: Path,
    *sessions: Acted,
    gap_us: int = 60 * SECOND_US,
    also: Callable[[Recorder, ScriptedClock], None] | None = None,
) -> Recorded:
    """Record `sessions` one after the other, and what `also` records; then stop, which seals."""

    async def run() -> Recorded:
        clock = ScriptedClock()
        recorder = await start_recorder(folder, clock)
        ids = []
        for acted in sessions:
            ids.append(str(act(recorder, clock, acted).session_id))
            clock.us += gap_us
        if also is not None:
            also(recorder, clock)
        await recorder.stop()
        key = (folder / "keys" / "gw1.vkey").read_text().strip()
        return Recorded(folder / "archive", key, tuple(ids))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()
