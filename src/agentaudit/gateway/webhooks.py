"""Webhooks: people are told of what waits for them, and of how it ended, by HTTP.

It runs in the control API's process. The queue is the state: what a receiver is still to be told
follows from the requests that there are, and a row says that it was told. So nothing is kept here
that a restart would lose, nothing grows while a receiver is away, and each is told at least once;
who must not act twice goes by `X-Agentaudit-Delivery`. Each receiver has a task of its own.

A receiver is somebody else's machine: it gets the beginning of a statement and never the whole,
and nothing that it answers but its status is looked at.

Format: docs/webhooks.md
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import random
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter

from agentaudit.errors import StateError
from agentaudit.gateway.changes import Changes, Do
from agentaudit.gateway.serving import webhook_tls
from agentaudit.gateway.state import Request
from agentaudit.gateway.state_deliveries import MOST, Told
from agentaudit.gateway.wire import reason
from agentaudit.settings.tables import Webhook
from agentaudit.settings.whole import Settings

TIMEOUT_S: Final = 10.0
"""For one delivery, from the name's look-up to the status of the answer."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
GIVE_UP_US: Final = 24 * 3600 * 1_000_000
"""How old a message may be: who was away for longer asks the control API what there is."""

LOOK_AGAIN_S: Final = 30.0
"""Between two looks where nothing has changed: a state that was out of reach tells nobody."""

MAX_STATEMENT_CHARACTERS: Final = 200
MAX_TEXT_CHARACTERS: Final = 500
MAX_NAME_CHARACTERS: Final = 100
MAX_LISTED: Final = 10
"""Statements, resources, approvers and votes that one message names."""

MAX_ANSWER_BYTES: Final = 64 * 1024
_LINGER_S: Final = 1.0
_MAX_REMEMBERED: Final = 10_000

COUNTS: Final = CollectorRegistry()
_DELIVERIES: Final = partial(Counter, registry=COUNTS)(
    "agentaudit_webhook_deliveries",
    "Attempts to tell a webhook, which is named by its place in the settings, from 1",
    ["webhook", "outcome"],
)

log = structlog.get_logger()


class Undelivered(Exception):
    """A receiver was not reached or did not answer with success; the text has nothing of it."""


# --- what is said


def signature(secret: bytes, body: bytes, at_s: int) -> str:
    """Return what `X-Agentaudit-Signature` says of `body`, sent `at_s` seconds after 1970.

    The receiver computes `v1` itself, from the body as it came and the secret that both know,
    compares in constant time, and refuses what is older than a few minutes:

    >>> secret, body = b"0123456789abcdef", b'{"text":"hello"}'
    >>> said = signature(secret, body, 1767225600)
    >>> said
    't=1767225600,v1=1b7b8ddd9961f26073bbe027af4f7e3158579f6a5aa53dbafcdf982d8f280d6f'
    >>> at, _, v1 = said.removeprefix("t=").partition(",v1=")
    >>> mine = hmac.new(secret, at.encode() + b"." + body, "sha256").hexdigest()
    >>> hmac.compare_digest(mine, v1)
    True
    """
    digest = hmac.new(secret, b"%d.%b" % (at_s, body), sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def message(event: Told, request: Request) -> dict[str, Any]:
    """Return what a receiver is told, as JSON has it; its size is bounded whatever was asked."""
    statements = request.shown.get("statements", ())
    statement = str(statements[0]["text"] or "") if statements else ""
    return {
        "text": _text(event, request, statement),
        "event": event,
        "request": {
            "id": str(request.id),
            "kind": request.kind,
            "state": request.state,
            "target": request.target,
            "rule": request.rule,
            "class": request.cls,
            "requester": {
                "user": _cut(request.requester.user, MAX_NAME_CHARACTERS),
                "agent": _cut(request.requester.agent, MAX_NAME_CHARACTERS),
            },
            "effects": [
                {
                    "operation": str(each["operation"]),
                    "class": str(each["class"]),
                    "resources": _names(each["resources"]),
                    "risk": _names(each["risk"]),
                }
                for each in statements[:MAX_LISTED]
            ],
            "statements": len(statements),
            "statement": _cut(statement, MAX_STATEMENT_CHARACTERS),
            "is_cut": len(statement) > MAX_STATEMENT_CHARACTERS or len(statements) > 1,
            "reason": _cut(request.reason, MAX_TEXT_CHARACTERS),
            "duration_us": request.duration_us,
            "approvers": _names(request.approvers),
            "approvals": request.approvals,
            "votes": [
                {
                    "approver": _cut(vote.approver.user, MAX_NAME_CHARACTERS),
                    "verdict": vote.verdict,
                    "reason": _cut(vote.reason, MAX_TEXT_CHARACTERS),
                    "at": vote.at_us,
                }
                for vote in request.votes[:MAX_LISTED]
            ],
            "session_id": None if request.session_id is None else str(request.session_id),
            "command_no": request.command_no,
            "digest": request.digest,
            "requested_at": request.requested_us,
            "expires_at": request.expires_us,
            "decided_at": request.decided_us,
        },
    }


def _text(event: Told, request: Request, statement: str) -> str:
    """Return the message for people, in Slack's mrkdwn: effects first, then the words."""
    who = code(request.requester.user, MAX_NAME_CHARACTERS)
    if request.requester.agent:
        who += f" by agent {code(request.requester.agent, MAX_NAME_CHARACTERS)}"
    lines = []
    if event == "decision":
        lines.append(f"*{request.state.capitalize()}*: {_effects(request)}, asked for by {who}")
        for vote in request.votes[:MAX_LISTED]:
            said = f": {code(vote.reason, MAX_TEXT_CHARACTERS)}" if vote.reason else ""
            lines.append(f"{vote.verdict} by {code(vote.approver.user, MAX_NAME_CHARACTERS)}{said}")
        lines.append(f"request {request.id}")
        return "\n".join(lines)
    lines.append(f"*Waits for a decision*: {_effects(request)}")
    lines.append(f"asked for by {who}, rule {code(request.rule, MAX_NAME_CHARACTERS)}")
    if request.reason:
        lines.append(f"reason: {code(request.reason, MAX_TEXT_CHARACTERS)}")
    if statement:
        lines.append(code(statement, MAX_STATEMENT_CHARACTERS))
    until = datetime.fromtimestamp(request.expires_us // 1_000_000, UTC)
    approvers = ", ".join(code(each, MAX_NAME_CHARACTERS) for each in _names(request.approvers))
    lines.append(f"until {until:%Y-%m-%d %H:%M:%S} UTC, somebody in {approvers} may run:")
    lines.append(f"`agentaudit approve {request.id}`")
    return "\n".join(lines)


def _effects(request: Request) -> str:
    """Return in a few words what would happen."""
    where = f"on {code(request.target, MAX_NAME_CHARACTERS)}"
    if request.kind == "access":
        minutes = request.duration_us / 60_000_000
        return f"access to {code(request.target, MAX_NAME_CHARACTERS)} for {minutes:g} min"
    found = []
    statements = request.shown.get("statements", ())
    for each in statements[:MAX_LISTED]:
        about = ", ".join(
            code(str(name), MAX_NAME_CHARACTERS) for name in _names(each["resources"])
        )
        risks = "; ".join(code(str(risk), MAX_NAME_CHARACTERS) for risk in _names(each["risk"]))
        found.append(
            f"{escaped(str(each['operation']), MAX_NAME_CHARACTERS)} ({each['class']})"
            + (f" of {about}" if about else "")
            + (f", {risks}" if risks else "")
        )
    if len(statements) > MAX_LISTED:
        found.append(f"and {len(statements) - MAX_LISTED} statements more")
    return f"{'; '.join(found) or 'a statement'} {where}"


def code(text: str, limit: int) -> str:
    r"""Return at most `limit` characters of `text` as code, so that nothing in it is obeyed.

    >>> code("a`b\n<!here>", 100), code("x" * 9, 4)
    ("`a'b\\x0a&lt;!here&gt;`", '`xxxx…`')
    """
    # A backquote would end the code, and Slack knows no way to escape one.
    return f"`{escaped(text, limit).replace('`', chr(39))}`" if text else "-"


def escaped(text: str, limit: int) -> str:
    """Return at most `limit` characters of `text`, visible ones, with mrkdwn's three escaped.

    Source: docs.slack.dev, "Formatting message text"
    """
    seen = _UNSEEN.sub(_visible, _cut(text, limit))
    return seen.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_UNSEEN: Final = re.compile(r"[^\w !-~]|[\u115f\u1160\u3164\uffa0]")


def _visible(match: re.Match[str]) -> str:
    character, number = match[0], ord(match[0])
    if character.isprintable() and character not in "\u115f\u1160\u3164\uffa0":
        return character
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _names(names: Iterable[Any]) -> list[str]:
    return [_cut(str(name), MAX_NAME_CHARACTERS) for name in list(names)[:MAX_LISTED]]


# --- how it is brought


@dataclass(slots=True)
class _Tried:
    """What failed, and when it may be tried again, by the loop's clock."""

    began_us: int
    failures: int = 0
    not_before_s: float = 0.0


class Receiver:
    """One webhook; belongs to an event loop. `run` it, in a task of its own."""

    def __init__(
        self,
        number: int,
        settings: Webhook,
        gateways: Sequence[str],
        do: Do,
        changed: asyncio.Event,
        now_us: Callable[[], int],
    ) -> None:
        """Read its secret and certificates; blocks.

        Raises:
            SettingsError: they cannot be used.
        """
        self._label = str(number)
        self._settings = settings
        self._secret = settings.read_secret()
        self._tls = webhook_tls(settings)
        self._gateways = gateways
        self._do = do
        self._changed = changed
        self._now_us = now_us
        self._key = sha256(settings.url.encode()).hexdigest()[:32]
        # Of its own: a name server that does not answer must delay no other receiver.
        self._resolver = ThreadPoolExecutor(1, "webhook")
        self._tried: dict[tuple[Told, UUID], _Tried] = {}
        self._told: OrderedDict[tuple[Told, UUID], None] = OrderedDict()
        """What was told, as far as the state may not know it."""
        self._failures = 0
        self._rests_until_s = 0.0

    async def run(self) -> None:
        """Tell what there is to tell, until cancelled."""
        try:
            while True:
                self._changed.clear()
                wait_s = await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        finally:
            self._resolver.shutdown(wait=False, cancel_futures=True)

    async def _round(self) -> float:
        """Tell what is due; return after how many seconds to look again, if nothing changes."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until_s:
            await asyncio.sleep(self._rests_until_s - loop.time())
        now_us = self._now_us()
        since_us = now_us - GIVE_UP_US
        try:
            waiting = await self._do(
                lambda state: state.undelivered(
                    self._key,
                    gateways=self._gateways,
                    events=self._settings.events,
                    now_us=now_us,
                    since_us=since_us,
                )
            )
            self._forget({(event, request.id) for event, request in waiting}, since_us)
            # What failed often comes last: a message that a receiver never takes holds up nothing.
            due = sorted(
                (each for each in waiting if self._may_go(each, loop.time())), key=self._failed
            )
            for event, request in due:
                if not await self._tell(event, request):
                    return 0.0
        except StateError:
            return LOOK_AGAIN_S  # `Changes` says so, and wakes us
        if len(due) >= MOST:
            return 0.0
        again_s = [tried.not_before_s - loop.time() for tried in self._tried.values()]
        return max(0.0, min([LOOK_AGAIN_S, *again_s]))

    def _may_go(self, told: tuple[Told, Request], now_s: float) -> bool:
        tried = self._tried.get((told[0], told[1].id))
        return tried is None or tried.not_before_s <= now_s

    def _failed(self, told: tuple[Told, Request]) -> int:
        tried = self._tried.get((told[0], told[1].id))
        return 0 if tried is None else tried.failures

    async def _tell(self, event: Told, request: Request) -> bool:
        """Tell one thing; return whether the receiver took it.

        Raises:
            StateError: it took it, and that cannot be kept now.
        """
        key = (event, request.id)
        if key not in self._told:
            try:
                await self._post(event, request)
            except Undelivered as error:
                self._fail(key, request, str(error))
                return False
            _DELIVERIES.labels(self._label, "delivered").inc()
            self._told[key] = None
            if len(self._told) > _MAX_REMEMBERED:
                self._told.popitem(last=False)
            if self._failures:
                log.info("webhook answers again", receiver=self._settings.receiver)
            self._failures = 0
        self._tried.pop(key, None)
        now_us = self._now_us()
        await self._do(lambda state: state.delivered(self._key, event, request.id, now_us=now_us))
        self._told.pop(key, None)
        return True

    def _fail(self, key: tuple[Told, UUID], request: Request, why: str) -> None:
        loop = asyncio.get_running_loop()
        _DELIVERIES.labels(self._label, "failed").inc()
        began_us = request.decided_us if key[0] == "decision" else request.requested_us
        tried = self._tried.setdefault(key, _Tried(began_us))
        tried.failures += 1
        tried.not_before_s = loop.time() + _pause_s(tried.failures)
        self._failures += 1
        self._rests_until_s = loop.time() + _pause_s(self._failures)
        if self._failures == 1:
            log.warning("webhook failed", receiver=self._settings.receiver, reason=why)

    def _forget(self, waiting: set[tuple[Told, UUID]], since_us: int) -> None:
        """Drop what there is no more to tell: it is told, no longer true, or too old."""
        for key in self._tried.keys() - waiting:
            if self._tried.pop(key).began_us <= since_us:
                _DELIVERIES.labels(self._label, "given_up").inc()
                log.error(
                    "webhook was never told", receiver=self._settings.receiver, request=str(key[1])
                )

    async def _post(self, event: Told, request: Request) -> None:
        """Bring one message.

        Raises:
            Undelivered: it is not known to have been taken.
        """
        body = json.dumps(message(event, request), separators=(",", ":")).encode()
        delivery = sha256(f"{self._key} {event} {request.id}".encode()).hexdigest()[:32]
        parts = urlsplit(self._settings.url)
        head = (
            f"POST {quote(parts.path or '/', safe=_PATH_CHARACTERS)} HTTP/1.1\r\n"
            f"Host: {quote(parts.netloc, safe='[]:')}\r\n"
            "User-Agent: agentaudit\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"X-Agentaudit-Event: {event}\r\n"
            f"X-Agentaudit-Delivery: {delivery}\r\n"
            f"X-Agentaudit-Signature: "
            f"{signature(self._secret, body, self._now_us() // 1_000_000)}\r\n"
            "Connection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await self._connect(parts.hostname or "", parts.port)
                try:
                    writer.write(head.encode() + body)
                    await writer.drain()
                    status = await _status(reader)
                    await _linger(reader)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise Undelivered(f"no answer within {TIMEOUT_S:g} s") from None
        except ssl.SSLError as error:
            why = (error.reason or "no TLS").lower().replace("_", " ")
            raise Undelivered(f"TLS: {why}") from None
        except OSError as error:
            raise Undelivered(reason(error)) from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            raise Undelivered("not an answer over HTTP") from None
        if not 200 <= status < 300:
            raise Undelivered(f"status {status}")

    async def _connect(
        self, host: str, port: int | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = port or (80 if self._tls is None else 443)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolver, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        failure: OSError = OSError(0, "no address")
        for *_, address in found[:4]:
            try:
                return await asyncio.open_connection(
                    str(address[0]),
                    port,
                    limit=MAX_ANSWER_BYTES,
                    ssl=self._tls,
                    server_hostname=None if self._tls is None else host,
                )
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        raise failure


_PATH_CHARACTERS: Final = "/%:@!$&'()*+,;=~-._"
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r\n]")


async def _status(reader: asyncio.StreamReader) -> int:
    """Return the status of an answer, behind the interim ones; nothing else of it is looked at."""
    seen = 0
    while True:
        line = await reader.readuntil(b"\n")
        match = _STATUS_LINE.match(line)
        if match is None:
            raise ValueError("no status line")
        status = int(match[1])
        if status >= 200:
            return status
        while line.strip():
            line = await reader.readuntil(b"\n")
            seen += len(line)
            if seen > MAX_ANSWER_BYTES:
                raise ValueError("too long an answer")


async def _linger(reader: asyncio.StreamReader) -> None:
    """Let the receiver say the rest, within bounds: one that is cut off may call that a failure."""
    seen = 0
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while seen <= MAX_ANSWER_BYTES and (data := await reader.read(4096)):
                seen += len(data)


def _pause_s(failures: int) -> float:
    longest = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_S)
    # Many gateways must not come back to a receiver at the same moment.
    return _CHANCE.uniform(longest / 2, longest)


_CHANCE: Final = random.SystemRandom()


class Webhooks:
    """All webhooks of the settings; belongs to an event loop."""

    def __init__(
        self, settings: Settings, do: Do, changes: Changes, now_us: Callable[[], int]
    ) -> None:
        """Read secrets and certificates; blocks.

        Raises:
            SettingsError: one of them cannot be used.
        """
        self._receivers = [
            Receiver(number, webhook, settings.gateway.names, do, changes.listen(), now_us)
            for number, webhook in enumerate(settings.webhook, 1)
        ]

    async def run(self) -> None:
        """Tell all of them what there is to tell, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for receiver in self._receivers:
                tasks.create_task(receiver.run())
