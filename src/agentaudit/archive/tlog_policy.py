"""Whose word makes a checkpoint count: a C2SP trust policy, read, written and applied.

A policy comes from outside the archive and is short, but it may come from anybody: size and counts
are limited, and whatever is not in it word for word is refused. Names are opaque octets, so they
are kept as text with `surrogateescape`, which loses none. Witnesses that sign with ML-DSA are
refused, not passed over: a quorum must not be reached or missed for want of an algorithm.

Format: c2sp.org/tlog-policy
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentaudit.archive.note import Checkpoint, Cosigner, OpenedNote, Verifier, open_note
from agentaudit.errors import ArchiveError

NO_QUORUM = "none"
_MAX_BYTES = 256 * 1024
_MAX_ITEMS = 256
_SHORT = {"log": "log <vkey> [<url>]", "witness": "witness <name> <vkey> [<url>]"}
_SHORT |= {"group": "group <name> all|any|<k> <name>…", "quorum": "quorum <name>"}


@dataclass(frozen=True, slots=True)
class Group:
    """A group has witnessed what at least `threshold` of its members have."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that a log of the policy signed, and what the witnesses say of it.

    `time_s` is when the quorum was there, seconds since 1970: the time of the cosignature that
    completed it, each group's earliest ones counted. None where the quorum is not met. `names`
    are the policy's names of all witnesses that cosigned it.
    """

    checkpoint: Checkpoint
    log: Verifier
    time_s: int | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Logs, witnesses by name, groups by name, and who makes the quorum (`none`: nobody need)."""

    logs: tuple[Verifier, ...]
    witnesses: Mapping[str, Cosigner]
    groups: Mapping[str, Group]
    quorum: str
    urls: Mapping[str, str]
    """The addresses that the file gives, by verifier key."""

    @property
    def needs_witnesses(self) -> bool:
        """Whether a checkpoint needs any cosignature at all."""
        return self.quorum != NO_QUORUM

    def evaluate(self, note: bytes, logs: Sequence[Verifier] = ()) -> Witnessed | None:
        """Return what this policy makes of a checkpoint, or None where none of its logs signed it.

        `logs` are keys known from elsewhere, for a policy that names no log.

        Raises:
            ArchiveError: not a checkpoint, or a known key's signature does not fit it.
        """
        opened = open_note(note, self.logs or logs, tuple(self.witnesses.values()))
        checkpoint = Checkpoint.parse(opened.text)
        log = next((log for log in opened.signed_by if log.name == checkpoint.origin), None)
        if log is None:
            return None
        times = self._times(opened)
        names = tuple(name for name in self.witnesses if name in times)
        if not self.needs_witnesses:
            return Witnessed(checkpoint, log, None, names)
        return Witnessed(checkpoint, log, times.get(self.quorum), names)

    def _times(self, opened: OpenedNote) -> dict[str, int]:
        """Return when each witness and group that has witnessed the note had done so."""
        seen = {cosignature.cosigner: cosignature.time_s for cosignature in opened.cosigned_by}
        times = {name: seen[key] for name, key in self.witnesses.items() if key in seen}
        # In the order of the file, a group's members come before it.
        for name, group in self.groups.items():
            there = sorted(times[member] for member in group.members if member in times)
            if len(there) >= group.threshold:
                times[name] = there[group.threshold - 1]
        return times


def parse_policy(text: bytes) -> Policy:
    """Return the policy that `text` says.

    Raises:
        ArchiveError: a line of it is not as the format asks, or there is too much of it.
    """
    if len(text) > _MAX_BYTES:
        raise ArchiveError(f"policy: {len(text)} bytes, at most {_MAX_BYTES} expected")
    if text and not text.endswith(b"\n"):
        raise ArchiveError("policy: its last line does not end in a newline")
    if re.search(rb"[^\t\n\x20-\x7e\x80-\xff]", text):
        raise ArchiveError("policy: control characters in it")
    parser = _Parser()
    for number, line in enumerate(text.split(b"\n"), 1):
        items = [item for item in re.split(rb"[ \t]+", line) if item]
        if items and not items[0].startswith(b"#"):
            parser.take(number, [item.decode("utf-8", "surrogateescape") for item in items])
    if parser.quorum is None:
        raise ArchiveError("policy: no quorum line", hint="`quorum none` asks for no witness")
    return Policy(tuple(parser.logs), parser.witnesses, parser.groups, parser.quorum, parser.urls)


class _Parser:
    def __init__(self) -> None:
        self.logs: list[Verifier] = []
        self.witnesses: dict[str, Cosigner] = {}
        self.groups: dict[str, Group] = {}
        self.urls: dict[str, str] = {}
        self.quorum: str | None = None
        self._members: set[str] = set()

    def take(self, number: int, items: list[str]) -> None:
        keyword, *rest = items
        place = f"policy line {number}"
        takes = {
            "log": (self._log, 1, 2),
            "witness": (self._witness, 2, 3),
            "group": (self._group, 3, _MAX_ITEMS + 2),
            "quorum": (self._quorum, 1, 1),
        }
        if keyword not in takes:
            raise ArchiveError(f"{place}: neither log, witness, group nor quorum")
        take, least, most = takes[keyword]
        if not least <= len(rest) <= most:
            raise ArchiveError(f"{place}: {len(rest)} items, {_SHORT[keyword]!r} expected")
        if max(len(self.logs), len(self.witnesses), len(self.groups)) >= _MAX_ITEMS:
            raise ArchiveError(f"{place}: more than {_MAX_ITEMS} lines of a kind")
        try:
            take(rest)
        except ArchiveError as error:
            raise ArchiveError(f"{place}: {error}", hint=error.hint) from None

    def _log(self, items: list[str]) -> None:
        log = Verifier.parse(_vkey(items[0]))
        if any(known.public_key == log.public_key for known in self.logs):
            raise ArchiveError("a log key that is there already")
        self.logs.append(log)
        self._keep_url(str(log), items[1:])

    def _witness(self, items: list[str]) -> None:
        name, vkey = items[:2]
        self._require_new(name)
        witness = Cosigner.parse(_vkey(vkey))
        if any(known.public_key == witness.public_key for known in self.witnesses.values()):
            raise ArchiveError("a witness key that is there already")
        self.witnesses[name] = witness
        self._keep_url(str(witness), items[2:])

    def _group(self, items: list[str]) -> None:
        name, count, *members = items
        self._require_new(name)
        for member in members:
            self._require_known(member)
            if member in self._members:
                raise ArchiveError(f"{_shown(member)} is a member already")
            self._members.add(member)
        if count in ("all", "any"):
            threshold = len(members) if count == "all" else 1
        elif re.fullmatch(r"[1-9][0-9]{0,3}", count) and int(count) <= len(members):
            threshold = int(count)
        else:
            raise ArchiveError(f"{_shown(count)}: all, any or 1 to {len(members)} expected")
        self.groups[name] = Group(threshold, tuple(members))

    def _quorum(self, items: list[str]) -> None:
        if self.quorum is not None:
            raise ArchiveError("a second quorum")
        if items[0] != NO_QUORUM:
            self._require_known(items[0])
        self.quorum = items[0]

    def _require_new(self, name: str) -> None:
        if name == NO_QUORUM:
            raise ArchiveError("the name none is taken")
        if name in self.witnesses or name in self.groups:
            raise ArchiveError(f"{_shown(name)} is defined already")

    def _require_known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise ArchiveError(f"{_shown(name)} is not defined before this line")

    def _keep_url(self, vkey: str, rest: list[str]) -> None:
        if rest:
            self.urls[vkey] = rest[0]


def format_policy(logs: Iterable[Verifier], witnesses: Iterable[tuple[Cosigner, str]]) -> bytes:
    """Return a policy of `logs` and `witnesses` (key and address) that asks for most of them.

    Without witnesses it asks for none. Witnesses are called w1, w2 …
    """
    lines = [f"log {log}\n" for log in logs]
    names = []
    for number, (key, url) in enumerate(witnesses, 1):
        names.append(f"w{number}")
        lines.append(f"witness w{number} {key} {url}\n")
    if len(names) > 1:
        lines.append(f"group witnesses {len(names) // 2 + 1} {' '.join(names)}\n")
    quorum = "witnesses" if len(names) > 1 else next(iter(names), NO_QUORUM)
    return "".join([*lines, f"quorum {quorum}\n"]).encode()


def _vkey(text: str) -> str:
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise ArchiveError("verifier key: not UTF-8")
    return text


def _shown(name: str) -> str:
    """Return a name as an error may show it."""
    return repr(name[:40].encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
