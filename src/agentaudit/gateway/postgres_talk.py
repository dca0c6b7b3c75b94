"""Questions of the gateway's own to a target, on a connection of their own.

The server's own words do not go on: an error may quote a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentaudit.errors import AgentauditError
from agentaudit.gateway.wire import Wire
from agentaudit.protocols import postgres_messages as messages

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024

_BEGIN: Final = messages.query("BEGIN READ ONLY")
_ROLLBACK: Final = messages.query("ROLLBACK")
_SEARCH_PATH: Final = "SELECT pg_catalog.set_config('search_path', $1, false)"

_WHY: Final = {
    "42501": "the inspecting login may not read it",
    "42P01": "the inspecting login does not find a table of that name",
    "55P03": "a table is locked",
    "57014": "the planner took too long",
}


class Refused(AgentauditError):
    """The server says no to one question."""


class Talk:
    """One question after the other, on a connection that has logged in."""

    def __init__(self, wire: Wire, rest: bytes, *, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._wire = wire
        self._reader = messages.MessageReader(max_bytes=max_bytes)
        self._rest = rest

    async def set_path(self, search_path: str) -> None:
        bound = messages.parse("", _SEARCH_PATH) + messages.bind([search_path])
        await self.run(bound + messages.execute() + messages.sync())

    async def ask(
        self, sql: str, params: Sequence[str | None], types: Sequence[int] = ()
    ) -> bytes | None:
        """Return the first value of the first row, of a transaction that is taken back.

        Raises:
            Refused: the server says no, or a parameter cannot be sent.
            TargetProtocolError, ConnectionEnded: there is nobody to ask any more.
        """
        try:
            bound = messages.bind(params)
        except UnicodeEncodeError:
            raise Refused("its parameters cannot be sent") from None
        parsed = messages.parse("", sql, types)
        asked = parsed + bound + messages.execute() + messages.sync()
        # Nothing that planning runs is to be heard of elsewhere, by NOTIFY say.
        return await self.run(_BEGIN + asked + _ROLLBACK, answers=3)

    async def run(self, data: bytes, *, answers: int = 1) -> bytes | None:
        self._wire.send(data)
        value: bytes | None = None
        is_first = True
        refused: Refused | None = None
        received, self._rest = self._rest, b""
        while True:
            for kind, body in self._reader.feed(received):
                if kind == b"Z":
                    answers -= 1
                    if answers:
                        continue
                    if refused is not None:
                        raise refused
                    return value
                if kind == b"D":
                    value = messages.decode_data_row(body)[0] if is_first else value
                    is_first = False
                elif kind == b"E":
                    code = messages.decode_report(body).code
                    refused = Refused(_WHY.get(code, f"the planner refuses: SQLSTATE {code}"))
            received = await self._wire.more()
