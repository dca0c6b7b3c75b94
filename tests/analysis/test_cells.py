"""Cells are shown as psql shows them."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from agentaudit.analysis import cells


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ("", ""),
        (True, "t"),
        (7, "7"),
        (Decimal("1234.50"), "1234.50"),
        (b"\x00\xff", "\\x00ff"),
        (date(2026, 11, 3), "2026-11-03"),
        (datetime(2026, 11, 3, 10, 0, 0, 500, tzinfo=UTC), "2026-11-03 10:00:00.000500+00:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        # The expected texts are PostgreSQL's own: select array['a b', null, '', 'x"y', 'null']
        (["a b", None, "", 'x"y', "null"], '{"a b",NULL,"","x\\"y","null"}'),
        ([1, 2], "{1,2}"),
    ],
)
def test_a_value_is_shown_as_postgresql_writes_it(value: Any, shown: str | None) -> None:
    assert cells.text(value) == shown


def test_rows_are_texts_even_where_columns_share_a_name() -> None:
    table = pa.table([pa.array([1, None]), pa.array(["x", "y"])], names=["a", "a"])
    assert cells.texts(table) == [["1", "x"], [None, "y"]]
