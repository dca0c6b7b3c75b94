"""What must hold of every bundle, whatever it is made of: it loads nothing, and obeys no text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentaudit import widgets
from agentaudit.analysis.report import page
from agentaudit.widgets.view import STATIC, View

ENTRIES = Path(__file__).resolve().parents[2] / "extension/widgets/src/entry"
PLAYER = Path(page.__file__).parent / "static"
MAX_BYTES = 200 * 1024

LOADS = {
    "import": r"(?<!@)\bimport\s*(?:[({*\"'`]|\w+\s*(?:,|from\b))"
    r"|\bexport\s*[*{][^;\"']*\bfrom\s*[\"']",
    "@import": r"@import\b",
    "url(": r"\burl\(",
    "a host": r"https?://(?!www\.w3\.org/2000/svg\b)|[\"'`(]//\w",
    "a network for files": r"\b(?:cdn|unpkg|jsdelivr|esm\.sh)\b",
    # `x.fetch(` and a method of that name are something else.
    "the network": r"(?<![.\w])fetch\((?![^()]*\)\s*\{)|\b(?:XMLHttpRequest|WebSocket|EventSource"
    r"|sendBeacon|importScripts)\b|new\s+(?:Shared)?Worker\b",
}
OBEYS = {
    "text as elements": r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|setHTML\w*|srcdoc|DOMParser"
    r"|createContextualFragment)\b|document\.write",
    "text as a script": r"\beval\(|new Function\b|set(?:Timeout|Interval)\(\s*[\"'`]",
}


def bundles(*folders: Path) -> list[Path]:
    """Return what is bundled: of widgets, and what plays sessions in a report."""
    found = []
    for folder in folders or (STATIC, PLAYER):
        there = sorted(path for path in folder.iterdir() if path.suffix in {".js", ".css"})
        assert there, "make front"
        found += there
    return found


def found_in(text: str, patterns: dict[str, str]) -> list[str]:
    """Return what of `patterns` is in `text`, each with the place."""
    return [
        f"{name}: {text[max(0, hit.start() - 40) : hit.end() + 40]}"
        for name, pattern in patterns.items()
        for hit in re.finditer(pattern, text)
    ]


def test_a_bundle_loads_nothing_and_names_no_host() -> None:
    wrong = {path.name: found_in(path.read_text("utf-8"), LOADS) for path in bundles()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_bundle_makes_no_text_an_element_or_a_script() -> None:
    wrong = {path.name: found_in(path.read_text("utf-8"), OBEYS) for path in bundles()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_bundle_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in bundles()}
    assert {name: size for name, size in sizes.items() if not 100 < size <= MAX_BYTES} == {}


def test_every_widget_has_its_bundles_and_there_are_no_others() -> None:
    views = [getattr(widgets, name) for name in widgets.__all__]
    drawn = {view._esm for view in views if issubclass(view, View)}
    built = {path.name: path.read_text("utf-8") for path in bundles(STATIC) if path.suffix == ".js"}
    assert set(built.values()) == drawn
    assert set(built) == {f"{path.stem}.js" for path in ENTRIES.glob("*.ts")}


def test_what_plays_in_a_report_can_stand_in_a_page() -> None:
    assert [path.name for path in bundles(PLAYER)] == ["player.css", "player.js"]
    player = page.player()
    assert player.script.isascii()
    # A module's words mean nothing there.
    assert not re.search(r"\bexport\s*[{*]", player.script)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('import{a}from"b"', "import"),
        ('import"b"', "import"),
        ('const a=await import("b")', "import"),
        ('import a from"b"', "import"),
        ('export{a}from"b"', "import"),
        ('@import "a.css"', "@import"),
        ("a{background:url(b.png)}", "url("),
        ('x="https://example.org/a"', "a host"),
        ('x="//example.org/a"', "a host"),
        ("unpkg", "a network for files"),
        ("await fetch(a)", "the network"),
        ("new WebSocket(a)", "the network"),
    ],
)
def test_what_would_load_something_is_found(text: str, name: str) -> None:
    assert [each.split(":")[0] for each in found_in(text, LOADS)] == [name]


@pytest.mark.parametrize(
    "text",
    [
        'document.createElementNS("http://www.w3.org/2000/svg","svg")',
        "export{a as default}",
        "code('import agentaudit as aa')",
        "options.fetch(0,100)",
        "({fetch(a,b){return 1}})",
        "// a comment",
        "a//b",
    ],
)
def test_what_loads_nothing_is_let_be(text: str) -> None:
    assert found_in(text, LOADS) == []
