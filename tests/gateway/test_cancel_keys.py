"""Cancel keys say whose they are, and are known by the whole of them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.gateway.cancelling import CancelKeys, CancelRoute
from agentaudit.protocols.postgres_messages import PROTOCOL_3_0, PROTOCOL_3_2


def route(pid: int) -> CancelRoute:
    nowhere = cast("Any", None)
    return CancelRoute(access=nowhere, pid=pid, secret=b"theirs", session=nowhere)


@given(
    workers=st.integers(1, 64),
    data=st.data(),
    version=st.sampled_from([(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32)]),
)
def test_a_key_is_of_the_worker_that_made_it(
    workers: int, data: Any, version: tuple[int, int]
) -> None:
    own = data.draw(st.integers(0, workers - 1))
    secret = CancelKeys(own, workers).add(route(7), version[0])
    assert len(secret) == version[1]
    assert {CancelKeys(other, workers).owner(secret) for other in range(workers)} == {own}


def test_a_key_is_known_by_process_id_and_secret_until_it_is_forgotten() -> None:
    keys = CancelKeys()
    one, other = route(7), route(7)  # two servers, one process id
    ones = keys.add(one, PROTOCOL_3_0)
    others = keys.add(other, PROTOCOL_3_2)

    assert keys.find(7, ones) is one
    assert keys.find(7, others) is other
    assert keys.find(7, others[:-1] + bytes([others[-1] ^ 1])) is None
    assert keys.find(7, b"") is None
    assert keys.find(8, ones) is None

    keys.remove(7, ones)
    keys.remove(7, ones)
    assert keys.find(7, ones) is None
    assert keys.find(7, others) is other


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_is_another_workers_is_passed_on_and_its_word_counts(is_known: bool) -> None:
    asked = []

    async def pass_on(*request: Any) -> bool:
        asked.append(request)
        return is_known

    keys = CancelKeys(1, 3, pass_on)
    theirs = CancelKeys(2, 3).add(route(7), PROTOCOL_3_0)

    assert await keys.pass_on(7, theirs, "192.0.2.7:4711") is is_known
    assert asked == [(2, 7, theirs, "192.0.2.7:4711")]


async def test_what_would_be_a_workers_own_goes_to_nobody() -> None:
    async def pass_on(*request: Any) -> bool:
        raise AssertionError(request)

    keys = CancelKeys(1, 3, pass_on)
    assert not await keys.pass_on(7, keys.add(route(7), PROTOCOL_3_0), "192.0.2.7:4711")
    assert not await CancelKeys().pass_on(7, b"aaaa", "192.0.2.7:4711")
