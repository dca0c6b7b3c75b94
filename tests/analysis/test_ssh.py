"""Lines of what SSH commands said, whatever the pieces in which it came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentaudit.analysis import ssh
from agentaudit.model import Side


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))),
    ends=st.sampled_from(["\n", "\r\n"]),
    has_last=st.booleans(),
    cuts=st.lists(st.integers(1, 20)),
    limit=st.integers(0, 5),
)
def test_lines_are_the_same_however_they_are_cut(
    lines: list[str], ends: str, has_last: bool, cuts: list[int], limit: int
) -> None:
    said = "".join(line + ends for line in lines)
    if has_last:
        said, lines = said + "last", [*lines, "last"]
    raw = said.encode()
    pieces = []
    for cut in cuts:
        pieces.append(raw[:cut])
        raw = raw[cut:]
    traffic = [(Side.TARGET, piece, 0, 3) for piece in [*pieces, raw]]
    other = [(Side.CLIENT, b"typed\n", 0, 3), (Side.TARGET, b"of another\n", 0, 4)]
    whole = ssh.output_table([*other, *traffic], 3, None)
    assert whole.to_pydict() == ({"output": lines} if lines else {})
    some = dict(ssh.output_tables([*traffic, *other], {3}, limit))
    assert {n: t.column(0).to_pylist() for n, t in some.items()} == (
        {3: lines[:limit]} if lines[:limit] else {}
    )


def test_a_line_without_an_end_is_several_rows_and_a_long_output_several_batches() -> None:
    long = [(Side.TARGET, b"x" * 30_000, 0, 0)] * 3
    rows = ssh.output_table(long, 0, None).column(0).to_pylist()
    assert "".join(rows) == "x" * 90_000
    assert max(map(len, rows)) == ssh.MAX_LINE_BYTES
    many = [(Side.TARGET, b"y\n" * 50_000, 0, 0)]
    assert [batch.num_rows for batch in ssh.output_batches(many, 0)] == [8192] * 6 + [848]
