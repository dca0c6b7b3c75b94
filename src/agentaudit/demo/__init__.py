"""The whole system on embedded parts, with a scripted agent.

Nothing in it is pretended: a PostgreSQL server, an OpenID Connect provider and the gateway run
as processes of their own, and the agent speaks to them through psycopg and psql.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO


def run(directory: Path, out: TextIO) -> int:
    """Record, verify and replay an agent's day in `directory`; tell `out` what was done.

    Returns 0 if everything was recorded and verifies, 1 if not. An earlier run's files are moved
    to `earlier/` in the same folder, never removed.

    Raises:
        PeerError: a part did not start or end as it should.
        QuestionError: `directory` holds something that is not a demo's.
    """
    # Imported here: the provider's process runs a module of this package and needs none of it.
    from agentaudit.demo.presentation import present

    return present(directory, out)
