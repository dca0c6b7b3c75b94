"""What opens connections to one target: a ticket for each, or the token itself.

A token is not fetched for each connection. It opens an access window on the target, in which any
number of connections live, and where access is granted for a time it opens one and no more: who
came with a new token each time would use up a grant for each. So a token is kept for most of its
life, and given up before only when the gateway says that it is of no use any more.

Contract: docs/access.md
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from agentaudit.client.login import Token
from agentaudit.errors import AgentauditError, RefusedError

RENEW_AT: Final = 0.8
"""Of a token's life: the rest of it is the time in which a provider may be out of reach."""

RETRY_S: Final = 10.0
"""Between two attempts to get a token: clients that connect in a loop must not ask in one."""

LEAST_AGE_S: Final = 30.0
"""A token that is younger is not given up when it is refused: another one would be refused too."""

UNKNOWN_LIFE_S: Final = 60
"""Of a token of which nobody says when it ends."""

Say = Callable[[dict[str, Any]], None]
"""Takes a line of the operational log."""

_Got = TypeVar("_Got")


class Tokens(Protocol):
    """Where tokens come from."""

    async def token(self) -> str:
        """Return one that is good now.

        Raises:
            AgentauditError: there is none.
        """
        ...

    def refused(self, token: str) -> None:
        """Take note that `token` opened nothing."""
        ...


class FoundTokens:
    """Tokens that somebody else keeps fresh: looked for each time, so that a new one is found."""

    def __init__(self, look: Callable[[], str]) -> None:
        self._look = look

    async def token(self) -> str:
        return await in_thread(self._look)

    def refused(self, token: str) -> None:
        """Do nothing: whoever keeps the file has another one, or has not."""


class FetchedTokens:
    """Tokens fetched from a provider, each used for most of its life; one fetch at a time.

    Where a new one cannot be had, the old one serves as long as it is valid.
    """

    def __init__(
        self, fetch: Callable[[], Token], say: Say, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._fetch = fetch
        self._say = say
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._got_at = 0.0
        self._failure: AgentauditError | None = None
        self._failed_at = 0.0

    async def token(self) -> str:
        async with self._lock:
            now = self._clock()
            if not self._is_due(now):
                return self._current(now)
            if self._failure is not None and 0 <= now - self._failed_at < RETRY_S:
                return self._current(now)
            try:
                token = await in_thread(self._fetch)
            except AgentauditError as error:
                self._failure, self._failed_at = error, self._clock()
                old = {"event": "token not renewed", "old_one": self._is_valid(self._failed_at)}
                self._say(old | {"error": str(error), "hint": error.hint})
                return self._current(self._failed_at)
            self._token, self._got_at, self._failure = token, self._clock(), None
            self._say({"event": "token fetched", "expires_at": token.expires_at})
            return token.access_token

    def refused(self, token: str) -> None:
        known = self._token
        if known is None or known.access_token != token:
            return
        if self._clock() - self._got_at >= LEAST_AGE_S:
            # Its window is over, or the provider has withdrawn it: the next connection has another.
            self._token = None

    def _current(self, now: float) -> str:
        if self._token is not None and self._is_valid(now):
            return self._token.access_token
        assert self._failure is not None
        raise self._failure

    def _is_due(self, now: float) -> bool:
        if self._token is None:
            return True
        return now >= self._got_at + RENEW_AT * (self._ends_at() - self._got_at)

    def _is_valid(self, now: float) -> bool:
        return self._token is not None and now < self._ends_at()

    def _ends_at(self) -> float:
        if self._token is None:
            return 0.0
        return self._token.expires_at or self._got_at + UNKNOWN_LIFE_S


@dataclass(frozen=True, slots=True)
class Credential:
    """What a gateway is given as password, and the token that is behind it."""

    password: str = field(repr=False)
    token: str = field(repr=False)


class Credentials:
    """Credentials for connections: of a `ticket`, which a token buys, or the tokens themselves."""

    def __init__(self, tokens: Tokens, ticket: Callable[[str], str] | None = None) -> None:
        self._tokens = tokens
        self._ticket = ticket

    async def one(self) -> Credential:
        """Return what opens one connection.

        Raises:
            AgentauditError: there is nothing that would.
        """
        token = await self._tokens.token()
        ticket = self._ticket
        if ticket is None:
            return Credential(token, token)
        try:
            return Credential(await in_thread(lambda: ticket(token)), token)
        except RefusedError as error:
            if error.status in (401, 403):
                self._tokens.refused(token)
            raise

    def refused(self, credential: Credential) -> None:
        """Take note that a gateway let nobody in with `credential`."""
        self._tokens.refused(credential.token)


async def in_thread(call: Callable[[], _Got]) -> _Got:
    """Return what `call` returns, which may block; as `asyncio.to_thread`, but for the end.

    A process that ends waits for the threads of its loop, so for a provider that hangs; it does
    not wait for this one.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Got] = loop.create_future()

    def settle(answered: Future[_Got]) -> None:
        if done.done():  # whoever asked has left
            return
        error = answered.exception()
        if error is None:
            done.set_result(answered.result())
        else:
            done.set_exception(error)

    def run() -> None:
        answered: Future[_Got] = Future()
        try:
            answered.set_result(call())
        except Exception as error:
            answered.set_exception(error)
        try:
            loop.call_soon_threadsafe(settle, answered)
        except RuntimeError:
            pass  # the loop has ended meanwhile

    threading.Thread(target=run, daemon=True).start()
    return await done
