"""Every error that agentaudit raises on purpose, named by who must act.

An expected answer is a value, not an error: a refusal is a decision, a failed check is a
finding. An error carries what, where, seen and expected in its message, never content, and a
hint about what to do next.
"""

from __future__ import annotations


class AgentauditError(Exception):
    """Base of all of them; `hint` says what to do next, and may be empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(AgentauditError):
    """The operator must mend `agentaudit.toml` or a file that it names."""


class ClientProtocolError(AgentauditError):
    """The client sent bytes that its protocol does not allow."""


class TargetProtocolError(AgentauditError):
    """The target sent bytes that its protocol does not allow."""


class TargetError(AgentauditError):
    """The target cannot be reached, or refuses the gateway's credential."""


class IdentityError(AgentauditError):
    """A token does not prove who its bearer is; the message never holds the token."""


class IssuerError(AgentauditError):
    """The identity provider cannot be reached, or answers something unusable."""


class RecordingError(AgentauditError):
    """Nothing more can be recorded, so nothing more may pass."""


class ArchiveError(AgentauditError):
    """The archive cannot be read: foreign, newer, half copied, or not there."""


class TamperedError(ArchiveError):
    """The archive contradicts what was signed; start is refused until an operator looks."""


class QuestionError(AgentauditError):
    """Whoever asks must ask otherwise: no such session, command, side or key file."""
