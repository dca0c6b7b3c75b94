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


class MaskingError(AgentauditError):
    """Something cannot be masked, so it may not be recorded and must not pass."""


class StateError(AgentauditError):
    """The gateway's state cannot be reached or read, so no new session opens and nobody decides."""


class ControlError(AgentauditError):
    """The control API gives no usable answer; what it was asked to do may be done all the same."""


class RefusedError(ControlError):
    """The control API said no; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status

    @property
    def is_final(self) -> bool:
        """Whether to ask again with a better token, or later, would change nothing."""
        return self.status not in (401, 429)


class ArchiveError(AgentauditError):
    """The archive cannot be read: foreign, newer, half copied, or not there."""


class TamperedError(ArchiveError):
    """The archive contradicts what was signed; start is refused until an operator looks."""


class QuestionError(AgentauditError):
    """Whoever asks must ask otherwise: no such session, command, side or key file."""


class NoSuchRequest(QuestionError):
    """No hold and no access request has this id; `NoSuchGrant` and `NoSuchBlock` are like it."""


class NoSuchGrant(QuestionError):
    """No grant has this id."""


class NoSuchBlock(QuestionError):
    """No block that is in force has this id."""


class NotPending(QuestionError):
    """A request was decided, cancelled, or is over: a decision comes too late."""


class WrongDigest(QuestionError):
    """A decision was made about another text than the one that waits."""


class AlreadyVoted(QuestionError):
    """Whoever decides has decided this request before; it takes somebody else."""


class TooManyPending(QuestionError):
    """A requester waits for as many decisions, or has as many tickets, as it may."""


class WindowClosed(QuestionError):
    """A token's access to a target is over; `reason` is the word for how that came."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class TooLarge(QuestionError):
    """A text or a document is larger than the gateway's state keeps."""
