"""The report on paper: PDF/A-2b by Typst, from the same facts as the HTML.

Only the fonts that come with Typst are used, so the same facts are the same bytes on every
machine; what those fonts cannot show is written out, because PDF/A forbids a glyph that is not
there. Its date is that of the archive's state.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from datetime import UTC
from pathlib import Path
from typing import Final

import typst

from agentaudit.analysis.report.facts import Facts, to_json
from agentaudit.analysis.report.page import sections, text_of

MAX_COLUMNS: Final = 8
"""Of a result, side by side on a page."""

# Both fonts, Libertinus Serif and DejaVu Sans Mono, have all that is assigned in these.
_SHOWN: Final = (
    (0x20, 0x7E),
    (0xA0, 0x17F),
    (0x391, 0x3A1),
    (0x3A3, 0x3C9),
    (0x410, 0x44F),
    (0x2010, 0x2015),
    (0x2018, 0x201E),
    (0x2026, 0x2026),
    (0x2039, 0x203A),
    (0x20AC, 0x20AC),
    (0x2190, 0x2193),
)
_HIDDEN: Final = re.compile(
    "[^\n\t" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _SHOWN) + "]"
)


def render(facts: Facts, html: str = "") -> bytes:
    """Return the report as PDF/A-2b; `html` is the SHA-256 of the HTML that it belongs to."""
    told = {
        "titles": dict(sections(facts)),
        "html": html,
        "columns": MAX_COLUMNS,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "report.typ").write_text(text_of("report.typ"), "utf-8")
        (root / "facts.json").write_text(_shown(to_json(facts).decode("ascii")), "utf-8")
        (root / "paper.json").write_text(json.dumps(told), "utf-8")
        made: bytes = typst.compile(
            root / "report.typ",
            root=root,
            format="pdf",
            pdf_standards=["a-2b"],
            ignore_system_fonts=True,
            timestamp=int(facts.as_of.astimezone(UTC).timestamp()),
        )
    return made


def _shown(facts: str) -> str:
    """Return the facts, as JSON, with every text in characters that the fonts have."""
    return json.dumps(_each(json.loads(facts)), ensure_ascii=False)


def _each(value: object) -> object:
    if isinstance(value, str):
        return paged(value)
    if isinstance(value, list):
        return [_each(item) for item in value]
    if isinstance(value, dict):
        return {name: _each(item) for name, item in value.items()}
    return value


def paged(text: str) -> str:
    r"""Return `text` with each character that no font of the paper has written as its number.

    >>> paged("a é 日"), paged("e\u0301")
    ('a é \\u{65e5}', 'é')
    """
    whole = unicodedata.normalize("NFC", text)
    return _HIDDEN.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", whole)
