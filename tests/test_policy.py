"""Until rules exist, the policy says one thing, and says it for everything."""

from __future__ import annotations

import pytest

from agentaudit import policy
from agentaudit.model import Command


@pytest.mark.parametrize("cls", ["read", "write", "schema", "admin", "session", "unknown"])
def test_without_rules_a_command_of_any_class_is_allowed_by_the_rule_none(cls: str) -> None:
    decision = policy.decide(Command(command_no=0, text="DROP TABLE orders", cls=cls))

    assert (decision.action, decision.rule) == ("allow", "none")


def test_the_decision_is_what_a_command_records_by_default() -> None:
    command = Command(command_no=0)

    assert policy.decide(command) == policy.Decision(command.decision, command.rule)


def test_a_rule_that_cannot_be_judged_yet_is_never_taken_for_one_that_does_not_match() -> None:
    with pytest.raises(ValueError, match="1 rules given, expected none"):
        policy.decide(Command(command_no=0), rules=[object()])  # type: ignore[list-item]


def test_a_decision_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(AttributeError):
        policy.NO_RULE.action = "deny"  # type: ignore[misc]
