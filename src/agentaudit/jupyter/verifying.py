"""Verifications that a browser asked for: one at a time, looked at while they run.

A job is a value that its thread writes and the event loop reads. The last results are kept as long
as the server runs; that an archive was verified is of that moment, and says when.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.client.local import record_access
from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.jupyter.archives import READER, Found

MAX_JOBS: Final = 50
MAX_FINDINGS: Final = 100
_MAX_WAITING: Final = 8
_MAX_KEY_BYTES: Final = 16 * 1024


class _Stopped(BaseException):
    """Ends a verification from inside its progress; what catches errors must not catch it."""


@dataclass(slots=True)
class Job:
    """One verification; `state` is `waiting`, `running`, `done`, `failed` or `stopped`."""

    id: str
    archive: str
    deep: bool
    state: str = "waiting"
    step: str = ""
    done: int = 0
    total: int = 0
    result: dict[str, Any] | None = None
    error: str = ""
    hint: str = ""
    ended_at: int = 0
    is_to_stop: bool = False

    def told(self) -> dict[str, Any]:
        """Return it for JSON; times are µs since 1970."""
        told = asdict(self)
        del told["is_to_stop"]
        return told


class Verifications:
    """Runs them, newest last, against verifier keys in `keys`, files that the operator named.

    Where there are none, an archive is held against itself and against what is remembered of it:
    a key that lies beside it came with it, and must not count as one from outside.
    """

    def __init__(self, keys: Sequence[Path] = ()) -> None:
        self._keys = tuple(keys)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="agentaudit-verify")
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    @property
    def key(self) -> Path | None:
        """The file with verifier keys that the operator named, or None where it is not just one."""
        return self._keys[0] if len(self._keys) == 1 else None

    def start(self, one: Found, *, deep: bool) -> Job | None:
        """Verify an archive, or return the job that does so already; None if too many wait."""
        with self._lock:
            unfinished = [job for job in self._jobs.values() if job.state in ("waiting", "running")]
            for job in unfinished:
                if (job.archive, job.deep) == (one.id, deep):
                    return job
            if len(unfinished) >= _MAX_WAITING:
                return None
            job = Job(id=secrets.token_hex(12), archive=one.id, deep=deep)
            self._jobs[job.id] = job
            while len(self._jobs) > MAX_JOBS:
                self._jobs.popitem(last=False)
        self._pool.submit(self._run, job, one)
        return job

    def job(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def last_of(self, archive: str) -> Job | None:
        """Return the last verification of an archive that came to an answer."""
        with self._lock:
            jobs = list(self._jobs.values())
        ended = [job for job in jobs if job.archive == archive and job.state == "done"]
        return ended[-1] if ended else None

    def stop(self, job: Job) -> None:
        """End a verification at its next step."""
        job.is_to_stop = True

    def close(self) -> None:
        with self._lock:
            for job in self._jobs.values():
                job.is_to_stop = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: Job, one: Found) -> None:
        try:
            job.state = "running"
            self._follow(job, "", 0, 0)
            record_access(one.folder, "verify", "archive", READER)
            result = verify(
                one.folder,
                key=[_text(file) for file in self._keys] or None,
                deep=job.deep,
                remember=bool(self._keys),
                progress=partial(self._follow, job),
            )
            job.result = _told(result) | {
                "keys": [file.name for file in self._keys],
                "is_key_beside": one.key is not None,
                "is_consistent": not (self._keys or result.findings or result.unread),
            }
            job.state = "done"
        except _Stopped:
            job.state = "stopped"
        except AgentauditError as error:
            job.state, job.error, job.hint = "failed", str(error), error.hint
        except MemoryError:
            job.state, job.error = "failed", "reading it takes more memory than is allowed"
        except Exception as error:
            job.state, job.error = "failed", f"the verification failed: {type(error).__name__}"
        finally:
            job.ended_at = time.time_ns() // 1_000

    @staticmethod
    def _follow(job: Job, step: str, done: int, total: int) -> None:
        if job.is_to_stop:
            raise _Stopped
        job.step, job.done, job.total = step, done, total


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
