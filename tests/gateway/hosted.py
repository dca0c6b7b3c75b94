"""A gateway inside the test's own process, on a thread with its own event loop.

For what cannot be done to a process from outside: short deadlines, and faults in the recorder's
file operations.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from agentaudit.archive.keys import create_key
from agentaudit.gateway.postgres import Deadlines
from agentaudit.gateway.server import Gateway
from agentaudit.settings.whole import Settings


class Hosted:
    """A running gateway: its port, its archive, and `call` to do something on its loop."""

    def __init__(self, settings: Settings, deadlines: Deadlines | None) -> None:
        self.host = "127.0.0.1"
        self.archive = settings.gateway.archive
        self._settings = settings
        self._deadlines = deadlines
        self._ready: Future[int] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.port = self._ready.result()

    def call(self, function: Callable[[Gateway], Any]) -> Any:
        """Return what `function` returns when it is called with the gateway, on its loop."""
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(function(self._gateway)))
        return done.result()

    def close(self) -> None:
        """Drain and seal.

        Raises:
            RecordingError: recording has failed meanwhile.
        """
        if not self._ended.done():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._ended.result()

    def dsn(self, target: str, token: str, **extra: object) -> str:
        """Return a libpq connection string for `target`."""
        parts = {"host": self.host, "port": self.port, "dbname": target, "user": "agent"}
        return " ".join(f"{k}='{v}'" for k, v in (parts | {"password": token} | extra).items())

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with Gateway(self._settings, deadlines=self._deadlines) as self._gateway:
            self._ready.set_result(self._gateway.address.port)
            await self._stop.wait()


@contextmanager
def hosted(
    tmp_path: Path,
    *targets: Mapping[str, Any],
    issuer: Any,
    deadlines: Deadlines | None = None,
    limits: Mapping[str, Any] | None = None,
    listen: Mapping[str, Any] | None = None,
    issuer_keys: Mapping[str, Any] | None = None,
    expect_failure: bool = False,
    **gateway_keys: Any,
) -> Iterator[Hosted]:
    """Run a gateway for the block; the keys are those of the `gateway` fixture."""
    tables = [dict(target) for target in targets]
    for table in tables:
        password = table.pop("password", None)
        if password is not None:
            secret = tmp_path / f"{table['name']}.password"
            secret.write_text(password, encoding="utf-8")
            table["password_file"] = str(secret)
    settings = Settings.model_validate(
        {
            "gateway": {"name": "gw1", "origin": "audit.test"} | gateway_keys,
            "listen": {"postgres": "127.0.0.1:0"} | dict(listen or {}),
            "limits": dict(limits or {}),
            "issuer": [
                {"url": issuer.issuer, "audience": [issuer.audience]} | dict(issuer_keys or {})
            ],
            "target": tables,
        },
        context={"root": tmp_path},
    )
    create_key(settings.gateway.keys, settings.gateway.name, settings.gateway.origin)
    gateway = Hosted(settings, deadlines)
    try:
        yield gateway
    finally:
        if not expect_failure:
            gateway.close()
