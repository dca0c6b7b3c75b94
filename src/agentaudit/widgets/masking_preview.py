"""What masks would hide, in a notebook: before and after, side by side, while rules are written.

The kernel keeps the data and reads the rules; the browser sends the text of rules and asks for
pages of lists by name, in messages that carry a number, and each answer carries the same number.
Rules that a page sends open no file and run no command, so they name no key. Nothing recorded is a
synced trait, because traits are saved into the notebook.

Values are those of the archive. Where a rule hid one when it was recorded, a mark is all there is,
and the page says so. The picture for readers without a kernel has no value that a rule would hide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import anywidget
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
from agentaudit.analysis.printable import printable
from agentaudit.errors import AgentauditError, QuestionError

STATIC = Path(__file__).parent / "static"

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

Answer = tuple[dict[str, Any], list[bytes]]


class MaskingPreview(anywidget.AnyWidget):
    """Shows what `rules` would hide in a case, a text, a file or a table; rules can be edited.

    In a notebook::

        masks = MaskingPreview(case, "agentaudit.toml", target="orders")
        masks                                    # draws it
        masks.rules                              # as they are now, to be pasted
        masks.preview.pl()                       # of what is shown

    The tab with the difference shows what the rules do otherwise than `against`, or than those that
    it began with.
    """

    _esm = STATIC / "masking_preview.js"
    _css = STATIC / "masking_preview.css"

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
            self._source = _held(recorded_in(case, chosen))
        else:
            self._source = _held(source_of(case, table=table or ""))
        self._now = rules_of(rules)
        self._text = _text_of(rules, self._now)
        self._before = self._now if against is None else rules_of(against)
        self._before_text = self._text if against is None else _text_of(against, self._before)
        self._working = threading.Lock()
        self._preview = preview(self._now, self._source)
        self._difference: Difference | None = None
        super().__init__()
        self.on_msg(self._receive)

    @property
    def rules(self) -> str:
        """The rules that are shown, as TOML."""
        return self._text

    @property
    def preview(self) -> Preview:
        """What they hide."""
        return self._preview

    @property
    def difference(self) -> Difference:
        """What they, b, do otherwise than `against`, or than the first ones, a."""
        with self._working:
            if self._difference is None:
                self._difference = compare(self._before, self._now, self._source)
            return self._difference

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = still(self._preview)
        return bundle

    def _receive(self, widget: object, message: Any, buffers: object) -> None:
        """Answer one question of the page; always, or it would wait for ever."""
        if not isinstance(message, dict) or message.get("v") != 1:
            return
        answer: dict[str, Any] = {"v": 1, "id": message.get("id")}
        try:
            question = _QUESTIONS.get(message.get("op"))  # type: ignore[arg-type]
            if question is None:
                raise QuestionError("the page asks what this kernel does not know; reload it")
            answer |= {"ok": True, "data": question(self, **(message.get("args") or {}))}
        except AgentauditError as error:
            answer |= {"ok": False, "error": str(error), "hint": error.hint}
        except Exception as error:
            answer |= {"ok": False, "error": f"the kernel failed: {type(error).__name__}"}
            self.send(answer)
            raise
        self.send(answer)

    def _open(self) -> dict[str, Any]:
        return self._summary() | {
            "text": self._text,
            "before_text": self._before_text,
            "source": self._preview.source,
            "is_recorded": self._source.is_recorded,
        }

    def _run(self, text: Any) -> dict[str, Any]:
        if not isinstance(text, str) or len(text) > MAX_TEXT_BYTES:
            raise QuestionError("rules: a text of at most 1 MiB expected")
        with self._working:
            now = parse(text)
            found = preview(now, self._source)
            self._now, self._text, self._preview, self._difference = now, text, found, None
        return self._summary()

    def _summary(self) -> dict[str, Any]:
        found = self._preview
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

    def _hits(
        self, offset: int, limit: int, rule: str = "", column: str = "", detector: str = ""
    ) -> dict[str, Any]:
        found = [
            hit
            for hit in self._preview.hits
            if (not rule or hit.rule == rule)
            and (not column or hit.column == column)
            and (not detector or hit.detector == detector)
        ]
        return _page(found, offset, limit, _hit)

    def _candidates(self, offset: int, limit: int) -> dict[str, Any]:
        return _page(self._preview.candidates, offset, limit, _candidate)

    def _uncovered(self, offset: int, limit: int) -> dict[str, Any]:
        return _page(
            self._preview.uncovered,
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

    def _differing(self, part: str, offset: int, limit: int) -> dict[str, Any]:
        found = self.difference
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


_QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "open": MaskingPreview._open,
    "run": MaskingPreview._run,
    "hits": MaskingPreview._hits,
    "candidates": MaskingPreview._candidates,
    "uncovered": MaskingPreview._uncovered,
    "difference": MaskingPreview._differing,
}


def _counted(counts: Any) -> list[dict[str, Any]]:
    return [{"name": name, "count": count} for name, count in counts.items()]


def _page(
    rows: Sequence[Any], offset: int, limit: int, shown: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    first = max(0, int(offset))
    page = rows[first : first + max(0, min(int(limit), _MAX_PAGE))]
    return {"offset": first, "total": len(rows), "rows": [shown(each) for each in page]}


def _hit(hit: Hit) -> dict[str, Any]:
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


def _parts(text: str, start: int, stop: int) -> list[str]:
    return [text[:start], text[start:stop], text[stop:]]


def _pair(pair: tuple[Hit, Hit]) -> dict[str, Any]:
    a, b = pair
    return {"a": _hit(a), "b": _hit(b)}


def _candidate(candidate: Candidate) -> dict[str, Any]:
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
        f"<style>{(STATIC / 'masking_preview.css').read_text('utf-8')}</style>",
        '<section class="aa-masks-static" aria-label="Masking preview">',
        f"<h4>{found.hidden:,} places would be hidden</h4>",
        f"<p>in {found.values:,} values of {_e(found.source)}</p>",
        _grid(("rule", "places"), ((n, f"{c:,}") for n, c in found.counts.by_rule.items())),
        _grid(
            ("column", "values", "hidden", "masked before"),
            (
                (each.column, f"{each.values:,}", f"{each.hidden:,}", f"{each.masked:,}")
                for each in found.columns[:_STILL_ROWS]
            ),
        ),
    ]
    if found.hits:
        after = ((hit.place, hit.after or "NULL", hit.rule) for hit in found.hits[:_STILL_ROWS])
        parts.append(_grid(("where", "as it would be recorded", "rule"), after))
    if found.candidates:
        rows = ((c.column, c.detector, f"{c.count:,}", c.reason) for c in found.candidates)
        parts.append(_grid(("perhaps hidden wrongly in", "detector", "places", "why"), rows))
    if found.uncovered:
        rows = (
            (u.column, u.detector or u.kind, f"{100 * u.share:.0f} %", ", ".join(u.examples))
            for u in found.uncovered
        )
        parts.append(_grid(("not covered", "looks like", "share", "in part"), rows))
    parts += [f"<p>{_e(note)}</p>" for note in found.notes]
    parts.append("<p>A still picture. With a kernel, rules can be tried here.</p></section>")
    return "".join(parts)


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_e(each)}</th>" for each in headings)
    body = "".join(f"<tr>{''.join(f'<td>{_e(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="aa-scroller"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _e(text: str) -> str:
    return escape(printable(text))
