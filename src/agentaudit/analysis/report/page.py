"""The report as one HTML file: complete without scripts, without a network, on paper as on screen.

Nothing of what was recorded is markup: the templates escape all they are given. The content
security policy allows this one style sheet by its hash and nothing else. The single place for a
script is the `script` of `render`: its hash is added to the policy, and it finds sessions by
`data-session` and commands by `data-command`; without one, no script may run at all.
"""

from __future__ import annotations

import base64
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final

import jinja2
from markupsafe import Markup

from agentaudit.analysis.report.facts import Facts

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


def render(facts: Facts, *, script: str = "") -> bytes:
    """Return the report as HTML, UTF-8.

    `script` is ours and never of the archive: it is put in as it is, and must not have `</script`.

    Raises:
        ValueError: it has.
    """
    if "</script" in script.lower():
        raise ValueError("a script that ends its own element")
    style = text_of("report.css")
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
