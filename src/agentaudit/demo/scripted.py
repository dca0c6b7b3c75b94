"""A gateway as it is, but for its clock, which a script moves: for the sample archive.

    python -m agentaudit.demo.scripted SETTINGS CLOCK

CLOCK is the file of a `ScriptedClock`. Weeks of traffic are recorded in minutes with it, by the
same gateway, sealer and control API as any other traffic; their archive says that its clock was
scripted. There is one process, whatever the settings say of workers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agentaudit.archive.clocks import ScriptedClock
from agentaudit.gateway import server
from agentaudit.settings.file import load


def main(settings: Path, clock: Path) -> int:
    """Run the gateway until SIGTERM; return as `agentaudit gateway`."""
    return server.run(load(settings), clock=ScriptedClock(clock))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
