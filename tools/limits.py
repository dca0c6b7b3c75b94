"""Writes the drill's list of attacks into docs/limits.md, between its two marks.

The list in the code is the one that is played; a test holds the page against it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agentaudit.archive.drill import ATTACKS, Answer

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
BEGIN = "<!-- the drill's list: python -m tools.limits -->\n"
END = "<!-- end of the drill's list -->\n"


def table() -> Iterator[str]:
    """Yield the lines of the table, and of the reasons behind it."""
    yield "| attack | the attacker has | and | auditor with keys | and a checkpoint |"
    yield "|---|---|---|---|---|"
    for attack in ATTACKS:
        cells = (f"`{attack.name}`", attack.power, attack.does, attack.without, attack.anchored)
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "Why what is missed is missed:"
    yield ""
    for attack in ATTACKS:
        if attack.why:
            both = " with a checkpoint as well" if attack.anchored is not Answer.CAUGHT else ""
            yield f"- `{attack.name}`{both}: {attack.why}."


def page(text: str) -> str:
    """Return `text`, a page with the marks, with the list as it is now."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n" + "\n".join(table()) + "\n\n" + END + after


def main() -> int:
    """Write the page; return 0."""
    PAGE.write_text(page(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
