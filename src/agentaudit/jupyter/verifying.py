"""Verifications that a browser asked for.

The last results are kept as long as the server runs; that an archive was verified is of that
moment, and says when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.client.local import record_access
from agentaudit.errors import QuestionError
from agentaudit.jupyter.archives import READER, Found
from agentaudit.jupyter.jobs import Job, Jobs

MAX_FINDINGS: Final = 100
_MAX_KEY_BYTES: Final = 16 * 1024


class Verifications(Jobs):
    """Runs them, newest last, against verifier keys in `keys`, files that the operator named.

    Where there are none, an archive is held against itself and against what is remembered of it:
    a key that lies beside it came with it, and must not count as one from outside.
    """

    def __init__(self, keys: Sequence[Path] = ()) -> None:
        super().__init__("verification")
        self._keys = tuple(keys)

    @property
    def key(self) -> Path | None:
        """The file with verifier keys that the operator named, or None where it is not just one."""
        return self._keys[0] if len(self._keys) == 1 else None

    def start(self, one: Found, *, deep: bool) -> Job | None:
        """Verify an archive, or return the job that does so already; None if too many wait."""
        return self.begin(one.id, {"deep": deep}, partial(self._verify, one, deep))

    def _verify(self, one: Found, deep: bool, job: Job) -> dict[str, Any]:
        record_access(one.folder, "verify", "archive", READER)
        result = verify(
            one.folder,
            key=texts(self._keys) or None,
            deep=deep,
            remember=bool(self._keys),
            progress=job.follow,
        )
        return _told(result) | {
            "keys": [file.name for file in self._keys],
            "is_key_beside": one.key is not None,
            "is_consistent": not (self._keys or result.findings or result.unread),
        }


def texts(keys: Sequence[Path]) -> list[str]:
    """Return the verifier keys in files that the operator named.

    Raises:
        QuestionError: one cannot be read.
    """
    return [_text(file) for file in keys]


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_KEY_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise QuestionError(f"{file.name}: {error.strerror}") from None


def _told(result: Verification) -> dict[str, Any]:
    """Return a result for JSON: what failed first stands first."""
    # The last of each kind: a log that is stamped every hour has thousands.
    anchors = {(one.gateway, one.kind): one for one in result.anchors}
    return {
        "ok": result.ok,
        "deep": result.deep,
        "findings": [asdict(one) for one in result.findings[:MAX_FINDINGS]],
        "findings_count": len(result.findings),
        "exposure": [asdict(one) for one in result.exposure],
        "anchors": [asdict(one) for one in anchors.values()],
        "unknown_signers": list(result.unknown_signers),
        "unread": list(result.unread),
        "notes": list(result.notes),
        "scripted_clocks": list(result.scripted_clocks),
        "gateways": result.gateways,
        "segments": result.segments,
        "events": result.events,
        "sessions": result.sessions,
        "commands": result.commands,
        "live_events": result.live_events,
        "checkpoints": {name: one.size for name, one in result.checkpoints.items()},
    }
