"""What a browser asks for and takes long: one at a time, looked at while it runs, and ended.

A job is a value that its thread writes and the event loop reads. The last ones are kept as long as
the server runs.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agentaudit.errors import AgentauditError

MAX_JOBS: Final = 50
_MAX_WAITING: Final = 8


class Stopped(BaseException):
    """Ends a job from inside its progress; what catches errors must not catch it."""


@dataclass(slots=True)
class Job:
    """One job; `state` is `waiting`, `running`, `done`, `failed` or `stopped`.

    `asked` is what it was asked for, in plain values.
    """

    id: str
    archive: str
    asked: Mapping[str, Any] = field(default_factory=dict)
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
        del told["is_to_stop"], told["asked"]
        return told | dict(self.asked)

    def follow(self, step: str, done: int, total: int) -> None:
        """Take down how far it is; what works calls this often.

        Raises:
            Stopped: somebody wants it to end.
        """
        if self.is_to_stop:
            raise Stopped
        self.step, self.done, self.total = step, done, total


class Jobs:
    """Jobs of one kind, run one by one in the order in which they came; `what` names the kind."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="agentaudit-job")
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def begin(
        self, archive: str, asked: Mapping[str, Any], work: Callable[[Job], dict[str, Any]]
    ) -> Job | None:
        """Begin a job, or return the one that does the same already; None if too many wait."""
        with self._lock:
            unfinished = [job for job in self._jobs.values() if job.state in ("waiting", "running")]
            for job in unfinished:
                if (job.archive, job.asked, job.is_to_stop) == (archive, asked, False):
                    return job
            if len(unfinished) >= _MAX_WAITING:
                return None
            job = Job(id=secrets.token_hex(12), archive=archive, asked=dict(asked))
            self._jobs[job.id] = job
            while len(self._jobs) > MAX_JOBS:
                self._jobs.popitem(last=False)
        self._pool.submit(self._run, job, work)
        return job

    def job(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def last_of(self, archive: str) -> Job | None:
        """Return the last job about an archive that came to an answer."""
        with self._lock:
            jobs = list(self._jobs.values())
        ended = [job for job in jobs if job.archive == archive and job.state == "done"]
        return ended[-1] if ended else None

    def stop(self, job: Job) -> None:
        """End a job at its next step."""
        job.is_to_stop = True

    def close(self) -> None:
        with self._lock:
            for job in self._jobs.values():
                job.is_to_stop = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: Job, work: Callable[[Job], dict[str, Any]]) -> None:
        try:
            job.state = "running"
            job.follow("", 0, 0)
            job.result = work(job)
            job.state = "done"
        except Stopped:
            job.state = "stopped"
        except AgentauditError as error:
            job.state, job.error, job.hint = "failed", str(error), error.hint
        except MemoryError:
            job.state, job.error = "failed", "it takes more memory than is allowed"
        except Exception as error:
            job.state, job.error = "failed", f"the {self._what} failed: {type(error).__name__}"
        finally:
            job.ended_at = time.time_ns() // 1_000
