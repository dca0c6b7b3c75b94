"""The report as one HTML file: complete without scripts, without a network, on paper as on screen.

Nothing of what was recorded is markup: the templates escape all they are given. The content
security policy allows this one style sheet by its hash, and with a player one script by its hash,
which plays sessions from the files that the page carries; nothing else, so it can ask no network.
Without a player no script may run at all.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final

import jinja2
from markupsafe import Markup

from agentaudit.analysis.report.facts import Facts
from agentaudit.errors import QuestionError

SECTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("summary", "Summary"),
    ("scope", "Scope and population"),
    ("sessions", "Sessions"),
    ("approvals", "Approvals and access"),
    ("masking", "Masking and rules in force"),
    ("retention", "Retention, legal holds and purges"),
    ("integrity", "Integrity"),
    ("exceptions", "Exceptions"),
    ("unrecorded", "What was not recorded"),
    ("annotations", "Notes of the investigation"),
    ("check", "Check it without us"),
    ("manifest", "Manifest"),
)
"""Name and title of each part, numbered in this order; both forms of the report have them."""


def sections(facts: Facts) -> list[tuple[str, str]]:
    """Return name and numbered title of each part that this report has."""
    there = [
        (name, title) for name, title in SECTIONS if facts.has_annotations or name != "annotations"
    ]
    return [(name, f"{number}  {title}") for number, (name, title) in enumerate(there, 1)]


# What ends an element of raw text, and what lets a script go on behind its end (HTML 13.2.5.17).
_ENDS: Final = re.compile(r"</(?:script|style)|<!--", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """What plays sessions in the page: ours and never of the archive, it is put in as it is.

    The script finds sessions by `data-replay`, which names a carried file; that is at `data-file`.
    """

    script: str
    style: str = ""

    def __post_init__(self) -> None:
        """Refuse what would end its own element.

        Raises:
            ValueError: it would.
        """
        if _ENDS.search(self.script) or _ENDS.search(self.style):
            raise ValueError("a script or style that ends its own element")


def player() -> Player:
    """Return the player, as it was bundled from `extension/report`.

    Raises:
        QuestionError: it was not.
    """
    folder = resources.files(__package__) / "static"
    try:
        return Player(
            script=(folder / "player.js").read_text("utf-8"),
            style=(folder / "player.css").read_text("utf-8"),
        )
    except FileNotFoundError:
        raise QuestionError(
            "report: the front end is not built, which plays sessions in it",
            hint="make front, in the checkout; or leave the replays out",
        ) from None


def render(facts: Facts, *, player: Player | None = None) -> bytes:
    """Return the report as HTML, UTF-8."""
    style = text_of("report.css") + ("" if player is None else player.style)
    script = "" if player is None else player.script
    rules = ["default-src 'none'", f"style-src '{_source(style)}'"]
    if script:
        rules.append(f"script-src '{_source(script)}'")
    rules += ["base-uri 'none'", "form-action 'none'"]
    titles = dict(sections(facts))
    program = next((each.data.decode() for each in facts.blobs if each.name == "check.py"), "")
    html = (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            style=Markup(style),
            script=Markup(script),
            script_sha256=sha256(script.encode("utf-8")).hexdigest(),
            policy="; ".join(rules),
            sections=sections(facts),
            heading=titles.__getitem__,
            program=program,
        )
    )
    return html.encode("utf-8")


def text_of(name: str) -> str:
    """Return a file of the folder `templates`."""
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")


def moment(at: datetime) -> str:
    """Return a time as people compare it, to the millisecond."""
    return f"{at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _source(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")


def _base64(data: bytes) -> str:
    """Return base64 in lines of 76 characters, as RFC 2045 has it."""
    return base64.encodebytes(data).decode("ascii")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text_of),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "iso": _iso, "base64": _base64}
    return environment
