"""What a target's planner says about statements that wait: how many rows they are about.

It is asked on a connection and by a login of their own (`inspect_user`), which should be able to
read the tables and nothing else: the session's own connection waits, and must not be touched. What
the session has not committed is not there, and what it has locked is not waited for.

The server's own words do not go on: an error may quote a parameter.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog

from agentaudit.errors import AgentauditError, TargetError
from agentaudit.gateway import backend
from agentaudit.gateway.connections import Poller
from agentaudit.gateway.operational_log import without_content
from agentaudit.gateway.postgres_talk import Refused, Talk
from agentaudit.gateway.serving import TargetAccess
from agentaudit.model import Command
from agentaudit.protocols import postgres_messages as messages
from agentaudit.risk import tree
from agentaudit.risk.rows import Rows, rows

TIMEOUT_S: Final = 3.0
"""For all that is asked about one decision: people need not wait longer to see the statement."""

MAX_AT_ONCE: Final = 4
"""Connections to one target: agents pick how many statements wait at once."""

MAX_STATEMENTS: Final = 10

MAX_ROWS: Final = 2**53 - 1
"""What a number of JSON holds; joins without a condition are easily expected to have more."""

_PREPARE: Final = messages.query(
    "SET statement_timeout = '2s'; SET lock_timeout = '200ms';"
    " SET standard_conforming_strings = on; SET client_encoding = 'UTF8'"
)
# Of a table those that inherit from it too, partitions or not: the server counts each by itself.
_SIZE: Final = """
    WITH RECURSIVE whole(oid) AS (
        SELECT pg_catalog.to_regclass($1)::pg_catalog.oid
        UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN whole ON inhparent = oid)
    SELECT CASE WHEN pg_catalog.bool_or(reltuples < 0) THEN NULL
           ELSE pg_catalog.sum(reltuples)::pg_catalog.int8 END
    FROM pg_catalog.pg_class
    WHERE relkind IN ('r', 'm') AND oid IN (SELECT oid FROM whole)
"""
_TEXT: Final = 25

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Question:
    """A statement that waits, with all of its text and its parameters, in clear."""

    command: Command = field(repr=False)
    text: str = field(repr=False)
    params: tuple[str | None, ...] | None = field(repr=False)


class Inspector:
    """Asks one target's planner; `turns` are those of all its sessions in this process.

    `access` is by the login that asks. The session that it asks for began as the role `user`, with
    the settings of `startup`; `spawn` does what nobody waits for.
    """

    def __init__(
        self,
        poller: Poller,
        access: TargetAccess,
        user: str,
        startup: Mapping[str, str],
        turns: asyncio.Semaphore,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._poller = poller
        self._access = access
        self._user = user
        self._startup = startup
        self._turns = turns
        self._spawn = spawn

    def count(
        self, questions: Sequence[Question], search_path: str | None, told: Callable[[], None]
    ) -> None:
        """Find out how many rows the commands are about, and call `told` whether it is known."""

        async def count() -> None:
            try:
                await self.estimate([{} for _ in questions], questions, search_path)
            finally:
                told()

        self._spawn(count())

    async def estimate(
        self,
        statements: Sequence[dict[str, Any]],
        questions: Sequence[Question],
        search_path: str | None,
    ) -> None:
        """Add to each statement, as it is shown, how many rows it is about, or why nobody knows.

        The commands get the number too, for their rows of the archive.
        `search_path` is where the session looks for names; None leaves it as it began.
        """
        why = "the planner did not answer in time"
        try:
            async with asyncio.timeout(TIMEOUT_S), self._turns:
                await self._ask(questions, search_path, statements)
        except TimeoutError:
            pass
        except TargetError:
            why = "the inspecting login is not let in"
        except AgentauditError:
            why = "the inspecting login was cut off"
        except Exception as error:
            log.error("a planner cannot be asked", **without_content(error))
            why = "the planner cannot be asked"
        if len(questions) > MAX_STATEMENTS:
            why = f"only the first {MAX_STATEMENTS} are asked about"
        for statement in statements:
            statement.setdefault("estimate", {"why": why})

    async def _ask(
        self,
        questions: Sequence[Question],
        search_path: str | None,
        statements: Sequence[dict[str, Any]],
    ) -> None:
        # What changes the meaning of a text from the start on does so here too.
        parameters = {**self._startup, "application_name": "agentaudit inspects"}
        server = await backend.log_in(self._poller, self._access, parameters)
        try:
            talk = Talk(server.wire, server.rest)
            await talk.run(_PREPARE)
            if search_path is not None:
                own_schema = '"' + self._user.replace('"', '""') + '"'
                await talk.set_path(search_path.replace('"$user"', own_schema))
            asked = zip(questions[:MAX_STATEMENTS], statements, strict=False)
            for question, statement in asked:
                found = statement["estimate"] = await _estimate(talk, question)
                question.command.estimated_rows = found["rows"]
        except BaseException:
            server.wire.abort()
            raise
        server.wire.send(messages.terminate())
        server.wire.close()


async def _estimate(talk: Talk, question: Question) -> dict[str, Any]:
    # Long ones take milliseconds to be written anew, and sessions go on here.
    asked = await asyncio.to_thread(rows, question.text)
    sizes = {table: await _size(talk, table) for table in asked.tables}
    found: dict[str, Any] = {"rows": asked.count}
    try:
        if asked.query:
            found["rows"] = await _planned(talk, asked, question.params)
        elif asked.is_whole and None not in sizes.values():
            found["rows"] = min(sum(filter(None, sizes.values())), MAX_ROWS)
        elif asked.why:
            found["why"] = asked.why
        if found["rows"] is None and "why" not in found:
            found["why"] = "the server has not counted its rows"
    except Refused as error:
        found["why"] = str(error)
    return found | ({"tables": sizes} if sizes else {})


async def _planned(talk: Talk, asked: Rows, params: tuple[str | None, ...] | None) -> int:
    if params is None and asked.parameters:
        raise Refused("its parameters are too long")
    given = params or ()
    # Of those that the question does not use, the server could not tell the type.
    types = [0 if number in asked.parameters else _TEXT for number in range(1, len(given) + 1)]
    answer = await talk.ask(f"EXPLAIN (FORMAT JSON) {asked.query}", given, types)
    try:
        return min(int(orjson.loads(answer or b"")[0]["Plan"]["Plan Rows"]), MAX_ROWS)
    except (ValueError, LookupError, TypeError):
        raise Refused("the planner's answer cannot be read") from None


async def _size(talk: Talk, table: str) -> int | None:
    parts = [part.strip('"') for part in _PARTS.findall(table)]
    if ".".join(map(tree.part, parts)) != table or any('"' in part for part in parts):
        return None  # a name that this way of writing names does not tell from others
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in parts)
    try:
        answer = await talk.ask(_SIZE, [quoted])
    except Refused:
        return None
    return None if answer is None else int(answer)


_PARTS: Final = re.compile(r'"[^"]*"|[^.]+')
