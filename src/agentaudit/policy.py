"""Whether a command may pass: rules and a command in, a decision out, and nothing else.

Rules are not built yet, so there is exactly one decision: allow, by the rule `none`. It is made
and recorded all the same, for every command, so that an archive says what was in force when the
statement ran, and so that what calls this does not change when rules come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Never

from agentaudit.model import Command

Action = Literal["allow", "deny", "hold"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What may happen to a command, and the name of the rule that says so."""

    action: Action
    rule: str


NO_RULE: Final = Decision("allow", "none")
"""What every command gets until rules exist."""


def decide(command: Command, rules: Sequence[Never] = ()) -> Decision:
    """Return the decision of the first rule that matches `command`; with no rules, `NO_RULE`.

    Raises:
        ValueError: rules are given, and none can be judged yet: a rule that is not understood
            must never read as one that does not match.
    """
    if rules:
        raise ValueError(f"policy: {len(rules)} rules given, expected none")
    return NO_RULE
