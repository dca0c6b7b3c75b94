"""The text of a `.tlog-proof` file, against the example of c2sp.org/tlog-proof and its grammar."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.proof import Proof
from agentaudit.errors import ArchiveError

# The hashes and the layout of the specification's example; its checkpoint is abridged there.
EXAMPLE = b"""c2sp.org/tlog-proof@v1
extra YWdl
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

\xe2\x80\x94 example.com/fancylog AAAA
"""


def test_the_example_of_the_specification_is_read_and_written_as_it_stands() -> None:
    proof = Proof.parse(EXAMPLE)
    assert proof.index == 73894
    assert proof.extra == b"age"
    assert [base64.b64encode(value).decode()[:6] for value in proof.hashes] == ["gSKyXo", "B95lDa"]
    assert proof.note.startswith(b"example.com/fancylog\n109482\n")
    assert proof.encode() == EXAMPLE


@given(
    st.builds(
        Proof,
        st.integers(0, 2**60),
        st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
        st.binary(max_size=99),
        st.none() | st.binary(max_size=99),
    )
)
def test_what_is_written_is_read_back(proof: Proof) -> None:
    assert Proof.parse(proof.encode()) == proof


@pytest.mark.parametrize(
    ("seen", "put"),
    [
        (b"@v1", b"@v2"),
        (b"index 73894", b"index 073894"),
        (b"index 73894", b"index -1"),
        (b"index 73894\n", b""),
        (b"extra YWdl", b"extra YWdl="),
        (b"extra YWdl", b"extra YWdm\nextra YWdl"),
        (b"PlQ=", b"PlR="),
        (b"gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=", b"gSKy"),
        (b"gSKy", b"gSK\xe9"),
        (b"gSKy", b" gSK"),
        (b"\nindex", b"\n\nindex"),
        (b"XmA=\n\n", b"XmA=\n"),
        (
            b"index 73894\n",
            b"index 73894\n" + b"gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n" * 62,
        ),
        (b"AAAA", b"A" * 1_000_000),
    ],
)
def test_what_is_not_the_only_form_is_refused(seen: bytes, put: bytes) -> None:
    assert seen in EXAMPLE
    data = EXAMPLE.replace(seen, put, 1)
    if seen == b"XmA=\n\n":
        data = data.partition(b"\n\n")[0]
    with pytest.raises(ArchiveError):
        Proof.parse(data)
