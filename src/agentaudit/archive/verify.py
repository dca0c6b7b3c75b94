"""Verification: starts from nothing, believes nothing that the archive says of itself.

A failed check is a finding, not an error; it names the place, what is there and what was signed.
`ok` is True only with a verifier key from outside: an archive that is consistent under the key
that lies beside it may have been rewritten together with that key.

What is promised, and against what: docs/limits.md
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from uuid import UUID

from agentaudit.archive import known
from agentaudit.archive.anchors import Authorities
from agentaudit.archive.files import read_limited
from agentaudit.archive.find import find_session
from agentaudit.archive.keys import EPOCH_NAME
from agentaudit.archive.layout import (
    GATEWAY_NAME,
    TABLES,
    Layout,
    anchor_size,
    is_segment,
    segment_path,
    tile_end,
)
from agentaudit.archive.log import Log, read_log
from agentaudit.archive.note import Checkpoint, Verifier, open_note
from agentaudit.archive.purge import MAX_POLICY_BYTES
from agentaudit.archive.sealed import sealed_segments
from agentaudit.archive.snapshot import check_format
from agentaudit.archive.tlog_policy import parse_policy
from agentaudit.archive.verification import MALFORMED, Finding, Progress, Verification, words
from agentaudit.archive.verify_anchors import Trust
from agentaudit.archive.verify_log import LogCheck, Scope
from agentaudit.archive.verify_proof import ProofCheck, is_proof
from agentaudit.archive.verify_session import SessionCheck
from agentaudit.errors import ArchiveError, QuestionError, SettingsError

_PASSES = 3
"""How often to look at an archive that changes while it is checked."""


def verify(
    path: Path | str,
    *,
    key: str | Sequence[str] | None = None,
    since: str | None = None,
    policy: str | bytes | None = None,
    tsa: str | bytes | None = None,
    deep: bool = False,
    session: UUID | str | None = None,
    remember: bool = True,
    progress: Progress | None = None,
) -> Verification:
    """Check the archive at `path` against verifier keys and checkpoints from outside it.

    `path` may also be a folder of proofs that `prove` wrote, which is checked by itself.

    Fast: the log's consistency and signatures, and the digest of every file. `deep`: every leaf
    and root as well, the derived tables rebuilt from the events, and every column held against
    what it was denormalised from. Memory does not grow with the archive.

    Args:
        key: verifier keys (`name+hash+base64`, white space between them) that came from outside
            the archive: the log's, and its first epoch key, without which whoever holds the log
            key could have written everything anew.
        since: a checkpoint (signed note) that was kept outside, to hold the log against.
        policy: a trust policy (c2sp.org/tlog-policy) from outside: its log keys are taken as if
            given, and a checkpoint that its quorum of witnesses has cosigned is an anchor. Where
            there is none the answer is not yes.
        tsa: certificates of RFC 3161 authorities, PEM: a time stamp that leads to them is an
            anchor.
        session: a session's id, or the unambiguous beginning of one: its gateway's log is checked
            fast, its own segments deeply, and that it is complete. One that has not ended gives
            no more than "could not tell".
        remember: keep key and checkpoint in the user's state folder when nothing was found.
        progress: called with what is checked, how much of it is done, and how much there is.

    Raises:
        ArchiveError: there is no archive of this format, or a key, checkpoint, policy or
            certificate is malformed.
        QuestionError: no session, or more than one, has an id that begins so.
        SettingsError: what this machine remembers of logs cannot be read.
    """
    texts = [key] if isinstance(key, str) else list(key or ())
    keys = [Verifier.parse(line) for text in texts for line in text.split()]
    anchor = None if since is None else _parse_since(since, keys)
    trust = Trust(
        policy=None if policy is None else parse_policy(_bytes(policy)),
        authorities=None if tsa is None else Authorities(_bytes(tsa)),
        since_note=None if since is None else since.encode(),
    )
    if is_proof(Path(path)):
        if session is not None:
            raise QuestionError(
                f"{path}: proves what it proves", hint="a session is chosen in an archive"
            )
        says = progress or (lambda *_: None)
        return ProofCheck(Path(path), keys, anchor, trust, says).run()
    layout = Layout(Path(path))
    if not layout.format_file.exists() and not layout.root.joinpath("log").is_dir():
        check_format(layout)
    moved: list[set[tuple[str, str]]] = []
    while True:
        check = _Check(layout, keys, anchor, trust, deep, progress or (lambda *_: None))
        result = check.run() if session is None else check.run_session(session)
        # A gateway that records meanwhile moves things: only findings at rest count.
        is_settled = not result.findings or not check.has_moved()
        if is_settled:
            break
        moved.append({(finding.check, finding.place) for finding in result.findings})
        if len(moved) == _PASSES:
            _settle(result, set.intersection(*moved))
            break
    if remember and is_settled and not result.findings:
        for gateway, checkpoint in result.checkpoints.items():
            is_trusted = gateway not in result.unknown_signers
            known.remember(known.Known(check.scope.signers[gateway], checkpoint, is_trusted))
    return result


def _settle(result: Verification, standing: set[tuple[str, str]]) -> None:
    """Leave of a last pass what every pass has found; where that is nothing, leave it open."""
    findings = [each for each in result.findings if (each.check, each.place) in standing]
    if not findings:
        result.ok = None
        result.unread.append(
            f"what moved while it was read: {len(result.findings)} findings, others in each of "
            f"{_PASSES} passes, as recording went on; the first is {result.findings[0]}"
        )
    result.findings = findings


class _Check:
    """One pass over one archive."""

    def __init__(
        self,
        layout: Layout,
        keys: Sequence[Verifier],
        since: Checkpoint | None,
        trust: Trust,
        deep: bool,
        progress: Progress,
    ) -> None:
        self.result = Verification(deep=deep)
        self._layout = layout
        self._given = keys
        # A policy may name many logs; the archive need not have them.
        keys = [*keys, *(() if trust.policy is None else trust.policy.logs)]
        self.scope = Scope(
            layout=layout,
            keys=keys,
            since=since,
            trust=trust,
            deep=deep,
            progress=progress,
            found=self._found,
            expected={"FORMAT"},
        )

    def run(self) -> Verification:
        result, layout = self.result, self._layout
        self._check_format()
        gateways = layout.gateways()
        if not gateways:
            self._found("log", "log", "no gateway's log", "at least one")
        is_whole = True
        for gateway in gateways:
            result.gateways += 1
            try:
                LogCheck(self.scope, result, gateway).run()
            except SettingsError:
                raise
            except MemoryError as error:
                is_whole = False
                self._give_up(gateway, f"log/{gateway}", error)
            except MALFORMED as error:
                # Signed or not, the archive may hold anything: what cannot be read is a finding.
                self._found("log", f"log/{gateway}", words(error))
        if is_whole:
            # Else nobody knows what belongs here.
            self._find_strays()
            self._find_missing_logs()
        return self._answered()

    def run_session(self, session: UUID | str) -> Verification:
        """Check one session: its gateway's log, and each of its segments deeply."""
        result, layout, scope = self.result, self._layout, self.scope
        self._check_format()
        found = find_session(layout, session)
        result.subject = f"session {found.session_id}"
        result.deep, result.gateways = True, 1
        scope.files, scope.deep = False, False
        check = SessionCheck(layout, found.gateway, found.session_id, self._found)
        try:
            log = LogCheck(scope, result, found.gateway).run()
            sealed = sealed_segments(found.gateway, log.entries())
            segments, unreadable = check.segments_with_it(sealed)
            for done, segment in enumerate(segments):
                scope.progress("segments of the session", done, len(segments))
                check.check(segment)
            if segments:
                check.finish()
            if check.is_closed and not result.findings:
                # Its close commits to every event before it: nothing of it lies elsewhere.
                result.notes += [f"{each}: its sessions cannot be read" for each in unreadable]
            else:
                for segment in unreadable:
                    check.check(segment)
            result.segments = len(segments)
        except SettingsError:
            raise
        except MemoryError as error:
            self._give_up(found.gateway, result.subject, error)
            return self._answered()
        except MALFORMED as error:
            self._found("log", f"log/{found.gateway}", words(error))
        result.sessions = 1
        result.events, result.commands = check.events, check.commands
        result.live_events = found.live_events or 0
        if not check.is_closed and found.is_live is False and not result.findings:
            self._found("session", result.subject, "no session_close, and no journal knows it")
        elif not check.is_closed:
            result.unread.append(f"{result.subject}: its end is not sealed yet")
        return self._answered()

    def _give_up(self, gateway: str, place: str, error: MemoryError) -> None:
        """Say that a log could not be checked to its end; nothing of it is remembered."""
        self.result.unread.append(f"{place}: {words(error)}")
        self.result.checkpoints.pop(gateway, None)

    def _check_format(self) -> None:
        try:
            check_format(self._layout)
        except ArchiveError as error:
            self._found("format", "FORMAT", str(error))

    def _answered(self) -> Verification:
        result = self.result
        if result.findings:
            result.ok = False
        else:
            unsure = result.unknown_signers or result.unread or result.without_quorum
            result.ok = None if unsure else True
        return result

    def has_moved(self) -> bool:
        """Whether a log that this check has read has grown since, signed as it was."""
        return any(self._grown(gateway) for gateway in self.result.checkpoints)

    def _grown(self, gateway: str) -> Log | None:
        """Return the log of `gateway` as it is now if that goes on from what was read.

        Only its signer can have made it so; who only has the disk cannot make findings pass.
        """
        checkpoint = self.result.checkpoints[gateway]
        try:
            signer = Verifier.parse(self.scope.signers[gateway])
            log = read_log(self._layout.log(gateway), [signer])
            is_grown = log.signed_by and log.checkpoint.size > checkpoint.size
            return log if is_grown and log.root_at(checkpoint.size) == checkpoint.root else None
        except (*MALFORMED, MemoryError):
            return None

    def _find_missing_logs(self) -> None:
        """Name each log that a key or checkpoint was given for and that is not there."""
        there = {checkpoint.origin for checkpoint in self.result.checkpoints.values()}
        given = {key.name.removesuffix(f"/{EPOCH_NAME}") for key in self._given}
        if self.scope.since is not None:
            given.add(self.scope.since.origin)
        for origin in sorted(given - there):
            self._found("log", "log", "no log of this origin", origin)

    def _found(self, check: str, place: str, seen: str, expected: str = "") -> None:
        self.result.findings.append(Finding(check=check, place=place, seen=seen, expected=expected))

    def _find_strays(self) -> None:
        """Name every file that nothing accounts for.

        Passed over, because their content is never read as evidence: files in the making
        (`.tmp`), what the seal of a live journal makes, tiles beyond the checkpoint, a policy
        that came to be written before its entry did, time stamps that the log does not name yet,
        journals that were begun since, and a journal folder's `lock`, `reserve`, `control` (a
        socket) and copies kept after an incident. So is what the log has come to name meanwhile.
        """
        root = self._layout.root
        strays = []
        for folder, folders, files in os.walk(root):
            for path in (Path(folder) / name for name in (*folders, *files)):
                relative = path.relative_to(root).as_posix()
                try:
                    mode = path.lstat().st_mode
                except FileNotFoundError:
                    continue  # it has been made, and bears its own name now, or is sealed
                if stat.S_ISDIR(mode) or (stat.S_ISSOCK(mode) and _is_control(relative)):
                    continue
                if not stat.S_ISREG(mode):
                    self._found("stray", relative, "not a regular file")
                elif relative not in self.scope.expected and not self._is_harmless(relative):
                    strays.append(relative)
        named = self._named_since() if strays else set()
        for relative in strays:
            if relative not in named:
                self._found("stray", relative, "a file that no log entry accounts for")

    def _named_since(self) -> set[str]:
        """Return the files that the logs have come to name since they were read."""
        named = set()
        for gateway, checkpoint in self.result.checkpoints.items():
            log = self._grown(gateway)
            for entry in islice(log.entries(), checkpoint.size, None) if log else ():
                if entry["type"] == "seal":
                    segment, first_us = UUID(entry["segment"]), entry["first_at"]
                    named.add(self._relative(self._layout.head(segment)))
                    named |= {segment_path(name, gateway, first_us, segment) for name in TABLES}
                elif entry["type"] == "purge_intent":
                    named.add(self._relative(self._layout.purge(entry["purge"])))
                elif entry["type"] == "purge_done":
                    left = (entry[name] for name in ("residue", "salts"))
                    named |= {file["path"] for file in left if file is not None}
        return named

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._layout.root).as_posix()

    def _is_harmless(self, relative: str) -> bool:
        parts = relative.split("/")
        if parts[-1].endswith(".tmp"):
            return True
        if parts[0] == "journal" and len(parts) == 3:
            name = Path(parts[2])
            if name.suffix == ".journal" and is_segment(name.stem):
                # One that was there when its gateway was checked has been read.
                return parts[1] in self.result.checkpoints
            return parts[2] in ("lock", "reserve") or parts[2].endswith(".journal.incident")
        if parts[0] == "policies" and len(parts) == 2:
            try:
                document = read_limited(self._layout.root / relative, MAX_POLICY_BYTES)
            except (OSError, ArchiveError):
                return False
            return parts[1] == f"{sha256(document).hexdigest()}.json"
        if parts[0] == "log" and len(parts) > 2 and GATEWAY_NAME.match(parts[1]):
            checkpoint = self.result.checkpoints.get(parts[1])
            if parts[2] == "anchors" and anchor_size("/".join(parts[2:])) is not None:
                return True
            end = tile_end("/".join(parts[2:]))
            return checkpoint is not None and end is not None and end > checkpoint.size
        if relative in self.scope.sealing:
            self.result.notes.append(f"{relative}: of a segment that is not sealed yet")
            return True
        unread = {str(segment) for segment in self.scope.unread_segments}
        is_table = len(parts) == 4 and parts[0] in TABLES and parts[3].endswith(".parquet")
        return (is_table or parts[0] == "heads") and parts[-1].rpartition(".")[0] in unread


def _is_control(relative: str) -> bool:
    parts = relative.split("/")
    return len(parts) == 3 and parts[0] == "journal" and parts[2] == "control"


def _parse_since(text: str, keys: Sequence[Verifier]) -> Checkpoint:
    """Return the checkpoint of a signed note that was kept outside the archive."""
    return Checkpoint.parse(open_note(text.encode(), keys).text)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
