"""What is known of a target's tables, for the rules that hide columns.

A target's catalogue is read when its first session opens, again every minute while there is one,
and whenever something was changed through the gateway or a result names a table that nobody knows.
What a statement may change is in doubt from when it is sent, and what is in doubt is hidden; it is
settled by what is read once its session has neither a command nor a transaction open, which may be
long after: a person may have to approve it. Of a session that is gone while the server still runs
something of it, it is never settled. It is read by the inspecting login where there is one,
else by the target's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from agentaudit.errors import AgentauditError
from agentaudit.gateway import backend
from agentaudit.gateway.connections import Poller
from agentaudit.gateway.operational_log import without_content
from agentaudit.gateway.postgres_statements import Statements
from agentaudit.gateway.postgres_talk import Talk
from agentaudit.gateway.serving import TargetAccess
from agentaudit.masking.masks import Masks
from agentaudit.protocols import postgres_messages as messages
from agentaudit.risk import catalogue as catalogues
from agentaudit.risk.catalogue import Catalogue
from agentaudit.risk.doubt import NO_DOUBT, Doubt

if TYPE_CHECKING:
    from agentaudit.gateway.postgres_masks import PostgresMasks

READ_EVERY_S: Final = 60.0
"""What somebody else has changed in the meantime is not known for so long."""

AT_MOST_EVERY_S: Final = 1.0
AGAIN_IN_S: Final = 5.0
"""Where something is in doubt and could not be read."""

TIMEOUT_S: Final = 10.0
MAX_CATALOGUE_BYTES: Final = 64 * 1024 * 1024

_PREPARE: Final = messages.query(
    "SET statement_timeout = '8s'; SET lock_timeout = '1s'; SET search_path = '';"
    " SET client_encoding = 'UTF8'; SET standard_conforming_strings = on"
)

log = structlog.get_logger()


class Known:
    """What some masks hide of a target's tables, as far as those are known."""

    def __init__(self, masks: Masks, catalogue: Catalogue) -> None:
        self.whole = masks.columns[0][1]
        """The rule of what nobody can tell from a masked column."""
        self.catalogue = catalogue
        self.statements = Statements(masks, catalogue)
        self._names = {
            pattern.lower(): rule for pattern, rule in reversed(masks.columns) if "." not in pattern
        }

    def rule_of_name(self, name: str) -> str:
        """Return the rule about result columns of this name, wherever they come from."""
        return self._names.get(name.lower(), "") if self._names else ""

    def rule_of(self, table: int, number: int, doubt: Doubt) -> str | None:
        """Return the rule that hides a table's column, by the server's own numbers.

        None where there is no such table.
        """
        rule = self.catalogue.rule_of(table, number)
        if rule == "" and doubt is not NO_DOUBT:
            relation = self.catalogue.relations[table]
            if doubt.everything or relation.name in doubt.names:
                return self.whole
        return rule


@dataclass(slots=True)
class _Changed:
    """What one session may have changed since it was last settled, and how often it was noted.

    The same doubt noted twice is two changes: what settles the first may not have seen the second.
    """

    doubt: Doubt = NO_DOUBT
    notes: int = 0


class Tables:
    """One target's tables, for all its sessions in this process. Belongs to the event loop.

    `access` is by the login that asks, `user` the role that its sessions begin as.
    """

    def __init__(
        self,
        poller: Poller,
        access: TargetAccess,
        masks: Masks,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        user: str,
    ) -> None:
        self._user = user
        self._poller = poller
        self._access = access
        self._masks = masks
        self._spawn = spawn
        self.epoch = 0
        """Counts what changes: the tables as they are known, and what of them is in doubt."""
        self.doubt = NO_DOUBT
        """What is not known to be as it was read."""
        self._is_own_login = access.settings.user == user
        client = masks.for_client
        self._is_client_apart = client is not masks and client is not None and bool(client.columns)
        # Nothing is known yet: so all that names a table is hidden.
        self._know(lambda columns: Catalogue([], columns=columns))
        self._sessions: dict[PostgresMasks, _Changed] = {}
        self._left = _Changed()
        """What sessions have changed that are over."""
        self._spoiled = NO_DOUBT
        self._reading: asyncio.Future[None] | None = None
        self._is_asked = False
        """Whether to read again what is being read: it may be older than what was asked about."""
        self._read_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._is_read = False

    # --- sessions

    def enter(self, session: PostgresMasks) -> None:
        """Count a session that is opening."""
        self._sessions[session] = _Changed()
        if self._left.doubt != NO_DOUBT:
            self.ask_again()  # it could not be read when its session left
        else:
            self._read_in(READ_EVERY_S)

    def leave(self, session: PostgresMasks, *, is_running: bool = False) -> None:
        """Count a session no more; what it has changed is in doubt until the tables are read.

        Where a command of it `is_running` still, nobody is told when that ends: it stays in doubt.
        """
        doubt = self._sessions.pop(session, _Changed()).doubt
        if is_running and doubt != NO_DOUBT:
            self.spoil(doubt)
            self._changed()
        elif doubt != NO_DOUBT:
            self._left.doubt |= doubt
            self._left.notes += 1
            self._changed()
            self.ask_again()
        if not self._sessions and self._left.doubt == NO_DOUBT and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note(self, session: PostgresMasks, doubt: Doubt) -> None:
        """Note what a session's statement may change."""
        changed = self._sessions.setdefault(session, _Changed())
        before = changed.doubt
        changed.doubt |= doubt
        changed.notes += 1
        self.ask_again()
        if changed.doubt != before:
            self._changed()

    def settle(self, session: PostgresMasks) -> None:
        """Note that what a session has changed, if anything, can be seen by others from now on."""
        if self._sessions.get(session, _Changed()).doubt != NO_DOUBT:
            self.ask_again()

    def spoil(self, spoilt: Doubt) -> None:
        """Note what stays hidden: masked values were written there, or nobody knows what it is."""
        if (self._spoiled | spoilt) != self._spoiled:
            self._spoiled |= spoilt
            self._changed()

    def _changed(self) -> None:
        doubt = self._spoiled | self._left.doubt
        for each in self._sessions.values():
            doubt |= each.doubt
        if doubt == NO_DOUBT:
            doubt = NO_DOUBT
        self.doubt = doubt
        self.epoch += 1

    @property
    def path(self) -> tuple[str, ...] | None:
        """Where a session looks for names that has changed nothing about it; None: not known.

        What another login is told of its own settings says nothing about the sessions'.
        """
        return self.known.catalogue.search_path if self._is_read and self._is_own_login else None

    # --- columns

    def _know(self, catalogue_of: Callable[[Sequence[tuple[str, str]]], Catalogue]) -> None:
        self.known = Known(self._masks, catalogue_of(self._masks.columns))
        client = self._masks.for_client
        self._for_client: Known | None = None
        if self._is_client_apart and client is not None:
            # What the agent is not to see must not depend on rules that are not about that.
            self._for_client = Known(client, catalogue_of(client.columns))

    def of(self, masks: Masks) -> Known | None:
        """Return what `masks` hide, those of the target or those for its clients; None: nothing."""
        return self.known if masks is self._masks else self._for_client

    # --- reading

    async def ready(self) -> None:
        """Return once the tables have been read, or cannot be: then they are all hidden."""
        if not self._is_read:
            await self._read()

    def ask_again(self) -> None:
        """Read the tables again soon."""
        loop = asyncio.get_running_loop()
        self._read_in(max(0.05, self._read_at + AT_MOST_EVERY_S - loop.time()))

    def _read_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._reading is None:
            self._spawn(self._read())
        else:
            self._is_asked = True
        if self._sessions:
            self._read_in(READ_EVERY_S)

    async def _read(self) -> None:
        if self._reading is not None:
            await asyncio.shield(self._reading)
            return
        loop = asyncio.get_running_loop()
        self._reading = loop.create_future()
        self._read_at = loop.time()
        # What is settled now is in what is read from now on.
        settled = [(each, each.notes) for s, each in self._sessions.items() if s.is_idle]
        settled.append((self._left, self._left.notes))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._ask()
        except (AgentauditError, TimeoutError, ValueError) as error:
            log.warning(
                "a target's tables cannot be read, so what names them is hidden",
                target=self._access.settings.name,
                error=str(error),
            )
            self._try_again()
        except Exception as error:
            log.error("a target's tables cannot be read", **without_content(error))
            self._try_again()
        else:
            self._is_read = True
            self._know(lambda columns: found[tuple(columns)])
            for changed, notes in settled:
                if changed.notes == notes:
                    changed.doubt = NO_DOUBT
            self._changed()
        finally:
            self._reading.set_result(None)
            self._reading = None
            if self._is_asked:
                self._is_asked = False
                self.ask_again()

    def _try_again(self) -> None:
        """Read again soon where somebody waits for something to be settled."""
        if self._sessions and self.doubt != self._spoiled:
            self._read_in(AGAIN_IN_S)

    async def _ask(self) -> dict[tuple[tuple[str, str], ...], Catalogue]:
        """Return the tables as they are, for each set of rules about columns."""
        server = await backend.log_in(
            self._poller, self._access, {"application_name": "agentaudit reads the catalogue"}
        )
        try:
            talk = Talk(server.wire, server.rest, max_bytes=MAX_CATALOGUE_BYTES)
            await talk.run(_PREPARE)
            answers = [await talk.ask(query, []) or b"" for query in catalogues.QUERIES]
            # Of a large database it takes a while to work out, and sessions go on here.
            sets = {tuple(self._masks.columns)}
            if self._is_client_apart and self._masks.for_client is not None:
                sets.add(tuple(self._masks.for_client.columns))
            return {
                columns: await asyncio.to_thread(catalogues.read, answers, columns, user=self._user)
                for columns in sets
            }
        finally:
            server.wire.send(messages.terminate())
            server.wire.close()


def of_target(
    poller: Poller,
    access: TargetAccess,
    masks: Masks,
    spawn: Callable[[Coroutine[Any, Any, None]], None],
) -> Tables | None:
    """Return what is to be known of a target's tables, None where no rule is about columns."""
    if not masks.columns:
        return None
    return Tables(poller, access.inspector or access, masks, spawn, access.settings.user)
