"""What a verification says: what failed and where, how much was checked, what is exposed.

What is promised, and against what: docs/limits.md
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from agentaudit.archive.files import measure
from agentaudit.archive.note import Checkpoint
from agentaudit.errors import AgentauditError, ArchiveError

MALFORMED = (
    AgentauditError,
    pa.ArrowException,
    struct.error,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What reading a hostile archive may raise: each becomes a finding.

A MemoryError, which Arrow's own may be besides, is none: an honest archive may be larger than what
the machine lets us have. Who catches these lets it through first, and whoever answers for the
whole says that it could not tell.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check that failed: which, where, what was seen and what was expected."""

    check: str
    place: str
    seen: str
    expected: str = ""

    def __str__(self) -> str:
        expected = f", {self.expected} expected" if self.expected else ""
        return f"{self.place}: {self.seen}{expected} [{self.check}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Something outside the archive that fixes a log as it was at `size` entries.

    `kind`: remembered, given, witnessed or time-stamped checkpoint. `at_s` is when that was,
    seconds since 1970, and `by` who says so: witnesses by their names in the policy, or where the
    time stamp was asked for.
    """

    gateway: str
    kind: str
    size: int
    at_s: int | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What of a log no anchor outside the archive covers yet.

    Whoever holds the signing key could rewrite just this without being caught by this check.
    `since_size` is the log's size at the anchor (0: none), `events` counts those sealed or
    journaled after it.
    """

    gateway: str
    anchor: str
    since_size: int
    entries: int
    events: int


@dataclass(slots=True)
class Verification:
    """The answer: True yes, False no, None could not tell.

    `subject` is what was checked where that is not a whole archive.
    """

    ok: bool | None = None
    subject: str = ""
    findings: list[Finding] = field(default_factory=list)
    exposure: list[Exposure] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    unknown_signers: list[str] = field(default_factory=list)
    without_quorum: list[str] = field(default_factory=list)
    deep: bool = False
    gateways: int = 0
    segments: int = 0
    events: int = 0
    sessions: int = 0
    commands: int = 0
    live_events: int = 0
    scripted_clocks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Progress = Callable[[str, int, int], None]
"""Takes what is checked, how much of it is done, and how much there is."""


class Found(Protocol):
    """Takes a finding: which check, where, what was seen and what was expected."""

    def __call__(self, check: str, place: str, seen: str, expected: str = "") -> None: ...


def is_as_sealed(path: Path, place: str, told: Mapping[str, Any], found: Found) -> bool:
    """Say whether a file has the size and digest that the log tells of it; find it if not."""
    try:
        size, digest = measure(path, told["bytes"])
    except OSError as error:
        found("file", place, str(error.strerror), "a file")
        return False
    except ArchiveError as error:
        found("file", place, str(error), "a file")
        return False
    if size != told["bytes"]:
        found("file", place, f"{size} bytes", f"{told['bytes']} as sealed")
    elif digest != told["sha256"]:
        found("file", place, f"SHA-256 {digest[:8]}…", f"{told['sha256'][:8]}… as sealed")
    else:
        return True
    return False


def words(error: BaseException) -> str:
    """Return what a finding says of an error; a value's own text may be content."""
    if isinstance(error, AgentauditError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "reading it takes more memory than is allowed"
    return f"malformed ({type(error).__name__})"
