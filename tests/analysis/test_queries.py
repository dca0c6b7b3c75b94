"""Each query file says what it asks, with which parameters, and what comes back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agentaudit.analysis

QUERIES = Path(agentaudit.analysis.__file__).parent / "queries"
FILES = sorted(QUERIES.rglob("*.sql"))


def part(text: str, name: str) -> str:
    """Return one part of the header, its continuation lines joined."""
    found = re.search(rf"^-- {name}: (.+(?:\n--   .+)*)", text, re.MULTILINE)
    assert found is not None, f"no -- {name}:"
    return found[1].replace("\n--  ", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_query_file_begins_with_its_question_parameters_and_columns(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("-- question: ")
    assert part(text, "question").endswith("?")
    assert part(text, "columns")
    used = set(re.findall(r"\$([a-z_]+)", re.sub(r"--.*", "", text)))
    told = part(text, "parameters")
    assert used == {name for name in re.findall(r"[a-z_]+", told) if name in used}
    assert bool(used) == (told != "none")


def test_no_query_file_is_unused() -> None:
    source = "".join(path.read_text("utf-8") for path in QUERIES.parents[1].rglob("*.py"))
    for path in FILES:
        name = path.stem
        assert f'"{name}"' in source, name
