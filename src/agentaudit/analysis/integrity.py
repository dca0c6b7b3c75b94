"""What a log says of its own time, and what a verification's answer means to whoever reads it.

`history` tells one gateway's log as a story that fits on a screen: what was sealed when, when
nobody recorded and why, what outside has said, what was purged and held. It is read from the log
alone and checks nothing; `verify` checks, and `told` puts its answer into words: what each finding
means, where it is, and what to do.

A log grows for years. What is returned does not: segments beyond a limit are told together, times
of ticks are counted in stretches that widen, and of everything else the last ones are kept.

Format: docs/formats/archive.md, "Log"
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentaudit.archive.layout import Layout
from agentaudit.archive.log import decode_entry, read_log
from agentaudit.archive.note import Verifier
from agentaudit.archive.retention import Standing
from agentaudit.archive.verification import Finding, Verification
from agentaudit.archive.witnessing import cosigned_checkpoint
from agentaudit.errors import AgentauditError, ArchiveError

MAX_SEGMENTS: Final = 1_000
MAX_MARKS: Final = 300
"""Of each kind, the last ones."""

MAX_STRETCHES: Final = 480
SILENT_US: Final = 300_000_000
"""Five times as long as a gateway that records ever keeps silent (`HEARTBEAT_S` of the sealer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sealed segment as its seal tells it; or several that follow each other, told together.

    `begun_us` and `sealed_us` are the log's times, `first_us` and `last_us` those of its events.
    `root`, `head` and `files` are of one alone. `epoch` counts the epoch keys, from 0.
    """

    entry: int
    segments: int = 1
    segment: str
    begun_us: int
    sealed_us: int
    first_us: int
    last_us: int
    first_event: int
    events: int
    epoch: int
    sessions: int
    commands: int
    root: str = ""
    head: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How large the files are that it was sealed as."""
        return sum(file["bytes"] for file in self.files.values())

    def with_next(self, other: Segment) -> Segment:
        """Return this and the one behind it, told together."""
        return Segment(
            entry=self.entry,
            segments=self.segments + other.segments,
            segment=self.segment,
            begun_us=self.begun_us,
            sealed_us=max(self.sealed_us, other.sealed_us),
            first_us=min(self.first_us, other.first_us),
            last_us=max(self.last_us, other.last_us),
            first_event=self.first_event,
            events=self.events + other.events,
            epoch=self.epoch,
            sessions=self.sessions + other.sessions,
            commands=self.commands + other.commands,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which nothing was recorded.

    `kind`: `stopped` (the gateway said so), `crashed` (it did not), `silent` (it was running, and
    its log says nothing for five minutes). `until_us` is None where it has not ended.
    """

    kind: str
    entry: int
    from_us: int
    until_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An entry of the log that is worth a place of its own; `says` is what it says, in words."""

    kind: str
    entry: int
    at_us: int
    says: str
    until_us: int | None = None
    id: str = ""


@dataclass(slots=True, kw_only=True)
class History:
    """One gateway's log over its time.

    `left_out` counts by kind what is not in `marks` and `gaps`. `ticks` are how many ticks and
    heartbeats fall into each stretch of `stretch_us`, from `from_us` on. `begun` are segments that
    are not sealed, with the log's time of their beginning. `problem` says why there is no more.
    """

    gateway: str
    origin: str = ""
    entries: int = 0
    from_us: int = 0
    until_us: int = 0
    clock: str = "system"
    version: str = ""
    is_recording: bool = False
    epochs: int = 0
    segments: list[Segment] = field(default_factory=list)
    segment_count: int = 0
    events: int = 0
    ticks: list[int] = field(default_factory=list)
    stretch_us: int = 1_000_000
    tick_count: int = 0
    begun: dict[str, int] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    checkpoint: str = ""
    cosigned: str = ""
    cosigned_size: int = 0
    problem: str = ""

    def of(self, segment: str) -> Segment | None:
        """Return what tells of a segment, alone or with others; None where nothing does."""
        return next((each for each in self.segments if each.segment == segment), None)


def history(layout: Layout, gateway: str) -> History:
    """Return what the log of `gateway` says of its time; `problem` where it cannot be read."""
    told = History(gateway=gateway)
    try:
        _Reading(layout, told).run()
    except (AgentauditError, OSError) as error:
        told.problem = str(error)
    return told


_BEFORE_START: Final = frozenset({"key_epoch", "recovery", "incident", "purge_done"})
"""What a gateway that comes up after a crash may say before it records again."""


class _Reading:
    """One pass over one log."""

    def __init__(self, layout: Layout, told: History) -> None:
        self._layout = layout
        self._told = told
        self._standing = Standing()
        self._marks: dict[str, deque[Mark]] = {}
        self._gaps: deque[Gap] = deque(maxlen=MAX_MARKS)
        self._open: Gap | None = None
        self._last_us = 0
        self._alive_us = 0
        self._held: dict[str, Mark] = {}
        self._purging: dict[str, tuple[int, int, Mapping[str, Any]]] = {}
        self._counted: Counter[str] = Counter()

    def run(self) -> None:
        told = self._told
        folder = self._layout.log(told.gateway)
        try:
            kept = cosigned_checkpoint(folder)
        except ArchiveError:
            kept = None  # verification finds it
        if kept is not None:
            told.cosigned = kept[0].decode("utf-8", "replace")
            told.cosigned_size = kept[1].size
        log = read_log(folder, [])
        told.origin, told.entries = log.checkpoint.origin, log.checkpoint.size
        told.checkpoint = log.note.decode("utf-8", "replace")
        for number, raw in enumerate(log.raw()):
            entry = decode_entry(number, raw)
            if number == 0:
                told.from_us = self._last_us = self._alive_us = entry["at"]
            self._take(number, entry)
            self._last_us = max(self._last_us, entry["at"])
            told.until_us = self._last_us
            if number + 1 == told.cosigned_size:
                names = ", ".join(_signers(told.cosigned, told.origin)) or "nobody"
                self._mark("cosigned", number, self._last_us, f"cosigned by {names}")
        self._finish()

    def _take(self, number: int, entry: Mapping[str, Any]) -> None:
        told, kind, at_us = self._told, entry["type"], entry["at"]
        is_told = kind == "start" or kind in _BEFORE_START or not told.is_recording
        if not is_told and at_us - self._alive_us > SILENT_US:
            self._gap(Gap(kind="silent", entry=number, from_us=self._alive_us, until_us=at_us))
        if kind not in _BEFORE_START:
            self._alive_us, alive_us = max(self._alive_us, at_us), self._alive_us
        else:
            alive_us = self._alive_us
        if entry.get("clock", "system") != "system":
            told.clock = str(entry["clock"])
        if kind == "tick" or kind == "heartbeat":
            self._count(at_us)
        elif kind == "seal":
            self._seal(number, entry)
        elif kind == "open_segment":
            told.begun[entry["segment"]] = at_us
        elif kind == "start":
            told.version = entry["version"]
            self._start(number, at_us, alive_us)
        elif kind in ("stop", "retire"):
            told.is_recording = False
            self._open = Gap(kind="stopped", entry=number, from_us=at_us, until_us=None)
            says = "recording was stopped" if kind == "stop" else "the log was ended for ever"
            self._mark(kind, number, at_us, says)
        elif kind in ("recovery", "incident"):
            self._crash(number, alive_us)
            if kind == "incident":
                says = f"incident: {entry['what']}"
            else:
                closed, cut = entry["sessions_closed"], entry.get("cut_bytes", 0)
                says = f"recovery: {closed} sessions closed, {cut} bytes of a torn write cut"
            self._mark(kind, number, at_us, says)
        elif kind == "key_epoch":
            told.epochs += 1
            self._mark(kind, number, at_us, f"epoch key {told.epochs}, signed by the one before")
        elif kind == "policy":
            self._mark(kind, number, at_us, f"policy {entry['sha256'][:8]}… came into force")
        elif kind == "anchor":
            says = f"{entry['size']} entries time-stamped by {entry['authority']}"
            self._mark(kind, number, at_us, says)
        elif kind == "export":
            self._mark(kind, number, at_us, "a proof was exported")
        else:
            self._lasting(number, entry)
        self._standing.take(entry)

    def _lasting(self, number: int, entry: Mapping[str, Any]) -> None:
        """Take in what begins with one entry and ends with another: holds and purges."""
        kind, at_us = entry["type"], entry["at"]
        if kind == "legal_hold_set":
            what = ", ".join(sorted(entry["selector"]))
            says = f"legal hold on what matches {what}"
            self._held[entry["hold"]] = Mark(
                kind="hold", entry=number, at_us=at_us, says=says, id=entry["hold"]
            )
        elif kind == "legal_hold_release" and entry["hold"] in self._held:
            held = self._held.pop(entry["hold"])
            self._mark("hold", held.entry, held.at_us, f"{held.says}, released", at_us, held.id)
        elif kind == "purge_intent":
            self._purging[entry["purge"]] = (number, at_us, entry)
        elif kind == "purge_done" and entry["purge"] in self._purging:
            begun, begun_us, intent = self._purging[entry["purge"]]
            purge = self._standing.purges[entry["purge"]]
            if len(purge.done) + 1 >= intent["segments"]:
                del self._purging[entry["purge"]]
                self._mark("purge", begun, begun_us, _purge_says(intent), at_us, intent["purge"])

    def _start(self, number: int, at_us: int, alive_us: int) -> None:
        told = self._told
        self._crash(number, alive_us)
        if self._open is not None:
            gap = self._open
            self._gap(Gap(kind=gap.kind, entry=gap.entry, from_us=gap.from_us, until_us=at_us))
        self._open = None
        told.is_recording = True
        self._mark("start", number, at_us, f"recording was started, version {told.version}")

    def _crash(self, number: int, alive_us: int) -> None:
        """Begin a gap at the last sign of life, where nothing has said that it would stop."""
        if self._told.is_recording and self._open is None:
            self._open = Gap(kind="crashed", entry=number, from_us=alive_us, until_us=None)
            self._told.is_recording = False

    def _seal(self, number: int, entry: Mapping[str, Any]) -> None:
        told = self._told
        begun_us = told.begun.pop(entry["segment"], entry["first_at"])
        told.segment_count += 1
        told.events += entry["n"]
        told.segments.append(
            Segment(
                entry=number,
                segment=entry["segment"],
                begun_us=min(begun_us, entry["at"]),
                sealed_us=entry["at"],
                first_us=entry["first_at"],
                last_us=entry["last_at"],
                first_event=entry["first_event"],
                events=entry["n"],
                epoch=told.epochs,
                sessions=entry["sessions_opened"],
                commands=entry["commands"],
                root=entry["root"],
                head=entry["head"],
                files=entry["files"],
            )
        )
        if len(told.segments) > MAX_SEGMENTS:
            # The older half in pairs: the newest stay alone, the oldest are told most coarsely.
            half = told.segments[: MAX_SEGMENTS // 2]
            pairs = zip(half[::2], half[1::2], strict=True)
            told.segments[: len(half)] = [first.with_next(second) for first, second in pairs]

    def _count(self, at_us: int) -> None:
        told = self._told
        told.tick_count += 1
        stretch = max(0, at_us - told.from_us) // told.stretch_us
        while stretch >= MAX_STRETCHES:
            told.stretch_us *= 2
            stretch //= 2
            padded = told.ticks + [0] * (len(told.ticks) % 2)
            told.ticks = [a + b for a, b in zip(padded[::2], padded[1::2], strict=True)]
        told.ticks += [0] * (stretch + 1 - len(told.ticks))
        told.ticks[stretch] += 1

    def _mark(
        self,
        kind: str,
        entry: int,
        at_us: int,
        says: str,
        until_us: int | None = None,
        subject: str = "",
    ) -> None:
        self._keep(
            Mark(kind=kind, entry=entry, at_us=at_us, says=says, until_us=until_us, id=subject)
        )

    def _keep(self, mark: Mark) -> None:
        self._marks.setdefault(mark.kind, deque(maxlen=MAX_MARKS)).append(mark)
        self._counted[mark.kind] += 1

    def _gap(self, gap: Gap) -> None:
        self._gaps.append(gap)
        self._counted["gap"] += 1

    def _finish(self) -> None:
        told = self._told
        if self._open is not None:
            self._gap(self._open)
        for held in self._held.values():
            self._keep(held)
        for number, at_us, intent in self._purging.values():
            says = f"{_purge_says(intent)}, not finished"
            self._mark("purge", number, at_us, says, subject=intent["purge"])
        told.gaps = list(self._gaps)
        told.marks = sorted(
            (mark for marks in self._marks.values() for mark in marks), key=lambda mark: mark.entry
        )
        kept = Counter(mark.kind for mark in told.marks) + Counter({"gap": len(told.gaps)})
        told.left_out = dict(self._counted - kept)


def _purge_says(intent: Mapping[str, Any]) -> str:
    basis = "the retention policy" if intent["basis"] == "policy" else "a decision"
    return (
        f"{intent['what']} of {intent['sessions']} sessions in {intent['segments']} segments "
        f"purged by {basis}"
    )


def _signers(note: str, origin: str) -> list[str]:
    """Return who else than the log's own keys has signed a note, as it says."""
    names = [line.split(" ")[1] for line in note.splitlines() if re.match(r"— \S+ \S+\Z", line)]
    return [name for name in names if name != origin and not name.startswith(f"{origin}/")]


REMEMBERED: Final = "remembered checkpoint"


@dataclass(frozen=True, slots=True)
class Position:
    """A size that a log has had: its last entry's time then, and how many events were sealed after.

    `at_us` is None for a log without entries.
    """

    at_us: int | None
    sealed_after: int


def positions(layout: Layout, gateway: str, sizes: Iterable[int]) -> dict[int, Position]:
    """Return what a log was at each of `sizes` that it has had.

    Raises:
        ArchiveError: the log cannot be read.
    """
    wanted = set(sizes)
    at: dict[int, tuple[int | None, int]] = {0: (None, 0)} if 0 in wanted else {}
    sealed = 0
    log = read_log(layout.log(gateway), [])
    for number, raw in enumerate(log.raw()):
        is_wanted = number + 1 in wanted
        if is_wanted or b'"seal"' in raw:
            entry = decode_entry(number, raw)
            if entry["type"] == "seal":
                sealed += entry["n"]
            if is_wanted:
                at[number + 1] = entry["at"], sealed
    return {size: Position(at_us, sealed - before) for size, (at_us, before) in at.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """What of a log could still be written anew, by whoever holds its key.

    `entries` and `events` come after the last anchor that somebody else would know too: a given,
    witnessed or time-stamped checkpoint. What this machine remembers counts here alone, and
    opening an archive already remembers it; so that is told apart: `here_entries` and
    `here_events` come after `remembered_size` or that anchor, whichever is larger.
    """

    gateway: str
    anchor: str
    since_size: int
    since_us: int | None
    entries: int
    events: int
    remembered_size: int
    here_entries: int
    here_events: int


def exposure(layout: Layout, answer: Verification) -> list[Exposed]:
    """Return the exposure windows of an answer, a log each; of one that cannot be read none."""
    found = []
    for each in answer.exposure:
        anchors = [anchor for anchor in answer.anchors if anchor.gateway == each.gateway]
        others = [anchor for anchor in anchors if anchor.kind != REMEMBERED]
        best = max(others, key=lambda anchor: anchor.size, default=None)
        kind, size = ("none", 0) if best is None else (best.kind, best.size)
        try:
            at = positions(layout, each.gateway, (size, each.since_size))
            gone, here = at[size], at[each.since_size]
        except (AgentauditError, OSError, LookupError):
            continue  # the finding that says so is there already
        live = each.events - here.sealed_after
        found.append(
            Exposed(
                gateway=each.gateway,
                anchor=kind,
                since_size=size,
                since_us=gone.at_us,
                entries=each.since_size + each.entries - size,
                events=gone.sealed_after + live,
                remembered_size=max((a.size for a in anchors if a.kind == REMEMBERED), default=0),
                here_entries=each.entries,
                here_events=each.events,
            )
        )
    return found


def exposed(each: Exposed) -> str:
    """Return in words what of one log could be written anew, and by whom it would be noticed."""
    what = f"{each.entries:,} log entries with {each.events:,} events"
    if not each.entries and not each.events:
        said = f"nothing: the {each.anchor} covers all of it"
    elif not each.since_size:
        said = f"all of it ({what}): nothing that others know of it was given"
    else:
        said = f"{what} since the {each.anchor} at {each.since_size:,} entries"
    if each.remembered_size <= each.since_size:
        return said
    return (
        f"{said}; this machine remembers the log at {each.remembered_size:,} entries, so a change "
        "before that would be noticed here, and only here"
    )


# --- what an answer means


@dataclass(frozen=True, slots=True)
class Meaning:
    """What it means that a check failed, and what whoever sees it does next."""

    means: str
    do: str


_CHANGED: Final = "compare with a copy of the archive, or a backup, from before it was changed"
_OPERATOR: Final = "ask the operator of the gateway, by another way than the archive"

MEANINGS: Final[Mapping[str, Meaning]] = {
    "format": Meaning(
        "the archive does not say that it is of a format that this version knows",
        "check that this is the archive's own folder, and the version of agentaudit",
    ),
    "log": Meaning(
        "the log does not hang together: entries are missing, repeated, malformed or another log's",
        "treat all that the log accounts for as unproven; " + _CHANGED,
    ),
    "tile": Meaning(
        "a piece of the log is not what its entries hash to; others who read it see another log",
        _CHANGED,
    ),
    "signature": Meaning(
        "the log was not signed by the key that was given: it is another gateway's, or was made "
        "by somebody else",
        "check the key first; if it is right, " + _CHANGED,
    ),
    "key": Meaning(
        "the key that lies in the archive is another one than the log was begun with or the one "
        "that was given",
        _OPERATOR,
    ),
    "epoch": Meaning(
        "it was not signed with the key of its own time, so it may have been written later, by "
        "whoever held the log's key then",
        "treat what was recorded from there on as unproven; " + _OPERATOR,
    ),
    "rollback": Meaning(
        "the log is shorter than it was known to be: what came last was taken away",
        "get the missing part: it was there when the checkpoint was made",
    ),
    "fork": Meaning(
        "the log's past is another one than it was known to be: history was written anew",
        "treat the archive as forged; the checkpoint from outside proves it",
    ),
    "chain": Meaning(
        "between two segments events are missing, or a segment was left out or put in",
        _CHANGED,
    ),
    "head": Meaning(
        "the signed head of a segment is missing, or says something else than the log",
        _CHANGED,
    ),
    "file": Meaning(
        "a file is missing or not the one that was sealed, so nothing in it is proven",
        "treat the rows of this segment as unproven; " + _CHANGED,
    ),
    "rows": Meaning("rows are missing, too many, or out of order", _CHANGED),
    "leaf": Meaning("a row is not what was recorded: its hash is another", _CHANGED),
    "columns": Meaning(
        "a column says something else than the event that it was taken from",
        "rely on the events' own bytes, not on this column; " + _CHANGED,
    ),
    "tables": Meaning(
        "a derived table (commands, sessions, decisions, access) is not what the events give",
        "rely on the events, not on this table; " + _CHANGED,
    ),
    "session": Meaning(
        "a session is not whole: events of it are missing, or its end does not fit its beginning",
        "treat this session as incomplete; " + _CHANGED,
    ),
    "tick": Meaning(
        "less is there than was signed while it was recorded, or something else",
        "treat what was recorded just before as cut off or changed; " + _CHANGED,
    ),
    "journal": Meaning(
        "what is not sealed yet is damaged, missing, or not what the log tells of",
        "keep the journal as it is; the gateway's recovery says more when it starts",
    ),
    "policy": Meaning(
        "the policy document that was in force is missing or another one",
        "do not rely on what the archive says about rules, masks and retention of that time",
    ),
    "purge": Meaning(
        "something is gone, and not as the log's purges say; or a purge took what it may not",
        "treat it as a deletion without ground until somebody shows one",
    ),
    "hold": Meaning(
        "a legal hold was set, released or passed over against the rules",
        "tell whoever ordered the hold; what was held may be gone",
    ),
    "decision": Meaning(
        "an erasure was not decided as it must be: by somebody else than who asked, for just that",
        "ask who decided it, and treat it as a deletion without ground until then",
    ),
    "anchor": Meaning(
        "a time stamp is missing, or not of what the log says",
        "what it should have fixed in time is not; " + _CHANGED,
    ),
    "witness": Meaning(
        "what witnesses have signed is not this log, or cannot be read",
        "ask a witness for its latest checkpoint of this log",
    ),
    "stray": Meaning(
        "something lies in the archive that its log does not account for",
        "find out who put it there; nothing reads it as evidence",
    ),
    "proof": Meaning("a proof does not prove what it claims", "ask for a new one"),
    "disclosure": Meaning(
        "what was disclosed is not what was committed to when it was recorded",
        "do not rely on the disclosed text; ask for a new proof",
    ),
}
"""By the name of a check, as findings have it."""

UNKNOWN: Final = Meaning("a check failed that this version has no words for", _CHANGED)

_SEGMENT = re.compile(
    r"(?:segment |journal |heads/|/)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b"
)
_GATEWAY = re.compile(r"\blog/([A-Za-z0-9._-]+)|\bgw=([A-Za-z0-9._-]+)/")
_NUMBERS = {name: re.compile(rf"\b{name} ([0-9]{{1,15}})\b") for name in ("entry", "event", "row")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a finding is, as far as its words tell: -1 and empty where they do not."""

    gateway: str = ""
    segment: str = ""
    entry: int = -1
    event: int = -1
    row: int = -1


def place_of(finding: Finding) -> Place:
    """Return the parts of a finding's place.

    >>> place_of(Finding(check="tick", place="log/gw1 entry 12", seen="1")).entry
    12
    """
    segment = _SEGMENT.search(finding.place)
    gateway = _GATEWAY.search(finding.place)
    numbers = {name: pattern.search(finding.place) for name, pattern in _NUMBERS.items()}
    return Place(
        gateway=(gateway[1] or gateway[2]) if gateway else "",
        segment=segment[1] if segment else "",
        **{name: int(found[1]) for name, found in numbers.items() if found},
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer in words, and why it is no other: a sentence each."""

    word: str
    why: tuple[str, ...]


def verdict(answer: Verification) -> Verdict:
    """Return what a verification's answer says to a reader."""
    count = len(answer.findings)
    if answer.ok is False:
        failed = "1 check failed" if count == 1 else f"{count:,} checks failed"
        why = [f"{failed}: do not rely on this archive before it is clear why"]
        if answer.unknown_signers:
            why.append(_no_key(answer.unknown_signers))
        return Verdict("not verified", tuple(why))
    if answer.ok is True:
        done = (
            "every row hashes to what was signed, and every table is what its events give"
            if answer.deep
            else "every signature holds, and every file is the one that was sealed; rows were not "
            "hashed anew: that is what a deep check does"
        )
        return Verdict("verified", (done,))
    why = []
    if answer.unknown_signers:
        why.append(_no_key(answer.unknown_signers))
    if answer.without_quorum:
        names = ", ".join(answer.without_quorum)
        why.append(f"the witnesses that the policy asks for have not cosigned the log of {names}")
    if answer.unread:
        why.append(f"{len(answer.unread):,} things could not be read, or not to their end")
    return Verdict("could not tell", tuple(why or ["what was read is consistent"]))


def _no_key(gateways: Sequence[str]) -> str:
    return (
        f"no key from outside the archive has signed the log of {', '.join(gateways)}: whoever "
        "rewrote the archive would have put another key beside it"
    )


# --- without us


def check_signature(archive: Path, gateway: str, keys: Sequence[Verifier], origin: str) -> str:
    """Return a shell script by which OpenSSL checks the log's signature on its checkpoint.

    `keys` came from outside; where none of them is the log's, the script asks for it.
    """
    key = next((str(each) for each in keys if each.name == origin), "")
    given = (
        f"key={shlex.quote(key)}"
        if key
        else "key=...  # the log's verifier key, from its operator and not from the archive"
    )
    return f"""\
archive={shlex.quote(str(archive))} gateway={shlex.quote(gateway)}
{given}
work=$(mktemp -d) note="$archive/log/$gateway/checkpoint"
sed '/^$/,$d' "$note" > "$work/text"
{{ printf '\\060\\052\\060\\005\\006\\003\\053\\145\\160\\003\\041\\000'
  printf %s "${{key#*+*+}}" | base64 -d | tail -c 32; }} > "$work/key.der"
grep -F -- "— ${{key%%+*}} " "$note" | cut -d' ' -f3 | base64 -d | tail -c 64 > "$work/signature"
openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" \\
  -rawin -in "$work/text" -sigfile "$work/signature"
"""


def check_files(archive: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a shell script that holds files against the digests in the log, by sha256sum."""
    lines = "\n".join(f"{file['sha256']}  {_plain(file['path'])}" for file in files.values())
    return f"cd {shlex.quote(str(archive))} && sha256sum -c - <<'END'\n{lines}\nEND\n"


def _plain(path: str) -> str:
    """Return a path that a log names; one that could end the script's text is left out."""
    return path if re.fullmatch(r"[A-Za-z0-9=._/-]+", path) else "(not a path of this format)"
