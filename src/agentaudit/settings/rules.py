"""`[[rule]]`: what is allowed, denied or held, and which rule hides which.

The first rule that matches decides. One that is never reached is an error of the file, for whoever
wrote it meant something by it; it is only found where that is certain.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from agentaudit.settings.values import (
    MICROSECOND,
    Class,
    Duration,
    Operation,
    PatternText,
    RuleResource,
    Table,
    Word,
)

MAX_APPROVALS: Final = 10
_LONGEST_HOLD: Final = timedelta(hours=12)

RESERVED_RULES: Final = frozenset({"none", "default", "protocol", "grant", "access"})
"""What a command's `rule` says where no rule of the settings decided."""


class When(Table):
    """`when` of a rule: conditions that must all be met; of a list, one is enough."""

    target: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    protocol: Annotated[tuple[Literal["postgres", "ssh"], ...], Field(min_length=1)] | None = None
    groups: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    tags: Annotated[dict[Word, Word], Field(min_length=1)] | None = None
    cls: Annotated[tuple[Class, ...], Field(min_length=1)] | None = Field(
        default=None, alias="class"
    )
    operation: Annotated[tuple[Operation, ...], Field(min_length=1)] | None = None
    resource: Annotated[tuple[RuleResource, ...], Field(min_length=1)] | None = None
    text: Annotated[PatternText, Field(min_length=1, max_length=10_000)] | None = None
    rows_over: Annotated[int, Field(ge=0, le=2**53 - 1, strict=True)] | None = None

    def document(self) -> dict[str, Any]:
        """Return the conditions that there are, as the policy document has them."""
        found = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {name: sorted(set(v)) if isinstance(v, list) else v for name, v in found.items()}

    def covers(self, other: When) -> bool:
        """Return whether each of its conditions is one of `other`'s too, no wider there."""
        theirs = other.document()
        return all(
            name in theirs and _is_within(theirs[name], wanted)
            for name, wanted in self.document().items()
        )


def _is_within(narrow: Any, wide: Any) -> bool:
    if isinstance(wide, list):
        return set(narrow) <= set(wide)
    if isinstance(wide, int):
        return bool(narrow >= wide)
    if isinstance(wide, dict):
        # Each tag is a condition more.
        return bool(wide.items() <= narrow.items())
    return bool(narrow == wide)


class Rule(Table):
    """`[[rule]]`: what happens to the commands that meet its conditions; the first one decides."""

    name: Word
    when: When = When()
    action: Literal["allow", "deny", "hold"]
    approvers: tuple[Word, ...] = ()
    approvals: Annotated[int, Field(ge=1, le=MAX_APPROVALS, strict=True)] = 1
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=_LONGEST_HOLD)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Rule:
        if self.action == "allow" and self.when.rows_over is not None:
            raise ValueError("rows_over is for what is not to pass: deny or hold it")
        if self.action != "hold":
            for key in ("approvers", "approvals", "timeout"):
                if key in self.model_fields_set:
                    raise ValueError(f'{key} means something only with action = "hold"')
        return self

    def document(self) -> dict[str, Any]:
        """Return the rule as the policy document has it."""
        said: dict[str, Any] = {
            "action": self.action,
            "name": self.name,
            "when": self.when.document(),
        }
        if self.action == "hold":
            said["approvals"] = self.approvals
            said["approvers"] = list(self.approvers)
            said["timeout_us"] = None if self.timeout is None else self.timeout // MICROSECOND
        return said

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in RESERVED_RULES:
            raise ValueError(f'"{value}" is what is recorded where no rule decided')
        return value

    def hides(self, later: Rule) -> bool:
        """Return whether a `later` rule is never reached behind this one."""
        if not self.when.covers(later.when):
            return False
        if self.action != "allow" or not (
            self.when.operation or self.when.resource or self.when.text
        ):
            return True
        # Of what a text says, a rule allows less than one that denies or holds by the same words.
        return later.action == "allow" and "unknown" not in (later.when.cls or ())
