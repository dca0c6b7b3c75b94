"""One worker of a gateway, as a process: `python -m agentaudit.gateway.worker`.

Its standard input is its end of the channel to the supervisor (`channel`), which says first who it
is. It is a gateway of its own in all but this: connections come from the supervisor, and the end
of the supervisor, which closes the channel, is its order to drain and seal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from agentaudit.errors import AgentauditError
from agentaudit.gateway.channel import receive_first
from agentaudit.gateway.operational_log import configure_log
from agentaudit.gateway.places import Shared
from agentaudit.gateway.server import Gateway, as_begun, serve
from agentaudit.gateway.team import Team
from agentaudit.settings.file import load, parse
from agentaudit.settings.whole import Settings

CANNOT_START = 2


def main() -> int:
    """Run the worker; return 0, 1 if recording failed meanwhile, or 2 if it could not start."""
    end = _take_standard_input()
    try:
        orders, places = receive_first(end)
        _, file = receive_first(end)
        _, key_file = receive_first(end)
    except EOFError:
        return 1
    with os.fdopen(file, "rb") as text:
        begun = parse(text.read(), Path(orders["path"]))
    with os.fdopen(key_file, "rb") as key:
        host_key = key.read()
    configure_log(gateway=begun.gateway.names[orders["number"]])
    shared = Shared(places, begun.gateway.workers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(end, orders["number"], begun, shared, host_key))


def _take_standard_input() -> socket.socket:
    """Return the channel's end, under a number that no child of ours inherits.

    A sealer that had it would keep the channel open behind our death, and with it the connections
    that we had not read yet.
    """
    channel = os.fstat(0)
    for number in [int(name.name) for name in Path("/proc/self/fd").iterdir()]:
        # uvloop leaves its own copy of what it makes a child's standard input.
        with contextlib.suppress(OSError):
            if number > 2 and os.path.samestat(os.fstat(number), channel):
                os.close(number)
    end = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return end


async def _run(
    end: socket.socket, number: int, begun: Settings, shared: Shared, host_key: bytes
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    team = Team(end, number, shared, ended=stop.set, host_key=host_key)
    name = begun.gateway.names[number]
    try:
        assert begun.path is not None
        # The file of now, but for what the other workers cannot take over either.
        settings = as_begun(load(begun.path), begun)
        return await serve(Gateway(settings, name=name, team=team), stop, team.say_ready)
    except AgentauditError as error:
        team.say_failed(error)
        return CANNOT_START
    finally:
        team.close()


if __name__ == "__main__":
    sys.exit(main())
