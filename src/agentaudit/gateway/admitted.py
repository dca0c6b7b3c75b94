"""What a door, and who says who is let in, say to each other.

Neither the words nor the types need the state: a gateway that has none loads nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from agentaudit.policy import Rule

TICKET: Final = "aat_"
"""How a ticket begins, and no token does."""

WINDOW_WORDS: Final = {
    "window_end": (
        "the time for which you have access is over",
        "ask for access anew, and log in for a new token",
    ),
    "revoked": ("your access was revoked", "ask who revoked it, or for access anew"),
}
"""What a client is told whose window has ended: message and hint."""


class NotAdmitted(Exception):
    """Somebody is not let in; a client may see all of it."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """By what somebody was let in: nothing to remember where `window_id` is None.

    `ends_us` is when the session ends at the latest, 0 where no window says so.
    """

    window_id: UUID | None = None
    ends_us: int = 0
    scope: Rule | None = None


STANDING: Final = Admitted()
