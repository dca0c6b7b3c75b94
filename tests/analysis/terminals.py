"""Archives of terminal sessions for tests, through the real recorder, against a scripted clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agentaudit.archive.recorder import Recorder
from agentaudit.model import MAX_EVENT_BYTES, Command, Event, Flag, Kind, SessionFacts, Side, Span
from agentaudit.protocols.ssh import said
from tests.analysis.recording import Recorded, ScriptedClock, start_recorder


@dataclass
class Shell:
    """One channel, as a script: what is said on it, and when."""

    size: tuple[int, int] | None = (80, 24)
    text: str = ""
    kind: str = "xterm-256color"
    events: list[tuple[int, Event]] = field(default_factory=list)

    def says(self, data: str | bytes, wait_us: int = 100_000, rule: str = "") -> Shell:
        """Add output; of a rule, its mark in it is told as a span."""
        raw = data.encode() if isinstance(data, str) else data
        for start in range(0, len(raw), MAX_EVENT_BYTES):
            part = raw[start : start + MAX_EVENT_BYTES]
            mark = f"[masked:{rule}]".encode()
            spans = (Span(rule, "payload", part.index(mark), 20),) if rule else ()
            event = Event(
                kind=Kind.RESPONSE, side=Side.TARGET, payload=part, orig_len=len(part), spans=spans
            )
            self.events.append((wait_us if not start else 0, event))
        return self

    def types(self, data: str, wait_us: int = 100_000) -> Shell:
        raw = data.encode()
        event = Event(kind=Kind.REQUEST, side=Side.CLIENT, payload=raw, orig_len=len(raw))
        self.events.append((wait_us, event))
        return self

    def resizes(self, columns: int, rows: int, wait_us: int = 100_000) -> Shell:
        return self._notes(said("window-change", columns, rows, 0, 0), Side.CLIENT, wait_us)

    def gateway_says(self, words: str, wait_us: int = 100_000) -> Shell:
        raw = f"agentaudit: {words}\r\n".encode()
        event = Event(
            kind=Kind.RESPONSE,
            side=Side.TARGET,
            text=words,
            payload=raw,
            orig_len=len(raw),
            status=1,
            flags=Flag.SYNTHETIC,
        )
        self.events.append((wait_us, event))
        return self

    def exits(self, status: int = 0, signal: str = "") -> Shell:
        if signal:
            return self._notes(said("exit-signal", signal, 0, ""), Side.TARGET, 100_000)
        return self._notes(said("exit-status", status), Side.TARGET, 100_000, status)

    def _notes(self, line: str, side: Side, wait_us: int, status: int | None = None) -> Shell:
        event = Event(kind=Kind.NOTICE, side=side, text=line, status=status)
        self.events.append((wait_us, event))
        return self


def play(recorder: Recorder, clock: ScriptedClock, shells: Sequence[Shell]) -> str:
    """Record a session of channels, one after the other, and return its id."""
    session = recorder.open_session(
        SessionFacts(
            protocol="ssh",
            target="host-1",
            user="copilot-7",
            issuer="https://idp.example.com",
            agent="codex",
            client_addr="127.0.0.1:50000",
            client_app="OpenSSH_9.2",
            policy_digest="0" * 64,
            mask_digest="0" * 64,
        )
    )
    for number, shell in enumerate(shells):
        operation = "exec" if shell.text else "shell"
        command = Command(
            command_no=number, text=shell.text, operation=operation, cls="unknown", status="ok"
        )
        session.begin(command)
        raw = shell.text.encode()
        told = f"{operation} {shell.text}".rstrip()
        asked = Event(
            kind=Kind.REQUEST, side=Side.CLIENT, text=told, payload=raw or None, orig_len=len(raw)
        )
        events = [(0, asked)]
        if shell.size is not None:
            line = said("pty-req", shell.kind, *shell.size, 0, 0, "-")
            events.append((0, Event(kind=Kind.NOTICE, side=Side.CLIENT, text=line)))
        for wait_us, event in [*events, *shell.events]:
            clock.us += wait_us
            event.command_no = number
            session.record(event)
        session.end(command)
        clock.us += 500_000
    session.close("client")
    return str(session.session_id)


def record(folder: Path, *sessions: Sequence[Shell]) -> Recorded:
    """Record sessions one after the other and stop, which seals."""

    async def run() -> Recorded:
        clock = ScriptedClock()
        recorder = await start_recorder(folder, clock)
        ids = [play(recorder, clock, shells) for shells in sessions]
        await recorder.stop()
        key = (folder / "keys" / "gw1.vkey").read_text().strip()
        return Recorded(folder / "archive", key, tuple(ids))

    # On a thread: where a browser is driven, this one has a running loop already.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()
