"""Finds what rules hide in bytes of which nobody has said what they mean.

Three steps, each for what the one before let through: a sieve that tells what cannot be there, one
alternation of all patterns, and each pattern by itself with its check
(docs/decisions/0021-how-secrets-are-found.md says why these).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import re2

from agentaudit._native.sift import Sieve
from agentaudit.masking.detectors import HINTS, Detector

_MAX_MEMORY: Final = 64 << 20
"""Bytes that all patterns together may take, compiled and while they search."""


_LONG_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """Something that a rule hides, from `start` up to `stop`; `what` names what found it."""

    start: int
    stop: int
    rule: str
    what: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch without NULs in which something was found, by its place in what was searched."""

    start: int
    stop: int
    found: tuple[Found, ...]


class Finder(Protocol):
    """What finds things without a pattern: a plug-in, for one (`agentaudit.maskers`)."""

    @property
    def name(self) -> str:
        """What a mark shows."""
        ...

    def find(self, data: bytes) -> Iterable[tuple[int, int]]:
        """Yield where, in one value, something begins and ends that is to be hidden."""
        ...


@dataclass(frozen=True, slots=True)
class OwnPattern:
    """A pattern of the settings, over texts in UTF-8. What its group holds is hidden, or it all."""

    name: str
    pattern: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", _compiled([self.pattern], is_latin=False))

    def find(self, data: bytes) -> Iterator[tuple[int, int]]:
        for found in self._compiled.finditer(data):
            group = 1 if found.re.groups and found.start(1) >= 0 else 0
            if found.end(group) > found.start(group):
                yield found.start(group), found.end(group)


Look = tuple[str, Detector | OwnPattern | Finder]
"""The rule for which something is looked for, and what finds it."""


class _Family:
    """Patterns that are searched for together: those of one encoding."""

    def __init__(self, looks: Sequence[tuple[int, Look]], *, is_latin: bool) -> None:
        patterns = [finder.pattern for _, (_, finder) in looks]  # type: ignore[union-attr]
        self.looks = looks
        self.any = _compiled([f"(?:{pattern})" for pattern in patterns], is_latin=is_latin)
        self.each = re2.Set.SearchSet(_options(is_latin=is_latin))
        for pattern in patterns:
            self.each.Add(pattern.encode())
        self.each.Compile()

    def candidates(self, data: bytes) -> list[tuple[int, Look]]:
        return [self.looks[number] for number in self.each.Match(data) or ()]


class Scanner:
    """Looks for what `looks` say. What two of them find in one place is the first one's."""

    def __init__(self, looks: Sequence[Look]) -> None:
        numbered = list(enumerate(looks))
        detectors = [each for each in numbered if isinstance(each[1][1], Detector)]
        own = [each for each in numbered if isinstance(each[1][1], OwnPattern)]
        self._finders = [each for each in numbered if each not in detectors and each not in own]
        self._families = [
            _Family(each, is_latin=is_latin)
            for each, is_latin in ((detectors, True), (own, False))
            if each
        ]
        self._known = [finder for _, finder in looks if isinstance(finder, Detector)]
        self._has_others = len(self._known) < len(looks)
        self.finds_numbers = any(detector.bare for detector in self._known)
        """Whether it may be in digits alone."""
        self.sieve = self.sieve_with(())
        """What tells that nothing can be there; None where everything is to be searched."""

    def sieve_with(self, words: Iterable[bytes]) -> Sieve | None:
        """Return what tells that neither what is looked for nor one of `words` can be there."""
        if self._has_others:
            return None
        anchors = [anchor for detector in self._known for anchor in detector.anchors]
        least = {
            hint: min((n for d in self._known if (n := getattr(d, hint))), default=0)
            for hint in HINTS
        }
        return Sieve((*anchors, *words), **least)

    def may_hold(self, data: bytes) -> bool:
        """Return False where nothing of it can be in `data`, framed or not."""
        return self.sieve is None or self.sieve.may_hold(data)

    def is_clean(self, value: bytes) -> bool:
        """Return whether nothing is found in `value`, which has no framing."""
        return not self.may_hold(value) or not self.found_in(value)

    def found_in(self, data: bytes) -> list[Found]:
        """Return what `find` does, having looked at what the sieve suspects alone.

        No detector's match has a NUL in it, so what stands between two of them is looked at by
        itself: of a file that is no text, that is hardly anything.
        """
        if self.sieve is None:
            return self.find(data)
        return [
            replace(each, start=segment.start + each.start, stop=segment.start + each.stop)
            for segment in self.segments(data)
            for each in segment.found
        ]

    def segments(self, blanked: bytes) -> list[Segment]:
        """Return the stretches of `blanked`, which has NULs between values, that hold something."""
        found: dict[int, Segment] = {}
        for start, stop in self._stretches(blanked):
            if start not in found and (here := self.find(blanked[start:stop])):
                found[start] = Segment(start, stop, tuple(here))
        return [found[start] for start in sorted(found)]

    def _stretches(self, blanked: bytes) -> Iterator[tuple[int, int]]:
        """Yield the stretches that are worth a closer look."""
        size = len(blanked)
        if self._finders:
            at = 0
            while at < size:
                stop = blanked.find(b"\0", at)
                stop = size if stop < 0 else stop
                if stop > at:
                    yield at, stop
                at = stop + 1
            return
        suspects = [(0, size)] if self.sieve is None else self.sieve.suspects(blanked)
        for start, stop in suspects:
            yield from self._hits(blanked, start, stop)
            if blanked.find(b"\\", start, stop) >= 0:
                plain = without_escapes(blanked[start:stop])
                for first, last in self._hits(plain, 0, len(plain)):
                    yield start + first, start + last

    def _hits(self, blanked: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
        for family in self._families:
            at = begin
            while at < end and (found := family.any.search(blanked, at, end)) is not None:
                first, last = found.span()
                start = blanked.rfind(b"\0", 0, first) + 1
                stop = blanked.find(b"\0", last)
                stop = end if stop < 0 else stop
                yield start, stop
                at = max(stop, last + 1)

    def find(self, value: bytes) -> list[Found]:
        """Return what is found in `value`, in order, none overlapping another.

        Where ends of lines and tabs are written with a backslash, as COPY and JSON do it, its
        letter is no part of the word behind it.
        """
        found = self._find(value)
        if b"\\" in value and (plain := without_escapes(value)) != value:
            return united([*found, *self._find(plain)])
        return found

    def _find(self, value: bytes) -> list[Found]:
        # Of so much, to ask each pattern costs more than to ask first for any.
        is_long = len(value) > _LONG_BYTES and not self._finders
        if is_long and all(family.any.search(value) is None for family in self._families):
            return []
        candidates = [look for family in self._families for look in family.candidates(value)]
        candidates += self._finders
        hits = [
            (start, number, stop, look)
            for number, look in candidates
            for start, stop in look[1].find(value)
        ]
        if not hits:
            return []
        hits.sort(key=lambda hit: hit[:3])
        return united([Found(a, b, rule, finder.name) for a, _, b, (rule, finder) in hits])


class ScannerWithValues(Scanner):
    """Looks for what another scanner looks for, and for `values` as they stand, for `rule`."""

    def __init__(self, scanner: Scanner, rule: str, values: Sequence[bytes]) -> None:
        self.__dict__.update(scanner.__dict__)  # its patterns are compiled once
        self._scanner = scanner
        self._rule = rule
        self._values = tuple(sorted(values, key=len, reverse=True))

    def may_hold(self, data: bytes) -> bool:
        return any(value in data for value in self._values) or self._scanner.may_hold(data)

    def find(self, value: bytes) -> list[Found]:
        return self._with_values(value, self._scanner.find)

    def found_in(self, data: bytes) -> list[Found]:
        return self._with_values(data, self._scanner.found_in)

    def _with_values(self, data: bytes, find: Callable[[bytes], list[Found]]) -> list[Found]:
        hits = [
            Found(found.start(), found.end(), self._rule, self._rule)
            for each in self._values
            for found in re.finditer(re.escape(each), data)
        ]
        known = find(data) if self._scanner.may_hold(data) else []
        return united([*hits, *known]) if hits else known


_ESCAPE: Final = re.compile(rb"\\(?:[bfnrtv]|u00[01][0-9A-Fa-f]|.)", re.DOTALL)


def without_escapes(value: bytes) -> bytes:
    r"""Return `value` with as many line ends or spaces for what `\n`, `\t` and their like say.

    >>> without_escapes(rb"a\nb\\nc\td")
    b'a\n\nb\\\\nc  d'
    """
    return _ESCAPE.sub(_blank, value)


def _blank(found: re.Match[bytes]) -> bytes:
    said = found[0]
    if len(said) == 2 and said[1] not in b"bfnrtv":
        return said
    return (b"\n" if said[1] in b"nr" else b" ") * len(said)


def united(found: list[Found]) -> list[Found]:
    """Return what was found in order, as one where two overlap: then it is the first one's."""
    one: list[Found] = []
    for each in sorted(found, key=lambda each: each.start):
        if not one or each.start >= one[-1].stop:
            one.append(each)
        elif each.stop > one[-1].stop:
            last = one[-1]
            one[-1] = Found(last.start, each.stop, last.rule, last.what)
    return one


def _options(*, is_latin: bool) -> Any:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    if is_latin:
        options.encoding = re2.Options.Encoding.LATIN1
    return options


def _compiled(patterns: Sequence[str], *, is_latin: bool) -> Any:
    try:
        return re2.compile("|".join(patterns).encode(), _options(is_latin=is_latin))
    except re2.error as error:
        raise ValueError(f"patterns that cannot be searched for together: {error}") from None
