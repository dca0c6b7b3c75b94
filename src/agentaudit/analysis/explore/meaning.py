"""What is noted of a command on a screen: its flags, how grave it is, and its class.

One place for it, as SQL over the columns of the archive's `commands`: the index is built with it,
what is asked before there is an index uses it, and filters print it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DECISIONS: Final = ("allow", "deny", "hold")
LARGE_ROWS = 1_000
LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Flag:
    """A bit of `flags`, and the condition for it, which is true or false and never null."""

    bit: int
    sql: str


FLAGS: Final[Mapping[str, Flag]] = {
    "error": Flag(1, "coalesce(status = 'error', FALSE)"),
    "held": Flag(2, "coalesce(decision = 'hold', FALSE)"),
    "denied": Flag(4, "(coalesce(decision = 'deny', FALSE) OR coalesce(status = 'denied', FALSE))"),
    "masked": Flag(8, "coalesce(masked > 0, FALSE)"),
    "large": Flag(
        16,
        f"(coalesce(rows_returned >= {LARGE_ROWS}, FALSE) "
        f"OR coalesce(rows_affected >= {LARGE_ROWS}, FALSE) "
        f"OR coalesce(bytes_out >= {LARGE_BYTES}, FALSE))",
    ),
}
"""Large is a result, or a change, of so many rows or bytes."""

FLAGS_SQL: Final = (
    f"({' | '.join(f'if({flag.sql}, {flag.bit}, 0)' for flag in FLAGS.values())})::UTINYINT"
)

GRAVITY: Final = ("schema", "admin", "write", "unknown", "read", "session", "")
"""Classes by code, the gravest first; the last stands for any word that is none of them."""
STATUS: Final = ("ok", "error", "denied", "cancelled", "incomplete", "")
DECISION: Final = (*DECISIONS, "")

SEVERITY_SQL: Final = f"""(CASE
    WHEN {FLAGS["denied"].sql} OR {FLAGS["held"].sql} THEN 3
    WHEN status IN ('error', 'cancelled') OR class IN ('schema', 'admin') OR {FLAGS["large"].sql}
        THEN 2
    WHEN class IN ('write', 'unknown') OR {FLAGS["masked"].sql} THEN 1
    ELSE 0 END)"""
"""0 to 3: 3 is what a rule or a person stopped or held, 2 what failed, or changes what is allowed
or what there is, or is large; 1 changes rows, is not understood or was masked."""

SEVERITY_BITS = 56
CLASS_BITS = 53


def code(column: str, words: tuple[str, ...]) -> str:
    """Return the SQL for the place of `column` among `words`, the last one for any other."""
    cases = " ".join(f"WHEN '{word}' THEN {place}" for place, word in enumerate(words[:-1]))
    return f"(CASE {column} {cases} ELSE {len(words) - 1} END)::UTINYINT"


def gravest(identity: str) -> str:
    """Return the SQL of a number that is least for the gravest command.

    Its upper bits are 3 minus the severity, then come three for the class and 53 for `identity`:
    so one minimum says how grave it gets in a bin, of which class, and which command it is.
    """
    return (
        f"(((3 - {SEVERITY_SQL})::BIGINT << {SEVERITY_BITS}) "
        f"| ({code('class', GRAVITY)}::BIGINT << {CLASS_BITS}) | {identity})"
    )


def severity_of(gravest: str) -> str:
    """Return the SQL for the severity in such a number."""
    return f"(3 - ({gravest} >> {SEVERITY_BITS}))::UTINYINT"


def class_of(gravest: str) -> str:
    """Return the SQL for the code of the class in such a number."""
    return f"(({gravest} >> {CLASS_BITS}) & 7)::UTINYINT"


def identity_of(gravest: str) -> str:
    """Return the SQL for the command in such a number."""
    return f"({gravest} & {(1 << CLASS_BITS) - 1})::BIGINT"
