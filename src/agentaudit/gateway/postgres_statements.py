"""What masks make of the texts of a target's statements, once for all that run them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentaudit._native import without_numbers
from agentaudit.masking.credentials import credentials, scan
from agentaudit.masking.masks import CREDENTIALS, Masks
from agentaudit.model import Span
from agentaudit.risk.catalogue import Catalogue
from agentaudit.risk.changes import changes
from agentaudit.risk.doubt import EVERYTHING, NO_DOUBT, Doubt
from agentaudit.risk.lineage import Lineage, lineage, not_understood

_MAX_LOOKS: Final = 4096
_MAX_CACHED_CHARACTERS: Final = 8 * 1024
_NUMBERS: Final = frozenset({"ICONST", "FCONST"})
_NO_NAME: Final = "password"
"""What a mark in a credential's place says."""


@dataclass(frozen=True, slots=True)
class Look:
    """What masks make of one statement.

    `text` is None where it stays as it is. `spans` are places in `text`, `hidden` what was there.
    `lineage` is None where no rule is about columns; `changes` is what the statement may do to what
    names stand for.
    """

    text: str | None = None
    spans: tuple[Span, ...] = ()
    hidden: tuple[bytes, ...] = field(default=(), repr=False)
    lineage: Lineage | None = None
    changes: Doubt = NO_DOUBT


CLEAN: Final = Look()


@dataclass(frozen=True, slots=True)
class _Cut:
    """A stretch of a text, in bytes, that is hidden; where it `is_constant`, all of a token."""

    start: int
    stop: int
    rule: str
    what: str
    is_constant: bool


class Statements:
    """Looks at texts, by the rules of `masks` and, where they are about columns, a catalogue."""

    def __init__(self, masks: Masks, catalogue: Catalogue | None) -> None:
        self.masks = masks
        self.catalogue = catalogue
        self._looks: OrderedDict[tuple[str, tuple[str, ...] | None], Look] = OrderedDict()

    def look(self, text: str, path: Sequence[str] | None, doubt: Doubt) -> Look:
        """Return what becomes of `text`, where names are looked for in `path`."""
        if self.catalogue is None:
            return self._look(text, path, doubt)
        if doubt is not NO_DOUBT or len(text) > _MAX_CACHED_CHARACTERS:
            return self._look(text, path, doubt)
        where = None if path is None else tuple(path)
        # One text for each number that somebody asks for would be one parse for each. But only
        # where nothing is hidden all of them are alike.
        known = self._known(without_numbers(text), where)
        shows_all = known.text is None and not (known.lineage and known.lineage.constants)
        if shows_all and not self.masks.scanner.may_hold(text.encode("utf-8", "replace")):
            return known
        return self._known(text, where)

    def unread(self, text: str) -> Look:
        """Return what becomes of a text that may mean something else than it seems to."""
        if self.catalogue is None:
            return self._look(text, None, NO_DOUBT)
        return self._masked_look(text, not_understood(text, self.catalogue), EVERYTHING)

    def _known(self, text: str, path: tuple[str, ...] | None) -> Look:
        key = text, path
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = self._look(text, path, NO_DOUBT)
            if len(self._looks) > _MAX_LOOKS:
                self._looks.popitem(last=False)
        else:
            self._looks.move_to_end(key)
        return look

    def _look(self, text: str, path: Sequence[str] | None, doubt: Doubt) -> Look:
        found: Lineage | None = None
        changed = NO_DOUBT
        if self.catalogue is not None:
            found = lineage(text, self.catalogue, path=path, doubtful=doubt)
            # What an EXECUTE or a FETCH runs is known to who has seen that prepared.
            changed = changes(text, catalogue=self.catalogue, run=())
        return self._masked_look(text, found, changed)

    def _masked_look(self, text: str, found: Lineage | None, changed: Doubt) -> Look:
        data = text.encode("utf-8", "replace")
        cuts = self._cuts(text, data, found)
        if not cuts:
            return CLEAN if found is None else Look(None, (), (), found, changed)
        masked, spans = self._masked(data, cuts)
        hidden = tuple(constant(data[cut.start : cut.stop]) for cut in cuts)
        return Look(masked.decode("utf-8", "replace"), spans, hidden, found, changed)

    def _cuts(self, text: str, data: bytes, found: Lineage | None) -> list[_Cut]:
        place = _Places(text)
        cuts = [
            _Cut(place.byte(start), place.byte(stop), CREDENTIALS, _NO_NAME, is_constant=True)
            for start, stop in credentials(text)
        ]
        if found is not None:
            cuts += [
                _Cut(c.start, c.stop, c.rule, c.rule, is_constant=True) for c in found.constants
            ]
        if self.masks.scanner.may_hold(data):
            inside = self.masks.scanner.find(data)
            tokens = scan(text) if inside else ()
            constants = [
                (place.byte(t.start), place.byte(t.end + 1)) for t in tokens if t.name in _NUMBERS
            ]
            for each in inside:
                number = next(
                    (c for c in constants if c[0] < each.stop and each.start < c[1]), None
                )
                start, stop = each.start, each.stop
                # What is all of a number becomes a string, so that it is a constant still.
                is_constant = number is not None and number[0] <= start and stop <= number[1]
                if number is not None:
                    start, stop = min(start, number[0]), max(stop, number[1])
                cuts.append(_Cut(start, stop, each.rule, each.what, is_constant=is_constant))
        return _united(cuts)

    def _masked(self, data: bytes, cuts: Sequence[_Cut]) -> tuple[bytes, tuple[Span, ...]]:
        out = bytearray()
        spans = []
        at = 0
        for cut in cuts:
            out += data[at : cut.start]
            hidden = data[cut.start : cut.stop]
            rule = self.masks.rules[cut.rule]
            spans.append(Span(cut.rule, "text", len(out), len(hidden)))
            if cut.is_constant:
                out += b"'" + rule.inline(constant(hidden), cut.what) + b"'"
            else:
                out += rule.inline(hidden, cut.what)
            at = cut.stop
        return bytes(out + data[at:]), tuple(spans)


class _Places:
    """Where characters of a text are in its UTF-8."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_plain = text.isascii()
        self._at = self._byte = 0

    def byte(self, character: int) -> int:
        if self._is_plain:
            return character
        if character < self._at:
            self._at = self._byte = 0
        self._byte += len(self._text[self._at : character].encode("utf-8", "replace"))
        self._at = character
        return self._byte


def _united(cuts: list[_Cut]) -> list[_Cut]:
    """Return the cuts in order, as one where they overlap; a constant stays one."""
    cuts.sort(key=lambda cut: (cut.start, not cut.is_constant, -cut.stop))
    united: list[_Cut] = []
    for cut in cuts:
        if not united or cut.start >= united[-1].stop:
            united.append(cut)
            continue
        last = united[-1]
        first = last if last.is_constant or not cut.is_constant else cut
        united[-1] = _Cut(
            last.start,
            max(last.stop, cut.stop),
            first.rule,
            first.what,
            is_constant=last.is_constant or cut.is_constant,
        )
    return united


def constant(token: bytes) -> bytes:
    """Return what a constant of SQL says, as far as that takes no more than to unquote it.

    >>> constant(b"'it''s'"), constant(b"42"), constant(b"$$a$$")
    (b"it's", b'42', b'a')
    """
    if token.startswith(b"$"):
        tag = token[: token.find(b"$", 1) + 1]
        return token[len(tag) : -len(tag)]
    quote = token.find(b"'")
    if quote < 0 or not token.endswith(b"'") or quote == len(token) - 1:
        return token
    return token[quote + 1 : -1].replace(b"''", b"'")
