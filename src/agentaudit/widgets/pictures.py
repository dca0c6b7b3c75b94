"""What still pictures of widgets are made of: HTML without scripts, recorded text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agentaudit.analysis.printable import printable


def escaped(text: str) -> str:
    """Return recorded text for HTML, with what a browser would obey written out."""
    return escape(printable(text))


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, each escaped; a row has as many cells as there are headings."""
    head = "".join(f"<th>{escaped(each)}</th>" for each in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="aa-scroller"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
