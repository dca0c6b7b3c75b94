"""A drill: attacks on a copy of an archive, and which check of `verify` caught each.

A promise that nobody ever tried to break is worth little; so the list of attacks is published,
whoever has an archive can play it on a copy, and what cannot be caught is listed with its reason.

What is promised, and against what: docs/limits.md
"""

from agentaudit.archive.drill.attacks import ATTACKS, Answer, Attack
from agentaudit.archive.drill.run import Outcome, Reply, Report, drill

__all__ = ["ATTACKS", "Answer", "Attack", "Outcome", "Reply", "Report", "drill"]
