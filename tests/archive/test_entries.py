"""What each entry of a log must hold, before any reader looks at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive.entries import MEMBERS, check_entry
from agentaudit.errors import ArchiveError
from tests.archive.recording import Site, ticked

UUID = "018bcfe5-6800-7def-8123-456789abcdef"
WRONG: list[Any] = [None, True, -1, 1.5, "x", [], {}, "G" * 64, UUID.upper(), UUID + "\n", 2**60]


def right(type_: str) -> dict[str, Any]:
    """An entry with a value for each member that its check accepts."""
    candidates: list[Any] = [
        0,
        UUID,
        "ab" * 32,
        "text",
        "sessions",
        "policy",
        {},
        {"session": UUID},
        None,
    ]
    entry: dict[str, Any] = {"type": type_, "at": 0}
    for name, check in MEMBERS[type_].items():
        entry[name] = next(value for value in candidates if check(value))
    return entry


def test_the_entries_that_the_sealer_writes_have_what_they_need(
    crash_site: Site, tmp_path: Path
) -> None:
    site = crash_site.copy_to(tmp_path / "copy")
    ticked(site)
    entries = site.log_entries()
    for number, entry in enumerate(entries):
        check_entry(number, entry)
    assert {"genesis", "start", "open_segment", "tick"} <= {entry["type"] for entry in entries}


@pytest.mark.parametrize("type_", MEMBERS)
def test_a_member_that_is_missing_or_of_another_form_is_named(type_: str) -> None:
    check_entry(0, right(type_))
    for name, check in MEMBERS[type_].items():
        without = {key: value for key, value in right(type_).items() if key != name}
        with pytest.raises(ArchiveError, match=f"log entry 7: a {type_} .* {name}"):
            check_entry(7, without)
        refused = [value for value in WRONG if not check(value)]
        assert len(refused) > 2
        for value in refused:
            with pytest.raises(ArchiveError, match=f"log entry 7: a {type_} .* {name}"):
                check_entry(7, right(type_) | {name: value})


@pytest.mark.parametrize("at", [None, -1, "now", True, 10**18])
def test_an_entry_needs_a_time(at: object) -> None:
    with pytest.raises(ArchiveError, match="not an object with a type and a time"):
        check_entry(0, right("stop") | {"at": at})


def test_an_entry_of_a_type_that_is_not_known_needs_nothing_more() -> None:
    check_entry(0, {"type": "something_new", "at": 1})


@pytest.mark.parametrize("file", [None, {}, {"path": "x", "sha256": "y", "bytes": 1, "rows": 1}])
def test_a_seal_says_of_each_file_where_it_is_and_what_it_holds(file: object) -> None:
    with pytest.raises(ArchiveError, match="well-formed files"):
        check_entry(0, right("seal") | {"files": {"events": file}})
