"""What the sealer tells the world of its log: witnesses and time-stamping authorities, by HTTP.

None of it may ever hold up recording. Each peer is asked in a thread of its own, one request at a
time; the sealer looks in between ticks for what has come back, and is the only one who writes.
A peer that fails is left alone for a while, longer each time, and that is one line in the
operational log; what is not covered meanwhile is `verify`'s exposure window.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from agentaudit.errors import ArchiveError

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
FIRST_WAIT_S = 30.0
LONGEST_WAIT_S = 15 * 60.0

Say = Callable[[dict[str, Any]], None]
"""Takes what the gateway's operational log is to say: `notice` and its members."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessPeer:
    """A witness: its submission prefix, its verifier key, and who certifies its TLS (or None)."""

    url: str
    key: str
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorPeer:
    """An RFC 3161 authority: where, how often it is asked, and the certificates to hold it to."""

    url: str
    interval_s: float
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everybody outside who is told of a log."""

    witnesses: tuple[WitnessPeer, ...] = ()
    anchors: tuple[AnchorPeer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return this for the sealer's first line; whole milliseconds, as no float may be in it."""
        anchors = [
            {"url": a.url, "interval_ms": round(a.interval_s * 1000), "ca_file": a.ca_file}
            for a in self.anchors
        ]
        return {"witnesses": [asdict(peer) for peer in self.witnesses], "anchors": anchors}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outside:
        """Return what `to_json` returned the JSON of."""
        return cls(
            witnesses=tuple(WitnessPeer(**peer) for peer in value["witnesses"]),
            anchors=tuple(
                AnchorPeer(url=a["url"], interval_s=a["interval_ms"] / 1000, ca_file=a["ca_file"])
                for a in value["anchors"]
            ),
        )


class Errand(Generic[T]):
    """One piece of work at a time, in a thread that nobody waits for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: list[T | Exception] | None = None
        """None: nothing to do; empty: under way."""

    @property
    def is_under_way(self) -> bool:
        """Whether it was begun, and its result not taken yet."""
        return self._done is not None

    def begin(self, work: Callable[[], T]) -> None:
        """Start `work` in a thread; the one before has been taken."""
        done: list[T | Exception] = []
        self._done = done

        def run() -> None:
            try:
                done.append(work())
            except Exception as error:
                done.append(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def take(self) -> T | Exception | None:
        """Return the result, or the error, once there is one; then this is free again."""
        if not self._done:
            return None
        (result,) = self._done
        self._done = None
        return result


class Patience:
    """How long a peer is left alone after it failed, and what is said of that, once."""

    def __init__(self, what: str, url: str, say: Say) -> None:
        self._what = what
        self._url = url
        self._say = say
        self._failures = 0
        self._until_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether the peer may be asked."""
        return now_s >= self._until_s

    def failed(self, error: Exception, now_s: float, *, is_grave: bool = False) -> None:
        """Leave the peer alone for a while, and say so the first time, or where it is grave."""
        self._until_s = now_s + min(FIRST_WAIT_S * 2**self._failures, LONGEST_WAIT_S)
        self._failures = min(self._failures + 1, 16)
        if self._failures == 1 or is_grave:
            level = "error" if is_grave else "warning"
            self._tell(f"{self._what} does not answer as it should", level, reason=reason_of(error))

    def answered(self) -> None:
        """Ask again whenever there is something to ask."""
        if self._failures:
            self._tell(f"{self._what} answers again", "info")
        self._failures = 0
        self._until_s = 0.0

    def _tell(self, notice: str, level: str, **members: str) -> None:
        self._say({"notice": notice, "level": level, "url": self._url, **members})


def reason_of(error: Exception) -> str:
    """Return why a peer was not reached, or did not answer as it should."""
    if isinstance(error, ArchiveError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP, as far as it is read."""

    status: int
    content_type: str
    body: bytes


def post(url: str, body: bytes, content_type: str, ca_file: str | None) -> Reply:
    """Return what `url` answers to `body`; redirections are not followed.

    Raises:
        OSError: no connection, or no answer in time.
        ArchiveError: the answer is not HTTP, or longer than anything that is asked for.
    """
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path or "/"
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca_file)
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise ArchiveError(f"an answer longer than {MAX_ANSWER_BYTES} bytes")
        return Reply(answer.status, answer.headers.get_content_type(), data)
    except http.client.HTTPException as error:
        raise ArchiveError(f"not an answer over HTTP ({type(error).__name__})") from None
    finally:
        connection.close()
