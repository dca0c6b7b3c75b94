"""What still pictures of widgets are made of: HTML without scripts, recorded text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from agentaudit.analysis.printable import printable


def beginning(label: str, kind: str = "") -> str:
    """Return the tag that a picture begins with; `</section>` ends it.

    Its classes keep MathJax out, of Lab and of what nbconvert writes: it would typeset what an
    agent put between two dollars, in white for one. Source: docs.mathjax.org, `ignoreHtmlClass`
    of version 3 and later, `ignoreClass` of version 2.
    """
    classes = " ".join(filter(None, ("aa-picture", kind, "mathjax_ignore", "tex2jax_ignore")))
    return f'<section class="{classes}" aria-label="{label}">'


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
