"""RFC 3161 time stamps over a log's checkpoints: asking for them, and holding them to a CA.

What is stamped is the note text of a checkpoint (origin, size, root), which anybody can write down
again from the log, and not a note with its signatures, which lasts for a moment. The whole response
is kept, as the authority sent it, for `openssl ts -verify`.

Source: RFC 3161; the certificates of a token must have been valid at its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentaudit.archive.files import make_folder, replace
from agentaudit.archive.layout import anchor_path
from agentaudit.archive.note import Checkpoint
from agentaudit.archive.outside import AnchorPeer, Errand, Patience, Say, post
from agentaudit.errors import ArchiveError

_SELF_MADE = 1
"""How many entries an anchor itself adds to a log: a log with no more than that is old news."""


class Authorities:
    """Certificates from outside the archive that a token must lead to."""

    def __init__(self, pem: bytes) -> None:
        """Take one certificate or more, PEM.

        Raises:
            ArchiveError: there is none.
        """
        # Not at the top: most sealers ask no authority, and it is an eighth of what they load.
        from cryptography import x509

        try:
            found = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise ArchiveError(f"certificates: not PEM ({type(error).__name__})") from None
        self._roots = [c for c in found if c.issuer == c.subject] or found
        self._others = [c for c in found if c not in self._roots]

    def check(self, token: bytes, text: bytes) -> int:
        """Return when `token` says that it saw `text`, seconds since 1970.

        Raises:
            ArchiveError: not a token of these authorities over this text.
        """
        from rfc3161_client import VerifierBuilder

        response = _decode(token)
        verifier = VerifierBuilder(roots=self._roots, intermediates=self._others).build()
        _guarded(lambda: verifier.verify_message(response, text))
        return _time_of(response)


def request_token(peer: AnchorPeer, text: bytes) -> bytes:
    """Return the response of an authority with a token over `text`.

    Raises:
        OSError: it cannot be reached, or the file with its certificates cannot be read.
        ArchiveError: it refuses, or what it sends is no token over `text`.
    """
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder(data=text, hash_algorithm=HashAlgorithm.SHA256)
    request = builder.build()
    reply = post(peer.url, request.as_bytes(), "application/timestamp-query", None)
    if reply.status != 200:
        raise ArchiveError(f"it answers {reply.status}")
    response = _decode(reply.body)
    info = _guarded(lambda: response.tst_info)
    if info.message_imprint.message != sha256(text).digest() or info.nonce != request.nonce:
        raise ArchiveError("its token is not over what it was asked for")
    if peer.ca_file is not None:
        Authorities(Path(peer.ca_file).read_bytes()).check(reply.body, text)
    return reply.body


def _decode(token: bytes) -> Any:
    from rfc3161_client import PKIStatus, decode_timestamp_response

    response = _guarded(lambda: decode_timestamp_response(token))
    if response.status != PKIStatus.GRANTED:
        raise ArchiveError(f"time stamp: refused with status {response.status}")
    return response


def _time_of(response: Any) -> int:
    time: datetime = _guarded(lambda: response.tst_info.gen_time)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def _guarded(work: Callable[[], Any]) -> Any:
    """Return what `work` does; whatever a hostile token makes of it is an ArchiveError."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the Rust parser is no Exception
        # Its words are about encodings and certificates, and end in a trace of its libraries.
        words = str(error).partition(": ErrorStack")[0][:200]
        raise ArchiveError(f"time stamp: {words or type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class Anchored:
    """A token over a checkpoint, and which authority sent it."""

    authority: str
    checkpoint: Checkpoint
    token: bytes


class Anchoring:
    """Gets a log's checkpoints stamped. All methods are the sealer's; none of them waits.

    One authority at a time, so that no two tokens are over one size.
    """

    def __init__(
        self, folder: Path, entries: Iterable[dict[str, Any]], peers: Sequence[AnchorPeer], say: Say
    ) -> None:
        """Know the log in `folder` and its `entries` so far; remove tokens that none names."""
        self._folder = folder
        anchors = [entry for entry in entries if entry["type"] == "anchor"]
        self._last_size = max((entry["size"] for entry in anchors), default=-1)
        self._peers = [(peer, Patience("time-stamping authority", peer.url, say)) for peer in peers]
        self._due_s = [0.0] * len(self._peers)
        self._errand: Errand[Anchored] = Errand("anchor")
        self._asked = 0
        named = {folder / anchor_path(entry["size"]) for entry in anchors}
        for path in folder.glob("anchors/*"):
            if path not in named:
                path.unlink()

    def turn(self, checkpoint: Checkpoint, now_s: float) -> dict[str, Any] | None:
        """Go on; return an `anchor` entry to append, whose token is durable by then.

        `checkpoint` is the log's at this moment.
        """
        if self._errand.is_under_way:
            return self._take(now_s)
        if checkpoint.size > self._last_size + _SELF_MADE:
            for number, (peer, patience) in enumerate(self._peers):
                if now_s >= self._due_s[number] and patience.allows(now_s):
                    self._asked = number
                    self._errand.begin(partial(_stamp, peer, checkpoint))
                    break
        return None

    def _take(self, now_s: float) -> dict[str, Any] | None:
        result = self._errand.take()
        if result is None:
            return None
        peer, patience = self._peers[self._asked]
        if isinstance(result, Exception):
            patience.failed(result, now_s)
            return None
        patience.answered()
        self._due_s[self._asked] = now_s + peer.interval_s
        self._last_size = result.checkpoint.size
        path = self._folder / anchor_path(self._last_size)
        make_folder(path.parent)
        replace(path, result.token)
        return {
            "type": "anchor",
            "size": self._last_size,
            "root": result.checkpoint.root.hex(),
            "authority": result.authority,
            "sha256": sha256(result.token).hexdigest(),
        }


def _stamp(peer: AnchorPeer, checkpoint: Checkpoint) -> Anchored:
    return Anchored(peer.url, checkpoint, request_token(peer, checkpoint.text().encode()))
