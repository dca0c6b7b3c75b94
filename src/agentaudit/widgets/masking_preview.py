"""What masks would hide, in a notebook: before and after, side by side, while rules are written.

The browser sends the text of rules and asks for pages of lists by name. Rules that a page sends
open no file and run no command, so they name no key.

Values are those of the archive. Where a rule hid one when it was recorded, a mark is all there is,
and the page says so. The picture for readers without a kernel has no value that a rule would hide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import traitlets

from agentaudit.analysis.case import Case
from agentaudit.analysis.masking import (
    Candidate,
    Difference,
    Preview,
    Uncovered,
    compare,
    preview,
)
from agentaudit.analysis.masking_look import Hit
from agentaudit.analysis.masking_rules import MAX_TEXT_BYTES, RuleSet, parse, rules_of, written
from agentaudit.analysis.masking_sources import Batch, Source, recorded_in, source_of
from agentaudit.errors import QuestionError
from agentaudit.widgets.pictures import beginning, escaped, grid
from agentaudit.widgets.questions import Data, Questions, question
from agentaudit.widgets.still import style
from agentaudit.widgets.view import View, bundle

MAX_HELD_CHARACTERS: Final = 32 << 20
"""Of what a source holds: so much is read once, more of it anew for each set of rules."""

_MAX_PAGE: Final = 200
_STILL_ROWS: Final = 12
_NO_RULES: Final = """\
# Masks as agentaudit.toml has them; Ctrl+Enter tries them.
[[mask]]
name = "secrets and addresses"
detect = ["secrets", "email"]
"""


class MaskingPreview(View):
    """Shows what `rules` would hide in a case, a text, a file or a table; rules can be edited.

    In a notebook::

        masks = MaskingPreview(case, "agentaudit.toml", target="orders")
        masks                                    # draws it
        masks.rules                              # as they are now, to be pasted
        masks.preview.pl()                       # of what is shown

    The tab with the difference shows what the rules do otherwise than `against`, or than those that
    it began with.
    """

    _esm = bundle("masking-preview.js")
    _css = bundle("masking-preview.css")

    tab = traitlets.Unicode("hits").tag(sync=True)

    def __init__(
        self,
        case: Case | Any,
        rules: Any = _NO_RULES,
        *,
        against: Any = None,
        session: UUID | str | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        table: str | None = None,
    ) -> None:
        """Preview `rules` on the sessions of `case` that match, or on another source.

        Raises:
            SettingsError: a rule is wrong.
            QuestionError: there is no such session, or the source cannot be read.
        """
        chosen: dict[str, Any] = {"session": session, "user": user, "agent": agent}
        chosen |= {"target": target, "since": since, "until": until, "table": table}
        if isinstance(case, Case):
            source = recorded_in(case, chosen)
        else:
            source = source_of(case, table=table or "")
        self._asked = MaskingQuestions(source, rules, against)
        super().__init__(self._asked)

    @property
    def rules(self) -> str:
        """The rules that are shown, as TOML."""
        return self._asked.text

    @property
    def preview(self) -> Preview:
        """What they hide."""
        return self._asked.preview

    @property
    def difference(self) -> Difference:
        """What they, b, do otherwise than `against`, or than the first ones, a."""
        return self._asked.differs()

    def still(self) -> str:
        """Return the preview as HTML: counts, and what would be recorded instead."""
        return still(self.preview)


class MaskingQuestions(Questions):
    """What a page asks about the effect of rules on one source; it is read once if it is small."""

    def __init__(self, source: Source, rules: Any, against: Any = None) -> None:
        self._source = _held(source)
        self._now = rules_of(rules)
        self.text = _text_of(rules, self._now)
        self._before = self._now if against is None else rules_of(against)
        self._before_text = self.text if against is None else _text_of(against, self._before)
        self._working = threading.Lock()
        self.preview = preview(self._now, self._source)
        self._difference: Difference | None = None

    def differs(self) -> Difference:
        """Return what the rules, b, do otherwise than those that it began with, a."""
        with self._working:
            if self._difference is None:
                self._difference = compare(self._before, self._now, self._source)
            return self._difference

    @question
    def open(self) -> Data:
        return self._summary() | {
            "text": self.text,
            "before_text": self._before_text,
            "source": self.preview.source,
            "is_recorded": self._source.is_recorded,
        }

    @question
    def run(self, text: Any) -> Data:
        if not isinstance(text, str) or len(text) > MAX_TEXT_BYTES:
            raise QuestionError("rules: a text of at most 1 MiB expected")
        with self._working:
            now = parse(text)
            found = preview(now, self._source)
            self._now, self.text, self.preview, self._difference = now, text, found, None
        return self._summary()

    def _summary(self) -> Data:
        found = self.preview
        return {
            "values": found.values,
            "hidden": found.hidden,
            "kept": len(found.hits),
            "rules": _counted(found.counts.by_rule),
            "detectors": _counted(found.counts.by_detector),
            "columns": [
                {
                    "name": each.column,
                    "values": each.values,
                    "nulls": each.nulls,
                    "hidden": each.hidden,
                    "masked": each.masked,
                    "places": sum(each.by_rule.values()),
                    "rules": list(each.by_rule),
                }
                for each in found.columns
            ],
            "candidates": len(found.candidates),
            "uncovered": len(found.uncovered),
            "masked": [
                {"column": each.column, "name": each.name, "values": each.values}
                for each in found.already_masked
            ],
            "notes": list(found.notes),
        }

    @question
    def hits(
        self, offset: int, limit: int, rule: str = "", column: str = "", detector: str = ""
    ) -> Data:
        found = [
            hit
            for hit in self.preview.hits
            if (not rule or hit.rule == rule)
            and (not column or hit.column == column)
            and (not detector or hit.detector == detector)
        ]
        return _page(found, offset, limit, _hit)

    @question
    def candidates(self, offset: int, limit: int) -> Data:
        return _page(self.preview.candidates, offset, limit, _candidate)

    @question
    def uncovered(self, offset: int, limit: int) -> Data:
        return _page(
            self.preview.uncovered,
            offset,
            limit,
            lambda each: {
                "column": each.column,
                "detector": each.detector,
                "kind": each.kind,
                "share": each.share,
                "values": each.values,
                "examples": list(each.examples),
                "reason": each.reason,
                "rule": _rule_for(each),
            },
        )

    @question
    def difference(self, part: str, offset: int, limit: int) -> Data:
        found = self.differs()
        counts = {
            "only_a": found.count_a,
            "only_b": found.count_b,
            "otherwise": found.count_otherwise,
            "same": found.same,
        }
        page: dict[str, Any]
        if part == "otherwise":
            page = _page(
                found.otherwise,
                offset,
                limit,
                lambda pair: {"a": _hit(pair[0]), "b": _hit(pair[1])},
            )
        else:
            hits = {"only_a": found.only_a, "only_b": found.only_b}.get(part, ())
            page = _page(hits, offset, limit, _hit)
        return page | {"counts": counts}


def _counted(counts: Any) -> list[dict[str, Any]]:
    return [{"name": name, "count": count} for name, count in counts.items()]


def _page(
    rows: Sequence[Any], offset: int, limit: int, shown: Callable[[Any], dict[str, Any]]
) -> Data:
    first = max(0, int(offset))
    page = rows[first : first + max(0, min(int(limit), _MAX_PAGE))]
    return {"offset": first, "total": len(rows), "rows": [shown(each) for each in page]}


def _hit(hit: Hit) -> Data:
    return {
        "place": hit.place,
        "column": hit.column,
        "rule": hit.rule,
        "detector": hit.detector,
        "how": hit.how,
        "before": [
            hit.before[: hit.start],
            hit.before[hit.start : hit.stop],
            hit.before[hit.stop :],
        ],
        "after": [
            hit.after[: hit.after_start],
            hit.after[hit.after_start : hit.after_stop],
            hit.after[hit.after_stop :],
        ],
        "is_dropped": hit.is_dropped,
        "doubts": list(hit.doubts),
    }


def _candidate(candidate: Candidate) -> Data:
    return {
        "column": candidate.column,
        "detector": candidate.detector,
        "rule": candidate.rule,
        "count": candidate.count,
        "reason": candidate.reason,
        "examples": [_hit(each) for each in candidate.examples],
    }


def _rule_for(uncovered: Uncovered) -> str:
    """Return a mask, as TOML, that would cover it: the whole column, or what is found in it."""
    table, _, column = uncovered.column.rpartition(".")
    found: dict[str, Any] = {"name": f"cover {uncovered.column.strip('()')}"}
    if uncovered.detector and (uncovered.column.startswith("(") or not uncovered.is_whole):
        found["name"] += f", {uncovered.detector}"
        found["detect"] = [uncovered.detector]
    else:
        is_one = table and "+" not in table
        found["columns"] = [f"*.{table}.{column}" if is_one else column or uncovered.column]
    return written([found | {"action": "redact"}])


def _text_of(rules: Any, chosen: RuleSet) -> str:
    """Return the rules to be edited: the text that was given, or what makes the same masks."""
    if isinstance(rules, str) and "\n" in rules:
        return rules
    if isinstance(rules, str | PathLike) and "[[" not in str(rules):
        return f"# of {Path(fspath(rules)).name}\n{written(chosen.documents)}"
    return written(chosen.documents)


def _held(source: Source) -> Source:
    """Return `source` so that it is read once, where it is small enough to be held."""
    held: list[Batch] = []
    told: list[str] = []
    is_whole = False

    def batches(notes: list[str]) -> Iterator[Batch]:
        nonlocal is_whole
        if is_whole:
            notes.extend(told)
            yield from held
            return
        held.clear()
        told.clear()
        size = 0
        for batch in source.batches(told):
            size += sum(len(value) for value in batch.values if value is not None)
            if size <= MAX_HELD_CHARACTERS:
                held.append(batch)
            yield batch
        notes.extend(told)
        if size <= MAX_HELD_CHARACTERS:
            is_whole = True
        else:
            held.clear()

    return Source(source.name, batches, is_recorded=source.is_recorded)


# --- the still picture


def still(found: Preview) -> str:
    """Return the preview as HTML without scripts: counts, and what would be recorded instead.

    It is saved with the notebook, so it has no value that a rule hides.
    """
    parts = [
        f"<style>{style()}</style>",
        beginning("Masking preview"),
        f"<h4>{found.hidden:,} places would be hidden</h4>",
        f"<p>in {found.values:,} values of {escaped(found.source)}</p>",
        grid(("rule", "places"), ((n, f"{c:,}") for n, c in found.counts.by_rule.items())),
        grid(
            ("column", "values", "hidden", "masked before"),
            (
                (each.column, f"{each.values:,}", f"{each.hidden:,}", f"{each.masked:,}")
                for each in found.columns[:_STILL_ROWS]
            ),
        ),
    ]
    if found.hits:
        after = ((hit.place, hit.after or "NULL", hit.rule) for hit in found.hits[:_STILL_ROWS])
        parts.append(grid(("where", "as it would be recorded", "rule"), after))
    if found.candidates:
        rows = ((c.column, c.detector, f"{c.count:,}", c.reason) for c in found.candidates)
        parts.append(grid(("perhaps hidden wrongly in", "detector", "places", "why"), rows))
    if found.uncovered:
        rows = (
            (u.column, u.detector or u.kind, f"{100 * u.share:.0f} %", ", ".join(u.examples))
            for u in found.uncovered
        )
        parts.append(grid(("not covered", "looks like", "share", "in part"), rows))
    parts += [f"<p>{escaped(note)}</p>" for note in found.notes]
    parts.append("<p>A still picture. With a kernel, rules can be tried here.</p></section>")
    return "".join(parts)
