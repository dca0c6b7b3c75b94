"""How much a test tries of what could be tried without end.

Whoever runs `make long` tries all of it. `.ci/run` has half an hour for everything and tries a
share: each run another one, so a test says of what fails which try it was.
"""

from __future__ import annotations

import os
import random
from typing import Final

IS_WHOLE: Final = os.environ.get("AGENTAUDIT_TRIES") != "share"


def of(whole: int, *, share: int) -> int:
    """Return how many times to try: `whole` where all is tried, else `share`."""
    return whole if IS_WHOLE else share


def steps(start: int, stop: int, *, share: int) -> range:
    """Return the numbers from `start` to below `stop`: all of them, or each `share`-th."""
    if IS_WHOLE:
        return range(start, stop)
    return range(start + random.randrange(share), stop, share)
