"""Rules over what was recorded: which commands they would have let pass, beside what was decided.

What a command does is taken as its row says, as it was read when it ran; a newer parser changes no
history; and so is how many rows it was about, where it ran. Nothing is run, and what would have
come after a command that was denied is not known: each is judged as if all others had passed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agentaudit.analysis.store import Store, named
from agentaudit.archive.layout import Layout
from agentaudit.errors import QuestionError
from agentaudit.model import Command
from agentaudit.policy import Decision, Policy

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BATCH_ROWS: Final = 10_000
_BY_PROTOCOL: Final = Decision("deny", "protocol")
"""No rule can let pass what is no message of ours to pass on."""


def policy_of(rules: str | PathLike[str], layout: Layout) -> Policy:
    """Return the policy of a settings file, or the one of the archive that has this SHA-256.

    Raises:
        SettingsError: the file cannot be read, or a key of it is wrong.
        QuestionError: the archive has no such policy, or one of a newer release.
    """
    from agentaudit.settings.file import load  # takes longer to load than all else here

    if not (isinstance(rules, str) and _DIGEST.fullmatch(rules)):
        return Policy(load(Path(fspath(rules))).policy_document())
    try:
        return Policy(layout.policy(rules).read_bytes())
    except FileNotFoundError:
        raise QuestionError(
            f"policy {rules}: not in this archive",
            hint="the column policy_digest of sessions has those that were in force",
        ) from None
    except ValueError as error:
        raise QuestionError(f"policy {rules}: {error}") from None


def judged(store: Store, policy: Policy) -> pa.Table:
    """Return a row a command, with what `policy` `would` have decided, and by which rule."""

    # Agents say the same again and again.
    @lru_cache(maxsize=100_000)
    def decided(
        target: str,
        protocol: str,
        groups: tuple[str, ...],
        cls: str,
        operation: str,
        resources: tuple[str, ...],
        risk: tuple[str, ...],
        text: str,
    ) -> Decision:
        session = policy.for_session(target=target, protocol=protocol, groups=groups)
        command = Command(
            command_no=0, cls=cls, operation=operation, resources=resources, risk=risk
        )
        return session.decide(command, text)

    def decide(row: dict[str, Any]) -> Decision:
        if row["rule"] == "protocol":
            return _BY_PROTOCOL
        return decided(
            row["target"],
            row["protocol"],
            tuple(row["groups"] or ()),
            row["class"],
            row["operation"] or "",
            tuple(row["resources"] or ()),
            tuple(row["risk"] or ()),
            row["text"] or "",
        ).about(row["about_rows"])

    reader = store.ask(named("backtest")).to_arrow_reader(_BATCH_ROWS)
    decided_on = [n for n in reader.schema.names if n not in ("groups", "about_rows")]
    batches = []
    for batch in reader:
        decisions = [decide(row) for row in batch.to_pylist()]
        columns = {name: batch.column(name) for name in decided_on}
        columns["would"] = pa.array([one.action for one in decisions], pa.string())
        columns["would_rule"] = pa.array([one.rule for one in decisions], pa.string())
        batches.append(pa.record_batch(columns))
    kept = [reader.schema.field(name) for name in decided_on]
    added = [pa.field("would", pa.string()), pa.field("would_rule", pa.string())]
    return pa.Table.from_batches(batches, pa.schema([*kept, *added]))
