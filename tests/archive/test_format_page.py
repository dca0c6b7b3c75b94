"""The format's page says of every column what the files are."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from agentaudit.archive.segment import SCHEMAS

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "archive.md"
NAMES = {
    pa.timestamp("us", tz="UTC"): "time",
    pa.uuid(): "uuid",
    pa.dictionary(pa.int32(), pa.string()): "name",
    pa.binary(32): "fixed[32]",
    pa.binary(16): "fixed[16]",
    pa.map_(pa.string(), pa.string()): "map<string, string>",
    pa.list_(pa.string()): "list<string>",
}


def told(table: str) -> list[tuple[str, str]]:
    """Return (column, type) as the page has them."""
    section = PAGE.read_text().partition(f"\n### `{table}`")[2].partition("\n##")[0]
    return re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M)


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_is_told_with_its_type_and_in_its_place(table: str) -> None:
    expected = [
        (field.name, NAMES.get(field.type) or str(field.type).replace("item: ", ""))
        for field in SCHEMAS[table]
    ]
    found = [(name, kind.replace("list<element: ", "list<")) for name, kind in told(table)]
    assert found == [(name, kind.replace("list<element: ", "list<")) for name, kind in expected]
